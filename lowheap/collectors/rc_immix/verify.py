"""What holds for a heap of rc-immix between any two steps of a program.

1. Each object that has survived has its bit in `LIVE`, and each further line of a medium one has one; no other bit is
   set. A young one has none, a count of 0, and nothing of it is to be logged.
2. How much room a block has, as far as it is known, is what the bits say.
3. An object's count is how many slots refer to it that are yet to be logged, how often it is in the old values of
   those that were, how often it is to be counted down, and how often roots held it at the last epoch's end.
4. A slot was logged if it is yet to be logged no more: it is in the log once, or its struct is. What is in the log is
   of objects that have survived.
5. An object of count 0 that has survived is dead, and on the stack of the dead, or the array that is dying, or an
   externref that waits for the host.
6. Whatever a root, a slot or the collector's own lists refer to is an object.
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.bits import has_bit
from lowheap.collectors.rc_immix.counting import (
    HEADER_SLOTS,
    header_mask,
    index_of,
    mark_bits,
    slot_number,
    unlogged_bits,
)
from lowheap.collectors.rc_immix.space import free_lines, has_survived, is_taken, live_bits, start_of
from lowheap.collectors.rc_immix.state import (
    BLOCK,
    DEAD,
    DECREMENTS,
    FREEING,
    GIVING_BACK,
    GRANULE_SHIFT,
    HELD,
    LARGE,
    LARGE_REST,
    LINE,
    LINE_SHIFT,
    LINES,
    LOG,
    MEDIUM,
    OLD,
    OLD_VALUES,
    ROOM,
    SLOT_SHIFT,
    UNKNOWN,
    Epochs,
    Space,
)
from lowheap.collectors.rc_immix.walking import blocks
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.tracing import traced_slots
from lowheap.collectors.shared.verify import DEAD as IS_DEAD
from lowheap.collectors.shared.verify import OBJECT, OWN, OWNERS, add_note, count_owner, note_of, verify_object
from lowheap.collectors.shared.walking import length_of_block
from lowheap.layout import EXTERNREF_TYPE_INDEX, KIND_ARRAY_BIT, NULL, U32_MAX
from lowheap.native import (
    Buffer,
    Heap,
    Native,
    Ref,
    Slot,
    cell,
    inline,
    native,
    popcount,
    problem,
    u32,
    u64,
    wrapping_u32,
)

_BITS_A_WORD_SHIFT = 6 + GRANULE_SHIFT


@inline
def further_lines(reference: Ref, length: u64) -> u64:
    """How many lines an object is in beyond the first, if they are marked."""
    last = (u64(reference) + length - 1) >> LINE_SHIFT
    return last - (u64(reference) >> LINE_SHIFT) if LINE < length <= MEDIUM else 0


@native
def verify_blocks(heap: Heap, notes: u64, has_lists: bool) -> tuple[bool, u64, u64]:
    """Check the header of each object, the bits of what has survived, and what is known of the room in blocks.

    Returns whether the walk came to its end, how many objects there are as far as the figures say it yet, and how many
    bytes of them.
    """
    before = heap.problem_count()
    objects: u64 = 0
    size: u64 = 0
    bits: u64 = 0
    for index in blocks(heap):
        add_note(notes, index, OBJECT)
        verify_object(heap, index)
        length = length_of_block(heap, index)
        objects += 1
        size += length
        if has_survived(heap, index):
            bits += 1 + further_lines(index, length)
            verify_lines(heap, index, length)
    if heap.problem_count() != before:
        return False, objects, size
    found: u64 = 0
    for word in range(((heap.control.bump - 1) >> _BITS_A_WORD_SHIFT) + 1):
        found += u64(popcount(u64(cell(u64, live_bits(heap) + u64(word) * 8).value)))
    if found != bits:
        problem(heap, "{} bits say what has survived; {} of them are of objects", found, bits)
    for block in range(heap.state(Space).fresh):
        verify_room(heap, block)
    space = heap.state(Space)
    return True, objects - (space.bump >> 32), size - u64(wrapping_u32(space.bump) - space.span)


@inline
def verify_lines(heap: Heap, reference: Ref, length: u64) -> None:
    """Check that the further lines of a medium object are marked."""
    for number in range(further_lines(reference, length)):
        line = (reference >> LINE_SHIFT) + u32(number) + 1
        if not has_bit(live_bits(heap), line << (LINE_SHIFT - GRANULE_SHIFT)):
            problem(heap, "object {:#x} is in line {}, which has no bit", reference, line)
            return


@native
def verify_room(heap: Heap, block: u32) -> None:
    """Check how much room a block is said to have."""
    start = start_of(block)
    room = u32(heap.side(ROOM, start).value)
    if (room <= LINES) and not is_taken(heap, block):
        low, high = free_lines(heap, block)
        free = popcount(low) + popcount(high)
        # What allocation passes over may have become more, when the capacity grew.
        if (room > free) or ((room < free) and (u64(start) + BLOCK <= u64(heap.control.bump))):
            problem(heap, "block {} is said to have {} free lines; it has {}", block, room, free)
    elif (room > LINES) and (room != UNKNOWN) and (room != LARGE) and (room != LARGE_REST):
        problem(heap, "block {} is said to have {} free lines", block, room)


@inline
def verify_free_blocks(heap: Heap, notes: u64) -> None:
    """There are no lists of free blocks."""


# ----------------------------------------------------------------------------------------------------------------------
# What the collector has noted


def _counted_in(buffer: Buffer) -> Native[[Heap, int], None]:
    """Return what notes the owners that a buffer stands for."""
    text = f"entry {{}} of the {buffer.name} is {{:#x}}, where no object starts that has survived"

    @inline
    def count(heap: Heap, notes: u64) -> None:
        for number in range(heap.length(buffer).value):
            reference = heap.entry(buffer, number).value
            if (note_of(heap, notes, reference) & OBJECT == 0) or not has_survived(heap, reference):
                problem(heap, text, number, reference)
                return
            add_note(notes, reference, 1)

    return count


_count_old_values = _counted_in(OLD_VALUES)
_count_decrements = _counted_in(DECREMENTS)
_count_held = _counted_in(HELD)


@native
def verify_dead(heap: Heap, notes: u64, reference: Ref) -> None:
    """Check an object that is said to be dead, and flag it."""
    note = note_of(heap, notes, reference)
    if note & OBJECT == 0:
        problem(heap, "the stack of the dead has {:#x}, where no object starts", reference)
    elif note & IS_DEAD != 0:
        problem(heap, "object {:#x} is dead twice", reference)
    else:
        add_note(notes, reference, IS_DEAD)
        verify_pending(heap, reference)


@native
def verify_pending(heap: Heap, reference: Ref) -> None:
    """Check that an object is dead."""
    count = heap.header_at(reference).ref_count
    if count != 0:
        problem(heap, "object {:#x} has count {}, but is on the stack of the dead", reference, count)


@native
def verify_log(heap: Heap, notes: u64) -> u64:
    """Check that structs are in the log once, and slots rightly; how many slots are."""
    slots: u64 = 0
    for number in range(heap.length(LOG).value):
        logged = heap.entry(LOG, number).value
        if logged & 1 != 0:
            note = note_of(heap, notes, logged - 1)
            if (note & OBJECT == 0) or not has_survived(heap, logged - 1):
                problem(heap, "entry {} of the log is {:#x}, where no object starts that has survived", number, logged)
                return slots
            if note & OWN != 0:
                problem(heap, "object {:#x} is in the log twice", logged - 1)
                return slots
            add_note(notes, logged - 1, OWN)
        else:
            if (logged >= heap.control.bump) or has_bit(unlogged_bits(heap), logged >> SLOT_SHIFT):
                problem(heap, "slot {:#x} is in the log, and is yet to be logged", logged)
                return slots
            slots += 1
    return slots


@inline
def is_unlogged(heap: Heap, reference: Ref, slot: Slot) -> bool:
    """Whether a slot of an object that has survived is yet to be logged."""
    number = slot_number(heap, reference, slot)
    if (number < HEADER_SLOTS) and (heap.header_at(reference).kind_and_reserved & KIND_ARRAY_BIT == 0):
        return heap.header_at(reference).next_over_approximated_stack_root >> number & 1 != 0
    return has_bit(unlogged_bits(heap), index_of(heap, slot) >> SLOT_SHIFT)


@native
def verify_lists(heap: Heap, notes: u64) -> None:
    """Check the logs and the stacks, and note the owners that they stand for."""
    _count_old_values(heap, notes)
    _count_decrements(heap, notes)
    _count_held(heap, notes)
    for number in range(heap.length(DEAD).value):
        verify_dead(heap, notes, heap.entry(DEAD, number).value)
    if heap.state(Epochs).dying != NULL:
        verify_dead(heap, notes, heap.state(Epochs).dying)
    slots = verify_log(heap, notes)
    if heap.problem_count() == 0:
        verify_logged(heap, notes, slots)


@native
def verify_logged(heap: Heap, notes: u64, slots: u64) -> None:
    """Check that what is not to be logged any more is in the log: so many slots, and structs that are flagged."""
    found: u64 = 0
    for reference in blocks(heap):
        header = heap.header_at(reference)
        if header.type_index != EXTERNREF_TYPE_INDEX:
            info = heap.type_info(header.type_index)
            unlogged = header.next_over_approximated_stack_root
            mask = header_mask(heap, header.type_index) if has_survived(heap, reference) else 0
            is_logged = note_of(heap, notes, reference) & OWN != 0
            if unlogged & ~mask != 0:
                problem(heap, "object {:#x} has {:#x} for what is to be logged, of {:#x}", reference, unlogged, mask)
                return
            if is_logged != (unlogged != mask):
                problem(heap, "object {:#x} has {:#x} for what is to be logged; is it in the log?", reference, unlogged)
                return
            is_beyond = (info.is_beyond_mask != 0) | (info.traced_mask >> HEADER_SLOTS != 0)
            is_old = header.kind_and_reserved & heap.header_bit(OLD) != 0
            if is_old != (is_beyond and has_survived(heap, reference)):
                problem(heap, "object {:#x} is old, or is not, wrongly", reference)
                return
            if is_old:
                for slot in traced_slots(heap, reference, header.type_index):
                    is_in_header = (slot_number(heap, reference, slot) < HEADER_SLOTS) and (
                        info.kind & KIND_ARRAY_BIT == 0
                    )
                    found += u64(not is_in_header and not is_unlogged(heap, reference, slot))
    if found != slots:
        problem(heap, "{} slots are not to be logged any more; {} are in the log", found, slots)


@native
def count_owned(heap: Heap, notes: u64, reference: Ref) -> None:
    """Note an owner with each object that a slot refers to that is yet to be logged; the others must refer to one."""
    header = heap.header_at(reference)
    if header.type_index != EXTERNREF_TYPE_INDEX:
        counts = has_survived(heap, reference)
        epochs = heap.state(Epochs)
        left = epochs.dying_left if epochs.dying == reference else U32_MAX
        given_back = given_back_by(heap, reference)
        if (given_back != U32_MAX) and (epochs.marking == FREEING):
            left = 0  # what it refers to may be freed
        place: u32 = 0
        for slot in traced_slots(heap, reference, header.type_index):
            child = slot.value
            place += 1  # noqa: SIM113 -- the subset has no `enumerate`
            if left != 0:
                if left != U32_MAX:
                    left -= 1
                if is_object(child):
                    is_given_back = (place > given_back) and has_bit(mark_bits(heap), child >> GRANULE_SHIFT)
                    if counts and is_given_back:
                        pass
                    elif counts and is_unlogged(heap, reference, slot):
                        count_owner(heap, notes, u64(reference), child)
                    elif note_of(heap, notes, child) & OBJECT == 0:
                        problem(heap, "object {:#x} holds {:#x}, where no live object starts", reference, child)


@inline
def is_garbage(heap: Heap, reference: Ref) -> bool:
    """Whether a trace that goes on has found that an object is garbage."""
    marking = heap.state(Epochs).marking
    is_known = marking in (GIVING_BACK, FREEING)
    is_marked = has_bit(mark_bits(heap), reference >> GRANULE_SHIFT)
    return is_known and not is_marked and has_survived(heap, reference) and heap.header_at(reference).ref_count != 0


@inline
def given_back_by(heap: Heap, reference: Ref) -> u32:
    """From which slot on an object has given back its counts of what is marked; `U32_MAX`: it is no garbage."""
    epochs = heap.state(Epochs)
    if not is_garbage(heap, reference):
        return U32_MAX
    if (epochs.marking == FREEING) or (reference < epochs.sweep_at):
        return 0
    return epochs.sweep_left if (reference == epochs.sweep_at) and (epochs.sweep_left != 0) else U32_MAX - 1


@native
def verify_noted(heap: Heap, reference: Ref, note: u64) -> None:
    """Check an object's count."""
    count = heap.header_at(reference).ref_count
    if not has_survived(heap, reference):
        if count != 0:
            problem(heap, "object {:#x} is young, and has count {}", reference, count)
    elif is_garbage(heap, reference) and (heap.state(Epochs).marking == FREEING):
        pass  # what owned it may be freed
    elif count != note & OWNERS:
        problem(heap, "object {:#x} has count {}, but {} owners that count", reference, count, note & OWNERS)
    elif (count == 0) and (note & IS_DEAD == 0):
        problem(heap, "object {:#x} has count 0, but is not among the dead", reference)
