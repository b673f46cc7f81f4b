"""Free-list policies: where in the heap an object goes, and what becomes of its block when it dies.

A policy keeps all of its state in the control block and in the free blocks themselves, so that compiled code can take
its place between any two calls. Whatever the policy, the heap is walkable: from `FIRST_INDEX` up to the bump pointer,
every block, live or free, tells its length (`walk`).

`SegregatedFit` is the default; `free_lists.py` is what it does. `first_fit.py` has wasmtime's. Under a collector that
finds room in a way of its own no policy is asked; its name is then `OF_THE_COLLECTOR` wherever names are told.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from lowheap.collectors.shared import free_lists, setup
from lowheap.collectors.shared.verify import verify_free_lists_alone
from lowheap.collectors.shared.walking import blocks, is_free, length_of_block
from lowheap.copying import NotCopied
from lowheap.errors import HeapCorruptionError
from lowheap.layout import (
    FIRST_INDEX,
    NULL,
    VMHeapControl,
    block_length,
)
from lowheap.memory import Mapping
from lowheap.native import Heap
from lowheap.native.heap import HeapMemory

OF_THE_COLLECTOR = "the collector's own"
"""What is told for the name of a policy where the collector finds room for objects itself."""


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


def walk_as_collected(heap: Heap) -> Iterator[Block]:
    """Yield every block likewise, as the heap's collector finds them; what is between two of them is a free block.

    Raises HeapCorruptionError where it cannot go on.
    """
    end, bump = FIRST_INDEX, heap.control.bump
    for index in heap.collector.blocks(heap):
        if end < index:
            yield Block(end, index - end, True)
        length = length_of_block(heap, index)
        yield Block(index, length, is_free(heap, index))
        end = index + length
    if heap.problems:
        raise HeapCorruptionError(heap.problems)
    if end < bump:
        yield Block(end, bump - end, True)


class Allocator(NotCopied, ABC):
    """What the heap asks of a policy. Indices and lengths are in bytes; `size` is an object's, unrounded."""

    NOT_COPIED_BECAUSE = "it works on one heap"

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

    def verify(self) -> list[str]:
        """Return what is wrong that is seen by nobody else: structures that are not in the heap."""
        return []


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
        heap = Heap(self.memory, self.control)
        verify_free_lists_alone(heap)
        return heap.problems
