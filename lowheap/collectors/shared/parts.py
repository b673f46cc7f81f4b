"""What a collector keeps of its own besides header bits, as bytes: states, buffers, side tables (`native/storage.py`).

Whoever copies a heap copies as much of each part as is in use: a state whole, of a buffer its length and so many
entries, of a side table what belongs to the heap's bytes up to the bump pointer. A buffer whose length is beyond its
room has no entries for them.
"""

from __future__ import annotations

from lowheap.layout import VMCollectorPart, VMPartKind
from lowheap.native import Heap, address_of, cell, inline, native, problem, u32, u64
from lowheap.native.storage import ENTRIES_OFFSET


@inline
def part_at(heap: Heap, part: VMCollectorPart) -> u64:
    """Return the address where a part begins."""
    return address_of(heap.control) + part.offset


@inline
def length_of_part(heap: Heap, part: VMCollectorPart) -> u64:
    """Return how many entries a buffer says that it has; 0 for what is none."""
    if part.kind == VMPartKind.BUFFER:
        length: u64 = cell(u64, part_at(heap, part)).value
        return length
    return 0


@inline
def content_at(heap: Heap, part: VMCollectorPart) -> u64:
    """Return the address of what is in a part: of a buffer, of its entries."""
    if part.kind == VMPartKind.BUFFER:
        return part_at(heap, part) + ENTRIES_OFFSET
    return part_at(heap, part)


@inline
def size_of_content(heap: Heap, part: VMCollectorPart) -> u64:
    """Return how many bytes of that are in use."""
    return size_in_use(part, length_of_part(heap, part), heap.control.bump)


@native
def size_in_use(part: VMCollectorPart, length: u64, bump: u32) -> u64:
    """Return the same of a part by what it is, the length that a buffer says, and where the blocks end."""
    size: u64 = part.limit
    if part.kind == VMPartKind.BUFFER:
        return length * u64(part.entry_size) if length <= size // u64(part.entry_size) else 0
    if part.kind == VMPartKind.SIDE_TABLE:
        granule: u64 = 1 << u64(part.shift)
        size = ((u64(bump) + granule - 1) >> u64(part.shift)) * u64(part.entry_size)
    return size


@native
def verify_parts(heap: Heap) -> None:
    """Check that no buffer says to be longer than it can be."""
    for number in range(heap.part_count()):
        part = heap.part(number)
        length = length_of_part(heap, part)
        room = part.limit // u64(part.entry_size)
        if length > room:
            problem(
                heap, "part {} of what the collector keeps has {} entries; there is room for {}", number, length, room
            )
