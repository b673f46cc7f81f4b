"""What several commands take in the same way: a program, a barrier set, how hard to optimise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from lowheap.engine import OPT_LEVELS
from lowheap.errors import CompilerError, LowheapError, ModuleError
from lowheap.jit import barriers as barrier_sets

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


@contextlib.contextmanager
def naming(program: str) -> Iterator[None]:
    """Put the program's name before what is wrong with it."""
    try:
        yield
    except ModuleError as error:
        raise type(error)(f"{program}: {error}") from error


barriers_option = click.option(
    "--barriers",
    metavar="NAME",
    default="drc",
    show_default=True,
    help=f"The barrier set: {', '.join(barrier_sets.BUILT_IN)}, an entry point's name, or `module:Class`.",
)


def check_barriers(name: str, ctx: click.Context) -> str:
    """Return the name of a barrier set that there is. One's own module is looked for in the current directory too."""
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")
    try:
        barrier_sets.find(name)
    except CompilerError as error:
        raise click.BadParameter(str(error), ctx, param_hint="'--barriers'") from error
    return name


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
