"""Expressions of floats that a compiler would like to simplify: what comes of signalling NaNs, against wasmtime.

Arithmetic makes a quiet NaN of a signalling one, be the other operand 1 or -0; what is no arithmetic keeps every bit.
Expressions are drawn, of constants that are given in all ways in which a compiler may come to know them. Both sides
agree on each bit of a number, and on whether a NaN is quiet; which quiet NaN it is, arithmetic chooses.
"""

from __future__ import annotations

import functools
import itertools
import struct
from typing import Any, NamedTuple

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh

LEVELS = (0, 1, 2, 3)


class Format(NamedTuple):
    """How a float is carried: the integer of its width, and the bits of what matters."""

    integer: str
    one: int
    infinity: int
    quiet_bit: int
    sign: int

    def is_signalling(self, bits: int) -> bool:
        return self.is_nan(bits) and not bits & self.quiet_bit

    def is_nan(self, bits: int) -> bool:
        return bits & (self.sign - 1) > self.infinity

    def numbers(self) -> list[int]:
        half = self.one - self.quiet_bit * 2  # the exponent, less one
        magnitudes = [0, 1, self.one, self.one + 2 * self.quiet_bit, half, self.infinity]
        magnitudes += [self.infinity | self.quiet_bit, self.infinity | 1, self.infinity | self.quiet_bit | 5]
        return [bits | sign for bits in magnitudes for sign in (0, self.sign)]


FORMATS = {
    "f32": Format("i32", 0x3F800000, 0x7F800000, 1 << 22, 1 << 31),
    "f64": Format("i64", 0x3FF << 52, 0x7FF << 52, 1 << 51, 1 << 63),
}


def module(expressions: list[tuple[str, str]]) -> str:
    """Functions of the bits of two floats, each of the expression's type, and of a condition."""
    parts = []
    for number, (type, expression) in enumerate(expressions):
        integer = FORMATS[type].integer
        parts.append(
            f"""(func (export "{number}") (param $a {integer}) (param $b {integer}) (param $c i32) (result {integer})
                  (local $x {type}) (local $y {type}) (local $zero {type})
                  (local.set $x ({type}.reinterpret_{integer} (local.get $a)))
                  (local.set $y ({type}.reinterpret_{integer} (local.get $b)))
                  ({integer}.reinterpret_{type} {expression}))"""
        )
    return f"""(module (memory 1)
      (type $f32 (struct (field (mut f32)))) (type $f64 (struct (field (mut f64))))
      (type $f64s (array (mut f64))) (type $f32s (array (mut f32)))
      (global $f32 (mut f32) (f32.const 1)) (global $f64 (mut f64) (f64.const 1))
      (func $f32 (param f32) (result f32) (local.get 0)) (func $f64 (param f64) (result f64) (local.get 0))
      (func $of_i32 (param i32) (result f32) (f32.reinterpret_i32 (local.get 0)))
      (func $of_i64 (param i64) (result f64) (f64.reinterpret_i64 (local.get 0)))
      (func $i32 (param i32) (result i32) (local.get 0)) (func $i64 (param i64) (result i64) (local.get 0))
      {" ".join(parts)})"""


def constant(type: str, bits: int) -> str:
    """A constant by its bits, in the text format."""
    format = FORMATS[type]
    sign, magnitude = "-" if bits & format.sign else "", bits & (format.sign - 1)
    if magnitude > format.infinity:
        return f"({type}.const {sign}nan:{magnitude - format.infinity:#x})"
    if magnitude == format.infinity:
        return f"({type}.const {sign}inf)"
    value = struct.unpack("<f" if type == "f32" else "<d", magnitude.to_bytes(format.sign.bit_length() // 8, "little"))
    return f"({type}.const {sign}{value[0].hex()})"


WAYS: tuple[str, ...] = (
    "{constant}",
    "({type}.reinterpret_{integer} ({integer}.const {bits}))",
    "({type}.reinterpret_{integer} (call ${integer} ({integer}.const {bits})))",
    "(call ${type} {constant})",
    "(call $of_{integer} ({integer}.const {bits}))",
    "(block (result {type}) ({integer}.store (i32.const 8) ({integer}.const {bits})) ({type}.load (i32.const 8)))",
    "(block (result {type}) (global.set ${type} {constant}) (global.get ${type}))",
    "(struct.get ${type} 0 (struct.new ${type} {constant}))",
    "(select {constant} {constant} (local.get $c))",
    "(if (result {type}) (local.get $c) (then {constant}) (else {constant}))",
)
"""How a compiler may come to know a constant."""

ZEROS: tuple[str, ...] = (
    "(local.get $zero)",
    "(struct.get ${type} 0 (struct.new_default ${type}))",
    "(array.get ${type}s (array.new_default ${type}s (i32.const 4)) (i32.const 1))",
    "({type}.convert_i32_s (i32.const 0))",
)


def constants(type: str) -> st.SearchStrategy[str]:
    format = FORMATS[type]

    def written(bits: int, way: str) -> str:
        signed = bits - 2 * format.sign if bits & format.sign else bits
        return way.format(type=type, integer=format.integer, bits=signed, constant=constant(type, bits))

    converted = st.sampled_from([-1, 1, 2]).map(
        lambda number: f"({type}.convert_i32_s (call $i32 (i32.const {number})))"
    )
    return st.one_of(
        st.builds(written, st.sampled_from(format.numbers()), st.sampled_from(WAYS)),
        st.sampled_from(ZEROS).map(lambda each: each.format(type=type)),
        converted,
    )


def operands(type: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["(local.get $x)", "(local.get $y)"]) | constants(type)


@st.composite
def expressions(draw: st.DrawFn, type: str, depth: int = 3) -> str:
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return str(draw(operands(type)))
    inner = functools.partial(expressions, type, depth - 1)
    match draw(st.sampled_from(["binary", "binary", "binary", "unary", "exact", "conversion", "branch"])):
        case "binary":
            return f"({type}.{draw(st.sampled_from(BINARY))} {draw(inner())} {draw(inner())})"
        case "unary":
            return f"({type}.{draw(st.sampled_from(UNARY))} {draw(inner())})"
        case "exact":
            # The sign of a NaN that was computed is anyone's choice: it must not come to be that of a number.
            if draw(st.booleans()):
                return f"({type}.copysign {draw(inner())} {draw(operands(type))})"
            return f"({type}.{draw(st.sampled_from(['neg', 'abs']))} {draw(inner())})"
        case "conversion" if type == "f32":
            wide = draw(st.sampled_from(["{}", "(f64.neg {})", "(f64.abs {})", "(f64.mul {} (f64.const 1))"]))
            return f"(f32.demote_f64 {wide.format(f'(f64.promote_f32 {draw(inner())})')})"
        case "conversion":
            return f"(f64.promote_f32 (f32.demote_f64 {draw(inner())}))"
        case _:
            compared = (
                f"({type}.{draw(st.sampled_from(['eq', 'ne', 'lt', 'ge']))} (local.get $x) {draw(constants(type))})"
            )
            return f"(if (result {type}) {compared} (then {draw(inner())}) (else {draw(inner())}))"


BINARY = ("add", "sub", "mul", "div", "min", "max")
UNARY = ("ceil", "floor", "trunc", "nearest", "sqrt")


@functools.cache
def peer_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_function_references = config.wasm_gc = True
    return wasmtime.Engine(config)


@functools.cache
def engine(level: int) -> lh.Engine:
    return lh.Engine(opt_level=level, cache=None)


def compare(found: list[tuple[str, str]], levels: tuple[int, ...]) -> None:
    source = module(found)
    peer_store = wasmtime.Store(peer_engine())
    peer = wasmtime.Instance(peer_store, wasmtime.Module(peer_store.engine, source), []).exports(peer_store)
    own = {}
    for level in levels:
        store = lh.Store(engine(level), initial_heap_size=1 << 16)
        own[level] = lh.Instance(store, lh.Module(store.engine, source)).exports
    for number, (type, expression) in enumerate(found):
        format = FORMATS[type]
        arguments = [format.infinity | 1, format.infinity | format.quiet_bit | 5, format.one, 0]
        for a, b, c in itertools.product(arguments, arguments, (0, 1)):
            called: Any = peer[str(number)]
            expected = called(peer_store, a, b, c) & (2 * format.sign - 1)
            for level, exports in own.items():
                actual = exports[str(number)](a, b, c) & (2 * format.sign - 1)
                same = expected == actual
                if format.is_nan(expected) and not format.is_signalling(expected):
                    same = format.is_nan(actual) and not format.is_signalling(actual)
                assert same, f"O{level} {expression} of {a:#x}, {b:#x}, {c}: {actual:#x}, not {expected:#x}"


some = st.sampled_from(sorted(FORMATS)).flatmap(lambda type: st.tuples(st.just(type), expressions(type)))


@settings(max_examples=3, deadline=None)
@given(st.lists(some, min_size=12, max_size=16))
def test_drawn_expressions_agree_with_wasmtime(found: list[tuple[str, str]]) -> None:
    compare(found, (0, 2))


@pytest.mark.parametrize("type", FORMATS)
def test_identities_make_quiet_nans(type: str) -> None:
    """Each operator with each constant on either side, and each way to know one with what is an identity of it."""
    format = FORMATS[type]
    known = [
        f"({type}.{operator} {pair})"
        for operator in BINARY
        for bits in (0, format.sign, format.one, format.one | format.sign, format.infinity)
        for pair in (f"(local.get $x) {constant(type, bits)}", f"{constant(type, bits)} (local.get $x)")
    ]
    for operator, bits in (("sub", 0), ("add", format.sign), ("mul", format.one), ("div", format.one)):
        signed = bits - 2 * format.sign if bits & format.sign else bits
        for way in WAYS:
            given = way.format(type=type, integer=format.integer, bits=signed, constant=constant(type, bits))
            known.append(f"({type}.{operator} (local.get $x) {given})")
    known += [f"({type}.sub (local.get $x) {each.format(type=type)})" for each in ZEROS]
    known += [f"({type}.{operator} (local.get $x))" for operator in (*UNARY, "neg", "abs")]
    known += [f"({type}.{operator} ({type}.{operator} (local.get $x)))" for operator in UNARY]
    if type == "f32":
        known += ["(f32.demote_f64 (f64.promote_f32 (local.get $x)))"]
        known += ["(f32.demote_f64 (f64.neg (f64.promote_f32 (local.get $x))))"]
    equal = f"({type}.eq (local.get $y) {constant(type, format.one)})"
    product = f"({type}.mul (local.get $x) (local.get $y))"
    known.append(f"(if (result {type}) {equal} (then {product}) (else (local.get $y)))")
    compare([(type, each) for each in known], LEVELS)
