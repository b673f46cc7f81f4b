"""The group of commands, the entry, and what becomes of errors: one message, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
from collections.abc import Sequence
from importlib import metadata

import click

from lowheap.cli.asm import asm_command
from lowheap.cli.build_library import build_library_command
from lowheap.cli.header import header_command
from lowheap.cli.inspect import inspect_command
from lowheap.cli.interrupts import exit_on_interrupt
from lowheap.cli.layout import layout_command
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
from lowheap.cli.run import run_command
from lowheap.errors import LowheapError, Trap

_log = logging.getLogger("lowheap.cli")


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        try:
            version = metadata.version("lowheap")
        except metadata.PackageNotFoundError:
            version = "(not installed, so of no version)"
        click.echo(f"lowheap {version}")
        ctx.exit()


@click.group(invoke_without_command=True, epilog=EXIT_STATUSES)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """wasmtime's deferred reference-counting heap, with WebAssembly GC programs on it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


for _each in (asm_command, build_library_command, header_command, inspect_command, layout_command, run_command):
    command.add_command(_each)


# ----------------------------------------------------------------------------------------------------------------------
# Entry, and what becomes of errors


def main() -> int:
    """Run the command with the process's arguments, and return its exit status: the `lowheap` console script."""
    logging.raiseExceptions = False  # a log that nobody reads any more is no reason to fail
    exit_on_interrupt()
    return execute(sys.argv[1:])


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
            status, label, text = EXIT_TRAP, "trap", text.removeprefix("wasm trap: ")
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
