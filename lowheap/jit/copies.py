"""Copies of values that a block adds to very often, so that LLVM's register coalescer stays linear.

On x86-64 an addition whose operand lives on becomes an `lea`, with a copy of the operand into a register class for
addresses. The coalescer joins each of these copies with the value, and goes through all uses of the value each time:
where one value is the operand of n additions, that is n * n steps. Here, in LLVM's printed text of an optimised module,
each `RUN` additions to one value in one block get a copy of it that LLVM cannot see through: one instruction in `RUN`.
All are copies of the value itself, which lives beside them: a copy of a copy would be joined with that, and the run be
as long as before.

Code without so long a block is returned as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

RUN = 256
"""So many additions to one value in a block share a copy."""

_PREFIX = "%lowheap.copy."
_ADDITION = re.compile(r'( +%(?:"[^"]*"|[-\w$.]+) = add (?:nuw |nsw )*(i32|i64) )(%(?:"[^"]*"|[-\w$.]+))(, .*)$')


def spread_additions(body: Sequence[str]) -> Sequence[str]:
    """Return the lines of a function's body, up to its closing brace, with copies where a block has too many additions.

    The body must have none of these copies yet.
    """
    if len(body) <= RUN:
        return body
    output: list[str] = []
    counts: dict[str, int] = {}
    copies: dict[str, str] = {}
    number = 0
    for line in body:
        if line[:1] != " ":  # a label: another block; or an empty line
            counts.clear()
            copies.clear()
        elif " = add " in line and (found := _ADDITION.match(line)):
            start, type, value, rest = found.groups()
            count = counts[value] = counts.get(value, 0) + 1
            if count % RUN == 0:
                copy = f"{_PREFIX}{number}"
                number += 1
                output.append(f'  {copy} = call {type} asm "", "=r,0"({type} {value})')
                copies[value] = copy
            if value in copies:
                line = f"{start}{copies[value]}{rest}"
        output.append(line)
    return output
