"""What compiling costs, and how that grows: generated modules of several sizes, on lowheap and on the newest wasmtime.

lowheap takes part with each of its collectors that frees something, since code around references is the collector's;
at one size the machine code is measured, too.

One process compiles one module, once. What counts is CPU seconds, those of all threads; the module is assembled before,
lowheap's runtime is compiled before, and nothing is cached. A case that takes more than a limit is ended, and told as
one that does: it is not left out.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.contenders import Contender, Field
from benchmarks.generated import EXPORT, KINDS, Kind
from lowheap.wasm import validate

CONTENDERS = {
    programs.NATIVE: "lowheap",
    programs.RC_IMMIX: "lowheap",
    programs.WASMTIME_NEWEST: "wasmtime",
}
"""Who takes part, and what the worker calls it."""

_LIVE_SIZES = {"full": (250, 500, 1000), "quick": (125, 250), "tiny": (4, 8)}
_SIZES = {"full": (500, 1000, 2000, 4000), "quick": (250, 500), "tiny": (4, 8)}  # each twice the one before
_COMPARED_AT = {"full": 1000, "quick": 250, "tiny": 8}
_LIMITS = {"full": 60.0, "quick": 20.0, "tiny": 20.0}
_WAIT = (60.0, 10.0)  # seconds, and times the limit: how long to wait for the CPU time on a busy machine
_PROCESSES = {"full": 3, "quick": 1, "tiny": 1}
_LONG = 5.0  # seconds: what takes longer is not done again, for it varies little, as a fraction of itself


def sizes(kind: Kind, scale: str) -> tuple[int, ...]:
    """The sizes at which a kind is compiled. Where all references are live, compiling takes their square."""
    return (_LIVE_SIZES if kind.is_live else _SIZES)[scale]


@dataclass(frozen=True, slots=True)
class Factor:
    """How many times one time is another; `is_least` if it is more than that, for the one exceeded the limit."""

    value: float
    is_least: bool = False


@dataclass(slots=True)
class Case:
    """One kind at one size with one contender. `seconds` has an entry a process; memory is in bytes.

    `code` is how many bytes of machine code it is, where that was looked at: lowheap's, at the size for ratios, whole.
    `exceeded` is the limit in seconds, where it took more; `failed` says why there are no figures.
    """

    kind: Kind
    n: int
    contender: str
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    code: int | None = None
    exceeded: float | None = None
    failed: str | None = None

    @property
    def median(self) -> float | None:
        """The median process's seconds; None where it failed or took too long."""
        return statistics.median(self.seconds) if self.seconds else None

    def multiple_of(self, other: Case) -> Factor | None:
        """Its time as a multiple of another's, where that is known, and this one's at least as a limit exceeded."""
        seconds = self.median if self.exceeded is None else self.exceeded
        if seconds is None or other.median is None:
            return None
        return Factor(seconds / other.median, self.exceeded is not None)

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"compile {self.kind.name} ({self.n:,})"

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "kind": self.kind.name,
            "n": self.n,
            "contender": self.contender,
            "seconds": self.seconds,
            "median": self.median,
            "peak": self.peak,
            "code": self.code,
            "exceeded": self.exceeded,
            "failed": self.failed,
        }


@dataclass(slots=True)
class CompileTimes:
    """All cases of a run, by kind, contender and size, in that order; `compared_at` is the size for ratios."""

    compared_at: int
    cases: list[Case]

    def find(self, kind: str, contender: str, n: int) -> Case | None:
        """The case of a kind's name, a contender and a size."""
        for case in self.cases:
            if (case.kind.name, case.contender, case.n) == (kind, contender, n):
                return case
        return None

    def rows(self) -> list[list[Case]]:
        """The cases of a kind and a contender together, by size."""
        found: dict[tuple[str, str], list[Case]] = {}
        for case in self.cases:
            found.setdefault((case.kind.name, case.contender), []).append(case)
        return [sorted(row, key=lambda case: case.n) for row in found.values()]

    @staticmethod
    def growth(row: Sequence[Case]) -> dict[int, Factor]:
        """By size, how many times the time of half the size a case takes, where that is known."""
        factors = {larger.n: larger.multiple_of(smaller) for smaller, larger in pairwise(row)}
        return {n: factor for n, factor in factors.items() if factor is not None}

    def ratio(self, kind: str, contender: str = programs.NATIVE, to: str = programs.WASMTIME_NEWEST) -> Factor | None:
        """A contender's time as a multiple of another's, at the size for that, where it is known."""
        ours, theirs = (self.find(kind, name, self.compared_at) for name in (contender, to))
        return None if ours is None or theirs is None else ours.multiple_of(theirs)

    def code(self, kind: str, contender: str) -> int | None:
        """The bytes of machine code of a kind at the size for ratios, where it is known."""
        case = self.find(kind, contender, self.compared_at)
        return None if case is None else case.code

    def pairs(self, contender: str, to: str) -> list[tuple[Case, Case]]:
        """The cases of two contenders at the size for ratios, by kind, where both have a time."""
        kinds = dict.fromkeys(case.kind.name for case in self.cases)
        found = ([self.find(kind, name, self.compared_at) for name in (contender, to)] for kind in kinds)
        return [
            (ours, theirs)
            for ours, theirs in found
            if ours is not None and theirs is not None and ours.median is not None and theirs.median is not None
        ]

    @property
    def failures(self) -> list[str]:
        """What went wrong. A case that took too long did not fail."""
        return [f"{case.title}: {case.contender}: {case.failed}" for case in self.cases if case.failed is not None]

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {"compared_at": self.compared_at, "cases": [case.as_json() for case in self.cases]}


def measure(field_: Field, scale: str, say: Callable[[str], None], kinds: Sequence[Kind] = KINDS) -> CompileTimes:
    """Compile all kinds with each contender that is there."""
    times = CompileTimes(_COMPARED_AT[scale], [])
    present = [field_.contenders[name] for name in CONTENDERS if name in field_.contenders]
    for kind in kinds:
        binaries = {n: field_.folder / f"{kind.name}-{n}.wasm" for n in sizes(kind, scale)}
        cases = {(contender.name, n): Case(kind, n, contender.name) for contender in present for n in binaries}
        times.cases += cases.values()
        for n, path in binaries.items():
            path.write_bytes(validate.to_binary(kind.text(n)))
            turns = [(cases[contender.name, n], contender) for contender in present]
            say(turns[0][0].title if turns else kind.name)
            _take(turns, path, _LIMITS[scale], _PROCESSES[scale], looks_at_code=n == times.compared_at)
    return times


def _take(
    turns: Sequence[tuple[Case, Contender]], binary: Path, limit: float, processes: int, *, looks_at_code: bool = False
) -> None:
    """Fill the cases of one module, by several processes each if they do not take long, in turns."""
    waiting = list(turns)
    for number in range(processes):
        for case, contender in tuple(waiting):
            _compile_once(case, contender, binary, limit, looks_at_code=looks_at_code and number == 0)
            if case.exceeded is not None or case.failed is not None:
                case.seconds = []
            if not case.seconds or case.seconds[-1] > _LONG:
                waiting.remove((case, contender))


def _compile_once(case: Case, contender: Contender, binary: Path, limit: float, *, looks_at_code: bool = False) -> None:
    job = {
        **(contender.job or {}),
        "contender": CONTENDERS[contender.name],
        "binary": str(binary),
        "limit": limit,
        "export": EXPORT,
        "arguments": case.kind.arguments,
        "looks_at_code": looks_at_code,
    }
    command = [sys.executable, "-m", "benchmarks.workers.compile_module", json.dumps(job)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(contender.path)}
    wait = _WAIT[0] + _WAIT[1] * limit
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=wait, check=False)
    except subprocess.TimeoutExpired:
        case.failed = f"did not have {limit:g} s of CPU time within {wait:g} s"
        return
    if done.returncode == -signal.SIGXCPU:
        case.exceeded = limit
        return
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        case.failed = f"ended (status {done.returncode}): {said[-1] if said else 'it wrote no error'}"
        return
    answer = json.loads(done.stdout)
    expected = str(case.kind.expected(case.n))
    if answer["result"] != expected:
        case.failed = f"gave {answer['result']}, not {expected}"
        return
    case.seconds.append(answer["seconds"])
    case.peak = max(case.peak or 0, answer["peak"])
    case.code = case.code if answer["code"] is None else answer["code"]
