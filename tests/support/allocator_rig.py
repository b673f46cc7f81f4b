"""An allocator without a heap, and what the heap does around its calls."""

from __future__ import annotations

from typing import ClassVar

from lowheap.collectors.shared.allocator import Allocator, Block, walk
from lowheap.layout import VMDrcHeader, VMGcKind, VMHeapControl, block_length
from lowheap.memory import Mapping

MAPPED = 1 << 20


class Rig:
    """A control block, memory and an allocator of the subclass's policy."""

    policy: ClassVar[type[Allocator]]

    def __init__(self, capacity: int, mapped: int = MAPPED) -> None:
        self.control = VMHeapControl()
        self.memory = Mapping(mapped)
        self.control.capacity = capacity
        self.allocator = self.policy(self.control, self.memory)
        self.allocator.reset()

    def allocate(self, size: int) -> int | None:
        """Allocate, and write the header that makes the block an object."""
        index = self.allocator.allocate(size)
        if index is not None:
            header = self.memory.view(VMDrcHeader, index)
            header.kind_and_reserved = VMGcKind.STRUCT_REF
            header.object_size = size
            self.control.bytes_allocated += block_length(size)
        return index

    def free(self, index: int) -> None:
        size = self.memory.view(VMDrcHeader, index).object_size
        self.control.bytes_freed += block_length(size)
        self.allocator.free(index, size)

    def grow(self, delta: int) -> None:
        self.control.capacity += delta
        self.allocator.capacity_changed()

    def replace_allocator(self) -> None:
        """Forget all that is not in the bytes."""
        self.allocator = self.policy(self.control, self.memory)
        self.allocator.capacity_changed()

    def blocks(self) -> list[Block]:
        return list(walk(self.control, self.memory))
