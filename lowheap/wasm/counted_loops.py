"""Which loops end by counting, and when soon: such a loop need not poll.

A loop counts where one integer that it carries from round to round changes by the same constant whichever way it goes
round, and where it goes round only if a comparison has come out one way: of that integer, or of it and a constant, with
something that the loop does not change. This is looked for in the SSA form of a loop that has been compiled, so it
matters neither how a program writes it, as `while` or as `do`, nor through how many locals.

That alone is no bound: `i <= n` holds for ever where n is the largest number, `i != n` where the step passes over n;
and 2^32 rounds are too many. So `ends_soon` emits a test for before the loop, of where the integer begins and what it
is compared with. Where that holds, the loop certainly goes round no more often than said; arithmetic wraps round, and
the test allows for it. `wasm/compile.py` has such a loop twice, with polls and without, and lets the test choose.

`short_loops` tells which are worth it: innermost loops with a small body whose every round takes a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from lowheap.wasm.decode import Instruction
from lowheap.wasm.inlining import OPENING

LONGEST_BODY = 100
"""A loop of more instructions is not had twice: a poll is next to nothing in it."""

MOST_TWICE = 100
"""So many loops of one function are had twice at most: the time that LLVM needs is more than linear in their number."""

_NEGATED = {"eq": "ne", "ne": "eq"}
_SWAPPED = {"eq": "eq", "ne": "ne"}
for _sign in "su":
    for _less, _greater in (("lt", "gt"), ("le", "ge")):
        _SWAPPED |= {_sign + _less: _sign + _greater, _sign + _greater: _sign + _less}
    for _within, _beyond in (("lt", "ge"), ("le", "gt")):
        _NEGATED |= {_sign + _within: _sign + _beyond, _sign + _beyond: _sign + _within}

Condition = tuple[ir.Value, bool]
"""An i1, and what it is."""


def short_loops(instructions: Sequence[Instruction], takes_long: Callable[[Instruction], bool]) -> set[int]:
    """Find the loops that may be had twice, by the number of the instruction that opens them.

    `takes_long` tells of instructions that may take more than a moment; a loop with one of those is none of these.
    """
    found: set[int] = set()
    open_constructs: list[int] = []
    innermost = -1  # the loop that may be one, and is open
    for number, instruction in enumerate(instructions):
        name = instruction.name
        if name in OPENING:
            open_constructs.append(number)
            if name == "loop":
                innermost = number
        elif name == "end" and open_constructs:
            start = open_constructs.pop()
            if start == innermost:
                if number - start <= LONGEST_BODY:
                    found.add(start)
                innermost = -1
        elif takes_long(instruction):
            innermost = -1
    return found


@dataclass(frozen=True, slots=True)
class Counting:
    """How a loop counts: it goes round while `predicate` (LLVM's name) holds of its integer and `limit`.

    In the first round the integer is `start + ahead`; it changes by `step` with each. All are of one width.
    """

    start: ir.Value
    ahead: int
    step: int
    predicate: str
    limit: ir.Value


def find_counting(
    phis: Sequence[ir.PhiInstr], conditions: Sequence[Sequence[Condition]], is_fixed: Callable[[ir.Value], bool]
) -> Counting | None:
    """Return how a loop counts, if it does.

    `phis` are its header's: of the values that each brings together, the first is from before the loop, and then there
    is one for each way on which it goes round. `conditions` are what holds on each such way, in the round that ends
    there. `is_fixed` tells of what the loop does not change.
    """
    if not conditions:
        return None
    common = [each for each in conditions[0] if all(each in others for others in conditions[1:])]
    for phi in phis:
        if not isinstance(phi.type, ir.IntType):
            continue
        start, *others = (value for value, _ in phi.incomings)
        steps = {_distance(value, phi) for value in others}
        if len(steps) != 1:
            continue
        (step,) = steps
        if not step:
            continue
        for condition in common:
            comparison = _comparison(condition)
            if comparison is None:
                continue
            predicate, left, right = comparison
            for name, value, limit in ((predicate, left, right), (_SWAPPED[predicate], right, left)):
                ahead = _distance(value, phi)
                if ahead is not None and is_fixed(limit) and (name == "ne" or name[1:2] == ("l" if step > 0 else "g")):
                    return Counting(start, ahead, step, name, limit)
    return None


def ends_soon(builder: ir.IRBuilder, counting: Counting, limit: ir.Value, most: int) -> ir.Value:
    """Emit whether a counted loop certainly goes round no more than `most` times and once; an i1.

    `limit` has the value of the counting's where this is emitted. No claim is made by its being false.
    """
    type = counting.start.type
    first = builder.add(counting.start, type(counting.ahead)) if counting.ahead else counting.start
    rises, size = counting.step > 0, abs(counting.step)
    distance = builder.sub(limit, first) if rises else builder.sub(first, limit)
    # Where the integer begins beyond the limit, the loop does not go round at all; else this is no less than how often.
    ends = builder.icmp_unsigned("<=", distance, type(most))
    if counting.predicate == "ne":
        if size > 1:  # it must not step over the limit
            ends = builder.and_(ends, builder.icmp_unsigned("==", builder.urem(distance, type(size)), type(0)))
        return ends
    # The first value beyond the limit is not this far from it, or just this far, and must be there.
    room = size if counting.predicate.endswith("e") else size - 1
    if room:
        is_signed = counting.predicate.startswith("s")
        bits = type.width - is_signed
        last = (1 << bits) - 1 - room if rises else (-(1 << bits) if is_signed else 0) + room
        compare = builder.icmp_signed if is_signed else builder.icmp_unsigned
        ends = builder.and_(ends, compare("<=" if rises else ">=", limit, type(last)))
    return ends


def _distance(value: ir.Value, phi: ir.PhiInstr) -> int | None:
    """By how much a value is more than a phi's, as a signed constant; None where that is not known."""
    if value is phi:
        return 0
    if not isinstance(value, ir.Instruction) or value.opname not in ("add", "sub"):
        return None
    left, right = value.operands
    if right is phi and value.opname == "add":
        left, right = right, left
    if left is not phi or not isinstance(right, ir.Constant):
        return None
    width = phi.type.width
    amount = (right.constant if value.opname == "add" else -right.constant) & ((1 << width) - 1)
    return int(amount - (1 << width) if amount >> (width - 1) else amount)


def _comparison(condition: Condition) -> tuple[str, ir.Value, ir.Value] | None:
    """The comparison of integers that holds if a condition does; None where it is not one."""
    value, holds = condition
    while isinstance(value, ir.ICMPInstr):
        left, right = value.operands
        is_truth = isinstance(left, ir.CastInstr) and left.opname == "zext" and left.operands[0].type.width == 1
        if not (is_truth and value.op in ("eq", "ne") and isinstance(right, ir.Constant) and right.constant == 0):
            return (value.op if holds else _NEGATED[value.op]), left, right
        value, holds = left.operands[0], holds == (value.op == "ne")  # a comparison's result was compared with 0
    return None
