"""Counts, and what happens when one comes to 0.

An object's count is how many owners it has: fields, elements, globals, host handles, and the list of what compiled code
may hold, `over_approximated_stack_roots`. When the last is gone the object is dead. A dead object is on no list, so its
own link threads it: however long a chain dies at once, freeing it needs neither recursion nor memory.

- A dead object's children lose a count each, and its block goes on a free list. Elements that refer to nothing are
  freed on the way, unless there is a budget.
- A dead externref cannot be freed here: the host lets go of its host data first, so it goes on a list of those.
"""

from __future__ import annotations

from lowheap.collectors.drc.verify import verify_pending
from lowheap.collectors.interface import DROP_FUNCTION
from lowheap.collectors.shared.externrefs import bury_externref
from lowheap.collectors.shared.free_lists import MANY, give_back, put_in_order
from lowheap.collectors.shared.references import block_length, names_object
from lowheap.collectors.shared.sizing import count_freed, live_bytes, note_peak
from lowheap.collectors.shared.tracing import is_leaf, masked_slots, references_of, slots_beyond
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    NULL,
)
from lowheap.native import Heap, Ref, inline, linked, native, note, record, sound, u64, unlikely

_MOST = (1 << 64) - 1
"""What a count is that was 0, and counted down."""


@record
class Freed:
    """How much is being freed: what the heap's figures do not tell yet, and how many objects they tell already."""

    objects: u64 = 0
    size: u64 = 0
    noted: u64 = 0


@inline
def count_up(heap: Heap, reference: Ref) -> None:
    """One more owner of an object."""
    header = heap.header(reference)
    if heap.may_raise:
        sound(header.ref_count != _MOST, "the object at {:#x} was counted down more often than up", reference)
    count = header.ref_count + 1
    header.ref_count = count
    note("count of %#x up to %d", reference, count)


@inline
def decrement(heap: Heap, reference: Ref, dead: Ref) -> Ref:
    """One owner less of what died; with its last, an object goes in front of the dead. Returns the first of these."""
    header = heap.header(reference)
    count = header.ref_count - 1
    header.ref_count = count
    note("count of %#x down to %d", reference, count)
    if count == 0:
        header.next_over_approximated_stack_root = dead
        return reference
    return dead


@inline
def is_live(heap: Heap, reference: Ref) -> bool:
    """Whether an object whose count is 0 lives: none does."""
    return False


@inline
def is_owned(heap: Heap, reference: Ref) -> bool:
    """Whether an object has a count that an owner can give back: its last one must not be the list's."""
    header = heap.header(reference)
    return (header.ref_count > 1) | (
        (header.ref_count == 1) & (header.kind_and_reserved & HEADER_IN_OVER_APPROX_LIST_BIT == 0)
    )


@native
def check_owned(heap: Heap, reference: Ref) -> None:
    """Look whether an object has a count that an owner can give back."""
    header = heap.header(reference)
    sound(header.ref_count != 0, "the object at {:#x} has no count left to give back", reference)
    is_owned = heap.collector.is_owned(heap, reference)
    sound(is_owned, "the object at {:#x} would lose its last count, but is on the over-approximated list", reference)


@native
def check_children(heap: Heap, reference: Ref) -> None:
    """Look whether all that an object refers to has a count to give back: then freeing it cannot fail half-way."""
    for child in references_of(heap, reference):
        if names_object(child):
            check_owned(heap, child)


@inline
def left_dead(heap: Heap) -> Ref:
    """What an operation that raised has left on the dead list."""
    if heap.may_raise:
        return heap.control.dead_list
    return NULL


@inline
def free_block(heap: Heap, reference: Ref, freed: Freed) -> None:
    """Give an object's block back."""
    size = heap.header_at(reference).object_size
    length = block_length(size)
    note("freeing %#x, %d bytes", reference, size)
    give_back(heap, reference, length)
    freed.objects += 1
    freed.size += u64(length)


@inline
def free_object(heap: Heap, reference: Ref, dead: Ref, freed: Freed, frees_leaves: bool) -> Ref:
    """Free one object; those that thereby lose their last owner go in front of the dead. Returns the first of these.

    `frees_leaves`: of what arrays, and large structs, refer to, what dies and refers to nothing is freed at once. Its
    header is in the cache then, and many are on their way there together; of a chain, each is waited for.
    """
    header = heap.header(reference)
    type_index = header.type_index
    if heap.may_raise or heap.is_checked:
        check_children(heap, reference)
    if unlikely(type_index == EXTERNREF_TYPE_INDEX):  # the host frees it, when it has let go of its host data
        bury_externref(heap, reference)
    else:
        for slot in masked_slots(heap, reference, type_index):
            child = slot.value
            if names_object(child):
                dead = heap.collector.decrement(heap, child, dead)
        if unlikely(heap.type_info(type_index).is_beyond_mask != 0):
            for slot in slots_beyond(heap, reference, type_index):
                child = slot.value
                if names_object(child):
                    following = dead
                    dead = heap.collector.decrement(heap, child, following)
                    if frees_leaves and (dead != following) and is_leaf(heap, dead):
                        free_block(heap, dead, freed)
                        dead = following
        free_block(heap, reference, freed)
    return dead


@inline
def free_chain(heap: Heap, dead: Ref, freed: Freed) -> None:
    """Free a chain of dead objects, each linking to the next, and what thereby dies."""
    while dead != NULL:
        reference = dead
        if heap.may_raise:
            heap.control.dead_list = reference
        dead = heap.header(reference).next_over_approximated_stack_root
        dead = free_object(heap, reference, dead, freed, True)
        if heap.may_raise:
            heap.control.dead_list = dead
            note_freed(heap, freed)


@inline
def note_freed(heap: Heap, freed: Freed) -> None:
    """Add to the heap's figures."""
    count_freed(heap, freed.objects, freed.size)
    freed.noted += freed.objects
    freed.objects = 0
    freed.size = 0


@native
def free_dead_from(heap: Heap, dead: Ref) -> None:
    """Free a chain of dead objects, and what thereby dies."""
    freed = Freed()
    free_chain(heap, dead, freed)
    note_freed(heap, freed)
    if unlikely(freed.noted >= MANY):
        put_in_order(heap)


@linked(DROP_FUNCTION)
def drop_last(heap: Heap, reference: Ref) -> None:
    """Take the last count of an object, and free it with what only it held."""
    header = heap.header(reference)
    header.ref_count = 0
    header.next_over_approximated_stack_root = left_dead(heap)
    free_dead_from(heap, reference)


@inline
def has_pending(heap: Heap) -> bool:
    """Whether objects that died wait to be freed."""
    return heap.control.pending_dead != NULL


@native
def free_pending(heap: Heap, budget: u64) -> bool:
    """Free so many of the pending dead objects, from the front; whether some are left.

    What thereby dies comes in front, so a chain is freed from its beginning on.
    """
    control = heap.control
    pending = control.pending_dead
    if pending == NULL:
        return False
    note_peak(heap)
    freed = Freed()
    left = budget
    while (pending != NULL) and (left != 0):
        reference = pending
        if heap.may_raise:
            verify_pending(heap, reference)
            heap.require_no_problem()
        pending = heap.header(reference).next_over_approximated_stack_root
        pending = free_object(heap, reference, pending, freed, False)
        left -= 1
        if heap.may_raise:
            control.pending_dead = pending
            note_freed(heap, freed)
    control.pending_dead = pending
    note_freed(heap, freed)
    if unlikely(freed.noted >= MANY):
        put_in_order(heap)
    if pending != NULL:
        return True
    control.live_bytes_after_last_collection = live_bytes(heap)
    return False
