"""Call sites: what return addresses of linked code say about who was calling, for backtraces.

A call that may collect is in the stack map, and its statepoint has the byte offsets of the instructions that it is for:
its own, and those of the calls that were inlined around it. Of any other call, the object's symbol table tells the
function; the instruction, debug information does (`debug_locations.py`). Both are looked up when somebody asks.

Promises: what is unknown is None. Where objects are not ELF files, functions are known by the stack map alone.
"""

from __future__ import annotations

import bisect
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowheap.jit import large_frames
from lowheap.jit.stackmaps import FunctionRecord
from lowheap.jit.statepoints import StatepointModule

_ELF_MAGIC = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class CallSite:
    """A call in linked code: the symbol of the function that it is in, and the byte offsets of what it is for.

    `places` are a `Statepoint`'s, the innermost last; None for a call that cannot collect. Of that one, `section` is
    where its function is, and `start` and `return_place` are where that begins there, and where it returns to.
    """

    function: str
    places: tuple[int, ...] | None
    section: str = ""
    start: int = 0
    return_place: int = 0


@dataclass(frozen=True, slots=True, order=True)
class _Function:
    """A function in memory: where it is, its symbol, the section of the object file that it is of, and its start."""

    start: int
    end: int
    name: str
    section: str
    base: int


class CallSites:
    """The call sites of one linked module."""

    def __init__(
        self,
        object: bytes,
        statepoints: StatepointModule,
        records: Sequence[FunctionRecord],
        functions: Sequence[int],
        symbols: Mapping[str, int],
    ) -> None:
        """Keep what will be asked.

        `functions` are the addresses of the functions that have statepoints, `symbols` those of some symbols.
        """
        self._object, self._statepoints, self._records = object, statepoints, records
        self._addresses = {**symbols, **dict(zip(statepoints.functions, functions, strict=True))}

    def find(self, return_address: int) -> CallSite | None:
        """Return the call that returns to this address; None when it is none of this module's.

        Nor when it is one that a function with a large frame is called by, for which there is no instruction.
        """
        known = self._known.get(return_address)
        if known is not None:
            return known
        functions = self._functions
        # A call may be the last that a function has.
        number = bisect.bisect_left(functions, return_address, key=lambda each: each.start) - 1
        if number < 0 or return_address > functions[number].end:
            return None
        function = functions[number]
        start, return_place = function.start - function.base, return_address - function.base
        return CallSite(function.name, None, function.section, start, return_place)

    @functools.cached_property
    def _known(self) -> dict[int, CallSite]:
        """The calls in the stack map, by return address."""
        found: dict[int, CallSite] = {}
        for function in self._records:
            for record in function.records:
                if record.id >= large_frames.FIRST_MEASURE:
                    continue  # no call: it tells how large a frame is
                statepoint = self._statepoints.statepoints[record.id]
                if large_frames.body_of(statepoint.function) in self._addresses:
                    continue  # for no instruction
                address = self._addresses[statepoint.function] + record.instruction_offset
                found[address] = CallSite(statepoint.function, statepoint.places)
        return found

    @functools.cached_property
    def _functions(self) -> list[_Function]:
        """The functions, in the order in which they are in memory, but those in front of one with a large frame."""
        found: list[_Function] = []
        if self._object.startswith(_ELF_MAGIC):
            from elftools.elf.elffile import ELFFile  # here, because it takes long to load

            file = ELFFile(io.BytesIO(self._object))
            table: Any = file.get_section_by_name(".symtab")
            symbols = [each for each in table.iter_symbols() if each["st_info"]["type"] == "STT_FUNC"]
            # The linker has moved each section as a whole: one function of it that is known tells where the others are.
            bases = {
                each["st_shndx"]: self._addresses[each.name] - each["st_value"]
                for each in symbols
                if each.name in self._addresses
            }
            for each in symbols:
                if each["st_shndx"] in bases:
                    base, section = bases[each["st_shndx"]], file.get_section(each["st_shndx"]).name
                    start = base + each["st_value"]
                    found.append(_Function(start, start + each["st_size"], str(each.name), section, base))
        names = {each.name for each in found}
        return sorted(each for each in found if large_frames.body_of(each.name) not in names)
