"""Calls: of a function of the module or an import, and through a reference; each of them in place of a return, too."""

from __future__ import annotations

from llvmlite import ir

from lowheap.layout import VMFuncRef, VMFunctionImport
from lowheap.wasm.events import function_entry
from lowheap.wasm.function import FunctionCompiler, instruction


@instruction("call")
def _call_function(compiler: FunctionCompiler, index: int) -> None:
    context, type = compiler.context, compiler.context.function_types[index]
    own = index - len(context.imported_functions)
    if own < 0:
        compiler.call_address(*_imported(compiler, index), type)
        return
    if index in context.polling_functions and (loop := compiler.loop_that_comes_here()) is not None:
        loop.is_polled = True
    may_collect, may_throw = index in context.collecting_functions, index in context.throwing_functions
    callee, convention = context.functions[own], context.conventions[own]
    compiler.call(callee, compiler.vmctx, type, convention, may_collect=may_collect, may_throw=may_throw)


@instruction("return_call")
def _tail_call_function(compiler: FunctionCompiler, index: int) -> None:
    context, type = compiler.context, compiler.context.function_types[index]
    own = index - len(context.imported_functions)
    if own < 0:
        compiler.tail_call_address(*_imported(compiler, index), type, may_be_own=False)
        return
    may_collect = index in context.collecting_functions
    compiler.tail_call(context.functions[own], compiler.vmctx, type, may_collect=may_collect)


@instruction("call_ref", leaves=True)
def _call_ref(compiler: FunctionCompiler, type_index: int) -> None:
    compiler.call_address(*_referenced(compiler), compiler.context.function_type(type_index))


@instruction("return_call_ref", leaves=True)
def _tail_call_ref(compiler: FunctionCompiler, type_index: int) -> None:
    compiler.tail_call_address(*_referenced(compiler), compiler.context.function_type(type_index))


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
