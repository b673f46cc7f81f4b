"""Epochs: a number that an engine counts up, and the stores whose code stops when it comes to theirs.

Code of a store that is past its deadline is entered no more (`VMStoreContext.is_past_deadline`), and what runs is
asked to poll, as for a signal; where it does, it traps. A request that is lost, because code has just begun or just
polled, is no loss: the watcher of `runtime/polling.py` asks again.

Promises: any thread and any signal's handler may count, in the middle of anything that is done here. Nothing is kept
alive by having a deadline but a mapping of some pages.
"""

from __future__ import annotations

import threading
import weakref

from lowheap.layout import POLL_REQUESTED, VMStoreContext


class Epoch:
    """An engine's epoch, 0 at first."""

    def __init__(self) -> None:
        """Begin without deadlines."""
        self.number = 0
        # Threads exclude one another. A handler that interrupts its own thread comes between two steps that are one to
        # the interpreter: it runs handlers where functions are called and loops go round.
        self._changes = threading.RLock()
        self._deadlines: dict[int, weakref.ref[Deadline]] = {}

    def increment(self) -> None:
        """Count, and stop what is past its deadline now."""
        with self._changes:
            self.number += 1
        for each in tuple(self._deadlines.values()):
            deadline = each()
            if deadline is not None:
                deadline.look()

    def add(self, deadline: Deadline) -> None:
        """Tell a deadline when this has counted, as long as it is there."""
        key, deadlines = id(deadline), self._deadlines
        deadlines[key] = weakref.ref(deadline, lambda _: deadlines.pop(key, None))


class Deadline:
    """A store's deadline: the epoch's number from which on its code stops. 0 at first, so that none runs."""

    __slots__ = ("__weakref__", "_context", "_epoch", "number")

    def __init__(self, epoch: Epoch, context: VMStoreContext) -> None:
        """Begin, for the store with this context."""
        self._epoch, self._context = epoch, context
        self.number = 0
        epoch.add(self)
        self.look()

    @property
    def is_past(self) -> bool:
        """Whether the epoch has come to it."""
        return self._epoch.number >= self.number

    def set(self, ticks: int) -> None:
        """Put it so many ticks behind the epoch as it is now."""
        self.number = self._epoch.number + ticks
        self.look()

    def look(self) -> None:
        """Tell compiled code whether it is past. If either number changes meanwhile, what was said first is wrong."""
        while True:
            seen = self._epoch.number, self.number
            self._context.is_past_deadline = is_past = seen[0] >= seen[1]
            if is_past:
                self._context.poll_limit = POLL_REQUESTED
            if (self._epoch.number, self.number) == seen:
                return
