"""What is known of a module whose calls that may collect have become statepoints; `safepoints` makes them."""

from __future__ import annotations

from dataclasses import dataclass

from lowheap.representation import short_repr

FUNCTIONS_GLOBAL = "lowheap.functions"
"""The global that `lower_statepoints` appends: the addresses of the functions that contain a statepoint."""


@dataclass(frozen=True, slots=True)
class Statepoint:
    """One lowered call.

    `id` is the number its stack map record carries, `function` the function that contains it, `callee` the name of the
    function called, or the printed operand of an indirect call (`%pointer`), `live_count` the number of slots of the
    root frame that are live across it. `places` are the byte offsets of the instructions that it is for: the last that
    of the call itself, those before it those of calls that were inlined around it.
    """

    id: int
    function: str
    callee: str
    live_count: int
    places: tuple[int, ...] = ()


@short_repr
@dataclass(frozen=True, slots=True)
class StatepointModule:
    """A module's text after `lower_statepoints`.

    `functions` are the names of the functions that contain a statepoint, in module order, which is the order of
    the addresses in the global `FUNCTIONS_GLOBAL` and of the functions in the object's stack map. `statepoints` are
    in id order: statepoint number i has id i. `measured` are functions without one whose frames the stack map tells,
    too, as `large_frames.measure` numbers them.
    """

    text: str
    functions: tuple[str, ...]
    statepoints: tuple[Statepoint, ...]
    measured: tuple[str, ...] = ()
