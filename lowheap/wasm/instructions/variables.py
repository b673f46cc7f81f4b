"""Locals, globals and constants."""

from __future__ import annotations

from llvmlite import ir

from lowheap.jit.emit import F32, F64, I32, I64, PTR, REFERENCE, VOID, llvm_type
from lowheap.types import NumType, RefType
from lowheap.wasm.events import GLOBAL, IMPORTED_GLOBAL
from lowheap.wasm.function import FunctionCompiler, instruction
from lowheap.wasm.opaque import float_constant


@instruction("local.get")
def _local_get(compiler: FunctionCompiler, index: int) -> None:
    compiler.push(compiler.locals[index], compiler.local_types[index])


@instruction("local.set")
def _local_set(compiler: FunctionCompiler, index: int) -> None:
    compiler.set_local(index, compiler.pop())


@instruction("local.tee")
def _local_tee(compiler: FunctionCompiler, index: int) -> None:
    compiler.set_local(index, compiler.stack[-1][0])


def _global_cell(compiler: FunctionCompiler, index: int) -> tuple[ir.Value, str]:
    """The address of a global, and the name that alias analysis has for the place."""
    imported, layout = compiler.context.imported_global_count, compiler.context.vmctx_layout
    if index >= imported:
        name, cell = GLOBAL, compiler.at(compiler.vmctx, layout.global_cell(index - imported))
    else:
        name = IMPORTED_GLOBAL
        cell = compiler.load_typed(compiler.at(compiler.vmctx, layout.global_import(index)), PTR, invariant=True)
    return compiler.named(cell, name), name


@instruction("global.get")
def _global_get(compiler: FunctionCompiler, index: int) -> None:
    cell, name = _global_cell(compiler, index)
    declared = compiler.context.global_types[index]
    type = declared.storage
    if isinstance(type, RefType):
        shape = compiler.context.shape(type, is_mutable=declared.mutable)
        compiler.push(compiler.call_event("global_get", REFERENCE, [cell], shape, name, mark="read"), type)
    else:
        compiler.push(compiler.load_typed(cell, llvm_type(type)), type)


@instruction("global.set")
def _global_set(compiler: FunctionCompiler, index: int) -> None:
    _store_global(compiler, "global_set", index, "write")


@instruction("global.init")
def _global_init(compiler: FunctionCompiler, index: int) -> None:
    """Not WebAssembly's: give a global its first value, in the module's initialiser."""
    _store_global(compiler, "global_init", index, "init")


def _store_global(compiler: FunctionCompiler, event: str, index: int, mark: str) -> None:
    value = compiler.pop()
    cell, name = _global_cell(compiler, index)
    declared = compiler.context.global_types[index]
    if isinstance(declared.storage, RefType):
        shape = compiler.context.shape(declared.storage, is_mutable=declared.mutable)
        compiler.call_event(event, VOID, [cell, value], shape, name, mark=mark)
    elif event == "global_init":
        compiler.call_event("global_init_number", VOID, [cell, value], declared.storage.value, name)
    else:
        compiler.store_typed(value, cell)


@instruction("i32.const")
def _i32_const(compiler: FunctionCompiler, value: int) -> None:
    compiler.push(ir.Constant(I32, value), NumType.I32)


@instruction("i64.const")
def _i64_const(compiler: FunctionCompiler, value: int) -> None:
    compiler.push(ir.Constant(I64, value), NumType.I64)


@instruction("f32.const")
def _f32_const(compiler: FunctionCompiler, bits: int) -> None:
    compiler.push(float_constant(compiler, F32, bits), NumType.F32)


@instruction("f64.const")
def _f64_const(compiler: FunctionCompiler, bits: int) -> None:
    compiler.push(float_constant(compiler, F64, bits), NumType.F64)
