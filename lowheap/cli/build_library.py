"""`lowheap build-library`: the C interface as a library without Python."""

from __future__ import annotations

import click
from rich.table import Table
from rich.text import Text

from lowheap.cli.options import check_library_collectors, library_collectors_option, opt_level_option
from lowheap.cli.output import report_console
from lowheap.embed import library
from lowheap.errors import UnsupportedError
from lowheap.representation import printable

_SUMMARIES = {
    "object": "object",
    "archive": "static library",
    "shared": "shared library",
    "link": "link",
    "pc": "for pkg-config",
}


@click.command("build-library")
@click.option("--out", "directory", metavar="DIR", required=True, help="The prefix to write to.")
@click.option("--target", metavar="TRIPLE", help="What to build for, as LLVM names it.  [default: this machine]")
@click.option(
    "--cpu",
    metavar="NAME",
    help=f"The CPU, as LLVM names it; {library.NATIVE_CPU} is this machine's.  [default: any of the target]",
)
@click.option(
    "--features",
    metavar="LIST",
    default="",
    help="CPU features to add and to take away, as +avx2,-fma.",
    show_default=False,
)
@click.option(
    "--name",
    metavar="NAME",
    default=library.NAME,
    help="What the library is called; those of several names can be in one prefix.",
)
@library_collectors_option
@opt_level_option(default=3)
@click.pass_context
def build_library_command(
    ctx: click.Context,
    /,
    directory: str,
    target: str | None,
    cpu: str | None,
    features: str,
    name: str,
    collectors: tuple[str, ...],
    opt_level: int,
) -> None:
    """Build the C library, fast and checked, into the prefix DIR: include/lowheap.h, lib/liblowheap.a and .so.

    A program is compiled with the flags that pkg-config gives for lib/pkgconfig/lowheap.pc, or lowheap-checked.pc for
    the library that checks every call. With --name NAME these are NAME.pc and libNAME.so, and the header is
    include/NAME/lowheap.h. The shared libraries need a C compiler, the system's or that of the package
    ziglang; without one all the rest is built.
    """
    wanted = check_library_collectors(ctx, collectors)
    try:
        library.check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param_hint="--name") from error
    try:
        built = library.build(
            directory, target=target, cpu=cpu, features=features, opt_level=opt_level, collector=wanted, name=name
        )
    except UnsupportedError as error:
        raise click.UsageError(str(error), ctx) from error
    summaries = {
        file: f"{_SUMMARIES[part]}{', checked' if checked else ''}"
        for checked in library.VARIANTS
        for part, file in library.library_files(checked=checked, name=name).items()
    }
    table = Table(title=Text(f"{printable(directory)}: {name} for {built.target}"), title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    table.add_column("what")
    for path in built.files:
        file = path.relative_to(built.prefix).as_posix()
        if path.is_symlink():
            table.add_row(file, "", f"link to {path.readlink()}")
        else:
            table.add_row(file, f"{path.stat().st_size:,}", summaries.get(file, "header"))
    report_console().print(table)
    if built.missing is not None:
        click.echo(f"lowheap: {built.missing}", err=True)
