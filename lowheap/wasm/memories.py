"""Linear memories, as the host has them.

A memory's address space is reserved when it is made, as far as it may ever grow, so it never moves: growing is one
store, by whomever, and addresses in it stay good. Pages that nobody has touched cost nothing.
"""

from __future__ import annotations

import ctypes
import operator

from lowheap.collectors.shared.ranges import FAILED
from lowheap.copying import NotCopied
from lowheap.errors import HeapError
from lowheap.layout import VMMemory
from lowheap.operations import exclusive
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store, check_store
from lowheap.types import Limits, MemoryType
from lowheap.wasm.limits import check_flags, check_limits, fits, growth, reserve, sizes
from lowheap.wasm.memory_ranges import MOST_RESERVED_32, MOST_RESERVED_64, grow

_exclusive = exclusive("store.lock")

_MOST_BYTES = {False: 1 << 32, True: 1 << 64}
"""By whether addresses are i64: how large a type may say that a memory is."""


class Memory(NotCopied):
    """A linear memory of a store. `Memory(store, type)` makes one to import.

    Sizes are in pages, as `type` has them, all else in bytes. HeapError where the address space has no room for
    the least size.
    """

    NOT_COPIED_BECAUSE = "it is memory that programs share; `read` returns a copy of the bytes"

    def __init__(self, store: Store, type: MemoryType) -> None:
        """Make a memory of the host's. TypeError and ValueError for what is no type of a memory."""
        check_store(store)
        _check_type(type)
        self.store = store
        self._make(type)

    @_exclusive
    def _make(self, type: MemoryType) -> None:
        definition = VMMemory()
        self._reserve(type, definition)
        self._bind(self.store, type, ctypes.addressof(definition))
        runtime_of(self.store).keep(self._mapping, definition)

    def _reserve(self, type: MemoryType, definition: VMMemory) -> None:
        reserved, bits = MOST_RESERVED_64 if type.is_64 else MOST_RESERVED_32, type.page_size_log2
        least, most = sizes(type.limits, type.is_64, reserved >> bits, "memory")
        self._mapping = reserve(least << bits, most << bits, "memory")
        definition.base, definition.length = self._mapping.base, least << bits
        definition.maximum = min(most, self._mapping.size >> bits) << bits

    @classmethod
    def _at(cls, store: Store, type: MemoryType, definition: VMMemory) -> Memory:
        """Make an instance's memory, which is defined in its vmctx."""
        made = object.__new__(cls)
        made._reserve(type, definition)
        made._bind(store, type, ctypes.addressof(definition))
        return made

    def _bind(self, store: Store, type: MemoryType, address: int) -> None:
        self.store, self.address, self._declared = store, address, type

    @property
    def _fields(self) -> VMMemory:
        return VMMemory.from_address(self.address)

    def _opened(self) -> VMMemory:
        """Return the fields. HeapError when the store was closed."""
        self.store.check_open()
        return self._fields

    @property
    def type(self) -> MemoryType:
        """Its type; the limits' `min` is what it was made with."""
        return self._declared

    @property
    @_exclusive
    def size(self) -> int:
        """How many pages it has."""
        return int(self._opened().length) >> self._declared.page_size_log2

    @property
    @_exclusive
    def data_len(self) -> int:
        """How many bytes it has."""
        return int(self._opened().length)

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._declared.page_size

    @property
    def page_size_log2(self) -> int:
        """The base 2 logarithm of that."""
        return self._declared.page_size_log2

    @property
    def data_ptr(self) -> int:
        """The address of its first byte, which stays what it is as long as the store is open."""
        return self._mapping.base

    @_exclusive
    def grow(self, delta: int) -> int:
        """Add so many pages, all zero, and return how many there were. HeapError where it may not have as many."""
        pages = growth(delta, "memory", "pages")
        fields = self._opened()
        old = grow(fields, pages, self.page_size_log2) if pages < FAILED else None
        if old is None or old == FAILED:
            most = int(fields.maximum) >> self.page_size_log2
            now = int(fields.length) >> self.page_size_log2
            raise HeapError(f"cannot grow a memory of {now} pages by {pages}: it may have {most}")
        return old

    @_exclusive
    def read(self, start: int | None = 0, stop: int | None = None) -> bytearray:
        """Return a copy of the bytes from `start` up to `stop`, which mean what they mean in a slice."""
        first, end, _ = slice(start, stop).indices(self._opened().length)
        return bytearray(self._mapping.buffer[first : max(first, end)])

    @_exclusive
    def write(self, value: bytes | bytearray | memoryview, start: int | None = None) -> int:
        """Copy bytes to `start`, which may count from the end, and return how many. IndexError when they do not fit."""
        data = memoryview(value).cast("B")
        length = int(self._opened().length)
        first = 0 if start is None else operator.index(start)
        if first < 0:
            first += length
        if not 0 <= first <= length - len(data):
            raise IndexError(
                f"{len(data)} bytes at {start if start is not None else 0} do not fit a memory of {length} bytes"
            )
        self._mapping.buffer[first : first + len(data)] = data
        return len(data)

    @property
    @_exclusive
    def data(self) -> memoryview:
        """Its bytes, to read and to write in place.

        The view has as many as the memory has now, and stays good whatever happens: a memory that grows does not move,
        and one whose store is closed stays mapped until the last view is gone.
        """
        array = ctypes.c_uint8 * int(self._opened().length)
        return memoryview(array.from_buffer(self._mapping.buffer)).cast("B")

    def _mismatch(self, wanted: MemoryType) -> bool:
        """Whether it may not be imported where a memory of a type is wanted."""
        own = self._declared
        alike = (own.is_64, own.is_shared, own.page_size_log2) == (
            wanted.is_64,
            wanted.is_shared,
            wanted.page_size_log2,
        )
        now = int(self._fields.length) >> own.page_size_log2
        return not (alike and fits(Limits(now, own.limits.max), wanted.limits))

    def __repr__(self) -> str:
        """Show the type, and how many pages there are."""
        return f"<Memory {self._declared}: {int(self._fields.length) >> self.page_size_log2} pages>"


def _check_type(type: object) -> None:
    if not isinstance(type, MemoryType):
        raise TypeError(f"type is {type!r}; it must be a MemoryType")
    check_flags(is_64=type.is_64, is_shared=type.is_shared)
    if type.page_size_log2 not in (0, 16):
        raise ValueError(f"page_size_log2 is {type.page_size_log2!r}; it must be 0 or 16")
    limits, most = type.limits, _MOST_BYTES[type.is_64] >> type.page_size_log2
    check_limits(limits, most, "pages", f"0 to {most}, pages of {type.page_size} bytes")
    if type.is_shared and limits.max is None:
        raise ValueError("a shared memory's limits must have a max")
