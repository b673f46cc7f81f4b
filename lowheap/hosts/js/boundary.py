"""Values between JavaScript's world and WebAssembly: what the JS API's ToJSValue and ToWebAssemblyValue do.

A number that is a small integer is an i31 as a reference, so that a program which takes it apart finds one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from lowheap.hosts.js.objects import ArrayBuffer, method
from lowheap.hosts.js.values import (
    UNDEFINED,
    BigInt,
    Function,
    Getter,
    JsError,
    JsObject,
    Thrown,
    call,
    is_number,
    to_int32,
    to_integer,
    to_number,
)
from lowheap.objects import ExternRef, Func
from lowheap.runtime.exceptions import WasmException, host_tag
from lowheap.store import Store
from lowheap.types import AbstractHeapType, FuncType, NumType, RefType, ValType
from lowheap.values import I31
from lowheap.wasm.globals import Global
from lowheap.wasm.memories import Memory
from lowheap.wasm.tables import Table

_I31_LIMIT = 1 << 30
_log = logging.getLogger("lowheap.hosts.js")


def to_js(type: ValType, value: Any) -> Any:
    """Return a value of WebAssembly's as JavaScript has it."""
    if type is NumType.I64:
        return BigInt(value)
    if isinstance(value, I31):
        return int(value)
    if isinstance(value, Func):
        return exported(value)
    return value.value if isinstance(value, ExternRef) else value


def to_wasm(store: Store, type: ValType, value: Any) -> Any:
    """Return a value of JavaScript's as a type has it."""
    match type:
        case NumType.I32:
            return to_int32(value)
        case NumType.I64:
            return int(value) % (1 << 64) if isinstance(value, BigInt | bool) else int(to_number(value)) % (1 << 64)
        case NumType.F32 | NumType.F64:
            return float(to_number(value))
    assert isinstance(type, RefType), "vectors do not come to JavaScript"
    if isinstance(value, Export):
        return value.function
    if is_number(value) and abs(value) < _I31_LIMIT and value == int(value) and (value or math.copysign(1, value) > 0):
        return I31(int(value))
    if store.engine.types.top(type.heap_type) is AbstractHeapType.ANY and _is_host_value(value):
        return ExternRef(store, value)
    return value


def _is_host_value(value: Any) -> bool:
    return value is UNDEFINED or isinstance(value, float | int | list | Function) or hasattr(value, "properties")


def imported(store: Store, type: FuncType, function: Any, what: str = "") -> Callable[..., Any]:
    """Return what a module is given for a function of JavaScript's. What it throws, programs can catch.

    They may say nothing of it, so the log does, with `what` it is, on the level of debugging.
    """

    def run(*args: Any) -> Any:
        try:
            try:
                found = call(function, UNDEFINED, [to_js(*each) for each in zip(type.params, args, strict=True)])
            except Exception as error:
                _log.debug("%s threw %s", what, error)
                raise
        except Thrown as thrown:
            raise WasmException(host_tag(store), [to_wasm(store, _EXTERNREF, thrown.value)]) from thrown
        if not type.results:
            return None
        if len(type.results) == 1:
            return to_wasm(store, type.results[0], found)
        return tuple(to_wasm(store, *each) for each in zip(type.results, found, strict=True))

    return run


_EXTERNREF = RefType(True, AbstractHeapType.EXTERN)


class Export(Function):
    """A function of WebAssembly's, as JavaScript has it."""

    def __init__(self, function: Func) -> None:
        """Wrap it."""
        super().__init__(lambda _, *args: _call(function, args), function.name)
        self.function = function


class _MemoryBuffer(ArrayBuffer):
    """The bytes of a linear memory, as many as it has."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        JsObject.__init__(self)

    @property
    def data(self) -> Any:
        return self._memory.data


class _Cell(JsObject):
    """A global, as JavaScript has it."""

    name = "WebAssembly.Global"

    def __init__(self, cell: Global) -> None:
        super().__init__()
        self.cell = cell

    def set(self, key: Any, value: Any) -> None:
        if key != "value":
            super().set(key, value)
            return
        if not self.cell.type.mutable:
            raise JsError("set WebAssembly.Global.value: Can't set the value of an immutable global.", "TypeError")
        self.cell.value = to_wasm(self.cell.store, self.cell.type.storage, value)


def _value_of_cell(this: _Cell) -> Any:
    return to_js(this.cell.type.storage, this.cell.value)


_Cell.methods = {"value": Getter(_value_of_cell), "valueOf": method(_value_of_cell)}


class _Entries(JsObject):
    """A table, as JavaScript has it."""

    name = "WebAssembly.Table"

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def entry(self, number: Any) -> int:
        """Return the number of an entry. A RangeError for one that is not there."""
        found = to_integer(number)
        if not 0 <= found < self.table.size:
            raise JsError(f"invalid address {found} in table of size {self.table.size}", "RangeError")
        return found


def _set_entry(this: _Entries, number: Any, value: Any = None) -> Any:
    this.table.set(this.entry(number), to_wasm(this.table.store, this.table.type.element, value))
    return UNDEFINED


def _grow_table(this: _Entries, count: Any, value: Any = None) -> int:
    return this.table.grow(to_integer(count), to_wasm(this.table.store, this.table.type.element, value))


_Entries.methods = {
    "length": Getter(lambda this: this.table.size),
    "get": method(lambda this, number=0: to_js(this.table.type.element, this.table.get(this.entry(number)))),
    "set": method(_set_entry),
    "grow": method(_grow_table),
}


class _Bytes(JsObject):
    """A memory, as JavaScript has it."""

    name = "WebAssembly.Memory"

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory, self.buffer = memory, _MemoryBuffer(memory)


_Bytes.methods = {
    "buffer": Getter(lambda this: this.buffer),
    "grow": method(lambda this, count=0: this.memory.grow(to_integer(count))),
}

_WRAPPED: dict[type, type] = {Func: Export, Memory: _Bytes, Global: _Cell, Table: _Entries}


def exported(value: Any) -> Any:
    """Return what an instance exports as JavaScript has it: functions, memories, globals and tables as its own."""
    wrap = _WRAPPED.get(type(value))
    return value if wrap is None else wrap(value)


def _call(function: Func, args: Sequence[Any]) -> Any:
    """Call a function of WebAssembly's with values of JavaScript's: what is missing is undefined."""
    type, store = function.type, function.store
    assert isinstance(type, FuncType), "a function has a function type"
    given = [*args, *[UNDEFINED] * len(type.params)][: len(type.params)]
    found = function(*[to_wasm(store, *each) for each in zip(type.params, given, strict=True)])
    if not type.results:
        return UNDEFINED
    if len(type.results) == 1:
        return to_js(type.results[0], found)
    return [to_js(*each) for each in zip(type.results, found, strict=True)]
