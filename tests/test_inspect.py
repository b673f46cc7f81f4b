"""Inspecting images: verification, figures, garbage, the picture, and `lowheap inspect`."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.image_heaps import BYTES, MIXED, NODE, NODE_SIZE, REFERENCES, STEPS, TYPES, VECTORS, World

import lowheap as lh
from lowheap import cli
from lowheap.cli.inspect import inspect_command
from lowheap.collectors.rc_immix import RcImmix
from lowheap.collectors.shared.lines import LineState
from lowheap.layout import GcTypeLayouts, VMDrcExternRef, VMDrcHeader, VMGcKind, block_length
from lowheap.snapshot import Image, ImageObject
from lowheap.snapshot.inspection import inspect, strongly_connected_components, verify

EXTERNREF = len(TYPES)
NODE_BLOCK = block_length(NODE_SIZE)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.store:
        yield made


def drop_all(world: World) -> None:
    for name in list(world.handles):
        world.release(name)


# ----------------------------------------------------------------------------------------------------------------------
# Figures


def test_figures(world: World) -> None:
    first, second, array, _data = world.hold(NODE), world.hold(NODE), world.hold(REFERENCES, 3), world.hold(BYTES, 100)
    world.hold(EXTERNREF)
    before = inspect(world.store.snapshot()).free  # small blocks are carved several at a time
    layouts = GcTypeLayouts()
    array_size, data_size = layouts.array_layout((4, True)).size(3), layouts.array_layout((1, False)).size(100)
    external = ctypes.sizeof(VMDrcExternRef)
    for name in (1, 3):
        world.release(name)
    world.expose(first)
    world.link(array, 0, first)
    inspection = inspect(world.store.snapshot())
    assert inspection.problems == ()
    assert [(each.label, each.kind, each.objects, each.size, each.block_bytes) for each in inspection.types] == [
        ("$node", "struct", 1, NODE_SIZE, NODE_BLOCK),
        (f"type {world.types[REFERENCES]}", "array", 1, array_size, block_length(array_size)),
        ("externref", "externref", 1, external, block_length(external)),
    ]
    assert (inspection.objects, inspection.block_bytes) == (
        3,
        sum(map(block_length, (NODE_SIZE, array_size, external))),
    )
    free = inspection.free
    assert (free.blocks, free.size) == (before.blocks + 2, before.size + NODE_BLOCK + block_length(data_size))
    assert (free.largest, free.fragmentation) == (
        max(before.largest, block_length(data_size)),
        pytest.approx(1 - free.largest / free.size),
    )
    assert free.largest <= free.largest_merged <= free.size
    control = world.store.heap.control
    assert inspection.free.beyond == control.bump_end - control.bump
    assert inspection.listed == (first,)
    assert inspection.counts == {1: 2, 3: 1}
    assert second not in {found.index for found in inspection.image.objects()}
    assert inspection.garbage is not None
    assert len(inspection.garbage) == 0


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_figures_are_the_heaps(steps: list[tuple[str, int, int, int]]) -> None:
    world = World()
    with world.store:
        world.run(steps)
        inspection, figures = inspect(world.store.snapshot()), world.store.heap.stats()
        assert inspection.problems == ()
        assert (inspection.objects, inspection.block_bytes) == (figures.live_objects, figures.live_bytes)
        assert len(inspection.listed) == figures.listed
        assert sum(inspection.counts.values()) == figures.live_objects
        assert inspection.block_bytes + inspection.free.size + 16 == inspection.image.end
        as_json = inspection.to_json()
        assert json.loads(json.dumps(as_json)) == as_json
        # What only cycles keep is what tracing from the handles, without the heap's help, does not reach.
        reached: set[int] = set()
        pending = [reference for _, reference in world.store.heap.handles()] + list(inspection.listed)
        while pending:
            index = pending.pop()
            if index not in reached:
                reached.add(index)
                pending += world.store.heap.references(index)
        assert inspection.garbage is not None
        assert len(inspection.garbage) == figures.live_objects - len(reached)
        assert inspection.garbage.leaked == ()


# ----------------------------------------------------------------------------------------------------------------------
# Garbage


def test_what_merging_neighbours_would_give(world: World) -> None:
    """Many small free blocks side by side are no fragmentation that merging leaves."""
    for _ in range(300):
        world.hold(NODE)
    for name in range(100, 250):
        world.release(name)
    before = inspect(world.store.snapshot()).free
    assert before.largest < before.largest_merged
    assert before.largest_merged >= 150 * NODE_BLOCK
    assert before.fragmentation > before.fragmentation_merged
    shown = rendered(world.store.snapshot())
    assert f"if merged {before.largest_merged:,}; " in " ".join(shown.split())
    world.store.heap.coalesce()
    after = inspect(world.store.snapshot()).free
    assert after.largest == after.largest_merged == before.largest_merged


def test_cycles_are_found(world: World) -> None:
    """A ring of three, a self-loop, and a tail that only the ring holds; and what a handle holds is none of it."""
    ring = [world.hold(NODE) for _ in range(3)]
    loop, tail, end, kept = (world.hold(NODE) for _ in range(4))
    for number, index in enumerate(ring):
        world.link(index, 0, ring[(number + 1) % 3])
    world.link(loop, 1, loop)
    world.link(ring[1], 1, tail)
    world.link(tail, 0, end)
    world.link(tail, 1, kept)
    for name in range(6):
        world.release(name)
    garbage = inspect(world.store.snapshot()).garbage
    assert garbage is not None
    assert [cycle.objects for cycle in garbage.cycles] == [tuple(ring), (loop,)]
    assert [cycle.block_bytes for cycle in garbage.cycles] == [3 * NODE_BLOCK, NODE_BLOCK]
    assert garbage.held == (tail, end)
    assert garbage.leaked == ()
    assert len(garbage) == 6


def test_what_the_list_holds_is_no_garbage(world: World) -> None:
    one, other = world.hold(NODE), world.hold(NODE)
    world.link(one, 0, other)
    world.link(other, 0, one)
    world.expose(other)
    drop_all(world)
    found = inspect(world.store.snapshot())
    assert found.garbage is not None
    assert len(found.garbage) == 0
    world.store.collect()
    found = inspect(world.store.snapshot())
    assert found.garbage is not None
    assert [cycle.objects for cycle in found.garbage.cycles] == [(one, other)]


def test_garbage_of_a_wasmtime_image(world: World) -> None:
    """Who holds what from outside shows in the counts there."""
    held, one, other = world.hold(NODE), world.hold(NODE), world.hold(NODE)
    world.link(one, 0, other)
    world.link(other, 0, one)
    world.release(1)
    world.release(2)
    image = world.store.snapshot()
    raw = Image.from_wasmtime(image.data, types=image.types)
    found = inspect(raw)
    assert found.problems == ()
    assert found.garbage is not None
    assert [cycle.objects for cycle in found.garbage.cycles] == [(one, other)]
    assert found.unconfirmed == (held,)
    data = bytearray(image.data)
    data[one + 8 : one + 16] = bytes(8)
    assert [each.index for each in Image.from_wasmtime(bytes(data), types=image.types).objects()] == [held, other]


def test_a_heap_that_does_not_count_has_no_garbage_report() -> None:
    world = World(collector="null")
    with world.store:
        one = world.allocate(NODE)
        assert inspect(world.store.snapshot()).garbage is None
        assert [found.index for found in world.store.snapshot().objects()] == [one]


GRAPHS = st.integers(0, 9).flatmap(
    lambda size: st.fixed_dictionaries(
        {node: st.lists(st.integers(0, max(0, size - 1)), max_size=4) for node in range(size)}
    )
)


@given(GRAPHS)
def test_components_are_the_classes_of_mutual_reachability(graph: dict[int, list[int]]) -> None:
    def reach(start: int) -> set[int]:
        found, pending = {start}, [start]
        while pending:
            for successor in graph[pending.pop()]:
                if successor not in found:
                    found.add(successor)
                    pending.append(successor)
        return found

    reachable = {node: reach(node) for node in graph}
    classes = {frozenset(each for each in reachable[node] if node in reachable[each]) for node in graph}
    components = strongly_connected_components(graph)
    assert {frozenset(component) for component in components} == classes
    assert sum(map(len, components)) == len(graph)


def test_components_of_a_long_chain() -> None:
    length = 50_000
    assert len(strongly_connected_components({n: [n + 1] if n + 1 < length else [] for n in range(length)})) == length
    (ring,) = strongly_connected_components({n: [(n + 1) % length] for n in range(length)})
    assert len(ring) == length


LARGE_WORLDS = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "allocate", "link", "link", "link", "release", "collect"]),
        st.integers(0, 40),
        st.integers(0, 40) | st.sampled_from([200, 1500, 3000, 5000, 9000]),
        st.integers(0, 2**40),
    ),
    max_size=60,
)


def rc_immix_world(steps: list[tuple[str, int, int, int]]) -> World:
    """A heap in lines and blocks, with objects of all sizes, some of them in their first epoch."""
    made = World(collector=RcImmix(), initial_heap_size=1 << 16)
    made.run(steps, most=9000)
    return made


@settings(max_examples=60, deadline=None)
@given(LARGE_WORLDS)
def test_what_a_search_would_free_where_counts_come_late(steps: list[tuple[str, int, int, int]]) -> None:
    """It is what counting leaves when it is up to date, and a search frees then: no garbage that dies without one."""
    world = rc_immix_world(steps)
    with world.store as store:
        garbage = inspect(store.snapshot()).garbage
        assert garbage is not None
        store.collect()
        left = {each.index: each for each in store.snapshot().objects()}
        store.collect(cycles=True)
        freed = left.keys() - {each.index for each in store.snapshot().objects()}
        assert garbage.leaked == ()
        assert set(garbage.freed_by_search) == freed
        assert garbage.bytes_freed_by_search == sum(left[each].block_length for each in freed)
        after = inspect(store.snapshot()).garbage
        assert after is not None
        assert len(after) == 0


@pytest.mark.parametrize("collector", ["drc", "rc-immix"])
@pytest.mark.parametrize("ages", [0, 1])
def test_the_report_says_what_a_search_would_free(collector: str, ages: int) -> None:
    world = World(collector=collector)
    with world.store as store:
        one, other, hung = (world.hold(NODE) for _ in range(3))
        world.link(one, 0, other)
        world.link(other, 0, one)
        world.link(other, 1, hung)
        for _ in range(ages):
            store.collect()
        drop_all(world)
        text = rendered(store.snapshot())
        if collector == "rc-immix" and not ages:
            assert "no garbage" in text, "what is young dies without a search"
        else:
            assert f"a search for cycles would free 3 objects, {3 * NODE_BLOCK} bytes" in text


# ----------------------------------------------------------------------------------------------------------------------
# Lines and blocks


@settings(max_examples=60, deadline=None)
@given(LARGE_WORLDS)
def test_the_map_of_lines_is_what_objects_say(steps: list[tuple[str, int, int, int]]) -> None:
    world = rc_immix_world(steps)
    with world.store as store:
        inspection = inspect(store.snapshot())
        found, objects = inspection.lines, list(inspection.image.objects())
        assert found is not None
        assert (found.line_size, found.block_size) == (256, 1 << 15)
        assert [block.start for block in found.blocks] == [n << 15 for n in range(len(found.blocks))]
        states = [LineState(state) for block in found.blocks for state in block.states]
        assert len(states) == 128 * len(found.blocks)
        begin: dict[int, list[ImageObject]] = {}
        inside: set[int] = set()
        for each in objects:
            begin.setdefault(each.index >> 8, []).append(each)
            inside.update(range(each.index >> 8, (each.index + each.block_length + 255) >> 8))
        large = [each for each in objects if each.block_length > 1 << 14]
        assert {block.start for block in found.blocks if block.begins_large} == {each.index for each in large}
        assert found.large_objects == len(large)
        for line, state in enumerate(states):
            beginning = begin.get(line, [])
            match state:
                case LineState.FREE | LineState.RESERVED:
                    assert line not in inside
                    assert (state is LineState.RESERVED) == (line == 0)
                case LineState.BEHIND:
                    assert not beginning
                    assert states[line - 1] is LineState.SURVIVORS
                case LineState.YOUNG:
                    assert all(each.ref_count == 0 for each in beginning)
                case LineState.SURVIVORS:
                    assert line in inside
                    assert not beginning or any(each.ref_count for each in beginning)
                case LineState.LARGE:
                    assert all(each in large for each in beginning)
        for each in large:
            assert set(states[each.index >> 8 : (each.index + each.block_length) >> 8]) == {LineState.LARGE}
        kinds = (found.empty, found.partly_free, found.full, found.large)
        assert sum(kinds) == len(found.blocks)
        assert sum(found.lines.values()) == len(states)
        free = [block.states.count(LineState.FREE) for block in found.blocks]
        in_use = [count for count, block in zip(free, found.blocks, strict=True) if not block.is_empty]
        shared = len(in_use) - found.large
        assert found.fragmentation == pytest.approx(sum(in_use) / (128 * shared) if shared else 0)


def test_figures_of_lines() -> None:
    """A block of nodes, of which every fourth stays, but for a gap, and an empty one; a large object; a young one."""
    world = World(collector="rc-immix", initial_heap_size=1 << 16)
    with world.store as store:
        per_block = (1 << 15) // NODE_BLOCK
        names = list(range(per_block * 3 // 2))
        for _ in names:
            world.hold(NODE)
        world.hold(VECTORS, 3000)
        store.collect()
        for name in names:
            if name >= per_block - 8 or name % 4 or 100 <= name < 300:
                world.release(name)
        store.collect()
        young = world.hold(NODE)
        found = inspect(store.snapshot()).lines
        assert found is not None
        first = found.blocks[0]
        assert first.states[young >> 8] == LineState.YOUNG
        assert (len(found.blocks), found.empty, found.partly_free, found.full, found.large) == (4, 1, 1, 0, 2)
        gap = 200 * NODE_BLOCK // 256
        assert gap - 3 <= first.free <= gap + 1
        shown = " ".join(rendered(store.snapshot()).replace("│", " ").split())
        assert "4 of 32 KiB: 1 empty, 1 partly free, 0 full, 2 large (1 objects)" in shown
        assert f"{first.free + 128} free, {first.free} of them in blocks that are not empty (fragmentation" in shown
        assert f"fragmentation {first.free / 128:.0%}); {found.lines[LineState.SURVIVORS]} with survivors" in shown
        as_json = inspect(store.snapshot()).to_json()
        assert as_json["lines"]["blocks"] == {"all": 4, "empty": 1, "partly_free": 1, "full": 0, "large": 2}
        assert as_json["lines"]["lines"]["large"] == 256
    assert inspect(World().store.snapshot()).lines is None


def test_a_broken_heap_has_no_map_of_lines() -> None:
    world = World(collector="rc-immix")
    with world.store as store:
        node = world.hold(NODE)
        set_header(world, node, ref_count=3)
        found = inspect(store.heap.snapshot())
        assert found.problems
        assert found.lines is None
        set_header(world, node, ref_count=0)


@pytest.mark.parametrize("objects", [1, 600, 40_000])
def test_the_picture_of_lines(objects: int, tmp_path: Path) -> None:
    """Of few blocks, of some, and of so many that they are shown as bars, and of some of them the lines."""
    world = World(collector="rc-immix")
    with world.store as store:
        for number in range(objects):
            world.hold(number % 2 * BYTES, 60)
        world.hold(VECTORS, 2000)
        store.collect()
        for name in range(0, objects, 2):
            if name % 1000 < 500:
                world.release(name)
        store.collect()
        for _ in range(1 + objects // 8):
            world.hold(NODE)
        inspection = inspect(store.snapshot())
        assert inspection.lines is not None
        inspection.plot(tmp_path / "map.png")
        shape, colours = pixels(tmp_path / "map.png")
        assert shape[1] == 1200
        assert {(240, 160, 48), (107, 76, 154), (228, 228, 228)} <= colours  # young, large, free
        if objects > 1:
            assert {(31, 78, 121), (143, 180, 217)} <= colours  # survivors, and behind these
        assert (len(inspection.lines.blocks) > 64) == (objects == 40_000)


# ----------------------------------------------------------------------------------------------------------------------
# Verifying


def a_heap(world: World) -> dict[str, int]:
    """A sound heap that has something of everything."""
    named = {
        "node": world.hold(NODE),
        "hole": world.hold(BYTES, 30),
        "array": world.hold(REFERENCES, 2),
        "hole2": world.hold(BYTES, 30),
        "extern": world.hold(EXTERNREF),
        "mixed": world.hold(MIXED),
    }
    world.link(named["array"], 0, named["node"])
    world.link(named["mixed"], 0, named["extern"])
    world.expose(named["node"])
    world.expose(named["array"])
    world.release(1)
    world.release(3)
    assert verify(world.store.snapshot()) == []
    return named


def set_header(world: World, index: int, **values: int) -> None:
    header = world.store.heap.memory.view(VMDrcHeader, index)
    for name, value in values.items():
        setattr(header, name, value)


def test_a_missed_merge(world: World) -> None:
    """Two free neighbours that a coalescing pass has seen, or that first fit has."""
    small = [world.hold(BYTES, 30) for _ in range(3)]
    world.store.heap.coalesce()  # what was carved along with them is the bump region's again
    world.release(0)
    world.release(1)
    image = world.store.snapshot()
    assert verify(image) == []
    assert image.control is not None
    first_fit = dataclasses.replace(
        image.control, allocator="first-fit", size_class_heads=(0,) * len(image.control.size_class_heads)
    )
    problems = verify(dataclasses.replace(image, control=first_fit))
    assert f"free block at {small[1]:#x} was not merged with the one before it" in problems
    assert all("was not merged with" in problem for problem in problems)
    data = bytearray(image.data)
    for index in small[:2]:
        data[index + 12] = 1
    assert verify(dataclasses.replace(image, data=bytes(data))) == [
        f"free block at {small[1]:#x} was not merged with the one before it"
    ]
    world.release(2)
    image = world.store.snapshot()
    assert image.control is not None
    at_end = dataclasses.replace(image.control, allocator="first-fit")
    assert f"the last free block, which ends at {image.end:#x}, was not merged with the bump region" in verify(
        dataclasses.replace(image, control=at_end)
    )


def test_types_that_are_not_those_of_the_type_table(world: World) -> None:
    a_heap(world)
    image = world.store.snapshot()
    node, array = image.types[world.types[NODE]], image.types[world.types[REFERENCES]]
    assert node.fields is not None
    moved = (dataclasses.replace(node.fields[0], offset=76), *node.fields[1:])
    for changed in (
        dataclasses.replace(node, traced_offsets=node.traced_offsets[:1]),
        dataclasses.replace(node, size_or_elements_offset=node.size_or_elements_offset - 8),
        dataclasses.replace(node, fields=moved),
        dataclasses.replace(array, elements_are_traced=False),
        dataclasses.replace(array, index=99),
    ):
        assert verify(dataclasses.replace(image, types={**image.types, changed.index: changed})) == [
            f"{changed.label} is not in the image as it is in the type table"
        ]


def test_an_image_without_tables(world: World) -> None:
    """As in files from before images had them: less is known, and what is known is verified."""
    named = a_heap(world)
    image = dataclasses.replace(world.store.snapshot(), tables=None)
    assert Image.from_bytes(image.to_bytes()) == image
    assert verify(image) == []
    for change, message in (
        ({"ref_count": 1}, "has count 1, but at least 3 owners"),
        ({"kind_and_reserved": VMGcKind.STRUCT_REF}, "has its in-list bit clear, wrongly"),
        ({"object_size": NODE_SIZE - 1}, f"has size {NODE_SIZE - 1}; its type and length make it {NODE_SIZE}"),
        ({"kind_and_reserved": VMGcKind.STRUCT_REF | 64}, "has unknown reserved bits 0x40"),
        ({"kind_and_reserved": VMGcKind.EXN_REF}, "of $node has kind exception"),
        ({"type_index": 0xFFFF_FFFF}, "of kind struct has type index 4294967295"),
        ({"next_over_approximated_stack_root": 0x1000}, "leads to 0x1000, where no object starts"),
        ({"object_size": 1 << 30}, "claims 1073741824 bytes"),
    ):
        header = world.store.heap.memory.view(VMDrcHeader, named["node"])
        before = {name: getattr(header, name) for name in change}
        set_header(world, named["node"], **change)
        problems = verify(dataclasses.replace(world.store.heap.snapshot(), tables=None))
        assert any(message in problem for problem in problems), problems
        set_header(world, named["node"], **before)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(16, 2000), st.integers(1, 255))
def test_the_heap_and_its_image_agree_on_what_is_sound(
    steps: list[tuple[str, int, int, int]], position: int, flip: int
) -> None:
    """Flip a byte anywhere: `DrcHeap.verify` finds something wrong exactly when `verify` of an image does."""
    world = World()
    with world.store:
        world.run(steps)
        heap = world.store.heap
        if heap.control.bump == 16:
            return
        position = 16 + position % (heap.control.bump - 16)
        byte = heap.memory.read(position, 1)[0]
        heap.memory.write(position, bytes([byte ^ flip]))
        try:
            heap.verify()
        except lh.HeapError:
            sound = False
        else:
            sound = True
        assert (inspect(heap.snapshot()).problems == ()) == sound


# ----------------------------------------------------------------------------------------------------------------------
# Showing


def rendered(image: Image) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(inspect(image).render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_report(world: World) -> None:
    named = a_heap(world)
    image = dataclasses.replace(world.store.snapshot(), source="a [bold]heap[/bold]\x07")
    text = rendered(image)
    assert "a [bold]heap[/bold]\\x07" in text
    assert "4 objects" in text
    assert "sound" in text
    assert f"2 objects: {named['array']:#x}, {named['node']:#x}" in text
    assert "no garbage" in text
    world.link(named["node"], 0, named["node"])
    drop_all(world)
    world.store.collect()
    text = rendered(world.store.snapshot())
    assert "garbage that counting does not free" in text
    assert f"a search for cycles would free 1 objects, {NODE_BLOCK} bytes" in text
    assert f"{named['node']:#x}" in text
    set_header(world, named["node"], ref_count=9)
    text = rendered(world.store.heap.snapshot())
    assert "1 problems" in text
    assert "has count 9, but 1 owners" in text


def pixels(path: Path) -> tuple[tuple[int, ...], set[tuple[int, ...]]]:
    """The picture's size, and the colours in it."""
    import matplotlib.image

    data = matplotlib.image.imread(path)
    colours = {tuple(round(255 * float(part)) for part in pixel[:3]) for row in data[::3] for pixel in row[::3]}
    return data.shape, colours


@pytest.mark.parametrize("objects", [0, 1, 40, 3000])
def test_the_picture(world: World, objects: int, tmp_path: Path) -> None:
    for number in range(objects):
        world.hold(number % 2 * BYTES, 600)
    for name in range(0, objects, 5):
        world.release(name)
    path = tmp_path / "map.png"
    inspect(world.store.snapshot()).plot(path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    shape, colours = pixels(path)
    assert shape[0] > 100
    assert shape[1] == 1200
    if objects == 3000:
        assert {(31, 119, 180), (255, 127, 14)} <= colours  # the first two types
        assert (228, 228, 228) in colours  # free


def test_a_picture_of_odd_names(world: World, tmp_path: Path) -> None:
    engine = world.store.engine
    for number, name in enumerate(["a$b$c_{", "_hidden", "\u4e2d\U0001f600", "\\frac", "x" * 80] * 3):
        fields = (lh.FieldType(lh.types.I64, False),) * (number + 1)
        (index,) = engine.types.register([lh.SubType(lh.StructType(fields))])
        engine.types.name_type(index, name)
        world.store.roots.create_handle(world.store.alloc_struct(index))
    inspect(world.store.snapshot()).plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_a_picture_of_a_broken_heap(world: World, tmp_path: Path) -> None:
    named = a_heap(world)
    set_header(world, named["extern"], object_size=1 << 31)
    inspect(world.store.heap.snapshot()).plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").exists()


def test_a_picture_needs_matplotlib(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(lh.LowheapError, match=r"pip install 'lowheap\[lab\]'"):
        inspect(world.store.snapshot()).plot(tmp_path / "map.png")


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def image_file(world: World, tmp_path: Path) -> Path:
    a_heap(world)
    path = tmp_path / "heap.img"
    world.store.snapshot().save(path)
    return path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(inspect_command, [str(each) for each in arguments])


def test_the_command(image_file: Path) -> None:
    ran = command(image_file)
    assert ran.exit_code == 0
    assert "objects by type" in ran.stdout
    assert "$node" in ran.stdout
    assert ran.stderr == ""


def test_the_command_as_json(image_file: Path) -> None:
    ran = command(image_file, "--json")
    assert ran.exit_code == 0
    assert json.loads(ran.stdout) == inspect(Image.load(image_file)).to_json()


def test_the_command_draws(image_file: Path, tmp_path: Path) -> None:
    ran = command(image_file, "--json", "--plot", tmp_path / "map.png")
    assert ran.exit_code == 0
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    ran = command(image_file, "--plot", tmp_path / "none" / "map.png")
    assert isinstance(ran.exception, lh.LowheapError)
    assert "map.png': No such file" in str(ran.exception)


def test_an_unsound_heap_is_status_1(image_file: Path) -> None:
    image = Image.load(image_file)
    data = bytearray(image.data)
    data[16 + 8] += 1
    dataclasses.replace(image, data=bytes(data)).save(image_file)
    ran = command(image_file)
    assert ran.exit_code == 1
    assert "problem: object 0x10 has count 4, but 3 owners" in ran.stdout
    assert json.loads(command(image_file, "--json").stdout)["problems"]


def test_errors_are_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.img").write_bytes(b"nothing")
    for name, message in (("none.img", "No such file"), ("bad.img", "not a heap image"), (".", "Is a directory")):
        assert cli.execute(["inspect", str(tmp_path / name)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("lowheap: error: ")
        assert message in err


def test_an_image_of_wasmtime_is_inspected(world: World, tmp_path: Path) -> None:
    a_heap(world)
    image = world.store.snapshot()
    raw = Image.from_wasmtime(image.data + bytes(64), source="wasmtime 43.0.0")
    raw.save(tmp_path / "peer.img")
    ran = command(tmp_path / "peer.img", "--json")
    found = json.loads(ran.stdout)
    assert ran.exit_code == 0, found
    assert (found["source"], found["objects"], found["walkable"]) == ("wasmtime 43.0.0", 4, False)
    assert "not known" in command(tmp_path / "peer.img").stdout
