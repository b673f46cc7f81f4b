"""Structs and arrays."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from lowheap.jit.emit import I32, I64, REFERENCE, VOID, llvm_type
from lowheap.types import NumType, PackedType, RefType, StorageType, ValType
from lowheap.wasm.events import MOST_INLINED, Static
from lowheap.wasm.function import FunctionCompiler, instruction


def push_new(compiler: FunctionCompiler, event: str, args: Sequence[ir.Value], type_index: int) -> None:
    """Push the new object that an event makes."""
    reference = compiler.call_event(event, REFERENCE, args, type_index, mark="allocate")
    type = RefType(False, compiler.context.type_indices[type_index])
    compiler.note_type(reference, type)
    compiler.push(reference, type)


def push_new_array(
    compiler: FunctionCompiler, event: str, args: Sequence[ir.Value], type_index: int, length: ir.Value
) -> None:
    """Push the new array of a length that an event makes."""
    push_new(compiler, event, args, type_index)
    compiler.note(_LENGTH, compiler.stack[-1][0], length)


_LENGTH = "length"
"""What is known of an array."""


def _length(compiler: FunctionCompiler, array: ir.Value, may_be_null: bool) -> ir.Value:
    """The length of an array; trap when it is null."""
    length = compiler.known(_LENGTH, array, lambda: compiler.call_event("array_len", I32, [array], may_be_null))
    compiler.lengths[id(length)] = array
    return length


def _read(
    compiler: FunctionCompiler, event: str, args: Sequence[ir.Value], storage: StorageType, *static: Static
) -> ir.Value:
    """What an event reads from a field or an element, extended as the instruction's name says."""
    is_signed = isinstance(storage, PackedType) and compiler.name.endswith("_s")
    type = llvm_type(_unpacked(storage))
    return compiler.call_event(event, type, args, *static, is_signed, mark=_mark("read", storage))


def _unpacked(storage: StorageType) -> ValType:
    """The type that a field's or an element's values have on the operand stack."""
    return NumType.I32 if isinstance(storage, PackedType) else storage


@instruction("struct.new", allocates=True)
def _struct_new(compiler: FunctionCompiler, type_index: int) -> None:
    push_new(compiler, "struct_new", compiler.pop_many(len(compiler.context.fields(type_index))), type_index)


@instruction("struct.new_default", allocates=True)
def _struct_new_default(compiler: FunctionCompiler, type_index: int) -> None:
    push_new(compiler, "struct_new_default", [], type_index)


@instruction("struct.get", "struct.get_s", "struct.get_u")
def _struct_get(compiler: FunctionCompiler, type_index: int, number: int) -> None:
    reference, may_be_null = compiler.pop_nullable()
    field = compiler.context.fields(type_index)[number]

    def read() -> ir.Value:
        return _read(compiler, "struct_get", [reference], field.storage, type_index, number, may_be_null)

    # Where reading is an event of the collector's, that is told of each.
    is_told = isinstance(field.storage, RefType) and compiler.context.barriers.has_read_barrier
    what = compiler.name, compiler.context.field_name(type_index, number)
    value = read() if field.mutable or is_told else compiler.known(what, reference, read)
    compiler.push(value, _unpacked(field.storage))


@instruction("struct.set")
def _struct_set(compiler: FunctionCompiler, type_index: int, number: int) -> None:
    value = compiler.pop()
    reference, may_be_null = compiler.pop_nullable()
    mark = _mark("write", compiler.context.fields(type_index)[number].storage)
    compiler.call_event("struct_set", VOID, [reference, value], type_index, number, may_be_null, mark=mark)


@instruction("array.new", allocates=True)
def _array_new(compiler: FunctionCompiler, type_index: int) -> None:
    value, length = compiler.pop_many(2)
    push_new_array(compiler, "array_new", [value, length], type_index, length)


@instruction("array.new_default", allocates=True)
def _array_new_default(compiler: FunctionCompiler, type_index: int) -> None:
    length = compiler.pop()
    push_new_array(compiler, "array_new_default", [length], type_index, length)


@instruction("array.new_fixed", allocates=True)
def _array_new_fixed(compiler: FunctionCompiler, type_index: int, length: int) -> None:
    values = compiler.pop_many(length)
    push_new_array(compiler, "array_allocate", [I32(length)], type_index, I32(length))
    array, mark = compiler.stack[-1][0], _mark("init", compiler.context.element(type_index).storage)
    layout = compiler.context.array_layout(type_index)
    many = length > MOST_INLINED  # stores in a row, which LLVM would compare in pairs to merge them
    for number, value in enumerate(values):
        offset = I64(layout.elements_offset + number * layout.element_size)
        compiler.call_event("array_init", VOID, [array, offset, value], type_index, mark=mark, is_one_of_many=many)


@instruction("array.get", "array.get_s", "array.get_u")
def _array_get(compiler: FunctionCompiler, type_index: int) -> None:
    index = compiler.pop()
    array, may_be_null = compiler.pop_nullable()
    storage = compiler.context.element(type_index).storage
    args, static = _with_length(compiler, [array, index], type_index, may_be_null)
    compiler.push(_read(compiler, "array_get", args, storage, *static), _unpacked(storage))


@instruction("array.set")
def _array_set(compiler: FunctionCompiler, type_index: int) -> None:
    index, value = compiler.pop_many(2)
    array, may_be_null = compiler.pop_nullable()
    mark = _mark("write", compiler.context.element(type_index).storage)
    args, static = _with_length(compiler, [array, index, value], type_index, may_be_null)
    compiler.call_event("array_set", VOID, args, *static, mark=mark)


def _with_length(
    compiler: FunctionCompiler, args: list[ir.Value], type_index: int, may_be_null: bool
) -> tuple[list[ir.Value], tuple[Static, ...]]:
    """What an event is given that accesses an element of an array, and what it depends on.

    Where code is optimised, the array's length is read apart, so that it is read once.
    """
    if not compiler.context.is_optimised:
        return args, (type_index, may_be_null, False)
    return [*args, _length(compiler, args[0], may_be_null)], (type_index, False, True)


@instruction("array.len")
def _array_len(compiler: FunctionCompiler) -> None:
    array, may_be_null = compiler.pop_nullable()
    compiler.push(_length(compiler, array, may_be_null), NumType.I32)


@instruction("array.fill", takes_long=True)
def _array_fill(compiler: FunctionCompiler, type_index: int) -> None:
    start, value, count = compiler.pop_many(3)
    array, may_be_null = compiler.pop_nullable()
    mark = _mark("write", compiler.context.element(type_index).storage)
    compiler.call_event("array_fill", VOID, [array, start, value, count], type_index, may_be_null, mark=mark)


@instruction("array.copy", takes_long=True)
def _array_copy(compiler: FunctionCompiler, target_type: int, source_type: int) -> None:
    count = compiler.pop()
    source_start = compiler.pop()
    source, source_may_be_null = compiler.pop_nullable()
    target_start = compiler.pop()
    target, target_may_be_null = compiler.pop_nullable()
    args = [target, target_start, source, source_start, count]
    mark = _mark("write", compiler.context.element(target_type).storage)
    static = target_type, source_type, target_may_be_null, source_may_be_null
    compiler.call_event("array_copy", VOID, args, *static, mark=mark)


# What the builtins of `wasm:js-string` have beside the instructions of WebAssembly: `wasm/builtins.py`.


@instruction("string.difference", takes_long=True)
def _string_difference(compiler: FunctionCompiler) -> None:
    compiler.push(compiler.call_event("string_difference", I32, compiler.pop_many(3)), NumType.I32)


@instruction("string.unit")
def _string_unit(compiler: FunctionCompiler, rope_type: int) -> None:
    compiler.push(compiler.call_event("string_unit", I32, compiler.pop_many(2), rope_type), NumType.I32)


@instruction("string.write", takes_long=True)
def _string_write(compiler: FunctionCompiler, rope_type: int) -> None:
    compiler.call_event("string_write", VOID, compiler.pop_many(2), rope_type)


def _mark(event: str, storage: StorageType) -> str | None:
    """What to mark an access as: a barrier's event, or, of a number, nothing."""
    return event if isinstance(storage, RefType) else None
