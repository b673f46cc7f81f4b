"""How things that hold much are shown: `repr` in a few lines, however many bytes, objects or lines they hold.

And names that programs have: they do not forge lines, or tell a terminal what to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sized
from typing import Any, TypeVar

_T = TypeVar("_T")

LONGEST = 400
"""So many characters of an attribute are shown; of a longer one only what it is, and how long."""

_MOST_ITEMS = 50


def printable(name: str) -> str:
    """Return a name with what a terminal would obey escaped: names are the program's, not ours."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)


def short_repr(cls: type[_T]) -> type[_T]:
    """Decorate a dataclass: its `repr` is that of dataclasses, but attributes that are long are told, not shown."""

    def __repr__(self: Any) -> str:
        fields = (each for each in dataclasses.fields(self) if each.repr)
        shown = ", ".join(f"{each.name}={brief(getattr(self, each.name))}" for each in fields)
        return f"{type(self).__qualname__}({shown})"

    cls.__repr__ = __repr__  # type: ignore[method-assign]  # what a decorator of classes does
    return cls


def brief(value: object) -> str:
    """Return `repr(value)`, or, where that is long, the type of the value and its length."""
    if isinstance(value, bytes | bytearray | str):
        unit, most = ("characters" if isinstance(value, str) else "bytes"), LONGEST // 4
    else:
        unit, most = "items", _MOST_ITEMS
    if isinstance(value, Sized) and len(value) > most:
        return f"<{type(value).__name__}, {len(value):,} {unit}>"
    shown = repr(value)
    if len(shown) <= LONGEST:
        return shown
    size = f", {len(value):,} {unit}" if isinstance(value, Sized) else ""
    return f"<{type(value).__name__}{size}>"
