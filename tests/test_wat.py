"""Text that the assembler refuses, though it is right: what is made of it means the same."""

from __future__ import annotations

import pytest
import wasmtime

import lowheap as lh
from lowheap.wasm.validate import to_binary
from lowheap.wasm.wat import DIRECTIONS, assemblable, with_plain_nulls


def names(text: str) -> list[str]:
    """The names of the exports of a module's text."""
    engine = lh.Engine(opt_level=0)
    return [each.name for each in lh.Module(engine, text).exports]


def test_characters_that_change_the_direction_are_kept_in_names() -> None:
    name = "".join(f"x{each}" for each in DIRECTIONS)
    text = f'(module (func (export "\\"{name}")) ;; {name}\n (; " (; {name} ;) {name} ;) (func (export "b")))'
    with pytest.raises(wasmtime.WasmtimeError, match="confusing unicode"):
        wasmtime.wat2wasm(text)
    assert names(text) == ['"' + name, "b"]
    assert names(text.encode()) == ['"' + name, "b"]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_each_of_them_is_refused_by_the_assembler_alone(direction: str) -> None:
    text = f'(module (export "{direction}" (func 0)) (func))'
    with pytest.raises(wasmtime.WasmtimeError, match="confusing unicode"):
        wasmtime.wat2wasm(text)
    assert direction.encode() in to_binary(text)


@pytest.mark.parametrize("text", ['(module (func (export "a\u202e', "(module (; \u202e", "\u202e (module)"])
def test_what_is_no_text_is_refused_all_the_same(text: str) -> None:
    with pytest.raises(lh.MalformedModuleError, match="not a WebAssembly text module"):
        to_binary(text)


FOLDED = {
    "a catch": ("(try (do (call $f)) (catch $e (call $f)))", "try call $f catch $e call $f end"),
    "labels and types": (
        "(drop (try $l (result i32) (do (i32.const 1)) (catch $e (i32.const 2)) (catch_all (rethrow $l))))",
        "try $l (result i32) i32.const 1 catch $e i32.const 2 catch_all rethrow $l end drop",
    ),
    "a delegation": (
        "(try $l (do (try (do (call $f)) (delegate $l))) (catch_all))",
        "try $l try call $f delegate $l catch_all end",
    ),
    "an operand of an operand": (
        "(drop (i32.add (i32.const 1) (i32.eqz (try (result i32) (do (i32.const 1)) (catch_all (i32.const 2))))))",
        "i32.const 1 try (result i32) i32.const 1 catch_all i32.const 2 end i32.eqz i32.add drop",
    ),
    "in a block": (
        "(block $b (try (do (br $b)) (catch_all (; a comment ;) (try (do) (catch $e)))))",
        "block $b try br $b catch_all try catch $e end end end",
    ),
    "in a condition": (
        "(if (try (result i32) (do (i32.const 1)) (catch_all (i32.const 2))) (then (call $f)) (else (call $g)))",
        "try (result i32) i32.const 1 catch_all i32.const 2 end if call $f else call $g end",
    ),
    "in both branches": (
        "(if (i32.const 1) (then (try (do (call $f)) (catch_all))) (else (try (do (call $g)) (catch_all))))",
        "i32.const 1 if try call $f catch_all end else try call $g catch_all end end",
    ),
    "with a type of its own": (
        "(call_indirect (type $t) (try (result i32) (do (i32.const 1)) (catch_all (i32.const 2))))",
        "try (result i32) i32.const 1 catch_all i32.const 2 end call_indirect (type $t)",
    ),
}


@pytest.mark.parametrize("folded", FOLDED)
def test_a_folded_try_is_unfolded(folded: str) -> None:
    text, flat = FOLDED[folded]
    around = "(module (type $t (func)) (tag $e) (table 1 funcref) (func $f) (func $g) (func {}))"
    assert to_binary(around.format(text)) == to_binary(around.format(flat))


def test_tokens_stay_in_their_lines() -> None:
    text = "(module\n(func\n(drop\n(i32.eqz (try (result i32)\n(do (i32.const 1))\n(catch_all\n(wrong))))))\n(what))"
    lines = [set(line.replace("(", " ").replace(")", " ").split()) for line in text.split("\n")]
    made = [set(line.replace("(", " ").replace(")", " ").split()) for line in assemblable(text).split("\n")]
    assert [line - {"drop", "i32.eqz", "do"} for line in lines] == [line - {"drop", "i32.eqz", "end"} for line in made]


@pytest.mark.parametrize(
    "text", ["(module (func (try (do)", "(module (func (try (do))))) (", "(; (try (do))", '"(try (do)']
)
def test_what_is_not_well_formed_stays(text: str) -> None:
    assert assemblable(text) == text


def test_a_null_that_a_script_expects_has_no_type() -> None:
    script = """(module (func (export "f") (drop (ref.null struct))))
    (assert_return (invoke "f" (ref.null struct)) (ref.null (; or not ;) struct) (either (ref.null eq) (ref.i31))
      (ref.struct) (ref.null any))"""
    made = with_plain_nulls(script)
    assert made.split("\n") == [
        '(module (func (export "f") (drop (ref.null struct))))',
        '    (assert_return (invoke "f" (ref.null struct)) (ref.null (; or not ;) ) (either (ref.null ) (ref.i31))',
        "      (ref.struct) (ref.null ))",
    ]
    assert with_plain_nulls("(ref.null struct))") == "(ref.null struct))"
