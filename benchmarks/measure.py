"""The rounds: of one program, every contender does one repetition after the other, in turn, so that what disturbs the
machine disturbs all alike. And what came of them.

The first repetition of each is not counted. Results must be the same in every repetition and for all contenders.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.compile_time import CompileTimes
from benchmarks.contenders import ContenderError, Field, Process
from benchmarks.from_python import FromPython
from benchmarks.instructions import Instructions
from benchmarks.pauses import Pauses
from benchmarks.programs import Program
from benchmarks.start_up import StartUp
from lowheap.wasm import validate
from toolchains import build

Say = Callable[[str], None]


@dataclass(slots=True)
class Outcome:
    """What one contender did with one program. Memory is in bytes, None where it is not known.

    `grown` is the peak of the process's resident memory less what was resident before the first repetition; `heap` is
    the most that the heap itself had, and `live` its largest live size. `peak_live` is the largest size of what was not
    freed yet, whether it was live or not. `failed` says why there are no further figures.
    """

    seconds: list[float] = field(default_factory=list)
    results: list[str] | None = None
    version: str = ""
    resident: int | None = None
    grown: int | None = None
    heap: int | None = None
    live: int | None = None
    peak_live: int | None = None
    objects_freed: int | None = None
    failed: str | None = None

    @property
    def median(self) -> float:
        """The median repetition's seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quartile of the seconds; with one repetition, that one."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def spread(self) -> float:
        """The interquartile range, as a fraction of the median."""
        first, third = self.quartiles
        return (third - first) / self.median

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold, with the figures that follow from the seconds."""
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        if self.failed is None:
            known |= {"median": self.median, "quartiles": list(self.quartiles), "spread": self.spread}
        return known


@dataclass(slots=True)
class Measured:
    """A program and all outcomes, by contender, in the contenders' order."""

    program: Program
    outcomes: dict[str, Outcome]

    def median(self, name: str) -> float | None:
        """A contender's median seconds; None if it did not take part, or failed."""
        outcome = self.outcomes.get(name)
        return None if outcome is None or outcome.failed is not None else outcome.median

    def ratio(self, name: str, to: str = programs.NATIVE) -> float | None:
        """A contender's median as a multiple of another's, by default lowheap's; None if either is not there."""
        theirs, ours = self.median(name), self.median(to)
        return None if theirs is None or ours is None else theirs / ours

    @property
    def live(self) -> int | None:
        """The largest live size in bytes, by arithmetic or by what `drc` allocated; None where neither tells it."""
        outcome = self.outcomes.get(programs.NATIVE)
        return self.program.live if self.program.live is not None or outcome is None else outcome.live

    @property
    def disagreements(self) -> list[str]:
        """The contenders whose results are not the first one's."""
        given = {name: outcome.results for name, outcome in self.outcomes.items() if outcome.failed is None}
        first = next(iter(given.values()), None)
        return [name for name, results in given.items() if results != first]

    def nanoseconds(self, name: str) -> float | None:
        """A contender's nanoseconds for each event."""
        median = self.median(name)
        return None if median is None else 1e9 * median / self.program.events


@dataclass(slots=True)
class Report:
    """Everything that was measured in one run, and where."""

    scale: str
    rounds: int
    machine: dict[str, str]
    contenders: dict[str, str]
    skipped: dict[str, str]
    programs: list[Measured]
    instructions: Instructions | None
    compile_times: CompileTimes | None = None
    from_python: FromPython | None = None
    start_up: StartUp | None = None
    pauses: Pauses | None = None

    def find(self, name: str, arguments: tuple[int, ...] | None = None) -> Measured | None:
        """The first program of that name, and of those arguments if they are given."""
        for measured in self.programs:
            if measured.program.name == name and arguments in (None, measured.program.arguments):
                return measured
        return None

    @property
    def failures(self) -> list[str]:
        """What went wrong: contenders that failed, and results that differ."""
        found = []
        for measured in self.programs:
            title = measured.program.title
            found += [f"{title}: {n}: {o.failed}" for n, o in measured.outcomes.items() if o.failed is not None]
            found += [f"{title}: {name} has another result" for name in measured.disagreements]
        for part in (self.compile_times, self.from_python, self.start_up, self.pauses):
            found += [] if part is None else part.failures
        return found

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "scale": self.scale,
            "rounds": self.rounds,
            "machine": self.machine,
            "contenders": self.contenders,
            "skipped": self.skipped,
            "programs": [
                {
                    "name": measured.program.name,
                    "arguments": list(measured.program.arguments),
                    "title": measured.program.title,
                    "events": measured.program.events,
                    "event": measured.program.event,
                    "is_micro": measured.program.is_micro,
                    "live": measured.live,
                    "disagreements": measured.disagreements,
                    "outcomes": {
                        name: {**outcome.as_json(), "ratio": measured.ratio(name)}
                        for name, outcome in measured.outcomes.items()
                    },
                }
                for measured in self.programs
            ],
            "instructions": None if self.instructions is None else self.instructions.as_json(),
            "compile_times": None if self.compile_times is None else self.compile_times.as_json(),
            "from_python": None if self.from_python is None else self.from_python.as_json(),
            "start_up": None if self.start_up is None else self.start_up.as_json(),
            "pauses": None if self.pauses is None else self.pauses.as_json(),
        }


def machine_facts() -> dict[str, str]:
    """What the figures depend on: processor, cores, kernel, Python, the load at this moment, the date."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def measure(field_: Field, program: Program, rounds: int, say: Say) -> Measured:
    """Run a program's rounds. A contender that fails drops out, and its outcome says why."""
    if program.example is None:
        path = field_.folder / f"{program.source.stem}.wasm"
        path.write_bytes(validate.to_binary(program.source.read_text("utf-8")))
    else:
        path = build.binary(program.example)
    outcomes: dict[str, Outcome] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, Process] = {}
        for name in program.contenders:
            if name in field_.contenders:
                process = Process(field_.contenders[name], program, path)
                running[name] = stack.enter_context(process)
                outcomes[name] = Outcome()
        for name in list(running):
            try:
                running[name].wait_until_ready()
                outcomes[name].version = running[name].version
            except ContenderError as error:
                outcomes[name].failed = str(error)
                del running[name]
        rounds = program.rounds(rounds)
        for number in range(rounds + 1):
            say(f"{program.title}: {'warming up' if number == 0 else f'round {number} of {rounds}'}")
            for name in list(running):
                try:
                    _take(outcomes[name], running[name].repeat(), program, counts=number > 0)
                except ContenderError as error:
                    outcomes[name] = Outcome(failed=str(error), version=outcomes[name].version)
                    del running[name]
    return Measured(program, outcomes)


def _take(outcome: Outcome, answer: dict[str, Any], program: Program, *, counts: bool) -> None:
    """Add a repetition's answer to an outcome. ContenderError when its results are not those of the one before."""
    results = answer["results"]
    if outcome.results not in (None, results):
        raise ContenderError(f"gave {outcome.results} first, and {results} in a later repetition")
    outcome.results = results
    if counts:
        outcome.seconds.append(answer["seconds"])
    outcome.resident = answer["resident"]
    if "base" in answer:
        outcome.grown = answer["resident"] - answer["base"]
    outcome.heap = answer.get("heap")
    outcome.peak_live = answer.get("peak_live")
    outcome.objects_freed = answer.get("objects_freed")
    if program.generations is not None and "allocated" in answer:
        outcome.live = answer["allocated"] // program.generations
