"""What strings, numbers, arrays and functions have, and the global objects of JavaScript's library."""

from __future__ import annotations

import functools
import json
import math
import random
import re
import secrets
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

from lowheap.hosts.js import numbers
from lowheap.hosts.js.interpreter import power
from lowheap.hosts.js.objects import (
    TYPED_ARRAYS,
    ArrayBuffer,
    DataView,
    JsDate,
    JsMap,
    JsRegExp,
    TypedArray,
    WeakReference,
    elements_of,
    match_array,
    method,
    moment_of,
    parse_date,
)
from lowheap.hosts.js.text import TextDecoder, TextEncoder, functions, well_formed
from lowheap.hosts.js.values import (
    UNDEFINED,
    BigInt,
    Function,
    Getter,
    JsError,
    JsObject,
    Symbol,
    call,
    is_callable,
    is_number,
    joined,
    same_value,
    strictly_equal,
    to_int32,
    to_integer,
    to_number,
    to_string,
    truthy,
    units,
)

# ----------------------------------------------------------------------------------------------------------------------
# Functions


def _bound(this: Any, *bound: Any) -> Function:
    receiver, *first = bound or (UNDEFINED,)
    return Function(lambda _, *args: call(this, receiver, [*first, *args]))


FUNCTION_METHODS: dict[str, Any] = {
    "call": method(lambda this, receiver=UNDEFINED, *args: call(this, receiver, list(args))),
    "apply": method(lambda this, receiver=UNDEFINED, args=(): call(this, receiver, elements_of(args) if args else [])),
    "bind": method(_bound),
    "name": Getter(lambda this: getattr(this, "name", "")),
}
Function.methods = {key: value for key, value in FUNCTION_METHODS.items() if key != "name"}

# ----------------------------------------------------------------------------------------------------------------------
# Strings


def _text(body: Callable[..., Any]) -> Function:
    """A method of strings, which is given code units and returns such, or anything else."""

    @functools.wraps(body)
    def run(this: Any, *args: Any) -> Any:
        found = body(units(to_string(this)), *args)
        return joined(found) if isinstance(found, str) else found

    return Function(run, body.__name__.strip("_"))


def _place(value: Any, length: int, otherwise: int = 0) -> int:
    return min(max(to_integer(value, otherwise), 0), length)


def _relative(value: Any, length: int, otherwise: int = 0) -> int:
    place = to_integer(value, otherwise)
    return max(length + place, 0) if place < 0 else min(place, length)


def _char_at(text: str, place: Any = 0) -> str:
    at = to_integer(place)
    return text[at] if 0 <= at < len(text) else ""


def _char_code_at(text: str, place: Any = 0) -> float:
    at = to_integer(place)
    return ord(text[at]) if 0 <= at < len(text) else math.nan


def _code_point_at(text: str, place: Any = 0) -> Any:
    at = to_integer(place)
    if not 0 <= at < len(text):
        return UNDEFINED
    return ord(joined(text[at : at + 2])[0])


def _index_of(text: str, part: Any = UNDEFINED, start: Any = 0) -> int:
    return text.find(units(to_string(part)), _place(start, len(text)))


def _last_index_of(text: str, part: Any = UNDEFINED, start: Any = UNDEFINED) -> int:
    wanted, number = units(to_string(part)), to_number(start)
    last = len(text) if start is UNDEFINED or math.isnan(number) else _place(number, len(text))
    return text.rfind(wanted, 0, last + len(wanted))


def _substring(text: str, start: Any = 0, end: Any = UNDEFINED) -> str:
    one, other = _place(start, len(text)), _place(end, len(text), len(text))
    return text[min(one, other) : max(one, other)]


def _slice(text: str, start: Any = 0, end: Any = UNDEFINED) -> str:
    return text[_relative(start, len(text)) : _relative(end, len(text), len(text))]


def _substr(text: str, start: Any = 0, count: Any = UNDEFINED) -> str:
    first = _relative(start, len(text))
    return text[first : first + max(to_integer(count, len(text)), 0)]


def _repeat(text: str, count: Any = 0) -> str:
    times = to_integer(count)
    if times < 0 or times * len(text) > 0x1FFF_FFE8:
        raise JsError(f"Invalid count value: {to_string(count)}", "RangeError")
    return text * times


def _split(text: str, separator: Any = UNDEFINED, limit: Any = UNDEFINED) -> list[Any]:
    most = None if limit is UNDEFINED else to_int32(limit) % (1 << 32)
    if separator is UNDEFINED:
        parts: list[Any] = [text]
    elif isinstance(separator, JsRegExp):
        parts, start = [], 0
        for found in separator.pattern.finditer(text):
            if found.end() == found.start() and found.start() in (0, len(text)):
                continue
            parts += [text[start : found.start()], *(UNDEFINED if each is None else each for each in found.groups())]
            start = found.end()
        parts.append(text[start:])
    else:
        wanted = units(to_string(separator))
        parts = text.split(wanted) if wanted else list(text)
    return [joined(each) if isinstance(each, str) else each for each in parts[:most]]


def _replace(text: str, what: Any = UNDEFINED, by: Any = UNDEFINED, *, all: bool = False) -> str:
    if isinstance(what, JsRegExp):
        pattern, count = what.pattern, 0 if "g" in what.flags else 1
    else:
        pattern, count = re.compile(re.escape(units(to_string(what)))), 0 if all else 1

    def replacement(found: re.Match[str]) -> str:
        if is_callable(by):
            groups = [UNDEFINED if each is None else joined(each) for each in found.groups()]
            return units(to_string(call(by, UNDEFINED, [joined(found[0]), *groups, found.start(), joined(text)])))
        special = {"$": "$", "&": found[0], "`": text[: found.start()], "'": text[found.end() :]}

        def one(part: re.Match[str]) -> str:
            if part[1] in special:
                return special[part[1]]
            if part[2]:
                return found.groupdict().get(part[2]) or ""
            number = int(part[1])
            return (found[number] or "") if 0 < number <= (pattern.groups or 0) else part[0]

        return re.sub(r"\$([$&`']|\d\d?|<([^>]*)>)", one, units(to_string(by)))

    return pattern.sub(replacement, text, count=count)


def _match(text: str, what: Any = UNDEFINED) -> Any:
    pattern = what if isinstance(what, JsRegExp) else JsRegExp("(?:)" if what is UNDEFINED else to_string(what))
    if "g" not in pattern.flags:
        found = pattern.find(text)
        return None if found is None else match_array(found, text)
    return [joined(each[0]) for each in pattern.pattern.finditer(text)] or None


def _match_all(text: str, what: Any = UNDEFINED) -> list[Any]:
    pattern = what if isinstance(what, JsRegExp) else JsRegExp("(?:)" if what is UNDEFINED else to_string(what), "g")
    if "g" not in pattern.flags:
        raise JsError("String.prototype.matchAll called with a non-global RegExp argument", "TypeError")
    return [match_array(found, text) for found in pattern.pattern.finditer(text)]


def _search(text: str, what: Any = UNDEFINED) -> int:
    pattern = what if isinstance(what, JsRegExp) else JsRegExp(to_string(what))
    found = pattern.pattern.search(text)
    return found.start() if found else -1


def _padded(text: str, length: Any, filler: Any, *, at_start: bool) -> str:
    wanted, fill = to_integer(length) - len(text), units(" " if filler is UNDEFINED else to_string(filler))
    if wanted <= 0 or not fill:
        return text
    padding = (fill * (wanted // len(fill) + 1))[:wanted]
    return padding + text if at_start else text + padding


_SPACE = numbers.SPACE
STRING_METHODS: dict[str, Any] = {
    "length": Getter(lambda this: len(units(this))),
    "charAt": _text(_char_at),
    "charCodeAt": _text(_char_code_at),
    "codePointAt": _text(_code_point_at),
    "at": _text(lambda text, at=0: text[n] if -len(text) <= (n := to_integer(at)) < len(text) else UNDEFINED),
    "indexOf": _text(_index_of),
    "lastIndexOf": _text(_last_index_of),
    "includes": _text(lambda text, part=UNDEFINED, start=0: _index_of(text, part, start) >= 0),
    "startsWith": _text(lambda text, part=UNDEFINED, at=0: text.startswith(units(to_string(part)), to_integer(at))),
    "endsWith": _text(
        lambda text, part=UNDEFINED, end=UNDEFINED: text[: _place(end, len(text), len(text))].endswith(
            units(to_string(part))
        )
    ),
    "substring": _text(_substring),
    "substr": _text(_substr),
    "slice": _text(_slice),
    "concat": _text(lambda text, *others: text + "".join(units(to_string(each)) for each in others)),
    "repeat": _text(_repeat),
    "split": _text(_split),
    "replace": _text(_replace),
    "replaceAll": _text(lambda text, what=UNDEFINED, by=UNDEFINED: _replace(text, what, by, all=True)),
    "match": _text(_match),
    "matchAll": _text(_match_all),
    "isWellFormed": method(lambda this: well_formed(to_string(this)) == joined(to_string(this))),
    "toWellFormed": method(lambda this: well_formed(to_string(this))),
    "search": _text(_search),
    "trim": _text(lambda text: text.strip(_SPACE)),
    **dict.fromkeys(("trimStart", "trimLeft"), _text(lambda text: text.lstrip(_SPACE))),
    **dict.fromkeys(("trimEnd", "trimRight"), _text(lambda text: text.rstrip(_SPACE))),
    **dict.fromkeys(("toLowerCase", "toLocaleLowerCase"), method(lambda this, *_: to_string(this).lower())),
    **dict.fromkeys(("toUpperCase", "toLocaleUpperCase"), method(lambda this, *_: to_string(this).upper())),
    "padStart": _text(lambda text, length=0, fill=UNDEFINED: _padded(text, length, fill, at_start=True)),
    "padEnd": _text(lambda text, length=0, fill=UNDEFINED: _padded(text, length, fill, at_start=False)),
    "normalize": method(lambda this, form="NFC": _normalized(to_string(this), form)),
    "localeCompare": method(
        lambda this, other=UNDEFINED, *_: (to_string(this) > to_string(other)) - (to_string(this) < to_string(other))
    ),
    **dict.fromkeys(("toString", "valueOf"), method(lambda this: to_string(this))),
}


def _normalized(text: str, form: Any) -> str:
    import unicodedata  # here, because it is large, and few ask

    if form not in ("NFC", "NFD", "NFKC", "NFKD"):
        raise JsError("The normalization form should be one of NFC, NFD, NFKC, NFKD.", "RangeError")
    return unicodedata.normalize(form, text)


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


def _told(write: Callable[..., str]) -> Callable[..., str]:
    """A RangeError in place of a ValueError."""

    def run(*args: Any) -> str:
        try:
            return write(*args)
        except ValueError as error:
            raise JsError(str(error), "RangeError") from error

    return run


def _number_text(this: Any, radix: Any = UNDEFINED) -> str:
    base = to_integer(radix, 10)
    if not 2 <= base <= 36:
        raise JsError("toString() radix must be between 2 and 36", "RangeError")
    return numbers.number_to_string(int(this) if isinstance(this, BigInt) else to_number(this), base)


def _bigint_text(this: Any, radix: Any = UNDEFINED) -> str:
    base, value = to_integer(radix, 10), int(this)
    return str(value) if base == 10 else numbers.integer_in_radix(value, base)


NUMBER_METHODS: dict[str, Any] = {
    "toString": method(_number_text),
    "toLocaleString": method(lambda this, *_: f"{to_number(this):,.3f}".rstrip("0").rstrip(".")),
    "toFixed": method(lambda this, digits=0: _told(numbers.to_fixed)(to_number(this), to_integer(digits))),
    "toExponential": method(
        lambda this, digits=UNDEFINED: _told(numbers.to_exponential)(
            to_number(this), None if digits is UNDEFINED else to_integer(digits)
        )
    ),
    "toPrecision": method(
        lambda this, digits=UNDEFINED: (
            _number_text(this)
            if digits is UNDEFINED
            else _told(numbers.to_precision)(to_number(this), to_integer(digits))
        )
    ),
    "valueOf": method(lambda this: this),
}
BIGINT_METHODS: dict[str, Any] = {"toString": method(_bigint_text), "valueOf": method(lambda this: this)}
BOOLEAN_METHODS: dict[str, Any] = {"toString": method(to_string), "valueOf": method(lambda this: this)}

# ----------------------------------------------------------------------------------------------------------------------
# Arrays


def _array(this: Any) -> list[Any]:
    if not isinstance(this, list):
        raise JsError(f"{to_string(this)} is not an array", "TypeError")
    return this


def _splice(this: Any, start: Any = 0, count: Any = UNDEFINED, *values: Any) -> list[Any]:
    array = _array(this)
    first = _relative(start, len(array))
    last = first + min(max(to_integer(count, len(array)), 0), len(array) - first)
    removed, array[first:last] = array[first:last], list(values)
    return removed


def _array_index(this: Any, wanted: Any = UNDEFINED, start: Any = 0) -> int:
    array = _array(this)
    places = range(_relative(start, len(array)), len(array))
    return next((place for place in places if strictly_equal(array[place], wanted)), -1)


def _sorted(this: Any, compare: Any = UNDEFINED) -> list[Any]:
    def order(one: Any, other: Any) -> int:
        if compare is UNDEFINED:
            left, right = (to_string(each).encode("utf-16-be", "surrogatepass") for each in (one, other))
            return (left > right) - (left < right)
        said = to_number(call(compare, UNDEFINED, [one, other]))
        return (said > 0) - (said < 0)

    _array(this).sort(key=functools.cmp_to_key(order))
    return _array(this)


def _each(this: Any, function: Any) -> list[Any]:
    return [call(function, UNDEFINED, [value, place, this]) for place, value in enumerate(_array(this))]


def _reduce(this: Any, function: Any, *first: Any, last: bool = False) -> Any:
    values = list(enumerate(_array(this)))[:: -1 if last else 1]
    if not values and not first:
        raise JsError("Reduce of empty array with no initial value", "TypeError")
    found = first[0] if first else values.pop(0)[1]
    for place, value in values:
        found = call(function, UNDEFINED, [found, value, place, this])
    return found


def _found(this: Any, function: Any, *, last: bool = False) -> tuple[int, Any]:
    """The first that a function says yes to, or the last, and its place; -1 and undefined without one."""
    values = list(enumerate(_array(this)))[:: -1 if last else 1]
    wanted = (each for each in values if truthy(call(function, UNDEFINED, [each[1], each[0], this])))
    return next(wanted, (-1, UNDEFINED))


def _array_last_index(this: Any, wanted: Any = UNDEFINED, *start: Any) -> int:
    array = _array(this)
    last = to_integer(start[0]) if start else len(array) - 1
    last = len(array) + last if last < 0 else min(last, len(array) - 1)
    return next((place for place in range(last, -1, -1) if strictly_equal(array[place], wanted)), -1)


def _flat(array: list[Any], depth: int) -> list[Any]:
    found: list[Any] = []
    for each in array:
        found += _flat(each, depth - 1) if isinstance(each, list) and depth > 0 else [each]
    return found


def _copied_within(this: Any, target: Any = 0, start: Any = 0, end: Any = UNDEFINED) -> Any:
    array, length = _array(this), len(_array(this))
    to, first = _relative(target, length), _relative(start, length)
    part = array[first : _relative(end, length, length)][: length - to]
    array[to : to + len(part)] = part
    return array


def _with_another(this: Any, place: Any, value: Any = UNDEFINED) -> list[Any]:
    array, at = list(_array(this)), to_integer(place)
    if not -len(array) <= at < len(array):
        raise JsError("Invalid index : " + to_string(place), "RangeError")
    array[at] = value
    return array


def _pushed(this: Any, *values: Any) -> int:
    _array(this).extend(values)
    return len(this)


def _unshifted(this: Any, *values: Any) -> int:
    _array(this)[:0] = values
    return len(this)


def _reversed(this: Any) -> list[Any]:
    _array(this).reverse()
    return _array(this)


def _filled(this: Any, value: Any = UNDEFINED, start: Any = 0, end: Any = UNDEFINED) -> Any:
    array = _array(this)
    for place in range(_relative(start, len(array)), _relative(end, len(array), len(array))):
        array[place] = value
    return array


ARRAY_METHODS: dict[str, Any] = {
    "length": Getter(lambda this: len(this)),
    "push": method(_pushed),
    "pop": method(lambda this: _array(this).pop() if this else UNDEFINED),
    "shift": method(lambda this: _array(this).pop(0) if this else UNDEFINED),
    "unshift": method(_unshifted),
    "slice": method(
        lambda this, start=0, end=UNDEFINED: _array(this)[
            _relative(start, len(this)) : _relative(end, len(this), len(this))
        ]
    ),
    "splice": method(_splice),
    "concat": method(
        lambda this, *others: sum((each if isinstance(each, list) else [each] for each in others), list(_array(this)))
    ),
    "join": method(
        lambda this, separator=UNDEFINED: joined(
            ("," if separator is UNDEFINED else to_string(separator)).join(
                "" if each is None or each is UNDEFINED else to_string(each) for each in _array(this)
            )
        )
    ),
    "reverse": method(_reversed),
    "indexOf": method(_array_index),
    "includes": method(
        lambda this, wanted=UNDEFINED: any(same_value(each, wanted) or strictly_equal(each, wanted) for each in this)
    ),
    "sort": method(_sorted),
    "fill": method(_filled),
    "map": method(_each),
    "forEach": method(lambda this, function: [_each(this, function), UNDEFINED][1]),
    "filter": method(
        lambda this, function: [
            each for each, keeps in zip(list(this), _each(this, function), strict=True) if truthy(keeps)
        ]
    ),
    "some": method(lambda this, function: any(map(truthy, _each(this, function)))),
    "every": method(lambda this, function: all(map(truthy, _each(this, function)))),
    "find": method(lambda this, function: _found(this, function)[1]),
    "findIndex": method(lambda this, function: _found(this, function)[0]),
    "findLast": method(lambda this, function: _found(this, function, last=True)[1]),
    "findLastIndex": method(lambda this, function: _found(this, function, last=True)[0]),
    "lastIndexOf": method(_array_last_index),
    "reduce": method(_reduce),
    "reduceRight": method(lambda this, function, *first: _reduce(this, function, *first, last=True)),
    "flat": method(lambda this, depth=1: _flat(_array(this), to_integer(depth, 1))),
    "flatMap": method(lambda this, function: _flat(_each(this, function), 1)),
    "copyWithin": method(_copied_within),
    "keys": method(lambda this: list(range(len(_array(this))))),
    "values": method(lambda this: list(_array(this))),
    "entries": method(lambda this: [[place, value] for place, value in enumerate(_array(this))]),
    "toReversed": method(lambda this: _array(this)[::-1]),
    "toSorted": method(lambda this, compare=UNDEFINED: _sorted(list(_array(this)), compare)),
    "toSpliced": method(lambda this, *args: [spliced := list(_array(this)), _splice(spliced, *args)][0]),
    "with": method(_with_another),
    "at": method(lambda this, at=0: this[n] if -len(this) <= (n := to_integer(at)) < len(this) else UNDEFINED),
    "toString": method(to_string),
}


def _of_numbers_only(name: str, *, makes: bool = False, changes: bool = False) -> Function:
    """A method of arrays, for typed arrays: `makes` another one of its kind, `changes` it in place."""
    body = ARRAY_METHODS[name].body

    def run(this: Any, *args: Any) -> Any:
        values = elements_of(this)
        if name in ("sort", "toSorted") and (not args or args[0] is UNDEFINED):
            values.sort(key=lambda each: (math.isnan(each), each, math.copysign(1, each)))
            found: Any = values
        else:
            found = body(values, *args)
        if changes:
            for place, value in enumerate(values):
                this.set(place, value)
            return this
        return TypedArray(this.name, found) if makes else found

    return Function(run, name)


TypedArray.methods |= {
    **{
        name: _of_numbers_only(name)
        for name in [
            "at",
            "entries",
            "every",
            "find",
            "findIndex",
            "findLast",
            "findLastIndex",
            "forEach",
            "includes",
            "indexOf",
            "join",
            "keys",
            "lastIndexOf",
            "reduce",
            "reduceRight",
            "some",
            "toString",
            "values",
        ]
    },
    **{name: _of_numbers_only(name, makes=True) for name in ("filter", "map", "toReversed", "toSorted", "with")},
    **{name: _of_numbers_only(name, changes=True) for name in ("copyWithin", "reverse", "sort")},
    "BYTES_PER_ELEMENT": Getter(lambda this: this.size),
}

# ----------------------------------------------------------------------------------------------------------------------
# Global objects


def _static(name: str, *, body: Any = None, make: Any = None, kind: Any = None, **properties: Any) -> Function:
    """A constructor: what it does when it is called, what `new` makes, and its own functions."""
    made = Function(body or (lambda this, *args: (make or JsObject)(*args)), name, make=make, kind=kind)
    for key, value in properties.items():
        made.set(key, Function(lambda _, *args, value=value: value(*args), key) if callable(value) else value)
    return made


def prototype(methods: dict[str, Any]) -> JsObject:
    """Return an object whose functions take `this` of any value."""
    return JsObject({key: value for key, value in methods.items() if not isinstance(value, Getter)})


def _of_numbers(function: Callable[..., float]) -> Callable[..., float]:
    """A function of Math: NaN where Python's has an error, and infinite where that is too large."""

    def run(*args: Any) -> float:
        try:
            return function(*map(to_number, args))
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return run


def _log(function: Callable[[float], float], at: float = 0) -> Callable[[float], float]:
    return lambda x: -math.inf if x == at else function(x)


def _rounded(x: float) -> float:
    if not math.isfinite(x) or x == int(x):
        return x
    found = math.floor(x + 0.5) if abs(x) < 1 << 52 else x
    return math.copysign(0.0, x) if found == 0 else found


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda x: math.copysign(float(function(x)), x) if math.isfinite(x) else x


def _extreme(choose: Callable[..., Any], none: float) -> Callable[..., float]:
    def run(*values: Any) -> float:
        if any(map(math.isnan, values)):
            return math.nan
        return choose(values, key=lambda each: (each, math.copysign(1, each))) if values else none

    return run


def _single(x: float) -> float:
    try:
        found: float = struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)
    return found


def _signed(x: float) -> float:
    return x if x == 0 or math.isnan(x) else math.copysign(1, x)


def _exponential(x: float) -> float:
    return math.inf if x > 710 else math.exp(x)


def _cube_root(x: float) -> float:
    found = math.cbrt(x)
    whole = round(found) if math.isfinite(found) else 0
    return math.copysign(float(whole), x) if whole**3 == x else found


_MATH: dict[str, Callable[..., float]] = {
    **{
        name: getattr(math, name)
        for name in [
            "acos",
            "asin",
            "atan",
            "atan2",
            "cbrt",
            "cos",
            "sin",
            "tan",
            "tanh",
            "asinh",
            "hypot",
            "sqrt",
            "expm1",
            "sinh",
            "cosh",
        ]
    },
    "exp": _exponential,
    "cbrt": _cube_root,
    "acosh": lambda x: x if x == math.inf else math.acosh(x),
    "atanh": lambda x: math.copysign(math.inf, x) if abs(x) == 1 else math.atanh(x),
    "log": _log(math.log),
    "log2": _log(math.log2),
    "log10": _log(math.log10),
    "log1p": _log(math.log1p, -1),
    "pow": power,
    "abs": abs,
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "trunc": _whole(math.trunc),
    "round": _rounded,
    "sign": _signed,
    "fround": _single,
    "max": _extreme(max, -math.inf),
    "min": _extreme(min, math.inf),
    "imul": lambda a, b: to_int32(to_int32(a) * to_int32(b)),
    "clz32": lambda x: 32 - (to_int32(x) % (1 << 32)).bit_length(),
    "random": random.random,
}


def math_object() -> JsObject:
    """Return Math."""
    made = JsObject({"PI": math.pi, "E": math.e, "LN2": math.log(2), "LN10": math.log(10), "SQRT2": math.sqrt(2)})
    made.properties |= {"LOG2E": 1 / math.log(2), "LOG10E": 0.4342944819032518, "SQRT1_2": math.sqrt(0.5)}
    for name, function in _MATH.items():
        run = _of_numbers(function)
        made.set(name, Function(lambda _, *args, run=run: run(*args), name))
    return made


def _json_text(value: Any, replacer: Any = UNDEFINED, indent: Any = UNDEFINED) -> Any:
    if replacer is not UNDEFINED and replacer is not None:
        raise JsError("JSON.stringify with a replacer is not supported", "TypeError")
    step = units(indent)[:10] if isinstance(indent, str) else " " * min(max(to_integer(indent), 0), 10)

    def written(each: Any, outer: str) -> str:
        inner = outer + step
        if isinstance(each, JsObject):
            if isinstance(own := each.get("toJSON"), Function):
                return written(own.body(each), outer)
            pairs = [(key, each.properties[key]) for key in _keys(each)]
            colon = ": " if step else ":"
            return enclosed("{}", [f"{_quoted(k)}{colon}{written(v, inner)}" for k, v in pairs if _has_json(v)], outer)
        if isinstance(each, list):
            return enclosed("[]", [written(v, inner) if _has_json(v) else "null" for v in each], outer)
        if isinstance(each, str):
            return _quoted(each)
        if is_number(each) and not math.isfinite(each):
            return "null"
        if isinstance(each, BigInt):
            raise JsError("Do not know how to serialize a BigInt", "TypeError")
        return to_string(each)

    def enclosed(brackets: str, parts: list[str], outer: str) -> str:
        start, end = brackets[0], brackets[1]
        if not step or not parts:
            return start + ",".join(parts) + end
        inner = outer + step
        return f"{start}\n{inner}" + f",\n{inner}".join(parts) + f"\n{outer}{end}"

    return written(value, "") if _has_json(value) else UNDEFINED


def _quoted(text: str) -> str:
    quoted = json.dumps(joined(text), ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _has_json(value: Any) -> bool:
    return value is not UNDEFINED and not isinstance(value, Symbol) and not is_callable(value)


def _from_json(text: Any = UNDEFINED, reviver: Any = UNDEFINED) -> Any:
    try:
        found = json.loads(to_string(text), object_pairs_hook=lambda pairs: JsObject(dict(pairs)))
    except ValueError as error:
        raise JsError(str(error), "SyntaxError") from error
    return _revived(JsObject({"": found}), "", reviver) if is_callable(reviver) else found


def _revived(holder: Any, key: Any, reviver: Any) -> Any:
    value = holder[int(key)] if isinstance(holder, list) else holder.get(key)
    for each in _keys(value) if isinstance(value, list | JsObject) else []:
        new = _revived(value, each, reviver)
        if isinstance(value, list):
            value[int(each)] = new
        elif new is UNDEFINED:
            value.properties.pop(each, None)
        else:
            value.set(each, new)
    return call(reviver, holder, [key, value])


def _from_char_codes(*codes: Any) -> str:
    return joined("".join(chr(to_int32(each) & 0xFFFF) for each in codes))


def _from_code_points(*points: Any) -> str:
    for each in points:
        if not 0 <= (number := to_number(each)) <= 0x10FFFF or number != int(number):
            raise JsError(f"Invalid code point {to_string(each)}", "RangeError")
    return joined("".join(chr(int(to_number(each))) for each in points))


def _new_date(*parts: Any) -> JsDate:
    if not parts:
        return JsDate(math.floor(time.time() * 1000))
    if len(parts) == 1:
        (given,) = parts
        if isinstance(given, JsDate):
            return JsDate(given.milliseconds)
        return JsDate(parse_date(given) if isinstance(given, str) else to_number(given))
    return JsDate(moment_of(_full_year(parts), is_local=True))


def _full_year(parts: Any) -> list[Any]:
    year = to_number(parts[0])
    return [1900 + int(year) if 0 <= year <= 99 else year, *parts[1:]]


def _new_array(*values: Any) -> list[Any]:
    if len(values) == 1 and is_number(values[0]):
        return [UNDEFINED] * to_integer(values[0])
    return list(values)


def _keys(value: Any) -> list[Any]:
    if isinstance(value, list | str):
        return [str(number) for number in range(len(value))]
    return [key for key in value.properties if isinstance(key, str)] if isinstance(value, JsObject) else []


def _pair(value: Any) -> list[Any]:
    found = elements_of(value)
    return [*found, UNDEFINED, UNDEFINED][:2]


def _assigned(target: JsObject, *sources: Any) -> JsObject:
    for source in sources:
        for key in _keys(source):
            target.set(key, source.get(key) if isinstance(source, JsObject) else source[int(key)])
    return target


def _own_property(value: Any, key: Any) -> Any:
    if isinstance(key, Symbol):
        return isinstance(value, JsObject) and key in value.properties
    name = to_string(key)
    if isinstance(value, list | str):
        return name == "length" or (name.isdecimal() and int(name) < len(value))
    return isinstance(value, JsObject) and name in value.properties


def _define_property(value: Any, key: Any, descriptor: Any) -> Any:
    if not isinstance(value, JsObject):
        raise JsError("Object.defineProperty called on non-object", "TypeError")
    name = key if isinstance(key, Symbol) else to_string(key)
    if is_callable(read := descriptor.get("get")):
        value.set(name, Getter(lambda this: call(read, this, [])))
    else:
        value.set(name, descriptor.get("value"))
    return value


ARRAY_METHODS["hasOwnProperty"] = method(_own_property)
JsObject.methods = {
    "hasOwnProperty": method(_own_property),
    "propertyIsEnumerable": method(_own_property),
    "isPrototypeOf": method(lambda this, value=UNDEFINED: False),
}


def _registry(clean_up: Any = UNDEFINED) -> JsObject:
    """A FinalizationRegistry. What it is told of is never said to be gone, as an engine that ends before may do."""
    registered: list[Any] = []

    def register(_: Any, target: Any, held: Any = UNDEFINED, token: Any = UNDEFINED) -> Any:
        if token is not UNDEFINED:
            registered.append(token)
        return UNDEFINED

    def unregister(_: Any, token: Any = UNDEFINED) -> bool:
        count = len(registered)
        registered[:] = [each for each in registered if not strictly_equal(each, token)]
        return len(registered) < count

    return JsObject({"register": Function(register), "unregister": Function(unregister)})


def _random_values(array: Any = UNDEFINED) -> Any:
    if not isinstance(array, TypedArray) or array.format in "fd":
        raise JsError("The data argument must be an integer-type TypedArray", "TypeError")
    size = array.length * array.size
    if size > 65_536:
        raise JsError("The requested length exceeds 65,536 bytes", "QuotaExceededError")
    array.buffer.data[array.offset : array.offset + size] = secrets.token_bytes(size)
    return array


_SYMBOLS: dict[str, Symbol] = {}


def library(clock: Callable[[], float] = time.time) -> dict[str, Any]:
    """Return the global objects of the language; `clock` tells the seconds since 1970."""
    found: dict[str, Any] = {
        "Math": math_object(),
        "JSON": JsObject(
            {"stringify": Function(lambda _, *a: _json_text(*a)), "parse": Function(lambda _, *a: _from_json(*a))}
        ),
        "String": _static(
            "String",
            body=lambda _, value="": to_string(value),
            make=lambda value="": to_string(value),
            kind=str,
            fromCharCode=_from_char_codes,
            fromCodePoint=_from_code_points,
            prototype=prototype(STRING_METHODS),
        ),
        "Number": _static(
            "Number",
            body=lambda _, value=0: to_number(int(value) if isinstance(value, BigInt) else value),
            make=lambda value=0: to_number(value),
            kind=lambda value: False,
            isInteger=lambda value=UNDEFINED: is_number(value) and math.isfinite(value) and value == int(value),
            isSafeInteger=lambda value=UNDEFINED: is_number(value) and abs(value) < 1 << 53 and value == int(value),
            isFinite=lambda value=UNDEFINED: is_number(value) and math.isfinite(value),
            isNaN=lambda value=UNDEFINED: is_number(value) and math.isnan(value),
            parseFloat=lambda text=UNDEFINED: numbers.parse_float(to_string(text)),
            parseInt=lambda text=UNDEFINED, radix=0: numbers.parse_int(to_string(text), to_integer(radix)),
            MAX_SAFE_INTEGER=(1 << 53) - 1,
            MIN_SAFE_INTEGER=1 - (1 << 53),
            MAX_VALUE=1.7976931348623157e308,
            MIN_VALUE=5e-324,
            EPSILON=2.0**-52,
            POSITIVE_INFINITY=math.inf,
            NEGATIVE_INFINITY=-math.inf,
            NaN=math.nan,
            prototype=prototype(NUMBER_METHODS),
        ),
        "Boolean": _static("Boolean", body=lambda _, value=UNDEFINED: truthy(value), kind=lambda value: False),
        "BigInt": _static(
            "BigInt",
            body=lambda _, value=0: BigInt(int(value, 0) if isinstance(value, str) else int(value)),
            kind=lambda value: False,
            asIntN=lambda bits, value: BigInt(
                (int(value) + (1 << int(bits) - 1)) % (1 << int(bits)) - (1 << int(bits) - 1)
            ),
            asUintN=lambda bits, value: BigInt(int(value) % (1 << int(bits))),
            prototype=prototype(BIGINT_METHODS),
        ),
        "Symbol": _static(
            "Symbol",
            body=lambda _, name="": Symbol(to_string(name)),
            kind=Symbol,
            iterator=Symbol("iterator"),
            asyncIterator=Symbol("asyncIterator"),
            **{"for": lambda name=UNDEFINED: _SYMBOLS.setdefault(to_string(name), Symbol(to_string(name)))},
        ),
        "Array": _static(
            "Array",
            make=_new_array,
            kind=list,
            isArray=lambda value=UNDEFINED: isinstance(value, list),
            of=lambda *values: list(values),
            **{
                "from": lambda values, function=UNDEFINED: (
                    elements_of(values) if function is UNDEFINED else _each(elements_of(values), function)
                )
            },
            prototype=prototype(ARRAY_METHODS),
        ),
        "Object": _static(
            "Object",
            make=lambda value=UNDEFINED: JsObject() if value is None or value is UNDEFINED else value,
            kind=lambda value: isinstance(value, JsObject | list) or is_callable(value),
            keys=_keys,
            values=lambda value: [
                value.get(key) if isinstance(value, JsObject) else value[int(key)] for key in _keys(value)
            ],
            entries=lambda value: [
                [key, value.get(key) if isinstance(value, JsObject) else value[int(key)]] for key in _keys(value)
            ],
            assign=_assigned,
            create=lambda prototype=None, *_: JsObject(),
            freeze=lambda value=UNDEFINED: value,
            **dict.fromkeys(("seal", "preventExtensions"), lambda value=UNDEFINED: value),
            **dict.fromkeys(("isFrozen", "isSealed"), lambda value=UNDEFINED: not isinstance(value, JsObject | list)),
            isExtensible=lambda value=UNDEFINED: isinstance(value, JsObject | list),
            getOwnPropertyNames=lambda value: [*_keys(value), *(["length"] if isinstance(value, list | str) else [])],
            hasOwn=_own_property,
            fromEntries=lambda values: JsObject(
                {to_string(key): value for key, value in map(_pair, elements_of(values))}
            ),
            defineProperty=_define_property,
            getPrototypeOf=lambda value=UNDEFINED: None,
            getOwnPropertyDescriptor=_descriptor,
            is_=same_value,
        ),
        "Function": _static("Function", kind=is_callable, prototype=prototype(FUNCTION_METHODS)),
        "RegExp": _static(
            "RegExp",
            make=lambda source="(?:)", flags=UNDEFINED: JsRegExp(
                source.source if isinstance(source, JsRegExp) else to_string(source),
                "" if flags is UNDEFINED else to_string(flags),
            ),
            kind=JsRegExp,
            prototype=prototype(JsRegExp.methods),
        ),
        "Date": _static(
            "Date",
            body=lambda _, *__: _new_date().text(),
            make=lambda *parts: _new_date(*parts) if parts else JsDate(math.floor(clock() * 1000)),
            kind=JsDate,
            now=lambda: math.floor(clock() * 1000),
            parse=lambda text=UNDEFINED: parse_date(to_string(text)),
            UTC=lambda *parts: moment_of(_full_year(parts), is_local=False),
            prototype=prototype(JsDate.methods),
        ),
        "ArrayBuffer": _static(
            "ArrayBuffer",
            make=lambda size=0: ArrayBuffer(to_integer(size)),
            kind=ArrayBuffer,
            isView=lambda value=UNDEFINED: isinstance(value, TypedArray | DataView),
        ),
        "DataView": _static("DataView", make=DataView, kind=DataView),
        "TextDecoder": _static("TextDecoder", make=TextDecoder, kind=TextDecoder),
        "TextEncoder": _static("TextEncoder", make=TextEncoder, kind=TextEncoder),
        "FinalizationRegistry": _static("FinalizationRegistry", make=_registry),
        "crypto": JsObject(
            {
                "getRandomValues": Function(lambda _, array=UNDEFINED: _random_values(array)),
                "randomUUID": Function(lambda _: str(uuid.uuid4())),
            }
        ),
        "WeakRef": _static("WeakRef", make=WeakReference, kind=WeakReference),
        "parseFloat": Function(lambda _, text=UNDEFINED: numbers.parse_float(to_string(text))),
        "parseInt": Function(lambda _, text=UNDEFINED, radix=0: numbers.parse_int(to_string(text), to_integer(radix))),
        "isNaN": Function(lambda _, value=UNDEFINED: math.isnan(to_number(value))),
        "isFinite": Function(lambda _, value=UNDEFINED: math.isfinite(to_number(value))),
        **{name: Function(body, name) for name, body in functions().items()},
    }
    found["Object"].set("is", found["Object"].properties.pop("is_"))
    found["Object"].set(
        "prototype", JsObject({"toString": Function(lambda this: f"[object {getattr(this, 'name', 'Object')}]")})
    )
    found["DataView"].set("prototype", _Prototype(DataView.methods))
    found["Reflect"] = JsObject(
        {
            "apply": Function(lambda _, function, this, args: call(function, this, elements_of(args))),
            "ownKeys": Function(lambda _, value: [*_keys(value), *(["length"] if isinstance(value, list) else [])]),
            "defineProperty": Function(lambda _, *args: [_define_property(*args), True][1]),
        }
    )
    for kind in TYPED_ARRAYS:
        found[kind] = _typed_array(kind)
    for kind in ("Map", "Set", "WeakMap", "WeakSet"):
        found[kind] = _map_kind(kind)
    for kind in ("Error", "TypeError", "RangeError", "SyntaxError", "ReferenceError", "EvalError", "URIError"):
        found[kind] = _error_kind(kind)
    return found


class _Prototype(JsObject):
    """A prototype whose accessors can be had: `Object.getOwnPropertyDescriptor(prototype, name).get`."""

    def __init__(self, methods: dict[str, Any]) -> None:
        super().__init__({key: value for key, value in methods.items() if not isinstance(value, Getter)})
        self.accessors = {key: value for key, value in methods.items() if isinstance(value, Getter)}


def _descriptor(value: Any, key: Any) -> Any:
    if isinstance(value, _Prototype) and key in value.accessors:
        accessor = value.accessors[key]
        return JsObject({"get": Function(lambda this: accessor(this))})
    if isinstance(value, JsObject) and key in value.properties:
        return JsObject({"value": value.properties[key], "writable": True})
    return UNDEFINED


def _typed_array(kind: str) -> Function:
    size = TypedArray(kind).size
    return _static(
        kind,
        make=lambda *args: TypedArray(kind, *args),
        kind=lambda value: isinstance(value, TypedArray) and value.name == kind,
        BYTES_PER_ELEMENT=size,
        prototype=_Prototype(TypedArray.methods),
    )


def _map_kind(kind: str) -> Function:
    def make(values: Any = UNDEFINED) -> JsMap:
        made = JsMap(kind)
        for each in [] if values is UNDEFINED or values is None else elements_of(values):
            made.put(*(each[:2] if kind.endswith("Map") else (each, each)))
        return made

    return _static(kind, make=make, kind=lambda value: isinstance(value, JsMap) and value.name == kind)


def _error_kind(kind: str) -> Function:
    def make(message: Any = "", options: Any = UNDEFINED, *_: Any) -> JsError:
        made = JsError("" if message is UNDEFINED else message, kind)
        if isinstance(options, JsObject) and "cause" in options.properties:
            made.set("cause", options.get("cause"))
        return made

    def is_one(value: Any) -> bool:
        if kind == "Error":
            return isinstance(value, BaseException)
        return isinstance(value, JsError) and value.properties["name"] == kind

    return _static(
        kind, body=lambda _, *args: make(*args), make=make, kind=is_one, captureStackTrace=lambda *_: UNDEFINED
    )
