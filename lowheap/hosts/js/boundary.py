"""Values between JavaScript's world and WebAssembly: what the JS API's ToJSValue and ToWebAssemblyValue do.

A number that is a small integer is an i31 as a reference, so that a program which takes it apart finds one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lowheap.hosts.js.values import UNDEFINED, BigInt, Function, Thrown, call, is_number, to_int32, to_number
from lowheap.objects import ExternRef, Func
from lowheap.runtime.exceptions import WasmException, host_tag
from lowheap.store import Store
from lowheap.types import AbstractHeapType, FuncType, NumType, RefType, ValType
from lowheap.values import I31

_I31_LIMIT = 1 << 30


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


def imported(store: Store, type: FuncType, function: Any) -> Callable[..., Any]:
    """Return what a module is given for a function of JavaScript's. What it throws, programs can catch."""

    def run(*args: Any) -> Any:
        try:
            found = call(function, UNDEFINED, [to_js(*each) for each in zip(type.params, args, strict=True)])
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


def exported(value: Any) -> Any:
    """Return what an instance exports as JavaScript has it: a function as one of its own."""
    return Export(value) if isinstance(value, Func) else value


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
