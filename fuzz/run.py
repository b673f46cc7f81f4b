"""Comparing, shrinking, and the command."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from fuzz import modules, sides
from fuzz.modules import Module
from fuzz.sides import INCONCLUSIVE, Run, Way
from lowheap.errors import LowheapError
from lowheap.wasm.wasm_tools import wasm_tools

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Finding:
    """A module that does not do the same on both sides: the seed, how lowheap ran it, and what it did in either."""

    seed: int
    way: Way
    what: str
    lowheap: str
    wasmtime: str

    def __str__(self) -> str:
        """Say it in a few lines."""
        return f"seed {self.seed} ({self.way}): {self.what}\n  lowheap:  {self.lowheap}\n  wasmtime: {self.wasmtime}"


def compare(module: Module, seed: int, way: Way) -> Finding | None:
    """Run a module on both sides, and return the first difference."""
    mine, theirs = sides.on_lowheap(module, seed, way), sides.on_wasmtime(module, seed)
    return difference(mine, theirs, seed, way)


def difference(mine: Run, theirs: Run, seed: int, way: Way) -> Finding | None:
    """Return the first difference between two runs; what comes after something inconclusive is not looked at."""
    for (what, outcome, state), (_, their_outcome, their_state) in zip(mine, theirs, strict=False):
        if outcome in INCONCLUSIVE or their_outcome in INCONCLUSIVE:
            return None
        if outcome != their_outcome:
            return Finding(seed, way, what, outcome, their_outcome)
        if state != their_state:
            return Finding(seed, way, f"what there is after {what}", state, their_state)
    if len(mine) == len(theirs):
        return None
    what, outcome, _ = max(mine, theirs, key=len)[min(len(mine), len(theirs))]
    longer, shorter = (outcome, "nothing") if len(mine) > len(theirs) else ("nothing", outcome)
    return Finding(seed, way, what, longer, shorter)


def check(seed: int, without: tuple[str, ...] = (), way: Way | None = None) -> Finding | None:
    """Make the module of a seed, run it on both sides, and return the first difference."""
    return compare(modules.make(seed, without), seed, way or sides.way_of(seed))


# ----------------------------------------------------------------------------------------------------------------------
# Many, in processes: one that dies is a finding


def _tell(kind: str, **facts: object) -> None:
    print(json.dumps({"kind": kind, **facts}), flush=True)


def _work(first: int, count: int, step: int, without: tuple[str, ...]) -> None:
    """Check seeds, and say on standard output which is begun and what was found."""
    for seed in range(first, first + count, step):
        _tell("begun", seed=seed)
        finding = check(seed, without)
        if finding is not None:
            _tell("found", what=finding.what, lowheap=finding.lowheap, wasmtime=finding.wasmtime)
    _tell("done")


def _findings(first: int, count: int, jobs: int, without: tuple[str, ...]) -> Iterator[Finding]:
    """Check `count` seeds in processes, and yield what is found."""
    workers = [_Worker(first + number, count - number, jobs, without) for number in range(min(jobs, count))]
    while workers:
        for worker in list(workers):
            line = worker.read()
            if line is None:
                workers.remove(worker)
            elif isinstance(line, Finding):
                yield line


class _Worker:
    """A process that checks each `step`th seed; when it dies, another goes on behind the seed that it died of."""

    def __init__(self, first: int, count: int, step: int, without: tuple[str, ...]) -> None:
        self._end, self._step, self._without = first + count, step, without
        self._seed = first
        self._start(first)

    def _start(self, first: int) -> None:
        self._words = ""
        rest = (str(first), str(self._end - first), str(self._step), ",".join(self._without))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fuzz", "--work", ",".join(rest[:3]), "--without", rest[3]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )

    def read(self) -> Finding | bool | None:
        """Return the next finding, True for anything else it says, None at the end."""
        assert self._process.stdout is not None, "it was asked for"
        line = self._process.stdout.readline()
        if not line:
            return self._died()
        try:
            said = json.loads(line)
        except ValueError:
            self._words = line.strip()
            return True
        if said["kind"] == "done":
            self._process.communicate()
            return None
        if said["kind"] == "begun":
            self._seed = said["seed"]
            return True
        return Finding(self._seed, sides.way_of(self._seed), said["what"], said["lowheap"], said["wasmtime"])

    def _died(self) -> Finding:
        self._process.communicate()
        status = self._process.returncode
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        finding = Finding(self._seed, sides.way_of(self._seed), "the process died", name, self._words)
        following = self._seed + self._step
        self._start(min(following, self._end))
        return finding


# ----------------------------------------------------------------------------------------------------------------------
# Shrinking


def shrink(finding: Finding, folder: Path, without: tuple[str, ...], attempts: int) -> Path:
    """Write the module of a finding, and the smallest that shows the like; return where that is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{finding.seed}.wasm"
    path.write_bytes(modules.make(finding.seed, without).binary)
    path.with_suffix(".txt").write_text(f"{finding}\n")
    way = path.with_suffix(".json")
    way.write_text(json.dumps({**asdict(finding.way), "seed": finding.seed, "signature": signature(finding)}))
    predicate = path.with_suffix(".sh")
    again = [sys.executable, "-m", "fuzz", "--same-as", str(way.absolute())]
    predicate.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))} && exec {shlex.join(again)} "$1"\n')
    predicate.chmod(0o755)
    program, smallest = wasm_tools(), path.with_suffix(".small.wasm")
    assert program is not None, "the module was made by it"
    command = [program, "shrink", "--attempts", str(attempts), predicate.absolute(), path, "-o", smallest]
    subprocess.run(list(map(str, command)), capture_output=True, check=False)
    return smallest if smallest.exists() else path


def signature(finding: Finding) -> str:
    """What is alike about findings of one cause: what each side came to, without numbers."""

    def kind(outcome: str) -> str:
        return "".join(each for each in outcome if not each.isdigit()) if outcome[:1].isalpha() else "value"

    where = "state" if finding.what.startswith("what there is") else "outcome"
    return f"{where}: {kind(finding.lowheap)} / {kind(finding.wasmtime)}"


def _is_same(path: Path, described: Path) -> bool:
    """Whether a module shows what a finding did. In a process of its own, since it may die of it."""
    facts = json.loads(described.read_text())
    seed, wanted = facts.pop("seed"), facts.pop("signature")
    died = wanted.startswith("outcome: SIG")
    if died:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from fuzz.run import *; compare(modules.read(Path({str(path)!r})), {seed}, Way(**{facts!r}))",
            ],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        return done.returncode < 0
    try:
        found = compare(modules.read(path), seed, Way(**facts))
    except LowheapError:
        return False
    return found is not None and signature(found) == wanted


# ----------------------------------------------------------------------------------------------------------------------
# The command


@click.command()
@click.option("--count", type=click.IntRange(min=1), default=1000, show_default=True, help="How many modules.")
@click.option("--seed", "first", type=click.IntRange(min=0), default=0, show_default=True, help="The first one's seed.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="So many processes.")
@click.option("--without", default="", metavar="FEATURES", help="Features that no module has, with commas.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(".fuzz"), show_default=True, help="Where findings go."
)
@click.option("--attempts", type=click.IntRange(min=0), default=200, show_default=True, help="How hard to shrink.")
@click.option("--work", hidden=True, help="First seed, count, step: what a worker is given.")
@click.option("--same-as", type=click.Path(path_type=Path), hidden=True, help="What a predicate of shrinking is given.")
@click.argument("path", type=click.Path(path_type=Path), required=False)
def command(
    count: int,
    first: int,
    jobs: int,
    without: str,
    folder: Path,
    attempts: int,
    work: str | None,
    same_as: Path | None,
    path: Path | None,
) -> None:
    """Run random modules on lowheap and on wasmtime, and compare what they do.

    Lowheap runs each in another way: collector, barriers, runtime, optimisation level, collections at every safepoint.
    What differs is written to a folder, with a smaller module that differs alike. The exit status is 1 then.

    PATH, a module that was written there, is run again, as its seed was.
    """
    features = tuple(filter(None, without.split(",")))
    if work is not None:
        begin, many, step = map(int, work.split(","))
        _work(begin, many, step, features)
        return
    if same_as is not None:
        assert path is not None, "the predicate is given a module"
        sys.exit(0 if _is_same(path, same_as) else 1)
    if path is not None:
        seed = int(path.name.partition(".")[0])
        finding = compare(modules.read(path), seed, sides.way_of(seed))
        click.echo(finding or "it does the same on both sides")
        sys.exit(1 if finding else 0)
    started, kinds = time.monotonic(), Counter[str]()
    for finding in _findings(first, count, jobs, features):
        click.echo(finding)
        kinds[signature(finding)] += 1
        if kinds[signature(finding)] <= 3:
            click.echo(f"  {shrink(finding, folder, features, attempts)}")
    click.echo(f"{count} modules, seeds {first} to {first + count - 1}, in {time.monotonic() - started:.0f} s")
    for kind, number in kinds.most_common():
        click.echo(f"  {number} × {kind}")
    if kinds:
        sys.exit(1)
