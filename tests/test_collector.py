"""Collections by increments: what trace and sweep do to list, counts and marks, and when they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.heap_world import CELL, NEXT, Collecting

from lowheap.collector import GcProgress
from lowheap.errors import HeapCorruptionError, HeapError, NoGcScopeError
from lowheap.layout import NULL, CollectionPhase, block_length, i31_from_int


@pytest.fixture
def world() -> Collecting:
    return Collecting()


def test_trace_then_sweep_then_nothing(world: Collecting) -> None:
    cells = world.exposed(4)
    world.stack = [cells[1], cells[3], cells[1], NULL, i31_from_int(9)]
    collection = world.collection()
    assert world.heap.control.phase == CollectionPhase.IDLE
    assert collection.collect_increment() is GcProgress.CONTINUE
    assert world.heap.control.phase == CollectionPhase.SWEEP
    assert world.marked() == [cells[1], cells[3]]
    assert len(world.live()) == 4, "tracing frees nothing"
    world.heap.verify(world.stack)
    assert collection.collect_increment() is GcProgress.COMPLETE
    assert world.heap.control.phase == CollectionPhase.IDLE
    assert world.live() == [cells[1], cells[3]]
    assert world.on_list() == [cells[3], cells[1]]
    assert world.marked() == []
    assert [world.count(cell) for cell in world.live()] == [1, 1]
    world.heap.verify(world.stack)
    before = world.image()
    assert collection.collect_increment() is GcProgress.COMPLETE
    assert world.image() == before


def test_figures_of_a_collection(world: Collecting) -> None:
    world.stack = world.exposed(3)[:2]
    world.collection().collect()
    control = world.heap.control
    assert (control.collections, control.current_len, control.len_after_last_gc) == (1, 2, 2)
    assert control.live_bytes_after_last_collection == 2 * block_length(CELL.size)
    world.stack = []
    world.collection().collect()
    assert (control.collections, control.len_after_last_gc, control.live_bytes_after_last_collection) == (2, 0, 0)


def test_other_owners_keep_an_object(world: Collecting) -> None:
    kept, held, dropped = world.exposed(3)
    handle = world.roots.create_handle(world.heap.clone_gc_ref(kept))
    holder = world.new_cell(world.heap.clone_gc_ref(held))
    world.roots.create_handle(holder)
    world.collection().collect()
    assert set(world.live()) == {kept, held, holder}
    assert dropped not in world.live()
    assert world.on_list() == []
    assert (world.count(kept), world.count(held)) == (1, 1)
    world.heap.drop_gc_ref(world.roots.release_handle(handle))
    assert set(world.live()) == {held, holder}
    world.heap.verify()


def test_what_a_swept_object_held_goes_too(world: Collecting) -> None:
    """Also when it comes right before or after its holder on the list, where the sweep walks."""
    for order in ("holder first", "holder last"):
        inner, holder = world.new_cell(), world.new_cell()
        world.heap.write_gc_ref(world.heap.slot(holder, NEXT), inner)
        for reference in (holder, inner) if order == "holder last" else (inner, holder):
            world.heap.expose_gc_ref_to_wasm(reference)
        world.collection().collect()
        assert world.live() == [], order
        world.heap.verify()


def test_dropping_does_not_reach_into_the_list(world: Collecting) -> None:
    inner, holder = world.new_cell(), world.new_cell()
    world.heap.write_gc_ref(world.heap.slot(holder, NEXT), inner)
    world.heap.expose_gc_ref_to_wasm(inner)
    world.heap.expose_gc_ref_to_wasm(holder)
    world.stack = [inner]
    world.collection().collect()
    assert (world.live(), world.on_list(), world.count(inner)) == ([inner], [inner], 1)


@given(st.integers(0, 12).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, max(count - 1, 0))))))
def test_the_list_becomes_the_precise_roots(case: tuple[int, set[int]]) -> None:
    count, held = case
    world = Collecting()
    cells = world.exposed(count)
    world.stack = [cells[number] for number in held if number < count]
    order = world.on_list()
    world.collection().collect()
    assert world.on_list() == [cell for cell in order if cell in world.stack]
    assert set(world.live()) == set(world.stack)
    world.heap.verify(world.stack)


def test_collecting_while_one_runs_is_refused(world: Collecting) -> None:
    first, second = world.collection(), world.collection()
    first.collect_increment()
    with pytest.raises(HeapError, match="cannot start a collection in the middle of another"):
        world.collection()
    with pytest.raises(HeapError, match="cannot trace in the middle of another collection"):
        second.collect_increment()
    first.collect_increment()
    second.collect()
    assert world.heap.control.collections == 2


def test_no_gc_scopes_forbid_every_increment(world: Collecting) -> None:
    world.exposed(2)
    collection = world.collection()
    with world.heap.no_gc_scope(), pytest.raises(NoGcScopeError, match="1 are entered"):
        collection.collect_increment()
    collection.collect_increment()
    with world.heap.no_gc_scope(), pytest.raises(NoGcScopeError, match="1 are entered"):
        collection.collect_increment()
    assert len(world.live()) == 2
    assert collection.collect_increment() is GcProgress.COMPLETE
    assert world.live() == []
    with world.heap.no_gc_scope():
        assert collection.collect_increment() is GcProgress.COMPLETE, "there is nothing left that could be forbidden"


def test_leaving_early_frees_nothing(world: Collecting) -> None:
    cells = world.exposed(3)
    world.stack = cells[:1]
    with world.collection() as collection:
        collection.collect_increment()
        assert world.marked() == cells[:1]
    assert world.marked() == []
    assert world.live() == cells
    assert world.heap.control.phase == CollectionPhase.IDLE
    assert world.heap.control.collections == 0
    assert collection.collect_increment() is GcProgress.COMPLETE, "a closed collection does no more"
    assert world.live() == cells
    world.heap.verify(world.stack)
    collection.close()


def test_closing_one_that_never_began_leaves_another_alone(world: Collecting) -> None:
    idle, running = world.collection(), world.collection()
    running.collect_increment()
    idle.close()
    assert world.heap.control.phase == CollectionPhase.SWEEP
    running.collect_increment()


@pytest.mark.parametrize("kind", ["not listed", "freed", "nowhere", "beyond"])
def test_a_stack_map_that_lies_is_found_out(world: Collecting, kind: str) -> None:
    cells = world.exposed(2)
    unlisted, freed = world.new_cell(), world.new_cell()
    world.heap.drop_gc_ref(freed)
    reference = {"not listed": unlisted, "freed": freed, "nowhere": 0x8000, "beyond": 1 << 40}[kind]
    world.stack = [cells[0], reference]
    with pytest.raises(HeapCorruptionError, match=f"compiled code holds {reference:#x}"):
        world.collection().collect()
    assert world.marked() == []
    assert world.heap.control.phase == CollectionPhase.IDLE
    world.stack = []
    world.collection().collect()
    assert world.live() == [unlisted]


def test_an_exception_in_a_stack_walk_ends_the_collection(world: Collecting) -> None:
    cells = world.exposed(2)
    world.stack = cells

    def broken() -> list[int]:
        raise LookupError("no frame pointer")

    world.roots.add_stack_walker(broken)
    with pytest.raises(LookupError, match="no frame pointer"):
        world.collection().collect()
    assert world.heap.control.phase == CollectionPhase.IDLE
    assert world.live() == cells
    assert world.marked() == []
    world.heap.verify()


def test_a_cyclic_list_is_found_out(world: Collecting) -> None:
    cells = world.exposed(2)
    world.heap.header(cells[0]).next_over_approximated_stack_root = cells[1]
    with pytest.raises(HeapCorruptionError, match=f"comes back to {cells[1]:#x}"):
        list(world.heap.over_approximated_stack_roots())
