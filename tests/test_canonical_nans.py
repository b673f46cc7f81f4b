"""`cranelift_nan_canonicalization`: each NaN that is computed, in any lane, is the canonical one, as in wasmtime."""

from __future__ import annotations

import functools
import struct
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap.wasm import nans, numeric, vectors

LEVELS = (0, 2)
RECORD, RESULT = 64, 48

# A function for each instruction works on a record in memory: three operands, and the result.

FLOATS = ("f32", "f64", "f32x4", "f64x2")


def function(name: str, operands: tuple[Any, ...], result: Any) -> str:
    loaded = " ".join(f"({type.value}.load offset={16 * number} (local.get 0))" for number, type in enumerate(operands))
    stored = f"({result.value}.store offset={RESULT} (local.get 0) ({name} {loaded}))"
    return f'(func (export "{name}") (param i32) {stored})'


def functions() -> dict[str, str]:
    """Whatever has floats as its result: what computes, and what passes them on."""
    known: dict[str, tuple[tuple[Any, ...], Any]] = dict(numeric.SIGNATURES)
    known |= {name: (operands, result) for name, (operands, result, _) in vectors.INSTRUCTIONS.items()}
    comparing = ("eq", "ne", "lt", "gt", "le", "ge")
    return {
        name: function(name, operands, result)
        for name, (operands, result) in known.items()
        if name.startswith(FLOATS) and name.partition(".")[2] not in comparing
    }


FUNCTIONS = functions()
COMPUTING = [name for name in FUNCTIONS if nans.may_come_of(name)]
EXACT = [name for name in FUNCTIONS if name not in COMPUTING]


def source(names: list[str]) -> str:
    return f'(module (memory (export "memory") 1) {" ".join(FUNCTIONS[name] for name in names)})'


@functools.cache
def peer() -> tuple[wasmtime.Store, Any]:
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = config.wasm_relaxed_simd_deterministic = True
    store = wasmtime.Store(wasmtime.Engine(config))
    module = wasmtime.Module(store.engine, source(list(FUNCTIONS)))
    return store, wasmtime.Instance(store, module, []).exports(store)


@functools.cache
def own(level: int) -> Any:
    store = lh.Store(lh.Engine(opt_level=level, cranelift_nan_canonicalization=True), initial_heap_size=8192)
    return lh.Instance(store, lh.Module(store.engine, source(list(FUNCTIONS)))).exports


def floats(format: str, infinity: int, bits: int) -> st.SearchStrategy[bytes]:
    """NaNs of all payloads, quiet and signalling, and now and then a number."""
    sign = 1 << (bits - 1)
    nan = st.builds(
        lambda payload, sign: struct.pack(format, infinity | payload | sign),
        *(st.integers(1, (sign - 1) ^ infinity), st.sampled_from([0, sign])),
    )
    number = st.sampled_from([0, sign, 1, infinity, infinity | sign, infinity >> 1, infinity >> 1 | sign])
    return st.one_of(nan, nan, number.map(lambda each: struct.pack(format, each)))


F32 = floats("<I", 0x7F800000, 32)
F64 = floats("<Q", 0x7FF << 52, 64)
OPERANDS = st.one_of(st.lists(F32, min_size=12, max_size=12), st.lists(F64, min_size=6, max_size=6)).map(b"".join)


def test_what_computes_floats_is_all_here() -> None:
    """And no more: a name that is no instruction's would be of no use."""
    assert len(COMPUTING) == 2 * 11 + 2 + 2 * 15 + 2
    assert {name.partition(".")[2].removesuffix("_s").removesuffix("_u") for name in EXACT} == {
        *("abs", "neg", "copysign", "pmin", "pmax", "splat"),
        *("reinterpret_i32", "reinterpret_i64", "convert_i32", "convert_i64", "convert_i32x4", "convert_low_i32x4"),
    }


@settings(max_examples=12, deadline=None)
@given(st.lists(OPERANDS, min_size=8, max_size=8))
def test_nans_are_wasmtimes_to_the_bit(records: list[bytes]) -> None:
    data = b"".join(each + bytes(16) for each in records)
    store, expected = peer()
    for name in FUNCTIONS:
        expected["memory"].write(store, data, 0)
        for place in range(0, len(data), RECORD):
            expected[name](store, place)
        wanted = bytes(expected["memory"].read(store, 0, len(data)))
        for level in LEVELS:
            exports = own(level)
            exports["memory"].write(data, 0)
            for place in range(0, len(data), RECORD):
                exports[name](place)
            assert exports["memory"].read(0, len(data)) == wanted, f"O{level} {name}"


@pytest.mark.parametrize("level", LEVELS)
def test_constants_that_make_a_nan(level: int) -> None:
    """LLVM would compute them, and take any NaN for any other."""
    engine = lh.Engine(opt_level=level, cranelift_nan_canonicalization=True)
    exports = lh.Instance(
        lh.Store(engine, initial_heap_size=8192),
        lh.Module(
            engine,
            """(module
              (func (export "quotient") (result i64) (i64.reinterpret_f64 (f64.div (f64.const 0) (f64.const 0))))
              (func (export "product") (param $x i32) (result i32) (i32.reinterpret_f32
                (f32.mul (f32.const -nan:0x200001) (f32.reinterpret_i32 (local.get $x)))))
              (func (export "same") (param $x i32) (result i32) (i32.reinterpret_f32
                (f32.add (f32.mul (f32.reinterpret_i32 (local.get $x)) (f32.const 1)) (f32.const -0)))))""",
        ),
    ).exports
    assert exports["quotient"]() == 0x7FF8 << 48
    assert exports["product"](5) == exports["same"](-1) == 0x7FC00000
    assert exports["same"](5) == 5


def ir(names: list[str], **options: Any) -> str:
    return lh.Module(lh.Engine(opt_level=0, **options), source(names)).compiled.llvm_ir


def test_nothing_is_emitted_that_nobody_asked_for() -> None:
    """Not where it is off, nor, where it is on, for what passes floats on."""
    canonical = ("2143289344", "9221120237041090560", "0x7FF8000000000000")
    off, on = ir(COMPUTING), ir(COMPUTING, cranelift_nan_canonicalization=True)
    assert not any(bits in off for bits in canonical)
    assert on.count("select") - off.count("select") == len(COMPUTING)
    assert ir(EXACT) == ir(EXACT, cranelift_nan_canonicalization=True)
    assert off == ir(COMPUTING, cranelift_nan_canonicalization=False)
