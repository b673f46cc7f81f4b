"""Functions of the subset that refuse: what Python raises, what C says, and what the fast build leaves out."""

from __future__ import annotations

import ast
import ctypes
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llvmlite import ir
from support.native_heaps import natives

import lowheap as lh
from lowheap.collectors import registry
from lowheap.collectors.shared import access, roots, types
from lowheap.embed.api import FUNCTIONS
from lowheap.embed.emitter import ApiEmitter, ApiFunction, function_type
from lowheap.embed.functions import FUNCTIONS as WRITTEN_ONCE
from lowheap.errors import (
    AllocationTooLargeError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    InvalidReferenceError,
    LowheapError,
    NoGcScopeError,
    Status,
    TypeDefinitionError,
    UnsupportedError,
)
from lowheap.jit.runtime import HOST_OPERATIONS
from lowheap.layout import (
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    NO_SUPERTYPE,
    NULL,
    SELF_TYPE,
    TYPE_FINAL,
    VMFieldDefinition,
    VMFieldInfo,
    VMGcKind,
    VMHeapType,
    VMStorage,
    VMTypeInfo,
)
from lowheap.native import Heap, NativeError, Ref, Text, check, inline, native, require, tables, u32
from lowheap.native.check import U32, declared, parsed
from lowheap.types import ANYREF, I8, I32, I64, AbstractHeapType, RefType

MOST = 5


class _Fast(ApiEmitter):
    system = "linux"


class _Checked(_Fast):
    is_checked = True


@inline
def refuse(heap: Heap, number: u32, what: Text) -> None:
    """Refuse large numbers, and look at small ones in the checked build."""
    require(number <= MOST, Status.LIMIT, f"{what} {{}} is too large; at most {MOST}, 0x{MOST:02x}", number)
    check(number != 0, Status.BAD_ARGUMENT, f"{what} is {{:#x}}", number)


NUMBER = Text("the number")


@inline
def refuse_number(heap: Heap, number: u32) -> None:
    """The same of a number."""
    refuse(heap, number, NUMBER)


def emitted(kind: type[_Fast], function: Any = refuse_number) -> str:
    module = ir.Module("test")
    kind.define_helpers(module)
    shape = FUNCTIONS["lh_inc_ref"]
    emitter = kind(ApiFunction(module, function_type(shape), shape.name))
    emitter.api = shape
    emitter.inline_native(function, *emitter.function.args[1:])
    emitter.builder.ret(ir.IntType(32)(Status.OK))
    return str(module)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.OUT_OF_MEMORY, HeapExhaustedError),
        (Status.TOO_LARGE, AllocationTooLargeError),
        (Status.NULL_REFERENCE, InvalidReferenceError),
        (Status.BAD_REFERENCE, InvalidReferenceError),
        (Status.WRONG_TYPE, InvalidReferenceError),
        (Status.BAD_TYPE, TypeDefinitionError),
        (Status.NO_GC, NoGcScopeError),
        (Status.CORRUPT, HeapCorruptionError),
        (Status.UNSUPPORTED, UnsupportedError),
        (Status.BAD_SLOT, HeapError),
    ],
)
def test_python_raises_what_stands_for_the_status(status: Status, kind: type[LowheapError]) -> None:
    for word in (require, check):
        word(True, status, "nothing {}", 1)
        with pytest.raises(kind, match=r"^8 of 0x10$"):
            word(False, status, "{} of {:#x}", 8, 16)


def test_python_puts_statics_and_constants_in_the_message() -> None:
    with lh.Store(lh.Engine()) as store:
        heap = tables(store.heap.control)
        refuse(heap, 5, NUMBER)
        with pytest.raises(HeapError, match=r"^the number 6 is too large; at most 5, 0x05$"):
            refuse(heap, 6, NUMBER)
        with pytest.raises(HeapError, match=r"^it is 0x0$"):
            refuse(heap, 0, Text("it"))


def test_machine_code_has_the_messages_of_its_build() -> None:
    fast, checked = emitted(_Fast), emitted(_Checked)
    for text in (fast, checked):
        assert "lh_inc_ref: the number %llu is too large; at most 5, 0x05" in text
    assert "the number is 0x%llx" in checked
    assert "the number is" not in fast


def test_the_fast_build_does_not_even_evaluate_what_only_the_checked_one_asks() -> None:
    @native
    def costly(heap: Heap, number: u32) -> bool:
        """What nobody needs to know."""
        return number % 7 == 3

    @inline
    def asks(heap: Heap, number: u32) -> None:
        """Ask."""
        check(costly(heap, number), Status.BAD_ARGUMENT, "no")
        if heap.is_checked:
            require(costly(heap, number), Status.BAD_ARGUMENT, "no")

    assert emitted(_Checked, asks).count("costly") == 3
    assert "costly" not in emitted(_Fast, asks)


def test_texts_that_are_refused() -> None:
    @inline
    def variable(heap: Heap, number: u32) -> None:
        """A number has no place in an f-string."""
        require(number == 0, Status.LIMIT, f"{number}")

    @inline
    def too_few(heap: Heap, number: u32) -> None:
        """There are two places and one number."""
        require(number == 0, Status.LIMIT, f"{MOST}: {{}} and {{}}", number)

    @inline
    def no_status(heap: Heap, number: u32) -> None:
        """The status is known when code is compiled."""
        require(number == 0, number, "no")

    for function, reason in (
        (variable, "neither a constant nor static"),
        (too_few, "does not go with 1 numbers"),
        (no_status, "the status is a constant"),
    ):
        with pytest.raises(NativeError, match=reason):
            _ = function.checked


# ----------------------------------------------------------------------------------------------------------------------
# The functions of the C interface, run by Python: on a heap of Python's they do what its own classes do


@pytest.fixture
def store() -> Any:
    with lh.Store(lh.Engine()) as made:
        yield made


def registered(store: lh.Store, *storages: Any) -> int:
    fields = tuple(lh.FieldType(storage, True) for storage in storages)
    (index,) = store.engine.types.register([lh.SubType(lh.StructType(fields))], outer=tuple(store.engine.types))
    store.heap.register_type(index)
    return index


def test_fields_are_read_and_written(store: lh.Store) -> None:
    made = lh.Struct(store, registered(store, I8, I32, I64, ANYREF))
    heap, reference, result = store.heap.native, made.reference, ctypes.c_uint32()
    other = lh.Struct(store, registered(store, I32))
    WRITTEN_ONCE["lh_struct_set_i32"](heap, reference, 0, 0x1FE)
    WRITTEN_ONCE["lh_struct_set_i32"](heap, reference, 1, 7)
    WRITTEN_ONCE["lh_struct_set_i64"](heap, reference, 2, 1 << 40)
    WRITTEN_ONCE["lh_struct_set_ref"](heap, reference, 3, other.reference)
    assert (made[0] & 0xFF, made[1], made[2]) == (0xFE, 7, 1 << 40)
    assert store.heap.header(other.reference).ref_count == 2
    for name, expected in (("i32", -2 & 0xFFFF_FFFF), ("u32", 0xFE)):
        WRITTEN_ONCE[f"lh_struct_get_{name}"](heap, reference, 0, result)
        assert result.value == expected
    WRITTEN_ONCE["lh_struct_set_ref"](heap, reference, 3, NULL)
    assert store.heap.header(other.reference).ref_count == 1
    with pytest.raises(HeapError, match=r"field 4 is out of bounds: the struct at .* has 4"):
        WRITTEN_ONCE["lh_struct_get_i32"](heap, reference, 4, result)
    with pytest.raises(InvalidReferenceError, match="field 2 has storage 3; this is for i32 or i8 or i16, 2"):
        WRITTEN_ONCE["lh_struct_get_i32"](heap, reference, 2, result)
    store.verify()


def test_what_names_no_object(store: lh.Store) -> None:
    made = lh.Struct(store, registered(store, I32))
    heap = store.heap.native
    assert access.object_problem(heap, made.reference) == access.SOUND
    assert access.object_problem(heap, made.reference + 4) == access.NO_OBJECT
    header = store.heap.header(made.reference)
    for field, wrong in (("type_index", 99), ("object_size", 64)):
        right = getattr(header, field)
        setattr(header, field, wrong)
        assert access.object_problem(heap, made.reference) == access.FORGED
        setattr(header, field, right)
    assert access.object_problem(heap, made.reference) == access.SOUND


def test_definitions_of_c_and_types_of_python_are_the_same_words(store: lh.Store) -> None:
    """The same type, once defined as C defines it and once registered: but for its number, each word is the same."""
    first = registered(store, I32, ANYREF, I64, RefType(True, AbstractHeapType.I31))
    control = store.heap.control
    wanted, start = type_words(store, first)
    flags = FIELD_MUTABLE | FIELD_NULLABLE
    definitions = (VMFieldDefinition * 4)(
        (VMStorage.I32, FIELD_MUTABLE, 0),
        (VMStorage.REFERENCE, flags, VMHeapType.ANY),
        (VMStorage.I64, FIELD_MUTABLE, 0),
        (VMStorage.REFERENCE, flags, VMHeapType.I31),
    )
    address = ctypes.addressof(definitions)
    number = types.define_type(tables(control), VMGcKind.STRUCT_REF, address, 4, NO_SUPERTYPE, TYPE_FINAL)
    assert number == first + 1 == control.type_count - 1
    found, other_start = type_words(store, number)
    assert other_start > start
    assert found == wanted


def type_words(store: lh.Store, index: int) -> tuple[list[Any], int]:
    """What the table says of a type, without where in the type data it does, and without its number."""
    heap = tables(store.heap.control)
    info = heap.type_info(index)
    start = info.traced_offsets_start
    places = ("traced_offsets_start", "supertypes_start", "fields_start", "reserved")
    words: list[Any] = [getattr(info, name) for name, _ in VMTypeInfo._fields_ if name not in places]
    words += [getattr(info, name) - start for name in places[1:3]]
    words += [heap.type_data(start + number) for number in range(info.traced_count)]
    words += [heap.type_data(info.supertypes_start + number) == index for number in range(info.depth + 1)]
    for number in range(info.field_count):
        words.append(bytes(ctypes.string_at(ctypes.addressof(types.field_info(heap, info, number)), FIELD_SIZE)))
    return words, start


FIELD_SIZE = ctypes.sizeof(VMFieldInfo)


def test_definitions_that_are_refused(store: lh.Store) -> None:
    heap = tables(store.heap.control)
    base = registered(store, I32)

    def define(*fields: tuple[int, int, int], supertype: int = NO_SUPERTYPE, flags: int = 0) -> int:
        definitions = (VMFieldDefinition * len(fields))(*fields)
        return types.define_type(
            heap, VMGcKind.STRUCT_REF, ctypes.addressof(definitions), len(fields), supertype, flags
        )

    before = store.heap.control.type_data_length
    for wrong, reason in (
        (lambda: define((8, 0, 0)), "field 0 has storage 8"),
        (lambda: define((VMStorage.I32, 4, 0)), "field 0 has flags 0x4; 0x1 and 0x2 are known"),
        (lambda: define((VMStorage.REFERENCE, 0, 99)), "field 0 refers to heap type 0x63"),
        (lambda: define(supertype=99), "type 99 is not defined"),
        (lambda: define(supertype=base), f"type {base} is final"),
    ):
        with pytest.raises(TypeDefinitionError, match=reason):
            wrong()
    assert store.heap.control.type_data_length == before
    open_type = define((VMStorage.REFERENCE, 0, SELF_TYPE))
    below = define((VMStorage.REFERENCE, 0, SELF_TYPE), (VMStorage.I8, 0, 0), supertype=open_type)
    assert types.is_subtype(heap, below, open_type)
    assert not types.is_subtype(heap, open_type, below)
    with pytest.raises(TypeDefinitionError, match=r"a subtype with 0 fields of type .*, which has 1"):
        define(supertype=open_type)
    with pytest.raises(TypeDefinitionError, match=f"field 0 does not match that of supertype {open_type}"):
        define((VMStorage.REFERENCE, 0, VMHeapType.ANY), supertype=open_type)


def test_no_gc_scopes(store: lh.Store) -> None:
    heap = store.heap.native
    roots.enter_no_gc_scope(heap)
    with pytest.raises(NoGcScopeError, match="1 are entered"):
        roots.require_no_scope(heap)
    roots.exit_no_gc_scope(heap)
    with pytest.raises(NoGcScopeError, match="none was entered"):
        roots.exit_no_gc_scope(heap)


def test_a_reference_is_checked_where_it_stands_in_a_message() -> None:
    @inline
    def refused(heap: Heap, reference: Ref, what: Text) -> None:
        """An object is wanted."""
        require(reference != NULL, Status.NULL_REFERENCE, f"{what} is null")

    with lh.Store(lh.Engine()) as store, pytest.raises(InvalidReferenceError, match=r"^value is null$"):
        refused(tables(store.heap.control), NULL, access.VALUE)


def test_what_annotations_tell_of_a_function_is_what_its_source_tells() -> None:
    """Who calls machine code has it from there: `declared` looks at no source."""
    for function in (*HOST_OPERATIONS, *registry.find("drc").all_compiled()):
        parameters, result = declared(function)
        assert (parameters, result) == (list(function.checked.parameters), function.checked.result), function.name


def test_annotations_that_are_not_texts_are_looked_up_in_the_source() -> None:
    def own(heap: Heap, number: u32) -> u32:
        return number

    own.__annotations__ = {"heap": Heap, "number": u32, "return": u32}
    function = native(own)
    assert declared(function) == (function.checked.parameters, U32)


def test_an_annotation_that_is_none_of_the_subset_s() -> None:
    def own(heap: Heap, number: float) -> u32:
        return u32(0)

    with pytest.raises(NativeError, match="float"):
        declared(native(own))


# ----------------------------------------------------------------------------------------------------------------------
# Sources


def as_inspect_has_it(function: Callable[..., Any]) -> str:
    lines, line = inspect.getsourcelines(function)
    source = "".join(lines)
    tree = ast.parse(f"if True:\n{source}" if source[0].isspace() else source)
    ast.increment_lineno(tree, line - 1 - source[0].isspace())
    (found,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return ast.dump(found, include_attributes=True)


def test_functions_of_the_package_are_read_as_inspect_reads_them() -> None:
    functions = [*natives(on_tables=False), *natives(on_tables=True), *HOST_OPERATIONS]
    assert len(functions) > 100
    for function in functions:
        tree, path = parsed(function.function)
        assert ast.dump(tree, include_attributes=True) == as_inspect_has_it(function.function), function.symbol
        assert path == inspect.getsourcefile(function.function)


ODD_SOURCES = """
def ends_in_text(heap, number):
    number = number + 1
# which stands where no function is
    return number
    '''Text that is no code,
and of which a line begins as the next function might.
'''

class Owner:
    @staticmethod
    def of_text_only(heap):
        '''Text,
and more of it.
        '''
after = 1
"""


def test_functions_whose_code_does_not_tell_where_they_end(tmp_path: Path) -> None:
    path = tmp_path / "odd_sources.py"
    path.write_text(ODD_SOURCES)
    scope: dict[str, Any] = {}
    exec(compile(ODD_SOURCES, str(path), "exec"), scope)
    for function in (scope["ends_in_text"], scope["Owner"].of_text_only):
        tree, _ = parsed(function)
        assert ast.dump(tree, include_attributes=True) == as_inspect_has_it(function)
