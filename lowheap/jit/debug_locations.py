"""Debug locations: which instruction of a module each piece of machine code is for, by LLVM's debug information.

It tells of calls that are in no stack map, too, and of all that was inlined. But it takes LLVM time, and code runs well
without. So a module is compiled without it; when somebody asks, it is compiled again, with it, and the question is put
to that object file, if its code is the same. LLVM promises that debug information changes no code.

A "line" here is the byte offset of an instruction in the module. Where LLVM joins the code of several, it has none.

Format: "DWARF Debugging Information Format, Version 4".
"""

from __future__ import annotations

import bisect
import functools
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir

_VERSION = 4  # of DWARF: the last with addresses where they are used
_SECTION_SHIFT = 32  # an address here is a section's number above the place in the section
_U64 = struct.Struct("<Q")
_SYMBOL_VALUE = 8  # where an ELF symbol has its value
_TAIL_CALL = 1
"""The column of tail calls: when what one calls is inlined, the frame of its own function is gone all the same."""


class DebugScopes:
    """Makes debug information for a module that is being compiled."""

    def __init__(self, module: ir.Module) -> None:
        """Say in the module that it has some."""
        self._module = module
        self._file = module.add_debug_info("DIFile", {"filename": "module.wasm", "directory": ""})
        self._type = module.add_debug_info("DISubroutineType", {"types": module.add_metadata([])})
        self._unit = module.add_debug_info(
            "DICompileUnit",
            {
                "language": ir.DIToken("DW_LANG_C"),
                "file": self._file,
                "emissionKind": ir.DIToken("LineTablesOnly"),
            },
            is_distinct=True,
        )
        module.add_named_metadata("llvm.dbg.cu", self._unit)
        i32 = ir.IntType(32)
        for behaviour, name, value in ((7, "Dwarf Version", _VERSION), (2, "Debug Info Version", 3)):
            module.add_named_metadata("llvm.module.flags", module.add_metadata([i32(behaviour), name, i32(value)]))

    def of_function(self, function: ir.Function) -> Callable[[int, tuple[int, ...], bool], ir.DIValue]:
        """Give a function a scope. Return what makes locations there: of an offset, the offsets of the calls in whose
        place that is, and whether a tail call is there.
        """
        scope = self._scope(function.name)
        function.set_metadata("dbg", scope)
        return functools.partial(self._location, scope, {})

    def _scope(self, name: str) -> ir.DIValue:
        return self._module.add_debug_info(
            "DISubprogram",
            {
                "name": name,
                "file": self._file,
                "type": self._type,
                "unit": self._unit,
                "spFlags": ir.DIToken("DISPFlagDefinition"),
            },
            is_distinct=True,
        )

    def _location(
        self,
        scope: ir.DIValue,
        calls: dict[tuple[int, ...], tuple[ir.DIValue, ir.DIValue]],
        offset: int,
        around: tuple[int, ...],
        is_tail_call: bool,
    ) -> ir.DIValue:
        """`calls` are those that were inlined: by the offsets of the calls around, the scope inside, and its place."""
        facts: dict[str, Any] = {"line": offset, "scope": scope}
        if is_tail_call:
            facts["column"] = _TAIL_CALL
        if around:
            if around not in calls:
                place = self._location(scope, calls, around[-1], around[:-1], False)
                calls[around] = self._scope(f"inlined at {around[-1]}"), place
            facts["scope"], facts["inlinedAt"] = calls[around]
        return self._module.add_debug_info("DILocation", facts)


class DebugLocations:
    """What an object file's debug information says.

    A place is the name of a section, and the bytes from its start.
    """

    def __init__(self, object: bytes) -> None:
        """Read an ELF object file."""
        from elftools.elf.elffile import ELFFile  # here, because it takes long to load

        file = ELFFile(io.BytesIO(_with_numbered_sections(object)))
        self._sections = {section.name: number for number, section in enumerate(file.iter_sections())}
        self._rows: list[tuple[int, int, int]] = []  # from where on, the line, the column
        self._inlined: list[tuple[int, int, int]] = []  # from where to where, and the line of the call, outermost first
        dwarf = file.get_dwarf_info()
        ranges = dwarf.range_lists()
        for unit in dwarf.iter_CUs():
            program: Any = dwarf.line_program_for_CU(unit)
            for entry in program.get_entries():
                if (state := entry.state) is not None:
                    self._rows.append((state.address, 0 if state.end_sequence else state.line, state.column))
            top = unit.get_top_DIE()
            start = top.attributes["DW_AT_low_pc"].value if "DW_AT_low_pc" in top.attributes else 0
            self._inlined += _inlined(top, ranges, start)
        self._rows.sort(key=lambda row: row[0])  # of rows with one address, the last counts

    def of_call(self, section: str, start: int, return_place: int) -> tuple[int, ...]:
        """Return the byte offsets of the instructions that a call is for.

        First the calls that were inlined around it, the outermost first; nothing, where it is for none, or for several.
        `start` is where in the section its function begins, `return_place` where it returns to.
        """
        if section not in self._sections:
            return ()
        base = self._sections[section] << _SECTION_SHIFT
        within = base + return_place - 1  # in the call itself
        number = bisect.bisect_right(self._rows, within, key=lambda row: row[0]) - 1
        row, line, column = self._rows[number] if number >= 0 else (0, 0, 0)
        if not line or row < base + start:
            return ()
        around = (call for start, end, call in self._inlined if start <= within < end)
        return (*around, *([] if column == _TAIL_CALL else [line]))


def code_of(object: bytes) -> dict[str, bytes]:
    """Return what an object file has in its sections of code, by their names."""
    from elftools.elf.elffile import ELFFile  # here, because it takes long to load

    sections = ELFFile(io.BytesIO(object)).iter_sections()
    return {section.name: section.data() for section in sections if _has_code(section)}


def _has_code(section: Any) -> bool:
    from elftools.elf.constants import SH_FLAGS

    return bool(section["sh_flags"] & SH_FLAGS.SHF_EXECINSTR)


def _with_numbered_sections(object: bytes) -> bytes:
    """Return an object file whose symbols have the number of their section in their values, if that has code.

    All sections of a file that is not linked begin at 0; so an address does not say which it is in.
    """
    from elftools.elf.elffile import ELFFile

    changed = bytearray(object)
    file = ELFFile(io.BytesIO(object))
    code = {number for number, each in enumerate(file.iter_sections()) if _has_code(each)}
    table: Any = file.get_section_by_name(".symtab")
    for number, symbol in enumerate(table.iter_symbols()):
        section = symbol["st_shndx"]
        if section in code:
            place = table["sh_offset"] + number * table["sh_entsize"] + _SYMBOL_VALUE
            _U64.pack_into(changed, place, symbol["st_value"] + (section << _SECTION_SHIFT))
    return bytes(changed)


def _inlined(entry: Any, ranges: Any, base: int) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges of calls that were inlined, within an entry, with the calls' lines; the outer before the inner.

    Lists of ranges count from `base`, unless they say otherwise.
    """
    for child in entry.iter_children():
        if child.tag == "DW_TAG_inlined_subroutine":
            values = {name: attribute.value for name, attribute in child.attributes.items()}
            call = values.get("DW_AT_call_line", 0)
            if values.get("DW_AT_call_column") == _TAIL_CALL:
                pass
            elif "DW_AT_ranges" in values:
                begin = base
                for each in ranges.get_range_list_at_offset(values["DW_AT_ranges"]):
                    if hasattr(each, "base_address"):
                        begin = each.base_address
                    else:
                        yield begin + each.begin_offset, begin + each.end_offset, call
            else:
                start = values["DW_AT_low_pc"]
                yield start, start + values["DW_AT_high_pc"], call
        yield from _inlined(child, ranges, base)
