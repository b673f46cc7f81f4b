"""Fuel: what programs take, beside wasmtime's count; where they stop, and that the store is sound behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import wasmtime

import lowheap as lh
from lowheap.errors import LowheapError, TrapCode

PROGRAM = """
(module
  (type $numbers (array (mut i32)))
  (type $cell (struct (field $next (mut (ref null $cell)))))
  (type $task (func (param i32)))
  (import "host" "pause" (func $pause))
  (memory 1)
  (data $later "not yet")
  (tag $stop (param i32))
  (global $limit (mut i32) (i32.const 3))
  (global $numbers (mut (ref null $numbers)) (array.new $numbers (i32.const 7) (i32.const 5)))
  (elem declare func $spend)
  (start $begin)
  (func $begin (global.set $limit (i32.add (global.get $limit) (i32.const 1))))
  (func $spend (type $task) (drop (i32.mul (local.get 0) (i32.const 3))))
  (func (export "nothing") (param i32))
  (func (export "free") (param i32) nop (block nop) (loop) (drop (i32.const 1)) (return))
  (func (export "counts") (param i32)
    (local $at i32)
    (loop $again
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $at) (local.get 0)))))
  (func (export "cells") (param i32)
    (local $list (ref null $cell))
    (loop $again
      (local.set $list (struct.new $cell (local.get $list)))
      (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "branches") (param i32)
    (block $a
      (block $b (block $c (br_table $a $b $c (local.get 0))) (call $spend (i32.const 1)) (return))
      (if (local.get 0) (then (drop (i32.const 1))) (else (drop (i32.add (i32.const 1) (i32.const 2))))))
    (drop (select (i32.const 1) (i32.const 2) (local.get 0)))
    (if (local.get 0) (then nop)))
  (func $down (export "recurses") (param i32)
    (if (local.get 0) (then (call $down (i32.sub (local.get 0) (i32.const 1))) (call $spend (i32.const 1)))))
  (func $falls (export "tail_calls") (param i32)
    (if (local.get 0) (then (return_call $falls (i32.sub (local.get 0) (i32.const 1)))))
    (return_call_ref $task (local.get 0) (ref.func $spend)))
  (func $throws (param i32) (if (local.get 0) (then (throw $stop (local.get 0)))))
  (func (export "catches") (param i32)
    (loop $again
      (local.set 0 (i32.sub
        (block $caught (result i32)
          (try_table (catch $stop $caught) (call $throws (local.get 0)) (call $spend (i32.const 1)))
          (return))
        (i32.const 1)))
      (br $again)))
  (func (export "through_reference") (param i32) (call_ref $task (local.get 0) (ref.func $spend)))
  (func (export "arrays") (param i32)
    (local $array (ref null $numbers))
    (local.set $array (array.new_default $numbers (local.get 0)))
    (array.fill $numbers (local.get $array) (i32.const 0) (i32.const 3) (local.get 0))
    (array.copy $numbers $numbers
      (array.new $numbers (i32.const 1) (i32.const 300)) (i32.const 1) (local.get $array) (i32.const 0) (local.get 0))
    (drop (array.new_fixed $numbers 3 (i32.const 1) (i32.const 2) (i32.const 3))))
  (func (export "memories") (param i32)
    (memory.fill (i32.const 100) (i32.const 1) (local.get 0))
    (memory.copy (i32.const 300) (i32.const 100) (local.get 0))
    (memory.init $later (i32.const 0) (i32.const 0) (i32.const 7))
    (i32.store (i32.const 4) (i32.load (i32.const 0)))
    (drop (memory.grow (i32.const 1))))
  (func (export "calls_host") (param i32) (drop (i32.const 1)) (call $pause) (loop (drop (i32.const 1))))
  (func (export "divides") (param i32) (block (drop (i32.div_s (i32.const 1) (local.get 0)))))
  (func (export "traps") (param i32) (drop (i32.const 1)) unreachable)
  (func (export "endless") (param i32) (loop $again (br $again)))
  (func $deeper (export "deeper") (param i32) (call $deeper (local.get 0))))
"""

EVERY = [
    ("nothing", 0),
    ("free", 0),
    ("counts", 1),
    ("counts", 100),
    ("cells", 20),
    *(("branches", which) for which in range(4)),
    ("recurses", 9),
    ("tail_calls", 9),
    ("catches", 4),
    ("through_reference", 1),
    ("arrays", 2),
    ("arrays", 200),
    ("memories", 5),
    ("memories", 5000),
    ("calls_host", 0),
    ("traps", 0),
]

PLENTY = 100_000


class Side:
    """A store of either package, with the program, which was made with `PLENTY`."""

    def __init__(self, store: Any, call: Callable[[str, int], Any]) -> None:
        self.store, self.call = store, call
        self.left = store.get_fuel()

    def run(self, name: str, argument: int, fuel: int) -> tuple[str, int]:
        """Call, with that much fuel, and return how it ended, and what was left."""
        self.store.set_fuel(fuel)
        try:
            self.call(name, argument)
        except wasmtime.Trap as trap:
            code = trap.trap_code
            assert code is not None
            return code.name, self.store.get_fuel()
        except lh.Trap as trap:
            return trap.code.name, self.store.get_fuel()
        return "", self.store.get_fuel()


@pytest.fixture(scope="module")
def peer() -> Side:
    config = wasmtime.Config()
    config.consume_fuel = config.wasm_gc = config.wasm_function_references = config.wasm_exceptions = True
    store = wasmtime.Store(wasmtime.Engine(config))
    pause = wasmtime.Func(store, wasmtime.FuncType([], []), lambda: None)
    store.set_fuel(PLENTY)
    exports = wasmtime.Instance(store, wasmtime.Module(store.engine, PROGRAM), [pause]).exports(store)
    return Side(store, lambda name, argument: exports[name](store, argument))  # type: ignore[operator]


def compiled(**options: Any) -> lh.Module:
    return lh.Module(lh.Engine(consume_fuel=True, **options), PROGRAM)


@pytest.fixture(scope="module")
def module() -> lh.Module:
    return compiled()


def side_of(module: lh.Module, pause: Callable[[], Any] = lambda: None, **options: Any) -> Side:
    store = lh.Store(module.engine, **options)
    store.set_fuel(PLENTY)
    exports = lh.Instance(store, module, {"host": {"pause": pause}}).exports
    return Side(store, lambda name, argument: exports[name](argument))


def test_programs_take_what_they_take_in_wasmtime(peer: Side) -> None:
    for options in ({}, {"opt_level": 0, "interruptible": False, "runtime": "python", "inline": "never"}):
        side = side_of(compiled(**options))
        assert side.left == peer.left  # globals, and the start function
        for name, argument in EVERY:
            assert side.run(name, argument, PLENTY) == peer.run(name, argument, PLENTY), (options, name, argument)
        side.store.verify()
        side.store.close()


TABLES = [
    "(table 5 funcref) (elem (i32.const 1) func $f $f)",
    "(table $t 5 funcref) (elem (table $t) (i32.const 1) funcref (ref.func $f) (ref.null func))",
    "(table $t 5 funcref) (elem (table $t) (i32.const 1) funcref (ref.null func)) (elem (i32.const 1) func $f $f)",
    "(table 5 funcref) (elem (i32.const 4) func $f) (elem (offset (global.get $one)) func $f) (elem (i32.const 1) $f)",
    "(table 5 (ref func) (ref.func $f)) (elem (i32.const 1) func $f $f)",
    "(table $t 1048577 (ref func) (ref.func $f)) (elem (table $t) (i32.const 1) func $f $f)",
    "(table $t 5 externref) (elem (table $t) (i32.const 1) externref (ref.null extern))",
    "(table $t 5 i31ref (ref.i31 (i32.const 1))) (elem (table $t) (i32.const 1) i31ref (item (ref.i31 (i32.const 1))))",
    "(table i64 5 funcref) (elem (offset (i64.const 1)) func $f $f)",
    "(table 5 funcref) (elem func $f) (elem declare func $f) (elem declare funcref (ref.func $f))",
    "(elem i31ref (ref.i31 (i32.const 1)) (ref.null i31))",
]


def left_by_an_instance(source: str | bytes) -> tuple[int, int]:
    """The fuel that making an instance leaves, here and in wasmtime."""
    config = wasmtime.Config()
    config.consume_fuel = config.wasm_gc = config.wasm_function_references = config.wasm_memory64 = True
    peer = wasmtime.Store(wasmtime.Engine(config))
    peer.set_fuel(PLENTY * 100)
    wasmtime.Instance(peer, wasmtime.Module(peer.engine, source), [])
    store = lh.Store(lh.Engine(consume_fuel=True))
    store.set_fuel(PLENTY * 100)
    lh.Instance(store, lh.Module(store.engine, source))
    return store.get_fuel(), peer.get_fuel()


@pytest.mark.parametrize("tables", TABLES)
def test_an_instance_with_tables_takes_what_it_takes_in_wasmtime(tables: str) -> None:
    source = f"(module (global $one i32 (i32.const 1)) (func $f) {tables} (start $f))"
    ours, theirs = left_by_an_instance(source)
    assert ours == theirs


def test_they_stop_where_they_stop_in_wasmtime(peer: Side, module: lh.Module) -> None:
    side = side_of(module)
    stopped = 0
    for name, argument in [*EVERY, ("endless", 0), ("deeper", 0)]:
        ended, left = peer.run(name, argument, PLENTY)
        needed = 300 if ended in ("OUT_OF_FUEL", "STACK_OVERFLOW") else PLENTY - left
        for fuel in {1, 2, needed // 2, needed - 2, needed - 1, needed, needed + 1} - {-1, 0}:
            expected = peer.run(name, argument, fuel)
            assert side.run(name, argument, fuel) == expected, (name, argument, fuel)
            stopped += expected[0] == "OUT_OF_FUEL"
    assert stopped > 40
    side.store.verify()
    side.store.collect()
    assert side.run("cells", 5, PLENTY)[0] == ""


RANGES = """
(module
  (memory (export "memory") 1 20)
  (table $t 9 500 funcref)
  (type $bytes (array (mut i8)))
  (global $bytes (ref $bytes) (array.new_default $bytes (i32.const 1000)))
  (data $more (i32.const 0) "")
  (func (export "memory.grow") (param $at i32) (param $n i32) (result i32) (memory.grow (local.get $n)))
  (func (export "few") (param $at i32) (param $n i32) (result i32) (memory.grow (i32.const 20)))
  (func (export "many") (param $at i32) (param $n i32) (result i32) (memory.grow (i32.const 129)))
  (func (export "table.grow") (param $at i32) (param $n i32) (result i32)
    (table.grow $t (ref.null func) (local.get $n)))
  (func (export "memory.fill") (param $at i32) (param $n i32)
    (memory.fill (local.get $at) (i32.const 1) (local.get $n)))
  (func (export "array.fill") (param $at i32) (param $n i32)
    (array.fill $bytes (global.get $bytes) (local.get $at) (i32.const 1) (local.get $n)))
  (func (export "array.new") (param $at i32) (param $n i32) (drop (array.new_default $bytes (local.get $n))))
  (func (export "first") (param $at i32) (param $n i32) (result i32 i32 i32 i32)
    (i32.load8_u (i32.const 0)) (array.get_u $bytes (global.get $bytes) (i32.const 0)) (memory.size) (table.size $t)))
"""


def test_a_range_takes_fuel_when_it_is_done() -> None:
    """What is out of bounds or too large traps for that; what does not grow takes none; what was done stays done."""
    config = wasmtime.Config()
    config.consume_fuel = config.wasm_gc = config.wasm_function_references = True
    peer = wasmtime.Store(wasmtime.Engine(config))
    peer.set_fuel(PLENTY)
    theirs = wasmtime.Instance(peer, wasmtime.Module(peer.engine, RANGES), []).exports(peer)
    store = lh.Store(lh.Engine(consume_fuel=True))
    store.set_fuel(PLENTY)
    ours = lh.Instance(store, lh.Module(store.engine, RANGES)).exports

    def run(name: str, side: Any, call: Callable[..., Any], *args: int) -> Any:
        side.set_fuel(args[-1])
        try:
            returned = call(name, *args[:-1])
        except (lh.Trap, wasmtime.Trap) as trap:
            code = str(getattr(trap.trap_code, "name", None))
            returned = code, *([side.get_fuel()] if code == "OUT_OF_FUEL" else [])
        else:
            returned = returned, side.get_fuel()
        side.set_fuel(PLENTY)
        return returned, *call("first", 0, 0)

    seen = set()
    names = ("memory.fill", "array.fill", "array.new", "memory.grow", "few", "many", "table.grow")
    for name in names:
        for args in ((999, 2000, 100), (70_000, 9, 100), (0, -1, 100), (0, 900, 100), (0, 5, 8), (0, 6, 100)):
            found = run(name, store, lambda name, *args: ours[name](*args), *args)
            assert found == run(name, peer, lambda name, *args: theirs[name](peer, *args), *args), (name, args)  # type: ignore[operator]
            seen.add(found[0][0])
    assert seen >= {"OUT_OF_FUEL", "MEMORY_OUT_OF_BOUNDS", "ARRAY_OUT_OF_BOUNDS", "ALLOCATION_TOO_LARGE", -1, 1}
    store.verify()


PLACES = """
(module
  (memory 1)
  (func (export "entered") (local i32 i64) (local.set 0 (i32.const 1)))
  (func (export "counts twice") (local i32)
    (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const -1)))))
  (func (export "fills") (memory.fill (i32.const 0) (i32.const 0) (i32.const 129))))
"""


def test_it_stops_at_the_offset_of_wasmtime() -> None:
    """Where the last locals are declared, at a loop, in either version of one that counts, and at a range."""
    config = wasmtime.Config()
    config.consume_fuel = True
    peer = wasmtime.Store(wasmtime.Engine(config))
    theirs = wasmtime.Instance(peer, wasmtime.Module(peer.engine, PLACES), []).exports(peer)
    store = lh.Store(lh.Engine(consume_fuel=True))
    ours = lh.Instance(store, lh.Module(store.engine, PLACES)).exports
    for name, fuel in (("entered", 1), ("counts twice", 9), ("fills", 9)):
        peer.set_fuel(fuel)
        with pytest.raises(wasmtime.Trap) as expected:
            theirs[name](peer)  # type: ignore[operator]
        store.set_fuel(fuel)
        with pytest.raises(lh.Trap) as found:
            ours[name]()
        offsets = [[each.module_offset for each in trap.value.frames] for trap in (found, expected)]
        assert offsets[0] == offsets[1], name


@pytest.mark.parametrize("every", [0, 1])
def test_the_store_is_sound_wherever_it_stops(module: lh.Module, every: int) -> None:
    side = side_of(module, collect_every=every)
    side.store.collect()
    live = side.store.stats().live_objects
    for fuel in range(1, 60, 3):
        assert side.run("cells", 1000, fuel) == ("OUT_OF_FUEL", 0)
        side.store.verify()
    side.store.collect()
    assert side.store.stats().live_objects == live


def test_a_trap_takes_what_was_run_up_to_the_last_branch(module: lh.Module) -> None:
    """wasmtime forgets that the function was called."""
    side = side_of(module)
    assert side.run("divides", 0, 100) == ("INTEGER_DIVISION_BY_ZERO", 99)
    assert side.run("divides", 1, 100) == ("", 96)


MADE = {
    '(memory 1) (data (i32.const 65532) "abcd")': 0,
    '(memory 1) (data (i32.add (i32.const 0) (i32.const 1)) "abcd")': 8,
    '(memory 1) (data (i32.const 9) "xyz") (data (global.get $g) "abcd") (global $g i32 (i32.const 3))': 10,
    '(memory (import "host" "memory") 1) (data (i32.const 0) "abcd") (data (i32.const 0) "abcdef")': 13,
    "(global i64 (i64.const -1)) (global f32 (f32.const 1))": 0,
    "(global i64 (i64.const -1)) (global i31ref (ref.i31 (i32.const 1)))": 3,
    "(start $f) (func $f)": 3,
}


def test_what_making_an_instance_takes() -> None:
    """As in wasmtime, where it is known beforehand what is in globals and memories."""
    config = wasmtime.Config()
    config.consume_fuel = config.wasm_gc = config.wasm_function_references = config.wasm_exceptions = True
    peer = wasmtime.Store(wasmtime.Engine(config))
    memory = wasmtime.Memory(peer, wasmtime.MemoryType(wasmtime.Limits(1, None)))
    store = lh.Store(lh.Engine(consume_fuel=True))
    imports = {"host": {"memory": lh.Memory(store, lh.MemoryType(lh.Limits(1, None)))}}
    for text, taken in MADE.items():
        peer.set_fuel(1000)
        binary = lh.wat2wasm(f"(module {text})")
        wasmtime.Instance(peer, wasmtime.Module(peer.engine, binary), [memory] if "import" in text else [])
        assert 1000 - peer.get_fuel() == taken, text
        store.set_fuel(1000)
        lh.Instance(store, lh.Module(store.engine, binary), imports)
        assert 1000 - store.get_fuel() == taken, text


@pytest.mark.parametrize("free", [0, 1500])
def test_a_long_initialiser_takes_what_it_takes_in_wasmtime(free: int) -> None:
    """It is several functions, of which one call is taken, if any is not known beforehand."""
    numbers = "(global i32 (i32.const 1))" * free
    boxes = "(global (ref $box) (struct.new $box (i32.const 1)))" * 900
    source = lh.wat2wasm(f"(module (type $box (struct (field i32))) {numbers} {boxes} (func $start) (start $start))")
    ours, theirs = left_by_an_instance(source)
    assert ours == theirs


def test_a_host_function_sees_and_sets_it(module: lh.Module) -> None:
    seen = []
    given = 50

    def pause() -> None:
        seen.append(side.store.get_fuel())
        side.store.set_fuel(given)

    side = side_of(module, pause)
    assert side.run("calls_host", 0, 100) == ("", 49)
    given = 0
    assert side.run("calls_host", 0, 100) == ("OUT_OF_FUEL", 0)
    given = 1
    assert side.run("calls_host", 0, 100) == ("", 0)
    assert seen == [97] * 3


def test_a_call_inside_a_call_takes_of_the_same(module: lh.Module) -> None:
    side = side_of(module, lambda: side.call("counts", 3))
    assert side.run("calls_host", 0, 100) == ("", 100 - 5 - 25 + 1)
    assert side.run("calls_host", 0, 20) == ("OUT_OF_FUEL", 0)


def test_where_it_stops_is_said(module: lh.Module) -> None:
    side = side_of(module)
    side.store.set_fuel(10)
    with pytest.raises(lh.Trap, match=r"^wasm trap: all fuel consumed by WebAssembly \(in function ") as caught:
        side.call("recurses", 100)
    assert caught.value.code is TrapCode.OUT_OF_FUEL
    assert [each.func_name for each in caught.value.frames] == ["down"] * 3


def test_it_is_a_number_of_64_bits(module: lh.Module) -> None:
    side = side_of(module)
    most = (1 << 64) - 1
    assert side.run("counts", 100, most) == ("", most - 801)
    half = (1 << 63) - 1
    runtime = side.store.runtime
    side.store.set_fuel(half + 1000)
    runtime.context.fuel = 10  # as if the first half were nearly used up
    side.call("counts", 100)
    assert side.store.get_fuel() == 1000 + 10 - 801
    side.store.set_fuel(most)
    assert side.store.get_fuel() == most


def test_what_is_no_number_of_it() -> None:
    store = lh.Store(lh.Engine(consume_fuel=True))
    for wrong in (-1, 1 << 64):
        with pytest.raises(ValueError, match=rf"^fuel is {wrong}; it must be 0 to 2"):
            store.set_fuel(wrong)
    for kind in (1.0, True, None):
        with pytest.raises(TypeError, match=r"^fuel is "):
            store.set_fuel(kind)  # type: ignore[arg-type]
    assert store.get_fuel() == 0


def test_without_it_nothing_runs_but_an_instance_can_be_made() -> None:
    engine = lh.Engine(consume_fuel=True)
    store = lh.Store(engine)
    text = '(module (global i32 (i32.const 1)) (global (export "g") f64 (f64.const 2)) (func (export "f")))'
    exports = lh.Instance(store, lh.Module(engine, text)).exports
    assert exports.g.value == 2
    with pytest.raises(lh.Trap) as caught:
        exports.f()
    assert caught.value.code is TrapCode.OUT_OF_FUEL


def test_a_store_that_does_not_count() -> None:
    with lh.Store() as store:
        for use in (lambda: store.set_fuel(1), store.get_fuel):
            with pytest.raises(LowheapError, match="consume_fuel=True"):
                use()


def test_code_that_does_not_count_is_as_it_was() -> None:
    without = lh.Module(lh.Engine(), PROGRAM)
    assert "refuel" not in without.compiled.llvm_ir
    assert "refuel" in lh.Module(lh.Engine(consume_fuel=True), PROGRAM).compiled.llvm_ir
