"""Ranges of elements, of an array above all: the bounds checks, and in which order fill and copy go through them.

What is done with an element, its slot and its barrier, is the business of whoever loops over these.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.native import Heap, Ref, Slot, copy_memory, inline, u32, u64

FAILED = 2**64 - 1
"""What growing returns where there is no room: for a memory, for a table."""


@inline
def is_within(start: u64, count: u64, length: u64) -> bool:
    """Whether so many from `start` on, elements or bytes, are among the first `length`."""
    return count <= length and start <= length - count


@inline
def has_element(heap: Heap, array: Ref, index: u32) -> bool:
    """Whether an array has an element of that number."""
    return index < heap.array(array).length


@inline
def has_range(heap: Heap, array: Ref, start: u32, count: u32) -> bool:
    """Whether an array has so many elements from `start` on; none at its very end it has, too."""
    return u64(start) + u64(count) <= u64(heap.array(array).length)


@inline
def filled(count: u32) -> Iterator[u32]:
    """The numbers of a range's elements, in the order in which they are filled, or get their first values."""
    for number in range(count):
        yield number


@inline
def copied(target_start: u32, source_start: u32, count: u32) -> Iterator[u32]:
    """The numbers of a range's elements, in the order in which they are copied: backwards where, in one array, the
    source would be overwritten before it is read.
    """
    is_backwards = source_start < target_start
    for number in range(count):
        yield count - 1 - number if is_backwards else number


@inline
def log_nothing(heap: Heap, owner: Ref, slot: Slot, count: u32) -> None:
    """Each element is stored over by itself."""


@inline
def move(target: u64, source: u64, count: u32, size: u32) -> None:
    """Copy elements of so many bytes, which no barrier is for, between addresses; the ranges may overlap."""
    copy_memory(target, source, u64(count) * u64(size))
