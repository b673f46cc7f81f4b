"""Deferred reference counting in plain Python, and a state machine that drives it and a heap by random operations.

The machine does what compiled code and its host do to references through a `Side`. Here there is one side, Python; a
subclass of `HeapMachine` with more `sides` has each operation done by one of them at random.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lowheap.collector import DrcCollection, GcProgress
from lowheap.layout import NULL, VMDrcArrayHeader, VMDrcExternRef, i31_from_int, is_object
from support.heap_world import LONG_CELL, REFS, World

PAYLOAD = LONG_CELL.fields[1].offset


class Side(Protocol):
    """Who does an operation: the Python heap, or compiled code on the same bytes."""

    def inc_ref(self, reference: int) -> None:
        """Add a count."""

    def dec_ref(self, reference: int) -> None:
        """Take a count; free the object, with all that only it held, when it was the last."""

    def expose(self, reference: int) -> None:
        """Hand a count over to the list; give it back when the object is listed."""

    def read(self, reference: int, offset: int) -> int:
        """Read a slot into a local: what is read goes on the list, with a count, if it is not there."""

    def write(self, reference: int, offset: int, value: int) -> None:
        """Count `value`, store it in a slot, drop what was there."""


class PythonSide:
    """The operations as `DrcHeap` does them."""

    def __init__(self, world: World) -> None:
        self.heap = world.heap

    def inc_ref(self, reference: int) -> None:
        self.heap.clone_gc_ref(reference)

    def dec_ref(self, reference: int) -> None:
        self.heap.drop_gc_ref(reference)

    def expose(self, reference: int) -> None:
        self.heap.expose_gc_ref_to_wasm(reference)

    def read(self, reference: int, offset: int) -> int:
        value = self.heap.slot(reference, offset).value
        self.heap.expose_gc_ref_to_wasm(self.heap.clone_gc_ref(value))
        return value

    def write(self, reference: int, offset: int, value: int) -> None:
        self.heap.write_gc_ref(self.heap.slot(reference, offset), value)


@dataclass
class Thing:
    """What the model knows of one object. `slots` maps an offset to the raw reference stored there."""

    kind: str
    slots: dict[int, int] = field(default_factory=dict)
    payload: int = 0


class Model:
    """Deferred reference counting, in dicts. Objects are named by their references."""

    def __init__(self) -> None:
        self.things: dict[int, Thing] = {}
        self.handles: dict[int, int] = {}
        self.listed: list[int] = []  # the latest first
        self.pending: list[int] = []  # dead, and in `things` until they are freed; the next first

    def owners(self, reference: int) -> int:
        """How many owners an object has: slots, handles, and the list."""
        in_slots = sum(list(thing.slots.values()).count(reference) for thing in self.things.values())
        return in_slots + list(self.handles.values()).count(reference) + self.listed.count(reference)

    def settle(self) -> None:
        """Remove what has no owner, and what only that owned, until nothing changes."""
        while dead := [reference for reference in self.live() if self.owners(reference) == 0]:
            for reference in dead:
                del self.things[reference]

    def live(self) -> list[int]:
        return sorted(self.things.keys() - set(self.pending))

    def sweep(self, held: Iterable[int]) -> None:
        """Take the list's count from all that compiled code does not hold; what dies goes in front of the pending."""
        held = set(held)
        for reference in [reference for reference in self.listed if reference not in held]:
            self.listed.remove(reference)
            if self.owners(reference) == 0:
                self.pending.insert(0, reference)

    def free_pending(self, budget: int | None) -> int:
        """Free so many from the front, where what thereby dies goes too. Return how many there were."""
        freed = 0
        while self.pending and freed != budget:
            dead = self.pending.pop(0)
            slots = self.things[dead].slots
            for offset, reference in slots.items():
                slots[offset] = NULL
                if is_object(reference) and self.owners(reference) == 0:
                    self.pending.insert(0, reference)
            del self.things[dead]
            freed += 1
        return freed

    def expose(self, reference: int) -> None:
        if reference not in self.listed:
            self.listed.insert(0, reference)


class HeapMachine(RuleBasedStateMachine):
    """Drives a heap and the model; every step is verified. `side` numbers choose among `sides`."""

    collection: DrcCollection | None = None
    """One that has swept and may have something left to free."""

    def make_sides(self, world: World) -> Sequence[Side]:
        """Who takes turns on the heap; to be overridden."""
        return [PythonSide(world)]

    @initialize()
    def start(self) -> None:
        self.world = World(1 << 14)
        self.sides = self.make_sides(self.world)
        self.model = Model()
        self.stack: list[int] = []
        self.world.roots.add_stack_walker(lambda: self.stack)

    def side(self, number: int) -> Side:
        return self.sides[number % len(self.sides)]

    # Choosing what to operate on.

    def pick(self, data: st.DataObject, references: Any) -> int:
        """One of these references, or null where there is none."""
        choices = sorted(references)
        return data.draw(st.sampled_from(choices)) if choices else NULL

    def pick_value(self, data: st.DataObject) -> int:
        """Any live object, null, or an i31."""
        others = [NULL, i31_from_int(0), i31_from_int(-1), i31_from_int(12345)]
        return data.draw(st.sampled_from([*self.model.live(), *others]))

    def pick_slot(self, data: st.DataObject) -> tuple[int, int]:
        """An object and the offset of one of its slots; (0, 0) where there is none."""
        things = self.model.things
        slots = [(reference, offset) for reference in self.model.live() for offset in things[reference].slots]
        return data.draw(st.sampled_from(sorted(slots))) if slots else (NULL, 0)

    def hold(self, reference: int) -> None:
        """Put the caller's count into a new handle."""
        self.model.handles[self.world.roots.create_handle(reference)] = reference

    def hand_over(self, side: int, reference: int, *, expose: bool) -> None:
        """A new object goes to compiled code or to the host."""
        if expose:
            self.side(side).expose(reference)
            self.model.expose(reference)
        else:
            self.hold(reference)

    # Operations.

    @rule(payload=st.integers(0, (1 << 64) - 1), expose=st.booleans(), side=st.integers(0, 7))
    def allocate_struct(self, payload: int, expose: bool, side: int) -> None:
        reference = self.world.heap.alloc_uninit_struct(self.world.long_cell)
        self.world.memory.view(ctypes.c_uint64, reference + PAYLOAD).value = payload
        assert reference not in self.model.things
        self.model.things[reference] = Thing("struct", dict.fromkeys(LONG_CELL.traced_offsets, NULL), payload)
        self.hand_over(side, reference, expose=expose)

    @rule(length=st.integers(0, 9), expose=st.booleans(), side=st.integers(0, 7))
    def allocate_array(self, length: int, expose: bool, side: int) -> None:
        reference = self.world.heap.alloc_uninit_array(self.world.refs, length)
        assert reference not in self.model.things
        slots = {REFS.element_offset(index): NULL for index in range(length)}
        self.model.things[reference] = Thing("array", slots, length)
        self.hand_over(side, reference, expose=expose)

    @rule(value=st.integers(), expose=st.booleans(), side=st.integers(0, 7))
    def allocate_externref(self, value: int, expose: bool, side: int) -> None:
        reference = self.world.new_externref(value)
        assert reference not in self.model.things
        self.model.things[reference] = Thing("externref", {}, value)
        self.hand_over(side, reference, expose=expose)

    @rule(data=st.data(), side=st.integers(0, 7))
    def clone_to_the_host(self, data: st.DataObject, side: int) -> None:
        """The host takes a handle of an object that it or compiled code holds."""
        if reference := self.pick(data, {*self.model.handles.values(), *self.model.listed}):
            self.side(side).inc_ref(reference)
            self.hold(reference)

    @rule(data=st.data(), side=st.integers(0, 7))
    def drop(self, data: st.DataObject, side: int) -> None:
        if self.model.handles:
            number = data.draw(st.sampled_from(sorted(self.model.handles)))
            reference = self.world.roots.release_handle(number)
            assert reference == self.model.handles.pop(number)
            self.side(side).dec_ref(reference)
            self.model.settle()

    @rule(data=st.data(), side=st.integers(0, 7), keep=st.booleans())
    def expose(self, data: st.DataObject, side: int, keep: bool) -> None:
        """The host passes an object to compiled code: its handle's own count, or a clone."""
        if self.model.handles:
            number = data.draw(st.sampled_from(sorted(self.model.handles)))
            reference = self.model.handles[number]
            if keep:
                self.side(side).inc_ref(reference)
            else:
                self.world.roots.release_handle(number)
                del self.model.handles[number]
            self.side(side).expose(reference)
            self.model.expose(reference)

    @rule(data=st.data(), side=st.integers(0, 7))
    def read(self, data: st.DataObject, side: int) -> None:
        reference, offset = self.pick_slot(data)
        if reference:
            value = self.side(side).read(reference, offset)
            assert value == self.model.things[reference].slots[offset]
            if is_object(value):
                self.model.expose(value)

    @rule(data=st.data(), side=st.integers(0, 7))
    def write(self, data: st.DataObject, side: int) -> None:
        reference, offset = self.pick_slot(data)
        if reference:
            value = self.pick_value(data)
            self.side(side).write(reference, offset, value)
            self.model.things[reference].slots[offset] = value
            self.model.settle()

    @rule(data=st.data())
    def overwrite_with_itself(self, data: st.DataObject) -> None:
        reference, offset = self.pick_slot(data)
        if reference:
            self.side(data.draw(st.integers(0, 7))).write(reference, offset, self.model.things[reference].slots[offset])

    @rule(data=st.data())
    def collect(self, data: st.DataObject) -> None:
        held = data.draw(st.sets(st.sampled_from(self.model.listed))) if self.model.listed else set()
        self.stack = sorted(held)
        self.world.heap.verify(self.stack)
        collection = DrcCollection(self.world.heap, self.world.roots)
        collection.collect_increment()
        self.world.heap.verify(self.stack)
        collection.collect_increment()
        self.model.listed = [reference for reference in self.model.listed if reference in held]
        self.model.settle()
        self.model.free_pending(None)
        self.world.heap.verify(self.stack)
        self.stack = []

    # Collections with a budget: what a sweep leaves is freed in portions, and anything may happen in between.

    def choose_collector(self, side: int) -> None:
        """Have the next increments done by one of those who can; to be overridden."""

    def trace_and_sweep(self, side: int, held: Sequence[int], budget: int | None) -> DrcCollection:
        """Do the first two increments of a collection, while compiled code holds just these."""
        self.stack = list(held)
        collection = DrcCollection(self.world.heap, self.world.roots)
        assert collection.collect_increment(budget) is GcProgress.CONTINUE
        self.world.heap.verify(self.stack)
        self.increment(collection, budget, lambda: self.model.sweep(held))
        self.world.heap.verify(self.stack)
        self.stack = []
        return collection

    def increment(self, collection: DrcCollection, budget: int | None, sweep: Callable[[], None]) -> None:
        """Do an increment, which frees as many objects as the model says."""
        before = self.world.heap.control.objects_freed
        progress = collection.collect_increment(budget)
        sweep()
        freed = self.model.free_pending(budget)
        assert self.world.heap.control.objects_freed - before == freed
        assert progress is (GcProgress.CONTINUE if self.model.pending else GcProgress.COMPLETE)

    @rule(data=st.data(), side=st.integers(0, 7), budget=st.integers(1, 4))
    def collect_with_a_budget(self, data: st.DataObject, side: int, budget: int) -> None:
        held = data.draw(st.sets(st.sampled_from(self.model.listed))) if self.model.listed else set()
        self.choose_collector(side)
        self.collection = self.trace_and_sweep(side, sorted(held), budget)

    @rule(side=st.integers(0, 7), budget=st.integers(1, 6) | st.none())
    def go_on_with_a_collection(self, side: int, budget: int | None) -> None:
        if self.collection is not None and self.model.pending:
            self.choose_collector(side)
            self.increment(self.collection, budget, lambda: None)

    @rule()
    def close_a_collection(self) -> None:
        """What it has left stays for the next one."""
        if self.collection is not None:
            self.collection.close()
            self.collection = None

    @rule()
    def coalesce(self) -> None:
        self.world.heap.coalesce()

    @rule()
    def grow(self) -> None:
        memory = self.world.heap.take_memory()
        memory.grow(64)
        self.world.heap.replace_memory(memory, 64)

    # What must hold after each.

    @invariant()
    def the_heap_verifies(self) -> None:
        self.world.heap.verify()

    @invariant()
    def objects_counts_and_bits_are_the_models(self) -> None:
        found = {each.index: (each.ref_count, each.is_listed, each.is_marked) for each in self.world.heap.objects()}
        assert found == {
            reference: (self.model.owners(reference), reference in self.model.listed, False)
            for reference in self.model.things
        }

    @invariant()
    def the_list_is_the_models(self) -> None:
        assert self.world.on_list() == self.model.listed
        assert self.world.heap.control.current_len == len(self.model.listed)

    @invariant()
    def the_pending_list_is_the_models(self) -> None:
        assert list(self.world.heap.pending_dead()) == self.model.pending

    @invariant()
    def contents_are_the_models(self) -> None:
        heap, memory = self.world.heap, self.world.memory
        for reference, thing in self.model.things.items():
            slots = {offset: memory.view(ctypes.c_uint32, reference + offset).value for offset in thing.slots}
            assert slots == thing.slots
            if thing.kind == "struct":
                assert memory.view(ctypes.c_uint64, reference + PAYLOAD).value == thing.payload
            elif thing.kind == "array":
                assert memory.view(VMDrcArrayHeader, reference).length == thing.payload
            else:
                host_data_id = memory.view(VMDrcExternRef, reference).host_data_id
                assert self.world.host_data.get(host_data_id) == thing.payload
        externrefs = sum(thing.kind == "externref" for thing in self.model.things.values())
        assert len(self.world.host_data) == externrefs
        assert dict(heap.handles()) == self.model.handles
