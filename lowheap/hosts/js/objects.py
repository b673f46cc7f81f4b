"""Objects of JavaScript's library: dates, regular expressions, buffers and views, weak maps, promises."""

from __future__ import annotations

import email.utils
import math
import re
import struct
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from lowheap.hosts.js.loop import EventLoop
from lowheap.hosts.js.values import (
    UNDEFINED,
    BigInt,
    Function,
    Getter,
    JsError,
    JsObject,
    Thrown,
    call,
    is_callable,
    joined,
    to_integer,
    to_number,
    to_string,
    truthy,
    units,
)
from lowheap.objects import Func, GcObject

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_MILLISECONDS = 8.64e15


def method(body: Callable[..., Any], name: str = "") -> Function:
    """Return a function whose first argument is `this`."""
    return Function(body, name or body.__name__.strip("_"))


# ----------------------------------------------------------------------------------------------------------------------
# Dates


class JsDate(JsObject):
    """A moment, in milliseconds since 1970, UTC; NaN for none."""

    name = "Date"

    def __init__(self, milliseconds: float) -> None:
        """Keep the moment."""
        super().__init__()
        is_one = math.isfinite(milliseconds) and abs(milliseconds) <= _MOST_MILLISECONDS
        self.milliseconds: float = int(milliseconds) if is_one else math.nan

    def local_offset(self) -> int:
        """Return how many minutes local time is behind UTC then."""
        try:
            return -time.localtime(self.milliseconds / 1000).tm_gmtoff // 60
        except (OverflowError, ValueError, OSError):
            return 0

    def parts(self, *, is_local: bool) -> tuple[int, ...] | None:
        """Return year, month from 0, day, hours, minutes, seconds, milliseconds, weekday from Sunday; None for NaN."""
        if math.isnan(self.milliseconds):
            return None
        moment = int(self.milliseconds) - (self.local_offset() * 60_000 if is_local else 0)
        days, rest = divmod(moment, 86_400_000)
        year, month, day = _civil(days)
        hours, rest = divmod(rest, 3_600_000)
        minutes, rest = divmod(rest, 60_000)
        return year, month - 1, day, hours, minutes, *divmod(rest, 1000), (days + 4) % 7

    def iso(self) -> str:
        """Return what `toISOString` returns. A JsError for no moment."""
        parts = self.parts(is_local=False)
        if parts is None:
            raise JsError("Invalid time value", "RangeError")
        year, month, day, hours, minutes, seconds, milliseconds, _ = parts
        shown = f"{year:04}" if 0 <= year <= 9999 else f"{'-' if year < 0 else '+'}{abs(year):06}"
        return f"{shown}-{month + 1:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{milliseconds:03}Z"

    def text(self) -> str:
        """Return what `toString` returns."""
        parts = self.parts(is_local=True)
        if parts is None:
            return "Invalid Date"
        year, month, day, hours, minutes, seconds, _, weekday = parts
        behind = self.local_offset()
        zone = f"GMT{'-' if behind > 0 else '+'}{abs(behind) // 60:02}{abs(behind) % 60:02}"
        names = time.localtime(self.milliseconds / 1000).tm_zone
        date = f"{_DAYS[weekday]} {_MONTHS[month]} {day:02} {year:04}"
        return f"{date} {hours:02}:{minutes:02}:{seconds:02} {zone} ({names})"


_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PARTS = ("FullYear", "Month", "Date", "Hours", "Minutes", "Seconds", "Milliseconds")


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month from 1 and day of a day since 1970, in the Gregorian calendar, in all years."""
    cycles, rest = divmod(days - 11_017, 146_097)  # 2000-03-01
    centuries = min(rest // 36_524, 3)
    rest -= centuries * 36_524
    fours = min(rest // 1461, 24)
    rest -= fours * 1461
    years = min(rest // 365, 3)
    rest -= years * 365
    month = (5 * rest + 2) // 153
    day = rest - (153 * month + 2) // 5 + 1
    year = 2000 + cycles * 400 + centuries * 100 + fours * 4 + years
    return (year, month + 3, day) if month < 10 else (year + 1, month - 9, day)


def _days(year: int, month: int) -> int:
    """The days from 1970 to the first of a month, from 0; months beyond a year are other years' months."""
    year, month = year + month // 12, month % 12
    shifted = year - (month < 2)
    cycles, in_cycle = divmod(shifted, 400)
    in_year = (153 * ((month + 10) % 12) + 2) // 5
    return cycles * 146_097 + in_cycle * 365 + in_cycle // 4 - in_cycle // 100 + in_year - 719_468


def moment_of(parts: list[Any], *, is_local: bool) -> float:
    """Return the milliseconds of year, month from 0, and so on; NaN if one is no number."""
    given = [to_number(each) for each in parts]
    if not all(map(math.isfinite, given)):
        return math.nan
    numbers = [int(each) for each in given] + [0, 0, 1, 0, 0, 0, 0][len(given) :]
    year, month, day, hours, minutes, seconds, milliseconds = numbers[:7]
    moment = (_days(year, month) + day - 1) * 86_400_000
    moment += hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + milliseconds
    if is_local:
        guess = moment + JsDate(moment).local_offset() * 60_000
        moment += JsDate(guess).local_offset() * 60_000
    return float(moment)


_ISO = re.compile(
    r"([+-]\d{6}|\d{4})(?:-(\d\d)(?:-(\d\d))?)?(?:T(\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?(Z|[+-]\d\d:?\d\d)?)?"
)


def parse_date(text: str) -> float:
    """Return what `Date.parse` returns: of ISO's formats, and of those of mail."""
    if found := _ISO.fullmatch(text.strip()):
        year, month, day, hours, minutes, seconds, fraction, zone = found.groups()
        thousandths = int((fraction or "0").ljust(3, "0")[:3])
        parts = [int(year), int(month or 1) - 1, int(day or 1), int(hours or 0), int(minutes or 0), int(seconds or 0)]
        moment = moment_of([*parts, thousandths], is_local=hours is not None and zone is None)
        if zone not in (None, "Z"):
            sign = -1 if zone[0] == "+" else 1
            moment += sign * (int(zone[1:3]) * 60 + int(zone[-2:])) * 60_000
        return moment
    try:
        parsed = email.utils.parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return math.nan
    return (parsed.astimezone(UTC) - _EPOCH) / timedelta(milliseconds=1)


def _date_methods() -> dict[str, Any]:
    methods: dict[str, Any] = {
        "getTime": method(lambda this: this.milliseconds),
        "valueOf": method(lambda this: this.milliseconds),
        "getTimezoneOffset": method(lambda this: this.local_offset()),
        "toISOString": method(JsDate.iso),
        "toJSON": method(lambda this, *_: None if math.isnan(this.milliseconds) else this.iso()),
        "toString": method(JsDate.text),
        "toLocaleString": method(lambda this, *_: JsDate.text(this)[:24]),
        "setTime": method(lambda this, value: _set_moment(this, to_number(value))),
    }
    for is_local in (True, False):
        zone = "" if is_local else "UTC"
        for number, part in enumerate(_PARTS):

            def get(this: JsDate, *, number: int = number, is_local: bool = is_local) -> float:
                parts = this.parts(is_local=is_local)
                return math.nan if parts is None else parts[number]

            def set(this: JsDate, *values: Any, number: int = number, is_local: bool = is_local) -> float:
                parts: list[Any] = list((this.parts(is_local=is_local) or (1970, 0, 1, 0, 0, 0, 0))[:7])
                parts[number : number + len(values)] = values
                return _set_moment(this, moment_of(parts[:7], is_local=is_local))

            methods[f"get{zone}{part}"], methods[f"set{zone}{part}"] = method(get), method(set)
        methods[f"get{zone}Day"] = method(
            lambda this, *, is_local=is_local: (
                math.nan if (found := this.parts(is_local=is_local)) is None else found[7]
            )
        )
    return methods


def _set_moment(date: JsDate, moment: float) -> float:
    date.milliseconds = JsDate(moment).milliseconds
    return date.milliseconds


JsDate.methods = _date_methods()

# ----------------------------------------------------------------------------------------------------------------------
# Regular expressions


class JsRegExp(JsObject):
    """A regular expression, as one of Python's."""

    name = "RegExp"

    def __init__(self, source: str, flags: str = "") -> None:
        """Compile it. A JsError where that is not to be had."""
        super().__init__({"lastIndex": 0})
        self.source, self.flags = source, "".join(sorted(flags))
        if set(flags) - set("dgimsuvy") or len(set(flags)) != len(flags):
            raise JsError(f"Invalid flags supplied to RegExp constructor '{flags}'", "SyntaxError")
        options = re.IGNORECASE * ("i" in flags) | re.MULTILINE * ("m" in flags) | re.DOTALL * ("s" in flags)
        try:
            self.pattern = re.compile(_python_pattern(source, is_multiline="m" in flags), options)
        except re.error as error:
            raise JsError(f"Invalid regular expression: /{source}/: {error}", "SyntaxError") from error

    def find(self, text: str) -> re.Match[str] | None:
        """Find it in a text of code units, where `lastIndex` says, which is moved on."""
        is_sticky, moves = "y" in self.flags, "g" in self.flags or "y" in self.flags
        start = to_integer(self.properties["lastIndex"]) if moves else 0
        found = None
        if 0 <= start <= len(text):
            found = self.pattern.match(text, start) if is_sticky else self.pattern.search(text, start)
        if moves:
            self.properties["lastIndex"] = found.end() if found else 0
        return found

    def exec(self, text: Any) -> Any:
        """Return what `exec` returns."""
        whole = units(to_string(text))
        found = self.find(whole)
        return None if found is None else match_array(found, whole)


class Matched(list[Any]):
    """An array of what was matched, with the properties that such have."""

    properties: dict[str, Any]


def match_array(found: re.Match[str], text: str) -> Matched:
    """Return a match as JavaScript has it."""
    made = Matched(UNDEFINED if each is None else joined(each) for each in (found[0], *found.groups()))
    groups = {name: UNDEFINED if each is None else joined(each) for name, each in found.groupdict().items()}
    made.properties = {
        "index": found.start(),
        "input": joined(text),
        "groups": JsObject(groups) if groups else UNDEFINED,
    }
    return made


_GROUP = re.compile(r"\(\?<([A-Za-z_$][\w$]*)>")
_REFERENCE = re.compile(r"\\k<([^>]*)>")


def _python_pattern(source: str, *, is_multiline: bool) -> str:
    """A pattern of JavaScript's as Python has it."""
    source = _REFERENCE.sub(r"(?P=\1)", _GROUP.sub(r"(?P<\1>", source))
    out, place, in_class = [], 0, False
    while place < len(source):
        here = source[place]
        two = source[place : place + 2]
        if here == "\\" and len(two) == 2:
            place += 2
            if found := re.match(r"u\{([0-9a-fA-F]+)\}", source[place - 1 :]):
                place += len(found[0]) - 1
                out.append(re.escape(chr(int(found[1], 16))))
            elif two == "\\c" and place < len(source):
                out.append(re.escape(chr(ord(source[place]) % 32)))
                place += 1
            elif two[1].isalnum() or in_class:
                out.append({"\\d": "0-9" if in_class else "[0-9]", "\\/": "/", "\\-": "\\-"}.get(two, two))
            else:
                out.append(re.escape(two[1]))
            continue
        place += 1
        if in_class:
            in_class = here != "]"
            out.append("\\[" if here == "[" else here)
        elif here == "[":
            if source.startswith("[^]", place - 1):
                out.append("(?s:.)")
                place += 2
            elif two == "[]":
                out.append("(?!)")
                place += 1
            else:
                in_class = True
                out.append(here)
        else:
            out.append(r"\Z" if here == "$" and not is_multiline else here)
    return "".join(out)


def _has_flag(flag: str) -> Callable[[JsRegExp], bool]:
    return lambda this: flag in this.flags


JsRegExp.methods = {
    "exec": method(lambda this, text=UNDEFINED: this.exec(text)),
    "test": method(lambda this, text=UNDEFINED: this.find(units(to_string(text))) is not None),
    "toString": method(lambda this: f"/{this.source}/{this.flags}"),
    "source": Getter(lambda this: this.source),
    "flags": Getter(lambda this: this.flags),
    **{
        name: Getter(_has_flag(flag))
        for name, flag in {
            "global": "g",
            "ignoreCase": "i",
            "multiline": "m",
            "dotAll": "s",
            "unicode": "u",
            "sticky": "y",
        }.items()
    },
}

# ----------------------------------------------------------------------------------------------------------------------
# Buffers and views


class ArrayBuffer(JsObject):
    """Bytes."""

    name = "ArrayBuffer"

    def __init__(self, size: int | bytearray) -> None:
        """Make so many zeros, or take these."""
        super().__init__()
        self._data = size if isinstance(size, bytearray) else bytearray(size)

    @property
    def data(self) -> Any:
        """The bytes: a bytearray, or what is like one."""
        return self._data


ArrayBuffer.methods = {
    "byteLength": Getter(lambda this: len(this.data)),
    "slice": method(
        lambda this, start=0, end=UNDEFINED: ArrayBuffer(this.data[slice(*_range(start, end, len(this.data)))])
    ),
}


def _range(start: Any, end: Any, length: int) -> tuple[int, int]:
    """What `slice` takes, of its arguments."""
    first, last = to_integer(start), to_integer(end, length)
    first = max(length + first, 0) if first < 0 else min(first, length)
    last = max(length + last, 0) if last < 0 else min(last, length)
    return first, max(first, last)


_ELEMENTS = {
    "Int8Array": "b",
    "Uint8Array": "B",
    "Uint8ClampedArray": "B",
    "Int16Array": "h",
    "Uint16Array": "H",
    "Int32Array": "i",
    "Uint32Array": "I",
    "Float32Array": "f",
    "Float64Array": "d",
    "BigInt64Array": "q",
    "BigUint64Array": "Q",
}
TYPED_ARRAYS = tuple(_ELEMENTS)


def packed(format: str, value: Any, *, clamps: bool = False) -> Any:
    """Return a value as an element of a format holds it: wrapped around, or clamped."""
    number = to_number(value)
    if format in "fd":
        if format == "f" and math.isfinite(number):
            try:
                struct.pack("<f", number)
            except OverflowError:
                return math.copysign(math.inf, number)
        return float(number)
    if clamps:
        return 0 if math.isnan(number) else min(max(round(number), 0), 255)
    bits = 8 * struct.calcsize(format)
    whole = int(number) if math.isfinite(number) else 0
    least = -(1 << (bits - 1)) if format.islower() else 0
    return (whole - least) % (1 << bits) + least


class TypedArray(JsObject):
    """A view of a buffer's numbers."""

    def __init__(self, kind: str, source: Any = 0, offset: Any = 0, length: Any = UNDEFINED) -> None:
        """Make one of so many zeros, of values, or of a buffer. A JsError for a place that is not in it."""
        super().__init__()
        self.name = kind
        self.format = _ELEMENTS[kind]
        self.size = struct.calcsize(self.format)
        values: list[Any] = []
        if isinstance(source, ArrayBuffer):
            self.buffer, self.offset = source, to_integer(offset)
            left = len(source.data) - self.offset
            count = to_integer(length, left // self.size)
            if self.offset % self.size or left < 0 or count < 0 or count * self.size > left:
                raise JsError(f"Invalid typed array length: {count}", "RangeError")
        else:
            values = elements_of(source) if isinstance(source, list | TypedArray) else []
            count = len(values) or (0 if isinstance(source, list | TypedArray) else to_integer(source))
            self.buffer, self.offset = ArrayBuffer(count * self.size), 0
        self.length = count
        for number, value in enumerate(values):
            self.set(number, value)

    @property
    def view(self) -> Any:
        """The numbers."""
        data = memoryview(self.buffer.data)[self.offset : self.offset + self.length * self.size]
        format: Any = self.format
        return data.cast(format)

    def get(self, key: Any) -> Any:
        """Return an element, or a property."""
        if isinstance(key, int | float) and not isinstance(key, bool):
            if not 0 <= key < self.length or key != int(key):
                return UNDEFINED
            found = self.view[int(key)]
            return BigInt(found) if self.format in "qQ" else found
        return super().get(key)

    def set(self, key: Any, value: Any) -> None:
        """Set an element, or a property."""
        if isinstance(key, int | float) and not isinstance(key, bool):
            if 0 <= key < self.length and key == int(key):
                self.view[int(key)] = packed(self.format, value, clamps=self.name == "Uint8ClampedArray")
        else:
            super().set(key, value)


def elements_of(value: Any) -> list[Any]:
    """Return the elements of an array, a typed array, a string, or what has a length."""
    if isinstance(value, list):
        return list(value)
    if isinstance(value, str):
        return [joined(each) for each in value]
    if isinstance(value, TypedArray):
        return [value.get(number) for number in range(value.length)]
    if isinstance(value, JsMap) and not value.name.startswith("Weak"):
        return value.listed()
    raise JsError(f"{to_string(value)} is not iterable", "TypeError")


def _set_all(this: TypedArray, source: Any, start: Any = 0) -> Any:
    values, first = elements_of(source), to_integer(start)
    if first < 0 or first + len(values) > this.length:
        raise JsError("offset is out of bounds", "RangeError")
    for number, value in enumerate(values, first):
        this.set(number, value)
    return UNDEFINED


def _subarray(this: TypedArray, start: Any = 0, end: Any = UNDEFINED) -> TypedArray:
    first, last = _range(start, end, this.length)
    return TypedArray(this.name, this.buffer, this.offset + first * this.size, last - first)


def _fill(this: TypedArray, value: Any, start: Any = 0, end: Any = UNDEFINED) -> TypedArray:
    for number in range(*_range(start, end, this.length)):
        this.set(number, value)
    return this


_VIEWS: dict[str, Any] = {
    "buffer": Getter(lambda this: this.buffer),
    "byteOffset": Getter(lambda this: this.offset),
    "byteLength": Getter(lambda this: this.length * this.size),
}
TypedArray.methods = {
    **_VIEWS,
    "length": Getter(lambda this: this.length),
    "set": method(_set_all),
    "subarray": method(_subarray),
    "slice": method(lambda this, *place: TypedArray(this.name, elements_of(_subarray(this, *place)))),
    "fill": method(_fill),
}


class DataView(JsObject):
    """A view of a buffer's bytes, as numbers of any size at any place."""

    name = "DataView"
    size = 1

    def __init__(self, buffer: ArrayBuffer, offset: Any = 0, length: Any = UNDEFINED) -> None:
        """Look at a part of a buffer. A JsError for a place that is not in it."""
        super().__init__()
        self.buffer, self.offset = buffer, to_integer(offset)
        left = len(buffer.data) - self.offset
        self.length = to_integer(length, left)
        if not 0 <= self.length <= left:
            raise JsError("Start offset is outside the bounds of the buffer", "RangeError")

    def place(self, at: Any, size: int) -> int:
        """Return where in the buffer so many bytes are. A JsError when they are not in the view."""
        start = to_integer(at)
        if not 0 <= start <= self.length - size:
            raise JsError("Offset is outside the bounds of the DataView", "RangeError")
        return self.offset + start


def _data_view_methods() -> dict[str, Any]:
    methods: dict[str, Any] = dict(_VIEWS)
    for kind, format in _ELEMENTS.items():
        if kind == "Uint8ClampedArray":
            continue
        name = kind.removesuffix("Array")

        def get(this: DataView, at: Any = 0, little: Any = False, *, format: str = format) -> Any:
            order = "<" if truthy(little) else ">"
            found = struct.unpack_from(order + format, this.buffer.data, this.place(at, struct.calcsize(format)))[0]
            return BigInt(found) if format in "qQ" else found

        def set(this: DataView, at: Any, value: Any = UNDEFINED, little: Any = False, *, format: str = format) -> Any:
            place, order = this.place(at, struct.calcsize(format)), "<" if truthy(little) else ">"
            struct.pack_into(order + format, this.buffer.data, place, packed(format, value))
            return UNDEFINED

        methods[f"get{name}"], methods[f"set{name}"] = method(get), method(set)
    return methods


DataView.methods = _data_view_methods()

# ----------------------------------------------------------------------------------------------------------------------
# Maps


class JsMap(JsObject):
    """A map or a set, weak or not: by identity, numbers and strings by value.

    What cannot be held weakly, such as a handle of an object of the heap's, a weak one holds as others do.
    """

    def __init__(self, kind: str) -> None:
        """Make an empty one."""
        super().__init__()
        self.name = kind
        self.entries: dict[Any, tuple[Any, Any]] = {}

    @staticmethod
    def key_of(key: Any) -> Any:
        """Return what a key is found by; handles of one object of the heap's are one key."""
        if isinstance(key, int | float) and not isinstance(key, bool | BigInt):
            return "NaN" if math.isnan(key) else ("number", key)
        if isinstance(key, str | bool | BigInt):
            return type(key).__name__, key
        return ("object", key) if isinstance(key, GcObject | Func) else ("identity", id(key))

    def put(self, key: Any, value: Any) -> None:
        """Set a value."""
        found, entries = self.key_of(key), self.entries
        if self.name.startswith("Weak") and isinstance(key, JsObject):
            entries[found] = weakref.ref(key, lambda _: entries.pop(found, None)), value
        else:
            entries[found] = key, value

    def listed(self) -> list[Any]:
        """Return the entries of a map, or the elements of a set."""
        return [[*each] if self.name == "Map" else each[0] for each in self.entries.values()]

    def value(self, key: Any) -> Any:
        """Return a value; undefined without one."""
        return self.entries.get(self.key_of(key), (None, UNDEFINED))[1]


def _put(this: JsMap, key: Any = UNDEFINED, value: Any = UNDEFINED) -> JsMap:
    this.put(key, value)
    return this


def _for_each(this: JsMap, function: Any) -> Any:
    for key, value in list(this.entries.values()):
        call(function, UNDEFINED, [value, key, this])
    return UNDEFINED


JsMap.methods = {
    "clear": method(lambda this: [this.entries.clear(), UNDEFINED][1]),
    "forEach": method(_for_each),
    "keys": method(lambda this: [key for key, _ in this.entries.values()]),
    "values": method(lambda this: [value for _, value in this.entries.values()]),
    "entries": method(lambda this: [[*each] for each in this.entries.values()]),
    "get": method(lambda this, key=UNDEFINED: this.value(key)),
    "set": method(_put),
    "add": method(lambda this, key=UNDEFINED: _put(this, key, key)),
    "has": method(lambda this, key=UNDEFINED: this.key_of(key) in this.entries),
    "delete": method(lambda this, key=UNDEFINED: this.entries.pop(this.key_of(key), None) is not None),
    "size": Getter(lambda this: len(this.entries)),
}


class WeakReference(JsObject):
    """A weak reference; of what cannot be held weakly, a strong one."""

    name = "WeakRef"

    def __init__(self, target: Any) -> None:
        """Refer to something."""
        super().__init__()
        try:
            self.target: Callable[[], Any] = weakref.ref(target)
        except TypeError:
            self.target = lambda: target


WeakReference.methods = {"deref": method(lambda this: UNDEFINED if (found := this.target()) is None else found)}

# ----------------------------------------------------------------------------------------------------------------------
# Promises


class Promise(JsObject):
    """A promise, whose reactions are microtasks of a loop. `state` is pending, fulfilled or rejected."""

    name = "Promise"

    def __init__(self, loop: EventLoop, executor: Any = None) -> None:
        """Make a pending one; an executor is called with what resolves and what rejects it."""
        super().__init__()
        self.loop = loop
        self.state, self.value = "pending", UNDEFINED
        self._is_resolved = False
        self._reactions: list[Callable[[], None]] = []
        if executor is not None:
            try:
                call(executor, UNDEFINED, [Function(lambda _, value=UNDEFINED: self.resolve(value)),
                                           Function(lambda _, value=UNDEFINED: self.reject(value))])  # fmt: skip
            except Exception as error:
                self.reject(thrown_value(error))

    def resolve(self, value: Any = UNDEFINED) -> Any:
        """Resolve it: with a value, or with what another promise comes to."""
        if self._is_resolved:
            return UNDEFINED
        self._is_resolved = True
        then = value.get("then") if isinstance(value, JsObject) else UNDEFINED
        if is_callable(then):
            settle = [Function(lambda _, found=UNDEFINED: self._follow(found)),
                      Function(lambda _, reason=UNDEFINED: self._settle("rejected", reason))]  # fmt: skip
            self.loop.queue_microtask(lambda: call(then, value, settle))
        else:
            self._settle("fulfilled", value)
        return UNDEFINED

    def reject(self, reason: Any = UNDEFINED) -> Any:
        """Reject it."""
        if not self._is_resolved:
            self._is_resolved = True
            self._settle("rejected", reason)
        return UNDEFINED

    def then(self, fulfilled: Any = UNDEFINED, rejected: Any = UNDEFINED) -> Promise:
        """Return a promise of what one of two functions returns, once this one is settled."""
        following = Promise(self.loop)

        def react() -> None:
            handler = fulfilled if self.state == "fulfilled" else rejected
            if not is_callable(handler):
                following.resolve(self.value) if self.state == "fulfilled" else following.reject(self.value)
                return
            try:
                following.resolve(call(handler, UNDEFINED, [self.value]))
            except Exception as error:
                following.reject(thrown_value(error))

        if self.state == "pending":
            self._reactions.append(react)
        else:
            self.loop.queue_microtask(react)
        return following

    def _follow(self, value: Any) -> Any:
        self._is_resolved = False
        return self.resolve(value)

    def _settle(self, state: str, value: Any) -> Any:
        if self.state == "pending":
            self.state, self.value = state, value
            for each in self._reactions:
                self.loop.queue_microtask(each)
            self._reactions.clear()
        return UNDEFINED


def _finally(this: Promise, function: Any = UNDEFINED) -> Promise:
    def fulfilled(_: Any, value: Any = UNDEFINED) -> Any:
        call(function, UNDEFINED, [])
        return value

    def rejected(_: Any, reason: Any = UNDEFINED) -> Any:
        call(function, UNDEFINED, [])
        raise reason if isinstance(reason, Exception) else Thrown(reason)

    return this.then(Function(fulfilled), Function(rejected)) if is_callable(function) else this.then()


Promise.methods = {
    "finally": method(_finally),
    "then": method(Promise.then),
    "catch": method(lambda this, rejected=UNDEFINED: this.then(UNDEFINED, rejected)),
}


def thrown_value(error: Exception) -> Any:
    """Return the value that was thrown, of what was raised for it."""
    return error.value if isinstance(error, Thrown) else error
