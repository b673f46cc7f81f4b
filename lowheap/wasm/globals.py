"""Globals, as the host has them."""

from __future__ import annotations

import ctypes
from typing import Any

from lowheap.bound_types import lift, lift_reference, lowering
from lowheap.copying import NotCopied
from lowheap.critical import whole_unless_unheard
from lowheap.errors import HeapError
from lowheap.layout import NULL
from lowheap.memory import Mapping as MemoryMapping
from lowheap.operations import exclusive
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store, check_store
from lowheap.types import GlobalType, NumType, RefType, ValType, VectorType, storage_size
from lowheap.values import lift_scalar, lower_scalar

_PAGE = 1 << 12

_exclusive = exclusive("store.lock")


class Global(NotCopied):
    """A global of a store: `g.value` reads it, `g.value = x` writes it, references through the barriers.

    `Global(store, type, value)` makes one to import; `mutable` says whether anyone may write it, as a `GlobalType` in
    place of the type of its value does.
    """

    NOT_COPIED_BECAUSE = "it is a cell of one store; `value` is what is in it"

    def __init__(self, store: Store, type: ValType | GlobalType, value: Any, *, mutable: bool = False) -> None:
        """Make a global of the host's. TypeError when the value does not match the type."""
        check_store(store)
        if isinstance(type, GlobalType):
            if mutable:
                raise TypeError(f"type is {type!r}, which says itself whether the global is mutable")
            mutable = type.mutable
            type = type.storage
        if not isinstance(type, NumType | VectorType | RefType):
            raise TypeError(f"type is {type!r}; it must be the type of a value")
        self.store, self.type = store, GlobalType(type, mutable)
        self._make(value)

    def _unmake(self, _: object = None) -> None:
        """Give the store back what it has of the global, which nobody has got hold of."""
        self._forget()
        self.store.runtime.let_go(self._memory)

    @_exclusive
    @whole_unless_unheard(_unmake)
    def _make(self, value: Any) -> None:
        store = self.store
        runtime = runtime_of(store)
        memory = MemoryMapping(_PAGE)
        self._memory = memory
        self.address = memory.base
        runtime.keep(memory)  # before its address is among the roots
        if store.engine.types.is_traced(self.type.storage):
            store.roots.add_slot(self.address)
        try:
            self._set(value)
        except BaseException:
            self._unmake()
            raise

    def _forget(self) -> None:
        """Give back what the cell holds, and its root slot: nobody will use it."""
        if self.store.engine.types.is_traced(self.type.storage) and self.store.runtime.owns_memory:
            self.store.heap.write_gc_ref(ctypes.c_uint32.from_address(self.address), NULL)
            self.store.roots.remove_slot(self.address)

    @classmethod
    def _at(cls, store: Store, type: GlobalType, address: int) -> Global:
        """Return the global whose cell is at `address`, which the store keeps."""
        found = object.__new__(cls)
        found._bind(store, type, address)
        return found

    def _bind(self, store: Store, type: GlobalType, address: int) -> None:
        self.store, self.type, self.address = store, type, address

    @property
    @_exclusive
    def value(self) -> Any:
        """The global's value."""
        store, storage = self.store, self.type.storage
        store.tidy_in_use()
        if not isinstance(storage, RefType):
            data = (ctypes.c_uint8 * storage_size(storage)).from_address(self.address)
            return lift_scalar(storage, bytes(data))
        if not store.engine.types.is_traced(storage):
            return lift_reference(store, storage, ctypes.c_uint32.from_address(self.address).value)
        operations = store.operations
        cell = operations.cell()
        return lift(store, operations.read(operations.vmctx, self.address, cell), cell)

    @value.setter
    @_exclusive
    def value(self, value: Any) -> None:
        if not self.type.mutable:
            raise HeapError(f"cannot write a global of type {self.type.storage}: it is immutable")
        self._set(value)

    def _set(self, value: Any) -> None:
        store, storage = self.store, self.type.storage
        store.tidy_in_use()
        kept: list[Any] = []
        raw = lowering(store, storage)(value, kept)
        if not isinstance(storage, RefType):
            data = bytes(lower_scalar(storage, raw))
            ctypes.memmove(self.address, data, len(data))
        elif store.engine.types.is_traced(storage):
            store.operations.write(store.operations.vmctx, NULL, self.address, raw)
            store.tidy_in_use()
        else:
            ctypes.c_uint32.from_address(self.address).value = raw

    def __repr__(self) -> str:
        """Show the type."""
        return f"<Global {'mut ' if self.type.mutable else ''}{self.type.storage}>"
