"""The conformance tests can fail: a fault put into lowheap is found by the comparison that should find it.

Each mutation changes lowheap in one place, in this process, and a short program whose moments wasmtime 43.0.0 has gone
through is replayed. The heap's own verification is off, so that what finds the fault is the other heap: a
Mismatch. Only barriers that do not count make lowheap stop by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.conformance_module import SOURCE
from support.conformance_run import COLLECT, Call, Mismatch, Program, Recording, check, engine, module, record

import lowheap.store
from lowheap import layout
from lowheap.collectors import host
from lowheap.collectors.drc import Drc
from lowheap.collectors.null import Null
from lowheap.collectors.shared import sizing
from lowheap.collectors.shared.first_fit import FirstFit
from lowheap.collectors.shared.frames import FrameRules
from lowheap.errors import LowheapError
from lowheap.heap import DrcHeap
from lowheap.layout import (
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    NULL,
    GcArrayLayout,
    GcStructLayout,
    GcTypeLayouts,
    VMDrcHeader,
    VMGcKind,
    VMHeapControl,
    align_up,
    block_length,
    is_object,
)
from lowheap.native import Heap
from lowheap.peers import Peer

pytestmark = pytest.mark.compiler

STEPS = (
    Call("new_base", (0, 1, 5)),
    Call("new_derived", (1, 0, 0, -7)),
    Call("new_refs_of", (2, 0, 1, 0)),
    Call("new_bytes", (3, 9, 5)),
    Call("new_longs", (4, -3, 3)),
    Call("new_extern", (0,), "a value"),
    Call("new_mixed", (5, 0, 0, 11)),
    COLLECT,
    Call("new_bytes", (3, 9, 50)),
    Call("clear", (4,)),
    COLLECT,
    Call("new_empty", (4,)),
    Call("hold", (1, 6, 1)),
    Call("write_link", (0, 2)),
    Call("write_link", (0, 3)),
    Call("clear", (2,)),
    COLLECT,
    Call("new_refs", (14, 0, 3)),
    Call("new_refs", (2, 0, 4)),
    Call("chain", (7, 8)),
    Call("read_link", (8, 7)),
    COLLECT,
    Call("clear", (7,)),
    COLLECT,
    Call("new_bytes", (9, 1, 90)),
    Call("new_bytes", (10, 1, 100)),
    Call("new_bytes", (11, 1, 5)),
    Call("new_bytes", (12, 1, 10)),
    Call("new_bytes", (13, 1, 5)),
    Call("clear", (10,)),
    Call("clear", (12,)),
    COLLECT,
    Call("new_bytes", (10, 1, 5)),
    Call("churn", (50, 3000)),
    COLLECT,
    Call("new_derived", (1, 0, 0, 8)),
)


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    """The steps in wasmtime, once for all mutations."""
    with Peer("43.0.0", "(module)") as peer:
        yield record(peer, Program(SOURCE, STEPS))


@pytest.fixture
def recompiled() -> Iterator[None]:
    """Nothing compiled before is used, and nothing compiled with the mutation is used afterwards."""
    engine.cache_clear()
    module.cache_clear()
    yield
    engine.cache_clear()
    module.cache_clear()


Mutate = Callable[[pytest.MonkeyPatch], None]
MUTATIONS: dict[str, Mutate] = {}
COMPILED: dict[str, Mutate] = {}
"""Those that change what is compiled."""


def mutation(function: Mutate) -> Mutate:
    MUTATIONS[function.__name__] = function
    return function


def compiled_mutation(function: Mutate) -> Mutate:
    COMPILED[function.__name__] = function
    return function


def after(patch: pytest.MonkeyPatch, owner: Any, name: str, then: Callable[..., None]) -> None:
    """Have a method do something more: `then(self, result, *arguments)`."""
    original = getattr(owner, name)

    def changed(self: Any, *arguments: Any, **more: Any) -> Any:
        result = original(self, *arguments, **more)
        then(self, result, *arguments)
        return result

    patch.setattr(owner, name, changed)


def header(heap: DrcHeap, reference: int) -> VMDrcHeader:
    return heap.memory.view(VMDrcHeader, reference)


# --- Counts, the list, the header's words


@mutation
def a_count_too_high(patch: pytest.MonkeyPatch) -> None:
    def then(heap: DrcHeap, reference: int, *_: Any) -> None:
        header(heap, reference).ref_count += 1

    after(patch, DrcHeap, "alloc_raw", then)


@mutation
def a_count_given_back_too_late(patch: pytest.MonkeyPatch) -> None:
    """The sweep takes objects off the list, and keeps its count of one."""

    def then(heap: DrcHeap, _: None) -> None:
        for found in list(heap.objects())[-1:]:
            header(heap, found.index).ref_count += 1

    after(patch, DrcHeap, "sweep", then)


@mutation
def a_dropped_list_link(patch: pytest.MonkeyPatch) -> None:
    def then(heap: Heap, _: None, reference: int) -> None:
        if is_object(reference):
            heap.header(reference).next_over_approximated_stack_root = NULL

    after(patch, host, "lend", then)


@mutation
def an_in_list_bit_lost(patch: pytest.MonkeyPatch) -> None:
    def then(heap: Heap, _: None, reference: int) -> None:
        if is_object(reference):
            heap.header(reference).kind_and_reserved &= ~HEADER_IN_OVER_APPROX_LIST_BIT

    after(patch, host, "lend", then)


@mutation
def a_mark_left(patch: pytest.MonkeyPatch) -> None:
    def then(heap: DrcHeap, _: None) -> None:
        for reference in heap.over_approximated_stack_roots():
            header(heap, reference).kind_and_reserved |= HEADER_MARK_BIT

    after(patch, DrcHeap, "sweep", then)


@mutation
def a_sweep_that_does_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DrcHeap, "sweep", DrcHeap.clear_marks)


@mutation
def a_size_rounded_up(patch: pytest.MonkeyPatch) -> None:
    def then(heap: DrcHeap, reference: int, *_: Any) -> None:
        header(heap, reference).object_size = align_up(header(heap, reference).object_size, 16)

    after(patch, DrcHeap, "alloc_raw", then)


@mutation
def a_wrong_kind(patch: pytest.MonkeyPatch) -> None:
    """An object of the empty struct type says that it is an exception."""

    def then(heap: DrcHeap, reference: int, kind: VMGcKind, type_index: int, size: int) -> None:
        if kind == VMGcKind.STRUCT_REF and size == layout.HEADER_SIZE:
            header(heap, reference).kind_and_reserved = VMGcKind.EXN_REF

    after(patch, DrcHeap, "alloc_raw", then)


@mutation
def a_wrong_type(patch: pytest.MonkeyPatch) -> None:
    """Some arrays of references say that they are of another type."""

    def then(heap: DrcHeap, reference: int, kind: VMGcKind, type_index: int, size: int) -> None:
        is_array = kind == VMGcKind.ARRAY_REF
        if is_array and heap.types.type_name(type_index) == "refs" and size == layout.ARRAY_HEADER_END + 16:
            (other,) = (index for index in heap.types if heap.types.type_name(index) == "bases")
            heap.register_type(other)
            header(heap, reference).type_index = other

    after(patch, DrcHeap, "alloc_raw", then)


@mutation
def an_array_one_too_long(patch: pytest.MonkeyPatch) -> None:
    def then(heap: DrcHeap, reference: int, _: int, length: int) -> None:
        if length == 5:
            heap.memory.view(layout.VMDrcArrayHeader, reference).length = 6

    after(patch, DrcHeap, "alloc_uninit_array", then)


# --- Where objects go


@mutation
def a_missed_merge(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FirstFit, "free", lambda self, index, size: self._add(index, block_length(size)))


@mutation
def a_missed_merge_with_the_block_before(patch: pytest.MonkeyPatch) -> None:
    def free(self: FirstFit, index: int, size: int) -> None:
        end = index + block_length(size)
        if end in self._lengths:
            end += self._lengths.pop(end)
        if end == self.control.bump:
            self.control.bump = index
        else:
            self._add(index, end - index)

    patch.setattr(FirstFit, "free", free)


def fitting(patch: pytest.MonkeyPatch, choose: Callable[[list[int], FirstFit], int]) -> None:
    def allocate(self: FirstFit, size: int) -> int | None:
        length = block_length(size)
        fits = [index for index, free in self._lengths.items() if free >= length]
        if fits:
            index = choose(fits, self)
            free = self._lengths.pop(index)
            if free > length:
                self._add(index + length, free - length)
            return index
        index = self.control.bump
        if index + length > self.control.bump_end:
            return None
        self.control.bump = index + length
        return index

    patch.setattr(FirstFit, "allocate", allocate)


@mutation
def last_fit(patch: pytest.MonkeyPatch) -> None:
    fitting(patch, lambda fits, _: fits[-1])


@mutation
def best_fit(patch: pytest.MonkeyPatch) -> None:
    fitting(patch, lambda fits, policy: min(fits, key=lambda index: policy._lengths[index]))


@mutation
def never_reused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FirstFit, "free", lambda self, index, size: FirstFit._add(self, index, block_length(size)))
    original = FirstFit.allocate

    def allocate(self: FirstFit, size: int) -> int | None:
        kept, self._cached_lengths = self._lengths.copy(), type(self._lengths)()
        try:
            return original(self, size)
        finally:
            self._cached_lengths = kept

    patch.setattr(FirstFit, "allocate", allocate)


def growing(patch: pytest.MonkeyPatch, grow: Callable[[VMHeapControl, int], int]) -> None:
    """Have stores grow to another capacity: what `grow` makes of the control block and the bytes that are needed."""
    original: Any = lowheap.store.allocate_block_growing_first

    def allocate(heap: Heap, rules: FrameRules, length: int) -> int:
        def grown(bytes_needed: int) -> bool:
            control = heap.control
            control.capacity = grow(control, bytes_needed)
            control.bump_end = control.capacity & -layout.BLOCK_ALIGN
            control.growths += 1
            return True

        heap.replacements[sizing.grow_by_all] = grown
        found: int = original(heap, rules, length)
        return found

    patch.setattr(lowheap.store, "allocate_block_growing_first", allocate)


@mutation
def growth_by_another_page_size(patch: pytest.MonkeyPatch) -> None:
    growing(patch, lambda control, needed: align_up(max(2 * control.capacity, control.capacity + needed), 1 << 12))


@mutation
def growth_by_what_is_needed_only(patch: pytest.MonkeyPatch) -> None:
    growing(patch, lambda control, needed: control.capacity + align_up(needed, sizing.GROWTH_GRANULE))


# --- Layouts of types


def fields_layout(place: Callable[[int, int], int], end: Callable[[int, int], int], start_at: int = 0) -> Any:
    """A `GcTypeLayouts._fields_layout` with rules of one's own for a field's offset and for the size."""

    def layout_of(fields: Any, start: int, *, is_exception: bool = False, is_hidden: bool = False) -> GcStructLayout:
        offset, align, places = start + start_at, layout.HEADER_ALIGN, []
        for size, is_traced in fields:
            offset = place(offset, size)
            places.append(layout.FieldLayout(offset, size, is_traced))
            offset += size
            align = max(align, size)
        return GcStructLayout(end(offset, align), align, tuple(places), is_exception, is_hidden)

    return staticmethod(layout_of)


@compiled_mutation
def a_wrong_offset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GcTypeLayouts, "_fields_layout", fields_layout(align_up, align_up, start_at=8))


@compiled_mutation
def a_wrong_alignment_of_fields(patch: pytest.MonkeyPatch) -> None:
    """Eight bytes are aligned to four."""
    patch.setattr(
        GcTypeLayouts, "_fields_layout", fields_layout(lambda offset, size: align_up(offset, min(4, size)), align_up)
    )


@compiled_mutation
def a_size_that_is_not_aligned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GcTypeLayouts, "_fields_layout", fields_layout(align_up, lambda offset, align: offset))


@compiled_mutation
def elements_at_a_wrong_offset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        GcTypeLayouts,
        "array_layout",
        lambda self, element, *, is_hidden=False: GcArrayLayout(32, element[0], max(8, element[0]), element[1]),
    )


# --- Barriers in compiled code


@compiled_mutation
def reads_without_a_barrier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Drc, "read", Null.read)


@compiled_mutation
def writes_without_a_barrier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Drc, "write", Null.write)


@compiled_mutation
def first_writes_without_a_barrier(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Drc, "init", Null.init)


# ----------------------------------------------------------------------------------------------------------------------


def test_without_a_mutation_nothing_is_found(recording: Recording) -> None:
    check(recording)
    check(recording, verifies=False)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_of_the_heap_is_caught(recording: Recording, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(recording, verifies=False)  # everything is compiled
    with monkeypatch.context() as patch:
        MUTATIONS[name](patch)
        with pytest.raises(Mismatch):
            check(recording, verifies=False)
    check(recording)


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.usefixtures("recompiled")
def test_a_fault_of_compiled_code_is_caught(recording: Recording, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        COMPILED[name](patch)
        with pytest.raises((Mismatch, LowheapError) if name.endswith("without_a_barrier") else Mismatch):
            check(recording, verifies=False)
