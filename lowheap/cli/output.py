"""What the commands print in the same way: reports, messages, progress on standard error; and the exit statuses."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_TRAP = 3
EXIT_INTERRUPTED = 130

INTERRUPTED = "lowheap: interrupted"
"""The message that goes with that."""

EXIT_STATUSES = """\b
Exit status: 0; 1 for an error; 2 for a wrong command line;
3 when the program traps; 130 when interrupted."""

_PROGRESS_DELAY = 1.0


def say(message: str) -> None:
    """Print a message on standard error, where there is one that takes it."""
    with contextlib.suppress(OSError):
        click.echo(printable_on(message, sys.stderr), err=True)


def printable_on(text: str, stream: IO[str] | None) -> str:
    """Escape what a terminal would obey, and what the stream cannot encode: names are the program's, not ours."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def abandon_output() -> None:
    """Let standard output lead nowhere, so that the interpreter does not fail to flush it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_console() -> Console:
    """Return a console on standard output, which takes every character: what it cannot encode is escaped."""
    from rich.console import Console  # here, because it takes long to load, and only reports need it

    with contextlib.suppress(AttributeError):  # a stream that is closed, or replaced by one that has no encoding
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # None and others: suppressed
    return Console(highlight=False)


@contextlib.contextmanager
def compile_progress(delay: float = _PROGRESS_DELAY, *, what: str = "") -> Iterator[Callable[[int, int], None]]:
    """Yield the `progress(done, total)` of a `Module`, which shows a bar if the body takes longer than `delay` seconds.

    The bar has numbers of functions, and `what`, if that is said. It is on standard error, if that is a terminal, and
    gone afterwards.
    """
    if not os.environ.get("FORCE_COLOR") and (sys.stderr is None or not sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    of = f" {escape(printable_on(what, sys.stderr))}" if what else ""
    task = progress.add_task(f"compiling{of}", total=None)

    def show() -> None:
        progress.start()
        console.show_cursor(True)  # an interrupt ends the process at once, and would leave it hidden

    def update(done: int, total: int) -> None:
        if done < total:
            said = f"compiling{of}: {done:,} of {total:,} functions"
            progress.update(task, completed=done, total=total, description=said)
        else:  # how far LLVM is, nobody knows
            progress.reset(task, start=False, total=None, description=f"optimising{of}: {total:,} functions")

    timer = threading.Timer(delay, show)
    timer.daemon = True
    timer.start()
    try:
        yield update
    finally:
        timer.cancel()
        timer.join()  # so that it is either shown, or never will be
        progress.stop()
