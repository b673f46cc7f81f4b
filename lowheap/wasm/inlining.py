"""Small functions in the place of their calls, before anything is emitted.

LLVM inlines, too, but what lowheap knows of a function it knows before that: how long a reference is held that was
read, which the collector may ask; which code runs seldom; whether there is a stack check, and a poll. A function that
is compiled in the place of a call is part of the caller for all of these. So getters and setters, and what is no more
than a few tests, cost what their instructions cost.

The function becomes a construct that begins with `inlined`, an instruction that there is in no binary, at the offset of
the call, and ends with the function's own `end`. It takes its arguments off the stack and puts them in locals of its
own; its label is what the function's was. Its instructions keep their offsets, which tell where a trap was, and the
caller's frame in a backtrace is made of the call's (`function.py`).

What ends in a throw or a trap runs once at most, so it is **cold**: it counts for nothing in a function's size, and
calls there are left alone.

Promises: no function is inlined into itself, however indirectly; none that calls itself, or makes tail calls, for these
would end the caller's frame; a function does not grow beyond `MOST_INSTRUCTIONS`, if it was not larger before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowheap.types import ValType
from lowheap.wasm.decode import Instruction
from lowheap.wasm.outline import ModuleOutline, index_operand

if TYPE_CHECKING:
    from lowheap.wasm.call_graph import CallGraph

INLINED = "inlined"
"""What opens a function in the place of a call; `inlined_operands` tells its operands."""

SMALL = 40
"""A function of so many instructions that are not cold, or fewer, is inlined in code that is called often."""

TINY = 12
"""A function of so many is inlined in a module that is compiled whole and is large."""

MOST_LOCALS = 40
"""A function of more locals, its parameters among them, is not inlined."""

MOST_INSTRUCTIONS = 400
"""A function has no more instructions than these after something is inlined into it."""

MOST_DEPTH = 6
"""So many functions are inlined within one another at most."""

OPENING = ("block", "loop", "if", "try_table", INLINED)
"""The instructions that open a construct, up to an `end`."""

_LOCALS = ("local.get", "local.set", "local.tee")
_ENDING = ("throw", "throw_ref", "unreachable")


@dataclass(frozen=True, slots=True)
class Body:
    """A function's code with others in it: its instructions, and the types of the locals that were added, canonical."""

    instructions: Sequence[Instruction]
    added_locals: Sequence[ValType]


class Inliner:
    """Inlines functions of a module of up to `most` instructions that are not cold."""

    def __init__(self, outline: ModuleOutline, graph: CallGraph, most: int) -> None:
        """Take the module."""
        self._outline, self._graph, self._most = outline, graph, most
        self._imported = len(outline.imported_functions)
        self._cold: dict[int, set[int]] = {}
        self._can: dict[int, bool] = {}

    def body(self, index: int) -> Body:
        """Return one of the module's own functions with others in it."""
        own = self._instructions(index)
        if not any(self._is_small(each) for each in self._graph.called[index]):
            return Body(own, ())
        first_free = len(self._locals(index))
        first_locals: dict[int, int] = {}
        added: list[ValType] = []
        left = MOST_INSTRUCTIONS - len(own)

        def expand(instructions: Sequence[Instruction], within: tuple[int, ...]) -> Iterator[Instruction]:
            nonlocal left
            cold = self._cold_of(within[-1])  # by number: in the place of a call there are as many
            for number, each in enumerate(instructions):
                callee = index_operand(each) if each.name == "call" else -1
                if callee in within or number in cold or not self._is_small(callee) or len(within) > MOST_DEPTH:
                    yield each
                    continue
                code = self._instructions(callee)
                if len(code) > left:
                    yield each
                    continue
                left -= len(code)
                types = self._locals(callee)
                if callee not in first_locals:
                    first_locals[callee] = first_free + len(added)
                    added.extend(types)
                first = first_locals[callee]
                yield Instruction(INLINED, (callee, first, len(types)), each.offset)
                yield from expand(tuple(as_block(code, first)), (*within, callee))

        return Body(tuple(expand(own, (index,))), added)

    def _instructions(self, index: int) -> Sequence[Instruction]:
        return self._outline.decoded.bodies[index - self._imported].instructions

    def _cold_of(self, index: int) -> set[int]:
        """The instructions of a function that are cold."""
        if index not in self._cold:
            self._cold[index] = cold_instructions(self._instructions(index))
        return self._cold[index]

    def _locals(self, index: int) -> list[ValType]:
        """The types of a function's locals, canonical."""
        outline = self._outline
        own = outline.decoded.bodies[index - self._imported].locals
        return [*outline.function_types[index].params, *map(outline.canonical, own)]

    def _is_small(self, index: int) -> bool:
        """Whether a function may be inlined."""
        if index < self._imported:
            return False
        found = self._can.get(index)
        if found is None:
            found = self._can[index] = self._look_at(index)
        return found

    def _look_at(self, index: int) -> bool:
        instructions = self._instructions(index)
        cold = self._cold_of(index)
        if len(instructions) - len(cold) > self._most or 0 in cold or index in self._graph.called[index]:
            return False
        types = self._outline.function_types[index].params, self._outline.decoded.bodies[index - self._imported].locals
        return sum(map(len, types)) <= MOST_LOCALS and not any(
            each.name.startswith("return_call") for each in instructions
        )


def inlined_operands(instruction: Instruction) -> tuple[int, int, int]:
    """Return the operands of `INLINED`: the index of the function, its first local, and how many it has."""
    index, first, count = instruction.operands
    assert isinstance(index, int), "a function"
    assert isinstance(first, int), "a local"
    assert isinstance(count, int), "a number"
    return index, first, count


def cold_instructions(instructions: Sequence[Instruction]) -> set[int]:
    """Return which instructions, by their numbers, certainly come to a throw or a trap, with no branch in between."""
    cold: set[int] = set()
    start = 0
    for number, each in enumerate(instructions):
        name = each.name
        if name in _ENDING:
            cold.update(range(start, number + 1))
        elif name in OPENING or name in ("else", "end", "return") or name.startswith("br"):
            start = number + 1
    return cold


def as_block(instructions: Iterable[Instruction], first_local: int) -> Iterator[Instruction]:
    """Yield the code of a function as that of a block with its results, and with locals from another index on."""
    depth = 0
    for each in instructions:
        if each.name in OPENING:
            depth += 1
        elif each.name == "end":
            depth -= 1
        if each.name == "return":
            yield Instruction("br", (depth,), each.offset)
        elif each.name in _LOCALS:
            yield each._replace(operands=(first_local + index_operand(each),))
        else:
            yield each
