"""How Python runs a function of the subset: as it stands, with its ranges asserted.

Machine code's numbers have a width, and Python's have none. So what Python runs is the function's own source with each
arithmetic operation asked whether its result is in the range of its type, and each parameter whether it is in its.
Constants are what they were when the function was checked, as they are in machine code. Lines and names stay, so that a
debugger steps through the source, and a traceback shows it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from typing import Any

from lowheap.native.check import RESERVED_PREFIX, BoolType, Checked, ConstantType, WordType
from lowheap.native.words import OutOfRange, Word

_RANGED = (ast.Add, ast.Sub, ast.Mult, ast.LShift)  # the results of all others are in the range of their operands
_PREFIX = RESERVED_PREFIX


def python_function(checked: Checked) -> Callable[..., Any]:
    """Return what Python runs for a checked function."""
    function = checked.native.function
    tree = _Instrumented(checked).instrumented()
    name, tree.name = tree.name, f"{_PREFIX}{tree.name}"  # what it calls may go by its name: a class's function does
    module = ast.fix_missing_locations(ast.Module([tree], []))
    # The function's globals as they are now, what it closes over among them, and the checks.
    namespace = {**function.__globals__, **checked.names, **_HELPERS}
    exec(compile(module, function.__code__.co_filename, "exec", dont_inherit=True), namespace)
    made: Callable[..., Any] = namespace[tree.name]
    made.__code__ = made.__code__.replace(co_name=name)
    made.__name__, made.__qualname__ = name, function.__qualname__
    made.__module__ = function.__module__
    return made


class _Instrumented(ast.NodeTransformer):
    """Puts the checks in."""

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self._originals: dict[ast.AST, ast.AST] = {}

    def instrumented(self) -> ast.FunctionDef:
        """Return a copy of the function's tree, with the checks."""
        made = self.visit(self._copied(self.checked.tree))
        assert isinstance(made, ast.FunctionDef), "a function stays one"
        made.decorator_list = []
        made.returns = None
        for argument in made.args.args:
            argument.annotation = None
        body = made.body
        has_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        checks = []
        for parameter in self.checked.parameters:
            if isinstance(parameter.type, WordType | BoolType):
                name = parameter.name
                if isinstance(parameter.type, WordType):
                    word = parameter.type.word
                    is_fine = f"{_PREFIX}isinstance({name}, {_PREFIX}int) and {word.least} <= {name} <= {word.most}"
                else:
                    is_fine = f"{name} is True or {name} is False"
                source = f"if not ({is_fine}): {_PREFIX}refuse({name}, {str(parameter.type)!r}, {name!r})"
                (check,) = ast.parse(source).body
                for node in ast.walk(check):
                    if hasattr(node, "lineno"):
                        ast.copy_location(node, self.checked.tree)
                checks.append(check)
        made.body = [*body[:has_docstring], *checks, *body[has_docstring:]]
        return made

    def _copied(self, node: ast.AST) -> ast.AST:
        """A copy, each node of which leads to its original; `copy.deepcopy` takes five times as long."""
        made = type(node).__new__(type(node))
        self._originals[made] = node
        for name, value in vars(node).items():
            if isinstance(value, ast.AST):
                value = self._copied(value)
            elif type(value) is list:
                value = [self._copied(each) if isinstance(each, ast.AST) else each for each in value]
            setattr(made, name, value)
        return made

    def type(self, node: ast.AST) -> Any:
        """The type of an expression, by the node of the copy."""
        return self.checked.types.get(self._originals.get(node, node))

    def visit(self, node: ast.AST) -> Any:
        """Put constants in the place of what stands for them."""
        type = self.type(node)
        if isinstance(node, ast.expr) and isinstance(type, ConstantType):
            return ast.copy_location(ast.Constant(type.value), node) if _is_literal(type.value) else node
        return super().visit(node)

    def _ranged(self, node: ast.expr, type: WordType) -> ast.expr:
        call = ast.Call(ast.Name(f"{_PREFIX}{type}", ast.Load()), [node], [])
        return ast.copy_location(call, node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Assert the result of arithmetic to be in range."""
        type, shift = self.type(node), self.type(node.right)
        self.generic_visit(node)
        return self._operation(node, type, shift)

    def _operation(self, node: ast.BinOp, type: Any, shift: Any) -> ast.expr:
        """An operation of a type, asserted; `shift` is the type of what is on its right."""
        operator = node.op
        if not isinstance(type, WordType):
            return node
        if isinstance(operator, ast.LShift | ast.RShift) and not isinstance(shift, ConstantType):
            name = f"{_PREFIX}shift{type.bits}"
            node.right = ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [node.right], []), node.right)
        return self._ranged(node, type) if isinstance(operator, _RANGED) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        """Make it an assignment, so that the result is asserted; what is before a dot or a bracket is evaluated once.

        Python evaluates the value first: there what is before the dot gets a name, which the target uses.
        """
        type, shift = self.type(node.target), self.type(node.value)
        target = node.target
        load = copy.deepcopy(target)
        load.ctx = ast.Load()
        if isinstance(target, ast.Attribute | ast.Subscript):
            assert isinstance(load, ast.Attribute | ast.Subscript), "a copy is of the same kind"
            load.value, target.value = self._kept(target.value, "owner")
            if isinstance(target, ast.Subscript):
                assert isinstance(load, ast.Subscript), "a copy is of the same kind"
                load.slice, target.slice = self._kept(target.slice, "number")
        value = self.visit(node.value)
        operation = self._operation(ast.copy_location(ast.BinOp(load, node.op, value), node), type, shift)
        return ast.copy_location(ast.Assign([target], operation), node)

    def _kept(self, node: ast.expr, name: str) -> tuple[ast.expr, ast.expr]:
        """An expression to evaluate, and one for its value again."""
        made = self.visit(node)
        if isinstance(made, ast.Name | ast.Constant):
            return made, copy.deepcopy(made)
        first = ast.NamedExpr(ast.Name(_PREFIX + name, ast.Store()), made)
        return ast.copy_location(first, node), ast.copy_location(ast.Name(_PREFIX + name, ast.Load()), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """Keep `~` within its width."""
        type = self.type(node)
        self.generic_visit(node)
        if isinstance(type, WordType) and isinstance(node.op, ast.Invert):
            mask = ast.copy_location(ast.Constant(type.word.most), node)
            return ast.copy_location(ast.BinOp(node.operand, ast.BitXor(), mask), node)
        if isinstance(type, WordType) and isinstance(node.op, ast.USub):
            return self._ranged(node, type)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """Leave the annotation out: it may be of a name that Python does not have."""
        assert node.value is not None, "checked"
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Let arithmetic that may wrap know how wide it is."""
        type = self.type(node)
        original = self._originals.get(node)
        call = self.checked.calls.get(original) if isinstance(original, ast.Call) else None
        self.generic_visit(node)
        if call is not None and call.kind == "word" and call.target in _WRAPPING:
            function = ast.Name(f"{_PREFIX}{call.target}{type}", ast.Load())
            return ast.copy_location(ast.Call(ast.copy_location(function, node), node.args, []), node)
        return node


def _is_literal(value: Any) -> bool:
    return type(value) in (int, bool, str) or (type(value) is tuple and all(type(each) is int for each in value))


def _refuse(value: Any, word: str, what: str) -> None:
    raise OutOfRange(f"{what} is {value!r}, which is no {word}")


def _asserted(word: Word) -> Callable[[int], int]:
    least, most = word.least, word.most

    def in_range(value: int) -> int:
        if least <= value <= most:
            return value
        raise OutOfRange(f"the result of an operation is {value}, which is no {word}")

    return in_range


def _shifted(bits: int) -> Callable[[int], int]:
    def in_range(value: int) -> int:
        if 0 <= value < bits:
            return value
        raise OutOfRange(f"a number of {bits} bits is shifted by {value}")

    return in_range


_WRAPPING: dict[str, Callable[[int, int], int]] = {
    "wrapping_add": lambda a, b: a + b,
    "wrapping_sub": lambda a, b: a - b,
    "wrapping_mul": lambda a, b: a * b,
}


def _wrapped(word: Word, operation: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda a, b: word.wrap(operation(a, b))


def _helpers() -> dict[str, Callable[..., Any]]:
    helpers: dict[str, Callable[..., Any]] = {
        f"{_PREFIX}refuse": _refuse,
        f"{_PREFIX}isinstance": isinstance,
        f"{_PREFIX}int": int,
    }
    for bits in (8, 16, 32, 64):
        helpers[f"{_PREFIX}shift{bits}"] = _shifted(bits)
        for is_signed in (False, True):
            word = Word(f"{'i' if is_signed else 'u'}{bits}", bits, is_signed=is_signed)
            helpers[f"{_PREFIX}{word}"] = _asserted(word)
            for name, operation in _WRAPPING.items():
                helpers[f"{_PREFIX}{name}{word}"] = _wrapped(word, operation)
    return helpers


_HELPERS = _helpers()
