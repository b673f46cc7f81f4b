"""Images: taking them, reading them, files, and comparing two."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.image_heaps import BYTES, MIXED, NODE, NODE_SIZE, REFERENCES, STEPS, TYPES, VECTORS, World

import lowheap as lh
from lowheap.collectors.shared.allocator import walk
from lowheap.layout import (
    ARRAY_HEADER_END,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    MINIMUM_OBJECT_BLOCK,
    Field,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcKind,
    block_length,
    i31_from_int,
)
from lowheap.peers import PROBE_WAT, Peer, run_probe
from lowheap.snapshot import (
    Difference,
    Image,
    ImageFormatError,
    diff,
    render_side_by_side,
    type_renaming,
    with_types_of,
)
from lowheap.snapshot import file as image_file
from lowheap.snapshot.contents import Contents
from lowheap.snapshot.inspection import inspect

EXTERNREF = len(TYPES)
EXTERNREF_END = VMDrcExternRef.host_data_id.offset + VMDrcExternRef.host_data_id.size


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.store:
        yield made


def small(world: World) -> tuple[int, int, int, int]:
    """Two nodes, an array of references, an array of bytes: linked, some on the list; and a hole between them."""
    first, hole, second = world.hold(NODE), world.hold(BYTES, 40), world.hold(NODE)
    array, data = world.hold(REFERENCES, 3), world.hold(BYTES, 5)
    world.link(first, 0, second)
    world.link(first, 1, array)
    world.link(array, 1, second)
    world.fill(first, 0x1122334455)
    world.fill(data, 0x0807060504030201)
    world.expose(first)
    world.expose(array)
    world.expose(second)
    assert hole
    world.release(1)
    return first, second, array, data


# ----------------------------------------------------------------------------------------------------------------------
# What an image holds


def test_an_image_says_what_the_heap_says(world: World) -> None:
    first, second, array, _ = small(world)
    world.hold(EXTERNREF)
    heap, image = world.store.heap, world.store.snapshot()
    assert [
        (each.index, each.kind, each.type_index, each.ref_count, each.size, each.is_listed, each.is_marked)
        for each in image.objects()
    ] == [dataclasses.astuple(each) for each in heap.objects()]
    assert list(image.blocks()) == list(walk(heap.control, heap.memory))
    assert image.free_blocks() == [each for each in walk(heap.control, heap.memory) if each.is_free] != []
    assert image.over_approximated_list() == list(heap.over_approximated_stack_roots()) == [second, array, first]
    for each in image.objects():
        assert each.references() == heap.references(each.index)
        assert each.data == heap.memory.read(each.index, each.size)
    assert image.object_at(array).length == 3
    assert [(root.kind, root.reference) for root in image.roots] == [("handle", each) for _, each in heap.handles()]
    assert image.control is not None
    assert image.control.objects_allocated == heap.stats().objects_allocated == 6
    assert image.control.allocator == "segregated-fit"
    assert image.data == heap.memory.read(0, heap.control.bump)


def test_an_image_does_not_change_with_the_heap(world: World) -> None:
    first, *_ = small(world)
    image = world.store.snapshot()
    before = image.to_bytes()
    world.link(first, 0, first)
    world.store.collect()
    assert image.to_bytes() == before
    assert world.store.snapshot() != image


def test_values_are_decoded(world: World) -> None:
    node, mixed, vectors, signed = world.hold(NODE), world.hold(MIXED), world.hold(VECTORS, 1), world.hold(BYTES, 2)
    memory, heap = world.store.heap.memory, world.store.heap
    offsets = [each.offset for each in heap.struct_layout(world.types[MIXED]).fields]
    memory.write(mixed + offsets[1], struct.pack("<d", -0.5))
    memory.write(mixed + offsets[2], (3).to_bytes(4, "little"))
    heap.slot(node, heap.struct_layout(world.types[NODE]).traced_offsets[0]).value = i31_from_int(-7)
    world.fill(node, 0xFF)
    world.fill(vectors, 0x0102030405060708)
    world.fill(signed, 0x80FE)
    image = world.store.snapshot()

    def texts(index: int) -> dict[str, str]:
        found = image.object_at(index)
        return {value.label: str(value) for value in (found.fields() or found.elements())}

    assert texts(node) == {"left": "i31 -7", "tag": "-1", "value": "255", "right": "null"}
    assert texts(mixed) == {"0": "null", "1": "-0.5", "2": "func 3"}
    assert texts(vectors) == {"0": "0x" + "0102030405060708" * 2}
    assert texts(signed) == {"0": "-2", "1": "-128"}
    assert [value.value for value in image.object_at(signed).elements()] == [-2, -128]
    assert image.object_at(node).label == "$node"
    assert image.object_at(node).references() == []


def test_types_have_the_offsets_of_the_heap(world: World) -> None:
    world.hold(NODE)
    world.hold(REFERENCES, 1)
    heap, image = world.store.heap, world.store.snapshot()
    node, references = image.types[world.types[NODE]], image.types[world.types[REFERENCES]]
    assert (node.name, node.definition) == ("node", str(lh.SubType(TYPES[NODE])))
    layout = heap.struct_layout(world.types[NODE])
    assert node.size_or_elements_offset == layout.size
    assert node.traced_offsets == layout.traced_offsets
    assert node.fields is not None
    assert [(each.offset, each.size, each.is_traced) for each in node.fields] == [
        (each.offset, each.size, each.is_traced) for each in layout.fields
    ]
    assert [each.storage for each in node.fields] == ["anyref", "i8", "i64", "anyref"]
    assert [each.name for each in node.fields] == ["left", "tag", "value", "right"]
    assert references.elements_are_traced
    assert references.element.offset == heap.array_layout(world.types[REFERENCES]).elements_offset
    assert node.supertypes == (world.types[NODE],)
    assert world.types[BYTES] not in image.types  # the heap has had no object of it


def test_subtypes_know_their_chain() -> None:
    engine = lh.Engine()
    field = lh.FieldType(lh.RefType(True, 0), True)
    above, below = engine.types.register(
        [
            lh.SubType(lh.StructType((field,)), final=False),
            lh.SubType(lh.StructType((field, field)), supertype=0),
        ]
    )
    with lh.Store(engine) as store:
        handle = lh.Struct(store, below)
        image = store.snapshot()
        assert image.types[below].supertypes == (above, below)
        assert image.object_at(handle.reference).label == f"type {below}"


def test_an_exception_shows_its_tag() -> None:
    engine = lh.Engine()
    with lh.Store(engine) as store:
        tag = lh.Tag(store, lh.FuncType((lh.types.I32, lh.types.ANYREF, lh.types.V128), ()))
        error = lh.WasmException(tag, (-1, lh.I31(3), 7 << 64 | 8))
        image = store.snapshot()
        assert error.exnref.is_valid
    for each in (image, Image.from_bytes(image.to_bytes())):
        (found,) = each.objects()
        assert found.kind is VMGcKind.EXN_REF
        assert [(value.label, str(value)) for value in found.fields()] == [
            ("tag_instance", str(tag.words[0])),
            ("tag_defined", str(tag.words[1])),
            ("0", "-1"),
            ("1", "i31 3"),
            ("2", "0x00000000000000070000000000000008"),
        ]
        assert [type.kind for type in inspect(each).types] == ["exception"]


def test_what_is_no_object(world: World) -> None:
    first, *_ = small(world)
    image = world.store.snapshot()
    free = image.free_blocks()[-1]
    for index in (0, 8, first + 8, free.index, len(image.data), len(image.data) + 16, 1 << 31):
        with pytest.raises(lh.HeapCorruptionError, match="does not name an object"):
            image.object_at(index)


def test_wasm_frames_are_roots() -> None:
    store = lh.Store()
    module = lh.Module(
        store.engine,
        """(module (import "" "look" (func $look))
             (type $box (struct (field i32)))
             (func (export "run") (result i32) (local $b (ref $box))
               (local.set $b (struct.new $box (i32.const 7))) (call $look) (struct.get $box 0 (local.get $b))))""",
    )
    images: list[Image] = []
    instance = lh.Instance(store, module, {"": {"look": lambda: images.append(store.snapshot())}})
    assert instance.exports["run"]() == 7
    (image,) = images
    (found,) = image.objects()
    assert [(root.kind, root.reference) for root in image.roots] == [("wasm stack", found.index)]
    assert inspect(image).problems == ()
    store.close()
    with pytest.raises(lh.HeapError):
        store.snapshot()


# ----------------------------------------------------------------------------------------------------------------------
# Files


def test_a_file_brings_everything_back(world: World, tmp_path: Path) -> None:
    small(world)
    world.hold(EXTERNREF)
    image = world.store.snapshot()
    image.save(tmp_path / "heap.img")
    again = Image.load(tmp_path / "heap.img")
    assert again == image
    assert [list(map(str, each.fields())) for each in again.objects()] == [
        list(map(str, each.fields())) for each in image.objects()
    ]


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_every_image_survives_a_file(steps: list[tuple[str, int, int, int]]) -> None:
    world = World()
    with world.store:
        world.run(steps)
        image = world.store.snapshot()
        assert Image.from_bytes(image.to_bytes()) == image
        raw = wasmtime_like(image, world.store)
        assert Image.from_bytes(raw.to_bytes()) == raw


def an_image() -> Image:
    world = World()
    with world.store:
        small(world)
        world.hold(EXTERNREF)
        return world.store.snapshot()


IMAGE = an_image()
FILE = IMAGE.to_bytes()


def test_the_file_header_is_as_documented() -> None:
    magic, version, reserved, metadata, compressed, heap, _ = struct.unpack_from("<8sIIQQQ32s", FILE)
    assert (magic, version, reserved, heap) == (b"\x89lowheap", 1, 0, len(IMAGE.data))
    assert ctypes.sizeof(image_file.FileHeader) == 72
    assert len(FILE) == 72 + metadata + compressed
    assert set(json.loads(FILE[72 : 72 + metadata])) == {each.name for each in dataclasses.fields(Contents)} - {
        "data",
        "parts",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with"),
        (b"\x00asm", "does not begin with"),
        (FILE[:20], "cut short"),
        (FILE[:71], "cut short"),
        (FILE[:-1], "cut short"),
        (FILE + b"\0", "something behind it"),
        (FILE[:8] + b"\2\0\0\0" + FILE[12:], "version 2"),
        (FILE[:12] + b"\1" + FILE[13:], "damaged"),
        (FILE[:-1] + bytes([FILE[-1] ^ 1]), "damaged"),
        (FILE[:100] + bytes([FILE[100] ^ 0x20]) + FILE[101:], "damaged"),
    ],
)
def test_what_is_not_an_image(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match=message):
        Image.from_bytes(data)
    (tmp_path / "bad.img").write_bytes(data)
    with pytest.raises(ImageFormatError, match=r"bad\.img: "):
        Image.load(tmp_path / "bad.img")


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_no_flipped_bit_goes_unseen(position: int, flip: int) -> None:
    damaged = bytearray(FILE)
    damaged[position] ^= flip
    with pytest.raises(ImageFormatError):
        Image.from_bytes(bytes(damaged))


@given(st.integers(0, len(FILE) - 1))
def test_no_cut_goes_unseen(length: int) -> None:
    with pytest.raises(ImageFormatError):
        Image.from_bytes(FILE[:length])


@given(st.binary(max_size=300))
def test_garbage_behind_the_magic(data: bytes) -> None:
    for whole in (data, image_file.MAGIC + data):
        with pytest.raises(ImageFormatError):
            Image.from_bytes(whole)


def resealed(start: bytes, payload: bytes) -> bytes:
    """A file whose checksum is right, whatever is in it."""
    return start + image_file._checksum(start, payload) + payload


def test_a_bomb_does_not_go_off() -> None:
    """The heap's declared length bounds what is decompressed."""
    import zlib

    bomb, metadata = zlib.compress(bytes(1 << 24)), b"{}"
    for declared in (16, (1 << 24) - 1, (1 << 24) + 1, (1 << 63)):
        start = struct.pack("<8sIIQQQ", image_file.MAGIC, 1, 0, len(metadata), len(bomb), declared)
        with pytest.raises(ImageFormatError, match=r"decompress|at most"):
            Image.from_bytes(resealed(start, metadata + bomb))
    start = struct.pack("<8sIIQQQ", image_file.MAGIC, 1, 0, 2, 4, 16)
    with pytest.raises(ImageFormatError, match="cannot be decompressed"):
        Image.from_bytes(resealed(start, b"{}none"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_metadata_of_any_form(metadata: Any) -> None:
    with pytest.raises(ImageFormatError):
        Image.from_bytes(image_file.assemble(json.dumps(metadata).encode(), bytes(16)))


@pytest.mark.parametrize("metadata", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5_000, b'"\\ud800"'])
def test_metadata_that_is_not_json(metadata: bytes) -> None:
    with pytest.raises(ImageFormatError):
        Image.from_bytes(image_file.assemble(metadata, bytes(16)))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, member in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(member, (*path, key))


METADATA = json.loads(FILE[72 : 72 + struct.unpack_from("<Q", FILE, 16)[0]])
PATHS = list(paths(METADATA))


def look_at_everything(image: Image) -> None:
    """Whatever is in an image, looking at it ends in a result, or in HeapCorruptionError."""
    inspection = inspect(image)
    inspection.to_json()
    inspection.render()
    try:
        for found in image.objects():
            list(map(str, [*found.fields(), *found.elements()]))
            found.references()
        diff(image, IMAGE)
        diff(IMAGE, image)
        render_side_by_side(IMAGE, image)
        with_types_of(image, IMAGE)
    except lh.HeapCorruptionError:
        assert inspection.problems or not image.is_walkable


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PATHS), JSON | st.integers(0, 2**32 - 1) | st.sampled_from(["remove"]))
def test_metadata_changed_in_one_place(path: tuple[Any, ...], value: Any) -> None:
    changed = json.loads(json.dumps(METADATA))
    if path:
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if value == "remove" and isinstance(holder, dict):
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    else:
        changed = value
    try:
        image = Image.from_bytes(image_file.assemble(json.dumps(changed).encode(), IMAGE.data))
    except ImageFormatError:
        return
    look_at_everything(image)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(IMAGE.data) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_heap_bytes_changed_anywhere(changes: list[tuple[int, int]]) -> None:
    data = bytearray(IMAGE.data)
    for position, value in changes:
        data[position] = value
    look_at_everything(dataclasses.replace(IMAGE, data=bytes(data)))
    look_at_everything(Image.from_wasmtime(bytes(data)))
    look_at_everything(Image.from_wasmtime(bytes(data), types=IMAGE.types, known=[16]))
    look_at_everything(Image.from_wasmtime(bytes(data), free_blocks=[(b.index, b.length) for b in IMAGE.free_blocks()]))


def test_a_snapshot_of_a_broken_heap(world: World) -> None:
    first, *_ = small(world)
    world.store.heap.memory.view(VMDrcHeader, first).object_size = 7
    image = world.store.heap.snapshot()
    assert inspect(Image.from_bytes(image.to_bytes())).problems == (
        f"object at {first:#x} claims 16 bytes; the bump pointer is at {image.end:#x}",
    )


# ----------------------------------------------------------------------------------------------------------------------
# Differences


def injected(world: World, change: Callable[[World], None]) -> list[Difference]:
    """The differences between the heap before and after a change."""
    before = world.store.snapshot()
    change(world)
    after = world.store.heap.snapshot()
    differences = diff(before, after)
    assert [(each.index, each.what, each.right, each.left) for each in diff(after, before)] == [
        (each.index, each.what, each.left, each.right) for each in differences
    ]
    return differences


def header(world: World, index: int) -> VMDrcHeader:
    return world.store.heap.memory.view(VMDrcHeader, index)


def test_a_count_off_by_one(world: World) -> None:
    first, *_ = small(world)

    def change(world: World) -> None:
        header(world, first).ref_count += 1

    (found,) = injected(world, change)
    assert found == Difference(first, "count", 2, 3)
    assert str(found) == f"{first:#x}: count is 2 on the left, 3 on the right"


def test_a_size(world: World) -> None:
    *_, data = small(world)

    def change(world: World) -> None:
        header(world, data).object_size += 1  # within the same block

    assert injected(world, change) == [Difference(data, "size", ARRAY_HEADER_END + 5, ARRAY_HEADER_END + 6)]


def test_a_length(world: World) -> None:
    *_, data = small(world)

    def change(world: World) -> None:
        world.store.heap.memory.view(VMDrcArrayHeader, data).length = 4

    assert injected(world, change) == [Difference(data, "length", 5, 4)]


def test_header_bits(world: World) -> None:
    first, second, *_ = small(world)

    def change(world: World) -> None:
        header(world, first).kind_and_reserved |= HEADER_MARK_BIT
        header(world, second).kind_and_reserved |= 1 << 7

    assert injected(world, change) == [
        Difference(first, "header bits", "listed", "listed and marked"),
        Difference(second, "header bits", "listed", "listed and 0x80"),
    ]


def test_a_kind(world: World) -> None:
    first, *_ = small(world)

    def change(world: World) -> None:
        found = header(world, first)
        found.kind_and_reserved = VMGcKind.EXN_REF | HEADER_IN_OVER_APPROX_LIST_BIT

    assert injected(world, change) == [Difference(first, "kind", "struct", "exception")]


def test_a_type(world: World) -> None:
    """The second of two nodes has another type: where the first has taught the renaming, that is a conflict."""
    _, second, *_ = small(world)
    world.hold(MIXED)

    def change(world: World) -> None:
        header(world, second).type_index = world.types[MIXED]

    (found,) = injected(world, change)
    assert (found.index, found.what) == (second, "type")
    assert str(found.right) == f"type {world.types[MIXED]}"
    assert str(found.left) == "$node (elsewhere $node on the other side)"


def test_a_dropped_list_link(world: World) -> None:
    first, second, array, _ = small(world)

    def change(world: World) -> None:
        header(world, second).next_over_approximated_stack_root = first

    assert injected(world, change) == [
        Difference(
            None,
            "the list from position 1 on",
            f"{array:#x} → {first:#x} → end",
            f"{first:#x} → end",
        )
    ]


def test_a_list_that_leads_nowhere(world: World) -> None:
    first, *_ = small(world)

    def change(world: World) -> None:
        header(world, first).next_over_approximated_stack_root = FIRST_INDEX + 16

    (found,) = injected(world, change)
    assert (found.index, found.what) == (None, "the list")
    assert "where no object starts" in str(found.right)


def test_fields_and_elements(world: World) -> None:
    first, second, array, data = small(world)

    def change(world: World) -> None:
        memory, heap = world.store.heap.memory, world.store.heap
        left, tag, value, _ = (each.offset for each in heap.struct_layout(world.types[NODE]).fields)
        memory.write(first + left, bytes(4))
        memory.write(first + tag, b"\xff")
        memory.write(first + value, bytes(8))
        memory.write(array + heap.array_layout(world.types[REFERENCES]).element_offset(2), second.to_bytes(4, "little"))
        memory.write(data + heap.array_layout(world.types[BYTES]).element_offset(4), b"\x80")

    assert injected(world, change) == [
        Difference(first, "field left", f"{second:#x}", "null"),
        Difference(first, "field tag", str(0x55), "-1"),
        Difference(first, "field value", str(0x1122334455), "0"),
        Difference(array, "element 2", "null", f"{second:#x}"),
        Difference(data, "element 4", "5", "-128"),
    ]


def test_many_elements_are_counted(world: World) -> None:
    data = world.hold(BYTES, 100)
    differences = injected(world, lambda world: world.fill(data, 0x0101010101010101))
    assert [each.what for each in differences] == [*(f"element {n}" for n in range(8)), "the rest of the elements"]
    assert differences[-1].left == "92 more that differ"


def test_an_object_that_one_side_has_not(world: World) -> None:
    *_, data = small(world)
    (found,) = injected(world, lambda world: world.release(4))
    assert (found.index, found.what, found.right) == (data, "object", None)
    assert found.left == f"array type {world.types[BYTES]} of {ARRAY_HEADER_END + 5} bytes with count 1"
    assert str(found).endswith("on the left, nothing on the right")


def test_padding_is_not_compared(world: World) -> None:
    first, _, array, data = small(world)
    vectors, extern = world.hold(VECTORS, 1), world.hold(EXTERNREF)

    def change(world: World) -> None:
        memory, heap = world.store.heap.memory, world.store.heap
        tag = heap.struct_layout(world.types[NODE]).fields[1].offset
        memory.write(first + tag + 1, b"\xaa" * 3)
        elements = heap.array_layout(world.types[VECTORS]).elements_offset
        unused = ((vectors, ARRAY_HEADER_END, elements), (extern, EXTERNREF_END, ctypes.sizeof(VMDrcExternRef)))
        for index, start, end in unused:
            assert start < end
            memory.write(index + start, b"\xaa" * (end - start))
        size = heap.object_size(data)
        assert size < block_length(size)
        memory.write(data + size, b"\xaa" * (block_length(size) - size))
        header(world, data).next_over_approximated_stack_root = array  # it is not listed

    assert injected(world, change) == []


def test_layouts_of_types_that_meet(world: World) -> None:
    small(world)
    image = world.store.snapshot()
    node = image.types[world.types[NODE]]
    wrong = dataclasses.replace(node, traced_offsets=node.traced_offsets[:1])
    (found,) = diff(image, dataclasses.replace(image, types={**image.types, node.index: wrong}))
    assert found.what == "type layout"
    assert found.index == FIRST_INDEX
    layout = world.store.heap.struct_layout(node.index)
    places = [field.offset for field in layout.fields]
    fields = ", ".join(map(str, places))
    assert str(found.left) == f"$node: {layout.size} bytes, traced offsets {places[0]}, {places[3]}, fields at {fields}"
    assert f"traced offsets {places[0]}, fields" in str(found.right)


def test_ids_are_compared_up_to_a_renaming(world: World) -> None:
    """Host data and functions have ids that tables outside of the heap gave out."""
    one, two, three = (world.hold(MIXED) for _ in range(3))
    place = world.store.heap.struct_layout(world.types[MIXED]).fields[2].offset
    extern = world.hold(EXTERNREF), world.hold(EXTERNREF)

    def write(functions: tuple[int, int, int], host_data: tuple[int, int]) -> Image:
        memory = world.store.heap.memory
        for index, function in zip((one, two, three), functions, strict=True):
            memory.write(index + place, function.to_bytes(4, "little"))
        for index, number in zip(extern, host_data, strict=True):
            memory.write(index + VMDrcExternRef.host_data_id.offset, number.to_bytes(4, "little"))
        return world.store.heap.snapshot()

    image = write((0, 5, 5), (0, 1))
    assert diff(image, write((7, 0, 0), (1, 0))) == []
    assert diff(image, write((7, 0, 1), (0, 1))) == [Difference(three, "field 2", "func 5", "func 1")]
    assert diff(image, write((7, 7, 7), (0, 1)))[0] == Difference(two, "field 2", "func 5", "func 7")
    assert diff(image, write((0, 5, 5), (1, 1))) == [Difference(extern[1], "field host_data_id", "1", "1")]


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 5), st.integers(0, 5))
def test_equal_heaps_have_no_differences(steps: list[tuple[str, int, int, int]], left: int, right: int) -> None:
    worlds = World(left), World(right)
    with worlds[0].store, worlds[1].store:
        images = []
        for world in worlds:
            world.run(steps)
            world.store.verify()
            images.append(world.store.snapshot())
        assert diff(*images) == []
        for image in images:
            assert inspect(image).problems == ()
        renaming = type_renaming(*images)
        assert {a: b for a, b in renaming.items() if a != 0xFFFF_FFFF} == {
            a: b for a, b in zip(worlds[0].types, worlds[1].types, strict=True) if a in renaming
        }
        # The same, as wasmtime's bytes would show it.
        raw = wasmtime_like(images[1], worlds[1].store)
        assert diff(images[0], raw) == []
        assert diff(raw, images[0]) == []
        typed = with_types_of(raw, images[0])
        assert {found.index for found in typed.objects()} == {found.index for found in images[0].objects()}
        with_free = dataclasses.replace(raw, free=wasmtime_free_blocks(images[1], len(raw.data)))
        assert diff(images[0], with_free) == []


@settings(max_examples=60, deadline=None)
@given(STEPS, st.data())
def test_a_changed_byte_of_a_live_object_is_found(steps: list[tuple[str, int, int, int]], data: st.DataObject) -> None:
    """Whatever byte that is no padding: header, length, a field, an element."""
    world = World()
    with world.store:
        world.run(steps)
        world.hold(NODE)
        image = world.store.snapshot()
        positions = [position for found in image.objects() for position in meaningful_bytes(found)]
        position = data.draw(st.sampled_from(positions))
        flip = data.draw(st.integers(1, 255))
        changed = bytearray(image.data)
        changed[position] ^= flip
        other = dataclasses.replace(image, data=bytes(changed))
        try:
            differences = diff(image, other)
        except lh.HeapCorruptionError:
            assert inspect(other).problems
        else:
            assert differences


def meaningful_bytes(found: Any) -> Iterator[int]:
    """Positions of an object's bytes that mean something; ids and the links and types of unlisted loners do not."""
    words = [VMDrcHeader.kind_and_reserved, VMDrcHeader.ref_count, VMDrcHeader.object_size]
    if found.is_listed:
        words.append(VMDrcHeader.next_over_approximated_stack_root)
    if found.length is not None:
        words.append(VMDrcArrayHeader.length)
    for word in words:
        yield from range(found.index + word.offset, found.index + word.offset + word.size)
    for value in found.fields():
        if not value.field.is_opaque_id:
            yield from range(found.index + value.field.offset, found.index + value.field.offset + value.field.size)
    if found.length:
        element = found.type.element
        yield from range(found.index + element.offset, found.index + found.size)


# ----------------------------------------------------------------------------------------------------------------------
# wasmtime's images


def wasmtime_free_blocks(image: Image, length: int) -> tuple[Any, ...]:
    """The free blocks as wasmtime's list would have them: what is behind the bump pointer too."""
    from lowheap.collectors.shared.allocator import Block

    behind = (Block(image.end, (length - image.end) & -16, is_free=True),)
    return (*image.free_blocks(), *behind)


def wasmtime_like(image: Image, store: lh.Store, stale: int = NODE_SIZE) -> Image:
    """The image as a copy of a wasmtime mapping would be: no control block, and stale headers where blocks are free."""
    data = bytearray(image.data) + bytes(4096)
    for block in image.free_blocks():
        if block.length >= MINIMUM_OBJECT_BLOCK:
            dead = VMDrcHeader()
            dead.kind_and_reserved = VMGcKind.STRUCT_REF
            dead.object_size = min(stale, block.length)
            data[block.index : block.index + HEADER_SIZE] = bytes(dead)
        else:
            data[block.index : block.index + 16] = bytes(16)
    assert store is not None
    return Image.from_wasmtime(bytes(data), list_head=image.list_head)


def set_word(data: bytearray, index: int, word: Field, value: int) -> None:
    """Write a word of the header of the object at `index`."""
    place = index + word.offset
    data[place : place + word.size] = value.to_bytes(word.size, "little")


def test_a_wasmtime_image_is_followed(world: World) -> None:
    first, second, array, data = small(world)
    image = world.store.snapshot()
    raw = wasmtime_like(image, world.store)
    assert {found.index: found.is_confirmed for found in raw.objects()} == {
        first: True,  # listed
        second: True,
        array: True,
        data: False,  # only a handle holds it, which no byte tells
    }
    assert raw.over_approximated_list() == [second, array, first]
    assert dataclasses.replace(raw, list_head=None).over_approximated_list() == [second, array, first]
    assert [block.index for block in raw.blocks()] == [first, second, array, data]
    assert not raw.is_walkable
    known = Image.from_wasmtime(raw.data, known=[data])
    assert known.object_at(data).ref_count == 1
    assert all(found.is_confirmed for found in known.objects())


def test_a_wasmtime_image_with_types_is_read_like_ours(world: World) -> None:
    first, second, array, _ = small(world)
    image = world.store.snapshot()
    other = World(shift=3)
    with other.store:
        small(other)
        raw = wasmtime_like(other.store.snapshot(), other.store)
        assert raw.object_at(first).fields() == []
        typed = with_types_of(raw, image)
        assert [str(value) for value in typed.object_at(first).fields()] == [
            str(value) for value in image.object_at(first).fields()
        ]
        assert typed.object_at(first).label == "$node"
        assert typed.object_at(first).references() == [second, array]
        assert set(typed.types) == {other.types[kind] for kind in (NODE, REFERENCES, BYTES)}
        assert type_renaming(image, raw)[world.types[NODE]] == other.types[NODE]


def test_an_extra_object_of_wasmtime(world: World) -> None:
    """One that is listed or held is reported; one that merely looks like an object only when asked for."""
    first, *_ = small(world)
    image = world.store.snapshot()
    hole = next(each for each in image.free_blocks() if each.length == block_length(NODE_SIZE))
    extra = VMDrcHeader(ref_count=1, object_size=hole.length)
    extra.kind_and_reserved = VMGcKind.STRUCT_REF
    extra.type_index = 77
    raw = wasmtime_like(image, world.store)
    data = bytearray(raw.data)
    data[hole.index : hole.index + HEADER_SIZE] = bytes(extra)
    leaked = dataclasses.replace(raw, data=bytes(data))
    assert diff(image, leaked) == []
    (found,) = diff(image, leaked, include_unconfirmed=True)
    assert (found.index, found.what, found.left) == (hole.index, "possible extra object", None)
    assert found.right == f"struct type 77 of {hole.length} bytes with count 1"
    # An element of the array refers to it: then it is confirmed, and so is the difference in that element.
    left = image.object_at(first).fields()[0].field.offset
    data[first + left : first + left + 4] = hole.index.to_bytes(4, "little")
    held = diff(image, dataclasses.replace(raw, data=bytes(data)))
    assert [(each.index, each.what) for each in held] == [(first, "field left"), (hole.index, "possible extra object")]
    extra.ref_count = 0
    data[hole.index : hole.index + HEADER_SIZE] = bytes(extra)
    assert [each.what for each in diff(image, dataclasses.replace(raw, data=bytes(data)))] == ["field left"]


def test_an_object_that_wasmtime_has_freed(world: World) -> None:
    *_, data = small(world)
    raw = bytearray(wasmtime_like(world.store.snapshot(), world.store).data)
    set_word(raw, data, VMDrcHeader.ref_count, 0)
    freed = Image.from_wasmtime(bytes(raw))
    (found,) = diff(world.store.snapshot(), freed)
    assert (found.index, found.what, found.right) == (data, "object", "a freed object")


def test_a_list_whose_order_cannot_be_told(world: World) -> None:
    first, second, array, _ = small(world)
    data = bytearray(world.store.snapshot().data)
    set_word(data, second, VMDrcHeader.next_over_approximated_stack_root, first)  # nothing leads to the array any more
    raw = Image.from_wasmtime(bytes(data))
    with pytest.raises(lh.HeapCorruptionError, match=f"these could be the first: {second:#x}, {array:#x}"):
        raw.over_approximated_list()
    (found,) = diff(world.store.snapshot(), raw)
    assert found.what == "the list"
    set_word(data, first, VMDrcHeader.next_over_approximated_stack_root, second)
    with pytest.raises(lh.HeapCorruptionError, match="cannot be told"):
        Image.from_wasmtime(bytes(data)).over_approximated_list()


def test_two_images_without_types(world: World) -> None:
    """Where nobody knows the types, all bytes behind the header count."""
    first, *_ = small(world)
    raw = wasmtime_like(world.store.snapshot(), world.store)
    data = bytearray(raw.data)
    data[first + HEADER_SIZE + 9] ^= 0xFF
    (found,) = diff(raw, dataclasses.replace(raw, data=bytes(data)))
    assert (found.index, found.what) == (first, f"bytes at +{HEADER_SIZE + 8}")
    assert diff(raw, raw) == []


def test_arguments_of_from_wasmtime() -> None:
    for index in (0, 8, 24, 64):
        with pytest.raises(ValueError, match="not an index"):
            Image.from_wasmtime(bytes(64), known=[index])
    empty = Image.from_wasmtime(b"")
    assert list(empty.objects()) == []
    assert empty.over_approximated_list() == []
    assert inspect(empty).objects == 0


PROGRAM = """(module
  (type $node (struct (field $left (mut (ref null $node))) (field $tag i8) (field $code funcref) (field $value i64)))
  (type $nodes (array (mut (ref null any))))
  (type $bytes (array (mut i8)))
  (global $list (mut (ref null $node)) (ref.null $node))
  (global $array (mut (ref null $nodes)) (ref.null $nodes))
  (func $code (export "code"))
  (func (export "make") (param $n i32)
    (global.set $array (array.new_default $nodes (local.get $n)))
    (loop $next
      (global.set $list (struct.new $node
        (global.get $list) (local.get $n) (ref.func $code) (i64.extend_i32_s (local.get $n))))
      (array.set $nodes (global.get $array) (i32.sub (local.get $n) (i32.const 1)) (global.get $list))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (array.set $nodes (global.get $array) (i32.const 0) (array.new $bytes (i32.const -1) (i32.const 21)))
    (array.set $nodes (global.get $array) (i32.const 1) (ref.i31 (i32.const 5))))
  (func (export "cut") (global.set $list (struct.get $node $left (global.get $list)))))"""


@pytest.mark.parametrize("version", ["37.0.0", "43.0.0"])
def test_a_live_wasmtime(version: str) -> None:
    """The same program there: the same objects, decoded with our types; what is changed on one side is seen."""
    engine = lh.Engine(runtime="python")
    with Peer(version, PROGRAM) as peer, lh.Store(engine, allocator="first-fit") as store:
        probe = lh.Instance(store, lh.Module(engine, PROBE_WAT))
        run_probe(lambda name, *arguments: probe.exports[name](*arguments), store.collect, peer.marks)
        exports = lh.Instance(store, lh.Module(engine, PROGRAM)).exports

        def images() -> tuple[Image, Image]:
            taken = peer.image()
            theirs = Image.from_wasmtime(taken.data, source=taken.source, known=taken.probe, list_head=taken.list_head)
            return store.snapshot(), theirs

        def both(name: str, *arguments: int) -> None:
            peer.call(name, *arguments)
            exports[name](*arguments)

        def collect() -> None:
            peer.collect()
            store.collect()

        steps: tuple[Callable[[], None], ...] = (
            lambda: both("make", 6),
            collect,
            lambda: both("cut"),
            lambda: both("make", 40),
            collect,
        )
        for step in steps:
            step()
            ours, theirs = images()
            assert diff(ours, theirs, include_unconfirmed=True) == []
            assert diff(theirs, ours, include_unconfirmed=True) == []
            assert len(ours.over_approximated_list()) == sum(found.is_listed for found in theirs.objects())
            unaided = dataclasses.replace(theirs, list_head=None)
            assert unaided.over_approximated_list() == ours.over_approximated_list()
        typed = with_types_of(theirs, ours)
        assert inspect(typed).problems == ()
        assert {found.index: list(map(str, found.elements())) for found in typed.objects()} == {
            found.index: list(map(str, found.elements())) for found in ours.objects()
        }
        exports["cut"]()
        assert {each.what for each in diff(*images())} >= {"count"}


def test_free_blocks_that_do_not_fit(world: World) -> None:
    small(world)
    raw = wasmtime_like(world.store.snapshot(), world.store)
    with pytest.raises(lh.HeapCorruptionError, match="claims"):
        list(dataclasses.replace(raw, free=()).blocks())


# ----------------------------------------------------------------------------------------------------------------------
# Side by side


def side_by_side(left: Image, right: Image, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(render_side_by_side(left, right, **options))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_side_by_side(world: World) -> None:
    first, second, array, _ = small(world)
    before = world.store.snapshot()
    world.link(first, 0, first)
    after = dataclasses.replace(world.store.snapshot(), source="after\x1b[31m")
    text = side_by_side(before, after)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert [f"{first:#x}", *[f"struct $node, count 3, {NODE_SIZE} bytes, listed"] * 2] != rows[0]
    assert rows[0] == [
        f"{first:#x}",
        f"struct $node, count 2, {NODE_SIZE} bytes, listed",
        "≠",
        f"struct $node, count 3, {NODE_SIZE} bytes, listed",
    ]
    assert ["", f"left = {second:#x}", "≠", f"left = {first:#x}"] in rows
    assert ["", "value = 73588229205", "", "value = 73588229205"] in rows
    order = f"{second:#x} → {array:#x} → {first:#x} → end"
    assert rows[-1] == ["list", order, "", order]
    assert text.startswith("3 differences")
    assert "\x1b" not in text
    short = side_by_side(before, after, only_differences=True)
    assert f"{array:#x}  " not in short.split("list")[0].replace("→", "")
    assert "(2 more objects)" in side_by_side(before, after, limit=2)
    assert side_by_side(before, before).startswith("no differences")


def test_side_by_side_of_arrays(world: World) -> None:
    data = world.hold(BYTES, 30)
    before = world.store.snapshot()
    place = data + world.store.heap.array_layout(world.types[BYTES]).element_offset(20)
    world.store.heap.memory.write(place, b"\x07")
    text = side_by_side(before, world.store.snapshot(), elements=2)
    assert "│   … 28 more elements " in text
    assert any("element 20 = 0" in line and "≠" in line and "element 20 = 7" in line for line in text.splitlines())
