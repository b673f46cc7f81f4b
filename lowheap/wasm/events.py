"""Functions for what many instructions do alike: allocation, access to objects and globals, casts.

A method of `EventEmitter` is an event. It is emitted once for a module, as an internal function, for each set of static
arguments that the module's instructions call for: types, fields, what can be null. An instruction's site is a call. So
a site costs a line of IR, and LLVM does what Python would do slowly: it inlines the function, first thing, where
`EventFunctions` says so.

**Barriers.** The methods of the module's barrier set are called from here, and only from here (`read`, `write`, `init`,
`allocate` below), with the emitter of the event's function. What they emit depends on the static arguments and on the
barrier set; where the instruction is, an argument tells: `Emitter.offset`.

**Safepoints.** An event that allocates is a call that may collect, with the references that live after it; in its own
function, those among its arguments that it stores into the new object live across the call of the runtime. Inlined, the
two lists become one.

**How long is it held?** A collector whose `read` asks whether a reference outlives the next safepoint or write is told
when the function that reads is complete: then `complete` has the site call the event for the answer. Nobody else pays
for that.

**Inlined or called?** Decided when the module is complete, see `EventFunctions.choose`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from llvmlite import ir

from lowheap.collectors import table_ranges
from lowheap.collectors.interface import ELEMENT, Shape
from lowheap.collectors.shared import allocation, casts, ranges, texts
from lowheap.collectors.shared.casts import TypeTest
from lowheap.errors import TrapCode
from lowheap.jit import safepoints, transitions
from lowheap.jit.emit import (
    I8,
    I32,
    I64,
    PTR,
    REFERENCE,
    VOID,
    Emitter,
    NativeFunction,
    llvm_type,
    tells_aliases,
)
from lowheap.jit.lifetimes import UNKNOWN, Lifetime, Writes, lifetimes
from lowheap.jit.marks import MarkedModule
from lowheap.jit.signatures import NANOSLEEP
from lowheap.jit.translate import HEAP, View, inline_call, inline_loop
from lowheap.layout import (
    BLOCK_ALIGN,
    FUNCTION_TABLE_OFFSET,
    REFERENCE_SIZE,
    SMALL_BLOCK_LIMIT,
    Field,
    VMCallTarget,
    VMContext,
    VMDataSegment,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMFuncRef,
    VMGcKind,
    VMMemory,
    VMStoreContext,
    VMTable,
    VMTag,
    block_length,
)
from lowheap.native import Native
from lowheap.types import (
    AbstractHeapType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    TypeRegistry,
    ValType,
    VectorType,
)
from lowheap.wasm import memory_ranges
from lowheap.wasm.context import ModuleContext
from lowheap.wasm.opaque import float_constant

SMALL_BODY = 24
"""So many instructions of LLVM's, or fewer, make an event that is inlined everywhere: a call would take as many."""

MOST_INLINED = 100
"""So many sites in one function have their events inlined at most: compiling must not take long, whatever comes."""

MOST_OUTSIDE_LOOPS, MOST_IN_LOOPS = 500, 2000
"""So many sites in one module have their events inlined at most."""

GLOBAL, IMPORTED_GLOBAL = "global", "imported global"
"""The names that alias analysis has for the cells of globals. Two imports may be one global, but none of the module's
own is an import, and those lie at known offsets."""

TABLE, TABLE_LENGTH = "table", "table length"
"""The names that alias analysis has for the elements of tables and element segments, and for how many they are."""

ANY_LENGTH = -1
"""What stands for the length of a table that may have more elements or fewer."""

WAIT_NOT_EQUAL, WAIT_TIMED_OUT = 1, 2
"""What the instructions that wait return, where nobody can notify them."""

NANOSECONDS, WAITS_PER_SECOND = 1_000_000_000, 100
"""Who waits looks up so often in a second, for interrupts."""

Static = bool | int | str | Shape | TypeTest
"""A static argument of an event."""


class EventEmitter(Emitter):
    """Emits one event's function: `vmctx`, the instruction's offset, and then what the event's method is given.

    Where the event is for objects of a type, its index, the module's, comes in between; `type_id` is the engine's. So
    types of one layout share the function. `owner` is the object that a slot is in; None for a global.
    """

    def __init__(
        self,
        context: ModuleContext,
        function: ir.Function,
        lifetime: Lifetime,
        *,
        is_for_type: bool = False,
        shared: EventFunctions | None = None,
    ) -> None:
        """Start the function. `lifetime` is that of what the event reads. `is_for_type`: it is given a `type_id`.

        `shared` are functions that events may call for a part of what they do, where code is to be made soon.
        """
        super().__init__(function)
        self.context = context
        self._shared = shared
        self.lifetime = lifetime
        self.offset = function.args[1]
        self.type_id = _type_id(self, function.args[2]) if is_for_type else None
        self.references: list[ir.Value] = []

    # ------------------------------------------------------------------------------------------------------------------
    # Slots: globals, fields, elements

    def read(self, address: ir.Value, owner: ir.Value, type_index: int, number: int) -> ir.Value:
        """Load a field, or an element if `number` is `ELEMENT`; a reference through the read barrier."""
        shape = self.context.shape_of_part(type_index, number)
        if shape is not None:
            return self.context.barriers.read(self, address, self._held(shape), owner)
        return self.load_typed(address, llvm_type(self.context.part(type_index, number).storage))

    def write(self, address: ir.Value, value: ir.Value, owner: ir.Value, type_index: int, number: int) -> None:
        """Store over a value; a reference through the write barrier."""
        shape = self.context.shape_of_part(type_index, number)
        if shape is not None:
            self.context.barriers.write(self, address, value, shape, owner)
        else:
            self.store_typed(self._pack(value, self.context.part(type_index, number).storage), address)

    def init(self, address: ir.Value, value: ir.Value, owner: ir.Value, type_index: int, number: int) -> None:
        """Store where there is nothing yet; a reference through the init barrier."""
        shape = self.context.shape_of_part(type_index, number)
        if shape is not None:
            self.context.barriers.init(self, address, value, shape, owner)
        else:
            self.store_typed(self._pack(value, self.context.part(type_index, number).storage), address)

    def _read_extended(
        self, address: ir.Value, owner: ir.Value, type_index: int, number: int, is_signed: bool
    ) -> ir.Value:
        """Read what goes on the operand stack, where packed types are i32."""
        value = self.read(address, owner, type_index, number)
        if isinstance(self.context.part(type_index, number).storage, PackedType):
            return self.builder.sext(value, I32) if is_signed else self.builder.zext(value, I32)
        return value

    def _pack(self, value: ir.Value, storage: StorageType) -> ir.Value:
        return self.builder.trunc(value, llvm_type(storage)) if isinstance(storage, PackedType) else value

    def _held(self, shape: Shape) -> Shape:
        """The shape of a reference that is read, with how long it is held."""
        if self.lifetime == UNKNOWN:
            return shape
        return replace(
            shape,
            outlives_safepoint=self.lifetime.outlives_safepoint,
            outlives_write=self.lifetime.outlives_write,
        )

    def _remember(self, value: ir.Value, storage: StorageType) -> None:
        """Make a root of a reference that must outlive a safepoint of the event's."""
        if self.context.types.is_traced(storage) and not isinstance(value, ir.Constant):
            self.references.append(value)

    def stack_check(self) -> None:
        """Trap when the frame of the function that this is inlined into lies beyond the stack limit."""
        with self.event("stack check"):
            self.trap_if(self._is_beyond_limit(), TrapCode.STACK_OVERFLOW)

    def _is_beyond_limit(self) -> ir.Value:
        frame = self.builder.ptrtoint(self.frame_address(), I64)
        # The limit is set at the outermost entry only. Being invariant, it is looked at once in a frame, whatever is
        # inlined there.
        limit = self.load(self.store_context, VMStoreContext.stack_limit, invariant=True)
        return self.builder.icmp_unsigned("<", frame, limit)

    def stack_poll(self) -> None:
        """The same, and a poll as well, by one comparison: the poll limit is never below the stack limit."""
        with self.event("stack check"):
            self._poll_below_limit()
            # The checks of functions that are inlined into this one are left out, as they are behind a stack check.
            self.builder.assume(self.builder.not_(self._is_beyond_limit()))

    def poll(self) -> None:
        """Poll, in a loop."""
        with self.event("poll"):
            self._poll_below_limit()

    def count(self, number: ir.Value) -> None:
        """Count down what one of the module's own functions is run, and tell the host when that comes to 0."""
        counters = self.load_pointer(self.vmctx, VMContext.counters, invariant=True)
        address = entry_of(self, counters, number, ctypes.c_uint32)
        left = self.builder.sub(self.load_typed(address, I32), I32(1))
        self.store_typed(left, address)
        function = self.declare(transitions.OPTIMISE_FUNCTION, VOID, [PTR, I32])
        with self.builder.if_then(self.builder.icmp_unsigned("==", left, I32(0)), likely=False):
            self.builder.call(function, [self.vmctx, number], cconv=transitions.POLL_CONVENTION)

    def note_target(self, site: ir.Value, function: ir.Value) -> None:
        """Note what a call through a reference comes to: a vote for it, or against what the others came to."""
        builder = self.builder
        cells = self.load_pointer(self.vmctx, VMContext.call_targets, invariant=True)
        cell = entry_of(self, cells, site, VMCallTarget)
        known, votes = self.load(cell, VMCallTarget.function), self.load(cell, VMCallTarget.votes)
        is_open = builder.icmp_unsigned("==", votes, I32(0))
        is_for = builder.or_(is_open, builder.icmp_unsigned("==", known, function))
        self.store(builder.select(is_open, function, known), cell, VMCallTarget.function)
        self.store(builder.add(votes, builder.select(is_for, I32(1), I32(-1))), cell, VMCallTarget.votes)

    def _poll_below_limit(self) -> None:
        frame = self.frame_address()
        # Two addresses, so that LLVM keeps their order, in which x86-64 compares with memory.
        limit = self.load_volatile(self.store_context, VMStoreContext.poll_limit, PTR)
        function = self.declare(transitions.POLL_FUNCTION, VOID, [PTR, I32, PTR])
        with self.builder.if_then(self.builder.icmp_unsigned("<", frame, limit), likely=False):
            args = [self.vmctx, self.offset_value(), frame]
            self.builder.call(function, args, cconv=transitions.POLL_CONVENTION)

    def global_get(self, address: ir.Value, shape: Shape, name: str) -> ir.Value:
        """`global.get` of a reference."""
        return self.context.barriers.read(self, self.named(address, name), self._held(shape))

    def global_set(self, address: ir.Value, value: ir.Value, shape: Shape, name: str) -> None:
        """`global.set` of a reference."""
        self.context.barriers.write(self, self.named(address, name), value, shape)

    def global_init(self, address: ir.Value, value: ir.Value, shape: Shape, name: str) -> None:
        """Give a global that holds a reference its first value."""
        self.context.barriers.init(self, self.named(address, name), value, shape)

    def global_init_number(self, address: ir.Value, value: ir.Value, type: str, name: str) -> None:
        """Give a global that holds a number its first value."""
        self.store_typed(value, self.named(address, name))

    # ------------------------------------------------------------------------------------------------------------------
    # References

    def null_check(self, reference: ir.Value) -> None:
        """Trap when a reference is null."""
        self.trap_if(self.is_null(reference), TrapCode.NULL_REFERENCE)

    def _check(self, reference: ir.Value, may_be_null: bool) -> None:
        if may_be_null:
            self.null_check(reference)

    def cast(self, reference: ir.Value, test: TypeTest, *type_index: int) -> None:
        """`ref.cast` to what `is_instance` is told."""
        matches = self.is_instance(reference, test, *type_index)
        self.trap_if(self.builder.not_(matches), TrapCode.CAST_FAILURE)

    def is_instance(self, reference: ir.Value, test: TypeTest, *type_index: int) -> ir.Value:
        """Return, as an i1, whether a reference passes a test; if that is for one of the module's types, for that."""
        wanted = self.type_id if type_index else 0
        return inline_call(self, casts.is_instance, [HEAP, reference, wanted, test])

    # ------------------------------------------------------------------------------------------------------------------
    # Allocation

    def _allocate(self, function: str, args: Sequence[ir.Value]) -> ir.Value:
        """Have the runtime make an object, which is a safepoint, and hand it over: `transitions.define`."""
        args = [self.vmctx, self.offset_value(), *args]
        callee = self.declare(function, REFERENCE, [arg.type for arg in args])
        with self.event("safepoint"):
            reference = safepoints.call(self.builder, callee, args)
        self.references.append(reference)
        return reference

    def _allocate_struct(self, type_index: int) -> ir.Value:
        layout = self.context.struct_layout(type_index)
        return self._allocate_fixed(layout.kind, layout.size)

    def _allocate_fixed(self, kind: VMGcKind, size: int) -> ir.Value:
        """Make an object of a type whose objects are all of one size, a struct or an exception."""
        with self.event("allocate"):
            call = functools.partial(self._allocate, transitions.ALLOCATE_STRUCT_FUNCTION, [self.type_id])
            if not self.context.inline_allocation or block_length(size) >= SMALL_BLOCK_LIMIT:
                return call()
            if self._shared is None:
                return self._allocate_inline(kind, I32(size), call)
            function = self._shared.function("fixed_allocate", REFERENCE, [I32, I32], (kind,))
            args = [self.vmctx, self.offset_value(), self.type_id, I32(size)]
            with self.event("safepoint"):
                reference = safepoints.call(self.builder, function, args)
            self.references.append(reference)
            return reference

    def fixed_allocate(self, type_id: ir.Value, size: ir.Value, kind: VMGcKind) -> ir.Value:
        """Make an object of a type whose objects are of one size, and small; `type_id` is its index, the engine's."""
        self.type_id = type_id
        call = functools.partial(self._allocate, transitions.ALLOCATE_STRUCT_FUNCTION, [type_id])
        return self._allocate_inline(kind, size, call)

    def _allocate_inline(
        self,
        kind: VMGcKind,
        size: ir.Value,
        call: Callable[[], ir.Value],
        *,
        is_small: ir.Value | None = None,
        array_length: ir.Value | None = None,
    ) -> ir.Value:
        """Have the collector make an object of a block that is at hand; `call` for one when none is.

        `is_small` tells whether a block for `size` bytes is of a small class; None: it is. An array's length is part of
        its header. The hand-over is emitted here right behind the header's stores, where LLVM makes one store of the
        two to a field that it writes again; behind the call it is the called function's.
        """
        builder = self.builder
        listed, empty = self.function.append_basic_block("pop"), self.function.append_basic_block("refill")
        done = self.function.append_basic_block()
        if is_small is not None:
            small = self.function.append_basic_block("small")
            builder.cbranch(is_small, small, empty).set_weights([1 << 10, 1])
            builder.position_at_end(small)
        length = builder.and_(builder.add(size, I32(BLOCK_ALIGN - 1)), I32(-BLOCK_ALIGN))
        args = [HEAP, I32(kind), self.type_id, size, length]
        head = self.context.barriers.inline(self, allocation.allocate_at_once, args)
        builder.cbranch(self.is_null(head), empty, listed).set_weights([1, 1 << 10])

        builder.position_at_end(listed)
        if array_length is not None:
            self.store_header(array_length, head, VMDrcArrayHeader.length)
        self.context.barriers.allocate(self, head)
        popped = builder.block
        builder.branch(done)

        builder.position_at_end(empty)
        called = call()
        refilled = builder.block
        builder.branch(done)

        builder.position_at_end(done)
        reference = builder.phi(REFERENCE)
        reference.add_incoming(head, popped)
        reference.add_incoming(called, refilled)
        self.references.append(reference)
        return reference

    # ------------------------------------------------------------------------------------------------------------------
    # Structs

    def _struct_field(self, reference: ir.Value, type_index: int, number: int) -> ir.Value:
        """The address of a field, which is one with the field of that number in the supertypes that have it."""
        place = self.context.struct_layout(type_index).fields[number]
        return self.named(self.heap_address(reference, place.offset), self.context.field_name(type_index, number))

    def struct_new(self, *args: Any) -> ir.Value:
        """`struct.new` of the type whose index is the last argument, behind the fields' values."""
        *values, type_index = args
        fields = self.context.fields(type_index)
        for value, declared in zip(values, fields, strict=True):
            self._remember(value, declared.storage)
        reference = self._allocate_struct(type_index)
        for number, value in enumerate(values):
            self.init(self._struct_field(reference, type_index, number), value, reference, type_index, number)
        return reference

    def struct_new_default(self, type_index: int) -> ir.Value:
        """`struct.new_default`."""
        return self.struct_new(*(zero(self, each.storage) for each in self.context.fields(type_index)), type_index)

    def struct_get(
        self, reference: ir.Value, type_index: int, number: int, may_be_null: bool, is_signed: bool
    ) -> ir.Value:
        """`struct.get`, `struct.get_s` and `struct.get_u`."""
        self._check(reference, may_be_null)
        address = self._struct_field(reference, type_index, number)
        return self._read_extended(address, reference, type_index, number, is_signed)

    def struct_set(self, reference: ir.Value, value: ir.Value, type_index: int, number: int, may_be_null: bool) -> None:
        """`struct.set`."""
        self._check(reference, may_be_null)
        address = self._struct_field(reference, type_index, number)
        self.write(address, value, reference, type_index, number)

    # ------------------------------------------------------------------------------------------------------------------
    # Exceptions

    def _tag_word(self, tag: int, word: Field) -> ir.Value:
        """One of the two words that tell a tag of the module's from all others of the store."""
        place = self.at(self.vmctx, self.context.vmctx_layout.tag(tag) + word.offset)
        return self.load_typed(place, I32, invariant=True)

    def _exception_field(self, exception: ir.Value, tag: int, number: int) -> ir.Value:
        type_index = self.context.tags[tag]
        place = self.context.exception_layout(type_index).fields[number]
        name = f"exception {self.context.type_indices[type_index]}+{number}"
        return self.named(self.heap_address(exception, place.offset), name)

    def _fields_of(self, tag: int) -> tuple[ValType, ...]:
        return self.context.function_type(self.context.tags[tag]).params

    def exn_new(self, *args: Any) -> ir.Value:
        """Make an exception of the tag whose index is the last argument, behind the fields' values."""
        *values, tag = args
        fields = self._fields_of(tag)
        for value, type in zip(values, fields, strict=True):
            self._remember(value, type)
        type_index = self.context.tags[tag]
        size = self.context.exception_layout(type_index).size
        reference = self._allocate_fixed(VMGcKind.EXN_REF, size)
        for word, header in (
            (VMTag.tag_instance, VMDrcExnHeader.tag_instance),
            (VMTag.tag_defined, VMDrcExnHeader.tag_defined),
        ):
            self.store_header(self._tag_word(tag, word), reference, header)
        for number, (value, type) in enumerate(zip(values, fields, strict=True)):
            address = self._exception_field(reference, tag, number)
            if isinstance(type, RefType):
                self.context.barriers.init(self, address, value, self.context.shape(type, is_mutable=False), reference)
            else:
                self.store_typed(value, address)
        return reference

    def exn_has_tag(self, exception: ir.Value, tag: int) -> ir.Value:
        """Whether an exception is one of a tag's, as an i1."""
        instance = self.load_header(exception, VMDrcExnHeader.tag_instance)
        defined = self.load_header(exception, VMDrcExnHeader.tag_defined)
        equal = functools.partial(self.builder.icmp_unsigned, "==")
        return self.builder.and_(
            equal(instance, self._tag_word(tag, VMTag.tag_instance)),
            equal(defined, self._tag_word(tag, VMTag.tag_defined)),
        )

    def exn_get(self, exception: ir.Value, tag: int, number: int) -> ir.Value:
        """Read a field of an exception of a tag's."""
        address, type = self._exception_field(exception, tag, number), self._fields_of(tag)[number]
        if isinstance(type, RefType):
            return self.context.barriers.read(self, address, self.context.shape(type, is_mutable=False), exception)
        return self.load_typed(address, llvm_type(type))

    # ------------------------------------------------------------------------------------------------------------------
    # Arrays

    def array_allocate(self, length: ir.Value, type_index: int) -> ir.Value:
        """Make an array whose elements are yet to be initialised."""
        layout, builder = self.context.array_layout(type_index), self.builder
        with self.event("allocate"):
            args = [self.type_id, length]
            call = functools.partial(self._allocate, transitions.ALLOCATE_ARRAY_FUNCTION, args)
            if not self.context.inline_allocation:
                return call()
            most = (SMALL_BLOCK_LIMIT - BLOCK_ALIGN - layout.elements_offset) // layout.element_size
            is_small = builder.icmp_unsigned("<=", length, I32(most))
            size = builder.add(I32(layout.elements_offset), builder.mul(length, I32(layout.element_size)))
            return self._allocate_inline(layout.kind, size, call, is_small=is_small, array_length=length)

    def array_init(self, array: ir.Value, offset: ir.Value, value: ir.Value, type_index: int) -> None:
        """Initialise an element of a new array, `offset` bytes into it: a small constant, once this is inlined.

        LLVM can tell the places of such stores apart at once, where those of an index's it must ask about in pairs.
        """
        address = self.named(self.at(self.heap_address(array), offset), self.context.element_name(type_index))
        self.init(address, value, array, type_index, ELEMENT)

    def array_new(self, value: ir.Value, length: ir.Value, type_index: int) -> ir.Value:
        """`array.new`."""
        self._remember(value, self.context.element(type_index).storage)
        array = self.array_allocate(length, type_index)
        layout, builder = self.context.array_layout(type_index), self.builder
        first = self.at(self.heap_address(array), layout.elements_offset)

        def init(number: ir.Value) -> None:
            # Not u32 arithmetic, as elsewhere: there is room for just these elements, and of this LLVM makes `memset`.
            address = self.at(first, builder.mul(builder.zext(number, I64), I64(layout.element_size)))
            self.init(self.named(address, self.context.element_name(type_index)), value, array, type_index, ELEMENT)

        inline_loop(self, ranges.filled, [length], init)
        return array

    def array_new_default(self, length: ir.Value, type_index: int) -> ir.Value:
        """`array.new_default`."""
        return self.array_new(zero(self, self.context.element(type_index).storage), length, type_index)

    def array_get(self, array: ir.Value, index: ir.Value, *rest: Any) -> ir.Value:
        """`array.get`, `array.get_s` and `array.get_u`; with the array's length, where that `is_known`."""
        *length, type_index, may_be_null, _is_known, is_signed = rest
        self._check(array, may_be_null)
        self._check_index(array, index, *length)
        address = self._element_address(array, type_index, index)
        return self._read_extended(address, array, type_index, ELEMENT, is_signed)

    def array_set(self, array: ir.Value, index: ir.Value, value: ir.Value, *rest: Any) -> None:
        """`array.set`; with the array's length, where that `is_known`."""
        *length, type_index, may_be_null, _is_known = rest
        self._check(array, may_be_null)
        self._check_index(array, index, *length)
        address = self._element_address(array, type_index, index)
        self.write(address, value, array, type_index, ELEMENT)

    def array_len(self, array: ir.Value, may_be_null: bool) -> ir.Value:
        """`array.len`."""
        self._check(array, may_be_null)
        return self._length(array)

    def array_fill(
        self,
        array: ir.Value,
        start: ir.Value,
        value: ir.Value,
        count: ir.Value,
        type_index: int,
        may_be_null: bool,
    ) -> None:
        """`array.fill`."""
        self._check(array, may_be_null)
        self._check_range(array, start, count)
        put = self._range(array, start, count, type_index)

        def write(number: ir.Value) -> None:
            index = self.builder.add(start, number)
            put(self._element_address(array, type_index, index), value, array, type_index, ELEMENT)

        inline_loop(self, ranges.filled, [count], write)

    def array_copy(
        self,
        target: ir.Value,
        target_start: ir.Value,
        source: ir.Value,
        source_start: ir.Value,
        count: ir.Value,
        target_type: int,
        source_type: int,
        target_may_be_null: bool,
        source_may_be_null: bool,
    ) -> None:
        """`array.copy`."""
        # In wasmtime's order, so that a program that could trap in two ways traps in the same one.
        self._check(target, target_may_be_null)
        self._check_range(target, target_start, count)
        self._check(source, source_may_be_null)
        self._check_range(source, source_start, count)
        builder = self.builder
        if self._range(target, target_start, count, target_type) != self.write:
            to = self._element_address(target, target_type, target_start)
            source_place = self._element_address(source, source_type, source_start)
            addresses = [builder.ptrtoint(each, I64) for each in (to, source_place)]
            size = self.context.array_layout(target_type).element_size
            inline_call(self, ranges.move, [*addresses, count, size])
            return

        # Nothing here is a safepoint, so both arrays stay on the list throughout.
        def write(number: ir.Value) -> None:
            from_place = self._element_address(source, source_type, builder.add(source_start, number))
            to_place = self._element_address(target, target_type, builder.add(target_start, number))
            self.write(to_place, self.load_typed(from_place, REFERENCE), target, target_type, ELEMENT)

        inline_loop(self, ranges.copied, [target_start, source_start, count], write)

    def _range(self, array: ir.Value, start: ir.Value, count: ir.Value, type_index: int) -> Callable[..., None]:
        """Return what stores over each element of a range: `write` where a barrier is for each, else `init`."""
        shape = self.context.shape_of_part(type_index, ELEMENT)
        if shape is None or not shape.is_counted:
            return self.init
        if not self.context.barriers.collector.logs_ranges:
            return self.write
        self.context.barriers.log_range(self, self._element_address(array, type_index, start), array, count)
        return self.init

    # ------------------------------------------------------------------------------------------------------------------
    # JavaScript's strings

    def string_difference(self, one: ir.Value, other: ir.Value, end: ir.Value) -> ir.Value:
        """The first place, below `end`, at which two texts differ."""
        return inline_call(self, texts.first_difference, [HEAP, one, other, end])

    def string_unit(self, rope: ir.Value, index: ir.Value, rope_type: int) -> ir.Value:
        """A code unit of a rope that is whole, or what is none."""
        _, left, right = (field.offset for field in self.context.struct_layout(rope_type).fields)
        return inline_call(self, texts.unit_of_whole, [HEAP, rope, index, left, right])

    def string_write(self, rope: ir.Value, into: ir.Value, rope_type: int) -> None:
        """Write a rope into a text of its length."""
        length, left, right = (field.offset for field in self.context.struct_layout(rope_type).fields)
        inline_call(self, texts.write_rope, [HEAP, rope, into, self.type_id, length, left, right])

    # ------------------------------------------------------------------------------------------------------------------
    # Linear memories and data segments

    def memory_grow(self, memory: ir.Value, pages: ir.Value, page_bits: int) -> ir.Value:
        """`memory.grow`, of an i64."""
        return inline_call(self, memory_ranges.grow, [View(memory, VMMemory), pages, page_bits])

    def memory_fill(self, memory: ir.Value, start: ir.Value, value: ir.Value, count: ir.Value) -> None:
        """`memory.fill`, of i64s, as the following are."""
        byte = self.builder.trunc(value, I8)
        self._require_range(memory_ranges.fill, [View(memory, VMMemory), start, byte, count])

    def memory_copy(self, target: ir.Value, source: ir.Value, to: ir.Value, start: ir.Value, count: ir.Value) -> None:
        """`memory.copy`."""
        self._require_range(memory_ranges.copy, [View(target, VMMemory), View(source, VMMemory), to, start, count])

    def memory_init(self, memory: ir.Value, segment: ir.Value, to: ir.Value, start: ir.Value, count: ir.Value) -> None:
        """`memory.init`."""
        views = View(memory, VMMemory), View(segment, VMDataSegment)
        self._require_range(memory_ranges.init, [*views, to, start, count])

    def data_drop(self, segment: ir.Value) -> None:
        """`data.drop`."""
        self.store(0, segment, VMDataSegment.length)

    def _require_range(self, native: Native[..., Any], args: Sequence[Any]) -> None:
        """Trap when a function says that a range was out of bounds."""
        self.trap_if(self.builder.not_(inline_call(self, native, args)), TrapCode.MEMORY_OUT_OF_BOUNDS)

    def array_new_data(self, segment: ir.Value, start: ir.Value, count: ir.Value, type_index: int) -> ir.Value:
        """`array.new_data`."""
        view, size = View(segment, VMDataSegment), self.context.array_layout(type_index).element_size
        self._require_range(memory_ranges.has_elements, [view, start, count, size])
        array = self.array_allocate(count, type_index)
        self._init_elements(array, I32(0), view, start, count, type_index)
        return array

    def array_init_data(
        self,
        array: ir.Value,
        to: ir.Value,
        segment: ir.Value,
        start: ir.Value,
        count: ir.Value,
        type_index: int,
        may_be_null: bool,
    ) -> None:
        """`array.init_data`."""
        view, size = View(segment, VMDataSegment), self.context.array_layout(type_index).element_size
        self._check(array, may_be_null)
        self._check_range(array, to, count)
        self._require_range(memory_ranges.has_elements, [view, start, count, size])
        self._init_elements(array, to, view, start, count, type_index)

    def _init_elements(
        self, array: ir.Value, to: ir.Value, segment: View, start: ir.Value, count: ir.Value, type_index: int
    ) -> None:
        address = self.builder.ptrtoint(self._element_address(array, type_index, to), I64)
        size = self.context.array_layout(type_index).element_size
        inline_call(self, memory_ranges.init_elements, [address, segment, start, count, size])

    # ------------------------------------------------------------------------------------------------------------------
    # Tables and element segments, by the addresses of their `VMTable`s. Indices and counts are i64s.

    def table_get(self, address: ir.Value, shape: Shape) -> ir.Value:
        """`table.get` of a reference that counts."""
        return self.context.barriers.read(self, self.named(address, TABLE), self._held(shape))

    def table_set(self, address: ir.Value, value: ir.Value, shape: Shape) -> None:
        """`table.set` of one."""
        self.context.barriers.write(self, self.named(address, TABLE), value, shape)

    def table_grow(self, table: ir.Value, delta: ir.Value, value: ir.Value, shape: Shape) -> ir.Value:
        """`table.grow`."""
        return self._call_range(table_ranges.grow, [HEAP, View(table, VMTable), delta, value, shape])

    def table_fill(self, table: ir.Value, start: ir.Value, value: ir.Value, count: ir.Value, shape: Shape) -> None:
        """`table.fill`."""
        args = [HEAP, View(table, VMTable), start, value, count, shape]
        self._require_elements(self._call_range(table_ranges.fill, args))

    def table_copy(
        self, target: ir.Value, source: ir.Value, to: ir.Value, start: ir.Value, count: ir.Value, shape: Shape
    ) -> None:
        """`table.copy`, and `table.init`: the source may be a segment."""
        args = [HEAP, View(target, VMTable), View(source, VMTable), to, start, count, shape]
        self._require_elements(self._call_range(table_ranges.copy, args))

    def table_first(self, table: ir.Value, value: ir.Value, shape: Shape) -> None:
        """Give all elements of a new table their first value."""
        length = self.load(table, VMTable.length)
        self._call_range(table_ranges.set_first, [HEAP, View(table, VMTable), I64(0), value, length, shape])

    def elem_first(self, address: ir.Value, value: ir.Value, shape: Shape) -> None:
        """Give an element of a new segment its value."""
        self.context.barriers.init(self, self.named(address, TABLE), value, shape)

    def elem_drop(self, segment: ir.Value, shape: Shape) -> None:
        """`elem.drop`."""
        self._call_range(table_ranges.drop, [HEAP, View(segment, VMTable), shape])

    def _call_range(self, native: Native[..., Any], args: Sequence[Any]) -> Any:
        return self.context.barriers.inline(self, native, args)

    def _require_elements(self, are_there: ir.Value) -> None:
        self.trap_if(self.builder.not_(are_there), TrapCode.TABLE_OUT_OF_BOUNDS)

    def indirect_callee(
        self, table: ir.Value, index: ir.Value, length: int, may_be_null: bool, *wanted: TypeTest | int
    ) -> ir.Value:
        """Return the entry of a function of a table, for a call. `wanted` are a test of its type, and the type.

        They are missing where the table can have no function of another type. Null has a type of its own, so that who
        finds the right one needs not look whether it is null.
        """
        builder = self.builder
        self._require_elements(builder.icmp_unsigned("<", index, table_length(self, table, length)))
        base = self.load_pointer(table, VMTable.base, invariant=True)
        address = self.named(self.at(base, builder.mul(index, I64(REFERENCE_SIZE))), TABLE)
        function = self.load_typed(address, REFERENCE)
        entry = function_entry(self, function)
        if not wanted:
            if may_be_null:
                self.trap_if(self.is_null(function), TrapCode.INDIRECT_CALL_TO_NULL)
            return entry
        test, type_index = wanted
        assert isinstance(test, TypeTest), "a test comes first"
        assert isinstance(type_index, int), "a type follows"
        found, type = self.load(entry, VMFuncRef.type_index), self.type_id
        other, same = self.function.append_basic_block("other_type"), self.function.append_basic_block("callee")
        builder.cbranch(builder.icmp_unsigned("==", found, type), same, other).set_weights([1 << 20, 1])
        builder.position_at_end(other)
        if not test.is_final:
            if may_be_null:
                self.trap_if(self.is_null(function), TrapCode.INDIRECT_CALL_TO_NULL)
            displays = inline_call(self, casts.displays, [HEAP, found, type, test])
            self.trap_if(builder.not_(displays), TrapCode.BAD_SIGNATURE)
            builder.branch(same)
        else:
            code = I32(int(TrapCode.BAD_SIGNATURE))
            if may_be_null:
                code = builder.select(self.is_null(function), I32(int(TrapCode.INDIRECT_CALL_TO_NULL)), code)
            self.trap(code)
        builder.position_at_end(same)
        return entry

    def array_new_elem(self, segment: ir.Value, start: ir.Value, count: ir.Value, type_index: int) -> ir.Value:
        """`array.new_elem`. Start and count are i32s, here and below."""
        self._check_elements(segment, start, count)
        array = self.array_allocate(count, type_index)

        def init(number: ir.Value) -> None:
            value, address = self._element_of_segment(segment, start, number), self._element_address
            self.init(address(array, type_index, number), value, array, type_index, ELEMENT)

        inline_loop(self, ranges.filled, [count], init)
        return array

    def array_init_elem(
        self,
        array: ir.Value,
        to: ir.Value,
        segment: ir.Value,
        start: ir.Value,
        count: ir.Value,
        type_index: int,
        may_be_null: bool,
    ) -> None:
        """`array.init_elem`."""
        self._check(array, may_be_null)
        self._check_range(array, to, count)
        self._check_elements(segment, start, count)
        put = self._range(array, to, count, type_index)

        def write(number: ir.Value) -> None:
            address = self._element_address(array, type_index, self.builder.add(to, number))
            put(address, self._element_of_segment(segment, start, number), array, type_index, ELEMENT)

        inline_loop(self, ranges.filled, [count], write)

    def _check_elements(self, segment: ir.Value, start: ir.Value, count: ir.Value) -> None:
        args = [self.builder.zext(each, I64) for each in (start, count)]
        length = self.load(segment, VMTable.length)
        self._require_elements(inline_call(self, ranges.is_within, [*args, length]))

    def _element_of_segment(self, segment: ir.Value, start: ir.Value, number: ir.Value) -> ir.Value:
        index = self.builder.zext(self.builder.add(start, number), I64)
        base = self.load_pointer(segment, VMTable.base, invariant=True)
        address = self.at(base, self.builder.mul(index, I64(REFERENCE_SIZE)))
        return self.load_typed(self.named(address, TABLE), REFERENCE)

    def atomic_wait(self, is_equal: ir.Value, timeout: ir.Value, interruptible: bool) -> ir.Value:
        """`memory.atomic.wait32` and `wait64`, on shared memory, given whether it has what is expected.

        Nobody can notify who waits, so that it ends by the timeout, of so many nanoseconds, if that is not negative.
        """
        builder = self.builder
        seconds = NANOSECONDS // WAITS_PER_SECOND
        time = self.stack_buffer(2 * ctypes.sizeof(ctypes.c_uint64), ctypes.sizeof(ctypes.c_uint64))
        before = builder.block
        loop, sleep, done = (self.function.append_basic_block(each) for each in ("wait", "sleep", "waited"))
        builder.cbranch(is_equal, loop, done)
        builder.position_at_end(loop)
        left = builder.phi(I64)
        left.add_incoming(timeout, before)
        builder.cbranch(builder.icmp_unsigned("==", left, I64(0)), done, sleep)
        builder.position_at_end(sleep)
        shorter = self.intrinsic("llvm.umin.i64", I64, [I64, I64])
        slice = builder.call(shorter, [left, I64(seconds)])
        self.store_typed(I64(0), time)
        self.store_typed(slice, self.at(time, ctypes.sizeof(ctypes.c_uint64)))
        builder.call(self.declare(NANOSLEEP, I32, [PTR, PTR]), [time, PTR(None)])
        if interruptible:
            self.poll()
        is_endless = builder.icmp_signed("<", left, I64(0))
        left.add_incoming(builder.select(is_endless, left, builder.sub(left, slice)), builder.block)
        builder.branch(loop)
        builder.position_at_end(done)
        result = builder.phi(I32)
        result.add_incoming(I32(WAIT_NOT_EQUAL), before)
        result.add_incoming(I32(WAIT_TIMED_OUT), loop)
        return result

    def _element_address(self, array: ir.Value, type_index: int, index: ir.Value) -> ir.Value:
        layout = self.context.array_layout(type_index)
        scaled = self.builder.mul(index, I32(layout.element_size))
        address = self.at(self.heap_address(array, scaled), layout.elements_offset)
        return self.named(address, self.context.element_name(type_index))

    def _length(self, array: ir.Value) -> ir.Value:
        return self.load_header(array, VMDrcArrayHeader.length)

    def _check_index(self, array: ir.Value, index: ir.Value, *length: ir.Value) -> None:
        if length:
            inside = self.builder.icmp_unsigned("<", index, *length)
        else:
            inside = inline_call(self, ranges.has_element, [HEAP, array, index])
        self.trap_if(self.builder.not_(inside), TrapCode.ARRAY_OUT_OF_BOUNDS)

    def _check_range(self, array: ir.Value, start: ir.Value, count: ir.Value) -> None:
        inside = inline_call(self, ranges.has_range, [HEAP, array, start, count])
        self.trap_if(self.builder.not_(inside), TrapCode.ARRAY_OUT_OF_BOUNDS)


_COLLECTING = frozenset(
    (
        "exn_new",
        "struct_new",
        "struct_new_default",
        "array_allocate",
        "array_new",
        "array_new_default",
        "array_new_data",
        "array_new_elem",
    )
)
"""The events that are safepoints."""

_DIGITS = 20
"""So many digits of a hash tell all events of a module apart."""

_ALWAYS_INLINED = frozenset(("stack_poll", "poll"))
"""The events that look at the frame that they are in, and tell of it; `stack_check` need not be in just that one."""

_TESTING = {"cast": 1, "is_instance": 1, "indirect_callee": 3, "string_write": 0}
"""The events that test for one of the module's types: behind so many static arguments, it may be missing."""

_READING = frozenset(("struct_get", "array_get", "global_get", "table_get"))
_WRITING = {
    **dict.fromkeys(("struct_set", "array_set", "global_set", "table_set"), Writes.ONE),
    **dict.fromkeys(("array_fill", "array_copy", "array_init_elem"), Writes.RANGE),
    **dict.fromkeys(("table_fill", "table_copy", "elem_drop"), Writes.RANGE),
}
_SHAPED = {
    "global_get": "read",
    "global_set": "write",
    "global_init": "init",
    "table_get": "read",
    "table_set": "write",
    "elem_first": "init",
}
"""The events that are given their shape: the collector's event that it is for."""

_KINDS = {
    AbstractHeapType.EQ: VMGcKind.EQ_REF,
    AbstractHeapType.STRUCT: VMGcKind.STRUCT_REF,
    AbstractHeapType.ARRAY: VMGcKind.ARRAY_REF,
}


def type_test(types: TypeRegistry, source: RefType, target: RefType) -> TypeTest:
    """Return the test of a reference of static type `source` for the type `target`, which has a supertype with it.

    Both types' indices are the engine's.
    """
    wanted = target.heap_type
    common: dict[str, Any] = {"may_be_null": source.nullable, "null_passes": target.nullable}
    if types.top(source.heap_type) is AbstractHeapType.FUNC:
        common["is_function"] = True
    else:
        heap_types = AbstractHeapType.ANY, AbstractHeapType.EQ, AbstractHeapType.I31
        common["may_be_i31"] = source.heap_type in heap_types
        common["i31_passes"] = wanted in (AbstractHeapType.EQ, AbstractHeapType.I31)
    if wanted is AbstractHeapType.I31:
        return TypeTest(**common, only_i31=True)
    if isinstance(wanted, AbstractHeapType):
        return TypeTest(**common, by_kind=True, kind=_KINDS[wanted])
    return TypeTest(
        **common,
        may_be_externref=source.heap_type is AbstractHeapType.ANY,
        is_final=types[wanted].final,
        knows_depth=True,
        depth=len(types.supertypes(wanted)) - 1,
    )


def zero(emitter: Emitter, storage: StorageType) -> ir.Value:
    """Return a storage type's default value, as it is on the operand stack: packed types are i32 there."""
    if isinstance(storage, PackedType):
        return I32(0)
    if storage in (NumType.F32, NumType.F64):
        return float_constant(emitter, llvm_type(storage), 0)
    return ir.Constant(llvm_type(storage), None if isinstance(storage, VectorType) else 0)


def _type_id(emitter: Emitter, type_index: ir.Value) -> ir.Value:
    """Emit the engine's index of one of the module's types."""
    ids = emitter.load_pointer(emitter.vmctx, VMContext.type_ids, invariant=True)
    return emitter.load_typed(entry_of(emitter, ids, type_index, ctypes.c_uint32), I32, invariant=True)


def function_entry(emitter: Emitter, function: ir.Value) -> ir.Value:
    """Emit the address of a funcref's entry in the store's function table."""
    table = emitter.at(emitter.store_context, FUNCTION_TABLE_OFFSET)
    return entry_of(emitter, table, function, VMFuncRef)


def table_length(emitter: Emitter, place: ir.Value, fixed: int) -> ir.Value:
    """Emit how many elements the table has that is at a place: `fixed`, if that is not `ANY_LENGTH`."""
    if fixed != ANY_LENGTH:
        return I64(fixed)
    return emitter.load_typed(emitter.named(emitter.at(place, VMTable.length.offset), TABLE_LENGTH), I64)


def entry_of(
    emitter: Emitter, table: ir.Value, index: ir.Value, structure: type[ctypes.Structure | ctypes.c_uint32]
) -> ir.Value:
    """Emit the address of an entry, a structure or a number, in a table of them."""
    builder = emitter.builder
    return emitter.at(table, builder.mul(builder.zext(index, I64), I64(ctypes.sizeof(structure))))


# --- The functions, and the rule for inlining them --------------------------------------------------------------------


@dataclass(slots=True)
class _Read:
    """A call of an event that reads a reference: what its function was made for, and where it is, see `_Sites`."""

    call: ir.CallInstr
    event: str
    static: Sequence[Static]
    in_loop: bool
    again: bool
    is_cold: bool


@dataclass(slots=True)
class _Sites:
    """The calls of events in one function: of tiny ones, in its loops, in a loop's second version, and all others.

    Where the collector asks how long a reference that it reads is held: the reads, and what each call writes, by id.
    """

    runs_once: bool
    tiny: list[ir.CallInstr] = field(default_factory=list)
    in_loops: list[ir.CallInstr] = field(default_factory=list)
    again: list[ir.CallInstr] = field(default_factory=list)
    others: list[ir.CallInstr] = field(default_factory=list)
    reads: list[_Read] = field(default_factory=list)
    writes: dict[int, Writes] = field(default_factory=dict)


@dataclass(slots=True)
class SharedEvents:
    """The events' functions that pieces of a module share: the names of those that others have, and that this has."""

    known: Collection[str]
    defined: list[str] = field(default_factory=list)


class EventFunctions:
    """The functions for the events of one module, and where they are called."""

    def __init__(
        self, context: ModuleContext, module: ir.Module, inline: str, shared: SharedEvents | None = None
    ) -> None:
        """Start without any. `inline` is an engine's. Those that are `shared` are not made again, nor inlined."""
        self.context = context
        self._module = module
        self._inline = inline
        self._shared = shared
        self._functions: dict[tuple[Any, ...], ir.Function] = {}
        self._known_parts: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._tiny: set[str] = set()  # their names
        self._functions_with_sites: list[_Sites] = []
        collector = context.barriers.collector
        self._asked = {event: collector.reads(event) for event in ("read", "write", "init")}
        asked = self._asked["read"]
        self._asks_safepoint = asked is None or "outlives_safepoint" in asked
        self._asks_write = asked is None or "outlives_write" in asked

    def begin(self, *, runs_once: bool = False) -> _Sites:
        """Say that the sites to come are those of another function. Returns what `call` is told."""
        self._functions_with_sites.append(_Sites(runs_once))
        return self._functions_with_sites[-1]

    def call(
        self,
        site: Emitter,
        sites: _Sites,
        event: str,
        result: ir.Type,
        args: Sequence[ir.Value],
        static: Sequence[Static],
        *,
        in_loop: bool,
        again: bool = False,
        is_one_of_many: bool = False,
        is_cold: bool = False,
        around: tuple[int, ...] = (),
    ) -> ir.CallInstr:
        """Emit a call of an event's function, which is made at its first use.

        `again`: in the second version of a loop that is had twice.
        `is_one_of_many`: of more than `MOST_INLINED` for one instruction, which are called, tiny or not; so are those
        where code `is_cold`. `around` are the offsets of the calls in whose place it is.
        """
        if event in _SHAPED:
            shape, *others = static
            assert isinstance(shape, Shape), "the event of a slot in no object is given its shape"
            static = shape.only(self._asked[_SHAPED[event]]), *others
        function = self.function(event, result, [arg.type for arg in args], static)
        type_index = self._type_of(event, static)
        args = [site.vmctx, site.offset_value(), *([] if type_index is None else [I32(type_index)]), *args]
        if event in _COLLECTING:
            with site.event("safepoint"):
                call = safepoints.call(site.builder, function, args, places=around)
        else:
            call = site.builder.call(function, args)
        if self._asks_safepoint or self._asks_write:
            is_reference = self._is_of_reference(event, static)
            sites.writes[id(call)] = _WRITING.get(event, Writes.NONE) if is_reference else Writes.NONE
            if event in _READING and is_reference:
                # Which function it calls, and where it belongs, is known when the caller is complete.
                sites.reads.append(_Read(call, event, static, in_loop, again, is_cold))
                return call
        self._add(sites, call, in_loop, again, is_one_of_many or is_cold)
        return call

    def _add(self, sites: _Sites, call: ir.CallInstr, in_loop: bool, again: bool, is_called: bool) -> None:
        if is_called:
            call.attributes.add("noinline")
        elif call.callee.name in self._tiny:
            sites.tiny.append(call)
        elif again:
            sites.again.append(call)
        else:
            (sites.in_loops if in_loop else sites.others).append(call)

    def _is_of_reference(self, event: str, static: Sequence[Static]) -> bool:
        """Whether what an event reads or writes is a reference."""
        if event.startswith(("global_", "table_", "elem_")):
            return True
        if event not in _READING and event not in _WRITING:
            return False
        type_index, number, *_ = static
        assert isinstance(type_index, int), "an event's first static argument is a type"
        number = number if event.startswith("struct_") else ELEMENT
        assert isinstance(number, int), "a field's number follows"
        return self.context.shape_of_part(type_index, number) is not None

    def complete(self, sites: _Sites, liveness: safepoints.Liveness) -> None:
        """Now that a function is complete, have each of its reads call the event for as long as the reference is held.

        Only where the collector asks for that.
        """
        if not sites.reads:
            return
        held = lifetimes(liveness, sites.writes)
        for read in sites.reads:
            known = held.get(id(read.call), UNKNOWN)
            lifetime = Lifetime(
                known.outlives_safepoint or not self._asks_safepoint, known.outlives_write or not self._asks_write
            )
            if lifetime != UNKNOWN:
                types = [arg.type for arg in read.call.args[2:]]  # what reads is for no type
                read.call.replace_callee(self.function(read.event, read.call.type, types, read.static, lifetime))
            self._add(sites, read.call, read.in_loop, read.again, read.is_cold)

    def choose(self) -> None:
        """Now that the module is complete, decide at which sites events are inlined, first thing, and where called.

        - In a function that runs once, the initialiser, all are called; and in a module that is not optimised; and
          where the next thing is a throw or a trap.
        - An event of no more than `SMALL_BODY` instructions is inlined in all others.
        - A barrier set whose `called` is true has the larger ones called everywhere.
        - In a function with no more than `MOST_INLINED` of them they are inlined. If there are more, those in its loops
          are inlined, if they are not too many themselves, and the rest is called.
        - What a loop's second version has is not counted: it is inlined where the loops of its function have theirs.
        - If that leaves more than `MOST_OUTSIDE_LOOPS` to be inlined outside of the loops of the module's functions,
          all those are called instead; likewise with `MOST_IN_LOOPS`.

        The engine may be told to inline, or to call, all the larger ones. LLVM never inlines what is to be called.
        """
        is_plain = not tells_aliases(self._module)
        is_called = is_plain or self.context.barriers.collector.called
        never = self._inline == "never" or (self._inline == "auto" and is_called)
        always = self._inline == "always"
        in_loops: list[ir.CallInstr] = []
        again: list[ir.CallInstr] = []
        others: list[ir.CallInstr] = []
        for sites in self._functions_with_sites:
            _mark(sites.tiny, always or not (sites.runs_once or is_plain))
            if not (always or never or sites.runs_once):
                count = len(sites.in_loops)
                may_inline_loops, may_inline = count <= MOST_INLINED, count + len(sites.others) <= MOST_INLINED
            else:
                may_inline_loops = may_inline = always
            for calls, may, chosen in (
                (sites.in_loops, may_inline_loops, in_loops),
                (sites.again, may_inline_loops, again),
                (sites.others, may_inline, others),
            ):
                if may:
                    chosen += calls
                else:
                    _mark(calls, False)
        _mark(in_loops + again, always or len(in_loops) <= MOST_IN_LOOPS)
        _mark(others, always or len(others) <= MOST_OUTSIDE_LOOPS)
        self._functions_with_sites.clear()

    def function(
        self,
        event: str,
        result: ir.Type,
        argument_types: Sequence[ir.Type],
        static: Sequence[Static],
        lifetime: Lifetime = UNKNOWN,
    ) -> ir.Function:
        """Return the function of an event with these static arguments, made at its first use.

        Its arguments are a vmctx, the offset of an instruction, for some events a type's index, and then the event's.
        `lifetime` is that of what it reads.
        """
        key = (event, *self._only_what_counts(event, static), lifetime)
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = self._declare(key, event, result, argument_types, static, lifetime)
            if sum(len(block.instructions) for block in function.blocks) <= SMALL_BODY:
                self._tiny.add(function.name)
        return function

    def _type_of(self, event: str, static: Sequence[Static]) -> int | None:
        """The module's index of the type whose index, the engine's, an event's function is given."""
        if event in _COLLECTING:  # the last says of which type what it makes is; of an exception, of which tag
            found = static[-1]
        elif event in _TESTING and len(static) > _TESTING[event]:
            found = static[_TESTING[event]]
        else:
            return None
        assert isinstance(found, int), "a type's index"
        return self.context.tags[found] if event == "exn_new" else found

    def _only_what_counts(self, event: str, static: Sequence[Static]) -> tuple[Any, ...]:
        """Static arguments, of types only what the code of an event depends on: so that types share functions."""
        if event in ("struct_get", "struct_set"):
            type_index, number, *others = static
            assert isinstance(type_index, int), "a type's index"
            assert isinstance(number, int), "a field's number"
            return self._what_counts(event, type_index, number), *others
        if event in ("struct_new", "struct_new_default"):
            (type_index,) = static
            assert isinstance(type_index, int), "a type's index"
            numbers = range(len(self.context.fields(type_index)))
            fields = (self._what_counts(event, type_index, number) for number in numbers)
            layout = self.context.struct_layout(type_index)
            return layout.kind, layout.size, *fields
        if event.startswith("array_"):
            return tuple(
                self._what_counts(event, each, ELEMENT)
                if isinstance(each, int) and not isinstance(each, bool)
                else each
                for each in static
            )
        if event in _TESTING:
            return *static[: _TESTING[event]], len(static) > _TESTING[event]
        return tuple(static)

    def _what_counts(self, event: str, type_index: int, number: int) -> tuple[Any, ...]:
        """What the code of an event depends on, of a field or of an array's elements."""
        asked = self._asked["write" if event in _WRITING else "read" if event in _READING else "init"]
        key = type_index, number, None if asked is None else frozenset(asked)
        found = self._known_parts.get(key)
        if found is None:
            context = self.context
            place: tuple[Any, ...]
            if number == ELEMENT:
                layout = context.array_layout(type_index)
                place = layout.kind, layout.elements_offset, layout.element_size
                name = context.element_name(type_index)
            else:
                place = (context.struct_layout(type_index).fields[number].offset,)
                name = context.field_name(type_index, number)
            if tells_aliases(self._module):
                place += (name,)
            shape = context.shape_of_part(type_index, number)
            storage = context.part(type_index, number).storage if shape is None else shape.only(asked)
            found = self._known_parts[key] = *place, storage, shape is not None and shape.is_counted
        return found

    def _declare(
        self,
        key: tuple[Any, ...],
        event: str,
        result: ir.Type,
        argument_types: Sequence[ir.Type],
        static: Sequence[Static],
        lifetime: Lifetime,
    ) -> ir.Function:
        shared = self._shared if event not in _ALWAYS_INLINED else None
        if shared is None:
            name = ".".join(("lowheap", event, *map(_label, static)))
            name += ".no_safepoint" * (not lifetime.outlives_safepoint) + ".no_write" * (not lifetime.outlives_write)
        else:  # the same in all processes, for all that it depends on
            name = _shared_name(key)
        is_for_type = self._type_of(event, static) is not None
        first = [PTR, I32, *[I32] * is_for_type]
        function = NativeFunction(self._module, ir.FunctionType(result, [*first, *argument_types]), name)
        if shared is None:
            function.linkage = "internal"
        elif name in shared.known:
            return function
        else:
            shared.defined.append(name)
        with self._module.apart() if isinstance(self._module, MarkedModule) else nullcontext():
            emitter = EventEmitter(
                self.context,
                function,
                lifetime,
                is_for_type=is_for_type,
                shared=None if self._shared is None else self,
            )
            value = getattr(emitter, event)(*function.args[len(first) :], *static)
            if value is None:
                emitter.builder.ret_void()
            else:
                emitter.builder.ret(value)
        safepoints.fill_safepoints(function, emitter.references)
        return function


@functools.lru_cache(maxsize=1 << 12)
def _shared_name(key: tuple[Any, ...]) -> str:
    """The name of an event's function that pieces share, by the event and what the function depends on."""
    return f"lowheap.{key[0]}.{hashlib.sha256(repr(key).encode()).hexdigest()[:_DIGITS]}"


def _mark(calls: Sequence[ir.CallInstr], is_inlined: bool) -> None:
    """Tell LLVM to inline calls, or not to."""
    for call in calls:
        call.attributes.add("alwaysinline" if is_inlined else "noinline")


def _label(static: Static) -> str:
    """What a static argument adds to a function's name."""
    if isinstance(static, Shape | TypeTest):
        return static.key.replace("-", "_")  # names that LLVM need not quote
    return str(static).lower().replace(" ", "_")
