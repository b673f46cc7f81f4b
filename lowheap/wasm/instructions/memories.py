"""Linear memory: loads, stores, size and growth, ranges, and the instructions of threads, for one thread.

Each access is checked against the memory's length, once: an address of 32 bits and an offset make at most 33, so their
sum never wraps, and one of 64 bits is compared with what is left of the length. A memory never moves, so its base is
loaded as something that does not change.
"""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from lowheap.errors import TrapCode
from lowheap.jit.emit import F32, F64, I1, I8, I16, I32, I64, PTR, VOID, llvm_type
from lowheap.layout import VMMemory
from lowheap.types import NumType
from lowheap.wasm.function import FunctionCompiler, instruction
from lowheap.wasm.instructions.objects import push_new_array
from lowheap.wasm.memory_ranges import MOST_RESERVED_32, MOST_RESERVED_64
from lowheap.wasm.opaque import opaque

CONTENT = "memory"
"""What alias analysis calls all that is in linear memories: two of a module's may be one."""

_LENGTH = "memory length"


class _Access(NamedTuple):
    """How an instruction accesses memory: the value's type on the stack, the type in memory, whether that is signed."""

    type: NumType
    memory: ir.Type
    is_signed: bool = False


_NUMBERS = {NumType.I32: I32, NumType.I64: I64, NumType.F32: F32, NumType.F64: F64}
_PARTS = {"8": I8, "16": I16, "32": I32}


def _accesses(name: str) -> dict[str, _Access]:
    """All loads, or all stores, by the names of their instructions."""
    found = {f"{type.value}.{name}": _Access(type, memory) for type, memory in _NUMBERS.items()}
    for type, bits in ((NumType.I32, ("8", "16")), (NumType.I64, ("8", "16", "32"))):
        for each in bits:
            if name == "store":
                found[f"{type.value}.store{each}"] = _Access(type, _PARTS[each])
            else:
                for sign in "su":
                    found[f"{type.value}.load{each}_{sign}"] = _Access(type, _PARTS[each], sign == "s")
    return found


_LOADS, _STORES = _accesses("load"), _accesses("store")


def place_of(compiler: FunctionCompiler, index: int) -> ir.Value:
    """Return the address of a memory's `VMMemory`."""
    layout, imported = compiler.context.vmctx_layout, compiler.context.imported_memory_count
    if index >= imported:
        return compiler.at(compiler.vmctx, layout.memory(index - imported))
    return compiler.load_typed(compiler.at(compiler.vmctx, layout.memory_import(index)), PTR, invariant=True)


def _length(compiler: FunctionCompiler, memory: int, place: ir.Value) -> ir.Value:
    """Load a memory's length, having told LLVM what it cannot be: where it must be longer, a check is left out."""
    type = compiler.context.memory_types[memory]
    address = compiler.named(compiler.at(place, VMMemory.length.offset), _LENGTH)
    length = compiler.load_typed(address, I64)
    least, beyond = type.limits.min << type.page_size_log2, (MOST_RESERVED_64 if type.is_64 else MOST_RESERVED_32) + 1
    if least < beyond:
        length.set_metadata("range", compiler.module.add_metadata([I64(least), I64(beyond)]))
    return length


def widened(compiler: FunctionCompiler, value: ir.Value) -> ir.Value:
    """Return an address, or a number of bytes, as an i64."""
    return value if value.type == I64 else compiler.builder.zext(value, I64)


def access(compiler: FunctionCompiler, memory: int, offset: int, size: int) -> ir.Value:
    """Pop an address, and return where in a memory the `size` bytes at an offset from there are. Traps at its end."""
    return _access(compiler, memory, compiler.pop(), offset, size)


def _access(compiler: FunctionCompiler, memory: int, address: ir.Value, offset: int, size: int) -> ir.Value:
    builder = compiler.builder
    place = place_of(compiler, memory)
    length = _length(compiler, memory, place)
    index = widened(compiler, address)
    end = offset + size
    if address.type == I32:
        beyond = builder.icmp_unsigned(">", builder.add(index, I64(end), flags=("nuw",)), length)
    elif end >= 1 << 64:
        beyond = I1(1)
    else:
        # How far the last address is from the length; where the length is less than `end`, that is no number.
        last = builder.sub(length, I64(end))
        too_short = builder.icmp_unsigned("<", length, I64(end))
        beyond = builder.or_(too_short, builder.icmp_unsigned(">", index, last))
    compiler.trap_if(beyond, TrapCode.MEMORY_OUT_OF_BOUNDS)
    base = compiler.load_pointer(place, VMMemory.base, invariant=True)
    found = compiler.at(base, index)
    if offset:
        found = compiler.at(found, I64(offset))
    return compiler.named(found, CONTENT)


@instruction(*_LOADS)
def _load(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    how = _LOADS[compiler.name]
    value = compiler.load_typed(access(compiler, memory, offset, _size(how.memory)), how.memory, alignment=1)
    compiler.push(_extended(compiler, value, how), how.type)


def _extended(compiler: FunctionCompiler, value: ir.Value, how: _Access) -> ir.Value:
    wanted = llvm_type(how.type)
    if value.type in (F32, F64):
        return opaque(compiler, value)  # an integer that was stored there might be one that LLVM knows
    if value.type == wanted:
        return value
    return compiler.builder.sext(value, wanted) if how.is_signed else compiler.builder.zext(value, wanted)


@instruction(*_STORES)
def _store(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    how = _STORES[compiler.name]
    value = compiler.pop()
    address = access(compiler, memory, offset, _size(how.memory))
    compiler.store_typed(_truncated(compiler, value, how.memory), address, alignment=1)


def _truncated(compiler: FunctionCompiler, value: ir.Value, type: ir.Type) -> ir.Value:
    return value if value.type == type else compiler.builder.trunc(value, type)


def _size(type: ir.Type) -> int:
    return {F32: 4, F64: 8}.get(type) or int(type.width) // 8


def _address_type(compiler: FunctionCompiler, memory: int) -> NumType:
    return compiler.context.memory_types[memory].address


def _push_address(compiler: FunctionCompiler, value: ir.Value, memory: int) -> None:
    """Push an i64 that is a number of pages, or -1, as the type that a memory's addresses have."""
    type = _address_type(compiler, memory)
    compiler.push(value if type is NumType.I64 else compiler.builder.trunc(value, I32), type)


@instruction("memory.size")
def _memory_size(compiler: FunctionCompiler, memory: int) -> None:
    bits = compiler.context.memory_types[memory].page_size_log2
    length = _length(compiler, memory, place_of(compiler, memory))
    _push_address(compiler, compiler.builder.lshr(length, I64(bits)), memory)


@instruction("memory.grow")
def _memory_grow(compiler: FunctionCompiler, memory: int) -> None:
    pages = widened(compiler, compiler.pop())
    bits = compiler.context.memory_types[memory].page_size_log2
    grown = compiler.call_event("memory_grow", I64, [place_of(compiler, memory), pages], bits)
    _push_address(compiler, grown, memory)


@instruction("memory.fill", takes_long=True)
def _memory_fill(compiler: FunctionCompiler, memory: int) -> None:
    start, value, count = compiler.pop_many(3)
    args = [place_of(compiler, memory), widened(compiler, start), value, widened(compiler, count)]
    compiler.call_event("memory_fill", VOID, args)


@instruction("memory.copy", takes_long=True)
def _memory_copy(compiler: FunctionCompiler, target: int, source: int) -> None:
    to, start, count = (widened(compiler, each) for each in compiler.pop_many(3))
    places = place_of(compiler, target), place_of(compiler, source)
    compiler.call_event("memory_copy", VOID, [*places, to, start, count])


@instruction("memory.init", takes_long=True)
def _memory_init(compiler: FunctionCompiler, segment: int, memory: int) -> None:
    to, start, count = (widened(compiler, each) for each in compiler.pop_many(3))
    places = place_of(compiler, memory), data_segment(compiler, segment)
    compiler.call_event("memory_init", VOID, [*places, to, start, count])


def data_segment(compiler: FunctionCompiler, index: int) -> ir.Value:
    """Return the address of a data segment's `VMDataSegment`."""
    return compiler.at(compiler.vmctx, compiler.context.vmctx_layout.data_segment(index))


@instruction("data.drop")
def _data_drop(compiler: FunctionCompiler, segment: int) -> None:
    compiler.call_event("data_drop", VOID, [data_segment(compiler, segment)])


# --- Arrays of numbers from data segments -----------------------------------------------------------------------------


@instruction("array.new_data", allocates=True)
def _array_new_data(compiler: FunctionCompiler, type_index: int, segment: int) -> None:
    start, count = compiler.pop_many(2)
    args = [data_segment(compiler, segment), start, count]
    push_new_array(compiler, "array_new_data", args, type_index, count)


@instruction("array.init_data", takes_long=True)
def _array_init_data(compiler: FunctionCompiler, type_index: int, segment: int) -> None:
    to, start, count = compiler.pop_many(3)
    array, may_be_null = compiler.pop_nullable()
    args = [array, to, data_segment(compiler, segment), start, count]
    compiler.call_event("array_init_data", VOID, args, type_index, may_be_null)


# --- Threads' instructions. A store is one thread's, so that what is atomic for others is what is plain here. ---------


def _atomic_access(name: str) -> _Access:
    """How an atomic instruction accesses memory: `i64.atomic.rmw8.add_u` an i8, say."""
    type = NumType(name[:3])
    width = next((bits for bits in _PARTS if any(f"{each}{bits}" in name for each in ("load", "store", "rmw"))), None)
    return _Access(type, _NUMBERS[type] if width is None else _PARTS[width])


def _atomic(compiler: FunctionCompiler, memory: int, offset: int, size: int) -> ir.Value:
    """As `access`; traps first where the address is no multiple of the size."""
    address, builder = compiler.pop(), compiler.builder
    if size > 1:
        sum = builder.add(widened(compiler, address), I64(offset % (1 << 64)))
        is_odd = builder.icmp_unsigned("!=", builder.and_(sum, I64(size - 1)), I64(0))
        compiler.trap_if(is_odd, TrapCode.HEAP_MISALIGNED)
    return _access(compiler, memory, address, offset, size)


_UPDATES = ("add", "sub", "and", "or", "xor", "xchg")
_RMW = [
    f"{type}.atomic.rmw{bits}.{operation}{'_u' if bits else ''}"
    for type, widths in (("i32", ("", "8", "16")), ("i64", ("", "8", "16", "32")))
    for bits in widths
    for operation in (*_UPDATES, "cmpxchg")
]
_ATOMIC_LOADS = ["i32.atomic.load", "i32.atomic.load8_u", "i32.atomic.load16_u"]
_ATOMIC_LOADS += ["i64.atomic.load", "i64.atomic.load8_u", "i64.atomic.load16_u", "i64.atomic.load32_u"]


@instruction(*_ATOMIC_LOADS)
def _atomic_load(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    how = _atomic_access(compiler.name)
    address = _atomic(compiler, memory, offset, _size(how.memory))
    compiler.push(_extended(compiler, compiler.load_typed(address, how.memory), how), how.type)


@instruction(*(each.replace("load", "store").removesuffix("_u") for each in _ATOMIC_LOADS))
def _atomic_store(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    how = _atomic_access(compiler.name)
    value = compiler.pop()
    address = _atomic(compiler, memory, offset, _size(how.memory))
    compiler.store_typed(_truncated(compiler, value, how.memory), address)


@instruction(*_RMW)
def _atomic_update(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    how, builder = _atomic_access(compiler.name), compiler.builder
    operation = compiler.name.removesuffix("_u").rpartition(".")[2]
    value = compiler.pop()
    expected = compiler.pop() if operation == "cmpxchg" else None
    address = _atomic(compiler, memory, offset, _size(how.memory))
    old = compiler.load_typed(address, how.memory)
    operand = _truncated(compiler, value, how.memory)
    match operation:
        case "xchg":
            new = operand
        case "cmpxchg":
            # What is expected is cut to the memory's width, as wasmtime and V8 do.
            is_equal = builder.icmp_unsigned("==", old, _truncated(compiler, expected, how.memory))
            new = builder.select(is_equal, operand, old)
        case _:
            emit = {"add": builder.add, "sub": builder.sub, "and": builder.and_, "or": builder.or_, "xor": builder.xor}
            new = emit[operation](old, operand)
    compiler.store_typed(new, address)
    compiler.push(_extended(compiler, old, how), how.type)


@instruction("atomic.fence")
def _atomic_fence(_: FunctionCompiler) -> None:
    """Nothing: there is one thread."""


@instruction("memory.atomic.notify")
def _atomic_notify(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    """Nobody waits: the one thread that there is, is here."""
    compiler.pop()
    _atomic(compiler, memory, offset, _size(I32))
    compiler.push(I32(0), NumType.I32)


@instruction("memory.atomic.wait32", "memory.atomic.wait64", leaves=True)
def _atomic_wait(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    timeout, expected = compiler.pop(), compiler.pop_many(1)[0]
    address = _atomic(compiler, memory, offset, _size(expected.type))
    if not compiler.context.memory_types[memory].is_shared:
        compiler.trap(TrapCode.ATOMIC_WAIT_NON_SHARED_MEMORY)
        compiler.is_reachable = False
        return
    now = _extended(compiler, compiler.load_typed(address, expected.type), _Access(NumType.I64, expected.type))
    is_equal = compiler.builder.icmp_unsigned("==", now, widened(compiler, expected))
    waited = compiler.call_event("atomic_wait", I32, [is_equal, timeout], compiler.context.interruptible)
    compiler.push(waited, NumType.I32)
