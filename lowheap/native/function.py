"""Functions written once: the decorators, and what Python calls.

`@native` makes a function of the subset one that is run two ways. Called from Python, it runs as it stands, each number
asserted to be in the range of its type; a debugger steps through its lines. Translated (`translate.py`), it is machine
code. It is checked when it is first called, translated or asked for; what it calls may be defined after it.

    @native             a function of its own in machine code; LLVM inlines it where that pays
    @inline             its body stands where it is called
    @cold               a function of its own that is rarely called: it is never inlined, and laid out elsewhere
    @event              an inlined one that listings of machine code tell apart, by its name: see `jit/marks.py`
    @linked("name")     a cold one of that name: where a module has declared a function so called, that is meant

A generator is always inlined, into the loop over it.

One may stand in a class's body, where it is found by the class's name, and is bound to no instance. It is pickled by
its name, and is not copied.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from lowheap.native.check import Checked, NativeError, check
from lowheap.native.run import python_function

_P = ParamSpec("_P")
_R = TypeVar("_R")

_checking = threading.RLock()  # a check goes through what is called, and two could come to meet


class Native(Generic[_P, _R]):
    """A function of the subset."""

    is_native = True

    def __init__(
        self,
        function: Callable[_P, _R],
        *,
        is_inline: bool = False,
        is_cold: bool = False,
        is_event: bool = False,
        linked_name: str = "",
    ) -> None:
        """Take a function as it stands. TypeError when it is none that `def` made."""
        if not isinstance(function, types.FunctionType):
            raise TypeError(f"{function!r} is no function of Python's: the decorator stands right above its `def`")
        self.function: Callable[_P, _R] = function
        self.is_event, self.linked_name = is_event, linked_name
        self.name = function.__qualname__
        self.is_inline, self.is_cold = is_inline, is_cold
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__qualname__ = function.__qualname__
        self.__module__ = function.__module__
        self.__wrapped__ = function  # for `inspect`
        self._checked: Checked | None = None
        self._is_being_checked = False
        self._run: Callable[..., Any] = self._first_run
        self._python: Callable[..., Any] | None = None
        self._is_replaced = False

    @property
    def checked(self) -> Checked:
        """What the checker found. NativeError when the function is not in the subset, or calls itself."""
        if self._checked is None:
            with _checking:
                if self._checked is None:
                    self._checked = self._check()
        return self._checked

    def _check(self) -> Checked:
        code = self.function.__code__
        if self._is_being_checked:
            raise NativeError(
                code.co_filename, code.co_firstlineno, f"{self.name} calls itself, by itself or through others"
            )
        self._is_being_checked = True
        try:
            return check(self)
        finally:
            self._is_being_checked = False

    def callees(self) -> list[Native[..., Any]]:
        """Return this function and all that it calls, however deep, each once: what its machine code is made of."""
        found: dict[int, Native[..., Any]] = {}
        pending: list[Native[..., Any]] = [self]
        while pending:
            each = pending.pop()
            if id(each) not in found:
                found[id(each)] = each
                pending += [call.target for call in each.checked.calls.values() if call.kind == "native"]
        return list(found.values())

    def sources(self) -> list[Path]:
        """Return the files that this function and all that it calls are in, sorted.

        Machine code depends on more than these: on the files that constants and structures come from, too.
        """
        return sorted({Path(each.checked.path).resolve() for each in self.callees()})

    @property
    def symbol(self) -> str:
        """What the function is called in a module of LLVM's, if no other of that name is in there before it."""
        if self.linked_name:
            return self.linked_name
        module = self.__module__
        short = module.rpartition(".")[2] if module.startswith("lowheap.") else module
        return f"lh.{short}.{self.name}".replace("<locals>.", "")

    def _first_run(self, *args: Any) -> Any:
        if self._is_replaced and (replacement := args[0].replacements.get(self)) is not None:
            return replacement(*args[1:])
        with _checking:  # CPython up to 3.12 counts the depth of syntax trees in one place for all threads
            self._python = python_function(self.checked)
        self._run = self._replaceable(self._python) if self._is_replaced else self._python
        return self._run(*args)

    def expect_replacement(self) -> None:
        """From now on, some heap has something else in the place of this function, which takes a heap."""
        if not self._is_replaced:
            self._is_replaced = True
            if self._python is not None:
                self._run = self._replaceable(self._python)

    def _replaceable(self, python: Callable[..., Any]) -> Callable[..., Any]:
        """Have `Heap.replacements` looked at first."""

        def run(heap: Any, *args: Any) -> Any:
            if heap.replacements:
                replacement = heap.replacements.get(self)
                if replacement is not None:
                    return replacement(*args)
            return python(heap, *args)

        return run

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Run the function in Python."""
        if kwargs:
            raise TypeError(f"{self.name} takes its arguments by position")
        result: _R = self._run(*args)
        return result

    def __reduce__(self) -> str:
        """Pickle by name; a copy is the function itself."""
        return self.__qualname__

    def __repr__(self) -> str:
        """Return the function's full name."""
        return f"<native {self.__module__}.{self.name}>"


class Replacements(dict[Native[..., Any], Callable[..., Any]]):
    """What stands in the place of functions on one heap. Only functions that are in one are looked up in them."""

    def __setitem__(self, function: Native[..., Any], replacement: Callable[..., Any]) -> None:
        """Have a function replaced by what takes its arguments without the heap."""
        function.expect_replacement()
        super().__setitem__(function, replacement)

    def update(self, others: Mapping[Native[..., Any], Callable[..., Any]]) -> None:  # type: ignore[override]  # one way
        """Have several functions replaced."""
        for function, replacement in others.items():
            self[function] = replacement


def native(function: Callable[_P, _R]) -> Native[_P, _R]:
    """Make a function of the subset a native one."""
    return Native(function)


def inline(function: Callable[_P, _R]) -> Native[_P, _R]:
    """Make a function of the subset a native one whose body stands where it is called."""
    return Native(function, is_inline=True)


def cold(function: Callable[_P, _R]) -> Native[_P, _R]:
    """Make a function of the subset a native one that is rarely called."""
    return Native(function, is_cold=True)


def event(function: Callable[_P, _R]) -> Native[_P, _R]:
    """Make a function of the subset an inlined native one that is an event in the life of a reference."""
    return Native(function, is_inline=True, is_event=True)


def linked(name: str) -> Callable[[Callable[_P, _R]], Native[_P, _R]]:
    """Make a function of the subset a cold native one that a module may have from elsewhere, under this name."""
    return lambda function: Native(function, is_cold=True, linked_name=name)
