"""rc-immix: random graphs against a model, traces at once and by portions, what it keeps, and that faults are named.

`test_other_collectors.py` has what is the same for all collectors.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.combinations import examples

import lowheap as lh
from lowheap.collector import GcProgress
from lowheap.collectors import registry
from lowheap.collectors.rc_immix import RcImmix
from lowheap.collectors.rc_immix.state import (
    DEAD,
    DECREMENTS,
    HELD,
    LIVE,
    LOG,
    MARKED,
    MARKING,
    NOT_MARKING,
    OLD,
    OLD_VALUES,
    ROOM,
    UNLOGGED,
    Epochs,
)
from lowheap.collectors.shared.sizing import UNLIMITED
from lowheap.errors import CompilerError, HeapCorruptionError, HeapExhaustedError
from lowheap.layout import VMDrcHeader

CELL = lh.StructType((lh.FieldType(lh.types.ANYREF, True), lh.FieldType(lh.types.ANYREF, True)))
WIDE = lh.StructType(tuple(lh.FieldType(lh.types.ANYREF, True) for _ in range(40)))
WIDEST = lh.StructType(tuple(lh.FieldType(lh.types.ANYREF, True) for _ in range(70)))
HOLDER = lh.StructType((lh.FieldType(lh.types.EXTERNREF, True), lh.FieldType(lh.types.ANYREF, True)))
LIST = lh.ArrayType(lh.FieldType(lh.types.ANYREF, True))

LENGTHS = [0, 1, 3, 60, 70, 600, 1500, 5000]
"""Of arrays: small, medium, beyond what dies at once, and large."""

RUNTIMES = ("native", "python")


@functools.cache
def engine(runtime: str, **options: int) -> lh.Engine:
    return lh.Engine(collector=RcImmix(**options), runtime=runtime)


def epochs_of(store: lh.Store) -> Any:
    return store.heap.native.state(Epochs)


def trace(store: lh.Store) -> None:
    """Collect with a trace, all at once."""
    store.collect(cycles=True)


class Thing:
    """An object of the model."""

    def __init__(self, reference: int, length: int) -> None:
        self.reference = reference
        self.slots: list[Thing | None] = [None] * length


class Graphs(RuleBasedStateMachine):
    """Objects of all sizes that refer to one another, changed and dropped between portions of collections."""

    runtime = "native"

    @initialize()
    def start(self) -> None:
        self.store = lh.Store(engine(self.runtime), initial_heap_size=1 << 15)
        self.held: list[tuple[Thing, Any]] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.held.clear()
            self.store.close()

    def reachable(self) -> dict[int, Thing]:
        found: dict[int, Thing] = {}
        pending = [thing for thing, _ in self.held]
        while pending:
            thing = pending.pop()
            if thing.reference not in found:
                found[thing.reference] = thing
                pending += [each for each in thing.slots if each is not None]
        return found

    def keep(self, handle: Any, length: int) -> None:
        self.held.append((Thing(handle.reference, length), handle))

    @rule(kind=st.sampled_from([CELL, CELL, CELL, WIDE, WIDEST]))
    def make_a_struct(self, kind: lh.StructType) -> None:
        length = len(kind.fields)
        self.keep(lh.Struct(self.store, kind, [None] * length), length)

    @rule(length=st.sampled_from(LENGTHS))
    def make_a_list(self, length: int) -> None:
        self.keep(lh.Array(self.store, LIST, [None] * length), length)

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        if self.held:
            thing, handle = data.draw(st.sampled_from(self.held))
            target, value = data.draw(st.sampled_from([*self.held, (None, None)]))
            if thing.slots:
                number = data.draw(st.sampled_from([0, len(thing.slots) - 1, len(thing.slots) // 2]))
                handle[number] = value
                thing.slots[number] = target

    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        if self.held:
            thing, handle = data.draw(st.sampled_from(self.held))
            if thing.slots:
                number = data.draw(st.sampled_from([0, len(thing.slots) - 1]))
                found = handle[number]
                target = thing.slots[number]
                assert (found is None) == (target is None)
                if found is not None and target is not None:
                    assert found.reference == target.reference
                    self.held.append((target, found))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        if self.held:
            _, handle = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
            handle.release()

    @rule()
    def drop_most(self) -> None:
        while len(self.held) > 1:
            self.held.pop()[1].release()

    @rule(cycles=st.booleans())
    def collect(self, cycles: bool) -> None:
        if cycles:
            trace(self.store)
            self.store.verify()
            assert {each.index for each in self.store.heap.objects()} == self.reachable().keys()
        else:
            self.store.collect()

    @rule(cycles=st.booleans(), increments=st.integers(1, 12), budget=st.sampled_from([1, 3, 50]))
    def begin(self, cycles: bool, increments: int, budget: int) -> None:
        collection = self.store.collection(cycles=cycles)
        for _ in range(increments):
            collection.collect_increment(budget)
            self.store.verify()
        collection.close()

    @rule(budget=st.sampled_from([1, 2, 10, 1000]))
    def go_on(self, budget: int) -> None:
        self.store.heap.free_pending(budget)

    @rule()
    def finish_a_trace_by_portions(self) -> None:
        """One that begins now finds all that is garbage."""
        collection = self.store.collection(cycles=True)
        while collection.collect_increment(7) is GcProgress.CONTINUE:
            pass
        assert {each.index for each in self.store.heap.objects()} == self.reachable().keys()

    @invariant()
    def everything_holds(self) -> None:
        if hasattr(self, "store"):
            self.store.verify()
            objects = {each.index for each in self.store.heap.objects()}
            assert objects.issuperset(self.reachable())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_random_graphs(runtime: str) -> None:
    kind = type("Graphs", (Graphs,), {"runtime": runtime})
    run_state_machine_as_test(
        kind, settings=settings(max_examples=examples(12, 60), stateful_step_count=40, deadline=None)
    )


class CrowdedGraphs(Graphs):
    """The same in a heap that is full most of the time: of each crowd, some stay, anywhere between others."""

    @initialize()
    def start(self) -> None:
        self.store = lh.Store(engine(self.runtime), initial_heap_size=1 << 15, maximum_heap_size=3 << 15)
        self.held: list[tuple[Thing, Any]] = []
        self.died: list[int] = []

    @rule(kind=st.sampled_from([CELL, CELL, CELL, WIDE, WIDEST]))
    def make_a_struct(self, kind: lh.StructType) -> None:
        try:
            super().make_a_struct(kind)
        except HeapExhaustedError:
            self.drop_some(2, 0)

    @rule(length=st.sampled_from(LENGTHS))
    def make_a_list(self, length: int) -> None:
        try:
            super().make_a_list(length)
        except HeapExhaustedError:
            self.drop_some(2, 0)

    @rule(
        lengths=st.lists(st.sampled_from([0, 1, 3, 12, 40, 60, 70, 100]), min_size=1, max_size=4),
        links=st.booleans(),
        step=st.integers(2, 60),
    )
    def crowd(self, lengths: list[int], links: bool, step: int) -> None:
        """As many objects as there is room for, of which few are held; these may lead to the others, one to another."""
        made: list[tuple[Thing, Any]] = []
        with contextlib.suppress(HeapExhaustedError):
            while True:
                length = lengths[len(made) % len(lengths)]
                handle = lh.Array(self.store, LIST, [None] * length)
                if links and made and length:
                    handle[0] = made[-1][1]
                made.append((Thing(handle.reference, length), handle))
                if links and len(made) > 1 and length:
                    made[-1][0].slots[0] = made[-2][0]
        self.store.verify()
        for number, (thing, handle) in enumerate(made):
            if number % step:
                handle.release()
            else:
                self.held.append((thing, handle))

    @rule(step=st.integers(2, 5), first=st.integers(0, 4))
    def drop_some(self, step: int, first: int) -> None:
        """Every so many."""
        for _, handle in self.held[first::step]:
            handle.release()
        del self.held[first::step]

    @rule(number=st.integers(1, 30))
    def make_externrefs(self, number: int) -> None:
        """Which the host frees at once, or soon."""
        with contextlib.suppress(HeapExhaustedError):
            for value in range(number):
                lh.ExternRef(self.store, value, self.died.append).release()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_random_graphs_in_a_crowd(runtime: str) -> None:
    number = examples(10, 100) if runtime == "native" else examples(4, 20)
    kind = type("CrowdedGraphs", (CrowdedGraphs,), {"runtime": runtime})
    run_state_machine_as_test(kind, settings=settings(max_examples=number, stateful_step_count=15, deadline=None))


# ----------------------------------------------------------------------------------------------------------------------
# A trace by portions finds what could be reached when it began


def lose_by_death(store: lh.Store, holder: Any, number: int) -> Any:
    """Its holder is dead before marking comes to it, and counted down what it referred to."""
    found = holder[number]
    holder.release()
    return found


def lose_by_a_store(store: lh.Store, holder: Any, number: int) -> Any:
    """The slot refers to nothing when marking comes to its holder."""
    found = holder[number]
    holder[number] = None
    return found


def lose_and_go_on(store: lh.Store, holder: Any, number: int) -> Any:
    """The same, and no epoch ends before marking does."""
    found = lose_by_a_store(store, holder, number)
    store.heap.free_pending()
    store.verify()
    return found


def end_epochs(store: lh.Store) -> None:
    """End two, and let marking wait."""
    for _ in range(2):
        store.heap.trace(())
        store.heap.sweep_pending()
        store.heap.finish_sweep()
    assert epochs_of(store).marking == MARKING


def lose_and_end_epochs(store: lh.Store, holder: Any, number: int) -> Any:
    """The same, and epochs end before marking goes on."""
    found = lose_by_a_store(store, holder, number)
    end_epochs(store)
    return found


def lose_epochs_later(store: lh.Store, holder: Any, number: int) -> Any:
    """The same, when epochs have ended in which something else was stored over."""
    holder[number - 1] = None
    end_epochs(store)
    return lose_and_go_on(store, holder, number)


def replace_by_young(store: lh.Store, holder: Any, number: int) -> Any:
    """It was made since, and what refers to it was marked before."""
    holder[number] = holder[number - 1] = None
    return lh.Array(store, LIST, [lh.Struct(store, CELL, [holder, None])] * 300)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "lose",
    [lose_by_death, lose_by_a_store, lose_and_go_on, lose_and_end_epochs, lose_epochs_later, replace_by_young],
)
@pytest.mark.parametrize(
    ("kind", "length", "number"),
    [(CELL, 2, 1), (WIDEST, 70, 69), (LIST, 3, 2), (LIST, 5000, 0)],
    ids=["in a header's slots", "beyond these", "in an array", "in one that dies by pieces"],
)
def test_what_a_trace_has_not_come_to_in_time_lives(
    runtime: str, lose: Callable[[lh.Store, Any, int], Any], kind: Any, length: int, number: int
) -> None:
    """When it began, a root held a holder, which nobody has looked at yet, and only that held an object; when it goes
    on, a root holds the object, and roots are not looked at again.
    """
    with lh.Store(engine(runtime)) as store:
        end = lh.Struct(store, CELL, [None, None])
        held = lh.Struct(store, CELL, [end, None])
        slots = [None] * length
        slots[number], slots[number - 1] = held, end
        holder = lh.Array(store, LIST, slots) if kind is LIST else lh.Struct(store, kind, slots)
        end.release()
        held.release()
        for _ in range(2):
            store.collect()
        epochs = epochs_of(store)
        traces = epochs.traces
        collection = store.collection(cycles=True)
        while epochs.marking != MARKING:
            collection.collect_increment(1)
        collection.close()
        marked = store.heap.native.length(MARKED).value
        assert [store.heap.native.entry(MARKED, each).value for each in range(marked)] == [holder.reference]
        found = lose(store, holder, number)
        store.collect()
        assert (epochs.marking, epochs.traces) == (NOT_MARKING, traces + 1)
        store.verify()
        live = {each.index for each in store.heap.objects()}
        assert {found.reference, found[0].reference} <= live
        assert len(live) == (2 if lose is lose_by_death else 3)
        store.collect()
        store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Externrefs


def collect_some(store: lh.Store, way: str) -> None:
    if way == "trace":
        trace(store)
    elif way == "portions":
        collection = store.collection(cycles=True)
        while collection.collect_increment(1) is GcProgress.CONTINUE:
            store.verify()
    else:
        store.collect()
    store.tidy()
    store.verify()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("way", ["count", "trace", "portions"])
@pytest.mark.parametrize("age", [0, 1, 2])
def test_host_data_is_let_go_of_once(runtime: str, way: str, age: int) -> None:
    """Young or old, held by nobody or by an object; what is held stays."""
    died: list[str] = []
    with lh.Store(engine(runtime)) as store:
        kept = lh.Struct(store, HOLDER, [lh.ExternRef(store, "kept", died.append), None])
        lost = lh.ExternRef(store, "lost", died.append)
        holder = lh.Struct(store, HOLDER, [lh.ExternRef(store, "with its holder", died.append), None])
        for _ in range(age):
            store.collect()
        assert died == []
        lost.release()
        holder.release()
        for _ in range(3):
            collect_some(store, way)
        assert sorted(died) == ["lost", "with its holder"]
        assert kept[0].value == "kept"
        assert store.stats().live_objects == 2
    assert sorted(died) == ["kept", "lost", "with its holder"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("way", ["trace", "portions"])
@pytest.mark.parametrize("age", [0, 1])
def test_an_externref_in_a_cycle_dies_with_it(runtime: str, way: str, age: int) -> None:
    died: list[str] = []
    with lh.Store(engine(runtime)) as store:
        one = lh.Struct(store, HOLDER, [lh.ExternRef(store, "one", died.append), None])
        other = lh.Struct(store, HOLDER, [lh.ExternRef(store, "other", died.append), one])
        one[1] = other
        kept = lh.Struct(store, HOLDER, [None, None])
        other[1] = one
        for _ in range(age):
            store.collect()
        one.release()
        other.release()
        store.collect()
        assert died == ([] if age else ["one", "other"] if died[0] == "one" else ["other", "one"]), "the young are gone"
        collect_some(store, way)
        assert sorted(died) == ["one", "other"]
        assert [each.index for each in store.heap.objects()] == [kept.reference]


def test_a_finalizer_allocates_in_the_middle() -> None:
    """It is run by an allocation that has ended an epoch."""
    made: list[Any] = []
    with lh.Store(engine("native", epoch_bytes=1 << 16), initial_heap_size=1 << 16) as store:

        def finalize(value: int) -> None:
            made.append(lh.Struct(store, CELL, [None, None]))
            made[-1][0] = made[-2] if len(made) > 1 else None

        for number in range(3000):
            lh.ExternRef(store, number, finalize).release()
            lh.Array(store, LIST, [None] * 20).release()
            if number % 500 == 0:
                store.verify()
        store.collect()
        store.tidy()
        assert len(made) == 3000
        assert all(made[number][0] == made[number - 1] for number in range(1, 3000))
        made.clear()


# ----------------------------------------------------------------------------------------------------------------------
# Compiled code


SLOTS = """(module
  (type $list (array (mut anyref)))
  (type $wide (struct {fields}))
  (global $list (mut (ref null $list)) (ref.null $list))
  (global $wide (mut (ref null $wide)) (ref.null $wide))
  (elem $segment anyref (item (ref.i31 (i32.const 7))) (item (ref.i31 (i32.const 8))))
  (func $garbage (param $n i32)
    (loop $again
      (drop (array.new $list (ref.null any) (i32.const 6)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (i32.gt_s (local.get $n) (i32.const 0)))))
  (func $box (param $n i32) (result anyref) (array.new $list (ref.i31 (local.get $n)) (i32.const 1)))
  (func (export "make") (param $length i32)
    (local $n i32)
    (global.set $list (array.new $list (ref.null any) (local.get $length)))
    (global.set $wide (struct.new_default $wide))
    (loop $again
      (array.set $list (global.get $list) (local.get $n) (call $box (local.get $n)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_s (local.get $n) (local.get $length)))))
  (func (export "fill") (param $start i32) (param $count i32)
    (array.fill $list (global.get $list) (local.get $start) (call $box (i32.const 1000)) (local.get $count)))
  (func (export "copy") (param $to i32) (param $from i32) (param $count i32)
    (array.copy $list $list (global.get $list) (local.get $to) (global.get $list) (local.get $from)
      (local.get $count)))
  (func (export "init") (param $to i32)
    (array.init_elem $list $segment (global.get $list) (local.get $to) (i32.const 0) (i32.const 2)))
  (func (export "set") (param $n i32) (array.set $list (global.get $list) (local.get $n) (call $box (i32.const 5))))
  (func (export "clear") (param $n i32) (array.set $list (global.get $list) (local.get $n) (ref.null any)))
  {setters}
  (func (export "churn") (param i32) (call $garbage (local.get 0)))
  (func (export "sum") (result i64)
    (local $sum i64) (local $n i32) (local $found anyref)
    (loop $again
      (local.set $found (array.get $list (global.get $list) (local.get $n)))
      (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.extend_i32_s
        (if (result i32) (ref.is_null (local.get $found)) (then (i32.const -1))
          (else (if (result i32) (ref.test (ref i31) (local.get $found))
            (then (i31.get_s (ref.cast (ref i31) (local.get $found))))
            (else (i31.get_s (ref.cast (ref i31)
              (array.get $list (ref.cast (ref $list) (local.get $found)) (i32.const 0)))))))))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (array.len (global.get $list)))))
    (local.get $sum)))""".format(
    fields="(field (mut anyref)) " * 70,
    setters="\n".join(
        f"""(func (export "wide {n}") (struct.set $wide {n} (global.get $wide) (global.get $list)))
  (func (export "wide {n} null") (struct.set $wide {n} (global.get $wide) (ref.null any)))"""
        for n in (0, 31, 32, 69)
    ),
)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=examples(8, 40), deadline=None)
@given(data=st.data())
def test_ranges_and_slots_of_old_objects(runtime: str, data: st.DataObject) -> None:
    """Of what is stored over in ranges, and beyond the bits of headers: the same sums as under `drc`."""
    lengths = [2, 5, 63, 64, 65, 200] + [3000] * (runtime == "native")
    length = data.draw(st.sampled_from(lengths), "length")
    place = st.integers(0, length)
    steps = data.draw(
        st.lists(
            st.tuples(st.just("fill"), place, place)
            | st.tuples(st.just("copy"), place, place, place)
            | st.tuples(st.just("init"), place)
            | st.tuples(st.sampled_from(["set", "clear"]), place)
            | st.tuples(st.sampled_from(["wide 0", "wide 31", "wide 32", "wide 69", "wide 0 null", "wide 69 null"]))
            | st.tuples(st.just("collect"))
            | st.tuples(st.just("churn"), st.integers(1, 30)),
            max_size=12,
        )
    )
    shown = []
    for used in (engine(runtime), drc_engine(runtime)):
        with lh.Store(used) as store:
            exports: Any = lh.Instance(store, compiled_slots(used)).exports
            exports["make"](length)
            seen: list[Any] = []
            for name, *arguments in steps:
                if name == "collect":
                    store.collect()
                else:
                    try:
                        exports[name](*arguments)
                    except lh.Trap as trap:
                        seen.append(trap.code)
                store.verify()
                seen.append(exports["sum"]())
            store.collect()
            store.verify()
            seen.append(store.stats().live_objects)
            shown.append(seen)
    assert shown[0] == shown[1]


@functools.cache
def drc_engine(runtime: str) -> lh.Engine:
    return lh.Engine(runtime=runtime)


@functools.cache
def compiled_slots(used: lh.Engine) -> lh.Module:
    return lh.Module(used, SLOTS)


RINGS = """(module
  (type $node (struct (field (mut (ref null $node))) (field (mut (ref null $node))) (field i32)))
  (func (export "run") (param $length i32) (param $times i32) (result i64)
    (local $first (ref null $node)) (local $last (ref null $node)) (local $new (ref null $node))
    (local $n i32) (local $sum i64)
    (loop $again
      (local.set $first (struct.new $node (ref.null $node) (ref.null $node) (i32.const 0)))
      (local.set $last (local.get $first))
      (local.set $n (i32.const 1))
      (loop $more
        (local.set $new (struct.new $node (local.get $last) (local.get $first) (local.get $n)))
        (struct.set $node 1 (local.get $last) (local.get $new))
        (struct.set $node 0 (local.get $first) (local.get $new))
        (local.set $last (local.get $new))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $more (i32.lt_s (local.get $n) (local.get $length))))
      (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_s (struct.get $node 2 (local.get $last)))))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br_if $again (i32.gt_s (local.get $times) (i32.const 0))))
    (local.get $sum)))"""


@pytest.mark.parametrize("options", [{}, {"pause_microseconds": 1000}, {"epoch_bytes": 1 << 17}], ids=str)
@pytest.mark.parametrize("length", [1000, 100_000])
def test_many_cycles_go_through_a_small_heap(options: dict[str, int], length: int) -> None:
    used = engine("native", **options)
    with lh.Store(used, maximum_heap_size=1 << 26) as store:
        exports: Any = lh.Instance(store, lh.Module(used, RINGS)).exports
        times = 10_000_000 // length
        assert exports["run"](length, times) == (length - 1) * times
        assert store.stats().objects_allocated == length * times
        assert store.stats().counters["peak_committed"] <= 1 << 26
        trace(store)
        assert store.stats().live_objects == 0


GROW = """(module
  (type $list (array (mut (ref null $list))))
  (global $held (mut (ref null $list)) (ref.null $list))
  (func (export "add") (param $length i32)
    (local $new (ref $list))
    (local.set $new (array.new $list (ref.null $list) (local.get $length)))
    (array.set $list (local.get $new) (i32.const 0) (global.get $held))
    (global.set $held (local.get $new)))
  (func (export "drop") (global.set $held (ref.null $list))))"""


def add_for_ever(exports: Any, length: int) -> None:
    while True:
        exports["add"](length)


@pytest.mark.parametrize("length", [1, 20, 200, 5000, 20_000])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exhausted_heap_traps_and_goes_on(runtime: str, length: int) -> None:
    used = engine(runtime)
    with lh.Store(used, initial_heap_size=1 << 15, maximum_heap_size=1 << 18) as store:
        exports: Any = lh.Instance(store, lh.Module(used, GROW)).exports
        made = []
        for _ in range(3):
            before = store.stats().objects_allocated
            with pytest.raises(lh.Trap, match="GC heap out of memory"):
                add_for_ever(exports, length)
            store.verify()
            made.append(store.stats().objects_allocated - before)
            exports["drop"]()
        size = (28 + 4 * length + 15) & -16
        assert made[0] == made[1] == made[2]
        assert made[0] * size > (1 << 18) * (0.85 if size < 1 << 14 else 0.4), "so much of the heap was used"
        store.collect()
        assert store.stats().live_objects == 0


REPLACE = """(module
  (type $node (struct (field (mut (ref null $node))) (field (mut (ref null $node))) (field i32)))
  (type $table (array (mut (ref null $node))))
  (global $held (mut (ref null $table)) (ref.null $table))
  (func $chain (param $length i32) (param $is_ring i32) (result (ref null $node))
    (local $n (ref null $node)) (local $first (ref null $node))
    (local.set $first (struct.new $node (ref.null $node) (ref.null $node) (local.get $length)))
    (local.set $n (local.get $first))
    (loop $again
      (if (i32.gt_s (local.get $length) (i32.const 1)) (then
        (local.set $n (struct.new $node (local.get $n) (ref.null $node) (local.get $length)))
        (local.set $length (i32.sub (local.get $length) (i32.const 1)))
        (br $again))))
    (if (local.get $is_ring) (then (struct.set $node 1 (local.get $first) (local.get $n))))
    (local.get $n))
  (func (export "make") (param $count i32) (param $chain i32)
    (local $n i32)
    (global.set $held (array.new $table (ref.null $node) (local.get $count)))
    (loop $again
      (array.set $table (global.get $held) (local.get $n) (call $chain (local.get $chain) (i32.const 0)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_s (local.get $n) (local.get $count)))))
  (func (export "churn") (param $times i32) (param $chain i32)
    (loop $again
      (drop (call $chain (local.get $chain) (i32.const 0)))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br_if $again (i32.gt_s (local.get $times) (i32.const 0)))))
  (func (export "replace") (param $times i32) (param $chain i32) (param $is_ring i32)
    (local $n i32)
    (loop $again
      (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 1664525)) (i32.const 1013904223)))
      (array.set $table (global.get $held)
        (i32.rem_u (i32.shr_u (local.get $n) (i32.const 8)) (array.len (global.get $held)))
        (call $chain (local.get $chain) (local.get $is_ring)))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br_if $again (i32.gt_s (local.get $times) (i32.const 0)))))
  (func (export "count") (result i64)
    (local $sum i64) (local $n i32) (local $node (ref null $node))
    (loop $entries
      (local.set $node (array.get $table (global.get $held) (local.get $n)))
      (block $end (loop $nodes
        (br_if $end (ref.is_null (local.get $node)))
        (local.set $sum (i64.add (local.get $sum) (i64.const 1)))
        (local.set $node (struct.get $node 0 (local.get $node)))
        (br $nodes)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $entries (i32.lt_u (local.get $n) (array.len (global.get $held)))))
    (local.get $sum)))"""
"""`held` has chains of nodes of 48 bytes; others take the place of some, one after another, anywhere."""

NODES = 6000


@pytest.mark.parametrize("chain", [1, 60])
@pytest.mark.parametrize("job", ["churn", "replace", "replace with rings"])
@pytest.mark.parametrize("options", [{}, {"pause_microseconds": 500}, {"epoch_bytes": 1 << 17}], ids=str)
def test_a_heap_of_little_more_than_what_lives_is_enough(options: dict[str, int], job: str, chain: int) -> None:
    """With half as much again, and even with a tenth, a program goes on, in more and shorter epochs."""
    used = engine("native", **options)
    lives = NODES * 48 + NODES // chain * 4
    epochs = []
    for maximum in (16 * lives, lives * 3 // 2, lives * 11 // 10):
        with lh.Store(used, maximum_heap_size=maximum) as store:
            exports: Any = lh.Instance(store, lh.Module(used, REPLACE)).exports
            exports["make"](NODES // chain, chain)
            before = store.stats()
            times = NODES // chain * 20
            if job == "churn":
                exports["churn"](times, chain)
            else:
                exports["replace"](times, chain, int(job != "replace"))
            after = store.stats()
            assert after.objects_allocated - before.objects_allocated == NODES * 20
            assert after.capacity <= maximum
            assert exports["count"]() == NODES
            store.collect(cycles=True)
            assert store.stats().live_objects == NODES + 1
            epochs.append(after.counters["epochs"] - before.counters["epochs"])
            if maximum == lives * 11 // 10:
                store.verify()
    assert epochs[0] <= epochs[1] < epochs[2]
    assert epochs[2] > 20 * NODES * 48 // (lives * 11 // 10)


def test_what_does_not_fit_traps_and_the_rest_lives() -> None:
    """With less than what lives; then some of it goes, and there is room again."""
    used = engine("native")
    lives = NODES * 48 + NODES * 4
    with lh.Store(used, maximum_heap_size=lives * 21 // 20) as store:
        exports: Any = lh.Instance(store, lh.Module(used, REPLACE)).exports
        exports["make"](NODES, 1)
        for _ in range(3):
            with pytest.raises(lh.Trap, match="GC heap out of memory"):
                exports["churn"](1, NODES // 5)
            store.verify()
            assert exports["count"]() == NODES
            exports["churn"](NODES // 10, 10)
        exports["make"](NODES // 20, 1)
        exports["churn"](1, NODES // 3)
        assert exports["count"]() == NODES // 20


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("pending", ["nothing waits", "it waits", "it is freed meanwhile"])
def test_a_full_heap_in_which_nothing_may_be_collected(runtime: str, pending: str) -> None:
    """What was made in this epoch stays where it is when room is looked for anywhere, also if old objects are freed."""
    died: list[str] = []
    with lh.Store(engine(runtime), initial_heap_size=1 << 15, maximum_heap_size=3 << 15) as store:
        old = [lh.Struct(store, CELL, [None, None]) for _ in range(2200)]
        hosted = [lh.ExternRef(store, str(number), died.append) for number in range(200)]
        store.collect()
        dropped = [each for number, each in enumerate(old) if number % 8]
        kept = old[::8]
        for each in (*dropped, *hosted):
            each.release()
        collection = store.collection()
        collection.collect_increment(1)
        collection.collect_increment(1)  # the epoch has ended, and next to nothing is counted down
        if pending == "nothing waits":
            store.heap.native.collector.free_pending(store.heap.native, UNLIMITED)
        assert store.heap.native.collector.has_pending(store.heap.native) == (pending != "nothing waits")
        collection.close()
        made = [lh.Struct(store, CELL, [kept[0], None])]
        with store.heap.no_gc_scope(), contextlib.suppress(HeapExhaustedError):
            while True:
                made.append(lh.Struct(store, CELL, [made[-1], kept[len(made) % len(kept)]]))
                if pending == "it is freed meanwhile":
                    store.heap.native.collector.free_pending(store.heap.native, 1)
        store.verify()
        assert len(made) > (2000 if pending == "nothing waits" else 400)
        for number, each in enumerate(made[1:], 1):
            assert each[0].reference == made[number - 1].reference
            assert each[1].reference == kept[number % len(kept)].reference
        assert len({each.reference for each in (*made, *kept)}) == len(made) + len(kept)
        store.heap.free_pending()
        store.tidy()
        assert len(died) == 200
        store.collect(cycles=True)
        store.verify()
        assert store.stats().live_objects == len(made) + len(kept)


HOLDS = """(module
  (type $cell (struct (field (mut anyref)) (field (mut anyref))))
  (type $box (array (mut i32)))
  (import "host" "churn" (func $churn))
  (func (export "run") (result i32)
    (local $held (ref null $cell))
    (local.set $held (struct.new $cell (array.new $box (i32.const 77) (i32.const 1)) (ref.null any)))
    (call $churn)
    (array.get $box (ref.cast (ref $box) (struct.get $cell 0 (local.get $held))) (i32.const 0))))"""
"""A function that holds an object in a frame only, while the host makes others."""


@pytest.mark.parametrize("options", [{}, {"checked": True}, {"collect_every": 1000}], ids=str)
@pytest.mark.parametrize("has_code", [False, True])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_python_ends_epochs_of_short_pauses(runtime: str, has_code: bool, options: dict[str, Any]) -> None:
    """An allocation of the host's, which no compiled code does, with frames or without any."""
    used = engine(runtime, epoch_bytes=1 << 16, pause_microseconds=100)
    died: list[int] = []

    def churn() -> None:
        for number in range(1000):
            cell = lh.Struct(store, CELL, [kept, lh.Array(store, LIST, [None] * 300)])
            cell[1] = cell
            if number % 10 == 0:
                lh.ExternRef(store, number, died.append).release()
            cell.release()

    with lh.Store(used, maximum_heap_size=1 << 18, **options) as store:
        kept = lh.Struct(store, CELL, [None, None])
        if has_code:
            exports = lh.Instance(store, lh.Module(used, HOLDS), {"host": {"churn": churn}}).exports
            assert exports["run"]() == 77
        else:
            churn()
        assert store.stats().counters["epochs"] > 3
        assert sum(store.pause_times().values()) > 3
        store.verify()
        assert len(died) > 50
        store.collect(cycles=True)
        with store.heap.no_gc_scope():
            made = [lh.Struct(store, CELL, [kept, None]) for _ in range(500)]
        store.collect(cycles=True)
        store.verify()
        assert store.stats().live_objects == len(made) + 1


def test_memory_is_given_back() -> None:
    used = engine("native")
    with lh.Store(used) as store:
        exports: Any = lh.Instance(store, lh.Module(used, GROW)).exports
        for _ in range(4000):
            exports["add"](4000)
        assert store.stats().counters["committed"] > 60 << 20
        exports["drop"]()
        for _ in range(60):
            store.collect()
        assert store.stats().live_objects == 0
        assert store.stats().counters["committed"] < 40 << 20
        for _ in range(4000):
            exports["add"](4000)
        assert store.stats().live_objects == 4000


# ----------------------------------------------------------------------------------------------------------------------
# Faults


class Scene:
    """A sound heap in the middle of an epoch: old objects, one of them with a slot that was logged, and a young one."""

    def __init__(self) -> None:
        self.store = lh.Store(engine("native"))
        self.list = lh.Array(self.store, LIST, [lh.Struct(self.store, CELL, [None, None]) for _ in range(100)])
        self.medium = lh.Array(self.store, LIST, [None] * 500)
        self.cell = lh.Struct(self.store, CELL, [self.list, None])
        self.store.collect()
        self.cell[0] = self.cell
        self.list[3] = None
        self.young = lh.Struct(self.store, CELL, [self.cell, None])
        self.heap = self.store.heap.native
        self.store.verify()

    def header(self, handle: Any) -> Any:
        return self.store.heap.memory.view(VMDrcHeader, handle.reference)


def shift_count(name: str, amount: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        scene.header(getattr(scene, name)).ref_count += amount

    return inject


def flip_live(name: str, offset: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        reference = getattr(scene, name).reference + offset
        scene.heap.side(LIVE, reference).value ^= 1 << (reference >> 4 & 63)

    return inject


def flip_unlogged(number: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        slot = scene.list.reference + 28 + 4 * number
        scene.heap.side(UNLOGGED, slot).value ^= 1 << (slot >> 2 & 63)

    return inject


def set_header_bits(name: str, value: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        scene.header(getattr(scene, name)).next_over_approximated_stack_root = value

    return inject


def toggle_old(name: str) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        scene.header(getattr(scene, name)).kind_and_reserved ^= scene.heap.header_bit(OLD)

    return inject


def forget_last(buffer: Any) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        assert scene.heap.length(buffer).value > 0
        scene.heap.length(buffer).value -= 1

    return inject


def repeat_first(buffer: Any) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        length = scene.heap.length(buffer).value
        scene.heap.entry(buffer, length).value = scene.heap.entry(buffer, 0).value
        scene.heap.length(buffer).value = length + 1

    return inject


def bury(scene: Scene) -> None:
    scene.heap.entry(DEAD, 0).value = scene.list.reference
    scene.heap.length(DEAD).value = 1


def wrong_room(scene: Scene) -> None:
    """Of a block that was not taken in this epoch."""
    scene.store.collect()
    scene.heap.side(ROOM, scene.list.reference).value = 3


def lose_survivor(scene: Scene) -> None:
    epochs_of(scene.store).live_objects -= 1
    scene.store.heap.control.objects_freed += 1


FAULTS: dict[str, tuple[Callable[[Scene], None], str]] = {
    "a count too high": (shift_count("list", 1), "has count 3, but 2 owners that count"),
    "a count too low": (shift_count("list", -1), "has count 1, but 2 owners that count"),
    "a count of the young": (shift_count("young", 1), "is young, and has count 1"),
    "no bit of what has survived": (flip_live("cell", 0), "where no"),
    "a bit where nothing begins": (flip_live("cell", 16), "bits say what has survived"),
    "no bit of a further line": (flip_live("medium", 256 - 28), "bits say what has survived"),
    "a slot that is not logged, and said to be": (flip_unlogged(7), "not to be logged any more"),
    "a slot that is logged, and to be again": (flip_unlogged(3), "in the log, and is yet to be logged"),
    "a field that is not logged, and said to be": (set_header_bits("young", 1), "for what is to be logged"),
    "a field that is logged, and to be again": (set_header_bits("cell", 3), "is it in the log"),
    "old, with a header's slots": (toggle_old("cell"), "is old, or is not, wrongly"),
    "an array that is not old": (toggle_old("list"), "is old, or is not, wrongly"),
    "an entry of the log that is missing": (forget_last(LOG), "to be logged"),
    "an entry of the log twice": (repeat_first(LOG), "in the log twice"),
    "an old value that is missing": (forget_last(OLD_VALUES), "owners that count"),
    "an old value twice": (repeat_first(OLD_VALUES), "owners that count"),
    "what roots held, missing": (forget_last(HELD), "owners that count"),
    "what is to be counted down, too much": (
        lambda scene: scene.heap.length(DECREMENTS).__setattr__("value", 1),
        "entry 0 of the decrements",
    ),
    "one of the dead that lives": (bury, "is on the stack of the dead"),
    "room that is not there": (wrong_room, "is said to have 3 free lines"),
    "figures": (lose_survivor, "the counters say"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_hold_is_named(fault: str) -> None:
    scene = Scene()
    inject, message = FAULTS[fault]
    inject(scene)
    with pytest.raises(HeapCorruptionError, match=re.escape(message)):
        scene.store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Options


def test_a_name_may_have_parameters() -> None:
    found = registry.find("rc-immix(pause_microseconds=1000, traces=False)")
    assert found == RcImmix(pause_microseconds=1000, traces=False) != RcImmix()
    with pytest.raises(CompilerError, match="with nothing: TypeError"):
        registry.find("rc-immix(nothing=1)")
    with pytest.raises(CompilerError, match="'epoch_bytes=many' among its parameters"):
        registry.find("rc-immix(epoch_bytes=many)")


def test_pauses_are_told() -> None:
    used = engine("native", epoch_bytes=1 << 16)
    with lh.Store(used) as store:
        assert store.pause_times() == {}
        exports: Any = lh.Instance(store, lh.Module(used, RINGS)).exports
        exports["run"](100, 1000)
        counters = store.stats().counters
        assert sum(store.pause_times().values()) == counters["pauses"] > 10
        assert max(store.pause_times()) > counters["longest_pause_nanoseconds"] > 0
    with lh.Store(drc_engine("native")) as store:
        assert store.pause_times() == {}
