"""What stands in for functions that are not compiled yet, and has them compiled when one is called first.

Code of a module that is compiled by need calls functions through a table of addresses, `VMContext.codes`, of which each
instance has its own. There are two stubs for each number in it, the same for all modules of the process:

- the **first** is what the table has to begin with. It keeps the arguments as they are, asks the host for the function,
  through `VMStoreContext.compile_function`, and goes on there.
- the **lasting** one jumps to what the table has. It is the address that others get, who keep it: the host, importers,
  the store's function table.

Both take the number to a register that no argument is in. They are written in assembly, a few lines for each
architecture, here. Where none are written for, nothing is compiled by need.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.stackmaps import host_architecture
from lowheap.layout import VMContext

_COUNT = 1024
"""So many numbers' stubs are compiled together."""

_SIZE = 16
"""Bytes of a stub."""

_FIRST, _LASTING, _COMMON, _ASK = "lh_first_stubs", "lh_lasting_stubs", "lh_by_need", "lh_compile_by_need"

_X86_64 = {
    _FIRST: """
        movl ${number}, %eax
        jmp {common}
    """,
    _LASTING: """
        movl ${number}, %eax
        movq {codes}(%rdi), %r11
        jmpq *(%r11,%rax,8)
    """,
    _COMMON: """
        pushq %rbp
        movq %rsp, %rbp
        subq $$192, %rsp
        movq %rdi, 0(%rsp)
        movq %rsi, 8(%rsp)
        movq %rdx, 16(%rsp)
        movq %rcx, 24(%rsp)
        movq %r8, 32(%rsp)
        movq %r9, 40(%rsp)
        movups %xmm0, 64(%rsp)
        movups %xmm1, 80(%rsp)
        movups %xmm2, 96(%rsp)
        movups %xmm3, 112(%rsp)
        movups %xmm4, 128(%rsp)
        movups %xmm5, 144(%rsp)
        movups %xmm6, 160(%rsp)
        movups %xmm7, 176(%rsp)
        movl %eax, %esi
        callq {ask}
        movq %rax, %r11
        movq 0(%rsp), %rdi
        movq 8(%rsp), %rsi
        movq 16(%rsp), %rdx
        movq 24(%rsp), %rcx
        movq 32(%rsp), %r8
        movq 40(%rsp), %r9
        movups 64(%rsp), %xmm0
        movups 80(%rsp), %xmm1
        movups 96(%rsp), %xmm2
        movups 112(%rsp), %xmm3
        movups 128(%rsp), %xmm4
        movups 144(%rsp), %xmm5
        movups 160(%rsp), %xmm6
        movups 176(%rsp), %xmm7
        leave
        jmpq *%r11
    """,
}
_ASSEMBLY = {"x86_64": _X86_64}

_blocks: list[LoadedCode] = []


def is_available() -> bool:
    """Whether functions can be compiled by need on this machine."""
    return host_architecture().name in _ASSEMBLY


def stubs(count: int, cache_directory: Path | None = None) -> tuple[list[int], list[int]]:
    """Return the addresses of the first stubs and of the lasting ones, of the numbers below `count`.

    They are compiled at the first use in this process, or taken from the cache that is named then.
    """
    while len(_blocks) * _COUNT < count:
        start = len(_blocks) * _COUNT
        parts: dict[str, str | int | bool] = {"stubs": host_architecture().name, "start": start}
        _blocks.append(LoadedCode(cache.compiled(cache_directory, parts, functools.partial(_compile, start))))
    return _addresses(_FIRST, count), _addresses(_LASTING, count)


def _addresses(symbol: str, count: int) -> list[int]:
    found: list[int] = []
    for block in _blocks:
        base = block.address(symbol)
        found += range(base, base + _COUNT * _SIZE, _SIZE)
    return found[:count]


def _compile(start: int) -> CompiledCode:
    from llvmlite import ir  # here, because code from a cache needs none of it

    from lowheap.jit import transitions
    from lowheap.jit.emit import I32, I64, PTR, VOID, AttributedFunction, NativeFunction

    module = ir.Module("lowheap.by_need")
    ask = NativeFunction(module, ir.FunctionType(I64, [PTR, I32]), _ASK, "noinline")
    transitions.emit_compile_by_need(ask)
    texts = _ASSEMBLY[host_architecture().name]
    given = {"common": _COMMON, "ask": _ASK, "codes": VMContext.codes.offset}
    for symbol, numbers in ((_COMMON, [start]), *((each, range(start, start + _COUNT)) for each in (_FIRST, _LASTING))):
        function = AttributedFunction(module, ir.FunctionType(VOID, []), symbol, "naked", "noinline")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        text = "; ".join(line.strip() for line in texts[symbol].strip().splitlines())
        each = f".p2align {_SIZE.bit_length() - 1}; {text}\\0A"
        text = "".join(each.format(number=f"${number}", **given) for number in numbers)
        builder.call(ir.InlineAsm(ir.FunctionType(VOID, []), text, "", side_effect=True), [])
        builder.unreachable()
    return compile_ir(module, (_FIRST, _LASTING, _ASK))


assert ctypes.sizeof(VMContext) < 128, "an offset in it takes one byte of a stub"
