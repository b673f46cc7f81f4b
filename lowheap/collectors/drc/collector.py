"""Deferred reference counting as a collector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from lowheap.collectors.drc import barriers, collection, counting, cycles, verify
from lowheap.collectors.drc.references import C_REFERENCES
from lowheap.collectors.interface import Collector
from lowheap.collectors.shared.sizing import CYCLE_FLOOR, LIST_FLOOR
from lowheap.errors import HeapCorruptionError, InvalidReferenceError
from lowheap.layout import NULL
from lowheap.native import Heap
from lowheap.native.check import NOTHING, U32, U64, Signature, Type


class Drc(Collector):
    """wasmtime's collector, 37 to 43: counts, a list of what compiled code may hold, trace and sweep.

    Its variations may change these besides the events:

        dying(heap)                         what a sweep finds dead: yield it, off the list, and let go of the rest
        decrement(heap, reference, dead)    one owner less of what a dead object refers to; `dead` is a chain of the
                                            dead, threaded by their links: return it, with what dies in front
        verify_listed(heap, notes, reference)   note what it means to be on the list

    `list_floor`: a list of fewer entries is never a reason to collect. `list_share`: how many of an object's counts are
    the list's; 1, or 0 for a variation whose list does not count. `cycle_floor`: while fewer bytes live, no search for
    cycles is due. A variation whose counts tell less than what owns an object, or whose list does not have all that
    frames hold behind a sweep, says `searches_for_cycles = False`.
    """

    name = "drc"
    c_references = C_REFERENCES

    read = barriers.read
    write = barriers.write
    init = barriers.init
    allocated = barriers.allocated
    inc_ref = barriers.inc_ref
    dec_ref = barriers.dec_ref
    expose = barriers.expose

    is_due = collection.list_is_long
    hold = collection.mark
    forget_held = collection.clear_marks
    sweep = collection.sweep
    sweep_pending = collection.sweep_pending
    has_pending = counting.has_pending
    free_pending = counting.free_pending
    find_cycles = cycles.find_cycles
    is_search_due = cycles.is_search_due
    drop = counting.drop_last
    is_live = counting.is_live
    may_be_held = collection.is_listed
    is_owned = counting.is_owned
    verify_lists = verify.verify_lists
    verify_pending = verify.verify_pending
    verify_noted = verify.verify_noted
    verify_held = verify.verify_held

    functions: ClassVar[dict[str, Signature]] = {
        "dying": Signature((), NOTHING, U32),
        "decrement": Signature((U32, U32), U32),
        "verify_listed": Signature((U64, U32), NOTHING),
    }
    dying = collection.dying
    decrement = counting.decrement
    verify_listed = verify.verify_listed

    parameters: ClassVar[dict[str, Type]] = {"list_floor": U32, "list_share": U64, "cycle_floor": U64}
    list_share = 1

    def __init__(self, *, list_floor: int = LIST_FLOOR, cycle_floor: int = CYCLE_FLOOR) -> None:
        """Make a collector with parameters of one's own."""
        self.list_floor = list_floor
        self.cycle_floor = cycle_floor

    compiled = (counting.free_dead_from, collection.sweep_pending, counting.free_pending, cycles.find_cycles)

    def deferred(self, heap: Heap) -> Iterator[int]:
        """Yield the references on the list, the latest first. HeapCorruptionError when the list is cyclic."""
        return _linked(heap, heap.control.over_approximated_stack_roots, "the over-approximated list")

    def pending(self, heap: Heap) -> Iterator[int]:
        """Yield the objects that died in a sweep and wait to be freed, the next first.

        HeapCorruptionError when their list is cyclic, or leads to what is no object.
        """
        return _linked(heap, heap.control.pending_dead, "the list of pending dead objects")


class Outlined(Drc):
    """What `drc` does, in functions that are called: small code, and a call for each event."""

    name = "outlined"
    called = True
    c_references = C_REFERENCES


def _linked(heap: Heap, first: int, what: str) -> Iterator[int]:
    """Yield the objects of a list that goes by the links in their headers."""
    seen: set[int] = set()
    reference = first
    while reference != NULL:
        if reference in seen:
            raise HeapCorruptionError([f"{what} comes back to {reference:#x}"])
        seen.add(reference)
        try:
            following = heap.header(reference).next_over_approximated_stack_root
        except InvalidReferenceError as error:
            raise HeapCorruptionError([f"{what}: {error}"]) from None
        yield reference
        reference = following
