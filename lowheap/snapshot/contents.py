"""What an image consists of: the bytes of a heap, and the facts without which they cannot be read.

`Contents` are these, as files and dumps have them; `image.Image` is contents that can be looked at. The facts are those
of the type table (`ImageType`), of the control block (`ImageControl`), and the roots (`ImageRoot`); `image_types` reads
the type table of a heap. The tables behind the control block stand in `tables.py` as they are.
"""

from __future__ import annotations

import ctypes
import dataclasses
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lowheap.collectors.shared.allocator import Block
from lowheap.errors import LowheapError
from lowheap.layout import (
    CONTROL_BLOCK_OFFSET,
    CONTROL_UNCOUNTED,
    EXTERNREF_TYPE_INDEX,
    KIND_ARRAY_BIT,
    NULL,
    OBJECT_KINDS,
    TYPE_DATA_LIMIT,
    TYPE_DATA_OFFSET,
    TYPE_LIMIT,
    TYPE_TABLE_OFFSET,
    GcArrayLayout,
    GcTypeLayouts,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMGcKind,
    VMHeapControl,
    VMTypeInfo,
    i31_get_s,
    is_i31,
)
from lowheap.representation import printable, short_repr
from lowheap.snapshot.parts import ImagePart
from lowheap.snapshot.tables import ImageTables
from lowheap.types import ArrayType, FuncType, StorageType, StructType, TypeRegistry, storage_size

KIND_WORDS = frozenset(int(kind) for kind in OBJECT_KINDS)
"""The kinds of objects, as a header's first word has them."""

_KIND_LABELS = {
    VMGcKind.EXTERN_REF: "externref",
    VMGcKind.ARRAY_REF: "array",
    VMGcKind.STRUCT_REF: "struct",
    VMGcKind.EXN_REF: "exception",
    VMGcKind.HIDDEN_ARRAY_REF: "hidden array",
    VMGcKind.HIDDEN_STRUCT_REF: "hidden struct",
}
_INTEGERS = frozenset({"i8", "i16", "i32", "i64"})
_FLOATS = {"f32": "<f", "f64": "<d"}
_I31_STORAGES = frozenset({"i31ref", "(ref i31)"})
HOST_DATA_STORAGE = "host data"  # not a storage type of wasm's: the id in an externref, or in an exception's header
TAG_STORAGE = "tag"


def kind_label(kind: VMGcKind) -> str:
    """Return what people call objects of a kind: struct, array, externref, exception."""
    return _KIND_LABELS[kind]


# ----------------------------------------------------------------------------------------------------------------------
# Types


@dataclass(frozen=True, slots=True)
class ImageField:
    """One field of a struct or exception, or an array's element: `offset` and `size` in bytes, from the object's start.

    `storage` is the text format of its storage type, in the type indices of the image, or None where it is not known.
    """

    name: str | None
    storage: str | None
    mutable: bool
    offset: int
    size: int
    is_traced: bool

    @property
    def is_function(self) -> bool:
        """Whether it holds a reference to a function: an id that only the store's function table understands."""
        return self.is_reference and not self.is_traced and self.storage not in _I31_STORAGES

    @property
    def is_reference(self) -> bool:
        """Whether it holds a reference of any sort, as far as is known."""
        return self.is_traced or (self.storage is not None and ("ref" in self.storage))

    @property
    def is_opaque_id(self) -> bool:
        """Whether its value is a number that some table outside of the heap gave out."""
        return self.is_function or self.storage == HOST_DATA_STORAGE

    def decode(self, data: bytes) -> int | float | bytes:
        """Return the value of its bytes: signed integers, floats, raw references and ids, and bytes for a v128."""
        if self.storage in _FLOATS:
            return float(struct.unpack(_FLOATS[self.storage], data)[0])
        if len(data) > 8:
            return data
        return int.from_bytes(data, "little", signed=self.storage in _INTEGERS)

    def format(self, data: bytes) -> str:
        """Return the value of its bytes as text: `-1`, `0.5`, `null`, `i31 7`, `0x40`, `func 3`."""
        value = self.decode(data)
        if isinstance(value, bytes):
            return f"0x{value[::-1].hex()}"
        if isinstance(value, float) or self.storage in _INTEGERS:
            return repr(value)
        if self.storage in (HOST_DATA_STORAGE, TAG_STORAGE):
            return str(value)
        if self.is_function:
            return f"func {value}"
        return format_reference(value) if self.is_reference else f"{value:#x}"


def format_reference(reference: int) -> str:
    """Return a raw reference as text: `null`, `i31 -3`, `0x40`."""
    if reference == NULL:
        return "null"
    return f"i31 {i31_get_s(reference)}" if is_i31(reference) else f"{reference:#x}"


@short_repr
@dataclass(frozen=True, slots=True)
class ImageType:
    """One type, as the heap's type table has it, with names and storage types where a registry knew them.

    `size_or_elements_offset` is the size of a struct or exception, or where an array's elements start, in bytes.
    `traced_offsets` are a struct's or exception's; `elements_are_traced` is an array's. `supertypes` leads from the
    root of the chain down to this type. `fields` are all slots behind the header in order (an array's only one is its
    element), or None when only the type table is known.
    """

    index: int
    kind: VMGcKind
    size_or_elements_offset: int
    element_size: int = 0
    elements_are_traced: bool = False
    traced_offsets: tuple[int, ...] = ()
    supertypes: tuple[int, ...] = ()
    name: str | None = None
    definition: str | None = None
    fields: tuple[ImageField, ...] | None = None

    @property
    def is_array(self) -> bool:
        """Whether its objects are arrays."""
        return bool(self.kind & KIND_ARRAY_BIT)

    @property
    def label(self) -> str:
        """What to call it: `$node`, `type 3`, `externref`."""
        if self.index == EXTERNREF_TYPE_INDEX:
            return "externref"
        return f"type {self.index}" if self.name is None else f"${printable(self.name)}"

    @property
    def element(self) -> ImageField:
        """An array's element; its `offset` is that of element 0."""
        if self.fields:
            return self.fields[0]
        return ImageField(
            None, None, True, self.size_or_elements_offset, self.element_size, is_traced=self.elements_are_traced
        )

    def object_size(self, length: int | None) -> int:
        """Return the size in bytes of an object, of an array with so many elements."""
        return self.size_or_elements_offset + self.element_size * (length or 0)

    def labelled_fields(self) -> list[tuple[str, ImageField]]:
        """Return the fields, each with its name or else its number; the tag in an exception's header is not counted."""
        first = -len(TAG_FIELDS) if self.kind is VMGcKind.EXN_REF else 0
        return [
            (str(number) if each.name is None else printable(each.name), each)
            for number, each in enumerate(self.fields or (), first)
        ]

    @property
    def shape(self) -> tuple[Any, ...]:
        """All that decides where things are in an object, without indices or names: equal for equal layouts."""
        return (
            self.kind,
            self.size_or_elements_offset,
            self.element_size,
            self.elements_are_traced,
            self.traced_offsets,
        )


def _u32_field(name: str, place: Any, storage: str) -> ImageField:
    return ImageField(name, storage, False, place.offset, place.size, is_traced=False)


EXTERNREF_TYPE = ImageType(
    EXTERNREF_TYPE_INDEX,
    VMGcKind.EXTERN_REF,
    ctypes.sizeof(VMDrcExternRef),
    name="externref",
    fields=(_u32_field("host_data_id", VMDrcExternRef.host_data_id, HOST_DATA_STORAGE),),
)
TAG_FIELDS = (
    _u32_field("tag_instance", VMDrcExnHeader.tag_instance, TAG_STORAGE),
    _u32_field("tag_defined", VMDrcExnHeader.tag_defined, TAG_STORAGE),
)


def image_types(control: VMHeapControl, registry: TypeRegistry) -> dict[int, ImageType]:
    """Return the type table that a control block points to, with what the registry knows of each type."""
    # A broken heap can be looked at too, so the counts are not trusted to be within the tables.
    start = ctypes.addressof(control) - CONTROL_BLOCK_OFFSET
    known = min(control.type_data_length, TYPE_DATA_LIMIT)
    data = (ctypes.c_uint32 * known).from_address(start + TYPE_DATA_OFFSET)
    types = {}
    for index in range(min(control.type_count, TYPE_LIMIT)):
        info = VMTypeInfo.from_address(start + TYPE_TABLE_OFFSET + index * ctypes.sizeof(VMTypeInfo))
        if info.kind not in KIND_WORDS:
            continue
        image_type = type_of_entry(index, info, data)
        types[index] = with_names(image_type, registry) if index in registry else image_type
    return types


def type_of_entry(index: int, info: VMTypeInfo, data: ctypes.Array[ctypes.c_uint32] | memoryview) -> ImageType:
    """Return what an entry of the type table says, with the words of type data that are there; its kind is one."""
    is_array = bool(info.kind & KIND_ARRAY_BIT)
    traced_start, display_start = info.traced_offsets_start, info.supertypes_start
    return ImageType(
        index,
        VMGcKind(info.kind),
        info.size_or_elements_offset,
        info.element_size,
        elements_are_traced=is_array and bool(info.traced_count),
        traced_offsets=() if is_array else tuple(data[traced_start : traced_start + info.traced_count]),
        supertypes=tuple(data[display_start : display_start + info.depth + 1]),
    )


def with_names(image_type: ImageType, registry: TypeRegistry) -> ImageType:
    """Return the type with its fields, storage types and names as the registry knows them."""
    index, layouts = image_type.index, GcTypeLayouts()
    composite = registry[index].composite
    names: dict[int, str] = {}

    def slot(storage: StorageType) -> tuple[int, bool]:
        return storage_size(storage), registry.is_traced(storage)

    storages: list[tuple[StorageType, bool]]
    before: tuple[ImageField, ...] = ()
    match composite:
        case ArrayType(element):
            storages = [(element.storage, element.mutable)]
        case StructType(fields):
            storages = [(each.storage, each.mutable) for each in fields]
            names = registry.field_names(index)
        case FuncType(params):
            storages = [(param, False) for param in params]
            before = TAG_FIELDS
    slots = [slot(storage) for storage, _ in storages]
    if isinstance(composite, ArrayType):
        array = layouts.array_layout(slots[0])
        places = [(array.elements_offset, array.element_size, array.elements_are_traced)]
    else:
        is_struct = isinstance(composite, StructType)
        layout = layouts.struct_layout(slots) if is_struct else layouts.exception_layout(slots)
        assert not isinstance(layout, GcArrayLayout)
        places = [(each.offset, each.size, each.is_traced) for each in layout.fields]
    return dataclasses.replace(
        image_type,
        name=registry.type_name(index),
        definition=str(registry[index]),
        fields=before
        + tuple(
            ImageField(names.get(number), str(storage), mutable, *place)
            for number, ((storage, mutable), place) in enumerate(zip(storages, places, strict=True))
        ),
    )


# ----------------------------------------------------------------------------------------------------------------------
# Control block and roots


@short_repr
@dataclass(frozen=True, slots=True)
class ImageControl:
    """The facts of a control block (`layout.VMHeapControl`, whose names these are), and the allocator's name."""

    over_approximated_stack_roots: int
    current_len: int
    len_after_last_gc: int
    dead_list: int
    dead_externrefs: int
    pending_dead: int
    capacity: int
    maximum: int
    bump: int
    bump_end: int
    flags: int
    phase: int
    no_gc_count: int
    type_count: int
    type_data_length: int
    handle_count: int
    free_handle: int
    root_slot_count: int
    epoch: int
    host_data_count: int
    free_host_data: int
    list_limit: int
    root_range_count: int
    objects_allocated: int
    objects_freed: int
    bytes_allocated: int
    bytes_freed: int
    bytes_freed_at_last_coalescing: int
    live_bytes_after_last_collection: int
    peak_live_bytes: int
    collections: int
    growths: int
    coalescings: int
    cycle_limit: int
    cycle_searches: int
    cyclic_objects: int
    cyclic_bytes: int
    size_class_heads: tuple[int, ...]
    allocator: str

    @property
    def is_counted(self) -> bool:
        """Whether the heap counts references."""
        return not self.flags & CONTROL_UNCOUNTED

    def integers(self) -> dict[str, int]:
        """Return the facts that are plain integers, by name."""
        return {name: getattr(self, name) for name in control_integers()}

    @classmethod
    def of(cls, control: VMHeapControl, allocator: str) -> ImageControl:
        """Copy a control block."""
        integers = {name: int(getattr(control, name)) for name in control_integers()}
        return cls(**integers, size_class_heads=tuple(control.size_class_heads), allocator=allocator)


def control_integers() -> list[str]:
    """Return the names of an `ImageControl`'s fields that are plain integers."""
    return [each.name for each in dataclasses.fields(ImageControl) if each.type in (int, "int")]


@dataclass(frozen=True, slots=True)
class ImageRoot:
    """A root outside of the heap: its `kind` (of `ROOT_KINDS`), its place, and what it refers to.

    The place is a handle's number, the address of a slot (a table's elements are slots) or of a frame's slot, and 0 on
    the stack of compiled code.
    """

    kind: str
    place: int
    reference: int


UNCOUNTED_ROOT_KINDS = ("wasm stack", "frame")
"""The kinds of roots that count nothing; what they hold is on the over-approximated list."""

ROOT_KINDS = ("handle", "slot", *UNCOUNTED_ROOT_KINDS)


class ImageFormatError(LowheapError):
    """The bytes are not an image, or not a whole and sound one; the message says where."""


# ----------------------------------------------------------------------------------------------------------------------
# All of it


@short_repr
@dataclass(frozen=True)
class Contents:
    """A heap at one moment. `data` begins at index 0; all indices are offsets in it.

    `source` says what it was taken from, in words. `control` is None for a wasmtime heap, of which only the mapping is
    known; then `free` may hold its free blocks, `known` indices at which there certainly are objects, and `list_head`
    the head of the list. `host_data_ids` are those that were in use, None when not known. `tables` are those of a
    lowheap heap, None in files from before images had them. `collector` is the name of what collected a lowheap heap,
    as `registry.name_of` has it; None in dumps, and in files from before images had it. `parts` are what it keeps of
    its own besides header bits; none where it keeps nothing, and in files from before images had them.
    """

    data: bytes
    source: str = "lowheap"
    types: Mapping[int, ImageType] = field(default_factory=dict)
    control: ImageControl | None = None
    roots: tuple[ImageRoot, ...] = ()
    host_data_ids: frozenset[int] | None = None
    list_head: int | None = None
    known: tuple[int, ...] = ()
    free: tuple[Block, ...] | None = None
    tables: ImageTables | None = None
    collector: str | None = None
    parts: tuple[ImagePart, ...] = ()
