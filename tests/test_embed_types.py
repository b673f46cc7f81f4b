"""Types that C defines, against the same types in Python: the type table's entries, the type data, and what is refused.

A `DrcHeap` with a `TypeRegistry` is the other witness. There, types of one structure are one type, while each of C's
definitions is a type of its own; so each of Python's stands in a recursion group with a filler that no other has.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embed_heaps import ANY_FIELD, I32_FIELD, SELF_FIELD, CHeap, FailureError, Field

from lowheap.embed import Status, ffi
from lowheap.errors import TypeDefinitionError
from lowheap.heap import DrcHeap
from lowheap.hostdata import ExternRefHostDataTable
from lowheap.layout import (
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    NO_SUPERTYPE,
    SELF_TYPE,
    TYPE_DATA_LIMIT,
    TYPE_FINAL,
    TYPE_LIMIT,
    VMFieldInfo,
    VMHeapControl,
    VMHeapType,
    VMStorage,
    VMTypeInfo,
)
from lowheap.memory import Memory
from lowheap.types import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    MAX_STRUCT_FIELDS,
    MAX_SUBTYPING_DEPTH,
    V128,
    AbstractHeapType,
    ArrayType,
    FieldType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TypeRegistry,
)

SCALARS: dict[VMStorage, StorageType] = {
    VMStorage.I8: I8,
    VMStorage.I16: I16,
    VMStorage.I32: I32,
    VMStorage.I64: I64,
    VMStorage.F32: F32,
    VMStorage.F64: F64,
    VMStorage.V128: V128,
}
UNDEFINED = 1 << 16


@dataclass(frozen=True)
class Definition:
    """A type to define. Heap types are a `VMHeapType`, SELF_TYPE, or a number of C's."""

    fields: tuple[Field, ...]
    is_array: bool
    supertype: int
    flags: int


class Sides:
    """The two heaps; types that both have are numbered as C does."""

    def __init__(self) -> None:
        self.c = CHeap(initial=1 << 16)
        self.registry = TypeRegistry()
        self.heap = DrcHeap(self.registry)
        self.heap.attach(Memory(1 << 16, 1 << 16), ExternRefHostDataTable())
        self.python: list[int] = []  # Python's index of each of C's
        self.definitions: list[Definition] = []

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self.c.destroy()
        self.heap.detach()
        self.heap.close()

    def define(self, definition: Definition) -> bool:
        """Define a type on both sides, which must agree on whether there can be one."""
        number = len(self.python)
        try:
            if definition.is_array:
                (field,) = definition.fields
                defined = self.c.define_array(field, definition.supertype, definition.flags)
            else:
                defined = self.c.define_struct(
                    *definition.fields, supertype=definition.supertype, flags=definition.flags
                )
        except FailureError as error:
            if error.status not in (Status.BAD_TYPE, Status.WRONG_TYPE):
                raise
            refusal: FailureError | None = error
        else:
            assert defined == number
            refusal = None
        filler = SubType(StructType((FieldType(I32, False),) * number))
        group = [self.in_python(definition), filler]
        try:
            index, _ = self.registry.register(group, outer=tuple(self.python))
        except TypeDefinitionError as error:
            if refusal is None:
                raise AssertionError(f"C takes {definition}") from error
            return False
        assert refusal is None, f"C refuses {definition}, which Python takes: {refusal}"
        self.heap.register_type(index)
        self.python.append(index)
        self.definitions.append(definition)
        return True

    def in_python(self, definition: Definition) -> SubType:
        fields = [FieldType(self.storage(field), bool(field[1] & FIELD_MUTABLE)) for field in definition.fields]
        composite = ArrayType(fields[0]) if definition.is_array else StructType(tuple(fields))
        supertype = None if definition.supertype == NO_SUPERTYPE else self.number(definition.supertype)
        return SubType(composite, supertype, bool(definition.flags & TYPE_FINAL))

    def storage(self, field: Field) -> StorageType:
        storage, flags, heap_type = field
        if storage != VMStorage.REFERENCE:
            return SCALARS[VMStorage(storage)]
        nullable = bool(flags & FIELD_NULLABLE)
        if heap_type in list(VMHeapType):
            return RefType(nullable, AbstractHeapType[VMHeapType(heap_type).name])
        return RefType(nullable, self.number(heap_type))

    def number(self, number: int) -> int:
        """A number of C's as a group of Python's has it: its own is behind all others', its filler's behind that."""
        own = len(self.python)
        return own if number == SELF_TYPE else number + (number > own)

    # What was written down

    def compare(self) -> None:
        """Both tables are the same, but for the numbers of types."""
        control = self.heap.control
        assert self.c.control.type_count == len(self.python)
        assert self.c.control.type_data_length == control.type_data_length
        for number, index in enumerate(self.python):
            ours, theirs = info_of(control, index), info_of(self.c.control, number)
            for name, *_ in VMTypeInfo._fields_:
                if name != "reserved":
                    assert getattr(theirs, name) == getattr(ours, name), (name, self.definitions[number])
            assert bytes(theirs.reserved) == bytes(ours.reserved)
            assert self.type_data(theirs, self.c.control, list(range(number + 1))) == self.type_data(
                ours, control, self.python
            )

    def type_data(self, info: VMTypeInfo, control: VMHeapControl, indices: list[int]) -> tuple[Any, ...]:
        """What the type data says of a type, with C's numbers for types."""
        data = (ctypes.c_uint32 * control.type_data_length).from_address(control.type_data)
        traced = data[info.traced_offsets_start : info.supertypes_start]
        display = data[info.supertypes_start : info.supertypes_start + info.depth + 1]
        fields = []
        for number in range(info.field_count):
            field = VMFieldInfo.from_buffer(data, 4 * info.fields_start + number * ctypes.sizeof(VMFieldInfo))
            is_type = field.storage == VMStorage.REFERENCE and field.heap_type < TYPE_LIMIT
            heap_type = indices.index(field.heap_type) if is_type else field.heap_type
            fields.append((field.offset, field.storage, field.flags, heap_type))
        assert info.fields_start == info.supertypes_start + info.depth + 1
        return traced, [indices.index(index) for index in display], fields


def info_of(control: VMHeapControl, index: int) -> VMTypeInfo:
    return VMTypeInfo.from_address(control.type_table + index * ctypes.sizeof(VMTypeInfo))


def draw_heap_type(data: st.DataObject, sides: Sides) -> int:
    known = st.integers(0, max(0, len(sides.python) - 1))
    wild = st.sampled_from([SELF_TYPE, len(sides.python) + UNDEFINED])
    return int(data.draw(st.sampled_from(VMHeapType) | known | wild | st.just(SELF_TYPE)))


def draw_field(data: st.DataObject, sides: Sides) -> Field:
    mutable = data.draw(st.booleans()) * FIELD_MUTABLE
    if data.draw(st.booleans()):
        return (data.draw(st.sampled_from(list(SCALARS))), mutable, 0)
    flags = mutable | data.draw(st.booleans()) * FIELD_NULLABLE
    return (VMStorage.REFERENCE, flags, draw_heap_type(data, sides))


def draw_definition(data: st.DataObject, sides: Sides) -> Definition:
    """Any definition; of those with a supertype, more that are near to it than chance would have."""
    is_array: bool = data.draw(st.booleans())
    count = 1 if is_array else data.draw(st.integers(0, 6) | st.integers(60, 70))
    drawn = 1 if count > 10 else count
    fields = [draw_field(data, sides) for _ in range(drawn)] * (count // max(1, drawn))
    numbers = [number for number, each in enumerate(sides.definitions) if each.is_array == is_array]
    supertype = data.draw(st.sampled_from([NO_SUPERTYPE, *numbers, *range(len(sides.python)), UNDEFINED, SELF_TYPE]))
    if supertype < len(sides.definitions) and data.draw(st.integers(0, 9)):
        above = sides.definitions[supertype]
        fields = [*above.fields, *fields[: 0 if is_array else 3]]
        is_changed: bool = data.draw(st.booleans())  # narrowed, or widened
        if fields and is_changed:
            number = data.draw(st.integers(0, len(fields) - 1))
            storage, flags, heap_type = fields[number]
            if storage == VMStorage.REFERENCE and data.draw(st.booleans()):
                fields[number] = (storage, flags, draw_heap_type(data, sides))
            elif data.draw(st.booleans()):
                fields[number] = draw_field(data, sides)
            else:
                fields[number] = (storage, flags ^ FIELD_NULLABLE, heap_type)
            if fields[number][0] != VMStorage.REFERENCE:
                fields[number] = (fields[number][0], fields[number][1] & FIELD_MUTABLE, 0)
        fields = fields[:1] if is_array else fields
        if is_array and not fields:
            fields = [draw_field(data, sides)]
        for number, (storage, flags, heap_type) in enumerate(fields[: len(above.fields)]):
            if heap_type == SELF_TYPE and data.draw(st.booleans()):  # what was SELF in the supertype is that here
                fields[number] = (storage, flags, supertype)
    return Definition(tuple(fields), is_array, supertype, data.draw(st.sampled_from([0, 0, TYPE_FINAL])))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_sides_write_the_same_down_and_refuse_the_same(data: st.DataObject) -> None:
    with Sides() as sides:
        for _ in range(data.draw(st.integers(1, 8))):
            before = bytes(sides.c.control)
            if not sides.define(draw_definition(data, sides)):
                assert bytes(sides.c.control) == before
        sides.compare()
        for a, python_a in enumerate(sides.python):
            for b, python_b in enumerate(sides.python):
                is_below = sides.registry.is_subtype(python_a, python_b)
                assert sides.c.call("lh_is_subtype", a, b) == is_below
            compare_objects(sides, a, python_a)
        sides.c.call("lh_verify")


def compare_objects(sides: Sides, number: int, index: int) -> None:
    """An object of the type is as large on either side, and its fields are in the same places."""
    if sides.definitions[number].is_array:
        array = sides.heap.array_layout(index)
        assert sides.c.call("lh_field_offset", number, 0) == array.elements_offset
        reference, ours = sides.c.call("lh_alloc_array", number, 5), sides.heap.alloc_uninit_array(index, 5)
    else:
        fields = sides.heap.struct_layout(index).fields
        assert [sides.c.call("lh_field_offset", number, n) for n in range(len(fields))] == [f.offset for f in fields]
        reference, ours = sides.c.call("lh_alloc_struct", number), sides.heap.alloc_uninit_struct(index)
    header = sides.heap.header(ours)
    met = next(each for each in sides.c.objects() if each["reference"] == reference)
    assert (met["size"], met["kind"]) == (header.object_size, sides.heap.kind(ours))


def test_pairs_of_field_types_that_a_supertype_has() -> None:
    """All abstract heap types and a struct, an array and the types themselves, over each other; mutable or not."""
    with Sides() as sides:
        open_struct = Definition((), False, NO_SUPERTYPE, 0)
        open_array = Definition((I32_FIELD,), True, NO_SUPERTYPE, 0)
        for definition in (open_struct, open_array, Definition((), False, 0, 0), Definition((I32_FIELD,), True, 1, 0)):
            assert sides.define(definition)
        heap_types = [*VMHeapType, 0, 1, 2, 3, SELF_TYPE]
        accepted = 0
        for above in heap_types:
            for above_flags in (FIELD_NULLABLE, FIELD_NULLABLE | FIELD_MUTABLE):
                supertype = len(sides.python)
                assert sides.define(Definition(((VMStorage.REFERENCE, above_flags, above),), False, NO_SUPERTYPE, 0))
                for below in (*heap_types, supertype):
                    for flags in range(4):
                        field = (VMStorage.REFERENCE, flags, below)
                        accepted += sides.define(Definition((field,), False, supertype, TYPE_FINAL))
        assert accepted > 100
        sides.compare()


@pytest.mark.parametrize("count", [63, 64, 65, 100, MAX_STRUCT_FIELDS, MAX_STRUCT_FIELDS + 1])
def test_structs_too_large_for_the_mask_and_too_large_at_all(count: int) -> None:
    with Sides() as sides:
        is_possible = sides.define(Definition((ANY_FIELD,) * count, False, NO_SUPERTYPE, 0))
        assert is_possible == (count <= MAX_STRUCT_FIELDS)
        sides.compare()
        if is_possible:
            assert info_of(sides.c.control, 0).is_beyond_mask == (count > 64)


def test_chains_of_supertypes() -> None:
    with Sides() as sides:
        assert sides.define(Definition((), False, NO_SUPERTYPE, 0))
        for number in range(MAX_SUBTYPING_DEPTH):
            assert sides.define(Definition((), False, number, 0)), number
        assert not sides.define(Definition((), False, MAX_SUBTYPING_DEPTH, 0))
        sides.compare()


@pytest.mark.parametrize(
    ("fields", "options", "status", "message"),
    [
        ([(8, 0, 0)], {}, Status.BAD_TYPE, "field 0 has storage 8; they are from 0 to 7"),
        ([I32_FIELD, (VMStorage.I8, 4, 0)], {}, Status.BAD_TYPE, "field 1 has flags 0x4; 0x1 and 0x2 are known"),
        ([(VMStorage.I8, 0, 1)], {}, Status.BAD_TYPE, "field 0 refers to heap type 0x1, which is not defined"),
        ([(VMStorage.REFERENCE, 0, 5)], {}, Status.BAD_TYPE, "field 0 refers to heap type 0x5, which is not defined"),
        (
            [(VMStorage.REFERENCE, 0, max(VMHeapType) + 1)],
            {},
            Status.BAD_TYPE,
            "field 0 refers to heap type 0xffffff0c, which is not defined",
        ),
        ([I32_FIELD], {"flags": 2}, Status.BAD_ARGUMENT, "flags are 0x2; 0 and 0x1 are known"),
        ([I32_FIELD], {"supertype": 7}, Status.BAD_TYPE, "type 7 is not defined"),
        ([I32_FIELD], {"supertype": 1}, Status.WRONG_TYPE, "type 1 is not a struct type"),
        ([I32_FIELD], {"supertype": 2}, Status.BAD_TYPE, "type 2 is final, and cannot be a supertype"),
        ([I32_FIELD], {"supertype": 0}, Status.BAD_TYPE, "a subtype with 1 fields of type 0, which has 2"),
        ([I32_FIELD, I32_FIELD], {"supertype": 0}, Status.BAD_TYPE, "field 1 does not match that of supertype 0"),
    ],
)
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "fast"])
def test_refusals_of_both_forms(
    checked: bool, fields: list[Field], options: dict[str, int], status: Status, message: str
) -> None:
    with CHeap(checked=checked) as heap:
        heap.define_struct(I32_FIELD, SELF_FIELD)
        heap.define_array(I32_FIELD)
        heap.define_struct(flags=TYPE_FINAL)
        before = bytes(heap.control)
        with pytest.raises(FailureError) as raised:
            heap.define_struct(*fields, **options)
        assert raised.value.status == status
        assert raised.value.message == f"lh_define_struct: {message}"
        assert bytes(heap.control) == before


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "fast"])
def test_missing_fields_and_full_tables(checked: bool) -> None:
    with CHeap(checked=checked) as heap:
        for name, given in (("lh_define_struct", (ffi().NULL, 1)), ("lh_define_array", (ffi().NULL,))):
            with pytest.raises(FailureError) as raised:
                heap.call(name, *given, NO_SUPERTYPE, 0)
            assert raised.value.status == Status.BAD_ARGUMENT
        heap.control.type_data_length = TYPE_DATA_LIMIT - 3
        for fields in ([I32_FIELD], [ANY_FIELD]):  # 1 + 3 words, and 1 + 1 + 3
            with pytest.raises(FailureError) as raised:
                heap.define_struct(*fields)
            assert raised.value.status == Status.LIMIT
        assert heap.control.type_data_length == TYPE_DATA_LIMIT - 3
        heap.define_struct()
        heap.control.type_count = TYPE_LIMIT
        with pytest.raises(FailureError, match=f"all {TYPE_LIMIT} types are defined"):
            heap.define_array(I32_FIELD)
        heap.control.type_count = 1
