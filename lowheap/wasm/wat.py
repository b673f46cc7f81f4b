"""Wat text that wasmtime's assembler and wasm-tools refuse, made into text that they take.

- `(try (do …) (catch …))`, the folded form of the legacy exceptions' `try`, is written `try … catch … end`; and every
  plain instruction that has one among its operands is unfolded.
- Characters that change the direction of the text that follows: in strings they are escaped, in comments left out.

All else stays as it is, and every token in its line, so that messages say the right one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<line_comment>;;[^\n]*) | (?P<comment>\(;) | (?P<open>\() | (?P<close>\))
      | (?P<string>"(?:[^"\\]|\\.)*") | (?P<atom>[^\s()";]+|.)""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT = re.compile(r"\(;|;\)")
_TRY, _DO = re.compile(r"\(\s*try\b"), re.compile(r"\(\s*do\b")

DIRECTIONS = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u206c"
"""The characters that are refused, in strings and comments; nowhere else are such allowed at all."""
_DIRECTION = re.compile(f"[{DIRECTIONS}]")


def assemblable(text: str) -> str:
    """Return text that means the same, and is not refused for any of that; text with another fault keeps that."""
    if _DIRECTION.search(text):
        text = "".join(_plain_direction(kind, token) for kind, token in _tokens(text))
    if _TRY.search(text) and _DO.search(text):
        root = _parse(text)
        if root is not None and root.has_try():
            return "".join(_inside(root.items))
    return text


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield all of a text in pieces, each with its kind; a comment that does not end goes on to the end."""
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        assert found is not None, "any character is a token"
        place, kind = found.end(), found.lastgroup or ""
        if kind == "comment":
            depth = 1
            while depth and (mark := _COMMENT.search(text, place)):
                depth += 1 if mark.group() == "(;" else -1
                place = mark.end()
            if depth:
                place = len(text)
        yield kind, text[found.start() : place]


def _plain_direction(kind: str, token: str) -> str:
    if kind == "string":
        return _DIRECTION.sub(lambda found: f"\\u{{{ord(found.group()):x}}}", token)
    return _DIRECTION.sub(" ", token) if kind in ("comment", "line_comment") else token


def with_plain_nulls(script: str) -> str:
    """Return a script in which each null that is expected has no type, where wasm-tools makes any object of it.

    Of a result that is `(ref.null struct)` it says no more than that its type is structref.
    """
    if not _TYPED_NULL.search(script):
        return script
    root = _parse(script)
    if root is None:
        return script
    for assertion in root.lists:
        if assertion.head == "assert_return":
            _, *expected = assertion.lists
            for each in expected:
                _forget_type_of_null(each)
    return "".join(_inside(root.items))


_TYPED_NULL = re.compile(r"\(\s*ref\.null\s+(?:struct|eq|i31|array)\b")


def _forget_type_of_null(found: _List) -> None:
    if found.head == "ref.null":
        found.items = [
            each for each in found.items if isinstance(each, str) and (_is_space(each) or each == "ref.null")
        ]
    for each in found.lists:
        _forget_type_of_null(each)


# ----------------------------------------------------------------------------------------------------------------------
# The folded try


_SEQUENCES = ("module", "func", "block", "loop", "then", "else", "do", "catch", "catch_all", "try_table")
"""What has instructions in it, flat ones too."""
_IMMEDIATES = ("type", "param", "result")
"""What an instruction has in parentheses that is no operand."""


class _List:
    """What is between two parentheses: tokens and lists, and the space between them."""

    def __init__(self) -> None:
        self.items: list[str | _List] = []

    @property
    def head(self) -> str:
        """The first token."""
        return next((each for each in self.items if isinstance(each, str) and not _is_space(each)), "")

    @property
    def lists(self) -> Iterator[_List]:
        """The lists in it."""
        return (each for each in self.items if isinstance(each, _List))

    def has_try(self) -> bool:
        """Whether it is a folded `try`, or has one in it."""
        pending = [self]
        while pending:
            each = pending.pop()
            if each.is_try:
                return True
            pending += each.lists
        return False

    @property
    def is_try(self) -> bool:
        """Whether it is a folded `try`."""
        return self.head == "try" and any(each.head == "do" for each in self.lists)


def _is_space(item: str) -> bool:
    return item.isspace() or item.startswith((";;", "(;"))


def _parse(text: str) -> _List | None:
    """Return all of a text as a list; None when parentheses do not match."""
    stack = [_List()]
    for kind, token in _tokens(text):
        if kind == "open":
            inner = _List()
            stack[-1].items.append(inner)
            stack.append(inner)
        elif kind == "close":
            stack.pop()
            if not stack:
                return None
        else:
            stack[-1].items.append(token)
    return stack[0] if len(stack) == 1 else None


def _inside(items: list[str | _List]) -> Iterator[str]:
    """Write what is in a list."""
    for each in items:
        if isinstance(each, str):
            yield each
        else:
            yield from _written(each)


def _written(found: _List) -> Iterator[str]:
    """Write a list: as it is, or unfolded, with a space around."""
    if not found.has_try():
        yield from ("(", *_inside(found.items), ")")
    elif found.is_try:
        yield from (" ", *_try(found), " ")
    elif found.head == "if" and any(each.has_try() for each in _operands(found)):
        yield from (" ", *_if(found), " ")
    elif found.head in _SEQUENCES or found.head == "if" or found.head.startswith(("assert_", "module")):
        yield from ("(", *_inside(found.items), ")")
    else:
        yield from (" ", *_plain(found), " ")


def _operands(found: _List) -> list[_List]:
    return [each for each in found.lists if each.head not in (*_IMMEDIATES, "then", "else")]


def _try(found: _List) -> Iterator[str]:
    is_delegated = False
    for each in found.items:
        if isinstance(each, str):
            yield each
        elif each.head == "do":
            yield from _without_head(each)
        elif each.head in ("catch", "catch_all", "delegate"):
            is_delegated |= each.head == "delegate"
            yield from (" ", *_inside(each.items), " ")
        else:
            yield from _written(each)
    if not is_delegated:
        yield " end"


def _if(found: _List) -> Iterator[str]:
    behind: list[str] = []
    for item in found.items:
        if isinstance(item, _List) and item.head == "then":
            yield from (*behind, " ", *_without_head(item), " ")
        elif isinstance(item, _List) and item.head == "else":
            yield from (" ", *_inside(item.items), " ")
        else:
            yield from _before(item, behind)
    yield " end"


def _plain(found: _List) -> Iterator[str]:
    behind: list[str] = []
    for item in found.items:
        yield from _before(item, behind)
    yield from behind


def _before(item: str | _List, behind: list[str]) -> Iterator[str]:
    """Write what stands before an instruction: operands, and space in its place; the rest is added to `behind`."""
    if isinstance(item, str) and _is_space(item):
        yield item
    elif isinstance(item, str):
        behind += (" ", item)
    elif item.head in _IMMEDIATES:
        behind += (" ", *_written(item))
    else:
        yield from _written(item)


def _without_head(found: _List) -> Iterator[str]:
    place = next(number for number, each in enumerate(found.items) if isinstance(each, str) and not _is_space(each))
    return _inside(found.items[:place] + found.items[place + 1 :])
