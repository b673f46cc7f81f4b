"""C and Python take turns on one heap, operation by operation, against a model of it in plain Python.

The heap is a store's. C works through the interface's pointers, Python through handles; each sees what the other made.
After each operation both verify the heap, and it must be what the model says, object by object and count by count.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.combinations import examples

import lowheap as lh
from lowheap.embed import attach, ffi
from lowheap.layout import NULL, VMDrcExternRef, VMDrcHeader, i31_from_int
from lowheap.types import ANYREF, EXTERNREF, I16, I64

I31S = tuple(i31_from_int(value) for value in (0, -1, 54321))
FIELDS = (lh.FieldType(ANYREF, True), lh.FieldType(I16, True), lh.FieldType(EXTERNREF, True), lh.FieldType(I64, True))
NUMBERS = {1: "i32", 3: "i64"}  # fields of a struct, and what the interface calls them


@dataclass
class Thing:
    """An object: what its references are, by field or index, and its numbers; of an externref, its number."""

    kind: str
    references: dict[int, int]
    numbers: dict[int, int]


@dataclass
class Model:
    """The heap, as it should be. `own` has the counts that C has taken, `pending` what is dead and not freed yet."""

    things: dict[int, Thing] = field(default_factory=dict)
    handles: list[tuple[int, Any]] = field(default_factory=list)
    frames: list[tuple[Any, Any, list[int]]] = field(default_factory=list)
    slots: list[tuple[Any, int]] = field(default_factory=list)
    own: list[tuple[int, int]] = field(default_factory=list)
    listed: set[int] = field(default_factory=set)
    pending: set[int] = field(default_factory=set)
    died: list[int] = field(default_factory=list)

    def owners(self) -> dict[int, int]:
        """How many owners each object has."""
        counts = dict.fromkeys(self.things, 0)
        held = [value for thing in self.things.values() for value in thing.references.values()]
        held += [reference for reference, _ in self.handles] + [value for _, value in self.slots]
        held += [reference for reference, _ in self.own]
        for reference in (*held, *self.listed):
            if reference in counts:
                counts[reference] += 1
        return counts

    def settle(self) -> None:
        """What has no owner left is freed, and what thereby has none."""
        while gone := [r for r, count in self.owners().items() if count == 0 and r not in self.pending]:
            for reference in gone:
                self.free(reference)

    def free(self, reference: int) -> None:
        thing = self.things.pop(reference)
        if thing.kind == "extern":
            self.died.append(thing.numbers[0])

    def free_unreachable(self) -> None:
        """What no root reaches is freed, if a search is made after a sweep."""
        waiting = [reference for reference, _ in (*self.handles, *self.own)]
        waiting += [value for _, value in self.slots]
        waiting += self.listed
        reached: set[int] = set()
        while waiting:
            reference = waiting.pop()
            if reference in self.things and reference not in reached:
                reached.add(reference)
                waiting += self.things[reference].references.values()
        for reference in self.things.keys() - reached:
            self.free(reference)

    def sweep(self) -> None:
        """What is listed, and in no frame, is not listed any more."""
        self.listed &= {reference for _, _, held in self.frames for reference in held}

    def live(self) -> list[int]:
        return sorted(self.things.keys() - self.pending)


class TwoHosts(RuleBasedStateMachine):
    """See the module's docstring."""

    checked: ClassVar[bool]

    @initialize()
    def start(self) -> None:
        self.store = lh.Store(lh.Engine(), initial_heap_size=1 << 14)  # few blocks, to verify
        types = self.store.engine.types
        (self.struct,) = types.register([lh.SubType(lh.StructType(FIELDS))])
        (self.array,) = types.register([lh.SubType(lh.ArrayType(FIELDS[0]))])
        for index in (self.struct, self.array):
            self.store.heap.register_type(index)
        self.native = attach(self.store, checked=self.checked)
        self.c = self.native.call
        self.model = Model()
        self.died: list[int] = []
        self.next_number = 1

        @ffi().callback("lh_finalizer")
        def finalize(data: Any) -> None:
            self.died.append(int(ffi().cast("uintptr_t", data)))

        self.finalizer = finalize

    # Choosing

    def pick(self, data: st.DataObject, kinds: tuple[str, ...] = ("struct", "array", "extern")) -> int:
        """A live object of one of these kinds, or null when there is none."""
        choices = [reference for reference in self.model.live() if self.model.things[reference].kind in kinds]
        return data.draw(st.sampled_from(choices)) if choices else NULL

    def pick_value(self, data: st.DataObject, *, extern: bool) -> int:
        """What a slot of one of the two kinds can hold."""
        kinds = ("extern",) if extern else ("struct", "array")
        found = self.pick(data, kinds)
        return int(data.draw(st.sampled_from([found, found, NULL, *I31S])))

    def pick_place(self, data: st.DataObject) -> tuple[int, int]:
        """An object and one of its reference fields or elements, or null and 0."""
        things = self.model.things
        places = [(reference, number) for reference in self.model.live() for number in things[reference].references]
        return data.draw(st.sampled_from(places)) if places else (NULL, 0)

    def handle_of(self, reference: int) -> Any:
        """A handle that Python has of an object, or None."""
        return next((handle for held, handle in self.model.handles if held == reference), None)

    def in_python(self, value: int) -> Any:
        """A value as Python writes it to a field: None when Python has no handle of it."""
        if value & 1:
            return lh.I31(ctypes.c_int32(value).value >> 1)
        return self.handle_of(value)

    def slot(self, reference: int, number: int) -> Any:
        kind = self.model.things[reference].kind
        heap = self.store.heap
        offset = (
            heap.struct_layout(self.struct).fields[number].offset
            if kind == "struct"
            else heap.array_layout(self.array).element_offset(number)
        )
        return ffi().cast("lh_ref *", heap.control.heap_base + reference + offset)

    # Making

    def made(self, reference: int, thing: Thing, handle: Any) -> None:
        """A new object: Python's, with a handle, or one that C has got deferred."""
        assert reference not in self.model.things
        self.model.things[reference] = thing
        if handle is None:
            self.model.listed.add(reference)
        else:
            self.model.handles.append((reference, handle))

    @rule(by_c=st.booleans())
    def make_struct(self, by_c: bool) -> None:
        handle = None if by_c else lh.Struct(self.store, self.struct)
        reference = self.c("lh_alloc_struct", self.struct) if by_c else handle.reference  # type: ignore[union-attr]
        self.made(reference, Thing("struct", {0: NULL, 2: NULL}, {1: 0, 3: 0}), handle)

    @rule(by_c=st.booleans(), length=st.integers(0, 5))
    def make_array(self, by_c: bool, length: int) -> None:
        handle = None if by_c else lh.Array(self.store, self.array, length)
        reference = self.c("lh_alloc_array", self.array, length) if by_c else handle.reference  # type: ignore[union-attr]
        self.made(reference, Thing("array", dict.fromkeys(range(length), NULL), {}), handle)

    @rule(by_c=st.booleans())
    def make_externref(self, by_c: bool) -> None:
        number, self.next_number = self.next_number, self.next_number + 1
        data = ffi().cast("void *", number)
        handle = None if by_c else lh.ExternRef(self.store, data, self.finalizer)
        reference = self.c("lh_alloc_externref", data, self.finalizer) if by_c else handle.reference  # type: ignore[union-attr]
        self.made(reference, Thing("extern", {}, {0: number}), handle)

    # Holding

    @rule(data=st.data())
    def take_a_handle(self, data: st.DataObject) -> None:
        if reference := self.pick(data):
            self.model.handles.append((reference, self.native.adopt(reference)))

    @rule(data=st.data())
    @precondition(lambda self: self.model.handles)
    def release_a_handle(self, data: st.DataObject) -> None:
        _, handle = self.model.handles.pop(data.draw(st.integers(0, len(self.model.handles) - 1)))
        handle.release()
        self.model.settle()

    @rule(data=st.data())
    def take_a_count(self, data: st.DataObject) -> None:
        """C takes it; so that `verify` knows of its owner, it is in a handle."""
        if reference := self.pick(data):
            self.c("lh_inc_ref", reference)
            self.model.own.append((reference, self.store.roots.create_handle(reference)))

    @rule(data=st.data(), expose=st.booleans())
    @precondition(lambda self: self.model.own)
    def give_a_count_back(self, data: st.DataObject, expose: bool) -> None:
        reference, number = self.model.own.pop(data.draw(st.integers(0, len(self.model.own) - 1)))
        assert self.store.roots.release_handle(number) == reference
        self.c("lh_expose" if expose else "lh_dec_ref", reference)
        if expose:
            self.model.listed.add(reference)
        self.model.settle()

    @rule(data=st.data())
    def push_a_frame(self, data: st.DataObject) -> None:
        """A frame counts nothing, so what it is to hold must be listed: as what C has got from a call is."""
        listed = sorted(self.model.listed)
        held = data.draw(st.lists(st.sampled_from([NULL, I31S[0], *listed]), max_size=4))
        slots, frame = ffi().new("lh_ref[]", held or 1), ffi().new("lh_frame *")
        self.c("lh_frame_push", frame, slots, len(held))
        self.model.frames.append((frame, slots, held))

    @rule()
    @precondition(lambda self: self.model.frames)
    def pop_a_frame(self) -> None:
        frame, _, _ = self.model.frames.pop()
        self.c("lh_frame_pop", frame)

    @rule()
    def register_a_slot(self) -> None:
        slot = ffi().new("lh_ref *", 1234)
        self.c("lh_slot_register", slot)
        self.model.slots.append((slot, NULL))

    @rule(data=st.data())
    @precondition(lambda self: self.model.slots)
    def write_a_slot(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.model.slots) - 1))
        slot, old = self.model.slots[number]
        value = self.pick_value(data, extern=data.draw(st.booleans()))
        may_initialise = old == NULL and data.draw(st.booleans())
        self.c("lh_init" if may_initialise else "lh_write", slot, value)
        self.model.slots[number] = (slot, value)
        self.model.settle()

    @rule(data=st.data())
    @precondition(lambda self: self.model.slots)
    def read_a_slot(self, data: st.DataObject) -> None:
        slot, value = data.draw(st.sampled_from(self.model.slots))
        assert self.c("lh_read", slot) == slot[0] == value
        if value in self.model.things:
            self.model.listed.add(value)

    @rule(data=st.data())
    @precondition(lambda self: self.model.slots)
    def unregister_a_slot(self, data: st.DataObject) -> None:
        slot, _ = self.model.slots.pop(data.draw(st.integers(0, len(self.model.slots) - 1)))
        self.c("lh_slot_unregister", slot)
        assert slot[0] == NULL
        self.model.settle()

    # Reading and writing

    @rule(data=st.data(), way=st.sampled_from(["python", "field", "slot"]))
    def read(self, data: st.DataObject, way: str) -> None:
        reference, number = self.pick_place(data)
        if reference == NULL:
            return
        thing = self.model.things[reference]
        value = thing.references[number]
        handle = self.handle_of(reference)
        if way == "python" and handle is not None:
            found = handle[number]
            if isinstance(found, lh.I31):
                assert found.raw == value
            elif found is None:
                assert value == NULL
            else:
                assert found.reference == value
                found.release()
            return
        if way == "slot":
            assert self.c("lh_read", self.slot(reference, number)) == value
        else:
            assert self.c(f"lh_{thing.kind}_get_ref", reference, number) == value
        if value in self.model.things:
            self.model.listed.add(value)

    @rule(data=st.data(), way=st.sampled_from(["python", "field", "slot"]))
    def write(self, data: st.DataObject, way: str) -> None:
        reference, number = self.pick_place(data)
        if reference == NULL:
            return
        thing = self.model.things[reference]
        value = self.pick_value(data, extern=thing.kind == "struct" and number == 2)
        if thing.kind == "struct" and number == 2 and value & 1:
            value = NULL  # Python does not write an i31 to an externref field
        handle, written = self.handle_of(reference), self.in_python(value)
        if way == "python" and handle is not None and (written is not None or value == NULL):
            handle[number] = written
        elif way == "slot":
            self.c("lh_write", self.slot(reference, number), value)
        else:
            self.c(f"lh_{thing.kind}_set_ref", reference, number, value)
        thing.references[number] = value
        self.model.settle()

    @rule(data=st.data(), by_c=st.booleans(), number=st.sampled_from([1, 3]), value=st.integers(-(2**15), 2**15 - 1))
    def write_and_read_a_number(self, data: st.DataObject, by_c: bool, number: int, value: int) -> None:
        reference = self.pick(data, ("struct",))
        handle = self.handle_of(reference)
        if reference == NULL:
            return
        expected, kind = self.model.things[reference].numbers[number], NUMBERS[number]
        if by_c or handle is None:
            assert self.c(f"lh_struct_get_{kind}", reference, number) == expected
            self.c(f"lh_struct_set_{kind}", reference, number, value)
        else:
            assert handle[number] == (expected % 2**16 if number == 1 else expected)  # Python has an i16 without sign
            handle[number] = value
        self.model.things[reference].numbers[number] = value

    # Collecting

    @rule(by_c=st.booleans())
    def collect(self, by_c: bool) -> None:
        if by_c:
            self.c("lh_collect")
        else:
            self.store.collect()
        self.model.sweep()
        self.model.pending.clear()  # a whole collection frees what is left of another
        self.model.settle()

    @rule(by_c=st.booleans())
    def search(self, by_c: bool) -> None:
        if by_c:
            self.c("lh_collect_cycles")
        else:
            self.store.collect(cycles=True)
        self.model.sweep()
        self.model.pending.clear()
        self.model.free_unreachable()

    @rule(by_c=st.booleans(), budget=st.integers(1, 4))
    def increment(self, by_c: bool, budget: int) -> None:
        before = self.store.heap.control.objects_freed
        is_new = not self.model.pending
        if by_c or not is_new:
            left = bool(self.c("lh_collect_increment", budget))
        else:
            collection = self.store.collection()
            collection.collect_increment(budget)
            collection.collect_increment(budget)
            left = self.store.heap.control.pending_dead != NULL
        if is_new:
            self.model.sweep()
        self.store.tidy()
        present = {each.index for each in self.store.heap.objects()}
        while True:  # what has no owner left is freed, or waits for it
            dead = {reference for reference, count in self.model.owners().items() if count == 0}
            if not (gone := dead - present):
                break
            for reference in gone:
                self.model.free(reference)
        self.model.pending = dead
        assert self.store.heap.control.objects_freed - before <= budget
        assert left == bool(dead)

    # What must hold

    @invariant()
    def both_verify(self) -> None:
        if hasattr(self, "store"):
            self.c("lh_verify")
            self.store.verify()

    @invariant()
    def the_heap_is_as_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        heap, things, counts = self.store.heap, self.model.things, self.model.owners()
        met = {each.index: (each.ref_count, each.is_listed) for each in heap.objects()}
        assert met == {reference: (count, reference in self.model.listed) for reference, count in counts.items()}
        assert sorted(self.died) == sorted(self.model.died)
        for reference in self.model.live():
            thing = things[reference]
            header = VMDrcHeader.from_address(heap.control.heap_base + reference)
            assert header.type_index == {"struct": self.struct, "array": self.array}.get(thing.kind, 0xFFFFFFFF)
            for number, value in thing.references.items():
                assert self.slot(reference, number)[0] == value
            if thing.kind == "extern":
                assert header.object_size == ctypes.sizeof(VMDrcExternRef)
                assert int(ffi().cast("uintptr_t", self.c("lh_externref_data", reference))) == thing.numbers[0]

    def teardown(self) -> None:
        """Everything is dropped, cycles are cut, and nothing is left."""
        if not hasattr(self, "store"):
            return
        while self.model.frames:
            self.pop_a_frame()
        for reference in self.model.live():
            if reference in self.model.things:
                thing = self.model.things[reference]
                for number in thing.references:
                    self.c(f"lh_{thing.kind}_set_ref", reference, number, NULL)
                    thing.references[number] = NULL
                    self.model.settle()
                    if reference not in self.model.things:  # it was its own last owner
                        break
        for _, handle in self.model.handles:
            handle.release()
        for slot, _ in self.model.slots:
            self.c("lh_slot_unregister", slot)
        for reference, number in self.model.own:
            self.store.roots.release_handle(number)
            self.c("lh_dec_ref", reference)
        self.c("lh_collect")
        self.store.verify()
        self.c("lh_verify")
        assert not list(self.store.heap.objects())
        assert sorted(self.died) == list(range(1, self.next_number))
        assert len(self.store.host_data) == 0
        self.store.close()


class CheckedTwoHosts(TwoHosts):
    """The checked form."""

    checked = True


class FastTwoHosts(TwoHosts):
    """The fast form."""

    checked = False


TestChecked = CheckedTwoHosts.TestCase
TestChecked.settings = settings(max_examples=examples(30, 45), stateful_step_count=40, deadline=None)
TestFast = FastTwoHosts.TestCase
TestFast.settings = TestChecked.settings
