"""What several commands take in the same way: a program, a barrier set, how hard to optimise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click

from lowheap.collectors import registry
from lowheap.config import COMPILATION, OPT_LEVELS, RUNTIMES
from lowheap.errors import CompilerError, LowheapError, ModuleError
from lowheap.native import NativeError

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


_NAMES = f"{', '.join(registry.BUILT_IN)}, an entry point's name, `module:Class` or `file.py:Class`"


def collector_options(command: _Command) -> _Command:
    """Add the options of which collector there is, and with which barriers."""
    with_barriers = click.option(
        "--barriers", metavar="NAME", help="A variation of the collector's barriers, in the same words; `outlined`."
    )
    with_collector = click.option("--collector", metavar="NAME", help=f"The collector: {_NAMES}.  [default: drc]")
    return with_collector(with_barriers(command))


def check_collector(ctx: click.Context, collector: str | None, barriers: str | None) -> dict[str, Any]:
    """Return an engine's arguments for collectors that there are.

    One's own module is looked for in the current directory too.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    for option, name in (("--collector", collector), ("--barriers", barriers)):
        if name is not None:
            try:
                registry.find(name)
            except NativeError:
                raise
            except CompilerError as error:
                raise click.BadParameter(str(error), ctx, param_hint=f"'{option}'") from error
    return {"collector": collector, "barriers": barriers}


def library_collectors_option(command: _Command) -> _Command:
    """Add the option of which collectors the C library has."""
    return click.option(
        "--collector",
        "collectors",
        metavar="NAME",
        multiple=True,
        help=f"A collector of the library's heaps: {_NAMES}; its parameters may follow, as in "
        "'rc-immix(pause_microseconds=1000)'. Given several times, each once: lh_config says by name which a heap has, "
        "and the first is the default.  [default: drc]",
    )(command)


def check_library_collectors(ctx: click.Context, collectors: Sequence[str]) -> tuple[str, ...]:
    """Return the collectors that the C library is to have, which there are."""
    from lowheap.embed.api import DEFAULT_COLLECTORS  # here, because other commands need nothing of the C library

    for each in collectors:
        check_collector(ctx, each, None)
    wanted = tuple(collectors) or DEFAULT_COLLECTORS
    try:
        registry.find_all(wanted)
    except CompilerError as error:
        raise click.BadParameter(str(error), ctx, param_hint="'--collector'") from error
    return wanted


def runtime_option(help: str) -> Callable[[_Command], _Command]:
    """Return the option of which runtime; the first is an engine's own choice."""
    return click.option("--runtime", type=click.Choice(RUNTIMES), default=RUNTIMES[0], show_default=True, help=help)


def interruptible_option() -> Callable[[_Command], _Command]:
    """Return the option of code that looks for signals; `interruptible` is what it gives."""
    return click.option(
        "--uninterruptible",
        "interruptible",
        flag_value=False,
        type=bool,
        default=True,
        help="Have compiled code not look whether it was interrupted; Ctrl-C ends the process then.",
    )


def compilation_option() -> Callable[[_Command], _Command]:
    """Return the option of when functions are compiled."""
    return click.option(
        "--compilation",
        type=click.Choice(COMPILATION),
        default=COMPILATION[0],
        show_default=True,
        help="When to compile functions: all at first, or each when it is called first; auto: that if they are many.",
    )


def code_options(command: _Command) -> _Command:
    """Add all options that the code of a program depends on, and when it is compiled."""
    for option in (
        interruptible_option(),
        compilation_option(),
        opt_level_option(),
        runtime_option("Who allocates, drops and collects: compiled code, or the heap in Python."),
        collector_options,
    ):
        command = option(command)
    return command


def code_arguments(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an engine's arguments for what `code_options` gave."""
    chosen = check_collector(ctx, options["collector"], options["barriers"])
    return {**chosen, **{name: options[name] for name in ("runtime", "opt_level", "compilation", "interruptible")}}


def collect_every_option() -> Callable[[_Command], _Command]:
    """Return the option of how often to collect, whatever the heap needs."""
    return click.option(
        "--collect-every",
        type=click.IntRange(min=0),
        metavar="N",
        default=0,
        help="Collect at every Nth safepoint; 0, the default, leaves it to the heap.",
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
