"""Handles and values: structs, arrays, externrefs and i31s from Python, both ways and wrongly."""

from __future__ import annotations

import ctypes
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowheap.bound_types import lift_reference, lower_reference
from lowheap.errors import AllocationTooLargeError, ForeignReferenceError, HeapError, StaleReferenceError
from lowheap.layout import HEADER_SIZE, NULL, block_length, i31_from_int
from lowheap.memory import Memory
from lowheap.objects import (
    Array,
    ExnRef,
    ExternRef,
    Func,
    GcObject,
    Struct,
)
from lowheap.store import Store
from lowheap.types import (
    ANYREF,
    ARRAYREF,
    EQREF,
    EXNREF,
    EXTERNREF,
    F32,
    F64,
    FUNCREF,
    I8,
    I16,
    I31REF,
    I32,
    I64,
    NULLEXTERNREF,
    NULLREF,
    STRUCTREF,
    V128,
    AbstractHeapType,
    ArrayType,
    FieldNameError,
    FieldType,
    FuncType,
    RefType,
    StorageType,
    StructType,
    SubType,
    UnknownTypeError,
)
from lowheap.values import I31, lift_scalar, lower_scalar


def structure(*storages: StorageType, mutable: bool = True) -> StructType:
    return StructType(tuple(FieldType(storage, mutable) for storage in storages))


def array(storage: StorageType, *, mutable: bool = True) -> ArrayType:
    return ArrayType(FieldType(storage, mutable))


class Rig(Store):
    """A store with a `node` type (left, right, value) and one that extends it."""

    def __init__(self) -> None:
        super().__init__()
        types = self.engine.types
        node = structure(RefType(True, 0), RefType(True, 0), I32)
        (self.node,) = types.register([SubType(node, final=False)])
        (self.leaf,) = types.register(
            [SubType(StructType((*node.fields, FieldType(I64, True))), 0)], outer=(self.node,)
        )
        types.name_type(self.node, "node")
        types.name_fields(self.node, {0: "left", 1: "right", 2: "value"})

    def live(self) -> int:
        """How many objects there are, once what Python forgot is dropped."""
        self.tidy()
        return self.heap.stats().live_objects


@pytest.fixture
def store() -> Rig:
    return Rig()


# ----------------------------------------------------------------------------------------------------------------------
# Structs


def test_fields_by_name_and_number(store: Rig) -> None:
    leaf = Struct(store, store.leaf, [None, None, 5, -1])
    node = Struct(store, store.node, [leaf, None, 7])
    assert (node["value"], node[2], node[-1]) == (7, 7, 7)
    assert node["left"] == node[0] == node[-3] == leaf
    assert node["right"] is None
    node["right"] = node["left"]
    node["left"] = None
    node["value"] = -3
    assert [node["left"], node["right"], node["value"]] == [None, leaf, -3]
    assert list(node) == [None, leaf, -3]
    assert (len(node), node.keys()) == (3, ["left", "right", "value"])
    assert leaf.keys() == [0, 1, 2, 3]
    store.verify()


def test_a_field_is_where_the_layout_says(store: Rig) -> None:
    record = Struct(store, structure(I8, I16, I32, I64, F32, F64), [0x11, 0x2222, 0x33333333, 0x44 << 56, 1.5, -2.25])
    expected = struct.pack("<BxHIQfxxxxd", 0x11, 0x2222, 0x33333333, 0x44 << 56, 1.5, -2.25)
    room = block_length(HEADER_SIZE + len(expected)) - HEADER_SIZE
    assert store.heap.memory.read(record.reference + HEADER_SIZE, room) == expected.ljust(room, b"\0")


def test_without_values_fields_are_zero(store: Rig) -> None:
    record = Struct(store, structure(I8, I64, F64, ANYREF, EXTERNREF, I31REF, FUNCREF))
    assert list(record) == [0, 0, 0.0, None, None, None, None]
    assert list(Struct(store, structure())) == []


def test_counts_and_handles(store: Rig) -> None:
    node = Struct(store, store.node)
    assert node.ref_count == 1
    again = Struct(store, store.node, [node, node, 0])
    assert node.ref_count == 3
    read = again["left"]
    assert node.ref_count == 4
    assert read == node
    assert hash(read) == hash(node)
    assert read is not node
    read.release()
    again["left"] = again["right"] = None
    store.tidy()
    assert node.ref_count == 1
    store.verify()


def test_writing_a_fields_own_value(store: Rig) -> None:
    node = Struct(store, store.node, [Struct(store, store.node, [None, None, 9]), None, 0])
    node["left"] = node["left"]
    assert node["left"]["value"] == 9
    store.verify()


def test_types_may_be_given_as_definitions(store: Rig) -> None:
    by_type = Struct(store, structure(I32), [1])
    by_definition = Struct(store, SubType(structure(I32)), [2])
    assert by_type.type_index == by_definition.type_index
    assert by_type.type == SubType(structure(I32))
    assert store.engine.types[by_type.type_index] == by_type.type


def test_a_long_list(store: Rig) -> None:
    head = None
    for number in range(3000):
        head = Struct(store, store.node, [head, None, number])
    assert store.live() == 3000
    assert head is not None
    assert head["left"]["left"]["value"] == 2997
    store.verify()
    del head
    assert store.live() == 0
    store.verify()


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("up", FieldNameError, "no field 'up'"),
        (3, IndexError, "no field 3; it has 3"),
        (-4, IndexError, "no field -4; it has 3"),
        (1.0, TypeError, "not by 1.0"),
        (None, TypeError, "not by None"),
        (True, TypeError, "not by True"),
    ],
)
def test_fields_that_are_not_there(store: Rig, key: Any, error: type[Exception], message: str) -> None:
    node = Struct(store, store.node)
    with pytest.raises(error, match=message):
        node[key]
    with pytest.raises(error, match=message):
        node[key] = None


def test_immutable_fields_are_written_once(store: Rig) -> None:
    record = Struct(store, structure(I32, ANYREF, mutable=False), [4, I31(2)])
    assert list(record) == [4, I31(2)]
    with pytest.raises(HeapError, match=f"cannot write field 0 of type {record.type_index}: it is immutable"):
        record[0] = 5
    with pytest.raises(HeapError, match=r"field 1 .* immutable"):
        record[1] = None
    assert list(record) == [4, I31(2)]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_as_many_values_as_fields(store: Rig, count: int) -> None:
    with pytest.raises(TypeError, match=f"type {store.node} has 3 fields; {count} values were given"):
        Struct(store, store.node, [None] * count)
    assert store.live() == 0


def test_a_value_that_does_not_fit_leaves_nothing_behind(store: Rig) -> None:
    inner = Struct(store, store.node)
    with pytest.raises(TypeError, match="'text' was given where i32 is wanted"):
        Struct(store, store.node, [inner, inner, "text"])
    assert store.live() == 1
    assert inner.ref_count == 1
    with pytest.raises(TypeError, match=r"where .* is wanted"):
        Array(store, array(RefType(True, store.node)), [inner, "text"])
    assert store.live() == 1
    store.verify()


def test_fields_that_need_values(store: Rig) -> None:
    with pytest.raises(TypeError, match=r"needs values: part 1 is \(ref any\), which has no default"):
        Struct(store, structure(I32, RefType(False, AbstractHeapType.ANY)))
    with pytest.raises(TypeError, match=r"part 0 is \(ref any\)"):
        Array(store, array(RefType(False, AbstractHeapType.ANY)), 3)
    assert list(Array(store, array(RefType(False, AbstractHeapType.ANY)), [])) == []
    assert store.live() == 0


# ----------------------------------------------------------------------------------------------------------------------
# Arrays


@pytest.mark.parametrize(
    ("storage", "values"),
    [
        (I8, [0, 255, 7]),
        (I16, [0, 65535, 7]),
        (I32, [0, -(1 << 31), (1 << 31) - 1]),
        (I64, [0, -(1 << 63), (1 << 63) - 1]),
        (F32, [0.0, 1.5, -math.inf]),
        (F64, [0.1, 1e300, math.inf]),
        (ANYREF, [None, I31(5), None]),
        (EXTERNREF, [None, None]),
    ],
)
def test_elements(store: Rig, storage: StorageType, values: list[Any]) -> None:
    made = Array(store, array(storage), values)
    assert list(made) == values
    assert len(made) == len(values)
    assert made[-1] == values[-1]
    assert made[1:] == values[1:]
    assert made[::-1] == values[::-1]
    made[0] = values[1]
    assert made[0] == values[1]
    zeros = Array(store, made.type_index, 4)
    assert list(zeros) == [0 if not isinstance(storage, RefType) else None] * 4
    store.verify()


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, IndexError, "index 3 is out of bounds of an array of 3 elements"),
        (-4, IndexError, "index -4 is out of bounds"),
        ("0", TypeError, "not by '0'"),
        (0.0, TypeError, "not by 0.0"),
        (True, TypeError, "not by True"),
        (None, TypeError, "not by None"),
    ],
)
def test_elements_that_are_not_there(store: Rig, index: Any, error: type[Exception], message: str) -> None:
    made = Array(store, array(I32), [1, 2, 3])
    with pytest.raises(error, match=message):
        made[index]
    with pytest.raises(error, match=message):
        made[index] = 0
    anything: Any = made
    with pytest.raises(TypeError, match="int was given where a buffer or a sequence of numbers is wanted"):
        anything[0:1] = 9
    with pytest.raises(ValueError, match="2 values were given where 1 are wanted"):
        anything[0:1] = [9, 9]
    assert list(made) == [1, 2, 3]


def test_immutable_elements(store: Rig) -> None:
    made = Array(store, array(I8, mutable=False), b"abc")
    with pytest.raises(HeapError, match=r"cannot write element 1 .* immutable"):
        made[1] = 0
    assert bytes(made) == b"abc"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (-1, HeapError, "cannot have -1 elements"),
        (1 << 30, AllocationTooLargeError, str(1 << 30)),
        (1 << 70, AllocationTooLargeError, str(1 << 70)),
        (True, TypeError, "values is True"),
        (None, TypeError, "no len"),
        (2.5, TypeError, "no len"),
    ],
)
def test_arrays_that_cannot_be(store: Rig, values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Array(store, array(I32), values)
    assert store.live() == 0


# ----------------------------------------------------------------------------------------------------------------------
# Externrefs


def test_any_python_value_can_be_an_externref(store: Rig) -> None:
    values: list[Any] = ["text", 3, 1.5, [1], object(), None, True, print]
    handles = [ExternRef(store, value) for value in values]
    assert all(handle.value is value for handle, value in zip(handles, values, strict=True))
    store.verify()
    assert len(store.host_data) == len(values)
    del handles
    assert (store.live(), len(store.host_data)) == (0, 0)


def test_values_are_wrapped_where_an_externref_is_wanted(store: Rig) -> None:
    holder = Struct(store, structure(EXTERNREF, EXTERNREF), ["text", ExternRef(store, 4)])
    assert isinstance(holder[0], ExternRef)
    assert (holder[0].value, holder[1].value) == ("text", 4)
    assert holder[0] == holder[0]
    holder[0] = 5
    assert holder[0].value == 5
    assert (store.live(), len(store.host_data)) == (3, 2)
    store.verify()


def test_objects_cross_between_the_hierarchies(store: Rig) -> None:
    """As `extern.convert_any` and `any.convert_extern` do: the reference stays the same."""
    node, host = Struct(store, store.node), ExternRef(store, "host")
    holder = Struct(store, structure(EXTERNREF, ANYREF, EXTERNREF), [node, host, I31(4)])
    assert list(holder) == [node, host, I31(4)]
    store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# i31


@given(st.integers(-(1 << 30), (1 << 31) - 1))
def test_i31(value: int) -> None:
    number = I31(value)
    assert number.raw == i31_from_int(value)
    assert number.unsigned == value % (1 << 31)
    assert int(number) == (value if value < 1 << 30 else value - (1 << 31))
    assert number == I31(int(number))
    assert hash(number) == hash(I31(int(number)))
    assert repr(number) == f"I31({int(number)})"


def test_i31_is_a_value() -> None:
    number: Any = I31(3)
    assert [10, 20, 30, 40][number] == 40
    assert number != 3
    assert number != I31(4)
    for name in ("raw", "_raw", "other"):
        with pytest.raises(AttributeError, match=f"cannot set '{name}'"):
            setattr(number, name, 4)
    assert int(number) == 3


@pytest.mark.parametrize("value", [-(1 << 30) - 1, 1 << 31, 1 << 40])
def test_i31_out_of_range(value: int) -> None:
    with pytest.raises(ValueError, match=f"cannot hold {value}"):
        I31(value)


@pytest.mark.parametrize("value", [None, "1", 1.0, True])
def test_i31_of_the_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match=f"cannot be made of {value!r}"):
        I31(value)


def test_an_int_will_do_where_an_i31ref_is_wanted(store: Rig) -> None:
    record = Struct(store, structure(I31REF, I31REF), [5, I31(-6)])
    assert list(record) == [I31(5), I31(-6)]
    with pytest.raises(ValueError, match=str(1 << 31)):
        record[0] = 1 << 31
    with pytest.raises(TypeError, match="'5' was given where i31ref is wanted"):
        record[0] = "5"


# ----------------------------------------------------------------------------------------------------------------------
# Which reference may go where


def makers(store: Rig) -> dict[str, Callable[[], Any]]:
    return {
        "null": lambda: None,
        "i31": lambda: I31(1),
        "node": lambda: Struct(store, store.node),
        "leaf": lambda: Struct(store, store.leaf),
        "array": lambda: Array(store, array(I8), 1),
        "host": lambda: ExternRef(store, "host"),
        "int": lambda: 5,
        "text": lambda: "text",
    }


WANTED: dict[str, tuple[Callable[[Rig], RefType], set[str]]] = {
    "anyref": (lambda s: ANYREF, {"null", "i31", "node", "leaf", "array", "host"}),
    "eqref": (lambda s: EQREF, {"null", "i31", "node", "leaf", "array"}),
    "i31ref": (lambda s: I31REF, {"null", "i31", "int"}),
    "structref": (lambda s: STRUCTREF, {"null", "node", "leaf"}),
    "arrayref": (lambda s: ARRAYREF, {"null", "array"}),
    "nullref": (lambda s: NULLREF, {"null"}),
    "(ref null node)": (lambda s: RefType(True, s.node), {"null", "node", "leaf"}),
    "(ref null leaf)": (lambda s: RefType(True, s.leaf), {"null", "leaf"}),
    "(ref any)": (lambda s: RefType(False, AbstractHeapType.ANY), {"i31", "node", "leaf", "array", "host"}),
    "externref": (lambda s: EXTERNREF, {"null", "i31", "node", "leaf", "array", "host", "int", "text"}),
    "(ref extern)": (
        lambda s: RefType(False, AbstractHeapType.EXTERN),
        {"i31", "node", "leaf", "array", "host", "int", "text"},
    ),
    "nullexternref": (lambda s: NULLEXTERNREF, {"null"}),
    "funcref": (lambda s: FUNCREF, {"null"}),
    "exnref": (lambda s: EXNREF, {"null"}),
}


@pytest.mark.parametrize("name", makers(Rig()))
@pytest.mark.parametrize("wanted", WANTED)
def test_lowering_references(store: Rig, wanted: str, name: str) -> None:
    make, accepted = WANTED[wanted]
    declared, value = make(store), makers(store)[name]()
    before = store.heap.stats().live_objects
    if name not in accepted:
        with pytest.raises(TypeError, match=re.escape(str(declared))):
            lower_reference(store, declared, value, [])
        assert store.heap.stats().live_objects == before
        store.verify()
        return
    kept: list[Any] = []
    raw = lower_reference(store, declared, value, kept)
    if value is None:
        assert raw == NULL
    elif isinstance(value, I31):
        assert raw == value.raw
    elif isinstance(value, GcObject):
        assert (raw, value.ref_count, kept) == (value.reference, 1, []), "the reference is borrowed of the handle"
    lifted = lift_reference(store, declared, store.heap.clone_gc_ref(raw))
    expected = I31(5) if (wanted, name) == ("i31ref", "int") else getattr(value, "value", value)
    assert getattr(lifted, "value", lifted) == expected
    del lifted, expected, value, kept
    assert store.live() == 0
    store.verify()


def test_functions(store: Rig) -> None:
    types = store.engine.types
    (type_index,) = types.register([SubType(FuncType((I32,), ()))])
    (other,) = types.register([SubType(FuncType((), ()))])
    function = Func._of(store, 7, type_index, "f", lambda args: args)
    assert lower_reference(store, FUNCREF, function, []) == 7
    assert lower_reference(store, RefType(False, type_index), function, []) == 7
    with pytest.raises(TypeError, match=r"is wanted"):
        lower_reference(store, RefType(True, other), function, [])
    with pytest.raises(TypeError, match="anyref is wanted"):
        lower_reference(store, ANYREF, function, [])
    with pytest.raises(ForeignReferenceError, match="belongs to another store"):
        lower_reference(Rig(), FUNCREF, function, [])
    assert lift_reference(store, FUNCREF, NULL) is None
    assert function(1, 2) == (1, 2)
    twin = Func._of(store, 7, type_index, "g", lambda args: None)
    assert function == twin
    assert hash(function) == hash(twin)
    assert function != Func._of(store, 8, type_index, "f", lambda args: None)
    assert function != 7
    assert repr(function) == "<Func f (func (param i32))>"


def test_the_null_of_each_hierarchy(store: Rig) -> None:
    for declared in (ANYREF, EXTERNREF, EXNREF, FUNCREF, RefType(True, store.node)):
        assert lower_reference(store, declared, None, []) == NULL
        assert lift_reference(store, declared, NULL) is None
        with pytest.raises(TypeError, match=r"None was given where .* is wanted, which is not nullable"):
            lower_reference(store, RefType(False, declared.heap_type), None, [])


def test_an_exception_in_a_field(store: Rig) -> None:
    (tag,) = store.engine.types.register([SubType(FuncType((), ()))])
    holder = Struct(store, structure(EXNREF))
    exception = store.alloc_exn(tag)
    store.heap.slot(holder.reference, HEADER_SIZE).value = exception
    found = holder[0]
    assert isinstance(found, ExnRef)
    assert found.reference == exception
    store.verify()
    holder[0] = None
    assert store.live() == 2
    found.release()
    assert store.live() == 1


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


BITS: dict[StorageType, int] = {I8: 8, I16: 16, I32: 32, I64: 64}


@given(st.sampled_from(sorted(BITS, key=str)), st.integers(-(1 << 65), 1 << 65))
def test_integers(storage: StorageType, value: int) -> None:
    bits = BITS[storage]
    if not -(1 << bits - 1) <= value < 1 << bits:
        with pytest.raises(ValueError, match=f"{value} does not fit {storage}"):
            lower_scalar(storage, value)
        return
    data = bytes(lower_scalar(storage, value))
    assert data == (value % (1 << bits)).to_bytes(bits // 8, "little")
    signed = storage in (I32, I64)
    assert lift_scalar(storage, data) == int.from_bytes(data, "little", signed=signed)


@given(st.floats(width=32))
def test_f32(value: float) -> None:
    data = bytes(lower_scalar(F32, value))
    assert data == struct.pack("<f", value) or math.isnan(value)
    assert repr(lift_scalar(F32, data)) == repr(value)


@given(st.floats() | st.integers(-(1 << 1100), 1 << 1100))
def test_f64(value: float) -> None:
    data = bytes(lower_scalar(F64, value))
    try:
        expected = float(value)
    except OverflowError:
        expected = math.inf if value > 0 else -math.inf
    assert repr(lift_scalar(F64, data)) == repr(expected)


@pytest.mark.parametrize("storage", [F32, F64])
@pytest.mark.parametrize("sign", [1, -1])
def test_integers_beyond_any_float_are_infinite(storage: StorageType, sign: int) -> None:
    assert lift_scalar(storage, bytes(lower_scalar(storage, sign * 10**400))) == sign * math.inf


@pytest.mark.parametrize("storage", [I8, I16, I32, I64, F32, F64])
@pytest.mark.parametrize("value", [None, "1", True, b"1", [1], 1j])
def test_numbers_of_the_wrong_type(storage: StorageType, value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"{value!r} was given where {storage} is wanted")):
        lower_scalar(storage, value)


def test_a_float_is_no_integer() -> None:
    with pytest.raises(TypeError, match=r"1.0 was given where i32 is wanted; it must be an int"):
        lower_scalar(I32, 1.0)


@given(st.integers(-(1 << 127), (1 << 128) - 1))
def test_a_vector_is_an_int_of_its_bytes(value: int) -> None:
    data = bytes(lower_scalar(V128, value))
    assert data == (value % (1 << 128)).to_bytes(16, "little") == bytes(lower_scalar(V128, data))
    assert lift_scalar(V128, data) == value % (1 << 128)


def test_vectors_in_objects(store: Rig) -> None:
    numbers = [1, (1 << 128) - 1, 0x000102030405060708090A0B0C0D0E0F]
    made = Struct(store, structure(I8, V128, V128), [7, -1, numbers[2].to_bytes(16, "little")])
    assert [made[field] for field in range(3)] == [7, numbers[1], numbers[2]]
    made[1] = 1 << 127
    assert (made[1], made[2]) == (1 << 127, numbers[2])
    assert [Struct(store, structure(I8, V128, V128))[field] for field in range(3)] == [0, 0, 0]
    elements = Array(store, array(V128), numbers)
    elements[0:2] = [bytes(range(16)), -2]
    assert elements[:] == [int.from_bytes(range(16), "little"), (1 << 128) - 2, numbers[2]]
    assert Array(store, array(V128), 2)[::-1] == [0, 0]
    store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Handles: stale, foreign, forgotten


def uses(handle: GcObject) -> dict[str, Callable[[], Any]]:
    """Everything that a handle's object is needed for."""
    calls: dict[str, Callable[[], Any]] = {"reference": lambda: handle.reference, "ref_count": lambda: handle.ref_count}
    if isinstance(handle, ExternRef):
        calls["value"] = lambda: handle.value
    if isinstance(handle, Struct | Array):
        calls["read"] = lambda: handle[0]
        calls["write"] = lambda: handle.__setitem__(0, 0)
        calls["iterate"] = lambda: list(handle)
    return calls


STALE: dict[str, tuple[Callable[[Rig, GcObject], Any], str]] = {
    "released": (lambda store, handle: handle.release(), "it was released"),
    "closed": (lambda store, handle: store.close(), "its store is closed"),
    "detached": (lambda store, handle: store.heap.detach(), "its heap was detached"),
}


@pytest.mark.parametrize("how", STALE)
@pytest.mark.parametrize("kind", ["struct", "references", "array", "externref"])
def test_stale_handles(store: Rig, kind: str, how: str) -> None:
    kinds: dict[str, Callable[[], GcObject]] = {
        "struct": lambda: Struct(store, structure(I32)),
        "references": lambda: Struct(store, structure(ANYREF)),
        "array": lambda: Array(store, array(I64), 2),
        "externref": lambda: ExternRef(store, "host"),
    }
    handle = kinds[kind]()
    twin = handle
    other = Struct(store, store.node)
    assert handle.is_valid
    make_stale, why = STALE[how]
    make_stale(store, handle)
    assert not handle.is_valid
    for name, use in uses(handle).items():
        with pytest.raises(StaleReferenceError, match=f"this {type(handle).__name__} handle is stale: {why}"):
            use()
        assert name
    assert repr(handle) == f"<{type(handle).__name__}, stale>"
    assert handle == twin
    assert handle != other
    handle.release()  # nothing, by now
    if how == "released":
        with pytest.raises(StaleReferenceError):
            other["left"] = handle
        store.verify()


def test_a_handle_that_the_host_frees_by_number_is_not_released_twice(store: Rig) -> None:
    node = Struct(store, store.node)
    holder = Struct(store, structure(ANYREF), [node])
    store.heap.drop_gc_ref(store.roots.release_handle(0))
    other = Struct(store, store.node)
    del node
    assert store.live() == 3
    assert holder[0]["value"] == 0
    assert other["value"] == 0
    store.verify()


def test_a_stale_handle_equals_only_itself(store: Rig) -> None:
    node = Struct(store, store.node)
    holder = Struct(store, structure(ANYREF), [node])
    again = holder[0]
    assert node == again
    node.release()
    assert node != again
    assert again == holder[0]
    assert node == node
    assert node != "node"


def test_handles_are_stale_when_the_heap_has_other_memory(store: Rig) -> None:
    node = Struct(store, store.node, [None, None, 4])
    store.heap.detach()
    store.heap.attach(Memory(), store.host_data)
    fresh = Struct(store, store.node, [None, None, 5])
    assert fresh.reference == 16
    with pytest.raises(StaleReferenceError, match="its heap was detached"):
        node["value"]
    node.release()
    del node
    store.tidy()
    assert fresh["value"] == 5, "the old handle did not release the new one's number"
    store.verify()


def test_foreign_handles(store: Rig) -> None:
    other = Rig()
    node, foreign = Struct(store, store.node), Struct(other, other.node)
    with pytest.raises(ForeignReferenceError, match=f"{re.escape(repr(foreign))} belongs to another store"):
        node["left"] = foreign
    with pytest.raises(ForeignReferenceError, match="belongs to another store"):
        Struct(store, structure(EXTERNREF), [ExternRef(other, 1)])
    assert node != foreign
    assert node.reference == foreign.reference
    assert node["left"] is None
    store.verify()
    other.verify()


def test_unreachable_handles_are_released(store: Rig) -> None:
    Struct(store, store.node)
    Array(store, array(I8), 10)
    ExternRef(store, "host")
    assert store.heap.stats().live_objects <= 3
    assert store.live() == 0
    handle = Struct(store, store.node)
    handle.release()
    assert store.heap.stats().live_objects == 0, "release is at once"


def test_a_handle_may_outlive_its_store() -> None:
    store = Rig()
    node = Struct(store, store.node)
    store.close()
    del store
    del node


def test_handles_only_come_from_subclasses(store: Rig) -> None:
    node = Struct(store, store.node)
    assert isinstance(node, GcObject)
    assert node.store is store
    with pytest.raises(AttributeError):
        node.reference = 5  # type: ignore[misc]


# ----------------------------------------------------------------------------------------------------------------------
# Wrong arguments, and how things look


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (99, UnknownTypeError, "99 is not a type index"),
        (-1, UnknownTypeError, "-1 is not a type index"),
        ("node", TypeError, "type is 'node'; it must be a type index or a type definition"),
        (None, TypeError, "type is None"),
        (True, TypeError, "type is True"),
        (I32, TypeError, "type is <NumType.I32"),
        (FuncType((), ()), HeapError, r"is \(func\), not a"),
    ],
)
def test_types_that_are_none(store: Rig, kind: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Struct(store, kind)
    with pytest.raises(error, match=message):
        Array(store, kind, 3)
    assert store.live() == 0


def test_types_of_the_other_kind(store: Rig) -> None:
    with pytest.raises(HeapError, match=r"is \(array i8\), not a struct type"):
        Struct(store, Array(store, array(I8, mutable=False), 0).type)
    with pytest.raises(HeapError, match=f"type {store.node} is .*, not an array type"):
        Array(store, store.node, 3)


@pytest.mark.parametrize("wrong", [None, "store", Store])
def test_stores_that_are_none(wrong: Any) -> None:
    for make in (lambda: Struct(wrong, 0), lambda: Array(wrong, 0, 1), lambda: ExternRef(wrong, 1)):
        with pytest.raises(TypeError, match=re.escape(f"store is {wrong!r}; it must be a Store")):
            make()


def test_representations(store: Rig) -> None:
    node, numbers = Struct(store, store.node), Array(store, array(I8), 3)
    node["left"] = node
    at, place = f"{node.reference:#x}", f"{numbers.reference:#x}"
    assert repr(node) == f"<Struct $node at {at}: left=<$node at {at}>, right=None, value=0>"
    assert repr(numbers) == f"<Array type {numbers.type_index} of 3 at {place}: [0, 0, 0]>"
    many = Array(store, array(I8), 100)
    assert repr(many).endswith(f": [{', '.join(['0'] * 16)}, …]>")
    assert repr(ExternRef(store, [1])) == "ExternRef([1])"
    for handle in (node, numbers):
        handle.release()
        assert repr(handle) == f"<{type(handle).__name__}, stale>"


def test_a_slot_that_is_not_traced_is_written_without_counting(store: Rig) -> None:
    record = Struct(store, structure(I31REF, FUNCREF))
    record[0] = I31(3)
    record[1] = Func._of(store, 9, store.engine.types.register([SubType(FuncType((), ()))])[0], "f", len)
    data = ctypes.string_at(store.heap.control.heap_base + record.reference + HEADER_SIZE, 8)
    assert data == struct.pack("<II", 7, 9)
    record[0] = record[1] = None
    store.verify()


@pytest.mark.parametrize("storage", [I8, I32, F32, F64])
def test_a_value_that_closes_the_store_while_it_is_converted(storage: Any) -> None:
    store = Store()
    cell = Struct(store, structure(storage))

    class Closing:
        def __index__(self) -> int:
            store.close()
            return 1

    with pytest.raises(StaleReferenceError, match="its store is closed"):
        cell[0] = Closing()


# ----------------------------------------------------------------------------------------------------------------------
# Types bound to a store


def test_a_type_is_bound_to_a_store(store: Rig) -> None:
    cell_type = StructType.of(left=ANYREF, right=ANYREF, value=FieldType(I32, False))
    Cell = cell_type.bind(store)
    leaf = Cell(None, None, 3)
    node = Cell(left=leaf, right=None, value=4)
    assert isinstance(node, Cell)
    assert isinstance(node, Struct)
    assert (node.left, node.right, node.value) == (leaf, None, 4)
    node.right = node.left
    assert node["right"] == leaf
    assert isinstance(node.right, Cell)
    assert (Cell().left, Cell().value) == (None, 0)
    with pytest.raises(HeapError, match=f"cannot write field 'value' of type {node.type_index}: it is immutable"):
        node.value = 5
    assert repr(node) == (
        f"<Struct type {node.type_index} at {node.reference:#x}: left={leaf._brief()}, right={leaf._brief()}, value=4>"
    )
    assert cell_type.bind(store) is Cell
    assert StructType(cell_type.fields).bind(store) is Cell
    assert Cell is not cell_type.bind(Rig())
    store.verify()


def test_bound_arrays(store: Rig) -> None:
    Numbers = array(I32).bind(store)
    assert list(Numbers([1, 2])) == [1, 2]
    assert list(Numbers(2)) == [0, 0]
    assert isinstance(Array(store, array(I32), 1), Numbers)


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ((1,), {}, "needs values of all fields, or of none; missing: b"),
        ((1, 2, 3), {}, "has 2 fields; 3 values were given"),
        ((1,), {"a": 2}, "field 'a' of type .* was given twice"),
    ],
)
def test_bound_types_want_each_field_once(
    store: Rig, values: tuple[int, ...], named: dict[str, int], message: str
) -> None:
    Pair = StructType.of(a=I32, b=I32).bind(store)
    with pytest.raises(TypeError, match=message):
        Pair(*values, **named)
    with pytest.raises(FieldNameError, match="no field 'c'"):
        Pair(a=1, c=2)
    assert store.live() == 0


def test_what_cannot_be_bound(store: Rig) -> None:
    with pytest.raises(TypeError, match="type is 'cell'"):
        store.bind("cell")


def test_fields_that_have_the_name_of_something_else_are_reached_by_subscript(store: Rig) -> None:
    record = Struct(store, StructType.of(store=I32, release=I32, plain=I32), [1, 2, 3])
    assert record.store is store
    assert callable(record.release)
    assert (record["store"], record["release"], record.plain) == (1, 2, 3)
    with pytest.raises(AttributeError, match="has no field 'other', and Struct no such attribute"):
        _ = record.other


def test_names_that_become_known_later(store: Rig) -> None:
    record = Struct(store, structure(I64), [7])
    with pytest.raises(AttributeError):
        _ = record.late
    store.engine.types.name_fields(record.type_index, {0: "late"})
    assert record.late == record["late"] == 7


def test_i31s_are_ordered_by_value() -> None:
    assert I31(-1) < I31(0) < I31(1)
    assert sorted([I31(3), I31(-2), I31(0)]) == [I31(-2), I31(0), I31(3)]
    with pytest.raises(TypeError):
        _ = I31(1) < 2


def test_handles_have_no_order(store: Rig) -> None:
    anything: Any = Struct(store, store.node)
    with pytest.raises(TypeError):
        _ = anything < anything
