"""What a function has found out that stays so, by what it is of, for all code that is behind that place.

A field that is immutable has one value, an array one length, an object one type, whatever calls and stores come in
between, of which LLVM must think the worst. So what is read once need not be read again, nor what was cast be cast,
wherever the first time certainly came before: it *dominates* the place, as compilers say.

Code is gone through in order, and all that has been found out on the way to a place is on a stack. Where control goes
back to what was before, to an `else`, or joins from several places, behind a block, what only some of those ways have
come by is taken off. Everything has a number, larger than all before: so to know what a way had come by, its `newest`
number is enough, and of several ways' the least.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

Forgotten = tuple[int, Hashable, Any]
"""Something that was known: its number, its key, and the value."""


class KnownValues:
    """What is known at the place that is being compiled. A key stands for something that cannot change."""

    def __init__(self) -> None:
        """Nothing is known."""
        self.newest = 0  # the number of what was found out last
        self._values: dict[Hashable, Any] = {}
        self._changes: list[tuple[int, Hashable, Any]] = []  # by number: what was known before of a key

    def get(self, key: Hashable) -> Any:
        """Return what is known; None where nothing is."""
        return self._values.get(key)

    def put(self, key: Hashable, value: Any) -> None:
        """From here on, this is known, or known better."""
        self.newest += 1
        self._changes.append((self.newest, key, self._values.get(key)))
        self._values[key] = value

    def forget_after(self, newest: int) -> list[Forgotten]:
        """Go on at a place where only that is known which was when `newest` was this; return what was known besides."""
        forgotten: list[Forgotten] = []
        while self._changes and self._changes[-1][0] > newest:
            number, key, before = self._changes.pop()
            forgotten.append((number, key, self._values[key]))
            if before is None:
                del self._values[key]
            else:
                self._values[key] = before
        return forgotten[::-1]

    def recall(self, forgotten: Sequence[Forgotten], newest: int) -> None:
        """Go on behind a place where that was known which was forgotten since, as far as it was when `newest` was this.

        It has new numbers: no way that was taken since has come by it.
        """
        for number, key, value in forgotten:
            if number <= newest:
                self.put(key, value)
