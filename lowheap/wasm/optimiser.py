"""Optimising in the background: a process of this Python's, that compiles pieces of modules while their code runs.

It is started when something is to be optimised first, there is one at most, and it ends with this one. A module is
sent there once, with what its engine was made with; then pieces are asked for by their functions, and come back as an
entry of a cache does. One that ends has a successor. Where no process can be (a collector of the program's own, no
Python to start, or several have ended), a thread does the same here, which takes turns with the program.

To compile all of a module ahead, `compile_all` has processes like it, as many as are wanted, until that is done.

Promises: nobody waits for it, and what it does not come to, stays as it is. The terminal's signals do not reach it,
and that it ends harms nobody. No lock is held where code of others may come in between: a signal's handler, or a
finalizer, may have something optimised, too.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, TypeVar

from lowheap.collectors.interface import Collector
from lowheap.jit import cache, engine, runtime
from lowheap.jit.engine import CompiledCode
from lowheap.wasm.call_targets import SeenTargets
from lowheap.wasm.pieces import on_large_stack

_log = logging.getLogger("lowheap.wasm")

_LENGTH = struct.Struct("<Q")
_SERVE = "import sys; sys.path[:] = sys.argv[1:]; from lowheap.wasm.optimiser_process import serve; serve()"
"""What the process runs: so it finds what is imported where this one does."""

_FOLDER = str(Path(__file__).resolve().parents[2])
"""Where lowheap is: the working directory, where this process may look for modules first, can have another."""

Done = Callable[[CompiledCode | None], None]


class Optimisable(Protocol):
    """What pieces are compiled of: a module, for certain stores; or the runtime, which is one piece."""

    @property
    def is_portable(self) -> bool:
        """Whether another process can compile alike."""

    def described(self) -> Any:
        """What another process makes the same of."""

    @classmethod
    def of(cls, described: Any) -> Optimisable:
        """Return what was described."""

    def compile_optimised(self, functions: tuple[int, ...], seen: SeenTargets | None = None) -> CompiledCode:
        """Compile a piece, optimised as the engine says, and as what was seen of its calls suggests."""


class _Process:
    """The process, and the thread that hears from it."""

    def __init__(self) -> None:
        # Where it may look for modules before it is told is not more than where this one did.
        limits = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site, "-S": sys.flags.no_site}
        flags = [flag for flag, is_set in limits.items() if is_set]
        folders = [each for each in sys.path if isinstance(each, str)]
        command = [sys.executable, *flags, "-c", _SERVE, _FOLDER, *folders]
        pipe = subprocess.PIPE
        # No buffers: a child of `os.fork` would have a copy of what is in them, and write it.
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        assert self._process.stdin is not None, "it was asked for"
        assert self._process.stdout is not None, "it was asked for"
        self._to, self._from = self._process.stdin, self._process.stdout
        self._known: weakref.WeakKeyDictionary[Optimisable, int] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()
        self._waiting: dict[int, Done] = {}
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.has_ended = False
        try:
            self._threads = [
                threading.Thread(target=run, name="lowheap.optimiser", daemon=True) for run in (self._write, self._read)
            ]
            for each in self._threads:
                each.start()
        except BaseException:
            self._end()
            raise

    def optimise(
        self, optimisable: Optimisable, functions: tuple[int, ...], done: Done, seen: SeenTargets | None = None
    ) -> None:
        if optimisable not in self._known:
            known = self._known[optimisable] = next(self._numbers)
            self._queue.put((TAKE, known, (type(optimisable), optimisable.described())))
            weakref.finalize(optimisable, self._queue.put, (FORGET, known, None)).atexit = False
        number = next(self._numbers)
        self._waiting[number] = done
        self._queue.put((PIECE, number, (self._known[optimisable], functions, seen)))
        if self.has_ended:
            self._answer(number, None)

    def _answer(self, number: int, compiled: CompiledCode | None) -> None:
        done = self._waiting.pop(number, None)
        if done is not None:  # else another thread was here first
            done(compiled)

    def _write(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})  # or it may end the program, if that wants it to
        try:
            while (message := self._queue.get()) is not None:
                send(self._to, message)
        except Exception as error:  # among others, what pickling raises
            _log.debug("nothing can be sent to the optimiser any more: %s", error)
        with self._to:
            self._end()

    def _read(self) -> None:
        try:
            while (answer := receive(self._from)) is not None:
                number, data = answer
                compiled = None
                try:
                    compiled = None if data is None else cache.decode(str(number), data)
                finally:
                    self._answer(number, compiled)
        except Exception as error:
            _log.warning("the optimiser says what nobody understands: %r", error)
        with self._from:
            self._end()

    def _end(self) -> None:
        """End the process, if it has not ended, and answer all who wait."""
        self.has_ended = True
        self._queue.put(None)
        self._process.kill()
        self._process.wait()
        for number in list(self._waiting):
            self._answer(number, None)

    def close(self) -> None:
        """End the process, and the threads; not for ever waiting for these, which run code of others, too."""
        self._end()
        for each in self._threads:
            each.join(_PATIENCE)

    def forget(self) -> None:
        """In a child of `os.fork`: it is another's."""
        self.has_ended = True
        self._to.close()
        self._from.close()
        self._process.returncode = 0


_Wanted: TypeAlias = tuple[Optimisable, tuple[int, ...], Done, SeenTargets | None]


class _Thread:
    """The same, in a thread of this process."""

    has_ended = False

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Wanted] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="lowheap.optimiser", daemon=True).start()

    def optimise(
        self, optimisable: Optimisable, functions: tuple[int, ...], done: Done, seen: SeenTargets | None = None
    ) -> None:
        self._queue.put((optimisable, functions, done, seen))

    def _run(self) -> None:
        while True:
            optimisable, functions, done, seen = self._queue.get()
            try:
                done(compiled(optimisable, functions, seen))
            except Exception:
                _log.exception("functions %s were optimised for nobody", functions)
            del optimisable, done, seen


def compiled(
    optimisable: Optimisable, functions: tuple[int, ...], seen: SeenTargets | None = None
) -> CompiledCode | None:
    """Return the code of a piece; None, and a warning, if the compiler refuses."""
    try:
        return _compile_here(optimisable, functions, seen)
    except Exception:
        _log.exception("functions %s cannot be optimised, and stay as they are", functions)
        return None


def compile_all(
    optimisable: Optimisable, pieces: Sequence[tuple[int, ...]], jobs: int | None = None
) -> Generator[tuple[tuple[int, ...], CompiledCode], None, None]:
    """Compile pieces in so many processes, and yield each when it is done; with one, and where none can be, here.

    None: as many as this process may use processors. Raises what the compiler does.
    """
    pending = deque(pieces)
    count = min(len(os.sched_getaffinity(0)) if jobs is None else jobs, len(pending))
    processes: list[_Process] = []
    answers: queue.SimpleQueue[tuple[_Process, tuple[int, ...], CompiledCode | None]] = queue.SimpleQueue()
    given = 0

    def give(process: _Process) -> None:
        nonlocal given
        if pending and not process.has_ended:
            functions = pending.popleft()
            given += 1
            process.optimise(optimisable, functions, lambda compiled: answers.put((process, functions, compiled)))

    try:
        if count > 1 and _is_for_processes(optimisable):
            try:
                for _ in range(count):
                    processes.append(_Process())
                    _ahead.append(processes[-1])
            except (OSError, RuntimeError, ValueError) as error:
                _log.warning("no more processes can be started to compile in: %s", error)
        for process in processes * _PIECES_AT_FIRST:
            give(process)
        while given or pending:
            if given:
                process, functions, compiled = answers.get()
                given -= 1
                give(process)
            else:
                functions, compiled = pending.popleft(), None
            # Where a process has ended, or the compiler refuses, the same is done here, to see what is raised.
            yield functions, compiled or _compile_here(optimisable, functions)
    finally:
        for process in processes:
            process.close()
        _ahead[:] = [each for each in _ahead if each not in processes]


_PIECES_AT_FIRST = 2
"""So many pieces a process is given at first, so that it need not wait for the next."""


def _compile_here(
    optimisable: Optimisable, functions: tuple[int, ...], seen: SeenTargets | None = None
) -> CompiledCode:
    return on_large_stack(lambda: optimisable.compile_optimised(functions, seen))


def _is_for_processes(optimisable: Optimisable) -> bool:
    """Whether another process can do it: what is frozen has no interpreter's executable, that is the program itself."""
    return optimisable.is_portable and bool(sys.executable) and not getattr(sys, "frozen", False)


TAKE, PIECE, FORGET = "take", "piece", "forget"
"""What a message asks for: to take in what is compiled, a module or the runtime, to compile a piece, to forget it."""

_PATIENCE = 1  # seconds
_MOST_ENDED = 3  # processes that have ended of themselves, before a thread does the same

_lock = threading.RLock()
_process: list[_Process] = []
_ended: list[None] = []  # for each that had a successor
_thread: list[_Thread] = []
_ahead: list[_Process] = []  # those that compile ahead
_is_closed: list[bool] = []


def optimise(optimisable: Optimisable, functions: tuple[int, ...], done: Done, seen: SeenTargets | None = None) -> None:
    """Have a piece optimised; `done` is called, with None if that has failed: in another thread, or at once.

    `seen` is what calls through references have come to.

    RuntimeError where there is no thread to be had.
    """
    if _is_closed:
        return  # nobody would take it up
    _find(optimisable).optimise(optimisable, functions, done, seen)


def optimise_runtime(compiler: runtime.Compiler, cache_directory: Path | None) -> None:
    """Have the runtime optimised, unless it is being, or was and could not be."""
    key = compiler.collector, compiler.checked
    if key in _runtimes:
        return
    _runtimes.add(key)

    def done(compiled: CompiledCode | None) -> None:
        if compiled is not None:
            compiler.put(compiled, cache_directory)

    try:
        optimise(compiler, (), done)
    except Exception:
        _log.exception("the runtime cannot be optimised, and stays as it is")


_runtimes: set[tuple[Collector, bool]] = set()


def _find(optimisable: Optimisable) -> _Process | _Thread:
    if _is_for_processes(optimisable):
        try:
            process = _only(_process, _Process)
            if process.has_ended and _may_follow(process):
                process = _only(_process, _Process)
            if not process.has_ended:
                return process
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("no process can be started to optimise code in: %s", error)
    return _only(_thread, _Thread)


def _may_follow(ended: _Process) -> bool:
    """Make room for another process where one has ended, unless several have: what ended them may end the next."""
    with engine.without_gc(), _lock:
        if _process and _process[0] is ended and len(_ended) < _MOST_ENDED:
            _ended.append(None)
            _process.clear()
        return not _process or not _process[0].has_ended


_Optimiser = TypeVar("_Optimiser", _Process, _Thread)


def _only(found: list[_Optimiser], make: Callable[[], _Optimiser]) -> _Optimiser:
    """Return the only one, made at the first use."""
    if not found:
        with engine.without_gc(), _lock:  # no finalizer comes in between, which would make another
            if not found:
                found.append(make())
    return found[0]


def _close() -> None:
    _is_closed.append(True)
    for processes in (_process, _ahead):
        while processes:
            processes.pop().close()
    if _thread:
        engine.stop()


def _forget() -> None:
    """In a child of `os.fork`: what its parent has started is not its own."""
    global _lock
    _lock = threading.RLock()
    for processes in (_process, _ahead):
        while processes:
            processes.pop().forget()
    _ended.clear()
    _thread.clear()
    _runtimes.clear()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def send(file: IO[bytes], message: Any) -> None:
    """Send a message."""
    data = pickle.dumps(message)
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:
        rest = rest[file.write(rest) :]


def receive(file: IO[bytes]) -> Any:
    """Return the next message; None at the end."""
    head = _read(file, _LENGTH.size)
    data = _read(file, _LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    return pickle.loads(data) if data else None


def _read(file: IO[bytes], size: int) -> bytes:
    """Return so many bytes; none, if the other end has gone in between."""
    parts = []
    while size and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"" if size else b"".join(parts)
