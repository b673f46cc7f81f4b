"""What rc-immix keeps: where blocks and lines are, its side tables, its logs and stacks, and its words in the heap.

The heap is blocks of 32 KiB, which are lines of 256 bytes. An object of up to a line's size may begin anywhere and
reach into the next line; one of up to half a block (medium) is within one block; a larger one has blocks of its own, a
run of them (large). Nothing begins in the first line of all, so that null names nothing.

A **bit in `LIVE`** stands for each object that has survived an epoch, at its place; of a medium one another at each
further line that it is in. So a line is free if it has no bit, nor has the line before, the last object of which may
reach into it. What is young, made since the last epoch's end, has none: its lines are those that were free when its
block was taken, which `YOUNG` says.
"""

from __future__ import annotations

from lowheap.native import Buffer, HeaderBit, SideTable, state, u8, u32, u64

LINE_SHIFT, BLOCK_SHIFT = 8, 15
LINE, BLOCK = 1 << LINE_SHIFT, 1 << BLOCK_SHIFT
LINES = BLOCK // LINE
"""How many lines a block has."""

MEDIUM = BLOCK // 2
"""The largest object that shares a block with others."""

GROUP_SHIFT = 21
GROUP = 1 << GROUP_SHIFT
"""Memory is taken into use, and given back to the system, by so many bytes: a huge page."""

TOP = (1 << 32) - BLOCK
"""No line is used beyond this, so that no sum of an index and a small length wraps."""

GRANULE_SHIFT = 4
"""A bit in `LIVE` and in `MARKS` is for so many bytes, as a power of two: where an object can begin."""

SLOT_SHIFT = 2
"""A bit in `UNLOGGED` likewise: for a reference."""

LIVE = SideTable("live", u64, granule=64 << GRANULE_SHIFT)
"""A bit where each object begins that has survived, and at each further line of a medium one."""

MARKS = SideTable("marks", u64, granule=64 << GRANULE_SHIFT)
"""The same of those that a trace has come to."""

UNLOGGED = SideTable("unlogged", u64, granule=64 << SLOT_SHIFT)
"""A bit for each slot of an `OLD` object beyond what its header has bits for: what it holds is yet to be logged."""

ROOM = SideTable("room", u8, granule=BLOCK)
"""How many lines of a block are free, or one of the following."""

UNKNOWN, LARGE, LARGE_REST = 255, 254, 253
"""It is to be looked up in `LIVE`; a large object begins here; it goes on here."""

YOUNG = SideTable("young", u64, granule=BLOCK // 2)
"""A bit for each line of a block that was free when the block was taken in this epoch; 64 lines a word."""

HAS_EXTERNREFS = SideTable("externrefs", u8, granule=BLOCK)
"""1 for a block in which an externref may have survived."""

TOUCHED = SideTable("touched", u8, granule=GROUP)
"""1 for a group that is in use."""

OLD = HeaderBit("old")
"""Set in an object that has survived, and has slots beyond those that its header has bits for: see `UNLOGGED`."""

LOG = Buffer("log", limit=1 << 30)
"""What was stored over in this epoch: the index of a slot, or a struct's reference + 1 (which of its slots, its header
tells). An object has more bytes than slots, so it is never full."""

OLD_VALUES = Buffer("old values", limit=1 << 30)
"""The objects that these slots referred to at the epoch's beginning."""

DECREMENTS = Buffer("decrements", limit=1 << 30)
"""The objects whose counts are to go down by one: what was stored over, and what roots held, in earlier epochs."""

FOUND = Buffer("found")
"""What roots are found to hold at the end of an epoch."""

HELD = Buffer("held")
"""What they held at the end of the last one; it is counted."""

GREY = Buffer("grey")
"""A stack of survivors whose references are yet to be counted."""

DEAD = Buffer("dead")
"""A stack of objects of count 0 that are yet to be freed."""

MARKED = Buffer("marked")
"""A stack of marked objects whose references are yet to be marked."""

TAKEN = Buffer("taken")
"""The numbers of the blocks that were taken in this epoch."""

YOUNG_LARGE = Buffer("young large")
"""The large objects that were made in this epoch."""

PAUSES = Buffer("pauses", limit=1 << 9)
"""How often the program was kept waiting for how long: entry 4b + q counts times in nanoseconds of b bits, of which the
two below the highest are q."""

YOUNG_EXTERNREFS = Buffer("young externrefs")
"""The externrefs that were made in this epoch: what dies of them is not only forgotten."""


NOT_MARKING, MARKING, GIVING_BACK, FREEING = range(4)
"""What a trace by portions is doing: see `marking.py`."""


@state
class Space:
    """Where the next objects go. A block's number is its index shifted by `BLOCK_SHIFT`.

    `bump` is two numbers, so that making an object is one addition: in the lower half where the next object goes, in
    the upper half how many were made in this span. `span` to `limit` is the span. `free_low` and `free_high` are the
    lines of the current `block` that are yet to be taken, a bit each; where holes are looked for, `hole` is where that
    goes on. `medium` to `medium_limit` is what is left of the block that medium objects go to. Blocks before
    `next_block` were taken, or passed over, in this epoch; so were those before `next_run` by who looked for room for a
    large object. `fresh` is the first block that never was in use. `left` is how many bytes the epoch may still take.
    """

    bump: u64
    limit: u32
    span: u32
    free_low: u64
    free_high: u64
    block: u32
    hole: u32
    next_block: u32
    next_run: u32
    medium: u32
    medium_limit: u32
    medium_start: u32
    fresh: u32
    least_room: u32
    left: u64
    committed: u64
    peak_committed: u64


@state
class Epochs:
    """What the collector goes by, and what it counts. Sizes are in bytes of blocks.

    `length` is how much an epoch may allocate, and `longest` how long one may be for the sake of short pauses.
    `live_objects` and `live_bytes` are what has survived and is not freed, `traced_live` what that was at the last
    trace. At the last epoch's end `lived` bytes lived, `survived_bytes` came to that, and `allocated_before` had been
    allocated, `allocated` of it in the epoch; `work` is how many objects survived and how many slots were logged;
    `is_settled` once all has been counted down since. `need` is how much memory the heap needs, falling slowly.
    `trace_next`: the next epoch ends with a trace. `calm` epochs have cost little. Of the array `dying` so many
    elements, `dying_left`, still count.

    A trace by portions does what `marking` says. `shaded` of the old values are marked; `sweep_at` is how far it has
    come, and in an array there, `sweep_left` elements are left.

    The last ones are figures, since the heap was made.
    """

    length: u64
    live_objects: u64
    live_bytes: u64
    traced_live: u64
    lived: u64
    survived_bytes: u64
    allocated_before: u64
    allocated: u64
    work: u64
    need: u64
    longest: u64
    trace_next: u32
    marking: u32
    is_settled: u32
    calm: u32
    dying: u32
    dying_left: u32
    sweep_at: u32
    sweep_left: u32
    shaded: u64
    pauses: u64
    paused_nanoseconds: u64
    longest_pause_nanoseconds: u64
    epochs: u64
    traces: u64
    survivors: u64
    logged: u64
    died: u64
