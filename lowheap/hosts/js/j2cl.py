"""J2CL's imports: the name says what is meant, `Math.sin`, `Date.constructor$1`, `string.indexOf$2`, `get Error.stack`.

What is behind `$` is how many arguments there are. A few are helpers of its runtime, by name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

from lowheap.hosts.js import numbers
from lowheap.hosts.js.values import UNDEFINED, JsObject, call, is_callable
from lowheap.types import FuncType

_NAME = re.compile(r"(get |set )?(.+?)(?:\$(\d+))?")
_CLASS_NUMBERS = itertools.count(1001)
_DOUBLE = re.compile(r"\s*[+-]?(NaN|Infinity|((\d+\.?\d*)|(\.\d+))([eE][+-]?\d+)?[dDfF]?)\s*")
_THROWABLE = "__j2wasm$exception"


def function(world: Any, name: str, type: FuncType) -> Callable[..., Any] | None:
    """Return the function that a name means in a world; None where it means nothing there."""
    if name in _HELPERS:
        return _HELPERS[name]
    found = _NAME.fullmatch(name)
    assert found is not None, "it matches every name"
    access, path, _ = found.groups()
    *owners, member = path.split(".")
    holder = _holder(world, owners)
    if access == "get ":
        if not type.params:
            return None if holder is None else lambda: world.get(holder, member)
        return lambda this: world.get(this, member)
    if access == "set ":
        if len(type.params) == 1:  # of no object: goog.global's, or a class's
            return lambda value: world.set_global(member, value)
        return lambda this, value: world.set(this, member, value)
    if not owners:
        whole = world.globals.get(member)
        return whole if is_callable(whole) else None
    if member == "constructor":
        return None if holder is None else lambda *args: world.construct(holder, list(args))
    if holder is not None and is_callable(own := world.get(holder, member)):
        return lambda *args: call(own, holder, list(args))
    if member == "call" and holder is None:
        method = _holder(world, owners[:1])
        if method is not None:
            return lambda this, *args: call(world.get(this, owners[-1]), this, list(args))
        return None
    return lambda this, *args: call(world.get(this, member), this, list(args))


def _holder(world: Any, path: list[str]) -> Any:
    """The global object at a path; None where there is none."""
    if not path or not world.has_global(path[0]):
        return None
    found = world.get_global(path[0])
    for each in path[1:]:
        found = found.get(each) if isinstance(found, JsObject) else UNDEFINED
    return None if found is UNDEFINED else found


def _set_throwable(error: Any, throwable: Any) -> None:
    if isinstance(error, JsObject):
        error.set(_THROWABLE, throwable)


def _throwable(error: Any) -> Any:
    found = error.get(_THROWABLE) if isinstance(error, JsObject) else None
    return None if found is UNDEFINED else found


_HELPERS: dict[str, Callable[..., Any]] = {
    "gc": lambda: UNDEFINED,
    "j2wasm.StringUtils.generateClassName": lambda: f"Class$obf_{next(_CLASS_NUMBERS)}",
    "j2wasm.StringUtils.equalsIgnoreCase": lambda one, other: one.lower() == other.lower(),
    "j2wasm.StringUtils.compareToIgnoreCase": lambda one, other: (
        (one.lower() > other.lower()) - (one.lower() < other.lower())
    ),
    "j2wasm.CharUtils.charToLowerCase": lambda unit: _cased(unit, str.lower),
    "j2wasm.CharUtils.charToUpperCase": lambda unit: _cased(unit, str.upper),
    "j2wasm.CharUtils.codePointToLowerCase": lambda point: _cased(point, str.lower),
    "j2wasm.CharUtils.codePointToUpperCase": lambda point: _cased(point, str.upper),
    "j2wasm.DoubleUtils.isValidDouble": lambda text: _DOUBLE.fullmatch(text) is not None,
    "j2wasm.ExceptionUtils.setJavaThrowable": _set_throwable,
    "j2wasm.ExceptionUtils.getJavaThrowable": _throwable,
    "Number.prototype.toString.call$1": lambda number: numbers.number_to_string(number),
    "Number.prototype.toString.call$2": lambda number, radix: numbers.number_to_string(number, int(radix)),
    "Number.prototype.toPrecision.call$2": lambda number, digits: numbers.to_precision(number, int(digits)),
}


def _cased(point: int, change: Callable[[str], str]) -> int:
    return ord(change(chr(int(point)))[0])
