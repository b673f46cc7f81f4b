"""The free-list policy against a naive model: a plain dict of what is allocated, and nothing else."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import allocator_rig
from support.allocator_rig import MAPPED
from support.combinations import examples

from lowheap.collectors.shared import free_lists
from lowheap.collectors.shared.allocator import Allocator, Block, SegregatedFit, walk
from lowheap.collectors.shared.free_lists import size_class
from lowheap.errors import HeapCorruptionError
from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HEADER_SIZE,
    NULL,
    SIZE_CLASS_COUNT,
    SMALL_BLOCK_LIMIT,
    FreeBlock,
    VMDrcHeader,
    VMGcKind,
    VMHeapControl,
    block_length,
)
from lowheap.memory import Mapping, Memory

# Around every edge that there is: a bare header, multiples of a block, the last exact class, powers of two.
edges = [24, 31, 32, 33, 47, 48, 49]
edges += [SMALL_BLOCK_LIMIT + offset for offset in (-33, -32, -17, -16, -15, -1, 0, 1, 16, 17)]
edges += [(1 << power) + offset for power in (11, 12, 13) for offset in (-16, -1, 0, 1, 16)]
sizes = st.sampled_from(edges) | st.integers(HEADER_SIZE, 200) | st.integers(HEADER_SIZE, 5000)


class Rig(allocator_rig.Rig):
    """One with the free lists of segregated fit."""

    policy = SegregatedFit

    def fill(self, size: int) -> list[int]:
        """Allocate objects of one size until there is no room."""
        indices = []
        while (index := self.allocate(size)) is not None:
            indices.append(index)
        return indices

    def free_lists(self) -> dict[int, list[int]]:
        """The indices on each list that is not empty, in its order."""
        lists = {}
        for number in range(SIZE_CLASS_COUNT):
            found, index = [], self.control.size_class_heads[number]
            while index != NULL:
                found.append(index)
                index = self.memory.view(FreeBlock, index).next
            if found:
                lists[number] = found
        return lists

    def is_coalesced(self, index: int) -> bool:
        return bool(self.memory.view(FreeBlock, index).flags & FREE_BLOCK_COALESCED)


def runs(rig: Rig, live: dict[int, int]) -> list[tuple[int, int]]:
    """The gaps between the model's objects, up to the end of the capacity: (start, length)."""
    gaps, end = [], FIRST_INDEX
    for index in sorted(live):
        if index > end:
            gaps.append((end, index - end))
        end = index + block_length(live[index])
    capacity = rig.control.capacity // BLOCK_ALIGN * BLOCK_ALIGN
    if capacity > end:
        gaps.append((end, capacity - end))
    return gaps


class AllocatorMachine(RuleBasedStateMachine):
    """Allocates, frees, grows and merges at random; `live` is the model, the size of each object by its index."""

    @initialize(capacity=st.sampled_from([0, 15, 16, 48, 1000, 4096, 20_000, 65_536]))
    def start(self, capacity: int) -> None:
        self.rig = Rig(capacity)
        self.live: dict[int, int] = {}

    @rule(size=sizes)
    def allocate(self, size: int) -> None:
        control = self.rig.control
        length = block_length(size)
        freed = control.bytes_freed - control.bytes_freed_at_last_coalescing
        free_before = [block.length for block in self.rig.blocks() if block.is_free]
        pays = min(freed, sum(free_before)) >= max(1, control.capacity // 16)
        room_before = control.bump_end - control.bump
        coalescings = control.coalescings
        index = self.rig.allocate(size)
        fits_as_it_is = max([room_before, *free_before]) >= length
        fits_merged = max((gap for _, gap in runs(self.rig, self.live)), default=0) >= length
        event(f"found: {index is not None}, as it is: {fits_as_it_is}, merged: {fits_merged}, pays: {pays}")
        assert (index is not None) == (fits_as_it_is or (fits_merged and pays))
        may_merge = not fits_as_it_is and pays and FIRST_INDEX + length <= control.bump_end
        assert control.coalescings - coalescings == may_merge, "merging is the last resort"
        if index is None:
            return
        assert index % BLOCK_ALIGN == 0
        assert index >= FIRST_INDEX
        assert index + length <= control.capacity
        for other, other_size in self.live.items():
            assert index + length <= other or other + block_length(other_size) <= index, "objects overlap"
        self.live[index] = size

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
            order = sorted(self.live)
            first = data.draw(st.integers(0, len(order) - 1))
            for index in data.draw(st.permutations(order[first : first + count])):
                self.free_one(index)

    def free_one(self, index: int) -> None:
        self.rig.free(index)
        del self.live[index]

    @precondition(lambda self: self.rig.control.capacity < MAPPED // 4)
    @rule(delta=st.sampled_from([0, 1, 15, 16, 17, 4096, 10_000]))
    def grow(self, delta: int) -> None:
        self.rig.grow(delta)
        assert self.rig.control.bump_end == max(FIRST_INDEX, self.rig.control.capacity // 16 * 16)

    @rule()
    def coalesce(self) -> None:
        before = self.rig.control.coalescings
        self.rig.allocator.coalesce()
        control = self.rig.control
        assert control.coalescings == before + 1
        ends = [index + block_length(size) for index, size in self.live.items()]
        assert control.bump == max(ends, default=FIRST_INDEX), "the last free block goes back to the bump region"
        free = [(block.index, block.length) for block in self.rig.blocks() if block.is_free]
        assert free == [gap for gap in runs(self.rig, self.live) if gap[0] < control.bump]
        assert all(self.rig.is_coalesced(index) for index, _ in free)
        assert all(indices == sorted(indices) for indices in self.rig.free_lists().values()), "in address order"

    @invariant()
    def blocks_tile_the_heap(self) -> None:
        end = FIRST_INDEX
        for block in self.rig.blocks():
            assert block.index == end
            assert block.length % BLOCK_ALIGN == 0
            end += block.length
        assert end == self.rig.control.bump <= self.rig.control.bump_end

    @invariant()
    def objects_are_the_models(self) -> None:
        found = {block.index: block.length for block in self.rig.blocks() if not block.is_free}
        assert found == {index: block_length(size) for index, size in self.live.items()}

    @invariant()
    def lists_are_the_free_blocks(self) -> None:
        lengths = {block.index: block.length for block in self.rig.blocks() if block.is_free}
        lists = self.rig.free_lists()
        listed = [index for indices in lists.values() for index in indices]
        assert sorted(listed) == sorted(lengths)
        assert all(size_class(lengths[index]) == number for number, indices in lists.items() for index in indices)

    @invariant()
    def verify_agrees(self) -> None:
        assert problems(self.rig) == []


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=examples(60, 150), stateful_step_count=40, deadline=None)


def problems(rig: Rig) -> list[str]:
    """What is wrong with the lists, and which free blocks are on none; or why a walk cannot go on."""
    found = rig.allocator.check_integrity()
    try:
        blocks = rig.blocks()
    except HeapCorruptionError as error:
        return found + error.problems
    listed = set() if found else {index for indices in rig.free_lists().values() for index in indices}
    free = [block.index for block in blocks if block.is_free]
    return found + [f"free block at {index:#x} is on no free list" for index in free if index not in listed]


# ----------------------------------------------------------------------------------------------------------------------
# Single moves


def test_fresh_memory_comes_in_order() -> None:
    rig = Rig(4096)
    """Small blocks are carved in runs, here of 64 bytes; the second of a run is on its list until it is asked for."""
    assert [rig.allocate(24), rig.allocate(33), rig.allocate(16 * 7), rig.allocate(32)] == [16, 80, 128, 48]


def test_small_blocks_come_back_last_in_first_out() -> None:
    rig = Rig(4096)
    first, other, second = rig.allocate(40), rig.allocate(64), rig.allocate(48)
    assert None not in (first, other, second)
    for index in (first, second, other):
        rig.free(index or 0)
    assert rig.allocate(41) == second
    assert rig.allocate(47) == first
    assert rig.allocate(50) == other
    assert rig.control.coalescings == 0


def test_a_larger_block_is_split_and_its_tail_stays_free() -> None:
    rig = Rig(16 + 320)
    (whole,) = rig.fill(320)
    rig.free(whole)
    assert rig.allocate(100) == whole
    assert [(block.index, block.length, block.is_free) for block in rig.blocks()] == [
        (16, 112, False),
        (128, 208, True),
    ]


def test_a_tail_keeps_what_a_coalescing_pass_knows() -> None:
    rig = Rig(4096)
    indices = [rig.allocate(160) or 0, *rig.fill(1000), *rig.fill(32)]
    rig.free(indices[0])
    rig.allocator.coalesce()
    assert rig.allocate(64) == indices[0]
    assert rig.free_lists() == {6: [indices[0] + 64]}
    assert rig.is_coalesced(indices[0] + 64)


def test_a_tail_of_one_block_stays_usable() -> None:
    """The smallest free block is 16 bytes: too small for any object, but it joins its neighbour."""
    rig = Rig(16 + 48 + 32)
    first, second = rig.allocate(48), rig.allocate(32)
    assert (first, second) == (16, 64)
    rig.free(16)
    assert rig.allocate(32) == 16
    assert rig.free_lists() == {1: [48]}
    rig.free(64)
    assert rig.allocate(48) == 48, "the tail and its neighbour were merged"


def test_freed_neighbours_merge_on_either_side_and_leave_others_alone() -> None:
    rig = Rig(16 + 6 * 64)
    indices = rig.fill(64)
    assert len(indices) == 6
    for position in (1, 3, 2):
        rig.free(indices[position])
    assert rig.allocate(192) == indices[1]
    assert rig.control.coalescings == 1
    assert [block.index for block in rig.blocks()] == [indices[0], indices[1], indices[4], indices[5]]


def test_free_lists_in_disorder_are_sorted() -> None:
    """If they lead all over the heap, and a quarter of it was freed since the last pass; else they stay as they are."""
    rig = Rig(FIRST_INDEX + 256 * 64)
    indices = rig.fill(64)
    scattered = [indices[7 * number % 72] for number in range(72)]
    for index in scattered[:60]:
        rig.free(index)
    free_lists.put_in_order(rig.allocator.heap)
    assert rig.control.coalescings == 0, "a pass reads the whole heap, for less than a quarter of it"
    for index in scattered[60:]:
        rig.free(index)
    assert rig.free_lists()[4] == scattered[::-1]
    free_lists.put_in_order(rig.allocator.heap)
    assert rig.control.coalescings == 1
    assert [rig.allocate(64) for _ in range(72)] == indices[:72]
    for index in indices[:72]:
        rig.free(index)
    free_lists.put_in_order(rig.allocator.heap)
    assert rig.control.coalescings == 1, "from one block to the next it is 64 bytes"
    assert [rig.allocate(64) for _ in range(72)] == indices[71::-1]


def test_coalescing_lowers_the_bump_pointer() -> None:
    rig = Rig(4096)
    indices = [rig.allocate(64) or 0 for _ in range(4)]
    for index in indices[1:]:
        rig.free(index)
    rig.allocator.coalesce()
    assert (rig.control.bump, rig.free_lists()) == (indices[1], {})
    rig.free(indices[0])
    rig.allocator.coalesce()
    assert (rig.control.bump, rig.blocks()) == (FIRST_INDEX, [])


def test_a_coalescing_pass_waits_until_it_pays() -> None:
    rig = Rig(1 << 16)
    indices = rig.fill(64)
    for index in indices[10:12]:
        rig.free(index)
    assert rig.allocate(128) is None, "two blocks of 64 do not pay for reading 64 KiB"
    assert rig.control.coalescings == 0
    rig.allocator.coalesce()
    assert rig.allocate(128) == indices[10]


def test_large_blocks_are_used_again_before_fresh_memory() -> None:
    rig = Rig(1 << 18)
    large = rig.allocate(40_000)
    assert large is not None
    assert rig.allocate(24) is not None
    rig.free(large)
    bump = rig.control.bump
    assert rig.allocate(30_000) == large
    assert rig.control.bump == bump


def test_a_large_list_is_searched_for_one_that_fits() -> None:
    rig = Rig(1 << 18)
    longer, between, shorter = rig.allocate(2000), rig.allocate(32), rig.allocate(1100)
    assert longer is not None
    assert between is not None
    assert shorter is not None
    rig.fill(32)
    rig.free(longer)
    rig.free(shorter)
    assert rig.free_lists() == {size_class(2000): [shorter, longer]}, "both are of one class, the shorter first"
    assert rig.allocate(1900) == longer
    assert rig.free_lists()[size_class(2000)] == [shorter], "it was taken from behind another"
    assert problems(rig) == []
    assert rig.allocate(1100) == shorter
    assert problems(rig) == []


@pytest.mark.parametrize("capacity", [0, 15, 16, 17, 31, 47])
def test_capacities_too_small_for_anything(capacity: int) -> None:
    rig = Rig(capacity)
    assert rig.allocate(24) is None
    assert rig.blocks() == []
    assert problems(rig) == []


def test_the_unaligned_end_of_the_capacity_is_not_used() -> None:
    rig = Rig(16 + 32 + 15)
    assert rig.allocate(24) == 16
    assert rig.allocate(24) is None
    rig.grow(17)
    assert rig.allocate(24) == 48


def test_growth_extends_the_last_block() -> None:
    rig = Rig(4096)
    rig.fill(64)
    assert rig.allocate(5000) is None
    rig.grow(8192)
    index = rig.allocate(5000)
    assert index is not None
    assert index > 4000


def test_the_end_of_the_largest_heap() -> None:
    """The last block of a heap of 2^32 - 16 bytes ends where a u32 still says so, and no further."""
    control, memory = VMHeapControl(), Memory()
    control.capacity = memory.maximum
    allocator = SegregatedFit(control, memory)
    allocator.reset()
    assert allocator.allocate((1 << 32) - 1) is None
    assert allocator.allocate((1 << 32) - 31) is None
    index = allocator.allocate((1 << 32) - 32)
    assert index == FIRST_INDEX
    assert control.bump == control.bump_end == (1 << 32) - 16
    assert allocator.allocate(24) is None
    memory.view(VMDrcHeader, 16).kind_and_reserved = VMGcKind.STRUCT_REF
    memory.view(VMDrcHeader, 16).object_size = (1 << 32) - 32
    assert list(walk(control, memory)) == [Block(16, (1 << 32) - 32, False)]
    control.bytes_freed += (1 << 32) - 32
    allocator.free(16, (1 << 32) - 32)
    assert list(walk(control, memory)) == [Block(16, (1 << 32) - 32, True)]
    assert allocator.check_integrity() == []
    assert allocator.allocate(24) == 16
    memory.view(VMDrcHeader, 16).kind_and_reserved = VMGcKind.STRUCT_REF
    memory.view(VMDrcHeader, 16).object_size = 24
    assert allocator.check_integrity() == []


def test_reset_forgets_everything() -> None:
    rig = Rig(4096)
    indices = rig.fill(64)
    rig.free(indices[3])
    rig.allocator.reset()
    assert rig.blocks() == []
    assert rig.free_lists() == {}
    assert rig.allocate(24) == FIRST_INDEX


def test_no_state_is_outside_of_the_bytes() -> None:
    """A second allocator over the same bytes goes on where the first one stopped."""
    rig, twin = Rig(8192), Rig(8192)
    for each in (rig, twin):
        for index in each.fill(48)[::3]:
            each.free(index)
    rig.replace_allocator()
    for size in (40, 48, 24, 100, 96):
        assert rig.allocate(size) == twin.allocate(size)


# ----------------------------------------------------------------------------------------------------------------------
# What verify and walk say about broken bytes


@pytest.fixture
def rig() -> Rig:
    """Four objects and, between them, two free blocks of 64 bytes at 0x50 and 0xd0."""
    made = Rig(4096)
    for _ in range(6):
        made.allocate(64)
    made.free(0x50)
    made.free(0xD0)
    assert problems(made) == []
    return made


@pytest.mark.parametrize("length", [0, 8, 63, 65, 4080, 0xFFFF_FFFF])
def test_a_free_block_with_a_wrong_length_stops_the_walk(rig: Rig, length: int) -> None:
    rig.memory.view(FreeBlock, 0x50).length = length
    with pytest.raises(HeapCorruptionError, match=f"free block at 0x50 claims {length} bytes; .* at 0x190"):
        rig.blocks()
    assert any("0x50" in problem for problem in problems(rig))


@pytest.mark.parametrize("size", [0, 16, 1 << 20, 0xFFFF_FFFF])
def test_an_object_with_a_wrong_size_stops_the_walk(rig: Rig, size: int) -> None:
    rig.memory.view(VMDrcHeader, 0x90).object_size = size
    with pytest.raises(HeapCorruptionError, match=f"object at 0x90 claims {block_length(size)} bytes"):
        rig.blocks()
    assert any("0x90" in problem for problem in problems(rig))


@pytest.mark.parametrize(
    ("offset", "value", "expected"),
    [
        (8, 0x55, "free list 4 holds 0x55, where no free block starts"),
        (8, 0x1000, "free list 4 holds 0x1000, where no free block starts"),
        (8, 0xD0, "free block at 0xd0 is on a free list twice"),
        (8, 0x90, "free list 4 holds 0x90, where no free block starts"),
        (8, 0, "free block at 0x50 is on no free list"),
        (4, 32, "free block at 0xd0 of 32 bytes is on free list 4"),
    ],
)
def test_broken_links_are_found_without_a_walk(rig: Rig, offset: int, value: int, expected: str) -> None:
    """0xd0 was freed last, so it is the head of its list; its link or its length is overwritten."""
    rig.memory.view(ctypes.c_uint32, 0xD0 + offset).value = value
    assert any(expected in problem for problem in problems(rig)), problems(rig)


def test_a_policy_needs_every_method() -> None:
    abstract: Any = Allocator
    with pytest.raises(TypeError, match="abstract"):
        abstract(VMHeapControl(), Mapping(4096))
