"""The one table of WebAssembly opcodes: what each code is called and which immediates follow it.

`OPCODES` maps the code of every instruction of WebAssembly 3.0 to an `Opcode`. A code is a tuple: one byte, or a prefix
byte and the sub-opcode after it (an LEB128 `u32` in the binary). An instruction's immediates are listed in the order of
the binary format.

Source: the WebAssembly 3.0 specification, chapters "Binary Format: Instructions" and "Index of Instructions"; the four
128-bit instructions are those of the wide-arithmetic proposal.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


class Immediate(enum.Enum):
    """One immediate of an instruction: how it is encoded and what the decoder makes of it."""

    MEMORY_ARGUMENT = (
        "memory argument"  # u32 alignment, with a flag for a u32 index, u64 offset; index, exponent, offset
    )
    CATCHES = "catch clauses"  # a vector of kinds with indices; a tuple of Catch
    ZERO = "zero"  # a byte that is 0; nothing
    INDEX = "index"  # u32: a function, type, local, global, field or label index, or a count; an int
    BLOCK_TYPE = "block type"  # 0x40, a value type or an s33 type index; a BlockType
    LABEL_TABLE = "label table"  # a vector of u32 and one more; a tuple of labels and the default
    VALUE_TYPES = "value types"  # a vector of value types, of which `select` takes exactly one; a ValType
    HEAP_TYPE = "heap type"  # a HeapType
    REFERENCE = "reference"  # a heap type, read as a non-nullable RefType
    NULLABLE_REFERENCE = "nullable reference"  # a heap type, read as a nullable RefType
    CAST = "cast"  # flags, a u32 label and two heap types; the label, the source and the target RefType
    I32 = "i32"  # s32; a signed int
    I64 = "i64"  # s64; a signed int
    F32 = "f32"  # 4 bytes, little-endian; the raw bits as an int
    F64 = "f64"  # 8 bytes, little-endian; the raw bits as an int
    V128 = "v128"  # 16 bytes, little-endian; the raw bits as an int
    LANE = "lane"  # a byte; an int
    LANES = "lanes"  # 16 bytes; a tuple of ints

    __hash__ = object.__hash__  # of the identity, as they compare; Enum's own takes a call of Python's each time


@dataclass(frozen=True, slots=True)
class Opcode:
    """An instruction's name in the text format and its immediates."""

    name: str
    immediates: tuple[Immediate, ...]


Code = tuple[int] | tuple[int, int]

GC_PREFIX = 0xFB
MISCELLANEOUS_PREFIX = 0xFC

# The codes that shape the nesting of blocks; the decoder needs to know them apart.
BLOCK, LOOP, IF, ELSE, END = 0x02, 0x03, 0x04, 0x05, 0x0B
TRY, CATCH, DELEGATE, CATCH_ALL, TRY_TABLE = 0x06, 0x07, 0x18, 0x19, 0x1F
OPENING = (BLOCK, LOOP, IF, TRY_TABLE, TRY)
CLOSING = (CATCH, CATCH_ALL, DELEGATE)

_INDEX = Immediate.INDEX
_BLOCK_TYPE = Immediate.BLOCK_TYPE

_CONTROL: dict[int, Opcode] = {
    0x00: Opcode("unreachable", ()),
    0x01: Opcode("nop", ()),
    BLOCK: Opcode("block", (_BLOCK_TYPE,)),
    LOOP: Opcode("loop", (_BLOCK_TYPE,)),
    IF: Opcode("if", (_BLOCK_TYPE,)),
    ELSE: Opcode("else", ()),
    TRY: Opcode("try", (_BLOCK_TYPE,)),
    CATCH: Opcode("catch", (_INDEX,)),
    0x09: Opcode("rethrow", (_INDEX,)),
    DELEGATE: Opcode("delegate", (_INDEX,)),
    CATCH_ALL: Opcode("catch_all", ()),
    0x08: Opcode("throw", (_INDEX,)),
    0x0A: Opcode("throw_ref", ()),
    END: Opcode("end", ()),
    0x0C: Opcode("br", (_INDEX,)),
    0x0D: Opcode("br_if", (_INDEX,)),
    0x0E: Opcode("br_table", (Immediate.LABEL_TABLE,)),
    0x0F: Opcode("return", ()),
    0x10: Opcode("call", (_INDEX,)),
    0x11: Opcode("call_indirect", (_INDEX, _INDEX)),
    0x12: Opcode("return_call", (_INDEX,)),
    0x13: Opcode("return_call_indirect", (_INDEX, _INDEX)),
    0x14: Opcode("call_ref", (_INDEX,)),
    0x15: Opcode("return_call_ref", (_INDEX,)),
    TRY_TABLE: Opcode("try_table", (_BLOCK_TYPE, Immediate.CATCHES)),
}

_PARAMETRIC_AND_VARIABLE: dict[int, Opcode] = {
    0x1A: Opcode("drop", ()),
    0x1B: Opcode("select", ()),
    0x1C: Opcode("select", (Immediate.VALUE_TYPES,)),
    0x20: Opcode("local.get", (_INDEX,)),
    0x21: Opcode("local.set", (_INDEX,)),
    0x22: Opcode("local.tee", (_INDEX,)),
    0x23: Opcode("global.get", (_INDEX,)),
    0x24: Opcode("global.set", (_INDEX,)),
    0x25: Opcode("table.get", (_INDEX,)),
    0x26: Opcode("table.set", (_INDEX,)),
}

_CONSTANT: dict[int, Opcode] = {
    0x41: Opcode("i32.const", (Immediate.I32,)),
    0x42: Opcode("i64.const", (Immediate.I64,)),
    0x43: Opcode("f32.const", (Immediate.F32,)),
    0x44: Opcode("f64.const", (Immediate.F64,)),
}

_REFERENCE: dict[int, Opcode] = {
    0xD0: Opcode("ref.null", (Immediate.HEAP_TYPE,)),
    0xD1: Opcode("ref.is_null", ()),
    0xD2: Opcode("ref.func", (_INDEX,)),
    0xD3: Opcode("ref.eq", ()),
    0xD4: Opcode("ref.as_non_null", ()),
    0xD5: Opcode("br_on_null", (_INDEX,)),
    0xD6: Opcode("br_on_non_null", (_INDEX,)),
}

_GC: dict[int, Opcode] = {
    0: Opcode("struct.new", (_INDEX,)),
    1: Opcode("struct.new_default", (_INDEX,)),
    2: Opcode("struct.get", (_INDEX, _INDEX)),
    3: Opcode("struct.get_s", (_INDEX, _INDEX)),
    4: Opcode("struct.get_u", (_INDEX, _INDEX)),
    5: Opcode("struct.set", (_INDEX, _INDEX)),
    6: Opcode("array.new", (_INDEX,)),
    7: Opcode("array.new_default", (_INDEX,)),
    8: Opcode("array.new_fixed", (_INDEX, _INDEX)),
    9: Opcode("array.new_data", (_INDEX, _INDEX)),
    10: Opcode("array.new_elem", (_INDEX, _INDEX)),
    11: Opcode("array.get", (_INDEX,)),
    12: Opcode("array.get_s", (_INDEX,)),
    13: Opcode("array.get_u", (_INDEX,)),
    14: Opcode("array.set", (_INDEX,)),
    15: Opcode("array.len", ()),
    16: Opcode("array.fill", (_INDEX,)),
    17: Opcode("array.copy", (_INDEX, _INDEX)),
    18: Opcode("array.init_data", (_INDEX, _INDEX)),
    19: Opcode("array.init_elem", (_INDEX, _INDEX)),
    20: Opcode("ref.test", (Immediate.REFERENCE,)),
    21: Opcode("ref.test", (Immediate.NULLABLE_REFERENCE,)),
    22: Opcode("ref.cast", (Immediate.REFERENCE,)),
    23: Opcode("ref.cast", (Immediate.NULLABLE_REFERENCE,)),
    24: Opcode("br_on_cast", (Immediate.CAST,)),
    25: Opcode("br_on_cast_fail", (Immediate.CAST,)),
    26: Opcode("any.convert_extern", ()),
    27: Opcode("extern.convert_any", ()),
    28: Opcode("ref.i31", ()),
    29: Opcode("i31.get_s", ()),
    30: Opcode("i31.get_u", ()),
}

_INTEGER_COMPARISONS = "eqz eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u"
_FLOAT_COMPARISONS = "eq ne lt gt le ge"
_INTEGER_ARITHMETIC = "clz ctz popcnt add sub mul div_s div_u rem_s rem_u and or xor shl shr_s shr_u rotl rotr"
_FLOAT_ARITHMETIC = "abs neg ceil floor trunc nearest sqrt add sub mul div min max copysign"

_ATOMIC_LOADS = (
    "i32.atomic.load i64.atomic.load i32.atomic.load8_u i32.atomic.load16_u "
    "i64.atomic.load8_u i64.atomic.load16_u i64.atomic.load32_u"
)
_ATOMIC_UPDATES = (
    ("i32.atomic.rmw.", ""),
    ("i64.atomic.rmw.", ""),
    ("i32.atomic.rmw8.", "_u"),
    ("i32.atomic.rmw16.", "_u"),
    ("i64.atomic.rmw8.", "_u"),
    ("i64.atomic.rmw16.", "_u"),
    ("i64.atomic.rmw32.", "_u"),
)
_ATOMIC_OPERATIONS = {
    0x1E: "add",
    0x25: "sub",
    0x2C: "and",
    0x33: "or",
    0x3A: "xor",
    0x41: "xchg",
    0x48: "cmpxchg",
}
_MEMORY = (Immediate.MEMORY_ARGUMENT,)

_VECTOR_LOADS = (
    "load load8x8_s load8x8_u load16x4_s load16x4_u load32x2_s load32x2_u "
    "load8_splat load16_splat load32_splat load64_splat store"
)
_LANE_COMPARISONS = _INTEGER_COMPARISONS.removeprefix("eqz ")
_LANE_ARITHMETIC = "sqrt add sub mul div min max pmin pmax"
_EXTENSIONS = "{0}_low_{1}_s {0}_high_{1}_s {0}_low_{1}_u {0}_high_{1}_u"

# Runs of consecutive codes with the same immediates: (prefix or None, first code, operand type or None, names, these).
_RUNS: tuple[tuple[int | None, int, str | None, str, tuple[Immediate, ...]], ...] = (
    (None, 0x28, None, "i32.load i64.load f32.load f64.load", _MEMORY),
    (None, 0x2C, "i32", "load8_s load8_u load16_s load16_u", _MEMORY),
    (None, 0x30, "i64", "load8_s load8_u load16_s load16_u load32_s load32_u", _MEMORY),
    (None, 0x36, None, "i32.store i64.store f32.store f64.store", _MEMORY),
    (None, 0x3A, None, "i32.store8 i32.store16 i64.store8 i64.store16 i64.store32", _MEMORY),
    (None, 0x3F, "memory", "size grow", (_INDEX,)),
    (None, 0x45, "i32", _INTEGER_COMPARISONS, ()),
    (None, 0x50, "i64", _INTEGER_COMPARISONS, ()),
    (None, 0x5B, "f32", _FLOAT_COMPARISONS, ()),
    (None, 0x61, "f64", _FLOAT_COMPARISONS, ()),
    (None, 0x67, "i32", _INTEGER_ARITHMETIC, ()),
    (None, 0x79, "i64", _INTEGER_ARITHMETIC, ()),
    (None, 0x8B, "f32", _FLOAT_ARITHMETIC, ()),
    (None, 0x99, "f64", _FLOAT_ARITHMETIC, ()),
    (None, 0xA7, "i32", "wrap_i64 trunc_f32_s trunc_f32_u trunc_f64_s trunc_f64_u", ()),
    (None, 0xAC, "i64", "extend_i32_s extend_i32_u trunc_f32_s trunc_f32_u trunc_f64_s trunc_f64_u", ()),
    (None, 0xB2, "f32", "convert_i32_s convert_i32_u convert_i64_s convert_i64_u demote_f64", ()),
    (None, 0xB7, "f64", "convert_i32_s convert_i32_u convert_i64_s convert_i64_u promote_f32", ()),
    (None, 0xBC, None, "i32.reinterpret_f32 i64.reinterpret_f64 f32.reinterpret_i32 f64.reinterpret_i64", ()),
    (None, 0xC0, None, "i32.extend8_s i32.extend16_s i64.extend8_s i64.extend16_s i64.extend32_s", ()),
    (0xFC, 0, "i32", "trunc_sat_f32_s trunc_sat_f32_u trunc_sat_f64_s trunc_sat_f64_u", ()),
    (0xFC, 4, "i64", "trunc_sat_f32_s trunc_sat_f32_u trunc_sat_f64_s trunc_sat_f64_u", ()),
    (0xFC, 8, None, "memory.init", (_INDEX, _INDEX)),
    (0xFC, 9, None, "data.drop", (_INDEX,)),
    (0xFC, 10, None, "memory.copy", (_INDEX, _INDEX)),
    (0xFC, 11, None, "memory.fill", (_INDEX,)),
    (0xFC, 12, None, "table.init", (_INDEX, _INDEX)),
    (0xFC, 13, None, "elem.drop", (_INDEX,)),
    (0xFC, 14, None, "table.copy", (_INDEX, _INDEX)),
    (0xFC, 15, None, "table.grow table.size table.fill", (_INDEX,)),
    (0xFC, 19, "i64", "add128 sub128 mul_wide_s mul_wide_u", ()),
    (0xFD, 0, "v128", _VECTOR_LOADS, _MEMORY),
    (0xFD, 12, "v128", "const", (Immediate.V128,)),
    (0xFD, 13, "i8x16", "shuffle", (Immediate.LANES,)),
    (0xFD, 14, "i8x16", "swizzle", ()),
    (0xFD, 15, None, "i8x16.splat i16x8.splat i32x4.splat i64x2.splat f32x4.splat f64x2.splat", ()),
    (0xFD, 21, "i8x16", "extract_lane_s extract_lane_u replace_lane", (Immediate.LANE,)),
    (0xFD, 24, "i16x8", "extract_lane_s extract_lane_u replace_lane", (Immediate.LANE,)),
    (0xFD, 27, "i32x4", "extract_lane replace_lane", (Immediate.LANE,)),
    (0xFD, 29, "i64x2", "extract_lane replace_lane", (Immediate.LANE,)),
    (0xFD, 31, "f32x4", "extract_lane replace_lane", (Immediate.LANE,)),
    (0xFD, 33, "f64x2", "extract_lane replace_lane", (Immediate.LANE,)),
    (0xFD, 35, "i8x16", _LANE_COMPARISONS, ()),
    (0xFD, 45, "i16x8", _LANE_COMPARISONS, ()),
    (0xFD, 55, "i32x4", _LANE_COMPARISONS, ()),
    (0xFD, 65, "f32x4", _FLOAT_COMPARISONS, ()),
    (0xFD, 71, "f64x2", _FLOAT_COMPARISONS, ()),
    (0xFD, 77, "v128", "not and andnot or xor bitselect any_true", ()),
    (0xFD, 84, "v128", "load8_lane load16_lane load32_lane load64_lane", (*_MEMORY, Immediate.LANE)),
    (0xFD, 88, "v128", "store8_lane store16_lane store32_lane store64_lane", (*_MEMORY, Immediate.LANE)),
    (0xFD, 92, "v128", "load32_zero load64_zero", _MEMORY),
    (0xFD, 94, None, "f32x4.demote_f64x2_zero f64x2.promote_low_f32x4", ()),
    (0xFD, 96, "i8x16", "abs neg popcnt all_true bitmask narrow_i16x8_s narrow_i16x8_u", ()),
    (0xFD, 103, "f32x4", "ceil floor trunc nearest", ()),
    (0xFD, 107, "i8x16", "shl shr_s shr_u add add_sat_s add_sat_u sub sub_sat_s sub_sat_u", ()),
    (0xFD, 116, "f64x2", "ceil floor", ()),
    (0xFD, 118, "i8x16", "min_s min_u max_s max_u", ()),
    (0xFD, 122, None, "f64x2.trunc i8x16.avgr_u", ()),
    (0xFD, 124, "i16x8", "extadd_pairwise_i8x16_s extadd_pairwise_i8x16_u", ()),
    (0xFD, 126, "i32x4", "extadd_pairwise_i16x8_s extadd_pairwise_i16x8_u", ()),
    (0xFD, 128, "i16x8", "abs neg q15mulr_sat_s all_true bitmask narrow_i32x4_s narrow_i32x4_u", ()),
    (0xFD, 135, "i16x8", _EXTENSIONS.format("extend", "i8x16"), ()),
    (0xFD, 139, "i16x8", "shl shr_s shr_u add add_sat_s add_sat_u sub sub_sat_s sub_sat_u", ()),
    (0xFD, 148, None, "f64x2.nearest i16x8.mul", ()),
    (0xFD, 150, "i16x8", "min_s min_u max_s max_u", ()),
    (0xFD, 155, "i16x8", f"avgr_u {_EXTENSIONS.format('extmul', 'i8x16')}", ()),
    (0xFD, 160, "i32x4", "abs neg", ()),
    (0xFD, 163, "i32x4", "all_true bitmask", ()),
    (0xFD, 167, "i32x4", f"{_EXTENSIONS.format('extend', 'i16x8')} shl shr_s shr_u add", ()),
    (0xFD, 177, "i32x4", "sub", ()),
    (0xFD, 181, "i32x4", "mul min_s min_u max_s max_u dot_i16x8_s", ()),
    (0xFD, 188, "i32x4", _EXTENSIONS.format("extmul", "i16x8"), ()),
    (0xFD, 192, "i64x2", "abs neg", ()),
    (0xFD, 195, "i64x2", "all_true bitmask", ()),
    (0xFD, 199, "i64x2", f"{_EXTENSIONS.format('extend', 'i32x4')} shl shr_s shr_u add", ()),
    (0xFD, 209, "i64x2", "sub", ()),
    (0xFD, 213, "i64x2", f"mul eq ne lt_s gt_s le_s ge_s {_EXTENSIONS.format('extmul', 'i32x4')}", ()),
    (0xFD, 224, "f32x4", "abs neg", ()),
    (0xFD, 227, "f32x4", _LANE_ARITHMETIC, ()),
    (0xFD, 236, "f64x2", "abs neg", ()),
    (0xFD, 239, "f64x2", _LANE_ARITHMETIC, ()),
    (0xFD, 248, "i32x4", "trunc_sat_f32x4_s trunc_sat_f32x4_u", ()),
    (0xFD, 250, "f32x4", "convert_i32x4_s convert_i32x4_u", ()),
    (0xFD, 252, "i32x4", "trunc_sat_f64x2_s_zero trunc_sat_f64x2_u_zero", ()),
    (0xFD, 254, "f64x2", "convert_low_i32x4_s convert_low_i32x4_u", ()),
    (0xFD, 256, "i8x16", "relaxed_swizzle", ()),
    (0xFD, 257, "i32x4", "relaxed_trunc_f32x4_s relaxed_trunc_f32x4_u", ()),
    (0xFD, 259, "i32x4", "relaxed_trunc_f64x2_s_zero relaxed_trunc_f64x2_u_zero", ()),
    (0xFD, 261, "f32x4", "relaxed_madd relaxed_nmadd", ()),
    (0xFD, 263, "f64x2", "relaxed_madd relaxed_nmadd", ()),
    (0xFD, 265, None, " ".join(f"{each}.relaxed_laneselect" for each in ("i8x16", "i16x8", "i32x4", "i64x2")), ()),
    (0xFD, 269, "f32x4", "relaxed_min relaxed_max", ()),
    (0xFD, 271, "f64x2", "relaxed_min relaxed_max", ()),
    (0xFD, 273, None, "i16x8.relaxed_q15mulr_s i16x8.relaxed_dot_i8x16_i7x16_s", ()),
    (0xFD, 275, "i32x4", "relaxed_dot_i8x16_i7x16_add_s", ()),
    (0xFE, 0, "memory.atomic", "notify wait32 wait64", _MEMORY),
    (0xFE, 3, "atomic", "fence", (Immediate.ZERO,)),
    (0xFE, 0x10, None, _ATOMIC_LOADS, _MEMORY),
    (0xFE, 0x17, None, _ATOMIC_LOADS.replace("load", "store").replace("_u", ""), _MEMORY),
    *(
        (0xFE, first, None, " ".join(f"{each}{operation}{tail}" for each, tail in _ATOMIC_UPDATES), _MEMORY)
        for first, operation in _ATOMIC_OPERATIONS.items()
    ),
)


def _entries() -> Iterator[tuple[Code, Opcode]]:
    for table in (_CONTROL, _PARAMETRIC_AND_VARIABLE, _CONSTANT, _REFERENCE):
        for code, opcode in table.items():
            yield (code,), opcode
    for code, opcode in _GC.items():
        yield (GC_PREFIX, code), opcode
    for prefix, first, operand_type, names, immediates in _RUNS:
        for number, name in enumerate(names.split(), first):
            full_name = name if operand_type is None else f"{operand_type}.{name}"
            opcode = Opcode(full_name, immediates)
            yield ((number,) if prefix is None else (prefix, number)), opcode


OPCODES: Mapping[Code, Opcode] = MappingProxyType(dict(_entries()))
