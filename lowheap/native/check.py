"""What functions written once may be made of: every expression gets a type, and what has none is refused.

`check` reads a function's source, and returns it with the type of each expression and what each name and call means.
`run.py` makes Python's form of that, with its ranges asserted, and `translate.py` machine code. Both rely on what is
promised here:

- each parameter is annotated, each variable has one type, and is set on every path that comes to its use;
- numbers of different widths or signs are never mixed; a constant takes the type of what it is with, and fits it;
- a function that returns a value does so on every path; a loop's variable is used in the loop only;
- nothing is understood by halves: what is not in `_STATEMENTS` and `_EXPRESSIONS` is refused.

What is refused is a `NativeError`, which names the file, the line and the reason.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import enum
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lowheap.errors import CompilerError
from lowheap.native import words
from lowheap.native.words import Record, Word, constant_members

if TYPE_CHECKING:
    from lowheap.native.function import Native


class NativeError(CompilerError):
    """A function that is not in the subset: the file, the line and the reason."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        """Name the place."""
        super().__init__(f"{path}:{line}: {reason}")
        self.path, self.line, self.reason = path, line, reason


# ----------------------------------------------------------------------------------------------------------------------
# Types


class Type:
    """What an expression may be."""


@dataclass(frozen=True)
class WordType(Type):
    """A number. `Ref` and `u32` are one type."""

    bits: int
    is_signed: bool = False

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"{'i' if self.is_signed else 'u'}{self.bits}"

    @property
    def word(self) -> Word:
        """The word that Python has for it."""
        found: Word = getattr(words, str(self))
        return found


@dataclass(frozen=True)
class BoolType(Type):
    """True or False."""

    def __str__(self) -> str:
        """Return how messages call it."""
        return "bool"


@dataclass(frozen=True)
class ConstantType(Type):
    """A constant that has no type of its own, or something that is no value at all: a class, a function, a module."""

    value: Any = field(compare=False)

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return isinstance(self.value, int) and not isinstance(self.value, bool)

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"the constant {self.value!r}"


@dataclass(frozen=True)
class ViewType(Type):
    """A structure at some address."""

    structure: type[ctypes.Structure]

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"a view of {self.structure.__name__}"


@dataclass(frozen=True)
class PlaceType(Type):
    """Where a number is: what has a `value`."""

    word: WordType

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"a place of {self.word}"


@dataclass(frozen=True)
class ArrayType(Type):
    """Several numbers, or structures, one behind the other."""

    element: Type
    length: int

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"an array of {self.length} of {self.element}"


@dataclass(frozen=True)
class RecordType(Type):
    """Variables that go by one name."""

    record: type[Record]

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"a record {self.record.__name__}"


@dataclass(frozen=True)
class TupleType(Type):
    """Several results."""

    items: tuple[Type, ...]

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"a tuple ({', '.join(map(str, self.items))})"


@dataclass(frozen=True)
class HeapType(Type):
    """The heap: what `native.heap.Heap` has."""

    def __str__(self) -> str:
        """Return how messages call it."""
        return "the heap"


@dataclass(frozen=True)
class StaticType(Type):
    """Something that is known when code is compiled, an instance of `kind`; its bools and ints are constants then."""

    kind: type[Any]

    def __str__(self) -> str:
        """Return how messages call it."""
        return f"a static {self.kind.__name__}"


@dataclass(frozen=True)
class NoneType(Type):
    """Nothing."""

    def __str__(self) -> str:
        """Return how messages call it."""
        return "nothing"


BOOL, HEAP, NOTHING = BoolType(), HeapType(), NoneType()
U8, U16, U32, U64 = (WordType(bits) for bits in (8, 16, 32, 64))
I32, I64 = WordType(32, True), WordType(64, True)
SLOT = PlaceType(U32)


def word_type(word: Word) -> WordType:
    """Return the type that a word of `words.py` names."""
    return WordType(word.bits, word.is_signed)


def type_of_ctype(data: Any) -> Type | None:
    """Return the type of a structure's field by its ctypes type; None for what the subset has no type for."""
    if isinstance(data, type) and issubclass(data, ctypes.Structure):
        return ViewType(data)
    if isinstance(data, type) and issubclass(data, ctypes.Array):
        length: Any = data._length_
        element = type_of_ctype(data._type_)
        return None if element is None else ArrayType(element, length)
    for ctype, word in _WORD_OF_CTYPE.items():
        if data is ctype:
            return word
    return None


_WORD_OF_CTYPE = {
    ctypes.c_uint8: U8,
    ctypes.c_uint16: U16,
    ctypes.c_uint32: U32,
    ctypes.c_uint64: U64,
    ctypes.c_int32: I32,
    ctypes.c_int64: I64,
}


def field_type(structure: type[ctypes.Structure], name: str) -> Type | None:
    """Return the type of a structure's field, those of anonymous structures in it included; None when it has none."""
    for declared in structure._fields_:
        if declared[0] == name:
            return type_of_ctype(declared[1])
    for declared in structure._fields_:
        if declared[0] in getattr(structure, "_anonymous_", ()):
            inner = declared[1]
            assert isinstance(inner, type), "an anonymous field is a structure"
            assert issubclass(inner, ctypes.Structure), "an anonymous field is a structure"
            found = field_type(inner, name)
            if found is not None:
                return found
    return None


# ----------------------------------------------------------------------------------------------------------------------
# What is checked, and what comes of it


@dataclass
class Parameter:
    """A parameter of a function."""

    name: str
    type: Type
    is_assigned: bool = False


@dataclass
class Call:
    """What a call expression means: a word, a conversion, a method of the heap, a record, or another function."""

    kind: str
    target: Any


@dataclass
class Checked:
    """A function that is in the subset.

    `types` has the type of each expression by its node; `calls` what each call means; `variables` the type of each
    local variable; `yields` what a generator yields, None if it is none. `lines` is where the function stands in its
    file, `first_line` being the line of its first.
    """

    native: Native[..., Any]
    tree: ast.FunctionDef
    path: str
    parameters: list[Parameter]
    result: Type
    yields: Type | None
    types: dict[ast.AST, Type]
    calls: dict[ast.Call, Call]
    variables: dict[str, Type]
    reassigned: set[str]

    def type(self, node: ast.AST) -> Type:
        """Return an expression's type."""
        return self.types[node]


# The methods and attributes of a heap: `native/heap.py` has Python's, `translate.py` machine code's.
_HEAP_METHODS: dict[str, tuple[tuple[Type | None, ...], Type | None]] = {}


def heap_method(name: str, parameters: Sequence[Type | None], result: Type | None) -> None:
    """Say that a heap has a method; a parameter of None is a structure, a word or a constant, which the method checks;
    a result of None follows from the first of these.
    """
    _HEAP_METHODS[name] = (tuple(parameters), result)


HEAP_ATTRIBUTES: dict[str, Type] = {}
"""The attributes of a heap that are views."""


def static_names(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a function's names mean that are not its own: what it closes over, globals, and what Python has."""
    code = function.__code__
    closed = {}
    for name, content in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            closed[name] = content.cell_contents
        except ValueError:  # not assigned yet
            continue
    return {**vars(builtins), **function.__globals__, **closed}


def check(native: Native[..., Any]) -> Checked:
    """Check a function; NativeError when it is not in the subset."""
    function = native.function
    try:
        lines, first_line = inspect.getsourcelines(function)
    except (OSError, TypeError) as error:
        raise NativeError(
            function.__code__.co_filename, function.__code__.co_firstlineno, f"its source cannot be read: {error}"
        ) from error
    module = ast.parse(textwrap.dedent("".join(lines)))
    tree = module.body[0]
    path = inspect.getsourcefile(function) or function.__code__.co_filename
    ast.increment_lineno(module, first_line - 1)
    if not isinstance(tree, ast.FunctionDef):
        raise NativeError(path, first_line, f"{function!r} is not defined by `def`")
    return _Checker(native, tree, path).check()


class _Checker:
    """Walks one function."""

    def __init__(self, native: Native[..., Any], tree: ast.FunctionDef, path: str) -> None:
        self.native, self.tree, self.path = native, tree, path
        self.names = static_names(native.function)
        self.types: dict[ast.AST, Type] = {}
        self.calls: dict[ast.Call, Call] = {}
        self.variables: dict[str, Type] = {}
        self.reassigned: set[str] = set()
        self.assigned: set[str] | None = set()  # on every path to here; None where no path comes
        self.loops: list[list[set[str]]] = []  # what is assigned where each `break` of a loop leaves it
        self.loop_variables: set[str] = set()
        self.yields: Type | None = None
        self.result: Type = NOTHING

    # -- Places and errors

    def refused(self, node: ast.AST, reason: str) -> NativeError:
        """Return what to raise, naming the place."""
        return NativeError(self.path, getattr(node, "lineno", self.tree.lineno), reason)

    def check(self) -> Checked:
        arguments = self.tree.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs or arguments.defaults:
            raise self.refused(self.tree, "parameters are plain ones: no defaults, no *, no /")
        parameters = []
        for argument in arguments.args:
            if argument.annotation is None:
                raise self.refused(argument, f"the parameter {argument.arg} is not annotated")
            parameters.append(Parameter(argument.arg, self.annotation(argument.annotation)))
        if self.tree.returns is None:
            raise self.refused(self.tree, f"what {self.tree.name} returns is not annotated")
        self.result = self.result_annotation(self.tree.returns)
        for parameter in parameters:
            self.variables[parameter.name] = parameter.type
        self.assigned = {parameter.name for parameter in parameters}
        self.block(self.tree.body)
        if self.assigned is not None and self.result is not NOTHING:
            raise self.refused(self.tree, f"{self.tree.name} does not return {self.result} on every path")
        for parameter in parameters:
            parameter.is_assigned = parameter.name in self.reassigned
        return Checked(
            self.native, self.tree, self.path, parameters, self.result, self.yields, self.types, self.calls,
            self.variables, self.reassigned,
        )  # fmt: skip

    # -- Annotations

    def annotation(self, node: ast.expr) -> Type:
        """The type that an annotation names."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if isinstance(node, ast.Constant) and node.value is None:
            return NOTHING
        if isinstance(node, ast.Subscript):
            outer = self.static(node.value)
            if outer is tuple and isinstance(node.slice, ast.Tuple):
                return TupleType(tuple(self.annotation(each) for each in node.slice.elts))
            raise self.refused(node, f"{ast.unparse(node)} is no type of the subset")
        named = self.static(node)
        if isinstance(named, Word):
            return word_type(named)
        if named is bool:
            return BOOL
        if named is words.Slot:
            return SLOT
        if isinstance(named, type):
            if getattr(named, "is_native_heap", False):
                return HEAP
            if issubclass(named, ctypes.Structure):
                return ViewType(named)
            if issubclass(named, Record):
                return RecordType(named)
            if getattr(named, "is_native_static", False):
                return StaticType(named)
        raise self.refused(node, f"{ast.unparse(node)} is no type of the subset")

    def result_annotation(self, node: ast.expr) -> Type:
        """The result; what a generator yields goes to `yields`."""
        if isinstance(node, ast.Subscript) and self.static(node.value) is Iterator:
            self.yields = self.annotation(node.slice)
            return NOTHING
        return self.annotation(node)

    def static(self, node: ast.expr) -> Any:
        """What a name, or an attribute of one, means that is no variable."""
        if isinstance(node, ast.Name):
            if node.id in self.names:
                return self.names[node.id]
            raise self.refused(node, f"the name {node.id} is not known")
        if isinstance(node, ast.Attribute):
            owner = self.static(node.value)
            try:
                return getattr(owner, node.attr)
            except AttributeError:
                raise self.refused(node, f"{ast.unparse(node.value)} has no attribute {node.attr}") from None
        raise self.refused(node, f"{ast.unparse(node)} is not a name")

    # -- Statements

    def block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self.assigned is None:
                raise self.refused(statement, "no path leads to this statement")
            method = _STATEMENTS.get(type(statement))
            if method is None:
                raise self.refused(statement, f"the subset has no {_name_of(statement)} statement")
            method(self, statement)

    def pass_(self, statement: ast.Pass) -> None:
        pass

    def expression_statement(self, statement: ast.Expr) -> None:
        value = statement.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return
        if isinstance(value, ast.Yield):
            if self.yields is None:
                raise self.refused(statement, f"{self.tree.name} yields, but is not annotated as an Iterator")
            if value.value is None:
                raise self.refused(statement, f"it must yield {self.yields}")
            self.fits(value.value, self.yields, "what is yielded")
            return
        if not isinstance(value, ast.Call):
            raise self.refused(statement, "an expression by itself must be a call")
        self.expression(value)

    def assign(self, statement: ast.Assign) -> None:
        if len(statement.targets) != 1:
            raise self.refused(statement, "one assignment has one target")
        target = statement.targets[0]
        if isinstance(target, ast.Tuple):
            type = self.expression(statement.value)
            if not isinstance(type, TupleType) or len(type.items) != len(target.elts):
                raise self.refused(statement, f"{len(target.elts)} targets are given {type}")
            for each, item in zip(target.elts, type.items, strict=True):
                if not isinstance(each, ast.Name):
                    raise self.refused(each, "the targets of several values are variables")
                self.bind(each, item)
            return
        if isinstance(target, ast.Name):
            known = self.variables.get(target.id)
            type = self.expression(statement.value)
            if isinstance(type, ConstantType):
                if known is None:
                    raise self.refused(statement, f"say what type {target.id} has: {target.id}: u32 = …")
                self.fits(statement.value, known, target.id)
                type = known
            self.bind(target, type)
            return
        self.fits(statement.value, self.target(target), ast.unparse(target))

    def annotated(self, statement: ast.AnnAssign) -> None:
        if not isinstance(statement.target, ast.Name):
            raise self.refused(statement, "only a variable is annotated")
        if statement.value is None:
            raise self.refused(statement, f"{statement.target.id} is annotated, but not set")
        type = self.annotation(statement.annotation)
        self.fits(statement.value, type, statement.target.id)
        self.bind(statement.target, type)

    def augmented(self, statement: ast.AugAssign) -> None:
        if isinstance(statement.target, ast.Name):
            type = self.variable(statement.target)
            self.bind(statement.target, type)
        else:
            type = self.target(statement.target)
        result = self.arithmetic(statement, type, statement.op, statement.target, statement.value)
        if result != type:
            raise self.refused(statement, f"{ast.unparse(statement.target)} is {type}; the result is {result}")

    def bind(self, target: ast.Name, type: Type) -> None:
        """Set a variable."""
        name = target.id
        known = self.variables.get(name)
        if isinstance(type, NoneType | ConstantType):
            raise self.refused(target, f"{name} cannot be {type}")
        if name in self.loop_variables:
            raise self.refused(target, f"{name} is the variable of a loop")
        if known is None:
            self.variables[name] = type
        elif known != type:
            raise self.refused(target, f"the variable {name} changes its type from {known} to {type}")
        else:
            self.reassigned.add(name)
            if isinstance(type, RecordType | ArrayType | HeapType | StaticType):
                raise self.refused(target, f"{name} is {type}, which is assigned once")
        assert self.assigned is not None, "statements are on some path"
        self.assigned.add(name)
        self.types[target] = type

    def target(self, target: ast.expr) -> Type:
        """The type of what is stored to, that is no variable."""
        if isinstance(target, ast.Attribute):
            owner = self.expression(target.value)
            if isinstance(owner, ViewType | PlaceType | RecordType | HeapType):
                type = self.expression(target)
                if isinstance(type, WordType):
                    return type
        elif isinstance(target, ast.Subscript):
            type = self.expression(target)
            if isinstance(type, WordType):
                return type
        raise self.refused(target, f"cannot store to {ast.unparse(target)}")

    def return_(self, statement: ast.Return) -> None:
        if statement.value is None:
            if self.result is not NOTHING:
                raise self.refused(statement, f"{self.tree.name} returns {self.result}")
        elif self.result is NOTHING:
            raise self.refused(statement, f"{self.tree.name} returns nothing")
        else:
            self.fits(statement.value, self.result, f"what {self.tree.name} returns")
        self.assigned = None

    def if_(self, statement: ast.If) -> None:
        self.condition(statement.test)
        assert self.assigned is not None, "statements are on some path"
        before = set(self.assigned)
        self.block(statement.body)
        after = self.assigned
        self.assigned = before
        self.block(statement.orelse)
        if after is not None:
            self.assigned = after if self.assigned is None else self.assigned & after

    def while_(self, statement: ast.While) -> None:
        if statement.orelse:
            raise self.refused(statement, "the subset has no else of a loop")
        endless = isinstance(statement.test, ast.Constant) and statement.test.value is True
        if endless:
            self.types[statement.test] = BOOL
        else:
            self.condition(statement.test)
        assert self.assigned is not None, "statements are on some path"
        before = set(self.assigned)
        breaks: list[set[str]] = []
        self.loops.append(breaks)
        self.block(statement.body)
        self.loops.pop()
        ends = breaks if endless else [before, *breaks]
        self.assigned = set.intersection(*ends) if ends else None

    def for_(self, statement: ast.For) -> None:
        if statement.orelse:
            raise self.refused(statement, "the subset has no else of a loop")
        if not isinstance(statement.target, ast.Name):
            raise self.refused(statement, "a loop has one variable")
        name = statement.target.id
        type = self.iteration(statement.iter)
        assert self.assigned is not None, "statements are on some path"
        before = set(self.assigned)
        if self.variables.get(name, type) != type:
            raise self.refused(statement, f"the variable {name} changes its type from {self.variables[name]} to {type}")
        if name in self.assigned:
            raise self.refused(statement, f"{name} is a variable already, and cannot be a loop's")
        self.variables[name] = type
        self.types[statement.target] = type
        self.assigned.add(name)
        self.loop_variables.add(name)
        breaks: list[set[str]] = []
        self.loops.append(breaks)
        self.block(statement.body)
        self.loops.pop()
        self.loop_variables.discard(name)
        self.assigned = set.intersection(before, *breaks) - {name}

    def iteration(self, iterable: ast.expr) -> Type:
        """The type of a loop's variable."""
        if not isinstance(iterable, ast.Call):
            raise self.refused(iterable, "a loop is over a range, or over what a generator of the subset yields")
        if self.is_builtin(iterable.func, "range"):
            if not 1 <= len(iterable.args) <= 2 or iterable.keywords:
                raise self.refused(iterable, "range has one or two arguments")
            self.calls[iterable] = Call("range", None)
            types = [self.expression(each) for each in iterable.args]
            type = next((each for each in types if isinstance(each, WordType)), U32)
            for each in iterable.args:
                self.fits(each, type, "an end of the range")
            return type
        self.expression(iterable, is_iterated=True)
        call = self.calls[iterable]
        checked = call.target.checked if call.kind == "native" else None
        if checked is None or checked.yields is None:
            raise self.refused(iterable, f"{ast.unparse(iterable.func)} is no generator of the subset")
        yields: Type = checked.yields
        return yields

    def break_(self, statement: ast.Break) -> None:
        assert self.assigned is not None, "statements are on some path"
        self.loops[-1].append(set(self.assigned))
        self.assigned = None

    def continue_(self, statement: ast.Continue) -> None:
        self.assigned = None

    def assert_(self, statement: ast.Assert) -> None:
        """For Python alone: machine code does not look."""
        self.condition(statement.test)

    # -- Expressions

    def expression(self, node: ast.expr, *, is_iterated: bool = False) -> Type:
        """Return an expression's type, noted in `types`."""
        value = self.constant(node)
        type: Type
        if value is not None:
            type = ConstantType(value.value)
            if isinstance(value.value, bool):
                type = BOOL
                self.types[node] = ConstantType(value.value)
                return type
        else:
            method = _EXPRESSIONS.get(node.__class__)
            if method is None:
                raise self.refused(node, f"the subset has no {_name_of(node)} expression")
            type = method(self, node)
            if isinstance(node, ast.Call) and not is_iterated:
                call = self.calls.get(node)
                if call is not None and call.kind == "native" and call.target.checked.yields is not None:
                    raise self.refused(node, f"{ast.unparse(node.func)} is a generator: loop over it")
        self.types[node] = type
        return type

    def constant(self, node: ast.expr) -> ConstantType | None:
        """What an expression is that has no variable in it, and is known now; None for all others."""
        if isinstance(node, ast.Constant):
            if isinstance(node.value, bool | int | str):
                return ConstantType(node.value)
            raise self.refused(node, f"the subset has no constant {node.value!r}")
        if isinstance(node, ast.Name):
            if node.id in self.variables or node.id not in self.names:
                return None
            return ConstantType(_plain(self.names[node.id]))
        if isinstance(node, ast.Attribute):
            owner = self.constant(node.value)
            if owner is None:
                return None
            try:
                return ConstantType(_plain(getattr(owner.value, node.attr)))
            except AttributeError:
                raise self.refused(node, f"{ast.unparse(node.value)} has no attribute {node.attr}") from None
        if isinstance(node, ast.UnaryOp | ast.BinOp):
            parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
            values = [self.constant(each) for each in parts]
            if all(each is not None and each.is_number for each in values):
                names = {f"_{number}": each.value for number, each in enumerate(values) if each is not None}
                return ConstantType(eval(_rebuilt(node, tuple(names)), {}, names))
        if isinstance(node, ast.Call):
            function = self.constant(node.func)
            if function is not None and getattr(function.value, "__name__", "") in ("bit_length", "sizeof", "len"):
                given = [self.constant(each) for each in node.args]
                if all(each is not None for each in given) and not node.keywords:
                    try:
                        return ConstantType(int(function.value(*(each.value for each in given if each is not None))))
                    except (TypeError, AttributeError) as error:
                        raise self.refused(node, f"{ast.unparse(node)}: {error}") from error
        return None

    def fits(self, node: ast.expr, wanted: Type, what: str) -> None:
        """Refuse an expression that is not of a type; a constant must be in its range."""
        type = self.types.get(node) or self.expression(node)
        if isinstance(type, ConstantType) and isinstance(type.value, bool):
            type = BOOL
        if isinstance(type, ConstantType) and type.is_number and isinstance(wanted, WordType):
            word = wanted.word
            if not word.least <= type.value <= word.most:
                raise self.refused(node, f"{what} is {wanted}; {type.value} is not from {word.least} to {word.most}")
            return
        if type != wanted:
            raise self.refused(node, f"{what} is {wanted}, and was given {type}")

    def condition(self, node: ast.expr) -> None:
        """Refuse what is neither true nor false. A number is true unless it is 0."""
        type = self.expression(node)
        if not isinstance(type, BoolType | WordType) and not (
            isinstance(type, ConstantType) and isinstance(type.value, bool | int)
        ):
            raise self.refused(node, f"{type} is no condition")

    def variable(self, node: ast.Name) -> Type:
        name = node.id
        if name not in self.variables:
            raise self.refused(node, f"the name {name} is not known")
        if self.assigned is None or name not in self.assigned:
            raise self.refused(node, f"the variable {name} is not set on every path to here")
        return self.variables[name]

    def attribute(self, node: ast.Attribute) -> Type:
        owner = self.expression(node.value)
        found: Type | None = None
        if isinstance(owner, ViewType):
            found = field_type(owner.structure, node.attr)
        elif isinstance(owner, PlaceType):
            found = owner.word if node.attr == "value" else None
        elif isinstance(owner, RecordType):
            if node.attr in owner.record.fields:
                found = self.record_field(node, owner.record, node.attr)
        elif isinstance(owner, HeapType):
            found = HEAP_ATTRIBUTES.get(node.attr)
        elif isinstance(owner, StaticType):
            found = self.static_attribute(node, owner.kind)
        if found is None:
            raise self.refused(node, f"{owner} has no {node.attr}")
        return found

    def record_field(self, node: ast.AST, kind: type[Record], name: str) -> Type:
        annotation = kind.fields[name]
        named = {"bool": bool, **vars(words)}.get(annotation) if isinstance(annotation, str) else annotation
        if isinstance(named, Word):
            return word_type(named)
        if named is bool:
            return BOOL
        raise self.refused(node, f"the field {name} of {kind.__name__} is {annotation!r}; it must be a word")

    def static_attribute(self, node: ast.Attribute, kind: type[Any]) -> Type:
        annotation = kind.__annotations__.get(node.attr)
        name = getattr(annotation, "__name__", annotation)
        if name == "bool":
            return BOOL
        if isinstance(getattr(words, str(name), None), Word):
            return word_type(getattr(words, str(name)))
        raise self.refused(node, f"{kind.__name__}.{node.attr} is {annotation!r}; only bools and words can be used")

    def subscript(self, node: ast.Subscript) -> Type:
        owner = self.expression(node.value)
        if not isinstance(owner, ArrayType):
            raise self.refused(node, f"{owner} has no elements")
        type = self.expression(node.slice)
        if isinstance(type, ConstantType):
            if not type.is_number or not 0 <= type.value < owner.length:
                raise self.refused(node, f"{ast.unparse(node.value)} has elements from 0 to {owner.length - 1}")
        elif type not in (U32, U64):
            raise self.refused(node, f"an element's number is u32 or u64, not {type}")
        return owner.element

    def binary(self, node: ast.BinOp) -> Type:
        return self.arithmetic(node, self.expression(node.left), node.op, node.left, node.right)

    def arithmetic(self, node: ast.AST, a: Type, operator: ast.operator, left: ast.expr, right: ast.expr) -> Type:
        b = self.expression(right)
        if type(operator) not in OPERATORS:
            raise self.refused(node, f"the subset has no operator {_name_of(operator)}")
        if isinstance(operator, ast.BitAnd | ast.BitOr | ast.BitXor) and a is BOOL and b is BOOL:
            return BOOL
        if isinstance(operator, ast.LShift | ast.RShift) and isinstance(a, WordType):
            if isinstance(b, ConstantType) and b.is_number:
                if not 0 <= b.value < a.bits:
                    raise self.refused(node, f"{a} cannot be shifted by {b.value}")
                return a
            if a != b:
                raise self.refused(node, f"{a} is shifted by {b}; both must be of one type")
            return a
        wanted = next((each for each in (a, b) if isinstance(each, WordType)), None)
        if wanted is None:
            raise self.refused(node, f"{a} and {b} are no numbers of one type")
        for each, type_ in ((left, a), (right, b)):
            if isinstance(type_, ConstantType) and type_.is_number:
                word = wanted.word
                is_mask = isinstance(operator, ast.BitAnd)
                least = -(1 << wanted.bits - 1) if is_mask else word.least
                if not least <= type_.value <= word.most:
                    raise self.refused(
                        each, f"{type_.value} is no {wanted}; these are from {word.least} to {word.most}"
                    )
                if isinstance(operator, ast.FloorDiv | ast.Mod) and each is right and type_.value == 0:
                    raise self.refused(node, "division by 0")
            elif type_ != wanted:
                raise self.refused(node, f"{a} and {b} are mixed: convert one of them")
        if wanted.is_signed and isinstance(operator, ast.FloorDiv | ast.Mod):
            raise self.refused(node, "signed numbers are not divided: Python and machine code round differently")
        return wanted

    def unary(self, node: ast.UnaryOp) -> Type:
        if isinstance(node.op, ast.Not):
            self.condition(node.operand)
            return BOOL
        type = self.expression(node.operand)
        if isinstance(node.op, ast.Invert) and isinstance(type, WordType) and not type.is_signed:
            return type
        if isinstance(node.op, ast.USub) and isinstance(type, WordType) and type.is_signed:
            return type
        raise self.refused(node, f"the subset has no {_name_of(node.op)} of {type}")

    def boolean(self, node: ast.BoolOp) -> Type:
        for each in node.values:
            self.condition(each)
        return BOOL

    def compare(self, node: ast.Compare) -> Type:
        parts = [node.left, *node.comparators]
        if len(parts) > 2 and any(isinstance(each, ast.Call) for each in parts[1:-1]):
            raise self.refused(node, "what is compared twice is no call")
        for left, operator, right in zip(parts, node.ops, node.comparators, strict=False):
            a = self.types.get(left) or self.expression(left)
            if isinstance(operator, ast.In | ast.NotIn):
                members = self.constant(right)
                if members is None or not constant_members(members.value):
                    raise self.refused(node, f"{ast.unparse(right)} is no tuple of constants")
                if not isinstance(a, WordType):
                    raise self.refused(node, f"{a} cannot be in {ast.unparse(right)}")
                self.types[right] = members
                continue
            if type(operator) not in COMPARISONS:
                raise self.refused(node, f"the subset has no comparison {_name_of(operator)}")
            b = self.expression(right)
            if a is BOOL and b is BOOL and isinstance(operator, ast.Eq | ast.NotEq):
                continue
            wanted = next((each for each in (a, b) if isinstance(each, WordType)), None)
            if wanted is None:
                raise self.refused(node, f"{a} and {b} cannot be compared")
            for each, its in ((left, a), (right, b)):
                if its != wanted:
                    if not isinstance(its, ConstantType):
                        raise self.refused(node, f"{a} and {b} are mixed: convert one of them")
                    self.fits(each, wanted, ast.unparse(each))
        return BOOL

    def conditional(self, node: ast.IfExp) -> Type:
        self.condition(node.test)
        a, b = self.expression(node.body), self.expression(node.orelse)
        wanted = next((each for each in (a, b) if not isinstance(each, ConstantType)), None)
        if wanted is None:
            raise self.refused(node, f"say what type {ast.unparse(node)} has: convert one of its constants")
        for each in (node.body, node.orelse):
            self.fits(each, wanted, ast.unparse(each))
        if not isinstance(wanted, WordType | BoolType):
            raise self.refused(node, f"a choice is between numbers, not {wanted}")
        return wanted

    def tuple_(self, node: ast.Tuple) -> Type:
        wanted = self.result.items if isinstance(self.result, TupleType) else ()
        if len(wanted) != len(node.elts):
            raise self.refused(node, "the subset has tuples as results only")
        for each, type in zip(node.elts, wanted, strict=True):
            self.fits(each, type, ast.unparse(each))
        return TupleType(tuple(wanted))

    # -- Calls

    def is_builtin(self, node: ast.expr, name: str) -> bool:
        found = self.constant(node) if isinstance(node, ast.Name) else None
        return found is not None and found.value is getattr(builtins, name)

    def call(self, node: ast.Call) -> Type:
        if node.keywords or any(isinstance(each, ast.Starred) for each in node.args):
            raise self.refused(node, "arguments are given by position")
        if isinstance(node.func, ast.Attribute):
            owner = self.constant(node.func.value)
            if owner is None:
                if not isinstance(self.expression(node.func.value), HeapType):
                    raise self.refused(node, f"{ast.unparse(node.func)} is no function of the subset")
                return self.heap_call(node, node.func.attr)
        function = self.constant(node.func)
        if function is None:
            raise self.refused(node, f"{ast.unparse(node.func)} is no function of the subset")
        target = function.value
        if isinstance(target, Word):
            return self.conversion(node, target)
        if target in (min, max):
            return self.extremum(node, target)
        if getattr(target, "is_native", False):
            return self.native_call(node, target)
        if isinstance(target, type) and issubclass(target, Record):
            if node.args:
                raise self.refused(node, "a new record has no arguments")
            self.calls[node] = Call("record", target)
            for name in target.fields:
                self.record_field(node, target, name)
            return RecordType(target)
        name = getattr(target, "__name__", "")
        if name in words.WORDS and words.WORDS[name] is target:
            self.calls[node] = Call("word", name)
            checker = getattr(self, f"word_{name}", None)
            found: Type = checker(node) if checker is not None else self.wrapping(node, name)
            return found
        raise self.refused(node, f"{ast.unparse(node.func)} is no function of the subset")

    def count(self, node: ast.Call, count: int) -> list[ast.expr]:
        if len(node.args) != count:
            raise self.refused(node, f"{ast.unparse(node.func)} has {count} arguments, and was given {len(node.args)}")
        return node.args

    def conversion(self, node: ast.Call, target: Word) -> Type:
        (value,) = self.count(node, 1)
        type, wanted = self.expression(value), word_type(target)
        self.calls[node] = Call("conversion", wanted)
        if isinstance(type, ConstantType):
            self.fits(value, wanted, ast.unparse(value))
        elif not isinstance(type, WordType | BoolType):
            raise self.refused(node, f"{type} cannot be made {wanted}")
        return wanted

    def extremum(self, node: ast.Call, target: Any) -> Type:
        left, right = self.count(node, 2)
        self.calls[node] = Call("extremum", target)
        return self.arithmetic(node, self.expression(left), ast.Add(), left, right)

    def native_call(self, node: ast.Call, target: Native[..., Any]) -> Type:
        checked = target.checked
        self.calls[node] = Call("native", target)
        for value, parameter in zip(self.count(node, len(checked.parameters)), checked.parameters, strict=True):
            type = self.expression(value)
            if isinstance(parameter.type, StaticType) and isinstance(type, ConstantType):
                if not isinstance(type.value, parameter.type.kind):
                    raise self.refused(value, f"{parameter.name} is {parameter.type}, and was given {type}")
                continue
            if isinstance(type, RecordType) and not target.is_inline:
                raise self.refused(value, f"only a function that is inlined takes records; {target.name} is not")
            self.fits(value, parameter.type, parameter.name)
        return checked.result

    def heap_call(self, node: ast.Call, name: str) -> Type:
        known = _HEAP_METHODS.get(name)
        if known is None:
            raise self.refused(node, f"the heap has no {name}")
        parameters, result = known
        self.calls[node] = Call("heap", name)
        for value, wanted in zip(self.count(node, len(parameters)), parameters, strict=True):
            if wanted is not None:
                self.fits(value, wanted, f"an argument of {name}")
                continue
            given = self.constant(value)
            if given is None:
                raise self.refused(value, f"{name} takes a structure or a type of numbers here")
            self.types[value] = given
            result = self.named_result(value, given.value)
        assert result is not None, "a result that does not follow is declared"
        return result

    def named_result(self, node: ast.expr, named: Any) -> Type:
        """A view of a structure, or a place of a word."""
        if isinstance(named, Word):
            return PlaceType(word_type(named))
        if isinstance(named, type) and issubclass(named, ctypes.Structure):
            return ViewType(named)
        raise self.refused(node, f"{ast.unparse(node)} is neither a structure nor a type of numbers")

    # -- Words

    def wrapping(self, node: ast.Call, name: str) -> Type:
        """The words that make of numbers a number."""
        if name in ("wrapping_add", "wrapping_sub", "wrapping_mul"):
            left, right = self.count(node, 2)
            return self.arithmetic(node, self.expression(left), ast.BitXor(), left, right)
        if name.startswith("wrapping_"):
            (value,) = self.count(node, 1)
            type, wanted = self.expression(value), word_type(getattr(words, name.removeprefix("wrapping_")))
            if not isinstance(type, WordType) or type.bits < wanted.bits:
                raise self.refused(node, f"{name} takes a number of at least {wanted.bits} bits, not {type}")
            return wanted
        (value,) = self.count(node, 1)
        type = self.expression(value)
        if not isinstance(type, WordType) or type.is_signed:
            raise self.refused(node, f"{name} takes an unsigned number, not {type}")
        return U32

    def word_rotate_right(self, node: ast.Call) -> Type:
        value, by = self.count(node, 2)
        self.fits(value, U32, "what is turned")
        known = self.constant(by)
        if known is None or not known.is_number or not 1 <= known.value <= 31:
            raise self.refused(node, "a number is turned by a constant from 1 to 31")
        self.types[by] = known
        return U32

    def word_as_signed(self, node: ast.Call) -> Type:
        self.fits(self.count(node, 1)[0], U32, "an argument of as_signed")
        return I32

    def word_likely(self, node: ast.Call) -> Type:
        self.condition(self.count(node, 1)[0])
        return BOOL

    word_unlikely = word_likely

    def word_prefetch(self, node: ast.Call) -> Type:
        type = self.expression(self.count(node, 1)[0])
        if not isinstance(type, ViewType | PlaceType):
            raise self.refused(node, f"prefetch takes a view or a place, not {type}")
        return NOTHING

    def message(self, node: ast.Call, text: ast.expr, values: Sequence[ast.expr]) -> None:
        known = self.constant(text)
        if known is None or not isinstance(known.value, str):
            raise self.refused(node, "the text is a constant")
        self.types[text] = known
        for each in values:
            if not isinstance(self.expression(each), WordType | ConstantType):
                raise self.refused(each, f"a message tells numbers, not {self.types[each]}")

    def word_note(self, node: ast.Call) -> Type:
        if not node.args:
            raise self.refused(node, "note takes a text")
        self.message(node, node.args[0], node.args[1:])
        return NOTHING

    def word_sound(self, node: ast.Call) -> Type:
        if len(node.args) < 2:
            raise self.refused(node, "sound takes a condition and a text")
        self.condition(node.args[0])
        self.message(node, node.args[1], node.args[2:])
        return NOTHING

    def word_problem(self, node: ast.Call) -> Type:
        if len(node.args) < 2 or not isinstance(self.expression(node.args[0]), HeapType):
            raise self.refused(node, "problem takes the heap and a text")
        self.message(node, node.args[1], node.args[2:])
        return NOTHING

    def word_at(self, node: ast.Call) -> Type:
        named, address = self.count(node, 2)
        known = self.constant(named)
        self.fits(address, U64, "an address")
        if known is None or isinstance(known.value, Word):
            raise self.refused(node, "at takes a structure and an address")
        self.types[named] = known
        return self.named_result(named, known.value)

    def word_cell(self, node: ast.Call) -> Type:
        named, address = self.count(node, 2)
        known = self.constant(named)
        self.fits(address, U64, "an address")
        if known is None or not isinstance(known.value, Word):
            raise self.refused(node, "cell takes a type of numbers and an address")
        self.types[named] = known
        return self.named_result(named, known.value)

    def word_place(self, node: ast.Call) -> Type:
        owner, name = self.count(node, 2)
        type, known = self.expression(owner), self.constant(name)
        if not isinstance(type, ViewType) or known is None or not isinstance(known.value, str):
            raise self.refused(node, "place takes a view and the name of a field")
        self.types[name] = known
        found = field_type(type.structure, known.value)
        if not isinstance(found, WordType):
            raise self.refused(node, f"{type} has no number {known.value}")
        return PlaceType(found)

    def word_address_of(self, node: ast.Call) -> Type:
        type = self.expression(self.count(node, 1)[0])
        if not isinstance(type, ViewType | PlaceType | ArrayType):
            raise self.refused(node, f"{type} has no address")
        return U64

    def word_local_array(self, node: ast.Call) -> Type:
        named, length = (self.constant(each) for each in self.count(node, 2))
        if named is None or not isinstance(named.value, Word) or length is None or not length.is_number:
            raise self.refused(node, "local_array takes a type of numbers and a constant")
        self.types[node.args[0]], self.types[node.args[1]] = named, length
        return ArrayType(word_type(named.value), length.value)

    def word_copy_memory(self, node: ast.Call) -> Type:
        for each in self.count(node, 3):
            self.fits(each, U64, "an argument of copy_memory")
        return NOTHING

    def word_zero_memory(self, node: ast.Call) -> Type:
        for each in self.count(node, 2):
            self.fits(each, U64, "an argument of zero_memory")
        return NOTHING

    def word_sizeof(self, node: ast.Call) -> Type:
        raise self.refused(node, "sizeof takes a structure")


_STATEMENTS: dict[type[ast.stmt], Callable[[_Checker, Any], None]] = {
    ast.Pass: _Checker.pass_,
    ast.Expr: _Checker.expression_statement,
    ast.Assign: _Checker.assign,
    ast.AnnAssign: _Checker.annotated,
    ast.AugAssign: _Checker.augmented,
    ast.Return: _Checker.return_,
    ast.If: _Checker.if_,
    ast.While: _Checker.while_,
    ast.For: _Checker.for_,
    ast.Break: _Checker.break_,
    ast.Continue: _Checker.continue_,
    ast.Assert: _Checker.assert_,
}
_EXPRESSIONS: dict[type[ast.expr], Callable[[_Checker, Any], Type]] = {
    ast.Name: _Checker.variable,
    ast.Attribute: _Checker.attribute,
    ast.Subscript: _Checker.subscript,
    ast.BinOp: _Checker.binary,
    ast.UnaryOp: _Checker.unary,
    ast.BoolOp: _Checker.boolean,
    ast.Compare: _Checker.compare,
    ast.IfExp: _Checker.conditional,
    ast.Tuple: _Checker.tuple_,
    ast.Call: _Checker.call,
}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "udiv",
    ast.Mod: "urem",
    ast.BitAnd: "and_",
    ast.BitOr: "or_",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "lshr",
}
"""The operators, and what llvmlite's builder calls them."""
COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}
"""The comparisons, and what llvmlite's builder calls them."""


def _name_of(node: ast.AST) -> str:
    return type(node).__name__


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, enum.IntEnum) else value


def _rebuilt(node: ast.UnaryOp | ast.BinOp, names: Sequence[str]) -> Any:
    """The same operation on other operands, as code."""
    operands: list[ast.expr] = [ast.Name(name, ast.Load()) for name in names]
    copy: ast.expr
    if isinstance(node, ast.UnaryOp):
        copy = ast.UnaryOp(node.op, operands[0])
    else:
        copy = ast.BinOp(operands[0], node.op, operands[1])
    return compile(ast.fix_missing_locations(ast.Expression(copy)), "<constant>", "eval")
