"""Calls: of a function of the module or an import, and through a reference; each of them in place of a return, too."""

from __future__ import annotations

import ctypes

from llvmlite import ir

from lowheap.jit.emit import PTR
from lowheap.jit.signatures import Signature
from lowheap.layout import VMContext, VMFuncRef, VMFunctionImport
from lowheap.wasm.call_targets import Site
from lowheap.wasm.events import function_entry
from lowheap.wasm.function import FunctionCompiler, instruction


@instruction("call")
def _call_function(compiler: FunctionCompiler, index: int) -> None:
    context, type = compiler.context, compiler.context.function_types[index]
    if index < len(context.imported_functions):
        compiler.call_address(*_imported(compiler, index), type)
        return
    graph = context.graph
    compiler.comes_to_poll(index)
    may_collect, may_throw = index in graph.collecting, index in graph.throwing
    callee = _own(compiler, index)
    compiler.call(callee, compiler.vmctx, type, graph.conventions[index], may_collect=may_collect, may_throw=may_throw)


@instruction("return_call")
def _tail_call_function(compiler: FunctionCompiler, index: int) -> None:
    context, type = compiler.context, compiler.context.function_types[index]
    if index < len(context.imported_functions):
        compiler.tail_call_address(*_imported(compiler, index), type, may_be_own=False)
        return
    may_collect = index in context.graph.collecting
    compiler.tail_call(_own(compiler, index), compiler.vmctx, type, may_collect=may_collect)


@instruction("call_ref", leaves=True)
def _call_ref(compiler: FunctionCompiler, type_index: int, site: Site | None = None) -> None:
    """`site` is where it was before its function was inlined."""
    compiler.note_target(compiler.stack[-1][0], site)
    compiler.call_address(*_referenced(compiler), compiler.context.function_type(type_index))


@instruction("return_call_ref", leaves=True)
def _tail_call_ref(compiler: FunctionCompiler, type_index: int) -> None:
    compiler.tail_call_address(*_referenced(compiler), compiler.context.function_type(type_index))


def _own(compiler: FunctionCompiler, index: int) -> ir.Value:
    """One of the module's own functions; the address of its code, where that is not compiled along with this."""
    context = compiler.context
    function = context.functions.get(index)
    if function is not None:
        return function
    codes = compiler.load_pointer(compiler.vmctx, VMContext.codes, invariant=True)
    number = index - len(context.imported_functions)
    code = compiler.load_typed(compiler.at(codes, number * ctypes.sizeof(ctypes.c_uint64)), PTR)
    type = context.graph.conventions[index].function_type(Signature.of(context.function_types[index], context.types))
    return compiler.function_pointer(code, type.return_type, type.args)


def _imported(compiler: FunctionCompiler, index: int) -> tuple[ir.Value, ir.Value]:
    """The code of an imported function, and the vmctx to call it with."""
    place = compiler.at(compiler.vmctx, compiler.context.vmctx_layout.function_import(index))
    code = compiler.load_pointer(place, VMFunctionImport.code, invariant=True)
    return code, compiler.load_pointer(place, VMFunctionImport.vmctx, invariant=True)


def _referenced(compiler: FunctionCompiler) -> tuple[ir.Value, ir.Value]:
    """The code of the function that a reference, which is popped, refers to, and the vmctx to call it with."""
    function, type = compiler.stack.pop()
    compiler.check_not_null(function, type)
    entry = function_entry(compiler, function)
    return compiler.load_pointer(entry, VMFuncRef.code), compiler.load_pointer(entry, VMFuncRef.vmctx)
