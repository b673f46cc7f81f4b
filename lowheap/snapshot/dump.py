"""Dumps: what C code writes of a heap (`lh_dump`), read as images.

A dump is the bytes as they are, behind a header that says how many there are of each sort: `layout.VMDump`. So only a
lowheap of the same layouts can read it. Types have no names there, and an exception's type has no results.

Reading trusts nothing: each count is checked against what is there before it is used. Whatever is not a dump is an
ImageFormatError that says what is wrong. A dump of a broken heap is read all the same, without the types of which the
type table makes no sense, and inspecting it tells what is broken.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

from lowheap.collectors.shared.allocator import OF_THE_COLLECTOR, SegregatedFit
from lowheap.declarations import layout_hash
from lowheap.layout import (
    DUMP_MAGIC,
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    FIELD_TRACED,
    HEAP_RESERVATION,
    KIND_ARRAY_BIT,
    TYPED_KINDS,
    VMDump,
    VMDumpPart,
    VMDumpRoot,
    VMFieldInfo,
    VMGcKind,
    VMHeapControl,
    VMHeapType,
    VMHostData,
    VMHostDataOwner,
    VMPartKind,
    VMRootKind,
    VMStorage,
    VMTypeInfo,
)
from lowheap.snapshot.contents import (
    TAG_FIELDS,
    Contents,
    ImageControl,
    ImageField,
    ImageFormatError,
    ImageRoot,
    ImageType,
    type_of_entry,
)
from lowheap.snapshot.parts import ImagePart
from lowheap.snapshot.reopened import collector_of
from lowheap.snapshot.tables import ImageTables
from lowheap.types import (
    AbstractHeapType,
    ArrayType,
    FieldType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    StructType,
    SubType,
    VectorType,
    storage_size,
)

_Record = TypeVar("_Record", bound=ctypes.Structure)

_MAGIC = DUMP_MAGIC.to_bytes(VMDump.magic.size, "little")
_WORD_SIZE = ctypes.sizeof(ctypes.c_uint32)
_FIELD_WORDS = ctypes.sizeof(VMFieldInfo) // _WORD_SIZE

_ROOT_KINDS: dict[int, str] = {VMRootKind.HANDLE: "handle", VMRootKind.SLOT: "slot", VMRootKind.FRAME: "frame"}
_ELEMENT_SIZES = (1, 2, 4, 8, 16)
_SCALARS: dict[int, StorageType] = {
    VMStorage.I8: PackedType.I8,
    VMStorage.I16: PackedType.I16,
    VMStorage.I32: NumType.I32,
    VMStorage.I64: NumType.I64,
    VMStorage.F32: NumType.F32,
    VMStorage.F64: NumType.F64,
    VMStorage.V128: VectorType.V128,
}
_HEAP_TYPES = {int(number): AbstractHeapType[number.name] for number in VMHeapType}


def is_dump(data: bytes) -> bool:
    """Whether these bytes begin as a dump does."""
    return data.startswith(_MAGIC)


def read(data: bytes) -> Contents:
    """Return what a dump has. ImageFormatError, which says why, for anything that is not a whole dump."""
    if not is_dump(data):
        raise ImageFormatError(f"not a heap dump: it does not begin with {_MAGIC!r}")
    if len(data) < ctypes.sizeof(VMDump):
        raise ImageFormatError(
            f"a heap dump cut short: it has {len(data)} bytes, its header alone {ctypes.sizeof(VMDump)}"
        )
    header = VMDump.from_buffer_copy(data)
    layouts = layout_hash()
    if header.abi != layouts:
        raise ImageFormatError(
            f"a heap dump of another lowheap: the hash of its layouts is {header.abi:#x}, of this one's {layouts:#x}"
        )
    if header.control_size != ctypes.sizeof(VMHeapControl):
        raise ImageFormatError(
            f"the control block in the heap dump has {header.control_size} bytes, not {ctypes.sizeof(VMHeapControl)}"
        )
    if header.heap_size > HEAP_RESERVATION:
        raise ImageFormatError(f"a heap of {header.heap_size} bytes; a heap has at most {HEAP_RESERVATION}")
    sizes = (
        ctypes.sizeof(VMDump),
        header.control_size,
        header.type_count * ctypes.sizeof(VMTypeInfo),
        header.type_data_length * _WORD_SIZE,
        header.handle_count * _WORD_SIZE,
        header.host_data_count * ctypes.sizeof(VMHostData),
        header.root_count * ctypes.sizeof(VMDumpRoot),
        header.parts_size,
        header.heap_size,
    )
    if len(data) != sum(sizes):
        how = "cut short" if len(data) < sum(sizes) else "with something behind it"
        raise ImageFormatError(f"a heap dump {how}: it has {len(data)} bytes, its header says {sum(sizes)}")
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    _, control_bytes, types, type_data, handles, host_data, roots, parts, heap = pieces
    control = VMHeapControl.from_buffer_copy(control_bytes)
    _check_counts(header, control)
    contents = Contents(
        data=heap,
        source="lowheap dump",
        types=_types(_records(VMTypeInfo, types), memoryview(type_data).cast("I")),
        control=ImageControl.of(control, SegregatedFit.name),
        roots=tuple(map(_root, _records(VMDumpRoot, roots))),
        host_data_ids=frozenset(
            number
            for number, entry in enumerate(_records(VMHostData, host_data))
            if entry.owner != VMHostDataOwner.NOBODY
        ),
        list_head=control.over_approximated_stack_roots,
        tables=ImageTables.of(types, type_data, handles, host_data),
        parts=tuple(_parts(parts, header.part_count, control.bump)),
    )
    if collector_of(contents).finds_room:
        contents = dataclasses.replace(contents, control=ImageControl.of(control, OF_THE_COLLECTOR))
    return contents


def _check_counts(header: VMDump, control: VMHeapControl) -> None:
    for what, has, says in (
        ("types", header.type_count, control.type_count),
        ("words of type data", header.type_data_length, control.type_data_length),
        ("handles", header.handle_count, control.handle_count),
        ("host-data ids", header.host_data_count, control.host_data_count),
        ("bytes of heap", header.heap_size, control.bump),
    ):
        if has != says:
            raise ImageFormatError(f"the heap dump has {has} {what}, and its control block says {says}")


def _records(record: type[_Record], data: bytes) -> list[_Record]:
    return [record.from_buffer_copy(data, start) for start in range(0, len(data), ctypes.sizeof(record))]


def _parts(data: bytes, count: int, end: int) -> Iterator[ImagePart]:
    """What the collector keeps: `count` records, each in front of its bytes, and nothing else."""
    start, record_size = 0, ctypes.sizeof(VMDumpPart)
    for number in range(count):
        if len(data) - start < record_size:
            raise ImageFormatError(
                f"the heap dump has {number} parts of what a collector keeps; its header says {count}"
            )
        record = VMDumpPart.from_buffer_copy(data, start)
        start += record_size
        try:
            part = ImagePart.of(record.part, record.length, b"")
        except ValueError:
            kinds = [int(each) for each in VMPartKind]
            raise ImageFormatError(
                f"part {number} in the heap dump has kind {record.part.kind}; kinds are {kinds}"
            ) from None
        fault = part.fault()
        if fault is not None:
            raise ImageFormatError(f"part {number} in the heap dump {fault}")
        if record.size != part.size(end) or record.size > len(data) - start:
            raise ImageFormatError(f"the {part.label} in the heap dump has {record.size} bytes, not {part.size(end)}")
        yield dataclasses.replace(part, data=data[start : start + record.size].rstrip(b"\0"))
        start += record.size
    if start != len(data):
        raise ImageFormatError(f"the heap dump has {len(data)} bytes of what a collector keeps; its parts have {start}")


def _root(root: VMDumpRoot) -> ImageRoot:
    if root.kind not in _ROOT_KINDS:
        raise ImageFormatError(f"a root in the heap dump has kind {root.kind}; kinds are {sorted(_ROOT_KINDS)}")
    return ImageRoot(_ROOT_KINDS[root.kind], root.place, root.reference)


# ----------------------------------------------------------------------------------------------------------------------
# Types


def _types(entries: Sequence[VMTypeInfo], words: memoryview) -> dict[int, ImageType]:
    types = {}
    left = len(words)  # a type's words are its own, so all types together have no more than there are
    for index, info in enumerate(entries):
        is_array = bool(info.kind & KIND_ARRAY_BIT)
        traced = 0 if is_array else info.traced_count
        wanted = traced + info.depth + 1 + info.field_count * _FIELD_WORDS
        if info.kind not in TYPED_KINDS or wanted > left:
            continue
        left -= wanted
        found = _type(index, info, words, traced)
        if found is not None:
            types[index] = found
    return types


def _type(index: int, info: VMTypeInfo, words: memoryview, traced: int) -> ImageType | None:
    """What the type table says of a type; None when it makes no sense."""
    kind = VMGcKind(info.kind)
    is_array = bool(kind & KIND_ARRAY_BIT)
    parts = (
        (info.traced_offsets_start, traced),
        (info.supertypes_start, info.depth + 1),
        (info.fields_start, info.field_count * _FIELD_WORDS),
    )
    if (
        info.element_size not in (_ELEMENT_SIZES if is_array else (0,))
        or (is_array and info.field_count != 1)
        or any(start + count > len(words) for start, count in parts)
    ):
        return None
    start, count = parts[-1]
    places = _records(VMFieldInfo, bytes(words[start : start + count]))
    known = [_field_type(place) for place in places]
    fields = [each for each in known if each is not None]
    if len(fields) != len(known):
        return None
    found = type_of_entry(index, info, words)
    definition = None
    if kind is not VMGcKind.EXN_REF:  # of a function type nothing says what it returns
        composite = ArrayType(fields[0]) if is_array else StructType(tuple(fields))
        supertype = found.supertypes[-2] if info.depth else None
        is_hidden = kind in (VMGcKind.HIDDEN_ARRAY_REF, VMGcKind.HIDDEN_STRUCT_REF)
        definition = str(SubType(composite, supertype, bool(info.is_final), is_hidden))
    return dataclasses.replace(
        found,
        definition=definition,
        fields=(TAG_FIELDS if kind is VMGcKind.EXN_REF else ())
        + tuple(_field(place, field) for place, field in zip(places, fields, strict=True)),
    )


def _field_type(place: VMFieldInfo) -> FieldType | None:
    is_mutable = bool(place.flags & FIELD_MUTABLE)
    if place.storage in _SCALARS:
        return FieldType(_SCALARS[place.storage], is_mutable)
    if place.storage != VMStorage.REFERENCE:
        return None
    heap_type = _HEAP_TYPES.get(place.heap_type, place.heap_type)
    if isinstance(heap_type, int) and heap_type >= min(_HEAP_TYPES):
        return None
    return FieldType(RefType(bool(place.flags & FIELD_NULLABLE), heap_type), is_mutable)


def _field(place: VMFieldInfo, field: FieldType) -> ImageField:
    size = storage_size(field.storage)
    is_traced = bool(place.flags & FIELD_TRACED)
    return ImageField(None, str(field.storage), field.mutable, place.offset, size, is_traced=is_traced)
