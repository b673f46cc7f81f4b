"""Calls: of a function of the module or an import, and through a reference."""

from __future__ import annotations

from lowheap.layout import VMFuncRef, VMFunctionImport
from lowheap.wasm.events import function_entry
from lowheap.wasm.function import FunctionCompiler, instruction


@instruction("call")
def _call_function(compiler: FunctionCompiler, index: int) -> None:
    type = compiler.context.function_types[index]
    imported = len(compiler.context.imported_functions)
    label = compiler.labels[-1]
    if index >= imported:
        if index in compiler.context.polling_functions and label.kind == "loop" and not label.goes_round:
            label.is_polled = True
        callee = compiler.context.functions[index - imported]
        context = compiler.context
        may_collect, may_throw = index in context.collecting_functions, index in context.throwing_functions
        compiler.call(callee, compiler.vmctx, type, may_collect=may_collect, may_throw=may_throw)
        return
    place = compiler.at(compiler.vmctx, compiler.context.vmctx_layout.function_import(index))
    code = compiler.load_pointer(place, VMFunctionImport.code, invariant=True)
    vmctx = compiler.load_pointer(place, VMFunctionImport.vmctx, invariant=True)
    compiler.call_address(code, vmctx, type)


@instruction("call_ref", leaves=True)
def _call_ref(compiler: FunctionCompiler, type_index: int) -> None:
    function, type = compiler.stack.pop()
    compiler.check_not_null(function, type)
    entry = function_entry(compiler, function)
    code = compiler.load_pointer(entry, VMFuncRef.code)
    vmctx = compiler.load_pointer(entry, VMFuncRef.vmctx)
    compiler.call_address(code, vmctx, compiler.context.function_type(type_index))
