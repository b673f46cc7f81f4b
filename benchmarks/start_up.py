"""How soon a program in Kotlin has done its first work: on lowheap, on V8 and on wasmtime, in turn.

lowheap is the command, with nothing in its cache and with all of it there; V8 is node, with the program's host. Each
run is a process of its own, and what counts is the time from its start to its end, of which lowheap's import and that
of Python are a part. wasmtime's time is that to compile the module, in a process that is up: it compiles nothing later.
The first round does not count.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import programs
from benchmarks.contenders import ROOT, ContenderError, Field
from benchmarks.timed import Timed
from toolchains import build, examples
from toolchains.examples import Example

COLD, CACHED, V8, WASMTIME = "lowheap", "lowheap, from the cache", programs.V8, programs.WASMTIME_NEWEST
CONTENDERS = {COLD: programs.NATIVE, CACHED: programs.NATIVE, V8: programs.V8, WASMTIME: programs.WASMTIME_NEWEST}
"""What is measured, and which of a run's contenders has to be there for it."""

TITLES = ("kotlin-hello", "kotlin-adventure")
"""A program of one line, and one of a thousand functions."""

_TIMEOUT = 120.0
_COMPILE = """
import sys, time
from pathlib import Path
from benchmarks.workers.run_wasmtime import new_engine, wasmtime
engine, binary = new_engine(), Path(sys.argv[1]).read_bytes()
started = time.perf_counter()
wasmtime.Module(engine, binary)
print(time.perf_counter() - started)
"""


@dataclass(slots=True)
class Started(Timed):
    """The starts of one program by one contender: each one's seconds; `failed` says why there are no more."""

    title: str
    contender: str
    seconds: list[float] = field(default_factory=list)
    failed: str | None = None


@dataclass(slots=True)
class StartUp:
    """All starts that were measured."""

    started: list[Started]

    def median(self, title: str, contender: str) -> float | None:
        """A median; None for what was not measured, or failed."""
        found = (each for each in self.started if (each.title, each.contender) == (title, contender))
        return next((each.median for each in found), None)

    def ratio(self, title: str, contender: str, other: str) -> float | None:
        """A contender's median as a multiple of another's; None if either is not there."""
        ours, theirs = self.median(title, contender), self.median(title, other)
        return None if ours is None or theirs is None else ours / theirs

    @property
    def failures(self) -> list[str]:
        """What went wrong."""
        return [f"start {each.title}: {each.contender}: {each.failed}" for each in self.started if each.failed]

    def as_json(self) -> list[dict[str, Any]]:
        """Return it as what JSON can hold."""
        return [
            {"program": each.title, "contender": each.contender, "seconds": each.seconds, "median": each.median}
            | ({"failed": each.failed} if each.failed else {})
            for each in self.started
        ]


def measure(field_: Field, rounds: int, say: Callable[[str], None]) -> StartUp:
    """Start the programs that are compiled, with each contender that is there."""
    present = [name for name, needed in CONTENDERS.items() if needed in field_.contenders]
    found = []
    for example in map(examples.find, TITLES):
        if not build.binary(example).is_file():
            continue
        taken = [Started(example.title, name) for name in present]
        for number in range(rounds + 1):
            say(f"start {example.title}: {'warming up' if number == 0 else f'round {number} of {rounds}'}")
            for each in taken:
                if each.failed is not None:
                    continue
                try:
                    seconds = _start(example, each.contender, field_)
                except ContenderError as error:
                    each.failed = str(error)
                    continue
                if number > 0:
                    each.seconds.append(seconds)
        found += taken
    return StartUp(found)


def _start(example: Example, contender: str, field_: Field) -> float:
    binary = str(build.binary(example))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = field_.contenders[CONTENDERS[contender]].path
    environment |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONPYCACHEPREFIX": str(field_.folder / "bytecode")}
    if contender == V8:
        job = json.dumps({"binary": binary, "once": [["_start", []]], "before": [], "timed": []})
        command = [*field_.contenders[V8].command, job]
        return _timed(command, environment, None)
    if contender == WASMTIME:
        return float(_run([sys.executable, "-c", _COMPILE, binary], environment))
    home = field_.folder / contender
    if contender == COLD:
        shutil.rmtree(home, ignore_errors=True)
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home)}
    return _timed([sys.executable, "-m", "lowheap", "run", binary], environment, example.expectation)


def _timed(command: list[str], environment: dict[str, str], expected: Path | None) -> float:
    """Run a command, which must print what is expected. Return the seconds that it took."""
    started = time.perf_counter()
    printed = _run(command, environment)
    seconds = time.perf_counter() - started
    if expected is not None and printed != expected.read_text("utf-8"):
        raise ContenderError(f"printed {printed[:200]!r}")
    return seconds


def _run(command: list[str], environment: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=ROOT,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ContenderError(f"took more than {_TIMEOUT:g} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise ContenderError(f"ended (status {done.returncode}): {said[-1] if said else 'it wrote no error'}")
    return done.stdout
