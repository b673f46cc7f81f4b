"""The deferred reference-counting collector: a collection by increments, trace, then sweep, then free.

A collection does not look for garbage in the heap. It looks at the over-approximated stack roots, the list of all
objects that *may* be held by compiled code: it marks those that stack maps say *are* held (trace), and takes the list's
count from all others (sweep). Objects that nobody else counts die then, and whatever only they held.

However much dies, it need not be freed at once. With a budget, what dies in the sweep waits on the list of pending dead
objects (`control.pending_dead`), and each increment frees so many of them; freeing one may put others on the list, so a
long chain is freed link by link. That list is all the state there is: between these increments the heap is idle, and
programs, other collections and compiled code may do with it whatever they like.

What only cycles keep is found by a search that belongs to the sweep, and waits on that list, too. The search is not
bounded by a budget: it looks at all that lives.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from types import TracebackType

from lowheap.copying import NotCopied
from lowheap.critical import whole
from lowheap.errors import HeapError, NoGcScopeError, UnsupportedError
from lowheap.heap import DrcHeap
from lowheap.layout import CollectionPhase
from lowheap.roots import RootSet

_log = logging.getLogger("lowheap.collector")


class GcProgress(enum.Enum):
    """What one increment of a collection achieved."""

    CONTINUE = "continue"
    COMPLETE = "complete"


class _Stage(enum.Enum):
    """What the next increment of a collection does."""

    TRACE = enum.auto()
    SWEEP = enum.auto()
    FREE = enum.auto()
    NOTHING = enum.auto()


class DrcCollection(NotCopied):
    """One collection of `heap`. The phase is in the control block, so compiled code can tell that one is running.

    From the trace to the end of the sweep, the heap refuses to allocate and to expose references: what would go on the
    list then would be swept, although compiled code holds it. After that it is idle, even if a budget has left objects
    to free. Leaving a `with` block (or `close`) ends the collection early: before the sweep nothing is freed; after it,
    what is still pending stays so, and the next collection frees it, or an allocation that finds no room.
    """

    NOT_COPIED_BECAUSE = "it is what is going on in one heap; make a new one from the store"

    def __init__(
        self, heap: DrcHeap, roots: RootSet, *, trace: Callable[[], None] | None = None, cycles: bool = False
    ) -> None:
        """Prepare a collection. NoGcScopeError inside a no-GC scope, HeapError while another one is running.

        With `cycles`, what only cycles keep is found, too: UnsupportedError when the heap's collector cannot do that.

        `trace` marks what compiled code holds, as `heap.trace` does, and is called instead of that in an increment with
        a budget: whoever has compiled code that does so may give it here.
        """
        self._heap = heap
        self._roots = roots
        self._trace = trace
        self._cycles = cycles
        self.only_if_due = False
        """Whether to search for cycles only if so much lives behind the sweep that it is time to."""
        self._stage = _Stage.TRACE
        _check_cycles(cycles, heap)
        check_allowed(self._heap)
        if heap.control.phase != CollectionPhase.IDLE:
            raise HeapError("cannot start a collection in the middle of another; finish it or close it first")

    @whole
    def collect_increment(self, budget: int | None = None) -> GcProgress:
        """Do the next increment: trace; then sweep; then free what is left. COMPLETE when nothing is left to do.

        With a `budget`, at least 1, the increment frees no more objects than that; without one, all that there are.
        A search for cycles is all in the increment that sweeps.
        Each call may have its own. TypeError or ValueError for anything else. NoGcScopeError when a no-GC scope was
        entered before the sweep; leave it, and go on. Freeing alone is no collection, and allowed in one.
        """
        _check_budget(budget)
        match self._stage:
            case _Stage.TRACE:
                self._do_trace(natively=budget is not None)
                return GcProgress.CONTINUE
            case _Stage.SWEEP:
                self._do_sweep(frees=budget is None)
                return self._do_free(budget)
            case _Stage.FREE:
                return self._do_free(budget)
            case _:
                return GcProgress.COMPLETE

    @whole
    def collect(self) -> None:
        """Do all that is left."""
        try:
            while self.collect_increment() is GcProgress.CONTINUE:
                pass
        finally:
            self.close()

    @whole
    def close(self) -> None:
        """End the collection where it is: marks are cleared, and nothing more is freed by this one."""
        if self._stage is _Stage.SWEEP:
            self._heap.clear_marks()
            self._heap.control.phase = CollectionPhase.IDLE
        self._stage = _Stage.NOTHING

    def _do_trace(self, *, natively: bool) -> None:
        check_allowed(self._heap)
        control = self._heap.control
        if control.phase != CollectionPhase.IDLE:
            raise HeapError("cannot trace in the middle of another collection; finish it or close it first")
        _log.debug("trace: %d objects on the list", control.current_len)
        control.phase = CollectionPhase.SWEEP
        self._stage = _Stage.SWEEP
        trace_held(self._heap, self._roots, self._trace if natively else None)

    def _do_sweep(self, *, frees: bool) -> None:
        check_allowed(self._heap)
        if frees:
            self._heap.sweep()
        else:
            self._heap.sweep_pending()
        self._heap.finish_sweep()
        control = self._heap.control
        if self._cycles:
            if frees:
                self._heap.free_pending()
            if not self.only_if_due or self._heap.is_search_due():
                self._heap.find_cycles()
        control.phase = CollectionPhase.IDLE
        self._stage = _Stage.FREE
        _log.debug("sweep: %d objects still on the list", control.current_len)

    def _do_free(self, budget: int | None) -> GcProgress:
        if self._heap.free_pending(budget):
            return GcProgress.CONTINUE
        self._stage = _Stage.NOTHING
        return GcProgress.COMPLETE

    def __enter__(self) -> DrcCollection:
        """Return the collection itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the collection, wherever it is."""
        self.close()


def check_allowed(heap: DrcHeap) -> None:
    """NoGcScopeError where nothing may be collected."""
    heap.check_attached()
    if heap.is_interrupted():
        raise NoGcScopeError("cannot collect in a signal handler that has interrupted compiled code")
    if scopes := heap.control.no_gc_count:
        raise NoGcScopeError(f"cannot collect inside a no-GC scope; {scopes} are entered")


def trace_held(heap: DrcHeap, roots: RootSet, trace: Callable[[], None] | None) -> None:
    """Mark what compiled code holds: by `trace`, where whoever has that code does it, else as the roots tell."""
    if trace is not None:
        trace()
    else:
        heap.trace(root.reference for root in roots if root.is_on_wasm_stack)


def _check_cycles(cycles: bool, heap: DrcHeap) -> None:
    if not isinstance(cycles, bool):
        raise TypeError(f"cycles is {cycles!r}; it must be a bool")
    if cycles and not heap.collector.searches_for_cycles:
        raise UnsupportedError(f"the collector {heap.collector.name} cannot search for cycles: its class says so")


def _check_budget(budget: int | None) -> None:
    if budget is None:
        return
    if not isinstance(budget, int) or isinstance(budget, bool):
        raise TypeError(f"budget is {budget!r}; it must be an int, how many objects to free at most, or None")
    if budget < 1:
        raise ValueError(f"budget is {budget}; it must be at least 1 object, or None for all of them")
