"""Of what type a reference is: the subtype test, and what casts and tests of compiled code and of C are made of it.

Where a type and what a reference may be are known when code is compiled, a `TypeTest` says so, and what it excludes
costs nothing: a test for a final type is one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    FUNCTION_TABLE_OFFSET,
    I31_TAG,
    KIND_MASK,
    NULL,
    TYPE_LIMIT,
    VMFuncRef,
    VMGcKind,
    VMHeapType,
    VMTypeInfo,
)
from lowheap.native import Heap, Ref, address_of, at, cell, inline, native, sizeof, u32, u64


@dataclass(frozen=True, slots=True)
class TypeTest:
    """What a reference may be, and what passes a test for a type; known when code is compiled.

    `may_be_externref`: the reference may name an externref, which has no type of its own. `is_function`: it is a
    funcref. Objects pass by their kind (`kind`, if `by_kind`), by their type, or, if `only_i31`, not at all. Of the
    type that they pass by, `is_final` says that it has no subtypes, and `depth` how many supertypes it has, if
    `knows_depth`.
    """

    is_native_static: ClassVar[bool] = True

    may_be_null: bool = False
    may_be_i31: bool = False
    may_be_externref: bool = False
    null_passes: bool = False
    i31_passes: bool = False
    only_i31: bool = False
    is_function: bool = False
    by_kind: bool = False
    kind: u32 = 0
    is_final: bool = False
    knows_depth: bool = False
    depth: u32 = 0

    @property
    def key(self) -> str:
        """What tells code for this test from that for others."""
        letters = (
            "n" * self.may_be_null
            + "i" * self.may_be_i31
            + "e" * self.may_be_externref
            + "N" * self.null_passes
            + "I" * self.i31_passes
            + "o" * self.only_i31
            + "f" * self.is_function
        )
        by = f"kind-{self.kind:x}" if self.by_kind else "final" if self.is_final else "type"
        return f"{letters}-{by}{self.depth if self.knows_depth else ''}"


_WORD = 4
_TYPE, _OBJECT = TypeTest(), TypeTest(may_be_externref=True)


@inline
def is_of_type(heap: Heap, type_index: u32, wanted: u32, test: TypeTest) -> bool:
    """Whether a type is the wanted one, or below it: whether that is in its display."""
    return type_index == wanted if test.is_final else True if type_index == wanted else displays(
        heap, type_index, wanted, test
    )  # fmt: skip


@inline
def displays(heap: Heap, type_index: u32, wanted: u32, test: TypeTest) -> bool:
    """Whether the display of a type has another at that one's depth."""
    if test.may_be_externref and type_index == EXTERNREF_TYPE_INDEX:
        return False
    info = heap.type_info(type_index)
    depth = test.depth if test.knows_depth else heap.type_info(wanted).depth
    return supertype_at(heap, info, depth) == wanted if info.depth >= depth else False


@inline
def supertype_at(heap: Heap, info: VMTypeInfo, depth: u32) -> u32:
    """The supertype of a type that has so many supertypes itself."""
    found: u32 = cell(u32, heap.control.type_data + u64(info.supertypes_start + depth) * _WORD).value
    return found


@inline
def has_kind(kind: u32, wanted: u32) -> bool:
    """Whether a kind, or a header's first word, has all bits of another kind: whether it is of that kind or below."""
    return kind & wanted == wanted


@inline
def function_type(heap: Heap, function: u32) -> u32:
    """The type of a function, by its funcref, which is not null."""
    table = address_of(heap.store_context) + FUNCTION_TABLE_OFFSET
    return at(VMFuncRef, table + u64(function) * sizeof(VMFuncRef)).type_index


# ----------------------------------------------------------------------------------------------------------------------
# Of types that are known when code is compiled


@inline
def is_instance(heap: Heap, reference: Ref, wanted: u32, test: TypeTest) -> bool:
    """Whether a reference passes a test; `wanted` is the type, where the test is for one."""
    return (
        test.null_passes
        if test.may_be_null and reference == NULL
        else is_instance_not_null(heap, reference, wanted, test)
    )


@inline
def is_instance_not_null(heap: Heap, reference: Ref, wanted: u32, test: TypeTest) -> bool:
    """The same, of a reference that is not null."""
    return (
        is_of_type(heap, function_type(heap, reference), wanted, test)
        if test.is_function
        else test.i31_passes
        if test.may_be_i31 and reference & I31_TAG != 0
        else is_object_instance(heap, reference, wanted, test)
    )


@inline
def is_object_instance(heap: Heap, reference: Ref, wanted: u32, test: TypeTest) -> bool:
    """The same, of an object, by its header."""
    return (
        False
        if test.only_i31
        else has_kind(heap.header(reference).kind_and_reserved, test.kind)
        if test.by_kind
        else is_of_type(heap, heap.header(reference).type_index, wanted, test)
    )


# ----------------------------------------------------------------------------------------------------------------------
# Of types that are given as numbers


@native
def is_subtype(heap: Heap, type_index: u32, supertype: u32) -> bool:
    """Whether a type is another, or below it. Both are defined."""
    return is_of_type(heap, type_index, supertype, _TYPE)


@inline
def kind_matches(kind: u32, heap_type: u32) -> bool:
    """Whether objects of a kind are of an abstract heap type. Any but an exception may be any and extern, converted."""
    if (heap_type == VMHeapType.ANY) or (heap_type == VMHeapType.EXTERN):
        return kind != VMGcKind.EXN_REF
    if heap_type == VMHeapType.EQ:
        return has_kind(kind, VMGcKind.EQ_REF)
    if heap_type == VMHeapType.STRUCT:
        return has_kind(kind, VMGcKind.STRUCT_REF)
    if heap_type == VMHeapType.ARRAY:
        return has_kind(kind, VMGcKind.ARRAY_REF)
    if heap_type == VMHeapType.EXN:
        return has_kind(kind, VMGcKind.EXN_REF)
    return False


@native
def matches(heap: Heap, reference: Ref, heap_type: u32) -> bool:
    """Whether an object is of a heap type, abstract or not."""
    header = heap.header(reference)
    if heap_type >= TYPE_LIMIT:
        return kind_matches(header.kind_and_reserved & KIND_MASK, heap_type)
    return is_of_type(heap, header.type_index, heap_type, _OBJECT)
