"""What lowheap's figures should be, and whether they are. Each goal is about the medians of one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import pauses, programs, start_up
from benchmarks.compile_time import CompileTimes, Factor
from benchmarks.measure import Measured, Report

MEBIBYTE = 1 << 20
_SIZES_MATTER = "full"

# The programs that are about the heap, and how many times V8's time rc-immix should take at most, where less than once.
_NOT_ABOUT_THE_HEAP = ("host_call", "scalar_call", "strings.builds", "strings.walks", "strings.compares")
_V8_FACTORS: dict[tuple[str, tuple[int, ...]], float] = {
    ("binary_trees", (16, 20)): 0.5,
    ("binary_trees", (20, 2)): 0.5,
    ("quads", (11, 8230)): 0.6,
}
# How many times as fast as the newest wasmtime rc-immix should be at least.
_RC_IMMIX_WASMTIME_FACTOR = 8.0
_FAR_FROM_WASMTIME = ("binary_trees", "lists")
# How many times as fast as the other managers of memory a C program with rc-immix should be at least.
_EMBEDDING_FACTORS = {"binary_trees": 1.5}
_PEAK_FACTOR, _PEAK_ALLOWANCE = 2.5, 32 * MEBIBYTE
_P99_PAUSE, _LONGEST_PAUSE = 2 * pauses.MILLISECOND, 5 * pauses.MILLISECOND
# Program, arguments, contender, and how many times lowheap's time (that is drc's) its time should be at least.
_FASTER_THAN = (
    ("binary_trees", (10, 2000), programs.WASMTIME_43, 5.0),
    ("binary_trees", (10, 2000), programs.WASMTIME_45, 5.0),
    ("binary_trees", (16, 20), programs.WASMTIME_43, 5.0),
    ("binary_trees", (16, 20), programs.WASMTIME_45, 5.0),
    ("binary_trees", (20, 2), programs.WASMTIME_43, 2.0),
    ("binary_trees", (20, 2), programs.WASMTIME_45, 4.0),
    ("lists", (1000, 3000), programs.WASMTIME_43, 5.0),
    ("lists", (1000, 3000), programs.WASMTIME_45, 5.0),
    ("lists", (1_000_000, 3), programs.WASMTIME_43, 3.0),
    ("lists", (1_000_000, 3), programs.WASMTIME_45, 4.0),
    ("swaps", (1_000_000, 3_000_000), programs.WASMTIME_43, 1.0),
)
_NEAR_YARDSTICK = (
    ("binary_trees", (10, 2000)),
    ("binary_trees", (16, 20)),
    ("binary_trees", (20, 2)),
    ("lists", (1000, 3000)),
    ("lists", (1_000_000, 3)),
)
_YARDSTICK_FACTOR = 1.3
_MIXED = ("shuffle", "hash_table", "tree_of_arrays")
_SWEEP_FACTOR = 2.0
_TOOLCHAIN_WASMTIME_FACTOR = 5.0
_WITHOUT_GARBAGE = ("kotlin-hello-optimised", "moonbit-hello", "moonbit-life")
_LANGUAGE_FACTOR = 1.2
_STARTED_WITHIN = (
    ("kotlin-hello", start_up.COLD, 1.5),
    ("kotlin-hello", start_up.CACHED, 0.25),
    ("kotlin-adventure", start_up.COLD, 4.0),
)
"""Program, contender, and the seconds from its start to its end that it should take at most."""
_CAUGHT_NANOSECONDS = 1000.0
_ENTERED_FACTOR = 1.03
_SCALAR_CALL_NANOSECONDS = 1000.0
_DOUBLING_FACTOR = 2.3
_COMPILING_FACTOR = 20.0
# Kind of generated module, size, and the CPU seconds that compiling it should take at most.
_COMPILED_WITHIN = (("chain", 1000, 1.6), ("live", 250, 0.5), ("live", 1000, 6.0))

FROM_PYTHON = {
    "read_number": 0.35e-6,
    "write_number": 0.35e-6,
    "read_reference": 1.5e-6,
    "write_reference": 1.5e-6,
    "make_struct": 3e-6,
    "call_for_struct": 3e-6,
    "call": 0.6e-6,
    "extern": 4e-6,
    "host_call": 1.5e-6,
    "read_element": 0.35e-6,
    "write_element": 0.35e-6,
    "floats_in": 5e-3,
    "floats_out": 5e-3,
    "floats_view": 5e-3,
    "import": 0.06,
    "help": 0.08,
    "cached_run": 0.15,
}
"""By the row's name in `from_python.py`, the CPU seconds that it should take at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, what was measured, and whether that meets it."""

    goal: str
    measured: str
    is_met: bool


def verdicts(report: Report) -> list[Verdict]:
    """Judge a report. A goal whose contender was not there is left out; so are all that depend on the full sizes."""
    if report.scale != _SIZES_MATTER:
        return []
    return [
        *_about_v8(report),
        *_about_wasmtime(report),
        *_about_language(report),
        *_about_toolchains(report),
        *_about_yardstick(report),
        *_about_mixed(report),
        *_about_calls(report),
        *_about_embedding(report),
        *_about_memory(report),
        *_about_compile_times(report),
        *_about_from_python(report),
        *_about_start_up(report),
        *_about_pauses(report),
    ]


def _about_v8(report: Report) -> Iterator[Verdict]:
    """rc-immix: each program about the heap, and those of other languages together."""
    ours, theirs = [], []
    for measured in report.programs:
        program = measured.program
        if program.example is None:
            if program.name not in _NOT_ABOUT_THE_HEAP:
                factor = _V8_FACTORS.get((program.name, program.arguments), 1.0)
                yield from _within(measured, programs.V8, factor, programs.RC_IMMIX)
            continue
        times = measured.median(programs.RC_IMMIX), measured.median(programs.V8)
        if times[0] is not None and times[1] is not None:
            ours.append(times[0])
            theirs.append(times[1])
    if ours:
        goal = (
            f"{programs.RC_IMMIX}: {len(ours)} programs of Kotlin and MoonBit: at most the time of {programs.V8} in all"
        )
        yield Verdict(goal, f"{sum(ours) / sum(theirs):.2f} times", sum(ours) <= sum(theirs))


def _about_wasmtime(report: Report) -> Iterator[Verdict]:
    for each in report.programs:
        ratio = each.ratio(programs.WASMTIME_NEWEST, programs.RC_IMMIX)
        if ratio is not None and each.program.name in _FAR_FROM_WASMTIME:
            goal = f"{programs.RC_IMMIX}: {each.program.title}: {_RC_IMMIX_WASMTIME_FACTOR:g} times as fast as "
            found = f"{ratio:.1f} times"
            yield Verdict(goal + programs.WASMTIME_NEWEST, found, ratio >= _RC_IMMIX_WASMTIME_FACTOR)
    for name, arguments, contender, wanted in _FASTER_THAN:
        measured = report.find(name, arguments)
        ratio = None if measured is None else measured.ratio(contender)
        if measured is not None and ratio is not None:
            goal = f"{measured.program.title}: {wanted:g} times as fast as {contender}"
            yield Verdict(goal, f"{ratio:.1f} times", ratio >= wanted)


def _about_language(report: Report) -> Iterator[Verdict]:
    """What is not about the heap is to be about as fast as on wasmtime; what no program sees, to cost nothing."""
    for measured in report.programs:
        if measured.program.contenders == programs.COMPILERS:
            yield from _within(measured, programs.WASMTIME_NEWEST, _LANGUAGE_FACTOR)
    far = report.find("exceptions.caught_far")
    nanoseconds = None if far is None else far.nanoseconds(programs.NATIVE)
    if far is not None and nanoseconds is not None:
        goal = f"{far.program.title}: at most {_CAUGHT_NANOSECONDS:g} ns from a throw to a handler ten frames up"
        yield Verdict(goal, f"{nanoseconds:.0f} ns", nanoseconds <= _CAUGHT_NANOSECONDS)
    entered, without = (report.find(f"exceptions.{each}") for each in ("entered", "not_entered"))
    times = [None if each is None else each.median(programs.NATIVE) for each in (entered, without)]
    if times[0] is not None and times[1] is not None:
        ratio = times[0] / times[1]
        goal = f"a call in a try_table: at most {_ENTERED_FACTOR:g} times the time of one outside"
        yield Verdict(goal, f"{ratio:.2f} times", ratio <= _ENTERED_FACTOR)


def _about_toolchains(report: Report) -> Iterator[Verdict]:
    """Programs in other languages: several times as fast as on wasmtime where GC costs."""
    for measured in report.programs:
        if measured.program.example is None:
            continue
        ratio = measured.ratio(programs.WASMTIME_NEWEST)
        if ratio is not None and measured.program.name not in _WITHOUT_GARBAGE:
            goal = f"{measured.program.title}: {_TOOLCHAIN_WASMTIME_FACTOR:g} times as fast as wasmtime newest"
            yield Verdict(goal, f"{ratio:.2f} times", ratio >= _TOOLCHAIN_WASMTIME_FACTOR)


def _about_yardstick(report: Report) -> Iterator[Verdict]:
    for name, arguments in _NEAR_YARDSTICK:
        yield from _within(report.find(name, arguments), programs.YARDSTICK, _YARDSTICK_FACTOR)
    yield from _within(report.find("sweep"), programs.YARDSTICK, _SWEEP_FACTOR)


def _about_mixed(report: Report) -> Iterator[Verdict]:
    for name in _MIXED:
        measured = report.find(name)
        if measured is None:
            continue
        ratios = [ratio for each in programs.WASMTIMES if (ratio := measured.ratio(each)) is not None]
        if ratios:
            goal = f"{measured.program.title}: faster than every wasmtime"
            yield Verdict(goal, f"at least {min(ratios):.2f} times as fast", min(ratios) > 1)


def _about_calls(report: Report) -> Iterator[Verdict]:
    measured = report.find("scalar_call")
    nanoseconds = None if measured is None else measured.nanoseconds(programs.NATIVE)
    if measured is not None and nanoseconds is not None:
        goal = f"{measured.program.title}: at most {_SCALAR_CALL_NANOSECONDS:g} ns for a call from Python"
        yield Verdict(goal, f"{nanoseconds:.0f} ns", nanoseconds <= _SCALAR_CALL_NANOSECONDS)


def _about_embedding(report: Report) -> Iterator[Verdict]:
    """A C program is to be faster with rc-immix than with the other managers of memory."""
    for measured in report.programs:
        factor = _EMBEDDING_FACTORS.get(measured.program.name, 1.0)
        for other in (programs.BOEHM, programs.COUNTED):
            ratio = measured.ratio(other, programs.RC_IMMIX_FROM_C)
            if ratio is not None:
                wanted = "faster than" if factor == 1 else f"{factor:g} times as fast as"
                goal = f"{measured.program.title}: {programs.RC_IMMIX_FROM_C} {wanted} {other}"
                yield Verdict(goal, f"{ratio:.2f} times as fast", ratio > 1 if factor == 1 else ratio >= factor)


def _within(measured: Measured | None, contender: str, factor: float, ours: str = programs.NATIVE) -> Iterator[Verdict]:
    ratio = None if measured is None else measured.ratio(contender, ours)
    if measured is not None and ratio is not None:
        title = measured.program.title if ours == programs.NATIVE else f"{ours}: {measured.program.title}"
        goal = f"{title}: at most {factor:g} times the time of {contender}"
        yield Verdict(goal, f"{1 / ratio:.2f} times", 1 / ratio <= factor)


def _about_memory(report: Report) -> Iterator[Verdict]:
    trees = report.find("binary_trees", (10, 2000))
    outcome = None if trees is None else trees.outcomes.get(programs.NATIVE)
    if trees is not None and outcome is not None and outcome.heap is not None:
        goal = f"{trees.program.title}: a heap of at most 16 MiB"
        yield Verdict(goal, f"{outcome.heap / MEBIBYTE:.1f} MiB", outcome.heap <= 16 * MEBIBYTE)
    seen: set[str] = set()  # a program may be measured more than once, beside others each time
    for measured in report.programs:
        outcome = measured.outcomes.get(programs.NATIVE)
        if outcome is None or outcome.heap is None or outcome.live is None or measured.program.is_micro:
            continue
        if measured.program.title in seen:
            continue
        seen.add(measured.program.title)
        most = 3 * outcome.live + 16 * MEBIBYTE
        goal = f"{measured.program.title}: a heap of at most 3 times the largest live size plus 16 MiB"
        found = f"{outcome.heap / MEBIBYTE:.1f} MiB, of {most / MEBIBYTE:.1f}"
        yield Verdict(goal, found, outcome.heap <= most)
    yield from _about_peaks(report)


def _about_peaks(report: Report) -> Iterator[Verdict]:
    """rc-immix's peak. Of a program in another language drc tells how much at most was not free at a time."""
    for measured in report.programs:
        ours, drc = (measured.outcomes.get(name) for name in (programs.RC_IMMIX, programs.NATIVE))
        live, what = measured.live, "the largest live size"
        if measured.program.example is not None and drc is not None:
            live, what = drc.peak_live, "the most that was not freed under drc"
        if ours is None or ours.heap is None or live is None or measured.program.is_micro:
            continue
        if programs.FROM_C in measured.program.contenders:
            continue  # which is there for C; it is the same program once more
        most = _PEAK_FACTOR * live + _PEAK_ALLOWANCE
        goal = f"{programs.RC_IMMIX}: {measured.program.title}: a heap of at most {_PEAK_FACTOR:g} times {what} plus "
        goal += f"{_PEAK_ALLOWANCE // MEBIBYTE} MiB"
        yield Verdict(goal, f"{ours.heap / MEBIBYTE:.1f} MiB, of {most / MEBIBYTE:.1f}", ours.heap <= most)


def _about_compile_times(report: Report) -> Iterator[Verdict]:
    """What compiling costs. What took more than the limit meets no goal."""
    times = report.compile_times
    if times is None:
        return
    for row in times.rows():
        kind = row[0].kind
        if row[0].contender != programs.NATIVE:
            continue
        growth = CompileTimes.growth(row)
        if growth and not kind.is_live:
            n = max(growth, key=lambda n: (growth[n].is_least, growth[n].value))
            goal = f"compile {kind.name}: twice the size in at most {_DOUBLING_FACTOR:g} times the time"
            yield _at_most(goal, growth[n], _DOUBLING_FACTOR, f" from {n // 2:,} to {n:,}")
        ratio = times.ratio(kind.name)
        if ratio is not None:
            goal = f"compile {kind.name} ({times.compared_at:,}): at most {_COMPILING_FACTOR:g} times the time of "
            yield _at_most(goal + programs.WASMTIME_NEWEST, ratio, _COMPILING_FACTOR)
    for name, n, wanted in _COMPILED_WITHIN:
        case = times.find(name, programs.NATIVE, n)
        if case is None:
            continue
        goal = f"{case.title}: at most {wanted:g} s"
        if case.exceeded is not None:
            yield Verdict(goal, f"more than {case.exceeded:g} s", False)
        elif case.median is not None:
            yield Verdict(goal, f"{case.median:.2f} s", case.median <= wanted)
    yield from _about_both_collectors(times)


def _about_both_collectors(times: CompileTimes) -> Iterator[Verdict]:
    """Compiling for rc-immix takes no longer than for drc, of all kinds together, nor is the code larger."""
    pairs = times.pairs(programs.RC_IMMIX, programs.NATIVE)
    if not pairs:
        return
    goal = f"compile {len(pairs)} kinds ({times.compared_at:,}) for {programs.RC_IMMIX}: "
    ours, drc = (sum(pair[number].median or 0 for pair in pairs) for number in (0, 1))
    yield Verdict(f"{goal}at most the time for {programs.NATIVE} in all", f"{ours / drc:.2f} times", ours <= drc)
    sizes = [(one.code, other.code) for one, other in pairs if one.code is not None and other.code is not None]
    if sizes:
        code, drc_code = (sum(pair[number] for pair in sizes) for number in (0, 1))
        found = f"{code / drc_code:.2f} times"
        yield Verdict(f"{goal}at most as much code as for {programs.NATIVE} in all", found, code <= drc_code)


def _about_from_python(report: Report) -> Iterator[Verdict]:
    for taken in [] if report.from_python is None else report.from_python.taken:
        if taken.contender == programs.NATIVE and taken.median is not None:
            wanted = FROM_PYTHON[taken.row.name]
            goal = f"from Python: {taken.row.title}: at most {in_unit(wanted)}"
            yield Verdict(goal, in_unit(taken.median), taken.median <= wanted)


def _about_start_up(report: Report) -> Iterator[Verdict]:
    for title, contender, wanted in _STARTED_WITHIN:
        seconds = None if report.start_up is None else report.start_up.median(title, contender)
        if seconds is not None:
            goal = f"start {title}: {contender}: at most {in_unit(wanted)}"
            yield Verdict(goal, in_unit(seconds), seconds <= wanted)


def _about_pauses(report: Report) -> Iterator[Verdict]:
    found = None if report.pauses is None else report.pauses.find(programs.RC_IMMIX, pauses.BUDGET)
    if report.pauses is not None and found is not None:
        title = f"pauses: {report.pauses.program.title}: {found.title}"
        for what, length, wanted in (
            ("99 % of them", found.quantile(0.99), _P99_PAUSE),
            ("all of them", found.longest, _LONGEST_PAUSE),
        ):
            goal = f"{title}: {what} at most {wanted / pauses.MILLISECOND:g} ms"
            yield Verdict(goal, in_unit(length * 1e-9), length <= wanted)


def in_unit(seconds: float) -> str:
    """A time with two or three digits, in µs, ms or s."""
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")):
        if seconds < limit:
            value = seconds * scale
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
    raise ValueError(f"{seconds} is no time")


def _at_most(goal: str, factor: Factor, wanted: float, where: str = "") -> Verdict:
    measured = f"{'more than ' * factor.is_least}{factor.value:.{0 if factor.value >= 100 else 2}f} times{where}"
    return Verdict(goal, measured, not factor.is_least and factor.value <= wanted)
