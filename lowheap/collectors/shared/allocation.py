"""Allocating: find a block, collecting or growing where that is due, and write the header.

The policy, in order: collect if the collector says that it is time; look for room; free what waits to be freed until
there is room or nothing waits; then collect, if less than half of the capacity was live after the last collection, or
grow; at the maximum, collect, and merge free neighbours whether that pays or not. Before it grows, it searches for
cycles, if the collector says that it is time, and grows all the same unless less than half is live then; and before it
gives up. A store may grow first instead, as wasmtime does, and search for no cycles: `allocate_block_growing_first`.
"""

from __future__ import annotations

from lowheap.collectors.shared.externrefs import release_dead_externrefs
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.free_lists import carve, coalesce, find_block, give_back
from lowheap.collectors.shared.references import block_length
from lowheap.collectors.shared.sizing import PENDING_PORTION, count_freed, grow, grow_by_all
from lowheap.collectors.shared.types import array_size
from lowheap.errors import TrapCode
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    MAXIMUM_CAPACITY,
    NULL,
    VMDrcExternRef,
    VMGcKind,
)
from lowheap.native import Heap, Ref, inline, likely, native, sizeof, u32, u64, unlikely


@inline
def much_was_free(heap: Heap) -> bool:
    """Whether a collection is likely to make room."""
    return heap.control.live_bytes_after_last_collection * 2 < heap.control.capacity


@inline
def collect_if_allowed(heap: Heap, rules: FrameRules) -> bool:
    """Collect, unless a no-GC scope forbids it; False when the allocation must be given up."""
    if (heap.control.no_gc_count == 0) and unlikely(not heap.collector.collect(heap, rules)):
        return False
    return release_dead_externrefs(heap)


@inline
def is_search_due(heap: Heap, at_last: bool) -> bool:
    """Whether it is time to search for cycles, and allowed."""
    return (heap.control.no_gc_count == 0) and heap.collector.is_search_due(heap, at_last)


@inline
def collect_cycles(heap: Heap, rules: FrameRules, only_if_due: bool) -> bool:
    """Collect, and search for cycles, which is allowed; False when the allocation must be given up."""
    if unlikely(not heap.collector.collect_cycles(heap, rules, only_if_due)):
        return False
    return release_dead_externrefs(heap)


@inline
def find_after_freeing(heap: Heap, length: u32) -> Ref:
    """Look for room, and free what waits to be freed, a portion at a time, until there is some; or null."""
    found = find_block(heap, length)
    if found != NULL:
        return found
    while heap.collector.has_pending(heap):
        heap.collector.free_pending(heap, PENDING_PORTION)
        if not release_dead_externrefs(heap):
            return NULL
        found = find_block(heap, length)
        if found != NULL:
            return found
    return NULL


@inline
def coalesce_and_carve(heap: Heap, length: u32) -> Ref:
    """Merge free neighbours, whether that pays or not, and look for room: the last resort; or null."""
    coalesce(heap)
    return carve(heap, length)


@native
def allocate_block(heap: Heap, rules: FrameRules, length: u32) -> Ref:
    """Return a block of `length` bytes by the policy that collects first, or null when nothing helps."""
    if heap.collector.is_due(heap) and not collect_if_allowed(heap, rules):
        return NULL
    found = find_after_freeing(heap, length)
    if found != NULL:
        return found
    if much_was_free(heap):
        if not collect_if_allowed(heap, rules):
            return NULL
        found = find_block(heap, length)
        if found != NULL:
            return found
    if unlikely(is_search_due(heap, False)):
        if not collect_cycles(heap, rules, True):
            return NULL
        found = find_block(heap, length) if much_was_free(heap) else NULL
        if found != NULL:
            return found
    if grow(heap, length):
        found = carve(heap, length)
        if found != NULL:
            return found
    if not collect_if_allowed(heap, rules):
        return NULL
    found = coalesce_and_carve(heap, length)
    if (found == NULL) and is_search_due(heap, True) and collect_cycles(heap, rules, False):
        found = coalesce_and_carve(heap, length)
    return found


@native
def allocate_block_growing_first(heap: Heap, rules: FrameRules, length: u32) -> Ref:
    """Return a block of `length` bytes by wasmtime's policy, which collects at the maximum only; or null."""
    found = find_after_freeing(heap, length)
    if found != NULL:
        return found
    if grow_by_all(heap, length):
        found = carve(heap, length)
        if found != NULL:
            return found
    if not collect_if_allowed(heap, rules):
        return NULL
    return coalesce_and_carve(heap, length)


@inline
def write_header(heap: Heap, reference: Ref, kind: u32, type_index: u32, size: u32) -> None:
    """Make an object of a block, with one count, the caller's."""
    header = heap.header_at(reference)
    header.kind_and_reserved = kind
    header.type_index = type_index
    header.ref_count = 1
    header.next_over_approximated_stack_root = NULL
    header.object_size = size
    heap.control.objects_allocated += 1
    heap.control.bytes_allocated += u64(block_length(size))


@inline
def allocate_at_once(heap: Heap, kind: u32, type_index: u32, size: u32, length: u32) -> Ref:
    """Make an object of a block of `length` bytes that is at hand; null where none is."""
    reference: Ref = heap.collector.allocate_small(heap, length)
    if likely(reference != NULL):
        heap.collector.write_header(heap, reference, kind, type_index, size)
    return reference


@inline
def allocate_object(heap: Heap, rules: FrameRules, kind: u32, type_index: u32, size: u32) -> Ref:
    """Allocate an object whose fields are not initialised; null, with a trap code set, when there is no room."""
    reference: Ref = heap.collector.allocate_block(heap, rules, block_length(size))
    if unlikely(reference == NULL):
        heap.store_context.trap_code = TrapCode.HEAP_EXHAUSTED
        return NULL
    heap.collector.write_header(heap, reference, kind, type_index, size)
    return reference


@native
def allocate_struct(heap: Heap, rules: FrameRules, type_index: u32) -> Ref:
    """Allocate a struct whose fields are not initialised; null, with a trap code set, when there is no room.

    Of a function type, an exception whose tag has it.
    """
    info = heap.type_info(type_index)
    return allocate_object(heap, rules, info.kind, type_index, info.size_or_elements_offset)


@native
def allocate_array(heap: Heap, rules: FrameRules, type_index: u32, length: u32) -> Ref:
    """Allocate an array whose elements are not initialised; null, with a trap code set, when that cannot be."""
    size = array_size(heap, type_index, length)
    if size > MAXIMUM_CAPACITY - FIRST_INDEX:  # both multiples of a block's alignment: so no block's length is either
        heap.store_context.trap_code = TrapCode.ALLOCATION_TOO_LARGE
        return NULL
    array = allocate_object(heap, rules, heap.type_info(type_index).kind, type_index, u32(size))
    if array != NULL:
        heap.array(array).length = length
    return array


@native
def allocate_externref(heap: Heap, rules: FrameRules) -> Ref:
    """Allocate an externref without host data; null, with a trap code set, when there is no room."""
    return allocate_object(heap, rules, VMGcKind.EXTERN_REF, EXTERNREF_TYPE_INDEX, sizeof(VMDrcExternRef))


@native
def free_leaf(heap: Heap, reference: Ref) -> None:
    """Free an object of which no owner and no child is left to see to."""
    length = block_length(heap.header_at(reference).object_size)
    give_back(heap, reference, length)
    count_freed(heap, 1, u64(length))
