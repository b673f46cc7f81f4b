"""What hosts hold: handles, registered slots, frames; and the scopes in which nothing is collected.

An entry of the table of root slots is a slot's address, 0 when it is free; one of the table of root ranges likewise the
address of a `VMTable`, which says where slots are that stand in a row, and how many they are now. A handle is a
reference; a free one has the number of the next free one, tagged as an i31 so that it cannot pass for a reference, and
`free_handle` in the control block is the first one's number plus 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.shared.frames import host_slots
from lowheap.collectors.shared.references import is_object
from lowheap.errors import Status
from lowheap.layout import (
    HANDLE_LIMIT,
    I31_SHIFT,
    I31_TAG,
    ROOT_RANGE_LIMIT,
    ROOT_SLOT_LIMIT,
    VMRootFrame,
    VMRootKind,
    VMTable,
)
from lowheap.native import Heap, Ref, Slot, address_of, at, cell, inline, native, record, require, u32, u64

_REFERENCE, _ADDRESS = 4, 8


@record
class Root:
    """A root: a `VMRootKind`, and where it is, as in a `VMDumpRoot`: a handle's number, or a slot's address."""

    kind: u32
    place: u64


@inline
def held_by_handles(heap: Heap, root: Root) -> Iterator[Ref]:
    """Yield what each handle in use refers to; `root` says which it is. Of a count beyond the table, nothing."""
    root.kind = VMRootKind.HANDLE
    count = heap.control.handle_count
    for number in range(count if count <= HANDLE_LIMIT else 0):
        held = handle(heap, number).value
        if is_object(held):
            root.place = u64(number)
            yield held


@inline
def held_by_slots(heap: Heap, root: Root) -> Iterator[Ref]:
    """Yield likewise what each registered slot, and each in a registered range, refers to, if that is an object."""
    root.kind = VMRootKind.SLOT
    slots = heap.control.root_slot_count if heap.control.root_slot_count <= ROOT_SLOT_LIMIT else 0
    ranges = heap.control.root_range_count if heap.control.root_range_count <= ROOT_RANGE_LIMIT else 0
    for number in range(slots + ranges):  # in one loop, for there is code for each `yield` that is written
        start: u64 = 0
        count: u64 = 0
        if number < slots:
            start = cell(u64, heap.control.root_slots + u64(number) * _ADDRESS).value
            count = u64(1) if start != 0 else 0
        else:
            address = cell(u64, heap.control.root_ranges + u64(number - slots) * _ADDRESS).value
            if address != 0:
                start = at(VMTable, address).base
                count = at(VMTable, address).length
        for element in range(count):
            held = heap.outside(start + element * _REFERENCE).value
            if is_object(held):
                root.place = start + element * _REFERENCE
                yield held


@inline
def counted_roots(heap: Heap, root: Root) -> Iterator[Ref]:
    """Yield what handles and slots refer to, which counts."""
    for by_handle in held_by_handles(heap, root):
        yield by_handle
    for by_slot in held_by_slots(heap, root):
        yield by_slot


@inline
def every_root(heap: Heap, root: Root) -> Iterator[Ref]:
    """Yield what hosts hold: that, and what is in their frames, which does not count."""
    for counted in counted_roots(heap, root):
        yield counted
    root.kind = VMRootKind.FRAME
    for slot in host_slots(heap):
        if is_object(slot.value):
            root.place = address_of(slot)
            yield slot.value


@native
def find(table: u64, count: u32, address: u64) -> u32:
    """The number of the entry of a table that holds an address; the number of entries when none does."""
    number: u32 = 0
    while number < count:
        if cell(u64, table + u64(number) * _ADDRESS).value == address:
            return number
        number += 1
    return number


@inline
def is_registered(heap: Heap, address: u64) -> bool:
    """Whether a slot is in the table, or in a range that is."""
    control = heap.control
    if find(control.root_slots, control.root_slot_count, address) < control.root_slot_count:
        return True
    return is_in_range(heap, address)


@native
def is_in_range(heap: Heap, address: u64) -> bool:
    """Whether a slot is in a range that is in the table."""
    control = heap.control
    for number in range(control.root_range_count):
        place = cell(u64, control.root_ranges + u64(number) * _ADDRESS).value
        if (place != 0) and holds(at(VMTable, place), address):
            return True
    return False


@inline
def holds(table: VMTable, address: u64) -> bool:
    """Whether a slot is one of a range's."""
    if address < table.base:
        return False
    offset = address - table.base
    return (offset % _REFERENCE == 0) and (offset // _REFERENCE < table.length)


@native
def free_slot(heap: Heap, start: u32) -> u32:
    """The number of the first entry for a slot that is free, from `start` on; behind the last, where none is."""
    control = heap.control
    number = start
    while number < control.root_slot_count:
        if cell(u64, control.root_slots + u64(number) * _ADDRESS).value == 0:
            return number
        number += 1
    return number


@inline
def enter_slot(heap: Heap, number: u32, address: u64) -> None:
    """Enter a slot in the table, where that is free. Fails when it is full."""
    control = heap.control
    require(number < ROOT_SLOT_LIMIT, Status.LIMIT, f"no root slot is left: all {ROOT_SLOT_LIMIT} are in use")
    cell(u64, control.root_slots + u64(number) * _ADDRESS).value = address
    if number == control.root_slot_count:
        control.root_slot_count = number + 1


@inline
def register_slot(heap: Heap, address: u64) -> None:
    """Enter a slot in the table. Fails when that is full."""
    enter_slot(heap, free_slot(heap, 0), address)


@inline
def unregister_slot(heap: Heap, address: u64) -> None:
    """Take a slot out of the table. Fails when it is not there."""
    control = heap.control
    number = find(control.root_slots, control.root_slot_count, address)
    require(number < control.root_slot_count, Status.BAD_SLOT, "slot {:#x} is not registered", address)
    cell(u64, control.root_slots + u64(number) * _ADDRESS).value = 0


@inline
def register_range(heap: Heap, address: u64) -> None:
    """Enter a range in its table, by the address of its `VMTable`. Fails when that is full."""
    control = heap.control
    number = find(control.root_ranges, control.root_range_count, 0)
    require(number < ROOT_RANGE_LIMIT, Status.LIMIT, f"no root range is left: all {ROOT_RANGE_LIMIT} are in use")
    cell(u64, control.root_ranges + u64(number) * _ADDRESS).value = address
    if number == control.root_range_count:
        control.root_range_count = number + 1


@inline
def unregister_range(heap: Heap, address: u64) -> None:
    """Take a range out of its table. Fails when it is not there."""
    control = heap.control
    number = find(control.root_ranges, control.root_range_count, address)
    require(number < control.root_range_count, Status.BAD_SLOT, "root range {:#x} is not registered", address)
    cell(u64, control.root_ranges + u64(number) * _ADDRESS).value = 0


@inline
def handle(heap: Heap, number: u32) -> Slot:
    """Where a handle keeps its reference."""
    slot: Slot = cell(u32, heap.control.handles + u64(number) * _REFERENCE)
    return slot


@inline
def has_free_handle(heap: Heap) -> bool:
    """Whether a handle is left."""
    return (heap.control.free_handle != 0) | (heap.control.handle_count < HANDLE_LIMIT)


@inline
def take_handle(heap: Heap, reference: Ref) -> u32:
    """Return the number of a new handle of an object. Fails when none is left."""
    require(has_free_handle(heap), Status.LIMIT, f"no handle is left: all {HANDLE_LIMIT} are in use")
    return take_free_handle(heap, reference)


@inline
def take_free_handle(heap: Heap, reference: Ref) -> u32:
    """Return the number of a new handle of an object; one is left."""
    control = heap.control
    number = control.handle_count
    if control.free_handle != 0:
        number = control.free_handle - 1
        control.free_handle = handle(heap, number).value >> I31_SHIFT
    else:
        control.handle_count = number + 1
    handle(heap, number).value = reference
    return number


@inline
def free_handle(heap: Heap, number: u32) -> Ref:
    """Take a handle out of use, and return what it held."""
    reference = handle(heap, number).value
    handle(heap, number).value = heap.control.free_handle << I31_SHIFT | I31_TAG
    heap.control.free_handle = number + 1
    return reference


@inline
def push_frame(heap: Heap, frame: VMRootFrame, slots: u64, count: u32) -> None:
    """Make the slots of a host's frame roots."""
    context = heap.store_context
    frame.previous = context.root_frames
    frame.heap = address_of(heap.interface)
    frame.slots = slots
    frame.slot_count = count
    context.root_frames = address_of(frame)


@inline
def pop_frame(heap: Heap, frame: VMRootFrame) -> None:
    """Forget the frame that was pushed last."""
    heap.store_context.root_frames = frame.previous


@inline
def slot_of(slots: u64, number: u32) -> Slot:
    """One of the slots at an address."""
    slot: Slot = cell(u32, slots + u64(number) * _REFERENCE)
    return slot


@inline
def enter_no_gc_scope(heap: Heap) -> None:
    """Forbid collections until the matching exit."""
    heap.control.no_gc_count += 1


@inline
def exit_no_gc_scope(heap: Heap) -> None:
    """Leave a scope. Fails when none was entered."""
    require(heap.control.no_gc_count != 0, Status.NO_GC, "cannot leave a no-GC scope: none was entered")
    heap.control.no_gc_count -= 1


@inline
def require_no_scope(heap: Heap) -> None:
    """Fail inside of a scope."""
    count = heap.control.no_gc_count
    require(count == 0, Status.NO_GC, "cannot collect inside a no-GC scope; {} are entered", count)
