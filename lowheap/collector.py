"""The deferred reference-counting collector: a collection by increments, trace then sweep.

A collection does not look for garbage in the heap. It looks at the over-approximated stack roots, the list of all
objects that *may* be held by compiled code: it marks those that stack maps say *are* held (trace), and takes the list's
count from all others (sweep). Objects that nobody else counts die then, and whatever only they held.
"""

from __future__ import annotations

import enum
import logging
from types import TracebackType

from lowheap.errors import HeapError, NoGcScopeError
from lowheap.heap import DrcHeap
from lowheap.layout import CollectionPhase
from lowheap.roots import RootSet

_log = logging.getLogger("lowheap.collector")


class GcProgress(enum.Enum):
    """What one increment of a collection achieved."""

    CONTINUE = "continue"
    COMPLETE = "complete"


class DrcCollection:
    """One collection of `heap`. The phase is in the control block, so compiled code can tell that one is running.

    From the first increment to the last, the heap refuses to allocate and to expose references: what would go on the
    list then would be swept, although compiled code holds it. Leaving a `with` block (or `close`) ends the collection
    early, without freeing.
    """

    def __init__(self, heap: DrcHeap, roots: RootSet) -> None:
        """Prepare a collection. NoGcScopeError inside a no-GC scope, HeapError while another one is running."""
        self._heap = heap
        self._roots = roots
        self._phase = CollectionPhase.TRACE
        self._check_allowed()
        if heap.control.phase != CollectionPhase.IDLE:
            raise HeapError("cannot start a collection in the middle of another; finish it or close it first")

    def collect_increment(self) -> GcProgress:
        """Do the next increment: trace, then sweep. COMPLETE when nothing is left to do.

        NoGcScopeError when a no-GC scope was entered meanwhile; leave it, and go on.
        """
        control = self._heap.control
        if self._phase != CollectionPhase.DONE:
            self._check_allowed()
        match self._phase:
            case CollectionPhase.TRACE:
                if control.phase != CollectionPhase.IDLE:
                    raise HeapError("cannot trace in the middle of another collection; finish it or close it first")
                _log.debug("trace: %d objects on the list", control.current_len)
                control.phase = self._phase = CollectionPhase.SWEEP
                self._heap.trace(root.reference for root in self._roots if root.is_on_wasm_stack)
                return GcProgress.CONTINUE
            case CollectionPhase.SWEEP:
                self._heap.sweep()
                control.len_after_last_gc = control.current_len
                control.live_bytes_after_last_collection = control.bytes_allocated - control.bytes_freed
                control.collections += 1
                self._phase = CollectionPhase.DONE
                control.phase = CollectionPhase.IDLE
                _log.debug("sweep: %d objects still on the list", control.current_len)
                return GcProgress.COMPLETE
            case _:
                return GcProgress.COMPLETE

    def collect(self) -> None:
        """Do all that is left."""
        try:
            while self.collect_increment() is GcProgress.CONTINUE:
                pass
        finally:
            self.close()

    def close(self) -> None:
        """End the collection where it is: marks are cleared, and nothing more is freed."""
        if self._phase == CollectionPhase.SWEEP:
            self._heap.clear_marks()
            self._heap.control.phase = CollectionPhase.IDLE
        self._phase = CollectionPhase.DONE

    def _check_allowed(self) -> None:
        self._heap.check_attached()
        if scopes := self._heap.control.no_gc_count:
            raise NoGcScopeError(f"cannot collect inside a no-GC scope; {scopes} are entered")

    def __enter__(self) -> DrcCollection:
        """Return the collection itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the collection, wherever it is."""
        self.close()
