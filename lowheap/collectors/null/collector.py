"""The collector that collects nothing: plain loads and stores.

A program under it never gets memory back, and runs out of the caches: with a program that allocates much, the time
against `drc` is not what barriers cost, and may be longer.
"""

from __future__ import annotations

from lowheap.collectors.interface import Collector, Shape
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.sizing import note_peak
from lowheap.collectors.shared.verify import OBJECT, note_of
from lowheap.native import Heap, Ref, Slot, event, inline, native, problem, u64


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
def count_nothing(heap: Heap, reference: Ref, shape: Shape) -> None:
    """Nothing."""


@inline
def never(heap: Heap) -> bool:
    """There is never anything to collect."""
    return False


@inline
def always(heap: Heap, reference: Ref) -> bool:
    """Whatever it is, it lives, and may be held and owned."""
    return True


@inline
def nothing(heap: Heap) -> None:
    """Nothing."""


@inline
def free_nothing(heap: Heap, budget: u64) -> bool:
    """Nothing waits."""
    return False


@inline
def keep(heap: Heap, reference: Ref) -> None:
    """Nothing dies."""


@native
def collect(heap: Heap, rules: FrameRules) -> bool:
    """Count it as a collection, and be done."""
    note_peak(heap)
    heap.control.collections += 1
    return True


@inline
def verify_lists(heap: Heap, notes: u64) -> None:
    """There are none."""


@inline
def verify_noted(heap: Heap, reference: Ref, note: u64) -> None:
    """Owners are not counted."""


@native
def verify_held(heap: Heap, notes: u64, place: u64, reference: Ref) -> None:
    """Check that what a frame holds is an object, if it is no i31."""
    if is_object(reference) and (note_of(heap, notes, reference) & OBJECT == 0):
        problem(heap, "a frame holds {:#x}, where no object starts", reference)


class Null(Collector):
    """Nothing is counted, so nothing can be freed."""

    name = "null"
    counts = False

    read = read
    write = write
    init = write
    allocated = allocated
    inc_ref = count_nothing
    dec_ref = count_nothing
    expose = count_nothing
    is_due = never
    hold = always
    forget_held = nothing
    sweep = nothing
    sweep_pending = nothing
    has_pending = never
    free_pending = free_nothing
    collect = collect
    drop = keep
    is_live = always
    may_be_held = always
    is_owned = always
    verify_lists = verify_lists
    verify_pending = keep
    verify_noted = verify_noted
    verify_held = verify_held
