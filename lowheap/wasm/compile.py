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
from lowheap.jit.conventions import SHARED
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
from lowheap.jit.signatures import EXCEPTIONS, TRAP_FUNCTION, Signature, initialiser
from lowheap.representation import printable
from lowheap.types import FuncType
from lowheap.wasm.call_graph import CallGraph
from lowheap.wasm.call_targets import CallTargets
from lowheap.wasm.decode import ElementSegment, Instruction
from lowheap.wasm.events import EventFunctions, SharedEvents
from lowheap.wasm.fuel import Exempt, number_of
from lowheap.wasm.function import FunctionCompiler, ModuleState
from lowheap.wasm.inlining import MOST_INSTRUCTIONS, MOST_WHERE_OFTEN, SMALL, TINY, Body, Inliner
from lowheap.wasm.outline import FUNCTION_TABLE, ModuleOutline, function_of, index_operand

_log = logging.getLogger("lowheap.wasm")

_PROGRESS_SECONDS = 1  # between two messages in the log

INITIALISE_SIGNATURE = Signature("", "")

_COMPLETING = ("global.init", "table.first", "elem.first", "elem.drop", "data.drop", "drop")
"""What an initialiser has behind each part of an instance: nothing is on the stack then."""

_MOST_INITIALISING = 1000
"""About so many instructions of an initialiser are a function. LLVM takes more than twice as long for twice as many."""

_EXCEPTIONAL = ("try_table", "throw", "throw_ref")

_LARGE = 4_000
"""In a module of more instructions than these, compiled whole, only tiny functions are inlined: LLVM takes long."""

_LARGEST_TABLE_IMAGE = 1 << 20
"""A table of more entries is filled in when an instance is made, in wasmtime, and so takes fuel here."""


class ModuleCompiler(ModuleState):
    """Compiles one decoded module, or a piece of it."""

    def __init__(
        self,
        outline: ModuleOutline,
        graph: CallGraph,
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
        piece: Sequence[int] | None = None,
        shared: SharedEvents | None = None,
        counts: bool = False,
        call_targets: CallTargets | None = None,
    ) -> None:
        """Gather what all functions of the module need to know. `graph` is which of them call which.

        `inline_allocation`: take blocks off the size classes' lists without a call, where there is one. `inline`,
        `interruptible`, `consume_fuel` and `canonical_nans` are an engine's. `marked`: keep marks of what is emitted
        for which event, for a listing. `is_optimised`: LLVM is to make fast code of it, and not just soon. `located`:
        with debug information, of which instruction code is for.

        `piece`: compile these functions only, by their indices; without any, what is of no function. They call others
        by the addresses that the vmctx leads to. None: the whole module. `shared` are the events of other pieces, which
        are linked to this. `counts`: functions count how often they run, until they are worth optimising, and note what
        calls through references come to. `call_targets` is what was noted.
        """
        super().__init__(outline, barriers, inline_allocation=inline_allocation)
        self.module = (MarkedModule if marked else ir.Module)(self.decoded.names.module or "module")
        if not is_optimised:
            tell_no_aliases(self.module)
        self.debug_scopes = DebugScopes(self.module) if located else None
        self.events = EventFunctions(self, self.module, inline, shared)
        self.stack_checks: dict[str, int] = {}
        """The functions that check the stack limit, and the offset at which they trap."""
        self.interruptible = interruptible
        self.consumes_fuel = consume_fuel
        self.canonical_nans = canonical_nans
        self.is_optimised, self.counts = is_optimised, counts
        self.graph, self.call_targets = graph, call_targets
        self.piece, self.shared = piece, shared
        imported = len(self.imported_functions)
        every = range(imported, len(self.function_types))
        self.functions = {index: self._declare(index) for index in (every if piece is None else piece)}
        for index in graph.throwing & self.functions.keys():
            let_throw(self.functions[index])

    def compile(self, progress: Callable[[int, int], None] | None = None) -> tuple[ir.Module, tuple[str, ...]]:
        """Compile everything, and return the module with the names of its globals that linking must find.

        `progress(done, total)` is called before the first function and after each.
        """
        report = _Progress(len(self.functions), progress)
        imported = len(self.imported_functions)
        inliner = self._inliner()
        for index, function in self.functions.items():
            body = self.decoded.bodies[index - imported]
            FunctionCompiler(
                self,
                function,
                self.function_types[index],
                body.locals,
                Body(body.instructions, ()) if inliner is None else inliner.body(index),
                body.entry_offset,
                convention=self.graph.conventions[index],
                polls=index in self.graph.polling,
                number=index - imported if self.counts else None,
            ).compile()
            report.advance()
        symbols = [] if self.piece else self._compile_what_is_of_no_function()
        self.events.choose()
        known = () if self.shared is None else self.shared.known
        defined = transitions.define(self.module, self.barriers.allocate, known)
        if self.shared is None:
            symbols += [each.name for each in defined if each.name == TRAP_FUNCTION]
        else:
            for each in defined:
                each.linkage = ""
            self.shared.defined += [each.name for each in defined]
        named = [index for index in self.escaping_functions if index >= imported] if self.piece is None else self.piece
        table = ir.GlobalVariable(self.module, ir.ArrayType(PTR, len(named)), FUNCTION_TABLE)
        table.global_constant = True
        addresses = [ir.Constant(PTR, self.functions[index].get_reference()) for index in named]
        table.initializer = ir.Constant(table.value_type, addresses)
        symbols.append(FUNCTION_TABLE)
        for index in self.piece or ():  # where these are, once linked, tells where all sections are: LLVM makes several
            self.functions[index].linkage = ""
            symbols.append(self.functions[index].name)
        if self.shared is not None:
            symbols += self.shared.defined
        return self.module, tuple(symbols)

    def _inliner(self) -> Inliner | None:
        """What inlines functions; None where code is not optimised, or where fuel is counted, by calls among others."""
        if not self.is_optimised or self.consumes_fuel:
            return None
        is_large = self.piece is None and sum(len(each.instructions) for each in self.decoded.bodies) > _LARGE
        most = TINY if is_large else SMALL
        has_read_barrier = self.barriers.has_read_barrier
        targets = None if self.counts else self.call_targets  # what notes targets has sites for that, and no guesses
        room = MOST_INSTRUCTIONS if self.piece is None else MOST_WHERE_OFTEN
        return Inliner(self, self.graph, most, room=room, has_read_barrier=has_read_barrier, targets=targets)

    def _compile_what_is_of_no_function(self) -> list[str]:
        """Compile the initialiser, trampolines and stubs, and return the symbols of these."""
        symbols = []
        entered = [Signature.of(self.function_types[index], self.types) for index in self.escaping_functions]
        if initialising := list(self._initialising()):
            symbols += self._compile_initialisers(initialising)
            entered.append(INITIALISE_SIGNATURE)
        elif not entered:
            entered.append(INITIALISE_SIGNATURE)  # JITLink does not link an object that has no code at all
        imported = {Signature.of(type, self.types) for type in self.function_types[: len(self.imported_functions)]}
        for signature in sorted(imported, key=lambda each: each.host_stub):
            transitions.define_host_stub(self.module, signature)
            symbols.append(signature.host_stub)
        for signature in sorted(set(entered), key=lambda each: each.entry):
            transitions.define_entry(self.module, signature)
            symbols.append(signature.entry)
        if any(each.name in _EXCEPTIONAL for body in self.decoded.bodies for each in body.instructions):
            mark = ir.GlobalVariable(self.module, I8, EXCEPTIONS)
            mark.initializer = I8(0)
            symbols.append(EXCEPTIONS)
        return symbols

    def function_label(self, index: int) -> str:
        """Return how messages call a function: its index, and its name where it has one."""
        name = self.decoded.names.functions.get(index)
        return f"{index} (${printable(name)})" if name else str(index)

    def _declare(self, index: int) -> ir.Function:
        name = re.sub(r"[^A-Za-z0-9_.]", "_", self.decoded.names.functions.get(index, ""))
        type = self.graph.conventions[index].function_type(Signature.of(self.function_types[index], self.types))
        function = NativeFunction(self.module, type, f"wasm.{index}.{name}".rstrip("."), NO_MERGE)
        function.linkage = "internal"
        return function

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

    def _compile_initialisers(self, initialising: Sequence[tuple[Instruction, bool, bool]]) -> list[str]:
        """Compile what initialises an instance, and return the names of the functions, which are run in this order."""
        names: list[str] = []
        start, is_entered = 0, False
        for number, (each, _, _) in enumerate(initialising, 1):
            is_last = number == len(initialising)
            if is_last or (each.name in _COMPLETING and number - start >= _MOST_INITIALISING):
                part = initialising[start:number]
                names.append(initialiser(len(names)))
                self._compile_initialiser(names[-1], part, is_entered=is_entered, starts=is_last)
                is_entered = is_entered or not all(is_free for _, is_free, _ in part)
                start = number
        return names

    def _compile_initialiser(
        self, name: str, initialising: Sequence[tuple[Instruction, bool, bool]], *, is_entered: bool, starts: bool
    ) -> None:
        """Compile a function of these. `is_entered`: one before has taken what the call takes; `starts`: the last."""
        exempt = Exempt(is_entered)
        for number, (each, is_free, is_range) in enumerate(initialising):
            if is_free:
                exempt.wholly.add(number)
            elif is_range:
                exempt.but_range.add(number)
                if each.name == "table.first":
                    exempt.lengths[number] = self.table_types[index_operand(each)].limits.min
        exempt.wholly.add(len(initialising))
        whole = [*(instruction for instruction, _, _ in initialising), Instruction("end", (), 0)]
        function = NativeFunction(self.module, SHARED.function_type(INITIALISE_SIGNATURE), name, "noinline")
        called = self.decoded.start if starts else None
        if called is not None and (called < len(self.imported_functions) or called in self.graph.throwing):
            let_throw(function)
        FunctionCompiler(self, function, FuncType((), ()), (), Body(whole, ()), exempt=exempt, runs_once=True).compile()

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
