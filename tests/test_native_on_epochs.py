"""The native functions of rc-immix, both ways: run by Python and compiled, on copies of one random heap.

The heap is a store's, at any moment between two steps of a program (`support/epoch_heaps.py`): objects young and old,
large ones, externrefs, memory that is short and has holes, logs and counts that are pending, a trace that goes on.
Equal must be what is returned, the problems that are told of, and every byte: heap, control block, side tables, logs
and stacks, the store's context, notes.

Not every function may be called at any moment; `GIVEN` says what must have come before, and why, and the heap is
brought there. The clock is one that both sides read alike, so that what goes by time is compared, too.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llvmlite import ir
from support.combinations import examples
from support.epoch_heaps import CELL, LARGE_LENGTH, LIST, SIZES, STEPS, WIDEST, Lined
from support.native_heaps import ANY_U32, ANY_U64, Frames, natives_of_epochs
from support.native_interface import Examiner, Interface, Side, SideHeap, message_of
from support.native_sides import mixed

from lowheap.collectors import host
from lowheap.collectors.interface import ANY, ELEMENT, Shape
from lowheap.collectors.rc_immix import (
    RcImmix,
    barriers,
    bits,
    collection,
    counting,
    cycles,
    marking,
    pauses,
    policy,
    space,
    verify,
    walking,
)
from lowheap.collectors.rc_immix.counting import Tally
from lowheap.collectors.rc_immix.state import (
    BLOCK,
    DEAD,
    DECREMENTS,
    FREEING,
    GIVING_BACK,
    GREY,
    HELD,
    LARGE,
    LARGE_REST,
    LINE,
    LINES,
    LIVE,
    LOG,
    MARKING,
    MARKS,
    MEDIUM,
    OLD_VALUES,
    ROOM,
    UNLOGGED,
    YOUNG,
    Epochs,
    Space,
)
from lowheap.collectors.shared import verify as shared_verify
from lowheap.collectors.shared.sizing import UNLIMITED
from lowheap.errors import HeapError
from lowheap.jit.emit import I64, PTR
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    HEADER_SIZE,
    NULL,
    REFERENCE_SIZE,
    VMGcKind,
    VMHeapStatistics,
)
from lowheap.native import (
    Heap,
    Native,
    OutOfRange,
    Ref,
    address_of,
    at,
    inline,
    local_array,
    native,
    u32,
    u64,
    wrapping_sub,
    zero_memory,
)
from lowheap.native.check import BOOL, HeapType, NoneType, StaticType

pytestmark = pytest.mark.compiler

# ----------------------------------------------------------------------------------------------------------------------
# Functions for what cannot be called by itself: generators, what takes records, slots or what is known when code is
# compiled, and what returns tuples or addresses

OF_ELEMENTS, UNCOUNTED = Shape(field=ELEMENT), Shape(is_counted=False)


@native
def write_any(heap: Heap, owner: Ref, offset: u32, value: Ref) -> None:
    barriers.write(heap, owner, heap.slot(owner, offset), value, ANY)


@native
def write_root(heap: Heap, owner: Ref, offset: u32, value: Ref) -> None:
    barriers.write(heap, NULL, heap.slot(owner, offset), value, ANY)


@native
def write_uncounted(heap: Heap, owner: Ref, offset: u32, value: Ref) -> None:
    barriers.write(heap, owner, heap.slot(owner, offset), value, UNCOUNTED)


@native
def write_element(heap: Heap, owner: Ref, offset: u32, value: Ref) -> None:
    barriers.write(heap, owner, heap.slot(owner, offset), value, OF_ELEMENTS)


@native
def log_any(heap: Heap, owner: Ref, offset: u32) -> None:
    barriers.log(heap, owner, heap.slot(owner, offset), ANY)


@native
def log_slot_beyond(heap: Heap, owner: Ref, offset: u32) -> None:
    barriers.log_beyond(heap, owner, heap.slot(owner, offset))


@native
def log_elements(heap: Heap, owner: Ref, offset: u32, count: u32) -> None:
    barriers.log_range(heap, owner, heap.slot(owner, offset), count)


@native
def index_of_slot(heap: Heap, owner: Ref, offset: u32) -> u32:
    return counting.index_of(heap, heap.slot(owner, offset))


@native
def number_of_slot(heap: Heap, owner: Ref, offset: u32) -> u32:
    return counting.slot_number(heap, owner, heap.slot(owner, offset))


@native
def is_slot_unlogged(heap: Heap, reference: Ref, offset: u32) -> bool:
    return verify.is_unlogged(heap, reference, heap.slot(reference, offset))


@inline
def behind(heap: Heap, address: u64) -> u64:
    """How far behind the control block something is: the same on all sides."""
    return wrapping_sub(address, address_of(heap.control))


@native
def places_of_bits(heap: Heap, number: u32) -> u64:
    total = mixed(behind(heap, space.live_bits(heap)), behind(heap, counting.mark_bits(heap)))
    total = mixed(total, behind(heap, counting.unlogged_bits(heap)))
    return mixed(total, behind(heap, bits.address_of_word(space.live_bits(heap), number)))


@native
def look_at_bit(heap: Heap, number: u32) -> bool:
    return bits.has_bit(counting.unlogged_bits(heap), number)


@native
def set_a_bit(heap: Heap, number: u32) -> None:
    bits.set_bit(counting.unlogged_bits(heap), number)


@native
def clear_a_bit(heap: Heap, number: u32) -> None:
    bits.clear_bit(counting.unlogged_bits(heap), number)


@native
def set_some_bits(heap: Heap, first: u32, count: u32) -> None:
    bits.set_bits(counting.unlogged_bits(heap), first, count)


@native
def find_bit(heap: Heap, first: u32, end: u32) -> u32:
    return bits.next_bit(space.live_bits(heap), first, end)


@native
def push(heap: Heap, value: u32) -> None:
    space.append(heap, GREY, value)


@native
def pop_held(heap: Heap) -> u32:
    return space.pop(heap, HELD)


@native
def move_old_values(heap: Heap) -> None:
    space.move_all(heap, DECREMENTS, OLD_VALUES)


@native
def two_of_free_lines(heap: Heap, block: u32) -> u64:
    low, high = space.free_lines(heap, block)
    return mixed(low, high)


@native
def two_of_usable_lines(heap: Heap, block: u32) -> u64:
    low, high = space.usable_lines(heap, block)
    return mixed(low, high)


@native
def begin_a_span_in_a_run(heap: Heap, first: u32, count: u32) -> u32:
    """Of an empty block, so many lines."""
    block = space.find_run(heap, 1)
    if block != 0:
        start = space.start_of(block) + first * LINE
        space.begin_span(heap, start, start + count * LINE)
    return block


@native
def enter_an_empty_block(heap: Heap, low: u64, high: u64) -> u32:
    block = space.find_run(heap, 1)
    if block != 0:
        space.enter_block(heap, block, low, high)
    return block


@native
def make_an_object(heap: Heap, kind: u32, type_index: u32, size: u32, length: u32) -> Ref:
    """In the room for it, if there is some at hand."""
    reference = space.allocate_small(heap, length)
    if reference != NULL:
        collection.write_header(heap, reference, kind, type_index, size)
    return reference


@native
def count_one_up(heap: Heap, reference: Ref) -> u64:
    survived = Tally()
    counting.count_up(heap, reference, survived)
    counting.add_survivors(heap, survived)
    return survived.objects * 1_000_000 + survived.size


@native
def have_one_survive(heap: Heap, reference: Ref) -> u64:
    survived = Tally()
    counting.survive(heap, reference, survived)
    return survived.objects * 1_000_000 + survived.size


@native
def scan_one_up(heap: Heap, reference: Ref) -> u64:
    survived = Tally()
    counting.scan_up(heap, reference, survived)
    return survived.objects * 1_000_000 + survived.size


@native
def recount_one(heap: Heap, reference: Ref) -> u64:
    live = Tally()
    survived = Tally()
    cycles.recount(heap, reference, live, survived)
    return ((live.objects * 1_000_000 + live.size) * 7) + survived.objects * 1_000_000 + survived.size


@native
def sum_of_further_lines(reference: Ref, length: u32) -> u64:
    total: u64 = 7
    for number in counting.bits_of_further_lines(reference, length):
        total = mixed(total, u64(number))
    return total


@native
def mark_lines(heap: Heap, reference: Ref, length: u32) -> None:
    counting.set_lines(heap, counting.mark_bits(heap), reference, length)


@native
def sum_of_piece(heap: Heap, array: Ref, left: u32) -> u64:
    total: u64 = 7
    for each in counting.piece_of(heap, array, left):
        total = mixed(total, u64(each))
    return total


@native
def have_the_next_die(heap: Heap) -> u64:
    freed = Tally()
    counting.die(heap, space.pop(heap, DEAD), freed)
    counting.note_freed(heap, freed)
    return freed.objects * 1_000_000 + freed.size


@native
def forget_one(heap: Heap, reference: Ref) -> u64:
    freed = Tally()
    counting.forget(heap, reference, freed)
    counting.note_freed(heap, freed)
    marking.note_cyclic(heap, freed)
    return freed.objects * 1_000_000 + freed.size


FIGURES = ctypes.sizeof(VMHeapStatistics) // ctypes.sizeof(ctypes.c_uint64)


@native
def sum_of_figures(heap: Heap) -> u64:
    figures = local_array(u64, FIGURES)
    zero_memory(address_of(figures), FIGURES * 8)
    pauses.tell_figures(heap, at(VMHeapStatistics, address_of(figures)))
    total: u64 = 7
    for number in range(FIGURES):
        total = mixed(total, figures[number])
    return total


@native
def look_at_blocks(heap: Heap, notes: u64) -> u64:
    is_whole, objects, size = verify.verify_blocks(heap, notes, True)
    return (objects * 1_000_000 + size) * 2 + u64(u32(is_whole))


@native
def sum_of_blocks(heap: Heap) -> u64:
    total: u64 = 7
    for index in walking.blocks(heap):
        total = mixed(total, u64(index))
    return total


STAND_INS: dict[Native[..., Any], tuple[Native[..., Any], ...]] = {
    barriers.write: (write_any, write_root, write_uncounted, write_element),
    barriers.log: (log_any,),
    barriers.log_beyond: (log_slot_beyond,),
    barriers.log_range: (log_elements,),
    counting.index_of: (index_of_slot,),
    counting.slot_number: (number_of_slot,),
    verify.is_unlogged: (is_slot_unlogged,),
    space.live_bits: (places_of_bits,),
    counting.mark_bits: (places_of_bits,),
    counting.unlogged_bits: (places_of_bits,),
    bits.address_of_word: (places_of_bits,),
    bits.has_bit: (look_at_bit,),
    bits.set_bit: (set_a_bit,),
    bits.clear_bit: (clear_a_bit,),
    bits.set_bits: (set_some_bits,),
    bits.next_bit: (find_bit,),
    space.append: (push,),
    space.pop: (pop_held,),
    space.move_all: (move_old_values,),
    space.free_lines: (two_of_free_lines,),
    space.usable_lines: (two_of_usable_lines,),
    space.begin_span: (begin_a_span_in_a_run,),
    space.enter_block: (enter_an_empty_block,),
    collection.write_header: (make_an_object,),
    counting.count_up: (count_one_up,),
    counting.add_survivors: (count_one_up,),
    counting.survive: (have_one_survive,),
    counting.scan_up: (scan_one_up,),
    cycles.recount: (recount_one,),
    counting.bits_of_further_lines: (sum_of_further_lines,),
    counting.set_lines: (mark_lines,),
    counting.piece_of: (sum_of_piece,),
    counting.die: (have_the_next_die,),
    counting.forget: (forget_one,),
    counting.note_freed: (forget_one,),
    marking.note_cyclic: (forget_one,),
    pauses.tell_figures: (sum_of_figures,),
    verify.verify_blocks: (look_at_blocks,),
    walking.blocks: (sum_of_blocks,),
}

# ----------------------------------------------------------------------------------------------------------------------
# Sides


class Clock:
    """What both sides take for the time: it goes on by as much at each look."""

    cells = (ctypes.c_uint64 * 2)()
    """The time, and the step: machine code has their address."""

    @classmethod
    def look(cls) -> int:
        now: int = cls.cells[0]
        cls.cells[0] += cls.cells[1]
        return now


class EpochHeap(SideHeap):
    """A heap of Python's with that clock."""

    def nanoseconds(self) -> int:
        return Clock.look()


class EpochSide(Side):
    """A copy of a heap of rc-immix, with a host that lets go of externrefs."""

    heap_class = EpochHeap

    def release(self) -> None:
        while self.control.dead_externrefs != NULL:
            host.free_dead(self.heap)

    def bytes_in_use(self) -> bytes:
        return self.memory.read(0, self.control.maximum)


class UncheckedSide(EpochSide):
    """Likewise, without checks."""

    is_checked = False


class Examining(Examiner):
    """Code with that clock."""

    def nanoseconds(self) -> ir.Value:
        address = ctypes.addressof(Clock.cells)
        now, step = (self.builder.inttoptr(I64(address + 8 * n), PTR) for n in range(2))
        value = self.load_typed(now, I64)
        self.store_typed(self.builder.add(value, self.load_typed(step, I64)), now)
        return value


PLAIN, HASTY = RcImmix(), RcImmix(pause_microseconds=20, epoch_bytes=3 * BLOCK, traces=False)


class Fast(Examining):
    """Code as programs have it."""

    collector, is_checked, sides = PLAIN, False, UncheckedSide


class Hasty(Examining):
    """The same for a collector that does a part whenever a block is used up."""

    collector, is_checked, sides = HASTY, False, UncheckedSide


class Checked(Examining):
    """Code of the checked library's."""

    collector, is_checked, sides = PLAIN, True, EpochSide


KINDS: list[Any] = [Fast, Hasty, Checked]

NOTES_SIZE = max(maximum for _, maximum in SIZES) >> shared_verify.BYTES_PER_NOTE_SHIFT


@functools.cache
def compiled(kind: Any) -> Interface:
    return Interface(kind, list(ARGUMENTS), {"rules": kind.rules()})


# ----------------------------------------------------------------------------------------------------------------------
# What must hold


@dataclass(frozen=True)
class Given:
    """What must hold when a function is called: why, and how the heap is brought there.

    `made` does so with the store, `then` are done by Python with the copy that both sides are copied of. What need not
    hold, but is rare, `is_needed` says.
    """

    why: str
    made: Callable[[Lined], None] = lambda made: None
    then: tuple[Callable[[Heap], Any], ...] = ()
    is_needed: bool = True


def begin_recount(heap: Heap) -> None:
    """What `trace_all` begins with."""
    for index in range(0, heap.control.maximum, LIVE.granule):
        heap.side(MARKS, index).value = 0
    cycles.forget_log(heap)


def expect_holes(heap: Heap) -> None:
    """Have blocks taken for their holes."""
    state = heap.state(Space)
    state.least_room = state.next_block = state.next_run = 0
    state.left = 1 << 30


def use_up_lines(heap: Heap) -> None:
    space.leave_span(heap)
    state = heap.state(Space)
    state.free_low = state.free_high = state.hole = 0


def leave_epoch(heap: Heap) -> None:
    """As at its end, with what is young still told from the rest."""
    space.leave_span(heap)
    counting.find_roots(heap)


def count_survivors(heap: Heap) -> None:
    leave_epoch(heap)
    counting.count_all_up(heap)
    counting.put_off_decrements(heap)


def count_all_down(heap: Heap) -> None:
    counting.count_some_down(heap, UNLIMITED)


def log_a_store(made: Lined) -> None:
    """Have an old value, in the middle of marking."""
    made.come_to(MARKING, CELL)
    made.step("struct")
    made.step("end")
    for number in range(len(made.held)):
        made.step("link", number, number + 1, 0)
        made.step("unlink", number, 0, 0)


def have_held(made: Lined) -> None:
    if not made.heap.native.length(HELD).value:
        made.hold_old()


def drop_something(made: Lined) -> None:
    if not made.heap.native.length(DECREMENTS).value:
        made.hold_old()
        made.held.pop()[0].release()
        made.end_epoch()


def drop_an_externref(made: Lined) -> None:
    made.make_room()
    made.step("externref", number=1)
    made.step("struct", number=4)
    made.step("link", 1, 0)
    made.step("externref", number=2)
    made.step("collect")
    made.step("externref", number=3)
    for _ in range(2):
        made.held.pop()[0].release()


RECOUNTED = (leave_epoch, begin_recount, cycles.recount_all)

GIVEN: dict[Native[..., Any], Given] = {
    pop_held: Given("there is something to take", have_held),
    have_the_next_die: Given("one is dead, and none is dying: an array would take the other's place", Lined.find_dead),
    counting.die_further: Given("an array is dying", Lined.begin_dying),
    counting.shade_old_values: Given("so many are there, and marking goes on", log_a_store),
    counting.mark_survivor: Given("a trace goes on, or there is nothing to keep marked", lambda made: made.come_to(1)),
    counting.count_all_up: Given("roots are found, and the span is a free block's", then=(leave_epoch,)),
    counting.put_off_decrements: Given("all is counted up", then=(leave_epoch, counting.count_all_up)),
    counting.bury_young: Given(
        "what has survived has a count: the rest is let go of", drop_an_externref, (count_survivors,)
    ),
    space.begin_epoch: Given("the span is left, and the young are buried", then=(count_survivors, counting.bury_young)),
    space.leave_blocks: Given("likewise: nothing tells the young any more", then=(count_survivors,)),
    recount_one: Given("the marks are those of this trace", then=(leave_epoch, begin_recount)),
    cycles.recount_all: Given("likewise, and roots are found", then=(leave_epoch, begin_recount)),
    cycles.keep_dead_externrefs: Given("all that lives is marked", drop_an_externref, RECOUNTED),
    cycles.keep_dead_externref: Given("an externref waits for the host", drop_an_externref, (collection.end_epoch,)),
    cycles.bury_unmarked: Given("all that lives is marked", drop_an_externref, RECOUNTED),
    cycles.keep_marked: Given("all that is to be kept is marked", then=(*RECOUNTED, cycles.keep_dead_externrefs)),
    cycles.trace_all: Given("roots are found", then=(leave_epoch,)),
    marking.begin_marking: Given("an epoch has just ended", then=(collection.end_epoch,)),
    marking.find_cycles: Given("likewise", then=(collection.end_epoch,)),
    marking.trace_some: Given(
        "nothing is to be counted down, or marking is done", lambda made: made.come_to(MARKING), (count_all_down,)
    ),
    marking.mark_some: Given("a trace marks", lambda made: made.come_to(MARKING), (count_all_down,)),
    marking.give_back_some: Given("a trace gives counts back", lambda made: made.come_to(GIVING_BACK)),
    marking.give_back_elements: Given("it is in the middle of an array", Lined.give_elements_back),
    marking.free_some: Given("it frees: all counts are given back", lambda made: made.come_to(FREEING)),
    space.take_block: Given("the lines of the current block are used up", then=(use_up_lines,)),
    space.take_hole: Given("holes are looked for", then=(use_up_lines, expect_holes, space.take_block)),
    space.enter_holes: Given("nothing in the block is young", then=(collection.end_epoch,)),
    begin_a_span_in_a_run: Given("the span before is left", then=(space.leave_span,)),
    **{
        each: Given("something was logged, or there is little to look at", Lined.log_stores, is_needed=False)
        for each in (
            move_old_values,
            cycles.forget_log,
            verify.verify_log,
            verify.verify_logged,
            verify.verify_lists,
            verify._count_old_values,
            is_slot_unlogged,
        )
    },
    verify._count_decrements: Given("something is to be counted down, likewise", drop_something, is_needed=False),
    verify._count_held: Given("roots held something, likewise", have_held, is_needed=False),
    verify.count_owned: Given("a trace gives counts back", Lined.give_elements_back, is_needed=False),
    verify.given_back_by: Given("likewise", Lined.give_elements_back, is_needed=False),
    collection.fit_length: Given("the epoch has just begun: it may be as long", then=(collection.end_epoch,)),
}
"""What a function asks for that does not hold at any moment."""

# ----------------------------------------------------------------------------------------------------------------------
# Arguments

Draw = Callable[..., Any]
ThatSide = Callable[[], EpochSide]
"""The copy that both sides are copied of. It is made when it is asked for, and the store's heap stays as it is then."""

Arguments = Callable[[Draw, Lined, ThatSide], list[Any]]


def nothing(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    return []


def drawn(*strategies: st.SearchStrategy[int]) -> Arguments:
    return lambda draw, made, side: [draw(each) for each in strategies]


def then(*several: Arguments) -> Arguments:
    return lambda draw, made, side: [each for one in several for each in one(draw, made, side)]


def notes_of_side(draw: Draw, made: Lined, side: ThatSide) -> list[Any]:
    return [lambda side: ctypes.addressof(side.notes)]


def an_object(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    return [draw(st.sampled_from(made.of(lambda each: True, lambda: made.step("struct"))))]


def an_old_one(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """Which has survived, and is not dead."""
    return [draw(st.sampled_from(old_ones(made)))]


def old_ones(made: Lined) -> list[int]:
    return made.of(lambda each: made.has_survived(each) and made.header(each).ref_count > 0, lambda: _made(made, CELL))


def _made(made: Lined, kind: Any, length: int = 0) -> None:
    made.hold_old(kind, length)


def a_young_one(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    def make() -> None:
        made.make_room()
        made.step("struct")

    return [draw(st.sampled_from(made.of(lambda each: not made.has_survived(each), make)))]


def a_reference(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    return [draw(st.sampled_from([NULL, 1, 7, 0xFFFF_FFFF, *made.objects]))]


def an_old_reference(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    return [draw(st.sampled_from([NULL, 1, 0xFFFF_FFFF, *old_ones(made)]))]


def a_place(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """Where an object could be, within what lines are in use."""
    if made.heap.control.bump <= LINE:
        made.step("struct")
    within = st.integers(LINE // BLOCK_ALIGN, made.heap.control.bump // BLOCK_ALIGN - 2)
    return [draw(st.sampled_from([LINE, *made.objects]) | within.map(lambda number: number * BLOCK_ALIGN))]


def no_externref(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    found = made.of(lambda each: made.header(each).type_index != EXTERNREF_TYPE_INDEX, lambda: made.step("struct"))
    return [draw(st.sampled_from(found))]


def a_slot(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """An object and the offset of a slot of its."""
    owner = draw(st.sampled_from(made.of(lambda each: bool(made.slots(each)), lambda: made.step("struct"))))
    slots = made.slots(owner)
    return [owner, draw(st.sampled_from([slots[0], slots[-1]]) | st.sampled_from(slots))]


def is_list(made: Lined, reference: int, least: int = 1) -> bool:
    header = made.header(reference)
    return (
        bool(header.kind_and_reserved & VMGcKind.ARRAY_REF == VMGcKind.ARRAY_REF)
        and len(made.slots(reference)) >= least
    )


def an_element(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    arrays = made.of(lambda each: is_list(made, each), lambda: _made(made, LIST, 70))
    owner = draw(st.sampled_from(arrays))
    return [owner, draw(st.sampled_from(made.slots(owner)))]


def elements(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    owner, offset = an_element(draw, made, side)
    return [owner, offset, draw(st.integers(0, (made.slots(owner)[-1] - offset) // REFERENCE_SIZE + 1))]


def a_logged_field(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """A struct that has survived, and the number of one of its words that is yet to be logged."""

    def unlogged(each: int) -> int:
        is_old = made.has_survived(each) and made.header(each).type_index != EXTERNREF_TYPE_INDEX
        return made.header(each).next_over_approximated_stack_root if is_old else 0

    owner = draw(st.sampled_from(made.of(lambda each: unlogged(each) != 0, lambda: _made(made, CELL))))
    return [owner, draw(st.sampled_from([number for number in range(32) if unlogged(owner) >> number & 1]))]


def an_unlogged_slot(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """The index of one beyond the bits of headers."""

    def unlogged(each: int) -> list[int]:
        heap = made.heap.native
        is_old = made.has_survived(each)
        indices = [each + offset for offset in made.slots(each)] if is_old else []
        return [index for index in indices if heap.side(UNLOGGED, index).value >> (index >> 2 & 63) & 1]

    owner = draw(st.sampled_from(made.of(lambda each: bool(unlogged(each)), lambda: _made(made, WIDEST))))
    return [draw(st.sampled_from(unlogged(owner)))]


def a_slots_index(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    owner, offset = a_slot(draw, made, side)
    assume(made.heap.native.slot(owner, offset).value in (NULL, *made.objects))
    return [owner + offset]


def a_piece(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    arrays = made.of(lambda each: is_list(made, each), lambda: _made(made, LIST, 1500))
    array = draw(st.sampled_from(arrays))
    return [array, draw(st.integers(0, len(made.slots(array))))]


def with_length(one: Arguments) -> Arguments:
    def both(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
        (reference,) = one(draw, made, side)
        return [reference, made.length(reference)]

    return both


def a_larger_one(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """An object of more than a line that has survived."""
    found = made.of(lambda each: made.has_survived(each) and made.length(each) > LINE, lambda: _made(made, LIST, 600))
    return with_length(lambda draw, made, side: [draw(st.sampled_from(found))])(draw, made, side)


def a_large_one(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    found = made.of(lambda each: made.length(each) > MEDIUM, lambda: _made(made, LIST, LARGE_LENGTH))
    return with_length(lambda draw, made, side: [draw(st.sampled_from(found))])(draw, made, side)


def a_leaf(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    found = made.of(
        lambda each: made.header(each).type_index != EXTERNREF_TYPE_INDEX and not made.slots(each),
        lambda: made.step("bytes"),
    )
    return [draw(st.sampled_from(found))]


def a_dead_externref(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    reference: int = side().control.dead_externrefs
    assert reference != NULL
    return [reference]


def a_type(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    _made(made, WIDEST)
    return [draw(st.integers(0, made.heap.control.type_count - 1))]


def a_type_without_mask(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    _made(made, WIDEST)
    heap = made.heap.native
    types = [each for each in range(made.heap.control.type_count) if heap.type_info(each).is_beyond_mask]
    return [draw(st.sampled_from(types))]


def a_block(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """One that was ever in use."""
    fresh = side().heap.state(Space).fresh
    assume(fresh)
    return [draw(st.integers(0, fresh - 1))]


def rooms(side: EpochSide) -> list[int]:
    return [side.heap.side(ROOM, number * BLOCK).value for number in range(side.heap.state(Space).fresh)]


def a_shared_block(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """One that is not a large object's."""
    found = [number for number, room in enumerate(rooms(side())) if room not in (LARGE, LARGE_REST)]
    assume(found)
    return [draw(st.sampled_from(found))]


def half_a_block(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    return [a_block(draw, made, side)[0] * BLOCK + draw(st.sampled_from([0, BLOCK // 2]))]


def rest_of_span(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """Two places in what is left of the span, or of any free line, in this order."""
    state = side().heap.state(Space)
    start, end = space.place_of_bump(side().heap), state.limit
    assume(start != end)
    places = st.integers(0, (end - start) // BLOCK_ALIGN).map(lambda number: start + number * BLOCK_ALIGN)
    return sorted([draw(places), draw(places)])


def small_length(least: int, most: int) -> Arguments:
    """A block's length."""
    sizes = st.integers(least // BLOCK_ALIGN, most // BLOCK_ALIGN).map(lambda number: number * BLOCK_ALIGN)
    return drawn(sizes | st.sampled_from([least, most]))


def a_length(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """One for which there may be room: at times the epoch is over, or nothing may be collected."""
    side().control.no_gc_count = draw(st.sampled_from([0, 0, 1]))
    state = side().heap.state(Space)
    state.left = draw(st.sampled_from([state.left, state.left, 0, BLOCK]))
    lengths = [small_length(32, LINE), small_length(LINE, MEDIUM), small_length(MEDIUM, 3 * BLOCK)]
    one: Arguments = draw(st.sampled_from(lengths))
    return one(draw, made, side)


def left_of_epoch(one: Arguments) -> Arguments:
    def both(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
        state = side().heap.state(Space)
        state.left = draw(st.sampled_from([state.left, state.left, 0, BLOCK - 1, BLOCK]))
        return one(draw, made, side)

    return both


def whether_to_trace(one: Arguments) -> Arguments:
    def both(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
        side().heap.state(Epochs).trace_next = draw(st.integers(0, 1))
        return one(draw, made, side)

    return both


def figures_of_epoch(one: Arguments) -> Arguments:
    """What the length of epochs goes by, small and large."""
    sizes = st.sampled_from([0, 1 << 10, 1 << 15, 1 << 20, 3 << 20, 1 << 26, 1 << 28])

    def both(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
        epochs = side().heap.state(Epochs)
        for name in ("length", "traced_live", "lived", "survived_bytes", "allocated", "need", "longest"):
            setattr(epochs, name, draw(sizes))
        epochs.work = draw(st.sampled_from([0, 1, 300, 1 << 13, 1 << 20]))
        epochs.calm = draw(st.integers(0, 8))
        side().heap.state(Space).committed = draw(sizes)
        return one(draw, made, side)

    return both


def make_of_kind(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    kind = draw(st.sampled_from([VMGcKind.STRUCT_REF, VMGcKind.EXTERN_REF]))
    size = draw(st.integers(HEADER_SIZE, LINE))
    return [int(kind), draw(ANY_U32), size, (size + BLOCK_ALIGN - 1) & -BLOCK_ALIGN]


def two_ends_and_a_word(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    """Of the bits between them some are in the word that begins at the third."""
    start = draw(st.integers(0, 1 << 20)) * 64
    first, last = sorted(draw(st.tuples(st.integers(0, 63), st.integers(0, 63))))
    before, behind = draw(st.sampled_from([0, 64])), draw(st.sampled_from([0, 64]))
    return [max(0, start + first - before), start + last + 1 + behind, start]


def span_of_bits(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    return [draw(st.integers(0, 300)), draw(st.integers(0, 300))]


def note_of_object(draw: Draw, made: Lined, side: ThatSide) -> list[int]:
    flags = [0, shared_verify.OBJECT, shared_verify.OBJECT | 1, shared_verify.DEAD | shared_verify.OBJECT]
    (reference,) = an_object(draw, made, side)
    right = shared_verify.OBJECT | made.header(reference).ref_count
    return [reference, draw(st.sampled_from([right, right, *flags]) | ANY_U64)]


NUMBER = st.integers(0, 9)
BUDGET = drawn(st.sampled_from([1, 2, 3, 7, 20, 100]) | st.just(UNLIMITED))
SIZE = drawn(st.sampled_from([0, 16, LINE, BLOCK, 1 << 20]))
BIT = drawn(st.integers(0, 8 * BLOCK // 4))
BLOCK_NUMBER = drawn(st.integers(0, 5))
LINES_OF_A_HALF = drawn(ANY_U64 | st.sampled_from([0, bits.ALL, 1, 1 << 63, bits.ALL - 1, bits.ALL >> 1]))
BOOL_ARGUMENT = drawn(st.booleans())

ARGUMENTS: dict[Native[..., Any], Arguments] = {
    write_any: then(a_slot, a_reference),
    write_root: then(a_slot, a_reference),
    write_uncounted: then(a_slot, a_reference),
    write_element: then(an_element, a_reference),
    log_any: a_slot,
    log_slot_beyond: a_slot,
    log_elements: elements,
    barriers.log_field: a_logged_field,
    barriers.log_slot: an_unlogged_slot,
    barriers.keep_old_value: a_slots_index,
    index_of_slot: a_slot,
    number_of_slot: a_slot,
    is_slot_unlogged: a_slot,
    places_of_bits: BIT,
    look_at_bit: BIT,
    set_a_bit: BIT,
    clear_a_bit: BIT,
    set_some_bits: span_of_bits,
    find_bit: span_of_bits,
    bits.mask_of: drawn(ANY_U32),
    bits.mask_between: two_ends_and_a_word,
    bits.shifted_up: drawn(st.integers(0, 63)),
    push: drawn(ANY_U32),
    pop_held: nothing,
    move_old_values: nothing,
    collection.is_young: a_place,
    collection.is_live: a_place,
    collection.hold: lambda draw, made, side: [draw(st.sampled_from([*a_place(draw, made, side), 0x7FFF_FFF0]))],
    collection.forget_held: nothing,
    collection.end_epoch: whether_to_trace(nothing),
    collection.end_epoch_in_portions: whether_to_trace(nothing),
    collection.end_epoch_by: whether_to_trace(BOOL_ARGUMENT),
    collection.settle_freed: nothing,
    collection.free_pending: BUDGET,
    collection.settle: figures_of_epoch(nothing),
    collection.collect: whether_to_trace(nothing),
    collection.collect_cycles: BOOL_ARGUMENT,
    collection.collect_in_time: whether_to_trace(nothing),
    collection.fit_length: figures_of_epoch(drawn(st.sampled_from([0, 1, 2_000, 10_000, 30_000, 1 << 40]))),
    collection.end_if_allowed: whether_to_trace(nothing),
    collection.allocate_block: a_length,
    collection.find_room_anywhere: a_length,
    make_an_object: make_of_kind,
    collection.free_leaf: a_leaf,
    counting.header_mask: a_type,
    counting.mask_of_offsets: a_type_without_mask,
    counting.bury_young: nothing,
    counting.count_all_up: nothing,
    counting.find_roots: nothing,
    counting.has_pending: nothing,
    counting.has_decrements: nothing,
    counting.put_off_decrements: nothing,
    count_one_up: an_object,
    have_one_survive: a_young_one,
    counting.mark_survivor: with_length(an_object),
    sum_of_further_lines: with_length(an_object),
    mark_lines: with_length(an_object),
    counting.unlog_all: lambda draw, made, side: with_type(draw, made, no_externref(draw, made, side)),
    counting.unlog_beyond: lambda draw, made, side: with_type(draw, made, no_externref(draw, made, side)),
    scan_one_up: no_externref,
    counting.shade_old_values: lambda draw, made, side: [draw(st.integers(0, side().heap.length(OLD_VALUES).value))],
    counting.count_down: an_old_one,
    counting.give_up: an_old_reference,
    counting.shade: an_object,
    have_the_next_die: nothing,
    sum_of_piece: a_piece,
    counting.die_further: nothing,
    forget_one: an_old_one,
    counting.forget_lines: a_larger_one,
    counting.count_some_down: BUDGET,
    cycles.trace_all: nothing,
    cycles.size_of_bits: nothing,
    recount_one: an_object,
    cycles.forget_log: nothing,
    cycles.recount_all: nothing,
    cycles.keep_dead_externrefs: nothing,
    cycles.keep_dead_externref: a_dead_externref,
    cycles.bury_unmarked: a_block,
    cycles.keep_marked: nothing,
    marking.begin_marking: nothing,
    marking.find_cycles: nothing,
    marking.trace_some: BUDGET,
    marking.mark_some: BUDGET,
    marking.mark_children: an_object,
    marking.shade_old: an_object,
    marking.unmarked_in: a_place,
    marking.next_unmarked: a_place,
    marking.is_dead: an_object,
    marking.give_back_some: BUDGET,
    marking.give_back_count: an_old_reference,
    marking.give_back_elements: nothing,
    marking.free_some: BUDGET,
    pauses.note_pause: drawn(st.integers(0, 999)),
    pauses.wanted_pause: nothing,
    pauses.work: BUDGET,
    pauses.work_until: drawn(st.sampled_from([0, 1000, 1 << 20, 1 << 40])),
    sum_of_figures: nothing,
    pauses.between_blocks: nothing,
    pauses.work_for_a_slice: drawn(st.sampled_from([0, 1000, 1 << 20])),
    policy.allow: nothing,
    policy.expect_trace: figures_of_epoch(nothing),
    policy.keep_memory: figures_of_epoch(nothing),
    policy.may_trace: nothing,
    policy.set_length: figures_of_epoch(nothing),
    space.begin_epoch: nothing,
    space.block_of: drawn(ANY_U32),
    space.start_of: drawn(st.integers(0, (1 << 17) - 1)),
    space.blocks_of: drawn(ANY_U32),
    space.below: drawn(st.integers(0, 64)),
    space.ones: LINES_OF_A_HALF,
    space.fill: rest_of_span,
    space.find_room: a_length,
    space.has_survived: a_place,
    space.leave_span: nothing,
    space.place_of_bump: nothing,
    space.forget_large: a_large_one,
    two_of_free_lines: a_shared_block,
    two_of_usable_lines: BLOCK_NUMBER,
    space.used_lines: half_a_block,
    space.give_back: SIZE,
    space.end_of_lines: nothing,
    space.room_of: BLOCK_NUMBER,
    space.is_taken: BLOCK_NUMBER,
    space.has_room: then(BLOCK_NUMBER, drawn(st.integers(0, LINES))),
    space.is_empty: BLOCK_NUMBER,
    space.touch: BLOCK_NUMBER,
    space.has_capacity: drawn(st.integers(0, 9) | st.sampled_from([(1 << 17) - 2, (1 << 17) - 1])),
    space.make_fresh: BLOCK_NUMBER,
    space.note_end: drawn(st.integers(0, 3 * LINES).map(lambda number: number * LINE)),
    space.take_block: nothing,
    space.enter_holes: a_shared_block,
    enter_an_empty_block: then(LINES_OF_A_HALF, LINES_OF_A_HALF),
    space.leave_blocks: nothing,
    space.settle_figures: nothing,
    space.take_span: nothing,
    space.take_hole: nothing,
    begin_a_span_in_a_run: drawn(st.integers(0, LINES // 2), st.integers(1, LINES // 2)),
    space.spend: drawn(ANY_U32),
    space.is_over: left_of_epoch(nothing),
    space.allocate_small: small_length(32, MEDIUM),
    space.find_line_sized: left_of_epoch(small_length(32, LINE)),
    space.find_medium: left_of_epoch(small_length(LINE + BLOCK_ALIGN, MEDIUM)),
    space.find_medium_in_lines: left_of_epoch(small_length(LINE + BLOCK_ALIGN, MEDIUM)),
    space.count_made: small_length(32, MEDIUM),
    space.find_run: drawn(st.integers(1, 4)),
    space.find_large: left_of_epoch(small_length(MEDIUM + BLOCK_ALIGN, 4 * BLOCK)),
    space.is_group_empty: drawn(st.integers(0, 2)),
    verify.further_lines: with_length(an_object),
    look_at_blocks: notes_of_side,
    verify.verify_lines: with_length(an_object),
    verify.verify_room: BLOCK_NUMBER,
    verify.verify_free_blocks: notes_of_side,
    verify._count_old_values: notes_of_side,
    verify._count_decrements: notes_of_side,
    verify._count_held: notes_of_side,
    verify.verify_dead: then(notes_of_side, an_object),
    verify.verify_pending: an_object,
    verify.verify_log: notes_of_side,
    verify.verify_lists: notes_of_side,
    verify.verify_logged: then(notes_of_side, drawn(NUMBER)),
    verify.count_owned: then(notes_of_side, an_object),
    verify.is_garbage: an_object,
    verify.given_back_by: an_object,
    verify.verify_noted: note_of_object,
    walking.next_object: a_place,
    sum_of_blocks: nothing,
}


def with_type(draw: Draw, made: Lined, references: list[int]) -> list[int]:
    (reference,) = references
    return [reference, made.header(reference).type_index]


FUNCTIONS = natives_of_epochs()

LOOK_FOR_PROBLEMS = [each for each in ARGUMENTS if each.__module__ in (verify.__name__, walking.__name__)]
LOOK_FOR_PROBLEMS += [look_at_blocks, sum_of_blocks]
"""The functions that trust nothing: they are given broken heaps, too."""


def name_of(function: Native[..., Any]) -> str:
    """What tells a function from others that one function has made."""
    names = [name for name, each in vars(verify).items() if each is function]
    return f"{function.__module__.rpartition('.')[2]}.{(names or [function.name])[0]}"


@pytest.mark.parametrize("function", FUNCTIONS, ids=name_of)
@settings(max_examples=examples(4, 40), deadline=None)
@given(data=st.data())
def test_python_and_machine_code_do_the_same(function: Native[..., Any], data: st.DataObject) -> None:
    stand_ins = STAND_INS.get(function, (function,))
    function = data.draw(st.sampled_from(stand_ins)) if len(stand_ins) > 1 else stand_ins[0]
    assert function in ARGUMENTS, f"there are no arguments here for {name_of(function)}"
    kind = data.draw(st.sampled_from(KINDS), "kind")
    # By the collector that does not look at the clock: the same steps make the same heap.
    made = Lined(PLAIN, data.draw(st.sampled_from(SIZES), "size"), data.draw(STEPS, "steps"))
    sides: list[EpochSide] = []
    try:
        compare(function, kind, data.draw, made, sides)
    finally:
        for side in sides:
            side.close()
        made.close()


def compare(function: Native[..., Any], kind: Any, draw: Draw, made: Lined, sides: list[EpochSide]) -> None:
    """Bring the heap to where the function may be called, copy it twice, and run the function on both copies."""
    is_damaged = function in LOOK_FOR_PROBLEMS and draw(st.booleans(), "is damaged")
    condition = GIVEN.get(function, Given("nothing"))
    if condition.is_needed or draw(st.booleans(), "is brought there"):
        condition.made(made)

    @functools.cache
    def prepared() -> EpochSide:
        live = [each for each in made.objects if not made.is_dead(each)]
        held = st.lists(st.sampled_from([NULL, 1, *live]), max_size=4)
        frames = Frames(draw(held, "held"), draw(held, "hosts"), is_known=draw(st.integers(0, 9)) > 0)
        frames_of.append(frames)
        side: EpochSide = kind.sides(made.heap, frames.context, notes_size=NOTES_SIZE, collector=kind.collector)
        sides.append(side)
        as_copied.append(bytes(made.heap.control))
        for each in condition.then:
            each(side.heap)
        if function is not look_at_blocks and "notes" in [each.name for each in function.checked.parameters]:
            note_objects(draw, side)
        return side

    frames_of: list[Frames] = []  # whose memory the sides refer to
    as_copied: list[bytes] = []
    arguments = ARGUMENTS[function](draw, made, prepared)
    if is_damaged:
        damage(draw, prepared())
    prepared()
    assert bytes(made.heap.control) == as_copied[0], "the store's heap is as it was when it was copied"
    start, step = draw(st.sampled_from([1000, 1 << 40])), draw(st.sampled_from([1, 900, 5000, 1 << 20]))
    python, machine = (
        kind.sides(prepared(), prepared().context, prepared().notes.raw, notes_size=NOTES_SIZE) for _ in range(2)
    )
    sides.extend((python, machine))
    assert machine.state() == python.state()
    assert machine.memory.base != python.memory.base
    given = iter(each(python) if callable(each) else each for each in arguments)
    values = [
        python.heap
        if isinstance(each.type, HeapType)
        else kind.rules()
        if isinstance(each.type, StaticType)
        else next(given)
        for each in function.checked.parameters
    ]
    Clock.cells[:] = [start, step]
    try:
        expected = function(*values)
    except (OutOfRange, HeapError):
        assume(not is_damaged)  # Python looks where it reaches; machine code's reach is within the reservation
        raise
    time = Clock.cells[0]
    Clock.cells[:] = [start, step]
    result = ctypes.c_uint64()
    words = [each(machine) if callable(each) else each for each in arguments]
    status = compiled(kind)[function](ctypes.addressof(machine.lh_heap), *words, ctypes.addressof(result))
    assert status == 0, message_of(machine.lh_heap)
    if not isinstance(function.checked.result, NoneType):
        assert (bool(result.value) if function.checked.result == BOOL else result.value) == expected
    assert Clock.cells[0] == time
    assert machine.lh_heap.problems == len(python.heap.problems)
    if python.heap.problems:
        assert message_of(machine.lh_heap) == python.heap.problems[0]
    assert machine.state() == python.state()


def damage(draw: Draw, side: EpochSide) -> None:
    """Change some words of the heap, of its side tables and states, and of the entries of its buffers.

    How many entries there are is looked at before any of these functions run.
    """
    heap, end = side.heap, side.control.bump
    places: list[Callable[[int], Any]] = [
        lambda number: heap.slot(LINE + number * REFERENCE_SIZE % max(REFERENCE_SIZE, end - LINE), 0),
        *(
            lambda number, table=table: heap.side(table, number * table.granule % max(1, end))
            for table in (LIVE, MARKS, UNLOGGED, ROOM, YOUNG)
        ),
        *(
            lambda number, buffer=buffer: heap.entry(buffer, number % max(1, heap.length(buffer).value))
            for buffer in (LOG, OLD_VALUES, DECREMENTS, HELD, DEAD)
        ),
    ]
    states = [
        (Space, "bump limit span medium medium_limit block"),
        (Epochs, "marking dying dying_left sweep_at sweep_left"),
    ]
    words = st.sampled_from([0, 1, 16, 48, 255, 254, 253, LINE, BLOCK, 0xFFFF_FFFF]) | ANY_U64
    for _ in range(draw(st.integers(1, 4), "changes")):
        if draw(st.integers(0, 3)):
            place = draw(st.sampled_from(places))(draw(ANY_U32))
            word, size = draw(words), 8 * ctypes.sizeof(place)
            value = place.value ^ 1 << word % size if draw(st.booleans()) else word
            place.value = value % (1 << size)
        else:
            kind, names = draw(st.sampled_from(states))
            setattr(heap.state(kind), draw(st.sampled_from(names.split())), draw(words) & 0xFFFF_FFFF)


def note_objects(draw: Draw, side: EpochSide) -> None:
    """Note what a walk does; at times, something else with some of the objects."""
    address = ctypes.addressof(side.notes)
    verify.verify_blocks(side.heap, address, True)
    side.heap.problems.clear()
    flags = [0, shared_verify.OBJECT, shared_verify.OWN, shared_verify.DEAD | shared_verify.OBJECT]
    if draw(st.booleans()):
        for index in draw(st.lists(st.sampled_from([LINE, *walking.blocks(side.heap)]), max_size=3)):
            ctypes.c_uint64.from_address(address + (index >> shared_verify.BYTES_PER_NOTE_SHIFT)).value = draw(
                st.sampled_from(flags)
            )


def test_arguments_are_of_functions_that_there_are() -> None:
    stand_ins = {each for several in STAND_INS.values() for each in several}
    assert {each for each in ARGUMENTS if each not in FUNCTIONS} == stand_ins
    assert set(STAND_INS) <= set(FUNCTIONS)
    assert set(GIVEN) <= set(ARGUMENTS)
