"""rc-immix: random graphs against a model, traces at once and by portions, what it keeps, and that faults are named.

`test_other_collectors.py` has what is the same for all collectors.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.combinations import examples

import lowheap as lh
from lowheap.collector import GcProgress
from lowheap.collectors.rc_immix import RcImmix
from lowheap.collectors.rc_immix.state import NOT_MARKING, Epochs

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
    epochs_of(store).trace_next = 1
    store.collect()


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
        epochs = epochs_of(self.store)
        epochs.trace_next = int(cycles and epochs.marking == NOT_MARKING)
        collection = self.store.collection()
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
        self.store.heap.free_pending()
        epochs_of(self.store).trace_next = 1
        collection = self.store.collection()
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
