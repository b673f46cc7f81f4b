"""Which functions of a module call which, and what follows: what each may come to, and how it is called.

This looks at the whole module once; what is compiled may be a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lowheap.jit.conventions import PRIVATE, SHARED, Convention, wide
from lowheap.jit.signatures import Signature
from lowheap.types import FuncType
from lowheap.wasm.outline import ModuleOutline, index_operand

_MOST_CALLS = 10_000
"""So many calls of functions that do not poll may come between two polls: a moment's work."""


class Facts(Protocol):
    """What an instruction may come to: `function.Facts`."""

    @property
    def allocates(self) -> bool:
        """Whether it may make an object, and so collect."""

    @property
    def leaves(self) -> bool:
        """Whether it may come to code that is not this module's."""

    @property
    def throws(self) -> bool:
        """Whether it throws an exception."""


class CallGraph:
    """The module's own functions, by their indices.

    `called` are those that each calls directly, as often as it does. `collecting` are those that may collect,
    `throwing` those that an exception may come out of, which may collect, too, `polling` those that poll at their
    beginning. `conventions` are how each is called, `tail_convention` is how tail calls are made.
    """

    def __init__(self, outline: ModuleOutline, facts: Mapping[str, Facts], *, interruptible: bool) -> None:
        """Look at all functions of a module. `facts` are those of instructions that do more than compute."""
        self.tail_convention, self.conventions = _choose_conventions(outline)
        self.called, leaving, allocating, throwing = _scan(outline, facts)
        self.collecting = _callers_of(self.called, leaving | allocating | throwing)
        self.throwing = _callers_of(self.called, leaving | throwing)
        self.polling = _breaking_calls(self.called, leaving) if interruptible else set()


def _choose_conventions(outline: ModuleOutline) -> tuple[Convention, dict[int, Convention]]:
    """Return how tail calls are made, and how each of the module's own functions is called."""
    imported = len(outline.imported_functions)
    callers_and_callees: set[int] = set()
    types: list[FuncType] = []
    for index, body in enumerate(outline.decoded.bodies, imported):
        for instruction in body.instructions:
            if instruction.name.startswith("return_call"):
                callers_and_callees.add(index)
                type = outline.called_type(instruction)
                assert type is not None, "a tail call is a call"
                types += (outline.function_types[index], type)
                if instruction.name == "return_call" and index_operand(instruction) >= imported:
                    callers_and_callees.add(index_operand(instruction))
    tails = wide(Signature.of(type, outline.types) for type in dict.fromkeys(types))
    escaping = set(outline.escaping_functions)
    return tails, {
        index: tails if index in callers_and_callees else SHARED if index in escaping else PRIVATE
        for index in range(imported, len(outline.function_types))
    }


def _scan(
    outline: ModuleOutline, facts_of: Mapping[str, Facts]
) -> tuple[dict[int, list[int]], set[int], set[int], set[int]]:
    """What the module's own functions do: which of one another they call; which leave the module, allocate, throw."""
    imported = len(outline.imported_functions)
    calls: dict[int, list[int]] = {}
    leaving: set[int] = set()
    allocating: set[int] = set()
    throwing: set[int] = set()
    for index, body in enumerate(outline.decoded.bodies, imported):
        calls[index] = called = []
        for instruction in body.instructions:
            if instruction.name in ("call", "return_call"):
                callee = index_operand(instruction)
                if callee < imported:
                    leaving.add(index)
                else:
                    called.append(callee)
            elif (facts := facts_of.get(instruction.name)) is not None:
                if facts.leaves:
                    leaving.add(index)
                if facts.allocates:
                    allocating.add(index)
                if facts.throws:
                    throwing.add(index)
    return calls, leaving, allocating, throwing


def _callers_of(calls: dict[int, list[int]], found: set[int]) -> set[int]:
    """Return some functions, those that call one of them, and so on. `calls` are every function's."""
    callers: dict[int, list[int]] = {}
    for index, called in calls.items():
        for callee in called:
            callers.setdefault(callee, []).append(index)
    reached: set[int] = set()
    pending = list(found)
    while pending:
        index = pending.pop()
        if index not in reached:
            reached.add(index)
            pending += callers.get(index, ())
    return reached


def _breaking_calls(calls: dict[int, list[int]], leaving: set[int]) -> set[int]:
    """Choose functions so that, if these poll, no more than `_MOST_CALLS` calls are made of others between two polls.

    One is chosen in each cycle of calls; all that leave the module, for nobody knows what they come to; and those that
    would make too many calls without a cycle: each of 64 functions that calls the next one twice, say.
    """
    chosen = set(leaving)
    counts: dict[int, int] = {}  # how many calls a function comes to before a poll, once all that it calls are known
    for start in calls:
        path = [(start, iter(calls[start]))] if start not in counts else []
        on_path = {start}
        while path:
            index, rest = path[-1]
            for callee in rest:
                if callee in on_path:
                    chosen.add(callee)
                elif callee not in counts:
                    path.append((callee, iter(calls[callee])))
                    on_path.add(callee)
                    break
            else:
                path.pop()
                on_path.discard(index)
                counts[index] = sum(1 + (0 if each in chosen else counts[each]) for each in calls[index])
                if counts[index] > _MOST_CALLS:
                    chosen.add(index)
    return chosen
