"""The glue beside a program: source of JavaScript, of which the objects that are imported from are read.

What is run of it are the members of such objects (`const dart2wasm = { … }`), and what these name that is declared
anywhere in the source, when it is first asked for: functions, and constants. The rest, which loads and compiles the
program, is not looked at. A member that is not understood says so when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lowheap.hosts.js.interpreter import GlueError, Scope, _Parser, _Token, tokens
from lowheap.hosts.js.values import Function, JsObject

_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")


class Glue(Scope):
    """A source of JavaScript, as the scope of what it declares."""

    def __init__(self, world: Any, source: str) -> None:
        """Keep the source. GlueError for what is not JavaScript."""
        super().__init__(None)
        self.world = world
        self.tokens = tokens(source)

    def declares(self, name: str) -> bool:
        """Whether the source declares a name; then it has its value now."""
        place = self._declaration(name)
        if place is None:
            return False
        parser = _Parser(self.world, self.tokens)
        parser.place = place
        code = parser.statement() if parser.at("function") else parser.assignment()
        found = code(self)
        self.names.setdefault(name, found)
        return True

    def _declaration(self, name: str) -> int | None:
        """Where what a name is declared as stands among the tokens."""
        for place, token in enumerate(self.tokens[:-3]):
            if token.kind != "name" or self.tokens[place + 1].text != name:
                continue
            if token.text == "function":
                return place
            if token.text in ("const", "let", "var") and self.tokens[place + 2].text == "=":
                return place + 3
        return None

    def object(self, name: str) -> JsObject | None:
        """Return the object that the source calls so, or has as a property that is called so; None without one."""
        found = None
        for place, token in enumerate(self.tokens[:-2]):
            is_named = token.text == name or (token.kind == "string" and token.value == name)
            if is_named and self.tokens[place + 1].text in ("=", ":") and self.tokens[place + 2].text == "{":
                found = place + 3
        if found is None:
            return None
        made = JsObject()
        for start, end in self._members(found):
            self._read_member(made, start, end)
        return made

    def _members(self, place: int) -> Iterator[tuple[int, int]]:
        """Yield where each member of an object begins and ends."""
        start = place
        depth = 0
        while place < len(self.tokens):
            token = self.tokens[place]
            is_operator = token.kind == "operator"
            if depth == 0 and is_operator and token.text in (",", "}"):
                if place > start:
                    yield start, place
                if token.text == "}":
                    return
                start = place + 1
            elif is_operator:
                depth += (token.text in _OPENING) - (token.text in _CLOSING)
            place += 1

    def _read_member(self, made: JsObject, start: int, end: int) -> None:
        first = self.tokens[start]
        key = str(first.value) if first.kind in ("string", "number") else first.text
        brace = _Token("operator", "{", None, first.line, False)
        close = _Token("operator", "}", None, first.line, False)
        last = _Token("end", "", None, first.line, False)
        parser = _Parser(self.world, [brace, *self.tokens[start:end], close, last])
        try:
            made.properties.update(parser.assignment()(self).properties)
        except Exception as error:
            problem = f"{key} of the glue cannot be had: {error}"

            def refuse(this: Any, *_: Any) -> Any:
                raise GlueError(problem)

            made.set(key, Function(refuse, key))
