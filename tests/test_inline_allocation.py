"""Allocation's inline fast path, in compiled modules on the native runtime: headers, counters, bounds, hand-over.

The heap in Python, which allocates without any of it, is the other opinion; `verify` walks every block.
"""

from __future__ import annotations

import functools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples, pairwise

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.layout import (
    ARRAY_HEADER_END,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    SMALL_BLOCK_LIMIT,
    VMGcKind,
    align_up,
    block_length,
)
from lowheap.native import Heap, Ref, native, state, u64

ELEMENTS = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "f32": 4, "f64": 8, "(ref null $node)": 4}
"""The elements of arrays, and their sizes in bytes."""

MODULE = """
(module
  (type $node (struct (field $value i64) (field $next (ref null $node))))
  (type $array (array (mut ELEMENT)))
  (global $array (mut (ref null $array)) (ref.null $array))
  (global $node (mut (ref null $node)) (ref.null $node))

  ;; `count` arrays, each in place of the one before, and a chain of as many nodes.
  (func (export "fill") (param $length i32) (param $count i32)
    (loop $again
      (if (i32.eqz (local.get $count)) (then (return)))
      (global.set $array (array.new_default $array (local.get $length)))
      (global.set $node (struct.new $node (i64.const 7) (global.get $node)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $again)))
  (func (export "array") (result (ref null $array)) (global.get $array))
  (func (export "fixed") (result i32) (array.len (array.new_fixed $array 3 (ZERO) (ZERO) (ZERO))))
  (func (export "forget")
    (global.set $array (ref.null $array))
    (global.set $node (ref.null $node))))
"""

Figures = tuple[int, ...]


def source_of(element: str) -> str:
    operand = (
        "ref.null $node" if element.startswith("(") else f"{'i32' if element in ('i8', 'i16') else element}.const 0"
    )
    return MODULE.replace("ELEMENT", element).replace("ZERO", operand)


@functools.cache
def module(runtime: str, element: str, barriers: str = "drc") -> lh.Module:
    return lh.Module(lh.Engine(runtime=runtime, barriers=barriers), source_of(element))


def array_size(element: str, length: int) -> int:
    """An array's size in bytes."""
    width = ELEMENTS[element]
    return align_up(ARRAY_HEADER_END, width) + length * width


def longest_small(element: str) -> int:
    """The greatest length of an array whose block has a size class of its own."""
    lengths = range(SMALL_BLOCK_LIMIT)
    return max(length for length in lengths if block_length(array_size(element, length)) < SMALL_BLOCK_LIMIT)


def figures_after(runtime: str, element: str, length: int, barriers: str = "drc") -> Figures:
    """Allocate when the size classes are empty, and when they hold blocks of the size, or somewhat larger ones.

    Returns what the counters say at the end.
    """
    compiled = module(runtime, element, barriers)
    with lh.Store(compiled.engine) as store:
        exports = lh.Instance(store, compiled).exports
        for longer in (0, 40, 0):
            exports["fill"](length + longer, 5)
            store.verify()
            exports["forget"]()
            store.collect()
            store.verify()
        exports["fill"](length, 3)
        array = exports["array"]()
        header = store.heap.header(array.reference)
        assert (header.kind_and_reserved & ~HEADER_IN_OVER_APPROX_LIST_BIT) == VMGcKind.ARRAY_REF
        assert header.object_size == array_size(element, length)
        assert len(array) == length
        assert not any(array)
        assert exports["fixed"]() == 3
        store.verify()
        stats = store.heap.stats()
        return stats.objects_allocated, stats.bytes_allocated, stats.objects_freed, stats.bytes_freed, stats.listed


@pytest.mark.parametrize("element", ELEMENTS)
def test_arrays_about_the_longest_small_one_are_what_python_makes_of_them(element: str) -> None:
    most = longest_small(element)
    for length in (most, most + 1, 0, 1, most - 1)[: examples(3, 5)]:
        assert figures_after("native", element, length) == figures_after("python", element, length), length


@settings(max_examples=examples(10, 25), deadline=None)
@given(element=st.sampled_from(sorted(ELEMENTS)), length=st.integers(0, 1100))
def test_arrays_of_any_length_too(element: str, length: int) -> None:
    assert figures_after("native", element, length) == figures_after("python", element, length)


@state
class HandOvers:
    allocations: u64
    sizes: u64


class CountedAllocations(Drc):
    """Counts the hand-overs of new objects, whose headers must be there."""

    states = (HandOvers,)
    counters = ("allocations", "sizes")

    @native
    def allocated(heap: Heap, reference: Ref) -> None:
        heap.state(HandOvers).allocations += 1
        heap.state(HandOvers).sizes += u64(heap.header(reference).object_size)
        Drc.allocated(heap, reference)


@pytest.mark.parametrize(("element", "length", "inline"), pairwise(["i8", "i64"], [3, 2000], ["always", "never"]))
def test_a_hand_over_of_ones_own_runs_once_for_each_object(element: str, length: int, inline: str) -> None:
    counters = []
    for runtime in ("native", "python"):
        with lh.Store(lh.Engine(collector=CountedAllocations, runtime=runtime, inline=inline)) as store:
            instance = lh.Instance(store, lh.Module(store.engine, source_of(element)))
            instance.exports["fill"](length, 9)
            store.verify()
            counters.append(store.stats().counters)
            assert counters[-1]["allocations"] == store.stats().objects_allocated == 18
    assert counters[0] == counters[1]


def test_a_hand_over_out_of_line_finds_the_header_in_memory() -> None:
    for length in (0, 5, 2000):
        assert figures_after("native", "i32", length, "outlined") == figures_after("native", "i32", length)


def test_the_first_word_of_a_header_is_written_once() -> None:
    """With `null` the kind alone is stored; with `drc` the same store has the in-list bit, and there is no other."""
    stored = {}
    for barriers in ("null", "drc"):
        text = module("native", "i32", barriers).compiled.llvm_ir
        stored[barriers] = {int(word) & 0xFFFF_FFFF for word in re.findall(r"store i32 (-\d{9,}),", text)}
    kinds = {int(VMGcKind.STRUCT_REF), int(VMGcKind.ARRAY_REF)}
    assert stored["null"] == kinds
    assert stored["drc"] == {kind | HEADER_IN_OVER_APPROX_LIST_BIT for kind in kinds}
