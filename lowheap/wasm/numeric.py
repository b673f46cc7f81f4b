"""Lowering of WebAssembly's numeric instructions to LLVM IR.

Every `i32`, `i64`, `f32` and `f64` instruction but the constants, loads, stores and atomics has one table entry, which
names its operand types, its result type and a small function that emits it. `lower` is the way in, `SIGNATURES` is the
table's public side.

Many LLVM instructions leave cases undefined (poison) that WebAssembly defines: an over-wide shift, the quotient of the
least integer by -1, the conversion of a float that does not fit. Here each such case is decided before LLVM sees it, by
a mask, a select, a trap or an intrinsic that defines it, so no operand whatever makes a result poison.

The bits of a result are those that the specification demands. Where it asks for a NaN it fixes the sign and payload
only in part, and the machine chooses the rest, unless an engine wants the canonical one (`nans.py`); `neg`, `abs`,
`copysign` and `reinterpret` are exact to the bit, of NaNs too. For LLVM a signalling NaN is as good as a quiet one, and
an operation whose result is its operand (`x * 1.0`) is that operand: so constants are kept from it, as `opaque.py`
says, and the floats that come here are never known to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from llvmlite import ir

from lowheap.errors import CompilerError, TrapCode
from lowheap.types import F32, F64, I32, I64, NumType
from lowheap.wasm import nans, opaque
from lowheap.wasm.opaque import intrinsic_name


class NumericEmitter(opaque.OpaqueEmitter, Protocol):
    """What the lowering needs of the function compiler."""

    def trap_if(self, condition: ir.Value, code: TrapCode) -> None:
        """Emit a branch to a cold block that traps with `code` if the i1 `condition` holds; go on in a new block."""


Lowering: TypeAlias = Callable[..., ir.Value]
"""`(emitter, *operands) -> result`: emits one instruction at the builder's position."""


class _Instruction(NamedTuple):
    operands: tuple[NumType, ...]
    result: NumType
    lowering: Lowering


_INTEGERS = (I32, I64)
_FLOATS = (F32, F64)

_LLVM_TYPES: dict[NumType, ir.Type] = {
    I32: ir.IntType(32),
    I64: ir.IntType(64),
    F32: ir.FloatType(),
    F64: ir.DoubleType(),
}
_WIDTHS = {I32: 32, I64: 64}
_EPSILONS = {F32: 2.0**-23, F64: 2.0**-52}  # the distance from 1.0 to the next float


def lower(
    emitter: NumericEmitter, name: str, operands: Sequence[ir.Value], *, canonical_nans: bool = False
) -> ir.Value:
    """Emit the instruction `name` (as in the text format: `"i32.add"`) on `operands`, and return its result.

    The operands, in the order they were pushed, have the LLVM types of the instruction's signature: `i32`, `i64`,
    `float` or `double`; so has the result, and a comparison gives an `i32` of 0 or 1. An instruction that can trap
    leaves the builder in a new block. `canonical_nans`: a NaN that it computes is the canonical one.

    Raises `CompilerError` for a name that is no numeric instruction, and for operands that do not match its signature.
    """
    instruction = _INSTRUCTIONS.get(name)
    if instruction is None:
        raise CompilerError(f"{name!r} is not a numeric instruction; these are the keys of numeric.SIGNATURES")
    given = [operand.type for operand in operands]
    wanted = _WANTED[name]
    if given != wanted:
        raise CompilerError(f"{name} was given operands of types ({_list(given)}); it takes ({_list(wanted)})")
    result = instruction.lowering(emitter, *operands)
    return nans.canonical(emitter, result) if canonical_nans and nans.may_come_of(name) else result


def _list(types: Sequence[ir.Type]) -> str:
    return ", ".join(map(str, types))


# --- Building blocks -------------------------------------------------------------------------------------------------


def _operator(opcode: str) -> Lowering:
    """An LLVM instruction that does as it stands what WebAssembly wants, for all operands."""
    return lambda emitter, *operands: getattr(emitter.builder, opcode)(*operands)


def _cast(opcode: str, result: NumType) -> Lowering:
    """An LLVM cast that is defined for every operand."""
    return lambda emitter, operand: getattr(emitter.builder, opcode)(operand, _LLVM_TYPES[result])


def _intrinsic(name: str) -> Lowering:
    """An intrinsic whose operands and result are of one type."""

    def lowering(emitter: NumericEmitter, *operands: ir.Value) -> ir.Value:
        type_ = operands[0].type
        function = emitter.intrinsic(f"llvm.{name}.{intrinsic_name(type_)}", type_, [type_] * len(operands))
        return emitter.builder.call(function, operands)

    return lowering


def _comparison(predicate: str, operator: str) -> Lowering:
    """`predicate` is the builder's method (`icmp_signed`, `fcmp_ordered`, ...), `operator` is `<`, `==`, ...."""

    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        return _truth(emitter, getattr(emitter.builder, predicate)(operator, a, b))

    return lowering


def _truth(emitter: NumericEmitter, condition: ir.Value) -> ir.Value:
    """An i1 as WebAssembly sees it: an i32 of 0 or 1."""
    return emitter.builder.zext(condition, _LLVM_TYPES[I32])


def _equals(emitter: NumericEmitter, a: ir.Value, constant: int) -> ir.Value:
    """The i1 `a == constant`."""
    return emitter.builder.icmp_signed("==", a, ir.Constant(a.type, constant))


# --- Integers --------------------------------------------------------------------------------------------------------


def _eqz(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    return _truth(emitter, _equals(emitter, a, 0))


def _count_zeros(name: str) -> Lowering:
    """`ctlz` or `cttz`, told that zero is an operand like any other: its count is the width."""

    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        flag = ir.IntType(1)
        function = emitter.intrinsic(f"llvm.{name}.{a.type.intrinsic_name}", a.type, [a.type, flag])
        return emitter.builder.call(function, [a, ir.Constant(flag, 0)])

    return lowering


def _shift(opcode: str) -> Lowering:
    """A shift by the count modulo the width; LLVM's own result is poison from the width on."""

    def lowering(emitter: NumericEmitter, a: ir.Value, count: ir.Value) -> ir.Value:
        masked = emitter.builder.and_(count, ir.Constant(count.type, count.type.width - 1))
        return getattr(emitter.builder, opcode)(a, masked)

    return lowering


def _rotation(name: str) -> Lowering:
    """A funnel shift of a value with itself; LLVM takes its count modulo the width."""
    funnel_shift = _intrinsic(name)
    return lambda emitter, a, count: funnel_shift(emitter, a, a, count)


def _trap_if_zero(emitter: NumericEmitter, divisor: ir.Value) -> None:
    emitter.trap_if(_equals(emitter, divisor, 0), TrapCode.INTEGER_DIVISION_BY_ZERO)


def _div_s(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    _trap_if_zero(emitter, b)
    least = _equals(emitter, a, -(1 << (a.type.width - 1)))
    overflows = emitter.builder.and_(least, _equals(emitter, b, -1))
    emitter.trap_if(overflows, TrapCode.INTEGER_OVERFLOW)
    return emitter.builder.sdiv(a, b)


def _div_u(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    _trap_if_zero(emitter, b)
    return emitter.builder.udiv(a, b)


def _rem_s(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Divide by 1 where the divisor is -1: the remainder is 0 either way, and the least integer does not overflow."""
    _trap_if_zero(emitter, b)
    divisor = emitter.builder.select(_equals(emitter, b, -1), ir.Constant(b.type, 1), b)
    return emitter.builder.srem(a, divisor)


def _rem_u(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    _trap_if_zero(emitter, b)
    return emitter.builder.urem(a, b)


def _extend_low(width: int) -> Lowering:
    """Sign extension of the lowest `width` bits."""

    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        return emitter.builder.sext(emitter.builder.trunc(a, ir.IntType(width)), a.type)

    return lowering


_INTEGER_UNARY = {
    "clz": _count_zeros("ctlz"),
    "ctz": _count_zeros("cttz"),
    "popcnt": _intrinsic("ctpop"),
    "extend8_s": _extend_low(8),
    "extend16_s": _extend_low(16),
}

_INTEGER_BINARY = {
    "add": _operator("add"),
    "sub": _operator("sub"),
    "mul": _operator("mul"),
    "div_s": _div_s,
    "div_u": _div_u,
    "rem_s": _rem_s,
    "rem_u": _rem_u,
    "and": _operator("and_"),
    "or": _operator("or_"),
    "xor": _operator("xor"),
    "shl": _shift("shl"),
    "shr_s": _shift("ashr"),
    "shr_u": _shift("lshr"),
    "rotl": _rotation("fshl"),
    "rotr": _rotation("fshr"),
}

_INTEGER_COMPARISONS = {
    "eq": _comparison("icmp_unsigned", "=="),
    "ne": _comparison("icmp_unsigned", "!="),
    "lt_s": _comparison("icmp_signed", "<"),
    "lt_u": _comparison("icmp_unsigned", "<"),
    "gt_s": _comparison("icmp_signed", ">"),
    "gt_u": _comparison("icmp_unsigned", ">"),
    "le_s": _comparison("icmp_signed", "<="),
    "le_u": _comparison("icmp_unsigned", "<="),
    "ge_s": _comparison("icmp_signed", ">="),
    "ge_u": _comparison("icmp_unsigned", ">="),
}


# --- Floats ----------------------------------------------------------------------------------------------------------


def _revealing(lowering: Lowering, is_harmless: Callable[..., bool]) -> Lowering:
    """A lowering of two floats that LLVM may know if they are harmless constants."""
    return lambda emitter, a, b: lowering(emitter, *opaque.revealed(a, b, is_harmless))


def _fenced(lowering: Lowering) -> Lowering:
    """A lowering that makes a float of an integer."""
    return lambda emitter, a: opaque.opaque(emitter, lowering(emitter, a))


def _arithmetic(opcode: str) -> Lowering:
    return _revealing(_operator(opcode), opaque.is_identity_of_none)


def _demote(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    """What was promoted must not be recognised, unless it was computed with since: that is quiet."""
    known = a if getattr(a, "opname", None) in opaque.QUIETING else opaque.opaque(emitter, a)
    return emitter.builder.fptrunc(known, _LLVM_TYPES[F32])


def extremum(name: str) -> Lowering:
    """`minimum` or `maximum`: -0.0 is less than 0.0, and a NaN on either side makes a NaN.

    The intrinsic may hand a signalling NaN on as it is, so a sum, which is quiet, takes its place when there is a NaN.
    The intrinsic is then free to suppose that there is none (`nnan`): `select` drops a poison that it does not choose.
    """

    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        builder = emitter.builder
        function = emitter.intrinsic(f"llvm.{name}.{intrinsic_name(a.type)}", a.type, [a.type, a.type])
        known_a, known_b = opaque.revealed(a, b, opaque.is_finite)
        extremum = builder.call(function, [known_a, known_b], fastmath=("nnan",))
        return builder.select(builder.fcmp_unordered("uno", known_a, known_b), builder.fadd(a, b), extremum)

    return lowering


_FLOAT_UNARY = {
    "abs": _intrinsic("fabs"),
    "neg": _operator("fneg"),
    "ceil": _intrinsic("ceil"),
    "floor": _intrinsic("floor"),
    "trunc": _intrinsic("trunc"),
    "nearest": _intrinsic("roundeven"),
    "sqrt": _intrinsic("sqrt"),
}

_FLOAT_BINARY = {
    "add": _arithmetic("fadd"),
    "sub": _arithmetic("fsub"),
    "mul": _arithmetic("fmul"),
    "div": _arithmetic("fdiv"),
    "min": extremum("minimum"),
    "max": extremum("maximum"),
    "copysign": _revealing(_intrinsic("copysign"), opaque.is_any),
}

# An ordered comparison is false when there is a NaN, an unordered one is true: `ne` alone is true of NaNs.
_FLOAT_COMPARISONS = {
    name: _revealing(_comparison(predicate, operator), opaque.is_zero)
    for name, predicate, operator in (
        ("eq", "fcmp_ordered", "=="),
        ("ne", "fcmp_unordered", "!="),
        ("lt", "fcmp_ordered", "<"),
        ("gt", "fcmp_ordered", ">"),
        ("le", "fcmp_ordered", "<="),
        ("ge", "fcmp_ordered", ">="),
    )
}


# --- Floats to integers ----------------------------------------------------------------------------------------------


def _truncation_bounds(source: NumType, result: NumType, signed: bool) -> tuple[float, float]:
    """The open interval of the floats whose integer part fits `result`, as exact floats of type `source`.

    Of an unsigned integer of n bits that is (-1, 2**n). Of a signed one it is (-2**(n-1) - 1, 2**(n-1)); where floats
    are too coarse to hold the lower bound, the next float below -2**(n-1) does as well: there is none between the two.
    """
    if not signed:
        return -1.0, 2.0 ** _WIDTHS[result]
    magnitude = 2.0 ** (_WIDTHS[result] - 1)
    return -magnitude - max(1.0, magnitude * _EPSILONS[source]), magnitude


def _trunc(source: NumType, result: NumType, signed: bool) -> Lowering:
    """The conversion that traps: LLVM's is poison for what does not fit, so only what fits gets there."""
    convert = _cast("fptosi" if signed else "fptoui", result)
    lower_bound, upper_bound = _truncation_bounds(source, result, signed)

    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        builder = emitter.builder
        emitter.trap_if(builder.fcmp_unordered("uno", a, a), TrapCode.BAD_CONVERSION_TO_INTEGER)
        too_low = builder.fcmp_ordered("<=", a, ir.Constant(a.type, lower_bound))
        too_high = builder.fcmp_ordered(">=", a, ir.Constant(a.type, upper_bound))
        emitter.trap_if(builder.or_(too_low, too_high), TrapCode.INTEGER_OVERFLOW)
        return convert(emitter, a)

    return lowering


def _trunc_sat(result: NumType, signed: bool) -> Lowering:
    """The conversion that saturates, and makes 0 of a NaN: LLVM's intrinsic does just that."""
    name = "llvm.fptosi.sat" if signed else "llvm.fptoui.sat"
    result_type = _LLVM_TYPES[result]

    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        mangled = f"{name}.{result_type.intrinsic_name}.{a.type.intrinsic_name}"
        return emitter.builder.call(emitter.intrinsic(mangled, result_type, [a.type]), [a])

    return lowering


# --- The table -------------------------------------------------------------------------------------------------------

_CONVERSIONS = {
    "i32.wrap_i64": _Instruction((I64,), I32, _cast("trunc", I32)),
    "i64.extend_i32_s": _Instruction((I32,), I64, _cast("sext", I64)),
    "i64.extend_i32_u": _Instruction((I32,), I64, _cast("zext", I64)),
    "i64.extend32_s": _Instruction((I64,), I64, _extend_low(32)),
    "f32.demote_f64": _Instruction((F64,), F32, _demote),
    "f64.promote_f32": _Instruction((F32,), F64, _cast("fpext", F64)),
    "i32.reinterpret_f32": _Instruction((F32,), I32, _cast("bitcast", I32)),
    "i64.reinterpret_f64": _Instruction((F64,), I64, _cast("bitcast", I64)),
    "f32.reinterpret_i32": _Instruction((I32,), F32, _fenced(_cast("bitcast", F32))),
    "f64.reinterpret_i64": _Instruction((I64,), F64, _fenced(_cast("bitcast", F64))),
}


def _instructions() -> Iterator[tuple[str, _Instruction]]:
    """Every numeric instruction, by name."""
    for types, unary, binary, comparisons in (
        (_INTEGERS, _INTEGER_UNARY, _INTEGER_BINARY, _INTEGER_COMPARISONS),
        (_FLOATS, _FLOAT_UNARY, _FLOAT_BINARY, _FLOAT_COMPARISONS),
    ):
        for type_ in types:
            for name, lowering in unary.items():
                yield f"{type_.value}.{name}", _Instruction((type_,), type_, lowering)
            for name, lowering in binary.items():
                yield f"{type_.value}.{name}", _Instruction((type_, type_), type_, lowering)
            for name, lowering in comparisons.items():
                yield f"{type_.value}.{name}", _Instruction((type_, type_), I32, lowering)
    for integer in _INTEGERS:
        yield f"{integer.value}.eqz", _Instruction((integer,), I32, _eqz)
        for float_ in _FLOATS:
            i, f = integer.value, float_.value
            for sign, signed, from_integer in (("s", True, "sitofp"), ("u", False, "uitofp")):
                trapping = _trunc(float_, integer, signed)
                saturating = _trunc_sat(integer, signed)
                yield f"{i}.trunc_{f}_{sign}", _Instruction((float_,), integer, trapping)
                yield f"{i}.trunc_sat_{f}_{sign}", _Instruction((float_,), integer, saturating)
                yield f"{f}.convert_{i}_{sign}", _Instruction((integer,), float_, _fenced(_cast(from_integer, float_)))
    yield from _CONVERSIONS.items()


_INSTRUCTIONS: dict[str, _Instruction] = dict(_instructions())

_WANTED = {
    name: [_LLVM_TYPES[parameter] for parameter in instruction.operands] for name, instruction in _INSTRUCTIONS.items()
}

SIGNATURES: dict[str, tuple[tuple[NumType, ...], NumType]] = {
    name: (instruction.operands, instruction.result) for name, instruction in _INSTRUCTIONS.items()
}
"""The operand types and the result type of every numeric instruction: `"i32.add": ((I32, I32), I32)`."""
