"""Levanoni and Petrank's coalescing: of all that is stored to a field between two collections, two values count.

lowheap run examples/shuffle.wat --invoke run 50 100 --collector examples/collectors/levanoni_petrank.py:LevanoniPetrank

Between collections nothing is counted for what objects refer to. The first write to an object logs it: its references
as they are, which are those of the last collection. A collection counts up what each logged object refers to now, then
down what it referred to then; whatever was stored in between was never looked at. A new object is logged with nothing:
it referred to nothing at the last collection, and if it dies before the next, its stores have cost nothing either.

The rest is `deutsch_bobrow.py`'s: frames are not counted, and an object whose count is 0 is in the zero-count table. A
count may be too low between collections, but only for what a logged object refers to; nothing is freed by it then.
Globals, handles and root slots count at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from deutsch_bobrow import DeutschBobrow

from lowheap.collectors.interface import ANY, Shape
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.tracing import references_of
from lowheap.collectors.shared.verify import OBJECT as IS_OBJECT
from lowheap.collectors.shared.verify import OWN, add_note, count_owned, count_owner, note_of
from lowheap.layout import NULL
from lowheap.native import (
    Buffer,
    HeaderBit,
    Heap,
    Ref,
    Slot,
    cold,
    event,
    inline,
    native,
    problem,
    u32,
    u64,
    unlikely,
)

LOGGED = HeaderBit("logged")
"""Set in an object that was logged since the last collection."""

LOG = Buffer("log", limit=1 << 30)
"""For each logged object: its reference, how many references it had, and these.

An object of n references has at least 24 + 4n bytes and no more than 2 + n entries here, so those of a heap of 2^32
bytes are fewer than the limit: the log is never full.
"""


@inline
def end_entry(heap: Heap, reference: Ref, count: u32) -> None:
    """Make what stands behind the log's end, `count` references from the third place on, an entry; mark its object."""
    length = heap.length(LOG)
    place = length.value
    heap.entry(LOG, place).value = reference
    heap.entry(LOG, place + 1).value = count
    length.value = place + 2 + u64(count)
    heap.header(reference).kind_and_reserved |= heap.header_bit(LOGGED)


@cold
def log(heap: Heap, reference: Ref) -> None:
    """Log an object, with what it refers to."""
    first = heap.length(LOG).value + 2
    count: u32 = 0
    for child in references_of(heap, reference):
        heap.entry(LOG, first + u64(count)).value = child
        count += 1
    end_entry(heap, reference, count)


@inline
def logged(heap: Heap) -> Iterator[u64]:
    """Yield where the entry of each logged object begins."""
    place: u64 = 0
    while place < heap.length(LOG).value:
        yield place
        place += u64(heap.entry(LOG, place + 1).value) + 2


@native
def settle(heap: Heap) -> None:
    """Have the counts catch up with the log: up for what is there now, then down for what was there, and forget it.

    Run by Python, an exception may end it at any step. Then it is to be run again, as the next collection does, and
    programs may run in between. The order is such that no count gets too low by that: an object is logged until all
    that it refers to is counted up, and an entry is crossed out before it is counted down. Of the one object that it
    was at, what was counted already is counted up once more, or of one entry, what was crossed out is never counted
    down: that much stays as garbage, and `verify` says so. Machine code is not interrupted, and crosses out nothing.
    """
    for place in logged(heap):
        reference = heap.entry(LOG, place).value
        if heap.header(reference).kind_and_reserved & heap.header_bit(LOGGED) != 0:
            for child in references_of(heap, reference):
                heap.collector.inc_ref(heap, child, ANY)
            heap.header(reference).kind_and_reserved &= ~heap.header_bit(LOGGED)
    for place_then in logged(heap):
        for number in range(heap.entry(LOG, place_then + 1).value):
            entry = heap.entry(LOG, place_then + 2 + u64(number))
            child_then = entry.value
            if heap.may_raise:
                entry.value = NULL
            heap.collector.dec_ref(heap, child_then, ANY)
    heap.length(LOG).value = 0


class LevanoniPetrank(DeutschBobrow):
    """`deutsch_bobrow.py`'s, and of stores to objects only the first and the last between two collections count."""

    header_bits = (LOGGED,)
    buffers = (LOG,)
    needs_owner = True

    @event
    def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        """Log the object that the slot is in, unless it is logged, and store."""
        if owner == NULL:
            DeutschBobrow.write(heap, owner, slot, value, shape)
        else:
            if shape.is_counted and unlikely(heap.header(owner).kind_and_reserved & heap.header_bit(LOGGED) == 0):
                log(heap, owner)
            slot.value = value

    @event
    def init(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        """The same: a slot that holds nothing yet is one of a new object, which is logged, or is null."""
        if owner == NULL:
            DeutschBobrow.init(heap, owner, slot, value, shape)
        else:
            LevanoniPetrank.write(heap, owner, slot, value, shape)

    @inline
    def allocated(heap: Heap, reference: Ref) -> None:
        """Log a new object, with nothing: its fields hold nothing yet."""
        DeutschBobrow.allocated(heap, reference)
        end_entry(heap, reference, 0)

    @inline
    def dying(heap: Heap) -> Iterator[Ref]:
        """Settle the counts first."""
        settle(heap)
        for reference in DeutschBobrow.dying(heap):  # noqa: UP028 -- the subset has no `yield from`
            yield reference

    # What `verify` knows: of a logged object, the references that count are those in the log.

    @native
    def verify_lists(heap: Heap, notes: u64) -> None:
        """Check the log, and note what it says of owners."""
        DeutschBobrow.verify_lists(heap, notes)
        for place in logged(heap):
            reference = heap.entry(LOG, place).value
            note = note_of(heap, notes, reference)
            if note & IS_OBJECT == 0:
                problem(heap, "entry {} of the log is {:#x}, where no object starts", place, reference)
                return
            if note & OWN != 0:
                problem(heap, "object {:#x} is in the log twice", reference)
                return
            add_note(notes, reference, OWN)
            for number in range(heap.entry(LOG, place + 1).value):
                child = heap.entry(LOG, place + 2 + u64(number)).value
                if is_object(child):
                    count_owner(heap, notes, u64(reference), child)

    @inline
    def count_owned(heap: Heap, notes: u64, reference: Ref) -> None:
        """Leave out what is in the log."""
        if heap.header_at(reference).kind_and_reserved & heap.header_bit(LOGGED) == 0:
            count_owned(heap, notes, reference)

    @native
    def verify_noted(heap: Heap, reference: Ref, note: u64) -> None:
        """Check that what says to be logged is."""
        DeutschBobrow.verify_noted(heap, reference, note & ~OWN)
        says_logged = heap.header_at(reference).kind_and_reserved & heap.header_bit(LOGGED) != 0
        if says_logged != (note & OWN != 0):
            problem(heap, "object {:#x} has its logged bit set, but is not in the log, or the other way", reference)
