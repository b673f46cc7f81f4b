"""Which functions calls through references come to, as baseline code has seen it.

Calls of virtual methods, of interfaces' and of lambdas are all `call_ref` for WebAssembly. Most come to one function,
again and again. Baseline code notes it: each site has a **cell** with a function and its votes, by the majority vote of
Boyer and Moore, in which a function that more than half of the calls come to stays. Optimised code asks whether the
reference is to that function, which may stand there in place of a call (`inlining.py`); else, it calls.

A guess that turns out wrong costs a comparison, no more: so code holds for other instances, and in other processes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lowheap.layout import VMCallTarget
from lowheap.representation import short_repr

Site = tuple[int, int]
"""Where a `call_ref` is: the index of a function, and the number of the instruction in it."""

CALL = "call_ref"
"""The instruction of which the targets are noted."""

FEWEST_VOTES = 32
"""A function of fewer votes is no guess: nothing was called as often as that, or half the calls were of others."""


class CallTargets:
    """What calls are guessed to come to, by their sites. `used` are the guesses that were asked for, and told."""

    def __init__(self, find: Callable[[Site], int | None]) -> None:
        """Take what tells a guess, if there is one."""
        self._find = find
        self.used: dict[Site, int] = {}

    def get(self, site: Site) -> int | None:
        """Return the function that a call there is guessed to come to; None without a guess."""
        found = self._find(site)
        if found is not None:
            self.used[site] = found
        return found


@short_repr
@dataclass(frozen=True, slots=True)
class SeenTargets:
    """What an instance has seen: the cells of all sites, and which function each reference is to."""

    cells: bytes
    functions: Mapping[int, int]

    def guesses(self, number_of: Callable[[Site], int]) -> CallTargets:
        """Return the functions of the module that most calls come to. `number_of` tells the number of a site."""

        def find(site: Site) -> int | None:
            cell = VMCallTarget.from_buffer_copy(self.cells, number_of(site) * ctypes.sizeof(VMCallTarget))
            return self.functions.get(cell.function) if cell.votes >= FEWEST_VOTES else None

        return CallTargets(find)
