"""Random modules do the same on lowheap as on wasmtime: 300, some in each of ten ways; `make fuzz` runs more."""

from __future__ import annotations

import itertools

import pytest

from fuzz import modules, run, sides
from fuzz.sides import WAYS, Run, Way
from lowheap.wasm.decode import decode

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
