"""Ranges of linear memories, data segments and arrays of numbers: growing, filling, copying, initialising.

Written once, for compiled code and for Python. A range is checked as a whole before anything is written: each function
returns whether it was within bounds, and has done nothing if not.
"""

from __future__ import annotations

from lowheap.collectors.shared.ranges import FAILED, is_within
from lowheap.layout import VMDataSegment, VMMemory
from lowheap.native import copy_memory, fill_memory, inline, native, u8, u32, u64

MOST_RESERVED_32, MOST_RESERVED_64 = 1 << 32, 1 << 36
"""Bytes of address space that a memory takes at most, with addresses of 32 and 64 bits; it grows no further."""


@native
def grow(memory: VMMemory, pages: u64, page_bits: u32) -> u64:
    """Add pages, and return how many there were; `FAILED` when the memory may not have as many."""
    length = memory.length
    bits = u64(page_bits)
    if pages > (memory.maximum - length) >> bits:
        return FAILED
    memory.length = length + (pages << bits)
    return length >> bits


@native
def fill(memory: VMMemory, start: u64, value: u8, count: u64) -> bool:
    """Set bytes of a memory."""
    if not is_within(start, count, memory.length):
        return False
    fill_memory(memory.base + start, value, count)
    return True


@native
def copy(target: VMMemory, source: VMMemory, to: u64, start: u64, count: u64) -> bool:
    """Copy bytes of a memory to another place, in it or in another memory; the ranges may overlap."""
    if not (is_within(to, count, target.length) and is_within(start, count, source.length)):
        return False
    copy_memory(target.base + to, source.base + start, count)
    return True


@native
def init(memory: VMMemory, segment: VMDataSegment, to: u64, start: u64, count: u64) -> bool:
    """Copy bytes of a data segment to a memory."""
    if not (is_within(to, count, memory.length) and is_within(start, count, segment.length)):
        return False
    copy_memory(memory.base + to, segment.base + start, count)
    return True


@inline
def has_elements(segment: VMDataSegment, start: u32, count: u32, size: u32) -> bool:
    """Whether a data segment has so many elements of an array, of so many bytes each, from byte `start` on."""
    return is_within(u64(start), u64(count) * u64(size), segment.length)


@inline
def init_elements(target: u64, segment: VMDataSegment, start: u32, count: u32, size: u32) -> None:
    """Copy elements from there to an address; they have been found to be there."""
    copy_memory(target, segment.base + u64(start), u64(count) * u64(size))
