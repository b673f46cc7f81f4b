"""The C interface on heaps that Python made: every function, in both forms, beside Python's view of the bytes.

What one side makes, the other sees, writes and collects, compiled WebAssembly included; misuse of the checked form is
reported, and does no harm.
"""

from __future__ import annotations

import ctypes
import gc
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embed_heaps import CHeap, FailureError
from support.embed_reports import Pieces, text_of

import lowheap as lh
from lowheap.bound_types import new_exception
from lowheap.config import RUNTIMES
from lowheap.embed import Status, abi_hash, attach, ffi
from lowheap.embed.api import FUNCTIONS
from lowheap.embed.header import package_version
from lowheap.errors import (
    AllocationTooLargeError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    InvalidReferenceError,
    LowheapError,
    NoGcScopeError,
    TypeDefinitionError,
    UnsupportedError,
)
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    FIELD_MUTABLE,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_SIZE,
    HOST_DATA_LIMIT,
    NO_SUPERTYPE,
    NULL,
    TYPE_LIMIT,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcKind,
    VMStorage,
    align_up,
    i31_from_int,
)
from lowheap.memory import Memory
from lowheap.runtime.store_runtime import runtime_of
from lowheap.snapshot import Image
from lowheap.snapshot.difference import diff
from lowheap.types import ANYREF, EXNREF, F32, F64, FUNCREF, I8, I16, I32, I64, V128, RefType

NULLP = ffi().NULL
SCALARS = (I8, I16, I32, I64, F32, F64)
FIELD_OF = {"i8": 0, "i16": 1, "i32": 2, "i64": 3, "f32": 4, "f64": 5, "ref": 6, "v128": 7}
CARRIED = (I32, I64, F32, F64, V128, ANYREF, FUNCREF)
CARRIED_AT = {"i32": 0, "i64": 1, "f32": 2, "f64": 3, "v128": 4, "ref": 5, "function": 6}
FORMATS = {"i8": "<b", "i16": "<h", "i32": "<i", "i64": "<q", "f32": "<f", "f64": "<d", "v128": "<16s"}
VALUES: dict[str, tuple[Any, ...]] = {
    "i8": (0, 1, -1, 127, -128),
    "i16": (0, 1, -1, 32767, -32768),
    "i32": (0, 1, -1, 2**31 - 1, -(2**31)),
    "i64": (0, 1, -1, 2**63 - 1, -(2**63)),
    "f32": (0.0, -1.5, float("inf"), 2.0**-149),
    "f64": (0.0, -1.5, float("-inf"), 5e-324),
    "v128": (bytes(16), bytes(range(16)), b"\xff" * 16),
}


def vector(data: bytes) -> Any:
    """An `lh_v128 *` of these bytes."""
    made = ffi().new("lh_v128 *")
    ffi().buffer(made)[:] = data
    return made


def room_for_result() -> Any:
    """Room for what any function leaves in its `result`: figures are the largest."""
    return ffi().new("uint64_t[]", ffi().sizeof("lh_statistics") // 8)


def plain(value: Any) -> Any:
    """A number that C has read; of an `lh_v128`, its bytes."""
    return value if isinstance(value, int | float) else bytes(ffi().buffer(ffi().addressof(value)))


class World:
    """A store with a few types, and the C interface on it."""

    def __init__(self, *, checked: bool = True, engine: lh.Engine | None = None, **options: Any) -> None:
        self.store = lh.Store(engine or lh.Engine(), **options)
        everything = lh.StructType(tuple(lh.FieldType(storage, True) for storage in (*SCALARS, ANYREF, V128)))
        self.everything = self.register(lh.SubType(everything, final=False))
        self.below = self.register(lh.SubType(everything, self.everything))
        elements = {**{str(storage): storage for storage in (*SCALARS, V128)}, "ref": ANYREF}
        self.arrays = {
            name: self.register(lh.SubType(lh.ArrayType(lh.FieldType(storage, True))))
            for name, storage in elements.items()
        }
        narrow = RefType(False, self.everything)
        self.narrow = self.register(lh.SubType(lh.StructType((lh.FieldType(narrow, True),))))
        self.tag = lh.Tag(self.store, lh.FuncType(CARRIED, ()))
        self.store.heap.register_type(self.tag.type_index)
        self.native = attach(self.store, checked=checked)

    def register(self, type: lh.SubType) -> int:
        types = self.store.engine.types
        (index,) = types.register([type], outer=tuple(types))
        self.store.heap.register_type(index)
        return index

    def c(self, name: str, *args: Any) -> Any:
        return self.native.call(name, *args)

    def raw(self, name: str, *args: Any) -> Status:
        """The status that a function returns, with all arguments as they are."""
        return Status(self.native.functions[name](self.native.heap, *args))

    def new(self, kind: str = "everything", length: int = 3) -> Any:
        """A handle of a new object that Python made."""
        if kind == "everything":
            return lh.Struct(self.store, self.everything)
        if kind == "exception":
            return self.thrown()
        return lh.Array(self.store, self.arrays[kind], length)

    def thrown(self, held: Any = None) -> lh.ExnRef:
        """A handle of a new exception, which refers to `held`."""
        fields = (0, 0, 0.0, 0.0, 7 << 64 | 8, held, None)
        return new_exception(self.store, self.tag.type_index, self.tag.words, fields)

    def offset(self, kind: str, index: int = 0) -> int:
        """Where an `everything` has a field, or, by its element's name, where an array has an element."""
        if kind in FIELD_OF and index < 0:
            return self.store.heap.struct_layout(self.everything).fields[FIELD_OF[kind]].offset
        return self.store.heap.array_layout(self.arrays[kind]).element_offset(index)

    def bytes_at(self, reference: int, offset: int, size: int) -> bytes:
        return ctypes.string_at(self.store.heap.control.heap_base + reference + offset, size)

    def put(self, reference: int, offset: int, data: bytes) -> None:
        ctypes.memmove(self.store.heap.control.heap_base + reference + offset, data, len(data))

    def slot(self, reference: int, offset: int) -> Any:
        return ffi().cast("lh_ref *", self.store.heap.control.heap_base + reference + offset)

    def verify(self) -> None:
        """Both sides find nothing wrong."""
        self.store.verify()
        self.c("lh_verify")


@pytest.fixture(params=[True, False], ids=["checked", "fast"])
def checked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def world(checked: bool) -> Iterator[World]:
    made = World(checked=checked)
    yield made
    made.verify()
    made.store.close()


# ----------------------------------------------------------------------------------------------------------------------
# Every function

EXERCISES: dict[str, Callable[[World], None]] = {}


def exercise(*names: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    def register(body: Callable[[World], None]) -> Callable[[World], None]:
        for name in names:
            assert name not in EXERCISES
            EXERCISES[name] = body
        return body

    return register


@exercise("lh_abi", "lh_version", "lh_is_checked")
def the_library(w: World) -> None:
    assert w.c("lh_abi") == abi_hash()
    assert text_of(w.c("lh_version")) == package_version()
    assert w.c("lh_is_checked") in (0, 1)


@exercise("lh_status_name")
def status_names(w: World) -> None:
    names = [text_of(w.c("lh_status_name", status)) for status in range(len(Status) + 1)]
    assert names == [*(f"LH_{status.name}" for status in Status), "unknown status"]


@exercise("lh_heap_create")
def a_heap_beside_it(w: World) -> None:
    other = w.c("lh_heap_create", ffi().new("lh_config *", {"abi": abi_hash()}))
    assert other != w.native.heap
    assert other.is_foreign == 0
    assert w.native.lh_verify(other) == Status.OK
    assert w.native.lh_heap_destroy(other) == Status.OK


@exercise("lh_heap_destroy")
def python_destroys_it(w: World) -> None:
    with pytest.raises(UnsupportedError, match="Python made this heap"):
        w.c("lh_heap_destroy")


@exercise("lh_heap_collector")
def who_collects(w: World) -> None:
    assert text_of(w.c("lh_heap_collector")) == w.native.collector == "drc"


@exercise("lh_error_message")
def messages(w: World) -> None:
    assert w.native.functions["lh_error_message"](NULLP, NULLP, 8) == 0
    assert w.c("lh_error_message", NULLP, 0) == 0
    buffer = ffi().new("char[]", b"nothing yet")
    assert w.c("lh_error_message", buffer, 8) == 0
    assert ffi().string(buffer) == b""
    with pytest.raises(UnsupportedError) as raised:
        w.c("lh_heap_destroy")
    whole = str(raised.value).removesuffix(" (UNSUPPORTED)")
    assert w.c("lh_error_message", NULLP, 0) == len(whole)
    assert w.c("lh_error_message", NULLP, 8) == len(whole), "without a buffer, nothing is written"
    short = ffi().new("char[]", b"x" * 15)
    assert w.c("lh_error_message", short, 8) == len(whole)
    assert bytes(ffi().buffer(short)) == whole[:7].encode() + b"\0" + b"x" * 7 + b"\0"


@exercise("lh_heap_statistics")
def figures(w: World) -> None:
    kept = w.new()
    w.c("lh_alloc_struct", w.everything)
    result, ours = w.c("lh_heap_statistics"), w.store.heap.stats()
    for name in dir(result):
        assert getattr(result, name) == getattr(ours, name), name
    assert result.live_objects == 2
    assert kept.is_valid


@exercise("lh_verify")
def soundness(w: World) -> None:
    node = w.new()
    header = VMDrcHeader.from_address(w.store.heap.control.heap_base + node.reference)
    header.ref_count += 1
    with pytest.raises(HeapCorruptionError, match="0x10 has count 2, but 1 owners"):
        w.c("lh_verify")
    with pytest.raises(HeapCorruptionError):
        w.store.verify()
    header.ref_count -= 1


@exercise("lh_walk")
def walks(w: World) -> None:
    kept = [w.new(), w.new("i16", 5), lh.ExternRef(w.store, "value"), w.new("exception")]
    w.c("lh_alloc_array", w.arrays["ref"], 2)
    met: list[tuple[int, ...]] = []

    @ffi().callback("lh_visitor")
    def visit(_: Any, info: Any) -> int:
        met.append((info.reference, info.kind, info.type_index, info.size, info.ref_count))
        return 0

    w.c("lh_walk", visit, NULLP)
    ours = [(o.index, o.kind, o.type_index, o.size, o.ref_count) for o in w.store.heap.objects()]
    assert met == [(a, b, EXTERNREF_TYPE_INDEX if c is None else c, d, e) for a, b, c, d, e in ours]
    assert len(met) == len(kept) + 1
    assert {kind for _, kind, *_ in met} == {STRUCT, ARRAY, EXTERN, EXCEPTION}


@exercise("lh_dump")
def dumps(w: World) -> None:
    kept = w.new()
    pieces = Pieces()
    w.c("lh_dump", pieces.write, NULLP)
    bump = w.store.heap.control.bump
    assert b"".join(pieces).endswith(ctypes.string_at(w.store.heap.control.heap_base, bump))
    assert kept.is_valid


@exercise("lh_define_struct", "lh_define_array")
def python_defines_types(w: World) -> None:
    field = ffi().new("lh_field[]", [(VMStorage.I32, 0, 0)])
    for name, first in (("lh_define_struct", (field, 1)), ("lh_define_array", (field,))):
        count = w.store.heap.control.type_count
        with pytest.raises(UnsupportedError, match="defines its types"):
            w.c(name, *first, NO_SUPERTYPE, 0)
        assert w.store.heap.control.type_count == count


@exercise("lh_field_offset")
def offsets(w: World) -> None:
    layout = w.store.heap.struct_layout(w.everything)
    assert [w.c("lh_field_offset", w.everything, n) for n in range(8)] == [field.offset for field in layout.fields]
    layout = w.store.heap.exception_layout(w.tag.type_index)
    assert [w.c("lh_field_offset", w.tag.type_index, n) for n in range(7)] == [each.offset for each in layout.fields]
    for type_index in w.arrays.values():
        assert w.c("lh_field_offset", type_index, 0) == w.store.heap.array_layout(type_index).elements_offset


@exercise("lh_is_subtype")
def subtypes(w: World) -> None:
    indices = [w.everything, w.below, w.narrow, *w.arrays.values()]
    for a in indices:
        for b in indices:
            assert w.c("lh_is_subtype", a, b) == w.store.engine.types.is_subtype(a, b), (a, b)


@exercise("lh_alloc_struct")
def structs(w: World) -> None:
    reference = w.c("lh_alloc_struct", w.everything)
    handle = w.native.adopt(reference)
    assert isinstance(handle, lh.Struct)
    assert handle.type_index == w.everything
    assert handle.ref_count == 2
    assert list(handle) == [0, 0, 0, 0, 0.0, 0.0, None, 0]
    w.verify()
    w.store.collect()
    assert handle.ref_count == 1


@exercise("lh_alloc_array", "lh_array_length")
def arrays(w: World) -> None:
    for name, type_index in w.arrays.items():
        for length in (0, 1, 5, 33, 1000):
            handle = w.native.adopt(w.c("lh_alloc_array", type_index, length))
            assert isinstance(handle, lh.Array)
            assert list(handle) == [None if name == "ref" else 0] * length
            assert w.c("lh_array_length", handle.reference) == length
            if length and name != "ref":  # whoever is here next must not find it
                w.put(handle.reference, w.offset(name), b"\xff" * struct.calcsize(FORMATS[name]) * length)
            handle.release()
        w.verify()
        w.store.collect()
    assert not list(w.store.heap.objects())


@exercise("lh_alloc_externref", "lh_externref_data")
def externrefs(w: World) -> None:
    died: list[int] = []

    @ffi().callback("lh_finalizer")
    def finalize(data: Any) -> None:
        died.append(int(ffi().cast("uintptr_t", data)))

    reference = w.c("lh_alloc_externref", ffi().cast("void *", 0x1234), finalize)
    assert w.c("lh_externref_data", reference) == ffi().cast("void *", 0x1234)
    handle = w.native.adopt(reference)
    assert isinstance(handle, lh.ExternRef)
    assert int(ffi().cast("uintptr_t", handle.value)) == 0x1234
    w.verify()
    w.c("lh_collect")
    assert died == []
    handle.release()
    assert died == [0x1234]
    without = w.c("lh_alloc_externref", NULLP, NULLP)
    assert w.c("lh_externref_data", without) == NULLP
    w.c("lh_collect")
    assert len(w.store.host_data) == 0
    pointer = ffi().new_handle("a value")
    assert w.c("lh_externref_data", lh.ExternRef(w.store, pointer).reference) == pointer
    assert w.c("lh_externref_data", lh.ExternRef(w.store, "no pointer").reference) == NULLP


@exercise("lh_type_of")
def types_of_objects(w: World) -> None:
    kept = [w.new(), w.new("f64"), lh.ExternRef(w.store, 1), w.new("exception")]
    found = [w.c("lh_type_of", handle.reference) for handle in kept]
    assert found == [w.everything, w.arrays["f64"], EXTERNREF_TYPE_INDEX, w.tag.type_index]


@exercise("lh_is_instance")
def instances(w: World) -> None:
    below = lh.Struct(w.store, w.below)
    above, array, extern = w.new(), w.new("i8"), lh.ExternRef(w.store, 1)
    expected = {below: {w.everything, w.below}, above: {w.everything}, array: {w.arrays["i8"]}, extern: set()}
    expected[w.new("exception")] = {w.tag.type_index}
    for handle, types in expected.items():
        for type_index in (w.everything, w.below, w.narrow, w.tag.type_index, *w.arrays.values()):
            assert w.c("lh_is_instance", handle.reference, type_index) == (type_index in types)
    for none in (NULL, i31_from_int(5)):
        assert w.c("lh_is_instance", none, w.everything) == 0


@exercise("lh_exception_tag")
def tags(w: World) -> None:
    other = lh.Tag(w.store, w.tag.type)
    for tag in (w.tag, other):
        exception = lh.WasmException(tag, (0, 0, 0.0, 0.0, 0, None, None)).exnref
        found = w.c("lh_exception_tag", exception.reference)
        assert (found.tag_instance, found.tag_defined) == tag.words
        adopted = w.native.adopt(exception.reference)
        assert isinstance(adopted, lh.ExnRef)
        assert adopted.tag is tag
    assert w.tag.words != other.words


@exercise("lh_array_data")
def array_memory(w: World) -> None:
    array = w.new("i32", 4)
    data = ffi().cast("int32_t *", w.c("lh_array_data", array.reference))
    data[0:4] = [5, -6, 7, -8]
    assert list(array) == [5, -6, 7, -8]


def _accessors() -> None:
    """An exercise for each reader and writer of a number."""

    def body(kind: str, suffix: str) -> Callable[[World], None]:
        def place(w: World, storage: str) -> tuple[Any, int, int]:
            if kind == "struct":
                return w.new(), FIELD_OF[storage], w.offset(storage, -1)
            if kind == "exception":
                number = CARRIED_AT[storage]
                return w.thrown(), number, w.store.heap.exception_layout(w.tag.type_index).fields[number].offset
            return w.new(storage), 1, w.offset(storage, 1)

        def holder_of(w: World, held: Any) -> tuple[Any, int]:
            """What refers to a value, and where."""
            if kind == "exception":
                return w.thrown(held), CARRIED_AT["ref"]
            holder, number = (w.new(), FIELD_OF["ref"]) if kind == "struct" else (w.new("ref"), 1)
            holder[number] = held
            return holder, number

        def read(w: World) -> None:
            narrow = ("i8", "i16") if kind != "exception" else ()
            for storage in (*narrow, "i32") if suffix in ("i32", "u32") else (suffix,):
                handle, number, offset = place(w, storage)
                for value in VALUES[storage]:
                    w.put(handle.reference, offset, struct.pack(FORMATS[storage], value))
                    bits = 8 * struct.calcsize(FORMATS[storage])
                    expected = value % (1 << bits) if suffix == "u32" else value
                    assert plain(w.c(f"lh_{kind}_get_{suffix}", handle.reference, number)) == expected

        def write(w: World) -> None:
            for storage in ("i8", "i16", "i32") if suffix == "i32" else (suffix,):
                handle, number, offset = place(w, storage)
                size = struct.calcsize(FORMATS[storage])
                before = w.bytes_at(handle.reference, offset - 1, 1), w.bytes_at(handle.reference, offset + size, 1)
                for value in VALUES[suffix]:
                    given = vector(value) if suffix == "v128" else value
                    w.c(f"lh_{kind}_set_{suffix}", handle.reference, number, given)
                    expected = struct.pack(FORMATS[suffix], value)[:size]  # what does not fit is cut off
                    assert w.bytes_at(handle.reference, offset, size) == expected
                after = w.bytes_at(handle.reference, offset - 1, 1), w.bytes_at(handle.reference, offset + size, 1)
                assert before == after

        def get_reference(w: World) -> None:
            held, get = w.new(), f"lh_{kind}_get_ref"
            for value, raw in ((None, NULL), (lh.I31(-7), i31_from_int(-7))):
                holder, number = holder_of(w, value)
                assert w.c(get, holder.reference, number) == raw
            holder, number = holder_of(w, held)
            assert held.ref_count == 2
            assert [w.c(get, holder.reference, number) for _ in range(3)] == [held.reference] * 3
            assert held.ref_count == 3  # the list's, once
            assert list(w.store.heap.over_approximated_stack_roots()) == [held.reference]

        def set_reference(w: World) -> None:
            holder, one, other = (w.new() if kind == "struct" else w.new("ref")), w.new(), w.new()
            number = FIELD_OF["ref"] if kind == "struct" else 1
            set = f"lh_{kind}_set_ref"
            for value in (one.reference, one.reference, other.reference, i31_from_int(3), one.reference, NULL):
                w.c(set, holder.reference, number, value)
                assert one.ref_count == 1 + (value == one.reference)
                assert other.ref_count == 1 + (value == other.reference)
            w.c(set, holder.reference, number, other.reference)
            reference = other.reference
            other.release()
            assert holder[number].reference == reference
            w.c(set, holder.reference, number, NULL)  # nobody else held it, but the list, since it was read
            w.c("lh_collect")
            assert reference not in [each.index for each in w.store.heap.objects()]

        if suffix == "get_ref":
            return get_reference
        if suffix == "set_ref":
            return set_reference
        way, _, suffix = suffix.partition("_")
        return read if way == "get" else write

    for kind in ("struct", "array", "exception"):
        for suffix in ("i32", "u32", "i64", "f32", "f64", "v128", "ref"):
            exercise(f"lh_{kind}_get_{suffix}")(body(kind, f"get_{suffix}"))
            if suffix != "u32" and kind != "exception":
                exercise(f"lh_{kind}_set_{suffix}")(body(kind, f"set_{suffix}"))


_accessors()


@exercise("lh_inc_ref", "lh_dec_ref")
def counts(w: World) -> None:
    handle = w.new()
    reference = handle.reference
    w.c("lh_inc_ref", reference)
    assert handle.ref_count == 2
    handle.release()
    assert [each.ref_count for each in w.store.heap.objects()] == [1]
    w.c("lh_dec_ref", reference)
    assert not list(w.store.heap.objects())
    for none in (NULL, i31_from_int(1)):
        w.c("lh_inc_ref", none)
        w.c("lh_dec_ref", none)


@exercise("lh_expose")
def exposure(w: World) -> None:
    handle = w.new()
    for listed in (2, 2):
        w.c("lh_inc_ref", handle.reference)
        w.c("lh_expose", handle.reference)
        assert handle.ref_count == listed
    w.c("lh_expose", NULL)
    w.c("lh_expose", i31_from_int(1))
    assert list(w.store.heap.over_approximated_stack_roots()) == [handle.reference]
    w.store.collect()
    assert handle.ref_count == 1


@exercise("lh_defer")
def deferral(w: World) -> None:
    handle = w.new()
    for none in (NULL, i31_from_int(1)):
        w.c("lh_defer", none)
    for _ in range(2):
        w.c("lh_defer", handle.reference)
        assert handle.ref_count == 2
        assert list(w.store.heap.over_approximated_stack_roots()) == [handle.reference]
    w.store.collect()
    assert handle.ref_count == 1
    w.c("lh_defer", handle.reference)
    handle.release()
    assert w.store.heap.stats().live_objects == 1
    w.store.collect()
    assert w.store.heap.stats().live_objects == 0


@exercise("lh_read", "lh_write", "lh_init")
def slots_in_objects(w: World) -> None:
    holder, held = w.new("ref"), w.new()
    slot = w.slot(holder.reference, w.offset("ref", 2))
    w.c("lh_init", slot, held.reference)
    assert held.ref_count == 2
    assert slot[0] == held.reference
    assert w.c("lh_read", slot) == held.reference
    assert held.ref_count == 3
    w.c("lh_write", slot, i31_from_int(9))
    assert held.ref_count == 2
    assert holder[2] == lh.I31(9)
    w.c("lh_collect")
    assert held.ref_count == 1


@exercise("lh_store")
def references_by_offset(w: World) -> None:
    holder, held = w.new("ref"), w.new()
    offset = w.offset("ref", 2)
    w.c("lh_store", holder.reference, offset, held.reference)
    assert held.ref_count == 2
    assert holder[2] == held
    w.c("lh_store", holder.reference, offset, i31_from_int(9))
    assert held.ref_count == 1
    assert holder[2] == lh.I31(9)


@exercise("lh_frame_push", "lh_frame_pop")
def frames(w: World) -> None:
    reference = w.c("lh_alloc_struct", w.everything)
    outer, inner, frame, empty = (ffi().new(f"lh_{t}") for t in ("ref[2]", "ref[1]", "frame *", "frame *"))
    outer[0], outer[1] = reference, i31_from_int(4)
    w.c("lh_frame_push", frame, outer, 2)
    w.c("lh_frame_push", empty, NULLP, 0)
    lost = w.c("lh_alloc_struct", w.everything)
    w.verify()
    w.store.collect()
    live = [each.index for each in w.store.heap.objects()]
    assert live == [reference]
    assert lost not in live
    w.c("lh_frame_pop", empty)
    inner[0] = w.c("lh_alloc_struct", w.everything)
    w.c("lh_frame_push", empty, inner, 1)
    w.c("lh_collect")
    assert len(list(w.store.heap.objects())) == 2
    w.c("lh_frame_pop", empty)
    w.c("lh_frame_pop", frame)
    w.c("lh_collect")
    assert not list(w.store.heap.objects())


@exercise("lh_slot_register", "lh_slot_unregister")
def registered_slots(w: World) -> None:
    slot, other = ffi().new("lh_ref *", 77), ffi().new("lh_ref *")
    w.c("lh_slot_register", slot)
    assert slot[0] == NULL
    w.c("lh_slot_register", other)
    held = w.new()
    reference = held.reference
    w.c("lh_write", slot, reference)
    w.c("lh_write", other, reference)
    assert held.ref_count == 3
    held.release()
    w.verify()
    w.c("lh_collect")
    assert w.c("lh_read", slot) == reference
    assert sorted(value for _, value in w.store.heap.root_slots()) == [reference, reference]
    w.c("lh_slot_unregister", slot)
    assert slot[0] == NULL
    w.c("lh_slot_register", slot)  # where the first was
    w.c("lh_slot_unregister", slot)
    w.c("lh_slot_unregister", other)
    w.c("lh_collect")
    assert not list(w.store.heap.objects())


@exercise("lh_collect")
def collections(w: World) -> None:
    before = w.store.heap.stats().collections
    kept = w.new("ref")
    garbage = [w.c("lh_alloc_struct", w.everything) for _ in range(5)]
    w.c("lh_array_set_ref", kept.reference, 0, garbage[0])
    w.c("lh_collect")
    assert [each.index for each in w.store.heap.objects()] == [kept.reference, garbage[0]]
    assert w.store.heap.stats().collections == before + 1
    assert w.store.heap.stats().objects_freed == 4


@exercise("lh_collect_cycles")
def searches(w: World) -> None:
    kept, ring = w.new("ref"), w.new("ref")
    w.c("lh_array_set_ref", ring.reference, 0, ring.reference)
    w.c("lh_array_set_ref", ring.reference, 1, kept.reference)
    ring.release()
    w.c("lh_collect")
    assert w.store.heap.stats().live_objects == 2
    w.c("lh_collect_cycles")
    assert [each.index for each in w.store.heap.objects()] == [kept.reference]
    assert kept.ref_count == 1
    assert w.c("lh_heap_statistics").cyclic_objects == w.store.heap.stats().cyclic_objects == 1
    assert w.store.heap.stats().cycle_searches == 1
    with w.store.heap.no_gc_scope(), pytest.raises(NoGcScopeError):
        w.c("lh_collect_cycles")


@exercise("lh_collect_increment")
def increments(w: World) -> None:
    for _ in range(5):
        w.c("lh_alloc_struct", w.everything)
    left = []
    for _ in range(3):
        left.append(w.c("lh_collect_increment", 2))
        w.verify()
    assert left == [1, 1, 0]
    assert w.store.heap.stats().objects_freed == 5


@exercise("lh_no_gc_enter", "lh_no_gc_exit")
def scopes(w: World) -> None:
    w.c("lh_no_gc_enter")
    with w.store.heap.no_gc_scope():
        assert w.store.heap.control.no_gc_count == 2
        with pytest.raises(NoGcScopeError, match="2 are entered"):
            w.c("lh_collect")
    with pytest.raises(NoGcScopeError):
        w.store.collect()
    w.c("lh_no_gc_exit")
    w.c("lh_collect")
    with pytest.raises(NoGcScopeError, match="none was entered"):
        w.c("lh_no_gc_exit")


def test_no_function_is_left_out() -> None:
    assert EXERCISES.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_and_python_agree(world: World, name: str) -> None:
    EXERCISES[name](world)


# ----------------------------------------------------------------------------------------------------------------------
# Python's calls


def test_calls_from_python(world: World) -> None:
    with pytest.raises(HeapError, match="no function 'lh_nothing'"):
        world.c("lh_nothing")
    with pytest.raises(AttributeError, match="no function 'lh_nothing'"):
        world.native.lh_nothing  # noqa: B018  # the attribute is what is tested
    with pytest.raises(TypeError, match="lh_alloc_struct: 2 values were given where 1 are wanted"):
        world.c("lh_alloc_struct", 1, 2)
    with pytest.raises(InvalidReferenceError):
        world.native.adopt(0x4440)
    assert world.native.adopt(NULL) is None
    assert world.native.adopt(i31_from_int(-3)) == lh.I31(-3)
    assert world.native.cdata.bump == world.store.heap.control.bump


def test_stores_that_cannot_have_it() -> None:
    stores: list[dict[str, Any]] = [{"allocator": "first-fit"}, {"growth": "grow-first"}]
    for options in stores:
        with pytest.raises(UnsupportedError, match="works on heaps with the allocator"):
            attach(lh.Store(**options))
    with pytest.raises(UnsupportedError, match="collect_every is for the checked interface"):
        attach(lh.Store(collect_every=1), checked=False)
    closed = lh.Store()
    closed.close()
    with pytest.raises(HeapError, match="closed"):
        attach(closed)


def test_a_store_that_was_closed_or_detached(world: World) -> None:
    other = World(checked=bool(world.c("lh_is_checked")))
    other.store.close()
    with pytest.raises(HeapError, match="closed"):
        other.c("lh_collect")


def detach(w: World) -> object:
    memory = w.store.heap.detach()
    with pytest.raises(HeapError, match="views of it exist"):
        memory.close()  # C code has its address
    return memory


def move(w: World) -> object:
    """Put other memory in the place of the heap's, with the same bytes."""
    memory = w.store.heap.take_memory()
    other = Memory(memory.capacity, memory.maximum)
    other.write(0, memory.read(0, memory.capacity))
    w.store.heap.replace_memory(other, 0)
    return memory


GONE: dict[str, Callable[[World], object]] = {
    "closed": lambda w: w.store.close(),
    "detached": detach,
    "taken": lambda w: w.store.heap.take_memory(),
    "moved": move,
}


_visit = ffi().callback("lh_visitor", lambda _argument, _object: 0)
_write = ffi().callback("lh_writer", lambda _argument, data, size: 0 * len(bytes(ffi().buffer(data, size))))


@pytest.mark.parametrize("way", GONE)
def test_functions_refuse_a_heap_that_has_lost_its_memory(way: str, world: World) -> None:
    """They were crashes: the function pointers, and the heap's, are C's, and nobody asks Python."""
    w = World(checked=bool(world.c("lh_is_checked")))
    kept = [w.new(), w.new("ref"), lh.ExternRef(w.store, "value")]
    references = [NULL, 1, *(handle.reference for handle in kept)]
    control = w.native.cdata
    memory = GONE[way](w)
    gc.collect()
    if way in ("closed", "detached"):
        assert (control.bump, control.capacity) == (0, 0)
    result = room_for_result()
    for name, function in FUNCTIONS.items():
        if not function.takes_heap or name == "lh_error_message":
            continue
        for reference in references:
            args: list[Any] = []
            for parameter in function.parameters[1:]:
                if parameter.name == "result" or parameter.type.endswith("*"):
                    args.append(ffi().cast(parameter.type, result))
                elif parameter.type in ("lh_visitor", "lh_writer"):
                    args.append({"lh_visitor": _visit, "lh_writer": _write}[parameter.type])
                elif parameter.type in ("lh_finalizer", "lh_out_of_memory", "lh_on_error"):
                    args.append(NULLP)
                else:
                    args.append(reference if parameter.type == "lh_ref" else w.everything)
            looks = name in ("lh_heap_statistics", "lh_verify", "lh_walk", "lh_dump")
            allowed = (Status.OK, Status.CORRUPT) if looks else (Status.DETACHED,)
            assert w.raw(name, *args) in allowed, name
        if function.result == "lh_status":
            with pytest.raises(HeapError):
                w.native.call(name, *args[: len(args) - (function.parameters[-1].name == "result")])
    text = ffi().new("char[]", 64)
    assert w.native.functions["lh_error_message"](w.native.heap, text, 64) >= len(ffi().string(text))
    del memory, kept


def test_pointers_outlive_the_store(world: World) -> None:
    """Who has the heap's pointer and a function's may call, when nothing of the store is left in Python."""
    w = World(checked=bool(world.c("lh_is_checked")))
    cell = w.new()
    heap, control, collect = w.native.heap, w.native.cdata, w.native.lh_collect
    inc_ref, reference, store = w.native.lh_inc_ref, cell.reference, weakref.ref(w.store.heap)
    del w, cell
    gc.collect()
    assert [collect(heap), inc_ref(heap, reference)] == [Status.OK] * 2
    assert control.collections == 1
    found = store()
    assert found is not None, "the heap's pointer keeps the store"
    del found, heap
    gc.collect()
    assert store() is None
    assert control.collections == 1, "the control block's keeps that"


def test_a_finalizer_does_not_close_the_store_under_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run in the middle of an allocation by C, which has no room."""
    w = World(maximum_heap_size=1 << 16, initial_heap_size=1 << 16)
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda it: unraisable.append(str(it.exc_value)))
    owner = w.new("ref", 1)
    owner[0] = None
    externref = lh.ExternRef(w.store, "value", lambda _: w.store.close())
    w.native.lh_expose(w.native.heap, externref.reference)  # the list is the last that counts it
    w.c("lh_inc_ref", externref.reference)
    externref.release()
    result = ffi().new("lh_ref *")
    while not w.raw("lh_alloc_array", w.arrays["i64"], 60, result):
        w.c("lh_inc_ref", result[0])
        if unraisable:
            break
    assert w.raw("lh_alloc_array", w.arrays["i64"], 60, result) in (Status.OK, Status.OUT_OF_MEMORY)
    assert unraisable == ["cannot close a store while its compiled code is on the stack"]
    assert not w.store.is_closed
    w.store.close()


# ----------------------------------------------------------------------------------------------------------------------
# Compiled WebAssembly between the two

CHAIN = """(module
  (type $node (struct (field (mut anyref)) (field (mut i32))))
  (import "host" "work" (func $work (param (ref null $node)) (param externref) (result (ref null $node))))
  (global $kept (export "kept") (mut (ref null $node)) (ref.null $node))
  (func (export "run") (param $count i32) (param $data externref) (result i32)
    (local $sum i32) (local $mine (ref null $node)) (local $theirs (ref null $node))
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $mine (struct.new $node (global.get $kept) (local.get $count)))
        (local.set $theirs (call $work (local.get $mine) (local.get $data)))
        (local.set $sum (i32.add (local.get $sum) (i32.add
          (struct.get $node 1 (local.get $mine)) (struct.get $node 1 (local.get $theirs)))))
        (global.set $kept (local.get $theirs))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $more)))
    (local.get $sum))
  (func (export "sum") (result i32)
    (local $node (ref null $node)) (local $sum i32)
    (local.set $node (global.get $kept))
    (block $done
      (loop $more
        (br_if $done (ref.is_null (local.get $node)))
        (local.set $sum (i32.add (local.get $sum) (struct.get $node 1 (local.get $node))))
        (local.set $node (ref.cast (ref null $node) (struct.get $node 0 (local.get $node))))
        (br $more)))
    (local.get $sum))
  (func (export "forget") (global.set $kept (ref.null $node))))"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_compiled_code_and_c_share_objects(runtime: str, checked: bool) -> None:
    """Each round, a host function that wasm calls makes objects through C, and collects while wasm's frames wait."""
    engine = lh.Engine(runtime=runtime)
    w = World(checked=checked, engine=engine, initial_heap_size=1 << 14)
    node = lh.StructType((lh.FieldType(ANYREF, True), lh.FieldType(I32, True)))
    node_type = w.register(lh.SubType(node))
    freed: list[int] = []

    @ffi().callback("lh_finalizer")
    def finalize(data: Any) -> None:
        freed.append(int(ffi().cast("uintptr_t", data)))

    def work(mine: Any, data: Any) -> Any:
        assert data.value is extern_value
        slots, frame = ffi().new("lh_ref[2]"), ffi().new("lh_frame *")
        w.c("lh_frame_push", frame, slots, 2)
        slots[0] = w.c("lh_alloc_struct", node_type)
        w.c("lh_struct_set_i32", slots[0], 1, 1000 + w.c("lh_struct_get_i32", mine.reference, 1))
        w.c("lh_struct_set_ref", slots[0], 0, mine.reference)
        reference = mine.reference
        mine.release()  # from here on, only wasm's frame, and what C has linked to it, hold it
        for number in range(20):
            slots[1] = w.c("lh_alloc_externref", ffi().cast("void *", number), finalize)
            w.c("lh_alloc_array", w.arrays["i64"], 30)
        w.c("lh_collect")
        w.verify()
        while w.c("lh_collect_increment", 3):
            w.verify()
        assert w.c("lh_struct_get_ref", slots[0], 0) == reference
        made = w.native.adopt(slots[0])
        w.c("lh_frame_pop", frame)
        return made

    extern_value = object()
    instance = lh.Instance(w.store, lh.Module(engine, CHAIN), {"host": {"work": work}})
    rounds = range(1, 11)
    assert instance.exports["run"](10, extern_value) == sum(1000 + 2 * number for number in rounds)
    assert instance.exports["sum"]() == sum(1000 + 2 * number for number in rounds)
    first = instance.exports["kept"].value
    assert w.c("lh_struct_get_i32", first.reference, 1) == 1001
    assert sorted(freed) == sorted([*range(20)] * 10)[: len(freed)] or len(freed) >= 190
    del first
    instance.exports["forget"]()
    w.c("lh_collect")
    assert sorted(freed) == sorted([*range(20)] * 10)
    assert [each for each in w.store.heap.objects() if each.type_index == node_type] == []
    w.verify()
    w.store.close()


THROWER = """(module
  (type $cell (struct (field i64)))
  (tag $made (export "made") (param i32 v128 (ref null $cell)))
  (import "host" "look" (func $look (param exnref)))
  (func (export "run")
    (local $exception exnref)
    (block $caught (result exnref)
      (try_table (catch_all_ref $caught)
        (throw $made (i32.const -5) (v128.const i64x2 7 8) (struct.new $cell (i64.const 9))))
      (unreachable))
    (local.set $exception)
    (call $look (local.get $exception))
    (throw_ref (local.get $exception))))"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_c_reads_what_compiled_code_has_thrown(runtime: str, checked: bool) -> None:
    """Where only a frame of compiled code has the exception, and C collects."""
    engine = lh.Engine(runtime=runtime)
    store = lh.Store(engine)
    native = attach(store, checked=checked)
    seen: list[Any] = []

    def look(exnref: lh.ExnRef) -> None:
        exception = exnref.reference
        tag = native.call("lh_exception_tag", exception)
        exnref.release()
        native.call("lh_collect")
        cell = native.call("lh_exception_get_ref", exception, 2)
        native.call("lh_collect")
        native.call("lh_verify")
        seen.extend(
            (
                (tag.tag_instance, tag.tag_defined) == instance.exports["made"].words,
                native.call("lh_exception_get_i32", exception, 0),
                plain(native.call("lh_exception_get_v128", exception, 1)),
                native.call("lh_struct_get_i64", cell, 0),
            )
        )

    instance = lh.Instance(store, lh.Module(engine, THROWER), {"host": {"look": look}})
    with pytest.raises(lh.WasmException) as raised:
        instance.exports["run"]()
    assert raised.value.fields[:2] == (-5, 8 << 64 | 7)
    del raised
    assert seen == [True, -5, struct.pack("<QQ", 7, 8), 9]
    native.call("lh_collect")
    assert list(store.heap.objects()) == []
    store.close()


def test_an_exception_in_flight_is_a_root(world: World) -> None:
    """Nobody else has it between its throw and its catch; C finds a sound heap, and keeps it."""
    exception = world.thrown(world.new())
    reference, held = exception.reference, exception.fields[CARRIED_AT["ref"]].reference
    context = runtime_of(world.store).context
    world.c("lh_defer", reference)
    exception.release()
    context.exception = reference
    world.c("lh_collect")
    world.verify()
    assert [each.index for each in world.store.heap.objects()] == sorted([reference, held])
    pieces = Pieces()
    world.c("lh_dump", pieces.write, NULLP)
    dumped, expected = Image.from_bytes(b"".join(pieces)), world.store.snapshot()
    assert diff(dumped, expected) == []
    assert [(each.kind, each.reference) for each in dumped.roots] == [("frame", reference)]
    assert [each.reference for each in expected.roots] == [reference]
    assert [str(each) for each in dumped.object_at(reference).fields()] == [
        *map(str, world.tag.words),
        *("0", "0", "0.0", "0.0", f"0x{7:016x}{8:016x}", f"{held:#x}", "func 0"),
    ]
    context.exception = NULL
    world.c("lh_collect")
    assert list(world.store.heap.objects()) == []


def test_collect_every_holds_for_allocations_by_c() -> None:
    w = World(collect_every=1)
    lost = w.c("lh_alloc_struct", w.everything)
    w.c("lh_alloc_struct", w.everything)
    assert [each.index for each in w.store.heap.objects()] == [lost]  # the second is where the first was


# ----------------------------------------------------------------------------------------------------------------------
# Host data


class Counted:
    """A value whose end is counted."""


def test_values_of_both_sides_are_let_go_of_just_once(world: World) -> None:
    ended: list[str] = []
    values = {name: Counted() for name in ("python", "python, closed", "c", "c, closed")}
    handles = {name: ffi().new_handle(value) for name, value in values.items()}
    for name, value in values.items():
        weakref.finalize(value, ended.append, name)
    owners = {name: (handles[name], values[name]) for name in values}  # what the finalizers let go of
    del values, handles, value

    def let_go(pointer: Any) -> None:
        name = next(name for name, (handle, value) in owners.items() if ffi().from_handle(pointer) is value)
        del owners[name]

    callback = ffi().callback("lh_finalizer", let_go)
    w = World(checked=bool(world.c("lh_is_checked")))
    extern = {
        "python": lh.ExternRef(w.store, owners["python"][0], let_go),
        "python, closed": lh.ExternRef(w.store, owners["python, closed"][0], let_go),
        "c": w.native.adopt(w.c("lh_alloc_externref", owners["c"][0], callback)),
        "c, closed": w.native.adopt(w.c("lh_alloc_externref", owners["c, closed"][0], callback)),
    }
    for name, handle in extern.items():
        assert ffi().from_handle(w.c("lh_externref_data", handle.reference)) is owners[name][1]
    w.c("lh_collect")
    assert ended == []
    holder = w.new("ref")
    assert holder.ref_count == 1
    reference = extern["python"].reference
    w.c("lh_inc_ref", reference)
    extern.pop("python").release()
    assert ended == []
    w.c("lh_dec_ref", reference)
    assert ended == ["python"]
    extern.pop("c").release()
    assert ended == ["python", "c"]
    w.verify()
    w.store.close()
    assert sorted(ended) == sorted(["python", "c", "python, closed", "c, closed"])
    assert not owners


def test_finalizers_use_the_interface(world: World) -> None:
    """They allocate, collect, and drop further externrefs; each is called once, with the heap whole."""
    order: list[str] = []

    @ffi().callback("lh_finalizer")
    def last(_: Any) -> None:
        order.append("last")
        world.verify()

    @ffi().callback("lh_finalizer")
    def first(_: Any) -> None:
        order.append("first")
        world.verify()
        world.c("lh_alloc_struct", world.everything)
        world.c("lh_alloc_externref", NULLP, last)
        world.c("lh_collect")
        order.append("first is done")

    world.c("lh_alloc_externref", NULLP, first)
    assert world.native.lh_collect(world.native.heap) == Status.OK  # as C code calls it
    world.store.tidy()
    assert order == ["first", "first is done", "last"]
    assert not list(world.store.heap.objects())


def test_finalizers_use_the_interface_in_the_middle_of_an_allocation(checked: bool) -> None:
    """One that finds no room has dead externrefs freed first, whose finalizers allocate and verify."""
    w = World(checked=checked, initial_heap_size=1 << 14, maximum_heap_size=1 << 14)
    called = 0

    @ffi().callback("lh_finalizer")
    def finalize(_: Any) -> None:
        nonlocal called
        w.c("lh_verify")
        w.c("lh_alloc_array", w.arrays["i8"], 3)
        called += 1

    for _ in range(2000):
        w.c("lh_alloc_externref", NULLP, finalize)
    assert 0 < called < 2000
    w.c("lh_collect")
    assert called == 2000
    w.verify()
    w.store.close()


# ----------------------------------------------------------------------------------------------------------------------
# Misuse, in the checked form


LONGS_START = align_up(ARRAY_HEADER_END, 8)


@dataclass
class Misuse:
    """What is done wrong, and what comes of it."""

    status: Status
    exception: type[LowheapError]
    message: str
    name: str
    arguments: Callable[[World], tuple[Any, ...]]
    prepare: Callable[[World], Any] = lambda _: None
    restore: Callable[[World], Any] = lambda _: None

    def __str__(self) -> str:
        return f"{self.status.name}-{self.name}"


def _freed(w: World) -> int:
    """The reference of an object that is no more, and whose place is free."""
    handle = w.new()
    reference = int(handle.reference)
    handle.release()
    return reference


def _pushed(w: World) -> tuple[Any, Any]:
    """Two frames, pushed one after the other."""
    if not hasattr(w, "frames"):
        w.frames = ffi().new("lh_frame *"), ffi().new("lh_frame *")  # type: ignore[attr-defined]
        for frame in w.frames:  # type: ignore[attr-defined]
            w.c("lh_frame_push", frame, NULLP, 0)
    outer, inner = w.frames  # type: ignore[attr-defined]
    return outer, inner


def _pop(w: World) -> None:
    for frame in reversed(_pushed(w)):
        w.c("lh_frame_pop", frame)


def _keep(w: World, made: Any) -> Any:
    """What must live as long as the world."""
    w.__dict__.setdefault("kept", []).append(made)
    return made


def _registered(w: World) -> Any:
    slot = _keep(w, ffi().new("lh_ref *"))
    w.c("lh_slot_register", slot)
    return slot


def _r(w: World, kind: str = "everything") -> int:
    return int(_keep(w, w.new(kind)).reference)


def _functions(w: World) -> int:
    """A struct of a reference to a function, which is null."""
    type_index = w.register(lh.SubType(lh.StructType((lh.FieldType(FUNCREF, True),))))
    return int(_keep(w, lh.Struct(w.store, type_index)).reference)


def _exceptions(w: World) -> int:
    """A struct of a reference to an exception, which is null."""
    type_index = w.register(lh.SubType(lh.StructType((lh.FieldType(EXNREF, True),))))
    return int(_keep(w, lh.Struct(w.store, type_index)).reference)


def _set_control(**values: int) -> Callable[[World], None]:
    def change(w: World) -> None:
        for name, value in values.items():
            w.__dict__.setdefault("control", {}).setdefault(name, getattr(w.store.heap.control, name))
            setattr(w.store.heap.control, name, value)

    return change


def _restore_control(w: World) -> None:
    for name, value in w.__dict__["control"].items():
        setattr(w.store.heap.control, name, value)


@ffi().callback("lh_visitor")
def _refuse(_: Any, __: Any) -> int:
    return 1


@ffi().callback("lh_visitor")
def _accept(_: Any, __: Any) -> int:
    return 0


@ffi().callback("lh_writer")
def _refuse_to_write(_: Any, __: Any, ___: int) -> int:
    return 1


BAD_REFERENCE, WRONG_TYPE = Status.BAD_REFERENCE, Status.WRONG_TYPE
MISUSES = [
    Misuse(
        *(Status.OUT_OF_MEMORY, HeapExhaustedError, r"no room for \d+ bytes: \d+ of 65536 are live; .* may have 65536"),
        *("lh_alloc_array", lambda w: (w.arrays["i64"], 10_000)),
    ),
    Misuse(
        *(Status.TOO_LARGE, AllocationTooLargeError, f"{LONGS_START + 8 * (2**32 - 4)} bytes", "lh_alloc_array"),
        lambda w: (w.arrays["i64"], 2**32 - 4),
    ),
    Misuse(Status.BAD_ARGUMENT, HeapError, "budget is 0", "lh_collect_increment", lambda w: (0,)),
    Misuse(Status.BAD_ARGUMENT, HeapError, "argument slot is a null", "lh_read", lambda w: (NULLP,)),
    Misuse(Status.BAD_ARGUMENT, HeapError, "argument frame is a null", "lh_frame_push", lambda w: (NULLP, NULLP, 0)),
    Misuse(
        *(Status.BAD_ARGUMENT, HeapError, "argument slots is a null", "lh_frame_push"),
        lambda w: (_keep(w, ffi().new("lh_frame *")), NULLP, 1),
    ),
    Misuse(Status.BAD_ARGUMENT, HeapError, "argument visitor is a null", "lh_walk", lambda w: (NULLP, NULLP)),
    Misuse(Status.NULL_REFERENCE, InvalidReferenceError, "object is null", "lh_struct_get_i32", lambda w: (NULL, 0)),
    Misuse(Status.NULL_REFERENCE, InvalidReferenceError, "object is null", "lh_type_of", lambda w: (NULL,)),
    Misuse(BAD_REFERENCE, InvalidReferenceError, "0x7 is an i31", "lh_array_length", lambda w: (7,)),
    Misuse(BAD_REFERENCE, InvalidReferenceError, "0x24 names no live", "lh_struct_get_i64", lambda w: (0x24, 0)),
    Misuse(BAD_REFERENCE, InvalidReferenceError, "0xfffffff0 names no", "lh_inc_ref", lambda w: (0xFFFFFFF0,)),
    Misuse(BAD_REFERENCE, InvalidReferenceError, "names no live object", "lh_struct_get_ref", lambda w: (_freed(w), 6)),
    Misuse(
        *(BAD_REFERENCE, InvalidReferenceError, "value 0x[0-9a-f]+ names no live", "lh_struct_set_ref"),
        lambda w: (_r(w), 6, 0x8000),
    ),
    Misuse(
        *(BAD_REFERENCE, InvalidReferenceError, "cannot give back .* only one is the list's", "lh_dec_ref"),
        lambda w: (w.c("lh_alloc_struct", w.everything),),
    ),
    Misuse(
        *(BAD_REFERENCE, InvalidReferenceError, "cannot hand over .* only one is the list's", "lh_expose"),
        lambda w: (w.c("lh_alloc_struct", w.everything),),
    ),
    Misuse(
        *(BAD_REFERENCE, InvalidReferenceError, "slot 0x8000 names no", "lh_frame_push"),
        lambda w: (_keep(w, ffi().new("lh_frame *")), _keep(w, ffi().new("lh_ref[]", [0x8000])), 1),
    ),
    Misuse(WRONG_TYPE, InvalidReferenceError, "is not an array type", "lh_alloc_array", lambda w: (w.everything, 1)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "is not a struct type", "lh_alloc_struct", lambda w: (w.arrays["i8"],)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "is not an array;", "lh_array_length", lambda w: (_r(w),)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "is not a struct;", "lh_struct_get_f32", lambda w: (_r(w, "i8"), 0)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "is not an externref;", "lh_externref_data", lambda w: (_r(w),)),
    *(
        Misuse(WRONG_TYPE, InvalidReferenceError, f"is not {wanted}; it is {found}", name, arguments)
        for wanted, found, name, arguments in (
            ("a struct", "an exception", "lh_struct_get_i32", lambda w: (_r(w, "exception"), 0)),
            ("a struct", "an exception", "lh_struct_set_ref", lambda w: (_r(w, "exception"), 5, NULL)),
            (
                "a struct",
                "an externref",
                "lh_struct_get_v128",
                lambda w: (_keep(w, lh.ExternRef(w.store, 1)).reference, 0),
            ),
            ("an array", "an exception", "lh_array_length", lambda w: (_r(w, "exception"),)),
            ("an array", "a struct", "lh_array_set_v128", lambda w: (_r(w), 0, vector(bytes(16)))),
            ("an externref", "an exception", "lh_externref_data", lambda w: (_r(w, "exception"),)),
            ("an exception", "a struct", "lh_exception_tag", lambda w: (_r(w),)),
            ("an exception", "an array", "lh_exception_get_ref", lambda w: (_r(w, "ref"), 0)),
        )
    ),
    *(
        Misuse(WRONG_TYPE, InvalidReferenceError, f"{part} refers to functions, which are no objects", name, arguments)
        for part, name, arguments in (
            ("field 6", "lh_exception_get_ref", lambda w: (_r(w, "exception"), CARRIED_AT["function"])),
            ("field 0", "lh_struct_get_ref", lambda w: (_functions(w), 0)),
            ("field 0", "lh_struct_set_ref", lambda w: (_functions(w), 0, NULL)),
        )
    ),
    Misuse(
        *(WRONG_TYPE, InvalidReferenceError, "object .* where heap type 0xffffff00 is wanted", "lh_struct_set_ref"),
        lambda w: (_r(w), 6, _r(w, "exception")),
    ),
    Misuse(
        *(WRONG_TYPE, InvalidReferenceError, "object .* where heap type 0xffffff0a is wanted", "lh_struct_set_ref"),
        lambda w: (_exceptions(w), 0, _r(w)),
    ),
    Misuse(WRONG_TYPE, InvalidReferenceError, "field 3 .* v128, 6", "lh_struct_get_v128", lambda w: (_r(w), 3)),
    Misuse(
        WRONG_TYPE, InvalidReferenceError, "field 1 .* i32", "lh_exception_get_u32", lambda w: (_r(w, "exception"), 1)
    ),
    Misuse(WRONG_TYPE, InvalidReferenceError, "field 3 has .* i32", "lh_struct_get_i32", lambda w: (_r(w), 3)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "element 1 has", "lh_array_set_f64", lambda w: (_r(w, "f32"), 1, 1.0)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "field 6 has storage 7", "lh_struct_set_i64", lambda w: (_r(w), 6, 1)),
    Misuse(WRONG_TYPE, InvalidReferenceError, "references as elements", "lh_array_data", lambda w: (_r(w, "ref"),)),
    Misuse(
        *(WRONG_TYPE, InvalidReferenceError, "null, where that cannot be", "lh_struct_set_ref"),
        lambda w: (_keep(w, lh.Struct(w.store, w.narrow, [w.new()])).reference, 0, NULL),
    ),
    Misuse(
        *(WRONG_TYPE, InvalidReferenceError, "0x7 is an i31, where heap type", "lh_struct_set_ref"),
        lambda w: (_keep(w, lh.Struct(w.store, w.narrow, [w.new()])).reference, 0, 7),
    ),
    Misuse(
        *(WRONG_TYPE, InvalidReferenceError, "where heap type .* is wanted", "lh_struct_set_ref"),
        lambda w: (_keep(w, lh.Struct(w.store, w.narrow, [w.new()])).reference, 0, _r(w, "i8")),
    ),
    Misuse(Status.BAD_TYPE, TypeDefinitionError, "type 99 is not defined", "lh_alloc_struct", lambda w: (99,)),
    Misuse(Status.BAD_TYPE, TypeDefinitionError, "type 1048576 is", "lh_alloc_array", lambda w: (TYPE_LIMIT, 1)),
    Misuse(Status.BAD_TYPE, TypeDefinitionError, "4294967295 is", "lh_is_subtype", lambda w: (w.everything, 2**32 - 1)),
    Misuse(Status.BAD_TYPE, TypeDefinitionError, "type 99 is not", "lh_is_instance", lambda w: (_r(w), 99)),
    Misuse(Status.OUT_OF_BOUNDS, HeapError, "field 8 .* has 8", "lh_struct_get_i32", lambda w: (_r(w), 8)),
    Misuse(
        *(Status.OUT_OF_BOUNDS, HeapError, "field 7 .* the exception at .* has 7", "lh_exception_get_f64"),
        lambda w: (_r(w, "exception"), 7),
    ),
    Misuse(Status.OUT_OF_BOUNDS, HeapError, "element 3 .* has 3", "lh_array_get_u32", lambda w: (_r(w, "i8"), 3)),
    Misuse(Status.OUT_OF_BOUNDS, HeapError, "field 1 .* has 1", "lh_field_offset", lambda w: (w.arrays["i8"], 1)),
    Misuse(
        *(Status.BAD_FRAME, HeapError, "is not the one that was pushed last", "lh_frame_pop"),
        lambda w: (_pushed(w)[0],),
        restore=_pop,
    ),
    Misuse(
        *(Status.BAD_FRAME, HeapError, "is pushed already", "lh_frame_push"),
        lambda w: (_pushed(w)[1], NULLP, 0),
        restore=_pop,
    ),
    Misuse(
        *(Status.BAD_SLOT, HeapError, "neither in the heap nor registered", "lh_read"),
        lambda w: (_keep(w, ffi().new("lh_ref *")),),
    ),
    Misuse(
        *(Status.BAD_SLOT, HeapError, "is not a multiple of 4", "lh_init"),
        lambda w: (ffi().cast("lh_ref *", int(ffi().cast("uintptr_t", w.slot(_r(w), HEADER_SIZE))) + 2), NULL),
    ),
    Misuse(
        *(Status.OUT_OF_BOUNDS, HeapError, "offset 20 is out of bounds: .* are from 24 to 32", "lh_store"),
        lambda w: (_keep(w, lh.Struct(w.store, w.narrow, [w.new()])).reference, 20, NULL),
    ),
    Misuse(
        *(Status.OUT_OF_BOUNDS, HeapError, "offset 32 is out of bounds", "lh_store"),
        lambda w: (_keep(w, lh.Struct(w.store, w.narrow, [w.new()])).reference, 32, NULL),
    ),
    Misuse(
        *(Status.BAD_SLOT, HeapError, "holds the object at 0x[0-9a-f]+ already", "lh_init"),
        lambda w: (w.slot(_keep(w, lh.Struct(w.store, w.narrow, [w.new()])).reference, HEADER_SIZE), NULL),
    ),
    Misuse(Status.BAD_SLOT, HeapError, "is registered already", "lh_slot_register", lambda w: (_registered(w),)),
    Misuse(
        *(Status.BAD_SLOT, HeapError, "is not registered", "lh_slot_unregister"),
        lambda w: (_keep(w, ffi().new("lh_ref *")),),
    ),
    Misuse(
        *(Status.NO_GC, NoGcScopeError, "inside a no-GC scope; 1 are entered", "lh_collect_increment"),
        lambda w: (1,),
        lambda w: w.c("lh_no_gc_enter"),
        lambda w: w.c("lh_no_gc_exit"),
    ),
    Misuse(Status.NO_GC, NoGcScopeError, "none was entered", "lh_no_gc_exit", lambda w: ()),
    Misuse(
        *(Status.ABI, HeapError, "different layouts", "lh_collect", lambda w: ()),
        lambda w: setattr(w.native.heap, "abi", abi_hash() + 1),
        lambda w: setattr(w.native.heap, "abi", abi_hash()),
    ),
    Misuse(
        *(Status.BUSY, HeapError, "another call is at work", "lh_collect", lambda w: ()),
        lambda w: setattr(w.native.heap, "is_busy", 1),
        lambda w: setattr(w.native.heap, "is_busy", 0),
    ),
    Misuse(
        *(Status.LIMIT, HeapError, "host-data ids are in use", "lh_alloc_externref", lambda w: (NULLP, NULLP)),
        _set_control(host_data_count=HOST_DATA_LIMIT, free_host_data=0),
        _restore_control,
    ),
    Misuse(
        *(Status.CORRUPT, HeapCorruptionError, "lh_verify: ", "lh_verify", lambda w: ()),
        _set_control(current_len=5),
        _restore_control,
    ),
    Misuse(
        *(Status.UNSUPPORTED, UnsupportedError, "Python made this heap", "lh_define_array"),
        lambda w: (ffi().new("lh_field *", (VMStorage.I8, 0, 0)), NO_SUPERTYPE, 0),
    ),
    Misuse(Status.CALLBACK, HeapError, "lh_walk: ", "lh_walk", lambda w: (_refuse, NULLP), _r),
    Misuse(Status.CALLBACK, HeapError, "lh_dump: ", "lh_dump", lambda w: (_refuse_to_write, NULLP)),
]


def _forged(w: World, kind: int, type_index: int, size: int, behind: int = 0, count: int = 1) -> int:
    """A reference to what somebody wrote inside of an array: a header like an object's, and the word behind it."""
    holder = _keep(w, w.new("i8", 96))
    inside = align_up(w.offset("i8"), BLOCK_ALIGN)
    header = VMDrcHeader(ref_count=count, object_size=size)
    header.kind_and_reserved, header.type_index = kind, type_index
    w.put(holder.reference, inside, bytes(header) + struct.pack("<I", behind))
    return int(holder.reference) + inside


STRUCT, ARRAY, EXTERN, EXCEPTION = (
    int(each) for each in (VMGcKind.STRUCT_REF, VMGcKind.ARRAY_REF, VMGcKind.EXTERN_REF, VMGcKind.EXN_REF)
)
SMALL, EXTERN_SIZE = HEADER_SIZE + 8, ctypes.sizeof(VMDrcExternRef)
FORGERIES: dict[str, Callable[[World], int]] = {
    "a type that there is not": lambda w: _forged(w, STRUCT, 99, SMALL),
    "an index beyond the table": lambda w: _forged(w, STRUCT, (1 << 31) + w.everything, SMALL),
    "a type of another kind": lambda w: _forged(w, ARRAY, w.everything, SMALL),
    "another size than its type's": lambda w: _forged(w, STRUCT, w.narrow, SMALL + 16),
    "a length that is not its size's": lambda w: _forged(w, ARRAY, w.arrays["i8"], ARRAY_HEADER_END + 3, 4),
    "an end beyond the heap": lambda w: _forged(w, ARRAY, w.arrays["i8"], (1 << 30) + ARRAY_HEADER_END, 1 << 30),
    "an externref of a type": lambda w: _forged(w, EXTERN, w.everything, EXTERN_SIZE),
    "an exception of a type of structs": lambda w: _forged(w, EXCEPTION, w.narrow, SMALL),
    "an exception of another size": lambda w: _forged(w, EXCEPTION, w.tag.type_index, SMALL),
    "an externref without host data": lambda w: _forged(w, EXTERN, EXTERNREF_TYPE_INDEX, EXTERN_SIZE, 7),
}


@pytest.mark.parametrize("name", ["lh_defer", "lh_inc_ref", "lh_dec_ref", "lh_expose", "lh_is_instance", "lh_type_of"])
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_header_is_no_objects(forge: Callable[[World], int], name: str) -> None:
    w = World()
    reference = forge(w)
    arguments = (reference, w.everything) if name == "lh_is_instance" else (reference,)
    with pytest.raises(
        InvalidReferenceError, match=f"{name}: .*{reference:#x} names no object: what looks like a header"
    ):
        w.c(name, *arguments)
    w.verify()
    w.c("lh_collect")
    w.store.close()


def _with_forged(w: World, forged: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every function that takes a reference, with that one in each place where it takes one, all else being right."""
    holder, field, elements, exception = w.new(), FIELD_OF["ref"], w.new("ref"), w.new("exception")
    for name, function in FUNCTIONS.items():
        types = [parameter.type for parameter in function.parameters[1:]]
        of_array, of_exception, part = "_array_" in name, "_exception_" in name, name.rpartition("_")[2]
        for place in [number for number, type in enumerate(types) if type == "lh_ref"]:
            arguments: list[Any] = []
            for number, parameter in enumerate(function.parameters[1:]):
                known: dict[str, Any] = {
                    "object": elements if of_array else exception if of_exception else holder,
                    "field": field if place else (CARRIED_AT if of_exception else FIELD_OF).get(part, 2),
                    "type": w.everything,
                    "offset": w.offset("ref", -1),
                    "slot": _registered(w),
                }
                value = vector(bytes(16)) if parameter.type == "const lh_v128 *" else known.get(parameter.name, 0)
                value = forged if number == place else getattr(value, "reference", value)
                if parameter.name != "result":
                    arguments.append(value)
            yield name, tuple(arguments)


def test_every_function_refuses_a_forged_reference_wherever_it_takes_one() -> None:
    w = World()
    forged = FORGERIES["another size than its type's"](w)
    tried = set()
    for name, arguments in _with_forged(w, forged):
        with pytest.raises(lh.HeapError, match=f"{forged:#x} names no object"):
            w.c(name, *arguments)
        tried.add(name)
    assert tried == {
        name for name, each in FUNCTIONS.items() if any(parameter.type == "lh_ref" for parameter in each.parameters)
    }
    w.verify()
    w.store.close()


@pytest.mark.parametrize(
    "name", ["lh_read", "lh_write", "lh_init", "lh_slot_unregister", "lh_frame_push", "lh_collect"]
)
def test_a_slot_that_holds_a_forged_reference_is_refused(name: str) -> None:
    """A reference to a header that says it is on the list, as those are that frames hold."""
    w = World()
    forged = _forged(w, STRUCT | HEADER_IN_OVER_APPROX_LIST_BIT, w.narrow, SMALL + 16)
    before = w.bytes_at(forged, 0, HEADER_SIZE + 4)
    if name in ("lh_frame_push", "lh_collect"):
        frame, slots = ffi().new("lh_frame *"), ffi().new("lh_ref[]", [NULL, forged if name == "lh_frame_push" else 0])
        if name == "lh_collect":
            w.c("lh_frame_push", frame, slots, 2)
            slots[1] = forged
        arguments: tuple[Any, ...] = (frame, slots, 2) if name == "lh_frame_push" else ()
    else:
        slots = _registered(w)
        slots[0] = forged
        arguments = (slots, NULL) if name in ("lh_write", "lh_init") else (slots,)
    with pytest.raises(lh.HeapError, match=f"{forged:#x}"):
        w.c(name, *arguments)
    assert w.bytes_at(forged, 0, HEADER_SIZE + 4) == before
    slots[1 if name == "lh_collect" else 0] = NULL
    if name == "lh_collect":
        w.c("lh_frame_pop", frame)
    w.verify()
    w.store.close()


@pytest.mark.parametrize("misuse", MISUSES, ids=str)
def test_misuse_is_reported_and_does_no_harm(misuse: Misuse) -> None:
    w = World(maximum_heap_size=1 << 16, initial_heap_size=1 << 16)
    witness = w.new()
    witness[3] = 1 << 40
    arguments = misuse.arguments(w)
    misuse.prepare(w)
    try:
        with pytest.raises(misuse.exception, match=misuse.message) as raised:
            w.c(misuse.name, *arguments)
    finally:
        misuse.restore(w)
    assert type(raised.value) is misuse.exception
    assert str(raised.value).endswith(f"({misuse.status.name})")
    assert runtime_of(w.store).context.trap_code == 0
    w.verify()
    assert witness[3] == 1 << 40
    w.store.close()


def test_every_status_is_met() -> None:
    # The system refuses memory to heaps of C's only: test_embed_heaps.py. `call` does not call a heap without memory.
    elsewhere = {Status.OK, Status.SYSTEM, Status.DETACHED}
    assert {misuse.status for misuse in MISUSES} == set(Status) - elsewhere


def test_a_null_pointer_as_heap_or_result() -> None:
    w = World()
    for name, function in FUNCTIONS.items():
        if not function.takes_heap:
            continue
        pointer = w.native.functions[name]
        kinds = [argument.kind for argument in ffi().typeof(pointer).args]
        rest = [NULLP if kind in ("pointer", "function") else 0 for kind in kinds]
        without_heap = 0 if name == "lh_error_message" else Status.BAD_ARGUMENT
        assert pointer(NULLP, *rest[1:]) == without_heap, name
        if function.parameters[-1].name == "result":
            assert pointer(w.native.heap, *rest[1:]) == Status.BAD_ARGUMENT, name
    w.verify()


def test_each_null_pointer_by_itself() -> None:
    """In the place of each pointer that is no argument when it is null, all else being something."""
    w = World()
    message: Any = ffi().new("char[]", 256)
    tried = 0
    for name, function in FUNCTIONS.items():
        if not function.takes_heap or name == "lh_error_message":
            continue
        types = ffi().typeof(w.native.functions[name]).args[1:]
        for place, parameter in enumerate(function.parameters[1:]):
            if types[place].kind not in ("pointer", "function") or parameter.may_be_null:
                continue
            rest: list[Any] = [
                ffi().cast(type, 0x1000 if type.kind in ("pointer", "function") else 0) for type in types
            ]
            rest[place] = NULLP
            assert w.raw(name, *rest) == Status.BAD_ARGUMENT, (name, parameter.name)
            w.c("lh_error_message", message, 256)
            assert text_of(message) == f"{name}: the argument {parameter.name} is a null pointer"
            tried += 1
    assert tried > 30
    w.verify()


def test_a_visitor_must_not_use_the_heap() -> None:
    w = World()
    kept = w.new()
    said: list[Status] = []

    @ffi().callback("lh_visitor")
    def visit(_: Any, __: Any) -> int:
        said.append(w.raw("lh_collect"))
        return 0

    w.c("lh_walk", visit, NULLP)
    assert said == [Status.BUSY]
    assert kept.is_valid
    w.verify()


def test_between_the_trace_and_the_sweep_of_a_collection_by_python() -> None:
    """What would be allocated or read there would be swept, although C holds it; to look is allowed."""
    w = World()
    kept = w.new()
    collection = w.store.collection()
    collection.collect_increment()
    w.c("lh_walk", _accept, NULLP)
    assert w.c("lh_heap_statistics").live_objects == 1
    calls = {"lh_alloc_struct": (w.everything,), "lh_struct_get_ref": (kept.reference, 6), "lh_collect": ()}
    for name, args in calls.items():
        with pytest.raises(HeapError, match="BUSY"):
            w.c(name, *args)
    collection.collect_increment()
    w.c("lh_alloc_struct", w.everything)
    w.verify()


def test_another_thread_is_kept_out() -> None:
    """A walk stops in its visitor, while a second thread tries to get in."""
    w = World()
    kept = w.new()
    said: list[Status] = []

    @ffi().callback("lh_visitor")
    def visit(_: Any, __: Any) -> int:
        thread = threading.Thread(target=lambda: said.append(w.raw("lh_no_gc_enter")))
        thread.start()
        thread.join()
        return 0

    w.c("lh_walk", visit, NULLP)
    assert said == [Status.BUSY]
    assert kept.is_valid
    assert w.store.heap.control.no_gc_count == 0


def test_what_looks_like_a_header_where_none_can_be() -> None:
    w = World()
    array = w.new("i64", 20)
    header = VMDrcHeader(ref_count=1, object_size=64)
    header.kind_and_reserved, header.type_index = VMGcKind.STRUCT_REF, w.everything
    inside = align_up(w.offset("i64"), BLOCK_ALIGN)
    for offset in (inside + 8, inside + 12, inside + 18):
        w.put(array.reference, offset, bytes(header))
        with pytest.raises(InvalidReferenceError, match="names no live object"):
            w.c("lh_type_of", array.reference + offset)


def test_an_object_of_another_heap() -> None:
    """It is found out when this heap has nothing there."""
    w = World()
    with CHeap() as other:
        type_index = other.define_array((VMStorage.I64, FIELD_MUTABLE, 0))
        other.call("lh_alloc_array", type_index, 1000)
        foreign = other.call("lh_alloc_array", type_index, 1)
        with pytest.raises(InvalidReferenceError, match="names no live object"):
            w.c("lh_array_length", foreign)
        with pytest.raises(FailureError) as raised:
            other.call("lh_array_length", foreign + 16)
        assert raised.value.status == Status.BAD_REFERENCE


# ----------------------------------------------------------------------------------------------------------------------
# Anything at all

U32 = st.integers(0, 2**32 - 1)
_KINDS = {"lh_ref": "reference", "lh_type": "type"}
# A slot that is an object's, but no reference's, is not told from one that is: these get slots that are.
_NOT_DRAWN = {"lh_heap_create", "lh_frame_push", "lh_frame_pop", "lh_slot_register", "lh_slot_unregister"}
DRAWN = sorted(name for name, function in FUNCTIONS.items() if function.takes_heap and name not in _NOT_DRAWN)


def _draw_argument(data: st.DataObject, w: World, name: str, type: str, live: list[int]) -> Any:
    owned = name in ("lh_dec_ref", "lh_expose")  # of live objects, these take away what is not the caller's
    if type == "lh_ref":
        near = U32.map(lambda number: number % (2 * w.store.heap.control.bump))
        values = near | near.map(lambda number: number & -16) | U32
        drawn: int = data.draw(values if owned else values | st.sampled_from([NULL, *live]))
        is_live = drawn in {each.index for each in w.store.heap.objects()}
        return NULL if owned and is_live else drawn
    if type == "lh_type":
        return data.draw(st.integers(0, 20) | U32)
    if type in ("uint32_t", "int32_t"):
        return data.draw(st.integers(0, 8) | (U32 if type == "uint32_t" else st.integers(-(2**31), 2**31 - 1)))
    if type in ("uint64_t", "int64_t"):
        return data.draw(st.integers(0, 30))
    if type in ("float", "double"):
        return data.draw(st.floats(width=32))
    if type in ("lh_ref *", "const lh_ref *"):
        holders = [reference for reference in live if w.c("lh_type_of", reference) == w.everything]
        holder = data.draw(st.sampled_from(holders))
        inside = w.slot(holder, w.offset("ref", -1))
        outside = ffi().cast("lh_ref *", data.draw(st.integers(0, 2**64 - 1)))
        address = int(ffi().cast("uintptr_t", outside)) - w.store.heap.control.heap_base
        return data.draw(st.sampled_from([inside, inside, inside if 0 <= address < 2**32 else outside]))
    if type in ("lh_visitor", "lh_writer"):
        return {"lh_visitor": _refuse, "lh_writer": _refuse_to_write}[type]
    if type == "char *":
        return _keep(w, ffi().new("char[]", 64))
    if type == "const lh_v128 *":
        return vector(data.draw(st.binary(min_size=16, max_size=16)))
    if type == "const lh_field *":
        return _keep(w, ffi().new("lh_field[]", 40))
    return NULLP


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_nothing_that_is_passed_breaks_the_checked_form(data: st.DataObject) -> None:
    w = World(maximum_heap_size=1 << 16, initial_heap_size=1 << 16)
    kept: list[Any] = [w.new(), w.new(), lh.Struct(w.store, w.narrow, [w.new()]), lh.ExternRef(w.store, "value")]
    kept += [w.new(kind) for kind in (*w.arrays, "exception")]
    kept[0][6] = kept[1]
    live = [handle.reference for handle in kept]
    _freed(w)
    result = room_for_result()
    for name in data.draw(st.lists(st.sampled_from(DRAWN), min_size=1, max_size=20)):
        function = FUNCTIONS[name]
        args: list[Any] = []
        for parameter in function.parameters[1:]:
            if parameter.name == "result":
                args.append(ffi().cast(parameter.type, result))
            else:
                args.append(_draw_argument(data, w, name, parameter.type, live))
        if name == "lh_error_message":
            args[1] = min(args[1], 64)
        returned = w.native.functions[name](w.native.heap, *args)
        assert name == "lh_error_message" or returned in list(Status)
        if name == "lh_inc_ref" and returned == Status.OK:
            w.c("lh_dec_ref", *args)
        w.verify()
    while w.store.heap.control.no_gc_count:
        w.c("lh_no_gc_exit")
    assert all(handle.is_valid for handle in kept)
    w.store.collect()
    w.verify()
    w.store.close()
