"""What an object refers to, as its type's entry in the type table tells."""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    HEADER_SIZE,
    KIND_ARRAY_BIT,
    REFERENCE_SIZE,
)
from lowheap.native import Heap, Ref, Slot, ctz, inline, u32, unlikely


@inline
def children(heap: Heap, reference: Ref, type_index: u32) -> Iterator[Ref]:
    """Yield what is in the traced slots of an object of a type; it is no externref."""
    for slot in traced_slots(heap, reference, type_index):
        yield slot.value


@inline
def traced_slots(heap: Heap, reference: Ref, type_index: u32) -> Iterator[Slot]:
    """Yield the traced slots of an object of a type; it is no externref.

    Those of most types are bits of one word. An array of references, and a struct that is too large, are beyond it.
    """
    for slot in masked_slots(heap, reference, type_index):
        yield slot
    if unlikely(heap.type_info(type_index).is_beyond_mask != 0):
        for slot in slots_beyond(heap, reference, type_index):
            yield slot


@inline
def masked_slots(heap: Heap, reference: Ref, type_index: u32) -> Iterator[Slot]:
    """Yield the traced slots that are bits of the type's mask."""
    mask = heap.type_info(type_index).traced_mask
    while mask != 0:
        yield heap.slot(reference, ctz(mask) * REFERENCE_SIZE + HEADER_SIZE)
        mask &= mask - 1


@inline
def slots_beyond(heap: Heap, reference: Ref, type_index: u32) -> Iterator[Slot]:
    """Yield the traced slots of an object whose type's are beyond the mask."""
    info = heap.type_info(type_index)
    if info.kind & KIND_ARRAY_BIT != 0:
        start = info.size_or_elements_offset
        for number in range(heap.array(reference).length):
            yield heap.slot(reference, start + number * REFERENCE_SIZE)
    else:
        first = info.traced_offsets_start
        for number in range(info.traced_count):
            yield heap.slot(reference, heap.type_data(first + number))


@inline
def is_leaf(heap: Heap, reference: Ref) -> bool:
    """Whether an object refers to nothing, by its type, and is no externref."""
    type_index = heap.header(reference).type_index
    if type_index == EXTERNREF_TYPE_INDEX:
        return False
    info = heap.type_info(type_index)
    return (info.traced_mask == 0) and (info.is_beyond_mask == 0)


@inline
def references_of(heap: Heap, reference: Ref) -> Iterator[Ref]:
    """Yield what is in the traced slots of any object."""
    type_index = heap.header(reference).type_index
    if type_index != EXTERNREF_TYPE_INDEX:
        for child in children(heap, reference, type_index):
            yield child
