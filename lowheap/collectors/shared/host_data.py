"""The ids of the side table behind externrefs: which are in use, and what their entries say.

`free_host_data` in the control block is the first free id plus 1, and each free entry has the next one's likewise.
"""

from __future__ import annotations

from lowheap.layout import HOST_DATA_LIMIT, VMHostData, VMHostDataOwner
from lowheap.native import Heap, at, inline, sizeof, u32, u64


@inline
def entry_of(heap: Heap, number: u32) -> VMHostData:
    """The entry of an id."""
    return at(VMHostData, heap.control.host_data + u64(number) * sizeof(VMHostData))


@inline
def has_free_id(heap: Heap) -> bool:
    """Whether an id is left."""
    return (heap.control.free_host_data != 0) | (heap.control.host_data_count < HOST_DATA_LIMIT)


@inline
def take_id(heap: Heap, owner: u32, data: u64, finalizer: u64) -> u32:
    """Take an id, of which one is left, into use, and return it."""
    control = heap.control
    number = control.host_data_count
    if control.free_host_data == 0:
        control.host_data_count = number + 1
    else:
        number = control.free_host_data - 1
        control.free_host_data = entry_of(heap, number).next_free
    entry = entry_of(heap, number)
    entry.data = data
    entry.finalizer = finalizer
    entry.next_free = 0
    entry.owner = owner
    return number


@inline
def free_id(heap: Heap, number: u32) -> None:
    """Take an id out of use."""
    entry = entry_of(heap, number)
    entry.data = 0
    entry.finalizer = 0
    entry.owner = VMHostDataOwner.NOBODY
    entry.next_free = heap.control.free_host_data
    heap.control.free_host_data = number + 1
