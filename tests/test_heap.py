"""`DrcHeap`: every operation and every error, and every invariant broken on purpose, in the bytes."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.heap_world import (
    BYTES,
    CAPACITY,
    CELL,
    LONG_CELL,
    LONGS,
    NEXT,
    PAIR,
    REFS,
    RIGHT,
    TAG,
    World,
    fields,
)

from lowheap.collector import DrcCollection
from lowheap.collectors.shared import free_lists
from lowheap.collectors.shared.allocator import walk
from lowheap.errors import (
    AllocationTooLargeError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    InvalidReferenceError,
    NoGcScopeError,
)
from lowheap.heap import DrcHeap
from lowheap.hostdata import ExternRefHostDataTable
from lowheap.layout import (
    ARRAY_HEADER_END,
    CONTROL_ATTACHED,
    EXTERNREF_TYPE_INDEX,
    HEADER_ALIGN,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    MAXIMUM_CAPACITY,
    NULL,
    TYPE_LIMIT,
    CollectionPhase,
    GcArrayLayout,
    GcStructLayout,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcKind,
    VMHeapControl,
    VMTable,
    VMTypeInfo,
    align_up,
    block_length,
    i31_from_int,
)
from lowheap.memory import RESERVATIONS, Memory
from lowheap.native.words import TRACE
from lowheap.roots import RootSet
from lowheap.types import ANYREF, SubType, UnknownTypeError

CELL_BLOCK = block_length(CELL.size)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def heap(world: World) -> DrcHeap:
    return world.heap


# ----------------------------------------------------------------------------------------------------------------------
# Memory: attach, detach, take, replace, close


def needs_memory(world: World) -> dict[str, Callable[[], Any]]:
    """Every operation that is about objects, ready to be called."""
    heap = world.heap
    return {
        "memory": lambda: heap.memory,
        "detach": heap.detach,
        "take_memory": heap.take_memory,
        "header": lambda: heap.header(16),
        "kind": lambda: heap.kind(16),
        "object_size": lambda: heap.object_size(16),
        "array_len": lambda: heap.array_len(16),
        "externref_host_data": lambda: heap.externref_host_data(16),
        "slot": lambda: heap.slot(16, NEXT),
        "clone_gc_ref": lambda: heap.clone_gc_ref(16),
        "write_gc_ref": lambda: heap.write_gc_ref(ctypes.c_uint32(), 16),
        "drop_gc_ref": lambda: heap.drop_gc_ref(16),
        "expose_gc_ref_to_wasm": lambda: heap.expose_gc_ref_to_wasm(16),
        "alloc_raw": lambda: heap.alloc_raw(VMGcKind.STRUCT_REF, world.cell, CELL.size),
        "alloc_uninit_struct": lambda: heap.alloc_uninit_struct(world.cell),
        "alloc_uninit_exn": lambda: heap.alloc_uninit_exn(world.tag),
        "alloc_uninit_array": lambda: heap.alloc_uninit_array(world.refs, 1),
        "alloc_externref": lambda: heap.alloc_externref(0),
        "dealloc_uninit_struct_or_exn": lambda: heap.dealloc_uninit_struct_or_exn(16),
        "dealloc_uninit_array": lambda: heap.dealloc_uninit_array(16),
        "coalesce": heap.coalesce,
        "trace": lambda: heap.trace([16]),
        "objects": lambda: list(heap.objects()),
        "references": lambda: heap.references(16),
        "verify": heap.verify,
        "collection": lambda: DrcCollection(heap, world.roots),
        "create_handle": lambda: world.roots.create_handle(16),
        "add_slot": lambda: world.roots.add_slot(4096),
    }


OPERATIONS = list(needs_memory(World()))


@pytest.mark.parametrize("state", ["never attached", "detached", "taken", "closed"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_memory_everything_is_refused(operation: str, state: str) -> None:
    world = World()
    if state == "never attached":
        world.heap = DrcHeap(world.types)
        world.roots = RootSet(world.heap)
    elif state == "taken":
        world.heap.take_memory()
    else:
        world.heap.detach()
        if state == "closed":
            world.heap.close()
    assert not world.heap.is_attached
    with pytest.raises(HeapError, match="the heap has no memory: it is detached, closed, or its memory is taken"):
        needs_memory(world)[operation]()


def test_attaching(world: World) -> None:
    control = world.heap.control
    assert world.heap.is_attached
    assert world.heap.memory is world.memory
    assert control.flags & CONTROL_ATTACHED
    assert (control.heap_base, control.capacity, control.maximum) == (world.memory.base, CAPACITY, MAXIMUM_CAPACITY)
    assert (control.bump, control.bump_end) == (16, CAPACITY)
    world.heap.verify()


def test_attaching_twice_is_refused(world: World) -> None:
    with pytest.raises(HeapError, match="already has memory"):
        world.heap.attach(Memory(), world.host_data)
    world.heap.take_memory()
    with pytest.raises(HeapError, match="already has memory"):
        world.heap.attach(Memory(), world.host_data)


def test_detaching_forgets_everything(world: World) -> None:
    heap = world.heap
    world.roots.create_handle(world.new_cell())
    slot = ctypes.c_uint32(world.new_cell())
    world.roots.add_slot(ctypes.addressof(slot))
    table = VMTable(ctypes.addressof(slot), 1, 1)
    world.roots.add_range(ctypes.addressof(table))
    heap.expose_gc_ref_to_wasm(world.new_cell())
    heap.enter_no_gc_scope()
    addresses = ("type_table", "type_data", "handles", "root_slots", "root_ranges", "host_data")

    def tables() -> list[int]:
        return [getattr(heap.control, name) for name in addresses]

    before = tables()
    type_table = ctypes.string_at(heap.control.type_table, ctypes.sizeof(VMTypeInfo) * heap.control.type_count)
    assert type_table.count(0) < len(type_table)
    assert heap.detach() is world.memory

    control = heap.control
    assert ctypes.string_at(control.type_table, len(type_table)) == bytes(len(type_table)), "types outlive the memory"
    assert tables() == before
    for name in addresses:
        setattr(control, name, 0)
    assert control.epoch == 1
    control.epoch = 0
    assert bytes(control) == bytes(ctypes.sizeof(VMHeapControl))
    assert world.memory.read(0, CAPACITY) == bytes(CAPACITY)
    assert list(world.roots) == []


def test_the_control_block_is_one_for_cffi(world: World) -> None:
    reference = world.new_cell()
    block = world.heap.cdata
    assert (block.heap_base, block.bump) == (world.heap.control.heap_base, world.heap.control.bump)
    block.current_len = 5
    assert world.heap.control.current_len == 5
    block.current_len = 0
    world.heap.drop_gc_ref(reference)
    assert block.objects_freed == world.heap.stats().objects_freed == 1


def test_a_heap_can_be_attached_again(world: World) -> None:
    world.heap.alloc_uninit_struct(world.long_cell)
    world.heap.detach()
    world.heap.attach(Memory(1 << 17), world.host_data)
    cell = world.new_cell(world.new_cell())
    world.roots.create_handle(cell)
    world.heap.verify()
    assert world.heap.stats().capacity == 1 << 17
    assert world.heap.stats().objects_allocated == 2
    assert world.heap.control.type_count == world.cell + 1, "the type table was filled anew"
    world.heap.detach()
    assert world.heap.control.epoch == 2


def test_detaching_in_the_middle_of_a_collection_is_refused(world: World) -> None:
    with DrcCollection(world.heap, world.roots) as collection:
        collection.collect_increment()
        with pytest.raises(HeapError, match="cannot detach in the middle of a collection"):
            world.heap.detach()
        assert world.heap.is_attached
    world.heap.detach()


def test_taking_and_replacing_grows_in_place(world: World) -> None:
    cell = world.new_cell()
    world.roots.create_handle(cell)
    memory = world.heap.take_memory()
    assert memory is world.memory
    assert not world.heap.control.flags & CONTROL_ATTACHED
    assert memory.grow(5 * 4096)
    world.heap.replace_memory(memory, 5 * 4096)
    stats = world.heap.stats()
    assert (stats.capacity, stats.growths) == (CAPACITY + 5 * 4096, 1)
    assert world.heap.control.bump_end == CAPACITY + 5 * 4096
    assert world.heap.alloc_uninit_array(world.bytes, CAPACITY) != NULL
    world.heap.take_memory()
    world.heap.replace_memory(memory, 0)
    assert world.heap.stats().growths == 1, "a growth of nothing is none"


def test_memory_can_move_to_another_base(world: World) -> None:
    """All links are offsets, so a copy of the bytes at another address is the same heap."""
    heap = world.heap
    inner = world.new_cell()
    outer = world.new_refs(inner, world.new_cell(), i31_from_int(-5), NULL)
    handle = world.roots.create_handle(outer)
    listed = world.new_cell()
    heap.expose_gc_ref_to_wasm(listed)
    host = world.new_externref("host")
    world.roots.create_handle(host)
    hole = world.new_cell()
    world.roots.create_handle(world.new_cell())
    heap.drop_gc_ref(hole)
    before = [bytes(heap.header(reference)) for reference in world.live()]

    old = heap.take_memory()
    new = Memory(old.capacity + 4096)
    new.write(0, old.read(0, old.capacity))
    old.discard()
    heap.replace_memory(new, 4096)
    assert heap.control.heap_base == new.base != old.base
    heap.verify([listed])
    assert [bytes(heap.header(reference)) for reference in world.live()] == before
    assert world.on_list() == [listed]
    assert heap.references(outer)[0] == inner
    assert world.new_cell() == hole, "free lists moved along"
    heap.drop_gc_ref(hole)
    assert world.host_data.get(heap.externref_host_data(host)) == "host"
    assert world.roots.release_handle(handle) == outer
    heap.drop_gc_ref(outer)
    DrcCollection(heap, world.roots).collect()
    heap.verify()
    assert world.on_list() == []
    assert heap.stats().live_objects == 2
    assert old.read(0, old.capacity) == bytes(old.capacity), "nobody wrote to the old place"


@pytest.mark.parametrize("reserve", RESERVATIONS)
def test_memory_that_grows_by_a_few_bytes(reserve: str) -> None:
    """What lies below the first index, or is no whole unit, is of no use."""
    world = World(0, 0)
    heap = world.heap
    heap.detach()
    heap.attach(Memory(0, 100, reserve=reserve), world.host_data)
    heap.register_type(world.cell)
    capacity = 0
    for delta in (1, 14, 1, CELL_BLOCK - 8, 7, 1, 36):
        memory = heap.take_memory()
        assert memory.grow(delta)
        heap.replace_memory(memory, delta)
        capacity += delta
        assert heap.control.bump_end == max(16, capacity & -16)
        heap.verify()
    references = [heap.alloc_uninit_struct(world.cell)]
    with pytest.raises(HeapExhaustedError):
        heap.alloc_uninit_struct(world.cell)
    assert references == [16]
    memory = heap.take_memory()
    assert not memory.grow(1)
    heap.replace_memory(memory, 0)
    heap.drop_gc_ref(references[0])
    heap.verify()


@pytest.mark.parametrize(("grown", "said"), [(0, 16), (4096, 0), (4096, 8192), (0, -16)])
def test_replacing_with_a_wrong_delta_is_refused(world: World, grown: int, said: int) -> None:
    memory = world.heap.take_memory()
    memory.grow(grown)
    with pytest.raises(HeapError, match=f"has {CAPACITY + grown} bytes; .* {CAPACITY} and is said to .* by {said}$"):
        world.heap.replace_memory(memory, said)
    assert not world.heap.is_attached
    world.heap.replace_memory(memory, grown)
    world.heap.verify()


def test_replacing_with_a_smaller_memory_is_refused(world: World) -> None:
    """The bump region's end may lie within what would be cut off."""
    world.heap.take_memory()
    with pytest.raises(HeapError, match="by -32768"):
        world.heap.replace_memory(Memory(CAPACITY // 2), -CAPACITY // 2)


def test_replacing_what_was_not_taken_is_refused(world: World) -> None:
    with pytest.raises(HeapError, match="was not taken"):
        world.heap.replace_memory(Memory(), 0)
    with pytest.raises(HeapError, match="was not taken"):
        DrcHeap(world.types).replace_memory(Memory(), 0)


def test_closing(world: World) -> None:
    with pytest.raises(HeapError, match="still has memory"):
        world.heap.close()
    taken = world.heap.take_memory()
    with pytest.raises(HeapError, match="still has memory"):
        world.heap.close()
    world.heap.replace_memory(taken, 0)
    control_base = world.heap.control.type_table
    world.heap.detach()
    world.heap.close()
    world.heap.close()
    assert world.heap.control.type_table == 0 != control_base
    with pytest.raises(HeapError, match="the heap is closed"):
        world.heap.attach(Memory(), world.host_data)
    with pytest.raises(HeapError, match="unmapped"):
        world.heap.register_type(0)
    assert world.heap.stats().live_objects == 0
    for operation in (world.heap.handles, world.heap.root_slots):
        with pytest.raises(HeapError, match="unmapped"):
            list(operation())


def test_nobody_unmaps_the_memory_that_a_heap_has(world: World) -> None:
    with pytest.raises(HeapError, match="views of it exist"):
        world.memory.close()
    taken = world.heap.take_memory()
    world.heap.replace_memory(taken, 0)
    with pytest.raises(HeapError, match="views of it exist"):
        world.memory.close()
    world.heap.detach()
    world.memory.close()
    assert world.memory.is_closed


def test_views_outlive_the_heap(world: World) -> None:
    """What has been seen once can be looked at for ever: it is mapped as long as somebody has a view of it."""
    reference = world.heap.alloc_uninit_struct(world.cell)
    heap, memory = world.heap, world.memory
    views = [heap.control, heap.header(reference), heap.slot(reference, NEXT), heap.native.header(reference)]
    block, native, policy = heap.cdata, heap.native, heap.policy
    heap.detach().abandon()
    heap.close()
    assert not memory.is_closed
    assert not any(any(bytes(view)) for view in views[1:])
    assert (block.bump, block.collections, heap.cdata.bump) == (0, 0, 0)
    assert native.type_info(world.cell).kind == 0
    with pytest.raises(InvalidReferenceError):
        native.header(reference)
    assert policy.allocate(HEADER_SIZE) is None
    del views, native, policy
    memory.close()
    assert memory.is_closed


def test_arguments_of_the_wrong_type(world: World) -> None:
    anything: Any = "text"
    with pytest.raises(TypeError, match="types is 'text'"):
        DrcHeap(anything)
    heap = DrcHeap(world.types)
    with pytest.raises(TypeError, match="memory is 'text'"):
        heap.attach(anything, world.host_data)
    nothing: Any = None
    with pytest.raises(TypeError, match="host_data is None"):
        heap.attach(Memory(), nothing)
    assert not heap.is_attached
    world.heap.take_memory()
    with pytest.raises(TypeError, match="memory is 'text'"):
        world.heap.replace_memory(anything, 0)


# ----------------------------------------------------------------------------------------------------------------------
# No-GC scopes


def test_no_gc_scopes_nest(world: World) -> None:
    heap = world.heap
    heap.enter_no_gc_scope()
    with heap.no_gc_scope():
        assert heap.control.no_gc_count == 2
        with pytest.raises(NoGcScopeError, match="2 are entered"):
            DrcCollection(heap, world.roots)
    with pytest.raises(NoGcScopeError, match="1 are entered"):
        DrcCollection(heap, world.roots)
    world.new_cell()  # allocating is allowed
    heap.exit_no_gc_scope()
    DrcCollection(heap, world.roots).collect()


def test_a_no_gc_scope_ends_with_an_exception(heap: DrcHeap) -> None:
    with pytest.raises(KeyError), heap.no_gc_scope():
        raise KeyError
    assert heap.control.no_gc_count == 0


def test_leaving_a_scope_that_was_not_entered(heap: DrcHeap) -> None:
    with pytest.raises(NoGcScopeError, match="none was entered"):
        heap.exit_no_gc_scope()
    assert heap.control.no_gc_count == 0


# ----------------------------------------------------------------------------------------------------------------------
# Types


def test_layouts(world: World) -> None:
    heap = world.heap
    cell = heap.struct_layout(world.cell)
    assert cell == CELL
    assert [(field.size, field.is_traced) for field in cell.fields] == [(4, True), (8, False)]
    assert cell.fields[0].offset == HEADER_SIZE
    pair = heap.struct_layout(world.pair)
    assert pair == PAIR
    start = HEADER_SIZE
    assert [(field.offset, field.is_traced) for field in pair.fields] == [
        (start, True),
        (start + 4, True),
        (start + 8, False),  # an i31 is no object
        (start + 12, False),  # a function is not in the heap
        (start + 16, False),
    ]
    assert heap.struct_layout(world.long_cell) == LONG_CELL
    assert heap.array_layout(world.refs) == REFS == GcArrayLayout(ARRAY_HEADER_END, 4, HEADER_ALIGN, True)
    assert heap.array_layout(world.bytes) == BYTES == GcArrayLayout(ARRAY_HEADER_END, 1, HEADER_ALIGN, False)
    longs = GcArrayLayout(align_up(ARRAY_HEADER_END, 8), 8, HEADER_ALIGN, False)
    assert heap.array_layout(world.longs) == LONGS == longs
    tag, start = heap.exception_layout(world.tag), ctypes.sizeof(VMDrcExnHeader)
    assert tag == TAG
    assert [(field.offset, field.is_traced) for field in tag.fields] == [(start, True), (start + 4, False)]
    assert (tag.size, tag.is_exception) == (start + 8, True)
    assert heap.layout(world.tag) is tag
    assert isinstance(heap.layout(world.cell), GcStructLayout)


@pytest.mark.parametrize(
    ("method", "wanted", "others"),
    [
        ("struct_layout", "a struct type", ["refs", "tag"]),
        ("array_layout", "an array type", ["cell", "tag"]),
        ("exception_layout", "a function type", ["cell", "refs"]),
    ],
)
def test_layouts_of_the_wrong_kind(world: World, method: str, wanted: str, others: list[str]) -> None:
    for other in others:
        index = getattr(world, other)
        message = f"type {index} is {re.escape(world.types.describe(index))}, not {wanted}"
        with pytest.raises(HeapError, match=message):
            getattr(world.heap, method)(index)


@pytest.mark.parametrize("index", [-1, 7, 1 << 30, "cell", None, 0.5])
def test_types_that_are_not_there(world: World, index: Any) -> None:
    for method in (
        world.heap.layout,
        world.heap.struct_layout,
        world.heap.array_layout,
        world.heap.exception_layout,
        world.heap.alloc_uninit_struct,
        world.heap.alloc_uninit_exn,
        lambda which: world.heap.alloc_uninit_array(which, 1),
    ):
        with pytest.raises(UnknownTypeError, match=re.escape(repr(index))):
            method(index)


def type_info(heap: DrcHeap, index: int) -> VMTypeInfo:
    """A copy of a type's entry, found as compiled code finds it: by address."""
    address = heap.control.type_table + index * ctypes.sizeof(VMTypeInfo)
    return VMTypeInfo.from_buffer_copy(ctypes.string_at(address, ctypes.sizeof(VMTypeInfo)))


def type_data(heap: DrcHeap, start: int, count: int) -> list[int]:
    return list((ctypes.c_uint32 * count).from_address(heap.control.type_data + 4 * start))


def test_the_type_table(world: World) -> None:
    heap = world.heap
    cell = type_info(heap, world.cell)
    assert (cell.kind, cell.size_or_elements_offset) == (VMGcKind.STRUCT_REF, CELL.size)
    assert (cell.traced_count, cell.depth) == (1, 0)
    assert type_data(heap, cell.traced_offsets_start, 1) == [CELL.fields[0].offset]
    assert type_data(heap, cell.supertypes_start, 1) == [world.cell]
    longer = type_info(heap, world.long_cell)
    assert (longer.size_or_elements_offset, longer.traced_count, longer.depth) == (LONG_CELL.size, 2, 1)
    assert type_data(heap, longer.traced_offsets_start, 2) == [LONG_CELL.fields[n].offset for n in (0, 2)]
    assert type_data(heap, longer.supertypes_start, 2) == [world.cell, world.long_cell]
    pair = type_info(heap, world.pair)
    assert type_data(heap, pair.traced_offsets_start, pair.traced_count) == [PAIR.fields[n].offset for n in (0, 1)]
    for index, element, traced in ((world.refs, 4, 1), (world.bytes, 1, 0), (world.longs, 8, 0)):
        info = type_info(heap, index)
        assert (info.kind, info.element_size, info.traced_count) == (VMGcKind.ARRAY_REF, element, traced)
        assert info.size_or_elements_offset == heap.array_layout(index).elements_offset
        assert type_data(heap, info.supertypes_start, 1) == [index]
    tag = type_info(heap, world.tag)
    assert (tag.kind, tag.size_or_elements_offset) == (VMGcKind.EXN_REF, TAG.size)
    assert type_data(heap, tag.traced_offsets_start, tag.traced_count) == [TAG.fields[0].offset]
    assert heap.control.type_count == len(world.types)


def test_a_type_is_registered_once(world: World) -> None:
    before = world.heap.control.type_data_length
    world.heap.register_type(world.cell)
    assert world.heap.control.type_data_length == before


@pytest.mark.parametrize("index", [-1, TYPE_LIMIT, 1 << 40])
def test_type_indices_that_do_not_fit_the_table(heap: DrcHeap, index: int) -> None:
    with pytest.raises(HeapError, match=f"type index {index} does not fit the type table of {TYPE_LIMIT}"):
        heap.register_type(index)


def test_a_full_type_table_refuses(world: World) -> None:
    (other,) = world.types.register([SubType(fields(ANYREF, ANYREF))])
    limit = (1 << 24) - 2
    world.heap.control.type_data_length = limit
    with pytest.raises(HeapError, match=f"data is full: {limit} of at most {1 << 24}"):
        world.heap.register_type(other)
    assert type_info(world.heap, other).kind == 0


# ----------------------------------------------------------------------------------------------------------------------
# Allocating


def headed(kind: VMGcKind, type_index: int, size: int, length: int | None = None) -> bytes:
    """The bytes of a new object: its header, an array's length, and nothing in its fields."""
    header = VMDrcHeader(ref_count=1, object_size=size)
    header.kind_and_reserved, header.type_index = kind, type_index
    return (bytes(header) + (b"" if length is None else struct.pack("<I", length))).ljust(size, b"\0")


def test_headers_are_as_laid_out_byte_for_byte(world: World) -> None:
    """`tests/test_layout.py` has what they are in wasmtime."""
    heap, memory = world.heap, world.memory
    cell = heap.alloc_uninit_struct(world.cell)
    assert memory.read(cell, CELL.size) == headed(VMGcKind.STRUCT_REF, world.cell, CELL.size)
    array, size = heap.alloc_uninit_array(world.bytes, 5), BYTES.size(5)
    assert memory.read(array, size) == headed(VMGcKind.ARRAY_REF, world.bytes, size, 5)
    exception = heap.alloc_uninit_exn(world.tag)
    assert memory.read(exception, TAG.size) == headed(VMGcKind.EXN_REF, world.tag, TAG.size)
    host, host_size = world.new_externref("host"), ctypes.sizeof(VMDrcExternRef)
    expected = bytearray(headed(VMGcKind.EXTERN_REF, EXTERNREF_TYPE_INDEX, host_size))
    struct.pack_into("<I", expected, VMDrcExternRef.host_data_id.offset, heap.externref_host_data(host))
    assert memory.read(host, host_size) == expected
    assert [heap.kind(each) for each in (cell, array, exception, host)] == [
        VMGcKind.STRUCT_REF,
        VMGcKind.ARRAY_REF,
        VMGcKind.EXN_REF,
        VMGcKind.EXTERN_REF,
    ]
    assert [heap.object_size(each) for each in (cell, array, exception, host)] == [CELL.size, size, TAG.size, host_size]
    assert heap.array_len(array) == 5


def test_a_block_that_is_used_again_is_zero(world: World) -> None:
    heap = world.heap
    first = heap.alloc_uninit_array(world.bytes, 100)
    guard = heap.alloc_uninit_array(world.bytes, 4)
    world.memory.write(first + BYTES.elements_offset, b"\xff" * 100)
    heap.drop_gc_ref(first)
    again = heap.alloc_uninit_array(world.bytes, 97)
    assert again == first
    assert world.memory.read(again + BYTES.elements_offset, 97) == bytes(97)
    heap.drop_gc_ref(again)
    heap.drop_gc_ref(guard)


def test_alloc_raw_leaves_the_rest_alone(world: World) -> None:
    heap = world.heap
    first, place = heap.alloc_uninit_array(world.longs, 1), LONGS.element_offset(0)
    world.memory.write(first + place, b"remnants")
    heap.drop_gc_ref(first)
    assert heap.alloc_raw(VMGcKind.STRUCT_REF, world.cell, CELL.size) == first
    assert world.memory.read(first + place, 8) == b"remnants"


def test_figures(world: World) -> None:
    heap = world.heap
    stats = heap.stats()
    assert (stats.live_objects, stats.live_bytes, stats.peak_live_bytes) == (0, 0, 0)
    cell = world.new_cell()
    array = heap.alloc_uninit_array(world.bytes, 5)
    heap.drop_gc_ref(cell)
    heap.expose_gc_ref_to_wasm(array)
    stats = heap.stats()
    assert (stats.objects_allocated, stats.objects_freed, stats.live_objects) == (2, 1, 1)
    left = block_length(BYTES.size(5))
    assert (stats.bytes_allocated, stats.bytes_freed) == (CELL_BLOCK + left, CELL_BLOCK)
    assert (stats.live_bytes, stats.peak_live_bytes) == (left, CELL_BLOCK + left)
    assert (stats.listed, stats.capacity, stats.maximum) == (1, CAPACITY, MAXIMUM_CAPACITY)


@pytest.mark.parametrize("kind", [VMGcKind.ANY_REF, VMGcKind.EQ_REF, 0, 7, "struct", None])
def test_kinds_that_no_object_has(world: World, kind: Any) -> None:
    with pytest.raises(HeapError, match=re.escape(f"cannot be of kind {kind!r}; it must be one of ['EXTERN_REF'")):
        world.heap.alloc_raw(kind, world.cell, CELL.size)


def test_kinds_and_types_must_agree(world: World) -> None:
    heap, before = world.heap, world.image()
    with pytest.raises(HeapError, match=f"type index {EXTERNREF_TYPE_INDEX:#x} does not go with kind STRUCT_REF"):
        heap.alloc_raw(VMGcKind.STRUCT_REF, EXTERNREF_TYPE_INDEX, CELL.size)
    with pytest.raises(HeapError, match="type index 0x0 does not go with kind EXTERN_REF"):
        heap.alloc_raw(VMGcKind.EXTERN_REF, world.cell, ctypes.sizeof(VMDrcExternRef))
    with pytest.raises(HeapError, match=f"objects of type {world.refs} are of kind ARRAY_REF"):
        heap.alloc_raw(VMGcKind.STRUCT_REF, world.refs, CELL.size)
    with pytest.raises(HeapError, match=f"objects of type {world.tag} are of kind EXN_REF"):
        heap.alloc_raw(VMGcKind.STRUCT_REF, world.tag, TAG.size)
    assert world.image() == before


@pytest.mark.parametrize("size", [-1, 0, HEADER_SIZE - 1])
def test_objects_smaller_than_their_header(world: World, size: int) -> None:
    with pytest.raises(HeapError, match=f"an object of {size} bytes is smaller than its header of {HEADER_SIZE}"):
        world.heap.alloc_raw(VMGcKind.STRUCT_REF, world.cell, size)


@pytest.mark.parametrize(
    ("what", "length"),
    [
        ("bytes", MAXIMUM_CAPACITY - 16 - ARRAY_HEADER_END + 1),
        ("bytes", (1 << 32) - ARRAY_HEADER_END),
        ("bytes", (1 << 32) - 1),
        ("bytes", 1 << 32),
        ("refs", (1 << 30) - ARRAY_HEADER_END // 4),
        ("refs", 1 << 30),
        ("longs", 1 << 29),
        ("longs", (1 << 32) - 1),
        ("longs", 1 << 64),
    ],
)
def test_sizes_near_2_to_the_32_do_not_overflow(world: World, what: str, length: int) -> None:
    before = world.image()
    with pytest.raises(AllocationTooLargeError, match=str(length)):
        world.heap.alloc_uninit_array(getattr(world, what), length)
    assert world.image() == before


@pytest.mark.parametrize("size", [(1 << 32) - 31, (1 << 32) - 16, (1 << 32) - 1, 1 << 32, 1 << 70])
def test_raw_sizes_near_2_to_the_32_do_not_overflow(world: World, size: int) -> None:
    with pytest.raises(AllocationTooLargeError, match=f"an object of {size} bytes does not fit the largest heap"):
        world.heap.alloc_raw(VMGcKind.ARRAY_REF, world.bytes, size)


def test_the_largest_array_of_all(world: World) -> None:
    """One whose elements fill the largest heap to its last block; they are never touched here."""
    world.heap.detach()
    world.heap.attach(Memory(MAXIMUM_CAPACITY), world.host_data)
    size = MAXIMUM_CAPACITY - 16
    array = world.heap.alloc_raw(VMGcKind.ARRAY_REF, world.bytes, size)
    world.heap.memory.view(VMDrcArrayHeader, array).length = size - ARRAY_HEADER_END
    world.roots.create_handle(array)
    world.heap.verify()
    assert world.heap.stats().live_bytes == size
    with pytest.raises(HeapExhaustedError):
        world.new_cell()
    world.heap.drop_gc_ref(world.roots.release_handle(0))
    world.heap.verify()
    assert world.new_cell() == 16


def test_an_object_larger_than_the_maximum_is_too_large() -> None:
    world = World(4096, 8192)
    length = 8192 - 4 - ARRAY_HEADER_END
    with pytest.raises(AllocationTooLargeError, match="8188 bytes does not fit the largest heap allowed, of 8192"):
        world.heap.alloc_uninit_array(world.bytes, length)
    with pytest.raises(HeapExhaustedError):  # this one does, once the heap has grown
        world.heap.alloc_uninit_array(world.bytes, 8192 - 16 - ARRAY_HEADER_END)


def test_exhaustion_leaves_a_heap_that_verifies() -> None:
    fit = 85
    full = fit * CELL_BLOCK
    world = World(full + 16)
    cells = []
    while world.heap.stats().live_bytes < full:
        cells.append(world.new_cell())
        world.roots.create_handle(cells[-1])
    with pytest.raises(
        HeapExhaustedError,
        match=f"no room for an object of {CELL.size} bytes in a heap of {full + 16} of which {full}",
    ) as caught:
        world.new_cell()
    assert caught.value.bytes_needed == CELL_BLOCK
    world.heap.verify()
    assert len(cells) == fit
    before = world.image()
    with pytest.raises(HeapExhaustedError):
        world.new_cell()
    assert world.image() == before
    world.heap.drop_gc_ref(world.roots.release_handle(3))
    assert world.new_cell() == cells[3]


@pytest.mark.parametrize("length", [-1, -(1 << 40)])
def test_arrays_of_negative_length(world: World, length: int) -> None:
    with pytest.raises(HeapError, match=f"an array cannot have {length} elements"):
        world.heap.alloc_uninit_array(world.bytes, length)


@pytest.mark.parametrize("value", ["1", None, 1.5, b"\1"])
def test_lengths_and_sizes_of_the_wrong_type(world: World, value: Any) -> None:
    before = world.image()
    with pytest.raises(TypeError):
        world.heap.alloc_uninit_array(world.bytes, value)
    with pytest.raises((TypeError, HeapError)):
        world.heap.alloc_raw(VMGcKind.STRUCT_REF, world.cell, value)
    with pytest.raises(TypeError):
        world.heap.alloc_raw(VMGcKind.STRUCT_REF, value, CELL.size)
    assert world.image() == before


@pytest.mark.parametrize("host_data_id", [-1, 0, 99, None, "0"])
def test_externrefs_need_host_data(world: World, host_data_id: Any) -> None:
    before = world.image()
    with pytest.raises(HeapError, match=f"does not know host data {host_data_id!r}"):
        world.heap.alloc_externref(host_data_id)
    assert world.image() == before


def test_freeing_what_was_never_initialised(world: World) -> None:
    heap = world.heap
    cell = heap.alloc_raw(VMGcKind.STRUCT_REF, world.cell, CELL.size)
    exception = heap.alloc_raw(VMGcKind.EXN_REF, world.tag, TAG.size)
    array = heap.alloc_raw(VMGcKind.ARRAY_REF, world.refs, REFS.size(10))
    for reference, size in ((cell, CELL.size), (exception, TAG.size), (array, REFS.size(10))):
        world.memory.write(reference + HEADER_SIZE, b"\x40" * (size - HEADER_SIZE))  # no references
    for reference, wrong, right in (
        (cell, heap.dealloc_uninit_array, heap.dealloc_uninit_struct_or_exn),
        (exception, heap.dealloc_uninit_array, heap.dealloc_uninit_struct_or_exn),
        (array, heap.dealloc_uninit_struct_or_exn, heap.dealloc_uninit_array),
    ):
        with pytest.raises(InvalidReferenceError, match=f"{reference:#x} is of kind {heap.kind(reference).name}"):
            wrong(reference)
        right(reference)
        with pytest.raises(InvalidReferenceError, match=f"{reference:#x}"):
            right(reference)
    heap.verify()
    assert heap.stats().live_objects == 0


def test_freeing_what_others_may_have_seen_is_refused(world: World) -> None:
    heap = world.heap
    shared, exposed, host = world.new_cell(), world.new_cell(), world.new_externref(1)
    heap.clone_gc_ref(shared)
    heap.expose_gc_ref_to_wasm(exposed)
    for reference in (shared, exposed):
        with pytest.raises(HeapError, match=f"{reference:#x} is shared or exposed"):
            heap.dealloc_uninit_struct_or_exn(reference)
    with pytest.raises(InvalidReferenceError, match="EXTERN_REF"):
        heap.dealloc_uninit_struct_or_exn(host)
    assert len(world.live()) == 3


# ----------------------------------------------------------------------------------------------------------------------
# References that name nothing


def on_references(world: World) -> dict[str, Callable[[Any], Any]]:
    heap = world.heap
    return {
        "header": heap.header,
        "kind": heap.kind,
        "object_size": heap.object_size,
        "array_len": heap.array_len,
        "externref_host_data": heap.externref_host_data,
        "slot": lambda reference: heap.slot(reference, NEXT),
        "clone_gc_ref": heap.clone_gc_ref,
        "write_gc_ref": lambda reference: heap.write_gc_ref(ctypes.c_uint32(), reference),
        "drop_gc_ref": heap.drop_gc_ref,
        "expose_gc_ref_to_wasm": heap.expose_gc_ref_to_wasm,
        "dealloc_uninit_struct_or_exn": heap.dealloc_uninit_struct_or_exn,
        "dealloc_uninit_array": heap.dealloc_uninit_array,
        "references": heap.references,
        "create_handle": world.roots.create_handle,
    }


PASSING_NULL = {"clone_gc_ref", "write_gc_ref", "drop_gc_ref", "expose_gc_ref_to_wasm"}


@pytest.mark.parametrize("operation", on_references(World()))
def test_references_that_name_nothing(operation: str) -> None:
    world = World()
    cell, freed, last = world.new_cell(), world.new_cell(), world.new_cell()
    world.heap.drop_gc_ref(freed)
    bump = world.heap.control.bump
    call, before = on_references(world)[operation], world.image()
    nothing = [8, cell + 8, cell + 16, freed, bump, bump + 16, 0xFFFF_FFF0, -16, 1 << 32, (1 << 32) + 16, 1 << 70]
    for reference in nothing:
        with pytest.raises(InvalidReferenceError, match=f"{reference:#x}"):
            call(reference)
    for wrong in (None, "16", 16.0, True, False, b"\x10", [16]):
        with pytest.raises(TypeError, match=re.escape(f"a reference is {wrong!r}; it must be an int")):
            call(wrong)
    for reference in (NULL, i31_from_int(4)):
        if operation in PASSING_NULL:
            call(reference)
        else:
            with pytest.raises(InvalidReferenceError, match=f"{reference:#x}"):
                call(reference)
    assert world.image() == before
    assert last == freed + CELL_BLOCK


def test_an_object_without_a_count_is_not_live(world: World) -> None:
    cell = world.new_cell()
    world.heap.header(cell).ref_count = 0
    with pytest.raises(InvalidReferenceError, match=f"{cell:#x} has no owner left"):
        world.heap.clone_gc_ref(cell)


def test_asking_the_wrong_kind(world: World) -> None:
    cell, array = world.new_cell(), world.new_refs()
    with pytest.raises(InvalidReferenceError, match=f"{cell:#x} is of kind STRUCT_REF, not ARRAY_REF"):
        world.heap.array_len(cell)
    with pytest.raises(InvalidReferenceError, match=f"{array:#x} is of kind ARRAY_REF, not EXTERN_REF"):
        world.heap.externref_host_data(array)


@pytest.mark.parametrize("offset", [-4, 0, NEXT - 4, NEXT - 1, CELL.size - 3, CELL.size, 1 << 40])
def test_slots_outside_of_the_object(world: World, offset: int) -> None:
    cell = world.new_cell()
    limits = f"{HEADER_SIZE} to {CELL.size} bytes"
    with pytest.raises(HeapError, match=f"offset {offset} is not a slot of the object at {cell:#x}.* {limits}"):
        world.heap.slot(cell, offset)


def test_slots_are_views(world: World) -> None:
    cell = world.new_cell()
    last = CELL.size - 4
    world.heap.slot(cell, last).value = 0x1234_5678
    assert world.memory.read(cell + last, 4) == bytes.fromhex("78563412")


# ----------------------------------------------------------------------------------------------------------------------
# Counting


@pytest.mark.parametrize("reference", [NULL, i31_from_int(0), i31_from_int(-1), i31_from_int(1 << 29)])
def test_null_and_i31_take_part_in_none_of_it(world: World, reference: int) -> None:
    before = world.image()
    heap = world.heap
    assert heap.clone_gc_ref(reference) == reference
    heap.drop_gc_ref(reference)
    heap.expose_gc_ref_to_wasm(reference)
    heap.trace([reference])
    slot = ctypes.c_uint32()
    heap.write_gc_ref(slot, reference)
    heap.write_gc_ref(slot, reference)
    assert slot.value == reference
    assert world.image() == before


def test_cloning_and_dropping(world: World) -> None:
    cell = world.new_cell()
    for count in range(2, 6):
        assert world.heap.clone_gc_ref(cell) == cell
        assert world.count(cell) == count
    for count in range(4, 0, -1):
        world.heap.drop_gc_ref(cell)
        assert world.count(cell) == count
    world.heap.drop_gc_ref(cell)
    assert world.live() == []
    world.heap.verify()


def test_counts_are_64_bits_wide(world: World) -> None:
    cell = world.new_cell()
    world.heap.header(cell).ref_count = (1 << 32) - 1
    world.heap.clone_gc_ref(cell)
    assert world.count(cell) == 1 << 32


def test_dropping_is_transitive(world: World) -> None:
    heap = world.heap
    shared = world.new_cell()
    inner = world.new_cell(heap.clone_gc_ref(shared))
    array = world.new_refs(inner, NULL, i31_from_int(7), heap.clone_gc_ref(shared), heap.clone_gc_ref(shared))
    outer = world.new_cell(array)
    assert world.count(shared) == 4
    heap.drop_gc_ref(outer)
    assert world.live() == [shared]
    assert world.count(shared) == 1
    heap.drop_gc_ref(shared)
    heap.verify()


def test_elements_that_refer_to_nothing_are_freed_in_their_order(world: World) -> None:
    """While they are at hand; others wait until their owner is freed, and the last of them comes first."""
    leaves = [world.heap.alloc_uninit_array(world.bytes, 4) for _ in range(4)]
    cells = [world.heap.alloc_uninit_struct(world.long_cell) for _ in range(3)]  # not in a leaf's blocks
    host = world.new_externref("data")
    world.heap.drop_gc_ref(world.new_refs(*leaves[:2], *cells, host, 1, NULL, *leaves[2:]))
    assert len(world.host_data) == 0
    assert [world.heap.alloc_uninit_array(world.bytes, 4) for _ in range(5)] == [host, *leaves[::-1]]
    assert [world.heap.alloc_uninit_struct(world.long_cell) for _ in range(3)] == cells


def test_dropping_an_externref_lets_go_of_its_host_data(world: World) -> None:
    host = world.new_externref("value")
    host_data_id = world.heap.externref_host_data(host)
    pair = world.heap.alloc_uninit_struct(world.pair)
    world.heap.slot(pair, RIGHT).value = host
    assert host_data_id in world.host_data
    world.heap.drop_gc_ref(pair)
    assert host_data_id not in world.host_data
    assert world.live() == []


def test_untraced_references_are_left_alone(world: World) -> None:
    """An i31ref field and a funcref field are not followed, whatever is in them."""
    cell, pair = world.new_cell(), world.heap.alloc_uninit_struct(world.pair)
    for number in (2, 3):
        world.heap.slot(pair, PAIR.fields[number].offset).value = cell
    assert world.heap.references(pair) == []
    world.heap.drop_gc_ref(pair)
    assert world.count(cell) == 1


def test_an_exceptions_fields_are_traced(world: World) -> None:
    exception = world.heap.alloc_uninit_exn(world.tag)
    world.heap.slot(exception, TAG.fields[0].offset).value = world.new_cell()
    assert len(world.live()) == 2
    world.heap.drop_gc_ref(exception)
    assert world.live() == []


def test_a_cycle_is_freed_by_no_counting(world: World) -> None:
    cell = world.new_cell()
    world.heap.write_gc_ref(world.heap.slot(cell, NEXT), cell)
    world.heap.drop_gc_ref(cell)
    DrcCollection(world.heap, world.roots).collect()
    assert world.live() == [cell]
    world.heap.verify()


def test_writing(world: World) -> None:
    heap = world.heap
    old, new, holder = world.new_cell(), world.new_cell(), world.new_cell()
    slot = heap.slot(holder, NEXT)
    heap.write_gc_ref(slot, old)
    heap.drop_gc_ref(old)
    assert (slot.value, world.count(old)) == (old, 1)
    heap.write_gc_ref(slot, new)
    assert (slot.value, world.count(new), world.live()) == (new, 2, [new, holder])
    heap.write_gc_ref(slot, NULL)
    assert (slot.value, world.count(new)) == (NULL, 1)


def test_writing_a_slots_own_last_value(world: World) -> None:
    """The new value is counted before the old one is dropped: they are one, with one count."""
    holder = world.new_cell(world.new_cell())
    slot = world.heap.slot(holder, NEXT)
    inner = slot.value
    world.heap.write_gc_ref(slot, inner)
    assert (slot.value, world.count(inner)) == (inner, 1)


def test_what_a_drop_runs_sees_the_new_value(world: World) -> None:
    """The seed dropped the old value before it stored the new one."""
    seen = []

    class Watcher(ExternRefHostDataTable):
        def dealloc(self, host_data_id: int) -> None:
            seen.append(slot.value)
            super().dealloc(host_data_id)

    world.heap.detach()
    table = Watcher()
    world.heap.attach(Memory(), table)
    old = world.heap.alloc_externref(table.alloc("old"))
    new = world.heap.alloc_externref(table.alloc("new"))
    pair = world.heap.alloc_uninit_struct(world.pair)
    slot = world.heap.slot(pair, RIGHT)
    slot.value = old
    world.heap.write_gc_ref(slot, new)
    assert seen == [new]


def test_writing_an_invalid_value_changes_nothing(world: World) -> None:
    holder = world.new_cell(world.new_cell())
    before = world.image()
    with pytest.raises(InvalidReferenceError, match="0x8000"):
        world.heap.write_gc_ref(world.heap.slot(holder, NEXT), 0x8000)
    somewhere: Any = holder + NEXT
    with pytest.raises(TypeError, match=f"destination is {somewhere}; it must be a slot"):
        world.heap.write_gc_ref(somewhere, holder)
    assert world.image() == before


def test_exposing_pushes_on_the_list(world: World) -> None:
    first, second = world.new_cell(), world.new_cell()
    world.heap.expose_gc_ref_to_wasm(first)
    world.heap.expose_gc_ref_to_wasm(second)
    assert world.on_list() == [second, first]
    assert world.heap.control.over_approximated_stack_roots == second
    assert world.heap.header(second).next_over_approximated_stack_root == first
    assert world.heap.header(first).kind_and_reserved == 0xB000_0002
    assert (world.count(first), world.count(second)) == (1, 1), "the caller's count is the list's now"
    assert world.heap.control.current_len == 2
    world.heap.verify()


def test_exposing_again_gives_the_count_back(world: World) -> None:
    """The seed kept it: a leak."""
    cell = world.new_cell()
    world.heap.expose_gc_ref_to_wasm(cell)
    for _ in range(3):
        world.heap.expose_gc_ref_to_wasm(world.heap.clone_gc_ref(cell))
        assert (world.count(cell), world.on_list()) == (1, [cell])
    world.heap.verify()
    DrcCollection(world.heap, world.roots).collect()
    assert world.live() == []


def test_exposing_without_a_count_is_found_out(world: World) -> None:
    cell = world.new_cell()
    world.heap.expose_gc_ref_to_wasm(cell)
    with pytest.raises(HeapCorruptionError, match=f"{cell:#x} would lose its last count, but is on the over-approx"):
        world.heap.expose_gc_ref_to_wasm(cell)
    with pytest.raises(HeapCorruptionError, match=f"{cell:#x} would lose its last count"):
        world.heap.drop_gc_ref(cell)
    world.heap.verify()


def test_a_running_collection_refuses_allocation_and_exposure(world: World) -> None:
    cell = world.new_cell()
    with DrcCollection(world.heap, world.roots) as collection:
        collection.collect_increment()
        for refused, what in (
            (lambda: world.heap.alloc_uninit_struct(world.cell), "allocate"),
            (lambda: world.heap.alloc_uninit_array(world.refs, 3), "allocate"),
            (lambda: world.new_externref(1), "allocate"),
            (lambda: world.heap.expose_gc_ref_to_wasm(cell), "expose a reference"),
        ):
            with pytest.raises(HeapError, match=f"cannot {what} in the middle of a collection"):
                refused()
        world.heap.drop_gc_ref(world.heap.clone_gc_ref(cell))  # counting goes on
    assert world.new_cell() > cell


# ----------------------------------------------------------------------------------------------------------------------
# Drops of any length


def image_of(world: World, count: int, make: Callable[[int, int], bytes]) -> int:
    """Write `count` objects of one size at the bump pointer, straight into the bytes, and return the first's index."""
    control = world.heap.control
    first = control.bump
    size = len(make(0, first))
    assert size % 16 == 0
    image = b"".join(make(number, first + number * size) for number in range(count))
    world.memory.write(first, image)
    control.bump = first + len(image)
    control.objects_allocated += count
    control.bytes_allocated += len(image)
    return first


def chain(world: World, count: int) -> int:
    """A chain of cells, the first at its head."""

    def cell(number: int, index: int) -> bytes:
        following = index + CELL_BLOCK if number < count - 1 else NULL
        made = bytearray(headed(VMGcKind.STRUCT_REF, world.cell, CELL.size).ljust(CELL_BLOCK, b"\0"))
        struct.pack_into("<I", made, NEXT, following)
        return bytes(made)

    return image_of(world, count, cell)


def big_array(world: World, count: int) -> int:
    """An array of `count` cells that only it holds."""
    first = chain(world, count)
    for offset in range(first + NEXT, world.heap.control.bump, CELL_BLOCK):
        world.memory.write(offset, bytes(4))
    array = world.heap.alloc_uninit_array(world.refs, count)
    cells = range(first, first + CELL_BLOCK * count, CELL_BLOCK)
    world.memory.write(array + REFS.elements_offset, struct.pack(f"<{count}I", *cells))
    return array


@pytest.fixture
def shallow_stack() -> Iterator[None]:
    """Leave no room for more than a few dozen frames."""
    warm = World(1 << 12)
    warm.heap.drop_gc_ref(big_array(warm, 2))  # a function that runs for the first time is checked, which takes some
    for function in (free_lists.put_in_order, free_lists.are_scattered, free_lists.coalesce):
        function(warm.heap.native)
    with contextlib.suppress(HeapExhaustedError):
        while True:
            warm.new_cell()
    limit, depth, frame = sys.getrecursionlimit(), 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    sys.setrecursionlimit(depth + 60)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("shallow_stack")
@pytest.mark.parametrize("make", [chain, big_array])
def test_large_structures_drop_without_recursion(make: Callable[[World, int], int]) -> None:
    world = World(1 << 22)
    head = make(world, 40_000)
    assert world.heap.stats().live_objects >= 40_000
    world.heap.drop_gc_ref(head)
    assert world.heap.stats().live_objects == 0
    assert world.heap.control.dead_list == NULL
    assert all(block.is_free for block in walk(world.heap.control, world.memory))
    world.heap.coalesce()
    world.heap.verify()
    assert world.heap.control.bump == 16


@pytest.mark.parametrize("make", [chain, big_array])
def test_a_drop_takes_the_same_memory_whatever_it_drops(make: Callable[[World, int], int]) -> None:
    peaks: dict[int, list[int]] = {5_000: [], 100: []}
    for count in (5_000, 100) * 4:
        world = World(1 << 21)
        head = make(world, count)
        tracemalloc.start()
        world.heap.drop_gc_ref(head)
        peaks[count].append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The lowest: the first brings in what Python runs of each function, and what is not of the drop (other tests'
    # garbage, whose finalizers run whenever Python collects; other threads) only adds to some.
    assert min(peaks[5_000]) < min(peaks[100]) + 4096


def test_the_images_above_are_sound() -> None:
    for make in (chain, big_array):
        world = World(1 << 21)
        world.roots.create_handle(make(world, 500))
        world.heap.verify()


# ----------------------------------------------------------------------------------------------------------------------
# A heap that does not count


def test_a_heap_without_counting() -> None:
    world = World(collector="null")
    heap = world.heap
    assert not heap.is_counted
    cell, holder = world.new_cell(), world.new_cell()
    heap.clone_gc_ref(cell)
    heap.write_gc_ref(heap.slot(holder, NEXT), cell)
    heap.expose_gc_ref_to_wasm(cell)
    heap.trace([cell, holder])
    heap.sweep()
    heap.drop_gc_ref(cell)
    heap.drop_gc_ref(holder)
    assert (world.count(cell), world.count(holder)) == (1, 1)
    assert world.on_list() == []
    assert world.live() == [cell, holder]
    assert heap.references(holder) == [cell]
    heap.verify([cell])


# ----------------------------------------------------------------------------------------------------------------------
# Looking at the heap


def test_objects(world: World) -> None:
    heap = world.heap
    cell, freed, array = world.new_cell(), world.new_cell(), world.new_refs(NULL)
    heap.drop_gc_ref(freed)
    heap.clone_gc_ref(array)
    heap.expose_gc_ref_to_wasm(array)
    with DrcCollection(heap, world.roots) as collection:
        world.roots.add_stack_walker(lambda: [array])
        collection.collect_increment()
        first, second = heap.objects()
    assert (first.index, first.kind, first.type_index, first.ref_count) == (cell, VMGcKind.STRUCT_REF, world.cell, 1)
    assert (first.size, first.is_listed, first.is_marked) == (CELL.size, False, False)
    assert (second.index, second.kind, second.type_index, second.ref_count) == (
        array,
        VMGcKind.ARRAY_REF,
        world.refs,
        2,
    )
    assert (second.size, second.is_listed, second.is_marked) == (REFS.size(1), True, True)


def test_references(world: World) -> None:
    first, second = world.new_cell(), world.new_cell()
    array = world.new_refs(second, NULL, first, i31_from_int(1), second)
    assert world.heap.references(array) == [second, first, second]
    pair = world.heap.alloc_uninit_struct(world.pair)
    assert world.heap.references(pair) == []
    assert world.heap.references(world.new_externref(1)) == []
    assert world.heap.references(world.new_cell(first)) == [first]


def test_trace_messages(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(TRACE, "lowheap.heap")
    cell = world.new_cell()
    world.heap.clone_gc_ref(cell)
    world.heap.drop_gc_ref(cell)
    world.heap.expose_gc_ref_to_wasm(cell)
    world.heap.sweep()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"new object {cell:#x}: kind 0xb0000000, {CELL.size} bytes",
        f"count of {cell:#x} up to 2",
        f"count of {cell:#x} down to 1",
        f"{cell:#x} is not held any more: off the list",
        f"count of {cell:#x} down to 0",
        f"freeing {cell:#x}, {CELL.size} bytes",
    ]
    assert {record.levelname for record in caplog.records} == {"TRACE"}
    caplog.clear()
    caplog.set_level(logging.DEBUG, "lowheap.heap")
    world.new_cell()
    assert caplog.records == []


# ----------------------------------------------------------------------------------------------------------------------
# verify: what it does with all faults; each of them is in `faults.py`


class Scene(World):
    """A heap that verifies, with one of everything."""

    def __init__(self) -> None:
        super().__init__()
        heap = self.heap
        self.inner = self.new_cell()
        self.freed = [self.new_cell() for _ in range(2)]
        self.array = self.new_refs(self.inner, i31_from_int(3))
        self.fence = self.new_cell()
        self.host = self.new_externref("host")
        self.listed = [self.new_cell() for _ in range(3)]
        for reference in self.listed:
            heap.expose_gc_ref_to_wasm(reference)
        self.handle = self.roots.create_handle(self.array)
        self.roots.create_handle(self.host)
        self.slot = ctypes.c_uint32(self.fence)
        self.roots.add_slot(ctypes.addressof(self.slot))
        for reference in self.freed:
            heap.drop_gc_ref(reference)

    def header(self, reference: int) -> VMDrcHeader:
        return self.memory.view(VMDrcHeader, reference)

    def set_bits(self, reference: int, bits: int) -> None:
        self.header(reference).kind_and_reserved |= bits


MARK = HEADER_MARK_BIT


def test_verify_lists_every_problem() -> None:
    scene = Scene()
    scene.header(scene.inner).ref_count = 9
    scene.header(scene.fence).ref_count = 8
    scene.heap.control.objects_freed += 1
    with pytest.raises(HeapCorruptionError) as caught:
        scene.heap.verify()
    assert len(caught.value.problems) == 3


def test_verify_checks_stack_maps() -> None:
    """What compiled code holds is on the list; null and i31 need not be."""
    scene = Scene()
    scene.heap.verify([NULL, i31_from_int(3), *scene.listed, scene.listed[0]])
    for reference in (scene.inner, scene.freed[0], 0x8000):
        with pytest.raises(HeapCorruptionError, match=f"compiled code holds {reference:#x}, which is not on the over-"):
            scene.heap.verify([reference])


def test_marks_are_allowed_while_a_collection_runs() -> None:
    scene = Scene()
    scene.set_bits(scene.listed[0], MARK)
    scene.heap.control.phase = CollectionPhase.SWEEP
    scene.heap.verify()
    scene.heap.control.phase = CollectionPhase.IDLE
    with pytest.raises(HeapCorruptionError, match=f"{scene.listed[0]:#x} is marked"):
        scene.heap.verify()


def test_verify_changes_nothing() -> None:
    scene = Scene()
    before = scene.image()
    scene.heap.verify()
    assert scene.image() == before


FIELDS_THAT_VERIFY_READS = (
    VMDrcHeader.kind_and_reserved,
    VMDrcHeader.type_index,
    VMDrcHeader.ref_count,
    VMDrcHeader.object_size,
)


def test_every_byte_of_an_objects_header_matters() -> None:
    """Whatever bit of a header is flipped, verify notices. (`next` of what is not listed means nothing.)"""
    scene = Scene()
    unnoticed = []
    for reference in (scene.inner, scene.array, scene.fence, scene.listed[1]):
        meant = set(FIELDS_THAT_VERIFY_READS)
        if reference == scene.listed[1]:
            meant.add(VMDrcHeader.next_over_approximated_stack_root)
        for byte in sorted(field.offset + byte for field in meant for byte in range(field.size)):
            for bit in range(8):
                cell = scene.memory.view(ctypes.c_uint8, reference + byte)
                cell.value ^= 1 << bit
                with contextlib.suppress(HeapCorruptionError):
                    scene.heap.verify()
                    unnoticed.append((hex(reference), byte, bit))
                cell.value ^= 1 << bit
    scene.heap.verify()
    assert unnoticed == []
