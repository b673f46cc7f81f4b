"""How machine code is made of a function of the subset: its checked tree to LLVM IR, through an `Emitter`.

A number is an integer of LLVM's, a view or a place an address, a record a few variables; variables that are set more
than once are stack slots, of which LLVM makes registers. What an emitter tells LLVM of places goes along: the fields of
headers and of the control block have names of their own for alias analysis, the type table's entries are invariant.

An inlined function's body, a generator's, and the body of the loop over it stand where they are called. Any other
function is one of the module's, made when the first call of it is translated, internal to the module.
"""

from __future__ import annotations

import ast
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from lowheap.errors import CompilerError
from lowheap.jit.emit import I1, I8, I32, I64, PTR, VOID, Emitter, NativeFunction, Variable
from lowheap.jit.engine import Target, optimise
from lowheap.layout import (
    COLLECTOR_STATE_OFFSET,
    CONTROL_BLOCK_OFFSET,
    HEAP_GUARD,
    TYPE_DATA_LIMIT,
    TYPE_LIMIT,
    FreeBlock,
    VMCollectorPart,
    VMContext,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcHeader,
    VMHeap,
    VMHeapControl,
    VMStoreContext,
    VMTypeInfo,
)
from lowheap.native.check import (
    BOOL,
    COMPARISONS,
    OPERATORS,
    U32,
    ArrayType,
    BoolType,
    Call,
    Checked,
    CollectorType,
    ConstantType,
    HeapType,
    NoneType,
    PlaceType,
    RecordType,
    StaticType,
    TupleType,
    Type,
    ViewType,
    WordType,
    field_type,
    has_effects,
    is_invariant,
    is_simple,
    record_types,
    word_type,
)
from lowheap.native.check import (
    I32 as I32_TYPE,
)
from lowheap.native.function import Native
from lowheap.native.heap import HEADERS
from lowheap.native.storage import ENTRIES_OFFSET, Buffer, SideTable
from lowheap.representation import short_repr

SIZE_CLASS_NAME = "size class"
"""What alias analysis calls the heads of the size classes."""

_HEADER_STRUCTURES = (VMGcHeader, VMDrcHeader, VMDrcArrayHeader, VMDrcExternRef, VMDrcExnHeader)
_ALIAS_PREFIXES: dict[type[ctypes.Structure], str] = {
    **dict.fromkeys(_HEADER_STRUCTURES, "header"),
    VMHeapControl: "control",
    VMStoreContext: "store context",
    VMContext: "vmctx",
}
_LIKELY, _UNLIKELY = (99, 1), (1, 99)


@dataclass
class View:
    """A structure at an address. `is_invariant`: nothing changes it while code runs."""

    address: ir.Value
    structure: type[ctypes.Structure]
    is_invariant: bool = False


@dataclass
class Place:
    """Where a number is, and what alias analysis calls it."""

    address: ir.Value
    word: WordType
    name: str | None = None


@dataclass
class Array:
    """Where several numbers or structures are."""

    address: ir.Value
    type: ArrayType


@dataclass
class RecordValue:
    """A record's variables."""

    variables: dict[str, _Variable]


@dataclass
class _Variable:
    """A variable that is set more than once."""

    slot: Variable
    type: Type


class _HeapValue:
    """The heap; there is one."""


_HEAP = _HeapValue()


@dataclass
class _Frame:
    """A body that is being translated: a function's own, or an inlined one's."""

    checked: Checked
    names: dict[str, Any] = field(default_factory=dict)
    done: ir.Block | None = None
    results: list[_Variable] = field(default_factory=list)
    direct: Any = None
    loops: list[tuple[ir.Block, ir.Block]] = field(default_factory=list)
    consume: Callable[[Any], None] | None = None
    returns_at_end: bool = False


def llvm_type(type: Type) -> ir.Type:
    """Return the LLVM type of a value in a parameter, a variable or a result."""
    if isinstance(type, WordType):
        return ir.IntType(type.bits)
    if isinstance(type, BoolType):
        return I1
    if isinstance(type, ViewType | PlaceType):
        return PTR
    if isinstance(type, NoneType):
        return VOID
    if isinstance(type, TupleType):
        return ir.LiteralStructType([llvm_type(each) for each in type.items])
    raise AssertionError(f"checked: {type} is no parameter, variable or result")


def declare(
    module: ir.Module,
    native: Native[..., Any],
    emitter: Callable[[ir.Function], Emitter],
    *,
    name: str | None = None,
    statics: dict[str, Any] | None = None,
    attributes: Sequence[str] = (),
    collector: Any = None,
) -> ir.Function:
    """Return the module's function for a native one, made at the first request.

    Its first argument is a vmctx, the others are the parameters', without the heap and what is static. `statics` are
    the values of the static parameters; of one that has a method `only`, what the function does not read is left out.
    `emitter` makes what emits into it, and `collector` is its collector. With a `name`, it is visible outside.
    """
    checked = native.checked
    if checked.yields is not None:
        raise CompilerError(f"{native.name} is a generator, and stands in a loop only")
    for each in checked.parameters:
        if isinstance(each.type, RecordType):
            raise CompilerError(f"{native.name} takes a record, and stands where it is called only")
        if isinstance(each.type, StaticType) and not isinstance((statics or {}).get(each.name), each.type.kind):
            raise CompilerError(f"{native.name} is compiled for a {each.type.kind.__name__} as its {each.name}")
    if statics:
        statics = {each: _only_what_is_read(checked, each, value, collector) for each, value in statics.items()}
    key = "".join(f".{value.key}" for value in (statics or {}).values())
    if name is None and native.linked_name:
        symbol = native.linked_name
    else:
        symbol = _symbol(module, (native, statics or {}), name or native.symbol + key, is_exported=name is not None)
    known = module.globals.get(symbol)
    if known is not None:
        defined: dict[str, Native[..., Any]] = module.__dict__.get("lowheap_linked", {})
        if defined.get(symbol, native) is not native:
            raise CompilerError(f"{native.name} and {defined[symbol].name} are both linked by the name {symbol}")
        return known
    if name is None and native.linked_name:
        module.__dict__.setdefault("lowheap_linked", {})[symbol] = native
    parameters = [each for each in checked.parameters if not isinstance(each.type, HeapType | StaticType)]
    type = ir.FunctionType(llvm_type(checked.result), [PTR, *(llvm_type(each.type) for each in parameters)])
    cold = ("cold", "noinline") if native.is_cold else ()
    function = NativeFunction(module, type, symbol, *cold, *attributes)
    if name is None:
        function.linkage = "internal"
    if checked.result == BOOL:
        function.return_value.add_attribute("zeroext")  # as C has it
    inner = emitter(function)
    given = iter(function.args[1:])
    arguments: list[Any] = []
    for parameter in checked.parameters:
        if isinstance(parameter.type, HeapType):
            arguments.append(_HEAP)
        elif isinstance(parameter.type, StaticType):
            arguments.append((statics or {})[parameter.name])
        else:
            arguments.append(_from_llvm(next(given), parameter.type))
    Translator(inner, emitter).function(native, arguments)
    return function


def _only_what_is_read(checked: Checked, parameter: str, value: Any, collector: Any) -> Any:
    """A static without what the function does not look at, so that statics that differ in that share its code."""
    only = getattr(value, "only", None)
    return value if only is None else only(checked.reads_of(parameter, collector))


@short_repr
@dataclass(frozen=True)
class Shown:
    """A function and what it calls, as text: LLVM IR as translated and as optimised, and the machine's assembly.

    The function's own name in them is `symbol`.
    """

    symbol: str
    ir: str
    optimised: str
    assembly: str


def show(
    native: Native[..., Any], *, statics: dict[str, Any] | None = None, opt_level: int = 2, target: Target | None = None
) -> Shown:
    """Return what becomes of a function: for this computer, or another target. CompilerError for a generator."""
    module = ir.Module(native.symbol)
    declare(module, native, Emitter, name=native.symbol, statics=statics)
    optimised, machine = optimise(module, opt_level=opt_level, target=target, named=True)
    return Shown(native.symbol, str(module), str(optimised), machine.emit_assembly(optimised))


def _symbol(
    module: ir.Module, owner: tuple[Native[..., Any], dict[str, Any]], wanted: str, *, is_exported: bool
) -> str:
    """The name of a function, compiled for certain statics, in a module: the wanted one, or, where that is another's,
    one with a number. Functions that are made in a function go by one name, but are each what they close over.
    """
    owners: dict[str, tuple[Native[..., Any], dict[str, Any]]] = module.__dict__.setdefault("lowheap_natives", {})
    symbol, number = wanted, 1
    while True:
        native, statics = owners.setdefault(symbol, owner)
        if native is owner[0] and statics == owner[1]:
            return symbol
        if is_exported:
            raise CompilerError(f"{owner[0].name} cannot be {wanted}: {native.name} is")
        number += 1
        symbol = f"{wanted}.{number}"


def _from_llvm(value: ir.Value, type: Type) -> Any:
    if isinstance(type, ViewType):
        return View(value, type.structure)
    if isinstance(type, PlaceType):
        return Place(value, type.word)
    return value


def inline_call(emitter: Emitter, native: Native[..., Any], arguments: Sequence[Any], make: Any = None) -> Any:
    """Translate a function's body where the emitter is. `arguments` are as in `Translator.inlined`."""
    return Translator(emitter, make or type(emitter)).inlined(native, list(arguments))


def inline_loop(
    emitter: Emitter,
    generator: Native[..., Any],
    arguments: Sequence[Any],
    body: Callable[[Any], None],
    make: Any = None,
) -> None:
    """Translate a loop over a generator where the emitter is. `body` emits what is done with each value, once for each
    `yield` that is written.
    """
    Translator(emitter, make or type(emitter)).looped(
        generator, list(arguments), lambda value, following, exhausted: body(value)
    )


class Translator:
    """Translates into the function that an emitter is at; `make` makes an emitter for another one of the module."""

    def __init__(self, emitter: Emitter, make: Callable[[ir.Function], Emitter]) -> None:
        """Work with an emitter."""
        self.e, self.b, self.make = emitter, emitter.builder, make
        self._reached: set[int] = set()  # the blocks that something leads to, by id

    # -- Blocks

    def _new_block(self, name: str) -> ir.Block:
        # Blocks stand in the order in which they are made, and where a branch goes to the next, LLVM takes that for the
        # way that is gone more often: so a loop's end is made before its body.
        return self.e.function.append_basic_block(name)

    def _go(self, block: ir.Block) -> None:
        """Go to a block, unless the current one has ended."""
        if not self.b.block.is_terminated:
            self._reached.add(id(block))
            self.b.branch(block)

    def _choose(self, condition: ir.Value, then: ir.Block, otherwise: ir.Block) -> Any:
        self._reached |= {id(then), id(otherwise)}
        return self.b.cbranch(condition, then, otherwise)

    def _at(self, block: ir.Block) -> None:
        """Go on in a block; what stands there is never run if nothing leads to it, and is left out."""
        self.b.position_at_end(block)
        if id(block) not in self._reached:
            self.b.unreachable()

    # -- Functions

    def function(self, native: Native[..., Any], arguments: Sequence[Any]) -> None:
        """Translate a whole function, to its end."""
        frame = self._frame(native.checked, arguments)
        self._block(frame, native.checked.tree.body)
        if not self.b.block.is_terminated:
            self.b.ret_void()

    def inlined(self, native: Native[..., Any], arguments: Sequence[Any]) -> Any:
        """Translate a body in place, and return its result.

        Of the arguments, the heap is `HEAP`, a number an LLVM value or an int, a place a `Place`, a static itself.
        """
        if native.is_event:
            with self.e.event(native.__name__):
                return self._inlined(native, arguments)
        return self._inlined(native, arguments)

    def _inlined(self, native: Native[..., Any], arguments: Sequence[Any]) -> Any:
        checked = native.checked
        frame = self._frame(checked, arguments)
        self._finish(frame)
        if frame.direct is not None:
            return frame.direct
        values = [self._read(each) for each in frame.results]
        if isinstance(checked.result, TupleType):
            return tuple(values)
        return values[0] if values else None

    def _finish(self, frame: _Frame) -> None:
        checked = frame.checked
        body = checked.tree.body
        frame.returns_at_end = checked.returns_at_end
        frame.done = None if frame.returns_at_end else self._new_block("done")
        if not frame.returns_at_end and not isinstance(checked.result, NoneType):
            items = checked.result.items if isinstance(checked.result, TupleType) else (checked.result,)
            frame.results = [self._variable(each) for each in items]
        self._block(frame, body)
        if frame.done is not None:
            self._go(frame.done)
            self.b.position_at_end(frame.done)  # even if nothing leads there: a caller goes on from here

    def _frame(self, checked: Checked, arguments: Sequence[Any]) -> _Frame:
        frame = _Frame(checked)
        for parameter, value in zip(checked.parameters, arguments, strict=True):
            if isinstance(parameter.type, WordType | BoolType) and not isinstance(value, ir.Value):
                value = self._typed(value, parameter.type)
            if parameter.is_assigned:
                variable = self._variable(parameter.type)
                self._write(variable, value)
                value = variable
            frame.names[parameter.name] = value
        return frame

    def _variable(self, type: Type) -> _Variable:
        kind = llvm_type(type)
        with self.b.goto_entry_block():
            slot = self.b.alloca(kind)
        return _Variable(Variable(self.b, slot), type)

    def _read(self, variable: _Variable) -> Any:
        if isinstance(variable.type, ViewType | PlaceType):
            loaded = self.b.load(variable.slot._slot, typ=PTR)
            return _from_llvm(loaded, variable.type)
        return variable.slot.value

    def _write(self, variable: _Variable, value: Any) -> None:
        if isinstance(value, View | Place):
            variable.slot.value = value.address
        else:
            variable.slot.value = self._typed(value, variable.type)

    # -- Statements

    def _block(self, frame: _Frame, statements: Sequence[ast.stmt]) -> None:
        number = 0
        while number < len(statements):
            if self.b.block.is_terminated:
                return
            statement = statements[number]
            if number + 1 < len(statements) and self._stored_as_one(frame, statement, statements[number + 1]):
                number += 2
                continue
            getattr(self, f"_s_{type(statement).__name__}")(frame, statement)
            number += 1

    def _stored_as_one(self, frame: _Frame, first: ast.stmt, second: ast.stmt) -> bool:
        """Make one store of two to neighbouring u32 fields that have no names; whether it was done."""
        pair = []
        for each in (first, second):
            if not (isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Attribute)):
                return False
            owner = each.targets[0].value
            if not isinstance(owner, ast.Name) or not isinstance(frame.names.get(owner.id), View):
                return False
            view = frame.names[owner.id]
            pair.append((view, getattr(view.structure, each.targets[0].attr), each.value))
        (a, low, x), (b, high, y) = pair
        if a is not b or (low.size, high.size) != (4, 4) or high.offset - low.offset != 4 or low.offset % 8:
            return False
        if a.structure in _ALIAS_PREFIXES or not isinstance(y, ast.Name | ast.Constant):
            return False
        if a.structure is not FreeBlock and ctypes.alignment(a.structure) < 8:  # blocks are aligned to 16
            return False
        low_value, high_value = (self._typed(self._x(frame, each), U32) for each in (x, y))
        upper = self.b.shl(self.b.zext(high_value, I64), I64(8 * high.size))
        self.e.store_typed(self.b.or_(self.b.zext(low_value, I64), upper), self.e.at(a.address, low.offset))
        return True

    def _s_Pass(self, frame: _Frame, s: ast.Pass) -> None:
        pass

    def _s_Assert(self, frame: _Frame, s: ast.Assert) -> None:
        pass

    def _s_Expr(self, frame: _Frame, s: ast.Expr) -> None:
        if isinstance(s.value, ast.Constant):
            return
        if isinstance(s.value, ast.Yield):
            assert frame.consume is not None, "checked: a generator is looped over"
            assert s.value.value is not None, "checked: a generator is looped over"
            assert frame.checked.yields is not None, "checked: what yields is a generator"
            frame.consume(self._value(frame, s.value.value, frame.checked.yields))
            return
        self._x(frame, s.value)

    def _s_Assign(self, frame: _Frame, s: ast.Assign) -> None:
        target = s.targets[0]
        if isinstance(target, ast.Tuple):
            values = self._x(frame, s.value)
            if isinstance(values, ir.Value):
                type = frame.checked.type(s.value)
                assert isinstance(type, TupleType), "checked: several targets are given several values"
                values = [
                    _from_llvm(self.b.extract_value(values, number), each) for number, each in enumerate(type.items)
                ]
            for each, value in zip(target.elts, values, strict=True):
                assert isinstance(each, ast.Name), "checked: targets of several values are variables"
                self._bind(frame, each.id, value)
        elif isinstance(target, ast.Name):
            self._bind(frame, target.id, self._value(frame, s.value, frame.checked.variables[target.id]))
        else:
            value = self._x(frame, s.value)
            self._store(frame, target, self._place(frame, target), value)

    def _s_AnnAssign(self, frame: _Frame, s: ast.AnnAssign) -> None:
        assert isinstance(s.target, ast.Name), "checked: an annotated variable is set"
        assert s.value is not None, "checked: an annotated variable is set"
        self._bind(frame, s.target.id, self._value(frame, s.value, frame.checked.variables[s.target.id]))

    def _s_AugAssign(self, frame: _Frame, s: ast.AugAssign) -> None:
        if isinstance(s.target, ast.Name):
            type = frame.checked.variables[s.target.id]
            old = self._read(frame.names[s.target.id])
            self._bind(frame, s.target.id, self._operation(s.op, old, self._x(frame, s.value), type))
            return
        place = self._place(frame, s.target)
        type = frame.checked.type(s.target)
        old = self._load(place)
        self._store(frame, s.target, place, self._operation(s.op, old, self._x(frame, s.value), type))

    def _bind(self, frame: _Frame, name: str, value: Any) -> None:
        if name not in frame.checked.reassigned:
            if isinstance(value, int):
                value = self._typed(value, frame.checked.variables[name])
            frame.names[name] = value
            return
        known = frame.names.get(name)
        if not isinstance(known, _Variable):
            known = frame.names[name] = self._variable(frame.checked.variables[name])
        self._write(known, value)

    def _s_Return(self, frame: _Frame, s: ast.Return) -> None:
        result = frame.checked.result
        value = None if s.value is None else self._value(frame, s.value, result)
        if frame.returns_at_end:
            frame.direct = value
            return
        if frame.done is None:  # the function's own
            self._return(value, result)
            return
        for variable, each in zip(frame.results, value if isinstance(value, tuple) else (value,), strict=False):
            self._write(variable, each)
        self._go(frame.done)

    def _return(self, value: Any, result: Type) -> None:
        if isinstance(result, NoneType):
            self.b.ret_void()
        elif isinstance(result, TupleType):
            if isinstance(value, tuple):
                whole: ir.Value = ir.Constant(llvm_type(result), ir.Undefined)
                for number, each in enumerate(value):
                    item = each.address if isinstance(each, View | Place) else each
                    whole = self.b.insert_value(whole, item, number)
                value = whole
            self.b.ret(value)
        elif isinstance(value, View | Place):
            self.b.ret(value.address)
        else:
            self.b.ret(value)

    def _s_If(self, frame: _Frame, s: ast.If) -> None:
        known = self._known(frame, s.test)
        if known is not None:
            self._block(frame, s.body if known else s.orelse)
            return
        then = self._new_block("then")
        otherwise = self._new_block("else") if s.orelse else None
        end = self._new_block("end")
        self._branch(frame, s.test, then, otherwise or end)
        for start, body in ((then, s.body), (otherwise, s.orelse)):
            if start is None:
                continue
            self._at(start)
            self._block(frame, body)
            self._go(end)
        self._at(end)

    def _s_While(self, frame: _Frame, s: ast.While) -> None:
        head, done, body = (self._new_block(name) for name in ("loop", "done", "body"))
        self._go(head)
        self._at(head)
        self._branch(frame, s.test, body, done)
        self._at(body)
        frame.loops.append((head, done))
        self._block(frame, s.body)
        frame.loops.pop()
        self._go(head)
        self._at(done)

    def _s_For(self, frame: _Frame, s: ast.For) -> None:
        assert isinstance(s.iter, ast.Call), "checked: a loop has one variable"
        assert isinstance(s.target, ast.Name), "checked: a loop has one variable"
        call = frame.checked.calls[s.iter]
        if call.kind == "range":
            self._counted(frame, s, s.iter, s.target.id)
        else:
            self._generated(frame, s, s.iter, s.target.id, self._target(call))

    def _counted(self, frame: _Frame, s: ast.For, iterable: ast.Call, name: str) -> None:
        type = frame.checked.variables[name]
        ends = [self._value(frame, each, type) for each in iterable.args]
        first, last = ends if len(ends) == 2 else (self._typed(0, type), ends[0])
        counter = self._variable(type)
        self._write(counter, first)
        head, step, done, body = (self._new_block(each) for each in ("loop", "step", "done", "body"))
        self._go(head)
        self._at(head)
        current = self._read(counter)
        compare = self.b.icmp_signed if isinstance(type, WordType) and type.is_signed else self.b.icmp_unsigned
        self._choose(compare("<", current, last), body, done)
        self._at(body)
        frame.names[name] = current
        frame.loops.append((step, done))
        self._block(frame, s.body)
        frame.loops.pop()
        self._go(step)
        self._at(step)
        if not self.b.block.is_terminated:
            self._write(counter, self.b.add(current, current.type(1)))
            self._go(head)
        self._at(done)

    def _generated(self, frame: _Frame, s: ast.For, iterable: ast.Call, name: str, target: Native[..., Any]) -> None:
        def body(value: Any, following: ir.Block, exhausted: ir.Block) -> None:
            frame.names[name] = value
            frame.loops.append((following, exhausted))
            self._block(frame, s.body)
            frame.loops.pop()

        self.looped(target, self._arguments(frame, iterable, target), body)

    def looped(
        self, native: Native[..., Any], arguments: Sequence[Any], body: Callable[[Any, ir.Block, ir.Block], None]
    ) -> None:
        """Translate a generator's body in place, and in the place of each `yield` what `body` makes of the value: it is
        told where the loop goes on, and where it ends.
        """
        inner = self._frame(native.checked, arguments)
        exhausted = inner.done = self._new_block("exhausted")

        def consume(value: Any) -> None:
            following = self._new_block("next")
            body(value, following, exhausted)
            self._go(following)
            self._at(following)

        inner.consume = consume
        self._block(inner, native.checked.tree.body)
        self._go(exhausted)
        self._at(exhausted)

    def _s_Break(self, frame: _Frame, s: ast.Break) -> None:
        self._go(frame.loops[-1][1])

    def _s_Continue(self, frame: _Frame, s: ast.Continue) -> None:
        self._go(frame.loops[-1][0])

    # -- Conditions

    def _known(self, frame: _Frame, node: ast.expr) -> bool | None:
        """What a condition is that is known now, by constants and statics; None for all others."""
        type = frame.checked.types.get(node)
        if isinstance(type, ConstantType):
            return bool(type.value)
        if isinstance(node, ast.Attribute):
            owner = frame.checked.types.get(node.value)
            if isinstance(owner, StaticType | CollectorType) or (isinstance(owner, HeapType) and type == BOOL):
                return bool(self._x(frame, node))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self._known(frame, node.operand)
            return None if inner is None else not inner
        if isinstance(node, ast.BoolOp):
            is_and = isinstance(node.op, ast.And)
            are_known = True
            for each in node.values:
                known = self._known(frame, each)
                if known is not None and known != is_and:
                    return known
                are_known &= known is not None
                if known is None and _does_something(frame.checked, each):
                    return None  # it is evaluated, whatever comes after it
            return is_and if are_known else None
        call = frame.checked.calls.get(node) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Call) and call is not None and call.target in ("likely", "unlikely"):
            return self._known(frame, node.args[0])
        return None

    def _branch(
        self,
        frame: _Frame,
        test: ast.expr,
        then: ir.Block,
        otherwise: ir.Block,
        weights: tuple[int, int] | None = None,
    ) -> None:
        """Leave the current block for one of two."""
        known = self._known(frame, test)
        if known is not None:
            self._go(then if known else otherwise)
            return
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self._branch(frame, test.operand, otherwise, then, None if weights is None else weights[::-1])
            return
        if isinstance(test, ast.BoolOp):
            is_and = isinstance(test.op, ast.And)
            # What is known to leave it to the others takes no block.
            *first, last = (each for each in test.values if self._known(frame, each) is not is_and)
            for each in first:
                proceed = self._new_block("and" if is_and else "or")
                targets = (proceed, otherwise) if is_and else (then, proceed)
                self._branch(frame, each, *targets, weights)
                self._at(proceed)
                if self.b.block.is_terminated:
                    return
            self._branch(frame, last, then, otherwise, weights)
            return
        call = frame.checked.calls.get(test) if isinstance(test, ast.Call) else None
        if call is not None and call.kind == "word" and call.target in ("likely", "unlikely"):
            assert isinstance(test, ast.Call), "it has a call"
            self._branch(frame, test.args[0], then, otherwise, _LIKELY if call.target == "likely" else _UNLIKELY)
            return
        branch = self._choose(self._truth(self._x(frame, test)), then, otherwise)
        if weights is not None:
            branch.set_weights(list(weights))

    def _truth(self, value: Any) -> ir.Value:
        if isinstance(value, int):
            return I1(bool(value))
        return value if value.type == I1 else self.b.icmp_unsigned("!=", value, value.type(0))

    # -- Places

    def _place(self, frame: _Frame, node: ast.expr) -> Any:
        """Where an attribute or an element is: a `Place`, or a variable."""
        if isinstance(node, ast.Subscript):
            array = self._x(frame, node.value)
            return self._element(array, self._x(frame, node.slice))
        assert isinstance(node, ast.Attribute), "checked: what is stored to is an attribute or an element"
        owner = self._x(frame, node.value)
        if isinstance(owner, RecordValue):
            return owner.variables[node.attr]
        if isinstance(owner, Place):
            return owner
        return self._field(owner, node.attr)

    def _field(self, view: View, name: str) -> Place:
        description = getattr(view.structure, name)
        prefix = _ALIAS_PREFIXES.get(view.structure)
        alias = None if prefix is None else f"{prefix}+{description.offset}"
        word = field_type(view.structure, name)
        assert isinstance(word, WordType), "checked: the field is a number"
        return Place(self.e.at(view.address, description.offset), word, alias)

    def _element(self, array: Array, number: Any) -> Any:
        element = array.type.element
        size = _size_of(element)
        if isinstance(number, int):
            address = self.e.at(array.address, number * size)
        else:
            wide = number if number.type == I64 else self.b.zext(number, I64)
            address = self.e.at(array.address, self.b.mul(wide, I64(size)))
        if isinstance(element, ViewType):
            return View(address, element.structure)
        if isinstance(element, ArrayType):
            return Array(address, element)
        assert isinstance(element, WordType), "checked: an array is of numbers, structures or arrays"
        return Place(address, element)

    def _load(self, place: Any) -> ir.Value:
        if isinstance(place, _Variable):
            return self._read(place)
        return self.e.load_typed(self._named(place), llvm_type(place.word))

    def _named(self, place: Place) -> ir.Value:
        if place.name is None:
            return place.address
        # The emitter's names go by the address. What has one address is one place, so that it has one name, or none.
        return self.e.named(place.address, place.name)

    def _store(self, frame: _Frame, node: ast.expr, place: Any, value: Any) -> None:
        if isinstance(place, _Variable):
            self._write(place, value)
        else:
            self.e.store_typed(self._typed(value, place.word), self._named(place))

    # -- Expressions

    def _value(self, frame: _Frame, node: ast.expr, type: Type) -> Any:
        """An expression of a type, which a constant takes."""
        value = self._x(frame, node)
        return self._typed(value, type) if isinstance(type, WordType | BoolType) else value

    def _number(self, frame: _Frame, node: ast.expr) -> ir.Value:
        """An expression of its own type, which is no constant: a static's number is one for LLVM alone."""
        return self._value(frame, node, frame.checked.type(node))

    def _typed(self, value: Any, type: Type) -> ir.Value:
        if isinstance(value, int):
            kind = llvm_type(type)
            return kind(int(value) & ((1 << kind.width) - 1)) if kind.width > 1 else kind(int(bool(value)))
        return value

    def _x(self, frame: _Frame, node: ast.expr) -> Any:
        type_ = frame.checked.types.get(node)
        if isinstance(type_, ConstantType):
            return type_.value
        return getattr(self, f"_x_{type(node).__name__}")(frame, node)

    def _x_Name(self, frame: _Frame, n: ast.Name) -> Any:
        known = frame.names[n.id]
        return self._read(known) if isinstance(known, _Variable) else known

    def _x_Attribute(self, frame: _Frame, n: ast.Attribute) -> Any:
        owner = self._x(frame, n.value)
        if owner is _HEAP:
            return self._heap_attribute(n.attr)
        if isinstance(owner, RecordValue):
            return self._read(owner.variables[n.attr])
        if isinstance(owner, Place):
            return self._load(owner)
        if not isinstance(owner, View):
            return _static_value(owner, n.attr, frame.checked.type(n))
        type = frame.checked.type(n)
        if isinstance(type, ArrayType):
            description = getattr(owner.structure, n.attr)
            return Array(self.e.at(owner.address, description.offset), type)
        if isinstance(type, ViewType):
            return View(self.e.at(owner.address, getattr(owner.structure, n.attr).offset), type.structure)
        place = self._field(owner, n.attr)
        if owner.is_invariant or (owner.structure is not VMTypeInfo and is_invariant(owner.structure, n.attr)):
            return self.e.load_typed(place.address, llvm_type(place.word), invariant=True)
        return self._load(place)

    def _heap_attribute(self, name: str) -> Any:
        if name == "is_checked":
            return self.e.is_checked
        if name == "may_raise":
            return False
        if name == "collector":
            if self.e.collector is None:
                raise CompilerError("what a collector was made with is asked for, and no collector was given")
            return self.e.collector
        if name == "interface":
            return View(self.e.vmctx, VMHeap)
        if name == "control":
            return View(self.e.control, VMHeapControl)
        assert name == "store_context", "checked: the heap has no other attribute"
        return View(self.e.store_context, VMStoreContext)

    def _x_Subscript(self, frame: _Frame, n: ast.Subscript) -> Any:
        found = self._place(frame, n)
        return self._load(found) if isinstance(found, Place) else found

    def _x_BinOp(self, frame: _Frame, n: ast.BinOp) -> ir.Value:
        a, b = self._x(frame, n.left), self._x(frame, n.right)
        return self._operation(n.op, a, b, frame.checked.type(n))

    def _operation(self, operator: ast.operator, a: Any, b: Any, type_: Type) -> ir.Value:
        a, b = self._typed(a, type_), self._typed(b, type_)
        if isinstance(operator, ast.RShift) and isinstance(type_, WordType) and type_.is_signed:
            return self.b.ashr(a, b)
        return getattr(self.b, OPERATORS[type(operator)])(a, b)

    def _x_UnaryOp(self, frame: _Frame, n: ast.UnaryOp) -> ir.Value:
        if isinstance(n.op, ast.Not):
            known = self._known(frame, n.operand)
            return I1(not known) if known is not None else self.b.not_(self._truth(self._x(frame, n.operand)))
        value = self._value(frame, n.operand, frame.checked.type(n))
        return self.b.neg(value) if isinstance(n.op, ast.USub) else self.b.not_(value)

    def _x_BoolOp(self, frame: _Frame, n: ast.BoolOp) -> ir.Value:
        then, otherwise, done = (self._new_block(name) for name in ("true", "false", "done"))
        self._branch(frame, n, then, otherwise)
        reached = [(block, value) for block, value in ((then, 1), (otherwise, 0)) if id(block) in self._reached]
        for block in (then, otherwise):
            self._at(block)
            self._go(done)
        self._at(done)
        result = self.b.phi(I1)
        for block, value in reached:
            result.add_incoming(I1(value), block)
        return result

    def _x_Compare(self, frame: _Frame, n: ast.Compare) -> ir.Value:
        parts = [n.left, *n.comparators]
        types = [frame.checked.types[each] for each in parts]
        if isinstance(n.ops[0], ast.In | ast.NotIn):
            assert isinstance(types[1], ConstantType), "checked: what it may be in is a tuple of constants"
            one = self._membership(self._value(frame, n.left, types[0]), types[1].value)
            return one if isinstance(n.ops[0], ast.In) else self.b.not_(one)
        values = [self._x(frame, each) for each in parts]
        result: ir.Value | None = None
        for number, operator in enumerate(n.ops):
            pair = types[number : number + 2]
            type_ = next((each for each in pair if isinstance(each, WordType)), BOOL)
            is_signed = isinstance(type_, WordType) and type_.is_signed
            compare = self.b.icmp_signed if is_signed else self.b.icmp_unsigned
            left, right = (self._typed(each, type_) for each in values[number : number + 2])
            one = compare(COMPARISONS[type(operator)], left, right)
            result = one if result is None else self.b.and_(result, one)
        assert result is not None, "a comparison has an operator"
        return result

    def _membership(self, value: ir.Value, members: Sequence[int]) -> ir.Value:
        result: ir.Value | None = None
        for each in members:
            one = self.b.icmp_unsigned("==", value, value.type(each))
            result = one if result is None else self.b.or_(result, one)
        assert result is not None, "checked: the tuple is not empty"
        return result

    def _x_IfExp(self, frame: _Frame, n: ast.IfExp) -> Any:
        known = self._known(frame, n.test)
        type = frame.checked.type(n)
        if known is not None:
            return self._value(frame, n.body if known else n.orelse, type)
        types = frame.checked.types
        if is_simple(types, n.body) and is_simple(types, n.orelse):
            condition = self._truth(self._x(frame, n.test))
            return self.b.select(condition, self._value(frame, n.body, type), self._value(frame, n.orelse, type))
        then, otherwise, done = (self._new_block(name) for name in ("then", "else", "done"))
        self._branch(frame, n.test, then, otherwise)
        incoming = []
        for block, part in ((then, n.body), (otherwise, n.orelse)):
            self._at(block)
            if not self.b.block.is_terminated:
                incoming.append((self._value(frame, part, type), self.b.block))
                self._go(done)
        self._at(done)
        result = self.b.phi(llvm_type(type))
        for value, block in incoming:
            result.add_incoming(value, block)
        return result

    def _x_Tuple(self, frame: _Frame, n: ast.Tuple) -> tuple[Any, ...]:
        type = frame.checked.type(n)
        assert isinstance(type, TupleType), "checked: a tuple is a result"
        return tuple(self._value(frame, each, item) for each, item in zip(n.elts, type.items, strict=True))

    # -- Calls

    def _x_Call(self, frame: _Frame, n: ast.Call) -> Any:
        call = frame.checked.calls[n]
        if call.kind in ("native", "collector"):
            target = self._target(call)
            return self._call(target, self._arguments(frame, n, target))
        if call.kind == "record":
            return self._record(call.target)
        if call.kind == "conversion":
            return self._converted(self._x(frame, n.args[0]), frame.checked.types[n.args[0]], call.target)
        if call.kind == "extremum":
            return self._extremum(frame, n, call.target)
        if call.kind == "heap":
            return getattr(self, f"_heap_{call.target}", self._heap_structure)(frame, n)
        return getattr(self, f"_w_{call.target}")(frame, n)

    def _target(self, call: Call) -> Native[..., Any]:
        """The function that is called: a collector's is that of the collector at hand."""
        if call.kind == "native":
            native: Native[..., Any] = call.target
            return native
        if self.e.collector is None:
            raise CompilerError(f"the function {call.target} of a collector's is called, and no collector was given")
        found: Native[..., Any] = getattr(self.e.collector, call.target)
        return found

    def _arguments(self, frame: _Frame, n: ast.Call, target: Native[..., Any]) -> list[Any]:
        parameters = target.checked.parameters
        return [self._value(frame, each, parameter.type) for each, parameter in zip(n.args, parameters, strict=True)]

    def _call(self, target: Native[..., Any], arguments: Sequence[Any]) -> Any:
        checked = target.checked
        if target.is_inline:
            return self.inlined(target, arguments)
        pairs = list(zip(checked.parameters, arguments, strict=True))
        statics = {each.name: value for each, value in pairs if isinstance(each.type, StaticType)}
        function = declare(self.e.module, target, self.make, statics=statics, collector=self.e.collector)
        given = [
            value.address if isinstance(value, View | Place) else value
            for each, value in pairs
            if not isinstance(each.type, HeapType | StaticType)
        ]
        result = self.b.call(function, [self.e.vmctx, *given])
        return _from_llvm(result, checked.result)

    def _record(self, kind: Any) -> RecordValue:
        variables = {}
        for name, type in record_types(kind).items():
            variables[name] = self._variable(type)
            self._write(variables[name], kind.defaults[name])
        return RecordValue(variables)

    def _converted(self, value: Any, source: Type, target: WordType) -> Any:
        if isinstance(value, int):
            return self._typed(value, target)
        kind = llvm_type(target)
        if value.type.width == kind.width:
            return value
        if value.type.width > kind.width:
            return self.b.trunc(value, kind)
        is_signed = isinstance(source, WordType) and source.is_signed
        return self.b.sext(value, kind) if is_signed else self.b.zext(value, kind)

    def _extremum(self, frame: _Frame, n: ast.Call, target: Any) -> ir.Value:
        type = frame.checked.type(n)
        a, b = (self._value(frame, each, type) for each in n.args)
        compare = self.b.icmp_signed if isinstance(type, WordType) and type.is_signed else self.b.icmp_unsigned
        return self.b.select(compare("<" if target is min else ">", a, b), a, b)

    # -- The heap

    def _heap_structure(self, frame: _Frame, n: ast.Call) -> View:
        structure = HEADERS[frame.checked.calls[n].target]
        return View(self.e.heap_address(self._value(frame, n.args[0], U32)), structure)

    def _in_object(self, frame: _Frame, reference: ast.expr, offset: ast.expr) -> ir.Value:
        base = self._value(frame, reference, U32)
        distance = self._x(frame, offset)
        most = _most(frame, offset)
        if most is not None and not isinstance(distance, int) and most <= _NEAR:
            return self.e.at(self.e.heap_address(base), self.b.zext(distance, I64))
        return self.e.heap_address(base, distance)

    def _heap_slot(self, frame: _Frame, n: ast.Call) -> Place:
        return Place(self._in_object(frame, *n.args), U32)

    def _heap_cell(self, frame: _Frame, n: ast.Call) -> Place:
        type = frame.checked.type(n)
        assert isinstance(type, PlaceType), "checked: a cell is a place"
        return Place(self._in_object(frame, *n.args[1:]), type.word)

    def _heap_state(self, frame: _Frame, n: ast.Call) -> View:
        type = frame.checked.type(n)
        assert isinstance(type, ViewType), "checked: a state is a structure"
        offset = None if self.e.collector is None else self.e.collector.state_offsets().get(type.structure)
        if offset is None:
            raise CompilerError(f"the collector has no state {type.structure.__name__}: its class does not name it")
        distance = COLLECTOR_STATE_OFFSET - CONTROL_BLOCK_OFFSET + offset
        return View(self.e.at(self.e.control, distance), type.structure)

    def _storage(self, frame: _Frame, node: ast.expr) -> Any:
        """A part of the collector's storage, which its class names."""
        type = frame.checked.types[node]
        return type.value if isinstance(type, ConstantType) else self._x(frame, node)

    def _part(self, part: Buffer | SideTable) -> ir.Value:
        """Where such a part begins."""
        offset = None if self.e.collector is None else self.e.collector.area().offsets.get(part)
        if offset is None:
            raise CompilerError(f"the collector has no {part!r}: its class does not name it")
        return self.e.at(self.e.control, offset - CONTROL_BLOCK_OFFSET)

    def _heap_header_bit(self, frame: _Frame, n: ast.Call) -> ir.Value:
        bit = self._storage(frame, n.args[0])
        mask = None if self.e.collector is None else self.e.collector.area().bits.get(bit)
        if mask is None:
            raise CompilerError(f"the collector has no {bit!r}: its class does not name it")
        return I32(mask)

    def _heap_length(self, frame: _Frame, n: ast.Call) -> Place:
        return Place(self._part(self._storage(frame, n.args[0])), _U64)

    def _heap_entry(self, frame: _Frame, n: ast.Call) -> Place:
        buffer = self._storage(frame, n.args[0])
        number = self.b.and_(self._value(frame, n.args[1], _U64), I64(buffer.limit - 1))
        offset = self.b.add(self.b.mul(number, I64(ctypes.sizeof(ctypes.c_uint32))), I64(ENTRIES_OFFSET))
        return Place(self.e.at(self._part(buffer), offset), U32)

    def _heap_side(self, frame: _Frame, n: ast.Call) -> Place:
        table = self._storage(frame, n.args[0])
        number = self.b.lshr(self.b.zext(self._value(frame, n.args[1], U32), I64), I64(table.shift))
        offset = self.b.mul(number, I64(table.entry_size))
        return Place(self.e.at(self._part(table), offset), word_type(table.word))

    def _heap_part_count(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return I32(0 if self.e.collector is None else len(self.e.collector.parts()))

    def _heap_part(self, frame: _Frame, n: ast.Call) -> View:
        parts = () if self.e.collector is None else self.e.collector.parts()
        number = self._value(frame, n.args[0], U32)
        inside = self.b.select(self.b.icmp_unsigned("<", number, I32(len(parts))), number, I32(0))
        data = b"".join(map(bytes, parts)) or bytes(ctypes.sizeof(VMCollectorPart))
        offset = self.b.mul(self.b.zext(inside, I64), I64(ctypes.sizeof(VMCollectorPart)))
        return View(self.e.at(self.e.constant_bytes("lh.collector.parts", data), offset), VMCollectorPart, True)

    def _heap_size_class_head(self, frame: _Frame, n: ast.Call) -> Place:
        number = self.b.zext(self._value(frame, n.args[0], U32), I64)
        heads = self.e.at(self.e.control, VMHeapControl.size_class_heads.offset)
        return Place(self.e.at(heads, self.b.mul(number, I64(ctypes.sizeof(ctypes.c_uint32)))), U32, SIZE_CLASS_NAME)

    def _heap_type_info(self, frame: _Frame, n: ast.Call) -> View:
        index = self.b.and_(self._value(frame, n.args[0], U32), I32(TYPE_LIMIT - 1))
        table = self.e.load_pointer(self.e.control, VMHeapControl.type_table, invariant=True)
        offset = self.b.mul(self.b.zext(index, I64), I64(ctypes.sizeof(VMTypeInfo)))
        return View(self.e.at(table, offset), VMTypeInfo, is_invariant=True)

    def _heap_type_data(self, frame: _Frame, n: ast.Call) -> ir.Value:
        position = self.b.and_(self._value(frame, n.args[0], U32), I32(TYPE_DATA_LIMIT - 1))
        data = self.e.load_pointer(self.e.control, VMHeapControl.type_data, invariant=True)
        place = self.e.at(data, self.b.mul(self.b.zext(position, I64), I64(ctypes.sizeof(ctypes.c_uint32))))
        return self.e.load_typed(place, I32, invariant=True)

    def _heap_discard(self, frame: _Frame, n: ast.Call) -> None:
        index, length = self._value(frame, n.args[0], U32), self._value(frame, n.args[1], _U64)
        self.e.give_back_memory(self.e.heap_address(index), length)

    def _heap_nanoseconds(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self.e.nanoseconds()

    def _heap_release_externrefs(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self.e.release_externrefs()

    def _heap_ask_for_room(self, frame: _Frame, n: ast.Call) -> ir.Value:
        hook: Any = self.e
        return hook.ask_for_room(self._value(frame, n.args[0], _U64))

    def _heap_finalize(self, frame: _Frame, n: ast.Call) -> None:
        hook: Any = self.e
        finalizer, data = (self._pointer(self._x(frame, each)) for each in n.args)
        hook.call_pointer(finalizer, VOID, [PTR], [data])

    def _heap_outside(self, frame: _Frame, n: ast.Call) -> Place:
        return Place(self._pointer(self._value(frame, n.args[0], _U64)), U32)

    def _heap_require_no_problem(self, frame: _Frame, n: ast.Call) -> None:
        require: Any = getattr(self.e, "require_no_problem", None)
        if require is None:
            raise CompilerError(
                "require_no_problem stands in functions of C, and where `heap.may_raise` is asked first"
            )
        require()

    def _heap_of_emitter(self, frame: _Frame, n: ast.Call) -> Any:
        """What only those emitters have whose code looks at heaps, and calls C meanwhile: `embed/emitter.py`."""
        method = getattr(self.e, frame.checked.calls[n].target)
        return method(*(self._value(frame, each, _U64) for each in n.args))

    _heap_problem_count = _heap_forget_problems = _heap_of_emitter
    _heap_map_notes = _heap_unmap_notes = _heap_visit = _heap_write = _heap_of_emitter

    # -- Words

    def _w_problem(self, frame: _Frame, n: ast.Call) -> None:
        values = [self._typed(self._x(frame, each), _message_type(frame.checked.types[each])) for each in n.args[2:]]
        hook: Any = self.e
        hook.note_problem(self._x(frame, n.args[1]), values)

    def _w_likely(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self.e.likely(self._truth(self._x(frame, n.args[0])))

    def _w_unlikely(self, frame: _Frame, n: ast.Call) -> ir.Value:
        expect = self.e.intrinsic("llvm.expect.i1", I1, [I1, I1])
        return self.b.call(expect, [self._truth(self._x(frame, n.args[0])), I1(0)])

    def _wrapping(self, frame: _Frame, n: ast.Call, operator: ast.operator) -> ir.Value:
        a, b = (self._x(frame, each) for each in n.args)
        return self._operation(operator, a, b, frame.checked.type(n))

    def _w_wrapping_add(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self._wrapping(frame, n, ast.Add())

    def _w_wrapping_sub(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self._wrapping(frame, n, ast.Sub())

    def _w_wrapping_mul(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self._wrapping(frame, n, ast.Mult())

    def _lowest_bits(self, frame: _Frame, n: ast.Call) -> ir.Value:
        value, kind = self._number(frame, n.args[0]), llvm_type(frame.checked.type(n))
        return value if value.type == kind else self.b.trunc(value, kind)

    _w_wrapping_u8 = _w_wrapping_u16 = _w_wrapping_u32 = _w_wrapping_u64 = _lowest_bits

    def _counted_bits(self, frame: _Frame, n: ast.Call, intrinsic: str, *flags: int) -> ir.Value:
        value = self._number(frame, n.args[0])
        kind = value.type
        function = self.e.intrinsic(f"llvm.{intrinsic}.i{kind.width}", kind, [kind, *[I1] * len(flags)])
        return self.b.call(function, [value, *map(I1, flags)])

    def _as_u32(self, value: ir.Value) -> ir.Value:
        if value.type == I32:
            return value
        return self.b.trunc(value, I32) if value.type.width > I32.width else self.b.zext(value, I32)

    def _w_ctz(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self._as_u32(self._counted_bits(frame, n, "cttz", 1))

    def _w_popcount(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self._as_u32(self._counted_bits(frame, n, "ctpop"))

    def _w_bit_length(self, frame: _Frame, n: ast.Call) -> ir.Value:
        leading = self._counted_bits(frame, n, "ctlz", 0)
        return self._as_u32(self.b.sub(leading.type(leading.type.width), leading))

    def _w_rotate_right(self, frame: _Frame, n: ast.Call) -> ir.Value:
        value = self._value(frame, n.args[0], U32)
        rotate = self.e.intrinsic("llvm.fshr.i32", I32, [I32, I32, I32])
        return self.b.call(rotate, [value, value, I32(self._x(frame, n.args[1]))])

    def _w_as_signed(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self._value(frame, n.args[0], I32_TYPE)

    def _w_assume(self, frame: _Frame, n: ast.Call) -> None:
        self.b.assume(self._truth(self._x(frame, n.args[0])))

    def _w_prefetch(self, frame: _Frame, n: ast.Call) -> None:
        function = self.e.intrinsic("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        self.b.call(function, [self._x(frame, n.args[0]).address, I32(1), I32(3), I32(1)])

    def _w_note(self, frame: _Frame, n: ast.Call) -> None:
        pass

    def _w_sound(self, frame: _Frame, n: ast.Call) -> None:
        require = getattr(self.e, "require_sound", None)
        if require is None:
            return
        values = [self._typed(self._x(frame, each), _message_type(frame.checked.types[each])) for each in n.args[2:]]
        require(self._truth(self._x(frame, n.args[0])), self._x(frame, n.args[1]), values)

    def _w_require(self, frame: _Frame, n: ast.Call) -> None:
        require: Any = getattr(self.e, "require", None)
        if require is None or self.e.function.ftype.return_type != I32:
            raise CompilerError(
                f"{frame.checked.native.name} may fail with a status, which {self.e.function.name} does not return: "
                "`require` stands in functions of the C interface, and inlined into them"
            )
        condition = self._truth(self._x(frame, n.args[0]))
        status, text = self._x(frame, n.args[1]), self._x(frame, n.args[2])
        if isinstance(text, ast.JoinedStr):
            text = "".join(
                str(self._x(frame, each.value) if isinstance(each, ast.FormattedValue) else each.value)  # type: ignore[attr-defined]  # a constant
                for each in text.values
            )
        values = [self._typed(self._x(frame, each), _message_type(frame.checked.types[each])) for each in n.args[3:]]
        require(condition, status, text, *values)

    def _w_check(self, frame: _Frame, n: ast.Call) -> None:
        if self.e.is_checked:
            self._w_require(frame, n)

    def _w_at(self, frame: _Frame, n: ast.Call) -> View:
        type = frame.checked.type(n)
        assert isinstance(type, ViewType), "checked: at gives a view"
        return View(self._pointer(self._x(frame, n.args[1])), type.structure)

    def _w_cell(self, frame: _Frame, n: ast.Call) -> Place:
        type = frame.checked.type(n)
        assert isinstance(type, PlaceType), "checked: cell gives a place"
        return Place(self._pointer(self._x(frame, n.args[1])), type.word)

    def _pointer(self, address: Any) -> ir.Value:
        if isinstance(address, ir.CastInstr) and address.opname == "ptrtoint":
            # A copy: the emitter's names of places go by address, and what is at this one may be laid out otherwise.
            return self.b.gep(address.operands[0], [I64(0)], source_etype=I8)
        return self.b.inttoptr(I64(address) if isinstance(address, int) else address, PTR)

    def _w_place(self, frame: _Frame, n: ast.Call) -> Place:
        return self._field(self._x(frame, n.args[0]), self._x(frame, n.args[1]))

    def _w_address_of(self, frame: _Frame, n: ast.Call) -> ir.Value:
        return self.b.ptrtoint(self._x(frame, n.args[0]).address, I64)

    def _w_local_array(self, frame: _Frame, n: ast.Call) -> Array:
        type = frame.checked.type(n)
        assert isinstance(type, ArrayType), "checked: an array of numbers"
        assert isinstance(type.element, WordType), "checked: an array of numbers"
        size = type.element.bits // I8.width
        return Array(self.e.stack_buffer(size * type.length, size), type)

    def _w_copy_memory(self, frame: _Frame, n: ast.Call) -> None:
        to, source, length = (self._x(frame, each) for each in n.args)
        move = self.e.intrinsic("llvm.memmove.p0.p0.i64", VOID, [PTR, PTR, I64, I1])
        self.b.call(move, [self._pointer(to), self._pointer(source), self._typed(length, _U64), I1(0)])

    def _w_zero_memory(self, frame: _Frame, n: ast.Call) -> None:
        to, length = (self._x(frame, each) for each in n.args)
        fill = self.e.intrinsic("llvm.memset.p0.i64", VOID, [PTR, I8, I64, I1])
        self.b.call(fill, [self._pointer(to), I8(0), self._typed(length, _U64), I1(0)])

    def _w_fill_memory(self, frame: _Frame, n: ast.Call) -> None:
        to, value, length = (self._x(frame, each) for each in n.args)
        fill = self.e.intrinsic("llvm.memset.p0.i64", VOID, [PTR, I8, I64, I1])
        self.b.call(fill, [self._pointer(to), self._typed(value, _U8), self._typed(length, _U64), I1(0)])

    def _w_compare_exchange(self, frame: _Frame, n: ast.Call) -> ir.Value:
        where = self._x(frame, n.args[0])
        expected, new = (self._value(frame, each, where.word) for each in n.args[1:])
        exchanged = self.b.cmpxchg(where.address, expected, new, "acq_rel", "monotonic")
        return self.b.extract_value(exchanged, 1)


HEAP = _HEAP
"""The heap, as an argument of `Translator.inlined`."""

_U8, _U64 = WordType(8), WordType(64)

_NEAR = HEAP_GUARD // 2
"""How far behind an index an address is formed without u32 arithmetic: it cannot leave the guard."""


def _most(frame: _Frame, node: ast.expr) -> int | None:
    """Return what a number is at most, where its expression alone tells: it counts bits, and is scaled and moved."""
    type = frame.checked.types.get(node)
    if isinstance(type, ConstantType):
        return type.value if type.is_number else None
    if isinstance(node, ast.Call) and frame.checked.calls[node].target in ("ctz", "popcount", "bit_length"):
        return 64
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _most(frame, node.left), _most(frame, node.right)
        if left is not None and right is not None:
            return left + right if isinstance(node.op, ast.Add) else left * right
    return None


def _message_type(type: Type) -> Type:
    return type if isinstance(type, WordType) else _U64


def _size_of(type: Type) -> int:
    """The size of an element of an array, in bytes."""
    if isinstance(type, ViewType):
        return ctypes.sizeof(type.structure)
    if isinstance(type, ArrayType):
        return type.length * _size_of(type.element)
    assert isinstance(type, WordType), "checked: an array is of numbers, structures or arrays"
    return ctypes.sizeof(type.word.ctype)


def _static_value(owner: Any, name: str, type: Type) -> int:
    """A static's number or bool. CompilerError when it is not of the type that its annotation says."""
    value = getattr(owner, name)
    is_bool = value is True or value is False
    if isinstance(type, WordType):
        is_right = isinstance(value, int) and not is_bool and type.word.least <= value <= type.word.most
    else:
        is_right = is_bool
    if not is_right:
        raise CompilerError(f"{name} of {owner!r} is {value!r}, which is no {type}")
    return int(value) if isinstance(type, WordType) else bool(value)


def _does_something(checked: Checked, node: ast.expr) -> bool:
    """Whether evaluating an expression has effects."""
    calls = (checked.calls.get(each) for each in ast.walk(node) if isinstance(each, ast.Call))
    return any(call is not None and has_effects(call) for call in calls)
