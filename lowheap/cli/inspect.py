"""`lowheap inspect IMAGE`: walk, verify and summarise an image of a heap. The exit status is 1 when it is not sound."""

from __future__ import annotations

import json
from pathlib import Path

import click

from lowheap.cli.output import report_console
from lowheap.errors import LowheapError
from lowheap.snapshot import Image
from lowheap.snapshot.inspection import Inspection, inspect

EXIT_NOT_SOUND = 1


@click.command("inspect")
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--plot", "picture", metavar="PNG", help="Write a picture of the heap map to this file.")
@click.option("--collector", metavar="NAME", help="The heap's collector, if lowheap has not got it.")
@click.pass_context
def inspect_command(
    ctx: click.Context, /, image: str, as_json: bool, picture: str | None, collector: str | None
) -> None:
    """Walk, verify and summarise IMAGE.

    It is a file that `Image.save` wrote, of lowheap's heap or of wasmtime's, or a dump that `lh_dump` wrote in C.

    The report goes to standard output: objects by type, free memory, with blocks and lines where the heap is made of
    them, the list, reference counts, and the cycles of garbage, with what a search for cycles would free. The exit
    status is 1 when an invariant of the heap does not hold.
    """
    inspection = _inspect(image, collector)
    if as_json:
        click.echo(json.dumps(inspection.to_json(), indent=2))
    else:
        report_console().print(inspection.render())
    if picture is not None:
        try:
            inspection.plot(picture)
        except OSError as error:
            raise LowheapError(f"cannot write {picture!r}: {error.strerror or error}") from error
    if inspection.problems:
        ctx.exit(EXIT_NOT_SOUND)


def _inspect(path: str, collector: str | None) -> Inspection:
    try:
        return inspect(Image.load(Path(path)), collector)
    except OSError as error:
        raise LowheapError(f"cannot read {path!r}: {error.strerror or error}") from error
