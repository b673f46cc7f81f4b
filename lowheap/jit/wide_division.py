"""Division of 128-bit integers, which LLVM takes to be there: it calls a compiler's support library for it.

No WebAssembly instruction is one. But where a loop of 64-bit integers is replaced by how often it goes round, LLVM may
reckon with more bits than these have. Such a library is linked to what a C compiler makes, not to this process.
"""

from __future__ import annotations

from llvmlite import ir

from lowheap.jit.emit import I1, I64, NativeFunction
from lowheap.jit.signatures import WIDE_DIVISIONS

_I128 = ir.IntType(128)


def emit(module: ir.Module) -> None:
    """Define the two functions in a module."""
    quotient, remainder = WIDE_DIVISIONS
    _define(module, quotient, is_remainder=False)
    _define(module, remainder, is_remainder=True)


def _define(module: ir.Module, name: str, *, is_remainder: bool) -> None:
    """Define a function: of two numbers that fit 64 bits by the machine's division, else bit by bit."""
    function = NativeFunction(module, ir.FunctionType(_I128, [_I128, _I128]), name)
    number, divisor = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    entry = builder.block
    narrow, again, done = (function.append_basic_block(each) for each in ("narrow", "again", "done"))
    high = builder.lshr(builder.or_(number, divisor), _I128(64))
    builder.cbranch(builder.icmp_unsigned("==", high, _I128(0)), narrow, again)

    builder.position_at_end(narrow)
    divide = builder.urem if is_remainder else builder.udiv
    builder.ret(builder.zext(divide(builder.trunc(number, I64), builder.trunc(divisor, I64)), _I128))

    builder.position_at_end(again)
    # The number is shifted out at its top into what remains, and the quotient in at its bottom.
    shifted, remains, left = builder.phi(_I128), builder.phi(_I128), builder.phi(I64)
    overflows = builder.trunc(builder.lshr(remains, _I128(127)), I1)
    taken_down = builder.or_(builder.shl(remains, _I128(1)), builder.lshr(shifted, _I128(127)))
    goes = builder.or_(overflows, builder.icmp_unsigned(">=", taken_down, divisor))
    rest = builder.select(goes, builder.sub(taken_down, divisor), taken_down)
    quotient = builder.or_(builder.shl(shifted, _I128(1)), builder.zext(goes, _I128))
    still_left = builder.sub(left, I64(1))
    for phi, first, next in ((shifted, number, quotient), (remains, _I128(0), rest), (left, I64(128), still_left)):
        phi.add_incoming(first, entry)
        phi.add_incoming(next, again)
    builder.cbranch(builder.icmp_unsigned("!=", still_left, I64(0)), again, done)
    builder.position_at_end(done)
    builder.ret(rest if is_remainder else quotient)
