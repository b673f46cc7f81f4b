"""Functions that a module calls though they stand above it, and are loaded when they are first called.

The entrance of the package says where they are. So every import still leads from a module to one that it stands on,
and importing the package stays cheap.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

_places: dict[str, str] = {}


def place(module: str, *names: str) -> None:
    """Say that functions of these names are in a module."""
    _places.update(dict.fromkeys(names, module))


@functools.cache
def later(name: str) -> Callable[..., Any]:
    """Return a function, whose module is loaded with it. KeyError when nobody said where it is."""
    found: Callable[..., Any] = getattr(importlib.import_module(_places[name]), name)
    return found
