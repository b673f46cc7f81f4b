"""What only cycles keep: found by a search, and freed, while all else lives.

On random graphs, what a search frees is exactly what the finder of `snapshot/inspection.py` calls garbage, which is
plain Python on an image, and knows nothing of marks. Faults put into each step are found out. Then programs, with a
search at each safepoint, what hosts hold, finalizers, increments, other collectors, and when a search is due.
test_native_collectors.py compares each function with its machine code.
"""

from __future__ import annotations

import ctypes
import functools
import io
import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.combinations import examples
from support.heap_world import NEXT, REFS, fields
from support.store_world import StoreWorld

import lowheap as lh
from lowheap.collector import DrcCollection, GcProgress
from lowheap.collectors.drc import Drc
from lowheap.collectors.shared import cycles
from lowheap.collectors.shared.sizing import CYCLE_FLOOR, NO_SEARCH
from lowheap.collectors.shared.tracing import traced_slots
from lowheap.errors import HeapCorruptionError, HeapExhaustedError, InvalidReferenceError, UnsupportedError
from lowheap.layout import EXTERNREF_TYPE_INDEX, NULL, VMRootFrame, VMTable, block_length
from lowheap.native import Heap, Ref, native
from lowheap.snapshot import Image
from lowheap.snapshot.inspection import find_garbage, inspect
from lowheap.types import ANYREF, EXTERNREF, FieldType, RefType, StructType, SubType

SIDES = ("python", "native")
RUNTIMES = ("native", "python")
KINDS = ("cell", "long_cell", "pair", "wide", "refs", "exception", "externref")
HOLDERS = ("handle", "slot", "range", "frame", "thrown", "list", "nobody", "nobody", "nobody")
"""Who holds an object, besides others; what only the list holds, an ordinary collection takes off it."""


class Searching(StoreWorld):
    """A heap in which Python or compiled code searches, and what hosts hold there."""

    def __init__(self, side: str, capacity: int = 1 << 16) -> None:
        super().__init__(capacity)
        self.is_native = side == "native"
        self.choose_collector(native=self.is_native)
        wide = StructType(tuple(FieldType(RefType(True, self.cell), True) for _ in range(70)))
        (self.wide,) = self.types.register([SubType(wide)], outer=tuple(self.types))
        (self.both,) = self.types.register([SubType(fields(ANYREF, EXTERNREF))])
        for index in (self.wide, self.both):
            self.heap.register_type(index)
        self.slots = (ctypes.c_uint32 * 16)()
        self.table = VMTable()
        self.elements = (ctypes.c_uint32 * 16)()
        self.table.base, self.table.length = ctypes.addressof(self.elements), len(self.elements)
        self.roots.add_range(ctypes.addressof(self.table))
        self.roots.add_slots([ctypes.addressof(self.slots) + 4 * number for number in range(len(self.slots))])
        self.framed = (ctypes.c_uint32 * 64)()
        self.frame = VMRootFrame(slots=ctypes.addressof(self.framed), slot_count=len(self.framed))
        self.runtime.context.root_frames = ctypes.addressof(self.frame)

    def new(self, kind: str) -> int:
        """An object that refers to nothing, with one count."""
        heap = self.heap
        match kind:
            case "refs":
                return self.new_refs(*[NULL] * 3)
            case "externref":
                return self.new_externref(kind)
            case "exception":
                return heap.alloc_uninit_exn(self.tag)
        return heap.alloc_uninit_struct(getattr(self, kind))

    def references(self, reference: int) -> list[ctypes.c_uint32]:
        type_index = self.heap.header(reference).type_index
        return [] if type_index == EXTERNREF_TYPE_INDEX else list(traced_slots(self.heap.native, reference, type_index))

    def link(self, owner: int, number: int, target: int) -> None:
        slots = self.references(owner)
        if slots:
            self.heap.write_gc_ref(slots[number % len(slots)], target)

    def hand_over(self, reference: int, holder: str, number: int) -> None:
        """Have somebody hold an object whose one count is the caller's."""
        heap = self.heap
        match holder:
            case "handle":
                self.roots.create_handle(reference)
                return
            case "slot":
                heap.write_gc_ref(ctypes.c_uint32.from_buffer(self.slots, 4 * (number % len(self.slots))), reference)
            case "range":
                place = 4 * (number % len(self.elements))
                heap.write_gc_ref(ctypes.c_uint32.from_buffer(self.elements, place), reference)
            case "frame" | "thrown" | "list":
                heap.expose_gc_ref_to_wasm(heap.clone_gc_ref(reference))
                if holder == "frame":
                    self.framed[number % len(self.framed)] = reference
                elif holder == "thrown":
                    self.runtime.context.exception = reference
        heap.drop_gc_ref(reference)

    def collect(self) -> None:
        if self.is_native:
            self.store.collect()
        else:
            DrcCollection(self.heap, self.roots).collect()

    def search(self) -> None:
        if self.is_native:
            self.store.collect(cycles=True)
        else:
            DrcCollection(self.heap, self.roots, cycles=True).collect()

    def reached(self, starts: Iterable[int]) -> set[int]:
        """What can be reached by way of slots: a search in Python of its own."""
        found: set[int] = set()
        waiting = list(starts)
        while waiting:
            reference = waiting.pop()
            if reference not in found:
                found.add(reference)
                waiting += self.heap.references(reference)
        return found


@pytest.fixture(params=SIDES)
def world(request: pytest.FixtureRequest) -> Searching:
    return Searching(request.param)


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ----------------------------------------------------------------------------------------------------------------------
# Random graphs, and what Python says of them

NUMBERS = st.integers(0, 29)
OBJECTS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(HOLDERS)), min_size=1, max_size=30)
LINKS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=80)


def made(world: Searching, objects: list[tuple[str, str]], links: list[tuple[int, int, int]]) -> list[int]:
    """Make objects that refer to one another, hand each to whoever holds it, and collect. Returns those that live."""
    new = [world.new(kind) for kind, _ in objects]
    for owner, number, target in links:
        world.link(new[owner % len(new)], number, new[target % len(new)])
    for number, (reference, (_, holder)) in enumerate(zip(new, objects, strict=True)):
        world.hand_over(reference, holder, number)
    world.collect()
    world.heap.verify()
    return [each for each in new if each in world.live()]


def sizes(world: Searching, references: Iterable[int]) -> int:
    return sum(block_length(world.heap.object_size(each)) for each in references)


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=examples(150, 600), deadline=None)
@given(objects=OBJECTS, links=LINKS)
def test_a_search_frees_what_the_finder_finds(
    side: str, objects: list[tuple[str, str]], links: list[tuple[int, int, int]]
) -> None:
    world = Searching(side)
    made(world, objects, links)
    garbage = find_garbage(world.store.snapshot())
    before, live = world.heap.stats(), set(world.live())
    expected = set(garbage.freed_by_search)
    assert expected == live - world.reached(root.reference for root in world.store.snapshot().roots)
    host_data = len(world.host_data)
    kept = {each: world.heap.memory.read(each, world.heap.object_size(each)) for each in live - expected}
    counts = {each: world.count(each) for each in kept}
    lost = {each: sum(world.heap.references(one).count(each) for one in expected) for each in kept}
    externrefs = {each for each in expected if world.heap.header(each).type_index == EXTERNREF_TYPE_INDEX}
    found_bytes = sizes(world, expected)
    world.search()
    world.heap.verify()
    assert set(world.live()) == live - expected
    assert {each: world.count(each) for each in kept} == {each: counts[each] - lost[each] for each in kept}
    for each, content in kept.items():  # all but the counts, and the list's order
        assert world.heap.memory.read(each + 24, len(content) - 24) == content[24:]
    after = world.heap.stats()
    assert after.cycle_searches == before.cycle_searches + 1
    assert after.cyclic_objects - before.cyclic_objects == len(expected)
    assert after.cyclic_bytes - before.cyclic_bytes == found_bytes == garbage.bytes_freed_by_search
    assert before.live_bytes - after.live_bytes == found_bytes
    assert len(world.host_data) == host_data - len(externrefs)
    assert len(find_garbage(world.store.snapshot())) == 0


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=examples(80, 300), deadline=None)
@given(objects=OBJECTS, links=LINKS, owned=st.lists(NUMBERS, min_size=1, max_size=4))
def test_what_somebody_unknown_owns_lives(
    side: str, objects: list[tuple[str, str]], links: list[tuple[int, int, int]], owned: list[int]
) -> None:
    """C code that counts a reference for itself, say: no root tells of it, but the count does."""
    world = Searching(side)
    living = made(world, objects, links)
    own = [world.heap.clone_gc_ref(living[number % len(living)]) for number in owned if living]
    roots = [root.reference for root in world.store.snapshot().roots]
    expected = world.reached([*roots, *own])
    world.search()
    assert set(world.live()) == expected
    for each in own:
        world.heap.drop_gc_ref(each)
    world.heap.verify()
    world.search()
    world.heap.verify()
    assert set(world.live()) == world.reached(root.reference for root in world.store.snapshot().roots)


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=examples(80, 300), deadline=None)
@given(
    graphs=st.lists(st.tuples(OBJECTS, LINKS), min_size=1, max_size=3),
    budgets=st.lists(st.integers(1, 5), min_size=1, max_size=9),
)
def test_increments_free_the_same(
    side: str, graphs: list[tuple[list[tuple[str, str]], list[tuple[int, int, int]]]], budgets: list[int]
) -> None:
    """What a search has found waits, and so may what dies, and what only that holds, when the next one begins."""
    world = Searching(side)
    collection = None
    each_budget = itertools.cycle(budgets)
    for objects, links in graphs:
        new = [world.new(kind) for kind, _ in objects]
        for owner, number, target in links:
            world.link(new[owner % len(new)], number, new[target % len(new)])
        for number, (reference, (_, holder)) in enumerate(zip(new, objects, strict=True)):
            world.hand_over(reference, holder, number)
        if world.is_native:
            collection = world.store.collection(cycles=True)
        else:
            collection = DrcCollection(world.heap, world.roots, cycles=True)
        collection.collect_increment(1)
        for _ in range(2):
            before = world.heap.stats().objects_freed
            budget = next(each_budget)
            collection.collect_increment(budget)
            assert world.heap.stats().objects_freed - before <= budget
            world.heap.verify()
    assert collection is not None
    reached = world.reached(root.reference for root in world.store.snapshot().roots)
    assert len(find_garbage(world.store.snapshot())) == 0, "all that a search can find waits"
    while collection.collect_increment(next(each_budget)) is GcProgress.CONTINUE:
        world.heap.verify()
    world.store.tidy()
    assert set(world.live()) == reached
    world.heap.verify()


def ring(world: Searching, count: int = 3) -> list[int]:
    """Cells in a circle that nobody else holds."""
    cells = [world.new_cell() for _ in range(count)]
    for number, cell in enumerate(cells):
        world.link(cell, 0, cells[(number + 1) % count])
    for cell in cells:
        world.heap.drop_gc_ref(cell)
    return cells


def test_free_lists_are_in_address_order_afterwards(world: Searching) -> None:
    cells = ring(world, 100)
    world.search()
    assert world.live() == []
    first = [world.new_cell() for _ in range(100)]
    assert first == sorted(cells)


def test_what_a_cycle_holds_of_what_lives_is_given_back(world: Searching) -> None:
    kept = world.new_cell()
    world.roots.create_handle(kept)
    array = world.new_refs(NULL, *[world.heap.clone_gc_ref(kept) for _ in range(5)])
    world.link(array, 0, array)
    world.heap.drop_gc_ref(array)
    assert (world.live(), world.count(kept)) == ([kept, array], 6)
    world.search()
    assert (world.live(), world.count(kept)) == ([kept], 1)
    world.heap.verify()


def test_what_a_dead_cycle_held_alone_dies_with_it(world: Searching) -> None:
    """However long the chain is, and whatever its objects are."""
    tail = NULL
    for number in range(200):
        tail = world.new_cell(tail) if number % 2 else world.new_refs(tail, NULL)
    array = world.new_refs(NULL, tail)
    world.link(array, 0, array)
    world.heap.drop_gc_ref(array)
    world.collect()
    assert len(world.live()) == 201
    world.search()
    assert world.live() == []
    assert world.heap.stats().cyclic_objects == 201
    world.heap.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Faults


def broken(world: Searching, function: Any, replacement: Callable[..., Any]) -> None:
    """Have Python's search use something else in the place of one of its functions."""
    world.heap.native.replacements[function] = replacement


@native
def cut_all(heap: Heap, chain: Ref) -> None:
    """What lives is not given back either."""
    while chain != NULL:
        for slot in cycles.slots_of(heap, chain):
            slot.value = NULL
        header = heap.header_at(chain)
        header.kind_and_reserved &= ~1
        chain = header.next_over_approximated_stack_root


def one_that_holds_what_lives(world: Searching) -> tuple[int, int]:
    kept = world.new_cell()
    world.roots.create_handle(kept)
    array = world.new_refs(NULL, world.heap.clone_gc_ref(kept), NULL)
    world.link(array, 0, array)
    world.heap.drop_gc_ref(array)
    return kept, array


def test_a_child_that_is_not_given_back_is_found_out() -> None:
    world = Searching("python")
    kept, _ = one_that_holds_what_lives(world)
    broken(world, cycles.cut, lambda chain: cut_all(world.heap.native, chain))
    world.search()
    with pytest.raises(HeapCorruptionError, match=f"object {kept:#x} has count 2, but 1 owners"):
        world.heap.verify()


def test_a_cut_that_leaves_a_reference_to_a_dead_object_is_found_out() -> None:
    world = Searching("python")
    ring(world)
    broken(world, cycles.cut, lambda chain: None)

    def search_and_verify() -> None:
        world.search()
        world.heap.verify()

    with pytest.raises(HeapCorruptionError):
        search_and_verify()


def test_a_mark_that_is_missed_costs_time_but_frees_nothing() -> None:
    """The counts tell that it is owned. Only if nobody looks at them either is it freed, and then `verify` says so."""
    for looks in (True, False):
        world = Searching("python")
        kept, _ = one_that_holds_what_lives(world)
        broken(world, cycles.mark, lambda reference, stack: stack)  # nothing is ever marked
        if not looks:

            def take(chain: int, world: Searching = world) -> int:
                total = 0
                for each in world.live():
                    total += world.count(each)
                    world.heap.native.header_at(each).ref_count = 0
                return total

            broken(world, cycles.take_counts, take)
        world.search()
        if looks:
            assert kept in world.live()
            world.heap.verify()
        else:
            with pytest.raises(HeapCorruptionError, match="handle"):
                world.heap.verify()


@pytest.mark.parametrize("place", ["of garbage", "of what lives"])
def test_a_reference_that_leads_nowhere_ends_a_search_by_python_and_nothing_is_lost(place: str) -> None:
    world = Searching("python")
    kept, array = one_that_holds_what_lives(world)
    ring(world)
    holder, offset = (array, REFS.element_offset(2)) if place == "of garbage" else (kept, NEXT)
    slot = world.heap.slot(holder, offset)
    before = world.live()
    slot.value = 0xFFF0
    with pytest.raises(InvalidReferenceError, match="0xfff0 does not name an object"):
        world.search()
    assert not any(each.is_marked for each in world.heap.objects())
    slot.value = NULL
    assert world.live() == before
    world.heap.verify()
    assert world.heap.control.phase == 0
    world.search()
    assert world.live() == [kept]
    world.heap.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Programs, with a search at each safepoint

LINKED = """(module
  (type $node (struct
    (field $next (mut (ref null $node))) (field $previous (mut (ref null $node))) (field $value (mut i32))))
  (func $push (param $first (ref null $node)) (param $value i32) (result (ref null $node))
    (local $new (ref null $node))
    (local.set $new (struct.new $node (local.get $first) (ref.null $node) (local.get $value)))
    (if (i32.eqz (ref.is_null (local.get $first)))
      (then (struct.set $node $previous (local.get $first) (local.get $new))))
    (local.get $new))
  (func $sum (param $node (ref null $node)) (result i32)
    (local $sum i32) (local $last (ref null $node))
    (loop $there
      (if (i32.eqz (ref.is_null (local.get $node))) (then
        (local.set $sum (i32.add (local.get $sum) (struct.get $node $value (local.get $node))))
        (local.set $last (local.get $node))
        (local.set $node (struct.get $node $next (local.get $node)))
        (br $there))))
    (loop $back
      (if (i32.eqz (ref.is_null (local.get $last))) (then
        (local.set $sum (i32.add (local.get $sum) (struct.get $node $value (local.get $last))))
        (local.set $last (struct.get $node $previous (local.get $last)))
        (br $back))))
    (local.get $sum))
  (func (export "run") (param $length i32) (param $times i32) (result i32)
    (local $n i32) (local $list (ref null $node)) (local $total i32)
    (loop $again
      (local.set $list (ref.null $node))
      (local.set $n (local.get $length))
      (loop $make
        (local.set $list (call $push (local.get $list) (local.get $n)))
        (br_if $make (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (local.set $total (i32.add (local.get $total) (call $sum (local.get $list))))
      (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
    (local.get $total)))"""
"""Lists that are linked both ways, made and summed up there and back."""

TREES = """(module
  (type $node (struct
    (field $parent (ref null $node)) (field $left (mut (ref null $node))) (field $right (mut (ref null $node)))))
  (func $make (param $parent (ref null $node)) (param $depth i32) (result (ref null $node))
    (local $new (ref null $node))
    (local.set $new (struct.new $node (local.get $parent) (ref.null $node) (ref.null $node)))
    (if (local.get $depth) (then
      (struct.set $node $left (local.get $new)
        (call $make (local.get $new) (i32.sub (local.get $depth) (i32.const 1))))
      (struct.set $node $right (local.get $new)
        (call $make (local.get $new) (i32.sub (local.get $depth) (i32.const 1))))))
    (local.get $new))
  (func $count (param $node (ref null $node)) (result i32)
    (if (result i32) (ref.is_null (local.get $node)) (then (i32.const 0)) (else
      (i32.add (i32.const 1) (i32.add
        (call $count (struct.get $node $left (local.get $node)))
        (call $count (struct.get $node $right (local.get $node))))))))
  (func (export "run") (param $depth i32) (param $times i32) (result i32)
    (local $total i32) (local $leaf (ref null $node)) (local $tree (ref null $node))
    (loop $again
      (local.set $leaf (call $make (ref.null $node) (local.get $depth)))
      (loop $down  ;; hold a leaf alone: it holds its tree by the parents
        (if (i32.eqz (ref.is_null (struct.get $node $left (local.get $leaf)))) (then
          (local.set $leaf (struct.get $node $left (local.get $leaf)))
          (br $down))))
      (drop (call $make (ref.null $node) (i32.const 2)))
      (loop $up
        (local.set $tree (local.get $leaf))
        (local.set $leaf (struct.get $node $parent (local.get $leaf)))
        (br_if $up (i32.eqz (ref.is_null (local.get $leaf)))))
      (local.set $total (i32.add (local.get $total) (call $count (local.get $tree))))
      (local.set $tree (ref.null $node))
      (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
    (local.get $total)))"""
"""Trees whose nodes know their parents; a leaf is all that is held of one at times."""

CLOSURES = """(module
  (rec (type $function (func (param (ref $closure) i32) (result i32)))
    (type $closure (sub (struct (field $code (ref $function)))))
    (type $counter (sub $closure (struct (field $code (ref $function)) (field $itself (mut (ref null $closure)))
      (field $count (mut i32))))))
  (elem declare func $step)
  (func $step (type $function)
    (local $own (ref $counter))
    (local.set $own (ref.cast (ref $counter) (local.get 0)))
    (struct.set $counter $count (local.get $own) (i32.add (struct.get $counter $count (local.get $own)) (local.get 1)))
    (if (result i32) (local.get 1)
      (then (call_ref $function
        (ref.as_non_null (struct.get $counter $itself (local.get $own)))
        (i32.sub (local.get 1) (i32.const 1))
        (struct.get $closure $code (ref.as_non_null (struct.get $counter $itself (local.get $own))))))
      (else (struct.get $counter $count (local.get $own)))))
  (func (export "run") (param $steps i32) (param $times i32) (result i32)
    (local $total i32) (local $own (ref null $counter))
    (loop $again
      (local.set $own (struct.new $counter (ref.func $step) (ref.null $closure) (i32.const 0)))
      (struct.set $counter $itself (local.get $own) (local.get $own))
      (local.set $total (i32.add (local.get $total)
        (call $step (ref.as_non_null (local.get $own)) (local.get $steps))))
      (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
    (local.get $total)))"""
"""Closures that refer to themselves, as recursive ones do."""

THROWN = """(module
  (type $node (struct (field $other (mut (ref null $node))) (field $value i32)))
  (tag $thrown (param (ref null $node) i32))
  (func $make (param $value i32) (result (ref null $node))
    (local $one (ref null $node)) (local $two (ref null $node))
    (local.set $one (struct.new $node (ref.null $node) (local.get $value)))
    (local.set $two (struct.new $node (local.get $one) (i32.const 1000)))
    (struct.set $node $other (local.get $one) (local.get $two))
    (local.get $two))
  (func $throw (param $value i32)
    (throw $thrown (call $make (local.get $value)) (local.get $value)))
  (func $again (param $value i32)  ;; catches it, makes garbage while only the exception holds it, and throws it on
    (local $caught exnref)
    (block $out (result exnref)
      (try_table (catch_all_ref $out) (call $throw (local.get $value)))
      (unreachable))
    (local.set $caught)
    (drop (call $make (i32.const 5)))
    (drop (call $make (i32.const 6)))
    (throw_ref (local.get $caught)))
  (func (export "run") (param $value i32) (param $times i32) (result i32)
    (local $total i32) (local $node (ref null $node)) (local $number i32)
    (loop $more
      (block $out (result (ref null $node) i32)
        (try_table (catch $thrown $out) (call $again (local.get $value)))
        (unreachable))
      (local.set $number)
      (local.set $node)
      (drop (call $make (i32.const 7)))
      (local.set $total (i32.add (local.get $total) (i32.add (local.get $number)
        (i32.add (struct.get $node $value (local.get $node))
          (struct.get $node $value (struct.get $node $other (local.get $node)))))))
      (br_if $more (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
    (local.get $total)))"""
"""Exceptions that carry a cycle, which nobody else holds, and are thrown on."""

PROGRAMS: dict[str, tuple[str, tuple[int, int], int]] = {
    "linked both ways": (LINKED, (9, 3), 3 * 2 * 45),
    "trees with parents": (TREES, (3, 3), 3 * 15),
    "closures": (CLOSURES, (5, 12), 12 * 15),
    "exceptions": (THROWN, (3, 4), 4 * (3 + 1000 + 3)),
}


@functools.cache
def engine_of(runtime: str, collector: Any) -> lh.Engine:
    return lh.Engine(runtime=runtime, collector=collector)


def engine(runtime: str, collector: Any = "drc") -> lh.Engine:
    return engine_of(runtime, collector)


@functools.cache
def module(runtime: str, source: str, collector: Any = "drc") -> lh.Module:
    return lh.Module(engine(runtime, collector), source)


def searching_always(store: lh.Store) -> None:
    """Have each collection of the store's search for cycles."""
    plain = store.collect
    store.collect = lambda *, cycles=True: plain(cycles=True)  # type: ignore[method-assign]


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_with_a_search_at_every_safepoint(name: str, every: int, checked: bool, runtime: str) -> None:
    source, arguments, expected = PROGRAMS[name]
    with lh.Store(engine(runtime), collect_every=every, checked=checked, initial_heap_size=4096) as store:
        exports: Any = lh.Instance(store, module(runtime, source)).exports
        searching_always(store)
        assert exports["run"](*arguments) == expected
        store.verify()
        figures = store.stats()
        assert figures.cycle_searches == figures.collections > 3
        store.collect()
        store.verify()
        assert store.stats().live_objects == 0
        assert store.stats().cyclic_objects > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_as_usual_leaves_cycles_until_somebody_searches(name: str, runtime: str) -> None:
    source, arguments, expected = PROGRAMS[name]
    with lh.Store(engine(runtime)) as store:
        exports: Any = lh.Instance(store, module(runtime, source)).exports
        assert exports["run"](*arguments) == expected
        store.collect()
        left = store.stats().live_objects
        assert (left > 0, store.stats().cycle_searches) == (True, 0)
        garbage = find_garbage(store.snapshot())
        assert len(garbage.freed_by_search) == left
        store.collect(cycles=True)
        store.verify()
        assert (store.stats().live_objects, store.stats().cyclic_objects) == (0, left)


def test_ten_million_cyclic_objects_in_a_small_heap() -> None:
    with lh.Store(engine("native"), maximum_heap_size=64 << 20) as store:
        exports: Any = lh.Instance(store, module("native", LINKED)).exports
        length, times = 1000, 10_000
        assert exports["run"](length, times) == times * length * (length + 1) % (1 << 32) - (
            (times * length * (length + 1) % (1 << 32)) >> 31 << 32
        )
        figures = store.stats()
        assert figures.objects_allocated == length * times
        assert figures.capacity <= 4 << 20, "it need not even grow much"
        store.collect(cycles=True)
        store.verify()
        assert store.stats().live_objects == 0


# ----------------------------------------------------------------------------------------------------------------------
# Globals, tables, handles

HOLDING = """(module
  (type $node (struct (field $a (mut anyref)) (field $b (mut anyref))))
  (global $held (export "held") (mut anyref) (ref.null any))
  (table $table (export "table") 4 anyref)
  (func $ring (param $length i32) (result anyref)
    (local $first (ref null $node)) (local $last (ref null $node))
    (local.set $first (struct.new $node (ref.null any) (ref.null any)))
    (local.set $last (local.get $first))
    (loop $more
      (local.set $last (struct.new $node (local.get $last) (ref.null any)))
      (br_if $more (local.tee $length (i32.sub (local.get $length) (i32.const 1)))))
    (struct.set $node $a (local.get $first) (local.get $last))
    (local.get $first))
  (func (export "ring") (param i32) (result anyref) (call $ring (local.get 0)))
  (func (export "in_global") (param i32) (global.set $held (call $ring (local.get 0))))
  (func (export "in_table") (param i32 i32) (table.set $table (local.get 1) (call $ring (local.get 0))))
  (func (export "clear") (global.set $held (ref.null any))
    (table.fill $table (i32.const 0) (ref.null any) (i32.const 4)))
  (func (export "cross")  ;; what the global holds, and what the table holds, hold each other
    (struct.set $node $b (ref.cast (ref $node) (global.get $held)) (table.get $table (i32.const 1)))
    (struct.set $node $b (ref.cast (ref $node) (table.get $table (i32.const 1))) (global.get $held)))
  (func (export "clear_global") (global.set $held (ref.null any))))"""


def test_what_globals_tables_and_handles_hold_lives(runtime: str) -> None:
    with lh.Store(engine(runtime), checked=True) as store:
        exports: Any = lh.Instance(store, module(runtime, HOLDING)).exports

        def live() -> int:
            store.collect(cycles=True)
            store.verify()
            return store.stats().live_objects

        exports["in_global"](2)
        exports["in_table"](3, 1)
        handle = exports["ring"](4)
        exports["ring"](5)
        assert live() == 3 + 4 + 5, "and nobody holds the last"
        exports["cross"]()
        exports["clear_global"]()
        assert live() == 12, "the table's ring holds what the global held"
        exports["clear"]()
        assert live() == 5
        assert handle["a"]["a"]["a"]["a"]["a"] == handle
        handle.release()
        assert live() == 0


def test_what_a_host_function_gets_and_returns_lives(runtime: str) -> None:
    source = """(module
      (type $node (struct (field $a (mut anyref))))
      (import "host" "pass" (func $pass (param anyref) (result anyref)))
      (func (export "run") (result i32)
        (local $own (ref null $node)) (local $back anyref)
        (local.set $own (struct.new $node (ref.null any)))
        (struct.set $node $a (local.get $own) (local.get $own))
        (local.set $back (call $pass (local.get $own)))
        (ref.eq (ref.cast eqref (struct.get $node $a (ref.cast (ref $node) (local.get $back))))
          (ref.cast eqref (local.get $back)))))"""
    with lh.Store(engine(runtime), checked=True) as store:
        node = lh.StructType((lh.FieldType(ANYREF, True),))

        def passed(given: Any) -> Any:
            other = lh.Struct(store, node, [given])
            given["a"] = other  # the two hold each other now
            store.collect(cycles=True)
            store.verify()
            other[0] = other
            given["a"] = given
            store.collect(cycles=True)
            return other

        function = lh.Func(store, lh.FuncType((ANYREF,), (ANYREF,)), passed)
        exports: Any = lh.Instance(store, module(runtime, source), {"host": {"pass": function}}).exports
        assert exports["run"]() == 1
        store.collect(cycles=True)
        store.verify()
        assert store.stats().live_objects == 0


# ----------------------------------------------------------------------------------------------------------------------
# Host data

BOX = StructType((FieldType(ANYREF, True), FieldType(EXTERNREF, True)))


def boxes(store: lh.Store, values: list[Any], finalizer: Callable[[Any], None]) -> None:
    """A ring of boxes, each with an externref that two of them hold."""
    held = [lh.ExternRef(store, value, finalizer) for value in values]
    ring = [lh.Struct(store, BOX, [None, each]) for each in held]
    for number, each in enumerate(ring):
        each[0] = ring[number - 1]
        each[1] = held[number - 1]
        lh.Struct(store, BOX, [each, held[number]])


def test_finalizers_in_cycles_run_once(runtime: str) -> None:
    died: list[int] = []
    with lh.Store(engine(runtime), checked=True) as store:
        lh.Instance(store, module(runtime, HOLDING))
        boxes(store, [1, 2, 3], died.append)
        store.collect()
        assert died == []
        store.collect(cycles=True)
        assert sorted(died) == [1, 2, 3]
        assert (len(store.host_data), store.stats().live_objects) == (0, 0)
        store.verify()
        store.collect(cycles=True)
    assert sorted(died) == [1, 2, 3]


def test_finalizers_that_allocate_and_search_in_the_middle(runtime: str) -> None:
    """Each makes another ring, and searches, as long as it is told to."""
    died: list[int] = []
    with lh.Store(engine(runtime), checked=True, initial_heap_size=4096) as store:
        lh.Instance(store, module(runtime, HOLDING))

        def again(value: int) -> None:
            died.append(value)
            if value < 30:
                boxes(store, [value + 10], again)
            store.collect(cycles=True)
            store.verify()

        boxes(store, [1, 2, 3], again)
        for _ in range(4):
            store.collect(cycles=True)
        assert sorted(died) == [1, 2, 3, 11, 12, 13, 21, 22, 23, 31, 32, 33]
        assert (len(store.host_data), store.stats().live_objects) == (0, 0)
        store.verify()


def test_a_finalizer_may_find_its_value_in_another_cycle_alive(runtime: str) -> None:
    with lh.Store(engine(runtime)) as store:
        kept: list[Any] = []

        def keep(value: Any) -> None:
            kept.append(lh.Struct(store, BOX, [None, lh.ExternRef(store, value)]))

        boxes(store, ["one"], keep)
        store.collect(cycles=True)
        store.collect(cycles=True)
        assert [each[1].value for each in kept] == ["one"]
        store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# When a search is due


def test_a_heap_that_only_grows_is_searched_ever_less_often() -> None:
    source = """(module
      (type $node (struct (field $next (ref null $node))))
      (global $first (mut (ref null $node)) (ref.null $node))
      (func (export "run") (param $n i32)
        (loop $more
          (global.set $first (struct.new $node (global.get $first)))
          (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"""
    with lh.Store(engine("native")) as store:
        exports: Any = lh.Instance(store, module("native", source)).exports
        exports["run"](2_000_000)
        figures = store.stats()
        assert figures.live_bytes >= 60 << 20
        assert figures.cycle_searches == 3, "at 1, 4 and 16 MiB"
        assert figures.cyclic_objects == 0


def test_the_limit_leaves_half_of_the_room_to_the_maximum(runtime: str) -> None:
    """Or a heap near it would collect again and again, for the little that is no cycle."""
    with lh.Store(engine(runtime), initial_heap_size=1 << 14, maximum_heap_size=1 << 16) as store:
        control = store.heap.control
        kept = lh.Array(store, lh.ArrayType(FieldType(ANYREF, True)), [None] * 2000)
        live = block_length(store.heap.object_size(kept.reference))
        store.collect(cycles=True)
        assert control.cycle_limit == 4 * live < 1 << 16
        more = lh.Array(store, lh.ArrayType(FieldType(ANYREF, True)), [None] * 9000)
        live += block_length(store.heap.object_size(more.reference))
        store.collect(cycles=True)
        assert control.cycle_limit == (live + control.maximum) // 2 < 1 << 16
        for _ in range(60):  # an eighth and more of what is looked at: not in vain
            holder = lh.Struct(store, BOX, [None, None])
            holder[0] = holder
        more.release()
        del holder
        store.collect()
        live = block_length(store.heap.object_size(kept.reference))
        store.collect(cycles=True)
        assert control.cycle_limit == 2 * live


@pytest.mark.parametrize("options", [{"collector": "null"}, {"search_cycles": False}, {"allocator": "first-fit"}])
def test_where_nobody_searches_without_being_asked(options: dict[str, Any]) -> None:
    with lh.Store(initial_heap_size=1 << 16, **options) as store:
        exports: Any = lh.Instance(store, lh.Module(store.engine, LINKED)).exports
        count = 50_000 if store.engine.runtime == "native" else 500
        exports["run"](10, count // 10)
        assert store.heap.control.cycle_limit == (NO_SEARCH if "collector" not in options else 0)
        assert (store.stats().cycle_searches, store.stats().live_objects) == (0, count)
        store.collect(cycles=True)
        store.verify()
        expected = count if "collector" in options else 0
        assert store.stats().live_objects == expected
        assert store.stats().cycle_searches == (expected == 0)
        exports["run"](10, count // 10)
        assert store.stats().cycle_searches == (expected == 0), "asking once changes nothing"


def test_growing_first_searches_for_nothing() -> None:
    with lh.Store(growth="grow-first", maximum_heap_size=1 << 16) as store:
        exports: Any = lh.Instance(store, lh.Module(store.engine, LINKED)).exports
        with pytest.raises(lh.Trap):
            exports["run"](10, 1000)
        assert store.stats().cycle_searches == 0


def test_before_an_allocation_fails_cycles_are_searched_for(runtime: str) -> None:
    """However small the heap is."""
    assert CYCLE_FLOOR > 1 << 16
    with lh.Store(engine(runtime), initial_heap_size=1 << 14, maximum_heap_size=1 << 16) as store:
        exports: Any = lh.Instance(store, module(runtime, LINKED)).exports
        assert exports["run"](10, 1000) == 110_000
        assert store.stats().cycle_searches > 0
        store.verify()

        def make_rings(count: int) -> None:
            for _ in range(count):
                holder = lh.Struct(store, BOX, [None, None])
                holder[0] = holder

        with store.heap.no_gc_scope(), pytest.raises(HeapExhaustedError):
            make_rings(3000)
        searches = store.stats().cycle_searches
        make_rings(3000)
        assert store.stats().cycle_searches > searches
        store.verify()


def test_the_floor_is_the_collectors(runtime: str) -> None:
    collector = Drc(cycle_floor=1 << 12)
    with lh.Store(engine(runtime, collector), initial_heap_size=1 << 13) as store:
        exports: Any = lh.Instance(store, module(runtime, LINKED, collector)).exports
        exports["run"](10, 300)
        assert store.stats().cycle_searches > 3
        assert store.stats().capacity <= 1 << 15
        store.verify()


def test_python_and_compiled_code_search_at_the_same_allocations() -> None:
    collector = Drc(cycle_floor=1 << 12)
    figures = []
    for runtime in RUNTIMES:
        with lh.Store(engine(runtime, collector), initial_heap_size=1 << 13) as store:
            exports: Any = lh.Instance(store, module(runtime, LINKED, collector)).exports
            exports["run"](7, 400)
            heap = store.heap
            figures.append((store.stats(), heap.memory.read(0, heap.control.bump)))
    assert figures[0][0] == figures[1][0]


class Unable(Drc):
    """Says that its lists do not tell all."""

    searches_for_cycles = False


def test_a_collector_that_cannot_search_says_so(runtime: str) -> None:
    with lh.Store(engine(runtime, Unable()), initial_heap_size=1 << 14, maximum_heap_size=1 << 16) as store:
        exports: Any = lh.Instance(store, module(runtime, LINKED, Unable())).exports
        with pytest.raises(UnsupportedError, match="the collector Unable cannot search for cycles"):
            store.collect(cycles=True)
        with pytest.raises(UnsupportedError, match="Unable"):
            store.collection(cycles=True)
        with pytest.raises(UnsupportedError, match="cannot search for cycles"):
            lh.embed.attach(store).call("lh_collect_cycles")
        store.collect()
        with pytest.raises(lh.Trap):
            exports["run"](10, 1000)
        assert store.stats().cycle_searches == 0


@pytest.mark.parametrize("wrong", [1, None, "yes"])
def test_whether_to_search_is_a_bool(wrong: Any) -> None:
    with pytest.raises(TypeError, match="search_cycles is"):
        lh.Store(search_cycles=wrong)
    with lh.Store() as store:
        with pytest.raises(TypeError, match="cycles is"):
            store.collect(cycles=wrong)
        with pytest.raises(TypeError, match="cycles is"):
            store.collection(cycles=wrong)


def test_no_search_in_a_no_gc_scope(world: Searching) -> None:
    cells = ring(world)
    with world.heap.no_gc_scope(), pytest.raises(lh.NoGcScopeError):
        world.search()
    assert world.live() == sorted(cells)
    world.search()
    assert world.live() == []


# ----------------------------------------------------------------------------------------------------------------------
# Images


def test_what_a_search_would_free_is_told(world: Searching) -> None:
    cells = ring(world)
    held = world.new_cell()
    array = world.new_refs(held, NULL)
    world.link(array, 1, array)
    world.heap.drop_gc_ref(array)
    found = inspect(world.store.snapshot())
    assert found.garbage is not None
    size = sizes(world, [*cells, held, array])
    assert found.garbage.freed_by_search == tuple(sorted([*cells, held, array]))
    assert found.garbage.bytes_freed_by_search == size
    as_json = json.loads(json.dumps(found.to_json()))
    assert as_json["garbage"]["freed_by_search"] == {"objects": 5, "block_bytes": size}
    text = io.StringIO()
    Console(file=text, width=200).print(found.render())
    assert f"a search for cycles would free 5 objects, {size} bytes of blocks" in text.getvalue()
    world.search()
    after = inspect(world.store.snapshot())
    assert after.garbage is not None
    assert len(after.garbage) == 0
    assert after.image.control is not None
    assert (after.image.control.cycle_searches, after.image.control.cyclic_objects) == (1, 5)


def test_an_image_in_the_middle_of_increments_is_sound(world: Searching) -> None:
    cells = ring(world, 5)
    kept, array = one_that_holds_what_lives(world)
    collection = world.store.collection(cycles=True)
    collection.collect_increment(1)
    collection.collect_increment(2)
    image: Image = world.store.snapshot()
    found = inspect(image)
    assert found.problems == ()
    assert len(found.pending) == 4
    assert set(found.pending) < {*cells, array}
    assert found.garbage is not None
    assert len(found.garbage) == 0
    collection.collect()
    assert world.live() == [kept]
