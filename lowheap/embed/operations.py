"""The C interface's work on a heap: types, objects, their parts, barriers, roots, collections.

The methods of `OperationsEmitter` are the functions of `api.FUNCTIONS` of the same names; what they promise stands
there. Making and destroying heaps is in `lifecycle.py`, looking at one in `examination.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from lowheap.collectors.drc import allocation, collection, counting
from lowheap.collectors.drc.collector import Drc
from lowheap.embed.api import FUNCTIONS, Status
from lowheap.embed.emitter import ANY_REFERENCE, ApiEmitter
from lowheap.errors import TrapCode
from lowheap.jit.barriers import Barriers
from lowheap.jit.emit import F32, F64, I1, I8, I16, I32, I64, PTR, REFERENCE, VOID
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    FIELD_TRACED,
    FIRST_INDEX,
    HEADER_ALIGN,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_SIZE,
    HOST_DATA_LIMIT,
    I31_TAG,
    KIND_MASK,
    MAXIMUM_CAPACITY,
    MINIMUM_OBJECT_BLOCK,
    NO_SUPERTYPE,
    NULL,
    REFERENCE_SIZE,
    ROOT_SLOT_LIMIT,
    SELF_TYPE,
    SMALL_BLOCK_LIMIT,
    TRACED_MASK_BITS,
    TYPE_DATA_LIMIT,
    TYPE_FINAL,
    TYPE_LIMIT,
    FreeBlock,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMFieldDefinition,
    VMFieldInfo,
    VMGcKind,
    VMHeap,
    VMHeapControl,
    VMHeapType,
    VMHostData,
    VMHostDataOwner,
    VMRootFrame,
    VMStorage,
    VMStoreContext,
    VMTypeInfo,
)
from lowheap.native import Native
from lowheap.types import MAX_STRUCT_FIELDS, MAX_SUBTYPING_DEPTH

_PACKED = (VMStorage.I8, VMStorage.I16)
_SIZES = {
    VMStorage.I8: 1,
    VMStorage.I16: 2,
    VMStorage.I32: 4,
    VMStorage.I64: 8,
    VMStorage.F32: 4,
    VMStorage.F64: 8,
    VMStorage.V128: 16,
    VMStorage.REFERENCE: REFERENCE_SIZE,
}
_ALLOCATE_STRUCT_SLOWLY = "lh.allocate_struct_slowly"
_ALLOCATE_ARRAY_SLOWLY = "lh.allocate_array_slowly"
_WORD = ctypes.sizeof(ctypes.c_uint32)
_UNTRACED_HEAP_TYPES = (VMHeapType.I31, VMHeapType.FUNC, VMHeapType.NOFUNC)
_KIND_OF_HEAP_TYPE = {
    VMHeapType.EQ: VMGcKind.EQ_REF,
    VMHeapType.STRUCT: VMGcKind.STRUCT_REF,
    VMHeapType.ARRAY: VMGcKind.ARRAY_REF,
    VMHeapType.EXN: VMGcKind.EXN_REF,
}
_HEAP_TYPES_WITH_I31 = (VMHeapType.ANY, VMHeapType.EQ, VMHeapType.I31, VMHeapType.EXTERN)


_INTEGERS = (VMStorage.I32, *_PACKED)
_REFERENCES = (VMStorage.REFERENCE,)

_Place = tuple[ir.Value, ir.Value]
"""A field's or an element's address, and the address of its `VMFieldInfo`."""


def _accessor(
    find: Callable[[Any, ir.Value, ir.Value, Sequence[VMStorage]], _Place],
    access: Callable[[Any, _Place, ir.Value], None],
    storages: Sequence[VMStorage],
) -> Callable[[Any, ir.Value, ir.Value, ir.Value], None]:
    """Return the method for a function of the table that gets at a part of an object, of one of these storages.

    `find` checks and finds the part's place; `access` reads or writes it.
    """

    def emit(self: Any, reference: ir.Value, number: ir.Value, value: ir.Value) -> None:
        access(self, find(self, reference, number, storages), value)

    return emit


def _reading(type: ir.Type) -> Callable[[Any, _Place, ir.Value], None]:
    def read(self: Any, place: _Place, result: ir.Value) -> None:
        self.store_typed(self.load_typed(place[0], type), result)

    return read


class OperationsEmitter(ApiEmitter):
    """See the module's docstring."""

    barriers = Barriers(Drc())

    @classmethod
    def define_operation_helpers(cls, module: ir.Module) -> None:
        """Give a module what several operations call."""
        struct, array = cls._allocate_struct_slowly, cls._allocate_array_slowly
        cls._define(module, _ALLOCATE_STRUCT_SLOWLY, I32, [I32, PTR], struct, internal=True)
        cls._define(module, _ALLOCATE_ARRAY_SLOWLY, I32, [I32, I32, PTR], array, internal=True)
        for name in (_ALLOCATE_STRUCT_SLOWLY, _ALLOCATE_ARRAY_SLOWLY):
            module.globals[name].attributes.add("noinline")
        cls._define(module, "lh.is_subtype", I32, [I32, I32], cls._is_subtype, internal=True)
        cls._define(module, "lh.matches", I32, [REFERENCE, I32], cls._matches, internal=True)
        cls._define(module, "lh.field_accepts", I32, [I32, I32, I32, I32, I32], cls._field_accepts, internal=True)
        cls._define(module, "lh.size_of_storage", I32, [I32], cls._size_of_storage, internal=True)

    # ------------------------------------------------------------------------------------------------------------------
    # Types: reading the table

    def _check_type(self, type_index: ir.Value, kind: VMGcKind | None = None, *, always: bool = False) -> ir.Value:
        """Fail unless a type index is of a defined type, of objects of `kind`; return its entry."""
        builder = self.builder
        info = self._type_info(type_index)
        if self.is_checked or always:
            found = self.load(info, VMTypeInfo.kind)
            in_table = self._compare("<", type_index, self._control(VMHeapControl.type_count))
            is_defined = builder.and_(in_table, self._compare("!=", found, 0))
            self.require(is_defined, Status.BAD_TYPE, "type %llu is not defined", type_index)
            if kind is not None:
                name = {VMGcKind.STRUCT_REF: "a struct", VMGcKind.ARRAY_REF: "an array"}[kind]
                is_of_kind = self._compare("==", found, int(kind))
                self.require(is_of_kind, Status.WRONG_TYPE, f"type %llu is not {name} type", type_index)
        return info

    def _type_data(self, position: ir.Value) -> ir.Value:
        """The address of a word of the type data."""
        data = self.load_pointer(self.control, VMHeapControl.type_data, invariant=True)
        return self.at(data, self.builder.mul(self.builder.zext(position, I64), I64(_WORD)))

    def _field_info(self, info: ir.Value, field: ir.Value) -> ir.Value:
        """The address of a field's entry; the field must exist."""
        start = self._type_data(self.load(info, VMTypeInfo.fields_start))
        offset = self.builder.mul(self.builder.zext(field, I64), I64(ctypes.sizeof(VMFieldInfo)))
        return self.at(start, offset)

    def _is_subtype(self, type_index: ir.Value, supertype: ir.Value) -> ir.Value:
        """1 if `supertype` is in the display of `type_index`. Both are defined."""
        builder = self.builder
        info, above = self._type_info(type_index), self._type_info(supertype)
        depth = self.load(above, VMTypeInfo.depth)
        with builder.if_then(self._compare("<", self.load(info, VMTypeInfo.depth), depth)):
            builder.ret(I32(0))
        place = self._type_data(builder.add(self.load(info, VMTypeInfo.supertypes_start), depth))
        return builder.zext(self._compare("==", self.load_typed(place, I32), supertype), I32)

    def lh_is_subtype(self, type_index: ir.Value, supertype: ir.Value, result: ir.Value) -> None:
        """See the table."""
        self._check_type(type_index)
        self._check_type(supertype)
        self.store_typed(self._call("lh.is_subtype", type_index, supertype), result)

    def lh_field_offset(self, type_index: ir.Value, field: ir.Value, result: ir.Value) -> None:
        """See the table."""
        info = self._check_type(type_index)
        count = self.load(info, VMTypeInfo.field_count)
        text = "field %llu is out of bounds: type %llu has %llu"
        self.check(self._compare("<", field, count), Status.OUT_OF_BOUNDS, text, field, type_index, count)
        self.store_typed(self.load(self._field_info(info, field), VMFieldInfo.offset), result)

    # ------------------------------------------------------------------------------------------------------------------
    # Types: defining

    def lh_define_struct(
        self, fields: ir.Value, count: ir.Value, supertype: ir.Value, flags: ir.Value, result: ir.Value
    ) -> None:
        """See the table. The type data gets what `DrcHeap.register_type` writes, in its order."""
        builder = self.builder
        few = self._compare("<=", count, MAX_STRUCT_FIELDS)
        self.require(few, Status.BAD_TYPE, f"a struct cannot have %llu fields; at most {MAX_STRUCT_FIELDS}", count)
        has_fields = builder.or_(self.is_not_null_pointer(fields), self._compare("==", count, 0))
        self.require(has_fields, Status.BAD_ARGUMENT, "the argument fields is a null pointer")
        self._check_definition(flags)
        type_index = self._control(VMHeapControl.type_count)
        self._check_fields(fields, count, type_index)
        above = self._check_supertype(supertype, VMGcKind.STRUCT_REF)
        self._check_inherited(fields, count, supertype, type_index)

        traced = self.variable(I32(0))
        with self._each(count) as number:
            is_traced = self._is_traced_definition(self._definition(fields, number))
            traced.value = builder.add(traced.value, builder.zext(is_traced, I32))
        depth = self._depth_below(supertype, above)
        words = builder.mul(count, I32(ctypes.sizeof(VMFieldInfo) // _WORD))
        start = self._reserve_type_data(builder.add(builder.add(traced.value, builder.add(depth, I32(1))), words))

        info = self._type_info(type_index)
        fields_start = builder.add(builder.add(start, traced.value), builder.add(depth, I32(1)))
        self.store(fields_start, info, VMTypeInfo.fields_start)
        offset, align = self.variable(I32(HEADER_SIZE)), self.variable(I32(HEADER_ALIGN))
        place, mask = self.variable(start), self.variable(I64(0))
        beyond = self.variable(I32(0))
        with self._each(count) as number:
            definition = self._definition(fields, number)
            size = self._call("lh.size_of_storage", self._storage_of(definition))
            align.value = self._maximum(align.value, size)
            offset.value = self._aligned(offset.value, size)
            is_traced = self._write_field(self._field_info(info, number), definition, offset.value, type_index)
            with builder.if_then(is_traced):
                self.store_typed(offset.value, self._type_data(place.value))
                place.value = builder.add(place.value, I32(1))
                slot = builder.udiv(builder.sub(offset.value, I32(HEADER_SIZE)), I32(REFERENCE_SIZE))
                fits = self._compare("<", slot, TRACED_MASK_BITS)
                with builder.if_else(fits) as (within, outside):
                    with within:
                        mask.value = builder.or_(mask.value, builder.shl(I64(1), builder.zext(slot, I64)))
                    with outside:
                        beyond.value = I32(1)
            offset.value = builder.add(offset.value, size)
        is_beyond = self._compare("!=", beyond.value, 0)
        self.store(builder.select(is_beyond, I64(0), mask.value), info, VMTypeInfo.traced_mask)
        self.store(beyond.value, info, VMTypeInfo.is_beyond_mask)
        self.store(traced.value, info, VMTypeInfo.traced_count)
        self.store(start, info, VMTypeInfo.traced_offsets_start)
        self.store(self._aligned(offset.value, align.value), info, VMTypeInfo.size_or_elements_offset)
        self.store(0, info, VMTypeInfo.element_size)
        self.store(count, info, VMTypeInfo.field_count)
        display = builder.add(start, traced.value)
        self._finish_type(type_index, info, VMGcKind.STRUCT_REF, supertype, display, depth, flags, result)

    def lh_define_array(self, element: ir.Value, supertype: ir.Value, flags: ir.Value, result: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        has_element = self.is_not_null_pointer(element)
        self.require(has_element, Status.BAD_ARGUMENT, "the argument element is a null pointer")
        self._check_definition(flags)
        type_index = self._control(VMHeapControl.type_count)
        self._check_fields(element, I32(1), type_index)
        above = self._check_supertype(supertype, VMGcKind.ARRAY_REF)
        self._check_inherited(element, I32(1), supertype, type_index)
        depth = self._depth_below(supertype, above)
        words = ctypes.sizeof(VMFieldInfo) // _WORD
        start = self._reserve_type_data(builder.add(depth, I32(1 + words)))

        info = self._type_info(type_index)
        self.store(builder.add(start, builder.add(depth, I32(1))), info, VMTypeInfo.fields_start)
        size = self._call("lh.size_of_storage", self._storage_of(element))
        header_end = VMDrcArrayHeader.length.offset + VMDrcArrayHeader.length.size
        offset = self._aligned(I32(header_end), size)
        is_traced = self._write_field(self._field_info(info, I32(0)), element, offset, type_index)
        traced = builder.zext(is_traced, I32)
        self.store(offset, info, VMTypeInfo.size_or_elements_offset)
        self.store(size, info, VMTypeInfo.element_size)
        self.store(traced, info, VMTypeInfo.traced_count)
        self.store(traced, info, VMTypeInfo.is_beyond_mask)
        self.store(0, info, VMTypeInfo.traced_mask)
        self.store(start, info, VMTypeInfo.traced_offsets_start)
        self.store(1, info, VMTypeInfo.field_count)
        self._finish_type(type_index, info, VMGcKind.ARRAY_REF, supertype, start, depth, flags, result)

    def _check_definition(self, flags: ir.Value) -> None:
        foreign = self.load(self.vmctx, VMHeap.is_foreign)
        text = "Python made this heap, and defines its types"
        self.require(self._compare("==", foreign, 0), Status.UNSUPPORTED, text)
        known = self._compare("==", self.builder.and_(flags, I32(~TYPE_FINAL)), 0)
        self.require(known, Status.BAD_ARGUMENT, f"flags are 0x%llx; 0 and 0x{TYPE_FINAL:x} are known", flags)
        count = self._control(VMHeapControl.type_count)
        self.require(self._compare("<", count, TYPE_LIMIT), Status.LIMIT, f"all {TYPE_LIMIT} types are defined")

    def _definition(self, fields: ir.Value, number: ir.Value) -> ir.Value:
        offset = self.builder.mul(self.builder.zext(number, I64), I64(ctypes.sizeof(VMFieldDefinition)))
        return self.at(fields, offset)

    def _storage_of(self, definition: ir.Value) -> ir.Value:
        return self.builder.zext(self.load(definition, VMFieldDefinition.storage), I32)

    def _heap_type_of(self, definition: ir.Value, type_index: ir.Value) -> ir.Value:
        """A definition's heap type, with the type itself where it says so."""
        heap_type = self.load(definition, VMFieldDefinition.heap_type)
        return self.builder.select(self._compare("==", heap_type, SELF_TYPE), type_index, heap_type)

    def _is_traced_definition(self, definition: ir.Value) -> ir.Value:
        builder = self.builder
        heap_type = self.load(definition, VMFieldDefinition.heap_type)
        is_traced = self._compare("==", self._storage_of(definition), VMStorage.REFERENCE)
        return builder.and_(is_traced, builder.not_(self.is_one_of(heap_type, _UNTRACED_HEAP_TYPES)))

    def _check_fields(self, fields: ir.Value, count: ir.Value, type_index: ir.Value) -> None:
        """Fail unless each field has a known storage and known flags, and refers to a type that there is."""
        builder = self.builder
        with self._each(count) as number:
            definition = self._definition(fields, number)
            storage = self._storage_of(definition)
            known = self._compare("<=", storage, max(VMStorage))
            text = f"field %llu has storage %llu; they are from 0 to {max(VMStorage)}"
            self.require(known, Status.BAD_TYPE, text, number, storage)
            flags = self.load(definition, VMFieldDefinition.flags)
            known = self._compare("==", builder.and_(flags, I16(~(FIELD_MUTABLE | FIELD_NULLABLE))), 0)
            text = f"field %llu has flags 0x%llx; 0x{FIELD_MUTABLE:x} and 0x{FIELD_NULLABLE:x} are known"
            self.require(known, Status.BAD_TYPE, text, number, flags)
            heap_type = self._heap_type_of(definition, type_index)
            is_concrete = self._compare("<=", heap_type, type_index)  # its own included: it is being defined
            is_abstract = builder.and_(
                self._compare(">=", heap_type, min(VMHeapType)), self._compare("<=", heap_type, max(VMHeapType))
            )
            is_number = self._compare("!=", storage, VMStorage.REFERENCE)
            is_right = builder.select(
                is_number, self._compare("==", heap_type, 0), builder.or_(is_concrete, is_abstract)
            )
            text = "field %llu refers to heap type 0x%llx, which is not defined"
            self.require(is_right, Status.BAD_TYPE, text, number, heap_type)

    def _check_supertype(self, supertype: ir.Value, kind: VMGcKind) -> ir.Value:
        """Fail unless there is no supertype, or it is one that may be; return its entry, or that of type 0."""
        builder = self.builder
        none = self._compare("==", supertype, NO_SUPERTYPE)
        with builder.if_then(builder.not_(none)):
            info = self._check_type(supertype, kind, always=True)
            is_open = self._compare("==", self.load(info, VMTypeInfo.is_final), 0)
            self.require(is_open, Status.BAD_TYPE, "type %llu is final, and cannot be a supertype", supertype)
            is_low = self._compare("<", self.load(info, VMTypeInfo.depth), MAX_SUBTYPING_DEPTH)
            text = f"type %llu has {MAX_SUBTYPING_DEPTH} supertypes above it, and can have no subtype"
            self.require(is_low, Status.BAD_TYPE, text, supertype)
        return self._type_info(builder.select(none, I32(0), supertype))

    def _check_inherited(self, fields: ir.Value, count: ir.Value, supertype: ir.Value, type_index: ir.Value) -> None:
        """Fail unless the first fields can stand where the supertype's are expected."""
        builder = self.builder
        with builder.if_then(self._compare("!=", supertype, NO_SUPERTYPE)):
            info = self._type_info(supertype)
            inherited = self.load(info, VMTypeInfo.field_count)
            text = "a subtype with %llu fields of type %llu, which has %llu"
            self.require(self._compare(">=", count, inherited), Status.BAD_TYPE, text, count, supertype, inherited)
            with self._each(inherited) as number:
                field = self._field_info(info, number)
                definition = self._definition(fields, number)
                same_storage = self._compare(
                    "==", self.load(field, VMFieldInfo.storage), self.load(definition, VMFieldDefinition.storage)
                )
                above_flags = builder.and_(
                    builder.zext(self.load(field, VMFieldInfo.flags), I32), I32(FIELD_MUTABLE | FIELD_NULLABLE)
                )
                flags = builder.zext(self.load(definition, VMFieldDefinition.flags), I32)
                accepted = self._call(
                    "lh.field_accepts",
                    self.load(field, VMFieldInfo.heap_type),
                    above_flags,
                    self._heap_type_of(definition, type_index),
                    flags,
                    supertype,
                )
                is_right = builder.and_(same_storage, self._compare("!=", accepted, 0))
                text = "field %llu does not match that of supertype %llu"
                self.require(is_right, Status.BAD_TYPE, text, number, supertype)

    def _field_accepts(
        self, above: ir.Value, above_flags: ir.Value, below: ir.Value, flags: ir.Value, supertype: ir.Value
    ) -> ir.Value:
        """1 if a field of a subtype may be of heap type `below` and `flags` where the supertype's is `above`.

        A mutable field must be just the same. Another may be of a subtype, or not nullable where the other is.
        `below` may be the type that is being defined, a direct subtype of `supertype`, which has no entry yet.
        """
        builder = self.builder
        same = builder.and_(self._compare("==", above, below), self._compare("==", above_flags, flags))
        with builder.if_then(same):
            builder.ret(I32(1))
        is_mutable = self._flag(builder.or_(above_flags, flags), FIELD_MUTABLE)
        gains_null = builder.and_(
            self._flag(flags, FIELD_NULLABLE), builder.not_(self._flag(above_flags, FIELD_NULLABLE))
        )
        with builder.if_then(builder.or_(is_mutable, gains_null)):
            builder.ret(I32(0))
        with builder.if_then(self._compare("==", above, below)):
            builder.ret(I32(1))
        is_new = self._compare("==", below, self._control(VMHeapControl.type_count))
        known = builder.select(is_new, supertype, below)  # a supertype's supertypes are its own
        is_concrete = self._compare("<", known, TYPE_LIMIT)
        with builder.if_then(builder.and_(is_concrete, self._compare("<", above, TYPE_LIMIT))):
            builder.ret(self._call("lh.is_subtype", known, above))
        with builder.if_then(is_concrete):
            kind = self.load(self._type_info(known), VMTypeInfo.kind)
            is_extern = self._compare("==", above, VMHeapType.EXTERN)  # objects may be extern, but no types are below
            matches = builder.and_(self._kind_matches(kind, above), builder.not_(is_extern))
            builder.ret(builder.zext(matches, I32))
        # Two abstract ones: struct, array and i31 below eq and any; the bottoms below their hierarchies.
        pairs = {
            VMHeapType.ANY: (VMHeapType.EQ, VMHeapType.I31, VMHeapType.STRUCT, VMHeapType.ARRAY, VMHeapType.NONE),
            VMHeapType.EQ: (VMHeapType.I31, VMHeapType.STRUCT, VMHeapType.ARRAY, VMHeapType.NONE),
            VMHeapType.I31: (VMHeapType.NONE,),
            VMHeapType.STRUCT: (VMHeapType.NONE,),
            VMHeapType.ARRAY: (VMHeapType.NONE,),
            VMHeapType.EXTERN: (VMHeapType.NOEXTERN,),
            VMHeapType.FUNC: (VMHeapType.NOFUNC,),
            VMHeapType.EXN: (VMHeapType.NOEXN,),
        }
        result: ir.Value = I1(0)
        for upper, lowers in pairs.items():
            for lower in lowers:
                pair = builder.and_(self._compare("==", above, upper), self._compare("==", known, lower))
                result = builder.or_(result, pair)
        is_none = builder.and_(self._compare("==", known, VMHeapType.NONE), self._compare("<", above, TYPE_LIMIT))
        return builder.zext(builder.or_(result, is_none), I32)

    def _kind_matches(self, kind: ir.Value, heap_type: ir.Value) -> ir.Value:
        """Whether objects of a kind are of an abstract heap type. Any object may be any and extern, converted."""
        builder = self.builder
        result = builder.or_(
            self._compare("==", heap_type, VMHeapType.ANY), self._compare("==", heap_type, VMHeapType.EXTERN)
        )
        for known, wanted in _KIND_OF_HEAP_TYPE.items():
            has_bits = self._compare("==", builder.and_(kind, I32(int(wanted))), int(wanted))
            result = builder.or_(result, builder.and_(self._compare("==", heap_type, known), has_bits))
        return result

    def _depth_below(self, supertype: ir.Value, above: ir.Value) -> ir.Value:
        none = self._compare("==", supertype, NO_SUPERTYPE)
        below = self.builder.add(self.load(above, VMTypeInfo.depth), I32(1))
        return self.builder.select(none, I32(0), below)

    def _reserve_type_data(self, words: ir.Value) -> ir.Value:
        """Take so many words at the end of the type data; LH_LIMIT when it is full."""
        start = self._control(VMHeapControl.type_data_length)
        end = self.builder.add(start, words)
        text = f"the type data is full: %llu of at most {TYPE_DATA_LIMIT} words are used"
        self.require(self._compare("<=", end, TYPE_DATA_LIMIT), Status.LIMIT, text, start)
        self._set_control(VMHeapControl.type_data_length, end)
        return start

    def _write_field(self, field: ir.Value, definition: ir.Value, offset: ir.Value, type_index: ir.Value) -> ir.Value:
        """Write a field's entry; return whether the field is traced."""
        builder = self.builder
        is_traced = self._is_traced_definition(definition)
        flags = builder.or_(
            self.load(definition, VMFieldDefinition.flags), builder.select(is_traced, I16(FIELD_TRACED), I16(0))
        )
        self.store(offset, field, VMFieldInfo.offset)
        self.store(self.load(definition, VMFieldDefinition.storage), field, VMFieldInfo.storage)
        self.store(flags, field, VMFieldInfo.flags)
        self.store(self._heap_type_of(definition, type_index), field, VMFieldInfo.heap_type)
        return is_traced

    def _finish_type(
        self,
        type_index: ir.Value,
        info: ir.Value,
        kind: VMGcKind,
        supertype: ir.Value,
        display: ir.Value,
        depth: ir.Value,
        flags: ir.Value,
        result: ir.Value,
    ) -> None:
        """Write the display, the supertype's and then the type itself, and what makes the entry complete."""
        builder = self.builder
        none = self._compare("==", supertype, NO_SUPERTYPE)
        above = self._type_info(builder.select(none, I32(0), supertype))
        first = self.load(above, VMTypeInfo.supertypes_start)
        with self._each(depth) as number:
            inherited = self.load_typed(self._type_data(builder.add(first, number)), I32)
            self.store_typed(inherited, self._type_data(builder.add(display, number)))
        self.store_typed(type_index, self._type_data(builder.add(display, depth)))
        self.store(display, info, VMTypeInfo.supertypes_start)
        self.store(depth, info, VMTypeInfo.depth)
        self.store(builder.and_(flags, I32(TYPE_FINAL)), info, VMTypeInfo.is_final)
        self.store(int(kind), info, VMTypeInfo.kind)
        self._set_control(VMHeapControl.type_count, builder.add(type_index, I32(1)))
        self.store_typed(type_index, result)

    def _aligned(self, value: ir.Value, alignment: ir.Value) -> ir.Value:
        builder = self.builder
        up = builder.add(value, builder.sub(alignment, I32(1)))
        return builder.and_(up, builder.neg(alignment))

    def _size_of_storage(self, storage: ir.Value) -> ir.Value:
        result: ir.Value = I32(REFERENCE_SIZE)
        for known, size in _SIZES.items():
            result = self.builder.select(self._compare("==", storage, known), I32(size), result)
        return result

    # ------------------------------------------------------------------------------------------------------------------
    # Allocating

    def lh_alloc_struct(self, type_index: ir.Value, result: ir.Value) -> None:
        """See the table. The checked build has no fast path: it may be time to collect."""
        if not self.is_checked:
            size = self.load(self._type_info(type_index), VMTypeInfo.size_or_elements_offset)
            length = self._block_length(size)
            with self._if_popped(length) as reference:
                self._write_listed_header(reference, VMGcKind.STRUCT_REF, type_index, size, length)
                self._zero_block(reference, HEADER_SIZE, length)
                self.store_typed(reference, result)
                self.builder.ret(I32(Status.OK))
        self.builder.ret(self._call(_ALLOCATE_STRUCT_SLOWLY, type_index, result))

    def _allocate_struct_slowly(self, type_index: ir.Value, result: ir.Value) -> ir.Value:
        self.api = FUNCTIONS["lh_alloc_struct"]
        info = self._check_type(type_index, VMGcKind.STRUCT_REF)
        size = self.load(info, VMTypeInfo.size_or_elements_offset)
        reference = self._allocate_or_fail(allocation.allocate_struct, type_index, needed=self.builder.zext(size, I64))
        self._zero_behind(reference, HEADER_SIZE, size)
        self._hand_out(reference, result)
        return I32(Status.OK)

    def lh_alloc_array(self, type_index: ir.Value, length: ir.Value, result: ir.Value) -> None:
        """See the table. As for structs, of arrays that are small."""
        builder = self.builder
        if not self.is_checked:
            needed = self._array_size(self._type_info(type_index), length)
            with builder.if_then(self._compare("<", needed, SMALL_BLOCK_LIMIT - BLOCK_ALIGN), likely=True):
                size = builder.trunc(needed, I32)
                block_length = self._block_length(size)
                with self._if_popped(block_length) as reference:
                    self._write_listed_header(reference, VMGcKind.ARRAY_REF, type_index, size, block_length)
                    self._zero_block(reference, HEADER_SIZE, block_length)
                    self.store_header(length, reference, VMDrcArrayHeader.length)
                    self.store_typed(reference, result)
                    builder.ret(I32(Status.OK))
        builder.ret(self._call(_ALLOCATE_ARRAY_SLOWLY, type_index, length, result))

    def _allocate_array_slowly(self, type_index: ir.Value, length: ir.Value, result: ir.Value) -> ir.Value:
        self.api = FUNCTIONS["lh_alloc_array"]
        info = self._check_type(type_index, VMGcKind.ARRAY_REF)
        needed = self._array_size(info, length)
        reference = self._allocate_or_fail(allocation.allocate_array, type_index, length, needed=needed)
        size = self.load_header(reference, VMDrcHeader.object_size)
        self._zero_behind(reference, VMDrcArrayHeader.length.offset + VMDrcArrayHeader.length.size, size)
        self._hand_out(reference, result)
        return I32(Status.OK)

    @contextmanager
    def _if_popped(self, length: ir.Value) -> Iterator[ir.Value]:
        """Emit the body for the case that there is a small block of exactly `length` bytes, which it gets."""
        builder = self.builder
        with builder.if_then(self._compare("<", length, SMALL_BLOCK_LIMIT), likely=True):
            head = self._class_head(self._exact_class(length))
            reference = self.load_typed(head, REFERENCE)
            with builder.if_then(self._compare("!=", reference, NULL), likely=True):
                self.store_typed(self.load(self.heap_address(reference), FreeBlock.next), head)
                yield reference

    def _write_listed_header(
        self, reference: ir.Value, kind: VMGcKind, type_index: ir.Value, size: ir.Value, length: ir.Value
    ) -> None:
        """Write the header of a new object whose one count is the list's, push it, and count it."""
        control, field = self.control, VMHeapControl.over_approximated_stack_roots
        block, head = self.heap_address(reference), self._control(field)
        word = kind | HEADER_IN_OVER_APPROX_LIST_BIT
        self._store_pair(block, VMDrcHeader.kind_and_reserved, word, VMDrcHeader.type_index, type_index)
        self.store(1, block, VMDrcHeader.ref_count)
        self._store_pair(block, VMDrcHeader.next_over_approximated_stack_root, head, VMDrcHeader.object_size, size)
        self.store(reference, control, field)
        self._add_to_control(VMHeapControl.current_len, I32(1))
        self._add_to_control(VMHeapControl.objects_allocated, I64(1))
        self._add_to_control(VMHeapControl.bytes_allocated, self.builder.zext(length, I64))

    def _zero_block(self, reference: ir.Value, start: int, length: ir.Value) -> None:
        """Set a block of `length` bytes, at least `MINIMUM_OBJECT_BLOCK`, to zero from `start` on.

        Small ones above all, for which a call of memset takes longer; `ApiFunction` keeps LLVM from making it one.
        """
        builder = self.builder
        assert 0 < MINIMUM_OBJECT_BLOCK - start <= I64.width // 8, "the rest of the smallest block is one store"
        self.store_typed(I64(0), self.heap_address(reference, start))
        place = self.variable(I32(MINIMUM_OBJECT_BLOCK))
        wide = ir.VectorType(I64, BLOCK_ALIGN // 8)
        with self.loop() as loop:
            current = place.value
            loop.leave_if(self._compare(">=", current, length))
            address = self.at(self.heap_address(reference), builder.zext(current, I64))
            builder.store(ir.Constant(wide, None), address, align=BLOCK_ALIGN)
            place.value = builder.add(current, I32(BLOCK_ALIGN))

    def lh_alloc_externref(self, data: ir.Value, finalizer: ir.Value, result: ir.Value) -> None:
        """See the table. The room is found first, so that a failure leaves the side table as it was."""
        builder = self.builder
        size = ctypes.sizeof(VMDrcExternRef)
        text = f"all {HOST_DATA_LIMIT} host-data ids are in use"
        may_collect = self._compare("==", self._control(VMHeapControl.no_gc_count), 0)
        with builder.if_then(builder.and_(builder.not_(self._has_host_data_id()), may_collect), likely=False):
            self._collect_or_fail()
            self.release_dead_externrefs()
        self.require(self._has_host_data_id(), Status.LIMIT, text)
        reference = self._allocate_or_fail(allocation.allocate_externref, needed=I64(size))
        # Whatever was called back meanwhile may have taken ids, the last one, too.
        with builder.if_then(builder.not_(self._has_host_data_id()), likely=False):
            self.free_externref(reference)
            self.fail(Status.LIMIT, text)
        count, free = self._control(VMHeapControl.host_data_count), self._control(VMHeapControl.free_host_data)
        is_new = self._compare("==", free, 0)
        number = builder.select(is_new, count, builder.sub(free, I32(1)))
        entry = self.host_data_entry(number)
        with builder.if_else(is_new) as (new, used):
            with new:
                self._set_control(VMHeapControl.host_data_count, builder.add(count, I32(1)))
            with used:
                self._set_control(VMHeapControl.free_host_data, self.load(entry, VMHostData.next_free))
        self.store(builder.ptrtoint(data, I64), entry, VMHostData.data)
        self.store(builder.ptrtoint(finalizer, I64), entry, VMHostData.finalizer)
        self.store(0, entry, VMHostData.next_free)
        self.store(int(VMHostDataOwner.C), entry, VMHostData.owner)
        self._zero_behind(reference, HEADER_SIZE, I32(size))
        self.store_typed(number, self.heap_address(reference, VMDrcExternRef.host_data_id.offset))
        self._hand_out(reference, result)

    def _has_host_data_id(self) -> ir.Value:
        count, free = self._control(VMHeapControl.host_data_count), self._control(VMHeapControl.free_host_data)
        return self.builder.or_(self._compare("!=", free, 0), self._compare("<", count, HOST_DATA_LIMIT))

    def free_externref(self, reference: ir.Value) -> None:
        """Free the block of an externref that has no host data, or none any more."""
        length = self._block_length(I32(ctypes.sizeof(VMDrcExternRef)))
        self._push_free(reference, length, 0)
        self._add_to_control(VMHeapControl.objects_freed, I64(1))
        self._add_to_control(VMHeapControl.bytes_freed, self.builder.zext(length, I64))

    def host_data_entry(self, number: ir.Value) -> ir.Value:
        """The address of an entry of the side table."""
        table = self.load_pointer(self.control, VMHeapControl.host_data, invariant=True)
        offset = self.builder.mul(self.builder.zext(number, I64), I64(ctypes.sizeof(VMHostData)))
        return self.at(table, offset)

    def _allocate_or_fail(self, allocate: Native[..., Any], *args: ir.Value, needed: ir.Value) -> ir.Value:
        """A new object; or, after the host was asked to let go of something, a failure."""
        builder = self.builder
        if self.is_checked:
            self._collect_if_it_is_time()
        reference = self.variable(self.call_native(allocate, *args))
        with builder.if_then(self._compare("==", reference.value, NULL), likely=False):
            self._fail_if_slot_bad()
            callback = self.load_pointer(self.vmctx, VMHeap.out_of_memory)
            ran_out = self._compare("==", self._trap_code(), int(TrapCode.HEAP_EXHAUSTED))
            with builder.if_then(builder.and_(ran_out, self.is_not_null_pointer(callback))):
                argument = self.load_pointer(self.vmctx, VMHeap.out_of_memory_argument)
                with self.called_back():
                    retry = self.call_pointer(callback, I32, [PTR, I64], [argument, needed])
                with builder.if_then(self._compare("!=", retry, 0)):
                    reference.value = self.call_native(allocate, *args)
            with builder.if_then(self._compare("==", reference.value, NULL)):
                self._fail_to_allocate(needed)
        return reference.value

    def _trap_code(self) -> ir.Value:
        return self.load(self.store_context, VMStoreContext.trap_code)

    def _fail_to_allocate(self, needed: ir.Value) -> None:
        builder = self.builder
        code = self._trap_code()
        self.store(0, self.store_context, VMStoreContext.trap_code)
        with builder.if_then(self._compare("==", code, int(TrapCode.ALLOCATION_TOO_LARGE))):
            text = (
                f"an object of %llu bytes; the largest heap there can be has room for {MAXIMUM_CAPACITY - FIRST_INDEX}"
            )
            self.fail(Status.TOO_LARGE, text, needed)
        self._fail_if_untraceable()
        capacity, maximum = self._control(VMHeapControl.capacity), self._control(VMHeapControl.maximum)
        text = "no room for %llu bytes: %llu of %llu are live; the heap may have %llu"
        self.fail(Status.OUT_OF_MEMORY, text, needed, self._live_bytes(), capacity, maximum)
        # What follows is never reached, but a block must not stay open.
        builder.position_at_end(self.function.append_basic_block())

    def _fail_if_untraceable(self) -> None:
        self._fail_if_slot_bad()
        address = self.load(self.store_context, VMStoreContext.unknown_return_address)
        with self.builder.if_then(self._compare("!=", address, 0), likely=False):
            self.store(0, self.store_context, VMStoreContext.unknown_return_address)
            text = "a frame of compiled code that returns to 0x%llx has no stack map"
            self.fail(Status.CORRUPT, text, address)
        reference = self.load(self.store_context, VMStoreContext.unsound_root)
        with self.builder.if_then(self._compare("!=", reference, NULL), likely=False):
            self.store(NULL, self.store_context, VMStoreContext.unsound_root)
            text = "a frame holds 0x%llx, which is stale, or was never a deferred reference"
            self.fail(Status.BAD_REFERENCE, text, reference)

    def _fail_if_slot_bad(self) -> None:
        """Fail, in the checked build, if a frame holds what no collection could mark."""
        if self.is_checked:
            address = self.call_native(collection.unsound_slot)
            with self.builder.if_then(self._compare("!=", address, 0), likely=False):
                reference = self.load_typed(self.builder.inttoptr(address, PTR), REFERENCE)
                text = "slot 0x%llx of a frame holds 0x%llx, which is stale, or was never a deferred reference"
                self.fail(Status.BAD_REFERENCE, text, address, reference)

    def _collect_or_fail(self) -> None:
        done = self.call_native(collection.collect_all)
        with self.builder.if_then(self.builder.not_(done), likely=False):
            self._fail_if_untraceable()

    def _collect_if_it_is_time(self) -> None:
        """A heap with `collect_every` collects at every so many allocations, which proves that frames hold enough."""
        builder = self.builder
        every = self.load(self.vmctx, VMHeap.collect_every)
        with builder.if_then(self._compare("!=", every, 0), likely=False):
            number = builder.add(self.load(self.vmctx, VMHeap.allocations), I64(1))
            self.store(number, self.vmctx, VMHeap.allocations)
            is_time = self._compare("==", builder.urem(number, builder.zext(every, I64)), 0)
            may = self._compare("==", self._control(VMHeapControl.no_gc_count), 0)
            with builder.if_then(builder.and_(is_time, may)):
                self._collect_or_fail()

    def _zero_behind(self, reference: ir.Value, start: int, end: ir.Value) -> None:
        """Set an object's bytes from `start` to `end` to zero."""
        memset = self.intrinsic("llvm.memset.p0.i64", VOID, [PTR, I8, I64, I1])
        length = self.builder.zext(self.builder.sub(end, I32(start)), I64)
        self.builder.call(memset, [self.heap_address(reference, start), I8(0), length, I1(0)])

    def _hand_out(self, reference: ir.Value, result: ir.Value) -> None:
        """Give a new object, whose one count becomes the list's, to the caller."""
        self.barriers.allocate(self, reference)
        self.store_typed(reference, result)
        self.release_dead_externrefs()

    # ------------------------------------------------------------------------------------------------------------------
    # Objects

    def lh_type_of(self, reference: ir.Value, result: ir.Value) -> None:
        """See the table."""
        self.check_object(reference)
        self.store_typed(self.load_header(reference, VMDrcHeader.type_index), result)

    def lh_is_instance(self, reference: ir.Value, type_index: ir.Value, result: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        self.check_reference(reference)
        self._check_type(type_index)
        answer = self.variable(I32(0))
        with builder.if_then(self._is_object(reference)):
            answer.value = self._call("lh.matches", reference, type_index)
        self.store_typed(answer.value, result)

    def _matches(self, reference: ir.Value, heap_type: ir.Value) -> ir.Value:
        """1 if an object is of a heap type, abstract or not."""
        builder = self.builder
        word = self.load_header(reference, VMDrcHeader.kind_and_reserved)
        with builder.if_then(self._compare(">=", heap_type, TYPE_LIMIT)):
            builder.ret(builder.zext(self._kind_matches(builder.and_(word, I32(KIND_MASK)), heap_type), I32))
        type_index = self.load_header(reference, VMDrcHeader.type_index)
        with builder.if_then(self._compare("==", type_index, EXTERNREF_TYPE_INDEX)):
            builder.ret(I32(0))
        return self._call("lh.is_subtype", type_index, heap_type)

    def _check_kind(self, reference: ir.Value, kind: VMGcKind, name: str) -> None:
        """Fail, in the checked build, unless `reference` names an object of a kind."""
        self.check_object(reference)
        if self.is_checked:
            word = self.load_header(reference, VMDrcHeader.kind_and_reserved)
            is_kind = self._compare("==", self.builder.and_(word, I32(KIND_MASK)), int(kind))
            text = f"the object at 0x%llx is not {name}; its kind is 0x%llx"
            self.check(is_kind, Status.WRONG_TYPE, text, reference, self.builder.and_(word, I32(KIND_MASK)))

    def lh_array_length(self, reference: ir.Value, result: ir.Value) -> None:
        """See the table."""
        self._check_kind(reference, VMGcKind.ARRAY_REF, "an array")
        self.store_typed(self.load_header(reference, VMDrcArrayHeader.length), result)

    def lh_array_data(self, reference: ir.Value, result: ir.Value) -> None:
        """See the table."""
        self._check_kind(reference, VMGcKind.ARRAY_REF, "an array")
        info = self._type_info(self.load_header(reference, VMDrcHeader.type_index))
        if self.is_checked:
            storage = self.load(self._field_info(info, I32(0)), VMFieldInfo.storage)
            is_plain = self._compare("!=", storage, VMStorage.REFERENCE)
            self.check(is_plain, Status.WRONG_TYPE, "the array at 0x%llx has references as elements", reference)
        self.store_typed(self.heap_address(reference, self.load(info, VMTypeInfo.size_or_elements_offset)), result)

    def lh_externref_data(self, reference: ir.Value, result: ir.Value) -> None:
        """See the table."""
        self._check_kind(reference, VMGcKind.EXTERN_REF, "an externref")
        number = self.load_typed(self.heap_address(reference, VMDrcExternRef.host_data_id.offset), I32)
        self.store_typed(self.load(self.host_data_entry(number), VMHostData.data), result)

    # ------------------------------------------------------------------------------------------------------------------
    # Fields and elements

    def _field(self, reference: ir.Value, field: ir.Value, storages: Sequence[VMStorage]) -> _Place:
        """Return a struct field's address, and the address of its entry."""
        self._check_kind(reference, VMGcKind.STRUCT_REF, "a struct")
        info = self._type_info(self.load_header(reference, VMDrcHeader.type_index))
        count = self.load(info, VMTypeInfo.field_count)
        text = "field %llu is out of bounds: the struct at 0x%llx has %llu"
        self.check(self._compare("<", field, count), Status.OUT_OF_BOUNDS, text, field, reference, count)
        entry = self._field_info(info, field)
        self._check_storage(entry, storages, "field %llu", field)
        return self.heap_address(reference, self.load(entry, VMFieldInfo.offset)), entry

    def _element(self, reference: ir.Value, index: ir.Value, storages: Sequence[VMStorage]) -> _Place:
        """Return an element's address, and the address of the entry for all of its array type's."""
        builder = self.builder
        self._check_kind(reference, VMGcKind.ARRAY_REF, "an array")
        info = self._type_info(self.load_header(reference, VMDrcHeader.type_index))
        length = self.load_header(reference, VMDrcArrayHeader.length)
        text = "element %llu is out of bounds: the array at 0x%llx has %llu"
        self.check(self._compare("<", index, length), Status.OUT_OF_BOUNDS, text, index, reference, length)
        entry = self._field_info(info, I32(0))
        self._check_storage(entry, storages, "element %llu", index)
        offset = builder.mul(index, self.load(info, VMTypeInfo.element_size))
        offset = builder.add(offset, self.load(info, VMTypeInfo.size_or_elements_offset))
        return self.heap_address(reference, offset), entry

    def _check_storage(self, entry: ir.Value, storages: Sequence[VMStorage], what: str, number: ir.Value) -> None:
        if self.is_checked:
            storage = self.load(entry, VMFieldInfo.storage)
            is_right = self.is_one_of(storage, storages)
            names = " or ".join(known.name.lower() for known in storages)
            text = f"{what} has storage %llu; this is for {names}, {int(storages[0])}"
            self.check(is_right, Status.WRONG_TYPE, text, number, storage)

    def _get_i32(self, place: _Place, result: ir.Value) -> None:
        self._get_extended(place, result, self.builder.sext)

    def _get_u32(self, place: _Place, result: ir.Value) -> None:
        self._get_extended(place, result, self.builder.zext)

    def _get_extended(self, place: _Place, result: ir.Value, extend: Callable[[ir.Value, ir.Type], ir.Value]) -> None:
        builder = self.builder
        address, entry = place
        value = self.variable(I32(0))
        storage = self.load(entry, VMFieldInfo.storage)
        with builder.if_else(self._compare("==", storage, VMStorage.I32), likely=True) as (whole, packed):
            with whole:
                value.value = self.load_typed(address, I32)
            with packed, builder.if_else(self._compare("==", storage, VMStorage.I16)) as (half, byte):
                with half:
                    value.value = extend(self.load_typed(address, I16), I32)
                with byte:
                    value.value = extend(self.load_typed(address, I8), I32)
        self.store_typed(value.value, result)

    def _set_i32(self, place: _Place, value: ir.Value) -> None:
        builder = self.builder
        address, entry = place
        storage = self.load(entry, VMFieldInfo.storage)
        with builder.if_else(self._compare("==", storage, VMStorage.I32), likely=True) as (whole, packed):
            with whole:
                self.store_typed(value, address)
            with packed, builder.if_else(self._compare("==", storage, VMStorage.I16)) as (half, byte):
                with half:
                    self.store_typed(builder.trunc(value, I16), address)
                with byte:
                    self.store_typed(builder.trunc(value, I8), address)

    def _set(self, place: _Place, value: ir.Value) -> None:
        self.store_typed(value, place[0])

    def _get_reference(self, place: _Place, result: ir.Value) -> None:
        self.store_typed(self.barriers.read(self, place[0], ANY_REFERENCE), result)

    def _set_reference(self, place: _Place, value: ir.Value) -> None:
        address, entry = place
        self.check_reference(value, what="value")
        if self.is_checked:
            self._check_value(entry, value)
        self.barriers.write(self, address, value, ANY_REFERENCE)
        self.release_dead_externrefs()

    def _check_value(self, entry: ir.Value, value: ir.Value) -> None:
        """Fail unless a field may hold a reference: its type says what it may refer to, and if it may be null."""
        builder = self.builder
        heap_type = self.load(entry, VMFieldInfo.heap_type)
        flags = builder.zext(self.load(entry, VMFieldInfo.flags), I32)
        is_null = self._compare("==", value, NULL)
        wrong = builder.and_(is_null, builder.not_(self._flag(flags, FIELD_NULLABLE)))
        self.check(builder.not_(wrong), Status.WRONG_TYPE, "the value is null, where that cannot be")
        takes_i31 = self.is_one_of(heap_type, _HEAP_TYPES_WITH_I31)
        wrong = builder.and_(self._flag(value, I31_TAG), builder.not_(takes_i31))
        text = "the value 0x%llx is an i31, where heap type 0x%llx is wanted"
        self.check(builder.not_(wrong), Status.WRONG_TYPE, text, value, heap_type)
        with builder.if_then(self._is_object(value)):
            matches = self._call("lh.matches", value, heap_type)
            text = "the object at 0x%llx is of type %llu, where heap type 0x%llx is wanted"
            type_index = self.load_header(value, VMDrcHeader.type_index)
            self.check(self._compare("!=", matches, 0), Status.WRONG_TYPE, text, value, type_index, heap_type)

    lh_struct_get_i32 = _accessor(_field, _get_i32, _INTEGERS)
    lh_struct_get_u32 = _accessor(_field, _get_u32, _INTEGERS)
    lh_struct_get_i64 = _accessor(_field, _reading(I64), (VMStorage.I64,))
    lh_struct_get_f32 = _accessor(_field, _reading(F32), (VMStorage.F32,))
    lh_struct_get_f64 = _accessor(_field, _reading(F64), (VMStorage.F64,))
    lh_struct_get_ref = _accessor(_field, _get_reference, _REFERENCES)
    lh_struct_set_i32 = _accessor(_field, _set_i32, _INTEGERS)
    lh_struct_set_i64 = _accessor(_field, _set, (VMStorage.I64,))
    lh_struct_set_f32 = _accessor(_field, _set, (VMStorage.F32,))
    lh_struct_set_f64 = _accessor(_field, _set, (VMStorage.F64,))
    lh_struct_set_ref = _accessor(_field, _set_reference, _REFERENCES)

    lh_array_get_i32 = _accessor(_element, _get_i32, _INTEGERS)
    lh_array_get_u32 = _accessor(_element, _get_u32, _INTEGERS)
    lh_array_get_i64 = _accessor(_element, _reading(I64), (VMStorage.I64,))
    lh_array_get_f32 = _accessor(_element, _reading(F32), (VMStorage.F32,))
    lh_array_get_f64 = _accessor(_element, _reading(F64), (VMStorage.F64,))
    lh_array_get_ref = _accessor(_element, _get_reference, _REFERENCES)
    lh_array_set_i32 = _accessor(_element, _set_i32, _INTEGERS)
    lh_array_set_i64 = _accessor(_element, _set, (VMStorage.I64,))
    lh_array_set_f32 = _accessor(_element, _set, (VMStorage.F32,))
    lh_array_set_f64 = _accessor(_element, _set, (VMStorage.F64,))
    lh_array_set_ref = _accessor(_element, _set_reference, _REFERENCES)

    # ------------------------------------------------------------------------------------------------------------------
    # Barriers

    def lh_inc_ref(self, reference: ir.Value) -> None:
        """See the table."""
        self.check_reference(reference)
        self.barriers.inc_ref(self, reference, ANY_REFERENCE)

    def lh_dec_ref(self, reference: ir.Value) -> None:
        """See the table."""
        self.check_reference(reference)
        if self.is_checked:
            self._check_own_count(reference, "give back")
        self.barriers.dec_ref(self, reference, ANY_REFERENCE)
        self.release_dead_externrefs()

    def lh_expose(self, reference: ir.Value) -> None:
        """See the table."""
        self.check_reference(reference)
        if self.is_checked:
            self._check_own_count(reference, "hand over")
        self.barriers.expose(self, reference, ANY_REFERENCE)

    def lh_defer(self, reference: ir.Value) -> None:
        """See the table."""
        self.check_reference(reference)
        self.barriers.inc_ref(self, reference, ANY_REFERENCE)
        self.barriers.expose(self, reference, ANY_REFERENCE)

    def _check_own_count(self, reference: ir.Value, what: str) -> None:
        """Fail when the only count of an object is the list's: it is nobody's to give."""
        builder = self.builder
        with builder.if_then(self._is_object(reference)):
            word = self.load_header(reference, VMDrcHeader.kind_and_reserved)
            is_last = self._compare("==", self.load_header(reference, VMDrcHeader.ref_count), 1)
            wrong = builder.and_(is_last, self._flag(word, HEADER_IN_OVER_APPROX_LIST_BIT))
            text = f"cannot {what} a count of the object at 0x%llx: its only one is the list's"
            self.check(builder.not_(wrong), Status.BAD_REFERENCE, text, reference)

    def lh_read(self, slot: ir.Value, result: ir.Value) -> None:
        """See the table."""
        self._check_slot(slot)
        self.store_typed(self.barriers.read(self, slot, ANY_REFERENCE), result)

    def lh_write(self, slot: ir.Value, value: ir.Value) -> None:
        """See the table."""
        self._check_slot(slot)
        self.check_reference(value, what="value")
        self.barriers.write(self, slot, value, ANY_REFERENCE)
        self.release_dead_externrefs()

    def lh_init(self, slot: ir.Value, value: ir.Value) -> None:
        """See the table."""
        self._check_slot(slot)
        self.check_reference(value, what="value")
        if self.is_checked:
            held, address = self.load_typed(slot, REFERENCE), self.builder.ptrtoint(slot, I64)
            text = "slot 0x%llx holds the object at 0x%llx already, which lh_write would let go of"
            self.check(self.builder.not_(self._is_object(held)), Status.BAD_SLOT, text, address, held)
        self.barriers.init(self, slot, value, ANY_REFERENCE)

    def _check_slot(self, slot: ir.Value) -> None:
        """Fail, in the checked build, unless a slot is registered or in the heap, aligned, and holds what it can."""
        if not self.is_checked:
            return
        builder = self.builder
        address = builder.ptrtoint(slot, I64)
        is_aligned = self._compare("==", builder.and_(address, I64(REFERENCE_SIZE - 1)), 0)
        self.check(is_aligned, Status.BAD_SLOT, "slot 0x%llx is not a multiple of 4", address)
        offset = builder.sub(address, builder.ptrtoint(self.heap_base, I64))
        is_inside = self._compare("<", offset, builder.zext(self._control(VMHeapControl.bump), I64))
        with builder.if_then(builder.not_(is_inside)):
            number = self._find_slot(address)
            is_registered = self._compare("<", number, self._control(VMHeapControl.root_slot_count))
            text = "slot 0x%llx is neither in the heap nor registered"
            self.check(is_registered, Status.BAD_SLOT, text, address)
        self.check_reference(self.load_typed(slot, REFERENCE), what="the slot's value")

    # ------------------------------------------------------------------------------------------------------------------
    # Roots

    def lh_frame_push(self, frame: ir.Value, slots: ir.Value, count: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        if self.is_checked:
            has_slots = builder.or_(self.is_not_null_pointer(slots), self._compare("==", count, 0))
            self.check(has_slots, Status.BAD_ARGUMENT, "the argument slots is a null pointer")
            innermost = self.load(self.store_context, VMStoreContext.root_frames)
            is_new = self._compare("!=", builder.ptrtoint(frame, I64), innermost)
            address = builder.ptrtoint(frame, I64)
            self.check(is_new, Status.BAD_FRAME, "the frame at 0x%llx is pushed already", address)
            with self._each(count) as number:
                self.check_reference(self.load_typed(self._slot_of(slots, number), REFERENCE), what="slot")
        self.store(self.load(self.store_context, VMStoreContext.root_frames), frame, VMRootFrame.previous)
        self.store(builder.ptrtoint(self.vmctx, I64), frame, VMRootFrame.heap)
        self.store(builder.ptrtoint(slots, I64), frame, VMRootFrame.slots)
        self.store(count, frame, VMRootFrame.slot_count)
        self.store(builder.ptrtoint(frame, I64), self.store_context, VMStoreContext.root_frames)

    def _slot_of(self, slots: ir.Value, number: ir.Value) -> ir.Value:
        return self.at(slots, self.builder.mul(self.builder.zext(number, I64), I64(REFERENCE_SIZE)))

    def lh_frame_pop(self, frame: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        if self.is_checked:
            innermost = self.load(self.store_context, VMStoreContext.root_frames)
            address = builder.ptrtoint(frame, I64)
            text = "the frame at 0x%llx is not the one that was pushed last on this heap, at 0x%llx"
            self.check(self._compare("==", address, innermost), Status.BAD_FRAME, text, address, innermost)
        self.store(self.load(frame, VMRootFrame.previous), self.store_context, VMStoreContext.root_frames)

    def _root_slot(self, number: ir.Value) -> ir.Value:
        table = self.load_pointer(self.control, VMHeapControl.root_slots, invariant=True)
        offset = self.builder.mul(self.builder.zext(number, I64), I64(ctypes.sizeof(ctypes.c_uint64)))
        return self.at(table, offset)

    def _find_slot(self, address: ir.Value) -> ir.Value:
        """The number of the entry that holds an address; the number of entries when none does."""
        builder = self.builder
        number = self.variable(I32(0))
        with self.loop() as loop:
            current = number.value
            loop.leave_if(self._compare(">=", current, self._control(VMHeapControl.root_slot_count)))
            loop.leave_if(self._compare("==", self.load_typed(self._root_slot(current), I64), address))
            number.value = builder.add(current, I32(1))
        return number.value

    def lh_slot_register(self, slot: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        address = builder.ptrtoint(slot, I64)
        count = self._control(VMHeapControl.root_slot_count)
        is_new = self._compare("==", self._find_slot(address), count)
        self.check(is_new, Status.BAD_SLOT, "slot 0x%llx is registered already", address)
        number = self._find_slot(I64(0))
        is_room = self._compare("<", number, ROOT_SLOT_LIMIT)
        self.require(is_room, Status.LIMIT, f"all {ROOT_SLOT_LIMIT} root slots are in use")
        self.store_typed(REFERENCE(NULL), slot)
        self.store_typed(address, self._root_slot(number))
        with builder.if_then(self._compare("==", number, count)):
            self._set_control(VMHeapControl.root_slot_count, builder.add(count, I32(1)))

    def lh_slot_unregister(self, slot: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        address = builder.ptrtoint(slot, I64)
        number = self._find_slot(address)
        is_known = self._compare("<", number, self._control(VMHeapControl.root_slot_count))
        self.require(is_known, Status.BAD_SLOT, "slot 0x%llx is not registered", address)
        self.store_typed(I64(0), self._root_slot(number))
        self.barriers.write(self, slot, REFERENCE(NULL), ANY_REFERENCE)
        self.release_dead_externrefs()

    # ------------------------------------------------------------------------------------------------------------------
    # Collecting

    def _require_no_scope(self) -> None:
        count = self._control(VMHeapControl.no_gc_count)
        text = "cannot collect inside a no-GC scope; %llu are entered"
        self.require(self._compare("==", count, 0), Status.NO_GC, text, count)

    def lh_collect(self) -> None:
        """See the table."""
        self._require_no_scope()
        self._collect_or_fail()
        self.release_dead_externrefs()

    def lh_collect_increment(self, budget: ir.Value, result: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        self.check(self._compare("!=", budget, 0), Status.BAD_ARGUMENT, "the budget is 0; it must be at least 1")
        pending = self._control(VMHeapControl.pending_dead)
        with builder.if_then(self._compare("==", pending, NULL)):
            self._require_no_scope()
            traced = self.call_native(collection.trace)
            with builder.if_then(builder.not_(traced), likely=False):
                self.call_native(collection.clear_marks)
                self._fail_if_untraceable()
            self.call_native(collection.sweep_pending)
        self.store_typed(builder.zext(self.call_native(counting.free_pending, budget), I32), result)
        self.release_dead_externrefs()

    def lh_no_gc_enter(self) -> None:
        """See the table."""
        self._add_to_no_gc_count(1)

    def lh_no_gc_exit(self) -> None:
        """See the table."""
        is_entered = self._compare("!=", self._control(VMHeapControl.no_gc_count), 0)
        self.require(is_entered, Status.NO_GC, "cannot leave a no-GC scope: none was entered")
        self._add_to_no_gc_count(-1)

    def _add_to_no_gc_count(self, difference: int) -> None:
        count = self._control(VMHeapControl.no_gc_count)
        self._set_control(VMHeapControl.no_gc_count, self.builder.add(count, I32(difference)))

    # ------------------------------------------------------------------------------------------------------------------
    # Messages

    def lh_error_message(self, buffer: ir.Value, size: ir.Value) -> ir.Value:
        """See the table. Without a failure, the message is empty."""
        builder = self.builder
        text = self.load_pointer(self.vmctx, VMHeap.error_format)
        with builder.if_then(builder.not_(self.is_not_null_pointer(text))):
            has_room = builder.and_(self._compare("!=", size, 0), self.is_not_null_pointer(buffer))
            with builder.if_then(has_room):
                self.store_typed(I8(0), buffer)
            builder.ret(I64(0))
        return builder.zext(self.format_message(buffer, size), I64)
