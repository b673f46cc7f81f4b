"""The binary format, read into dataclasses: types, imports, globals, exports, and instructions with their offsets.

`decode` turns bytes into a `DecodedModule` or raises one of two errors, each with the byte offset in the module:

- `MalformedModuleError`: the bytes do not follow the binary format. Sizes, counts, LEB128 numbers, section order and
  the nesting of blocks are checked here, so that no input, validated or not, makes the decoder fail in another way, or
  use memory or time out of proportion to its length.
- `UnsupportedError`: the module may well be valid, but uses something that lowheap does not have; the first such thing
  is named.

What the decoder does not check is what a validator does: operand types, and whether an index names something. Only the
type index of a block is looked up, since its parameters and results become part of the instruction.

The sections are framed first, all of them, then the names are read, since messages use them, then everything else in
the order of the module. Custom sections other than `name` are skipped. Names help people and are not part of the
program, so a faulty name subsection is ignored.

Source: the WebAssembly 3.0 specification, chapter "Binary Format"; the `name` section's subsections for types and
fields are those of the GC proposal.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, TypeVar

from lowheap.errors import MalformedModuleError, UnsupportedError
from lowheap.representation import printable, short_repr
from lowheap.types import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    PAGE_SIZE_LOG2,
    V128,
    AbstractHeapType,
    ArrayType,
    CompositeType,
    FieldType,
    FuncType,
    GlobalType,
    HeapType,
    Limits,
    MemoryType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TableType,
    ValType,
    VectorType,
)
from lowheap.wasm.opcodes import (
    CATCH,
    CLOSING,
    DELEGATE,
    ELSE,
    END,
    IF,
    OPCODES,
    OPENING,
    TRY,
    Immediate,
    Opcode,
)

# Implementation limits. The first is wasmtime's. The second keeps a small module from expanding to gigabytes of locals.
MAX_FUNCTION_LOCALS = 50_000
MAX_MODULE_LOCALS = 10_000_000

_T = TypeVar("_T")

_logger = logging.getLogger("lowheap.wasm")


# --- What comes out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockType:
    """What a block takes from the operand stack and leaves there."""

    params: tuple[ValType, ...]
    results: tuple[ValType, ...]


class Catch(NamedTuple):
    """One clause of a `try_table`: its kind, the tag's index (None: any exception), and the label's depth.

    One whose kind ends in `_ref` gives the exception itself to the label, too.
    """

    kind: Literal["catch", "catch_ref", "catch_all", "catch_all_ref"]
    tag: int | None
    label: int


Operand: TypeAlias = int | tuple[int, ...] | tuple[Catch, ...] | ValType | HeapType | BlockType


class Instruction(NamedTuple):
    """One instruction: its name in the text format, its operands, and the byte offset of its opcode in the module.

    The operands, for instructions that have any:

    - block, loop, if, try: a `BlockType`; try_table: that, and a tuple of `Catch`
    - loads, stores, atomic instructions: the memory's index, the alignment's exponent, the offset
    - call_indirect, return_call_indirect: the type's and the table's index
    - memory.init: the segment's and the memory's index; memory.copy: the target's and the source's
    - table.init: the segment's and the table's index; table.copy: the target's and the source's
    - array.new_data, array.new_elem, array.init_data, array.init_elem: the type's and the segment's index
    - br, br_if, br_on_null, br_on_non_null: the label's depth; br_table: a tuple of depths, and the default
    - br_on_cast, br_on_cast_fail: the label's depth, the source and the target `RefType`
    - ref.test, ref.cast: a `RefType`; ref.null: a `HeapType`; select with a type: a `ValType`
    - i32.const, i64.const: a signed int; f32.const, f64.const, v128.const: the raw bits as an int
    - i8x16.shuffle: a tuple of the 16 lanes' numbers; other instructions on a lane: its number, the last operand
    - struct.get, struct.get_s, struct.get_u, struct.set: the type index and the field index
    - array.new_fixed: the type index and the number of elements
    - array.copy: the destination's and the source's type index
    - all others: an index
    """

    name: str
    operands: tuple[Operand, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class FunctionImport:
    """An imported function, by the index of its type."""

    type_index: int


@dataclass(frozen=True, slots=True)
class GlobalImport:
    """An imported global."""

    type: GlobalType


@dataclass(frozen=True, slots=True)
class TableImport:
    """An imported table."""

    type: TableType


@dataclass(frozen=True, slots=True)
class MemoryImport:
    """An imported memory."""

    type: MemoryType


@dataclass(frozen=True, slots=True)
class TagImport:
    """An imported tag, by the index of its function type."""

    type_index: int


@dataclass(frozen=True, slots=True)
class Import:
    """An import under its two names; `offset` is where its entry begins."""

    module: str
    name: str
    desc: FunctionImport | GlobalImport | TableImport | MemoryImport | TagImport
    offset: int


@short_repr
@dataclass(frozen=True, slots=True)
class GlobalDefinition:
    """A global of the module's own; `init` is a constant expression and includes its final `end`."""

    type: GlobalType
    init: tuple[Instruction, ...]
    offset: int


@short_repr
@dataclass(frozen=True, slots=True)
class TableDefinition:
    """A table of the module's own; `init` is a constant expression for its elements, None where they are null."""

    type: TableType
    init: tuple[Instruction, ...] | None
    offset: int


@dataclass(frozen=True, slots=True)
class MemoryDefinition:
    """A memory of the module's own."""

    type: MemoryType
    offset: int


ExternalKind: TypeAlias = Literal["function", "table", "memory", "global", "tag"]


@dataclass(frozen=True, slots=True)
class Export:
    """An export, by its index among what is of its kind (imports come first)."""

    name: str
    kind: ExternalKind
    index: int


@short_repr
@dataclass(frozen=True, slots=True)
class ElementSegment:
    """References for tables and arrays, or, where it is declarative, for nothing but to say what `ref.func` may name.

    `functions` are the functions that the segment lists, or that its `expressions`, which are None then, refer to by
    `ref.func`, in order. An active one has a `table` and a constant expression for the index there, `place`.
    """

    mode: Literal["active", "passive", "declarative"]
    type: RefType
    functions: tuple[int, ...]
    offset: int
    expressions: tuple[tuple[Instruction, ...], ...] | None = None
    table: int | None = None
    place: tuple[Instruction, ...] = ()


@short_repr
@dataclass(frozen=True, slots=True)
class DataSegment:
    """Bytes for memories and arrays. An active one has a `memory`, and a constant expression for the address there."""

    data: bytes
    offset: int
    memory: int | None = None
    place: tuple[Instruction, ...] = ()


class LaterInstructions(Sequence[Instruction]):
    """Instructions that are decoded when somebody looks at them first: few are where code comes from a cache."""

    __slots__ = ("_decode", "_found")

    def __init__(self, decode: Callable[[], tuple[Instruction, ...]]) -> None:
        """Take what decodes them, without an error."""
        self._decode: Callable[[], tuple[Instruction, ...]] | None = decode
        self._found: tuple[Instruction, ...] = ()

    def _all(self) -> tuple[Instruction, ...]:
        decode = self._decode
        if decode is not None:
            self._found = decode()
            self._decode = None  # last: other threads look at them, too
        return self._found

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        """Return one, or those of a slice."""
        return self._all()[index]

    def __iter__(self) -> Iterator[Instruction]:
        """Go through them."""
        return iter(self._all())


@short_repr
@dataclass(frozen=True, slots=True)
class FunctionBody:
    """The code of one function of the module's own.

    `locals` are the declared ones, without the parameters; `instructions` include the final `end`. The body occupies
    the bytes from `offset`, where its locals are declared, up to `end_offset`. What the function does before its first
    instruction is at `entry_offset`, where wasmtime has it: the last declaration of locals, or `offset` without any.
    `most_call_refs` is how many of the instructions are `call_ref` at most, which is known before they are read.
    """

    locals: tuple[ValType, ...]
    instructions: Sequence[Instruction]
    offset: int
    entry_offset: int
    end_offset: int
    most_call_refs: int


@short_repr
@dataclass(frozen=True, slots=True)
class Names:
    """What the `name` section calls things, but for locals; fields by their type's index first."""

    module: str | None = None
    functions: dict[int, str] = field(default_factory=dict)
    types: dict[int, str] = field(default_factory=dict)
    fields: dict[int, dict[int, str]] = field(default_factory=dict)
    globals: dict[int, str] = field(default_factory=dict)
    tables: dict[int, str] = field(default_factory=dict)
    memories: dict[int, str] = field(default_factory=dict)
    elements: dict[int, str] = field(default_factory=dict)
    data: dict[int, str] = field(default_factory=dict)
    tags: dict[int, str] = field(default_factory=dict)


@short_repr
@dataclass(frozen=True, slots=True)
class DecodedModule:
    """A module as its binary states it. Heap types and supertypes are the module's type indices.

    A type that is defined outside a recursion group is a group of one. `functions` are type indices, one for each of
    `bodies`; a function's index is its position there after the imported functions, and so with all other kinds. `tags`
    are type indices, too.
    """

    rec_groups: list[list[SubType]]
    imports: list[Import]
    functions: list[int]
    globals: list[GlobalDefinition]
    exports: list[Export]
    start: int | None
    elements: list[ElementSegment]
    bodies: list[FunctionBody]
    names: Names
    tables: list[TableDefinition] = field(default_factory=list)
    memories: list[MemoryDefinition] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    data: list[DataSegment] = field(default_factory=list)


# --- Bytes, numbers, names -------------------------------------------------------------------------------------------


def malformed(message: str, offset: int) -> NoReturn:
    """Raise MalformedModuleError for what begins at `offset`."""
    raise MalformedModuleError(f"{message}, at offset {offset:#x}")


def unsupported(what: str, offset: int) -> NoReturn:
    """Raise UnsupportedError for what begins at `offset`."""
    raise UnsupportedError(f"unsupported {what}, at offset {offset:#x}")


class Reader:
    """A position in the module's bytes and an end that it may not pass. Positions are offsets in the module.

    Every method raises MalformedModuleError, with the offset at which the faulty thing begins.
    """

    __slots__ = ("data", "end", "position")

    def __init__(self, data: memoryview, position: int, end: int) -> None:
        """Read from `position` up to, not including, `end`, which lies within `data`."""
        self.data = data
        self.position = position
        self.end = end

    def part(self, size: int) -> Reader:
        """A reader of the next `size` bytes, which this one steps over."""
        start = self.position
        self.skip(size)
        return Reader(self.data, start, self.position)

    def skip(self, size: int) -> None:
        """Step over `size` bytes."""
        left = self.end - self.position
        if size > left:
            malformed(f"unexpected end: {size} bytes are announced, {left} are left", self.position)
        self.position += size

    def u8(self) -> int:
        """The next byte."""
        position = self.position
        if position >= self.end:
            malformed("unexpected end", position)
        self.position = position + 1
        return self.data[position]

    def peek(self) -> int:
        """The next byte, without stepping over it."""
        if self.position >= self.end:
            malformed("unexpected end", self.position)
        return self.data[self.position]

    def u32(self) -> int:
        """An unsigned LEB128 number of at most 32 bits in at most 5 bytes."""
        start = self.position
        byte = self.u8()
        if byte < 0x80:  # almost always
            return byte
        result = byte & 0x7F
        for shift in (7, 14, 21):
            byte = self.u8()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
        byte = self.u8()
        if byte > 0x0F:
            malformed("an unsigned LEB128 number does not fit 32 bits", start)
        return result | byte << 28

    def u64(self) -> int:
        """An unsigned LEB128 number of at most 64 bits in at most 10 bytes."""
        start = self.position
        result = 0
        for shift in range(0, 64, 7):
            byte = self.u8()
            if shift == 63 and byte > 1:
                malformed("an unsigned LEB128 number does not fit 64 bits", start)
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        return result

    def signed(self, bits: int) -> int:
        """A signed LEB128 number of `bits` bits, more than 7 and no multiple of it, in at most ceil(bits / 7) bytes."""
        start = self.position
        byte = self.u8()
        if byte < 0x80:  # often
            return byte - 0x80 if byte & 0x40 else byte
        result = byte & 0x7F
        for shift in range(7, bits, 7):
            byte = self.u8()
            result |= (byte & 0x7F) << shift
            width = bits - shift  # of the number's bits, those that this byte may hold
            if width < 7:
                # The sign bit and the unused bits above it must be equal, and the continuation bit clear.
                sign = byte >> (width - 1)
                if sign not in (0, 0x7F >> (width - 1)):
                    malformed(f"a signed LEB128 number does not fit {bits} bits", start)
            if byte < 0x80:
                break
        return result - (1 << (shift + 7)) if byte & 0x40 else result

    def bits(self, size: int) -> int:
        """The next `size` bytes as a little-endian unsigned number."""
        start = self.position
        self.skip(size)
        return int.from_bytes(self.data[start : self.position], "little")

    def count(self, what: str) -> int:
        """The length of a vector, whose elements take at least a byte each, so that it cannot exceed the bytes left."""
        start = self.position
        count = self.u32()
        left = self.end - self.position
        if count > left:
            malformed(f"{count} {what} are announced, {left} bytes are left", start)
        return count

    def vector(self, what: str, element: Callable[[Reader], _T]) -> list[_T]:
        """A vector: its length, then that many elements."""
        return [element(self) for _ in range(self.count(what))]

    def name(self) -> str:
        """A name: its length in bytes, then UTF-8."""
        start = self.position
        size = self.u32()
        content = self.position
        self.skip(size)
        try:
            return str(self.data[content : self.position], "utf-8")
        except UnicodeDecodeError as error:
            malformed(f"a name is not UTF-8 ({error.reason})", start)

    def expect_end(self, what: str) -> None:
        """Check that nothing is left of `what`."""
        if self.position != self.end:
            malformed(f"{what} is {self.end - self.position} bytes longer than its contents", self.position)


# --- Types -----------------------------------------------------------------------------------------------------------

_NUMBER_TYPES: dict[int, NumType | VectorType] = {0x7F: I32, 0x7E: I64, 0x7D: F32, 0x7C: F64, 0x7B: V128}
_PACKED_TYPES: dict[int, PackedType] = {0x78: I8, 0x77: I16}
_ABSTRACT_HEAP_TYPES = {
    0x74: AbstractHeapType.NOEXN,
    0x73: AbstractHeapType.NOFUNC,
    0x72: AbstractHeapType.NOEXTERN,
    0x71: AbstractHeapType.NONE,
    0x70: AbstractHeapType.FUNC,
    0x6F: AbstractHeapType.EXTERN,
    0x6E: AbstractHeapType.ANY,
    0x6D: AbstractHeapType.EQ,
    0x6C: AbstractHeapType.I31,
    0x6B: AbstractHeapType.STRUCT,
    0x6A: AbstractHeapType.ARRAY,
    0x69: AbstractHeapType.EXN,
}
_NULLABLE_REFERENCE, _REFERENCE = 0x63, 0x64
_VALUE_TYPES: dict[int, ValType] = {
    **_NUMBER_TYPES,
    **{code: RefType(True, heap_type) for code, heap_type in _ABSTRACT_HEAP_TYPES.items()},
}
_RECURSION_GROUP, _SUB_FINAL, _SUB = 0x4E, 0x4F, 0x50
_FUNCTION, _STRUCT, _ARRAY = 0x60, 0x5F, 0x5E

# Where a type could begin, the bytes of proposals that lowheap does not have.
_UNSUPPORTED_TYPES = {
    0x65: "shared type",
    0x5D: "continuation type",
    0x68: "continuation reference",
    0x75: "continuation reference",
}
_EMPTY_BLOCK = 0x40


def _unknown_type(code: int, expected: str, offset: int) -> NoReturn:
    """Refuse a byte that begins no type that is expected there."""
    if code in _UNSUPPORTED_TYPES:
        unsupported(_UNSUPPORTED_TYPES[code], offset)
    malformed(f"{expected} was expected, not the byte {code:#04x}", offset)


def _type_index(reader: Reader, expected: str) -> int:
    """A type index in the signed form in which it stands beside type codes, which are negative numbers of one byte."""
    offset = reader.position
    code = reader.peek()
    if code & 0xC0 == 0x40:
        _unknown_type(code, expected, offset)
    index = reader.signed(33)
    if index < 0:
        malformed(f"{expected} was expected, not the number {index}", offset)
    return index


def _heap_type(reader: Reader) -> HeapType:
    abstract = _ABSTRACT_HEAP_TYPES.get(reader.peek())
    if abstract is None:
        return _type_index(reader, "a heap type")
    reader.position += 1
    return abstract


def _value_type(reader: Reader) -> ValType:
    offset = reader.position
    code = reader.u8()
    found = _VALUE_TYPES.get(code)
    if found is not None:
        return found
    if code not in (_REFERENCE, _NULLABLE_REFERENCE):
        _unknown_type(code, "a value type", offset)
    return RefType(code == _NULLABLE_REFERENCE, _heap_type(reader))


def _reference_type(reader: Reader) -> RefType:
    offset = reader.position
    found = _value_type(reader)
    if not isinstance(found, RefType):
        malformed(f"a reference type was expected, not {found}", offset)
    return found


def _mutability(reader: Reader) -> bool:
    offset = reader.position
    flag = reader.u8()
    if flag > 1:
        malformed(f"mutability is 0 or 1, not {flag}", offset)
    return flag == 1


def _field_type(reader: Reader) -> FieldType:
    storage: StorageType | None = _PACKED_TYPES.get(reader.peek())
    if storage is None:
        storage = _value_type(reader)
    else:
        reader.skip(1)
    return FieldType(storage, _mutability(reader))


def _global_type(reader: Reader) -> GlobalType:
    storage = _value_type(reader)
    if reader.peek() in (2, 3):  # the second bit is that of the shared-everything proposal
        unsupported("shared global", reader.position)
    return GlobalType(storage, _mutability(reader))


_HAS_MAXIMUM, _SHARED, _WIDE, _CUSTOM_PAGE_SIZE = 1, 2, 4, 8
"""The flags of limits."""


def _limits(reader: Reader, flags: int) -> Limits:
    read = reader.u64 if flags & _WIDE else reader.u32
    least = read()
    return Limits(least, read() if flags & _HAS_MAXIMUM else None)


def _memory_type(reader: Reader) -> MemoryType:
    offset = reader.position
    flags = reader.u8()
    if flags > _HAS_MAXIMUM | _SHARED | _WIDE | _CUSTOM_PAGE_SIZE:
        malformed(f"the flags of a memory's limits are at most 15, not {flags}", offset)
    limits = _limits(reader, flags)
    page = reader.u32() if flags & _CUSTOM_PAGE_SIZE else PAGE_SIZE_LOG2
    return MemoryType(limits, is_64=bool(flags & _WIDE), is_shared=bool(flags & _SHARED), page_size_log2=page)


def _table_type(reader: Reader) -> TableType:
    element = _reference_type(reader)
    offset = reader.position
    flags = reader.u8()
    if flags & _SHARED:
        unsupported("shared table", offset)
    if flags > _HAS_MAXIMUM | _WIDE:
        malformed(f"the flags of a table's limits are at most 5, not {flags}", offset)
    return TableType(element, _limits(reader, flags), is_64=bool(flags & _WIDE))


def _tag_type(reader: Reader) -> int:
    offset = reader.position
    if attribute := reader.u8():
        malformed(f"the attribute of a tag is 0, not {attribute}", offset)
    return reader.u32()


def _composite_type(reader: Reader) -> CompositeType:
    offset = reader.position
    code = reader.u8()
    if code == _FUNCTION:
        params = tuple(reader.vector("parameters", _value_type))
        return FuncType(params, tuple(reader.vector("results", _value_type)))
    if code == _STRUCT:
        return StructType(tuple(reader.vector("fields", _field_type)))
    if code == _ARRAY:
        return ArrayType(_field_type(reader))
    _unknown_type(code, "a struct, array or function type", offset)


def _sub_type(reader: Reader) -> SubType:
    code = reader.peek()
    if code not in (_SUB, _SUB_FINAL):
        return SubType(_composite_type(reader))
    reader.skip(1)
    offset = reader.position
    supertypes = reader.vector("supertypes", Reader.u32)
    if len(supertypes) > 1:
        malformed(f"a type has at most one supertype, not {len(supertypes)}", offset)
    return SubType(_composite_type(reader), supertypes[0] if supertypes else None, final=code == _SUB_FINAL)


def _recursion_group(reader: Reader) -> list[SubType]:
    if reader.peek() != _RECURSION_GROUP:
        return [_sub_type(reader)]
    reader.skip(1)
    return reader.vector("types of a recursion group", _sub_type)


# --- Sections --------------------------------------------------------------------------------------------------------

_MAGIC, _VERSION = b"\0asm", b"\1\0\0\0"

# The sections by their id, in the order in which a module has them.
_SECTIONS = {
    1: "type",
    2: "import",
    3: "function",
    4: "table",
    5: "memory",
    13: "tag",
    6: "global",
    7: "export",
    8: "start",
    9: "element",
    12: "data count",
    10: "code",
    11: "data",
}
_SECTION_ORDER = {number: position for position, number in enumerate(_SECTIONS)}
_CUSTOM_SECTION = 0

# The flags of an element segment. The second bit says of an active one that its table, and what it holds, is named.
_NOT_ACTIVE, _DECLARATIVE, _NAMED, _EXPRESSIONS = 1, 2, 2, 4

# In front of a table's type: an initialiser follows that.
_HAS_INITIALISER = 0x40

_HAS_MEMORY_INDEX = 0x40
"""In the alignment of a load or a store: the memory's index follows."""

_CATCHES: tuple[Literal["catch", "catch_ref", "catch_all", "catch_all_ref"], ...] = (
    "catch",
    "catch_ref",
    "catch_all",
    "catch_all_ref",
)

_BYTE_NAMES = {code[0]: opcode.name for code, opcode in OPCODES.items() if len(code) == 1}
_CALL_REF = next(byte for byte, name in _BYTE_NAMES.items() if name == "call_ref")
_BYTE_OPCODES = [OPCODES.get((code,)) for code in range(256)]
_PREFIXES = {code[0] for code in OPCODES if len(code) == 2}

# What imports and exports may be of.
_EXTERNAL_KINDS: dict[int, Literal["function", "table", "memory", "global", "tag", "exact function"]] = {
    0: "function",
    1: "table",
    2: "memory",
    3: "global",
    4: "tag",
    0x20: "exact function",  # of the custom-descriptors proposal; wasmtime 46 to 49 call it valid
}


def _frame(data: memoryview) -> tuple[dict[str, Reader], Reader | None]:
    """Each section's contents by the section's name, and those of the first custom section that is called `name`."""
    reader = Reader(data, 0, len(data))
    if bytes(data[:4]) != _MAGIC:
        malformed(f"a module begins with {_MAGIC!r}, not {bytes(data[:4])!r}", 0)
    if bytes(data[4:8]) != _VERSION:
        malformed(f"the version is {_VERSION!r}, not {bytes(data[4:8])!r}", 4)
    reader.skip(8)
    sections: dict[str, Reader] = {}
    names: Reader | None = None
    last = -1
    while reader.position < reader.end:
        offset = reader.position
        number = reader.u8()
        contents = reader.part(reader.u32())
        if number == _CUSTOM_SECTION:
            if contents.name() == "name" and names is None:
                names = contents
            continue
        if number not in _SECTIONS:
            malformed(f"there is no section {number}", offset)
        if _SECTION_ORDER[number] <= last:
            malformed(f"the {_SECTIONS[number]} section is out of order or there twice", offset)
        last = _SECTION_ORDER[number]
        sections[_SECTIONS[number]] = contents
    return sections, names


def custom_sections(binary: bytes) -> tuple[dict[str, bytes], int]:
    """Return the contents of a valid module's custom sections by name, of the first of each, and where code's begin.

    Where there is no code, that is 0.
    """
    reader = Reader(memoryview(binary), 0, len(binary))
    reader.skip(len(_MAGIC) + len(_VERSION))
    found: dict[str, bytes] = {}
    code_offset = 0
    while reader.position < reader.end:
        number = reader.u8()
        contents = reader.part(reader.u32())
        if number == _CUSTOM_SECTION:
            name = contents.name()
            found.setdefault(name, bytes(contents.data[contents.position : contents.end]))
        elif _SECTIONS.get(number) == "code":
            code_offset = contents.position
    return found, code_offset


# --- Names -----------------------------------------------------------------------------------------------------------


def _name_map(reader: Reader) -> dict[int, str]:
    return dict(reader.vector("names", lambda reader: (reader.u32(), reader.name())))


def _indirect_name_map(reader: Reader) -> dict[int, dict[int, str]]:
    return dict(reader.vector("name maps", lambda reader: (reader.u32(), _name_map(reader))))


_NAME_SUBSECTIONS: dict[int, tuple[str, Callable[[Reader], object]]] = {
    0: ("module", Reader.name),
    1: ("functions", _name_map),
    4: ("types", _name_map),
    5: ("tables", _name_map),
    6: ("memories", _name_map),
    7: ("globals", _name_map),
    8: ("elements", _name_map),
    9: ("data", _name_map),
    11: ("tags", _name_map),
    10: ("fields", _indirect_name_map),
}


def _decode_names(section: Reader | None) -> Names:
    """The names, as far as they can be read.

    A subsection with a fault in it counts as absent, and so does all that follows one whose size is faulty.
    """
    found: dict[str, Any] = {}
    try:
        while section is not None and section.position < section.end:
            number = section.u8()
            contents = section.part(section.u32())
            if number in _NAME_SUBSECTIONS:
                what, read = _NAME_SUBSECTIONS[number]
                try:
                    value = read(contents)
                    contents.expect_end(f"the {what} subsection")
                    found[what] = value
                except MalformedModuleError as error:
                    _logger.debug("ignored the names of %s: %s", what, error)
    except MalformedModuleError as error:
        _logger.debug("ignored the rest of the name section: %s", error)
    return Names(**found)


# --- The module ------------------------------------------------------------------------------------------------------


class _ModuleDecoder:
    """Decodes the sections in the order of the module; each method reads one kind of thing."""

    def __init__(self, data: memoryview, *, is_known: bool) -> None:
        self.is_known = is_known
        self.sections, names = _frame(data)
        self.names = _decode_names(names)
        self.types: list[SubType] = []
        self.imported: Counter[type] = Counter()  # how many, by the class of what is imported
        self.total_locals = 0  # of the bodies read so far
        self.read_immediate: dict[Immediate, Callable[[Reader], tuple[Operand, ...]]] = {
            Immediate.INDEX: lambda reader: (reader.u32(),),
            Immediate.MEMORY_ARGUMENT: self.memory_argument,
            Immediate.CATCHES: lambda reader: (tuple(reader.vector("catch clauses", self.catch)),),
            Immediate.ZERO: self.zero,
            Immediate.BLOCK_TYPE: self.block_type,
            Immediate.LABEL_TABLE: lambda reader: (tuple(reader.vector("labels", Reader.u32)), reader.u32()),
            Immediate.VALUE_TYPES: self.select_type,
            Immediate.HEAP_TYPE: lambda reader: (_heap_type(reader),),
            Immediate.REFERENCE: lambda reader: (RefType(False, _heap_type(reader)),),
            Immediate.NULLABLE_REFERENCE: lambda reader: (RefType(True, _heap_type(reader)),),
            Immediate.CAST: self.cast,
            Immediate.I32: lambda reader: (reader.signed(32),),
            Immediate.I64: lambda reader: (reader.signed(64),),
            Immediate.F32: lambda reader: (reader.bits(4),),
            Immediate.F64: lambda reader: (reader.bits(8),),
            Immediate.V128: lambda reader: (reader.bits(16),),
            Immediate.LANE: lambda reader: (reader.u8(),),
            Immediate.LANES: lambda reader: (tuple(reader.u8() for _ in range(16)),),
        }

    def module(self) -> DecodedModule:
        rec_groups = self.section("type", "type definitions", self.recursion_group)
        imports = self.section("import", "imports", self.import_)
        self.imported = Counter(type(entry.desc) for entry in imports)
        functions = self.section("function", "functions", lambda _, reader: reader.u32())
        tables = self.section("table", "tables", self.table)
        memories = self.section("memory", "memories", self.memory)
        tags = self.section("tag", "tags", lambda _, reader: _tag_type(reader))
        global_definitions = self.section("global", "globals", self.global_)
        exports = self.section("export", "exports", self.export)
        start = self.single_number("start")
        elements = self.section("element", "element segments", self.element)
        data_count = self.single_number("data count")
        bodies = self.section("code", "function bodies", self.body)
        if len(bodies) != len(functions):
            place = self.sections.get("code") or self.sections["function"]
            malformed(f"{len(functions)} functions are declared, {len(bodies)} have a body", place.position)
        data = self.section("data", "data segments", self.data_segment)
        if data_count is not None and data_count != len(data):
            position = self.sections["data count"].position
            malformed(f"{data_count} data segments are declared, {len(data)} are there", position)
        return DecodedModule(
            rec_groups,
            imports,
            functions,
            global_definitions,
            exports,
            start,
            elements,
            bodies,
            self.names,
            tables,
            memories,
            tags,
            data,
        )

    def section(self, name: str, entries: str, read_entry: Callable[[int, Reader], _T]) -> list[_T]:
        """The entries of a section that is a vector, each read by `read_entry`; none if the section is absent."""
        reader = self.sections.get(name)
        if reader is None:
            return []
        found = [read_entry(index, reader) for index in range(reader.count(entries))]
        reader.expect_end(f"the {name} section")
        return found

    def single_number(self, name: str) -> int | None:
        """The number that a section consists of; None if the section is absent."""
        reader = self.sections.get(name)
        if reader is None:
            return None
        number = reader.u32()
        reader.expect_end(f"the {name} section")
        return number

    def recursion_group(self, _: int, reader: Reader) -> list[SubType]:
        group = _recursion_group(reader)
        self.types.extend(group)
        return group

    def import_(self, _: int, reader: Reader) -> Import:
        offset = reader.position
        module, name = reader.name(), reader.name()
        desc: FunctionImport | GlobalImport | TableImport | MemoryImport | TagImport
        match self.external_kind(reader, f'import "{module}" "{name}"', offset):
            case "function":
                desc = FunctionImport(reader.u32())
            case "table":
                desc = TableImport(_table_type(reader))
            case "memory":
                desc = MemoryImport(_memory_type(reader))
            case "global":
                desc = GlobalImport(_global_type(reader))
            case "tag":
                desc = TagImport(_tag_type(reader))
        return Import(module, name, desc, offset)

    def export(self, _: int, reader: Reader) -> Export:
        offset = reader.position
        name = reader.name()
        kind = self.external_kind(reader, f'export "{name}"', offset)
        return Export(name, kind, reader.u32())

    def external_kind(self, reader: Reader, what: str, offset: int) -> ExternalKind:
        """What kind of thing the import or export `what`, which begins at `offset`, is of."""
        kind_offset = reader.position
        kind = _EXTERNAL_KINDS.get(reader.u8())
        if kind is None:
            malformed(f"{what} is of no kind that there is", kind_offset)
        if kind == "exact function":
            unsupported(f"{kind} {what}", offset)
        return kind

    def table(self, index: int, reader: Reader) -> TableDefinition:
        offset = reader.position
        if reader.peek() != _HAS_INITIALISER:
            return TableDefinition(_table_type(reader), None, offset)
        reader.skip(1)
        if reserved := reader.u8():
            malformed(f"a table's initialiser is announced by 0x40 0, not 0x40 {reserved}", offset)
        type = _table_type(reader)
        place = "the initialiser of " + _named("table", self.imported[TableImport] + index, self.names.tables)
        return TableDefinition(type, self.expression(reader, place), offset)

    def memory(self, _: int, reader: Reader) -> MemoryDefinition:
        offset = reader.position
        return MemoryDefinition(_memory_type(reader), offset)

    def global_(self, index: int, reader: Reader) -> GlobalDefinition:
        offset = reader.position
        global_type = _global_type(reader)
        return GlobalDefinition(global_type, self.expression(reader, self.global_place(index)), offset)

    def global_place(self, index: int) -> str:
        return "the initialiser of " + _named("global", self.imported[GlobalImport] + index, self.names.globals)

    def element(self, index: int, reader: Reader) -> ElementSegment:
        offset = reader.position
        flags = reader.u32()
        if flags > 7:
            malformed(f"the flags of an element segment are at most 7, not {flags}", offset)
        name = _named("element segment", index, self.names.elements)
        table: int | None = None
        place: tuple[Instruction, ...] = ()
        is_active, is_named = not flags & _NOT_ACTIVE, bool(flags & (_NOT_ACTIVE | _NAMED))
        if is_active:
            table = reader.u32() if flags & _NAMED else 0
            place = self.expression(reader, f"the offset of {name}")
        functions: tuple[int, ...]
        expressions: tuple[tuple[Instruction, ...], ...] | None = None
        if flags & _EXPRESSIONS:
            element_type = _reference_type(reader) if is_named else RefType(True, AbstractHeapType.FUNC)
            expressions = tuple(reader.vector("elements", lambda reader: self.expression(reader, name)))
            references = [each for expression in expressions for each in expression if each.name == "ref.func"]
            functions = tuple(
                index for reference in references for index in reference.operands if isinstance(index, int)
            )
        else:
            kind_offset = reader.position
            if is_named and (kind := reader.u8()):
                malformed(f"the kind of an element segment is 0, not {kind}", kind_offset)
            element_type = RefType(False, AbstractHeapType.FUNC)
            functions = tuple(reader.vector("elements", Reader.u32))
        mode: Literal["active", "passive", "declarative"] = "active"
        if not is_active:
            mode = "declarative" if flags & _DECLARATIVE else "passive"
        return ElementSegment(mode, element_type, functions, offset, expressions, table, place)

    def data_segment(self, index: int, reader: Reader) -> DataSegment:
        offset = reader.position
        flags = reader.u32()
        if flags > 2:
            malformed(f"the flags of a data segment are at most 2, not {flags}", offset)
        memory: int | None = None
        place: tuple[Instruction, ...] = ()
        if flags != 1:
            memory = reader.u32() if flags == 2 else 0
            place = self.expression(reader, "the offset of " + _named("data segment", index, self.names.data))
        content = reader.part(reader.u32())
        return DataSegment(bytes(content.data[content.position : content.end]), offset, memory, place)

    def body(self, index: int, reader: Reader) -> FunctionBody:
        body = reader.part(reader.u32())
        offset = body.position
        place = _named("function", self.imported[FunctionImport] + index, self.names.functions)
        local_types, entry_offset = self.locals(body, place)
        instructions: Sequence[Instruction]
        start = body.position
        if self.is_known:  # each reads for itself: several threads may come at once
            instructions = LaterInstructions(lambda: self.expression(Reader(body.data, start, body.end), place))
        else:
            instructions = self.expression(body, place)
            body.expect_end(f"the body of {place}")
        most_call_refs = bytes(body.data[start : body.end]).count(_CALL_REF)
        return FunctionBody(local_types, instructions, offset, entry_offset, body.end, most_call_refs)

    def locals(self, reader: Reader, place: str) -> tuple[tuple[ValType, ...], int]:
        """The declared locals of a body, and where the last of their declarations begins.

        The binary has them run-length encoded, so their number needs limits.
        """
        found: list[ValType] = []
        offset = reader.position
        for _ in range(reader.count("groups of locals")):
            offset = reader.position
            count = reader.u32()
            total = len(found) + count
            if total > MAX_FUNCTION_LOCALS:
                malformed(f"{place} has {total} locals, the limit is {MAX_FUNCTION_LOCALS}", offset)
            self.total_locals += count
            if self.total_locals > MAX_MODULE_LOCALS:
                unsupported(f"number of locals: more than {MAX_MODULE_LOCALS} in one module", offset)
            found += [_value_type(reader)] * count
        return tuple(found), offset

    def expression(self, reader: Reader, place: str) -> tuple[Instruction, ...]:
        """The instructions up to and including the `end` that closes the expression; `place` is for messages."""
        instructions: list[Instruction] = []
        nesting: list[int] = []  # the opcodes of the open blocks; that of an if becomes ELSE at its else
        read_immediate, u8 = self.read_immediate, reader.u8
        while True:
            offset = reader.position
            code = u8()
            opcode = _BYTE_OPCODES[code]
            if opcode is None:
                opcode = _prefixed_opcode(reader, code, place, offset)
            immediates = opcode.immediates
            if not immediates:
                operands: tuple[Operand, ...] = ()
            elif len(immediates) == 1:
                operands = read_immediate[immediates[0]](reader)
            else:
                operands = tuple(operand for immediate in immediates for operand in read_immediate[immediate](reader))
            instructions.append(Instruction(opcode.name, operands, offset))
            if code == END:
                if not nesting:
                    return tuple(instructions)
                nesting.pop()
            elif code in OPENING:
                nesting.append(code)
            elif code in CLOSING:
                self.close_try(code, nesting, place, offset)
            elif code == ELSE:
                if not nesting or nesting[-1] != IF:
                    malformed(f"an else without an if in {place}", offset)
                nesting[-1] = ELSE

    def close_try(self, code: int, nesting: list[int], place: str, offset: int) -> None:
        """Go on to the next part of a legacy try, or behind it: at a `catch`, a `catch_all` or a `delegate`."""
        is_open = bool(nesting) and nesting[-1] in ((TRY,) if code == DELEGATE else (TRY, CATCH))
        if not is_open:
            malformed(f"a {_BYTE_NAMES[code]} without a try in {place}", offset)
        if code == DELEGATE:
            nesting.pop()
        else:
            nesting[-1] = code

    def memory_argument(self, reader: Reader) -> tuple[Operand, ...]:
        offset = reader.position
        alignment = reader.u32()
        if alignment >= 2 * _HAS_MEMORY_INDEX:
            malformed(f"the flags of a memory access are at most 127, not {alignment}", offset)
        memory = reader.u32() if alignment & _HAS_MEMORY_INDEX else 0
        return memory, alignment & ~_HAS_MEMORY_INDEX, reader.u64()

    def catch(self, reader: Reader) -> Catch:
        offset = reader.position
        number = reader.u8()
        if number >= len(_CATCHES):
            malformed(f"the kind of a catch clause is at most 3, not {number}", offset)
        kind = _CATCHES[number]
        return Catch(kind, None if "all" in kind else reader.u32(), reader.u32())

    def zero(self, reader: Reader) -> tuple[Operand, ...]:
        offset = reader.position
        if reserved := reader.u8():
            malformed(f"a zero byte was expected, not {reserved}", offset)
        return ()

    def block_type(self, reader: Reader) -> tuple[Operand, ...]:
        offset = reader.position
        code = reader.peek()
        if code == _EMPTY_BLOCK:
            reader.skip(1)
            return (BlockType((), ()),)
        if code in _VALUE_TYPES or code in (_REFERENCE, _NULLABLE_REFERENCE):
            return (BlockType((), (_value_type(reader),)),)
        index = _type_index(reader, "a block's type")
        if index >= len(self.types):
            malformed(f"a block's type is type {index}, the module has {len(self.types)} types", offset)
        composite = self.types[index].composite
        if not isinstance(composite, FuncType):
            malformed(f"a block's type is type {index}, which is no function type", offset)
        return (BlockType(composite.params, composite.results),)

    def select_type(self, reader: Reader) -> tuple[Operand, ...]:
        offset = reader.position
        types = reader.vector("types", _value_type)
        if len(types) != 1:
            malformed(f"a select has one type, not {len(types)}", offset)
        return (types[0],)

    def cast(self, reader: Reader) -> tuple[Operand, ...]:
        offset = reader.position
        flags = reader.u8()
        if flags > 3:
            malformed(f"the flags of a cast are at most 3, not {flags}", offset)
        label = reader.u32()
        source = RefType(bool(flags & 1), _heap_type(reader))
        return label, source, RefType(bool(flags & 2), _heap_type(reader))


def _named(kind: str, index: int, names: dict[int, str]) -> str:
    """`function 3 ($dispatch)`, or `function 3` if it has no name."""
    return f"{kind} {index} (${printable(names[index])})" if index in names else f"{kind} {index}"


def _prefixed_opcode(reader: Reader, prefix: int, place: str, offset: int) -> Opcode:
    """The opcode at `offset`, whose first byte is not an opcode by itself."""
    if prefix not in _PREFIXES:
        malformed(f"there is no opcode {prefix:#04x} (in {place})", offset)
    number = reader.u32()
    opcode = OPCODES.get((prefix, number))
    if opcode is None:
        malformed(f"there is no opcode {prefix:#04x} {number} (in {place})", offset)
    return opcode


def decode(binary: bytes, *, is_known: bool = False) -> DecodedModule:
    """Decode a binary module. `is_known`: the same was decoded before, so that functions can be when they are needed.

    Raises MalformedModuleError for bytes that do not follow the binary format, UnsupportedError for a thing that
    lowheap does not have (named, with its function and byte offset), and TypeError for anything but bytes.
    """
    if not isinstance(binary, bytes):
        raise TypeError(f"a binary module is bytes, not {type(binary).__name__}")
    return _ModuleDecoder(memoryview(binary), is_known=is_known).module()
