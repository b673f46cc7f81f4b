"""Images and dumps of heaps whose collectors keep something: they have it, and verifying finds what is wrong with it.

Tried are the collectors of `examples/collectors/`, and `Carded`, which has a state, a buffer and a side table.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import by_turns, examples
from support.embed_reports import dump_of
from support.faults import FAULTS, Saved, Scene
from support.image_heaps import NODE, STEPS, World
from support.native_sides import Compiled, mixed

import lowheap as lh
from lowheap.cli.inspect import inspect_command
from lowheap.collectors import registry
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Collector, Shape
from lowheap.collectors.rc_immix import RcImmix
from lowheap.collectors.shared import parts as shared_parts
from lowheap.collectors.shared.allocator import OF_THE_COLLECTOR
from lowheap.embed import NativeHeap, attach
from lowheap.errors import HeapCorruptionError, HeapError, UnsupportedError
from lowheap.layout import NULL, VMCollectorPart, VMDrcHeader, VMDump, VMDumpPart, VMPartKind
from lowheap.native import (
    Buffer,
    Heap,
    Ref,
    SideTable,
    Slot,
    event,
    inline,
    native,
    problem,
    state,
    u8,
    u32,
    u64,
)
from lowheap.native.storage import ENTRIES_OFFSET
from lowheap.runtime.store_runtime import runtime_of
from lowheap.snapshot import Image, ImageFormatError, ImagePart, diff, read_dump
from lowheap.snapshot.inspection import inspect, verify

DIRECTORY = Path(__file__).resolve().parent.parent / "examples/collectors"

CARDS = SideTable("cards", u8, granule=256)
MARKED = Buffer("marked", limit=1 << 24)


@state
class CardFigures:
    """How often a card was marked."""

    marks: u64


@inline
def mark_card(heap: Heap, owner: Ref) -> None:
    """Mark the card that an object begins in."""
    card = heap.side(CARDS, owner)
    if card.value == 0:
        card.value = 1
        length = heap.length(MARKED)
        heap.entry(MARKED, length.value).value = owner >> 8
        length.value += 1
        heap.state(CardFigures).marks += 1


class Carded(Drc):
    """What `drc` does; and the cards that were stored to are marked, and on a list."""

    needs_owner = True
    states = (CardFigures,)
    counters = ("marks",)
    buffers = (MARKED,)
    side_tables = (CARDS,)

    @event
    def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        """Mark the owner's card."""
        Drc.write(heap, owner, slot, value, shape)
        if owner != NULL:
            mark_card(heap, owner)

    @native
    def verify_lists(heap: Heap, notes: u64) -> None:
        """Check that just the cards on the list are marked, and the counter."""
        Drc.verify_lists(heap, notes)
        length = heap.length(MARKED).value
        for number in range(length):
            card = heap.entry(MARKED, number).value
            if (card > heap.control.bump >> 8) or (heap.side(CARDS, card << 8).value != 1):
                problem(heap, "card {} is on the list, and not marked", card)
                return
        count: u64 = 0
        for card_then in range((heap.control.bump + 255) >> 8):
            if heap.side(CARDS, card_then << 8).value != 0:
                count += 1
        if (count != length) or (heap.state(CardFigures).marks != length):
            problem(
                heap,
                "{} cards are marked, {} are on the list, {} were counted",
                count,
                length,
                heap.state(CardFigures).marks,
            )


WANTED: dict[str, Any] = {
    "counted_reads": f"{DIRECTORY / 'counted_reads.py'}:CountedReads",
    "deutsch_bobrow": f"{DIRECTORY / 'deutsch_bobrow.py'}:DeutschBobrow",
    "levanoni_petrank": f"{DIRECTORY / 'levanoni_petrank.py'}:LevanoniPetrank",
    "short_lived_reads": f"{DIRECTORY / 'short_lived_reads.py'}:ShortLivedReads",
    "carded": Carded,
}
collectors = pytest.mark.parametrize("name", WANTED)


@functools.cache
def found(name: str) -> Collector:
    return registry.find(WANTED[name])


def images_of(store: lh.Store, native_heap: NativeHeap, held: list[int] | None = None) -> Iterator[Image]:
    """All the ways to an image: Python's, through a file, and C's."""
    image = store.heap.snapshot(held or ())
    yield image
    loaded = Image.from_bytes(image.to_bytes())
    assert loaded == image
    yield loaded
    data = dump_of(native_heap)
    assert isinstance(data, bytes), data
    dumped = read_dump(data)
    assert (dumped.parts, dumped.data, dumped.control) == (image.parts, image.data, image.control)
    assert Image.from_bytes(dumped.to_bytes()) == dumped
    yield dumped


def kept_by_python(store: lh.Store) -> list[tuple[str, list[int]]]:
    """What the collector keeps, as Python's functions see it."""
    heap, kept = store.heap.native, []
    for part in store.heap.collector.area().offsets:
        if isinstance(part, Buffer):
            values = [heap.entry(part, number).value for number in range(heap.length(part).value)]
        else:
            values = [heap.side(part, index).value for index in range(0, heap.control.bump, part.granule)]
        kept.append((part.name, values))
    return kept


@collectors
@settings(max_examples=examples(2, 25), deadline=None)
@given(steps=STEPS)
def test_images_at_random_states_are_sound(name: str, steps: list[tuple[str, int, int, int]]) -> None:
    world = World(initial_heap_size=4096, collector=found(name))
    with world.store as store:
        native_heap = attach(store)
        world.run(steps)
        store.verify()
        for image in images_of(store, native_heap):
            assert verify(image, found(name)) == []
            kept = {each.name: each for each in image.parts}
            for part, values in kept_by_python(store):
                entries = kept[part].entries()
                assert entries + [0] * (len(values) - len(entries)) == values
            assert diff(image, image) == []


PROGRAM = """(module
  (type $cell (struct (field $left (mut anyref)) (field $right (mut anyref))))
  (import "host" "look" (func $look))
  (global $last (mut anyref) (ref.null any))
  (func (export "run") (param $count i32)
    (local $cell (ref null $cell))
    (loop $more
      (local.set $cell (struct.new $cell (local.get $cell) (global.get $last)))
      (if (i32.and (local.get $count) (i32.const 1))
        (then (struct.set $cell $right (local.get $cell) (struct.get $cell $left (local.get $cell)))
              (global.set $last (local.get $cell))))
      (if (i32.eqz (i32.rem_u (local.get $count) (i32.const 7)))
        (then (local.set $cell (ref.null $cell))))
      (call $look)
      (br_if $more (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))))"""


@collectors
@pytest.mark.parametrize("collect_every", [0, 5])
def test_images_in_the_middle_of_compiled_code_are_sound(name: str, collect_every: int) -> None:
    engine = lh.Engine(collector=found(name))
    with lh.Store(engine, initial_heap_size=4096, collect_every=collect_every) as store:
        native_heap = attach(store)
        looked = 0

        def look() -> None:
            nonlocal looked
            looked += 1
            for image in images_of(store, native_heap):
                assert verify(image, found(name)) == []

        instance: Any = lh.Instance(store, lh.Module(engine, PROGRAM), {"host": {"look": look}})
        instance.exports["run"](24)
        assert looked == 24


# ----------------------------------------------------------------------------------------------------------------------
# Faults


@functools.cache
def scene(name: str) -> tuple[Scene, Saved, NativeHeap]:
    """A heap for all tests; it stays open until the process ends."""
    made = Scene(World(initial_heap_size=4096, collector=found(name)))
    return made, Saved(made.heap), attach(made.world.store, checked=False)


@functools.cache
def noted(name: str) -> tuple[World, NativeHeap]:
    """Another one, in which the collector has noted two stores since its last collection."""
    world = World(initial_heap_size=4096, collector=found(name))
    references = [world.hold(NODE) for _ in range(12)]
    world.store.collect()
    for holder in (references[0], references[-1]):
        world.link(holder, 0, references[1])
    return world, attach(world.store, checked=False)


def said_of(made: Any, native_heap: NativeHeap, name: str) -> dict[str, list[str]]:
    """What Python says of the heap, and what is said of its images: in a file, and in a dump."""
    heap = made.heap
    said: dict[str, list[str]] = {"heap": []}
    try:
        heap.verify()
    except HeapCorruptionError as error:
        said["heap"] = error.problems
    try:
        said["file"] = verify(Image.from_bytes(heap.snapshot().to_bytes()), found(name))
    except HeapCorruptionError as error:
        said["file"] = error.problems
    data = dump_of(native_heap)
    said["dump"] = verify(read_dump(data), found(name)) if isinstance(data, bytes) else data
    return said


NO_FREE_BLOCK = {"another free list", "unmerged"}
"""Faults of a free block: where nothing is freed but by a collection, the scene has none there."""

NO_FAULT = {
    "in-list bit clear",
    "list leads nowhere",
    "list leads beyond",
    "list leads to a free block",
    "free host data lost",
}
"""What is none where the zero-count table has other objects, and dead externrefs wait for a collection."""


HAVE_TABLES = ("deutsch_bobrow", "levanoni_petrank")


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        *by_turns([each for each in FAULTS if each not in NO_FREE_BLOCK], list(WANTED)),
        *by_turns(
            [each for each in FAULTS if each in NO_FREE_BLOCK], [each for each in WANTED if each not in HAVE_TABLES]
        ),
    ],
)
def test_images_have_the_faults_that_the_heap_has(name: str, fault: str) -> None:
    made, saved, native_heap = scene(name)
    assert not any(said_of(made, native_heap, name).values())
    try:
        FAULTS[fault][0](made)
        said = said_of(made, native_heap, name)
    finally:
        saved.restore()
    assert bool(said["heap"]) != (name in HAVE_TABLES and fault in NO_FAULT)
    for side in ("file", "dump"):  # what an image is refused for is what verifying begins with
        assert said[side] == said["heap"] or (said[side] and set(said[side]) <= set(said["heap"])), side


@contextmanager
def in_part(heap: Any, part: Buffer | SideTable) -> Iterator[int]:
    """Where a part is, to be changed; afterwards it is as it was."""
    address = ctypes.addressof(heap.control) + heap.collector.area().offsets[part]
    size = ENTRIES_OFFSET + 4096 if isinstance(part, Buffer) else 4096
    before = ctypes.string_at(address, size)
    try:
        yield address
    finally:
        ctypes.memmove(address, before, size)


def length_at(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(address)


def entry_at(address: int, number: int) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(address + ENTRIES_OFFSET + 4 * number)


def set_length(value: int) -> Callable[[int], None]:
    return lambda address: setattr(length_at(address), "value", value)


def add_length(amount: int) -> Callable[[int], None]:
    return lambda address: setattr(length_at(address), "value", length_at(address).value + amount)


def set_entry(number: int, value: int) -> Callable[[int], None]:
    return lambda address: setattr(entry_at(address, number), "value", value)


def copy_first_entry(address: int) -> None:
    """The first object of the log is in it once more, with nothing."""
    length = length_at(address)
    entry_at(address, length.value).value = entry_at(address, 0).value
    entry_at(address, length.value + 1).value = 0
    length.value += 2


def set_card(number: int, value: int) -> Callable[[int], None]:
    return lambda address: setattr(ctypes.c_uint8.from_address(address + number), "value", value)


def part_of(name: str, part: str) -> Buffer | SideTable:
    return next(each for each in found(name).area().offsets if each.name == part)


PART_FAULTS: dict[str, tuple[str, str, Callable[[int], None], str]] = {
    "a log that is too long": (
        "levanoni_petrank",
        "log",
        set_length(1 << 40),
        "part 0 .* has 1099511627776 entries; there",
    ),
    "a log that says so just so": ("levanoni_petrank", "log", set_length((1 << 30) + 1), "room for 1073741824"),
    "a log without its last entry": (
        "levanoni_petrank",
        "log",
        add_length(-4),
        "has its logged bit set, but is not in",
    ),
    "an empty log": ("levanoni_petrank", "log", set_length(0), "has its logged bit set, but is not in the log, or"),
    "no object in the log": (
        "levanoni_petrank",
        "log",
        set_entry(0, 24),
        "entry 0 of the log is 0x18, where no object",
    ),
    "null in the log": ("levanoni_petrank", "log", set_entry(0, 0), "entry 0 of the log is 0x0, where no object"),
    "twice in the log": ("levanoni_petrank", "log", copy_first_entry, "object 0x[0-9a-f]+ is in the log twice"),
    "a count in the log": ("levanoni_petrank", "log", set_entry(1, 1), "of the log is|is in the log twice|owners"),
    "a list that is too long": (
        "carded",
        "marked",
        set_length(1 << 25),
        "part 1 .* has 33554432 entries; there is room",
    ),
    "a card that is nowhere": (
        "carded",
        "marked",
        set_entry(0, 1 << 20),
        "card 1048576 is on the list, and not marked",
    ),
    "a list without its last": ("carded", "marked", add_length(-1), "[0-9]+ cards are marked, [0-9]+ are on the list"),
    "a card that is not marked": ("carded", "cards", set_card(0, 0), "card 0 is on the list, and not marked"),
    "a card that is marked wrongly": ("carded", "cards", set_card(0, 7), "card 0 is on the list, and not marked"),
    "a card that is not listed": ("carded", "cards", set_card(1, 1), "[0-9]+ cards are marked, [0-9]+ are on the list"),
}


@pytest.mark.parametrize("fault", PART_FAULTS)
def test_faults_in_what_collectors_keep_are_named(fault: str) -> None:
    name, part, inject, message = PART_FAULTS[fault]
    world, native_heap = noted(name)
    assert not any(said_of(world.store, native_heap, name).values())
    with in_part(world.store.heap, part_of(name, part)) as address:
        inject(address)
        said = said_of(world.store, native_heap, name)
    assert said["file"] == said["dump"] == said["heap"]
    assert any(re.search(message, each) for each in said["heap"]), said["heap"]


def test_a_state_that_is_wrong_is_named() -> None:
    world, native_heap = noted("carded")
    figures = world.store.heap.native.state(CardFigures)
    figures.marks += 1
    try:
        said = said_of(world.store, native_heap, "carded")
    finally:
        figures.marks -= 1
    assert said["file"] == said["dump"] == said["heap"]
    assert "were counted" in said["heap"][0]


# ----------------------------------------------------------------------------------------------------------------------
# What is not there, and what is not right


def carded_world() -> World:
    world = World(initial_heap_size=4096, collector=found("carded"))
    references = [world.hold(NODE) for _ in range(3)]
    world.link(references[0], 0, references[1])
    return world


def test_an_image_of_another_collectors_heap_is_refused() -> None:
    drc, carded = World().store.heap.snapshot(), carded_world().store.heap.snapshot()
    assert drc.parts == ()
    for image in (drc, dataclasses.replace(carded, parts=())):
        with pytest.raises(
            UnsupportedError, match="the image has no state CardFigures as the collector Carded keeps one"
        ):
            verify(image, Carded)
    changed = tuple(dataclasses.replace(each, shift=9) if each.name == "cards" else each for each in carded.parts)
    with pytest.raises(UnsupportedError, match="the image has no side table cards as the collector Carded keeps one"):
        verify(dataclasses.replace(carded, parts=changed), Carded)
    assert verify(carded) == [], "what holds for every collector does"


def test_an_image_without_parts_is_the_file_that_it_was() -> None:
    image = World().store.heap.snapshot()
    data = image.to_bytes()
    assert b'"parts"' not in data
    assert b'"parts"' in carded_world().store.heap.snapshot().to_bytes()
    assert Image.from_bytes(data).parts == ()


def test_differences_of_what_collectors_keep() -> None:
    left, right = carded_world(), carded_world()
    assert diff(left.store.heap.snapshot(), right.store.heap.snapshot()) == []
    right.store.heap.native.side(CARDS, 1024).value = 3
    right.store.heap.native.length(MARKED).value += 1
    right.store.heap.native.entry(MARKED, 1).value = 4
    right.store.heap.native.state(CardFigures).marks = 17  # a figure
    found_differences = [str(each) for each in diff(left.store.heap.snapshot(), right.store.heap.snapshot())]
    assert found_differences == [
        "the length of the buffer marked is 1 on the left, 2 on the right",
        "entry 1 of the buffer marked is 0x0 on the left, 0x4 on the right",
        *(
            ["entry 4 of the side table cards is 0x0 on the left, 0x3 on the right"]
            * (right.store.heap.control.bump > 1024)
        ),
    ]
    assert diff(left.store.heap.snapshot(), World().store.heap.snapshot(), include_unconfirmed=True)


def test_inspect_shows_what_is_kept(tmp_path: Path) -> None:
    world = carded_world()
    path = tmp_path / "heap.img"
    world.store.heap.snapshot().save(path)
    wanted = f"{Path(__file__)}:Carded"
    report = CliRunner().invoke(inspect_command, [str(path), "--json", "--collector", wanted], catch_exceptions=False)
    said = json.loads(report.output)
    assert (report.exit_code, said["problems"]) == (0, [])
    assert [(each["kind"], each["name"], each["entry_size"]) for each in said["kept"]] == [
        ("state", "CardFigures", 1),
        ("buffer", "marked", 4),
        ("side table", "cards", 1),
    ]
    assert said["kept"][1]["entries"] == 1
    text = re.sub(r"[│\s]+", " ", CliRunner().invoke(inspect_command, [str(path)]).output)
    assert "kept state CardFigures of 8 × 1 bytes, buffer marked of 1 × 4 bytes, side table cards of" in text
    made = inspect(world.store.heap.snapshot())
    assert made.to_json()["kept"] == said["kept"]


class Roomy(RcImmix):
    """What `rc-immix` does; and something is kept by which nobody knows it."""

    states = (*RcImmix.states, CardFigures)


@pytest.mark.parametrize(
    ("wanted", "allocator"),
    [
        ("drc", "segregated-fit"),
        ("null", "segregated-fit"),
        (Carded, "segregated-fit"),
        ("rc-immix", OF_THE_COLLECTOR),
        (Roomy, OF_THE_COLLECTOR),
    ],
    ids=lambda each: getattr(each, "name", each),
)
def test_inspect_names_the_allocator_that_there_is(wanted: Any, allocator: str, tmp_path: Path) -> None:
    """Of a file, of a dump, and of an image that is as those were that named a policy where none is; sound or not."""
    world = World(collector=wanted)
    with world.store as store:
        node = world.hold(NODE)
        assert store.heap.allocator_name == allocator
        taken = store.heap.snapshot()
        assert taken.control is not None
        assert taken.control.allocator == allocator
        data = dump_of(attach(store))
        assert isinstance(data, bytes), data
        older = dataclasses.replace(taken, control=dataclasses.replace(taken.control, allocator="segregated-fit"))
        broken = bytearray(taken.data)
        VMDrcHeader.from_buffer(broken, node).ref_count = 77
        is_known = isinstance(wanted, str)
        given = [] if is_known else ["--collector", f"{Path(__file__)}:{wanted.__name__}"]
        files = {
            "image": taken.to_bytes(),
            "dump": data,
            "older": older.to_bytes(),
            "broken": dataclasses.replace(taken, data=bytes(broken)).to_bytes(),
        }
        for name, content in files.items():
            path = tmp_path / name
            path.write_bytes(content)
            report = CliRunner().invoke(inspect_command, [str(path), "--json", *given], catch_exceptions=False)
            said = json.loads(report.output)
            is_sound = name != "broken" or wanted == "null"
            assert (said["allocator"], not said["problems"]) == (allocator, is_sound), name
            if not said["problems"]:
                assert (said["objects"], said["lines"] is None) == (1, allocator != OF_THE_COLLECTOR)
            text = CliRunner().invoke(inspect_command, [str(path), *given]).output
            assert re.search(rf"allocator +│ {re.escape(allocator)} ", text), text
        if is_known:
            assert read_dump(data).control == taken.control


def test_inspect_names_first_fit() -> None:
    image = lh.Store(allocator="first-fit").snapshot()
    assert inspect(image).to_json()["allocator"] == "first-fit"
    assert inspect(Image.from_wasmtime(bytes(64))).to_json()["allocator"] is None


def test_damaged_parts_of_files_are_refused() -> None:
    image = carded_world().store.heap.snapshot()
    state_part, buffer, table = image.parts

    def read(**changed: Any) -> None:
        Image.from_bytes(dataclasses.replace(image, parts=(dataclasses.replace(buffer, **changed),)).to_bytes())

    read()
    for changed, message in (
        ({"entry_size": 3}, "has room for"),
        ({"shift": 33}, "has an entry for each 2\\^33 bytes"),
        ({"name": "x" * 33}, "a name of at most 32 bytes"),
        ({"name": "\ud800"}, "a name of at most 32 bytes"),
        ({"data": b"\1" * 8}, "at most 4 bytes"),
        ({"length": 1 << 64}, "an integer from 0"),
        ({"kind": VMPartKind.STATE, "limit": 1 << 20}, "is a state of 1048576 bytes; there is room for"),
    ):
        with pytest.raises(ImageFormatError, match=message):
            read(**changed)
    assert state_part.label == "state CardFigures"
    assert table.size(257) == 2


def test_damaged_parts_of_dumps_are_refused() -> None:
    world = carded_world()
    data = dump_of(attach(world.store))
    assert isinstance(data, bytes)
    header = VMDump.from_buffer_copy(data)
    start = len(data) - header.heap_size - header.parts_size

    def read(change: Callable[[Any], None]) -> None:
        damaged = bytearray(data)
        change(VMDumpPart.from_buffer(damaged, start))
        read_dump(bytes(damaged))

    read(lambda part: None)
    for change, message in (
        (lambda part: setattr(part.part, "kind", 7), "part 0 in the heap dump has kind 7; kinds are"),
        (lambda part: setattr(part.part, "entry_size", 0), "part 0 in the heap dump has room for"),
        (lambda part: setattr(part.part, "shift", 99), "has an entry for each 2\\^99"),
        (lambda part: setattr(part, "size", 1 << 40), "in the heap dump has .* bytes, not 8"),
        (lambda part: setattr(part, "size", 0), "in the heap dump has 0 bytes, not 8"),
        (lambda part: setattr(part.part, "limit", 1 << 17), "is a state of 131072 bytes"),
    ):
        with pytest.raises(ImageFormatError, match=message):
            read(change)
    made = VMDump.from_buffer_copy(data)
    for count, message in ((99, "has 3 parts of what a collector keeps; its header says 99"), (2, "its parts have")):
        made.part_count = count
        with pytest.raises(ImageFormatError, match=message):
            read_dump(bytes(made) + data[ctypes.sizeof(VMDump) :])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_dump_breaks_the_reader(data: st.DataObject) -> None:
    """Whatever is in it, reading and inspecting ends in a result, or in an ImageFormatError."""
    damaged = bytearray(whole_dump())
    header = VMDump.from_buffer_copy(damaged)
    start = len(damaged) - header.heap_size - header.parts_size
    places = st.integers(start, start + header.parts_size - 1)
    for place, byte in data.draw(st.dictionaries(places, st.integers(0, 255), min_size=1, max_size=8)).items():
        damaged[place] = byte
    try:
        image = read_dump(bytes(damaged))
    except ImageFormatError:
        return
    try:
        inspect(image, Carded)
    except UnsupportedError:
        inspect(image)
    assert Image.from_bytes(image.to_bytes()) == image


@functools.cache
def whole_dump() -> bytes:
    data = dump_of(attach(carded_world().store))
    assert isinstance(data, bytes)
    return data


# ----------------------------------------------------------------------------------------------------------------------
# The functions that say how much there is, both ways


@native
def sum_of_parts(heap: Heap) -> u64:
    total: u64 = 7
    for number in range(heap.part_count()):
        part = heap.part(number)
        total = mixed(total, shared_parts.length_of_part(heap, part))
        total = mixed(total, shared_parts.size_of_content(heap, part))
        distance = shared_parts.content_at(heap, part) - shared_parts.part_at(heap, part)
        total = mixed(total, distance)
        total = mixed(total, part.offset + part.limit + u64(part.kind) + u64(part.name[1]))
    return total


@native
def kind_of_part(heap: Heap, number: u32) -> u32:
    return heap.part(number).kind


@functools.cache
def compiled() -> Compiled:
    return Compiled([sum_of_parts, kind_of_part, shared_parts.size_in_use], collector=Carded())


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, 1 << 25) | st.integers(0, (1 << 64) - 1), bump=st.integers(16, 1 << 16))
def test_python_and_machine_code_say_the_same_of_parts(length: int, bump: int) -> None:
    store = parts_store()
    heap = store.heap.native
    before = heap.control.bump
    heap.control.bump, heap.length(MARKED).value = bump, length
    try:
        code, vmctx = compiled(), runtime_of(store).vmctx_address
        assert sum_of_parts(heap) == code[sum_of_parts](vmctx)
        for number in range(3):
            part = heap.part(number)
            expected = shared_parts.size_in_use(part, length, bump)
            assert code[shared_parts.size_in_use](vmctx, ctypes.addressof(part), length, bump) == expected
            assert code[kind_of_part](vmctx, number) == kind_of_part(heap, number) == part.kind
    finally:
        heap.control.bump, heap.length(MARKED).value = before, 0
    with pytest.raises(HeapError, match="has no part 3; it has 3"):
        kind_of_part(heap, 3)
    assert code[kind_of_part](vmctx, 3) in (0, 1, 2), "however wrong, it is one"


@functools.cache
def parts_store() -> lh.Store:
    return lh.Store(collector=Carded)


def test_long_names_are_cut() -> None:
    part = Buffer("é" * 20).described(1 << 30)
    assert ImagePart.of(part, 0, b"").name == "é" * 16
    assert ctypes.sizeof(VMCollectorPart) % 8 == 0
