"""The host's own operations on objects: what a handle, a field, a call from Python comes to in the heap's bytes.

Each is whole: whoever runs it lets nothing in between, no thread and no signal's handler (`lowheap/operations.py` tells
how). What it makes for the host is a handle, in a `VMHandle` that the host has already: so nothing is in nobody's hands
when an exception comes between an operation and what the host does next.

References that the host gives are borrowed: it holds a handle of each.
"""

from __future__ import annotations

from lowheap.collectors import table_ranges
from lowheap.collectors.interface import ANY, Shape
from lowheap.collectors.shared import host_data, roots
from lowheap.collectors.shared.allocation import allocate_array, allocate_externref, allocate_struct
from lowheap.collectors.shared.externrefs import free_dead_externref
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.tracing import traced_slots
from lowheap.layout import ARRAY_HEADER_END, HEADER_SIZE, NULL, VMHandle, VMHostDataOwner, VMTable
from lowheap.native import Heap, Ref, address_of, at, cell, copy_memory, inline, native, u32, u64, unlikely, zero_memory

_UNCOUNTED = Shape(is_counted=False)


@inline
def fill(heap: Heap, reference: Ref, handle: VMHandle) -> None:
    """Make a handle of an object, with a count that there is; a handle is left."""
    handle.reference = reference
    handle.epoch = heap.control.epoch
    handle.number = roots.take_free_handle(heap, reference) + 1


@native
def share(heap: Heap, reference: Ref, handle: VMHandle) -> None:
    """Make a handle of an object, with a count of its own. Nothing of null, of an i31, and when no handle is left."""
    if is_object(reference) and roots.has_free_handle(heap):
        heap.collector.inc_ref(heap, reference, ANY)
        fill(heap, reference, handle)


@native
def adopt(heap: Heap, reference: Ref, handle: VMHandle) -> None:
    """Make a handle of an object that takes over the caller's count; if no handle is left, that is given back."""
    if roots.has_free_handle(heap):
        fill(heap, reference, handle)
    else:
        heap.collector.dec_ref(heap, reference, ANY)


@native
def release(heap: Heap, handle: VMHandle) -> None:
    """Give back what a handle holds; nothing when it holds nothing any more."""
    number = handle.number
    handle.number = 0
    if (number != 0) and (handle.epoch == heap.control.epoch):
        reference = handle.reference
        if roots.handle(heap, number - 1).value == reference:  # else the host has freed it by its number
            roots.free_handle(heap, number - 1)
            heap.collector.dec_ref(heap, reference, ANY)


@native
def read(heap: Heap, address: u64, handle: VMHandle) -> Ref:
    """Read a counted slot; of an object, a handle is made, unless none is left."""
    reference = heap.outside(address).value
    share(heap, reference, handle)
    return reference


@native
def write(heap: Heap, owner: Ref, address: u64, value: Ref) -> None:
    """Store over what a counted slot holds. `owner` is the object that it is in, or null."""
    heap.collector.write(heap, owner, heap.outside(address), value, ANY)


@native
def grow_table(heap: Heap, table: u64, delta: u64, value: Ref, is_counted: bool) -> u64:
    """Grow the table whose `VMTable` is at an address: see `table_ranges.grow`."""
    if is_counted:
        return table_ranges.grow(heap, at(VMTable, table), delta, value, ANY)
    return table_ranges.grow(heap, at(VMTable, table), delta, value, _UNCOUNTED)


@native
def drop_table(heap: Heap, table: u64) -> None:
    """Let go of all that a table or an element segment holds whose references count."""
    table_ranges.drop(heap, at(VMTable, table), ANY)


@native
def lend(heap: Heap, reference: Ref) -> None:
    """Let compiled code have what the host holds."""
    if is_object(reference):
        heap.collector.inc_ref(heap, reference, ANY)
        heap.collector.expose(heap, reference, ANY)


@native
def free_dead(heap: Heap) -> None:
    """Free the first of the externrefs that died, and its id, which is Python's: its value has been let go of."""
    host_data.free_id(heap, heap.externref(heap.control.dead_externrefs).host_data_id)
    free_dead_externref(heap)


@native
def dress(heap: Heap, reference: Ref, image: u64, start: u32, handle: VMHandle) -> None:
    """Initialise a new object from its bytes behind `start` on, whose references are borrowed; make a handle of it.

    They are 0 when `image` is. When no handle is left, the object is given back.
    """
    header = heap.header(reference)
    place = address_of(heap.block(reference)) + u64(start)
    length = u64(header.object_size - start)
    if image == 0:
        zero_memory(place, length)
    else:
        copy_memory(place, image, length)
        for unset in traced_slots(heap, reference, header.type_index):
            unset.value = NULL  # all of them first: a barrier may look at the whole object
        for slot in traced_slots(heap, reference, header.type_index):
            value = cell(u32, image + (address_of(slot) - place)).value
            if value != NULL:
                heap.collector.write(heap, reference, slot, value, ANY)  # not `init`: compiled code did not make it
    adopt(heap, reference, handle)


@native
def new_struct(heap: Heap, rules: FrameRules, type_index: u32, image: u64, handle: VMHandle) -> None:
    """Make a struct of the bytes of its fields, and a handle of it; no handle when there is no room."""
    reference = allocate_struct(heap, rules, type_index)
    if unlikely(reference == NULL):
        heap.store_context.trap_code = 0
    else:
        dress(heap, reference, image, HEADER_SIZE, handle)


@native
def new_array(
    heap: Heap, rules: FrameRules, type_index: u32, length: u32, image: u64, start: u32, handle: VMHandle
) -> None:
    """Make an array of the bytes of its elements, from `start` on in the object; no handle when there is no room."""
    reference = allocate_array(heap, rules, type_index, length)
    if unlikely(reference == NULL):
        heap.store_context.trap_code = 0
    else:
        gap = address_of(heap.block(reference)) + ARRAY_HEADER_END
        zero_memory(gap, u64(start - ARRAY_HEADER_END))
        dress(heap, reference, image, start, handle)


@native
def new_externref(heap: Heap, rules: FrameRules, data: u64, handle: VMHandle) -> u32:
    """Make an externref, with an id in the side table, and a handle of it; the id plus 1, 0 when there is no room."""
    reference = allocate_externref(heap, rules)
    if unlikely(reference == NULL):
        heap.store_context.trap_code = 0
        return 0
    if unlikely(not (host_data.has_free_id(heap) and roots.has_free_handle(heap))):
        heap.collector.free_leaf(heap, reference)
        return 0
    number = host_data.take_id(heap, VMHostDataOwner.PYTHON, data, 0)
    heap.externref(reference).host_data_id = number
    fill(heap, reference, handle)
    return number + 1
