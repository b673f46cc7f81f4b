"""How long lowheap's collector stops a program, by its own clock. The job is on the command line.

It is that of `run_lowheap.py`, with one step in `timed`, and `rounds`: so often it is repeated, on a store that nothing
was done on before. The answer is a line of JSON: `results`, what each repetition returned, as text; `seconds`, the time
of each; `pauses`, the histogram: pairs of the nanoseconds that pauses took at most and how many they were, by length;
and `longest`, the longest pause in nanoseconds. Or it is `absent`, why there are none: the collector does not tell of
them, or takes no budget.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import lowheap as lh
from benchmarks.workers.run_lowheap import LowheapProgram, NoBudgetError

_LONGEST = "longest_pause_nanoseconds"


class NoPausesError(Exception):
    """The collector does not say how long it stops a program."""


def pauses_of(store: lh.Store) -> tuple[list[tuple[int, int]], int]:
    """Return the histogram of a store's pauses and the longest, as the answer has them.

    NoPausesError when its collector does not take them. All that is known of how collectors tell it is here.
    """
    collector: Any = store.engine.collector
    counters = store.heap.stats().counters
    histogram = getattr(collector, "pause_times", None)
    if _LONGEST not in counters or histogram is None:
        raise NoPausesError(f"the collector {collector.name} does not take its pauses")
    return sorted(histogram(store.heap.native).items()), counters[_LONGEST]


def repeat(program: LowheapProgram, step: tuple[str, Sequence[int]], rounds: int) -> tuple[list[str], list[float]]:
    """Do a step on a new store, so often. Return the results as text, and the seconds."""
    export, arguments = step
    if not program.settle(lambda: program.call(export, arguments)):
        program.start_anew()
    results, seconds = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        result = program.call(export, arguments)
        seconds.append(time.perf_counter() - started)
        results.append(str(result))
    return results, seconds


def main() -> None:
    """Do the job of the command line."""
    # Whatever else writes to the standard output must not come before the answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    try:
        program = LowheapProgram(job)
        pauses_of(program.store)  # whoever does not take them is told at once
    except (NoBudgetError, NoPausesError) as error:
        json.dump({"absent": str(error)}, answers)
        answers.flush()
        return
    (step,) = job["timed"]
    results, seconds = repeat(program, step, job["rounds"])
    pauses, longest = pauses_of(program.store)
    json.dump({"results": results, "seconds": seconds, "pauses": pauses, "longest": longest}, answers)
    answers.flush()


if __name__ == "__main__":
    main()
