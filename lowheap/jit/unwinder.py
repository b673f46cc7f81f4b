"""The unwinder: what compiled code calls to throw, compiled once in a process.

It saves the registers that a called function leaves as they are, has `frames.unwind` find the handler and what those
registers were in its function, loads them, and jumps there. If this activation has no handler, it jumps to the
activation's trampoline, as a trap does; what was thrown stays in the store context.

The saving, the loading and the jump are all that is written in assembly, a few lines for each architecture, here. The
tables are read from ELF files, so it is for Linux.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from lowheap.collectors.shared import frames
from lowheap.errors import UnsupportedError
from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.runtime import frame_rules
from lowheap.jit.stackmaps import host_architecture

THROW = "lh_throw"
"""void(vmctx), does not return: throw what is in the store context."""

_FIND = "lh_find_handler"
"""u64(vmctx, frame record): what the stack pointer is at the handler. Returns only if there is one."""

_ASSEMBLY = {
    "x86_64": """
        pushq %rbp
        movq %rsp, %rbp
        pushq %rbx
        pushq %r12
        pushq %r13
        pushq %r14
        pushq %r15
        movq %rbp, %rsi
        subq $$8, %rsp
        callq {find}
        addq $$8, %rsp
        popq %r15
        popq %r14
        popq %r13
        popq %r12
        popq %rbx
        popq %rbp
        popq %rcx
        movq %rax, %rsp
        jmpq *%rcx
    """,
}
"""Of `THROW`; `{find}` is the symbol of `_FIND`. The registers lie below the frame record as
`Architecture.kept_registers` has them."""

_REGISTER_SIZE = ctypes.sizeof(ctypes.c_uint64)

_loaded: list[LoadedCode] = []


def is_available() -> bool:
    """Whether compiled code can throw on this machine."""
    return sys.platform.startswith("linux") and host_architecture().name in _ASSEMBLY


def load(cache_directory: Path | None = None) -> LoadedCode:
    """Return the unwinder, compiled at the first use in this process, or taken from the cache that is named then.

    UnsupportedError on a machine for which none is written.
    """
    if not _loaded:
        name = host_architecture().name
        if not is_available():
            raise UnsupportedError(
                f"no unwinder is written for {sys.platform} on {name}, so compiled code cannot throw; there is one for "
                f"Linux on {', '.join(_ASSEMBLY)}"
            )
        _loaded.append(LoadedCode(cache.compiled(cache_directory, {"unwinder": name}, _compile)))
    return _loaded[0]


def places() -> dict[int, int]:
    """Where the registers are that the unwinder saves, from its frame record, by DWARF number."""
    kept = host_architecture().kept_registers
    return {register: (number - len(kept)) * _REGISTER_SIZE for number, register in enumerate(kept)}


def _compile() -> CompiledCode:
    from llvmlite import ir

    from lowheap.jit import transitions
    from lowheap.jit.emit import I64, PTR, VOID, AttributedFunction, Emitter, NativeFunction
    from lowheap.jit.translate import declare

    module = ir.Module("lowheap.unwinder")
    rules = frame_rules(host_architecture())
    search = declare(module, frames.unwind, Emitter, name="lh_unwind", statics={"rules": rules})
    search.linkage = "internal"

    find = NativeFunction(module, ir.FunctionType(I64, [PTR, I64]), _FIND, "noinline")
    emitter = Emitter(find)
    transitions.emit_search(emitter, search)

    throw = AttributedFunction(module, ir.FunctionType(VOID, [PTR]), THROW, "naked", "noinline")
    builder = ir.IRBuilder(throw.append_basic_block("entry"))
    text = _ASSEMBLY[host_architecture().name].format(find=_FIND)
    lines = "; ".join(line.strip() for line in text.strip().splitlines())
    builder.call(ir.InlineAsm(ir.FunctionType(VOID, []), lines, "", side_effect=True), [])
    builder.unreachable()
    return compile_ir(module, (THROW, _FIND))
