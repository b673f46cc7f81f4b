"""Header bits, buffers and side tables of a collector's own: both ways, in stores, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.native_sides import Compiled, mixed

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.collectors.shared.references import is_object
from lowheap.errors import CompilerError, HeapError
from lowheap.jit import cache
from lowheap.layout import COLLECTOR_AREA_OFFSET, HEADER_IN_OVER_APPROX_LIST_BIT, HEADER_MARK_BIT, RESERVED_MASK
from lowheap.native import (
    Buffer,
    HeaderBit,
    Heap,
    NativeError,
    Ref,
    SideTable,
    inline,
    native,
    u8,
    u16,
    u32,
    u64,
    wrapping_add,
    wrapping_u8,
)
from lowheap.runtime.store_runtime import runtime_of

SEEN, CHOSEN = HeaderBit("seen"), HeaderBit("chosen")
LOG, SMALL = Buffer("log"), Buffer("small", limit=8)
BYTES, WIDE = SideTable("bytes", u8, granule=256), SideTable("wide", u64, granule=16)


class Keeping(Drc):
    """What `drc` does, with storage of its own."""

    header_bits = (SEEN,)
    buffers = (LOG, SMALL)
    side_tables = (BYTES, WIDE)


class KeepingMore(Keeping):
    """One bit more."""

    header_bits = (CHOSEN,)


@native
def see(heap: Heap, reference: Ref) -> bool:
    header = heap.header_at(reference)
    was_seen = header.kind_and_reserved & heap.header_bit(SEEN) != 0
    header.kind_and_reserved |= heap.header_bit(SEEN)
    return was_seen


@native
def bits(heap: Heap) -> u32:
    return heap.header_bit(SEEN) | heap.header_bit(CHOSEN)


@inline
def append_to(heap: Heap, buffer: Buffer, value: u32) -> u64:
    length = heap.length(buffer)
    heap.entry(buffer, length.value).value = value
    length.value += 1
    return length.value


@native
def log(heap: Heap, value: u32) -> u64:
    return append_to(heap, SMALL, value) + append_to(heap, LOG, value)


@native
def sum_of_log(heap: Heap) -> u64:
    total: u64 = 7
    for number in range(heap.length(LOG).value):
        total = mixed(total, u64(heap.entry(LOG, number).value))
    return total


@native
def small_entry(heap: Heap, number: u64) -> u32:
    return heap.entry(SMALL, number).value


@native
def note_in_tables(heap: Heap, index: u32, amount: u64) -> u64:
    byte = heap.side(BYTES, index)
    byte.value = wrapping_u8(u32(byte.value) + 3)
    wide = heap.side(WIDE, index)
    wide.value = wrapping_add(wide.value, amount)
    return wrapping_add(u64(byte.value), wide.value)


NATIVES = (see, bits, log, sum_of_log, small_entry, note_in_tables)


@pytest.fixture(scope="module")
def code() -> Compiled:
    return Compiled(NATIVES, collector=KeepingMore())


@pytest.fixture
def stores() -> Iterator[list[lh.Store]]:
    made = [lh.Store(collector=KeepingMore) for _ in range(2)]
    yield made
    for store in made:
        store.close()


STEP = st.one_of(
    st.tuples(st.just(log), st.tuples(st.integers(0, (1 << 32) - 1))),
    st.tuples(st.just(sum_of_log), st.just(())),
    st.tuples(st.just(small_entry), st.tuples(st.integers(0, 20) | st.just((1 << 64) - 1))),
    st.tuples(
        st.just(note_in_tables),
        st.tuples(st.sampled_from([0, 15, 16, 255, 256, (1 << 32) - 1]), st.integers(0, (1 << 64) - 1)),
    ),
)


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(STEP, max_size=40))
def test_python_and_machine_code_use_the_same_storage(code: Compiled, steps: list[Any]) -> None:
    """Each step is done by Python on one heap and by machine code on another; then each looks at what the other did."""
    python, machine = lh.Store(collector=KeepingMore), lh.Store(collector=KeepingMore)
    with python, machine:
        for function, arguments in steps:
            expected = function(python.heap.native, *arguments)
            assert code[function](runtime_of(machine).vmctx_address, *arguments) == expected
        assert sum_of_log(machine.heap.native) == sum_of_log(python.heap.native)
        for number in range(8):
            assert small_entry(machine.heap.native, number) == small_entry(python.heap.native, number)
            assert code[small_entry](runtime_of(python).vmctx_address, number) == small_entry(
                python.heap.native, number
            )


def test_bits_of_headers(code: Compiled, stores: list[lh.Store]) -> None:
    area = KeepingMore().area()
    assert bits(stores[0].heap.native) == code[bits](runtime_of(stores[0]).vmctx_address) == sum(area.bits.values())
    assert len(set(area.bits.values())) == 2
    assert area.known_bits & RESERVED_MASK == area.known_bits
    assert sum(area.bits.values()) & (HEADER_MARK_BIT | HEADER_IN_OVER_APPROX_LIST_BIT) == 0
    for store in stores:
        (cell,) = store.engine.types.register([lh.SubType(lh.StructType(()))])
        reference = store.alloc_struct(cell)
        assert is_object(reference)
        assert not see(store.heap.native, reference)
        assert see(store.heap.native, reference)
        handle = store.roots.create_handle(reference)
        store.verify()  # the bit is known
        store.heap.header(reference).kind_and_reserved |= 1 << 20
        with pytest.raises(lh.HeapCorruptionError, match="unknown reserved bits"):
            store.verify()
        store.heap.header(reference).kind_and_reserved &= ~(1 << 20)
        store.heap.drop_gc_ref(store.roots.release_handle(handle))


def test_another_collectors_bit_is_unknown() -> None:
    with lh.Store(collector=Keeping) as store:
        (cell,) = store.engine.types.register([lh.SubType(lh.StructType(()))])
        reference = store.alloc_struct(cell)
        store.heap.header(reference).kind_and_reserved |= KeepingMore().area().bits[CHOSEN]
        with pytest.raises(lh.HeapCorruptionError, match="unknown reserved bits"):
            store.heap.verify()
        with pytest.raises(HeapError, match=r"has no HeaderBit\('chosen'\)"):
            bits(store.heap.native)


def test_a_new_memory_begins_with_nothing() -> None:
    store = lh.Store(collector=Keeping)
    native_heap = store.heap.native
    log(native_heap, 5)
    note_in_tables(native_heap, 4096, 3)
    memory = store.heap.detach()
    memory.capacity = 1 << 16
    store.heap.attach(memory, store.host_data)
    assert store.heap.native.length(LOG).value == store.heap.native.length(SMALL).value == 0
    assert store.heap.native.side(BYTES, 4096).value == store.heap.native.side(WIDE, 4096).value == 0
    store.close()


def test_parts_lie_apart() -> None:
    area = KeepingMore().area()
    places = sorted((offset, part.size) for part, offset in area.offsets.items())
    end = COLLECTOR_AREA_OFFSET
    for offset, size in places:
        assert offset >= end
        end = offset + size
    assert end <= COLLECTOR_AREA_OFFSET + area.size


def test_what_follows_from_a_class_is_kept_with_it_alone() -> None:
    """So it is no parameter: it makes no other code, and no other collector."""
    asked, other = KeepingMore(list_floor=5), KeepingMore(list_floor=5)
    values, key, number = dict(vars(asked)), cache.code_key({}, asked), hash(asked)
    assert asked.area() is other.area() is KeepingMore(list_floor=6).area()
    assert asked.state_offsets() is other.state_offsets()
    assert asked.known_bits == other.known_bits == asked.area().known_bits
    assert vars(asked) == vars(other) == values
    assert cache.code_key({}, asked) == cache.code_key({}, other) == key
    assert (asked, hash(asked)) == (other, number)
    assert Keeping().area() is not asked.area()
    assert CHOSEN not in Keeping().area().bits


def test_what_no_collector_has_is_refused() -> None:
    with lh.Store() as store:
        for function, arguments in ((see, (32,)), (log, (1,)), (note_in_tables, (0, 0))):
            if function is see:
                (cell,) = store.engine.types.register([lh.SubType(lh.StructType(()))])
                arguments = (store.alloc_struct(cell),)
            with pytest.raises(HeapError, match="the heap's collector has no"):
                function(store.heap.native, *arguments)
        for function in (see, log, note_in_tables):
            with pytest.raises(CompilerError, match="the collector has no"):
                Compiled([function], collector=Drc())
            with pytest.raises(CompilerError, match="the collector has no"):
                Compiled([function])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"header_bits": (LOG,)}, "no header bit"),
        ({"buffers": (SEEN,)}, "no buffer or side table"),
        ({"side_tables": (u8,)}, "no buffer or side table"),
        ({"buffers": (LOG, Buffer("log"))}, "log is used twice"),
        ({"header_bits": tuple(HeaderBit(f"bit {number}") for number in range(30))}, "no bit is left for bit 24"),
    ],
)
def test_declarations_that_are_refused(members: dict[str, Any], message: str) -> None:
    kind = type("Wrong", (Drc,), members)
    with pytest.raises(CompilerError, match=f"what the collector Wrong keeps: .*{message}"):
        lh.Store(collector=kind)


def test_parts_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="the limit of the buffer x is 3; it must be a power of two up to"):
        Buffer("x", limit=3)
    with pytest.raises(ValueError, match="it must be a power of two up to 2\\^32"):
        Buffer("x", limit=1 << 33)
    with pytest.raises(
        ValueError, match="the granule of the side table x is 8; it must be a power of two from 16 to 0x"
    ):
        SideTable("x", u16, granule=8)
    with pytest.raises(ValueError, match="the granule of the side table x is 8589934592"):
        SideTable("x", u16, granule=1 << 33)
    with pytest.raises(TypeError, match="called 3; a name is a string"):
        HeaderBit(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the side table x is of 'u8'; it must be of a word"):
        SideTable("x", "u8", granule=16)


@native
def variable_part(heap: Heap, number: u32) -> u64:
    return heap.length(number).value  # type: ignore[arg-type]


@native
def wrong_part(heap: Heap) -> u64:
    return heap.length(BYTES).value  # type: ignore[arg-type]


@native
def wrong_bit(heap: Heap) -> u32:
    return heap.header_bit(LOG)  # type: ignore[arg-type]


@native
def wrong_table(heap: Heap) -> u8:
    found: u8 = heap.side(LOG, 16).value  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("function", [variable_part, wrong_part, wrong_bit, wrong_table], ids=lambda each: each.name)
def test_parts_that_are_not_of_the_subset(function: Any) -> None:
    with pytest.raises(NativeError, match=r"takes a .* that is known when code is compiled"):
        _ = function.checked
