"""The C interface's part that looks at a heap, on heaps that Python made: figures, walks, dumps, verification.

Python's `DrcHeap` on the same bytes is the other witness: for figures and objects, for images, and for what is sound.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import json
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.embed_reports import Pieces, message_of, text_of
from support.faults import SLOT, Saved, populate
from support.image_heaps import BYTES, NODE, STEPS, TYPES, World

import lowheap as lh
from lowheap.cli.inspect import inspect_command
from lowheap.embed import NativeHeap, attach, ffi
from lowheap.embed.api import Status
from lowheap.embed.examination import FUNCTIONS
from lowheap.errors import LowheapError
from lowheap.layout import (
    CONTROL_UNCOUNTED,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    NULL,
    OBJECT_KINDS,
    CollectionPhase,
    VMDrcArrayHeader,
    VMDrcHeader,
    VMDump,
    VMDumpRoot,
    VMFieldInfo,
    VMGcKind,
    VMHeapControl,
    VMHeapStatistics,
    VMRootFrame,
    VMTypeInfo,
    i31_from_int,
)
from lowheap.native import Heap, Native
from lowheap.runtime.store_runtime import runtime_of
from lowheap.snapshot import Image, ImageFormatError, ImageType, diff, read_dump
from lowheap.snapshot.inspection import inspect
from lowheap.types import (
    ANYREF,
    EXTERNREF,
    F32,
    FUNCREF,
    I16,
    I31REF,
    I32,
    NULLREF,
    V128,
    AbstractHeapType,
    StorageType,
)

EXTERN = len(TYPES)


class Examined:
    """The C interface on a world's heap."""

    def __init__(self, world: World, *, checked: bool) -> None:
        self.store = world.store
        self.native: NativeHeap = attach(world.store, checked=checked)

    def message(self) -> str:
        return message_of(self.native)

    def verify(self) -> str | None:
        """What `lh_verify` finds, or None."""
        status = self.native.lh_verify(self.native.heap)
        assert status in (Status.OK, Status.CORRUPT)
        return None if status == Status.OK else self.message()

    def walk(self) -> tuple[Status, list[dict[str, int]]]:
        found: list[dict[str, int]] = []

        @ffi().callback("lh_visitor")
        def visit(argument: Any, info: Any) -> int:
            assert argument == ffi().cast("void *", 0x1234)
            found.append({name: int(getattr(info, name)) for name in dir(info)})
            return 0

        return Status(self.native.lh_walk(self.native.heap, visit, ffi().cast("void *", 0x1234))), found

    def dump(self, *, refused_piece: int = -1) -> tuple[Status, bytes]:
        pieces = Pieces(refused=refused_piece)
        status = Status(self.native.lh_dump(self.native.heap, pieces.write, ffi().NULL))
        assert all(pieces)
        return status, b"".join(pieces)

    def image(self) -> Image:
        status, data = self.dump()
        assert status == Status.OK
        return read_dump(data)

    def statistics(self) -> dict[str, int]:
        result = VMHeapStatistics()
        pointer = ffi().cast("lh_statistics *", ctypes.addressof(result))
        assert self.native.lh_heap_statistics(self.native.heap, pointer) == Status.OK
        return {name: getattr(result, name) for name, *_ in VMHeapStatistics._fields_}


def python_accepts(world: World) -> bool:
    try:
        world.store.heap.verify()
    except LowheapError:
        return False
    return True


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.store:
        yield made


@pytest.fixture(params=[True, False], ids=["checked", "fast"])
def checked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def examined(world: World, checked: bool) -> Examined:
    return Examined(world, checked=checked)


@pytest.fixture(autouse=True)
def empty_slot() -> None:
    SLOT.value = NULL


# ----------------------------------------------------------------------------------------------------------------------
# Sound heaps


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, budget=st.none() | st.integers(1, 5))
def test_all_that_is_seen_is_what_python_sees(
    steps: list[tuple[str, int, int, int]], budget: int | None, checked: bool
) -> None:
    world = World()
    with world.store as store:
        world.run(steps)
        if budget is not None:  # some are dead, and wait to be freed
            collection = store.collection()
            collection.collect_increment(budget=budget)
            collection.collect_increment(budget=budget)
        heap, examined = store.heap, Examined(world, checked=checked)
        store.verify()
        assert examined.verify() is None
        figures = dataclasses.asdict(heap.stats())
        del figures["counters"]  # those of collectors, which C does not ask for
        assert examined.statistics() == figures | {
            "live_objects": heap.stats().live_objects,
            "live_bytes": heap.stats().live_bytes,
        }
        status, found = examined.walk()
        assert status == Status.OK
        assert found == [
            {
                "ref_count": each.ref_count,
                "reference": each.index,
                "kind": int(each.kind),
                "type_index": each.type_index,
                "size": each.size,
                "length": heap.memory.view(VMDrcArrayHeader, each.index).length
                if each.kind == VMGcKind.ARRAY_REF
                else 0,
                "is_listed": int(each.is_listed),
            }
            for each in heap.objects()
        ]
        expected, image = store.snapshot(), examined.image()
        assert diff(image, expected) == diff(expected, image) == []
        assert (image.data, image.control, image.roots) == (expected.data, expected.control, expected.roots)
        assert image.host_data_ids == expected.host_data_ids
        assert list(image.types.values()) == [without_names(each) for each in expected.types.values()]
        assert Image.from_bytes(image.to_bytes()) == image
        assert inspect(image).problems == ()


def without_names(known: ImageType) -> ImageType:
    assert known.fields is not None
    fields = tuple(each if each.storage == "tag" else dataclasses.replace(each, name=None) for each in known.fields)
    definition = None if known.kind is VMGcKind.EXN_REF else known.definition
    return dataclasses.replace(known, name=None, definition=definition, fields=fields)


def test_a_heap_with_something_of_each_sort_is_sound(world: World, examined: Examined) -> None:
    populate(world)
    world.store.verify()
    assert examined.verify() is None
    assert diff(examined.image(), world.store.snapshot()) == []
    assert {root.kind for root in examined.image().roots} == {"handle", "slot"}


def test_an_empty_heap(world: World, examined: Examined) -> None:
    assert examined.verify() is None
    assert examined.walk() == (Status.OK, [])
    image = examined.image()
    assert (len(image.data), image.types, image.roots) == (FIRST_INDEX, {}, ())


def test_frames_are_roots_that_count_nothing(world: World, examined: Examined) -> None:
    places = populate(world)
    context = runtime_of(world.store).context
    inner_slots = (ctypes.c_uint32 * 3)(NULL, places["first"], i31_from_int(9))
    outer_slots = (ctypes.c_uint32 * 1)(places["second"])
    outer = VMRootFrame(slots=ctypes.addressof(outer_slots), slot_count=1)
    empty = VMRootFrame(previous=ctypes.addressof(outer))
    inner = VMRootFrame(previous=ctypes.addressof(empty), slots=ctypes.addressof(inner_slots), slot_count=3)
    context.root_frames = ctypes.addressof(inner)
    assert examined.verify() is None
    image = examined.image()
    assert [(root.place, root.reference) for root in image.roots if root.kind == "frame"] == [
        (ctypes.addressof(inner_slots) + 4, places["first"]),
        (ctypes.addressof(outer_slots), places["second"]),
    ]
    assert inspect(image).problems == ()
    assert Image.from_bytes(image.to_bytes()) == image

    for wrong in (places["array"], places["first"] + 16, 0xFFFF_FFF0, 6):
        outer_slots[0] = wrong
        message = f"slot {ctypes.addressof(outer_slots):#x} of a frame holds {wrong:#x}, which is not on the"
        assert message in (examined.verify() or "")
        problems = inspect(examined.image()).problems
        assert problems == (f"{message} over-approximated list",)
    context.root_frames = 0
    assert examined.verify() is None


def from_python(world: World, function: Native[..., Any], *args: Any) -> LowheapError | None:
    """What a function of the interface raises when Python runs it on a world's heap."""
    store, context = world.store, runtime_of(world.store).context
    heap = Heap(store.heap.memory, store.heap.control, store_context=context, collector=store.heap.collector)
    try:
        function(heap, *args)
    except LowheapError as error:
        return error
    assert heap.problems == []
    return None


def address_of(callback: Any) -> int:
    return int(ffi().cast("uintptr_t", callback))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=STEPS,
    held=st.lists(st.sampled_from([NULL, 3, 0]) | st.integers(0, 40).map(lambda unit: 16 * unit), max_size=80),
    refused=st.integers(-1, 8),
    broken=st.none() | st.integers(0, 2**32 - 1),
)
def test_python_and_c_do_the_same(
    steps: list[tuple[str, int, int, int]], held: list[int], refused: int, broken: int | None, checked: bool
) -> None:
    """The functions that look at a heap, run as they stand, beside what they were compiled to."""
    world = World()
    with world.store as store:
        world.run(steps)
        slots = (ctypes.c_uint32 * len(held))(*held)
        frame = VMRootFrame(slots=ctypes.addressof(slots), slot_count=len(held))
        context = runtime_of(store).context
        context.root_frames = ctypes.addressof(frame)
        examined = Examined(world, checked=checked)
        header = store.heap.memory.view(VMDrcHeader, FIRST_INDEX)
        size = header.object_size
        if broken is not None and store.heap.control.bump > FIRST_INDEX:
            header.object_size = broken

        pieces = Pieces(refused=refused)
        seen: list[bytes] = []

        @ffi().callback("lh_visitor")
        def visit(argument: Any, info: Any) -> int:
            if len(seen) == refused:
                return 7
            seen.append(bytes(ffi().buffer(info)))
            return 0

        native = examined.native
        for name, arguments in (("lh_dump", [pieces.write]), ("lh_walk", [visit]), ("lh_verify", [])):
            in_c, there = [*arguments, *[ffi().NULL] * len(arguments)], (pieces, seen)
            status = Status(getattr(native, name)(native.heap, *in_c))
            expected, message = tuple(map(list, there)), examined.message() if status != Status.OK else ""
            for each in there:
                each.clear()
            in_python = [*map(address_of, arguments), *[0] * len(arguments)]
            raised = from_python(world, FUNCTIONS[name], *in_python)
            assert there == expected
            for each in there:
                each.clear()
            if status == Status.CORRUPT:
                assert isinstance(raised, lh.HeapCorruptionError)
                assert message == f"{name}: {raised.problems[0]}"
            elif status == Status.OK:
                assert raised is None
            else:
                assert message == f"{name}: {raised}"
        header.object_size = size
        context.root_frames = 0


def test_many_roots_are_all_in_the_dump(world: World, examined: Examined) -> None:
    for number in range(200):
        world.hold(BYTES, number % 7)
    for name in range(0, 200, 9):
        world.release(name)
    assert examined.image().roots == world.store.snapshot().roots


def test_dead_externrefs_wait_for_their_host(world: World, examined: Examined) -> None:
    """As compiled code leaves them: count 0, on a list of their own, their host data in use."""
    heap, control = world.store.heap, world.store.heap.control
    node, dead = world.hold(NODE), [world.hold(EXTERN) for _ in range(2)]
    for reference in dead:
        number = next(number for number, held in heap.handles() if held == reference)
        world.store.roots.release_handle(number)
        header = heap.memory.view(VMDrcHeader, reference)
        header.ref_count, header.next_over_approximated_stack_root = 0, control.dead_externrefs
        control.dead_externrefs = reference
    assert examined.verify() is None
    image = examined.image()
    assert image.dead_externrefs() == dead[::-1]
    found = inspect(image)
    assert found.problems == ()
    assert found.garbage is not None
    assert len(found.garbage) == 0
    heap.memory.view(VMDrcHeader, dead[0]).ref_count = 1
    assert "has count 1, but is on the list of dead externrefs" in (examined.verify() or "")
    assert "on the list of dead externrefs" in inspect(examined.image()).problems[0]
    heap.memory.view(VMDrcHeader, dead[0]).ref_count = 0
    control.dead_externrefs, heap.memory.view(VMDrcHeader, node).ref_count = node, 0
    assert "is on the list of dead externrefs, but its kind is" in (examined.verify() or "")
    control.dead_externrefs, heap.memory.view(VMDrcHeader, node).ref_count = dead[1], 1
    heap.release_dead_externrefs()
    assert examined.verify() is None


def test_pending_dead_objects_wait_to_be_freed(world: World, examined: Examined) -> None:
    heap, control = world.store.heap, world.store.heap.control
    for _ in range(4):
        world.expose(world.hold(NODE))
    for name in list(world.handles):
        world.release(name)
    collection = world.store.collection()
    for _ in range(2):  # trace; sweep, and free one
        collection.collect_increment(budget=1)
    first, second, third = heap.pending_dead()
    assert python_accepts(world)
    assert examined.verify() is None
    assert [each["ref_count"] for each in examined.walk()[1]] == [0, 0, 0]
    assert examined.image().pending_dead() == [first, second, third]
    assert inspect(examined.image()).problems == ()
    saved = Saved(world.store.heap)

    def damage(reference: int, field: str, value: int) -> str:
        setattr(heap.memory.view(VMDrcHeader, reference), field, value)
        assert not python_accepts(world)
        said = examined.verify()
        saved.restore()
        return said or ""

    what = "the list of pending dead objects"
    marked = VMGcKind.STRUCT_REF | HEADER_MARK_BIT
    assert f"object {second:#x} is marked, but is on {what}" in damage(second, "kind_and_reserved", marked)
    link = "next_over_approximated_stack_root"
    assert f"{what} comes back to {first:#x}" in damage(third, link, first)
    assert f"{what} leads to {second + 16:#x}, where no object starts" in damage(first, link, second + 16)
    assert f"object {third:#x} has count 9, but is on {what}" in damage(third, "ref_count", 9)
    listed = VMGcKind.STRUCT_REF | HEADER_IN_OVER_APPROX_LIST_BIT
    assert f"object {second:#x} has its in-list bit set, but is on {what}" in damage(
        second, "kind_and_reserved", listed
    )
    control.pending_dead = second
    assert f"object {first:#x} has count 0, but was not freed" in damage(first, link, NULL)
    assert examined.verify() is None
    world.store.collect()
    assert examined.walk() == (Status.OK, [])


def test_counts_mean_nothing_where_nothing_is_counted(world: World, examined: Examined, checked: bool) -> None:
    places = populate(world)
    world.store.heap.memory.view(VMDrcHeader, places["first"]).ref_count = 40
    assert "has count 40, but 2 owners, 1 of them the list" in (examined.verify() or "")
    uncounted = World(collector="null")
    with uncounted.store as store:
        places = populate(uncounted)
        store.heap.memory.view(VMDrcHeader, places["first"]).ref_count = 40
        assert store.heap.control.flags & CONTROL_UNCOUNTED
        assert python_accepts(uncounted)
        assert Examined(uncounted, checked=checked).verify() is None


# ----------------------------------------------------------------------------------------------------------------------
# Random bytes; known faults are in `faults.py`


def test_every_byte_that_matters_to_python_matters() -> None:
    """Change each byte of the heap, and of what the control block says of it, in two ways."""
    world = World(initial_heap_size=4096)
    populate(world)
    collection = world.store.collection()
    collection.collect_increment(budget=1)
    collection.collect_increment(budget=1)
    examined = {checked: Examined(world, checked=checked) for checked in (True, False)}
    heap, saved = world.store.heap, Saved(world.store.heap)
    fields = (
        "over_approximated_stack_roots",
        "current_len",
        "dead_list",
        "capacity",
        "bump",
        "bump_end",
        "flags",
        "phase",
        "handle_count",
        "pending_dead",
        "objects_allocated",
        "objects_freed",
        "bytes_allocated",
        "bytes_freed",
    )
    base, control = heap.control.heap_base, ctypes.addressof(heap.control)
    addresses = list(range(base + FIRST_INDEX, base + heap.control.bump))
    for name in fields:
        field = getattr(VMHeapControl, name)
        addresses += range(control + field.offset, control + field.offset + field.size)
    heads = control + VMHeapControl.size_class_heads.offset
    addresses += range(heads, heads + 8 * ctypes.sizeof(ctypes.c_uint32))
    caught = 0
    for number, address in enumerate(addresses):
        for change in (0x01, 0x80):
            byte = ctypes.c_uint8.from_address(address)
            byte.value ^= change
            accepted = python_accepts(world)
            caught += not accepted
            said = examined[bool(number % 2)].verify()
            place = f"{address - base:#x} of the heap" if address < base + (1 << 32) else f"control+{address - control}"
            assert (said is None) == accepted, (place, change, said)
            byte.value ^= change
    saved.restore()
    assert caught > 500
    assert all(each.verify() is None for each in examined.values())


@functools.cache
def corruptible() -> tuple[World, Saved, dict[bool, Examined]]:
    """One heap for all examples; it stays open until the process ends."""
    world = World(initial_heap_size=4096)
    populate(world)
    return world, Saved(world.store.heap), {checked: Examined(world, checked=checked) for checked in (True, False)}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_bytes_crash_it(data: st.DataObject) -> None:
    world, saved, examined = corruptible()
    heap = world.store.heap
    words = st.one_of(
        st.integers(0, 2**32 - 1),
        st.integers(0, heap.control.bump // 16).map(lambda unit: unit * 16),
        st.sampled_from([*map(int, OBJECT_KINDS), 0, 1, 16, 24, 32, 0xFFFF_FFFF, 0xFFFF_FFF0]),
    )
    places = st.integers(FIRST_INDEX // 4, heap.control.bump // 4 - 1)
    changes = data.draw(st.dictionaries(places, words, min_size=1, max_size=12))
    for place, word in changes.items():
        heap.memory.write(place * 4, word.to_bytes(4, "little"))
    accepted = python_accepts(world)
    try:
        for each in examined.values():
            assert (each.verify() is None) == accepted
            status, _ = each.walk()
            assert status in (Status.OK, Status.CORRUPT)
            assert status == Status.OK or not accepted
            each.statistics()
            inspect(each.image())
    finally:
        saved.restore()


def test_a_walk_stops_where_a_block_leads_nowhere(world: World, examined: Examined) -> None:
    places = populate(world)
    before = [each.index for each in world.store.heap.objects() if each.index < places["array"]]
    assert {places["first"], places["second"]} <= {*before}
    header = world.store.heap.memory.view(VMDrcHeader, places["array"])
    size, header.object_size = header.object_size, 0
    status, found = examined.walk()
    assert status == Status.CORRUPT
    assert [each["reference"] for each in found] == before
    assert examined.message() == f"lh_walk: object at {places['array']:#x} claims 0 bytes; the bump pointer is at " + (
        f"{world.store.heap.control.bump:#x}"
    )
    header.object_size = size
    header.kind_and_reserved ^= 0x0400_0000
    assert examined.walk()[0] == Status.CORRUPT
    assert "which is no kind" in examined.message()


def test_a_marked_object_is_no_fault_while_a_collection_runs(world: World, examined: Examined) -> None:
    places = populate(world)
    control, header = world.store.heap.control, world.store.heap.memory.view(VMDrcHeader, places["first"])
    header.kind_and_reserved |= HEADER_MARK_BIT
    control.phase = CollectionPhase.SWEEP
    assert python_accepts(world)
    assert examined.verify() is None
    control.phase = CollectionPhase.IDLE
    assert not python_accepts(world)
    assert "is marked" in (examined.verify() or "")
    header.kind_and_reserved &= ~HEADER_MARK_BIT


# ----------------------------------------------------------------------------------------------------------------------
# Memory for notes


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def test_the_notes_are_given_back(world: World, examined: Examined) -> None:
    """They take half as many bytes as the heap, whatever comes of it."""
    size = 1 << 26
    array = world.hold(BYTES, size)
    assert examined.verify() is None
    before = address_space()
    for _ in range(3):
        assert examined.verify() is None
    header = world.store.heap.memory.view(VMDrcHeader, array)
    header.ref_count = 2
    for _ in range(3):
        assert "has count 2, but 1 owners" in (examined.verify() or "")
    header.ref_count = 1
    assert address_space() - before < size // 4


def test_without_memory_for_notes(world: World, examined: Examined) -> None:
    populate(world)
    verify, heap = examined.native.lh_verify, examined.native.heap
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, hard))
    try:
        status = verify(heap)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert status == Status.SYSTEM
    needed = world.store.heap.control.bump // 2
    assert examined.message() == f"lh_verify: the system refused {needed} bytes to take notes in"
    assert examined.verify() is None


# ----------------------------------------------------------------------------------------------------------------------
# Callbacks


def test_a_visitor_ends_the_walk(world: World, examined: Examined) -> None:
    places = populate(world)
    seen: list[int] = []

    @ffi().callback("lh_visitor")
    def visit(argument: Any, info: Any) -> int:
        seen.append(info.reference)
        return 5 if info.reference == places["second"] else 0

    native = examined.native
    assert native.lh_walk(native.heap, visit, ffi().NULL) == Status.CALLBACK
    assert seen == [places["first"], places["second"]]
    assert examined.message() == f"lh_walk: the visitor returned 5 at object {places['second']:#x}"
    assert examined.walk()[0] == Status.OK  # and the heap is not busy


def test_a_writer_ends_the_dump(world: World, examined: Examined) -> None:
    populate(world)
    whole, number = examined.dump()[1], 0
    while True:
        status, data = examined.dump(refused_piece=number)
        assert whole.startswith(data)
        if status == Status.OK:
            break
        assert status == Status.CALLBACK
        assert examined.message() == "lh_dump: the writer returned 7"
        with pytest.raises(ImageFormatError, match=r"cut short|does not begin"):
            read_dump(data)
        number += 1
    assert number == 8  # one piece for each sort of thing in a dump


def test_callbacks_must_not_use_the_heap(world: World) -> None:
    populate(world)
    examined = Examined(world, checked=True)
    native, statuses = examined.native, []

    @ffi().callback("lh_visitor")
    def visit(argument: Any, info: Any) -> int:
        statuses.append(native.lh_verify(native.heap))
        return 0

    @ffi().callback("lh_writer")
    def write(argument: Any, data: Any, size: int) -> int:
        statuses.append(native.lh_inc_ref(native.heap, 0))
        return 0

    assert native.lh_walk(native.heap, visit, ffi().NULL) == Status.OK
    assert native.lh_dump(native.heap, write, ffi().NULL) == Status.OK
    assert statuses == [Status.BUSY] * (7 + 8)
    assert examined.verify() is None


@pytest.mark.parametrize("name", ["lh_heap_statistics", "lh_walk", "lh_dump"])
def test_null_pointers_are_no_arguments(world: World, name: str) -> None:
    native = attach(world.store, checked=True)
    args = [ffi().NULL] * (1 if name == "lh_heap_statistics" else 2)
    assert getattr(native, name)(native.heap, *args) == Status.BAD_ARGUMENT
    assert getattr(native, name)(ffi().NULL, *args) == Status.BAD_ARGUMENT


def test_the_error_callback_is_told_of_corruption(world: World, examined: Examined) -> None:
    places = populate(world)
    told: list[tuple[int, str]] = []

    def on_error(argument: Any, status: int, message: Any) -> None:
        told.append((status, text_of(message)))

    heap: Any = ffi().cast("VMHeap *", examined.native.heap)
    callback: Any = ffi().callback("lh_on_error", on_error)
    heap.on_error = int(ffi().cast("uintptr_t", callback))
    header = world.store.heap.memory.view(VMDrcHeader, places["data"])
    header.ref_count += 1
    said = examined.verify()
    assert told == [(Status.CORRUPT, said)]
    header.ref_count -= 1
    assert examined.verify() is None
    assert len(told) == 1
    heap.on_error = 0


# ----------------------------------------------------------------------------------------------------------------------
# Reading dumps


def test_types_are_read_from_the_type_table(world: World, examined: Examined) -> None:
    types, store = world.store.engine.types, world.store
    field, non_null = lh.FieldType, lh.RefType(False, AbstractHeapType.STRUCT)
    base_fields = (field(I32, False), field(lh.RefType(True, 0), True))
    (base,) = types.register([lh.SubType(lh.StructType(base_fields), final=False)])
    storages: tuple[StorageType, ...] = (I16, F32, V128, I31REF, FUNCREF, NULLREF)
    more = tuple(field(each, number % 2 == 0) for number, each in enumerate(storages))
    derived, array = types.register(
        [
            lh.SubType(
                lh.StructType(
                    (base_fields[0], field(lh.RefType(True, 1), True), *more, field(lh.RefType(False, 2), False))
                ),
                supertype=1,
            ),
            lh.SubType(lh.ArrayType(field(non_null, True)), final=False),
        ],
        outer=(0, base),
    )
    (function,) = types.register([lh.SubType(lh.FuncType((ANYREF, I32, EXTERNREF), (F32,)))])
    for made in (
        store.alloc_struct(base),
        store.alloc_struct(derived),
        store.alloc_array(array, 2),
        store.alloc_exn(function),
    ):
        store.roots.create_handle(made)
    assert examined.verify() is None
    image, expected = examined.image(), store.snapshot()
    assert image.types.keys() == {base, derived, array, function}
    assert list(image.types.values()) == [without_names(each) for each in expected.types.values()]
    assert image.types[derived].supertypes == (base, derived)
    assert image.types[array].definition == "(sub (array (mut (ref struct))))"
    assert image.types[function].definition is None
    assert [label for label, _ in image.types[function].labelled_fields()] == [
        "tag_instance",
        "tag_defined",
        "0",
        "1",
        "2",
    ]
    assert diff(image, expected) == []


@functools.cache
def dump_of_a_heap() -> bytes:
    world = World()
    with world.store:
        populate(world)
        status, data = Examined(world, checked=True).dump()
        SLOT.value = NULL
    assert status == Status.OK
    return data


TYPES_START = ctypes.sizeof(VMDump) + ctypes.sizeof(VMHeapControl)


def test_what_is_no_dump_is_refused() -> None:
    data = dump_of_a_heap()
    header = VMDump.from_buffer_copy(data)
    assert read_dump(data).data == data[-header.heap_size :]

    def changed(field: str, value: int) -> bytes:
        made = VMDump.from_buffer_copy(data)
        setattr(made, field, value)
        return bytes(made) + data[ctypes.sizeof(VMDump) :]

    for number in range(8, ctypes.sizeof(VMDump)):
        with pytest.raises(ImageFormatError, match=f"cut short: it has {number} bytes, its header alone 88"):
            read_dump(data[:number])
    for end in (ctypes.sizeof(VMDump), TYPES_START, len(data) - 1):
        with pytest.raises(
            ImageFormatError, match=f"a heap dump cut short: it has {end} bytes, its header says {len(data)}"
        ):
            read_dump(data[:end])
    for refused, message in (
        (b"", "not a heap dump: it does not begin with"),
        (data[1:], "not a heap dump"),
        (data + b"\0", "with something behind it"),
        (changed("abi", 1), "a heap dump of another lowheap: the hash of its layouts is 0x1, of this one's 0x"),
        (changed("control_size", 16), "the control block in the heap dump has 16 bytes, not"),
        (changed("heap_size", 1 << 40), "a heap of 1099511627776 bytes; a heap has at most"),
        (changed("type_count", 1 << 60), "cut short"),
        (changed("heap_size", header.heap_size - 1), "with something behind it"),
    ):
        with pytest.raises(ImageFormatError, match=message):
            read_dump(refused)
    # Sizes that agree with the file's, but not with the control block.
    moved = VMDump.from_buffer_copy(data)
    moved.root_count -= 1
    moved.heap_size += ctypes.sizeof(VMDumpRoot)
    with pytest.raises(ImageFormatError, match="bytes of heap, and its control block says"):
        read_dump(bytes(moved) + data[ctypes.sizeof(VMDump) :])


def word_at(start: int, structure: type[ctypes.Structure], field: str, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        place = getattr(structure, field)
        data[start + place.offset : start + place.offset + place.size] = value.to_bytes(place.size, "little")

    return change


def field_info(number: int, field: str, value: int) -> Callable[[bytearray], None]:
    """A change to the description of a node's field."""

    def change(data: bytearray) -> None:
        header = VMDump.from_buffer_copy(data)
        info = VMTypeInfo.from_buffer_copy(data, TYPES_START)
        start = TYPES_START + header.type_count * ctypes.sizeof(VMTypeInfo) + info.fields_start * 4
        word_at(start + number * ctypes.sizeof(VMFieldInfo), VMFieldInfo, field, value)(data)

    return change


def root_kind(data: bytearray) -> None:
    header = VMDump.from_buffer_copy(data)
    start = len(data) - header.heap_size - header.root_count * ctypes.sizeof(VMDumpRoot)
    word_at(start, VMDumpRoot, "kind", 9)(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (word_at(TYPES_START, VMTypeInfo, "kind", 5), "type 0 has kind word 0x5, which is no kind"),
        (
            word_at(TYPES_START, VMTypeInfo, "element_size", 4),
            "type 0 has no elements, but says that they have 4 bytes",
        ),
        (word_at(TYPES_START + 128, VMTypeInfo, "field_count", 0), "array type 2 has 0 elements' descriptions, not 1"),
        (word_at(TYPES_START, VMTypeInfo, "fields_start", 1 << 20), "type 0 has 4 fields from word 1048576 on, of"),
        (field_info(0, "storage", 8), "field 0 of type 0 has storage 8; storages are 0 to 7"),
        (
            field_info(0, "heap_type", 0xFFFF_FFF0),
            "field 0 of type 0 refers to 0xfffffff0, which is neither a type nor",
        ),
    ],
)
def test_a_dump_with_a_type_that_makes_no_sense_is_read_without_it(
    change: Callable[[bytearray], None], message: str
) -> None:
    data = bytearray(dump_of_a_heap())
    before = read_dump(bytes(data)).types
    change(data)
    image = read_dump(bytes(data))
    assert len(image.types) == len(before) - 1
    assert any(message in problem for problem in inspect(image).problems), inspect(image).problems


def test_a_root_of_no_kind_is_refused() -> None:
    data = bytearray(dump_of_a_heap())
    root_kind(data)
    with pytest.raises(ImageFormatError, match="a root in the heap dump has kind 9; kinds are"):
        read_dump(bytes(data))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_dump_breaks_the_reader(data: st.DataObject) -> None:
    """Whatever is in a dump, reading and inspecting it ends in a result, or in an ImageFormatError."""
    damaged = bytearray(dump_of_a_heap())
    words = st.integers(0, 2**32 - 1) | st.integers(0, 64) | st.sampled_from([16, 32, 48, 0xFFFF_FF00, 0xFFFF_FFFF])
    places = st.integers(ctypes.sizeof(VMDump) // 4, len(damaged) // 4 - 1)
    for place, word in data.draw(st.dictionaries(places, words, min_size=1, max_size=8)).items():
        struct.pack_into("<I", damaged, place * 4, word)
    try:
        image = read_dump(bytes(damaged))
    except ImageFormatError:
        return
    inspect(image)
    assert Image.from_bytes(image.to_bytes()) == image


# ----------------------------------------------------------------------------------------------------------------------
# lowheap inspect


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(inspect_command, [str(each) for each in arguments])


def test_inspect_takes_a_dump_for_what_it_is(world: World, examined: Examined, tmp_path: Path) -> None:
    places = populate(world)
    world.link(places["array"], 2, places["first"])  # a cycle, once nobody else holds it
    dump, image = tmp_path / "heap.dump", tmp_path / "heap.img"
    dump.write_bytes(examined.dump()[1])
    world.store.snapshot().save(image)
    assert Image.load(dump) == examined.image()
    reports = [json.loads(invoke("--json", file).stdout) for file in (dump, image)]
    assert reports[0].pop("source") == "lowheap dump"
    assert reports[1].pop("source") == "lowheap"
    assert reports[0].pop("collector") is None, "a dump does not name it"
    assert reports[1].pop("collector") == "drc"
    names = {f"type {each.index}": each.label for each in world.store.snapshot().types.values()}
    for each in reports[0]["types"]:
        each["label"] = names.get(each["label"], each["label"])
    assert reports[0] == reports[1]
    assert reports[0]["objects"] == 7
    shown = invoke(dump)
    assert shown.exit_code == 0
    assert "sound" in shown.stdout
    picture = tmp_path / "map.png"
    assert invoke(dump, "--plot", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_inspect_finds_what_is_wrong_with_a_dumped_heap(world: World, examined: Examined, tmp_path: Path) -> None:
    places = populate(world)
    header = world.store.heap.memory.view(VMDrcHeader, places["data"])
    header.ref_count += 1
    dump = tmp_path / "heap.dump"
    dump.write_bytes(examined.dump()[1])
    header.ref_count -= 1
    result = invoke(dump)
    assert result.exit_code == 1
    assert "has count 3, but 2 owners" in result.stdout
    dump.write_bytes(dump.read_bytes()[:-1])
    refused = invoke(dump)
    assert isinstance(refused.exception, ImageFormatError)
    assert str(refused.exception).startswith(f"{dump}: a heap dump cut short")


def test_a_dump_needs_its_bump_pointer_within_the_capacity(world: World, examined: Examined) -> None:
    populate(world)
    control = world.store.heap.control
    bump = control.bump
    control.bump = control.capacity + 16
    status, data = examined.dump()
    assert (status, data) == (Status.CORRUPT, b"")
    assert "out of order" in examined.message()
    control.bump = bump
