"""JavaScript's strings as their bytes: what `wasm/js_string.wat` cannot do fast, and needs no barrier for.

Nothing here allocates, so all that is read stays where it is, and alive. A text is an array of UTF-16 code units; a
rope has two parts, neither of which is empty, or one that is the whole, and null. `left` and `right` are where a rope
has these, in bytes.
"""

from __future__ import annotations

from lowheap.layout import ARRAY_HEADER_END, NULL
from lowheap.native import Heap, Ref, address_of, cell, copy_memory, inline, local_array, u16, u32, u64

_UNIT = 2
_UNITS = ARRAY_HEADER_END  # of an array header's end, units are aligned
_WORD = 8
_IN_WORD = _WORD // _UNIT
_MOST_WAITING = 32
"""Where both parts of a rope are ropes, the longer one waits: so often a length can be halved."""


@inline
def unit_address(heap: Heap, text: Ref, index: u32) -> u64:
    """Where a code unit of a text is."""
    return address_of(heap.header(text)) + _UNITS + u64(index) * _UNIT


@inline
def first_difference(heap: Heap, one: Ref, other: Ref, end: u32) -> u32:
    """The first place at which two texts differ, which have at least `end` code units; `end` where there is none."""
    first = unit_address(heap, one, 0)
    second = unit_address(heap, other, 0)
    index: u32 = 0
    # Units before the first word that is aligned, as both are alike.
    while (index < end) and (index < _BEFORE_WORDS):
        if cell(u16, first + u64(index) * _UNIT).value != cell(u16, second + u64(index) * _UNIT).value:
            return index
        index += 1
    while u64(index) + _IN_WORD <= u64(end):
        if cell(u64, first + u64(index) * _UNIT).value != cell(u64, second + u64(index) * _UNIT).value:
            break
        index += _IN_WORD
    while index < end:
        if cell(u16, first + u64(index) * _UNIT).value != cell(u16, second + u64(index) * _UNIT).value:
            return index
        index += 1
    return end


_BEFORE_WORDS = -_UNITS % _WORD // _UNIT


@inline
def length_of(heap: Heap, string: Ref, rope_type: u32, length: u32) -> u32:
    """How many code units a string has; `length` is where a rope says so."""
    if heap.header(string).type_index == rope_type:
        found: u32 = heap.cell(u32, string, length).value
        return found
    return heap.array(string).length


@inline
def reference_at(heap: Heap, string: Ref, offset: u32) -> Ref:
    """A part of a rope."""
    found: Ref = heap.slot(string, offset).value
    return found


NO_UNIT = 0xFFFF_FFFF
"""What is no code unit."""


@inline
def unit_of_whole(heap: Heap, rope: Ref, index: u32, left: u32, right: u32) -> u32:
    """A code unit of a rope that is whole; `NO_UNIT` where there is none such, and for other ropes."""
    if reference_at(heap, rope, right) != NULL:
        return NO_UNIT
    text = reference_at(heap, rope, left)
    if index >= heap.array(text).length:
        return NO_UNIT
    return u32(cell(u16, unit_address(heap, text, index)).value)


@inline
def write_units(heap: Heap, text: Ref, into: Ref, start: u32) -> None:
    """Write the code units of a text into another, from a place on."""
    count = heap.array(text).length
    to = unit_address(heap, into, start)
    source = unit_address(heap, text, 0)
    if count == 1:
        cell(u16, to).value = cell(u16, source).value
    else:
        copy_memory(to, source, u64(count) * _UNIT)


@inline
def write_rope(heap: Heap, rope: Ref, into: Ref, rope_type: u32, length: u32, left: u32, right: u32) -> None:
    """Write all code units of a rope into a text that has as many."""
    waiting = local_array(u32, 2 * _MOST_WAITING)
    count: u32 = 0
    start: u32 = 0
    here: u32 = rope
    while True:
        if heap.header(here).type_index == rope_type:
            one = reference_at(heap, here, left)
            other = reference_at(heap, here, right)
            if other == NULL:
                here = one
            else:
                before = length_of(heap, one, rope_type, length)
                if heap.header(other).type_index != rope_type:
                    write_units(heap, other, into, start + before)
                    here = one
                elif heap.header(one).type_index != rope_type:
                    write_units(heap, one, into, start)
                    start += before
                    here = other
                elif before <= length_of(heap, other, rope_type, length):
                    waiting[2 * count] = other
                    waiting[2 * count + 1] = start + before
                    count += 1
                    here = one
                else:
                    waiting[2 * count] = one
                    waiting[2 * count + 1] = start
                    count += 1
                    start += before
                    here = other
        else:
            write_units(heap, here, into, start)
            if count == 0:
                return
            count -= 1
            here = waiting[2 * count]
            start = waiting[2 * count + 1]
