"""The decoder against the assembler and the validator of the wasmtime package, and against bytes written by hand.

wat text says what a module contains in one way, the binary that wasmtime assembles from it in another; the decoder must
read the one back from the other. wasmtime does not validate what it assembles, so instructions can stand alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowheap import types as t
from lowheap.errors import MalformedModuleError, UnsupportedError
from lowheap.wasm.decode import (
    MAX_FUNCTION_LOCALS,
    BlockType,
    Catch,
    DataSegment,
    DecodedModule,
    ElementSegment,
    Export,
    FunctionImport,
    GlobalImport,
    Instruction,
    MemoryDefinition,
    MemoryImport,
    Names,
    Operand,
    Reader,
    TableDefinition,
    TableImport,
    TagImport,
    decode,
)
from lowheap.wasm.opcodes import OPCODES, Code, Immediate
from lowheap.wasm.validate import to_binary, validate

H = t.AbstractHeapType


# --- Binaries by hand ------------------------------------------------------------------------------------------------


def unsigned(value: int) -> bytes:
    """LEB128, the shortest form."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def sized(contents: bytes) -> bytes:
    return unsigned(len(contents)) + contents


def section(number: int, contents: bytes) -> bytes:
    return bytes([number]) + sized(contents)


def module(*sections: bytes) -> bytes:
    return b"\0asm\1\0\0\0" + b"".join(sections)


def vector(*entries: bytes) -> bytes:
    return unsigned(len(entries)) + b"".join(entries)


def name(text: str) -> bytes:
    return sized(text.encode())


TYPE, IMPORT, FUNCTION, TABLE, MEMORY, GLOBAL, EXPORT, START, ELEMENT, CODE, DATA, DATA_COUNT, TAG = range(1, 14)
NO_LOCALS = b"\0"


def function(body: bytes) -> bytes:
    """A module of one function [] -> [] with this body, its locals included."""
    return module(
        section(TYPE, vector(b"\x60\0\0")), section(FUNCTION, vector(b"\0")), section(CODE, vector(sized(body)))
    )


def code_bytes(code: Code) -> bytes:
    return bytes([code[0]]) + b"".join(map(unsigned, code[1:]))


# --- Every instruction -----------------------------------------------------------------------------------------------

# Types that the snippets use: 0 is a function type, 1 a struct, 2 and 3 arrays; 130 is another function type.
TYPES = (
    "(type $f (func (param i64 (ref null $s)) (result f32)))"
    "(type $s (struct (field i8) (field $y (mut i16))))"
    "(type $a (array (mut i8)))"
    "(type $b (array (mut i8)))" + "(type (func))" * 126 + "(type $far (func (result i32 i64)))"
)

F_BLOCK = BlockType((t.I64, t.RefType(True, 1)), (t.F32,))


def natural_alignment(name: str) -> int:
    """How many bytes a load, a store or an atomic instruction accesses, as a power of two: from its name."""
    narrow = re.search(r"(?:load|store|rmw|wait)(8|16|32|64)(?:x(\d))?", name)
    whole = {"i": name[1:3], "f": name[1:3], "v": "128"}.get(name[0], "32")
    bits = int(narrow.group(1)) * int(narrow.group(2) or 1) if narrow else int(whole)
    return (bits // 8).bit_length() - 1


MEMORY_ACCESSES: dict[Code, list[tuple[str, tuple[Operand, ...]]]] = {
    code: [
        (opcode.name, (0, natural_alignment(opcode.name), 0)),
        (f"{opcode.name} 3 offset=0x1ffffffff", (3, natural_alignment(opcode.name), 0x1FFFFFFFF)),
    ]
    for code, opcode in OPCODES.items()
    if opcode.immediates == (Immediate.MEMORY_ARGUMENT,)
}
LANES = {
    code: [(f"{opcode.name} 1", (1,)), (f"{opcode.name} 0", (0,))]
    for code, opcode in OPCODES.items()
    if opcode.immediates == (Immediate.LANE,)
}
LANES_IN_MEMORY = {
    code: [(f"{opcode.name} 3 offset=0x1ffffffff 1", (3, natural_alignment(opcode.name), 0x1FFFFFFFF, 1))]
    for code, opcode in OPCODES.items()
    if opcode.immediates == (Immediate.MEMORY_ARGUMENT, Immediate.LANE)
}

# Each instruction as text, with the operands that it must read back as.
WITH_IMMEDIATES: dict[Code, list[tuple[str, tuple[Operand, ...]]]] = {
    (0x02,): [
        ("block", (BlockType((), ()),)),
        ("block (result v128)", (BlockType((), (t.V128,)),)),
        ("block (result (ref null $a))", (BlockType((), (t.RefType(True, 2),)),)),
        ("block (type $f)", (F_BLOCK,)),
        ("block (type $far)", (BlockType((), (t.I32, t.I64)),)),
    ],
    (0x03,): [("loop", (BlockType((), ()),)), ("loop (result eqref)", (BlockType((), (t.EQREF,)),))],
    (0x04,): [("if", (BlockType((), ()),)), ("if (result (ref i31))", (BlockType((), (t.RefType(False, H.I31),)),))],
    (0x0C,): [("br 0", (0,)), ("br 300", (300,))],
    (0x0D,): [("br_if 1", (1,))],
    (0x0E,): [("br_table 5 4 3 200 1", ((5, 4, 3, 200), 1)), ("br_table 2", ((), 2))],
    (0x1F,): [
        ("try_table", (BlockType((), ()), ())),
        (
            "try_table (result i32) (catch 1 2) (catch_ref 200 0) (catch_all 3) (catch_all_ref 300)",
            (
                BlockType((), (t.I32,)),
                (
                    Catch("catch", 1, 2),
                    Catch("catch_ref", 200, 0),
                    Catch("catch_all", None, 3),
                    Catch("catch_all_ref", None, 300),
                ),
            ),
        ),
    ],
    (0x08,): [("throw 130", (130,))],
    (0x09,): [("rethrow 1", (1,))],
    (0x10,): [("call 0", (0,)), ("call 4294967295", (2**32 - 1,))],
    (0x11,): [("call_indirect 3 (type $f)", (0, 3)), ("call_indirect (type $f)", (0, 0))],
    (0x12,): [("return_call 5", (5,))],
    (0x13,): [("return_call_indirect 2 (type $f)", (0, 2))],
    (0x14,): [("call_ref $f", (0,))],
    (0x15,): [("return_call_ref $f", (0,))],
    (0x1C,): [("select (result i64)", (t.I64,)), ("select (result (ref $s))", (t.RefType(False, 1),))],
    (0x20,): [("local.get 7", (7,))],
    (0x21,): [("local.set 128", (128,))],
    (0x22,): [("local.tee 0", (0,))],
    (0x23,): [("global.get 3", (3,))],
    (0x24,): [("global.set 4", (4,))],
    (0x25,): [("table.get 1", (1,))],
    (0x26,): [("table.set 2", (2,))],
    (0x3F,): [("memory.size 1", (1,))],
    (0x40,): [("memory.grow", (0,))],
    **MEMORY_ACCESSES,
    **LANES,
    **LANES_IN_MEMORY,
    (0xFD, 12): [("v128.const i64x2 1 -2", ((2**64 - 2) << 64 | 1,))],
    (0xFD, 13): [
        (f"i8x16.shuffle {' '.join(map(str, range(31, 15, -1)))}", (tuple(range(31, 15, -1)),)),
    ],
    (0x41,): [("i32.const -1", (-1,)), ("i32.const 0x7fffffff", (2**31 - 1,)), ("i32.const 64", (64,))],
    (0x42,): [("i64.const -0x8000000000000000", (-(2**63),)), ("i64.const 5", (5,))],
    (0x43,): [
        ("f32.const 1.5", (0x3FC00000,)),
        ("f32.const nan:0x123", (0x7F800123,)),
        ("f32.const -inf", (0xFF800000,)),
    ],
    (0x44,): [("f64.const -0", (1 << 63,)), ("f64.const -nan:0x4000000000001", (0xFFF4000000000001,))],
    (0xD0,): [("ref.null none", (H.NONE,)), ("ref.null $a", (2,)), ("ref.null $far", (130,))],
    (0xD2,): [("ref.func 0", (0,))],
    (0xD5,): [("br_on_null 2", (2,))],
    (0xD6,): [("br_on_non_null 3", (3,))],
    (0xFB, 0): [("struct.new $s", (1,)), ("struct.new $far", (130,))],
    (0xFB, 1): [("struct.new_default $s", (1,))],
    (0xFB, 2): [("struct.get $s 0", (1, 0))],
    (0xFB, 3): [("struct.get_s $s $y", (1, 1))],
    (0xFB, 4): [("struct.get_u $s $y", (1, 1))],
    (0xFB, 5): [("struct.set $s $y", (1, 1))],
    (0xFB, 6): [("array.new $a", (2,))],
    (0xFB, 7): [("array.new_default $b", (3,))],
    (0xFB, 8): [("array.new_fixed $a 1000", (2, 1000))],
    (0xFB, 9): [("array.new_data $a 3", (2, 3))],
    (0xFB, 10): [("array.new_elem $a 4", (2, 4))],
    (0xFB, 18): [("array.init_data $b 3", (3, 3))],
    (0xFB, 19): [("array.init_elem $b 4", (3, 4))],
    (0xFC, 8): [("memory.init 1 3", (3, 1))],
    (0xFC, 9): [("data.drop 3", (3,))],
    (0xFC, 10): [("memory.copy 1 2", (1, 2))],
    (0xFC, 11): [("memory.fill 1", (1,))],
    (0xFC, 12): [("table.init 1 3", (3, 1))],
    (0xFC, 13): [("elem.drop 3", (3,))],
    (0xFC, 14): [("table.copy 1 2", (1, 2))],
    (0xFC, 15): [("table.grow 1", (1,))],
    (0xFC, 16): [("table.size 1", (1,))],
    (0xFC, 17): [("table.fill 1", (1,))],
    (0xFB, 11): [("array.get $a", (2,))],
    (0xFB, 12): [("array.get_s $a", (2,))],
    (0xFB, 13): [("array.get_u $a", (2,))],
    (0xFB, 14): [("array.set $a", (2,))],
    (0xFB, 16): [("array.fill $a", (2,))],
    (0xFB, 17): [("array.copy $a $b", (2, 3))],
    (0xFB, 20): [("ref.test (ref $s)", (t.RefType(False, 1),)), ("ref.test (ref any)", (t.RefType(False, H.ANY),))],
    (0xFB, 21): [("ref.test (ref null $s)", (t.RefType(True, 1),)), ("ref.test i31ref", (t.I31REF,))],
    (0xFB, 22): [("ref.cast (ref extern)", (t.RefType(False, H.EXTERN),))],
    (0xFB, 23): [("ref.cast (ref null $far)", (t.RefType(True, 130),)), ("ref.cast nullfuncref", (t.NULLFUNCREF,))],
    (0xFB, 24): [
        ("br_on_cast 1 anyref (ref $s)", (1, t.ANYREF, t.RefType(False, 1))),
        ("br_on_cast 0 (ref eq) (ref $a)", (0, t.RefType(False, H.EQ), t.RefType(False, 2))),
    ],
    (0xFB, 25): [
        ("br_on_cast_fail 200 (ref null $s) nullref", (200, t.RefType(True, 1), t.NULLREF)),
        ("br_on_cast_fail 1 structref (ref null $s)", (1, t.STRUCTREF, t.RefType(True, 1))),
    ],
}
WITHOUT_IMMEDIATES: dict[Code, list[tuple[str, tuple[Operand, ...]]]] = {
    code: [(opcode.name, ())]
    for code, opcode in OPCODES.items()
    if opcode.immediates in ((), (Immediate.ZERO,)) and opcode.name not in ("else", "end", "catch_all")
}
SNIPPETS = WITHOUT_IMMEDIATES | WITH_IMMEDIATES
STRUCTURED = {"block", "loop", "if", "try_table"}


def instructions_of(body: str) -> tuple[bytes, tuple[Instruction, ...]]:
    binary = to_binary(f"(module {TYPES} (func {body}))")
    return binary, decode(binary).bodies[0].instructions


def assert_instruction(
    binary: bytes, instruction: Instruction, code: Code, text: str, operands: tuple[Operand, ...]
) -> None:
    assert instruction.name == text.split()[0]
    assert instruction.operands == operands
    assert binary[instruction.offset :].startswith(code_bytes(code))


def test_the_snippets_cover_every_opcode() -> None:
    legacy_try = {(0x06,), (0x07,), (0x18,), (0x19,)}
    assert set(SNIPPETS) | {(0x05,), (0x0B,)} | legacy_try == set(OPCODES)


def test_a_legacy_try_reads_back() -> None:
    _, found = instructions_of("try (result i32) nop try delegate 0 catch 3 drop catch 2 catch_all rethrow 0 end drop")
    names = ["try", "nop", "try", "delegate", "catch", "drop", "catch", "catch_all", "rethrow", "end", "drop", "end"]
    assert [each.name for each in found] == names
    assert found[0].operands == (BlockType((), (t.I32,)),)
    assert [each.operands for each in found[3:8]] == [(0,), (3,), (), (2,), ()]


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: f"{OPCODES[code].name}-{code_bytes(code).hex()}")
def test_every_instruction_reads_back(code: Code) -> None:
    for text, operands in SNIPPETS[code]:
        structured = text.split()[0] in STRUCTURED
        binary, found = instructions_of(f"nop {text} {'end' if structured else ''} drop")
        assert_instruction(binary, found[1], code, text, operands)
        assert [instruction.name for instruction in found[2:]] == ["end"] * structured + ["drop", "end"]
        assert found[-1].offset == len(binary[: decode(binary).bodies[0].end_offset]) - 1


def test_an_if_with_an_else_reads_back() -> None:
    binary, found = instructions_of("if nop else drop end")
    assert [instruction.name for instruction in found] == ["if", "nop", "else", "drop", "end", "end"]
    assert [binary[instruction.offset] for instruction in found] == [0x04, 0x01, 0x05, 0x1A, 0x0B, 0x0B]


FLAT = [
    (code, text, operands)
    for code, snippets in SNIPPETS.items()
    for text, operands in snippets
    if text.split()[0] not in STRUCTURED
]


def float_text(bits: int, exponent_bits: int, fraction_bits: int) -> str:
    """The text of the IEEE 754 number with these bits, payload included."""
    sign = "-" if bits >> exponent_bits + fraction_bits else ""
    exponent = bits >> fraction_bits & (1 << exponent_bits) - 1
    fraction = bits & (1 << fraction_bits) - 1
    if exponent == (1 << exponent_bits) - 1:
        return sign + (f"nan:{fraction:#x}" if fraction else "inf")
    bias = (1 << exponent_bits - 1) - 1
    value = math.ldexp(
        fraction if exponent == 0 else fraction | 1 << fraction_bits, max(exponent, 1) - bias - fraction_bits
    )
    return sign + value.hex()


constants = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(lambda v: ((0x41,), f"i32.const {v}", (v,))),
    st.integers(-(2**63), 2**63 - 1).map(lambda v: ((0x42,), f"i64.const {v}", (v,))),
    st.integers(0, 2**32 - 1).map(lambda v: ((0x43,), f"f32.const {float_text(v, 8, 23)}", (v,))),
    st.integers(0, 2**64 - 1).map(lambda v: ((0x44,), f"f64.const {float_text(v, 11, 52)}", (v,))),
)


@given(st.lists(st.sampled_from(FLAT) | constants, max_size=30))
def test_any_sequence_of_instructions_reads_back(sequence: list[tuple[Code, str, tuple[Operand, ...]]]) -> None:
    binary, found = instructions_of(" ".join(text for _, text, _ in sequence))
    assert len(found) == len(sequence) + 1
    for instruction, (code, text, operands) in zip(found, sequence, strict=False):
        assert_instruction(binary, instruction, code, text, operands)


def test_a_prefixed_opcode_may_be_written_in_more_bytes_than_it_needs() -> None:
    binary = function(NO_LOCALS + b"\x00\xfb\x8f\x80\x00\x1a\x0b")
    validate(binary)
    assert [instruction.name for instruction in decode(binary).bodies[0].instructions] == [
        "unreachable",
        "array.len",
        "drop",
        "end",
    ]


# --- The table --------------------------------------------------------------------------------------------------------


def test_the_table_has_the_names_of_the_assembler() -> None:
    # Each name is assembled above; so what is left is that none is missing.
    byte_codes = {code[0] for code in OPCODES if len(code) == 1}
    gaps = {0x16, 0x17, 0x1D, 0x1E, 0x27}
    assert byte_codes == (set(range(0xC5)) | set(range(0xD0, 0xD7))) - gaps
    assert {code[1] for code in OPCODES if len(code) == 2 and code[0] == 0xFB} == set(range(31))
    assert {code[1] for code in OPCODES if len(code) == 2 and code[0] == 0xFC} == set(range(18)) | set(range(19, 23))
    gaps = {154, 162, 165, 166, 175, 176, 178, 179, 180, 187, 194, 197, 198, 207, 208, 210, 211, 212, 226, 238}
    assert {code[1] for code in OPCODES if len(code) == 2 and code[0] == 0xFD} == set(range(276)) - gaps


@pytest.mark.parametrize(
    ("binary", "message"),
    [
        (module(section(TYPE, vector(b"\x65\x5f\0"))), "unsupported shared type, at offset 0xb"),
        (module(section(TYPE, vector(b"\x50\0\x65\x5f\0"))), "unsupported shared type, at offset 0xd"),
        (module(section(TYPE, vector(b"\x5e\x63\x65\x6e\0"))), "unsupported shared type, at offset 0xd"),
        (module(section(TYPE, vector(b"\x60\1\x65\x6e\0"))), "unsupported shared type, at offset 0xd"),
        (module(section(TYPE, vector(b"\x5d\0"))), "unsupported continuation type, at offset 0xb"),
        (module(section(TYPE, vector(b"\x5e\x68\0"))), "unsupported continuation reference, at offset 0xc"),
        (module(section(GLOBAL, vector(b"\x7f\2\x41\0\x0b"))), "unsupported shared global, at offset 0xc"),
        (module(section(IMPORT, vector(b"\1a\1b\x20\0"))), 'exact function import "a" "b", at offset 0xb'),
        (function(NO_LOCALS + b"\xd0\x65\x6e\x0b"), "unsupported shared type, at offset"),
    ],
)
def test_what_other_proposals_write_where_a_type_or_kind_stands_is_named(binary: bytes, message: str) -> None:
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        decode(binary)


# --- Types -----------------------------------------------------------------------------------------------------------

STORAGE: dict[str, t.StorageType] = {
    "i8": t.I8,
    "i16": t.I16,
    "i32": t.I32,
    "i64": t.I64,
    "f32": t.F32,
    "f64": t.F64,
    "v128": t.V128,
    "anyref": t.ANYREF,
    "eqref": t.EQREF,
    "i31ref": t.I31REF,
    "structref": t.STRUCTREF,
    "arrayref": t.ARRAYREF,
    "nullref": t.NULLREF,
    "externref": t.EXTERNREF,
    "nullexternref": t.NULLEXTERNREF,
    "funcref": t.FUNCREF,
    "nullfuncref": t.NULLFUNCREF,
    "exnref": t.EXNREF,
    "nullexnref": t.NULLEXNREF,
    **{f"(ref {heap_type.value})": t.RefType(False, heap_type) for heap_type in H},
    "(ref 0)": t.RefType(False, 0),
    "(ref null 64)": t.RefType(True, 64),
    "(ref null 70)": t.RefType(True, 70),
}


@pytest.mark.parametrize("text", STORAGE)
def test_every_storage_type_reads_back(text: str) -> None:
    decoded = decode(to_binary(f"(module (type (array {text})) (type (struct (field (mut {text})))))"))
    assert decoded.rec_groups == [
        [t.SubType(t.ArrayType(t.FieldType(STORAGE[text], False)))],
        [t.SubType(t.StructType((t.FieldType(STORAGE[text], True),)))],
    ]
    if isinstance(STORAGE[text], t.PackedType):
        return
    decoded = decode(to_binary(f"(module (func (param {text}) (result {text}) (local {text} i32 {text} {text})))"))
    assert decoded.rec_groups == [[t.SubType(t.FuncType((STORAGE[text],), (STORAGE[text],)))]]  # type: ignore[arg-type]
    assert decoded.bodies[0].locals == (STORAGE[text], t.I32, STORAGE[text], STORAGE[text])


def test_recursion_groups_and_supertypes() -> None:
    decoded = decode(
        to_binary(
            """(module
              (type $a (sub (struct (field i8))))
              (rec (type $b (sub $a (struct (field i8) (field (ref null $c)))))
                   (type $c (sub final $a (struct (field i8)))))
              (rec)
              (type $d (array (mut (ref $b))))
              (type $e (sub (func (param i32 i64)))))"""
        )
    )
    i8 = t.FieldType(t.I8, False)
    assert decoded.rec_groups == [
        [t.SubType(t.StructType((i8,)), None, False)],
        [
            t.SubType(t.StructType((i8, t.FieldType(t.RefType(True, 2), False))), 0, False),
            t.SubType(t.StructType((i8,)), 0, True),
        ],
        [],
        [t.SubType(t.ArrayType(t.FieldType(t.RefType(False, 1), True)))],
        [t.SubType(t.FuncType((t.I32, t.I64), ()), None, False)],
    ]


# --- The rest of a module --------------------------------------------------------------------------------------------

RICH = """(module $rich
  (rec (type $node (sub (struct (field $left (mut (ref null $node))) (field $value i64))))
       (type $leaf (sub final $node (struct (field $left (mut (ref null $node))) (field $value i64) (field i16)))))
  (type $bytes (array (mut i8)))
  (type $binary (func (param i32 i32) (result i32)))
  (import "env" "log" (func $log (param i32)))
  (import "env" "seed" (global $seed i64))
  (import "env" "cell" (global $cell (mut anyref)))
  (global $root (mut (ref null $node)) (struct.new $node (ref.null none) (global.get $seed)))
  (global $empty (ref $bytes) (array.new_default $bytes (i32.const 3)))
  (export "add" (func $add))
  (export "root" (global $root))
  (start $main)
  (elem declare func $add $main)
  (elem (ref null $binary) (ref.func $add) (ref.null $binary))
  (func $main
    (global.set $root (struct.new $leaf (global.get $root) (i64.const -7) (i32.const 300)))
    (call $log (call_ref $binary (i32.const 1) (i32.const 2) (ref.func $add))))
  (func $add (type $binary) (param $x i32) (param $y i32) (result i32)
    (local $wide i64) (local i64) (local $n (ref null $node)) (local f64)
    (local.set 4 (global.get $root))
    (block $done (result i32)
      (loop $again (result i32)
        (br_if $again (i32.eqz (local.get $x)))
        (if (result i32) (ref.is_null (local.get 4))
          (then (f32.const nan:0x200001) (br $done (i32.trunc_sat_f32_s)))
          (else (i32.add (local.get $x) (local.get $y))))))
    (br_table 0 0 (i32.const 1))
    unreachable))"""


def test_memories_tables_tags_and_segments_read_back() -> None:
    binary = to_binary("""(module
      (import "a" "m" (memory i64 1 2 shared))
      (import "a" "t" (table 3 anyref))
      (import "a" "e" (tag (param i32)))
      (memory $own 1 2 (pagesize 1))
      (memory i64 5)
      (table $refs i64 1 20 funcref)
      (table (ref func) (elem $f))
      (table 2 i31ref (ref.i31 (i32.const 5)))
      (tag $mine (type 0))
      (func $f)
      (export "x" (memory 1)) (export "y" (table 2)) (export "z" (tag 1))
      (elem (table 1) (i64.const 3) func $f $f)
      (elem (i32.const 4) anyref (ref.null none) (ref.i31 (i32.const 1)))
      (data "passive")
      (data (memory $own) (i32.const 7) "active"))""")
    decoded = decode(binary)
    limits = t.Limits
    assert [each.desc for each in decoded.imports] == [
        MemoryImport(t.MemoryType(limits(1, 2), is_64=True, is_shared=True)),
        TableImport(t.TableType(t.ANYREF, limits(3))),
        TagImport(0),
    ]
    own, wide = decoded.memories
    assert own == MemoryDefinition(t.MemoryType(limits(1, 2), page_size_log2=0), own.offset)
    assert wide == MemoryDefinition(t.MemoryType(limits(5), is_64=True), wide.offset)
    assert binary[own.offset : own.offset + 4] == b"\x09\1\2\0"
    refs, listed, filled = decoded.tables
    assert refs == TableDefinition(t.TableType(t.FUNCREF, limits(1, 20), is_64=True), None, refs.offset)
    assert listed.type == t.TableType(t.RefType(False, H.FUNC), limits(1, 1))
    assert filled.type == t.TableType(t.I31REF, limits(2))
    assert filled.init is not None
    assert [each.name for each in filled.init] == ["i32.const", "ref.i31", "end"]
    assert decoded.tags == [0]
    assert decoded.exports == [Export("x", "memory", 1), Export("y", "table", 2), Export("z", "tag", 1)]
    functions, expressions = decoded.elements[-2:]
    assert (functions.mode, functions.table, functions.functions, functions.expressions) == ("active", 1, (0, 0), None)
    assert [each.operands for each in functions.place] == [(3,), ()]
    assert (expressions.mode, expressions.table, expressions.type) == ("active", 0, t.ANYREF)
    assert expressions.expressions is not None
    assert [each[0].name for each in expressions.expressions] == ["ref.null", "i32.const"]
    passive, active = decoded.data
    assert passive == DataSegment(b"passive", passive.offset)
    assert active == DataSegment(b"active", active.offset, 1, active.place)
    assert [each.operands for each in active.place] == [(7,), ()]
    assert decoded.names.memories == {1: "own"}
    assert decoded.names.tables == {1: "refs"}
    assert decoded.names.tags == {1: "mine"}


def test_a_whole_module_reads_back() -> None:
    binary = to_binary(RICH)
    validate(binary)
    decoded = decode(binary)
    assert [len(group) for group in decoded.rec_groups] == [2, 1, 1, 1, 1]
    assert [(entry.module, entry.name, entry.desc) for entry in decoded.imports] == [
        ("env", "log", FunctionImport(4)),
        ("env", "seed", GlobalImport(t.GlobalType(t.I64, False))),
        ("env", "cell", GlobalImport(t.GlobalType(t.ANYREF, True))),
    ]
    for entry in decoded.imports:
        assert binary[entry.offset :].startswith(name(entry.module) + name(entry.name))
    assert decoded.functions == [5, 3]
    root, empty = decoded.globals
    assert root.type == t.GlobalType(t.RefType(True, 0), True)
    assert empty.type == t.GlobalType(t.RefType(False, 2), False)
    assert binary[root.offset : root.offset + 3] == b"\x63\0\1"
    assert [(instruction.name, instruction.operands) for instruction in root.init] == [
        ("ref.null", (H.NONE,)),
        ("global.get", (0,)),
        ("struct.new", (0,)),
        ("end", ()),
    ]
    assert decoded.exports == [Export("add", "function", 2), Export("root", "global", 2)]
    assert decoded.start == 1
    declared, passive = decoded.elements
    assert declared == ElementSegment("declarative", t.RefType(False, H.FUNC), (2, 1), declared.offset)
    assert passive.expressions is not None
    assert [each[0].name for each in passive.expressions] == ["ref.func", "ref.null"]
    assert passive == ElementSegment("passive", t.RefType(True, 3), (2,), passive.offset, passive.expressions)
    main, add = decoded.bodies
    assert main.locals == ()
    assert add.locals == (t.I64, t.I64, t.RefType(True, 0), t.F64)
    assert main.end_offset < add.offset  # between them, the size of the second
    assert binary[main.offset : main.end_offset].startswith(NO_LOCALS)
    assert sized(binary[add.offset : add.end_offset]) == binary[main.end_offset : add.end_offset]
    assert decoded.names == Names(
        module="rich",
        functions={0: "log", 1: "main", 2: "add"},
        types={0: "node", 1: "leaf", 2: "bytes", 3: "binary"},
        fields={0: {0: "left", 1: "value"}, 1: {0: "left", 1: "value"}},
        globals={0: "seed", 1: "cell", 2: "root", 3: "empty"},
    )


def test_what_is_known_is_decoded_alike_when_it_is_looked_at() -> None:
    decoded, known = decode(to_binary(RICH)), decode(to_binary(RICH), is_known=True)
    reads: list[list[tuple[Instruction, ...]]] = [[] for _ in range(4)]

    def read(found: list[tuple[Instruction, ...]]) -> None:
        found += (tuple(body.instructions) for body in known.bodies)

    threads = [threading.Thread(target=read, args=(found,)) for found in reads]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert reads == [[body.instructions for body in decoded.bodies]] * 4
    for body, later in zip(decoded.bodies, known.bodies, strict=True):
        assert (len(later.instructions), later.instructions[0]) == (len(body.instructions), body.instructions[0])
        assert dataclasses.replace(later, instructions=body.instructions) == body
    assert dataclasses.replace(known, bodies=decoded.bodies) == decoded


def test_the_smallest_module() -> None:
    assert decode(module()) == DecodedModule([], [], [], [], [], None, [], [], Names())


def test_empty_sections_of_unsupported_kinds_are_no_use_of_them() -> None:
    empty = [
        section(number, vector()) for number in (TABLE, MEMORY, TAG, GLOBAL, EXPORT, ELEMENT, DATA_COUNT, CODE, DATA)
    ]
    binary = module(section(0, name("custom") + b"\xff"), *empty)
    validate(binary)
    assert decode(binary) == DecodedModule([], [], [], [], [], None, [], [], Names())


def test_an_argument_that_is_no_bytes_is_refused() -> None:
    for wrong in ("(module)", bytearray(module()), None):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            decode(wrong)  # type: ignore[arg-type]


# --- The name section ------------------------------------------------------------------------------------------------


def name_section(contents: bytes) -> bytes:
    return section(0, name("name") + contents)


GOOD_NAMES = section(0, name("m")) + section(1, vector(b"\0" + name("f")))  # subsections are framed like sections


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (GOOD_NAMES, Names(module="m", functions={0: "f"})),
        (b"", Names()),
        (GOOD_NAMES + section(3, b"\xff\xff"), Names(module="m", functions={0: "f"})),  # labels are not read
        (GOOD_NAMES + section(99, b"\xff"), Names(module="m", functions={0: "f"})),
        (GOOD_NAMES + b"\x07", Names(module="m", functions={0: "f"})),
        (GOOD_NAMES + b"\x07\xff\xff\xff\xff\x0f", Names(module="m", functions={0: "f"})),
        (GOOD_NAMES + b"\x07\xff\xff\xff\xff\xff\xff", Names(module="m", functions={0: "f"})),
        (section(0, b"\x02\xff\xff") + section(1, vector(b"\0" + name("f"))), Names(functions={0: "f"})),
        (section(0, name("m") + b"?") + section(1, vector(b"\0" + name("f"))), Names(functions={0: "f"})),
        (section(0, name("m")) + section(1, b"\xff\xff\xff\xff\x0f"), Names(module="m")),
        (section(2, vector(b"\0" + vector(b"\1" + name("x")), b"\1\xff")), Names()),
        (section(4, vector(b"\2" + name("point"))), Names(types={2: "point"})),
        (section(10, vector(b"\2" + vector(b"\0" + name("x")))), Names(fields={2: {0: "x"}})),
    ],
)
def test_what_is_malformed_in_the_name_section_is_ignored(contents: bytes, expected: Names) -> None:
    binary = function(NO_LOCALS + b"\x0b") + name_section(contents)
    validate(binary)
    decoded = decode(binary)
    assert decoded.names == expected
    assert dataclasses.replace(decoded, names=Names()) == decode(function(NO_LOCALS + b"\x0b"))


def test_the_first_name_section_counts() -> None:
    binary = module(name_section(section(0, name("first"))), name_section(section(0, name("second"))))
    assert decode(binary).names.module == "first"


# --- Numbers ---------------------------------------------------------------------------------------------------------


def reader(data: bytes) -> Reader:
    return Reader(memoryview(data), 0, len(data))


def signed_leb(value: int, size: int) -> bytes:
    """LEB128 in exactly `size` bytes, from the two's complement of `value`."""
    return bytes((value >> 7 * i & 0x7F) | (0x80 if i + 1 < size else 0) for i in range(size))


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_unsigned_numbers_in_every_length(value: int, padding: int) -> None:
    shortest = len(unsigned(value))
    encoded = signed_leb(value, min(5, shortest + padding))
    source = reader(encoded + b"\x55")
    assert source.u32() == value
    assert source.position == len(encoded)


@pytest.mark.parametrize("bits", [32, 33, 64])
@given(st.data())
def test_signed_numbers_in_every_length(bits: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(-(1 << bits - 1), (1 << bits - 1) - 1))
    shortest = (value.bit_length() if value >= 0 else (~value).bit_length()) // 7 + 1
    encoded = signed_leb(value, data.draw(st.integers(shortest, -(-bits // 7))))
    source = reader(encoded + b"\x55")
    assert source.signed(bits) == value
    assert source.position == len(encoded)


@pytest.mark.parametrize(("opcode", "bits"), [(0x41, 32), (0x42, 64)])
def test_the_last_byte_of_a_number_agrees_with_the_validator(opcode: int, bits: int) -> None:
    longest = -(-bits // 7)
    verdicts = set()
    for fill in (0x80, 0xFF, 0xAA):
        for length in range(longest - 1, longest + 2):
            for last in range(256):
                encoded = bytes([fill] * (length - 1) + [last])
                binary = function(NO_LOCALS + bytes([opcode]) + encoded + b"\x1a\x0b")
                verdict = outcome(binary)
                if verdict == "malformed":
                    assert not is_valid(binary), encoded.hex()
                elif last < 0x80:  # otherwise the number ends after `last`, and what follows need not be valid
                    assert is_valid(binary), encoded.hex()
                verdicts.add((length, verdict))
    assert (longest + 1, "malformed") in verdicts
    assert (longest + 1, "decoded") not in verdicts


def test_the_last_byte_of_an_unsigned_number_agrees_with_the_validator() -> None:
    for last in range(256):
        source = reader(b"\x80\x80\x80\x80" + bytes([last]))
        if last <= 0x0F:
            assert source.u32() == last << 28
        else:
            with pytest.raises(MalformedModuleError, match="does not fit 32 bits, at offset 0x0"):
                source.u32()
        # As the size of a section that is one byte long:
        binary = module(bytes([TYPE]) + b"\x81\x80\x80\x80" + bytes([last]) + vector())
        assert is_valid(binary) == (last == 0)
        assert outcome(binary) == ("decoded" if last == 0 else "malformed")


# --- Malformed modules -----------------------------------------------------------------------------------------------


def outcome(binary: bytes) -> str:
    """What `decode` does with a module; any other exception than its two is a failure of the test."""
    try:
        decode(binary)
    except (MalformedModuleError, UnsupportedError) as error:
        verdict = "malformed" if isinstance(error, MalformedModuleError) else "unsupported"
        message = str(error)
    else:
        return "decoded"
    match = re.search(r", at offset (0x[0-9a-f]+)$", message)
    assert match is not None, message
    assert int(match[1], 16) <= len(binary), message
    return verdict


def is_valid(binary: bytes) -> bool:
    try:
        validate(binary)
    except MalformedModuleError:
        return False
    return True


def section_boundaries(binary: bytes) -> dict[int, int]:
    """The id of the section that begins at each offset; wasmtime assembles sizes of one or two bytes here."""
    boundaries = {}
    position = 8
    while position < len(binary):
        boundaries[position] = binary[position]
        size, length = binary[position + 1], 1
        if size >= 0x80:
            size, length = size & 0x7F | binary[position + 2] << 7, 2
        position += 1 + length + size
    return boundaries


def test_a_module_cut_anywhere_is_malformed_but_at_a_section_boundary() -> None:
    binary = to_binary(RICH)
    boundaries = section_boundaries(binary)
    for cut in range(len(binary)):
        verdict = outcome(binary[:cut])
        if cut not in boundaries:
            assert verdict == "malformed", cut
        else:
            # Between the function section and the code section, functions are declared and have no body.
            order = list(boundaries.values())
            before = order[: order.index(boundaries[cut])]
            assert verdict == ("malformed" if FUNCTION in before and CODE not in before else "decoded"), cut
        if is_valid(binary[:cut]):
            assert verdict == "decoded", cut


MEMORY_AND_MORE = """(module (memory 1) (table $t 4 funcref) (tag $e (param i32)) (data "abc") (type $a (array i8))
  (func $f (drop (i32.load offset=4 (i32.const 0))) (try_table (throw $e (i32.const 1))))
  (func (result (ref $a)) (array.new_data $a 0 (i32.const 0) (i32.const 1)))
  (elem (i32.const 0) func $f) (export "m" (memory 0)))"""
ALL_SNIPPETS = f"""(module {TYPES} (func {" ".join(text for _, text, _ in FLAT)} block if nop else loop end end end))"""
SAMPLES = [to_binary(text) for text in (RICH, MEMORY_AND_MORE, ALL_SNIPPETS, "(module)")] + [
    to_binary(RICH).replace(b"\x04name", b"\x04neme"),
    module(section(TYPE, vector(b"\x60\0\0")), section(IMPORT, vector(name("a") + name("b") + b"\0\0"))),
]


@settings(max_examples=1200, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255), st.sampled_from("xid=")), min_size=1, max_size=4),
)
def test_a_mutated_module_raises_nothing_unforeseen_and_nothing_if_it_is_valid(
    sample: bytes, mutations: list[tuple[int, int, str]]
) -> None:
    mutated = bytearray(sample)
    for place, value, kind in mutations:
        position = place % max(len(mutated), 1)
        if kind == "x":
            mutated[position : position + 1] = bytes([mutated[position] ^ 1 << value % 8])
        elif kind == "=":
            mutated[position : position + 1] = bytes([value])
        elif kind == "i":
            mutated[position:position] = bytes([value])
        else:
            del mutated[position : position + 1]
            mutated = mutated or bytearray(b"\0")
    binary = bytes(mutated)
    verdict = outcome(binary)
    if is_valid(binary):
        assert verdict != "malformed"


def test_every_single_bit_flip_of_a_module() -> None:
    binary = to_binary(RICH)
    verdicts = {"decoded": 0, "malformed": 0, "unsupported": 0}
    for position in range(len(binary)):
        for bit in range(8):
            mutated = bytearray(binary)
            mutated[position] ^= 1 << bit
            verdict = outcome(bytes(mutated))
            verdicts[verdict] += 1
            if verdict == "malformed":
                assert not is_valid(bytes(mutated)), (position, bit)
    assert verdicts["malformed"] > 1000
    assert verdicts["decoded"] > 100
    assert verdicts["unsupported"] > 10


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_after_the_header(data: bytes) -> None:
    assert outcome(data) == "malformed" or data.startswith(module(b""))
    verdict = outcome(module(data))
    if is_valid(module(data)):
        assert verdict != "malformed"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_as_a_function_body(data: bytes) -> None:
    binary = function(data)
    verdict = outcome(binary)
    if is_valid(binary):
        assert verdict != "malformed"


HUGE = b"\xff\xff\xff\xff\x0f"
VOID_TYPE = section(TYPE, vector(b"\x60\0\0"))

MALFORMED = {
    "nothing": (b"", "a module begins with"),
    "half a magic number": (b"\0as", "a module begins with"),
    "text": (b"(module)", "a module begins with"),
    "no version": (b"\0asm", "the version is"),
    "a component": (b"\0asm\x0d\0\1\0", "the version is"),
    "version 2": (b"\0asm\2\0\0\0", "the version is"),
    "an unknown section": (module(section(14, b"")), "there is no section 14, at offset 0x8"),
    "a section without a size": (module(b"\x01"), "unexpected end, at offset 0x9"),
    "a section of 4 GiB": (module(b"\x01" + HUGE), "4294967295 bytes are announced, 0 are left, at offset 0xe"),
    "a size of six bytes": (module(b"\x01\x80\x80\x80\x80\x80\x00"), "does not fit 32 bits, at offset 0x9"),
    "two type sections": (module(VOID_TYPE, VOID_TYPE), "the type section is out of order or there twice"),
    "types after functions": (module(section(FUNCTION, vector()), VOID_TYPE), "the type section is out of order"),
    "a tag section after globals": (
        module(section(GLOBAL, vector()), section(TAG, vector())),
        "the tag section is out",
    ),
    "a data count after code": (
        module(section(CODE, vector()), section(DATA_COUNT, b"\0")),
        "the data count section is",
    ),
    "an unnamed custom section": (module(section(0, b"")), "unexpected end"),
    "a custom section with half a name": (module(section(0, b"\5abc")), "5 bytes are announced, 3 are left"),
    "a custom section with a name in Latin-1": (module(section(0, b"\1\xe9")), "a name is not UTF-8"),
    "a custom section with a surrogate": (module(section(0, b"\3\xed\xa0\x80")), "a name is not UTF-8"),
    "a type section that is too long": (module(section(TYPE, vector() + b"\0")), "the type section is 1 bytes longer"),
    "4294967295 types": (module(section(TYPE, HUGE)), "4294967295 type definitions are announced, 0 bytes are left"),
    "two types in one byte": (module(section(TYPE, b"\2\0")), "2 type definitions are announced, 1 bytes are left"),
    "4294967295 types in a group": (module(section(TYPE, b"\1\x4e" + HUGE)), "4294967295 types of a recursion group"),
    "a group in a group": (module(section(TYPE, b"\1\x4e\1\x4e\0")), "a struct, array or function type was expected"),
    "4294967295 params": (module(section(TYPE, b"\1\x60" + HUGE)), "4294967295 parameters are announced"),
    "4294967295 results": (module(section(TYPE, b"\1\x60\0" + HUGE)), "4294967295 results are announced"),
    "4294967295 fields": (module(section(TYPE, b"\1\x5f" + HUGE)), "4294967295 fields are announced"),
    "two supertypes": (module(section(TYPE, b"\1\x50\2\0\0\x5f\0")), "at most one supertype, not 2"),
    "an unknown composite type": (module(section(TYPE, b"\1\x5c")), "not the byte 0x5c, at offset 0xb"),
    "a packed parameter": (module(section(TYPE, b"\1\x60\1\x78\0")), "a value type was expected, not the byte 0x78"),
    "an unknown value type": (module(section(TYPE, b"\1\x60\1\x7a\0")), "a value type was expected, not the byte 0x7a"),
    "a reference to a reference": (
        module(section(TYPE, b"\1\x5e\x63\x63\0\0")),
        "a heap type was expected, not the byte 0x63",
    ),
    "a reference to a number": (
        module(section(TYPE, b"\1\x5e\x64\x7f\0")),
        "a heap type was expected, not the byte 0x7f",
    ),
    "a negative heap type of two bytes": (module(section(TYPE, b"\1\x5e\x64\xf0\x7f\0")), "not the number -16"),
    "a type index of 34 bits": (module(section(TYPE, b"\1\x5e\x64\x80\x80\x80\x80\x20\0")), "does not fit 33 bits"),
    "a mutability of 2": (module(section(TYPE, b"\1\x5e\x7f\2")), "mutability is 0 or 1, not 2"),
    "a mutability of a global of 4": (module(section(GLOBAL, b"\1\x7f\4\x41\0\x0b")), "mutability is 0 or 1, not 4"),
    "an import of an unknown kind": (module(section(IMPORT, b"\1\0\0\5")), 'import "" "" is of no kind'),
    "an export of an unknown kind": (module(section(EXPORT, b"\1\1x\5\0")), 'export "x" is of no kind'),
    "4294967295 imports": (module(section(IMPORT, HUGE)), "4294967295 imports are announced"),
    "4294967295 functions": (module(section(FUNCTION, HUGE)), "4294967295 functions are announced"),
    "4294967295 globals": (module(section(GLOBAL, HUGE)), "4294967295 globals are announced"),
    "4294967295 exports": (module(section(EXPORT, HUGE)), "4294967295 exports are announced"),
    "4294967295 memories": (module(section(MEMORY, HUGE)), "4294967295 memories are announced"),
    "4294967295 segments": (module(section(ELEMENT, HUGE)), "4294967295 element segments are announced"),
    "4294967295 elements": (module(section(ELEMENT, b"\1\3\0" + HUGE)), "4294967295 elements are announced"),
    "4294967295 bodies": (module(section(CODE, HUGE)), "4294967295 function bodies are announced"),
    "4294967295 data segments": (module(section(DATA, HUGE)), "4294967295 data segments are announced"),
    "an empty start section": (module(section(START, b"")), "unexpected end"),
    "a long start section": (module(section(START, b"\0\0")), "the start section is 1 bytes longer"),
    "a global without an end": (module(section(GLOBAL, b"\1\x7f\0\x41\0")), "unexpected end"),
    "element flags of 8": (module(section(ELEMENT, b"\1\x08\0\0")), "flags of an element segment are at most 7, not 8"),
    "an element kind of 1": (module(section(ELEMENT, b"\1\1\1\0")), "the kind of an element segment is 0, not 1"),
    "elements of i32": (module(section(ELEMENT, b"\1\5\x7f\0")), "a reference type was expected, not i32"),
    "a function without a body": (
        module(VOID_TYPE, section(FUNCTION, vector(b"\0"))),
        "1 functions are declared, 0 have",
    ),
    "a body without a function": (module(section(CODE, vector(sized(b"\0\x0b")))), "0 functions are declared, 1 have"),
    "a data count without data": (module(section(DATA_COUNT, b"\1")), "1 data segments are declared, 0 are there"),
    "data without its count": (
        module(section(DATA_COUNT, b"\0"), section(DATA, b"\1\1\0")),
        "0 data segments are declared, 1",
    ),
    "a body larger than the section": (module(section(CODE, b"\1\x64\0\x0b")), "100 bytes are announced, 2 are left"),
    "an empty body": (function(b""), "unexpected end"),
    "a body without an end": (function(NO_LOCALS + b"\x01"), "unexpected end"),
    "a block without an end": (function(NO_LOCALS + b"\x02\x40\x0b"), "unexpected end"),
    "code after the end": (function(NO_LOCALS + b"\x0b\x0b"), "the body of function 0 is 1 bytes longer"),
    "an else in a function": (function(NO_LOCALS + b"\x05\x0b"), "an else without an if in function 0"),
    "an else in a loop": (function(NO_LOCALS + b"\x03\x40\x05\x0b\x0b"), "an else without an if in function 0"),
    "two elses": (function(NO_LOCALS + b"\x41\0\x04\x40\x05\x05\x0b\x0b"), "an else without an if in function 0"),
    "an unknown opcode": (function(NO_LOCALS + b"\x27\x0b"), "there is no opcode 0x27 (in function 0)"),
    "an unknown prefix": (function(NO_LOCALS + b"\xff\x00\x0b"), "there is no opcode 0xff (in function 0)"),
    "an unknown GC opcode": (function(NO_LOCALS + b"\xfb\x1f\x0b"), "there is no opcode 0xfb 31 (in function 0)"),
    "an unknown 0xfc opcode": (
        function(NO_LOCALS + b"\xfc\x98\x75\x0b"),
        "there is no opcode 0xfc 15000 (in function 0)",
    ),
    "a prefix at the end": (function(NO_LOCALS + b"\xfb"), "unexpected end"),
    "4294967295 locals": (function(b"\1" + HUGE + b"\x7f\x0b"), "4294967295 locals, the limit is 50000"),
    "50001 locals in two groups": (
        function(b"\2\1\x7f" + unsigned(50_000) + b"\x7e\x0b"),
        "50001 locals, the limit is 50000",
    ),
    "4294967295 groups of locals": (function(HUGE + b"\x0b"), "4294967295 groups of locals are announced"),
    "a local of an unknown type": (function(b"\1\1\x40\x0b"), "a value type was expected, not the byte 0x40"),
    "a br_table of 4294967295 labels": (
        function(NO_LOCALS + b"\x0e" + HUGE + b"\x0b"),
        "4294967295 labels are announced",
    ),
    "a select of two types": (function(NO_LOCALS + b"\x1c\2\x7f\x7f\x0b"), "a select has one type, not 2"),
    "a select of no type": (function(NO_LOCALS + b"\x1c\0\x0b"), "a select has one type, not 0"),
    "cast flags of 4": (function(NO_LOCALS + b"\xfb\x18\4\0\x6e\x6e\x0b"), "flags of a cast are at most 3, not 4"),
    "half a float": (function(NO_LOCALS + b"\x44\0\0\0\0"), "8 bytes are announced, 4 are left"),
    "a block of an unknown type": (
        function(NO_LOCALS + b"\x02\x41\x0b\x0b"),
        "a block's type was expected, not the byte 0x41",
    ),
    "a block of type 1": (
        function(NO_LOCALS + b"\x02\x01\x0b\x0b"),
        "a block's type is type 1, the module has 1 types",
    ),
    "a block of a struct type": (
        module(
            section(TYPE, b"\2\x60\0\0\x5f\0"), section(FUNCTION, b"\1\0"), section(CODE, b"\1\5\0\x02\x01\x0b\x0b")
        ),
        "a block's type is type 1, which is no function type",
    ),
    "a block of a negative type": (
        function(NO_LOCALS + b"\x02\xc0\x7f\x0b\x0b"),
        "a block's type was expected, not the number",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_module_malformed_by_hand(case: str) -> None:
    binary, message = MALFORMED[case]
    assert not is_valid(binary)
    assert outcome(binary) == "malformed"
    with pytest.raises(MalformedModuleError, match=re.escape(message)):
        decode(binary)


def test_the_limit_of_locals_is_the_validators() -> None:
    assert MAX_FUNCTION_LOCALS == 50_000
    for count, valid in ((50_000, True), (50_001, False)):
        binary = function(b"\1" + unsigned(count) + b"\x7f\x0b")
        assert is_valid(binary) == valid
        assert outcome(binary) == ("decoded" if valid else "malformed")


def test_a_small_module_does_not_expand_to_gigabytes_of_locals() -> None:
    body = sized(b"\1" + unsigned(50_000) + b"\x7f\x0b")
    count = 100_000  # 5 000 000 000 locals in a module of 900 000 bytes
    binary = module(VOID_TYPE, section(FUNCTION, vector(*[b"\0"] * count)), section(CODE, vector(*[body] * count)))
    with pytest.raises(
        UnsupportedError, match="unsupported number of locals: more than 10000000 in one module, at offset"
    ):
        decode(binary)


def test_nesting_needs_no_recursion() -> None:
    depth = 100_000
    binary = function(NO_LOCALS + b"\x02\x40" * depth + b"\x0b" * depth + b"\x0b")
    validate(binary)
    assert len(decode(binary).bodies[0].instructions) == 2 * depth + 1
    assert outcome(binary[:-1]) == "malformed"


def test_a_float_keeps_its_bits() -> None:
    for bits in (0x7FA00001, 0xFFC00000, 1, 0x80000000):
        found = decode(function(NO_LOCALS + b"\x43" + struct.pack("<I", bits) + b"\x1a\x0b")).bodies[0].instructions
        assert found[0].operands == (bits,)
