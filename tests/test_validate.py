"""Assembling and validating: which sources are taken, which features are on, and what errors become."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowheap.errors import MalformedModuleError, ModuleError
from lowheap.wasm import validate as validation
from lowheap.wasm.validate import to_binary, validate

EMPTY = b"\0asm\1\0\0\0"


# --- to_binary -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_binary_is_returned_as_bytes_and_unchecked(kind: type) -> None:
    for binary in (EMPTY, b"\0asm", b"\0asm and then anything \xff"):
        converted = to_binary(kind(binary))
        assert type(converted) is bytes
        assert converted == binary


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_text_is_assembled_from_str_and_from_bytes(kind: type) -> None:
    text = '(module (export "\N{SNOWMAN}" (func 0)) (func))'
    assembled = to_binary(text)
    assert type(assembled) is bytes
    assert assembled.startswith(EMPTY)
    assert "\N{SNOWMAN}".encode() in assembled
    assert to_binary(kind(text.encode())) == assembled
    assert to_binary("(module)") == EMPTY


def test_a_strided_view_is_taken() -> None:
    assert to_binary(memoryview(bytes(byte for byte in EMPTY for _ in range(2)))[::2]) == EMPTY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one module field"),
        ("(module", "expected `)`"),
        ("(module (func $f unknown.instruction))", "unknown operator"),
        ("(module (func (call $nobody)))", "unknown func"),
        ("\0asm\1\0\0\0", "unexpected character"),  # as str it is text
        ("(module)\ud800", "surrogates not allowed"),
        (b"\0as", "unexpected character"),
        (b"(module) ;; \xff", "not valid utf-8"),
        ("(" * 100_000, "expected valid module field"),
        ("(module (func " + "(block " * 100_000, "expected"),
    ],
)
def test_what_is_no_text_module_is_malformed_with_wasmtimes_message(text: str | bytes, message: str) -> None:
    with pytest.raises(MalformedModuleError, match=r"^not a WebAssembly text module: ") as caught:
        to_binary(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", [None, 3, ["(module)"], 1.5])
def test_a_source_of_another_type_is_named(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}$"):
        to_binary(wrong)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40) | st.binary(max_size=40))
def test_any_source_is_assembled_or_malformed(source: str | bytes) -> None:
    try:
        binary = to_binary(source)
    except MalformedModuleError:
        return
    assert type(binary) is bytes
    assert binary.startswith(b"\0asm")


# --- validate --------------------------------------------------------------------------------------------------------

FEATURES = {
    "multi-value": "(func (result i32 i64) i32.const 1 i64.const 2)",
    "reference types": "(func (result externref) ref.null extern)",
    "function references": "(type $t (func)) (func (param (ref $t)) local.get 0 call_ref $t)",
    "structs": "(type $s (struct (field i32))) (func (result (ref $s)) struct.new_default $s)",
    "arrays": "(type $a (array i8)) (func (param (ref $a)) (result i32) local.get 0 array.len)",
    "casts": "(func (param anyref) (result i31ref) local.get 0 ref.cast i31ref)",
    "i31": "(func (result i31ref) i32.const 1 ref.i31)",
    "extended constants": "(global i32 i32.const 1 i32.const 2 i32.add)",
    "constants of the collector": "(type $s (struct)) (global (ref $s) struct.new $s)",
    "sign extension": "(func (result i32) i32.const 1 i32.extend8_s)",
    "saturating truncation": "(func (result i32) f32.const 1 i32.trunc_sat_f32_s)",
    "bulk memory": "(memory 1) (func i32.const 0 i32.const 0 i32.const 0 memory.copy)",
    "tail calls": "(func $f return_call $f)",
    "exceptions": "(tag $e) (func throw $e)",
    "exception references": "(func (param exnref) local.get 0 throw_ref)",
    "simd": "(func (result v128) v128.const i64x2 1 2)",
    "relaxed simd": "(func (param v128) (result v128) local.get 0 local.get 0 i8x16.relaxed_swizzle)",
    "threads": "(memory 1 1 shared) (func (result i32) i32.const 0 i32.atomic.load)",
    "multiple memories": "(memory 1) (memory 1)",
    "64-bit memories": "(memory i64 1)",
    "wide arithmetic": "(func (result i64 i64) i64.const 1 i64.const 2 i64.mul_wide_u)",
    "custom page sizes": "(memory 1 (pagesize 1))",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_every_claimed_or_named_feature_is_on(feature: str) -> None:
    validate(to_binary(f"(module {FEATURES[feature]})"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(func (result i32))", "type mismatch"),
        ("(func local.get 0)", "unknown local"),
        ("(type $s (struct)) (type (sub $s (struct)))", "final"),
        ('(export "a" (func 0))', "unknown function"),
        (
            "(type $s (struct (field i32))) (func (param (ref $s)) (struct.set $s 0 (local.get 0) (i32.const 1)))",
            "immutable",
        ),
        ("(func (drop (ref.func 0)))", "undeclared function reference"),
    ],
)
def test_an_invalid_module_is_malformed_with_wasmtimes_message(text: str, message: str) -> None:
    with pytest.raises(MalformedModuleError, match=r"^not a valid WebAssembly module: ") as caught:
        validate(to_binary(f"(module {text})"))
    assert message in str(caught.value)
    assert "offset 0x" in str(caught.value)


@pytest.mark.parametrize("binary", [b"", b"\0asm", b"(module)", EMPTY[:-1], EMPTY + b"\xff", b"\0asm\x0d\0\1\0"])
def test_bytes_that_are_no_module_are_malformed(binary: bytes) -> None:
    with pytest.raises(MalformedModuleError):
        validate(binary)
    validate(EMPTY)


def test_a_component_is_said_to_be_one() -> None:
    component = to_binary("(component (core module))")
    with pytest.raises(MalformedModuleError, match=r"not a valid WebAssembly module, but a component: .* unbundle"):
        validate(component)


@pytest.mark.parametrize("wrong", ["(module)", bytearray(EMPTY), memoryview(EMPTY), None])
def test_validating_another_type_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(wrong).__name__}$"):
        validate(wrong)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_valid_or_malformed(data: bytes, header: bool) -> None:
    try:
        validate(EMPTY * header + data)
    except MalformedModuleError:
        assert data or not header
    else:
        assert header or data.startswith(EMPTY)


# --- The package -----------------------------------------------------------------------------------------------------


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    assert to_binary(EMPTY) == EMPTY  # needs no package
    for use in (lambda: to_binary("(module)"), lambda: validate(EMPTY)):
        with pytest.raises(ModuleError, match=r"pip install 'lowheap\[wasm\]'") as caught:
            use()
        assert not isinstance(caught.value, MalformedModuleError)


def test_the_engine_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import wasmtime

    made = []
    engine_class = wasmtime.Engine

    def counted(config: wasmtime.Config) -> wasmtime.Engine:
        made.append(config)
        return engine_class(config)

    monkeypatch.setattr(wasmtime, "Engine", counted)
    validation._engine.cache_clear()
    for _ in range(3):
        validate(EMPTY)
    assert len(made) == 1


# Signals from 32 on are libc's own: it catches one of them as soon as there are threads.
PROCESS = """
import atexit
import sys
import lowheap.wasm.decode
import lowheap.wasm.validate as validation
from lowheap.wasm.validate import to_binary, validate

def report():  # registered first, so called last
    sys.stderr.write("the engine is still there" * validation._engine.cache_info().currsize)

atexit.register(report)

def caught():
    with open("/proc/self/status") as status:
        mask = next(line.split()[1] for line in status if line.startswith("SigCgt"))
    return int(mask, 16) & 0x7FFFFFFF

assert "wasmtime" not in sys.modules
before = caught()
validate(to_binary("(module (type (struct)) (func (result (ref 0)) struct.new 0))"))
assert validation._engine.cache_info().currsize == 1
assert caught() == before, (hex(caught()), hex(before))
"""


def test_the_package_is_imported_late_leaves_signals_alone_and_goes_quietly() -> None:
    result = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
