"""A heap of an image, for native functions to run on.

`reopen` puts all that an image has where a heap's functions look for it: a control mapping of its own. Whatever an
image holds, what is reached lies within that mapping, or within the image's bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, TypeVar

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.errors import HeapError, UnsupportedError
from lowheap.layout import (
    BLOCK_ALIGN,
    COLLECTOR_AREA_OFFSET,
    CONTROL_BLOCK_OFFSET,
    CONTROL_OTHER_COLLECTOR,
    HANDLES_OFFSET,
    HEADER_SIZE,
    HOST_DATA_OFFSET,
    ROOT_SLOT_LIMIT,
    ROOT_SLOTS_OFFSET,
    TYPE_DATA_OFFSET,
    TYPE_TABLE_OFFSET,
    VMHeapControl,
    VMPartKind,
)
from lowheap.memory import Mapping
from lowheap.native import Heap
from lowheap.native.storage import ENTRIES_OFFSET
from lowheap.snapshot.contents import Contents
from lowheap.snapshot.parts import ImagePart
from lowheap.snapshot.tables import TABLES

_Data = TypeVar("_Data", bound="ctypes._CData")


class ImageMemory:
    """An image's bytes, to be looked at; and some zeros behind them, so that there can be a view of the last ones."""

    def __init__(self, data: bytes) -> None:
        """Copy the bytes."""
        self._data = bytearray(data) + bytes(HEADER_SIZE + BLOCK_ALIGN)

    def view(self, data: type[_Data], offset: int) -> _Data:
        """Return a ctypes type laid over the bytes at an offset. HeapError when it would not lie within."""
        laid: Any = data
        try:
            view: _Data = laid.from_buffer(self._data, offset)
        except ValueError:
            raise HeapError(f"{data.__name__} at {offset:#x} is not within the image") from None
        return view


class _ImageHeap(Heap):
    """A heap whose root slots are not there any more: what was in them is known."""

    def __init__(
        self, memory: ImageMemory, mapping: Mapping, slots: Iterable[tuple[int, int]], collector: Collector
    ) -> None:
        super().__init__(memory, mapping.view(VMHeapControl, CONTROL_BLOCK_OFFSET), collector=collector)
        self._mapping = mapping
        self._slots = {address: ctypes.c_uint32(reference) for address, reference in slots}

    def outside(self, address: int) -> ctypes.c_uint32:
        """Return what was in a slot."""
        return self._slots[address]


def collector_of(image: Contents) -> Collector:
    """Return the collector whose rules an image's heap is verified by, where nobody gives one.

    It is what the image names, if that is one of lowheap's own: a module is never imported because an image names it.
    By others' rules the heap may be anything, so only what holds for every collector is left: that is `Null`'s.
    """
    assert image.control is not None, "wasmtime's heaps are not reopened"
    name = image.collector
    if name is None:
        name = "drc" if image.control.is_counted and not image.control.flags & CONTROL_OTHER_COLLECTOR else "null"
    return registry.find(registry.BUILT_IN.get(name, registry.BUILT_IN["null"]))


def reopen(image: Contents, collector: Collector) -> Heap:
    """Return the heap that an image with tables was taken of, as it was, for a collector's functions.

    What is done to it, the image does not see. UnsupportedError when the image has not what the collector keeps.
    """
    assert image.control is not None, "it has tables"
    assert image.tables is not None, "it has tables"
    mapping = Mapping(COLLECTOR_AREA_OFFSET + collector.area().size)
    kept = {bytes(part.described): part for part in image.parts}
    for described in collector.parts():
        part = kept.get(bytes(described))
        if part is None:
            wanted = ImagePart.of(described, 0, b"")
            raise UnsupportedError(
                f"the image has no {wanted.label} as the collector {collector.name} keeps one: it is of another's heap"
            )
        start = CONTROL_BLOCK_OFFSET + part.offset
        if part.kind is VMPartKind.BUFFER:
            mapping.write(start, part.length.to_bytes(ctypes.sizeof(ctypes.c_uint64), "little"))
            start += ENTRIES_OFFSET
        mapping.write(start, part.data)
    for name, offset, size in TABLES:
        mapping.write(offset, getattr(image.tables, name)[:size])
    slots = [(root.place, root.reference) for root in image.roots if root.kind == "slot" and root.place]
    del slots[ROOT_SLOT_LIMIT:]
    addresses = (ctypes.c_uint64 * len(slots))(*(address for address, _ in slots))
    mapping.write(ROOT_SLOTS_OFFSET, bytes(addresses))
    heap = _ImageHeap(ImageMemory(image.data), mapping, slots, collector)
    control = heap.control
    for name, value in image.control.integers().items():
        setattr(control, name, value)
    for number, head in enumerate(image.control.size_class_heads):
        control.size_class_heads[number] = head
    control.heap_base = ctypes.addressof(heap.block(0))
    control.type_table = mapping.base + TYPE_TABLE_OFFSET
    control.type_data = mapping.base + TYPE_DATA_OFFSET
    control.handles = mapping.base + HANDLES_OFFSET
    control.root_slots = mapping.base + ROOT_SLOTS_OFFSET
    control.host_data = mapping.base + HOST_DATA_OFFSET
    return heap
