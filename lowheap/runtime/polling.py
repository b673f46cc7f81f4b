"""Who asks compiled code to call the host: one thread for the process, which watches the stores that run code.

Python runs signal handlers, and raises what one thread sends another, where its own code runs; while compiled code
does, that would wait. So compiled code compares its frame with `VMStoreContext.poll_limit` where a loop goes round and
where functions might call one another without end, and calls the host when it is below. This thread raises that limit,
about 20 times a second, in every store that is found in compiled code twice running. Whatever thread is in there: the
main one runs signal handlers, another one raises what `PyThreadState_SetAsyncExc` left for it.

A call of compiled code pays nothing for that, and where no code has run for a while, the thread sleeps until some does.
How does it know? Each call looks at which thread's stack the store knows the end of (`Watched.floor`), and is slower
where that is not its own. Before it sleeps, the watcher makes that nobody's; the slow way wakes it.

Promises: nothing is kept alive by being watched but a mapping of some pages. `wake` may be called in a signal handler
that has interrupted `wake`. While it looks, the thread makes no object that Python's garbage collector counts, so that
this does not run there, and with it the finalizers of others. A child of `os.fork` has a watcher of its own, once it
runs code. Signals are never delivered to the watcher. Where the system has no thread to give, code runs unwatched, and
a warning says so. In a subinterpreter it does, too: no signal's handler runs there, and none may end with a thread that
still runs.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
import weakref
from queue import SimpleQueue

from lowheap.layout import POLL_REQUESTED, VMStoreContext

PERIOD = 0.05
"""Seconds between two looks at the stores."""

_QUIET = 20
"""So many looks without code that runs, and the watcher makes ready to sleep; as many more, and it does."""

_NOBODY = -1
"""The `floor` that is no thread's."""

_log = logging.getLogger("lowheap.runtime")


class Watched:
    """What the watcher knows of a store. It refers to no more of it than `context`."""

    __slots__ = ("__weakref__", "context", "floor", "was_running")

    def __init__(self, context: VMStoreContext) -> None:
        """`floor` is the `stack_floor` that the context has, read more often than it changes; nobody's as yet."""
        self.context = context
        self.floor = _NOBODY
        self.was_running = False


class _Watcher:
    """See the module's docstring. Only its own thread changes `_is_asleep` to true."""

    def __init__(self) -> None:
        self._stores: dict[int, weakref.ref[Watched]] = {}
        self._gone: list[weakref.ref[Watched]] = []  # those of them that nobody has any more
        self._in_order: tuple[weakref.ref[Watched], ...] = ()  # the same, for the thread
        self._start_anew()

    def _start_anew(self) -> None:
        self._changes = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_asleep = True
        self._woken: SimpleQueue[None] = SimpleQueue()  # whose `put` a signal handler may interrupt, and call

    def add(self, watched: Watched) -> None:
        """Watch a store as long as this object is there."""
        with self._changes:
            # Python's garbage collector may run anywhere in here: what it finds dead is only noted, and goes later.
            while self._gone:
                gone = self._gone.pop()
                del self._stores[id(gone)]
            store = weakref.ref(watched, self._gone.append)
            self._stores[id(store)] = store
            self._in_order = tuple(self._stores.values())

    def wake(self) -> None:
        """Make the thread look at the stores, if it does not."""
        if self._thread is None:
            self._start()
        if self._is_asleep:
            self._is_asleep = False
            self._woken.put(None)

    def _start(self) -> None:
        if not _is_main_interpreter():
            return
        self._thread = thread = threading.Thread(
            target=self._run, args=(self._woken,), name="lowheap.polling", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # no thread to be had; or the interpreter is ending, or is one without daemons
            _log.warning("compiled code cannot be interrupted: %s", error)
        except BaseException:
            if thread.ident is None:
                self._thread = None
            raise

    def _run(self, woken: SimpleQueue[None]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            quiet = 0
            while quiet < 2 * _QUIET:
                time.sleep(PERIOD)
                quiet += 1
                if self._look() or (quiet > _QUIET and not self._is_asleep):
                    quiet = 0
                elif quiet == _QUIET:
                    # A call may have looked at its store's floor just before, and not run yet: hence the second half.
                    self._is_asleep = True
                    self._forget_threads()
            woken.get()

    def _look(self) -> bool:
        """Ask all code to poll that was running the last time, too; return whether any runs."""
        is_any_running = False
        stores, number = self._in_order, 0
        while number < len(stores):  # an iterator would be an object
            watched = stores[number]()
            number += 1
            if watched is not None:
                is_running = watched.context.activation != 0
                if is_running and watched.was_running:
                    watched.context.poll_limit = POLL_REQUESTED
                watched.was_running = is_running
                is_any_running = is_any_running or is_running
        return is_any_running

    def _forget_threads(self) -> None:
        stores, number = self._in_order, 0
        while number < len(stores):
            watched = stores[number]()
            number += 1
            if watched is not None:
                watched.floor = _NOBODY

    def after_fork(self) -> None:
        """In the child, which has no thread but one: begin again, at once if compiled code is on its stack."""
        self._start_anew()
        self._forget_threads()
        if self._look():
            self.wake()


def _is_main_interpreter() -> bool:
    current, main = ctypes.pythonapi.PyInterpreterState_Get, ctypes.pythonapi.PyInterpreterState_Main
    current.restype = main.restype = ctypes.c_void_p
    return bool(current() == main())


_watcher = _Watcher()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watcher.after_fork)

watch = _watcher.add
wake = _watcher.wake
