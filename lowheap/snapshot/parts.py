"""What a collector keeps of its own, in an image: states, buffers and side tables, the bytes as they were.

How much of each there is, `collectors/shared/parts.py` says, for dumps and for images alike.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from lowheap.collectors.shared.parts import content_at, length_of_part, size_in_use, size_of_content
from lowheap.layout import COLLECTOR_STATE_SIZE, CONTROL_BLOCK_OFFSET, HEAP_RESERVATION, VMCollectorPart, VMPartKind
from lowheap.native import Heap, storage
from lowheap.representation import short_repr

_ENTRY_SIZES = (1, 2, 4, 8)
_MOST_SHIFT = HEAP_RESERVATION.bit_length() - 1
_CHUNK = 1 << 20


@short_repr
@dataclass(frozen=True, slots=True)
class ImagePart:
    """A part of a collector's own storage: what `layout.VMCollectorPart` says of it, and what is in it.

    `length` is how many entries a buffer says that it has, 0 of what is none. `data` are the bytes in use, of a buffer
    its entries, without the zeros at their end.
    """

    kind: VMPartKind
    name: str
    offset: int
    limit: int
    entry_size: int
    shift: int
    length: int
    data: bytes

    @classmethod
    def of(cls, part: VMCollectorPart, length: int, data: bytes) -> ImagePart:
        """Make one of what stands in a heap or a dump. ValueError for a kind that there is not."""
        name = bytes(part.name).rstrip(b"\0").decode(errors="ignore")
        kind, places = VMPartKind(part.kind), (part.offset, part.limit, part.entry_size, part.shift)
        return cls(kind, name, *places, length, data.rstrip(b"\0"))

    @classmethod
    def take(cls, heap: Heap) -> tuple[ImagePart, ...]:
        """Copy all that a heap's collector keeps."""
        parts = [heap.part(number) for number in range(heap.part_count())]
        return tuple(
            cls.of(part, length_of_part(heap, part), _copied(content_at(heap, part), size_of_content(heap, part)))
            for part in parts
        )

    @property
    def described(self) -> VMCollectorPart:
        """What the heap's code knew of it."""
        offset = self.offset + CONTROL_BLOCK_OFFSET
        return storage.described(self.kind, self.name, offset, self.limit, self.entry_size, self.shift)

    @property
    def kind_label(self) -> str:
        """What to call its kind: `side table`."""
        return self.kind.name.lower().replace("_", " ")

    @property
    def label(self) -> str:
        """What to call it: `buffer log`."""
        return f"{self.kind_label} {self.name}"

    def fault(self) -> str | None:
        """Return what no part can be like, whatever is in it; None when there is nothing."""
        if self.entry_size not in _ENTRY_SIZES or self.limit % self.entry_size:
            return f"has room for {self.limit} bytes, in entries of {self.entry_size}"
        if self.shift > _MOST_SHIFT:
            return f"has an entry for each 2^{self.shift} bytes"
        if self.kind is VMPartKind.STATE and self.limit > COLLECTOR_STATE_SIZE:
            return f"is a state of {self.limit} bytes; there is room for {COLLECTOR_STATE_SIZE}"
        return None

    def size(self, end: int) -> int:
        """Return how many bytes are in use of it, the zeros at their end with the rest, where a heap's blocks end."""
        return size_in_use(self.described, self.length, end)

    def entry_count(self, end: int) -> int:
        """Return the same in entries."""
        return self.size(end) // self.entry_size

    def entries(self) -> list[int]:
        """Return what is in it as the numbers that they are, without the zeros at their end."""
        data, size = self.data, self.entry_size
        return [int.from_bytes(data[start : start + size], "little") for start in range(0, len(data), size)]


def _copied(address: int, size: int) -> bytes:
    """The bytes at an address without the zeros at their end, of which there may be gigabytes that nobody touched."""
    end = size
    while end:
        start = (end - 1) // _CHUNK * _CHUNK
        found = len(_read(address + start, end - start).rstrip(b"\0"))
        if found:
            return _read(address, start + found)
        end = start
    return b""


def _read(address: int, size: int) -> bytes:
    return bytes((ctypes.c_uint8 * size).from_address(address))
