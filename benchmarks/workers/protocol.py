"""The contender's side of the conversation: a job on the command line, then one repetition for each line of input.

A job is JSON: `binary`, the path of a wasm module; `once`, `before` and `timed`, lists of steps, each `[export,
[argument...]]`, or null for a collection; `times`, how often to do the timed step, if that is one call; and whatever
else the contender needs. The first answer is `{"ready": true,
"version": ...}`, each further one a repetition's `seconds`, the `results` of its steps as text, and memory in bytes:
`resident`, the peak of the process so far, `base`, what was resident before the first repetition, and `heap`, where it
is known. Memory that was resident only while modules were compiled does not count.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Step = Sequence[Any] | None


class Program(Protocol):
    """A module that a contender has made ready."""

    version: str

    def settle(self, repeat: Callable[[], object]) -> bool:
        """Repeat the program, untimed, until its code stays as it is. True for a new store after that."""

    def renew(self) -> bool:
        """Get ready for the next repetition, untimed. True for a new store, on which nothing was done yet."""

    def call(self, export: str, arguments: Sequence[int]) -> object:
        """Call an exported function."""

    def function(self, export: str) -> Callable[..., object]:
        """Return what calls an exported function, as a host that calls it often keeps it."""

    def collect(self) -> None:
        """Collect garbage."""

    def heap_facts(self) -> dict[str, int]:
        """What is known of the heap: `heap` (its size in bytes) and anything else."""


def host_next(value: int) -> int:
    """The host function of all programs."""
    return value + 1


def memory_figure(name: str) -> int:
    """A figure of this process's memory in bytes: VmRSS or VmHWM."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
    return 0


def forget_peak() -> None:
    """Let VmHWM start anew from what is resident now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _take(program: Program, steps: Sequence[Step]) -> list[str]:
    results = []
    for step in steps:
        if step is None:
            program.collect()
        else:
            result = program.call(step[0], step[1])
            if result is not None:
                results.append(str(result))
    return results


def _repeat(program: Program, step: Step, times: int) -> tuple[int, list[str]]:
    """Do one call many times, with nothing else in the loop. Return the nanoseconds, and the last result as text."""
    assert step is not None, "a collection is not done many times"
    function, arguments = program.function(step[0]), step[1]
    result: object = None
    started = time.perf_counter_ns()
    for _ in range(times):
        result = function(*arguments)
    return time.perf_counter_ns() - started, [str(result)]


def serve(make: Callable[[dict[str, Any]], Program]) -> None:
    """Make the program that the command line tells, and repeat it for each line of input."""
    # Whatever else writes to the standard output must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    job = json.loads(sys.argv[1])
    program = make(job)
    _take(program, job["once"])
    if program.settle(lambda: _take(program, [*job["before"], *job["timed"]])):
        _take(program, job["once"])
    gc.collect()
    gc.disable()  # Python's own: a pause of its would be somebody's time
    answer({"ready": True, "version": program.version})
    base = 0
    for _line in sys.stdin:
        if base:
            if program.renew():
                _take(program, job["once"])
        else:
            forget_peak()
            base = memory_figure("VmRSS")
        results = _take(program, job["before"])
        timed = job["timed"]
        if job["times"] > 1:
            nanoseconds, after = _repeat(program, timed[0], job["times"])
        else:
            started = time.perf_counter_ns()
            after = _take(program, timed)
            nanoseconds = time.perf_counter_ns() - started
        seconds = nanoseconds * 1e-9
        memory = {"base": base, "resident": memory_figure("VmHWM"), **program.heap_facts()}
        answer({"seconds": seconds, "results": results + after, **memory})
