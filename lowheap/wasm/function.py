"""From the instructions of one function to LLVM IR: the operand stack, locals, and control.

Each function becomes one LLVM function in SSA form, built in one pass over its instructions: the operand stack and the
locals hold SSA values at compile time, and where control joins, phis are made for what differs. A branch to a block's
end leaves an edge (where from, which values, which locals); the block's `end` turns its edges into phis. A loop's
header gets a phi for each of its parameters and for each local that is set inside, which a scan beforehand has found.

Where something may be thrown inside of a `try_table`, an edge leads to its handler, with the locals as they are there:
from a `throw`, or from a landing pad of a call's. The handler is behind the construct's end, where its clauses mean
what is outside. It goes through them, and hands on what none of them catches: to the next handler of the function, or
to the callers. What the locals are would be a lot to bring, where there are many of them and many calls: then numbers
are kept in the frame, too, and read there.

A small loop that turns out to count (`counted_loops.py`) is compiled a second time. The first has no polls, and is for
when it ends soon; the second has.

References are i32 values like any other, but remembered as such: when the function is complete, the liveness pass of
`jit/safepoints.py` finds out which of them live across which call. What a validator guarantees is relied on here; code
that cannot be reached is skipped.

What an instruction does is in `instructions/`, a file a family: a function under `instruction`, which says along what
the compiler has to know of it before it compiles anything (`Facts`). Control is here.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from lowheap.errors import TrapCode
from lowheap.jit import safepoints, transitions
from lowheap.jit.conventions import SHARED, Convention
from lowheap.jit.debug_locations import DebugScopes
from lowheap.jit.emit import (
    I1,
    I32,
    REFERENCE,
    VOID,
    Emitter,
    VolatileLoad,
    begin_handler,
    llvm_type,
)
from lowheap.jit.signatures import Signature
from lowheap.layout import (
    NULL,
    VALUE_SLOT_SIZE,
    VMStoreContext,
)
from lowheap.types import (
    AbstractHeapType,
    FuncType,
    RefType,
    ValType,
)
from lowheap.wasm import numeric
from lowheap.wasm.call_targets import Site
from lowheap.wasm.call_votes import CANDIDATES
from lowheap.wasm.context import ModuleContext
from lowheap.wasm.counted_loops import MOST_TWICE, Condition, Counting, ends_soon, find_counting, short_loops
from lowheap.wasm.decode import (
    BlockType,
    Catch,
    Instruction,
)
from lowheap.wasm.events import (
    EventFunctions,
    Static,
    zero,
)
from lowheap.wasm.fuel import Exempt, FuelMeter
from lowheap.wasm.inlining import GUARD, GUARDED, INLINED, OPENING, Body, cold_instructions, inlined_operands
from lowheap.wasm.known_values import Forgotten, KnownValues
from lowheap.wasm.outline import index_operand

if TYPE_CHECKING:
    from lowheap.wasm.call_graph import CallGraph


@dataclass(slots=True)
class _Edge:
    """A way to a block's end: where from, with which results, and with which values of the locals set inside."""

    source: ir.Block
    values: list[ir.Value]
    locals: list[ir.Value]


@dataclass(slots=True)
class _Round:
    """A way on which a loop goes round: where from, at which instruction, in which calls, and what holds there."""

    source: ir.Block
    offset: ir.Value | int
    around: tuple[int, ...]
    conditions: list[Condition]


@dataclass(slots=True, eq=False)
class _Candidate:
    """What is kept of a loop that may turn out to count: the `rounds` on which it goes round, without polls as yet.

    `number` is that of the instruction that opens it, `first_block` of its first block in the function. It is entered
    through `entry`, which nothing leads to yet from `before`. `blocks` are the ids of its blocks, when it is complete.
    """

    number: int
    before: ir.Block
    first_block: int
    entry: ir.Block
    rounds: list[_Round] = field(default_factory=list)
    blocks: frozenset[int] = frozenset()

    def is_before(self, value: ir.Value) -> bool:
        """Whether a value is there before the loop, which is complete."""
        return not isinstance(value, ir.Instruction) or id(value.parent) not in self.blocks


@dataclass(slots=True, eq=False)
class _Label:
    """A control construct that is open: what a branch to it carries and where it goes.

    `assigned` are the locals that are set inside. For a loop, `target` is its header and the phis are the header's; for
    anything else, `target` is the block behind its end, whose phis are made there from the edges. A loop that
    `is_polled` has had a poll that is on every way to the branches to it that are still to come.

    A `try_table` has `catches`, and, if something is thrown inside, a `handler`, with the edges that lead there.
    `polled` says of each label around it whether it was polled when it was opened, which is what counts for a handler.

    `brought` are those of the locals that edges bring to the handler; the others are in `slots` of the frame, by their
    indices.

    `conditions` hold where code now is, if it came there since the construct began. A loop that may turn out to count
    is a `candidate`; one that is had twice goes on at `joined`.

    A function that `is_inlined` is a block.

    Of what is known (`KnownValues.newest`), `known_before` is what was when the construct began, `known_behind` what is
    known on all edges to its end, and `known_in_handler` on all those to its handler. An `else` and a handler begin
    without what was `known_at_first`; behind the construct, all that counts again if no more than the `first_edges` led
    there by then.
    """

    kind: str
    params: tuple[ValType, ...]
    results: tuple[ValType, ...]
    height: int
    assigned: list[int]
    target: ir.Block | None
    known_before: int
    value_phis: list[ir.PhiInstr] = field(default_factory=list)
    local_phis: list[ir.PhiInstr] = field(default_factory=list)
    edges: list[_Edge] = field(default_factory=list)
    otherwise: ir.Block | None = None
    is_polled: bool = False
    goes_round: bool = False
    entry_values: list[ir.Value] = field(default_factory=list)
    entry_locals: list[ir.Value] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    candidate: _Candidate | None = None
    joined: _Label | None = None
    catches: tuple[Catch, ...] = ()
    handler: ir.Block | None = None
    handler_edges: list[_Edge] = field(default_factory=list)
    brought: list[int] = field(default_factory=list)
    slots: dict[int, ir.Value] = field(default_factory=dict)
    polled: list[bool] = field(default_factory=list)
    is_inlined: bool = False
    known_behind: int = 0
    known_in_handler: int = 0
    known_at_first: list[Forgotten] = field(default_factory=list)
    first_edges: int = -1

    @property
    def arity(self) -> tuple[ValType, ...]:
        """The types of what a branch to the label carries."""
        return self.params if self.kind == "loop" else self.results


_TYPE = "type"
"""What is known of a reference."""

_MANY_VALUES = 256
"""A function of more locals and operands is not inlined, where that is left to LLVM: each activation of its caller's,
however deep, would have the frame of both.
"""

_MOST_UNPOLLED = 1 << 28
"""So many instructions of a function may run in loops that count, between two polls: mostly a tenth of a second, and
some seconds where each fetches from memory what is in no cache."""

_MOST_BROUGHT = 4_000
"""So many values of locals are brought to the handler of a `try_table` at most, from all that may throw inside. With
more, LLVM takes time that is not linear."""

_Handler = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Facts:
    """What compiles an instruction, given its operands, and what has to be known of it before.

    `allocates`: it may make an object, and so collect. `leaves`: it may come to code that is not this module's, which
    may do anything. `throws`: it throws an exception. `takes_long`: it may take more than a moment, so a loop that has
    it is not left without polls.
    """

    compile: _Handler
    allocates: bool = False
    leaves: bool = False
    takes_long: bool = False
    throws: bool = False


FACTS: dict[str, Facts] = {}
"""All instructions but those that only compute numbers of numbers (`numeric.py`), and those that open a construct."""


def instruction(
    *names: str, allocates: bool = False, leaves: bool = False, takes_long: bool = False, throws: bool = False
) -> Callable[[_Handler], _Handler]:
    """Register a function as what compiles these instructions; it gets a FunctionCompiler and the operands."""

    def register(handler: _Handler) -> _Handler:
        facts = Facts(handler, allocates, leaves, takes_long or leaves or allocates or throws, throws)
        for name in names:
            FACTS[name] = facts
        return handler

    return register


class ModuleState(ModuleContext):
    """What the compilers of a module's functions share: `ModuleCompiler` fills it in.

    `functions` are those that are compiled, by their indices, as LLVM has them. `stack_checks` are the functions that
    check the stack limit, and the offset at which they trap. Where there are `debug_scopes`, instructions get debug
    locations. Functions that are not optimised are compiled in as little time as possible.
    """

    module: ir.Module
    events: EventFunctions
    functions: dict[int, ir.Function]
    graph: CallGraph
    interruptible: bool
    consumes_fuel: bool
    canonical_nans: bool
    is_optimised: bool
    stack_checks: dict[str, int]
    debug_scopes: DebugScopes | None


class FunctionCompiler(Emitter):
    """Compiles one function; see the module's docstring."""

    def __init__(
        self,
        module: ModuleState,
        function: ir.Function,
        type: FuncType,
        locals: Sequence[ValType],
        body: Body,
        offset: int = 0,
        *,
        convention: Convention = SHARED,
        polls: bool = False,
        runs_once: bool = False,
        exempt: Exempt | None = None,
        number: int | None = None,
    ) -> None:
        """Start the function: its prologue, which may poll, and its locals. `offset` is where that is.

        `exempt` are the instructions of an initialiser that take no fuel. A function that counts how often it runs has
        its `number`, among the module's own.
        """
        super().__init__(function)
        self.context = module
        self._location = None if module.debug_scopes is None else module.debug_scopes.of_function(function)
        self._around: tuple[int, ...] = ()  # the offsets of the calls in whose place this is, the outermost first
        self._come_to(offset)
        self._sites = module.events.begin(runs_once=runs_once)
        self._loops = 0  # how many are open
        self._twice = 0  # how many loops are had twice
        self._again = False  # whether this is in a loop's second version
        self.type = type
        self.instructions = body.instructions
        self.references: list[ir.Value] = []
        self.local_types = [*type.params, *(module.canonical(t) for t in locals), *body.added_locals]
        params = convention.parameters(self, Signature.of(type, module.types))
        self._results_place = params.pop() if len(type.results) > 1 else None
        self._stack_check = self._check_stack("stack_poll" if polls else "stack_check")
        self._number = number
        self._count()
        self._most_operands = 0
        self._zeros = {each: zero(self, each) for each in dict.fromkeys(self.local_types[len(type.params) :])}
        self.locals: list[ir.Value] = [
            *(self.track(param, param_type) for param, param_type in zip(params, type.params, strict=True)),
            *(self._zeros[t] for t in self.local_types[len(type.params) :]),
        ]
        self._kept: list[_Label] = []  # the constructs that are open and have slots
        self._next = 0  # the number of the instruction that is compiled next
        self._known = KnownValues()
        self.lengths: dict[int, ir.Value] = {}  # arrays by the ids of their lengths, which stay in the function
        self.stack: list[tuple[ir.Value, ValType]] = []
        self.labels: list[_Label] = []
        self.is_reachable = True
        self.name = self._previous = ""
        self._fuel = FuelMeter(self, exempt) if module.consumes_fuel else None

    def compile(self) -> None:
        """Compile the body, and tell its safepoints what lives across them."""
        self._assigned = self._scan_assigned_locals()
        self._cold = cold_instructions(self.instructions) if self.context.is_optimised else set()
        may_count = self.context.interruptible and self.context.is_optimised
        self._short_loops = short_loops(self.instructions, self._takes_long) if may_count else set()
        self.labels.append(_Label("function", (), self.type.results, 0, [], None, 0))
        skipped = 0  # how many constructs that open in unreachable code are still open
        while self._next < len(self.instructions):
            number, instruction = self._next, self.instructions[self._next]
            self._next += 1
            name = instruction.name
            if not self.is_reachable:
                if name in OPENING:
                    skipped += 1
                    continue
                if skipped and name == "end":
                    skipped -= 1
                    continue
                if skipped or name not in ("end", "else"):
                    continue
            self._come_to(instruction.offset, name)
            self._previous, self.name = self.name, name
            if self._fuel is not None:
                self._fuel.before(number, instruction, self.stack)
            if name == INLINED:
                self._open_inlined(instruction, number)
            elif name == GUARDED:
                self._open_guarded(instruction, number)
            elif name == GUARD:
                self._open_guard(instruction, number)
            elif name in OPENING:
                block_type = instruction.operands[0]
                assert isinstance(block_type, BlockType), "decoded: block, loop and if have a block type"
                self._open(name, block_type, number, catches=instruction.operands[1:])
            elif (signature := numeric.SIGNATURES.get(name)) is not None:
                params, result = signature
                values = self.pop_many(len(params))
                self.push(numeric.lower(self, name, values, canonical_nans=self.context.canonical_nans), result)
            else:
                FACTS[name].compile(self, *instruction.operands)
            if self._fuel is not None and self.is_reachable:
                self._fuel.after(name, self.stack)
        if len(self.local_types) + self._most_operands > _MANY_VALUES:
            self.function.attributes.add("noinline")
        if self.references or self._sites.reads:
            liveness = safepoints.Liveness.of(self.function, self.references)
            self.context.events.complete(self._sites, liveness)
            safepoints.fill_from(self.function, liveness)

    def _come_to(self, offset: ir.Value | int, name: str = "") -> None:
        """Say that what is emitted now is for the instruction at a byte offset of the module."""
        self.offset = offset
        if self._location is not None and isinstance(offset, int):
            self.builder.debug_metadata = self._location(offset, self._around, name.startswith("return_call"))

    @property
    def _places(self) -> tuple[int, ...]:
        """The offsets of the calls in whose place this is, and of the instruction itself."""
        return (*self._around, self.offset) if isinstance(self.offset, int) else ()

    def _scan_assigned_locals(self) -> dict[int, list[int]]:
        """Find which locals are set inside each construct, by the number of the instruction that opens it.

        And how many instructions there may throw.
        """
        found: dict[int, list[int]] = {}
        self._throwing: dict[int, int] = {}
        open_constructs: list[tuple[int, set[int], int]] = [(-1, set(), 0)]
        throwing = 0
        for number, instruction in enumerate(self.instructions):
            name = instruction.name
            if name in OPENING:
                open_constructs.append((number, set(), throwing))
            elif name in ("local.set", "local.tee"):
                open_constructs[-1][1].add(index_operand(instruction))
            elif name == "end" and len(open_constructs) > 1:
                start, inside, before = open_constructs.pop()
                found[start] = sorted(inside)
                self._throwing[start] = throwing - before
                opened = self.instructions[start]
                if opened.name in (INLINED, GUARDED):  # whose locals are nobody else's
                    _, first, count = inlined_operands(opened)
                    inside.difference_update(range(first, first + count))
                open_constructs[-1][1].update(inside)
            elif name == "call" or ((facts := FACTS.get(name)) is not None and (facts.leaves or facts.throws)):
                throwing += 1
        return found

    def _takes_long(self, instruction: Instruction) -> bool:
        """Whether an instruction may take more than a moment: where calls lead, nobody knows, nor how much dies."""
        name, operands = instruction.name, instruction.operands
        if name == "struct.set":
            type_index, number = operands
            assert isinstance(type_index, int), "decoded: a type"
            assert isinstance(number, int), "decoded: a field"
            return isinstance(self.context.fields(type_index)[number].storage, RefType)
        if name == "array.set":
            return isinstance(self.context.element(index_operand(instruction)).storage, RefType)
        if name == "global.set":
            return isinstance(self.context.global_types[index_operand(instruction)].storage, RefType)
        facts = FACTS.get(name)
        return name == "call" or (facts is not None and facts.takes_long)

    def _check_stack(self, event: str) -> ir.CallInstr:
        """Trap when the frame is beyond the stack limit; what a large one has below, `jit/large_frames.py` counts."""
        function = self.context.events.function(event, VOID, [], ())
        self.context.stack_checks[self.function.name] = self.offset
        # Where code is to be made soon, the function that is called looks at its own frame, a little below this one.
        attribute = "noinline" if event == "stack_check" and not self.context.is_optimised else "alwaysinline"
        with self.event("stack check"):
            return self.builder.call(function, [self.vmctx, self.offset_value()], attrs=(attribute,))

    @functools.cached_property
    def _most_slots(self) -> int:
        """How many slots the values of the function's calls take at most."""
        types = map(self.context.called_type, self.instructions)
        return max((Signature.of(type, self.context.types).slot_count for type in types if type is not None), default=0)

    @functools.cached_property
    def results_buffer(self) -> ir.Value:
        """The address of the frame's one buffer for several results, which are read at once after each call."""
        return self.stack_buffer(self._most_slots * VALUE_SLOT_SIZE, VALUE_SLOT_SIZE)

    # ------------------------------------------------------------------------------------------------------------------
    # The operand stack

    def push(self, value: ir.Value, type: ValType) -> None:
        """Push a value; a traced reference is remembered for the safepoints."""
        if isinstance(type, RefType):
            self.track(value, type)
        stack = self.stack
        stack.append((value, type))
        if len(stack) > self._most_operands:
            self._most_operands = len(stack)

    def pop(self) -> ir.Value:
        """Pop a value."""
        return self.stack.pop()[0]

    def pop_many(self, count: int) -> list[ir.Value]:
        """Pop `count` values, the deepest first."""
        if count == 0:
            return []
        values = [value for value, _ in self.stack[-count:]]
        del self.stack[-count:]
        return values

    def track(self, value: ir.Value, type: ValType) -> ir.Value:
        """Return a value; a traced reference is remembered for the safepoints."""
        if isinstance(type, RefType) and self.context.types.is_traced(type) and not isinstance(value, ir.Constant):
            self.references.append(value)
        return value

    def call_event(
        self,
        event: str,
        result: ir.Type,
        args: Sequence[ir.Value],
        *static: Static,
        mark: str | None = None,
        is_one_of_many: bool = False,
    ) -> ir.Value:
        """Call an event's function: see `events.py`. In a listing, the call is marked as what it is for."""
        with self.event(mark) if mark is not None and self._marks is not None else nullcontext():
            return self.context.events.call(
                self,
                self._sites,
                event,
                result,
                args,
                static,
                in_loop=self._loops > 0,
                again=self._again,
                is_one_of_many=is_one_of_many,
                is_cold=self._next - 1 in self._cold,
                around=self._around,
            )

    # ------------------------------------------------------------------------------------------------------------------
    # What is known

    def known(self, what: Hashable, owner: ir.Value, read: Callable[[], ir.Value]) -> ir.Value:
        """Return what was read before of an object, of which this cannot change; else `read` it."""
        found: ir.Value | None = self._known.get((what, id(owner)))
        if found is None:
            found = read()
            self.note(what, owner, found)
        return found

    def note(self, what: Hashable, owner: ir.Value, value: Any) -> None:
        """Note what is known of an object from here on. Where code is to be made soon, nothing is."""
        if self.context.is_optimised and isinstance(owner, ir.Instruction | ir.Argument):
            self._known.put((what, id(owner)), value)

    def note_type(self, reference: ir.Value, type: RefType) -> None:
        """Note that a reference is of a type from here on."""
        self.note(_TYPE, reference, type)

    def known_type(self, reference: ir.Value, type: ValType) -> RefType:
        """Return the type that a reference of a static type is known to be of: that, or one that tells more."""
        assert isinstance(type, RefType), "validated: a reference"
        known: RefType | None = self._known.get((_TYPE, id(reference)))
        if known is None or not self.context.types.is_subtype(known.heap_type, type.heap_type):
            return type
        return RefType(known.nullable and type.nullable, known.heap_type)

    # ------------------------------------------------------------------------------------------------------------------
    # Control

    def _open(
        self,
        kind: str,
        block_type: BlockType,
        number: int,
        joined: _Label | None = None,
        catches: tuple[Any, ...] = (),
    ) -> None:
        """Open a construct, at the instruction with this number. A loop's second version goes on at `joined`.

        `catches` are what a `try_table` has behind its block type.
        """
        condition = self.truth(self.pop()) if kind == "if" else None
        assigned = self._assigned[number]
        params = tuple(self.context.canonical(t) for t in block_type.params)
        results = tuple(self.context.canonical(t) for t in block_type.results)
        values = self.pop_many(len(params))
        label = self._new_label(kind, params, results, number, self.function.append_basic_block(kind))
        if catches:
            (label.catches,) = catches
            label.polled = [each.is_polled for each in self.labels]
            self._keep_locals(label, number)
        self.labels.append(label)
        if kind == "loop":
            self._loops += 1
            label.joined = joined
            self._again = joined is not None
            if joined is None and number in self._short_loops and self._twice < MOST_TWICE:
                self._prepare_to_count(label, values, number)
            before = self.builder.block
            self.builder.branch(label.target)
            self.builder.position_at_end(label.target)
            label.value_phis = [self._phi(t, [(value, before)]) for value, t in zip(values, params, strict=True)]
            label.local_phis = [self._phi(self.local_types[i], [(self.locals[i], before)]) for i in assigned]
            self._set_locals(assigned, label.local_phis)
            values = list(label.value_phis)
            if self._fuel is not None:
                self._fuel.check()
        elif condition is not None:
            label.entry_values = values
            label.entry_locals = self._get_locals(assigned)
            label.otherwise = self.function.append_basic_block("else")
            then = self.function.append_basic_block("then")
            self.builder.cbranch(condition, then, label.otherwise)
            self.builder.position_at_end(then)
            label.conditions = [(condition, True)]
        self.push_all(values, params)

    def _new_label(
        self,
        kind: str,
        params: tuple[ValType, ...],
        results: tuple[ValType, ...],
        number: int,
        target: ir.Block,
        *,
        is_inlined: bool = False,
    ) -> _Label:
        """Make the label of a construct that begins here, by the instruction with this number."""
        height, known = len(self.stack), self._known.newest
        return _Label(kind, params, results, height, self._assigned[number], target, known, is_inlined=is_inlined)

    def _open_inlined(self, instruction: Instruction, number: int) -> None:
        """Open a function in the place of a call: a block, which has its arguments in locals."""
        index, first, count = inlined_operands(instruction)
        is_within_itself = instruction.operands[3]
        polls = not is_within_itself and self.comes_to_poll(index)  # where it calls itself, it polls
        type = self.context.function_types[index]
        arguments = self.pop_many(len(type.params))
        target = self.function.append_basic_block(INLINED)
        self.labels.append(self._new_label("block", (), type.results, number, target, is_inlined=True))
        self._around += (instruction.offset,)
        self._enter(arguments, first, count)
        if polls:
            self._poll()

    def _enter(self, arguments: Sequence[ir.Value], first: int, count: int) -> None:
        """Give the locals of a function in the place of a call their first values."""
        for local in range(first, first + count):
            self.locals[local] = self._zeros[self.local_types[local]]
        for local, value in enumerate(arguments, first):
            self.set_local(local, value)

    def _open_guarded(self, instruction: Instruction, number: int) -> None:
        """Open a guard in front of a call: a block with its result, which has its arguments in locals."""
        index, first, count = inlined_operands(instruction)
        type = self.context.function_types[index]
        arguments = self.pop_many(len(type.params))
        target = self.function.append_basic_block(GUARDED)
        self.labels.append(self._new_label("block", (), type.results, number, target))
        self._enter(arguments, first, count)

    def _open_guard(self, instruction: Instruction, number: int) -> None:
        """Open the guard in there: a block, of which what is to run is the function's, in the place of the call."""
        target = self.function.append_basic_block(GUARD)
        self.labels.append(self._new_label("block", (), (), number, target, is_inlined=True))
        self._around += (instruction.offset,)

    @instruction("else")
    def _else(self) -> None:
        label = self.labels[-1]
        if self.is_reachable:
            self.branch(0, self.pop_many(len(label.results)))
        self._start_otherwise(label)

    def _start_otherwise(self, label: _Label) -> None:
        """Go on in the else branch of an if, with everything as it was before the if."""
        self.builder.position_at_end(label.otherwise)
        self._put_aside(label, label.known_before)
        label.otherwise = None
        label.conditions = [(label.conditions[0][0], False)]
        self.is_reachable = True
        del self.stack[label.height :]
        self.push_all(label.entry_values, label.params)
        self._set_locals(label.assigned, label.entry_locals)

    def _put_aside(self, label: _Label, newest: int) -> None:
        """Forget all but what was known when `newest` was that, until it is known what leads behind a construct."""
        label.known_at_first = self._known.forget_after(newest)
        label.first_edges = len(label.edges)

    @instruction("end")
    def _end(self) -> None:
        label = self.labels[-1]
        if label.kind == "function":
            if self.is_reachable:
                self.return_values(self.pop_many(len(label.results)))
            self.labels.pop()
            return
        if label.kind == "loop":
            self._end_loop(label)
            return
        falls_through = self.is_reachable
        if falls_through:
            self.branch(0, self.pop_many(len(label.results)))
        if label.otherwise is not None:  # an if without an else: parameters are its results
            self._start_otherwise(label)
            self.branch(0, self.pop_many(len(label.results)))
            falls_through = True
        self.labels.pop()
        if label.is_inlined:
            self._around = self._around[:-1]
        if label.slots:
            self._kept.remove(label)
        if label.handler is not None:
            self._put_aside(label, label.known_in_handler)
            self._handle(label)
        if falls_through and len(label.edges) == 1:  # the only way on: one way of an if leads out of a loop, say
            self.labels[-1].conditions += label.conditions
        self._join_edges(label)

    def _join_edges(self, label: _Label) -> None:
        """Go on behind a construct."""
        self.builder.position_at_end(label.target)
        del self.stack[label.height :]
        if not label.edges:
            self.builder.unreachable()
            self.is_reachable = False
            return
        self._known.forget_after(label.known_behind)
        if len(label.edges) == label.first_edges:
            self._known.recall(label.known_at_first, label.known_behind)
        self.is_reachable = True
        values = [
            self._join(t, [(edge.values[number], edge.source) for edge in label.edges])
            for number, t in enumerate(label.results)
        ]
        locals = self._join_locals(label.assigned, label.edges)
        self.push_all(values, label.results)
        self._set_locals(label.assigned, locals)

    def _join_locals(self, indices: Sequence[int], edges: Sequence[_Edge]) -> list[ir.Value]:
        """The locals that these edges bring, where they meet."""
        return [
            self._join(self.local_types[index], [(edge.locals[number], edge.source) for edge in edges])
            for number, index in enumerate(indices)
        ]

    # ------------------------------------------------------------------------------------------------------------------
    # Exceptions

    def _innermost_try(self) -> _Label | None:
        """The construct that is asked first about what is thrown here; None where it goes to the callers."""
        return next((label for label in reversed(self.labels) if label.catches), None)

    def _lead_to_handler(self, label: _Label) -> None:
        """Leave the current block for a construct's handler: the exception is in the store context."""
        if label.handler is None:
            label.handler = self.function.append_basic_block("handler")
            label.known_in_handler = self._known.newest  # the first edge's, and so the least
        label.handler_edges.append(_Edge(self.builder.block, [], self._get_locals(label.brought)))
        self.builder.branch(label.handler)

    def _keep_locals(self, label: _Label, number: int) -> None:
        """Decide which locals edges bring to the handler of a construct that the instruction of this number opens.

        References are always brought: so it is known at each call that they live.
        """
        numbers = [index for index in label.assigned if not isinstance(self.local_types[index], RefType)]
        if len(numbers) * self._throwing[number] <= _MOST_BROUGHT:
            label.brought = label.assigned
            return
        label.brought = [index for index in label.assigned if index not in numbers]
        for index in numbers:
            with self._in_frame():
                label.slots[index] = self.builder.alloca(llvm_type(self.local_types[index]))
            self.builder.store(self.locals[index], label.slots[index])
        self._kept.append(label)

    def set_local(self, index: int, value: ir.Value) -> None:
        """Give a local another value."""
        self.locals[index] = self.track(value, self.local_types[index])
        for label in self._kept:
            if index in label.slots:
                self.builder.store(value, label.slots[index])

    def throw(self, exception: ir.Value) -> None:
        """Throw an exception; code behind is unreachable."""
        self.store(exception, self.store_context, VMStoreContext.exception)
        self._throw_on()

    def _throw_on(self) -> None:
        """Throw what is in the store context."""
        self.is_reachable = False
        label = self._innermost_try()
        if label is not None:
            self._lead_to_handler(label)
            return
        with self.event("safepoint"):
            transitions.throw(self, places=self._places)

    def _handle(self, label: _Label) -> None:
        """Ask the clauses of a construct that has just been closed, in order, about what was thrown inside."""
        self.builder.position_at_end(label.handler)
        del self.stack[label.height :]
        self._set_locals(label.brought, self._join_locals(label.brought, label.handler_edges))
        for index, slot in label.slots.items():
            # Volatile, or LLVM would have no slot, but bring the value.
            self.locals[index] = VolatileLoad(self.builder.block, slot, typ=llvm_type(self.local_types[index]))
            self.builder._insert(self.locals[index])
        type = RefType(False, AbstractHeapType.EXN)
        exception = self.track(self.load(self.store_context, VMStoreContext.exception), type)
        for clause in label.catches:
            following = None
            if clause.tag is not None:
                matches = self.call_event("exn_has_tag", I1, [exception], clause.tag)
                caught, following = self.function.append_basic_block("catch"), self.function.append_basic_block()
                self.builder.cbranch(matches, caught, following)
                self.builder.position_at_end(caught)
            self._catch(label, clause, exception)
            if following is None:
                return
            self.builder.position_at_end(following)
        self._throw_on()

    def _catch(self, label: _Label, clause: Catch, exception: ir.Value) -> None:
        """Take an exception, and leave for the label that a clause names."""
        self.store(NULL, self.store_context, VMStoreContext.exception)
        values = []
        if clause.tag is not None:
            fields = self.context.function_type(self.context.tags[clause.tag]).params
            for number, field_type in enumerate(fields):
                mark = "read" if isinstance(field_type, RefType) else None
                args = [exception]
                value = self.call_event("exn_get", llvm_type(field_type), args, clause.tag, number, mark=mark)
                values.append(self.track(value, field_type))
        if clause.kind.endswith("_ref"):
            values.append(exception)
        target = len(self.labels) - 1 - clause.label
        was_polled = self.labels[target].is_polled
        self.labels[target].is_polled = label.polled[target]
        self.branch(clause.label, values)
        self.labels[target].is_polled = was_polled

    # A loop's end is no label; what fell through goes on. If it is had twice, it goes on where both meet.

    def _end_loop(self, label: _Label) -> None:
        self._loops -= 1
        self._again = False
        self.labels.pop()
        candidate = label.candidate
        counting = None if candidate is None else self._find_counting(label, candidate)
        if counting is not None:
            target = self.function.append_basic_block("loop_end")
            label.joined = _Label("block", (), label.results, label.height, label.assigned, target, label.known_before)
        if label.joined is not None:
            if self.is_reachable:
                self._leave_for(label.joined, self.pop_many(len(label.results)))
                self.builder.branch(label.joined.target)
            if candidate is None or counting is None:
                self._join_edges(label.joined)
            else:
                self._begin_second(label, candidate, counting)

    def _prepare_to_count(self, label: _Label, values: list[ir.Value], number: int) -> None:
        """Before a loop that may turn out to count, leave a place to decide that it does."""
        label.entry_values, label.entry_locals = values, self._get_locals(label.assigned)
        first_block = len(self.function.blocks) - 1  # the header
        entry = self.function.append_basic_block("loop_entry")
        label.candidate = _Candidate(number, self.builder.block, first_block, entry)
        self.builder.position_at_end(entry)

    def _find_counting(self, label: _Label, candidate: _Candidate) -> Counting | None:
        """How a loop counts, now that it is complete. If it does not, or has polled, it is entered as any other is."""
        candidate.blocks = frozenset(map(id, self.function.blocks[candidate.first_block :]))

        def is_fixed(value: ir.Value) -> bool:
            array = self._length_of(value)
            return candidate.is_before(value) or (array is not None and candidate.is_before(array))

        conditions = [each.conditions for each in candidate.rounds]
        counting = find_counting((*label.value_phis, *label.local_phis), conditions, is_fixed)
        if counting is None:
            block, offset, around = self.builder.block, self.offset, self._around
            for each in candidate.rounds:
                self.builder.position_before(each.source.terminator)
                self._around = each.around
                self._come_to(each.offset)
                self._poll()
            self.builder.position_at_end(candidate.before)
            self.builder.branch(candidate.entry)
            self.builder.position_at_end(block)
            self._around = around
            self._come_to(offset)
        return counting

    def _length_of(self, value: ir.Value) -> ir.Value | None:
        """The array that a value is the length of."""
        return self.lengths.get(id(value))

    def _begin_second(self, label: _Label, candidate: _Candidate, counting: Counting) -> None:
        """Have a loop that counts a second time, with polls, for when it does not end soon."""
        second = self.function.append_basic_block("long_loop")
        self.builder.position_at_end(candidate.before)
        self._twice += 1
        limit, array = counting.limit, self._length_of(counting.limit)
        # A length that was read before is not read again: the array may live no longer.
        if array is not None and not candidate.is_before(limit):
            is_array = self.function.append_basic_block()
            self.builder.cbranch(self.is_null(array), second, is_array)
            self.builder.position_at_end(is_array)
            limit = self.call_event("array_len", I32, [array], False)
        soon = ends_soon(self.builder, counting, limit, _MOST_UNPOLLED // len(self.instructions))
        self.builder.cbranch(soon, candidate.entry, second)
        self.builder.position_at_end(second)
        self._known.forget_after(label.known_before)
        self.is_reachable = True
        del self.stack[label.height :]
        self.push_all(label.entry_values, label.params)
        self._set_locals(label.assigned, label.entry_locals)
        loop = self.instructions[candidate.number]
        (block_type,) = loop.operands
        assert isinstance(block_type, BlockType), "decoded: a loop has a block type"
        self._come_to(loop.offset)
        self._open("loop", block_type, candidate.number, label.joined)
        self.name, self._next = "loop", candidate.number + 1
        # So that there is no end of calls of this function, each with loops that end soon.
        self._stack_check.replace_callee(self.context.events.function("stack_poll", VOID, [], ()))

    def _join(self, type: ValType, incoming: list[tuple[ir.Value, ir.Block]]) -> ir.Value:
        """Return the value where edges meet: the one that all bring, or a phi."""
        first = incoming[0][0]
        if all(value is first for value, _ in incoming):
            return first
        return self._phi(type, incoming)

    def _phi(self, type: ValType, incoming: list[tuple[ir.Value, ir.Block]]) -> ir.PhiInstr:
        phi = self.builder.phi(llvm_type(type))
        for value, source in incoming:
            phi.add_incoming(value, source)
        self.track(phi, type)
        return phi

    def branch(self, depth: int, values: list[ir.Value]) -> None:
        """Leave the current block for a label; code behind is unreachable."""
        label = self.labels[-1 - depth]
        self.is_reachable = False
        if label.kind == "function":
            self.return_values(values)
            return
        self._leave_for(label, values)
        self.builder.branch(label.target)

    def _leave_for(self, label: _Label, values: list[ir.Value]) -> None:
        """Note what an edge from the current block to a label brings there. Where a loop goes round, poll first."""
        if label.kind == "loop":
            self._count()
            label.goes_round = True
            if label.is_polled:
                pass
            elif label.candidate is None:
                self._poll()
            else:
                conditions = [each for inside in self.labels[self.labels.index(label) :] for each in inside.conditions]
                label.candidate.rounds.append(_Round(self.builder.block, self.offset, self._around, conditions))
        source = self.builder.block
        locals = self._get_locals(label.assigned)
        if label.kind == "loop":
            for phi, value in zip((*label.value_phis, *label.local_phis), (*values, *locals), strict=True):
                phi.add_incoming(value, source)
        else:
            if not label.edges:
                label.known_behind = self._known.newest  # the first edge's, and so the least
            label.edges.append(_Edge(source, values, locals))

    def _loop_that_comes_here(self) -> _Label | None:
        """Return the innermost loop, if each of its rounds comes here before it goes round, or leaves; else None."""
        for label in reversed(self.labels):
            if label.kind == "loop":
                return None if label.goes_round else label
            if label.kind not in ("block", "try_table") or label.edges or label.handler_edges:
                return None
        return None

    def comes_to_poll(self, index: int) -> bool:
        """Whether a function that is called here polls; then a loop each of whose rounds comes here need not."""
        polls = index in self.context.graph.polling
        if polls and (loop := self._loop_that_comes_here()) is not None:
            loop.is_polled = True
        return polls

    def _count(self) -> None:
        """Count that the function is run, or a loop of it goes round, if it is to be counted."""
        if self._number is not None:
            function = self.context.events.function("count", VOID, [I32], ())
            attribute = "alwaysinline" if self.context.is_optimised else "noinline"
            self.builder.call(function, [self.vmctx, self.offset_value(), I32(self._number)], attrs=(attribute,))

    def note_target(self, reference: ir.Value, site: Site | None = None) -> None:
        """Note which function the call that is compiled now comes to, if that is wanted.

        `site` is where it was before anything was inlined.
        """
        if self._number is not None:
            if site is None:
                site = self._number + len(self.context.imported_functions), self._next - 1
            function = self.context.events.function("note_target", VOID, [I32, REFERENCE], ())
            first = I32(self.context.call_site(site) * CANDIDATES)
            self.builder.call(function, [self.vmctx, self.offset_value(), first, reference], attrs=("noinline",))

    def _poll(self) -> None:
        """Have a loop poll, if code is to be interruptible."""
        if self.context.interruptible:
            function = self.context.events.function("poll", VOID, [], ())
            with self.event("poll"):
                self.builder.call(function, [self.vmctx, self.offset_value()], attrs=("alwaysinline",))

    def branch_if(self, condition: ir.Value, depth: int, values: list[ir.Value]) -> None:
        """Branch to a label if an i1 holds, else go on."""
        taken, proceed = self.function.append_basic_block(), self.function.append_basic_block()
        self.builder.cbranch(condition, taken, proceed)
        self.builder.position_at_end(taken)
        label = self.labels[-1]
        label.conditions.append((condition, True))
        self.branch(depth, values)
        label.conditions[-1] = condition, False
        self.builder.position_at_end(proceed)
        self.is_reachable = True
        is_on_null = "null" in self.name or self._previous == "ref.is_null"
        if is_on_null and label.kind == "loop" and depth and not (label.is_polled or label.goes_round):
            # Behind the test, rather than before the loop goes round: that there is no next cell, say, was found out
            # when it was read, and LLVM leads from there past the test.
            self._poll()
            label.is_polled = True

    def branch_values(self, depth: int, *, beneath: int = 0) -> list[ir.Value]:
        """Return the values that a branch to a label carries, left on the stack: those under the top `beneath`."""
        count = len(self.labels[-1 - depth].arity) - beneath
        return [value for value, _ in self.stack[len(self.stack) - count :]]

    def _get_locals(self, indices: Sequence[int]) -> list[ir.Value]:
        return [self.locals[index] for index in indices]

    def _set_locals(self, indices: Sequence[int], values: Sequence[ir.Value]) -> None:
        for index, value in zip(indices, values, strict=True):
            self.locals[index] = value

    def push_all(self, values: Sequence[ir.Value], types: Sequence[ValType]) -> None:
        """Push several values, the deepest first."""
        for value, type in zip(values, types, strict=True):
            self.push(value, type)

    def truth(self, value: ir.Value) -> ir.Value:
        """Return, as an i1, whether an i32 is not zero."""
        return self.builder.icmp_unsigned("!=", value, I32(0))

    def return_values(self, values: Sequence[ir.Value]) -> None:
        """Return from the function; ends the block."""
        if self._results_place is not None:
            for slot, value in zip(Signature.of(self.type, self.context.types).result_slots, values, strict=True):
                self.store_slot(value, self._results_place, slot)
            self.builder.ret_void()
        elif values:
            self.builder.ret(values[0])
        else:
            self.builder.ret_void()

    @instruction("br")
    def _br(self, depth: int) -> None:
        self.branch(depth, self.branch_values(depth))

    @instruction("br_if")
    def _br_if(self, depth: int) -> None:
        condition = self.truth(self.pop())
        self.branch_if(condition, depth, self.branch_values(depth))

    @instruction("br_table")
    def _br_table(self, depths: Sequence[int], default: int) -> None:
        index = self.pop()
        start = self.builder.block
        targets: dict[int, ir.Block] = {}
        for depth, count in Counter((*depths, default)).items():
            label = self.labels[-1 - depth]
            if count == 1 and label.target is not None and label.kind != "loop":
                # Straight there: of a block in between for each, LLVM needs time that is quadratic in their number.
                targets[depth] = label.target
                self._leave_for(label, self.branch_values(depth))
                continue
            targets[depth] = self.function.append_basic_block("br_table")
            self.builder.position_at_end(targets[depth])
            self.branch(depth, self.branch_values(depth))
            self.builder.position_at_end(start)
        self.is_reachable = False
        self.builder.position_at_end(start)
        switch = self.builder.switch(index, targets[default])
        for number, depth in enumerate(depths):
            switch.add_case(I32(number), targets[depth])

    @instruction("return")
    def _return_instruction(self) -> None:
        self._br(len(self.labels) - 1)

    @instruction("unreachable")
    def _unreachable(self) -> None:
        self.trap(TrapCode.UNREACHABLE)
        self.is_reachable = False

    @instruction("nop")
    def _nop(self) -> None:
        """Nothing."""

    @instruction("drop")
    def _drop(self) -> None:
        self.stack.pop()

    @instruction("select")
    def _select(self, declared: ValType | None = None) -> None:
        condition = self.truth(self.pop())
        otherwise, (value, type) = self.stack.pop()[0], self.stack.pop()
        type = type if declared is None else self.context.canonical(declared)
        self.push(self.builder.select(condition, value, otherwise), type)

    # ------------------------------------------------------------------------------------------------------------------
    # For instructions of several families

    def check_not_null(self, reference: ir.Value, type: ValType) -> None:
        """Trap when a reference is null, if its static type says that it may be."""
        if _is_nullable(type):
            self.call_event("null_check", VOID, [reference], mark="trap")

    def pop_object(self) -> ir.Value:
        """Pop a reference to an object; trap when it is null."""
        reference, type = self.stack.pop()
        self.check_not_null(reference, type)
        return reference

    def pop_nullable(self) -> tuple[ir.Value, bool]:
        """Pop a reference for an event that checks it, and whether it may be null."""
        reference, type = self.stack.pop()
        return reference, _is_nullable(type)

    def call(
        self,
        callee: ir.Value,
        vmctx: ir.Value,
        type: FuncType,
        convention: Convention,
        *,
        may_collect: bool = True,
        may_throw: bool = True,
    ) -> None:
        """Call compiled code with the arguments on the stack, and push the results. A safepoint, if it may collect.

        What may throw may collect. What it throws goes to the innermost `try_table` first.
        """
        values = self.pop_many(len(type.params))
        if len(type.results) > 1:
            values.append(self.results_buffer)
        args = convention.arguments(self, Signature.of(type, self.context.types), vmctx, values)
        label = self._innermost_try() if may_throw else None
        if label is not None:
            result = self._invoke(label, callee, args)
        elif may_collect:
            with self.event("safepoint"):
                result = safepoints.call(self.builder, callee, args, places=self._places)
        else:
            result = self.builder.call(callee, args)
        if len(type.results) <= 1:
            if type.results:
                self.push(result, type.results[0])
            return
        buffer = self.results_buffer
        slots = Signature.of(type, self.context.types).result_slots
        for slot, result_type in zip(slots, type.results, strict=True):
            self.push(self.load_slot(buffer, slot, llvm_type(result_type)), result_type)

    def _invoke(self, label: _Label, callee: ir.Value, args: Sequence[ir.Value]) -> ir.Value:
        """Call what may throw, within a construct with a handler.

        Each call has a landing pad of its own: what handlers need of the locals is put in place there, and not ahead of
        the call.
        """
        pad = self.function.append_basic_block("pad")
        with self.event("safepoint"):
            result = safepoints.invoke(self.builder, callee, args, pad, places=self._places)
        behind = self.builder.block
        begin_handler(self.function, pad)
        self.builder.position_at_end(pad)
        self._lead_to_handler(label)
        self.builder.position_at_end(behind)
        return result

    def call_address(self, code: ir.Value, vmctx: ir.Value, type: FuncType) -> None:
        """Call the compiled code at an address likewise."""
        shape = SHARED.function_type(Signature.of(type, self.context.types))
        self.call(self.function_pointer(code, shape.return_type, shape.args), vmctx, type, SHARED)

    def tail_call(self, callee: ir.Value, vmctx: ir.Value, type: FuncType, *, may_collect: bool = True) -> None:
        """Call compiled code with the arguments on the stack in place of the rest of the function, whose frame is gone
        by then. No safepoint, unless LLVM inlines the function where it is called otherwise.
        """
        count = len(type.params)
        values = [value for value, _ in self.stack[len(self.stack) - count :]]
        if self._results_place is not None:
            values.append(self._results_place)
        args = self.context.graph.tail_convention.arguments(self, Signature.of(type, self.context.types), vmctx, values)
        if may_collect:
            result = safepoints.call(self.builder, callee, args, tail="musttail")
        else:
            result = self.builder.call(callee, args, tail="musttail")
        if len(type.results) == 1:
            self.builder.ret(result)
        else:
            self.builder.ret_void()
        self.is_reachable = False

    def tail_call_address(self, code: ir.Value, vmctx: ir.Value, type: FuncType, *, may_be_own: bool = True) -> None:
        """Call the compiled code at an address likewise.

        Mostly the code is of the same instance, if it `may_be_own`, and runs with the vmctx that is at hand. To ask is
        quick, and processors guess the answer: the callee need not wait for a vmctx to come from memory, nor the next
        one for what that one finds there.
        """
        shape = self.context.graph.tail_convention.function_type(Signature.of(type, self.context.types))
        callee = self.function_pointer(code, shape.return_type, shape.args)
        if may_be_own:
            own, other = self.function.append_basic_block("own"), self.function.append_basic_block("other")
            self.builder.cbranch(self.builder.icmp_unsigned("==", vmctx, self.vmctx), own, other)
            self.builder.position_at_end(own)
            self.tail_call(callee, self.vmctx, type)
            self.builder.position_at_end(other)
        self.tail_call(callee, vmctx, type)


def _is_nullable(type: ValType) -> bool:
    """Whether a reference of a static type may be null."""
    return isinstance(type, RefType) and type.nullable
