"""Objects and their parts: what a reference names, where a field or an element is, and what may be put there.

What is looked at here, is in the checked build only: the fast one takes arguments at their word.
"""

from __future__ import annotations

from lowheap.collectors.shared.casts import matches
from lowheap.collectors.shared.ranges import has_element
from lowheap.collectors.shared.references import block_length, is_object, may_be_object
from lowheap.collectors.shared.types import array_size, field_info
from lowheap.errors import Status
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    FIELD_NULLABLE,
    FIELD_TRACED,
    FIRST_INDEX,
    I31_TAG,
    KIND_ARRAY_BIT,
    KIND_MASK,
    NULL,
    VMDrcExternRef,
    VMFieldInfo,
    VMGcKind,
    VMHeapType,
    VMStorage,
)
from lowheap.native import (
    Heap,
    Ref,
    Text,
    as_signed,
    check,
    inline,
    likely,
    native,
    require,
    sizeof,
    u8,
    u16,
    u32,
    u64,
    unlikely,
    wrapping_mul,
    wrapping_u8,
    wrapping_u16,
    wrapping_u32,
)

_WITH_I31 = (VMHeapType.ANY, VMHeapType.EQ, VMHeapType.I31, VMHeapType.EXTERN)

SOUND, NO_OBJECT, STALE, FORGED = range(4)
"""What `object_problem` finds."""

OBJECT, REFERENCE, VALUE, SLOT_VALUE, FRAME_SLOT = map(
    Text, ("object", "reference", "value", "the slot's value", "slot")
)
"""What messages call a reference."""

STRUCT, ARRAY, EXTERNREF, EXCEPTION = map(Text, ("a struct", "an array", "an externref", "an exception"))
HIDDEN = Text("of a hidden type")
THE_STRUCT, THE_EXCEPTION = Text("the struct"), Text("the exception")
FIELD, ELEMENT = Text("field"), Text("element")
"""What they call an object, and a part of it."""


class Storages:
    """The storages that an access is for, neighbours in `VMStorage`; the message names the first as a number, too."""

    is_native_static = True

    least: u32
    most: u32

    def __init__(self, *storages: VMStorage) -> None:
        """Take them, what they are called by first."""
        self.least, self.most = int(min(storages)), int(max(storages))
        self._text = f"{' or '.join(each.name.lower() for each in storages)}, {int(storages[0])}"

    @property
    def key(self) -> str:
        """What tells code for these from that for others."""
        return f"storages-{self.least}-{self.most}"

    def __str__(self) -> str:
        """Return the end of the message."""
        return self._text


# ----------------------------------------------------------------------------------------------------------------------
# What a reference names


@inline
def agrees_with_type(heap: Heap, reference: Ref) -> bool:
    """Whether a header is one that the heap can have written: of a type that there is, and as large as that says."""
    header = heap.header(reference)
    kind = header.kind_and_reserved & KIND_MASK
    type_index = header.type_index
    size = header.object_size
    control = heap.control
    if u64(reference) + u64(block_length(size)) > u64(control.bump):
        return False
    if kind == VMGcKind.EXTERN_REF:
        if (type_index != EXTERNREF_TYPE_INDEX) or (size != sizeof(VMDrcExternRef)):
            return False
        return heap.externref(reference).host_data_id < control.host_data_count
    if type_index >= control.type_count:
        return False
    info = heap.type_info(type_index)
    if info.kind != kind:
        return False
    if kind & KIND_ARRAY_BIT != 0:
        return u64(size) == array_size(heap, type_index, heap.array(reference).length)
    return size == info.size_or_elements_offset


@native
def object_problem(heap: Heap, reference: Ref) -> u32:
    """What keeps a reference that is neither null nor an i31 from naming a live object."""
    if not may_be_object(heap, reference):
        return NO_OBJECT
    is_asked: bool = not heap.collector.counts_tell_life
    if (is_asked or (heap.header(reference).ref_count == 0)) and not heap.collector.is_live(heap, reference):
        return STALE
    if not agrees_with_type(heap, reference):
        return FORGED
    return SOUND


@inline
def check_names_object(heap: Heap, reference: Ref, what: Text) -> None:
    """Fail unless a reference that is neither null nor an i31 names a live object."""
    problem = object_problem(heap, reference)
    if problem != SOUND:
        bump = heap.control.bump
        require(
            problem != NO_OBJECT,
            Status.BAD_REFERENCE,
            f"{what} {{:#x}} names no live object; the heap has them from 0x{FIRST_INDEX:x} to {{:#x}}",
            reference,
            bump,
        )
        require(
            problem != STALE,
            Status.BAD_REFERENCE,
            f"{what} {{:#x}} is stale: its object has no owner left",
            reference,
        )
        header = heap.header(reference)
        require(
            problem != FORGED,
            Status.BAD_REFERENCE,
            f"{what} {{:#x}} names no object: what looks like a header there is of type {{}} and size {{}}",
            reference,
            header.type_index,
            header.object_size,
        )


@inline
def check_object(heap: Heap, reference: Ref, what: Text) -> None:
    """Fail unless a reference names a live object of this heap."""
    if heap.is_checked:
        require(reference != NULL, Status.NULL_REFERENCE, f"{what} is null")
        require(reference & I31_TAG == 0, Status.BAD_REFERENCE, f"{what} {{:#x}} is an i31, not an object", reference)
        check_names_object(heap, reference, what)


@inline
def check_reference(heap: Heap, reference: Ref, what: Text) -> None:
    """Fail unless a reference is null, an i31, or names a live object of this heap."""
    if heap.is_checked and is_object(reference):
        check_names_object(heap, reference, what)


@inline
def check_kind(heap: Heap, reference: Ref, kind: u32, name: Text) -> None:
    """Fail unless a reference names an object of a kind."""
    if heap.is_checked:
        check_object(heap, reference, OBJECT)
        found = heap.header(reference).kind_and_reserved & KIND_MASK
        if unlikely(found != kind):
            refuse_kind(found, VMGcKind.STRUCT_REF, reference, name, STRUCT)
            refuse_kind(found, VMGcKind.ARRAY_REF, reference, name, ARRAY)
            refuse_kind(found, VMGcKind.EXTERN_REF, reference, name, EXTERNREF)
            refuse_kind(found, VMGcKind.EXN_REF, reference, name, EXCEPTION)
            refuse_kind(found, VMGcKind.HIDDEN_ARRAY_REF, reference, name, HIDDEN)
            refuse_kind(found, VMGcKind.HIDDEN_STRUCT_REF, reference, name, HIDDEN)


@inline
def refuse_kind(found: u32, kind: u32, reference: Ref, wanted: Text, name: Text) -> None:
    """Fail if an object has a kind, which is called so, and is not the wanted one."""
    require(found != kind, Status.WRONG_TYPE, f"the object at {{:#x}} is not {wanted}; it is {name}", reference)


@inline
def check_storage(entry: VMFieldInfo, storages: Storages, part: Text, number: u32) -> None:
    """Fail unless a part has a storage that an access is for, and, if that is for references, can hold objects'.

    A reference to a function is a number in a table, which a barrier would take for an object's.
    """
    check(
        (storages.least <= u32(entry.storage)) & (u32(entry.storage) <= storages.most),
        Status.WRONG_TYPE,
        f"{part} {{}} has storage {{}}; this is for {storages}",
        number,
        entry.storage,
    )
    if storages.least == VMStorage.REFERENCE:
        check(
            (entry.flags & FIELD_TRACED != 0) or (entry.heap_type == VMHeapType.I31),
            Status.WRONG_TYPE,
            f"{part} {{}} refers to functions, which are no objects",
            number,
        )


# ----------------------------------------------------------------------------------------------------------------------
# Where a part is: how far into the object, and the entry that tells what it is


@inline
def place_of_field(heap: Heap, reference: Ref, field: u32, storages: Storages, name: Text) -> tuple[u32, VMFieldInfo]:
    """Where a field is of an object that has some, which is called so."""
    info = heap.type_info(heap.header(reference).type_index)
    check(
        field < info.field_count,
        Status.OUT_OF_BOUNDS,
        f"field {{}} is out of bounds: {name} at {{:#x}} has {{}}",
        field,
        reference,
        info.field_count,
    )
    entry = field_info(heap, info, field)
    check_storage(entry, storages, FIELD, field)
    return entry.offset, entry


@inline
def field_place(heap: Heap, reference: Ref, field: u32, storages: Storages) -> tuple[u32, VMFieldInfo]:
    """Where a struct's field is."""
    check_kind(heap, reference, VMGcKind.STRUCT_REF, STRUCT)
    return place_of_field(heap, reference, field, storages, THE_STRUCT)


@inline
def exception_place(heap: Heap, reference: Ref, field: u32, storages: Storages) -> tuple[u32, VMFieldInfo]:
    """Where an exception's field is."""
    check_kind(heap, reference, VMGcKind.EXN_REF, EXCEPTION)
    return place_of_field(heap, reference, field, storages, THE_EXCEPTION)


@inline
def element_place(heap: Heap, reference: Ref, index: u32, storages: Storages) -> tuple[u32, VMFieldInfo]:
    """Where an array's element is; the entry is that of them all."""
    check_kind(heap, reference, VMGcKind.ARRAY_REF, ARRAY)
    info = heap.type_info(heap.header(reference).type_index)
    check(
        has_element(heap, reference, index),
        Status.OUT_OF_BOUNDS,
        "element {} is out of bounds: the array at {:#x} has {}",
        index,
        reference,
        heap.array(reference).length,
    )
    entry = field_info(heap, info, 0)
    check_storage(entry, storages, ELEMENT, index)
    return index * info.element_size + info.size_or_elements_offset, entry


# ----------------------------------------------------------------------------------------------------------------------
# What is there


@inline
def load_unsigned(heap: Heap, reference: Ref, offset: u32, storage: u32) -> u32:
    """An i32, or an i8 or i16 without sign."""
    if likely(storage == VMStorage.I32):
        whole: u32 = heap.cell(u32, reference, offset).value
        return whole
    if storage == VMStorage.I16:
        return u32(heap.cell(u16, reference, offset).value)
    return u32(heap.cell(u8, reference, offset).value)


@inline
def load_signed(heap: Heap, reference: Ref, offset: u32, storage: u32) -> u32:
    """An i32, or an i8 or i16 with its sign, as the u32 of the same bits."""
    if likely(storage == VMStorage.I32):
        whole: u32 = heap.cell(u32, reference, offset).value
        return whole
    if storage == VMStorage.I16:
        return wrapping_u32(as_signed(wrapping_mul(u32(heap.cell(u16, reference, offset).value), 1 << 16)) >> 16)
    return wrapping_u32(as_signed(wrapping_mul(u32(heap.cell(u8, reference, offset).value), 1 << 24)) >> 24)


@inline
def store_integer(heap: Heap, reference: Ref, offset: u32, storage: u32, value: u32) -> None:
    """Store an i32, or what is left of it in an i8 or i16."""
    if likely(storage == VMStorage.I32):
        heap.cell(u32, reference, offset).value = value
    elif storage == VMStorage.I16:
        heap.cell(u16, reference, offset).value = wrapping_u16(value)
    else:
        heap.cell(u8, reference, offset).value = wrapping_u8(value)


@inline
def check_value(heap: Heap, entry: VMFieldInfo, value: Ref) -> None:
    """Fail unless a field may hold a reference: its type says what it may refer to, and if it may be null."""
    if heap.is_checked:
        heap_type = entry.heap_type
        require(
            (value != NULL) or (entry.flags & FIELD_NULLABLE != 0),
            Status.WRONG_TYPE,
            "the value is null, where that cannot be",
        )
        require(
            (value & I31_TAG == 0) or (heap_type in _WITH_I31),
            Status.WRONG_TYPE,
            "the value {:#x} is an i31, where heap type {:#x} is wanted",
            value,
            heap_type,
        )
        if is_object(value):
            require(
                matches(heap, value, heap_type),
                Status.WRONG_TYPE,
                "the object at {:#x} is of type {}, where heap type {:#x} is wanted",
                value,
                heap.header(value).type_index,
                heap_type,
            )
