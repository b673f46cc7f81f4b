"""A small interpreter of JavaScript, for the glue beside a program: the functions that its compiler has written for it.

It has what such functions use: functions and arrow functions, closures, objects, arrays, templates, regular
expressions, destructuring of parameters' rests, `new`, `try`, loops, `switch`, spreads. It has no classes, generators,
`async`, labels, nor getters: those are a `GlueError`, where they are run, with the line. It is not fast.

Source is compiled to closures, of an environment each. Blocks have scopes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from lowheap.errors import LowheapError
from lowheap.hosts.js.objects import JsRegExp, elements_of, thrown_value
from lowheap.hosts.js.values import (
    UNDEFINED,
    BigInt,
    Function,
    JsError,
    Thrown,
    call,
    joined,
    loosely_equal,
    strictly_equal,
    to_int32,
    to_number,
    to_string,
    truthy,
    type_of,
)


class GlueError(LowheapError):
    """Glue that is not JavaScript, or has what is not understood; the line says where."""


class _Token(NamedTuple):
    kind: str  # name, number, bigint, string, template, regexp, operator, end
    text: str
    value: Any
    line: int
    after_newline: bool


_OPERATORS = (
    (">>>=",),
    ("...", "===", "!==", "**=", "<<=", ">>=", ">>>", "&&=", "||=", "??="),
    ("<=", ">=", "==", "!=", "**", "++", "--", "<<", ">>", "&&", "||", "??", "?.", "+=", "-=", "*=", "/=", "%="),
    ("&=", "|=", "^=", "=>"),
    tuple("{}()[];,<>+-*/%&|^!~?:=.@#"),
)
"""The longest first."""

_SKIPPED = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_$\u00aa-\uffff][\w$\u00aa-\uffff]*")
_NUMBER = re.compile(r"0[xX][\da-fA-F_]+n?|0[bB][01_]+n?|0[oO][0-7_]+n?|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?n?")
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)
_REGEXP = re.compile(r"/((?:[^/\\\n\[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+)/([a-z]*)")
_ESCAPE = re.compile(r"\\(u\{[\da-fA-F]+\}|u[\da-fA-F]{4}|x[\da-fA-F]{2}|\r\n|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0", "\n": "", "\r\n": ""}
_BEFORE_REGEXP = ("return", "typeof", "case", "in", "of", "instanceof", "new", "delete", "void", "throw", "else", "do")


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        what = found[1]
        if len(what) > 1 and what[0] in "ux":
            return chr(int(what[1:].strip("{}"), 16))
        return _ESCAPED.get(what, what)

    return joined(_ESCAPE.sub(one, text))


def tokens(source: str, line: int = 1) -> list[_Token]:
    """Return the tokens of a source."""
    found: list[_Token] = []
    place = 0
    while True:
        skipped = _SKIPPED.match(source, place)
        assert skipped is not None, "it matches nothing, too"
        line += skipped[0].count("\n")
        after_newline = "\n" in skipped[0]
        place = skipped.end()
        if place >= len(source):
            return [*found, _Token("end", "end of the source", None, line, after_newline)]
        here = source[place]
        previous = found[-1] if found else None
        ends_value = previous is not None and (
            previous.text in (")", "]", "}")
            if previous.kind == "operator"
            else previous.kind != "name" or previous.text not in _BEFORE_REGEXP
        )
        kind, value, text = "operator", None, ""
        if match := _NAME.match(source, place):
            kind, text = "name", match[0]
        elif (here.isdigit() or here == ".") and (match := _NUMBER.match(source, place)) and match[0] != ".":
            kind, text = "number", match[0]
            value = _number(text)
        elif here in "'\"" and (match := _STRING.match(source, place)):
            kind, text = "string", match[0]
            value = _unescaped(text[1:-1])
        elif here == "`":
            kind = "template"
            text, value = _template(source, place, line)
        elif here == "/" and not ends_value and (match := _REGEXP.match(source, place)):
            kind, text, value = "regexp", match[0], (match[1], match[2])
        else:
            text = next((each for row in _OPERATORS for each in row if source.startswith(each, place)), "")
            if text == "?." and source[place + 2 : place + 3].isdigit():
                text = "?"
            if not text:
                raise GlueError(f"line {line}: {here!r} begins nothing")
        found.append(_Token(kind, text, value, line, after_newline))
        line += text.count("\n")
        place += len(text)


def _number(text: str) -> Any:
    plain = text.rstrip("n").replace("_", "")
    if plain[:2].lower() in ("0x", "0b", "0o"):
        value: Any = int(plain, 0)
    else:
        value = float(plain) if not plain.isdigit() else int(plain)
    return BigInt(value) if text.endswith("n") else value


def _template(source: str, start: int, line: int) -> tuple[str, list[Any]]:
    """The text of a template, and its parts: strings, and the tokens of what is in between."""
    parts: list[Any] = []
    place, begun = start + 1, start + 1
    while place < len(source):
        if source[place] == "\\":
            place += 2
        elif source[place] == "`":
            parts.append(_unescaped(source[begun:place]))
            return source[start : place + 1], parts
        elif source.startswith("${", place):
            parts.append(_unescaped(source[begun:place]))
            depth, end = 1, place + 2
            while end < len(source) and depth:
                if source[end] == "`":
                    end += len(_template(source, end, line)[0])
                    continue
                depth += (source[end] == "{") - (source[end] == "}")
                end += 1
            parts.append(tokens(source[place + 2 : end - 1], line))
            place = begun = end
        else:
            place += 1
    raise GlueError(f"line {line}: a template has no end")


class Scope:
    """Names and their values, within others."""

    __slots__ = ("is_function", "names", "outer")

    def __init__(self, outer: Scope | None, names: dict[str, Any] | None = None, *, is_function: bool = False) -> None:
        """Begin with these names. `is_function`: it is a function's, and has what is declared with `var` in it."""
        self.outer = outer
        self.names = {} if names is None else names
        self.is_function = is_function

    def of_variables(self) -> Scope:
        """Return the scope that has what is declared with `var` here."""
        scope = self
        while not scope.is_function and scope.outer is not None:
            scope = scope.outer
        return scope

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the names of the scope that has a name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names or scope.declares(name):
                return scope.names
            scope = scope.outer
        return None

    def declares(self, name: str) -> bool:
        """Whether this scope comes to have a name that it is asked for."""
        return False


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


Code = Callable[[Scope], Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """What can be assigned to: how it is read and written. `owner` evaluates an object and a key, of a property."""

    read: Code
    write: Callable[[Scope, Any], None]
    owner: Callable[[Scope], tuple[Any, Any]] | None = None


_BINARY: dict[str, int] = {
    "??": 1, "||": 2, "&&": 3, "|": 4, "^": 5, "&": 6, "==": 7, "!=": 7, "===": 7, "!==": 7,
    "<": 8, ">": 8, "<=": 8, ">=": 8, "instanceof": 8, "in": 8,
    "<<": 9, ">>": 9, ">>>": 9, "+": 10, "-": 10, "*": 11, "/": 11, "%": 11, "**": 12,
}  # fmt: skip
_ASSIGNING = ("=", "+=", "-=", "*=", "/=", "%=", "**=", "<<=", ">>=", ">>>=", "&=", "|=", "^=", "&&=", "||=", "??=")
_UNSUPPORTED = ("class", "async", "await", "yield", "with", "import", "export", "super")


class Interpreter:
    """Reads source for one world, which says what properties of values are: `get`, `set`, `has`, `construct`."""

    def __init__(self, world: Any) -> None:
        """Interpret for a world."""
        self.world = world

    def expression(self, source: str, scope: Scope, line: int = 1) -> Any:
        """Return the value of an expression. GlueError for what is none."""
        parser = _Parser(self.world, tokens(source, line))
        code = parser.assignment()
        parser.expect_end()
        return code(scope)

    def run(self, source: str, scope: Scope, line: int = 1) -> None:
        """Run statements."""
        parser = _Parser(self.world, tokens(source, line))
        statements = []
        while parser.here.kind != "end":
            statements.append(parser.statement())
        for each in statements:
            each(scope)


class _Parser:
    def __init__(self, world: Any, found: list[_Token]) -> None:
        self.world, self.tokens, self.place = world, found, 0

    # Tokens

    @property
    def here(self) -> _Token:
        return self.tokens[self.place]

    def advance(self) -> _Token:
        token = self.here
        self.place += token.kind != "end"
        return token

    def at(self, *texts: str) -> bool:
        return self.here.kind in ("operator", "name") and self.here.text in texts

    def take(self, *texts: str) -> bool:
        if self.at(*texts):
            self.advance()
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.refuse(f"{text!r} is wanted")

    def expect_end(self) -> None:
        if self.here.kind != "end":
            self.refuse("the end is wanted")

    def refuse(self, problem: str) -> NoReturn:
        raise GlueError(f"line {self.here.line}: {problem}, not {self.here.text[:40]!r}")

    def name(self) -> str:
        if self.here.kind != "name":
            self.refuse("a name is wanted")
        return self.advance().text

    # Statements

    def block(self) -> Code:
        self.expect("{")
        functions: list[Code] = []
        others: list[Code] = []
        while not self.take("}"):
            if self.here.kind == "end":
                self.refuse("'}' is wanted")
            (functions if self.at("function") else others).append(self.statement())
        statements = [*functions, *others]  # functions are there from the beginning

        def run(scope: Scope) -> None:
            inner = Scope(scope)
            for each in statements:
                each(inner)

        return run

    def statement(self) -> Code:
        if self.at("{"):
            return self.block()
        if self.here.kind == "name":
            reader = getattr(self, f"_{self.here.text}", None)
            if self.here.text in _STATEMENTS and reader is not None:
                self.advance()
                found: Code = reader()
                return found
            if self.at("const", "let", "var"):
                code = self._declaration()
                self._end_statement()
                return code
            if self.at("function") and self.tokens[self.place + 1].kind == "name":
                return self._function_statement()
        if self.take(";"):
            return lambda scope: None
        code = self.sequence()
        self._end_statement()
        return code

    def _end_statement(self) -> None:
        if not self.take(";") and not self.at("}") and self.here.kind != "end" and not self.here.after_newline:
            self.refuse("';' is wanted")

    def _declaration(self) -> Code:
        is_variable = self.advance().text == "var"
        steps = []
        while True:
            bind = self.pattern()
            value = self.assignment() if self.take("=") else None
            steps.append((bind, value))
            if not self.take(","):
                break

        def run(scope: Scope) -> None:
            for bind, value in steps:
                bind(scope, UNDEFINED if value is None else value(scope))

        def run_variables(scope: Scope) -> None:
            home = scope.of_variables()
            for bind, value in steps:
                if value is not None:
                    bind(home, value(scope))
                else:
                    bind(fresh := Scope(None), UNDEFINED)
                    home.names.update((name, UNDEFINED) for name in fresh.names if name not in home.names)

        return run_variables if is_variable else run

    def _function_statement(self) -> Code:
        self.advance()
        name = self.tokens[self.place].text
        code = self._function_rest(self.name())

        def run(scope: Scope) -> None:
            scope.names[name] = code(scope)

        return run

    def _return(self) -> Code:
        value = None
        if not self.at(";", "}") and not self.here.after_newline and self.here.kind != "end":
            value = self.sequence()
        self._end_statement()

        def run(scope: Scope) -> None:
            raise _Return(UNDEFINED if value is None else value(scope))

        return run

    def _throw(self) -> Code:
        value = self.sequence()
        self._end_statement()

        def run(scope: Scope) -> None:
            throw(value(scope))

        return run

    def _if(self) -> Code:
        self.expect("(")
        condition = self.sequence()
        self.expect(")")
        yes = self.statement()
        no = self.statement() if self.take("else") else None

        def run(scope: Scope) -> None:
            if truthy(condition(scope)):
                yes(scope)
            elif no is not None:
                no(scope)

        return run

    def _while(self) -> Code:
        self.expect("(")
        condition = self.sequence()
        self.expect(")")
        return _loop(None, condition, None, self.statement())

    def _do(self) -> Code:
        body = self.statement()
        self.expect("while")
        self.expect("(")
        condition = self.sequence()
        self.expect(")")
        self.take(";")

        def run(scope: Scope) -> None:
            while True:
                try:
                    body(scope)
                except _Break:
                    return
                except _Continue:
                    pass
                if not truthy(condition(scope)):
                    return

        return run

    def _for(self) -> Code:
        self.expect("(")
        start: Code | None = None
        if self.at("const", "let", "var"):
            before = self.place
            is_variable = self.advance().text == "var"
            bind = self.pattern()
            if self.at("of", "in"):
                each = (lambda scope, value: bind(scope.of_variables(), value)) if is_variable else bind
                return self._for_each(each, is_keys=self.advance().text == "in")
            self.place = before
            start = self._declaration()
        elif not self.at(";"):
            start = self.sequence()
        self.expect(";")
        condition = None if self.at(";") else self.sequence()
        self.expect(";")
        step = None if self.at(")") else self.sequence()
        self.expect(")")
        return _loop(start, condition, step, self.statement())

    def _for_each(self, bind: Callable[[Scope, Any], None], *, is_keys: bool) -> Code:
        values = self.sequence()
        self.expect(")")
        body, world = self.statement(), self.world

        def run(scope: Scope) -> None:
            found = values(scope)
            for each in world.keys(found) if is_keys else elements_of(found):
                inner = Scope(scope)
                bind(inner, each)
                try:
                    body(inner)
                except _Break:
                    return
                except _Continue:
                    continue

        return run

    def _break(self) -> Code:
        self._end_statement()

        def run(scope: Scope) -> None:
            raise _Break

        return run

    def _continue(self) -> Code:
        self._end_statement()

        def run(scope: Scope) -> None:
            raise _Continue

        return run

    def _try(self) -> Code:
        body = self.block()
        bind: Callable[[Scope, Any], None] | None = None
        handler: Code | None = None
        if self.take("catch"):
            if self.take("("):
                bind = self.pattern()
                self.expect(")")
            handler = self.block()
        last = self.block() if self.take("finally") else None

        def guarded(scope: Scope) -> None:
            if handler is None:
                body(scope)
                return
            try:
                body(scope)
            except (_Return, _Break, _Continue, GlueError):
                raise
            except Exception as error:
                inner = Scope(scope)
                if bind is not None:
                    bind(inner, thrown_value(error))
                handler(inner)

        def run(scope: Scope) -> None:
            try:
                guarded(scope)
            finally:
                if last is not None:
                    last(scope)

        return run

    def _switch(self) -> Code:
        self.expect("(")
        value = self.sequence()
        self.expect(")")
        self.expect("{")
        cases: list[tuple[Code | None, list[Code]]] = []
        while not self.take("}"):
            test = None
            if not self.take("default"):
                self.expect("case")
                test = self.sequence()
            self.expect(":")
            statements: list[Code] = []
            while not self.at("case", "default", "}"):
                statements.append(self.statement())
            cases.append((test, statements))

        def run(scope: Scope) -> None:
            found, inner = value(scope), Scope(scope)
            chosen = next(
                (n for n, (test, _) in enumerate(cases) if test is not None and strictly_equal(test(inner), found)),
                next((n for n, (test, _) in enumerate(cases) if test is None), len(cases)),
            )
            try:
                for _, statements in cases[chosen:]:
                    for each in statements:
                        each(inner)
            except _Break:
                pass

        return run

    # Patterns

    def pattern(self) -> Callable[[Scope, Any], None]:
        """What gives names their values: a name, or names in brackets or braces, each with a default."""
        world = self.world
        if self.take("["):
            elements: list[tuple[Callable[[Scope, Any], None] | None, bool]] = []
            while not self.take("]"):
                if self.at(","):
                    elements.append((None, False))
                else:
                    is_rest = self.take("...")
                    elements.append((self._with_default(), is_rest))
                if not self.at("]"):
                    self.expect(",")

            def bind_elements(scope: Scope, value: Any) -> None:
                given = elements_of(value)
                for number, (each, is_rest) in enumerate(elements):
                    if each is not None:
                        rest = given[number:] if is_rest else given[number] if number < len(given) else UNDEFINED
                        each(scope, rest)

            return bind_elements
        if self.take("{"):
            parts: list[tuple[str, Callable[[Scope, Any], None]]] = []
            while not self.take("}"):
                key = self.here.text
                if self.tokens[self.place + 1].text == ":":
                    self.place += 2
                parts.append((key, self._with_default()))
                if not self.at("}"):
                    self.expect(",")

            def bind_parts(scope: Scope, value: Any) -> None:
                for key, each in parts:
                    each(scope, world.get(value, key))

            return bind_parts
        name = self.name()

        def bind_name(scope: Scope, value: Any) -> None:
            scope.names[name] = value

        return bind_name

    def _with_default(self) -> Callable[[Scope, Any], None]:
        bind = self.pattern()
        if not self.take("="):
            return bind
        default = self.assignment()
        return lambda scope, value: bind(scope, default(scope) if value is UNDEFINED else value)

    # Expressions

    def sequence(self) -> Code:
        parts = [self.assignment()]
        while self.take(","):
            parts.append(self.assignment())
        if len(parts) == 1:
            return parts[0]

        def run(scope: Scope) -> Any:
            value = None
            for each in parts:
                value = each(scope)
            return value

        return run

    def assignment(self) -> Code:
        if self._is_arrow():
            return self._arrow()
        start = self.here
        target = self._conditional()
        if not (self.here.kind == "operator" and self.here.text in _ASSIGNING):
            return target.read
        if target.write is _refuse_write:
            raise GlueError(f"line {start.line}: nothing can be assigned to what begins with {start.text[:40]!r}")
        operator = self.advance().text
        value = self.assignment()
        read, write = target.read, target.write
        if operator == "=":

            def assign(scope: Scope) -> Any:
                found = value(scope)
                write(scope, found)
                return found

            return assign
        kind = operator[:-1]

        def change(scope: Scope) -> Any:
            old = read(scope)
            if kind in ("&&", "||", "??"):
                keeps = not truthy(old) if kind == "&&" else truthy(old) if kind == "||" else not _is_nothing(old)
                if keeps:
                    return old
                new = value(scope)
            else:
                new = binary(kind, old, value(scope))
            write(scope, new)
            return new

        return change

    def _is_arrow(self) -> bool:
        """Whether parameters and `=>` are what comes."""
        if self.here.kind == "name" and self.tokens[self.place + 1].text == "=>":
            return True
        if not self.at("("):
            return False
        depth, place = 0, self.place
        while place < len(self.tokens):
            token = self.tokens[place]
            if token.kind == "operator":
                depth += (token.text in "([{") - (token.text in ")]}")
            if depth == 0:
                return self.tokens[place + 1].text == "=>" if place + 1 < len(self.tokens) else False
            place += 1
        return False

    def _arrow(self) -> Code:
        if self.here.kind == "name":
            params: list[tuple[Callable[[Scope, Any], None], bool]] = [(self.pattern(), False)]
        else:
            params = self._params()
        self.expect("=>")
        if self.at("{"):
            return _closure("", params, self.block(), is_arrow=True)
        value = self.assignment()
        return _closure("", params, None, value, is_arrow=True)

    def _params(self) -> list[tuple[Callable[[Scope, Any], None], bool]]:
        self.expect("(")
        params = []
        while not self.take(")"):
            is_rest = self.take("...")
            params.append((self._with_default(), is_rest))
            if not self.at(")"):
                self.expect(",")
        return params

    def _function_rest(self, name: str) -> Code:
        params = self._params()
        return _closure(name, params, self.block(), is_arrow=False)

    def _conditional(self) -> _Place:
        condition = self._binary(0)
        if not self.take("?"):
            return condition
        yes = self.assignment()
        self.expect(":")
        no = self.assignment()
        test = condition.read
        return _value(lambda scope: yes(scope) if truthy(test(scope)) else no(scope))

    def _binary(self, least: int) -> _Place:
        left = self._unary()
        while True:
            text = self.here.text if self.here.kind in ("operator", "name") else ""
            strength = _BINARY.get(text, 0)
            if strength <= least:
                return left
            self.advance()
            right = self._binary(strength - (text == "**")).read
            left = self._combined(text, left.read, right)

    def _combined(self, text: str, left: Code, right: Code) -> _Place:
        world = self.world
        if text == "&&":
            return _value(lambda scope: right(scope) if truthy(found := left(scope)) else found)
        if text == "||":
            return _value(lambda scope: found if truthy(found := left(scope)) else right(scope))
        if text == "??":
            return _value(lambda scope: right(scope) if _is_nothing(found := left(scope)) else found)
        if text == "instanceof":
            return _value(lambda scope: world.is_instance(left(scope), right(scope)))
        if text == "in":
            return _value(lambda scope: world.has(right(scope), left(scope)))
        return _value(lambda scope: binary(text, left(scope), right(scope)))

    def _unary(self) -> _Place:
        world = self.world
        if self.here.kind == "operator" and self.here.text in ("!", "-", "+", "~"):
            operator = self.advance().text
            operand = self._unary().read
            return _value(_UNARY[operator](operand))
        if self.at("++", "--"):
            step = 1 if self.advance().text == "++" else -1
            target = self._unary()
            return _value(_stepping(target, step, returns_old=False))
        if self.at("typeof"):
            self.advance()
            is_name = self.here.kind == "name" and self.here.text not in _NO_VARIABLES
            name, operand = self.here.text, self._unary().read
            return _value(
                lambda scope: (
                    "undefined"
                    if is_name and scope.find(name) is None and not world.has_global(name)
                    else type_of(operand(scope))
                )
            )
        if self.at("void"):
            self.advance()
            operand = self._unary().read
            return _value(lambda scope: [operand(scope), UNDEFINED][1])
        if self.at("delete"):
            self.advance()
            target = self._unary()
            owner = target.owner
            if owner is None:
                self.refuse("a property is wanted")
            return _value(lambda scope: world.delete(*owner(scope)))
        target = self._postfix()
        if self.at("++", "--") and not self.here.after_newline:
            step = 1 if self.advance().text == "++" else -1
            return _value(_stepping(target, step, returns_old=True))
        return target

    def _postfix(self) -> _Place:
        return self._members(self._new() if self.at("new") else self._primary(), calls=True)

    def _members(self, left: _Place, *, calls: bool) -> _Place:
        world = self.world
        while True:
            if self.at(".", "?."):
                is_optional = self.advance().text == "?."
                if is_optional and self.at("("):
                    left = self._call(left, is_optional=True)
                elif is_optional and self.take("["):
                    key = self.sequence()
                    self.expect("]")
                    left = _property(world, left.read, key, is_optional=True)
                else:
                    name = self.name()
                    left = _property(world, left.read, _always(name), is_optional=is_optional)
            elif self.take("["):
                key = self.sequence()
                self.expect("]")
                left = _property(world, left.read, key)
            elif calls and self.at("("):
                left = self._call(left)
            elif calls and self.here.kind == "template":
                self.refuse("tagged templates are not supported")
            else:
                return left

    def _arguments(self) -> Callable[[Scope], list[Any]]:
        self.expect("(")
        return self._elements(")")

    def _elements(self, end: str) -> Callable[[Scope], list[Any]]:
        parts: list[tuple[Code, bool]] = []
        while not self.take(end):
            if self.at(","):
                parts.append((lambda scope: UNDEFINED, False))
            else:
                is_spread = self.take("...")
                parts.append((self.assignment(), is_spread))
            if not self.at(end):
                self.expect(",")
        if not any(is_spread for _, is_spread in parts):
            codes = [code for code, _ in parts]
            return lambda scope: [code(scope) for code in codes]

        def run(scope: Scope) -> list[Any]:
            found: list[Any] = []
            for code, is_spread in parts:
                if is_spread:
                    found += elements_of(code(scope))
                else:
                    found.append(code(scope))
            return found

        return run

    def _call(self, callee: _Place, *, is_optional: bool = False) -> _Place:
        arguments, owner, read, world = self._arguments(), callee.owner, callee.read, self.world
        line = self.here.line

        def run(scope: Scope) -> Any:
            this: Any = UNDEFINED
            if owner is None:
                function = read(scope)
            else:
                this, key = owner(scope)
                if this is _NOTHING:
                    return UNDEFINED
                function = world.get(this, key)
            if is_optional and _is_nothing(function):
                return UNDEFINED
            try:
                return call(function, this, arguments(scope))
            except JsError as error:
                error.properties.setdefault("line", line)
                raise

        return _value(run)

    def _new(self) -> _Place:
        self.advance()
        if self.take("."):
            self.refuse("new.target is not supported")
        target = self._new() if self.at("new") else self._primary()
        kind = self._members(target, calls=False).read
        arguments = self._arguments() if self.at("(") else lambda scope: []
        world = self.world
        return _value(lambda scope: world.construct(kind(scope), arguments(scope)))

    def _primary(self) -> _Place:
        token = self.advance()
        match token.kind:
            case "number" | "string":
                value = token.value
                return _value(lambda scope: value)
            case "regexp":
                source, flags = token.value
                return _value(lambda scope: JsRegExp(source, flags))
            case "template":
                return self._template(token.value)
            case "name":
                return self._named(token)
        if token.text == "(":
            inner = self.sequence()
            self.expect(")")
            return _value(inner)
        if token.text == "[":
            elements = self._elements("]")
            return _value(elements)
        if token.text == "{":
            return self._object()
        self.place -= 1
        return self.refuse("an expression is wanted")

    def _template(self, parts: list[Any]) -> _Place:
        codes: list[Any] = []
        for each in parts:
            if isinstance(each, str):
                codes.append(each)
            else:
                inner = _Parser(self.world, each)
                codes.append(inner.sequence())
                inner.expect_end()
        return _value(
            lambda scope: "".join(each if isinstance(each, str) else to_string(each(scope)) for each in codes)
        )

    def _named(self, token: _Token) -> _Place:
        name, world = token.text, self.world
        if name in _CONSTANTS:
            value = _CONSTANTS[name]
            return _value(lambda scope: value)
        if name == "function":
            return _value(self._function_rest(self.name() if self.here.kind == "name" else ""))
        if name in _UNSUPPORTED:
            self.place -= 1
            self.refuse("this is not supported")

        def read(scope: Scope) -> Any:
            names = scope.find(name)
            if names is not None:
                return names[name]
            if world.has_global(name):
                return world.get_global(name)
            raise JsError(f"{name} is not defined", "ReferenceError")

        def write(scope: Scope, value: Any) -> None:
            names = scope.find(name)
            if names is None:
                world.set_global(name, value)
            else:
                names[name] = value

        return _Place(read, write)

    def _object(self) -> _Place:
        parts: list[tuple[Code, Code, bool]] = []
        while not self.take("}"):
            if self.take("..."):
                value = self.assignment()
                parts.append((value, value, True))
            else:
                parts.append((*self._member(), False))
            if not self.at("}"):
                self.expect(",")
        world = self.world

        def run(scope: Scope) -> Any:
            made = world.new_object()
            for key, value, is_spread in parts:
                if is_spread:
                    source = value(scope)
                    for each in world.keys(source):
                        made.set(each, world.get(source, each))
                else:
                    world.set(made, world.key(key(scope)), value(scope))
            return made

        return _value(run)

    def _member(self) -> tuple[Code, Code]:
        token = self.here
        if self.take("["):
            key: Code = self.assignment()
            self.expect("]")
        else:
            if token.kind not in ("name", "string", "number"):
                self.refuse("a property is wanted")
            self.advance()
            text = to_string(token.value) if token.kind != "name" else token.text
            key = _always(text)
            if token.kind == "name" and token.text in ("get", "set", "async") and not self.at(",", ":", "(", "}"):
                self.refuse("accessors and async functions are not supported")
        if self.at("("):
            return key, self._function_rest(token.text)
        if self.take(":"):
            return key, self.assignment()
        if token.kind != "name":
            self.refuse("':' is wanted")
        return key, self._named(token).read


_STATEMENTS = ("return", "throw", "if", "while", "do", "for", "break", "continue", "try", "switch")
_NO_VARIABLES = ("null", "true", "false", "undefined", "function", "new", "typeof", "void", "delete")
_CONSTANTS = {
    "null": None,
    "true": True,
    "false": False,
    "undefined": UNDEFINED,
    "NaN": math.nan,
    "Infinity": math.inf,
}


class _Nothing:
    """What an optional access was of, where it was of nothing."""


_NOTHING = _Nothing()


def _is_nothing(value: Any) -> bool:
    return value is None or value is UNDEFINED


def _always(value: Any) -> Code:
    return lambda scope: value


def _refuse_write(scope: Scope, value: Any) -> None:
    raise AssertionError("the parser refuses it")


def _value(read: Code) -> _Place:
    return _Place(read, _refuse_write)


def _property(world: Any, owner: Code, key: Code, *, is_optional: bool = False) -> _Place:
    def both(scope: Scope) -> tuple[Any, Any]:
        found = owner(scope)
        if is_optional and _is_nothing(found):
            return _NOTHING, UNDEFINED
        return found, world.key(key(scope))

    def read(scope: Scope) -> Any:
        found, name = both(scope)
        return UNDEFINED if found is _NOTHING else world.get(found, name)

    def write(scope: Scope, value: Any) -> None:
        world.set(*both(scope), value)

    return _Place(read, write, both)


def _stepping(target: _Place, step: int, *, returns_old: bool) -> Code:
    read, write = target.read, target.write

    def run(scope: Scope) -> Any:
        old = read(scope)
        old = old if isinstance(old, BigInt) else to_number(old)
        new = BigInt(old + step) if isinstance(old, BigInt) else old + step
        write(scope, new)
        return old if returns_old else new

    return run


def _negated(value: Any) -> Any:
    if isinstance(value, BigInt):
        return BigInt(-value)
    number = to_number(value)
    return -0.0 if number == 0 and math.copysign(1, number) > 0 else -number


_UNARY: dict[str, Callable[[Code], Code]] = {
    "!": lambda operand: lambda scope: not truthy(operand(scope)),
    "-": lambda operand: lambda scope: _negated(operand(scope)),
    "+": lambda operand: lambda scope: to_number(operand(scope)),
    "~": lambda operand: lambda scope: ~to_int32(operand(scope)),
}


def _loop(start: Code | None, condition: Code | None, step: Code | None, body: Code) -> Code:
    def run(scope: Scope) -> None:
        inner = Scope(scope)
        if start is not None:
            start(inner)
        while condition is None or truthy(condition(inner)):
            once = Scope(inner.outer, dict(inner.names))  # each round has names of its own, for closures
            try:
                body(once)
            except _Break:
                return
            except _Continue:
                pass
            inner = Scope(inner.outer, dict(once.names))
            if step is not None:
                step(inner)

    return run


def _closure(
    name: str,
    params: list[tuple[Callable[[Scope, Any], None], bool]],
    body: Code | None,
    value: Code | None = None,
    *,
    is_arrow: bool,
) -> Code:
    def make(scope: Scope) -> Function:
        def run(this: Any, *args: Any) -> Any:
            inner = Scope(scope, is_function=True)
            if not is_arrow:
                inner.names["this"], inner.names["arguments"] = this, list(args)
            for number, (bind, is_rest) in enumerate(params):
                bind(inner, list(args[number:]) if is_rest else args[number] if number < len(args) else UNDEFINED)
            if value is not None:
                return value(inner)
            assert body is not None, "a function has one or the other"
            try:
                body(inner)
            except _Return as found:
                return found.value
            return UNDEFINED

        return Function(run, name)

    return make


def throw(value: Any) -> NoReturn:
    """Throw a value: an exception as itself."""
    raise value if isinstance(value, Exception) else Thrown(value)


def binary(operator: str, left: Any, right: Any) -> Any:
    """Return what an operator of two makes of two values."""
    match operator:
        case "===":
            return strictly_equal(left, right)
        case "!==":
            return not strictly_equal(left, right)
        case "==":
            return loosely_equal(left, right)
        case "!=":
            return not loosely_equal(left, right)
        case "+":
            if isinstance(left, str) or isinstance(right, str) or not (_is_simple(left) and _is_simple(right)):
                return joined(to_string(left) + to_string(right))
        case "<" | ">" | "<=" | ">=":
            return _compared(operator, left, right)
        case "<<" | ">>" | ">>>" | "&" | "|" | "^":
            return _bits(operator, left, right)
    if isinstance(left, BigInt) and isinstance(right, BigInt):
        return BigInt(_arithmetic(operator, int(left), int(right), is_integral=True))
    if isinstance(left, BigInt) or isinstance(right, BigInt):
        raise JsError("Cannot mix BigInt and other types, use explicit conversions", "TypeError")
    return _arithmetic(operator, to_number(left), to_number(right))


def _is_simple(value: Any) -> bool:
    return value is None or value is UNDEFINED or isinstance(value, int | float)


def _compared(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        one: Any = left.encode("utf-16-be", "surrogatepass")
        other: Any = right.encode("utf-16-be", "surrogatepass")
    else:
        one, other = to_number(left), to_number(right)
    if operator in ("<", ">"):
        return bool(one < other if operator == "<" else one > other)
    return bool(one <= other if operator == "<=" else one >= other)


def _bits(operator: str, left: Any, right: Any) -> Any:
    if isinstance(left, BigInt) and isinstance(right, BigInt):
        one, other = int(left), int(right)
        found = {"&": one & other, "|": one | other, "^": one ^ other}.get(operator)
        if found is None:
            found = one << other if (operator == "<<") == (other >= 0) else one >> abs(other)
        return BigInt(found)
    one, other = to_int32(left), to_int32(right)
    match operator:
        case "<<":
            return to_int32(one << (other & 31))
        case ">>":
            return one >> (other & 31)
        case ">>>":
            return (one & 0xFFFF_FFFF) >> (other & 31)
        case "&":
            return one & other
        case "|":
            return one | other
    return one ^ other


def _arithmetic(operator: str, left: Any, right: Any, *, is_integral: bool = False) -> Any:
    match operator:
        case "+":
            return _number_of(left + right, is_integral)
        case "-":
            return _number_of(left - right, is_integral)
        case "*":
            found = left * right
            if found == 0 and not is_integral:  # whose sign ints do not have
                return math.copysign(0.0, math.copysign(1, left) * math.copysign(1, right))
            return _number_of(found, is_integral)
        case "**":
            return left**right if is_integral else power(left, right)
    if is_integral:
        if right == 0:
            raise JsError("Division by zero", "RangeError")
        quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
        return quotient if operator == "/" else left - quotient * right
    if operator == "/":
        if right == 0:
            sign = math.copysign(1, left) * math.copysign(1, right)
            return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, sign)
        return left / right
    if right == 0 or math.isinf(left) or math.isnan(left) or math.isnan(right):
        return math.nan
    return math.fmod(left, right)


def _number_of(value: Any, is_integral: bool) -> Any:
    """An int that doubles do not have exactly is the double next to it."""
    return float(value) if not is_integral and isinstance(value, int) and abs(value) > 1 << 53 else value


def power(base: float, exponent: float) -> float:
    """Return what `**` makes of two numbers."""
    if math.isnan(exponent) or (abs(base) == 1 and math.isinf(exponent)):
        return math.nan
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
    except ValueError:
        if base == 0:
            return math.copysign(math.inf, base) if exponent % 2 == 1 else math.inf
        return math.nan
