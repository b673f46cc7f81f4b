"""Small functions in the place of their calls: which they are, and that nobody can tell but by the clock."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap.wasm import inlining
from lowheap.wasm.inlining import GUARDED, INLINED, Inliner, cold_instructions, inlined_operands

pytestmark = pytest.mark.compiler

LONG = "(nop)" * inlining.SMALL


def inlined(source: str, function: int, most: int = inlining.SMALL) -> list[int]:
    """The functions that are put in the place of a function's calls, in order."""
    module = lh.Module(lh.Engine(), source)
    body = Inliner(module.outline, module.call_graph, most).body(function)
    return [inlined_operands(each)[0] for each in body.instructions if each.name == INLINED]


def test_small_functions_are_inlined_and_what_they_call() -> None:
    source = """(module
      (func $one (result i32) (i32.const 1))
      (func $two (result i32) (i32.add (call $one) (call $one)))
      (func (export "f") (result i32) (i32.add (call $two) (call $one))))"""
    assert inlined(source, 2) == [1, 0, 0, 0]
    assert inlined(source, 2, most=3) == [0]


@pytest.mark.parametrize(
    "callee",
    [
        f"(func $c (param i32) (result i32) {LONG} (local.get 0))",
        """(func $c (param i32) (result i32)
          (if (result i32) (local.get 0) (then (i32.const 0)) (else (call $c (i32.const 1)))))""",
        "(func $c (param i32) (result i32) (return_call $d (local.get 0)))",
        "(func $c (param i32) (result i32) (unreachable))",
        f"(func $c (param i32) (result i32) (local {'i64 ' * inlining.MOST_LOCALS}) (local.get 0))",
    ],
    ids=["long", "recursive", "tail call", "always traps", "many locals"],
)
def test_these_are_not(callee: str) -> None:
    source = f"""(module {callee} (func (export "f") (param i32) (result i32) (call $c (local.get 0)))
      (func $d (param i32) (result i32) {LONG} (local.get 0)))"""
    assert inlined(source, 1) == []


def test_functions_that_call_each_other_are_inlined_once() -> None:
    source = """(module
      (func $a (param i32) (result i32)
        (if (result i32) (local.get 0) (then (call $b (i32.const 0))) (else (i32.const 1))))
      (func $b (param i32) (result i32)
        (if (result i32) (local.get 0) (then (call $a (i32.const 0))) (else (i32.const 2))))
      (func (export "f") (param i32) (result i32) (call $a (local.get 0))))"""
    assert inlined(source, 0) == [1]
    assert inlined(source, 2) == [0, 1]


def test_a_function_does_not_grow_without_bounds() -> None:
    small = f"(func $c {'(nop)' * (inlining.SMALL - 1)})"
    calls = "(call $c)" * 100
    source = f'(module {small} (func (export "f") {calls}))'
    assert len(inlined(source, 1)) == (inlining.MOST_INSTRUCTIONS - 101) // inlining.SMALL


def test_what_comes_to_a_throw_is_cold() -> None:
    source = """(module (tag $e (param i32)) (func $n (result i32) (i32.const 5))
      (func (export "f") (param i32) (result i32)
        (if (i32.lt_s (local.get 0) (call $n)) (then (throw $e (call $n))))
        (if (i32.eqz (local.get 0)) (then (drop (call $n)) (unreachable)))
        (call $n)))"""
    module = lh.Module(lh.Engine(), source)
    instructions = module.decoded.bodies[1].instructions
    assert [instructions[number].name for number in sorted(cold_instructions(instructions))] == [
        *("call", "throw"),
        *("call", "drop", "unreachable"),
    ]
    assert inlined(source, 1) == [0, 0]


def test_fuel_is_counted_by_calls_and_nothing_is_inlined() -> None:
    source = """(module (func $one (result i32) (i32.const 1)) (func (export "f") (result i32) (call $one)))"""
    used = []
    for engine in (lh.Engine(consume_fuel=True), lh.Engine(consume_fuel=True, opt_level=0)):
        store = lh.Store(engine)
        store.set_fuel(100)
        lh.Instance(store, lh.Module(engine, source)).exports.f()
        used.append(store.get_fuel())
    assert used[0] == used[1] < 100


def test_a_local_is_zero_each_time() -> None:
    source = """(module
      (func $count (result i32) (local $n i32) (local.set $n (i32.add (local.get $n) (i32.const 1))) (local.get $n))
      (func (export "f") (result i32) (local $i i32) (local $sum i32)
        (loop $again
          (local.set $sum (i32.add (local.get $sum) (i32.add (call $count) (call $count))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $i) (i32.const 10))))
        (local.get $sum)))"""
    assert inlined(source, 1) == [0, 0]
    exports: Any = lh.Instance(lh.Store(engine := lh.Engine()), lh.Module(engine, source)).exports
    assert exports.f() == 20


# --- Random modules, against wasmtime ---------------------------------------------------------------------------------

TYPE = "(param i32 i32) (param $depth i32) (result i32) (local i32 i32)"
LOCALS = (0, 1, 3, 4)

LOOP = """(local.set 4 (i32.const 3)) (loop $l (local.set 3 {})
  (local.set 4 (i32.sub (local.get 4) (i32.const 1))) (br_if $l (i32.gt_s (local.get 4) (i32.const 0))))"""
BOXED = "(struct.get $box 0 (struct.new $box {}))"
AGAIN = """(if (result i32) (i32.gt_s (local.get $depth) (i32.const 0))
  (then (call $fNUMBER {} {} (i32.sub (local.get $depth) (i32.const 1)))) (else {}))"""


def expressions(number: int) -> st.SearchStrategy[str]:
    """What a function computes, which may call those before it and itself, leave early, trap, or throw."""
    local = st.sampled_from(LOCALS)
    leaf = st.one_of(st.integers(-3, 3).map("(i32.const {})".format), local.map("(local.get {})".format))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        ways = [
            st.builds("(i32.{} {} {})".format, st.sampled_from(["add", "sub", "mul", "div_s"]), inner, inner),
            st.builds("(if (result i32) {} (then {}) (else {}))".format, inner, inner, inner),
            st.builds("(block $out (result i32) (drop (br_if $out {} {})) {})".format, inner, inner, inner),
            st.builds("(local.tee {} {})".format, local, inner),
            st.builds("(block (result i32) (local.set {} {}) {})".format, local, inner, inner),
            st.builds("(if (result i32) {} (then (return {})) (else {}))".format, inner, inner, inner),
            st.builds("(if (result i32) {} (then (throw $e {})) (else {}))".format, inner, inner, inner),
            st.builds("(block $h (result i32) (try_table (result i32) (catch $e $h) {}))".format, inner),
            st.builds("(block (result i32) {} {})".format, inner.map(LOOP.format), inner),
            st.builds("(block (result i32) (drop (struct.new $box {})) {})".format, inner, inner.map(BOXED.format)),
        ]
        if number:
            call = st.builds("(call $f{} {} {} (local.get $depth))".format, st.integers(0, number - 1), inner, inner)
            ways += [call, call, call]
        itself = st.builds(AGAIN.replace("NUMBER", str(number)).format, inner, inner, inner)
        return st.one_of([*ways, itself, itself])

    # What the function begins with may be a guard.
    test = st.builds("(i32.{} {} {})".format, st.sampled_from(["lt_s", "eq", "rem_s", "div_u"]), leaf, leaf)
    result = st.one_of(leaf, st.builds("(i32.div_s {} {})".format, leaf, leaf), leaf.map(BOXED.format))
    start = st.one_of(
        st.just("{0}"),
        st.builds("(if {} (then (return {}))) {{0}}".format, test, result),
        st.builds("(if (result i32) {} (then {}) (else {{0}}))".format, test, result),
        st.builds("(if (result i32) {} (then {{0}}) (else {}))".format, test, result),
        st.builds("(block $end (br_if $end {}) (return {{0}})) {}".format, test, result),
    )
    return st.builds(str.format, start, st.recursive(leaf, larger, max_leaves=8))


@st.composite
def modules(draw: st.DrawFn) -> str:
    count = draw(st.integers(2, 6))
    functions = "".join(
        f'(func $f{number} (export "f{number}") {TYPE} {draw(expressions(number))})' for number in range(count)
    )
    return f"(module (type $box (struct (field i32))) (tag $e (param i32)) {functions})"


def outcome_here(exports: Any, name: str, arguments: tuple[int, int, int]) -> Any:
    try:
        return exports[name](*arguments)
    except lh.Trap as trap:
        return [(each.func_index, each.module_offset) for each in trap.frames]
    except lh.WasmException:
        return "thrown"


def outcome_there(store: wasmtime.Store, function: Any, arguments: tuple[int, int, int]) -> Any:
    try:
        return function(store, *arguments)
    except wasmtime.Trap as trap:
        if "exception" in trap.message:
            return "thrown"
        return [(each.func_index, each.module_offset) for each in trap.frames]


NUMBERS = st.integers(-2, 3)


@settings(deadline=None)
@given(modules(), st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(0, 2)), min_size=1, max_size=4))
def test_random_functions_do_what_they_do_on_wasmtime(source: str, calls: list[tuple[int, int, int]]) -> None:
    config = wasmtime.Config()
    config.wasm_gc = config.wasm_function_references = config.wasm_exceptions = True
    there = wasmtime.Store(wasmtime.Engine(config))
    exports_there = wasmtime.Instance(there, wasmtime.Module(there.engine, source), []).exports(there)
    for compilation in ("whole", "by_need"):
        engine = lh.Engine(cache=False, compilation=compilation)
        store = lh.Store(engine, collect_every=1)
        module = lh.Module(engine, source)
        if compilation == "by_need":
            module.compile_all(jobs=1)
        exports = lh.Instance(store, module).exports
        for number in range(len(module.decoded.bodies)):
            for each in calls:
                name = f"f{number}"
                assert outcome_here(exports, name, each) == outcome_there(there, exports_there[name], each)
        store.verify()
        store.close()


# ----------------------------------------------------------------------------------------------------------------------
# Guards


def guards(source: str, function: int, *, has_read_barrier: bool = False) -> list[int]:
    """The functions whose guards stand in front of a function's calls, in order."""
    module = lh.Module(lh.Engine(), source)
    inliner = Inliner(module.outline, module.call_graph, inlining.SMALL, has_read_barrier=has_read_barrier)
    body = inliner.body(function)
    return [inlined_operands(each)[0] for each in body.instructions if each.name == GUARDED]


LIST_TYPE = "(type $l (struct (field (ref null $l)) (field i32)))"
GUARDED_FUNCTIONS = {
    "if with a result": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (result i32) (ref.is_null (local.get 0)) (then (local.get 1))
        (else (i32.add (struct.get $l 1 (local.get 0)) (call $f (struct.get $l 0 (local.get 0)) (local.get 1))))))""",
    "else with a result": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (result i32) (i32.eqz (ref.is_null (local.get 0)))
        (then (i32.add (struct.get $l 1 (local.get 0)) (call $f (struct.get $l 0 (local.get 0)) (local.get 1))))
        (else (i32.const -7))))""",
    "return": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (ref.is_null (local.get 0)) (then (return (local.get 1))))
      (i32.add (struct.get $l 1 (local.get 0)) (call $f (struct.get $l 0 (local.get 0)) (local.get 1))))""",
    "block": """(func $f (param (ref null $l)) (param i32) (result i32)
      (block $end
        (br_if $end (ref.is_null (local.get 0)))
        (return (i32.sub (struct.get $l 1 (local.get 0)) (call $f (struct.get $l 0 (local.get 0)) (local.get 1)))))
      (i32.const 5))""",
    "a number": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (i32.lt_s (local.get 1) (i32.const 2)) (then (return (local.get 1))))
      (i32.add (call $f (local.get 0) (i32.sub (local.get 1) (i32.const 1)))
        (call $f (local.get 0) (i32.sub (local.get 1) (i32.const 2)))))""",
    "two conditions": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (i32.or (ref.is_null (local.get 0)) (i32.eq (local.get 1) (i32.const 3))) (then (return (i32.const 9))))
      (i32.xor (struct.get $l 1 (local.get 0)) (call $f (struct.get $l 0 (local.get 0)) (local.get 1))))""",
    "a result that is computed": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (ref.is_null (local.get 0)) (then (return (i32.add (local.get 1) (i32.const 1)))))
      (call $f (struct.get $l 0 (local.get 0)) (local.get 1)))""",
    "a longer way out of the block": """(func $f (param (ref null $l)) (param i32) (result i32)
      (block $end
        (br_if $end (ref.is_null (local.get 0)))
        (return (call $f (struct.get $l 0 (local.get 0)) (local.get 1))))
      (i32.add (local.get 1) (i32.const 5)))""",
    "an object that is made": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (i32.lt_s (local.get 1) (i32.const 2))
        (then (return (struct.get $l 1 (struct.new $l (local.get 0) (local.get 1))))))
      (i32.add (call $f (struct.new $l (local.get 0) (i32.const 3)) (i32.sub (local.get 1) (i32.const 1)))
        (call $f (local.get 0) (i32.sub (local.get 1) (i32.const 2)))))""",
    "what something is": """(func $f (param (ref null eq)) (param i32) (result i32)
      (if (ref.test (ref null i31) (local.get 0))
        (then (return (ref.is_null (ref.cast (ref null i31) (local.get 0))))))
      (i32.sub (local.get 1) (call $f (struct.get $l 0 (ref.cast (ref $l) (local.get 0))) (local.get 1))))""",
    "something that was made before": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (i32.eqz (global.get $made))
        (then (global.set $made (i32.const 1)) (drop (call $f (local.get 0) (local.get 1)))))
      (struct.get $l 1 (global.get $cell)))""",
    "an element that is there": """(func $f (param (ref null $l)) (param i32) (result i32)
      (local $found (ref $l))
      (block $is_there (result (ref $l))
        (br_on_non_null $is_there (array.get $a (global.get $cells) (local.get 1)))
        (array.set $a (global.get $cells) (local.get 1) (local.tee $found (struct.new $l (local.get 0) (local.get 1))))
        (drop (call $f (local.get 0) (i32.const 2)))
        (local.get $found))
      (struct.get $l 1))""",
    "locals, and branches on null": """(func $f (param (ref null $l)) (param i32) (result i32) (local i32)
      (block $end
        (local.set 2 (struct.get $l 1 (br_on_null $end (local.get 0))))
        (if (i32.and (i32.gt_s (local.get 2) (local.get 1)) (i32.eqz (i32.rem_s (local.get 2) (i32.const 3))))
          (then (return (local.get 2)))
          (else (br_if $end (i32.eq (local.get 2) (i32.const 7)))))
        (return (call $f (struct.get $l 0 (local.get 0)) (local.get 1))))
      (local.get 2))""",
    "a branch out of the function": """(func $f (param (ref null $l)) (param i32) (result i32)
      (drop (br_if 0 (i32.const 40) (i32.gt_s (local.get 1) (i32.const 3))))
      (block (br_if 0 (i32.eqz (local.get 1))) (br 1 (i32.const 50)))
      (global.set $made (i32.add (global.get $made) (i32.const 1)))
      (call $f (local.get 0) (i32.const 4)))""",
    "made on one way of two": """(func $f (param (ref null $l)) (param i32) (result i32) (local (ref null $l))
      (if (i32.lt_s (local.get 1) (i32.const 5))
        (then (local.set 2 (struct.new $l (local.get 0) (local.get 1))))
        (else (return (call $f (local.get 0) (i32.const 2)))))
      (struct.get $l 1 (local.get 2)))""",
}
UNGUARDED_FUNCTIONS = {
    "it sets a parameter": """(func $f (param (ref null $l)) (param i32) (result i32)
      (local.set 1 (i32.sub (local.get 1) (i32.const 1)))
      (if (result i32) (i32.lt_s (local.get 1) (i32.const 0)) (then (i32.const 3))
        (else (call $f (local.get 0) (local.get 1)))))""",
    "it sets a global": """(func $f (param (ref null $l)) (param i32) (result i32)
      (global.set $made (i32.const 5))
      (if (result i32) (local.get 1) (then (call $f (local.get 0) (i32.const 0))) (else (i32.const 3))))""",
    "it loops": """(func $f (param (ref null $l)) (param i32) (result i32)
      (loop (br_if 0 (i32.const 0)))
      (if (result i32) (local.get 1) (then (call $f (local.get 0) (i32.const 0))) (else (i32.const 3))))""",
    "it calls on all ways": """(func $f (param (ref null $l)) (param i32) (result i32)
      (if (result i32) (local.get 1) (then (call $f (local.get 0) (i32.const 0)))
        (else (if (result i32) (ref.is_null (local.get 0)) (then (call $g (i32.const 1)))
          (else (call $g (i32.const 2)))))))""",
    "what it makes is for a call": """(func $f (param (ref null $l)) (param i32) (result i32)
      (local (ref null $l))
      (local.set 2 (struct.new $l (local.get 0) (local.get 1)))
      (if (result i32) (local.get 1) (then (call $f (local.get 2) (i32.const 0))) (else (i32.const 3))))""",
}


def guarded_module(function: str) -> str:
    return f"""(module {LIST_TYPE} (type $a (array (mut (ref null $l)))) {function}
      (func (export "f") (param i32 i32) (result i32)
        (local $list (ref null $l))
        (global.set $made (i32.const 0))
        (loop $more
          (if (i32.gt_s (local.get 0) (i32.const 0)) (then
            (local.set $list (struct.new $l (local.get $list) (local.get 0)))
            (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
            (br $more))))
        (i32.add (i32.mul (i32.const 31) (call $f (local.get $list) (local.get 1)))
          (call $f (ref.null $l) (i32.const 7))))
      (func $g (param i32) (result i32) {LONG} (local.get 0))
      (global $made (mut i32) (i32.const 0))
      (global $cell (ref $l) (struct.new $l (ref.null $l) (i32.const 6)))
      (global $cells (ref $a) (array.new $a (ref.null $l) (i32.const 20))))"""


@pytest.mark.parametrize("name", GUARDED_FUNCTIONS)
def test_a_guard_stands_in_front_of_calls(name: str) -> None:
    source = guarded_module(GUARDED_FUNCTIONS[name])
    assert set(guards(source, 0)) == {0}
    assert guards(source, 1) == [0, 0]
    config = wasmtime.Config()
    config.wasm_function_references = True
    config.wasm_gc = True
    store = wasmtime.Store(wasmtime.Engine(config))
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, source), [])
    expected = instance.exports(store)["f"]
    for collector in ("drc", "rc-immix"):
        with lh.Store(lh.Engine(collector=collector), collect_every=1) as ours:
            found: Any = lh.Instance(ours, lh.Module(ours.engine, source)).exports["f"]
            for length in (0, 1, 2, 5):
                for number in (0, 1, 3, 9):
                    assert found(length, number) == expected(store, length, number), (length, number)  # type: ignore[operator]


@pytest.mark.parametrize("name", UNGUARDED_FUNCTIONS)
def test_no_guard_is_seen_where_there_is_none(name: str) -> None:
    assert guards(guarded_module(UNGUARDED_FUNCTIONS[name]), 1) == []


READING = ("something that was made before", "an element that is there")


@pytest.mark.parametrize("name", [*READING, "locals, and branches on null"])
def test_what_a_barrier_is_for_is_not_read_twice(name: str) -> None:
    source = guarded_module(GUARDED_FUNCTIONS[name])
    assert bool(guards(source, 1, has_read_barrier=True)) == (name not in READING)


TRAPPING = {
    "behind the guard": """(if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
      (if (i32.eq (local.get 0) (i32.const 1)) (then (unreachable)))
      (call $f (i32.sub (local.get 0) (i32.const 1)))""",
    "in the condition": """(if (i32.eqz (i32.div_s (i32.const 5) (i32.sub (local.get 0) (i32.const 1))))
        (then (return (i32.const 1))))
      (call $f (i32.sub (local.get 0) (i32.const 1)))""",
    "in the result": """(if (i32.eq (local.get 0) (i32.const 1))
        (then (return (i31.get_u (ref.cast (ref i31) (ref.null any))))))
      (call $f (i32.sub (local.get 0) (i32.const 1)))""",
}


@pytest.mark.parametrize("where", TRAPPING)
def test_a_trap_has_the_frames_that_it_has_without_guards(where: str) -> None:
    """The frame of the call, if it is behind the guard, or the guard's own in its place."""
    source = f"""(module
      (func $f (param i32) (result i32) {TRAPPING[where]} {LONG})
      (func (export "f") (param i32) (result i32) (call $f (local.get 0))))"""
    assert guards(source, 0) == [0]
    assert inlined(source, 0) == inlined(source, 1) == []
    shown = []
    for level in (0, 2):
        with lh.Store(lh.Engine(opt_level=level)) as store:
            exports: Any = lh.Instance(store, lh.Module(store.engine, source)).exports
            with pytest.raises(lh.Trap) as caught:
                exports["f"](3)
            shown.append([(each.func_index, each.module_offset) for each in caught.value.frames])
    assert shown[0] == shown[1]
    assert [index for index, _ in shown[0]] == [0, 0, 0, 1]


# ----------------------------------------------------------------------------------------------------------------------
# Functions that call themselves


TREE = """(module
  (type $t (struct (field (ref null $t)) (field (ref null $t)) (field i32)))
  (func $make (param i32) (result (ref $t)) (local $made (ref $t))
    (local.set $made (struct.new $t (ref.null $t) (ref.null $t) (local.get 0)))
    (if (i32.gt_s (local.get 0) (i32.const 0)) (then
      (return (struct.new $t
        (call $make (i32.sub (local.get 0) (i32.const 1)))
        (call $make (i32.sub (local.get 0) (i32.const 2)))
        (struct.get $t 2 (local.get $made))))))
    (local.get $made))
  (func $sum (param (ref null $t)) (result i32)
    (if (ref.is_null (local.get 0)) (then (return (i32.const 0))))
    (i32.add (struct.get $t 2 (local.get 0))
      (i32.mul (i32.const 3) (i32.sub
        (call $sum (struct.get $t 0 (local.get 0))) (call $sum (struct.get $t 1 (local.get 0)))))))
  (func (export "f") (param i32) (result i32) (call $sum (call $make (local.get 0)))))"""


def test_a_function_is_inlined_once_into_itself_and_not_into_others() -> None:
    assert inlined(TREE, 0) == [0, 0]
    assert inlined(TREE, 1) == [1, 1]
    assert guards(TREE, 1) == [1] * 4
    assert inlined(TREE, 2) == []
    results = []
    for level, collect_every in ((0, 0), (2, 0), (2, 1)):
        with lh.Store(lh.Engine(opt_level=level), collect_every=collect_every) as store:
            exports: Any = lh.Instance(store, lh.Module(store.engine, TREE)).exports
            results.append([exports["f"](depth) for depth in range(9)])
            store.collect()
            assert store.stats().live_objects == 0
    assert results[0] == results[1] == results[2]
    assert len(set(results[0])) > 5


@pytest.mark.parametrize("compilation", ["whole", "by_need"])
def test_endless_recursion_still_exhausts_the_stack_and_can_be_interrupted(compilation: str) -> None:
    source = """(module
      (func $f (export "f") (param i32) (result i32) (i32.add (i32.const 1) (call $f (local.get 0))))
      (func $g (export "g") (param i32) (result i32)
        (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
        (i32.add (call $g (i32.sub (local.get 0) (i32.const 1))) (call $g (i32.sub (local.get 0) (i32.const 1))))))"""
    assert inlined(source, 0) == [0]
    engine = lh.Engine(compilation=compilation, epoch_interruption=True)
    with lh.Store(engine) as store:
        module = lh.Module(engine, source)
        if compilation == "by_need":
            module.compile_all(jobs=1)
        store.set_epoch_deadline(1)
        exports: Any = lh.Instance(store, module).exports
        with pytest.raises(lh.Trap, match="stack"):
            exports["f"](1)
        assert exports["g"](10) == 1024
        timer = threading.Timer(0.1, engine.increment_epoch)
        timer.start()
        with pytest.raises(lh.Trap, match="interrupt"):
            exports["g"](40)
        timer.join()


RESULT_TYPES = """(module
  (type $unused (func))
  (type $l (struct (field (ref null $l)) (field i32)))
  (func $last (param (ref null $l)) (param (ref null $l)) (result (ref null $l))
    (if (ref.is_null (local.get 0)) (then (return (local.get 1))))
    (call $last (struct.get $l 0 (local.get 0)) (local.get 0)))
  (func (export "f") (result i32)
    (struct.get $l 1 (call $last
      (struct.new $l (struct.new $l (ref.null $l) (i32.const 4)) (i32.const 5)) (ref.null $l)))))"""


def test_a_guard_with_references_of_the_modules_types() -> None:
    assert guards(RESULT_TYPES, 0) == [0]
    with lh.Store(lh.Engine(), collect_every=1) as store:
        exports: Any = lh.Instance(store, lh.Module(store.engine, RESULT_TYPES)).exports
        assert exports["f"]() == 4
