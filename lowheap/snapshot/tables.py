"""The tables behind a heap's control block in an image, and a heap of such an image for native functions to run on.

An image's `ImageTables` are the bytes as they were, so that whoever verifies an image sees what was wrong with them.
`reopen` puts all that an image has where a heap's functions look for it: a control mapping of its own. Whatever an
image holds, what is reached lies within that mapping, or within the image's bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.errors import HeapError
from lowheap.layout import (
    BLOCK_ALIGN,
    CONTROL_BLOCK_OFFSET,
    CONTROL_MAPPING_SIZE,
    CONTROL_UNCOUNTED,
    HANDLE_LIMIT,
    HANDLES_OFFSET,
    HEADER_SIZE,
    HOST_DATA_LIMIT,
    HOST_DATA_OFFSET,
    ROOT_SLOT_LIMIT,
    ROOT_SLOTS_OFFSET,
    TYPE_DATA_LIMIT,
    TYPE_DATA_OFFSET,
    TYPE_LIMIT,
    TYPE_TABLE_OFFSET,
    VMHeapControl,
    VMHostData,
    VMTypeInfo,
)
from lowheap.memory import Mapping
from lowheap.native import Heap

if TYPE_CHECKING:
    from lowheap.snapshot.image import Image

_Data = TypeVar("_Data", bound="ctypes._CData")

_WORD = ctypes.sizeof(ctypes.c_uint32)
_PLACES = (
    ("types", TYPE_TABLE_OFFSET, TYPE_LIMIT * ctypes.sizeof(VMTypeInfo)),
    ("type_data", TYPE_DATA_OFFSET, TYPE_DATA_LIMIT * _WORD),
    ("handles", HANDLES_OFFSET, HANDLE_LIMIT * _WORD),
    ("host_data", HOST_DATA_OFFSET, HOST_DATA_LIMIT * ctypes.sizeof(VMHostData)),
)
"""Each table's name, where it is in the control mapping, and how many bytes there are for it."""

TABLE_SIZES = {name: size for name, _, size in _PLACES}
"""At most how many bytes each table has."""


@dataclass(frozen=True, slots=True)
class ImageTables:
    """The type table, the type data, the handles and the side table, each without the zeros at its end.

    Of the side table, only what is the heap's: the host's values, and its finalizers' addresses, are 0.
    """

    types: bytes
    type_data: bytes
    handles: bytes
    host_data: bytes

    @classmethod
    def of(cls, types: bytes, type_data: bytes, handles: bytes, host_data: bytes) -> ImageTables:
        """Take what stands in the tables."""
        entries = bytearray(host_data.rstrip(b"\0"))
        entries += bytes(-len(entries) % ctypes.sizeof(VMHostData))
        for start in range(0, len(entries), ctypes.sizeof(VMHostData)):
            entry = VMHostData.from_buffer(entries, start)
            entry.data = entry.finalizer = 0
            del entry
        return cls(*(bytes(each).rstrip(b"\0") for each in (types, type_data, handles, entries)))

    @classmethod
    def take(cls, control: VMHeapControl) -> ImageTables:
        """Copy the tables behind a control block; of one whose count is beyond it, nothing."""
        start = ctypes.addressof(control) - CONTROL_BLOCK_OFFSET
        counts = {
            "types": control.type_count * ctypes.sizeof(VMTypeInfo),
            "type_data": control.type_data_length * _WORD,
            "handles": control.handle_count * _WORD,
            "host_data": control.host_data_count * ctypes.sizeof(VMHostData),
        }
        return cls.of(
            **{
                name: ctypes.string_at(start + offset, counts[name]) if counts[name] <= size else b""
                for name, offset, size in _PLACES
            }
        )


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
        super().__init__(memory, mapping.view(VMHeapControl, CONTROL_BLOCK_OFFSET))
        self.collector = collector
        self._mapping = mapping
        self._slots = {address: ctypes.c_uint32(reference) for address, reference in slots}

    def outside(self, address: int) -> ctypes.c_uint32:
        """Return what was in a slot."""
        return self._slots[address]


def reopen(image: Image) -> Heap:
    """Return the heap that an image with tables was taken of, as it was. What is done to it, the image does not see."""
    assert image.control is not None, "it has tables"
    assert image.tables is not None, "it has tables"
    mapping = Mapping(CONTROL_MAPPING_SIZE)
    for name, offset, size in _PLACES:
        mapping.write(offset, getattr(image.tables, name)[:size])
    slots = [(root.place, root.reference) for root in image.roots if root.kind == "slot" and root.place]
    del slots[ROOT_SLOT_LIMIT:]
    addresses = (ctypes.c_uint64 * len(slots))(*(address for address, _ in slots))
    mapping.write(ROOT_SLOTS_OFFSET, bytes(addresses))
    collector = registry.find("null" if image.control.flags & CONTROL_UNCOUNTED else "drc")
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
