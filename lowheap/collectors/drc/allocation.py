"""Allocating: find a block, collecting or growing where that is due, and write the header.

The policy, in order: collect if the list has doubled since the last collection; look for room; free pending objects
until there is room or none are left; then collect, if less than half of the capacity was live after the last
collection, or grow; at the maximum, collect, and merge free neighbours whether that pays or not.
"""

from __future__ import annotations

from lowheap.collectors.drc.collection import collect_all
from lowheap.collectors.drc.counting import free_pending
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.free_lists import carve, coalesce, find_block
from lowheap.collectors.shared.references import block_length
from lowheap.collectors.shared.sizing import LIST_FLOOR, PENDING_PORTION, grow
from lowheap.collectors.shared.types import array_size
from lowheap.errors import TrapCode
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    MAXIMUM_CAPACITY,
    NULL,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcKind,
)
from lowheap.native import Heap, Ref, inline, native, sizeof, u32, u64, unlikely

_LINK = VMDrcHeader.next_over_approximated_stack_root.offset


@inline
def list_has_doubled(heap: Heap) -> bool:
    """Whether the list alone is a reason to collect."""
    return heap.control.current_len >= max(heap.control.len_after_last_gc * 2, LIST_FLOOR)


@inline
def much_was_free(heap: Heap) -> bool:
    """Whether a collection is likely to make room."""
    return heap.control.live_bytes_after_last_collection * 2 < heap.control.capacity


@inline
def collect_if_allowed(heap: Heap, rules: FrameRules) -> bool:
    """Collect, unless a no-GC scope forbids it; False when the allocation must be given up."""
    if (heap.control.no_gc_count == 0) and unlikely(not collect_all(heap, rules)):
        return False
    return release_dead_externrefs(heap)


@inline
def release_dead_externrefs(heap: Heap) -> bool:
    """Have the host free the externrefs that died, if any did: their blocks may be the room that is wanted."""
    if unlikely(heap.control.dead_externrefs != NULL):
        return heap.release_externrefs() == 0
    return True


@native
def allocate_block(heap: Heap, rules: FrameRules, length: u32) -> Ref:
    """Return a block of `length` bytes by the policy, or null when nothing helps."""
    if list_has_doubled(heap) and not collect_if_allowed(heap, rules):
        return NULL
    found = find_block(heap, length)
    if found != NULL:
        return found
    while heap.control.pending_dead != NULL:
        free_pending(heap, PENDING_PORTION)
        if not release_dead_externrefs(heap):
            return NULL
        found = find_block(heap, length)
        if found != NULL:
            return found
    if much_was_free(heap):
        if not collect_if_allowed(heap, rules):
            return NULL
        found = find_block(heap, length)
        if found != NULL:
            return found
    if grow(heap, length):
        found = carve(heap, length)
        if found != NULL:
            return found
    if not collect_if_allowed(heap, rules):
        return NULL
    coalesce(heap)  # the last resort, whether it pays or not
    return carve(heap, length)


@inline
def write_header(heap: Heap, reference: Ref, kind: u32, type_index: u32, size: u32) -> None:
    """Make an object of a block: one count, the caller's, and on no list."""
    header = heap.header_at(reference)
    header.kind_and_reserved = kind
    header.type_index = type_index
    header.ref_count = 1
    header.next_over_approximated_stack_root = NULL
    header.object_size = size
    heap.control.objects_allocated += 1
    heap.control.bytes_allocated += u64(block_length(size))


@inline
def write_listed_header(heap: Heap, reference: Ref, kind: u32, type_index: u32, size: u32) -> None:
    """Make an object of a block whose one count is the list's, in as few stores as that takes."""
    control = heap.control
    head = control.over_approximated_stack_roots
    word = kind | HEADER_IN_OVER_APPROX_LIST_BIT
    heap.cell(u64, reference, VMDrcHeader.kind_and_reserved.offset).value = u64(word) | u64(type_index) << 32
    heap.cell(u64, reference, VMDrcHeader.ref_count.offset).value = 1
    heap.cell(u64, reference, _LINK).value = u64(head) | u64(size) << 32
    control.over_approximated_stack_roots = reference
    control.current_len += 1
    control.objects_allocated += 1
    control.bytes_allocated += u64(block_length(size))


@inline
def allocate_object(heap: Heap, rules: FrameRules, kind: u32, type_index: u32, size: u32) -> Ref:
    """Allocate an object whose fields are not initialised; null, with a trap code set, when there is no room."""
    reference = allocate_block(heap, rules, block_length(size))
    if unlikely(reference == NULL):
        heap.store_context.trap_code = TrapCode.HEAP_EXHAUSTED
        return NULL
    write_header(heap, reference, kind, type_index, size)
    return reference


@native
def allocate_struct(heap: Heap, rules: FrameRules, type_index: u32) -> Ref:
    """Allocate a struct whose fields are not initialised; null, with a trap code set, when there is no room."""
    size = heap.type_info(type_index).size_or_elements_offset
    return allocate_object(heap, rules, VMGcKind.STRUCT_REF, type_index, size)


@native
def allocate_array(heap: Heap, rules: FrameRules, type_index: u32, length: u32) -> Ref:
    """Allocate an array whose elements are not initialised; null, with a trap code set, when that cannot be."""
    size = array_size(heap, type_index, length)
    if size > MAXIMUM_CAPACITY - FIRST_INDEX:  # both multiples of a block's alignment: so no block's length is either
        heap.store_context.trap_code = TrapCode.ALLOCATION_TOO_LARGE
        return NULL
    array = allocate_object(heap, rules, VMGcKind.ARRAY_REF, type_index, u32(size))
    if array != NULL:
        heap.array(array).length = length
    return array


@native
def allocate_externref(heap: Heap, rules: FrameRules) -> Ref:
    """Allocate an externref without host data; null, with a trap code set, when there is no room."""
    return allocate_object(heap, rules, VMGcKind.EXTERN_REF, EXTERNREF_TYPE_INDEX, sizeof(VMDrcExternRef))
