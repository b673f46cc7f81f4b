"""Free-list policies: where in the heap an object goes, and what becomes of its block when it dies.

A policy keeps all of its state in the control block and in the free blocks themselves, so that compiled code can take
its place between any two calls. Whatever the policy, the heap is walkable: from `FIRST_INDEX` up to the bump pointer,
every block, live or free, tells its length (`walk`).

`SegregatedFit` is the default; `collectors/shared/free_lists.py` is what it does.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from lowheap.collectors.shared import free_lists, setup
from lowheap.errors import HeapCorruptionError
from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HEADER_SIZE,
    MINIMUM_OBJECT_BLOCK,
    NULL,
    SIZE_CLASS_COUNT,
    FreeBlock,
    VMDrcHeader,
    VMHeapControl,
    block_length,
    size_class,
)
from lowheap.memory import Mapping
from lowheap.native import Heap


@dataclass(frozen=True, slots=True)
class Block:
    """A block as a walk finds it: where it starts, its length in bytes, and whether it is free."""

    index: int
    length: int
    is_free: bool


def walk(control: VMHeapControl, memory: Mapping) -> Iterator[Block]:
    """Yield every block from the first index to the bump pointer, in address order.

    Raises HeapCorruptionError, naming the block, where one does not tell a length that leads to the next.
    """
    index = FIRST_INDEX
    while index < control.bump:
        free = memory.view(FreeBlock, index)
        is_free = free.kind_and_reserved == 0
        if is_free:
            length, least = free.length, BLOCK_ALIGN
        else:
            length, least = block_length(memory.view(VMDrcHeader, index).object_size), MINIMUM_OBJECT_BLOCK
        if length < least or length % BLOCK_ALIGN or index + length > control.bump:
            what = "free block" if is_free else "object"
            raise HeapCorruptionError(
                [f"{what} at {index:#x} claims {length} bytes; the bump pointer is at {control.bump:#x}"]
            )
        yield Block(index, length, is_free)
        index += length


class Allocator(ABC):
    """What the heap asks of a policy. Indices and lengths are in bytes; `size` is an object's, unrounded."""

    name: str

    def __init__(self, control: VMHeapControl, memory: Mapping, heap: Heap | None = None) -> None:
        """Work on this control block and this memory; `heap` is how functions written once know both."""
        self.control = control
        self.memory = memory
        self.heap = Heap(memory, control) if heap is None else heap

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

    @abstractmethod
    def verify(self) -> list[str]:
        """Return what `check_integrity` does, and what does not agree with a walk of the heap."""


class SegregatedFit(Allocator):
    """Segregated fit over the control block's size-class heads; see the module's docstring."""

    name = "segregated-fit"

    def reset(self) -> None:
        """Make all of the capacity one bump region, and every list empty."""
        control = self.control
        setup.set_up_bump(ctypes.addressof(control))
        control.bytes_freed_at_last_coalescing = control.bytes_freed
        free_lists.clear_lists(self.heap)

    def capacity_changed(self) -> None:
        """Extend the bump region to the end of the capacity."""
        setup.extend_bump(ctypes.addressof(self.control))

    def allocate(self, size: int) -> int | None:
        """Return a block's index: off its list, off the bump region, off a larger block, or after a coalescing pass."""
        length = block_length(size)
        if FIRST_INDEX + length > self.control.bump_end:
            return None  # longer than all there is, and perhaps than any class
        index: int = free_lists.find_block(self.heap, length)
        return None if index == NULL else index

    def free(self, index: int, size: int) -> None:
        """Push the block on the list of its size class."""
        free_lists.give_back(self.heap, index, block_length(size))

    def coalesce(self) -> None:
        """Merge free neighbours and give the last ones back to the bump region, in one pass over the heap."""
        free_lists.coalesce(self.heap)

    def check_integrity(self) -> list[str]:
        """Check that the lists hold nothing but free blocks, each once and in its class."""
        return self._follow_lists({})

    def verify(self) -> list[str]:
        """Check that the lists hold exactly the free blocks, each in its class, and that no merge was missed."""
        listed: dict[int, int] = {}
        problems = self._follow_lists(listed)
        previous_coalesced_end = None
        for found in walk(self.control, self.memory):
            if not found.is_free:
                continue
            if listed.pop(found.index, None) is None:
                problems.append(f"free block at {found.index:#x} is on no free list")
            coalesced = bool(self.memory.view(FreeBlock, found.index).flags & FREE_BLOCK_COALESCED)
            if coalesced and previous_coalesced_end == found.index:
                problems.append(f"free block at {found.index:#x} was not merged with the one before it")
            previous_coalesced_end = found.index + found.length if coalesced else None
        problems += [f"free list {number} holds {index:#x}, which no walk reaches" for index, number in listed.items()]
        return problems

    def _follow_lists(self, listed: dict[int, int]) -> list[str]:
        """Put each block on a list into `listed`, with its list's number, and return what is wrong on the way."""
        problems = []
        for number in range(SIZE_CLASS_COUNT):
            index = self.control.size_class_heads[number]
            while index != NULL:
                if index % BLOCK_ALIGN or not FIRST_INDEX <= index < self.control.bump:
                    problems.append(f"free list {number} leads to {index:#x}, which cannot be a block")
                    break
                if index in listed:
                    problems.append(f"free block at {index:#x} is on a free list twice")
                    break
                block = self.memory.view(FreeBlock, index)
                if block.kind_and_reserved != 0:
                    problems.append(f"free list {number} holds {index:#x}, which is not free")
                    break
                if size_class(block.length) != number:
                    problems.append(f"free block at {index:#x} of {block.length} bytes is on free list {number}")
                listed[index] = number
                index = block.next
        return problems


assert block_length(HEADER_SIZE) == MINIMUM_OBJECT_BLOCK
