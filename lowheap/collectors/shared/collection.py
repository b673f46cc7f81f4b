"""A collection, as all collectors have it: trace, sweep, free.

The trace walks the frames, and has the collector hold every reference that one of them holds. What the sweep lets go of
is the collector's affair.
"""

from __future__ import annotations

from lowheap.collectors.shared.access import SOUND, object_problem
from lowheap.collectors.shared.frames import FrameRules, held_by_code, held_by_hosts, host_slots
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.sizing import UNLIMITED, live_bytes, note_peak
from lowheap.native import Heap, Ref, address_of, inline, native, u64, unlikely


@inline
def hold(heap: Heap, reference: Ref) -> bool:
    """Have the collector hold what a frame holds; False, and the store context tells, if its rules exclude that."""
    if is_object(reference) and unlikely(not heap.collector.hold(heap, reference)):
        heap.store_context.unsound_root = reference
        return False
    return True


@native
def trace(heap: Heap, rules: FrameRules) -> bool:
    """Have what every frame of every activation holds held, and what the host's frames hold.

    False for a frame that is not known, or that holds what it cannot hold: the store context tells which.
    """
    if rules.checks_hosts and unlikely(unsound_slot(heap) != 0):
        return False
    if rules.has_code:
        for reference in held_by_code(heap, rules):
            if unlikely(not hold(heap, reference)):
                return False
        if unlikely(heap.store_context.unknown_return_address != 0):
            return False
    for held in held_by_hosts(heap):
        if unlikely(not hold(heap, held)):
            return False
    return True


@native
def unsound_slot(heap: Heap) -> u64:
    """The address of a slot of a host's frame that holds neither null nor an i31 nor what it may hold; 0: none does.

    Nothing is taken for granted of what a slot holds.
    """
    for slot in host_slots(heap):
        reference = slot.value
        if is_object(reference):
            if object_problem(heap, reference) != SOUND:
                return address_of(slot)
            if not heap.collector.may_be_held(heap, reference):
                return address_of(slot)
    return 0


@inline
def finish_sweep(heap: Heap) -> None:
    """Note what a sweep has left."""
    control = heap.control
    control.live_bytes_after_last_collection = live_bytes(heap)
    control.collections += 1


@native
def collect(heap: Heap, rules: FrameRules) -> bool:
    """Collect, all at once, and free what earlier ones have left; False, with nothing done, if a frame is wrong."""
    note_peak(heap)
    if unlikely(not trace(heap, rules)):
        heap.collector.forget_held(heap)
        return False
    heap.collector.sweep(heap)
    heap.collector.free_pending(heap, UNLIMITED)
    finish_sweep(heap)
    return True


@native
def collect_cycles(heap: Heap, rules: FrameRules, only_if_due: bool) -> bool:
    """Collect, then search for cycles, and free what only they keep; False, with nothing done, if a frame is wrong.

    `only_if_due`: there is no search if so little lives then that none is due.
    """
    if unlikely(not heap.collector.collect(heap, rules)):
        return False
    if not only_if_due or heap.collector.is_search_due(heap, False):
        heap.collector.find_cycles(heap)
        heap.collector.free_pending(heap, UNLIMITED)
    return True


@inline
def find_no_cycles(heap: Heap) -> None:
    """There is no search for cycles."""


@inline
def is_no_search_due(heap: Heap, at_last: bool) -> bool:
    """So none is ever due."""
    return False
