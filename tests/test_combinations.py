"""`support.combinations`: what is left to a full run, and that the rest holds every pair."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import combinations
from support.combinations import by_turns, pairwise, sample

ROOT = Path(__file__).parent.parent


def needed(found: list[Any]) -> list[tuple[Any, ...]]:
    return [each.values for each in found if not each.marks]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_every_combination_is_there_and_every_pair_is_needed(sizes: list[int]) -> None:
    axes = [[f"{number}{'abcde'[value]}" for value in range(size)] for number, size in enumerate(sizes)]
    found = pairwise(*axes)
    assert [each.values for each in found] == list(itertools.product(*axes))
    for (i, one), (j, other) in itertools.combinations(enumerate(axes), 2):
        assert {(each[i], each[j]) for each in needed(found)} == set(itertools.product(one, other))


def test_three_axes_of_three_need_less_than_half() -> None:
    assert 9 <= len(needed(pairwise(*[range(3)] * 3))) <= 13


def test_names_and_marks_of_parameters_are_kept() -> None:
    slow = pytest.mark.long
    (one, *_) = pairwise([pytest.param(1, 2, id="one", marks=slow)], [pytest.param(3, id="three")])
    assert (one.values, one.id, list(one.marks)) == ((1, 2, 3), "one-three", [slow])


def test_every_pair_of_what_is_not_left_to_a_full_run_is_needed() -> None:
    rows = [pytest.param(number, marks=() if number % 5 == 0 else pytest.mark.full) for number in range(20)]
    found = pairwise(rows, "abcd", "xy")
    assert len(found) == 20 * 4 * 2
    for (i, one), (j, other) in itertools.combinations(enumerate([range(0, 20, 5), "abcd", "xy"]), 2):
        assert {(each[i], each[j]) for each in needed(found)} == set(itertools.product(one, other))
    assert needed(pairwise([pytest.param(1, marks=pytest.mark.full)], "ab")) == []


def test_every_value_has_one_way_by_turns() -> None:
    found = by_turns(range(5), "ab")
    assert [each.values for each in found] == list(itertools.product(range(5), "ab"))
    assert needed(found) == [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (4, "a")]


def test_by_turns_takes_as_many_ways_as_are_wanted() -> None:
    wanted = needed(by_turns(range(6), "abcd", count=2))
    assert {value: [way for each, way in wanted if each == value] for value in range(6)} == {
        value: ["a", "b"] if value % 2 == 0 else ["c", "d"] for value in range(6)
    }


@given(st.integers(0, 30), st.integers(1, 40))
def test_a_sample_is_as_large_as_it_is_to_be(size: int, count: int) -> None:
    found = sample(range(size), count)
    assert [each.values for each in found] == [(number,) for number in range(size)]
    assert len(needed(found)) == min(size, count)


@pytest.mark.parametrize("number", sample(range(5), 2))
def test_one_of_a_few(number: int) -> None:
    """What the next test counts."""
    assert number in range(5)


@pytest.mark.parametrize(("options", "count"), [((), 2), (("--full",), 5)])
def test_a_full_run_runs_what_others_leave_out(options: tuple[str, ...], count: int) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "of_a_few", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert f"{count} passed" in done.stdout, done.stdout


def test_examples_are_few_unless_all_are_to_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combinations, "_is_full", False)
    assert combinations.examples(3, 40) == 3
    combinations.run_all()
    assert combinations.examples(3, 40) == 40
