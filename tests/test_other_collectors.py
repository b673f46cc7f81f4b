"""Every collector that is not `drc`: programs, the host, C, random operations and faults. A further one is one line.

What each must do is the same: give `drc`'s results, free exactly what cannot be reached and is in no cycle, keep its
invariants, and have every breach of them named. `null`, which frees nothing, takes part where that makes sense.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.combinations import by_turns, examples, pairwise, sample
from support.embed_reports import message_of
from support.example_programs import Example
from support.example_runs import SMALL_ROWS, host_callable, results
from support.program_generator import generate
from support.random_runs import Configuration, LowheapRun
from support.wrong_barriers import MISSING, run, without

import lowheap as lh
from lowheap.cli.inspect import inspect_command
from lowheap.collector import GcProgress
from lowheap.collectors import registry
from lowheap.collectors.drc import Drc
from lowheap.embed import Status, attach, ffi
from lowheap.errors import HeapCorruptionError, NoGcScopeError, UnsupportedError
from lowheap.layout import HEADER_IN_OVER_APPROX_LIST_BIT, HEADER_MARK_BIT, NULL, VMDrcHeader
from lowheap.snapshot import Image
from lowheap.snapshot.inspection import inspect, verify

DIRECTORY = Path(__file__).resolve().parent.parent / "examples/collectors"


@dataclass(frozen=True)
class Other:
    """A collector: how it is asked for, and which barriers it does without."""

    name: str
    wanted: str
    idle: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def kind(self) -> Any:
        return type(registry.find(self.wanted))

    @property
    def frees(self) -> bool:
        return bool(self.kind.counts)

    @property
    def searches(self) -> bool:
        """Whether it has a search for cycles, behind any sweep."""
        return issubclass(self.kind, Drc)


def example_collector(kind: str, file: str, *idle: str) -> Other:
    return Other(file, f"{DIRECTORY / file}.py:{kind}", idle)


LISTING = (
    example_collector("CountedReads", "counted_reads"),
    example_collector("DeutschBobrow", "deutsch_bobrow", "read"),
    example_collector("LevanoniPetrank", "levanoni_petrank", "read", "init"),
    example_collector("ShortLivedReads", "short_lived_reads"),
)
"""Variations of `drc`, which have its list, or another in its place."""
RC_IMMIX = Other("rc-immix", "rc-immix", ("read", "init", "hand over", "expose", "count up", "drop"))
OTHERS = (*LISTING, RC_IMMIX)
DRC, NULL_COLLECTOR = Other("drc", "drc"), Other("null", "null")
ALL = (DRC, NULL_COLLECTOR, *OTHERS)
RUNTIMES = ("native", "python")

others = pytest.mark.parametrize("collector", OTHERS, ids=str)
listing = pytest.mark.parametrize("collector", LISTING, ids=str)
all_collectors = pytest.mark.parametrize("collector", ALL, ids=str)
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def test_no_collector_is_left_out() -> None:
    examples = {path.stem for path in DIRECTORY.glob("*.py")}
    built_in = {*registry.BUILT_IN} - {"outlined"}  # which is `drc`, with barriers that are called
    assert {each.name for each in ALL} == examples | built_in


@functools.cache
def engine(collector: Other, runtime: str) -> lh.Engine:
    return lh.Engine(collector=collector.wanted, runtime=runtime)


@functools.cache
def module(collector: Other, runtime: str, source: str) -> lh.Module:
    return lh.Module(engine(collector, runtime), source)


# ----------------------------------------------------------------------------------------------------------------------
# Programs


VERIFIED_CALLS = 20
"""Inside so many calls of the host, the heap is verified: it takes time."""


def shown(value: Any) -> Any:
    """A value of a host function's, as far as it is the same for all."""
    return type(value).__name__ if isinstance(value, lh.Struct | lh.Array) or not isinstance(value, int) else value


@dataclass
class Run:
    """A run of an example: its results, and what the host was told."""

    example: Example
    collector: Other
    runtime: str
    options: dict[str, int]
    told: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        with lh.Store(engine(self.collector, self.runtime), **self.options) as self.store:
            imports = {tuple(name.split(".", 1)): self._import(name) for name in self._functions()}
            self.exports: Any = lh.Instance(self.store, self._module(), imports).exports
            self.results = results(self.exports[self.example.export](*self.example.args))
            self.store.verify()
            self.counters = self.store.stats().counters
            if self.example.reset is not None:
                self.exports[self.example.reset]()
            self.store.collect()
            self.store.verify()
            self.left = self.store.stats().live_objects
            self.host_data = len(self.store.host_data)

    def _module(self) -> lh.Module:
        return module(self.collector, self.runtime, self.example.source)

    def _functions(self) -> dict[str, Any]:
        if self.example.imports is None:
            return {}
        self._known = self.example.imports(lambda name: self.exports[name])
        return dict(self._known)

    def _import(self, name: str) -> Callable[..., Any]:
        function = host_callable(self._known[name].call)

        def call(*args: Any) -> Any:
            self.told.append((name, *map(shown, args)))
            returned = function(*args)
            if len(self.told) <= VERIFIED_CALLS:
                self.store.verify()
            return returned

        return call


AS_USUAL: dict[str, int] = {}
ALWAYS = {"collect_every": 1, "initial_heap_size": 4096}


@pytest.mark.parametrize(
    ("example", "way"),
    by_turns(SMALL_ROWS, list(itertools.product(OTHERS, [AS_USUAL, ALWAYS])), count=2),
    ids=lambda each: f"{each[0]}-{'always' if each[1] else 'as usual'}" if isinstance(each, tuple) else str(each),
)
def test_an_example_does_what_it_does_with_drc(example: Example, way: tuple[Other, dict[str, int]]) -> None:
    """On both runtimes; and what the collector counts is the same on both."""
    collector, options = way
    expected = Run(example, DRC, "native", options)
    assert expected.results == example.expected
    runs = [Run(example, collector, runtime, options) for runtime in RUNTIMES]
    for each in runs:
        assert (each.results, each.told) == (expected.results, expected.told)
        assert (each.left, each.host_data) == (example.survivors, 0)
    counted = [{name: n for name, n in each.counters.items() if "pause" not in name} for each in runs]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("seed", sample(range(24), 2))
@others
def test_random_programs_do_what_they_do_with_drc(collector: Other, seed: int) -> None:
    program = generate(Random(seed))
    runtime = RUNTIMES[seed // 4 % 2]  # of two seeds, each has one
    source = str(program)
    runs = [
        LowheapRun(
            module(each, runtime, source), Configuration(each.wanted, 2, runtime, every), acyclic=program.acyclic
        )
        for each, every in ((DRC, 0), (collector, 0), (collector, 1))
    ]
    for each in runs[1:]:
        assert each.outcomes == runs[0].outcomes
        assert (each.objects_allocated, each.cyclic) == (runs[0].objects_allocated, runs[0].cyclic)


@pytest.mark.parametrize(("collector", "missing", "runtime"), pairwise(OTHERS, list(MISSING), RUNTIMES), ids=str)
def test_a_barrier_that_is_missing_is_found_out(collector: Other, missing: str, runtime: str) -> None:
    changed = without(collector.kind, missing)
    if missing in collector.idle:
        run(changed, runtime, 1)
    else:
        with pytest.raises(HeapCorruptionError):
            run(changed, runtime, 1)


# ----------------------------------------------------------------------------------------------------------------------
# The host


CELL = lh.StructType((lh.FieldType(lh.types.ANYREF, True), lh.FieldType(lh.types.EXTERNREF, True)))
LIST = lh.ArrayType(lh.FieldType(lh.types.ANYREF, True))
GLOBAL = """(module
  (global $held (export "held") (mut anyref) (ref.null any))
  (func (export "hold") (param anyref) (global.set $held (local.get 0)))
  (func (export "held_now") (result anyref) (global.get $held)))"""


@all_collectors
@runtimes
def test_what_the_host_holds_lives_and_what_it_lets_go_of_dies(collector: Other, runtime: str) -> None:
    died: list[str] = []
    with lh.Store(engine(collector, runtime), checked=True) as store:
        exports = lh.Instance(store, module(collector, runtime, GLOBAL)).exports

        def live() -> int:
            store.collect()
            store.verify()
            return store.stats().live_objects

        box = lh.ExternRef(store, "a value", died.append)
        first = lh.Struct(store, CELL, [None, box])
        box.release()
        second = lh.Array(store, LIST, [first, lh.I31(3), None, first])
        first.release()
        assert live() == 3
        exports["hold"](second)
        second.release()
        assert live() == 3, "the global holds it"
        again = exports["held_now"]()
        assert all(map(isinstance, again, (lh.Struct, lh.I31, type(None), lh.Struct)))
        assert again[0][1].value == "a value"
        again[0][0] = again  # a cycle
        exports["hold"](None)
        assert live() == 3
        again[0][0] = None
        again[3] = None
        kept = again[0]
        again.release()
        expected = 2 if collector.frees else 3
        assert live() == expected
        with store.heap.no_gc_scope():
            kept.release()
            store.tidy()
            with pytest.raises(NoGcScopeError):
                store.collect()
            store.verify()
        assert live() == (0 if collector.frees else 3)
        assert died == ["a value"] * collector.frees
    assert died == ["a value"]


@others
@runtimes
@pytest.mark.parametrize("budget", [1, 3, 1000])
def test_a_chain_dies_by_increments_while_the_program_goes_on(collector: Other, runtime: str, budget: int) -> None:
    with lh.Store(engine(collector, runtime), checked=True) as store:
        exports = lh.Instance(store, module(collector, runtime, GLOBAL)).exports
        chain = middle = None
        for number in range(20):
            chain = lh.Struct(store, CELL, [chain, None])
            middle = chain if number == 9 else middle
        assert chain is not None
        assert middle is not None
        middle_of_it = middle
        exports["hold"](chain)
        chain.release()
        if collector is RC_IMMIX:  # what is young dies at once; with `drc`'s kin the list holds what waits
            store.collect()
        exports["hold"](None)  # ten of them die
        store.verify()
        progress, freed = GcProgress.CONTINUE, 0
        collection = store.collection()
        collection.collect_increment(budget)  # which traces
        while progress is GcProgress.CONTINUE:
            before = store.stats().live_objects
            progress = collection.collect_increment(budget)
            freed += before - store.stats().live_objects
            assert before - store.stats().live_objects <= budget
            store.verify()
            exports["hold"](middle_of_it)
            assert exports["held_now"]() == middle_of_it
        assert freed == 10
        middle_of_it.release()
        store.collect()
        assert store.stats().live_objects == 10, "the global holds the rest"
        exports["hold"](None)
        store.collect()
        assert store.stats().live_objects == 0


RACE = """(module
  (type $cell (struct (field $next (mut (ref null $cell))) (field $number i32)))
  (import "host" "increment" (func $increment))
  (global $first (mut (ref null $cell)) (ref.null $cell))
  (global $other (mut (ref null $cell)) (ref.null $cell))
  (func (export "prepare")
    (local $shared (ref $cell))
    (local.set $shared (struct.new $cell (ref.null $cell) (i32.const 42)))
    (global.set $other (struct.new $cell (local.get $shared) (i32.const 2)))
    ;; two cells of a chain, so that the last waits when the first is freed
    (global.set $first (struct.new $cell (struct.new $cell (local.get $shared) (i32.const 1)) (i32.const 0)))
    (global.set $first (ref.null $cell)))
  (func (export "run") (param $by_global i32) (result i32)
    (local $shared (ref null $cell))
    (call $increment)  ;; both of the chain wait now, and own the shared one
    (local.set $shared (struct.get $cell $next (global.get $other)))
    (struct.set $cell $next (global.get $other) (ref.null $cell))
    (call $increment)
    (drop (struct.new $cell (ref.null $cell) (i32.const 7)))
    (struct.get $cell $number (local.get $shared))))"""


@others
@runtimes
@pytest.mark.parametrize("budget", [1, 2])
def test_what_only_the_dying_own_may_be_in_a_frame(collector: Other, runtime: str, budget: int) -> None:
    """A program reads a reference, and then nobody has it but the program, and what waits to be freed."""
    with lh.Store(engine(collector, runtime), checked=True) as store:
        progress = []

        def increment() -> None:
            collection = store.collection()
            collection.collect_increment(1)
            progress.append(collection.collect_increment(budget))
            store.verify()
            if budget == 1 and len(progress) == 2:
                store.heap.free_pending()  # all of it, as an allocation that finds no room does
                store.verify()

        exports = lh.Instance(store, module(collector, runtime, RACE), {"host": {"increment": increment}}).exports
        exports["prepare"]()
        assert exports["run"](0) == 42
        store.collect()
        store.verify()
        assert store.stats().live_objects == 1, "what the global holds"


# ----------------------------------------------------------------------------------------------------------------------
# C


@contextmanager
def frame(native: Any, count: int) -> Iterator[Any]:
    slots, pushed = ffi().new("lh_ref[]", count), ffi().new("lh_frame *")
    native.call("lh_frame_push", pushed, slots, count)
    yield slots
    native.call("lh_frame_pop", pushed)


@pytest.mark.parametrize(
    ("collector", "checked"),
    by_turns(ALL, [True, False]),
    ids=lambda each: ("checked" if each else "fast") if isinstance(each, bool) else str(each),
)
def test_c_works_on_it(collector: Other, checked: bool) -> None:
    with lh.Store(engine(collector, "native")) as store:
        (cell,) = store.engine.types.register([lh.SubType(CELL)])
        (array,) = store.engine.types.register([lh.SubType(LIST)])
        for index in (cell, array):
            store.heap.register_type(index)
        native = attach(store, checked=checked)
        c = native.call
        died: list[int] = []

        @ffi().callback("lh_finalizer")
        def finalize(data: Any) -> None:
            died.append(int(ffi().cast("uintptr_t", data)))

        def live() -> int:
            c("lh_collect")
            c("lh_verify")
            store.verify()
            return int(store.stats().live_objects)

        place = store.heap.struct_layout(cell).fields[0].offset
        with frame(native, 3) as held:
            held[0] = c("lh_alloc_struct", cell)
            held[1] = c("lh_alloc_array", array, 4)
            c("lh_array_set_ref", held[1], 2, held[0])
            c("lh_struct_set_ref", held[0], 1, c("lh_alloc_externref", ffi().cast("void *", 7), finalize))
            assert live() == 3
            slot = ffi().cast("lh_ref *", store.heap.control.heap_base + held[0] + place)
            if collector.kind.needs_owner:
                for name in ("lh_init", "lh_write"):
                    with pytest.raises(UnsupportedError, match=f"{name}: slot .* is in an object"):
                        c(name, slot, NULL)

            def store_to_slot(name: str, value: int) -> None:
                if collector.kind.needs_owner:
                    c("lh_struct_set_ref", held[0], 0, value)
                else:
                    c(name, slot, value)

            store_to_slot("lh_init", c("lh_alloc_struct", cell))
            assert live() == 4
            assert c("lh_read", slot) == slot[0]
            held[2] = c("lh_read", slot)
            store_to_slot("lh_write", NULL)
            assert live() == 4, "the frame holds what was read"
            c("lh_inc_ref", held[2])
            number = store.roots.create_handle(held[2])
            held[2] = NULL
            assert live() == 4, "C has a count"
            assert store.roots.release_handle(number) == slot[0] or slot[0] == NULL
            c(
                "lh_dec_ref",
                next(
                    each.index
                    for each in store.heap.objects()
                    if each.index not in (held[0], held[1]) and each.type_index == cell
                ),
            )
            assert live() == (3 if collector.frees else 4)
            held[0] = NULL
            assert live() == (3 if collector.frees else 4), "the array has it"
            adopted = native.adopt(held[1])
        assert live() == (3 if collector.frees else 4)
        assert adopted[2][1] is not None
        adopted.release()
        store.tidy()
        frees = collector.frees
        while c("lh_collect_increment", 1):
            c("lh_verify")
            store.verify()
        assert live() == (0 if frees else 4)
        assert died == [7] * frees


# ----------------------------------------------------------------------------------------------------------------------
# Random operations


PROGRAM = """(module
  (type $cell (struct (field $any (mut anyref)) (field $extern (mut externref))))
  (type $list (array (mut anyref)))
  (import "host" "pause" (func $pause))
  (global $zero (mut anyref) (ref.null any))
  (global $one (mut anyref) (ref.null any))
  (func (export "set 0") (param anyref) (global.set $zero (local.get 0)))
  (func (export "set 1") (param anyref) (global.set $one (local.get 0)))
  (func (export "get 0") (result anyref) (global.get $zero))
  (func (export "get 1") (result anyref) (global.get $one))
  (func (export "cell") (param anyref externref) (result (ref $cell))
    (struct.new $cell (local.get 0) (local.get 1)))
  (func (export "list") (param anyref i32) (result (ref $list))
    (array.new $list (local.get 0) (local.get 1)))
  (func (export "put") (param anyref i32 anyref)
    (if (ref.test (ref $cell) (local.get 0))
      (then (struct.set $cell $any (ref.cast (ref $cell) (local.get 0)) (local.get 2)))
      (else (array.set $list (ref.cast (ref $list) (local.get 0)) (local.get 1) (local.get 2)))))
  (func $take (export "take") (param anyref i32) (result anyref)  ;; what is there, and is not there any more
    (local $taken anyref)
    (if (ref.test (ref $cell) (local.get 0))
      (then
        (local.set $taken (struct.get $cell $any (ref.cast (ref $cell) (local.get 0))))
        (struct.set $cell $any (ref.cast (ref $cell) (local.get 0)) (ref.null any)))
      (else
        (local.set $taken (array.get $list (ref.cast (ref $list) (local.get 0)) (local.get 1)))
        (array.set $list (ref.cast (ref $list) (local.get 0)) (local.get 1) (ref.null any))))
    (call $pause)
    (drop (struct.new $cell (ref.null any) (ref.null extern)))
    (local.get $taken)))"""


@dataclass
class Thing:
    """An object of the model: what its slots hold, as keys of the model's things; None for null and i31s."""

    kind: str
    reference: int
    slots: list[int | None]


class Machine(RuleBasedStateMachine):
    """Python, C and compiled code on one heap, against a model that knows what can be reached."""

    def __init__(self, collector: Other, runtime: str) -> None:
        super().__init__()
        self.collector, self.runtime = collector, runtime

    @initialize()
    def start(self) -> None:
        self.store = lh.Store(engine(self.collector, self.runtime), initial_heap_size=1 << 14)
        self.pauses: Any = None
        loaded = module(self.collector, self.runtime, PROGRAM)
        self.exports: Any = lh.Instance(self.store, loaded, {"host": {"pause": lambda: self.pauses()}}).exports
        self.native = attach(self.store)
        self.things: dict[int, Thing] = {}
        self.unnamed = 0
        """Objects that compiled code made and dropped; a collector that frees nothing keeps them."""
        self.next_key = 0
        self.handles: list[tuple[int, Any]] = []
        self.globals: list[int | None] = [None, None]
        self.frames: list[tuple[Any, Any, list[int | None]]] = []
        self.died: list[int] = []
        self.expected_deaths: set[int] = set()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.handles.clear()
            self.store.close()

    # The model

    def make(self, kind: str, handle: Any, slots: list[int | None]) -> None:
        key = self.next_key
        self.next_key += 1
        self.forget(handle.reference)
        self.things[key] = Thing(kind, handle.reference, slots)
        self.handles.append((key, handle))

    def forget(self, reference: int) -> None:
        """Somebody has the place of an object: so that was freed, and was right to be."""
        gone = [key for key, thing in self.things.items() if thing.reference == reference]
        if gone:
            assert not set(gone) & self.kept()
            self.bury(set(gone))

    def bury(self, keys: set[int]) -> None:
        self.expected_deaths |= {key for key in keys if self.things[key].kind == "extern"}
        self.things = {key: thing for key, thing in self.things.items() if key not in keys}

    def kept(self) -> set[int]:
        """What no collector may free, and every one that frees keeps: what can be reached, and what cycles reach."""
        owners = dict.fromkeys(self.things, 0)
        held = [key for key, _ in self.handles] + self.globals + [key for _, _, keys in self.frames for key in keys]
        for key in (*held, *(slot for thing in self.things.values() for slot in thing.slots)):
            if key in owners:
                owners[key] += 1
        pending = [key for key, count in owners.items() if count == 0]
        while pending:
            key = pending.pop()
            del owners[key]
            for slot in self.things[key].slots:
                if slot in owners:
                    owners[slot] -= 1
                    if owners[slot] == 0:
                        pending.append(slot)
        return set(owners)

    def reached(self, *more: int | None) -> set[int]:
        """What roots reach, and these: all that a search for cycles keeps."""
        found: set[int] = set()
        held = [key for key, _ in self.handles] + self.globals + [key for _, _, keys in self.frames for key in keys]
        waiting = [*held, *more]
        while waiting:
            key = waiting.pop()
            if key in self.things and key not in found:
                found.add(key)
                waiting += self.things[key].slots
        return found

    def bury_cycles(self, *more: int | None) -> None:
        """A search has been made, if there is one."""
        if self.collector.searches:
            self.bury(self.things.keys() - self.reached(*more))

    def settle(self) -> None:
        """After a collection that has left nothing to free, what is kept is there, and nothing else."""
        self.store.tidy()
        found = sorted(each.index for each in self.store.heap.objects())
        if self.collector.frees:
            self.bury(self.things.keys() - self.kept())
            self.unnamed = 0
            assert found == sorted(thing.reference for thing in self.things.values())
            assert set(self.died) == self.expected_deaths
        else:
            assert len(found) == len(self.things) + self.unnamed
        assert len(self.died) == len(set(self.died))

    def pick(self, data: st.DataObject, *kinds: str) -> tuple[int, Any] | None:
        choices = [each for each in self.handles if self.things[each[0]].kind in kinds]
        return data.draw(st.sampled_from(choices)) if choices else None

    def value(self, data: st.DataObject, *kinds: str) -> tuple[int | None, Any]:
        return data.draw(st.sampled_from([self.pick(data, *kinds), None])) or (None, None)

    def place(self, data: st.DataObject) -> tuple[int, Any, int] | None:
        """A slot for any reference: a handle's key, it, and the number."""
        if (found := self.pick(data, "cell", "list")) is None or not self.things[found[0]].slots:
            return None
        slots = len(self.things[found[0]].slots)
        return *found, 0 if self.things[found[0]].kind == "cell" else data.draw(st.integers(0, slots - 1))

    # Making

    @rule(data=st.data(), compiled=st.booleans())
    def make_a_cell(self, data: st.DataObject, compiled: bool) -> None:
        (key, any_value), (extern_key, extern) = self.value(data, "cell", "list"), self.value(data, "extern")
        given = (any_value, extern)
        made = self.exports["cell"](*given) if compiled else lh.Struct(self.store, CELL, given)
        self.make("cell", made, [key, extern_key])

    @rule(data=st.data(), compiled=st.booleans(), length=st.integers(0, 4))
    def make_a_list(self, data: st.DataObject, compiled: bool, length: int) -> None:
        key, held = self.value(data, "cell", "list")
        made = self.exports["list"](held, length) if compiled else lh.Array(self.store, LIST, [held] * length)
        self.make("list", made, [key] * length)

    @rule()
    def make_an_externref(self) -> None:
        self.make("extern", lh.ExternRef(self.store, self.next_key, self.died.append), [])

    @rule(data=st.data())
    def drop_a_handle(self, data: st.DataObject) -> None:
        if self.handles:
            _, handle = self.handles.pop(data.draw(st.integers(0, len(self.handles) - 1)))
            handle.release()

    # Reading and writing

    @rule(data=st.data(), way=st.sampled_from(["python", "compiled", "c"]))
    def write(self, data: st.DataObject, way: str) -> None:
        if (place := self.place(data)) is None:
            return
        key, handle, number = place
        value_key, value = self.value(data, "cell", "list")
        if way == "python":
            handle[number] = value
        elif way == "compiled":
            self.exports["put"](handle, number, value)
        else:
            kind = "array" if self.things[key].kind == "list" else "struct"
            reference = NULL if value is None else value.reference
            self.native.call(f"lh_{kind}_set_ref", handle.reference, number, reference)
        self.things[key].slots[number] = value_key

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        if (place := self.place(data)) is not None:
            key, handle, number = place
            self.found(self.things[key].slots[number], handle[number])

    @rule(data=st.data(), pause=st.sampled_from(["nothing", "collect", "search", "sweep", "free"]))
    def take(self, data: st.DataObject, pause: str) -> None:
        """Compiled code has a reference that it has just overwritten, and something happens."""
        if (place := self.place(data)) is None:
            return
        key, handle, number = place
        ways: dict[str, Callable[[], None]] = {
            "nothing": lambda: None,
            "collect": self.store.collect,
            "search": lambda: self.store.collect(cycles=True),
            "sweep": self.sweep,
            "free": self.free,
        }
        self.pauses = ways[pause]
        found = self.exports["take"](handle, number)
        self.unnamed += 1
        taken, self.things[key].slots[number] = self.things[key].slots[number], None
        if pause == "search":
            self.bury_cycles(taken)
        self.found(taken, found)

    def found(self, key: int | None, handle: Any) -> None:
        if key is None:
            assert handle is None
        else:
            assert handle.reference == self.things[key].reference
            self.handles.append((key, handle))

    @rule(data=st.data(), number=st.integers(0, 1))
    def set_a_global(self, data: st.DataObject, number: int) -> None:
        key, value = self.value(data, "cell", "list")
        self.exports[f"set {number}"](value)
        self.globals[number] = key

    @rule(number=st.integers(0, 1))
    def get_a_global(self, number: int) -> None:
        self.found(self.globals[number], self.exports[f"get {number}"]())

    # Frames

    @rule(data=st.data())
    def push_a_frame(self, data: st.DataObject) -> None:
        """Its slots have what handles have, and what C reads there."""
        slots, pushed = ffi().new("lh_ref[]", 2), ffi().new("lh_frame *")
        self.native.call("lh_frame_push", pushed, slots, 2)
        keys: list[int | None] = [None, None]
        if (found := self.pick(data, "cell", "list", "extern")) is not None:
            self.native.call("lh_defer", found[1].reference)
            keys[0], slots[0] = found[0], found[1].reference
        if (place := self.place(data)) is not None:
            key, handle, number = place
            kind = "array" if self.things[key].kind == "list" else "struct"
            slots[1] = self.native.call(f"lh_{kind}_get_ref", handle.reference, number)
            keys[1] = self.things[key].slots[number]
        self.frames.append((pushed, slots, keys))

    @rule()
    @precondition(lambda self: self.frames)
    def pop_a_frame(self) -> None:
        pushed, _, _ = self.frames.pop()
        self.native.call("lh_frame_pop", pushed)

    # Collecting

    @rule(way=st.sampled_from(["python", "c", "increments", "increments of c"]), cycles=st.booleans())
    def collect(self, way: str, cycles: bool) -> None:
        if way == "python":
            self.store.collect(cycles=cycles)
        elif way == "c":
            self.native.call("lh_collect_cycles" if cycles else "lh_collect")
        elif way == "increments":
            self.store.heap.free_pending()
            collection = self.store.collection(cycles=cycles)
            while collection.collect_increment(2) is GcProgress.CONTINUE:
                pass
        else:
            self.store.heap.free_pending()
            while self.native.call("lh_collect_increment", 2):
                pass
        if cycles and way != "increments of c":
            self.bury_cycles()
        self.settle()

    def sweep(self) -> None:
        self.begin(2)

    def free(self) -> None:
        self.store.heap.free_pending(2)

    @rule(increments=st.integers(0, 3), cycles=st.booleans())
    def begin(self, increments: int, cycles: bool = False) -> None:
        """Begin a collection, and leave the rest for later."""
        collection = self.store.collection(cycles=cycles)
        for _ in range(increments):
            collection.collect_increment(1)
        collection.close()
        if cycles and increments > 1:
            self.bury_cycles()

    @rule(budget=st.integers(1, 3))
    def free_some(self, budget: int) -> None:
        self.store.heap.free_pending(budget)

    @rule()
    def forbid_collections(self) -> None:
        with self.store.heap.no_gc_scope(), pytest.raises(NoGcScopeError):
            self.store.collect()

    @invariant()
    def everything_holds(self) -> None:
        if hasattr(self, "store"):
            self.store.verify()
            self.native.call("lh_verify")
            live = {each.index for each in self.store.heap.objects()}
            assert live.issuperset(self.things[key].reference for key in self.kept())


@all_collectors
@runtimes
def test_random_operations_leave_what_the_model_has(collector: Other, runtime: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(collector, runtime),
        settings=settings(max_examples=examples(5, 15), stateful_step_count=30, deadline=None),
    )


# ----------------------------------------------------------------------------------------------------------------------
# What does not hold, and images


class Scene:
    """A sound heap with an object of each sort: `held` by a handle, `inner` in it, and `loose`, which compiled code may
    hold; `dead` waits to be freed.
    """

    def __init__(self, collector: Other) -> None:
        self.collector = collector
        self.store = lh.Store(engine(collector, "native"))
        self.native = attach(self.store)
        self.kept = lh.Struct(self.store, CELL, [lh.Struct(self.store, CELL), None])
        self.cell = self.kept.type_index
        self.held, inner = self.kept.reference, self.kept[0]
        self.inner = inner.reference
        inner.release()
        for _ in range(2):
            self._expose()
        self._begin()
        self.dead = next(iter(self.store.heap.pending_dead()))
        self.loose = self._expose()
        self.listed = self._expose()

    def _expose(self) -> int:
        reference = self.store.alloc_struct(self.cell)
        self.store.heap.expose_gc_ref_to_wasm(reference)
        return reference

    def _begin(self) -> None:
        """Sweep, and free one."""
        with self.store.collection() as collection:
            collection.collect_increment(1)
            collection.collect_increment(1)

    def header(self, place: str) -> Any:
        return self.store.heap.memory.view(VMDrcHeader, getattr(self, place))

    def image(self) -> Image:
        return self.store.snapshot()

    def problems(self) -> dict[str, list[str]]:
        """What each side says: Python, C, and an image in a file whose collector was given."""
        said: dict[str, list[str]] = {"python": [], "c": []}
        try:
            self.store.heap.verify()
        except HeapCorruptionError as error:
            said["python"] = error.problems
        if self.native.lh_verify(self.native.heap) != Status.OK:
            said["c"] = [message_of(self.native)]
        said["image"] = verify(Image.from_bytes(self.image().to_bytes()), self.collector.wanted)
        return said


def add(place: str, name: str, amount: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        header = scene.header(place)
        setattr(header, name, getattr(header, name) + amount)

    return inject


def toggle(place: str, bit: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        scene.header(place).kind_and_reserved ^= bit

    return inject


def unlist(scene: Scene) -> None:
    """The first on the list is not there any more."""
    control, header = scene.store.heap.control, scene.header("listed")
    assert control.over_approximated_stack_roots == scene.listed
    control.over_approximated_stack_roots = header.next_over_approximated_stack_root
    control.current_len -= 1
    header.kind_and_reserved &= ~HEADER_IN_OVER_APPROX_LIST_BIT


def ring(scene: Scene) -> None:
    scene.header("loose").next_over_approximated_stack_root = scene.listed


FAULTS: dict[str, tuple[Callable[[Scene], None], str]] = {
    "a count too high": (add("inner", "ref_count", 1), "object {inner} has count 2, but 1 owners"),
    "a count too low": (add("inner", "ref_count", -1), "object {inner} has count 0"),
    "a count of what nobody counts": (add("loose", "ref_count", 1), "object {loose} has count"),
    "not on the list": (unlist, "object {listed} has count"),
    "the bit of what is not listed": (
        toggle("inner", HEADER_IN_OVER_APPROX_LIST_BIT),
        "object {inner} has its in-list bit set, but is not on",
    ),
    "no bit on the list": (
        toggle("loose", HEADER_IN_OVER_APPROX_LIST_BIT),
        "object {loose} has its in-list bit clear, but is on",
    ),
    "a mark": (toggle("loose", HEADER_MARK_BIT), "object {loose} is marked, but no collection is running"),
    "a mark of what is not listed": (toggle("held", HEADER_MARK_BIT), "object {held} is marked"),
    "a count of the dead": (add("dead", "ref_count", 1), "object {dead} has count 1, but is on"),
    "a ring": (ring, "the over-approximated list comes back to {listed}"),
}


@pytest.mark.parametrize("fault", FAULTS)
@listing
def test_what_does_not_hold_is_named(collector: Other, fault: str) -> None:
    scene = Scene(collector)
    assert not any(scene.problems().values())
    inject, message = FAULTS[fault]
    inject(scene)
    expected = message.format(
        **{name: f"{getattr(scene, name):#x}" for name in ("held", "inner", "loose", "listed", "dead")}
    )
    for side, problems in scene.problems().items():
        assert any(expected in problem for problem in problems), (side, problems)


def test_count_0_is_in_the_zero_count_table() -> None:
    (collector,) = [each for each in OTHERS if each.name == "deutsch_bobrow"]
    scene = Scene(collector)
    unlist(scene)
    expected = f"object {scene.listed:#x} has count 0, but is not in the zero-count table"
    for side, problems in scene.problems().items():
        assert [expected in problem for problem in problems] == [True], side


@all_collectors
def test_an_image_is_verified_by_the_rules_of_its_collector(
    collector: Other, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without it, by what holds for every heap: and no module is imported because an image names it."""
    is_built_in = collector.wanted in registry.BUILT_IN
    knows_owners = is_built_in and collector.frees
    with lh.Store(engine(collector, "native")) as store:
        held = lh.Struct(store, CELL)
        store.heap.expose_gc_ref_to_wasm(store.heap.clone_gc_ref(held.reference))
        store.heap.expose_gc_ref_to_wasm(store.alloc_struct(held.type_index))
        path = tmp_path / "heap.img"
        store.snapshot().save(path)
        store.heap.memory.view(VMDrcHeader, held.reference).ref_count += 1
        broken = store.snapshot()
    image = Image.load(path)
    assert image.collector == (collector.wanted if is_built_in else f"{collector.name}:{collector.kind.__name__}")
    monkeypatch.setattr("importlib.import_module", None)
    assert verify(image) == []
    assert bool(verify(broken)) == knows_owners
    assert (inspect(image).garbage is not None) == knows_owners
    monkeypatch.undo()
    assert verify(image, collector.wanted) == verify(image, collector.kind) == []
    assert bool(verify(broken, collector.wanted)) == collector.frees
    old = dataclasses.replace(broken, collector=None)  # a dump's, or from before there was a name
    assert bool(verify(old)) == (collector in (DRC, RC_IMMIX)), "by what it keeps"
    said = json.loads(
        CliRunner().invoke(inspect_command, ["--json", str(path), "--collector", collector.wanted]).output
    )
    assert (said["problems"], said["collector"]) == ([], image.collector)
