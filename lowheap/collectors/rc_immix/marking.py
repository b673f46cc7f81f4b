"""A trace by portions, between which the program goes on.

It begins at an epoch's end, and finds what can be reached **then**: a snapshot. What roots hold is marked, and what
that leads to, a portion at a time (`MARKING`). Meanwhile the program changes what objects refer to; but the first store
to a slot in each epoch logs what was there, and all that is marked, too. What dies marks what it referred to; what
survives later is marked. So when nothing is left to be marked, what is not marked could not be reached when the trace
began, and nobody can have come to it since. It is garbage, and takes two passes over the bits: the first gives back its
counts of what is marked (`GIVING_BACK`), the second its room (`FREEING`); before all is given back nothing of it may be
used anew, or what it refers to would be something else.

What was to be counted down when the trace began may be garbage, too: so all that is done before the first pass, for a
trace goes on only when nothing is left to be counted down (`pauses.work`).
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.bits import WORD_BITS, address_of_word, has_bit, set_bit, shifted_up
from lowheap.collectors.rc_immix.counting import (
    PIECE,
    Tally,
    count_down,
    forget,
    mark_bits,
    note_freed,
    piece_of,
    set_lines,
    shade,
    shade_old_values,
)
from lowheap.collectors.rc_immix.cycles import size_of_bits
from lowheap.collectors.rc_immix.space import has_survived, live_bits, pop
from lowheap.collectors.rc_immix.state import (
    FREEING,
    GIVING_BACK,
    GRANULE_SHIFT,
    HELD,
    LINE,
    MARKED,
    MARKING,
    NOT_MARKING,
    OLD_VALUES,
    Epochs,
)
from lowheap.collectors.shared.externrefs import bury_externref
from lowheap.collectors.shared.references import block_length, names_object
from lowheap.collectors.shared.sizing import UNLIMITED
from lowheap.collectors.shared.tracing import masked_slots, slots_beyond
from lowheap.layout import EXTERNREF_TYPE_INDEX, KIND_ARRAY_BIT
from lowheap.native import Heap, Ref, cell, cold, ctz, inline, native, u32, u64, unlikely, zero_memory

_WORD_SHIFT = GRANULE_SHIFT + 6
"""By how many bits an index is to be shifted for the number of the word that its bit is in."""


@native
def begin_marking(heap: Heap) -> None:
    """Begin at an epoch's end, when roots are found and all is counted up."""
    epochs = heap.state(Epochs)
    zero_memory(mark_bits(heap), size_of_bits(heap))
    heap.length(MARKED).value = 0
    epochs.marking = MARKING
    epochs.shaded = 0
    for number in range(heap.length(HELD).value):
        shade(heap, heap.entry(HELD, number).value)


@native
def find_cycles(heap: Heap) -> None:
    """Begin a trace now, directly behind an epoch's end. One that goes on began with another snapshot."""
    while heap.state(Epochs).marking > MARKING:
        trace_some(heap, UNLIMITED)
    begin_marking(heap)


@native
def trace_some(heap: Heap, budget: u64) -> None:
    """Go on with the trace, for about so many objects. Nothing is to be counted down, or marking is done."""
    epochs = heap.state(Epochs)
    left = budget
    while (left != 0) and (epochs.marking != NOT_MARKING):
        if epochs.marking == MARKING:
            left = mark_some(heap, left)
        elif epochs.marking == GIVING_BACK:
            left = give_back_some(heap, left)
        else:
            left = free_some(heap, left)


# ----------------------------------------------------------------------------------------------------------------------
# Marking


@inline
def mark_some(heap: Heap, budget: u64) -> u64:
    """Mark what marked objects refer to; the rest of the budget."""
    epochs = heap.state(Epochs)
    left = budget
    while left != 0:
        if heap.length(MARKED).value != 0:
            left -= min(mark_children(heap, pop(heap, MARKED)), left)
        elif epochs.shaded < heap.length(OLD_VALUES).value:
            shade_old_values(heap, min(epochs.shaded + left, heap.length(OLD_VALUES).value))
            left -= 1
        else:
            epochs.marking = GIVING_BACK
            epochs.sweep_at = 0
            epochs.sweep_left = 0
            return left
    return left


@inline
def mark_children(heap: Heap, reference: Ref) -> u64:
    """Mark what an object refers to, unless it died; how much work that was."""
    work: u64 = 1
    if has_survived(heap, reference):
        header = heap.header(reference)
        type_index = header.type_index
        if header.object_size > LINE:
            set_lines(heap, mark_bits(heap), reference, block_length(header.object_size))
        if type_index != EXTERNREF_TYPE_INDEX:
            for slot in masked_slots(heap, reference, type_index):
                child = slot.value
                if names_object(child):
                    shade_old(heap, child)
            if unlikely(heap.type_info(type_index).is_beyond_mask != 0):
                for beyond in slots_beyond(heap, reference, type_index):
                    child = beyond.value
                    work += 1
                    if names_object(child):
                        shade_old(heap, child)
    return work


@inline
def shade_old(heap: Heap, reference: Ref) -> None:
    """Mark an object, unless it is young: such a one was not there when the trace began."""
    if has_survived(heap, reference):
        shade(heap, reference)


# ----------------------------------------------------------------------------------------------------------------------
# What is not marked


@inline
def unmarked_in(heap: Heap, index: u32) -> u64:
    """The bits of what lives and is not marked, from an index on in the word that has its bit."""
    number = index >> GRANULE_SHIFT
    lived: u64 = cell(u64, address_of_word(live_bits(heap), number)).value
    marked: u64 = cell(u64, address_of_word(mark_bits(heap), number)).value
    return lived & ~marked & shifted_up(u64(number & (WORD_BITS - 1)))


@native
def next_unmarked(heap: Heap, start: u32) -> u32:
    """Where the next object is that lives and is not marked; where lines end, if none is."""
    end = heap.control.bump
    place = start
    while place < end:
        found = unmarked_in(heap, place)
        word = place >> _WORD_SHIFT
        if found != 0:
            return (word << _WORD_SHIFT) + (ctz(found) << GRANULE_SHIFT)
        if word >= (end - 1) >> _WORD_SHIFT:
            return end
        place = (word + 1) << _WORD_SHIFT
    return end


@inline
def is_dead(heap: Heap, reference: Ref) -> bool:
    """Whether an object was dead already: it waits to be freed, by the collector or by the host."""
    return heap.header_at(reference).ref_count == 0


@native
def give_back_some(heap: Heap, budget: u64) -> u64:
    """Give back the counts that garbage has of what is marked; the rest of the budget."""
    epochs = heap.state(Epochs)
    left = budget
    while left != 0:
        if epochs.sweep_left != 0:
            give_back_elements(heap)
            left -= min(PIECE // 8, left)
            continue
        reference = next_unmarked(heap, epochs.sweep_at)
        if reference >= heap.control.bump:
            epochs.marking = FREEING
            epochs.sweep_at = 0
            return left
        left -= 1
        header = heap.header_at(reference)
        epochs.sweep_at = reference + block_length(header.object_size)
        if (header.type_index != EXTERNREF_TYPE_INDEX) and not is_dead(heap, reference):
            for slot in masked_slots(heap, reference, header.type_index):
                give_back_count(heap, slot.value)
            if unlikely(heap.type_info(header.type_index).is_beyond_mask != 0):
                if header.kind_and_reserved & KIND_ARRAY_BIT != 0:
                    epochs.sweep_at = reference
                    epochs.sweep_left = heap.array(reference).length
                    if epochs.sweep_left == 0:
                        epochs.sweep_at = reference + block_length(header.object_size)
                else:
                    for beyond in slots_beyond(heap, reference, header.type_index):
                        give_back_count(heap, beyond.value)
    return 0


@inline
def give_back_count(heap: Heap, child: Ref) -> None:
    """Count down what garbage refers to, if that is marked."""
    if names_object(child) and has_bit(mark_bits(heap), child >> GRANULE_SHIFT):
        count_down(heap, child)


@cold
def give_back_elements(heap: Heap) -> None:
    """The same for the next piece of an array, from its end."""
    epochs = heap.state(Epochs)
    reference = epochs.sweep_at
    left = epochs.sweep_left
    for child in piece_of(heap, reference, left):
        give_back_count(heap, child)
    left -= min(left, PIECE)
    epochs.sweep_left = left
    if left == 0:
        epochs.sweep_at = reference + block_length(heap.header(reference).object_size)


@native
def free_some(heap: Heap, budget: u64) -> u64:
    """Give back the room of garbage; the rest of the budget."""
    epochs = heap.state(Epochs)
    freed = Tally()
    left = budget
    while left != 0:
        reference = next_unmarked(heap, epochs.sweep_at)
        if reference >= heap.control.bump:
            epochs.marking = NOT_MARKING
            note_freed(heap, freed)
            note_cyclic(heap, freed)
            epochs.traced_live = epochs.live_bytes
            epochs.traces += 1
            heap.control.cycle_searches += 1
            return left
        header = heap.header_at(reference)
        epochs.sweep_at = reference + block_length(header.object_size)
        if not is_dead(heap, reference):
            if header.type_index == EXTERNREF_TYPE_INDEX:
                bury_externref(heap, reference)
                set_bit(mark_bits(heap), reference >> GRANULE_SHIFT)
            else:
                forget(heap, reference, freed)
        left -= 1
    note_freed(heap, freed)
    note_cyclic(heap, freed)
    return 0


@inline
def note_cyclic(heap: Heap, freed: Tally) -> None:
    """Add to what searches for cycles have found."""
    heap.control.cyclic_objects += freed.objects
    heap.control.cyclic_bytes += freed.size
