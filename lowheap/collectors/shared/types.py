"""The type table: what it says of a type, and how it comes to say that.

An entry is complete when its `kind` is set, and never changes then. `VMTypeInfo` tells what is in it, and what of it is
in the type data: offsets of traced fields, the display, and a `VMFieldInfo` for each field, in this order.
"""

from __future__ import annotations

from lowheap.collectors.shared.casts import is_subtype, kind_matches
from lowheap.errors import Status
from lowheap.layout import (
    ARRAY_HEADER_END,
    EXCEPTION_FIELDS_OFFSET,
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    FIELD_TRACED,
    HEADER_ALIGN,
    HEADER_SIZE,
    KIND_ARRAY_BIT,
    NO_SUPERTYPE,
    REFERENCE_SIZE,
    SELF_TYPE,
    TRACED_MASK_BITS,
    TYPE_DATA_LIMIT,
    TYPE_FINAL,
    TYPE_LIMIT,
    VMFieldDefinition,
    VMFieldInfo,
    VMGcKind,
    VMHeapType,
    VMStorage,
    VMTypeInfo,
)
from lowheap.native import Heap, at, cell, inline, native, require, sizeof, u32, u64, wrapping_u16
from lowheap.types import MAX_STRUCT_FIELDS, MAX_SUBTYPING_DEPTH

FIELD_UNTRACED = 1 << 15
"""Flag of a definition: a reference that names no object, although its heap type could be one of objects. So it is with
function types, which share their numbers with the others; only Python defines fields of these."""

_WORD = 4
_FIELD_WORDS = sizeof(VMFieldInfo) // _WORD
_LAST_STORAGE = max(VMStorage)
_FIRST_HEAP_TYPE, _LAST_HEAP_TYPE = min(VMHeapType), max(VMHeapType)
_UNTRACED = (VMHeapType.I31, VMHeapType.FUNC, VMHeapType.NOFUNC)
_OVER_EQ = (VMHeapType.ANY,)
_OVER_COMPOSITES = (VMHeapType.ANY, VMHeapType.EQ)
_OVER_NONE = (VMHeapType.ANY, VMHeapType.EQ, VMHeapType.I31, VMHeapType.STRUCT, VMHeapType.ARRAY)
_COMPOSITES = (VMHeapType.I31, VMHeapType.STRUCT, VMHeapType.ARRAY)
_KNOWN_FLAGS = FIELD_MUTABLE | FIELD_NULLABLE


class NewTypeInfo(VMTypeInfo):
    """An entry that is being written. All others are final."""


# ----------------------------------------------------------------------------------------------------------------------
# Reading


@inline
def is_defined(heap: Heap, type_index: u32) -> bool:
    """Whether a type has an entry."""
    return (type_index < heap.control.type_count) & (heap.type_info(type_index).kind != 0)


@inline
def field_info(heap: Heap, info: VMTypeInfo, field: u32) -> VMFieldInfo:
    """The entry of a field that there is; of an array type, field 0 is its elements'."""
    start = heap.control.type_data + u64(info.fields_start) * _WORD
    return at(VMFieldInfo, start + u64(field) * sizeof(VMFieldInfo))


@inline
def array_size(heap: Heap, type_index: u32, length: u32) -> u64:
    """How many bytes an array of a type has."""
    info = heap.type_info(type_index)
    return u64(info.size_or_elements_offset) + u64(length) * u64(info.element_size)


@inline
def size_of_storage(storage: u32) -> u32:
    """How many bytes a field of a storage has; it is aligned to as many."""
    if storage == VMStorage.I8:
        return 1
    if storage == VMStorage.I16:
        return 2
    if (storage == VMStorage.I64) or (storage == VMStorage.F64):
        return 8
    if storage == VMStorage.V128:
        return 16
    return 4


# ----------------------------------------------------------------------------------------------------------------------
# Checking a definition. What is wrong with it is said in every build: a definition is rare, and a wrong type for good.


@inline
def check_type(heap: Heap, type_index: u32) -> None:
    """Fail, in the checked build, unless a type is defined."""
    if heap.is_checked:
        require(is_defined(heap, type_index), Status.BAD_TYPE, "type {} is not defined", type_index)


@inline
def require_type_of(heap: Heap, type_index: u32, kind: u32) -> None:
    """Fail unless a type is defined, of objects of a kind: structs or arrays."""
    require(is_defined(heap, type_index), Status.BAD_TYPE, "type {} is not defined", type_index)
    is_of_kind = heap.type_info(type_index).kind == kind
    if kind == VMGcKind.STRUCT_REF:
        require(is_of_kind, Status.WRONG_TYPE, "type {} is not a struct type", type_index)
    else:
        require(is_of_kind, Status.WRONG_TYPE, "type {} is not an array type", type_index)


@inline
def definition_at(fields: u64, number: u32) -> VMFieldDefinition:
    """One of the definitions at an address."""
    return at(VMFieldDefinition, fields + u64(number) * sizeof(VMFieldDefinition))


@inline
def heap_type_of(definition: VMFieldDefinition, type_index: u32) -> u32:
    """A definition's heap type, with the type itself where it says so."""
    heap_type = definition.heap_type
    return type_index if heap_type == SELF_TYPE else heap_type


@inline
def is_traced(definition: VMFieldDefinition) -> bool:
    """Whether what a field holds can name an object."""
    heap_type = definition.heap_type
    is_reference = definition.storage == VMStorage.REFERENCE
    return is_reference & (heap_type not in _UNTRACED) & (definition.flags & FIELD_UNTRACED == 0)


@inline
def check_fields(fields: u64, count: u32, type_index: u32) -> None:
    """Fail unless each field has a known storage and known flags, and refers to a type that there is."""
    for number in range(count):
        definition = definition_at(fields, number)
        storage = u32(definition.storage)
        require(
            storage <= _LAST_STORAGE,
            Status.BAD_TYPE,
            f"field {{}} has storage {{}}; they are from 0 to {_LAST_STORAGE}",
            number,
            storage,
        )
        flags = u32(definition.flags)
        require(
            flags & ~_KNOWN_FLAGS == 0,
            Status.BAD_TYPE,
            f"field {{}} has flags {{:#x}}; 0x{FIELD_MUTABLE:x} and 0x{FIELD_NULLABLE:x} are known",
            number,
            flags,
        )
        heap_type = heap_type_of(definition, type_index)
        is_concrete = heap_type <= type_index  # its own included: it is being defined
        is_abstract = (heap_type >= _FIRST_HEAP_TYPE) & (heap_type <= _LAST_HEAP_TYPE)
        is_right = heap_type == 0 if storage != VMStorage.REFERENCE else is_concrete | is_abstract
        require(
            is_right,
            Status.BAD_TYPE,
            "field {} refers to heap type {:#x}, which is not defined",
            number,
            heap_type,
        )


@inline
def check_supertype(heap: Heap, supertype: u32, kind: u32) -> None:
    """Fail unless there is no supertype, or it is one that may be."""
    if supertype != NO_SUPERTYPE:
        require_type_of(heap, supertype, kind)
        info = heap.type_info(supertype)
        require(info.is_final == 0, Status.BAD_TYPE, "type {} is final, and cannot be a supertype", supertype)
        require(
            info.depth < MAX_SUBTYPING_DEPTH,
            Status.BAD_TYPE,
            f"type {{}} has {MAX_SUBTYPING_DEPTH} supertypes above it, and can have no subtype",
            supertype,
        )


@inline
def check_inherited(heap: Heap, fields: u64, count: u32, supertype: u32, type_index: u32) -> None:
    """Fail unless the first fields can stand where the supertype's are expected."""
    if supertype != NO_SUPERTYPE:
        info = heap.type_info(supertype)
        inherited = info.field_count
        require(
            count >= inherited,
            Status.BAD_TYPE,
            "a subtype with {} fields of type {}, which has {}",
            count,
            supertype,
            inherited,
        )
        for number in range(inherited):
            field = field_info(heap, info, number)
            definition = definition_at(fields, number)
            accepted = field_accepts(
                heap,
                field.heap_type,
                u32(field.flags) & _KNOWN_FLAGS,
                heap_type_of(definition, type_index),
                u32(definition.flags),
                supertype,
            )
            require(
                accepted & (field.storage == definition.storage),
                Status.BAD_TYPE,
                "field {} does not match that of supertype {}",
                number,
                supertype,
            )


@native
def field_accepts(heap: Heap, above: u32, above_flags: u32, below: u32, flags: u32, supertype: u32) -> bool:
    """Whether a field of a subtype may be of heap type `below` and `flags` where the supertype's is `above`.

    A mutable field must be just the same. Another may be of a subtype, or not nullable where the other is. `below` may
    be the type that is being defined, a direct subtype of `supertype`, which has no entry yet.
    """
    if above == below and above_flags == flags:
        return True
    if (above_flags | flags) & FIELD_MUTABLE:
        return False
    if flags & ~above_flags & FIELD_NULLABLE:
        return False
    if above == below:
        return True
    known = supertype if below == heap.control.type_count else below  # a supertype's supertypes are its own
    if known < TYPE_LIMIT:
        if above < TYPE_LIMIT:
            return is_subtype(heap, known, above)
        # Objects may be extern, but no types are below it.
        return above != VMHeapType.EXTERN and kind_matches(heap.type_info(known).kind, above)
    return is_below(known, above)


@inline
def is_below(below: u32, above: u32) -> bool:
    """Whether an abstract heap type is below another, or a bottom below a type."""
    if below == VMHeapType.NONE:
        return (above < TYPE_LIMIT) | (above in _OVER_NONE)
    if below in _COMPOSITES:
        return above in _OVER_COMPOSITES
    if below == VMHeapType.EQ:
        return above in _OVER_EQ
    if below == VMHeapType.NOEXTERN:
        return above == VMHeapType.EXTERN
    if below == VMHeapType.NOFUNC:
        return above == VMHeapType.FUNC
    if below == VMHeapType.NOEXN:
        return above == VMHeapType.EXN
    return False


# ----------------------------------------------------------------------------------------------------------------------
# Writing


@inline
def define_type(heap: Heap, kind: u32, fields: u64, count: u32, supertype: u32, flags: u32) -> u32:
    """Check a definition of a struct or an array type, enter it in the table, and return the type's number."""
    require(
        flags & ~TYPE_FINAL == 0, Status.BAD_ARGUMENT, f"flags are {{:#x}}; 0 and 0x{TYPE_FINAL:x} are known", flags
    )
    type_index = heap.control.type_count
    require(type_index < TYPE_LIMIT, Status.LIMIT, f"all {TYPE_LIMIT} types are defined")
    check_fields(fields, count, type_index)
    check_supertype(heap, supertype, kind)
    check_inherited(heap, fields, count, supertype, type_index)
    above: u64 = 0
    depth: u32 = 0
    if supertype != NO_SUPERTYPE:
        info = heap.type_info(supertype)
        above = heap.control.type_data + u64(info.supertypes_start) * _WORD
        depth = info.depth + 1
    write_type(heap, type_index, kind, fields, count, above, depth, flags)
    return type_index


@inline
def check_struct(fields: u64, count: u32) -> None:
    """Fail unless a struct can have so many fields, and there are some."""
    require(
        count <= MAX_STRUCT_FIELDS,
        Status.BAD_TYPE,
        f"a struct cannot have {{}} fields; at most {MAX_STRUCT_FIELDS}",
        count,
    )
    require((fields != 0) | (count == 0), Status.BAD_ARGUMENT, "the argument fields is a null pointer")


@inline
def aligned(offset: u32, alignment: u32) -> u32:
    """The next multiple of a power of two."""
    return (offset + (alignment - 1)) & ~(alignment - 1)


@inline
def write_field(heap: Heap, position: u32, definition: VMFieldDefinition, offset: u32, type_index: u32) -> None:
    """Write a field's entry at a position of the type data."""
    entry = at(VMFieldInfo, heap.control.type_data + u64(position) * _WORD)
    flags = u32(definition.flags) & _KNOWN_FLAGS
    entry.offset = offset
    entry.storage = definition.storage
    entry.flags = wrapping_u16(flags | FIELD_TRACED if is_traced(definition) else flags)
    entry.heap_type = heap_type_of(definition, type_index)


@inline
def write_type(
    heap: Heap, type_index: u32, kind: u32, fields: u64, count: u32, above: u64, depth: u32, flags: u32
) -> None:
    """Enter a type, whose definition is right, in the table: `enter_type`. Fail when there is no room."""
    is_entered = enter_type(heap, type_index, kind, fields, count, above, depth, flags)
    require(
        is_entered,
        Status.LIMIT,
        f"the type data is full: {{}} of at most {TYPE_DATA_LIMIT} words are used",
        heap.control.type_data_length,
    )


@native
def enter_type(
    heap: Heap, type_index: u32, kind: u32, fields: u64, count: u32, above: u64, depth: u32, flags: u32
) -> bool:
    """Enter a type, whose definition is right, in the table: its words, and what of it is in the type data.

    `above` is the address of the numbers of the supertypes, from the root down; there are `depth`. False, when there is
    no room.
    """
    control = heap.control
    traced: u32 = 0
    for number in range(count):
        traced += u32(is_traced(definition_at(fields, number)))
    is_array = kind & KIND_ARRAY_BIT != 0
    offsets = 0 if is_array else traced
    start = control.type_data_length
    display = start + offsets
    fields_start = display + depth + 1
    end = fields_start + count * _FIELD_WORDS
    if end > TYPE_DATA_LIMIT:
        return False
    control.type_data_length = end
    for level in range(depth):
        inherited = cell(u32, above + u64(level) * _WORD).value
        cell(u32, control.type_data + u64(display + level) * _WORD).value = inherited
    cell(u32, control.type_data + u64(display + depth) * _WORD).value = type_index

    offset: u32 = HEADER_SIZE
    if is_array:
        offset = ARRAY_HEADER_END
    if kind == VMGcKind.EXN_REF:
        offset = EXCEPTION_FIELDS_OFFSET
    alignment: u32 = HEADER_ALIGN
    size: u32 = 0
    place = start
    mask: u64 = 0
    is_beyond: u32 = 0
    for number in range(count):
        definition = definition_at(fields, number)
        size = size_of_storage(u32(definition.storage))
        alignment = max(alignment, size)
        offset = aligned(offset, size)
        write_field(heap, fields_start + number * _FIELD_WORDS, definition, offset, type_index)
        if is_traced(definition) and not is_array:
            cell(u32, control.type_data + u64(place) * _WORD).value = offset
            place += 1
            slot = u64((offset - HEADER_SIZE) // REFERENCE_SIZE)
            if slot < TRACED_MASK_BITS:
                mask |= u64(1) << slot
            else:
                is_beyond = 1
        if not is_array:
            offset += size
    info = at(NewTypeInfo, control.type_table + u64(type_index) * sizeof(NewTypeInfo))
    info.size_or_elements_offset = offset if is_array else aligned(offset, alignment)
    info.element_size = size if is_array else 0
    info.traced_count = traced
    info.traced_offsets_start = start
    info.is_beyond_mask = traced if is_array else is_beyond
    info.traced_mask = mask if is_beyond == 0 else 0
    info.supertypes_start = display
    info.depth = depth
    info.fields_start = fields_start
    info.field_count = count
    info.is_final = flags & TYPE_FINAL
    info.kind = kind  # last: it says that the entry is complete
    control.type_count = max(control.type_count, type_index + 1)
    return True
