"""Collections with a budget: what dies in the sweep waits on a list, and each increment frees so many of it.

`Incremental` is a heap on which Python or compiled code does the increments. What compiled code would hold is in root
frames, which both sides look at. test_heap_model.py and test_both_sides.py have random sequences of all operations;
here are the rules one by one, a long chain, allocations that need the room, and heaps broken on purpose.
"""

from __future__ import annotations

import ctypes
import dataclasses
import io
import json
import re
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.combinations import examples
from support.heap_world import CAPACITY, NEXT, Collecting
from support.store_world import StoreWorld, allocators

import lowheap as lh
from lowheap.collector import DrcCollection, GcProgress
from lowheap.collectors.shared.sizing import PENDING_PORTION
from lowheap.heap import DrcHeap
from lowheap.hostdata import ExternRefHostDataTable
from lowheap.layout import (
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    NULL,
    CollectionPhase,
    VMDrcArrayHeader,
    VMDrcHeader,
    VMRootFrame,
    VMStoreContext,
    i31_from_int,
)
from lowheap.memory import Memory
from lowheap.runtime.natives import NativeBarriers
from lowheap.snapshot import Image, file
from lowheap.snapshot.inspection import find_garbage, inspect, verify

CONTINUE, COMPLETE = GcProgress.CONTINUE, GcProgress.COMPLETE
ELEMENTS = 28  # the offset of an array's first reference


class RootFrame:
    """References that a host holds in a frame of its own, as long as it is entered."""

    def __init__(self, context: VMStoreContext, *references: int) -> None:
        self.context = context
        self.slots = (ctypes.c_uint32 * len(references))(*references)
        self.frame = VMRootFrame(slots=ctypes.addressof(self.slots), slot_count=len(references))

    def __enter__(self) -> RootFrame:
        self.frame.previous = self.context.root_frames
        self.context.root_frames = ctypes.addressof(self.frame)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.context.root_frames == ctypes.addressof(self.frame)
        self.context.root_frames = self.frame.previous


class Incremental(StoreWorld):
    """A heap whose increments with a budget are Python's or compiled code's."""

    def __init__(self, side: str, capacity: int = CAPACITY) -> None:
        super().__init__(capacity)
        self.is_native = side == "native"
        self.choose_collector(native=self.is_native)

    def collection(self) -> DrcCollection:
        return self.store.collection() if self.is_native else DrcCollection(self.heap, self.roots)

    def swept(self, budget: int) -> DrcCollection:
        """A collection that has traced and swept, and freed as many."""
        collection = self.collection()
        assert collection.collect_increment(budget) is CONTINUE
        self.last = collection.collect_increment(budget)
        return collection

    def holding(self, *references: int) -> RootFrame:
        return RootFrame(self.runtime.context, *references)

    def garbage(self, count: int) -> list[int]:
        """Cells that only the list owns."""
        cells = [self.new_cell() for _ in range(count)]
        for cell in cells:
            self.heap.expose_gc_ref_to_wasm(cell)
        return cells

    def chain(self, count: int) -> list[int]:
        """Cells each of which only the one before it owns, the first the list."""
        cells = [self.new_cell()]
        for _ in range(count - 1):
            cells.insert(0, self.new_cell(cells[0]))
        self.heap.expose_gc_ref_to_wasm(cells[0])
        return cells

    def pending(self) -> list[int]:
        return list(self.heap.pending_dead())

    @property
    def freed(self) -> int:
        return self.heap.control.objects_freed


@pytest.fixture(params=["python", "native"])
def world(request: pytest.FixtureRequest) -> Incremental:
    return Incremental(request.param)


# ----------------------------------------------------------------------------------------------------------------------
# Increments and their budgets


@pytest.mark.parametrize(
    ("budget", "error"),
    [(0, ValueError), (-3, ValueError), (True, TypeError), (2.0, TypeError), ("5", TypeError), ((), TypeError)],
)
@pytest.mark.parametrize("increments", [0, 1, 2, 9])
def test_a_budget_is_a_positive_number(
    world: Incremental, budget: int, error: type[Exception], increments: int
) -> None:
    world.garbage(3)
    collection = world.collection()
    for _ in range(increments):
        collection.collect_increment(1)
    before = world.image()
    with pytest.raises(error, match=f"budget is {re.escape(repr(budget))}"):
        collection.collect_increment(budget)
    assert world.image() == before


def test_trace_then_sweep_then_so_many_at_a_time(world: Incremental) -> None:
    cells = world.garbage(11)
    control = world.heap.control
    with world.holding(cells[4]):
        collection = world.collection()
        assert collection.collect_increment(3) is CONTINUE
        assert (world.freed, control.phase) == (0, CollectionPhase.SWEEP)
        assert [found.index for found in world.heap.objects() if found.is_marked] == [cells[4]]
        with pytest.raises(lh.HeapError, match="in the middle of a collection"):
            world.new_cell()
        for freed in (3, 6, 9):
            assert collection.collect_increment(3) is CONTINUE
            assert (world.freed, control.phase) == (freed, CollectionPhase.IDLE)
            assert len(world.pending()) == 10 - freed
            assert world.on_list() == [cells[4]]
            assert (control.collections, control.len_after_last_gc) == (1, 1)
            world.store.verify()
        assert world.heap.stats().live_objects == 2
        assert collection.collect_increment(3) is COMPLETE
        assert (world.freed, world.pending(), world.live()) == (10, [], [cells[4]])
        assert control.live_bytes_after_last_collection == 48
        before = world.image()
        assert collection.collect_increment(3) is COMPLETE
        assert collection.collect_increment() is COMPLETE
        assert world.image() == before
        world.store.verify()


@pytest.mark.parametrize(("count", "budget", "increments"), [(6, 3, 3), (7, 3, 4), (2, 3, 2), (0, 3, 2), (3, 1, 4)])
def test_the_last_object_completes(world: Incremental, count: int, budget: int, increments: int) -> None:
    world.garbage(count)
    collection = world.collection()
    progress = [collection.collect_increment(budget) for _ in range(increments)]
    assert progress == [CONTINUE] * (increments - 1) + [COMPLETE]
    assert (world.live(), world.freed) == ([], count)


def test_each_call_may_have_its_own_budget(world: Incremental) -> None:
    world.garbage(40)
    collection = world.collection()
    freed = []
    for budget in (1, 2, 20, 1, 5, 1 << 70, 4):
        before = world.freed
        collection.collect_increment(budget)
        freed.append(world.freed - before)
    assert freed == [0, 2, 20, 1, 5, 12, 0]


@pytest.mark.parametrize("budgets", [[None, 4], [4, None], [4, 4, None], [4, 4, 4, None]])
def test_a_call_without_a_budget_frees_all_that_is_left(world: Incremental, budgets: list[int | None]) -> None:
    world.chain(30)
    collection = world.collection()
    for budget in budgets[:-1]:
        assert collection.collect_increment(budget) is CONTINUE
    while collection.collect_increment(budgets[-1]) is CONTINUE:
        pass
    assert (world.live(), world.pending()) == ([], [])
    world.store.verify()


def test_without_a_budget_nothing_is_pending(world: Incremental) -> None:
    world.chain(5)
    collection = world.collection()
    collection.collect_increment()
    assert collection.collect_increment() is COMPLETE
    assert (world.live(), world.heap.control.collections) == ([], 1)


def test_collect_does_all_that_is_left(world: Incremental) -> None:
    world.chain(30)
    world.swept(4).collect()
    assert (world.live(), world.freed, world.heap.control.collections) == ([], 30, 1)


def test_a_complete_collection_does_no_more(world: Incremental) -> None:
    first = world.swept(1)
    world.chain(5)
    second = world.swept(1)
    before = world.image()
    assert first.collect_increment() is COMPLETE
    assert world.image() == before
    second.collect()
    assert world.live() == []


@pytest.mark.parametrize("side", ["native", "python"])
def test_on_a_native_store_increments_with_a_budget_are_compiled(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Incremental(side)
    world.chain(5)
    traced, compiled = [], []
    original = DrcHeap.trace
    monkeypatch.setattr(DrcHeap, "trace", lambda *args: (traced.append("trace"), original(*args)))
    for function, replacement in list(world.heap.replacements.items()):

        def noted(*args: Any, name: str = function.name, call: Callable[..., Any] = replacement) -> Any:
            compiled.append(name)
            return call(*args)

        world.heap.replacements[function] = noted
    world.swept(2).collect_increment(2)
    assert world.freed == 4
    assert traced == ([] if world.is_native else ["trace"])
    assert compiled == (["sweep_pending", "free_pending", "free_pending"] if world.is_native else [])


# ----------------------------------------------------------------------------------------------------------------------
# The list


def test_pending_objects_are_dead_and_own_what_they_refer_to(world: Incremental) -> None:
    cells = world.chain(4)
    others = world.garbage(3)
    world.swept(1)  # frees the chain's head, which comes last on the list and so goes in front
    assert world.pending() == [cells[1], *others]
    found = {each.index: each for each in world.heap.objects()}
    assert [found[index].ref_count for index in world.pending()] == [0] * 4
    assert not any(found[index].is_listed or found[index].is_marked for index in world.pending())
    assert [found[index].ref_count for index in cells[2:]] == [1, 1]
    for operation in (world.heap.header, world.heap.references, world.heap.clone_gc_ref, world.roots.create_handle):
        with pytest.raises(lh.InvalidReferenceError, match="its count is 0"):
            operation(cells[1])
    world.store.verify()


def test_a_chain_is_freed_from_its_beginning(world: Incremental) -> None:
    cells = world.chain(6)
    world.garbage(2)
    collection = world.swept(1)
    for freed in range(1, 6):
        assert world.pending()[0] == cells[freed], freed
        assert world.live() == sorted(set(world.live()) - set(cells[:freed]))
        collection.collect_increment(1)


def test_what_dies_of_an_object_comes_in_front(world: Incremental) -> None:
    inner = [world.new_cell() for _ in range(3)]
    kept = world.new_cell()
    world.roots.create_handle(kept)
    for reference in (inner[1], kept):
        world.heap.clone_gc_ref(reference)
    array = world.new_refs(inner[0], NULL, inner[1], i31_from_int(5), inner[2], kept, inner[1])
    world.heap.expose_gc_ref_to_wasm(array)
    (other,) = world.garbage(1)
    collection = world.swept(1)
    assert world.pending() == [inner[1], inner[2], inner[0], other]
    assert world.count(kept) == 1
    collection.collect()
    assert world.live() == [kept]


def test_a_million_references_of_one_array(world: Incremental) -> None:
    """Freeing the array is one object of the budget, whatever it holds."""
    array = world.store.alloc_array(world.refs, 20_000)
    elements = world.memory.view(ctypes.c_uint32 * 20_000, array + ELEMENTS)
    for number in range(20_000 if world.is_native else 500):
        elements[number] = world.store.alloc_struct(world.cell)
    world.heap.expose_gc_ref_to_wasm(array)
    world.swept(1)
    assert world.freed == 1
    assert len(world.pending()) == (20_000 if world.is_native else 500)


def test_an_externref_lives_on_until_it_is_freed(world: Incremental) -> None:
    values = [world.new_externref(f"value {number}") for number in range(5)]
    for reference in values:
        world.heap.expose_gc_ref_to_wasm(reference)
    collection = world.swept(2)
    assert (world.freed, len(world.host_data), len(world.pending())) == (2, 3, 3)
    world.store.verify()
    assert collection.collect_increment(2) is CONTINUE
    assert (world.freed, len(world.host_data)) == (4, 1)
    assert collection.collect_increment(2) is COMPLETE
    assert (world.freed, len(world.host_data), world.heap.control.live_bytes_after_last_collection) == (5, 0, 0)


def test_externrefs_that_died_in_compiled_code_are_not_part_of_an_increment(world: Incremental) -> None:
    dropped = world.new_externref("dropped")
    world.heap.expose_gc_ref_to_wasm(world.new_externref("collected"))
    world.garbage(2)
    NativeBarriers(world.store).dec_ref(dropped)
    world.store.tidy()
    assert world.freed == 1
    collection = DrcCollection(world.heap, world.roots)
    NativeBarriers(world.store).dec_ref(world.new_externref("dropped later"))  # natively, so it waits for the host
    waiting = world.heap.control.dead_externrefs
    assert waiting != NULL
    for freed in (0, 1, 2, 3):
        collection.collect_increment(1)
        assert world.freed == 1 + freed
        assert world.heap.control.dead_externrefs == waiting
    world.store.tidy()
    assert (world.freed, len(world.host_data)) == (5, 0)


# ----------------------------------------------------------------------------------------------------------------------
# Between increments the heap is idle


def test_a_program_may_do_anything_in_between(world: Incremental) -> None:
    heap = world.heap
    shared, own = world.new_cell(), world.new_cell()
    heap.clone_gc_ref(shared)  # one owner is in the chain, one is the handle below
    chain = [world.new_cell(shared)]
    for _ in range(5):
        chain.insert(0, world.new_cell(chain[0]))
    heap.expose_gc_ref_to_wasm(chain[0])
    number = world.roots.create_handle(own)
    collection = world.swept(1)
    assert world.pending() == [chain[1]]

    heap.write_gc_ref(heap.slot(own, NEXT), shared)
    heap.drop_gc_ref(shared)  # the handle that it had
    new = world.new_cell()
    heap.expose_gc_ref_to_wasm(new)
    world.store.verify()
    collection.collect_increment(2)
    assert world.count(shared) == 2
    heap.write_gc_ref(heap.slot(own, NEXT), NULL)
    assert world.count(shared) == 1, "the chain's end still owns it"
    world.store.verify()
    heap.drop_gc_ref(world.roots.release_handle(number))
    assert own not in world.live(), "what a program drops is freed at once"
    collection.collect_increment(2)
    assert world.pending() == [chain[5]]
    collection.collect_increment(1)
    assert world.pending() == [shared]
    assert collection.collect_increment(1) is COMPLETE
    assert (world.live(), world.on_list()) == ([new], [new])
    world.store.verify()


@pytest.mark.parametrize("way", ["store", "collection", "budget"])
def test_another_collection_in_between(world: Incremental, way: str) -> None:
    world.chain(10)
    first = world.swept(2)
    kept, *_ = world.garbage(5)
    with world.holding(kept):
        if way == "store":
            world.store.collect()
            assert world.live() == [kept]
            assert first.collect_increment(2) is COMPLETE
        elif way == "collection":
            world.collection().collect()
            assert world.live() == [kept]
            assert first.collect_increment(2) is COMPLETE
        else:
            second = world.swept(3)
            assert (world.freed, world.last) == (5, CONTINUE)
            assert len(world.pending()) == 2, "one more of the new ones, and behind it the chain"
            world.store.verify()
            assert first.collect_increment(4) is CONTINUE
            assert second.collect_increment(4) is CONTINUE
            assert first.collect_increment(4) is COMPLETE
            assert second.collect_increment(4) is COMPLETE
            assert world.live() == [kept]
        assert world.heap.control.collections == 2
        world.store.verify()


def test_the_next_step_of_one_while_another_has_traced(world: Incremental) -> None:
    """Freeing touches neither marks nor the list."""
    inner = world.new_cell()
    world.heap.clone_gc_ref(inner)
    holder = world.new_cell(inner)
    world.heap.expose_gc_ref_to_wasm(world.new_cell(holder))
    first = world.swept(1)
    world.heap.expose_gc_ref_to_wasm(inner)
    with world.holding(inner):
        second = world.collection()
        second.collect_increment(1)
        assert first.collect_increment(5) is COMPLETE
        assert world.count(inner) == 1
        assert second.collect_increment(1) is COMPLETE
        assert (world.live(), world.on_list()) == ([inner], [inner])
        world.store.verify()


@pytest.mark.parametrize("then", ["store", "budget", "allocation", "nothing"])
def test_what_a_closed_collection_has_left(world: Incremental, then: str) -> None:
    cells = world.chain(10)
    with world.swept(3) as collection:
        pass
    assert world.pending() == [cells[3]]
    assert collection.collect_increment(3) is COMPLETE, "it does no more"
    assert collection.collect_increment() is COMPLETE
    assert world.pending() == [cells[3]]
    world.store.verify()
    match then:
        case "store":
            world.store.collect()
        case "budget":
            other = world.swept(4)
            assert world.pending() == [cells[7]]
            assert other.collect_increment(4) is COMPLETE
        case "allocation":
            world.heap.control.bump_end = world.heap.control.bump  # no room but what is free
            while world.pending():
                world.store.alloc_struct(world.cell)
            assert world.freed == 10
            assert (world.heap.control.growths, world.heap.control.collections) == (0, 1)
            return
        case "nothing":
            world.store.close()
            return
    assert world.live() == []


def test_closing_before_the_sweep_leaves_everything(world: Incremental) -> None:
    cells = world.garbage(4)
    collection = world.collection()
    collection.collect_increment(2)
    collection.close()
    assert (world.live(), world.pending(), world.heap.control.phase) == (cells, [], CollectionPhase.IDLE)
    world.store.verify()


def test_detaching_forgets_what_was_pending() -> None:
    world = Collecting()
    world.exposed(5)
    collection = world.collection()
    collection.collect_increment(1)
    collection.collect_increment(1)
    assert world.heap.control.pending_dead != NULL
    world.heap.detach()
    assert world.heap.control.pending_dead == NULL
    with pytest.raises(lh.HeapError, match="the heap has no memory"):
        collection.collect_increment(1)
    world.heap.attach(Memory(CAPACITY), ExternRefHostDataTable())
    assert collection.collect_increment(1) is COMPLETE
    world.heap.verify()


def test_moved_memory_keeps_what_is_pending() -> None:
    world = Collecting()
    world.exposed(5)
    collection = world.collection()
    collection.collect_increment(1)
    collection.collect_increment(1)
    taken = world.heap.take_memory()
    with pytest.raises(lh.HeapError, match="the heap has no memory"):
        collection.collect_increment(1)
    world.heap.replace_memory(taken, 0)
    assert collection.collect_increment() is COMPLETE
    assert world.live() == []


def test_no_gc_scopes(world: Incremental) -> None:
    """They forbid the two halves of a collection. Freeing what is dead is neither."""
    world.garbage(6)
    collection = world.collection()
    for _ in range(2):
        with world.heap.no_gc_scope(), pytest.raises(lh.NoGcScopeError, match="1 are entered"):
            collection.collect_increment(2)
        assert collection.collect_increment(2) is CONTINUE
    with world.heap.no_gc_scope():
        assert collection.collect_increment(2) is CONTINUE
        world.heap.control.bump_end = world.heap.control.bump
        for _ in range(5):
            world.roots.create_handle(world.store.alloc_struct(world.cell))
        assert collection.collect_increment(2) is COMPLETE
    assert (world.freed, world.heap.control.collections, world.heap.control.growths) == (6, 1, 0)


def test_a_heap_that_does_not_count(world: Incremental) -> None:
    store = lh.Store(lh.Engine(collector="null"))
    collection = store.collection()
    assert [collection.collect_increment(1) for _ in range(2)] == [CONTINUE, COMPLETE]
    assert store.heap.control.collections == 1


def test_the_peak_is_noted_before_anything_is_freed(world: Incremental) -> None:
    with world.heap.no_gc_scope():
        cells = [allocators()["struct"](world.vmctx, world.cell) for _ in range(50)]  # which notes no peak
    for cell in cells:
        world.heap.slot(cell, NEXT).value = NULL
        world.heap.expose_gc_ref_to_wasm(cell)
    world.swept(1).collect()
    assert world.heap.stats().peak_live_bytes == 50 * 48


# ----------------------------------------------------------------------------------------------------------------------
# Random graphs, against reachability


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    """Objects by number, each with the numbers of those before it that it refers to: no cycles."""
    count = draw(st.integers(1, 14))
    return [draw(st.lists(st.integers(0, number - 1), max_size=4)) if number else [] for number in range(count)]


def reachable(graph: dict[int, list[int]], starts: set[int]) -> set[int]:
    found: set[int] = set()
    waiting = list(starts)
    while waiting:
        reference = waiting.pop()
        if reference not in found:
            found.add(reference)
            waiting += [each for each in graph[reference] if each]
    return found


@pytest.mark.parametrize("side", ["python", "native", "both"])
@settings(max_examples=examples(25, 60), deadline=None)
@given(graphs(), st.data())
def test_what_is_reachable_is_what_is_left(side: str, shape: list[list[int]], data: st.DataObject) -> None:
    world = Incremental("native" if side == "native" else "python")
    heap = world.heap
    graph: dict[int, list[int]] = {}
    handles: dict[int, int] = {}
    made: list[int] = []

    def make(*targets: int) -> int:
        array = world.new_refs(*(heap.clone_gc_ref(target) for target in targets))
        graph[array] = list(targets)
        handles[array] = world.roots.create_handle(array)
        made.append(array)
        return array

    for targets in shape:
        make(*(made[target] for target in targets))
    exposed = data.draw(st.sets(st.sampled_from(made)), label="exposed")
    for reference in sorted(exposed):
        heap.expose_gc_ref_to_wasm(heap.clone_gc_ref(reference))
    for reference in sorted(data.draw(st.sets(st.sampled_from(made)), label="let go of")):
        heap.drop_gc_ref(world.roots.release_handle(handles.pop(reference)))
    held = data.draw(st.sets(st.sampled_from(sorted(exposed))), label="held") if exposed else set()

    with world.holding(*held):
        collection = world.collection()
        progress = CONTINUE
        while progress is CONTINUE:
            if side == "both":
                world.choose_collector(native=data.draw(st.booleans(), label="native"))
            budget = data.draw(st.integers(1, 5), label="budget")
            before = world.freed
            progress = collection.collect_increment(budget)
            assert world.freed - before <= budget
            world.store.verify()
            alive = reachable(graph, set(handles) | held)
            assert alive <= set(world.live())
            if heap.control.phase != CollectionPhase.IDLE or not data.draw(st.booleans(), label="change"):
                continue
            # A program runs: it can come to what is alive, and nothing else.
            if handles and data.draw(st.booleans()):
                released = data.draw(st.sampled_from(sorted(handles)))
                heap.drop_gc_ref(world.roots.release_handle(handles.pop(released)))
            alive = reachable(graph, set(handles) | held)
            holders = sorted(each for each in alive if graph[each])
            if holders:
                holder = data.draw(st.sampled_from(holders))
                position = data.draw(st.integers(0, len(graph[holder]) - 1))
                earlier = sorted(each for each in alive if made.index(each) < made.index(holder))
                target = data.draw(st.sampled_from([NULL, *earlier]))
                heap.write_gc_ref(heap.slot(holder, ELEMENTS + 4 * position), target)
                graph[holder][position] = target
            alive = reachable(graph, set(handles) | held)
            if alive and data.draw(st.booleans()):
                new = make(data.draw(st.sampled_from(sorted(alive))))
                made[:] = [*(each for each in made[:-1] if each != new), new]  # the block may be that of a freed one
        if data.draw(st.booleans(), label="one more"):
            world.store.collect()
        else:
            world.collection().collect()
        assert set(world.live()) == reachable(graph, set(handles) | held)
        world.store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Compiled programs

PROGRAM = """(module
  (type $cell (struct (field $next (mut (ref null $cell))) (field $value i64)))
  (global $kept (mut (ref null $cell)) (ref.null $cell))
  (func $chain (export "chain") (param $length i32) (result (ref null $cell))
    (local $head (ref null $cell))
    (loop $more
      (local.set $head (struct.new $cell (local.get $head) (i64.extend_i32_u (local.get $length))))
      (br_if $more (local.tee $length (i32.sub (local.get $length) (i32.const 1)))))
    (local.get $head))
  (func (export "keep") (param $length i32) (global.set $kept (call $chain (local.get $length))))
  (func (export "sum") (result i64)
    (local $cell (ref null $cell)) (local $sum i64)
    (local.set $cell (global.get $kept))
    (block $done
      (loop $more
        (br_if $done (ref.is_null (local.get $cell)))
        (local.set $sum (i64.add (local.get $sum) (struct.get $cell $value (local.get $cell))))
        (local.set $cell (struct.get $cell $next (local.get $cell)))
        (br $more)))
    (local.get $sum)))"""


def instance_of(store: lh.Store) -> lh.Instance:
    return lh.Instance(store, lh.Module(store.engine, PROGRAM), {})


def let_go(store: lh.Store, chain: lh.Struct) -> None:
    """Hand the host's count of an object over to compiled code, which then does not hold it."""
    store.heap.expose_gc_ref_to_wasm(store.heap.clone_gc_ref(chain.reference))


def test_a_chain_of_a_million_cells_does_not_stall() -> None:
    length, budget = 1_000_000, 1000
    with lh.Store(lh.Engine(runtime="native")) as store:
        make = instance_of(store).exports["chain"]
        chain = make(length)
        store.collect()
        let_go(store, chain)
        del chain
        collection = store.collection()
        control = store.heap.control
        assert collection.collect_increment(budget) is CONTINUE
        allocated, bump, capacity = control.objects_allocated, control.bump, control.capacity
        increments, total = 0, 0
        progress = CONTINUE
        tracemalloc.start()
        while progress is CONTINUE:
            before = control.objects_freed
            progress = collection.collect_increment(budget)
            freed = control.objects_freed - before
            assert freed <= budget
            increments += 1
            total += freed
            assert control.dead_list == NULL
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (total, increments) == (length, length // budget)
        assert (control.objects_allocated, control.bump, control.capacity) == (allocated, bump, capacity)
        assert peak < 16 << 10
        assert store.heap.stats().live_objects == 0
        again = make(length)
        assert control.bump == bump, "every block was free"
        assert again["next"]["value"] == 2


@pytest.mark.parametrize("runtime", ["python", "native"])
@pytest.mark.parametrize("checked", [False, True])
def test_programs_run_between_increments(runtime: str, checked: bool) -> None:
    """In a heap so small that what they allocate needs the room of what is pending."""
    engine = lh.Engine(runtime=runtime)
    cells = 150
    with lh.Store(engine, initial_heap_size=1 << 15, maximum_heap_size=1 << 15, checked=checked) as store:
        exports = instance_of(store).exports
        progress, most = COMPLETE, 0
        for turn in range(10 if checked else 25):
            if progress is COMPLETE:
                collection = store.collection()
                collection.collect_increment(19)
            progress = collection.collect_increment(19)
            most = max(most, len(list(store.heap.pending_dead())))
            let_go(store, exports["chain"](cells))
            exports["keep"](cells + turn)
            assert exports["sum"]() == sum(range(1, cells + turn + 1))
            store.verify()
            assert verify(store.snapshot()) == []
        collection.collect()
        store.collect()
        assert most > 0
        assert store.heap.stats().live_objects == cells + turn
        assert store.heap.control.growths == 0


@pytest.mark.parametrize(
    ("length", "freed"),
    [(30, PENDING_PORTION), (40_000, PENDING_PORTION), (90_000, 2 * PENDING_PORTION), (200_000, None)],
)
def test_an_allocation_without_room_frees_what_is_pending_before_all_else(length: int, freed: int | None) -> None:
    """In portions, until there is room; and only then it collects or grows. Python and compiled code agree."""
    outcomes = []
    for side in ("python", "native"):
        world = Incremental(side, 1 << 17)
        count = ((1 << 17) - 32) // 48
        world.garbage(count)
        world.swept(1)
        control = world.heap.control
        before = world.freed
        if side == "python":
            array = world.store.alloc_array(world.bytes, length)
        else:
            array = allocators()["array"](world.vmctx, world.bytes, length)
        assert world.heap.array_len(array) == length
        world.roots.create_handle(array)
        if freed is not None:
            assert world.freed - before == freed
            assert (control.growths, control.collections) == (0, 1)
            assert len(world.pending()) == count - 1 - freed
        else:
            assert (world.freed, world.pending()) == (count, [])
            assert control.growths == 1
        outcomes.append((world.freed, control.growths, control.collections))
        world.store.verify()
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("allocator", ["segregated-fit", "first-fit"])
def test_every_policy_frees_what_is_pending_before_it_grows(allocator: str) -> None:
    with lh.Store(allocator=allocator, initial_heap_size=1 << 16) as store:
        (cell,) = store.engine.types.register([lh.SubType(lh.StructType((lh.FieldType(lh.types.I64, True),)))])
        while store.heap.control.bump + 32 <= store.heap.control.bump_end:
            store.heap.expose_gc_ref_to_wasm(store.heap.alloc_uninit_struct(cell))
        collection = store.collection()
        for _ in range(2):
            collection.collect_increment(1)
        for _ in range(PENDING_PORTION + 1):
            store.roots.create_handle(store.alloc_struct(cell))
        assert store.heap.control.objects_freed == 1 + PENDING_PORTION
        assert (store.heap.control.growths, store.heap.control.collections) == (0, 1)
        store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Root frames


@pytest.mark.parametrize("way", ["collect", "increments", "budget"])
@pytest.mark.parametrize("runtime", ["python", "native"])
def test_root_frames_hold_what_is_in_them(runtime: str, way: str) -> None:
    with lh.Store(lh.Engine(runtime=runtime)) as store:
        chain = instance_of(store).exports["chain"]
        context = store.runtime.context
        made = [chain(1) for _ in range(6)]
        references = [each.reference for each in made]
        del made
        store.tidy()

        def collect() -> list[int]:
            if way == "collect":
                store.collect()
            else:
                collection = store.collection()
                while collection.collect_increment(1 if way == "budget" else None) is CONTINUE:
                    pass
            store.verify()
            return [found.index for found in store.heap.objects()]

        with (
            RootFrame(context, references[0], NULL, i31_from_int(7), references[2], references[0]),
            RootFrame(context),
            RootFrame(context, 1, 0xFFFF_FFFF),
            RootFrame(context, references[5]) as innermost,
        ):
            assert collect() == [references[0], references[2], references[5]]
            on_stack = [root.reference for root in store.snapshot().roots if root.kind == "wasm stack"]
            assert on_stack == [references[number] for number in (5, 0, 2, 0)], "the innermost first"
            innermost.slots[0] = NULL
            assert collect() == [references[0], references[2]]
        assert collect() == []


def test_what_a_root_frame_holds_must_be_listed() -> None:
    with lh.Store() as store:
        cell = instance_of(store).exports["chain"](1)
        store.collect()  # compiled code does not hold it, so it is off the list
        with RootFrame(store.runtime.context, cell.reference):
            with pytest.raises(lh.HeapCorruptionError, match="which is not on the over-approximated list"):
                store.verify()
            with pytest.raises(lh.HeapCorruptionError, match="is not among the over-approximated stack roots"):
                store.collect()
        store.verify()
        store.collect()


# ----------------------------------------------------------------------------------------------------------------------
# Broken on purpose


class Broken:
    """A heap with three pending cells, an array behind them, and a live cell that the array owns too."""

    def __init__(self) -> None:
        self.world = world = Collecting()
        self.shared = world.new_cell()
        self.listed = world.new_cell()
        world.roots.create_handle(world.heap.clone_gc_ref(self.shared))
        world.heap.clone_gc_ref(self.listed)
        self.array = world.new_refs(self.shared, i31_from_int(1), self.listed, NULL)
        world.heap.expose_gc_ref_to_wasm(self.listed)
        world.stack = [self.listed]
        world.heap.expose_gc_ref_to_wasm(world.new_cell())
        self.first, self.second, self.third = world.exposed(3)
        world.heap.expose_gc_ref_to_wasm(self.array)
        self.collection = world.collection()
        self.collection.collect_increment(1)
        self.collection.collect_increment(1)
        assert list(world.heap.pending_dead()) == [self.first, self.second, self.third, self.array]
        world.heap.verify(world.stack)

    def header(self, reference: int) -> VMDrcHeader:
        return self.world.memory.view(VMDrcHeader, reference)

    def link(self, reference: int, following: int) -> None:
        self.header(reference).next_over_approximated_stack_root = following

    def verify(self) -> None:
        self.world.heap.verify(self.world.stack)

    def cyclic(self) -> None:
        self.link(self.third, self.second)

    def itself(self) -> None:
        self.link(self.array, self.array)

    def nowhere(self) -> None:
        self.link(self.array, 0x8000)

    def inside(self) -> None:
        self.link(self.array, self.first + 16)

    def unaligned(self) -> None:
        self.world.heap.control.pending_dead = 0x24

    def counted(self) -> None:
        self.header(self.second).ref_count = 1

    def live(self) -> None:
        self.link(self.array, self.shared)

    def listed_bit(self) -> None:
        self.header(self.second).kind_and_reserved |= HEADER_IN_OVER_APPROX_LIST_BIT

    def marked(self) -> None:
        self.header(self.second).kind_and_reserved |= HEADER_MARK_BIT


NOT_DEAD = ("cyclic", "itself", "nowhere", "inside", "unaligned", "counted", "live", "listed_bit", "marked")


@pytest.mark.parametrize("name", NOT_DEAD)
def test_freeing_stops_at_what_is_not_dead(name: str) -> None:
    """Python's heap looks before it frees; what is in front of the fault is freed, and nothing else."""
    broken = Broken()
    heap = broken.world.heap
    live = set(broken.world.live())
    getattr(broken, name)()
    with pytest.raises(lh.HeapCorruptionError, match="pending dead objects"):
        broken.collection.collect_increment()
    assert live - set(broken.world.live()) <= {broken.first, broken.second, broken.third, broken.array}
    assert (broken.shared in broken.world.live(), heap.control.phase) == (True, CollectionPhase.IDLE)


def undercounted(broken: Broken) -> Callable[[], None]:
    """A child that is listed, and has lost the count that its holder is about to give back."""
    broken.header(broken.listed).ref_count = 1
    return lambda: setattr(broken.header(broken.listed), "ref_count", 2)


def dangling(broken: Broken) -> Callable[[], None]:
    """A slot that refers to nothing."""
    slot = broken.world.memory.view(ctypes.c_uint32, broken.array + ELEMENTS + 8)
    slot.value = 0x9000
    return lambda: setattr(slot, "value", broken.listed)


def freed_child(broken: Broken) -> Callable[[], None]:
    """A child whose count is 0."""
    broken.header(broken.listed).ref_count = 0
    return lambda: setattr(broken.header(broken.listed), "ref_count", 2)


@pytest.mark.parametrize("inject", [undercounted, dangling, freed_child])
@pytest.mark.parametrize("checked", [False, True])
def test_an_error_in_the_middle_leaves_the_list_whole(
    inject: Callable[[Broken], Callable[[], None]], checked: bool
) -> None:
    """The object that could not be freed is still the first, and has given nothing back. Later it goes on."""
    broken = Broken()
    heap = broken.world.heap
    heap.is_checked = checked
    repair = inject(broken)
    assert heap.header(broken.shared).ref_count == 2
    for _ in range(2):
        with pytest.raises(lh.HeapError):
            broken.collection.collect_increment()
        assert list(heap.pending_dead()) == [broken.array]
        assert heap.native.header_at(broken.shared).ref_count == 2
    repair()
    broken.verify()
    assert broken.collection.collect_increment(1) is COMPLETE
    assert set(broken.world.live()) == {broken.shared, broken.listed}
    broken.verify()


def test_a_sweep_that_stops_goes_on_later() -> None:
    world = Collecting()
    cells = world.exposed(6)
    collection = world.collection()
    collection.collect_increment(2)
    header = world.memory.view(VMDrcHeader, cells[2])
    kind, header.kind_and_reserved = header.kind_and_reserved, 0x5800_0000
    with pytest.raises(lh.InvalidReferenceError, match=f"{cells[2]:#x} does not name an object"):
        collection.collect_increment(2)
    assert list(world.heap.pending_dead()) == cells[3:]
    header.kind_and_reserved = kind
    world.heap.verify()
    assert collection.collect_increment(2) is CONTINUE
    assert list(world.heap.pending_dead()) == cells[2:]
    world.heap.verify()
    assert collection.collect_increment() is COMPLETE
    assert world.live() == []


def test_an_interrupted_release_of_host_data_leaves_the_list_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Collecting()
    references = [world.new_externref(number) for number in range(3)]
    for reference in references:
        world.heap.expose_gc_ref_to_wasm(reference)
    collection = world.collection()
    collection.collect_increment(1)
    collection.collect_increment(1)

    def interrupted(_host_data_id: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(world.host_data, "dealloc", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collection.collect_increment(1)
    assert (world.heap.control.dead_externrefs, list(world.heap.pending_dead())) == (references[1], references[2:])
    world.heap.verify()
    assert collection.collect_increment() is COMPLETE
    world.heap.release_dead_externrefs()  # as whoever tidies up does: it waits there since
    assert (world.live(), len(world.host_data)) == ([], 0)


def test_closing_after_a_native_trace_clears_its_marks() -> None:
    world = Incremental("native")
    cells = world.garbage(3)
    collection = world.collection()
    with world.holding(*cells):
        collection.collect_increment(1)
        assert all(found.is_marked for found in world.heap.objects())
        collection.close()
    assert not any(found.is_marked for found in world.heap.objects())
    world.store.verify()
    world.swept(1).collect()
    assert world.live() == []


# ----------------------------------------------------------------------------------------------------------------------
# Images


@pytest.fixture
def waiting() -> Iterator[Incremental]:
    """Seven pending cells, the last of which holds a cell and a cycle; a live cell; an externref that is pending."""
    world = Incremental("python")
    world.kept = world.new_cell()
    world.roots.create_handle(world.kept)
    left, right = world.new_cell(), world.new_cell()
    world.heap.write_gc_ref(world.heap.slot(left, NEXT), right)
    world.heap.write_gc_ref(world.heap.slot(right, NEXT), left)
    world.cycle = sorted([left, right])
    world.heap.drop_gc_ref(right)
    world.doomed = world.new_cell()
    world.holder = world.new_refs(world.doomed, left, world.heap.clone_gc_ref(world.kept))
    world.garbage(6)
    for reference in (world.holder, world.new_externref("value")):
        world.heap.expose_gc_ref_to_wasm(reference)
    world.swept(1)
    yield world
    world.store.close()


def test_an_image_with_pending_objects(waiting: Incremental) -> None:
    image = waiting.store.snapshot()
    assert image.pending_dead() == waiting.pending()
    assert len(image.pending_dead()) == 7
    again = Image.from_bytes(image.to_bytes())
    assert again == image
    for each in (image, again):
        inspection = inspect(each)
        assert inspection.problems == ()
        assert inspection.pending == tuple(waiting.pending())
        assert inspection.objects == waiting.heap.stats().live_objects == 11
        assert inspection.counts == {0: 7, 1: 2, 2: 2}
        assert inspection.to_json()["pending"] == waiting.pending()
        garbage = inspection.garbage
        assert garbage is not None
        assert [list(cycle.objects) for cycle in garbage.cycles] == [waiting.cycle], "no increment frees a cycle"
        assert (garbage.held, garbage.leaked) == ((), ())


def test_what_is_pending_is_shown(waiting: Incremental) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(inspect(waiting.store.snapshot()).render())
    text = console.export_text()
    assert "7 objects wait to be freed" in text
    waiting.store.collect()
    console.print(inspect(waiting.store.snapshot()).render())
    assert "wait to be freed" not in console.export_text()


def test_a_cycle_that_also_something_pending_holds_is_garbage_before_and_after(waiting: Incremental) -> None:
    before = find_garbage(waiting.store.snapshot())
    waiting.store.collect()
    after = find_garbage(waiting.store.snapshot())
    assert [cycle.objects for cycle in before.cycles] == [cycle.objects for cycle in after.cycles]
    assert waiting.live() == sorted([waiting.kept, *waiting.cycle])


def test_an_image_from_before_there_was_such_a_list(waiting: Incremental) -> None:
    waiting.store.collect()
    image = waiting.store.snapshot()
    data = image.to_bytes()
    (length,) = struct.unpack_from("<Q", data, 16)
    metadata = json.loads(data[72 : 72 + length])
    assert metadata["control"].pop("pending_dead") == 0
    assert Image.from_bytes(file.assemble(json.dumps(metadata).encode(), image.data)) == image
    assert image.control is not None
    assert dataclasses.replace(image.control, pending_dead=0) == image.control


def test_an_array_that_is_pending_keeps_its_length(waiting: Incremental) -> None:
    found = waiting.store.snapshot().object_at(waiting.holder)
    assert (found.ref_count, found.length) == (0, 3)
    assert waiting.memory.view(VMDrcArrayHeader, waiting.holder).length == 3
    assert waiting.doomed in found.references()
