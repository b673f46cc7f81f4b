"""Functions of the subset compiled for tests, to be called beside Python's runs of them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st
from llvmlite import ir

from lowheap.collectors.interface import Collector
from lowheap.collectors.shared import ranges
from lowheap.jit.emit import Emitter
from lowheap.jit.engine import LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.runtime import emitter_for
from lowheap.jit.translate import declare
from lowheap.layout import VMContext
from lowheap.native import Native, inline, native, u32, u64, wrapping_add, wrapping_mul
from lowheap.native.check import BoolType, HeapType, NoneType, PlaceType, StaticType, Type, ViewType, WordType


@inline
def mixed(total: u64, value: u64) -> u64:
    """A sum that tells what was added in which order."""
    return wrapping_add(wrapping_mul(total, 31), value)


@native
def sum_of_filled(count: u32) -> u64:
    """The numbers that a fill goes through."""
    total: u64 = 7
    for number in ranges.filled(count):
        total = mixed(total, u64(number))
    return total


@native
def sum_of_copied(target_start: u32, source_start: u32, count: u32) -> u64:
    """The numbers that a copy goes through."""
    total: u64 = 7
    for number in ranges.copied(target_start, source_start, count):
        total = mixed(total, u64(number))
    return total


def c_type(type: Type) -> Any:
    """How ctypes passes a value of a type."""
    if isinstance(type, WordType):
        return type.word.ctype
    if isinstance(type, BoolType):
        return ctypes.c_bool
    if isinstance(type, ViewType | PlaceType):
        return ctypes.c_void_p
    assert isinstance(type, NoneType), f"{type} is not passed"
    return None


class Compiled:
    """Functions as machine code: `code[native](vmctx, …)`, without the heap and statics; a view is an address."""

    def __init__(
        self,
        natives: Iterable[Native[..., Any]],
        opt_level: int = 2,
        statics: dict[str, Any] | None = None,
        collector: Collector | None = None,
    ) -> None:
        emitter = Emitter if collector is None else emitter_for(collector)
        module = ir.Module("test")
        self._names = {function: f"test.{number}" for number, function in enumerate(natives)}
        for function, name in self._names.items():
            of_native = {
                each.name: (statics or {})[each.name]
                for each in function.checked.parameters
                if isinstance(each.type, StaticType)
            }
            declare(module, function, emitter, name=name, statics=of_native)
        self.text = str(module)
        self._code = LoadedCode(compile_ir(module, tuple(self._names.values()), opt_level=opt_level))
        self._context = VMContext()
        self.vmctx = ctypes.addressof(self._context)

    def __getitem__(self, native: Native[..., Any]) -> Callable[..., Any]:
        types = [
            c_type(each.type) for each in native.checked.parameters if not isinstance(each.type, HeapType | StaticType)
        ]
        prototype = ctypes.CFUNCTYPE(c_type(native.checked.result), ctypes.c_void_p, *types)
        return prototype(self._code.address(self._names[native]))

    def call(self, native: Native[..., Any], *args: Any) -> Any:
        """Call a function that knows no heap."""
        return self[native](self.vmctx, *args)


def numbers(least: int, most: int) -> st.SearchStrategy[int]:
    """Numbers of a range: those at its ends, small ones, and any."""
    edges = [each for each in (0, 1, 2, 3, -1, 31, 32, most // 2, most // 2 + 1) if least <= each <= most]
    small = st.integers(max(least, -70), min(most, 70))
    return st.sampled_from([least, most, most - 1, *edges]) | small | st.integers(least, most)


def words(type: Type) -> st.SearchStrategy[Any]:
    """Values of a type."""
    if isinstance(type, BoolType):
        return st.booleans()
    assert isinstance(type, WordType), f"no strategy for {type}"
    return numbers(type.word.least, type.word.most)
