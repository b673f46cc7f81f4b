"""Call frame information: where a function's frame is, seen from its frame pointer, when that differs by function.

A stack map names places relative to the stack pointer; a walk along frame pointers does not know the stack pointer of
the frames that it finds. Where the architecture puts the frame record at one place in all frames, one figure leads from
the one to the other. Where it does not, the object file's `.eh_frame` section says it for each function, by its rules
for the canonical frame address (CFA): relative to the stack pointer at the function's start, to the frame pointer at
its calls. LLVM writes the section for functions with the attribute `uwtable`.

Promises: a rule is that of the very call; what the section does not say in the expected form raises `CompilerError`.

Format: "Linux Standard Base Core Specification, Exception Frames", and "DWARF Debugging Information Format, Version 5",
section 6.4. Functions are told apart by the relocations of an object file that is not linked yet.
"""

from __future__ import annotations

import io
from typing import Any

from lowheap.errors import CompilerError

_STACK_MAP_RELOCATIONS = ".rela.llvm_stackmaps"
_CALL_FRAME_RELOCATIONS = ".rela.eh_frame"
_ENTRY_ADDRESS_OFFSET = 8  # of an entry's function: behind the entry's length, and the way to what entries share


class CallFrames:
    """The rules of the functions in an object file's stack map, which are numbered in its order."""

    def __init__(self, object: bytes, *, stack_pointer_register: int, frame_pointer_register: int) -> None:
        """Read an ELF object file. CompilerError when it is none, or has no such section."""
        from elftools.common.exceptions import DWARFError, ELFError  # here, because they take long to load
        from elftools.dwarf.callframe import FDE
        from elftools.elf.elffile import ELFFile

        self._registers = (stack_pointer_register, frame_pointer_register)
        self._rows: dict[int, list[tuple[int, Any]]] = {}
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
        # Where the call returns to, another rule may hold already.
        during = [rule for start, rule in rows if start < instruction_offset][-1:]
        rules = [rule for _, rule in rows[:1]] + during
        if tuple(rule.reg for rule in rules) != self._registers:
            raise CompilerError(
                f"function {function} of the stack map has no rules for its frame by the stack pointer at its start, "
                f"and by the frame pointer at the call that returns to {instruction_offset}"
            )
        at_start, at_call = (int(rule.offset) for rule in rules)
        return at_call - at_start

    def _rows_of(self, function: int) -> list[tuple[int, Any]]:
        """A function's rules, each with the bytes from the function's start to where it begins to hold."""
        rows = self._rows.get(function)
        if rows is None:
            entry = self._entries.get(self._functions[self._order[function]]) if function < len(self._order) else None
            if entry is None:
                raise CompilerError(f"function {function} of the stack map has no call frame information")
            first = entry.header["initial_location"]
            rows = self._rows[function] = [(row["pc"] - first, row["cfa"]) for row in entry.get_decoded().table]
        return rows
