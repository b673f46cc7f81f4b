"""The words that functions written once are made of, and what each means when Python runs it.

A word's value is an int in the range of its type. `u8`, `u16`, `u32`, `u64`, `i32` and `i64` are names of types, for
annotations, and conversions: `u32(x)` is `x` as a u32, and an `OutOfRange` when it is none. `Ref` is a u32 that names
an object, or is null or an i31. What is left of a number when it may be too large is asked for by name: `wrapping_u32`,
`wrapping_add` and their kin; all other arithmetic is asserted to be in range while Python runs it, and is not looked at
in machine code.

`check.py` says what functions may be made of; `translate.py` has the machine code of each word here.
"""

from __future__ import annotations

import ctypes
import logging
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

from lowheap.errors import HeapCorruptionError, LowheapError, status_error

TRACE = 5
"""Logging level of messages about single objects, below DEBUG."""

logging.addLevelName(TRACE, "TRACE")
_log = logging.getLogger("lowheap.heap")

_S = TypeVar("_S", bound=ctypes.Structure)
_T = TypeVar("_T")


class OutOfRange(LowheapError, ArithmeticError):
    """A number that does not fit its type, in a function of the subset that Python runs."""


class Word:
    """A type of integers. Called, it converts: OutOfRange for what is not in range, and is not cut off."""

    def __init__(self, name: str, bits: int, *, is_signed: bool = False) -> None:
        """Name the type; `bits` is its width."""
        self.name, self.bits, self.is_signed = name, bits, is_signed
        self.least = -(1 << bits - 1) if is_signed else 0
        self.most = (1 << bits - is_signed) - 1

    @property
    def ctype(self) -> Any:
        """The ctypes type of the same numbers."""
        return C_TYPES[self]

    def __call__(self, value: Any) -> int:
        """Return an int or a bool as a number of this type."""
        number = operator.index(value)
        if not self.least <= number <= self.most:
            raise OutOfRange(f"{value} is no {self.name}; these are from {self.least} to {self.most}")
        return number

    def wrap(self, value: int) -> int:
        """Return what is left of a number in the lowest bits."""
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if value > self.most else value

    def __repr__(self) -> str:
        """Return the name."""
        return self.name


if TYPE_CHECKING:
    u8: TypeAlias = int
    u16: TypeAlias = int
    u32: TypeAlias = int
    u64: TypeAlias = int
    i32: TypeAlias = int
    i64: TypeAlias = int
    Ref: TypeAlias = int
    Slot: TypeAlias = ctypes.c_uint32
else:
    u8, u16, u32, u64 = (Word(f"u{bits}", bits) for bits in (8, 16, 32, 64))
    i32, i64 = (Word(f"i{bits}", bits, is_signed=True) for bits in (32, 64))
    Ref = Word("Ref", 32)
    Slot = ctypes.c_uint32
    """A place that holds a reference: `slot.value`."""


# ----------------------------------------------------------------------------------------------------------------------
# Arithmetic that may wrap. The two operands are of one type, which is the result's.


def wrapping_add(a: int, b: int) -> int:
    """The lowest bits of `a + b`, as many as their type has."""
    raise _unchecked("wrapping_add")


def wrapping_sub(a: int, b: int) -> int:
    """The lowest bits of `a - b`, as many as their type has."""
    raise _unchecked("wrapping_sub")


def wrapping_mul(a: int, b: int) -> int:
    """The lowest bits of `a * b`, as many as their type has."""
    raise _unchecked("wrapping_mul")


def _unchecked(name: str) -> LowheapError:
    # How many bits that is only the checker knows: `run.py` puts a function for the width in the place of these.
    return LowheapError(f"{name} was called outside of a function of the subset")


def wrapping_u8(value: int) -> int:
    """The lowest 8 bits of a wider number."""
    return value & 0xFF


def wrapping_u16(value: int) -> int:
    """The lowest 16 bits of a wider number."""
    return value & 0xFFFF


def wrapping_u32(value: int) -> int:
    """The lowest 32 bits of a wider number."""
    return value & 0xFFFF_FFFF


def wrapping_u64(value: int) -> int:
    """The 64 bits of a signed number."""
    return value & 0xFFFF_FFFF_FFFF_FFFF


# ----------------------------------------------------------------------------------------------------------------------
# Bits


def ctz(value: int) -> int:
    """How many 0 bits there are below the lowest 1. The value is not 0."""
    if value == 0:
        raise OutOfRange("ctz(0): there is no lowest 1")
    return (value & -value).bit_length() - 1


def bit_length(value: int) -> int:
    """How many bits a number takes: the place of the highest 1, counted from 1; 0 for 0."""
    return value.bit_length()


def popcount(value: int) -> int:
    """How many 1 bits there are."""
    return value.bit_count()


def rotate_right(value: int, by: int) -> int:
    """A u32 turned right: the lowest `by` bits, a constant from 1 to 31, come in again at the top."""
    return (value >> by | value << 32 - by) & 0xFFFF_FFFF


def as_signed(value: int) -> int:
    """The i32 of the same bits as a u32."""
    return value - (1 << 32) if value >> 31 else value


# ----------------------------------------------------------------------------------------------------------------------
# Hints


def likely(condition: object) -> bool:
    """The condition, which mostly holds. Machine code is laid out for that."""
    return bool(condition)


def unlikely(condition: object) -> bool:
    """The condition, which rarely holds. Machine code is laid out for that."""
    return bool(condition)


def assume(condition: object) -> None:
    """Take a condition for granted, which machine code does not look at; OutOfRange in Python if it does not hold."""
    if not condition:
        raise OutOfRange("what was taken for granted does not hold")


def prefetch(place: object) -> None:
    """Have the processor fetch what a view or a slot is a view of. Python does nothing."""


def note(text: str, *values: int) -> None:
    """Log, at level TRACE, what is being done to an object; `%`-formats in the text. Machine code does nothing."""
    if _log.isEnabledFor(TRACE):
        _log.log(TRACE, text, *values)


# ----------------------------------------------------------------------------------------------------------------------
# Memory that is not the heap's: by address


def at(structure: type[_S], address: int) -> _S:
    """The structure at an address (u64), as a view. It must be mapped, and aligned as the structure is."""
    return structure.from_address(_aligned(structure, address))


def cell(word: Any, address: int) -> Any:
    """The number of type `word` at an address (u64), as a place with a `value`. It must be mapped, and aligned."""
    data = C_TYPES[word]
    return data.from_address(_aligned(data, address))


def _aligned(data: Any, address: int) -> int:
    if address == 0 or address % ctypes.alignment(data):
        raise OutOfRange(f"no {data.__name__} is at address {address:#x}: it is null, or not aligned")
    return address


def place(structure: ctypes.Structure, field: str) -> Any:
    """The place of a field of a structure: `place(x, "length").value` is `x.length`."""
    kind = type(structure)
    data: Any = ctype_of_field(kind, field)
    if data is None:
        raise AttributeError(f"{kind.__name__} has no field {field}")
    return data.from_address(ctypes.addressof(structure) + getattr(kind, field).offset)


def ctype_of_field(structure: type[ctypes.Structure], name: str) -> Any:
    """Return the ctypes type of a structure's field, those of anonymous structures in it included; None: it has none.

    A bit field has none: it has no place of its own.
    """
    inner: list[type[ctypes.Structure]] = []
    for kind in structure.__mro__:
        for declared in kind.__dict__.get("_fields_", ()):
            if declared[0] == name:
                return declared[1] if len(declared) == 2 else None
            if declared[0] in getattr(structure, "_anonymous_", ()):
                inner.append(declared[1])
    found = (ctype_of_field(each, name) for each in inner)
    return next((each for each in found if each is not None), None)


def address_of(thing: Any) -> int:
    """The address (u64) of a view, a place or a local array."""
    return ctypes.addressof(thing)


def local_array(word: Any, length: int) -> Any:
    """An array of `length` (a constant) numbers, all undefined, in the function's own frame; Python has 0 in each."""
    return (C_TYPES[word] * length)()


def sizeof(structure: type[ctypes.Structure]) -> int:
    """The size of a structure, in bytes: a constant."""
    return ctypes.sizeof(structure)


def copy_memory(to: int, source: int, length: int) -> None:
    """Copy bytes between addresses (u64), that may overlap."""
    ctypes.memmove(to, source, length)


def zero_memory(to: int, length: int) -> None:
    """Make bytes at an address (u64) 0."""
    ctypes.memset(to, 0, length)


def fill_memory(to: int, value: int, length: int) -> None:
    """Set so many bytes at an address to a `u8`."""
    ctypes.memset(to, value, length)


def compare_exchange(place: Any, expected: int, new: int) -> bool:
    """Set a place to a number if it holds the expected one, in one step that no thread sees half of; whether it did."""
    held = place.value == expected
    if held:
        place.value = new
    return bool(held)


C_TYPES: dict[Any, Any] = (
    {}
    if TYPE_CHECKING
    else {
        u8: ctypes.c_uint8,
        u16: ctypes.c_uint16,
        u32: ctypes.c_uint32,
        u64: ctypes.c_uint64,
        i32: ctypes.c_int32,
        i64: ctypes.c_int64,
        Ref: ctypes.c_uint32,
    }
)
"""The ctypes type of each word type."""


# ----------------------------------------------------------------------------------------------------------------------
# What must hold


def sound(condition: object, text: str, *values: int) -> None:
    """Raise HeapCorruptionError unless a condition holds; `text` is a `str.format` of the values, all of them words.

    Machine code looks only in a checked build, and says the same.
    """
    if not condition:
        raise HeapCorruptionError([text.format(*values)])


def require(condition: object, status: int, text: str, *values: int) -> None:
    """Fail unless a condition holds: raise the exception that stands for a `Status`; `text` is as for `sound`.

    In machine code the function of the C interface returns the status, and keeps the message. So this stands in what is
    inlined into one, or in a function whose result is such a status.
    """
    if not condition:
        raise status_error(status, text.format(*values))


def check(condition: object, status: int, text: str, *values: int) -> None:
    """The same; machine code looks only in a checked build, where `heap.is_checked` is true."""
    require(condition, status, text, *values)


class Text:
    """A piece of a message that is known when code is compiled: a parameter that stands in an f-string."""

    is_native_static = True

    def __init__(self, text: str) -> None:
        """Take the text."""
        self.text = text

    @property
    def key(self) -> str:
        """What tells code with this text from that with others."""
        return self.text.replace(" ", "-")

    def __str__(self) -> str:
        """Return the text."""
        return self.text


class Reporter(Protocol):
    """What problems are told to."""

    problems: list[str]


def problem(heap: Reporter, text: str, *values: int) -> None:
    """Say that something about a heap does not hold; `text` is a `str.format` of the values, at most four words.

    Python's `heap.problems` gets them all. Machine code counts them, and keeps the first; it knows `{}` and `{:#x}`.
    """
    heap.problems.append(text.format(*values))


# ----------------------------------------------------------------------------------------------------------------------
# Records


def record(cls: type[Any]) -> type[Any]:
    """Make a class of annotated words a record: a few variables that go by one name.

    `Freed()` is a new one whose fields are what the class says, 0 if it says nothing. Inlined functions take records,
    and may change them; they are never in memory. TypeError for a class that has more to it.
    """
    others = {name for name in cls.__dict__ if name not in cls.__annotations__ and not (name[:2] == "__" == name[-2:])}
    if cls.__bases__ != (object,) or others:
        more = f"has {', '.join(sorted(others))}" if others else "has bases"
        raise TypeError(f"{cls.__name__} is no record: it {more}; a record has annotated fields only")
    defaults = {name: cls.__dict__.get(name, 0) for name in cls.__annotations__}

    def initialise(self: Any) -> None:
        for name, value in defaults.items():
            setattr(self, name, value)

    return type(
        cls.__name__,
        (Record,),
        {
            "__slots__": tuple(defaults),
            "__init__": initialise,
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "fields": dict(cls.__annotations__),
            "defaults": defaults,
        },
    )


class Record:
    """What `record` makes a class a subclass of."""

    __slots__ = ()
    fields: dict[str, Any]
    defaults: dict[str, int]


# ----------------------------------------------------------------------------------------------------------------------
# State


def state(cls: type[_T]) -> type[_T]:
    """Make a class of annotated words a structure that a collector keeps in the heap's bytes: `heap.state(…)`.

    All fields are 0 in a new heap. TypeError for a field that is no u8 to u64, i32 or i64, for one that is given a
    value, and for what is no field.
    """
    if not isinstance(cls, type):
        raise TypeError(f"{cls!r} is no class: `@state` stands above one")
    others = [name for name in cls.__dict__ if not (name.startswith("__") and name.endswith("__"))]
    if others:
        raise TypeError(f"{cls.__name__}.{others[0]} has a value: a state has fields only, and these begin at 0")
    fields = []
    for name, annotation in cls.__annotations__.items():
        word = _WORDS_BY_NAME.get(annotation, annotation)
        if not isinstance(word, Word):
            raise TypeError(f"the field {name} of {cls.__name__} is {annotation!r}; it must be a word, as u32 or u64")
        fields.append((name, C_TYPES[word]))
    made = type(
        cls.__name__,
        (ctypes.Structure,),
        {
            "_fields_": fields,
            "__annotations__": dict(cls.__annotations__),
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "is_native_state": True,
        },
    )
    return cast(type[_T], made)


def state_layout(states: Sequence[type[Any]], size: int) -> dict[type[Any], int]:
    """Return where each of several states begins, in bytes, one behind the other, within `size`.

    TypeError for what is no state, ValueError when they do not fit.
    """
    offsets: dict[type[Any], int] = {}
    end = 0
    for each in states:
        if not getattr(each, "is_native_state", False):
            raise TypeError(f"{each!r} is no state: `@state` makes one")
        offsets[each] = end
        end += (ctypes.sizeof(each) + _STATE_ALIGN - 1) & -_STATE_ALIGN
    if end > size:
        raise ValueError(f"they take {end} bytes; there is room for {size}")
    return offsets


_STATE_ALIGN = 16
_WORDS_BY_NAME: dict[Any, Any] = {str(word): word for word in C_TYPES}


WORDS: dict[str, Callable[..., Any]] = {
    word.__name__: word
    for word in (
        wrapping_add, wrapping_sub, wrapping_mul, wrapping_u8, wrapping_u16, wrapping_u32, wrapping_u64,
        ctz, bit_length, popcount, rotate_right, as_signed, likely, unlikely, assume, prefetch, note,
        at, cell, place, address_of, local_array, sizeof, copy_memory, zero_memory, fill_memory, compare_exchange,
        sound, require, check, problem,
    )
}  # fmt: skip
"""The words that are functions, by name."""


def constant_members(value: Any) -> Sequence[int] | None:
    """The numbers in a tuple of constants, or None when it is none."""
    if isinstance(value, tuple | list | frozenset) and all(isinstance(each, int) for each in value):
        return [int(each) for each in value]
    return None
