"""Deutsch-Bobrow deferred reference counting: reading costs nothing, and a table has what nobody counts.

lowheap run examples/binary_trees.wat --invoke run 3 2 --collector examples/collectors/deutsch_bobrow.py:DeutschBobrow

L. P. Deutsch and D. G. Bobrow, "An Efficient, Incremental, Automatic Garbage Collector", CACM 19 (9), 1976.

Counted are the references in objects and globals, and those of the host's handles. Those that compiled code holds in
its locals are not. So an object whose count is 0 is not yet garbage: it goes into the *zero-count table*. A collection
looks at all frames. What is in the table, has count 0 and is in no frame is garbage.

`drc` has a list of what compiled code may hold. The table is threaded through the headers in the same way, by the same
words and the same bit, which messages go on calling the over-approximated list. Here it owns nothing:

                        drc                                  here
    read                put it on the list, and count        a load
    a new object        on the list, count 1                 in the table, count 0
    the last owner goes the object dies                      it goes into the table
    a frame has it      then it is listed; mark it           put it into the table, and mark it
    sweep               take the list's count of the rest    take the rest out of the table
    freed               what has no count then               what has count 0 then, and so on for what that refers to

Freeing an object counts down what it refers to. A count that comes to 0 *in a sweep* is one of an object that no frame
has, for those that have one are in the table: so what is not in the table is dead, too. What is in the table is left to
the walk, which comes to it, or has seen its mark.

What dies in a collection with a budget is freed later, when programs have run, and what was only in fields then may be
in a frame by now. That is safe as long as each object in a frame is in the table, or has an owner that is not waiting
to be freed: no read of a program's comes to one that has neither. While something waits, an object may lose such an
owner and yet have a count. So it goes into the table then, whatever its count.
"""

from __future__ import annotations

from lowheap.collectors.drc import Drc
from lowheap.collectors.drc.barriers import is_object_of, push
from lowheap.collectors.drc.counting import check_owned
from lowheap.collectors.drc.verify import verify_bits
from lowheap.collectors.interface import Shape
from lowheap.collectors.shared.references import is_object, may_be_object
from lowheap.collectors.shared.verify import DEAD, LISTED, OBJECT, OWNERS, note_of
from lowheap.layout import HEADER_IN_OVER_APPROX_LIST_BIT, HEADER_MARK_BIT, NULL
from lowheap.native import Heap, Ref, Slot, event, inline, native, problem, u64, unlikely

TABLE_BIT = HEADER_IN_OVER_APPROX_LIST_BIT


@inline
def is_in_table(heap: Heap, reference: Ref) -> bool:
    """Whether an object is in the table."""
    return heap.header(reference).kind_and_reserved & TABLE_BIT != 0


@native
def put_in_table(heap: Heap, reference: Ref) -> None:
    """Put an object into the table, unless it is there."""
    if not is_in_table(heap, reference):
        push(heap, reference, heap.header(reference).kind_and_reserved)


class DeutschBobrow(Drc):
    """References in frames are not counted; what has count 0 is in a table."""

    list_share = 0

    @event
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        """Load."""
        return slot.value

    @inline
    def allocated(heap: Heap, reference: Ref) -> None:
        """Take back the count that a new object has: compiled code's hands do not count."""
        header = heap.header(reference)
        header.ref_count = 0
        push(heap, reference, header.kind_and_reserved)

    @event
    def dec_ref(heap: Heap, reference: Ref, shape: Shape) -> None:
        """Subtract one, unless it is null or an i31; what has none left may yet be in a frame."""
        if shape.is_counted and is_object_of(reference, shape):
            if heap.may_raise or heap.is_checked:
                check_owned(heap, reference)
            header = heap.header(reference)
            count = header.ref_count - 1
            header.ref_count = count
            if unlikely((count == 0) | (heap.control.pending_dead != NULL)):
                put_in_table(heap, reference)

    expose = dec_ref  # from an owner's hands into a frame: one owner less

    @inline
    def hold(heap: Heap, reference: Ref) -> bool:
        """A frame has an object: into the table with it, marked. False for what is not there any more."""
        if not (may_be_object(heap, reference) and DeutschBobrow.may_be_held(heap, reference)):
            return False
        put_in_table(heap, reference)
        heap.header(reference).kind_and_reserved |= HEADER_MARK_BIT
        return True

    @inline
    def decrement(heap: Heap, reference: Ref, dead: Ref) -> Ref:
        """Count down what a dead object refers to: at 0 it is dead, unless it is in the table."""
        header = heap.header(reference)
        count = header.ref_count - 1
        header.ref_count = count
        if (count == 0) and not is_in_table(heap, reference):
            header.next_over_approximated_stack_root = dead
            return reference
        return dead

    @inline
    def is_live(heap: Heap, reference: Ref) -> bool:
        """An object whose count is 0 lives as long as it is in the table."""
        return is_in_table(heap, reference)

    @inline
    def may_be_held(heap: Heap, reference: Ref) -> bool:
        """A frame may have whatever lives."""
        return (heap.header(reference).ref_count != 0) or is_in_table(heap, reference)

    @inline
    def is_owned(heap: Heap, reference: Ref) -> bool:
        """Every count is an owner's."""
        return heap.header(reference).ref_count != 0

    @native
    def verify_noted(heap: Heap, reference: Ref, note: u64) -> None:
        """Check bits and count; nothing has count 0 but what is in the table, and what died and waits."""
        verify_bits(heap, reference, note)
        count = heap.header_at(reference).ref_count
        if count != note & OWNERS:
            problem(heap, "object {:#x} has count {}, but {} owners", reference, count, note & OWNERS)
        if (count == 0) and (note & (LISTED | DEAD) == 0):
            problem(heap, "object {:#x} has count 0, but is not in the zero-count table", reference)

    @native
    def verify_held(heap: Heap, notes: u64, place: u64, reference: Ref) -> None:
        """Check that what a frame has lives."""
        if is_object(reference) and (note_of(heap, notes, reference) & (OBJECT | DEAD) != OBJECT):
            problem(heap, "a frame holds {:#x}, where no live object starts", reference)
