"""Every fault of `faults.py`, on every side that verifies a heap. With random bytes, the sides agree."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import FAULTS, Saved, Scene, pattern

import lowheap as lh
from lowheap.embed import NativeHeap, attach, ffi
from lowheap.embed.api import Status
from lowheap.inspection import verify
from lowheap.snapshot import Image, read_dump


def from_python(scene: Scene) -> list[str]:
    try:
        scene.heap.verify()
    except lh.HeapCorruptionError as error:
        return error.problems
    return []


def message_of(native: NativeHeap) -> str:
    buffer = ffi().new("char[]", 512)
    native.lh_error_message(native.heap, buffer, 512)
    return bytes(ffi().buffer(buffer)).partition(b"\0")[0].decode()


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
    native = interface(checked=True)
    pieces: list[bytes] = []

    @ffi().callback("lh_writer")
    def write(argument: Any, data: Any, size: int) -> int:
        pieces.append(bytes(ffi().buffer(data, size)))
        return 0

    status = native.lh_dump(native.heap, write, ffi().NULL)
    if status == Status.CORRUPT:
        return [message_of(native).removeprefix("lh_dump: ")]
    assert status == Status.OK
    return verify(read_dump(b"".join(pieces)))


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
