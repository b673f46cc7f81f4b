"""How long compiled code holds references: whether across a safepoint, and whether across a write.

A collector may read what is let go of at once in another way than what is held: see `collectors/interface.py`, `Shape`.

What is said here is said of the function as it is emitted, before LLVM. Who is wrong in one direction only costs time:
so whatever is not understood holds a reference for long.

- A reference lives across what it is live behind: `safepoints.Liveness`.
- Where it flows into a phi or a select, it lives as long as that does.
- What a function is given, or returns, is in somebody else's hands: it lives across everything. So is what is stored,
  but by an event.
- An event that collects holds its operands while it does. One that writes a range uses them behind its first write.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from llvmlite import ir

from lowheap.jit.safepoints import Liveness, SafepointCall, set_bits


class Writes(enum.Enum):
    """How many stores over references an event makes."""

    NONE = enum.auto()
    ONE = enum.auto()
    RANGE = enum.auto()


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a reference is held; the defaults are what holds of one of which nothing is known."""

    outlives_safepoint: bool = True
    outlives_write: bool = True


UNKNOWN = Lifetime()


def lifetimes(liveness: Liveness, events: Mapping[int, Writes]) -> dict[int, Lifetime]:
    """Return the lifetimes of a function's references, by their ids. `events` are the calls of events, by their ids."""
    safepoint = write = 0
    flows: list[tuple[int, int]] = []  # from one reference into another
    for instruction, live in liveness.behind():
        if isinstance(instruction, ir.PhiInstr):
            used = 0
            for value, _ in instruction.incomings:
                used |= liveness.bits.get(id(value), 0)
        else:
            used = liveness.uses(instruction)
        if isinstance(instruction, ir.CallInstr):
            writes = events.get(id(instruction))
            if isinstance(instruction, SafepointCall):
                safepoint |= live | used
            if writes is None:
                if not _is_intrinsic(instruction):
                    safepoint |= used
                    write |= live | used
            elif writes is not Writes.NONE:
                write |= live
                if writes is Writes.RANGE:
                    write |= used
        elif isinstance(instruction, ir.PhiInstr | ir.SelectInstr) and id(instruction) in liveness.bits:
            flows += [(1 << each, liveness.bits[id(instruction)]) for each in set_bits(used)]
        elif not isinstance(instruction, ir.ICMPInstr):
            safepoint |= used
            write |= used
    safepoint, write = _spread(safepoint, flows), _spread(write, flows)
    return {
        id(value): Lifetime(bool(safepoint >> number & 1), bool(write >> number & 1))
        for number, value in enumerate(liveness.references)
    }


def _is_intrinsic(call: ir.CallInstr) -> bool:
    """Whether a call is of one of LLVM's own, which know nothing of references."""
    return isinstance(call.callee, ir.Function) and call.callee.name.startswith("llvm.")


def _spread(marked: int, flows: list[tuple[int, int]]) -> int:
    """Add what flows into something marked, however indirectly."""
    sources: dict[int, list[int]] = {}
    for source, target in flows:
        sources.setdefault(target, []).append(source)
    pending = [1 << each for each in set_bits(marked)]
    while pending:
        for source in sources.get(pending.pop(), ()):
            if not marked & source:
                marked |= source
                pending.append(source)
    return marked
