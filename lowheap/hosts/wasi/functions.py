"""How a function of WASI's is written here, and called.

`@preview1("iIi")` makes a function of a `Context`, the caller's `GuestMemory` and unsigned numbers, i32 and I64, the
function of the same name that programs import. It returns None for success, or raises `WasiError` or OSError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import and_
from typing import Any

from lowheap.errors import LowheapError
from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.errors import WasiError, number_of
from lowheap.runtime.host_functions import Caller
from lowheap.types import I32, I64, FuncType

_MASKS = {"i": (1 << 32) - 1, "I": (1 << 64) - 1}
_TYPES = {"i": I32, "I": I64}


@dataclass(frozen=True, slots=True)
class Preview1Function:
    """A function that programs import: its type, and what a linker calls, which takes a `Caller` first."""

    name: str
    type: FuncType
    callable: Callable[..., int | None]


FUNCTIONS: dict[str, Preview1Function] = {}
"""All that there are, by name; each module of functions adds its own."""


def preview1(
    parameters: str, *, has_result: bool = True, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a function: it is one of WASI's from now on, by its own name if no other is given."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        its_name = name or function.__name__
        type = FuncType(tuple(_TYPES[each] for each in parameters), (I32,) if has_result else ())
        masks = tuple(_MASKS[each] for each in parameters)
        FUNCTIONS[its_name] = Preview1Function(its_name, type, _callable(its_name, function, masks))
        return function

    return add


def _callable(name: str, function: Callable[..., None], masks: tuple[int, ...]) -> Callable[..., int | None]:
    def called(caller: Caller, *args: Any) -> int | None:
        context: Context | None = caller.store.wasi
        if context is None:
            raise LowheapError(f"{name}: the store has no WASI; Store.set_wasi(WasiConfig()) gives it one")
        try:
            function(context, context.guest(caller, name), *map(and_, args, masks))
            return 0
        except WasiError as error:
            return error.number
        except OSError as error:
            return number_of(error)

    called.__qualname__ = called.__name__ = name
    return called
