"""The Lisp of `examples/embed/lisp.c` once more, on Python's objects: what the C program is compared with.

`run(program)` gives what the program prints, and what it complains of. It knows nothing of a heap, and is written from
the description of the language at the head of `lisp.c`, not from its code.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(r"""\s+|;[^\n]*|(?P<token>[()']|"(?:[^"\\]|\\.)*"|[^\s()'";]+)""", re.DOTALL)
_ESCAPES = {"n": "\n"}


class LispError(Exception):
    """An error of the program's."""


@dataclass(eq=False)
class Pair:
    """A pair, of the line where its first part was read, if it was."""

    car: Any
    cdr: Any
    line: int | None = None


class Symbol(str):
    """A symbol."""


class Nothing:
    """What a definition gives."""


@dataclass(eq=False)
class Text:
    """A string, which is the same as itself only."""

    content: str


@dataclass(eq=False)
class Environment:
    """Names and values, inside another environment."""

    parent: Environment | None
    values: dict[str, Any] = field(default_factory=dict)

    def holder(self, name: Symbol) -> dict[str, Any]:
        """Where a name is bound."""
        environment: Environment | None = self
        while environment is not None:
            if name in environment.values:
                return environment.values
            environment = environment.parent
        raise LispError(f"{name} is not bound")


@dataclass(eq=False)
class Closure:
    """A function of the program's."""

    parameters: Any
    body: Any
    environment: Environment


@dataclass(eq=False)
class Builtin:
    """A function of the language's."""

    name: str
    call: Callable[..., Any]


def items(pair: Any) -> Iterator[Any]:
    """The parts of a list."""
    while pair is not None:
        yield pair.car
        pair = pair.cdr


def to_list(values: list[Any]) -> Any:
    """A list of values."""
    result = None
    for value in reversed(values):
        result = Pair(value, result)
    return result


def show(value: Any) -> str:
    """A value as it is printed."""
    if value is True or value is False:
        return "#t" if value else "#f"
    if isinstance(value, Text):
        text = value.content
        for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
            text = text.replace(plain, escaped)
        return f'"{text}"'
    if isinstance(value, Closure):
        return "#<closure>"
    if isinstance(value, Builtin):
        return f"#<builtin {value.name}>"
    if value is None:
        return "()"
    if not isinstance(value, Pair):
        return str(value)
    parts = []
    while isinstance(value, Pair):
        parts.append(show(value.car))
        value = value.cdr
    return "(" + " ".join(parts) + (")" if value is None else f" . {show(value)})")


def read(program: str) -> Iterator[tuple[Any, int]]:
    """Each form, and the line where it begins."""
    tokens = [
        (found["token"], 1 + program.count("\n", 0, found.start()))
        for found in _TOKEN.finditer(program)
        if found["token"]
    ]
    position = 0

    def value() -> Any:
        nonlocal position
        token, _ = tokens[position]
        position += 1
        if token == "'":
            return Pair(Symbol("quote"), Pair(value(), None))
        if token == "(":
            parts = []
            while tokens[position][0] != ")":
                line = tokens[position][1]
                parts.append((value(), line))
            position += 1
            result = None
            for part, line in reversed(parts):
                result = Pair(part, result, line)
            return result
        if token[0] == '"':
            return Text(re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), token[1:-1], flags=re.DOTALL))
        if token in ("#t", "#f"):
            return token == "#t"
        return int(token) if re.fullmatch(r"[+-]?\d+", token) else Symbol(token)

    while position < len(tokens):
        line = tokens[position][1]
        yield value(), line


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise LispError("an integer is wanted")
    return value


def _fits(name: str, value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise LispError(f"{name}: the result does not fit in 64 bits")
    return value


def _fold(name: str, start: int, step: Callable[[int, int], int]) -> Builtin:
    def call(*values: Any) -> int:
        result = start
        if name == "-":
            result, *rest = _integer(values[0]), *values[1:]
            if not rest:
                return _fits(name, -result)
            values = tuple(rest)
        for value in values:
            result = _fits(name, step(result, _integer(value)))
        return result

    return Builtin(name, call)


def _divide(name: str) -> Builtin:
    def call(left: Any, right: Any) -> int:
        left, right = _integer(left), _integer(right)
        if right == 0:
            raise LispError(f"{name}: division by zero")
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        return _fits(name, quotient) if name == "quotient" else left - quotient * right

    return Builtin(name, call)


def _compare(name: str, holds: Callable[[int, int], bool]) -> Builtin:
    def call(*values: Any) -> bool:
        numbers = [_integer(value) for value in values]
        return all(holds(left, right) for left, right in itertools.pairwise(numbers))

    return Builtin(name, call)


def _part(name: str) -> Builtin:
    def call(pair: Any) -> Any:
        if not isinstance(pair, Pair):
            raise LispError(f"{name}: a pair is wanted")
        return pair.car if name == "car" else pair.cdr

    return Builtin(name, call)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, (int, str)) and isinstance(right, (int, str)):
        return type(left) is type(right) and left == right
    return left is right


def _append(*values: Any) -> Text:
    for value in values:
        if not isinstance(value, Text):
            raise LispError("string-append: a string is wanted")
    return Text("".join(value.content for value in values))


def _length(value: Any) -> int:
    if not isinstance(value, Text):
        raise LispError("string-length: a string is wanted")
    return len(value.content.encode())


class Lisp:
    """A run of a program."""

    def __init__(self) -> None:
        """Bind what the language has."""
        self.printed: list[str] = []
        self.errors: list[str] = []
        self.line = 1
        builtins = [
            _fold("+", 0, lambda a, b: a + b),
            _fold("-", 0, lambda a, b: a - b),
            _fold("*", 1, lambda a, b: a * b),
            _divide("quotient"),
            _divide("remainder"),
            _compare("=", lambda a, b: a == b),
            _compare("<", lambda a, b: a < b),
            _compare(">", lambda a, b: a > b),
            _compare("<=", lambda a, b: a <= b),
            _compare(">=", lambda a, b: a >= b),
            _part("car"),
            _part("cdr"),
            Builtin("cons", Pair),
            Builtin("list", lambda *values: to_list(list(values))),
            Builtin("null?", lambda value: value is None),
            Builtin("eq?", _same),
            Builtin("string-append", _append),
            Builtin("string-length", _length),
            Builtin("print", self._print),
            Builtin("gc", Nothing),
        ]
        self.top = Environment(None, {builtin.name: builtin for builtin in builtins})

    def _print(self, value: Any) -> Nothing:
        self.printed.append(show(value))
        return Nothing()

    def run(self, program: str) -> tuple[list[str], list[str]]:
        """What the program prints, line by line, and its errors."""
        for form, line in read(program):
            self.line = line
            try:
                value = self.eval(form, self.top)
            except LispError as error:
                self.errors.append(f"line {self.line}: {error}")
            else:
                if not isinstance(value, Nothing):
                    self.printed.append(show(value))
        return self.printed, self.errors

    def eval(self, form: Any, environment: Environment) -> Any:
        """The value of an expression."""
        while True:
            if isinstance(form, Symbol):
                return environment.holder(form)[form]
            if not isinstance(form, Pair):
                return form
            line = self.line = form.line if form.line is not None else self.line
            head, rest = form.car, list(items(form.cdr))
            match head:
                case Symbol("quote"):
                    return rest[0]
                case Symbol("define"):
                    if isinstance(rest[0], Pair):
                        name, value = rest[0].car, Closure(rest[0].cdr, rest[1:], environment)
                    else:
                        name, value = rest[0], self.eval(rest[1], environment)
                    environment.values[name] = value
                    return Nothing()
                case Symbol("set!"):
                    value = self.eval(rest[1], environment)
                    environment.holder(rest[0])[rest[0]] = value
                    return Nothing()
                case Symbol("lambda"):
                    return Closure(rest[0], rest[1:], environment)
                case Symbol("if"):
                    form = rest[1] if self.eval(rest[0], environment) is not False else rest[2]
                    continue
                case Symbol("begin"):
                    body = rest
                case Symbol("let"):
                    values = {binding.car: self.eval(binding.cdr.car, environment) for binding in items(rest[0])}
                    environment, body = Environment(environment, values), rest[1:]
                case _:
                    function = self.eval(head, environment)
                    arguments = [self.eval(part, environment) for part in rest]
                    self.line = line
                    if isinstance(function, Builtin):
                        return function.call(*arguments)
                    if not isinstance(function, Closure):
                        raise LispError("what is called is not a function")
                    environment = Environment(function.environment)
                    if isinstance(function.parameters, Symbol):
                        environment.values[function.parameters] = to_list(arguments)
                    else:
                        names = list(items(function.parameters))
                        if len(names) != len(arguments):
                            few = len(arguments) < len(names)
                            raise LispError("too few arguments" if few else "too many arguments")
                        environment.values.update(zip(names, arguments, strict=True))
                    body = function.body
            for part in body[:-1]:
                self.eval(part, environment)
            form = body[-1]


def run(program: str) -> tuple[list[str], list[str]]:
    """What a program prints, line by line, and its errors."""
    return Lisp().run(program)
