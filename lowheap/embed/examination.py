"""The C interface's part that looks at a heap: its figures, a walk, a dump, and the check of every invariant.

The methods of `ExaminationEmitter` are the functions of `api.FUNCTIONS` of the same names. `lh_verify` checks what
`DrcHeap.verify` does, by the same rules, on the same bytes; read that for why. It stops at the first thing that does
not hold, and that is its message.

Nothing here trusts the heap's bytes: an index is looked at before it is used, a length before it is gone by, and each
list's entries are ticked off, so that whatever the bytes are, every function comes to an end, and reads nothing beyond
the bump pointer. The control block's addresses, and what they point to outside of the heap, are trusted.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from lowheap.embed.api import FUNCTIONS, Status, abi_hash
from lowheap.embed.emitter import ApiEmitter
from lowheap.embed.system import map_memory, unmap_memory
from lowheap.jit.emit import I32, I64, PTR, REFERENCE, Variable
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    CONTROL_UNCOUNTED,
    DUMP_MAGIC,
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HANDLE_LIMIT,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    HOST_DATA_LIMIT,
    KIND_MASK,
    MINIMUM_OBJECT_BLOCK,
    NULL,
    OBJECT_KINDS,
    REFERENCE_SIZE,
    RESERVED_MASK,
    ROOT_SLOT_LIMIT,
    SIZE_CLASS_COUNT,
    TYPE_DATA_LIMIT,
    TYPE_LIMIT,
    CollectionPhase,
    Field,
    FreeBlock,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMDump,
    VMDumpRoot,
    VMGcKind,
    VMHeapControl,
    VMHostData,
    VMHostDataOwner,
    VMObjectInfo,
    VMRootFrame,
    VMRootKind,
    VMStoreContext,
    VMTypeInfo,
)

_VERIFY = "lh.verify"

_WORD = ctypes.sizeof(ctypes.c_uint64)
_UNIT_SHIFT = BLOCK_ALIGN.bit_length() - _WORD.bit_length()
"""A verification notes a word for each `BLOCK_ALIGN` bytes of the heap: index >> this is where the word is."""

# In the word of a block's start: what starts there, which lists have led to it; below these, how many owners it has.
_OBJECT = 1 << 63
_FREE = 1 << 62
_LISTED = 1 << 61
_DEAD = 1 << 60
_OWNERS = _DEAD - 1

_ROOTS_AT_ONCE = 64
"""So many roots a dump writes at a time."""

_ROOT_NAMES = {VMRootKind.HANDLE: "handle %llu", VMRootKind.SLOT: "root slot 0x%llx", VMRootKind.FRAME: "slot 0x%llx"}

_LIMITS = (
    (VMHeapControl.type_count, TYPE_LIMIT, "types"),
    (VMHeapControl.type_data_length, TYPE_DATA_LIMIT, "words of type data"),
    (VMHeapControl.handle_count, HANDLE_LIMIT, "handles"),
    (VMHeapControl.root_slot_count, ROOT_SLOT_LIMIT, "root slots"),
    (VMHeapControl.host_data_count, HOST_DATA_LIMIT, "host-data ids"),
)
_ELEMENT_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block as a walk comes to it: its index (i64), the same as a reference, its length (i64), whether it is free."""

    index: ir.Value
    reference: ir.Value
    length: ir.Value
    is_free: ir.Value


class ExaminationEmitter(ApiEmitter):
    """See the module's docstring."""

    @classmethod
    def define_examination_helpers(cls, module: ir.Module) -> None:
        """Give a module what the functions here call, besides `define_helpers`."""
        cls._define(module, _VERIFY, I32, [PTR], cls._verify, internal=True)

    def _difference(self, minuend: Field, subtrahend: Field) -> ir.Value:
        return self.builder.sub(self._control(minuend), self._control(subtrahend))

    # ------------------------------------------------------------------------------------------------------------------
    # Walking: `allocator.walk`, `DrcHeap.objects`

    def lh_walk(self, visitor: ir.Value, argument: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        self._require_bounds()
        info = self.stack_buffer(ctypes.sizeof(VMObjectInfo), ctypes.alignment(VMObjectInfo))
        with self._each_block() as block, builder.if_then(builder.not_(block.is_free)):
            word = self.load_header(block.reference, VMDrcHeader.kind_and_reserved)
            kind = builder.and_(word, I32(KIND_MASK))
            self._require_kind(block, word)
            is_array = self._compare("==", kind, VMGcKind.ARRAY_REF)
            length = builder.select(is_array, self.load_header(block.reference, VMDrcArrayHeader.length), I32(0))
            listed = builder.zext(self._flag(word, HEADER_IN_OVER_APPROX_LIST_BIT), I32)
            self.store(self.load_header(block.reference, VMDrcHeader.ref_count), info, VMObjectInfo.ref_count)
            self.store(block.reference, info, VMObjectInfo.reference)
            self.store(kind, info, VMObjectInfo.kind)
            self.store(self.load_header(block.reference, VMDrcHeader.type_index), info, VMObjectInfo.type_index)
            self.store(self.load_header(block.reference, VMDrcHeader.object_size), info, VMObjectInfo.size)
            self.store(length, info, VMObjectInfo.length)
            self.store(listed, info, VMObjectInfo.is_listed)
            returned = self.call_pointer(visitor, I32, [PTR, PTR], [argument, info])
            text = "the visitor returned %llu at object 0x%llx"
            self.require(self._compare("==", returned, 0), Status.CALLBACK, text, returned, block.index)

    def _require_bounds(self) -> None:
        """Fail unless the blocks end where they can: what a walk relies on."""
        builder = self.builder
        bump = self._control(VMHeapControl.bump)
        end = self._control(VMHeapControl.bump_end)
        capacity = self._control(VMHeapControl.capacity)
        wide = builder.zext(end, I64)
        is_within = self._compare("<=", wide, self._maximum(capacity, I64(FIRST_INDEX)))
        in_order = builder.and_(self._compare(">=", bump, FIRST_INDEX), self._compare("<=", bump, end))
        text = "bump pointer 0x%llx, its end 0x%llx and the capacity 0x%llx are out of order"
        self.require(builder.and_(in_order, is_within), Status.CORRUPT, text, bump, end, capacity)
        is_aligned = self._compare("==", builder.and_(bump, I32(BLOCK_ALIGN - 1)), 0)
        self.require(is_aligned, Status.CORRUPT, f"bump pointer 0x%llx is not a multiple of {BLOCK_ALIGN}", bump)

    @contextmanager
    def _each_block(self) -> Iterator[_Block]:
        """Emit a walk over all blocks, in address order; fail where one does not tell a length that leads on."""
        builder = self.builder
        bump = builder.zext(self._control(VMHeapControl.bump), I64)
        place, length = self.variable(I64(FIRST_INDEX)), self.variable(I64(0))
        with self.loop() as loop:
            index = place.value
            loop.leave_if(self._compare(">=", index, bump))
            reference = builder.trunc(index, REFERENCE)
            room = builder.sub(bump, index)
            address = self.heap_address(reference)
            is_free = self._compare("==", self.load(address, FreeBlock.kind_and_reserved), 0)
            with builder.if_else(is_free) as (free, used):
                with free:
                    claimed = builder.zext(self.load(address, FreeBlock.length), I64)
                    self._require_length("free block", index, claimed, room, BLOCK_ALIGN)
                    length.value = claimed
                with used:
                    text = "object at 0x%llx has no room for its header; the bump pointer is at 0x%llx"
                    self.require(self._compare(">=", room, MINIMUM_OBJECT_BLOCK), Status.CORRUPT, text, index, bump)
                    size = builder.zext(self.load(address, VMDrcHeader.object_size), I64)
                    claimed = self._block_length(size)
                    self._require_length("object", index, claimed, room, MINIMUM_OBJECT_BLOCK)
                    length.value = claimed
            following = builder.add(index, length.value)
            yield _Block(index, reference, length.value, is_free)
            place.value = following

    def _require_length(self, what: str, index: ir.Value, length: ir.Value, room: ir.Value, least: int) -> None:
        builder = self.builder
        is_long_enough = self._compare(">=", length, least)
        is_aligned = self._compare("==", builder.and_(length, I64(BLOCK_ALIGN - 1)), 0)
        is_sound = builder.and_(builder.and_(is_long_enough, is_aligned), self._compare("<=", length, room))
        text = f"{what} at 0x%llx claims %llu bytes; the bump pointer is at 0x%llx"
        self.require(is_sound, Status.CORRUPT, text, index, length, builder.add(index, room))

    def _require_kind(self, block: _Block, word: ir.Value) -> None:
        kind = self.builder.and_(word, I32(KIND_MASK))
        is_known = self.is_one_of(kind, OBJECT_KINDS)
        text = "object 0x%llx has kind word 0x%llx, which is no kind"
        self.require(is_known, Status.CORRUPT, text, block.index, word)

    # ------------------------------------------------------------------------------------------------------------------
    # Roots

    def _each_root(self, visit: Callable[[VMRootKind, ir.Value, ir.Value], None]) -> None:
        """Emit a look at every root that names an object: `visit(kind, place (i64), reference)` emits what is done."""
        builder = self.builder
        handles = self.load_pointer(self.control, VMHeapControl.handles)
        with self._each(self._control(VMHeapControl.handle_count)) as number:
            wide = builder.zext(number, I64)
            reference = self.load_typed(self.at(handles, builder.mul(wide, I64(REFERENCE_SIZE))), REFERENCE)
            with builder.if_then(self.is_object(reference)):
                visit(VMRootKind.HANDLE, wide, reference)

        slots = self.load_pointer(self.control, VMHeapControl.root_slots)
        with self._each(self._control(VMHeapControl.root_slot_count)) as number:
            address = self.load_typed(self.at(slots, builder.mul(builder.zext(number, I64), I64(_WORD))), I64)
            with builder.if_then(self._compare("!=", address, 0)):
                self._visit_slot(VMRootKind.SLOT, address, visit)

        frame = self.variable(self.load(self.store_context, VMStoreContext.root_frames))
        with self.loop() as frames:
            frames.leave_if(self._compare("==", frame.value, 0))
            record = builder.inttoptr(frame.value, PTR)
            first = self.load(record, VMRootFrame.slots)
            with self._each(self.load(record, VMRootFrame.slot_count)) as number:
                place = builder.add(first, builder.mul(builder.zext(number, I64), I64(REFERENCE_SIZE)))
                self._visit_slot(VMRootKind.FRAME, place, visit)
            frame.value = self.load(record, VMRootFrame.previous)

    def _visit_slot(
        self, kind: VMRootKind, address: ir.Value, visit: Callable[[VMRootKind, ir.Value, ir.Value], None]
    ) -> None:
        reference = self.load_typed(self.builder.inttoptr(address, PTR), REFERENCE)
        with self.builder.if_then(self.is_object(reference)):
            visit(kind, address, reference)

    # ------------------------------------------------------------------------------------------------------------------
    # Dumping: what `snapshot/dump.py` reads

    def lh_dump(self, writer: ir.Value, argument: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        self._require_limits()
        bump, capacity = builder.zext(self._control(VMHeapControl.bump), I64), self._control(VMHeapControl.capacity)
        text = "bump pointer 0x%llx is beyond the capacity 0x%llx"
        is_within = self._compare("<=", bump, self._maximum(capacity, I64(FIRST_INDEX)))
        self.require(is_within, Status.CORRUPT, text, bump, capacity)

        def write(data: ir.Value, size: ir.Value) -> None:
            with builder.if_then(self._compare("!=", size, 0)):
                returned = self.call_pointer(writer, I32, [PTR, PTR, I64], [argument, data, size])
                text = "the writer returned %llu"
                self.require(self._compare("==", returned, 0), Status.CALLBACK, text, returned)

        counts = {
            name: builder.zext(self._control(getattr(VMHeapControl, name)), I64)
            for name in ("type_count", "type_data_length", "host_data_count")
        }
        header = self.stack_buffer(ctypes.sizeof(VMDump), ctypes.alignment(VMDump))
        self.store(DUMP_MAGIC, header, VMDump.magic)
        self.store(abi_hash(), header, VMDump.abi)
        self.store(ctypes.sizeof(VMHeapControl), header, VMDump.control_size)
        for name, count in counts.items():
            self.store(count, header, getattr(VMDump, name))
        self.store(self._count_roots(), header, VMDump.root_count)
        self.store(bump, header, VMDump.heap_size)
        write(header, I64(ctypes.sizeof(VMDump)))
        write(self.control, I64(ctypes.sizeof(VMHeapControl)))
        for table, name, size in (
            (VMHeapControl.type_table, "type_count", ctypes.sizeof(VMTypeInfo)),
            (VMHeapControl.type_data, "type_data_length", ctypes.sizeof(ctypes.c_uint32)),
            (VMHeapControl.host_data, "host_data_count", ctypes.sizeof(VMHostData)),
        ):
            write(self.load_pointer(self.control, table), builder.mul(counts[name], I64(size)))
        self._write_roots(write)
        write(self.heap_base, bump)

    def _count_roots(self) -> ir.Value:
        count = self.variable(I64(0))

        def add(_kind: VMRootKind, _place: ir.Value, _reference: ir.Value) -> None:
            count.value = self.builder.add(count.value, I64(1))

        self._each_root(add)
        return count.value

    def _write_roots(self, write: Callable[[ir.Value, ir.Value], None]) -> None:
        """Write all roots, a bufferful at a time."""
        builder, size = self.builder, ctypes.sizeof(VMDumpRoot)
        capacity = _ROOTS_AT_ONCE * size
        buffer = self.stack_buffer(capacity, ctypes.alignment(VMDumpRoot))
        used = self.variable(I64(0))

        def add(kind: VMRootKind, place: ir.Value, reference: ir.Value) -> None:
            record = self.at(buffer, used.value)
            self.store(place, record, VMDumpRoot.place)
            self.store(int(kind), record, VMDumpRoot.kind)
            self.store(reference, record, VMDumpRoot.reference)
            used.value = builder.add(used.value, I64(size))
            with builder.if_then(self._compare("==", used.value, capacity)):
                write(buffer, used.value)
                used.value = I64(0)

        self._each_root(add)
        write(buffer, used.value)

    def _require_limits(self) -> None:
        """Fail unless the tables of the control mapping have at most as many entries as there is room for."""
        for field, limit, what in _LIMITS:
            count = self._control(field)
            text = f"the control block counts %llu {what}; there is room for {limit}"
            self.require(self._compare("<=", count, limit), Status.CORRUPT, text, count)

    # ------------------------------------------------------------------------------------------------------------------
    # Verifying: `DrcHeap.verify`

    def lh_verify(self) -> ir.Value:
        """See the table. Here: what must hold before there can be a walk; and the memory to take notes in."""
        self._require_bounds()
        self._require_limits()
        self._verify_types()
        size = self.builder.zext(self.builder.lshr(self._control(VMHeapControl.bump), I32(_UNIT_SHIFT)), I64)
        notes = map_memory(self, size, self.system)
        text = "the system refused %llu bytes to take notes in"
        self.require(self._compare("!=", notes, 0), Status.SYSTEM, text, size)
        status = self._call(_VERIFY, self.builder.inttoptr(notes, PTR))
        unmap_memory(self, notes, size)
        return status

    def _verify_types(self) -> None:
        """Check what keeps the traced slots of an object within it."""
        builder = self.builder
        known = builder.zext(self._control(VMHeapControl.type_data_length), I64)
        with self._each(self._control(VMHeapControl.type_count)) as number:
            info = self._type_info(number)
            kind = self.load(info, VMTypeInfo.kind)
            with builder.if_then(self._compare("!=", kind, 0)):
                is_known = self.is_one_of(kind, [each for each in OBJECT_KINDS if each.name != "EXTERN_REF"])
                text = "type %llu has kind word 0x%llx, which is no kind"
                self.require(is_known, Status.CORRUPT, text, number, kind)
                with builder.if_else(self._compare("==", kind, VMGcKind.ARRAY_REF)) as (array, others):
                    with array:
                        self._verify_array_type(number, info)
                    with others:
                        self._verify_struct_type(number, info, known)

    def _verify_array_type(self, number: ir.Value, info: ir.Value) -> None:
        builder = self.builder
        start = self.load(info, VMTypeInfo.size_or_elements_offset)
        size = self.load(info, VMTypeInfo.element_size)
        traced = self.load(info, VMTypeInfo.traced_count)
        is_traced_reference = builder.and_(self._compare("==", size, REFERENCE_SIZE), self._compare("==", traced, 1))
        is_sound = builder.and_(
            builder.and_(self._compare(">=", start, ARRAY_HEADER_END), self.is_one_of(size, _ELEMENT_SIZES)),
            builder.or_(self._compare("==", traced, 0), is_traced_reference),
        )
        text = "array type %llu has elements from %llu on, of %llu bytes, %llu of 1 traced"
        self.require(is_sound, Status.CORRUPT, text, number, start, size, traced)

    def _verify_struct_type(self, number: ir.Value, info: ir.Value, known: ir.Value) -> None:
        builder = self.builder
        size = builder.zext(self.load(info, VMTypeInfo.size_or_elements_offset), I64)
        start = builder.zext(self.load(info, VMTypeInfo.traced_offsets_start), I64)
        count = self.load(info, VMTypeInfo.traced_count)
        end = builder.add(start, builder.zext(count, I64))
        text = "type %llu has %llu bytes, and its traced offsets up to word %llu of %llu of type data"
        is_sound = builder.and_(self._compare(">=", size, HEADER_SIZE), self._compare("<=", end, known))
        self.require(is_sound, Status.CORRUPT, text, number, size, end, known)
        with self._each(count) as position:
            offset = builder.zext(self._traced_offset(start, position), I64)
            is_within = self._compare("<=", builder.add(offset, I64(REFERENCE_SIZE)), size)
            is_behind = self._compare(">=", offset, HEADER_SIZE)
            is_aligned = self._compare("==", builder.and_(offset, I64(REFERENCE_SIZE - 1)), 0)
            is_sound = builder.and_(builder.and_(is_within, is_behind), is_aligned)
            text = "type %llu of %llu bytes has a traced field at %llu"
            self.require(is_sound, Status.CORRUPT, text, number, size, offset)

    def _traced_offset(self, start: ir.Value, position: ir.Value) -> ir.Value:
        """Read one of a type's traced offsets from the type data."""
        word = self.builder.add(start, self.builder.zext(position, I64))
        data = self.load_pointer(self.control, VMHeapControl.type_data)
        return self.load_typed(self.at(data, self.builder.mul(word, I64(ctypes.sizeof(ctypes.c_uint32)))), I32)

    def _verify(self, notes: ir.Value) -> ir.Value:
        """The rest, with a word of notes, 0 at first, for each `BLOCK_ALIGN` bytes of the heap; returns a status."""
        self.api = FUNCTIONS["lh_verify"]
        objects, size = self._verify_blocks(notes)
        self._verify_free_lists(notes)
        self._verify_over_approximated_list(notes)
        pending = "the list of pending dead objects"
        self._verify_dead(notes, VMHeapControl.pending_dead, pending)
        self._verify_dead(notes, VMHeapControl.dead_externrefs, "the list of dead externrefs")
        dead = self._control(VMHeapControl.dead_list)
        text = "the dead list is not empty: it begins with 0x%llx"
        self.require(self._compare("==", dead, NULL), Status.CORRUPT, text, dead)
        self._count_owners(notes)
        self._verify_roots(notes)
        self._verify_notes(notes)
        self._verify_figures(objects, size)
        return I32(int(Status.OK))

    # Notes

    def _note(self, notes: ir.Value, index: ir.Value) -> ir.Value:
        """The address of the word for an index (i64), a multiple of `BLOCK_ALIGN` below the bump pointer."""
        return self.at(notes, self.builder.lshr(index, I64(_UNIT_SHIFT)))

    def _noted(self, notes: ir.Value, reference: ir.Value) -> Variable:
        """Return the word for any reference, 0 where none can be because no block can start there."""
        builder = self.builder
        word = self.variable(I64(0))
        is_aligned = self._compare("==", builder.and_(reference, REFERENCE(BLOCK_ALIGN - 1)), 0)
        is_below = self._compare("<", reference, self._control(VMHeapControl.bump))
        with builder.if_then(builder.and_(is_aligned, is_below)):
            word.value = self.load_typed(self._note(notes, builder.zext(reference, I64)), I64)
        return word

    def _add_note(self, notes: ir.Value, reference: ir.Value, amount: int) -> None:
        """Add to a block's word: a flag that it does not have, or an owner."""
        place = self._note(notes, self.builder.zext(reference, I64))
        self.store_typed(self.builder.add(self.load_typed(place, I64), I64(amount)), place)

    # Blocks and headers

    def _verify_blocks(self, notes: ir.Value) -> tuple[Variable, Variable]:
        """Check each block, and the header of each object. Returns how many objects, and bytes of them, there are."""
        builder = self.builder
        objects, size, coalesced_end = self.variable(I64(0)), self.variable(I64(0)), self.variable(I64(0))
        with self._each_block() as block, builder.if_else(block.is_free) as (free, used):
            with free:
                flags = self.load(self.heap_address(block.reference), FreeBlock.flags)
                is_coalesced = self._flag(flags, FREE_BLOCK_COALESCED)
                is_missed = builder.and_(is_coalesced, self._compare("==", coalesced_end.value, block.index))
                text = "free block at 0x%llx was not merged with the one before it"
                self.require(builder.not_(is_missed), Status.CORRUPT, text, block.index)
                end = builder.add(block.index, block.length)
                coalesced_end.value = builder.select(is_coalesced, end, I64(0))
                self._add_note(notes, block.reference, _FREE)
            with used:
                self._verify_header(block)
                self._add_note(notes, block.reference, _OBJECT)
                objects.value = builder.add(objects.value, I64(1))
                size.value = builder.add(size.value, block.length)
        return objects, size

    def _verify_header(self, block: _Block) -> None:
        builder = self.builder
        word = self.load_header(block.reference, VMDrcHeader.kind_and_reserved)
        self._require_kind(block, word)
        known = HEADER_MARK_BIT | HEADER_IN_OVER_APPROX_LIST_BIT
        unknown = builder.and_(word, I32(RESERVED_MASK & ~known))
        text = "object 0x%llx has unknown reserved bits in 0x%llx"
        self.require(self._compare("==", unknown, 0), Status.CORRUPT, text, block.index, word)
        kind = builder.and_(word, I32(KIND_MASK))
        with builder.if_else(self._compare("==", kind, VMGcKind.EXTERN_REF)) as (externref, typed):
            with externref:
                self._verify_externref(block)
            with typed:
                self._verify_typed(block, kind)

    def _verify_externref(self, block: _Block) -> None:
        builder, index = self.builder, block.index
        type_index = self.load_header(block.reference, VMDrcHeader.type_index)
        has_none = self._compare("==", type_index, EXTERNREF_TYPE_INDEX)
        self.require(has_none, Status.CORRUPT, "externref 0x%llx has type index %llu", index, type_index)
        size = self.load_header(block.reference, VMDrcHeader.object_size)
        is_right = self._compare("==", size, ctypes.sizeof(VMDrcExternRef))
        self.require(is_right, Status.CORRUPT, "externref 0x%llx has size %llu", index, size)
        host_data_id = self.load_header(block.reference, VMDrcExternRef.host_data_id)
        text = "externref 0x%llx has host data %llu, which the side table does not know"
        is_in_table = self._compare("<", host_data_id, self._control(VMHeapControl.host_data_count))
        self.require(is_in_table, Status.CORRUPT, text, index, host_data_id)
        table = self.load_pointer(self.control, VMHeapControl.host_data)
        entry = self.at(table, builder.mul(builder.zext(host_data_id, I64), I64(ctypes.sizeof(VMHostData))))
        is_in_use = self._compare("!=", self.load(entry, VMHostData.owner), VMHostDataOwner.NOBODY)
        self.require(is_in_use, Status.CORRUPT, text, index, host_data_id)

    def _verify_typed(self, block: _Block, kind: ir.Value) -> None:
        builder, index = self.builder, block.index
        type_index = self.load_header(block.reference, VMDrcHeader.type_index)
        text = "object 0x%llx has type index %llu, which is not in the type table"
        is_in_table = self._compare("<", type_index, self._control(VMHeapControl.type_count))
        self.require(is_in_table, Status.CORRUPT, text, index, type_index)
        info = self._type_info(type_index)
        wanted = self.load(info, VMTypeInfo.kind)
        self.require(self._compare("!=", wanted, 0), Status.CORRUPT, text, index, type_index)
        text = "object 0x%llx of type %llu has kind 0x%llx; the type's objects have 0x%llx"
        self.require(self._compare("==", kind, wanted), Status.CORRUPT, text, index, type_index, kind, wanted)
        is_array = self._compare("==", kind, VMGcKind.ARRAY_REF)
        length = builder.zext(self.load_header(block.reference, VMDrcArrayHeader.length), I64)
        elements = builder.mul(length, builder.zext(self.load(info, VMTypeInfo.element_size), I64))
        fixed = builder.zext(self.load(info, VMTypeInfo.size_or_elements_offset), I64)
        expected = builder.add(fixed, builder.select(is_array, elements, I64(0)))
        size = builder.zext(self.load_header(block.reference, VMDrcHeader.object_size), I64)
        text = "object 0x%llx has size %llu; its type and length make it %llu"
        self.require(self._compare("==", size, expected), Status.CORRUPT, text, index, size, expected)

    # Lists

    def _verify_free_lists(self, notes: ir.Value) -> None:
        """Check that the lists hold nothing but free blocks, each once and in its class."""
        builder = self.builder
        with self._each(I32(SIZE_CLASS_COUNT)) as number:
            place = self.variable(self.load_typed(self._class_head(number), REFERENCE))
            with self.loop() as loop:
                reference = place.value
                loop.leave_if(self._compare("==", reference, NULL))
                word = self._noted(notes, reference).value
                text = "free list %llu holds 0x%llx, where no free block starts"
                self.require(self._flag(word, _FREE), Status.CORRUPT, text, number, reference)
                text = "free block at 0x%llx is on a free list twice"
                self.require(builder.not_(self._flag(word, _LISTED)), Status.CORRUPT, text, reference)
                self._add_note(notes, reference, _LISTED)
                block = self.heap_address(reference)
                length = self.load(block, FreeBlock.length)
                is_in_class = self._compare("==", self._size_class(length), number)
                text = "free block at 0x%llx of %llu bytes is on free list %llu"
                self.require(is_in_class, Status.CORRUPT, text, reference, length, number)
                place.value = self.load(block, FreeBlock.next)

    def _verify_over_approximated_list(self, notes: ir.Value) -> None:
        """Check that the list is acyclic, of objects, and as long as it says. It owns each once."""
        builder, what = self.builder, "the over-approximated list"
        length = self.variable(I64(0))
        with self._each_linked(notes, VMHeapControl.over_approximated_stack_roots, _LISTED, what) as reference:
            self._add_note(notes, reference, 1)
            length.value = builder.add(length.value, I64(1))
        counted = builder.zext(self._control(VMHeapControl.current_len), I64)
        is_right = self._compare("==", length.value, counted)
        text = f"{what} has %llu entries, its counter says %llu"
        self.require(is_right, Status.CORRUPT, text, length.value, counted)

    def _verify_dead(self, notes: ir.Value, head: Field, what: str) -> None:
        """Check that a list of objects that wait to be freed holds nothing but dead ones."""
        builder = self.builder
        with self._each_linked(notes, head, _DEAD, what) as reference:
            count = self.load_header(reference, VMDrcHeader.ref_count)
            text = f"object 0x%llx has count %llu, but is on {what}"
            self.require(self._compare("==", count, 0), Status.CORRUPT, text, reference, count)
            word = self.load_header(reference, VMDrcHeader.kind_and_reserved)
            is_marked = self._flag(word, HEADER_MARK_BIT)
            text = f"object 0x%llx is marked, but is on {what}"
            self.require(builder.not_(is_marked), Status.CORRUPT, text, reference)
            if head is VMHeapControl.dead_externrefs:
                kind = builder.and_(word, I32(KIND_MASK))
                is_externref = self._compare("==", kind, VMGcKind.EXTERN_REF)
                text = f"object 0x%llx is on {what}, but its kind is 0x%llx"
                self.require(is_externref, Status.CORRUPT, text, reference, kind)

    @contextmanager
    def _each_linked(self, notes: ir.Value, head: Field, flag: int, what: str) -> Iterator[ir.Value]:
        """Emit a loop over a list that is linked by headers; each object on it gets a flag, and may not have it yet."""
        place = self.variable(self._control(head))
        with self.loop() as loop:
            reference = place.value
            loop.leave_if(self._compare("==", reference, NULL))
            word = self._noted(notes, reference).value
            text = f"{what} leads to 0x%llx, where no object starts"
            self.require(self._flag(word, _OBJECT), Status.CORRUPT, text, reference)
            is_new = self.builder.not_(self._flag(word, flag))
            self.require(is_new, Status.CORRUPT, f"{what} comes back to 0x%llx", reference)
            self._add_note(notes, reference, flag)
            yield reference
            place.value = self.load_header(reference, VMDrcHeader.next_over_approximated_stack_root)

    # Owners

    def _count_owners(self, notes: ir.Value) -> None:
        """Note an owner with each object for each traced slot that refers to it."""
        builder = self.builder
        with self._each_block() as block, builder.if_then(builder.not_(block.is_free)):
            type_index = self.load_header(block.reference, VMDrcHeader.type_index)
            with builder.if_then(self._compare("!=", type_index, EXTERNREF_TYPE_INDEX)):
                info = self._type_info(type_index)
                traced = self.load(info, VMTypeInfo.traced_count)
                is_array = self._compare("==", self.load(info, VMTypeInfo.kind), VMGcKind.ARRAY_REF)
                start = builder.zext(self.load(info, VMTypeInfo.traced_offsets_start), I64)
                elements = self.load(info, VMTypeInfo.size_or_elements_offset)
                length = self.load_header(block.reference, VMDrcArrayHeader.length)
                with builder.if_else(is_array) as (array, struct):
                    with array, self._each(builder.mul(traced, length)) as number:
                        offset = builder.add(elements, builder.mul(number, I32(REFERENCE_SIZE)))
                        self._own_slot(notes, block, offset)
                    with struct, self._each(traced) as number:
                        self._own_slot(notes, block, self._traced_offset(start, number))

    def _own_slot(self, notes: ir.Value, holder: _Block, offset: ir.Value) -> None:
        slot = self.load_typed(self.heap_address(holder.reference, offset), REFERENCE)
        with self.builder.if_then(self.is_object(slot)):
            self._own(notes, slot, "object 0x%llx", holder.index)

    def _own(self, notes: ir.Value, reference: ir.Value, holder: str, place: ir.Value) -> None:
        word = self._noted(notes, reference).value
        text = f"{holder} holds 0x%llx, where no live object starts"
        self.require(self._flag(word, _OBJECT), Status.CORRUPT, text, place, reference)
        self._add_note(notes, reference, 1)

    def _verify_roots(self, notes: ir.Value) -> None:
        """Note an owner for each handle and registered slot; what a frame holds must be on the list."""
        builder = self.builder

        def visit(kind: VMRootKind, place: ir.Value, reference: ir.Value) -> None:
            if kind is not VMRootKind.FRAME:
                self._own(notes, reference, _ROOT_NAMES[kind], place)
                return
            is_listed = builder.or_(self._flag(self._noted(notes, reference).value, _LISTED), self._is_uncounted())
            text = f"{_ROOT_NAMES[kind]} of a frame holds 0x%llx, which is not on the over-approximated list"
            self.require(is_listed, Status.CORRUPT, text, place, reference)

        self._each_root(visit)

    def _is_uncounted(self) -> ir.Value:
        return self._flag(self._control(VMHeapControl.flags), CONTROL_UNCOUNTED)

    # What the notes say in the end

    def _verify_notes(self, notes: ir.Value) -> None:
        builder = self.builder
        with self._each_block() as block:
            noted = self.load_typed(self._note(notes, block.index), I64)
            is_listed = self._flag(noted, _LISTED)
            with builder.if_else(block.is_free) as (free, used):
                with free:
                    text = "free block at 0x%llx is on no free list"
                    self.require(is_listed, Status.CORRUPT, text, block.index)
                with used:
                    self._verify_noted_object(block, noted, is_listed)

    def _verify_noted_object(self, block: _Block, noted: ir.Value, is_listed: ir.Value) -> None:
        builder, index = self.builder, block.index
        word = self.load_header(block.reference, VMDrcHeader.kind_and_reserved)
        says_listed = self._flag(word, HEADER_IN_OVER_APPROX_LIST_BIT)
        text = "object 0x%llx has its in-list bit set, but is not on the over-approximated list"
        self.require(builder.or_(builder.not_(says_listed), is_listed), Status.CORRUPT, text, index)
        text = "object 0x%llx has its in-list bit clear, but is on the over-approximated list"
        self.require(builder.or_(says_listed, builder.not_(is_listed)), Status.CORRUPT, text, index)
        is_idle = self._compare("==", self._control(VMHeapControl.phase), CollectionPhase.IDLE)
        is_stray = builder.and_(is_idle, self._flag(word, HEADER_MARK_BIT))
        text = "object 0x%llx is marked, but no collection is running"
        self.require(builder.not_(is_stray), Status.CORRUPT, text, index)
        count = self.load_header(block.reference, VMDrcHeader.ref_count)
        may_be_0 = self._flag(noted, _DEAD)
        text = "object 0x%llx has count 0, but was not freed"
        self.require(builder.or_(self._compare("!=", count, 0), may_be_0), Status.CORRUPT, text, index)
        owners = builder.and_(noted, I64(_OWNERS))
        is_right = builder.or_(self._compare("==", count, owners), self._is_uncounted())
        text = "object 0x%llx has count %llu, but %llu owners, %llu of them the list"
        on_list = builder.zext(is_listed, I64)
        self.require(is_right, Status.CORRUPT, text, index, count, owners, on_list)

    def _verify_figures(self, objects: Variable, size: Variable) -> None:
        said = self._difference(VMHeapControl.objects_allocated, VMHeapControl.objects_freed)
        said_bytes = self._live_bytes()
        agree = self._compare("==", said, objects.value)
        agree_in_bytes = self._compare("==", said_bytes, size.value)
        text = "the counters say %llu live objects of %llu bytes; the heap holds %llu of %llu"
        values = (said, said_bytes, objects.value, size.value)
        self.require(self.builder.and_(agree, agree_in_bytes), Status.CORRUPT, text, *values)


assert BLOCK_ALIGN >> _UNIT_SHIFT == _WORD, "a block's start has a word of notes"
