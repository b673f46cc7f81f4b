"""First fit in address order: places every object where the free list of wasmtime 37 to 43 places it.

It exists so that a heap can be compared with wasmtime's index by index; it is slow, because an allocation looks at the
free blocks from below until one is long enough. The rules, which are those of `vm/gc/enabled/free_list.rs`:

- the first block starts at `FIRST_INDEX`, and every block is a multiple of `BLOCK_ALIGN`;
- an allocation takes the lowest free block that is long enough, and what is left of it stays free, down to one unit;
- a freed block merges with the free blocks on both sides;
- capacity is kept to the byte and rounded down for use, and no block ends beyond 2^32 - 16;
- growth is a freed block at the end, which merges with the last one where that is free.

In wasmtime a map outside of the heap, from index to length, says what is free. Here the heap says it: a free block has
a `FreeBlock` header, and the one that reaches to the end of the capacity is the bump region, from the bump pointer on.
The map is a cache of that. It is made by a walk when it is first needed, and lasts as long as nobody else allocates or
frees on the same bytes; the heap makes a new policy whenever its memory was taken and replaced.
"""

from __future__ import annotations

from sortedcontainers import SortedDict

from lowheap.collectors.shared.allocator import Allocator, walk
from lowheap.collectors.shared.references import end_of_blocks
from lowheap.errors import AllocationTooLargeError, HeapCorruptionError
from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    NULL,
    U32_MAX,
    FreeBlock,
    VMHeapControl,
    block_length,
)
from lowheap.memory import Mapping
from lowheap.native import Heap


class FirstFit(Allocator):
    """Address-ordered first fit, as wasmtime 37 to 43 has it; see the module's docstring."""

    name = "first-fit"

    def __init__(self, control: VMHeapControl, memory: Mapping, heap: Heap | None = None) -> None:
        """Work on this control block and this memory, whatever is in it, in the place of the free lists."""
        super().__init__(control, memory, heap)
        self._cached_lengths: SortedDict[int, int] | None = None

    def reset(self) -> None:
        """Make all of the capacity one free block."""
        self.control.bump = FIRST_INDEX
        self._cached_lengths = None
        self.capacity_changed()

    def capacity_changed(self) -> None:
        """Extend the last free block to the end of the capacity, or begin one there."""
        self.control.bump_end = end_of_blocks(min(self.control.capacity, U32_MAX))

    def allocate(self, size: int) -> int | None:
        """Return the lowest index at which a block for `size` bytes fits, or None.

        AllocationTooLargeError when the rounded size is no u32, whatever the capacity.
        """
        length = block_length(size)
        if length > U32_MAX:
            raise AllocationTooLargeError(
                f"an object of {size} bytes takes a block of {length}; lengths are at most {U32_MAX & -BLOCK_ALIGN}"
            )
        for index, free in self._lengths.items():
            if free >= length:
                del self._lengths[index]
                if free > length:
                    self._add(index + length, free - length)
                return index
        index = self.control.bump
        if index + length > self.control.bump_end:
            return None
        self.control.bump = index + length
        return index

    def free(self, index: int, size: int) -> None:
        """Make the block free, as one with its free neighbours.

        HeapCorruptionError, and nothing happens, when some of it is free already.
        """
        start, end = index, index + block_length(size)
        lengths = self._lengths
        position = lengths.bisect_left(index)
        neighbours = lengths.items()[max(0, position - 1) : position + 1]
        self._check_taken(start, end, neighbours)
        for neighbour, length in neighbours:
            if neighbour + length == start:
                start = neighbour
            elif neighbour == end:
                end += length
                del lengths[neighbour]
        if end == self.control.bump:
            lengths.pop(start, None)
            self.control.bump = start
        else:
            self._add(start, end - start)

    def check_integrity(self) -> list[str]:
        """Check the map: blocks aligned, in bounds, apart from one another, and as the headers in the heap say."""
        problems = []
        previous_end = 0
        for index, length in self._lengths.items():
            what = f"free block at {index:#x} of {length} bytes"
            if index % BLOCK_ALIGN or length % BLOCK_ALIGN or length < BLOCK_ALIGN:
                problems.append(f"{what} is not made of units of {BLOCK_ALIGN} bytes")
            if index < FIRST_INDEX or index + length > self.control.bump:
                problems.append(f"{what} is not between {FIRST_INDEX:#x} and the bump pointer {self.control.bump:#x}")
                continue
            if index + length == self.control.bump:
                problems.append(f"{what} was not merged with the bump region")
            if index < previous_end:
                problems.append(f"{what} overlaps the one before it, which ends at {previous_end:#x}")
            elif index == previous_end:
                problems.append(f"{what} was not merged with the one before it")
            previous_end = index + length
            block = self.memory.view(FreeBlock, index)
            if block.kind_and_reserved != 0:
                problems.append(f"{what} has kind word {block.kind_and_reserved:#x}, so it is not free")
            elif block.length != length:
                problems.append(f"{what} has length {block.length} in the heap")
        return problems

    def verify(self) -> list[str]:
        """Check the map, and that it has exactly the free blocks that a walk of the heap finds."""
        problems = []
        try:
            problems += self.check_integrity()
            expected = dict(self._lengths)
            for block in walk(self.control, self.memory):
                if block.is_free and expected.pop(block.index, None) is None:
                    problems.append(f"free block at {block.index:#x} of {block.length} bytes is not in the map")
            problems += [f"the map has {index:#x}, where a walk finds no free block" for index in expected]
        except HeapCorruptionError as error:  # a walk that cannot go on
            problems += error.problems
        return problems

    @property
    def _lengths(self) -> SortedDict[int, int]:
        """The length of each free block below the bump pointer, by its index, in address order."""
        if self._cached_lengths is None:
            blocks = walk(self.control, self.memory)
            self._cached_lengths = SortedDict({block.index: block.length for block in blocks if block.is_free})
        return self._cached_lengths

    def _add(self, index: int, length: int) -> None:
        block = self.memory.view(FreeBlock, index)
        block.kind_and_reserved = 0
        block.length = length
        block.next = NULL
        block.flags = FREE_BLOCK_COALESCED
        self._lengths[index] = length

    def _check_taken(self, start: int, end: int, neighbours: list[tuple[int, int]]) -> None:
        if start < FIRST_INDEX or end > self.control.bump:
            raise HeapCorruptionError(
                [
                    f"the block from {start:#x} to {end:#x} is freed, but blocks in use are between {FIRST_INDEX:#x} "
                    f"and the bump pointer {self.control.bump:#x}"
                ]
            )
        for index, length in neighbours:
            if index < end and start < index + length:
                raise HeapCorruptionError(
                    [
                        f"the block from {start:#x} to {end:#x} is freed, but {index:#x} to {index + length:#x} "
                        "is free already"
                    ]
                )
