"""Loops that count: which are found, that they end as soon as is said, and what comes of it.

Whatever is said to end soon does, as Python shows that goes round itself: for all numbers of 4 bits, and for random
loops with numbers of 32 bits near the ends of what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

import lowheap as lh
from lowheap.wasm import counted_loops, events
from lowheap.wasm import function as function_module
from lowheap.wasm import module as wasm_module
from lowheap.wasm.counted_loops import LONGEST_BODY, Counting, ends_soon
from lowheap.wasm.inlining import SMALL

pytestmark = pytest.mark.compiler

PREDICATES = ["ne", "ult", "ule", "ugt", "uge", "slt", "sle", "sgt", "sge"]
WASM = {"ult": "lt_u", "ule": "le_u", "ugt": "gt_u", "uge": "ge_u", "slt": "lt_s", "sle": "le_s", "sgt": "gt_s"}
WASM |= {"sge": "ge_s", "ne": "ne", "eq": "eq"}


def holds(predicate: str, left: int, right: int, width: int) -> bool:
    """A comparison of two numbers without sign, as its name wants them taken."""
    if predicate.startswith("s"):
        left, right = ((each ^ 1 << (width - 1)) for each in (left, right))
    relation = predicate[-2:]
    less = left < right if relation[0] == "l" else left > right
    return {"eq": left == right, "ne": left != right}.get(relation, less or (relation[1] == "e" and left == right))


def evaluate(value: ir.Value, known: dict[int, int]) -> int:
    """What an IR value comes to, as a number without sign, where those of some are known, by their ids."""
    if id(value) in known:
        return known[id(value)]
    mask = (1 << value.type.width) - 1
    if isinstance(value, ir.Constant):
        return int(value.constant) & mask
    left, right = (evaluate(each, known) for each in value.operands)
    if isinstance(value, ir.ICMPInstr):
        return holds(value.op, left, right, value.operands[0].type.width)
    return {"add": left + right, "sub": left - right, "and": left & right, "urem": right and left % right}[
        value.opname
    ] & mask


# ----------------------------------------------------------------------------------------------------------------------
# When one ends

WIDTH = 4
NUMBERS = range(1 << WIDTH)


def claims(predicate: str, step: int, ahead: int, most: int) -> Callable[[int, int], bool]:
    """What `ends_soon` says of a loop that begins at one number and is compared with another."""
    type = ir.IntType(WIDTH)
    function = ir.Function(ir.Module(), ir.FunctionType(ir.IntType(1), [type, type]), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    start, limit = function.args
    said = ends_soon(builder, Counting(start, ahead, step, predicate, limit), limit, most)
    return lambda first, last: bool(evaluate(said, {id(start): first, id(limit): last}))


def rounds(predicate: str, step: int, first: int, limit: int) -> int:
    """How often a loop goes round; more than there are numbers if it has no end."""
    number = 0
    while number <= len(NUMBERS) and holds(predicate, first, limit, WIDTH):
        first = (first + step) % len(NUMBERS)
        number += 1
    return number


@settings(max_examples=150, deadline=None)
@given(
    predicate=st.sampled_from(PREDICATES),
    size=st.integers(1, len(NUMBERS) // 2),
    ahead=st.integers(-len(NUMBERS) // 2, len(NUMBERS) // 2 - 1),
    most=st.integers(0, len(NUMBERS) // 2 - 1),
    falls=st.booleans(),
)
def test_what_is_said_to_end_soon_does(predicate: str, size: int, ahead: int, most: int, falls: bool) -> None:
    if predicate != "ne":
        falls = predicate[1] == "g"
    size = size if falls else min(size, len(NUMBERS) // 2 - 1)
    step = -size if falls else size
    says = claims(predicate, step, ahead, most)
    for first in NUMBERS:
        for limit in NUMBERS:
            if says(first, limit):
                begin = (first + ahead) % len(NUMBERS)
                assert rounds(predicate, step, begin, limit) <= most + 1, (first, limit)


@pytest.mark.parametrize(
    ("predicate", "step"), [("ult", 1), ("slt", 1), ("ugt", -1), ("sgt", -1), ("ne", 1), ("ne", -1)]
)
def test_what_does_end_soon_is_said_to(predicate: str, step: int) -> None:
    most = 5
    says = claims(predicate, step, 0, most)
    for first in NUMBERS:
        for limit in NUMBERS:
            assert says(first, limit) or not 0 < rounds(predicate, step, first, limit) <= most


# ----------------------------------------------------------------------------------------------------------------------
# Which are found

Found = list[tuple[str, Counting, int, ir.Function]]


@contextmanager
def finding() -> Iterator[Found]:
    """Gather the loops that count while modules are compiled: their functions' names, how, the most rounds."""
    found: Found = []

    def note(builder: ir.IRBuilder, counting: Counting, limit: ir.Value, most: int) -> ir.Value:
        found.append((builder.function.name.split(".")[-1], counting, most, builder.function))
        return counted_loops.ends_soon(builder, counting, limit, most)

    with mock.patch.object(function_module, "ends_soon", note):
        yield found


class Emitted(Exception):
    """What comes out of a compiler that is stopped before LLVM has anything."""


def emitted(source: str, **options: Any) -> str:
    """A module's IR, which is not optimised."""

    def stop(module: ir.Module, *_: Any, **__: Any) -> None:
        raise Emitted(str(module))

    with mock.patch.object(wasm_module, "compile_ir", stop), pytest.raises(Emitted) as caught:
        lh.Module(lh.Engine(**options), source)
    return str(caught.value)


AT, N = "(local.get $i)", "(local.get $n)"
UP = "(local.set $i (i32.add (local.get $i) (i32.const 1)))"
DOWN = "(local.set $i (i32.sub (local.get $i) (i32.const 1)))"
WORK = "(local.set $h (i32.xor (i32.mul (local.get $h) (i32.const 31)) (local.get $i)))"


def while_loop(condition: str, body: str = WORK, step: str = UP) -> str:
    """Left by a `br_if` while the condition does not hold."""
    return f"(block $end (loop $again (br_if $end (i32.eqz {condition})) {body} {step} (br $again)))"


COUNTED = {
    "while": while_loop(f"(i32.lt_s {AT} {N})"),
    "while_turned_round": f"(block $end (loop $again (br_if $end (i32.ge_u {AT} {N})) {WORK} {UP} (br $again)))",
    "operands_turned_round": while_loop(f"(i32.gt_u {N} {AT})"),
    "do": f"(loop $again {WORK} {UP} (br_if $again (i32.lt_s {AT} {N})))",
    "do_with_a_tee": f"(loop $again {WORK} (br_if $again (i32.ne (local.tee $i (i32.add (i32.const 1) {AT})) {N})))",
    "do_not": f"(loop $again {WORK} {UP} (br_if $again (i32.eqz (i32.ge_s {AT} {N}))))",
    "down_to_0": f"(loop $again {WORK} (br_if $again (local.tee $i (i32.sub {AT} (i32.const 1)))))",
    "down_by_adding": f"(loop $again {WORK} (br_if $again (local.tee $i (i32.add {AT} (i32.const -1)))))",
    "test_before_the_step": f"(block $end (loop $again {WORK} (br_if $end (i32.eq {AT} {N})) {UP} (br $again)))",
    "inside_an_if": f"(loop $again (if (i32.lt_u {AT} {N}) (then {WORK} {UP} (br $again))))",
    "inside_an_else": f"(loop $again (if (i32.ge_u {AT} {N}) (then) (else {WORK} {UP} (br $again))))",
    "up_to_and_with": while_loop(f"(i32.le_u {AT} {N})"),
    "by_fours": f"(loop $again {WORK} (br_if $again (i32.ne (local.tee $i (i32.add {AT} (i32.const 4))) {N})))",
    "two_ways_round": while_loop(
        f"(i32.lt_u {AT} {N})", f"{UP} (br_if $again (i32.rem_u {AT} (i32.const 3))) {WORK}", ""
    ),
    "steps_on_both": f"""(loop $again
        (if (i32.ge_u {AT} {N}) (then (return (local.get $h))))
        (if (i32.and {AT} (i32.const 1)) (then {WORK} {UP} (br $again)))
        {UP} (br $again))""",
    "left_by_an_if": f"""(block $end (loop $again
        (if (i32.eqz (i32.lt_u {AT} {N})) (then (br $end)) (else {WORK})) {UP} (br $again)))""",
    "an_array": while_loop(f"(i32.lt_u {AT} (array.len (local.get $a)))"),
    "one_that_may_be_null": while_loop(f"(i32.lt_u {AT} (array.len (local.get $maybe)))"),
    "wide": """(loop $again (local.set $w (i64.add (local.get $w) (i64.const 2)))
        (br_if $again (i64.lt_s (local.get $w) (local.get $m))))""",
    "a_parameter": f"""(local.set $h {AT} (loop $again (param i32) (result i32)
        (local.set $h) (i32.sub (local.get $h) (i32.const 1))
        (br_if $again (i32.gt_s (local.get $h) (i32.const 0)))))""",
    "the_inner_of_two": f"(loop $around {while_loop(f'(i32.lt_s {AT} {N})')} (br_if $around (local.get $h)))",
}
OTHERS = {
    "endless": "(loop $again (br $again))",
    "away": while_loop(f"(i32.lt_s {AT} {N})", step=DOWN),
    "no_step": while_loop(f"(i32.lt_s {AT} {N})", step=""),
    "a_step_now_and_then": while_loop(f"(i32.lt_s {AT} {N})", step=f"(if (local.get $h) (then {UP}))"),
    "steps_that_differ": f"""(loop $again
        (if (i32.ge_u {AT} {N}) (then (return (local.get $h))))
        (if (i32.and {AT} (i32.const 1)) (then {WORK} {DOWN} (br $again)))
        {UP} (br $again))""",
    "a_way_without_a_test": f"""(block $end (loop $again {UP} (br_if $again (local.get $h))
        (br_if $end (i32.ge_u {AT} {N})) {WORK} (br $again)))""",
    "another_way_without_a_test": f"""(loop $again
        (if (i32.lt_u {AT} {N}) (then {WORK} {UP} (br $again))) {UP} (br_if $again (local.get $h)))""",
    "an_if_that_leaves_nothing": f"""(loop $again
        (if (i32.ge_u {AT} {N}) (then {WORK}) (else (return (local.get $h)))) {UP} (br $again))""",
    "a_block_that_is_left": f"""(block $end (loop $again
        (block $on (br_if $on (local.get $h)) (br_if $end (i32.ge_u {AT} {N}))) {UP} (br $again)))""",
    "a_test_now_and_then": f"""(block $end (loop $again
        (if (local.get $h) (then (br_if $end (i32.ge_u {AT} {N})))) {UP} (br $again)))""",
    "set_back": while_loop(f"(i32.lt_s {AT} {N})", step=f"{UP} (local.set $i (i32.and {AT} (i32.const 7)))"),
    "a_limit_that_moves": while_loop(f"(i32.lt_s {AT} {N})", f"(local.set $n (i32.add {N} (i32.const 1)))"),
    "an_array_that_changes": while_loop(
        f"(i32.lt_u {AT} (array.len (local.get $maybe)))", "(local.set $maybe (global.get $g))"
    ),
    "of_a_global": while_loop(f"(i32.lt_u {AT} (global.get $count))"),
    "equality": f"(loop $again {UP} (br_if $again (i32.eq {AT} {N})))",
    "allocates": while_loop(f"(i32.lt_s {AT} {N})", "(drop (array.new_default $numbers (i32.const 1)))"),
    "fills": while_loop(f"(i32.lt_s {AT} {N})", f"(array.fill $numbers (local.get $a) (i32.const 0) {AT} {AT})"),
    "calls": while_loop(f"(i32.lt_s {AT} {N})", "(drop (call $leaf))"),
    "lets_go": while_loop(f"(i32.lt_s {AT} {N})", "(global.set $g (ref.null $numbers))"),
    "is_large": while_loop(f"(i32.lt_s {AT} {N})", WORK * (LONGEST_BODY // 6)),
}


def shapes(bodies: dict[str, str]) -> str:
    functions = "".join(
        f"""(func ${name} (export "{name}") (param $i i32) (param $n i32) (param $m i64) (param $a (ref $numbers))
          (result i32) (local $h i32) (local $w i64) (local $maybe (ref null $numbers))
          (local.set $maybe (local.get $a)) {body} (i32.add (local.get $h) (i32.wrap_i64 (local.get $w))))"""
        for name, body in bodies.items()
    )
    return f"""(module (type $numbers (array (mut i32))) (global $g (mut (ref null $numbers)) (ref.null $numbers))
      (global $count (mut i32) (i32.const 7)) (func $leaf (result i32) {"(nop)" * SMALL} (i32.const 1)) {functions}
      (func (export "make") (param i32) (result (ref $numbers)) (array.new_default $numbers (local.get 0))))"""


def test_shapes_that_count() -> None:
    with finding() as found:
        emitted(shapes(COUNTED))
    assert sorted({name for name, *_ in found}) == sorted(COUNTED)


def test_shapes_that_do_not() -> None:
    with finding() as found:
        text = emitted(shapes(OTHERS))
    assert [name for name, *_ in found] == []
    assert text.count('call void @"lowheap.poll"') >= len(OTHERS)


def test_code_that_is_not_interruptible_has_each_loop_once() -> None:
    with finding() as found:
        emitted(shapes(COUNTED), interruptible=False)
    assert found == []


# --- Random loops, as text and run by Python --------------------------------------------------------------------------

Expression = Any  # a variable's name, a number, or an operator and two of these
Statement = Any
MASK = 0xFFFF_FFFF

variables = st.sampled_from(["i", "n", "j"])
small = st.sampled_from([1, 1, 1, 2, 3, 7, MASK, MASK - 1, 0x8000_0000])
steps = st.tuples(st.sampled_from(["add", "sub"]), st.just("i"), small)
expressions = st.one_of(variables, small, steps)
conditions = st.tuples(st.sampled_from(list(WASM)), expressions, expressions, st.booleans())
telling = st.one_of(
    st.tuples(st.sampled_from(list(WASM)), st.one_of(st.just("i"), steps), st.just("n"), st.booleans()),
    st.tuples(st.sampled_from(list(WASM)), st.just("n"), st.one_of(st.just("i"), steps), st.booleans()),
)
simple = st.one_of(
    st.tuples(st.just("set"), st.just("j"), expressions),
    st.tuples(st.just("set"), variables, expressions),
    st.tuples(st.just("leave"), conditions),
    st.tuples(st.just("again"), telling),
)
statements = st.one_of(
    simple, st.tuples(st.just("if"), st.one_of(telling, conditions), *[st.lists(simple, max_size=2)] * 2)
)
bodies = st.builds(
    lambda inside, end: [*inside, ("again", end)],
    st.builds(
        lambda step, condition, others: [("set", "i", step), ("leave", condition), *others],
        steps,
        telling,
        st.lists(statements, max_size=2),
    ).flatmap(st.permutations),
    st.one_of(st.none(), telling),
)
bounds = st.builds(lambda base, more: (base + more) & MASK, st.sampled_from([0, 0x8000_0000]), st.integers(-20, 20))


def text_of(each: Any) -> str:
    """An expression, a condition or a statement in WebAssembly's text format."""
    match each:
        case None:
            return "(i32.const 1)"
        case int():
            return f"(i32.const {each})"
        case str():
            return f"(local.get ${each})"
        case ("add" | "sub") as operator, left, right:
            return f"(i32.{operator} {text_of(left)} {text_of(right)})"
        case "set", name, value:
            return f"(local.set ${name} {text_of(value)})"
        case "leave", condition:
            return f"(br_if $end {text_of(condition)})"
        case "again", condition:
            return "(br $again)" if condition is None else f"(br_if $again {text_of(condition)})"
        case "if", condition, then, otherwise:
            inside = [" ".join(map(text_of, part)) for part in (then, otherwise)]
            return f"(if {text_of(condition)} (then {inside[0]}) (else {inside[1]}))"
        case operator, left, right, is_negated:
            comparison = f"(i32.{WASM[operator]} {text_of(left)} {text_of(right)})"
            return f"(i32.eqz {comparison})" if is_negated else comparison
    raise AssertionError(each)


def value_of(each: Expression, state: dict[str, int]) -> int:
    match each:
        case int():
            return each
        case str():
            return state[each]
        case operator, left, right:
            a, b = value_of(left, state), value_of(right, state)
            return (a + b if operator == "add" else a - b) & MASK
    raise AssertionError(each)


def run(body: list[Statement], state: dict[str, int]) -> str | None:
    """Run statements: "leave" or "again" where they branch."""

    def is_true(condition: Any) -> bool:
        if condition is None:
            return True
        predicate, left, right, is_negated = condition
        return holds(predicate, value_of(left, state), value_of(right, state), 32) != is_negated

    for statement in body:
        if statement[0] == "set":
            state[statement[1]] = value_of(statement[2], state)
        elif statement[0] == "if":
            branch = run(statement[2 if is_true(statement[1]) else 3], state)
            if branch is not None:
                return branch
        elif is_true(statement[1]):
            return str(statement[0])
    return None


def test_random_loops_that_are_said_to_end_soon_do() -> None:
    judged = []

    @settings(max_examples=100, deadline=None)
    @given(body=bodies, values=st.lists(st.tuples(bounds, bounds, bounds), min_size=20, max_size=20))
    def check(body: list[Statement], values: list[tuple[int, int, int]]) -> None:
        parameters = "(param $i i32) (param $n i32) (param $j i32)"
        inside = " ".join(map(text_of, body))
        source = f"(module (func $f {parameters} (block $end (loop $again {inside}))))"
        with mock.patch.object(function_module, "_MOST_UNPOLLED", 400), finding() as found:
            emitted(source)
        for _, counting, most, function in found:
            builder = ir.IRBuilder(function.append_basic_block())
            said = ends_soon(builder, counting, counting.limit, most)
            for numbers in values:
                known = {id(argument): number for argument, number in zip(function.args[1:], numbers, strict=True)}
                if evaluate(said, known):
                    judged.append(body)
                    state = dict(zip("inj", numbers, strict=True))
                    went_round = 0
                    while run(body, state) == "again":
                        went_round += 1
                        assert went_round <= most + 1, (text_of(body[0]), numbers)

    check()
    assert len(judged) > 20


# ----------------------------------------------------------------------------------------------------------------------
# What comes of it


def test_both_ways_come_to_the_same() -> None:
    """Each shape's results are as of code without polls, whether it is said to end soon or not."""
    source = shapes(COUNTED)
    cases = [(1, 9), (5, 5), (3, 1025)]

    def results(**options: Any) -> list[Any]:
        store = lh.Store(lh.Engine(opt_level=1, **options))
        exports = lh.Instance(store, lh.Module(store.engine, source)).exports
        answers = []
        for name in COUNTED:
            for start, limit in cases:
                if name in ("by_fours", "do_with_a_tee"):
                    start, limit = limit - 8, limit  # which it must not step over
                if name == "the_inner_of_two":
                    continue  # goes on until the work comes to 0
                answers.append(exports[name](start, limit, limit, exports["make"](limit)))
        store.close()
        return answers

    expected = results(interruptible=False)
    assert len(set(expected)) > len(expected) // 3
    with mock.patch.object(function_module, "_MOST_UNPOLLED", 1000):
        assert results() == expected


def test_an_array_that_is_null_traps_as_ever() -> None:
    source = f"""(module (type $numbers (array (mut i32)))
      (func (export "f") (param $a (ref null $numbers)) (result i32) (local $i i32) (local $h i32)
        {while_loop(f"(i32.lt_u {AT} (array.len (local.get $a)))")} (local.get $h)))"""
    store = lh.Store()
    with pytest.raises(lh.Trap, match="null"):
        lh.Instance(store, lh.Module(store.engine, source)).exports["f"](None)
    store.close()


VECTOR = f"""(module (func (export "f") (param $n i32) (result i32) (local $i i32) (local $h i32)
    (loop $again
      (local.set $h (i32.xor (local.get $h) (i32.mul {AT} (i32.xor {AT} (i32.const 0x5bd1)))))
      (br_if $again (i32.lt_s (local.tee $i (i32.add {AT} (i32.const 1))) {N})))
    (local.get $h)))"""


def test_llvm_makes_vectors_of_a_loop_of_numbers() -> None:
    assert "x i32> " in lh.Module(lh.Engine(), VECTOR).compiled.llvm_ir


def test_a_function_with_a_loop_that_ends_soon_polls_when_it_is_called() -> None:
    """Or many calls of it might take for ever."""
    text = emitted(VECTOR)
    assert 'call void @"lowheap.stack_poll"' in text
    assert 'call void @"lowheap.stack_check"' not in text


def test_a_loop_that_calls_what_polls_does_not_poll_itself() -> None:
    source = f"""(module
      (global $calls (mut i32) (i32.const 0))
      (func $again (param i32)
        (global.set $calls (local.get 0))
        (if (local.get 0) (then (call $again (i32.const 0)))))
      (func $guarded (param i32) (if (local.get 0) (then (call $guarded (i32.const 0)))))
      (func (export "always") (param $i i32) (param $n i32)
        {while_loop(f"(i32.lt_s {AT} {N})", f"(call $again {AT})")})
      (func (export "now_and_then") (param $i i32) (param $n i32)
        {while_loop(f"(i32.lt_s {AT} {N})", f"(if {AT} (then (call $again {AT})))")})
      (func (export "too_late") (param $i i32) (param $n i32)
        {while_loop(f"(i32.lt_s {AT} {N})", f"(br_if $again (i32.and {AT} (i32.const 1))) (call $again {AT})")})
      (func (export "not_called") (param $i i32) (param $n i32)
        {while_loop(f"(i32.lt_s {AT} {N})", f"(call $guarded {AT})")}))"""
    functions = emitted(source).split("\ndefine ")
    polls = [each.count('call void @"lowheap.poll"') for each in functions if '@"wasm.' in each.split("\n")[0]]
    assert polls == [0, 0, 0, 1, 2, 1]


def test_what_a_loop_has_twice_counts_once() -> None:
    """Two loops that read a reference, where no more are inlined: each of both versions inlines it all the same."""
    loops = while_loop(f"(i32.lt_u {AT} {N})", f"(drop (array.get $cells (local.get $a) {AT})) {UP}", "") * 2
    source = f"""(module (type $cells (array (mut anyref)))
      (func (export "f") (param $i i32) (param $n i32) (param $a (ref $cells)) {loops}))"""
    with mock.patch.object(events, "MOST_INLINED", 2), mock.patch.object(events, "MOST_IN_LOOPS", 2):
        reads = [line for line in emitted(source).splitlines() if 'call i32 @"lowheap.array_get' in line]
    assert [("alwaysinline" in line, "noinline" in line) for line in reads] == [(True, False)] * 4


def test_of_many_loops_only_some_are_had_twice() -> None:
    """What LLVM needs for a function grows with more than its length."""
    loops = while_loop(f"(i32.lt_u {AT} {N})") * 3
    source = f"""(module (func (export "f") (param $i i32) (param $n i32) (local $h i32) {loops})
      (func (export "g") (param $i i32) (param $n i32) (local $h i32) {loops}))"""
    with finding() as found, mock.patch.object(function_module, "MOST_TWICE", 2):
        text = emitted(source)
    assert [name for name, *_ in found] == ["0", "0", "1", "1"]
    assert text.count('call void @"lowheap.poll"') == 6


def test_an_array_is_not_held_for_a_length_that_is_known() -> None:
    """The length was read, and the array let go of, before the loop."""
    source = f"""(module (type $numbers (array (mut i32)))
      (func (export "before") (param $i i32) (param $a (ref null $numbers)) (local $h i32) (local $n i32)
        (local.set $n (array.len (local.get $a))) {while_loop(f"(i32.lt_u {AT} {N})")})
      (func (export "inside") (param $i i32) (param $a (ref null $numbers)) (local $h i32)
        {while_loop(f"(i32.lt_u {AT} (array.len (local.get $a)))")}))"""
    functions = [each for each in emitted(source).split("\ndefine ") if '@"wasm.' in each.split("\n")[0]]
    assert [each.count('call i32 @"lowheap.array_len') for each in functions] == [1, 3]
