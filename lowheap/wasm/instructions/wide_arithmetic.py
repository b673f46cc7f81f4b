"""Arithmetic on integers of 128 bits, each given as two of 64: the low half, then the high one."""

from __future__ import annotations

from llvmlite import ir

from lowheap.jit.emit import I64
from lowheap.types import NumType
from lowheap.wasm.function import FunctionCompiler, instruction

_I128 = ir.IntType(128)
_HALF = _I128(64)


def _joined(compiler: FunctionCompiler, low: ir.Value, high: ir.Value) -> ir.Value:
    builder = compiler.builder
    return builder.or_(builder.zext(low, _I128), builder.shl(builder.zext(high, _I128), _HALF))


def _push_halves(compiler: FunctionCompiler, value: ir.Value) -> None:
    builder = compiler.builder
    compiler.push(builder.trunc(value, I64), NumType.I64)
    compiler.push(builder.trunc(builder.lshr(value, _HALF), I64), NumType.I64)


@instruction("i64.add128", "i64.sub128")
def _add_or_subtract(compiler: FunctionCompiler) -> None:
    a_low, a_high, b_low, b_high = compiler.pop_many(4)
    operation = compiler.builder.add if compiler.name == "i64.add128" else compiler.builder.sub
    _push_halves(compiler, operation(_joined(compiler, a_low, a_high), _joined(compiler, b_low, b_high)))


@instruction("i64.mul_wide_s", "i64.mul_wide_u")
def _multiply(compiler: FunctionCompiler) -> None:
    extend = compiler.builder.sext if compiler.name == "i64.mul_wide_s" else compiler.builder.zext
    a, b = (extend(each, _I128) for each in compiler.pop_many(2))
    _push_halves(compiler, compiler.builder.mul(a, b))
