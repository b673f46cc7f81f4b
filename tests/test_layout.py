"""Every byte of the layout, against wasmtime's figures, the C compiler and LLVM."""

from __future__ import annotations

import ctypes
import enum
from pathlib import Path
from typing import Any

import cffi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llvmlite import binding, ir
from support.c_layouts import Structure, fields_of, members, print_numbers, promoted, run_c

from lowheap import layout
from lowheap.collectors.shared import references
from lowheap.collectors.shared.free_lists import size_class
from lowheap.declarations import c_declarations, pointer_type, quick
from lowheap.jit.emit import llvm_structure
from lowheap.layout import (
    BLOCK_ALIGN,
    FIRST_INDEX,
    MAXIMUM_CAPACITY,
    SIZE_CLASS_COUNT,
    SMALL_BLOCK_LIMIT,
    STRUCTURES,
    CollectionPhase,
    FreeBlock,
    GcTypeLayouts,
    VMContext,
    VMContextLayout,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMDrcHeapData,
    VMFunctionImport,
    VMGcHeader,
    VMGcKind,
    VMHandle,
    VMHeapControl,
    block_length,
    i31_from_int,
    i31_get_s,
    i31_get_u,
    is_i31,
    is_object,
)

LARGEST_OBJECT = MAXIMUM_CAPACITY - FIRST_INDEX
LAYOUTS = GcTypeLayouts()

fields = st.lists(st.tuples(st.sampled_from([1, 2, 4, 8, 16]), st.booleans()), max_size=12)


# ----------------------------------------------------------------------------------------------------------------------
# The seed's own unit tests, and wasmtime's figures


def test_drc_header_size_and_align() -> None:
    assert ctypes.sizeof(VMDrcHeader) == layout.HEADER_SIZE == 24
    assert ctypes.alignment(VMDrcHeader) == layout.HEADER_ALIGN == 8


def test_array_header_length_offset() -> None:
    assert VMDrcArrayHeader.length.offset == layout.ARRAY_LENGTH_OFFSET == 24


def test_ref_count_is_at_correct_offset() -> None:
    header = VMDrcHeader()
    header.ref_count = 0x1122334455667788
    assert VMDrcHeader.ref_count.offset == 8
    assert bytes(header)[8:16] == bytes.fromhex("8877665544332211")


@pytest.mark.parametrize(
    ("data", "size", "offsets"),
    [
        (VMGcHeader, 8, {"kind_and_reserved": (0, 4), "type_index": (4, 4)}),
        (
            VMDrcHeader,
            24,
            {
                "header": (0, 8),
                "kind_and_reserved": (0, 4),
                "type_index": (4, 4),
                "ref_count": (8, 8),
                "next_over_approximated_stack_root": (16, 4),
                "object_size": (20, 4),
            },
        ),
        (VMDrcArrayHeader, 32, {"drc": (0, 24), "length": (24, 4)}),
        (VMDrcExternRef, 32, {"drc": (0, 24), "host_data_id": (24, 4)}),
        (VMDrcExnHeader, 32, {"drc": (0, 24), "tag_instance": (24, 4), "tag_defined": (28, 4)}),
        (
            VMDrcHeapData,
            12,
            {"over_approximated_stack_roots": (0, 4), "current_len": (4, 4), "len_after_last_gc": (8, 4)},
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_wasmtime_structures(data: Structure, size: int, offsets: dict[str, tuple[int, int]]) -> None:
    assert ctypes.sizeof(data) == size
    for name, place in offsets.items():
        field: Any = getattr(data, name)
        assert (field.offset, field.size) == place, name


def test_wasmtime_constants() -> None:
    assert layout.ARRAY_HEADER_END == 28
    assert layout.EXCEPTION_FIELDS_OFFSET == 32
    assert layout.EXTERNREF_TYPE_INDEX == 0xFFFF_FFFF
    assert (layout.BLOCK_ALIGN, layout.FIRST_INDEX) == (16, 16)
    assert (layout.HEADER_MARK_BIT, layout.HEADER_IN_OVER_APPROX_LIST_BIT) == (0b01, 0b10)
    assert (layout.NULL, layout.I31_TAG, layout.REFERENCE_SIZE) == (0, 1, 4)
    assert (layout.KIND_MASK, layout.RESERVED_MASK) == (0xFC00_0000, 0x03FF_FFFF)


def test_control_block_begins_with_wasmtimes_heap_data() -> None:
    drc: Any = VMHeapControl.drc
    assert drc.offset == 0
    assert VMHeapControl.over_approximated_stack_roots.offset == 0


def test_the_object_seen_on_a_live_heap_reads_back() -> None:
    """A struct of two words as wasmtime 43 had it: kind word, type 0, count 2, next 16, 40 bytes."""
    image = bytes.fromhex("020000b0 00000000 0200000000000000 10000000 28000000")
    header = VMDrcHeader.from_buffer_copy(image)
    assert header.kind_and_reserved & layout.KIND_MASK == VMGcKind.STRUCT_REF
    assert header.kind_and_reserved & layout.RESERVED_MASK == layout.HEADER_IN_OVER_APPROX_LIST_BIT
    assert (header.type_index, header.ref_count) == (0, 2)
    assert (header.next_over_approximated_stack_root, header.object_size) == (16, 40)


# ----------------------------------------------------------------------------------------------------------------------
# Kinds


KIND_BITS = {
    VMGcKind.EXTERN_REF: 0b010000,
    VMGcKind.ANY_REF: 0b100000,
    VMGcKind.EQ_REF: 0b101000,
    VMGcKind.ARRAY_REF: 0b101010,
    VMGcKind.STRUCT_REF: 0b101100,
    VMGcKind.EXN_REF: 0b000001,
    VMGcKind.HIDDEN_ARRAY_REF: 0b100010,
    VMGcKind.HIDDEN_STRUCT_REF: 0b100100,
}
ABOVE = {
    VMGcKind.EQ_REF: {VMGcKind.ANY_REF},
    VMGcKind.ARRAY_REF: {VMGcKind.EQ_REF, VMGcKind.HIDDEN_ARRAY_REF, VMGcKind.ANY_REF},
    VMGcKind.STRUCT_REF: {VMGcKind.EQ_REF, VMGcKind.HIDDEN_STRUCT_REF, VMGcKind.ANY_REF},
    VMGcKind.HIDDEN_ARRAY_REF: {VMGcKind.ANY_REF},
    VMGcKind.HIDDEN_STRUCT_REF: {VMGcKind.ANY_REF},
}


def test_kind_values() -> None:
    assert {kind: kind >> 26 for kind in VMGcKind} == KIND_BITS
    assert all(kind & layout.RESERVED_MASK == 0 for kind in VMGcKind)
    assert set(layout.OBJECT_KINDS) == set(VMGcKind) - {VMGcKind.ANY_REF, VMGcKind.EQ_REF}


@pytest.mark.parametrize("below", VMGcKind, ids=lambda kind: kind.name)
@pytest.mark.parametrize("above", VMGcKind, ids=lambda kind: kind.name)
def test_kind_subtyping_is_the_bit_rule_and_webassemblys(below: VMGcKind, above: VMGcKind) -> None:
    assert below.matches(above) == (KIND_BITS[below] & KIND_BITS[above] == KIND_BITS[above])
    assert below.matches(above) == (below is above or above in ABOVE.get(below, set()))


# ----------------------------------------------------------------------------------------------------------------------
# References


@given(st.integers(-(1 << 40), 1 << 40))
def test_i31_keeps_the_low_31_bits(value: int) -> None:
    raw = i31_from_int(value)
    assert 0 < raw <= layout.U32_MAX
    assert is_i31(raw)
    assert not is_object(raw)
    assert i31_get_u(raw) == value % (1 << 31)
    assert i31_get_s(raw) == (value + (1 << 30)) % (1 << 31) - (1 << 30)


@given(st.integers(-(1 << 30), (1 << 30) - 1))
def test_signed_i31_round_trip(value: int) -> None:
    assert i31_get_s(i31_from_int(value)) == value


@given(st.integers(0, (1 << 31) - 1))
def test_unsigned_i31_round_trip(value: int) -> None:
    assert i31_get_u(i31_from_int(value)) == value
    assert i31_from_int(value) == value << 1 | 1


@given(st.integers(0, layout.U32_MAX))
def test_a_reference_is_null_an_i31_or_an_object(raw: int) -> None:
    assert [raw == layout.NULL, is_i31(raw), is_object(raw)].count(True) == 1


# ----------------------------------------------------------------------------------------------------------------------
# Structs, arrays, exceptions


def test_known_struct_layouts() -> None:
    assert LAYOUTS.struct_layout([]).size == 24
    node = LAYOUTS.struct_layout([(4, True), (4, True), (8, False), (1, False), (4, False)])
    assert [field.offset for field in node.fields] == [24, 28, 32, 40, 44]
    assert (node.size, node.align, node.traced_offsets) == (48, 8, (24, 28))
    assert (LAYOUTS.struct_layout([(1, False), (16, False)]).size, LAYOUTS.struct_layout([(1, False)]).size) == (48, 32)


def test_known_array_layouts() -> None:
    starts = {size: LAYOUTS.array_layout((size, False)).elements_offset for size in (1, 2, 4, 8, 16)}
    assert starts == {1: 28, 2: 28, 4: 28, 8: 32, 16: 32}
    assert LAYOUTS.array_layout((1, False)).size(3) == 31, "an array's size is not rounded up"
    assert LAYOUTS.array_layout((16, False)).align == 16
    assert LAYOUTS.array_layout((4, True)).elements_are_traced


def test_kinds_of_layouts() -> None:
    assert LAYOUTS.struct_layout([]).kind is VMGcKind.STRUCT_REF
    assert LAYOUTS.exception_layout([]).kind is VMGcKind.EXN_REF
    assert LAYOUTS.array_layout((4, False)).kind is VMGcKind.ARRAY_REF


@given(fields, fields)
def test_a_subtype_keeps_its_supertypes_fields(inherited: list[tuple[int, bool]], own: list[tuple[int, bool]]) -> None:
    above = LAYOUTS.struct_layout(inherited)
    below = LAYOUTS.struct_layout(inherited + own)
    assert below.fields[: len(inherited)] == above.fields


# Compiling a program for each of many small structs would take minutes: an example is a whole batch of them.
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=st.lists(fields, min_size=60, max_size=120))
def test_struct_and_exception_layouts_are_c(
    tmp_path_factory: pytest.TempPathFactory, batch: list[list[tuple[int, bool]]]
) -> None:
    integers = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t", 16: "_Alignas(16) uint8_t"}
    source, expressions, expected = "", [], []
    for number, members_of in enumerate(batch):
        for header, result in (
            ("VMDrcHeader", LAYOUTS.struct_layout(members_of)),
            ("VMDrcExnHeader", LAYOUTS.exception_layout(members_of)),
        ):
            name = f"{header}_{number}"
            body = "".join(
                f" {integers[size]} f{index}{'[16]' if size == 16 else ''};"
                for index, (size, _) in enumerate(members_of)
            )
            source += f"typedef struct {{ {header} h;{body} }} {name};\n"
            expressions += [f"sizeof({name})", f"_Alignof({name})"]
            expressions += [f"offsetof({name}, f{index})" for index in range(len(members_of))]
            expected += [result.size, result.align, *(field.offset for field in result.fields)]
            assert [(field.size, field.is_traced) for field in result.fields] == members_of
            assert result.traced_offsets == tuple(field.offset for field in result.fields if field.is_traced)
    lines = run_c(source + print_numbers(expressions), tmp_path_factory.mktemp("structs"))
    assert dict(zip(expressions, map(int, lines), strict=True)) == dict(zip(expressions, expected, strict=True))


def test_array_layouts_are_c(tmp_path: Path) -> None:
    """An array is a header, a length and a flexible array member; element addresses are C's."""
    source, expressions, expected = "typedef struct { _Alignas(16) uint8_t b[16]; } vector_t;\n", [], []
    elements = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t", 16: "vector_t"}
    for size, element in elements.items():
        result = LAYOUTS.array_layout((size, False))
        source += f"typedef struct {{ VMDrcHeader drc; uint32_t length; {element} elements[]; }} array_{size};\n"
        expressions += [f"offsetof(array_{size}, elements)", f"_Alignof(array_{size})"]
        expected += [result.elements_offset, result.align]
        for index in (1, 2, 7, 1000):
            expressions.append(f"(uintptr_t)&((array_{size} *)0)->elements[{index}]")
            expected += [result.element_offset(index)]
            assert result.size(index) == result.element_offset(index)
    assert list(map(int, run_c(source + print_numbers(expressions), tmp_path))) == expected


# ----------------------------------------------------------------------------------------------------------------------
# Sizes near 2^32


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_array_sizes_stop_before_they_overflow(size: int) -> None:
    array = LAYOUTS.array_layout((size, False))
    longest = (LARGEST_OBJECT - array.elements_offset) // size
    assert array.size(longest) <= LARGEST_OBJECT
    assert FIRST_INDEX + block_length(array.size(longest)) <= MAXIMUM_CAPACITY
    for length in (longest + 1, (1 << 32) // size, (1 << 32) - 1, 1 << 32, 1 << 64):
        with pytest.raises(OverflowError, match=f"{length} elements of {size} bytes"):
            array.size(length)


@given(st.integers(0, 1 << 33), st.sampled_from([1, 2, 4, 8, 16]))
def test_every_array_size_that_is_given_out_fits_u32(length: int, size: int) -> None:
    array = LAYOUTS.array_layout((size, False))
    try:
        total = array.size(length)
    except OverflowError:
        assert array.element_offset(length) > LARGEST_OBJECT - BLOCK_ALIGN
    else:
        assert total == array.elements_offset + length * size
        assert FIRST_INDEX + block_length(total) <= layout.U32_MAX


def test_struct_sizes_stop_before_they_overflow() -> None:
    with pytest.raises(OverflowError, match="a type with 2 fields"):
        LAYOUTS.struct_layout([(1 << 31, False), (1 << 31, False)])


@pytest.mark.parametrize("size", [LARGEST_OBJECT + 1, 1 << 32, 1 << 40])
def test_checked_size_names_what_is_too_large(size: int) -> None:
    assert layout.checked_size(LARGEST_OBJECT, "a thing") == LARGEST_OBJECT
    with pytest.raises(OverflowError, match=f"a thing takes {size} bytes; .* at most {LARGEST_OBJECT}"):
        layout.checked_size(size, "a thing")


# ----------------------------------------------------------------------------------------------------------------------
# Size classes and blocks

lengths = st.integers(1, LARGEST_OBJECT // BLOCK_ALIGN).map(lambda blocks: blocks * BLOCK_ALIGN)


@given(lengths, lengths)
def test_size_classes_are_monotone_and_within_range(shorter: int, longer: int) -> None:
    shorter, longer = sorted((shorter, longer))
    assert 0 < size_class(shorter) <= size_class(longer) < SIZE_CLASS_COUNT


def test_small_classes_are_exact() -> None:
    small = [size_class(length) for length in range(BLOCK_ALIGN, SMALL_BLOCK_LIMIT, BLOCK_ALIGN)]
    assert small == sorted(set(small))


@pytest.mark.parametrize("power", range(SMALL_BLOCK_LIMIT.bit_length() - 1, 32))
def test_a_large_class_is_a_power_of_two(power: int) -> None:
    first = size_class(1 << power)
    last = min((1 << power + 1) - BLOCK_ALIGN, LARGEST_OBJECT)
    assert size_class(last) == first
    assert size_class((1 << power) - BLOCK_ALIGN) == first - 1
    assert first < SIZE_CLASS_COUNT


def test_the_last_class_is_used() -> None:
    assert size_class(LARGEST_OBJECT) == SIZE_CLASS_COUNT - 1


@given(st.integers(0, layout.U32_MAX), st.integers(0, LARGEST_OBJECT))
def test_collectors_have_their_own_words_for_the_same(reference: int, size: int) -> None:
    """A function of the subset calls no other; and Python's own is not asserted at every step."""
    assert references.is_object(reference) == references.names_object(reference) == is_object(reference)
    assert references.block_length(size) == block_length(size)


@given(st.integers(1, LARGEST_OBJECT))
def test_blocks_are_the_next_multiple_of_16(size: int) -> None:
    length = block_length(size)
    assert length % 16 == 0
    assert size <= length < size + 16


def test_a_free_block_fits_the_smallest_block() -> None:
    assert ctypes.sizeof(FreeBlock) == BLOCK_ALIGN
    assert FreeBlock.kind_and_reserved.offset == VMDrcHeader.kind_and_reserved.offset
    assert block_length(layout.HEADER_SIZE) == layout.MINIMUM_OBJECT_BLOCK


# ----------------------------------------------------------------------------------------------------------------------
# The structures, as C and LLVM see them


def test_structures_lists_every_structure_after_its_parts() -> None:
    own = {
        value
        for value in vars(layout).values()
        if isinstance(value, type) and issubclass(value, ctypes.Structure) and value.__module__ == layout.__name__
    }
    assert set(STRUCTURES) == own
    assert len(STRUCTURES) == len(own)
    for number, data in enumerate(STRUCTURES):
        parts = {kind for _, kind in fields_of(data) if issubclass(kind, ctypes.Structure)}
        assert parts <= set(STRUCTURES[:number]), data.__name__


@pytest.mark.parametrize("data", STRUCTURES, ids=lambda data: data.__name__)
def test_what_the_type_checker_sees_exists(data: Structure) -> None:
    for name in data.__annotations__:
        assert hasattr(data, name), f"{data.__name__}.{name}"


def test_every_structure_is_the_same_in_c(tmp_path: Path) -> None:
    expressions, expected = [], []
    for data in STRUCTURES:
        name = data.__name__
        expressions += [f"sizeof({name})", f"_Alignof({name})"]
        expected += [ctypes.sizeof(data), ctypes.alignment(data)]
        for path, offset, size in members(data):
            dotted = ".".join(path)
            expressions += [f"offsetof({name}, {dotted})", f"sizeof((({name} *)0)->{dotted})"]
            expected += [offset, size]
        for short in promoted(data):
            field: Any = getattr(data, short)
            expressions += [f"offsetof({name}, {short})", f"sizeof((({name} *)0)->{short})"]
            expected += [field.offset, field.size]
    lines = run_c(print_numbers(expressions), tmp_path)
    assert dict(zip(expressions, map(int, lines), strict=True)) == dict(zip(expressions, expected, strict=True))


def test_every_constant_is_the_same_in_c(tmp_path: Path) -> None:
    expected = {
        f"LOWHEAP_{name}": value for name, value in vars(layout).items() if name.isupper() and type(value) is int
    }
    for prefix, enumeration in {
        "VM_GC_KIND": VMGcKind,
        "COLLECTION_PHASE": CollectionPhase,
        "VM_STORAGE": layout.VMStorage,
        "VM_HEAP_TYPE": layout.VMHeapType,
        "VM_HOST_DATA_OWNER": layout.VMHostDataOwner,
        "VM_ROOT_KIND": layout.VMRootKind,
        "VM_PART_KIND": layout.VMPartKind,
    }.items():
        expected |= {f"LOWHEAP_{prefix}_{member.name}": int(member) for member in enumeration}
    assert {"LOWHEAP_BLOCK_ALIGN", "LOWHEAP_HEADER_MARK_BIT", "LOWHEAP_SIZE_CLASS_COUNT"} <= set(expected)
    lines = run_c(print_numbers(list(expected)), tmp_path)
    assert dict(zip(expected, map(int, lines), strict=True)) == expected
    enumerations = [
        value for value in vars(layout).values() if isinstance(value, type) and issubclass(value, enum.IntEnum)
    ]
    macros = sum(line.startswith("#define") for line in c_declarations().splitlines())
    assert macros == len(expected), [kind.__name__ for kind in enumerations]


def test_the_declarations_are_what_cffi_takes() -> None:
    ffi = cffi.FFI()
    ffi.cdef(c_declarations())
    for data in STRUCTURES:
        assert ffi.sizeof(data.__name__) == ctypes.sizeof(data)
        assert ffi.alignof(data.__name__) == ctypes.alignment(data)
        for path, offset, _ in members(data):
            assert ffi.offsetof(data.__name__, *path) == offset, f"{data.__name__}.{'.'.join(path)}"
    header: Any = ffi.new("VMDrcExternRef *", {"host_data_id": 7})
    header.ref_count, header.drc.header.type_index = 3, 5
    seen: Any = VMDrcExternRef.from_buffer_copy(ffi.buffer(header))
    assert (seen.host_data_id, seen.ref_count, seen.type_index) == (7, 3, 5)


def test_signs_are_the_same_in_c() -> None:
    """Members of all ones: what ctypes reads as -1 or as the greatest value, so does C."""
    ffi = cffi.FFI()
    ffi.cdef(c_declarations())
    for data in STRUCTURES:
        ones = b"\xff" * ctypes.sizeof(data)
        in_python: Any = data.from_buffer_copy(ones)
        in_c: Any = ffi.from_buffer(f"{data.__name__} *", bytearray(ones))
        for name, kind in fields_of(data):
            if issubclass(kind, ctypes._SimpleCData):
                assert getattr(in_c, name) == getattr(in_python, name), f"{data.__name__}.{name}"


def test_fields_that_c_cannot_declare_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Floating(ctypes.Structure):
        _fields_ = (("value", ctypes.c_double),)

    class Bits(ctypes.Structure):
        _fields_ = (("flag", ctypes.c_uint32, 1),)

    for data, message in ((Floating, "Floating.value is .*c_double"), (Bits, "Bits.flag is a bit field")):
        monkeypatch.setattr(layout, "STRUCTURES", (*STRUCTURES, data))
        with pytest.raises(TypeError, match=message):
            c_declarations()


@pytest.mark.parametrize("data", STRUCTURES, ids=lambda data: data.__name__)
def test_every_structure_is_the_same_in_llvm(data: Structure) -> None:
    binding.initialize_native_target()
    machine = binding.Target.from_default_triple().create_target_machine()
    target_data = binding.create_target_data(str(machine.target_data))
    kind = llvm_structure(data)
    assert kind.get_abi_size(target_data) == ctypes.sizeof(data)
    assert kind.get_abi_alignment(target_data) == ctypes.alignment(data)
    for path, offset, size in members(data):
        part, structure, found = kind, data, 0
        for name in path:
            assert isinstance(part, ir.LiteralStructType)
            position = [each for each, _ in fields_of(structure)].index(name)
            found += part.get_element_offset(target_data, position)
            part, structure = part.elements[position], dict(fields_of(structure))[name]
        assert (found, part.get_abi_size(target_data)) == (offset, size), f"{data.__name__}.{'.'.join(path)}"


# ----------------------------------------------------------------------------------------------------------------------
# The parts of a vmctx


@given(*[st.integers(0, 9)] * 4)
def test_the_parts_of_a_vmctx_do_not_overlap(
    functions: int, imported_globals: int, defined: int, defined_globals: int
) -> None:
    place = VMContextLayout(functions, imported_globals, defined, defined_globals)
    parts = [(0, ctypes.sizeof(VMContext), 8)]
    parts += [(place.function_import(index), ctypes.sizeof(VMFunctionImport), 8) for index in range(functions)]
    parts += [(place.global_import(index), 8, 8) for index in range(imported_globals)]
    parts += [(place.funcref(index), 4, 4) for index in range(defined)]
    parts += [(place.global_cell(index), 16, 16) for index in range(defined_globals)]
    end = 0
    for offset, size, align in parts:
        assert offset >= end, "parts overlap, or are out of order"
        assert offset - end < 16, "parts are apart by more than alignment asks for"
        assert offset % align == 0
        end = offset + size
    assert end <= place.size < end + 16


@pytest.mark.parametrize("data", [VMHandle, VMGcHeader], ids=lambda data: data.__name__)
def test_the_quick_type_of_a_structure_has_its_bytes(data: Structure) -> None:
    made = quick.new(pointer_type(data))
    assert quick.sizeof(made[0]) == ctypes.sizeof(data)
    for number, (name, *_) in enumerate(data._fields_, 1):
        setattr(made, name, number)
    seen = data.from_buffer_copy(bytes(quick.buffer(made)))
    assert [getattr(seen, name) for name, *_ in data._fields_] == list(range(1, len(data._fields_) + 1))
