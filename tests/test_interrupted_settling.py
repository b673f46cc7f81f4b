"""A collection of `levanoni_petrank.py`'s that an exception ends, at any line of its settling, in Python.

After it, programs store to objects, and the next collection settles again. Nothing that can be reached may have died,
and no count may be too low; what is too high is what one object, or one entry, refers to.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest
from support.combinations import examples

import lowheap as lh
from lowheap.errors import HeapCorruptionError
from lowheap.types import ANYREF

ROOT = Path(__file__).resolve().parent.parent
SOURCES = tuple(str(ROOT / each) for each in ("examples", "lowheap"))
"""Where lines are counted: not in what the garbage collector of Python calls, whenever that is."""

COLLECTOR = f"{ROOT / 'examples/collectors/levanoni_petrank.py'}:LevanoniPetrank"
FIELDS = 2
COUNT = re.compile(r"object 0x[0-9a-f]+ has count (\d+), but (\d+) owners")
LEFT = re.compile(r"object 0x[0-9a-f]+ has count 0, but is not in the zero-count table")
"""What Deutsch-Bobrow's `dec_ref` leaves when it is ended between its two steps: garbage, too."""


class Scene:
    """Objects with fields, held by handles, and what they refer to."""

    def __init__(self, engine: lh.Engine, cell: int, seed: int) -> None:
        self.random = Random(seed)
        self.store = lh.Store(engine, initial_heap_size=4096)
        self.heap = self.store.heap
        self.offsets = self.heap.struct_layout(cell).traced_offsets
        references = [self.store.alloc_struct(cell) for _ in range(5)]
        self.handles = {each: self.store.roots.create_handle(each) for each in references}
        self.fields: dict[int, list[int]] = {each: [0] * FIELDS for each in references}
        for _ in range(6):
            self.link()
        self.store.collect()  # all that was stored up to here is counted
        for reference in references[3:]:
            self.heap.drop_gc_ref(self.store.roots.release_handle(self.handles.pop(reference)))
        for _ in range(5):
            self.link()

    def link(self) -> None:
        """Store a reference to a field of an object that can be reached, or null."""
        reachable = sorted(self.reachable())
        holder, number = self.random.choice(reachable), self.random.randrange(FIELDS)
        value = self.random.choice([0, *reachable])
        self.heap.write_gc_ref(self.heap.slot(holder, self.offsets[number]), value, holder)
        self.fields[holder][number] = value

    def reachable(self) -> set[int]:
        found: set[int] = set()
        waiting = list(self.handles)
        while waiting:
            each = waiting.pop()
            if each and each not in found:
                found.add(each)
                waiting += self.fields[each]
        return found

    def excess(self) -> int:
        """By how much counts are too high; nothing else may be wrong."""
        problems = self.problems()
        others = [each for each in problems if not LEFT.fullmatch(each)]
        found = [COUNT.fullmatch(each) for each in others]
        assert all(found), problems
        excesses = [int(each[1]) - int(each[2]) for each in found if each]
        assert all(each > 0 for each in excesses), problems
        return sum(excesses) + len(problems) - len(others)

    def problems(self) -> list[str]:
        try:
            self.store.verify()
        except HeapCorruptionError as error:
            return error.problems
        return []

    def check_fields(self) -> None:
        for reference in self.reachable():
            now = [self.heap.slot(reference, offset).value for offset in self.offsets]
            assert now == self.fields[reference]


class Interrupted(Exception):
    """What ends the settling."""


@contextmanager
def interrupted_at(wanted: int) -> Iterator[None]:
    """Raise at a line that is run by `settle`, or by what it calls, in order from 0."""
    depth = lines = 0

    def on_call(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal depth
        if frame.f_code.co_name == "settle":
            depth += 1
        return on_line if depth and frame.f_code.co_filename.startswith(SOURCES) else None

    def on_line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal depth, lines
        if event == "return" and frame.f_code.co_name == "settle":
            depth -= 1
        if event == "line" and depth:
            lines += 1
            if lines > wanted:
                raise Interrupted
        return on_line

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("seed", [1, 2])
def test_settling_that_was_interrupted_is_done_again(seed: int) -> None:
    engine = lh.Engine(collector=COLLECTOR, runtime="python")
    (cell,) = engine.types.register([lh.SubType(lh.StructType((lh.FieldType(ANYREF, True),) * FIELDS))])
    excesses = []
    step = examples(3, 1)
    for line in range(seed % step, 100_000, step):
        scene = Scene(engine, cell, seed)
        with scene.store:
            try:
                with interrupted_at(line):
                    scene.store.collect()
            except Interrupted:
                pass
            else:
                assert scene.excess() == 0
                break
            scene.check_fields()
            for _ in range(3):
                scene.link()
            scene.store.collect()
            scene.check_fields()
            excesses.append(scene.excess())
            assert excesses[-1] <= FIELDS
    assert len(excesses) * step > 100
    assert excesses.count(0) > len(excesses) // 2
