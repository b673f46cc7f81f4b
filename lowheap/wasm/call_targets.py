"""Which functions calls through references come to, as code has seen it that counts.

Calls of virtual methods, of interfaces' and of lambdas are all `call_ref` for WebAssembly. Most come to one function or
to a few, again and again. Code that counts notes them: each site has candidates with votes (`call_votes.py`). Optimised
code asks whether the reference is to one of those that have many, which may stand there in place of a call
(`inlining.py`); else, it calls.

A guess that turns out wrong costs a comparison, no more: so code holds for other instances, and in other processes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowheap.layout import VMCallTarget
from lowheap.representation import short_repr
from lowheap.wasm.call_votes import CANDIDATES

Site = tuple[int, int]
"""Where a `call_ref` is: the index of a function, and the number of the instruction in it."""

CALL = "call_ref"
"""The instruction of which the targets are noted."""

FEWEST_VOTES = 32
"""A function of fewer votes is no guess: nothing was called as often as that, or too many others were."""

LEAST_PART = 10
"""Nor is one of fewer votes than this part of those that the first has."""


class CallTargets:
    """What calls are guessed to come to, by their sites. `used` are the guesses that were asked for, and told."""

    def __init__(self, find: Callable[[Site], Sequence[int] | None]) -> None:
        """Take what tells guesses, if there are any."""
        self._find = find
        self.used: dict[Site, Sequence[int]] = {}

    def get(self, site: Site) -> Sequence[int]:
        """Return the functions that a call there is guessed to come to, the likeliest first."""
        found = self._find(site)
        if found:
            self.used[site] = found
        return found or ()


@short_repr
@dataclass(frozen=True, slots=True)
class SeenTargets:
    """What an instance has seen: the candidates of all sites, and which function each reference is to."""

    candidates: bytes
    functions: Mapping[int, int]

    def guesses(self, number_of: Callable[[Site], int]) -> CallTargets:
        """Return the functions of the module that calls come to. `number_of` tells the number of a site."""
        site_type = VMCallTarget * CANDIDATES

        def find(site: Site) -> list[int]:
            places = site_type.from_buffer_copy(self.candidates, number_of(site) * ctypes.sizeof(site_type))
            ranked = sorted(places, key=lambda each: int(each.votes), reverse=True)
            fewest = max(FEWEST_VOTES, ranked[0].votes // LEAST_PART)
            found = (self.functions.get(each.function) for each in ranked if each.votes >= fewest)
            return [function for function in found if function is not None]

        return CallTargets(find)
