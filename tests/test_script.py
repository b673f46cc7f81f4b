"""Spec scripts: what passes, and that each kind of command can fail; `lowheap wast` prints what came of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import lowheap as lh
from lowheap.cli.wast import wast_command
from lowheap.config import Config
from lowheap.runtime.store_runtime import runtime_of
from lowheap.types import F32, F64, I32
from lowheap.wasm import wasm_tools
from lowheap.wasm.script import ScriptResult, run_script

MODULE = """(module $m
  (type $s (struct (field i32)))
  (type $a (array i8))
  (import "spectest" "print_i32" (func $print (param i32)))
  (import "wasmtime" "gc" (func $gc))
  (import "spectest" "print_f32" (func $print_f32 (param f32)))
  (import "spectest" "global_f32" (global $g f32))
  (global (export "nan") f32 (f32.const nan:0x200000))
  (global (export "count") (mut i32) (i32.const 3))
  (func (export "print") (param i32) (call $print (local.get 0)))
  (func (export "given") (result f32) (global.get $g))
  (func (export "e") (param f32) (result f32) (local.get 0))
  (func (export "echo64") (param f64) (result f64) (local.get 0))
  (func (export "2") (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
  (func (export "extern") (param externref) (result externref) (local.get 0))
  (func (export "any") (param anyref) (result anyref) (local.get 0))
  (func (export "struct") (result anyref) (struct.new $s (i32.const 1)))
  (func (export "array") (result anyref) (array.new_default $a (i32.const 1)))
  (func (export "i31") (result anyref) (ref.i31 (i32.const 1)))
  (export "print_f32" (func $print_f32)) (export "gc" (func $gc))
  (func $f (export "func") (result funcref) (ref.func $f))
  (func (export "v128") (param v128) (result v128) (local.get 0))
  (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func (export "length") (param (ref null $a)) (result i32) (array.len (local.get 0)))
  (func $deep (export "deep") (call $deep) (call $deep)))
"""

PASSING = [
    '(invoke "print" (i32.const 1))',
    '(assert_return (invoke "print" (i32.const 1)))',
    '(assert_return (invoke "print_f32" (f32.const nan)))',
    '(assert_return (invoke "v128" (v128.const i32x4 1 2 3 -4)) (v128.const i16x8 1 0 2 0 3 0 -4 -1))',
    '(assert_return (invoke "v128" (v128.const f64x2 -nan -1)) (v128.const f64x2 nan:canonical -1))',
    '(assert_return (invoke "gc"))',
    '(assert_return (get "count") (i32.const 3))',
    '(assert_return (get $m "nan") (f32.const nan:0x200000))',
    '(assert_return (invoke "given") (f32.const 666.6))',
    '(assert_return (invoke "e" (f32.const nan:0x200000)) (f32.const nan:0x200000))',
    '(assert_return (invoke "e" (f32.const -nan)) (f32.const nan:canonical))',
    '(assert_return (invoke "e" (f32.const nan:0x600000)) (f32.const nan:arithmetic))',
    '(assert_return (invoke "echo64" (f64.const -nan:0x8000000000001)) (f64.const nan:arithmetic))',
    '(assert_return (invoke "echo64" (f64.const -0)) (f64.const -0))',
    '(assert_return (invoke "2" (i32.const -1) (i64.const 5)) (i64.const 5) (i32.const 0xffffffff))',
    '(assert_return (invoke "2" (i32.const 1) (i64.const 5)) (either (i64.const 4) (i64.const 5)) (i32.const 1))',
    '(assert_return (invoke "extern" (ref.extern 7)) (ref.extern 7))',
    '(assert_return (invoke "extern" (ref.extern 7)) (ref.extern))',
    '(assert_return (invoke "extern" (ref.null extern)) (ref.null extern))',
    '(assert_return (invoke "any" (ref.host 7)) (ref.host 7))',
    '(assert_return (invoke "any" (ref.null any)) (ref.null))',
    '(assert_return (invoke "struct") (ref.struct))',
    '(assert_return (invoke "any" (ref.null struct)) (ref.null struct))',
    '(assert_return (invoke "struct") (ref.eq))',
    '(assert_return (invoke "array") (ref.array))',
    '(assert_return (invoke "array") (ref.any))',
    '(assert_return (invoke "i31") (ref.i31))',
    '(assert_return (invoke "func") (ref.func))',
    '(assert_trap (invoke "div" (i32.const 1) (i32.const 0)) "integer divide by zero")',
    '(assert_trap (invoke "length" (ref.null none)) "null array reference")',
    '(assert_exhaustion (invoke "deep") "call stack exhausted")',
    '(assert_trap (module (table i64 0x1000000000000 funcref)) "table size")',
    '(register "other" $m) (module (import "other" "count" (global (mut i32))))',
    '(module (import "m" "count" (global (mut i32))))',
    '(module definition $d (global (export "g") i32 (i32.const 1))) (module instance $i $d) (module instance $j $d)'
    '(assert_return (get $i "g") (i32.const 1))',
    '(assert_invalid (module (func (result i32))) "type mismatch")',
    '(assert_invalid (module quote "(func (result i32))") "type mismatch")',
    r'(assert_malformed (module binary "\00asm\02\00\00\00") "unknown binary version")',
    '(assert_malformed (module quote "(func (i32.const 0x1_0000_0000_0))") "i32 constant out of range")',
    '(assert_unlinkable (module (import "spectest" "nothing" (func))) "unknown import")',
    '(assert_unlinkable (module (import "spectest" "print" (func (param i32)))) "incompatible import type")',
    '(assert_trap (module (func $f unreachable) (start $f)) "unreachable")',
    '(assert_unlinkable (module (func $f unreachable) (start $f)) "unreachable")',
]

FAILING = {
    '(invoke "div" (i32.const 1) (i32.const 0))': "Trap: .*integer divide by zero",
    '(invoke "no" (i32.const 1))': "there is no export 'no'",
    '(assert_return (invoke "print" (i32.const 1)) (i32.const 1))': "0 results",
    '(assert_return (invoke "v128" (v128.const i16x8 1 2 3 4 5 6 7 -8)) (v128.const i16x8 1 2 3 4 5 6 7 8))': "0xfff8",
    '(assert_return (invoke "v128" (v128.const i64x2 0 0)) (v128.const f32x4 0 nan:canonical 0 0))': "nan:canonical",
    '(assert_return (get "count") (i32.const 4))': "the result is 3; expected is i32 4",
    '(assert_return (get "print") (i32.const 4))': "no global",
    '(assert_return (invoke "e" (f32.const 0)) (f32.const -0))': r"0x0 \(0.0\); expected is f32 0x8.{7} \(-0.0\)",
    '(assert_return (invoke "e" (f32.const -nan:0x200000)) (f32.const nan:arithmetic))': "0xffa00000",
    '(assert_return (invoke "e" (f32.const nan:0x600000)) (f32.const nan:canonical))': "nan:canonical",
    '(assert_return (invoke "2" (i32.const 1) (i64.const 5)) (either (i64.const 4) (i64.const 6)) (i32.const 1))': "or",
    '(assert_return (invoke "extern" (ref.extern 7)) (ref.extern 8))': "externref 8",
    '(assert_return (invoke "extern" (ref.null extern)) (ref.extern))': "None",
    '(assert_return (invoke "extern" (ref.extern 7)) (ref.null extern))': "null",
    '(assert_return (invoke "struct") (ref.array))': "arrayref",
    '(assert_return (invoke "struct") (ref.null struct))': "refnull",
    '(assert_return (invoke "any" (ref.null struct)) (ref.struct))': "structref",
    '(assert_return (invoke "array") (ref.i31))': "i31ref",
    '(assert_return (invoke "i31") (ref.struct))': "structref",
    '(assert_return (invoke "i31") (ref.func))': "funcref",
    '(assert_trap (invoke "div" (i32.const 1) (i32.const 1)) "integer divide by zero")': "it came to",
    '(assert_trap (invoke "div" (i32.const 1) (i32.const 0)) "integer overflow")': "integer divide by zero",
    '(assert_exhaustion (invoke "div" (i32.const 1) (i32.const 0)) "call stack exhausted")': "integer divide by zero",
    '(assert_invalid (module (func)) "type mismatch")': "accepted",
    '(assert_malformed (module quote "(func)") "unexpected token")': "accepted",
    '(assert_unlinkable (module (import "spectest" "print" (func))) "unknown import")': "linked",
    '(assert_unlinkable (module (import "spectest" "print" (func (param i32)))) "unknown import")': "expected",
    '(assert_unlinkable (module (import "spectest" "nothing" (func))) "incompatible import type")': "missing",
    '(assert_trap (module (func $f) (start $f)) "unreachable")': "came to",
    '(assert_unlinkable (module (func $f unreachable) (start $f)) "null reference")': "unreachable",
    '(assert_trap (module (table i64 0x1000000000000 funcref)) "unreachable")': "no address space",
    '(module (import "spectest" "nothing" (func)))': "LinkError",
    "(module instance $i $none)": "no module definition 'none'",
    '(register "other" $none)': "no instance 'none'",
}


@pytest.fixture(scope="module")
def config() -> Config:
    return Config(opt_level=0)


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Callable[[str], ScriptResult]:
    def run(text: str) -> ScriptResult:
        path = tmp_path / "script.wast"
        path.write_text(text)
        return run_script(path, config)

    return run


def test_what_a_script_asserts_holds(run: Callable[[str], ScriptResult]) -> None:
    result = run(MODULE + "\n".join(PASSING))
    assert result.failures == []
    assert (result.commands, result.skips) == (len(PASSING) + 5, 0)
    assert result.passed == result.commands


def test_a_host_function_is_given_floats_where_bits_are(config: Config) -> None:
    """It has no others; and what it returns comes as bits."""
    with lh.Store(lh.Engine(config)) as store:
        seen: list[tuple[float, float, int]] = []
        runtime = runtime_of(store)
        several = lh.Func(store, lh.FuncType((F32, F64, I32), (F64, I32)), lambda *args: seen.append(args) or (-0.0, 7))
        assert runtime.call_bits(several, (0x3FC00000, -(1 << 63), 5)) == (-(1 << 63), 7)
        assert seen == [(1.5, 0.0, 5)]
        assert str(seen[0][1]) == "-0.0"
        one = lh.Func(store, lh.FuncType((), (F32,)), lambda: 1.0)
        assert runtime.call_bits(one, ()) == 0x3F800000
        assert runtime.call_bits(lh.Func(store, lh.FuncType((), ()), lambda: None), ()) is None


def test_each_assertion_can_fail(run: Callable[[str], ScriptResult]) -> None:
    """Whatever a command comes to that it should not, in its line, and the next one is run."""
    result = run(MODULE.replace("\n", " ") + "\n" + "\n".join(FAILING))
    assert [each.line for each in result.failures] == list(range(2, 2 + len(FAILING)))
    assert result.passed == 1
    for failure, reason in zip(result.failures, FAILING.values(), strict=True):
        assert re.search(reason, failure.reason), failure


def test_what_follows_a_module_that_is_not_there_says_why_it_is_not(run: Callable[[str], ScriptResult]) -> None:
    result = run('\n(module (func $f unreachable) (start $f) (func (export "f")))\n(invoke "f")')
    assert [each.command for each in result.failures] == ["module", "action"]
    assert result.failures[1].reason == "there is no instance: the module in line 2 has failed"


def test_threads_are_refused_by_name(run: Callable[[str], ScriptResult]) -> None:
    result = run('(module $m) (thread $t (module) (invoke "no")) (wait $t)')
    assert result.failures == []
    assert result.skipped == {"thread and wait: a store has one thread": 2}
    assert result.passed == 1


def test_a_script_of_the_converter_is_taken_as_it_is(tmp_path: Path, config: Config) -> None:
    (tmp_path / "a.wast").write_text('(module (func (export "f") (result i32) (i32.const 1)))\n(invoke "f")')
    wasm_tools.run_wasm_tools(["json-from-wast", "a.wast", "-o", "a.json"], folder=tmp_path, what_for="a test")
    (tmp_path / "a.wast").unlink()
    result = run_script(tmp_path / "a.json", config)
    assert (result.commands, result.passed) == (2, 2)


@pytest.mark.parametrize("text", ["[]", "{}", "", '{"commands": [{"type": "dance", "line": 3}]}'])
def test_json_that_is_no_script_is_a_failure(tmp_path: Path, config: Config, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    result = run_script(tmp_path / "a.json", config)
    assert (result.commands, result.passed) == (1, 0)


def test_a_script_says_what_options_it_wants(run: Callable[[str], ScriptResult], config: Config) -> None:
    """Of its first lines those count that are an engine's options; what is asked for is not kept for the next one."""
    nan = """(module (func (export "nan") (param i64) (result i64)
      (i64.reinterpret_f64 (f64.ceil (f64.reinterpret_i64 (local.get 0))))))
      (assert_return (invoke "nan" (i64.const 0x7ff8000000000005)) (i64.const {}))"""
    assert run(";;! hogs_memory = true\n;;! nan_canonicalization = true\n" + nan.format(0x7FF8 << 48)).failures == []
    assert run(";;! nan_canonicalization = false\n" + nan.format(0x7FF8 << 48 | 5)).failures == []
    assert run(nan.format(0x7FF8 << 48 | 5)).failures == []
    assert [each.command for each in run(";;! simd = false\n(module (func (param v128)))").failures] == ["module"]
    assert repr(config) == "Config(opt_level=0)"


def test_a_script_that_cannot_be_read_is_a_failure(run: Callable[[str], ScriptResult]) -> None:
    result = run("(module")
    assert [(each.line, each.command) for each in result.failures] == [(0, "script")]
    assert "wasm-tools: expected `)`" in result.failures[0].reason


def test_without_wasm_tools_it_is_said_what_to_install(
    run: Callable[[str], ScriptResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm_tools, "wasm_tools", lambda: None)
    assert "pip install 'lowheap[spec]'" in run("(module)").failures[0].reason


# ----------------------------------------------------------------------------------------------------------------------
# The command


def wast(*arguments: str | Path) -> Result:
    return CliRunner().invoke(wast_command, ["--no-cache", *map(str, arguments)])


def rows(output: str) -> dict[str, list[str]]:
    """The rows of the table, by the last part of the file's name."""
    lines = [line.split() for line in output.splitlines()]
    return {Path(line[0]).name: line[1:] for line in lines if len(line) > 4 and line[-1].isdigit()}


def test_the_command_prints_a_table_and_each_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    Path("good.wast").write_text("(module)\n(wait $t)")
    Path("sub/bad.wast").write_text('(module)\n\n(invoke "f")')
    done = wast(".")
    assert done.exit_code == 1
    assert rows(done.stdout) == {
        "good.wast": ["2", "1", "0", "1"],
        "bad.wast": ["2", "1", "1", "0"],
        "2": ["files", "4", "2", "1", "1"],
    }
    assert "sub/bad.wast:3: action: KeyError: \"there is no export 'f'; there are: none\"" in done.stdout
    assert "good.wast: skipped 1: thread and wait: a store has one thread" in done.stdout
    assert "2 of 4 commands passed, 50.00 %" in done.stderr
    assert wast("good.wast").exit_code == 0


def test_the_command_has_the_options_of_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(path: Path, config: Config, *, collect_every: int) -> ScriptResult:
        seen.append((config.collector, config.runtime, config.opt_level, collect_every, config.cache))
        return ScriptResult(str(path), 1)

    monkeypatch.setattr("lowheap.cli.wast.run_script", note)
    arguments = ["--collector", "null", "--runtime", "python", "--opt-level", "1", "--collect-every", "3"]
    assert wast("x.wast", *arguments).exit_code == 0
    assert seen == [("null", "python", 1, 3, False)]


def test_a_folder_without_scripts_is_an_error(tmp_path: Path) -> None:
    assert "no file that ends in .wast" in str(wast(tmp_path).exception)


def test_files_are_run_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(f"{name}.wast").write_text(f'(module) (register "{name}")')
    done = wast(".", "--jobs", "2")
    assert done.exit_code == 0
    assert {name: row[:2] for name, row in rows(done.stdout).items()} == {
        **{f"{name}.wast": ["2", "2"] for name in ("a", "b", "c")},
        "3": ["files", "6"],
    }


def test_a_process_that_dies_is_a_failure_of_its_file(tmp_path: Path) -> None:
    """The others are run all the same, each in another process."""
    (tmp_path / "dying.py").write_text(
        "import multiprocessing, os\n"
        "from lowheap.collectors.drc import Drc\n"
        "class Dying(Drc):\n"
        "    pass\n"
        "if multiprocessing.parent_process() is not None:\n"
        "    os._exit(7)\n"
    )
    for name in ("a", "b"):
        (tmp_path / f"{name}.wast").write_text("(module)")
    done = wast(tmp_path, "--jobs", "2", "--collector", f"{tmp_path}/dying.py:Dying")
    assert done.exit_code == 1
    for name in ("a", "b"):
        assert f"{name}.wast: script: the process died: exit status 7" in done.stdout


def test_a_file_that_does_not_end_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "loop.wast"
    path.write_text('(module (func (export "f") (loop $l (br $l))))\n(invoke "f")')
    done = wast(path, "--time-limit", "0.2")
    assert done.exit_code == 1
    assert f"{path}: script: it took longer than 0.2 s" in done.stdout
