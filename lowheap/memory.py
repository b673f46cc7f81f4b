"""Mapped memory: the heap's region, reserved once and grown in place, and the control mapping beside it.

A region is 4 GiB of address space plus a guard, mapped once with `MAP_NORESERVE`: its base never moves, and pages that
nobody touches cost nothing. The whole reservation is readable and writable, so no 32-bit reference, however corrupt,
can fault; what is *in use* is the capacity, which the allocator keeps to. The guard behind it faults, for whoever adds
more to a reference than any object is long.

Where address space is short, a region may have no more than its maximum needs. Then a reference that is corrupt may
lead over the guard, into memory of somebody else.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import sys
from typing import Any, TypeVar

from lowheap.copying import NotCopied
from lowheap.errors import HeapError
from lowheap.layout import HEAP_GUARD, HEAP_RESERVATION, MAXIMUM_CAPACITY

_sizeof = ctypes.sizeof

_Data = TypeVar("_Data", bound="ctypes._CData")

_PROT_NONE = 0

HUGE_PAGES_FROM = 4 << 20
"""From this byte of a heap on, the system is asked for huge pages: in a large heap the misses of the translation buffer
cost more than anything that the collector does, and in a small one memory would be wasted."""

# Python's mmap module names MAP_NORESERVE from 3.13 on; these are the kernels' values.
_MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0))


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.mprotect.restype = ctypes.c_int
    return libc


class Mapping(NotCopied):
    """Anonymous memory of `size` bytes at a fixed `base`, all zero, with `guard` bytes behind it that fault.

    Views made by `view` keep the mapping alive; `close` refuses while one exists. MemoryError when the address space or
    the system's overcommit limit does not allow the mapping.
    """

    NOT_COPIED_BECAUSE = "its memory is mapped once; `read` returns a copy of the bytes"

    def __init__(self, size: int, guard: int = 0) -> None:
        """Map `size` + `guard` bytes, each a multiple of the page size."""
        self.size = size
        try:
            self._mmap = mmap.mmap(-1, size + guard, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        except OSError as error:
            raise MemoryError(f"cannot reserve {size + guard} bytes of address space: {error.strerror}") from error
        self.base = ctypes.addressof(ctypes.c_uint8.from_buffer(self._mmap))
        if guard and _libc().mprotect(self.base + size, guard, _PROT_NONE) != 0:
            raise MemoryError(f"cannot protect a guard of {guard} bytes: {os.strerror(ctypes.get_errno())}")

    @property
    def buffer(self) -> mmap.mmap:
        """The bytes, as what takes buffers takes them. Nobody may close it, and what is beyond `size` faults."""
        return self._mmap

    def view(self, data: type[_Data], offset: int) -> _Data:
        """Return `data`, a ctypes type, laid over the bytes at `offset`, live in both directions.

        Raises HeapError when it would not lie within the mapping.
        """
        if not 0 <= offset <= self.size - _sizeof(data):
            raise HeapError(f"{data.__name__} at {offset:#x} is not within a mapping of {self.size:#x} bytes")
        laid: Any = data
        try:
            view: _Data = laid.from_buffer(self._mmap, offset)
        except ValueError:
            raise HeapError(f"{data.__name__} at {offset:#x} cannot be seen: the memory is unmapped") from None
        return view

    def read(self, offset: int, length: int) -> bytes:
        """Return a copy of `length` bytes at `offset`. HeapError when they are not within the mapping."""
        self._check_range(offset, length)
        return self._mmap[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Copy `data` to `offset`. HeapError when it does not fit the mapping."""
        self._check_range(offset, len(data))
        self._mmap[offset : offset + len(data)] = data

    def zero(self, offset: int, length: int) -> None:
        """Set `length` bytes at `offset` to zero. HeapError when they are not within the mapping."""
        self._check_range(offset, length)
        ctypes.memset(self.base + offset, 0, length)

    def discard(self, offset: int = 0, length: int | None = None) -> None:
        """Give so many bytes from `offset` on, or all, back to the system; the contents become zero, the base stays.

        HeapError when they are not within the mapping, or `offset` is no multiple of a page's size.
        """
        length = self.size - offset if length is None else length
        self._check_range(offset, length)
        if offset % mmap.PAGESIZE:
            raise HeapError(f"{offset:#x} is not where a page of {mmap.PAGESIZE} bytes begins")
        if length:
            self._mmap.madvise(mmap.MADV_DONTNEED, offset, length)

    @property
    def is_closed(self) -> bool:
        """Whether `close` has unmapped the memory."""
        return self._mmap.closed

    def close(self) -> None:
        """Unmap the memory. HeapError while views of it exist."""
        try:
            self._mmap.close()
        except BufferError:
            raise HeapError("cannot unmap memory while views of it exist; drop them first") from None

    def abandon(self) -> None:
        """Unmap the memory: now, or, while views of it exist, when the last of them and the mapping are gone."""
        with contextlib.suppress(BufferError):  # a view may be held by no more than the traceback of an exception
            self._mmap.close()

    def _check_range(self, offset: int, length: int) -> None:
        if self._mmap.closed:
            raise HeapError(f"{length} bytes at {offset:#x} cannot be reached: the memory is unmapped")
        if offset < 0 or length < 0 or offset + length > self.size:
            end = offset + length
            raise HeapError(f"bytes {offset:#x} to {end:#x} are not within a mapping of {self.size:#x} bytes")


RESERVATIONS = ("full", "maximum")
"""How much address space a heap may reserve: all that a reference can name, or what its maximum needs."""

_RESERVATION_GRANULE = 1 << 16
"""A reservation is a multiple of so many bytes, as every system's pages are."""

DEFAULT_CAPACITY = 1 << 16


class Memory(Mapping):
    """The region of one heap: `capacity` bytes in use of the reservation, at most `maximum`.

    `initial` and `maximum` are in bytes; without `initial`, that is `DEFAULT_CAPACITY`, or the maximum where that is
    less. `reserve` is one of `RESERVATIONS`; the guard is there in either case. ValueError unless
    0 <= initial <= maximum <= 2^32 - 16, and for another reservation.
    """

    def __init__(
        self, initial: int | None = None, maximum: int = MAXIMUM_CAPACITY, *, reserve: str = RESERVATIONS[0]
    ) -> None:
        """Reserve the region and put the first `initial` bytes of it to use."""
        if reserve not in RESERVATIONS:
            raise ValueError(f"reserve is {reserve!r}; it must be one of {', '.join(map(repr, RESERVATIONS))}")
        if initial is None:
            initial = default_initial(DEFAULT_CAPACITY, maximum)
        for name, value in (("initial", initial), ("maximum", maximum)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"the {name} heap size is {value!r}; it must be an int, a number of bytes")
        if not 0 <= initial <= maximum <= MAXIMUM_CAPACITY:
            raise ValueError(
                f"heap sizes must satisfy 0 <= initial <= maximum <= {MAXIMUM_CAPACITY}; "
                f"got initial {initial}, maximum {maximum}"
            )
        is_full = reserve == RESERVATIONS[0]
        super().__init__(HEAP_RESERVATION if is_full else _rounded(maximum), HEAP_GUARD)
        self._advise_huge_pages()
        self.capacity = initial
        self.maximum = maximum

    def _advise_huge_pages(self) -> None:
        if hasattr(mmap, "MADV_HUGEPAGE") and self.size > HUGE_PAGES_FROM:
            with contextlib.suppress(OSError):  # a kernel without them; it was but advice
                self._mmap.madvise(mmap.MADV_HUGEPAGE, HUGE_PAGES_FROM, self.size - HUGE_PAGES_FROM)

    def grow(self, delta: int) -> bool:
        """Put `delta` more bytes to use, in place. Returns False, and changes nothing, beyond the maximum."""
        if not isinstance(delta, int) or isinstance(delta, bool):
            raise TypeError(f"cannot grow a heap by {delta!r}; it must be an int, a number of bytes")
        if delta < 0:
            raise ValueError(f"cannot grow a heap by {delta} bytes")
        if self.capacity + delta > self.maximum:
            return False
        self.capacity += delta
        return True


def default_initial(size: int, maximum: int) -> int:
    """How large a heap begins for which nobody said that: by default `size`, but not beyond a maximum."""
    is_size = isinstance(maximum, int) and not isinstance(maximum, bool) and maximum >= 0
    return min(size, maximum) if is_size else size  # what is no size, the check of both tells


def _rounded(maximum: int) -> int:
    return max(_RESERVATION_GRANULE, (maximum + _RESERVATION_GRANULE - 1) & -_RESERVATION_GRANULE)
