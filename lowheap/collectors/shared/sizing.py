"""How a heap grows, and when it is time to collect: what all collectors share."""

from __future__ import annotations

from lowheap.collectors.shared.references import end_of_blocks
from lowheap.layout import FIRST_INDEX, VMHeapStatistics
from lowheap.native import Heap, inline, native, u32, u64

GROWTH_GRANULE = 1 << 16
"""A heap grows by a multiple of so many bytes."""

LIST_FLOOR = 1 << 14
"""A list, or a table, of fewer entries than this is never a reason to collect."""

PENDING_PORTION = 1 << 10
"""How many pending dead objects an allocation that found no room frees at a time."""

UNLIMITED = (1 << 64) - 1
"""The budget that frees all pending dead objects."""

NO_SEARCH = (1 << 64) - 1
"""The `cycle_limit` of a heap in which cycles are searched for only when somebody asks."""

CYCLE_FLOOR = 1 << 20
"""As long as fewer bytes live than this, no search for cycles is due."""


@inline
def live_bytes(heap: Heap) -> u64:
    """The bytes of the blocks of the objects that are not freed."""
    return heap.control.bytes_allocated - heap.control.bytes_freed


@inline
def note_peak(heap: Heap) -> None:
    """Compiled code allocates without a look at the peak; whatever is about to free looks."""
    heap.control.peak_live_bytes = max(heap.control.peak_live_bytes, live_bytes(heap))


@inline
def count_freed(heap: Heap, objects: u64, size: u64) -> None:
    """Add to the heap's figures what was freed: so many objects, and the bytes of their blocks."""
    heap.control.objects_freed += objects
    heap.control.bytes_freed += size


@inline
def figures_are_settled(heap: Heap) -> None:
    """Nothing: the figures say at once what was made."""


@inline
def statistics(heap: Heap, result: VMHeapStatistics) -> None:
    """Write a heap's figures down, which are settled."""
    control = heap.control
    result.objects_allocated = control.objects_allocated
    result.objects_freed = control.objects_freed
    result.bytes_allocated = control.bytes_allocated
    result.bytes_freed = control.bytes_freed
    result.peak_live_bytes = max(control.peak_live_bytes, live_bytes(heap))
    result.live_objects = control.objects_allocated - control.objects_freed
    result.live_bytes = live_bytes(heap)
    result.collections = control.collections
    result.growths = control.growths
    result.coalescings = control.coalescings
    result.cycle_searches = control.cycle_searches
    result.cyclic_objects = control.cyclic_objects
    result.cyclic_bytes = control.cyclic_bytes
    result.capacity = control.capacity
    result.maximum = control.maximum
    result.listed = u64(control.current_len)
    result.peak_committed = control.capacity
    result.pauses = 0
    result.paused_nanoseconds = 0
    result.longest_pause_nanoseconds = 0


@inline
def tell_no_further_figures(heap: Heap, figures: VMHeapStatistics) -> None:
    """Nothing: the heap never gives memory back, and pauses are not measured."""


@inline
def grow_to(heap: Heap, end: u64) -> bool:
    """Double the capacity, or more, so that it reaches an end, up to the maximum; False when it is there.

    The memory is mapped already.
    """
    control = heap.control
    capacity = control.capacity
    wanted = (max(capacity * 2, end) + (GROWTH_GRANULE - 1)) & ~(GROWTH_GRANULE - 1)
    target = min(wanted, control.maximum)
    if target == capacity:
        return False
    control.capacity = target
    control.bump_end = end_of_blocks(target)
    control.growths += 1
    return True


@native
def grow(heap: Heap, bytes_needed: u32) -> bool:
    """Grow by as much as is needed beyond the bump pointer, or double."""
    return grow_to(heap, u64(heap.control.bump) + u64(bytes_needed))


@native
def grow_by_all(heap: Heap, bytes_needed: u32) -> bool:
    """Grow by all that is needed, whatever is free at the end, or double; or not at all: as wasmtime 37 to 43 does."""
    control = heap.control
    end = max(control.capacity, FIRST_INDEX) + u64(bytes_needed)
    most = (control.maximum + (GROWTH_GRANULE - 1)) & ~(GROWTH_GRANULE - 1)
    if end > most:
        return False
    return grow_to(heap, end)
