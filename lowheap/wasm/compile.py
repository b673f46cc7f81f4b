"""From decoded functions to LLVM IR.

Each function becomes one LLVM function in SSA form, built in one pass over its instructions: the operand stack and the
locals hold SSA values at compile time, and where control joins, phis are made for what differs. A branch to a block's
end leaves an edge (where from, which values, which locals); the block's `end` turns its edges into phis. A loop's
header gets a phi for each of its parameters and for each local that is set inside, which a scan beforehand has found.

References are i32 values like any other, but remembered as such: when the function is complete, the liveness pass of
`jit/safepoints.py` finds out which of them live across which call. What a validator guarantees is relied on here; code
that cannot be reached is skipped.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from lowheap.errors import TrapCode, UnsupportedError
from lowheap.jit import runtime, safepoints, transitions
from lowheap.jit.barriers import BarrierSet
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
    ReferenceShape,
    llvm_type,
)
from lowheap.jit.marks import MarkedModule
from lowheap.jit.transitions import Signature
from lowheap.layout import (
    BLOCK_ALIGN,
    I31_SHIFT,
    I31_TAG,
    NULL,
    SMALL_BLOCK_LIMIT,
    VALUE_SLOT_SIZE,
    FreeBlock,
    GcArrayLayout,
    GcStructLayout,
    GcTypeLayouts,
    VMContext,
    VMContextLayout,
    VMDrcArrayHeader,
    VMDrcHeader,
    VMFuncRef,
    VMFunctionImport,
    VMGcKind,
    VMHeapControl,
    VMStoreContext,
    VMTypeInfo,
    block_length,
)
from lowheap.types import (
    AbstractHeapType,
    ArrayType,
    FieldType,
    FuncType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    StructType,
    TypeRegistry,
    ValType,
    VectorType,
    storage_size,
)
from lowheap.wasm import numeric
from lowheap.wasm.decode import (
    BlockType,
    DecodedModule,
    FunctionImport,
    GlobalImport,
    GlobalType,
    Instruction,
)

_log = logging.getLogger("lowheap.wasm")

_PROGRESS_SECONDS = 1  # between two messages in the log

INITIALISE = "lowheap.initialise"
"""The function that evaluates the globals' initialisers and calls the start function; entered like any other."""

FUNCTION_TABLE = "lowheap.wasm_functions"
"""The addresses of the module's functions that can be called from outside, in the order of `escaping_functions`."""

INITIALISE_SIGNATURE = Signature("", "")

# The stack check of a function counts its frame if that may be large: so many bytes for each local and operand. Smaller
# frames fit what is left beyond the limit.
_LARGE_FRAME = 4096
_BYTES_PER_VALUE = 16


class ModuleCompiler:
    """Compiles one decoded module. `type_indices` are the engine's indices of the module's types."""

    def __init__(
        self,
        decoded: DecodedModule,
        types: TypeRegistry,
        type_indices: Sequence[int],
        barriers: BarrierSet,
        *,
        inline_allocation: bool,
        marked: bool = False,
    ) -> None:
        """Gather what all functions of the module need to know. UnsupportedError for a value type that is not had.

        `inline_allocation`: take blocks off the size classes' lists without a call, where there is one. `marked`: keep
        marks of what is emitted for which event, for a listing.
        """
        self.decoded = decoded
        self.types = types
        self.type_indices = type_indices
        self.barriers = barriers
        self.inline_allocation = inline_allocation
        self.module = (MarkedModule if marked else ir.Module)(decoded.names.module or "module")
        self.imported_functions = [i.desc.type_index for i in decoded.imports if isinstance(i.desc, FunctionImport)]
        self.function_types = [self.function_type(t) for t in (*self.imported_functions, *decoded.functions)]
        imported_globals = [i.desc.type for i in decoded.imports if isinstance(i.desc, GlobalImport)]
        self.imported_global_count = len(imported_globals)
        self.global_types = [
            GlobalType(self.canonical(t.storage), t.mutable)
            for t in (*imported_globals, *(definition.type for definition in decoded.globals))
        ]
        self.vmctx_layout = vmctx_layout(decoded)
        self._layouts = GcTypeLayouts()
        self._layout_cache: dict[int, GcStructLayout | GcArrayLayout] = {}
        self._check_value_types()
        transitions.define(self.module)
        self.functions = [
            self._declare(len(self.imported_functions) + number) for number in range(len(decoded.functions))
        ]
        self.escaping_functions = self._find_escaping_functions()
        self.collecting_functions = self._find_collecting_functions()

    def compile(self, progress: Callable[[int, int], None] | None = None) -> tuple[ir.Module, tuple[str, ...]]:
        """Compile everything, and return the module with the names of its globals that linking must find.

        `progress(done, total)` is called before the first function and after each.
        """
        symbols = []
        report = _Progress(len(self.functions), progress)
        for function, body, type in zip(
            self.functions, self.decoded.bodies, self.function_types[len(self.imported_functions) :], strict=True
        ):
            FunctionCompiler(self, function, type, body.locals, body.instructions, body.offset).compile()
            report.advance()
        if self.decoded.globals or self.decoded.start is not None:
            self._compile_initialiser()
            symbols.append(INITIALISE)
        imported = {Signature.of(type) for type in self.function_types[: len(self.imported_functions)]}
        for signature in sorted(imported, key=lambda each: each.host_stub):
            transitions.define_host_stub(self.module, signature)
            symbols.append(signature.host_stub)
        defined = [index for index in self.escaping_functions if index >= len(self.imported_functions)]
        signatures = {Signature.of(self.function_types[index]) for index in self.escaping_functions}
        for signature in sorted({*signatures, INITIALISE_SIGNATURE}, key=lambda each: each.entry):
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

    # What the module's indices mean

    def canonical(self, type: Any) -> Any:
        """Return a storage type with the engine's type index in place of the module's."""
        if isinstance(type, RefType) and isinstance(type.heap_type, int):
            return RefType(type.nullable, self.type_indices[type.heap_type])
        return type

    def function_type(self, type_index: int) -> FuncType:
        """Return the function type at one of the module's type indices."""
        composite = self.types[self.type_indices[type_index]].composite
        assert isinstance(composite, FuncType), "validated: a function's type is a function type"
        return composite

    def fields(self, type_index: int) -> tuple[FieldType, ...]:
        """Return the fields of a struct type at one of the module's type indices."""
        composite = self.types[self.type_indices[type_index]].composite
        assert isinstance(composite, StructType), "validated: struct instructions have struct types"
        return composite.fields

    def element(self, type_index: int) -> FieldType:
        """Return the element of an array type at one of the module's type indices."""
        composite = self.types[self.type_indices[type_index]].composite
        assert isinstance(composite, ArrayType), "validated: array instructions have array types"
        return composite.element

    def origin_of_field(self, type_index: int, number: int) -> int:
        """Return the engine's index of the topmost supertype of a struct type that has field `number`."""
        for index in self.types.supertypes(self.type_indices[type_index]):
            composite = self.types[index].composite
            if isinstance(composite, StructType) and number < len(composite.fields):
                return index
        raise AssertionError("validated: a struct type has the fields that instructions name")

    def struct_layout(self, type_index: int) -> GcStructLayout:
        """Return the layout of a struct type at one of the module's type indices."""
        layout = self._layout_cache.get(type_index)
        if layout is None:
            layout = self._layouts.struct_layout([self._slot(f.storage) for f in self.fields(type_index)])
            self._layout_cache[type_index] = layout
        assert isinstance(layout, GcStructLayout), "validated: struct instructions have struct types"
        return layout

    def array_layout(self, type_index: int) -> GcArrayLayout:
        """Return the layout of an array type at one of the module's type indices."""
        layout = self._layout_cache.get(type_index)
        if layout is None:
            layout = self._layouts.array_layout(self._slot(self.element(type_index).storage))
            self._layout_cache[type_index] = layout
        assert isinstance(layout, GcArrayLayout), "validated: array instructions have array types"
        return layout

    def _slot(self, storage: StorageType) -> tuple[int, bool]:
        return storage_size(storage), self.types.is_traced(storage)

    def function_label(self, index: int) -> str:
        """Return how messages call a function: its index, and its name where it has one."""
        name = self.decoded.names.functions.get(index)
        return f"{index} (${name})" if name else str(index)

    def _declare(self, index: int) -> ir.Function:
        name = re.sub(r"[^A-Za-z0-9_.]", "_", self.decoded.names.functions.get(index, ""))
        type = transitions.function_type(Signature.of(self.function_types[index]))
        function = NativeFunction(self.module, type, f"wasm.{index}.{name}".rstrip("."))
        function.linkage = "internal"
        return function

    def _check_value_types(self) -> None:
        """Refuse v128 wherever compiled code would have to carry it."""

        def check(types: Sequence[StorageType], what: str, offset: int) -> None:
            if any(isinstance(type, VectorType) for type in types):
                raise UnsupportedError(f"unsupported value type v128 in {what}, at offset {offset:#x}")

        count = len(self.imported_functions)
        for index, type in enumerate(self.function_types):
            offset = 0 if index < count else self.decoded.bodies[index - count].offset
            check((*type.params, *type.results), f"the type of function {self.function_label(index)}", offset)
        for index, body in enumerate(self.decoded.bodies, count):
            check(body.locals, f"a local of function {self.function_label(index)}", body.offset)
            for instruction in body.instructions:
                self._check_instruction(instruction, index, check)
        for index, global_type in enumerate(self.global_types):
            number = index - self.imported_global_count
            check([global_type.storage], f"global {index}", self.decoded.globals[number].offset if number >= 0 else 0)

    def _check_instruction(self, instruction: Instruction, index: int, check: Callable[..., None]) -> None:
        what = f"the {instruction.name} of function {self.function_label(index)}"
        for operand in instruction.operands:
            if isinstance(operand, BlockType):
                check((*operand.params, *operand.results), what, instruction.offset)
            elif isinstance(operand, VectorType):
                check([operand], what, instruction.offset)
        if instruction.name.startswith("struct.") or instruction.name.startswith("array."):
            type_index = instruction.operands[0] if instruction.operands else None
            if isinstance(type_index, int):
                composite = self.types[self.type_indices[type_index]].composite
                if isinstance(composite, StructType):
                    check([f.storage for f in composite.fields], what, instruction.offset)
                elif isinstance(composite, ArrayType):
                    check([composite.element.storage], what, instruction.offset)

    def _find_escaping_functions(self) -> list[int]:
        """Functions that more than direct calls can reach: exported ones, and those that `ref.func` names."""
        escaping = {export.index for export in self.decoded.exports if export.kind == "function"}
        escaping.update(index for segment in self.decoded.elements for index in segment.functions)
        for definition in self.decoded.globals:
            escaping.update(_index(i) for i in definition.init if i.name == "ref.func")
        return sorted(escaping)

    def _find_collecting_functions(self) -> set[int]:
        """The module's own functions that may come to a collection: that allocate, leave the module, or call such."""
        imported = len(self.imported_functions)
        callers: dict[int, list[int]] = {}
        pending: list[int] = []
        for index, body in enumerate(self.decoded.bodies, imported):
            for instruction in body.instructions:
                if instruction.name == "call":
                    callers.setdefault(_index(instruction), []).append(index)
                elif instruction.name in _COLLECTING_INSTRUCTIONS:
                    pending.append(index)
        pending += [caller for callee in range(imported) for caller in callers.get(callee, ())]
        found: set[int] = set()
        while pending:
            index = pending.pop()
            if index not in found:
                found.add(index)
                pending += callers.get(index, ())
        return found

    def _compile_initialiser(self) -> None:
        instructions: list[Instruction] = []
        for index, definition in enumerate(self.decoded.globals, self.imported_global_count):
            instructions += definition.init[:-1]
            instructions.append(Instruction("global.init", (index,), definition.offset))
        if self.decoded.start is not None:
            instructions.append(Instruction("call", (self.decoded.start,), 0))
        instructions.append(Instruction("end", (), 0))
        function = NativeFunction(self.module, transitions.function_type(INITIALISE_SIGNATURE), INITIALISE, "noinline")
        FunctionCompiler(self, function, FuncType((), ()), (), instructions).compile()


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


def _index(instruction: Instruction) -> int:
    """The index that is an instruction's only operand."""
    (index,) = instruction.operands
    assert isinstance(index, int), "decoded: this operand is an index"
    return index


def vmctx_layout(decoded: DecodedModule) -> VMContextLayout:
    """Return how the vmctx of the module's instances is laid out."""
    functions = sum(isinstance(i.desc, FunctionImport) for i in decoded.imports)
    return VMContextLayout(
        imported_functions=functions,
        imported_globals=len(decoded.imports) - functions,
        defined_functions=len(decoded.functions),
        defined_globals=len(decoded.globals),
    )


@dataclass(slots=True)
class _Edge:
    """A way to a block's end: where from, with which results, and with which values of the locals set inside."""

    source: ir.Block
    values: list[ir.Value]
    locals: list[ir.Value]


@dataclass(slots=True)
class _Label:
    """A control construct that is open: what a branch to it carries and where it goes.

    `assigned` are the locals that are set inside. For a loop, `target` is its header and the phis are the header's; for
    anything else, `target` is the block behind its end, whose phis are made there from the edges.
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
    entry_values: list[ir.Value] = field(default_factory=list)
    entry_locals: list[ir.Value] = field(default_factory=list)

    @property
    def arity(self) -> tuple[ValType, ...]:
        """The types of what a branch to the label carries."""
        return self.params if self.kind == "loop" else self.results


_OPENING = ("block", "loop", "if")

_COLLECTING_INSTRUCTIONS = frozenset(
    ("struct.new", "struct.new_default", "array.new", "array.new_default", "array.new_fixed", "call_ref")
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
    ) -> None:
        """Start the function: its prologue, and its locals. `offset` is where its body begins in the module."""
        super().__init__(function)
        self.offset = offset
        self.context = module
        self.barriers = module.barriers
        self.type = type
        self.instructions = instructions
        self.references: list[ir.Value] = []
        self.local_types = [*type.params, *(module.canonical(t) for t in locals)]
        self._frame_size = self._check_stack()
        self._most_operands = 0
        params = function.args[1 : 1 + len(type.params)]
        self.locals: list[ir.Value] = [
            *(self._tag(param, param_type) for param, param_type in zip(params, type.params, strict=True)),
            *(_zero(t) for t in self.local_types[len(type.params) :]),
        ]
        self.stack: list[tuple[ir.Value, ValType]] = []
        self.labels: list[_Label] = []
        self.is_reachable = True
        self.name = ""

    def compile(self) -> None:
        """Compile the body, and tell its safepoints what lives across them."""
        assigned = self._scan_assigned_locals()
        self.labels.append(_Label("function", (), self.type.results, 0, [], None))
        skipped = 0  # how many constructs that open in unreachable code are still open
        for number, instruction in enumerate(self.instructions):
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
            self.name = name
            if name in _OPENING:
                block_type = instruction.operands[0]
                assert isinstance(block_type, BlockType), "decoded: block, loop and if have a block type"
                self._open(name, block_type, assigned[number])
            elif name in numeric.SIGNATURES:
                params, result = numeric.SIGNATURES[name]
                self.push(numeric.lower(self, name, self.pop_many(len(params))), result)
            else:
                _HANDLERS[name](self, *instruction.operands)
        self._finish_frame()
        safepoints.fill_safepoints(self.function, self.references)

    def _scan_assigned_locals(self) -> dict[int, list[int]]:
        """Find which locals are set inside each construct, by the number of the instruction that opens it."""
        found: dict[int, list[int]] = {}
        open_constructs: list[tuple[int, set[int]]] = [(-1, set())]
        for number, instruction in enumerate(self.instructions):
            if instruction.name in _OPENING:
                open_constructs.append((number, set()))
            elif instruction.name in ("local.set", "local.tee"):
                open_constructs[-1][1].add(_index(instruction))
            elif instruction.name == "end" and len(open_constructs) > 1:
                start, inside = open_constructs.pop()
                found[start] = sorted(inside)
                open_constructs[-1][1].update(inside)
        return found

    def _check_stack(self) -> ir.Instruction:
        """Trap when the frame would pass the stack limit. Returns the subtraction of the frame's size, 0 for now."""
        with self.event("stack check"):
            frame = self.builder.sub(self.builder.ptrtoint(self.frame_address(), I64), I64(0))
            # The limit is set at the outermost entry only. Being invariant, it is looked at once in a frame, whatever
            # is inlined there.
            limit = self.load(self.store_context, VMStoreContext.stack_limit, invariant=True)
            self.trap_if(self.builder.icmp_unsigned("<", frame, limit), TrapCode.STACK_OVERFLOW)
        return frame

    def _finish_frame(self) -> None:
        """Now that the function is complete, fill in what its frame's size depends on.

        A function with a large frame is not inlined: its caller's check would not know of it.
        """
        size = (len(self.local_types) + self._most_operands) * _BYTES_PER_VALUE
        if self._most_results > 1:
            size += self._most_results * VALUE_SLOT_SIZE
        if size > _LARGE_FRAME:
            self._frame_size.operands = (self._frame_size.operands[0], I64(size))
            self.function.attributes.add("noinline")

    @functools.cached_property
    def _most_results(self) -> int:
        """How many results the calls of the function have at most."""
        most = 0
        for instruction in self.instructions:
            if instruction.name in ("call", "call_ref"):
                index = _index(instruction)
                by_type = instruction.name == "call_ref"
                type = self.context.function_type(index) if by_type else self.context.function_types[index]
                most = max(most, len(type.results))
        return most

    @functools.cached_property
    def _results_buffer(self) -> ir.Value:
        """The address of the frame's one buffer for several results, which are read at once after each call."""
        return self.stack_buffer(self._most_results * VALUE_SLOT_SIZE, VALUE_SLOT_SIZE)

    # ------------------------------------------------------------------------------------------------------------------
    # The operand stack

    def push(self, value: ir.Value, type: ValType) -> None:
        """Push a value; a traced reference is remembered for the safepoints."""
        self.stack.append((self._tag(value, type), type))
        self._most_operands = max(self._most_operands, len(self.stack))

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

    def shape(self, type: StorageType) -> ReferenceShape:
        """Return what barriers need to know of a reference type."""
        assert isinstance(type, RefType), "only references have barriers"
        return ReferenceShape.of(type, is_traced=self.context.types.is_traced(type))

    # ------------------------------------------------------------------------------------------------------------------
    # Control

    def _open(self, kind: str, block_type: BlockType, assigned: list[int]) -> None:
        condition = self.pop() if kind == "if" else None
        params = tuple(self.context.canonical(t) for t in block_type.params)
        results = tuple(self.context.canonical(t) for t in block_type.results)
        values = self.pop_many(len(params))
        label = _Label(kind, params, results, len(self.stack), assigned, self.function.append_basic_block(kind))
        self.labels.append(label)
        if kind == "loop":
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
            self.builder.cbranch(self._truth(condition), then, label.otherwise)
            self.builder.position_at_end(then)
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
        if label.kind == "loop":  # its end is no label; what fell through goes on
            self.labels.pop()
            return
        if self.is_reachable:
            self._branch(0, self.pop_many(len(label.results)))
        if label.otherwise is not None:  # an if without an else: parameters are its results
            self._start_otherwise(label)
            self._branch(0, self.pop_many(len(label.results)))
        self.labels.pop()
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
        source = self.builder.block
        locals = self._get_locals(label.assigned)
        if label.kind == "loop":
            for phi, value in zip((*label.value_phis, *label.local_phis), (*values, *locals), strict=True):
                phi.add_incoming(value, source)
        else:
            label.edges.append(_Edge(source, values, locals))
        self.builder.branch(label.target)

    def _branch_if(self, condition: ir.Value, depth: int, values: list[ir.Value]) -> None:
        """Branch to a label if an i1 holds, else go on."""
        taken, proceed = self.function.append_basic_block(), self.function.append_basic_block()
        self.builder.cbranch(condition, taken, proceed)
        self.builder.position_at_end(taken)
        self._branch(depth, values)
        self.builder.position_at_end(proceed)
        self.is_reachable = True

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
            for number, value in enumerate(values):
                self.store_typed(value, self.at(buffer, number * VALUE_SLOT_SIZE))
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
        for depth in (*depths, default):
            if depth not in targets:
                targets[depth] = self.function.append_basic_block("br_table")
                self.builder.position_at_end(targets[depth])
                self._branch(depth, self._branch_values(depth))
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
                result = safepoints.call(self.builder, callee, args)
        else:
            result = self.builder.call(callee, args)
        if len(type.results) <= 1:
            if type.results:
                self.push(result, type.results[0])
            return
        buffer = self._results_buffer
        for number, result_type in enumerate(type.results):
            place = self.at(buffer, number * VALUE_SLOT_SIZE)
            self.push(self.load_typed(place, llvm_type(result_type)), result_type)

    def _call_address(self, code: ir.Value, vmctx: ir.Value, type: FuncType) -> None:
        shape = transitions.function_type(Signature.of(type))
        self._call(self.function_pointer(code, shape.return_type, shape.args), vmctx, type)

    @_instruction("call")
    def _call_function(self, index: int) -> None:
        type = self.context.function_types[index]
        imported = len(self.context.imported_functions)
        if index >= imported:
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
        entry = self._function_entry(function)
        code = self.load_pointer(entry, VMFuncRef.code)
        vmctx = self.load_pointer(entry, VMFuncRef.vmctx)
        self._call_address(code, vmctx, self.context.function_type(type_index))

    def _function_entry(self, function: ir.Value) -> ir.Value:
        """Return the address of a funcref's entry in the store's function table."""
        table = self.load_pointer(self.store_context, VMStoreContext.functions, invariant=True)
        return self._entry_of(table, function, VMFuncRef)

    def _entry_of(self, table: ir.Value, index: ir.Value, structure: type[ctypes.Structure]) -> ir.Value:
        """Return the address of an entry, a structure, in a table of them."""
        return self.at(table, self.builder.mul(self.builder.zext(index, I64), I64(ctypes.sizeof(structure))))

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

    def _global_cell(self, index: int) -> ir.Value:
        imported, layout = self.context.imported_global_count, self.context.vmctx_layout
        if index >= imported:
            return self.named(self.at(self.vmctx, layout.global_cell(index - imported)), f"global {index}")
        cell = self.load_typed(self.at(self.vmctx, layout.global_import(index)), PTR, invariant=True)
        return self.named(cell, "imported global")  # two imports may be one global

    @_instruction("global.get")
    def _global_get(self, index: int) -> None:
        type = self.context.global_types[index].storage
        self.push(self._read(self._global_cell(index), type), type)

    @_instruction("global.set")
    def _global_set(self, index: int) -> None:
        self._write(self._global_cell(index), self.pop(), self.context.global_types[index].storage)

    @_instruction("global.init")
    def _global_init(self, index: int) -> None:
        """Not WebAssembly's: give a global its first value, in the module's initialiser."""
        self._init(self._global_cell(index), self.pop(), self.context.global_types[index].storage)

    @_instruction("i32.const")
    def _i32_const(self, value: int) -> None:
        self.push(I32(value), NumType.I32)

    @_instruction("i64.const")
    def _i64_const(self, value: int) -> None:
        self.push(I64(value), NumType.I64)

    @_instruction("f32.const")
    def _f32_const(self, bits: int) -> None:
        self.push(I32(bits).bitcast(F32), NumType.F32)  # through an integer, so that a NaN keeps its payload

    @_instruction("f64.const")
    def _f64_const(self, bits: int) -> None:
        self.push(I64(bits).bitcast(F64), NumType.F64)

    # ------------------------------------------------------------------------------------------------------------------
    # Memory that holds values: globals, fields, elements

    def _read(self, address: ir.Value, storage: StorageType) -> ir.Value:
        """Load a value; a reference through the read barrier."""
        if isinstance(storage, RefType):
            return self.barriers.read(self, address, self.shape(storage))
        return self.load_typed(address, llvm_type(storage))

    def _write(self, address: ir.Value, value: ir.Value, storage: StorageType) -> None:
        """Store over a value; a reference through the write barrier."""
        if isinstance(storage, RefType):
            self.barriers.write(self, address, value, self.shape(storage))
        else:
            self.store_typed(self._pack(value, storage), address)

    def _init(self, address: ir.Value, value: ir.Value, storage: StorageType) -> None:
        """Store where there is nothing yet; a reference through the init barrier."""
        if isinstance(storage, RefType):
            self.barriers.init(self, address, value, self.shape(storage))
        else:
            self.store_typed(self._pack(value, storage), address)

    def _pack(self, value: ir.Value, storage: StorageType) -> ir.Value:
        return self.builder.trunc(value, llvm_type(storage)) if isinstance(storage, PackedType) else value

    def _push_read(self, address: ir.Value, storage: StorageType) -> None:
        """Read a field or an element, extended as the instruction's name says, and push it."""
        value = self._read(address, storage)
        if isinstance(storage, PackedType):
            extend = self.builder.sext if self.name.endswith("_s") else self.builder.zext
            self.push(extend(value, I32), NumType.I32)
        else:
            self.push(value, storage)

    # ------------------------------------------------------------------------------------------------------------------
    # References

    def _check_not_null(self, reference: ir.Value, type: ValType) -> None:
        if isinstance(type, RefType) and type.nullable:
            self.trap_if(self.is_null(reference), TrapCode.NULL_REFERENCE)

    def _pop_object(self) -> ir.Value:
        """Pop a reference to an object; trap when it is null."""
        reference, type = self.stack.pop()
        self._check_not_null(reference, type)
        return reference

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
        matches = self._is_instance(reference, type, target)
        self.trap_if(self.builder.not_(matches), TrapCode.CAST_FAILURE)
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

    def _is_instance(self, reference: ir.Value, source: ValType, target: RefType) -> ir.Value:
        """Return, as an i1, whether a reference of static type `source` is of type `target` (the module's)."""
        assert isinstance(source, RefType), "validated: a reference"
        types, builder = self.context.types, self.builder
        wanted = self.context.canonical(target).heap_type
        if types.is_subtype(source.heap_type, wanted):  # only null can be wrong
            if target.nullable or not source.nullable:
                return I1(1)
            return builder.not_(self.is_null(reference))
        if wanted is types.bottom(wanted):  # only null can be right
            return self.is_null(reference) if target.nullable else I1(0)
        if not source.nullable:
            return self._is_object_of(reference, source, target)
        start, done = builder.block, self.function.append_basic_block()
        non_null = self.function.append_basic_block()
        builder.cbranch(self.is_null(reference), done, non_null)
        builder.position_at_end(non_null)
        matches = self._is_object_of(reference, source, target)
        end = builder.block
        builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(I1)
        result.add_incoming(I1(int(target.nullable)), start)
        result.add_incoming(matches, end)
        return result

    def _is_object_of(self, reference: ir.Value, source: RefType, target: RefType) -> ir.Value:
        """Whether a reference that is not null is of the target's heap type."""
        builder, wanted = self.builder, target.heap_type
        if self.context.types.top(self.context.canonical(target).heap_type) is AbstractHeapType.FUNC:
            assert isinstance(wanted, int), "func is the top, so a subtype check precedes"
            return self._is_type(self.load(self._function_entry(reference), VMFuncRef.type_index), wanted)
        if wanted is AbstractHeapType.I31:
            return self.is_i31(reference)
        if not self.shape(source).may_be_i31:
            return self._has_heap_type(reference, wanted)
        start, done = builder.block, self.function.append_basic_block()
        boxed = self.function.append_basic_block()
        builder.cbranch(self.is_i31(reference), done, boxed)
        builder.position_at_end(boxed)
        matches = self._has_heap_type(reference, wanted)
        end = builder.block
        builder.branch(done)
        builder.position_at_end(done)
        result = builder.phi(I1)
        result.add_incoming(I1(int(wanted is AbstractHeapType.EQ)), start)
        result.add_incoming(matches, end)
        return result

    def _has_heap_type(self, reference: ir.Value, wanted: AbstractHeapType | int) -> ir.Value:
        """Whether an object is of a heap type, by its header."""
        if isinstance(wanted, int):
            return self._is_type(self.load_header(reference, VMDrcHeader.type_index), wanted)
        kind = I32(_KINDS[wanted])
        word = self.load_header(reference, VMDrcHeader.kind_and_reserved)
        return self.builder.icmp_unsigned("==", self.builder.and_(word, kind), kind)

    def _is_type(self, actual: ir.Value, wanted: int) -> ir.Value:
        """Whether a type index is that of one of the module's types, or of a subtype of it."""
        builder = self.builder
        expected = self._type_id(wanted)
        same = builder.icmp_unsigned("==", actual, expected)
        engine_index = self.context.type_indices[wanted]
        if self.context.types[engine_index].final:
            return same
        depth = len(self.context.types.supertypes(engine_index)) - 1
        start, done = builder.block, self.function.append_basic_block()
        known, deep = self.function.append_basic_block(), self.function.append_basic_block()
        look_up = self.function.append_basic_block()
        builder.cbranch(same, done, known)

        builder.position_at_end(known)  # an externref, seen as an anyref, has no entry in the type table
        count = self.load(self.control, VMHeapControl.type_count)
        builder.cbranch(builder.icmp_unsigned("<", actual, count), deep, done)

        builder.position_at_end(deep)
        table = self.load_pointer(self.control, VMHeapControl.type_table, invariant=True)
        info = self._entry_of(table, actual, VMTypeInfo)
        is_deep = builder.icmp_unsigned(">=", self.load(info, VMTypeInfo.depth, invariant=True), I32(depth))
        builder.cbranch(is_deep, look_up, done)

        builder.position_at_end(look_up)
        position = builder.add(self.load(info, VMTypeInfo.supertypes_start, invariant=True), I32(depth))
        data = self.load_pointer(self.control, VMHeapControl.type_data, invariant=True)
        place = self.at(data, builder.mul(builder.zext(position, I64), I64(storage_size(NumType.I32))))
        above = builder.icmp_unsigned("==", self.load_typed(place, I32, invariant=True), expected)
        builder.branch(done)

        builder.position_at_end(done)
        result = builder.phi(I1)
        result.add_incoming(I1(1), start)
        result.add_incoming(I1(0), known)
        result.add_incoming(I1(0), deep)
        result.add_incoming(above, look_up)
        return result

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
    # Structs

    def _type_id(self, type_index: int) -> ir.Value:
        """Return the engine's index of one of the module's types."""
        ids = self.load_pointer(self.vmctx, VMContext.type_ids, invariant=True)
        return self.load_typed(self.at(ids, type_index * storage_size(NumType.I32)), I32, invariant=True)

    def _allocate(self, function: str, args: Sequence[ir.Value], type_index: int) -> ir.Value:
        """Call for a new object, which is a safepoint."""
        args = [self.vmctx, I32(self.offset), *args]
        callee = self.declare(function, REFERENCE, [arg.type for arg in args])
        with self.event("safepoint"):
            reference = safepoints.call(self.builder, callee, args)
        return self._tag(reference, RefType(False, self.context.type_indices[type_index]))

    def _allocate_struct(self, type_index: int) -> ir.Value:
        size = self.context.struct_layout(type_index).size
        args = [self._type_id(type_index)]
        with self.event("allocate"):
            if self.context.inline_allocation and block_length(size) < SMALL_BLOCK_LIMIT:
                call = functools.partial(self._allocate, transitions.ALLOCATE_STRUCT_FUNCTION, args, type_index)
                return self._allocate_inline(type_index, VMGcKind.STRUCT_REF, I32(size), call)
            reference = self._allocate(transitions.ALLOCATE_STRUCT_FUNCTION, args, type_index)
            self.barriers.allocate(self, reference)
        return reference

    def _allocate_inline(
        self,
        type_index: int,
        kind: VMGcKind,
        size: ir.Value,
        call: Callable[[], ir.Value],
        *,
        is_small: ir.Value | None = None,
        array_length: ir.Value | None = None,
    ) -> ir.Value:
        """Take a block off its size class's list and write the header; `call` for an object when the list is empty.

        `is_small` tells whether a block for `size` bytes is of a small class; None: it is. An array's length is part of
        its header. The hand-over is emitted on either way: right behind the header's stores, LLVM makes one store of
        the two to a field that it writes again.
        """
        builder = self.builder
        listed, empty = self.function.append_basic_block("pop"), self.function.append_basic_block("refill")
        done = self.function.append_basic_block()
        if is_small is not None:
            small = self.function.append_basic_block("small")
            builder.cbranch(is_small, small, empty).set_weights([1 << 10, 1])
            builder.position_at_end(small)
        length = builder.and_(builder.add(size, I32(BLOCK_ALIGN - 1)), I32(-BLOCK_ALIGN))
        head, place = runtime.emit_pop(self, length)
        builder.cbranch(self.is_null(head), empty, listed).set_weights([1, 1 << 10])

        builder.position_at_end(listed)
        self.store_typed(self.load(self.heap_address(head), FreeBlock.next), place)
        self.store_header(kind, head, VMDrcHeader.kind_and_reserved)
        self.store_header(self._type_id(type_index), head, VMDrcHeader.type_index)
        self.store_header(1, head, VMDrcHeader.ref_count)
        self.store_header(size, head, VMDrcHeader.object_size)
        if array_length is not None:
            self.store_header(array_length, head, VMDrcArrayHeader.length)
        for counter, amount in (
            (VMHeapControl.objects_allocated, I64(1)),
            (VMHeapControl.bytes_allocated, builder.zext(length, I64)),
        ):
            self.store(builder.add(self.load(self.control, counter), amount), self.control, counter)
        self.barriers.allocate(self, head)
        popped = builder.block
        builder.branch(done)

        builder.position_at_end(empty)
        called = call()
        self.barriers.allocate(self, called)
        refilled = builder.block
        builder.branch(done)

        builder.position_at_end(done)
        type = RefType(False, self.context.type_indices[type_index])
        return self._phi(type, [(head, popped), (called, refilled)])

    def _field_address_of(self, reference: ir.Value, type_index: int, number: int) -> ir.Value:
        """The address of a field, which is one with the field of that number in the supertypes that have it."""
        place = self.context.struct_layout(type_index).fields[number]
        origin = self.context.origin_of_field(type_index, number)
        return self.named(self.heap_address(reference, place.offset), f"struct {origin}+{number}")

    @_instruction("struct.new", "struct.new_default")
    def _struct_new(self, type_index: int) -> None:
        fields = self.context.fields(type_index)
        values = self.pop_many(len(fields)) if self.name == "struct.new" else [_zero(f.storage) for f in fields]
        reference = self._allocate_struct(type_index)
        for number, (value, declared) in enumerate(zip(values, fields, strict=True)):
            self._init(self._field_address_of(reference, type_index, number), value, declared.storage)
        self.push(reference, RefType(False, self.context.type_indices[type_index]))

    @_instruction("struct.get", "struct.get_s", "struct.get_u")
    def _struct_get(self, type_index: int, number: int) -> None:
        address = self._field_address_of(self._pop_object(), type_index, number)
        self._push_read(address, self.context.fields(type_index)[number].storage)

    @_instruction("struct.set")
    def _struct_set(self, type_index: int, number: int) -> None:
        value = self.pop()
        address = self._field_address_of(self._pop_object(), type_index, number)
        self._write(address, value, self.context.fields(type_index)[number].storage)

    # ------------------------------------------------------------------------------------------------------------------
    # Arrays

    def _allocate_array(self, type_index: int, length: ir.Value) -> ir.Value:
        layout, builder = self.context.array_layout(type_index), self.builder
        args = [self._type_id(type_index), length]
        with self.event("allocate"):
            if self.context.inline_allocation:
                most = (SMALL_BLOCK_LIMIT - BLOCK_ALIGN - layout.elements_offset) // layout.element_size
                is_small = builder.icmp_unsigned("<=", length, I32(most))
                size = builder.add(I32(layout.elements_offset), builder.mul(length, I32(layout.element_size)))
                call = functools.partial(self._allocate, transitions.ALLOCATE_ARRAY_FUNCTION, args, type_index)
                return self._allocate_inline(
                    type_index, VMGcKind.ARRAY_REF, size, call, is_small=is_small, array_length=length
                )
            array = self._allocate(transitions.ALLOCATE_ARRAY_FUNCTION, args, type_index)
            self.barriers.allocate(self, array)
        return array

    def _element_address(self, array: ir.Value, type_index: int, index: ir.Value) -> ir.Value:
        layout = self.context.array_layout(type_index)
        scaled = self.builder.mul(index, I32(layout.element_size))
        address = self.at(self.heap_address(array, scaled), layout.elements_offset)
        origin = self.context.types.supertypes(self.context.type_indices[type_index])[0]
        return self.named(address, f"array {origin}")

    def _length(self, array: ir.Value) -> ir.Value:
        return self.load_header(array, VMDrcArrayHeader.length)

    def _check_index(self, array: ir.Value, index: ir.Value) -> None:
        outside = self.builder.icmp_unsigned(">=", index, self._length(array))
        self.trap_if(outside, TrapCode.ARRAY_OUT_OF_BOUNDS)

    def _check_range(self, array: ir.Value, start: ir.Value, count: ir.Value) -> None:
        builder = self.builder
        end = builder.add(builder.zext(start, I64), builder.zext(count, I64))
        outside = builder.icmp_unsigned(">", end, builder.zext(self._length(array), I64))
        self.trap_if(outside, TrapCode.ARRAY_OUT_OF_BOUNDS)

    @contextmanager
    def _counting(self, count: ir.Value) -> Iterator[ir.Value]:
        """Emit a loop whose body runs for each u32 below `count`; yields the number."""
        builder = self.builder
        start, body = builder.block, self.function.append_basic_block("each")
        done = self.function.append_basic_block()
        builder.cbranch(builder.icmp_unsigned("==", count, I32(0)), done, body)
        builder.position_at_end(body)
        number = builder.phi(I32)
        number.add_incoming(I32(0), start)
        yield number
        following = builder.add(number, I32(1))
        number.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_unsigned("<", following, count), body, done)
        builder.position_at_end(done)

    @_instruction("array.new")
    def _array_new(self, type_index: int) -> None:
        value, length = self.pop_many(2)
        self._new_filled(type_index, value, length)

    @_instruction("array.new_default")
    def _array_new_default(self, type_index: int) -> None:
        self._new_filled(type_index, _zero(self.context.element(type_index).storage), self.pop())

    def _new_filled(self, type_index: int, value: ir.Value, length: ir.Value) -> None:
        storage = self.context.element(type_index).storage
        array = self._allocate_array(type_index, length)
        with self._counting(length) as number:
            self._init(self._element_address(array, type_index, number), value, storage)
        self.push(array, RefType(False, self.context.type_indices[type_index]))

    @_instruction("array.new_fixed")
    def _array_new_fixed(self, type_index: int, length: int) -> None:
        values = self.pop_many(length)
        storage = self.context.element(type_index).storage
        array = self._allocate_array(type_index, I32(length))
        for number, value in enumerate(values):
            self._init(self._element_address(array, type_index, I32(number)), value, storage)
        self.push(array, RefType(False, self.context.type_indices[type_index]))

    @_instruction("array.get", "array.get_s", "array.get_u")
    def _array_get(self, type_index: int) -> None:
        index = self.pop()
        array = self._pop_object()
        self._check_index(array, index)
        self._push_read(self._element_address(array, type_index, index), self.context.element(type_index).storage)

    @_instruction("array.set")
    def _array_set(self, type_index: int) -> None:
        index, value = self.pop_many(2)
        array = self._pop_object()
        self._check_index(array, index)
        self._write(self._element_address(array, type_index, index), value, self.context.element(type_index).storage)

    @_instruction("array.len")
    def _array_len(self) -> None:
        self.push(self._length(self._pop_object()), NumType.I32)

    @_instruction("array.fill")
    def _array_fill(self, type_index: int) -> None:
        start, value, count = self.pop_many(3)
        array = self._pop_object()
        self._check_range(array, start, count)
        storage = self.context.element(type_index).storage
        with self._counting(count) as number:
            index = self.builder.add(start, number)
            self._write(self._element_address(array, type_index, index), value, storage)

    @_instruction("array.copy")
    def _array_copy(self, target_type: int, source_type: int) -> None:
        count = self.pop()
        source_start = self.pop()
        source, source_reference = self.stack.pop()
        target_start = self.pop()
        target = self._pop_object()
        # In wasmtime's order, so that a program that could trap in two ways traps in the same one.
        self._check_range(target, target_start, count)
        self._check_not_null(source, source_reference)
        self._check_range(source, source_start, count)
        builder, storage = self.builder, self.context.element(target_type).storage
        if not isinstance(storage, RefType) or not self.shape(storage).is_counted:
            move = self.intrinsic("llvm.memmove.p0.p0.i64", VOID, [PTR, PTR, I64, I1])
            length = builder.mul(builder.zext(count, I64), I64(storage_size(storage)))
            to = self._element_address(target, target_type, target_start)
            builder.call(move, [to, self._element_address(source, source_type, source_start), length, I1(0)])
            return
        # Element by element, through the barriers; backwards where the source would be overwritten before it is read.
        # Nothing here is a safepoint, so both arrays stay on the list throughout.
        backwards = builder.icmp_unsigned("<", source_start, target_start)
        last = builder.sub(count, I32(1))
        with self._counting(count) as number:
            number = builder.select(backwards, builder.sub(last, number), number)
            from_place = self._element_address(source, source_type, builder.add(source_start, number))
            to_place = self._element_address(target, target_type, builder.add(target_start, number))
            self._write(to_place, self.load_typed(from_place, REFERENCE), storage)


_KINDS = {
    AbstractHeapType.EQ: VMGcKind.EQ_REF,
    AbstractHeapType.STRUCT: VMGcKind.STRUCT_REF,
    AbstractHeapType.ARRAY: VMGcKind.ARRAY_REF,
}


def _zero(storage: StorageType) -> ir.Constant:
    """The default value, as it is on the operand stack: packed types are i32 there."""
    if isinstance(storage, PackedType):
        return I32(0)
    return ir.Constant(llvm_type(storage), 0)
