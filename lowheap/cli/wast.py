"""`lowheap wast FILE...`: run spec scripts, and print a table of what passed. The exit status is 1 on a failure."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from lowheap.cli.interrupts import stopping_the_program
from lowheap.cli.options import (
    check_collector,
    collect_every_option,
    collector_options,
    compilation_option,
    opt_level_option,
    runtime_option,
)
from lowheap.cli.output import EXIT_ERROR, printable_on, report_console, say
from lowheap.config import Config
from lowheap.errors import LowheapError
from lowheap.wasm.script import Failure, ScriptResult, run_script

_SUFFIXES = (".wast", ".json")


@click.command("wast")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@collector_options
@runtime_option("Who allocates, drops and collects: compiled code, or the heap in Python.")
@collect_every_option()
@opt_level_option()
@compilation_option()
@click.option("--no-cache", is_flag=True, help="Compile anew, and keep no compiled code in the user's cache directory.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Run so many files at once, each in a process; one that dies is a failure of its file.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End a file that takes longer; it runs in a process of its own.",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    metavar="N",
    default=20,
    show_default=True,
    help="Show so many failures of a file.",
)
@click.pass_context
def wast_command(ctx: click.Context, /, files: tuple[str, ...], **options: Any) -> None:
    """Run spec scripts, and print how many of their commands passed.

    FILE is a script (.wast), what `wasm-tools json-from-wast` has made of one (.json), or a folder, of which every
    script is run, those in its folders too. Reading a .wast needs wasm-tools: pip install 'lowheap[spec]'.

    A table of the files goes to standard output, and then each failure, with its line. The exit status is 1 when there
    is one.
    """
    settings = _Settings(
        {
            **check_collector(ctx, options["collector"], options["barriers"]),
            "runtime": options["runtime"],
            "opt_level": options["opt_level"],
            "compilation": options["compilation"],
            "cache": not options["no_cache"],
        },
        options["collect_every"],
    )
    paths = list(_scripts(files))
    started = time.perf_counter()
    if options["jobs"] == 1 and options["time_limit"] is None:
        with stopping_the_program():
            results = [settings.run(path) for path in paths]
    else:
        results = _run_in_processes(paths, settings, options["jobs"], options["time_limit"])
    _report(results, time.perf_counter() - started, options["show"])
    if any(result.failures for result in results):
        ctx.exit(EXIT_ERROR)


def _scripts(names: Iterable[str]) -> Iterator[Path]:
    """Yield the scripts that are named, and those in folders that are, in order."""
    for name in names:
        path = Path(name)
        if not path.is_dir():
            yield path
            continue
        found = sorted(path.rglob("*.wast"))
        if not found:
            raise LowheapError(f"there is no script in the folder {name!r}: no file that ends in .wast")
        yield from found


@dataclass(frozen=True)
class _Settings:
    """How files are run: an engine's options, and a store's."""

    engine: dict[str, Any]
    collect_every: int

    def run(self, path: Path) -> ScriptResult:
        return run_script(path, Config(**self.engine), collect_every=self.collect_every)


# ----------------------------------------------------------------------------------------------------------------------
# Processes


def _serve(connection: Connection, settings: _Settings) -> None:
    """Run the files whose names come in, until no more come: what a worker does."""
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        connection.send(settings.run(path))


class _Worker:
    """A process that runs one file after another."""

    def __init__(self, settings: _Settings, limit: float | None) -> None:
        context = multiprocessing.get_context("spawn")  # LLVM and the threads of this process are not to be forked
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()
        self._limit = limit
        self.path = Path()
        self._deadline = float("inf")

    def give(self, path: Path) -> None:
        """Have a file run."""
        self.path = path
        self._deadline = float("inf") if self._limit is None else time.monotonic() + self._limit
        self.connection.send(path)

    @property
    def seconds_left(self) -> float:
        """How long the file may still take."""
        return max(0.0, self._deadline - time.monotonic())

    def result(self) -> ScriptResult:
        """What came of the file, after the connection has said something, or the time is over."""
        if self.connection.poll():
            try:
                found: ScriptResult = self.connection.recv()
                return found
            except EOFError:
                self._process.join()
                status = self._process.exitcode or 0
                why = f"signal {-status}" if status < 0 else f"exit status {status}"
                reason = f"the process died: {why}"
        else:
            reason = f"it took longer than {self._limit:g} s"
        self.end()
        return ScriptResult(str(self.path), 1, [Failure(0, "script", reason)])

    @property
    def is_alive(self) -> bool:
        """Whether it can be given another file."""
        return self._process.is_alive()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self._process.kill()
        self._process.join()


def _run_in_processes(paths: list[Path], settings: _Settings, jobs: int, limit: float | None) -> list[ScriptResult]:
    """Run files in processes, `jobs` at once, and return what came of them, in order."""
    waiting, found = deque(enumerate(paths)), dict[int, ScriptResult]()
    busy: dict[_Worker, int] = {}

    def next_file(worker: _Worker) -> None:
        if waiting:
            busy[worker], path = waiting.popleft()
            worker.give(path)
        else:
            worker.end()

    try:
        for _ in range(min(jobs, len(paths))):
            next_file(_Worker(settings, limit))
        while busy:
            patience = min(worker.seconds_left for worker in busy)
            told = wait([worker.connection for worker in busy], None if patience == float("inf") else patience)
            for worker in [each for each in busy if each.connection in told or not each.seconds_left]:
                number = busy.pop(worker)
                found[number] = worker.result()
                next_file(worker if worker.is_alive else _Worker(settings, limit))
    finally:
        for worker in busy:
            worker.end()
    return [found[number] for number in range(len(paths))]


# ----------------------------------------------------------------------------------------------------------------------
# The report


def _report(results: list[ScriptResult], seconds: float, most: int) -> None:
    console = report_console()
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(result.path)) for result in results])
    for column in ("commands", "passed", "failed", "skipped"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            Text(_shown(os.path.relpath(result.path, folder))),
            f"{result.commands:,}",
            f"{result.passed:,}",
            Text(f"{len(result.failures):,}", "red" if result.failures else ""),
            f"{result.skips:,}",
        )
    commands, passed = sum(each.commands for each in results), sum(each.passed for each in results)
    failed, skipped = sum(len(each.failures) for each in results), sum(each.skips for each in results)
    if len(results) > 1:
        name = f"{len(results)} files"
        table.add_row(Text(name), f"{commands:,}", f"{passed:,}", f"{failed:,}", f"{skipped:,}", style="bold")
    console.print(table)
    for result in results:
        for reason, count in result.skipped.items():
            click.echo(f"{_shown(result.path)}: skipped {count}: {reason}")
        for failure in result.failures[:most]:
            place = f":{failure.line}" if failure.line else ""
            click.echo(_shown(f"{result.path}{place}: {failure.command}: {failure.reason}"))
        if len(result.failures) > most:
            click.echo(f"{_shown(result.path)}: and {len(result.failures) - most:,} more")
    share = f"{100 * passed / commands:.2f} %" if commands else "none"
    say(f"lowheap: {passed:,} of {commands:,} commands passed, {share}, in {seconds:.1f} s")


def _shown(text: str) -> str:
    return printable_on(text, sys.stdout)
