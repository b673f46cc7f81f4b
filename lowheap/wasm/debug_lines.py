"""Lines of source: what a module's DWARF sections tell of the byte offsets of its instructions.

Compilers put them into custom sections (`.debug_line` and what that refers to). Addresses there count from where the
contents of the code section begin. They are read when somebody asks for the first time, with pyelftools.

Promises: what the sections do not tell is None, and so is all that they tell once something in them makes no sense.
"""

from __future__ import annotations

import bisect
import io
import logging
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger("lowheap.wasm")

_ADDRESS_SIZE = 4

_SECTIONS = (
    "info",
    "aranges",
    "abbrev",
    "frame",
    "eh_frame",
    "str",
    "loc",
    "ranges",
    "line",
    "pubtypes",
    "pubnames",
    "addr",
    "str_offsets",
    "line_str",
    "loclists",
    "rnglists",
    "sup",
    "gnu_debugaltlink",
    "types",
)
"""What pyelftools wants to be given."""


@dataclass(frozen=True, slots=True)
class Line:
    """A place in a source: the file as a compiler was given it, below the directory that it ran in; from 1, or None."""

    file: str
    line: int | None
    column: int | None


class DebugLines:
    """The lines of one module. `sections` are its custom sections, by name; `code_offset` is where code's begins."""

    def __init__(self, sections: dict[str, bytes], code_offset: int) -> None:
        """Read the line programs of all units."""
        self._code_offset = code_offset
        try:
            rows = list(_rows(sections)) if ".debug_line" in sections else []
        except Exception as error:  # bytes may be anything, and pyelftools fails in as many ways
            _log.debug("debugging information makes no sense: %r", error)
            rows = []
        rows.sort(key=lambda row: (row[0], row[1] is not None))  # where one ends another may begin
        self._addresses = [address for address, _ in rows]
        self._lines = [line for _, line in rows]

    def find(self, offset: int) -> Line | None:
        """Return the line that the instruction at a byte offset of the module is of; None where that is not told."""
        number = bisect.bisect_right(self._addresses, offset - self._code_offset) - 1
        return self._lines[number] if number >= 0 else None


def _rows(sections: dict[str, bytes]) -> Iterator[tuple[int, Line | None]]:
    """Yield where lines begin; where a sequence ends, nothing begins."""
    from elftools.dwarf import dwarfinfo  # here, because it takes long to load

    def section(name: str) -> Any:
        data = sections.get(f".debug_{name}")
        return None if data is None else dwarfinfo.DebugSectionDescriptor(io.BytesIO(data), name, 0, len(data), 0)

    config = dwarfinfo.DwarfConfig(little_endian=True, machine_arch="wasm", default_address_size=_ADDRESS_SIZE)
    found: Any = dwarfinfo.DWARFInfo(config, **{f"{_parameter(name)}_sec": section(name) for name in _SECTIONS})
    for unit in found.iter_CUs():
        program = found.line_program_for_CU(unit)
        if program is None:
            continue
        named = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        files = _Files(program.header, "" if named is None else _text(named.value))
        sequence: list[tuple[int, Line | None]] = []
        for state in (entry.state for entry in program.get_entries()):
            if state is None:
                continue
            if not state.end_sequence:
                line = Line(files.name(state.file), state.line or None, state.column or None)
                sequence.append((state.address, line))
            else:
                sequence.append((state.address, None))
                if sequence[0][0] > 0:  # else it is of a function that the linker has left out
                    yield from sequence
                sequence = []


def _parameter(name: str) -> str:
    return name if name in ("eh_frame", "gnu_debugaltlink") else f"debug_{name}"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class _Files:
    """The files of a line program, by its numbers: from 0 since DWARF 5, before that from 1."""

    def __init__(self, header: Any, directory: str) -> None:
        self._header, self._directory = header, directory
        self._is_counted_from_0 = header.version >= 5

    def name(self, number: int) -> str:
        """Return the path of a file."""
        entry = self._header.file_entry[number - (not self._is_counted_from_0)]
        directories, index = self._header.include_directory, entry.dir_index
        parts = [self._directory]
        if self._is_counted_from_0:
            parts.append(_text(directories[index]))
        elif index:
            parts.append(_text(directories[index - 1]))
        return posixpath.join(*parts, _text(entry.name))
