"""First fit against a naive model, its place in a heap and a store, and wasmtime's rule of growth."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import allocator_rig
from support.allocator_rig import MAPPED
from support.combinations import examples
from support.example_programs import EXAMPLES, Example
from support.heap_model import HeapMachine, Model
from support.heap_world import World

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.collectors.shared.allocator import Block, SegregatedFit
from lowheap.collectors.shared.first_fit import FirstFit
from lowheap.errors import AllocationTooLargeError, HeapCorruptionError, HeapExhaustedError, NoGcScopeError
from lowheap.heap import DrcHeap
from lowheap.layout import (
    FREE_BLOCK_COALESCED,
    MAXIMUM_CAPACITY,
    FreeBlock,
    VMDrcArrayHeader,
    VMDrcHeader,
    VMGcKind,
    VMHeapControl,
)
from lowheap.memory import Memory
from lowheap.roots import RootSet
from lowheap.store import DEFAULT_INITIAL_HEAP_SIZE, Store
from lowheap.types import I8, I64, ArrayType, FieldType, StructType, SubType

PAGE = 1 << 16

edges = [24, 31, 32, 33, 47, 48, 49, 1008, 1024, 1025]
sizes = st.sampled_from(edges) | st.integers(24, 200) | st.integers(24, 5000)


class Units:
    """The naive model: a Python list with an entry for each 16 bytes of the heap, the owner's name or None."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.units: list[int | None] = []
        self.grow(0)

    def grow(self, delta: int) -> None:
        self.capacity += delta
        self.units += [None] * (self.capacity // 16 - len(self.units))

    def gaps(self) -> list[tuple[int, int]]:
        """Each run of free units, as (start, length) in bytes; unit 0 is nobody's."""
        runs: list[tuple[int, int]] = []
        for number in range(1, len(self.units)):
            if self.units[number] is None:
                if runs and sum(runs[-1]) == 16 * number:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 16)
                else:
                    runs.append((16 * number, 16))
        return runs

    def allocate(self, name: int, size: int) -> int | None:
        length = -(-size // 16) * 16
        for start, room in self.gaps():
            if room >= length:
                self.units[start // 16 : (start + length) // 16] = [name] * (length // 16)
                return start
        return None

    def free(self, name: int) -> None:
        self.units = [None if owner == name else owner for owner in self.units]


class Rig(allocator_rig.Rig):
    """One with first fit."""

    policy = FirstFit

    def gaps(self) -> list[tuple[int, int]]:
        """What is free, as the bytes tell it: the free blocks, and the bump region."""
        found = [(block.index, block.length) for block in self.blocks() if block.is_free]
        if self.control.bump < self.control.bump_end:
            found.append((self.control.bump, self.control.bump_end - self.control.bump))
        return found


class FirstFitMachine(RuleBasedStateMachine):
    """Allocates, frees and grows at random; the model must say the same of every index and every gap."""

    @initialize(capacity=st.sampled_from([0, 15, 16, 31, 32, 48, 1000, 4096, 20_000, 65_536]))
    def start(self, capacity: int) -> None:
        self.rig = Rig(capacity)
        self.model = Units(capacity)
        self.live: dict[int, tuple[int, int, int]] = {}  # by name: index, size, the byte that fills it
        self.names = 0

    @rule(size=sizes)
    def allocate(self, size: int) -> None:
        self.names += 1
        expected = self.model.allocate(self.names, size)
        event(f"found: {expected is not None}")
        assert self.rig.allocate(size) == expected
        if expected is not None:
            filler = self.names % 255 + 1
            self.rig.memory.write(expected + 24, bytes([filler]) * (size - 24))
            self.live[self.names] = (expected, size, filler)

    @rule(size=sizes, count=st.integers(2, 40))
    def allocate_many(self, size: int, count: int) -> None:
        for _ in range(count):
            self.allocate(size)

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if self.live:
            self.free_one(data.draw(st.sampled_from(sorted(self.live))))

    @rule(data=st.data(), count=st.integers(2, 20))
    def free_neighbours(self, data: st.DataObject, count: int) -> None:
        if self.live:
            order = sorted(self.live, key=self.live.__getitem__)
            first = data.draw(st.integers(0, len(order) - 1))
            for name in data.draw(st.permutations(order[first : first + count])):
                self.free_one(name)

    def free_one(self, name: int) -> None:
        index, size, filler = self.live.pop(name)
        contents = self.rig.memory.read(index + 24, size - 24)
        assert contents == bytes([filler]) * (size - 24), "something wrote to an object"
        self.model.free(name)
        self.rig.free(index)

    @precondition(lambda self: self.rig.control.capacity < MAPPED // 4)
    @rule(delta=st.sampled_from([0, 1, 15, 16, 17, 4096, 10_000]))
    def grow(self, delta: int) -> None:
        self.rig.grow(delta)
        self.model.grow(delta)

    @rule()
    def replace_allocator(self) -> None:
        self.rig.replace_allocator()

    @rule()
    def coalesce(self) -> None:
        self.rig.allocator.coalesce()  # nothing is left to merge

    @invariant()
    def gaps_are_the_models(self) -> None:
        assert self.rig.gaps() == self.model.gaps()

    @invariant()
    def objects_are_the_models(self) -> None:
        found = {(block.index, block.length) for block in self.rig.blocks() if not block.is_free}
        assert found == {(index, -(-size // 16) * 16) for index, size, _ in self.live.values()}

    @invariant()
    def verify_agrees(self) -> None:
        assert self.rig.allocator.check_integrity() == []
        assert self.rig.allocator.verify() == []


TestFirstFitMachine = FirstFitMachine.TestCase
TestFirstFitMachine.settings = settings(max_examples=examples(40, 100), stateful_step_count=30, deadline=None)


# ----------------------------------------------------------------------------------------------------------------------
# Single moves


def filled(*object_sizes: int, room: int = 0) -> tuple[Rig, list[int]]:
    """A heap that these objects fill, but for `room` bytes, and their indices."""
    rig = Rig(16 + sum(object_sizes) + room)
    indices = [rig.allocate(size) for size in object_sizes]
    return rig, [index for index in indices if index is not None]


def test_the_first_index_and_the_order() -> None:
    rig = Rig(4096)
    assert [rig.allocate(size) for size in (24, 33, 112, 32)] == [16, 48, 96, 208]


def test_the_lowest_block_that_is_long_enough_is_taken_not_the_best() -> None:
    rig, indices = filled(32, 32, 320, 32, 64, 32, room=64)
    assert indices == [16, 48, 80, 400, 432, 496]
    for index in (48, 80 + 320 + 32, 80):
        rig.free(index)
    assert rig.allocate(64) == 48, "merged with the block of 320 behind it, and lower than the one of 64"
    assert rig.gaps() == [(112, 288), (432, 64), (528, 64)]


def test_a_block_that_was_freed_first_is_not_used_first() -> None:
    rig, indices = filled(64, 32, 64, 32, 64, 32)
    for position in (4, 0, 2):
        rig.free(indices[position])
    assert [rig.allocate(64) for _ in range(4)] == [indices[0], indices[2], indices[4], None]


@pytest.mark.parametrize("size", [64, 60, 49])
def test_an_exact_fit_leaves_nothing(size: int) -> None:
    rig, indices = filled(64, 32)
    rig.free(indices[0])
    assert rig.allocate(size) == indices[0]
    assert rig.gaps() == []


def test_a_tail_of_one_unit_stays_free() -> None:
    rig, indices = filled(48, 32)
    rig.free(indices[0])
    assert rig.allocate(32) == 16
    assert rig.gaps() == [(48, 16)], "too short for any object, but it can merge"
    rig.free(64)
    assert rig.gaps() == [(48, 48)]
    assert rig.allocate(48) == 48


@pytest.mark.parametrize(
    ("freed", "expected"),
    [
        ((1,), [(80, 64)]),
        ((1, 3), [(80, 64), (208, 64)]),
        ((1, 2), [(80, 128)]),
        ((2, 1), [(80, 128)]),
        ((1, 3, 2), [(80, 192)]),
        ((5,), [(336, 64)]),
        ((4, 5), [(272, 128)]),
        ((5, 4), [(272, 128)]),
        ((0, 1, 2, 3, 4, 5), [(16, 384)]),
        ((5, 3, 1, 4, 2, 0), [(16, 384)]),
    ],
)
def test_merging(freed: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    rig, indices = filled(*[64] * 6)
    for position in freed:
        rig.free(indices[position])
    assert rig.gaps() == expected
    assert rig.allocator.verify() == []


def test_free_blocks_say_that_they_are_merged() -> None:
    rig, indices = filled(64, 64, 64)
    rig.free(indices[1])
    block = rig.memory.view(FreeBlock, indices[1])
    assert (block.kind_and_reserved, block.length, block.next, block.flags) == (0, 64, 0, FREE_BLOCK_COALESCED)


def test_the_last_free_block_is_the_bump_region() -> None:
    """An image of the heap needs to reach no further than the last object."""
    rig, indices = filled(64, 64, 64, room=1000)
    rig.free(indices[1])
    assert (rig.control.bump, rig.control.bump_end) == (208, 16 + 192 + 1000 - 1000 % 16)
    rig.free(indices[2])
    assert rig.control.bump == indices[1]
    rig.free(indices[0])
    assert (rig.control.bump, rig.blocks()) == (16, [])


def test_growth_lengthens_the_last_free_block() -> None:
    rig, indices = filled(64, 64)
    rig.free(indices[1])
    rig.grow(32)
    assert rig.gaps() == [(80, 96)]
    assert rig.allocate(96) == 80


def test_growth_behind_an_object_makes_a_block() -> None:
    rig, _ = filled(64, 64)
    assert rig.allocate(24) is None
    rig.grow(32)
    assert rig.gaps() == [(144, 32)]


@pytest.mark.parametrize("capacity", [0, 15, 16, 17, 31, 47])
def test_capacities_too_small_for_anything(capacity: int) -> None:
    rig = Rig(capacity)
    assert rig.allocate(24) is None
    assert rig.allocator.verify() == []


def test_capacity_is_kept_to_the_byte() -> None:
    rig = Rig(0)
    for capacity in range(1, 100):
        rig.grow(1)
        assert sum(length for _, length in rig.gaps()) == max(0, capacity // 16 * 16 - 16)
    assert rig.allocate(80) == 16


def test_a_second_policy_goes_on_where_the_first_stopped() -> None:
    rig, twin = (filled(*[48] * 40)[0] for _ in range(2))
    for each in (rig, twin):
        for index in range(16, 16 + 40 * 48, 3 * 48):
            each.free(index)
    rig.replace_allocator()
    for size in (40, 24, 48, 100, 16 + 32, 24):
        assert rig.allocate(size) == twin.allocate(size)


def test_reset_forgets_everything() -> None:
    rig, indices = filled(64, 64, 64, room=64)
    rig.free(indices[1])
    rig.allocator.reset()
    assert (rig.blocks(), rig.gaps()) == ([], [(16, 256)])
    assert rig.allocator.verify() == []
    assert rig.allocate(24) == 16


# ----------------------------------------------------------------------------------------------------------------------
# At the edges of u32


@pytest.fixture(scope="module")
def region() -> Memory:
    return Memory()


class HugeRig(Rig):
    """As a `Rig`, over a region of the largest size."""

    def __init__(self, region: Memory, capacity: int) -> None:
        self.control = VMHeapControl()
        self.memory = region
        self.control.capacity = capacity
        self.allocator = FirstFit(self.control, region)
        self.allocator.reset()


@pytest.mark.parametrize("size", [(1 << 32) - 15, (1 << 32) - 1, 1 << 32, 1 << 33])
@pytest.mark.parametrize("capacity", [0, PAGE, MAXIMUM_CAPACITY])
def test_a_size_that_does_not_round_to_a_u32(region: Memory, size: int, capacity: int) -> None:
    rig = HugeRig(region, capacity)
    with pytest.raises(AllocationTooLargeError, match=f"an object of {size} bytes .* at most 4294967280"):
        rig.allocator.allocate(size)
    assert rig.allocator.verify() == []


@pytest.mark.parametrize("capacity", [MAXIMUM_CAPACITY, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, 1 << 40])
def test_no_block_ends_beyond_the_last_index(region: Memory, capacity: int) -> None:
    rig = HugeRig(region, capacity)
    for size in ((1 << 32) - 16, (1 << 32) - 31):
        assert rig.allocate(size) is None, "it rounds to a u32, and there is no room for it"
    assert rig.allocate((1 << 32) - 32) == 16
    assert rig.control.bump == (1 << 32) - 16
    assert rig.allocate(24) is None
    assert rig.blocks() == [Block(16, (1 << 32) - 32, False)]
    rig.free(16)
    assert rig.gaps() == [(16, (1 << 32) - 32)]
    assert rig.allocate(24) == 16


def test_growth_beyond_the_last_index_gains_nothing(region: Memory) -> None:
    rig = HugeRig(region, (1 << 32) - PAGE)
    assert rig.allocate((1 << 32) - PAGE - 16) == 16
    rig.grow(PAGE)
    assert rig.gaps() == [((1 << 32) - PAGE, PAGE - 16)]
    rig.grow(PAGE)
    assert rig.gaps() == [((1 << 32) - PAGE, PAGE - 16)]


huge_sizes = st.sampled_from([1 << 28, 1 << 30, (1 << 31) - 16, 1 << 31, (1 << 32) - 32]) | st.integers(
    24, (1 << 32) - 16
)


@given(
    capacity=st.sampled_from([PAGE, (1 << 31) + 5, MAXIMUM_CAPACITY, (1 << 32) + 7]),
    moves=st.lists(st.tuples(st.sampled_from(["allocate", "free", "grow"]), huge_sizes), max_size=25),
)
@settings(max_examples=examples(60, 150), deadline=None)
def test_huge_blocks(region: Memory, capacity: int, moves: list[tuple[str, int]]) -> None:
    """The model here: the objects in a sorted list, and the room between each two of them."""
    rig = HugeRig(region, capacity)
    live: list[tuple[int, int]] = []
    for move, amount in moves:
        if move == "grow":
            capacity += amount
            rig.grow(amount)
        elif move == "free":
            if live:
                index, _ = live.pop(amount % len(live))
                rig.free(index)
        else:
            length = (amount + 15) // 16 * 16
            ends = [16, *(index + taken for index, taken in live)]
            starts = [*(index for index, _ in live), min(capacity, (1 << 32) - 1) // 16 * 16]
            gaps = list(zip(ends, starts, strict=True))
            expected = next((start for start, end in gaps if end - start >= length), None)
            assert rig.allocate(amount) == expected
            if expected is not None:
                live = sorted([*live, (expected, length)])
        assert rig.allocator.verify() == []
        assert [(block.index, block.length) for block in rig.blocks() if not block.is_free] == live


# ----------------------------------------------------------------------------------------------------------------------
# Broken bytes, and broken use


@pytest.fixture
def rig() -> Rig:
    """Six objects' places; free blocks of 64 bytes at 0x50 and 0xd0, and the bump pointer at 0x190."""
    made, indices = filled(*[64] * 6, room=64)
    made.free(indices[1])
    made.free(indices[3])
    assert made.gaps() == [(0x50, 64), (0xD0, 64), (0x190, 64)]
    return made


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (0, VMGcKind.STRUCT_REF, "free block at 0x50 of 64 bytes has kind word 0xb0000000, so it is not free"),
        (4, 48, "free block at 0x50 of 64 bytes has length 48 in the heap"),
        (4, 128, "free block at 0x50 of 64 bytes has length 128 in the heap"),
    ],
)
def test_a_header_that_was_overwritten_is_found_at_once(rig: Rig, offset: int, value: int, expected: str) -> None:
    rig.memory.view(ctypes.c_uint32, 0x50 + offset).value = value
    assert expected in rig.allocator.check_integrity()
    assert any("0x50" in problem for problem in rig.allocator.verify())


@pytest.mark.parametrize("value", [0, 8, 63, 4080, 0xFFFF_FFFF])
def test_a_walk_that_cannot_go_on_is_reported(rig: Rig, value: int) -> None:
    rig.replace_allocator()
    rig.memory.view(FreeBlock, 0x50).length = value
    assert rig.allocator.verify() == [f"free block at 0x50 claims {value} bytes; the bump pointer is at 0x190"]


def test_an_object_that_looks_free_is_found(rig: Rig) -> None:
    block = rig.memory.view(FreeBlock, 0x90)
    assert rig.allocator.verify() == []  # the map is made
    block.kind_and_reserved, block.length = 0, 64
    assert rig.allocator.verify() == ["free block at 0x90 of 64 bytes is not in the map"]


def test_a_free_block_that_no_walk_reaches_is_found(rig: Rig) -> None:
    rig.memory.view(VMDrcHeader, 0x90).object_size = 128  # reaches over the free block at 0xd0
    assert rig.allocator.verify() == ["the map has 0xd0, where a walk finds no free block"]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0x90, ["free block at 0x90 of 64 bytes was not merged with the one before it"]),
        (0x150, ["free block at 0x150 of 64 bytes was not merged with the bump region"]),
    ],
)
def test_a_missed_merge_is_found(rig: Rig, index: int, expected: list[str]) -> None:
    block = rig.memory.view(FreeBlock, index)
    block.kind_and_reserved, block.length = 0, 64
    rig.replace_allocator()
    assert [problem for problem in rig.allocator.verify() if hex(index) in problem] == expected


@pytest.mark.parametrize(
    ("index", "length", "expected"),
    [
        (0x58, 16, "is not made of units of 16 bytes"),
        (0x110, 24, "is not made of units of 16 bytes"),
        (0x110, 0, "is not made of units of 16 bytes"),
        (0x0, 32, "is not between 0x10 and the bump pointer 0x190"),
        (0x180, 32, "is not between 0x10 and the bump pointer 0x190"),
        (0x1000, 32, "is not between 0x10 and the bump pointer 0x190"),
        (0x60, 16, "overlaps the one before it, which ends at 0x90"),
    ],
)
def test_a_map_that_is_wrong_is_found(rig: Rig, index: int, length: int, expected: str) -> None:
    rig.allocator._lengths[index] = length
    found = rig.allocator.check_integrity()
    assert any(problem == f"free block at {index:#x} of {length} bytes {expected}" for problem in found), found


@pytest.mark.parametrize(
    ("index", "size", "expected"),
    [
        (0x50, 64, "0x50 to 0x90 is free already"),
        (0x50, 32, "0x50 to 0x90 is free already"),
        (0x60, 32, "0x50 to 0x90 is free already"),
        (0x10, 80, "0x50 to 0x90 is free already"),
        (0x90, 300, "bump pointer 0x190"),
        (0x90, 80, "0xd0 to 0x110 is free already"),
        (0x190, 32, "blocks in use are between 0x10 and the bump pointer 0x190"),
        (0x150, 80, "blocks in use are between 0x10 and the bump pointer 0x190"),
        (0x0, 32, "blocks in use are between 0x10 and the bump pointer 0x190"),
    ],
)
def test_freeing_what_is_free_is_refused(rig: Rig, index: int, size: int, expected: str) -> None:
    before = rig.memory.read(0, rig.control.capacity)
    with pytest.raises(HeapCorruptionError, match=f"the block from {index:#x} to .* is freed, but .*{expected}"):
        rig.allocator.free(index, size)
    assert rig.memory.read(0, rig.control.capacity) == before
    assert rig.gaps() == [(0x50, 64), (0xD0, 64), (0x190, 64)]
    assert rig.allocator.verify() == []


# ----------------------------------------------------------------------------------------------------------------------
# In a heap


class CheckedWorld(World):
    """A `World` whose heap is checked, and has the policy of one's choice."""

    policy: type[FirstFit] | type[SegregatedFit] = FirstFit

    def __init__(self, capacity: int = 1 << 14, maximum: int = MAXIMUM_CAPACITY) -> None:
        super().__init__(capacity, maximum)
        self.heap.detach()
        self.heap = DrcHeap(self.types, allocator=self.policy, checked=True)
        self.heap.attach(self.memory, self.host_data)
        self.roots = RootSet(self.heap)
        for index in self.types:
            self.heap.register_type(index)


class SegregatedWorld(CheckedWorld):
    policy = SegregatedFit


class FirstFitHeapMachine(HeapMachine):
    """The whole heap, on first fit, checked at each operation."""

    @initialize()
    def start(self) -> None:
        self.world = CheckedWorld()
        self.sides = self.make_sides(self.world)
        self.model = Model()
        self.stack: list[int] = []
        self.world.roots.add_stack_walker(lambda: self.stack)


TestFirstFitHeap = FirstFitHeapMachine.TestCase
TestFirstFitHeap.settings = settings(max_examples=examples(20, 50), stateful_step_count=30, deadline=None)


def test_the_heap_goes_on_after_its_memory_moved() -> None:
    world = CheckedWorld(1 << 14)
    cells = [world.new_cell() for _ in range(20)]
    for cell in cells[4:12:2]:
        world.heap.drop_gc_ref(cell)
    taken = world.heap.take_memory()
    moved = Memory(1 << 15)
    moved.write(0, taken.read(0, 1 << 14))
    world.heap.replace_memory(moved, 1 << 14)
    world.heap.drop_gc_ref(cells[5])
    assert world.new_cell() == cells[4]
    assert world.new_cell() == cells[5], "the three that were free in a row are one block now"
    array = world.heap.alloc_uninit_array(world.bytes, 15_000)
    assert array == cells[-1] + 48
    assert {each.index for each in world.heap.objects()} == {*cells, array} - {*cells[6:12:2]}


def test_a_chain_that_dies_at_once_is_one_gap() -> None:
    world = CheckedWorld(1 << 14)
    world.heap.is_checked = False
    first = chain = world.new_cell()
    for _ in range(200):
        chain = world.new_cell(chain)
    world.heap.is_checked = True
    world.heap.drop_gc_ref(chain)
    assert world.heap.control.bump == first == 16
    world.heap.verify()


@pytest.mark.parametrize("make_world", [CheckedWorld, SegregatedWorld])
def test_a_checked_heap_finds_a_broken_free_block_at_the_next_allocation(make_world: type[CheckedWorld]) -> None:
    world = make_world()
    cells = [world.new_cell() for _ in range(6)]
    world.heap.drop_gc_ref(cells[1])
    world.heap.drop_gc_ref(cells[3])
    world.memory.view(FreeBlock, cells[1]).length = 32
    with pytest.raises(HeapCorruptionError, match=f"free block at {cells[1]:#x}"):
        world.heap.alloc_uninit_array(world.bytes, 1000)
    with pytest.raises(HeapCorruptionError, match=f"free block at {cells[1]:#x}"):
        world.heap.drop_gc_ref(cells[5])
    with pytest.raises(HeapCorruptionError, match=f"free block at {cells[1]:#x}"):
        world.heap.coalesce() if make_world is CheckedWorld else world.heap.drop_gc_ref(cells[4])
    world.heap.is_checked = False
    world.heap.alloc_uninit_array(world.bytes, 1000)


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (0, VMGcKind.STRUCT_REF | 1 << 9, "unknown reserved bits"),
        (0, VMGcKind.ARRAY_REF, "has kind 0xa8000000"),
        (4, 9999, "type index 9999"),
        (20, 64, "has size 64"),
    ],
)
def test_a_checked_heap_finds_a_broken_header_when_it_comes_by(offset: int, value: int, expected: str) -> None:
    world = CheckedWorld()
    cell = world.new_cell()
    holder = world.new_refs(cell)
    world.memory.view(ctypes.c_uint32, cell + offset).value = value
    for operation in (world.heap.clone_gc_ref, world.heap.expose_gc_ref_to_wasm, world.heap.drop_gc_ref):
        with pytest.raises(HeapCorruptionError, match=expected):
            operation(cell)
    with pytest.raises(HeapCorruptionError, match=expected):
        world.heap.drop_gc_ref(holder)


def test_a_heap_is_not_checked_unless_asked() -> None:
    world = World()
    assert not world.heap.is_checked
    cell = world.new_cell()
    world.heap.header(cell).object_size = 64
    assert world.heap.clone_gc_ref(cell) == cell


# ----------------------------------------------------------------------------------------------------------------------
# In a store

CELL = StructType((FieldType(I64, True),))  # a block of 32 bytes
BYTES = ArrayType(FieldType(I8, True))


class StoreRig(Store):
    """A store with two types, which does to references what compiled code would."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        (self.cell,) = self.engine.types.register([SubType(CELL)])
        (self.bytes,) = self.engine.types.register([SubType(BYTES)])

    def garbage(self) -> int:
        """Allocate a cell that only the list owns, and which compiled code does not hold."""
        reference = self.alloc_struct(self.cell)
        self.heap.expose_gc_ref_to_wasm(reference)
        return reference

    def keep(self, size: int) -> int:
        """Allocate an array of `size` bytes, all told, that a handle holds."""
        reference = self.alloc_array(self.bytes, size - 28)
        self.roots.create_handle(reference)
        return reference


@pytest.mark.parametrize(
    ("options", "policy", "growth", "capacity"),
    [
        ({}, SegregatedFit, "collect-first", DEFAULT_INITIAL_HEAP_SIZE),
        ({"allocator": "segregated-fit"}, SegregatedFit, "collect-first", DEFAULT_INITIAL_HEAP_SIZE),
        ({"allocator": "first-fit"}, FirstFit, "grow-first", 0),
        ({"growth": "grow-first"}, SegregatedFit, "grow-first", 0),
        (
            {"allocator": "first-fit", "growth": "collect-first"},
            FirstFit,
            "collect-first",
            DEFAULT_INITIAL_HEAP_SIZE,
        ),
        ({"allocator": "first-fit", "initial_heap_size": 100}, FirstFit, "grow-first", 100),
    ],
)
def test_policies_by_name(options: dict[str, Any], policy: type, growth: str, capacity: int) -> None:
    with Store(**options) as store:
        assert store.heap.allocator_policy is policy
        assert store.growth == growth
        assert store.heap.stats().capacity == capacity
        assert not store.heap.is_checked


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"allocator": "best-fit"}, ValueError, "no allocator 'best-fit'; there are segregated-fit, first-fit"),
        ({"allocator": None}, ValueError, "no allocator None; there are segregated-fit, first-fit"),
        ({"allocator": []}, ValueError, r"no allocator \[\]; there are segregated-fit, first-fit"),
        ({"growth": "never"}, ValueError, "no growth policy 'never'; there are collect-first, grow-first"),
        ({"checked": 1}, TypeError, "checked is 1; it must be a bool"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Store(**options)


@pytest.mark.parametrize("options", [{"allocator": "first-fit"}, {"growth": "grow-first"}])
def test_the_native_runtime_has_the_default_policies_only(options: dict[str, Any]) -> None:
    engine = lh.Engine(runtime="native")
    with pytest.raises(ValueError, match=r"the runtime .native. has no allocator .* with growth policy .grow-first."):
        Store(engine, **options)
    Store(engine).close()


def test_a_checked_store() -> None:
    with Store(checked=True) as store:
        assert store.heap.is_checked


def wasmtime_pages(pages: int, bytes_needed: int, maximum: int) -> int | None:
    """The pages of a heap of wasmtime 37 to 43 after an allocation found no room; None when it collects instead."""
    more = max(min(pages, maximum - pages), -(-bytes_needed // PAGE))
    return pages + more if pages + more <= maximum else None


@given(
    blocks=st.lists(st.integers(2, 40_000).map(lambda units: 16 * units), min_size=1, max_size=30),
    maximum=st.integers(1, 64),
)
@settings(max_examples=100, deadline=None)
def test_growth_is_by_wasmtimes_rule(blocks: list[int], maximum: int) -> None:
    store = StoreRig(allocator="first-fit", maximum_heap_size=maximum * PAGE)
    pages, end, collections = 0, 16, 0
    for length in blocks:
        if end + length > pages * PAGE:
            # Index 0 is lost in an empty heap; wasmtime forgets that, see below.
            grown = wasmtime_pages(pages, length if pages else length + 16, maximum)
            if grown is None:
                collections += 16 + length <= store.heap.stats().maximum
                with pytest.raises((HeapExhaustedError, AllocationTooLargeError)):
                    store.keep(length)
                continue
            pages = grown
        assert store.keep(length) == end
        end += length
        assert store.heap.stats().capacity == pages * PAGE
        assert store.heap.stats().collections == collections
    store.heap.verify()


def test_a_first_object_that_fills_a_page_but_for_index_0() -> None:
    """Here wasmtime grows by one page, finds that too little, and gives up."""
    for size, pages in ((PAGE - 16, 1), (PAGE - 15, 2), (PAGE, 2), (2 * PAGE, 3)):
        store = StoreRig(allocator="first-fit")
        assert store.keep(size) == 16
        assert store.heap.stats().capacity == pages * PAGE


def test_free_room_at_the_end_does_not_count() -> None:
    """Wasmtime asks for all of what is needed, even where the end is free."""
    store = StoreRig(allocator="first-fit")
    store.keep(1000)
    assert store.heap.stats().capacity == PAGE
    store.keep(PAGE + 16)
    assert store.heap.stats().capacity == 3 * PAGE


def test_grow_first_does_not_collect_before_the_maximum() -> None:
    store = StoreRig(allocator="first-fit", maximum_heap_size=4 * PAGE)
    references = [store.garbage() for _ in range(4 * PAGE // 32 - 1)]
    assert references == list(range(16, 4 * PAGE - 16, 32))
    stats = store.heap.stats()
    assert (stats.collections, stats.growths, stats.capacity) == (0, 3, 4 * PAGE)
    assert store.garbage() == 16, "the heap was swept"
    assert (store.heap.stats().collections, store.heap.stats().listed) == (1, 1)
    store.verify()


def test_grow_first_does_not_mind_a_long_list() -> None:
    for growth, collections in (("grow-first", 0), ("collect-first", 62)):
        collector = Drc(list_floor=16)
        store = StoreRig(collector=collector, allocator="first-fit", growth=growth, initial_heap_size=PAGE)
        for _ in range(1000):
            store.garbage()
        assert store.heap.stats().collections == collections, growth


def test_grow_first_collects_no_more_than_it_may() -> None:
    store = StoreRig(allocator="first-fit", maximum_heap_size=PAGE)
    for _ in range(PAGE // 32 - 1):
        store.garbage()
    with store.heap.no_gc_scope():
        with pytest.raises(HeapExhaustedError):
            store.garbage()
        with pytest.raises(NoGcScopeError):
            store.collect()
    assert store.garbage() == 16


@pytest.mark.parametrize("maximum", [100, PAGE + 100, 2 * PAGE + 5])
def test_a_maximum_that_is_no_number_of_pages_is_used_up(maximum: int) -> None:
    store = StoreRig(allocator="first-fit", maximum_heap_size=maximum)
    count = (maximum // 16 * 16 - 16) // 32
    for number in range(count):
        assert store.keep(32) == 16 + 32 * number
    with pytest.raises(HeapExhaustedError):
        store.keep(32)
    assert store.heap.stats().capacity == maximum


def test_the_largest_heap_there_is() -> None:
    store = StoreRig(allocator="first-fit", initial_heap_size=1 << 31)

    def keep_unwritten(size: int) -> int:
        """As `keep`, without zeroing gigabytes."""
        reference = store._allocate(lambda find: store.heap.alloc_raw(VMGcKind.ARRAY_REF, store.bytes, size, find=find))
        store.heap.memory.view(VMDrcArrayHeader, reference).length = size - 28
        store.roots.create_handle(reference)
        return reference

    assert keep_unwritten((1 << 31) - 16) == 16
    assert store.keep(32) == 1 << 31
    assert store.heap.stats().capacity == MAXIMUM_CAPACITY
    assert keep_unwritten((1 << 31) - 48) == (1 << 31) + 32
    with pytest.raises(HeapExhaustedError):
        store.keep(32)
    store.heap.verify()


def test_segregated_fit_may_grow_first_too() -> None:
    store = StoreRig(growth="grow-first", maximum_heap_size=4 * PAGE)
    for _ in range(4 * PAGE // 32 - 1):
        store.garbage()
    assert (store.heap.stats().collections, store.heap.stats().capacity) == (0, 4 * PAGE)
    store.garbage()
    assert store.heap.stats().collections == 1


# ----------------------------------------------------------------------------------------------------------------------
# Under programs


@functools.cache
def engine() -> lh.Engine:
    return lh.Engine(runtime="python")


ROWS = [example for example in EXAMPLES if example.imports is None and not example.large]


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("example", [row for row in ROWS if row.args[0] in (10, 100, 37, 64, 16, 2, 12)], ids=str)
def test_examples(example: Example, every: int) -> None:
    with lh.Store(engine(), allocator="first-fit", collect_every=every, checked=True) as store:
        instance = lh.Instance(store, lh.Module(engine(), example.source), {})
        returned = instance.exports[example.export](*example.args)
        assert (returned if isinstance(returned, tuple) else (returned,)) == example.expected
        store.verify()
        if example.reset is not None:
            instance.exports[example.reset]()
        store.collect()
        store.verify()
        assert store.heap.stats().live_objects == example.survivors
