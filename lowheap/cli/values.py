"""WebAssembly values as text: what a command line gives for arguments, and what is printed for results."""

from __future__ import annotations

import ctypes
import functools
import re
from typing import Any

from lowheap.types import AbstractHeapType, NumType, RefType, ValType, VectorType
from lowheap.values import I31

_INTEGER_FORM = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+)")
_FLOAT_FORM = re.compile(
    r"""[+-]?(?: inf(?:inity)? | nan
               | 0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?
               | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)""",
    re.VERBOSE | re.IGNORECASE,
)
_INTEGER_RANGES: dict[ValType, tuple[int, int]] = {  # as either sign
    NumType.I32: (-(1 << 31), (1 << 32) - 1),
    NumType.I64: (-(1 << 63), (1 << 64) - 1),
    VectorType.V128: (-(1 << 127), (1 << 128) - 1),
}
_I31_RANGE = (-(1 << 30), (1 << 31) - 1)


def parse_value(type: ValType, text: str, *, has_strings: bool = False) -> Any:
    """Return the Python value that `text` stands for as a WebAssembly value of this type.

    Integers, a v128 among them, are decimal or 0x hexadecimal, signed or unsigned; floats decimal or hexadecimal, `inf`
    and `nan` among them, rounded once to the type. A reference can only be `null`, or an integer for an i31ref; or any
    text for an externref of a program that `has_strings`.
    ValueError, which says what was allowed, for anything else.
    """
    if type in (NumType.F32, NumType.F64):
        if not _FLOAT_FORM.fullmatch(text):
            raise ValueError("write a decimal or hexadecimal number, inf or nan")
        # C's functions round correctly, to the type that is wanted: by way of a double, an f32 would be rounded twice.
        return float(_c_parser("strtof" if type is NumType.F32 else "strtod")(text.encode(), None))
    if not isinstance(type, RefType):
        return _parse_integer(text, *_INTEGER_RANGES[type])
    if text == "null" and type.nullable:
        return None
    if type.heap_type is AbstractHeapType.I31:
        return I31(_parse_integer(text, *_I31_RANGE, also="null" if type.nullable else None))
    if has_strings and type.heap_type is AbstractHeapType.EXTERN:
        return text
    raise ValueError("only null can be written here" if type.nullable else "no such reference can be written here")


def _parse_integer(text: str, least: int, greatest: int, also: str | None = None) -> int:
    allowed = f"write a decimal or 0x integer from {least} to {greatest}" + (f", or {also}" if also else "")
    if not _INTEGER_FORM.fullmatch(text) or len(text) > 4000:  # Python refuses to read more digits than that
        raise ValueError(allowed)
    value = int(text, 16 if "x" in text.lower() else 10)
    if not least <= value <= greatest:
        raise ValueError(allowed)
    return value


@functools.cache
def _c_parser(name: str) -> Any:
    function = ctypes.CDLL(None)[name]
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    function.restype = ctypes.c_float if name == "strtof" else ctypes.c_double
    return function


def format_value(type: ValType, value: Any) -> str:
    """Return a WebAssembly value as one line of text: a float in its shortest form that reads back as itself.

    A v128 is in hexadecimal, with all digits: lane 0 is the rightmost.
    """
    if value is None:
        return "null"
    if type is VectorType.V128:
        return f"{value:#034x}"
    if type is NumType.F32:
        for digits in range(1, 10):
            shortest = float(f"{value:.{digits}g}")
            if ctypes.c_float(shortest).value == value:
                return repr(shortest)
    return repr(value)
