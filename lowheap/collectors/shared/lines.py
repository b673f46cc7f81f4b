"""What is in the lines of a heap that is made of blocks and lines, for those who look on: counted, and as a map."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from functools import cached_property


class LineState(enum.IntEnum):
    """What is in a line, and whether an object may be made there."""

    RESERVED = enum.auto()
    """No object is ever made here."""
    FREE = enum.auto()
    """Nothing is in it, and an object may be made here."""
    YOUNG = enum.auto()
    """It was free, and objects were made in it since; whether they live, nobody knows yet."""
    SURVIVORS = enum.auto()
    """An object begins or goes on in it that has survived."""
    BEHIND = enum.auto()
    """Nothing begins in it, but the last survivor of the line before may reach into it, so it is not free."""
    LARGE = enum.auto()
    """It belongs to a large object, which has blocks of its own."""


@dataclass(frozen=True, slots=True)
class BlockOfLines:
    """A block: where it begins, the state of each of its lines, a byte each, and whether a large object begins here."""

    start: int
    states: bytes
    begins_large: bool = False

    @property
    def is_large(self) -> bool:
        """Whether it belongs to a large object."""
        return self.states[-1] == LineState.LARGE

    @property
    def free(self) -> int:
        """How many of its lines are free."""
        return self.states.count(LineState.FREE)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return self.free == len(self.states) - self.states.count(LineState.RESERVED)


@dataclass(frozen=True)
class LineMap:
    """All blocks that were ever in use, in address order; sizes in bytes."""

    line_size: int
    block_size: int
    blocks: tuple[BlockOfLines, ...]

    @cached_property
    def lines(self) -> dict[LineState, int]:
        """How many lines are in each state."""
        found: Counter[int] = Counter()
        for block in self.blocks:
            found.update(block.states)
        return {state: found[state] for state in LineState}

    @cached_property
    def _shared(self) -> list[BlockOfLines]:
        return [block for block in self.blocks if not block.is_large]

    @property
    def empty(self) -> int:
        """How many blocks have nothing in them."""
        return sum(block.is_empty for block in self._shared)

    @property
    def full(self) -> int:
        """How many blocks have no free line, besides large objects' ones."""
        return sum(block.free == 0 for block in self._shared)

    @property
    def partly_free(self) -> int:
        """How many blocks have free lines and others."""
        return len(self._shared) - self.empty - self.full

    @property
    def large(self) -> int:
        """How many blocks large objects have."""
        return len(self.blocks) - len(self._shared)

    @property
    def large_objects(self) -> int:
        """How many large objects there are."""
        return sum(block.begins_large for block in self.blocks)

    @property
    def free_in_use(self) -> int:
        """How many lines are free in blocks that have free lines and others."""
        return sum(block.free for block in self._shared if not block.is_empty)

    @property
    def fragmentation(self) -> float:
        """The part of the lines that are free, in blocks not empty nor large objects'; 0 without such blocks."""
        lines = sum(len(block.states) for block in self._shared if not block.is_empty)
        return self.free_in_use / lines if lines else 0.0
