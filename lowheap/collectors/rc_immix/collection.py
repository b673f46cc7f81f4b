"""The end of an epoch, and allocation: what a collection of rc-immix is.

A collection ends an epoch. The frames are walked, and what they hold is noted with what other roots hold; what has
survived is counted up, or all that lives is traced; then what was let go of is counted down, at once or by portions.
The next epoch begins with the first block.
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.counting import (
    Tally,
    bury_young,
    count_all_up,
    find_roots,
    forget,
    has_pending,
    note_freed,
    put_off_decrements,
)
from lowheap.collectors.rc_immix.cycles import trace_all
from lowheap.collectors.rc_immix.marking import begin_marking
from lowheap.collectors.rc_immix.pauses import SLICES, note_pause, wanted_pause, work, work_until
from lowheap.collectors.rc_immix.policy import (
    LONGEST,
    SHORTEST,
    allow,
    expect_trace,
    keep_memory,
    may_trace,
    set_length,
)
from lowheap.collectors.rc_immix.space import (
    append,
    begin_epoch,
    block_of,
    fill,
    find_room,
    has_survived,
    leave_span,
    place_of_bump,
)
from lowheap.collectors.rc_immix.state import (
    BLOCK,
    FOUND,
    LARGE,
    LINE_SHIFT,
    LOG,
    NOT_MARKING,
    ROOM,
    YOUNG,
    YOUNG_EXTERNREFS,
    Epochs,
    Space,
)
from lowheap.collectors.shared import collection
from lowheap.collectors.shared.allocation import collect_if_allowed
from lowheap.collectors.shared.externrefs import release_dead_externrefs
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.references import block_length
from lowheap.collectors.shared.sizing import UNLIMITED, count_freed, live_bytes, note_peak
from lowheap.layout import NULL, VMGcKind
from lowheap.native import Heap, Ref, inline, likely, native, u32, u64, unlikely

# ----------------------------------------------------------------------------------------------------------------------
# What is young, what lives


@native
def is_young(heap: Heap, reference: Ref) -> bool:
    """Whether a reference is to where objects were made in this epoch."""
    space = heap.state(Space)
    if u32(heap.side(ROOM, reference).value) == LARGE:
        is_start = reference & (BLOCK - 1) == 0
        return is_start and not has_survived(heap, reference)
    lines: u64 = heap.side(YOUNG, reference).value
    line = reference >> LINE_SHIFT & 63
    if lines >> u64(line) & 1 == 0:
        return False
    if block_of(reference) == space.block:  # some of its lines may not have been taken yet
        is_low = reference & (BLOCK - 1) < BLOCK // 2
        untaken = space.free_low if is_low else space.free_high
        if untaken >> u64(line) & 1 != 0:
            return False
    if (reference >= place_of_bump(heap)) and (reference < space.limit):
        return False
    return (reference < space.medium) or (reference >= space.medium_limit)


@inline
def is_live(heap: Heap, reference: Ref) -> bool:
    """Whether a reference is to an object that has survived and is not dead, or to where young ones are."""
    if has_survived(heap, reference):
        return heap.header_at(reference).ref_count != 0
    return is_young(heap, reference)


@inline
def hold(heap: Heap, reference: Ref) -> bool:
    """Note what a frame holds."""
    if unlikely((u64(reference) >= u64(heap.control.bump)) or not is_live(heap, reference)):
        return False
    append(heap, FOUND, reference)
    return True


@inline
def forget_held(heap: Heap) -> None:
    """Forget what frames hold."""
    heap.length(FOUND).value = 0


# ----------------------------------------------------------------------------------------------------------------------
# The end of an epoch


@native
def end_epoch(heap: Heap) -> None:
    """Count up, or trace; what is to be counted down is pending afterwards. A new epoch has begun."""
    end_epoch_by(heap, False)


@native
def end_epoch_in_portions(heap: Heap) -> None:
    """The same, but if it is time for a trace, that begins, and is pending, too."""
    end_epoch_by(heap, True)


@inline
def end_epoch_by(heap: Heap, in_portions: bool) -> None:
    """The same, with a trace all at once, or in portions."""
    epochs = heap.state(Epochs)
    leave_span(heap)
    find_roots(heap)
    expect_trace(heap)
    allocated = heap.control.bytes_allocated - epochs.allocated_before
    before = epochs.survivors
    work = heap.length(LOG).value
    lived = epochs.live_bytes
    if (epochs.trace_next != 0) and not in_portions:
        trace_all(heap)
    else:
        count_all_up(heap)
        put_off_decrements(heap)
        epochs.survived_bytes = epochs.live_bytes - lived
        if (epochs.trace_next != 0) and (epochs.marking == NOT_MARKING):
            begin_marking(heap)
    epochs.lived = lived
    epochs.trace_next = 0
    bury_young(heap)
    begin_epoch(heap)
    epochs.allocated_before = heap.control.bytes_allocated
    epochs.epochs += 1
    settle_freed(heap)
    epochs.is_settled = 0
    epochs.allocated = allocated
    epochs.work = work + (epochs.survivors - before)
    allow(heap)


@inline
def settle_freed(heap: Heap) -> None:
    """What neither lives nor was freed before, died young."""
    control = heap.control
    epochs = heap.state(Epochs)
    control.objects_freed = control.objects_allocated - epochs.live_objects
    control.bytes_freed = control.bytes_allocated - epochs.live_bytes


@native
def free_pending(heap: Heap, budget: u64) -> bool:
    """Count down, and free what dies, about so many objects; whether something is left."""
    work(heap, budget)
    while (budget == UNLIMITED) and has_pending(heap):
        work(heap, budget)
    if has_pending(heap):
        return True
    settle(heap)
    heap.control.live_bytes_after_last_collection = live_bytes(heap)
    return False


@inline
def settle(heap: Heap) -> None:
    """All is counted down: say how long epochs are, and how much memory is kept."""
    epochs = heap.state(Epochs)
    if epochs.is_settled == 0:
        epochs.is_settled = 1
        set_length(heap)
        keep_memory(heap)
        if heap.state(Space).next_block == 0:  # else the epoch is under way
            allow(heap)


@native
def collect(heap: Heap, rules: FrameRules) -> bool:
    """Collect, all at once; False, with nothing done, if a frame is wrong."""
    start = heap.nanoseconds()
    is_sound = collection.collect(heap, rules)
    note_pause(heap, start)
    return is_sound


@native
def collect_cycles(heap: Heap, rules: FrameRules, only_if_due: bool) -> bool:
    """The same, with a trace."""
    heap.state(Epochs).trace_next = 1
    return collect(heap, rules)


@native
def collect_in_time(heap: Heap, rules: FrameRules) -> bool:
    """End the epoch, and do of what is pending what there is time for; False likewise."""
    start = heap.nanoseconds()
    pause = wanted_pause(heap)
    note_peak(heap)
    if unlikely(not collection.trace(heap, rules)):
        forget_held(heap)
        return False
    end_epoch_in_portions(heap)
    collection.finish_sweep(heap)
    used = heap.nanoseconds() - start
    work_until(heap, start + max(pause * 3 // 4, used + pause // SLICES))
    if not has_pending(heap):
        settle(heap)
    fit_length(heap, used)
    note_pause(heap, start)
    return True


@native
def fit_length(heap: Heap, used: u64) -> None:
    """Have epochs be so long that what cannot be put off at their ends takes no more than half of a pause."""
    epochs = heap.state(Epochs)
    pause = wanted_pause(heap)
    length = epochs.longest
    if length == 0:
        length = SHORTEST
    if used * 2 > pause:
        length = max(length // 2, 4 * BLOCK)
    elif used * 8 < pause:
        length = min(length * 2, LONGEST)
    epochs.longest = length
    epochs.length = length
    allow(heap)


@inline
def end_if_allowed(heap: Heap, rules: FrameRules) -> bool:
    """End the epoch, unless a no-GC scope forbids it; False when the allocation must be given up."""
    if wanted_pause(heap) == 0:
        return collect_if_allowed(heap, rules)
    if (heap.control.no_gc_count == 0) and unlikely(not collect_in_time(heap, rules)):
        return False
    return release_dead_externrefs(heap)


# ----------------------------------------------------------------------------------------------------------------------
# Allocation


@native
def allocate_block(heap: Heap, rules: FrameRules, length: u32) -> Ref:
    """Return room for an object of `length` bytes, ending the epoch when that is due; null when nothing helps.

    When memory is short, what is pending is freed, and garbage is traced, cycles and all; then blocks are used in which
    few lines are free, and what is free within lines.
    """
    found = find_room(heap, length)
    if likely(found != NULL):
        return found
    if heap.control.no_gc_count != 0:
        heap.state(Space).left = u64(length) + 2 * BLOCK
        return find_room_anywhere(heap, length)
    if not end_if_allowed(heap, rules):
        return NULL
    found = find_room(heap, length)
    if likely(found != NULL):
        return found
    heap.state(Epochs).trace_next = u32(may_trace(heap))
    if not collect_if_allowed(heap, rules):
        return NULL
    heap.state(Space).left = max(heap.state(Space).left, u64(length) + 2 * BLOCK)
    return find_room_anywhere(heap, length)


@native
def find_room_anywhere(heap: Heap, length: u32) -> Ref:
    """The same when memory is short: in blocks that were passed over, too.

    There, the holes between objects are used, unless some of these may yet be freed in this epoch: there would be a
    hole of which nobody knows.
    """
    found = find_room(heap, length)
    if found == NULL:
        space = heap.state(Space)
        space.least_room = u32(has_pending(heap) or (heap.control.dead_externrefs != NULL))
        space.next_block = 0
        space.next_run = 0
        found = find_room(heap, length)
    return found


@inline
def write_header(heap: Heap, reference: Ref, kind: u32, type_index: u32, size: u32) -> None:
    """Make an object of the room for it. Nothing counts it yet."""
    header = heap.header_at(reference)
    header.kind_and_reserved = kind
    header.type_index = type_index
    header.ref_count = 0
    header.next_over_approximated_stack_root = NULL
    header.object_size = size
    if kind == VMGcKind.EXTERN_REF:
        append(heap, YOUNG_EXTERNREFS, reference)


@native
def free_leaf(heap: Heap, reference: Ref) -> None:
    """Free an object of which no owner and no child is left to see to."""
    length = block_length(heap.header_at(reference).object_size)
    if has_survived(heap, reference):
        freed = Tally()
        forget(heap, reference, freed)
        note_freed(heap, freed)
    else:
        count_freed(heap, 1, u64(length))
        fill(heap, reference, reference + length)
