"""Linear memories: each instruction against wasmtime, the host's `Memory`, imports, and what may go wrong."""

from __future__ import annotations

import copy
import ctypes
import functools
import gc
import itertools
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples

import lowheap as lh
from lowheap.errors import TrapCode
from lowheap.types import Limits, MemoryType
from lowheap.wasm import limits, memory_ranges
from lowheap.wasm.opcodes import OPCODES, Immediate

CONFIGURATIONS = {"native-O2": ("native", 2), "python-O0": ("python", 0)}
PAGE = 1 << 16


@functools.cache
def engine(configuration: str = "native-O2") -> lh.Engine:
    runtime, opt_level = CONFIGURATIONS[configuration]
    return lh.Engine(runtime=runtime, opt_level=opt_level)


def instance(text: str, imports: Any = None, configuration: str = "native-O2") -> lh.Instance:
    store = lh.Store(engine(configuration), initial_heap_size=1 << 14)
    return lh.Instance(store, lh.Module(store.engine, text), imports)


# ----------------------------------------------------------------------------------------------------------------------
# Every instruction, against wasmtime

TYPES = {"i32": "i32", "i64": "i64", "f32": "f32", "f64": "f64"}
ACCESSES = sorted({each.name for each in OPCODES.values() if each.immediates == (Immediate.MEMORY_ARGUMENT,)})
PLAIN = [each for each in ACCESSES if "atomic" not in each and "v128" not in each]  # vectors: tests/test_vectors.py
ATOMIC = [each for each in ACCESSES if "atomic" in each and "memory.atomic" not in each]
MEMORIES = {"small": ("i32", "(memory 1 3)"), "wide": ("i64", "(memory i64 1 3)")}
OFFSETS = (0, 3, 65535)


def exported(name: str, address: str, memory: str, offset: int) -> str:
    """A function for one instruction: an address, then a value or two; a load's result is of integers."""
    type = name[:3]
    alignment = "" if "atomic" in name else " align=1"
    instruction = f"{name} ${memory} offset={offset}{alignment}"
    # Floats go and come as integers, so that no bit of them is lost on the way.
    carried = {"f32": "i32", "f64": "i64"}.get(type, type)
    into = f"({type}.reinterpret_{carried} (local.get 1))" if type[0] == "f" else "(local.get 1)"
    label = f"{name} {memory} {offset}"
    if "cmpxchg" in name:
        return f"""(func (export "{label}") (param {address} {type} {type}) (result {type})
          ({instruction} (local.get 0) (local.get 1) (local.get 2)))"""
    if "rmw" in name:
        return f"""(func (export "{label}") (param {address} {type}) (result {type})
          ({instruction} (local.get 0) (local.get 1)))"""
    if "load" in name:
        loaded = f"({instruction} (local.get 0))"
        back = f"({carried}.reinterpret_{type} {loaded})" if type[0] == "f" else loaded
        return f'(func (export "{label}") (param {address}) (result {carried}) {back})'
    return f'(func (export "{label}") (param {address} {carried}) ({instruction} (local.get 0) {into}))'


def all_accesses() -> str:
    parts = []
    for memory, (address, definition) in MEMORIES.items():
        parts.append(definition.replace("(memory", f'(memory ${memory} (export "{memory}")'))
        parts += [
            exported(name, address, memory, offset)
            for name in (*PLAIN, *ATOMIC)
            for offset in OFFSETS
            if "atomic" not in name or offset != 3
        ]
        parts.append(f"""
          (func (export "memory.size {memory}") (result {address}) (memory.size ${memory}))
          (func (export "memory.grow {memory}") (param {address}) (result {address})
            (memory.grow ${memory} (local.get 0)))
          (func (export "memory.fill {memory}") (param {address} i32 {address})
            (memory.fill ${memory} (local.get 0) (local.get 1) (local.get 2)))
          (func (export "memory.copy {memory}") (param {address} {address} {address})
            (memory.copy ${memory} ${memory} (local.get 0) (local.get 1) (local.get 2)))
          (func (export "memory.init {memory}") (param {address} i32 i32)
            (memory.init ${memory} $d (local.get 0) (local.get 1) (local.get 2)))""")
    return f"""(module {" ".join(parts)}
      (data $d "0123456789abcdef")
      (func (export "data.drop") (data.drop $d))
      (func (export "memory.copy between") (param i32 i64 i32)
        (memory.copy $small $wide (local.get 0) (local.get 1) (local.get 2)))
      (func (export "memory.copy back") (param i64 i32 i32)
        (memory.copy $wide $small (local.get 0) (local.get 1) (local.get 2))))"""


class Peer:
    """The same module on wasmtime."""

    def __init__(self, text: str) -> None:
        config = wasmtime.Config()
        for name in ("memory64", "multi_memory", "threads", "bulk_memory", "gc", "function_references"):
            setattr(config, f"wasm_{name}", True)
        self.engine = wasmtime.Engine(config)
        self.module = wasmtime.Module(self.engine, text)
        self.begin()

    def begin(self) -> None:
        """Begin with a new instance."""
        self.store = wasmtime.Store(self.engine)
        self.exports = wasmtime.Instance(self.store, self.module, []).exports(self.store)

    def call(self, name: str, *args: int) -> Any:
        try:
            return self.exports[name](self.store, *args)
        except wasmtime.Trap as trap:
            return trap.message.partition("wasm trap: ")[2].split("\n")[0]

    def bytes(self, name: str) -> bytes:
        return bytes(self.exports[name].read(self.store, 0))


@functools.cache
def compiled() -> tuple[Peer, list[lh.Module]]:
    text = all_accesses()
    return Peer(text), [lh.Module(engine(each), text) for each in CONFIGURATIONS]


def sides() -> tuple[Peer, list[lh.Instance]]:
    """New instances of the module on wasmtime, and on lowheap with each configuration."""
    peer, modules = compiled()
    peer.begin()
    return peer, [lh.Instance(lh.Store(each.engine, initial_heap_size=1 << 14), each) for each in modules]


def ours(exports: Any, name: str, *args: int) -> Any:
    try:
        return exports[name](*args)
    except lh.Trap as trap:
        return trap.code.message


NAMES = [
    *(f"{name} {memory} {offset}" for memory in MEMORIES for name in PLAIN for offset in OFFSETS),
    *(f"{name} {memory} {offset}" for memory in MEMORIES for name in ATOMIC for offset in OFFSETS if offset != 3),
]
RANGES = [f"memory.{each} {memory}" for memory in MEMORIES for each in ("size", "grow", "fill", "copy", "init")]

near_edges = st.one_of(
    st.integers(0, 64),
    st.integers(PAGE - 20, PAGE + 20),
    st.integers(3 * PAGE - 20, 3 * PAGE + 4),
    st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 8, 2**64 - 1]),
)
values = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 0x7FF0000000000001, 0x7FC00000, 0x7FA00001, 2**64 - 1, 0xFF, 0x1FF]),
)


def arguments_of(exports: Any, name: str, drawn: list[int]) -> list[int]:
    """What was drawn, cut to the widths of the parameters: as many as there are, as signed integers."""
    found = []
    for type, value in zip(exports[name].type.params, drawn, strict=False):
        bits = 32 if str(type) == "i32" else 64
        value %= 1 << bits
        found.append(value - (1 << bits) if value >> (bits - 1) else value)
    return found


@settings(max_examples=examples(60, 1000), deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*NAMES, *RANGES]), near_edges, values, values), max_size=30))
def test_every_access_does_as_wasmtime_does(calls: list[tuple[str, int, int, int]]) -> None:
    peer, instances = sides()
    for name, *drawn in calls:
        if name.startswith(("memory.fill", "memory.copy", "memory.init")):
            drawn[1:] = [drawn[1] % (2 * PAGE), drawn[2] % 40]
        if name.startswith("memory.grow"):
            drawn[0] %= 3
        args = arguments_of(instances[0].exports, name, drawn)
        wanted = peer.call(name, *args)
        for each in instances:
            assert ours(each.exports, name, *args) == wanted, (name, args)
    for memory in MEMORIES:
        for each in instances:
            assert bytes(each.exports[memory].read()) == peer.bytes(memory)


@pytest.mark.parametrize("name", [*NAMES[:: 1 if len(NAMES) < 50 else 3], *NAMES[-30:]])
def test_the_last_address_of_an_access_is_the_last_that_does_not_trap(name: str) -> None:
    peer, instances = sides()
    _, memory, offset = name.split()
    length = len(instances[0].exports[memory].read())
    sizes = itertools.chain(range(1, 10))
    for distance in sizes:
        address = length - distance - int(offset)
        args = arguments_of(instances[0].exports, name, [address % 2**64, 0, 0])
        wanted = peer.call(name, *args)
        for each in instances:
            assert ours(each.exports, name, *args) == wanted, (name, args)


def test_copies_between_memories_of_two_widths() -> None:
    peer, instances = sides()
    for name, args in (
        ("memory.copy between", (8, 0, 16)),
        ("memory.copy back", (5, 9, 3)),
        ("memory.copy between", (PAGE * 3, 0, 1)),
        ("memory.copy back", (-1, 0, 0)),
        ("memory.copy back", (0, -1, 0)),
    ):
        wanted = peer.call(name, *args)
        for each in instances:
            assert ours(each.exports, name, *args) == wanted


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_dropped_segment_has_no_bytes(configuration: str) -> None:
    exports = instance(all_accesses(), configuration=configuration).exports
    exports["memory.init small"](10, 2, 4)
    assert exports["small"].read(10, 15) == b"2345\0"
    exports["data.drop"]()
    exports["memory.init small"](10, 0, 0)
    assert ours(exports, "memory.init small", 10, 0, 1) == TrapCode.MEMORY_OUT_OF_BOUNDS.message


def test_an_offset_that_no_address_reaches() -> None:
    text = """(module (memory i64 1)
      (func (export "f") (param i64) (result i32) (i32.load8_u offset=0xffffffffffffffff (local.get 0))))"""
    exports = instance(text).exports
    for address in (0, 1, -1):
        assert ours(exports, "f", address) == TrapCode.MEMORY_OUT_OF_BOUNDS.message


# ----------------------------------------------------------------------------------------------------------------------
# Arrays from data

ARRAYS = """(module
  (type $b (array (mut i8))) (type $h (array (mut i16))) (type $f (array (mut f64)))
  (data $d "abcdefghijklmnopqrstuvwxyz")
  (func (export "new b") (param i32 i32) (result (ref $b)) (array.new_data $b $d (local.get 0) (local.get 1)))
  (func (export "new h") (param i32 i32) (result (ref $h)) (array.new_data $h $d (local.get 0) (local.get 1)))
  (func (export "new f") (param i32 i32) (result (ref $f)) (array.new_data $f $d (local.get 0) (local.get 1)))
  (func (export "init h") (param (ref null $h) i32 i32 i32)
    (array.init_data $h $d (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "drop") (data.drop $d)))"""
LETTERS = b"abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("every", [0, 1])
def test_arrays_of_data(configuration: str, every: int) -> None:
    store = lh.Store(engine(configuration), initial_heap_size=1 << 14, collect_every=every)
    exports = lh.Instance(store, lh.Module(store.engine, ARRAYS)).exports
    for kind, code in (("b", "B"), ("h", "H"), ("f", "d")):
        size = struct.calcsize(code)
        for start, count in ((0, 3), (1, 2), (5, 0), (26, 0), (26 - size, 1), (26 % size, 26 // size)):
            array = exports[f"new {kind}"](start, count)
            assert list(array) == list(struct.unpack_from(f"<{count}{code}", LETTERS, start))
        for start, count in ((26, 1), (27 - size, 1), (-1, 1), (0, 2**31 - 1), (0, -1), (27, 0)):
            assert ours(exports, f"new {kind}", start, count) == TrapCode.MEMORY_OUT_OF_BOUNDS.message
    array = exports["new h"](0, 4)
    exports["init h"](array, 1, 3, 2)
    assert list(array) == list(struct.unpack("<4H", b"abdefggh"))
    for args, code in (
        ((None, 0, 0, 0), TrapCode.NULL_REFERENCE),
        ((array, 3, 0, 2), TrapCode.ARRAY_OUT_OF_BOUNDS),
        ((array, 5, 0, 0), TrapCode.ARRAY_OUT_OF_BOUNDS),
        ((array, 0, 23, 2), TrapCode.MEMORY_OUT_OF_BOUNDS),
        ((array, 0, 27, 0), TrapCode.MEMORY_OUT_OF_BOUNDS),
    ):
        assert ours(exports, "init h", *args) == code.message
    exports["drop"]()
    assert ours(exports, "new b", 0, 1) == TrapCode.MEMORY_OUT_OF_BOUNDS.message
    assert list(exports["new b"](0, 0)) == []
    store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Instances: active segments, imports, exports


def test_active_segments_in_their_order_and_what_stays_when_one_does_not_fit() -> None:
    store = lh.Store(engine())
    memory = lh.Memory(store, MemoryType(Limits(1)))
    text = """(module (import "m" "m" (memory 1)) (global $at i32 (i32.const 3))
      (data (i32.const 0) "xxxx") (data (i32.add (global.get $at) (i32.const -2)) "yy") (data (i32.const 65535) "zz")
      (data (i32.const 8) "never"))"""
    with pytest.raises(lh.Trap, match="out of bounds memory access"):
        lh.Instance(store, lh.Module(store.engine, text), {"m": {"m": memory}})
    assert memory.read(0, 10) == b"xyyx\0\0\0\0\0\0"


def test_two_instances_share_a_memory_and_see_it_grow() -> None:
    store = lh.Store(engine())
    owner = """(module (memory (export "m") 1 5)
      (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "get") (param i32) (result i32) (i32.load (local.get 0))))"""
    user = """(module (import "a" "m" (memory $m 1 5)) (export "again" (memory $m))
      (func (export "set") (param i32 i32) (i32.store (local.get 0) (local.get 1)))
      (func (export "size") (result i32) (memory.size)))"""
    first = lh.Instance(store, lh.Module(store.engine, owner)).exports
    second = lh.Instance(store, lh.Module(store.engine, user), {"a": {"m": first["m"]}}).exports
    assert second["again"] is first["m"]
    assert ours(second, "set", PAGE, 7) == TrapCode.MEMORY_OUT_OF_BOUNDS.message
    assert first["grow"](2) == 1
    second["set"](PAGE, 7)
    assert (first["get"](PAGE), second["size"](), first["m"].size) == (7, 3, 3)
    assert first["m"].grow(2) == 3
    assert first["grow"](1) == -1
    assert second["size"]() == 5


OTHERS = {
    "fewer pages": (MemoryType(Limits(1, 2)), "(memory 2 2)"),
    "more at most": (MemoryType(Limits(1, 3)), "(memory 1 2)"),
    "no maximum": (MemoryType(Limits(1)), "(memory 1 2)"),
    "i64 for i32": (MemoryType(Limits(1), is_64=True), "(memory 1)"),
    "i32 for i64": (MemoryType(Limits(1)), "(memory i64 1)"),
    "not shared": (MemoryType(Limits(1, 2)), "(memory 1 2 shared)"),
    "shared": (MemoryType(Limits(1, 2), is_shared=True), "(memory 1 2)"),
    "pages of a byte": (MemoryType(Limits(PAGE), page_size_log2=0), "(memory 1)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_import_of_another_type(name: str) -> None:
    type, wanted = OTHERS[name]
    store = lh.Store(engine())
    module = lh.Module(store.engine, f'(module (import "a" "m" {wanted}))')
    with pytest.raises(lh.LinkError, match=r"import a\.m is a memory of type .*; <Memory .* was given"):
        lh.Instance(store, module, {"a": {"m": lh.Memory(store, type)}})
    with pytest.raises(lh.LinkError, match=r"import a\.m is a memory of type .*; b'bytes' was given"):
        lh.Instance(store, module, {"a": {"m": b"bytes"}})


def test_what_has_grown_may_be_imported_as_larger() -> None:
    store = lh.Store(engine())
    memory = lh.Memory(store, MemoryType(Limits(1, 5)))
    memory.grow(2)
    module = lh.Module(store.engine, '(module (import "a" "m" (memory 3 5)))')
    lh.Instance(store, module, {"a": {"m": memory}})
    with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
        lh.Instance(lh.Store(engine()), module, {"a": {"m": memory}})


def test_a_linker_gives_memories() -> None:
    store = lh.Store(engine())
    linker = lh.Linker(store.engine)
    memory = lh.Memory(store, MemoryType(Limits(1)))
    linker.define(store, "a", "m", memory)
    module = lh.Module(store.engine, '(module (import "a" "m" (memory 1)) (export "e" (memory 0)))')
    assert linker.instantiate(store, module).exports["e"] is memory
    with pytest.raises(lh.ForeignReferenceError):
        linker.define(lh.Store(engine()), "a", "n", memory)


def test_the_types_of_imports_and_exports() -> None:
    text = """(module (import "a" "m" (memory i64 1 2)) (memory (export "own") 3 (pagesize 1))
      (export "imported" (memory 0)))"""
    module = lh.Module(engine(), text)
    imported = MemoryType(Limits(1, 2), is_64=True)
    assert module.imports == [lh.ImportType("a", "m", imported)]
    own = MemoryType(Limits(3), page_size_log2=0)
    assert module.exports == [lh.ExportType("own", own), lh.ExportType("imported", imported)]
    assert (str(imported), str(own), own.page_size) == ("i64 1 2", "3 (pagesize 1)", 1)


# ----------------------------------------------------------------------------------------------------------------------
# Memory, from Python


def test_reading_and_writing() -> None:
    memory = lh.Memory(lh.Store(engine()), MemoryType(Limits(1, 2)))
    assert (memory.size, memory.data_len, memory.page_size, memory.page_size_log2) == (1, PAGE, PAGE, 16)
    assert memory.write(b"hello", 3) == 5
    assert memory.write(bytearray(b"end"), -3) == 3
    assert memory.write(memoryview(b"abcd").cast("I")) == 4
    assert memory.write(b"", PAGE) == 0
    assert memory.read(0, 8) == b"abcello\0"[:3] + b"dello"
    assert memory.read(-3) == b"end"
    assert memory.read(5, 2) == b""
    assert len(memory.read()) == PAGE
    for value, start in ((b"xx", PAGE - 1), (b"x", PAGE), (b"x", -PAGE - 1), (b"", PAGE + 1)):
        with pytest.raises(IndexError, match=rf"{len(value)} bytes at {start} do not fit a memory of {PAGE} bytes"):
            memory.write(value, start)
    with pytest.raises(TypeError):
        memory.write("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        memory.write(b"x", 1.5)  # type: ignore[arg-type]
    assert repr(memory) == "<Memory 1 2: 1 pages>"


def test_growing() -> None:
    memory = lh.Memory(lh.Store(engine()), MemoryType(Limits(1, 3)))
    assert (memory.grow(1), memory.grow(0), memory.size) == (1, 2, 2)
    for delta in (2, 2**16, 2**64, 2**70):
        with pytest.raises(lh.HeapError, match=rf"cannot grow a memory of 2 pages by {delta}: it may have 3"):
            memory.grow(delta)
    with pytest.raises(ValueError, match="cannot grow a memory by -1 pages"):
        memory.grow(-1)
    with pytest.raises(TypeError):
        memory.grow(1.0)  # type: ignore[arg-type]
    assert memory.size == 2


def test_no_size_is_what_growing_returns_when_it_fails() -> None:
    """As in wasmtime: with pages of a byte there might be 2^32 - 1 of them, which is -1."""
    exports = instance(
        """(module (memory (export "m") 0xffff_fffd (pagesize 1))
          (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
    ).exports
    assert [exports["grow"](pages) for pages in (2, 1, 1, 0)] == [-1, -3, -1, -2]
    with pytest.raises(lh.HeapError, match=r"it may have 4294967294$"):
        exports["m"].grow(1)
    for maximum in ("", "0xffff_ffff"):
        with pytest.raises(lh.HeapError, match=r"a memory may have a size of 4294967294 at most; one of 4294967295 is"):
            instance(f"(module (memory 0xffff_ffff {maximum} (pagesize 1)))")


def test_a_view_stays_good_when_the_memory_grows_and_when_the_store_is_closed() -> None:
    store = lh.Store(engine())
    exports = lh.Instance(
        store,
        lh.Module(
            store.engine,
            """(module (memory (export "m") 1)
              (func (export "set") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
              (func (export "grow") (drop (memory.grow (i32.const 9)))))""",
        ),
    ).exports
    view = exports["m"].data
    assert (view.nbytes, view.readonly, view.format) == (PAGE, False, "B")
    exports["grow"]()
    exports["set"](5, 77)
    view[6] = 78
    assert (view[5], exports["m"].read(5, 7), exports["m"].data.nbytes) == (77, b"MN", 10 * PAGE)
    address = exports["m"].data_ptr
    assert ctypes.string_at(address + 5, 2) == b"MN"
    store.close()
    del store, exports
    gc.collect()
    assert bytes(view[5:7]) == b"MN"
    view[PAGE - 1] = 1


@pytest.mark.parametrize("delta", [None, True, 1.0, "1"], ids=repr)
def test_what_is_no_number_of_pages(delta: Any) -> None:
    with lh.Store() as store:
        memory = lh.Memory(store, MemoryType(Limits(1, 4)))
        with pytest.raises(TypeError, match="a memory grows by an int, a number of pages, not by"):
            memory.grow(delta)
        assert memory.size == 1


WRONG_TYPES: dict[str, tuple[Any, type[Exception], str]] = {
    "no type": (5, TypeError, "type is 5; it must be a MemoryType"),
    "no limits": (MemoryType((1, 2)), TypeError, "must be Limits"),  # type: ignore[arg-type]
    "a float": (MemoryType(Limits(1.5)), TypeError, "the limits' min is 1.5"),  # type: ignore[arg-type]
    "a bool": (MemoryType(Limits(1, True)), TypeError, "the limits' max is True"),
    "negative": (MemoryType(Limits(-1)), ValueError, "the limits' min is -1; it must be 0 to 65536"),
    "too many": (MemoryType(Limits(65537)), ValueError, "the limits' min is 65537; it must be 0 to 65536"),
    "too many at most": (MemoryType(Limits(0, 65537)), ValueError, "the limits' max is 65537"),
    "upside down": (MemoryType(Limits(3, 2)), ValueError, "the limits are 3 to 2"),
    "odd pages": (MemoryType(Limits(1), page_size_log2=3), ValueError, "page_size_log2 is 3; it must be 0 or 16"),
    "no width": (MemoryType(Limits(1), is_64=None), TypeError, "is_64 is None; it must be a bool"),  # type: ignore[arg-type]
    "a number": (MemoryType(Limits(1, 2), is_shared=1), TypeError, "is_shared is 1; it must be"),  # type: ignore[arg-type]
    "no page size": (MemoryType(Limits(1), page_size_log2=None), ValueError, "is None; it must be 0"),  # type: ignore[arg-type]
    "shared for ever": (MemoryType(Limits(1), is_shared=True), ValueError, "a shared memory's limits must have a max"),
    "as large as can be": (MemoryType(Limits(1 << 47), is_64=True), lh.HeapError, "no address space is left"),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_what_is_no_type_of_a_memory(name: str) -> None:
    type, error, message = WRONG_TYPES[name]
    with pytest.raises(error, match=message):
        lh.Memory(lh.Store(engine()), type)
    with pytest.raises(TypeError, match="it must be a Store"):
        lh.Memory("store", MemoryType(Limits(1)))  # type: ignore[arg-type]


def test_a_memory_that_cannot_be_reserved_is_no_crash() -> None:
    store = lh.Store(engine())
    module = lh.Module(store.engine, "(module (memory i64 0x800000000000))")
    with pytest.raises(lh.HeapError, match="no address space is left for a memory of"):
        lh.Instance(store, module)
    store.verify()


def test_where_address_space_is_short_less_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Short(limits.Mapping):
        def __init__(self, size: int, guard: int = 0) -> None:
            sizes.append(size)
            if size > 1 << 20:
                raise MemoryError("short")
            super().__init__(size, guard)

    monkeypatch.setattr(limits, "Mapping", Short)
    memory = lh.Memory(lh.Store(engine()), MemoryType(Limits(2)))
    assert sizes == [1 << bits for bits in range(32, 19, -1)]
    assert memory.grow(14) == 2
    with pytest.raises(lh.HeapError, match="it may have 16"):
        memory.grow(1)


def test_another_thread_is_refused_while_code_runs() -> None:
    store = lh.Store(engine())
    memory = lh.Memory(store, MemoryType(Limits(1)))
    refused: list[str] = []

    def elsewhere() -> None:
        uses: list[Callable[[], Any]] = [memory.read, lambda: memory.write(b"x"), lambda: memory.grow(1)]
        for use in (*uses, lambda: memory.data, lambda: lh.Tag(store, lh.FuncType([], []))):
            with pytest.raises(lh.HeapError, match="in use by another thread") as caught:
                use()
            refused.append(str(caught.value))

    def host() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    module = lh.Module(store.engine, '(module (import "a" "f" (func $f)) (func (export "run") (call $f)))')
    lh.Instance(store, module, {"a": {"f": host}}).exports["run"]()
    assert len(refused) == 5


def test_nothing_of_it_may_be_copied() -> None:
    memory = lh.Memory(lh.Store(engine()), MemoryType(Limits(1)))
    with pytest.raises(TypeError, match="`read` returns a copy of the bytes"):
        copy.copy(memory)


# ----------------------------------------------------------------------------------------------------------------------
# Threads' instructions, for one thread

WAITING = """(module (memory 1 1 shared)
  (func (export "wait32") (param i32 i32 i64) (result i32)
    (memory.atomic.wait32 (local.get 0) (local.get 1) (local.get 2)))
  (func (export "wait64") (param i32 i64 i64) (result i32)
    (memory.atomic.wait64 offset=8 (local.get 0) (local.get 1) (local.get 2)))
  (func (export "notify") (param i32 i32) (result i32) (memory.atomic.notify (local.get 0) (local.get 1)))
  (func (export "store") (param i32 i64) (i64.atomic.store (local.get 0) (local.get 1)) (atomic.fence)))"""


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_waiting_ends_by_the_timeout_and_nobody_waits(configuration: str) -> None:
    exports = instance(WAITING, configuration=configuration).exports
    exports["store"](8, 5)
    assert exports["wait32"](8, 4, -1) == 1
    assert exports["wait32"](8, 5, 0) == 2
    assert exports["wait32"](8, 5, 25_000_000) == 2
    assert exports["wait64"](0, 5, 1000) == 2
    assert exports["wait64"](0, 6, -1) == 1
    assert exports["notify"](0, 3) == 0
    for name, args in (("wait32", (2, 0, 0)), ("wait64", (4, 0, 0)), ("notify", (1, 0)), ("store", (4, 0))):
        assert ours(exports, name, *args) == TrapCode.HEAP_MISALIGNED.message
    for name, args in (("wait32", (PAGE, 0, 0)), ("wait64", (PAGE - 8, 0, 0)), ("notify", (PAGE, 0))):
        assert ours(exports, name, *args) == TrapCode.MEMORY_OUT_OF_BOUNDS.message


def test_waiting_on_a_memory_that_is_not_shared() -> None:
    text = WAITING.replace("1 1 shared", "1")
    exports = instance(text).exports
    assert ours(exports, "wait32", 0, 0, 0) == TrapCode.ATOMIC_WAIT_NON_SHARED_MEMORY.message
    assert exports["notify"](0, 1) == 0


# ----------------------------------------------------------------------------------------------------------------------
# The ranges' functions, run by Python: compiled code has them inlined, and is compared above


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_within(start: int, count: int, length: int) -> None:
    assert memory_ranges.is_within(start, count, length) == (start + count <= length)
