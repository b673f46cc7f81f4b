"""The collector that collects nothing: plain loads and stores."""

from __future__ import annotations

from lowheap.collectors.interface import Collector, Shape
from lowheap.native import Heap, Ref, Slot, event, inline


@event
def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
    """Load."""
    return slot.value


@event
def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """Store."""
    slot.value = value


@inline
def allocated(heap: Heap, reference: Ref) -> None:
    """Nothing."""


@event
def nothing(heap: Heap, reference: Ref, shape: Shape) -> None:
    """Nothing."""


class Null(Collector):
    """Nothing is counted, so nothing can be freed."""

    name = "null"
    counts = False

    read = read
    write = write
    init = write
    allocated = allocated
    inc_ref = nothing
    dec_ref = nothing
    expose = nothing
