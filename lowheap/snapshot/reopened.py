"""A heap of an image, for native functions to run on.

`reopen` puts all that an image has where a heap's functions look for it: a control mapping of its own. Whatever an
image holds, what is reached lies within that mapping, or within the image's bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
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
    NULL,
    REFERENCE_SIZE,
    ROOT_RANGE_LIMIT,
    ROOT_RANGES_OFFSET,
    ROOT_SLOT_LIMIT,
    ROOT_SLOTS_OFFSET,
    TYPE_DATA_OFFSET,
    TYPE_TABLE_OFFSET,
    VMHeapControl,
    VMPartKind,
    VMTable,
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

    def discard(self, offset: int, length: int) -> None:
        """HeapError: an image's heap is looked at."""
        raise HeapError("an image is no memory of the system's to be given back")


class _ImageHeap(Heap):
    """A heap whose root slots are not there any more: what was in them is known, where it was an object."""

    def __init__(
        self,
        memory: ImageMemory,
        mapping: Mapping,
        slots: Iterable[tuple[int, int]],
        ranges: ctypes.Array[VMTable],
        collector: Collector,
    ) -> None:
        super().__init__(memory, mapping.view(VMHeapControl, CONTROL_BLOCK_OFFSET), collector=collector)
        self._mapping, self._ranges = mapping, ranges
        self._slots = {address: ctypes.c_uint32(reference) for address, reference in slots}

    def outside(self, address: int) -> ctypes.c_uint32:
        """Return what was in a slot; null for what was not an object."""
        return self._slots.get(address) or ctypes.c_uint32(NULL)


_GAP = 1 << 10
"""Two slots with so many others between them, or fewer, go into one range."""


def _ranges_of(addresses: Sequence[int]) -> Iterator[VMTable]:
    """Yield few ranges that have all slots of these addresses, and others between them."""
    start, length = 0, 0
    for address in sorted(addresses):
        offset = address - start
        if length and offset % REFERENCE_SIZE == 0 and offset // REFERENCE_SIZE - length <= _GAP:
            length = offset // REFERENCE_SIZE + 1
        else:
            if length:
                yield VMTable(start, length, length)
            start, length = address, 1
    if length:
        yield VMTable(start, length, length)


def collector_of(image: Contents) -> Collector:
    """Return the collector whose rules an image's heap is verified by, where nobody gives one.

    It is what the image names, if that is one of lowheap's own: a module is never imported because an image names it.
    By others' rules the heap may be anything, so only what holds for every collector is left: that is `Null`'s. Where
    there is no name, as in a dump, one of lowheap's own may be known by what it keeps.
    """
    assert image.control is not None, "wasmtime's heaps are not reopened"
    name = image.collector
    if name is None:
        name = "drc" if image.control.is_counted and not image.control.flags & CONTROL_OTHER_COLLECTOR else "null"
        kept = [bytes(part.described) for part in image.parts]
        for kind in registry.BUILT_IN.values() if kept else ():
            if kept == [bytes(part) for part in kind().parts()]:
                name = kind.name
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
    addresses = [address for address, _ in slots[:ROOT_SLOT_LIMIT]]
    mapping.write(ROOT_SLOTS_OFFSET, bytes((ctypes.c_uint64 * len(addresses))(*addresses)))
    # Which of them were in ranges is not known, nor does it matter; but a table may have had more than are slots.
    made = list(_ranges_of([address for address, _ in slots[ROOT_SLOT_LIMIT:]]))[:ROOT_RANGE_LIMIT]
    ranges = (VMTable * len(made))(*made)
    places = [ctypes.addressof(each) for each in ranges]
    mapping.write(ROOT_RANGES_OFFSET, bytes((ctypes.c_uint64 * len(places))(*places)))
    heap = _ImageHeap(ImageMemory(image.data), mapping, slots, ranges, collector)
    control = heap.control
    for name, value in image.control.integers().items():
        setattr(control, name, value)
    if control.root_slot_count <= ROOT_SLOT_LIMIT:
        control.root_slot_count = len(addresses)
    if control.root_range_count <= ROOT_RANGE_LIMIT:
        control.root_range_count = len(ranges)
    for number, head in enumerate(image.control.size_class_heads):
        control.size_class_heads[number] = head
    control.heap_base = ctypes.addressof(heap.block(0))
    control.type_table = mapping.base + TYPE_TABLE_OFFSET
    control.type_data = mapping.base + TYPE_DATA_OFFSET
    control.handles = mapping.base + HANDLES_OFFSET
    control.root_slots = mapping.base + ROOT_SLOTS_OFFSET
    control.root_ranges = mapping.base + ROOT_RANGES_OFFSET
    control.host_data = mapping.base + HOST_DATA_OFFSET
    return heap
