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

Of a larger function, or one that calls itself, what it begins with may be a **guard**: where there is little to do, at
the end of a list, say, at the leaf of a tree, or where something was made before, it returns without having changed
anything. Then the guard stands in front of the call, as a construct that begins with `guarded`, which has the arguments
in locals, too; `guard` opens the part that is the function's, and not the call. Where the guard does not return, the
function is called, and looks once more; but half of the calls of a function that walks a tree, or builds one, or more
than half, are none any more.

A small function that calls itself is inlined into itself, once: a tree then has a frame for a node and its children.

Promises: no function is inlined into another that calls itself, nor more than once into itself, however indirectly;
none that makes tail calls, for these would end the caller's frame; a function does not grow beyond `MOST_INSTRUCTIONS`,
or `MOST_WHERE_OFTEN`, if it was not larger before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowheap.types import ArrayType, RefType, StructType, ValType
from lowheap.wasm import numeric
from lowheap.wasm.call_targets import CALL
from lowheap.wasm.decode import BlockType, Instruction
from lowheap.wasm.outline import ModuleOutline, index_operand

if TYPE_CHECKING:
    from lowheap.wasm.call_graph import CallGraph
    from lowheap.wasm.call_targets import CallTargets

INLINED = "inlined"
"""What opens a function in the place of a call; `inlined_operands` tells its operands."""

GUARDED = "guarded"
"""What opens a guard and a call, with the same operands."""

GUARD = "guard"
"""What opens the guard in there, of which a trap is in the function's frame."""

SMALL = 40
"""A function of so many instructions that are not cold, or fewer, is inlined in code that is called often."""

TINY = 12
"""A function of so many is inlined in a module that is compiled whole and is large."""

MOST_LOCALS = 40
"""A function of more locals, its parameters among them, is not inlined."""

MOST_INSTRUCTIONS = 1000
"""A function has no more instructions than these after something is inlined into it."""

MOST_WHERE_OFTEN = 4000
"""Nor than these, where it is optimised since it runs often: what takes longer to compile is compiled less often."""

MOST_DEPTH = 6
"""So many functions are inlined within one another at most."""

OPENING = ("block", "loop", "if", "try_table", INLINED, GUARDED, GUARD)
"""The instructions that open a construct, up to an `end`."""

_LOCALS = ("local.get", "local.set", "local.tee")
_ENDING = ("throw", "throw_ref", "unreachable")


MOST_OF_GUARD = 24
"""So many instructions has a guard at most."""

_PLAIN = frozenset(
    (
        *(f"{number}.const" for number in ("i32", "i64", "f32", "f64")),
        *("ref.null", "ref.is_null", "ref.eq", "ref.test", "ref.cast", "ref.as_non_null", "ref.i31"),
        *("i31.get_s", "i31.get_u", "select", "drop", "local.get", "global.get", "array.len"),
        *(f"{kind}.get{sign}" for kind in ("struct", "array") for sign in ("", "_s", "_u")),
        *numeric.SIGNATURES,
    )
)
"""Instructions that change nothing: run twice, they do what they do when they run once. Reads may have a barrier."""

_MAKING = frozenset(("struct.new", "struct.new_default"))
"""They change nothing either; but a guard makes nothing that it does not return with."""

_COST_OF_MAKING = 10
"""Making an object takes as much code as so many instructions."""

_COST_OF_GUESS = 8
"""Asking whether a reference is to a certain function, and the call if it is not, take so many instructions."""

_BRANCHES = ("br", "br_if", "br_on_null", "br_on_non_null")


@dataclass(frozen=True, slots=True)
class Guard:
    """What a function begins with, in two labels: it branches to the outer with the results, else to the inner."""

    instructions: tuple[Instruction, ...]

    def __len__(self) -> int:
        """Return how many instructions it takes in front of a call, with all that is around them."""
        return len(self.instructions) + _COST_OF_MAKING * sum(each.name in _MAKING for each in self.instructions) + 6


@dataclass(frozen=True, slots=True)
class Body:
    """A function's code with others in it: its instructions, and the types of the locals that were added, canonical."""

    instructions: Sequence[Instruction]
    added_locals: Sequence[ValType]


class Inliner:
    """Inlines functions of a module of up to `most` instructions that are not cold."""

    def __init__(
        self,
        outline: ModuleOutline,
        graph: CallGraph,
        most: int,
        *,
        room: int = MOST_INSTRUCTIONS,
        has_read_barrier: bool = False,
        targets: CallTargets | None = None,
    ) -> None:
        """Take the module, and the functions that calls through references are guessed to come to.

        `room`: no function gets more instructions than these.
        `has_read_barrier`: the collector does something where a reference is read, which is then not done twice.
        """
        self._outline, self._graph, self._most, self._room = outline, graph, most, room
        self._has_read_barrier, self._targets = has_read_barrier, targets
        self._imported = len(outline.imported_functions)
        self._cold: dict[int, set[int]] = {}
        self._can: dict[int, bool] = {}
        self._guards: dict[int, Guard | None] = {}

    def body(self, index: int) -> Body:
        """Return one of the module's own functions with others in it."""
        own = self._instructions(index)
        called = self._graph.called[index]
        if not any(map(self._is_of_use, called)) and (
            self._targets is None or not any(each.name == CALL for each in own)
        ):
            return Body(own, ())
        first_free = len(self._locals(index))
        first_locals: dict[int, int] = {}
        added: list[ValType] = []
        left = self._room - len(own)

        def expand(instructions: Sequence[Instruction], within: tuple[int, ...]) -> Iterator[Instruction]:
            cold = self._cold_of(within[-1])  # by number: in the place of a call there are as many
            for number, each in enumerate(instructions):
                if each.name == CALL and self._targets is None:
                    yield each._replace(operands=(*each.operands, (within[-1], number)))  # its site, which is not here
                elif number in cold:
                    yield each
                elif each.name == "call":
                    yield from place(each, index_operand(each), within)
                elif each.name == CALL and self._targets is not None:
                    yield from guess(each, self._targets.get((within[-1], number)), within)
                else:
                    yield each

        def place(call: Instruction, callee: int, within: tuple[int, ...]) -> Iterator[Instruction]:
            """Have a function in the place of a call, or its guard in front of it, or the call."""
            nonlocal left
            if self._may_inline(callee, within):
                code = self._instructions(callee)
                if len(code) > left:
                    yield call
                    return
                left -= len(code)
                types = self._locals(callee)
                if callee not in first_locals:
                    first_locals[callee] = first_free + len(added)
                    added.extend(types)
                first = first_locals[callee]
                yield Instruction(INLINED, (callee, first, len(types), callee in within), call.offset)
                yield from expand(tuple(as_block(code, first)), (*within, callee))
                return
            guard = self._guard(callee)
            if guard is None or len(guard) > left:
                yield call
            else:
                left -= len(guard)
                first = first_free + len(added)
                added.extend(self._locals(callee))
                yield from self._guarded(guard, call, callee, first)

        def guess(call: Instruction, callees: Sequence[int], within: tuple[int, ...]) -> Iterator[Instruction]:
            """Have the same for functions that a call through a reference mostly comes to, if it does."""
            useful = [each for each in callees if self._is_of_use(each)]
            if not useful or left < _COST_OF_GUESS:
                yield call
                return
            reference = first_free + len(added)
            type_index = index_operand(call)
            added.append(self._outline.canonical(RefType(True, type_index)))
            type = self._outline.function_type(type_index)
            params, results = (tuple(map(self._outline.uncanonical, each)) for each in (type.params, type.results))
            at_call = _placed_at(call)

            def choose(callees: Sequence[int]) -> Iterator[Instruction]:
                nonlocal left
                yield at_call("local.get", reference)
                if not callees or left < _COST_OF_GUESS:
                    yield call
                    return
                left -= _COST_OF_GUESS
                callee, *others = callees
                yield at_call("ref.func", callee)
                yield at_call("ref.eq")
                yield at_call("if", BlockType(params, results))
                yield from place(at_call("call", callee), callee, within)
                yield at_call("else")
                yield from choose(others)
                yield at_call("end")

            yield at_call("local.set", reference)
            yield from choose(useful)

        return Body(tuple(expand(own, (index,))), added)

    def _is_of_use(self, callee: int) -> bool:
        """Whether something of a function may be in the place of its calls."""
        return self._is_small(callee) or self._guard(callee) is not None

    def _may_inline(self, callee: int, within: tuple[int, ...]) -> bool:
        """Whether a function may be inlined where these already are, one within the other."""
        if not self._is_small(callee) or len(within) > MOST_DEPTH:
            return False
        return within == (callee,) if callee in self._graph.called[callee] else callee not in within

    def _guarded(self, guard: Guard, call: Instruction, callee: int, first: int) -> Iterator[Instruction]:
        """Yield a guard and a call, whose arguments are in locals from `first` on."""
        at_call = _placed_at(call)
        yield at_call(GUARDED, callee, first, len(self._locals(callee)))
        yield at_call(GUARD)
        yield from map(_renamed(first), guard.instructions)
        yield at_call("end")
        for number in range(len(self._outline.function_types[callee].params)):
            yield at_call("local.get", first + number)
        yield call
        yield at_call("end")

    def _guard(self, index: int) -> Guard | None:
        """The guard that a function begins with, if it has one."""
        if index < self._imported:
            return None
        if index not in self._guards:
            params = len(self._outline.function_types[index].params)
            self._guards[index] = guard_of(self._instructions(index), lambda each: self._is_plain(each, params))
        return self._guards[index]

    def _is_plain(self, instruction: Instruction, params: int) -> bool:
        """Whether an instruction changes nothing that a function with so many parameters would find changed."""
        name = instruction.name
        if name in ("local.set", "local.tee"):  # a local of its own
            return index_operand(instruction) >= params
        return name in _PLAIN and not (self._has_read_barrier and isinstance(self._read_by(instruction), RefType))

    def _read_by(self, instruction: Instruction) -> Any:
        """The type of what an instruction reads of an object or a global; None for one that reads nothing of these."""
        outline = self._outline
        if instruction.name == "global.get":
            return outline.global_types[index_operand(instruction)].storage
        if instruction.name in ("struct.get", "array.get"):
            type_index, *field = instruction.operands
            assert isinstance(type_index, int), "decoded: a type"
            composite = outline.types[outline.type_indices[type_index]].composite
            if isinstance(composite, ArrayType):
                return composite.element.storage
            assert isinstance(composite, StructType), "validated: the type of an object"
            (number,) = field
            assert isinstance(number, int), "decoded: a field"
            return composite.fields[number].storage
        return None

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
        if len(instructions) - len(cold) > self._most or 0 in cold:
            return False
        types = self._outline.function_types[index].params, self._outline.decoded.bodies[index - self._imported].locals
        return sum(map(len, types)) <= MOST_LOCALS and not any(
            each.name.startswith("return_call") for each in instructions
        )


def guard_of(instructions: Sequence[Instruction], is_plain: Callable[[Instruction], bool]) -> Guard | None:
    """Return the guard that a function begins with; None if it has none. `is_plain`: whether one changes nothing."""
    in_vain: set[int] = set()  # the numbers of those instructions that make something for more than a result
    while True:
        found = _guard_of(instructions, is_plain, in_vain)
        if not isinstance(found, frozenset):
            return found
        in_vain |= found


@dataclass(slots=True)
class _Construct:
    """A construct that is open: whether control comes to its end, or into its `else`, and what was made by then."""

    has_other_way: bool
    made_before: frozenset[int]
    is_reached: bool = False
    made: frozenset[int] = frozenset()

    def reach(self, made: frozenset[int]) -> None:
        """Note that control comes to the end."""
        self.is_reached = True
        self.made |= made


def _guard_of(
    instructions: Sequence[Instruction], is_plain: Callable[[Instruction], bool], in_vain: Set[int]
) -> Guard | frozenset[int] | None:
    """Copy what changes nothing, up to the branches out of the function; where there is anything else, give up.

    If something was made by then, return which instructions have made it.
    """
    found: list[Instruction] = []
    around: list[_Construct] = []
    is_reachable, skipped = True, 0
    made: frozenset[int] = frozenset()
    returns = gives_up = 0
    for number, each in enumerate(instructions[:-1]):
        name = each.name
        if not is_reachable:
            if name in OPENING:
                skipped += 1
            elif name == "end" and skipped:
                skipped -= 1
            elif name in ("else", "end") and not skipped:
                is_reachable = True
                if name == "else":
                    around[-1].has_other_way = False
                    made = around[-1].made_before
                else:
                    last = around.pop()
                    is_reachable = last.is_reached or last.has_other_way
                    made = last.made | (last.made_before if last.has_other_way else frozenset())
                found.append(each)
            if not is_reachable and not around:
                break
            continue
        is_full = len(found) >= MOST_OF_GUARD
        if name == "else":
            around[-1].reach(made)
            around[-1].has_other_way = False
            made = around[-1].made_before
            found.append(each)
        elif name == "end":
            last = around.pop()
            made |= last.made
            found.append(each)
        elif name in ("block", "if") and not is_full:
            around.append(_Construct(name == "if", made))
            found.append(each)
        elif name == "return":
            found.append(Instruction("br", (len(around) + 1,), each.offset))
            returns += 1
            is_reachable = False
        elif name in _BRANCHES:
            depth = index_operand(each)
            if depth < len(around):
                around[-1 - depth].reach(made)
            else:
                returns += 1
                each = each._replace(operands=(depth + 1,))
            found.append(each)
            is_reachable = name != "br"
        elif not is_full and is_plain(each):
            found.append(each)
        elif name in _MAKING and number not in in_vain and not is_full:
            found.append(each)
            made |= {number}
        elif made:
            return made
        else:
            found.append(Instruction("br", (len(around),), each.offset))
            gives_up += 1
            is_reachable = False
            skipped = int(name in OPENING)
            if not around:
                break
    if is_reachable:
        found.append(Instruction("br", (1,), instructions[-1].offset))
        returns += 1
    return Guard(tuple(found)) if returns and gives_up else None


def _placed_at(call: Instruction) -> Callable[..., Instruction]:
    """Return what makes an instruction, of a name and operands, at the offset of a call."""
    return lambda name, *operands: Instruction(name, operands, call.offset)


def _renamed(first_local: int) -> Callable[[Instruction], Instruction]:
    """Return what has an instruction use locals from another index on."""

    def rename(each: Instruction) -> Instruction:
        return each._replace(operands=(first_local + index_operand(each),)) if each.name in _LOCALS else each

    return rename


def inlined_operands(instruction: Instruction) -> tuple[int, int, int]:
    """Return the operands of `INLINED` and `GUARDED`: the index of a function, the first local, and how many."""
    index, first, count, *_ = instruction.operands
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
    rename = _renamed(first_local)
    for each in instructions:
        if each.name in OPENING:
            depth += 1
        elif each.name == "end":
            depth -= 1
        yield Instruction("br", (depth,), each.offset) if each.name == "return" else rename(each)
