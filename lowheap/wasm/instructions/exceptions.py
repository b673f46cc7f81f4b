"""Exceptions: throwing them. What catches them is control, in `function.py`.

An exception is an object: of the tag's type, with the tag in its header, which is not its type, and the fields behind.
"""

from __future__ import annotations

from lowheap.jit.emit import REFERENCE
from lowheap.wasm.function import FunctionCompiler, instruction


@instruction("throw", allocates=True, throws=True)
def _throw(compiler: FunctionCompiler, tag: int) -> None:
    fields = compiler.context.function_type(compiler.context.tags[tag]).params
    exception = compiler.call_event("exn_new", REFERENCE, compiler.pop_many(len(fields)), tag, mark="allocate")
    compiler.throw(exception)


@instruction("throw_ref", throws=True)
def _throw_ref(compiler: FunctionCompiler) -> None:
    compiler.throw(compiler.pop_object())
