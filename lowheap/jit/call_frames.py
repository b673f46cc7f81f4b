"""Call frame information: where a function's frame is, what it has of its caller's registers, and its handlers.

A stack map names places relative to the stack pointer; a walk along frame pointers does not know the stack pointer of
the frames that it finds. Where the architecture puts the frame record at one place in all frames, one figure leads from
the one to the other. Where it does not, the object file's `.eh_frame` section says it for each function, by its rules
for the canonical frame address (CFA): relative to the stack pointer at the function's start, to the frame pointer at
its calls. LLVM writes the section for functions with the attribute `uwtable`, and for those that may throw.

The section also says where in its frame a function keeps its caller's registers, and, for one with handlers, which
table says at which of its calls they are: in `.gcc_except_table`, ranges of addresses, each with the place of a
handler. Neighbouring calls with one handler share a range, so a call is looked up by where it returns to.

Promises: a rule is that of the very call; what the section does not say in the expected form raises `CompilerError`.
Reading takes time linear in the sections' sizes, and little of it: a throw may be waiting for it.

Format: "Linux Standard Base Core Specification, Exception Frames", "Itanium C++ ABI: Exception Handling Tables", and
"DWARF Debugging Information Format, Version 5", section 6.4. Functions are told apart by the relocations of an object
file that is not linked yet.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lowheap.errors import CompilerError

_STACK_MAP_RELOCATIONS = ".rela.llvm_stackmaps"
_CALL_FRAMES, _CALL_FRAME_RELOCATIONS = ".eh_frame", ".rela.eh_frame"
_HANDLERS = ".gcc_except_table"

_RELOCATION = struct.Struct("<QQq")  # where, the symbol's number above the kind, what to add
_SYMBOL_SHIFT = 32
_SYMBOL = struct.Struct("<6xHQ8x")  # its section, its value
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")

_EXTENDED_LENGTH = 0xFFFF_FFFF  # of an entry that is longer than the four bytes say
_OMITTED, _ULEB128, _UDATA4 = 0xFF, 0x01, 0x03  # encodings of numbers
_ADDRESS_FORMAT = 0x0F  # of an address's encoding: the bits that say how many bytes it takes
_ADDRESS_SIZES = {0x00: 8, 0x03: 4, 0x04: 8, 0x0B: 4, 0x0C: 8}

# Instructions of call frame information. The first three have an operand in their lower six bits.
_ADVANCE, _OFFSET, _RESTORE = 0x40, 0x80, 0xC0
_OPERAND = 0x3F
_NOP, _ADVANCE_1, _ADVANCE_2, _ADVANCE_4, _OFFSET_EXTENDED = 0x00, 0x02, 0x03, 0x04, 0x05
_REMEMBER_STATE, _RESTORE_STATE, _DEFINE_CFA, _DEFINE_CFA_REGISTER, _DEFINE_CFA_OFFSET = 0x0A, 0x0B, 0x0C, 0x0D, 0x0E
_ARGUMENTS_SIZE = 0x2E  # says nothing of a frame of fixed size


class _Bytes:
    """Reads a section, from `position` on. CompilerError where it ends too early."""

    def __init__(self, name: str, section: bytes, position: int = 0, end: int | None = None) -> None:
        self.name, self.section, self.position = name, section, position
        self.end = len(section) if end is None else end
        if not position <= self.end <= len(section):
            raise CompilerError(f"the object file's section {name} ends within an entry")

    def byte(self) -> int:
        if self.position >= self.end:
            raise CompilerError(f"the object file's section {self.name} ends within an entry")
        self.position += 1
        return self.section[self.position - 1]

    def take(self, layout: struct.Struct) -> int:
        start = self.position
        self.skip(layout.size)
        (value,) = layout.unpack_from(self.section, start)
        return int(value)

    def skip(self, size: int) -> None:
        if self.position + size > self.end:
            raise CompilerError(f"the object file's section {self.name} ends within an entry")
        self.position += size

    def uleb128(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def sleb128(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value - (1 << shift) if byte & 0x40 else value


@dataclass(frozen=True, slots=True)
class _Row:
    """Rules that hold from `start` on: the CFA as a register and an offset, and where registers are from the CFA."""

    start: int
    cfa_register: int
    cfa_offset: int
    kept: dict[int, int]


@dataclass(slots=True)
class _Common:
    """What entries share: factors of their figures, whether they have a table of handlers, their first instructions."""

    code_factor: int
    data_factor: int
    address_size: int
    has_handlers: bool
    instructions: _Bytes


@dataclass(slots=True)
class _Entry:
    """A function's entry. `handlers_at` is where it has the address of its table of handlers."""

    common: _Common
    handlers_at: int | None
    instructions: _Bytes
    rows: list[_Row] = field(default_factory=list)


class CallFrames:
    """The rules of the functions in an object file's stack map, which are numbered in its order."""

    def __init__(self, object: bytes, *, stack_pointer_register: int, frame_pointer_register: int) -> None:
        """Read an ELF object file. CompilerError when it is none, or has no stack map."""
        from elftools.common.exceptions import ELFError  # here, because they take long to load
        from elftools.elf.elffile import ELFFile

        self._registers = (stack_pointer_register, frame_pointer_register)
        self._ranges: dict[int, list[tuple[int, int, int]]] = {}
        try:
            self._file: Any = ELFFile(io.BytesIO(object))
            functions = self._targets(_STACK_MAP_RELOCATIONS)
            if functions is None:
                raise CompilerError(f"the object file has no section {_STACK_MAP_RELOCATIONS}: it has no stack map")
            self._places = self._targets(_CALL_FRAME_RELOCATIONS) or {}
            section = self._file.get_section_by_name(_CALL_FRAMES)
            data = b"" if section is None else section.data()
        except ELFError as error:
            raise CompilerError(f"cannot read the object file's call frame information: {error}") from error
        self._functions = [functions[place] for place in sorted(functions)]
        self._entries = dict(self._read(data))

    def _targets(self, name: str) -> dict[int, tuple[int, int]] | None:
        """What the addresses in a section are, by where they stand: a section's number, and the offset in that."""
        section = self._file.get_section_by_name(name)
        if section is None:
            return None
        symbols = self._file.get_section(section["sh_link"]).data()
        found = {}
        try:
            for place, info, addend in _RELOCATION.iter_unpack(section.data()):
                number, value = _SYMBOL.unpack_from(symbols, (info >> _SYMBOL_SHIFT) * _SYMBOL.size)
                found[place] = (number, value + addend)
        except struct.error as error:
            raise CompilerError(f"the object file's section {name} refers to no symbol: {error}") from None
        return found

    def _read(self, data: bytes) -> Iterator[tuple[tuple[int, int], _Entry]]:
        """The entries of the section, by their functions' places."""
        commons: dict[int, _Common] = {}
        start = 0
        while start < len(data):
            length = _Bytes(_CALL_FRAMES, data, start).take(_U32)
            if length == 0:
                return
            if length == _EXTENDED_LENGTH:
                raise CompilerError("an entry of the call frame information is longer than is understood")
            reader = _Bytes(_CALL_FRAMES, data, start + _U32.size, start + _U32.size + length)
            identifier_at = reader.position
            way = reader.take(_U32)
            if way == 0:
                commons[start] = _read_common(reader)
            else:
                common = commons.get(identifier_at - way)
                target = self._places.get(reader.position)
                if common is None or target is None:
                    raise CompilerError("an entry of the call frame information belongs to nothing")
                reader.skip(2 * common.address_size)  # where the function is, and how long
                end = reader.uleb128() + reader.position
                handlers_at = reader.position if common.has_handlers and reader.position in self._places else None
                reader.skip(end - reader.position)
                yield target, _Entry(common, handlers_at, reader)
            start = reader.end

    def initial_stack_pointer(self, function: int, instruction_offset: int) -> int:
        """Return how far above a function's frame pointer, during a call, its stack pointer was at its start.

        `function` is its number in the stack map, `instruction_offset` the bytes from its start to where the call
        returns to. CompilerError when there are no such rules.
        """
        rows = self._rows_of(function)
        rules = rows[:1] + self._during(rows, instruction_offset)
        if tuple(rule.cfa_register for rule in rules) != self._registers:
            raise CompilerError(
                f"function {function} of the stack map has no rules for its frame by the stack pointer at its start, "
                f"and by the frame pointer at the call that returns to {instruction_offset}"
            )
        at_start, at_call = (rule.cfa_offset for rule in rules)
        return at_call - at_start

    def has_rules(self, function: int) -> bool:
        """Whether the object file has call frame information for a function, by its number in the stack map."""
        return function < len(self._functions) and self._functions[function] in self._entries

    def is_reached(self, function: int, instruction_offset: int) -> bool:
        """Return whether a call has the rules of a function that has its frame.

        LLVM, which follows all ways from a function's start to make them, gives none to what no way leads to: code that
        is left where nothing is optimised. The arguments are those of `initial_stack_pointer`.
        """
        rules = self._during(self._rows_of(function), instruction_offset)
        return any(rule.cfa_register == self._registers[1] for rule in rules)

    def kept_registers(self, function: int, instruction_offset: int) -> dict[int, int]:
        """Return which of its caller's registers a function has in its frame during a call, by DWARF number, and where.

        That is in bytes from its frame pointer. The arguments are those of `initial_stack_pointer`.
        """
        found: dict[int, int] = {}
        for row in self._during(self._rows_of(function), instruction_offset):
            found.update((register, row.cfa_offset + offset) for register, offset in row.kept.items())
        return found

    def handler(self, function: int, instruction_offset: int) -> int:
        """Return where the handler of a call is, in bytes from the function's start; 0 for a call without one.

        The arguments are those of `initial_stack_pointer`.
        """
        ranges = self._ranges.get(function)
        if ranges is None:
            ranges = self._ranges[function] = list(self._ranges_of(function))
        # A range is of neighbouring calls: what one of them returns to may be where the next begins.
        return next((handler for start, end, handler in ranges if start < instruction_offset <= end), 0)

    def _ranges_of(self, function: int) -> Iterator[tuple[int, int, int]]:
        """Each range of a function's calls: where it begins and ends, and where the handler is, 0 for none.

        All from the function's start.
        """
        handlers_at = self._entry_of(function).handlers_at
        if handlers_at is None:
            return
        number, offset = self._places[handlers_at]
        section = self._file.get_section(number) if number < self._file.num_sections() else None
        if section is None or not section.name.startswith(_HANDLERS):
            raise CompilerError(f"call frame information refers to section {number}, which has no handlers")
        if not 0 <= offset <= section.data_size:
            raise CompilerError(f"a function's table of handlers is at {offset}, outside of its section")
        table = _Bytes(section.name, section.data(), offset)
        if table.byte() != _OMITTED:
            raise CompilerError("handlers are placed from elsewhere than their function's start")
        if table.byte() != _OMITTED:
            table.uleb128()  # the way to the table of types, which lowheap's unwinder does not look at
        encoding = table.byte()
        if encoding not in (_ULEB128, _UDATA4):
            raise CompilerError(f"a table of handlers has numbers of encoding {encoding:#x}, which is not understood")
        size = table.uleb128()
        end = table.position + size
        while table.position < end:
            start, length, handler = (table.uleb128() if encoding == _ULEB128 else table.take(_U32) for _ in range(3))
            table.uleb128()  # what to do about types
            yield start, start + length, handler

    @staticmethod
    def _during(rows: list[_Row], instruction_offset: int) -> list[_Row]:
        """The rules, if there are some, that hold during the call that returns there, where others may hold already."""
        return [row for row in rows if row.start < instruction_offset][-1:]

    def _entry_of(self, function: int) -> _Entry:
        entry = self._entries.get(self._functions[function]) if function < len(self._functions) else None
        if entry is None:
            raise CompilerError(f"function {function} of the stack map has no call frame information")
        return entry

    def _rows_of(self, function: int) -> list[_Row]:
        """A function's rules, each with the bytes from the function's start to where it begins to hold."""
        entry = self._entry_of(function)
        if not entry.rows:
            entry.rows = _run(entry)
        return entry.rows


def _read_common(reader: _Bytes) -> _Common:
    version = reader.byte()
    if version != 1:
        raise CompilerError(f"the call frame information has version {version}; 1 is understood")
    letters = bytes(iter(reader.byte, 0)).decode("ascii", "replace")
    code_factor, data_factor = reader.uleb128(), reader.sleb128()
    reader.byte()  # the register of return addresses
    if not letters.startswith("z"):
        raise CompilerError(f"the call frame information has the augmentation {letters!r}, which is not understood")
    end = reader.uleb128() + reader.position
    sizes: dict[str, int] = {}
    for letter in letters[1:]:
        if letter not in "PRL":
            raise CompilerError(f"the call frame information has the augmentation {letters!r}, which is not understood")
        encoding = reader.byte()
        if encoding & _ADDRESS_FORMAT not in _ADDRESS_SIZES:
            raise CompilerError(f"the call frame information has addresses of the encoding {encoding:#x}")
        sizes[letter] = _ADDRESS_SIZES[encoding & _ADDRESS_FORMAT]
        if letter == "P":
            reader.skip(sizes[letter])  # the personality
    reader.skip(end - reader.position)
    return _Common(code_factor, data_factor, sizes.get("R", _ADDRESS_SIZES[0]), "L" in letters, reader)


def _run(entry: _Entry) -> list[_Row]:
    """Run an entry's instructions; return a row for each place where rules change."""
    common = entry.common
    place = register = offset = 0
    kept: dict[int, int] = {}
    first: dict[int, int] = {}
    remembered: list[tuple[int, int, dict[int, int]]] = []
    rows: list[_Row] = []
    for source in (common.instructions, entry.instructions):
        reader = _Bytes(source.name, source.section, source.position, source.end)
        while reader.position < reader.end:
            opcode = reader.byte()
            high, low = opcode & ~_OPERAND, opcode & _OPERAND
            steps = 0
            if high == _ADVANCE:
                steps = low
            elif opcode == _ADVANCE_1:
                steps = reader.byte()
            elif opcode in (_ADVANCE_2, _ADVANCE_4):
                steps = reader.take(_U16 if opcode == _ADVANCE_2 else _U32)
            elif high == _OFFSET:
                kept[low] = reader.uleb128() * common.data_factor
            elif opcode == _OFFSET_EXTENDED:
                number = reader.uleb128()
                kept[number] = reader.uleb128() * common.data_factor
            elif high == _RESTORE:
                kept.pop(low, None)
                if low in first:
                    kept[low] = first[low]
            elif opcode == _DEFINE_CFA:
                register, offset = reader.uleb128(), reader.uleb128()
            elif opcode == _DEFINE_CFA_REGISTER:
                register = reader.uleb128()
            elif opcode == _DEFINE_CFA_OFFSET:
                offset = reader.uleb128()
            elif opcode == _REMEMBER_STATE:
                remembered.append((register, offset, dict(kept)))
            elif opcode == _RESTORE_STATE and remembered:
                register, offset, kept = remembered.pop()
            elif opcode == _ARGUMENTS_SIZE:
                reader.uleb128()
            elif opcode != _NOP:
                raise CompilerError(
                    f"the call frame information has an instruction {opcode:#x}, which is not understood"
                )
            if steps:
                rows.append(_Row(place, register, offset, dict(kept)))
                place += steps * common.code_factor
        if source is common.instructions:
            first = dict(kept)
    rows.append(_Row(place, register, offset, dict(kept)))
    return rows
