"""Heaps that the C interface makes, without a store: sizes and limits, callbacks, scopes, finalizers, and their end."""

from __future__ import annotations

import ctypes
import itertools
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embed_heaps import ANY_FIELD, EXTERN_FIELD, I32_FIELD, SELF_FIELD, CHeap, FailureError, functions
from support.embed_reports import text_of

from lowheap.embed import Status, abi_hash, ffi, lifecycle
from lowheap.embed.api import collector_number
from lowheap.embed.calls import enter, leave
from lowheap.errors import LowheapError, status_error
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    CONTROL_MAPPING_SIZE,
    EXTERNREF_TYPE_INDEX,
    FIELD_MUTABLE,
    FIRST_INDEX,
    HEADER_ALIGN,
    HEADER_SIZE,
    HEAP_RESERVATION,
    HOST_DATA_LIMIT,
    NULL,
    CollectionPhase,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcKind,
    VMHeap,
    VMHeapConfiguration,
    VMHeapControl,
    VMStorage,
    align_up,
    block_length,
    i31_from_int,
)
from lowheap.native import Heap
from lowheap.snapshot.reopened import ImageMemory
from lowheap.store import DEFAULT_INITIAL_HEAP_SIZE

NULLP = ffi().NULL
BYTES: tuple[int, int, int] = (VMStorage.I8, FIELD_MUTABLE, 0)
KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
CELL_BLOCK = block_length(HEADER_SIZE + 8)
"""What a struct of one field takes, in bytes."""


def named(name: bytes) -> Any:
    """A name as C has it, which lives as long as somebody has this."""
    return ffi().new("char[]", name)


BOTH = pytest.mark.parametrize("checked", [True, False], ids=["checked", "fast"])


def heap_of(checked: bool, **options: Any) -> CHeap:
    return CHeap(checked=checked, **options)


# ----------------------------------------------------------------------------------------------------------------------
# Making one


@BOTH
def test_with_nothing_but_defaults(checked: bool) -> None:
    place = ffi().new("lh_heap **")
    calls = functions(checked)
    assert calls["lh_heap_create"](NULLP, place) == Status.BAD_ARGUMENT
    assert calls["lh_heap_create"](ffi().new("lh_config *"), place) == Status.ABI
    assert place[0] == NULLP
    assert calls["lh_heap_create"](ffi().new("lh_config *", {"abi": abi_hash()}), place) == Status.OK
    result: Any = ffi().new("lh_statistics *")
    assert calls["lh_heap_statistics"](place[0], result) == Status.OK
    assert (result.capacity, result.maximum) == (DEFAULT_INITIAL_HEAP_SIZE, HEAP_RESERVATION - BLOCK_ALIGN)
    assert result.objects_allocated == result.live_bytes == 0
    assert calls["lh_heap_destroy"](place[0]) == Status.OK


@BOTH
@pytest.mark.parametrize(
    ("options", "capacity", "maximum"),
    [
        ({"initial": 100}, 100, HEAP_RESERVATION - BLOCK_ALIGN),
        ({"initial": 1 << 16, "maximum": 1 << 20}, 1 << 16, 1 << 20),
        ({"maximum": 5000}, 5000, 5000),
        ({"reserve": 1}, (1 << 16) - BLOCK_ALIGN, (1 << 16) - BLOCK_ALIGN),
        ({"reserve": 3 << 20, "initial": 0}, DEFAULT_INITIAL_HEAP_SIZE, (3 << 20) - BLOCK_ALIGN),
        ({"reserve": HEAP_RESERVATION, "maximum": 16}, 16, 16),
    ],
)
def test_sizes(checked: bool, options: dict[str, int], capacity: int, maximum: int) -> None:
    with heap_of(checked, **options) as heap:
        figures = heap.statistics()
        assert (figures["capacity"], figures["maximum"]) == (capacity, maximum)
        heap.call("lh_no_gc_enter")  # whatever is allocated stays
        type_index, enough = heap.define_array(BYTES), 400
        made: list[int] = []
        size = ARRAY_HEADER_END + 4000
        expected = min(enough, (maximum - BLOCK_ALIGN) // block_length(size))
        made += [heap.call("lh_alloc_array", type_index, 4000) for _ in range(expected)]
        assert all(reference + size <= maximum for reference in made)
        if expected < enough:
            with pytest.raises(FailureError) as raised:
                heap.call("lh_alloc_array", type_index, 4000)
            assert raised.value.status == Status.OUT_OF_MEMORY
        assert capacity <= heap.statistics()["capacity"] <= maximum
        heap.call("lh_verify")


@BOTH
@settings(max_examples=60, deadline=None)
@given(data=st.data(), maximum=st.integers(1, 200) | st.integers((1 << 16) - 20, (1 << 16) + 20))
def test_no_heap_goes_beyond_its_maximum(checked: bool, data: st.DataObject, maximum: int) -> None:
    """A program gets just the objects that there is room for, whatever the sizes are."""
    options = {"initial": data.draw(st.integers(0, maximum)), "reserve": data.draw(st.sampled_from([0, maximum + 16]))}
    room = max(0, (maximum & -BLOCK_ALIGN) - FIRST_INDEX) // CELL_BLOCK
    with heap_of(checked, maximum=maximum, **options) as heap:
        type_index = heap.define_struct((VMStorage.I64, FIELD_MUTABLE, 0))
        heap.call("lh_no_gc_enter")  # whatever is allocated stays
        for _ in range(room):
            assert heap.call("lh_alloc_struct", type_index) + CELL_BLOCK <= maximum
        for _ in range(2):
            with pytest.raises(FailureError) as raised:
                heap.call("lh_alloc_struct", type_index)
            assert raised.value.status == Status.OUT_OF_MEMORY
        assert heap.statistics()["capacity"] <= maximum
        heap.call("lh_verify")


@BOTH
@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"reserve": HEAP_RESERVATION + 1}, Status.BAD_ARGUMENT, "more is to be reserved than the 4294967296 bytes"),
        ({"reserve": 1 << 16, "maximum": 1 << 16}, Status.BAD_ARGUMENT, "the maximum is more than what is reserved"),
        ({"maximum": HEAP_RESERVATION}, Status.BAD_ARGUMENT, "the maximum is more than what is reserved"),
        ({"initial": 2, "maximum": 1}, Status.BAD_ARGUMENT, "the initial size is more than the maximum"),
        ({"abi": abi_hash() ^ 1}, Status.ABI, None),
        ({"abi": 0}, Status.ABI, None),
        ({"collector": named(b"rc-immix")}, Status.BAD_ARGUMENT, 'there is no collector "rc-immix"; the'),
        ({"collector": named(b"")}, Status.BAD_ARGUMENT, 'there is no collector ""; the library has drc'),
        ({"collector": named(b"dr")}, Status.BAD_ARGUMENT, 'there is no collector "dr"; the'),
        ({"collector": named(b"%s%n" * 40)}, Status.BAD_ARGUMENT, f'there is no collector "{"%s%n" * 20}"; the'),
    ],
)
def test_configurations_that_are_refused(
    checked: bool, options: dict[str, Any], status: Status, message: str | None
) -> None:
    said: list[tuple[int, str]] = []

    @ffi().callback("lh_on_error")
    def on_error(argument: Any, reported: int, text: Any) -> None:
        assert argument == ffi().cast("void *", 9)
        said.append((reported, text_of(text)))

    before = reserved()
    with pytest.raises(FailureError) as raised:
        heap_of(checked, on_error=on_error, on_error_argument=ffi().cast("void *", 9), **options)
    assert raised.value.status == status
    assert reserved() < before + CONTROL_MAPPING_SIZE  # nothing is left; Python may have mapped an arena meanwhile
    if message is None:  # nothing in a configuration of another layout is believed
        assert said == []
    else:
        assert [reported for reported, _ in said] == [status]
        assert said[0][1].startswith(f"lh_heap_create: {message}")


SIZES = st.sampled_from(
    [0, 1, 15, 16, 65_520, 1 << 16, 1 << 20, HEAP_RESERVATION - 16, HEAP_RESERVATION, 2**64 - 1]
) | (st.integers(0, HEAP_RESERVATION))


@BOTH
@settings(max_examples=100, deadline=None)
@given(
    options=st.fixed_dictionaries(
        {}, optional={"reserve": SIZES, "initial": SIZES, "maximum": SIZES, "collect_every": st.sampled_from([0, 1])}
    ),
    has_abi=st.integers(0, 9).map(bool),
    has_place=st.integers(0, 9).map(bool),
)
def test_python_settles_what_c_does(checked: bool, options: dict[str, int], has_abi: bool, has_place: bool) -> None:
    """The sizes of a heap, and what it is refused for, by the function as it stands and as it was compiled."""
    said: list[str] = []

    @ffi().callback("lh_on_error")
    def on_error(argument: Any, reported: int, text: Any) -> None:
        said.append(text_of(text))

    given = options | {"abi": abi_hash() if has_abi else 1}
    config, place = ffi().new("lh_config *", {"on_error": on_error, **given}), ffi().new("lh_heap **")
    calls = functions(checked)
    status = calls["lh_heap_create"](config, place if has_place else NULLP)
    refused: LowheapError | None = None
    try:
        _, initial, maximum = lifecycle.settle(VMHeapConfiguration(**given), int(has_place), checked, abi_hash())
    except LowheapError as error:
        refused = error
    if refused is not None:
        assert type(refused) is type(status_error(status, ""))
        assert said == ([f"lh_heap_create: {refused}"] if has_abi else [])
        return
    assert (status, said) == (Status.OK, [])
    control = VMHeapControl.from_address(place[0].control)
    assert (control.capacity, control.maximum) == (initial, maximum)
    assert calls["lh_heap_destroy"](place[0]) == Status.OK


class Entered(Heap):
    """A heap of C's, on which Python runs what calls begin and end with."""

    def __init__(self, heap: CHeap) -> None:
        super().__init__(ImageMemory(b""), heap.control)
        self._interface = VMHeap.from_address(int(ffi().cast("uintptr_t", heap.heap)))

    @property
    def interface(self) -> VMHeap:
        return self._interface


@settings(max_examples=60, deadline=None)
@given(
    has_abi=st.booleans(),
    is_of_collector=st.booleans(),
    phase=st.sampled_from(CollectionPhase),
    is_busy=st.integers(0, 2),
    name=st.sampled_from(["lh_no_gc_enter", "lh_verify"]),
)
def test_calls_begin_in_python_as_in_c(
    has_abi: bool, is_of_collector: bool, phase: CollectionPhase, is_busy: int, name: str
) -> None:
    drc = collector_number("drc")
    with heap_of(True) as made:
        python = Entered(made)
        interface = python.interface
        interface.abi, interface.is_busy, made.control.phase = abi_hash() - (not has_abi), is_busy, phase
        interface.collector = drc ^ (not is_of_collector)
        status = made.functions[name](made.heap)
        assert (status == Status.ABI) == (not has_abi or not is_of_collector)
        assert interface.is_busy == is_busy
        assert enter(python, drc, name == "lh_verify") == status
        assert interface.is_busy == (1 if status == Status.OK else is_busy)
        if status == Status.OK:
            leave(python)
            assert interface.is_busy == 0
        interface.abi, interface.is_busy, made.control.phase = abi_hash(), 0, CollectionPhase.IDLE
        interface.collector = drc


@BOTH
def test_no_place_for_the_heap(checked: bool) -> None:
    assert functions(checked)["lh_heap_create"](NULLP, NULLP) == Status.BAD_ARGUMENT


@BOTH
def test_collect_every_is_for_the_checked_form(checked: bool) -> None:
    if not checked:
        with pytest.raises(FailureError) as raised:
            heap_of(checked, collect_every=1)
        assert raised.value.status == Status.UNSUPPORTED
        return
    with heap_of(checked, collect_every=2) as heap:
        type_index = heap.define_struct(I32_FIELD)
        live = []
        for _ in range(6):
            heap.call("lh_alloc_struct", type_index)
            live.append(len(heap.objects()))
        assert live == [1, 1, 2, 1, 2, 1]  # the second, fourth and sixth begin with a collection
        heap.call("lh_no_gc_enter")
        for _ in range(4):
            heap.call("lh_alloc_struct", type_index)
        heap.call("lh_no_gc_exit")
        assert len(heap.objects()) == 5


def reserved() -> int:
    """The bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def mappings() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


@BOTH
def test_the_system_refuses_memory(checked: bool) -> None:
    """Room for the control block's tables, but not for the heap; and for neither."""
    used = reserved()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = reserved()
    for room in (64 * MEBIBYTE, *[CONTROL_MAPPING_SIZE + 64 * MEBIBYTE] * 3):
        resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
        try:
            with pytest.raises(FailureError) as raised:
                heap_of(checked)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert raised.value.status == Status.SYSTEM
    assert reserved() < before + CONTROL_MAPPING_SIZE  # not one control block is left of three


@BOTH
def test_many_heaps_leave_nothing_mapped(checked: bool) -> None:
    def live_and_die() -> None:
        heaps = [heap_of(checked) for _ in range(8)]
        for heap in heaps:
            type_index = heap.define_struct(SELF_FIELD)
            for _ in range(50):
                heap.call("lh_alloc_struct", type_index)
        for heap in heaps:
            heap.destroy()

    live_and_die()
    before = len(mappings()), reserved()
    for _ in range(20):
        live_and_die()
    after = len(mappings()), reserved()
    assert after[0] <= before[0] + 3  # Python's own allocator may have mapped an arena
    assert after[1] < before[1] + HEAP_RESERVATION  # not one heap of 160


# ----------------------------------------------------------------------------------------------------------------------
# Objects


@BOTH
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    again=st.booleans(),
)
def test_new_objects_are_zero_and_their_headers_right(
    checked: bool, sizes: list[int], lengths: list[int], again: bool
) -> None:
    """Also where other objects were, whose bytes were all ones; by the fast way, and the slow one."""
    with heap_of(checked, initial=1 << 16) as heap:
        structs = {size: heap.define_struct(*[(VMStorage.I16, FIELD_MUTABLE, 0)] * size) for size in set(sizes)}
        elements = (VMStorage.I8, VMStorage.I16, VMStorage.I32, VMStorage.I64, VMStorage.V128)
        arrays = [(heap.define_array((storage, FIELD_MUTABLE, 0)), storage) for storage in elements]
        width = {VMStorage.I8: 1, VMStorage.I16: 2, VMStorage.I32: 4, VMStorage.I64: 8, VMStorage.V128: 16}
        base = heap.heap.heap_base
        for _ in range(1 + again):
            expected = []
            for number, size in enumerate(sizes):
                type_index = structs[size]
                reference = heap.call("lh_alloc_struct", type_index)
                expected.append(
                    (reference, VMGcKind.STRUCT_REF, type_index, align_up(HEADER_SIZE + 2 * size, HEADER_ALIGN), 0)
                )
                array_type, storage = arrays[number % len(arrays)]
                length = lengths[number % len(lengths)]
                reference = heap.call("lh_alloc_array", array_type, length)
                start = align_up(ARRAY_HEADER_END, width[storage])
                expected.append((reference, VMGcKind.ARRAY_REF, array_type, start + width[storage] * length, length))
                assert ctypes.c_uint32.from_address(base + reference + VMDrcArrayHeader.length.offset).value == length
            for reference, kind, type_index, size, _ in expected:
                body = ARRAY_HEADER_END if kind is VMGcKind.ARRAY_REF else HEADER_SIZE
                content = ctypes.string_at(base + reference + body, size - body)
                assert content == bytes(size - body)
                ctypes.memset(base + reference + body, 0xFF, size - body)
                header = VMDrcHeader.from_address(base + reference)
                assert (header.type_index, header.ref_count, header.object_size) == (type_index, 1, size)
            met = [(o["reference"], o["kind"], o["type_index"], o["size"], o["length"]) for o in heap.objects()]
            assert met == sorted(expected)
            figures = heap.statistics()
            assert figures["live_objects"] == figures["listed"] == len(expected)
            assert figures["live_bytes"] == sum((size + 15) // 16 * 16 for *_, size, _ in expected)
            heap.call("lh_collect")
            heap.call("lh_verify")
            assert heap.objects() == []


@BOTH
def test_a_long_chain_and_a_wide_array_die_at_once(checked: bool) -> None:
    with heap_of(checked) as heap:
        cell, many = heap.define_struct(I32_FIELD, SELF_FIELD), heap.define_array(ANY_FIELD)
        slot = ffi().new("lh_ref *")
        heap.call("lh_slot_register", slot)
        array = heap.call("lh_alloc_array", many, 3000)
        with heap.frame([array]):
            for number in range(3000):
                made = heap.call("lh_alloc_struct", cell)
                heap.call("lh_struct_set_i32", made, 0, number)
                heap.call("lh_struct_set_ref", made, 1, slot[0])
                heap.call("lh_write", slot, made)
                heap.call("lh_array_set_ref", array, number, made)
            heap.call("lh_collect")
            assert heap.statistics()["live_objects"] == 3001
            assert heap.statistics()["listed"] == 1
        heap.call("lh_write", slot, NULL)
        heap.call("lh_collect")
        assert heap.statistics()["live_objects"] == 0
        assert heap.statistics()["objects_freed"] == 3001
        heap.call("lh_slot_unregister", slot)
        heap.call("lh_verify")


@BOTH
def test_externrefs_share_the_interface_of_all_objects(checked: bool) -> None:
    with heap_of(checked) as heap:
        holder_type = heap.define_struct(EXTERN_FIELD)
        holder = heap.call("lh_alloc_struct", holder_type)
        extern = heap.call("lh_alloc_externref", ffi().cast("void *", 5), NULLP)
        assert heap.call("lh_type_of", extern) == EXTERNREF_TYPE_INDEX
        heap.call("lh_struct_set_ref", holder, 0, extern)
        assert heap.call("lh_struct_get_ref", holder, 0) == extern
        assert heap.call("lh_is_instance", extern, holder_type) == 0
        heap.call("lh_struct_set_ref", holder, 0, i31_from_int(1))  # as extern.convert_any makes of an i31
        heap.call("lh_verify")


@BOTH
def test_vectors_of_heaps_of_c(checked: bool) -> None:
    """A v128 has its bytes, those of lane 0 first, and nothing besides is written."""
    field, byte = (VMStorage.V128, FIELD_MUTABLE, 0), (VMStorage.I8, FIELD_MUTABLE, 0)
    data = bytes(range(1, 17))
    vector = ffi().new("lh_v128 *")
    ffi().buffer(vector)[:] = data
    with heap_of(checked) as heap:
        struct_type, array_type = heap.define_struct(byte, field, byte), heap.define_array(field)
        struct, array = heap.call("lh_alloc_struct", struct_type), heap.call("lh_alloc_array", array_type, 3)
        for kind, reference, type_index, place in (
            ("struct", struct, struct_type, 0),
            ("array", array, array_type, 16),
        ):
            start = heap.call("lh_field_offset", type_index, 1 if kind == "struct" else 0) + place
            assert start % 16 == 0
            assert (found := heap.call(f"lh_{kind}_get_v128", reference, 1)).low == found.high == 0
            heap.call(f"lh_{kind}_set_v128", reference, 1, vector)
            found = heap.call(f"lh_{kind}_get_v128", reference, 1)
            assert (found.low, found.high) == (int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little"))
            around = ctypes.string_at(heap.heap.heap_base + reference + start - 8, 32)
            assert around == bytes(8) + data + bytes(8)
        heap.call("lh_verify")


# ----------------------------------------------------------------------------------------------------------------------
# Running out of memory


def fill(heap: CHeap, slot: Any, type_index: int) -> int:
    """Allocate cells, each with the ones before, from `slot` on, until there is no room; return how many."""
    for number in itertools.count():
        try:
            made = heap.call("lh_alloc_struct", type_index)
        except FailureError as error:
            if (
                error.status != Status.OUT_OF_MEMORY
                or f"lh_alloc_struct: no room for {HEADER_SIZE + 8} bytes" not in error.message
            ):
                raise
            return number
        heap.call("lh_struct_set_ref", made, 0, slot[0])
        heap.call("lh_write", slot, made)
    raise AssertionError("a heap without end")


@BOTH
def test_exhaustion_and_recovery(checked: bool) -> None:
    with heap_of(checked, initial=4 * KIBIBYTE, maximum=64 * KIBIBYTE) as heap:
        type_index = heap.define_struct(SELF_FIELD)
        slot = ffi().new("lh_ref *")
        heap.call("lh_slot_register", slot)
        for _ in range(3):
            assert fill(heap, slot, type_index) == (64 * KIBIBYTE - BLOCK_ALIGN) // CELL_BLOCK
            heap.call("lh_verify")
            assert heap.statistics()["capacity"] == 64 * KIBIBYTE
            heap.call("lh_write", slot, NULL)
            heap.call("lh_collect")
            assert heap.statistics()["live_objects"] == 0
            heap.call("lh_verify")
        heap.call("lh_slot_unregister", slot)


@BOTH
def test_what_is_too_large(checked: bool) -> None:
    with heap_of(checked) as heap:
        words = heap.define_array((VMStorage.I64, FIELD_MUTABLE, 0))
        start = align_up(ARRAY_HEADER_END, 8)
        for length in (2**32 - 1, 2**29, 2**29 - 5):
            with pytest.raises(FailureError) as raised:
                heap.call("lh_alloc_array", words, length)
            assert raised.value.status == Status.TOO_LARGE
            assert f"an object of {start + 8 * length} bytes" in raised.value.message
        assert heap.objects() == []


@BOTH
def test_the_out_of_memory_callback(checked: bool) -> None:
    """It lets go, and says whether to try again; the allocation is repeated once."""
    asked: list[int] = []
    answers = iter([1, 0, 1])
    drops = iter([True, False, False])

    @ffi().callback("lh_out_of_memory")
    def make_room(argument: Any, needed: int) -> int:
        assert argument == ffi().cast("void *", 77)
        asked.append(needed)
        if next(drops):
            heap.call("lh_write", slot, NULL)
            heap.call("lh_collect")
        return next(answers)

    options = {"out_of_memory": make_room, "out_of_memory_argument": ffi().cast("void *", 77)}
    heap = heap_of(checked, maximum=16 * KIBIBYTE, **options)
    type_index, large = heap.define_struct(SELF_FIELD), heap.define_array(BYTES)
    slot = ffi().new("lh_ref *")
    heap.call("lh_slot_register", slot)
    for _ in range((16 * KIBIBYTE - BLOCK_ALIGN) // CELL_BLOCK):
        made = heap.call("lh_alloc_struct", type_index)
        heap.call("lh_struct_set_ref", made, 0, slot[0])
        heap.call("lh_write", slot, made)
    assert asked == []
    assert heap.call("lh_alloc_array", large, 1000)
    assert asked == [ARRAY_HEADER_END + 1000]
    for times in (2, 3):  # it refuses; it promises, and does nothing
        with pytest.raises(FailureError) as raised:
            heap.call("lh_alloc_array", large, 16 * KIBIBYTE)
        assert raised.value.status == Status.OUT_OF_MEMORY
        assert len(asked) == times
    heap.call("lh_verify")
    heap.destroy()


@BOTH
def test_the_last_host_data_id_is_taken_meanwhile(checked: bool) -> None:
    """By the callback that makes room for the externref that the id was meant for."""
    taken: list[int] = []

    @ffi().callback("lh_out_of_memory")
    def make_room(_: Any, needed: int) -> int:
        assert needed == ctypes.sizeof(VMDrcExternRef)
        heap.call("lh_write", slot, NULL)
        heap.call("lh_collect")
        taken.append(heap.call("lh_alloc_externref", NULLP, NULLP))
        return 1

    heap = heap_of(checked, maximum=16 * KIBIBYTE, out_of_memory=make_room)
    type_index, slot = heap.define_struct(SELF_FIELD), ffi().new("lh_ref *")
    heap.call("lh_slot_register", slot)
    for _ in range((16 * KIBIBYTE - BLOCK_ALIGN) // CELL_BLOCK):
        made = heap.call("lh_alloc_struct", type_index)
        heap.call("lh_struct_set_ref", made, 0, slot[0])
        heap.call("lh_write", slot, made)
    heap.control.host_data_count = HOST_DATA_LIMIT - 1
    with pytest.raises(FailureError, match="all 16777216 host-data ids are in use") as raised:
        heap.call("lh_alloc_externref", NULLP, NULLP)
    assert raised.value.status == Status.LIMIT
    assert [each["reference"] for each in heap.objects()] == taken
    assert heap.call("lh_alloc_externref", NULLP, NULLP) in taken  # the collection for want of an id has freed it
    heap.call("lh_collect")
    heap.control.host_data_count = heap.control.free_host_data = 0
    heap.call("lh_verify")
    assert heap.statistics()["live_objects"] == 0
    heap.destroy()


@BOTH
def test_the_error_callback(checked: bool) -> None:
    said: list[tuple[Status, str]] = []

    @ffi().callback("lh_on_error")
    def on_error(_: Any, status: int, text: Any) -> None:
        said.append((Status(status), text_of(text)))
        assert heap.message() == said[-1][1]  # which it may ask for

    heap = heap_of(checked, on_error=on_error)
    for name in ("lh_no_gc_exit", "lh_slot_unregister"):
        slot = ffi().new("lh_ref *")
        with pytest.raises(FailureError) as raised:
            heap.call(name, *([slot] if "slot" in name else []))
        assert said[-1] == (raised.value.status, raised.value.message)
        assert said[-1][1].startswith(f"{name}: ")
    assert [status for status, _ in said] == [Status.NO_GC, Status.BAD_SLOT]
    heap.destroy()


# ----------------------------------------------------------------------------------------------------------------------
# Scopes


@BOTH
def test_nothing_is_collected_inside_a_scope(checked: bool) -> None:
    with heap_of(checked, initial=4 * KIBIBYTE, maximum=32 * KIBIBYTE) as heap:
        type_index = heap.define_struct(I32_FIELD)
        heap.call("lh_no_gc_enter")
        heap.call("lh_no_gc_enter")
        heap.call("lh_no_gc_exit")
        made = [heap.call("lh_alloc_struct", type_index) for _ in range((32 * KIBIBYTE - BLOCK_ALIGN) // CELL_BLOCK)]
        assert len(set(made)) == len(made)
        with pytest.raises(FailureError) as raised:
            heap.call("lh_alloc_struct", type_index)
        assert raised.value.status == Status.OUT_OF_MEMORY
        with pytest.raises(FailureError) as raised:
            heap.call("lh_collect")
        assert raised.value.status == Status.NO_GC
        heap.call("lh_verify")
        heap.call("lh_no_gc_exit")
        heap.call("lh_alloc_struct", type_index)  # which collects
        assert len(heap.objects()) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Finalizers, and the end


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What Python would only have printed: an assertion in a callback, for one. There must be nothing."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", found.append)
    yield found
    assert found == []


@BOTH
def test_destroying_calls_each_finalizer_once(checked: bool) -> None:
    called: list[int] = []

    @ffi().callback("lh_finalizer")
    def finalize(data: Any) -> None:
        called.append(int(ffi().cast("uintptr_t", data)))
        statuses.append(Status(heap.functions["lh_alloc_externref"](heap.heap, NULLP, NULLP, place)) if checked else 0)

    statuses: list[int] = []
    place = ffi().new("lh_ref *")
    heap = heap_of(checked)
    slots = ffi().new("lh_ref[3]")
    for number in range(3):
        heap.call("lh_slot_register", slots + number)
        reference = heap.call("lh_alloc_externref", ffi().cast("void *", number + 1), finalize)
        heap.call("lh_write", slots + number, reference)
    heap.call("lh_alloc_externref", ffi().cast("void *", 4), finalize)
    heap.call("lh_write", slots + 1, NULL)
    heap.call("lh_collect")
    assert sorted(called) == [2, 4]
    assert set(statuses) == {0}  # they may use the heap
    heap.destroy()
    assert sorted(called) == [1, 2, 3, 4]
    assert statuses[2:] == [Status.BUSY if checked else 0] * 2  # now they may not


@BOTH
def test_finalizers_may_use_the_heap(checked: bool, unraisable: list[Any]) -> None:
    """Each allocates, collects and drops what the next is the finalizer of; one has the heap full of its own."""
    order: list[int] = []
    is_ending = False
    heap = heap_of(checked, maximum=256 * KIBIBYTE)
    type_index = heap.define_struct(SELF_FIELD)

    @ffi().callback("lh_finalizer")
    def finalize(data: Any) -> None:
        number = int(ffi().cast("uintptr_t", data))
        order.append(number)
        if is_ending or len(order) % 1000 > 5:
            return
        heap.call("lh_verify")
        if number < 5:
            heap.call("lh_alloc_externref", ffi().cast("void *", number + 1), finalize)
            with heap.frame([heap.call("lh_alloc_struct", type_index)]) as slots:
                for _ in range(100):
                    heap.call("lh_alloc_struct", type_index)
                heap.call("lh_collect")
                assert heap.call("lh_type_of", slots[0]) == type_index
        heap.call("lh_verify")

    heap.call("lh_alloc_externref", ffi().cast("void *", 1), finalize)
    heap.call("lh_collect")
    assert order == [1, 2, 3, 4, 5]
    assert heap.statistics()["live_objects"] <= 4  # what was in the frames is listed, and in none
    heap.call("lh_collect")
    assert heap.statistics()["live_objects"] == 0
    # At an allocation that finds no room, they are called in the middle of it.
    order.clear()
    for _ in range(20_000):
        heap.call("lh_alloc_externref", ffi().cast("void *", 9), finalize)
    assert len(order) > 10_000
    is_ending = True
    heap.destroy()
    assert len(order) == 20_000


@BOTH
def test_host_data_ids_are_used_again(checked: bool) -> None:
    with heap_of(checked) as heap:
        for _ in range(5):
            made = [heap.call("lh_alloc_externref", ffi().cast("void *", n), NULLP) for n in range(10)]
            assert [int(ffi().cast("uintptr_t", heap.call("lh_externref_data", r))) for r in made] == list(range(10))
            heap.call("lh_collect")
            assert heap.control.host_data_count == 10


@BOTH
def test_increments_free_no_more_than_they_may(checked: bool) -> None:
    with heap_of(checked) as heap:
        type_index = heap.define_struct(SELF_FIELD)
        chain = NULL
        for _ in range(100):
            with heap.frame([chain]):
                made = heap.call("lh_alloc_struct", type_index)
            heap.call("lh_struct_set_ref", made, 0, chain)
            chain = made
        freed = []
        while True:
            before = heap.statistics()["objects_freed"]
            left = heap.call("lh_collect_increment", 7)
            freed.append(heap.statistics()["objects_freed"] - before)
            heap.call("lh_verify")
            if not left:
                break
        assert freed == [*[7] * 14, 2]
