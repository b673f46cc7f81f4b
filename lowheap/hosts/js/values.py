"""JavaScript's values, as Python has them here, and the language's conversions between them.

undefined is `UNDEFINED`, null is None, booleans are bool, numbers int or float, bigints `BigInt`, strings str, arrays
lists; functions are `Function`, exports of instances, or any callable of Python's, which gets the arguments without
`this`. Other objects are `JsObject`. Errors are exceptions of Python's, so that they can be raised.

Strings count in UTF-16 code units: `units` and `joined` go there and back.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any

from lowheap.hosts.js import numbers
from lowheap.objects import GcObject
from lowheap.strings import decoded, encoded


class Undefined:
    """The type of `UNDEFINED`."""

    def __repr__(self) -> str:
        """Show what it is."""
        return "undefined"

    def __bool__(self) -> bool:
        """It is falsy."""
        return False


UNDEFINED = Undefined()
"""JavaScript's undefined."""


class BigInt(int):
    """A bigint: what an i64 is."""


class Symbol:
    """A symbol: a key like no other."""

    def __init__(self, description: str = "") -> None:
        """Keep the description."""
        self.description = description

    def __repr__(self) -> str:
        """Show the description."""
        return f"Symbol({self.description})"


class JsObject:
    """An object with properties. Those that its class has for all are in `methods` of the classes, by name."""

    name = "Object"
    methods: dict[str, Any] = {}  # noqa: RUF012  # each class has its own, which nobody writes to

    def __init__(self, properties: dict[Any, Any] | None = None) -> None:
        """Make one with these properties."""
        self.properties: dict[Any, Any] = {} if properties is None else properties

    def get(self, key: Any) -> Any:
        """Return a property; undefined where there is none such."""
        if key in self.properties:
            found = self.properties[key]
            return found(self) if isinstance(found, Getter) else found
        for each in type(self).__mro__:
            if (found := vars(each).get("methods", {}).get(key)) is not None:
                return found(self) if isinstance(found, Getter) else found
        return UNDEFINED

    def set(self, key: Any, value: Any) -> None:
        """Set a property."""
        self.properties[key] = value

    def __repr__(self) -> str:
        """Show what kind of object it is."""
        return f"[object {self.name}]"


class Getter:
    """A property that is computed."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        """Keep what computes it, of the object."""
        self.compute = compute

    def __call__(self, this: Any) -> Any:
        """Return it."""
        return self.compute(this)


class Function(JsObject):
    """A function: `body` gets `this` and the arguments; `make`, if it is a constructor, the arguments of `new`."""

    name = "Function"

    def __init__(
        self, body: Callable[..., Any], name: str = "", *, make: Callable[..., Any] | None = None, kind: Any = None
    ) -> None:
        """Make a function. `kind` are the classes, or a test for the values, that are instances of a constructor."""
        super().__init__({"name": name})
        self.body, self.make, self.kind = body, make, kind
        code = getattr(body, "__code__", None)
        self.most = None if code is None or code.co_flags & inspect.CO_VARARGS else max(code.co_argcount - 1, 0)
        """How many arguments it takes at most, where it does not take all."""

    def __call__(self, *args: Any) -> Any:
        """Call it without `this`."""
        return self.body(UNDEFINED, *args[: self.most])


class JsError(JsObject, Exception):  # its name in JavaScript is Error
    """An error, which is raised as itself."""

    name = "Error"

    def __init__(self, message: Any = "", kind: str = "Error") -> None:
        """Make one of a kind: Error, TypeError, RangeError."""
        JsObject.__init__(self, {"message": to_string(message), "name": kind})
        Exception.__init__(self, to_string(message))
        self.properties["stack"] = str(self)

    def __str__(self) -> str:
        """Show kind and message."""
        kind, message = self.properties["name"], self.properties["message"]
        return f"{kind}: {message}" if message else str(kind)

    __repr__ = __str__


class Thrown(Exception):  # what it carries need be no error
    """What raises a value that is no exception."""

    def __init__(self, value: Any) -> None:
        """Keep the value."""
        super().__init__(value)
        self.value = value


# ----------------------------------------------------------------------------------------------------------------------
# Strings


def units(text: str) -> str:
    """Return a text whose characters are UTF-16 code units."""
    if not text or max(text) < "\U00010000":
        return text
    data = encoded(text)
    return "".join(map(chr, memoryview(data).cast("H")))


_SURROGATE = re.compile("[\ud800-\udfff]")


def joined(text: str) -> str:
    """Return a text whose surrogates that stand in pairs are one character."""
    return decoded(encoded(text)) if _SURROGATE.search(text) else text


# ----------------------------------------------------------------------------------------------------------------------
# Conversions


def is_number(value: Any) -> bool:
    """Whether a value is a number: no bool, no bigint."""
    return isinstance(value, int | float) and not isinstance(value, bool | BigInt)


def is_callable(value: Any) -> bool:
    """Whether a value is a function."""
    return isinstance(value, Function) or (callable(value) and not isinstance(value, JsObject | GcObject | type))


def type_of(value: Any) -> str:
    """Return what `typeof` says."""
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, BigInt):
        return "bigint"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Symbol):
        return "symbol"
    return "function" if is_callable(value) else "object"


def truthy(value: Any) -> bool:
    """Whether a value counts as true."""
    if value is None or value is UNDEFINED:
        return False
    if isinstance(value, float):
        return value != 0 and not math.isnan(value)
    return bool(value) if isinstance(value, bool | int | str) else True


def to_string(value: Any) -> str:
    """Return what `String(value)` returns."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, BigInt):
        return str(int(value))
    if isinstance(value, int | float):
        return numbers.number_to_string(value)
    if isinstance(value, list):
        return ",".join("" if each is None or each is UNDEFINED else to_string(each) for each in value)
    if isinstance(value, JsObject):
        method = value.get("toString")
        if isinstance(method, Function):
            return to_string(method.body(value))
    if isinstance(value, Undefined | Symbol | JsObject | BaseException):
        return str(value)
    return f"function {getattr(value, 'name', '')}() {{ [native code] }}" if is_callable(value) else "[object Object]"


def to_number(value: Any) -> int | float:
    """Return what `Number(value)` returns."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    if isinstance(value, str):
        return numbers.parse_number(value)
    if value is None:
        return 0
    if isinstance(value, JsObject) and isinstance(method := value.get("valueOf"), Function):
        found = method.body(value)
        return to_number(found) if not isinstance(found, JsObject) else math.nan
    return math.nan if value is UNDEFINED else numbers.parse_number(to_string(value))


def to_integer(value: Any, otherwise: int = 0) -> int:
    """Return a number without its fraction, NaN as 0; infinities as what is larger than all sizes."""
    if value is UNDEFINED:
        return otherwise
    number = to_number(value)
    if isinstance(number, float):
        if math.isnan(number):
            return 0
        return int(math.copysign(1 << 53, number)) if math.isinf(number) else int(number)
    return int(number)


def to_int32(value: Any) -> int:
    """Return a number as bit operations take it."""
    number = to_number(value)
    if isinstance(number, float):
        if not math.isfinite(number):
            return 0
        number = int(number)
    return (int(number) + (1 << 31)) % (1 << 32) - (1 << 31)


def strictly_equal(left: Any, right: Any) -> bool:
    """What `===` says."""
    if isinstance(left, GcObject) and isinstance(right, GcObject):
        return left == right
    kind = type_of(left)
    if kind != type_of(right):
        return False
    return bool(left == right) if kind in ("number", "string", "boolean", "bigint") else left is right


def same_value(left: Any, right: Any) -> bool:
    """What `Object.is` says."""
    if is_number(left) and is_number(right):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return bool(left == right) and math.copysign(1, left) == math.copysign(1, right)
    return strictly_equal(left, right)


def loosely_equal(left: Any, right: Any) -> bool:
    """What `==` says, without calling methods of objects."""
    nothing = (None, UNDEFINED)
    if left in nothing or right in nothing:
        return left in nothing and right in nothing
    if type_of(left) == type_of(right):
        return strictly_equal(left, right)
    simple = ("number", "string", "boolean", "bigint")
    return type_of(left) in simple and type_of(right) in simple and to_number(left) == to_number(right)


def call(function: Any, this: Any, args: list[Any]) -> Any:
    """Call a function with `this`."""
    if isinstance(function, Function):
        return function.body(this, *args[: function.most])
    if is_callable(function):
        return function(*args)
    raise JsError(f"{to_string(function)} is not a function", "TypeError")
