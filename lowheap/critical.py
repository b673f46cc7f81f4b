"""Critical sections: what no signal's handler may end half-way.

Python runs the handler of a signal in the main thread, between any two of its steps, and what the handler raises, as
Ctrl-C does, ends whatever is being done there. Heap operations that Python runs must not end in the middle: a count
would be leaked, a block be on no list. So they are `whole`: while one is at work, a handler that would be called is
noted instead; it is called when the operation is done, and may raise then.

What machine code does is whole already: Python looks for signals between its own steps only. Exceptions that are not of
a handler's (`PyThreadState_SetAsyncExc`, a debugger's) are not held back.
"""

from __future__ import annotations

# What `signal` wraps in enumerations, which would take most of a section's time.
import _signal  # type: ignore[import-not-found]  # CPython's own, which typeshed has not
import functools
import signal
import threading
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_SIGNALS = tuple(sorted(int(each) for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))


class _Deferral:
    """What stands in the place of a signal's handler while a section is entered.

    If it is still there afterwards, since the section's end was itself ended, it does what the handler would.
    """

    __slots__ = ("handler",)

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        self.handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        if _section.is_entered:
            _section.waiting.append((number, self.handler))
            return None
        return self.handler(number, frame)


class _Section:
    """The one that the main thread is in, if it is in one."""

    __slots__ = ("deferrals", "is_entered", "waiting")

    def __init__(self) -> None:
        self.is_entered = False
        self.deferrals: list[tuple[int, _Deferral]] = []
        self.waiting: list[tuple[int, Callable[[int, FrameType | None], Any]]] = []

    def enter(self) -> None:
        """Hold back every handler that is Python's. Those that come meanwhile are called, and may raise."""
        for number, handler in zip(_SIGNALS, map(_signal.getsignal, _SIGNALS), strict=True):
            if callable(handler):  # not SIG_DFL, SIG_IGN, or what was installed by C
                deferral = handler if isinstance(handler, _Deferral) else _Deferral(handler)
                self.deferrals.append((number, deferral))
                _signal.signal(number, deferral)
        self.is_entered = True

    def leave(self) -> None:
        """Put the handlers back, and call those that were held back; the last that raises is heard."""
        deferrals, self.deferrals = self.deferrals, []
        waiting, self.waiting = self.waiting, []
        self.is_entered = False
        try:
            for number, deferral in deferrals:
                if _signal.getsignal(number) is deferral:  # else the operation itself has set another
                    _signal.signal(number, deferral.handler)
        finally:
            _call_all(waiting)


def _call_all(waiting: list[tuple[int, Callable[[int, FrameType | None], Any]]]) -> None:
    if waiting:
        number, handler = waiting[0]
        try:
            handler(number, None)
        finally:
            _call_all(waiting[1:])


_section = _Section()


def whole(operation: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Make an operation one that no signal's handler ends half-way."""
    return whole_unless_unheard(None)(operation)


def whole_unless_unheard(
    undo: Callable[..., object] | None,
) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """The same for an operation whose result is something to own.

    A handler that was held back may raise when all is done, and then nobody gets the result: `undo(self, result)` takes
    it back, itself a whole operation.
    """

    def decorate(operation: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(operation)
        def run(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            # Only the main thread runs handlers. A section within a section is nothing new.
            if _section.is_entered or get_ident() != threading.main_thread().ident:
                return operation(*args, **kwargs)
            is_done = False
            try:
                _section.enter()
                result = operation(*args, **kwargs)
                is_done = True
                return result
            finally:
                try:
                    _section.leave()
                except BaseException:
                    if is_done and undo is not None:
                        undo(args[0], result)
                    raise

        return run

    return decorate
