"""What is in the lines of each block, for `lowheap inspect`: Python's alone, for a heap that is sound."""

from __future__ import annotations

from lowheap.collectors.rc_immix.collection import is_young
from lowheap.collectors.rc_immix.space import block_of, free_lines, place_of_bump, start_of, used_lines
from lowheap.collectors.rc_immix.state import BLOCK, LARGE, LARGE_REST, LINE, LINE_SHIFT, LINES, ROOM, YOUNG, Space
from lowheap.collectors.shared.lines import BlockOfLines, LineMap, LineState
from lowheap.native import Heap

_HALF = LINES // 2


def line_map(heap: Heap) -> LineMap:
    """Return what is in each line of each block that was ever in use."""
    fresh = heap.state(Space).fresh
    return LineMap(LINE, BLOCK, tuple(_block(heap, number) for number in range(fresh)))


def _block(heap: Heap, number: int) -> BlockOfLines:
    start = start_of(number)
    room = heap.side(ROOM, start).value
    if room in (LARGE, LARGE_REST):
        return BlockOfLines(start, bytes([LineState.LARGE]) * LINES, room == LARGE)
    low, high = free_lines(heap, number)
    free = _lines(low, high)
    survivors = _lines(used_lines(heap, start), used_lines(heap, start + BLOCK // 2))
    taken = _lines(heap.side(YOUNG, start).value, heap.side(YOUNG, start + BLOCK // 2).value)
    young = _young(heap, number, taken)
    states = bytearray()
    for line in range(LINES):
        bit = 1 << line
        if survivors & bit:
            states.append(LineState.SURVIVORS)
        elif young & bit:
            states.append(LineState.YOUNG)
        elif (free | taken) & bit:
            states.append(LineState.FREE)
        elif line and survivors & bit >> 1:
            states.append(LineState.BEHIND)
        else:  # the first line of all, and what is beyond the capacity
            states.append(LineState.RESERVED)
    return BlockOfLines(start, bytes(states))


def _lines(low: int, high: int) -> int:
    return low | high << _HALF


def _young(heap: Heap, number: int, taken: int) -> int:
    """Those of the lines that a block had free when it was taken in which something was made."""
    space = heap.state(Space)
    start = start_of(number)
    at_work = (space.block, block_of(place_of_bump(heap)), block_of(space.medium))
    if not taken or number not in at_work:
        return taken
    return sum(1 << line for line in range(LINES) if is_young(heap, start + (line << LINE_SHIFT)))
