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
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from lowheap.native.check import Checked, HeapType, NativeError, check
from lowheap.native.run import python_function

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
        """Take a function as it stands."""
        self.function = function
        self.is_event, self.linked_name = is_event, linked_name
        self.name = function.__qualname__
        self.is_inline, self.is_cold = is_inline, is_cold
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self._checked: Checked | None = None
        self._is_being_checked = False
        self._run: Callable[..., Any] = self._first_run

    @property
    def checked(self) -> Checked:
        """What the checker found. NativeError when the function is not in the subset, or calls itself."""
        if self._checked is None:
            code = self.function.__code__
            if self._is_being_checked:
                raise NativeError(
                    code.co_filename, code.co_firstlineno, f"{self.name} calls itself, by itself or through others"
                )
            self._is_being_checked = True
            try:
                self._checked = check(self)
            finally:
                self._is_being_checked = False
        return self._checked

    @property
    def symbol(self) -> str:
        """What the function is called in a module of LLVM's: unlike all others of this process."""
        if self.linked_name:
            return self.linked_name
        module = self.__module__
        short = module.rpartition(".")[2] if module.startswith("lowheap.") else module
        return f"lh.{short}.{self.name}".replace("<locals>.", "")

    def _first_run(self, *args: Any) -> Any:
        python = python_function(self.checked)
        self._run = self._replaceable(python) if self._takes_heap else python
        return self._run(*args)

    @property
    def _takes_heap(self) -> bool:
        parameters = self.checked.parameters
        return bool(parameters) and isinstance(parameters[0].type, HeapType)

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

    def __repr__(self) -> str:
        """Return the function's full name."""
        return f"<native {self.__module__}.{self.name}>"


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
