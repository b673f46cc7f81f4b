"""From decoded functions to LLVM IR.

Each function becomes one LLVM function in SSA form, built in one pass over its instructions: the operand stack and the
locals hold SSA values at compile time, and where control joins, phis are made for what differs. A branch to a block's
end leaves an edge (where from, which values, which locals); the block's `end` turns its edges into phis. A loop's
header gets a phi for each of its parameters and for each local that is set inside, which a scan beforehand has found.

A small loop that turns out to count (`counted_loops.py`) is compiled a second time. The first has no polls, and is for
when it ends soon; the second has.

References are i32 values like any other, but remembered as such: when the function is complete, the liveness pass of
`jit/safepoints.py` finds out which of them live across which call. What a validator guarantees is relied on here; code
that cannot be reached is skipped.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from lowheap.errors import TrapCode
from lowheap.jit import safepoints, transitions
from lowheap.jit.barriers import Barriers
from lowheap.jit.emit import (
    F32,
    F64,
    I1,
    I32,
    I64,
    PTR,
    REFERENCE,
    VOID,
    Emitter,
    NativeFunction,
    llvm_type,
)
from lowheap.jit.marks import MarkedModule
from lowheap.jit.signatures import Signature
from lowheap.layout import (
    I31_SHIFT,
    I31_TAG,
    NULL,
    VALUE_SLOT_SIZE,
    VMFuncRef,
    VMFunctionImport,
)
from lowheap.types import (
    AbstractHeapType,
    FuncType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    TypeRegistry,
    ValType,
)
from lowheap.wasm import numeric
from lowheap.wasm.context import ModuleContext
from lowheap.wasm.counted_loops import MOST_TWICE, Condition, Counting, ends_soon, find_counting, short_loops
from lowheap.wasm.decode import (
    BlockType,
    DecodedModule,
    Instruction,
)
from lowheap.wasm.events import (
    GLOBAL,
    IMPORTED_GLOBAL,
    MOST_INLINED,
    EventFunctions,
    Static,
    function_entry,
    type_test,
    zero,
)
from lowheap.wasm.outline import FUNCTION_TABLE, INITIALISE, index_operand

_log = logging.getLogger("lowheap.wasm")

_PROGRESS_SECONDS = 1  # between two messages in the log

INITIALISE_SIGNATURE = Signature("", "")

_MANY_VALUES = 256
"""A function of more locals and operands is not inlined, where that is left to LLVM: each activation of its caller's,
however deep, would have the frame of both.
"""

_MOST_CALLS = 10_000
"""So many calls of functions that do not poll may come between two polls: a moment's work."""

_MOST_UNPOLLED = 1 << 28
"""So many instructions of a function may run in loops that count, between two polls: mostly a tenth of a second, and
some seconds where each fetches from memory what is in no cache."""


class ModuleCompiler(ModuleContext):
    """Compiles one decoded module. `type_indices` are the engine's indices of the module's types."""

    def __init__(
        self,
        decoded: DecodedModule,
        types: TypeRegistry,
        type_indices: Sequence[int],
        barriers: Barriers,
        *,
        inline_allocation: bool,
        inline: str = "auto",
        interruptible: bool = True,
        marked: bool = False,
    ) -> None:
        """Gather what all functions of the module need to know.
        `inline_allocation`: take blocks off the size classes' lists without a call, where there is one. `inline` and
        `interruptible` are an engine's. `marked`: keep marks of what is emitted for which event, for a listing.
        """
        super().__init__(decoded, types, type_indices, barriers, inline_allocation=inline_allocation)
        self.module = (MarkedModule if marked else ir.Module)(decoded.names.module or "module")
        self.events = EventFunctions(self, self.module, inline)
        self.stack_checks: dict[str, int] = {}
        """The functions that check the stack limit, and the offset at which they trap."""
        self.functions = [
            self._declare(len(self.imported_functions) + number) for number in range(len(decoded.functions))
        ]
        self.interruptible = interruptible
        calls, leaving, allocating = self._scan_calls()
        self.collecting_functions = _callers_of(calls, leaving | allocating)
        self.polling_functions = _breaking_calls(calls, leaving) if interruptible else set()

    def compile(self, progress: Callable[[int, int], None] | None = None) -> tuple[ir.Module, tuple[str, ...]]:
        """Compile everything, and return the module with the names of its globals that linking must find.

        `progress(done, total)` is called before the first function and after each.
        """
        symbols = []
        report = _Progress(len(self.functions), progress)
        for index, (function, body) in enumerate(
            zip(self.functions, self.decoded.bodies, strict=True), len(self.imported_functions)
        ):
            FunctionCompiler(
                self,
                function,
                self.function_types[index],
                body.locals,
                body.instructions,
                body.offset,
                polls=index in self.polling_functions,
            ).compile()
            report.advance()
        entered = [Signature.of(self.function_types[index], self.types) for index in self.escaping_functions]
        if self.decoded.globals or self.decoded.start is not None:
            self._compile_initialiser()
            symbols.append(INITIALISE)
            entered.append(INITIALISE_SIGNATURE)
        elif not entered:
            entered.append(INITIALISE_SIGNATURE)  # JITLink does not link an object that has no code at all
        self.events.choose()
        transitions.define(self.module, self.barriers.allocate)
        imported = {Signature.of(type, self.types) for type in self.function_types[: len(self.imported_functions)]}
        for signature in sorted(imported, key=lambda each: each.host_stub):
            transitions.define_host_stub(self.module, signature)
            symbols.append(signature.host_stub)
        defined = [index for index in self.escaping_functions if index >= len(self.imported_functions)]
        for signature in sorted(set(entered), key=lambda each: each.entry):
            transitions.define_entry(self.module, signature)
            symbols.append(signature.entry)
        table = ir.GlobalVariable(self.module, ir.ArrayType(PTR, len(defined)), FUNCTION_TABLE)
        table.global_constant = True
        table.initializer = ir.Constant(
            table.value_type,
            [ir.Constant(PTR, self.functions[i - len(self.imported_functions)].get_reference()) for i in defined],
        )
        symbols.append(FUNCTION_TABLE)
        return self.module, tuple(symbols)

    def function_label(self, index: int) -> str:
        """Return how messages call a function: its index, and its name where it has one."""
        name = self.decoded.names.functions.get(index)
        return f"{index} (${name})" if name else str(index)

    def _declare(self, index: int) -> ir.Function:
        name = re.sub(r"[^A-Za-z0-9_.]", "_", self.decoded.names.functions.get(index, ""))
        type = transitions.function_type(Signature.of(self.function_types[index], self.types))
        function = NativeFunction(self.module, type, f"wasm.{index}.{name}".rstrip("."))
        function.linkage = "internal"
        return function

    def _scan_calls(self) -> tuple[dict[int, list[int]], set[int], set[int]]:
        """What the module's own functions do: which of one another they call; which leave the module; which allocate.

        A call is there as often as it is in the code.
        """
        imported = len(self.imported_functions)
        calls: dict[int, list[int]] = {}
        leaving: set[int] = set()
        allocating: set[int] = set()
        for index, body in enumerate(self.decoded.bodies, imported):
            calls[index] = called = []
            for instruction in body.instructions:
                if instruction.name == "call":
                    callee = index_operand(instruction)
                    if callee < imported:
                        leaving.add(index)
                    else:
                        called.append(callee)
                elif instruction.name == "call_ref":
                    leaving.add(index)
                elif instruction.name in _ALLOCATING_INSTRUCTIONS:
                    allocating.add(index)
        return calls, leaving, allocating

    def _compile_initialiser(self) -> None:
        instructions: list[Instruction] = []
        for index, definition in enumerate(self.decoded.globals, self.imported_global_count):
            instructions += definition.init[:-1]
            instructions.append(Instruction("global.init", (index,), definition.offset))
        if self.decoded.start is not None:
            instructions.append(Instruction("call", (self.decoded.start,), 0))
        instructions.append(Instruction("end", (), 0))
        function = NativeFunction(self.module, transitions.function_type(INITIALISE_SIGNATURE), INITIALISE, "noinline")
        FunctionCompiler(self, function, FuncType((), ()), (), instructions, runs_once=True).compile()


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


class _Progress:
    """Says how many functions are compiled: to a callback each time, to the log once a second."""

    def __init__(self, total: int, callback: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.callback = 0, total, callback
        self._logged = time.monotonic()
        if callback is not None:
            callback(0, total)

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self._logged >= _PROGRESS_SECONDS:
            self._logged = now
            _log.info("compiled %d of %d functions", self.done, self.total)
        if self.callback is not None:
            self.callback(self.done, self.total)


@dataclass(slots=True)
class _Edge:
    """A way to a block's end: where from, with which results, and with which values of the locals set inside."""

    source: ir.Block
    values: list[ir.Value]
    locals: list[ir.Value]


@dataclass(slots=True)
class _Round:
    """A way on which a loop goes round: where from, at which instruction, and what holds there."""

    source: ir.Block
    offset: ir.Value | int
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

    `conditions` hold where code now is, if it came there since the construct began. A loop that may turn out to count
    is a `candidate`; one that is had twice goes on at `joined`.
    """

    kind: str
    params: tuple[ValType, ...]
    results: tuple[ValType, ...]
    height: int
    assigned: list[int]
    target: ir.Block | None
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

    @property
    def arity(self) -> tuple[ValType, ...]:
        """The types of what a branch to the label carries."""
        return self.params if self.kind == "loop" else self.results


_OPENING = ("block", "loop", "if")

_LONG_INSTRUCTIONS = frozenset(("call", "call_ref", "array.fill", "array.copy"))

_ALLOCATING_INSTRUCTIONS = frozenset(
    ("struct.new", "struct.new_default", "array.new", "array.new_default", "array.new_fixed")
)

_Handler = Callable[..., None]
_HANDLERS: dict[str, _Handler] = {}


def _instruction(*names: str) -> Callable[[_Handler], _Handler]:
    """Register a method as what compiles these instructions; it gets the instruction's operands."""

    def register(method: _Handler) -> _Handler:
        for name in names:
            _HANDLERS[name] = method
        return method

    return register


class FunctionCompiler(Emitter):
    """Compiles one function; see the module's docstring."""

    def __init__(
        self,
        module: ModuleCompiler,
        function: ir.Function,
        type: FuncType,
        locals: Sequence[ValType],
        instructions: Sequence[Instruction],
        offset: int = 0,
        *,
        polls: bool = False,
        runs_once: bool = False,
    ) -> None:
        """Start the function: its prologue, which may poll, and its locals. `offset` is where its body begins."""
        super().__init__(function)
        self.offset = offset
        self.context = module
        self._sites = module.events.begin(runs_once=runs_once)
        self._loops = 0  # how many are open
        self._twice = 0  # how many loops are had twice
        self._again = False  # whether this is in a loop's second version
        self.type = type
        self.instructions = instructions
        self.references: list[ir.Value] = []
        self.local_types = [*type.params, *(module.canonical(t) for t in locals)]
        self._stack_check = self._check_stack("stack_poll" if polls else "stack_check")
        self._most_operands = 0
        params = function.args[1 : 1 + len(type.params)]
        self.locals: list[ir.Value] = [
            *(self._tag(param, param_type) for param, param_type in zip(params, type.params, strict=True)),
            *(zero(t) for t in self.local_types[len(type.params) :]),
        ]
        self._next = 0  # the number of the instruction that is compiled next
        self._lengths: dict[int, ir.Value] = {}  # arrays by the ids of their lengths, which stay in the function
        self.stack: list[tuple[ir.Value, ValType]] = []
        self.labels: list[_Label] = []
        self.is_reachable = True
        self.name = self._previous = ""

    def compile(self) -> None:
        """Compile the body, and tell its safepoints what lives across them."""
        self._assigned = self._scan_assigned_locals()
        self._short_loops = short_loops(self.instructions, self._takes_long) if self.context.interruptible else set()
        self.labels.append(_Label("function", (), self.type.results, 0, [], None))
        skipped = 0  # how many constructs that open in unreachable code are still open
        while self._next < len(self.instructions):
            number, instruction = self._next, self.instructions[self._next]
            self._next += 1
            name = instruction.name
            if not self.is_reachable:
                if name in _OPENING:
                    skipped += 1
                    continue
                if skipped and name == "end":
                    skipped -= 1
                    continue
                if skipped or name not in ("end", "else"):
                    continue
            self.offset = instruction.offset
            self._previous, self.name = self.name, name
            if name in _OPENING:
                block_type = instruction.operands[0]
                assert isinstance(block_type, BlockType), "decoded: block, loop and if have a block type"
                self._open(name, block_type, number)
            elif (signature := numeric.SIGNATURES.get(name)) is not None:
                params, result = signature
                self.push(numeric.lower(self, name, self.pop_many(len(params))), result)
            else:
                _HANDLERS[name](self, *instruction.operands)
        if len(self.local_types) + self._most_operands > _MANY_VALUES:
            self.function.attributes.add("noinline")
        if self.references or self._sites.reads:
            liveness = safepoints.Liveness.of(self.function, self.references)
            self.context.events.complete(self._sites, liveness)
            safepoints.fill_from(self.function, liveness)

    def _scan_assigned_locals(self) -> dict[int, list[int]]:
        """Find which locals are set inside each construct, by the number of the instruction that opens it."""
        found: dict[int, list[int]] = {}
        open_constructs: list[tuple[int, set[int]]] = [(-1, set())]
        for number, instruction in enumerate(self.instructions):
            if instruction.name in _OPENING:
                open_constructs.append((number, set()))
            elif instruction.name in ("local.set", "local.tee"):
                open_constructs[-1][1].add(index_operand(instruction))
            elif instruction.name == "end" and len(open_constructs) > 1:
                start, inside = open_constructs.pop()
                found[start] = sorted(inside)
                open_constructs[-1][1].update(inside)
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
        return name in _LONG_INSTRUCTIONS or name in _ALLOCATING_INSTRUCTIONS

    def _check_stack(self, event: str) -> ir.CallInstr:
        """Trap when the frame is beyond the stack limit; what a large one has below, `jit/large_frames.py` counts."""
        function = self.context.events.function(event, VOID, [], ())
        self.context.stack_checks[self.function.name] = self.offset
        with self.event("stack check"):
            return self.builder.call(function, [self.vmctx, self.offset_value()], attrs=("alwaysinline",))

    @functools.cached_property
    def _most_slots(self) -> int:
        """How many slots the values of the function's calls take at most."""
        most = 0
        for instruction in self.instructions:
            if instruction.name in ("call", "call_ref"):
                index = index_operand(instruction)
                by_type = instruction.name == "call_ref"
                type = self.context.function_type(index) if by_type else self.context.function_types[index]
                most = max(most, Signature.of(type, self.context.types).slot_count)
        return most

    @functools.cached_property
    def _results_buffer(self) -> ir.Value:
        """The address of the frame's one buffer for several results, which are read at once after each call."""
        return self.stack_buffer(self._most_slots * VALUE_SLOT_SIZE, VALUE_SLOT_SIZE)

    # ------------------------------------------------------------------------------------------------------------------
    # The operand stack

    def push(self, value: ir.Value, type: ValType) -> None:
        """Push a value; a traced reference is remembered for the safepoints."""
        if isinstance(type, RefType):
            self._tag(value, type)
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

    def _tag(self, value: ir.Value, type: ValType) -> ir.Value:
        if isinstance(type, RefType) and self.context.types.is_traced(type) and not isinstance(value, ir.Constant):
            self.references.append(value)
        return value

    def _call_event(
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
            )

    # ------------------------------------------------------------------------------------------------------------------
    # Control

    def _open(self, kind: str, block_type: BlockType, number: int, joined: _Label | None = None) -> None:
        """Open a construct, at the instruction with this number. A loop's second version goes on at `joined`."""
        condition = self._truth(self.pop()) if kind == "if" else None
        assigned = self._assigned[number]
        params = tuple(self.context.canonical(t) for t in block_type.params)
        results = tuple(self.context.canonical(t) for t in block_type.results)
        values = self.pop_many(len(params))
        label = _Label(kind, params, results, len(self.stack), assigned, self.function.append_basic_block(kind))
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
        elif condition is not None:
            label.entry_values = values
            label.entry_locals = self._get_locals(assigned)
            label.otherwise = self.function.append_basic_block("else")
            then = self.function.append_basic_block("then")
            self.builder.cbranch(condition, then, label.otherwise)
            self.builder.position_at_end(then)
            label.conditions = [(condition, True)]
        self._push_all(values, params)

    @_instruction("else")
    def _else(self) -> None:
        label = self.labels[-1]
        if self.is_reachable:
            self._branch(0, self.pop_many(len(label.results)))
        self._start_otherwise(label)

    def _start_otherwise(self, label: _Label) -> None:
        """Go on in the else branch of an if, with everything as it was before the if."""
        self.builder.position_at_end(label.otherwise)
        label.otherwise = None
        label.conditions = [(label.conditions[0][0], False)]
        self.is_reachable = True
        del self.stack[label.height :]
        self._push_all(label.entry_values, label.params)
        self._set_locals(label.assigned, label.entry_locals)

    @_instruction("end")
    def _end(self) -> None:
        label = self.labels[-1]
        if label.kind == "function":
            if self.is_reachable:
                self._return(self.pop_many(len(label.results)))
            self.labels.pop()
            return
        if label.kind == "loop":
            self._end_loop(label)
            return
        falls_through = self.is_reachable
        if falls_through:
            self._branch(0, self.pop_many(len(label.results)))
        if label.otherwise is not None:  # an if without an else: parameters are its results
            self._start_otherwise(label)
            self._branch(0, self.pop_many(len(label.results)))
            falls_through = True
        self.labels.pop()
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
        self.is_reachable = True
        values = [
            self._join(t, [(edge.values[number], edge.source) for edge in label.edges])
            for number, t in enumerate(label.results)
        ]
        locals = [
            self._join(self.local_types[index], [(edge.locals[number], edge.source) for edge in label.edges])
            for number, index in enumerate(label.assigned)
        ]
        self._push_all(values, label.results)
        self._set_locals(label.assigned, locals)

    # A loop's end is no label; what fell through goes on. If it is had twice, it goes on where both meet.

    def _end_loop(self, label: _Label) -> None:
        self._loops -= 1
        self._again = False
        self.labels.pop()
        candidate = label.candidate
        counting = None if candidate is None else self._find_counting(label, candidate)
        if counting is not None:
            target = self.function.append_basic_block("loop_end")
            label.joined = _Label("block", (), label.results, label.height, label.assigned, target)
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
            block, offset = self.builder.block, self.offset
            for each in candidate.rounds:
                self.builder.position_before(each.source.terminator)
                self.offset = each.offset
                self._poll()
            self.builder.position_at_end(candidate.before)
            self.builder.branch(candidate.entry)
            self.builder.position_at_end(block)
            self.offset = offset
        return counting

    def _length_of(self, value: ir.Value) -> ir.Value | None:
        """The array that a value is the length of."""
        return self._lengths.get(id(value))

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
            limit = self._call_event("array_len", I32, [array], False)
        soon = ends_soon(self.builder, counting, limit, _MOST_UNPOLLED // len(self.instructions))
        self.builder.cbranch(soon, candidate.entry, second)
        self.builder.position_at_end(second)
        self.is_reachable = True
        del self.stack[label.height :]
        self._push_all(label.entry_values, label.params)
        self._set_locals(label.assigned, label.entry_locals)
        block_type = self.instructions[candidate.number].operands[0]
        assert isinstance(block_type, BlockType), "decoded: a loop has a block type"
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
        self._tag(phi, type)
        return phi

    def _branch(self, depth: int, values: list[ir.Value]) -> None:
        """Leave the current block for a label; code behind is unreachable."""
        label = self.labels[-1 - depth]
        self.is_reachable = False
        if label.kind == "function":
            self._return(values)
            return
        self._leave_for(label, values)
        self.builder.branch(label.target)

    def _leave_for(self, label: _Label, values: list[ir.Value]) -> None:
        """Note what an edge from the current block to a label brings there. Where a loop goes round, poll first."""
        if label.kind == "loop":
            label.goes_round = True
            if label.is_polled:
                pass
            elif label.candidate is None:
                self._poll()
            else:
                conditions = [each for inside in self.labels[self.labels.index(label) :] for each in inside.conditions]
                label.candidate.rounds.append(_Round(self.builder.block, self.offset, conditions))
        source = self.builder.block
        locals = self._get_locals(label.assigned)
        if label.kind == "loop":
            for phi, value in zip((*label.value_phis, *label.local_phis), (*values, *locals), strict=True):
                phi.add_incoming(value, source)
        else:
            label.edges.append(_Edge(source, values, locals))

    def _poll(self) -> None:
        """Have a loop poll, if code is to be interruptible."""
        if self.context.interruptible:
            function = self.context.events.function("poll", VOID, [], ())
            with self.event("poll"):
                self.builder.call(function, [self.vmctx, self.offset_value()], attrs=("alwaysinline",))

    def _branch_if(self, condition: ir.Value, depth: int, values: list[ir.Value]) -> None:
        """Branch to a label if an i1 holds, else go on."""
        taken, proceed = self.function.append_basic_block(), self.function.append_basic_block()
        self.builder.cbranch(condition, taken, proceed)
        self.builder.position_at_end(taken)
        label = self.labels[-1]
        label.conditions.append((condition, True))
        self._branch(depth, values)
        label.conditions[-1] = condition, False
        self.builder.position_at_end(proceed)
        self.is_reachable = True
        is_on_null = "null" in self.name or self._previous == "ref.is_null"
        if is_on_null and label.kind == "loop" and depth and not (label.is_polled or label.goes_round):
            # Behind the test, rather than before the loop goes round: that there is no next cell, say, was found out
            # when it was read, and LLVM leads from there past the test.
            self._poll()
            label.is_polled = True

    def _branch_values(self, depth: int, *, beneath: int = 0) -> list[ir.Value]:
        """Return the values that a branch to a label carries, left on the stack: those under the top `beneath`."""
        count = len(self.labels[-1 - depth].arity) - beneath
        return [value for value, _ in self.stack[len(self.stack) - count :]]

    def _get_locals(self, indices: Sequence[int]) -> list[ir.Value]:
        return [self.locals[index] for index in indices]

    def _set_locals(self, indices: Sequence[int], values: Sequence[ir.Value]) -> None:
        for index, value in zip(indices, values, strict=True):
            self.locals[index] = value

    def _push_all(self, values: Sequence[ir.Value], types: Sequence[ValType]) -> None:
        for value, type in zip(values, types, strict=True):
            self.push(value, type)

    def _truth(self, value: ir.Value) -> ir.Value:
        return self.builder.icmp_unsigned("!=", value, I32(0))

    def _return(self, values: Sequence[ir.Value]) -> None:
        if len(values) > 1:
            buffer = self.function.args[-1]
            for slot, value in zip(Signature.of(self.type, self.context.types).result_slots, values, strict=True):
                self.store_slot(value, buffer, slot)
            self.builder.ret_void()
        elif values:
            self.builder.ret(values[0])
        else:
            self.builder.ret_void()

    @_instruction("br")
    def _br(self, depth: int) -> None:
        self._branch(depth, self._branch_values(depth))

    @_instruction("br_if")
    def _br_if(self, depth: int) -> None:
        condition = self._truth(self.pop())
        self._branch_if(condition, depth, self._branch_values(depth))

    @_instruction("br_table")
    def _br_table(self, depths: Sequence[int], default: int) -> None:
        index = self.pop()
        start = self.builder.block
        targets: dict[int, ir.Block] = {}
        for depth, count in Counter((*depths, default)).items():
            label = self.labels[-1 - depth]
            if count == 1 and label.target is not None and label.kind != "loop":
                # Straight there: of a block in between for each, LLVM needs time that is quadratic in their number.
                targets[depth] = label.target
                self._leave_for(label, self._branch_values(depth))
                continue
            targets[depth] = self.function.append_basic_block("br_table")
            self.builder.position_at_end(targets[depth])
            self._branch(depth, self._branch_values(depth))
            self.builder.position_at_end(start)
        self.is_reachable = False
        self.builder.position_at_end(start)
        switch = self.builder.switch(index, targets[default])
        for number, depth in enumerate(depths):
            switch.add_case(I32(number), targets[depth])

    @_instruction("return")
    def _return_instruction(self) -> None:
        self._br(len(self.labels) - 1)

    @_instruction("unreachable")
    def _unreachable(self) -> None:
        self.trap(TrapCode.UNREACHABLE)
        self.is_reachable = False

    @_instruction("nop")
    def _nop(self) -> None:
        """Nothing."""

    @_instruction("drop")
    def _drop(self) -> None:
        self.stack.pop()

    @_instruction("select")
    def _select(self, declared: ValType | None = None) -> None:
        condition = self._truth(self.pop())
        otherwise, (value, type) = self.stack.pop()[0], self.stack.pop()
        type = type if declared is None else self.context.canonical(declared)
        self.push(self.builder.select(condition, value, otherwise), type)

    # ------------------------------------------------------------------------------------------------------------------
    # Calls

    def _call(self, callee: ir.Value, vmctx: ir.Value, type: FuncType, *, may_collect: bool = True) -> None:
        """Call compiled code with the arguments on the stack, and push the results. A safepoint, if it may collect."""
        args = [vmctx, *self.pop_many(len(type.params))]
        if len(type.results) > 1:
            args.append(self._results_buffer)
        if may_collect:
            with self.event("safepoint"):
                result = safepoints.call(self.builder, callee, args, place=self.offset)
        else:
            result = self.builder.call(callee, args)
        if len(type.results) <= 1:
            if type.results:
                self.push(result, type.results[0])
            return
        buffer = self._results_buffer
        slots = Signature.of(type, self.context.types).result_slots
        for slot, result_type in zip(slots, type.results, strict=True):
            self.push(self.load_slot(buffer, slot, llvm_type(result_type)), result_type)

    def _call_address(self, code: ir.Value, vmctx: ir.Value, type: FuncType) -> None:
        shape = transitions.function_type(Signature.of(type, self.context.types))
        self._call(self.function_pointer(code, shape.return_type, shape.args), vmctx, type)

    @_instruction("call")
    def _call_function(self, index: int) -> None:
        type = self.context.function_types[index]
        imported = len(self.context.imported_functions)
        label = self.labels[-1]
        if index >= imported:
            if index in self.context.polling_functions and label.kind == "loop" and not label.goes_round:
                label.is_polled = True
            callee = self.context.functions[index - imported]
            self._call(callee, self.vmctx, type, may_collect=index in self.context.collecting_functions)
            return
        place = self.at(self.vmctx, self.context.vmctx_layout.function_import(index))
        code = self.load_pointer(place, VMFunctionImport.code, invariant=True)
        vmctx = self.load_pointer(place, VMFunctionImport.vmctx, invariant=True)
        self._call_address(code, vmctx, type)

    @_instruction("call_ref")
    def _call_ref(self, type_index: int) -> None:
        function, type = self.stack.pop()
        self._check_not_null(function, type)
        entry = function_entry(self, function)
        code = self.load_pointer(entry, VMFuncRef.code)
        vmctx = self.load_pointer(entry, VMFuncRef.vmctx)
        self._call_address(code, vmctx, self.context.function_type(type_index))

    # ------------------------------------------------------------------------------------------------------------------
    # Variables and constants

    @_instruction("local.get")
    def _local_get(self, index: int) -> None:
        self.push(self.locals[index], self.local_types[index])

    @_instruction("local.set")
    def _local_set(self, index: int) -> None:
        self.locals[index] = self._tag(self.pop(), self.local_types[index])

    @_instruction("local.tee")
    def _local_tee(self, index: int) -> None:
        self.locals[index] = self._tag(self.stack[-1][0], self.local_types[index])

    def _global_cell(self, index: int) -> tuple[ir.Value, str]:
        """The address of a global, and the name that alias analysis has for the place."""
        imported, layout = self.context.imported_global_count, self.context.vmctx_layout
        if index >= imported:
            name, cell = GLOBAL, self.at(self.vmctx, layout.global_cell(index - imported))
        else:
            name = IMPORTED_GLOBAL
            cell = self.load_typed(self.at(self.vmctx, layout.global_import(index)), PTR, invariant=True)
        return self.named(cell, name), name

    @_instruction("global.get")
    def _global_get(self, index: int) -> None:
        cell, name = self._global_cell(index)
        declared = self.context.global_types[index]
        type = declared.storage
        if isinstance(type, RefType):
            shape = self.context.shape(type, is_mutable=declared.mutable)
            self.push(self._call_event("global_get", REFERENCE, [cell], shape, name, mark="read"), type)
        else:
            self.push(self.load_typed(cell, llvm_type(type)), type)

    @_instruction("global.set")
    def _global_set(self, index: int) -> None:
        self._store_global("global_set", index, "write")

    @_instruction("global.init")
    def _global_init(self, index: int) -> None:
        """Not WebAssembly's: give a global its first value, in the module's initialiser."""
        self._store_global("global_init", index, "init")

    def _store_global(self, event: str, index: int, mark: str) -> None:
        value = self.pop()
        cell, name = self._global_cell(index)
        declared = self.context.global_types[index]
        if isinstance(declared.storage, RefType):
            shape = self.context.shape(declared.storage, is_mutable=declared.mutable)
            self._call_event(event, VOID, [cell, value], shape, name, mark=mark)
        elif event == "global_init":
            self._call_event("global_init_number", VOID, [cell, value], declared.storage.value, name)
        else:
            self.store_typed(value, cell)

    @_instruction("i32.const")
    def _i32_const(self, value: int) -> None:
        self.push(ir.Constant(I32, value), NumType.I32)

    @_instruction("i64.const")
    def _i64_const(self, value: int) -> None:
        self.push(ir.Constant(I64, value), NumType.I64)

    @_instruction("f32.const")
    def _f32_const(self, bits: int) -> None:
        self.push(I32(bits).bitcast(F32), NumType.F32)  # through an integer, so that a NaN keeps its payload

    @_instruction("f64.const")
    def _f64_const(self, bits: int) -> None:
        self.push(I64(bits).bitcast(F64), NumType.F64)

    # ------------------------------------------------------------------------------------------------------------------
    # References

    def _check_not_null(self, reference: ir.Value, type: ValType) -> None:
        if _is_nullable(type):
            self._call_event("null_check", VOID, [reference], mark="trap")

    def _pop_object(self) -> ir.Value:
        """Pop a reference to an object; trap when it is null."""
        reference, type = self.stack.pop()
        self._check_not_null(reference, type)
        return reference

    def _pop_nullable(self) -> tuple[ir.Value, bool]:
        """Pop a reference for an event that checks it, and whether it may be null."""
        reference, type = self.stack.pop()
        return reference, _is_nullable(type)

    @staticmethod
    def _without_null(type: ValType) -> RefType:
        assert isinstance(type, RefType), "validated: a reference"
        return RefType(False, type.heap_type)

    @_instruction("ref.null")
    def _ref_null(self, heap_type: Any) -> None:
        self.push(REFERENCE(NULL), self.context.canonical(RefType(True, heap_type)))

    @_instruction("ref.is_null")
    def _ref_is_null(self) -> None:
        self.push(self.builder.zext(self.is_null(self.pop()), I32), NumType.I32)

    @_instruction("ref.func")
    def _ref_func(self, index: int) -> None:
        imported, layout = len(self.context.imported_functions), self.context.vmctx_layout
        if index < imported:
            place = self.at(self.vmctx, layout.function_import(index))
            value = self.load(place, VMFunctionImport.funcref, invariant=True)
        else:
            value = self.load_typed(self.at(self.vmctx, layout.funcref(index - imported)), REFERENCE, invariant=True)
        type_index = (*self.context.imported_functions, *self.context.decoded.functions)[index]
        self.push(value, RefType(False, self.context.type_indices[type_index]))

    @_instruction("ref.eq")
    def _ref_eq(self) -> None:
        a, b = self.pop_many(2)
        self.push(self.builder.zext(self.builder.icmp_unsigned("==", a, b), I32), NumType.I32)

    @_instruction("ref.as_non_null")
    def _ref_as_non_null(self) -> None:
        reference, type = self.stack.pop()
        self._check_not_null(reference, type)
        self.push(reference, self._without_null(type))

    @_instruction("br_on_null")
    def _br_on_null(self, depth: int) -> None:
        reference, type = self.stack.pop()
        self._branch_if(self.is_null(reference), depth, self._branch_values(depth))
        self.push(reference, self._without_null(type))

    @_instruction("br_on_non_null")
    def _br_on_non_null(self, depth: int) -> None:
        reference = self.pop()
        values = [*self._branch_values(depth, beneath=1), reference]
        self._branch_if(self.builder.not_(self.is_null(reference)), depth, values)

    @_instruction("ref.test")
    def _ref_test(self, target: RefType) -> None:
        reference, type = self.stack.pop()
        self.push(self.builder.zext(self._is_instance(reference, type, target), I32), NumType.I32)

    @_instruction("ref.cast")
    def _ref_cast(self, target: RefType) -> None:
        reference, type = self.stack.pop()
        static = self._cast_static(type, target)
        if static is None:
            matches = self._is_instance(reference, type, target)
            if not _is_true(matches):
                self.trap_if(self.builder.not_(matches), TrapCode.CAST_FAILURE)
        else:
            self._call_event("cast", VOID, [reference], *static)
        self.push(reference, self.context.canonical(target))

    @_instruction("br_on_cast", "br_on_cast_fail")
    def _br_on_cast(self, depth: int, source: RefType, target: RefType) -> None:
        reference, type = self.stack.pop()
        matches = self._is_instance(reference, type, target)
        matched = self.context.canonical(target)
        unmatched = RefType(source.nullable and not target.nullable, self.context.canonical(source).heap_type)
        branches_on_match = self.name == "br_on_cast"
        values = [*self._branch_values(depth, beneath=1), reference]
        self._branch_if(matches if branches_on_match else self.builder.not_(matches), depth, values)
        self.push(reference, unmatched if branches_on_match else matched)

    def _cast_static(self, source: ValType, target: RefType) -> tuple[Static, ...] | None:
        """What a test for a type depends on, for `EventEmitter.is_instance`; None where only null matters."""
        assert isinstance(source, RefType), "validated: a reference"
        types = self.context.types
        wanted = self.context.canonical(target)
        if types.is_subtype(source.heap_type, wanted.heap_type) or wanted.heap_type is types.bottom(wanted.heap_type):
            return None
        test = type_test(types, source, wanted)
        return (test, target.heap_type) if isinstance(target.heap_type, int) else (test,)

    def _is_instance(self, reference: ir.Value, source: ValType, target: RefType) -> ir.Value:
        """Return, as an i1, whether a reference of static type `source` is of type `target` (the module's)."""
        assert isinstance(source, RefType), "validated: a reference"
        static = self._cast_static(source, target)
        if static is not None:
            return self._call_event("is_instance", I1, [reference], *static)
        if self.context.types.is_subtype(source.heap_type, self.context.canonical(target).heap_type):
            if target.nullable or not source.nullable:
                return I1(1)
            return self.builder.not_(self.is_null(reference))
        return self.is_null(reference) if target.nullable else I1(0)

    @_instruction("any.convert_extern", "extern.convert_any")
    def _convert(self) -> None:
        reference, type = self.stack.pop()
        assert isinstance(type, RefType), "validated: a reference"
        heap_type = AbstractHeapType.ANY if self.name == "any.convert_extern" else AbstractHeapType.EXTERN
        self.push(reference, RefType(type.nullable, heap_type))

    # ------------------------------------------------------------------------------------------------------------------
    # i31

    @_instruction("ref.i31")
    def _ref_i31(self) -> None:
        shifted = self.builder.shl(self.pop(), I32(I31_SHIFT))
        self.push(self.builder.or_(shifted, I32(I31_TAG)), RefType(False, AbstractHeapType.I31))

    @_instruction("i31.get_s", "i31.get_u")
    def _i31_get(self) -> None:
        shift = self.builder.ashr if self.name == "i31.get_s" else self.builder.lshr
        self.push(shift(self._pop_object(), I32(I31_SHIFT)), NumType.I32)

    # ------------------------------------------------------------------------------------------------------------------
    # Structs and arrays

    def _push_new(self, event: str, args: Sequence[ir.Value], type_index: int) -> None:
        """Push the new object that an event makes."""
        reference = self._call_event(event, REFERENCE, args, type_index, mark="allocate")
        self.push(reference, RefType(False, self.context.type_indices[type_index]))

    def _push_read(self, event: str, args: Sequence[ir.Value], storage: StorageType, *static: Static) -> None:
        """Push what an event reads from a field or an element, extended as the instruction's name says."""
        is_packed = isinstance(storage, PackedType)
        type = NumType.I32 if isinstance(storage, PackedType) else storage
        is_signed = is_packed and self.name.endswith("_s")
        value = self._call_event(event, llvm_type(type), args, *static, is_signed, mark=_mark("read", storage))
        self.push(value, type)

    @_instruction("struct.new")
    def _struct_new(self, type_index: int) -> None:
        self._push_new("struct_new", self.pop_many(len(self.context.fields(type_index))), type_index)

    @_instruction("struct.new_default")
    def _struct_new_default(self, type_index: int) -> None:
        self._push_new("struct_new_default", [], type_index)

    @_instruction("struct.get", "struct.get_s", "struct.get_u")
    def _struct_get(self, type_index: int, number: int) -> None:
        reference, may_be_null = self._pop_nullable()
        storage = self.context.fields(type_index)[number].storage
        self._push_read("struct_get", [reference], storage, type_index, number, may_be_null)

    @_instruction("struct.set")
    def _struct_set(self, type_index: int, number: int) -> None:
        value = self.pop()
        reference, may_be_null = self._pop_nullable()
        mark = _mark("write", self.context.fields(type_index)[number].storage)
        self._call_event("struct_set", VOID, [reference, value], type_index, number, may_be_null, mark=mark)

    @_instruction("array.new")
    def _array_new(self, type_index: int) -> None:
        self._push_new("array_new", self.pop_many(2), type_index)

    @_instruction("array.new_default")
    def _array_new_default(self, type_index: int) -> None:
        self._push_new("array_new_default", self.pop_many(1), type_index)

    @_instruction("array.new_fixed")
    def _array_new_fixed(self, type_index: int, length: int) -> None:
        values = self.pop_many(length)
        self._push_new("array_allocate", [I32(length)], type_index)
        array, mark = self.stack[-1][0], _mark("init", self.context.element(type_index).storage)
        layout = self.context.array_layout(type_index)
        many = length > MOST_INLINED  # stores in a row, which LLVM would compare in pairs to merge them
        for number, value in enumerate(values):
            offset = I64(layout.elements_offset + number * layout.element_size)
            self._call_event("array_init", VOID, [array, offset, value], type_index, mark=mark, is_one_of_many=many)

    @_instruction("array.get", "array.get_s", "array.get_u")
    def _array_get(self, type_index: int) -> None:
        index = self.pop()
        array, may_be_null = self._pop_nullable()
        storage = self.context.element(type_index).storage
        self._push_read("array_get", [array, index], storage, type_index, may_be_null)

    @_instruction("array.set")
    def _array_set(self, type_index: int) -> None:
        index, value = self.pop_many(2)
        array, may_be_null = self._pop_nullable()
        mark = _mark("write", self.context.element(type_index).storage)
        self._call_event("array_set", VOID, [array, index, value], type_index, may_be_null, mark=mark)

    @_instruction("array.len")
    def _array_len(self) -> None:
        array, may_be_null = self._pop_nullable()
        length = self._call_event("array_len", I32, [array], may_be_null)
        self._lengths[id(length)] = array
        self.push(length, NumType.I32)

    @_instruction("array.fill")
    def _array_fill(self, type_index: int) -> None:
        start, value, count = self.pop_many(3)
        array, may_be_null = self._pop_nullable()
        mark = _mark("write", self.context.element(type_index).storage)
        self._call_event("array_fill", VOID, [array, start, value, count], type_index, may_be_null, mark=mark)

    @_instruction("array.copy")
    def _array_copy(self, target_type: int, source_type: int) -> None:
        count = self.pop()
        source_start = self.pop()
        source, source_may_be_null = self._pop_nullable()
        target_start = self.pop()
        target, target_may_be_null = self._pop_nullable()
        args = [target, target_start, source, source_start, count]
        mark = _mark("write", self.context.element(target_type).storage)
        static = target_type, source_type, target_may_be_null, source_may_be_null
        self._call_event("array_copy", VOID, args, *static, mark=mark)


def _is_nullable(type: ValType) -> bool:
    """Whether a reference of a static type may be null."""
    return isinstance(type, RefType) and type.nullable


def _is_true(condition: ir.Value) -> bool:
    """Whether an i1 is known to hold."""
    return isinstance(condition, ir.Constant) and bool(condition.constant)


def _mark(event: str, storage: StorageType) -> str | None:
    """What to mark an access as: a barrier's event, or, of a number, nothing."""
    return event if isinstance(storage, RefType) else None
