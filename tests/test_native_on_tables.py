"""The native functions of `lowheap.collectors` that `test_native_collectors.py` leaves out, both ways as there.

They take more than a heap's bytes: tables behind the control block, notes, the text of a message, what is known when
code is compiled; and they tell of problems, or fail. So each runs on a side of its own that has all that: a control
mapping, memory, an `lh_heap`. The machine code is that of the checked C interface, which keeps a message. Equal must be
what is returned, the failure, the number of problems and the first of them, and every byte: heap, control block, all
tables, notes, a frame, the store's context, and what a visitor is shown.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.combinations import examples
from support.native_heaps import ANY_U32, ANY_U64, RULES, STEPS, Frames, Made, natives
from support.native_interface import FUNCTION_TYPES, NOTES, RANGE, SLOTS, Examiner, Interface, Side, message_of
from support.native_sides import mixed, sum_of_copied, sum_of_filled

from lowheap.collectors import host, table_ranges
from lowheap.collectors.drc import Drc, barriers
from lowheap.collectors.drc import verify as drc_verify
from lowheap.collectors.interface import ANY, OBJECT, Shape
from lowheap.collectors.null import collector as null
from lowheap.collectors.shared import (
    access,
    casts,
    host_data,
    parts,
    ranges,
    roots,
    setup,
    types,
    verify,
    walking,
)
from lowheap.collectors.shared.access import Storages
from lowheap.collectors.shared.casts import TypeTest
from lowheap.collectors.shared.externrefs import bury_externref
from lowheap.collectors.shared.frames import FrameRules
from lowheap.errors import HeapCorruptionError, LowheapError, status_error
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    HANDLES_OFFSET,
    HEADER_SIZE,
    HOST_DATA_OFFSET,
    NO_SUPERTYPE,
    NULL,
    ROOT_RANGES_OFFSET,
    ROOT_SLOTS_OFFSET,
    SELF_TYPE,
    TYPE_DATA_OFFSET,
    TYPE_TABLE_OFFSET,
    VMFieldDefinition,
    VMFieldInfo,
    VMGcKind,
    VMHandle,
    VMHeapControl,
    VMHeapType,
    VMHostData,
    VMHostDataOwner,
    VMStorage,
    VMStoreContext,
    VMTable,
    VMTypeInfo,
)
from lowheap.memory import Mapping
from lowheap.native import (
    Heap,
    Native,
    OutOfRange,
    Ref,
    Text,
    address_of,
    native,
    sizeof,
    u32,
    u64,
    wrapping_add,
    wrapping_sub,
)
from lowheap.native.check import BOOL, HeapType, NoneType, StaticType

# ----------------------------------------------------------------------------------------------------------------------
# Functions for generators, and for what takes or returns records and tuples


@native
def sum_of_handles(heap: Heap) -> u64:
    total: u64 = 7
    root = roots.Root()
    for reference in roots.held_by_handles(heap, root):
        total = mixed(total, u64(reference) + root.place * 8 + u64(root.kind))
    return total


@native
def sum_of_slots(heap: Heap) -> u64:
    total: u64 = 7
    root = roots.Root()
    for reference in roots.held_by_slots(heap, root):
        total = mixed(total, wrapping_add(u64(reference), root.place))
    return total


@native
def sum_of_counted_roots(heap: Heap) -> u64:
    total: u64 = 7
    root = roots.Root()
    for reference in roots.counted_roots(heap, root):
        total = mixed(total, wrapping_add(u64(reference), root.place))
    return total


@native
def sum_of_roots(heap: Heap) -> u64:
    total: u64 = 7
    root = roots.Root()
    for reference in roots.every_root(heap, root):
        place = root.place
        in_context = wrapping_sub(place, address_of(heap.store_context))
        if in_context < sizeof(VMStoreContext):  # what is being thrown, in a place of the side's own
            place = in_context
        total = mixed(total, wrapping_add(u64(reference), place + u64(root.kind)))
    return total


@native
def sum_of_blocks(heap: Heap) -> u64:
    total: u64 = 7
    for index in walking.blocks(heap):
        total = mixed(total, u64(index))
    return total


@native
def sum_of_listed(heap: Heap, notes: u64) -> u64:
    total: u64 = 7
    for each in drc_verify._listed(heap, notes, heap.control.over_approximated_stack_roots, verify.LISTED):
        total = mixed(total, u64(each))
    return total


@native
def sum_of_pending(heap: Heap, notes: u64) -> u64:
    total: u64 = 7
    for each in drc_verify._pending(heap, notes, heap.control.pending_dead, verify.DEAD):
        total = mixed(total, u64(each))
    return total


@native
def sum_of_dead_externrefs(heap: Heap, notes: u64) -> u64:
    total: u64 = 7
    for each in verify._dead_externrefs(heap, notes, heap.control.dead_externrefs, verify.DEAD):
        total = mixed(total, u64(each))
    return total


@native
def walk_all(heap: Heap, visitor: u64) -> u64:
    returned, reference = walking.walk(heap, visitor, 0x1234)
    return u64(returned) * 0x1_0000_0000 + u64(reference)


@native
def look_at_blocks(heap: Heap, notes: u64, has_lists: bool) -> u64:
    is_whole, objects, size = verify.verify_blocks(heap, notes, has_lists)
    return (objects * 1_000_000 + size) * 2 + u64(u32(is_whole))


@native
def look_at_all(heap: Heap, has_lists: bool) -> u64:
    """The sum of all notes."""
    notes = verify.verify(heap, has_lists)
    total: u64 = 7
    if notes != 0:
        for number in range(heap.control.bump >> 4):
            total = mixed(total, verify.note_of(heap, notes, number << 4))
        verify.forget_notes(heap, notes)
    return total


@native
def place_of_field(heap: Heap, reference: Ref, field: u32, storages: Storages) -> u32:
    offset, entry = access.field_place(heap, reference, field, storages)
    return offset * 64 + u32(entry.storage)


@native
def place_in_exception(heap: Heap, reference: Ref, field: u32, storages: Storages) -> u32:
    offset, entry = access.exception_place(heap, reference, field, storages)
    return offset * 64 + u32(entry.storage)


@native
def place_in_object(heap: Heap, reference: Ref, field: u32, storages: Storages, name: Text) -> u32:
    offset, entry = access.place_of_field(heap, reference, field, storages, name)
    return offset * 64 + u32(entry.storage)


@native
def check_storage_of(heap: Heap, type_index: u32, field: u32, storages: Storages, part: Text, number: u32) -> None:
    access.check_storage(types.field_info(heap, heap.type_info(type_index), field), storages, part, number)


@native
def place_of_element(heap: Heap, reference: Ref, index: u32, storages: Storages) -> u32:
    offset, entry = access.element_place(heap, reference, index, storages)
    return offset * 64 + u32(entry.storage)


@native
def value_of_handle(heap: Heap, number: u32) -> u32:
    return roots.handle(heap, number).value


@native
def value_of_slot(slots: u64, number: u32) -> u32:
    return roots.slot_of(slots, number).value


@native
def offset_of_element(table: VMTable, index: u64) -> u64:
    return table_ranges.address_of_element(table, index) - table.base


@native
def owner_of_id(heap: Heap, number: u32) -> u32:
    entry = host_data.entry_of(heap, number)
    return entry.owner * 1_000_000 + entry.next_free


@native
def storage_of_field(heap: Heap, type_index: u32, field: u32) -> u32:
    entry = types.field_info(heap, heap.type_info(type_index), field)
    return entry.offset * 64 + u32(entry.storage)


@native
def heap_type_at(fields: u64, number: u32, type_index: u32) -> u32:
    return types.heap_type_of(types.definition_at(fields, number), type_index)


@native
def is_traced_at(fields: u64, number: u32) -> bool:
    return types.is_traced(types.definition_at(fields, number))


@native
def write_field_at(heap: Heap, position: u32, fields: u64, number: u32, offset: u32, type_index: u32) -> None:
    types.write_field(heap, position, types.definition_at(fields, number), offset, type_index)


@native
def check_value_of(heap: Heap, type_index: u32, field: u32, value: Ref) -> None:
    access.check_value(heap, types.field_info(heap, heap.type_info(type_index), field), value)


@native
def supertype_of(heap: Heap, type_index: u32, depth: u32) -> u32:
    return casts.supertype_at(heap, heap.type_info(type_index), depth)


@native
def sizes_of_parts(heap: Heap, length: u64) -> u64:
    """Of the collector's, of which `drc` has none: `test_collector_images.py` has others."""
    total: u64 = length
    for number in range(heap.part_count()):
        part = heap.part(number)
        total += parts.size_of_content(heap, part) + parts.length_of_part(heap, part)
        total += parts.content_at(heap, part) - parts.part_at(heap, part)
    return total


@native
def free_buried(heap: Heap, reference: Ref) -> None:
    bury_externref(heap, reference)
    host.free_dead(heap)


STAND_INS: dict[Native[..., Any], Native[..., Any]] = {
    roots.held_by_handles: sum_of_handles,
    roots.held_by_slots: sum_of_slots,
    roots.counted_roots: sum_of_counted_roots,
    roots.every_root: sum_of_roots,
    roots.handle: value_of_handle,
    roots.slot_of: value_of_slot,
    walking.blocks: sum_of_blocks,
    walking.walk: walk_all,
    ranges.filled: sum_of_filled,
    ranges.copied: sum_of_copied,
    drc_verify._listed: sum_of_listed,
    drc_verify._pending: sum_of_pending,
    verify._dead_externrefs: sum_of_dead_externrefs,
    verify.verify_blocks: look_at_blocks,
    verify.verify: look_at_all,
    verify.forget_notes: look_at_all,
    access.field_place: place_of_field,
    access.exception_place: place_in_exception,
    access.place_of_field: place_in_object,
    access.check_storage: check_storage_of,
    access.element_place: place_of_element,
    access.check_value: check_value_of,
    casts.supertype_at: supertype_of,
    host_data.entry_of: owner_of_id,
    types.field_info: storage_of_field,
    types.definition_at: heap_type_at,
    types.heap_type_of: heap_type_at,
    types.is_traced: is_traced_at,
    types.write_field: write_field_at,
    parts.part_at: sizes_of_parts,
    parts.length_of_part: sizes_of_parts,
    parts.content_at: sizes_of_parts,
    parts.size_of_content: sizes_of_parts,
    host.free_dead: free_buried,
    table_ranges.address_of_element: offset_of_element,
}

NOT_HERE: dict[Native[..., Any], str] = {
    host.new_struct: "allocation and `host.dress`, both compared: test_objects.py makes structs on both runtimes",
    host.new_array: "likewise",
    host.new_externref: "likewise, with `host_data.take_id`",
    parts.size_in_use: "it takes a part of a collector's, and `drc` has none: test_collector_images.py compares it",
}
"""What is not compared here, and why."""


# ----------------------------------------------------------------------------------------------------------------------
# Arguments

Draw = Callable[..., Any]
Argument = Any
"""A number, or a function of a side, which returns what Python takes and what machine code takes."""


def notes_at(side: Side) -> tuple[int, int]:
    address = ctypes.addressof(side.notes)
    return address, address


def slot_at(reference: int, offset: int) -> Callable[[Side], tuple[Any, int]]:
    def find(side: Side) -> tuple[Any, int]:
        slot = side.memory.view(ctypes.c_uint32, reference + offset)
        return slot, ctypes.addressof(slot)

    return find


def control_at(side: Side) -> tuple[int, int]:
    return ctypes.addressof(side.control), ctypes.addressof(side.control)


def in_memory(offset: int) -> Callable[[Side], tuple[int, int]]:
    return lambda side: (side.memory.base + offset, side.memory.base + offset)


def in_mapping(offset: int) -> Callable[[Side], tuple[int, int]]:
    return lambda side: (side.mapping.base + offset, side.mapping.base + offset)


def frame_at(side: Side) -> tuple[Any, int]:
    return side.frame, ctypes.addressof(side.frame)


def visitor_at(side: Side) -> tuple[int, int]:
    address = ctypes.cast(side.visitor, ctypes.c_void_p).value or 0
    return address, address


Arguments = Callable[[Draw, Made], list[Argument]]


def nothing(draw: Draw, made: Made) -> list[Argument]:
    return []


def an_object(draw: Draw, made: Made) -> list[Argument]:
    if not made.objects:
        made.step("cell", 0, 0, 0)
    return [draw(st.sampled_from(made.objects))]


def an_object_with_fields(draw: Draw, made: Made) -> list[Argument]:
    made.step("exception", 0, 0, 0)
    types = {each: made.heap.header(each).type_index for each in made.objects}
    return [draw(st.sampled_from([each for each, index in types.items() if index != EXTERNREF_TYPE_INDEX]))]


def a_reference(draw: Draw, made: Made) -> list[Argument]:
    return [draw(st.sampled_from([NULL, 1, 0xFFFF_FFFF, *made.objects]))]


def anything(draw: Draw, made: Made) -> list[Argument]:
    inside = [each + 16 for each in made.objects] + [each.index for each in made.heap.objects()]
    return [draw(st.sampled_from([NULL, 1, 8, 0x7FFF_FFF0, *inside, *made.objects]))]


def an_unlisted_object(draw: Draw, made: Made) -> list[Argument]:
    listed = set(made.listed)
    choices = [each for each in made.objects if each not in listed]
    assume(choices)
    return [draw(st.sampled_from(choices))]


def an_owned_object(draw: Draw, made: Made) -> list[Argument]:
    return an_object(draw, made) if draw(st.integers(0, 3)) else a_reference(draw, made)


def a_slot(draw: Draw, made: Made) -> list[Argument]:
    """An object, and a slot of its."""
    holders = [(each, made.slots(each)) for each in made.objects]
    holders = [(each, slots) for each, slots in holders if slots]
    if not holders:
        made.step("array", 0, 0, 3)
        return a_slot(draw, made)
    holder, slots = draw(st.sampled_from(holders))
    slot = draw(st.sampled_from(slots))
    offset = ctypes.addressof(slot) - made.heap.control.heap_base - holder
    return [holder, slot_at(holder, offset)]


def an_empty_slot(draw: Draw, made: Made) -> list[Argument]:
    holder, slot = a_slot(draw, made)
    return [holder, slot]


def slot_and_value(draw: Draw, made: Made) -> list[Argument]:
    holder, slot = a_slot(draw, made)
    return [holder, slot, *a_reference(draw, made)]


def with_notes(*more: Arguments) -> Arguments:
    return lambda draw, made: [notes_at, *(each for one in more for each in one(draw, made))]


def drawn(*strategies: st.SearchStrategy[Any]) -> Arguments:
    return lambda draw, made: [draw(each) for each in strategies]


def then(*several: Arguments) -> Arguments:
    return lambda draw, made: [each for one in several for each in one(draw, made)]


BOOLS = drawn(st.booleans())
NOTE = drawn(
    st.sampled_from([0, verify.LISTED, verify.DEAD, verify.OBJECT, verify.OBJECT | verify.LISTED, verify.OBJECT | 2])
    | ANY_U64
)
INDEX = drawn(st.integers(0, 120).map(lambda number: FIRST_INDEX + number * BLOCK_ALIGN))
TYPE_INDEX = drawn(st.integers(0, 12) | st.sampled_from([EXTERNREF_TYPE_INDEX, 1 << 20]))
A_TYPE = drawn(st.integers(0, 8))
KIND_OF_OBJECTS = st.sampled_from([int(each) for each in VMGcKind])
KIND = drawn(st.sampled_from([int(each) for each in VMGcKind]) | ANY_U32)
HEAP_TYPE = drawn(st.sampled_from([*map(int, VMHeapType), 0, 1, 2, 3, 6]))
FEW = drawn(st.integers(0, 12))
UP_TO_9 = st.integers(0, 9)
ANY_NUMBER = drawn(ANY_U32)


def an_array(draw: Draw, made: Made) -> list[Argument]:
    return [draw(st.sampled_from(of_kind(made, VMGcKind.ARRAY_REF, "array", 0)))]


def of_kind(made: Made, kind: VMGcKind, step: str, least: int) -> list[int]:
    """The objects of a kind and at least so many bytes; where there is none, the step makes one."""
    for _ in range(2):
        found = [each for each in made.objects if made.heap.kind(each) is kind and made.heap.object_size(each) >= least]
        if found:
            return found
        made.step(step, 0, 0, 3)
    raise AssertionError(f"the step {step!r} makes no {kind!r} of {least} bytes")


def a_struct(draw: Draw, made: Made) -> list[Argument]:
    return [draw(st.sampled_from(of_kind(made, VMGcKind.STRUCT_REF, "cell", 0)))]


def bytes_of_array(draw: Draw, made: Made) -> list[Argument]:
    """An array's reference, an offset that is aligned for anything, and a storage that is an integer."""
    array = draw(st.sampled_from(of_kind(made, VMGcKind.ARRAY_REF, "bytes", 48)))
    offset = draw(st.integers(32, made.heap.object_size(array) - 8).map(lambda place: place & ~3))
    return [array, offset, draw(st.sampled_from([VMStorage.I8, VMStorage.I16, VMStorage.I32]).map(int))]


def moved(draw: Draw, made: Made) -> list[Argument]:
    start = made.heap.control.bump
    places = st.integers(start, made.heap.control.capacity - 80)
    return [
        in_memory(draw(places)),
        in_memory(draw(places)),
        draw(st.integers(0, 9)),
        draw(st.sampled_from([1, 2, 4, 8])),
    ]


DEFINITIONS: list[Any] = []


def definitions(draw: Draw, made: Made) -> list[Argument]:
    """The address of some definitions, right ones mostly, and how many there are."""
    reference = st.tuples(
        st.just(int(VMStorage.REFERENCE)),
        st.integers(0, 3),
        st.sampled_from([*map(int, VMHeapType), SELF_TYPE, 0, 1, 6]),
    )
    number = st.tuples(
        st.sampled_from([int(each) for each in VMStorage if each != VMStorage.REFERENCE]), st.integers(0, 1), st.just(0)
    )
    wrong = st.tuples(st.integers(0, 20), st.integers(0, 70), st.sampled_from([0, 1, 99, 1 << 21]))
    one = reference | number
    given = draw(st.lists(one | wrong if draw(st.integers(0, 3)) == 0 else one, min_size=1, max_size=75))
    array = (VMFieldDefinition * len(given))(*(VMFieldDefinition(*each) for each in given))
    DEFINITIONS.append(array)
    return [ctypes.addressof(array), len(given)]


def like_a_type(draw: Draw, made: Made) -> list[Argument]:
    """Definitions that begin as a type's fields do; how many, and that type."""
    type_index = draw(st.integers(0, made.heap.control.type_count - 1))
    info = made.heap.native.type_info(type_index)
    given = []
    for number in range(info.field_count):
        field: VMFieldInfo = types.field_info(made.heap.native, info, number)
        given.append((field.storage, field.flags & 3, field.heap_type))
    if given and draw(st.integers(0, 2)) == 0:
        number = draw(st.integers(0, len(given) - 1))
        given[number] = (
            given[number][0],
            draw(st.integers(0, 3)),
            draw(st.sampled_from([0, 1, *map(int, VMHeapType)])),
        )
    given += draw(st.lists(st.just((int(VMStorage.I64), 1, 0)), max_size=2))
    array = (VMFieldDefinition * max(1, len(given)))(*(VMFieldDefinition(*each) for each in given))
    DEFINITIONS.append(array)
    return [ctypes.addressof(array), len(given), type_index]


def a_definition(draw: Draw, made: Made) -> list[Argument]:
    address, count = definitions(draw, made)
    return [address, draw(st.integers(0, count - 1))]


def a_type_to_define(draw: Draw, made: Made) -> list[Argument]:
    address, count, above = like_a_type(draw, made)
    kind = draw(st.sampled_from([int(VMGcKind.STRUCT_REF), int(VMGcKind.ARRAY_REF)]))
    supertype = draw(st.sampled_from([above, above, NO_SUPERTYPE]))
    if kind == VMGcKind.ARRAY_REF:
        assume(count)
        count = 1
    return [kind, address, count, supertype, draw(st.sampled_from([0, 0, 1, 2]))]


def a_type_to_write(draw: Draw, made: Made) -> list[Argument]:
    address, count = definitions(draw, made)
    array = (VMFieldDefinition * count).from_address(address)
    assume(all(each.storage <= max(VMStorage) for each in array))
    kind = draw(st.sampled_from([int(VMGcKind.STRUCT_REF), int(VMGcKind.ARRAY_REF), int(VMGcKind.EXN_REF)]))
    if kind == VMGcKind.ARRAY_REF:
        count = 1
    above = (ctypes.c_uint32 * 4)(3, 1, 4, 1)
    DEFINITIONS.append(above)
    depth, flags = draw(st.integers(0, 4)), draw(st.integers(0, 1))
    return [made.heap.control.type_count, kind, address, count, ctypes.addressof(above), depth, flags]


def a_field_to_write(draw: Draw, made: Made) -> list[Argument]:
    position = made.heap.control.type_data_length + draw(st.integers(0, 9))
    return [position, *a_definition(draw, made), draw(st.integers(0, 1 << 20)), draw(st.integers(0, 9))]


def a_field_of_type(draw: Draw, made: Made) -> list[Argument]:
    kinds = [each for each in range(made.heap.control.type_count) if made.heap.native.type_info(each).field_count]
    type_index = draw(st.sampled_from(kinds))
    return [type_index, draw(st.integers(0, made.heap.native.type_info(type_index).field_count - 1))]


def a_depth_of_type(draw: Draw, made: Made) -> list[Argument]:
    type_index = draw(st.integers(0, made.heap.control.type_count - 1))
    return [type_index, draw(st.integers(0, made.heap.native.type_info(type_index).depth))]


def a_handle(draw: Draw, made: Made) -> list[Argument]:
    if not made.handles:
        made.step("cell", 0, 0, 0)
    return [draw(st.sampled_from(made.handles))]


def an_id(draw: Draw, made: Made) -> list[Argument]:
    if 0 not in made.world.host_data:
        made.step("externref", 0, 0, 3)
    return [draw(st.sampled_from([each for each in range(10) if each in made.world.host_data]))]


def a_visitor(draw: Draw, made: Made) -> list[Argument]:
    return [visitor_at]


def a_shared_slot(draw: Draw, made: Made) -> list[Argument]:
    return [ctypes.addressof(SLOTS) + 4 * draw(st.integers(0, 7))]


def an_entry(draw: Draw, made: Made) -> list[Argument]:
    """One of the two tables of addresses, how many entries it has, and an address."""
    control = made.heap.control
    offset, count = draw(
        st.sampled_from([(ROOT_SLOTS_OFFSET, control.root_slot_count), (ROOT_RANGES_OFFSET, control.root_range_count)])
    )
    return [in_mapping(offset), count, draw(st.sampled_from([0, ctypes.addressof(RANGE), *a_shared_slot(draw, made)]))]


def shared_range_at(side: Side) -> tuple[VMTable, int]:
    return RANGE, ctypes.addressof(RANGE)


def near_a_shared_slot(draw: Draw, made: Made) -> list[Argument]:
    return [ctypes.addressof(SLOTS) + draw(st.integers(-4, 24))]


def a_shared_range(draw: Draw, made: Made) -> list[Argument]:
    return [draw(st.sampled_from([ctypes.addressof(RANGE), ctypes.addressof(SLOTS)]))]


def a_table(number: int, *, by_address: bool = False) -> Arguments:
    """A table whose elements are those of an array: the first or the second of an operation's tables."""

    def table(draw: Draw, made: Made) -> list[Argument]:
        arrays = [each for each in made.objects if made.heap.kind(each) is VMGcKind.ARRAY_REF and made.slots(each)]
        if not arrays:
            made.step("array", 0, 0, 5)
            return table(draw, made)
        slots = made.slots(draw(st.sampled_from(arrays)))
        offset = ctypes.addressof(slots[0]) - made.heap.control.heap_base
        length = draw(st.integers(0, len(slots)))

        def find(side: Side) -> tuple[Any, int]:
            laid = side.ranges[number]
            laid.base, laid.length, laid.maximum = side.memory.base + offset, length, len(slots)
            return ctypes.addressof(laid) if by_address else laid, ctypes.addressof(laid)

        return [find]

    return table


def new_frame(draw: Draw, made: Made) -> list[Argument]:
    return [frame_at, ctypes.addressof(SLOTS), draw(st.integers(0, 8))]


def handle_at(side: Side) -> tuple[VMHandle, int]:
    return side.handle, ctypes.addressof(side.handle)


def with_handle(arguments: Arguments) -> Arguments:
    return lambda draw, made: [*arguments(draw, made), handle_at]


def a_filled_handle(draw: Draw, made: Made) -> list[Argument]:
    """One of the heap's handles, or what is none any more."""
    number, reference = draw(st.sampled_from([*made.heap.handles(), (0, 8)]))
    epoch = made.heap.control.epoch + draw(st.integers(0, 1))

    def fill(side: Side) -> tuple[VMHandle, int]:
        side.handle = VMHandle(draw_number, reference, epoch, 0)
        return handle_at(side)

    draw_number = number + draw(st.integers(0, 1))
    return [fill]


def address_of_a_slot(draw: Draw, made: Made) -> list[Argument]:
    """An object, and the address of a slot of its."""
    holder, find = a_slot(draw, made)
    return [holder, lambda side: (find(side)[1],) * 2]


def an_image(draw: Draw, made: Made) -> list[Argument]:
    """A struct without references, and the address of bytes for it: i31s all of them, or none."""
    structs = [each for each in made.objects if made.heap.kind(each) is VMGcKind.STRUCT_REF]
    holders = [each for each in structs if all(slot.value == NULL for slot in made.slots(each))]
    if not holders:
        made.step("cell", 0, 0, 0)
        return an_image(draw, made)
    return [draw(st.sampled_from(holders)), draw(st.sampled_from([0, ctypes.addressof(IMAGE)])), HEADER_SIZE]


IMAGE = ctypes.create_string_buffer(b"\1" * 4096)


def an_externref(draw: Draw, made: Made) -> list[Argument]:
    return [draw(st.sampled_from(of_kind(made, VMGcKind.EXTERN_REF, "externref", 0)))]


HEAP_AND_OBJECT = an_object

ARGUMENTS: dict[Native[..., Any], Arguments] = {
    barriers.allocated: an_unlisted_object,
    barriers.dec_ref: an_owned_object,
    barriers.expose: an_owned_object,
    barriers.inc_ref: an_owned_object,
    barriers.init: slot_and_value,
    barriers.is_object_of: a_reference,
    barriers.push: lambda draw, made: [
        (reference := an_unlisted_object(draw, made)[0]),
        made.heap.header(reference).kind_and_reserved,
    ],
    barriers.read: a_slot,
    barriers.write: slot_and_value,
    host.fill: with_handle(an_object),
    host.share: with_handle(a_reference),
    host.adopt: with_handle(an_owned_object),
    host.release: a_filled_handle,
    host.read: with_handle(lambda draw, made: address_of_a_slot(draw, made)[1:]),
    host.drop_table: a_table(0, by_address=True),
    host.grow_table: then(a_table(0, by_address=True), drawn(UP_TO_9), a_reference, BOOLS),
    host.write: then(address_of_a_slot, a_reference),
    host.lend: a_reference,
    host.dress: with_handle(an_image),
    free_buried: an_externref,
    drc_verify.verify_bits: then(an_object, NOTE),
    drc_verify.verify_held: with_notes(drawn(st.integers(0, 1) | ANY_U64), a_reference),
    drc_verify.verify_listed: with_notes(an_object),
    drc_verify.verify_lists: with_notes(),
    drc_verify.verify_noted: then(an_object, NOTE),
    drc_verify.verify_pending: anything,
    drc_verify._dead_on_pending: an_object,
    sum_of_listed: with_notes(),
    sum_of_pending: with_notes(),
    null.allocated: an_object,
    null.always: an_object,
    null.collect: nothing,
    null.count_nothing: an_object,
    null.free_nothing: drawn(ANY_U64),
    null.keep: an_object,
    null.never: nothing,
    null.nothing: nothing,
    null.read: a_slot,
    null.verify_held: with_notes(drawn(ANY_U64), a_reference),
    null.verify_lists: with_notes(),
    null.verify_noted: then(an_object, NOTE),
    null.write: slot_and_value,
    access.agrees_with_type: an_object,
    access.check_kind: then(an_object, drawn(KIND_OF_OBJECTS)),
    access.check_names_object: anything,
    access.check_object: anything,
    access.check_reference: anything,
    access.load_signed: bytes_of_array,
    access.load_unsigned: bytes_of_array,
    access.object_problem: anything,
    access.store_integer: then(bytes_of_array, ANY_NUMBER),
    access.refuse_kind: then(drawn(KIND_OF_OBJECTS, KIND_OF_OBJECTS), an_object),
    place_of_field: then(an_object, drawn(st.integers(0, 3))),
    place_in_exception: then(an_object, drawn(st.integers(0, 3))),
    place_in_object: then(an_object_with_fields, drawn(st.integers(0, 3))),
    check_storage_of: then(a_field_of_type, FEW),
    place_of_element: then(an_object, FEW),
    check_value_of: then(a_field_of_type, a_reference),
    casts.displays: then(A_TYPE, A_TYPE),
    casts.function_type: drawn(st.integers(0, len(FUNCTION_TYPES) - 1)),
    casts.has_kind: then(KIND, KIND),
    casts.is_instance: then(a_reference, A_TYPE),
    casts.is_instance_not_null: then(an_object, A_TYPE),
    casts.is_object_instance: then(an_object, A_TYPE),
    casts.is_of_type: then(A_TYPE, A_TYPE),
    casts.is_subtype: then(A_TYPE, A_TYPE),
    casts.kind_matches: then(KIND, HEAP_TYPE),
    casts.matches: then(an_object, HEAP_TYPE),
    supertype_of: a_depth_of_type,
    owner_of_id: an_id,
    host_data.free_id: an_id,
    host_data.has_free_id: nothing,
    host_data.take_id: drawn(st.sampled_from([int(each) for each in VMHostDataOwner]), ANY_U64, ANY_U64),
    sizes_of_parts: drawn(st.integers(0, 9)),
    parts.verify_parts: nothing,
    sum_of_filled: FEW,
    sum_of_copied: then(FEW, FEW, FEW),
    ranges.has_element: then(an_array, drawn(st.integers(0, 9) | ANY_U32)),
    ranges.has_range: then(an_array, drawn(st.integers(0, 9) | ANY_U32), drawn(st.integers(0, 9) | ANY_U32)),
    ranges.is_within: drawn(UP_TO_9, UP_TO_9, UP_TO_9),
    ranges.move: moved,
    ranges.log_nothing: then(a_slot, drawn(st.integers(0, 9))),
    table_ranges.copy: then(a_table(0), a_table(1), drawn(UP_TO_9, UP_TO_9, UP_TO_9)),
    table_ranges.drop: a_table(0),
    table_ranges.fill: then(a_table(0), drawn(UP_TO_9), a_reference, drawn(UP_TO_9)),
    table_ranges.grow: then(a_table(0), drawn(UP_TO_9), a_reference),
    table_ranges.set_first: then(a_table(0), drawn(st.integers(0, 2)), a_reference, drawn(st.integers(0, 1))),
    offset_of_element: then(a_table(0), drawn(UP_TO_9)),
    sum_of_handles: nothing,
    sum_of_slots: nothing,
    sum_of_counted_roots: nothing,
    sum_of_roots: nothing,
    value_of_handle: a_handle,
    value_of_slot: lambda draw, made: [ctypes.addressof(SLOTS), draw(st.integers(0, 7))],
    roots.enter_no_gc_scope: nothing,
    roots.exit_no_gc_scope: nothing,
    roots.require_no_scope: nothing,
    roots.find: an_entry,
    roots.holds: then(lambda draw, made: [shared_range_at], near_a_shared_slot),
    roots.is_in_range: near_a_shared_slot,
    roots.is_registered: a_shared_slot,
    roots.register_range: a_shared_range,
    roots.unregister_range: a_shared_range,
    roots.register_slot: a_shared_slot,
    roots.free_slot: drawn(UP_TO_9),
    roots.enter_slot: lambda draw, made: [
        draw(st.integers(0, made.heap.control.root_slot_count)),
        *a_shared_slot(draw, made),
    ],
    roots.unregister_slot: a_shared_slot,
    roots.free_handle: a_handle,
    roots.take_handle: an_object,
    roots.take_free_handle: an_object,
    roots.has_free_handle: nothing,
    roots.push_frame: new_frame,
    roots.pop_frame: lambda draw, made: [frame_at],
    setup.extend_bump: lambda draw, made: [control_at],
    setup.set_up_bump: lambda draw, made: [control_at],
    setup.set_up_memory: lambda draw, made: [
        control_at,
        in_memory(0),
        draw(st.integers(0, 1 << 20)),
        draw(st.integers(0, 1 << 20)),
    ],
    setup.set_up_tables: lambda draw, made: [control_at, in_mapping(0)],
    types.aligned: drawn(st.integers(0, 1 << 20), st.sampled_from([1, 2, 4, 8, 16])),
    types.array_size: then(A_TYPE, ANY_NUMBER),
    types.check_fields: lambda draw, made: [*definitions(draw, made), made.heap.control.type_count],
    types.check_inherited: lambda draw, made: [*like_a_type(draw, made), made.heap.control.type_count],
    types.check_struct: drawn(st.sampled_from([0, 1, 32]), st.integers(0, 10) | st.integers(9_990, 10_010) | ANY_U32),
    types.check_supertype: then(drawn(st.integers(0, 12) | st.just(NO_SUPERTYPE)), KIND),
    types.check_type: TYPE_INDEX,
    types.define_type: a_type_to_define,
    types.enter_type: a_type_to_write,
    types.field_accepts: then(HEAP_TYPE, drawn(st.integers(0, 3)), HEAP_TYPE, drawn(st.integers(0, 3)), A_TYPE),
    types.is_below: then(HEAP_TYPE, HEAP_TYPE),
    types.is_defined: TYPE_INDEX,
    types.require_type_of: then(TYPE_INDEX, KIND),
    types.size_of_storage: drawn(st.integers(0, 20)),
    types.write_type: a_type_to_write,
    storage_of_field: a_field_of_type,
    heap_type_at: then(a_definition, FEW),
    is_traced_at: a_definition,
    write_field_at: a_field_to_write,
    verify._heap_is_at: then(drawn(ANY_U64), drawn(ANY_U64)),
    verify._type_table_is_at: then(drawn(st.integers(0, 1)), drawn(st.integers(0, 1))),
    verify._type_data_is_at: then(drawn(st.integers(0, 1)), drawn(st.integers(0, 1))),
    verify._handles_are_at: then(drawn(st.integers(0, 1)), drawn(st.integers(0, 1))),
    verify._root_slots_are_at: then(drawn(st.integers(0, 1)), drawn(st.integers(0, 1))),
    verify._root_ranges_are_at: then(drawn(st.integers(0, 1)), drawn(st.integers(0, 1))),
    verify._host_data_is_at: then(drawn(st.integers(0, 1)), drawn(st.integers(0, 1))),
    verify._types_fit: ANY_NUMBER,
    verify._type_data_fits: ANY_NUMBER,
    verify._handles_fit: ANY_NUMBER,
    verify._root_slots_fit: ANY_NUMBER,
    verify._root_ranges_fit: ANY_NUMBER,
    verify._host_data_fits: ANY_NUMBER,
    verify._verify_dead_externref: an_object,
    verify.count_owner: with_notes(drawn(ANY_U64), a_reference),
    **{
        each: with_notes(drawn(ANY_U64), a_reference, drawn(st.sampled_from([0, 1])))
        for each in (verify._owned_by_object, verify._owned_by_handle, verify._owned_by_slot)
    },
    sum_of_dead_externrefs: with_notes(),
    verify.add_note: with_notes(INDEX, drawn(st.integers(0, 1 << 61))),
    verify.count_owned: with_notes(an_object),
    verify.count_owners: with_notes(),
    verify.lies_beyond: drawn(ANY_U32, ANY_U64),
    verify.note_of: with_notes(anything),
    verify.size_of_notes: nothing,
    verify.verify_addresses: nothing,
    verify.verify_array_type: A_TYPE,
    look_at_blocks: with_notes(BOOLS),
    look_at_all: BOOLS,
    verify.verify_control: nothing,
    verify.verify_dead_externrefs: with_notes(),
    verify.verify_display: A_TYPE,
    verify.verify_field: a_field_of_type,
    verify.verify_figures: drawn(st.integers(0, 60), st.integers(0, 1 << 14)),
    verify.verify_frames: with_notes(),
    verify.verify_free_blocks: with_notes(),
    verify.verify_free_list: with_notes(drawn(st.integers(0, 69)), BOOLS),
    verify.verify_free_lists: with_notes(BOOLS),
    verify.verify_free_lists_alone: nothing,
    verify.verify_handles: nothing,
    verify.verify_host_data: nothing,
    verify.verify_host_data_of: an_object,
    verify.verify_mask: then(A_TYPE, drawn(ANY_U64), drawn(st.integers(0, 2))),
    verify.verify_notes: with_notes(BOOLS),
    verify.verify_object: an_object,
    verify.verify_places: nothing,
    verify.verify_struct_type: A_TYPE,
    verify.verify_type: A_TYPE,
    verify.verify_types: nothing,
    verify.verify_with_notes: with_notes(BOOLS),
    verify.words_of_type: A_TYPE,
    sum_of_blocks: nothing,
    walking.is_free: an_object,
    walking.length_of_block: an_object,
    walking.verify_bounds: nothing,
    walk_all: a_visitor,
}

STATICS: dict[type, list[Any]] = {
    Shape: [ANY, OBJECT, Shape(may_be_object=False, is_counted=False), Shape(may_be_null=False)],
    FrameRules: [each for each in RULES if each.checks_hosts],
    Text: [access.OBJECT, access.SLOT_VALUE],
    Storages: [Storages(VMStorage.REFERENCE), Storages(VMStorage.I32, VMStorage.I16, VMStorage.I8)],
    TypeTest: [
        TypeTest(may_be_null=True, may_be_i31=True, may_be_externref=True, i31_passes=True),
        TypeTest(may_be_null=True, may_be_i31=True, by_kind=True, kind=int(VMGcKind.STRUCT_REF), null_passes=True),
        TypeTest(may_be_null=True, may_be_i31=True, may_be_externref=True, is_final=True),
        TypeTest(may_be_null=True, may_be_i31=True, only_i31=True),
    ],
}

READS_NOTES = ("notes",)
LOOKS_FOR_PROBLEMS = ("drc.verify", "shared.verify", "shared.walking")
"""The modules whose functions trust nothing: they are given broken heaps, too."""

FUNCTIONS = natives(on_tables=True)


def name_of(function: Native[..., Any]) -> str:
    """What tells a function from others that one function has made."""
    module = importlib.import_module(function.__module__)
    names = [name for name, each in vars(module).items() if each is function]
    others = [name for each in (verify, drc_verify) for name, other in vars(each).items() if other is function]
    return f"{function.__module__.rpartition('collectors.')[2]}.{(names + others + [function.name])[0]}"


def damage(draw: Draw, made: Made) -> Callable[[Side], None]:
    """Some words of a heap, of its control block or of its tables, that are to become others."""
    control = made.heap.control
    words = (
        st.sampled_from([0, 1, 16, 32, 48, 0xFFFF_FFFF, 1 << 20]) | ANY_U32 | st.integers(1, 60).map(lambda n: n * 16)
    )
    areas = [
        ("memory", FIRST_INDEX, max(FIRST_INDEX + 4, control.bump)),
        ("mapping", 0, VMHeapControl.heap_base.offset),
        ("mapping", VMHeapControl.capacity.offset, VMHeapControl.type_table.offset),
        ("mapping", VMHeapControl.objects_allocated.offset, ctypes.sizeof(VMHeapControl)),
        ("mapping", TYPE_TABLE_OFFSET, TYPE_TABLE_OFFSET + control.type_count * ctypes.sizeof(VMTypeInfo)),
        ("mapping", TYPE_DATA_OFFSET, TYPE_DATA_OFFSET + control.type_data_length * 4),
        ("mapping", HANDLES_OFFSET, HANDLES_OFFSET + 4 * max(1, control.handle_count)),
        ("mapping", HOST_DATA_OFFSET, HOST_DATA_OFFSET + ctypes.sizeof(VMHostData) * max(1, control.host_data_count)),
    ]
    changes = []
    for _ in range(draw(st.integers(0, 3))):
        where, start, end = draw(st.sampled_from(areas))
        place = start + draw(st.integers(0, (end - start - 1) // 4)) * 4
        changes.append((where, place, draw(words), draw(st.booleans())))

    def apply(side: Side) -> None:
        for where, place, word, flips in changes:
            target: Mapping = getattr(side, where)
            cell = target.view(ctypes.c_uint32, place)
            cell.value = cell.value ^ 1 << word % 32 if flips else word

    return apply


def some_roots(draw: Draw, made: Made) -> None:
    """Register some slots, free some handles, leave dead externrefs."""
    for number in range(len(SLOTS)):
        SLOTS[number] = draw(st.sampled_from([NULL, 1, *made.objects]))
        if draw(st.integers(0, 2)) == 0:
            made.world.roots.add_slot(ctypes.addressof(SLOTS) + 4 * number)
    if draw(st.booleans()):
        made.world.roots.add_range(ctypes.addressof(RANGE))
    if made.objects and draw(st.booleans()):
        held = [made.world.roots.create_handle(made.heap.clone_gc_ref(made.objects[0])) for _ in range(2)]
        for number in held:
            made.heap.drop_gc_ref(made.world.roots.release_handle(number))
    made.heap.control.no_gc_count = draw(st.integers(0, 2))


class Examining(Examiner):
    """Of heaps of `drc`."""

    collector = Drc()


@functools.cache
def compiled(function: Native[..., Any], statics: tuple[tuple[str, Any], ...]) -> Interface:
    return Interface(Examining, [function], dict(statics))


@pytest.mark.parametrize("function", FUNCTIONS, ids=name_of)
@settings(max_examples=examples(3, 15), deadline=None)
@given(data=st.data())
def test_python_and_machine_code_do_the_same(function: Native[..., Any], data: st.DataObject) -> None:
    if function in NOT_HERE:
        return
    looks = function.__module__.rpartition("collectors.")[2] in LOOKS_FOR_PROBLEMS
    function = STAND_INS.get(function, function)
    assert function in ARGUMENTS, f"there are no arguments here for {name_of(function)}"
    made = Made(data.draw(STEPS, "steps"))
    some_roots(data.draw, made)
    arguments = ARGUMENTS[function](data.draw, made)
    held = st.lists(st.sampled_from([NULL, 1, *made.listed]), max_size=4)
    frames = Frames(data.draw(held, "held"), data.draw(held, "hosts"), is_known=True)
    flags = st.sampled_from([0, 0, verify.OBJECT, verify.OBJECT, verify.LISTED, verify.DEAD, verify.OBJECT | 1])
    noted = data.draw(st.lists(flags, max_size=60), "notes") if data.draw(st.booleans()) else []
    if not noted:  # what a walk notes
        noted = [0] * (made.heap.control.bump >> 4)
        for each in made.heap.objects():
            noted[each.index >> 4] = verify.OBJECT
    notes = b"".join(each.to_bytes(8, "little") for each in noted)[: NOTES - 8]
    assume(made.heap.control.bump >> verify.BYTES_PER_NOTE_SHIFT <= NOTES)
    harm = damage(data.draw, made) if looks and data.draw(st.booleans()) else lambda side: None
    statics = {
        each.name: data.draw(st.sampled_from(STATICS[each.type.kind]))
        for each in function.checked.parameters
        if isinstance(each.type, StaticType)
    }
    stops_at = data.draw(st.integers(0, 3))
    python, machine = Side(made.heap, frames.context, notes), Side(made.heap, frames.context, notes)
    try:
        for side in (python, machine):
            harm(side)
            side.stops_at = stops_at
        assume(python.control.bump <= python.memory.capacity)
        before = python.state()
        assert machine.state() == before
        compare(function, arguments, statics, python, machine)
    finally:
        for side in (python, machine):
            side.close()
        DEFINITIONS.clear()


def compare(
    function: Native[..., Any], arguments: list[Argument], statics: dict[str, Any], python: Side, machine: Side
) -> None:
    """Run it on both sides."""
    given = iter([each(python)[0] if callable(each) else each for each in arguments])
    values = [
        python.heap
        if isinstance(each.type, HeapType)
        else statics[each.name]
        if isinstance(each.type, StaticType)
        else next(given)
        for each in function.checked.parameters
    ]
    failure, raised = "", Exception
    expected: Any = None
    try:
        expected = function(*values)
    except OutOfRange:  # not what a heap could be asked
        assume(False)
    except HeapCorruptionError:
        assume(False)  # of a checked heap in Python: what is looked at there on the way
    except LowheapError as error:
        failure, raised = str(error), type(error)
        # Python looks where it reaches; machine code's reach is within the reservation.
        assume(not re.search(r"does not name an object; objects are|is not within|is not a multiple of", failure))
    call = compiled(function, tuple(statics.items()))[function]
    result = ctypes.c_uint64()
    words = [each(machine)[1] if callable(each) else each for each in arguments]
    status = call(ctypes.addressof(machine.lh_heap), *words, ctypes.addressof(result))
    assert bool(status) == bool(failure), (failure, status)
    if failure:
        assert machine.as_of_any(message_of(machine.lh_heap)) == python.as_of_any(failure)
        assert type(status_error(status, "")) is raised
    elif not isinstance(function.checked.result, NoneType):
        found = bool(result.value) if function.checked.result == BOOL else result.value
        assert found == expected
    assert machine.lh_heap.problems == len(python.heap.problems)
    if python.heap.problems:
        assert machine.as_of_any(message_of(machine.lh_heap)) == python.as_of_any(python.heap.problems[0])
    assert machine.state() == python.state()


def test_arguments_are_of_functions_that_there_are() -> None:
    assert {each for each in ARGUMENTS if each not in FUNCTIONS} == set(STAND_INS.values())
    assert set(STAND_INS) <= set(FUNCTIONS)
    assert set(NOT_HERE) <= set(FUNCTIONS)
    assert not set(NOT_HERE) & set(ARGUMENTS)
