"""What calls through references come to: that baseline code notes it, and that guesses change nothing but the time."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap.jit import cache
from lowheap.layout import VMCallTarget
from lowheap.wasm import call_targets, inlining
from lowheap.wasm.call_targets import CALL, CallTargets, SeenTargets
from lowheap.wasm.decode import LaterInstructions
from lowheap.wasm.inlining import GUARDED, INLINED, Inliner, inlined_operands
from lowheap.wasm.module import Module
from lowheap.wasm.pieces import OFTEN, level_of, watched

pytestmark = pytest.mark.compiler

LONG = "(nop)" * inlining.SMALL

# Shapes with a method table: squares, rectangles, and one that traps. `run` adds the areas of `n` shapes of which every
# `every`th is a rectangle; with 0, all are squares.
SHAPES = f"""(module
  (rec
    (type $method (func (param (ref $shape)) (result i32)))
    (type $methods (struct (field (ref $method)) (field (ref $method))))
    (type $shape (struct (field (ref $methods)) (field i32) (field i32))))
  (global $square (ref $methods) (struct.new $methods (ref.func $square_area) (ref.func $long)))
  (global $rectangle (ref $methods) (struct.new $methods (ref.func $rectangle_area) (ref.func $long)))
  (global $none (ref $methods) (struct.new $methods (ref.func $trap) (ref.func $trap)))
  (func $square_area (type $method) (i32.mul (struct.get $shape 1 (local.get 0)) (struct.get $shape 1 (local.get 0))))
  (func $rectangle_area (type $method)
    (i32.mul (struct.get $shape 1 (local.get 0)) (struct.get $shape 2 (local.get 0))))
  (func $trap (type $method) (i32.div_u (i32.const 1) (i32.const 0)))
  (func $long (type $method) {LONG} (i32.const 1))
  (func $area (export "area") (param $shape (ref $shape)) (result i32)
    (call_ref $method (local.get $shape) (struct.get $methods 0 (struct.get $shape 0 (local.get $shape)))))
  (func $both (param $shape (ref $shape)) (result i32)
    (i32.add (call $area (local.get $shape))
      (call_ref $method (local.get $shape) (struct.get $methods 1 (struct.get $shape 0 (local.get $shape))))))
  (func $run (export "run") (param $n i32) (param $every i32) (result i32)
    (local $sum i32) (local $kind (ref $methods))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $n)))
        (local.set $kind (global.get $square))
        (if (local.get $every)
          (then (if (i32.eqz (i32.rem_u (local.get $n) (local.get $every)))
            (then (local.set $kind (global.get $rectangle))))))
        (local.set $sum (i32.add (local.get $sum)
          (call $both (struct.new $shape (local.get $kind) (local.get $n) (i32.const 3)))))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $next)))
    (local.get $sum))
  (func (export "fail") (result i32)
    (call $both (struct.new $shape (global.get $none) (i32.const 1) (i32.const 1)))))"""


def index_of(module: Module, name: str) -> int:
    return next(index for index, each in module.decoded.names.functions.items() if each == name)


def expected_sum(n: int, every: int) -> int:
    return sum(1 + (k * 3 if every and k % every == 0 else k * k) for k in range(1, n + 1))


def guesses(module: Module) -> dict[tuple[str, int], str]:
    """What optimised code was compiled with: by function and number of instruction, names of functions."""
    names = module.decoded.names.functions
    code = module.pieces(inline_allocation=True)
    assert code is not None
    found = {site for piece in code.linked for site in piece.code.call_targets}
    return {(names[function], number): names[target] for function, number, target in found}


def run_until_optimised(module: Module, instance: lh.Instance, every: int) -> None:
    exports: Any = instance.exports
    functions = {index_of(module, name) for name in ("area", "both", "run")}
    limit = time.monotonic() + 60
    code = module.pieces(inline_allocation=True)
    assert code is not None
    while not functions <= code.told().optimised:
        assert exports.run(100, every) == expected_sum(100, every)
        assert time.monotonic() < limit, "it was never optimised"


def by_need(**options: Any) -> lh.Engine:
    return lh.Engine(compilation="by_need", **options)


# Loops within loops are optimised at once, and have calls of their own, of an inlined function's, and in cold code.
NESTED = (
    SHAPES.removesuffix(")")
    + """
  (tag $never)
  (func $nested (export "nested") (param $n i32) (param $every i32) (result i32)
    (local $sum i32) (local $i i32) (local $shape (ref null $shape))
    (if (i32.gt_s (local.get $every) (i32.const 1000))
      (then
        (drop (call_ref $method (ref.as_non_null (local.get $shape)) (struct.get $methods 0 (global.get $none))))
        (throw $never)))
    (loop $next
      (local.set $i (local.get $n))
      (loop $inner
        (local.set $shape (struct.new $shape
          (select (result (ref $methods)) (global.get $rectangle) (global.get $square)
            (if (result i32) (local.get $every)
              (then (i32.eqz (i32.rem_u (local.get $i) (local.get $every))))
              (else (i32.const 0))))
          (local.get $i) (i32.const 3)))
        (local.set $sum (i32.add (local.get $sum)
          (i32.add (call $area (ref.as_non_null (local.get $shape)))
            (call_ref $method (ref.as_non_null (local.get $shape))
              (struct.get $methods 1 (struct.get $shape 0 (local.get $shape)))))))
        (br_if $inner (local.tee $i (i32.sub (local.get $i) (i32.const 1))))))
    (local.get $sum)))"""
)


# ----------------------------------------------------------------------------------------------------------------------
# Votes


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), max_size=200))
def test_who_has_more_than_half_of_the_calls_has_the_votes(calls: list[int]) -> None:
    """Compiled as it is in baseline code, on one site."""
    kinds = {1: "square", 2: "rectangle", 3: "circle", 4: "line"}
    functions = "".join(f"(func ${name} (type $f) (i32.const {number}))" for number, name in kinds.items())
    source = f"""(module (type $f (func (result i32)))
      (table $t funcref (elem $square $square $rectangle $circle $line)) {functions}
      (func $call (export "call") (param i32) (result i32)
        (call_ref $f (ref.cast (ref $f) (table.get $t (local.get 0))))))"""
    engine = by_need()
    module = Module(engine, source)
    instance = lh.Instance(lh.Store(engine), module)
    exports: Any = instance.exports
    known, votes = 0, 0  # a model
    for each in calls:
        assert exports.call(each) == each
        known, votes = (each, 1) if votes == 0 else (known, votes + 1 if known == each else votes - 1)
    (cell,) = instance._call_targets
    own = {index: reference for reference, index in instance._own_functions.items()}
    references = {number: own[index_of(module, name)] for number, name in kinds.items()}
    assert cell.votes == votes
    if votes:
        assert cell.function == references[known]
    for number in kinds:
        if calls.count(number) * 2 > len(calls):
            assert cell.function == references[number]


@pytest.mark.parametrize(
    ("votes", "found"), [(0, None), (call_targets.FEWEST_VOTES - 1, None), (call_targets.FEWEST_VOTES, 7)]
)
def test_few_votes_are_no_guess(votes: int, found: int | None) -> None:
    cells = bytes(VMCallTarget(3, 1000)) + bytes(VMCallTarget(5, votes)) + bytes(VMCallTarget(6, 1000))
    seen = SeenTargets(cells, {3: 2, 5: 7}).guesses({(0, 4): 0, (0, 9): 1, (1, 0): 2}.__getitem__)
    assert seen.get((0, 9)) == found
    assert seen.get((1, 0)) is None, "a function of another module, or of the host"
    assert seen.used == ({} if found is None else {(0, 9): 7})
    assert seen.get((0, 4)) == 2


def test_sites_are_numbered_without_reading_the_instructions(tmp_path: Path) -> None:
    """Starting a module that is cached must not take longer for them; numbers are each site's own all the same."""
    Module(by_need(cache=tmp_path), SHAPES)
    module = Module(by_need(cache=tmp_path), SHAPES)  # which was validated, so that its instructions are read later
    instance = lh.Instance(lh.Store(module.engine), module)
    assert all(isinstance(body.instructions, LaterInstructions) for body in module.decoded.bodies)
    assert not module.outline._call_refs, "no function was read for them"
    sites = [
        (index, number)
        for index, body in enumerate(module.decoded.bodies)
        for number, each in enumerate(body.instructions)
        if each.name == CALL
    ]
    numbers = [module.outline.call_site(site) for site in sites]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 2
    assert numbers[-1] < module.outline.call_site_count == len(instance._call_targets)


# ----------------------------------------------------------------------------------------------------------------------
# Guesses


def body(source: str, function: str, guess: str) -> list[tuple[str, int]]:
    """What is in the place of calls of a function, if all its calls through references are guessed to be of one."""
    module = lh.Module(lh.Engine(), source)
    targets = CallTargets(lambda _: index_of(module, guess))
    found = Inliner(module.outline, module.call_graph, inlining.SMALL, targets=targets).body(index_of(module, function))
    calls = (INLINED, GUARDED, CALL)
    return [
        (each.name, -1 if each.name == CALL else inlined_operands(each)[0])
        for each in found.instructions
        if each.name in calls
    ]


def test_a_guess_is_in_the_place_of_a_call_with_the_call_beside_it() -> None:
    module = lh.Module(lh.Engine(), SHAPES)
    area, square = index_of(module, "area"), index_of(module, "square_area")
    assert body(SHAPES, "area", "square_area") == [(INLINED, square), (CALL, -1)]
    assert body(SHAPES, "both", "square_area") == [
        (INLINED, area),
        *[(INLINED, square), (CALL, -1)],
        *[(INLINED, square), (CALL, -1)],
    ]
    assert body(SHAPES, "area", "long") == [(CALL, -1)], "of which nothing can be in its place"


@pytest.mark.parametrize("every", [0, 3, 1])
def test_optimised_code_guesses_what_baseline_code_has_seen(every: int) -> None:
    engine = by_need()
    module = Module(engine, SHAPES)
    store = lh.Store(engine, collect_every=0)
    instance = lh.Instance(store, module)
    run_until_optimised(module, instance, every)
    found = guesses(module)
    of_area = {target for (function, _), target in found.items() if function == "area"}
    assert of_area == {"rectangle_area" if every == 1 else "square_area"}
    exports: Any = instance.exports
    for each in (0, 1, 2, 5):  # right or wrong
        assert exports.run(50, each) == expected_sum(50, each)
    other: Any = lh.Instance(store, module).exports  # whose functions are others
    assert other.run(50, 2) == expected_sum(50, 2)
    store.verify()


def test_a_trap_is_located_in_code_that_guesses() -> None:
    """Code with debug information is the same code, compiled with the same guesses."""
    engine = by_need()
    frames = []
    for is_warm in (False, True):
        module = Module(engine, SHAPES)
        instance = lh.Instance(lh.Store(engine), module)
        if is_warm:
            run_until_optimised(module, instance, 0)
            assert guesses(module)
        with pytest.raises(lh.Trap, match="divide by zero") as caught:
            instance.exports.fail()
        frames.append([(each.func_index, each.module_offset) for each in caught.value.frames])
    assert frames[0] == frames[1]
    names = module.decoded.names.functions
    assert [names.get(index) for index, _ in frames[0]] == ["trap", "area", "both", None]


def test_guesses_are_cached_with_the_code(tmp_path: Path) -> None:
    engine = by_need(cache=tmp_path)
    module = Module(engine, SHAPES)
    run_until_optimised(module, lh.Instance(lh.Store(engine), module), 0)
    found = guesses(module)
    again = Module(by_need(cache=tmp_path), SHAPES)
    instance = lh.Instance(lh.Store(again.engine), again)
    exports: Any = instance.exports
    assert exports.run(10, 3) == expected_sum(10, 3)
    code = again.pieces(inline_allocation=True)
    assert code is not None
    code.piece_of(index_of(again, "area"))
    assert guesses(again)
    assert set(guesses(again).items()) <= set(found.items())
    with pytest.raises(lh.Trap) as caught:
        exports.fail()
    assert all(each.module_offset for each in caught.value.frames)


def test_an_entry_with_guesses_that_make_no_sense_is_refused() -> None:
    module = lh.Module(lh.Engine(), SHAPES)
    area, square = index_of(module, "area"), index_of(module, "square_area")
    code = module._compile_now(True, piece=(level_of(2), (area,)), call_targets=CallTargets(lambda _: square))
    assert [(function, target) for function, _, target in code.call_targets] == [(area, square)]
    assert cache.decode("key", cache.encode("key", code)).call_targets == code.call_targets
    wrong: Any = (("area", 1, 2),)
    with pytest.raises(ValueError, match="area"):
        cache.decode("key", cache.encode("key", dataclasses.replace(code, call_targets=wrong)))


def test_a_reference_that_is_null_traps_as_before() -> None:
    source = """(module
      (type $f (func (result i32)))
      (func $five (type $f) (i32.const 5))
      (elem declare func $five)
      (func $call (export "call") (param i32) (result i32)
        (call_ref $f (if (result (ref null $f)) (local.get 0) (then (ref.func $five)) (else (ref.null $f))))))"""
    engine = by_need()
    module = Module(engine, source)
    exports: Any = lh.Instance(lh.Store(engine), module).exports
    code = module.pieces(inline_allocation=True)
    assert code is not None
    limit = time.monotonic() + 60
    while 1 not in code.told().optimised:
        assert [exports.call(1) for _ in range(OFTEN)] == [5] * OFTEN
        assert time.monotonic() < limit, "it was never optimised"
    exports.call(1)
    assert guesses(module)
    with pytest.raises(lh.Trap, match="null"):
        exports.call(0)


# ----------------------------------------------------------------------------------------------------------------------
# Random programs: guesses, right and wrong, against wasmtime


def outcome(call: Callable[[], int]) -> Any:
    """What a call returns; or the frames of its trap, as their functions and offsets."""
    try:
        return call()
    except (lh.Trap, wasmtime.Trap) as trap:
        return [(each.func_index, each.module_offset) for each in trap.frames]


@settings(deadline=None, max_examples=30)
@given(
    kinds=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    guessed=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    depth=st.integers(0, 3),
)
def test_no_guess_changes_what_is_done(kinds: list[int], guessed: list[int], depth: int) -> None:
    """Functions that call each other through references, guessed to be anything: values, and the frames of traps."""
    source = """(module
      (rec (type $f (func (param i32 i32) (result i32))))
      (type $box (struct (field i32)))
      (table $t funcref (elem $f0 $f1 $f2 $f3))
      (func $f0 (type $f) (i32.sub (local.get 0) (local.get 1)))
      (func $f1 (type $f) (struct.get $box 0 (struct.new $box (i32.mul (local.get 0) (i32.const 3)))))
      (func $f2 (type $f)
        (if (i32.eqz (local.get 1)) (then (return (i32.const 40))))
        (call_ref $f (i32.add (local.get 0) (i32.const 1)) (i32.sub (local.get 1) (i32.const 1))
          (ref.cast (ref $f) (table.get $t (i32.rem_u (local.get 0) (i32.const 4))))))
      (func $f3 (type $f) (i32.div_s (i32.const 60) (i32.sub (local.get 1) (i32.const 1))))
      (func $call (export "call") (param $kind i32) (param $depth i32) (result i32)
        (i32.add
          (call_ref $f (local.get $kind) (local.get $depth) (ref.cast (ref $f) (table.get $t (local.get $kind))))
          (call_ref $f (local.get $depth) (local.get $kind) (ref.cast (ref $f) (table.get $t (local.get $kind)))))))"""
    config = wasmtime.Config()
    config.wasm_gc = config.wasm_function_references = True
    there = wasmtime.Store(wasmtime.Engine(config))
    call_there: Any = wasmtime.Instance(there, wasmtime.Module(there.engine, source), []).exports(there)["call"]
    engine = by_need()
    module = Module(engine, source)
    places = [
        (index, number)
        for index, body in enumerate(module.decoded.bodies)
        for number, each in enumerate(body.instructions)
        if each.name == CALL
    ]
    sites = dict(zip(places, [guessed[0], guessed[1], guessed[0]], strict=True))
    pieces = module.pieces(inline_allocation=True)
    assert pieces is not None
    functions = tuple(range(5))
    compiled = module._compile_now(True, piece=(level_of(2), functions), call_targets=CallTargets(sites.get))
    pieces._link(functions, level_of(2), compiled)
    assert compiled.call_targets, "some of the functions can be in the place of a call"
    with lh.Store(engine) as store:
        exports: Any = lh.Instance(store, module).exports
        for kind in kinds:
            here = outcome(functools.partial(exports.call, kind, depth))
            assert here == outcome(functools.partial(call_there, there, kind, depth))
        store.collect()
        store.verify()


def test_loops_within_loops_are_optimised_at_once_and_again_when_their_calls_were_seen() -> None:
    engine = by_need()
    module = Module(engine, NESTED)
    instance = lh.Instance(lh.Store(engine), module)
    exports: Any = instance.exports
    code = module.pieces(inline_allocation=True)
    assert code is not None
    nested = index_of(module, "nested")

    def levels() -> list[int]:
        return [piece.level for piece in code.linked if nested in piece.functions]

    assert exports.nested(10, 5) == expected_sum(10, 5)
    assert levels() == [watched(code.level)], "optimised at once, but counting"
    with pytest.raises(lh.Trap) as caught:
        exports.nested(1, 1001)
    assert [frame.func_name for frame in caught.value.frames] == ["nested"]
    limit = time.monotonic() + 60
    while len(levels()) == 1:
        assert exports.nested(100, 5) == expected_sum(100, 5)
        assert time.monotonic() < limit, "it was never optimised again"
    assert levels() == [watched(code.level), code.level]
    assert exports.nested(100, 5) == expected_sum(100, 5)
    # A call in an inlined function, of which the watched code has noted what it came to.
    assert {function: target for (function, _), target in guesses(module).items()}["area"] == "square_area"


def test_loops_within_loops_that_call_nothing_through_references_need_not_count() -> None:
    engine = by_need()
    module = Module(
        engine,
        """(module (func (export "f") (param i32) (result i32)
          (loop (loop (br_if 0 (local.tee 0 (i32.shr_u (local.get 0) (i32.const 1))))) (br_if 0 (local.get 0)))
          (local.get 0)))""",
    )
    exports: Any = lh.Instance(lh.Store(engine), module).exports
    code = module.pieces(inline_allocation=True)
    assert code is not None
    assert exports.f(100) == 0
    assert [piece.level for piece in code.linked] == [code.level]
