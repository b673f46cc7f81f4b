"""Every fault of `faults.py`, on every side that verifies a heap. With random bytes, the sides agree."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples
from support.embed_reports import dump_of, message_of
from support.faults import FAULTS, Saved, Scene, pattern

import lowheap as lh
from lowheap.embed import NativeHeap, attach
from lowheap.embed.api import Status
from lowheap.layout import FIRST_INDEX, OBJECT_KINDS, VMHeapControl, VMHostData, VMTypeInfo
from lowheap.snapshot import Image, read_dump
from lowheap.snapshot.inspection import verify


def from_python(scene: Scene) -> list[str]:
    try:
        scene.heap.verify()
    except lh.HeapCorruptionError as error:
        return error.problems
    return []


@functools.cache
def interface(*, checked: bool) -> NativeHeap:
    """The C interface on the scene, attached while that was sound."""
    return attach(scene()[0].world.store, checked=checked)


def from_c(scene: Scene, *, checked: bool) -> list[str]:
    native = interface(checked=checked)
    status = native.lh_verify(native.heap)
    assert status in (Status.OK, Status.CORRUPT)
    return [] if status == Status.OK else [message_of(native).removeprefix("lh_verify: ")]


def image_of(scene: Scene) -> Image | list[str]:
    """An image, or what there is none for."""
    try:
        image: Image = scene.heap.snapshot()
    except lh.HeapCorruptionError as error:
        return error.problems
    return image


def from_image(scene: Scene) -> list[str]:
    image = image_of(scene)
    return image if isinstance(image, list) else verify(image)


def from_file(scene: Scene, path: Path) -> list[str]:
    image = image_of(scene)
    if isinstance(image, list):
        return image
    image.save(path)
    loaded = Image.load(path)
    assert loaded == image
    return verify(loaded)


def from_dump(scene: Scene) -> list[str]:
    dump = dump_of(interface(checked=True))
    return dump if isinstance(dump, list) else verify(read_dump(dump))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


SIDES: dict[str, Callable[[Scene, Path], list[str]]] = {
    "python": lambda scene, _: from_python(scene),
    "checked library": lambda scene, _: from_c(scene, checked=True),
    "fast library": lambda scene, _: from_c(scene, checked=False),
    "image": lambda scene, _: from_image(scene),
    "file": lambda scene, directory: from_file(scene, directory / "heap.img"),
    "dump": lambda scene, _: from_dump(scene),
}


@functools.cache
def scene() -> tuple[Scene, Saved]:
    """One heap for all tests; it stays open until the process ends."""
    made = Scene()
    return made, Saved(made.heap)


@pytest.fixture
def broken() -> Iterator[Scene]:
    made, saved = scene()
    for checked in (True, False):
        interface(checked=checked)
    yield made
    saved.restore()


@pytest.mark.parametrize("side", SIDES)
def test_the_scene_is_sound(side: str, broken: Scene, directory: Path) -> None:
    assert SIDES[side](broken, directory) == []


@pytest.mark.parametrize("name", FAULTS)
def test_every_side_names_the_fault(name: str, broken: Scene, directory: Path) -> None:
    inject, message = FAULTS[name]
    inject(broken)
    expected = pattern(broken, message)
    said = {side: find(broken, directory) for side, find in SIDES.items()}
    for side, problems in said.items():
        assert any(re.search(expected, problem) for problem in problems), (side, expected, problems)


def areas(broken: Scene) -> list[tuple[int, int]]:
    """Where the words are that a heap consists of: addresses from, to."""
    control = broken.control
    lengths = (
        (control.heap_base + FIRST_INDEX, control.bump - FIRST_INDEX),
        (ctypes.addressof(control), ctypes.sizeof(VMHeapControl)),
        (control.type_table, control.type_count * ctypes.sizeof(VMTypeInfo)),
        (control.type_data, control.type_data_length * ctypes.sizeof(ctypes.c_uint32)),
        (control.handles, control.handle_count * ctypes.sizeof(ctypes.c_uint32)),
        (control.host_data, control.host_data_count * ctypes.sizeof(VMHostData)),
    )
    return [(start, start + length) for start, length in lengths]


WORDS = (
    st.integers(0, 2**32 - 1)
    | st.integers(0, 128).map(lambda unit: unit * 16)
    | st.sampled_from([*map(int, OBJECT_KINDS), 0, 1, 2, 16, 24, 32, 0xFFFF_FFFF, 0xFFFF_FFF0, 1 << 20, 1 << 24])
)
CHANGES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2**20), st.booleans(), WORDS), min_size=1, max_size=6)


@settings(max_examples=examples(80, 200), deadline=None)
@given(changes=CHANGES)
def test_all_sides_agree_on_random_words(directory: Path, changes: list[tuple[int, int, bool, int]]) -> None:
    """No side crashes, or goes on for ever, and all say the same: Python all that there is, C the first of it."""
    broken, saved = scene()
    places = areas(broken)
    try:
        for area, position, flips_bit, value in changes:
            start, end = places[area]
            word = ctypes.c_uint32.from_address(start + position * 4 % (end - start))
            word.value = word.value ^ 1 << value % 32 if flips_bit else value
        problems = from_python(broken)
        for checked in (True, False):
            first = from_c(broken, checked=checked)
            assert (first == problems == []) or first[0] == problems[0]
        # What an image is refused for is what verifying begins with. It knows the types from the registry, too, so that
        # it sees what makes sense, and yet was not so.
        for find in (from_image, from_dump):
            found = [
                each for each in find(broken) if not each.endswith("is not in the image as it is in the type table")
            ]
            assert found == problems or (found and set(found) <= set(problems)), (found, problems)
        assert from_file(broken, directory / "random.img") == from_image(broken)
    finally:
        saved.restore()
