"""The events in the life of a reference: those of wasmtime 40, `gc/drc.rs` and its Cranelift counterpart.

`collectors/interface.py` says what each is for. Counting is deferred: what compiled code holds is on the list, which
has one count of each object on it. So a read counts only what is not listed yet, and a new object's one count is the
list's.
"""

from __future__ import annotations

from lowheap.collectors.drc.counting import check_owned, count_up, drop_last
from lowheap.collectors.interface import Shape
from lowheap.collectors.shared.references import is_object
from lowheap.layout import HEADER_IN_OVER_APPROX_LIST_BIT, I31_TAG, NULL
from lowheap.native import Heap, Ref, Slot, event, inline, note, u32, unlikely


@inline
def is_object_of(reference: Ref, shape: Shape) -> bool:
    """Whether a reference of a shape names an object: the comparisons that the shape calls for."""
    return (
        (is_object(reference) if shape.may_be_i31 else reference != NULL)
        if shape.may_be_null
        else ((reference & I31_TAG == 0) if shape.may_be_i31 else True)
    )


@inline
def push(heap: Heap, reference: Ref, word: u32) -> None:
    """Put an unlisted object, the first word of whose header is `word`, at the head of the list."""
    control = heap.control
    header = heap.header(reference)
    header.next_over_approximated_stack_root = control.over_approximated_stack_roots
    header.kind_and_reserved = word | HEADER_IN_OVER_APPROX_LIST_BIT
    control.over_approximated_stack_roots = reference
    control.current_len += 1


@event
def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
    """Load; an object that is not listed gets the list's count and goes on the list."""
    reference = slot.value
    if shape.is_counted and is_object_of(reference, shape):
        header = heap.header(reference)
        word = header.kind_and_reserved
        if unlikely(word & HEADER_IN_OVER_APPROX_LIST_BIT == 0):
            header.ref_count += 1
            push(heap, reference, word)
    return reference


@event
def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """Count the new value, store it, then drop the old one: in this order, because they may be one object."""
    if shape.is_counted:
        old = slot.value
        heap.collector.inc_ref(heap, value, shape)
        slot.value = value
        heap.collector.dec_ref(heap, old, shape)
    else:
        slot.value = value


@event
def init(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """Count the value and store it."""
    heap.collector.inc_ref(heap, value, shape)
    slot.value = value


@inline
def allocated(heap: Heap, reference: Ref) -> None:
    """Push the object; its one count becomes the list's."""
    push(heap, reference, heap.header(reference).kind_and_reserved)


@event
def inc_ref(heap: Heap, reference: Ref, shape: Shape) -> None:
    """Add one, unless it is null or an i31."""
    if shape.is_counted and is_object_of(reference, shape):
        count_up(heap, reference)


@event
def dec_ref(heap: Heap, reference: Ref, shape: Shape) -> None:
    """Subtract one, unless it is null or an i31; the last count is taken out of line, by the drop."""
    if shape.is_counted and is_object_of(reference, shape):
        if heap.may_raise or heap.is_checked:
            check_owned(heap, reference)
        header = heap.header(reference)
        count = header.ref_count
        note("count of %#x down to %d", reference, count - 1)
        if unlikely(count == 1):
            drop_last(heap, reference)
        else:
            header.ref_count = count - 1


@event
def expose(heap: Heap, reference: Ref, shape: Shape) -> None:
    """Push the object with the count handed over; if it is listed already, the list has one: take this one back."""
    if shape.is_counted and is_object_of(reference, shape):
        header = heap.header(reference)
        word = header.kind_and_reserved
        if word & HEADER_IN_OVER_APPROX_LIST_BIT == 0:
            push(heap, reference, word)
        else:
            if heap.may_raise or heap.is_checked:
                check_owned(heap, reference)
            header.ref_count -= 1  # cannot reach 0: the list has one
