"""Optimising in the background: a process of this Python's, that compiles pieces of modules while their code runs.

It is started when something is to be optimised first, there is one at most, and it ends with this one. A module is
sent there once, with what its engine was made with; then pieces are asked for by their functions, and come back as an
entry of a cache does. Where the process cannot be (a collector of the program's own, no Python to start, or it has
ended), a thread does the same here, which takes turns with the program.

To compile all of a module ahead, `compile_all` has processes like it, as many as are wanted, until that is done.

Promises: nobody waits for it, and what it does not come to, stays as it is. The terminal's signals do not reach it.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import IO, Any, Protocol

from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode
from lowheap.wasm.pieces import on_large_stack

_log = logging.getLogger("lowheap.wasm")

_LENGTH = struct.Struct("<Q")
_SERVE = "import sys; sys.path[:] = sys.argv[1:]; from lowheap.wasm.optimiser_process import serve; serve()"
"""What the process runs: so it finds what is imported where this one does."""

Done = Callable[[CompiledCode | None], None]


class Optimisable(Protocol):
    """What pieces are compiled of: a module, for certain stores."""

    @property
    def is_portable(self) -> bool:
        """Whether another process can compile alike."""

    def described(self) -> Any:
        """What another process makes the same of."""

    def compile_optimised(self, functions: tuple[int, ...]) -> CompiledCode:
        """Compile a piece, optimised as the engine says."""


class _Process:
    """The process, and the thread that hears from it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _SERVE, *sys.path]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._to, self._from = self._process.stdin, self._process.stdout
        self._known: weakref.WeakKeyDictionary[Optimisable, int] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()
        self._waiting: dict[int, Done] = {}
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.has_ended = False
        for run in (self._write, self._read):
            threading.Thread(target=run, name="lowheap.optimiser", daemon=True).start()

    def optimise(self, optimisable: Optimisable, functions: tuple[int, ...], done: Done) -> None:
        if optimisable not in self._known:
            self._known[optimisable] = next(self._numbers)
            self._queue.put(("module", self._known[optimisable], optimisable.described()))
        number = next(self._numbers)
        self._waiting[number] = done
        self._queue.put(("piece", number, (self._known[optimisable], functions)))

    def _write(self) -> None:
        try:
            while True:
                send(self._to, self._queue.get())
        except (OSError, ValueError):
            self._end()

    def _read(self) -> None:
        try:
            while (answer := receive(self._from)) is not None:
                number, key, data = answer
                done = self._waiting.pop(number)
                done(None if data is None else cache.decode(key, data))
        except (OSError, ValueError, EOFError) as error:
            _log.warning("the optimiser says what nobody understands: %s", error)
        self._end()

    def _end(self) -> None:
        self.has_ended = True
        while self._waiting:
            self._waiting.popitem()[1](None)

    def close(self) -> None:
        """End the process."""
        self.has_ended = True
        self._process.kill()
        self._process.wait()


class _Thread:
    """The same, in a thread of this process."""

    has_ended = False

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Optimisable, tuple[int, ...], Done]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="lowheap.optimiser", daemon=True).start()

    def optimise(self, optimisable: Optimisable, functions: tuple[int, ...], done: Done) -> None:
        self._queue.put((optimisable, functions, done))

    def _run(self) -> None:
        while True:
            optimisable, functions, done = self._queue.get()
            done(compiled(optimisable, functions))
            del optimisable, done


def compiled(optimisable: Optimisable, functions: tuple[int, ...]) -> CompiledCode | None:
    """Return the code of a piece; None, and a warning, if the compiler refuses."""
    try:
        return _compile_here(optimisable, functions)
    except Exception:
        _log.exception("functions %s cannot be optimised, and stay as they are", functions)
        return None


def compile_all(
    optimisable: Optimisable, pieces: Sequence[tuple[int, ...]], jobs: int | None = None
) -> Generator[tuple[tuple[int, ...], CompiledCode], None, None]:
    """Compile pieces in so many processes, and yield each when it is done; with one, and where none can be, here.

    None: as many as this process may use processors. Raises what the compiler does.
    """
    count = min(len(os.sched_getaffinity(0)) if jobs is None else jobs, len(pieces))
    processes: list[_Process] = []
    pending = deque(pieces)
    answers: queue.SimpleQueue[tuple[_Process, tuple[int, ...], CompiledCode | None]] = queue.SimpleQueue()
    given: dict[tuple[int, ...], _Process] = {}

    def give(process: _Process) -> None:
        if pending and not process.has_ended:
            functions = pending.popleft()
            given[functions] = process
            process.optimise(optimisable, functions, lambda compiled: answers.put((process, functions, compiled)))

    try:
        if count > 1 and optimisable.is_portable and sys.executable:
            try:
                processes += (_Process() for _ in range(count))
            except (OSError, RuntimeError) as error:
                _log.warning("no more processes can be started to compile in: %s", error)
        for process in processes * _AHEAD:
            give(process)
        while given or pending:
            if not given:
                functions, compiled = pending.popleft(), None
            else:
                try:
                    process, functions, compiled = answers.get(timeout=_PATIENCE)
                except queue.Empty:  # nobody answers for what a process was given when it was ending
                    pending += [each for each, process in given.items() if process.has_ended]
                    given = {each: process for each, process in given.items() if not process.has_ended}
                    continue
                if given.pop(functions, None) is None:
                    continue
                give(process)
            if compiled is None:  # again, here, to see what is raised
                compiled = _compile_here(optimisable, functions)
            yield functions, compiled
    finally:
        for process in processes:
            process.close()


_AHEAD = 2
"""So many pieces a process is given at first, so that it need not wait for the next."""

_PATIENCE = 1.0
"""After so many seconds without an answer, we look whether there is anybody to give one."""


def _compile_here(optimisable: Optimisable, functions: tuple[int, ...]) -> CompiledCode:
    return on_large_stack(lambda: optimisable.compile_optimised(functions))


_lock = threading.Lock()
_process: list[_Process] = []
_thread: list[_Thread] = []


def optimise(optimisable: Optimisable, functions: tuple[int, ...], done: Done) -> None:
    """Have a piece optimised; `done` is called in another thread, with None if that has failed."""
    with _lock:
        _find(optimisable).optimise(optimisable, functions, done)


def _find(optimisable: Optimisable) -> _Process | _Thread:
    if optimisable.is_portable and sys.executable:
        try:
            if not _process:
                _process.append(_Process())
            if not _process[0].has_ended:
                return _process[0]
        except (OSError, RuntimeError) as error:
            _log.warning("no process can be started to optimise code in: %s", error)
    if not _thread:
        _thread.append(_Thread())
    return _thread[0]


def _close() -> None:
    while _process:
        _process.pop().close()


def _forget() -> None:
    """In a child of `os.fork`: what its parent has started is not its own."""
    global _lock
    _lock = threading.Lock()
    _process.clear()
    _thread.clear()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def send(file: IO[bytes], message: Any) -> None:
    """Send a message."""
    data = pickle.dumps(message)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def receive(file: IO[bytes]) -> Any:
    """Return the next message; None at the end."""
    head = file.read(_LENGTH.size)
    if not head:
        return None
    (length,) = _LENGTH.unpack(head)
    data = file.read(length)
    if len(data) != length:
        raise EOFError("the other end has gone")
    return pickle.loads(data)
