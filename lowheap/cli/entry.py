"""The group of commands, the entry, and what becomes of errors: one message, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import itertools
import logging
import sys
from collections.abc import Sequence

import click

from lowheap.cli.interrupts import exit_on_interrupt
from lowheap.cli.output import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_STATUSES,
    EXIT_TRAP,
    EXIT_USAGE,
    INTERRUPTED,
    abandon_output,
    say,
)
from lowheap.errors import Frame, LowheapError, Trap

_log = logging.getLogger("lowheap.cli")


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from importlib import metadata  # here, because it takes long to load

        try:
            version = metadata.version("lowheap")
        except metadata.PackageNotFoundError:
            version = "(not installed, so of no version)"
        click.echo(f"lowheap {version}")
        ctx.exit()


_COMMANDS = {
    "asm": "Print a function's machine code, barriers marked.",
    "build-library": "Build the C library.",
    "compile": "Compile programs ahead, for run.",
    "header": "Print the C header.",
    "inspect": "Walk, verify and summarise IMAGE.",
    "layout": "Print the layout of every type of a MODULE, or of one TYPE.",
    "run": "Call an export of a WebAssembly program.",
    "wast": "Run spec scripts.",
}
"""What each command does, as the group's help says it. A command is loaded when it is named."""


class _Commands(click.Group):
    """The group, which loads the one command that is wanted: together they need all of lowheap."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None when there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        found: click.Command = getattr(importlib.import_module(f"lowheap.cli.{module}"), f"{module}_command")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write down what there is, without loading it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands, invoke_without_command=True, epilog=EXIT_STATUSES)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """wasmtime's deferred reference-counting heap, with WebAssembly GC programs on it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


# ----------------------------------------------------------------------------------------------------------------------
# Entry, and what becomes of errors


def main() -> int:
    """Run the command with the process's arguments, and return its exit status: the `lowheap` console script."""
    logging.raiseExceptions = False  # a log that nobody reads any more is no reason to fail
    exit_on_interrupt()
    _load(sys.argv[1:2])
    return execute(sys.argv[1:])


def _load(names: Sequence[str]) -> None:
    """Load the command of that name, and have Python's garbage collector leave what is loaded alone: all of it stays.

    It would go through it again and again, which takes a fifth of the time of a program that is in the cache.
    """
    gc.disable()
    try:
        with contextlib.suppress(Exception):  # who executes the command says what is wrong
            for name in names:
                command.get_command(click.Context(command), name)
    finally:
        gc.freeze()
        gc.enable()


def execute(arguments: Sequence[str]) -> int:
    """Run the command with these arguments, and return its exit status. Every exception becomes a message."""
    with contextlib.ExitStack() as until_reported:
        try:
            status = command.main(args=list(arguments), prog_name="lowheap", standalone_mode=False, obj=until_reported)
            if sys.stdout is not None:
                sys.stdout.flush()
        except Exception as error:
            return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    """Print an exception as one message, and return the exit status that goes with it."""
    status, label, text = EXIT_ERROR, "error", str(error)
    match error:
        case OSError() if error.errno == errno.EPIPE:  # nobody reads the output any more: nothing to be said
            abandon_output()
            return EXIT_ERROR
        case click.UsageError():
            status = EXIT_USAGE
            text = error.format_message()
            if error.ctx is not None:
                text += f"\nTry '{error.ctx.command_path} --help' for help."
        case click.ClickException():
            text = error.format_message()
        case Trap():
            status, label, text = EXIT_TRAP, "trap", text.removeprefix("wasm trap: ") + _places(error.frames)
        case click.Abort():
            say(INTERRUPTED)
            return EXIT_INTERRUPTED
        case MemoryError():
            text = f"out of memory: {text}" if text else "out of memory"
        case LowheapError():
            pass
        case _:
            text = f"{type(error).__name__}: {text} (with --log-level debug: where)"
    _log.debug("where this comes from:", exc_info=error)
    say(f"lowheap: {label}: {text}")
    return status


def _places(frames: Sequence[Frame]) -> str:
    """Where in the source a program trapped, and who called that function, a line each; what repeats is told once."""
    where = frames[0].source if frames else None
    innermost = "" if where is None else f"\n  at {where}"
    lines: list[str] = []
    for frame, group in itertools.groupby(map(str, frames[1:])):
        count = len(list(group))
        lines.append(f"\n  called from {frame}" + (f" ({count} times)" if count > 1 else ""))
    more = len(lines) - _MOST_CALLERS
    if more > 0:
        lines[_MOST_CALLERS:] = [f"\n  and {more} more"]
    return "".join((innermost, *lines))


_MOST_CALLERS = 16
