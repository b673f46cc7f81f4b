"""Tables, as the host has them.

A table's address space is reserved when it is made, as far as it may ever grow, so it never moves, and elements that
nobody has touched cost nothing. Where its references count, it is a root range of the heap: each of its elements is a
slot that counts what it holds.
"""

from __future__ import annotations

import ctypes
from typing import Any

from lowheap.bound_types import lift, lift_reference, lowering
from lowheap.collectors.shared.ranges import FAILED
from lowheap.copying import NotCopied
from lowheap.critical import whole_unless_unheard
from lowheap.errors import HeapError
from lowheap.layout import NULL, REFERENCE_SIZE, VMTable
from lowheap.operations import exclusive
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store, check_store
from lowheap.types import Limits, RefType, TableType
from lowheap.values import as_index
from lowheap.wasm.limits import check_flags, check_limits, fits, growth, reserve, sizes

_exclusive = exclusive("store.lock")

MOST_ELEMENTS = 10_000_000
"""How many elements a table may grow to, unless it has more from the start."""

_MOST = {False: (1 << 32) - 1, True: (1 << 64) - 1}
"""By whether indices are i64: how many elements a type may say that a table has."""


class Table(NotCopied):
    """A table of a store: `table[i]` reads an element, `table[i] = x` writes it, references through the barriers.

    `Table(store, type, init)` makes one to import, whose elements are all `init`. HeapError where the address space has
    no room for the least size.
    """

    NOT_COPIED_BECAUSE = "it is a place that programs share; `list` returns what is in it"

    def __init__(self, store: Store, type: TableType, init: Any = None) -> None:
        """Make a table of the host's. TypeError and ValueError for what is no type of a table, or no element of it."""
        check_store(store)
        _check_type(type)
        self.store = store
        self._make(type, init)

    def _unmake(self, definition: VMTable) -> None:
        self._forget()
        runtime_of(self.store).let_go(definition)
        runtime_of(self.store).let_go(self._mapping)

    @_exclusive
    @whole_unless_unheard(_unmake)
    def _make(self, type: TableType, init: Any) -> VMTable:
        kept: list[Any] = []
        raw = lowering(self.store, type.element)(init, kept)
        definition = VMTable()
        self._reserve(type, definition)
        runtime_of(self.store).keep(self._mapping, definition)  # before its address is among the roots
        self._bind(self.store, type, ctypes.addressof(definition))
        if raw != NULL:
            definition.length = 0
            self._grow(type.limits.min, raw)
        return definition

    @classmethod
    def _at(cls, store: Store, type: TableType, definition: VMTable) -> Table:
        """Make an instance's table, which is defined in its vmctx. Its elements are null."""
        made = object.__new__(cls)
        made._reserve(type, definition)
        made._bind(store, type, ctypes.addressof(definition))
        return made

    def _reserve(self, type: TableType, definition: VMTable) -> None:
        least, most = sizes(type.limits, type.is_64, MOST_ELEMENTS, "table")
        self._mapping = reserve(least * REFERENCE_SIZE, most * REFERENCE_SIZE, "table")
        definition.base, definition.length = self._mapping.base, least
        definition.maximum = min(most, self._mapping.size // REFERENCE_SIZE)

    def _bind(self, store: Store, type: TableType, address: int) -> None:
        self.store, self.address, self._declared = store, address, type
        self._is_counted = store.engine.types.is_traced(type.element)
        if self._is_counted:
            store.roots.add_range(address)

    def _forget(self) -> None:
        """Give back what the elements hold, and the root range: nobody will use the table."""
        let_go(self.store, self.address, is_counted=self._is_counted)

    @property
    def _fields(self) -> VMTable:
        return VMTable.from_address(self.address)

    @property
    def type(self) -> TableType:
        """Its type; the limits' `min` is what it was made with."""
        return self._declared

    @property
    @_exclusive
    def size(self) -> int:
        """How many elements it has."""
        self.store.check_open()
        return int(self._fields.length)

    def __len__(self) -> int:
        """Return how many elements it has."""
        return self.size

    @_exclusive
    def grow(self, delta: int, init: Any = None) -> int:
        """Add so many elements, all `init`, and return how many there were. HeapError where it may not have as many."""
        count = growth(delta, "table", "elements")
        self.store.tidy_in_use()
        kept: list[Any] = []
        return self._grow(count, lowering(self.store, self._declared.element)(init, kept))

    def _grow(self, count: int, raw: int) -> int:
        operations = self.store.operations
        old = FAILED
        if count < FAILED:
            old = operations.grow_table(operations.vmctx, self.address, count, raw, self._is_counted)
        if old == FAILED:
            now, most = int(self._fields.length), int(self._fields.maximum)
            raise HeapError(f"cannot grow a table of {now} elements by {count}: it may have {most}")
        return int(old)

    @_exclusive
    def get(self, index: int) -> Any:
        """Return an element. IndexError where there is none."""
        store = self.store
        store.tidy_in_use()
        address = self._address_of(index)
        if not self._is_counted:
            return lift_reference(store, self._declared.element, ctypes.c_uint32.from_address(address).value)
        operations = store.operations
        cell = operations.cell()
        return lift(store, operations.read(operations.vmctx, address, cell), cell)

    @_exclusive
    def set(self, index: int, value: Any) -> None:
        """Write an element. IndexError where there is none, TypeError for a value that does not match the type."""
        store = self.store
        store.tidy_in_use()
        kept: list[Any] = []
        raw = lowering(store, self._declared.element)(value, kept)
        address = self._address_of(index)
        if self._is_counted:
            store.operations.write(store.operations.vmctx, NULL, address, raw)
            store.tidy_in_use()
        else:
            ctypes.c_uint32.from_address(address).value = raw

    def _address_of(self, index: Any) -> int:
        number, fields = as_index(index), self._fields
        length = int(fields.length)
        if number is None:
            raise TypeError(f"an element is named by an int, not by {index!r}")
        if not -length <= number < length:
            raise IndexError(f"index {number} is out of bounds of a table of {length} elements")
        return int(fields.base) + number % length * REFERENCE_SIZE

    __getitem__ = get
    __setitem__ = set

    def _mismatch(self, wanted: TableType) -> bool:
        """Whether it may not be imported where a table of a type is wanted."""
        own = self._declared
        alike = own.is_64 == wanted.is_64 and own.element == wanted.element
        return not (alike and fits(Limits(int(self._fields.length), own.limits.max), wanted.limits))

    def __repr__(self) -> str:
        """Show the type, and how many elements there are."""
        return f"<Table {self._declared}: {int(self._fields.length)} elements>"


def let_go(store: Store, address: int, *, is_counted: bool) -> None:
    """Give back what a table or a segment holds that is no use any more, and its root range, if it has one."""
    if is_counted and store.runtime.owns_memory:
        store.operations.drop_table(store.operations.vmctx, address)
        store.roots.remove_range(address)


def _check_type(type: object) -> None:
    if not isinstance(type, TableType):
        raise TypeError(f"type is {type!r}; it must be a TableType")
    if not isinstance(type.element, RefType):
        raise TypeError(f"the elements are {type.element!r}; their type must be a RefType")
    check_flags(is_64=type.is_64)
    most = _MOST[type.is_64]
    check_limits(type.limits, most, "elements", f"0 to {most}, a number of elements")
