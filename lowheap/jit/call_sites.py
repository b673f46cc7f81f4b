"""Call sites: what return addresses of linked code say about who was calling, for backtraces.

A call that may collect is in the stack map, and its statepoint has the byte offsets of the instructions that it is for:
its own, and those of the calls that were inlined around it. Of any other call, the object's symbol table tells the
function, and nothing the instruction. Both are looked up when somebody asks, and not before.

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

    `places` are a `Statepoint`'s, the innermost last; None for a call that cannot collect.
    """

    function: str
    places: tuple[int, ...] | None


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
        """Return the call that returns to this address; None when it is none of this module's."""
        known = self._known.get(return_address)
        if known is not None:
            return known
        starts, ends, names = self._functions
        number = bisect.bisect_left(starts, return_address) - 1  # a call may be the last that a function has
        if number < 0 or return_address > ends[number]:
            return None
        return CallSite(names[number], None)

    @functools.cached_property
    def _known(self) -> dict[int, CallSite]:
        """The calls in the stack map, by return address."""
        found: dict[int, CallSite] = {}
        for function in self._records:
            for record in function.records:
                if record.id >= large_frames.FIRST_MEASURE:
                    continue  # no call: it tells how large a frame is
                statepoint = self._statepoints.statepoints[record.id]
                address = self._addresses[statepoint.function] + record.instruction_offset
                found[address] = CallSite(statepoint.function, statepoint.places)
        return found

    @functools.cached_property
    def _functions(self) -> tuple[list[int], list[int], list[str]]:
        """Where functions begin, in order, where they end, and their symbols."""
        found: list[tuple[int, int, str]] = []
        if self._object.startswith(_ELF_MAGIC):
            from elftools.elf.elffile import ELFFile  # here, because it takes long to load

            table: Any = ELFFile(io.BytesIO(self._object)).get_section_by_name(".symtab")
            symbols = [each for each in table.iter_symbols() if each["st_info"]["type"] == "STT_FUNC"]
            # The linker has moved each section as a whole: one function of it that is known tells where the others are.
            bases = {
                each["st_shndx"]: self._addresses[each.name] - each["st_value"]
                for each in symbols
                if each.name in self._addresses
            }
            for each in symbols:
                if each["st_shndx"] in bases:
                    start = bases[each["st_shndx"]] + each["st_value"]
                    found.append((start, start + each["st_size"], str(each.name)))
        found.sort()
        starts, ends, names = [each[0] for each in found], [each[1] for each in found], [each[2] for each in found]
        return starts, ends, names
