"""A store: its life, when it collects and when it grows, and finalizers that use it."""

from __future__ import annotations

import ctypes
import functools
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples

import lowheap as lh
from lowheap.collector import GcProgress
from lowheap.collectors.drc import Drc
from lowheap.config import RUNTIMES
from lowheap.engine import Engine
from lowheap.errors import (
    AllocationTooLargeError,
    CompilerError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    NoGcScopeError,
    StaleReferenceError,
    Trap,
)
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    FIRST_INDEX,
    MAXIMUM_CAPACITY,
    NULL,
    GcTypeLayouts,
    VMDrcExternRef,
    block_length,
)
from lowheap.memory import RESERVATIONS, Memory
from lowheap.objects import Array, ExternRef, Struct
from lowheap.store import ALLOCATORS, DEFAULT_INITIAL_HEAP_SIZE, GROWTH_POLICIES, Store
from lowheap.types import ANYREF, EXTERNREF, I8, I64, ArrayType, FieldType, FuncType, StructType, SubType
from lowheap.wasm.instance import Instance
from lowheap.wasm.module import Module

CELL = StructType((FieldType(ANYREF, True), FieldType(I64, True)))
HOLDER = StructType((FieldType(EXTERNREF, True),))
BYTES = ArrayType(FieldType(I8, True))
CELL_BLOCK = block_length(GcTypeLayouts().struct_layout([(4, True), (8, False)]).size)


class Rig(Store):
    """A store with a few types, which does to references what compiled code would."""

    def __init__(self, initial: int = 1 << 16, maximum: int = MAXIMUM_CAPACITY, **options: Any) -> None:
        super().__init__(initial_heap_size=initial, maximum_heap_size=maximum, **options)
        register = self.engine.types.register
        (self.cell,), (self.bytes,) = register([SubType(CELL)]), register([SubType(BYTES)])
        (self.tag,) = register([SubType(FuncType((ANYREF,), ()))])
        self.stack: list[int] = []
        self.roots.add_stack_walker(lambda: self.stack)

    def garbage(self) -> int:
        """Allocate a cell that only the list owns, as compiled code does, which then lets go of it."""
        reference = self.alloc_struct(self.cell)
        self.heap.expose_gc_ref_to_wasm(reference)
        return reference

    def keep(self, size: int) -> int:
        """Allocate an array of `size` bytes, all told, and hold it by a handle, whose number is returned."""
        return self.roots.create_handle(self.alloc_array(self.bytes, size - ARRAY_HEADER_END))

    def drop(self, handle: int) -> None:
        self.heap.drop_gc_ref(self.roots.release_handle(handle))


@pytest.fixture
def store() -> Rig:
    return Rig()


# ----------------------------------------------------------------------------------------------------------------------
# Life


def test_a_new_store() -> None:
    store = Store()
    assert isinstance(store.engine, Engine)
    stats = store.heap.stats()
    assert (stats.capacity, stats.maximum, stats.live_objects) == (DEFAULT_INITIAL_HEAP_SIZE, MAXIMUM_CAPACITY, 0)
    engine = Engine()
    assert Store(engine).engine is engine
    assert Store(engine).heap.types is engine.types


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"engine": "text"}, TypeError, "engine is 'text'"),
        ({"collect_every": "1"}, TypeError, "collect_every is '1'"),
        ({"collect_every": True}, TypeError, "collect_every is True"),
        ({"collect_every": -1}, ValueError, "collect_every is -1"),
        ({"initial_heap_size": "64"}, TypeError, "initial heap size is '64'"),
        ({"maximum_heap_size": None}, TypeError, "maximum heap size is None"),
        ({"initial_heap_size": -1}, ValueError, "got initial -1"),
        ({"initial_heap_size": 2, "maximum_heap_size": 1}, ValueError, "got initial 2, maximum 1"),
        ({"maximum_heap_size": 1 << 32}, ValueError, "maximum 4294967296"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Store(**arguments)


def test_closing(store: Rig) -> None:
    cell = Struct(store, store.cell)
    value = type("Value", (), {})()
    host = ExternRef(store, value)
    watched = weakref.ref(value)
    del value
    base = store.heap.memory.base
    assert not store.is_closed
    store.close()
    store.close()
    assert store.is_closed
    assert watched() is None, "the host data went along"
    for handle in (cell, host):
        with pytest.raises(StaleReferenceError, match="its store is closed"):
            _ = handle.reference
    with open("/proc/self/maps") as maps:
        assert not any(int(line.split("-")[0], 16) <= base < int(line.split("-")[1].split()[0], 16) for line in maps)


MEMORY = lh.MemoryType(lh.Limits(1))
TABLE = lh.TableType(ANYREF, lh.Limits(1))

CLOSED: dict[str, Callable[[Rig], Any]] = {
    "collection": lambda store: store.collection(),
    "collect": lambda store: store.collect(),
    "safepoint": lambda store: store.safepoint(),
    "verify": lambda store: store.verify(),
    "tidy": lambda store: store.tidy(),
    "alloc_struct": lambda store: store.alloc_struct(store.cell),
    "alloc_array": lambda store: store.alloc_array(store.bytes, 1),
    "alloc_exn": lambda store: store.alloc_exn(store.tag),
    "alloc_externref": lambda store: store.alloc_externref("value"),
    "check_open": lambda store: store.check_open(),
    "Struct": lambda store: Struct(store, store.cell),
    "Array": lambda store: Array(store, store.bytes, 3),
    "ExternRef": lambda store: ExternRef(store, "value"),
    "Tag": lambda store: lh.Tag(store, FuncType([], [])),
    "Memory": lambda store: lh.Memory(store, MEMORY),
    "Table": lambda store: lh.Table(store, TABLE),
}


@pytest.mark.parametrize("operation", CLOSED)
def test_a_closed_store_refuses(operation: str, store: Rig) -> None:
    store.close()
    with pytest.raises(HeapError, match="the store is closed"):
        CLOSED[operation](store)


def test_the_memories_and_tables_of_a_closed_store_refuse(store: Rig) -> None:
    memory, table = lh.Memory(store, MEMORY), lh.Table(store, TABLE)
    view = memory.data
    store.close()
    uses: list[Callable[[], Any]] = [
        lambda: memory.size,
        lambda: memory.data_len,
        lambda: memory.data,
        lambda: memory.grow(0),
        lambda: memory.read(),
        lambda: memory.write(b""),
        lambda: table.size,
        lambda: table.get(0),
        lambda: table.set(0, None),
        lambda: table.grow(0),
    ]
    for use in uses:
        with pytest.raises(HeapError, match="the store is closed"):
            use()
    assert (view[0], repr(memory), repr(table)) == (0, "<Memory 1: 1 pages>", "<Table 1 anyref: 1 elements>")


def test_a_with_block_closes() -> None:
    store = Rig()
    with store as entered:
        assert entered is store
        store.alloc_struct(store.cell)
    assert store.is_closed


def test_closing_does_not_hide_an_exception(store: Rig) -> None:
    """The traceback's frames hold views of the heap; the memory goes with them."""
    with pytest.raises(HeapError, match="offset 4096 is not a slot"), store:
        store.heap.slot(store.alloc_struct(store.cell), 4096)
    assert store.is_closed


def test_closing_with_views_at_hand(store: Rig) -> None:
    header = store.heap.header(store.alloc_struct(store.cell))
    control = store.heap.control
    store.close()
    assert (header.ref_count, control.objects_allocated) == (0, 0), "discarded, and still mapped"


def test_closing_in_the_middle_of_a_collection_is_refused(store: Rig) -> None:
    collection = store.collection()
    collection.collect_increment()
    with pytest.raises(HeapError, match="cannot close a store in the middle of a collection"):
        store.close()
    assert not store.is_closed
    collection.collect_increment()
    store.verify()
    store.close()


def test_closing_the_runtime_comes_first(store: Rig) -> None:
    calls = []

    class Runtime:
        def close(self) -> None:
            calls.append(store.is_closed)
            if len(calls) == 1:
                raise HeapError("compiled code is on the stack")

    store.runtime = Runtime()
    with pytest.raises(HeapError, match="on the stack"):
        store.close()
    assert not store.is_closed
    store.close()
    assert calls == [False, False]


# ----------------------------------------------------------------------------------------------------------------------
# Collecting


def test_collecting_by_increments(store: Rig) -> None:
    held, lost = store.garbage(), store.garbage()
    store.stack = [held]
    collection = store.collection()
    assert collection.collect_increment() is GcProgress.CONTINUE
    with pytest.raises(HeapError, match="in the middle of a collection"):
        store.alloc_struct(store.cell)
    assert collection.collect_increment() is GcProgress.COMPLETE
    assert [found.index for found in store.heap.objects()] == [held]
    assert store.alloc_struct(store.cell) == lost


def test_collecting_in_a_no_gc_scope_is_refused(store: Rig) -> None:
    with store.heap.no_gc_scope():
        with pytest.raises(NoGcScopeError):
            store.collect()
        with pytest.raises(NoGcScopeError):
            store.collection()
    store.collect()


@pytest.mark.parametrize(("every", "expected"), [(0, 0), (1, 6), (2, 3), (4, 1)])
def test_collect_every(every: int, expected: int) -> None:
    store = Store(collect_every=every)
    for _ in range(6):
        store.safepoint()
    assert store.heap.stats().collections == expected
    with store.heap.no_gc_scope():
        for _ in range(4):
            store.safepoint()
    assert store.heap.stats().collections == expected


def test_verify_looks_at_the_stack(store: Rig) -> None:
    reference = store.alloc_struct(store.cell)
    store.roots.create_handle(reference)
    store.verify()
    store.stack = [reference]
    with pytest.raises(HeapCorruptionError, match=f"compiled code holds {reference:#x}"):
        store.verify()


def test_tidy_drops_what_python_forgot(store: Rig) -> None:
    cell = Struct(store, store.cell)
    outer = Struct(store, store.cell, [cell, 1])
    del cell, outer
    assert store.heap.stats().live_objects == 2
    store.tidy()
    assert store.heap.stats().live_objects == 0
    store.verify()


def test_handles_of_an_earlier_memory_are_not_released_twice(store: Rig) -> None:
    store.operations.adopt(None, store.heap.alloc_uninit_struct(store.cell), store.operations.cell())
    assert len(store.unreachable_cells) == 1
    old = store.heap.detach()
    old.close()
    store.heap.attach(Memory(), store.host_data)
    number = store.roots.create_handle(store.heap.alloc_uninit_struct(store.cell))
    assert number == 0
    store.tidy()
    assert list(store.heap.handles()) == [(0, 16)]


def test_handles_may_be_forgotten_on_any_thread(store: Rig) -> None:
    handles = [Struct(store, store.cell) for _ in range(200)]

    def forget() -> None:
        while handles:
            handles.pop()

    threads = [threading.Thread(target=forget) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.tidy()
    store.tidy()
    assert store.heap.stats().live_objects == 0
    store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# The policy


def test_garbage_does_not_make_the_heap_grow(store: Rig) -> None:
    """wasmtime's heap grew to its maximum before the first collection."""
    for _ in range(5 * (1 << 16) // CELL_BLOCK):
        store.garbage()
    stats = store.heap.stats()
    assert stats.growths == 0
    assert stats.capacity == 1 << 16
    assert 4 <= stats.collections <= 10
    store.verify()


def test_live_objects_make_it_double(store: Rig) -> None:
    capacities = [store.heap.stats().capacity]
    for _ in range(100):
        store.keep(4096)
        if store.heap.stats().capacity != capacities[-1]:
            capacities.append(store.heap.stats().capacity)
    assert capacities == [1 << 16, 1 << 17, 1 << 18, 1 << 19]
    assert store.heap.stats().growths == 3
    store.verify()


def test_collect_or_grow_depends_on_what_was_live(store: Rig) -> None:
    """Half of the capacity live after the last collection: grow. Less: collect, and grow only if that is not enough."""
    control = store.heap.control
    store.keep(33 * 1024)
    store.collect()
    collections = store.heap.stats().collections
    for _ in range(31 * 1024 // CELL_BLOCK):
        store.garbage()
    assert (store.heap.stats().collections, store.heap.stats().growths) == (collections, 0)
    while store.heap.stats().growths == 0:
        store.garbage()
    assert store.heap.stats().collections == collections, "grown without collecting"
    assert control.capacity == 1 << 17
    while store.heap.stats().collections == collections:
        store.garbage()
    assert store.heap.stats().growths == 1, "a quarter was live: collected without growing"


def test_an_allocation_larger_than_twice_the_heap(store: Rig) -> None:
    store.keep(1000)
    store.keep(1 << 20)
    capacity = store.heap.stats().capacity
    assert capacity % (1 << 16) == 0
    assert 1 << 20 < capacity <= (1 << 20) + (1 << 17)
    store.verify()


def test_short_lists_are_no_reason_to_collect() -> None:
    assert Drc().list_floor >= 1024
    with pytest.raises(CompilerError, match=r"the parameter list_floor of the collector drc is -1, not u32"):
        Store(collector=Drc(list_floor=-1))


def test_a_list_that_has_doubled_is_swept() -> None:
    """The list grows without any lack of room; the next allocation after it doubled collects."""
    store = Rig(1 << 20, collector=Drc(list_floor=1024))
    for number in range(1024):
        assert store.heap.stats().collections == 0, number
        store.stack.append(store.garbage())
    store.garbage()
    control = store.heap.control
    assert (store.heap.stats().collections, control.len_after_last_gc, control.current_len) == (1, 1024, 1025)
    for _ in range(1023):
        store.stack.append(store.garbage())
    assert (store.heap.stats().collections, control.current_len) == (1, 2048)
    store.garbage()
    assert (store.heap.stats().collections, control.len_after_last_gc, control.current_len) == (2, 2047, 2048)
    store.heap.verify(store.stack)


def test_exposing_many_old_objects_is_noticed_too() -> None:
    store = Rig(1 << 20, collector=Drc(list_floor=1024))
    handles = [store.roots.create_handle(store.alloc_struct(store.cell)) for _ in range(1500)]
    for handle in handles:
        store.heap.expose_gc_ref_to_wasm(store.heap.clone_gc_ref(store.roots.handle(handle)))
    assert store.heap.stats().collections == 0
    store.alloc_struct(store.cell)
    assert (store.heap.stats().collections, store.heap.stats().listed) == (1, 0)


def expose_kept(store: Rig, handles: list[int], count: int) -> None:
    for handle in handles[:count]:
        store.heap.expose_gc_ref_to_wasm(store.heap.clone_gc_ref(store.roots.handle(handle)))


def test_after_a_collection_in_vain_the_list_may_become_longer() -> None:
    """But not longer than there are live objects; and one that frees something ends that."""
    store = Rig(1 << 20, collector=Drc(list_floor=64))
    handles = [store.roots.create_handle(store.alloc_struct(store.cell)) for _ in range(300)]
    for allowed, collections in ((64, 0), (128, 1), (256, 2), (302, 3)):
        expose_kept(store, handles, allowed - 2)
        for _ in range(2):
            store.garbage()
        assert store.heap.stats().collections == collections, allowed
        store.roots.create_handle(store.alloc_struct(store.cell))  # it lives, and is not listed
        assert (store.heap.stats().collections, store.heap.stats().listed) == (collections + 1, 0), allowed
    assert store.heap.control.list_limit == 303, "live are the 300, and what the first three times made"
    store.heap.verify(store.stack)
    for _ in range(303):
        store.garbage()
    assert store.heap.stats().collections == 4
    store.garbage()
    assert (store.heap.stats().collections, store.heap.stats().listed) == (5, 1)
    for _ in range(63):
        store.garbage()
    assert store.heap.stats().collections == 5
    store.garbage()
    assert (store.heap.stats().collections, store.heap.stats().listed) == (6, 1)


def test_dead_externrefs_are_no_collection_in_vain() -> None:
    """Their blocks are freed behind it, when the host has let go of what they name."""
    store = Rig(1 << 20, collector=Drc(list_floor=64))
    handles = [store.roots.create_handle(store.alloc_struct(store.cell)) for _ in range(300)]
    expose_kept(store, handles, 20)
    for number in range(44):
        store.heap.expose_gc_ref_to_wasm(store.alloc_externref(number))
    assert (store.heap.stats().collections, store.heap.stats().listed) == (0, 64)
    store.alloc_struct(store.cell)
    assert (store.heap.stats().collections, store.heap.control.list_limit) == (1, 0)
    assert len(store.host_data) == 0


def test_no_gc_scopes_grow_instead(store: Rig) -> None:
    with store.heap.no_gc_scope():
        for _ in range(3 * (1 << 16) // CELL_BLOCK):
            store.garbage()
    assert (store.heap.stats().collections, store.heap.stats().growths) == (0, 2)
    store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Exhaustion


def test_exhaustion_collects_first_and_leaves_a_sound_heap() -> None:
    store = Rig(4096, 8192)
    handles = [store.keep(1000) for _ in range(8)]
    assert store.heap.stats().capacity == 8192
    collections = store.heap.stats().collections
    with pytest.raises(HeapExhaustedError, match="no room for an object of 1000 bytes in a heap of 8192") as caught:
        store.keep(1000)
    assert caught.value.bytes_needed == 1008
    assert store.heap.stats().collections > collections
    store.verify()
    store.drop(handles[3])
    store.keep(1000)
    store.verify()


def test_a_full_heap_in_a_no_gc_scope() -> None:
    store = Rig(4096, 4096)
    with store.heap.no_gc_scope():
        for _ in range(4080 // CELL_BLOCK):
            store.garbage()
        with pytest.raises(HeapExhaustedError):
            store.garbage()
        assert store.heap.stats().collections == 0
        store.verify()
    store.garbage()
    assert store.heap.stats().collections == 1


def test_an_object_too_large_for_the_maximum() -> None:
    store = Rig(4096, 8192)
    with pytest.raises(AllocationTooLargeError, match=r"9000 bytes does not fit .* of 8192"):
        store.keep(9000)
    assert store.heap.stats().growths == 0, "nothing could help"
    with pytest.raises(AllocationTooLargeError, match=str(1 << 32)):
        store.alloc_array(store.bytes, 1 << 32)


def test_an_externref_without_room_keeps_no_host_data() -> None:
    capacity = FIRST_INDEX + block_length(ctypes.sizeof(VMDrcExternRef)) + BLOCK_ALIGN
    store = Rig(capacity, capacity)
    value = type("Value", (), {})()
    watched = weakref.ref(value)
    store.roots.create_handle(store.alloc_externref("first"))
    with pytest.raises(HeapExhaustedError):
        store.alloc_externref(value)
    assert len(store.host_data) == 1
    del value
    store.tidy()
    gc.collect()
    assert watched() is None
    store.verify()


def test_the_last_growth_counts_what_is_left_of_the_bump_region() -> None:
    """Growing by less than the object needs is enough when the old end was free."""
    store = Rig(1 << 16, 100_000)
    store.keep(1 << 15)
    store.keep(50_000)
    assert store.heap.stats().capacity == 100_000
    store.verify()


def test_before_giving_up_free_neighbours_are_merged() -> None:
    """Even if so little was freed that reading the whole heap for it does not pay."""
    store = Rig(1 << 16, 1 << 16)
    handles = [store.keep(1008) for _ in range((1 << 16) // 1008)]
    while store.heap.control.bump_end - store.heap.control.bump >= block_length(ARRAY_HEADER_END):
        store.keep(ARRAY_HEADER_END)
    store.collect()
    for handle in handles[20:22]:
        store.drop(handle)
    store.keep(2016)
    assert store.heap.stats().coalescings == 1
    store.verify()


def test_a_heap_of_no_bytes_grows_to_what_is_needed() -> None:
    for size in (ARRAY_HEADER_END, 65_504, 65_536, 100_000):
        store = Rig(0)
        store.keep(size)
        store.verify()
    with pytest.raises(AllocationTooLargeError):
        Rig(0, 0).alloc_struct(0)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 5000),
    st.integers(0, 20_000),
    st.lists(st.integers(ARRAY_HEADER_END, 9000) | st.integers(-12, -1), min_size=5, max_size=30),
)
def test_whatever_fits_is_found(initial: int, more: int, steps: list[int]) -> None:
    """An allocation is refused only when no gap between live objects, up to the maximum, is long enough."""
    store = Rig(initial, initial + more)
    live: dict[int, int] = {}
    for step in steps:
        if step < 0:
            if live:
                store.drop(sorted(live)[step % len(live)])
                del live[sorted(live)[step % len(live)]]
            continue
        used = sorted((store.roots.handle(number), (size + 15) // 16 * 16) for number, size in live.items())
        ends = [16, *(index + length for index, length in used)]
        starts = [*(index for index, _ in used), (initial + more) // 16 * 16]
        room = max(start - end for start, end in zip(starts, ends, strict=True))
        if room >= (step + 15) // 16 * 16:
            live[store.keep(step)] = step
        else:
            with pytest.raises((HeapExhaustedError, AllocationTooLargeError), match=f"object of {step} bytes"):
                store.keep(step)
        store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Allocating


def test_allocating_each_kind(store: Rig) -> None:
    references = [
        store.alloc_struct(store.cell),
        store.alloc_array(store.bytes, 7),
        store.alloc_exn(store.tag),
        store.alloc_externref("value"),
    ]
    assert [store.heap.header(reference).ref_count for reference in references] == [1] * 4
    assert store.heap.array_len(references[1]) == 7
    assert store.host_data.get(store.heap.externref_host_data(references[3])) == "value"
    for reference in references:
        store.heap.drop_gc_ref(reference)
    store.verify()
    assert len(store.host_data) == 0


@pytest.mark.parametrize("index", [-1, 99, "cell", None])
def test_types_that_are_not_there(store: Rig, index: Any) -> None:
    for operation in (store.alloc_struct, store.alloc_exn, lambda which: store.alloc_array(which, 1)):
        with pytest.raises(IndexError, match=repr(index)):
            operation(index)


# ----------------------------------------------------------------------------------------------------------------------
# Finalizers


def test_finalizers_may_use_the_heap(store: Rig) -> None:
    """Letting go of an externref's value runs Python code, which allocates, collects, verifies, lets go of more."""
    events: list[str] = []
    kept: list[Struct] = []

    class Value:
        def __init__(self, name: str, following: ExternRef | None = None) -> None:
            self.name = name
            self.following = following

        def __del__(self) -> None:
            events.append(self.name)
            kept.append(Struct(store, store.cell))
            store.collect()
            store.verify()
            self.following = None

    last = ExternRef(store, Value("last"))
    first = ExternRef(store, Value("first", last))
    holder = Struct(store, HOLDER, [first])
    del last
    first.release()
    assert events == []
    holder[0] = None
    assert events == ["first"]
    store.tidy()
    assert events == ["first", "last"]
    store.verify()
    assert store.heap.stats().live_objects == 1 + len(kept)
    assert len(store.host_data) == 0


def test_a_finalizer_runs_after_the_write_that_caused_it(store: Rig) -> None:
    seen = []

    class Value:
        def __del__(self) -> None:
            seen.append(holder[0].value)

    holder = Struct(store, HOLDER, [Value()])
    holder[0] = "new"
    assert seen == ["new"]


def test_a_finalizer_in_a_sweep_runs_after_it(store: Rig) -> None:
    phases = []

    class Value:
        def __del__(self) -> None:
            phases.append(store.heap.control.phase)
            store.garbage()

    store.heap.expose_gc_ref_to_wasm(store.alloc_externref(Value()))
    store.collect()
    assert phases == [0]
    store.verify()
    assert NULL not in store.heap.over_approximated_stack_roots()


def test_a_collector_is_the_engines() -> None:
    with Store(collector="null") as store:
        assert (store.engine.collector.name, store.heap.is_counted) == ("null", False)
    with pytest.raises(TypeError, match="the engine has one"):
        Store(Engine(), collector="null")
    with pytest.raises(CompilerError, match="there is no collector 'nope'"):
        Store(collector="nope")


# ----------------------------------------------------------------------------------------------------------------------
# Sizes

LIST = """(module
  (type $cell (struct (field (mut (ref null $cell))) (field i64)))
  (global $list (export "list") (mut (ref null $cell)) (ref.null $cell))
  (global $made (export "made") (mut i32) (i32.const 0))
  (func (export "more") (param $count i32)
    (loop $next
      (global.set $list (struct.new $cell (global.get $list) (i64.const 1)))
      (global.set $made (i32.add (global.get $made) (i32.const 1)))
      (br_if $next (local.tee $count (i32.sub (local.get $count) (i32.const 1))))))
  (func (export "clear") (global.set $list (ref.null $cell))))"""

MAXIMA = st.integers(0, 200) | st.integers(0, 5000) | st.sampled_from([(1 << 16) + each for each in (-1, 0, 1, 40)])


@functools.cache
def list_program(runtime: str) -> Module:
    return Module(Engine(runtime=runtime), LIST)


@pytest.mark.parametrize("runtime", RUNTIMES)
@settings(max_examples=examples(10, 25), deadline=None)
@given(data=st.data(), maximum=MAXIMA)
def test_no_heap_goes_beyond_its_maximum(runtime: str, data: st.DataObject, maximum: int) -> None:
    """Compiled code and Python get just the objects that there is room for, whatever the sizes are."""
    module = list_program(runtime)
    options: dict[str, Any] = {"initial_heap_size": data.draw(st.none() | st.integers(0, maximum))}
    if runtime == "python":
        options["allocator"] = data.draw(st.sampled_from(list(ALLOCATORS)))
        options["growth"] = data.draw(st.sampled_from([None, *GROWTH_POLICIES]))
    options["reserve"] = data.draw(st.sampled_from(RESERVATIONS))
    room = max(0, (maximum & -BLOCK_ALIGN) - FIRST_INDEX) // CELL_BLOCK
    with Store(module.engine, maximum_heap_size=maximum, **options) as store:
        instance = Instance(store, module)
        for _ in range(2):
            instance.exports["made"].value = 0
            with pytest.raises(Trap, match="out of memory"):
                instance.exports["more"](0)
            assert instance.exports["made"].value == room
            with pytest.raises(HeapExhaustedError if room else AllocationTooLargeError):
                Struct(store, CELL)
            control = store.heap.control
            assert control.capacity <= maximum
            assert control.bump <= control.bump_end <= max(maximum, FIRST_INDEX)
            store.verify()
            instance.exports["clear"]()
            store.collect()
        if room:
            instance.exports["more"](room)
        store.verify()


@pytest.mark.parametrize(("allocator", "expected"), [("segregated-fit", 65_536), ("first-fit", 0)])
def test_a_heap_begins_no_larger_than_its_maximum(allocator: str, expected: int) -> None:
    with Store(allocator=allocator, maximum_heap_size=65_536) as store:
        assert store.stats().capacity == expected
    with pytest.raises(ValueError, match="got initial 65537, maximum 65536"):
        Store(initial_heap_size=65_537, maximum_heap_size=65_536)


def test_a_small_heap_under_a_limit_of_address_space() -> None:
    """In a process that has no room for what a heap reserves; in one of its own, for the limit stays."""
    program = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import lowheap as lh
from lowheap.memory import RESERVATIONS
from test_store import LIST
engine = lh.Engine()
module = lh.Module(engine, LIST)
lh.Store(engine).close()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    lh.Store(engine, maximum_heap_size=1 << 20)
except MemoryError as error:
    print(error)
with lh.Store(engine, maximum_heap_size=1 << 20, reserve="maximum") as store:
    lh.Instance(store, module).exports["more"](20_000)
    store.verify()
    print(store.stats().live_objects)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refusal, live = done.stdout.splitlines()
    assert refusal.startswith("cannot reserve 4311744512 bytes of address space")
    assert live == "20000"
