"""128-bit division, for what LLVM makes of loops: as Python divides."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite import ir

import lowheap as lh
from lowheap.jit.emit import I64, PTR, VOID, NativeFunction
from lowheap.jit.engine import LoadedCode
from lowheap.jit.engine import compile as compile_ir

I128 = ir.IntType(128)
NUMBERS = st.integers(0, 128).flatmap(lambda bits: st.integers(0, (1 << bits) - 1))


def compiled_division() -> Callable[[int, int], tuple[int, int]]:
    """A function that has compiled code divide 128-bit integers."""
    module = ir.Module()
    function = NativeFunction(module, ir.FunctionType(VOID, [PTR]), "divide")
    builder = ir.IRBuilder(function.append_basic_block())
    places = [builder.gep(function.args[0], [I64(16 * each)], source_etype=ir.IntType(8)) for each in range(4)]
    number, divisor = (builder.load(place, typ=I128) for place in places[:2])
    builder.store(builder.udiv(number, divisor), places[2])
    builder.store(builder.urem(number, divisor), places[3])
    builder.ret_void()
    code = LoadedCode(compile_ir(module, ("divide",)))

    def divide(number: int, divisor: int) -> tuple[int, int]:
        memory = (ctypes.c_char * 80)()
        start = -ctypes.addressof(memory) % 16
        memory[start : start + 32] = number.to_bytes(16, "little") + divisor.to_bytes(16, "little")
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(code.address("divide"))(ctypes.addressof(memory) + start)
        quotient, remainder = (memory[start + at : start + at + 16] for at in (32, 48))
        return int.from_bytes(quotient, "little"), int.from_bytes(remainder, "little")

    return divide


def test_it_divides_as_python_does() -> None:
    divide = compiled_division()
    top = (1 << 128) - 1

    @settings(max_examples=300, deadline=None)
    @given(number=NUMBERS, divisor=NUMBERS.filter(bool))
    @example(number=top, divisor=top)
    @example(number=top, divisor=1 << 127)
    @example(number=1 << 64, divisor=7)
    def check(number: int, divisor: int) -> None:
        assert divide(number, divisor) == divmod(number, divisor)

    check()


def test_a_loop_whose_rounds_llvm_counts_in_128_bits() -> None:
    """It goes up to a number and with it, by sevens; LLVM leaves none of it but the number where it ends."""
    store = lh.Store()
    source = """(module (func (export "f") (param $i i64) (param $n i64) (result i64)
      (block $end (loop $again
        (br_if $end (i64.gt_u (local.get $i) (local.get $n)))
        (local.set $i (i64.add (local.get $i) (i64.const 7)))
        (br $again)))
      (local.get $i)))"""
    function = lh.Instance(store, lh.Module(store.engine, source)).exports["f"]
    assert [function(5, limit) for limit in (4, 5, 1000)] == [5, 12, 1006]
    store.close()
