"""JavaScript's strings on the heap, as Python makes and reads them.

A string is an object of one of two hidden types: a text, an array of UTF-16 code units, or a rope, the two strings that
it was put together from, which compiled code makes whole when it looks into it (`wasm/js_string.wat`, which has both
types once more). A Python `str` is the same code units, lone surrogates included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lowheap.layout import NULL
from lowheap.types import ANYREF, I16, I32, ArrayType, FieldType, StructType, SubType, TypeRegistry

TEXT = SubType(ArrayType(FieldType(I16, mutable=True)), hidden=True)
ROPE = SubType(
    StructType((FieldType(I32, mutable=False), FieldType(ANYREF, mutable=True), FieldType(ANYREF, mutable=True))),
    hidden=True,
)
"""Its length, its left part or the whole text, and its right part, or null where the left one is the whole."""

ROPE_PARTS = (1, 2)
"""The numbers of the fields that have a rope's parts."""

NAMES = {TEXT: "string", ROPE: "rope"}

_ENCODING, _ERRORS = "utf-16-le", "surrogatepass"


class StringTypes(NamedTuple):
    """The engine's indices of the types of strings."""

    text: int
    rope: int


def string_types(types: TypeRegistry) -> StringTypes:
    """Return the types of strings in a registry, registered if they were not."""
    found = StringTypes(*types.register([TEXT, ROPE]))
    for index, type in zip(found, (TEXT, ROPE), strict=True):
        types.name_type(index, NAMES[type])
    types.name_fields(found.rope, dict(enumerate(("length", "left", "right"))))
    return found


def encoded(value: str) -> bytes:
    """Return the code units of a text, as a string's elements are."""
    return value.encode(_ENCODING, _ERRORS)


def decoded(data: bytes) -> str:
    """Return the text of these code units."""
    return data.decode(_ENCODING, _ERRORS)


def units_of(reference: int, parts: Callable[[int], tuple[int, int] | bytes]) -> bytes:
    """Return the code units of a string; `parts` gives a rope's two, or a text's code units.

    Ropes can be deep, and have parts in common.
    """
    found: list[bytes] = []
    waiting = [reference]
    while waiting:
        here = parts(waiting.pop())
        if isinstance(here, bytes):
            found.append(here)
        else:
            left, right = here
            if right != NULL:
                waiting.append(right)
            waiting.append(left)
    return b"".join(found)
