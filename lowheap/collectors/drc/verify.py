"""Verifying what this collector adds to a heap's invariants: `docs/design.md` says what must always hold.

Counts equal owners; the list of what compiled code may hold is as its objects and its length say; what waits to be
freed is dead; marks are a collection's. The rest is `shared/verify.py`'s.
"""

from __future__ import annotations

from lowheap.collectors.shared.references import is_object, may_be_object
from lowheap.collectors.shared.verify import DEAD, LISTED, OBJECT, OWNERS, add_note, dead_on, entries_of, note_of
from lowheap.layout import HEADER_IN_OVER_APPROX_LIST_BIT, HEADER_MARK_BIT, NULL, CollectionPhase
from lowheap.native import Heap, Ref, inline, native, problem, u32, u64

_ON_LIST = OBJECT | LISTED
"""In the note of an object on the over-approximated list. A free block may be `LISTED`, too."""

_PENDING = "the list of pending dead objects"
_listed = entries_of("the over-approximated list")
_pending = entries_of(_PENDING)
_dead_on_pending = dead_on(_PENDING)


@inline
def verify_listed(heap: Heap, notes: u64, reference: Ref) -> None:
    """The list owns what is on it, as far as it counts."""
    share: u64 = heap.collector.list_share
    add_note(notes, reference, share)


@native
def verify_pending(heap: Heap, reference: Ref) -> None:
    """Check that an object is dead, and so waits rightly."""
    if may_be_object(heap, reference):
        _dead_on_pending(heap, reference)
    else:
        problem(heap, "the list of pending dead objects: {:#x} does not name an object", reference)


@native
def verify_lists(heap: Heap, notes: u64) -> None:
    """Check that each list is acyclic, and holds what it may; what code may hold is owned by its list."""
    control = heap.control
    before = heap.problem_count()
    length: u64 = 0
    for reference in _listed(heap, notes, control.over_approximated_stack_roots, LISTED):
        heap.collector.verify_listed(heap, notes, reference)
        length += 1
    if (length != u64(control.current_len)) and (heap.problem_count() == before):
        problem(heap, "the over-approximated list has {} entries, its counter says {}", length, control.current_len)
    for waiting in _pending(heap, notes, control.pending_dead, DEAD):
        verify_pending(heap, waiting)
    if control.dead_list != NULL:
        problem(heap, "the dead list is not empty: it begins with {:#x}", control.dead_list)


@inline
def verify_bits(heap: Heap, reference: Ref, note: u64) -> None:
    """Check what an object's bits say: whether it is listed, and whether it is marked."""
    word = heap.header_at(reference).kind_and_reserved
    is_listed = note & LISTED != 0
    says_listed = word & HEADER_IN_OVER_APPROX_LIST_BIT != 0
    if says_listed and not is_listed:
        problem(heap, "object {:#x} has its in-list bit set, but is not on the over-approximated list", reference)
    if is_listed and not says_listed:
        problem(heap, "object {:#x} has its in-list bit clear, but is on the over-approximated list", reference)
    if (word & HEADER_MARK_BIT != 0) and (heap.control.phase == CollectionPhase.IDLE):
        problem(heap, "object {:#x} is marked, but no collection is running", reference)


@native
def verify_noted(heap: Heap, reference: Ref, note: u64) -> None:
    """Check an object's bits and its count."""
    verify_bits(heap, reference, note)
    count = heap.header_at(reference).ref_count
    if (count == 0) and (note & DEAD == 0):
        problem(heap, "object {:#x} has count 0, but was not freed", reference)
    elif count != note & OWNERS:
        problem(
            heap,
            "object {:#x} has count {}, but {} owners, {} of them the list",
            reference,
            count,
            note & OWNERS,
            u32(note & LISTED != 0),
        )


# ----------------------------------------------------------------------------------------------------------------------
# What frames hold


@native
def verify_held(heap: Heap, notes: u64, place: u64, reference: Ref) -> None:
    """Check what a frame holds: at the address of a slot, or, where that is 0, somewhere in compiled code's."""
    if is_object(reference) and (note_of(heap, notes, reference) & _ON_LIST != _ON_LIST):
        if place == 0:
            problem(heap, "compiled code holds {:#x}, which is not on the over-approximated list", reference)
        else:
            problem(
                heap,
                "slot {:#x} of a frame holds {:#x}, which is not on the over-approximated list",
                place,
                reference,
            )
