"""Roots are precise, at the level of WebAssembly programs: what compiled code still needs lives, all else dies.

Small programs come to safepoints at which somebody *looks*: collects, verifies the heap, and notes which objects are
left. Each test states that set exactly, so a reference that is kept too long fails as surely as one that is lost.
Objects are told apart by a marker, an i32 in their first field.
"""

from __future__ import annotations

import functools
import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from support.combinations import by_turns, pairwise

import lowheap as lh
from lowheap.collectors.shared.sizing import LIST_FLOOR
from lowheap.layout import HEADER_SIZE, VMGcKind, block_length
from lowheap.wasm.inlining import SMALL

Label = int | str
"""An object as a look notes it: a struct's marker, "array LENGTH", or "extern VALUE"."""

BARRIERS = ("drc", "outlined")
OPT_LEVELS = (0, 1, 2, 3)
RUNTIMES = ("python", "native")


# ----------------------------------------------------------------------------------------------------------------------
# Looking


def live(store: lh.Store) -> list[Label]:
    """Return every object in the heap, sorted."""
    heap = store.heap
    labels: list[Label] = []
    for found in heap.objects():
        if found.kind == VMGcKind.ARRAY_REF:
            labels.append(f"array {heap.array_len(found.index)}")
        elif found.kind == VMGcKind.EXTERN_REF:
            labels.append(f"extern {store.host_data.get(heap.externref_host_data(found.index))}")
        else:
            labels.append(int.from_bytes(heap.memory.read(found.index + HEADER_SIZE, 4), "little", signed=True))
    return sorted(labels, key=str)


class WatchedStore(lh.Store):
    """A store that notes what is left after the collection at a safepoint, while the program has its `armed` set.

    Looks by host functions are noted too, in the same list. The heap is small, unless told: a larger one carves memory
    into hundreds of blocks at once, all of which a look would go through.
    """

    def __init__(self, engine: lh.Engine, *, initial_heap_size: int = 1 << 16, **options: Any) -> None:
        super().__init__(engine, initial_heap_size=initial_heap_size, **options)
        self.looks: list[list[Label]] = []
        self.is_armed: Callable[[], bool] = lambda: False

    def look(self) -> None:
        self.collect()
        self.verify()
        self.looks.append(live(self))

    def safepoint(self) -> None:
        super().safepoint()
        if self.is_armed():
            self.verify()
            self.looks.append(live(self))


@functools.cache
def engine(barriers: str = "drc", opt_level: int = 2, runtime: str = "native") -> lh.Engine:
    return lh.Engine(barriers=barriers, opt_level=opt_level, runtime=runtime)


@functools.cache
def compiled(engine: lh.Engine, source: str) -> lh.Module:
    return lh.Module(engine, source)


on_every_engine = pytest.mark.parametrize(
    ("barriers", "opt_level", "runtime"), pairwise(BARRIERS, OPT_LEVELS, RUNTIMES)
)
on_every_engine_and_schedule = pytest.mark.parametrize(
    ("barriers", "opt_level", "runtime", "every"), pairwise(BARRIERS, OPT_LEVELS, RUNTIMES, (0, 1))
)


class Scene:
    """An instance with its host functions, on a store of its own; `looks` is what its looks have found."""

    def __init__(self, store: WatchedStore, source: str, imports: dict[str, Any] | None = None) -> None:
        self.store = store
        self.module = compiled(store.engine, source)
        given: dict[tuple[str, str], Any] = {("host", "look"): store.look}
        given |= {("host", name): function for name, function in (imports or {}).items()}
        if any(each.module == "other" for each in self.module.imports):
            other = lh.Instance(store, compiled(store.engine, OTHER), given)
            given["other", "look"] = other.exports["look"]
        given.setdefault(("host", "reenter"), lambda: self.exports["look_inside"]())
        self.exports: Any = lh.Instance(store, self.module, given).exports
        if "armed" in self.exports:
            store.is_armed = lambda: bool(self.exports["armed"].value)

    @property
    def looks(self) -> list[list[Label]]:
        return self.store.looks


@contextmanager
def scene(
    source: str,
    imports: dict[str, Any] | None = None,
    *,
    on: lh.Engine | None = None,
    **options: Any,
) -> Iterator[Scene]:
    """Run a module on an engine; afterwards nothing may be left of what it allocated."""
    store = WatchedStore(on or engine(), **options)
    with store:
        each = Scene(store, source, imports)
        yield each
        store.collect()
        store.verify()
        assert live(store) == []
        assert store.heap.stats().listed == 0
        assert len(store.host_data) == 0


# ----------------------------------------------------------------------------------------------------------------------
# Programs: a common beginning, and the ways to come to a safepoint


def new(marker: int) -> str:
    return f"(struct.new $m (i32.const {marker}))"


def use(reference: str) -> str:
    """Add an object's marker to the sum."""
    return f"(global.set $sum (i32.add (global.get $sum) (struct.get $m $marker {reference})))"


def use_i32(value: str) -> str:
    return f"(global.set $sum (i32.add (global.get $sum) {value}))"


LOOK = "@LOOK"

# Markers are mutable: of a field that is not, optimised code may know the value, and so need the object no more.

PRELUDE = """
  (type $m (sub (struct (field $marker (mut i32)))))
  (type $pair (sub $m
    (struct (field $marker (mut i32)) (field $left (mut (ref null $m))) (field $right (mut (ref null $m))))))
  (type $probe (struct (field $marker i32)))
  (type $refs (array (mut (ref null $m))))
  (type $numbers (array (mut i32)))
  (type $void (func))
  (import "host" "look" (func $host_look))
  (import "host" "reenter" (func $reenter))
  (import "other" "look" (func $other_look))
  (global $sum (export "sum") (mut i32) (i32.const 0))
  (global $armed (export "armed") (mut i32) (i32.const 0))
  (global $kept (mut (ref null $m)) (ref.null none))
  (global $deep (mut i32) (i32.const 2))
  (elem declare func $look_once)
  (func $look_once (call $host_look))
  (func $look_behind (param $depth i32)
    (if (local.get $depth)
      (then (call $look_behind (i32.sub (local.get $depth) (i32.const 1))))
      (else (call $host_look))))
  (func $allocate_behind (param $depth i32)
    (if (local.get $depth)
      (then (call $allocate_behind (i32.sub (local.get $depth) (i32.const 1))))
      (else
        (global.set $armed (i32.const 1))
        (drop (struct.new $probe (i32.const -1)))
        (global.set $armed (i32.const 0)))))
  (func (export "look_inside")
    (local $mine (ref null $m))
    (local.set $mine (struct.new $m (i32.const -2)))
    (drop (struct.get $m $marker (local.get $mine)))
    (call $look_once))
"""

OTHER = """(module
  (import "host" "look" (func $look))
  (func (export "look") (call $look)))"""

SAFEPOINTS = {
    "host function": "(call $host_look)",
    "inlined": "(call $look_once)",
    "not inlined": "(call $look_behind (global.get $deep))",
    "call_ref": "(call_ref $void (ref.func $look_once))",
    "other instance": "(call $other_look)",
    "re-entered": "(call $reenter)",
    "struct.new": """(global.set $armed (i32.const 1))
      (drop (struct.new $probe (i32.const -1)))
      (global.set $armed (i32.const 0))""",
    "array.new": """(global.set $armed (i32.const 1))
      (drop (array.new_default $numbers (i32.const 5)))
      (global.set $armed (i32.const 0))""",
    "struct.new behind": "(call $allocate_behind (i32.const 2))",
}
"""The ways to a look. After each, the program goes on, and nothing of the way itself is left."""


@dataclass(frozen=True)
class Run:
    """A call of a case's export: its arguments, what each look finds, and the sum of what was used."""

    args: tuple[int, ...]
    looks: tuple[tuple[Label, ...], ...]
    total: int


@dataclass(frozen=True)
class Case:
    """Functions of which one is exported under the case's name; `LOOK` in them stands for a way to a safepoint."""

    name: str
    functions: str
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        return self.name


CASES: list[Case] = []


def case(name: str, body: str, *runs: Run, helpers: str = "", params: int = 0) -> None:
    """Add a case: `body` is its function's, with locals; its parameters are $p0, $p1, ..., all i32."""
    declared = " ".join(f"(param $p{number} i32)" for number in range(params))
    CASES.append(Case(name, f'{helpers}\n  (func (export "{name}") {declared}\n{body})', runs))


def run(*looks: Sequence[Label], total: int, args: tuple[int, ...] = ()) -> Run:
    return Run(args, tuple(tuple(sorted(look, key=str)) for look in looks), total)


# Locals, the operand stack, parameters.

case(
    "locals die one after the other",
    f"""(local $a (ref null $m)) (local $b (ref null $m))
    (local.set $a {new(1)})
    (local.set $b {new(2)})
    {LOOK} {use("(local.get $a)")}
    {LOOK} {use("(local.get $b)")}
    {LOOK}""",
    run([1, 2], [2], [], total=3),
)
case(
    "a local that is set again has lost its first object",
    f"""(local $a (ref null $m))
    (local.set $a {new(1)})
    {LOOK} {use("(local.get $a)")}
    (local.set $a {new(2)})
    {LOOK} {use("(local.get $a)")}
    (local.set $a {new(3)})
    {LOOK}""",
    run([1], [2], [], total=3),
)
case(
    "a local that is set before its next use is dead until then",
    f"""(local $a (ref null $m))
    (local.set $a {new(1)})
    {LOOK}
    (local.set $a {new(2)})
    {use("(local.get $a)")}""",
    run([], total=2),
)
case(
    "a local that cannot be null",
    f"""(local $a (ref $m))
    (local.set $a {new(1)})
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [], total=1),
)
case(
    "local.tee leaves it in two places",
    f"""(local $a (ref null $m))
    {use(f"(local.tee $a {new(1)})")}
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [], total=2),
)
case(
    "operands under a safepoint",
    f"""(call $operands_take
      {new(1)}
      (block (result (ref $m)) {LOOK} {new(2)})
      (block (result (ref $m)) {LOOK} {new(4)})
      (block (result i32) {LOOK} (i32.const 8)))
    {LOOK}""",
    run([1], [1, 2], [1, 2, 4], [], total=15),
    helpers=f"""(func $operands_take (param $a (ref $m)) (param $b (ref $m)) (param $c (ref $m)) (param $n i32)
      {use("(local.get $a)")} {use("(local.get $b)")} {use("(local.get $c)")} {use_i32("(local.get $n)")})""",
)
case(
    "an operand that is dropped at last",
    f"""{new(1)} {LOOK} drop {LOOK}""",
    run([], [], total=0),  # a drop is no use
)
case(
    "a parameter lives in its function to its last use",
    f"""(call $parameter {new(1)}) {LOOK}""",
    run([1], [], [], total=1),
    helpers=f"""(func $parameter (param $a (ref $m)) {LOOK} {use("(local.get $a)")} {LOOK})""",
)
case(
    "a parameter that the caller holds too",
    f"""(local $a (ref null $m))
    (local.set $a {new(1)})
    (call $held_parameter (ref.as_non_null (local.get $a)))
    {use("(local.get $a)")} {LOOK}""",
    run([1], [1], [], total=2),
    helpers=f"""(func $held_parameter (param $a (ref $m)) {LOOK} {use("(local.get $a)")} {LOOK})""",
)
case(
    "a parameter that nobody uses",
    f"""(call $unused_parameter {new(1)}) {LOOK}""",
    run([], [], total=0),
    helpers=f"""(func $unused_parameter (param $a (ref $m)) {LOOK})""",
)
case(
    "arguments of a recursion",
    f"""(call $recursion {new(1)} (i32.const 3)) {LOOK}""",
    run([1, 2, 3, 4], [1, 2, 3], [1, 2], [1], [], total=10),
    helpers=f"""(func $recursion (param $a (ref $m)) (param $n i32)
      (if (local.get $n)
        (then (call $recursion (struct.new $m (i32.sub (i32.const 5) (local.get $n)))
          (i32.sub (local.get $n) (i32.const 1)))))
      {LOOK} {use("(local.get $a)")})""",
)
case(
    "a result that is passed up",
    f"""(local $a (ref null $m))
    (local.set $a (call $passes_up {new(1)}))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [1], [], total=1),
    helpers=f"""(func $passes_up (param $a (ref $m)) (result (ref $m)) {LOOK} (local.get $a))""",
)
case(
    "forty at once",
    "".join(f"(local $x{n} (ref null $m))" for n in range(40))
    + "".join(f"(local.set $x{n} {new(n)})" for n in range(40))
    + LOOK
    + "".join(use(f"(local.get $x{n})") for n in range(0, 40, 2))
    + LOOK
    + "".join(use(f"(local.get $x{n})") for n in range(1, 40, 2))
    + LOOK,
    run(range(40), range(1, 40, 2), [], total=sum(range(40))),
)

# Control.

case(
    "a block's result",
    f"""(local $a (ref null $m)) (local $b (ref null $m))
    (local.set $b {new(2)})
    (local.set $a (block (result (ref $m)) {LOOK} {use("(local.get $b)")} {new(1)}))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([2], [1], [], total=3),
)
case(
    "a block's result, by a branch or by its end",
    f"""(local $a (ref null $m))
    (local.set $a
      (block $out (result (ref $m))
        (drop (br_if $out {new(1)} (local.get $p0)))
        {LOOK}
        {new(2)}))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [], total=1, args=(1,)),
    run([], [2], [], total=2, args=(0,)),
    params=1,
)
case(
    "the results of an if",
    f"""(local $a (ref null $m))
    (local.set $a
      (if (result (ref $m)) (local.get $p0)
        (then {new(1)} {LOOK})
        (else {new(2)} {LOOK})))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [1], [], total=1, args=(1,)),
    run([2], [2], [], total=2, args=(0,)),
    params=1,
)
case(
    "what one branch uses is dead in the other",
    f"""(local $a (ref null $m)) (local $b (ref null $m))
    (local.set $a {new(1)})
    (local.set $b {new(2)})
    {LOOK}
    (if (local.get $p0)
      (then {LOOK} {use("(local.get $a)")})
      (else {LOOK} {use("(local.get $b)")}))
    {LOOK}""",
    run([1, 2], [1], [], total=1, args=(1,)),
    run([1, 2], [2], [], total=2, args=(0,)),
    params=1,
)
case(
    "a local that is set on one path only",
    f"""(local $a (ref null $m))
    (local.set $a {new(1)})
    (if (local.get $p0) (then (local.set $a {new(2)}) {LOOK}))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([2], [2], [], total=2, args=(1,)),
    run([1], [], total=1, args=(0,)),
    params=1,
)
case(
    "a local that a loop carries",
    f"""(local $a (ref null $m)) (local $n i32)
    (local.set $a {new(1)})
    (loop $again
      {LOOK}
      (local.set $a (struct.new $m (i32.add (struct.get $m $marker (local.get $a)) (i32.const 1))))
      (br_if $again
        (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [2], [3], [4], [], total=4),
)
case(
    "a value that a loop carries on the stack",
    f"""(local $a (ref null $m))
    {new(1)}
    (loop $again (param (ref $m)) (result (ref $m))
      {LOOK}
      (local.set $a)
      (struct.new $m (i32.add (struct.get $m $marker (local.get $a)) (i32.const 1)))
      (br_if $again (i32.lt_u (struct.get $m $marker (local.get $a)) (i32.const 3))))
    {LOOK}
    (local.set $a)
    {use("(local.get $a)")} {LOOK}""",
    run([1], [2], [3], [4], [], total=4),
)
case(
    "two locals that change places in a loop",
    f"""(local $a (ref null $m)) (local $b (ref null $m)) (local $t (ref null $m)) (local $n i32)
    (local.set $a {new(1)})
    (local.set $b {new(2)})
    (loop $again
      {LOOK}
      (local.set $t (local.get $a))
      (local.set $a (local.get $b))
      (local.set $b (local.get $t))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
    {use("(local.get $a)")} {LOOK} {use("(local.get $b)")} {LOOK}""",
    run([1, 2], [1, 2], [1, 2], [1], [], total=3),
)
case(
    "a local that a loop sets and nobody reads",
    f"""(local $a (ref null $m)) (local $n i32)
    (loop $again
      {LOOK}
      (local.set $a (struct.new $m (local.get $n)))
      {LOOK}
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2))))
    {LOOK}""",
    run([], [], [], [], [], total=0),
)
case(
    "phis that only feed each other are dead",
    f"""(local $a (ref null $m)) (local $b (ref null $m)) (local $t (ref null $m)) (local $n i32)
    (local.set $a {new(1)})
    (local.set $b {new(2)})
    (loop $again
      {LOOK}
      (local.set $t (local.get $a))
      (local.set $a (local.get $b))
      (local.set $b (local.get $t))
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2))))""",
    run([], [], total=0),
)
case(
    "what a loop uses in each turn lives through all of them",
    f"""(local $a (ref null $m)) (local $n i32)
    (local.set $a {new(1)})
    (loop $again
      {LOOK} {use("(local.get $a)")}
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
    {LOOK}""",
    run([1], [1], [1], [], total=3),
)
case(
    "a loop in a loop",
    f"""(local $a (ref null $m)) (local $b (ref null $m)) (local $i i32) (local $j i32)
    (loop $outer
      (local.set $a (struct.new $m (i32.add (i32.const 10) (local.get $i))))
      (local.set $j (i32.const 0))
      (loop $inner
        (local.set $b (struct.new $m (local.get $j)))
        {LOOK} {use("(local.get $b)")}
        (br_if $inner (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 2))))
      {LOOK} {use("(local.get $a)")}
      (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 2))))
    {LOOK}""",
    run([0, 10], [1, 10], [10], [0, 11], [1, 11], [11], [], total=23),
)
case(
    "select",
    f"""(local $a (ref null $m))
    (local.set $a (select (result (ref null $m)) {new(1)} {new(2)} (local.get $p0)))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [], total=1, args=(1,)),
    run([2], [], total=2, args=(0,)),
    params=1,
)
case(
    "the arms of a br_table",
    f"""(local $a (ref null $m)) (local $b (ref null $m))
    (local.set $b {new(2)})
    (block $out
      (block $third (result (ref $m))
        (block $second (result (ref $m))
          (block $first (result (ref $m))
            (br_table $first $second $third {new(1)} (local.get $p0)))
          (local.set $a)
          {LOOK} {use("(local.get $a)")} {LOOK}
          (br $out))
        (drop)
        {LOOK} {use("(local.get $b)")} {LOOK}
        (br $out))
      (local.set $a)
      {LOOK} {use("(local.get $a)")} {use("(local.get $b)")})
    {LOOK}""",
    run([1], [], [], total=1, args=(0,)),
    run([2], [], [], total=2, args=(1,)),
    run([1, 2], [], total=3, args=(2,)),
    run([1, 2], [], total=3, args=(-1,)),
    params=1,
)
case(
    "a return in the middle",
    f"""(call $returns (local.get $p0)) {LOOK}""",
    run([1, 2], [], total=1, args=(1,)),
    run([1, 2], [2], [], total=2, args=(0,)),
    params=1,
    helpers=f"""(func $returns (param $p i32) (local $a (ref null $m)) (local $b (ref null $m))
      (local.set $a {new(1)})
      (local.set $b {new(2)})
      {LOOK}
      (if (local.get $p) (then {use("(local.get $a)")} (return)))
      {LOOK} {use("(local.get $b)")})""",
)
case(
    "uses that cannot be reached",
    f"""(local $a (ref null $m))
    (local.set $a {new(1)})
    (block $out
      {LOOK}
      (br $out)
      {use("(local.get $a)")})
    {LOOK}""",
    run([], [], total=0),
)
case(
    "uses before a trap that is not taken",
    f"""(local $a (ref null $m))
    (local.set $a {new(1)})
    (if (local.get $p0) (then {LOOK} {use("(local.get $a)")} (unreachable)))
    {LOOK}""",
    run([], total=0, args=(0,)),
    params=1,
)

# Branches and casts on references.

MAKE_ANY = f"""(func $make_NAME (param $p i32) (result anyref)
      (if (i32.eqz (local.get $p)) (then (return (ref.null none))))
      (if (i32.eq (local.get $p) (i32.const 1)) (then (return {new(1)})))
      (if (i32.eq (local.get $p) (i32.const 2))
        (then (return (struct.new $pair (i32.const 2) {new(3)} (ref.null none)))))
      (ref.i31 (local.get $p)))"""

case(
    "br_on_null",
    f"""(local $a (ref null $m))
    (if (local.get $p0) (then (local.set $a {new(1)})))
    (block $null
      {use(f"(block (result (ref $m)) (br_on_null $null (local.get $a)) {LOOK})")}
      {LOOK}
      (return))
    {LOOK}""",
    run([1], [], total=1, args=(1,)),
    run([], total=0, args=(0,)),
    params=1,
)
case(
    "br_on_non_null",
    f"""(local $a (ref null $m)) (local $b (ref null $m))
    (if (local.get $p0) (then (local.set $a {new(1)})))
    (local.set $b
      (block $found (result (ref $m))
        (br_on_non_null $found (local.get $a))
        {LOOK}
        {new(2)}))
    {LOOK} {use("(local.get $b)")} {LOOK}""",
    run([1], [], total=1, args=(1,)),
    run([], [2], [], total=2, args=(0,)),
    params=1,
)
case(
    "br_on_cast",
    f"""(local $a (ref null $m)) (local $rest anyref)
    (local.set $a
      (block $found (result (ref $m))
        (local.set $rest (br_on_cast $found anyref (ref $m) (call $make_cast (local.get $p0))))
        {LOOK}
        {use_i32("(ref.is_null (local.get $rest))")}
        {new(9)}))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [], total=1, args=(1,)),
    run([2, 3], [], total=2, args=(2,)),
    run([], [9], [], total=10, args=(0,)),
    run([], [9], [], total=9, args=(5,)),
    params=1,
    helpers=MAKE_ANY.replace("NAME", "cast"),
)
case(
    "br_on_cast_fail",
    f"""(local $a (ref null $m)) (local $rest anyref)
    (local.set $rest
      (block $failed (result anyref)
        (local.set $a (br_on_cast_fail $failed anyref (ref $pair) (call $make_cast_fail (local.get $p0))))
        {LOOK} {use("(struct.get $pair $left (ref.cast (ref $pair) (local.get $a)))")}
        {LOOK}
        (return)))
    {LOOK} {use_i32("(ref.test (ref $m) (local.get $rest))")} {LOOK}""",
    run([2, 3], [], total=3, args=(2,)),
    run([1], [], total=1, args=(1,)),
    run([], [], total=0, args=(0,)),
    run([], [], total=0, args=(5,)),
    params=1,
    helpers=MAKE_ANY.replace("NAME", "cast_fail"),
)
case(
    "a cast reference is the same object",
    f"""(local $any anyref) (local $a (ref null $m))
    (local.set $any {new(1)})
    {LOOK}
    (local.set $a (ref.cast (ref $m) (local.get $any)))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [1], [], total=1),
)
case(
    "through extern and back",
    f"""(local $extern externref) (local $any anyref)
    (local.set $extern (extern.convert_any {new(1)}))
    {LOOK}
    (local.set $any (any.convert_extern (local.get $extern)))
    {LOOK} {use("(ref.cast (ref $m) (local.get $any))")} {LOOK}""",
    run([1], [1], [], total=1),
)
case(
    "a comparison is a use",
    f"""(local $a eqref) (local $b eqref)
    (local.set $a {new(1)})
    (local.set $b {new(2)})
    {LOOK} {use_i32("(ref.eq (local.get $a) (local.get $b))")} {LOOK}""",
    run([1, 2], [], total=0),
)
case(
    "ref.is_null is a use of what may be null",
    f"""(local $a (ref null $m))
    (if (local.get $p0) (then (local.set $a {new(1)})))
    {LOOK} {use_i32("(ref.is_null (local.get $a))")} {LOOK}""",
    run([1], [], total=0, args=(1,)),
    run([], [], total=1, args=(0,)),
    params=1,
)

# Several values.

case(
    "several results of a function",
    f"""(local $a (ref null $m)) (local $b (ref null $m)) (local $n i32)
    (call $two {new(1)})
    (local.set $n) (local.set $b) (local.set $a)
    {LOOK} {use("(local.get $b)")} {LOOK} {use("(local.get $a)")} {use_i32("(local.get $n)")} {LOOK}""",
    run([1], [1, 2], [1], [], total=7),
    helpers=f"""(func $two (param $a (ref $m)) (result (ref $m) (ref $m) i32)
      {LOOK} (local.get $a) {new(2)} (i32.const 4))""",
)
case(
    "several results of which one is dropped",
    f"""(local $a (ref null $m))
    (call $two_again)
    (local.set $a) (drop)
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([2], [], total=2),
    helpers=f"""(func $two_again (result (ref $m) (ref $m)) {new(1)} {new(2)})""",
)
case(
    "several results of a block",
    f"""(local $a (ref null $m)) (local $b (ref null $m))
    (block $out (result (ref $m) (ref $m))
      {new(1)} {new(2)}
      (br_if $out (local.get $p0))
      {LOOK}
      (drop) {new(3)})
    {LOOK}
    (local.set $b) (local.set $a)
    {use("(local.get $a)")} {LOOK} {use("(local.get $b)")}""",
    run([1, 2], [2], total=3, args=(1,)),
    run([1], [1, 3], [3], total=4, args=(0,)),
    params=1,
)

# What was read from an object or a global whose owner is gone.

case(
    "an element outlives its array",
    f"""(local $array (ref null $refs)) (local $a (ref null $m))
    (local.set $array (array.new_fixed $refs 3 {new(1)} {new(2)} {new(3)}))
    {LOOK}
    (local.set $a (array.get $refs (local.get $array) (i32.const 1)))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1, 2, 3, "array 3"], [2], [], total=2),
)
case(
    "a field outlives its struct",
    f"""(local $pair (ref null $pair)) (local $a (ref null $m))
    (local.set $pair (struct.new $pair (i32.const 9) {new(1)} {new(2)}))
    {LOOK}
    (local.set $a (struct.get $pair $right (local.get $pair)))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1, 2, 9], [2], [], total=2),
)
case(
    "a struct keeps what it holds",
    f"""(local $pair (ref null $pair))
    (local.set $pair (struct.new $pair (i32.const 9) {new(1)} (ref.null none)))
    (struct.set $pair $right (local.get $pair) {new(2)})
    {LOOK}
    (struct.set $pair $left (local.get $pair) (ref.null none))
    {LOOK} {use("(local.get $pair)")} {LOOK}""",
    run([1, 2, 9], [2, 9], [], total=9),
)
case(
    "a length that was read before holds no array",
    f"""(local $n i32)
    (local.set $n (array.len (array.new_default $refs (i32.const 3))))
    {LOOK} {use_i32("(local.get $n)")}""",
    run([], total=3),
)
case(
    "an array lives until an element is read",
    f"""(local $array (ref null $refs))
    (local.set $array (array.new_default $refs (i32.const 3)))
    {LOOK} {use_i32("(ref.is_null (array.get $refs (local.get $array) (i32.const 0)))")} {LOOK}""",
    run(["array 3"], [], total=1),
)
case(
    "a store after a safepoint needs both",
    f"""(local $pair (ref null $pair)) (local $a (ref null $m))
    (local.set $pair (struct.new $pair (i32.const 9) (ref.null none) (ref.null none)))
    (local.set $a {new(1)})
    {LOOK}
    (struct.set $pair $left (local.get $pair) (local.get $a))
    {LOOK} {use("(struct.get $pair $left (local.get $pair))")} {LOOK}""",
    run([1, 9], [1, 9], [], total=1),
)
case(
    "a global that is cleared behind a local",
    f"""(local $a (ref null $m))
    (global.set $kept {new(1)})
    {LOOK}
    (local.set $a (global.get $kept))
    (global.set $kept (ref.null none))
    {LOOK} {use("(local.get $a)")} {LOOK}""",
    run([1], [1], [], total=1),
)
case(
    "a global that is set again",
    f"""(local $a (ref null $m))
    (global.set $kept {new(1)})
    (local.set $a (global.get $kept))
    (global.set $kept {new(2)})
    {LOOK} {use("(local.get $a)")} {LOOK}
    (global.set $kept (ref.null none))
    {LOOK}""",
    run([1, 2], [2], [], total=1),
)
case(
    "a list that is taken apart from its head",
    f"""(local $at (ref null $pair)) (local $n i32)
    (loop $build
      (local.set $at (struct.new $pair (local.get $n) (local.get $at) (ref.null none)))
      (br_if $build (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
    (loop $walk
      {LOOK} {use("(local.get $at)")}
      (local.set $at (ref.cast (ref null $pair) (struct.get $pair $left (local.get $at))))
      (br_if $walk (i32.eqz (ref.is_null (local.get $at)))))
    {LOOK}""",
    run([0, 1, 2], [0, 1], [0], [], total=3),
)

# Functions as values.

case(
    "arguments of call_ref",
    f"""(call_ref $take {new(1)} {new(2)} (ref.func $taken)) {LOOK}""",
    run([1, 2], [2], [], [], total=3),
    helpers=f"""(type $take (func (param (ref $m)) (param (ref $m))))
    (elem declare func $taken)
    (func $taken (type $take) (param $a (ref $m)) (param $b (ref $m))
      {LOOK} {use("(local.get $a)")} {LOOK} {use("(local.get $b)")} {LOOK})""",
)
case(
    "a funcref across a safepoint",
    f"""(local $f (ref null $give)) (local $a (ref null $m))
    (local.set $a {new(1)})
    (local.set $f (ref.func $given))
    {LOOK} {use("(call_ref $give (local.get $f))")}
    {LOOK} {use("(local.get $a)")}""",
    run([1], [1], total=8),
    helpers=f"""(type $give (func (result (ref $m))))
    (elem declare func $given)
    (func $given (type $give) {new(7)})""",
)

# What is no object.

case(
    "locals that nothing was put in",
    f"""(local $a (ref null $m)) (local $b anyref) (local $c externref) (local $d (ref null $refs)) (local $e eqref)
    {LOOK}
    {use_i32("(ref.is_null (local.get $a))")} {use_i32("(ref.is_null (local.get $b))")}
    {use_i32("(ref.is_null (local.get $c))")} {use_i32("(ref.is_null (local.get $d))")}
    {use_i32("(ref.is_null (local.get $e))")}""",
    run([], total=5),
)
case(
    "i31 in every kind of slot",
    f"""(local $a anyref) (local $b eqref) (local $c i31ref) (local $d externref)
    (local.set $a (ref.i31 (local.get $p0)))
    (local.set $b (ref.i31 (i32.add (local.get $p0) (i32.const 1))))
    (local.set $c (ref.i31 (i32.add (local.get $p0) (i32.const 2))))
    (local.set $d (extern.convert_any (ref.i31 (i32.const 12345))))
    {LOOK}
    {use_i32("(i31.get_s (ref.cast i31ref (local.get $a)))")}
    {use_i32("(i31.get_s (ref.cast i31ref (local.get $b)))")}
    {use_i32("(i31.get_s (local.get $c))")}
    {use_i32("(i31.get_s (ref.cast i31ref (any.convert_extern (local.get $d))))")}""",
    run([], total=3 * 16 + 3 + 12345, args=(16,)),  # an odd 33: were the tag lost, it would name the first object
    run([], total=3 * -5 + 3 + 12345, args=(-5,)),
    params=1,
)
case(
    "an i31 and an object in one slot by turns",
    f"""(local $a anyref) (local $n i32)
    (loop $again
      {LOOK}
      (if (ref.test (ref i31) (local.get $a))
        (then (local.set $a (struct.new $m (local.get $n))))
        (else (local.set $a (ref.i31 (local.get $n)))))
      {LOOK}
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 4))))
    {use_i32("(ref.is_null (local.get $a))")}""",
    run([], [], [], [1], [1], [], [], [3], total=0),
)


def test_case_names_differ() -> None:
    assert len({each.name for each in CASES}) == len(CASES)


def program(way: str) -> str:
    """All cases in one module, each look by `way`."""
    return f"(module {PRELUDE} {' '.join(each.functions for each in CASES)})".replace(LOOK, SAFEPOINTS[way])


# The level that is the default gets most of the ways; the others, those that LLVM or the runtime treats differently.
MATRIX = [
    *(("drc", 2, "python", way) for way in SAFEPOINTS),
    *(("drc", level, "python", "inlined") for level in (0, 1, 3)),
    ("outlined", 2, "python", "struct.new behind"),
    ("drc", 0, "python", "struct.new"),
    ("drc", 2, "native", "not inlined"),
    ("drc", 2, "native", "re-entered"),
    ("drc", 3, "native", "struct.new"),
    ("outlined", 0, "native", "inlined"),
    ("outlined", 1, "native", "not inlined"),
    ("outlined", 3, "native", "inlined"),
]


def test_every_way_is_taken() -> None:
    assert {way for *_, way in MATRIX} == set(SAFEPOINTS)


@pytest.mark.parametrize(("each", "configuration"), by_turns(CASES, MATRIX, count=4), ids=str)
def test_exactly_what_is_needed_lives(each: Case, configuration: tuple[str, int, str, str]) -> None:
    barriers, opt_level, runtime, way = configuration
    if "new" in way:
        everies: tuple[int, ...] = (1,)
    else:
        # Code that need not be asked before it allocates is other code; the native runtime has it where it can.
        everies = (0, 1) if runtime == "python" else (0,)
    for every in everies:
        with scene(program(way), on=engine(barriers, opt_level, runtime), collect_every=every) as stage:
            for wanted in each.runs:
                stage.looks.clear()
                stage.exports["sum"].value = 0
                stage.exports[each.name](*wanted.args)
                assert stage.looks == [list(look) for look in wanted.looks], (every, wanted.args)
                assert stage.exports["sum"].value == wanted.total, (every, wanted.args)


# ----------------------------------------------------------------------------------------------------------------------
# Inlined, or not


def calls(text: str) -> dict[str, list[str]]:
    """Return what each function of LLVM's printed module calls at its safepoints; "" for a function's address."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("define "):
            name = re.search(r"@([\w.]+)\(", line)[1]  # type: ignore[index]
            found[name] = []
        elif "@llvm.experimental.gc.statepoint.p0(" in line and not line.startswith("declare"):
            callee = re.search(r"elementtype\(.*?\)\) (?:@([\w.]+)|%)", line)
            assert callee is not None, line
            found[name].append(callee[1] or "")
    return found


def callees(text: str) -> set[str]:
    return {callee for each in calls(text).values() for callee in each}


@pytest.mark.parametrize(("barriers", "opt_level", "runtime", "way"), [row for row in MATRIX if "inlined" in row[-1]])
def test_the_ways_are_what_they_are_called(barriers: str, opt_level: int, runtime: str, way: str) -> None:
    """So that the cases do run with callees that LLVM has inlined, and with such as it has not."""
    text = compiled(engine(barriers, opt_level, runtime), program(way)).compiled.llvm_ir
    called = [callee for found in calls(text).values() for callee in found]
    looks = sum(each.functions.count(LOOK) for each in CASES)
    if way == "not inlined":
        assert sum(callee.endswith(".look_behind") for callee in called) >= looks
    elif opt_level == 0:
        assert sum(callee.endswith(".look_once") for callee in called) >= looks
    else:
        assert sum(callee.endswith(".look_once") for callee in called) < looks // 20, "all but where it is cold"


CHAIN = f"""(module
  (type $m (struct (field $marker i32)))
  (import "host" "look" (func $look))
  (func $outer (export "outer") (result i32) (local $mine (ref null $m))
    (local.set $mine {new(1)})
    (i32.add (call $middle) (struct.get $m $marker (local.get $mine))))
  (func $middle (result i32) (local $mine (ref null $m))
    (local.set $mine {new(2)})
    (i32.add (call $inner (local.get $mine)) (struct.get $m $marker (local.get $mine))))
  (func $inner (param $given (ref null $m)) (result i32) (local $mine (ref null $m))
    (local.set $mine {new(4)})
    (drop {new(8)})
    (call $look)
    (struct.get $m $marker (local.get $mine))))"""


@on_every_engine
def test_a_chain_of_callers_holds_the_same_inlined_or_not(barriers: str, opt_level: int, runtime: str) -> None:
    with scene(CHAIN, on=engine(barriers, opt_level, runtime)) as stage:
        found = calls(stage.module.compiled.llvm_ir)
        own = {name: len(callee) for name, callee in found.items() if callee and name.startswith("wasm.")}
        if opt_level == 0:
            assert own == {"wasm.1.outer": 2, "wasm.2.middle": 2, "wasm.3.inner": 3}
        else:
            assert own == {"wasm.1.outer": 5}, "one function, with the safepoints of all three"
            last = [each for each in stage.module.compiled.statepoints.statepoints if each.function in own][-1]
            assert last.live_count == 3, "the lists of the caller, of its caller, and the function's own"
        assert stage.exports["outer"]() == 7
        assert stage.looks == [[1, 2, 4]]


def test_a_call_that_is_inlined_twice_has_two_lists() -> None:
    source = f"""(module
      (type $m (struct (field $marker i32)))
      (import "host" "look" (func $look))
      (func $inner (result i32) (local $mine (ref null $m))
        (local.set $mine {new(4)})
        (call $look)
        (struct.get $m $marker (local.get $mine)))
      (func $outer (export "outer") (result i32) (local $a (ref null $m)) (local $b (ref null $m))
        (local.set $a {new(1)})
        (local.set $b {new(2)})
        (i32.add
          (i32.add (call $inner) (struct.get $m $marker (local.get $a)))
          (i32.add (call $inner) (struct.get $m $marker (local.get $b))))))"""
    with scene(source, on=engine(runtime="python")) as stage:
        assert len(calls(stage.module.compiled.llvm_ir)["wasm.2.outer"]) == 6
        assert stage.exports["outer"]() == 11
        assert stage.looks == [[1, 2, 4], [2, 4]]


# ----------------------------------------------------------------------------------------------------------------------
# Allocations whose own operands must live


ALLOCATIONS = {
    "struct.new": (
        f"""(drop (struct.new $pair (i32.const 9) {new(1)} {new(2)}))""",
        [[], [1], [1, 2]],
    ),
    "array.new": (
        f"""(drop (array.get $refs (array.new $refs {new(1)} (i32.const 3)) (i32.const 2)))""",
        [[], [1]],
    ),
    "array.new_fixed": (
        f"""(drop (array.new_fixed $refs 3
          {new(1)} (struct.new $pair (i32.const 9) {new(2)} (ref.null none)) {new(3)}))""",
        [[], [1], [1, 2], [1, 2, 9], [1, 2, 3, 9]],
    ),
    "a chain of them": (
        f"""(drop (struct.new $pair (i32.const 3)
          (struct.new $pair (i32.const 2) {new(1)} (ref.null none)) {new(4)}))""",
        [[], [1], [1, 2], [1, 2, 4]],
    ),
    "nothing is held by an allocation that is dropped": (
        f"""(drop {new(1)}) (drop {new(2)})""",
        [[], []],
    ),
}


@on_every_engine
def test_operands_of_an_allocation_live_until_it_holds_them(barriers: str, opt_level: int, runtime: str) -> None:
    functions = " ".join(
        f"""(func (export "{name}") (global.set $armed (i32.const 1)) {body} (global.set $armed (i32.const 0)))"""
        for name, (body, _) in ALLOCATIONS.items()
    )
    source = f"(module {PRELUDE} {functions})"
    with scene(source, on=engine(barriers, opt_level, runtime), collect_every=1) as stage:
        for name, (_, looks) in ALLOCATIONS.items():
            stage.looks.clear()
            stage.exports[name]()
            assert stage.looks == looks, name


@pytest.mark.parametrize(("barriers", "opt_level", "runtime", "every"), pairwise(BARRIERS, (0, 2), RUNTIMES, (0, 1)))
def test_array_instructions_on_references(barriers: str, opt_level: int, runtime: str, every: int) -> None:
    source = f"""(module {PRELUDE}
      (func $fresh (param $n i32) (result (ref $refs)) (local $array (ref $refs)) (local $i i32)
        (local.set $array (array.new_default $refs (local.get $n)))
        (loop $again
          (array.set $refs (local.get $array) (local.get $i) (struct.new $m (local.get $i)))
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
        (local.get $array))
      (func (export "fill") (local $array (ref $refs))
        (local.set $array (call $fresh (i32.const 4)))
        (array.fill $refs (local.get $array) (i32.const 1) {new(9)} (i32.const 2))
        (call $host_look)
        (array.fill $refs (local.get $array) (i32.const 2) (ref.null none) (i32.const 2))
        (call $host_look)
        (array.fill $refs (local.get $array) (i32.const 0)
          (array.get $refs (local.get $array) (i32.const 1)) (i32.const 4))
        (call $host_look)
        {use("(array.get $refs (local.get $array) (i32.const 3))")})
      (func (export "copy") (local $from (ref $refs)) (local $to (ref $refs))
        (local.set $from (call $fresh (i32.const 4)))
        (local.set $to (array.new $refs {new(9)} (i32.const 3)))
        (array.copy $refs $refs (local.get $to) (i32.const 1) (local.get $from) (i32.const 2) (i32.const 2))
        (call $host_look)
        {use("(array.get $refs (local.get $to) (i32.const 0))")}
        {use("(array.get $refs (local.get $to) (i32.const 1))")}
        (call $host_look)
        {use("(array.get $refs (local.get $to) (i32.const 2))")})
      (func (export "copy_into_itself") (param $to i32) (param $from i32) (param $count i32)
        (local $array (ref $refs)) (local $i i32)
        (local.set $array (call $fresh (i32.const 5)))
        (array.copy $refs $refs (local.get $array) (local.get $to) (local.get $array) (local.get $from)
          (local.get $count))
        (call $host_look)
        (loop $again
          (global.set $sum (i32.mul (global.get $sum) (i32.const 10)))
          {use("(array.get $refs (local.get $array) (local.get $i))")}
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5)))))
      (func (export "new") (local $array (ref $refs))
        (local.set $array (array.new $refs {new(9)} (i32.const 3)))
        (call $host_look)
        {use("(array.get $refs (local.get $array) (i32.const 2))")}
        (array.set $refs (local.get $array) (i32.const 0) {new(1)})
        (array.set $refs (local.get $array) (i32.const 1) {new(2)})
        (call $host_look)
        (array.set $refs (local.get $array) (i32.const 2) {new(3)})
        (call $host_look)
        (drop (array.len (local.get $array)))
        {use("(array.get $refs (local.get $array) (i32.const 2))")}))"""
    with scene(source, on=engine(barriers, opt_level, runtime), collect_every=every) as stage:

        def check(export: str, args: tuple[int, ...], looks: list[list[Label]], total: int) -> None:
            stage.looks.clear()
            stage.exports["sum"].value = 0
            stage.exports[export](*args)
            assert (stage.looks, stage.exports["sum"].value) == (looks, total), export

        check("fill", (), [[0, 3, 9, "array 4"], [0, 9, "array 4"], [9, "array 4"]], 9)
        check("copy", (), [[2, 3, 9, "array 3"], [2, 3, 9, "array 3"]], 14)
        check("new", (), [[9, "array 3"], [1, 2, 9, "array 3"], [1, 2, 3, "array 3"]], 12)
        check("copy_into_itself", (0, 0, 5), [[0, 1, 2, 3, 4, "array 5"]], 1234)
        check("copy_into_itself", (1, 0, 4), [[0, 1, 2, 3, "array 5"]], 123)
        check("copy_into_itself", (0, 1, 4), [[1, 2, 3, 4, "array 5"]], 12344)
        check("copy_into_itself", (2, 1, 3), [[0, 1, 2, 3, "array 5"]], 1123)
        check("copy_into_itself", (1, 3, 2), [[0, 3, 4, "array 5"]], 3434)
        check("copy_into_itself", (5, 0, 0), [[0, 1, 2, 3, 4, "array 5"]], 1234)


# ----------------------------------------------------------------------------------------------------------------------
# From WebAssembly to the host and back, again and again


NESTED = """(module
  (type $m (struct (field $marker i32)))
  (import "host" "down" (func $down (param i32)))
  (import "host" "look" (func $look))
  (func $frame (param $depth i32) (param $given (ref $m)) (result i32)
    (local $mine (ref null $m)) (local $dead (ref null $m))
    (local.set $mine (struct.new $m (i32.mul (local.get $depth) (i32.const 10))))
    (local.set $dead (struct.new $m (i32.const -1)))
    (drop (struct.get $m $marker (local.get $dead)))
    (call $down (local.get $depth))
    (i32.add (struct.get $m $marker (local.get $mine)) (struct.get $m $marker (local.get $given))))
  (func (export "enter") (param $depth i32) (result i32)
    (call $frame (local.get $depth)
      (struct.new $m (i32.add (i32.mul (local.get $depth) (i32.const 10)) (i32.const 1)))))
  (func (export "boom") (param $depth i32) (result i32)
    (local $mine (ref null $m))
    (local.set $mine (struct.new $m (i32.const 99)))
    (drop (call $frame (local.get $depth) (struct.new $m (i32.const 98))))
    (if (i32.ge_s (local.get $depth) (i32.const 0)) (then (unreachable)))
    (struct.get $m $marker (local.get $mine))))"""


def markers(depths: range) -> list[Label]:
    return sorted((10 * depth + extra for depth in depths for extra in (0, 1)), key=str)


@on_every_engine_and_schedule
def test_all_activations_on_the_stack_are_seen(barriers: str, opt_level: int, runtime: str, every: int) -> None:
    depth = 5
    instances: list[Any] = []
    results: list[int] = []

    on = engine(barriers, opt_level, runtime)
    with scene(NESTED, {"down": lambda n: down(n)}, on=on, collect_every=every) as stage:
        # Odd levels run in another instance of the same module, every third in one of another module.
        given = {"host": {"down": lambda n: down(n), "look": stage.store.look}}
        other = compiled(on, NESTED.replace("(module", "(module $another"))
        assert other is not stage.module
        instances += [
            stage.exports,
            lh.Instance(stage.store, stage.module, given).exports,
            lh.Instance(stage.store, other, given).exports,
        ]

        def down(n: int) -> None:
            stage.store.look()
            if n:
                results.append(instances[n % 3]["enter"](n - 1))
            stage.store.look()

        results.append(instances[0]["enter"](depth))
        inwards = [markers(range(n, depth + 1)) for n in range(depth, -1, -1)]
        assert stage.looks == [*inwards, *reversed(inwards)]
        assert results == [20 * n + 1 for n in range(depth + 1)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_many_activations(runtime: str) -> None:
    depth = 60

    stage: Scene

    def down(n: int) -> None:
        if n:
            assert stage.exports["enter"](n - 1) == 20 * n - 19
        else:
            stage.store.look()

    with scene(NESTED, {"down": down}, on=engine(runtime=runtime)) as stage:
        assert stage.exports["enter"](depth) == 20 * depth + 1
        assert stage.looks == [markers(range(depth + 1))]


# ----------------------------------------------------------------------------------------------------------------------
# After a trap


@on_every_engine_and_schedule
def test_the_frames_of_a_trapped_activation_hold_nothing(
    barriers: str, opt_level: int, runtime: str, every: int
) -> None:
    def down(n: int) -> None:
        if n == 2:
            stage.store.look()
            with pytest.raises(lh.Trap, match="unreachable"):
                stage.exports["boom"](0)
        stage.store.look()

    with scene(NESTED, {"down": down}, on=engine(barriers, opt_level, runtime), collect_every=every) as stage:
        assert stage.exports["enter"](2) == 41
        assert stage.looks == [[20, 21], [0, 20, 21, 98, 99], [20, 21]]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opt_level", [0, 2])
def test_the_frames_of_all_activations_that_a_trap_passes_hold_nothing(opt_level: int, runtime: str) -> None:
    def down(n: int) -> None:
        stage.store.look()
        if n == 3:
            with pytest.raises(lh.Trap, match="unreachable"):
                stage.exports["enter"](2)  # whose frame calls down(2), which enters boom, ...
            stage.store.look()
        elif n:
            stage.exports["boom" if n == 2 else "enter"](n - 1)

    with scene(NESTED, {"down": down}, on=engine("drc", opt_level, runtime)) as stage:
        assert stage.exports["enter"](3) == 61
        outer: list[Label] = [30, 31]
        assert stage.looks == [
            outer,
            [20, 21, *outer],
            [10, 20, 21, *outer, 98, 99],
            [0, 1, 10, 20, 21, *outer, 98, 99],
            outer,
        ]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opt_level", [0, 2])
def test_so_it_is_with_an_exception_of_the_host(opt_level: int, runtime: str) -> None:
    class OwnError(Exception):
        pass

    def down(n: int) -> None:
        stage.store.look()
        if n == 0:
            raise OwnError
        if n == 2:
            with pytest.raises(OwnError):
                stage.exports["enter"](1)
            stage.store.look()
        else:
            stage.exports["enter"](n - 1)

    with scene(NESTED, {"down": down}, on=engine("drc", opt_level, runtime)) as stage:
        assert stage.exports["enter"](3) == 61
        outer: list[Label] = [20, 21, 30, 31]
        assert stage.looks == [[30, 31], outer, [10, 11, *outer], [0, 1, 10, 11, *outer], outer]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_after_a_trap_at_the_outermost_level_nothing_is_held(runtime: str) -> None:
    stage: Scene
    with scene(NESTED, {"down": lambda n: stage.store.look()}, on=engine(runtime=runtime)) as stage:
        for _ in range(3):
            with pytest.raises(lh.Trap, match="unreachable"):
                stage.exports["boom"](1)
            assert live(stage.store) == [10, 98, 99], "still on the list: nobody has looked since"
            stage.store.look()
        assert stage.looks == [[10, 98, 99], []] * 3


# ----------------------------------------------------------------------------------------------------------------------
# Depth


DEEP = """(module
  (type $m (struct (field $marker i32)))
  (import "host" "look" (func $look))
  (func $deep (export "deep") (param $n i32) (result i32) (local $mine (ref null $m))
    (local.set $mine (struct.new $m (local.get $n)))
    (if (result i32) (local.get $n)
      (then
        (i32.add
          (call $deep (i32.sub (local.get $n) (i32.const 1)))
          (struct.get $m $marker (local.get $mine))))
      (else
        (call $look)
        (struct.get $m $marker (local.get $mine)))))
  (func $chain (export "chain") (param $n i32) (param $above (ref null $m)) (result (ref null $m))
    (local $mine (ref null $m)) NOT_INLINED
    (local.set $mine (struct.new $m (local.get $n)))
    (if (local.get $n)
      (then (drop (call $chain (i32.sub (local.get $n) (i32.const 1)) (local.get $mine))))
      (else (call $look)))
    (local.get $above)))""".replace("NOT_INLINED", "(nop)" * SMALL)


@on_every_engine
def test_thousands_of_frames_with_an_object_each(barriers: str, opt_level: int, runtime: str) -> None:
    depth = 2_000
    with scene(DEEP, on=engine(barriers, opt_level, runtime)) as stage:
        assert stage.exports["deep"](depth) == depth * (depth + 1) // 2
        assert stage.looks == [sorted(range(depth + 1), key=str)]
        stage.looks.clear()
        assert stage.exports["chain"](depth, None) is None
        # Each frame holds what its caller gave it; the innermost one's own object is dead.
        assert stage.looks == [sorted(range(1, depth + 1), key=str)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_frames_that_die_of_a_stack_overflow_hold_nothing(runtime: str) -> None:
    with scene(DEEP, on=engine(runtime=runtime)) as stage:
        with pytest.raises(lh.Trap, match="call stack exhausted"):
            stage.exports["deep"](1_000_000)
        assert len(live(stage.store)) > 3_000
        stage.store.look()
        assert stage.looks == [[]]


def test_a_finalizer_that_collects_in_the_middle_of_a_drop_is_refused() -> None:
    """Python's garbage collector may run anywhere in the Python runtime; in a drop, frames cannot be walked."""
    source = f"""(module {PRELUDE}
      (func (export "run") (param $n i32) (local $pair (ref $pair)) (local $kept (ref $m)) (local $i i32)
        (local.set $kept {new(1)})
        (local.set $pair (struct.new $pair (i32.const 2) (ref.null none) (ref.null none)))
        (loop $again
          (struct.set $pair $left (local.get $pair) {new(3)})
          (call $host_look)
          (struct.set $pair $left (local.get $pair) (ref.null none))
          (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
        {use("(local.get $kept)")} {use("(local.get $pair)")}))"""
    in_drops: list[type[BaseException] | None] = []
    goes_on = True

    class Ghost:
        """A cycle that only Python's garbage collector frees; when it does, the next one is made."""

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            frame, names = sys._getframe(), []
            while frame is not None and len(names) < 12:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            is_in_drop = "_drop" in names
            try:
                stage.store.collect()
            except lh.HeapError as error:
                raised: type[BaseException] | None = type(error)
            else:
                raised = None
            if is_in_drop:
                in_drops.append(raised)
            if goes_on:
                Ghost()

    stage: Scene
    # A look only collects: to verify the heap would take a hundred thousand of Python's collections more.
    with scene(source, {"look": lambda: stage.store.collect()}, on=engine(runtime="python")) as stage:
        stage.exports["run"](1)  # what the first call makes, it makes now
        stage.exports["sum"].value = 0
        threshold = gc.get_threshold()
        Ghost()
        gc.set_threshold(1)
        try:
            stage.exports["run"](20)
        finally:
            goes_on = False
            gc.set_threshold(*threshold)
            gc.collect()
        assert stage.exports["sum"].value == 3
        assert set(in_drops) == {lh.NoGcScopeError}


# ----------------------------------------------------------------------------------------------------------------------
# Values on their way between Python and compiled code


PASSING = """(module
  (type $m (struct (field $marker i32)))
  (type $refs (array (mut (ref null $m))))
  (import "host" "look" (func $look))
  (import "host" "give" (func $give (result (ref null $m) externref externref (ref null $m))))
  (import "host" "take" (func $take (param (ref null $m) externref (ref null $m) externref)))
  (func (export "make") (param $marker i32) (result (ref $m)) (struct.new $m (local.get $marker)))
  (func (export "sum") (param $a (ref null $m)) (param $x externref) (param $b (ref null $m)) (param $y externref)
    (result i32)
    (call $look)
    (i32.add
      (i32.add (struct.get $m $marker (local.get $a)) (struct.get $m $marker (local.get $b)))
      (i32.add (ref.is_null (local.get $x)) (ref.is_null (local.get $y)))))
  (func (export "given") (result i32) (local $a (ref null $m)) (local $b (ref null $m)) (local $x externref)
    (local $y externref)
    (call $give)
    (local.set $b) (local.set $y) (local.set $x) (local.set $a)
    (call $look)
    (i32.add
      (i32.add (struct.get $m $marker (local.get $a)) (struct.get $m $marker (local.get $b)))
      (i32.add (ref.is_null (local.get $x)) (ref.is_null (local.get $y)))))
  (func (export "taken") (param $x externref) (param $y externref)
    (call $take (struct.new $m (i32.const 1)) (local.get $x) (struct.new $m (i32.const 2)) (local.get $y)))
  (func (export "both") (param $x externref) (result externref externref (ref $m))
    (local.get $x) (local.get $x) (struct.new $m (i32.const 5)))
  (func (export "lengthen_list") (param $n i32) (local $array (ref $refs)) (local $i i32)
    ;; Every element goes on the list without an allocation, which would collect.
    (local.set $array (array.new_default $refs (local.get $n)))
    (loop $fill
      (array.set $refs (local.get $array) (local.get $i) (struct.new $m (i32.const -1)))
      (br_if $fill (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (call $look)
    (local.set $i (i32.const 0))
    (loop $read
      (drop (array.get $refs (local.get $array) (local.get $i)))
      (br_if $read (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))))"""

HOST = {"give": lambda: (None, None, None, None), "take": lambda a, x, b, y: None}


class CollectsWhenItAllocates(WatchedStore):
    """A store whose policy would have it collect at every allocation, those of the host too."""

    def alloc_externref(self, value: Any, finalizer: Any = None) -> int:
        self.collect()
        reference = super().alloc_externref(value, finalizer)
        self.collect()
        return reference


@on_every_engine_and_schedule
def test_values_on_their_way_live(barriers: str, opt_level: int, runtime: str, every: int) -> None:
    taken: list[Any] = []

    def give() -> tuple[Any, ...]:
        return stage.exports["make"](1), "x", "y", stage.exports["make"](2)

    def take(a: Any, x: Any, b: Any, y: Any) -> None:
        store.look()
        taken.append((a["marker"], x.value, b["marker"], y.value))

    store = CollectsWhenItAllocates(engine(barriers, opt_level, runtime), collect_every=every)
    with store:
        stage = Scene(store, PASSING, {"give": give, "take": take})
        make = stage.exports["make"]
        # Nobody but the argument tuple holds the structs, and their handles go as soon as Python is done with it.
        assert stage.exports["sum"](make(1), "x", make(2), "y") == 3
        assert stage.exports["given"]() == 3
        assert store.looks == [[1, 2, "extern x", "extern y"]] * 2
        store.looks.clear()
        stage.exports["taken"]("x", "y")
        assert store.looks == [[1, 2, "extern x", "extern y"]]
        assert taken == [(1, "x", 2, "y")]
        first, second, third = stage.exports["both"]("z")
        store.look()
        assert first == second
        assert first.value == "z"
        assert third["marker"] == 5
        del first, second, third
        store.look()
        assert store.looks[1:] == [[5, "extern z"], []]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_list_that_has_grown_long_is_swept_in_the_middle_of_lowering_arguments(runtime: str) -> None:
    size = 2 * LIST_FLOOR * block_length(HEADER_SIZE + 4)  # so that the list is what a collection is for, not the room
    with scene(PASSING, HOST, on=engine(runtime=runtime), initial_heap_size=size) as stage:
        exports = stage.exports
        structs = [exports["make"](1), exports["make"](2)]
        exports["lengthen_list"](LIST_FLOOR)
        before = stage.store.heap.stats()
        assert before.listed >= LIST_FLOOR
        stage.looks.clear()
        assert exports["sum"](structs.pop(0), "x", structs.pop(), "y") == 3
        assert stage.store.heap.stats().collections == before.collections + 2, "one for the arguments, one to look"
        assert stage.looks == [[1, 2, "extern x", "extern y"]]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_heap_that_is_full_is_collected_in_the_middle_of_lowering_arguments_and_results(runtime: str) -> None:
    size = 1 << 16
    values = [f"value {number}" for number in range(6)]

    def give() -> tuple[Any, ...]:
        fill()
        return exports["make"](1), values[0], values[1], exports["make"](2)

    def fill() -> None:
        """Leave room for two objects; what fills the heap is on the list, and garbage."""
        figures = store.heap.stats()
        room = size - figures.live_bytes - 16  # the first index is 16
        for _ in range(room // block_length(HEADER_SIZE + 4) - 2):
            exports["make"](-1)
        assert store.heap.stats().collections == figures.collections

    with scene(
        PASSING, {**HOST, "give": give}, on=engine(runtime=runtime), initial_heap_size=size, maximum_heap_size=size
    ) as stage:
        store, exports = stage.store, stage.exports
        fill()
        before = store.heap.stats().collections
        assert exports["sum"](exports["make"](1), values[2], exports["make"](2), values[3]) == 3
        assert store.heap.stats().collections > before + 1, "to look, and before that"
        assert exports["given"]() == 3
        assert stage.looks == [
            [1, 2, "extern value 2", "extern value 3"],
            [1, 2, "extern value 0", "extern value 1"],
        ]


def test_arguments_that_turn_out_wrong_hold_nothing() -> None:
    with scene(PASSING, HOST, collect_every=1) as stage:
        with pytest.raises(TypeError, match="value 2"):
            stage.exports["sum"](stage.exports["make"](1), "x", "no struct", "y")
        stage.store.look()
        assert stage.looks == [[]]
