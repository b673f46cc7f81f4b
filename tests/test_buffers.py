"""Arrays of numbers as buffers, and as text: views of the heap's own memory, copies in and out, numpy."""

from __future__ import annotations

import array
import ctypes
import gc
import struct
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowheap as lh
from lowheap.types import ANYREF, F32, F64, I8, I16, I32, I64, V128, StorageType

CODES: dict[StorageType, str] = {I8: "B", I16: "H", I32: "i", I64: "q", F32: "f", F64: "d"}


def array_of(storage: StorageType, *, mutable: bool = True) -> lh.ArrayType:
    return lh.ArrayType(lh.FieldType(storage, mutable))


@pytest.fixture
def store() -> lh.Store:
    return lh.Store()


# ----------------------------------------------------------------------------------------------------------------------
# Views


@pytest.mark.parametrize("storage", CODES)
def test_a_view_is_the_array_s_own_memory(store: lh.Store, storage: StorageType) -> None:
    numbers = lh.Array(store, array_of(storage), [1, 2, 3] if CODES[storage] not in "fd" else [1.0, 2.0, 3.0])
    with numbers.view() as view:
        assert (view.format, view.tolist(), view.readonly) == (CODES[storage], [1, 2, 3], False)
        view[1] = 7
        assert numbers[1] == 7
        numbers[2] = numbers[1]
        assert view[2] == 7
    with pytest.raises(ValueError, match="released"):
        view[0]
    store.verify()


def test_a_view_of_immutable_elements_is_read_only(store: lh.Store) -> None:
    with lh.Array(store, array_of(I32, mutable=False), [1, 2]).view() as view:
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 3


def test_a_view_of_nothing(store: lh.Store) -> None:
    with lh.Array(store, array_of(F64), 0).view() as view:
        assert view.tolist() == []
    store.close()


@pytest.mark.parametrize("storage", [ANYREF, V128])
def test_what_is_no_number_is_no_buffer(store: lh.Store, storage: StorageType) -> None:
    made = lh.Array(store, array_of(storage), 2)
    for use in (made.view, made.tobytes, made.text):
        with pytest.raises(TypeError, match="type 0"):
            use()
    with pytest.raises(TypeError, match="not numbers"):
        lh.Array.from_buffer(store, array_of(storage), b"")


def test_while_a_view_is_out_the_memory_stays(store: lh.Store) -> None:
    numbers = lh.Array(store, array_of(I32), [1, 2, 3])
    with numbers.view() as view:
        for refused in (store.close, store.heap.detach, store.heap.take_memory):
            with pytest.raises(lh.HeapError, match="while 1 views of arrays are out"):
                refused()
        store.collect()
        assert view.tolist() == [1, 2, 3]
        again = numbers.view()
        with again, pytest.raises(lh.HeapError, match="out already"):
            again.__enter__()
    store.close()


def test_the_array_is_held_while_a_view_is_out(store: lh.Store) -> None:
    with lh.Array(store, array_of(I64), [5] * 100).view() as view:
        gc.collect()
        for _ in range(300):
            lh.Array(store, array_of(I64), [9] * 100)
        assert view.tolist() == [5] * 100
    store.tidy()
    assert store.stats().live_objects == 0
    store.verify()


def test_numpy_takes_a_view(store: lh.Store) -> None:
    numbers = lh.Array(store, array_of(F64), [1.0, 2.0, 3.0])
    with numbers.view() as view:
        vector = numpy.asarray(view)
        vector *= 2
        assert list(numbers) == [2.0, 4.0, 6.0]
        del vector
    assert list(numbers) == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("derived", [numpy.asarray, lambda view: view[1:], memoryview])
def test_what_was_made_of_a_view_keeps_the_array(store: lh.Store, derived: Any) -> None:
    kept = []
    with pytest.raises(lh.HeapError, match="still used"), lh.Array(store, array_of(I32), [1, 2, 3]).view() as view:
        kept.append(derived(view))
    del view
    gc.collect()
    assert list(kept[0])[-1] == 3
    store.collect()
    assert store.stats().live_objects == 1
    with pytest.raises(lh.HeapError, match="cannot close while 1 views"):
        store.close()
    kept.clear()
    store.close()


def test_a_view_that_is_never_entered_holds_nothing(store: lh.Store) -> None:
    lh.Array(store, array_of(I32), 3).view()
    store.close()


def test_an_exception_in_the_block_is_the_one_that_comes_out(store: lh.Store) -> None:
    numbers = lh.Array(store, array_of(I32), 3)
    with pytest.raises(LookupError), numbers.view():
        raise LookupError
    store.close()


def test_a_stale_array_has_no_view(store: lh.Store) -> None:
    numbers = lh.Array(store, array_of(I32), 3)
    numbers.release()
    for use in (lambda: numbers.view().__enter__(), numbers.tobytes, lambda: numbers[0:2], numbers.text):
        with pytest.raises((lh.StaleReferenceError, TypeError)):
            use()


# ----------------------------------------------------------------------------------------------------------------------
# Copies


@given(st.sampled_from(sorted(CODES, key=str)), st.binary(max_size=64))
def test_bytes_go_in_and_out(storage: StorageType, data: bytes) -> None:
    size = struct.calcsize(CODES[storage])
    data = data[: len(data) // size * size]
    with lh.Store() as store:
        numbers = lh.Array.from_buffer(store, array_of(storage), data)
        assert numbers.tobytes() == data
        assert len(numbers) == len(data) // size
        expected = struct.unpack(f"<{len(data) // size}{CODES[storage]}", data)
        assert struct.pack(f"<{len(numbers)}{CODES[storage]}", *numbers) == struct.pack(
            f"<{len(expected)}{CODES[storage]}", *expected
        )
        store.verify()


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_large_arrays_by_buffer(runtime: str) -> None:
    store = lh.Store(lh.Engine(runtime=runtime))
    for _ in range(3):
        source = array.array("d", range(50_000))
        numbers = lh.Array.from_buffer(store, array_of(F64), source)
        assert array.array("d", numbers.tobytes()) == source
        assert numbers[:] == source.tolist()
        assert numbers[::-1] == source.tolist()[::-1]
        assert numbers[10:50:7] == source.tolist()[10:50:7]
    store.verify()


@pytest.mark.parametrize(
    ("storage", "buffer", "values"),
    [
        (I32, array.array("i", [1, -2]), [1, -2]),
        (I32, array.array("I", [1, (1 << 32) - 1]), [1, -1]),
        (I8, array.array("b", [-1, 5]), [255, 5]),
        (I64, numpy.array([1, -2], numpy.int64), [1, -2]),
        (F32, numpy.array([1.5, 2.5], numpy.float32), [1.5, 2.5]),
        (F64, numpy.array([[1.5, 2.5]], numpy.float64), [1.5, 2.5]),
        (I16, (ctypes.c_uint16 * 2)(1, 2), [1, 2]),
        (I32, [1, 2, 3], [1, 2, 3]),
        (F64, (1, 2.5), [1.0, 2.5]),
    ],
)
def test_what_an_array_is_filled_from(store: lh.Store, storage: StorageType, buffer: Any, values: list[Any]) -> None:
    assert list(lh.Array.from_buffer(store, array_of(storage), buffer)) == values
    numbers = lh.Array(store, array_of(storage), len(values) + 2)
    numbers[1:-1] = buffer
    assert list(numbers) == [0, *values, 0]
    numbers[-2:0:-1] = buffer
    assert list(numbers) == [0, *values[::-1], 0]


@pytest.mark.parametrize(
    ("storage", "buffer", "error", "message"),
    [
        (I32, array.array("f", [1]), TypeError, "a buffer of format 'f', 4 bytes each, was given where .* are i32"),
        (F32, array.array("i", [1]), TypeError, "format 'i'"),
        (I32, array.array("h", [1, 2]), TypeError, "format 'h', 2 bytes each"),
        (I32, b"abc", ValueError, "3 bytes are no whole number of elements of 4 bytes"),
        (I32, numpy.arange(6, dtype=numpy.int32)[::2], ValueError, "not contiguous"),
        (I32, "text", TypeError, "str was given"),
        (I32, None, TypeError, "NoneType was given"),
        (I32, [1, "2"], TypeError, "'2' was given where i32 is wanted"),
        (I32, [1 << 40], ValueError, "does not fit i32"),
    ],
)
def test_what_an_array_is_not_filled_from(
    store: lh.Store, storage: StorageType, buffer: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lh.Array.from_buffer(store, array_of(storage), buffer)
    numbers = lh.Array(store, array_of(storage), 3)
    with pytest.raises(error, match=message):
        numbers[:] = buffer
    assert list(numbers) == [0, 0, 0]
    store.verify()


def test_slices_that_are_written(store: lh.Store) -> None:
    numbers = lh.Array(store, array_of(I8), b"abcdef")
    with pytest.raises(ValueError, match="2 values were given where 3 are wanted"):
        numbers[0:3] = b"xy"
    numbers[::2] = b"XYZ"
    assert numbers.tobytes() == b"XbYdZf"
    references = lh.Array(store, array_of(ANYREF), 3)
    references[1:] = [lh.I31(1), references]
    assert list(references) == [None, lh.I31(1), references]
    with pytest.raises(ValueError, match="1 values were given where 2"):
        references[1:] = [None]
    fixed = lh.Array(store, array_of(I8, mutable=False), b"abc")
    with pytest.raises(lh.HeapError, match=r"cannot write elements 0 to 2 of type \d+: it is immutable"):
        fixed[0:2] = b"xy"
    store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# Text


@given(st.text())
def test_text(text: str) -> None:
    with lh.Store() as store:
        assert lh.Array.from_text(store, array_of(I8), text).text() == text
        units = lh.Array.from_text(store, array_of(I16), text)
        assert units.text() == text
        assert len(units) == len(text.encode("utf-16-le")) // 2


def test_lone_surrogates_are_code_units_and_no_utf_8(store: lh.Store) -> None:
    assert lh.Array.from_text(store, array_of(I16), "a\ud800").text() == "a\ud800"
    with pytest.raises(UnicodeEncodeError):
        lh.Array.from_text(store, array_of(I8), "\ud800")
    with pytest.raises(UnicodeDecodeError):
        lh.Array(store, array_of(I8), b"\xff").text()


def test_text_is_in_small_integers(store: lh.Store) -> None:
    with pytest.raises(TypeError, match="text is in arrays of i8 or i16; the elements of type 0 are i32"):
        lh.Array.from_text(store, array_of(I32), "text")
    with pytest.raises(TypeError, match="text is 5; it must be a str"):
        lh.Array.from_text(store, array_of(I8), 5)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------------
# Numbers that are no int and no float


def test_numpy_s_numbers_will_do(store: lh.Store) -> None:
    record = lh.Struct(store, lh.StructType.of(whole=I32, real=F64, small=I8), [numpy.int64(5), numpy.float32(1.5), 3])
    assert (record["whole"], record["real"]) == (5, 1.5)
    record["whole"], record["real"], record["small"] = numpy.uint32((1 << 32) - 1), numpy.int16(3), numpy.int8(-1)
    assert list(record) == [-1, 3.0, 255]
    numbers = lh.Array(store, array_of(I32), numpy.int32(4))  # type: ignore[arg-type]
    numbers[numpy.int64(2)] = numpy.int8(7)
    assert list(numbers) == [0, 0, 7, 0]
    exports: Any = lh.Instance(
        store, lh.Module(store.engine, '(module (func (export "id") (param i64 f32) (result i64) (local.get 0)))')
    ).exports
    assert exports["id"](numpy.int16(-9), numpy.float64(1)) == -9
    for wrong in (numpy.bool_(True), numpy.float64(1), "1", lh.I31(1)):
        with pytest.raises(TypeError, match="must be an int"):
            record["whole"] = wrong
    with pytest.raises(TypeError, match="must be a float"):
        record["real"] = "1"
    store.verify()
