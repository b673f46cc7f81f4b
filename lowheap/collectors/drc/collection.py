"""A collection: trace, then sweep, then free.

A collection does not look for garbage in the heap. It looks at the list of all objects that compiled code *may* hold:
it marks those that frames say *are* held (trace), and takes the list's count from all others (sweep). Objects that
nobody else counts die then, and whatever only they held. Afterwards the list is the precise set of what is held.

Dropping cannot reach into the list under the walk: whatever is still listed has the list's count.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.drc.counting import (
    Freed,
    count_freed,
    free_chain,
    free_object,
    free_pending,
    left_dead,
)
from lowheap.collectors.shared.frames import FrameRules, held_by_code, held_by_hosts, host_slots
from lowheap.collectors.shared.references import is_object, may_be_object
from lowheap.collectors.shared.sizing import UNLIMITED, live_bytes, note_peak
from lowheap.layout import (
    CONTROL_UNCOUNTED,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    NULL,
)
from lowheap.native import Heap, Ref, address_of, inline, native, note, place, u32, u64, unlikely


@inline
def mark(heap: Heap, reference: Ref) -> bool:
    """Set the mark of an object that is held; False for one that is not listed, and so cannot be."""
    if is_object(reference):
        header = heap.header(reference)
        word = header.kind_and_reserved
        if unlikely(word & HEADER_IN_OVER_APPROX_LIST_BIT == 0):
            heap.store_context.unsound_root = reference
            return False
        header.kind_and_reserved = word | HEADER_MARK_BIT
    return True


@native
def trace(heap: Heap, rules: FrameRules) -> bool:
    """Mark what every frame of every activation holds, and what the host's frames hold.

    False for a frame that is not known, or that holds what is not listed: the store context tells which.
    """
    if rules.checks_hosts and unlikely(unsound_slot(heap) != 0):
        return False
    if rules.has_code:
        for reference in held_by_code(heap, rules):
            if unlikely(not mark(heap, reference)):
                return False
        if unlikely(heap.store_context.unknown_return_address != 0):
            return False
    for held in held_by_hosts(heap):
        if unlikely(not mark(heap, held)):
            return False
    return True


@native
def unsound_slot(heap: Heap) -> u64:
    """The address of a slot of a host's frame that holds neither null nor an i31 nor a listed object; 0: there is none.

    Nothing is taken for granted of what a slot holds.
    """
    for slot in host_slots(heap):
        reference = slot.value
        if is_object(reference):
            if not may_be_object(heap, reference):
                return address_of(slot)
            if heap.header(reference).kind_and_reserved & HEADER_IN_OVER_APPROX_LIST_BIT == 0:
                return address_of(slot)
    return 0


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
    """Walk the list: yield each object that loses its last count, which is the list's, and take off all others that are
    not marked. The marked stay, in their order, unmarked again.

    The kept entries are linked anew, each behind the one kept before it.
    """
    control = heap.control
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
            count = header.ref_count - 1
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
    freed = Freed()
    for reference in dying(heap):
        if heap.may_raise:
            bury(heap, reference, left_dead(heap))
            free_chain(heap, reference, freed)
        else:  # its header is of no use any more
            free_chain(heap, free_object(heap, reference, NULL, freed), freed)
    count_freed(heap, freed)


@native
def sweep_pending(heap: Heap) -> None:
    """Sweep, and free nothing: what dies goes in front of the pending dead objects."""
    pending = heap.control.pending_dead
    for reference in dying(heap):
        bury(heap, reference, pending)
        pending = reference
        if heap.may_raise:
            heap.control.pending_dead = pending
    heap.control.pending_dead = pending


@inline
def bury(heap: Heap, reference: Ref, following: Ref) -> None:
    """Make an object that lost its last count one of a chain of the dead."""
    header = heap.header(reference)
    header.kind_and_reserved &= ~HEADER_IN_OVER_APPROX_LIST_BIT
    header.ref_count = 0
    header.next_over_approximated_stack_root = following
    note("count of %#x down to %d", reference, 0)


@inline
def finish_sweep(heap: Heap) -> None:
    """Note what a sweep has left."""
    control = heap.control
    control.len_after_last_gc = control.current_len
    control.live_bytes_after_last_collection = live_bytes(heap)
    control.collections += 1


@native
def collect_all(heap: Heap, rules: FrameRules) -> bool:
    """Collect, all at once, and free what earlier ones have left; False, with nothing done, if a frame is wrong."""
    if unlikely(heap.control.flags & CONTROL_UNCOUNTED):
        heap.control.collections += 1
        return True
    note_peak(heap)
    if unlikely(not trace(heap, rules)):
        clear_marks(heap)
        return False
    sweep(heap)
    free_pending(heap, UNLIMITED)
    finish_sweep(heap)
    return True
