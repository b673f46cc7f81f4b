"""Tail calls: whatever they pass to whatever they call, in constant stack, beside wasmtime."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir
from support import wasmtime_peer

import lowheap as lh
from lowheap.errors import TrapCode
from lowheap.jit import conventions, engine, large_frames
from lowheap.jit.signatures import Signature

RUNTIMES = ("native", "python")
OPT_LEVELS = range(4)
DEEP = 1_000_000

PROGRAM = """(module
  (type $step (func (param i64 i64) (result i64)))
  (type $by_reference (func (param i64 i64 (ref $by_reference)) (result i64)))
  (type $cell (struct (field i64)))
  (import "host" "last" (func $last (param i64) (result i64)))
  (import "host" "many" (func $host_many
    (param i32 i64 f32 f64 externref i32 i64 i32 f64 f64 f64 f64 f64 f64 f64 f32 i64) (result i64 f64 externref f32)))
  (elem declare func $referenced $last $even)
  (func $self (export "self") (type $step)
    (if (i64.eqz (local.get 0)) (then (return_call $last (local.get 1))))
    (return_call $self (i64.sub (local.get 0) (i64.const 1)) (i64.add (local.get 1) (i64.const 3))))
  (func $even (export "even") (type $step)
    (if (i64.eqz (local.get 0)) (then (return (local.get 1))))
    (return_call $odd (local.get 1) (i64.sub (local.get 0) (i64.const 1)) (f32.const 0.5)))
  (func $odd (param i64 i64 f32) (result i64)
    (if (i64.eqz (local.get 1)) (then (return (i64.sub (i64.const 0) (local.get 0)))))
    (return_call $even
      (i64.sub (local.get 1) (i64.const 1))
      (i64.add (local.get 0) (i64.trunc_f32_s (f32.mul (local.get 2) (f32.const 4))))))
  (func $referenced (type $by_reference)
    (if (i64.eqz (local.get 0)) (then (return (local.get 1))))
    (return_call_ref $by_reference
      (i64.sub (local.get 0) (i64.const 1)) (i64.add (local.get 1) (i64.const 1)) (local.get 2) (local.get 2)))
  (func (export "by_reference") (type $step)
    (return_call $referenced (local.get 0) (local.get 1) (ref.func $referenced)))
  (table $t 3 funcref)
  (elem (table $t) (i32.const 0) func $indirect)
  (func $indirect (export "indirect") (type $step)
    (if (i64.eqz (local.get 0)) (then (return (local.get 1))))
    (return_call_indirect $t (type $step)
      (i64.sub (local.get 0) (i64.const 1)) (i64.add (local.get 1) (i64.const 1)) (i32.const 0)))
  (func (export "no_function") (param i32) (result i32) (return_call_indirect $t (result i32) (local.get 0)))
  (func (export "objects") (type $step)
    (return_call $objects
      (local.get 0) (local.get 1) (i64.const 0) (i64.const 0) (i64.const 0)
      (struct.new $cell (i64.const 5)) (struct.new $cell (i64.const 7)) (ref.null $cell)))
  (func $objects (param i64 i64 i64 i64 i64 (ref $cell) (ref null $cell) (ref null $cell)) (result i64)
    (if (i64.eqz (local.get 0))
      (then (return
        (i64.add (struct.get $cell 0 (local.get 5)) (i64.mul (i64.const 3) (struct.get $cell 0 (local.get 6)))))))
    (return_call $objects
      (i64.sub (local.get 0) (i64.const 1)) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
      (struct.new $cell (i64.add (struct.get $cell 0 (local.get 5)) (i64.const 1)))
      (local.get 5) (struct.new $cell (i64.const -1))))
  (func (export "endless") (result i64) (drop (call $last (i64.const 0))) (return_call $turning (i64.const 1)))
  (func $turning (param i64) (result i64) (return_call $turning (i64.add (local.get 0) (i64.const 1))))
  (func (export "endless_indirect") (result i64)
    (drop (call $last (i64.const 0)))
    (table.set $t (i32.const 2) (ref.func $turning_in_table))
    (return_call $turning_in_table))
  (func $turning_in_table (result i64) (return_call_indirect $t (result i64) (i32.const 2)))
  (elem declare func $turning_in_table)
  (func (export "endless_by_reference") (result i64)
    (drop (call $last (i64.const 0)))
    (return_call $turning_by_reference (ref.func $turning_by_reference)))
  (type $turn (func (param (ref $turn)) (result i64)))
  (elem declare func $turning_by_reference)
  (func $turning_by_reference (type $turn) (return_call_ref $turn (local.get 0) (local.get 0)))
  (func (export "to_host") (param i32 i64 f32 f64 externref) (result i64 f64 externref f32)
    (return_call $host_many (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
      (i32.const 5) (i64.const 6) (i32.const 7) (f64.const 8) (f64.const 9) (f64.const 10) (f64.const 11)
      (f64.const 12) (f64.const 13) (f64.const 14) (f32.const 15) (i64.const 16)))
  (func (export "host") (param i32 i64 f32 f64 externref) (result i64 f64 externref f32)
    (call $host_many (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4)
      (i32.const 5) (i64.const 6) (i32.const 7) (f64.const 8) (f64.const 9) (f64.const 10) (f64.const 11)
      (f64.const 12) (f64.const 13) (f64.const 14) (f32.const 15) (i64.const 16)))
  (func $holds (export "holds") (param i64) (result i64) (local $held (ref $cell))
    (local.set $held (struct.new $cell (local.get 0)))
    (drop (call $makes (local.get 0)))
    (struct.get $cell 0 (local.get $held)))
  (func $makes (param i64) (result (ref $cell)) (return_call $made (i64.add (local.get 0) (i64.const 1))))
  (func $made (param i64) (result (ref $cell))
    (if (i64.gt_u (local.get 0) (i64.const 1000)) (then (return_call $makes (i64.const 0))))
    (drop (struct.new $cell (i64.const 1)))
    (struct.new $cell (local.get 0)))
  (func (export "null") (type $step) (return_call_ref $step (local.get 0) (local.get 1) (ref.null $step)))
  (func (export "divides") (param i32) (result i32)
    (i32.add (i32.const 1) (call $before (local.get 0))))
  (func $before (param i32) (result i32) (drop (call $last (i64.const 1))) (return_call $divide (local.get 0)))
  (func $divide (param i32) (result i32)
    (drop (call $last (i64.const 1)))
    (i32.div_s (i32.const 1) (local.get 0)))
  (func $deeper (export "deeper") (param i32) (result i32)
    (i32.add (i32.const 1) (call $tail_of_deeper (local.get 0))))
  (func $tail_of_deeper (param i32) (result i32)
    (drop (call $last (i64.const 1)))
    (return_call $deeper (local.get 0)))
  (tag $thrown (param i64))
  (func $throws (param i64) (result i64) (throw $thrown (local.get 0)))
  (func $leaves (param i64) (result i64)
    (block $caught (result i64)
      (return (try_table (result i64) (catch $thrown $caught) (return_call $throws (local.get 0)))))
    (i64.const 100) i64.add)
  (func (export "leaves") (param i64) (result i64)
    (block $caught (result i64)
      (return (try_table (result i64) (catch $thrown $caught) (call $leaves (local.get 0)))))
    (i64.const 1000) i64.add)
)"""


def host(**others: Any) -> dict[str, Any]:
    def many(*args: Any) -> tuple[Any, ...]:
        assert args[5:] == (5, 6, 7, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16)
        return args[1] + args[0], args[3], args[4], args[2]

    return {"host": {"last": lambda number: number + 1, "many": many, **others}}


def instance_of(
    source: str, opt_level: int = 2, runtime: str = "native", *, imports: Any = None, **options: Any
) -> Any:
    store = lh.Store(lh.Engine(opt_level=opt_level, runtime=runtime), **options)
    module = lh.Module(store.engine, source)
    check_tail_calls(module)
    return lh.Instance(store, module, imports or {})


def check_tail_calls(module: lh.Module) -> None:
    """No tail call of the code has an argument that has no register."""
    for line in module.compiled.llvm_ir.splitlines():
        if "musttail call" in line:
            arguments = re.sub("> <[^>]*>", "> constant", line[line.index("(") :])
            vectors = arguments.count("<4 x float> ")
            integers = len(re.findall(r"\b(?:ptr|i64) ", arguments))
            assert integers <= 1 + conventions.INTEGER_REGISTERS
            assert vectors <= conventions.FLOAT_REGISTERS
            assert integers + vectors == arguments.count(",") + 1
            assert '"deopt"' not in line


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opt_level", OPT_LEVELS)
def test_a_million_deep(opt_level: int, runtime: str) -> None:
    exports = instance_of(PROGRAM, opt_level, runtime, imports=host()).exports
    assert exports["self"](DEEP, 5) == 3 * DEEP + 6
    assert exports["even"](DEEP, 0) == DEEP
    assert exports["even"](DEEP + 1, 0) == -DEEP
    assert exports["by_reference"](DEEP, 1) == exports["indirect"](DEEP, 1) == DEEP + 1
    deep = DEEP if runtime == "native" else 1000
    assert exports["objects"](deep, 0) == 5 + deep + 3 * (4 + deep)


def test_without_polls() -> None:
    store = lh.Store(lh.Engine(interruptible=False))
    exports = lh.Instance(store, lh.Module(store.engine, PROGRAM), host()).exports
    assert exports["even"](DEEP, 0) == DEEP
    assert exports["by_reference"](DEEP, 1) == exports["indirect"](DEEP, 1) == DEEP + 1


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opt_level", [0, 2])
def test_arguments_that_no_register_holds_are_no_roots(opt_level: int, runtime: str) -> None:
    """Collections at every allocation: between them, an object is only where a function has it."""
    instance = instance_of(PROGRAM, opt_level, runtime, imports=host(), collect_every=1)
    assert instance.exports["objects"](200, 0) == 5 + 200 + 3 * (4 + 200)
    assert instance.exports["holds"](77) == 77
    instance.store.verify()
    instance.store.collect()
    assert instance.store.stats().live_objects == 0


@pytest.mark.parametrize("opt_level", [0, 2])
@pytest.mark.parametrize("name", ["host", "to_host"])
def test_a_host_function_of_many_parameters(name: str, opt_level: int) -> None:
    call = instance_of(PROGRAM, opt_level, imports=host()).exports[name]
    thing = object()
    integer, double, reference, single = call(1, 2, 0.5, 0.25, thing)
    assert (integer, double, reference.value, single) == (3, 0.25, thing, 0.5)


def test_what_a_host_function_raises_comes_out() -> None:
    def last(number: int) -> int:
        raise KeyError(number)

    instance = instance_of(PROGRAM, imports=host(last=last))
    with pytest.raises(KeyError, match="8"):
        instance.exports["self"](1, 5)


@pytest.mark.parametrize("opt_level", OPT_LEVELS)
def test_between_instances(opt_level: int) -> None:
    """Through imports and references, from one module's code to the other's and back, where there is a prototype of
    a tail call's and where there is none.
    """
    ping = """(module
      (type $other (func (param i64 i32 f64 (ref null $other) f32 f32 i64 i64 i64 i64) (result i64 f64)))
      (global $other (export "other") (mut (ref null $other)) (ref.null $other))
      (func (export "ping") (type $other)
        (if (i64.eqz (local.get 0)) (then (return (local.get 9) (local.get 2))))
        (return_call_ref $other
          (i64.sub (local.get 0) (i64.const 1)) (i32.add (local.get 1) (i32.const 1)) (local.get 2)
          (local.get 3) (local.get 4) (local.get 5) (local.get 9) (local.get 6) (local.get 7) (local.get 8)
          (global.get $other)))
      (func (export "plain") (type $other) (local.get 6) (local.get 2)))"""
    pong = """(module
      (type $other (func (param i64 i32 f64 (ref null $other) f32 f32 i64 i64 i64 i64) (result i64 f64)))
      (import "ping" "ping" (func $ping (type $other)))
      (import "ping" "plain" (func $plain (type $other)))
      (func (export "pong") (type $other)
        (if (i64.eqz (local.get 0)) (then (return_call $plain
          (i64.const 1) (i32.const 1) (f64.const -1) (ref.null $other) (f32.const 1) (f32.const 1)
          (i64.const -1) (i64.const 1) (i64.const 1) (i64.const 1))))
        (return_call $ping
          (i64.sub (local.get 0) (i64.const 1)) (local.get 1) (f64.add (local.get 2) (f64.const 1)) (local.get 3)
          (local.get 4) (local.get 5) (local.get 6) (local.get 7) (local.get 8) (local.get 9))))"""
    store = lh.Store(lh.Engine(opt_level=opt_level))
    left = lh.Instance(store, lh.Module(store.engine, ping))
    right = lh.Instance(store, lh.Module(store.engine, pong), {"ping": left.exports})
    left.exports["other"].value = right.exports["pong"]
    start = (0, 0.0, None, 0.0, 0.0, 1, 2, 3, 4)
    assert left.exports["ping"](DEEP, *start) == (4, DEEP / 2)
    assert left.exports["ping"](DEEP - 2, *start) == (1, DEEP / 2 - 1)
    assert left.exports["ping"](1, *start) == (-1, -1.0)


def test_what_polls_keeps_its_arguments() -> None:
    """Where it polls, a signal's handler may call code of the store, which passes arguments where these were."""
    others = " ".join(f"(i64.const {number})" for number in range(20))
    total = "".join(f"(i64.add (local.get {number}) " for number in range(20)) + "(i64.const 0)" + ")" * 20
    source = f"""(module
      (import "host" "start" (func $start))
      (global $done (export "done") (mut i32) (i32.const 0))
      (func (export "run") (result i64) (call $start) (return_call $f {others}))
      (func $f (param {"i64 " * 20}) (result i64)
        (if (i64.ne (i64.const 190) {total}) (then (return (i64.const -1))))
        (if (global.get $done) (then (return (i64.const 1))))
        (return_call $f {" ".join(f"(local.get {number})" for number in reversed(range(20)))}))
      (func $g (export "g") (param {"i64 " * 20}) (result i64)
        (if (i64.eqz (local.get 0)) (then (return {total})))
        (return_call $g (i64.sub (local.get 0) (i64.const 1))
          {" ".join(f"(local.get {number})" for number in range(1, 20))})))"""
    calls = 0

    def handle(*_: Any) -> None:
        nonlocal calls
        calls += 1
        assert instance.exports["g"](3, *[100] * 19) == 1900
        if calls >= 20:  # another may have come in between
            instance.exports["done"].value = 1

    def start() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        instance = instance_of(source, imports={"host": {"start": start}})
        assert instance.exports["run"]() == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- Signatures -------------------------------------------------------------------------------------------------------

TYPES = ("i32", "i64", "f32", "f64", "v128", "(ref $cell)")
TO_NUMBER = {
    "i32": "(i64.extend_i32_s {})",
    "i64": "{}",
    "f32": "(i64.extend_i32_u (i32.reinterpret_f32 {}))",
    "f64": "(i64.reinterpret_f64 {})",
    "v128": "(i64.sub (i64x2.extract_lane 0 {0}) (i64x2.extract_lane 1 {0}))",
    "(ref $cell)": "(struct.get $cell 0 {})",
}
OF_NUMBER = {
    "i32": "(i32.wrap_i64 {})",
    "i64": "{}",
    "f32": "(f32.convert_i32_s (i32.wrap_i64 {}))",
    "f64": "(f64.convert_i64_s {})",
    "v128": "(i64x2.replace_lane 1 (v128.const i64x2 3 0) {})",
    "(ref $cell)": "(struct.new $cell {})",
}


def digest(types: Sequence[str], first: int) -> str:
    """A number of all locals of these types, from `first` on."""
    result = "(i64.const 1)"
    for number, each in enumerate(types, first):
        result = f"(i64.add (i64.mul {result} (i64.const 31)) {TO_NUMBER[each].format(f'(local.get {number})')})"
    return result


def making(types: Sequence[str], number: str) -> str:
    return " ".join(
        OF_NUMBER[each].format(f"(i64.rotl {number} (i64.const {5 * place}))") for place, each in enumerate(types)
    )


def passing(own: Sequence[str], callee: Sequence[str], number: str) -> str:
    """Arguments for a callee: the caller's own, from the back, as far as their types serve; else made of a number."""
    left = {each: [place for place, t in enumerate(own, 1) if t == each] for each in TYPES}
    rotated = [f"(i64.rotl {number} (i64.const {place}))" for place in range(len(callee))]
    return " ".join(
        f"(local.get {left[each].pop()})" if left[each] else OF_NUMBER[each].format(other)
        for each, other in zip(callee, rotated, strict=True)
    )


def ping_pong(left: Sequence[str], right: Sequence[str], results: Sequence[str], ways: Sequence[str]) -> str:
    """Two functions of these parameters that call one another in their tails, and allocate each time."""
    functions = ""
    returned = f"(result {' '.join(results)})" if results else ""
    for name, own, other, callee, way in (
        ("left", left, "right", right, ways[0]),
        ("right", right, "left", left, ways[1]),
    ):
        number = f"(local.get {len(own) + 1})"
        call, last = {
            "direct": (f"return_call ${other}", ""),
            "by reference": (f"return_call_ref ${other}_type", f"(ref.func ${other})"),
            "indirect": (f"return_call_indirect $t (type ${other}_type)", f"(i32.const {int(other == 'right')})"),
        }[way]
        functions += f"""
          (type ${name}_type (func (param i32 {" ".join(own)}) {returned}))
          (func ${name} (export "{name}") (type ${name}_type) (local i64)
            (local.set {len(own) + 1} {digest(own, 1)})
            (drop (struct.new $cell {number}))
            (if (i32.eqz (local.get 0)) (then (return {making(results, number)})))
            ({call} (i32.sub (local.get 0) (i32.const 1)) {passing(own, callee, number)}
              {last}))"""
    names = " ".join(f"(local.set {number})" for number in reversed(range(2, 2 + len(results))))
    return f"""(module (type $cell (struct (field i64))) {functions}
      (table $t 2 funcref) (elem (table $t) (i32.const 0) func $left $right)
      (func (export "run") (param i32 i64) (result i64) {" ".join(f"(local {each})" for each in results)}
        (call $left (local.get 0) {making(left, "(local.get 1)")}) {names} {digest(results, 2)}))"""


WAYS = ("direct", "by reference", "indirect")
parameters = st.lists(st.sampled_from(TYPES), max_size=24)


@settings(max_examples=12, deadline=None)
@given(
    left=parameters,
    right=parameters,
    results=st.lists(st.sampled_from(TYPES), max_size=4),
    ways=st.tuples(st.sampled_from(WAYS), st.sampled_from(WAYS)),
    opt_level=st.sampled_from(OPT_LEVELS),
    runtime=st.sampled_from(RUNTIMES),
    seed=st.integers(-(1 << 63), (1 << 63) - 1),
)
def test_signatures_at_random(
    left: Sequence[str],
    right: Sequence[str],
    results: Sequence[str],
    ways: Sequence[str],
    opt_level: int,
    runtime: str,
    seed: int,
) -> None:
    source = ping_pong(left, right, results, ways)
    instance = instance_of(source, opt_level, runtime, collect_every=1)
    peer = wasmtime_peer.Peer(source)
    for rounds in (0, 1, 2, 7):
        assert (instance.exports["run"](rounds, seed),) == peer.call("run", rounds, seed)
    instance.store.collect()
    assert instance.store.stats().live_objects == 0


def test_vectors() -> None:
    """More than there are registers: they go round by one at each call."""
    count = conventions.FLOAT_REGISTERS + 4
    turned = " ".join(f"(local.get {1 + (number + 1) % count})" for number in range(count))
    source = f"""(module
      (func $turn (export "turn") (param i32 {"v128 " * count}) (result v128 v128)
        (if (i32.eqz (local.get 0)) (then (return (local.get 1) (local.get {count}))))
        (return_call $turn (i32.sub (local.get 0) (i32.const 1)) {turned})))"""
    vectors = [bytes([number]) * 15 + b"!" for number in range(count)]
    for opt_level in (0, 2):
        turn = instance_of(source, opt_level).exports["turn"]
        for rounds in (0, 1, 5, DEEP):
            wanted = vectors[rounds % count], vectors[(rounds + count - 1) % count]
            assert turn(rounds, *vectors) == tuple(int.from_bytes(each, "little") for each in wanted)


def test_as_many_parameters_as_a_type_may_have() -> None:
    count = 1000
    source = f"""(module
      (func $f (export "f") (param {"i64 " * count}) (result i64)
        (if (i64.eqz (local.get 0)) (then (return (local.get {count - 1}))))
        (return_call $f (i64.sub (local.get 0) (i64.const 1))
          {" ".join(f"(local.get {1 + number % (count - 1)})" for number in range(1, count))})))"""
    f = instance_of(source, 1).exports["f"]
    for rounds in (0, 1, 998, 999):
        assert f(rounds, *range(1, count)) == 1 + (998 + rounds) % 999
    vectors = Signature("v" * count, "")
    assert len(conventions.SHARED.function_type(vectors).args) == 1 + conventions.FLOAT_REGISTERS


# --- Stops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["endless", "endless_by_reference", "endless_indirect"])
@pytest.mark.parametrize("opt_level", [0, 2])
def test_what_calls_for_ever_is_interrupted(name: str, opt_level: int) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    def last(number: int) -> int:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        return number

    before = signal.signal(signal.SIGALRM, stop)
    try:
        instance = instance_of(PROGRAM, opt_level, imports=host(last=last))
        with pytest.raises(KeyboardInterrupt):
            instance.exports[name]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    instance.store.verify()


def test_what_calls_for_ever_stops_at_a_deadline() -> None:
    threads: list[threading.Thread] = []

    def last(number: int) -> int:
        threads.append(threading.Thread(target=store.engine.increment_epoch))
        threads[0].start()
        return number

    store = lh.Store(lh.Engine(epoch_interruption=True))
    store.set_epoch_deadline(1)
    exports = lh.Instance(store, lh.Module(store.engine, PROGRAM), host(last=last)).exports
    with pytest.raises(lh.Trap) as caught:
        exports["endless"]()
    threads[0].join()
    assert caught.value.code is TrapCode.INTERRUPT


def test_fuel_is_as_in_wasmtime() -> None:
    config = wasmtime.Config()
    config.consume_fuel = config.wasm_gc = config.wasm_function_references = True
    source = ping_pong(["i64"], ["i64", "f64"], ["i64"], ("indirect", "by reference"))
    peer = wasmtime.Store(wasmtime.Engine(config))
    peer.set_fuel(10_000)
    run: Any = wasmtime.Instance(peer, wasmtime.Module(peer.engine, source), []).exports(peer)["run"]
    store = lh.Store(lh.Engine(consume_fuel=True))
    store.set_fuel(10_000)
    exports = lh.Instance(store, lh.Module(store.engine, source)).exports
    for rounds in (0, 1, 6):
        assert exports["run"](rounds, 5) == run(peer, rounds, 5)
        assert store.get_fuel() == peer.get_fuel()
    with pytest.raises(lh.Trap) as caught:
        exports["run"](-1, 5)
    assert caught.value.code is TrapCode.OUT_OF_FUEL


@pytest.mark.parametrize("opt_level", [0, 2])
def test_traps_tell_the_frames_that_are_left(opt_level: int) -> None:
    store = lh.Store(lh.Engine(opt_level=opt_level, inline="never"))
    exports = lh.Instance(store, lh.Module(store.engine, PROGRAM), host()).exports
    with pytest.raises(lh.Trap) as caught:
        exports["divides"](0)
    assert caught.value.code is TrapCode.INTEGER_DIVISION_BY_ZERO
    names = [frame.func_name for frame in caught.value.frames]
    assert names[0] == "divide"
    assert names[-1] is None
    if opt_level == 0:
        assert len(names) == 2  # the function that called it is gone
    for name, arguments, code in (
        ("null", (1, 2), TrapCode.NULL_REFERENCE),
        ("no_function", (0,), TrapCode.BAD_SIGNATURE),
        ("no_function", (1,), TrapCode.INDIRECT_CALL_TO_NULL),
        ("no_function", (3,), TrapCode.TABLE_OUT_OF_BOUNDS),
    ):
        with pytest.raises(lh.Trap) as caught:
            exports[name](*arguments)
        assert caught.value.code is code
    store.verify()


@pytest.mark.parametrize("opt_level", [0, 2])
def test_what_is_called_in_between_exhausts_the_stack(opt_level: int) -> None:
    instance = instance_of(PROGRAM, opt_level, imports=host())
    with pytest.raises(lh.Trap) as caught:
        instance.exports["deeper"](0)
    assert caught.value.code is TrapCode.STACK_OVERFLOW
    assert instance.exports["even"](10, 0) == 10


@pytest.mark.parametrize("opt_level", OPT_LEVELS)
def test_a_handler_is_left_as_well(opt_level: int) -> None:
    instance = instance_of(PROGRAM, opt_level, imports=host())
    assert instance.exports["leaves"](7) == 1007


def test_large_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function in front of one with a large frame, which counts it, leaves nothing behind either."""
    monkeypatch.setattr(large_frames, "LARGE_FRAME", 2000)
    count = 300
    loads = " ".join(f"(local.set {each} (f64.load offset={8 * each} (local.get 0)))" for each in range(1, count))
    total = "".join(f"(f64.add (local.get {each}) " for each in range(1, count)) + "(f64.const 0)" + ")" * (count - 1)
    source = f"""(module
      (import "host" "last" (func $last (param i64) (result i64)))
      (memory 1)
      (func $f (export "f") (param i32) (result i32) {"(local f64)" * (count - 1)}
        {loads}
        (drop (call $last (i64.const 0)))
        (f64.store (i32.const 0) {total})
        (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
        (return_call $f (i32.sub (local.get 0) (i32.const 1)))))"""
    instance = instance_of(source, 1, imports={"host": {"last": lambda number: number}})
    (size,) = (each.stack_size for each in instance.module.compiled.stack_map if each.stack_size > 2000)
    assert "large_frame" in instance.module.compiled.llvm_ir
    instance.store.runtime.context.stack_size = size + 10_000
    assert instance.exports["f"](2000) == 1
    instance.store.runtime.context.stack_size = size - 100
    with pytest.raises(lh.Trap) as caught:
        instance.exports["f"](0)
    assert caught.value.code is TrapCode.STACK_OVERFLOW


# --- LLVM -------------------------------------------------------------------------------------------------------------


def test_llvm_still_loses_arguments_on_the_stack() -> None:
    """Why tail calls are not in LLVM's convention for them, `tailcc`, which knows no limit and needs no wide functions.

    Should this fail, see whether `jit/conventions.py` is needed any longer.
    """
    count, added = 8, 10_600
    module = ir.Module("tail call")
    i64 = ir.IntType(64)
    type = ir.FunctionType(i64, [i64] * count)
    callee, caller = ir.Function(module, type, "callee"), ir.Function(module, type, "caller")
    callee.calling_convention = caller.calling_convention = "tailcc"
    builder = ir.IRBuilder(caller.append_basic_block())
    args = [builder.add(each, i64(added + number)) for number, each in enumerate(caller.args)]
    builder.ret(builder.call(callee, args, cconv="tailcc", tail="musttail"))
    target = engine.Target("x86_64-unknown-linux-gnu")
    optimised, machine = engine.optimise(module, opt_level=1, target=target)
    assembly = machine.emit_assembly(optimised)
    assert [str(added + number) in assembly for number in range(count)] == [True] * 6 + [False] * 2
