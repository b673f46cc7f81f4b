"""Memory: blocks, lines, and making objects by moving a pointer through those that are free.

Blocks are taken in the order of their addresses, anew in each epoch, and of each its free lines, a **span** of
neighbours at a time. What is left of a span when the next object does not fit is filled with a free block, so that what
is young can be walked. Medium objects that do not fit go to an empty block of their own, rather than waste a span;
large ones to a run of empty blocks.

When memory is short, a span is any **hole** between two objects, in blocks of few free lines or none. All holes of such
a block become free blocks, so that it can be walked object by object, as if all of it were young.
"""

from __future__ import annotations

from lowheap.collectors.rc_immix.bits import ALL, has_bit, next_bit
from lowheap.collectors.rc_immix.state import (
    BLOCK,
    BLOCK_SHIFT,
    GRANULE_SHIFT,
    GROUP,
    GROUP_SHIFT,
    LARGE,
    LARGE_REST,
    LINE,
    LINE_SHIFT,
    LINES,
    LIVE,
    MEDIUM,
    ROOM,
    TAKEN,
    TOP,
    TOUCHED,
    UNKNOWN,
    YOUNG,
    YOUNG_LARGE,
    Space,
)
from lowheap.collectors.shared.free_lists import poison
from lowheap.collectors.shared.references import block_length
from lowheap.collectors.shared.sizing import grow_to
from lowheap.collectors.shared.walking import is_free
from lowheap.layout import MINIMUM_OBJECT_BLOCK, NULL, REFERENCE_SIZE
from lowheap.native import (
    Buffer,
    Heap,
    Ref,
    address_of,
    assume,
    cell,
    cold,
    copy_memory,
    ctz,
    inline,
    likely,
    native,
    popcount,
    u32,
    u64,
    unlikely,
    wrapping_mul,
    wrapping_u8,
    wrapping_u32,
)

USUAL_ROOM = LINES // 8
"""A block of fewer free lines is passed over, unless memory is short."""

_HALF_LINES = LINES // 2
_LANES = 0x7FFF_7FFF_7FFF_7FFF
_GATHER = 1 << 48 | 1 << 33 | 1 << 18 | 1 << 3


@inline
def append(heap: Heap, buffer: Buffer, value: u32) -> None:
    """Put a number at the end of a buffer."""
    length = heap.length(buffer)
    number = length.value
    heap.entry(buffer, number).value = value
    length.value = number + 1


@inline
def pop(heap: Heap, buffer: Buffer) -> u32:
    """Take the last number off a buffer that has some."""
    length = heap.length(buffer)
    number = length.value - 1
    length.value = number
    return heap.entry(buffer, number).value


@inline
def live_bits(heap: Heap) -> u64:
    """Where the bits of what has survived are."""
    return address_of(heap.side(LIVE, 0))


@inline
def has_survived(heap: Heap, reference: Ref) -> bool:
    """Whether an object has its bit."""
    return has_bit(live_bits(heap), reference >> GRANULE_SHIFT)


@inline
def move_all(heap: Heap, to: Buffer, source: Buffer) -> None:
    """Put all that is in a buffer at the end of another."""
    length = heap.length(to)
    count = heap.length(source).value
    if count != 0:
        size = count * REFERENCE_SIZE
        copy_memory(address_of(heap.entry(to, length.value)), address_of(heap.entry(source, 0)), size)
        length.value += count
        heap.length(source).value = 0


@inline
def block_of(index: u32) -> u32:
    """The number of the block that an index is in."""
    return index >> BLOCK_SHIFT


@inline
def start_of(block: u32) -> u32:
    """Where a block begins."""
    return block << BLOCK_SHIFT


@inline
def blocks_of(length: u32) -> u32:
    """How many blocks so many bytes take."""
    return u32((u64(length) + (BLOCK - 1)) >> BLOCK_SHIFT)


@inline
def end_of_lines(heap: Heap) -> u32:
    """Where the last line of the heap's capacity ends."""
    return u32(min(u64(heap.control.bump_end & ~(LINE - 1)), TOP))


# ----------------------------------------------------------------------------------------------------------------------
# Free lines


@inline
def used_lines(heap: Heap, index: u32) -> u64:
    """The lines of half a block that have a bit in `LIVE`, a bit each."""
    first = live_bits(heap) + u64(index >> (GRANULE_SHIFT + 3))
    used: u64 = 0
    for number in range(_HALF_LINES // 4):
        word: u64 = cell(u64, first + u64(number) * 8).value
        if word != 0:
            # Four lines of 16 bits: the highest of each becomes whether one is set, and these are moved together.
            highest = (((word & _LANES) + _LANES) | word) & ~_LANES
            used |= (wrapping_mul(highest >> 15, _GATHER) >> 48 & 15) << u64(number * 4)
    return used


@native
def free_lines(heap: Heap, block: u32) -> tuple[u64, u64]:
    """The free lines of a block that is not a large object's, a bit each: of its lower half, and of its upper one."""
    start = start_of(block)
    low = used_lines(heap, start)
    high = used_lines(heap, start + BLOCK // 2)
    there_low, there_high = usable_lines(heap, block)
    return ~(low | wrapping_mul(low, 2)) & there_low, ~(high | wrapping_mul(high, 2) | low >> 63) & there_high


@inline
def usable_lines(heap: Heap, block: u32) -> tuple[u64, u64]:
    """The lines of a block in which objects may be, likewise: not the first of all, nor what is beyond the capacity."""
    low: u64 = ALL
    high: u64 = ALL
    if block == 0:
        low &= ~1
    start = start_of(block)
    end = end_of_lines(heap)
    if unlikely(end < start + BLOCK):  # the capacity ends within
        lines = (max(end, start) - start) >> LINE_SHIFT
        low &= below(min(lines, _HALF_LINES))
        high &= below(max(lines, _HALF_LINES) - _HALF_LINES)
    return low, high


@inline
def below(count: u32) -> u64:
    """So many bits, from the lowest on."""
    return ALL if count == 64 else (u64(1) << u64(count)) - 1


@native
def room_of(heap: Heap, block: u32) -> u32:
    """How many lines of a block are free; none of one that was taken, and more than there are for a large object's."""
    place = heap.side(ROOM, start_of(block))
    room = u32(place.value)
    if room == UNKNOWN:
        room = 0
        if not is_taken(heap, block):
            low, high = free_lines(heap, block)
            room = popcount(low) + popcount(high)
        place.value = wrapping_u8(room)
    return room


@inline
def is_taken(heap: Heap, block: u32) -> bool:
    """Whether objects were made in a block in this epoch, or may have been."""
    start = start_of(block)
    lines: u64 = heap.side(YOUNG, start).value | heap.side(YOUNG, start + BLOCK // 2).value
    return lines != 0


@inline
def has_room(heap: Heap, block: u32, least: u32) -> bool:
    """Whether a block can be taken, with so many free lines at least; with none, for its holes."""
    room = room_of(heap, block)
    return (least <= room <= LINES) and ((least != 0) or not is_taken(heap, block))


@inline
def is_empty(heap: Heap, block: u32) -> bool:
    """Whether nothing is in a block."""
    return room_of(heap, block) == (u32(LINES - 1) if block == 0 else LINES)


# ----------------------------------------------------------------------------------------------------------------------
# Blocks


@inline
def touch(heap: Heap, block: u32) -> None:
    """Note that a block is in use, in what the heap takes of the system."""
    place = heap.side(TOUCHED, start_of(block))
    if unlikely(place.value == 0):
        space = heap.state(Space)
        place.value = 1
        space.committed += GROUP
        space.peak_committed = max(space.peak_committed, space.committed)


@inline
def has_capacity(heap: Heap, block: u32) -> bool:
    """Whether a whole block is within the capacity, which grows for it if it may."""
    end = u64(start_of(block)) + BLOCK
    if likely(end <= u64(end_of_lines(heap))):
        return True
    if end > TOP:
        return False
    grow_to(heap, end)
    return end <= u64(end_of_lines(heap))


@inline
def make_fresh(heap: Heap, block: u32) -> None:
    """Take blocks into use that never were, up to one."""
    space = heap.state(Space)
    while space.fresh <= block:
        heap.side(ROOM, start_of(space.fresh)).value = UNKNOWN
        space.fresh += 1


@inline
def note_end(heap: Heap, end: u32) -> None:
    """Whatever is in use ends here, or before."""
    heap.control.bump = max(heap.control.bump, end)


@native
def take_block(heap: Heap) -> bool:
    """Make the next block with room the current one; False when there is none."""
    space = heap.state(Space)
    number = space.next_block
    while number < space.fresh and not has_room(heap, number, space.least_room):
        number += 1
    if number >= space.fresh:
        number = space.fresh
        # At the end of a heap that may not grow, there may be lines that are not a whole block.
        if not has_capacity(heap, number) and (start_of(number) >= end_of_lines(heap)):
            space.next_block = number
            return False
        make_fresh(heap, number)
    space.next_block = number + 1
    space.block = number
    space.hole = 0
    if unlikely(space.least_room == 0):
        enter_holes(heap, number)
        return True
    low, high = free_lines(heap, number)
    space.free_low = low
    space.free_high = high
    enter_block(heap, number, low, high)
    return True


@cold
def enter_holes(heap: Heap, number: u32) -> None:
    """Make free blocks of what is between the objects of a block that was not taken, for `take_hole`."""
    space = heap.state(Space)
    place = max(start_of(number), LINE)
    end = min(start_of(number) + BLOCK, end_of_lines(heap))
    space.free_low = 0
    space.free_high = 0
    space.hole = place
    while place < end:
        found = next_bit(live_bits(heap), place >> GRANULE_SHIFT, end >> GRANULE_SHIFT) << GRANULE_SHIFT
        fill(heap, place, found)
        place = found
        if place < end:
            place += block_length(heap.header_at(place).object_size)
    low, high = usable_lines(heap, number)
    enter_block(heap, number, low, high)


@inline
def enter_block(heap: Heap, number: u32, low: u64, high: u64) -> None:
    """Note that the free lines of a block are young from now on."""
    start = start_of(number)
    heap.side(YOUNG, start).value = low
    heap.side(YOUNG, start + BLOCK // 2).value = high
    heap.side(ROOM, start).value = 0
    append(heap, TAKEN, number)
    touch(heap, number)


@inline
def leave_blocks(heap: Heap) -> None:
    """Nothing is young any more; how much room there is in the blocks that were taken is to be looked up."""
    for number in range(heap.length(TAKEN).value):
        start = start_of(heap.entry(TAKEN, number).value)
        heap.side(YOUNG, start).value = 0
        heap.side(YOUNG, start + BLOCK // 2).value = 0
        heap.side(ROOM, start).value = UNKNOWN
    heap.length(TAKEN).value = 0


# ----------------------------------------------------------------------------------------------------------------------
# Spans


@inline
def place_of_bump(heap: Heap) -> u32:
    """Where the next object goes."""
    return wrapping_u32(heap.state(Space).bump)


@native
def settle_figures(heap: Heap) -> None:
    """Have the heap's figures say what was made in the current span, too."""
    space = heap.state(Space)
    here = place_of_bump(heap)
    heap.control.objects_allocated += space.bump >> 32
    heap.control.bytes_allocated += u64(here - space.span)
    space.bump = u64(here)
    space.span = here


@inline
def leave_span(heap: Heap) -> None:
    """Leave the current span; what is left of it becomes a free block, to be walked over."""
    settle_figures(heap)
    space = heap.state(Space)
    fill(heap, place_of_bump(heap), space.limit)
    space.bump = 0
    space.limit = 0
    space.span = 0


@inline
def fill(heap: Heap, start: u32, end: u32) -> None:
    """Make a free block of what is between two places, if there is something."""
    if start != end:
        block = heap.block(start)
        block.kind_and_reserved = 0
        block.length = end - start
        block.next = NULL
        block.flags = 0


@inline
def ones(bits: u64) -> u32:
    """How many of the lowest bits are set without one between that is not."""
    return 64 if bits == ALL else ctz(~bits)


@native
def take_span(heap: Heap) -> bool:
    """Leave the current span, and make the next free lines of the current block one; False if it has none."""
    leave_span(heap)
    space = heap.state(Space)
    low = space.free_low
    high = space.free_high
    first: u32 = 0
    count: u32 = 0
    if low != 0:
        first = ctz(low)
        count = ones(low >> u64(first))
        if first + count == 64:
            further = ones(high)
            space.free_high = high & ~below(further)
            space.free_low = 0
            count += further
        else:
            space.free_low = low & ~below(first + count)
    elif high != 0:
        first = ctz(high)
        count = ones(high >> u64(first))
        space.free_high = high & ~below(first + count)
        first += 64
    else:
        return take_hole(heap)
    start = start_of(space.block) + (first << LINE_SHIFT)
    begin_span(heap, start, start + (count << LINE_SHIFT))
    return True


@cold
def take_hole(heap: Heap) -> bool:
    """Make the next hole of the current block a span; False if it has none, or they are not looked for."""
    space = heap.state(Space)
    place = space.hole
    if place == 0:
        return False
    end = min(start_of(space.block) + BLOCK, end_of_lines(heap))
    while place < end:
        if is_free(heap, place):
            start = place
            place += heap.block(place).length
            if place - start >= MINIMUM_OBJECT_BLOCK:
                space.hole = place
                begin_span(heap, start, place)
                return True
        else:
            place += block_length(heap.header_at(place).object_size)
    space.hole = 0
    return False


@inline
def begin_span(heap: Heap, start: u32, end: u32) -> None:
    """Make objects between two places from now on."""
    space = heap.state(Space)
    space.bump = u64(start)
    space.span = start
    space.limit = end
    note_end(heap, end)
    spend(heap, end - start)
    if heap.is_checked:
        poison(heap, start, end - start)


@inline
def spend(heap: Heap, size: u32) -> None:
    """Take from what the epoch may still allocate."""
    space = heap.state(Space)
    space.left -= min(space.left, u64(size))


@inline
def is_over(heap: Heap) -> bool:
    """Whether the epoch has allocated what it may."""
    return heap.state(Space).left < BLOCK


@inline
def allocate_small(heap: Heap, length: u32) -> Ref:
    """Make room for an object in the current span; null when it does not fit."""
    space = heap.state(Space)
    both = space.bump
    reference = wrapping_u32(both)
    if likely(length <= space.limit - reference):
        assume(reference != NULL)  # no object begins in the first line
        space.bump = both + ((1 << 32) + u64(length))
        return reference
    return NULL


@native
def find_line_sized(heap: Heap, length: u32) -> Ref:
    """Room for an object of up to a line's size, in a span of this epoch; null when the epoch is over."""
    while True:
        reference = allocate_small(heap, length)
        if reference != NULL:
            return reference
        while not take_span(heap):
            if is_over(heap):
                return NULL
            heap.collector.between_blocks(heap)
            if not take_block(heap):
                return NULL


@native
def find_medium(heap: Heap, length: u32) -> Ref:
    """Room for a medium object; null when the epoch is over."""
    reference = allocate_small(heap, length)
    if reference != NULL:
        return reference
    space = heap.state(Space)
    if length > space.medium_limit - space.medium:
        if is_over(heap):
            return NULL
        block = find_run(heap, 1)
        if block == 0:
            return find_medium_in_lines(heap, length)
        fill(heap, space.medium, space.medium_limit)
        space.medium = start_of(block)
        space.medium_limit = space.medium + BLOCK
        enter_block(heap, block, ALL, ALL)
        note_end(heap, space.medium_limit)
        spend(heap, BLOCK)
        if heap.is_checked:
            poison(heap, space.medium, BLOCK)
    reference = space.medium
    space.medium = reference + length
    count_made(heap, length)
    return reference


@native
def find_medium_in_lines(heap: Heap, length: u32) -> Ref:
    """Room for one where no block is empty: in the first span that is long enough."""
    while not is_over(heap):
        while take_span(heap):
            reference = allocate_small(heap, length)
            if reference != NULL:
                return reference
        if not take_block(heap):
            return NULL
    return NULL


@inline
def count_made(heap: Heap, length: u32) -> None:
    """Count an object that was not made in the span."""
    heap.control.objects_allocated += 1
    heap.control.bytes_allocated += u64(length)


@native
def find_run(heap: Heap, count: u32) -> u32:
    """The first of so many empty blocks in a row, none of which is block 0; 0 when there are not as many."""
    space = heap.state(Space)
    number = max(max(space.next_block, space.next_run), 1)
    have: u32 = 0
    while (number < space.fresh) and (have < count):
        have = have + 1 if is_empty(heap, number) else 0
        number += 1
    if have < count:
        last = u64(number) + u64(count - have) - 1
        if last >= TOP >> BLOCK_SHIFT or not has_capacity(heap, u32(last)):
            return 0
        make_fresh(heap, u32(last))
        number = u32(last) + 1
    space.next_run = number
    return number - count


@native
def find_large(heap: Heap, length: u32) -> Ref:
    """Room for a large object; null when the epoch is over, or there is none."""
    count = blocks_of(length)
    block = 0 if is_over(heap) else find_run(heap, count)
    if block == 0:
        return NULL
    start = start_of(block)
    heap.side(ROOM, start).value = LARGE
    touch(heap, block)
    for number in range(count - 1):
        heap.side(ROOM, start_of(block + 1 + number)).value = LARGE_REST
        touch(heap, block + 1 + number)
    end = start_of(block + count)
    note_end(heap, end)
    spend(heap, end - start)
    count_made(heap, length)
    append(heap, YOUNG_LARGE, start)
    return start


@native
def forget_large(heap: Heap, reference: Ref, length: u32) -> None:
    """Give the blocks of a large object back."""
    block = block_of(reference)
    for number in range(blocks_of(length)):
        heap.side(ROOM, start_of(block + number)).value = LINES


@inline
def find_room(heap: Heap, length: u32) -> Ref:
    """Room for an object in this epoch; null when that is over, or there is none."""
    if likely(length <= LINE):
        return find_line_sized(heap, length)
    return find_medium(heap, length) if length <= MEDIUM else find_large(heap, length)


@native
def begin_epoch(heap: Heap) -> None:
    """Begin with the first block anew."""
    space = heap.state(Space)
    fill(heap, space.medium, space.medium_limit)
    leave_blocks(heap)
    space.free_low = 0
    space.free_high = 0
    space.hole = 0
    space.medium = 0
    space.medium_limit = 0
    space.next_block = 0
    space.next_run = 0
    space.least_room = USUAL_ROOM


# ----------------------------------------------------------------------------------------------------------------------
# Giving memory back


@native
def is_group_empty(heap: Heap, group: u32) -> bool:
    """Whether nothing is in a group."""
    first = group << (GROUP_SHIFT - BLOCK_SHIFT)
    for number in range(GROUP // BLOCK):
        block = first + number
        if (block < heap.state(Space).fresh) and not is_empty(heap, block):
            return False
    return True


@native
def give_back(heap: Heap, wanted: u64) -> None:
    """Give empty groups back to the system, from the top, until no more than so many bytes are in use."""
    space = heap.state(Space)
    group = u32((u64(heap.control.bump) + (GROUP - 1)) >> GROUP_SHIFT)
    while (group > 0) and (space.committed > wanted):
        group -= 1
        start = group << GROUP_SHIFT
        place = heap.side(TOUCHED, start)
        if (place.value != 0) and is_group_empty(heap, group):
            heap.discard(start, GROUP)
            place.value = 0
            space.committed -= GROUP
