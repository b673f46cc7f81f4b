"""The tables behind a heap's control block in an image: the bytes as they were, whatever is wrong with them.

So whoever verifies an image sees what was wrong with the heap. `reopened.py` makes them a heap's tables again.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from lowheap.layout import (
    CONTROL_BLOCK_OFFSET,
    HANDLE_LIMIT,
    HANDLES_OFFSET,
    HOST_DATA_LIMIT,
    HOST_DATA_OFFSET,
    TYPE_DATA_LIMIT,
    TYPE_DATA_OFFSET,
    TYPE_LIMIT,
    TYPE_TABLE_OFFSET,
    VMHeapControl,
    VMHostData,
    VMTypeInfo,
)
from lowheap.representation import short_repr

_WORD = ctypes.sizeof(ctypes.c_uint32)
TABLES = (
    ("types", TYPE_TABLE_OFFSET, TYPE_LIMIT * ctypes.sizeof(VMTypeInfo)),
    ("type_data", TYPE_DATA_OFFSET, TYPE_DATA_LIMIT * _WORD),
    ("handles", HANDLES_OFFSET, HANDLE_LIMIT * _WORD),
    ("host_data", HOST_DATA_OFFSET, HOST_DATA_LIMIT * ctypes.sizeof(VMHostData)),
)
"""Each table's name, where it is in the control mapping, and how many bytes there are for it."""

TABLE_SIZES = {name: size for name, _, size in TABLES}
"""At most how many bytes each table has."""


@short_repr
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
                for name, offset, size in TABLES
            }
        )
