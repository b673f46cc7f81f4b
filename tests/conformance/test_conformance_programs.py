"""The same heap: after every step of a program, lowheap's live objects are wasmtime's, header by header.

Against 43.0.0 and 37.0.0 objects are at the same indices; 45.0.0 has another allocator, so heaps are compared there as
graphs. Where lowheap differs on purpose, a test names the fault of wasmtime's that is mended, and shows both sides.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from conformance_module import SOURCE, steps
from conformance_run import (
    COLLECT,
    Call,
    InLowheap,
    Mismatch,
    Program,
    Session,
    Step,
    check,
    first_difference,
    record,
    replay,
    same_bytes,
    wasmtime_image,
)
from example_programs import EXAMPLES, Example
from hypothesis import HealthCheck, given, note, seed, settings

import lowheap as lh
from lowheap.layout import (
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_SIZE,
    NULL,
    VMGcKind,
    is_object,
)
from lowheap.peers import VERSIONS, HeapImage, Peer, driver, folder
from lowheap.snapshot import Image
from lowheap.types import I32, I64, FuncType, SubType

SEED = int(os.environ.get("LOWHEAP_SEED", "20260"))
FIRST_FIT_VERSIONS = ("37.0.0", "43.0.0")
RESET = (Call("reset"),)
PAGE = 1 << 16


@pytest.fixture(scope="module")
def peers() -> Iterator[Callable[[str], Peer]]:
    """One process for each release."""
    opened: dict[str, Peer] = {}

    def peer(version: str) -> Peer:
        if version not in opened:
            opened[version] = Peer(version, "(module)")
        return opened[version]

    yield peer
    for each in opened.values():
        each.close()


# ----------------------------------------------------------------------------------------------------------------------
# Heaps as graphs, for a release that places objects elsewhere


def same_graph(ours: Image, theirs: HeapImage) -> list[str]:
    """What differs between the objects that the lists and the probe lead to, other than where they are.

    The bijection of objects begins with the two lists, in their order, and the probe's objects; fields extend it.
    """
    their_image = wasmtime_image(theirs)
    lists = ours.over_approximated_list(), list(theirs.list_order())
    if len(lists[0]) != len(lists[1]):
        return [f"{len(lists[0])} objects are on our list, {len(lists[1])} on theirs"]
    objects, back, types, ids, problems = _Bijection(), [], _Bijection(), _Bijection(), list[str]()
    probe = [(index, theirs.probe[number]) for number, index in enumerate((FIRST_INDEX, FIRST_INDEX + 48))]
    for left, right in (*zip(*lists, strict=True), *probe):
        if objects.pair(left, right) is None:
            return [f"{left:#x} on our list is another object than {right:#x} on theirs"]
        back.append((left, right))
    seen = set(back)
    for left, right in back:  # which grows on the way
        mine, other = ours.object_at(left), their_image.object_at(right)
        place = f"{left:#x}, {right:#x} there"
        for what in ("kind_and_reserved", "ref_count", "size", "length"):
            if getattr(mine, what) != getattr(other, what):
                problems.append(f"{place}: {what} is {getattr(mine, what):#x}, {getattr(other, what):#x} there")
        if types.pair(mine.type_index, other.type_index) is None:
            problems.append(f"{place}: type {mine.type_index}, {other.type_index} there")
        if problems:
            return problems
        values = (*mine.fields(), *mine.elements())
        for value in values:
            start = value.field.offset
            if mine.length is not None:
                start += int(value.label) * value.field.size
            data = theirs.data[right + start : right + start + value.field.size]
            number = int.from_bytes(data, "little")
            if value.field.is_opaque_id:
                same = ids.pair(int.from_bytes(value.data, "little"), number) is not None
            elif value.field.is_traced and is_object(int.from_bytes(value.data, "little")):
                pair = (int.from_bytes(value.data, "little"), number)
                same = objects.pair(*pair) is not None
                if same and pair not in seen:
                    seen.add(pair)
                    back.append(pair)
            else:
                same = value.data == data
            if not same:
                problems.append(f"{place}: {value.label} is {value}, bytes {data.hex(' ')} there")
                return problems
    return problems


class _Bijection:
    """A one-to-one relation of numbers, built pair by pair."""

    def __init__(self) -> None:
        self._there: dict[int, int] = {}
        self._back: dict[int, int] = {}

    def pair(self, left: int, right: int) -> tuple[int, int] | None:
        """Add a pair and return it; None when it does not go with those that there are."""
        if self._there.setdefault(left, right) != right or self._back.setdefault(right, left) != left:
            return None
        return left, right


COMPARISONS: Mapping[str, Callable[[Image, HeapImage], Sequence[object]]] = {
    "37.0.0": same_bytes,
    "43.0.0": same_bytes,
    "45.0.0": same_graph,
}


# ----------------------------------------------------------------------------------------------------------------------
# Programs drawn at random


def looking(drawn: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps with a read of all slots behind every third: what only a global holds, a graph does not show."""
    looked: list[Step] = []
    for number, step in enumerate(drawn):
        looked += [step, Call("look_at_all")] if number % 3 == 2 else [step]
    return (*looked, Call("look_at_all"))


@pytest.mark.long
@pytest.mark.parametrize(("version", "programs"), [("43.0.0", 500), ("37.0.0", 60), ("45.0.0", 60)])
def test_random_programs(peers: Callable[[str], Peer], version: str, programs: int) -> None:
    """`LOWHEAP_SEED` chooses other programs. A failure is shrunk, and printed with the seed."""
    session = Session(peers(version), Program(SOURCE, ()), RESET, COMPARISONS[version])
    ran = 0

    @seed(SEED)
    @settings(
        max_examples=programs, deadline=None, database=None, print_blob=False, suppress_health_check=list(HealthCheck)
    )
    @given(steps())
    def run(drawn: tuple[Step, ...]) -> None:
        nonlocal ran
        ran += 1
        note(f"LOWHEAP_SEED={SEED}")
        session.check(looking(drawn) if version == "45.0.0" else drawn)

    try:
        run()
    finally:
        session.close()
    assert ran >= programs
    assert session.moments > 10 * programs
    if programs >= 500:
        assert session.traps > 10


@pytest.mark.parametrize("version", FIRST_FIT_VERSIONS)
def test_a_heap_that_grows_and_is_swept(peers: Callable[[str], Peer], version: str) -> None:
    """Through several growths, with holes of all sizes, and to the first object after them."""
    churned = [Call("churn", (40, 1000 + 700 * number)) for number in range(6)]
    holes: list[Step] = []
    for number in range(24):
        holes += [Call("new_bytes", (number % 12, number, 50 * number)), Call("new_base", (12 + number % 3, 0, number))]
        if number % 5 == 4:
            holes += [Call("clear", (number % 7,)), COLLECT]
    program = Program(SOURCE, (*churned[:3], *holes, COLLECT, *churned[3:], *holes, COLLECT, Call("chain", (0, 3000))))
    recording = record(peers(version), program)
    assert len({len(moment.image.data) for moment in recording.moments}) >= 3, "the heap did not grow"
    check(recording)


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_that_do_not_fit(peers: Callable[[str], Peer], version: str) -> None:
    """Near 2^32 an allocation traps on both sides, and leaves the heap as it was (wasmtime #13110, #13115)."""
    sizes = [Call("new_bytes", (1, 0, -length)) for length in (1, 27, 28, 29, 44)]
    sizes += [Call("new_longs", (1, 0, -1)), Call("new_longs", (1, 0, (1 << 29) - 4))]
    sizes += [Call("new_refs", (1, 0, (1 << 30) - 7)), Call("new_refs", (1, 0, -1))]
    program = Program(SOURCE, (Call("new_base", (0, 0, 1)), *sizes, COLLECT))
    recording = record(peers(version), program)
    assert [moment.returned for moment in recording.moments].count("trap") == len(sizes)
    check(recording, COMPARISONS[version])


# ----------------------------------------------------------------------------------------------------------------------
# The example programs

SWAP = """\
(module
  (rec (type $pair (struct
    (field $first (mut i32)) (field $second (mut i32)) (field $link (mut (ref null $pair))))))
  (func (export "swap") (param $pair (ref null $pair)) (result (ref null $pair)) (local $first i32)
    (if (ref.is_null (local.get $pair)) (then (return (ref.null $pair))))
    (local.set $first (struct.get $pair $first (local.get $pair)))
    (struct.set $pair $first (local.get $pair) (struct.get $pair $second (local.get $pair)))
    (struct.set $pair $second (local.get $pair) (local.get $first))
    (if (i32.gt_s (struct.get $pair $first (local.get $pair)) (local.get $first))
      (then (return (struct.get $pair $link (local.get $pair)))))
    (local.get $pair)))
"""


def program_of(example: Example) -> Program:
    """An example as a program: its call, repeated where that may be; collections; what clears its globals."""
    run = Call(example.export, example.args)
    parts: list[Step] = [run, COLLECT]
    if example.imports is None:
        parts += [run]
    if example.name == "callbacks":
        parts += [Call("step", (4,)), Call("step", (5,)), COLLECT]
    if example.reset is not None:
        parts += [Call(example.reset)]
    if example.name == "callbacks_refs":
        return Program(example.source, (*parts, COLLECT), companions={"host": SWAP})
    if example.imports is None:
        return Program(example.source, (*parts, COLLECT))
    factory = example.imports

    def hosts(export: Callable[[str], Any], pause: Callable[[int], None]) -> dict[str, Callable[..., Any]]:
        functions = {name: function.call for name, function in factory(export).items()}
        following = functions["host.next"]

        def next_(number: int) -> Any:
            pause(number % 2)
            return following(number)

        return {**functions, "host.next": next_}

    return Program(example.source, (*parts, COLLECT), hosts)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("example", [example for example in EXAMPLES if not example.large], ids=str)
def test_examples(peers: Callable[[str], Peer], example: Example, version: str) -> None:
    recording = record(peers(version), program_of(example))
    returned = [moment.returned for moment in recording.moments if moment.label == repr(recording.program.steps[0])]
    assert returned[0] == example.expected
    check(recording, COMPARISONS[version])
