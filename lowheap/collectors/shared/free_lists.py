"""Segregated fit: where in the heap an object goes, and what becomes of its block when it dies.

Small blocks have a LIFO list for each size; larger ones share a list with all of their power of two; fresh memory comes
off the bump region. When a list of small blocks is empty, a run of blocks is carved from fresh memory or a larger
block, and all but the first go on the list, so that they come off it in address order. Freeing never looks at
neighbours: a linear pass merges them (`coalesce`) when an allocation would otherwise fail and enough has been freed
since the last pass to pay for it; and when much was freed at once, and the lists lead all over the heap
(`put_in_order`).

All of the state is in the control block and in the free blocks themselves. From `FIRST_INDEX` up to the bump pointer,
every block, live or free, tells its length.
"""

from __future__ import annotations

from lowheap.collectors.shared.references import block_length
from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    NULL,
    SIZE_CLASS_COUNT,
    SMALL_BLOCK_LIMIT,
    SMALL_CLASS_COUNT,
    VMGcHeader,
)
from lowheap.native import (
    Heap,
    Ref,
    Slot,
    address_of,
    bit_length,
    cell,
    inline,
    likely,
    local_array,
    native,
    place,
    sizeof,
    u32,
    u64,
)

COALESCING_FRACTION = 16
"""A coalescing pass reads the whole heap, so this part of it must be free, and freed since the last one."""

FAR = 1 << 8
"""A block is far from the next on its list if so many bytes or more lie between where they start."""

MANY = 1 << 15
"""Whoever frees so many objects at once looks whether the free lists are in disorder. Fewer are in the cache yet."""

SAMPLE = 1 << 10
"""How many blocks of each list such a look takes in."""

SORTING_FRACTION = 4
"""A pass that is to sort the lists is paid for by this part of the heap, freed since the last pass."""

POISON = 0xDEAD_DEAC_DEAD_DEAC
"""What a checked heap fills freed blocks with: read as references, they lead far out of most heaps."""

RUN_BYTES = 1 << 14
"""A run that is carved at once has at most so many bytes,"""

RUN_FRACTION = 64
"""and at most this part of the capacity."""


@inline
def size_class(length: u32) -> u32:
    """The size class of a block: exact when small, else a power of two."""
    if likely(length < SMALL_BLOCK_LIMIT):
        return length // BLOCK_ALIGN
    return bit_length(length) + (SMALL_CLASS_COUNT - SMALL_BLOCK_LIMIT.bit_length())


@inline
def push_free_to(heap: Heap, head: Slot, index: Ref, length: u32, flags: u32) -> None:
    """Put a free block in front of a list."""
    block = heap.block(index)
    block.kind_and_reserved = 0
    block.length = length
    block.next = head.value
    block.flags = flags
    head.value = index


@inline
def push_free(heap: Heap, index: Ref, length: u32, flags: u32) -> None:
    """Put a free block on the list of its class."""
    if likely(length < SMALL_BLOCK_LIMIT):
        push_free_to(heap, heap.size_class_head(length // BLOCK_ALIGN), index, length, flags)
    else:
        push_free_to(heap, heap.size_class_head(size_class(length)), index, length, flags)


@inline
def give_back(heap: Heap, index: Ref, length: u32) -> None:
    """Make the block of an object that died a free one. Another policy, in Python, stands in the place of this."""
    if heap.is_checked:
        poison(heap, index, length)
    push_free(heap, index, length, 0)


@native
def poison(heap: Heap, index: Ref, length: u32) -> None:
    """Fill a block that nobody may look into any more with what is no object, no type and no reference."""
    for number in range(length // sizeof(VMGcHeader)):
        heap.cell(u64, index, number * sizeof(VMGcHeader)).value = POISON


@inline
def pop_small(heap: Heap, length: u32) -> Ref:
    """Take the first block off the list of blocks of exactly `length` bytes; null for a large one, or when none is."""
    if likely(length < SMALL_BLOCK_LIMIT):
        head = heap.size_class_head(length // BLOCK_ALIGN)
        reference = head.value
        if likely(reference != NULL):
            head.value = heap.block(reference).next
            return reference
    return NULL


@inline
def run_length(heap: Heap, length: u32) -> u32:
    """How many bytes to carve at once for blocks of `length`: a run of small ones, or just one."""
    part = u32(min(heap.control.capacity // RUN_FRACTION, RUN_BYTES))
    return max(part, length) if length < SMALL_BLOCK_LIMIT else length


@inline
def thread_run(heap: Heap, start: Ref, taken: u32, length: u32) -> None:
    """Put all blocks of a run but the first on their list, so that they come off it in address order."""
    index = start + (taken - length)
    while index > start:
        push_free(heap, index, length, 0)
        index -= length


@inline
def take_larger(heap: Heap, length: u32) -> Ref:
    """Return the front of the first block that is long enough, searching from a size class up; or null."""
    for number in range(size_class(length), SIZE_CLASS_COUNT):
        link = heap.size_class_head(number)
        while link.value != NULL:
            index = link.value
            block = heap.block(index)
            available = block.length
            if available >= length:
                flags = block.flags
                link.value = block.next
                taken = min(run_length(heap, length), available) // length * length
                if taken != available:
                    push_free(heap, index + taken, available - taken, flags)
                thread_run(heap, index, taken, length)
                return index
            link = place(block, "next")
    return NULL


@native
def carve(heap: Heap, length: u32) -> Ref:
    """Return a block of `length` bytes off its list, the bump region, or a larger block; or null."""
    head = heap.size_class_head(size_class(length))
    first = head.value
    if first != NULL:
        block = heap.block(first)
        if block.length == length:
            head.value = block.next
            return first
    is_small = length < SMALL_BLOCK_LIMIT
    if not is_small:  # before fresh memory, or large blocks would never be used again
        larger = take_larger(heap, length)
        if larger != NULL:
            return larger
    control = heap.control
    start = control.bump
    room = control.bump_end - start
    if length <= room:
        taken = min(run_length(heap, length), room) // length * length
        control.bump = start + taken
        thread_run(heap, start, taken, length)
        return start
    if is_small:
        return take_larger(heap, length)
    return NULL


@inline
def coalescing_pays(heap: Heap) -> bool:
    """Whether enough is free, and was freed since the last pass, to read the whole heap for it."""
    control = heap.control
    freed = control.bytes_freed - control.bytes_freed_at_last_coalescing
    free = u64(control.bump - FIRST_INDEX) - (control.bytes_allocated - control.bytes_freed)
    return min(freed, free) >= max(control.capacity // COALESCING_FRACTION, 1)


@inline
def find_block(heap: Heap, length: u32) -> Ref:
    """Return a block of `length` bytes, after a coalescing pass if that pays; or null."""
    index = carve(heap, length)
    if (index == NULL) and coalescing_pays(heap):
        coalesce(heap)
        index = carve(heap, length)
    return index


@native
def coalesce(heap: Heap) -> None:
    """Merge free neighbours, and give the last ones back to the bump region, in one walk.

    Afterwards each list is in address order, so that allocation fills the heap from below.
    """
    control = heap.control
    ends = local_array(u64, SIZE_CLASS_COUNT)  # where the last block of each list has its link
    for number in range(SIZE_CLASS_COUNT):
        head = heap.size_class_head(number)
        head.value = NULL
        ends[number] = address_of(head)
    bump = control.bump
    index: Ref = FIRST_INDEX
    while index < bump:
        start = index
        if heap.block(start).kind_and_reserved != 0:
            index = start + block_length(heap.header(start).object_size)
            continue
        while index < bump:  # as far as blocks are free
            neighbour = heap.block(index)
            if neighbour.kind_and_reserved != 0:
                break
            index += neighbour.length
        if index == bump:
            control.bump = start
        else:
            length = index - start
            merged = heap.block(start)
            merged.kind_and_reserved = 0
            merged.length = length
            merged.next = NULL
            merged.flags = FREE_BLOCK_COALESCED
            number_of_list = size_class(length)
            cell(u32, ends[number_of_list]).value = start
            ends[number_of_list] = address_of(place(merged, "next"))
    control.bytes_freed_at_last_coalescing = control.bytes_freed
    control.coalescings += 1


@inline
def clear_lists(heap: Heap) -> None:
    """Make every list empty."""
    for number in range(SIZE_CLASS_COUNT):
        heap.size_class_head(number).value = NULL


@inline
def is_far(index: Ref, following: Ref) -> bool:
    """Whether going from a block to the next on its list leaves the lines of the cache around it."""
    return max(index, following) - min(index, following) >= FAR


@native
def are_scattered(heap: Heap) -> bool:
    """Whether the lists of small blocks lead all over the heap, as far as their first blocks tell."""
    links: u32 = 0
    far: u32 = 0
    for number in range(SMALL_CLASS_COUNT):
        index = heap.size_class_head(number).value
        left: u32 = SAMPLE
        while (index != NULL) and (left != 0):
            following = heap.block(index).next
            if following != NULL:
                links += 1
                far += u32(is_far(index, following))
            index = following
            left -= 1
    return far * 2 > links


@native
def put_in_order(heap: Heap) -> None:
    """Sort the free lists by a coalescing pass, if they are in disorder, and enough was freed to pay for it.

    Objects that are made one after another are then beside each other again, and runs are carved, so that allocation
    soon comes back for more: a collection that is due is not put off until a long list of blocks is used up.
    """
    control = heap.control
    freed = control.bytes_freed - control.bytes_freed_at_last_coalescing
    if (freed >= u64(control.bump) // SORTING_FRACTION) and are_scattered(heap):
        coalesce(heap)
