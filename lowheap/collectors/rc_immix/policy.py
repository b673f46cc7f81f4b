"""How long an epoch is, when there is a trace in place of counting, and how much memory is kept.

An epoch's end costs what has survived and what was logged. When that is much beside what the epoch allocated, the next
one is longer; when it is next to nothing for long, shorter, so that what is made stays in the cache. It is never so
long that the heap would grow far beyond what lived at the last trace.

There is a trace when what lives has doubled since the last one, cycles of garbage perhaps among it; and when more than
half of what had survived died in the epoch before, since then a trace is less work than counting.
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.space import give_back
from lowheap.collectors.rc_immix.state import BLOCK, Epochs, Space
from lowheap.collectors.shared.sizing import NO_SEARCH
from lowheap.native import Heap, inline, native, u64

MIB = 1 << 20

SHORTEST, LONGEST = MIB, 256 * MIB
"""How much an epoch allocates at least, about what a processor's second cache holds, and at most."""

ENTRY = 32
"""What an object that has survived, or a slot that was logged, is reckoned to cost: as much as so many bytes."""

MUCH, LITTLE = 128, 1024
"""An epoch's end costs much if that is more than this part of what was allocated, little if less than that one."""

PATIENCE = 8
"""After so many epochs that cost little, they become shorter."""

ROOM = 28 * MIB
"""How far the heap may grow beyond 2.25 times what lived at the last trace before the epoch's end."""

FLOOR = 4 * MIB
"""What lives must have grown by so much besides having doubled, for a trace."""

FEW = MIB // 4
"""When no more than so many bytes died, how many that is of what had survived says nothing."""


@inline
def may_trace(heap: Heap) -> bool:
    """Whether there may be a trace that nobody has asked for."""
    return heap.collector.traces and (heap.control.cycle_limit != NO_SEARCH)


@inline
def expect_trace(heap: Heap) -> None:
    """Whether there is to be a trace at the end of this epoch, as far as what has died since the last tells."""
    epochs = heap.state(Epochs)
    gone = epochs.lived + epochs.survived_bytes - min(epochs.lived + epochs.survived_bytes, epochs.live_bytes)
    has_doubled = epochs.live_bytes > epochs.traced_live * 2 + FLOOR
    most_died = (gone > FEW) and (gone > epochs.lived // 2)
    if may_trace(heap) and (has_doubled or most_died):
        epochs.trace_next = 1


@native
def set_length(heap: Heap) -> None:
    """Say how long an epoch is, now that all is counted down."""
    epochs = heap.state(Epochs)
    allocated = epochs.allocated
    work = epochs.work
    length = max(epochs.length, SHORTEST)
    if allocated * 2 >= length:  # else it ended early, and tells nothing
        if work * ENTRY > allocated // MUCH:
            length *= 2
            epochs.calm = 0
        elif work * ENTRY < allocated // LITTLE:
            epochs.calm += 1
            if epochs.calm >= PATIENCE:
                length //= 2
    # What lived at the last trace counts for less the longer ago that is.
    if epochs.live_bytes < epochs.traced_live // 2:
        epochs.traced_live -= epochs.traced_live // 16
    most = epochs.traced_live // 4 * 9 + ROOM
    room = most - epochs.live_bytes if most > epochs.live_bytes + SHORTEST else SHORTEST
    epochs.length = max(min(min(length, room), LONGEST), SHORTEST)
    fixed: u64 = heap.collector.epoch_bytes
    if fixed != 0:
        epochs.length = fixed


@native
def keep_memory(heap: Heap) -> None:
    """Keep as much memory as the heap needs; that falls slowly."""
    epochs = heap.state(Epochs)
    epochs.need = max(epochs.need - epochs.need // 16, epochs.live_bytes + epochs.length)
    if heap.state(Space).committed > epochs.need + epochs.need // 4 + 8 * MIB:
        give_back(heap, epochs.need + 4 * MIB)


@inline
def allow(heap: Heap) -> None:
    """Let the epoch that has begun be as long as was said."""
    space = heap.state(Space)
    space.left = max(heap.state(Epochs).length, 2 * BLOCK)
