"""From a decoded module to LLVM IR: which functions there are, what each may come to, and what is entered from outside.

`function.py` compiles each function; what instructions do is in `instructions/`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence

from llvmlite import ir

from lowheap.jit import transitions
from lowheap.jit.barriers import Barriers
from lowheap.jit.conventions import PRIVATE, SHARED, Convention, wide
from lowheap.jit.debug_locations import DebugScopes
from lowheap.jit.emit import (
    I8,
    NO_MERGE,
    PTR,
    NativeFunction,
    let_throw,
    tell_no_aliases,
)
from lowheap.jit.marks import MarkedModule
from lowheap.jit.signatures import EXCEPTIONS, INITIALISE, TRAP_FUNCTION, Signature
from lowheap.representation import printable
from lowheap.types import FuncType, TypeRegistry
from lowheap.wasm.decode import DecodedModule, ElementSegment, Instruction
from lowheap.wasm.events import EventFunctions
from lowheap.wasm.fuel import Exempt, number_of
from lowheap.wasm.function import FunctionCompiler, ModuleState
from lowheap.wasm.instructions import FACTS
from lowheap.wasm.outline import FUNCTION_TABLE, function_of, index_operand

_log = logging.getLogger("lowheap.wasm")

_PROGRESS_SECONDS = 1  # between two messages in the log

INITIALISE_SIGNATURE = Signature("", "")

_EXCEPTIONAL = ("try_table", "throw", "throw_ref")

_LARGEST_TABLE_IMAGE = 1 << 20
"""A table of more entries is filled in when an instance is made, in wasmtime, and so takes fuel here."""

_MOST_CALLS = 10_000
"""So many calls of functions that do not poll may come between two polls: a moment's work."""


class ModuleCompiler(ModuleState):
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
        consume_fuel: bool = False,
        canonical_nans: bool = False,
        is_optimised: bool = True,
        marked: bool = False,
        located: bool = False,
    ) -> None:
        """Gather what all functions of the module need to know.

        `inline_allocation`: take blocks off the size classes' lists without a call, where there is one. `inline`,
        `interruptible`, `consume_fuel` and `canonical_nans` are an engine's. `marked`: keep marks of what is emitted
        for which event, for a listing. `is_optimised`: LLVM is to make fast code of it, and not just soon. `located`: with debug information, of which instruction code is for.
        """
        super().__init__(decoded, types, type_indices, barriers, inline_allocation=inline_allocation)
        self.module = (MarkedModule if marked else ir.Module)(decoded.names.module or "module")
        if not is_optimised:
            tell_no_aliases(self.module)
        self.debug_scopes = DebugScopes(self.module) if located else None
        self.events = EventFunctions(self, self.module, inline)
        self.stack_checks: dict[str, int] = {}
        """The functions that check the stack limit, and the offset at which they trap."""
        self.tail_convention, self.conventions = self._choose_conventions()
        self.functions = [
            self._declare(len(self.imported_functions) + number) for number in range(len(decoded.functions))
        ]
        self.interruptible = interruptible
        self.consumes_fuel = consume_fuel
        self.canonical_nans = canonical_nans
        calls, leaving, allocating, throwing = self._scan_calls()
        self.collecting_functions = _callers_of(calls, leaving | allocating | throwing)
        self.throwing_functions = _callers_of(calls, leaving | throwing)
        for index in self.throwing_functions:
            let_throw(self.functions[index - len(self.imported_functions)])
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
                body.entry_offset,
                convention=self.conventions[index - len(self.imported_functions)],
                polls=index in self.polling_functions,
            ).compile()
            report.advance()
        entered = [Signature.of(self.function_types[index], self.types) for index in self.escaping_functions]
        if initialising := list(self._initialising()):
            self._compile_initialiser(initialising)
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
        if any(each.name in _EXCEPTIONAL for body in self.decoded.bodies for each in body.instructions):
            mark = ir.GlobalVariable(self.module, I8, EXCEPTIONS)
            mark.initializer = I8(0)
            symbols.append(EXCEPTIONS)
        if TRAP_FUNCTION in self.module.globals:
            symbols.append(TRAP_FUNCTION)
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
        return f"{index} (${printable(name)})" if name else str(index)

    def _declare(self, index: int) -> ir.Function:
        name = re.sub(r"[^A-Za-z0-9_.]", "_", self.decoded.names.functions.get(index, ""))
        convention = self.conventions[index - len(self.imported_functions)]
        type = convention.function_type(Signature.of(self.function_types[index], self.types))
        function = NativeFunction(self.module, type, f"wasm.{index}.{name}".rstrip("."), NO_MERGE)
        function.linkage = "internal"
        return function

    def _choose_conventions(self) -> tuple[Convention, list[Convention]]:
        """Return how tail calls are made, and how each of the module's own functions is called."""
        imported = len(self.imported_functions)
        callers_and_callees: set[int] = set()
        types: list[FuncType] = []
        for index, body in enumerate(self.decoded.bodies, imported):
            for instruction in body.instructions:
                if instruction.name.startswith("return_call"):
                    callers_and_callees.add(index)
                    type = self.called_type(instruction)
                    assert type is not None, "a tail call is a call"
                    types += (self.function_types[index], type)
                    if instruction.name == "return_call" and index_operand(instruction) >= imported:
                        callers_and_callees.add(index_operand(instruction))
        tails = wide(Signature.of(type, self.types) for type in dict.fromkeys(types))
        escaping = set(self.escaping_functions)
        return tails, [
            tails if index in callers_and_callees else SHARED if index in escaping else PRIVATE
            for index in range(imported, len(self.function_types))
        ]

    def _scan_calls(self) -> tuple[dict[int, list[int]], set[int], set[int], set[int]]:
        """What the module's own functions do: which of one another they call; which leave the module, allocate, throw.

        A call is there as often as it is in the code.
        """
        imported = len(self.imported_functions)
        calls: dict[int, list[int]] = {}
        leaving: set[int] = set()
        allocating: set[int] = set()
        throwing: set[int] = set()
        for index, body in enumerate(self.decoded.bodies, imported):
            calls[index] = called = []
            for instruction in body.instructions:
                if instruction.name in ("call", "return_call"):
                    callee = index_operand(instruction)
                    if callee < imported:
                        leaving.add(index)
                    else:
                        called.append(callee)
                elif (facts := FACTS.get(instruction.name)) is not None:
                    if facts.leaves:
                        leaving.add(index)
                    if facts.allocates:
                        allocating.add(index)
                    if facts.throws:
                        throwing.add(index)
        return calls, leaving, allocating, throwing

    def _initialising(self) -> Iterator[tuple[Instruction, bool, bool]]:
        """Yield what gives an instance's parts their first values, in the order of the standard, and starts it.

        With each instruction comes whether it takes no fuel at all, and whether it takes none but for a range's length.
        Elements of segments that are null, or no more than a function, are the instance's to fill in; they take fuel.
        """
        for index, definition in enumerate(self.decoded.globals, self.imported_global_count):
            is_free = number_of(definition.init) is not None
            for each in (*definition.init[:-1], Instruction("global.init", (index,), definition.offset)):
                yield each, is_free, False
        for index, table in enumerate(self.decoded.tables, self.imported_table_count):
            if table.init is not None:
                is_free = self._is_known_table(index)
                for each in (*table.init[:-1], Instruction("table.first", (index,), table.offset)):
                    yield each, is_free, each.name == "table.first"
        for index, elements in enumerate(self.decoded.elements):
            for number, expression in enumerate(elements.expressions or () if elements.mode != "declarative" else ()):
                first = Instruction("elem.first", (index, number), elements.offset)
                if function_of(expression) is not None or expression[0].name == "ref.null":
                    if not self.consumes_fuel:
                        continue
                    first = Instruction("drop", (), elements.offset)
                for each in (*expression[:-1], first):
                    yield each, False, each is first
        is_image = True
        for index, elements in enumerate(self.decoded.elements):
            if elements.table is not None:
                count = len(elements.functions if elements.expressions is None else elements.expressions)
                is_image = is_image and self._is_part_of_image(elements, count)
                for each in elements.place[:-1]:
                    yield each, is_image, False
                for each in _activating("table.init", "elem.drop", index, elements.table, count, elements.offset):
                    yield each, is_image, True
        is_image = self._data_are_an_image()
        for index, data in enumerate(self.decoded.data):
            if data.memory is not None:
                for each in data.place[:-1]:
                    yield each, is_image, False
                for each in _activating("memory.init", "data.drop", index, data.memory, len(data.data), data.offset):
                    yield each, is_image, True
        if self.decoded.start is not None:
            yield Instruction("call", (self.decoded.start,), 0), False, False

    def _compile_initialiser(self, initialising: Sequence[tuple[Instruction, bool, bool]]) -> None:
        exempt = Exempt()
        for number, (each, is_free, is_range) in enumerate(initialising):
            if is_free:
                exempt.wholly.add(number)
            elif is_range:
                exempt.but_range.add(number)
                if each.name == "table.first":
                    exempt.lengths[number] = self.table_types[index_operand(each)].limits.min
        exempt.wholly.add(len(initialising))
        whole = [*(instruction for instruction, _, _ in initialising), Instruction("end", (), 0)]
        function = NativeFunction(self.module, SHARED.function_type(INITIALISE_SIGNATURE), INITIALISE, "noinline")
        called = self.decoded.start
        if called is not None and (called < len(self.imported_functions) or called in self.throwing_functions):
            let_throw(function)
        FunctionCompiler(self, function, FuncType((), ()), (), whole, exempt=exempt, runs_once=True).compile()

    def _is_known_table(self, index: int) -> bool:
        """Whether what is in an own table before its segments is known beforehand: null, or one function."""
        init = self.decoded.tables[index - self.imported_table_count].init
        if init is None:
            return True
        return function_of(init) is not None and self.table_types[index].limits.min <= _LARGEST_TABLE_IMAGE

    def _is_part_of_image(self, elements: ElementSegment, count: int) -> bool:
        """Whether what an active segment puts into its table is known beforehand, if that of all before it is."""
        assert elements.table is not None, "the segment is active"
        place = number_of(elements.place)
        if elements.table < self.imported_table_count or elements.expressions is not None or place is None:
            return False
        most = min(self.table_types[elements.table].limits.min, _LARGEST_TABLE_IMAGE)
        return place + count <= most and self._is_known_table(elements.table)

    def _data_are_an_image(self) -> bool:
        """Whether what active segments put into memories is known beforehand: then it takes no fuel."""
        for segment in self.decoded.data:
            if segment.memory is not None:
                type, place = self.memory_types[segment.memory], number_of(segment.place)
                is_own = segment.memory >= self.imported_memory_count
                if not is_own or place is None or place + len(segment.data) > type.limits.min * type.page_size:
                    return False
        return True


def _activating(init: str, drop: str, segment: int, target: int, count: int, offset: int) -> Iterator[Instruction]:
    """Yield what copies all `count` entries of a segment to a place that is on the stack, and drops it."""
    yield Instruction("i32.const", (0,), offset)
    yield Instruction("i32.const", (count,), offset)
    yield Instruction(init, (segment, target), offset)
    yield Instruction(drop, (segment,), offset)


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
