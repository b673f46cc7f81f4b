"""What is read once of an object and never changes: where it is known, and where it must be read again."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap.wasm import events
from lowheap.wasm.known_values import Forgotten, KnownValues

pytestmark = pytest.mark.compiler

MODULE = """(module
  (type $pair (sub (struct
    (field $fixed i32) (field $mutable (mut i32)) (field $small i8) (field $next (ref null $pair)))))
  (type $triple (sub $pair (struct
    (field i32) (field (mut i32)) (field i8) (field (ref null $pair)) (field $third i32))))
  (type $numbers (array (mut i32)))
  (import "" "elsewhere" (func $elsewhere))
  (tag $thrown)
  (func (export "run") (param $pair (ref null $pair)) (param $numbers (ref null $numbers)) (param $any anyref)
    (param $choice i32)
    BODY)
)"""

FIXED, MUTABLE = (
    "(drop (struct.get $pair $fixed (local.get $pair)))",
    "(drop (struct.get $pair $mutable (local.get $pair)))",
)
NEXT = "(drop (struct.get $pair $next (local.get $pair)))"
LENGTH = "(drop (array.len (local.get $numbers)))"
ELEMENT = "(drop (array.get $numbers (local.get $numbers) (local.get $choice)))"
CAST, TEST = "(drop (ref.cast (ref $pair) (local.get $any)))", "(drop (ref.test (ref $pair) (local.get $any)))"
CAST_FURTHER = "(drop (ref.cast (ref $triple) (local.get $any)))"
CALL = "(call $elsewhere)"
WAY_OUT = "(br_if 0 (local.get $choice))"


def emitted(body: str, **options: Any) -> Counter[str]:
    """The events that are emitted for the body of a function."""
    found: Counter[str] = Counter()
    original = events.EventFunctions.call

    def call(self: Any, site: Any, sites: Any, event: str, *args: Any, **others: Any) -> Any:
        found[event] += 1
        return original(self, site, sites, event, *args, **others)

    engine = lh.Engine(compilation="whole", cache=False, **({"collector": "rc-immix"} | options))
    with mock.patch.object(events.EventFunctions, "call", call):
        lh.Module(engine, MODULE.replace("BODY", body)).compiled  # noqa: B018 (compiled when it is asked for)
    return found


KNOWN = {
    "a field, whatever is called in between": (FIXED + CALL + FIXED, "struct_get", 1),
    "a reference in a field": (NEXT + CALL + NEXT, "struct_get", 1),
    "a mutable field": (MUTABLE + CALL + MUTABLE, "struct_get", 2),
    "a packed field": (
        "(drop (struct.get_u $pair $small (local.get $pair)))" * 2
        + "(drop (struct.get_s $pair $small (local.get $pair)))" * 2,
        "struct_get",
        2,
    ),
    "another object": (FIXED + "(local.set $pair (struct.get $pair $next (local.get $pair)))" + FIXED, "struct_get", 3),
    "a supertype's field": (
        "(drop (struct.get $triple 0 (ref.cast (ref $triple) (local.get $pair))))" + FIXED,
        "struct_get",
        1,
    ),
    "a length": (LENGTH + CALL + LENGTH, "array_len", 1),
    "a length, and elements": (ELEMENT + CALL + ELEMENT + LENGTH, "array_len", 1),
    "a new array's length": (
        "(drop (array.len (local.tee $numbers (array.new_default $numbers (local.get $choice)))))" + ELEMENT,
        "array_len",
        0,
    ),
    "a cast": (CAST + CALL + CAST, "cast", 1),
    "a cast, and a test": (CAST + CALL + TEST, "is_instance", 0),
    "a test, and a test": (TEST + CALL + TEST, "is_instance", 1),
    "a cast to a subtype, and one to its supertype": (CAST_FURTHER + CALL + CAST, "cast", 1),
    "a cast to a supertype, and one to its subtype": (CAST + CALL + CAST_FURTHER, "cast", 2),
    "a branch unless it is of a type": (
        "(block (result anyref) (br_on_cast_fail 0 anyref (ref $pair) (local.get $any))" + CALL + CAST + ") drop",
        "cast",
        0,
    ),
    "a branch if it is of a type": (
        "(block (result anyref) (br_on_cast 0 anyref (ref $pair) (local.get $any))" + CALL + CAST + ") drop",
        "cast",
        1,
    ),
    "a new object": (
        "(local.set $any (struct.new_default $pair))" + CALL + CAST,
        "cast",
        0,
    ),
    "before an if": (FIXED + f"(if (local.get $choice) (then {FIXED}) (else {FIXED})) {FIXED}", "struct_get", 1),
    "in an if": (f"(if (local.get $choice) (then {FIXED}{FIXED})) {FIXED}", "struct_get", 2),
    "in both of an if": (f"(if (local.get $choice) (then {FIXED}) (else {FIXED})) {FIXED}", "struct_get", 3),
    "in the only way on": (f"(if (local.get $choice) (then {FIXED}) (else return)) {FIXED}", "struct_get", 1),
    "in an if, and again in what its else leads to": (
        f"(block (if (local.get $choice) (then {FIXED}) (else (br 1))) {FIXED} return) {FIXED}",
        "struct_get",
        2,
    ),
    "behind a way out of an if": (
        f"(if (local.get $choice) (then {WAY_OUT}{FIXED}) (else return)) {FIXED}",
        "struct_get",
        2,
    ),
    "before a way out of a block": (f"(block {FIXED}{WAY_OUT}) {FIXED}", "struct_get", 1),
    "behind a way out of a block": (f"(block {WAY_OUT}{FIXED}) {FIXED}", "struct_get", 2),
    "behind a way out of a block within": (
        f"(block {FIXED} (block {WAY_OUT}{LENGTH}) {FIXED}) {LENGTH}",
        "array_len",
        2,
    ),
    "behind one, and again before the end": (f"(block {WAY_OUT}{FIXED}) {FIXED}{WAY_OUT}{FIXED}", "struct_get", 2),
    "before a loop": (f"{FIXED} (loop {FIXED}{CALL}{WAY_OUT}) {FIXED}", "struct_get", 1),
    "in a loop": (f"(loop {CALL}{FIXED}{WAY_OUT}) {FIXED}", "struct_get", 1),
    "before what may throw": (
        f"(block (try_table (catch_all 0) {FIXED}{CALL}{LENGTH}) {FIXED}{LENGTH} return) {FIXED}",
        "struct_get",
        1,
    ),
    "behind what may throw": (
        f"(block (try_table (catch_all 0) {CALL}{FIXED}) {FIXED} return) {FIXED}",
        "struct_get",
        2,
    ),
    "where a throw leads": (
        f"(block (try_table (catch $thrown 0) {FIXED} (throw $thrown))) {FIXED}",
        "struct_get",
        1,
    ),
    "a table's ways": (
        f"(block (block (br_table 0 1 0 (local.get $choice)) ) {FIXED}) {FIXED}",
        "struct_get",
        2,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_is_not_read_again(name: str) -> None:
    body, event, count = KNOWN[name]
    assert emitted(body)[event] == count


def test_a_collector_with_a_read_barrier_is_told_of_each_read() -> None:
    assert emitted(NEXT + CALL + NEXT, collector="drc")["struct_get"] == 2
    assert emitted(FIXED + CALL + FIXED, collector="drc")["struct_get"] == 1


def test_where_code_is_to_be_made_soon_nothing_is_known() -> None:
    assert emitted(FIXED + CALL + FIXED, opt_level=0)["struct_get"] == 2


Model = dict[int, tuple[int, ...]]
"""All that was found out of each key on the way to a place."""


@dataclass
class Construct:
    """What was known before it, on all edges to its end, and when its first part was done."""

    newest_before: int
    before: Model
    edges: list[tuple[int, Model]] = field(default_factory=list)
    first_edges: int = -1
    put_aside: list[Forgotten] = field(default_factory=list)


@settings(deadline=None)
@given(st.data())
def test_what_is_known_is_what_all_ways_have_found_out(data: st.DataObject) -> None:
    """Beside a model that has, for each place, a dictionary of its own."""
    known, model, numbers = KnownValues(), Model(), itertools.count(1)
    constructs: list[Construct] = []
    for _ in range(data.draw(st.integers(0, 60))):
        step = data.draw(st.sampled_from(["find out", "find out", "open", "edge", "else", "end", "end elsewhere"]))
        if step == "find out":
            key, value = data.draw(st.integers(0, 5)), next(numbers)
            known.put(key, value)
            model = {**model, key: (*model.get(key, ()), value)}
        elif step == "open":
            constructs.append(Construct(known.newest, model))
        elif not constructs:
            continue
        elif step == "edge":
            data.draw(st.sampled_from(constructs)).edges.append((known.newest, model))
        elif step == "else" and constructs[-1].first_edges < 0:
            construct = constructs[-1]
            construct.edges.append((known.newest, model))
            construct.first_edges = len(construct.edges)
            construct.put_aside = known.forget_after(construct.newest_before)
            model = construct.before
        elif step.startswith("end"):
            construct = constructs.pop()
            if step == "end" or not construct.edges:
                construct.edges.append((known.newest, model))
            behind = construct.edges[0][0]
            known.forget_after(behind)
            if len(construct.edges) == construct.first_edges:
                known.recall(construct.put_aside, behind)
            assert all(known.get(key) is not None for key in construct.before)
            model = {}
            for key, found in construct.edges[0][1].items():
                value = known.get(key)
                if value is not None:
                    assert all(value in way.get(key, ()) for _, way in construct.edges)
                    model[key] = found[: found.index(value) + 1]
        for key in range(6):
            values = model.get(key)
            assert known.get(key) == (values[-1] if values else None)
