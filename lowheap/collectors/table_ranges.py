"""Ranges of tables and element segments: growing, filling, copying, initialising, letting go.

Written once, for compiled code and for Python. A range is checked as a whole before anything is written: a function
that returns a bool returns whether it was within bounds, and has done nothing if not.

References that count go through the barriers one by one; of others, the bytes are moved. `shape` tells which they are.
Nothing here is a safepoint: what the caller has got hold of stays where it is.
"""

from __future__ import annotations

from lowheap.collectors.interface import Shape
from lowheap.collectors.shared.ranges import FAILED, is_within
from lowheap.layout import NULL, REFERENCE_SIZE, VMTable
from lowheap.native import Heap, Ref, copy_memory, inline, native, u64


@inline
def address_of_element(table: VMTable, index: u64) -> u64:
    """Where an element is."""
    return table.base + index * REFERENCE_SIZE


@native
def set_first(heap: Heap, table: VMTable, start: u64, value: Ref, count: u64, shape: Shape) -> None:
    """Give elements their first values; they are null as yet."""
    if value != NULL:
        address = address_of_element(table, start)
        for number in range(count):
            heap.collector.init(heap, NULL, heap.outside(address + number * REFERENCE_SIZE), value, shape)


@native
def grow(heap: Heap, table: VMTable, delta: u64, value: Ref, shape: Shape) -> u64:
    """Add elements, and return how many there were; `FAILED` when the table may not have as many."""
    length = table.length
    if delta > table.maximum - length:
        return FAILED
    set_first(heap, table, length, value, delta, shape)
    table.length = length + delta
    return length


@native
def fill(heap: Heap, table: VMTable, start: u64, value: Ref, count: u64, shape: Shape) -> bool:
    """Set elements of a table."""
    if not is_within(start, count, table.length):
        return False
    address = address_of_element(table, start)
    for number in range(count):
        heap.collector.write(heap, NULL, heap.outside(address + number * REFERENCE_SIZE), value, shape)
    return True


@native
def copy(heap: Heap, target: VMTable, source: VMTable, to: u64, start: u64, count: u64, shape: Shape) -> bool:
    """Copy elements of a table or a segment to a table, which may be the same one; the ranges may overlap."""
    if not (is_within(to, count, target.length) and is_within(start, count, source.length)):
        return False
    target_address = address_of_element(target, to)
    source_address = address_of_element(source, start)
    is_plain: bool = heap.collector.logs_ranges  # and tables are in no object
    if is_plain or not shape.is_counted:
        copy_memory(target_address, source_address, count * REFERENCE_SIZE)
        return True
    is_backwards = source_address < target_address
    for number in range(count):
        offset = (count - 1 - number if is_backwards else number) * REFERENCE_SIZE
        value = heap.outside(source_address + offset).value
        heap.collector.write(heap, NULL, heap.outside(target_address + offset), value, shape)
    return True


@native
def drop(heap: Heap, table: VMTable, shape: Shape) -> None:
    """Let go of all elements, and have none any more. `shape` allows for null."""
    if shape.is_counted:
        for number in range(table.length):
            slot = heap.outside(table.base + number * REFERENCE_SIZE)
            heap.collector.write(heap, NULL, slot, NULL, shape)
    table.length = 0
