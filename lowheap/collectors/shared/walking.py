"""Walking the heap: every block, live or free, in address order.

A walk trusts nothing. Each length is looked at before it is gone by, so that whatever the bytes are, a walk comes to an
end, and reads nothing beyond the bump pointer; where a block does not lead to the next, that is a problem, and the end.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    KIND_ARRAY_BIT,
    KIND_MASK,
    MINIMUM_OBJECT_BLOCK,
    NULL,
    OBJECT_KINDS,
    VMObjectInfo,
)
from lowheap.native import Heap, Ref, address_of, at, inline, local_array, native, problem, sizeof, u32, u64

_INFO_WORDS = sizeof(VMObjectInfo) // 8


@inline
def is_free(heap: Heap, index: Ref) -> bool:
    """Whether the block at an index is free."""
    return heap.block(index).kind_and_reserved == 0


@inline
def length_of_block(heap: Heap, index: Ref) -> u64:
    """How many bytes the block at an index says that it has."""
    block = heap.block(index)
    if block.kind_and_reserved == 0:
        return u64(block.length)
    return (u64(heap.header_at(index).object_size) + (BLOCK_ALIGN - 1)) & ~(BLOCK_ALIGN - 1)


@inline
def blocks(heap: Heap) -> Iterator[Ref]:
    """Yield the index of every block up to the bump pointer, which is a multiple of `BLOCK_ALIGN`."""
    bump = u64(heap.control.bump)
    place: u64 = FIRST_INDEX
    while place < bump:
        index = u32(place)
        if is_free(heap, index):
            length = u64(heap.block(index).length)
            if (length == 0) or (length & (BLOCK_ALIGN - 1) != 0) or (length > bump - place):
                problem(heap, "free block at {:#x} claims {} bytes; the bump pointer is at {:#x}", index, length, bump)
                return
        else:
            if bump - place < MINIMUM_OBJECT_BLOCK:
                problem(heap, "object at {:#x} has no room for its header; the bump pointer is at {:#x}", index, bump)
                return
            length = length_of_block(heap, index)
            if (length < MINIMUM_OBJECT_BLOCK) or (length > bump - place):
                problem(heap, "object at {:#x} claims {} bytes; the bump pointer is at {:#x}", index, length, bump)
                return
        yield index
        place += length


@inline
def verify_bounds(heap: Heap) -> None:
    """Check what a walk relies on: the blocks end where they can."""
    control = heap.control
    bump = control.bump
    end = control.bump_end
    if (bump < FIRST_INDEX) or (bump > end) or (u64(end) > max(control.capacity, FIRST_INDEX)):
        problem(
            heap,
            "bump pointer {:#x}, its end {:#x} and the capacity {:#x} are out of order",
            bump,
            end,
            control.capacity,
        )
    if bump & (BLOCK_ALIGN - 1) != 0:
        problem(heap, "bump pointer {:#x} is not a multiple of {}", bump, BLOCK_ALIGN)


@native
def walk(heap: Heap, visitor: u64, argument: u64) -> tuple[u32, Ref]:
    """Call a visitor for each object, until it returns another number than 0; that, and where. (0, null) at the end."""
    verify_bounds(heap)
    if heap.problem_count() != 0:
        return 0, NULL
    words = local_array(u64, _INFO_WORDS)
    info = at(VMObjectInfo, address_of(words))
    for index in heap.collector.blocks(heap):
        if not is_free(heap, index):
            header = heap.header_at(index)
            kind = header.kind_and_reserved & KIND_MASK
            if kind not in OBJECT_KINDS:
                problem(heap, "object {:#x} has kind word {:#x}, which is no kind", index, header.kind_and_reserved)
                break
            info.ref_count = header.ref_count
            info.reference = index
            info.kind = kind
            info.type_index = header.type_index
            info.size = header.object_size
            info.length = 0
            if kind & KIND_ARRAY_BIT != 0:
                info.length = heap.array(index).length
            info.is_listed = u32(header.kind_and_reserved & HEADER_IN_OVER_APPROX_LIST_BIT != 0)
            returned = heap.visit(visitor, argument, address_of(info))
            if returned != 0:
                return returned, index
    return 0, NULL
