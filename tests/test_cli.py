"""The `lowheap` command: results, figures, messages, exit statuses. Whatever goes wrong, nobody sees a traceback."""

from __future__ import annotations

import functools
import io
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from importlib import metadata
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st
from support.example_programs import EXAMPLES, Example

import lowheap as lh
from lowheap import cli
from lowheap.cli.values import format_value, parse_value
from lowheap.config import RUNTIMES
from lowheap.layout import REFERENCE_SIZE, GcTypeLayouts, block_length
from lowheap.types import ANYREF, EXTERNREF, F32, F64, I31REF, I32, I64, V128

ROOT = Path(__file__).resolve().parent.parent
TREES = str(ROOT / "examples" / "binary_trees.wat")
TREE_NODE = block_length(GcTypeLayouts().struct_layout([(REFERENCE_SIZE, True)] * 2).size)

ECHO = """
(module
  (func (export "echo") (param i32 i64 f32 f64 i31ref anyref externref funcref)
    (result i32 i64 f32 f64 i31ref anyref externref funcref)
    (local.get 0) (local.get 1) (local.get 2) (local.get 3)
    (local.get 4) (local.get 5) (local.get 6) (local.get 7)))
"""

NUMBERS = """
(module
  (type $pair (struct (field i32) (field f64)))
  (type $bytes (array (mut i8)))
  (global (export "counter") (mut i32) (i32.const 0))
  (func $nothing (export "nothing"))
  (elem declare func $nothing)
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "divide") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func (export "double") (param f64) (result f64) (local.get 0))
  (func (export "strict") (param (ref any)))
  (func (export "small") (param (ref i31)) (result i32) (i31.get_s (local.get 0)))
  (func (export "") (result i32) (i32.const 7))
  (func (export "references") (result (ref $pair) (ref $bytes) i31ref funcref structref)
    (struct.new_default $pair)
    (array.new_default $bytes (i32.const 3))
    (ref.i31 (i32.const -5))
    (ref.func $nothing)
    (ref.null struct))
  (func $forever (export "forever") (result i32) (i32.add (call $forever) (i32.const 1))))
"""

KEEPERS = """
(module
  (type $cell (struct (field $next (mut (ref null $cell)))))
  (global $kept (mut (ref null $cell)) (ref.null $cell))
  (func (export "keep") (global.set $kept (struct.new $cell (struct.new_default $cell))))
  (func (export "cycle") (local $a (ref null $cell))
    (local.set $a (struct.new_default $cell))
    (struct.set $cell $next (local.get $a) (local.get $a)))
  (func (export "both")
    (local $a (ref null $cell))
    (local.set $a (struct.new_default $cell))
    (struct.set $cell $next (local.get $a) (struct.new $cell (local.get $a)))
    (global.set $kept (struct.new_default $cell))))
"""


class Ran:
    """How a run of the command ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    def __repr__(self) -> str:
        return f"status {self.status}\n--- out\n{self.out}\n--- err\n{self.err}"


@pytest.fixture
def lowheap(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        status = cli.execute(arguments)
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return run


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., str]:
    """Write a program to a file, and return its path."""

    def write(text: str | bytes, name: str = "program.wat") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def environment(**changes: str) -> dict[str, str]:
    """An environment in which `python -m lowheap` finds this checkout from anywhere."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


COMMAND = (sys.executable, "-m", "lowheap")


def spawn(*arguments: str, **options: object) -> Ran:
    """Run the command in a process of its own."""
    settings: dict[str, object] = {"env": environment(), "capture_output": True, "text": True, "timeout": 60}
    settings.update(options)
    done = subprocess.run([*COMMAND, *arguments], **settings)  # type: ignore[call-overload]
    return Ran(done.returncode, done.stdout or "", done.stderr or "")


def failed(ran: Ran, status: int, *parts: str, label: str = "error") -> bool:
    """Check that a run ended in one message that has these parts, and in nothing else."""
    assert ran.status == status, ran
    assert ran.out == "", ran
    assert ran.err.startswith(f"lowheap: {label}: "), ran
    assert ran.err.count("lowheap: ") == 1, ran
    assert "Traceback" not in ran.err, ran
    for part in parts:
        assert part in ran.err, (part, ran)
    return True


# ----------------------------------------------------------------------------------------------------------------------
# Results


def test_a_result_is_all_that_goes_to_standard_output(lowheap: Callable[..., Ran]) -> None:
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2")
    assert (ran.status, ran.out, ran.err) == (0, "30\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", TREES, "--invoke", "run", "2", "3", "--verify"],
        ["run", "--verify", "--invoke=run", TREES, "2", "3"],
        ["run", TREES, "2", "--invoke", "run", "--verify", "3"],
        ["run", "--invoke", "run", "--verify", "--", TREES, "2", "3"],
    ],
)
def test_options_may_stand_anywhere(lowheap: Callable[..., Ran], arguments: list[str]) -> None:
    ran = lowheap(*arguments)
    assert (ran.status, ran.out, ran.err) == (0, "21\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-1", "2"], "1"),
        (["-1", "-2"], "-3"),
        (["--", "-1", "-2"], "-3"),
        (["-2147483648", "0"], "-2147483648"),
        (["4294967295", "0"], "-1"),
        (["0xffffffff", "0x0"], "-1"),
        (["-0x80000000", "+1"], "-2147483647"),
        (["007", "0"], "7"),
    ],
)
def test_integers_of_either_sign(
    lowheap: Callable[..., Ran], program: Callable[..., str], arguments: list[str], expected: str
) -> None:
    ran = lowheap("run", program(NUMBERS), "--invoke", "add", *arguments)
    assert (ran.status, ran.out, ran.err) == (0, f"{expected}\n", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("-0", "-0.0"), ("-inf", "-inf"), ("NaN", "nan"), ("-.5", "-0.5"), ("1e999", "inf"), ("0x1.8p1", "3.0")],
)
def test_floats_of_every_form(
    lowheap: Callable[..., Ran], program: Callable[..., str], text: str, expected: str
) -> None:
    ran = lowheap("run", program(NUMBERS), "--invoke", "double", text)
    assert (ran.status, ran.out, ran.err) == (0, f"{expected}\n", "")


def test_every_type_of_value_goes_in_and_out(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    given = ["-7", "0x7fffffffffffffff", "0.1", "0.1", "-1073741824", "null", "null", "null"]
    ran = lowheap("run", program(ECHO), "--invoke", "echo", *given)
    expected = ["-7", "9223372036854775807", "0.1", "0.1", "I31(-1073741824)", "null", "null", "null"]
    assert (ran.status, ran.out.splitlines(), ran.err) == (0, expected, "")


def test_references_are_shown(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    ran = lowheap("run", program(NUMBERS), "--invoke", "references", "--stats")
    struct_line, array_line, *others = ran.out.splitlines()
    assert re.fullmatch(r"<Struct \$pair at 0x[0-9a-f]+: 0=0, 1=0\.0>", struct_line)
    assert re.fullmatch(r"<Array \$bytes of 3 at 0x[0-9a-f]+: \[0, 0, 0\]>", array_line)
    assert others == ["I31(-5)", "<Func nothing (func)>", "null"]
    assert figures(ran)["objects live after a last collection"] == "0", "the results' handles are dropped"


def test_no_result_prints_nothing(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    assert repr(lowheap("run", program(NUMBERS), "--invoke", "nothing")) == repr(Ran(0, "", ""))


def test_an_export_may_have_an_empty_name(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    assert lowheap("run", program(NUMBERS), "--invoke", "").out == "7\n"


def test_a_binary_and_standard_input(
    lowheap: Callable[..., Ran], program: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = bytes(wasmtime.wat2wasm(NUMBERS))
    assert lowheap("run", program(binary, "misnamed.wat"), "--invoke", "add", "1", "2").out == "3\n"
    for contents in (binary, NUMBERS.encode()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(contents)))
        assert lowheap("run", "-", "--invoke", "add", "1", "2").out == "3\n"


# The last row of each program; test_examples.py runs them all.
RUNNABLE = {example.name: example for example in EXAMPLES if example.imports is None and not example.large}.values()


@pytest.mark.parametrize("example", RUNNABLE, ids=str)
def test_the_examples(lowheap: Callable[..., Ran], example: Example) -> None:
    arguments = ["run", str(example.path), *map(str, example.args), "--invoke", example.export, "--verify"]
    ran = lowheap(*arguments)
    assert (ran.status, ran.out.split(), ran.err) == (0, [str(value) for value in example.expected], "")


@pytest.mark.parametrize(
    ("level", "runtime"), [("0", "python"), ("1", "native"), ("2", "python"), ("2", "native"), ("3", "native")]
)
@pytest.mark.parametrize("barriers", ["drc", "outlined", "null"])
def test_the_options_change_no_result(lowheap: Callable[..., Ran], barriers: str, level: str, runtime: str) -> None:
    options = ["--barriers", barriers, "--opt-level", level, "--collect-every", "1", "--runtime", runtime]
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", *options, "--initial-heap", "1K", "--max-heap", "0x10000")
    assert (ran.status, ran.out, ran.err) == (0, "30\n", "")


def test_a_small_reservation_is_enough_for_a_small_maximum(tmp_path: Path) -> None:
    """In a process that may not reserve 4 GiB, which one by default wants to."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); "
    code = f"{limited} from lowheap.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "run", TREES, "--invoke", "run", "3", "2", "--max-heap", "1M"]
    for options, expected in (([], 1), (["--reserve", "maximum"], 0)):
        done = subprocess.run([*command, *options], env=environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == expected, done.stderr
        assert (done.stdout == "30\n") == (expected == 0)
        assert ("cannot reserve 4311744512 bytes of address space" in done.stderr) == (expected == 1)


# ----------------------------------------------------------------------------------------------------------------------
# Values, against C's own conversions


@given(st.integers(-(1 << 31), (1 << 32) - 1), st.booleans())
def test_i32_is_read_as_python_reads_it(value: int, in_hexadecimal: bool) -> None:
    assert parse_value(I32, hex(value) if in_hexadecimal else str(value)) == value


@given(st.integers(-(1 << 70), 1 << 70) | st.integers(-(1 << 129), 1 << 129))
def test_integers_out_of_range_are_refused(value: int) -> None:
    for type, least, greatest in (
        (I32, -(1 << 31), 1 << 32),
        (I64, -(1 << 63), 1 << 64),
        (V128, -(1 << 127), 1 << 128),
    ):
        if least <= value < greatest:
            assert parse_value(type, str(value)) == value
        else:
            with pytest.raises(ValueError, match=str(least)):
                parse_value(type, str(value))


@given(st.integers(0, (1 << 128) - 1))
def test_a_vector_comes_back_as_itself(value: int) -> None:
    text = format_value(V128, value)
    assert (parse_value(V128, text), len(text)) == (value, 34)


@given(st.floats(width=64))
def test_f64_comes_back_as_itself(value: float) -> None:
    again = parse_value(F64, format_value(F64, value))
    assert (math.isnan(value) and math.isnan(again)) or struct.pack("d", again) == struct.pack("d", value)


@given(st.floats(width=32))
def test_f32_comes_back_as_itself_in_its_shortest_form(value: float) -> None:
    text = format_value(F32, value)
    again = parse_value(F32, text)
    assert (math.isnan(value) and math.isnan(again)) or struct.pack("f", again) == struct.pack("f", value)
    assert len(text) <= len(repr(value))


@given(st.integers(0x0080_0000, 0x7F7F_FFFE), st.integers(-1000, 1000))
def test_f32_is_rounded_once(bits: int, nudge: int) -> None:
    """A decimal so near to the middle of two floats that a double does not tell them apart."""
    low, high = (Fraction(struct.unpack("f", struct.pack("I", bits + up))[0]) for up in (0, 1))
    middle = (low + high) / 2 * (1 + Fraction(nudge, 10**25))
    # Exact in decimal, because every factor of the denominator is 2 or 5.
    shift = 0
    while (middle * 10**shift).denominator != 1:
        shift += 1
    parsed = Fraction(parse_value(F32, f"{(middle * 10**shift).numerator}e-{shift}"))
    assert parsed in (low, high)
    assert abs(parsed - middle) <= min(abs(low - middle), abs(high - middle))


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (I32, ""), (I32, " 1"), (I32, "1 "), (I32, "1.0"), (I32, "1_000"), (I32, "0b1"), (I32, "0x"), (I32, "٣"),
        (I32, "--1"), (I32, "one"), (I32, "9" * 5000), (I64, "0x1" + "0" * 16), (I64, "1\n"),
        (F32, ""), (F32, "."), (F32, "1_0.0"), (F32, "1e"), (F64, "١"), (F64, "in"), (F64, "nan:0x1"), (F64, "1,5"),
        (F64, " 1"), (F64, "1\n"),
        (I31REF, "1073741824000"), (I31REF, "-1073741825"), (I31REF, "1.5"), (I31REF, "nil"),
        (ANYREF, "1"), (ANYREF, ""), (EXTERNREF, "'x'"), (EXTERNREF, "Null"),
        (lh.RefType(False, ANYREF.heap_type), "null"), (lh.RefType(False, I31REF.heap_type), "null"),
        (V128, "1.0"), (V128, "0x1" + "0" * 32),
    ],
)  # fmt: skip
def test_what_is_no_value_is_refused(type: object, text: str) -> None:
    with pytest.raises(ValueError, match=r"written here|write a"):
        parse_value(type, text)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------------
# Figures


def figures(ran: Ran) -> dict[str, str]:
    """The rows of the table on standard error."""
    rows = re.findall(r"^[│|] (.*?) +[│|] +(.*?) [│|]$", ran.err, re.MULTILINE)
    return dict(rows)


def test_figures(lowheap: Callable[..., Ran]) -> None:
    options = ["--stats", "--collect-every", "10", "--verify", "--runtime", "python", "--initial-heap", "64K"]
    ran = lowheap("run", TREES, "--invoke", "run", "3", "4", *options)
    assert (ran.status, ran.out) == (0, "60\n")
    rows = figures(ran)
    expected = {
        "collector": "drc",
        "runtime": "python",
        "allocator": "segregated-fit",
        "optimisation level": "2",
        "objects allocated": "60",
        "objects freed": "60",
        "objects live after a last collection": "0",
        "collections before the last": "6",
        "heap capacity in bytes": "65,536",
        "heap growths": "0",
        "heap verified": "yes",
    }
    assert {name: rows.get(name) for name in expected} == expected
    assert rows["list length before and after the last"].endswith(" and 0")
    assert int(rows["peak live bytes"].replace(",", "")) >= 15 * TREE_NODE, "the nodes of one tree"
    for name in ("compile time", "instantiation time", "run time"):
        assert re.fullmatch(r"[0-9,]+\.[0-9] ms", rows[name])
    assert "lowheap:" not in ran.err, "nothing is live, so nothing is to be said"


def test_figures_of_a_heap_that_grows(lowheap: Callable[..., Ran]) -> None:
    rows = figures(lowheap("run", TREES, "--invoke", "run", "7", "1", "--stats", "--initial-heap", "1KiB"))
    assert int(rows["peak live bytes"].replace(",", "")) == 255 * TREE_NODE
    assert int(rows["heap capacity in bytes"].replace(",", "")) >= 255 * TREE_NODE
    assert int(rows["heap growths"]) >= 1


@pytest.mark.parametrize(
    ("export", "live", "saying"),
    [
        ("keep", "2", "2 objects are live after a last collection: 2 reachable from globals\n"),
        ("cycle", "1", "1 object is live after a last collection: 1 from no root, which only reference cycles keep"),
        ("both", "3", "3 objects are live after a last collection: 1 reachable from globals, 2 from no root, which"),
    ],
)
def test_what_is_still_live_is_said(
    lowheap: Callable[..., Ran], program: Callable[..., str], export: str, live: str, saying: str
) -> None:
    ran = lowheap("run", program(KEEPERS), "--invoke", export, "--stats", "--verify", "--no-cycle-search")
    assert ran.status == 0
    assert figures(ran)["objects that only cycles kept"] == "0"
    assert figures(ran)["objects live after a last collection"] == live
    assert f"lowheap: {saying}" in ran.err


@pytest.mark.parametrize(("export", "live", "found"), [("keep", "2", "0"), ("cycle", "0", "1"), ("both", "1", "2")])
def test_the_last_collection_searches_for_cycles(
    lowheap: Callable[..., Ran], program: Callable[..., str], export: str, live: str, found: str
) -> None:
    ran = lowheap("run", program(KEEPERS), "--invoke", export, "--stats", "--verify")
    assert ran.status == 0
    assert figures(ran)["objects live after a last collection"] == live
    assert figures(ran)["objects that only cycles kept"] == found
    assert figures(ran)["searches for cycles before the last"] == "0"
    assert "from no root" not in ran.err


def test_first_fit_searches_for_no_cycles(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    ran = lowheap("run", program(KEEPERS), "--invoke", "cycle", "--stats", "--verify", "--allocator", "first-fit")
    assert figures(ran)["objects live after a last collection"] == "1"


def test_what_tables_keep_is_said(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    tables = """(module (table 3 anyref) (type $cell (struct))
      (func (export "keep") (table.fill (i32.const 0) (struct.new $cell) (i32.const 3))))"""
    ran = lowheap("run", program(tables), "--invoke", "keep", "--stats", "--verify")
    assert "1 object is live after a last collection: 1 reachable from globals or tables\n" in ran.err


def test_barriers_that_do_not_count_free_nothing(lowheap: Callable[..., Ran]) -> None:
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", "--stats", "--barriers", "null", "--verify")
    assert (ran.status, ran.out) == (0, "30\n")
    assert figures(ran)["objects freed"] == "0"
    assert "30 objects are live after a last collection: the collector null counts no references" in ran.err


def test_figures_in_a_narrow_terminal_and_without_unicode() -> None:
    ran = spawn(
        "run", TREES, "--invoke", "run", "3", "2", "--stats", env=environment(COLUMNS="30", PYTHONIOENCODING="ascii")
    )
    assert (ran.status, ran.out) == (0, "30\n")
    assert "Traceback" not in ran.err


def test_logging(lowheap: Callable[..., Ran]) -> None:
    quiet = lowheap("run", TREES, "--invoke", "run", "1", "1")
    traced = lowheap("run", TREES, "--invoke", "run", "1", "1", "--log-level", "TRACE", "--runtime", "python")
    assert quiet.err == ""
    assert traced.out == quiet.out == "3\n"
    assert traced.err.count("lowheap.heap: new object") == 3
    assert lowheap("run", TREES, "--invoke", "run", "1", "1").err == "", "logging ends with the command"


# ----------------------------------------------------------------------------------------------------------------------
# Traps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["divide", "1", "0"], "integer divide by zero"),
        (["divide", "-2147483648", "-1"], "integer overflow"),
        (["forever"], "call stack exhausted"),
    ],
)
def test_a_trap(lowheap: Callable[..., Ran], program: Callable[..., str], arguments: list[str], message: str) -> None:
    ran = lowheap("run", program(NUMBERS), "--invoke", *arguments, "--verify")
    assert failed(ran, 3, f"lowheap: trap: {message}", label="trap")
    callers = ran.err.splitlines()[1:]
    if arguments == ["forever"]:
        assert len(callers) == 1
        assert re.fullmatch(r"  called from function \$forever, at offset 0x[0-9a-f]+ \(63 times\)", callers[0])
    else:
        assert not callers


def test_callers_of_what_trapped(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    functions = " ".join(f"(func $f{number} (call $f{number + 1}))" for number in range(40))
    path = program(f'(module (func (export "go") (call $f0)) {functions} (func $f40 unreachable))')
    ran = lowheap("run", path, "--invoke", "go", "--opt-level", "0")
    assert failed(ran, 3, "unreachable", "(in function $f40, at offset", label="trap")
    *callers, last = ran.err.splitlines()[1:]
    found = [re.fullmatch(r"  called from function \$f(\d+), at offset 0x[0-9a-f]+", each) for each in callers]
    assert [each and int(each[1]) for each in found] == [39 - number for number in range(16)]
    assert last == "  and 25 more"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_trap_when_the_heap_is_full_and_its_figures(lowheap: Callable[..., Ran], runtime: str) -> None:
    arguments = ["run", TREES, "--invoke", "run", "12", "1", "--max-heap", "4K", "--runtime", runtime]
    assert failed(lowheap(*arguments), 3, "lowheap: trap: GC heap out of memory", label="trap")
    ran = lowheap(*arguments, "--stats", "--verify")
    assert (ran.status, ran.out) == (3, "")
    assert figures(ran)["heap capacity in bytes"] == "4,096"
    assert figures(ran)["objects live after a last collection"] == "0", "frames that a trap left hold nothing"


def test_a_trap_in_the_start_function(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    path = program('(module (func $go (export "go") unreachable) (start $go))')
    assert failed(lowheap("run", path, "--invoke", "go"), 3, "unreachable", label="trap")


# ----------------------------------------------------------------------------------------------------------------------
# Errors: one message each


def test_help_and_version(lowheap: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    ran = lowheap("--help")
    assert (ran.status, ran.err) == (0, "")
    assert re.search(r"^  run  ", ran.out, re.MULTILINE)
    ran = lowheap("run", "--help")
    assert (ran.status, ran.err) == (0, "")
    for word in (
        "--invoke EXPORT", "--barriers NAME", "--runtime", "--collect-every N", "--opt-level 0-3",
        "--initial-heap SIZE", "--max-heap SIZE", "--reserve [full|maximum]",
        "--stats", "--verify", "--log-level", "Exit status",
    ):  # fmt: skip
        assert word in ran.out
    monkeypatch.setattr(metadata, "version", {"lowheap": "1.2.3"}.__getitem__)
    assert lowheap("--version").out == "lowheap 1.2.3\n"


def test_no_command_shows_the_help(lowheap: Callable[..., Ran]) -> None:
    ran = lowheap()
    assert (ran.status, ran.out) == (2, "")
    assert "Usage: lowheap" in ran.err


WRONG_COMMAND_LINES: list[tuple[list[str], list[str]]] = [
    (["walk"], ["walk"]),
    (["--frobnicate"], ["--frobnicate"]),
    (["run"], ["PROGRAM"]),
    (["run", TREES], ["--invoke", "'run': (func (param i32 i32) (result i32))", "(ref null $node)"]),
    (["run", TREES, "1", "2"], ["--invoke"]),
    (["run", TREES, "--invoke"], ["--invoke"]),
    (["run", TREES, "--invoke", "walk"], ["'walk'", "'make'", "'check'", "'run'"]),
    (["run", TREES, "--invoke", "[bold]run[/bold]"], ["'[bold]run[/bold]'"]),
    (["run", TREES, "--invoke", "run"], ["'run' takes 2 arguments", "not 0"]),
    (["run", TREES, "--invoke", "run", "1"], ["not 1"]),
    (["run", TREES, "--invoke", "run", "1", "2", "3"], ["not 3"]),
    (["run", TREES, "--invoke", "run", "1", "2.5"], ["argument 2 of 'run'", "'2.5'", "4294967295"]),
    (["run", TREES, "--invoke", "run", "1", "[red]"], ["'[red]'"]),
    (["run", TREES, "--invoke", "run", "1", "4294967296"], ["4294967296"]),
    (["run", TREES, "--invoke", "run", "1", "9" * 6000], ["999..."]),
    (["run", TREES, "--invoke", "run", "-x", "1"], ["'-x'"]),
    (["run", TREES, "--invoke", "run", "-infamous", "1"], ["'-infamous'"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--stat"], ["'--stat'", "'--stats'"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--frobnicate=3"], ["'--frobnicate'"]),
    (["run", TREES, "--invoke", "run", "--", "1", "--stats"], ["'--stats'"]),
    (["run", TREES, "--invoke", "check", "0x50"], ["(ref null $node)", "only null"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--opt-level", "4"], ["--opt-level", "4"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--opt-level", "fast"], ["--opt-level", "fast"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--collect-every", "-1"], ["--collect-every", "-1"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--runtime", "rust"], ["--runtime", "rust", "python"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--log-level", "loud"], ["--log-level", "loud"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--max-heap", "lots"], ["--max-heap", "'lots'"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--max-heap", "-1"], ["--max-heap", "'-1'"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--max-heap", "4G"], ["--max-heap", "4G", "4294967280"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--max-heap", "9" * 5000], ["--max-heap"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--max-heap", "1K", "--initial-heap", "2K"], ["2048", "1024"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", ""], ["--barriers"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", "steel"], ["'steel'", "drc", "outlined", "null"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", "[steel]"], ["'[steel]'"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", "nowhere:Set"], ["nowhere"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", "math:pi"], ["math:pi", "subclass of Collector"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", "math:"], ["math:"]),
    (["run", TREES, "--invoke", "run", "1", "1", "--barriers", ":"], ["':'"]),
]


@pytest.mark.parametrize(("arguments", "parts"), WRONG_COMMAND_LINES, ids=lambda value: " ".join(value)[-60:])
def test_a_wrong_command_line(lowheap: Callable[..., Ran], arguments: list[str], parts: list[str]) -> None:
    assert failed(lowheap(*arguments), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["counter"], ["'counter'", "global of type i32"]),
        (["strict", "null"], ["(ref any)", "'null'"]),
        (["small", "null"], ["(ref i31)", "'null'"]),
        (["small", "2147483648"], ["-1073741824 to 2147483647"]),
        (["none"], ["'counter': (global mut i32)", "'nothing': (func)"]),
    ],
)
def test_a_wrong_export_or_reference(
    lowheap: Callable[..., Ran], program: Callable[..., str], arguments: list[str], parts: list[str]
) -> None:
    assert failed(lowheap("run", program(NUMBERS), "--invoke", *arguments), 2, *parts)


BINARY = bytes(wasmtime.wat2wasm(NUMBERS))
BAD_PROGRAMS: dict[str, tuple[str | bytes, list[str]]] = {
    "garbage": (bytes(range(256)), ["not a WebAssembly text module"]),
    "empty": ("", ["not a WebAssembly text module"]),
    "zeros": (bytes(1000), []),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(50), []),
    "no wat": ("hello, world", ["not a WebAssembly text module"]),
    "markup": ("[bold]hello[/bold]", ["[bold]hello[/bold]"]),
    "half a module": (NUMBERS[: len(NUMBERS) // 2], ["not a WebAssembly text module"]),
    "unknown instruction": ('(module (func (export "f") i32.frob))', ["i32.frob"]),
    "ill-typed": ('(module (func (export "f") (result i32) (f32.const 1)))', ["not a valid WebAssembly module"]),
    "magic only": (b"\0asm", ["not a valid WebAssembly module"]),
    "version 2": (b"\0asm\2\0\0\0", ["not a valid WebAssembly module"]),
    "component": (b"\0asm\x0d\0\1\0", ["not a valid WebAssembly module"]),
    "truncated": (BINARY[:-7], ["not a valid WebAssembly module"]),
    "with a tail": (BINARY + b"tail", ["not a valid WebAssembly module"]),
    "imports": (
        '(module (import "host" "[log]" (func)) (import "env" "limit" (global i32)) (func (export "f")))',
        ["imports what nobody provides", "  host.[log]: (func)\n  env.limit: (global i32)\n"],
    ),
    "a name to obey": ('(module (import "host" "\\1b[31m" (func)) (func (export "f")))', ["\\x1b[31m"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_a_program_that_cannot_be_run(lowheap: Callable[..., Ran], program: Callable[..., str], name: str) -> None:
    contents, parts = BAD_PROGRAMS[name]
    path = program(contents)
    ran = lowheap("run", path, "--invoke", "f")
    assert failed(ran, 1, path, *parts)
    assert "\x1b" not in ran.err


def test_a_program_without_exports(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    assert failed(lowheap("run", program("(module)"), "--invoke", "f"), 2, "exports nothing")


def test_a_program_that_cannot_be_read(lowheap: Callable[..., Ran], tmp_path: Path) -> None:
    assert failed(lowheap("run", str(tmp_path / "[none].wat"), "--invoke", "f"), 1, "[none].wat", "No such file")
    assert failed(lowheap("run", str(tmp_path), "--invoke", "f"), 1, str(tmp_path), "Is a directory")
    assert failed(lowheap("run", "", "--invoke", "f"), 1, "''", "No such file")
    assert failed(lowheap("run", TREES + "/x", "--invoke", "f"), 1, "Not a directory")
    assert failed(lowheap("run", "x" * 5000, "--invoke", "f"), 1, "name too long")
    assert failed(lowheap("run", "/proc/self/mem", "--invoke", "f"), 1, "/proc/self/mem", "Input/output error")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert failed(lowheap("run", str(loop), "--invoke", "f"), 1, "symbolic links")
    assert failed(spawn("run", os.fsdecode(b"\xff\xfe.wat"), "--invoke", "f"), 1, "No such file")


def test_standard_input_that_is_closed() -> None:
    line = f'exec "{sys.executable}" -m lowheap run - --invoke f <&-'
    done = subprocess.run(["sh", "-c", line], env=environment(), capture_output=True, text=True, timeout=60)
    assert failed(Ran(done.returncode, done.stdout, done.stderr), 1, "standard input")


BARRIERS = """
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Collector, Shape
from lowheap.native import Heap, Ref, Slot, native

class Mine(Drc):
    pass

class Broken(Drc):
    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        return slot.valve

class Emitting(Drc):
    def read(self, emitter, address, shape):
        return emitter.load(address)

class Untyped(Drc):
    @native
    def read(heap: Heap, owner: Ref, slot: Slot) -> Ref:
        return slot.value

class Unfinished(Collector):
    pass

class Counting(Drc):
    counters = ("reads",)
"""


def test_barriers_of_ones_own_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "own_barriers.py").write_text(BARRIERS)
    (tmp_path / "unreadable_barriers.py").write_text("class :")
    arguments = ("run", TREES, "--invoke", "run", "3", "2", "--stats", "--barriers")

    # As the console script is started: with no trace of the current directory in sys.path.
    code = "import sys; from lowheap.cli import main; sys.exit(main())"
    for name in ("own_barriers:Mine", "own_barriers.py:Mine"):
        command = [sys.executable, "-P", "-c", code, *arguments, name]
        done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60)
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert (ran.status, ran.out) == (0, "30\n"), ran
        assert figures(ran)["collector"] == "Mine"

    for name, status, part in (
        ("own_barriers:Broken", 1, "own_barriers.py:12: a place of u32 has no valve"),
        ("own_barriers:Emitting", 2, "it must be a native function"),
        ("own_barriers:Unfinished", 2, "the collector Unfinished has no event read"),
        ("own_barriers:Untyped", 2, "Untyped.read is of type (the heap, u32, a place of u32) -> u32"),
        ("own_barriers:Counting", 2, "the collector Counting counts 'reads', which is in none of its states"),
        ("own_barriers:Missing", 2, "Missing"),
        ("missing.py:Missing", 2, "there is no file 'missing.py'"),
        ("unreadable_barriers:Any", 2, "unreadable_barriers.py"),
    ):
        assert failed(spawn(*arguments, name, cwd=tmp_path), status, part)


def test_barriers_are_a_variation_of_the_collectors(lowheap: Callable[..., Ran]) -> None:
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", "--collector", "null", "--barriers", "outlined")
    assert failed(ran, 1, "the barriers outlined are no variation of those of the collector null")
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", "--collector", "drc", "--barriers", "outlined", "--stats")
    assert (ran.out, figures(ran)["collector"]) == ("30\n", "outlined")


# ----------------------------------------------------------------------------------------------------------------------
# The process around it


def test_python_dash_m() -> None:
    ran = spawn("run", TREES, "--invoke", "run", "3", "2")
    assert (ran.status, ran.out, ran.err) == (0, "30\n", "")
    assert spawn("--help").out.startswith("Usage: lowheap ")


def test_without_wasmtime(tmp_path: Path) -> None:
    (tmp_path / "wasmtime.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    for program in (TREES, "-"):
        ran = spawn("run", program, "--invoke", "f", env=environment(PYTHONPATH=path), input=BINARY.decode("latin-1"))
        assert failed(ran, 1, "pip install 'lowheap[wasm]'")


def test_without_address_space() -> None:
    line = f'ulimit -v 3500000 && exec "{sys.executable}" -m lowheap run "{TREES}" --invoke run 1 1'
    done = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=60)
    assert failed(Ran(done.returncode, done.stdout, done.stderr), 1, "out of memory", "address space")


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        (">/dev/full", 1, "lowheap: error: cannot write the results: No space left on device\n"),
        (">&-", 1, "lowheap: error: cannot write the results: standard output is closed\n"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
    ],
)
def test_output_that_cannot_be_written(redirection: str, status: int, message: str) -> None:
    line = f'exec "{sys.executable}" -m lowheap run "{TREES}" --invoke run 1 1 {redirection}'
    done = subprocess.run(["sh", "-c", line], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("arguments", [["run", TREES, "--invoke", "run", "1", "1"], ["--help"], ["--version"]], ids=str)
def test_a_pipe_that_nobody_reads(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment(), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_messages_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        arguments = ["run", TREES, "--invoke", "run", "1"]
        done = subprocess.run(
            [*COMMAND, *arguments], env=environment(), stderr=writing, stdout=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(writing)
    assert done.returncode in (2, 120), "120 is Python's, when standard error is gone at its end"
    assert done.stdout == ""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "text",
    [
        '(module (func (export "f") (loop $again (br $again))))',  # never leaves compiled code
        '(module (type $s (struct)) (func (export "f") (loop $again (drop (struct.new $s)) (br $again))))',
    ],
    ids=["compiled code only", "allocating"],
)
def test_an_interrupt(program: Callable[..., str], text: str, runtime: str) -> None:
    with running(program(text), "--runtime", runtime, interrupt=signal.SIG_DFL) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "lowheap: interrupted"
    assert "Traceback" not in err


def test_an_interrupt_of_a_program_that_was_to_be_verified_and_counted(program: Callable[..., str]) -> None:
    text = """(module
      (type $s (struct)) (global $g (mut (ref null $s)) (ref.null $s))
      (func (export "f") (global.set $g (struct.new $s)) (loop $again (br $again))))"""
    with running(program(text), "--stats", "--verify", interrupt=signal.SIG_DFL) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"objects allocated +│ +[01] ", err), "it may be that it was not running yet"
    assert re.search(r"heap verified +│ +yes ", err)
    assert err.splitlines()[-1] == "lowheap: interrupted"
    assert "Traceback" not in err


def test_an_interrupt_of_a_start_function(program: Callable[..., str]) -> None:
    text = '(module (func $endless (loop $again (br $again))) (func (export "f")) (start $endless))'
    with running(program(text), interrupt=signal.SIG_DFL) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "lowheap: interrupted"


def test_an_interrupt_of_code_that_is_not_interruptible(program: Callable[..., str]) -> None:
    path = program('(module (func (export "f") (loop $again (br $again))))')
    with running(path, "--uninterruptible", "--stats", interrupt=signal.SIG_DFL) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines() == ["lowheap: interrupted"]


def test_a_termination(program: Callable[..., str]) -> None:
    path = program('(module (func (export "f") (loop $again (br $again))))')
    with running(path, interrupt=signal.SIG_DFL) as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM


def test_an_interrupt_that_is_to_be_ignored(program: Callable[..., str]) -> None:
    """As a shell without job control has it for what runs in the background."""
    path = program('(module (func (export "f") (loop $again (br $again))))')
    with running(path, interrupt=signal.SIG_IGN) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None


@contextmanager
def running(program: str, *options: str, interrupt: signal.Handlers) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a program's endless `f`, started with SIGINT handled so, and killed if need be."""
    command = [*COMMAND, "run", program, "--invoke", "f", "--no-cache", "--log-level", "debug", *options]
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, interrupt),
    ) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("lowheap.jit: compiled")  # so it is about to run
            time.sleep(0.2)
            assert process.poll() is None
            yield process
        finally:
            process.kill()


# ----------------------------------------------------------------------------------------------------------------------
# Policies

TREES = str(EXAMPLES[0].path)


@pytest.mark.parametrize(
    ("options", "allocator"),
    [
        (("--allocator", "first-fit"), "first-fit"),
        (("--allocator", "first-fit", "--growth", "collect-first", "--checked"), "first-fit"),
        (("--growth", "grow-first"), "segregated-fit"),
        (("--runtime", "python", "--checked", "--max-heap", "100K"), "segregated-fit"),
    ],
)
def test_policies_of_the_heap(lowheap: Callable[..., Ran], options: tuple[str, ...], allocator: str) -> None:
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", "--stats", *options)
    assert (ran.status, ran.out) == (0, "30\n")
    assert re.search(rf"allocator *│ *{allocator}", ran.err)
    assert re.search(r"runtime *│ *python", ran.err)


def test_first_fit_begins_with_no_heap_and_grows_by_pages(lowheap: Callable[..., Ran]) -> None:
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", "--stats", "--allocator", "first-fit")
    assert re.search(r"heap capacity in bytes *│ *65,536", ran.err)


def test_the_native_runtime_cannot_be_asked_for_other_policies(lowheap: Callable[..., Ran]) -> None:
    ran = lowheap("run", TREES, "--invoke", "run", "3", "2", "--runtime", "native", "--allocator", "first-fit")
    assert failed(ran, 2, "--runtime native has no --allocator first-fit with --growth grow-first")


# --- Ahead ------------------------------------------------------------------------------------------------------------


NOTHING_COMPILED = """
import sys
from lowheap.jit import engine
engine.optimise = None
from lowheap import cli
sys.exit(cli.execute(sys.argv[1:]))
"""

WITH_HOST = """
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (tag $e)
  (func $throw (throw $e))
  (func (export "_start")
    (block $caught (try_table (catch $e $caught) (call $throw)))
    (call $exit (i32.const 5))))
"""


@pytest.mark.parametrize("compilation", ["whole", "by_need"])
def test_a_run_takes_all_from_what_was_compiled_ahead(
    compilation: str, tmp_path: Path, program: Callable[..., str]
) -> None:
    """In processes of their own: nothing that either needs is there already."""
    env = environment(XDG_CACHE_HOME=str(tmp_path / "cache"))
    path, options = program(WITH_HOST), ["--compilation", compilation, "--jobs", "1"]

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", NOTHING_COMPILED, "run", path, "--compilation", compilation, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    assert start().returncode == 1
    command = [sys.executable, "-m", "lowheap", "compile", path, *options]
    ahead = subprocess.run(command, env=env, capture_output=True, text=True)
    assert [ahead.returncode, ahead.stderr] == [0, ""]
    assert re.fullmatch(re.escape(path) + r": 2 functions in the cache, [\d,]+\.\d ms\n", ahead.stdout)
    ran = start("--stats")
    assert ran.returncode == 5, ran.stderr
    assert ("functions compiled by need" in ran.stderr) is (compilation == "by_need")
    if compilation == "by_need":
        assert re.search(r"functions compiled by need .* 2 of 2 .*\n.*functions optimised .* 2 ", ran.stderr)
    assert start("--opt-level", "1").returncode == 1


def test_what_cannot_be_cached_is_an_error(
    lowheap: Callable[..., Ran], program: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    for compilation in ("whole", "by_need"):
        ran = lowheap("compile", program(NUMBERS), "--compilation", compilation, "--jobs", "1")
        assert failed(ran, 1, "was compiled, but is not in the cache", str(file))


def test_compiling_ahead_names_the_program(lowheap: Callable[..., Ran], program: Callable[..., str]) -> None:
    path = program("(module (func (result i32)))")
    assert failed(lowheap("compile", path), 1, path, "type mismatch")
