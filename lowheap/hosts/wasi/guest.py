"""The memory of the program that calls, as the functions read and write it.

Each access is within the memory as it is now, or a trap. Addresses of numbers and structures are multiples of their
alignment, or that is a trap, too.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TypeVar

from lowheap.errors import Trap, TrapCode
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.layout import IOVEC, Errno, Iovec
from lowheap.layout import VMMemory
from lowheap.wasm.memories import Memory

_Record = TypeVar("_Record", bound=ctypes.Structure)

MOST_BUFFERS = 1024
"""So many buffers the system takes in one call (IOV_MAX)."""

MOST_BYTES = 1 << 27
"""So many bytes one call reads or writes at most: buffers may overlap, and so be more than there is memory."""

MOST_RECORDS = 1 << 16
"""So many structures in a row one call takes; more are ENOMEM."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GuestMemory:
    """The bytes of a memory; `look` has to be called when a program may have grown it."""

    __slots__ = ("_fields", "_length", "_view", "memory")

    def __init__(self, memory: Memory) -> None:
        """Look at a memory's bytes."""
        self.memory = memory
        self._fields = VMMemory.from_address(memory.address)
        self._view = memory.data
        self._length = len(self._view)

    def look(self) -> None:
        """See as much as there is now."""
        if self._fields.length != self._length:
            self._view = self.memory.data
            self._length = len(self._view)

    def bytes_at(self, pointer: int, length: int) -> memoryview:
        """Return bytes, to read and to write in place. No bytes may be anywhere."""
        if length == 0:
            return self._view[:0]
        end = pointer + length
        if end > self._length:
            raise self._out_of_bounds(pointer, length)
        return self._view[pointer:end]

    def write(self, pointer: int, data: bytes) -> None:
        """Copy bytes to where they belong."""
        self.bytes_at(pointer, len(data))[:] = data

    def write_u32(self, pointer: int, value: int) -> None:
        """Write a number of four bytes."""
        if pointer & 3 or pointer + 4 > self._length:
            raise self._bad_number(pointer, _U32.size)
        _U32.pack_into(self._view, pointer, value)

    def write_u64(self, pointer: int, value: int) -> None:
        """Write a number of eight bytes."""
        if pointer & 7 or pointer + 8 > self._length:
            raise self._bad_number(pointer, _U64.size)
        _U64.pack_into(self._view, pointer, value)

    def write_record(self, pointer: int, record: ctypes.Structure) -> None:
        """Write a structure."""
        _check_alignment(pointer, ctypes.alignment(record))
        self.write(pointer, bytes(record))

    def records(self, record: type[_Record], pointer: int, count: int) -> list[_Record]:
        """Return copies of so many structures in a row. ENOMEM for very many."""
        _check_alignment(pointer, ctypes.alignment(record))
        size = ctypes.sizeof(record)
        if count > MOST_RECORDS:
            raise WasiError(Errno.NOMEM)
        whole = bytes(self.bytes_at(pointer, size * count))
        return [record.from_buffer_copy(whole, size * number) for number in range(count)]

    def buffers(self, pointer: int, count: int) -> list[memoryview]:
        """Return the bytes that so many `Iovec`s tell of, without those that are empty, as far as one call goes."""
        if count:
            _check_alignment(pointer, ctypes.alignment(Iovec))
        limit, view, room = self._length, self._view, MOST_BYTES
        found: list[memoryview] = []
        for start, length in IOVEC.iter_unpack(self.bytes_at(pointer, IOVEC.size * count)):
            if length:
                if start + length > limit:
                    raise self._out_of_bounds(start, length)
                found.append(view[start : start + min(length, room)])
                room -= length
                if room <= 0 or len(found) == MOST_BUFFERS:
                    break
        return found

    def path(self, pointer: int, length: int) -> bytes:
        """Return a path. EILSEQ for one that is not UTF-8, EINVAL where a byte of it is 0."""
        path = bytes(self.bytes_at(pointer, length))
        if not path.isascii():
            try:
                path.decode()
            except UnicodeDecodeError:
                raise WasiError(Errno.ILSEQ) from None
        if 0 in path:
            raise WasiError(Errno.INVAL)
        return path

    def _out_of_bounds(self, pointer: int, length: int) -> Trap:
        detail = f"{length} bytes at {pointer:#x} of a memory of {self._length} bytes"
        return Trap(TrapCode.MEMORY_OUT_OF_BOUNDS, detail=detail)

    def _bad_number(self, pointer: int, size: int) -> Trap:
        _check_alignment(pointer, size)
        return self._out_of_bounds(pointer, size)


def _check_alignment(pointer: int, alignment: int) -> None:
    if pointer & (alignment - 1):
        raise Trap(TrapCode.HEAP_MISALIGNED, detail=f"{pointer:#x} is no multiple of {alignment}")
