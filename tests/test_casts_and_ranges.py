"""Casts and ranges, the functions that compiled code, C and Python share: by Python, compiled, and by the registry.

What a test for a type answers is compared with the engine's type registry, for every object, every type and everything
that the static type may leave out. The order of a copy is tried on a list.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.native_sides import Compiled, sum_of_copied, sum_of_filled

import lowheap as lh
from lowheap.collectors.shared import casts, ranges
from lowheap.collectors.shared.casts import TypeTest
from lowheap.jit.translate import show
from lowheap.layout import I31_TAG, NULL, VMContext, VMHeapType
from lowheap.native import Heap, Ref, native, u32, u64
from lowheap.runtime.store_runtime import runtime_of
from lowheap.types import AbstractHeapType, HeapType, RefType
from lowheap.wasm.events import type_test

MODULE = """(module
  (type $base (sub (struct (field $v (mut i32)))))
  (type $middle (sub $base (struct (field (mut i32)) (field i32))))
  (type $leaf (sub final $middle (struct (field (mut i32)) (field i32) (field i64))))
  (type $other (sub $base (struct (field (mut i32)) (field f64))))
  (type $numbers (array (mut i32)))
  (type $f (sub (func (result i32))))
  (type $g (sub $f (func (result i32))))
  (func (export "f") (type $f) (i32.const 0))
  (func (export "g") (type $g) (i32.const 0)))"""
OBJECT_TYPES = range(5)  # the others are the functions'
ABSTRACT = {
    AbstractHeapType.ANY: VMHeapType.ANY,
    AbstractHeapType.EQ: VMHeapType.EQ,
    AbstractHeapType.STRUCT: VMHeapType.STRUCT,
    AbstractHeapType.ARRAY: VMHeapType.ARRAY,
}
A = AbstractHeapType


class World:
    """A store with an object of each type, an externref, and two functions."""

    def __init__(self) -> None:
        self.store = lh.Store()
        module = lh.Module(self.store.engine, MODULE)
        self.exports: Any = lh.Instance(self.store, module).exports
        self.registry = self.store.engine.types
        self.types = list(module.type_indices)
        self.handles: list[lh.GcObject] = [lh.Struct(self.store, self.types[number]) for number in range(4)]
        self.handles += [lh.Array(self.store, self.types[4], 3), lh.ExternRef(self.store, "mine")]
        context, heap = runtime_of(self.store).context, self.store.heap
        self.heap = Heap(heap.memory, heap.control, store_context=context)
        self.context = VMContext(heap.memory.base, ctypes.addressof(heap.control), ctypes.addressof(context), 0)
        self.vmctx = ctypes.addressof(self.context)
        self.objects: list[tuple[int, HeapType]] = [
            (each.reference, each.type_index if isinstance(each, lh.Struct | lh.Array) else A.ANY)
            for each in self.handles
        ]
        self.functions = [(self.exports[name].funcref, self.exports[name].type_index) for name in ("f", "g")]


@functools.cache
def world() -> World:
    return World()


@native
def instance(heap: Heap, reference: Ref, wanted: u32, test: TypeTest) -> bool:
    return casts.is_instance(heap, reference, wanted, test)


@functools.cache
def compiled_test(test: TypeTest) -> Compiled:
    return Compiled([instance], statics={"test": test})


def check(source: RefType, target: RefType, reference: int, expected: bool) -> None:
    """What a test of a static type for another says, by Python and by machine code."""
    w = world()
    test = type_test(w.registry, source, target)
    wanted = target.heap_type if isinstance(target.heap_type, int) else 0
    assert instance(w.heap, reference, wanted, test) == expected
    assert compiled_test(test)[instance](w.vmctx, reference, wanted) == expected


def test_objects_pass_for_what_the_registry_says() -> None:
    w = world()
    wanted: list[HeapType] = [A.EQ, A.STRUCT, A.ARRAY, A.I31, *(w.types[number] for number in OBJECT_TYPES)]
    sources: list[HeapType] = [A.ANY, A.EQ, A.STRUCT, A.ARRAY, *(w.types[number] for number in OBJECT_TYPES)]
    passed = 0
    for source, target in itertools.product(sources, wanted):
        if source == target or not w.registry.is_subtype(target, source):
            continue
        for reference, type_index in w.objects:
            if w.registry.is_subtype(type_index, source):
                expected = w.registry.is_subtype(type_index, target)
                check(RefType(False, source), RefType(False, target), reference, expected)
                passed += expected
    assert passed > 20


@pytest.mark.parametrize("null_passes", [False, True])
def test_null_and_i31_pass_where_they_belong(null_passes: bool) -> None:
    w = world()
    for target in (A.EQ, A.STRUCT, A.ARRAY, A.I31, w.types[0], w.types[2]):
        check(RefType(True, A.ANY), RefType(null_passes, target), NULL, null_passes)
        is_i31 = target in (A.EQ, A.I31)
        check(RefType(True, A.ANY), RefType(null_passes, target), 2 * 5 + I31_TAG, is_i31)
        if target is not A.EQ:
            check(RefType(False, A.EQ), RefType(null_passes, target), I31_TAG, is_i31)
    check(RefType(True, w.types[5]), RefType(null_passes, w.types[6]), NULL, null_passes)


def test_functions_pass_by_their_type() -> None:
    w = world()
    for (funcref, type_index), wanted in itertools.product(w.functions, w.types[5:7]):
        check(RefType(True, A.FUNC), RefType(False, wanted), funcref, w.registry.is_subtype(type_index, wanted))


def test_a_final_type_is_one_comparison() -> None:
    w = world()
    test = type_test(w.registry, RefType(False, w.types[0]), RefType(False, w.types[2]))
    text = show(instance, statics={"test": test}).optimised
    assert text.count(" icmp ") == 1
    assert " br " not in text
    assert len([line for line in text.splitlines() if " load i32" in line]) == 1


def test_what_is_known_is_not_looked_at() -> None:
    """Not whether an object is an externref, and not how deep the wanted type is."""
    w = world()

    def comparisons(source: HeapType) -> int:
        test = type_test(w.registry, RefType(False, source), RefType(False, w.types[1]))
        return show(instance, statics={"test": test}).optimised.count(" icmp ")

    assert comparisons(w.types[0]) == 3  # the type itself, the depth, the display
    assert comparisons(A.EQ) == 4  # an i31
    assert comparisons(A.ANY) == 5  # an externref


@native
def subtype(heap: Heap, type_index: u32, supertype: u32) -> bool:
    return casts.is_subtype(heap, type_index, supertype)


@native
def matching(heap: Heap, reference: Ref, heap_type: u32) -> bool:
    return casts.matches(heap, reference, heap_type)


def test_types_that_are_given_as_numbers() -> None:
    w = world()
    code = Compiled([subtype, matching])
    for a, b in itertools.product(w.types[:5], w.types[:5]):
        expected = w.registry.is_subtype(a, b)
        assert subtype(w.heap, a, b) == code[subtype](w.vmctx, a, b) == expected
    for (reference, type_index), wanted in itertools.product(w.objects, [*ABSTRACT, *w.types[:5]]):
        number = ABSTRACT[wanted] if isinstance(wanted, A) else wanted
        expected = w.registry.is_subtype(type_index, wanted)
        assert matching(w.heap, reference, number) == code[matching](w.vmctx, reference, number) == expected


# ----------------------------------------------------------------------------------------------------------------------
# Ranges


@native
def element(heap: Heap, array: Ref, index: u32) -> bool:
    return ranges.has_element(heap, array, index)


@native
def part(heap: Heap, array: Ref, start: u32, count: u32) -> bool:
    return ranges.has_range(heap, array, start, count)


U32 = st.integers(0, 4) | st.sampled_from([0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFD, 0xFFFF_FFFF])


@functools.cache
def compiled_ranges() -> Compiled:
    return Compiled([element, part, sum_of_filled, sum_of_copied, moved])


@given(U32, U32)
def test_bounds(start: int, count: int) -> None:
    w, code = world(), compiled_ranges()
    array = w.handles[4].reference
    assert element(w.heap, array, start) == code[element](w.vmctx, array, start) == (start < 3)
    expected = start + count <= 3
    assert part(w.heap, array, start, count) == code[part](w.vmctx, array, start, count) == expected


SMALL = st.integers(0, 9)


@given(SMALL, SMALL, SMALL)
def test_a_copy_reads_what_was_there_before(target: int, source: int, count: int) -> None:
    values = list(range(20))
    expected = values.copy()
    expected[target : target + count] = values[source : source + count]
    for number in ranges.copied(target, source, count):  # type: ignore[misc]  # Python's form is a generator
        values[target + number] = values[source + number]
    assert values == expected
    code = compiled_ranges()
    assert code[sum_of_copied](0, target, source, count) == sum_of_copied(target, source, count)
    assert list(ranges.filled(count)) == list(range(count))
    assert code[sum_of_filled](0, count) == sum_of_filled(count)


@native
def moved(base: u64, target: u32, source: u32, count: u32) -> None:
    ranges.move(base + u64(target) * 2, base + u64(source) * 2, count, 2)


@given(SMALL, SMALL, SMALL)
def test_numbers_move_as_references_are_copied(target: int, source: int, count: int) -> None:
    kind = ctypes.c_uint16 * 20
    python, machine = kind(*range(20)), kind(*range(20))
    expected = list(range(20))
    expected[target : target + count] = expected[source : source + count]
    moved(ctypes.addressof(python), target, source, count)
    compiled_ranges()[moved](0, ctypes.addressof(machine), target, source, count)
    assert list(python) == list(machine) == expected
