"""How long the program is kept waiting: measured, and kept short where that is wanted.

`pause_microseconds` of the collector is how long it should be at most. Then an epoch's end counts down, and traces, for
no longer than that; the rest is done in small portions, whenever a block is used up. Counting up cannot be put off, so
epochs become shorter until it takes no longer.
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.counting import count_some_down, has_decrements, has_pending
from lowheap.collectors.rc_immix.marking import trace_some
from lowheap.collectors.rc_immix.state import PAUSES, Epochs, Space
from lowheap.layout import VMHeapStatistics
from lowheap.native import Heap, bit_length, inline, native, u64, unlikely

PORTION = 256
"""After so many objects the clock is looked at."""

SLICES = 16
"""Of a pause, this part is what is done when a block is used up."""


@inline
def wanted_pause(heap: Heap) -> u64:
    """How long a pause should be at most, in nanoseconds; 0: nobody cares."""
    microseconds: u64 = heap.collector.pause_microseconds
    return microseconds * 1000


@native
def note_pause(heap: Heap, start: u64) -> None:
    """Note a pause that began at a time, and ends now."""
    taken = heap.nanoseconds() - start
    epochs = heap.state(Epochs)
    epochs.pauses += 1
    epochs.paused_nanoseconds += taken
    epochs.longest_pause_nanoseconds = max(epochs.longest_pause_nanoseconds, taken)
    heap.length(PAUSES).value = PAUSES.limit
    bits = u64(bit_length(taken | 4))
    heap.entry(PAUSES, bits * 4 + ((taken | 4) >> (bits - 3) & 3)).value += 1


@inline
def tell_figures(heap: Heap, figures: VMHeapStatistics) -> None:
    """Write down how much memory there was at most, and how long pauses were."""
    epochs = heap.state(Epochs)
    figures.peak_committed = heap.state(Space).peak_committed
    figures.pauses = epochs.pauses
    figures.paused_nanoseconds = epochs.paused_nanoseconds
    figures.longest_pause_nanoseconds = epochs.longest_pause_nanoseconds


@native
def work(heap: Heap, budget: u64) -> None:
    """Do some of what is pending: count down, then trace."""
    if has_decrements(heap):
        count_some_down(heap, budget)
    else:
        trace_some(heap, budget)


@native
def work_until(heap: Heap, end: u64) -> None:
    """Do what is pending until a time."""
    while has_pending(heap):
        work(heap, PORTION)
        if heap.nanoseconds() >= end:
            break


@inline
def between_blocks(heap: Heap) -> None:
    """Do some of what is pending, whenever a block is used up."""
    pause = wanted_pause(heap)
    if (pause != 0) and unlikely(has_pending(heap)):
        work_for_a_slice(heap, pause // SLICES)


@native
def work_for_a_slice(heap: Heap, length: u64) -> None:
    """Do what is pending for so many nanoseconds."""
    start = heap.nanoseconds()
    work_until(heap, start + length)
    note_pause(heap, start)
