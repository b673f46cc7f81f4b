"""Reference counting by epochs, in blocks and lines, as a collector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from lowheap.collectors.interface import Collector
from lowheap.collectors.null import collector as null
from lowheap.collectors.rc_immix import (
    barriers,
    collection,
    counting,
    lines,
    marking,
    pauses,
    space,
    state,
    verify,
    walking,
)
from lowheap.collectors.rc_immix.references import C_REFERENCES
from lowheap.collectors.shared.lines import LineMap
from lowheap.native import Heap
from lowheap.native.check import BOOL, NOTHING, U64, Signature, Type


class RcImmix(Collector):
    """Counts that the young never pay for: coalesced in a log, brought up to date at the end of each epoch.

    A trace all at once does not tell what only cycles kept from what else has died, so that the figures of searches for
    cycles have the objects that traces by portions have found.

    `epoch_bytes`: how much each epoch allocates; 0: the collector decides. `traces`: whether some epochs end with a
    trace, without which cycles are never freed. `pause_microseconds`: how long the program should be kept waiting at
    most; 0: nobody cares.
    """

    name = "rc-immix"
    needs_owner = True
    counts_roots = False
    counts_tell_life = False
    logs_ranges = True
    finds_room = True
    c_references = C_REFERENCES

    read = null.read
    write = barriers.write
    init = null.write
    allocated = null.allocated
    inc_ref = null.count_nothing
    dec_ref = null.count_nothing
    expose = null.count_nothing
    log_range = barriers.log_range

    allocate_small = space.allocate_small
    allocate_block = collection.allocate_block
    write_header = collection.write_header
    free_leaf = collection.free_leaf
    settle_figures = space.settle_figures
    tell_figures = pauses.tell_figures
    blocks = walking.blocks

    is_due = null.never
    hold = collection.hold
    forget_held = collection.forget_held
    sweep = collection.end_epoch
    sweep_pending = collection.end_epoch_in_portions
    has_pending = counting.has_pending
    free_pending = collection.free_pending
    collect = collection.collect
    collect_cycles = collection.collect_cycles
    find_cycles = marking.find_cycles
    drop = null.keep
    is_live = collection.is_live
    may_be_held = collection.is_live
    is_owned = collection.is_live

    verify_blocks = verify.verify_blocks
    verify_free_blocks = verify.verify_free_blocks
    verify_lists = verify.verify_lists
    verify_pending = verify.verify_pending
    verify_noted = verify.verify_noted
    verify_held = null.verify_held
    count_owned = verify.count_owned

    functions: ClassVar[dict[str, Signature]] = {"between_blocks": Signature((), NOTHING)}
    between_blocks = pauses.between_blocks

    states = (state.Space, state.Epochs)
    header_bits = (state.OLD,)
    buffers = (
        state.LOG,
        state.OLD_VALUES,
        state.DECREMENTS,
        state.FOUND,
        state.HELD,
        state.GREY,
        state.DEAD,
        state.MARKED,
        state.TAKEN,
        state.YOUNG_LARGE,
        state.YOUNG_EXTERNREFS,
        state.PAUSES,
    )
    side_tables = (
        state.LIVE,
        state.MARKS,
        state.UNLOGGED,
        state.ROOM,
        state.YOUNG,
        state.HAS_EXTERNREFS,
        state.TOUCHED,
    )
    counters = (
        "epochs",
        "traces",
        "survivors",
        "logged",
        "died",
        "committed",
        "peak_committed",
        "pauses",
        "paused_nanoseconds",
        "longest_pause_nanoseconds",
    )

    parameters: ClassVar[dict[str, Type]] = {"epoch_bytes": U64, "traces": BOOL, "pause_microseconds": U64}

    compiled = (collection.end_epoch, collection.end_epoch_in_portions, collection.free_pending, marking.find_cycles)

    def __init__(self, *, epoch_bytes: int = 0, traces: bool = True, pause_microseconds: int = 0) -> None:
        """Make a collector with parameters of one's own."""
        self.epoch_bytes, self.traces, self.pause_microseconds = epoch_bytes, traces, pause_microseconds

    def pause_times(self, heap: Heap) -> dict[int, int]:
        """Return how often the program was kept waiting for how long: see `Store.pause_times`."""
        found = {}
        for number in range(heap.length(state.PAUSES).value):
            if count := heap.entry(state.PAUSES, number).value:
                bits, quarter = divmod(number, 4)
                found[(4 + quarter + 1) << (bits - 3)] = count
        return found

    def line_map(self, heap: Heap) -> LineMap:
        """Return what is in each line of each block."""
        return lines.line_map(heap)

    def pending(self, heap: Heap) -> Iterator[int]:
        """Yield the objects that are dead and wait to be freed, the next first."""
        dying = heap.state(state.Epochs).dying
        if dying:
            yield dying
        for number in reversed(range(heap.length(state.DEAD).value)):
            yield heap.entry(state.DEAD, number).value
