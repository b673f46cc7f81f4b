"""Code of a module that is compiled by need: in pieces, and each of these at first as quickly as possible.

A function that is called first is compiled together with what it calls and what has not been compiled: that is the
**baseline**, code that is not optimised and calls functions for all that it does to objects. It counts how often it
runs.
What runs often is compiled again, optimised as the engine says, in the background (`optimiser.py`): with small
functions that it calls in the place of their calls (`inlining.py`). A frame that runs baseline code goes on doing so,
so that a function with a loop within a loop is optimised at once.

What is of no function (the initialiser, trampolines, stubs for host functions) is the base, and is compiled first. The
functions for what baseline code does to objects are compiled with the first piece that needs them.

Pieces are the module's: an instance that calls a function of one takes up the whole piece. Until then, its table of
addresses has the stub there that asks for it (`jit/by_need.py`). What is optimised in the meantime, an instance takes
up when it asks for something, or polls.

All functions can be compiled ahead, too, as the engine says: `compile_all`. These pieces need nothing of others, and so
can be compiled and linked in any order.

Promises: a function is compiled once at each level, whoever asks; what an exception ends is as if it had not begun.
LLVM runs on a stack of its own, large enough, wherever compiled code was. To have something optimised, nobody waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from lowheap.copying import NotCopied
from lowheap.jit.engine import CompiledCode, LoadedCode, is_in_use_here
from lowheap.wasm.outline import FUNCTION_TABLE

if TYPE_CHECKING:
    from lowheap.jit.cache import PieceFile
    from lowheap.wasm.call_graph import CallGraph
    from lowheap.wasm.call_targets import SeenTargets

BASELINE = 0
"""The level of code that is not optimised."""


def level_of(opt_level: int) -> int:
    """The level of code that is optimised as LLVM's `opt_level` says."""
    return 2 * opt_level


def opt_level_of(level: int) -> int:
    """As what LLVM optimises code of a level."""
    return (level + 1) // 2


def watched(level: int) -> int:
    """The level of code that is optimised as such of a level, but counts and notes what baseline code does."""
    return level - 1


MOST_IN_BASELINE = 1500
"""So many instructions of WebAssembly are in a piece of the baseline, but for its first function, at most."""

MOST_OPTIMISED = 1500
"""So many instructions are optimised together at most, but for those of a larger function."""

OFTEN = 1000
"""A function that has run so often, its loops' rounds counted, is worth optimising."""

_log = logging.getLogger("lowheap.wasm")

_STACK_SIZE = 64 << 20
_stack_size_lock = threading.Lock()

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Linked code of some of a module's own functions: its level, their indices, and where each is."""

    code: LoadedCode
    level: int
    functions: tuple[int, ...]
    addresses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What has become of functions that are compiled by need.

    These are the module's own `functions`, those `compiled`, and those `optimised`; in so many `pieces`. Those that are
    `awaited` ran often, and are being optimised, or are to be, or to be taken up.
    `seconds` is how long the program has waited: what is compiled in the background, or ahead, is not in it.
    """

    functions: frozenset[int]
    compiled: frozenset[int]
    optimised: frozenset[int]
    awaited: frozenset[int]
    pieces: int
    seconds: float


class PieceCompiler(Protocol):
    """What compiles pieces: a module, for stores that allocate inline, or for those that do not."""

    level: int
    """How the engine wants code to be optimised."""

    @property
    def graph(self) -> CallGraph:
        """Which functions call which."""

    @property
    def functions(self) -> Sequence[int]:
        """The module's own functions, those first that are entered first."""

    def size(self, index: int) -> int:
        """How many instructions a function has."""

    def has_nested_loops(self, index: int) -> bool:
        """Whether a function has a loop within a loop."""

    def has_guesses(self, index: int) -> bool:
        """Whether it matters to a function what was seen of its calls."""

    def compile(self, functions: tuple[int, ...], level: int, known: Collection[str]) -> CompiledCode:
        """Compile a piece. `known` are the functions for what is done to objects that other pieces have."""

    def optimise(
        self, functions: tuple[int, ...], seen: SeenTargets | None, done: Callable[[CompiledCode | None], None]
    ) -> None:
        """Compile a piece in the background, and call `done` in another thread; with None, if that has failed."""

    def compile_ahead(
        self, pieces: Sequence[tuple[int, ...]], jobs: int | None
    ) -> Generator[tuple[tuple[int, ...], CompiledCode], None, None]:
        """Compile pieces as the engine says, that need nothing of others, and yield each with its functions.

        `jobs` are so many processes; None: as many as there are processors. Raises what the compiler does.
        """


class PiecewiseCode(NotCopied):
    """The code of a module as far as it is compiled."""

    NOT_COPIED_BECAUSE = "it is linked into this process"

    def __init__(self, compiler: PieceCompiler, cached: PieceFile | None) -> None:
        """Link the base, from the cache if it is there."""
        self._compiler, self._cached = compiler, cached
        self._lock = threading.RLock()
        self.linked: list[Piece] = []
        """All pieces that are linked, in this order."""
        self._pieces: dict[int, Piece] = {}  # the best there is, by the indices of functions
        self._symbols: dict[str, int] = {}  # what pieces have for others, and where
        self._seconds = 0.0
        self._cached_pieces: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._find_cached()
        self.compiled = self._from_cache((), BASELINE) or self._compile((), BASELINE)
        self.base = LoadedCode(self.compiled, known={})
        self._know_symbols(self.compiled, self.base)
        self._ready: deque[tuple[tuple[int, ...], CompiledCode]] = deque()
        self._choosing = threading.Lock()  # nobody waits for it
        self._wanted: dict[int, None] = {}  # functions that are yet to be optimised
        self._requested: set[int] = set()  # those that were, or are being
        self._being_optimised: tuple[int, ...] = ()
        self._seen: SeenTargets | None = None
        _all.add(self)

    def piece_of(self, index: int) -> Piece:
        """Return the piece that a function is in, compiled now if need be. Raises what the compiler does."""
        found = self._pieces.get(index)
        if found is not None:
            return found
        with self._lock:
            found = self._pieces.get(index)
            if found is None:
                started = time.perf_counter()
                self.link_ready()
                found = self._pieces.get(index) or self._link(*self._first_code_of(index))
                self._seconds += time.perf_counter() - started
            return found

    @property
    def level(self) -> int:
        """The level of the best code that there will be."""
        return self._compiler.level

    def compile_all(self, progress: Callable[[int, int], None] | None = None, jobs: int | None = None) -> int:
        """Compile all functions as the engine says, but for those that the cache has so; return how many.

        `progress(done, total)` is called at first and after each piece.
        """
        compiler = self._compiler
        with self._lock:
            if self._cached is not None:
                self._find_cached(anew=True)
            there = self._compiled_ahead()
            missing = dict.fromkeys(index for index in compiler.functions if index not in there)
        at_first, total = len(missing), len(compiler.functions)
        if progress is not None:
            progress(total - at_first, total)
        with contextlib.closing(compiler.compile_ahead(self._all_pieces(missing), jobs)) as compiled_pieces:
            for functions, compiled in compiled_pieces:
                if self._cached is None:
                    self._ready.append((functions, compiled))
                else:
                    self._cached.put((compiler.level, functions), compiled)
                self._requested.update(functions)
                for each in functions:
                    missing.pop(each, None)
                if progress is not None:
                    progress(total - len(missing), total)
        if self._cached is not None:
            with self._lock:
                self._find_cached(anew=True)
                self._improve_linked(self._cached)
        return at_first

    def is_all_cached(self) -> bool:
        """Whether the cache has all functions as the engine says, for whatever order they are called in."""
        return self._cached is not None and self._compiled_ahead() >= {*self._compiler.functions}

    def told(self) -> Compiled:
        """Return what has become of the functions."""
        optimised = frozenset(index for index, piece in self._pieces.items() if piece.level > BASELINE)
        functions = frozenset(self._compiler.functions)
        ready = [index for each, _ in list(self._ready) for index in each]
        awaited = frozenset((*list(self._wanted), *self._being_optimised, *ready))
        return Compiled(functions, frozenset(self._pieces), optimised, awaited, len(self.linked), self._seconds)

    def want_optimised(self, index: int, look: Callable[[], SeenTargets]) -> None:
        """Say that a function has run often; `look` tells what its and other functions' calls have come to."""
        if index not in self._requested:
            self._requested.add(index)
            self._seen = look()
            self._wanted[index] = None
            self._optimise_next()

    @property
    def has_ready(self) -> bool:
        """Whether optimised code waits to be linked."""
        return bool(self._ready)

    def link_ready(self) -> None:
        """Link what was optimised in the background. What cannot be linked stays as it was."""
        with self._lock:
            while self._ready:
                functions, compiled = self._ready.popleft()
                try:
                    self._link(functions, self._compiler.level, compiled)
                except Exception:
                    _log.exception("functions %s were optimised, but cannot be linked", functions)

    def _optimise_next(self) -> None:
        """Have something optimised that is to be, unless something is.

        Who comes here while another is at it, leaves the rest to that one, who looks again. So a finalizer may come,
        that runs functions often, and the thread that says what was optimised.
        """
        while self._wanted and not self._being_optimised and self._choosing.acquire(blocking=False):
            try:
                if self._wanted and not self._being_optimised:
                    self._optimise(self._some(list(self._wanted)))
            finally:
                self._choosing.release()

    def _optimise(self, functions: tuple[int, ...]) -> None:
        def done(compiled: CompiledCode | None) -> None:
            try:
                if compiled is not None:
                    if self._cached is not None:
                        self._cached.put((self._compiler.level, functions), compiled)
                    self._ready.append((functions, compiled))
            finally:
                self._being_optimised = ()
                self._optimise_next()

        self._requested.update(functions)
        for index in functions:
            self._wanted.pop(index, None)
        self._being_optimised = functions
        try:
            self._compiler.optimise(functions, self._seen, done)
        except Exception:
            self._being_optimised = ()
            _log.exception("functions %s cannot be optimised, and stay as they are", functions)

    def after_fork(self) -> None:
        """In a child of `os.fork`: no other thread is there to give a lock back, or to say what was optimised."""
        self._lock, self._choosing = threading.RLock(), threading.Lock()
        self._wanted.update(dict.fromkeys(self._being_optimised))
        self._being_optimised = ()

    def _find_cached(self, *, anew: bool = False) -> None:
        """Note the best piece of each function that the cache has, read again if need be."""
        if self._cached is not None and anew:
            self._cached.read()
        for level, functions in () if self._cached is None else self._cached.pieces():
            for index in functions:
                if level >= self._cached_pieces.get(index, (BASELINE, ()))[0]:
                    self._cached_pieces[index] = level, functions

    def _compiled_ahead(self) -> set[int]:
        """The functions that are there as the engine says, in sound pieces that need nothing of others."""
        level = self._compiler.level
        if self._cached is None:
            return {index for functions, _ in self._ready for index in functions} | {
                index for index, piece in self._pieces.items() if piece.level == level
            }
        found: set[int] = set()
        for known, functions in dict.fromkeys(self._cached_pieces.values()):
            if known == level:
                compiled = self._cached.get((known, functions), ())
                if compiled is not None:
                    found.update(index for index in functions if self._cached_pieces[index] == (known, functions))
        return found

    def _improve_linked(self, cached: PieceFile) -> None:
        """Have those functions linked again of which the cache has better code now."""
        better = (self._cached_pieces.get(index, (piece.level, ())) for index, piece in self._pieces.items())
        linked = {index: piece.level for index, piece in self._pieces.items()}
        for level, functions in dict.fromkeys(better):
            if any(linked.get(index, level) < level for index in functions):
                compiled = cached.get((level, functions), ())
                if compiled is not None:
                    self._ready.append((functions, compiled))

    def _all_pieces(self, functions: Iterable[int]) -> list[tuple[int, ...]]:
        """Return pieces that together have all of these functions, those that take longest first."""
        pieces: list[tuple[int, ...]] = []
        left = list(functions)
        while left:
            pieces.append(self._some(left))
            del left[: len(pieces[-1])]
        return sorted(pieces, key=lambda piece: sum(map(self._compiler.size, piece)), reverse=True)

    def _first_code_of(self, index: int) -> tuple[tuple[int, ...], int, CompiledCode]:
        """Return a piece for a function that is called, and its code: from the cache, if it is there."""
        if index in self._cached_pieces:
            level, functions = self._cached_pieces[index]
            compiled = self._from_cache(functions, level)
            if compiled is not None:
                return functions, level, compiled
        level, functions = self._choose(index)
        return functions, level, self._from_cache(functions, level) or self._compile(functions, level)

    def _from_cache(self, functions: tuple[int, ...], level: int) -> CompiledCode | None:
        return None if self._cached is None else self._cached.get((level, functions), self._symbols.keys())

    def _compile(self, functions: tuple[int, ...], level: int) -> CompiledCode:
        known = frozenset(self._symbols)
        compiled = on_large_stack(lambda: self._compiler.compile(functions, level, known))
        if self._cached is not None:
            self._cached.put((level, functions), compiled)
        return compiled

    def _know_symbols(self, compiled: CompiledCode, code: LoadedCode) -> None:
        """Let other pieces refer to what code has, which is kept."""
        for name in compiled.symbols:
            self._symbols.setdefault(name, code.address(name))

    def _link(self, functions: tuple[int, ...], level: int, compiled: CompiledCode) -> Piece:
        code = LoadedCode(compiled, known=self._symbols)
        addresses = (ctypes.c_uint64 * len(functions)).from_address(code.address(FUNCTION_TABLE))
        piece = Piece(code, level, functions, tuple(addresses))
        self.linked.append(piece)
        if level == BASELINE:
            self._know_symbols(compiled, code)
        for each in functions:
            known = self._pieces.get(each)
            if known is None or known.level < level:
                self._pieces[each] = piece
        return piece

    def _choose(self, index: int) -> tuple[int, tuple[int, ...]]:
        """Return what is compiled for a function that is called, and at which level."""
        compiler = self._compiler
        if compiler.level != BASELINE and compiler.has_nested_loops(index):
            return (watched(compiler.level) if compiler.has_guesses(index) else compiler.level), (index,)
        chosen = {index: None}
        total, pending = 0, [index]
        for each in pending:
            for callee in dict.fromkeys(compiler.graph.called[each]):
                total_with = total + compiler.size(callee)
                if callee not in chosen and callee not in self._pieces and total_with <= MOST_IN_BASELINE:
                    chosen[callee], total = None, total_with
                    pending.append(callee)
        return BASELINE, tuple(chosen)

    def _some(self, functions: Sequence[int]) -> tuple[int, ...]:
        """Return the first of these functions, and as many others as are optimised together."""
        chosen: list[int] = []
        total = 0
        for index in functions:
            total += self._compiler.size(index)
            if chosen and total > MOST_OPTIMISED:
                break
            chosen.append(index)
        return tuple(chosen)


_all: weakref.WeakSet[PiecewiseCode] = weakref.WeakSet()


def _after_fork() -> None:
    global _stack_size_lock
    _stack_size_lock = threading.Lock()
    for each in list(_all):
        each.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def on_large_stack(function: Callable[[], _Result]) -> _Result:
    """Run a function on a stack of its own; here, where no thread is to be had. Raises what it raises.

    Here, too, if this thread is using LLVM already: another would wait for that, and this one for the other.
    """
    if is_in_use_here():
        return function()
    outcome: list[_Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="lowheap.compiler", daemon=True)
    try:
        with _stack_size_lock:
            before = threading.stack_size(_STACK_SIZE)
            try:
                thread.start()
            finally:
                threading.stack_size(before)
    except RuntimeError:  # the system has none to give, or the interpreter is ending
        return function()
    thread.join()
    if failures:
        try:
            raise failures[0]
        finally:
            failures.clear()
    return outcome[0]
