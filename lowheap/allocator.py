"""Free-list policies: where in the heap an object goes, and what becomes of its block when it dies.

A policy keeps all of its state in the control block and in the free blocks themselves, so that compiled code can take
its place between any two calls. Whatever the policy, the heap is walkable: from `FIRST_INDEX` up to the bump pointer,
every block, live or free, tells its length (`walk`).

`SegregatedFit` is the default. Small blocks have a LIFO list for each size; larger ones share a list with all of their
power of two; fresh memory comes off the bump region. Freeing never looks at neighbours: a linear pass merges them
(`coalesce`) when an allocation would otherwise fail and enough has been freed since the last pass to pay for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from lowheap.collectors.shared.verify import verify_free_lists_alone
from lowheap.collectors.shared.walking import blocks, is_free, length_of_block
from lowheap.errors import HeapCorruptionError
from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HEADER_SIZE,
    MINIMUM_OBJECT_BLOCK,
    NULL,
    SIZE_CLASS_COUNT,
    SMALL_BLOCK_LIMIT,
    FreeBlock,
    VMHeapControl,
    block_length,
    size_class,
)
from lowheap.memory import Mapping
from lowheap.native import Heap
from lowheap.native.heap import HeapMemory

COALESCING_FRACTION = 16
"""A coalescing pass reads the whole heap, so this part of it must be free, and freed since the last one."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block as a walk finds it: where it starts, its length in bytes, and whether it is free."""

    index: int
    length: int
    is_free: bool


def walk(control: VMHeapControl, memory: HeapMemory) -> Iterator[Block]:
    """Yield every block from the first index to the bump pointer, in address order.

    Raises HeapCorruptionError, naming the block, where one does not tell a length that leads to the next.
    """
    heap = Heap(memory, control)
    for index in blocks(heap):
        yield Block(index, length_of_block(heap, index), is_free(heap, index))
    if heap.problems:
        raise HeapCorruptionError(heap.problems)


class Allocator(ABC):
    """What the heap asks of a policy. Indices and lengths are in bytes; `size` is an object's, unrounded."""

    name: str

    def __init__(self, control: VMHeapControl, memory: Mapping) -> None:
        """Work on this control block and this memory."""
        self.control = control
        self.memory = memory

    @abstractmethod
    def reset(self) -> None:
        """Make all of the capacity free. Called when memory is attached."""

    @abstractmethod
    def allocate(self, size: int) -> int | None:
        """Return the index of a block for `size` bytes, not initialised, or None when there is no room."""

    @abstractmethod
    def free(self, index: int, size: int) -> None:
        """Take back the block of an object of `size` bytes at `index`."""

    @abstractmethod
    def capacity_changed(self) -> None:
        """Put to use what the control block's capacity has gained."""

    def coalesce(self) -> None:
        """Merge free neighbours, whatever it costs: the last resort. Nothing where freeing merges them anyway."""
        return

    @abstractmethod
    def check_integrity(self) -> list[str]:
        """Return what is wrong with the policy's own structures, one sentence each, without a look at any object."""

    def verify(self) -> list[str]:
        """Return what is wrong that is seen by nobody else: structures that are not in the heap."""
        return []


class SegregatedFit(Allocator):
    """Segregated fit over the control block's size-class heads; see the module's docstring."""

    name = "segregated-fit"

    def reset(self) -> None:
        """Make all of the capacity one bump region, and every list empty."""
        control = self.control
        control.bump = FIRST_INDEX
        control.bytes_freed_at_last_coalescing = control.bytes_freed
        self._clear_lists()
        self.capacity_changed()

    def capacity_changed(self) -> None:
        """Extend the bump region to the end of the capacity."""
        self.control.bump_end = max(FIRST_INDEX, self.control.capacity & -BLOCK_ALIGN)

    def allocate(self, size: int) -> int | None:
        """Return a block's index: off its list, off the bump region, off a larger block, or after a coalescing pass."""
        length = block_length(size)
        if FIRST_INDEX + length > self.control.bump_end:
            return None  # longer than all there is, and perhaps than any class
        index = self._pop(length)
        if index is None and length >= SMALL_BLOCK_LIMIT:
            index = self._split_larger(length)  # before fresh memory, or large blocks would never be used again
        if index is None:
            index = self._bump(length) or self._split_larger(length)
        if index is None and self._coalescing_pays():
            self.coalesce()
            index = self._bump(length) or self._split_larger(length)
        return index

    def free(self, index: int, size: int) -> None:
        """Push the block on the list of its size class."""
        self._push(index, block_length(size), flags=0)

    def coalesce(self) -> None:
        """Merge free neighbours and give the last ones back to the bump region, in one pass over the heap.

        Afterwards each list is in address order, so that allocation fills the heap from below.
        """
        control = self.control
        self._clear_lists()
        runs: list[tuple[int, int]] = []
        for block in walk(control, self.memory):
            if not block.is_free:
                continue
            if runs and sum(runs[-1]) == block.index:
                runs[-1] = (runs[-1][0], runs[-1][1] + block.length)
            else:
                runs.append((block.index, block.length))
        if runs and sum(runs[-1]) == control.bump:
            control.bump = runs.pop()[0]
        for index, length in reversed(runs):
            self._push(index, length, FREE_BLOCK_COALESCED)
        control.bytes_freed_at_last_coalescing = control.bytes_freed
        control.coalescings += 1

    def check_integrity(self) -> list[str]:
        """Check that the lists hold nothing but free blocks, each once and in its class."""
        heap = Heap(self.memory, self.control)
        verify_free_lists_alone(heap)
        return heap.problems

    # The four sources of a block, and the way back.

    def _pop(self, length: int) -> int | None:
        """Take the first block of exactly this length's class, if the class is exact."""
        number = size_class(length)
        index = int(self.control.size_class_heads[number])
        if index == NULL:
            return None
        block = self.memory.view(FreeBlock, index)
        if block.length != length:
            return None
        self.control.size_class_heads[number] = block.next
        return index

    def _bump(self, length: int) -> int | None:
        index = self.control.bump
        if index + length > self.control.bump_end:
            return None
        self.control.bump = index + length
        return index

    def _split_larger(self, length: int) -> int | None:
        """Take the first block that is long enough from the smallest class that has one; its tail stays free."""
        for number in range(size_class(length), SIZE_CLASS_COUNT):
            previous = None
            index = int(self.control.size_class_heads[number])
            while index != NULL:
                block = self.memory.view(FreeBlock, index)
                if block.length >= length:
                    if previous is None:
                        self.control.size_class_heads[number] = block.next
                    else:
                        previous.next = block.next
                    if block.length > length:
                        self._push(index + length, block.length - length, block.flags)
                    return index
                previous, index = block, block.next
        return None

    def _push(self, index: int, length: int, flags: int) -> None:
        number = size_class(length)
        block = self.memory.view(FreeBlock, index)
        block.kind_and_reserved = 0
        block.length = length
        block.next = self.control.size_class_heads[number]
        block.flags = flags
        self.control.size_class_heads[number] = index

    def _clear_lists(self) -> None:
        for number in range(SIZE_CLASS_COUNT):
            self.control.size_class_heads[number] = NULL

    def _coalescing_pays(self) -> bool:
        control = self.control
        freed = control.bytes_freed - control.bytes_freed_at_last_coalescing
        free = control.bump - FIRST_INDEX - (control.bytes_allocated - control.bytes_freed)
        return min(freed, free) >= max(1, control.capacity // COALESCING_FRACTION)


assert block_length(HEADER_SIZE) == MINIMUM_OBJECT_BLOCK
