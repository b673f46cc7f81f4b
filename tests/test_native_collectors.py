"""Each native function of `lowheap.collectors`, run by Python and compiled, on copies of one random heap.

The heap is made through `DrcHeap`: objects, arrays of references, externrefs, garbage, what is listed, what is pending,
free blocks. Then its bytes are copied twice, to other addresses; Python runs the function on one copy, machine code on
the other. The results, every byte of the heap, the control block and the store context must be the same.

The functions are those that the package has: one that there are no arguments for here fails. Those of the modules in
`ON_TABLES` are compared by `test_native_on_tables.py`.
"""

from __future__ import annotations

import array
import ctypes
import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.combinations import examples
from support.heap_world import fields
from support.native_heaps import ANY_U32, RULES, STEPS, Copy, Frames, Made, natives
from support.native_sides import Compiled, mixed

from lowheap.collectors.drc import Drc, counting
from lowheap.collectors.drc import collection as drc_collection
from lowheap.collectors.drc import cycles as drc_cycles
from lowheap.collectors.drc.counting import Freed
from lowheap.collectors.shared import (
    allocation,
    collection,
    cycles,
    externrefs,
    frames,
    free_lists,
    references,
    sizing,
    texts,
    tracing,
)
from lowheap.collectors.shared.frames import FrameRules
from lowheap.errors import HeapCorruptionError, HeapError
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    NULL,
    SIZE_CLASS_COUNT,
    SMALL_CLASS_COUNT,
    GcStructLayout,
    VMActivation,
    VMDrcHeader,
    VMGcKind,
    VMHeapStatistics,
    VMStackMapEntry,
    VMUnwindEntry,
    block_length,
)
from lowheap.native import Heap, Native, OutOfRange, Ref, address_of, at, cell, local_array, native, u16, u32, u64
from lowheap.runtime.store_runtime import hash_table
from lowheap.types import ANYREF, I16, I32, ArrayType, FieldType, SubType

# ----------------------------------------------------------------------------------------------------------------------
# Functions for what cannot be called by itself: generators, and what takes records or slots


@native
def walk_children(heap: Heap, reference: Ref) -> u64:
    total: u64 = 7
    for child in tracing.children(heap, reference, heap.header(reference).type_index):
        total = mixed(total, u64(child))
    return total


@native
def move_traced_slots(heap: Heap, reference: Ref) -> u32:
    count: u32 = 0
    for slot in tracing.traced_slots(heap, reference, heap.header(reference).type_index):
        slot.value = count
        count += 1
    return count


@native
def walk_references(heap: Heap, reference: Ref) -> u64:
    total: u64 = 7
    for each in tracing.references_of(heap, reference):
        total = mixed(total, u64(each))
    return total


@native
def walk_dying(heap: Heap) -> u64:
    total: u64 = 7
    for each in drc_collection.dying(heap):  # to its end: before that, only Python keeps the list whole
        total = mixed(total, u64(each))
    return total


@native
def walk_objects(heap: Heap) -> u64:
    total: u64 = 7
    for each in cycles.objects(heap):
        total = mixed(total, u64(each))
    return total


@native
def separate(heap: Heap, waiting: Ref) -> u64:
    first, counts, number, size = cycles.separate(heap, waiting)
    return mixed(mixed(mixed(u64(first), counts), number), size)


@native
def move_slots(heap: Heap, reference: Ref) -> u32:
    count: u32 = 0
    for slot in cycles.slots_of(heap, reference):
        slot.value = count
        count += 1
    return count


@native
def walk_host_slots(heap: Heap) -> u64:
    total: u64 = 7
    for slot in frames.host_slots(heap):
        total = mixed(total, u64(slot.value))
    return total


@native
def walk_held_by_hosts(heap: Heap) -> u64:
    total: u64 = 7
    for each in frames.held_by_hosts(heap):
        total = mixed(total, u64(each))
    return total


@native
def walk_held_by_code(heap: Heap, rules: FrameRules) -> u64:
    total: u64 = 7
    for each in frames.held_by_code(heap, rules):
        total = mixed(total, u64(each))
    return total


@native
def walk_frames(heap: Heap, rules: FrameRules) -> u64:
    activation = at(VMActivation, heap.store_context.activation)
    total: u64 = 7
    for frame in frames.frames(activation.exit_frame_pointer, activation.entry_frame_pointer, rules):
        total = mixed(total, frame)
    return total


WORD = ctypes.sizeof(ctypes.c_uint64)
RECORD = 8  # where the frame record of what throws is, in words: the registers are below it


@native
def throw_from_a_frame(heap: Heap, rules: FrameRules) -> u64:
    """The frame has the same caller as the one that left compiled code last."""
    leaving = at(VMActivation, heap.store_context.activation).exit_frame_pointer
    words = local_array(u64, RECORD + 2)
    for number in range(RECORD):
        words[number] = u64(number)
    words[RECORD] = cell(u64, leaving).value
    words[RECORD + 1] = cell(u64, leaving + WORD).value
    total = frames.unwind(heap, rules, address_of(words) + u64(RECORD) * WORD)
    for number in range(RECORD + 2):
        total = mixed(total, words[number])
    return total


@native
def push_to_a_list(heap: Heap, number: u32, index: Ref, length: u32, flags: u32) -> None:
    free_lists.push_free_to(heap, heap.size_class_head(number), index, length, flags)


@native
def free_a_block(heap: Heap, reference: Ref) -> u64:
    freed = Freed()
    counting.free_block(heap, reference, freed)
    counting.note_freed(heap, freed)
    return freed.objects * 1_000_000 + freed.size


@native
def free_an_object(heap: Heap, reference: Ref) -> u64:
    freed = Freed()
    dead = counting.free_object(heap, reference, NULL, freed, False)
    return (freed.objects * 1_000_000 + freed.size) * 3 + u64(dead)


@native
def free_a_chain(heap: Heap, dead: Ref) -> None:
    freed = Freed()
    counting.free_chain(heap, dead, freed)
    counting.note_freed(heap, freed)


FIGURES = ctypes.sizeof(VMHeapStatistics) // ctypes.sizeof(ctypes.c_uint64)


@native
def sum_figures(heap: Heap) -> u64:
    figures = local_array(u64, FIGURES)
    sizing.statistics(heap, at(VMHeapStatistics, address_of(figures)))
    sizing.tell_no_further_figures(heap, at(VMHeapStatistics, address_of(figures)))
    total: u64 = 7
    for number in range(FIGURES):
        total = mixed(total, figures[number])
    return total


@native
def read_a_unit(heap: Heap, text: Ref, index: u32) -> u64:
    """Where the code unit is, from the text on, and what is there."""
    address = texts.unit_address(heap, text, index)
    return mixed(address - address_of(heap.header(text)), u64(cell(u16, address).value))


STAND_INS: dict[Native[..., Any], Native[..., Any]] = {
    tracing.children: walk_children,
    tracing.traced_slots: move_traced_slots,
    tracing.masked_slots: move_traced_slots,
    tracing.slots_beyond: move_traced_slots,
    tracing.references_of: walk_references,
    drc_collection.dying: walk_dying,
    cycles.objects: walk_objects,
    cycles.separate: separate,
    cycles.slots_of: move_slots,
    frames.host_slots: walk_host_slots,
    frames.held_by_hosts: walk_held_by_hosts,
    frames.held_by_code: walk_held_by_code,
    frames.frames: walk_frames,
    frames.unwind: throw_from_a_frame,
    free_lists.push_free_to: push_to_a_list,
    counting.free_block: free_a_block,
    counting.note_freed: free_a_block,
    counting.free_object: free_an_object,
    counting.free_chain: free_a_chain,
    sizing.statistics: sum_figures,
    sizing.tell_no_further_figures: sum_figures,
    texts.unit_address: read_a_unit,
}


# ----------------------------------------------------------------------------------------------------------------------
# Arguments

Draw = Callable[..., Any]
Arguments = Callable[[Draw, Made], list[int]]

LENGTHS = st.integers(2, 80).map(lambda n: n * BLOCK_ALIGN) | st.sampled_from([1 << 12, 1 << 13, 1 << 14, 1 << 20])
SIZES = st.integers(HEADER_SIZE, 1200) | st.sampled_from([1 << 13, 1 << 20])


def no_arguments(draw: Draw, made: Made) -> list[int]:
    return []


def an_object(draw: Draw, made: Made) -> list[int]:
    assume(made.objects)
    return [draw(st.sampled_from(made.objects))]


def no_externref(draw: Draw, made: Made) -> list[int]:
    choices = [each for each in made.objects if made.heap.header(each).type_index != EXTERNREF_TYPE_INDEX]
    assume(choices)
    return [draw(st.sampled_from(choices))]


def a_reference(draw: Draw, made: Made) -> list[int]:
    return [draw(st.sampled_from([NULL, 1, 0xFFFF_FFFF, *made.objects]))]


def a_listed_or_a_reference(draw: Draw, made: Made) -> list[int]:
    return [draw(st.sampled_from([NULL, 1, *made.listed, *made.objects]))]


def a_dead_object(draw: Draw, made: Made) -> list[int]:
    dead = made.kill(1)
    assume(dead != NULL)
    return [dead]


def a_dead_chain(draw: Draw, made: Made) -> list[int]:
    return [made.kill(draw(st.integers(0, 4)))]


def a_dead_externref(draw: Draw, made: Made) -> list[int]:
    reference = made.world.new_externref("dead")
    header = made.heap.header(reference)
    header.ref_count, header.next_over_approximated_stack_root = 0, made.heap.control.dead_externrefs
    made.heap.control.dead_externrefs = reference
    return []


def some_unlisted(draw: Draw, made: Made) -> int:
    """A chain of objects that are on no list, linked as a search links them; the first, or null."""
    chosen = draw(st.lists(st.sampled_from([NULL, *made.objects]), max_size=4, unique=True))
    first = NULL
    for each in chosen:
        if each not in (NULL, *made.listed):
            made.heap.header(each).next_over_approximated_stack_root = first
            first = each
    return first


def a_chain(draw: Draw, made: Made) -> list[int]:
    return [some_unlisted(draw, made)]


def a_chain_and_nothing(draw: Draw, made: Made) -> list[int]:
    return [some_unlisted(draw, made), NULL]


def an_object_and_nothing(draw: Draw, made: Made) -> list[int]:
    return [*an_object(draw, made), NULL]


def an_object_or_nothing(draw: Draw, made: Made) -> list[int]:
    return [draw(st.sampled_from([NULL, *made.objects])), NULL]


def marked(draw: Draw, made: Made) -> list[int]:
    """Some objects are marked, and all that wait. Returns the first of these."""
    native, control = made.heap.native, made.heap.control
    for waiting in (control.pending_dead, control.dead_externrefs):
        cycles.mark_waiting(native, waiting)
    for each in {*made.listed, *draw(st.lists(st.sampled_from([NULL, *made.objects])))} - {NULL}:
        native.header_at(each).kind_and_reserved |= HEADER_MARK_BIT
    return [control.pending_dead]


def candidates(draw: Draw, made: Made) -> list[int]:
    """All objects but some are candidates. Returns the first, and the first that waits."""
    (waiting,) = marked(draw, made)
    first, *_ = cycles.separate(made.heap.native, waiting)
    return [first, waiting]


def candidates_without_counts(draw: Draw, made: Made) -> list[int]:
    first, waiting = candidates(draw, made)
    cycles.take_counts(made.heap.native, first)
    return [first, waiting]


def drawn(*strategies: st.SearchStrategy[int]) -> Arguments:
    return lambda draw, made: [draw(each) for each in strategies]


def a_length(draw: Draw, made: Made) -> list[int]:
    if draw(st.booleans()):
        made.heap.control.no_gc_count = draw(st.integers(0, 1))
    if draw(st.booleans()):  # all fresh memory is used up, and at times the heap may not grow
        made.heap.control.bump_end = made.heap.control.bump
        if draw(st.booleans()):
            made.heap.control.maximum = made.heap.control.capacity
    made.heap.control.live_bytes_after_last_collection = draw(st.sampled_from([0, 1 << 13, 1 << 14]))
    return [draw(LENGTHS)]


def a_limit_and_whether(draw: Draw, made: Made) -> list[int]:
    control = made.heap.control
    control.cycle_limit = draw(st.sampled_from([0, 1 << 10, (1 << 64) - 1]))
    control.no_gc_count = draw(st.integers(0, 1))
    return [draw(st.booleans())]


def a_type(draw: Draw, made: Made) -> list[int]:
    a_length(draw, made)
    return [draw(st.sampled_from([made.world.cell, made.world.pair, made.pair, made.wide]))]


def an_array_type(draw: Draw, made: Made) -> list[int]:
    a_length(draw, made)
    types = [made.world.refs, made.world.bytes, made.world.longs]
    lengths = st.integers(0, 300) | st.sampled_from([0xFFFF_FFFF, 1 << 29, 1 << 28])
    return [draw(st.sampled_from(types)), draw(lengths)]


def an_object_to_make(draw: Draw, made: Made) -> list[int]:
    a_length(draw, made)
    return [int(VMGcKind.STRUCT_REF), made.world.cell, draw(SIZES)]


def a_header(draw: Draw, made: Made) -> list[int]:
    return [*an_object(draw, made), int(VMGcKind.EXN_REF), draw(ANY_U32), draw(SIZES)]


def an_object_at_once(draw: Draw, made: Made) -> list[int]:
    size = draw(st.integers(HEADER_SIZE, 400))
    return [int(VMGcKind.STRUCT_REF), draw(ANY_U32), size, block_length(size)]


def a_block(draw: Draw, made: Made) -> list[int]:
    (index,) = an_object(draw, made)
    return [index, block_length(made.heap.header(index).object_size), draw(st.integers(0, 1))]


def a_list_and_a_block(draw: Draw, made: Made) -> list[int]:
    return [draw(st.integers(SMALL_CLASS_COUNT, SIZE_CLASS_COUNT - 1)), *a_block(draw, made)]


def a_run(draw: Draw, made: Made) -> list[int]:
    length, count = draw(st.sampled_from([32, 48, 96, 1040])), draw(st.integers(1, 6))
    start = made.heap.control.bump
    assume(start + length * count <= made.heap.control.capacity)
    return [start, length * count, length]


def an_object_and_the_dead(draw: Draw, made: Made) -> list[int]:
    return [*an_object(draw, made), a_dead_chain(draw, made)[0]]


TABLES = [hash_table(each, range(1, 40)) for each in (VMStackMapEntry, VMUnwindEntry)]


def a_table_and_return_address(draw: Draw, made: Made) -> list[int]:
    entries, size = draw(st.sampled_from(TABLES))
    address = draw(st.integers(0, 60) | st.just((1 << 64) - 1))
    return [ctypes.addressof(entries), size - 1, ctypes.sizeof(entries) // size, address]


# A string is its code units, a tuple of one string, which is whole, or of the two parts of a rope.
String = list[int] | tuple[Any, ...]

UNITS = st.lists(st.sampled_from([0, 0x20, 0xD83D, 0xDE00, 0xFFFF]) | st.integers(0, 0xFFFF), max_size=12)
SOME_UNITS = UNITS.filter(bool)  # no part of a rope is empty: so often a length can be halved
WHOLE = st.tuples(SOME_UNITS)
ROPES = WHOLE | st.recursive(SOME_UNITS | WHOLE, lambda parts: st.tuples(parts, parts), max_leaves=12).map(
    lambda string: string if isinstance(string, tuple) else (string,)
)


@st.composite
def deep_ropes(draw: Draw) -> String:
    """Ropes of ropes: to one side all the way, as a loop makes them, or to both."""
    string: String = draw(ROPES)
    for _ in range(draw(st.integers(1, 4))):
        part, sides = draw(SOME_UNITS | ROPES), draw(st.lists(st.booleans(), min_size=1, max_size=3))
        for number in range(draw(st.integers(1, 40))):
            string = (part, string) if sides[number % len(sides)] else (string, part)
    return string


STRINGS = ROPES | deep_ropes()


def length_of(string: String) -> int:
    return len(string) if isinstance(string, list) else sum(map(length_of, string))


class Strings:
    """JavaScript's strings in a heap: types as those of `js_string.wat`, and what is made of them."""

    def __init__(self, made: Made) -> None:
        self.heap, self.memory = made.heap, made.world.memory
        sizing.grow_to(self.heap.native, 1 << 18)
        self.made: dict[int, int] = {}  # by the ids of strings: the same one is in as many ropes as it may be
        units, parts = ArrayType(FieldType(I16, True)), fields(I32, ANYREF, ANYREF)
        self.text, self.rope = made.world.types.register([SubType(units), SubType(parts)])
        self.heap.register_type(self.text)
        self.heap.register_type(self.rope)
        layout = self.heap.layout(self.rope)
        assert isinstance(layout, GcStructLayout)
        self.length, self.left, self.right = (field.offset for field in layout.fields)

    def new_text(self, units: list[int]) -> int:
        text = self.heap.alloc_uninit_array(self.text, len(units))
        self.memory.write(text + self.heap.array_layout(self.text).element_offset(0), array.array("H", units).tobytes())
        return text

    def new_blank(self, length: int) -> int:
        """A text to write into, each of whose units is another."""
        return self.new_text(list(range(1, length + 1)))

    def new(self, string: String) -> int:
        if id(string) in self.made:
            return self.heap.clone_gc_ref(self.made[id(string)])
        self.made[id(string)] = new = self.new_text(string) if isinstance(string, list) else self.new_rope(string)
        return new

    def new_rope(self, string: tuple[Any, ...]) -> int:
        parts = [self.new(each) for each in string]
        rope = self.heap.alloc_uninit_struct(self.rope)
        self.memory.write(rope + self.length, length_of(string).to_bytes(4, "little"))
        for offset, part in zip((self.left, self.right), [*parts, NULL], strict=False):
            self.heap.slot(rope, offset).value = part
        return rope


def a_unit_of_a_text(draw: Draw, made: Made) -> list[int]:
    units = draw(SOME_UNITS)
    return [Strings(made).new_text(units), draw(st.integers(0, len(units) - 1))]


def two_texts_and_an_end(draw: Draw, made: Made) -> list[int]:
    """The texts are alike, but for one place and behind their end."""
    strings, alike = Strings(made), draw(UNITS) + draw(UNITS)
    other = list(alike)
    if alike and draw(st.booleans()):
        place = draw(st.integers(0, len(alike) - 1))
        other[place] ^= 1 << draw(st.integers(0, 15))
    one = strings.new_text(alike + draw(UNITS))
    return [one, strings.new_text(other + draw(UNITS)), draw(st.just(len(alike)) | st.integers(0, len(alike)))]


def a_string(draw: Draw, made: Made) -> list[int]:
    strings = Strings(made)
    return [strings.new(draw(UNITS | ROPES)), strings.rope, strings.length]


def a_part(draw: Draw, made: Made) -> list[int]:
    strings = Strings(made)
    return [strings.new(draw(ROPES)), draw(st.sampled_from([strings.left, strings.right]))]


def a_unit_of_a_rope(draw: Draw, made: Made) -> list[int]:
    strings, string = Strings(made), draw(WHOLE | ROPES)
    index = draw(st.integers(0, length_of(string) + 1) | ANY_U32)
    return [strings.new(string), index, strings.left, strings.right]


def a_text_and_where_to(draw: Draw, made: Made) -> list[int]:
    strings, units = Strings(made), draw(UNITS)
    start = draw(st.integers(0, 9))
    return [strings.new_text(units), strings.new_blank(start + len(units) + draw(st.integers(0, 9))), start]


def a_rope_and_where_to(draw: Draw, made: Made) -> list[int]:
    strings, string = Strings(made), draw(STRINGS)
    into = strings.new_blank(length_of(string))
    return [strings.new(string), into, strings.rope, strings.length, strings.left, strings.right]


ARGUMENTS: dict[Native[..., Any], Arguments] = {
    drc_collection.list_is_long: no_arguments,
    drc_collection.set_limit: drawn(st.integers(0, 40) | ANY_U32, st.integers(0, 9)),
    drc_collection.is_listed: an_object,
    allocation.much_was_free: no_arguments,
    allocation.collect_if_allowed: no_arguments,
    allocation.find_after_freeing: a_length,
    allocation.coalesce_and_carve: a_length,
    allocation.is_search_due: a_limit_and_whether,
    allocation.collect_cycles: a_limit_and_whether,
    drc_cycles.is_search_due: a_limit_and_whether,
    drc_cycles.mark_live: a_chain,
    drc_cycles.find_cycles: lambda draw, made: a_limit_and_whether(draw, made)[1:],
    drc_cycles.set_limit: lambda draw, made: [*drawn(st.integers(100, 900), st.integers(0, 100))(draw, made)],
    collection.collect_cycles: a_limit_and_whether,
    collection.find_no_cycles: no_arguments,
    collection.is_no_search_due: drawn(st.booleans()),
    cycles.is_marked: lambda draw, made: [marked(draw, made), an_object(draw, made)][1],
    cycles.mark: lambda draw, made: [marked(draw, made), an_object_and_nothing(draw, made)][1],
    cycles.mark_all: a_chain_and_nothing,
    cycles.mark_arrived: an_object_or_nothing,
    cycles.mark_reachable: lambda draw, made: [*a_chain(draw, made), made.heap.control.over_approximated_stack_roots],
    cycles.add_counts: lambda draw, made: [*candidates(draw, made)[:1], draw(st.sampled_from([1, (1 << 64) - 1]))],
    cycles.mark_waiting: lambda draw, made: [made.heap.control.pending_dead],
    separate: marked,
    cycles.check_references: a_chain,
    cycles.take_counts: lambda draw, made: candidates(draw, made)[:1],
    cycles.return_counts: candidates_without_counts,
    cycles.cut: lambda draw, made: candidates_without_counts(draw, made)[:1],
    cycles.forget_marks: lambda draw, made: marked(draw, made)[1:],
    walk_objects: no_arguments,
    move_slots: an_object,
    allocation.allocate_block: a_length,
    allocation.allocate_block_growing_first: a_length,
    allocation.allocate_at_once: an_object_at_once,
    allocation.free_leaf: an_object,
    externrefs.release_dead_externrefs: no_arguments,
    externrefs.free_dead_externref: a_dead_externref,
    externrefs.bury_externref: an_object,
    allocation.write_header: a_header,
    allocation.allocate_object: an_object_to_make,
    allocation.allocate_struct: a_type,
    allocation.allocate_array: an_array_type,
    allocation.allocate_externref: lambda draw, made: a_length(draw, made)[:0],
    collection.hold: a_listed_or_a_reference,
    drc_collection.mark: an_object,
    collection.trace: no_arguments,
    collection.unsound_slot: no_arguments,
    drc_collection.clear_marks: no_arguments,
    drc_collection.sweep: no_arguments,
    drc_collection.sweep_pending: no_arguments,
    collection.finish_sweep: no_arguments,
    collection.collect: no_arguments,
    counting.count_up: an_object,
    counting.decrement: an_object_and_the_dead,
    counting.free_dead_from: a_dead_chain,
    counting.drop_last: an_object,
    drc_collection.bury: lambda draw, made: [*an_object(draw, made), *a_reference(draw, made)],
    counting.check_children: an_object,
    counting.check_owned: an_object,
    counting.is_live: an_object,
    counting.is_owned: an_object,
    counting.has_pending: no_arguments,
    counting.left_dead: no_arguments,
    free_lists.give_back: lambda draw, made: a_block(draw, made)[:2],
    free_lists.poison: lambda draw, made: a_block(draw, made)[:2],
    free_lists.pop_small: drawn(st.integers(1, 20).map(lambda n: n * BLOCK_ALIGN)),
    counting.free_pending: drawn(st.integers(0, 5) | st.just((1 << 64) - 1)),
    frames.entry_of: a_table_and_return_address,
    free_lists.size_class: drawn(LENGTHS),
    free_lists.push_free: a_block,
    free_lists.run_length: drawn(LENGTHS),
    free_lists.thread_run: a_run,
    free_lists.take_larger: drawn(LENGTHS),
    free_lists.carve: a_length,
    free_lists.coalescing_pays: no_arguments,
    free_lists.find_block: a_length,
    free_lists.coalesce: no_arguments,
    free_lists.is_far: drawn(st.integers(0, 1 << 10), st.integers(0, 1 << 10)),
    free_lists.are_scattered: no_arguments,
    free_lists.put_in_order: no_arguments,
    free_lists.clear_lists: no_arguments,
    references.end_of_blocks: drawn(st.integers(0, 100) | ANY_U32),
    references.is_object: drawn(ANY_U32),
    references.names_object: drawn(ANY_U32),
    references.may_be_object: lambda draw, made: [draw(st.sampled_from([*made.objects, 8]) | ANY_U32)],
    references.block_length: drawn(SIZES),
    sizing.live_bytes: no_arguments,
    sizing.note_peak: no_arguments,
    sizing.figures_are_settled: no_arguments,
    sizing.grow: a_length,
    sizing.grow_by_all: a_length,
    sizing.grow_to: drawn(st.integers(0, 1 << 20)),
    sizing.count_freed: drawn(st.integers(0, 9), st.integers(0, 999)),
    sum_figures: no_arguments,
    walk_children: no_externref,
    move_traced_slots: no_externref,
    tracing.is_leaf: an_object,
    walk_references: an_object,
    walk_dying: no_arguments,
    walk_host_slots: no_arguments,
    walk_held_by_hosts: no_arguments,
    walk_held_by_code: no_arguments,
    walk_frames: no_arguments,
    throw_from_a_frame: no_arguments,
    push_to_a_list: a_list_and_a_block,
    free_a_block: an_object,
    free_an_object: a_dead_object,
    free_a_chain: a_dead_chain,
    read_a_unit: a_unit_of_a_text,
    texts.first_difference: two_texts_and_an_end,
    texts.length_of: a_string,
    texts.reference_at: a_part,
    texts.unit_of_whole: a_unit_of_a_rope,
    texts.write_units: a_text_and_where_to,
    texts.write_rope: a_rope_and_where_to,
}

FUNCTIONS = natives(on_tables=False)


def takes(function: Native[..., Any], name: str) -> bool:
    return any(each.name == name for each in function.checked.parameters)


@functools.cache
def compiled(rules: FrameRules | None, opt_level: int = 2) -> Compiled:
    """The functions that take these rules, or those that take none."""
    there = [each for each in ARGUMENTS if each in FUNCTIONS or each in STAND_INS.values()]
    wanted = [each for each in there if takes(each, "rules") == (rules is not None)]
    return Compiled(wanted, opt_level, {"rules": rules}, Drc())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda each: each.symbol)
@settings(max_examples=examples(6, 20), deadline=None)
@given(data=st.data())
def test_python_and_machine_code_do_the_same(function: Native[..., Any], data: st.DataObject) -> None:
    function = STAND_INS.get(function, function)
    assert function in ARGUMENTS, f"there are no arguments here for {function.symbol}"
    made = Made(data.draw(STEPS, "steps"))
    rules = data.draw(st.sampled_from(RULES), "rules") if takes(function, "rules") else None
    arguments = ARGUMENTS[function](data.draw, made)
    held = st.lists(st.sampled_from([NULL, 1, *made.listed]), max_size=4)
    hosts = held if made.listed and data.draw(st.booleans()) else st.lists(st.sampled_from([NULL, 3, *made.objects]))
    frames = Frames(
        data.draw(held, "held"),
        data.draw(hosts, "hosts"),
        is_known=data.draw(st.integers(0, 9)) > 0,
        catches=data.draw(st.booleans(), "catches"),
    )
    python, machine = Copy(made, frames.context), Copy(made, frames.context)
    assert python.state() == machine.state()
    assert python.memory.base != machine.memory.base
    try:
        expected = function(*[python.heap] * takes(function, "heap"), *([rules] if rules else []), *arguments)
    except (OutOfRange, HeapCorruptionError, HeapError):  # not what a heap could be asked
        assume(False)
    opt_level = data.draw(st.sampled_from([2, 0]), "opt level") if rules in (None, RULES[0]) else 2
    found = compiled(rules, opt_level)[function](ctypes.addressof(machine.vmctx), *arguments)
    assert found == expected
    assert machine.state() == python.state()


def test_arguments_are_of_functions_that_there_are() -> None:
    assert {each for each in ARGUMENTS if each not in FUNCTIONS} == set(STAND_INS.values())
    assert set(STAND_INS) <= set(FUNCTIONS)


@settings(max_examples=examples(25, 60), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["struct", "array", "array", "drop", "drop"]), st.integers(0, 400), st.integers(0, 99)
        ),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from(RULES),
)
def test_equal_allocations_are_at_equal_indices(steps: list[tuple[str, int, int]], rules: FrameRules) -> None:
    """Where an object is depends on what was allocated and freed before, not on who did it."""
    made = Made([])
    types = [made.world.cell, made.pair, made.wide]
    nothing = Frames([], [], is_known=True)
    python, machine = Copy(made, nothing.context), Copy(made, nothing.context)
    live: list[int] = []
    for what, number, which in steps:
        if what == "drop" and live:
            reference = live.pop(which % len(live))
            counting.drop_last(python.heap, reference)
            compiled(None)[counting.drop_last](ctypes.addressof(machine.vmctx), reference)
            continue
        if what == "struct":
            function, arguments = allocation.allocate_struct, [types[which % 3]]
        else:
            function, arguments = allocation.allocate_array, [made.world.bytes, number * (which + 1)]  # type: ignore[assignment]
        expected = function(python.heap, rules, *arguments)
        assert compiled(rules)[function](ctypes.addressof(machine.vmctx), *arguments) == expected
        if expected != NULL:
            live.append(expected)
            for each in (python, machine):  # fields are not initialised
                size = each.heap.header(expected).object_size
                start = ctypes.sizeof(VMDrcHeader) + (4 if what != "struct" else 0)
                each.memory.write(expected + start, bytes(size - start))
    assert python.state() == machine.state()
