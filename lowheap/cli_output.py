"""What the commands read and print in the same way: a program, options, a report, and progress on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lowheap.engine import OPT_LEVELS
from lowheap.errors import LowheapError
from lowheap.jit import barriers as barrier_sets

_PROGRESS_DELAY = 1.0

_Command = TypeVar("_Command", bound=Callable[..., Any])


def read_program(source: str) -> bytes:
    """Return the contents of a file, or of standard input for `-`. LowheapError, naming it, when it cannot be read."""
    try:
        if source == "-":
            if sys.stdin is None:
                raise LowheapError("cannot read standard input: it is closed")
            return sys.stdin.buffer.read()
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        raise LowheapError(f"cannot read {source!r}: {error.strerror or error}") from error


barriers_option = click.option(
    "--barriers",
    metavar="NAME",
    default="drc",
    show_default=True,
    help=f"The barrier set: {', '.join(barrier_sets.BUILT_IN)}, an entry point's name, or `module:Class`.",
)


def opt_level_option(default: int = 2) -> Callable[[_Command], _Command]:
    """Return the option of how hard to optimise."""
    return click.option(
        "--opt-level",
        type=click.IntRange(OPT_LEVELS[0], OPT_LEVELS[-1]),
        metavar=f"{OPT_LEVELS[0]}-{OPT_LEVELS[-1]}",
        default=default,
        show_default=True,
        help="How hard LLVM optimises.",
    )


def report_console() -> Console:
    """Return a console on standard output, which takes every character: what it cannot encode is escaped."""
    with contextlib.suppress(AttributeError):  # a stream that is closed, or replaced by one that has no encoding
        # None, and streams without this method, are what is suppressed.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return Console(highlight=False)


@contextlib.contextmanager
def compile_progress(delay: float = _PROGRESS_DELAY) -> Iterator[Callable[[int, int], None]]:
    """Yield the `progress(done, total)` of a `Module`, which shows a bar if the body takes longer than `delay` seconds.

    The bar is on standard error, if that is a terminal, and gone afterwards.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("compiling", total=None)

    def show() -> None:
        progress.start()
        console.show_cursor(True)  # an interrupt ends the process at once, and would leave it hidden

    def update(done: int, total: int) -> None:
        if done < total:
            progress.update(task, completed=done, total=total)
        else:  # how far LLVM is, nobody knows
            progress.reset(task, start=False, total=None, description="optimising")

    timer = threading.Timer(delay, show)
    timer.daemon = True
    timer.start()
    try:
        yield update
    finally:
        timer.cancel()
        timer.join()  # so that it is either shown, or never will be
        progress.stop()
