"""Every trap by every instruction that can raise it: code, wording, function and offset; and the heap goes on working.

The oracle for wording and offsets is the `wasmtime` package, on the same module. A crash of the interpreter is a
failure too: what could cause one runs in a process of its own.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import wasmtime_peer
from support.combinations import examples

import lowheap as lh
from lowheap.config import RUNTIMES
from lowheap.errors import TrapCode
from lowheap.layout import FIRST_INDEX, REFERENCE_SIZE, GcTypeLayouts, VMDrcExternRef, block_length
from lowheap.runtime import store_runtime

ROOT = Path(__file__).resolve().parent.parent
SMALL_HEAP = 1 << 16
LAYOUTS = GcTypeLayouts()
LONGS, REFS = LAYOUTS.array_layout((8, False)), LAYOUTS.array_layout((4, True))


@functools.cache
def engine(runtime: str) -> lh.Engine:
    return lh.Engine(runtime=runtime)


@functools.cache
def module(runtime: str, source: str) -> lh.Module:
    return lh.Module(engine(runtime), source)


# --- Each instruction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An instruction that traps: its name in the test report, its body as wat, and the code."""

    name: str
    body: str
    code: TrapCode

    def __str__(self) -> str:
        return f"{self.name}-{self.code.name.lower()}"


# Operands come out of mutable globals, so that LLVM cannot decide at compile time what traps.
TYPES_AND_GLOBALS = """
  (type $pair (struct (field $packed (mut i8)) (field $other (mut (ref null $pair)))))
  (type $base (sub (struct (field $x (mut i32)))))
  (type $left (sub $base (struct (field (mut i32)) (field i64))))
  (type $right (sub $base (struct (field (mut i32)) (field f64))))
  (type $bytes (array (mut i8)))
  (type $longs (array (mut i64)))
  (type $refs (array (mut (ref null $pair))))
  (type $nullary (func))
  (type $unary (func (param i32) (result i32)))
  (import "host" "reenter" (func $reenter (param i32)))
  (global $zero (mut i32) (i32.const 0))
  (global $one (mut i32) (i32.const 1))
  (global $two (mut i32) (i32.const 2))
  (global $minus_one (mut i32) (i32.const -1))
  (global $least (mut i32) (i32.const 0x80000000))
  (global $zero64 (mut i64) (i64.const 0))
  (global $minus_one64 (mut i64) (i64.const -1))
  (global $least64 (mut i64) (i64.const 0x8000000000000000))
  (global $huge32 (mut f32) (f32.const 1e30))
  (global $huge64 (mut f64) (f64.const 1e300))
  (global $nan32 (mut f32) (f32.const nan))
  (global $nan64 (mut f64) (f64.const nan))
  (global $no_pair (mut (ref null $pair)) (ref.null $pair))
  (global $no_bytes (mut (ref null $bytes)) (ref.null $bytes))
  (global $no_longs (mut (ref null $longs)) (ref.null $longs))
  (global $no_refs (mut (ref null $refs)) (ref.null $refs))
  (global $no_array (mut arrayref) (ref.null array))
  (global $no_i31 (mut i31ref) (ref.null i31))
  (global $no_any (mut anyref) (ref.null any))
  (global $no_extern (mut externref) (ref.null extern))
  (global $no_func (mut funcref) (ref.null func))
  (global $no_nullary (mut (ref null $nullary)) (ref.null $nullary))
  (global $number (mut anyref) (ref.i31 (i32.const 5)))
  (global $a_left (mut (ref null $base)) (struct.new $left (i32.const 1) (i64.const 2)))
  (global $a_func (mut funcref) (ref.func $noop))
  (global $a_bytes (mut (ref null $bytes)) (array.new $bytes (i32.const 7) (i32.const 4)))
  (global $a_refs (mut (ref null $refs)) (array.new_default $refs (i32.const 4)))
  (global $a_longs (mut (ref null $longs)) (array.new_default $longs (i32.const 4)))
  (global $big (mut i32) (i32.const 0x10000))
  (memory $memory 1)
  (table $table 3 funcref)
  (table $things 2 anyref)
  (data $data "data")
  (elem $elements anyref (ref.null any))
  (elem (table $table) (i32.const 0) func $noop)
  (func $noop)
  (elem declare func $noop)
"""


def cases() -> list[Case]:
    found: list[Case] = []

    def add(code: TrapCode, name: str, body: str) -> None:
        found.append(Case(name, body, code))

    add(TrapCode.UNREACHABLE, "unreachable", "unreachable")
    for size, zero in (("i32", "$zero"), ("i64", "$zero64")):
        for operation in ("div_s", "div_u", "rem_s", "rem_u"):
            body = f"(drop ({size}.{operation} ({size}.const 7) (global.get {zero})))"
            add(TrapCode.INTEGER_DIVISION_BY_ZERO, f"{size}.{operation}", body)
    add(TrapCode.INTEGER_OVERFLOW, "i32.div_s", "(drop (i32.div_s (global.get $least) (global.get $minus_one)))")
    add(TrapCode.INTEGER_OVERFLOW, "i64.div_s", "(drop (i64.div_s (global.get $least64) (global.get $minus_one64)))")
    for size in ("i32", "i64"):
        for bits in ("32", "64"):
            for sign in ("s", "u"):
                name = f"{size}.trunc_f{bits}_{sign}"
                add(TrapCode.INTEGER_OVERFLOW, name, f"(drop ({name} (global.get $huge{bits})))")
                add(TrapCode.BAD_CONVERSION_TO_INTEGER, name, f"(drop ({name} (global.get $nan{bits})))")

    null = TrapCode.NULL_REFERENCE
    add(null, "struct.get", "(drop (struct.get $pair 1 (global.get $no_pair)))")
    add(null, "struct.get_s", "(drop (struct.get_s $pair 0 (global.get $no_pair)))")
    add(null, "struct.get_u", "(drop (struct.get_u $pair 0 (global.get $no_pair)))")
    add(null, "struct.set", "(struct.set $pair 0 (global.get $no_pair) (i32.const 1))")
    add(null, "struct.set-ref", "(struct.set $pair 1 (global.get $no_pair) (struct.new_default $pair))")
    add(null, "array.get", "(drop (array.get $refs (global.get $no_refs) (i32.const 0)))")
    add(null, "array.get_s", "(drop (array.get_s $bytes (global.get $no_bytes) (i32.const 0)))")
    add(null, "array.get_u", "(drop (array.get_u $bytes (global.get $no_bytes) (i32.const 0)))")
    add(null, "array.set", "(array.set $longs (global.get $no_longs) (i32.const 0) (i64.const 1))")
    add(null, "array.set-ref", "(array.set $refs (global.get $no_refs) (i32.const 0) (struct.new_default $pair))")
    add(null, "array.len", "(drop (array.len (global.get $no_array)))")
    add(null, "array.fill", "(array.fill $bytes (global.get $no_bytes) (i32.const 0) (i32.const 0) (i32.const 0))")
    add(
        null,
        "array.copy-to",
        "(array.copy $bytes $bytes (global.get $no_bytes) (i32.const 0) (global.get $a_bytes)"
        " (i32.const 0) (i32.const 0))",
    )
    add(
        null,
        "array.copy-from",
        "(array.copy $refs $refs (global.get $a_refs) (i32.const 0) (global.get $no_refs) (i32.const 0) (i32.const 0))",
    )
    add(null, "i31.get_s", "(drop (i31.get_s (global.get $no_i31)))")
    add(null, "i31.get_u", "(drop (i31.get_u (global.get $no_i31)))")
    add(null, "call_ref", "(call_ref $nullary (global.get $no_nullary))")
    for kind in ("any", "extern", "func", "pair"):
        add(null, f"ref.as_non_null-{kind}", f"(drop (ref.as_non_null (global.get $no_{kind})))")
    add(null, "ref.as_non_null-none", "(drop (ref.as_non_null (ref.null none)))")

    outside = TrapCode.ARRAY_OUT_OF_BOUNDS
    add(outside, "array.get", "(drop (array.get $refs (global.get $a_refs) (i32.const 4)))")
    add(outside, "array.get-wraps", "(drop (array.get $longs (global.get $a_longs) (i32.const 0x20000000)))")
    add(outside, "array.get_s", "(drop (array.get_s $bytes (global.get $a_bytes) (global.get $minus_one)))")
    add(outside, "array.get_u", "(drop (array.get_u $bytes (global.get $a_bytes) (global.get $least)))")
    add(outside, "array.get-empty", "(drop (array.get $longs (array.new_default $longs (i32.const 0)) (i32.const 0)))")
    add(outside, "array.set", "(array.set $longs (global.get $a_longs) (i32.const 4) (i64.const 1))")
    add(
        outside,
        "array.set-ref",
        "(array.set $refs (global.get $a_refs) (global.get $minus_one) (struct.new_default $pair))",
    )
    add(
        outside,
        "array.fill",
        "(array.fill $bytes (global.get $a_bytes) (i32.const 3) (i32.const 9) (global.get $two))",
    )
    add(
        outside,
        "array.fill-start",
        "(array.fill $refs (global.get $a_refs) (i32.const 5) (global.get $no_pair) (global.get $zero))",
    )
    add(
        outside,
        "array.fill-wraps",
        "(array.fill $bytes (global.get $a_bytes) (i32.const 2) (i32.const 9) (global.get $minus_one))",
    )
    copy = (
        "(array.copy ${0} ${0} (global.get $a_{0}) (i32.const {1}) (global.get $a_{0}) (i32.const {2}) (i32.const {3}))"
    )
    for element in ("bytes", "refs", "longs"):
        add(outside, f"array.copy-to-{element}", copy.format(element, 3, 0, 2))
        add(outside, f"array.copy-from-{element}", copy.format(element, 0, 3, 2))
        add(outside, f"array.copy-wraps-{element}", copy.format(element, 2, 2, -1))

    cast = TrapCode.CAST_FAILURE
    add(cast, "ref.cast-null", "(drop (ref.cast (ref any) (global.get $no_any)))")
    add(cast, "ref.cast-null-struct", "(drop (ref.cast (ref $pair) (global.get $no_any)))")
    add(cast, "ref.cast-i31-as-struct", "(drop (ref.cast (ref null struct) (global.get $number)))")
    add(cast, "ref.cast-i31-as-none", "(drop (ref.cast (ref null none) (global.get $number)))")
    add(cast, "ref.cast-to-sibling", "(drop (ref.cast (ref $right) (global.get $a_left)))")
    add(cast, "ref.cast-to-other", "(drop (ref.cast (ref null $pair) (ref.cast anyref (global.get $a_left))))")
    add(cast, "ref.cast-to-array", "(drop (ref.cast (ref null array) (ref.cast anyref (global.get $a_left))))")
    add(cast, "ref.cast-array", "(drop (ref.cast (ref null $longs) (ref.cast arrayref (global.get $a_bytes))))")
    add(cast, "ref.cast-to-i31", "(drop (ref.cast (ref i31) (ref.cast anyref (global.get $a_bytes))))")
    add(cast, "ref.cast-func", "(drop (ref.cast (ref $unary) (global.get $a_func)))")
    add(cast, "ref.cast-nofunc", "(drop (ref.cast (ref null nofunc) (global.get $a_func)))")
    add(cast, "ref.cast-bottom", "(drop (ref.cast (ref none) (global.get $no_any)))")

    large = TrapCode.ALLOCATION_TOO_LARGE
    add(large, "array.new", "(drop (array.new $longs (i64.const 1) (global.get $minus_one)))")
    add(large, "array.new-half", "(drop (array.new $longs (i64.const 1) (global.get $least)))")
    add(large, "array.new_default", "(drop (array.new_default $refs (global.get $minus_one)))")
    add(large, "array.new_default-bytes", "(drop (array.new_default $bytes (global.get $minus_one)))")

    memory = TrapCode.MEMORY_OUT_OF_BOUNDS
    add(memory, "i32.load", "(drop (i32.load (i32.sub (global.get $big) (i32.const 3))))")
    add(memory, "i64.store8", "(i64.store8 offset=1 (global.get $minus_one) (i64.const 1))")
    add(memory, "v128.load", "(drop (v128.load offset=65521 (global.get $zero)))")
    add(memory, "i32.atomic.load", "(drop (i32.atomic.load (global.get $big)))")
    add(memory, "memory.fill", "(memory.fill (i32.const 1) (i32.const 0) (global.get $big))")
    add(memory, "memory.copy", "(memory.copy (i32.const 0) (global.get $big) (i32.const 1))")
    add(memory, "memory.init", "(memory.init $data (i32.const 0) (global.get $two) (i32.const 3))")
    add(memory, "array.new_data", "(drop (array.new_data $bytes $data (i32.const 0) (i32.const 5)))")
    add(
        memory,
        "array.init_data",
        "(array.init_data $bytes $data (global.get $a_bytes) (i32.const 0) (global.get $two) (i32.const 3))",
    )
    add(TrapCode.HEAP_MISALIGNED, "i32.atomic.store", "(i32.atomic.store (global.get $two) (i32.const 1))")
    add(TrapCode.HEAP_MISALIGNED, "i64.atomic.rmw", "(drop (i64.atomic.rmw.add (global.get $two) (i64.const 1)))")
    add(
        TrapCode.ATOMIC_WAIT_NON_SHARED_MEMORY,
        "memory.atomic.wait32",
        "(drop (memory.atomic.wait32 (global.get $zero) (i32.const 0) (i64.const 0)))",
    )

    table = TrapCode.TABLE_OUT_OF_BOUNDS
    add(table, "table.get", "(drop (table.get $things (global.get $two)))")
    add(table, "table.set", "(table.set $things (global.get $minus_one) (ref.null any))")
    add(table, "table.fill", "(table.fill $things (i32.const 1) (ref.null any) (global.get $two))")
    add(table, "table.copy", "(table.copy $table $table (global.get $two) (i32.const 0) (i32.const 2))")
    add(table, "table.init", "(table.init $things $elements (i32.const 0) (i32.const 0) (global.get $two))")
    add(table, "call_indirect", "(call_indirect $table (type $nullary) (global.get $minus_one))")
    add(TrapCode.INDIRECT_CALL_TO_NULL, "call_indirect", "(call_indirect $table (type $nullary) (global.get $one))")
    add(
        TrapCode.BAD_SIGNATURE,
        "call_indirect",
        "(drop (call_indirect $table (type $unary) (i32.const 1) (global.get $zero)))",
    )
    return found


CASES = cases()
ALWAYS = {TrapCode.UNREACHABLE, TrapCode.ATOMIC_WAIT_NON_SHARED_MEMORY}
"""What comes of instructions that do nothing else, on a memory that is not shared."""


def trapping_source() -> str:
    """A module with four ways to each case: at once, inlined, by reference (so never inlined), and through the host.

    `work` is a program that allocates, links and reads objects, to show that all is well afterwards.
    """
    parts = ["(module $trapping", TYPES_AND_GLOBALS]
    parts.append("(global $chosen (mut (ref null $nullary)) (ref.null $nullary))")
    for number, case in enumerate(CASES):
        parts.append(f'  (func $case{number} (export "direct{number}") {case.body})')
        # The same again, and small, with one caller: LLVM inlines it. A reference is alive across the call.
        parts.append(f"  (func $small{number} {case.body})")
        parts.append(
            f'  (func $around{number} (export "inlined{number}") (result i32) (local $kept (ref null $pair))\n'
            f"    (local.set $kept (struct.new $pair (i32.const 3) (ref.null $pair)))\n"
            f"    (call $small{number}) (struct.get_u $pair 0 (local.get $kept)))"
        )
        parts.append(f'  (func (export "choose{number}") (global.set $chosen (ref.func $case{number})))')
    parts.append(f"  (elem declare func {' '.join(f'$case{number}' for number in range(len(CASES)))})")
    parts.append(
        """
  (func $by_reference (export "by_reference") (result i32) (local $kept (ref null $pair))
    (local.set $kept (struct.new $pair (i32.const 5) (struct.new_default $pair)))
    (call_ref $nullary (global.get $chosen))
    (struct.get_u $pair 0 (local.get $kept)))
  (func $by_host (export "by_host") (param $number i32) (result i32) (local $kept (ref null $pair))
    (local.set $kept (struct.new $pair (i32.const 6) (struct.new_default $pair)))
    (call $reenter (local.get $number))
    (struct.get_u $pair 0 (local.get $kept)))
  (func (export "work") (param $count i32) (result i32)
    (local $list (ref null $pair)) (local $array (ref $refs)) (local $sum i32)
    (local.set $array (array.new_default $refs (i32.const 8)))
    (loop $more
      (local.set $list (struct.new $pair (local.get $count) (local.get $list)))
      (array.set $refs (local.get $array) (i32.and (local.get $count) (i32.const 7)) (local.get $list))
      (br_if $more (local.tee $count (i32.sub (local.get $count) (i32.const 1)))))
    (block $done
      (loop $next
        (br_if $done (ref.is_null (local.get $list)))
        (local.set $sum (i32.add (local.get $sum) (struct.get_u $pair $packed (local.get $list))))
        (local.set $list (struct.get $pair $other (local.get $list)))
        (br $next)))
    (i32.add (local.get $sum) (struct.get_u $pair $packed (array.get $refs (local.get $array) (i32.const 7)))))
)"""
    )
    return "\n".join(parts)


SOURCE = trapping_source()
WORK = sum(range(1, 101)) + 7
KEPT_BY_GLOBALS = 4


class Trapping:
    """An instance of the module on lowheap, whose host function re-enters as often as it is told."""

    def __init__(self, runtime: str) -> None:
        self.store = lh.Store(engine(runtime), initial_heap_size=SMALL_HEAP)  # few blocks, to verify
        self.depth = 0
        self.seen: list[lh.Trap] = []
        self.instance = lh.Instance(self.store, module(runtime, SOURCE), {"host": {"reenter": self.reenter}})
        self.exports = self.instance.exports

    def reenter(self, number: int) -> None:
        try:
            if self.depth:
                self.depth -= 1
                self.exports["by_host"](number)
            else:
                self.exports[f"direct{number}"]()
        except lh.Trap as trap:
            self.seen.append(trap)
            raise

    def check_well(self) -> None:
        """Nothing is left of the aborted frames, and the program works."""
        self.store.verify()
        self.store.collect()
        assert self.store.heap.stats().live_objects == KEPT_BY_GLOBALS
        assert self.store.heap.stats().listed == 0
        assert self.exports["work"](100) == WORK
        self.store.verify()


@functools.cache
def trapping(runtime: str) -> Trapping:
    return Trapping(runtime)


@dataclass(frozen=True)
class Expected:
    """What wasmtime said: its sentence, and where."""

    message: str
    offset: int


@functools.cache
def peer() -> wasmtime_peer.Peer:
    return wasmtime_peer.Peer(SOURCE, {"host.reenter": (["i32"], [], lambda number: None)})


def expected(export: str) -> Expected:
    with pytest.raises(wasmtime_peer.PeerTrap) as caught:
        peer().call(export)
    place = re.search(r"\b0:\s+(0x[0-9a-f]+) - ", caught.value.text)
    assert place is not None, caught.value.text
    return Expected(caught.value.message, int(place.group(1), 16))


def check(trap: lh.Trap, case: Case, want: Expected, function: str) -> None:
    assert trap.code is case.code
    assert trap.code.message == want.message
    assert str(trap).startswith(f"wasm trap: {want.message}")
    assert (trap.function, trap.offset) == (function, want.offset)
    assert f"in function {function}, at offset {want.offset:#x}" in str(trap)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])
def test_each_instruction_traps_as_in_wasmtime(runtime: str, number: int) -> None:
    case, program = CASES[number], trapping(runtime)
    direct, inlined = expected(f"direct{number}"), expected(f"inlined{number}")
    with pytest.raises(lh.Trap) as caught:
        program.exports[f"direct{number}"]()
    check(caught.value, case, direct, f"$case{number}")
    program.check_well()

    with pytest.raises(lh.Trap) as caught:
        program.exports[f"inlined{number}"]()
    check(caught.value, case, inlined, f"$small{number}")
    program.check_well()

    program.exports[f"choose{number}"]()
    with pytest.raises(lh.Trap) as caught:
        program.exports["by_reference"]()
    check(caught.value, case, direct, f"$case{number}")
    program.check_well()

    for depth in (0, 3):
        program.depth = depth
        program.seen.clear()
        with pytest.raises(lh.Trap) as caught:
            program.exports["by_host"](number)
        check(caught.value, case, direct, f"$case{number}")
        assert len(program.seen) == depth + 1
        assert all(trap is caught.value for trap in program.seen), "it is one exception all the way"
        program.check_well()
    program.seen.clear()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_small_functions_were_inlined(runtime: str) -> None:
    text = module(runtime, SOURCE).compiled.llvm_ir
    left = {int(number) for number in re.findall(r"define [^\n]*@.?wasm\.\d+\.small(\d+)", text)}
    inlined = [case for number, case in enumerate(CASES) if number not in left]
    # What traps always is cold, and left out of line, where that is known.
    assert len(inlined) > 0.8 * len(CASES), [str(CASES[number]) for number in left]
    assert {case.code for case in inlined} >= {case.code for case in CASES} - ALWAYS


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_host_function_can_catch_a_trap_and_the_program_goes_on(runtime: str) -> None:
    with lh.Store(engine(runtime), initial_heap_size=SMALL_HEAP) as store:
        codes: list[TrapCode] = []

        def reenter(number: int) -> None:
            for _ in range(2):
                try:
                    instance.exports[f"direct{number}"]()
                except lh.Trap as trap:
                    codes.append(trap.code)
                store.verify()
                store.collect()

        instance = lh.Instance(store, module(runtime, SOURCE), {"host": {"reenter": reenter}})
        for number, case in enumerate(CASES):
            codes.clear()
            assert instance.exports["by_host"](number) == 6
            assert codes == [case.code] * 2
        store.collect()
        assert store.heap.stats().live_objects == KEPT_BY_GLOBALS


def test_every_code_but_those_of_exhaustion_is_covered() -> None:
    assert {case.code for case in CASES} == set(TrapCode) - {
        TrapCode.STACK_OVERFLOW,
        TrapCode.HEAP_EXHAUSTED,
        TrapCode.OUT_OF_FUEL,
        TrapCode.INTERRUPT,
    }


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_traps_of_the_start_function_and_of_initialisers(runtime: str) -> None:
    started = '(module (func $go unreachable) (func (export "f")) (start $go))'
    initialised = """(module (type $a (array i64))
      (global (export "g") (ref $a) (array.new $a (i64.const 0) (i32.const -1))) (func (export "f")))"""
    for source, code, function in (
        (started, TrapCode.UNREACHABLE, "$go"),
        (initialised, TrapCode.ALLOCATION_TOO_LARGE, "the module's initialiser"),
    ):
        with pytest.raises(wasmtime_peer.PeerTrap) as peer_caught:
            wasmtime_peer.Peer(source)
        with lh.Store(engine(runtime)) as store:
            for _ in range(2):
                with pytest.raises(lh.Trap) as caught:
                    lh.Instance(store, module(runtime, source))
                assert caught.value.code is code
                assert code.message == peer_caught.value.message
                assert caught.value.function == function
                store.verify()
            assert store.heap.stats().live_objects == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_trap_names_the_function_of_the_instance_that_trapped(runtime: str) -> None:
    callee = '(module (func (export "early")) (func $late (export "late") (local i64) unreachable))'
    caller = """(module (import "a" "late" (func $imported)) (func (export "padding"))
      (func $through (export "through") (call $imported)))"""
    with lh.Store(engine(runtime)) as store:
        first = lh.Instance(store, module(runtime, callee))
        second = lh.Instance(store, module(runtime, caller), {"a": first.exports})
        for function in (first.exports["late"], second.exports["through"]):
            with pytest.raises(lh.Trap) as caught:
                function()
            assert caught.value.function == "$late"


# --- The stack -------------------------------------------------------------------------------------------------------

RECURSION = """(module
  (type $nullary (func (param i32) (result i32)))
  (type $cell (struct (field i32) (field (ref null $cell))))
  (import "host" "call" (func $call (param i32) (result i32)))
  (global $deepest (export "deepest") (mut i32) (i32.const 0))
  (func $direct (export "direct") (param $n i32) (result i32)
    (global.set $deepest (local.get $n))
    (i32.add (i32.const 1) (call $direct (i32.add (local.get $n) (i32.const 1)))))
  (func $even (export "mutual") (param $n i32) (result i32)
    (i32.xor (i32.const 1) (call $odd (i32.add (local.get $n) (i32.const 1)))))
  (func $odd (param $n i32) (result i32)
    (i32.rotl (i32.const 1) (call $even (i32.add (local.get $n) (i32.const 1)))))
  (func $indirect (export "indirect") (param $n i32) (result i32)
    (i32.add (i32.const 1)
      (call_ref $nullary (i32.add (local.get $n) (i32.const 1)) (ref.func $indirect))))
  (func $holding (export "holding") (param $n i32) (result i32) (local $kept (ref null $cell))
    (local.set $kept (struct.new $cell (local.get $n) (struct.new_default $cell)))
    (i32.add (call $holding (i32.add (local.get $n) (i32.const 1))) (struct.get $cell 0 (local.get $kept))))
  (func (export "plain") (param $n i32) (result i32)
    (i32.add (call $call (i32.add (local.get $n) (i32.const 1))) (i32.const 1)))
  (func $hosted (export "hosted") (param $n i32) (result i32) (local $kept (ref null $cell))
    (local.set $kept (struct.new $cell (local.get $n) (struct.new_default $cell)))
    (i32.add (call $call (i32.add (local.get $n) (i32.const 1))) (struct.get $cell 0 (local.get $kept))))
  (func $down (export "down") (param $n i32) (result i32)
    (if (result i32) (i32.eqz (local.get $n)) (then (i32.const 0))
      (else (i32.add (i32.const 1) (call $down (i32.sub (local.get $n) (i32.const 1)))))))
)"""


def many_locals(count: int) -> str:
    """A recursive function all of whose locals are alive across its call."""
    names = [f"$l{number}" for number in range(count)]
    declared = " ".join(f"(local {name} i32)" for name in names)
    sets = "\n".join(f"(local.set {name} (call $host (i32.const {number})))" for number, name in enumerate(names))
    total = "".join(f"(i32.xor (local.get {name}) " for name in names) + "(i32.const 0)" + ")" * count
    return f"""(module (import "host" "call" (func $host (param i32) (result i32)))
      (func $f (export "f") (param $n i32) (result i32) {declared} (local $r i32)
        (if (i32.eqz (local.get $n)) (then {sets}))
        (local.set $r (call $f (i32.add (local.get $n) (i32.const 1))))
        {
        "".join(
            f"(local.set {name} (i32.add (local.get {name}) (i32.mul (local.get $r) (i32.const {number}))))"
            for number, name in enumerate(names)
        )
    }
        {total}))"""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("export", ["direct", "mutual", "indirect", "holding"])
def test_endless_recursion_traps(runtime: str, export: str) -> None:
    with lh.Store(engine(runtime)) as store:
        instance = lh.Instance(store, module(runtime, RECURSION), {"host": {"call": lambda n: n}})
        functions = {"mutual": ("$even", "$odd")}.get(export, (f"${export}",))
        for _ in range(2):
            with pytest.raises(lh.Trap, match="call stack exhausted") as caught:
                instance.exports[export](0)
            assert caught.value.code is TrapCode.STACK_OVERFLOW
            assert caught.value.function in functions
            assert caught.value.offset is not None
            assert instance.module.locate(caught.value.offset) == caught.value.function
            assert instance.exports["down"](1000) == 1000
        store.verify()
        store.collect()
        assert store.heap.stats().live_objects == 0


def test_wasmtime_words_it_so() -> None:
    with pytest.raises(wasmtime_peer.PeerTrap) as caught:
        wasmtime_peer.run(RECURSION, "direct", (0,), {"host.call": (["i32"], ["i32"], lambda n: n)})
    assert caught.value.message == TrapCode.STACK_OVERFLOW.message


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_recursion_goes_thousands_of_frames_deep_first(runtime: str) -> None:
    with lh.Store(engine(runtime)) as store:
        instance = lh.Instance(store, module(runtime, RECURSION), {"host": {"call": lambda n: n}})
        with pytest.raises(lh.Trap):
            instance.exports["direct"](0)
        assert instance.exports["deepest"].value > 4000


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("count", [1, 255, 700])
def test_functions_with_many_locals(runtime: str, count: int) -> None:
    with lh.Store(engine(runtime)) as store:
        instance = lh.Instance(store, module(runtime, many_locals(count)), {"host": {"call": lambda n: n}})
        for _ in range(3):
            with pytest.raises(lh.Trap, match="call stack exhausted"):
                instance.exports["f"](0)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("export", "limits"), [("plain", range(150, 190)), ("plain", [10**7]), ("hosted", [10**7])])
def test_recursion_through_the_host_ends_in_an_exception(runtime: str, export: str, limits: Sequence[int]) -> None:
    """A spread of limits, so that Python gives up at each place of a round; with no limit, compiled code gives up."""
    with lh.Store(engine(runtime)) as store:
        deepest = 0

        def call(n: int) -> Any:
            nonlocal deepest
            deepest = max(deepest, n)
            return instance.exports[export](n)

        instance = lh.Instance(store, module(runtime, RECURSION), {"host": {"call": call}})
        limit = sys.getrecursionlimit()
        for recursion_limit in limits:
            try:
                sys.setrecursionlimit(recursion_limit)
                with pytest.raises(lh.Trap if recursion_limit == 10**7 else RecursionError):
                    instance.exports[export](0)
            finally:
                sys.setrecursionlimit(limit)
            store.verify()
        assert deepest > 10
        gc.collect()
        store.collect()
        assert store.heap.stats().live_objects == 0
        assert instance.exports["down"](1000) == 1000


def deep_operands(count: int) -> str:
    """So many operands alive across a call, in a function with one caller, which does not always call it."""
    return f"""(module (import "host" "value" (func $value (result f64))) (global $g (mut f64) (f64.const 0))
      (func $inner {"(f64.sub (call $value) " * count} (f64.const 1) {")" * count} (global.set $g))
      (func $outer (export "outer") (param i32) (result i32)
        (if (local.get 0) (then (call $inner)))
        (i32.const 7)))"""


def test_one_buffer_serves_all_calls_with_several_results() -> None:
    results, calls = 200, 30
    call = "(call $many) " + "drop " * results
    source = f"""(module (import "host" "many" (func $many (result {"i64 " * results})))
      (func (export "f") {call * calls}))"""
    with lh.Store(engine(RUNTIMES[0])) as store:
        instance = lh.Instance(store, module(RUNTIMES[0], source), {"host": {"many": lambda: (1,) * results}})
        instance.exports["f"]()
        assert max(record.stack_size for record in instance.module.compiled.stack_map) < 2 * 8 * results


def test_a_thread_is_not_known_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system uses thread identifiers again; what is known of a stack must not outlive its thread."""
    with lh.Store(engine(RUNTIMES[0])) as store:
        monkeypatch.setattr(store_runtime, "threading", SimpleNamespace(get_ident=lambda: 5))
        instance = lh.Instance(store, module(RUNTIMES[0], RECURSION), {"host": {"call": lambda n: n}})
        floors: list[tuple[int, int]] = []

        def run() -> None:
            instance.exports["down"](3)
            floors.append((store.runtime.context.stack_floor, store_runtime._stack_floor()))

        threads = [threading.Thread(target=run) for _ in range(2)]
        blocker = threading.Event()
        waiting = threading.Thread(target=blocker.wait)  # keeps a stack, so that the threads do not share one
        threads[0].start()
        threads[0].join()
        waiting.start()
        threads[1].start()
        threads[1].join()
        blocker.set()
        waiting.join()
        run()
        assert all(used == actual for used, actual in floors)
        assert len({used for used, _ in floors}) > 1


# What follows would end the interpreter if a stack check were wrong, and so runs in another one.

THREADS_SCRIPT = """
import faulthandler, sys, threading
faulthandler.enable()
import lowheap as lh
sys.path.insert(0, {tests!r})
import test_traps as t

def wide():
    '''A call of a function with 1000 results, often: its frame must have but one buffer for them.'''
    results = " ".join(["i32"] * 1000)
    call = "(call $many (local.get 0)) " + "drop " * 999 + "(local.set $a (i32.add (local.get $a)))"
    return f'''(module (import "host" "many" (func $many (param i32) (result {{results}})))
      (func $f (export "f") (param i32) (result i32) (local $a i32)
        (if (i32.eqz (local.get 0)) (then {{call * 20}}))
        (i32.add (local.get $a) (call $f (i32.const 1)))))'''

sources = [
    (t.RECURSION, "direct", {{"host": {{"call": lambda n: n}}}}),
    (t.RECURSION, "holding", {{"host": {{"call": lambda n: n}}}}),
    (t.many_locals(300), "f", {{"host": {{"call": lambda n: n}}}}),
    (wide(), "f", {{"host": {{"many": lambda n: (n,) * 1000}}}}),
    (t.deep_operands(1000), "outer", {{"host": {{"value": lambda: 1.0}}}}),
]
runtime, sizes = {runtime!r}, {sizes!r}
if runtime == "python":  # how large frames are, it shares with the other
    del sources[2:]
store = lh.Store(lh.Engine(runtime=runtime))
def instance(source, imports):
    return lh.Instance(store, lh.Module(store.engine, source), imports)
programs = [(instance(source, imports), export) for source, export, imports in sources]
hosted = instance(t.RECURSION, {{"host": {{"call": lambda n: hosted.exports["hosted"](n)}}}})
programs.append((hosted, "hosted"))
outcomes = []

def run():
    for instance, export in programs:
        try:
            instance.exports[export](int(export == "outer"))
        except (lh.Trap, RecursionError) as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append("result")

run()
sys.setrecursionlimit(1_000_000)

# The larger the stack, the deeper: ascending, since the system may give a thread an old and larger one.
depths = []
def recurse():
    try:
        programs[0][0].exports["direct"](0)
    except lh.Trap:
        depths.append(programs[0][0].exports["deepest"].value)
for kilobytes in (400, 512, 1024, 8192):
    threading.stack_size(kilobytes << 10)
    thread = threading.Thread(target=recurse)
    thread.start()
    thread.join()
assert 1000 < depths[0] < depths[1] < depths[2] == depths[3], depths
for kilobytes in sizes:
    # A large stack in between: the system gives its memory, and the thread's identifier, to the next one.
    for size in (48 << 20, kilobytes << 10):
        threading.stack_size(size)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
assert len(outcomes) == len(programs) * (1 + 2 * len(sizes)), len(outcomes)
store.verify()  # once: it takes seconds, for the deepest recursion has filled the heap
store.collect()
assert store.heap.stats().live_objects == 0
print("alive", sorted(set(outcomes)))
"""


KILOBYTES = [256, 300, 420, 512, 700, 1024, 4096]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_stack_is_overrun_in_threads_of_any_size(runtime: str) -> None:
    sizes = KILOBYTES[: 4 if runtime == "python" else None : examples(2, 1)]
    script = THREADS_SCRIPT.format(tests=str(ROOT / "tests"), runtime=runtime, sizes=sizes)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("alive"), done.stdout


# --- The heap --------------------------------------------------------------------------------------------------------

EXHAUSTION = """(module
  (type $cell (struct (field i32) (field (mut (ref null $cell)))))
  (type $wide (struct (field i64) (field i64) (field i64) (field (mut (ref null $wide)))))
  (type $longs (array (mut i64)))
  (type $refs (array (mut anyref)))
  (import "host" "object" (func $object (param i32) (result externref)))
  (global $kept (mut (ref null $cell)) (ref.null $cell))
  (global $made (export "made") (mut i32) (i32.const 0))
  (func $one_more (global.set $made (i32.add (global.get $made) (i32.const 1))))
  (func $struct.new (export "struct.new") (local $list (ref null $cell))
    (loop $more
      (local.set $list (struct.new $cell (i32.const 1) (local.get $list)))
      (call $one_more) (br $more)))
  (func $struct.new_default (export "struct.new_default") (local $list (ref null $wide)) (local $new (ref null $wide))
    (loop $more
      (local.set $new (struct.new_default $wide))
      (struct.set $wide 3 (local.get $new) (local.get $list))
      (local.set $list (local.get $new))
      (call $one_more) (br $more)))
  (func $global (export "global")
    (loop $more
      (global.set $kept (struct.new $cell (i32.const 1) (global.get $kept)))
      (call $one_more) (br $more)))
  (func (export "clear") (global.set $kept (ref.null $cell)) (global.set $made (i32.const 0)))
  (func $array.new (export "array.new") (local $all (ref $refs)) (local $i i32)
    (local.set $all (array.new_default $refs (i32.const 1000)))
    (loop $more
      (array.set $refs (local.get $all) (local.get $i) (array.new $longs (i64.const 7) (i32.const 50)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (call $one_more) (br $more)))
  (func $array.new_default (export "array.new_default") (local $all (ref $refs)) (local $i i32)
    (local.set $all (array.new_default $refs (i32.const 1000)))
    (loop $more
      (array.set $refs (local.get $all) (local.get $i) (array.new_default $longs (i32.const 300)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (call $one_more) (br $more)))
  (func $array.new_fixed (export "array.new_fixed") (local $list anyref)
    (loop $more
      (local.set $list (array.new_fixed $refs 3 (local.get $list) (ref.null any) (ref.i31 (i32.const 1))))
      (call $one_more) (br $more)))
  (func $too_long (export "too_long") (drop (array.new $longs (i64.const 1) (i32.const 10000))))
  (func $extern (export "extern") (local $all (ref $refs)) (local $i i32)
    (local.set $all (array.new_default $refs (i32.const 4000)))
    (loop $more
      (array.set $refs (local.get $all) (local.get $i) (any.convert_extern (call $object (local.get $i))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (call $one_more) (br $more)))
  ;; Garbage of all sizes, with `live` cells alive throughout: fits, if garbage is found.
  (func $garbage (export "garbage") (param $rounds i32) (param $live i32) (result i32)
    (local $list (ref null $cell)) (local $i i32) (local $any anyref)
    (local.set $i (local.get $live))
    (loop $more
      (local.set $list (struct.new $cell (local.get $i) (local.get $list)))
      (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
    (loop $round
      (local.set $any (struct.new $cell (i32.const 1) (struct.new $cell (i32.const 2) (ref.null $cell))))
      (local.set $any
        (array.new_default $longs (i32.rem_u (i32.mul (local.get $rounds) (i32.const 37)) (i32.const 500))))
      (local.set $any (array.new $refs (local.get $any) (i32.rem_u (local.get $rounds) (i32.const 700))))
      (local.set $any (struct.new_default $wide))
      (local.set $any (any.convert_extern (call $object (local.get $rounds))))
      (br_if $round (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
    (local.set $i (i32.const 0))
    (loop $next
      (local.set $i (i32.add (local.get $i) (struct.get $cell 0 (local.get $list))))
      (br_if $next (i32.eqz (ref.is_null (local.tee $list (struct.get $cell 1 (local.get $list)))))))
    (local.get $i))
  ;; A heap full of externrefs, all of which die at once; then no host function is called any more.
  (func $after_externs (export "after_externs") (param $count i32) (result i32)
    (local $all (ref null $refs)) (local $i i32) (local $list (ref null $cell))
    (local.set $all (array.new_default $refs (local.get $count)))
    (loop $more
      (array.set $refs (local.get $all) (local.get $i) (any.convert_extern (call $object (local.get $i))))
      (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $count))))
    (local.set $all (ref.null $refs))
    (loop $more
      (local.set $list (struct.new $cell (local.get $i) (local.get $list)))
      (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
    (struct.get $cell 0 (local.get $list)))
  ;; Alternately many small objects and one that needs most of the heap.
  (func $alternate (export "alternate") (param $rounds i32) (local $list (ref null $cell)) (local $i i32)
    (loop $round
      (local.set $i (i32.const 1000))
      (loop $more
        (local.set $list (struct.new $cell (local.get $i) (local.get $list)))
        (br_if $more (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
      (local.set $list (ref.null $cell))
      (drop (array.new_default $longs (i32.const 7000)))
      (br_if $round (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1))))))
)"""


class Host:
    """A host object, counted."""

    alive = 0

    def __init__(self) -> None:
        Host.alive += 1

    def __del__(self) -> None:
        Host.alive -= 1


def small_store(runtime: str, collect_every: int = 0) -> lh.Store:
    return lh.Store(
        engine(runtime), initial_heap_size=SMALL_HEAP // 4, maximum_heap_size=SMALL_HEAP, collect_every=collect_every
    )


def exhaustion(runtime: str, store: lh.Store) -> lh.Instance:
    return lh.Instance(store, module(runtime, EXHAUSTION), {"host": {"object": lambda number: Host()}})


@pytest.mark.parametrize("every", [0, 5])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("export", "size"),
    [
        ("struct.new", LAYOUTS.struct_layout([(4, False), (4, True)]).size),
        ("struct.new_default", LAYOUTS.struct_layout([*[(8, False)] * 3, (4, True)]).size),
        ("global", LAYOUTS.struct_layout([(4, False), (4, True)]).size),
        ("array.new", LONGS.size(50)),
        ("array.new_default", LONGS.size(300)),
        ("array.new_fixed", REFS.size(3)),
        ("too_long", LONGS.size(10_000)),
    ],
)
def test_a_full_heap_traps_and_works_again(runtime: str, export: str, size: int, every: int) -> None:
    with small_store(runtime, every) as store:
        instance = exhaustion(runtime, store)
        for _ in range(2):
            with pytest.raises(lh.Trap, match="GC heap out of memory") as caught:
                instance.exports[export]()
            assert caught.value.code is TrapCode.HEAP_EXHAUSTED
            assert caught.value.function == f"${export}"
            assert caught.value.offset is not None
            assert instance.module.locate(caught.value.offset) == f"${export}"
            store.verify()
            if export != "too_long":
                block = block_length(size)
                all_of_them = block_length(REFS.size(1000)) if size > 400 else 0  # the array that holds the others
                used = instance.exports["made"].value * block + all_of_them
                assert used <= SMALL_HEAP < used + 2 * block, "no room was left"
            instance.exports["clear"]()
            store.collect()
            store.verify()
            assert store.heap.stats().live_objects == 0
        assert instance.exports["garbage"](20, 5) == 15


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_externrefs_that_fill_the_heap_are_an_error_of_the_host(runtime: str) -> None:
    with small_store(runtime) as store:
        instance = exhaustion(runtime, store)
        for _ in range(2):
            size = ctypes.sizeof(VMDrcExternRef)
            with pytest.raises(lh.HeapExhaustedError, match=f"no room for an object of {size} bytes") as caught:
                instance.exports["extern"]()
            assert caught.value.bytes_needed == block_length(size)
            room = SMALL_HEAP - FIRST_INDEX - block_length(REFS.size(4000))
            assert instance.exports["made"].value == room // block_length(size)
            instance.exports["clear"]()
            del caught
            store.collect()
            store.verify()
            assert store.heap.stats().live_objects == 0
            assert (len(store.host_data), Host.alive) == (0, 0)
        assert instance.exports["garbage"](20, 5) == 15


@pytest.mark.parametrize("live", [1, 100, 1200])
@pytest.mark.parametrize("every", [0, 7])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_garbage_never_fills_the_heap(runtime: str, every: int, live: int) -> None:
    with small_store(runtime, every) as store:
        instance = exhaustion(runtime, store)
        assert instance.exports["garbage"](400 if every == 0 else 100, live) == live * (live + 1) // 2
        store.verify()
        assert store.heap.stats().capacity <= SMALL_HEAP
        store.collect()
        assert (store.heap.stats().live_objects, len(store.host_data), Host.alive) == (0, 0, 0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_room_of_dead_externrefs_is_found(runtime: str) -> None:
    most = SMALL_HEAP // (block_length(ctypes.sizeof(VMDrcExternRef)) + REFERENCE_SIZE)  # each, and the array's element
    with small_store(runtime) as store:
        instance = exhaustion(runtime, store)
        for _ in range(3):
            assert instance.exports["after_externs"](most * 14 // 15) == 1
            store.verify()
            store.collect()
            assert (store.heap.stats().live_objects, len(store.host_data), Host.alive) == (0, 0, 0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_large_objects_find_room_among_small_garbage(runtime: str) -> None:
    with small_store(runtime) as store:
        instance = exhaustion(runtime, store)
        instance.exports["alternate"](20)
        store.verify()
        store.collect()
        assert store.heap.stats().live_objects == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_room_is_made_in_a_no_gc_scope(runtime: str) -> None:
    with small_store(runtime) as store:
        instance = exhaustion(runtime, store)
        with store.heap.no_gc_scope(), pytest.raises(lh.Trap) as caught:
            instance.exports["garbage"](1500, 10)
        assert caught.value.code is TrapCode.HEAP_EXHAUSTED
        assert instance.exports["garbage"](100, 10) == 55
        store.collect()
        store.verify()
        assert store.heap.stats().live_objects == 0


def repeat(action: Callable[[], object], times: int) -> None:
    for _ in range(times):
        action()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_thousands_of_traps_leave_nothing(runtime: str) -> None:
    program = Trapping(runtime)
    with program.store:

        def one() -> None:
            for number in (0, 20, len(CASES) - 1):
                with pytest.raises(lh.Trap):
                    program.exports["by_host"](number)
            program.seen.clear()

        repeat(one, 300)
        program.check_well()
