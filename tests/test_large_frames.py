"""Frames count as large as they are: what is called in one never comes to lie beyond the stack, nor traps too early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lowheap as lh
from lowheap.errors import TrapCode
from lowheap.jit.large_frames import LARGE_FRAME, with_checks

ROOT = Path(__file__).parent.parent
AT_ONCE = 1000
"""A function has at most so many results."""


def unused_locals(count: int) -> str:
    return f'(module (func (export "f") (param i32) (result i32) (local {"i32 " * (count - 1)}) (local.get 0)))'


def operands(count: int) -> str:
    adds = "i32.add " * (count - 1)
    return f'(module (func (export "f") (param i32) (result i32) {"local.get 0 " * count} {adds}))'


def held_numbers(count: int) -> str:
    """A function that calls itself `n` times and holds so many f64 across that, and an object; it counts its calls."""
    names = [f"$l{number}" for number in range(count)]
    sets = ""
    for start in range(0, count, AT_ONCE):
        some = names[start : start + AT_ONCE]
        sets += f"(call $many) {' '.join(f'(local.set {name})' for name in some)} {'drop ' * (AT_ONCE - len(some))}"
    total = "".join(f"(f64.add (local.get {name}) " for name in names) + "(f64.const 0)" + ")" * count
    return f"""(module (import "host" "many" (func $many (result {"f64 " * AT_ONCE})))
      (type $cell (struct (field f64)))
      (global $calls (export "calls") (mut i32) (i32.const 0))
      (func $f (export "f") (param $n i32) (result f64) {" ".join(f"(local {name} f64)" for name in names)}
        (local $held (ref null $cell))
        (local.set $held (struct.new $cell (f64.const 0.5)))
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        {sets}
        (if (local.get $n) (then (drop (call $f (i32.sub (local.get $n) (i32.const 1))))))
        (f64.add (struct.get $cell 0 (local.get $held)) {total})))"""


def equal_products(count: int, between: str) -> str:
    """Products that LLVM computes once, and keeps from the first use to the second, with hardly a local or operand."""
    mixed = "(local.set $a (i64.xor (i64.rotl (local.get $a) (i64.const 1)) (i64.mul (local.get $n) (i64.const {}))))"
    first = "\n".join(mixed.format(number) for number in range(3, count))
    second = "\n".join(mixed.format(number) for number in reversed(range(3, count)))
    return f"""(module (import "host" "call" (func $call (param i64) (result i64)))
      (func $f (export "f") (param $n i64) (result i64) (local $a i64) {first} {between} {second} (local.get $a)))"""


@pytest.mark.parametrize("source", [unused_locals(50_000), operands(33_000)])
def test_what_takes_no_frame_is_not_counted(source: str) -> None:
    with lh.Store() as store:
        instance = lh.Instance(store, lh.Module(store.engine, source))
        assert instance.exports["f"](1) in (1, 33_000)


@pytest.mark.parametrize("between", ["(local.set $a (call $call (local.get $a)))", ""])
def test_a_frame_counts_that_nobody_could_expect(between: str) -> None:
    """In functions with a safepoint and without: LLVM's stack map tells of both."""
    with lh.Store() as store:
        module = lh.Module(store.engine, equal_products(2400, between))
        sizes = [record.stack_size for record in module.compiled.stack_map]
        calls: list[int] = []
        instance = lh.Instance(store, module, {"host": {"call": lambda n: calls.append(n) or 0}})
        assert isinstance(instance.exports["f"](7), int)
        assert len(calls) == bool(between)
        store.runtime.context.stack_size = 17_000
        with pytest.raises(lh.Trap, match="call stack exhausted") as caught:
            instance.exports["f"](7)
        assert caught.value.function == "$f"
        assert len(calls) == bool(between), "it never came to run"
        if between:
            assert max(sizes) > 17_000


def test_a_function_of_vectors_with_a_large_frame_throws_catches_and_returns_a_vector() -> None:
    each = range(1, 1500)
    loads = "".join(f"(local.set {number} (v128.load (i32.const {16 * number})))" for number in each)
    sums = "".join(f"(v128.xor (local.get {number})) (i32x4.add (local.get {number}))" for number in reversed(each))
    source = f"""(module (import "host" "value" (func $value (param i32) (result i32)))
      (memory 1) (tag $thrown (param i32)) (data (i32.const 16) "\\02")
      (func $throw (param i32) (result i32)
        (if (local.get 0) (then (throw $thrown (i32.const 3))))
        (call $value (i32.const 4)))
      (func $through (param i32) (result v128) {"(local v128)" * 1500} {loads}
        (i32x4.splat (call $throw (local.get 0))) {sums})
      (func (export "catching") (param i32) (result v128) {"(local v128)" * 1500} {loads}
        (block $caught (result i32)
          (try_table (result i32) (catch $thrown $caught) (i32x4.extract_lane 0 (call $through (local.get 0)))))
        i32x4.splat {sums})
      (export "through" (func $through)))"""
    module = lh.Module(lh.Engine(opt_level=1), source)
    assert module.compiled.llvm_ir.count("lowheap.check:") == 2
    with lh.Store(module.engine) as store:
        exports = lh.Instance(store, module, {"host": {"value": lambda value: value}}).exports

        def vector(*lanes: int) -> int:
            return sum(lane << 32 * number for number, lane in enumerate(lanes))

        assert exports.through(0) == vector((4 ^ 2) + 2, 4, 4, 4)
        assert exports.catching(0) == vector((8 ^ 2) + 2, 8, 8, 8)
        assert exports.catching(1) == vector((3 ^ 2) + 2, 3, 3, 3)
        with pytest.raises(lh.WasmException):
            exports.through(1)


def test_a_frame_counts_in_full() -> None:
    """A function whose frame alone passes the limit traps at once; its caller need not."""
    source = f"""(module (import "host" "value" (func $value (result f64))) (global $g (mut f64) (f64.const 0))
      (func $inner {"(f64.sub (call $value) " * 3000} (f64.const 1) {")" * 3000} (global.set $g))
      (func $outer (export "outer") (param i32) (result i32)
        (if (local.get 0) (then (call $inner)))
        (i32.const 7)))"""
    with lh.Store() as store:
        module = lh.Module(store.engine, source)
        size = max(record.stack_size for record in module.compiled.stack_map)
        assert size > 3000 * 8 - 100, "the operands are in the frame"
        instance = lh.Instance(store, module, {"host": {"value": lambda: 1.0}})
        assert instance.exports["outer"](1) == 7
        store.runtime.context.stack_size = size + 4000
        assert instance.exports["outer"](1) == 7
        store.runtime.context.stack_size = size - 1
        assert instance.exports["outer"](0) == 7
        with pytest.raises(lh.Trap) as caught:
            instance.exports["outer"](1)
        assert (caught.value.code, caught.value.function) == (TrapCode.STACK_OVERFLOW, "$inner")
        assert module.locate(caught.value.offset or 0) == "$inner"


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_what_a_large_frame_holds_is_found(runtime: str) -> None:
    """A walk passes through the functions in front of those with large frames."""
    with lh.Store(lh.Engine(runtime=runtime, opt_level=1), collect_every=1) as store:
        module = lh.Module(store.engine, held_numbers(2500))
        assert max(record.stack_size for record in module.compiled.stack_map) > LARGE_FRAME
        live: list[int] = []

        def many() -> tuple[float, ...]:
            store.collect()
            live.append(store.stats().live_objects)
            return (1.0,) * AT_ONCE

        instance = lh.Instance(store, module, {"host": {"many": many}})
        assert instance.exports["f"](3) == 2500.5
        assert live == [number // 3 + 1 for number in range(12)]
        store.collect()
        assert store.heap.stats().live_objects == 0


# What follows would end the interpreter if it went wrong, and so runs in another one. The frames have 14 (8 of them for
# the results), 48 and 240 KiB.
RECURSION_SCRIPT = """
import faulthandler, sys, threading
faulthandler.enable()
sys.path.insert(0, {tests!r})
import lowheap as lh
from test_large_frames import held_numbers

store = lh.Store(lh.Engine(opt_level=0))
programs = []
for count in (1, 5_000, 30_000):
    module = lh.Module(store.engine, held_numbers(count))
    programs.append((count, lh.Instance(store, module, {{"host": {{"many": lambda: (1.0,) * 1000}}}})))

def run():
    global seen
    seen = []
    for count, instance in programs:
        for n in (0, 1, 1_000_000):
            instance.exports["calls"].value = 0
            try:
                assert instance.exports["f"](n) == count + 0.5
                seen.append("result")
            except lh.Trap as error:
                assert "call stack exhausted" in str(error), error
                seen.append(instance.exports["calls"].value)

run()
assert seen[:2] == seen[3:5] == ["result"] * 2 and seen[6] == "result", seen
assert seen[2] >= 30 and seen[5] == 10 and seen[7:] == ["result", 2], seen
for kilobytes in (256, 300, 330, 400, 600, 700, 900, 1200):
    threading.stack_size(kilobytes << 10)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(seen) == 9 and "result" not in (seen[2], seen[5], seen[8]), seen
assert seen[6] == "result", seen
print("alive")
"""


def test_recursion_traps_with_frames_of_every_size_on_stacks_of_every_size() -> None:
    script = RECURSION_SCRIPT.format(tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-3000:]


def test_a_large_frame_that_nothing_checks_is_refused() -> None:
    text = "define void @f(ptr %0) {\n  ret void\n}\n"
    with pytest.raises(lh.CompilerError, match="function f has a frame of 20000 bytes, and does not check"):
        with_checks(text, {"f": 20_000}, {"g": 0})
    with pytest.raises(lh.CompilerError, match="has a large frame, and no vmctx"):
        with_checks(text.replace("ptr %0", "i32 %0"), {"f": 20_000}, {"f": 0})
    with pytest.raises(lh.CompilerError, match="the functions h have large frames"):
        with_checks(text, {"h": 20_000}, {"f": 0})
    assert "@f(ptr" in with_checks(text, {}, {})
