"""Floats that LLVM does not see through, so that it folds no operation on a signalling NaN away.

WebAssembly wants the result of arithmetic to be a quiet NaN, whatever the operands. LLVM takes a signalling NaN for as
good as a quiet one, and so makes `x` of `x * 1.0`, of `x - 0.0` and of a `demote` of a `promote`. The machine's
instructions are right; so what is needed is that LLVM does not come to know that an operand is such a number. Here is
how that is kept from it, at no cost in the code but that the constant is in a register:

- A constant is emitted as `float_constant`, behind a fence (`llvm.arithmetic.fence`), which no pass looks through. So
  are zeros that nobody wrote: those of locals and of new objects.
- What makes a float of an integer, which may turn out to be a constant, is behind a fence: a conversion, a
  reinterpretation. So is what is loaded from untyped memory, into which an integer may have been stored.
- Then whatever else is a float is no constant for LLVM, wherever it comes from: a parameter, a phi, a call that is
  inlined. (Not even by a comparison: behind `x == 2.0`, `x` is 2.0 for LLVM, but behind a comparison with a fenced
  constant it is just that.)
- An instruction may take the constant itself (`revealed`) where it is an operand, the other operand is no constant, and
  none of LLVM's identities is about it: then `x / 2.0` is `x * 0.5` as before.

What is exact to the bit (`neg`, `abs`, `copysign`, `select`, loads and stores) is so in LLVM, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from llvmlite import ir

_FENCE = "llvm.arithmetic.fence"

QUIETING = frozenset(("fadd", "fsub", "fmul", "fdiv"))
"""LLVM's instructions whose result is never a signalling NaN, as long as they are not folded."""

_BITS: dict[type[ir.Type], ir.Type] = {ir.FloatType: ir.IntType(32), ir.DoubleType: ir.IntType(64)}
_FRACTION_BITS: dict[type[ir.Type], int] = {ir.FloatType: 23, ir.DoubleType: 52}


class OpaqueEmitter(Protocol):
    """What is needed of an emitter."""

    builder: ir.IRBuilder

    def intrinsic(self, name: str, return_type: ir.Type, argument_types: Sequence[ir.Type]) -> ir.Function:
        """Give the module's one declaration of an LLVM intrinsic; `name` is mangled in full (`llvm.ctpop.i32`)."""


class _FloatConstant(ir.FormattedConstant):  # type: ignore[misc]  # llvmlite ships no type information
    """A float by its bits: it goes through an integer, so that a NaN keeps its payload."""

    def __init__(self, type: ir.Type, bits: int) -> None:
        integer = _BITS[type.__class__]
        super().__init__(type, f"bitcast ({integer} {bits} to {type})")
        self.bits = bits

    @property
    def magnitude(self) -> int:
        """The bits without the sign."""
        return int(self.bits & (1 << (_BITS[self.type.__class__].width - 1)) - 1)

    @property
    def exponent(self) -> int:
        """The bits of the exponent, as a number; -1 for those of an infinity or a NaN."""
        fraction = _FRACTION_BITS[self.type.__class__]
        exponent = self.magnitude >> fraction
        return -1 if exponent == (1 << (_BITS[self.type.__class__].width - 1 - fraction)) - 1 else exponent


def opaque(emitter: OpaqueEmitter, value: ir.Value) -> ir.Value:
    """Return a float, or a vector of floats, as one of which LLVM knows nothing."""
    function = emitter.intrinsic(f"{_FENCE}.{intrinsic_name(value.type)}", value.type, [value.type])
    return emitter.builder.call(function, [value])


def float_constant(emitter: OpaqueEmitter, type: ir.Type, bits: int) -> ir.Value:
    """Return the float with these bits."""
    return opaque(emitter, _FloatConstant(type, bits))


def canonical_nan(emitter: OpaqueEmitter, type: ir.Type) -> ir.Value:
    """Return the canonical NaN, or one in each lane: a constant that LLVM may not take for any other NaN."""
    lane = type.element if isinstance(type, ir.VectorType) else type
    fraction = _FRACTION_BITS[lane.__class__]
    quiet = (1 << (_BITS[lane.__class__].width - 1)) - (1 << (fraction - 1))  # the exponent's bits, and the next
    constant = _FloatConstant(lane, quiet)
    return opaque(emitter, constant if lane is type else ir.Constant(type, [constant] * type.count))


def intrinsic_name(type: ir.Type) -> str:
    """Return how the names of intrinsics call a type: `i32`, `f64`, `v4f32`."""
    if isinstance(type, ir.VectorType):
        return f"v{type.count}{type.element.intrinsic_name}"
    return str(type.intrinsic_name)


def _constant_of(value: ir.Value) -> _FloatConstant | None:
    """Return what a value was made of by `float_constant`; None if by something else."""
    if isinstance(value, ir.CallInstr) and isinstance(value.args[0], _FloatConstant):
        return value.args[0]
    return None


def revealed(a: ir.Value, b: ir.Value, is_harmless: Callable[[_FloatConstant], bool]) -> tuple[ir.Value, ir.Value]:
    """Return two operands, for an instruction that may know those constants that are harmless for it.

    Of two constants it knows none, or the result would be one.
    """
    first, second = _constant_of(a), _constant_of(b)
    if (first is None) == (second is None):
        return a, b
    if first is not None:
        return (first if is_harmless(first) else a), b
    assert second is not None, "one of the two is a constant"
    return a, (second if is_harmless(second) else b)


def is_identity_of_none(constant: _FloatConstant) -> bool:
    """Whether arithmetic with a constant is never folded: it is no zero, no one, no infinity, no NaN."""
    one = (1 << (_BITS[constant.type.__class__].width - 2 - _FRACTION_BITS[constant.type.__class__])) - 1
    return constant.exponent != -1 and constant.magnitude not in (0, one << _FRACTION_BITS[constant.type.__class__])


def is_zero(constant: _FloatConstant) -> bool:
    """Whether a constant is a zero: behind a comparison LLVM takes it for nothing else, for it may be the other one."""
    return constant.magnitude == 0


def is_finite(constant: _FloatConstant) -> bool:
    """Whether a constant is a number."""
    return constant.exponent != -1


def is_any(_constant: _FloatConstant) -> bool:
    """For instructions that are exact to the bit."""
    return True
