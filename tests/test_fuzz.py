"""Random modules do the same on lowheap as on wasmtime: 300, some in each of ten ways; `make fuzz` runs more."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from fuzz import modules, run, sides
from fuzz.sides import WAYS, Run, Way
from lowheap.wasm.decode import FunctionImport, GlobalImport, MemoryImport, TableImport, TagImport, decode

_EACH = 30


def _ways() -> list[Way]:
    """Ten ways, in which every choice of each kind is made."""
    kinds = list(dict.fromkeys((way.collector, way.barriers) for way in WAYS))
    kinds += kinds[:3]
    others = zip(
        kinds,
        itertools.cycle(("native", "python", "native")),
        itertools.cycle((2, 0, 1, 3)),
        itertools.cycle(("auto", "never", "always", "never", "auto")),
        itertools.cycle((0, 1)),
        strict=False,
    )
    return [Way(*kind, *rest) for kind, *rest in others]


@pytest.mark.parametrize(("number", "way"), [pytest.param(*each, id=str(each[1])) for each in enumerate(_ways())])
def test_random_modules_do_the_same_as_on_wasmtime(number: int, way: Way) -> None:
    assert way in WAYS
    for seed in range(number * _EACH, (number + 1) * _EACH):
        finding = run.check(seed, way=way)
        assert finding is None, finding


def test_a_seed_makes_one_module_and_another_makes_another() -> None:
    assert modules.make(1) == modules.make(1)
    assert modules.make(1) != modules.make(2)


def test_what_can_be_called_is_added_once() -> None:
    found = next(each for each in map(modules.make, itertools.count()) if len(each.functions) > 2)
    assert modules.callable_module(found.binary) == found
    names = [each.name for each in decode(found.binary).exports]
    assert {f"{modules.CALL}{index}" for index in found.functions} | {modules.STATE} <= {*names}
    assert len(names) == len({*names})


def test_some_modules_import_and_get_what_they_want() -> None:
    found = [modules.make(seed) for seed in range(1, 61, 4)]
    wanted = {type(each.desc) for module in found for each in decode(module.binary).imports}
    assert wanted == {FunctionImport, GlobalImport, MemoryImport, TableImport, TagImport}
    assert any(each.through_host for each in found)
    for module in found:
        assert module.imported is not None
        names = [each.name for each in decode(module.binary).imports]
        assert [each.name for each in decode(module.imported).exports] == names == [str(n) for n in range(len(names))]
    assert all(modules.make(seed).imported is None for seed in (0, 2, 3))


@pytest.mark.parametrize(
    ("mine", "theirs", "what"),
    [
        ([("a", "1", "x")], [("a", "1", "x")], None),
        ([("a", "1", "x")], [("a", "2", "x")], ("a", "1", "2")),
        ([("a", "1", "x")], [("a", "1", "y")], ("what there is after a", "x", "y")),
        ([("a", "1", ""), ("verify", "unsound", "")], [("a", "1", "")], ("verify", "unsound", "nothing")),
        ([("module", "refused", "")], [], ("module", "refused", "nothing")),
        ([], [("a", "1", "")], ("a", "nothing", "1")),
        ([("a", "call stack exhausted", "x"), ("b", "1", "")], [("a", "1", "y"), ("b", "2", "")], None),
    ],
)
def test_the_first_difference_is_found(mine: Run, theirs: Run, what: tuple[str, str, str] | None) -> None:
    finding = run.difference(mine, theirs, 5, WAYS[0])
    assert (finding and (finding.what, finding.lowheap, finding.wasmtime)) == what


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that gets somewhere, and whose third call returns something else on one side."""
    seed = next(each for each in itertools.count() if len(sides.on_wasmtime(modules.make(each), each)) > 3)
    true = sides.on_wasmtime

    def wrong(module: modules.Module, seed: int) -> Run:
        seen = true(module, seed)
        what, _, state = seen[3]
        return [*seen[:3], (what, "something else", state), *seen[4:]]

    monkeypatch.setattr(sides, "on_wasmtime", wrong)
    finding = run.check(seed, way=WAYS[0])
    assert finding is not None
    assert finding.wasmtime == "something else"
    assert run.signature(finding).startswith("outcome: ")


def test_findings_of_one_cause_are_alike() -> None:
    def finding(mine: str, theirs: str) -> run.Finding:
        return run.Finding(1, WAYS[0], "1(2)", mine, theirs)

    assert run.signature(finding("12", "13")) == run.signature(finding("3ff", "-4")) == "outcome: value / value"
    assert run.signature(finding("SIGSEGV", "12")) == "outcome: SIGSEGV / value"
    assert run.signature(finding("null reference", "1")) != run.signature(finding("1", "null reference"))


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_process_that_dies_is_a_finding_and_another_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying = """
        first=${4%%,*}
        echo "{\\"kind\\": \\"begun\\", \\"seed\\": $first}"
        [ $first -lt 9 ] && echo "oh no" >&2 && kill -SEGV $$
        echo '{"kind": "found", "what": "1(2)", "lowheap": "3", "wasmtime": "4"}'
        echo '{"kind": "done"}'"""
    monkeypatch.setattr(run.sys, "executable", script(tmp_path / "dying", dying))
    found = list(run._findings(7, 4, 1, ()))
    assert [(each.seed, each.what, each.lowheap, each.wasmtime) for each in found] == [
        (7, "the process died", "SIGSEGV", "oh no"),
        (8, "the process died", "SIGSEGV", "oh no"),
        (9, "1(2)", "3", "4"),
    ]
    assert [each.way for each in found] == [sides.way_of(each.seed) for each in found]


def test_a_finding_is_written_down_and_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the predicate holds: here, that the module is not quite small."""
    monkeypatch.setattr(run.sys, "executable", script(tmp_path / "same", '[ "$(wc -c < "$5")" -gt 60 ]'))
    whole, small = [], []
    for seed in range(4):  # there are modules that wasm-tools can do nothing with
        smallest = run.shrink(run.Finding(seed, WAYS[0], "1(2)", "3", "4"), tmp_path, (), 20)
        whole.append(len(modules.make(seed).binary))
        small.append(len(smallest.read_bytes()))
        assert (tmp_path / f"{seed}.wasm").read_bytes() == modules.make(seed).binary
        assert "lowheap:  3" in (tmp_path / f"{seed}.txt").read_text()
    assert min(small) > 60
    assert sum(small) < sum(whole)


def test_a_smaller_module_must_differ_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, described = tmp_path / "a.wasm", tmp_path / "a.json"
    path.write_bytes(modules.make(1).binary)
    finding = run.Finding(1, WAYS[5], "1(2)", "null reference", "4")
    described.write_text(json.dumps({**asdict(finding.way), "seed": 1, "signature": run.signature(finding)}))
    for other, is_same in ((finding, True), (replace(finding, lowheap="5"), False), (None, False)):
        monkeypatch.setattr(run, "compare", lambda module, seed, way, other=other: other if way == WAYS[5] else None)
        assert run._is_same(path, described) == is_same


def test_the_command_says_what_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = run.Finding(3, WAYS[0], "1(2)", "null reference", "4")
    monkeypatch.setattr(run, "_findings", lambda *given: iter([finding]) if given[0] == 3 else iter(()))
    monkeypatch.setattr(run, "shrink", lambda *given: tmp_path)
    found = CliRunner().invoke(run.command, ["--seed", "3", "--count", "5"])
    assert found.exit_code == 1
    assert "seed 3 (drc, native, O0, inline auto): 1(2)\n  lowheap:  null reference\n  wasmtime: 4" in found.output
    assert "1 × outcome: null reference / value" in found.output
    nothing = CliRunner().invoke(run.command, ["--count", "5"])
    assert nothing.exit_code == 0
    assert nothing.output.startswith("5 modules, seeds 0 to 4, in")
