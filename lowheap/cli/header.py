"""`lowheap header`: the C interface as a header."""

from __future__ import annotations

from pathlib import Path

import click

from lowheap.cli.options import check_library_collectors, library_collectors_option
from lowheap.embed import header as header_text
from lowheap.errors import LowheapError


@click.command("header")
@click.option("--cdef", "as_cdef", is_flag=True, help="Print the declarations for cffi's cdef in place of the header.")
@click.option("--out", "file", metavar="FILE", help="Write them to FILE in place of standard output.")
@library_collectors_option
@click.pass_context
def header_command(ctx: click.Context, /, as_cdef: bool, file: str | None, collectors: tuple[str, ...]) -> None:
    """Print lowheap.h, the header of the C library.

    It goes with the libraries that this version of lowheap builds for the same collectors, and is refused by all that
    are laid out differently, or have others. Declarations for cffi are for heaps of Python's stores, too, whatever the
    collector.
    """
    wanted = check_library_collectors(ctx, collectors)
    text = header_text.cdef(*wanted) if as_cdef else header_text.header(*wanted)
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise LowheapError(f"cannot write {file!r}: {error.strerror or error}") from error
