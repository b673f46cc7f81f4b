"""Random WasmGC programs give the same results, the same traps and the same objects everywhere, and leave no garbage.

Each program runs in the `wasmtime` package and in lowheap, under several combinations of barriers, optimisation level,
runtime and collection frequency. Results, checksums and the wording of traps must agree; so must the number of objects
allocated, among the runs of lowheap. Afterwards every invariant of the heap holds, and once the globals are cleared,
only what the remaining roots reach is live, and what cycles keep.

`--full` runs more programs, and each under every combination instead of two by turns. `LOWHEAP_SEED=S` runs others,
from seed S on. A failure prints the seed and the program, reduced.
"""

from __future__ import annotations

import functools
import itertools
import os
from random import Random

import pytest
from support import wasmtime_peer
from support.combinations import examples
from support.example_runs import SHORT_LIVED_READS
from support.program_generator import Program, generate, reduce
from support.random_runs import Configuration, LowheapRun, run_in_wasmtime

import lowheap as lh
from lowheap.wasm.decode import decode
from lowheap.wasm.validate import to_binary

COUNT = examples(48, 150)
FIRST_SEED = int(os.environ.get("LOWHEAP_SEED", "0"))
WITH_UNREACHABLE = 116
"""A seed whose program uses the one instruction that the first 48 do not."""
SEEDS = sorted({*range(FIRST_SEED, FIRST_SEED + COUNT), WITH_UNREACHABLE})
IS_THOROUGH = bool(examples(0, 1))


# ----------------------------------------------------------------------------------------------------------------------
# Comparing


EVERY = (0, 1, 3)
BARRIERS = ("drc", "outlined")
OPT_LEVELS = (0, 2)
RUNTIMES = ("python", "native")
ENGINES = list(itertools.product(BARRIERS, OPT_LEVELS, RUNTIMES))


@functools.cache
def engine(barriers: str, opt_level: int, runtime: str) -> lh.Engine:
    return lh.Engine(barriers=barriers, opt_level=opt_level, runtime=runtime)


def configurations(seed: int, *, thorough: bool) -> list[Configuration]:
    """Return those to run a program under: all, or two engines that have nothing in common, by turns.

    On one of them every safepoint collects, on the other none or some.
    Code that does not count takes part with some programs: nothing is freed then, and the results are the same. With
    others, rc-immix, which counts at the end of epochs only; and a collector that lists only what is held for long: too
    short a lifetime frees a live object. With others again, each safepoint searches for cycles: then nothing is left
    that no root reaches.
    """
    chosen = [Configuration(*each, every) for each in ENGINES for every in EVERY]
    if not thorough:
        turn, first = divmod(seed, len(ENGINES))
        second = len(ENGINES) - 1 - first  # the product's order makes them opposites
        chosen = [Configuration(*ENGINES[first], 1), Configuration(*ENGINES[second], (0, 3)[turn % 2])]
    if thorough or seed % 8 == 0:
        chosen.append(Configuration("null", 2, RUNTIMES[seed // 8 % 2], 0))
    if thorough or seed % 2:
        chosen.append(
            Configuration("rc-immix", OPT_LEVELS[seed // 4 % 2], RUNTIMES[seed // 2 % 2], (0, 1, 3)[seed % 3])
        )
    if thorough or seed % 4 == 1:
        chosen.append(Configuration(SHORT_LIVED_READS, OPT_LEVELS[seed // 8 % 2], RUNTIMES[seed // 4 % 2], 1))
    if thorough or seed % 3 == 0:
        collector = ("drc", "outlined", SHORT_LIVED_READS, "rc-immix")[seed // 3 % 4]
        chosen.append(Configuration(collector, OPT_LEVELS[seed // 12 % 2], RUNTIMES[seed // 3 % 2], 1, searches=True))
    return chosen


def difference(program: Program, chosen: list[Configuration]) -> str | None:
    """Run a program everywhere, and say what disagrees; None if nothing does."""
    source = str(program)
    expected = run_in_wasmtime(source)
    modules: dict[lh.Engine, lh.Module] = {}
    allocated: int | None = None
    for each in chosen:
        on = engine(each.barriers, each.opt_level, each.runtime)
        try:
            module = modules.get(on) or modules.setdefault(on, lh.Module(on, source))
            run = LowheapRun(module, each, acyclic=program.acyclic)
        except (lh.LowheapError, AssertionError, TypeError) as error:
            return f"{each}: {type(error).__name__}: {error}"
        if run.outcomes != expected:
            return f"{each}: {run.outcomes}; wasmtime: {expected}"
        allocated = run.objects_allocated if allocated is None else allocated
        if run.objects_allocated != allocated:
            return f"{each}: {run.objects_allocated} objects were allocated, {allocated} before"
    return None


def describe(seed: int, program: Program, problem: str, *, attempts: int = 400) -> str:
    """Reduce a program that fails, and return what there is to tell."""
    culprits = [each for each in configurations(seed, thorough=True) if problem.startswith(f"{each}: ")]

    def still_fails(candidate: Program) -> bool:
        return wasmtime_peer.validates(str(candidate)) and difference(candidate, culprits) is not None

    if culprits and still_fails(program):
        program = reduce(program, still_fails, attempts=attempts)
        problem += f"\nreduced: {difference(program, culprits)}"
    return f"seed {seed}: {problem}\n{program}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_program_does_the_same_everywhere(seed: int) -> None:
    program = generate(Random(seed))
    problem = difference(program, configurations(seed, thorough=IS_THOROUGH))
    if problem is not None:
        pytest.fail(describe(seed, program, problem), pytrace=False)


def test_the_turns_of_some_programs_leave_no_configuration_out() -> None:
    chosen = {each for seed in range(48) for each in configurations(seed, thorough=False)}
    assert chosen >= {Configuration(*each, every) for each in ENGINES for every in EVERY}
    assert {(each.barriers, each.runtime) for each in chosen} >= set(
        itertools.product((*BARRIERS, "null", SHORT_LIVED_READS), RUNTIMES)
    )


def array_copy(target: str, source: str, starts: tuple[int, int], count: int) -> str:
    """A program that could trap in several ways at once."""
    made = {"null": "(ref.null $array)", "array": "(array.new_default $array (i32.const 3))"}
    return f"""(module
      (type $array (array (mut anyref)))
      (func (export "run")
        (array.copy $array $array
          {made[target]} (i32.const {starts[0]}) {made[source]} (i32.const {starts[1]}) (i32.const {count}))))"""


@pytest.mark.parametrize(
    "source",
    [
        array_copy("null", "null", (0, 0), 0),
        array_copy("array", "null", (0, 0), 0),
        array_copy("array", "null", (5, 0), 0),
        array_copy("array", "null", (0, 0), -1),
        array_copy("null", "array", (0, 7), 1),
        array_copy("array", "array", (5, 5), 5),
        array_copy("array", "array", (1, 0), 2),
    ],
)
def test_what_random_programs_have_found(source: str) -> None:
    try:
        wasmtime_peer.run(source, "run")
        expected = ""
    except wasmtime_peer.PeerTrap as trap:
        expected = trap.message
    on = engine("drc", 2, "python")
    with lh.Store(on) as store:
        exports = lh.Instance(store, lh.Module(on, source)).exports
        try:
            exports["run"]()
            shown = ""
        except lh.Trap as trap:
            shown = trap.code.message
    assert shown == expected


# ----------------------------------------------------------------------------------------------------------------------
# The generator itself


EXPECTED_INSTRUCTIONS = {
    "block",
    "loop",
    "if",
    "else",
    "br",
    "br_if",
    "br_table",
    "return",
    "call",
    "call_ref",
    "drop",
    "select",
    "unreachable",
    "local.get",
    "local.set",
    "local.tee",
    "global.get",
    "global.set",
    "ref.null",
    "ref.func",
    "ref.is_null",
    "ref.eq",
    "ref.as_non_null",
    "br_on_null",
    "br_on_non_null",
    "ref.test",
    "ref.cast",
    "br_on_cast",
    "br_on_cast_fail",
    "any.convert_extern",
    "extern.convert_any",
    "ref.i31",
    "i31.get_s",
    "i31.get_u",
    "struct.new",
    "struct.new_default",
    "struct.get",
    "struct.get_s",
    "struct.get_u",
    "struct.set",
    "array.new",
    "array.new_default",
    "array.new_fixed",
    "array.get",
    "array.get_s",
    "array.get_u",
    "array.set",
    "array.len",
    "array.fill",
    "array.copy",
}


def test_the_programs_use_every_instruction_on_references() -> None:
    used: set[str] = set()
    for seed in (*range(48), WITH_UNREACHABLE):  # which run by default
        decoded = decode(to_binary(str(generate(Random(seed)))))
        used.update(instruction.name for body in decoded.bodies for instruction in body.instructions)
    assert used >= EXPECTED_INSTRUCTIONS


def test_a_seed_makes_the_same_program_each_time() -> None:
    assert str(generate(Random(5))) == str(generate(Random(5)))
    assert len({str(generate(Random(seed))) for seed in range(20)}) == 20


def test_most_programs_come_to_an_end_and_some_trap() -> None:
    shown = [outcome for seed in range(60) for outcome, _ in run_in_wasmtime(str(generate(Random(seed), size=12)))]
    traps = [outcome for outcome in shown if isinstance(outcome, str)]
    assert 0.05 < len(traps) / len(shown) < 0.6
    assert len(set(traps)) >= 3
    assert len({outcome for outcome in shown if isinstance(outcome, int)}) > len(shown) / 4, "and results differ"


def test_half_of_the_programs_cannot_make_cycles_and_the_others_do() -> None:
    programs = [generate(Random(seed), size=12) for seed in range(60)]
    assert 20 < sum(program.acyclic for program in programs) < 40
    each = Configuration("outlined", 0, "python", 0)
    kept = 0
    for program in programs:
        if not program.acyclic and kept == 0:
            module = lh.Module(engine(each.barriers, each.opt_level, each.runtime), str(program))
            kept += LowheapRun(module, each, acyclic=False).cyclic
    assert kept, "some objects that only cycles keep"


def test_a_program_is_reduced_to_what_matters() -> None:
    programs = (generate(Random(seed), size=8) for seed in range(100))
    program = next(each for each in programs if "array.copy" in str(each))

    def holds(candidate: Program) -> bool:
        return "array.copy" in str(candidate) and wasmtime_peer.validates(str(candidate))

    def size(each: Program) -> int:
        return sum(len(list(node.walk())) for function in each.functions for node in function.body)

    reduced = reduce(program, holds, attempts=250)
    assert holds(reduced)
    assert size(reduced) < size(program) / 2


def test_a_wrong_outcome_is_told_with_seed_and_reduced_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault is put into lowheap: it calls every trap the same."""
    seed = next(
        seed
        for seed in range(100)
        if "null reference" in [outcome for outcome, _ in run_in_wasmtime(str(generate(Random(seed), size=8)))]
    )
    program = generate(Random(seed), size=8)
    chosen = configurations(seed, thorough=False)[:1]
    assert difference(program, chosen) is None
    monkeypatch.setattr(lh.Trap, "__init__", lambda self, code, **_: setattr(self, "code", lh.TrapCode.HEAP_EXHAUSTED))
    problem = difference(program, chosen)
    assert problem is not None
    assert problem.startswith(f"{chosen[0]}: ")
    text = describe(seed, program, problem, attempts=15)
    assert text.startswith(f"seed {seed}: {problem}")
    assert "GC heap out of memory" in text
    reduced = text[text.index("(module") :]
    assert wasmtime_peer.validates(reduced)
    assert len(reduced) < len(str(program))
