"""Counts: up at the end of an epoch, for what has survived it; then down, for what is not referred to any more.

Nothing is counted while a program runs. At an epoch's end, what roots hold is counted up, and what each slot refers to
now that was stored over in the epoch. An object whose count goes up from 0 has survived: it gets its bit in `LIVE`, its
slots are to be logged from now on, and what they refer to is counted up, too. Then what roots held before, and what
those slots referred to before, is counted down; what comes to 0 is dead, and counts down what it refers to. So whatever
was stored in between, and whatever died young, was never looked at.

Counting down may be left for later, and done by portions: too high a count holds an object for longer, no more. A long
array then dies by pieces, from its end: `dying` and `dying_left` of `Epochs` are the one that does, and how many of
its elements still count.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.rc_immix.bits import clear_bit, has_bit, set_bit, set_bits
from lowheap.collectors.rc_immix.space import append, forget_large, live_bits, move_all, pop
from lowheap.collectors.rc_immix.state import (
    DEAD,
    DECREMENTS,
    FOUND,
    GRANULE_SHIFT,
    GREY,
    HAS_EXTERNREFS,
    HELD,
    LINE,
    LINE_SHIFT,
    LOG,
    MARKED,
    MARKING,
    MARKS,
    MEDIUM,
    NOT_MARKING,
    OLD,
    OLD_VALUES,
    ROOM,
    SLOT_SHIFT,
    UNKNOWN,
    UNLOGGED,
    YOUNG_EXTERNREFS,
    YOUNG_LARGE,
    Epochs,
)
from lowheap.collectors.shared.externrefs import bury_externref
from lowheap.collectors.shared.references import block_length, names_object
from lowheap.collectors.shared.roots import Root, counted_roots
from lowheap.collectors.shared.sizing import count_freed
from lowheap.collectors.shared.tracing import children, masked_slots, slots_beyond, traced_slots
from lowheap.layout import EXTERNREF_TYPE_INDEX, HEADER_SIZE, KIND_ARRAY_BIT, NULL, REFERENCE_SIZE
from lowheap.native import (
    Heap,
    Ref,
    Slot,
    address_of,
    cold,
    ctz,
    inline,
    native,
    note,
    prefetch,
    record,
    sound,
    u32,
    u64,
    unlikely,
    wrapping_u32,
)

AHEAD = 8
"""How many entries ahead of the one that is looked at the next object is fetched."""

PIECE = 512
"""So many elements of a dying array are counted down at a time."""

HEADER_SLOTS = 32
"""So many slots have a bit in the header, which says that they are not logged; `UNLOGGED` has those of others."""


@record
class Tally:
    """How many objects, and the bytes of their blocks."""

    objects: u64 = 0
    size: u64 = 0


@inline
def unlogged_bits(heap: Heap) -> u64:
    """Where the bits of slots are that are yet to be logged."""
    return address_of(heap.side(UNLOGGED, 0))


@inline
def mark_bits(heap: Heap) -> u64:
    """Where the bits of what is marked are."""
    return address_of(heap.side(MARKS, 0))


# ----------------------------------------------------------------------------------------------------------------------
# Up


@inline
def count_up(heap: Heap, reference: Ref, survived: Tally) -> None:
    """One owner more; with the first, an object has survived."""
    header = heap.header(reference)
    count = header.ref_count
    header.ref_count = count + 1
    note("count of %#x up to %d", reference, count + 1)
    if count == 0:
        survive(heap, reference, survived)


@inline
def survive(heap: Heap, reference: Ref, survived: Tally) -> None:
    """Note that a young object lives on; what it refers to is yet to be counted."""
    header = heap.header(reference)
    length = block_length(header.object_size)
    set_bit(live_bits(heap), reference >> GRANULE_SHIFT)
    if unlikely(length > LINE):
        set_lines(heap, live_bits(heap), reference, length)
    if unlikely(heap.state(Epochs).marking != NOT_MARKING):
        mark_survivor(heap, reference, length)
    survived.objects += 1
    survived.size += u64(length)
    if header.type_index != EXTERNREF_TYPE_INDEX:
        append(heap, GREY, reference)


@cold
def mark_survivor(heap: Heap, reference: Ref, length: u32) -> None:
    """Mark what has survived while a trace goes on: it was not there when that began."""
    set_bit(mark_bits(heap), reference >> GRANULE_SHIFT)
    set_lines(heap, mark_bits(heap), reference, length)


@inline
def bits_of_further_lines(reference: Ref, length: u32) -> Iterator[u32]:
    """Yield the number of each bit that an object has at a line behind its first: a medium one; others have none."""
    if LINE < length <= MEDIUM:
        line = (reference >> LINE_SHIFT) + 1
        while line <= (reference + length - 1) >> LINE_SHIFT:
            yield line << (LINE_SHIFT - GRANULE_SHIFT)
            line += 1


@cold
def set_lines(heap: Heap, bits: u64, reference: Ref, length: u32) -> None:
    """Set the bits of the further lines that an object is in."""
    for number in bits_of_further_lines(reference, length):
        set_bit(bits, number)


@inline
def index_of(heap: Heap, slot: Slot) -> u32:
    """The index in the heap at which a slot is."""
    return wrapping_u32(address_of(slot) - address_of(heap.block(NULL)))


@inline
def slot_number(heap: Heap, owner: Ref, slot: Slot) -> u32:
    """How many words behind its object's header a slot is."""
    return wrapping_u32(address_of(slot) - address_of(heap.header_at(owner)) - HEADER_SIZE) // REFERENCE_SIZE


@inline
def header_mask(heap: Heap, type_index: u32) -> u32:
    """The slots of a type's objects that a header has bits for."""
    info = heap.type_info(type_index)
    if unlikely(info.is_beyond_mask != 0):
        return mask_of_offsets(heap, type_index)
    return wrapping_u32(info.traced_mask)


@cold
def mask_of_offsets(heap: Heap, type_index: u32) -> u32:
    """The same of a type that has no mask: an array's, or that of a struct that is too large."""
    info = heap.type_info(type_index)
    mask: u32 = 0
    if info.kind & KIND_ARRAY_BIT == 0:
        for number in range(info.traced_count):
            place = (heap.type_data(info.traced_offsets_start + number) - HEADER_SIZE) // REFERENCE_SIZE
            if place < HEADER_SLOTS:
                mask |= u32(1) << place
    return mask


@inline
def unlog_all(heap: Heap, reference: Ref, type_index: u32) -> None:
    """Have all slots of a survivor logged when they are next stored over."""
    info = heap.type_info(type_index)
    heap.header(reference).next_over_approximated_stack_root = header_mask(heap, type_index)
    if unlikely((info.is_beyond_mask != 0) | (info.traced_mask >> HEADER_SLOTS != 0)):
        unlog_beyond(heap, reference, type_index)


@cold
def unlog_beyond(heap: Heap, reference: Ref, type_index: u32) -> None:
    """The same for slots that the header may have no bits for."""
    header = heap.header(reference)
    if header.kind_and_reserved & heap.header_bit(OLD) != 0:
        return  # all of them have their bits: those that were logged got them back
    header.kind_and_reserved |= heap.header_bit(OLD)
    info = heap.type_info(type_index)
    bits = unlogged_bits(heap)
    if info.kind & KIND_ARRAY_BIT != 0:
        first = (reference + info.size_or_elements_offset) >> SLOT_SHIFT
        set_bits(bits, first, heap.array(reference).length)
    else:
        first_beyond = (reference + HEADER_SIZE + HEADER_SLOTS * REFERENCE_SIZE) >> SLOT_SHIFT
        for slot in traced_slots(heap, reference, type_index):
            number = index_of(heap, slot) >> SLOT_SHIFT
            if number >= first_beyond:
                set_bit(bits, number)


@inline
def scan_up(heap: Heap, reference: Ref, survived: Tally) -> None:
    """Count up what a survivor refers to."""
    type_index = heap.header(reference).type_index
    unlog_all(heap, reference, type_index)
    for child in children(heap, reference, type_index):
        if names_object(child):
            count_up(heap, child, survived)


@native
def find_roots(heap: Heap) -> None:
    """Add what handles and registered slots hold to what frames hold."""
    root = Root()
    for reference in counted_roots(heap, root):
        append(heap, FOUND, reference)


@native
def count_all_up(heap: Heap) -> None:
    """Count up what roots hold, and what is in slots that were logged; and what survives by that."""
    survived = Tally()
    for number in range(heap.length(FOUND).value):
        count_up(heap, heap.entry(FOUND, number).value, survived)
    for place in range(heap.length(LOG).value):
        prefetch(heap.block(heap.entry(LOG, place + AHEAD).value & ~(REFERENCE_SIZE - 1)))
        logged = heap.entry(LOG, place).value
        if logged & 1 != 0:
            reference = logged - 1
            header = heap.header(reference)
            unlogged = header_mask(heap, header.type_index)
            changed = unlogged & ~header.next_over_approximated_stack_root
            header.next_over_approximated_stack_root = unlogged
            while changed != 0:
                field = heap.slot(reference, ctz(changed) * REFERENCE_SIZE + HEADER_SIZE).value
                if names_object(field):
                    count_up(heap, field, survived)
                changed &= changed - 1
        else:
            set_bit(unlogged_bits(heap), logged >> SLOT_SHIFT)
            element = heap.slot(logged, 0).value
            if names_object(element):
                count_up(heap, element, survived)
    heap.length(LOG).value = 0
    while heap.length(GREY).value != 0:
        scan_up(heap, pop(heap, GREY), survived)
    add_survivors(heap, survived)


@inline
def add_survivors(heap: Heap, survived: Tally) -> None:
    """Add to the figures."""
    epochs = heap.state(Epochs)
    epochs.survivors += survived.objects
    epochs.live_objects += survived.objects
    epochs.live_bytes += survived.size


@native
def bury_young(heap: Heap) -> None:
    """Free what died young and must not only be forgotten: large objects, and externrefs, for the host to let go of."""
    for number in range(heap.length(YOUNG_LARGE).value):
        large = heap.entry(YOUNG_LARGE, number).value
        header_of_large = heap.header_at(large)  # it may have been freed at once
        if header_of_large.ref_count == 0:
            forget_large(heap, large, block_length(header_of_large.object_size))
    heap.length(YOUNG_LARGE).value = 0
    for place in range(heap.length(YOUNG_EXTERNREFS).value):
        reference = heap.entry(YOUNG_EXTERNREFS, place).value
        header = heap.header_at(reference)
        if header.type_index == EXTERNREF_TYPE_INDEX and header.kind_and_reserved != 0:  # else it was freed at once
            heap.side(HAS_EXTERNREFS, reference).value = 1
            if header.ref_count == 0:
                set_bit(live_bits(heap), reference >> GRANULE_SHIFT)
                bury_externref(heap, reference)
                epochs = heap.state(Epochs)
                epochs.live_objects += 1
                epochs.live_bytes += u64(block_length(header.object_size))
    heap.length(YOUNG_EXTERNREFS).value = 0


@native
def put_off_decrements(heap: Heap) -> None:
    """What was stored over, and what roots held before, is to be counted down."""
    if heap.state(Epochs).marking == MARKING:
        shade_old_values(heap, heap.length(OLD_VALUES).value)
    heap.state(Epochs).shaded = 0
    move_all(heap, DECREMENTS, OLD_VALUES)
    move_all(heap, DECREMENTS, HELD)
    move_all(heap, HELD, FOUND)


@native
def shade_old_values(heap: Heap, end: u64) -> None:
    """Mark so many of the old values: what referred to them when marking began does not any more."""
    epochs = heap.state(Epochs)
    while epochs.shaded < end:
        shade(heap, heap.entry(OLD_VALUES, epochs.shaded).value)
        epochs.shaded += 1


# ----------------------------------------------------------------------------------------------------------------------
# Down


@inline
def count_down(heap: Heap, reference: Ref) -> None:
    """One owner less; with the last, an object is dead."""
    header = heap.header(reference)
    if heap.may_raise or heap.is_checked:
        sound(header.ref_count != 0, "the object at {:#x} has no count left to give back", reference)
    count = header.ref_count - 1
    header.ref_count = count
    note("count of %#x down to %d", reference, count)
    if count == 0:
        append(heap, DEAD, reference)


@inline
def give_up(heap: Heap, reference: Ref) -> None:
    """Count down what a dead object refers to; while marking goes on, that was there when it began, so it is marked."""
    if names_object(reference):
        if unlikely(heap.state(Epochs).marking == MARKING):
            shade(heap, reference)
        count_down(heap, reference)


@inline
def shade(heap: Heap, reference: Ref) -> None:
    """Mark an object; what it refers to is yet to be marked."""
    bits = mark_bits(heap)
    if not has_bit(bits, reference >> GRANULE_SHIFT):
        set_bit(bits, reference >> GRANULE_SHIFT)
        append(heap, MARKED, reference)


@inline
def die(heap: Heap, reference: Ref, freed: Tally) -> None:
    """Free a dead object, having counted down what it refers to; one with many elements begins to die by pieces."""
    header = heap.header(reference)
    type_index = header.type_index
    if unlikely(type_index == EXTERNREF_TYPE_INDEX):  # the host frees it, when it has let go of its host data
        bury_externref(heap, reference)
    else:
        for slot in masked_slots(heap, reference, type_index):
            give_up(heap, slot.value)
        if unlikely(heap.type_info(type_index).is_beyond_mask != 0):
            if (heap.type_info(type_index).kind & KIND_ARRAY_BIT != 0) and (heap.array(reference).length > PIECE):
                epochs = heap.state(Epochs)
                epochs.dying = reference
                epochs.dying_left = heap.array(reference).length
                return
            for beyond in slots_beyond(heap, reference, type_index):
                give_up(heap, beyond.value)
        forget(heap, reference, freed)


@inline
def piece_of(heap: Heap, array: Ref, left: u32) -> Iterator[Ref]:
    """Yield up to `PIECE` elements of an array of references, the last of the first `left`, from the end."""
    start = heap.type_info(heap.header(array).type_index).size_or_elements_offset
    number = left
    end = left - min(left, PIECE)
    while number > end:
        number -= 1
        yield heap.slot(array, start + number * REFERENCE_SIZE).value


@cold
def die_further(heap: Heap) -> None:
    """Count down the next piece of the array that is dying, from its end."""
    epochs = heap.state(Epochs)
    reference = epochs.dying
    left = epochs.dying_left
    for child in piece_of(heap, reference, left):
        give_up(heap, child)
    left -= min(left, PIECE)
    epochs.dying_left = left
    if left == 0:
        epochs.dying = NULL
        freed = Tally()
        forget(heap, reference, freed)
        note_freed(heap, freed)


@inline
def forget(heap: Heap, reference: Ref, freed: Tally) -> None:
    """Give an object's room back."""
    length = block_length(heap.header_at(reference).object_size)
    note("freeing %#x, %d bytes", reference, length)
    clear_bit(live_bits(heap), reference >> GRANULE_SHIFT)
    if unlikely(length > LINE):
        forget_lines(heap, reference, length)
    else:
        heap.side(ROOM, reference).value = UNKNOWN
    freed.objects += 1
    freed.size += u64(length)


@cold
def forget_lines(heap: Heap, reference: Ref, length: u32) -> None:
    """Give the lines, or the blocks, of a medium or large object back."""
    if length > MEDIUM:
        forget_large(heap, reference, length)
    else:
        heap.side(ROOM, reference).value = UNKNOWN
        for number in bits_of_further_lines(reference, length):
            clear_bit(live_bits(heap), number)


@inline
def note_freed(heap: Heap, freed: Tally) -> None:
    """Add to the figures."""
    count_freed(heap, freed.objects, freed.size)
    epochs = heap.state(Epochs)
    epochs.died += freed.objects
    epochs.live_objects -= freed.objects
    epochs.live_bytes -= freed.size


@inline
def has_decrements(heap: Heap) -> bool:
    """Whether something is to be counted down."""
    return (heap.length(DECREMENTS).value != 0) | (heap.length(DEAD).value != 0) | (heap.state(Epochs).dying != NULL)


@inline
def has_pending(heap: Heap) -> bool:
    """Whether something is to be counted down, or a trace goes on."""
    return has_decrements(heap) | (heap.state(Epochs).marking != NOT_MARKING)


@native
def count_some_down(heap: Heap, budget: u64) -> None:
    """Count down, and free what is dead, about so many objects."""
    freed = Tally()
    left = budget
    while left != 0:
        if heap.state(Epochs).dying != NULL:
            die_further(heap)
            left -= min(left, PIECE // 8)
        elif heap.length(DEAD).value != 0:
            die(heap, pop(heap, DEAD), freed)
            left -= 1
        elif heap.length(DECREMENTS).value != 0:
            count = min(heap.length(DECREMENTS).value, 64)
            for _ in range(count):
                ahead = heap.length(DECREMENTS).value
                prefetch(heap.block(heap.entry(DECREMENTS, max(ahead, AHEAD) - AHEAD).value))
                count_down(heap, pop(heap, DECREMENTS))
            left -= min(left, 16)
        else:
            break
    note_freed(heap, freed)
