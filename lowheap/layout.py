"""Every byte that Python, compiled code and C share: headers, kinds, bits, tables, the control block and the vmctx.

This is the only place in lowheap where an offset, a size or a bit is decided. Each structure is a ctypes `Structure`;
everyone else reads offsets off its fields (`VMDrcHeader.ref_count.offset`), so changing a field moves the code with it.
Figures that are wasmtime's (releases 37 to 43, `environ::drc`, `vm/gc`) say so; the others are lowheap's own.

Three address spaces meet here:

- the **heap**: one region of at most 4 GiB in which a reference is a 32-bit offset from the base;
- the **control mapping**, which no reference can reach: the control block and the tables that it points to;
- the **vmctx** of an instance, and the store context that all instances of a store share.

All integers are little-endian, as wasmtime's are; importing this module on a big-endian machine is an error.
"""

from __future__ import annotations

import ctypes
import enum
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, overload

from lowheap.representation import short_repr

if sys.byteorder != "little":
    raise ImportError("lowheap's heap layout is little-endian; this machine is not")

U32_MAX = 0xFFFF_FFFF


# ----------------------------------------------------------------------------------------------------------------------
# How fields look to the type checker


class Field(Protocol):
    """What ctypes puts on a `Structure` class for each field: where it is (bytes) and how wide it is (bytes)."""

    @property
    def offset(self) -> int:
        """Offset from the start of the structure, in bytes."""

    @property
    def size(self) -> int:
        """Width, in bytes."""


if TYPE_CHECKING:

    class Unsigned:
        """A field as mypy should see it: a `Field` on the class, an int on an instance."""

        @overload
        def __get__(self, instance: None, owner: type) -> Field: ...
        @overload
        def __get__(self, instance: ctypes.Structure, owner: type) -> int: ...
        def __get__(self, instance: ctypes.Structure | None, owner: type) -> Field | int:
            """Read the field, or describe it."""
            ...

        def __set__(self, instance: ctypes.Structure, value: int) -> None:
            """Write the field."""

    Signed = Unsigned
    """The same, of a field that may be negative."""

    class UnsignedArray:
        """An array field as mypy should see it: a `Field` on the class, a mutable sequence of ints on an instance."""

        @overload
        def __get__(self, instance: None, owner: type) -> Field: ...
        @overload
        def __get__(self, instance: ctypes.Structure, owner: type) -> ctypes.Array[ctypes.c_uint32]: ...
        def __get__(self, instance: ctypes.Structure | None, owner: type) -> Field | ctypes.Array[ctypes.c_uint32]:
            """Read the field, or describe it."""
            ...


# ----------------------------------------------------------------------------------------------------------------------
# References: a u32. 0 is null, an odd number is an i31, anything else is a byte offset from the heap's base

NULL = 0
I31_TAG = 1
I31_SHIFT = 1
I31_MASK = 0x7FFF_FFFF
REFERENCE_SIZE = 4

BLOCK_ALIGN = 16
"""Every block, and so every reference, is a multiple of this many bytes (wasmtime's free list)."""

FIRST_INDEX = 16
"""The first index that a block can have; index 0 would be null (wasmtime's free list)."""

HEAP_RESERVATION = 1 << 32
"""Bytes reserved for a heap: all that a u32 reference can name."""

HEAP_GUARD = 1 << 24
"""Bytes behind the reservation that fault: more than any constant offset that is added to a reference."""

MAXIMUM_CAPACITY = HEAP_RESERVATION - BLOCK_ALIGN
"""Largest usable heap, in bytes, so that the end of every block is a u32."""


def is_i31(reference: int) -> bool:
    """Whether a raw reference is an unboxed 31-bit integer."""
    return bool(reference & I31_TAG)


def is_object(reference: int) -> bool:
    """Whether a raw reference names an object: neither null nor an i31. So has `collectors/shared/references.py` it."""
    return reference != NULL and not reference & I31_TAG


def i31_from_int(value: int) -> int:
    """Return the raw reference of an i31, as `ref.i31` makes it: the low 31 bits of `value`, shifted and tagged."""
    return (value & I31_MASK) << I31_SHIFT | I31_TAG


def i31_get_u(reference: int) -> int:
    """Return the zero-extended payload of a raw i31 reference."""
    return reference >> I31_SHIFT


def i31_get_s(reference: int) -> int:
    """Return the sign-extended payload of a raw i31 reference."""
    payload = i31_get_u(reference)
    return payload - (1 << 31) if payload >> 30 else payload


# ----------------------------------------------------------------------------------------------------------------------
# Kinds and reserved bits: the first word of every object (wasmtime, `VMGcKind`)

KIND_SHIFT = 26
KIND_MASK = 0x3F << KIND_SHIFT
RESERVED_MASK = ~KIND_MASK & U32_MAX


class VMGcKind(enum.IntEnum):
    """What an object is, in the upper 6 bits of its header's first word. A kind contains the bits of its supertypes.

    Objects of hidden types, which no program can name, are arrays and structs to the heap; for a program they are of
    no type but `any`, and have not the bit of `eq`. Those two are lowheap's own.
    """

    EXTERN_REF = 0b010000 << KIND_SHIFT
    ANY_REF = 0b100000 << KIND_SHIFT
    EQ_REF = 0b101000 << KIND_SHIFT
    ARRAY_REF = 0b101010 << KIND_SHIFT
    STRUCT_REF = 0b101100 << KIND_SHIFT
    EXN_REF = 0b000001 << KIND_SHIFT
    HIDDEN_ARRAY_REF = 0b100010 << KIND_SHIFT
    HIDDEN_STRUCT_REF = 0b100100 << KIND_SHIFT

    def matches(self, supertype: VMGcKind) -> bool:
        """Whether this kind is `supertype` or a subtype of it."""
        return self & supertype == supertype


KIND_ARRAY_BIT = VMGcKind.ARRAY_REF & VMGcKind.HIDDEN_ARRAY_REF & ~VMGcKind.ANY_REF
"""The bit that the kinds of arrays have, hidden or not, and no others."""

WASMTIME_KINDS = (VMGcKind.EXTERN_REF, VMGcKind.ARRAY_REF, VMGcKind.STRUCT_REF, VMGcKind.EXN_REF)
"""The kinds that objects have in wasmtime; `ANY_REF` and `EQ_REF` only occur as supertypes."""

OBJECT_KINDS = (*WASMTIME_KINDS, VMGcKind.HIDDEN_ARRAY_REF, VMGcKind.HIDDEN_STRUCT_REF)
"""The kinds that objects have."""

TYPED_KINDS = tuple(kind for kind in OBJECT_KINDS if kind is not VMGcKind.EXTERN_REF)
"""The kinds of objects that have a type of the type table."""

HEADER_MARK_BIT = 1 << 0
"""Reserved bit: found in a stack map by the running collection (wasmtime, `environ::drc`)."""

HEADER_IN_OVER_APPROX_LIST_BIT = 1 << 1
"""Reserved bit: the object is on the over-approximated-stack-roots list (wasmtime, `environ::drc`)."""

EXTERNREF_TYPE_INDEX = U32_MAX
"""The type index of an externref, which has no type of its own (wasmtime's reserved `VMSharedTypeIndex`)."""


# ----------------------------------------------------------------------------------------------------------------------
# Objects


class VMGcHeader(ctypes.Structure):
    """What every GC object of wasmtime begins with, whatever the collector: kind and reserved bits, type index."""

    _fields_ = (("kind_and_reserved", ctypes.c_uint32), ("type_index", ctypes.c_uint32))
    kind_and_reserved: Unsigned
    type_index: Unsigned


class VMDrcHeader(ctypes.Structure):
    """The header of every object in the DRC heap: 24 bytes, aligned to 8 (wasmtime, `VMDrcHeader`).

    `next_over_approximated_stack_root` links the list while the in-list bit is set, and the dead list once `ref_count`
    is 0. `object_size` is in bytes, and not rounded up to the block.
    """

    _anonymous_ = ("header",)
    _fields_ = (
        ("header", VMGcHeader),
        ("ref_count", ctypes.c_uint64),
        ("next_over_approximated_stack_root", ctypes.c_uint32),
        ("object_size", ctypes.c_uint32),
    )
    kind_and_reserved: Unsigned
    type_index: Unsigned
    ref_count: Unsigned
    next_over_approximated_stack_root: Unsigned
    object_size: Unsigned


class VMDrcArrayHeader(ctypes.Structure):
    """The header of an array; elements follow, aligned to their size (wasmtime, `VMDrcArrayHeader`)."""

    _anonymous_ = ("drc",)
    _fields_ = (("drc", VMDrcHeader), ("length", ctypes.c_uint32))
    object_size: Unsigned
    length: Unsigned


class VMDrcExternRef(ctypes.Structure):
    """An externref: a header and the id of its host data in the side table (wasmtime, `VMDrcExternRef`)."""

    _anonymous_ = ("drc",)
    _fields_ = (("drc", VMDrcHeader), ("host_data_id", ctypes.c_uint32))
    next_over_approximated_stack_root: Unsigned
    host_data_id: Unsigned


class VMDrcExnHeader(ctypes.Structure):
    """The header of an exception object: its tag, as an instance and an index in it. Fields start at 32."""

    _anonymous_ = ("drc",)
    _fields_ = (("drc", VMDrcHeader), ("tag_instance", ctypes.c_uint32), ("tag_defined", ctypes.c_uint32))
    tag_instance: Unsigned
    tag_defined: Unsigned


HEADER_SIZE = ctypes.sizeof(VMDrcHeader)
HEADER_ALIGN = ctypes.alignment(VMDrcHeader)
ARRAY_LENGTH_OFFSET = VMDrcArrayHeader.length.offset
ARRAY_HEADER_END = VMDrcArrayHeader.length.offset + VMDrcArrayHeader.length.size
EXCEPTION_FIELDS_OFFSET = ctypes.sizeof(VMDrcExnHeader)


class FreeBlock(ctypes.Structure):
    """A free block: kind 0, so that a walk tells it from an object, its length and its link. It fits 16 bytes."""

    _fields_ = (
        ("kind_and_reserved", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("next", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )
    kind_and_reserved: Unsigned
    length: Unsigned
    next: Unsigned
    flags: Unsigned


FREE_BLOCK_COALESCED = 1 << 0
"""Free-block flag: a coalescing pass has seen this block, so no neighbour that carries the flag too is free."""


def align_up(value: int, alignment: int) -> int:
    """Round `value` up to a multiple of `alignment`, a power of two."""
    return (value + alignment - 1) & -alignment


def block_length(object_size: int) -> int:
    """Return the bytes that an object of `object_size` bytes occupies in the heap: of any size, even one that is none.

    For objects that there can be, it is what `collectors/shared/references.py` says, for collectors.
    """
    return align_up(object_size, BLOCK_ALIGN)


MINIMUM_OBJECT_BLOCK = block_length(HEADER_SIZE)
"""The smallest block that an object can have: a bare header, rounded up."""


# ----------------------------------------------------------------------------------------------------------------------
# Layouts of struct, exception and array types


@dataclass(frozen=True, slots=True)
class FieldLayout:
    """Where a field is: `offset` from the object's start and `size`, in bytes, and whether a collector follows it."""

    offset: int
    size: int
    is_traced: bool


@short_repr
@dataclass(frozen=True, slots=True)
class GcStructLayout:
    """The layout of a struct or exception type: `size` and `align` in bytes, and every field's place in order."""

    size: int
    align: int
    fields: tuple[FieldLayout, ...]
    is_exception: bool = False
    is_hidden: bool = False

    @property
    def kind(self) -> VMGcKind:
        """The kind of an instance's header."""
        if self.is_exception:
            return VMGcKind.EXN_REF
        return VMGcKind.HIDDEN_STRUCT_REF if self.is_hidden else VMGcKind.STRUCT_REF

    @property
    def traced_offsets(self) -> tuple[int, ...]:
        """Offsets, in bytes, of the fields that hold traced references."""
        return tuple(field.offset for field in self.fields if field.is_traced)


@dataclass(frozen=True, slots=True)
class GcArrayLayout:
    """The layout of an array type: where elements start, how wide they are (bytes), and whether they are traced."""

    elements_offset: int
    element_size: int
    align: int
    elements_are_traced: bool
    is_hidden: bool = False

    @property
    def kind(self) -> VMGcKind:
        """The kind of an instance's header."""
        return VMGcKind.HIDDEN_ARRAY_REF if self.is_hidden else VMGcKind.ARRAY_REF

    def element_offset(self, index: int) -> int:
        """Return the offset of element `index` from the object's start, in bytes."""
        return self.elements_offset + index * self.element_size

    def size(self, length: int) -> int:
        """Return the object size of an array of `length` elements, in bytes, not rounded.

        Raises OverflowError when it does not fit u32, the width of every size in the heap.
        """
        return checked_size(self.element_offset(length), f"an array of {length} elements of {self.element_size} bytes")


GcLayout = GcStructLayout | GcArrayLayout


def checked_size(size: int, what: str) -> int:
    """Return `size`, or raise OverflowError when its block would not fit the largest heap there can be."""
    if block_length(size) > MAXIMUM_CAPACITY - FIRST_INDEX:
        raise OverflowError(
            f"{what} takes {size} bytes; an object has at most {MAXIMUM_CAPACITY - FIRST_INDEX}, so that sizes fit u32"
        )
    return size


class GcTypeLayouts:
    """Computes layouts as the DRC collector of wasmtime 37 to 43 does (`DrcTypeLayouts`).

    A field or element is given as `(size, is_traced)`, its size in bytes, which is its alignment too. Fields keep their
    order, because a subtype's objects must have its supertype's fields where the supertype has them.
    """

    def struct_layout(self, fields: Sequence[tuple[int, bool]], *, is_hidden: bool = False) -> GcStructLayout:
        """Return the layout of a struct type. OverflowError when its size does not fit u32."""
        return self._fields_layout(fields, HEADER_SIZE, is_hidden=is_hidden)

    def exception_layout(self, fields: Sequence[tuple[int, bool]]) -> GcStructLayout:
        """Return the layout of an exception whose tag has these parameters. OverflowError as for structs."""
        return self._fields_layout(fields, EXCEPTION_FIELDS_OFFSET, is_exception=True)

    def array_layout(self, element: tuple[int, bool], *, is_hidden: bool = False) -> GcArrayLayout:
        """Return the layout of an array type."""
        size, is_traced = element
        return GcArrayLayout(align_up(ARRAY_HEADER_END, size), size, max(HEADER_ALIGN, size), is_traced, is_hidden)

    @staticmethod
    def _fields_layout(
        fields: Sequence[tuple[int, bool]], start: int, *, is_exception: bool = False, is_hidden: bool = False
    ) -> GcStructLayout:
        offset, align = start, HEADER_ALIGN
        places = []
        for size, is_traced in fields:
            offset = align_up(offset, size)
            places.append(FieldLayout(offset, size, is_traced))
            offset += size
            align = max(align, size)
        total = checked_size(align_up(offset, align), f"a type with {len(fields)} fields")
        return GcStructLayout(total, align, tuple(places), is_exception, is_hidden)


# ----------------------------------------------------------------------------------------------------------------------
# The type table: what tracing and casting need to know of each type, indexed by type index


class VMTypeInfo(ctypes.Structure):
    """One type's entry; all zero for an index that this heap has not registered.

    `kind` is that of the type's instances: an exception for a function type, since a function type is also a tag's.
    `traced_offsets_start` and `supertypes_start` are indices into the type data, an array of u32: the byte offsets of a
    struct's or exception's traced fields, and the display, the type indices from the root of the supertype chain down
    to this type, at position `depth`. For an array, `traced_count` is 1 when its elements are traced, else 0.

    `traced_mask` says the same for those whose references all are among the first 64 slots of 4 bytes behind the
    header: bit n for a reference at `HEADER_SIZE + 4n`. `is_beyond_mask` is 1 for all others that hold references.

    `fields_start`, too, is an index into the type data: `field_count` entries of `VMFieldInfo`, in order; for an array
    type one, its element's. `is_final` is 1 for a type that cannot be a supertype.
    """

    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("size_or_elements_offset", ctypes.c_uint32),
        ("element_size", ctypes.c_uint32),
        ("traced_count", ctypes.c_uint32),
        ("traced_offsets_start", ctypes.c_uint32),
        ("supertypes_start", ctypes.c_uint32),
        ("depth", ctypes.c_uint32),
        ("is_beyond_mask", ctypes.c_uint32),
        ("traced_mask", ctypes.c_uint64),
        ("fields_start", ctypes.c_uint32),
        ("field_count", ctypes.c_uint32),
        ("is_final", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),  # up to 64 bytes, so that finding an entry takes a shift
    )
    kind: Unsigned
    size_or_elements_offset: Unsigned
    element_size: Unsigned
    traced_count: Unsigned
    traced_offsets_start: Unsigned
    supertypes_start: Unsigned
    depth: Unsigned
    is_beyond_mask: Unsigned
    traced_mask: Unsigned
    fields_start: Unsigned
    field_count: Unsigned
    is_final: Unsigned


TRACED_MASK_BITS = 64


class VMStorage(enum.IntEnum):
    """What a field or element is, in a `VMFieldInfo`."""

    I8 = 0
    I16 = 1
    I32 = 2
    I64 = 3
    F32 = 4
    F64 = 5
    V128 = 6
    REFERENCE = 7


class VMHeapType(enum.IntEnum):
    """The abstract heap types, in a `VMFieldInfo`: numbers that no type index can be."""

    ANY = 0xFFFF_FF00
    EQ = 0xFFFF_FF01
    I31 = 0xFFFF_FF02
    STRUCT = 0xFFFF_FF03
    ARRAY = 0xFFFF_FF04
    NONE = 0xFFFF_FF05
    EXTERN = 0xFFFF_FF06
    NOEXTERN = 0xFFFF_FF07
    FUNC = 0xFFFF_FF08
    NOFUNC = 0xFFFF_FF09
    EXN = 0xFFFF_FF0A
    NOEXN = 0xFFFF_FF0B


FIELD_MUTABLE = 1 << 0
"""Field flag: the field, or the array's elements, may be written after the object was made."""

FIELD_NULLABLE = 1 << 1
"""Field flag: the reference may be null."""

FIELD_TRACED = 1 << 2
"""Field flag: a collector follows the reference."""


class VMFieldInfo(ctypes.Structure):
    """One field in the type data: its byte offset in an object, its storage, and what a reference may refer to.

    `storage` is a `VMStorage`, `flags` are the field flags, and `heap_type` is a type index or a `VMHeapType`, and 0
    unless the storage is a reference. For an array, `offset` is where the elements start.
    """

    _fields_ = (
        ("offset", ctypes.c_uint32),
        ("storage", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("heap_type", ctypes.c_uint32),
    )
    offset: Unsigned
    storage: Unsigned
    flags: Unsigned
    heap_type: Unsigned


# ----------------------------------------------------------------------------------------------------------------------
# The control block


class VMDrcHeapData(ctypes.Structure):
    """What wasmtime exposes to compiled code: the list head (37 on), and the list's lengths (45 on)."""

    _fields_ = (
        ("over_approximated_stack_roots", ctypes.c_uint32),
        ("current_len", ctypes.c_uint32),
        ("len_after_last_gc", ctypes.c_uint32),
    )
    over_approximated_stack_roots: Unsigned
    current_len: Unsigned
    len_after_last_gc: Unsigned


SMALL_BLOCK_LIMIT = 1024
"""Blocks below this many bytes have a size class each; from here on a class covers a power of two."""

SMALL_CLASS_COUNT = SMALL_BLOCK_LIMIT // BLOCK_ALIGN
SIZE_CLASS_COUNT = SMALL_CLASS_COUNT + 32 - (SMALL_BLOCK_LIMIT.bit_length() - 1)


class CollectionPhase(enum.IntEnum):
    """Where a collection stands; `IDLE` when there is none."""

    IDLE = 0
    TRACE = 1
    SWEEP = 2
    DONE = 3


CONTROL_ATTACHED = 1 << 0
"""Control flag: the heap has its memory."""

CONTROL_UNCOUNTED = 1 << 1
"""Control flag: a barrier set that does not count runs on this heap, so counts mean nothing and nothing is freed."""

CONTROL_OTHER_COLLECTOR = 1 << 2
"""Control flag: the collector is neither `drc` nor `null`, so what holds for its heap is known to who has its name."""


class VMHeapControl(ctypes.Structure):
    """The control block: the whole state of a heap that is not in an object.

    It begins with `VMDrcHeapData`, so a pointer to it is what wasmtime's compiled code expects of its vmctx. Addresses
    are absolute; `bump` and everything on a list are references. Sizes are in bytes. `epoch` counts the memories that
    the heap has let go of: a handle of an earlier epoch is stale. `dead_externrefs` is a list, linked as the dead list
    is, of externrefs whose count is 0, and whose host data the host has yet to let go of before it frees their blocks:
    compiled code cannot. `pending_dead` is a list of the same kind: what a collection with a budget found dead and has
    yet to free. The objects on it hold what they refer to until then. `list_limit` is how many entries the list of
    `drc` has when that alone is a reason to collect, unless the collector's own floor is higher. `cycle_limit` is how
    many bytes must live for a search for cycles to be due, likewise; 2^64 - 1 where none ever is. `cyclic_objects` and
    `cyclic_bytes` are what all of the `cycle_searches` have found.
    """

    _anonymous_ = ("drc",)
    _fields_ = (
        ("drc", VMDrcHeapData),
        ("dead_list", ctypes.c_uint32),
        ("heap_base", ctypes.c_uint64),
        ("capacity", ctypes.c_uint64),
        ("maximum", ctypes.c_uint64),
        ("bump", ctypes.c_uint32),
        ("bump_end", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("phase", ctypes.c_uint32),
        ("no_gc_count", ctypes.c_uint32),
        ("type_count", ctypes.c_uint32),
        ("type_data_length", ctypes.c_uint32),
        ("handle_count", ctypes.c_uint32),
        ("free_handle", ctypes.c_uint32),
        ("root_slot_count", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("dead_externrefs", ctypes.c_uint32),
        ("pending_dead", ctypes.c_uint32),
        ("host_data_count", ctypes.c_uint32),
        ("free_host_data", ctypes.c_uint32),
        ("list_limit", ctypes.c_uint32),
        ("root_range_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("type_table", ctypes.c_uint64),
        ("type_data", ctypes.c_uint64),
        ("handles", ctypes.c_uint64),
        ("root_slots", ctypes.c_uint64),
        ("host_data", ctypes.c_uint64),
        ("root_ranges", ctypes.c_uint64),
        ("objects_allocated", ctypes.c_uint64),
        ("objects_freed", ctypes.c_uint64),
        ("bytes_allocated", ctypes.c_uint64),
        ("bytes_freed", ctypes.c_uint64),
        ("bytes_freed_at_last_coalescing", ctypes.c_uint64),
        ("live_bytes_after_last_collection", ctypes.c_uint64),
        ("peak_live_bytes", ctypes.c_uint64),
        ("collections", ctypes.c_uint64),
        ("growths", ctypes.c_uint64),
        ("coalescings", ctypes.c_uint64),
        ("cycle_limit", ctypes.c_uint64),
        ("cycle_searches", ctypes.c_uint64),
        ("cyclic_objects", ctypes.c_uint64),
        ("cyclic_bytes", ctypes.c_uint64),
        ("size_class_heads", ctypes.c_uint32 * SIZE_CLASS_COUNT),
    )
    drc: VMDrcHeapData
    over_approximated_stack_roots: Unsigned
    current_len: Unsigned
    len_after_last_gc: Unsigned
    dead_list: Unsigned
    heap_base: Unsigned
    capacity: Unsigned
    maximum: Unsigned
    bump: Unsigned
    bump_end: Unsigned
    flags: Unsigned
    phase: Unsigned
    no_gc_count: Unsigned
    type_count: Unsigned
    type_data_length: Unsigned
    handle_count: Unsigned
    free_handle: Unsigned
    root_slot_count: Unsigned
    epoch: Unsigned
    dead_externrefs: Unsigned
    pending_dead: Unsigned
    host_data_count: Unsigned
    free_host_data: Unsigned
    list_limit: Unsigned
    root_range_count: Unsigned
    type_table: Unsigned
    type_data: Unsigned
    handles: Unsigned
    root_slots: Unsigned
    host_data: Unsigned
    root_ranges: Unsigned
    objects_allocated: Unsigned
    objects_freed: Unsigned
    bytes_allocated: Unsigned
    bytes_freed: Unsigned
    bytes_freed_at_last_coalescing: Unsigned
    live_bytes_after_last_collection: Unsigned
    peak_live_bytes: Unsigned
    collections: Unsigned
    growths: Unsigned
    coalescings: Unsigned
    cycle_limit: Unsigned
    cycle_searches: Unsigned
    cyclic_objects: Unsigned
    cyclic_bytes: Unsigned
    size_class_heads: UnsignedArray


class VMHostData(ctypes.Structure):
    """One entry of the side table behind externrefs, by host-data id.

    `data` is the host's, an address or whatever it wants; `finalizer` the address of a C function `void(void *data)`
    that is called when the externref dies, or 0. `owner` is a `VMHostDataOwner`. `next_free` links the entries that are
    not in use: the id of the next one plus 1, or 0.
    """

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("finalizer", ctypes.c_uint64),
        ("owner", ctypes.c_uint32),
        ("next_free", ctypes.c_uint32),
    )
    data: Unsigned
    finalizer: Unsigned
    owner: Unsigned
    next_free: Unsigned


class VMHostDataOwner(enum.IntEnum):
    """Who keeps the value of a host-data id."""

    NOBODY = 0
    PYTHON = 1
    C = 2


# The control mapping: the block, then its tables, each with room for as many entries as stated. Pages that are never
# touched cost nothing, so the limits are generous.

TYPE_LIMIT = 1 << 20
TYPE_DATA_LIMIT = 1 << 24
HANDLE_LIMIT = 1 << 24
ROOT_SLOT_LIMIT = 1 << 20
ROOT_RANGE_LIMIT = 1 << 20
HOST_DATA_LIMIT = 1 << 24

CONTROL_BLOCK_OFFSET = 0
COLLECTOR_STATE_OFFSET = 1 << 12
"""Where a collector's own structures begin, behind the control block."""

TYPE_TABLE_OFFSET = 1 << 16
COLLECTOR_STATE_SIZE = TYPE_TABLE_OFFSET - COLLECTOR_STATE_OFFSET
TYPE_DATA_OFFSET = TYPE_TABLE_OFFSET + TYPE_LIMIT * ctypes.sizeof(VMTypeInfo)
HANDLES_OFFSET = TYPE_DATA_OFFSET + TYPE_DATA_LIMIT * ctypes.sizeof(ctypes.c_uint32)
ROOT_SLOTS_OFFSET = HANDLES_OFFSET + HANDLE_LIMIT * ctypes.sizeof(ctypes.c_uint32)
ROOT_RANGES_OFFSET = ROOT_SLOTS_OFFSET + ROOT_SLOT_LIMIT * ctypes.sizeof(ctypes.c_uint64)
HOST_DATA_OFFSET = ROOT_RANGES_OFFSET + ROOT_RANGE_LIMIT * ctypes.sizeof(ctypes.c_uint64)
CONTROL_MAPPING_SIZE = HOST_DATA_OFFSET + HOST_DATA_LIMIT * ctypes.sizeof(VMHostData)
COLLECTOR_AREA_OFFSET = (CONTROL_MAPPING_SIZE + (1 << 16) - 1) & -(1 << 16)
"""Where a collector's buffers and side tables begin, if it has some; the mapping is longer then."""

assert ctypes.sizeof(VMHeapControl) <= COLLECTOR_STATE_OFFSET - CONTROL_BLOCK_OFFSET


# ----------------------------------------------------------------------------------------------------------------------
# Contexts of compiled code


JUMP_BUFFER_SIZE = 512
"""Bytes for a C `jmp_buf`; the largest known, glibc's on aarch64, has 312."""


class VMActivation(ctypes.Structure):
    """One entry from the host into compiled code, on the native stack of its trampoline.

    `exit_frame_pointer` is that of the frame through which compiled code last left for the runtime or the host; a frame
    walk goes from there up to `entry_frame_pointer`, the trampoline's own frame.
    """

    _fields_ = (
        ("jump_buffer", ctypes.c_uint8 * JUMP_BUFFER_SIZE),
        ("previous", ctypes.c_uint64),
        ("entry_frame_pointer", ctypes.c_uint64),
        ("exit_frame_pointer", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
    )
    jump_buffer: UnsignedArray
    previous: Unsigned
    entry_frame_pointer: Unsigned
    exit_frame_pointer: Unsigned


ACTIVATION_ALIGN = 16


class VMFuncRef(ctypes.Structure):
    """One entry of the store's function table; a funcref is an index into it.

    Entry 0, null, is zero but for its type, `NO_FUNCTION_TYPE`: that of no function.
    """

    _fields_ = (
        ("code", ctypes.c_uint64),
        ("vmctx", ctypes.c_uint64),
        ("type_index", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )
    code: Unsigned
    vmctx: Unsigned
    type_index: Unsigned


FUNCTION_LIMIT = 1 << 20

NO_FUNCTION_TYPE = 0xFFFF_FFFF
"""The type index of what is no function."""


RELEASE_DEAD_EXTERNREFS = 0xFFFF_FFFF
"""What `call_host` is asked instead of a host function's number: to free the externrefs that died in compiled code."""


MOST_TRAP_FRAMES = 64
"""How many frames a trap leaves word of: of a deep stack, the innermost."""

TRAP_ADDRESS_LIMIT = MOST_TRAP_FRAMES + 1
"""How many return addresses that takes: the innermost may be that of what polls, which is no frame of a program's."""

POLL_REQUESTED = 0xFFFF_FFFF_FFFF_FFFF
"""The `poll_limit` with which compiled code calls the host where it next looks."""

MOST_FUEL = 0x7FFF_FFFF_FFFF_FFFF
"""The most that `VMStoreContext.fuel` can be."""


class VMStoreContext(ctypes.Structure):
    """What all compiled code of a store shares: stack limit, innermost activation, trap, the runtime's calls.

    `stack_size` is how much native stack compiled code may use from its outermost entry on, `stack_floor` the lowest
    address that it may come to whatever that says; `stack_limit` is what the outermost entry makes of both. The
    runtime's calls are addresses of C functions, whose types stand in `jit/signatures.py`. `trap_vmctx` is the vmctx
    of the code that trapped. The stack maps of all code are one hash table, of `stack_map_mask + 1` entries, a power of
    two, probed linearly; and the slots that they refer to. A frame walk that meets a return address which is not in it
    leaves that in `unknown_return_address`. `root_frames` is the innermost `VMRootFrame` that the host has pushed. A
    trace that finds held what its collector says cannot be held leaves that reference in `unsound_root`.
    What traps leaves the return addresses of its frames in `trap_frames`, `trap_frame_count` of them, the innermost
    first.

    `exception` is what has been thrown, until who catches it takes it: a root, not counted. `throw_exception` is the
    address of what looks for that, `jit/unwinding.py`; it goes by a second hash table of return addresses,
    `unwind_entries`, of `unwind_mask + 1`, and the registers that the entries refer to. While the table is not made,
    `unwind_entries` is 0; `prepare_unwinding` is called to make it.

    `poll_limit` is what interruptible code compares its frame with: `stack_limit` again, or, once the host has asked to
    be called, `POLL_REQUESTED`, which every frame is below. `interrupted` counts the calls that came of that and have
    not returned: nothing is known of the frames that made them, so nobody may collect.

    `fuel` is what code that counts may take yet, none where it is not positive; `fuel_reserve` is what it gets then:
    `fuel` has room for `MOST_FUEL`. While `is_past_deadline` is not 0, no compiled code is entered.
    """

    _fields_ = (
        ("stack_limit", ctypes.c_uint64),
        ("poll_limit", ctypes.c_uint64),
        ("stack_size", ctypes.c_uint64),
        ("stack_floor", ctypes.c_uint64),
        ("activation", ctypes.c_uint64),
        ("trap_vmctx", ctypes.c_uint64),
        ("trap_code", ctypes.c_uint32),
        ("trap_offset", ctypes.c_uint32),
        ("allocate_struct", ctypes.c_uint64),
        ("allocate_array", ctypes.c_uint64),
        ("drop", ctypes.c_uint64),
        ("call_host", ctypes.c_uint64),
        ("poll", ctypes.c_uint64),
        ("compile_function", ctypes.c_uint64),
        ("optimise_function", ctypes.c_uint64),
        ("stack_map_entries", ctypes.c_uint64),
        ("stack_map_mask", ctypes.c_uint64),
        ("stack_map_slots", ctypes.c_uint64),
        ("unknown_return_address", ctypes.c_uint64),
        ("root_frames", ctypes.c_uint64),
        ("lend", ctypes.c_uint64),
        ("share", ctypes.c_uint64),
        ("unsound_root", ctypes.c_uint32),
        ("trap_frame_count", ctypes.c_uint32),
        ("trap_frames", ctypes.c_uint64 * TRAP_ADDRESS_LIMIT),
        ("interrupted", ctypes.c_uint32),
        ("is_past_deadline", ctypes.c_uint32),
        ("fuel", ctypes.c_int64),
        ("fuel_reserve", ctypes.c_uint64),
        ("exception", ctypes.c_uint32),
        ("throw_exception", ctypes.c_uint64),
        ("prepare_unwinding", ctypes.c_uint64),
        ("unwind_entries", ctypes.c_uint64),
        ("unwind_mask", ctypes.c_uint64),
        ("saved_registers", ctypes.c_uint64),
    )
    stack_limit: Unsigned
    poll_limit: Unsigned
    stack_size: Unsigned
    stack_floor: Unsigned
    activation: Unsigned
    trap_vmctx: Unsigned
    trap_code: Unsigned
    trap_offset: Unsigned
    allocate_struct: Unsigned
    allocate_array: Unsigned
    drop: Unsigned
    call_host: Unsigned
    poll: Unsigned
    compile_function: Unsigned
    optimise_function: Unsigned
    stack_map_entries: Unsigned
    stack_map_mask: Unsigned
    stack_map_slots: Unsigned
    unknown_return_address: Unsigned
    root_frames: Unsigned
    lend: Unsigned
    share: Unsigned
    unsound_root: Unsigned
    trap_frame_count: Unsigned
    trap_frames: UnsignedArray
    interrupted: Unsigned
    is_past_deadline: Unsigned
    fuel: Signed
    fuel_reserve: Unsigned
    exception: Unsigned
    throw_exception: Unsigned
    prepare_unwinding: Unsigned
    unwind_entries: Unsigned
    unwind_mask: Unsigned
    saved_registers: Unsigned


# What compiled code reaches from its store's context without a load: it is so many bytes behind that. (Code that is
# called by a reference, and calls the next so, waits for every load on the way.) The C library's heaps, which have no
# compiled code, have neither.

ARGUMENTS_OFFSET = 1 << 11
"""Where a caller leaves what its callee has no registers for (`jit/conventions.py`). The callee takes it before it does
anything else, so that nothing there is a root.

Not a whole page behind the context: processors take a load for one of what was just stored at the same place in another
page, and the callee looks into the context at once.
"""

FUNCTION_TABLE_OFFSET = 1 << 16
"""The store's function table: an array of `VMFuncRef`s."""

assert ctypes.sizeof(VMStoreContext) <= ARGUMENTS_OFFSET


class VMRootFrame(ctypes.Structure):
    """References that a host function holds without counting them, as compiled code does: a frame of a shadow stack.

    `slots` is the address of `slot_count` references, `previous` that of the frame pushed before it, and `heap` that of
    the `VMHeap` it was pushed on. What the slots hold is on the over-approximated list.
    """

    _fields_ = (
        ("previous", ctypes.c_uint64),
        ("heap", ctypes.c_uint64),
        ("slots", ctypes.c_uint64),
        ("slot_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )
    previous: Unsigned
    heap: Unsigned
    slots: Unsigned
    slot_count: Unsigned


class VMHandle(ctypes.Structure):
    """A handle of the host's, filled in by the operation that makes it: so it is whole, or there is none.

    `number` is the handle's place in the table of handles plus 1; 0 while this is no handle. It holds `reference`, in
    the memory that the heap had in `epoch`.
    """

    _fields_ = (
        ("number", ctypes.c_uint32),
        ("reference", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )
    number: Unsigned
    reference: Unsigned
    epoch: Unsigned


class VMStackMapEntry(ctypes.Structure):
    """One safepoint in a store's hash table of stack maps; an empty entry has return address 0."""

    _fields_ = (
        ("return_address", ctypes.c_uint64),
        ("first_slot", ctypes.c_uint32),
        ("slot_count", ctypes.c_uint32),
    )
    return_address: Unsigned
    first_slot: Unsigned
    slot_count: Unsigned


STACK_MAP_HASH_MULTIPLIER = 0x9E37_79B9_7F4A_7C15
STACK_MAP_HASH_SHIFT = 32
"""The place to look for a return address first: (address * multiplier mod 2^64) >> shift, and the table's mask."""


class VMStackSlot(ctypes.Structure):
    """Where a suspended frame holds up to 64 live references: `offset` bytes from its stack pointer or frame pointer.

    That is the first slot's place. Slots follow one another; those that are live are the bits of `mask`.
    """

    _fields_ = (("offset", ctypes.c_int32), ("is_frame_relative", ctypes.c_uint32), ("mask", ctypes.c_uint64))
    offset: Unsigned
    is_frame_relative: Unsigned
    mask: Unsigned


class VMUnwindEntry(ctypes.Structure):
    """A call that may throw in a store's hash table of these, in which places are found as in that of stack maps.

    `landing_pad` is the address of the handler; 0 where there is none. There, the stack pointer is `stack_offset` bytes
    from the frame pointer. The frame has `register_count` registers of its caller's, from `first_register` on.
    """

    _fields_ = (
        ("return_address", ctypes.c_uint64),
        ("landing_pad", ctypes.c_uint64),
        ("stack_offset", ctypes.c_int32),
        ("first_register", ctypes.c_uint32),
        ("register_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )
    return_address: Unsigned
    landing_pad: Unsigned
    stack_offset: Unsigned
    first_register: Unsigned
    register_count: Unsigned


class VMSavedRegister(ctypes.Structure):
    """Where a frame has kept a register of its caller's: `offset` bytes from its frame pointer.

    `place` is where what throws has the registers' values, from its own frame record.
    """

    _fields_ = (("place", ctypes.c_int32), ("offset", ctypes.c_int32))
    place: Unsigned
    offset: Unsigned


class VMContext(ctypes.Structure):
    """The vmctx, first argument of every compiled function. `VMContextLayout` places the instance's parts behind it.

    `type_ids` is the address of a u32 array: the engine's type index for each of the module's. Where the module's own
    functions are compiled by need, `codes` is that of a u64 array, the address of the code of each, and `counters` that
    of a u32 array: how often each is yet to be called, or a loop of it to go round, until it is worth optimising.
    `call_targets` then is the address of some `VMCallTarget`s for each `call_ref` of the module.
    """

    _fields_ = (
        ("heap_base", ctypes.c_uint64),
        ("control", ctypes.c_uint64),
        ("store", ctypes.c_uint64),
        ("type_ids", ctypes.c_uint64),
        ("codes", ctypes.c_uint64),
        ("counters", ctypes.c_uint64),
        ("call_targets", ctypes.c_uint64),
    )
    heap_base: Unsigned
    control: Unsigned
    store: Unsigned
    type_ids: Unsigned
    codes: Unsigned
    counters: Unsigned
    call_targets: Unsigned


class VMCallTarget(ctypes.Structure):
    """A function that calls through a reference come to: its entry in the store's table, and its votes."""

    _fields_ = (("function", ctypes.c_uint32), ("votes", ctypes.c_uint32))
    function: Unsigned
    votes: Unsigned


class VMFunctionImport(ctypes.Structure):
    """An imported function in a vmctx: its code, the vmctx to call it with, and its entry in the function table."""

    _fields_ = (
        ("code", ctypes.c_uint64),
        ("vmctx", ctypes.c_uint64),
        ("funcref", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )
    code: Unsigned
    vmctx: Unsigned
    funcref: Unsigned


class VMMemory(ctypes.Structure):
    """A linear memory: where it begins, which never changes, and how many bytes it has now (these two as in wasmtime,
    `VMMemoryDefinition`), and may have at most.
    """

    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64), ("maximum", ctypes.c_uint64))
    base: Unsigned
    length: Unsigned
    maximum: Unsigned


class VMTable(ctypes.Structure):
    """A table, or an element segment: where its references begin, which never changes, how many it has now
    (wasmtime, `VMTableDefinition`), and how many it may come to have.

    A reference of a table is a u32, as everywhere. One whose references count is a root range.
    """

    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64), ("maximum", ctypes.c_uint64))
    base: Unsigned
    length: Unsigned
    maximum: Unsigned


class VMDataSegment(ctypes.Structure):
    """A data segment: where its bytes are, and how many they are; 0 once it was dropped."""

    _fields_ = (("base", ctypes.c_uint64), ("length", ctypes.c_uint64))
    base: Unsigned
    length: Unsigned


class VMTag(ctypes.Structure):
    """What tells a tag from all others of a store: the two words that its exceptions have in their headers."""

    _fields_ = (("tag_instance", ctypes.c_uint32), ("tag_defined", ctypes.c_uint32))
    tag_instance: Unsigned
    tag_defined: Unsigned


class VMVector(ctypes.Structure):
    """A v128 outside of the heap, in memory of the host's: its bytes, those of lane 0 first."""

    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64))
    low: Unsigned
    high: Unsigned


class VMHostFunction(ctypes.Structure):
    """The vmctx of a host function: enough of a `VMContext` for its stub, and the number the runtime knows it by."""

    _anonymous_ = ("context",)
    _fields_ = (("context", VMContext), ("function", ctypes.c_uint32), ("reserved", ctypes.c_uint32))
    heap_base: Unsigned
    control: Unsigned
    store: Unsigned
    type_ids: Unsigned
    codes: Unsigned
    counters: Unsigned
    call_targets: Unsigned
    function: Unsigned


HEAP_ERROR_VALUES = 4
"""How many numbers an error's message may tell."""


class VMHeap(ctypes.Structure):
    """A heap as the C interface knows it, `lh_heap`: a vmctx that belongs to no instance, and what only hosts need.

    `abi` is the hash of the declarations that its maker was built with, `collector` the number that stands for its
    collector's name. `out_of_memory` and `on_error` are the host's
    callbacks, or 0, each with an argument of the host's. `is_busy` is 1 while a call is at work on the heap (checked
    builds only). `error_*` tell of the last call that failed: its status, the address of its message's format, and the
    numbers that its message tells. `collect_every` is as a `Store`'s; `allocations` counts for it. `problems` is how
    many things the last call that looked for them has found wrong. `is_foreign` is 1 for a heap that Python made:
    Python defines its types and destroys it. `mapping` and `memory` are what a heap that C made unmaps in the end.
    """

    _anonymous_ = ("context",)
    _fields_ = (
        ("context", VMContext),
        ("abi", ctypes.c_uint64),
        ("out_of_memory", ctypes.c_uint64),
        ("out_of_memory_argument", ctypes.c_uint64),
        ("on_error", ctypes.c_uint64),
        ("on_error_argument", ctypes.c_uint64),
        ("error_format", ctypes.c_uint64),
        ("error_values", ctypes.c_uint64 * HEAP_ERROR_VALUES),
        ("error_status", ctypes.c_uint32),
        ("is_busy", ctypes.c_uint32),
        ("is_foreign", ctypes.c_uint32),
        ("collect_every", ctypes.c_uint32),
        ("collector", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("allocations", ctypes.c_uint64),
        ("problems", ctypes.c_uint64),
        ("mapping", ctypes.c_uint64),
        ("mapping_size", ctypes.c_uint64),
        ("memory", ctypes.c_uint64),
        ("memory_size", ctypes.c_uint64),
        ("store_context", VMStoreContext),
    )
    heap_base: Unsigned
    control: Unsigned
    store: Unsigned
    type_ids: Unsigned
    codes: Unsigned
    counters: Unsigned
    call_targets: Unsigned
    abi: Unsigned
    out_of_memory: Unsigned
    out_of_memory_argument: Unsigned
    on_error: Unsigned
    on_error_argument: Unsigned
    error_format: Unsigned
    error_values: UnsignedArray
    error_status: Unsigned
    is_busy: Unsigned
    is_foreign: Unsigned
    collect_every: Unsigned
    collector: Unsigned
    allocations: Unsigned
    problems: Unsigned
    mapping: Unsigned
    mapping_size: Unsigned
    memory: Unsigned
    memory_size: Unsigned
    store_context: VMStoreContext


class VMHeapConfiguration(ctypes.Structure):
    """What a C host asks of a new heap; 0 stands for the default. Sizes are in bytes.

    `abi` is the hash that the host's header has. `reserve` is how much address space to set aside: by default, and at
    most, all that a reference can name. The callbacks and their arguments are as in `VMHeap`. `collector` is the
    address of the collector's name, which ends with a 0: by default it is the library's first.
    """

    _fields_ = (
        ("abi", ctypes.c_uint64),
        ("reserve", ctypes.c_uint64),
        ("initial", ctypes.c_uint64),
        ("maximum", ctypes.c_uint64),
        ("out_of_memory", ctypes.c_uint64),
        ("out_of_memory_argument", ctypes.c_uint64),
        ("on_error", ctypes.c_uint64),
        ("on_error_argument", ctypes.c_uint64),
        ("collector", ctypes.c_uint64),
        ("collect_every", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )
    abi: Unsigned
    reserve: Unsigned
    initial: Unsigned
    maximum: Unsigned
    out_of_memory: Unsigned
    out_of_memory_argument: Unsigned
    on_error: Unsigned
    on_error_argument: Unsigned
    collector: Unsigned
    collect_every: Unsigned


class VMFieldDefinition(ctypes.Structure):
    """A field of a type that a C host defines: as in `VMFieldInfo`, without the offset, which follows."""

    _fields_ = (("storage", ctypes.c_uint16), ("flags", ctypes.c_uint16), ("heap_type", ctypes.c_uint32))
    storage: Unsigned
    flags: Unsigned
    heap_type: Unsigned


SELF_TYPE = 0xFFFF_FF80
"""As a definition's heap type: the type that is being defined."""

NO_SUPERTYPE = 0xFFFF_FF81
"""As a definition's supertype: it has none."""

TYPE_FINAL = 1 << 0
"""Definition flag: the type cannot be a supertype."""


class VMHeapStatistics(ctypes.Structure):
    """A heap's figures, as `heap.HeapStatistics` has them.

    `peak_committed` is how much of the system's memory the heap has had for its objects at most, in bytes: where the
    collector gives memory back, that; otherwise the capacity, what the heap has grown to. `pauses` is how often a
    collection, or a portion of one, has kept the program waiting, for `paused_nanoseconds` together and for
    `longest_pause_nanoseconds` at most; 0 where the collector does not measure that.
    """

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "objects_allocated",
            "objects_freed",
            "bytes_allocated",
            "bytes_freed",
            "peak_live_bytes",
            "live_objects",
            "live_bytes",
            "collections",
            "growths",
            "coalescings",
            "cycle_searches",
            "cyclic_objects",
            "cyclic_bytes",
            "capacity",
            "maximum",
            "listed",
            "peak_committed",
            "pauses",
            "paused_nanoseconds",
            "longest_pause_nanoseconds",
        )
    )
    objects_allocated: Unsigned
    objects_freed: Unsigned
    bytes_allocated: Unsigned
    bytes_freed: Unsigned
    peak_live_bytes: Unsigned
    live_objects: Unsigned
    live_bytes: Unsigned
    collections: Unsigned
    growths: Unsigned
    coalescings: Unsigned
    cycle_searches: Unsigned
    cyclic_objects: Unsigned
    cyclic_bytes: Unsigned
    capacity: Unsigned
    maximum: Unsigned
    listed: Unsigned
    peak_committed: Unsigned
    pauses: Unsigned
    paused_nanoseconds: Unsigned
    longest_pause_nanoseconds: Unsigned


class VMObjectInfo(ctypes.Structure):
    """One object as a walk of the heap reports it. `kind` is a `VMGcKind`, `size` in bytes, `length` an array's."""

    _fields_ = (
        ("ref_count", ctypes.c_uint64),
        ("reference", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("type_index", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("length", ctypes.c_uint32),
        ("is_listed", ctypes.c_uint32),
    )
    ref_count: Unsigned
    reference: Unsigned
    kind: Unsigned
    type_index: Unsigned
    size: Unsigned
    length: Unsigned
    is_listed: Unsigned


DUMP_MAGIC = 0x706D_7564_6C77_6F6C
"""What a dump begins with: `lowldump`, read as a little-endian u64."""


class VMDump(ctypes.Structure):
    """What a dump of a heap begins with; a dump is what C code writes of a heap, for `lowheap inspect`.

    Behind it stand, each as long as its count says: the control block, the type table (`type_count` entries of
    `VMTypeInfo`), the type data (u32), the handles (u32), the side table (`VMHostData`), the roots (`VMDumpRoot`), what
    the collector keeps of its own (`part_count` times a `VMDumpPart` and its bytes, `parts_size` bytes in all), and the
    heap's bytes from index 0 to the bump pointer. `abi` is `declarations.layout_hash` of who wrote it.
    """

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("abi", ctypes.c_uint64),
        ("control_size", ctypes.c_uint64),
        ("type_count", ctypes.c_uint64),
        ("type_data_length", ctypes.c_uint64),
        ("handle_count", ctypes.c_uint64),
        ("host_data_count", ctypes.c_uint64),
        ("root_count", ctypes.c_uint64),
        ("part_count", ctypes.c_uint64),
        ("parts_size", ctypes.c_uint64),
        ("heap_size", ctypes.c_uint64),
    )
    magic: Unsigned
    abi: Unsigned
    control_size: Unsigned
    type_count: Unsigned
    type_data_length: Unsigned
    handle_count: Unsigned
    host_data_count: Unsigned
    root_count: Unsigned
    part_count: Unsigned
    parts_size: Unsigned
    heap_size: Unsigned


class VMPartKind(enum.IntEnum):
    """What a part of a collector's own storage is: a structure, a list of numbers, a number for so many bytes."""

    STATE = 0
    BUFFER = 1
    SIDE_TABLE = 2


PART_NAME_SIZE = 32
"""Bytes for the name of such a part, in UTF-8; a longer one is cut."""


class VMCollectorPart(ctypes.Structure):
    """One part of what a collector keeps of its own in the heap's bytes, as its class declares it.

    `kind` is a `VMPartKind`. It begins `offset` bytes behind the control block's beginning, and has room for `limit`
    bytes; of a buffer, behind its length. `entry_size` is that of an entry in bytes, 1 for a state; a side table has
    one for every 2^`shift` bytes of the heap.
    """

    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("entry_size", ctypes.c_uint32),
        ("shift", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("name", ctypes.c_uint8 * PART_NAME_SIZE),
    )
    offset: Unsigned
    limit: Unsigned
    kind: Unsigned
    entry_size: Unsigned
    shift: Unsigned
    reserved: Unsigned
    name: UnsignedArray


class VMDumpPart(ctypes.Structure):
    """A part in a dump: what it is, how many entries a buffer says that it has (else 0), and how many bytes follow."""

    _fields_ = (("part", VMCollectorPart), ("length", ctypes.c_uint64), ("size", ctypes.c_uint64))
    part: VMCollectorPart
    length: Unsigned
    size: Unsigned


class VMDumpRoot(ctypes.Structure):
    """A root in a dump: a `VMRootKind`, where it is (a handle's number, a slot's address), and the reference."""

    _fields_ = (("place", ctypes.c_uint64), ("kind", ctypes.c_uint32), ("reference", ctypes.c_uint32))
    place: Unsigned
    kind: Unsigned
    reference: Unsigned


class VMRootKind(enum.IntEnum):
    """Who holds a root: a host handle, a registered slot, or a frame, which does not count it."""

    HANDLE = 0
    SLOT = 1
    FRAME = 2


GLOBAL_CELL_SIZE = 16
"""Bytes of a global's cell: room for the widest value type, v128 (wasmtime, `VMGlobalDefinition`)."""

VALUE_SLOT_SIZE = 8
"""Bytes of a parameter or result in the buffers through which the host and compiled code exchange values."""


@dataclass(frozen=True, slots=True)
class VMContextLayout:
    """Where an instance's parts stand behind its `VMContext`, in bytes; the counts are the module's.

    In order: a `VMFunctionImport` for each imported function; the address of each imported global's cell, of each
    imported memory's `VMMemory`, and of each imported table's `VMTable`; the memories and tables that are the module's
    own; a `VMDataSegment` and a `VMTable` for each data and element segment; a `VMTag` for each tag, imported or not;
    the funcref of each defined function (u32, filled in when the instance is made); the cells of the defined globals.
    Indices of what is the module's own are counted without what is imported.
    """

    imported_functions: int
    imported_globals: int
    defined_functions: int
    defined_globals: int
    imported_memories: int = 0
    imported_tables: int = 0
    defined_memories: int = 0
    defined_tables: int = 0
    data_segments: int = 0
    element_segments: int = 0
    tags: int = 0

    def function_import(self, index: int) -> int:
        """Offset of the `VMFunctionImport` of imported function `index`."""
        return ctypes.sizeof(VMContext) + index * ctypes.sizeof(VMFunctionImport)

    def global_import(self, index: int) -> int:
        """Offset of the address (u64) of imported global `index`."""
        return self.function_import(self.imported_functions) + index * ctypes.sizeof(ctypes.c_uint64)

    def memory_import(self, index: int) -> int:
        """Offset of the address (u64) of the `VMMemory` of imported memory `index`."""
        return self.global_import(self.imported_globals) + index * ctypes.sizeof(ctypes.c_uint64)

    def table_import(self, index: int) -> int:
        """Offset of the address (u64) of the `VMTable` of imported table `index`."""
        return self.memory_import(self.imported_memories) + index * ctypes.sizeof(ctypes.c_uint64)

    def memory(self, index: int) -> int:
        """Offset of the `VMMemory` of defined memory `index`."""
        return self.table_import(self.imported_tables) + index * ctypes.sizeof(VMMemory)

    def table(self, index: int) -> int:
        """Offset of the `VMTable` of defined table `index`."""
        return self.memory(self.defined_memories) + index * ctypes.sizeof(VMTable)

    def data_segment(self, index: int) -> int:
        """Offset of the `VMDataSegment` of data segment `index`."""
        return self.table(self.defined_tables) + index * ctypes.sizeof(VMDataSegment)

    def element_segment(self, index: int) -> int:
        """Offset of the `VMTable` that has the references of element segment `index`."""
        return self.data_segment(self.data_segments) + index * ctypes.sizeof(VMTable)

    def tag(self, index: int) -> int:
        """Offset of the `VMTag` of tag `index`, imported or not."""
        return self.element_segment(self.element_segments) + index * ctypes.sizeof(VMTag)

    def funcref(self, index: int) -> int:
        """Offset of the funcref (u32) of defined function `index`."""
        return self.tag(self.tags) + index * ctypes.sizeof(ctypes.c_uint32)

    def global_cell(self, index: int) -> int:
        """Offset of the cell of defined global `index`."""
        return align_up(self.funcref(self.defined_functions), GLOBAL_CELL_SIZE) + index * GLOBAL_CELL_SIZE

    @property
    def size(self) -> int:
        """Size of the whole vmctx, in bytes."""
        return self.global_cell(self.defined_globals)


OBJECT_STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    VMGcHeader,
    VMDrcHeader,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcExnHeader,
    FreeBlock,
)
"""The structures that stand in the heap itself."""

STRUCTURES: tuple[type[ctypes.Structure], ...] = (
    *OBJECT_STRUCTURES,
    VMTypeInfo,
    VMFieldInfo,
    VMHostData,
    VMDrcHeapData,
    VMHeapControl,
    VMActivation,
    VMFuncRef,
    VMStoreContext,
    VMStackMapEntry,
    VMStackSlot,
    VMUnwindEntry,
    VMSavedRegister,
    VMContext,
    VMCallTarget,
    VMFunctionImport,
    VMMemory,
    VMTable,
    VMDataSegment,
    VMTag,
    VMVector,
    VMHostFunction,
    VMRootFrame,
    VMHandle,
    VMHeap,
    VMHeapConfiguration,
    VMFieldDefinition,
    VMHeapStatistics,
    VMObjectInfo,
    VMDump,
    VMCollectorPart,
    VMDumpPart,
    VMDumpRoot,
)
"""Every structure of this module, each after those that it contains."""
