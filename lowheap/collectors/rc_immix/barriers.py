"""The write barrier: the first store to a slot in an epoch logs the slot, and what it referred to.

Nothing else costs anything: reading, passing on, making, what is young. A slot that is yet to be logged has its bit
set, in the header of its object if it is one of the first 32 words behind that, else in `UNLOGGED`, where it counts
only if the object is `OLD`. A young object has none. Roots are found at the end of an epoch, and have no barrier.
"""

from __future__ import annotations

from lowheap.collectors.interface import ELEMENT, NO_FIELD, Shape
from lowheap.collectors.rc_immix.bits import clear_bit, has_bit, next_bit
from lowheap.collectors.rc_immix.counting import HEADER_SLOTS, header_mask, index_of, slot_number, unlogged_bits
from lowheap.collectors.rc_immix.space import append
from lowheap.collectors.rc_immix.state import LOG, OLD, OLD_VALUES, SLOT_SHIFT, Epochs
from lowheap.collectors.shared.references import names_object
from lowheap.layout import HEADER_SIZE, KIND_ARRAY_BIT, NULL, REFERENCE_SIZE
from lowheap.native import (
    Heap,
    Ref,
    Slot,
    cold,
    event,
    inline,
    native,
    u32,
    unlikely,
)


@event
def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """Log the slot, unless that is done, or it is a root; and store."""
    if shape.is_counted and owner != NULL:
        log(heap, owner, slot, shape)
    slot.value = value


@inline
def log(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> None:
    """Log a slot of an object, if it is to be logged."""
    header = heap.header(owner)
    is_any = shape.field == NO_FIELD
    if (shape.field == ELEMENT) or (is_any and (header.kind_and_reserved & KIND_ARRAY_BIT != 0)):
        log_beyond(heap, owner, slot)
    else:
        number = slot_number(heap, owner, slot)
        if number >= HEADER_SLOTS:
            log_beyond(heap, owner, slot)
        elif unlikely(header.next_over_approximated_stack_root >> number & 1 != 0):
            log_field(heap, owner, number)


@inline
def log_beyond(heap: Heap, owner: Ref, slot: Slot) -> None:
    """The same for a slot that the header has no bit for."""
    if heap.header(owner).kind_and_reserved & heap.header_bit(OLD) != 0:
        index = index_of(heap, slot)
        if unlikely(has_bit(unlogged_bits(heap), index >> SLOT_SHIFT)):
            log_slot(heap, index)


@cold
def log_field(heap: Heap, owner: Ref, number: u32) -> None:
    """Log the slot that is word `number` behind an object's header."""
    header = heap.header(owner)
    unlogged = header.next_over_approximated_stack_root
    if unlogged == header_mask(heap, header.type_index):
        append(heap, LOG, owner + 1)
    header.next_over_approximated_stack_root = unlogged & ~(1 << number)
    keep_old_value(heap, owner + (number * REFERENCE_SIZE + HEADER_SIZE))


@cold
def log_slot(heap: Heap, index: u32) -> None:
    """Log the slot at an index."""
    clear_bit(unlogged_bits(heap), index >> SLOT_SHIFT)
    append(heap, LOG, index)
    keep_old_value(heap, index)


@inline
def keep_old_value(heap: Heap, index: u32) -> None:
    """Remember what a slot referred to when the epoch began."""
    heap.state(Epochs).logged += 1
    old = heap.slot(index, 0).value
    if names_object(old):
        append(heap, OLD_VALUES, old)


# ----------------------------------------------------------------------------------------------------------------------
# Ranges of an array's elements: 64 of their bits are looked at together


@native
def log_range(heap: Heap, owner: Ref, slot: Slot, count: u32) -> None:
    """Log those of so many slots of an array that are yet to be logged."""
    if heap.header(owner).kind_and_reserved & heap.header_bit(OLD) != 0:
        bits = unlogged_bits(heap)
        number = index_of(heap, slot) >> SLOT_SHIFT
        end = number + count
        number = next_bit(bits, number, end)
        while number < end:
            log_slot(heap, number << SLOT_SHIFT)
            number = next_bit(bits, number + 1, end)
