"""The command: `python -m benchmarks`, `make bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path

import click
from rich.console import Console

from benchmarks import compile_time, contenders, from_python, instructions, measure, pauses, programs, report, start_up
from benchmarks.contenders import Field
from toolchains import build

_DOCUMENT = contenders.ROOT / "docs" / "performance.md"
_WIDTH = 120  # of the tables, when they go to a file
_ROUNDS = {"full": 11, "quick": 5, "tiny": 1}

PARTS = ("programs", "instructions", "compile-time", "from-python", "start-up", "pauses")
"""What a run consists of: programs, barriers' instructions, and what compiling, use from Python, starts and pauses
cost."""

PROGRAMS, INSTRUCTIONS, COMPILE_TIME, FROM_PYTHON, START_UP, PAUSES = PARTS


class UnknownProgramError(Exception):
    """A program was asked for that does not exist."""


def run(
    scale: str,
    *,
    rounds: int | None = None,
    names: tuple[str, ...] | None = None,
    only: tuple[str, ...] = (),
    parts: Collection[str] = PARTS,
    say: measure.Say = lambda text: None,
) -> measure.Report:
    """Measure, and return the report.

    `names` are the contenders' (None: all that there are), `only` the programs' (none given: all). `rounds` is how many
    repetitions count, by default as many as the scale calls for. `parts` are what is measured at all, of PARTS.
    UnknownProgramError for a name that no program has.
    """
    chosen = [program for program in programs.suite(scale) if not only or program.name in only]
    if unknown := set(only) - {program.name for program in chosen}:
        known = ", ".join(sorted({program.name for program in programs.suite(scale)}))
        raise UnknownProgramError(f"there is no program {sorted(unknown)[0]!r}; there are {known}")
    rounds = _ROUNDS[scale] if rounds is None else rounds
    machine = measure.machine_facts()
    if PROGRAMS not in parts:  # the others need no C programs, which take time to build
        others = dict.fromkeys((*compile_time.CONTENDERS, *start_up.CONTENDERS.values(), *dict(pauses.CASES)))
        names = tuple(name for name in others if names is None or name in names)
    with Field(names) as field:
        absent = [each for each in chosen if each.example is not None and not build.binary(each.example).is_file()]
        measured = [
            measure.measure(field, program, rounds, say)
            for program in chosen
            if PROGRAMS in parts and program not in absent
        ]
        counted = None
        if INSTRUCTIONS in parts:
            say("counting instructions")
            counted = instructions.measure(field.folder)
        compile_times = compile_time.measure(field, scale, say) if COMPILE_TIME in parts else None
        uses = from_python.measure(field, scale, rounds, say) if FROM_PYTHON in parts else None
        starts = start_up.measure(field, rounds, say) if START_UP in parts else None
        paused = pauses.measure(field, scale, rounds, say) if PAUSES in parts else None
        return measure.Report(
            scale=scale,
            rounds=rounds,
            machine=machine,
            contenders={name: contender.description for name, contender in field.contenders.items()},
            skipped={skipped.name: skipped.reason for skipped in field.skipped}
            | {each.name: "it is not compiled; `make programs` does that" for each in absent if PROGRAMS in parts}
            | ({} if paused is None else paused.absent),
            programs=measured,
            instructions=counted,
            compile_times=compile_times,
            from_python=uses,
            start_up=starts,
            pauses=paused,
        )


@click.command()
@click.option("--quick", "scale", flag_value="quick", help="Small sizes: a minute or so in all.")
@click.option("--tiny", "scale", flag_value="tiny", help="Sizes that measure nothing, to see that all works.")
@click.option("--rounds", type=click.IntRange(1), help="Repetitions that count. Default: 11; quick 5, tiny 1.")
@click.option("--only", "parts", multiple=True, type=click.Choice(PARTS), help="This part only; can be repeated.")
@click.option(
    "--program", "only", multiple=True, metavar="NAME", help="This program, and no other part; can be repeated."
)
@click.option("--contender", "names", multiple=True, metavar="NAME", help="This contender only; can be repeated.")
@click.option("--provide", is_flag=True, help="First install what can be: wasmtime's wheels, and V8 (node) by npm.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures there.")
@click.option("--chart", type=click.Path(path_type=Path, dir_okay=False), help="Draw a chart there (PNG).")
@click.option("--docs", is_flag=True, help="Write docs/performance.md and its chart anew, but for its notes.")
def main(
    scale: str | None,
    rounds: int | None,
    parts: tuple[str, ...],
    only: tuple[str, ...],
    names: tuple[str, ...],
    provide: bool,
    json_file: Path | None,
    chart: Path | None,
    docs: bool,
) -> None:
    """Measure lowheap beside wasmtime, V8 and hand-written C.

    Exits with 1 when a contender failed or results differ, after the report.
    """
    if docs and (parts or only):
        raise click.UsageError("--docs writes the whole document: it goes neither with --only nor with --program")
    if not parts:
        parts = (PROGRAMS,) if only else PARTS
    elif only and PROGRAMS not in parts:
        raise click.UsageError(f"--program is about the part {PROGRAMS}, which --only leaves out")
    errors = Console(stderr=True)
    if provide:
        contenders.provide(lambda text: errors.print(f"not installed: {text}", markup=False))
    try:
        with errors.status("") as status:
            found = run(
                scale or "full",
                rounds=rounds,
                names=names or None,
                only=only,
                parts=parts,
                say=status.update,
            )
    except UnknownProgramError as error:
        raise click.UsageError(str(error)) from None
    report.show(found, Console(width=None if sys.stdout.isatty() else _WIDTH))
    if json_file is not None:
        json_file.write_text(json.dumps(found.as_json(), indent=2) + "\n", "utf-8")
    if chart is not None:
        report.draw(found, chart)
    if docs:
        report.write_document(found, _DOCUMENT)
    if found.failures:
        sys.exit(1)
