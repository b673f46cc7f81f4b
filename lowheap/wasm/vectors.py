"""Lowering of the vector instructions that compute: all of SIMD and of relaxed SIMD but constants, lanes and memory.

As in `numeric.py`, an instruction is a table entry with its operand types, its result type and a small function that
emits it; `INSTRUCTIONS` is the table. A v128 is two i64 on the operand stack, and each instruction sees the lanes in
it that it is about. Where LLVM leaves a case undefined, it is decided here.

**Floats.** Arithmetic makes a quiet NaN of a signalling one, and what LLVM would fold away (see `opaque.py`) is kept
from it here: lanes that were not computed are behind a fence before they are computed with. `abs`, `neg`, `pmin`,
`pmax` and all that moves lanes are exact to the bit.

**Relaxed SIMD** does the same on every machine, what wasmtime does when it is told to be deterministic: `relaxed_madd`
and `relaxed_nmadd` round once; `relaxed_swizzle`, `relaxed_trunc`, `relaxed_min`, `relaxed_max` and `relaxed_q15mulr`
are the instructions of SIMD without "relaxed"; `relaxed_laneselect` is `bitselect`; in dot products all bytes have a
sign.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from llvmlite import binding, ir

from lowheap.jit.stackmaps import X86_64, host_architecture
from lowheap.types import F32, F64, I32, I64, V128, NumType, ValType
from lowheap.wasm import nans, numeric
from lowheap.wasm.numeric import NumericEmitter
from lowheap.wasm.opaque import QUIETING, intrinsic_name, opaque

Lowering: TypeAlias = Callable[..., ir.Value]
"""`(emitter, *operands) -> result`: emits one instruction at the builder's position."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """Lanes of a vector: how WebAssembly calls them, the type of one on the operand stack, and what LLVM has."""

    name: str
    scalar: NumType
    type: ir.VectorType

    @property
    def lane(self) -> ir.Type:
        """LLVM's type of a lane."""
        return self.type.element

    @property
    def count(self) -> int:
        """How many lanes there are."""
        return int(self.type.count)


class Instruction(NamedTuple):
    """An instruction that computes a value of values."""

    operands: tuple[ValType, ...]
    result: ValType
    lowering: Lowering


def _integers(bits: int, count: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(bits), count)


VECTOR = _integers(64, 2)
"""A v128 on the operand stack."""

I8X16 = Shape("i8x16", I32, _integers(8, 16))
I16X8 = Shape("i16x8", I32, _integers(16, 8))
I32X4 = Shape("i32x4", I32, _integers(32, 4))
I64X2 = Shape("i64x2", I64, _integers(64, 2))
F32X4 = Shape("f32x4", F32, ir.VectorType(ir.FloatType(), 4))
F64X2 = Shape("f64x2", F64, ir.VectorType(ir.DoubleType(), 2))
_INTEGERS, _FLOATS = (I8X16, I16X8, I32X4, I64X2), (F32X4, F64X2)
SHAPES = {shape.name: shape for shape in (*_INTEGERS, *_FLOATS)}


# --- Lanes -----------------------------------------------------------------------------------------------------------


def lanes(emitter: NumericEmitter, value: ir.Value, shape: Shape) -> ir.Value:
    """Return the lanes of a v128."""
    if value.type == shape.type:
        return value
    if getattr(value, "opname", None) == "bitcast" and value.operands[0].type == shape.type:
        return value.operands[0]
    return emitter.builder.bitcast(value, shape.type)


def vector(emitter: NumericEmitter, value: ir.Value) -> ir.Value:
    """Return lanes as a v128."""
    return value if value.type == VECTOR else emitter.builder.bitcast(value, VECTOR)


def known_lanes(emitter: NumericEmitter, value: ir.Value, shape: Shape) -> ir.Value:
    """Return the lanes of a v128 to compute with: of floats, as LLVM knows them only if they were computed."""
    found = lanes(emitter, value, shape)
    if shape in _INTEGERS or getattr(found, "opname", None) in QUIETING:
        return found
    return opaque(emitter, found)


def of(type: ir.VectorType, *values: int) -> ir.Constant:
    """Return a constant vector: of these integers, or of one for all lanes."""
    lanes = values if len(values) == type.count else values * type.count
    return ir.Constant(type, [ir.Constant(type.element, value) for value in lanes])


def constant(bits: int) -> ir.Constant:
    """Return the v128 of these bits."""
    half = VECTOR.element.width
    return of(VECTOR, bits & (1 << half) - 1, bits >> half)


def shuffled(emitter: NumericEmitter, a: ir.Value, b: ir.Value, numbers: Sequence[int]) -> ir.Value:
    """Return the lanes of two vectors that have these numbers, those of the second behind those of the first."""
    return emitter.builder.shuffle_vector(a, b, of(_integers(32, len(numbers)), *numbers))


def splat(emitter: NumericEmitter, value: ir.Value, shape: Shape) -> ir.Value:
    """Return lanes that are all one value, of a lane's type."""
    first = emitter.builder.insert_element(ir.Constant(shape.type, ir.Undefined), value, _number(0))
    return shuffled(emitter, first, first, [0] * shape.count)


def _number(lane: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), lane)


def to_lane(emitter: NumericEmitter, value: ir.Value, shape: Shape) -> ir.Value:
    """Return a value of the operand stack as a lane."""
    return value if value.type == shape.lane else emitter.builder.trunc(value, shape.lane)


def replaced(emitter: NumericEmitter, value: ir.Value, shape: Shape, lane: int, scalar: ir.Value) -> ir.Value:
    """Return a v128 with another lane."""
    return vector(emitter, emitter.builder.insert_element(lanes(emitter, value, shape), scalar, _number(lane)))


def extracted(emitter: NumericEmitter, value: ir.Value, shape: Shape, lane: int) -> ir.Value:
    """Return a lane."""
    found = emitter.builder.extract_element(lanes(emitter, value, shape), _number(lane))
    return opaque(emitter, found) if shape in _FLOATS else found


# --- Building blocks -------------------------------------------------------------------------------------------------


def _lanewise(shape: Shape, lowering: Lowering, *, exact: bool = False) -> Lowering:
    """An instruction on the lanes of vectors, one by one. `exact`: floats are passed on as they are."""
    see = lanes if exact else known_lanes
    return lambda emitter, *operands: vector(emitter, lowering(emitter, *(see(emitter, v, shape) for v in operands)))


def _call(emitter: NumericEmitter, name: str, *args: ir.Value) -> ir.Value:
    """Call an intrinsic whose operands and result are of one type."""
    type = args[0].type
    function = emitter.intrinsic(f"llvm.{name}.{intrinsic_name(type)}", type, [type] * len(args))
    return emitter.builder.call(function, args)


def _intrinsic(name: str) -> Lowering:
    return lambda emitter, *operands: _call(emitter, name, *operands)


def _operator(opcode: str) -> Lowering:
    return lambda emitter, *operands: getattr(emitter.builder, opcode)(*operands)


def _comparison(predicate: str, operator: str) -> Lowering:
    """All bits of a lane where the comparison holds, none elsewhere."""

    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        holds = getattr(emitter.builder, predicate)(operator, a, b)
        bits = 128 // a.type.count
        return emitter.builder.sext(holds, _integers(bits, a.type.count))

    return lowering


def extended(emitter: NumericEmitter, value: ir.Value, is_signed: bool, bits: int | None = None) -> ir.Value:
    """Return lanes of integers as wider ones: twice as wide, unless it is said how wide."""
    type = _integers(bits or 2 * value.type.element.width, value.type.count)
    return emitter.builder.sext(value, type) if is_signed else emitter.builder.zext(value, type)


def _half(emitter: NumericEmitter, value: ir.Value, which: str) -> ir.Value:
    """Return the low or the high half of the lanes."""
    half = value.type.count // 2
    return shuffled(emitter, value, value, range(half) if which == "low" else range(half, 2 * half))


def _with_zeros(emitter: NumericEmitter, value: ir.Value) -> ir.Value:
    """Return lanes with as many zeros behind them."""
    return shuffled(emitter, value, ir.Constant(value.type, None), range(2 * value.type.count))


def _pairs(emitter: NumericEmitter, value: ir.Value) -> ir.Value:
    """Return the sums of neighbouring lanes."""
    count = value.type.count
    evens, odds = (shuffled(emitter, value, value, range(start, count, 2)) for start in (0, 1))
    return emitter.builder.add(evens, odds)


def _truth(emitter: NumericEmitter, condition: ir.Value) -> ir.Value:
    return emitter.builder.zext(condition, ir.IntType(32))


# --- All bits --------------------------------------------------------------------------------------------------------


def _not(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    return emitter.builder.xor(a, of(VECTOR, -1))


def _andnot(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    return emitter.builder.and_(a, _not(emitter, b))


def _bitselect(emitter: NumericEmitter, a: ir.Value, b: ir.Value, mask: ir.Value) -> ir.Value:
    builder = emitter.builder
    return builder.or_(builder.and_(a, mask), builder.and_(b, _not(emitter, mask)))


def _any_true(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    wide = emitter.builder.bitcast(a, ir.IntType(128))
    return _truth(emitter, emitter.builder.icmp_unsigned("!=", wide, ir.Constant(wide.type, 0)))


# --- Integers --------------------------------------------------------------------------------------------------------


def _neg(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    return emitter.builder.sub(of(a.type, 0), a)


def _abs(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    """The least integer is its own: the flag says that LLVM must take it for a number."""
    flag = ir.Constant(ir.IntType(1), 0)
    function = emitter.intrinsic(f"llvm.abs.{intrinsic_name(a.type)}", a.type, [a.type, flag.type])
    return emitter.builder.call(function, [a, flag])


def _avgr(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    builder, wide = emitter.builder, [extended(emitter, each, False) for each in (a, b)]
    sum = builder.add(builder.add(*wide), of(wide[0].type, 1))
    return builder.trunc(builder.lshr(sum, of(sum.type, 1)), a.type)


def _shift(shape: Shape, opcode: str) -> Lowering:
    """A shift of all lanes by a count modulo their width."""

    def lowering(emitter: NumericEmitter, a: ir.Value, count: ir.Value) -> ir.Value:
        builder = emitter.builder
        masked = builder.and_(count, ir.Constant(count.type, shape.lane.width - 1))
        if shape.lane.width > count.type.width:
            masked = builder.zext(masked, shape.lane)
        counts = splat(emitter, to_lane(emitter, masked, shape), shape)
        return vector(emitter, getattr(builder, opcode)(lanes(emitter, a, shape), counts))

    return lowering


def _all_true(shape: Shape) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        zeros = emitter.builder.icmp_unsigned("==", lanes(emitter, a, shape), of(shape.type, 0))
        bits = emitter.builder.bitcast(zeros, ir.IntType(shape.count))
        return _truth(emitter, emitter.builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0)))

    return lowering


def _bitmask(shape: Shape) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        negative = emitter.builder.icmp_signed("<", lanes(emitter, a, shape), of(shape.type, 0))
        bits = emitter.builder.bitcast(negative, ir.IntType(shape.count))
        return emitter.builder.zext(bits, ir.IntType(32))

    return lowering


def _narrow(source: Shape, target: Shape, is_signed: bool) -> Lowering:
    """Two vectors' lanes at half the width, saturated; the operands' have a sign in any case."""
    bits = target.lane.width
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if is_signed else (0, (1 << bits) - 1)

    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        both = shuffled(emitter, lanes(emitter, a, source), lanes(emitter, b, source), range(2 * source.count))
        clamped = _call(emitter, "smax", both, of(both.type, least))
        clamped = _call(emitter, "smin", clamped, of(both.type, most))
        return vector(emitter, emitter.builder.trunc(clamped, target.type))

    return lowering


def _extend(source: Shape, which: str, is_signed: bool) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        half = _half(emitter, lanes(emitter, a, source), which)
        return vector(emitter, extended(emitter, half, is_signed))

    return lowering


def _extmul(source: Shape, which: str, is_signed: bool) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        halves = [_half(emitter, lanes(emitter, each, source), which) for each in (a, b)]
        product = emitter.builder.mul(*(extended(emitter, half, is_signed) for half in halves))
        return vector(emitter, product)

    return lowering


def _extadd_pairwise(source: Shape, is_signed: bool) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        return vector(emitter, _pairs(emitter, extended(emitter, lanes(emitter, a, source), is_signed)))

    return lowering


def _dot(source: Shape) -> Lowering:
    """The sums of neighbouring products, of lanes with signs. They wrap."""

    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        factors = [extended(emitter, lanes(emitter, each, source), True) for each in (a, b)]
        return vector(emitter, _pairs(emitter, emitter.builder.mul(*factors)))

    return lowering


def _dot_and_add(emitter: NumericEmitter, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """The sums of four neighbouring products, of bytes with signs, and of `c`: no sum before the last wraps."""
    factors = [extended(emitter, lanes(emitter, each, I8X16), True) for each in (a, b)]
    products = extended(emitter, emitter.builder.mul(*factors), True)
    dots = _pairs(emitter, _pairs(emitter, products))
    return vector(emitter, emitter.builder.add(dots, lanes(emitter, c, I32X4)))


def _q15mulr(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """A rounded product of fractions. Only that of -1 with itself is none: it makes the sign bit, which is flipped."""
    builder = emitter.builder
    product = builder.mul(*(extended(emitter, each, True) for each in (a, b)))
    shifted = builder.lshr(product, of(product.type, 14))
    rounded = builder.lshr(builder.add(shifted, of(product.type, 1)), of(product.type, 1))
    result = builder.trunc(rounded, a.type)
    is_one = builder.icmp_unsigned("==", result, of(a.type, -(1 << 15)))
    return builder.xor(result, builder.sext(is_one, a.type))


@functools.cache
def _byte_shuffle() -> tuple[str, bool] | None:
    """Return this machine's intrinsic that picks bytes by number, and whether it must be told which are too great.

    One picks none for a number with the high bit and minds the low four bits of others; one minds all bits.
    """
    if host_architecture() is not X86_64:
        return "llvm.aarch64.neon.tbl1.v16i8", False
    return ("llvm.x86.ssse3.pshuf.b.128", True) if binding.get_host_cpu_features().get("ssse3") else None


def _swizzle(emitter: NumericEmitter, a: ir.Value, numbers: ir.Value) -> ir.Value:
    """The bytes of `a` that have these numbers, and 0 where there is none."""
    found = _byte_shuffle()
    if found is None:
        return _swizzle_bytewise(emitter, a, numbers)
    name, minds_high_bit = found
    if minds_high_bit:
        numbers = _call(emitter, "uadd.sat", numbers, of(numbers.type, 0x80 - I8X16.count))
    return emitter.builder.call(emitter.intrinsic(name, a.type, [a.type, a.type]), [a, numbers])


def _swizzle_bytewise(emitter: NumericEmitter, a: ir.Value, numbers: ir.Value) -> ir.Value:
    """The same, for a machine that has no instruction for it."""
    builder, none = emitter.builder, of(a.type, 0)
    low, result = builder.and_(numbers, of(numbers.type, I8X16.count - 1)), none
    for lane in range(I8X16.count):
        byte = builder.extract_element(a, builder.extract_element(low, _number(lane)))
        result = builder.insert_element(result, byte, _number(lane))
    return builder.select(builder.icmp_unsigned("<", numbers, of(numbers.type, I8X16.count)), result, none)


def _splat(shape: Shape) -> Lowering:
    return lambda emitter, a: vector(emitter, splat(emitter, to_lane(emitter, a, shape), shape))


# --- Floats ----------------------------------------------------------------------------------------------------------


def _pseudo_extremum(operator: str) -> Lowering:
    """`pmin` or `pmax`: the second operand where it is less, or greater, and the first elsewhere."""

    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value) -> ir.Value:
        first, second = (b, a) if operator == "<" else (a, b)
        return emitter.builder.select(emitter.builder.fcmp_ordered("<", first, second), b, a)

    return lowering


def _madd(is_negative: bool) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return _call(emitter, "fma", emitter.builder.fneg(a) if is_negative else a, b, c)

    return lowering


def _convert(source: Shape, target: Shape, is_signed: bool) -> Lowering:
    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        integers = lanes(emitter, a, source)
        if source.count > target.count:
            integers = _half(emitter, integers, "low")
        convert = emitter.builder.sitofp if is_signed else emitter.builder.uitofp
        return vector(emitter, convert(integers, target.type))

    return lowering


def _truncate(source: Shape, is_signed: bool) -> Lowering:
    """To i32x4, saturated, and 0 for a NaN; of two lanes, with zeros behind them.

    LLVM's intrinsic for that takes the lanes apart. Its plain conversion is poison for what does not fit, so only what
    fits gets there: nothing below the least integer, and 0 in the place of what is above the greatest.
    """
    result_type = _integers(32, source.count)
    least, most = (-(1 << 31), (1 << 31) - 1) if is_signed else (0, (1 << 32) - 1)

    def lowering(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
        builder, value = emitter.builder, lanes(emitter, a, source)
        zeros, lowest, bound = (_floats(source, number) for number in (0, least, most + 1))
        if is_signed:  # without a sign, the next line makes 0 of a NaN
            value = builder.select(builder.fcmp_ordered("ord", value, value), value, zeros)
        value = builder.select(builder.fcmp_ordered(">", value, lowest), value, lowest)
        too_high = builder.fcmp_ordered(">=", value, bound)
        value = builder.select(too_high, zeros, value)
        convert = builder.fptosi if is_signed else builder.fptoui
        result = builder.select(too_high, of(result_type, most), convert(value, result_type))
        return vector(emitter, result if source.count == I32X4.count else _with_zeros(emitter, result))

    return lowering


def _floats(shape: Shape, number: int) -> ir.Constant:
    """Return a float in all lanes."""
    return ir.Constant(shape.type, [ir.Constant(shape.lane, float(number))] * shape.count)


def _demote(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    narrow = emitter.builder.fptrunc(known_lanes(emitter, a, F64X2), ir.VectorType(F32X4.lane, F64X2.count))
    return vector(emitter, _with_zeros(emitter, narrow))


def _promote(emitter: NumericEmitter, a: ir.Value) -> ir.Value:
    low = _half(emitter, known_lanes(emitter, a, F32X4), "low")
    return vector(emitter, emitter.builder.fpext(low, F64X2.type))


# --- The table -------------------------------------------------------------------------------------------------------

_COMPARISONS = {
    "eq": ("icmp_unsigned", "=="),
    "ne": ("icmp_unsigned", "!="),
    **{
        f"{name}_{sign}": (f"icmp_{kind}", operator)
        for name, operator in (("lt", "<"), ("gt", ">"), ("le", "<="), ("ge", ">="))
        for sign, kind in (("s", "signed"), ("u", "unsigned"))
    },
}
_FLOAT_COMPARISONS = {
    "eq": ("fcmp_ordered", "=="),
    "ne": ("fcmp_unordered", "!="),
    "lt": ("fcmp_ordered", "<"),
    "gt": ("fcmp_ordered", ">"),
    "le": ("fcmp_ordered", "<="),
    "ge": ("fcmp_ordered", ">="),
}
_FLOAT_ARITHMETIC = {
    **{name: (1, _intrinsic(name)) for name in ("ceil", "floor", "trunc", "sqrt")},
    "nearest": (1, _intrinsic("roundeven")),
    **{name: (2, _operator(f"f{name}")) for name in ("add", "sub", "mul", "div")},
    "min": (2, numeric.extremum("minimum")),
    "max": (2, numeric.extremum("maximum")),
    "relaxed_min": (2, numeric.extremum("minimum")),
    "relaxed_max": (2, numeric.extremum("maximum")),
    "relaxed_madd": (3, _madd(False)),
    "relaxed_nmadd": (3, _madd(True)),
}
_SIGNS = (("s", True), ("u", False))


def _bits() -> Iterator[tuple[str, Instruction]]:
    """The instructions on all bits."""
    for name, count, lowering in (
        ("not", 1, _not),
        ("and", 2, _operator("and_")),
        ("andnot", 2, _andnot),
        ("or", 2, _operator("or_")),
        ("xor", 2, _operator("xor")),
        ("bitselect", 3, _bitselect),
    ):
        yield f"v128.{name}", Instruction((V128,) * count, V128, lowering)
    yield "v128.any_true", Instruction((V128,), I32, _any_true)


def _on_integers(shape: Shape) -> Iterator[tuple[str, Instruction]]:
    """The instructions that there are for integers of any width, and those that some widths lack."""
    name, binary = shape.name, (V128, V128)

    def lanewise(operation: str, count: int, lowering: Lowering) -> tuple[str, Instruction]:
        return f"{name}.{operation}", Instruction((V128,) * count, V128, _lanewise(shape, lowering))

    yield lanewise("abs", 1, _abs)
    yield lanewise("neg", 1, _neg)
    yield lanewise("add", 2, _operator("add"))
    yield lanewise("sub", 2, _operator("sub"))
    for operation, opcode in (("shl", "shl"), ("shr_s", "ashr"), ("shr_u", "lshr")):
        yield f"{name}.{operation}", Instruction((V128, I32), V128, _shift(shape, opcode))
    yield f"{name}.all_true", Instruction((V128,), I32, _all_true(shape))
    yield f"{name}.bitmask", Instruction((V128,), I32, _bitmask(shape))
    for operation, how in _COMPARISONS.items():
        if shape is not I64X2 or not operation.endswith("_u"):
            yield lanewise(operation, 2, _comparison(*how))
    yield f"{name}.relaxed_laneselect", Instruction((V128, V128, V128), V128, _bitselect)
    if shape is not I8X16:
        yield lanewise("mul", 2, _operator("mul"))
        narrower = _INTEGERS[_INTEGERS.index(shape) - 1]
        for sign, is_signed in _SIGNS:
            for which in ("low", "high"):
                tail = f"{which}_{narrower.name}_{sign}"
                yield f"{name}.extend_{tail}", Instruction((V128,), V128, _extend(narrower, which, is_signed))
                yield f"{name}.extmul_{tail}", Instruction(binary, V128, _extmul(narrower, which, is_signed))
    if shape is not I64X2:
        for sign in "su":
            for operation in ("min", "max"):
                yield lanewise(f"{operation}_{sign}", 2, _intrinsic(f"{sign}{operation}"))


def _on_narrow_integers(shape: Shape) -> Iterator[tuple[str, Instruction]]:
    """The instructions on i8x16 and i16x8 alone, and those that lead to them and from them."""
    wider = _INTEGERS[_INTEGERS.index(shape) + 1]
    for sign, is_signed in _SIGNS:
        for operation in ("add", "sub"):
            lowering = _lanewise(shape, _intrinsic(f"{sign}{operation}.sat"))
            yield f"{shape.name}.{operation}_sat_{sign}", Instruction((V128, V128), V128, lowering)
        narrow = _narrow(wider, shape, is_signed)
        yield f"{shape.name}.narrow_{wider.name}_{sign}", Instruction((V128, V128), V128, narrow)
        pairwise = _extadd_pairwise(shape, is_signed)
        yield f"{wider.name}.extadd_pairwise_{shape.name}_{sign}", Instruction((V128,), V128, pairwise)
    yield f"{shape.name}.avgr_u", Instruction((V128, V128), V128, _lanewise(shape, _avgr))


def _on_floats(shape: Shape) -> Iterator[tuple[str, Instruction]]:
    for operation, (count, lowering) in _FLOAT_ARITHMETIC.items():
        yield f"{shape.name}.{operation}", Instruction((V128,) * count, V128, _lanewise(shape, lowering))
    for operation, count, lowering in (
        ("abs", 1, _intrinsic("fabs")),
        ("neg", 1, _operator("fneg")),
        ("pmin", 2, _pseudo_extremum("<")),
        ("pmax", 2, _pseudo_extremum(">")),
        *((name, 2, _comparison(*how)) for name, how in _FLOAT_COMPARISONS.items()),
    ):
        exact = _lanewise(shape, lowering, exact=True)
        yield f"{shape.name}.{operation}", Instruction((V128,) * count, V128, exact)
    for sign, is_signed in _SIGNS:
        is_single = shape is F32X4
        converted = f"{shape.name}.convert_{'' if is_single else 'low_'}i32x4_{sign}"
        yield converted, Instruction((V128,), V128, _convert(I32X4, shape, is_signed))
        for name in ("trunc_sat", "relaxed_trunc"):
            truncated = f"i32x4.{name}_{shape.name}_{sign}{'' if is_single else '_zero'}"
            yield truncated, Instruction((V128,), V128, _truncate(shape, is_signed))


def _instructions() -> Iterator[tuple[str, Instruction]]:
    yield from _bits()
    for shape in _INTEGERS:
        yield from _on_integers(shape)
    for shape in (I8X16, I16X8):
        yield from _on_narrow_integers(shape)
    for shape in _FLOATS:
        yield from _on_floats(shape)
    for shape in SHAPES.values():
        yield f"{shape.name}.splat", Instruction((shape.scalar,), V128, _splat(shape))
    binary = (V128, V128)
    yield "i8x16.popcnt", Instruction((V128,), V128, _lanewise(I8X16, _intrinsic("ctpop")))
    for name in ("swizzle", "relaxed_swizzle"):
        yield f"i8x16.{name}", Instruction(binary, V128, _lanewise(I8X16, _swizzle))
    for name in ("q15mulr_sat_s", "relaxed_q15mulr_s"):
        yield f"i16x8.{name}", Instruction(binary, V128, _lanewise(I16X8, _q15mulr))
    yield "i32x4.dot_i16x8_s", Instruction(binary, V128, _dot(I16X8))
    yield "i16x8.relaxed_dot_i8x16_i7x16_s", Instruction(binary, V128, _dot(I8X16))
    yield "i32x4.relaxed_dot_i8x16_i7x16_add_s", Instruction((*binary, V128), V128, _dot_and_add)
    yield "f32x4.demote_f64x2_zero", Instruction((V128,), V128, _demote)
    yield "f64x2.promote_low_f32x4", Instruction((V128,), V128, _promote)


INSTRUCTIONS: dict[str, Instruction] = dict(_instructions())
"""Every vector instruction that computes a value of values, by name."""


def lower(
    emitter: NumericEmitter, name: str, operands: Sequence[ir.Value], *, canonical_nans: bool = False
) -> ir.Value:
    """Emit the instruction `name` on `operands`, and return its result.

    `canonical_nans`: a NaN that it computes in a lane is the canonical one.
    """
    result = INSTRUCTIONS[name].lowering(emitter, *operands)
    if not canonical_nans or not nans.may_come_of(name):
        return result
    shape = SHAPES[name.partition(".")[0]]
    return vector(emitter, nans.canonical(emitter, lanes(emitter, result, shape)))
