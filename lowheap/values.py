"""Numbers between Python and WebAssembly, and `I31`: what they are in the heap, and what Python gives for them."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

from lowheap.layout import i31_from_int, i31_get_s
from lowheap.types import NumType, PackedType, StorageType, VectorType, storage_size

INTEGER_TYPES: dict[StorageType, tuple[int, type[ctypes._SimpleCData[int]]]] = {
    PackedType.I8: (8, ctypes.c_uint8),
    PackedType.I16: (16, ctypes.c_uint16),
    NumType.I32: (32, ctypes.c_int32),
    NumType.I64: (64, ctypes.c_int64),
}
FLOAT_TYPES: dict[StorageType, type[ctypes._SimpleCData[float]]] = {
    NumType.F32: ctypes.c_float,
    NumType.F64: ctypes.c_double,
}
FORMATS: dict[StorageType, str] = {
    PackedType.I8: "B",
    PackedType.I16: "H",
    NumType.I32: "i",
    NumType.I64: "q",
    NumType.F32: "f",
    NumType.F64: "d",
}
"""How `struct` and `memoryview` call the numbers, as they are read."""

REFERENCE_FORMAT = "I"
VECTOR_SIZE = storage_size(VectorType.V128)
VECTOR_FORMAT = f"{VECTOR_SIZE}s"
"""How `struct` calls a v128: as its bytes, since it knows no number so wide. `memoryview` has nothing for it."""


def number_format(storage: StorageType) -> str:
    """Return how `struct` calls what is no reference: a number, or a v128."""
    return VECTOR_FORMAT if isinstance(storage, VectorType) else FORMATS[storage]


RANGES: dict[StorageType, tuple[int, int]] = {
    PackedType.I8: (0, (1 << 8) - 1),
    PackedType.I16: (0, (1 << 16) - 1),
    NumType.I32: (-(1 << 31), (1 << 31) - 1),
    NumType.I64: (-(1 << 63), (1 << 63) - 1),
}
"""The integers as they are read."""


@functools.total_ordering
class I31:
    """An unboxed 31-bit integer reference. `int(i)` is the signed value, `i.unsigned` the other.

    Compares and is ordered by value, signed; equal to no number that is not an `I31`.
    """

    __slots__ = ("_raw",)
    _raw: int

    def __init__(self, value: int) -> None:
        """Take a value from -2^30 to 2^31 - 1; ValueError outside, TypeError when it is not an int."""
        number = as_index(value)
        if number is None:
            raise TypeError(f"an i31 cannot be made of {value!r}; it takes an int")
        if not -(1 << 30) <= number < 1 << 31:
            raise ValueError(f"an i31 cannot hold {number}; it holds {-(1 << 30)} to {(1 << 31) - 1}")
        object.__setattr__(self, "_raw", i31_from_int(number))

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: an i31 is a value."""
        raise AttributeError(f"cannot set {name!r}: an I31 does not change")

    @property
    def raw(self) -> int:
        """The reference itself: the payload shifted left by one, and the tag."""
        return self._raw

    @property
    def unsigned(self) -> int:
        """The payload, zero-extended."""
        return self._raw >> 1

    def __int__(self) -> int:
        """Return the payload, sign-extended."""
        return i31_get_s(self._raw)

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        """Whether both are i31 of the same payload."""
        return self._raw == other._raw if isinstance(other, I31) else NotImplemented

    def __lt__(self, other: object) -> bool:
        """Whether this one's signed payload is the lesser."""
        return int(self) < int(other) if isinstance(other, I31) else NotImplemented

    def __hash__(self) -> int:
        """Hash by payload."""
        return hash((I31, self._raw))

    def __reduce__(self) -> tuple[type[I31], tuple[int]]:
        """Have it made again of its payload: it is a value, and is copied and pickled as one."""
        return type(self), (int(self),)

    def __repr__(self) -> str:
        """Show the signed payload."""
        return f"I31({int(self)})"


Lowering = Callable[[Any, list[Any]], Any]
"""What makes a raw value of a Python value; it appends what must be held as long as that is used to a list."""

NOTHING_KEPT: list[Any] = []
"""What the lowering of a number is given."""


@functools.cache
def scalar_lowering(storage: StorageType) -> Lowering:
    """Return what makes the number that is read of one that is given; of a v128, its bytes.

    TypeError or ValueError if it does not fit.
    """
    if isinstance(storage, VectorType):
        return lambda value, _: lower_vector(value)
    kind = float if storage in FLOAT_TYPES else int
    least, most = RANGES.get(storage, (0, 0))

    def lower_float(value: Any, _: list[Any]) -> Any:
        return value if type(value) is float and storage is NumType.F64 else _lower_number(storage, value).value

    def lower_integer(value: Any, _: list[Any]) -> Any:
        return value if type(value) is int and least <= value <= most else _lower_number(storage, value).value

    return lower_float if kind is float else lower_integer


def as_index(value: Any) -> int | None:
    """What has `__index__` as an int, a bool and an I31, which is a reference, excepted; None for what has not."""
    if isinstance(value, bool | I31) or not hasattr(type(value), "__index__"):
        return None
    if type(value).__name__ == "bool_":  # numpy's
        return None
    return int(value.__index__())


def lower_vector(value: Any) -> bytes:
    """Return the bytes of a v128 that is given as those bytes or as an int, whose lowest byte is lane 0's lowest.

    TypeError or ValueError for anything else.
    """
    if isinstance(value, bytes | bytearray):
        if len(value) != VECTOR_SIZE:
            raise ValueError(f"{len(value)} bytes were given where v128 is wanted; it has {VECTOR_SIZE}")
        return bytes(value)
    number = as_index(value)
    if number is None:
        raise TypeError(f"{value!r} was given where v128 is wanted; it must be an int, or {VECTOR_SIZE} bytes")
    return _in_bits(VectorType.V128, 8 * VECTOR_SIZE, number).to_bytes(VECTOR_SIZE, "little")


def lift_vector(data: bytes) -> int:
    """Return the bytes of a v128 as Python has it: an unsigned int."""
    return int.from_bytes(data, "little")


def _in_bits(storage: StorageType, bits: int, number: int) -> int:
    """Return the unsigned number of so many bits for one of either sign. ValueError if it does not fit."""
    if not -(1 << (bits - 1)) <= number < 1 << bits:
        raise ValueError(f"{number} does not fit {storage}: {-(1 << (bits - 1))} to {(1 << bits) - 1}")
    return number & (1 << bits) - 1


def lower_scalar(storage: StorageType, value: Any) -> ctypes._SimpleCData[Any] | ctypes.Array[ctypes.c_uint8]:
    """Return a Python number as the C value of a number, packed or vector type.

    TypeError or ValueError if it does not fit.
    """
    if isinstance(storage, VectorType):
        return (ctypes.c_uint8 * VECTOR_SIZE).from_buffer_copy(lower_vector(value))
    return _lower_number(storage, value)


def _lower_number(storage: StorageType, value: Any) -> ctypes._SimpleCData[Any]:
    if storage in FLOAT_TYPES:
        is_number = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
        if isinstance(value, bool) or not is_number:
            raise TypeError(f"{value!r} was given where {storage} is wanted; it must be a float")
        try:
            return FLOAT_TYPES[storage](float(value))
        except OverflowError:  # an int beyond any float
            return FLOAT_TYPES[storage](math.inf if value > 0 else -math.inf)
    if storage in INTEGER_TYPES:
        bits, data = INTEGER_TYPES[storage]
        number = as_index(value)
        if number is None:
            raise TypeError(f"{value!r} was given where {storage} is wanted; it must be an int")
        return data(_in_bits(storage, bits, number))
    raise TypeError(f"values of type {storage} cannot be given from Python")


def lift_scalar(storage: StorageType, data: bytes) -> int | float:
    """Return the bytes of a number, packed or vector type as a Python number. TypeError for those of a reference."""
    if isinstance(storage, VectorType):
        return lift_vector(data)
    if storage in FLOAT_TYPES:
        return FLOAT_TYPES[storage].from_buffer_copy(data).value
    if storage in INTEGER_TYPES:
        return INTEGER_TYPES[storage][1].from_buffer_copy(data).value
    raise TypeError(f"values of type {storage} cannot be read from Python")
