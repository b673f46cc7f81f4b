"""What a collector keeps besides structures: bits in headers, buffers that grow, side tables.

Each is declared by a class of the collector's, and used by its functions, through the heap:

    LOGGED = HeaderBit("logged")                heap.header_bit(LOGGED)        the bit, in a header's first word
    LOG = Buffer("log")                         heap.length(LOG)               how many entries there are: a place, u64
                                                heap.entry(LOG, number)        one of them: a slot
    MARKS = SideTable("marks", u8, granule=256) heap.side(MARKS, index)        what belongs to the byte at an index

They are behind the heap's other tables, at places that follow from the class alone: so compiled code has no address.
A buffer, and a side table, take as much address space as they can come to need, and memory as far as they are used.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lowheap.layout import (
    BLOCK_ALIGN,
    COLLECTOR_AREA_OFFSET,
    CONTROL_BLOCK_OFFSET,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEAP_RESERVATION,
    PART_NAME_SIZE,
    REFERENCE_SIZE,
    RESERVED_MASK,
    VMCollectorPart,
    VMPartKind,
)
from lowheap.native.words import C_TYPES, Word

AREA_PAGE = 1 << 16
"""Buffers and side tables begin at multiples of this, in bytes: pages of the system's, the largest there are."""

ENTRIES_OFFSET = AREA_PAGE
"""Where a buffer's entries begin; its length is in front of them, in a page of its own."""

MOST_ENTRIES = HEAP_RESERVATION // BLOCK_ALIGN
"""As many objects as there can be."""


LARGEST_LIMIT = 1 << 32
"""As many entries as a buffer can be made for: 16 GiB of address space."""


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a part of a collector's storage is called {name!r}; a name is a string")
    return name


class _Named:
    """Something that goes by a name, and is itself and no other."""

    is_native_static: ClassVar[bool] = True
    name: str

    @property
    def key(self) -> str:
        """What tells code for this from that for others."""
        return f"{type(self).__name__}-{self.name}"

    def __repr__(self) -> str:
        """Return how messages call it."""
        return f"{type(self).__name__}({self.name!r})"


def described(kind: VMPartKind, name: str, offset: int, limit: int, entry_size: int, shift: int = 0) -> VMCollectorPart:
    """Return what stands for a part of a collector's storage wherever bytes are copied. `offset` as `Area` has it."""
    text = name.encode(errors="replace")[:PART_NAME_SIZE].decode(errors="ignore").encode()
    room = (ctypes.c_uint8 * PART_NAME_SIZE)(*text)
    return VMCollectorPart(offset - CONTROL_BLOCK_OFFSET, limit, kind, entry_size, shift, 0, room)


class HeaderBit(_Named):
    """A bit of an object's header that is the collector's own. It is 0 in a new object."""

    def __init__(self, name: str) -> None:
        """Declare one. TypeError for a name that is no string."""
        self.name = _checked_name(name)


class Buffer(_Named):
    """A list of numbers, u32, in the order they were put there; a new heap's is empty.

    `limit`: at most so many entries, a power of two up to 2^32; by default as many as there can be objects.
    """

    def __init__(self, name: str, *, limit: int = MOST_ENTRIES) -> None:
        """Declare one. ValueError for a limit that is no power of two, less than 1, or more than 2^32."""
        if not isinstance(limit, int) or not 1 <= limit <= LARGEST_LIMIT or limit & (limit - 1):
            raise ValueError(f"the limit of the buffer {name} is {limit!r}; it must be a power of two up to 2^32")
        self.name, self.limit = _checked_name(name), limit

    @property
    def size(self) -> int:
        """How many bytes of address space it takes."""
        return ENTRIES_OFFSET + self.limit * REFERENCE_SIZE

    def described(self, offset: int) -> VMCollectorPart:
        """Return what stands for it, at an offset."""
        return described(VMPartKind.BUFFER, self.name, offset, self.limit * REFERENCE_SIZE, REFERENCE_SIZE)


class SideTable(_Named):
    """A number for every so many bytes of the heap, 0 in a new one.

    `word` is its type, u8 to u64; `granule` how many bytes, a power of two from 16 up to what a heap reserves.
    """

    def __init__(self, name: str, word: Any, *, granule: int) -> None:
        """Declare one. TypeError for what is no word, ValueError for another granule."""
        if not isinstance(word, Word):
            raise TypeError(f"the side table {name} is of {word!r}; it must be of a word, as u8")
        is_right = isinstance(granule, int) and BLOCK_ALIGN <= granule <= HEAP_RESERVATION
        if not is_right or granule & (granule - 1):
            what = f"the granule of the side table {name} is {granule!r}"
            raise ValueError(f"{what}; it must be a power of two from {BLOCK_ALIGN} to {HEAP_RESERVATION:#x}")
        self.name, self.word, self.granule = _checked_name(name), word, granule

    @property
    def shift(self) -> int:
        """By how many bits an index is to be shifted."""
        return self.granule.bit_length() - 1

    @property
    def entry_size(self) -> int:
        """How many bytes an entry has."""
        return ctypes.sizeof(C_TYPES[self.word])

    @property
    def size(self) -> int:
        """How many bytes of address space it takes."""
        return (HEAP_RESERVATION >> self.shift) * self.entry_size

    def described(self, offset: int) -> VMCollectorPart:
        """Return what stands for it, at an offset."""
        return described(VMPartKind.SIDE_TABLE, self.name, offset, self.size, self.entry_size, self.shift)


_FIRST_OWN_BIT = HEADER_MARK_BIT | HEADER_IN_OVER_APPROX_LIST_BIT


@dataclass(frozen=True)
class Area:
    """Where all of that is: bits by header bit; offsets, in bytes from the control mapping's beginning, of the rest."""

    bits: dict[HeaderBit, int]
    offsets: dict[Buffer | SideTable, int]
    size: int
    """How many bytes there are of it behind the control mapping's own tables."""

    @functools.cached_property
    def known_bits(self) -> int:
        """The reserved bits of headers that mean something."""
        return sum(self.bits.values()) | _FIRST_OWN_BIT

    @staticmethod
    def of(bits: Sequence[Any], parts: Sequence[Any]) -> Area:
        """Lay them out. TypeError for what is neither, ValueError when a name is used twice, or bits are used up."""
        masks: dict[HeaderBit, int] = {}
        mask = _FIRST_OWN_BIT + 1
        names: set[str] = set()
        for each in (*bits, *parts):
            if not isinstance(each, HeaderBit if each in bits else Buffer | SideTable):
                raise TypeError(f"{each!r} is no {'header bit' if each in bits else 'buffer or side table'}")
            if each.name in names:
                raise ValueError(f"{each.name} is used twice")
            names.add(each.name)
        for bit in bits:
            if not mask & RESERVED_MASK:
                raise ValueError(f"no bit is left for {bit.name}")
            masks[bit] = mask
            mask <<= 1
        offsets: dict[Buffer | SideTable, int] = {}
        end = 0
        for part in parts:
            offsets[part] = COLLECTOR_AREA_OFFSET + end
            end += (part.size + AREA_PAGE - 1) & -AREA_PAGE
        return Area(masks, offsets, end)
