"""The types of the functions that a module imports and exports, read off its binary.

wasmtime's Python package, up to 45, ends the process when it is asked for a value type of the any hierarchy, and so
cannot tell whether a function may be called. `lowheap.wasm.decode` could, but refuses modules with what lowheap does
not have (tables, memories, tags), and a peer must run those too. So: just the type, import, function and export
sections, of a module that wasmtime has already found valid.

Source: the WebAssembly 3.0 specification, chapter "Binary Format".
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from lowheap.peers.errors import PeerError
from lowheap.representation import short_repr

_NUMBERS = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64", 0x7B: "v128", 0x78: "i8", 0x77: "i16"}
_HEAP_TYPES = {
    0x74: "noexn",
    0x73: "nofunc",
    0x72: "noextern",
    0x71: "none",
    0x70: "func",
    0x6F: "extern",
    0x6E: "any",
    0x6D: "eq",
    0x6C: "i31",
    0x6B: "struct",
    0x6A: "array",
    0x69: "exn",
}
_NULLABLE, _NON_NULLABLE = 0x63, 0x64
_ARRAY, _STRUCT, _FUNCTION_TYPE, _OPEN, _FINAL, _GROUP = 0x5E, 0x5F, 0x60, 0x50, 0x4F, 0x4E
_FUNCTION, _TABLE, _MEMORY, _GLOBAL, _TAG = range(5)

PASSABLE = ("i32", "i64", "f32", "f64", "(ref null extern)")
"""The types that the wheels can pass to and from Python."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameter and result types, in the text format's spelling, references written out in full."""

    params: tuple[str, ...]
    results: tuple[str, ...]

    @property
    def not_passable(self) -> str | None:
        """The first type that cannot be passed to or from Python, None if all can."""
        return next((type_ for type_ in (*self.params, *self.results) if type_ not in PASSABLE), None)


@dataclass(frozen=True, slots=True)
class Import:
    """An import; `signature` is None for what is not a function."""

    module: str
    name: str
    signature: Signature | None


@short_repr
@dataclass(frozen=True, slots=True)
class Signatures:
    """All imports in the module's order; the exported functions by name; the names of all exports in order."""

    imports: tuple[Import, ...]
    functions: dict[str, Signature]
    exports: tuple[str, ...]


class _Reader:
    """A position in the bytes of a module."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def is_done(self) -> bool:
        return self._position == len(self._data)

    def bytes(self, count: int) -> bytes:
        taken = self._data[self._position : self._position + count]
        if len(taken) != count:
            raise PeerError(f"the module ends at byte {len(self._data)}, within one of its parts")
        self._position += count
        return taken

    def byte(self) -> int:
        return self.bytes(1)[0]

    def unsigned(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    def name(self) -> str:
        return self.bytes(self.unsigned()).decode("utf-8")

    def is_next(self, codes: Container[int]) -> bool:
        return not self.is_done and self._data[self._position] in codes

    def heap_type(self) -> str:
        """A heap type: one of the single bytes above, or a type index, a signed LEB128 that is not negative."""
        return _HEAP_TYPES[self.byte()] if self.is_next(_HEAP_TYPES) else str(self.unsigned())

    def storage_type(self) -> str:
        code = self.byte()
        if code in _HEAP_TYPES:
            return f"(ref null {_HEAP_TYPES[code]})"
        if code in (_NULLABLE, _NON_NULLABLE):
            return f"(ref {'null ' if code == _NULLABLE else ''}{self.heap_type()})"
        if code in _NUMBERS:
            return _NUMBERS[code]
        raise PeerError(f"unknown value type {code:#04x} before byte {self._position} of a section")

    def field(self) -> None:
        self.storage_type()
        self.byte()  # mutability

    def types(self) -> tuple[str, ...]:
        return tuple(self.storage_type() for _ in range(self.unsigned()))

    def limits(self) -> None:
        flags = self.byte()
        self.unsigned()
        if flags & 1:  # a maximum
            self.unsigned()
        if flags & 8:  # a page size
            self.unsigned()

    def sub_type(self) -> Signature | None:
        code = self.byte()
        if code in (_OPEN, _FINAL):  # its supertypes come first
            for _ in range(self.unsigned()):
                self.unsigned()
            code = self.byte()
        if code == _FUNCTION_TYPE:
            return Signature(self.types(), self.types())
        if code == _STRUCT:
            for _ in range(self.unsigned()):
                self.field()
        elif code == _ARRAY:
            self.field()
        else:
            raise PeerError(f"unknown composite type {code:#04x} in the type section")
        return None

    def import_type(self, types: list[Signature | None]) -> Signature | None:
        """Return the signature of an imported function, None for what is none."""
        kind = self.byte()
        if kind == _FUNCTION:
            return types[self.unsigned()]
        if kind == _TABLE:
            self.storage_type()
            self.limits()
        elif kind == _MEMORY:
            self.limits()
        elif kind == _GLOBAL:
            self.field()
        elif kind == _TAG:
            self.byte()
            self.unsigned()
        else:
            raise PeerError(f"unknown kind of import {kind:#04x}")
        return None


def read(binary: bytes) -> Signatures:
    """Read a valid module's signatures. PeerError for what is not one, or uses an encoding not known here."""
    module = _Reader(binary)
    if module.bytes(8) != b"\0asm\1\0\0\0":
        raise PeerError("the bytes are not a WebAssembly module, version 1")
    sections: dict[int, _Reader] = {}
    while not module.is_done:
        number = module.byte()
        sections[number] = _Reader(module.bytes(module.unsigned()))

    def items(number: int) -> tuple[_Reader, range]:
        section = sections.get(number, _Reader(b"\0"))
        return section, range(section.unsigned())

    types: list[Signature | None] = []
    section, count = items(1)
    for _ in count:
        members = 1
        if section.is_next((_GROUP,)):
            section.byte()
            members = section.unsigned()
        types.extend(section.sub_type() for _ in range(members))

    imports: list[Import] = []
    functions: list[Signature | None] = []
    section, count = items(2)
    for _ in count:
        names = section.name(), section.name()
        imports.append(Import(*names, section.import_type(types)))
        if imports[-1].signature is not None:
            functions.append(imports[-1].signature)

    section, count = items(3)
    functions.extend(types[section.unsigned()] for _ in count)

    exported: dict[str, Signature] = {}
    exports: list[str] = []
    section, count = items(7)
    for _ in count:
        exports.append(section.name())
        kind, index = section.byte(), section.unsigned()
        if kind == _FUNCTION and (signature := functions[index]) is not None:
            exported[exports[-1]] = signature
    return Signatures(tuple(imports), exported, tuple(exports))
