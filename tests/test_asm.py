"""`lowheap asm`: marks change no machine code, sizes add up, and each region is where its event is."""

from __future__ import annotations

import io
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from llvmlite import ir

import lowheap as lh
from lowheap import cli
from lowheap.cli.asm import _compile_marked
from lowheap.jit.emit import I32, PTR, VOID, Emitter, NativeFunction
from lowheap.jit.listing import MarkedCode
from lowheap.jit.marks import MOVED, PLAIN, MarkedModule

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.wat"))
TREES = str(EXAMPLES[0].with_name("binary_trees.wat"))

EVENTS = """
(module
  (import "host" "call" (func $imported))
  (type $box (struct (field $it (mut (ref null $box)))))
  (type $other (struct (field i32)))
  (type $numbers (array (mut i32)))
  (func $read (export "read") (param (ref $box)) (result (ref null $box)) (struct.get $box $it (local.get 0)))
  (func $write (export "write") (param (ref $box) (ref null $box)) (struct.set $box $it (local.get 0) (local.get 1)))
  (func $new (export "new") (param (ref null $box)) (result (ref $box)) (struct.new $box (local.get 0)))
  (func $array (export "array") (param i32) (result (ref $numbers)) (array.new_default $numbers (local.get 0)))
  (func $number (export "number") (param (ref $other)) (result i32) (struct.get $other 0 (local.get 0)))
  (func $nothing (export "nothing"))
  (func $null (export "null") (param (ref null $other)) (result i32) (struct.get $other 0 (local.get 0)))
  (func $small (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func $caller (export "caller") (param i32) (result i32) (call $small (local.get 0)))
  (func $call (export "call") (call $imported)))
"""

# What a function's machine code must have regions for, beside the stack check, with drc barriers.
EXPECTED = {
    "read": {("read",)},
    "write": {("write",), ("write", "inc_ref"), ("write", "dec_ref")},
    "new": {("allocate",), ("allocate", "safepoint"), ("init",), ("init", "inc_ref")},
    "array": {("allocate",), ("allocate", "safepoint")},
    "number": set(),
    "nothing": set(),
    "null": {("trap",)},
    "caller": set(),
    "call": {("safepoint",)},
}


def text_of(image: bytes) -> list[tuple[str, bytes]]:
    """The names and contents of an object's sections of code."""
    code = "SHF_EXECINSTR", 4
    return [
        (str(section.name), bytes(section.data()))
        for section in ELFFile(io.BytesIO(image)).iter_sections()
        if section["sh_flags"] & code[1]
    ]


def marked_code(source: str, **options: object) -> tuple[lh.Module, MarkedCode, dict[str, str]]:
    """A module, its code with marks, and the symbols of its functions by name."""
    module = lh.Module(lh.Engine(**options), source)  # type: ignore[arg-type]
    code, symbols = _compile_marked(module)
    return module, code, {module.function_name(index).removeprefix("$"): name for index, name in symbols.items()}


@pytest.fixture(scope="module")
def events() -> tuple[MarkedCode, dict[str, str]]:
    _, code, symbols = marked_code(EVENTS, runtime="native")
    return code, symbols


def test_the_examples_are_there() -> None:
    assert len(EXAMPLES) >= 9


@pytest.mark.parametrize(
    ("program", "barriers"),
    [*((program, "drc") for program in EXAMPLES), *((Path(TREES), barriers) for barriers in ("outlined", "null"))],
    ids=lambda value: value if isinstance(value, str) else value.stem,
)
def test_marks_change_no_machine_code(program: Path, barriers: str) -> None:
    module, code, _ = marked_code(program.read_text(), barriers=barriers, runtime="native")
    assert text_of(code.object) == text_of(module.compiled.object)
    for symbol in code.functions:
        sizes = code.sizes(symbol)
        assert sum(size.bytes for size in sizes.values()) == len(code.machine_code(symbol)) > 0
        assert all(size.bytes > 0 for size in sizes.values())


@pytest.mark.parametrize("opt_level", [0, 1, 3])
@pytest.mark.parametrize("runtime", ["native", "python"])
def test_marks_change_no_machine_code_at_other_levels(opt_level: int, runtime: str) -> None:
    module, code, _ = marked_code(EVENTS, opt_level=opt_level, runtime=runtime)
    assert text_of(code.object) == text_of(module.compiled.object)


def test_a_module_that_runs_has_no_marks() -> None:
    compiled = lh.Module(lh.Engine(), EVENTS).compiled
    assert "!dbg" not in compiled.llvm_ir
    assert "DILocation" not in compiled.llvm_ir
    assert not any(".debug" in section.name for section in ELFFile(io.BytesIO(compiled.object)).iter_sections())


@pytest.mark.parametrize("function", EXPECTED)
def test_each_function_has_the_regions_of_its_events(events: tuple[MarkedCode, dict[str, str]], function: str) -> None:
    code, symbols = events
    found = {path for path in code.sizes(symbols[function]) if path not in (PLAIN, MOVED) and path[0] != "stack check"}
    assert found == EXPECTED[function]


def test_null_barriers_have_no_counting_and_outlined_ones_call() -> None:
    _, null, symbols = marked_code(EVENTS, barriers="null", runtime="native")
    _, outlined, same_symbols = marked_code(EVENTS, barriers="outlined", runtime="native")
    _, inline, _ = marked_code(EVENTS, barriers="drc", runtime="native")
    assert symbols == same_symbols
    assert not any("ref" in part for each in null.functions for path in null.sizes(each) for part in path)
    read = ("read",)
    sizes = [each.sizes(symbols["read"])[read].bytes for each in (null, outlined, inline)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 3
    lines = [line.text for line in outlined.assembly(symbols["read"]) if line.path == read]
    assert any("lowheap.struct_get" in line for line in lines)
    bodies = [symbol for symbol in outlined.functions if symbol.startswith("lowheap.struct_get")]
    assert bodies
    assert outlined.sizes(bodies[0])[read].bytes > sizes[0]


def test_sizes_are_exact_for_code_of_known_proportions() -> None:
    """Equal stores, three for one event, five for another with two for one inside it."""
    module = MarkedModule("stores")
    function = NativeFunction(module, ir.FunctionType(VOID, [PTR]), "stores")
    emitter = Emitter(function)
    places = iter(range(100))

    def store() -> None:  # apart, so that LLVM does not make one of several
        place = emitter.at(function.args[0], 24 + 1000 * next(places))
        emitter.store_typed(I32(0x12345678), emitter.at(place, 1000))

    with emitter.event("a"):
        for _ in range(3):
            store()
    with emitter.event("b"):
        store()
        with emitter.event("b"):  # the same event: no region of its own
            store()
        with emitter.event("inner"):
            store()
            store()
        for _ in range(3):
            store()
    emitter.builder.ret_void()
    code = MarkedCode(module)
    sizes = code.sizes("stores")
    one = sizes["a",].bytes // 3
    assert one > 0
    assert {path: size.bytes for path, size in sizes.items() if path != PLAIN} == {
        ("a",): 3 * one,
        ("b",): 5 * one,
        ("b", "inner"): 2 * one,
    }
    if platform.machine() == "x86_64":  # one instruction for each store there
        assert [sizes[path].instructions for path in (("a",), ("b",), ("b", "inner"))] == [3, 5, 2]


def test_functions_in_sections_of_their_own_are_told_apart() -> None:
    """LLVM puts cold functions in another section, where addresses start from 0 again."""
    module = MarkedModule("sections")
    for name, attributes in (("hot", ()), ("cold", ("cold",))):
        emitter = Emitter(NativeFunction(module, ir.FunctionType(VOID, [PTR]), name, *attributes))
        with emitter.event(name):
            for number in range(5):
                emitter.store_typed(I32(number + 7), emitter.at(emitter.function.args[0], 1000 * number))
        emitter.builder.ret_void()
    code = MarkedCode(module)
    sections = [name for name, content in text_of(code.object) if content]
    assert len(sections) == 2
    for name, other in (("hot", "cold"), ("cold", "hot")):
        sizes = code.sizes(name)
        assert sizes[name,].bytes > sizes[PLAIN].bytes > 0
        assert (other,) not in sizes


@pytest.mark.parametrize("program", [EXAMPLES[0], *EXAMPLES[4:6]], ids=lambda path: path.stem)
def test_the_listing_is_what_a_disassembler_reads_in_the_object(program: Path, tmp_path: Path) -> None:
    """The instructions of the listing are those that binutils finds, in number and by name."""
    objdump = shutil.which("objdump")
    assert objdump is not None, "the tests need binutils"
    module, code, _ = marked_code(program.read_text(), runtime="native")
    image = tmp_path / "code.o"
    image.write_bytes(module.compiled.object)
    shown = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", str(image)], capture_output=True, text=True, check=True
    ).stdout
    for symbol in code.functions:
        body = shown.split(f"<{symbol}>:\n")[1].split("\n\n")[0]
        theirs = [line.split("\t")[1].split()[0] for line in body.splitlines() if "\t" in line]
        ours = [line.text.split()[0] for line in code.assembly(symbol) if line.path is not None]
        padding = [name for name in theirs if not name.startswith(("nop", "cs", "data16", "xchg"))]
        kept = [name for name in ours if not name.startswith(("nop", "cs", "data16", "xchg"))]
        assert len(kept) == len(padding), symbol
        # Suffixes for operand sizes, and some conditions, are spelt in two ways.
        assert sum(a[:2] != b[:2] for a, b in zip(kept, padding, strict=True)) <= len(kept) // 20, symbol


def test_an_instruction_is_listed_with_the_prefix_that_tells_its_encoding() -> None:
    _, code, _ = marked_code('(module (func (export "f")))', runtime="native")
    (symbol,) = (each for each in code.functions if each.startswith("wasm.0"))
    end = next(number for number, line in enumerate(code._assembly) if line.startswith(f"{symbol}:")) + 1
    code._assembly.insert(end, "\t{vex}\tvpdpwssd\t(%rax), %xmm0, %xmm1")
    assert code.assembly(symbol)[0].text.split() == ["{vex}", "vpdpwssd", "(%rax),", "%xmm0,", "%xmm1"]


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def asm(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    path = tmp_path / "events.wat"
    path.write_text(EVENTS)

    def run(*arguments: str, program: str = str(path)) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.execute(["asm", program, *arguments])
        return status, *capsys.readouterr()

    return run


Asm = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", ["write", "$write", "2"])
def test_the_command_finds_a_function_by_export_name_and_index(asm: Asm, name: str) -> None:
    status, out, err = asm("--function", name)
    assert (status, err) == (0, "")
    head, *lines = out.splitlines()
    assert re.fullmatch(r"function 2 \$write: \d+ bytes, drc barriers, \w+ runtime, optimisation level 2", head)
    regions = {line.split("│")[0].strip() for line in lines}
    assert {"write", "write/inc_ref", "write/dec_ref", "stack check", ""} <= regions
    calls = [line for line in lines if "lowheap.drop" in line]
    assert calls
    assert all(line.startswith("write/dec_ref") for line in calls)
    assert "\x1b" not in out


def test_the_command_prints_ir(asm: Asm) -> None:
    status, out, err = asm("--function", "write", "--llvm")
    assert (status, err) == (0, "")
    assert re.search(r"^ +│ define internal void @wasm\.2\.write\(", out, re.MULTILINE)
    assert re.search(r"^write +│ +store i32 %", out, re.MULTILINE)
    assert re.search(r"^write/dec_ref +│ .*call .*@lowheap\.drop", out, re.MULTILINE)
    assert "!dbg" not in out
    assert out.rstrip().endswith("}")


def test_the_command_prints_sizes_that_add_up(asm: Asm) -> None:
    for arguments in (["--function", "new"], []):
        status, out, err = asm("--sizes", *arguments)
        assert (status, err) == (0, "")
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
        outer = {name: (int(size.replace(",", "")), int(count)) for name, size, _, count in rows if "/" not in name}
        total = outer.pop("total")
        assert total[0] == sum(size for size, _ in outer.values())
        assert total[1] == sum(count for _, count in outer.values())
        assert {"allocate", "init", "stack check"} <= set(outer)
    status, out, _ = asm("--function", "new", "--sizes")
    _, code, symbols = marked_code(EVENTS)
    assert f"{len(code.machine_code(symbols['new']))}" in out.split("total")[1]


def test_options_reach_the_compiler(asm: Asm) -> None:
    outputs = {
        asm("--function", "new", *options)[1]
        for options in (
            [],
            ["--barriers", "null"],
            ["--opt-level", "0"],
            ["--runtime", "native"],
            ["--runtime", "python"],
        )
    }
    assert len(outputs) == 4  # one of the runtimes is the default


def test_an_events_function_is_found_by_its_symbol(asm: Asm) -> None:
    status, out, _ = asm("--function", "lowheap.struct_get.0.0.false.false", "--barriers", "outlined")
    assert status == 0
    assert re.search(r"^read ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, r"--function is missing.*\$read"),
        (["--function", "wirte"], 2, r"no function 'wirte'.*write"),
        (["--function", "99"], 2, r"no function '99'"),
        (["--function", "new", "--llvm", "--sizes"], 2, r"--llvm and --sizes"),
        (["--function", "new", "--barriers", "nonesuch"], 2, r"nonesuch"),
        (["--function", "new", "--opt-level", "4"], 2, r"4"),
        (["--function", "$imported"], 1, r"function 0 \$imported is imported"),
        (["--function", "$small"], 1, r"function 8 \$small has no machine code of its own: it is inlined"),
    ],
)
def test_what_cannot_be_shown_is_one_message(asm: Asm, arguments: list[str], status: int, message: str) -> None:
    found, out, err = asm(*arguments)
    assert (found, out) == (status, "")
    assert re.search(message, err, re.DOTALL)
    assert "Traceback" not in err


@pytest.mark.parametrize(("text", "message"), [("(module (func", "expected"), (None, "cannot read")])
def test_a_bad_program_is_one_message(asm: Asm, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "bad.wat"
    if text is not None:
        path.write_text(text)
    status, _, err = asm("--function", "f", program=str(path))
    assert status == 1
    assert str(path) in err
    assert message in err


def test_names_cannot_drive_the_terminal(asm: Asm, tmp_path: Path) -> None:
    path = tmp_path / "names.wat"
    path.write_text('(module (func $a (@name "\\1b[31mred") (export "f\\1b[0m")))')
    for arguments in ([], ["--function", "0"], ["--function", "x"]):
        _, out, err = asm(*arguments, program=str(path))
        assert "\x1b" not in out + err
        assert out + err
