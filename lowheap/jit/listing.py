"""Machine code for people: a function's assembly or LLVM IR, with what each instruction was emitted for, and sizes.

A module with marks (`marks.MarkedModule`) is compiled like any other. Its assembly text has the marks as `.loc`
directives, its object has them as a line table; both come from the same code generation, and the machine code is the
same as without marks.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lowheap.errors import CompilerError
from lowheap.jit import engine
from lowheap.jit.marks import PLAIN, MarkedModule, Path

BARRIER_EVENTS = ("read", "write", "init", "allocate", "inc_ref", "dec_ref", "expose")
"""The events of a barrier set: its methods."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a listing. `path` says what it was emitted for; None where nothing was: labels, braces."""

    text: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class RegionSize:
    """How much of a function is for one event, without the events inside: bytes and instructions of machine code."""

    bytes: int
    instructions: int


class MarkedCode:
    """The machine code of a module with marks. Functions are named by their symbols."""

    def __init__(self, module: MarkedModule, *, opt_level: int = 2) -> None:
        """Compile the module. CompilerError when LLVM refuses it."""
        self._module = module
        lowered, machine = engine.lower(module, opt_level=opt_level)
        self.object: bytes = machine.emit_object(engine.parse(lowered.text))
        self._assembly: list[str] = machine.emit_assembly(engine.parse(lowered.text)).splitlines()
        self._llvm_ir = lowered.text.splitlines()
        from elftools.elf.elffile import ELFFile  # here, because it takes long to load

        self._file: Any = ELFFile(io.BytesIO(self.object))
        table: Any = self._file.get_section_by_name(".symtab")
        self._symbols = {
            str(symbol.name): symbol for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC"
        }

        self._lines = self._line_table()

    @property
    def functions(self) -> list[str]:
        """The functions that there is machine code of, sorted; those that were inlined everywhere have none."""
        return sorted(self._symbols)

    def machine_code(self, symbol: str) -> bytes:
        """Return a function's bytes, in which addresses outside are not filled in yet."""
        place = self._find(symbol)
        section = self._file.get_section(place["st_shndx"])
        return bytes(section.data()[place["st_value"] : place["st_value"] + place["st_size"]])

    def assembly(self, symbol: str) -> list[Line]:
        """Return a function's instructions and labels."""
        self._find(symbol)
        head = re.compile(rf'"?{re.escape(symbol)}"?:')
        lines = iter(self._assembly)
        for line in lines:
            if head.match(line):
                break
        found: list[Line] = []
        path = PLAIN
        for line in lines:
            location = _LOCATION.match(line)
            if location:
                path = self._module.path_of(int(location[1]))
            elif _END.match(line):
                break
            elif _LABEL.match(line):
                found.append(Line(line.split()[0], None))
            elif _INSTRUCTION.match(line):
                found.append(Line(line.expandtabs().strip(), path))
        return found

    def llvm_ir(self, symbol: str) -> list[Line]:
        """Return a function's LLVM IR after optimisation, with the calls that may collect as statepoints."""
        self._find(symbol)
        paths = {}
        for line in self._llvm_ir:
            if location := _IR_LOCATION.match(line):
                paths[location[1]] = self._module.path_of(int(location[2]))
        head = re.compile(rf'define .*@"?{re.escape(symbol)}"?\(')
        found: list[Line] = []
        for line in self._llvm_ir:
            if not found and not head.match(line):
                continue
            mark = _IR_MARK.search(line)
            path = paths.get(mark[1]) if mark and found else None
            found.append(Line(_IR_MARK.sub("", line), path))
            if line == "}":
                break
        return found

    def sizes(self, symbol: str) -> dict[Path, RegionSize]:
        """Return how much of a function's machine code is for what."""
        place = self._find(symbol)
        start, end = place["st_value"], place["st_value"] + place["st_size"]
        bytes_of: Counter[Path] = Counter()
        known = start
        for section, first, last, line in self._lines:
            first, last = max(first, known), min(last, end)
            if section == place["st_shndx"] and first < last:
                bytes_of[PLAIN] += first - known
                bytes_of[self._module.path_of(line)] += last - first
                known = last
        bytes_of[PLAIN] += end - known
        instructions = Counter(line.path for line in self.assembly(symbol) if line.path is not None)
        paths = sorted(path for path in {*bytes_of, *instructions} if bytes_of[path] or instructions[path])
        return {path: RegionSize(bytes_of[path], instructions[path]) for path in paths}

    def _line_table(self) -> list[tuple[int, int, int, int]]:
        """The object's line table, in order: in which section, from where to where, and which line.

        Addresses are places in a section; the relocations of where runs of them start tell in which.
        """
        places = self._file.get_section_by_name(".rela.debug_line")
        names = self._file.get_section(places["sh_link"])
        relocations = sorted(places.iter_relocations(), key=lambda each: each["r_offset"])
        sections = (names.get_symbol(each["r_info_sym"])["st_shndx"] for each in relocations)
        dwarf = self._file.get_dwarf_info()
        found = []
        section, previous = 0, None
        for unit in dwarf.iter_CUs():
            for entry in dwarf.line_program_for_CU(unit).get_entries():
                if entry.is_extended and entry.command == _SET_ADDRESS:
                    section = next(sections)
                if entry.state is None:
                    continue
                if previous is not None:
                    found.append((section, previous.address, entry.state.address, previous.line))
                previous = None if entry.state.end_sequence else entry.state
        return sorted(found)

    def _find(self, symbol: str) -> Any:
        try:
            return self._symbols[symbol]
        except KeyError:
            raise CompilerError(
                f"there is no machine code of {symbol!r}: it is inlined wherever it is called, or never called"
            ) from None


_SET_ADDRESS = 2  # DW_LNE_set_address
_LOCATION = re.compile(r"\s+\.loc\s+\d+\s+(\d+)")
_END = re.compile(r"\.Lfunc_end\d+:")
_LABEL = re.compile(r"\.LBB[\d_]+:")
_INSTRUCTION = re.compile(r"\s+[a-z{]")  # a prefix that says how to encode it may come first: `{vex}`
_IR_LOCATION = re.compile(r"!(\d+) = (?:distinct )?!DILocation\(line: (\d+)")
_IR_MARK = re.compile(r",? !dbg !(\d+)")
