"""Garbage that only cycles keep: how a collector that counts finds it.

Counting never frees objects that refer to one another in a circle. A search does: it marks what can be reached from
the roots, and what is left is garbage, with few exceptions that it looks for. It needs no memory but what headers have:
the mark, and the link, which is nobody's in an object that is on no list. A collector calls these, in this order:

1. `mark` for each root, and `mark_reachable` for what was not marked yet: a mark for each object that lives, which
   costs a cache miss for each of them where the heap is larger than the cache. The collector marks what is on a list of
   the dead already, too, but not what that refers to: it is found, and waits, as it is.
2. `separate`: one pass over the heap, in address order. Marks go, and the others, the *candidates*, are marked
   instead, and linked, each in front of those before it. From here on only candidates are looked at.
3. `take_counts`: of each candidate, the counts that candidates have of it. All that the candidates had must be gone
   then. If not, somebody owns one of whom the roots do not tell: a host that has counted a reference for itself. Then
   `return_counts` undoes that, and tells which these are, and the search begins anew with them as roots.
4. `cut`: candidates have count 0 now. Slots that refer to one become null, for those counts are given back already; of
   what lives, each keeps its count until it is freed.

Afterwards the candidates are dead objects as all others are, which own what they refer to, and may be freed by
increments, in any order. Those at the highest addresses come first: so the free lists are in address order then.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.shared.references import block_length, names_object
from lowheap.collectors.shared.tracing import references_of, traced_slots
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    NULL,
)
from lowheap.native import (
    Heap,
    Ref,
    Slot,
    inline,
    local_array,
    native,
    note,
    prefetch,
    u32,
    u64,
    wrapping_add,
)

MINUS_ONE = (1 << 64) - 1
"""What to add to a count that is to become one less, as it wraps."""

ON_THEIR_WAY = 16
"""So many headers are on their way into the cache together, each for as long as others are marked. With random graphs
that are much larger than the cache, a search takes a third of the time that it takes without, at 8 two fifths.
"""


@inline
def objects(heap: Heap) -> Iterator[Ref]:
    """Yield every object that is not freed, in address order. The heap is sound."""
    index: Ref = FIRST_INDEX
    bump = heap.control.bump
    while index < bump:
        block = heap.block(index)
        if block.kind_and_reserved == 0:
            index += block.length
        else:
            reference = index
            index += block_length(heap.header_at(reference).object_size)
            yield reference


@inline
def slots_of(heap: Heap, reference: Ref) -> Iterator[Slot]:
    """Yield the traced slots of any object, dead or alive."""
    type_index = heap.header_at(reference).type_index
    if type_index != EXTERNREF_TYPE_INDEX:
        for slot in traced_slots(heap, reference, type_index):
            yield slot


@inline
def is_marked(heap: Heap, reference: Ref) -> bool:
    """Whether an object is marked."""
    return heap.header_at(reference).kind_and_reserved & HEADER_MARK_BIT != 0


@inline
def mark(heap: Heap, reference: Ref, stack: Ref) -> Ref:
    """Mark an object that lives. Returns the first of those whose references are yet to be looked at: they are linked.

    What is on a list of the collector's is not put there, for its link is in use: the collector looks at its own.
    """
    header = heap.header(reference)
    word = header.kind_and_reserved
    if word & HEADER_MARK_BIT != 0:
        return stack
    header.kind_and_reserved = word | HEADER_MARK_BIT
    if word & HEADER_IN_OVER_APPROX_LIST_BIT != 0:
        return stack
    header.next_over_approximated_stack_root = stack
    return reference


@inline
def mark_all(heap: Heap, chain: Ref, stack: Ref) -> Ref:
    """Mark all objects of a chain, which are on no list otherwise. Returns what `mark` does."""
    while chain != NULL:
        reference = chain
        chain = heap.header(reference).next_over_approximated_stack_root
        stack = mark(heap, reference, stack)
    return stack


@inline
def mark_arrived(heap: Heap, reference: Ref, stack: Ref) -> Ref:
    """Mark an object, if there is one. Returns what `mark` does."""
    if reference != NULL:
        stack = mark(heap, reference, stack)
    return stack


@native
def mark_reachable(heap: Heap, stack: Ref, listed: Ref) -> None:
    """Mark all that can be reached from marked objects whose references are yet to be looked at, and from a list.

    A reference that is found is not followed at once: it waits in a ring until its object's header is in the cache.
    """
    ring = local_array(u32, ON_THEIR_WAY)
    for number in range(ON_THEIR_WAY):
        ring[number] = NULL
    place: u32 = 0
    left: u32 = 0  # how many places have something, at most
    while (stack != NULL) or (listed != NULL) or (left != 0):
        if (stack != NULL) or (listed != NULL):
            reference = stack
            if stack != NULL:
                header = heap.header(stack)
                stack = header.next_over_approximated_stack_root
                header.next_over_approximated_stack_root = NULL
            else:
                reference = listed
                root = heap.header(listed)
                root.kind_and_reserved |= HEADER_MARK_BIT
                listed = root.next_over_approximated_stack_root
            left = ON_THEIR_WAY
            for child in references_of(heap, reference):
                if names_object(child):
                    prefetch(heap.header_at(child))
                    arrived = ring[place]
                    ring[place] = child
                    place = (place + 1) & (ON_THEIR_WAY - 1)
                    stack = mark_arrived(heap, arrived, stack)
        else:
            last = ring[place]
            ring[place] = NULL
            place = (place + 1) & (ON_THEIR_WAY - 1)
            left -= 1
            stack = mark_arrived(heap, last, stack)


@inline
def mark_waiting(heap: Heap, chain: Ref) -> None:
    """Mark the objects of a list of dead ones, so that they are not found again."""
    while chain != NULL:
        header = heap.header_at(chain)
        header.kind_and_reserved |= HEADER_MARK_BIT
        chain = header.next_over_approximated_stack_root


@native
def separate(heap: Heap, waiting: Ref) -> tuple[Ref, u64, u64, u64]:
    """Take the marks off what has one, mark all others, and link them in front of a list of the dead.

    Returns the first, the sum of their counts, how many they are, and how many bytes their blocks have.
    """
    first = waiting
    counts: u64 = 0
    number: u64 = 0
    size: u64 = 0
    for reference in objects(heap):
        header = heap.header_at(reference)
        word = header.kind_and_reserved
        if word & HEADER_MARK_BIT == 0:
            note("%#x cannot be reached", reference)
            header.next_over_approximated_stack_root = first
            first = reference
            counts = wrapping_add(counts, header.ref_count)
            number += 1
            size += u64(block_length(header.object_size))
        header.kind_and_reserved = word ^ HEADER_MARK_BIT
    return first, counts, number, size


@native
def check_references(heap: Heap, chain: Ref) -> None:
    """Look whether all that the objects of a chain refer to are objects. Python does so before it changes anything."""
    while chain != NULL:
        for slot in slots_of(heap, chain):
            if names_object(slot.value):
                heap.header(slot.value)
        chain = heap.header_at(chain).next_over_approximated_stack_root


@native
def add_counts(heap: Heap, chain: Ref, amount: u64) -> u64:
    """Add to each candidate's count, for each slot of a chain that refers to it; how many slots do.

    Where counts are wrong they wrap, and are right again when that is undone.
    """
    found: u64 = 0
    while chain != NULL:
        for slot in slots_of(heap, chain):
            child = slot.value
            if names_object(child) and is_marked(heap, child):
                header = heap.header_at(child)
                header.ref_count = wrapping_add(header.ref_count, amount)
                found += 1
        chain = heap.header_at(chain).next_over_approximated_stack_root
    return found


@inline
def take_counts(heap: Heap, chain: Ref) -> u64:
    """Take from each candidate the counts that a chain, of candidates and dead objects, has of it; how many."""
    return add_counts(heap, chain, MINUS_ONE)


@native
def return_counts(heap: Heap, chain: Ref, waiting: Ref) -> Ref:
    """Undo `take_counts` and `separate`. Returns a chain of the candidates that had counts left: somebody owns them.

    They are told apart by the bit of the list, on which no candidate is.
    """
    reference = chain
    while reference != waiting:
        candidate = heap.header_at(reference)
        if candidate.ref_count != 0:
            candidate.kind_and_reserved |= HEADER_IN_OVER_APPROX_LIST_BIT
        reference = candidate.next_over_approximated_stack_root
    add_counts(heap, chain, 1)
    held: Ref = NULL
    reference = chain
    while reference != waiting:
        current = reference
        found = heap.header_at(current)
        reference = found.next_over_approximated_stack_root
        word = found.kind_and_reserved
        found.kind_and_reserved = word & ~(HEADER_MARK_BIT | HEADER_IN_OVER_APPROX_LIST_BIT)
        found.next_over_approximated_stack_root = NULL
        if word & HEADER_IN_OVER_APPROX_LIST_BIT != 0:
            note("%#x is owned by somebody unknown", current)
            found.next_over_approximated_stack_root = held
            held = current
    return held


@native
def cut(heap: Heap, chain: Ref) -> None:
    """Set each slot of a chain that refers to a candidate to null, for it counts no more, and take off the marks.

    Among what they refer to, only candidates have count 0: all else is counted by them.
    """
    while chain != NULL:
        for slot in slots_of(heap, chain):
            child = slot.value
            if names_object(child) and (heap.header_at(child).ref_count == 0):
                slot.value = NULL
        header = heap.header_at(chain)
        header.kind_and_reserved &= ~HEADER_MARK_BIT
        chain = header.next_over_approximated_stack_root


@native
def forget_marks(heap: Heap) -> None:
    """Give a search up in which nothing but marks and links were set: by Python, which has found the heap broken."""
    for reference in objects(heap):
        header = heap.header_at(reference)
        word = header.kind_and_reserved
        if word & HEADER_MARK_BIT != 0:
            header.kind_and_reserved = word & ~HEADER_MARK_BIT
            if (word & HEADER_IN_OVER_APPROX_LIST_BIT == 0) and (header.ref_count != 0):
                header.next_over_approximated_stack_root = NULL
