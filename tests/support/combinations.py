"""Which of many combinations `make test` runs, and which only `make test-full`: those have the mark `full`.

A fault that shows where two choices meet shows in the few combinations that hold every pair of them; one that needs
three is what the full run is for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from allpairspy import AllPairs


def pairwise(*axes: Sequence[Any]) -> list[ParameterSet]:
    """Return every combination of a value of each axis, for `parametrize`; those that no pair needs are marked `full`.

    Axes may hold `pytest.param`s. Pairs with one that is itself marked `full` are not needed.
    """
    numbers = [range(len(axis)) for axis in axes]
    combinations = list(itertools.product(*numbers))
    common = [
        [number for number in each if not _is_left_out(axis[number])] for axis, each in zip(axes, numbers, strict=True)
    ]
    needed = (
        {tuple(each) for each in AllPairs(common)} if len(axes) > 1 and all(common) else {*itertools.product(*common)}
    )
    return [_parameters(axes, each, is_full=each not in needed) for each in combinations]


def _is_left_out(value: Any) -> bool:
    return isinstance(value, ParameterSet) and any(getattr(mark, "name", "") == "full" for mark in value.marks)


def by_turns(values: Iterable[Any], ways: Sequence[Any], count: int = 1) -> list[ParameterSet]:
    """Return every value in every way, for `parametrize`; but for `count` ways of each value, by turns, all are `full`.

    For many values, where what goes wrong does so with one value or with one way, not where two certain ones meet.
    """
    return [
        _parameters([[value], ways], (0, number), is_full=(number - turn * count) % len(ways) >= count)
        for turn, value in enumerate(values)
        for number in range(len(ways))
    ]


def sample(values: Sequence[Any], count: int) -> list[ParameterSet]:
    """Return all values, for `parametrize`; all but `count` of them, evenly spread, are marked `full`."""
    chosen = {number * len(values) // count for number in range(count)} if count < len(values) else range(len(values))
    return [_parameters([values], (number,), is_full=number not in chosen) for number in range(len(values))]


def _parameters(axes: Sequence[Sequence[Any]], numbers: Sequence[int], *, is_full: bool) -> ParameterSet:
    chosen = [axis[number] for axis, number in zip(axes, numbers, strict=True)]
    values = [value for each in chosen for value in (each.values if isinstance(each, ParameterSet) else [each])]
    marks = [mark for each in chosen if isinstance(each, ParameterSet) for mark in each.marks]
    names = [each.id for each in chosen if isinstance(each, ParameterSet)]
    name = "-".join(str(each) for each in names) if len(names) == len(chosen) and None not in names else None
    return pytest.param(*values, marks=[*marks, *([pytest.mark.full] if is_full else [])], id=name)


_is_full = False


def run_all() -> None:
    """Make `examples` give the greater number; for `conftest.py`, before any test file is read."""
    global _is_full
    _is_full = True


def examples(few: int, many: int) -> int:
    """Return how many examples a test draws: `few`, or `many` in a full run."""
    return many if _is_full else few
