"""Exceptions: each of lowheap's survives pickling and copying whole."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lowheap as lh
from lowheap.native.check import NativeError
from lowheap.peers.errors import PeerTrap

NOT_TO_IMPORT = ("lowheap.__main__",)  # runs the command


def modules() -> Iterator[Any]:
    """Yield every module of the package."""
    for found in pkgutil.walk_packages(lh.__path__, "lowheap."):
        if found.name not in NOT_TO_IMPORT:
            yield importlib.import_module(found.name)


def exception_classes() -> list[type[Exception]]:
    """Return every exception class that is defined in lowheap, and whatever else is a LowheapError."""
    defined: dict[type[Exception], None] = {}
    for module in modules():
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Exception) and value.__module__.startswith("lowheap"):
                defined[value] = None
    waiting: list[type[Exception]] = [lh.LowheapError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.startswith("lowheap"):
            defined[kind] = None
        waiting += kind.__subclasses__()
    return list(defined)


def an_exception() -> lh.WasmException:
    """One that is of a store."""
    store = lh.Store()
    types = (lh.ValType.i32(), lh.ValType.f64(), lh.ValType.externref(), lh.ValType.externref())
    return lh.WasmException(lh.Tag(store, lh.FuncType(types, ())), [7, 0.5, None, "text"])


WITH_PARAMETERS: dict[type[Exception], Callable[[], Exception]] = {
    lh.HeapExhaustedError: lambda: lh.HeapExhaustedError("no room", 48),
    lh.HeapCorruptionError: lambda: lh.HeapCorruptionError(["one", "two"]),
    lh.Trap: lambda: lh.Trap(lh.TrapCode.HEAP_EXHAUSTED, function="$make", offset=73, detail="no room"),
    lh.WasmException: lambda: copy.deepcopy(an_exception()),
    NativeError: lambda: NativeError("file.py", 3, "it is wrong"),
    PeerTrap: lambda: PeerTrap("cast failure", "a backtrace"),
}
"""How to make those whose `__init__` takes something else than a message."""

WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def all_of(error: BaseException) -> tuple[Any, ...]:
    """Return all that makes an exception what it is."""
    cause = error.__cause__
    of_cause = None if cause is None else all_of(cause)
    return type(error), str(error), error.args, vars(error), error.__suppress_context__, of_cause


def test_there_are_exceptions_to_look_at() -> None:
    found = exception_classes()
    assert set(WITH_PARAMETERS) <= set(found)
    assert len(found) > 25


@pytest.mark.parametrize("way", WAYS)
def test_every_exception_survives(way: str) -> None:
    for kind in exception_classes():
        error = WITH_PARAMETERS.get(kind, lambda kind=kind: kind("a message"))()
        error.add_note("in a worker")
        error.__cause__ = lh.HeapExhaustedError("no room", 32)
        again = WAYS[way](error)
        assert again is not error
        if issubclass(kind, lh.LowheapError | PeerTrap):
            assert all_of(again) == all_of(error)
        else:  # what only its own process sees
            assert all_of(again)[:3] == all_of(error)[:3]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "copy"])
def test_an_exception_of_a_program_survives_without_its_store(way: str) -> None:
    error = an_exception()
    again = WAYS[way](error)
    assert str(again) == str(error)
    assert (again.tag, again.exnref) == (None, None)
    assert again.fields == (7, 0.5, None, repr(error.fields[3]))


@pytest.mark.parametrize("way", WAYS)
def test_a_cause_that_is_not_lowheaps_survives_as_its_text(way: str) -> None:
    class Unpicklable(Exception):
        def __init__(self, text: str, hook: object) -> None:
            super().__init__(text)
            self.hook = hook

    error = lh.Trap(lh.TrapCode.UNREACHABLE)
    error.__cause__ = Unpicklable("the host said so", lambda: 0)
    again = WAYS[way](error)
    assert all_of(again)[:-1] == all_of(error)[:-1]
    assert type(again.__cause__) is lh.LowheapError
    assert str(again.__cause__) == "Unpicklable: the host said so"


def test_a_subclass_of_ones_own_survives() -> None:
    for way in WAYS.values():
        again = way(OwnError(7, reason="because"))
        assert (type(again), str(again), again.number, again.reason) == (OwnError, "no 7: because", 7, "because")


class OwnError(lh.HeapError):
    """As a user writes one: nothing that `__init__` takes is in `args`."""

    def __init__(self, number: int, *, reason: str) -> None:
        super().__init__(f"no {number}: {reason}")
        self.number, self.reason = number, reason
