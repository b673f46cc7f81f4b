"""`lowheap compile FILE...`: compile programs ahead, so that `lowheap run` takes all their code from the cache."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from lowheap.cli.options import code_arguments, code_options, naming, read_program
from lowheap.cli.output import compile_progress, printable_on
from lowheap.engine import Engine
from lowheap.errors import LowheapError
from lowheap.wasm.module import Module

_EPILOG = """\b
Example: lowheap compile prog.wasm && lowheap run prog.wasm
"""


@click.command("compile", epilog=_EPILOG)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@code_options
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compile in so many processes, where functions are compiled by need.  [default: one for each processor]",
)
@click.pass_context
def compile_command(ctx: click.Context, /, files: tuple[str, ...], jobs: int | None, **options: Any) -> None:
    """Compile programs, all their functions, into the user's cache directory.

    FILE is WebAssembly, as text or binary; - is standard input. `lowheap run` takes code from there when its options
    are the same. With --allocator first-fit or --growth grow-first, its runtime is python; with --collect-every, it
    compiles anew.
    """
    arguments = code_arguments(ctx, options)
    for file in files:
        started = time.perf_counter()
        engine = Engine(**arguments, cache=True)  # one for each, since types are never forgotten
        source = read_program(file)
        name = "<stdin>" if file == "-" else file
        with naming(name), compile_progress(what=name) as progress:
            module = Module(engine, source, progress=progress)
            module.compile_all(progress, jobs=jobs)
        total = len(module.decoded.bodies)
        if not module.is_cached:
            where = "this user has no cache directory" if engine.cache is None else f"{engine.cache} cannot have it all"
            raise LowheapError(f"{name} was compiled, but is not in the cache: {where}")
        took = 1000 * (time.perf_counter() - started)
        click.echo(f"{printable_on(name, sys.stdout)}: {total:,} functions in the cache, {took:,.1f} ms")
