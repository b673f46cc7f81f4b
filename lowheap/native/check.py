"""What functions written once may be made of: every expression gets a type, and what has none is refused.

`check` reads a function's source, and returns it with the type of each expression and what each name and call means.
`run.py` makes Python's form of that, with its ranges asserted, and `translate.py` machine code. Both rely on what is
promised here:

- each parameter is annotated, each variable has one type, and is set on every path that comes to its use;
- numbers of different widths or signs are never mixed; a constant takes the type of what it is with, and fits it;
- what a name means that is no variable is found out once, and is the same for Python and for machine code;
- a function that returns a value does so on every path; a loop's variable is used in the loop only;
- what machine code leaves out (`assert`, `note`, `sound`) or may evaluate for nothing has no effects;
- nothing is understood by halves: what is not in `_STATEMENTS` and `_EXPRESSIONS` is refused.

What is refused is a `NativeError`, which names the file, the line and the reason.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import enum
import functools
import inspect
import linecache
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lowheap.errors import CompilerError
from lowheap.native import words
from lowheap.native.storage import Buffer, HeaderBit, SideTable
from lowheap.native.words import Record, Word, constant_members, ctype_of_field
from lowheap.representation import short_repr


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
class CollectorType(Type):
    """The heap's collector, which is known when code is compiled: what `collector_function` has declared of it."""

    def __str__(self) -> str:
        """Return how messages call it."""
        return "the heap's collector"


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
    """Return the type of a structure's field, those of anonymous structures in it included; None when it has none.

    A field that is not aligned to its size has none either: machine code could not load it.
    """
    data = ctype_of_field(structure, name)
    if data is None or getattr(structure, name).offset % ctypes.alignment(data):
        return None
    return type_of_ctype(data)


INVARIANT_FIELDS: dict[type[ctypes.Structure], frozenset[str] | None] = {}
"""The fields of structures that nothing changes while code runs, None standing for all: they are not stored to, and
machine code may keep what it has loaded."""


def is_invariant(structure: type[ctypes.Structure], name: str) -> bool:
    """Whether a field is one of these."""
    names = INVARIANT_FIELDS.get(structure, frozenset())
    return names is None or name in names


def record_types(kind: type[Record]) -> dict[str, Type]:
    """Return the types of a record's fields. TypeError for a field that is no word, or whose default is none."""
    found: dict[str, Type] = {}
    for name, annotation in kind.fields.items():
        named = {"bool": bool, **vars(words)}.get(annotation) if isinstance(annotation, str) else annotation
        default = kind.defaults[name]
        if isinstance(named, Word):
            found[name] = word_type(named)
            fits = isinstance(default, int) and named.least <= default <= named.most
        elif named is bool:
            found[name] = BOOL
            fits = default in (0, 1)
        else:
            raise TypeError(f"the field {name} of {kind.__name__} is {annotation!r}; it must be a word or a bool")
        if not fits:
            raise TypeError(f"the field {name} of {kind.__name__} is {found[name]}, which {default!r} is not")
    return found


# ----------------------------------------------------------------------------------------------------------------------
# What is checked, and what comes of it


class Function(Protocol):
    """What is checked: `function.Native` is one."""

    function: Callable[..., Any]
    name: str
    is_inline: bool

    @property
    def checked(self) -> Checked:
        """What came of it."""


@dataclass
class Parameter:
    """A parameter of a function."""

    name: str
    type: Type
    is_assigned: bool = False


@dataclass
class Call:
    """What a call expression means: a word, a conversion, a method of the heap, a function of its collector's, by name,
    a record, or another function.
    """

    kind: str
    target: Any


@short_repr
@dataclass
class Checked:
    """A function that is in the subset.

    `types` has the type of each expression by its node; `calls` what each call means; `variables` the type of each
    local variable; `yields` what a generator yields, None if it is none. `names` is what the names mean that are no
    variables. `has_effects`: a call of it does something beside returning a value.
    """

    native: Function
    tree: ast.FunctionDef
    path: str
    parameters: list[Parameter]
    result: Type
    yields: Type | None
    types: dict[ast.AST, Type]
    calls: dict[ast.Call, Call]
    variables: dict[str, Type]
    reassigned: set[str]
    names: dict[str, Any]
    has_effects: bool
    _reads: dict[tuple[str, Any], frozenset[str] | None] = field(default_factory=dict)

    def type(self, node: ast.AST) -> Type:
        """Return an expression's type."""
        return self.types[node]

    @functools.cached_property
    def returns_at_end(self) -> bool:
        """Whether the function's only `return` is its last statement."""
        returns = [each for each in ast.walk(self.tree) if isinstance(each, ast.Return)]
        return len(returns) == 1 and returns[0] is self.tree.body[-1]

    def reads_of(self, static: str, collector: Any = None) -> frozenset[str] | None:
        """Return which attributes of a static parameter the function reads, by itself or through what it calls.

        The code is the same for all statics that agree in these. `collector` is that whose functions it calls. None: it
        may be any, for the static stands somewhere else than before a dot and as an argument of what is known.
        """
        key = static, collector
        if key not in self._reads:
            self._reads[key] = None  # if it comes here again: functions of collectors may go round
            self._reads[key] = self._find_reads(static, collector)
        return self._reads[key]

    def _find_reads(self, static: str, collector: Any) -> frozenset[str] | None:
        found: set[str] = set()
        understood = 0
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and _is_name(node.value, static):
                found.add(node.attr)
                understood += 1
            elif isinstance(node, ast.Call):
                for number, argument in enumerate(node.args):
                    callee = self._callee(node, collector) if _is_name(argument, static) else None
                    if callee is not None:
                        inner = callee.reads_of(callee.parameters[number].name, collector)
                        if inner is None:
                            return None
                        found |= inner
                        understood += 1
        uses = sum(_is_name(node, static) for node in ast.walk(self.tree))
        return frozenset(found) if uses == understood else None

    def _callee(self, node: ast.Call, collector: Any) -> Checked | None:
        """The function that a call is of, if that is one of the subset, and known."""
        call = self.calls.get(node)
        if call is None:
            return None
        if call.kind == "collector" and collector is not None:
            found: Checked = getattr(collector, call.target).checked
            return found
        return call.target.checked if call.kind == "native" else None


# The methods and attributes of a heap: `native/heap.py` has Python's, `translate.py` machine code's.
_HEAP_METHODS: dict[str, tuple[tuple[Type | None, ...], Type | None]] = {}


def heap_method(name: str, parameters: Sequence[Type | None], result: Type | None) -> None:
    """Say that a heap has a method; a parameter of None is a structure, a word or a constant, which the method checks;
    a result of None follows from the first of these.
    """
    _HEAP_METHODS[name] = (tuple(parameters), result)


HEAP_ATTRIBUTES: dict[str, Type] = {"collector": CollectorType()}
"""The attributes of a heap."""


@dataclass(frozen=True)
class Signature:
    """What a function of a collector's takes, behind the heap, and what it returns, or yields."""

    parameters: tuple[Type, ...]
    result: Type
    yields: Type | None = None

    def __str__(self) -> str:
        """Return how messages call it."""
        result = self.result if self.yields is None else f"a generator of {self.yields}"
        return f"({', '.join(map(str, (HeapType(), *self.parameters)))}) -> {result}"

    @staticmethod
    def of(checked: Checked) -> Signature | None:
        """Return a function's own; None for one that does not take the heap first."""
        types = [each.type for each in checked.parameters]
        if not types or not isinstance(types[0], HeapType):
            return None
        return Signature(tuple(types[1:]), checked.result, checked.yields)


COLLECTOR_FUNCTIONS: dict[str, Signature] = {}
"""The functions that `heap.collector` has."""


COLLECTOR_PARAMETERS: dict[str, Type] = {}
"""The numbers and bools that `heap.collector` has: what an instance was made with."""


def collector_parameter(name: str, type: Type) -> None:
    """Say that collectors have a parameter, `heap.collector.name`. ValueError when it is known as another."""
    if COLLECTOR_PARAMETERS.setdefault(name, type) != type:
        raise ValueError(f"a collector's {name} is {COLLECTOR_PARAMETERS[name]}, not {type}")


def collector_function(name: str, parameters: Sequence[Type], result: Type, yields: Type | None = None) -> None:
    """Say that collectors have a function, `heap.collector.name(heap, …)`. ValueError when it is known as another."""
    signature = Signature(tuple(parameters), result, yields)
    if COLLECTOR_FUNCTIONS.setdefault(name, signature) != signature:
        raise ValueError(f"a collector's {name} is {COLLECTOR_FUNCTIONS[name]}, not {signature}")


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


def check(native: Function) -> Checked:
    """Check a function; NativeError when it is not in the subset."""
    tree, path = parsed(native.function)
    return _Checker(native, tree, path).check()


def declared(native: Function) -> tuple[list[Parameter], Type]:
    """Return a function's parameters, and what it returns, without a look at its source: for who calls machine code.

    NativeError when an annotation is none of the subset's, or is missing.
    """
    code, annotations = native.function.__code__, native.function.__annotations__
    names = code.co_varnames[: code.co_argcount]
    texts = [annotations.get(each) for each in (*names, "return")]
    if not all(
        isinstance(each, str) for each in texts
    ):  # without `from __future__ import annotations`: the source tells
        return native.checked.parameters, native.checked.result
    place: Any = {"lineno": code.co_firstlineno, "col_offset": 0}
    *given, returned = [ast.Constant(each, **place) for each in texts]
    arguments = [ast.arg(name, annotation, **place) for name, annotation in zip(names, given, strict=True)]
    signature = ast.arguments([], arguments, None, [], [], None, [])
    checker = _Checker(native, ast.FunctionDef(code.co_name, signature, [], [], returned, **place), code.co_filename)
    return [checker.parameter(argument) for argument in arguments], checker.result_annotation(returned)


def parsed(function: Callable[..., Any]) -> tuple[ast.FunctionDef, str]:
    """Return a function's syntax tree, with the lines and columns that it has in its file, and the file's path."""
    code = function.__code__
    path, line = code.co_filename, code.co_firstlineno
    try:
        tree = _tree_at(_lines_of(code), line)
    except (SyntaxError, IndexError):  # the way that takes much longer, and that nothing misleads
        try:
            lines, line = inspect.getsourcelines(function)
            path = inspect.getsourcefile(function) or path
            tree = _tree_at(lines, line)
        except (OSError, TypeError, SyntaxError) as error:
            raise NativeError(path, line, f"the source of {function.__qualname__} cannot be read: {error}") from error
    if isinstance(tree, ast.If):
        tree = tree.body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise NativeError(path, line, f"{function.__qualname__} is not defined by `def`")
    names = [each.arg for each in (*tree.args.posonlyargs, *tree.args.args)]
    if tree.name != code.co_name or names != list(code.co_varnames[: code.co_argcount]):
        raise NativeError(path, line, f"the source of {function.__qualname__} is not what was loaded: it has changed")
    return tree, path


def _tree_at(lines: Sequence[str], line: int) -> ast.stmt:
    """Return the syntax tree of a statement's lines, which begin in that one of their file."""
    source = "".join(lines)
    is_indented = source[0].isspace()
    # Not dedented, so that columns stay, and what strings of several lines hold.
    module = ast.parse(f"if True:\n{source}" if is_indented else source)
    ast.increment_lineno(module, line - 1 - is_indented)
    return module.body[0]


def _lines_of(code: types.CodeType) -> list[str]:
    """Return the lines of a function: as far as its code goes, and all after that, more indented, or of no code."""
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename)
    first = code.co_firstlineno - 1
    end = max(end or line or 0 for line, end, _, _ in code.co_positions())
    indentation = len(lines[first]) - len(lines[first].lstrip())
    while end < len(lines):
        text = lines[end].lstrip()
        if text and not text.startswith("#") and len(lines[end]) - len(text) <= indentation:
            break
        end += 1
    return lines[first:end]


class _Checker:
    """Walks one function."""

    def __init__(self, native: Function, tree: ast.FunctionDef, path: str) -> None:
        self.native, self.tree, self.path = native, tree, path
        self.names = static_names(native.function)
        self.used: dict[str, Any] = {}
        self.locals = {
            each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)
        } | {each.arg for each in tree.args.args}
        self.types: dict[ast.AST, Type] = {}
        self.calls: dict[ast.Call, Call] = {}
        self.variables: dict[str, Type] = {}
        self.reassigned: set[str] = set()
        self.assigned: set[str] | None = set()  # on every path to here; None where no path comes
        self.loops: list[list[set[str]]] = []  # what is assigned where each `break` of a loop leaves it
        self.loop_variables: set[str] = set()
        self.yields: Type | None = None
        self.has_yielded = False
        self.result: Type = NOTHING
        self.has_effects = False
        self.may_be_array: ast.expr | None = None  # the one place where a local array may be made

    # -- Places and errors

    def refused(self, node: ast.AST, reason: str) -> NativeError:
        """Return what to raise, naming the place."""
        return NativeError(self.path, getattr(node, "lineno", self.tree.lineno), reason)

    def check(self) -> Checked:
        arguments = self.tree.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs or arguments.defaults:
            raise self.refused(self.tree, "parameters are plain ones: no defaults, no *, no /")
        if getattr(self.tree, "type_params", None):
            raise self.refused(self.tree, "the subset has no type parameters")
        for each in sorted(self.locals):
            if each.startswith(RESERVED_PREFIX):
                raise self.refused(self.tree, f"names that begin with {RESERVED_PREFIX} are not for variables")
        if self.tree.returns is None:
            raise self.refused(self.tree, f"what {self.tree.name} returns is not annotated")
        self.result = self.result_annotation(self.tree.returns)
        parameters = [self.parameter(argument) for argument in arguments.args]
        if sum(parameter.type is HEAP for parameter in parameters) > 1:
            raise self.refused(self.tree, "there is one heap: one parameter at most is it")
        for parameter in parameters:
            self.variables[parameter.name] = parameter.type
        self.assigned = {parameter.name for parameter in parameters}
        self.block(self.tree.body)
        if self.assigned is not None and self.result is not NOTHING:
            raise self.refused(self.tree, f"{self.tree.name} does not return {self.result} on every path")
        if self.yields is not None and not self.has_yielded:
            raise self.refused(self.tree, f"{self.tree.name} is annotated as an Iterator, but yields nothing")
        for parameter in parameters:
            parameter.is_assigned = parameter.name in self.reassigned
        return Checked(
            self.native, self.tree, self.path, parameters, self.result, self.yields, self.types, self.calls,
            self.variables, self.reassigned, self.used, self.has_effects,
        )  # fmt: skip

    def parameter(self, argument: ast.arg) -> Parameter:
        if argument.annotation is None:
            raise self.refused(argument, f"the parameter {argument.arg} is not annotated")
        type = self.annotation(argument.annotation)
        if isinstance(type, NoneType | TupleType):
            raise self.refused(argument, f"the parameter {argument.arg} cannot be {type}")
        if isinstance(type, RecordType) and not (self.native.is_inline or self.yields is not None):
            raise self.refused(argument, f"only a function that is inlined takes records; {self.tree.name} is not")
        return Parameter(argument.arg, type)

    # -- Annotations

    def annotation(self, node: ast.expr) -> Type:
        """The type that an annotation names."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                named_by = ast.parse(node.value, mode="eval").body
            except SyntaxError:
                raise self.refused(node, f"{node.value!r} is no type of the subset") from None
            for each in ast.walk(named_by):
                ast.copy_location(each, node)
            node = named_by
        if isinstance(node, ast.Constant) and node.value is None:
            return NOTHING
        if isinstance(node, ast.Subscript):
            outer = self.static(node.value)
            if outer is tuple and isinstance(node.slice, ast.Tuple):
                return TupleType(tuple(self.item_annotation(each) for each in node.slice.elts))
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
                try:
                    record_types(named)
                except TypeError as error:
                    raise self.refused(node, str(error)) from None
                return RecordType(named)
            if getattr(named, "is_native_static", False):
                if not hasattr(named, "key"):
                    raise self.refused(node, f"{named.__name__} has no key, which tells code for one from others'")
                return StaticType(named)
        raise self.refused(node, f"{ast.unparse(node)} is no type of the subset")

    def result_annotation(self, node: ast.expr) -> Type:
        """The result; what a generator yields goes to `yields`."""
        if isinstance(node, ast.Subscript) and self.static(node.value) is Iterator:
            self.yields = self.item_annotation(node.slice)
            return NOTHING
        type = self.annotation(node)
        if isinstance(type, NoneType | TupleType):
            return type
        return self.item_annotation(node)

    def item_annotation(self, node: ast.expr) -> Type:
        """What may be returned, or yielded: a number, a bool, a view or a place."""
        type = self.annotation(node)
        if not isinstance(type, WordType | BoolType | ViewType | PlaceType):
            raise self.refused(node, f"{type} is neither returned nor yielded")
        return type

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
            self.has_yielded = self.has_effects = True
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
            self.may_be_array = statement.value
            type = self.expression(statement.value)
            if isinstance(type, ConstantType):
                if known is None:
                    raise self.refused(statement, f"say what type {target.id} has: {target.id}: u32 = …")
                self.fits(statement.value, known, target.id)
                type = known
            self.bind(target, type)
            return
        # In the order in which Python does: the value first.
        self.expression(statement.value)
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
        if isinstance(type, TupleType):
            raise self.refused(target, f"{name} cannot be {type}: give each of its items a variable")
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
        self.has_effects = True
        if isinstance(target, ast.Attribute):
            owner = self.expression(target.value)
            if isinstance(owner, ViewType | PlaceType | RecordType):
                if isinstance(owner, ViewType):
                    self.changes(target, owner, target.attr)
                type = self.expression(target)
                if isinstance(type, WordType) or (type is BOOL and isinstance(owner, RecordType)):
                    return type
        elif isinstance(target, ast.Subscript):
            type = self.expression(target)
            if isinstance(type, WordType):
                return type
        raise self.refused(target, f"cannot store to {ast.unparse(target)}")

    def changes(self, node: ast.AST, owner: ViewType, name: str) -> None:
        """Refuse to change what machine code takes for invariant."""
        if is_invariant(owner.structure, name):
            raise self.refused(node, f"{owner.structure.__name__}.{name} does not change while code runs")

    def return_(self, statement: ast.Return) -> None:
        if statement.value is None or (isinstance(statement.value, ast.Constant) and statement.value.value is None):
            if self.result is not NOTHING:
                raise self.refused(statement, f"{self.tree.name} returns {self.result}, and here nothing")
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
        self.condition(statement.test)
        endless = isinstance(statement.test, ast.Constant) and bool(statement.test.value)
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
        yields = yields_of(self.calls[iterable])
        if yields is None:
            raise self.refused(iterable, f"{ast.unparse(iterable.func)} is no generator of the subset")
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
        self.without_effects(statement.test, "an assert")
        if statement.msg is not None and not isinstance(statement.msg, ast.Constant):
            raise self.refused(statement.msg, "the message of an assert is a constant")

    def without_effects(self, node: ast.expr, where: str) -> None:
        """Refuse an expression that does something, where machine code may leave it out."""
        for each in ast.walk(node):
            if isinstance(each, ast.Call) and each in self.calls and self.is_effectful(each):
                raise self.refused(each, f"{ast.unparse(each)} has effects, and machine code leaves out {where}")

    def is_effectful(self, node: ast.Call) -> bool:
        return has_effects(self.calls[node])

    # -- Expressions

    def expression(self, node: ast.expr, *, is_iterated: bool = False) -> Type:
        """Return an expression's type, noted in `types`."""
        value = self.constant(node)
        type: Type
        if value is not None:
            type = ConstantType(value.value)
            if isinstance(value.value, bool):
                self.types[node] = value
                return BOOL
        else:
            method = _EXPRESSIONS.get(node.__class__)
            if method is None:
                raise self.refused(node, f"the subset has no {_name_of(node)} expression")
            type = method(self, node)
            if isinstance(node, ast.Call) and not is_iterated:
                call = self.calls.get(node)
                if call is not None and yields_of(call) is not None:
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
            if node.id in self.locals or node.id not in self.names:
                return None
            self.used[node.id] = self.names[node.id]
            return ConstantType(_plain(self.names[node.id]))
        if isinstance(node, ast.Attribute):
            owner = self.constant(node.value)
            if owner is None:
                return None
            if not _has_constants(owner.value):
                raise self.refused(node, f"{ast.unparse(node.value)} is {owner.value!r}, whose attributes may change")
            try:
                return ConstantType(_plain(getattr(owner.value, node.attr)))
            except AttributeError:
                raise self.refused(node, f"{ast.unparse(node.value)} has no attribute {node.attr}") from None
        if isinstance(node, ast.UnaryOp | ast.BinOp):
            parts = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
            values = [self.constant(each) for each in parts]
            if all(each is not None and each.is_number for each in values):
                names = {f"_{number}": each.value for number, each in enumerate(values) if each is not None}
                try:
                    found = eval(_rebuilt(node, tuple(names)), {}, names)
                except (ArithmeticError, ValueError, TypeError, MemoryError) as error:
                    raise self.refused(node, f"{ast.unparse(node)}: {error}") from None
                if not isinstance(found, int):
                    raise self.refused(node, f"the subset has no operator {_name_of(node.op)} of constants")
                return ConstantType(found)
        if isinstance(node, ast.Call):
            function = self.constant(node.func)
            if function is not None and _is_folded(function.value):
                given = [self.constant(each) for each in node.args]
                if all(each is not None for each in given) and not node.keywords:
                    try:
                        return ConstantType(int(function.value(*(each.value for each in given if each is not None))))
                    except (TypeError, AttributeError, ValueError) as error:
                        raise self.refused(node, f"{ast.unparse(node)}: {error}") from error
        return None

    def fits(self, node: ast.expr, wanted: Type, what: str) -> None:
        """Refuse an expression that is not of a type; a constant must be in its range."""
        if isinstance(node, ast.IfExp) and node not in self.types and isinstance(wanted, WordType | BoolType):
            self.condition(node.test)
            self.fits(node.body, wanted, what)
            self.fits(node.orelse, wanted, what)
            self.types[node] = wanted
            return
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
        if isinstance(node, ast.BoolOp):
            for each in node.values:
                self.condition(each)
            self.types[node] = BOOL
            return
        type = self.expression(node)
        if not isinstance(type, BoolType | WordType) and not (
            isinstance(type, ConstantType) and isinstance(type.value, bool | int)
        ):
            raise self.refused(node, f"{type} is no condition")

    def variable(self, node: ast.Name) -> Type:
        name = node.id
        if name not in self.locals:
            raise self.refused(node, f"the name {name} is not known")
        if name not in self.variables:
            raise self.refused(node, f"the variable {name} is not set on every path to here")
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
                found = record_types(owner.record)[node.attr]
        elif isinstance(owner, HeapType):
            found = HEAP_ATTRIBUTES.get(node.attr)
        elif isinstance(owner, CollectorType):
            found = COLLECTOR_PARAMETERS.get(node.attr)
        elif isinstance(owner, StaticType):
            found = self.static_attribute(node, owner.kind)
        if found is None:
            raise self.refused(node, f"{owner} has no {node.attr}")
        return found

    def static_attribute(self, node: ast.Attribute, kind: type[Any]) -> Type:
        if node.attr not in kind.__annotations__:
            raise self.refused(node, f"{kind.__name__} has no {node.attr}")
        annotation = kind.__annotations__[node.attr]
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
        """As a value; Python's `and` and `or` of numbers are numbers. Where a condition stands, see `condition`."""
        for each in node.values:
            type = self.expression(each)
            if type is not BOOL:
                raise self.refused(each, f"{type} is no bool: `and` and `or` of numbers are for conditions")
        return BOOL

    def compare(self, node: ast.Compare) -> Type:
        parts = [node.left, *node.comparators]
        if len(parts) > 2:
            # Python compares as far as it holds, and evaluates each once; machine code evaluates all of them.
            for each in parts[1:]:
                self.expression(each)
                if not is_simple(self.types, each):
                    raise self.refused(each, "in a chain of comparisons, what follows the first is plain numbers")
        self.expression(node.left)
        for left, operator, right in zip(parts, node.ops, node.comparators, strict=False):
            a = self.known(left)
            if isinstance(operator, ast.In | ast.NotIn):
                self.membership(node, a, right)
                continue
            if type(operator) not in COMPARISONS:
                raise self.refused(node, f"the subset has no comparison {_name_of(operator)}")
            b = self.known(right)
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

    def known(self, node: ast.expr) -> Type:
        """The type of an expression that may have been looked at already."""
        found = self.types.get(node)
        if found is None:
            return self.expression(node)
        return BOOL if isinstance(found, ConstantType) and isinstance(found.value, bool) else found

    def membership(self, node: ast.Compare, type: Type, right: ast.expr) -> None:
        if len(node.ops) > 1:
            raise self.refused(node, "`in` is not chained")
        known = [self.constant(each) for each in right.elts] if isinstance(right, ast.Tuple) else None
        if known is not None and all(each is not None for each in known):
            whole: Any = tuple(each.value for each in known if each is not None)
        else:
            found = self.constant(right)
            whole = found.value if found is not None else None
        members = constant_members(whole)
        if not members:
            raise self.refused(node, f"{ast.unparse(right)} is no tuple of constants")
        if not isinstance(type, WordType):
            raise self.refused(node, f"{type} cannot be in {ast.unparse(right)}")
        for each in members:
            if not type.word.least <= each <= type.word.most:
                raise self.refused(node, f"{each} in {ast.unparse(right)} is no {type}")
        self.types[right] = ConstantType(tuple(members))

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
                whose = self.expression(node.func.value)
                if isinstance(whose, CollectorType):
                    return self.collector_call(node, node.func.attr)
                if not isinstance(whose, HeapType):
                    raise self.refused(node, f"{ast.unparse(node.func)} is no function of the subset")
                return self.heap_call(node, node.func.attr)
        function = self.constant(node.func)
        if function is None:
            raise self.refused(node, f"{ast.unparse(node.func)} is no function of the subset")
        target = function.value
        if isinstance(target, Word):
            return self.conversion(node, target)
        if target is min or target is max:
            return self.extremum(node, target)
        if getattr(target, "is_native", False):
            return self.native_call(node, target)
        if isinstance(target, type) and issubclass(target, Record):
            if node.args:
                raise self.refused(node, "a new record has no arguments")
            self.calls[node] = Call("record", target)
            try:
                record_types(target)
            except TypeError as error:
                raise self.refused(node, str(error)) from None
            return RecordType(target)
        name = getattr(target, "__name__", "")
        if name in words.WORDS and words.WORDS[name] is target:
            self.calls[node] = Call("word", name)
            self.has_effects |= has_effects(self.calls[node])
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

    def native_call(self, node: ast.Call, target: Function) -> Type:
        checked = target.checked
        self.calls[node] = Call("native", target)
        self.has_effects |= checked.has_effects
        for value, parameter in zip(self.count(node, len(checked.parameters)), checked.parameters, strict=True):
            self.argument(value, parameter.type, parameter.name)
        return checked.result

    def argument(self, value: ast.expr, wanted: Type, name: str) -> None:
        """Check what a function is given."""
        type = self.expression(value)
        if isinstance(wanted, StaticType) and isinstance(type, ConstantType):
            if not isinstance(type.value, wanted.kind):
                raise self.refused(value, f"{name} is {wanted}, and was given {type}")
            return
        self.fits(value, wanted, name)

    def collector_call(self, node: ast.Call, name: str) -> Type:
        signature = COLLECTOR_FUNCTIONS.get(name)
        if signature is None:
            raise self.refused(node, f"a collector has no {name}")
        self.calls[node] = Call("collector", name)
        self.has_effects = True
        parameters = (HEAP, *signature.parameters)
        for number, (value, wanted) in enumerate(zip(self.count(node, len(parameters)), parameters, strict=True), 1):
            self.argument(value, wanted, f"argument {number} of the collector's {name}")
        return signature.result

    def heap_call(self, node: ast.Call, name: str) -> Type:
        known = _HEAP_METHODS.get(name)
        if known is None:
            raise self.refused(node, f"the heap has no {name}")
        parameters, result = known
        self.calls[node] = Call("heap", name)
        self.has_effects |= has_effects(self.calls[node])
        for value, wanted in zip(self.count(node, len(parameters)), parameters, strict=True):
            if wanted is not None:
                self.fits(value, wanted, f"an argument of {name}")
                continue
            given = self.constant(value)
            if name in _STORAGE:
                result = self.storage(value, given, name) or result
                continue
            if name == "state":
                if given is None or not getattr(given.value, "is_native_state", False):
                    raise self.refused(value, "state takes a class that `@state` has made")
            elif given is None or not isinstance(given.value, Word):
                raise self.refused(value, f"{name} takes a type of numbers here")
            self.types[value] = given
            result = self.named_result(value, given.value)
        assert result is not None, "a result that does not follow is declared"
        return result

    def storage(self, value: ast.expr, given: ConstantType | None, name: str) -> Type | None:
        """Check what names a part of the collector's storage; return the type of what is there, if it tells that."""
        kind = _STORAGE[name]
        if given is not None:
            is_one = isinstance(given.value, kind)
            self.types[value] = given
        else:
            type = self.expression(value)
            is_one = isinstance(type, StaticType) and issubclass(type.kind, kind) and kind is Buffer
        if not is_one:
            raise self.refused(value, f"{name} takes a {kind.__name__} that is known when code is compiled")
        return PlaceType(word_type(given.value.word)) if given is not None and kind is SideTable else None

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
            return self.arithmetic(node, self.expression(left), ast.Add(), left, right)
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

    def word_assume(self, node: ast.Call) -> Type:
        condition = self.count(node, 1)[0]
        self.condition(condition)
        self.without_effects(condition, "what is taken for granted")
        return NOTHING

    def word_prefetch(self, node: ast.Call) -> Type:
        type = self.expression(self.count(node, 1)[0])
        if not isinstance(type, ViewType | PlaceType):
            raise self.refused(node, f"prefetch takes a view or a place, not {type}")
        return NOTHING

    def message(self, node: ast.Call, text: ast.expr, values: Sequence[ast.expr], *, is_percent: bool) -> None:
        known = self.joined(text) if isinstance(text, ast.JoinedStr) else self.constant(text)
        if known is None or not isinstance(known.value, str | ast.JoinedStr):
            raise self.refused(node, "the text is a constant")
        self.types[text] = known
        for each in values:
            type = self.expression(each)
            if not (isinstance(type, WordType) or (isinstance(type, ConstantType) and type.is_number)):
                raise self.refused(each, f"a message tells numbers, not {type}")
            self.without_effects(each, "a message")
        sample = _sample(known.value) if isinstance(known.value, ast.JoinedStr) else known.value
        try:
            zeros = (0,) * len(values)
            _ = sample % zeros if is_percent else sample.format(*zeros)
        except (TypeError, ValueError, LookupError) as error:
            raise self.refused(node, f"the text does not go with {len(values)} numbers: {error}") from None

    def joined(self, text: ast.JoinedStr) -> ConstantType:
        """An f-string of constants, which are put in here, and of statics, which are known when code is compiled."""
        for part in text.values:
            if isinstance(part, ast.FormattedValue) and not isinstance(self.expression(part.value), StaticType):
                part.value = ast.copy_location(ast.Constant(self.constant_text(part)), part.value)
                self.types[part.value] = ConstantType(part.value.value)
        return ConstantType(text)

    def constant_text(self, part: ast.FormattedValue) -> str:
        known = self.constant(part.value)
        if known is None or not isinstance(known.value, int | str):
            raise self.refused(part, f"{ast.unparse(part.value)} is neither a constant nor static")
        spec = "".join(str(getattr(each, "value", "")) for each in getattr(part.format_spec, "values", ()))
        part.format_spec = None
        return format(known.value, spec)

    def word_require(self, node: ast.Call) -> Type:
        if len(node.args) < 3:
            raise self.refused(node, f"{ast.unparse(node.func)} takes a condition, a status and a text")
        self.condition(node.args[0])
        self.without_effects(node.args[0], "what is checked")
        status = self.constant(node.args[1])
        if status is None or not status.is_number:
            raise self.refused(node, "the status is a constant")
        self.types[node.args[1]] = status
        self.message(node, node.args[2], node.args[3:], is_percent=False)
        return NOTHING

    word_check = word_require

    def word_note(self, node: ast.Call) -> Type:
        if not node.args:
            raise self.refused(node, "note takes a text")
        self.message(node, node.args[0], node.args[1:], is_percent=True)
        return NOTHING

    def word_sound(self, node: ast.Call) -> Type:
        if len(node.args) < 2:
            raise self.refused(node, "sound takes a condition and a text")
        self.condition(node.args[0])
        self.without_effects(node.args[0], "what must be sound")
        self.message(node, node.args[1], node.args[2:], is_percent=False)
        return NOTHING

    def word_problem(self, node: ast.Call) -> Type:
        if len(node.args) < 2 or not isinstance(self.expression(node.args[0]), HeapType):
            raise self.refused(node, "problem takes the heap and a text")
        self.message(node, node.args[1], node.args[2:], is_percent=False)
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
        self.changes(node, type, known.value)
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
        size = named.value.bits // 8 * length.value
        if not 0 < size <= LOCAL_ARRAY_LIMIT:
            raise self.refused(node, f"a local array has from 1 to {LOCAL_ARRAY_LIMIT} bytes, not {size}")
        if node is not self.may_be_array or self.loops:
            raise self.refused(node, "a local array is given to a variable, outside of loops")
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

    def word_fill_memory(self, node: ast.Call) -> Type:
        to, value, length = self.count(node, 3)
        for each, type in ((to, U64), (value, U8), (length, U64)):
            self.fits(each, type, "an argument of fill_memory")
        return NOTHING

    def word_compare_exchange(self, node: ast.Call) -> Type:
        where, *values = self.count(node, 3)
        type = self.expression(where)
        if not isinstance(type, PlaceType):
            raise self.refused(node, f"compare_exchange takes a place, not {type}")
        for each in values:
            self.fits(each, type.word, "a number of compare_exchange")
        return BOOL

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


RESERVED_PREFIX = "_lowheap_"
"""What the names begin with that `run.py` gives things of its own."""

LOCAL_ARRAY_LIMIT = 1 << 16
"""The largest local array, in bytes: it is in a frame of the native stack."""

_EFFECTFUL = {
    ("word", "copy_memory"),
    ("word", "zero_memory"),
    ("word", "fill_memory"),
    ("word", "compare_exchange"),
    ("word", "require"),
    ("word", "check"),
    ("heap", "release_externrefs"),
    ("heap", "discard"),
    ("heap", "nanoseconds"),
    ("word", "problem"),
    ("heap", "ask_for_room"),
    ("heap", "map_notes"),
    ("heap", "unmap_notes"),
    ("heap", "visit"),
    ("heap", "write"),
    ("heap", "forget_problems"),
    ("heap", "require_no_problem"),
    ("heap", "finalize"),
}


_STORAGE: dict[str, type[Any]] = {"header_bit": HeaderBit, "length": Buffer, "entry": Buffer, "side": SideTable}
"""The methods of the heap whose first argument is a part of a collector's storage."""


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def has_effects(call: Call) -> bool:
    """Whether a call does something beside returning a value."""
    if call.kind == "native":
        return bool(call.target.checked.has_effects)
    return call.kind == "collector" or (call.kind, call.target) in _EFFECTFUL


def yields_of(call: Call) -> Type | None:
    """Return what a call's generator yields; None when it is a call of none."""
    if call.kind == "native":
        found: Type | None = call.target.checked.yields
        return found
    return COLLECTOR_FUNCTIONS[call.target].yields if call.kind == "collector" else None


def _sample(text: ast.JoinedStr) -> str:
    """What an f-string is like in which statics stand."""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "static" for part in text.values)


def is_simple(types: dict[ast.AST, Type], node: ast.expr) -> bool:
    """Whether an expression may be evaluated without need: it loads nothing, calls nothing, and divides nothing."""
    if isinstance(types.get(node), ConstantType):
        return True
    if isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.BoolOp | ast.IfExp):
        return False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv | ast.Mod):
        return False
    return all(is_simple(types, each) for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr))


def _has_constants(owner: Any) -> bool:
    """Whether attributes of something are constants: those of modules, classes, numbers, fields' descriptions, statics.

    Those of other objects change as a program goes on, and machine code would not see it.
    """
    kinds = (types.ModuleType, type, int, str, enum.Enum, _FIELD_DESCRIPTION)
    return isinstance(owner, kinds) or getattr(owner, "is_native_static", False)


class _Described(ctypes.Structure):
    _fields_ = (("field", ctypes.c_uint8),)


_FIELD_DESCRIPTION: type[Any] = type(vars(_Described)["field"])


def _is_folded(function: Any) -> bool:
    """Whether a function is called while code is compiled, if its arguments are constants."""
    if function is len or function is words.bit_length or function is words.sizeof:
        return True
    return isinstance(getattr(function, "__self__", None), int) and getattr(function, "__name__", "") == "bit_length"


def _name_of(node: ast.AST) -> str:
    return type(node).__name__


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _rebuilt(node: ast.UnaryOp | ast.BinOp, names: Sequence[str]) -> Any:
    """The same operation on other operands, as code."""
    operands: list[ast.expr] = [ast.Name(name, ast.Load()) for name in names]
    copy: ast.expr
    if isinstance(node, ast.UnaryOp):
        copy = ast.UnaryOp(node.op, operands[0])
    else:
        copy = ast.BinOp(operands[0], node.op, operands[1])
    return compile(ast.fix_missing_locations(ast.Expression(copy)), "<constant>", "eval")
