"""Verifying a heap of the deferred reference-counting collector: what `docs/design.md` says must always hold.

`verify` finds whatever does not, and leaves out what relies on what it has found wrong. Of a heap on which nothing is
counted, counts are left out. What this collector adds to `shared/verify.py`: counts equal owners; the list of what
compiled code may hold is as its objects and its length say; what waits to be freed is dead; marks are a collection's.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.shared.frames import host_slots
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.roots import Root, counted_roots
from lowheap.collectors.shared.tracing import references_of
from lowheap.collectors.shared.verify import (
    DEAD,
    LISTED,
    OBJECT,
    OWNERS,
    add_note,
    note_of,
    size_of_notes,
    verify_blocks,
    verify_control,
    verify_figures,
    verify_free_lists,
    verify_handles,
    verify_host_data,
    verify_places,
    verify_types,
)
from lowheap.collectors.shared.walking import blocks, is_free
from lowheap.layout import (
    CONTROL_UNCOUNTED,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    KIND_MASK,
    NULL,
    CollectionPhase,
    VMGcKind,
    VMRootKind,
)
from lowheap.native import Heap, Native, Ref, address_of, inline, native, problem, u32, u64


@native
def verify(heap: Heap, has_lists: bool) -> u64:
    """Check all but what frames hold. Returns the address of the notes that this has taken, for `verify_held`.

    `has_lists`: the free blocks are on the free lists. The result is 0 when there is no use in going on, or no memory
    for notes: problems tell which, or that there are none. Whoever calls unmaps the notes.
    """
    verify_places(heap)
    if heap.problem_count() != 0:
        return 0
    verify_control(heap)
    verify_types(heap)
    size = size_of_notes(heap)
    notes = heap.map_notes(size)
    if notes != 0:
        verify_with_notes(heap, notes, has_lists)
    return notes


@native
def forget_notes(heap: Heap, notes: u64) -> None:
    """Give the notes' memory back, if there is any."""
    if notes != 0:
        heap.unmap_notes(notes, size_of_notes(heap))


@native
def verify_with_notes(heap: Heap, notes: u64, has_lists: bool) -> None:
    """Check blocks, lists, and, if those are sound, counts."""
    is_whole, objects, size = verify_blocks(heap, notes, has_lists)
    verify_handles(heap)
    verify_host_data(heap)
    if is_whole:
        if has_lists:
            verify_free_lists(heap, notes, True)
        verify_lists(heap, notes)
    if heap.problem_count() == 0:
        count_owners(heap, notes)
        verify_notes(heap, notes, has_lists)
        verify_figures(heap, objects, size)


# ----------------------------------------------------------------------------------------------------------------------
# Lists


def _entries_of(what: str) -> Native[[Heap, int, int, int], Iterator[int]]:
    leads_nowhere = f"{what} leads to {{:#x}}, where no object starts"
    comes_back = f"{what} comes back to {{:#x}}"

    @inline
    def entries(heap: Heap, notes: u64, first: Ref, flag: u64) -> Iterator[Ref]:
        reference = first
        while reference != NULL:
            note = note_of(heap, notes, reference)
            if note & OBJECT == 0:
                problem(heap, leads_nowhere, reference)
                return
            if note & flag != 0:
                problem(heap, comes_back, reference)
                return
            add_note(notes, reference, flag)
            yield reference
            reference = heap.header_at(reference).next_over_approximated_stack_root

    return entries


def _dead_on(what: str) -> Native[[Heap, int], None]:
    has_count = f"object {{:#x}} has count {{}}, but is on {what}"
    is_listed = f"object {{:#x}} has its in-list bit set, but is on {what}"
    is_marked = f"object {{:#x}} is marked, but is on {what}"

    @inline
    def check(heap: Heap, reference: Ref) -> None:
        header = heap.header_at(reference)
        word = header.kind_and_reserved
        if header.ref_count != 0:
            problem(heap, has_count, reference, header.ref_count)
        if word & HEADER_IN_OVER_APPROX_LIST_BIT != 0:
            problem(heap, is_listed, reference)
        if word & HEADER_MARK_BIT != 0:
            problem(heap, is_marked, reference)

    return check


_ON_LIST = OBJECT | LISTED
"""In the note of an object on the over-approximated list. A free block may be `LISTED`, too."""

_PENDING = "the list of pending dead objects"
_EXTERNREFS = "the list of dead externrefs"
_listed = _entries_of("the over-approximated list")
_pending = _entries_of(_PENDING)
_dead_externrefs = _entries_of(_EXTERNREFS)
verify_pending = _dead_on(_PENDING)
_verify_dead_externref = _dead_on(_EXTERNREFS)


@native
def verify_lists(heap: Heap, notes: u64) -> None:
    """Check that each list is acyclic, and holds what it may; what code may hold is owned by its list."""
    control = heap.control
    before = heap.problem_count()
    length: u64 = 0
    for reference in _listed(heap, notes, control.over_approximated_stack_roots, LISTED):
        add_note(notes, reference, 1)
        length += 1
    if (length != u64(control.current_len)) and (heap.problem_count() == before):
        problem(heap, "the over-approximated list has {} entries, its counter says {}", length, control.current_len)
    for waiting in _pending(heap, notes, control.pending_dead, DEAD):
        verify_pending(heap, waiting)
    for dead in _dead_externrefs(heap, notes, control.dead_externrefs, DEAD):
        _verify_dead_externref(heap, dead)
        kind = heap.header_at(dead).kind_and_reserved & KIND_MASK
        if kind != VMGcKind.EXTERN_REF:
            problem(heap, "object {:#x} is on the list of dead externrefs, but its kind is {:#x}", dead, kind)
    if control.dead_list != NULL:
        problem(heap, "the dead list is not empty: it begins with {:#x}", control.dead_list)


# ----------------------------------------------------------------------------------------------------------------------
# Owners


def _owner(what: str) -> Native[[Heap, int, int, int], None]:
    holds_nothing = f"{what} holds {{:#x}}, where no live object starts"

    @inline
    def own(heap: Heap, notes: u64, place: u64, reference: Ref) -> None:
        if note_of(heap, notes, reference) & OBJECT != 0:
            add_note(notes, reference, 1)
        else:
            problem(heap, holds_nothing, place, reference)

    return own


_owned_by_object = _owner("object {:#x}")
_owned_by_handle = _owner("handle {}")
_owned_by_slot = _owner("root slot {:#x}")


@native
def count_owners(heap: Heap, notes: u64) -> None:
    """Note an owner with each object for each traced slot, handle and registered root slot that refers to it."""
    for index in blocks(heap):
        if not is_free(heap, index):
            for child in references_of(heap, index):
                if is_object(child):
                    _owned_by_object(heap, notes, u64(index), child)
    root = Root()
    for reference in counted_roots(heap, root):
        if root.kind == VMRootKind.HANDLE:
            _owned_by_handle(heap, notes, root.place, reference)
        else:
            _owned_by_slot(heap, notes, root.place, reference)


@native
def verify_notes(heap: Heap, notes: u64, has_lists: bool) -> None:
    """Check each block against what lists and owners have noted with it."""
    for index in blocks(heap):
        note = note_of(heap, notes, index)
        if not is_free(heap, index):
            verify_noted(heap, index, note)
        elif has_lists and (note & LISTED == 0):
            problem(heap, "free block at {:#x} is on no free list", index)


@inline
def is_counted(heap: Heap) -> bool:
    """Whether counts mean something."""
    return heap.control.flags & CONTROL_UNCOUNTED == 0


@native
def verify_noted(heap: Heap, reference: Ref, note: u64) -> None:
    """Check an object's bits and its count."""
    header = heap.header_at(reference)
    word = header.kind_and_reserved
    count = header.ref_count
    is_listed = note & LISTED != 0
    says_listed = word & HEADER_IN_OVER_APPROX_LIST_BIT != 0
    if says_listed and not is_listed:
        problem(heap, "object {:#x} has its in-list bit set, but is not on the over-approximated list", reference)
    if is_listed and not says_listed:
        problem(heap, "object {:#x} has its in-list bit clear, but is on the over-approximated list", reference)
    if (word & HEADER_MARK_BIT != 0) and (heap.control.phase == CollectionPhase.IDLE):
        problem(heap, "object {:#x} is marked, but no collection is running", reference)
    if (count == 0) and (note & DEAD == 0):
        problem(heap, "object {:#x} has count 0, but was not freed", reference)
    elif (count != note & OWNERS) and is_counted(heap):
        problem(
            heap,
            "object {:#x} has count {}, but {} owners, {} of them the list",
            reference,
            count,
            note & OWNERS,
            u32(is_listed),
        )


# ----------------------------------------------------------------------------------------------------------------------
# What frames hold


@inline
def is_held_wrongly(heap: Heap, notes: u64, reference: Ref) -> bool:
    """Whether a frame holds what is not listed, on a heap that counts."""
    return is_counted(heap) and is_object(reference) and (note_of(heap, notes, reference) & _ON_LIST != _ON_LIST)


@native
def verify_held(heap: Heap, notes: u64, place: u64, reference: Ref) -> None:
    """Check what a frame holds: at the address of a slot, or, where that is 0, somewhere in compiled code's."""
    if is_held_wrongly(heap, notes, reference):
        if place == 0:
            problem(heap, "compiled code holds {:#x}, which is not on the over-approximated list", reference)
        else:
            problem(
                heap,
                "slot {:#x} of a frame holds {:#x}, which is not on the over-approximated list",
                place,
                reference,
            )


@native
def verify_frames(heap: Heap, notes: u64) -> None:
    """Check what the frames hold that hosts have pushed."""
    for slot in host_slots(heap):
        verify_held(heap, notes, address_of(slot), slot.value)
