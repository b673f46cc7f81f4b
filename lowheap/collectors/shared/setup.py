"""Setting up a control block, which is all zero: where its tables are, and what memory the heap has.

No heap is there yet, so these functions take addresses. The structure has a name of its own here because what is set up
once is invariant afterwards, and may not be stored to by that name.
"""

from __future__ import annotations

from lowheap.collectors.shared.references import end_of_blocks
from lowheap.layout import (
    CONTROL_ATTACHED,
    FIRST_INDEX,
    HANDLES_OFFSET,
    HOST_DATA_OFFSET,
    ROOT_RANGES_OFFSET,
    ROOT_SLOTS_OFFSET,
    TYPE_DATA_OFFSET,
    TYPE_TABLE_OFFSET,
    VMHeapControl,
)
from lowheap.native import at, inline, u64


class NewHeapControl(VMHeapControl):
    """A control block that no code relies on yet."""


@inline
def set_up_tables(control: u64, mapping: u64) -> None:
    """Note where the tables are in a control mapping."""
    new = at(NewHeapControl, control)
    new.type_table = mapping + TYPE_TABLE_OFFSET
    new.type_data = mapping + TYPE_DATA_OFFSET
    new.handles = mapping + HANDLES_OFFSET
    new.root_slots = mapping + ROOT_SLOTS_OFFSET
    new.root_ranges = mapping + ROOT_RANGES_OFFSET
    new.host_data = mapping + HOST_DATA_OFFSET


@inline
def set_up_memory(control: u64, base: u64, capacity: u64, maximum: u64) -> None:
    """Note where the heap's memory is, and how much of it the heap has, now and at most."""
    new = at(NewHeapControl, control)
    new.heap_base = base
    new.capacity = capacity
    new.maximum = maximum
    new.flags |= CONTROL_ATTACHED


@inline
def set_up_bump(control: u64) -> None:
    """Make all of the capacity one bump region."""
    at(NewHeapControl, control).bump = FIRST_INDEX
    extend_bump(control)


@inline
def extend_bump(control: u64) -> None:
    """Extend the bump region to the end of the capacity."""
    new = at(NewHeapControl, control)
    new.bump_end = end_of_blocks(new.capacity)
