"""The trace: what stands in for counting at the end of some epochs, and finds cycles of garbage.

It marks from the roots, and counts anew what it meets. So it looks at what lives only: nothing is counted down for what
died. That is less work than counting where most of what had survived dies, and it is the only way to find that a cycle
is garbage. Afterwards the marks are the bits of what lives.
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.bits import has_bit, next_bit, set_bit
from lowheap.collectors.rc_immix.counting import (
    Tally,
    add_survivors,
    mark_bits,
    set_lines,
    unlog_all,
    unlogged_bits,
)
from lowheap.collectors.rc_immix.space import append, forget_large, has_survived, live_bits, move_all, pop, start_of
from lowheap.collectors.rc_immix.state import (
    BLOCK,
    DEAD,
    DECREMENTS,
    FOUND,
    GRANULE_SHIFT,
    GREY,
    HAS_EXTERNREFS,
    HELD,
    LARGE,
    LARGE_REST,
    LINE,
    LINES,
    LOG,
    MARKED,
    NOT_MARKING,
    OLD_VALUES,
    ROOM,
    SLOT_SHIFT,
    UNKNOWN,
    Epochs,
    Space,
)
from lowheap.collectors.shared.externrefs import bury_externref
from lowheap.collectors.shared.references import block_length, names_object
from lowheap.collectors.shared.tracing import children
from lowheap.layout import EXTERNREF_TYPE_INDEX, NULL
from lowheap.native import Heap, Ref, copy_memory, inline, native, u32, u64, unlikely, zero_memory

_BYTES_SHIFT = GRANULE_SHIFT + 3
"""By how many bits an index is to be shifted for how many bytes of `LIVE` are before its bit."""


@inline
def size_of_bits(heap: Heap) -> u64:
    """How many bytes of `LIVE`, and of `MARKS`, are in use: those of whole blocks."""
    return u64(heap.state(Space).fresh) * (BLOCK >> _BYTES_SHIFT)


@inline
def recount(heap: Heap, reference: Ref, live: Tally, survived: Tally) -> None:
    """Count an owner, the first one anew."""
    header = heap.header(reference)
    bits = mark_bits(heap)
    if has_bit(bits, reference >> GRANULE_SHIFT):
        header.ref_count += 1
    else:
        length = block_length(header.object_size)
        set_bit(bits, reference >> GRANULE_SHIFT)
        if unlikely(length > LINE):
            set_lines(heap, bits, reference, length)
        live.objects += 1
        live.size += u64(length)
        if header.ref_count == 0:
            survived.objects += 1
            survived.size += u64(length)
        header.ref_count = 1
        if header.type_index != EXTERNREF_TYPE_INDEX:
            append(heap, GREY, reference)


@native
def forget_log(heap: Heap) -> None:
    """Nothing was logged, and nothing is to be counted down. Headers get their bits when they are come to."""
    bits = unlogged_bits(heap)
    for number in range(heap.length(LOG).value):
        logged = heap.entry(LOG, number).value
        if logged & 1 == 0:
            set_bit(bits, logged >> SLOT_SHIFT)
    heap.length(LOG).value = 0
    heap.length(OLD_VALUES).value = 0
    heap.length(DECREMENTS).value = 0
    heap.length(DEAD).value = 0
    heap.length(MARKED).value = 0
    epochs = heap.state(Epochs)
    epochs.dying = NULL
    epochs.marking = NOT_MARKING
    epochs.shaded = 0


@native
def recount_all(heap: Heap) -> None:
    """Mark and count all that roots lead to."""
    live = Tally()
    survived = Tally()
    for number in range(heap.length(FOUND).value):
        recount(heap, heap.entry(FOUND, number).value, live, survived)
    while heap.length(GREY).value != 0:
        reference = pop(heap, GREY)
        type_index = heap.header(reference).type_index
        unlog_all(heap, reference, type_index)
        for child in children(heap, reference, type_index):
            if names_object(child):
                recount(heap, child, live, survived)
    epochs = heap.state(Epochs)
    add_survivors(heap, survived)
    died = epochs.live_objects - live.objects
    epochs.died += died
    epochs.survived_bytes = survived.size
    epochs.live_objects = live.objects
    epochs.live_bytes = live.size


@native
def keep_dead_externrefs(heap: Heap) -> None:
    """Keep the room of externrefs that the host is yet to let go of: those that wait, and those found dead now."""
    reference = heap.control.dead_externrefs
    while reference != NULL:
        keep_dead_externref(heap, reference)
        reference = heap.header_at(reference).next_over_approximated_stack_root
    for block in range(heap.state(Space).fresh):
        if heap.side(HAS_EXTERNREFS, start_of(block)).value != 0:
            bury_unmarked(heap, block)


@inline
def keep_dead_externref(heap: Heap, reference: Ref) -> None:
    """Keep the room of one."""
    set_bit(mark_bits(heap), reference >> GRANULE_SHIFT)
    epochs = heap.state(Epochs)
    epochs.live_objects += 1
    epochs.live_bytes += u64(block_length(heap.header_at(reference).object_size))


@native
def bury_unmarked(heap: Heap, block: u32) -> None:
    """Have the host let go of the externrefs of a block that had survived and are not marked."""
    end = start_of(block + 1) >> GRANULE_SHIFT
    number = next_bit(live_bits(heap), start_of(block) >> GRANULE_SHIFT, end)
    while number < end:
        reference = number << GRANULE_SHIFT
        header = heap.header_at(reference)
        length = block_length(header.object_size)
        if (header.type_index == EXTERNREF_TYPE_INDEX) and not has_bit(mark_bits(heap), number):
            bury_externref(heap, reference)
            keep_dead_externref(heap, reference)
        number = next_bit(live_bits(heap), (reference + length) >> GRANULE_SHIFT, end)


@native
def keep_marked(heap: Heap) -> None:
    """What is marked is what lives; how much room there is elsewhere is to be looked up."""
    for block in range(heap.state(Space).fresh):
        place = heap.side(ROOM, start_of(block))
        if place.value == LARGE:
            start = start_of(block)
            if has_survived(heap, start) and not has_bit(mark_bits(heap), start >> GRANULE_SHIFT):
                forget_large(heap, start, block_length(heap.header(start).object_size))
        elif place.value != LARGE_REST and place.value != LINES:
            place.value = UNKNOWN
    copy_memory(live_bits(heap), mark_bits(heap), size_of_bits(heap))


@native
def trace_all(heap: Heap) -> None:
    """Have what roots were found to hold, and what that leads to, be what lives."""
    zero_memory(mark_bits(heap), size_of_bits(heap))
    forget_log(heap)
    recount_all(heap)
    keep_dead_externrefs(heap)
    keep_marked(heap)
    heap.length(HELD).value = 0
    move_all(heap, HELD, FOUND)
    epochs = heap.state(Epochs)
    epochs.traced_live = epochs.live_bytes
    epochs.traces += 1
    heap.control.cycle_searches += 1
