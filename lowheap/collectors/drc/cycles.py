"""The search for garbage that only cycles keep: `shared/cycles.py` on this collector's lists.

It comes directly behind a sweep. Then the list is precisely what frames hold; so the roots are the list, the handles,
and the registered slots and ranges. What is found goes in front of the pending dead objects, and is freed as these are:
all at once, or by increments with a budget.

It is time for a search when as much lives as `cycle_limit` says, at least the collector's `cycle_floor` in bytes: twice
as much as the last search has left; or, if that was in vain, and freed less than an eighth of what it looked at, four
times as much; but no more than takes half of the room that there is up to the heap's maximum. Allocation asks before a
heap grows: so what a search costs, a part of what it took to make the objects, is paid once for each time that they
have become so many more. And it is time before an allocation fails.
"""

from __future__ import annotations

from lowheap.collectors.shared.cycles import (
    check_references,
    cut,
    mark,
    mark_all,
    mark_reachable,
    mark_waiting,
    return_counts,
    separate,
    take_counts,
)
from lowheap.collectors.shared.roots import Root, counted_roots
from lowheap.collectors.shared.sizing import NO_SEARCH, live_bytes
from lowheap.layout import NULL
from lowheap.native import Heap, Ref, inline, native, u64

VAIN_FRACTION = 8
"""A search was in vain if it found less than this part of the bytes that it looked at,"""

VAIN_FACTOR = 4
"""and then so many times as much must live before the next; else twice as much."""

ATTEMPTS = 2
"""Begun anew, because somebody unknown owns an object, a search comes to its end, unless counts are wrong."""


@inline
def is_search_due(heap: Heap, at_last: bool) -> bool:
    """Whether to search for cycles: before the heap grows, or, `at_last`, before an allocation fails."""
    limit = heap.control.cycle_limit
    if not heap.collector.searches_for_cycles or (limit == NO_SEARCH):
        return False
    floor: u64 = heap.collector.cycle_floor
    return at_last or (live_bytes(heap) >= max(limit, floor))


@native
def mark_live(heap: Heap, held: Ref) -> None:
    """Mark what the roots reach, and the objects of a chain; and what waits to be freed."""
    stack = mark_all(heap, held, NULL)
    for root in counted_roots(heap, Root()):
        stack = mark(heap, root, stack)
    mark_reachable(heap, stack, heap.control.over_approximated_stack_roots)
    mark_waiting(heap, heap.control.pending_dead)
    mark_waiting(heap, heap.control.dead_externrefs)


@native
def find_cycles(heap: Heap) -> None:
    """Have what no root reaches wait to be freed; a sweep has just been."""
    control = heap.control
    waiting = control.pending_dead
    held: Ref = NULL
    found: u64 = 0
    looked_at = live_bytes(heap)
    for _attempt in range(ATTEMPTS):
        mark_live(heap, held)
        first, counts, number, size = separate(heap, waiting)
        if first == waiting:
            break
        if heap.may_raise:
            check_references(heap, first)
        if counts == take_counts(heap, first):
            cut(heap, first)
            control.pending_dead = first
            control.cyclic_objects += number
            control.cyclic_bytes += size
            found = size
            break
        held = return_counts(heap, first, waiting)
    control.cycle_searches += 1
    set_limit(heap, looked_at, found)


@inline
def set_limit(heap: Heap, looked_at: u64, found: u64) -> None:
    """Say how much may live before the next search."""
    control = heap.control
    if control.cycle_limit != NO_SEARCH:
        factor: u64 = VAIN_FACTOR if found * VAIN_FRACTION < looked_at else 2
        left = looked_at - found
        control.cycle_limit = min(left * factor, (left + max(left, control.maximum)) // 2)
