"""Host handles, registered slots, and what stack walkers report."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.heap_world import World

from lowheap.collectors.shared import roots
from lowheap.errors import HeapCorruptionError, HeapError, InvalidReferenceError
from lowheap.layout import HANDLE_LIMIT, NULL, ROOT_RANGE_LIMIT, ROOT_SLOT_LIMIT, VMTable, i31_from_int
from lowheap.roots import Root, RootKind


@pytest.fixture
def world() -> World:
    return World()


def test_a_handle_takes_over_a_count(world: World) -> None:
    cell = world.new_cell()
    number = world.roots.create_handle(cell)
    assert world.roots.handle(number) == cell
    assert world.count(cell) == 1
    assert list(world.heap.handles()) == [(number, cell)]
    world.heap.verify()
    assert world.roots.release_handle(number) == cell
    assert world.count(cell) == 1, "it is the caller's again"
    assert list(world.heap.handles()) == []
    world.heap.drop_gc_ref(cell)
    world.heap.verify()


def test_numbers_are_used_again(world: World) -> None:
    numbers = [world.roots.create_handle(world.new_cell()) for _ in range(4)]
    assert numbers == [0, 1, 2, 3]
    cells = [world.roots.release_handle(number) for number in (1, 3, 0)]
    assert [world.roots.create_handle(cell) for cell in cells] == [0, 3, 1], "last in, first out"
    assert world.roots.create_handle(world.new_cell()) == 4


@pytest.mark.parametrize("number", [-1, 1, 2, 1 << 40])
def test_handles_that_are_not_in_use(world: World, number: int) -> None:
    world.roots.create_handle(world.new_cell())
    world.roots.create_handle(world.new_cell())
    world.heap.drop_gc_ref(world.roots.release_handle(1))
    for operation in (world.roots.handle, world.roots.release_handle):
        with pytest.raises(HeapError, match=f"handle {number} is not in use"):
            operation(number)
    world.heap.verify()


@pytest.mark.parametrize("number", ["0", None, 0.5])
def test_handle_numbers_of_the_wrong_type(world: World, number: Any) -> None:
    world.roots.create_handle(world.new_cell())
    with pytest.raises(TypeError):
        world.roots.release_handle(number)
    world.heap.verify()


@pytest.mark.parametrize("reference", [NULL, i31_from_int(5), 0x8000])
def test_handles_of_nothing(world: World, reference: int) -> None:
    with pytest.raises(InvalidReferenceError, match=f"{reference:#x}"):
        world.roots.create_handle(reference)
    assert world.heap.control.handle_count == 0


def test_too_many_handles(world: World) -> None:
    cell = world.new_cell()
    world.heap.control.handle_count = HANDLE_LIMIT
    with pytest.raises(HeapError, match=f"no handle is left: all {HANDLE_LIMIT} are in use"):
        world.roots.create_handle(cell)


def test_handles_do_not_outlive_the_memory(world: World) -> None:
    number = world.roots.create_handle(world.new_cell())
    world.roots.create_handle(world.new_cell())
    world.heap.drop_gc_ref(world.roots.release_handle(1))
    world.heap.detach()
    with pytest.raises(HeapError, match=f"handle {number} is not in use"):
        world.roots.handle(number)
    assert (world.heap.control.handle_count, world.heap.control.free_handle) == (0, 0)


class HandleMachine(RuleBasedStateMachine):
    """Handles against a dict from number to reference."""

    @initialize()
    def start(self) -> None:
        self.world = World()
        self.model: dict[int, int] = {}
        self.most = 0

    @rule()
    def create(self) -> None:
        cell = self.world.new_cell()
        number = self.world.roots.create_handle(cell)
        assert number not in self.model
        self.model[number] = cell
        self.most = max(self.most, len(self.model))
        assert number < self.most, "a free number is used before a new one"

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.model:
            number = data.draw(st.sampled_from(sorted(self.model)))
            reference = self.world.roots.release_handle(number)
            assert reference == self.model.pop(number)
            self.world.heap.drop_gc_ref(reference)

    @invariant()
    def agrees(self) -> None:
        assert dict(self.world.heap.handles()) == self.model
        assert set(self.world.live()) == set(self.model.values())
        self.world.heap.verify()


TestHandleMachine = HandleMachine.TestCase
TestHandleMachine.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


# ----------------------------------------------------------------------------------------------------------------------
# Slots


def test_slots_are_owners(world: World) -> None:
    cell = world.new_cell()
    slot, empty, number = ctypes.c_uint32(cell), ctypes.c_uint32(NULL), ctypes.c_uint32(i31_from_int(6))
    for each in (slot, empty, number):
        world.roots.add_slot(ctypes.addressof(each))
    world.heap.verify()
    assert list(world.heap.root_slots()) == [(ctypes.addressof(slot), cell)]
    other = world.new_cell()
    world.heap.write_gc_ref(slot, other)
    world.heap.drop_gc_ref(other)
    assert world.live() == [other]
    world.heap.verify()
    world.heap.write_gc_ref(slot, NULL)
    world.roots.remove_slot(ctypes.addressof(slot))
    assert list(world.heap.root_slots()) == []
    world.heap.verify()


def test_entries_are_used_again(world: World) -> None:
    slots = [ctypes.c_uint32() for _ in range(4)]
    for slot in slots[:3]:
        world.roots.add_slot(ctypes.addressof(slot))
    world.roots.remove_slot(ctypes.addressof(slots[1]))
    world.roots.add_slot(ctypes.addressof(slots[3]))
    assert world.heap.control.root_slot_count == 3
    entries = (ctypes.c_uint64 * 3).from_address(world.heap.control.root_slots)
    assert list(entries) == [ctypes.addressof(slots[number]) for number in (0, 3, 2)]


def test_slots_that_were_not_registered(world: World) -> None:
    slot, other = ctypes.c_uint32(), ctypes.c_uint32()
    world.roots.add_slot(ctypes.addressof(slot))
    for address in (ctypes.addressof(other), 4):
        with pytest.raises(HeapError, match=f"slot {address:#x} is not registered"):
            world.roots.remove_slot(address)
    world.roots.remove_slot(ctypes.addressof(slot))
    with pytest.raises(HeapError, match="is not registered"):
        world.roots.remove_slot(ctypes.addressof(slot))


@pytest.mark.parametrize("address", [0, -8, 1 << 64])
def test_addresses_that_no_slot_has(world: World, address: int) -> None:
    slot = ctypes.c_uint32()
    world.roots.add_slot(ctypes.addressof(slot))
    world.roots.remove_slot(ctypes.addressof(slot))  # leaves an entry of 0
    for operation in (world.roots.add_slot, world.roots.remove_slot):
        with pytest.raises(HeapError, match=f"{address:#x} is not the address of a root slot"):
            operation(address)


@pytest.mark.parametrize("address", [None, "4096", 4096.0, True])
def test_addresses_of_the_wrong_type(world: World, address: Any) -> None:
    for operation in (world.roots.add_slot, world.roots.remove_slot):
        with pytest.raises(TypeError, match=f"a root slot's address is {address!r}"):
            operation(address)


def test_a_slot_is_entered_without_a_look_at_all_before_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    find = roots.free_slot
    monkeypatch.setattr(roots, "free_slot", lambda heap, start: starts.append(start) or find(heap, start))
    slots = (ctypes.c_uint32 * 6)()
    addresses = [ctypes.addressof(slots) + 4 * number for number in range(6)]
    for address in addresses[:4]:
        world.roots.add_slot(address)
    assert starts == [0, 1, 2, 3]
    world.roots.remove_slot(addresses[1])
    world.roots.add_slot(addresses[4])
    assert world.heap.control.root_slot_count == 4, "in the place of the one that was removed"
    world.roots.add_slot(addresses[5])
    assert world.heap.control.root_slot_count == 5
    world.heap.verify()


def test_too_many_slots(world: World) -> None:
    control = world.heap.control
    entries = (ctypes.c_uint64 * 4).from_address(control.root_slots + 8 * (ROOT_SLOT_LIMIT - 4))
    entries[:] = [8] * 4
    ctypes.memset(control.root_slots, 1, 8 * (ROOT_SLOT_LIMIT - 4))
    control.root_slot_count = ROOT_SLOT_LIMIT
    with pytest.raises(HeapError, match=f"no root slot is left: all {ROOT_SLOT_LIMIT} are in use"):
        world.roots.add_slot(4096)
    entries[0] = entries[2] = 0
    with pytest.raises(HeapError, match="no root slot is left"):
        world.roots.add_slots([16, 32, 48])
    assert list(entries) == [0, 8, 0, 8], "none was added"
    world.roots.add_slots([16, 32])
    assert list(entries) == [16, 8, 32, 8]


# ----------------------------------------------------------------------------------------------------------------------
# Ranges


def a_range(length: int, maximum: int) -> tuple[VMTable, ctypes.Array[ctypes.c_uint32]]:
    slots = (ctypes.c_uint32 * maximum)()
    return VMTable(ctypes.addressof(slots), length, maximum), slots


def test_the_slots_of_a_range_are_owners(world: World) -> None:
    table, slots = a_range(3, 5)
    world.roots.add_range(ctypes.addressof(table))
    cell = world.new_cell()
    for number in (0, 2):
        world.heap.write_gc_ref(ctypes.c_uint32.from_buffer(slots, 4 * number), cell)
    slots[1] = i31_from_int(3)
    world.heap.drop_gc_ref(cell)
    places = [table.base, table.base + 8]
    assert list(world.heap.root_slots()) == [(place, cell) for place in places]
    assert list(world.roots) == [Root(RootKind.SLOT, place, cell) for place in places]
    world.heap.verify()
    slots[4] = cell  # behind its end
    world.heap.verify()
    table.length = 5
    with pytest.raises(HeapCorruptionError, match=f"object {cell:#x} has count 2, but 3 owners"):
        world.heap.verify()
    table.length, slots[4] = 3, NULL
    for number in (0, 2):
        world.heap.write_gc_ref(ctypes.c_uint32.from_buffer(slots, 4 * number), NULL)
    world.roots.remove_range(ctypes.addressof(table))
    assert (list(world.roots), world.live()) == ([], [])
    world.heap.verify()


def test_entries_of_ranges_are_used_again(world: World) -> None:
    tables = [a_range(1, 1)[0] for _ in range(4)]
    for table in tables[:3]:
        world.roots.add_range(ctypes.addressof(table))
    world.roots.remove_range(ctypes.addressof(tables[1]))
    world.roots.remove_range(ctypes.addressof(tables[2]))
    world.roots.add_range(ctypes.addressof(tables[3]))
    control = world.heap.control
    assert (control.root_range_count, control.root_slot_count) == (3, 0)
    entries = (ctypes.c_uint64 * 3).from_address(control.root_ranges)
    assert list(entries) == [ctypes.addressof(tables[0]), ctypes.addressof(tables[3]), 0]


def test_ranges_that_are_none(world: World) -> None:
    table, _ = a_range(1, 1)
    with pytest.raises(HeapError, match=f"root range {ctypes.addressof(table):#x} is not registered"):
        world.roots.remove_range(ctypes.addressof(table))
    for operation in (world.roots.add_range, world.roots.remove_range):
        with pytest.raises(HeapError, match="0x0 is not the address of a root range"):
            operation(0)
        with pytest.raises(TypeError, match="a root range's address is None"):
            operation(None)  # type: ignore[arg-type]


def test_too_many_ranges(world: World) -> None:
    control = world.heap.control
    ctypes.memset(control.root_ranges, 1, 8 * ROOT_RANGE_LIMIT)
    control.root_range_count = ROOT_RANGE_LIMIT
    with pytest.raises(HeapError, match=f"no root range is left: all {ROOT_RANGE_LIMIT} are in use"):
        world.roots.add_range(4096)


# ----------------------------------------------------------------------------------------------------------------------
# All roots


def test_iterating_yields_every_root(world: World) -> None:
    held, in_slot, listed = world.new_cell(), world.new_cell(), world.new_cell()
    number = world.roots.create_handle(held)
    slot = ctypes.c_uint32(in_slot)
    world.roots.add_slot(ctypes.addressof(slot))
    world.heap.expose_gc_ref_to_wasm(listed)
    world.roots.add_stack_walker(lambda: [NULL, listed, i31_from_int(3)])
    world.roots.add_stack_walker(lambda: iter([listed]))
    assert list(world.roots) == [
        Root(RootKind.HANDLE, number, held),
        Root(RootKind.SLOT, ctypes.addressof(slot), in_slot),
        Root(RootKind.WASM_STACK, 0, listed),
        Root(RootKind.WASM_STACK, 0, listed),
    ]
    assert [root.is_on_wasm_stack for root in world.roots] == [False, False, True, True]
    assert list(world.roots.wasm_stack()) == [listed, listed]
