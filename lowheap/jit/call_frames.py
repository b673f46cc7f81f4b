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

Format: "Linux Standard Base Core Specification, Exception Frames", "Itanium C++ ABI: Exception Handling Tables", and
"DWARF Debugging Information Format, Version 5", section 6.4. Functions are told apart by the relocations of an object
file that is not linked yet.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from lowheap.errors import CompilerError

_STACK_MAP_RELOCATIONS = ".rela.llvm_stackmaps"
_CALL_FRAME_RELOCATIONS = ".rela.eh_frame"
_ENTRY_ADDRESS_OFFSET = 8  # of an entry's function: behind the entry's length, and the way to what entries share
_LENGTH_SIZE = 4
_HANDLERS = ".gcc_except_table"

_OMITTED, _ULEB128, _UDATA4 = 0xFF, 0x01, 0x03  # encodings of numbers in the tables of handlers

_KEPT = "OFFSET"  # a register's rule in pyelftools' words: it is so many bytes from the CFA


class _Table:
    """Reads a table of handlers, from `position` on. CompilerError where it ends too early."""

    def __init__(self, section: bytes, position: int) -> None:
        self.section, self.position = section, position

    def byte(self) -> int:
        if self.position >= len(self.section):
            raise CompilerError(f"the object file's section {_HANDLERS} ends within a table")
        self.position += 1
        return self.section[self.position - 1]

    def uleb128(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def number(self, encoding: int) -> int:
        if encoding == _ULEB128:
            return self.uleb128()
        return int.from_bytes([self.byte() for _ in range(4)], "little")

    def ranges(self) -> Iterator[tuple[int, int, int]]:
        """Each range of calls: where it begins and ends, and where the handler is, 0 for none.

        All from the function's start.
        """
        if self.byte() != _OMITTED:
            raise CompilerError("handlers are placed from elsewhere than their function's start")
        if self.byte() != _OMITTED:
            self.uleb128()  # the way to the table of types, which lowheap's unwinder does not look at
        encoding = self.byte()
        if encoding not in (_ULEB128, _UDATA4):
            raise CompilerError(
                f"a table of handlers has numbers in the encoding {encoding:#x}, which is not understood"
            )
        size = self.uleb128()
        end = self.position + size
        while self.position < end:
            start, length, handler = (self.number(encoding) for _ in range(3))
            self.uleb128()  # what to do about types
            yield start, start + length, handler


class CallFrames:
    """The rules of the functions in an object file's stack map, which are numbered in its order."""

    def __init__(self, object: bytes, *, stack_pointer_register: int, frame_pointer_register: int) -> None:
        """Read an ELF object file. CompilerError when it is none, or has no such section."""
        from elftools.common.exceptions import DWARFError, ELFError  # here, because they take long to load
        from elftools.dwarf.callframe import FDE
        from elftools.elf.elffile import ELFFile

        self._registers = (stack_pointer_register, frame_pointer_register)
        self._rows: dict[int, list[tuple[int, Any]]] = {}
        self._ranges: dict[int, list[tuple[int, int, int]]] = {}
        try:
            self._file: Any = ELFFile(io.BytesIO(object))
            self._functions = self._targets(_STACK_MAP_RELOCATIONS)
            targets = self._targets(_CALL_FRAME_RELOCATIONS)
            entries = self._file.get_dwarf_info(relocate_dwarf_sections=False).EH_CFI_entries()
        except (ELFError, DWARFError) as error:
            raise CompilerError(f"cannot read the object file's call frame information: {error}") from error
        self._entries = {
            targets[entry.offset + _ENTRY_ADDRESS_OFFSET]: entry for entry in entries if isinstance(entry, FDE)
        }
        self._targets_of_entries = sorted(targets.items())
        self._order = sorted(self._functions)

    def _targets(self, name: str) -> dict[int, tuple[int, int]]:
        """What the addresses in a section are, by where they stand: a section's number, and the offset in that."""
        section = self._file.get_section_by_name(name)
        if section is None:
            raise CompilerError(f"the object file has no section {name}, which says what is known of which function")
        symbols = self._file.get_section(section["sh_link"])
        found = {}
        for relocation in section.iter_relocations():
            symbol = symbols.get_symbol(relocation["r_info_sym"])
            found[relocation["r_offset"]] = (symbol["st_shndx"], symbol["st_value"] + relocation["r_addend"])
        return found

    def initial_stack_pointer(self, function: int, instruction_offset: int) -> int:
        """Return how far above a function's frame pointer, during a call, its stack pointer was at its start.

        `function` is its number in the stack map, `instruction_offset` the bytes from its start to where the call
        returns to. CompilerError when there are no such rules.
        """
        rows = self._rows_of(function)
        rules = [row["cfa"] for _, row in rows[:1]] + [row["cfa"] for row in self._during(rows, instruction_offset)]
        if tuple(rule.reg for rule in rules) != self._registers:
            raise CompilerError(
                f"function {function} of the stack map has no rules for its frame by the stack pointer at its start, "
                f"and by the frame pointer at the call that returns to {instruction_offset}"
            )
        at_start, at_call = (int(rule.offset) for rule in rules)
        return at_call - at_start

    def has_rules(self, function: int) -> bool:
        """Whether the object file has call frame information for a function, by its number in the stack map."""
        return self._functions[self._order[function]] in self._entries

    def kept_registers(self, function: int, instruction_offset: int) -> dict[int, int]:
        """Return which of its caller's registers a function has in its frame during a call, by DWARF number, and where.

        That is in bytes from its frame pointer. The arguments are those of `initial_stack_pointer`.
        """
        found: dict[int, int] = {}
        for row in self._during(self._rows_of(function), instruction_offset):
            for register, rule in row.items():
                if isinstance(register, int):
                    if rule.type != _KEPT:
                        raise CompilerError(f"register {register} is kept by a rule {rule.type}; {_KEPT} is understood")
                    found[register] = int(row["cfa"].offset) + int(rule.arg)
        return found

    def handler(self, function: int, instruction_offset: int) -> int:
        """Return where the handler of a call is, in bytes from the function's start; 0 for a call without one.

        The arguments are those of `initial_stack_pointer`.
        """
        ranges = self._ranges.get(function)
        if ranges is None:
            ranges = self._ranges[function] = list(self._ranges_of(function))
        found = [handler for start, end, handler in ranges if start < instruction_offset <= end]
        return found[0] if found else 0

    def _ranges_of(self, function: int) -> Iterator[tuple[int, int, int]]:
        entry = self._entry_of(function)
        first = entry.offset + _ENTRY_ADDRESS_OFFSET + 1
        end = entry.offset + _LENGTH_SIZE + entry.header["length"]
        for place, (section, offset) in self._targets_of_entries:
            if first <= place < end:  # beside its function, an entry refers to its table of handlers only
                found = self._file.get_section(section)
                if found.name != _HANDLERS:
                    raise CompilerError(f"a function's call frame information refers to the section {found.name}")
                yield from _Table(found.data(), offset).ranges()

    @staticmethod
    def _during(rows: list[tuple[int, Any]], instruction_offset: int) -> list[Any]:
        """The rules, if there are some, that hold during the call that returns there, where others may hold already."""
        return [row for start, row in rows if start < instruction_offset][-1:]

    def _entry_of(self, function: int) -> Any:
        entry = self._entries.get(self._functions[self._order[function]]) if function < len(self._order) else None
        if entry is None:
            raise CompilerError(f"function {function} of the stack map has no call frame information")
        return entry

    def _rows_of(self, function: int) -> list[tuple[int, Any]]:
        """A function's rules, each with the bytes from the function's start to where it begins to hold."""
        rows = self._rows.get(function)
        if rows is None:
            entry = self._entry_of(function)
            first = entry.header["initial_location"]
            rows = self._rows[function] = [(row["pc"] - first, row) for row in entry.get_decoded().table]
        return rows
