"""References of all kinds: null, identity, tests and casts, conversions; and i31s."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from lowheap.errors import TrapCode
from lowheap.jit.emit import I1, I32, REFERENCE, VOID
from lowheap.layout import I31_SHIFT, I31_TAG, NULL, VMFunctionImport
from lowheap.types import AbstractHeapType, NumType, RefType, ValType
from lowheap.wasm.events import Static, type_test
from lowheap.wasm.function import FunctionCompiler, instruction


def _without_null(type: ValType) -> RefType:
    assert isinstance(type, RefType), "validated: a reference"
    return RefType(False, type.heap_type)


@instruction("ref.null")
def _ref_null(compiler: FunctionCompiler, heap_type: Any) -> None:
    compiler.push(REFERENCE(NULL), compiler.context.canonical(RefType(True, heap_type)))


@instruction("ref.is_null")
def _ref_is_null(compiler: FunctionCompiler) -> None:
    compiler.push(compiler.builder.zext(compiler.is_null(compiler.pop()), I32), NumType.I32)


@instruction("ref.func")
def _ref_func(compiler: FunctionCompiler, index: int) -> None:
    imported, layout = len(compiler.context.imported_functions), compiler.context.vmctx_layout
    if index < imported:
        place = compiler.at(compiler.vmctx, layout.function_import(index))
        value = compiler.load(place, VMFunctionImport.funcref, invariant=True)
    else:
        value = compiler.load_typed(
            compiler.at(compiler.vmctx, layout.funcref(index - imported)), REFERENCE, invariant=True
        )
    type_index = (*compiler.context.imported_functions, *compiler.context.decoded.functions)[index]
    compiler.push(value, RefType(False, compiler.context.type_indices[type_index]))


@instruction("ref.eq")
def _ref_eq(compiler: FunctionCompiler) -> None:
    a, b = compiler.pop_many(2)
    compiler.push(compiler.builder.zext(compiler.builder.icmp_unsigned("==", a, b), I32), NumType.I32)


@instruction("ref.as_non_null")
def _ref_as_non_null(compiler: FunctionCompiler) -> None:
    reference, type = compiler.stack.pop()
    compiler.check_not_null(reference, type)
    compiler.push(reference, _without_null(type))


@instruction("br_on_null")
def _br_on_null(compiler: FunctionCompiler, depth: int) -> None:
    reference, type = compiler.stack.pop()
    compiler.branch_if(compiler.is_null(reference), depth, compiler.branch_values(depth))
    compiler.push(reference, _without_null(type))


@instruction("br_on_non_null")
def _br_on_non_null(compiler: FunctionCompiler, depth: int) -> None:
    reference = compiler.pop()
    values = [*compiler.branch_values(depth, beneath=1), reference]
    compiler.branch_if(compiler.builder.not_(compiler.is_null(reference)), depth, values)


@instruction("ref.test")
def _ref_test(compiler: FunctionCompiler, target: RefType) -> None:
    reference, type = compiler.stack.pop()
    compiler.push(compiler.builder.zext(_is_instance(compiler, reference, type, target), I32), NumType.I32)


@instruction("ref.cast")
def _ref_cast(compiler: FunctionCompiler, target: RefType) -> None:
    reference, type = compiler.stack.pop()
    static = _cast_static(compiler, compiler.known_type(reference, type), target)
    if static is None:
        matches = _is_instance(compiler, reference, type, target)
        if not _is_true(matches):
            compiler.trap_if(compiler.builder.not_(matches), TrapCode.CAST_FAILURE)
    else:
        compiler.call_event("cast", VOID, [reference], *static)
        compiler.note_type(reference, compiler.context.canonical(target))
    compiler.push(reference, compiler.context.canonical(target))


@instruction("br_on_cast", "br_on_cast_fail")
def _br_on_cast(compiler: FunctionCompiler, depth: int, source: RefType, target: RefType) -> None:
    reference, type = compiler.stack.pop()
    matches = _is_instance(compiler, reference, type, target)
    matched = compiler.context.canonical(target)
    unmatched = RefType(source.nullable and not target.nullable, compiler.context.canonical(source).heap_type)
    branches_on_match = compiler.name == "br_on_cast"
    values = [*compiler.branch_values(depth, beneath=1), reference]
    compiler.branch_if(matches if branches_on_match else compiler.builder.not_(matches), depth, values)
    if not branches_on_match:
        compiler.note_type(reference, matched)
    compiler.push(reference, unmatched if branches_on_match else matched)


def _cast_static(compiler: FunctionCompiler, source: ValType, target: RefType) -> tuple[Static, ...] | None:
    """What a test for a type depends on, for `EventEmitter.is_instance`; None where only null matters."""
    assert isinstance(source, RefType), "validated: a reference"
    types = compiler.context.types
    wanted = compiler.context.canonical(target)
    if types.is_subtype(source.heap_type, wanted.heap_type) or wanted.heap_type is types.bottom(wanted.heap_type):
        return None
    test = type_test(types, source, wanted)
    return (test, target.heap_type) if isinstance(target.heap_type, int) else (test,)


def _is_instance(compiler: FunctionCompiler, reference: ir.Value, source: ValType, target: RefType) -> ir.Value:
    """Return, as an i1, whether a reference of static type `source` is of type `target` (the module's)."""
    source = compiler.known_type(reference, source)
    wanted = compiler.context.canonical(target)
    static = _cast_static(compiler, source, target)
    if static is not None:
        return compiler.known(wanted, reference, lambda: compiler.call_event("is_instance", I1, [reference], *static))
    if compiler.context.types.is_subtype(source.heap_type, wanted.heap_type):
        if target.nullable or not source.nullable:
            return I1(1)
        return compiler.builder.not_(compiler.is_null(reference))
    return compiler.is_null(reference) if target.nullable else I1(0)


@instruction("any.convert_extern", "extern.convert_any")
def _convert(compiler: FunctionCompiler) -> None:
    reference, type = compiler.stack.pop()
    assert isinstance(type, RefType), "validated: a reference"
    heap_type = AbstractHeapType.ANY if compiler.name == "any.convert_extern" else AbstractHeapType.EXTERN
    compiler.push(reference, RefType(type.nullable, heap_type))


@instruction("ref.i31")
def _ref_i31(compiler: FunctionCompiler) -> None:
    shifted = compiler.builder.shl(compiler.pop(), I32(I31_SHIFT))
    compiler.push(compiler.builder.or_(shifted, I32(I31_TAG)), RefType(False, AbstractHeapType.I31))


@instruction("i31.get_s", "i31.get_u")
def _i31_get(compiler: FunctionCompiler) -> None:
    shift = compiler.builder.ashr if compiler.name == "i31.get_s" else compiler.builder.lshr
    compiler.push(shift(compiler.pop_object(), I32(I31_SHIFT)), NumType.I32)


def _is_true(condition: ir.Value) -> bool:
    """Whether an i1 is known to hold."""
    return isinstance(condition, ir.Constant) and bool(condition.constant)
