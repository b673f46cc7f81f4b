"""Backtraces: which functions of which modules were being run, from the return addresses that a trap leaves.

Promises: the frames are in order, the innermost first, and each is one that was there. What is missing are functions
that were inlined into their callers, where LLVM has joined what they called with other calls; but never the one that
trapped.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lowheap.errors import CompilerError, Frame
from lowheap.jit.call_sites import CallSite
from lowheap.jit.engine import LoadedCode
from lowheap.jit.signatures import INITIALISE
from lowheap.jit.stackmaps import walk_frames
from lowheap.layout import MOST_TRAP_FRAMES, VMActivation

if TYPE_CHECKING:
    from lowheap.jit.debug_locations import DebugLocations

_FUNCTION = re.compile(r"wasm\.(\d+)(?:\.|$)")
"""How compiled functions of a module are named: by their indices.

Of the others the initialiser may have such inlined: the start function, and what that calls. The rest is for events, or
trampolines.
"""


class Source(Protocol):
    """What can tell where in a module something happened: the module."""

    def locate(self, offset: int) -> str:
        """Return the name of the function whose code is at a byte offset of the module."""

    def frame_at(self, offset: int) -> Frame | None:
        """Return the frame of the function whose code is at a byte offset of the module; None where none is."""

    def frame_of(self, index: int) -> Frame:
        """Return a frame of a function of which no more than its index is known."""

    def locations_of(self, code: LoadedCode) -> DebugLocations | None:
        """Return which instructions its code is for; None where that cannot be said. This may take long."""


class Place(Protocol):
    """What code is run for: an instance."""

    linked: list[LoadedCode]
    """The module's code, as far as it is linked for the instance."""

    def compile_function(self, number: int) -> int:
        """Return the address of one of the module's own functions, compiled now if need be."""

    def optimise_function(self, number: int) -> None:
        """Have one of the module's own functions optimised, in the background."""

    def take_up_ready(self) -> None:
        """Take up code that was compiled in the meantime."""

    @property
    def module(self) -> Source:
        """The module."""

    @property
    def exports(self) -> Mapping[str, Any]:
        """What the instance exports."""


def outer_addresses(activation: int, most: int) -> list[int]:
    """Return up to `most` return addresses in an activation that has left compiled code, and in those around it.

    A drop does not say where it leaves compiled code: one that has come back here by a finalizer of Python's ends them.
    """
    found: list[int] = []
    with contextlib.suppress(CompilerError):
        while activation and len(found) < most:
            record = VMActivation.from_address(activation)
            frames = walk_frames(record.exit_frame_pointer, record.entry_frame_pointer)
            found += (frame.return_address for frame in itertools.islice(frames, most - len(found)))
            activation = record.previous
    return found


def frames_of_trap(
    sources: Mapping[LoadedCode, Source], innermost: Source | None, offset: int, addresses: Sequence[int]
) -> list[Frame]:
    """Return the frames of a trap at a byte offset of the module `innermost`, which has left these addresses."""
    first = None if innermost is None else innermost.frame_at(offset)
    found: list[Frame] = [] if first is None else [first]
    is_innermost = first is not None
    for source, code, site in _call_sites(sources, addresses):
        index = _FUNCTION.match(site.function)
        if index is None and not site.function.startswith(INITIALISE):
            continue
        places = site.places
        if places is None and (locations := source.locations_of(code)) is not None:
            places = locations.of_call(site.section, site.start, site.return_place)
        if places:
            frames = [frame for each in reversed(places) if (frame := source.frame_at(each)) is not None]
        else:
            frames = [] if index is None else [source.frame_of(int(index[1]))]
        if is_innermost and first is not None:  # this call's, if that was not inlined
            is_innermost = False
            if frames and frames[0].func_index == first.func_index and frames[0].module_offset in (None, offset):
                frames = frames[1:]
        found += frames
    return found[:MOST_TRAP_FRAMES]


def _call_sites(
    sources: Mapping[LoadedCode, Source], addresses: Sequence[int]
) -> Iterator[tuple[Source, LoadedCode, CallSite]]:
    for address in addresses:
        for code, source in sources.items():
            site = code.call_sites.find(address)
            if site is not None:
                yield source, code, site
                break
