"""A collection: trace, then sweep, then free.

A collection does not look for garbage in the heap. It looks at the list of all objects that compiled code *may* hold:
it marks those that frames say *are* held (trace), and takes the list's count from all others (sweep). Objects that
nobody else counts die then, and whatever only they held. Afterwards the list is the precise set of what is held.

Dropping cannot reach into the list under the walk: whatever is still listed has the list's count.

It is time for the next one when the list is twice as long as this one has left it; a short list (`list_floor`) is never
a reason. A collection that frees next to nothing was in vain: what it took off the list is read, and listed, again, and
then looked at again. So after one that freed less than an eighth as many objects as it looked at, the list may become
twice as long as it was, but not longer than there are live objects. As soon as one frees more, that is over.

So what floats on the list, although nobody holds it, is never more than the floor, twice what frames held, or as many
objects as lived after the last collection, whichever is most; and what is made of blocks that allocation has at hand
before it looks at the list: those take no room that was not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.drc.counting import Freed, free_chain, free_object, left_dead, note_freed
from lowheap.collectors.shared.free_lists import MANY, put_in_order
from lowheap.layout import HEADER_IN_OVER_APPROX_LIST_BIT, HEADER_MARK_BIT, NULL, U32_MAX
from lowheap.native import Heap, Ref, inline, native, note, place, u32, u64, unlikely

VAIN_FRACTION = 8
"""A collection was in vain if it freed fewer objects than this part of those that it looked at."""


@inline
def list_is_long(heap: Heap) -> bool:
    """Whether the list alone is a reason to collect."""
    floor: u32 = heap.collector.list_floor
    return heap.control.current_len >= max(heap.control.list_limit, floor)


@inline
def set_limit(heap: Heap, looked_at: u32, freed: u64) -> None:
    """Say how long the list may become before the next collection; dead externrefs are yet to be freed."""
    control = heap.control
    limit = u64(control.current_len) * 2
    if (freed * VAIN_FRACTION < u64(looked_at)) and (control.dead_externrefs == NULL):
        limit = max(limit, min(u64(looked_at) * 2, control.objects_allocated - control.objects_freed))
    control.len_after_last_gc = control.current_len
    control.list_limit = u32(min(limit, U32_MAX))


@inline
def is_listed(heap: Heap, reference: Ref) -> bool:
    """Whether an object is on the list: no frame may hold another."""
    return heap.header(reference).kind_and_reserved & HEADER_IN_OVER_APPROX_LIST_BIT != 0


@inline
def mark(heap: Heap, reference: Ref) -> bool:
    """Set the mark of an object that is held; False for one that is not listed, and so cannot be."""
    header = heap.header(reference)
    word = header.kind_and_reserved
    if unlikely(word & HEADER_IN_OVER_APPROX_LIST_BIT == 0):
        return False
    header.kind_and_reserved = word | HEADER_MARK_BIT
    return True


@native
def clear_marks(heap: Heap) -> None:
    """Forget what a trace found."""
    reference = heap.control.over_approximated_stack_roots
    while reference != NULL:
        header = heap.header(reference)
        header.kind_and_reserved &= ~HEADER_MARK_BIT
        reference = header.next_over_approximated_stack_root


@inline
def dying(heap: Heap) -> Iterator[Ref]:
    """Walk the list: yield each object that has no count but the list's, and take off all others that are not marked.
    The marked stay, in their order, unmarked again.

    The kept entries are linked anew, each behind the one kept before it.
    """
    control = heap.control
    share: u64 = heap.collector.list_share
    length: u32 = 0
    link = place(control, "over_approximated_stack_roots")
    reference = control.over_approximated_stack_roots
    while reference != NULL:
        current = reference
        header = heap.header(current)
        reference = header.next_over_approximated_stack_root
        word = header.kind_and_reserved
        if unlikely(word & HEADER_MARK_BIT):
            header.kind_and_reserved = word & ~HEADER_MARK_BIT
            link.value = current
            link = place(header, "next_over_approximated_stack_root")
            length += 1
        else:
            note("%#x is not held any more: off the list", current)
            if heap.may_raise:  # whatever comes of the object, the list is whole
                link.value = reference
                control.current_len -= 1
            count = header.ref_count - share
            if count == 0:
                yield current
            else:
                header.kind_and_reserved = word & ~HEADER_IN_OVER_APPROX_LIST_BIT
                header.ref_count = count
                header.next_over_approximated_stack_root = NULL
    link.value = NULL
    control.current_len = length


@native
def sweep(heap: Heap) -> None:
    """Take the list's count from each object that is not marked; free each that dies before the walk goes on."""
    looked_at = heap.control.current_len
    freed = Freed()
    for reference in heap.collector.dying(heap):
        if heap.may_raise:
            bury(heap, reference, left_dead(heap))
            free_chain(heap, reference, freed)
        else:  # its header is of no use any more
            free_chain(heap, free_object(heap, reference, NULL, freed, True), freed)
    note_freed(heap, freed)
    set_limit(heap, looked_at, freed.noted)
    if unlikely(freed.noted >= MANY):
        put_in_order(heap)


@native
def sweep_pending(heap: Heap) -> None:
    """Sweep, and free nothing: what dies goes in front of the pending dead objects."""
    pending = heap.control.pending_dead
    for reference in heap.collector.dying(heap):
        bury(heap, reference, pending)
        pending = reference
        if heap.may_raise:
            heap.control.pending_dead = pending
    heap.control.pending_dead = pending
    set_limit(heap, 0, 0)  # how much it is worth is not known yet


@inline
def bury(heap: Heap, reference: Ref, following: Ref) -> None:
    """Make an object that lost its last count one of a chain of the dead."""
    header = heap.header(reference)
    header.kind_and_reserved &= ~HEADER_IN_OVER_APPROX_LIST_BIT
    header.ref_count = 0
    header.next_over_approximated_stack_root = following
    note("count of %#x down to %d", reference, 0)
