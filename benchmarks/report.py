"""What was measured, for people: a table for the terminal, a chart, and docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import programs, start_up
from benchmarks.compile_time import Case, CompileTimes, Factor
from benchmarks.from_python import CONTENDERS, ROWS, FromPython, Row
from benchmarks.goals import FROM_PYTHON, MEBIBYTE, in_unit, verdicts
from benchmarks.instructions import EVENTS, FUNCTIONS, Count, Instructions
from benchmarks.measure import Measured, Outcome, Report
from benchmarks.pauses import BOUNDS, Pauses, Taken
from benchmarks.start_up import StartUp

NOTES_START = "<!-- notes: what stands from here to the next mark is kept when this file is written anew -->"
NOTES_END = "<!-- end of notes -->"

_LEGEND_ROOM = 5.0
_CHART_HEIGHT = 0.16  # inches for a bar
_FUNCTION_TITLES = {
    "lh_read": "read barrier",
    "lh_write": "write barrier",
    "lh_init": "init barrier",
    "lh_inc_ref": "increment",
    "lh_dec_ref": "decrement",
    "lh_make": "allocate and fill a struct",
}


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.{0 if ratio >= 100 else 1 if ratio >= 10 else 2}f}×"


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / MEBIBYTE:.1f} MiB"


# ----------------------------------------------------------------------------------------------------------------------
# The terminal


def show(report: Report, console: Console) -> None:
    """Print everything."""
    for measured in report.programs:
        console.print(_program_table(measured))
    if report.instructions is not None:
        for each in _instruction_tables(report.instructions):
            console.print(_plain_table(each))
        for note in report.instructions.notes:
            console.print(f"not counted: {note}", markup=False)
    if report.compile_times is not None:
        console.print(_plain_table(_compile_table(report.compile_times)))
    if report.from_python is not None:
        console.print(_plain_table(_from_python_table(report.from_python)))
    if report.start_up is not None and report.start_up.started:
        console.print(_plain_table(_start_up_table(report.start_up)))
    if report.pauses is not None and report.pauses.taken:
        console.print(_plain_table(_pauses_table(report.pauses)))
    found = verdicts(report)
    if found:
        table = Table("goal", "measured", "", title="Goals")
        for verdict in found:
            table.add_row(verdict.goal, verdict.measured, "met" if verdict.is_met else "[bold red]not met")
        console.print(table)
    for name, reason in report.skipped.items():
        console.print(f"skipped: {name}: {reason}", markup=False)
    for failure in report.failures:
        console.print(f"failed: {failure}", markup=False, style="bold red")


def _program_table(measured: Measured) -> Table:
    table = Table(title=measured.program.title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("median", "spread", f"per {measured.program.event}", "to lowheap", "grown", "heap"):
        table.add_column(name, justify="right", no_wrap=True)
    if measured.live is not None:
        table.caption = f"largest live size: {_size(measured.live)}"
        table.caption_justify = "left"
    for name, outcome in measured.outcomes.items():
        if outcome.failed is not None:
            table.add_row(name, "failed")
            continue
        table.add_row(
            name,
            in_unit(outcome.median),
            f"{100 * outcome.spread:.0f} %",
            in_unit(outcome.median / measured.program.events)
            if measured.program.events == 1
            else f"{measured.nanoseconds(name):.2f} ns",
            _ratio(measured.ratio(name)),
            _size(outcome.grown),
            _size(outcome.heap),
        )
    return table


_Table = tuple[str, list[str], list[list[str]]]


def _plain_table(content: _Table) -> Table:
    title, header, rows = content
    table = Table(title=title)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _count(count: Count | None) -> str:
    return "" if count is None else f"{count.fast} of {count.all}"


def _instruction_tables(instructions: Instructions) -> list[_Table]:
    names = list(instructions.static)
    static = [
        [
            _FUNCTION_TITLES[function],
            *(_count(instructions.static[name].get(function)) for name in names),
        ]
        for function in FUNCTIONS
    ]
    tables: list[_Table] = [("Instructions to the first return, and in all", ["", *names], static)]
    ran = list(instructions.executed)
    if ran:
        executed = [[event, *(f"{instructions.executed[name][event]:.1f}" for name in ran)] for event in EVENTS]
        tables.append(("Instructions that one call executes", ["", *ran], executed))
    return tables


def _compile_table(times: CompileTimes) -> _Table:
    """A row for each kind and contender, a column for each size."""
    sizes = sorted({case.n for case in times.cases})
    rows = []
    for row in times.rows():
        growth = CompileTimes.growth(row)
        cells = {case.n: _compile_cell(case, growth.get(case.n)) for case in row}
        kind, contender = row[0].kind.name, row[0].contender
        is_ours = contender != programs.WASMTIME_NEWEST
        ratio = times.ratio(kind, contender) if is_ours else None
        to_drc = times.ratio(kind, contender, programs.NATIVE) if contender == programs.RC_IMMIX else None
        code, drc_code = (times.code(kind, name) for name in (contender, programs.NATIVE))
        size = "" if code is None else f"{code / 1024:.1f}"
        if code is not None and drc_code is not None and contender == programs.RC_IMMIX:
            size += f" ({_ratio(code / drc_code)})"
        places = (cells.get(n, "") for n in sizes)
        rows.append([f"{kind}: {contender}", *places, _factor(ratio), _factor(to_drc), size])
    at = f"{times.compared_at:,}"
    header = ["", *(f"{n:,}" for n in sizes), f"to wasmtime's, {at}", f"to drc's, {at}", f"code in KiB, {at}"]
    return "CPU seconds to compile, and to the time of half the size", header, rows


def _compile_cell(case: Case, growth: Factor | None) -> str:
    if case.failed is not None:
        return "failed"
    seconds = f"> {case.exceeded:g} s" if case.median is None else in_unit(case.median)
    return seconds if growth is None else f"{seconds} ({_factor(growth)})"


def _factor(factor: Factor | None) -> str:
    return "" if factor is None else "> " * factor.is_least + _ratio(factor.value)


def _from_python_table(uses: FromPython) -> _Table:
    """A row for each thing that people do: lowheap's time, its goal, and wasmtime's time."""
    ours, theirs = CONTENDERS
    rows = [
        [
            row.title,
            _from_python_cell(uses, row, ours),
            in_unit(FROM_PYTHON[row.name]),
            _from_python_cell(uses, row, theirs),
            _ratio(uses.ratio(row.name)),
        ]
        for row in ROWS
    ]
    return "CPU time from Python", ["", ours, "goal", theirs, "to lowheap"], rows


def _from_python_cell(uses: FromPython, row: Row, contender: str) -> str:
    taken = uses.find(row.name, contender)
    if taken is None:
        return "–"
    return "failed" if taken.median is None else in_unit(taken.median)


def _start_up_table(starts: StartUp) -> _Table:
    """A row for each program and contender: its time, and that as a multiple of V8's and of wasmtime's."""
    rows = []
    for each in starts.started:
        ratios = [starts.ratio(each.title, each.contender, other) for other in (start_up.V8, start_up.WASMTIME)]
        time = "failed" if each.median is None else in_unit(each.median)
        rows.append([f"{each.title}: {each.contender}", time, *(_ratio(ratio) for ratio in ratios)])
    return "From the start to the end of a program in Kotlin", ["", "median", "to V8", "to wasmtime's compiling"], rows


def _pauses_table(taken: Pauses) -> _Table:
    """A column for each contender: how many pauses there were, how long, and how many within each bound."""
    shown = [each for each in taken.taken if each.absent is None]
    whole = [each for each in shown if each.failed is None]

    def row(name: str, cell: Callable[[Taken], str]) -> list[str]:
        return [name, *("failed" if each.failed is not None else cell(each) for each in shown)]

    def quantile(part: float) -> Callable[[Taken], str]:
        return lambda each: in_unit(each.quantile(part) * 1e-9)

    def within(number: int) -> Callable[[Taken], str]:
        return lambda each: f"{counts[id(each)][number]:,}"

    rows = [
        row("a repetition", lambda each: "" if each.median is None else in_unit(each.median)),
        row("pauses", lambda each: f"{each.count:,}"),
        *(
            row(name, quantile(part))
            for name, part in (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0))
        ),
    ]
    names = [*(f"at most {in_unit(bound * 1e-9)}" for bound in BOUNDS), f"more than {in_unit(BOUNDS[-1] * 1e-9)}"]
    counts = {id(each): each.within() for each in whole}
    for number, name in enumerate(names):
        if any(counts[id(each)][number] for each in whole):
            rows.append(row(name, within(number)))
    return f"Pauses of {taken.program.title}", ["", *(each.title for each in shown)], rows


# ----------------------------------------------------------------------------------------------------------------------
# The chart


def draw(report: Report, path: Path) -> None:
    """Draw each program's medians as multiples of lowheap's, on a logarithmic scale. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [m for m in report.programs if not m.program.is_micro and m.median(programs.NATIVE) is not None]
    names = [name for name in report.contenders if any(m.ratio(name) is not None for m in shown)]
    height = max(2.0, 1.2 + _CHART_HEIGHT * sum(len(m.outcomes) + 1.5 for m in shown))
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    palette = pyplot.get_cmap("tab20")
    colours = {name: palette(number) for number, name in enumerate(names)}
    place = 0.0
    ticks, labels = [], []
    labelled: set[str] = set()
    for measured in shown:
        start = place
        for name in names:
            ratio = measured.ratio(name)
            if ratio is None:
                continue
            outcome = measured.outcomes[name]
            ours = measured.outcomes[programs.NATIVE].median
            first, third = outcome.quartiles
            axes.barh(
                place,
                ratio,
                color=colours[name],
                xerr=[[(outcome.median - first) / ours], [(third - outcome.median) / ours]],
                error_kw={"linewidth": 0.7},
                label=None if name in labelled else name,
            )
            labelled.add(name)
            axes.text(ratio * 1.05, place, f"{ratio:.2g}", va="center", fontsize=6)
            place += 1
        ticks.append((start + place - 1) / 2)
        labels.append(f"{measured.program.title}\n{in_unit(measured.outcomes[programs.NATIVE].median)}")
        place += 1.5
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.set_ylim(place, -_LEGEND_ROOM)
    axes.set_xlabel("time, as a multiple of lowheap's (which is below each name); bars show the quartiles")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=5)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# ----------------------------------------------------------------------------------------------------------------------
# The document


def write_document(report: Report, path: Path) -> None:
    """Write docs/performance.md, and the chart beside it. The notes in the file that is there, if it is, are kept."""
    notes = "\n"
    if path.is_file():
        text = path.read_text("utf-8")
        if NOTES_START in text and NOTES_END in text:
            notes = text.partition(NOTES_START)[2].partition(NOTES_END)[0]
    chart = path.with_suffix(".png")
    draw(report, chart)
    path.write_text(document(report, notes, chart.name), "utf-8")


def document(report: Report, notes: str, chart: str) -> str:
    """Return the document's text."""
    beside = {programs.PYTHON, programs.FROM_C}
    mains = [m for m in report.programs if not m.program.is_micro and beside.isdisjoint(m.program.contenders)]
    from_c = [m for m in report.programs if programs.FROM_C in m.program.contenders]
    pythons = [m for m in report.programs if programs.PYTHON in m.program.contenders]
    micros = [m for m in report.programs if m.program.is_micro]
    facts = report.machine
    parts = [
        "# Performance",
        "",
        "Written by `make bench`; do not edit, but for the notes. All figures are of one run on one machine, and are "
        "comparable only within it.",
        "",
        f"{facts['processor']}, {facts['cores']} cores, {facts['kernel']}, Python {facts['python']}; {facts['date']}, "
        f"load {facts['load']} at the start. {_scale_sentence(report)}",
        "",
        "Every contender of a program is a process of its own; they take turns, one repetition each, and the first "
        "does not count. A cell is the median, and in brackets its ratio to lowheap's, which is that of its collector "
        "drc where no other is named. Each repetition goes on with the same heap, and pays for the garbage of the one "
        "before. Two exceptions: wasmtime 43.0.0 collects nothing "
        "before its heap has 4 GiB, so its garbage is collected between repetitions, off the clock; and "
        "`lowheap null`, which frees nothing, gets a new store. Results were compared: "
        + ("they are the same for all." if not any(m.disagreements for m in report.programs) else "THEY DIFFER."),
        "",
        f"![Times as multiples of lowheap's]({chart})",
        "",
        "## Contenders",
        "",
        *(f"- {name}: {description}" for name, description in report.contenders.items()),
        *(f"- {name}: skipped: {reason}" for name, reason in report.skipped.items()),
        "",
    ]
    if found := verdicts(report):
        parts += ["## Goals", ""]
        parts += _markdown(
            ["goal", "measured", ""], [[v.goal, v.measured, "met" if v.is_met else "**not met**"] for v in found]
        )
    parts += ["## Notes", "", NOTES_START + notes + NOTES_END, ""]
    if mains:
        parts += ["## Programs", "", *_matrix(mains, _time_cell)]
        parts += [
            "A tracing collector takes no part in `deep_drop` and `sweep`: it has no such event.",
            "",
            "## Spread",
            "",
            "The interquartile range, in percent of the median.",
            "",
            *_matrix(mains, lambda m, o, n: f"{100 * o.spread:.0f}"),
            "## Memory",
            "",
            "By how much the process's resident memory grew from before the first repetition to its peak, in MiB; in "
            "brackets the most that the heap itself had, where it is known. First, where it is known, how much is live "
            "at most, in lowheap's blocks.",
            "",
            *_matrix(
                mains,
                lambda m, o, n: _memory_cell(o),
                ("live", lambda m: "" if m.live is None else f"{m.live / MEBIBYTE:.1f}"),
            ),
        ]
    if from_c:
        parts += [
            "## Embedding",
            "",
            "The same programs in C, once for each manager of memory ([embed.c](../benchmarks/embed.c)): lowheap's C "
            "library, Boehm's collector, and malloc with reference counts by hand, as sparing as C allows.",
            "",
            *_matrix(from_c, _time_cell),
        ]
    if pythons:
        parts += ["## The heap in Python", "", *_matrix(pythons, _time_cell)]
    if micros:
        parts += [
            "## Events",
            "",
            "Nanoseconds for one round of a loop around one event ([events.wat](../benchmarks/programs/events.wat)); "
            "`numbers` is a loop with no references in it, to compare `read` and `write` with. `first_read` is the "
            "read barrier's slow path. `allocate` and `init` include the sweep and the drop of what they make.",
            "",
            *_matrix(micros, lambda m, o, n: f"{m.nanoseconds(n):.2f}"),
        ]
    if report.instructions is not None:
        parts += ["## Instructions", ""]
        for title, header, rows in _instruction_tables(report.instructions):
            parts += [f"{title}:", "", *_markdown(header, rows)]
        parts += [*(f"Not counted: {note}" for note in report.instructions.notes)]
    if report.compile_times is not None:
        parts += _compile_part(report.compile_times)
    if report.from_python is not None:
        parts += _from_python_part(report.from_python)
    if report.start_up is not None and report.start_up.started:
        parts += _start_up_part(report.start_up)
    if report.pauses is not None and report.pauses.taken:
        parts += _pauses_part(report.pauses)
    for failure in report.failures:
        parts += [f"Failed: {failure}", ""]
    return "\n".join(parts).rstrip() + "\n"


def _compile_part(times: CompileTimes) -> list[str]:
    kinds = list(dict.fromkeys(case.kind for case in times.cases))
    _, header, rows = _compile_table(times)
    return [
        "## Compile time",
        "",
        "CPU seconds, of all threads, to compile a generated module of size `n` "
        "([generated.py](../benchmarks/generated.py)). Each is compiled in a process of its own, with lowheap's "
        "runtime compiled before, from a binary, with no cache. In brackets the multiple of the time of half the size; "
        f"then lowheap's time as a multiple of wasmtime's at {times.compared_at:,}, and rc-immix's as a multiple of "
        "drc's; last, how much machine code that is, compiled whole, and in brackets the multiple of drc's. What took "
        "longer than a limit is shown with that limit.",
        "",
        *(f"- {kind.name}: {kind.description}" for kind in kinds),
        "",
        *_markdown(header, rows),
    ]


def _start_up_part(starts: StartUp) -> list[str]:
    _, header, rows = _start_up_table(starts)
    return [
        "## Starting",
        "",
        "Seconds from the start of a process to its end, of a program in Kotlin that prints something "
        "([start_up.py](../benchmarks/start_up.py)): `lowheap run`, with nothing in its cache and with all of it, and "
        "node. Of wasmtime only the time to compile the module.",
        "",
        *_markdown(header, rows),
    ]


def _pauses_part(taken: Pauses) -> list[str]:
    _, header, rows = _pauses_table(taken)
    return [
        "## Pauses",
        "",
        f"How long the program {taken.program.title} ([churn.wat](../benchmarks/programs/churn.wat)) was stopped by "
        "its collector: how many pauses there were in all repetitions; how long half of them, 99 % of them and all of "
        "them took at most; and how many took no longer than each bound, and longer than the one before. lowheap's are "
        "by the collector's own clock, and each step of a collection that has a budget is one; V8's are what node "
        "tells of, in the program's own thread.",
        "",
        *_markdown(header, rows),
    ]


def _from_python_part(uses: FromPython) -> list[str]:
    _, header, rows = _from_python_table(uses)
    return [
        "## From Python",
        "",
        "CPU time of one such step, the median ([from_python.py](../benchmarks/from_python.py)); of the last three, of "
        "a process from its start to its end. In the last column wasmtime's time as a multiple of lowheap's. "
        "wasmtime's package hardly gives GC objects to Python, so its fields and elements are those of one object that "
        "the module holds, and an exported function reads or writes them; in lowheap any object's are. An externref "
        "comes back as the value there, and as a handle in lowheap. – is what the package does not have.",
        "",
        *_markdown(header, rows),
    ]


def _scale_sentence(report: Report) -> str:
    counted = f"{report.rounds} repetitions count."
    return (
        counted if report.scale == "full" else f"{counted} **Small sizes (`--{report.scale}`): not the real figures.**"
    )


def _time_cell(measured: Measured, outcome: Outcome, name: str) -> str:
    ratio = measured.ratio(name)
    of_us = "" if ratio is None or name == programs.NATIVE else f" ({_ratio(ratio)})"
    return in_unit(outcome.median) + of_us


def _memory_cell(outcome: Outcome) -> str:
    grown = "" if outcome.grown is None else f"{outcome.grown / MEBIBYTE:.1f}"
    return grown if outcome.heap is None else f"{grown} ({outcome.heap / MEBIBYTE:.1f})".strip()


def _matrix(
    rows: Sequence[Measured],
    cell: Callable[[Measured, Outcome, str], str],
    first: tuple[str, Callable[[Measured], str]] | None = None,
) -> list[str]:
    """A row for each program, a cell for each contender; `first` is a column before those, with its name."""
    names = list(dict.fromkeys(name for measured in rows for name in measured.outcomes))
    lines = []
    for measured in rows:
        line = [measured.program.title, *([] if first is None else [first[1](measured)])]
        for name in names:
            outcome = measured.outcomes.get(name)
            if outcome is None:
                line.append("")
            else:
                line.append("failed" if outcome.failed is not None else cell(measured, outcome, name))
        lines.append(line)
    return _markdown(["", *([] if first is None else [first[0]]), *names], lines)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
