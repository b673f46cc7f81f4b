"""`lowheap layout`: its figures against ctypes' own layout of the same fields, its tables, its errors."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from support.c_layouts import members
from support.example_programs import EXAMPLES_DIRECTORY

import lowheap as lh
from lowheap import cli
from lowheap.cli.layout import TypeLayout, layout_command, type_layouts
from lowheap.heap import DrcHeap
from lowheap.layout import (
    ARRAY_HEADER_END,
    HEADER_ALIGN,
    HEADER_SIZE,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcHeader,
    align_up,
    block_length,
)
from lowheap.wasm import validate

# Storage type: its width in bytes, and whether the collector follows it.
PREAMBLE = "(type $s (struct)) (type $a (array i8)) (type $f (func))"
STORAGES = {
    "i8": (1, False),
    "i16": (2, False),
    "i32": (4, False),
    "i64": (8, False),
    "f32": (4, False),
    "f64": (8, False),
    "v128": (16, False),
    "anyref": (4, True),
    "eqref": (4, True),
    "structref": (4, True),
    "arrayref": (4, True),
    "nullref": (4, True),
    "i31ref": (4, False),
    "(ref i31)": (4, False),
    "externref": (4, True),
    "(ref extern)": (4, True),
    "funcref": (4, False),
    "(ref null $f)": (4, False),
    "(ref null $s)": (4, True),
    "(ref $a)": (4, True),
}
PACKED = ("i8", "i16")
HEADER_SLOTS = len([path for path, _, _ in members(VMDrcHeader) if path != ("header",)])


class V128(ctypes.Structure):
    """ctypes has no 16-byte scalar; on its own it would align this to 8."""

    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64))


SCALARS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
FIELDS = st.lists(st.tuples(st.sampled_from(sorted(STORAGES)), st.booleans()), max_size=12)


def layouts(text: str) -> list[TypeLayout]:
    return type_layouts(validate.to_binary(f"(module {text})"))


def struct_text(fields: list[tuple[str, bool]]) -> str:
    return "(struct " + " ".join(f"(field {f'(mut {each})' if mutable else each})" for each, mutable in fields) + ")"


def check_tiling(layout: TypeLayout) -> None:
    """The slots and the padding between them cover the object without a gap, and padding is nowhere twice."""
    end = 0
    for slot in layout.slots:
        assert slot.offset == end
        assert slot.width > 0
        end += slot.width
    assert end == layout.size + (layout.element_size or 0)
    parts = [slot.part for slot in layout.slots]
    assert all((left, right) != ("padding", "padding") for left, right in itertools.pairwise(parts))


@settings(max_examples=150, deadline=None)
@given(FIELDS)
def test_structs_are_laid_out_as_c_would(fields: list[tuple[str, bool]]) -> None:
    layout = layouts(f"{PREAMBLE} (type {struct_text(fields)})")[3]
    check_tiling(layout)
    if "v128" not in dict(fields):

        class Expected(ctypes.Structure):
            _anonymous_ = ("header",)
            _fields_ = (
                ("header", VMDrcHeader),
                *((f"f{n}", SCALARS[STORAGES[each][0]]) for n, (each, _) in enumerate(fields)),
            )

        offsets: list[int] = [getattr(Expected, f"f{n}").offset for n in range(len(fields))]
        assert (layout.size, layout.align) == (ctypes.sizeof(Expected), ctypes.alignment(Expected))
    else:
        offsets, end = [], HEADER_SIZE
        for each, _ in fields:
            width = STORAGES[each][0]
            offsets.append((end + width - 1) // width * width)
            end = offsets[-1] + width
        assert (layout.size, layout.align) == ((end + 15) // 16 * 16, 16)
    found = [slot for slot in layout.slots if slot.part == "field"]
    assert [(slot.offset, slot.width) for slot in found] == [
        (offset, STORAGES[each][0]) for offset, (each, _) in zip(offsets, fields, strict=True)
    ]
    assert [(slot.traced, slot.mutable) for slot in found] == [(STORAGES[each][1], mutable) for each, mutable in fields]
    assert (layout.kind, layout.block, layout.element_size) == ("struct", align_up(layout.size, 16), None)


@pytest.mark.parametrize("storage", sorted(STORAGES))
def test_arrays(storage: str) -> None:
    width, traced = STORAGES[storage]
    layout = layouts(f"{PREAMBLE} (type (array (mut {storage})))")[3]
    check_tiling(layout)
    element = layout.slots[-1]
    assert (element.part, element.width, element.traced, element.mutable) == ("element", width, traced, True)
    assert element.offset == layout.size == align_up(ARRAY_HEADER_END, width)
    assert (layout.kind, layout.element_size, layout.align) == ("array", width, max(HEADER_ALIGN, width))
    assert [slot.offset for slot in layout.slots if slot.part == "length"] == [VMDrcArrayHeader.length.offset]


def test_exceptions_have_the_layout_of_their_tags_function_type() -> None:
    class Expected(ctypes.Structure):
        _fields_ = (
            ("header", VMDrcExnHeader),
            ("number", ctypes.c_uint32),
            ("wide", ctypes.c_uint64),
            ("reference", ctypes.c_uint32),
        )

    layout = layouts("(type (func (param i32 i64 externref) (result i32)))")[0]
    check_tiling(layout)
    assert (layout.kind, layout.size) == ("function", ctypes.sizeof(Expected))
    tags = [(slot.name, slot.offset) for slot in layout.slots if slot.part == "tag"]
    assert tags == [
        ("tag_instance", VMDrcExnHeader.tag_instance.offset),
        ("tag_defined", VMDrcExnHeader.tag_defined.offset),
    ]
    offsets: list[int] = [getattr(Expected, name).offset for name in ("number", "wide", "reference")]
    assert [(slot.offset, slot.traced, slot.mutable) for slot in layout.slots if slot.part == "field"] == [
        (offset, traced, None) for offset, traced in zip(offsets, (False, False, True), strict=True)
    ]


@pytest.mark.parametrize("path", sorted(EXAMPLES_DIRECTORY.glob("*.wat")), ids=lambda path: path.stem)
def test_layouts_are_those_of_the_heap(path: Path) -> None:
    """What the command prints of a program is what its objects have."""
    engine = lh.Engine()
    module = lh.Module(engine, path.read_text())
    heap = DrcHeap(engine.types)
    for layout, index in zip(type_layouts(validate.to_binary(path.read_bytes())), module.type_indices, strict=True):
        expected = heap.layout(index)
        assert layout.align == expected.align
        assert layout.name == module.decoded.names.types.get(layout.index)
        traced = [slot.offset for slot in layout.slots if slot.traced]
        if layout.kind == "array":
            assert layout.size == heap.array_layout(index).elements_offset
            assert bool(traced) == heap.array_layout(index).elements_are_traced
        else:
            assert layout.size == heap.layout(index).size
            assert tuple(traced) == expected.traced_offsets  # type: ignore[union-attr]
    heap.close()


# ----------------------------------------------------------------------------------------------------------------------
# The command


def command(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(layout_command, list(arguments), input=stdin)


def as_json(*arguments: str) -> Any:
    ran = command(*arguments, "--json")
    assert ran.exit_code == 0, ran.exception
    return json.loads(ran.stdout)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("(struct (field i8) (field (ref null any)))", ["struct"]),
        ("  (sub (array i16))", ["array"]),
        ("(func (param i32))", ["function"]),
        ("(type $t (struct (field (ref null $t))))", ["struct"]),
        ("(rec (type $x (struct (field (ref null $y)))) (type $y (array (ref $x))))", ["struct", "array"]),
        ("(type (struct)) (type (array i8))", ["struct", "array"]),
        ("(module (type (struct)) (func))", ["struct", "function"]),
        ("(module)", []),
    ],
)
def test_types_on_the_command_line(text: str, kinds: list[str]) -> None:
    assert [each["kind"] for each in as_json(text)] == kinds


def test_json_has_everything() -> None:
    (layout,) = as_json("(struct (field $tag i8) (field (mut (ref null any))))")
    assert layout["slots"][HEADER_SLOTS:] == [
        {
            "part": "field",
            "offset": HEADER_SIZE,
            "width": 1,
            "number": 0,
            "name": "tag",
            "storage": "i8",
            "mutable": False,
            "traced": False,
        },
        {
            "part": "padding",
            "offset": HEADER_SIZE + 1,
            "width": 3,
            "number": None,
            "name": None,
            "storage": None,
            "mutable": None,
            "traced": False,
        },
        {
            "part": "field",
            "offset": HEADER_SIZE + 4,
            "width": 4,
            "number": 1,
            "name": None,
            "storage": "anyref",
            "mutable": True,
            "traced": True,
        },
    ]
    del layout["slots"]
    assert layout == {
        "index": 0,
        "name": None,
        "definition": "(struct (field i8) (field (mut anyref)))",
        "supertype": None,
        "final": True,
        "kind": "struct",
        "size": HEADER_SIZE + 8,
        "align": HEADER_ALIGN,
        "block": block_length(HEADER_SIZE + 8),
        "element_size": None,
    }


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_the_table() -> None:
    ran = command(
        "(type $base (sub (struct (field $x i8)))) (type (sub $base (struct (field i8) (field (ref $base)))))"
    )
    assert ran.exit_code == 0
    assert ran.stderr == ""
    assert "type 0 $base: struct" in ran.stdout
    assert "type 1: struct, extends $base" in ran.stdout
    found = rows(ran.stdout)
    assert found[:HEADER_SLOTS] == [
        [str(offset), str(size), path[-1], "", "", ""]
        for path, offset, size in members(VMDrcHeader)
        if path != ("header",)  # its parts are there
    ]
    start, more = HEADER_SIZE, align_up(HEADER_SIZE + 1, HEADER_ALIGN) - HEADER_SIZE - 1
    assert found[HEADER_SLOTS : HEADER_SLOTS + 2] == [
        [str(start), "1", "field 0 $x", "i8", "no", "no"],
        [str(start + 1), str(more), "padding", "", "", ""],
    ]
    assert found[-1] == [str(start + 4), "4", "field 1", "(ref $base)", "no", "yes"]
    size = start + 8
    rest = block_length(size) - size
    assert f"{size} bytes, aligned to {HEADER_ALIGN}; {rest} more to the end of its block" in ran.stdout
    assert f"{ARRAY_HEADER_END} + n × 1 bytes, aligned to {HEADER_ALIGN}" in command("(array i8)").stdout
    assert "type 0: function, and the exceptions whose tag has it" in command("(func (param i32))").stdout
    assert command("(module)").stdout == "no types\n"


def test_a_file_and_standard_input(tmp_path: Path) -> None:
    text = "(module (type $t (struct (field i32))))"
    (tmp_path / "m.wat").write_text(text)
    (tmp_path / "m.wasm").write_bytes(validate.to_binary(text))
    expected = as_json(text)
    assert as_json(str(tmp_path / "m.wat")) == as_json(str(tmp_path / "m.wasm")) == expected
    ran = subprocess.run(
        [sys.executable, "-m", "lowheap", "layout", "-", "--json"],
        input=text.encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert json.loads(ran.stdout) == expected
    ran = subprocess.run(
        [sys.executable, "-m", "lowheap", "layout", "(array i8)"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert b"%d + n \\xd7 1 bytes" % ARRAY_HEADER_END in ran.stdout


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.wat", "cannot read 'none.wat': No such file"),
        (".", "Is a directory"),
        ("(struct", "not a WebAssembly text module"),
        ("(struct (field i9))", "not a WebAssembly text module"),
        ("(struct (field (ref null 7)))", "not a valid WebAssembly module"),
        ("(sub 5 (struct))", "not a valid WebAssembly module"),
    ],
)
def test_errors_are_messages(argument: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["layout", argument]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lowheap: error: ")
    assert message in err
    assert "Traceback" not in err


def test_a_bad_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.wasm").write_bytes(b"\0asm\1\0\0\0\xff")
    assert cli.execute(["layout", str(tmp_path / "bad.wasm")]) == 1
    assert "bad.wasm: not a valid WebAssembly module" in capsys.readouterr().err


def test_names_cannot_command_the_terminal() -> None:
    assert "\x1b" not in command('(type $"a\\1b[31m" (struct (field $"\\07" i8)))').stdout
