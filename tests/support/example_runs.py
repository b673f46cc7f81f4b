"""How the examples run in lowheap: host functions as its imports want them, results as the table has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lowheap as lh
from support.example_programs import EXAMPLES, EXAMPLES_DIRECTORY, LAST_SMALL

SHORT_LIVED_READS = f"{EXAMPLES_DIRECTORY / 'collectors' / 'short_lived_reads.py'}:ShortLivedReads"
"""A collector that lists only what is held for long, as an engine is asked for it."""

SMALL_ROWS = [
    pytest.param(each, marks=() if each in LAST_SMALL else pytest.mark.full) for each in EXAMPLES if not each.large
]
"""The small examples, for `parametrize` or `pairwise`: of each program one row, the others in a full run."""


def host_callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """A neutral host function as lowheap's imports want it: externrefs unwrapped, structs as handles."""

    def call(*args: Any) -> Any:
        return function(*(arg.value if isinstance(arg, lh.ExternRef) else arg for arg in args))

    return call


def results(value: Any) -> tuple[Any, ...]:
    """What a call returns, as a tuple."""
    return value if isinstance(value, tuple) else (value,)
