"""Walking the heap: what has survived by the bits in `LIVE`, what is young span by span.

A walk trusts nothing: whatever the bytes are, it comes to an end, and reads nothing beyond where lines are in use.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.rc_immix.bits import next_bit
from lowheap.collectors.rc_immix.collection import is_young
from lowheap.collectors.rc_immix.space import block_of, is_taken, live_bits, place_of_bump
from lowheap.collectors.rc_immix.state import (
    BLOCK,
    GRANULE_SHIFT,
    LARGE,
    LARGE_REST,
    LINE,
    ROOM,
    Space,
)
from lowheap.collectors.shared.walking import is_free, length_of_block
from lowheap.layout import BLOCK_ALIGN, MINIMUM_OBJECT_BLOCK
from lowheap.native import Heap, Ref, inline, native, problem, u32, u64


@inline
def blocks(heap: Heap) -> Iterator[Ref]:
    """Yield the index of every object, in address order. What is between them is free."""
    end = u64(heap.control.bump)
    place = u64(next_object(heap, LINE))
    while place < end:
        index = u32(place)
        length = length_of_block(heap, index)
        if (length < MINIMUM_OBJECT_BLOCK) or (length > end - place):
            problem(heap, "object at {:#x} claims {} bytes; lines are in use up to {:#x}", index, length, end)
            return
        yield index
        place = u64(next_object(heap, u32(place + length))) if place + length < end else end


@native
def next_object(heap: Heap, start: Ref) -> Ref:
    """Where the first object is at a place or behind it, where no other goes on; where lines end, if there is none."""
    space = heap.state(Space)
    end = heap.control.bump
    place = start
    while place < end:
        room = u32(heap.side(ROOM, place).value)
        following = u64(place & ~(LINE - 1)) + LINE
        if (place >= place_of_bump(heap)) and (place < space.limit):
            following = u64(space.limit)  # the span goes on without objects
        elif (place >= space.medium) and (place < space.medium_limit):
            following = u64(space.medium_limit)
        elif room == LARGE_REST:
            following = u64(place & ~(BLOCK - 1)) + BLOCK
        elif room == LARGE:
            if (place & (BLOCK - 1) == 0) and not is_free(heap, place):
                return place
            following = u64(place & ~(BLOCK - 1)) + BLOCK
        elif is_young(heap, place):
            if not is_free(heap, place):
                return place
            length = u64(heap.block(place).length)
            if (length == 0) or (length & (BLOCK_ALIGN - 1) != 0) or (length > u64(end - place)):
                problem(heap, "free block at {:#x} claims {} bytes; lines are in use up to {:#x}", place, length, end)
                return end
            following = u64(place) + length
        else:
            if not is_taken(heap, block_of(place)):
                following = u64(place & ~(BLOCK - 1)) + BLOCK
            limit = u32(min(following, u64(end))) >> GRANULE_SHIFT
            found = next_bit(live_bits(heap), place >> GRANULE_SHIFT, limit)
            if found < limit:
                return found << GRANULE_SHIFT
        if following >= u64(end):
            return end
        place = u32(following)
    return end
