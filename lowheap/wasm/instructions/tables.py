"""Tables and element segments: access, size and growth, ranges, indirect calls, arrays made of segments.

An element of a table is a slot that counts what it holds, like a global, if what it may hold counts; a funcref does
not. A table never moves, so where it begins is loaded as something that does not change; nor does the length of one
whose type leaves no choice.
"""

from __future__ import annotations

from llvmlite import ir

from lowheap.errors import TrapCode
from lowheap.jit.emit import I32, I64, PTR, REFERENCE, VOID
from lowheap.layout import REFERENCE_SIZE, VMFuncRef, VMTable
from lowheap.types import NumType, RefType, TableType
from lowheap.wasm.events import ANY_LENGTH, TABLE, Static, table_length, type_test
from lowheap.wasm.function import FunctionCompiler, instruction
from lowheap.wasm.instructions.memories import widened
from lowheap.wasm.instructions.objects import push_new_array


def place_of(compiler: FunctionCompiler, index: int) -> ir.Value:
    """Return the address of a table's `VMTable`."""
    layout, imported = compiler.context.vmctx_layout, compiler.context.imported_table_count
    if index >= imported:
        return compiler.at(compiler.vmctx, layout.table(index - imported))
    return compiler.load_typed(compiler.at(compiler.vmctx, layout.table_import(index)), PTR, invariant=True)


def element_segment(compiler: FunctionCompiler, index: int) -> ir.Value:
    """Return the address of the `VMTable` of an element segment."""
    return compiler.at(compiler.vmctx, compiler.context.vmctx_layout.element_segment(index))


def _fixed_length(type: TableType) -> int:
    """How many elements a table of a type always has; `ANY_LENGTH` where that may differ."""
    return type.limits.min if type.limits.min == type.limits.max else ANY_LENGTH


def _element(compiler: FunctionCompiler, table: int) -> tuple[ir.Value, RefType]:
    """Pop an index, and return the address of that element, and its type. Traps where there is none."""
    type = compiler.context.table_types[table]
    index, place = widened(compiler, compiler.pop()), place_of(compiler, table)
    length = table_length(compiler, place, _fixed_length(type))
    compiler.trap_if(compiler.builder.icmp_unsigned(">=", index, length), TrapCode.TABLE_OUT_OF_BOUNDS)
    base = compiler.load_pointer(place, VMTable.base, invariant=True)
    scaled = compiler.builder.mul(index, I64(REFERENCE_SIZE))
    return compiler.named(compiler.at(base, scaled), TABLE), type.element


def _push_size(compiler: FunctionCompiler, value: ir.Value, table: int) -> None:
    """Push an i64 that is a number of elements, or -1, as the type that a table's indices have."""
    type = compiler.context.table_types[table].address
    compiler.push(value if type is NumType.I64 else compiler.builder.trunc(value, I32), type)


@instruction("table.get")
def _table_get(compiler: FunctionCompiler, table: int) -> None:
    address, type = _element(compiler, table)
    if compiler.context.types.is_traced(type):
        shape = compiler.context.shape(type, is_mutable=True)
        value = compiler.call_event("table_get", REFERENCE, [address], shape, mark="read")
    else:
        value = compiler.load_typed(address, REFERENCE)
    compiler.push(value, type)


@instruction("table.set", takes_long=True)
def _table_set(compiler: FunctionCompiler, table: int) -> None:
    value = compiler.pop()
    address, type = _element(compiler, table)
    if compiler.context.types.is_traced(type):
        shape = compiler.context.shape(type, is_mutable=True)
        compiler.call_event("table_set", VOID, [address, value], shape, mark="write")
    else:
        compiler.store_typed(value, address)


@instruction("table.size")
def _table_size(compiler: FunctionCompiler, table: int) -> None:
    fixed = _fixed_length(compiler.context.table_types[table])
    _push_size(compiler, table_length(compiler, place_of(compiler, table), fixed), table)


@instruction("table.grow", takes_long=True)
def _table_grow(compiler: FunctionCompiler, table: int) -> None:
    value, delta = compiler.pop_many(2)
    args = [place_of(compiler, table), widened(compiler, delta), value]
    shape = compiler.context.shape_of_table(table)
    _push_size(compiler, compiler.call_event("table_grow", I64, args, shape, mark="init"), table)


@instruction("table.fill", takes_long=True)
def _table_fill(compiler: FunctionCompiler, table: int) -> None:
    start, value, count = compiler.pop_many(3)
    args = [place_of(compiler, table), widened(compiler, start), value, widened(compiler, count)]
    compiler.call_event("table_fill", VOID, args, compiler.context.shape_of_table(table), mark="write")


@instruction("table.copy", takes_long=True)
def _table_copy(compiler: FunctionCompiler, target: int, source: int) -> None:
    _copy(compiler, target, place_of(compiler, source))


@instruction("table.init", takes_long=True)
def _table_init(compiler: FunctionCompiler, segment: int, table: int) -> None:
    _copy(compiler, table, element_segment(compiler, segment))


def _copy(compiler: FunctionCompiler, target: int, source: ir.Value) -> None:
    """Copy what the stack says to a table, from a table or a segment that has its `VMTable` at an address."""
    to, start, count = (widened(compiler, each) for each in compiler.pop_many(3))
    args = [place_of(compiler, target), source, to, start, count]
    compiler.call_event("table_copy", VOID, args, compiler.context.shape_of_table(target), mark="write")


@instruction("elem.drop", takes_long=True)
def _elem_drop(compiler: FunctionCompiler, segment: int) -> None:
    shape = compiler.context.shape_of_segment(segment)
    compiler.call_event("elem_drop", VOID, [element_segment(compiler, segment)], shape, mark="write")


# --- Not WebAssembly's: what the module's initialiser does ------------------------------------------------------------


@instruction("table.first")
def _table_first(compiler: FunctionCompiler, table: int) -> None:
    """Give all elements of a table, which has been made, their first value."""
    shape = compiler.context.shape_of_table(table)
    compiler.call_event("table_first", VOID, [place_of(compiler, table), compiler.pop()], shape, mark="init")


@instruction("elem.first")
def _elem_first(compiler: FunctionCompiler, segment: int, number: int) -> None:
    """Give an element of a segment, which has been made, its value."""
    base = compiler.load_pointer(element_segment(compiler, segment), VMTable.base, invariant=True)
    args = [compiler.at(base, number * REFERENCE_SIZE), compiler.pop()]
    compiler.call_event("elem_first", VOID, args, compiler.context.shape_of_segment(segment), mark="init")


# --- Indirect calls ---------------------------------------------------------------------------------------------------


@instruction("call_indirect", leaves=True)
def _call_indirect(compiler: FunctionCompiler, type_index: int, table: int) -> None:
    code, vmctx = callee_of_table(compiler, type_index, table)
    compiler.call_address(code, vmctx, compiler.context.function_type(type_index))


@instruction("return_call_indirect", leaves=True)
def _tail_call_indirect(compiler: FunctionCompiler, type_index: int, table: int) -> None:
    code, vmctx = callee_of_table(compiler, type_index, table)
    compiler.tail_call_address(code, vmctx, compiler.context.function_type(type_index))


def callee_of_table(compiler: FunctionCompiler, type_index: int, table: int) -> tuple[ir.Value, ir.Value]:
    """Pop an index, and return the code and the vmctx of the function there, which is of a type; traps otherwise."""
    index = widened(compiler, compiler.pop())
    type = compiler.context.table_types[table]
    static: tuple[Static, ...] = (_fixed_length(type), type.element.nullable)
    types, wanted = compiler.context.types, compiler.context.type_indices[type_index]
    if not types.is_subtype(type.element.heap_type, wanted):
        static = (*static, type_test(types, type.element, RefType(False, wanted)), type_index)
    entry = compiler.call_event("indirect_callee", PTR, [place_of(compiler, table), index], *static)
    return compiler.load_pointer(entry, VMFuncRef.code), compiler.load_pointer(entry, VMFuncRef.vmctx)


# --- Arrays from element segments -------------------------------------------------------------------------------------


@instruction("array.new_elem", allocates=True)
def _array_new_elem(compiler: FunctionCompiler, type_index: int, segment: int) -> None:
    start, count = compiler.pop_many(2)
    args = [element_segment(compiler, segment), start, count]
    push_new_array(compiler, "array_new_elem", args, type_index, count)


@instruction("array.init_elem", takes_long=True)
def _array_init_elem(compiler: FunctionCompiler, type_index: int, segment: int) -> None:
    to, start, count = compiler.pop_many(3)
    array, may_be_null = compiler.pop_nullable()
    args = [array, to, element_segment(compiler, segment), start, count]
    compiler.call_event("array_init_elem", VOID, args, type_index, may_be_null, mark="write")
