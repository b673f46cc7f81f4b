"""Typed access to mapped structures through llvmlite's IRBuilder.

`Emitter` is what everything that emits code works with: it knows the current function's vmctx and heap base, and turns
a `Structure` field into a load or store of its offset and width. No numeric offset appears outside of `layout.py`.

Every address in the heap is `heap base + zero-extended u32 + small constant`, so compiled code cannot leave the heap's
reservation and guard, whatever a reference or an index holds.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from llvmlite import ir
from llvmlite.ir._utils import NameScope

from lowheap.errors import TrapCode
from lowheap.jit.marks import PLAIN, MarkedModule
from lowheap.jit.signatures import CLOCK_GETTIME, CLOCK_MONOTONIC, MADV_DONTNEED, MADVISE, TRAP_FUNCTION
from lowheap.layout import (
    I31_TAG,
    NULL,
    RELEASE_DEAD_EXTERNREFS,
    VALUE_SLOT_SIZE,
    Field,
    VMContext,
    VMStoreContext,
)
from lowheap.types import NumType, PackedType, RefType, StorageType, VectorType

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
PTR = ir.PointerType()
VOID = ir.VoidType()
REFERENCE = I32

_LLVM_TYPES: dict[StorageType, ir.Type] = {
    PackedType.I8: I8,
    PackedType.I16: I16,
    NumType.I32: I32,
    NumType.I64: I64,
    NumType.F32: F32,
    NumType.F64: F64,
    VectorType.V128: ir.VectorType(I64, 2),
}


def llvm_type(storage: StorageType) -> ir.Type:
    """Return the LLVM type of a value or storage type; every reference is an i32."""
    return REFERENCE if isinstance(storage, RefType) else _LLVM_TYPES[storage]


def llvm_structure(data: type[ctypes.Structure]) -> ir.LiteralStructType:
    """Return a mapped structure as an LLVM type, field by field; offsets follow from LLVM's data layout."""
    return ir.LiteralStructType([_llvm_field(field[1]) for field in data._fields_])


def _llvm_field(data: Any) -> ir.Type:
    if issubclass(data, ctypes.Structure):
        return llvm_structure(data)
    if issubclass(data, ctypes.Array):
        return ir.ArrayType(_llvm_field(data._type_), data._length_)
    return ir.IntType(8 * ctypes.sizeof(data))


_FRAME_ATTRIBUTES = (
    '"frame-pointer"="all"',
    # Or LLVM makes a loop of a recursion, and what should exhaust the stack goes on for ever.
    '"disable-tail-calls"="true"',
    # Or a frame that vectors are spilled to is aligned when it is made, and has no size that LLVM can tell.
    '"no-realign-stack"',
)

NO_MEMSET = '"no-builtin-memset"'
"""Attribute: LLVM makes no calls of memset of loops."""


NO_MERGE = "nomerge"
"""Attribute: LLVM does not join calls of the function, so that a backtrace can tell them apart."""


class _Attributes(ir.values.FunctionAttributes):  # type: ignore[misc]  # llvmlite ships no type information
    """Function attributes with those that llvmlite does not know."""

    _known = ir.values.FunctionAttributes._known | {*_FRAME_ATTRIBUTES, NO_MEMSET, NO_MERGE}


class _Names(NameScope):  # type: ignore[misc]  # llvmlite ships no type information
    """The names of a function's values. What was given none gets the next number, without a look at what is taken."""

    def __init__(self, taken: int) -> None:
        """Begin behind the numbers that are taken, those of the parameters."""
        super().__init__()
        self._numbers = itertools.count(taken + 1)

    def register(self, name: str, deduplicate: bool = False) -> str:
        """Return the name that a value gets which is to have this one."""
        if name:
            return str(super().register(name, deduplicate))
        return f".{next(self._numbers)}"


class AttributedFunction(ir.Function):  # type: ignore[misc]  # llvmlite ships no type information
    """A function that throws nothing, unless `let_throw` says so, with attributes as LLVM writes them."""

    def __init__(self, module: ir.Module, ftype: ir.FunctionType, name: str, *attributes: str) -> None:
        """Declare the function in `module` with these further attributes."""
        super().__init__(module, ftype, name)
        self.scope = _Names(len(self.args))
        _attribute(self, attributes)


def _attribute(function: ir.Function, attributes: Sequence[str]) -> None:
    """Say that a function throws nothing, and give it these attributes."""
    function.attributes = _Attributes()
    for attribute in (_THROWS_NOTHING, *attributes):
        function.attributes.add(attribute)


_THROWS_NOTHING = "nounwind"


def let_throw(function: ir.Function) -> None:
    """Say that a function may throw. LLVM describes its frame in the object file, for `jit/unwinding.py`."""
    function.attributes.discard(_THROWS_NOTHING)


class _Token(ir.Type):  # type: ignore[misc]  # llvmlite ships no type information
    """LLVM's type of what is nothing to compute with, which llvmlite does not know."""

    def _to_string(self) -> str:
        return "token"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Token)

    def __hash__(self) -> int:
        return hash(_Token)


PERSONALITY_FUNCTION = "lowheap.personality"
"""i32(i32, i32, i64, ptr, ptr): what other unwinders than lowheap's ask at a frame with handlers: it has none."""

_CONTINUE_UNWINDING = 8  # of the Itanium C++ ABI's: _URC_CONTINUE_UNWIND


def begin_handler(function: ir.Function, block: ir.Block) -> None:
    """Make a block one that a call which throws goes on at. What was thrown, the store context tells."""
    if function.attributes.personality is None:
        function.attributes.personality = _personality(function.module)
    pad = ir.LandingPadInstr(block, _Token())
    pad.add_clause(ir.CatchClause(PTR(None)))
    block.instructions.append(pad)


def _personality(module: ir.Module) -> ir.Function:
    known = module.globals.get(PERSONALITY_FUNCTION)
    if known is None:
        known = AttributedFunction(module, ir.FunctionType(I32, [I32, I32, I64, PTR, PTR]), PERSONALITY_FUNCTION)
        known.linkage = "internal"
        ir.IRBuilder(known.append_basic_block("entry")).ret(I32(_CONTINUE_UNWINDING))
    return known


class NativeFunction(AttributedFunction):
    """A function that keeps a frame pointer, so that frames can be walked."""

    def __init__(self, module: ir.Module, ftype: ir.FunctionType, name: str, *attributes: str) -> None:
        """Declare the function in `module` with these further attributes."""
        super().__init__(module, ftype, name, *_FRAME_ATTRIBUTES, *attributes)


def begin_internal(function: ir.Function, *attributes: str) -> Emitter:
    """Start the body of a function that is declared as yet: an internal one, as `NativeFunction` makes them."""
    _attribute(function, (*_FRAME_ATTRIBUTES, *attributes))
    function.linkage = "internal"
    return Emitter(function)


def discard(module: ir.Module) -> None:
    """Let go of what a module has, which nobody needs any more.

    Its parts refer to each other in circles, which Python's garbage collector would look for: in all objects that there
    are, again and again, for a tenth of the time that it takes to compile.
    """
    for function in module.functions:
        for block in function.blocks:
            block.instructions.clear()
            block.terminator = None
        function.blocks.clear()
        function.args, function.return_value = (), None
    module.globals.clear()


class VolatileLoad(ir.LoadInstr):  # type: ignore[misc]  # llvmlite ships no type information
    """A load that LLVM neither moves nor replaces by a value that it knows: volatile, which llvmlite does not know."""

    def descr(self, buf: list[str]) -> None:
        """Append the printed instruction."""
        plain: list[str] = []
        super().descr(plain)
        buf.append(self.volatile("".join(plain)))

    @staticmethod
    def volatile(load: str) -> str:
        """Return the text of a load as that of one which is volatile."""
        return load.replace("load ", "load volatile ", 1)


class Variable:
    """A local variable of the function that is being emitted: `v.value` reads it, `v.value = x` writes it."""

    def __init__(self, builder: ir.IRBuilder, slot: ir.Value) -> None:
        """Wrap a stack slot."""
        self._builder, self._slot = builder, slot

    @property
    def value(self) -> ir.Value:
        """The variable's value at this point of the code."""
        return self._builder.load(self._slot)

    @value.setter
    def value(self, value: ir.Value) -> None:
        self._builder.store(value, self._slot)


class Emitter:
    """Emits code into one function, whose first argument is a vmctx.

    `offset` is the byte offset, in its module, of the instruction that code is emitted for; traps tell it. In a
    function that is called for instructions in several places it is a value: an argument.

    Loads and stores are told apart for LLVM by what they are to (type-based alias analysis): each field of a header, of
    the control block and of a type of object is something else, so that a count that goes up, say, keeps no field from
    staying in a register. What is accessed without such a name may be anything: free blocks above all, which lie where
    objects were. An object's memory only changes hands in calls that LLVM does not look into, or through a free block.
    """

    offset: int | ir.Value = 0
    collector: Any = None
    """The collector that functions are compiled for, a `Collector`: what `heap.collector` and `heap.state` are of."""

    is_checked: ClassVar[bool] = False
    """Whether functions of the collector that are emitted look for corruption on the way."""

    system: ClassVar[str] = sys.platform
    """The system whose libc the code calls."""

    def __init__(self, function: ir.Function) -> None:
        """Start the function's entry block."""
        self.function = function
        self.module: ir.Module = function.module
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._marks = self.module if isinstance(self.module, MarkedModule) else None
        if self._marks is not None:
            self._path = self._marks.current[-1:]  # a function that an event makes for itself is part of it
            self._marks.begin(function)
            self.builder.debug_metadata = self._marks.location(function, self._path)
        self.vmctx: ir.Value = function.args[0]
        self._names: dict[int, tuple[ir.Value, str]] = {}  # by id: the address, kept so that the id stays its own

    @functools.cached_property
    def heap_base(self) -> ir.Value:
        """The heap's first byte."""
        return self._load_at_entry(VMContext.heap_base)

    @functools.cached_property
    def control(self) -> ir.Value:
        """The heap's control block."""
        return self._load_at_entry(VMContext.control)

    @functools.cached_property
    def store_context(self) -> ir.Value:
        """The store's context."""
        return self._load_at_entry(VMContext.store)

    def _load_at_entry(self, field: Field) -> ir.Value:
        """Load an address from the vmctx where it serves the whole function. It is for no event: for all."""
        builder = self.builder
        mark = builder.debug_metadata
        with builder.goto_entry_block():
            if self._marks is not None:
                builder.debug_metadata = self._marks.location(self.function, PLAIN)
            address = self.load_pointer(self.vmctx, field, invariant=True)
        builder.debug_metadata = mark
        return address

    @contextmanager
    def event(self, kind: str) -> Iterator[None]:
        """Say that what the body emits is for an event: see `marks.py`. In a module without marks, nothing."""
        marks = self._marks
        if marks is None:
            yield
            return
        around, outside = self._path, marks.current
        self._path = around if around[-1:] == (kind,) else (*around, kind)
        marks.current = self._path
        self.builder.debug_metadata = marks.location(self.function, self._path)
        try:
            yield
        finally:
            self._path, marks.current = around, outside
            self.builder.debug_metadata = marks.location(self.function, around)

    # ------------------------------------------------------------------------------------------------------------------
    # Mapped structures

    def constant_bytes(self, name: str, data: bytes) -> ir.Value:
        """Return the address of bytes that never change, aligned as a u64; a module has one such constant of a name."""
        known = self.module.globals.get(name)
        if known is None:
            type = ir.ArrayType(I8, len(data))
            known = ir.GlobalVariable(self.module, type, name)
            known.initializer = ir.Constant(type, bytearray(data))
            known.linkage, known.global_constant, known.align = "private", True, ctypes.sizeof(ctypes.c_uint64)
        return ir.FormattedConstant(PTR, known.get_reference())

    def at(self, base: ir.Value, offset: int | ir.Value) -> ir.Value:
        """Return the address `offset` bytes behind `base`."""
        if isinstance(offset, int):
            if offset == 0:
                return base
            offset = I64(offset)
        return self.builder.gep(base, [offset], source_etype=I8)

    def load(self, base: ir.Value, field: Field, *, invariant: bool = False) -> ir.Value:
        """Load an integer field of the structure at `base`. `invariant`: nothing changes it while code runs."""
        address = self._field_address(base, field)
        return self.load_typed(address, ir.IntType(8 * field.size), invariant=invariant)

    def load_volatile(self, base: ir.Value, field: Field, type: ir.Type) -> ir.Value:
        """Load a field that another thread may change at any time; it is loaded whenever code comes here."""
        address = self._field_address(base, field)
        loaded = VolatileLoad(self.builder.block, address, typ=type)
        loaded.align = alignment_of(type)
        self.builder._insert(loaded)
        self._annotate(loaded, address)
        return loaded

    def load_pointer(self, base: ir.Value, field: Field, *, invariant: bool = False) -> ir.Value:
        """Load a field that holds an address."""
        return self.load_typed(self._field_address(base, field), PTR, invariant=invariant)

    def load_typed(
        self, address: ir.Value, type: ir.Type, *, invariant: bool = False, alignment: int | None = None
    ) -> ir.Value:
        """Load a value of an LLVM type, aligned to its size unless an alignment is given."""
        loaded = self.builder.load(address, typ=type, align=alignment or alignment_of(type))
        if invariant:
            loaded.set_metadata("invariant.load", _metadata(self.module, "", lambda: self.module.add_metadata([])))
        else:
            self._annotate(loaded, address)
        return loaded

    def store(self, value: ir.Value | int, base: ir.Value, field: Field) -> None:
        """Store an integer or an address to a field of the structure at `base`."""
        if isinstance(value, int):
            value = ir.IntType(8 * field.size)(value)
        self.store_typed(value, self._field_address(base, field))

    def store_typed(self, value: ir.Value, address: ir.Value, *, alignment: int | None = None) -> None:
        """Store a value, aligned to its size unless an alignment is given."""
        self._annotate(self.builder.store(value, address, align=alignment or alignment_of(value.type)), address)

    def load_slot(self, slots: ir.Value, number: int, type: ir.Type) -> ir.Value:
        """Load a value from the slots at `slots` in which the host and compiled code exchange values."""
        return self.load_typed(self._slot(slots, number), type, alignment=_slot_alignment(type))

    def store_slot(self, value: ir.Value, slots: ir.Value, number: int) -> None:
        """Store a value to its slot."""
        self.store_typed(value, self._slot(slots, number), alignment=_slot_alignment(value.type))

    def _slot(self, slots: ir.Value, number: int) -> ir.Value:
        return self.at(slots, number * VALUE_SLOT_SIZE)

    def named(self, address: ir.Value, name: str) -> ir.Value:
        """Return `address`, having told LLVM that nothing is accessed there but under this name."""
        self._names[id(address)] = (address, name)
        return address

    def _field_address(self, base: ir.Value, field: Field) -> ir.Value:
        address = self.at(base, field.offset)
        if base is self.vmctx:
            return self.named(address, f"vmctx+{field.offset}")
        known = self.__dict__  # where a base is that has been loaded
        if base is known.get("control"):
            return self.named(address, f"control+{field.offset}")
        if base is known.get("store_context"):
            return self.named(address, f"store context+{field.offset}")
        return address

    def _annotate(self, access: ir.Instruction, address: ir.Value) -> None:
        known = self._names.get(id(address))
        if known is not None and tells_aliases(self.module):
            name, module = known[1], self.module
            access.set_metadata("tbaa", _metadata(module, name, lambda: _alias_type(module, name)))

    # ------------------------------------------------------------------------------------------------------------------
    # The heap

    def heap_address(self, reference: ir.Value, offset: int | ir.Value = 0) -> ir.Value:
        """Return the address of the byte `offset` into an object. A variable offset is u32 arithmetic, and wraps."""
        if isinstance(offset, int):
            return self.at(self.at(self.heap_base, self.builder.zext(reference, I64)), offset)
        return self.at(self.heap_base, self.builder.zext(self.builder.add(reference, offset), I64))

    def load_header(self, reference: ir.Value, field: Field) -> ir.Value:
        """Load a field of an object's header."""
        return self.load_typed(self._header_address(reference, field), ir.IntType(8 * field.size))

    def store_header(self, value: ir.Value | int, reference: ir.Value, field: Field) -> None:
        """Store to a field of an object's header."""
        if isinstance(value, int):
            value = ir.IntType(8 * field.size)(value)
        self.store_typed(value, self._header_address(reference, field))

    def _header_address(self, reference: ir.Value, field: Field) -> ir.Value:
        return self.named(self.heap_address(reference, field.offset), f"header+{field.offset}")

    def is_null(self, reference: ir.Value) -> ir.Value:
        """Return whether a reference is null, as an i1."""
        return self.builder.icmp_unsigned("==", reference, reference.type(NULL))

    def is_i31(self, reference: ir.Value) -> ir.Value:
        """Return whether a reference is an i31, as an i1."""
        return self.builder.trunc(self.builder.and_(reference, REFERENCE(I31_TAG)), I1)

    # ------------------------------------------------------------------------------------------------------------------
    # Variables, for what is written by hand. LLVM turns them into SSA values.

    def variable(self, initial: ir.Value) -> Variable:
        """Return a new local variable."""
        with self._in_frame():
            slot = self.builder.alloca(initial.type)
        self.builder.store(initial, slot)
        return Variable(self.builder, slot)

    # ------------------------------------------------------------------------------------------------------------------
    # Calls and control

    def declare(self, name: str, return_type: ir.Type, argument_types: Sequence[ir.Type]) -> ir.Function:
        """Return the function `name`, declared with this type if the module does not have it."""
        known = self.module.globals.get(name)
        if known is not None:
            return known
        return ir.Function(self.module, ir.FunctionType(return_type, argument_types), name)

    def intrinsic(self, name: str, return_type: ir.Type, argument_types: Sequence[ir.Type]) -> ir.Function:
        """Return an LLVM intrinsic by its full name, `llvm.ctpop.i32` for one."""
        return self.declare(name, return_type, argument_types)

    def call_pointer(
        self, pointer: ir.Value, return_type: ir.Type, argument_types: Sequence[ir.Type], args: Sequence[ir.Value]
    ) -> ir.Value:
        """Call a C function by its address."""
        return self.builder.call(self.function_pointer(pointer, return_type, argument_types), args)

    def function_pointer(self, pointer: ir.Value, return_type: ir.Type, argument_types: Sequence[ir.Type]) -> ir.Value:
        """Return an address as something that llvmlite can call: it wants a pointer whose type tells the function's."""
        return self._cast_pointer(pointer, ir.FunctionType(return_type, argument_types).as_pointer())

    @contextmanager
    def _in_frame(self) -> Iterator[None]:
        """Emit at the start of the function what reserves a part of its frame.

        Not behind a call that may be inlined: that splits the block, and what follows is no longer the frame's.
        """
        block = self.builder.block
        self.builder.position_at_start(self.function.entry_basic_block)
        yield
        self.builder.position_at_end(block)

    def stack_buffer(self, size: int, alignment: int) -> ir.Value:
        """Return the address of `size` bytes in the function's frame."""
        with self._in_frame():
            buffer = self.builder.alloca(ir.ArrayType(I8, size))
            buffer.align = alignment
            return self._cast_pointer(buffer, PTR)

    def _cast_pointer(self, pointer: ir.Value, type: ir.Type) -> ir.Value:
        """Cast between llvmlite's pointer types; `builder.bitcast` takes all for one, and leaves the cast out."""
        cast = ir.instructions.CastInstr(self.builder.block, "bitcast", pointer, type)
        self.builder._insert(cast)
        return cast

    def give_back_memory(self, address: ir.Value, length: ir.Value) -> None:
        """Emit a request to the system to take whole pages back. It may be ignored."""
        madvise = self.declare(MADVISE, I32, [PTR, I64, I32])
        self.builder.call(madvise, [address, length, I32(MADV_DONTNEED)])

    def nanoseconds(self) -> ir.Value:
        """Emit a look at the clock that Python's `time.monotonic_ns` reads. Returns an i64."""
        size = ctypes.sizeof(ctypes.c_uint64)
        time = self.stack_buffer(2 * size, size)
        get_time = self.declare(CLOCK_GETTIME, I32, [I32, PTR])
        self.builder.call(get_time, [I32(CLOCK_MONOTONIC[self.system]), time])
        seconds, rest = self.load_typed(time, I64), self.load_typed(self.at(time, size), I64)
        return self.builder.add(self.builder.mul(seconds, I64(1_000_000_000)), rest)

    def release_externrefs(self) -> ir.Value:
        """Emit a call of the host to let go of the externrefs that died; it returns 0, or another number: it failed."""
        pointer = self.load_pointer(self.store_context, VMStoreContext.call_host)
        return self.call_pointer(pointer, I32, [PTR, I32, PTR], [self.vmctx, I32(RELEASE_DEAD_EXTERNREFS), PTR(None)])

    def frame_address(self) -> ir.Value:
        """Return the current function's frame pointer, as an address."""
        return self.builder.call(self.intrinsic("llvm.frameaddress.p0", PTR, [I32]), [I32(0)])

    def likely(self, condition: ir.Value) -> ir.Value:
        """Tell LLVM that `condition` is expected to hold."""
        return self.builder.call(self.intrinsic("llvm.expect.i1", I1, [I1, I1]), [condition, I1(1)])

    def trap_if(self, condition: ir.Value, code: TrapCode) -> None:
        """Trap with `code` if `condition` holds."""
        trap, proceed = self.function.append_basic_block("trap"), self.function.append_basic_block()
        with self.event("trap"):
            self.builder.cbranch(condition, trap, proceed).set_weights([1, 1 << 20])
            self.builder.position_at_end(trap)
            self.trap(code)
        self.builder.position_at_end(proceed)

    def trap(self, code: TrapCode | ir.Value) -> None:
        """Trap with a code, or one of several, an i32; ends the current block."""
        function = self.declare(TRAP_FUNCTION, VOID, [PTR, I32, I32])
        with self.event("trap"):
            self.builder.call(
                function, [self.vmctx, I32(int(code)) if isinstance(code, int) else code, self.offset_value()]
            )
            self.builder.unreachable()

    def offset_value(self) -> ir.Value:
        """Return `offset` as an i32 for calls that may trap."""
        return I32(self.offset) if isinstance(self.offset, int) else self.offset


class CheckedEmitter(Emitter):
    """Emits functions of a checked heap."""

    is_checked = True


def tell_no_aliases(module: ir.Module) -> None:
    """Leave out what alias analysis wants to know: a module is not to be optimised."""
    module.lowheap_tells_no_aliases = True


def tells_aliases(module: ir.Module) -> bool:
    """Whether a module's loads and stores say what they are to."""
    return "lowheap_tells_no_aliases" not in module.__dict__


def _metadata(module: ir.Module, key: str, make: Callable[[], Any]) -> Any:
    """Return metadata of a module, made at the first request: llvmlite would look it up by all that is in it."""
    known: dict[str, Any] = module.__dict__.setdefault("lowheap_metadata", {})
    found = known.get(key)
    if found is None:
        found = known[key] = make()
    return found


def _alias_type(module: ir.Module, name: str) -> Any:
    root = module.add_metadata([ir.MetaDataString(module, "lowheap")])
    type = module.add_metadata([ir.MetaDataString(module, name), root, I64(0)])
    return module.add_metadata([type, type, I64(0)])


def alignment_of(type: ir.Type) -> int:
    """Return the size of an LLVM value type in bytes, which is its alignment in every structure of ours."""
    if isinstance(type, ir.IntType):
        return max(1, int(type.width) // 8)
    if isinstance(type, ir.PointerType):
        return ctypes.sizeof(ctypes.c_void_p)
    if isinstance(type, ir.FloatType):
        return ctypes.sizeof(ctypes.c_float)
    if isinstance(type, ir.DoubleType):
        return ctypes.sizeof(ctypes.c_double)
    return 2 * ctypes.sizeof(ctypes.c_uint64)  # a v128


def _slot_alignment(type: ir.Type) -> int:
    """Return the alignment of a value in a slot, or two for a v128: that of a slot at most."""
    return min(alignment_of(type), VALUE_SLOT_SIZE)
