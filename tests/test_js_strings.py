"""JavaScript's strings: the builtins of `wasm:js-string` beside V8, string constants, and what Python has of them.

V8 runs the same modules on the same random strings, step by step, lone surrogates, ropes and edges included.
"""

from __future__ import annotations

import functools
import gc
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples
from support.v8 import V8, has_js_strings

import lowheap as lh
from lowheap import strings
from lowheap.bound_types import new_string
from lowheap.collectors.shared import texts
from lowheap.errors import LinkError, MalformedModuleError, TrapCode
from lowheap.layout import VMGcKind
from lowheap.snapshot import Image, inspection
from lowheap.types import EXTERNREF, I32, FuncType, TypeRegistry
from lowheap.wasm import builtins, validate

IMPORTS = """
  (type $codes (array (mut i16)))
  (import "wasm:js-string" "cast" (func $cast (param externref) (result (ref extern))))
  (import "wasm:js-string" "test" (func $test (param externref) (result i32)))
  (import "wasm:js-string" "fromCharCodeArray"
    (func $fromCharCodeArray (param (ref null $codes) i32 i32) (result (ref extern))))
  (import "wasm:js-string" "intoCharCodeArray"
    (func $intoCharCodeArray (param externref (ref null $codes) i32) (result i32)))
  (import "wasm:js-string" "fromCharCode" (func $fromCharCode (param i32) (result (ref extern))))
  (import "wasm:js-string" "fromCodePoint" (func $fromCodePoint (param i32) (result (ref extern))))
  (import "wasm:js-string" "charCodeAt" (func $charCodeAt (param externref i32) (result i32)))
  (import "wasm:js-string" "codePointAt" (func $codePointAt (param externref i32) (result i32)))
  (import "wasm:js-string" "length" (func $length (param externref) (result i32)))
  (import "wasm:js-string" "concat" (func $concat (param externref externref) (result (ref extern))))
  (import "wasm:js-string" "substring" (func $substring (param externref i32 i32) (result (ref extern))))
  (import "wasm:js-string" "equals" (func $equals (param externref externref) (result i32)))
  (import "wasm:js-string" "compare" (func $compare (param externref externref) (result i32)))
"""

# Strings stay in a table, so that ropes are not made whole on the way. Each function takes places there; those that
# make a string put it into the place that comes last.
PROGRAM = f"""(module {IMPORTS}
  (table $strings (export "strings") 16 externref)
  (global $codes (mut (ref null $codes)) (array.new_default $codes (i32.const 64)))
  (func $at (param $place i32) (result externref) (table.get $strings (i32.and (local.get $place) (i32.const 15))))
  (func $keep (param $string externref) (param $place i32)
    (table.set $strings (i32.and (local.get $place) (i32.const 15)) (local.get $string)))
  (func (export "get") (param i32) (result externref) (call $at (local.get 0)))
  (func (export "set") (param i32 externref) (call $keep (local.get 1) (local.get 0)))
  (func (export "test") (param i32) (result i32) (call $test (call $at (local.get 0))))
  (func (export "cast") (param i32 i32) (call $keep (call $cast (call $at (local.get 0))) (local.get 1)))
  (func (export "length") (param i32) (result i32) (call $length (call $at (local.get 0))))
  (func (export "charCodeAt") (param i32 i32) (result i32) (call $charCodeAt (call $at (local.get 0)) (local.get 1)))
  (func (export "codePointAt") (param i32 i32) (result i32)
    (call $codePointAt (call $at (local.get 0)) (local.get 1)))
  (func (export "fromCharCode") (param i32 i32) (call $keep (call $fromCharCode (local.get 0)) (local.get 1)))
  (func (export "fromCodePoint") (param i32 i32) (call $keep (call $fromCodePoint (local.get 0)) (local.get 1)))
  (func (export "concat") (param i32 i32 i32)
    (call $keep (call $concat (call $at (local.get 0)) (call $at (local.get 1))) (local.get 2)))
  (func (export "substring") (param i32 i32 i32 i32)
    (call $keep (call $substring (call $at (local.get 0)) (local.get 1) (local.get 2)) (local.get 3)))
  (func (export "equals") (param i32 i32) (result i32)
    (call $equals (call $at (local.get 0)) (call $at (local.get 1))))
  (func (export "compare") (param i32 i32) (result i32)
    (call $compare (call $at (local.get 0)) (call $at (local.get 1))))
  (func (export "forget") (global.set $codes (ref.null $codes)))
  (func (export "intoCharCodeArray") (param i32 i32) (result i32)
    (call $intoCharCodeArray (call $at (local.get 0)) (global.get $codes) (local.get 1)))
  (func (export "fromCharCodeArray") (param i32 i32 i32)
    (call $keep (call $fromCharCodeArray (global.get $codes) (local.get 0) (local.get 1)) (local.get 2)))
)"""

needs_v8 = pytest.mark.skipif(not has_js_strings(), reason="no node has the builtins of wasm:js-string")


def module(source: str, **options: Any) -> lh.Module:
    return lh.Module(lh.Engine(opt_level=1), source, **options)


@functools.cache
def program() -> lh.Module:
    return lh.Module(lh.Engine(), PROGRAM)


def units(text: str) -> list[int]:
    data = strings.encoded(text)
    return [int.from_bytes(data[place : place + 2], "little") for place in range(0, len(data), 2)]


# ----------------------------------------------------------------------------------------------------------------------
# Beside V8

STEPS_OF_V8 = """
const program = new WebAssembly.Module(new Uint8Array(BYTES), {builtins: ["js-string"]});
const text = (units) => units === null ? null : typeof units === "number" ? units : String.fromCharCode(...units);
const answer = ({first, steps}) => {
  const exports = new WebAssembly.Instance(program, {}).exports;
  first.forEach((each, place) => exports.set(place, text(each)));
  const found = steps.map(([name, ...args]) => {
    try { return exports[name](...args) ?? null; } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) return "trap";
      throw error;
    }
  });
  const last = [];
  for (let place = 0; place < 16; place++) {
    const each = exports.get(place);
    last.push(typeof each === "string" ? Array.from({length: each.length}, (_, at) => each.charCodeAt(at)) : each);
  }
  return [found, last];
};
"""


@pytest.fixture(scope="module")
def v8() -> Iterator[V8]:
    binary = list(validate.to_binary(PROGRAM))
    with V8(STEPS_OF_V8.replace("BYTES", json.dumps(binary))) as found:
        yield found


CHARACTERS = st.sampled_from(
    ["a", "b", "\0", "\x7f", "é", "\ud7ff", "\ud800", "\udbff", "\udc00", "\udfff", "\ue000", "😀"]
)
TEXTS = st.lists(CHARACTERS, max_size=40).map("".join) | st.text(max_size=12)
PLACES = st.integers(0, 15)
NUMBERS = (
    st.integers(0, 45)
    | st.integers(0, 0x110000)
    | st.sampled_from([-1, -(1 << 31), (1 << 31) - 1, 0xD800, 0xDC00, 0xFFFF, 0x10000, 0x10FFFF, 0x110000])
)


def step(name: str, *arguments: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *arguments)


CONCAT = step("concat", PLACES, PLACES, PLACES)
STEPS = st.one_of(
    CONCAT,
    CONCAT,
    CONCAT,
    step("test", PLACES),
    step("cast", PLACES, PLACES),
    step("length", PLACES),
    step("charCodeAt", PLACES, NUMBERS),
    step("codePointAt", PLACES, NUMBERS),
    step("fromCharCode", NUMBERS, PLACES),
    step("fromCodePoint", NUMBERS, PLACES),
    step("substring", PLACES, NUMBERS, NUMBERS, PLACES),
    step("equals", PLACES, PLACES),
    step("compare", PLACES, PLACES),
    step("forget"),
    step("intoCharCodeArray", PLACES, NUMBERS),
    step("fromCharCodeArray", NUMBERS, NUMBERS, PLACES),
)


def run_steps(store: lh.Store, first: list[Any], steps: list[tuple[Any, ...]]) -> list[Any]:
    exports = lh.Instance(store, program()).exports
    for place, each in enumerate(first):
        exports["set"](place, each)
    found: list[Any] = []
    for name, *arguments in steps:
        try:
            found.append(exports[name](*arguments))
        except lh.Trap:
            found.append("trap")
    store.verify()
    last = [exports["get"](place) for place in range(16)]
    return [found, [units(each) if isinstance(each, str) else each and each.value for each in last]]


@needs_v8
@settings(max_examples=examples(60, many=600), deadline=None)
@given(st.lists(TEXTS | st.none() | st.just(7), max_size=8), st.lists(STEPS, max_size=40))
def test_builtins_do_what_those_of_v8_do(v8: V8, first: list[Any], steps: list[tuple[Any, ...]]) -> None:
    asked = v8.ask({"first": [units(each) if isinstance(each, str) else each for each in first], "steps": steps})
    for frequency in (0, 1):
        with lh.Store(program().engine, collect_every=frequency) as store:
            assert run_steps(store, first, steps) == asked


# ----------------------------------------------------------------------------------------------------------------------
# Ropes


def exports_of_program() -> Any:
    return lh.Instance(lh.Store(program().engine), program()).exports


def test_a_rope_deep_on_either_side_is_made_whole_without_recursion() -> None:
    exports = exports_of_program()
    store = exports["set"].store
    for side in ((0, 1), (1, 0)):
        exports["set"](0, "x" * 30)
        exports["set"](1, "y")
        for _ in range(20_000):
            exports["concat"](*side, 0)
        assert exports["length"](0) == 20_030
        assert exports["get"](0) == ("x" * 30 + "y" * 20_000 if side == (0, 1) else "y" * 20_000 + "x" * 30)
        before = store.heap.stats().live_objects
        assert exports["charCodeAt"](0, 20_029) == ord("y" if side == (0, 1) else "x")
        store.collect()
        assert store.heap.stats().live_objects < before - 15_000  # it was made whole: its parts are gone
        assert exports["get"](0)[:31] == ("x" * 30 + "y" if side == (0, 1) else "y" * 31)
        store.verify()


def test_a_rope_of_ropes_that_share_parts() -> None:
    exports = exports_of_program()
    exports["set"](0, "ab😀")
    for _ in range(12):
        exports["concat"](0, 0, 0)
    expected = "ab😀" * 4096
    assert exports["get"](0) == expected
    assert exports["substring"](0, 4, 8, 1) is None
    assert exports["get"](1) == "ab😀"
    assert exports["get"](0) == expected


def test_the_longest_string_is_v8s() -> None:
    exports = exports_of_program()
    exports["set"](0, "x" * 0x1FFF)
    for _ in range(16):
        exports["concat"](0, 0, 0)
    assert exports["length"](0) == 0x1FFF_0000
    exports["set"](1, "x" * 0xFFE8)
    exports["concat"](0, 1, 2)
    assert exports["length"](2) == 0x1FFF_FFE8
    exports["set"](1, "x")
    with pytest.raises(lh.Trap) as caught:
        exports["concat"](2, 1, 2)
    assert caught.value.code is TrapCode.UNREACHABLE


WAYS: list[dict[str, Any]] = [
    {"collector": "null"},
    {"collector": "rc-immix"},
    {"barriers": "outlined"},
    {"runtime": "python"},
    {"collector": "examples/collectors/deutsch_bobrow.py:DeutschBobrow"},
    {"collector": "examples/collectors/levanoni_petrank.py:LevanoniPetrank", "opt_level": 0},
    {"consume_fuel": True, "epoch_interruption": True, "opt_level": 1},
]


@pytest.mark.parametrize("options", WAYS, ids=lambda options: " ".join(map(str, options.values())))
def test_every_collector_has_strings(options: dict[str, Any]) -> None:
    engine = lh.Engine(**options)
    module = lh.Module(engine, PROGRAM)
    with lh.Store(engine, collect_every=3) as store:
        if engine.consume_fuel:
            store.set_fuel(1_000_000)
        if "epoch_interruption" in options:
            store.set_epoch_deadline(10)
        exports = lh.Instance(store, module).exports
        expected = "ab😀" * 9
        for _ in range(9):
            exports["set"](1, "ab😀")
            exports["concat"](0, 1, 0) if exports["test"](0) else exports["set"](0, "ab😀")
            exports["concat"](0, 1, 2)
        store.verify()
        assert exports["get"](0) == expected
        assert exports["charCodeAt"](0, 35) == 0xDE00
        exports["set"](3, expected)
        assert (exports["equals"](0, 3), exports["compare"](0, 2)) == (1, -1)
        store.verify()
    if engine.consume_fuel:
        with lh.Store(engine) as store:
            store.set_fuel(100_000)
            store.set_epoch_deadline(10)
            exports = lh.Instance(store, module).exports
            before = store.get_fuel()
            exports["set"](0, "x")
            exports["charCodeAt"](0, 0)
            assert store.get_fuel() < before


def test_native_functions_of_strings_do_in_python_what_they_do_compiled() -> None:
    with lh.Store(program().engine) as store:
        store.use_strings()
        types, heap = strings.string_types(store.engine.types), store.heap.native
        length, left, right = (field.offset for field in store.heap.struct_layout(types.rope).fields)
        one, other = "abcdefgh😀xy", "abcdefgh😀zy"
        first, second = (new_string(store, text) for text in (one, other))
        found = [texts.first_difference(heap, first.reference, second.reference, end) for end in (0, 3, 10, 12)]
        assert found == [0, 3, 10, 10]
        rope = store.bind(types.rope)
        whole = rope(36, rope(24, one, other), rope(12, "1", "23456789abc"))
        into = new_string(store, "." * 36)
        assert texts.unit_of_whole(heap, whole.reference, 0, left, right) == texts.NO_UNIT
        texts.write_rope(heap, whole.reference, into.reference, types.rope, length, left, right)
        looked_into = rope(36, one + other + "123456789abc", None)
        here = looked_into.reference
        expected = [*units(one + other + "123456789abc"), texts.NO_UNIT]
        assert [texts.unit_of_whole(heap, here, place, left, right) for place in range(37)] == expected
        assert texts.first_difference(heap, into.reference, heap.slot(here, left).value, 36) == 36


# ----------------------------------------------------------------------------------------------------------------------
# What is a string

KINDS = f"""(module {IMPORTS}
  (type $units (array (mut i16)))
  (type $pair (struct (field i32) (field (mut anyref)) (field (mut anyref))))
  (func (export "kinds") (param externref) (result i32 i32 i32 i32 i32 i32)
    (local $any anyref)
    (local.set $any (any.convert_extern (local.get 0)))
    (call $test (local.get 0))
    (ref.test (ref any) (local.get $any))
    (ref.test (ref eq) (local.get $any))
    (ref.test (ref struct) (local.get $any))
    (ref.test (ref array) (local.get $any))
    (i32.or (ref.test (ref $units) (local.get $any)) (ref.test (ref $pair) (local.get $any))))
  (func (export "rope") (param externref) (result externref) (call $concat (local.get 0) (local.get 0)))
  (func (export "units") (result externref) (extern.convert_any (array.new_default $units (i32.const 3))))
  (func (export "pair") (result externref)
    (extern.convert_any (struct.new $pair (i32.const 1) (ref.null none) (ref.null none))))
  (func (export "any") (param anyref) (result anyref) (local.get 0))
  (table $kept 4 externref)
  (func (export "keep") (param i32 externref) (table.set $kept (local.get 0) (local.get 1)))
  (func (export "keep rope") (param i32 externref externref)
    (table.set $kept (local.get 0) (call $concat (local.get 1) (local.get 2))))
)"""


def instance(source: str, store: lh.Store | None = None, **options: Any) -> Any:
    store = lh.Store(lh.Engine(opt_level=1)) if store is None else store
    return lh.Instance(store, lh.Module(store.engine, source, **options)).exports


def test_a_string_is_any_and_nothing_else_and_nothing_else_is_a_string() -> None:
    exports = instance(KINDS)
    store = exports.kinds.store
    assert exports.kinds("text") == exports.kinds(exports.rope("x" * 20)) == (1, 1, 0, 0, 0, 0)
    assert exports.kinds(exports.units()) == (0, 1, 1, 0, 1, 1)
    assert exports.kinds(exports.pair()) == (0, 1, 1, 1, 0, 1)
    assert exports.kinds(lh.I31(7)) == (0, 1, 1, 0, 0, 0)
    assert exports.kinds(object()) == exports.kinds(lh.ExternRef(store, "a host's value")) == (0, 1, 0, 0, 0, 0)
    assert exports.kinds(None) == (0, 0, 0, 0, 0, 0)
    assert exports.any("text") == "text"  # as V8 takes any value for an anyref


def test_no_type_of_a_program_is_a_strings() -> None:
    types = TypeRegistry()
    text, rope = strings.string_types(types)
    plain = [lh.types.SubType(each.composite) for each in (strings.TEXT, strings.ROPE)]
    assert not set(types.register(plain)) & {text, rope}
    assert strings.string_types(types) == (text, rope)
    decoded = builtins._library().groups[0]
    assert decoded == [strings.TEXT, strings.ROPE]  # those of the builtins' own module


# ----------------------------------------------------------------------------------------------------------------------
# How a module has them


def test_a_builtin_can_be_exported_referred_to_and_put_into_a_table() -> None:
    exports = instance(
        """(module
          (type $measure (func (param externref) (result i32)))
          (import "wasm:js-string" "length" (func $length (type $measure)))
          (import "wasm:js-string" "test" (func $test (type $measure)))
          (table $all funcref (elem $length $test))
          (global $one (ref $measure) (ref.func $test))
          (elem declare func $length)
          (export "length" (func $length))
          (func (export "by table") (param i32 externref) (result i32)
            (call_indirect $all (type $measure) (local.get 1) (local.get 0)))
          (func (export "by reference") (param externref) (result i32)
            (call_ref $measure (local.get 0) (ref.func $length)))
          (func (export "by global") (param externref) (result i32)
            (call_ref $measure (local.get 0) (global.get $one)))
          (func (export "tail") (param externref) (result i32) (return_call $length (local.get 0))))"""
    )
    assert exports["length"]("four") == exports["by reference"]("four") == exports["tail"]("four") == 4
    assert [exports["by table"](place, "four") for place in (0, 1)] == [4, 1]
    assert exports["by global"]("four") == 1
    assert exports["length"].type == FuncType((EXTERNREF,), (I32,))


def test_a_trap_is_at_the_call_in_the_users_own_function() -> None:
    source = """(module
      (import "wasm:js-string" "charCodeAt" (func $at (param externref i32) (result i32)))
      (import "wasm:js-string" "substring" (func $part (param externref i32 i32) (result (ref extern))))
      (import "host" "f" (func $f))
      (func $inner (export "inner") (param externref) (result i32) (call $at (local.get 0) (i32.const 3)))
      (func $outer (export "outer") (param externref) (result externref)
        (call $part (local.get 0) (i32.const 0) (i32.const 1))))"""
    store = lh.Store(lh.Engine(opt_level=1))
    compiled = lh.Module(store.engine, source)
    assert [(each.module, each.name) for each in compiled.imports] == [("host", "f")]
    exports = lh.Instance(store, compiled, {"host": {"f": lambda: None}}).exports
    with pytest.raises(lh.Trap) as caught:
        exports.inner("abc")
    assert caught.value.code is TrapCode.ARRAY_OUT_OF_BOUNDS
    assert [(each.func_index, each.func_name) for each in caught.value.frames] == [(3, "inner")]
    with pytest.raises(lh.Trap) as caught:
        exports.outer(5)
    names = [(each.func_index, each.func_name) for each in caught.value.frames]
    assert names == [(1, "wasm:js-string.substring"), (4, "outer")]


def test_what_is_no_builtin_and_what_is_switched_off_must_be_given() -> None:
    source = """(module
      (import "wasm:js-string" "length" (func $length (param externref) (result i32)))
      (import "wasm:js-string" "trim" (func $trim (param externref) (result externref)))
      (export "length" (func $length)))"""
    engine = lh.Engine(opt_level=1)
    assert [each.name for each in lh.Module(engine, source).imports] == ["trim"]
    off = lh.Module(engine, source, builtins=())
    assert [each.name for each in off.imports] == ["length", "trim"]
    given = {"wasm:js-string": {"length": lambda text: len(text.value) * 100, "trim": lambda text: text}}
    assert lh.Instance(lh.Store(engine), off, given).exports["length"]("abc") == 300
    with pytest.raises(ValueError, match="builtins has 'js-array'; there are: js-string"):
        lh.Module(engine, source, builtins=["js-array"])


def test_a_wrong_type_is_told_when_the_module_is_compiled() -> None:
    wrong = """(module
      (type $odd (array (mut i8)))
      (import "wasm:js-string" "length" (func (param externref) (result i64)))
      (import "wasm:js-string" "test" (func (param externref) (result i32)))
      (import "wasm:js-string" "fromCharCodeArray" (func (param (ref null $odd) i32 i32) (result (ref extern)))))"""
    with pytest.raises(LinkError) as caught:
        module(wrong)
    said = str(caught.value)
    assert "wasm:js-string.length is (func (param externref) (result i64)); the builtin is" in said
    assert "wasm:js-string.fromCharCodeArray is" in said
    assert "(array (mut i8))" in said
    assert "(array (mut i16))" in said
    assert "js-string.test" not in said


def test_a_serialised_module_keeps_its_builtins_and_constants() -> None:
    engine = lh.Engine(opt_level=1)
    source = """(module
      (import "'" "hello" (global $hello externref))
      (import "wasm:js-string" "length" (func $length (param externref) (result i32)))
      (func (export "run") (result i32) (call $length (global.get $hello))))"""
    made = lh.Module(engine, source, imported_string_constants="'")
    again = lh.Module.deserialize(engine, made.serialize())
    assert again.imports == []
    assert lh.Instance(lh.Store(engine), again).exports.run() == 5
    with pytest.raises(LinkError, match=r"import '\.hello \(global externref\) is missing"):
        lh.Instance(lh.Store(engine), lh.Module(engine, source))


# ----------------------------------------------------------------------------------------------------------------------
# Constants


def test_string_constants_are_named_by_what_they_are() -> None:
    exports = instance(
        r"""(module
          (import "S" "" (global $empty externref))
          (import "S" "\00 \f0\9f\98\80" (global $other (ref extern)))
          (export "empty" (global $empty))
          (export "other" (global $other)))""",
        imported_string_constants="S",
    )
    assert (exports.empty.value, exports.other.value) == ("", "\0 😀")


@pytest.mark.parametrize("type", ["anyref", "(mut externref)", "i32", "funcref"])
def test_a_string_constant_is_an_immutable_externref(type: str) -> None:
    with pytest.raises(LinkError, match=r"import S\.'x' is a string constant, and so an immutable global"):
        module(f'(module (import "S" "x" (global {type})))', imported_string_constants="S")
    with pytest.raises(LinkError, match="here it is no global"):
        module('(module (import "S" "x" (func)))', imported_string_constants="S")


def with_section(source: str, name: str, contents: bytes) -> bytes:
    body = bytes([len(name)]) + name.encode() + contents
    assert len(body) < 128
    return validate.to_binary(source) + bytes([0, len(body)]) + body


def test_string_constants_of_the_custom_section_may_have_lone_surrogates() -> None:
    source = """(module
      (import "string.const" "1" (global $one (ref extern)))
      (import "string.const" "0" (global $zero (ref extern)))
      (export "one" (global $one)) (export "zero" (global $zero)))"""
    exports = instance(with_section(source, "string.consts", b'["plain", "\\ud800x"]'))  # type: ignore[arg-type]
    assert (exports.one.value, exports.zero.value) == ("\ud800x", "plain")
    with pytest.raises(MalformedModuleError, match="not a list of strings"):
        module(with_section(source, "string.consts", b'{"0": "x"}'))  # type: ignore[arg-type]
    with pytest.raises(MalformedModuleError, match="is not JSON"):
        module(with_section(source, "string.consts", b"["))  # type: ignore[arg-type]
    missing = module(with_section(source, "string.consts", b'["x"]'))  # type: ignore[arg-type]
    assert [each.name for each in missing.imports] == ["1"]


# ----------------------------------------------------------------------------------------------------------------------
# Python's side


PASSING = """(module
  (import "host" "f" (func $f (param externref) (result externref)))
  (tag $tag (export "tag") (param externref))
  (type $cell (struct (field $value (mut externref))))
  (table (export "table") 2 externref)
  (global (export "global") (mut externref) (ref.null extern))
  (func (export "call") (param externref) (result externref) (call $f (local.get 0)))
  (func (export "cell") (param externref) (result (ref $cell)) (struct.new $cell (local.get 0)))
  (func (export "throw") (param externref) (throw $tag (local.get 0))))"""


def test_a_str_goes_everywhere_and_comes_back_equal() -> None:
    store = lh.Store(lh.Engine())
    store.use_strings()
    seen: list[Any] = []

    def host(value: Any) -> Any:
        seen.append(value)
        return value + "!"

    text = "a\ud800😀"
    exports = lh.Instance(store, lh.Module(store.engine, PASSING), {"host": {"f": host}}).exports
    assert exports.call(text) == text + "!"
    assert seen == [text]
    exports.table[0] = text
    exports["global"].value = text
    assert (exports.table[0], exports["global"].value) == (text, text)
    cell = exports.cell(text)
    assert cell["value"] == text
    cell["value"] = "other"
    assert cell["value"] == "other"
    with pytest.raises(lh.WasmException) as caught:
        exports.throw(text)
    assert caught.value.fields == (text,)
    assert lh.WasmException(exports.tag, [text]).fields == (text,)
    given = lh.ExternRef(store, text)  # a host's value stays one
    assert given.value is text
    del cell, caught, given
    exports.table[0] = exports["global"].value = None
    gc.collect()
    store.collect()
    store.verify()
    assert store.heap.stats().live_objects == 0


def test_without_strings_a_str_is_a_hosts_value_and_an_instance_of_a_module_with_them_changes_that() -> None:
    store = lh.Store(lh.Engine(opt_level=1))
    text = "".join(["a", "b"])
    plain = lh.Instance(store, lh.Module(store.engine, PASSING), {"host": {"f": lambda value: value}}).exports
    assert plain.call(text).value is text
    other = instance(KINDS, store)
    assert plain.call(text) == text
    assert other.kinds(plain.call(text))[0] == 1


# ----------------------------------------------------------------------------------------------------------------------
# Who looks at the heap


def test_an_image_shows_strings_as_strings() -> None:
    exports = instance(KINDS)
    store = exports.kinds.store
    exports.keep(0, "plain \ud800😀")
    exports["keep rope"](1, "x" * 30, "y")
    exports.keep(2, object())
    image = store.snapshot()
    assert inspection.verify(image) == []
    found = {each.text for each in image.objects() if each.kind is VMGcKind.HIDDEN_ARRAY_REF}
    assert found == {"plain \ud800😀", "x" * 30, "y"}
    (rope,) = (each for each in image.objects() if each.kind is VMGcKind.HIDDEN_STRUCT_REF)
    assert rope.text == "x" * 30 + "y"
    assert [each.text for each in image.objects() if each.kind is VMGcKind.EXTERN_REF] == [None]
    assert {each.label for each in image.objects()} == {"$string", "$rope", "externref"}
    again = Image.from_bytes(image.to_bytes())
    assert {each.text for each in again.objects()} == {*found, rope.text, None}
