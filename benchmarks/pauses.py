"""How long collectors stop a program whose live heap is large, replaced all the time, and in the end dropped at once.

What counts as a pause is what a collector says of itself: rc-immix, with a budget for its pauses and without, each step
that it takes, by the processor's clock; V8, in node, what it does in the program's own thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.contenders import Contender, Field
from benchmarks.programs import Program
from benchmarks.timed import Timed
from lowheap.wasm import validate

MICROSECOND, MILLISECOND = 1_000, 1_000_000
"""In nanoseconds, the unit of pauses here."""

BUDGET = 1000
"""The microseconds that a pause may take, for who can be told."""

CASES = ((programs.RC_IMMIX, BUDGET), (programs.RC_IMMIX, None), (programs.V8, None))
"""Who takes part, with which budget in microseconds."""

BOUNDS = tuple(MICROSECOND * each for each in (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000))
"""The bounds of the histogram that is reported."""

_WORKERS = Path(__file__).resolve().parent / "workers"
_TIMEOUT = 600.0


@dataclass(slots=True)
class Taken(Timed):
    """A contender's pauses. `histogram` has pairs: nanoseconds, and how many pauses took at most that and more than the
    pair before; `longest` is in nanoseconds, `budget` in microseconds. Where there are none, `failed` says why, or
    `absent` does, if that is no fault: the collector does not tell of them, or takes no budget.
    """

    contender: str
    budget: int | None
    seconds: list[float] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    histogram: list[tuple[int, int]] = field(default_factory=list)
    longest: int = 0
    absent: str | None = None
    failed: str | None = None

    @property
    def title(self) -> str:
        """The contender, and its budget if it has one."""
        return self.contender if self.budget is None else f"{self.contender}, budget {self.budget / 1000:g} ms"

    @property
    def is_there(self) -> bool:
        """Whether there are figures."""
        return self.failed is None and self.absent is None

    @property
    def count(self) -> int:
        """How many pauses there were."""
        return sum(number for _, number in self.histogram)

    def quantile(self, part: float) -> int:
        """The nanoseconds that this part of the pauses took at most, as exactly as the histogram tells it."""
        if part == 1:
            return self.longest
        wanted = part * self.count
        totals = accumulate(number for _, number in self.histogram)
        for (bound, _), total in zip(self.histogram, totals, strict=True):
            if total >= wanted:
                return min(bound, self.longest)
        return 0

    def within(self) -> list[int]:
        """How many pauses took at most each of `BOUNDS`, and more than the bound before; last, how many took more."""
        found = [0] * (len(BOUNDS) + 1)
        for length, number in self.histogram:
            found[sum(bound < min(length, self.longest) for bound in BOUNDS)] += number
        return found

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**known, "median": self.median, "p99": self.quantile(0.99) if self.is_there else None}


@dataclass(slots=True)
class Pauses:
    """All pauses that were taken, of one program."""

    program: Program
    taken: list[Taken]

    def find(self, contender: str, budget: int | None) -> Taken | None:
        """What was taken of a contender with a budget; None where it was not there, or failed."""
        for each in self.taken:
            if (each.contender, each.budget) == (contender, budget) and each.is_there:
                return each
        return None

    @property
    def failures(self) -> list[str]:
        """What went wrong: contenders that failed, and results that differ."""
        title = f"pauses: {self.program.title}"
        found = [f"{title}: {each.title}: {each.failed}" for each in self.taken if each.failed is not None]
        results = {result for each in self.taken for result in each.results}
        return found + [f"{title}: results differ: {', '.join(sorted(results))}"] * (len(results) > 1)

    @property
    def absent(self) -> dict[str, str]:
        """Who tells of no pauses, and why."""
        return {f"pauses of {each.title}": each.absent for each in self.taken if each.absent is not None}

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {"program": self.program.title, "taken": [each.as_json() for each in self.taken]}


def measure(field_: Field, scale: str, rounds: int, say: Callable[[str], None]) -> Pauses:
    """Take the pauses of each contender that is there."""
    program = next(each for each in programs.suite(scale) if each.name == "churn")
    path = field_.folder / "pauses.wasm"
    path.write_bytes(validate.to_binary(program.source.read_text("utf-8")))
    found = Pauses(program, [])
    for name, budget in CASES:
        if name in field_.contenders:
            taken = Taken(name, budget)
            say(f"pauses: {taken.title}")
            _take(taken, field_.contenders[name], program, path, rounds)
            found.taken.append(taken)
    return found


def _take(taken: Taken, contender: Contender, program: Program, binary: Path, rounds: int) -> None:
    job = {**(contender.job or {}), "binary": str(binary), "timed": program.timed, "rounds": rounds}
    if contender.name == programs.V8:
        command = [contender.command[0], str(_WORKERS / "take_pauses.mjs")]
    else:
        command = [sys.executable, "-m", "benchmarks.workers.take_pauses"]
        job["budget"] = taken.budget
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(contender.path)}
    try:
        done = subprocess.run(
            [*command, json.dumps(job)], capture_output=True, text=True, env=environment, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        taken.failed = f"took more than {_TIMEOUT:g} s"
        return
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        taken.failed = f"ended (status {done.returncode}): {said[-1] if said else 'it wrote no error'}"
        return
    answer = json.loads(done.stdout)
    if "absent" in answer:
        taken.absent = answer["absent"]
        return
    taken.seconds, taken.results = answer["seconds"], answer["results"]
    taken.histogram = [(bound, number) for bound, number in answer["pauses"]]
    taken.longest = answer["longest"]
