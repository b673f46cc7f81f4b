"""What a call of the checked library begins and ends with, written once: a look at the heap, and the flag of who is in.

A second call is kept out while one is at work on the heap: from a callback, from a finalizer of a heap that is being
destroyed, from another thread. What a collection by Python has traced, but not swept, must not be allocated or read in
between.
"""

from __future__ import annotations

from lowheap.embed.api import abi_hash
from lowheap.errors import Status
from lowheap.layout import CONTROL_ATTACHED, CollectionPhase, VMHeapControl
from lowheap.native import Heap, at, compare_exchange, inline, place, u32

_ABI = abi_hash()


@inline
def look(heap: Heap) -> u32:
    """Return LH_OK, or LH_DETACHED: a heap of Python's may have lost its memory since C was given it."""
    control = at(VMHeapControl, heap.interface.control)
    if (control.flags & CONTROL_ATTACHED) == 0 or control.heap_base != heap.interface.heap_base:
        return Status.DETACHED
    return Status.OK


@inline
def enter(heap: Heap, collector: u32, is_at_any_time: bool) -> u32:
    """Begin a call. Returns LH_OK, or the status of a call that may not begin; then nothing has changed.

    `collector` is the number of the one that the function is for. `is_at_any_time`: it may come between the trace and
    the sweep of a collection by Python, and to a heap that has lost its memory, since it trusts nothing.
    """
    interface = heap.interface
    if interface.abi != _ABI:  # so what else would be read may be anywhere
        return Status.ABI
    if interface.collector != collector:
        return Status.ABI
    if not is_at_any_time:
        status = look(heap)
        if status != Status.OK:
            return status
        if at(VMHeapControl, interface.control).phase != CollectionPhase.IDLE:
            return Status.BUSY
    if not compare_exchange(place(interface, "is_busy"), 0, 1):
        return Status.BUSY
    return Status.OK


@inline
def leave(heap: Heap) -> None:
    """End a call that was begun."""
    was_busy = compare_exchange(place(heap.interface, "is_busy"), 1, 0)
    assert was_busy, "nobody else ends it"
