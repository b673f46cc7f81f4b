"""The glue beside a program: source of JavaScript, of which the objects that are imported from are read.

What is run of it are the members of such objects (`const dart2wasm = { … }`), and what these name that is declared
around them, when it is first asked for: functions, constants, parts of what is taken apart, parameters of a function
that is called where it stands. What is declared nowhere around is looked for everywhere. The rest, which loads and
compiles the program, is not looked at. A member that is not understood says so when it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lowheap.hosts.js.interpreter import GlueError, Scope, _Parser, _Token, tokens
from lowheap.hosts.js.values import UNDEFINED, Function, JsError, JsObject

_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_DECLARING = ("const", "let", "var")
_BEGINNING = (*_DECLARING, "function", "async", "class", "return", "if", "for", "while", "do", "switch", "try", "throw")

INSTANCES = ("dartInstance", "wasmInstance", "instance", "instantiatedModule")
EXPORTS = ("wasmExports", "exports")
"""What glue calls the program's instance, and its exports."""


@dataclass(frozen=True, slots=True)
class _Declared:
    """Where a name is declared: at which token the pattern stands that has it, and what that is given."""

    kind: str  # function, class, or value
    pattern: int
    value: int | None = None


class Glue(Scope):
    """A source of JavaScript, as the scope of what it declares."""

    def __init__(self, world: Any, source: str) -> None:
        """Keep the source. GlueError for what is not JavaScript."""
        super().__init__(None)
        self.world = world
        self.tokens = tokens(source)
        self.names |= dict.fromkeys((*INSTANCES, *EXPORTS), UNDEFINED)
        self.closing: dict[int, int] = {}  # of each bracket
        self.opening: dict[int, int] = {}  # and back
        self._around: list[int | None] = []  # of each token, the brace that it stands in
        brackets: list[int] = []
        braces: list[int] = []
        for place, token in enumerate(self.tokens):
            self._around.append(braces[-1] if braces else None)
            if token.kind != "operator":
                continue
            if token.text in _OPENING:
                brackets.append(place)
                if token.text == "{":
                    braces.append(place)
            elif token.text in _CLOSING and brackets:
                start = brackets.pop()
                self.closing[start], self.opening[place] = place, start
                if braces and braces[-1] == start:
                    braces.pop()
        self._blocks: dict[int | None, _Block] = {}

    def start(self, exports: Mapping[str, Any]) -> None:
        """Tell the glue what the instance exports."""
        self.names |= dict.fromkeys(INSTANCES, JsObject({"exports": exports}))
        self.names |= dict.fromkeys(EXPORTS, exports)

    def scope_at(self, place: int) -> Scope:
        """Return the scope of what stands at a place."""
        brace = self._around[place]
        if brace not in self._blocks:
            outer = self if brace is None else self.scope_at(brace)
            self._blocks[brace] = _Block(self, brace, outer)
        return self._blocks[brace]

    def value_at(self, place: int, scope: Scope) -> Any:
        """Evaluate the expression, or the declaration of a function, that stands at a place."""
        parser = _Parser(self.world, self.tokens)
        parser.place = place
        if not parser.at("function") or self.tokens[place + 1].text == "(":
            return parser.assignment()(scope)
        parser.statement()(inner := Scope(scope))
        return inner.names[self.tokens[place + 1].text]

    def declares(self, name: str) -> bool:
        """Whether the source declares a name, wherever that is; then it has its value now."""
        place = self._declarations.get(name)
        if place is None:
            return False
        self.names.setdefault(name, self.value_at(place, self.scope_at(place)))
        return True

    @functools.cached_property
    def _declarations(self) -> dict[str, int]:
        """Where what each name is declared as stands among the tokens: the first, wherever that is."""
        found: dict[str, int] = {}
        for place, token in enumerate(self.tokens[:-3]):
            if token.kind == "name" and token.text == "function":
                found.setdefault(self.tokens[place + 1].text, place)
            elif token.kind == "name" and token.text in _DECLARING and self.tokens[place + 2].text == "=":
                found.setdefault(self.tokens[place + 1].text, place + 3)
        return found

    def object(self, name: str) -> JsObject | None:
        """Return the object that the source calls so, or has as a property that is called so; None without one."""
        found, named = None, None
        for place, token in enumerate(self.tokens[:-3]):
            is_named = token.text == name or (token.kind == "string" and token.value == name)
            if is_named and token.kind in ("name", "string") and self.tokens[place + 1].text in ("=", ":"):
                value, behind = self.tokens[place + 2], self.tokens[place + 3]
                if value.text == "{":
                    found = place + 2
                elif value.kind == "name" and behind.text in (",", "}", ";") and value.text != name:
                    named = place + 2
        if found is None and named is not None:
            return self._named_object(named)
        return None if found is None else self._object_at(found)

    def _named_object(self, place: int) -> JsObject | None:
        """The object that is called as the token at a place."""
        scope: Scope | None = self.scope_at(place)
        while isinstance(scope, _Block):
            declared = scope.declared().get(self.tokens[place].text)
            if declared is not None:
                if declared.value is not None and self.tokens[declared.value].text == "{":
                    return self._object_at(declared.value)
                break
            scope = scope.outer
        if scope is None or not scope.declares(self.tokens[place].text):
            return None
        found = scope.names[self.tokens[place].text]
        return found if isinstance(found, JsObject) else None

    def _object_at(self, brace: int) -> JsObject:
        made = JsObject()
        for start, end in self._members(brace + 1):
            self._read_member(made, start, end)
        return made

    def _members(self, place: int) -> Iterator[tuple[int, int]]:
        """Yield where each member of an object begins and ends."""
        start = place
        while place < len(self.tokens) - 1:
            token = self.tokens[place]
            if token.kind == "operator":
                if token.text in (",", "}"):
                    if place > start:
                        yield start, place
                    if token.text == "}":
                        return
                    start = place + 1
                place = self.closing.get(place, place)
            place += 1

    def _read_member(self, made: JsObject, start: int, end: int) -> None:
        first = self.tokens[start]
        key = str(first.value) if first.kind in ("string", "number") else first.text
        brace = _Token("operator", "{", None, first.line, False)
        close = _Token("operator", "}", None, first.line, False)
        last = _Token("end", "", None, first.line, False)
        parser = _Parser(self.world, [brace, *self.tokens[start:end], close, last])
        try:
            made.properties.update(parser.assignment()(self.scope_at(start)).properties)
        except Exception as error:
            problem = f"{key} of the glue cannot be had: {error}"

            def refuse(this: Any, *_: Any) -> Any:
                raise GlueError(problem)

            made.set(key, Function(refuse, key))


class _Block(Scope):
    """What is declared right within a pair of braces of the glue, or outside of all."""

    __slots__ = ("_being_found", "_brace", "_declared", "_glue")

    def __init__(self, glue: Glue, brace: int | None, outer: Scope) -> None:
        super().__init__(outer)
        self._glue, self._brace = glue, brace
        self._declared: dict[str, _Declared] | None = None
        self._being_found: set[str] = set()

    def declared(self) -> dict[str, _Declared]:
        """Return where each name is declared."""
        if self._declared is None:
            self._declared = dict(self._find_all())
        return self._declared

    def declares(self, name: str) -> bool:
        if name in self._glue.names or name in self._being_found or name not in self.declared():
            return False
        found = self.declared()[name]
        glue, scope = self._glue, self
        self._being_found.add(name)
        try:
            if found.kind == "class":
                line = glue.tokens[found.pattern].line
                raise GlueError(f"line {line}: classes are not supported, and {name} is one")
            if found.kind == "function":
                self.names[name] = glue.value_at(found.pattern, scope)
                return True
            value = UNDEFINED if found.value is None else self._value_of(name, found.value)
            parser = _Parser(glue.world, glue.tokens)
            parser.place = found.pattern
            parser.pattern()(scope, value)
        finally:
            self._being_found.discard(name)
        return True

    def _value_of(self, name: str, place: int) -> Any:
        """What a name is given. What an instance exports is known once there is an instance."""
        end = place
        while _goes_on(self._glue.tokens[end + 1]):
            end += 1
        if end > place and self._glue.tokens[end].text == "exports":
            exports = self._glue.names["exports"]
            if exports is UNDEFINED:
                raise JsError(f"Cannot access '{name}' before initialization", "ReferenceError")
            return exports
        return self._glue.value_at(place, self)

    def _find_all(self) -> Iterator[tuple[str, _Declared]]:
        every, closing = self._glue.tokens, self._glue.closing
        place = 0 if self._brace is None else self._brace + 1
        end = len(every) - 1 if self._brace is None else closing.get(self._brace, len(every) - 1)
        if self._brace is not None:
            yield from self._parameters(self._brace)
        while place < end:
            token = every[place]
            if token.kind == "name" and every[place + 1].kind == "name" and token.text in ("function", "class"):
                at = place if token.text == "function" else place + 1
                yield every[place + 1].text, _Declared(token.text, at)
            elif token.kind == "name" and token.text in _DECLARING and every[place - 1].text != ".":
                yield from self._declarators(place + 1, end)
            place = closing.get(place, place) + 1

    def _declarators(self, place: int, end: int) -> Iterator[tuple[str, _Declared]]:
        every, closing = self._glue.tokens, self._glue.closing
        while place < end:
            pattern, behind = place, closing.get(place, place) + 1
            value = behind + 1 if every[behind].text == "=" else None
            for name in self._names_of(pattern):
                yield name, _Declared("value", pattern, value)
            place = behind
            while place < end and not (every[place].kind == "operator" and every[place].text in (",", ";")):
                if every[place].after_newline and every[place].text in _BEGINNING:
                    return
                place = closing.get(place, place) + 1
            if every[place].text != ",":
                return
            place += 1

    def _names_of(self, pattern: int) -> Iterator[str]:
        """The names that a pattern gives values to."""
        every = self._glue.tokens
        for place in range(pattern, self._glue.closing.get(pattern, pattern) + 1):
            is_part = place > pattern and (every[place + 1].text == ":" or every[place - 1].text == "=")
            if every[place].kind == "name" and not is_part:
                yield every[place].text

    def _parameters(self, brace: int) -> Iterator[tuple[str, _Declared]]:
        """The parameters of a function whose body this is, where it is called in the same place: those of each call."""
        every, opening, closing = self._glue.tokens, self._glue.opening, self._glue.closing
        heads: list[list[int]] = []  # the patterns of each list of parameters, the outermost first
        before = brace - 1
        while before > 0 and every[before].text == "=>":
            before -= 1
            heads.insert(0, [before] if every[before].kind == "name" else self._parts(opening.get(before, before)))
            before = opening.get(before, before) - 1
            if every[before].text == "async":
                before -= 1
        if not heads and every[before].text == ")" and before in opening:
            heads.append(self._parts(opening[before]))
            before = opening[before] - 1
            before -= every[before].kind == "name" and every[before].text != "function"
            if every[before].text != "function":
                return
            before -= 1
        call = closing.get(brace, brace) + 1
        if every[before].text == "(" and closing.get(before) == call:
            call += 1
        for patterns in heads:
            if call >= len(every) or every[call].text != "(":
                return
            values = self._parts(call)
            for number, pattern in enumerate(patterns):
                if every[pattern].text == "...":
                    continue  # no value of its own
                for name in self._names_of(pattern):
                    yield name, _Declared("value", pattern, values[number] if number < len(values) else None)
            call = closing.get(call, call) + 1

    def _parts(self, bracket: int) -> list[int]:
        """Where each part of a list in brackets begins."""
        every, closing = self._glue.tokens, self._glue.closing
        end = closing.get(bracket, bracket)
        found = [bracket + 1] if end > bracket + 1 else []
        place = bracket + 1
        while place < end:
            if every[place].text == "," and every[place].kind == "operator":
                found.append(place + 1)
            place = closing.get(place, place) + 1
        return found


def _goes_on(token: _Token) -> bool:
    """Whether a chain of properties goes on with a token."""
    return token.text in (".", "?.") or (token.kind == "name" and not token.after_newline)
