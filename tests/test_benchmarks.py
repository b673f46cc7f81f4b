"""The benchmarks at tiny sizes: not how fast anything is, but that all agree and nothing is missing from the report."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from support.combinations import examples

import lowheap as lh
from benchmarks import (
    compile_time,
    contenders,
    from_python,
    generated,
    goals,
    instructions,
    measure,
    pauses,
    programs,
    report,
    run,
    start_up,
)
from benchmarks.compile_time import Case, CompileTimes
from benchmarks.contenders import Field
from benchmarks.from_python import FromPython, Taken
from benchmarks.generated import Kind
from benchmarks.instructions import CountError
from benchmarks.measure import Measured, Outcome, Report
from benchmarks.pauses import MILLISECOND, Pauses
from benchmarks.start_up import Started, StartUp
from benchmarks.workers import run_lowheap, take_pauses
from lowheap.collectors import registry
from lowheap.collectors.null.collector import Null
from lowheap.embed import header
from lowheap.layout import HEADER_SIZE, block_length
from lowheap.wasm import validate
from toolchains import build, node
from toolchains import examples as examples_of_toolchains
from toolchains.errors import ToolchainError

CYCLIC = ("rings", "trees_with_parents")
ALL = (*programs.FAST, programs.PYTHON, programs.POINTER, *programs.MEMORY_MANAGERS)


@pytest.mark.parametrize(("swaps", "passes"), [(0, 0), (40_000, 2)])
def test_what_dies_in_disorder_is_put_in_order(swaps: int, passes: int) -> None:
    """By one pass over the heap, whenever so many boxes have died; nothing is done about those that are in order."""
    source = next(each.source for each in programs.suite("tiny") if each.name == "swaps").read_text("utf-8")
    with lh.Store(lh.Engine()) as store:
        run = lh.Instance(store, lh.Module(store.engine, source)).exports["run"]
        for _ in range(2):
            run(40_000, swaps)
            store.collect()
        store.verify()
        assert (store.stats().live_objects, store.stats().coalescings) == (0, passes)


def by_some(suite: list[programs.Program]) -> list[programs.Program]:
    """Each program with lowheap and the one of its other contenders that has had the fewest; with all in a full run."""
    used = dict.fromkeys(ALL, 0)
    chosen = []
    for program in suite:
        others = sorted((name for name in program.contenders if name != programs.NATIVE), key=used.__getitem__)
        for name in others[:1]:
            used[name] += 1
        kept = {programs.NATIVE, *others[: examples(1, len(ALL))]}
        contenders = tuple(name for name in program.contenders if name in kept)
        chosen.append(replace(program, contenders=contenders))
    assert all(used[name] for name in ALL if name != programs.NATIVE)
    return chosen


@pytest.mark.long
def test_all_programs_at_tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = by_some(programs.suite("tiny"))
    monkeypatch.setattr(programs, "suite", lambda scale: suite)
    tiny = run.run("tiny", rounds=2, parts=(run.PROGRAMS,))
    every_contender_agrees_and_none_is_missing(tiny)
    lowheap_and_the_wheels_that_make_test_installs_take_part(tiny)
    results_are_those_of_arithmetic(tiny)
    values_that_were_replaced_are_the_last(tiny)
    a_deep_drop_frees_everything(tiny)
    the_largest_live_size_is_known(tiny)


@pytest.mark.long
def test_a_whole_run_at_tiny_sizes_of_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, for the run takes its time, and tests that share it may be spread over processes."""
    kinds = generated.KINDS[:: examples(3, 1)]
    monkeypatch.setattr(compile_time, "measure", partial(compile_time.measure, kinds=kinds))
    if examples(1, 0):  # callgrind takes seconds for each
        for module in (instructions, report):
            monkeypatch.setattr(module, "EVENTS", ("read", "write", "init"))
    without_c = tuple(name for name in ALL if name not in programs.MEMORY_MANAGERS)  # a library takes time to build
    tiny = run.run("tiny", rounds=2, names=without_c, only=("scalar_call",))
    instructions_are_counted(tiny)
    every_kind_is_compiled_at_every_size(tiny, kinds)
    everything_is_done_from_python(tiny)
    programs_that_are_compiled_are_started(tiny)
    pauses_are_taken_of_all_who_tell_them(tiny)
    the_report_has_everything(tiny, kinds, tmp_path)


def every_contender_agrees_and_none_is_missing(tiny: Report) -> None:
    assert tiny.failures == []
    suite = programs.suite("tiny")
    absent = [each for each in suite if each.example is not None and not build.binary(each.example).is_file()]
    assert {*tiny.contenders, *tiny.skipped} == {*ALL, *(each.name for each in absent)}
    assert [m.program for m in tiny.programs] == [each for each in suite if each not in absent]
    for measured in tiny.programs:
        expected = [name for name in measured.program.contenders if name in tiny.contenders]
        assert list(measured.outcomes) == expected
        assert programs.NATIVE in expected
        for name, outcome in measured.outcomes.items():
            assert len(outcome.seconds) == 2, (measured.program.title, name)
            assert all(seconds > 0 for seconds in outcome.seconds)
            assert outcome.results, (measured.program.title, name)
            assert outcome.resident is not None
            assert outcome.resident > 0


def lowheap_and_the_wheels_that_make_test_installs_take_part(tiny: Report) -> None:
    wheels = {programs.WASMTIME_43, programs.WASMTIME_45, programs.WASMTIME_NEWEST}
    lowheaps = {programs.NATIVE, programs.OUTLINED, programs.NULL, programs.PYTHON}
    is_there = "rc-immix" in registry.BUILT_IN
    for name in (programs.RC_IMMIX, programs.RC_IMMIX_FROM_C):
        assert is_there or "there is no collector 'rc-immix'; there are drc" in tiny.skipped[name]
    lowheaps |= {programs.RC_IMMIX} if is_there else set()
    assert wheels | lowheaps <= set(tiny.contenders)
    for name in (programs.YARDSTICK, programs.FROM_C, programs.COUNTED):
        assert (name in tiny.contenders) == (contenders.c_compiler() is not None)
    if programs.BOEHM in tiny.skipped:
        assert "apt-get install libgc-dev" in tiny.skipped[programs.BOEHM]
    assert all(tiny.skipped.values())


def results_are_those_of_arithmetic(tiny: Report) -> None:
    def results(name: str) -> list[str] | None:
        measured = tiny.find(name)
        assert measured is not None
        return measured.outcomes[programs.NATIVE].results

    kept, node = (4**3 - 1) // 3, 2**4 - 1
    assert results("quads") == [str(20 * kept)]
    assert results("churn") == [str((1 + 200) * node)]
    assert results("rings") == [str(3 * -sum(range(20)))]
    assert results("trees_with_parents") == [str(3 * (2**5 - 1))]
    assert results("reference_arrays") == [str(2 * 3**3 * (1 + 3))]
    assert results("binary_trees") == [str(3 * (2**5 - 1))]
    assert results("lists") == [str(3 * sum(range(20)))]
    assert results("long_lived_trees") == [str(2**8 - 1 + 2**7 - 1 + 64 * 31 + 16 * 127)]
    assert results("host_call") == ["10"]
    assert results("scalar_call") == ["42"]
    assert results("deep_drop_list") == results("deep_drop_array") == [str(sum(range(300))), "1"]
    assert results("sweep") == results("first_read") == [str(sum(range(300)))]


def values_that_were_replaced_are_the_last(tiny: Report) -> None:
    measured = tiny.find("replaced_values")
    assert measured is not None
    keys, operations = measured.program.arguments
    number, total, values = 99, 0, dict[int, int]()
    for _ in range(operations):
        number = (number * 1103515245 + 12345) % 2**32
        key = (number >> 9) % keys
        values[key] = _signed(number, 31 if number & 256 else 32)
        total += key ^ 1 if key ^ 1 in values else 0
    assert len(values) == keys
    assert measured.outcomes[programs.NATIVE].results == [str(_signed(total + sum(values.values()), 32))]


def _signed(number: int, bits: int) -> int:
    """The lowest bits of a number, with their sign."""
    low = number % 2**bits
    return low - 2**bits if low >> (bits - 1) else low


def a_deep_drop_frees_everything(tiny: Report) -> None:
    for name, per_repetition in (("deep_drop_list", 300), ("deep_drop_array", 301)):
        measured = tiny.find(name)
        assert measured is not None
        # The first repetition does not count, but frees as much.
        assert measured.outcomes[programs.NATIVE].objects_freed == 3 * per_repetition


def the_largest_live_size_is_known(tiny: Report) -> None:
    trees = tiny.find("binary_trees", (4, 3))
    assert trees is not None
    assert trees.live == trees.outcomes[programs.NATIVE].live == (2**5 - 1) * block_length(HEADER_SIZE + 8)
    quads = tiny.find("quads")
    assert quads is not None
    assert quads.live == ((4**3 - 1) // 3 + 85) * block_length(HEADER_SIZE + 16)


def instructions_are_counted(tiny: Report) -> None:
    counted = tiny.instructions
    assert counted is not None
    for name in (programs.NATIVE, programs.OUTLINED, programs.NULL):
        assert set(counted.static[name]) == set(instructions.FUNCTIONS)
        assert all(0 < count.fast <= count.all for count in counted.static[name].values())
    for function in instructions.FUNCTIONS:
        null, drc, outlined = (
            counted.static[name][function].fast for name in (programs.NULL, programs.NATIVE, programs.OUTLINED)
        )
        assert null < drc <= outlined, function
        assert (drc < outlined) == (function == "lh_make"), "in compiled modules alone, events are called"
    if shutil.which("valgrind") and contenders.c_compiler():
        assert set(counted.executed) == {programs.NATIVE, programs.OUTLINED, programs.NULL, programs.YARDSTICK}
        for executed in counted.executed.values():
            assert set(executed) == set(instructions.EVENTS)
        # Without barriers nothing branches, so both instruments must count the same.
        null_set = counted.executed[programs.NULL]
        for event, function in (("read", "lh_read"), ("write", "lh_write"), ("init", "lh_init")):
            assert null_set[event] == counted.static[programs.NULL][function].fast


def every_kind_is_compiled_at_every_size(tiny: Report, kinds: Sequence[Kind]) -> None:
    times = tiny.compile_times
    assert times is not None
    names = [name for name in compile_time.CONTENDERS if name in tiny.contenders]
    assert [(case.kind, case.contender, case.n) for case in times.cases] == [
        (kind, name, n) for kind in kinds for name in names for n in compile_time.sizes(kind, "tiny")
    ]
    for case in times.cases:
        assert len(case.seconds) == 1, case.title
        assert case.peak
        has_code = case.n == times.compared_at and case.contender != programs.WASMTIME_NEWEST
        assert (case.code is not None) == has_code, case.title
        assert case.code is None or 100 < case.code < 100_000
    assert all(times.ratio(kind.name) for kind in kinds)


def programs_that_are_compiled_are_started(tiny: Report) -> None:
    starts = tiny.start_up
    assert starts is not None
    for title in start_up.TITLES:
        for contender, needed in start_up.CONTENDERS.items():
            is_there = needed in tiny.contenders and build.binary(examples_of_toolchains.find(title)).is_file()
            assert (starts.median(title, contender) is not None) == is_there, (title, contender)
            assert starts.ratio(title, contender, contender) == (1 if is_there else None)


def pauses_are_taken_of_all_who_tell_them(tiny: Report) -> None:
    assert tiny.pauses is not None
    assert tiny.pauses.program.title == "churn (3, 40)"
    there = [case for case in pauses.CASES if case[0] in tiny.contenders]
    assert [(each.contender, each.budget) for each in tiny.pauses.taken] == there
    for each in tiny.pauses.taken:
        assert each.failed is None
        if each.absent is not None:  # a collector that does not tell
            assert tiny.skipped[f"pauses of {each.title}"] == each.absent
            continue
        assert each.results == [str((1 + 200) * (2**4 - 1))] * 2
        assert len(each.seconds) == 2
        assert sum(each.within()) == each.count
        assert 0 <= each.quantile(0.5) <= each.quantile(0.99) <= each.longest


def everything_is_done_from_python(tiny: Report) -> None:
    uses = tiny.from_python
    assert uses is not None
    for row in from_python.ROWS:
        ours, theirs = (uses.find(row.name, name) for name in from_python.CONTENDERS)
        assert ours is not None
        assert len(ours.seconds) == 2, row.title
        assert all(seconds > 0 for seconds in ours.seconds), row.title
        assert (theirs is None) == (uses.ratio(row.name) is None), row.title
    in_wasmtime = {each.row.name for each in uses.taken if each.contender == programs.WASMTIME_NEWEST}
    assert {"read_number", "call", "extern", "host_call", "read_element", "import"} <= in_wasmtime


def the_report_has_everything(tiny: Report, kinds: Sequence[Kind], tmp_path: Path) -> None:
    written = json.loads(json.dumps(tiny.as_json()))
    assert [entry["title"] for entry in written["programs"]] == [m.program.title for m in tiny.programs]
    for entry, measured in zip(written["programs"], tiny.programs, strict=True):
        assert entry["outcomes"].keys() == measured.outcomes.keys()
        assert entry["outcomes"][programs.NATIVE]["ratio"] == 1

    path = tmp_path / "performance.md"
    report.write_document(tiny, path)
    text = path.read_text("utf-8")
    assert text.startswith("# Performance\n")
    assert "they are the same for all" in text
    assert "not the real figures" in text
    for measured in tiny.programs:
        assert f"| {measured.program.title} |" in text
    for name in (*tiny.contenders, *tiny.skipped):
        assert f"- {name}: " in text
    for kind in kinds:
        assert f"- {kind.name}: {kind.description}" in text
        for name in compile_time.CONTENDERS:
            assert (f"| {kind.name}: {name} |" in text) == (name in tiny.contenders)
    for row in from_python.ROWS:
        assert f"| {row.title} | " in text
    if tiny.pauses is not None and tiny.pauses.taken:
        assert "## Pauses" in text
        assert "| longest |" in text
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    path.write_text(text.replace(report.NOTES_START, f"{report.NOTES_START}\nA reason.\n"), "utf-8")
    report.write_document(tiny, path)
    assert "\nA reason.\n" in path.read_text("utf-8")


def _measured(program: programs.Program, **medians: float) -> Measured:
    return Measured(program, {name: Outcome(seconds=[median] * 3, results=["1"]) for name, median in medians.items()})


def _report(scale: str, *measured: Measured) -> Report:
    return Report(scale, 3, measure.machine_facts(), {}, {}, list(measured), None)


@pytest.mark.parametrize(
    "program",
    [each for each in programs.suite("tiny") if (each.live or each.generations) and each.name not in CYCLIC],
    ids=lambda each: each.title,
)
def test_the_largest_live_size_is_the_most_that_a_heap_holds_which_is_always_collected(
    program: programs.Program,
) -> None:
    with lh.Store(lh.Engine(), collect_every=1) as store:
        exports = lh.Instance(store, lh.Module(store.engine, program.source.read_text("utf-8"))).exports
        for step in (*program.once, *program.before, *program.timed):
            if step is not None:
                exports[step[0]](*step[1])
        figures = store.stats()
    live = program.live
    if live is None:
        assert program.generations is not None
        live = figures.bytes_allocated // program.generations
    # Of the values that are replaced it is only about half that are objects.
    assert figures.peak_live_bytes == pytest.approx(live, rel=0.05 if program.name == "replaced_values" else 0)


def test_a_program_that_takes_long_is_not_repeated_so_often() -> None:
    longest = programs.long_lived_trees(6, contenders=(programs.NATIVE,), most_rounds=2)
    assert (longest.rounds(11), longest.rounds(1), programs.trees(4, 3).rounds(11)) == (2, 1, 11)
    with Field((programs.NATIVE,)) as field:
        found = measure.measure(field, longest, 5, lambda text: None)
    assert len(found.outcomes[programs.NATIVE].seconds) == 2


def test_a_collector_that_is_not_there_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILT_IN", {"null": Null})
    with Field((programs.RC_IMMIX, programs.RC_IMMIX_FROM_C, programs.NULL)) as field:
        assert list(field.contenders) == [programs.NULL]
        assert field.contenders[programs.NULL].job == {"collector": "null", "runtime": "native"}
        for skipped in field.skipped:
            assert "there is no collector 'rc-immix'; there are null, and any" in skipped.reason


def test_a_result_that_differs_is_a_failure() -> None:
    found = _measured(programs.trees(10, 2000), **{programs.NATIVE: 1.0, programs.V8: 1.0})
    assert found.disagreements == []
    found.outcomes[programs.V8].results = ["2"]
    assert found.disagreements == [programs.V8]
    assert len(_report("full", found).failures) == 1


def test_goals_are_judged_by_the_medians() -> None:
    medians = {programs.NATIVE: 1.0, programs.WASMTIME_43: 6.0, programs.WASMTIME_45: 4.0, programs.YARDSTICK: 0.5}
    found = _measured(programs.trees(10, 2000), **medians)
    found.outcomes[programs.NATIVE].heap = 17 << 20
    found.outcomes[programs.NATIVE].live = 1 << 20
    verdicts = {verdict.goal: verdict.is_met for verdict in goals.verdicts(_report("full", found))}
    title = "binary_trees (10, 2,000)"
    assert verdicts == {
        f"{title}: 5 times as fast as wasmtime 43.0.0": True,
        f"{title}: 5 times as fast as wasmtime 45.0.0": False,
        f"{title}: at most 1.3 times the time of C yardstick": False,
        f"{title}: a heap of at most 16 MiB": False,
        f"{title}: a heap of at most 3 times the largest live size plus 16 MiB": True,
    }
    assert goals.verdicts(_report("quick", found)) == []


ASSEMBLY = """
near:
	pushq %rbp
	jne .L1
	popq %rbp
	retq
.L1:
	callq elsewhere
	ret
	.size near, .-near
through:
	movl $1, %eax
	jmp near
	.size through, .-through
outside:
	call elsewhere
	ret
	.size outside, .-outside
"""


def test_instructions_of_assembly_text() -> None:
    near = instructions.count(ASSEMBLY, "near")
    assert (near.fast, near.all) == (4, 6)
    through = instructions.count(ASSEMBLY, "through")
    assert (through.fast, through.all) == (6, 8)
    with pytest.raises(CountError, match="enters elsewhere"):
        instructions.count(ASSEMBLY, "outside")
    with pytest.raises(CountError, match="no function missing"):
        instructions.count(ASSEMBLY, "missing")


def test_a_node_that_is_too_old_is_skipped_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v20.1.0\n", "utf-8")
    old.chmod(0o755)
    monkeypatch.setenv("LOWHEAP_NODE", str(old))
    with pytest.raises(ToolchainError, match=r"v20\.1\.0, and WasmGC takes 22"):
        node.find()
    with Field((programs.V8,)) as field:
        assert not field.contenders
        assert field.skipped[0].name == programs.V8


def test_a_contender_that_fails_drops_out_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real = contenders.Field._lowheap

    def spoilt(name: str) -> contenders.Contender:
        found = real(name)
        return found if name == programs.NATIVE else contenders.Contender(name, "spoilt", ("sh", "-c", "exit 7"), {})

    monkeypatch.setattr(contenders.Field, "_lowheap", staticmethod(spoilt))
    found = run.run(
        "tiny", rounds=1, names=(programs.NATIVE, programs.OUTLINED), only=("lists",), parts=(run.PROGRAMS,)
    )
    measured = found.find("lists")
    assert measured is not None
    assert measured.ratio(programs.NATIVE) == 1
    assert measured.ratio(programs.OUTLINED) is None
    assert "status 7" in str(measured.outcomes[programs.OUTLINED].failed)
    assert "| failed |" in report.document(found, "\n", "chart.png")


def test_the_command(tmp_path: Path) -> None:
    arguments = ["--tiny", "--program", "host_call", "--contender", programs.NATIVE]
    done = CliRunner().invoke(run.main, [*arguments, "--json", str(tmp_path / "figures.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "figures.json").read_text("utf-8"))["scale"] == "tiny"
    assert "host_call (10)" in done.output
    assert CliRunner().invoke(run.main, ["--tiny", "--program", "nothing"]).exit_code == 2


def test_only_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = instructions.Instructions({}, {}, ())
    monkeypatch.setattr(instructions, "measure", lambda folder: counted)  # which the whole run does in earnest
    found = run.run("tiny", parts=(run.INSTRUCTIONS,))
    assert (found.programs, found.compile_times, found.from_python, found.start_up) == ([], None, None, None)
    assert found.pauses is None
    assert found.instructions is counted
    for wrong in (
        ["--docs", "--only", "programs"],
        ["--docs", "--program", "lists"],
        ["--only", "compile-time", "--program", "lists"],
    ):
        assert CliRunner().invoke(run.main, wrong).exit_code == 2


@pytest.mark.parametrize("kind", generated.KINDS, ids=lambda kind: kind.name)
def test_a_generated_module_is_valid_and_right(kind: Kind) -> None:
    assert len({kind.text(n) for n in (2, 4, 6)}) == 3
    for n in (1, 2, 3, 8, 21):
        binary = validate.to_binary(kind.text(n))
        validate.validate(binary)
        with lh.Store() as store:
            function = lh.Instance(store, lh.Module(store.engine, binary)).exports[generated.EXPORT]
            assert function(*kind.arguments) == kind.expected(n), n
    assert len(validate.to_binary(kind.text(400))) > 200


def test_straight_line_code_does_not_lose_its_argument() -> None:
    """What has one result for all arguments may be compiled to that result."""
    with lh.Store() as store:
        module = lh.Module(store.engine, generated.find("straight").text(1000))
        function = lh.Instance(store, module).exports[generated.EXPORT]
        assert len({function(x) for x in range(100)}) == 100


def test_the_sizes_have_what_goals_and_ratios_are_about() -> None:
    for kind in generated.KINDS:
        for scale in programs.SCALES:
            assert compile_time._COMPARED_AT[scale] in compile_time.sizes(kind, scale)
            sizes = compile_time.sizes(kind, scale)
            assert all(larger == 2 * smaller for smaller, larger in itertools.pairwise(sizes))
    for name, n, _ in goals._COMPILED_WITHIN:
        assert n in compile_time.sizes(generated.find(name), "full")


@pytest.mark.parametrize("name", [programs.NATIVE, programs.WASMTIME_NEWEST])
def test_compiling_fails_with_another_result_and_is_ended_at_the_limit(name: str, tmp_path: Path) -> None:
    path = tmp_path / "module.wasm"
    straight = generated.find("straight")
    path.write_bytes(validate.to_binary(straight.text(4)))
    with Field((name,)) as field:
        contender = field.contenders[name]
    case = Case(replace(straight, expected=lambda n: -5), 4, name)
    compile_time._take([(case, contender)], path, 20, 2)
    assert case.median is None
    assert case.failed == f"gave {straight.expected(4)}, not -5"

    case = Case(straight, 4, name)
    compile_time._take([(case, contender)], tmp_path / "missing.wasm", 20, 2)
    assert case.failed is not None
    assert "missing.wasm" in case.failed

    live = generated.find("live")
    path.write_bytes(validate.to_binary(live.text(6000)))
    case = Case(live, 6000, name)
    compile_time._take([(case, contender)], path, 0, 2)
    assert (case.seconds, case.exceeded, case.failed) == ([], 0, None)


def _times(**seconds: tuple[float | str, ...]) -> CompileTimes:
    """Times at 500, 1000, ... by kind; lowheap's of which a text is `limit` or a failure; wasmtime's are all 0.1 s."""
    times = CompileTimes(1000, [])
    for name, row in seconds.items():
        kind = generated.find(name)
        for n, each in zip((500, 1000, 2000, 4000), row, strict=False):
            case = Case(kind, n, programs.NATIVE, [each] if isinstance(each, float) else [])
            if each == "limit":
                case.exceeded = 60.0
            elif isinstance(each, str):
                case.failed = each
            times.cases += [case, Case(kind, n, programs.WASMTIME_NEWEST, [0.1])]
    return times


def _verdicts(found: Report) -> dict[str, tuple[str, bool]]:
    return {verdict.goal: (verdict.measured, verdict.is_met) for verdict in goals.verdicts(found)}


def test_goals_of_rc_immix_are_about_v8_wasmtime_and_its_peak() -> None:
    times = {programs.NATIVE: 2.0, programs.RC_IMMIX: 1.0, programs.WASMTIME_NEWEST: 7.9}
    trees = _measured(programs.trees(16, 20), **times, **{programs.V8: 1.9})
    trees.outcomes[programs.NATIVE].live = 8 << 20
    trees.outcomes[programs.RC_IMMIX].heap = 52 << 20
    assert _verdicts(_report("full", trees)) == {
        "lowheap rc-immix: binary_trees (16, 20): at most 0.5 times the time of V8": ("0.53 times", False),
        "lowheap rc-immix: binary_trees (16, 20): 8 times as fast as wasmtime newest": ("7.9 times", False),
        "lowheap rc-immix: binary_trees (16, 20): a heap of at most 2.5 times the largest live size plus 32 MiB": (
            "52.0 MiB, of 52.0",
            True,
        ),
    }
    quads = _measured(programs.quads(11, 8230), **times, **{programs.V8: 1.7})
    quads.outcomes[programs.RC_IMMIX].heap = 193 << 20
    assert _verdicts(_report("full", quads)) == {
        "lowheap rc-immix: quads (11, 8,230): at most 0.6 times the time of V8": ("0.59 times", True),
        "lowheap rc-immix: quads (11, 8,230): a heap of at most 2.5 times the largest live size plus 32 MiB": (
            "193.0 MiB, of 192.0",
            False,
        ),
    }
    swaps = _measured(programs.swaps(1000, 3_000_000), **{programs.RC_IMMIX: 1.0, programs.V8: 0.99})
    (verdict,) = goals.verdicts(_report("full", swaps))
    assert verdict.goal == "lowheap rc-immix: swaps (1,000, 3,000,000): at most 1 times the time of V8"
    assert not verdict.is_met
    calls = _measured(programs.host_call(20_000), **{programs.RC_IMMIX: 1.0, programs.V8: 0.1})
    assert goals.verdicts(_report("full", calls)) == [], "calls of the host are not about the heap"


def test_every_goal_about_a_size_is_about_one_that_is_measured() -> None:
    suite = {(each.name, each.arguments) for each in programs.suite("full")}
    assert set(goals._V8_FACTORS) <= suite
    assert {(name, arguments) for name, arguments, *_ in goals._FASTER_THAN} <= suite
    names = {name for name, _ in suite}
    assert {*goals._NOT_ABOUT_THE_HEAP, *goals._FAR_FROM_WASMTIME, *goals._EMBEDDING_FACTORS} <= names


def test_programs_of_other_languages_are_compared_with_v8_together() -> None:
    found = [
        _measured(programs.toolchain(example, 1), **{programs.RC_IMMIX: ours, programs.V8: 1.0, programs.NATIVE: 9.0})
        for example, ours in zip(examples_of_toolchains.EXAMPLES, (1.9, 0.2), strict=False)
    ]
    for measured, heap in zip(found, (33 << 20, 34 << 20), strict=True):
        measured.outcomes[programs.NATIVE].peak_live = 1 << 20
        measured.outcomes[programs.RC_IMMIX].heap = heap
    titles = [measured.program.title for measured in found]
    rest = "a heap of at most 2.5 times the most that was not freed under drc plus 32 MiB"
    assert _verdicts(_report("full", *found)) == {
        "lowheap rc-immix: 2 programs of Kotlin and MoonBit: at most the time of V8 in all": ("1.05 times", False),
        f"lowheap rc-immix: {titles[0]}: {rest}": ("33.0 MiB, of 34.5", True),
        f"lowheap rc-immix: {titles[1]}: {rest}": ("34.0 MiB, of 34.5", True),
    }


def test_goals_and_a_table_of_both_collectors_compile_times() -> None:
    found = _report("full")
    found.compile_times = _times(chain=(0.5, 1.0), casts=(0.5, 1.0))
    for name, seconds, code in (("chain", 1.2, 3 << 10), ("casts", 0.7, 4 << 10)):
        drc = found.compile_times.find(name, programs.NATIVE, 1000)
        assert drc is not None
        drc.code = 4 << 10
        case = Case(generated.find(name), 1000, programs.RC_IMMIX, [seconds], code=code)
        found.compile_times.cases.append(case)
    verdicts = _verdicts(found)
    ours = "compile 2 kinds (1,000) for lowheap rc-immix: "
    assert verdicts[f"{ours}at most the time for lowheap in all"] == ("0.95 times", True)
    assert verdicts[f"{ours}at most as much code as for lowheap in all"] == ("0.88 times", True)
    text = report.document(found, "\n", "chart.png")
    for line in (
        "|  | 500 | 1,000 | to wasmtime's, 1,000 | to drc's, 1,000 | code in KiB, 1,000 |",
        "| chain: lowheap | 500 ms | 1.00 s (2.00×) | 10.0× |  | 4.0 |",
        "| chain: lowheap rc-immix |  | 1.20 s | 12.0× | 1.20× | 3.0 (0.75×) |",
    ):
        assert line in text


def _taken(**changes: object) -> pauses.Taken:
    histogram = [(100_000, 950), (1_900_000, 45), (2_100_000, 4), (8_000_000, 1)]
    taken = pauses.Taken(programs.RC_IMMIX, pauses.BUDGET, [0.5], ["7"], histogram, 5_500_000)
    return replace(taken, **changes)  # type: ignore[arg-type]


def test_pauses_have_quantiles_bounds_goals_and_a_table() -> None:
    taken = _taken()
    assert taken.count == 1000
    assert [taken.quantile(part) for part in (0.5, 0.95, 0.951, 0.995, 0.999, 0.9999, 1)] == [
        100_000,
        100_000,
        1_900_000,
        1_900_000,
        2_100_000,
        5_500_000,
        5_500_000,
    ], "the last bucket's pauses took no longer than the longest"
    within = dict(zip(pauses.BOUNDS, taken.within(), strict=False))
    counts = {100_000: 950, 2 * MILLISECOND: 45, 5 * MILLISECOND: 4, 10 * MILLISECOND: 1}
    assert {bound: count for bound, count in within.items() if count} == counts
    assert _taken(longest=101 * MILLISECOND, histogram=[(110 * MILLISECOND, 2)]).within()[-1] == 2

    found = _report("full")
    found.pauses = Pauses(programs.churn(10, 5000), [taken, _taken(contender=programs.V8, budget=None)])
    title = "pauses: churn (10, 5,000): lowheap rc-immix, budget 1 ms"
    assert _verdicts(found) == {
        f"{title}: 99 % of them at most 2 ms": ("1.90 ms", True),
        f"{title}: all of them at most 5 ms": ("5.50 ms", False),
    }
    text = report.document(found, "\n", "chart.png")
    for line in (
        "|  | lowheap rc-immix, budget 1 ms | V8 |",
        "| p99 | 1.90 ms | 1.90 ms |",
        "| at most 2.00 ms | 45 | 45 |",
    ):
        assert line in text
    assert "at most 20.0 ms" not in text, "where nobody has pauses, there is no row"
    assert json.loads(json.dumps(found.as_json()))["pauses"]["taken"][0]["p99"] == 1_900_000
    assert found.failures == []
    found.pauses.taken[1] = _taken(contender=programs.V8, budget=None, results=["8"])
    assert found.failures == ["pauses: churn (10, 5,000): results differ: 7, 8"]


def test_pauses_are_read_from_the_store_in_one_place() -> None:
    def store(counters: dict[str, int], **attributes: object) -> Any:
        heap = SimpleNamespace(stats=lambda: SimpleNamespace(counters=counters), native=None)
        return SimpleNamespace(heap=heap, engine=SimpleNamespace(collector=SimpleNamespace(name="mine", **attributes)))

    longest = {"longest_pause_nanoseconds": 9}
    found = take_pauses.pauses_of(store(longest, pause_times=lambda heap: {16: 3, 8: 5}))
    assert found == ([(8, 5), (16, 3)], 9)
    for silent in (store(longest), store({}, pause_times=lambda heap: {})):
        with pytest.raises(take_pauses.NoPausesError, match="the collector mine does not take its pauses"):
            take_pauses.pauses_of(silent)


def test_a_program_is_repeated_on_a_new_store_for_its_pauses(tmp_path: Path) -> None:
    binary = tmp_path / "churn.wasm"
    program = next(each for each in programs.suite("tiny") if each.name == "churn")
    binary.write_bytes(validate.to_binary(program.source.read_text("utf-8")))
    made = run_lowheap.LowheapProgram({"binary": str(binary), "collector": "drc", "runtime": "native"})
    first = made.store
    results, seconds = take_pauses.repeat(made, ("run", program.arguments), 3)
    assert results == [str((1 + 200) * (2**4 - 1))] * 3
    assert len(seconds) == 3
    assert made.store is not first
    assert made.store.stats().objects_allocated == 3 * program.events + 3  # the table is an object, too
    made.store.close()
    with pytest.raises(run_lowheap.NoBudgetError, match="the collector drc takes no budget for its pauses"):
        run_lowheap.LowheapProgram({"binary": str(binary), "collector": "drc", "runtime": "native", "budget": 5})


def test_who_does_not_take_pauses_is_absent_and_who_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = ((programs.NATIVE, None), (programs.NATIVE, 1000), (programs.NULL, None), (programs.V8, None))
    monkeypatch.setattr(pauses, "CASES", cases)
    with Field((programs.NATIVE, programs.NULL, programs.V8)) as field:
        broken = replace(field.contenders[programs.NULL], job={"collector": "nothing", "runtime": "native"})
        field.contenders[programs.NULL] = broken
        found = pauses.measure(field, "tiny", 1, lambda text: None)
    assert found.absent["pauses of lowheap"] == "the collector drc does not take its pauses"
    assert found.absent["pauses of lowheap, budget 1 ms"].startswith(
        "the collector drc takes no budget for its pauses: "
    )
    (failure,) = found.failures
    assert "pauses: churn (3, 40): lowheap null: ended (status 1): " in failure
    assert "there is no collector 'nothing'" in failure
    assert found.find(programs.NATIVE, None) is found.find(programs.NULL, None) is None
    report_of_it = _report("full")
    report_of_it.pauses = found
    shown = [name for name in (programs.NULL, programs.V8) if name in field.contenders]
    assert f"|  | {' | '.join(shown)} |" in report.document(report_of_it, "\n", "chart.png")


def test_goals_about_compile_time() -> None:
    found = _report("full")
    found.compile_times = _times(
        chain=(0.5, 1.0, 2.5, 5.0), casts=(0.5, 1.1, "limit"), live=(1.0, 7.0), straight=(0.1, "broken", 0.4)
    )
    assert [(verdict.goal, verdict.measured, verdict.is_met) for verdict in goals.verdicts(found)] == [
        ("compile chain: twice the size in at most 2.3 times the time", "2.50 times from 1,000 to 2,000", False),
        ("compile chain (1,000): at most 20 times the time of wasmtime newest", "10.00 times", True),
        (
            "compile casts: twice the size in at most 2.3 times the time",
            "more than 54.55 times from 1,000 to 2,000",
            False,
        ),
        ("compile casts (1,000): at most 20 times the time of wasmtime newest", "11.00 times", True),
        ("compile live (1,000): at most 20 times the time of wasmtime newest", "70.00 times", False),
        ("compile chain (1,000): at most 1.6 s", "1.00 s", True),
        ("compile live (1,000): at most 6 s", "7.00 s", False),
    ]
    assert found.failures == ["compile straight (1,000): lowheap: broken"]

    found.compile_times = _times(chain=("limit", "limit"))
    assert [(verdict.goal, verdict.measured, verdict.is_met) for verdict in goals.verdicts(found)] == [
        ("compile chain (1,000): at most 20 times the time of wasmtime newest", "more than 600 times", False),
        ("compile chain (1,000): at most 1.6 s", "more than 60 s", False),
    ]


def test_the_table_of_compile_times_leaves_nothing_out() -> None:
    found = _report("full")
    found.compile_times = _times(chain=(0.5, 1.25, "limit", "limit"), casts=(0.02, "broken", 0.08), live=(1.0, "limit"))
    text = report.document(found, "\n", "chart.png")
    for line in (
        "|  | 500 | 1,000 | 2,000 | 4,000 | to wasmtime's, 1,000 | to drc's, 1,000 | code in KiB, 1,000 |",
        "| chain: lowheap | 500 ms | 1.25 s (2.50×) | > 60 s (> 48.0×) | > 60 s | 12.5× |  |  |",
        "| chain: wasmtime newest | 100 ms | 100 ms (1.00×) | 100 ms (1.00×) | 100 ms (1.00×) |  |  |  |",
        "| casts: lowheap | 20.0 ms | failed | 80.0 ms |  |  |  |  |",
        "| live: lowheap | 1.00 s | > 60 s (> 60.0×) |  |  | > 600× |  |  |",
    ):
        assert line in text
    console = Console(width=200, record=True, file=io.StringIO())
    report.show(found, console)
    assert "> 60 s (> 48.0×)" in console.export_text()
    written = json.loads(json.dumps(found.as_json()))["compile_times"]
    assert [case["exceeded"] for case in written["cases"] if case["contender"] == programs.NATIVE][:3] == [
        None,
        None,
        60,
    ]


def _uses(**seconds: tuple[float | str, float | None]) -> FromPython:
    """lowheap's and wasmtime's times by row; a text is a failure, None is what wasmtime does not have."""
    taken = []
    for row in from_python.ROWS:
        for name, each in zip(from_python.CONTENDERS, seconds.get(row.name, ()), strict=False):
            if isinstance(each, str):
                taken.append(Taken(row, name, failed=each))
            elif each is not None:
                taken.append(Taken(row, name, [each] * 3))
    return FromPython(taken)


def test_use_from_python_has_goals_and_a_table() -> None:
    assert list(goals.FROM_PYTHON) == [row.name for row in from_python.ROWS]
    found = _report("full")
    found.from_python = _uses(call=(0.5e-6, 20e-6), make_struct=(4e-6, None), floats_in=("broken", None))
    assert [(verdict.goal, verdict.measured, verdict.is_met) for verdict in goals.verdicts(found)] == [
        ("from Python: `lh.Struct(store, type, values)`: at most 3.00 µs", "4.00 µs", False),
        ("from Python: call of `add(i32, i32)`: at most 0.60 µs", "0.50 µs", True),
    ]
    text = report.document(found, "\n", "chart.png")
    for line in (
        "| call of `add(i32, i32)` | 0.50 µs | 0.60 µs | 20.0 µs | 40.0× |",
        "| `lh.Struct(store, type, values)` | 4.00 µs | 3.00 µs | – |  |",
        "| 1,000,000 f64 from a buffer, `Array.from_buffer` | failed | 5.00 ms | – |  |",
    ):
        assert line in text
    assert found.failures == [
        "from Python: 1,000,000 f64 from a buffer, `Array.from_buffer`: lowheap: broken",
    ]


def test_a_use_from_python_with_another_result_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [replace(row, result="9") if row.name == "call" else row for row in from_python.ROWS if not row.commands]
    failing = from_python.Row("fail", "start and fail", commands={programs.NATIVE: ("-c", "raise SystemExit(3)")})
    monkeypatch.setattr(from_python, "ROWS", (*rows, failing))
    with Field((programs.NATIVE,)) as field:
        uses = from_python.measure(field, "tiny", 1, lambda text: None)
    assert uses.failures == [
        "from Python: call of `add(i32, i32)`: lowheap: gave 7, not 9",
        "from Python: start and fail: lowheap: ended (status 3)",
    ]
    assert len(uses.taken) == len(rows) + 1


def test_a_user_from_python_that_ends_is_told_for_each_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_python, "CONTENDERS", {programs.NATIVE: "nobody"})
    monkeypatch.setattr(from_python, "ROWS", from_python.ROWS[:2])
    with Field((programs.NATIVE,)) as field:
        uses = from_python.measure(field, "tiny", 1, lambda text: None)
    assert len(uses.failures) == 2
    assert all("status 1" in failure for failure in uses.failures)


def test_goals_about_embedding() -> None:
    medians = {programs.RC_IMMIX_FROM_C: 1.0, programs.BOEHM: 1.4, programs.COUNTED: 0.9, programs.FROM_C: 0.5}
    found = [
        _measured(make(20, 3, contenders=programs.EMBEDDING), **medians) for make in (programs.lists, programs.trees)
    ]
    assert [(verdict.goal, verdict.is_met) for verdict in goals.verdicts(_report("full", *found))] == [
        ("lists (20, 3): lowheap rc-immix from C faster than Boehm from C", True),
        ("lists (20, 3): lowheap rc-immix from C faster than malloc from C", False),
        ("binary_trees (20, 3): lowheap rc-immix from C 1.5 times as fast as Boehm from C", False),
        ("binary_trees (20, 3): lowheap rc-immix from C 1.5 times as fast as malloc from C", False),
    ]


def test_without_boehms_collector_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "c_compiler", lambda: "false")
    with Field((programs.BOEHM, programs.COUNTED)) as field:
        reasons = {skipped.name: skipped.reason for skipped in field.skipped}
    assert "apt-get install libgc-dev" in reasons[programs.BOEHM]
    assert "cannot compile embed.c" in reasons[programs.COUNTED]


def test_the_c_programs_compile_without_a_warning(tmp_path: Path) -> None:
    compiler = contenders.c_compiler()
    if compiler is None:
        return
    (tmp_path / "lowheap.h").write_text(header.header(), "utf-8")
    warnings = ("-Wall", "-Wextra", "-Werror")
    for name, flags in (
        ("yardstick.c", []),
        ("yardstick.c", ["-DEVENTS"]),
        ("embed.c", ["-DCOUNTED"]),
        ("embed.c", ["-DLOWHEAP", f"-I{tmp_path}"]),
    ):
        source = str(contenders.ROOT / "benchmarks" / name)
        command = [compiler, "-O2", *warnings, *flags, "-c", source, "-o", str(tmp_path / "program.o")]
        subprocess.run(command, check=True)


def test_starts_have_goals_and_a_table(tmp_path: Path) -> None:
    hello = start_up.TITLES[0]
    seconds = {start_up.COLD: 2.0, start_up.CACHED: 0.2, start_up.V8: 0.1}
    found = Report("full", 1, {}, {}, {}, [], None)
    found.start_up = StartUp([Started(hello, name, [each]) for name, each in seconds.items()])
    found.start_up.started.append(Started(hello, start_up.WASMTIME, failed="broken"))
    assert [(each.measured, each.is_met) for each in goals.verdicts(found)] == [("2.00 s", False), ("200 ms", True)]
    assert found.failures == [f"start {hello}: {start_up.WASMTIME}: broken"]
    console = Console(width=120, file=io.StringIO())
    report.show(found, console)
    assert isinstance(console.file, io.StringIO)
    (line,) = (line for line in console.file.getvalue().splitlines() if f"{start_up.COLD} " in line and hello in line)
    assert "2.00 s" in line
    assert "20.0× " in line


def test_a_program_that_does_not_start_fails_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.wasm"
    wrong.write_bytes(b"\0asm")
    monkeypatch.setattr(build, "binary", lambda example: wrong)
    with Field((programs.NATIVE, programs.WASMTIME_NEWEST)) as field:
        starts = start_up.measure(field, 1, lambda text: None)
    assert len(starts.failures) == len(start_up.TITLES) * 3
    assert all("ended (status 1)" in each for each in starts.failures)
