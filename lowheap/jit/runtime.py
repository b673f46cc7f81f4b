"""The heap and the collector again, as LLVM IR: allocate, drop, trace, sweep, coalesce, grow.

Each function here does what its namesake in `heap.py`, `collector.py`, `allocator.py` or `store.py` does, on the same
bytes; read those for why. Python and this code may take turns at any moment between two calls. Compiled once in a
process, and reached from compiled modules through the store context, it takes part as C functions:

    void     lh_drop(vmctx, reference)                      take the last count of an object, and free what dies of it
    uint32_t lh_allocate_struct(vmctx, type index)          a new object with one count; 0 with a trap code set: no room
    uint32_t lh_allocate_array(vmctx, type index, length)   likewise
    uint32_t lh_collect_all(vmctx)                          trace, sweep and free all; 0, or 1: an unknown frame
    void     lh_free_dead(vmctx)                            free what is on the dead list

and those that a collection with a budget is made of:

    uint32_t lh_trace(vmctx)                                mark what compiled code holds; 0, or 1: an unknown frame
    void     lh_sweep_pending(vmctx)                        sweep; what dies goes on the list of pending dead objects
    uint32_t lh_free_pending(vmctx, uint64_t budget)        free so many of these; 1 when some are left, else 0

Compiled modules emit the fast path of allocation inline (`emit_pop`), for structs and arrays whose blocks are small,
and come here when a size class is empty. Then a run of blocks is carved from fresh memory or a larger block, and all
but the first go on the class's list.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llvmlite import ir

from lowheap.allocator import COALESCING_FRACTION
from lowheap.errors import TrapCode
from lowheap.jit import cache
from lowheap.jit.emit import I1, I32, I64, PTR, REFERENCE, VOID, Emitter, NativeFunction, Variable
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.root_frames import SLOT_SIZE
from lowheap.jit.stackmaps import Architecture, host_architecture
from lowheap.jit.transitions import RELEASE_DEAD_EXTERNREFS
from lowheap.layout import (
    BLOCK_ALIGN,
    CONTROL_UNCOUNTED,
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    I31_TAG,
    MAXIMUM_CAPACITY,
    NULL,
    REFERENCE_SIZE,
    SIZE_CLASS_COUNT,
    SMALL_BLOCK_LIMIT,
    SMALL_CLASS_COUNT,
    STACK_MAP_HASH_MULTIPLIER,
    STACK_MAP_HASH_SHIFT,
    TYPE_LIMIT,
    Field,
    FreeBlock,
    VMActivation,
    VMDrcArrayHeader,
    VMDrcHeader,
    VMGcKind,
    VMHeapControl,
    VMRootFrame,
    VMStackMapEntry,
    VMStackSlot,
    VMStoreContext,
    VMTypeInfo,
)
from lowheap.store import GROWTH_GRANULE, LIST_FLOOR, PENDING_PORTION

ALLOCATE_STRUCT = "lh_allocate_struct"
ALLOCATE_ARRAY = "lh_allocate_array"
DROP = "lh_drop"
COLLECT = "lh_collect_all"
FREE_DEAD = "lh_free_dead"
TRACE = "lh_trace"
SWEEP_PENDING = "lh_sweep_pending"
FREE_PENDING = "lh_free_pending"
SYMBOLS = (ALLOCATE_STRUCT, ALLOCATE_ARRAY, DROP, COLLECT, FREE_DEAD, TRACE, SWEEP_PENDING, FREE_PENDING)

UNLIMITED = (1 << 64) - 1
"""The budget that frees all pending dead objects."""

SIZE_CLASS_NAME = "size class"
"""What alias analysis calls the heads of the size classes."""

# A run of blocks is carved at once, of at most so many bytes, and at most that part of the capacity.
_RUN_BYTES = 1 << 14
_RUN_FRACTION = 64


_loaded: list[LoadedCode] = []


def load(cache_directory: Path | None = None) -> LoadedCode:
    """Return the runtime, compiled at the first use in this process, or taken from the cache that is named then."""
    if not _loaded:
        _loaded.append(LoadedCode(cache.compiled(cache_directory, {"runtime": "native"}, _compile)))
    return _loaded[0]


def _compile() -> CompiledCode:
    module = ir.Module("lowheap.runtime")
    RuntimeEmitter.define_all(module)
    return compile_ir(module, SYMBOLS)


def emit_pop(emitter: Emitter, length: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Emit a look at the list of blocks of exactly `length` bytes, an i32 and of a small class.

    Returns its head, and the address of where the list keeps it: the caller checks the head for null, and if it is not,
    stores the block's `next` there.
    """
    builder = emitter.builder
    number = builder.zext(builder.udiv(length, I32(BLOCK_ALIGN)), I64)
    heads = emitter.at(emitter.control, VMHeapControl.size_class_heads.offset)
    place = emitter.named(emitter.at(heads, builder.mul(number, I64(REFERENCE_SIZE))), SIZE_CLASS_NAME)
    return emitter.load_typed(place, REFERENCE), place


class RuntimeEmitter(Emitter):
    """Emits one of the runtime's functions; the methods are the pieces they are made of."""

    @classmethod
    def define_all(cls, module: ir.Module) -> None:
        """Give a module the whole runtime."""
        cls._define(module, "lh.free_dead_from", VOID, [REFERENCE], cls._free_dead_from, internal=True)
        cls._define(module, FREE_DEAD, VOID, [], cls._free_dead)
        cls._define(module, DROP, VOID, [REFERENCE], cls._drop)
        cls._define(module, TRACE, I32, [], cls._trace)
        cls._define(module, "lh.clear_marks", VOID, [], cls._clear_marks, internal=True)
        cls._define(module, "lh.sweep", VOID, [], cls._sweep, internal=True)
        cls._define(module, SWEEP_PENDING, VOID, [], cls._sweep_pending)
        cls._define(module, FREE_PENDING, I32, [I64], cls._free_pending)
        cls._define(module, COLLECT, I32, [], cls._collect)
        cls._define(module, "lh.coalesce", VOID, [], cls._coalesce, internal=True)
        cls._define(module, "lh.carve", REFERENCE, [I32], cls._carve, internal=True)
        cls._define(module, "lh.grow", I32, [I32], cls._grow, internal=True)
        cls._define(module, "lh.allocate_block", REFERENCE, [I32], cls._allocate_block, internal=True)
        cls._define(module, ALLOCATE_STRUCT, REFERENCE, [I32], cls._allocate_struct)
        cls._define(module, ALLOCATE_ARRAY, REFERENCE, [I32, I32], cls._allocate_array)

    @classmethod
    def _define(
        cls,
        module: ir.Module,
        name: str,
        result: ir.Type,
        params: list[ir.Type],
        body: Callable[..., ir.Value | None],
        *,
        internal: bool = False,
    ) -> None:
        function = NativeFunction(module, ir.FunctionType(result, [PTR, *params]), name)
        if internal:
            function.linkage = "internal"
        emitter = cls(function)
        value = body(emitter, *function.args[1:])
        if not emitter.builder.block.is_terminated:
            if value is None:
                emitter.builder.ret_void()
            else:
                emitter.builder.ret(value)

    @classmethod
    def frame_rules(cls) -> Architecture | None:
        """How frames of compiled code are walked; None where there can be none of them."""
        return host_architecture()

    # ------------------------------------------------------------------------------------------------------------------
    # Small pieces

    def _call(self, name: str, *args: ir.Value) -> ir.Value:
        return self.builder.call(self.module.globals[name], [self.vmctx, *args])

    def _control(self, field: Field) -> ir.Value:
        return self.load(self.control, field)

    def _set_control(self, field: Field, value: ir.Value | int) -> None:
        self.store(value, self.control, field)

    def _add_to_control(self, field: Field, difference: ir.Value) -> None:
        self._set_control(field, self.builder.add(self._control(field), difference))

    def _compare(self, operator: str, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.builder.icmp_unsigned(operator, a, a.type(b) if isinstance(b, int) else b)

    def _is_object(self, reference: ir.Value) -> ir.Value:
        # Not `is_object`: in the loop over an object's fields, LLVM makes fewer moves of this, and drops of trees that
        # are in the cache are 4 % faster.
        no_i31 = self._compare("==", self.builder.and_(reference, REFERENCE(I31_TAG)), 0)
        return self.builder.and_(no_i31, self._compare("!=", reference, NULL))

    def _flag(self, word: ir.Value, bit: int) -> ir.Value:
        return self._compare("!=", self.builder.and_(word, word.type(bit)), 0)

    def _block_length(self, size: ir.Value) -> ir.Value:
        rounded = self.builder.add(size, size.type(BLOCK_ALIGN - 1))
        return self.builder.and_(rounded, size.type(-BLOCK_ALIGN))

    def _minimum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self._compare("<", a, b), a, b)

    def _maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.select(self._compare(">", a, b), a, b)

    # ------------------------------------------------------------------------------------------------------------------
    # Size classes and free blocks: `layout.size_class`, `SegregatedFit`

    def _size_class(self, length: ir.Value) -> ir.Value:
        builder = self.builder
        leading = builder.call(self.intrinsic("llvm.ctlz.i32", I32, [I32, ir.IntType(1)]), [length, ir.IntType(1)(0)])
        bits = builder.sub(I32(I32.width), leading)
        coarse = builder.add(bits, I32(SMALL_CLASS_COUNT - SMALL_BLOCK_LIMIT.bit_length()))
        return builder.select(self._compare("<", length, SMALL_BLOCK_LIMIT), self._exact_class(length), coarse)

    def _exact_class(self, length: ir.Value) -> ir.Value:
        return self.builder.udiv(length, I32(BLOCK_ALIGN))

    def _class_head(self, number: ir.Value) -> ir.Value:
        """The address of a size class's head."""
        offset = self.builder.mul(self.builder.zext(number, I64), I64(REFERENCE_SIZE))
        heads = self.at(self.control, VMHeapControl.size_class_heads.offset)
        return self.named(self.at(heads, offset), SIZE_CLASS_NAME)

    def _push_free(self, index: ir.Value, length: ir.Value, flags: ir.Value | int) -> None:
        with self.builder.if_else(self._compare("<", length, SMALL_BLOCK_LIMIT), likely=True) as (small, large):
            with small:
                self._push_free_to(self._class_head(self._exact_class(length)), index, length, flags)
            with large:
                self._push_free_to(self._class_head(self._size_class(length)), index, length, flags)

    def _push_free_to(self, head: ir.Value, index: ir.Value, length: ir.Value, flags: ir.Value | int) -> None:
        block = self.heap_address(index)
        self._store_pair(block, FreeBlock.kind_and_reserved, 0, FreeBlock.length, length)
        self._store_pair(block, FreeBlock.next, self.load_typed(head, REFERENCE), FreeBlock.flags, flags)
        self.store_typed(index, head)

    def _store_pair(
        self, base: ir.Value, low: Field, low_value: ir.Value | int, high: Field, high_value: ir.Value | int
    ) -> None:
        """Store two neighbouring u32 fields in one store."""
        assert (low.size, high.size, high.offset - low.offset) == (4, 4, 4), "two neighbours of 32 bits"

        def widened(value: ir.Value | int) -> ir.Value:
            return I64(value) if isinstance(value, int) else self.builder.zext(value, I64)

        upper = self.builder.shl(widened(high_value), I64(8 * high.size))
        self.store_typed(self.builder.or_(widened(low_value), upper), self.at(base, low.offset))

    # ------------------------------------------------------------------------------------------------------------------
    # Dropping: `DrcHeap.drop_gc_ref`, `_free_dead`

    def _drop(self, reference: ir.Value) -> None:
        self.store_header(0, reference, VMDrcHeader.ref_count)
        self.store_header(NULL, reference, VMDrcHeader.next_over_approximated_stack_root)
        self._call("lh.free_dead_from", reference)

    def _free_dead(self) -> None:
        dead = self._control(VMHeapControl.dead_list)
        self._set_control(VMHeapControl.dead_list, NULL)
        self._call("lh.free_dead_from", dead)

    def _free_dead_from(self, first: ir.Value) -> None:
        freed = self._freed()
        self._free_chain(self.variable(first), freed)
        self._count_freed(freed)

    def _freed(self) -> tuple[Variable, Variable]:
        """Variables for how many objects, and bytes, are being freed."""
        return self.variable(I64(0)), self.variable(I64(0))

    def _count_freed(self, freed: tuple[Variable, Variable]) -> None:
        objects, bytes_freed = freed
        self._add_to_control(VMHeapControl.objects_freed, objects.value)
        self._add_to_control(VMHeapControl.bytes_freed, bytes_freed.value)

    def _free_chain(self, dead: Variable, freed: tuple[Variable, Variable]) -> None:
        """Free a chain of dead objects, each linking to the next, and what thereby dies."""
        with self.loop() as loop:
            reference = dead.value
            loop.leave_if(self._compare("==", reference, NULL))
            dead.value = self.load_header(reference, VMDrcHeader.next_over_approximated_stack_root)
            self._free_object(reference, dead, freed)

    def _free_object(self, reference: ir.Value, dead: Variable, freed: tuple[Variable, Variable]) -> None:
        """Free one object; those that thereby lose their last owner go in front of the dead."""
        builder = self.builder
        objects, bytes_freed = freed
        type_index = self.load_header(reference, VMDrcHeader.type_index)
        is_externref = self._compare("==", type_index, EXTERNREF_TYPE_INDEX)
        with builder.if_else(is_externref, likely=False) as (externref, typed):
            with externref:  # the host frees it, when it has let go of its host data
                following = self._control(VMHeapControl.dead_externrefs)
                self.store_header(0, reference, VMDrcHeader.ref_count)
                self.store_header(VMGcKind.EXTERN_REF, reference, VMDrcHeader.kind_and_reserved)
                self.store_header(following, reference, VMDrcHeader.next_over_approximated_stack_root)
                self._set_control(VMHeapControl.dead_externrefs, reference)
            with typed:
                self._drop_children(reference, self._type_info(type_index), dead)
                length = self._block_length(self.load_header(reference, VMDrcHeader.object_size))
                self._push_free(reference, length, 0)
                objects.value = builder.add(objects.value, I64(1))
                bytes_freed.value = builder.add(bytes_freed.value, builder.zext(length, I64))

    def _type_info(self, type_index: ir.Value) -> ir.Value:
        table = self.load_pointer(self.control, VMHeapControl.type_table, invariant=True)
        type_index = self.builder.and_(type_index, I32(TYPE_LIMIT - 1))  # however corrupt, it stays in the table
        offset = self.builder.mul(self.builder.zext(type_index, I64), I64(ctypes.sizeof(VMTypeInfo)))
        return self.at(table, offset)

    def _drop_children(self, reference: ir.Value, info: ir.Value, dead: Variable) -> None:
        """Take a count from all that an object refers to; those that have none left go in front of the dead."""
        builder = self.builder
        mask = self.variable(self.load(info, VMTypeInfo.traced_mask, invariant=True))
        fields = self.heap_address(reference, HEADER_SIZE)
        first_set = self.intrinsic("llvm.cttz.i64", I64, [I64, I1])
        with self.loop() as bits:
            current = mask.value
            bits.leave_if(self._compare("==", current, 0))
            offset = builder.mul(builder.call(first_set, [current, I1(1)]), I64(REFERENCE_SIZE))
            self._drop_child(self.load_typed(self.at(fields, offset), REFERENCE), dead)
            mask.value = builder.and_(current, builder.sub(current, I64(1)))
        has_more = self._compare("!=", self.load(info, VMTypeInfo.is_beyond_mask, invariant=True), 0)
        with builder.if_then(has_more, likely=False):
            self._drop_children_beyond_mask(reference, info, dead)

    def _drop_children_beyond_mask(self, reference: ir.Value, info: ir.Value, dead: Variable) -> None:
        """The same for an array of references, and for a struct that is too large for its mask."""
        builder = self.builder
        is_array = self._compare("==", self.load(info, VMTypeInfo.kind, invariant=True), VMGcKind.ARRAY_REF)
        with builder.if_else(is_array) as (array, struct):
            with array:
                start = self.load(info, VMTypeInfo.size_or_elements_offset, invariant=True)
                elements = self.heap_address(reference, start)
                with self._each(self.load_header(reference, VMDrcArrayHeader.length)) as number:
                    offset = builder.mul(builder.zext(number, I64), I64(REFERENCE_SIZE))
                    self._drop_child(self.load_typed(self.at(elements, offset), REFERENCE), dead)
            with struct:
                data = self.load_pointer(self.control, VMHeapControl.type_data, invariant=True)
                start = builder.zext(self.load(info, VMTypeInfo.traced_offsets_start, invariant=True), I64)
                offsets = self.at(data, builder.mul(start, I64(REFERENCE_SIZE)))
                fields = self.heap_address(reference)
                with self._each(self.load(info, VMTypeInfo.traced_count, invariant=True)) as number:
                    place = self.at(offsets, builder.mul(builder.zext(number, I64), I64(REFERENCE_SIZE)))
                    offset = builder.zext(self.load_typed(place, I32, invariant=True), I64)
                    self._drop_child(self.load_typed(self.at(fields, offset), REFERENCE), dead)

    def _drop_child(self, child: ir.Value, dead: Variable) -> None:
        with self.builder.if_then(self._is_object(child)):
            self._decrement(child, dead)

    def _decrement(self, reference: ir.Value, dead: Variable) -> None:
        """Take one count; with the last, the object goes in front of the dead."""
        count = self.builder.sub(self.load_header(reference, VMDrcHeader.ref_count), I64(1))
        self.store_header(count, reference, VMDrcHeader.ref_count)
        with self.builder.if_then(self._compare("==", count, 0)):
            self.store_header(dead.value, reference, VMDrcHeader.next_over_approximated_stack_root)
            dead.value = reference

    @contextmanager
    def _each(self, count: ir.Value) -> Iterator[ir.Value]:
        """Emit a loop over the u32 below `count`."""
        number = self.variable(I32(0))
        with self.loop() as loop:
            current = number.value
            loop.leave_if(self._compare(">=", current, count))
            yield current
            number.value = self.builder.add(current, I32(1))

    # ------------------------------------------------------------------------------------------------------------------
    # Collecting: `DrcCollection`, `DrcHeap.trace`, `sweep`; `stackmaps.walk_frames`

    def _collect(self) -> ir.Value:
        builder = self.builder
        uncounted = self._flag(self._control(VMHeapControl.flags), CONTROL_UNCOUNTED)
        with builder.if_then(uncounted, likely=False):
            self._add_to_control(VMHeapControl.collections, I64(1))
            builder.ret(I32(0))
        self._note_peak()
        failed = self._call(TRACE)
        with builder.if_then(self._compare("!=", failed, 0), likely=False):
            self._call("lh.clear_marks")
            builder.ret(I32(1))
        self._call("lh.sweep")
        self._call(FREE_PENDING, I64(UNLIMITED))
        self._set_control(VMHeapControl.len_after_last_gc, self._control(VMHeapControl.current_len))
        self._set_control(VMHeapControl.live_bytes_after_last_collection, self._live_bytes())
        self._add_to_control(VMHeapControl.collections, I64(1))
        return I32(0)

    def _live_bytes(self) -> ir.Value:
        allocated = self._control(VMHeapControl.bytes_allocated)
        return self.builder.sub(allocated, self._control(VMHeapControl.bytes_freed))

    def _note_peak(self) -> None:
        """Compiled code allocates without a look at the peak; whatever is about to free looks."""
        peak = self._maximum(self._control(VMHeapControl.peak_live_bytes), self._live_bytes())
        self._set_control(VMHeapControl.peak_live_bytes, peak)

    def _trace(self) -> ir.Value:
        """Mark what every frame of every activation holds, the innermost first, and what the host's frames hold."""
        builder = self.builder
        frames = self.frame_rules()
        if frames is not None:
            self._mark_activations(frames)
        root_frame = self.variable(self.load(self.store_context, VMStoreContext.root_frames))
        with self.loop() as root_frames:
            address = root_frame.value
            root_frames.leave_if(self._compare("==", address, 0))
            record = builder.inttoptr(address, PTR)
            slots = self.load_pointer(record, VMRootFrame.slots)
            with self._each(self.load(record, VMRootFrame.slot_count)) as number:
                offset = builder.mul(builder.zext(number, I64), I64(REFERENCE_SIZE))
                self._mark(self.load_typed(self.at(slots, offset), REFERENCE))
            root_frame.value = self.load(record, VMRootFrame.previous)
        return I32(0)

    def _mark_activations(self, frames: Architecture) -> None:
        builder = self.builder
        activation = self.variable(self.load(self.store_context, VMStoreContext.activation))
        with self.loop() as activations:
            address = activation.value
            activations.leave_if(self._compare("==", address, 0))
            record = builder.inttoptr(address, PTR)
            entry_frame = self.load(record, VMActivation.entry_frame_pointer)
            frame = self.variable(self.load(record, VMActivation.exit_frame_pointer))
            with self.loop() as walk:
                callee = builder.inttoptr(frame.value, PTR)
                caller = self.load_typed(self.at(callee, frames.caller_frame_pointer_offset), I64)
                walk.leave_if(self._compare("==", caller, entry_frame))
                return_address = self.load_typed(self.at(callee, frames.return_address_offset), I64)
                stack_pointer = builder.add(frame.value, I64(frames.caller_stack_pointer_offset))
                self._mark_slots(self._find_safepoint(return_address), stack_pointer, caller)
                frame.value = caller
            activation.value = self.load(record, VMActivation.previous)

    def _find_safepoint(self, return_address: ir.Value) -> ir.Value:
        """The address of a return address's entry in the hash table; leaves the function with 1 when it has none."""
        builder, store = self.builder, self.store_context
        mask = self.load(store, VMStoreContext.stack_map_mask)
        entries = self.load_pointer(store, VMStoreContext.stack_map_entries)
        hashed = builder.lshr(builder.mul(return_address, I64(STACK_MAP_HASH_MULTIPLIER)), I64(STACK_MAP_HASH_SHIFT))
        number = self.variable(builder.and_(hashed, mask))
        with self.loop() as probe:
            entry = self.at(entries, builder.mul(number.value, I64(ctypes.sizeof(VMStackMapEntry))))
            found = self.load(entry, VMStackMapEntry.return_address)
            probe.leave_if(self._compare("==", found, return_address))
            with builder.if_then(self._compare("==", found, 0), likely=False):
                self.store(return_address, store, VMStoreContext.unknown_return_address)
                builder.ret(I32(1))
            number.value = builder.and_(builder.add(number.value, I64(1)), mask)
        return self.at(entries, builder.mul(number.value, I64(ctypes.sizeof(VMStackMapEntry))))

    def _mark_slots(self, entry: ir.Value, stack_pointer: ir.Value, frame_pointer: ir.Value) -> None:
        builder = self.builder
        slots = self.load_pointer(self.store_context, VMStoreContext.stack_map_slots)
        first = self.load(entry, VMStackMapEntry.first_slot)
        lowest_bit = self.intrinsic("llvm.cttz.i64", I64, [I64, I1])
        with self._each(self.load(entry, VMStackMapEntry.slot_count)) as number:
            position = builder.zext(builder.add(first, number), I64)
            slot = self.at(slots, builder.mul(position, I64(ctypes.sizeof(VMStackSlot))))
            is_frame_relative = self._compare("!=", self.load(slot, VMStackSlot.is_frame_relative), 0)
            base = builder.select(is_frame_relative, frame_pointer, stack_pointer)
            address = builder.add(base, builder.sext(self.load(slot, VMStackSlot.offset), I64))
            first_place = builder.inttoptr(address, PTR)
            live = self.variable(self.load(slot, VMStackSlot.mask))
            with self.loop() as places:
                mask = live.value
                places.leave_if(self._compare("==", mask, 0))
                distance = builder.mul(builder.call(lowest_bit, [mask, I1(1)]), I64(SLOT_SIZE))
                self._mark(self.load_typed(self.at(first_place, distance), REFERENCE))
                live.value = builder.and_(mask, builder.sub(mask, I64(1)))

    def _mark(self, reference: ir.Value) -> None:
        """Set the mark of an object that is listed; of null, of an i31 and of what is not listed there is none."""
        builder = self.builder
        with builder.if_then(self._is_object(reference)):
            word = self.load_header(reference, VMDrcHeader.kind_and_reserved)
            with builder.if_then(self._flag(word, HEADER_IN_OVER_APPROX_LIST_BIT)):
                marked = builder.or_(word, I32(HEADER_MARK_BIT))
                self.store_header(marked, reference, VMDrcHeader.kind_and_reserved)

    def _clear_marks(self) -> None:
        reference = self.variable(self._control(VMHeapControl.over_approximated_stack_roots))
        with self.loop() as loop:
            current = reference.value
            loop.leave_if(self._compare("==", current, NULL))
            word = self.load_header(current, VMDrcHeader.kind_and_reserved)
            self.store_header(self._without(word, HEADER_MARK_BIT), current, VMDrcHeader.kind_and_reserved)
            reference.value = self.load_header(current, VMDrcHeader.next_over_approximated_stack_root)

    def _without(self, word: ir.Value, bit: int) -> ir.Value:
        return self.builder.and_(word, word.type(~bit))

    def _sweep(self) -> None:
        """Free each object that dies, and what dies of it, before the walk goes on."""
        dead, freed = self.variable(REFERENCE(NULL)), self._freed()

        def free(reference: ir.Value, _word: ir.Value) -> None:  # its header is of no use any more
            self._free_object(reference, dead, freed)
            self._free_chain(dead, freed)

        self._sweep_list(free)
        self._count_freed(freed)

    def _sweep_pending(self) -> None:
        """Put each object that dies in front of the pending ones."""
        pending = self.variable(self._control(VMHeapControl.pending_dead))

        def defer(reference: ir.Value, word: ir.Value) -> None:
            unlisted = self._without(word, HEADER_IN_OVER_APPROX_LIST_BIT)
            self.store_header(unlisted, reference, VMDrcHeader.kind_and_reserved)
            self.store_header(0, reference, VMDrcHeader.ref_count)
            self.store_header(pending.value, reference, VMDrcHeader.next_over_approximated_stack_root)
            pending.value = reference

        self._sweep_list(defer)
        self._set_control(VMHeapControl.pending_dead, pending.value)

    def _sweep_list(self, bury: Callable[[ir.Value, ir.Value], None]) -> None:
        """Emit the walk; `bury` is for an object that dies, and the first word of its header.

        The kept entries are linked anew, each behind the one kept before it; the head's place is a variable.
        """
        builder = self.builder
        reference = self.variable(self._control(VMHeapControl.over_approximated_stack_roots))
        place = self.at(self.control, VMHeapControl.over_approximated_stack_roots.offset)
        link = self.variable(builder.ptrtoint(place, I64))
        length = self.variable(I32(0))
        with self.loop() as loop:
            current = reference.value
            loop.leave_if(self._compare("==", current, NULL))
            reference.value = self.load_header(current, VMDrcHeader.next_over_approximated_stack_root)
            word = self.load_header(current, VMDrcHeader.kind_and_reserved)
            with builder.if_else(self._flag(word, HEADER_MARK_BIT), likely=False) as (marked, unmarked):
                with marked:
                    self.store_header(self._without(word, HEADER_MARK_BIT), current, VMDrcHeader.kind_and_reserved)
                    self.store_typed(current, builder.inttoptr(link.value, PTR))
                    field = VMDrcHeader.next_over_approximated_stack_root
                    link.value = builder.ptrtoint(self.at(self.heap_address(current), field.offset), I64)
                    length.value = builder.add(length.value, I32(1))
                with unmarked:
                    count = builder.sub(self.load_header(current, VMDrcHeader.ref_count), I64(1))
                    with builder.if_else(self._compare("==", count, 0)) as (last, others):
                        with last:
                            bury(current, word)
                        with others:
                            unlisted = self._without(word, HEADER_IN_OVER_APPROX_LIST_BIT)
                            self.store_header(unlisted, current, VMDrcHeader.kind_and_reserved)
                            self.store_header(count, current, VMDrcHeader.ref_count)
                            self.store_header(NULL, current, VMDrcHeader.next_over_approximated_stack_root)
        self.store_typed(REFERENCE(NULL), builder.inttoptr(link.value, PTR))
        self._set_control(VMHeapControl.current_len, length.value)

    def _free_pending(self, budget: ir.Value) -> ir.Value:
        """Free from the front; what thereby dies comes in front, so a chain is freed from its beginning on."""
        builder = self.builder
        first = self._control(VMHeapControl.pending_dead)
        with builder.if_then(self._compare("==", first, NULL)):
            builder.ret(I32(0))
        self._note_peak()
        pending, left, freed = self.variable(first), self.variable(budget), self._freed()
        with self.loop() as loop:
            reference = pending.value
            loop.leave_if(self._compare("==", reference, NULL))
            loop.leave_if(self._compare("==", left.value, 0))
            pending.value = self.load_header(reference, VMDrcHeader.next_over_approximated_stack_root)
            self._free_object(reference, pending, freed)
            left.value = builder.sub(left.value, I64(1))
        self._set_control(VMHeapControl.pending_dead, pending.value)
        self._count_freed(freed)
        with builder.if_then(self._compare("!=", pending.value, NULL)):
            builder.ret(I32(1))
        self._set_control(VMHeapControl.live_bytes_after_last_collection, self._live_bytes())
        return I32(0)

    # ------------------------------------------------------------------------------------------------------------------
    # Finding a block: `SegregatedFit.allocate`, `Store._allocate`

    def _allocate_block(self, length: ir.Value) -> ir.Value:
        """Return a block of `length` bytes by the store's policy, or 0 when nothing helps."""
        builder = self.builder
        floor = self._maximum(I32(LIST_FLOOR), builder.mul(self._control(VMHeapControl.len_after_last_gc), I32(2)))
        with builder.if_then(self._compare(">=", self._control(VMHeapControl.current_len), floor)):
            self._collect_if_allowed()
        self._return_if_found(length)
        self._coalesce_if_it_pays()
        self._return_if_found(length)
        with self.loop() as portions:
            portions.leave_if(self._compare("==", self._control(VMHeapControl.pending_dead), NULL))
            self._call(FREE_PENDING, I64(PENDING_PORTION))
            self._release_dead_externrefs()
            self._return_if_found(length)
            self._coalesce_if_it_pays()
            self._return_if_found(length)
        live = builder.mul(self._control(VMHeapControl.live_bytes_after_last_collection), I64(2))
        with builder.if_then(self._compare("<", live, self._control(VMHeapControl.capacity))):
            self._collect_if_allowed()
            self._return_if_found(length)
            self._coalesce_if_it_pays()
            self._return_if_found(length)
        grown = self._call("lh.grow", length)
        with builder.if_then(self._compare("!=", grown, 0)):
            self._return_if_found(length)
        self._collect_if_allowed()
        self._call("lh.coalesce")  # the last resort, whether it pays or not
        return self._call("lh.carve", length)

    def _return_if_found(self, length: ir.Value) -> None:
        found = self._call("lh.carve", length)
        with self.builder.if_then(self._compare("!=", found, NULL)):
            self.builder.ret(found)

    def _collect_if_allowed(self) -> None:
        with self.builder.if_then(self._compare("==", self._control(VMHeapControl.no_gc_count), 0)):
            failed = self._call(COLLECT)
            with self.builder.if_then(self._compare("!=", failed, 0), likely=False):
                self.builder.ret(REFERENCE(NULL))
        self._release_dead_externrefs()

    def _release_dead_externrefs(self) -> None:
        """Have the host free the externrefs that died, if any did: their blocks may be the room that is wanted."""
        builder = self.builder
        with builder.if_then(self._compare("!=", self._control(VMHeapControl.dead_externrefs), NULL), likely=False):
            pointer = self.load_pointer(self.store_context, VMStoreContext.call_host)
            args = [self.vmctx, I32(RELEASE_DEAD_EXTERNREFS), PTR(None)]
            failed = self.call_pointer(pointer, I32, [PTR, I32, PTR], args)
            with builder.if_then(self._compare("!=", failed, 0), likely=False):
                builder.ret(REFERENCE(NULL))

    def _coalesce_if_it_pays(self) -> None:
        last = self._control(VMHeapControl.bytes_freed_at_last_coalescing)
        freed = self.builder.sub(self._control(VMHeapControl.bytes_freed), last)
        used = self.builder.zext(self.builder.sub(self._control(VMHeapControl.bump), I32(FIRST_INDEX)), I64)
        free = self.builder.sub(used, self._live_bytes())
        part = self.builder.udiv(self._control(VMHeapControl.capacity), I64(COALESCING_FRACTION))
        with self.builder.if_then(self._compare(">=", self._minimum(freed, free), self._maximum(part, I64(1)))):
            self._call("lh.coalesce")

    def _carve(self, length: ir.Value) -> ir.Value:
        """Return a block of `length` bytes off its list, the bump region, or a larger block; or 0."""
        builder = self.builder
        number = self._size_class(length)
        head = self._class_head(number)
        first = self.load_typed(head, REFERENCE)
        with builder.if_then(self._compare("!=", first, NULL)):
            block = self.heap_address(first)
            with builder.if_then(self._compare("==", self.load(block, FreeBlock.length), length)):
                self.store_typed(self.load(block, FreeBlock.next), head)
                builder.ret(first)
        is_small = self._compare("<", length, SMALL_BLOCK_LIMIT)
        with builder.if_then(builder.not_(is_small)):
            self._return_larger(length, number)
        bump, end = self._control(VMHeapControl.bump), self._control(VMHeapControl.bump_end)
        room = builder.sub(end, bump)
        with builder.if_then(self._compare("<=", length, room)):
            run = self._minimum(self._run_length(length), room)
            taken = builder.mul(builder.udiv(run, length), length)
            self._set_control(VMHeapControl.bump, builder.add(bump, taken))
            self._thread_run(bump, taken, length)
            builder.ret(bump)
        with builder.if_then(is_small):
            self._return_larger(length, number)
        return REFERENCE(NULL)

    def _run_length(self, length: ir.Value) -> ir.Value:
        """How many bytes to carve at once for blocks of `length`: a run of small ones, or just one."""
        part = self.builder.udiv(self._control(VMHeapControl.capacity), I64(_RUN_FRACTION))
        part = self.builder.trunc(self._minimum(part, I64(_RUN_BYTES)), I32)
        run = self._maximum(part, length)
        return self.builder.select(self._compare("<", length, SMALL_BLOCK_LIMIT), run, length)

    def _thread_run(self, start: ir.Value, taken: ir.Value, length: ir.Value) -> None:
        """Put all blocks of a run but the first on their list, so that they come off it in address order."""
        builder = self.builder
        place = self.variable(builder.sub(builder.add(start, taken), length))
        with self.loop() as loop:
            current = place.value
            loop.leave_if(self._compare("<=", current, start))
            self._push_free(current, length, 0)
            place.value = builder.sub(current, length)

    def _return_larger(self, length: ir.Value, number: ir.Value) -> None:
        """Return the front of the first block that is long enough, searching from a size class up."""
        builder = self.builder
        size_class = self.variable(number)
        with self.loop() as classes:
            current_class = size_class.value
            classes.leave_if(self._compare(">=", current_class, SIZE_CLASS_COUNT))
            link = self.variable(builder.ptrtoint(self._class_head(current_class), I64))
            with self.loop() as blocks:
                place = builder.inttoptr(link.value, PTR)
                index = self.load_typed(place, REFERENCE)
                blocks.leave_if(self._compare("==", index, NULL))
                block = self.heap_address(index)
                available = self.load(block, FreeBlock.length)
                with builder.if_then(self._compare(">=", available, length)):
                    flags = self.load(block, FreeBlock.flags)
                    self.store_typed(self.load(block, FreeBlock.next), place)
                    run = self._minimum(self._run_length(length), available)
                    taken = builder.mul(builder.udiv(run, length), length)
                    rest = builder.sub(available, taken)
                    with builder.if_then(self._compare("!=", rest, 0)):
                        self._push_free(builder.add(index, taken), rest, flags)
                    self._thread_run(index, taken, length)
                    builder.ret(index)
                link.value = builder.ptrtoint(self.at(block, FreeBlock.next.offset), I64)
            size_class.value = builder.add(current_class, I32(1))

    def _coalesce(self) -> None:
        """Merge free neighbours in one walk. Each list gets its blocks in address order, by a pointer to its end."""
        builder = self.builder
        ends = self.stack_buffer(SIZE_CLASS_COUNT * ctypes.sizeof(ctypes.c_uint64), ctypes.sizeof(ctypes.c_uint64))
        with self._each(I32(SIZE_CLASS_COUNT)) as number:
            head = self._class_head(number)
            self.store_typed(REFERENCE(NULL), head)
            self.store_typed(builder.ptrtoint(head, I64), self._end_of(ends, number))
        index = self.variable(I32(FIRST_INDEX))
        bump = self._control(VMHeapControl.bump)
        with self.loop() as walk:
            start = index.value
            walk.leave_if(self._compare(">=", start, bump))
            word = self.load_header(start, VMDrcHeader.kind_and_reserved)
            is_free = self._compare("==", word, 0)
            with builder.if_else(is_free) as (free, live):
                with live:
                    size = self.load_header(start, VMDrcHeader.object_size)
                    index.value = builder.add(start, self._block_length(size))
                with free:
                    with self.loop() as neighbours:  # as far as blocks are free
                        here = index.value
                        neighbours.leave_if(self._compare(">=", here, bump))
                        block = self.heap_address(here)
                        neighbours.leave_if(self._compare("!=", self.load(block, FreeBlock.kind_and_reserved), 0))
                        index.value = builder.add(here, self.load(block, FreeBlock.length))
                    with builder.if_else(self._compare("==", index.value, bump)) as (at_end, inside):
                        with at_end:
                            self._set_control(VMHeapControl.bump, start)
                        with inside:
                            self._append_free(start, builder.sub(index.value, start), ends)
        self._set_control(VMHeapControl.bytes_freed_at_last_coalescing, self._control(VMHeapControl.bytes_freed))
        self._add_to_control(VMHeapControl.coalescings, I64(1))

    def _end_of(self, ends: ir.Value, number: ir.Value) -> ir.Value:
        offset = self.builder.mul(self.builder.zext(number, I64), I64(ctypes.sizeof(ctypes.c_uint64)))
        return self.at(ends, offset)

    def _append_free(self, index: ir.Value, length: ir.Value, ends: ir.Value) -> None:
        end = self._end_of(ends, self._size_class(length))
        block = self.heap_address(index)
        self.store(0, block, FreeBlock.kind_and_reserved)
        self.store(length, block, FreeBlock.length)
        self.store(NULL, block, FreeBlock.next)
        self.store(FREE_BLOCK_COALESCED, block, FreeBlock.flags)
        self.store_typed(index, self.builder.inttoptr(self.load_typed(end, I64), PTR))
        self.store_typed(self.builder.ptrtoint(self.at(block, FreeBlock.next.offset), I64), end)

    def _grow(self, bytes_needed: ir.Value) -> ir.Value:
        """Double the capacity, or more, up to the maximum; 0 when it is there. The memory is mapped already."""
        builder = self.builder
        capacity, maximum = self._control(VMHeapControl.capacity), self._control(VMHeapControl.maximum)
        needed = builder.zext(bytes_needed, I64)
        bump = builder.zext(self._control(VMHeapControl.bump), I64)
        wanted = self._maximum(builder.mul(capacity, I64(2)), builder.add(bump, needed))
        wanted = builder.and_(builder.add(wanted, I64(GROWTH_GRANULE - 1)), I64(-GROWTH_GRANULE))
        target = self._minimum(wanted, maximum)
        with builder.if_then(self._compare("==", target, capacity)):
            builder.ret(I32(0))
        self._set_control(VMHeapControl.capacity, target)
        self._set_control(VMHeapControl.bump_end, builder.trunc(builder.and_(target, I64(-BLOCK_ALIGN)), I32))
        self._add_to_control(VMHeapControl.growths, I64(1))
        return I32(1)

    # ------------------------------------------------------------------------------------------------------------------
    # Allocating: `DrcHeap.alloc_raw`

    def _allocate_struct(self, type_index: ir.Value) -> ir.Value:
        info = self._type_info(type_index)
        size = self.load(info, VMTypeInfo.size_or_elements_offset)
        return self._allocate(I32(VMGcKind.STRUCT_REF), type_index, size)

    def _allocate_array(self, type_index: ir.Value, length: ir.Value) -> ir.Value:
        builder = self.builder
        size = self._array_size(self._type_info(type_index), length)
        with builder.if_then(self._compare(">", self._block_length(size), MAXIMUM_CAPACITY - FIRST_INDEX)):
            self._fail(TrapCode.ALLOCATION_TOO_LARGE)
        array = self._allocate(I32(VMGcKind.ARRAY_REF), type_index, builder.trunc(size, I32))
        self.store_header(length, array, VMDrcArrayHeader.length)
        return array

    def _array_size(self, info: ir.Value, length: ir.Value) -> ir.Value:
        """How many bytes an array of a type has, as an i64."""
        builder = self.builder
        element_size = builder.zext(self.load(info, VMTypeInfo.element_size), I64)
        start = builder.zext(self.load(info, VMTypeInfo.size_or_elements_offset), I64)
        return builder.add(start, builder.mul(builder.zext(length, I64), element_size))

    def _fail(self, code: TrapCode) -> None:
        self.store(int(code), self.store_context, VMStoreContext.trap_code)
        self.builder.ret(REFERENCE(NULL))  # the stub that called knows where it traps

    def _allocate(self, kind: ir.Value, type_index: ir.Value, size: ir.Value) -> ir.Value:
        builder = self.builder
        length = self._block_length(size)
        reference = self._call("lh.allocate_block", length)
        with builder.if_then(self._compare("==", reference, NULL), likely=False):
            self._fail(TrapCode.HEAP_EXHAUSTED)
        self.store_header(kind, reference, VMDrcHeader.kind_and_reserved)
        self.store_header(type_index, reference, VMDrcHeader.type_index)
        self.store_header(1, reference, VMDrcHeader.ref_count)
        self.store_header(NULL, reference, VMDrcHeader.next_over_approximated_stack_root)
        self.store_header(size, reference, VMDrcHeader.object_size)
        self._add_to_control(VMHeapControl.objects_allocated, I64(1))
        self._add_to_control(VMHeapControl.bytes_allocated, builder.zext(length, I64))
        return reference
