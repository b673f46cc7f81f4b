"""Control flow, references, aggregates, globals: small modules for each instruction, against the `wasmtime` package.

Every module runs in lowheap under two configurations, optimised and not, and in wasmtime; results and traps must agree.
References cannot be compared across engines, so programs return numbers that describe them.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import wasmtime_peer

import lowheap as lh

CONFIGURATIONS = {"native-O2": ("native", 2), "python-O0": ("python", 0)}
ALL = tuple(CONFIGURATIONS)

HostFunctions = dict[str, tuple[Sequence[str], Sequence[str], Callable[..., Any]]]


@functools.cache
def engine(configuration: str) -> lh.Engine:
    runtime, opt_level = CONFIGURATIONS[configuration]
    return lh.Engine(runtime=runtime, opt_level=opt_level)


@functools.cache
def module(configuration: str, source: str) -> lh.Module:
    return lh.Module(engine(configuration), source)


class Both:
    """One module in lowheap, on each configuration, and in wasmtime."""

    def __init__(self, source: str, host: HostFunctions | None = None) -> None:
        host = host or {}
        self.peer = wasmtime_peer.Peer(source, host)
        imports = {tuple(name.split(".")): function[2] for name, function in host.items()}
        # Small heaps, in which few blocks are carved at once: `verify` reads them all.
        self.stores = {configuration: lh.Store(engine(configuration), initial_heap_size=8192) for configuration in ALL}
        self.instances = {
            configuration: lh.Instance(store, module(configuration, source), imports)
            for configuration, store in self.stores.items()
        }

    def call(self, export: str, *args: Any) -> Any:
        """The results, as a tuple, or the trap's sentence, on which all agree."""
        try:
            expected: Any = self.peer.call(export, *args)
        except wasmtime_peer.PeerTrap as trap:
            expected = trap.message
        for configuration, instance in self.instances.items():
            try:
                value = instance.exports[export](*args)
                actual: Any = value if isinstance(value, tuple) else () if value is None else (value,)
            except lh.Trap as trap:
                actual = trap.code.message
            assert same(actual, expected), f"{configuration}: {export}{args} gave {actual}, in wasmtime {expected}"
        return expected

    def verify(self, live_objects: int | None = None) -> None:
        for store in self.stores.values():
            store.verify()
            store.collect()
            if live_objects is not None:
                assert store.heap.stats().live_objects == live_objects
            store.verify()


def same(a: Any, b: Any) -> bool:
    """Equality that tells zeros by sign and takes any two NaNs for the same."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (a != a and b != b)
    return type(a) is type(b) and bool(a == b)


@functools.cache
def both(source: str) -> Both:
    """The module, shared by all tests that use it: for modules without state."""
    return Both(source)


EDGES = (0, 1, -1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 100, 0x7FFFFFFF, -0x80000000)


# --- br_table and labels ---------------------------------------------------------------------------------------------


def nested_blocks(count: int, table: Sequence[int], result: str = "") -> str:
    """`count` blocks around one br_table; which was left is told by what the code behind it adds."""
    text = f"(br_table {' '.join(map(str, table))} (local.get 0))"
    for number in range(count):
        text = (
            f"(block {text})\n (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 3)) (i32.const {number})))"
        )
    return text


BR_TABLES = f"""(module
  (func (export "blocks") (param i32) (result i32) (local $sum i32)
    {nested_blocks(8, [3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 7, 0])} (local.get $sum))
  (func (export "only_default") (param i32) (result i32) (local $sum i32)
    {nested_blocks(3, [1])} (local.get $sum))
  (func (export "large") (param i32) (result i32) (local $sum i32)
    {nested_blocks(16, [(number * 7 + number // 5) % 16 for number in range(3000)] + [9])} (local.get $sum))
  (func (export "function_label") (param i32) (result i32)
    (block $b (result i32)
      (block $a (result i32) (br_table $a $b 2 $a 2 $b (i32.const 10) (local.get 0)))
      (i32.add (i32.const 5)))
    (i32.add (i32.const 100)))
  (func (export "several_values") (param i32) (result i64 f64 i32)
    (block $b (result i64 f64 i32)
      (block $a (result i64 f64 i32)
        (br_table $a $b 2 $b $a (i64.const -5) (f64.const 0.5) (i32.const 7) (local.get 0)))
      (i32.add (i32.const 1)))
    (i32.mul (i32.const 10)))
  (func (export "loop_label") (param $n i32) (result i32) (local $sum i32)
    (block $out
      (loop $again
        (local.set $sum (i32.add (local.get $sum) (local.get $n)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br_table $out $again $again $out $again $out (local.get $n))))
    (i32.sub (local.get $sum) (local.get $n)))
  (func (export "loop_values") (param $n i32) (result i32 i64)
    (block $out (result i32 i64)
      (i32.const 0) (i64.const 1)
      (loop $again (param i32 i64) (result i32 i64)
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (i64.mul (i64.const 3))
        (br_table $again $out $out (i32.eqz (local.get $n))))))
  (func (export "in_a_branch") (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 4))
      (then
        (block (block (block (br_table 0 1 2 0 (local.get 0))) (return (i32.const 20))) (return (i32.const 21)))
        (i32.const 22))
      (else (i32.const 23))))
  (func (export "keeps_what_is_below") (param i32) (result i32)
    (i32.const 1000)
    (block $a (result i32)
      (i32.const 500)
      (block $b (result i32) (i32.const 77) (br_table $b $a $b (i32.const 3) (local.get 0)))
      (i32.add))
    (i32.add))
)"""


@pytest.mark.parametrize(
    "export",
    [
        "blocks",
        "only_default",
        "large",
        "function_label",
        "several_values",
        "loop_label",
        "in_a_branch",
        "keeps_what_is_below",
    ],
)
def test_br_table(export: str) -> None:
    indices = (*EDGES, 2998, 2999, 3000) if export == "large" else EDGES
    for index in indices:
        if export != "loop_label" or 0 < index < 1000:
            both(BR_TABLES).call(export, index)


def test_br_table_with_values_to_a_loop() -> None:
    for count in (1, 2, 5, 40):
        assert both(BR_TABLES).call("loop_values", count) == (0, 3**count if count < 40 else 3**40 - (1 << 64))


@st.composite
def label_programs(draw: st.DrawFn) -> str:
    """Nested blocks, ifs and loops, in the innermost of which a br_table goes to any of them; fuel ends it."""
    kinds = draw(st.lists(st.sampled_from(["block", "loop", "if"]), min_size=1, max_size=6))
    depth = len(kinds)
    table = draw(st.lists(st.integers(0, depth), min_size=1, max_size=9))
    after = draw(st.lists(st.integers(-9, 9), min_size=depth, max_size=depth))
    text = f"""
      (if (i32.le_s (local.get $fuel) (i32.const 0)) (then (return (local.get $x) (local.get $fuel))))
      (local.set $fuel (i32.sub (local.get $fuel) (i32.const 1)))
      (br_table {" ".join(map(str, table))} (i32.rem_u (local.get $x) (i32.const {len(table) + 1})))"""
    for kind, number in zip(kinds, after, strict=True):
        step = f"(local.set $x (i32.add (i32.rotl (local.get $x) (i32.const 5)) (i32.const {number})))"
        if kind == "if":
            text = f"(if (i32.and (local.get $x) (i32.const 3)) (then {text}) (else {step}))"
        else:
            text = f"({kind} {text})"
        text += step
    return f"""(module (func (export "f") (param $x i32) (param $fuel i32) (result i32 i32)
      (block {text}) (local.get $x) (local.get $fuel)))"""


@settings(max_examples=25, deadline=None)
@given(label_programs(), st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=4))
def test_br_table_to_any_mix_of_labels(source: str, values: list[int]) -> None:
    program = Both(source)
    for value in values:
        program.call("f", value, 50)


# --- Blocks ----------------------------------------------------------------------------------------------------------

BLOCKS = """(module
  (type $two (func (param i32 i64) (result i64 i32)))
  (func (export "swap") (param i32 i64) (result i64 i32)
    (local.get 0) (local.get 1)
    (block (type $two) (local.set 1) (local.set 0) (local.get 1) (local.get 0)))
  (func (export "fibonacci") (param $n i32) (result i64 i64) (local $a i64) (local $b i64)
    (i64.const 0) (i64.const 1)
    (if (param i64 i64) (result i64 i64) (local.get $n)
      (then
        (loop $next (param i64 i64) (result i64 i64)
          (local.set $b) (local.set $a)
          (local.get $b) (i64.add (local.get $a) (local.get $b))
          (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1))))))))
  (func (export "if_without_else") (param i32 i32) (result i32)
    (local.get 0)
    (if (param i32) (result i32) (local.get 1) (then (i32.mul (i32.const 3))))
    (i32.add (i32.const 1)))
  (func (export "if_sets_a_local") (param i32) (result i32) (local i32)
    (local.set 1 (i32.const 4))
    (if (local.get 0) (then (local.set 1 (i32.const 9))))
    (if (i32.eqz (local.get 0)) (then) (else (local.set 1 (i32.add (local.get 1) (i32.const 1)))))
    (local.get 1))
  (func (export "if_params") (param i32) (result i32 i64)
    (i32.const 8) (i64.const 9)
    (if (param i32 i64) (result i32 i64) (local.get 0)
      (then (i64.add (i64.const 1)))
      (else (drop) (i32.add (i32.const 1)) (i64.const 77))))
  (func (export "br_out_of_if") (param i32 i32) (result i32)
    (if $if (result i32) (local.get 0)
      (then (br_if $if (i32.const 1) (local.get 1)) (drop) (i32.const 2))
      (else (br_if $if (i32.const 3) (local.get 1)) (drop) (br $if (i32.const 4)))))
  (func (export "br_if_values") (param i32) (result i32)
    (block $out (result i32 i32)
      (i32.const 10) (i32.const 20)
      (br_if $out (local.get 0))
      (i32.add) (i32.const 5))
    (i32.sub))
  (func (export "br_keeps_below") (param i32) (result i32)
    (i32.const 1)
    (block $out (result i32) (i32.const 2) (i32.const 3) (i32.const 4) (br $out) )
    (i32.add))
  (func (export "return_from_depth") (param i32) (result i32 i32)
    (i32.const 99)
    (block (loop (block
      (if (local.get 0) (then (i32.const 5) (i32.const 6) (return)))
      (i32.const 7) (i32.const 8) (return))))
    (i32.const 1))
  (func (export "nested_loops") (param $n i32) (result i32) (local $i i32) (local $j i32) (local $sum i32)
    (local.set $i (local.get $n))
    (loop $outer
      (local.set $j (local.get $i))
      (loop $inner
        (local.set $sum (i32.add (local.get $sum) (i32.mul (local.get $i) (local.get $j))))
        (br_if $inner (i32.gt_s (local.tee $j (i32.sub (local.get $j) (i32.const 1))) (i32.const 0))))
      (br_if $outer (i32.gt_s (local.tee $i (i32.sub (local.get $i) (i32.const 1))) (i32.const 0))))
    (local.get $sum))
  (func (export "loop_falls_through") (param i32) (result i32)
    (loop $l (result i32) (local.get 0) (br_if 1 (i32.const 5) (local.get 0)) (drop)))
  (func (export "locals_start_at_zero") (result i32 i64 f32 f64 i32 i32)
    (local i32 i64 f32 f64 anyref funcref)
    (local.get 0) (local.get 1) (local.get 2) (local.get 3)
    (ref.is_null (local.get 4)) (ref.is_null (local.get 5)))
  (func (export "tee") (param i32) (result i32) (local i32)
    (i32.add (local.tee 1 (i32.mul (local.get 0) (i32.const 2))) (local.tee 1 (i32.add (local.get 1) (i32.const 1))))
    (i32.mul (local.get 1)))
  (func (export "set_in_dead_branch") (param i32) (result i32)
    (block $b
      (br_if $b (local.get 0))
      (local.set 0 (i32.const 5))
      (br $b)
      (local.set 0 (i32.const 6)))
    (local.get 0))
  (func (export "nothing_but_nops") (nop) (block) (loop) (nop) (drop (i32.const 1)))
)"""


@pytest.mark.parametrize(
    ("export", "arguments"),
    [
        ("swap", [(5, -6)]),
        ("fibonacci", [(0,), (1,), (2,), (50,), (95,)]),
        ("if_without_else", [(5, 0), (5, 1), (-7, -1)]),
        ("if_sets_a_local", [(0,), (1,), (-1,)]),
        ("if_params", [(0,), (1,)]),
        ("br_out_of_if", list(itertools.product((0, 1), repeat=2))),
        ("br_if_values", [(0,), (1,)]),
        ("br_keeps_below", [(0,)]),
        ("return_from_depth", [(0,), (1,)]),
        ("nested_loops", [(1,), (2,), (30,)]),
        ("loop_falls_through", [(0,), (3,)]),
        ("locals_start_at_zero", [()]),
        ("tee", [(0,), (21,), (-1,)]),
        ("set_in_dead_branch", [(0,), (9,)]),
        ("nothing_but_nops", [()]),
    ],
)
def test_blocks(export: str, arguments: Iterable[tuple[Any, ...]]) -> None:
    for args in arguments:
        result = both(BLOCKS).call(export, *args)
        assert not isinstance(result, str), "nothing here traps"


# Code that cannot be reached may be anything that is valid; what is around it must work.
DEAD_CODE = {
    "after_br": "(block (br 0) (drop (i32.const 1)) (br 0)) (i32.const 1)",
    "after_return": "(return (i32.const 2)) (i32.const 3) (drop)",
    "after_return_polymorphic": "(return (i32.const 2)) (i32.add) (i32.eqz) (drop)",
    "after_unreachable": "(if (local.get 0) (then (unreachable) (i32.add) (drop) (f64.neg) (drop))) (i32.const 4)",
    "after_br_table": "(block (block (br_table 0 1 (local.get 0)) (i32.const 7) (drop))) (i32.const 5)",
    "blocks_in_dead_code": """(block (result i32) (br 0 (i32.const 6))
        (block (result i32) (loop (br 0)) (if (result i32) (i32.const 0) (then (i32.const 1)) (else (i32.const 2)))
          (br 1)) (drop) (block (param i32) (drop)))""",
    "if_in_dead_code": "(block (br 0) (if (then (br 1)) (else (unreachable))) (loop) (drop)) (i32.const 8)",
    "dead_else": """(if (result i32) (local.get 0) (then (br 0 (i32.const 1)) (drop) (i32.const 2))
        (else (br 0 (i32.const 3)) (if (then) (else)) (i32.const 4)))""",
    "both_arms_leave": "(if (local.get 0) (then (return (i32.const 1))) (else (return (i32.const 2)))) (unreachable)",
    "both_arms_leave_with_a_result": """(i32.add (i32.const 1)
        (if (result i32) (local.get 0) (then (return (i32.const 1))) (else (return (i32.const 2)))))""",
    "block_nobody_leaves": "(block (return (i32.const 3))) (i32.const 4)",
    "loop_forever_but_return": "(loop (br_if 0 (i32.const 0)) (return (i32.const 9)) (br 0)) (i32.const 1)",
    "dead_loop_with_locals": """(block $b (br $b)
        (loop $l (local.set 0 (i32.const 55)) (br_if $l (local.get 0)))) (local.get 0)""",
    "dead_end_of_if": "(block (result i32) (if (i32.const 1) (then (br 1 (local.get 0)))) (i32.const 7))",
    "dead_references": """(block (br 0) (struct.get $s 0) (drop) (array.len) (drop) (ref.cast (ref $s)) (drop)
        (call_ref $f) (drop) (br_on_null 0) (drop)
        (block (result (ref null $s)) (ref.null any) (br_on_cast 0 anyref (ref $s)) (drop) (ref.null $s)) (drop))
        (i32.const 3)""",
    "dead_select": "(block (br 0) (select) (drop) (select (result i32)) (drop) (ref.func $f0) (drop)) (i32.const 2)",
    "dead_calls": "(block (br 0) (call $f0) (drop) (global.set 0) (local.tee 0) (drop)) (i32.const 2)",
    "unreachable_value": "(i32.add (i32.const 1) (block (result i32) (br 0 (i32.const 2)) (i32.add (i32.const 3))))",
}
DEAD_SOURCE = (
    """(module (type $s (struct (field i32))) (type $f (func (result i32))) (global (mut i32) (i32.const 0))
  (func $f0 (type $f) (i32.const 1)) (elem declare func $f0)\n"""
    + "\n".join(f'(func (export "{name}") (param i32) (result i32) {body})' for name, body in DEAD_CODE.items())
    + ")"
)


@pytest.mark.parametrize("name", DEAD_CODE)
def test_code_that_cannot_be_reached(name: str) -> None:
    for argument in (0, 1, 2):
        both(DEAD_SOURCE).call(name, argument)


# --- select, constants, NaNs -----------------------------------------------------------------------------------------

SELECTS = """(module
  (type $s (struct (field i32)))
  (func (export "i32") (param i32 i32 i32) (result i32) (select (local.get 0) (local.get 1) (local.get 2)))
  (func (export "i64") (param i64 i64 i32) (result i64) (select (local.get 0) (local.get 1) (local.get 2)))
  (func (export "f32") (param f32 f32 i32) (result f32) (select (local.get 0) (local.get 1) (local.get 2)))
  (func (export "f64") (param f64 f64 i32) (result f64) (select (local.get 0) (local.get 1) (local.get 2)))
  (func (export "typed") (param i64 i64 i32) (result i64)
    (select (result i64) (local.get 0) (local.get 1) (local.get 2)))
  (func (export "struct") (param i32 i32 i32) (result i32)
    (struct.get $s 0 (select (result (ref null $s))
      (struct.new $s (local.get 0)) (struct.new $s (local.get 1)) (local.get 2))))
  (func (export "null_or_struct") (param i32 i32) (result i32)
    (struct.get $s 0 (select (result (ref null $s)) (struct.new $s (local.get 0)) (ref.null none) (local.get 1))))
  (func (export "any") (param i32 i32) (result i32)
    (ref.test (ref i31) (select (result anyref) (ref.i31 (local.get 0)) (struct.new $s (local.get 0)) (local.get 1))))
  (func (export "extern") (param i32 i32) (result i32)
    (ref.is_null (select (result externref)
      (extern.convert_any (ref.i31 (local.get 0))) (ref.null extern) (local.get 1))))
  (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2)) (elem declare func $one $two)
  (type $f (func (result i32)))
  (func (export "func") (param i32) (result i32)
    (call_ref $f (select (result (ref $f)) (ref.func $one) (ref.func $two) (local.get 0))))
  (func (export "nan32") (param i32 i32 i32) (result i32)
    (i32.reinterpret_f32 (select
      (f32.reinterpret_i32 (local.get 0)) (f32.reinterpret_i32 (local.get 1)) (local.get 2))))
)"""


def test_select_of_each_type() -> None:
    program = both(SELECTS)
    for condition in (0, 1, -1, 2, 1 << 30):
        for name, pair in (("i32", (5, -5)), ("i64", (1 << 40, -1)), ("f32", (0.5, -0.0)), ("f64", (1e300, -1.5))):
            program.call(name, *pair, condition)
        program.call("typed", 1, 2, condition)
        program.call("struct", 3, 4, condition)
        program.call("null_or_struct", 3, condition)
        program.call("any", 3, condition)
        program.call("extern", 3, condition)
        program.call("func", condition)
        program.call("nan32", 0x7F800001, 0x7FC00123, condition)
    program.verify(0)


NAN32 = [0x7F800001, 0x7FC00000, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FA00000]
NAN64 = [bits << 32 | 0x1234 for bits in (0x7FF00000, 0x7FF80000, 0xFFF00000, 0x7FFFFFFF, 0xFFFFFFFF)]


def spelled_nan(bits: int, mantissa: int, width: int) -> str:
    sign = "-" if bits >> (width - 1) else ""
    return f"{sign}nan:{bits & ((1 << mantissa) - 1):#x}"


CONSTANTS = (
    "(module\n"
    + "\n".join(
        f"""(func (export "a{n}") (result i32) (i32.reinterpret_f32 (f32.const {spelled_nan(bits, 23, 32)})))
        (global $g{n} (export "g{n}") (mut f32) (f32.const {spelled_nan(bits, 23, 32)}))
        (func (export "b{n}") (result i32) (i32.reinterpret_f32 (global.get $g{n})))"""
        for n, bits in enumerate(NAN32)
    )
    + "\n".join(
        f"""(func (export "c{n}") (result i64) (i64.reinterpret_f64 (f64.const {spelled_nan(bits, 52, 64)})))
        (func (export "d{n}") (result i64)
          (i64.reinterpret_f64 (struct.get $s 0 (struct.new $s (f64.const {spelled_nan(bits, 52, 64)})))))"""
        for n, bits in enumerate(NAN64)
    )
    + """(type $s (struct (field f64)))
  (func (export "numbers") (result i32 i32 i64 i64 f32 f32 f64 f64 f32 f64)
    (i32.const 0x7fffffff) (i32.const -0x80000000) (i64.const 0x7fffffffffffffff) (i64.const -0x8000000000000000)
    (f32.const 0x1p-149) (f32.const -0x1.fffffep+127) (f64.const 0x1p-1074) (f64.const -0x1.fffffffffffffp+1023)
    (f32.const -0) (f64.const -inf))
)"""
)


def test_constants_keep_every_bit() -> None:
    program = both(CONSTANTS)
    for number, bits in enumerate(NAN32):
        for kind in "ab":
            (result,) = program.call(f"{kind}{number}")
            assert result % (1 << 32) == bits
    for number, bits in enumerate(NAN64):
        for kind in "cd":
            (result,) = program.call(f"{kind}{number}")
            assert result % (1 << 64) == bits
    program.call("numbers")


# --- ref.test, ref.cast, br_on_cast, br_on_cast_fail: every pair of types, values of every kind -----------------------

# Each hierarchy: its types with their direct supertypes, and how values of every kind are made.
SUPERTYPES = {
    "any": {
        "any": None,
        "eq": "any",
        "i31": "eq",
        "struct": "eq",
        "array": "eq",
        "$base": "struct",
        "$mid": "$base",
        "$leaf": "$mid",
        "$twin": "$base",
        "$grouped": "struct",
        "$bytes": "array",
        "$lists": "array",
        "none": "",
    },
    "func": {"func": None, "$f": "func", "$g": "$f", "$h": "func", "nofunc": ""},
    "extern": {"extern": None, "noextern": ""},
}
VALUES = {
    "any": [
        "(ref.null none)",
        "(ref.null any)",
        "(ref.i31 (i32.const 0))",
        "(ref.i31 (i32.const -1))",
        "(struct.new $base (i32.const 1))",
        "(struct.new $mid (i32.const 1) (i64.const 2))",
        "(struct.new $leaf (i32.const 1) (i64.const 2))",
        "(struct.new $twin (i32.const 1) (i64.const 2))",
        "(struct.new $same (i32.const 1))",
        "(struct.new $grouped (i32.const 1))",
        "(array.new_default $bytes (i32.const 3))",
        "(array.new_default $lists (i32.const 0))",
        "(any.convert_extern (call $object))",
        "(any.convert_extern (extern.convert_any (struct.new $leaf (i32.const 1) (i64.const 2))))",
        "(any.convert_extern (ref.null extern))",
    ],
    "func": [
        "(ref.null nofunc)",
        "(ref.null $g)",
        "(ref.func $of_f)",
        "(ref.func $of_g)",
        "(ref.func $of_h)",
        "(ref.func $object)",
    ],
    "extern": [
        "(ref.null extern)",
        "(call $object)",
        "(extern.convert_any (ref.i31 (i32.const 4)))",
        "(extern.convert_any (struct.new $base (i32.const 1)))",
        "(extern.convert_any (ref.null any))",
    ],
}


def is_below(hierarchy: str, low: str, high: str) -> bool:
    """The declared subtype relation, worked out from `SUPERTYPES`."""
    parents = SUPERTYPES[hierarchy]
    if parents[low] == "":
        return True
    while low != high:
        above = parents[low]
        if above is None:
            return False
        low = above
    return True


PAIRS = [
    (hierarchy, source, target)
    for hierarchy, parents in SUPERTYPES.items()
    for source in parents
    for target in parents
    if is_below(hierarchy, target, source)
]


def ref(nullable: bool, heap_type: str) -> str:
    return f"(ref null {heap_type})" if nullable else f"(ref {heap_type})"


def cast_functions(number: int, hierarchy: str, source: str, target: str) -> str:
    """For one pair: a function that describes everything that does not trap, and one for each cast that may."""
    top = f"(ref null {hierarchy})"
    given = f"(ref.cast (ref null {source}) (call ${hierarchy} (local.get 0)))"
    tests = [f"(ref.test {ref(nullable, target)} {given})" for nullable in (False, True)]
    branches = []
    for name, nullable in itertools.product(("br_on_cast", "br_on_cast_fail"), (False, True)):
        # A value below the reference must come through the branch as well as past it.
        branches.append(f"""
          (block $out (result i32)
            (block $taken (result i32 {top})
              (i32.const 5)
              ({name} $taken (ref null {source}) {ref(nullable, target)} {given})
              (drop) (i32.const 1) (i32.add) (br $out))
            (ref.is_null) (i32.const 1) (i32.shl) (i32.add))""")
    text = "(i32.const 0)" + "".join(f"(i32.const 16) (i32.mul) {part} (i32.add)" for part in (*tests, *branches))
    functions = [f'(func (export "describe{number}") (param i32) (result i32) {text})']
    for nullable in (False, True):
        functions.append(
            f"""(func (export "cast{int(nullable)}.{number}") (param i32) (result i32)
              (ref.is_null (ref.cast {ref(nullable, target)} {given})))"""
        )
    # The same of a reference that cannot be null.
    functions.append(
        f"""(func (export "solid{number}") (param i32) (result i32)
          (i32.add (ref.test {ref(True, target)} (ref.as_non_null {given}))
            (i32.mul (i32.const 2) (ref.test {ref(False, target)} (ref.as_non_null {given})))))"""
    )
    return "\n".join(functions)


def chooser(hierarchy: str) -> str:
    values = VALUES[hierarchy]
    text = "(unreachable)"
    for number, value in reversed(list(enumerate(values))):
        text = f"""(if (result (ref null {hierarchy})) (i32.eq (local.get 0) (i32.const {number}))
          (then {value}) (else {text}))"""
    return f"(func ${hierarchy} (param i32) (result (ref null {hierarchy})) {text})"


CASTS = (
    """(module
  (type $base (sub (struct (field i32))))
  (type $mid (sub $base (struct (field i32) (field i64))))
  (type $leaf (sub final $mid (struct (field i32) (field i64))))
  (type $twin (sub $base (struct (field i32) (field (mut i64)))))
  (type $same (sub (struct (field i32))))
  (rec (type $grouped (sub (struct (field i32)))) (type $second (struct)))
  (type $bytes (array (mut i8)))
  (type $lists (sub (array (ref null $base))))
  (type $f (sub (func (result externref))))
  (type $g (sub final $f (func (result externref))))
  (type $h (func (param i32)))
  (type $o (func (result externref)))
  (import "host" "object" (func $object (type $o)))
  (func $of_f (type $f) (ref.null extern))
  (func $of_g (type $g) (ref.null extern))
  (func $of_h (type $h))
  (elem declare func $of_f $of_g $of_h $object)
"""
    + "\n".join(chooser(hierarchy) for hierarchy in SUPERTYPES)
    + "\n".join(cast_functions(number, *pair) for number, pair in enumerate(PAIRS))
    + ")"
)


@functools.cache
def casts() -> Both:
    return Both(CASTS, {"host.object": ([], ["externref"], object)})


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=["-".join(pair) for pair in PAIRS])
def test_casts(number: int) -> None:
    hierarchy = PAIRS[number][0]
    outcomes = set()
    for value in range(len(VALUES[hierarchy])):
        outcomes.add(casts().call(f"describe{number}", value))
        for export in (f"cast0.{number}", f"cast1.{number}", f"solid{number}"):
            casts().call(export, value)
    assert len(outcomes) > 1, "the values tell the types apart, or at least null from the rest"


def test_casts_leave_nothing() -> None:
    casts().verify(0)


def test_there_are_casts_to_types_of_each_kind() -> None:
    assert ("any", "eq", "$leaf") in PAIRS
    assert ("func", "func", "$g") in PAIRS
    assert ("any", "$mid", "$twin") not in PAIRS


# --- Null, equality, conversions -------------------------------------------------------------------------------------

REFERENCES = """(module
  (type $s (struct (field i32)))
  (type $f (func (param i32) (result i32)))
  (func $double (type $f) (i32.mul (local.get 0) (i32.const 2)))
  (func $negate (type $f) (i32.sub (i32.const 0) (local.get 0)))
  (elem declare func $double $negate)
  (func $maybe (param i32) (result (ref null $s))
    (if (result (ref null $s)) (local.get 0) (then (struct.new $s (local.get 0))) (else (ref.null $s))))
  (func (export "br_on_null") (param i32) (result i32)
    (block $null (result i32)
      (i32.const 50)
      (br_on_null $null (call $maybe (local.get 0)))
      (struct.get $s 0) (i32.add)))
  (func (export "br_on_non_null") (param i32) (result i32)
    (block $found (result i32 (ref $s))
      (i32.const 60)
      (br_on_non_null $found (call $maybe (local.get 0)))
      (return))
    (struct.get $s 0) (i32.add))
  (func (export "as_non_null") (param i32) (result i32)
    (struct.get $s 0 (ref.as_non_null (call $maybe (local.get 0)))))
  (func (export "br_on_null_loop") (param $n i32) (result i32) (local $count i32)
    (block $end
      (loop $again
        (drop (br_on_null $end (call $maybe (local.get $n))))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
        (br $again)))
    (local.get $count))
  (func (export "br_on_null_function_label") (param i32) (result i32)
    (i32.const 70)
    (br_on_null 0 (call $maybe (local.get 0)))
    (struct.get $s 0) (i32.add))
  (func (export "is_null") (param i32) (result i32 i32 i32 i32 i32)
    (ref.is_null (call $maybe (local.get 0))) (ref.is_null (ref.null none)) (ref.is_null (ref.func $double))
    (ref.is_null (ref.i31 (i32.const 0))) (ref.is_null (extern.convert_any (call $maybe (local.get 0)))))
  (func (export "eq_self") (param i32) (result i32) (local (ref null $s))
    (local.set 1 (call $maybe (local.get 0))) (ref.eq (local.get 1) (local.get 1)))
  (func (export "eq_other") (param i32 i32) (result i32)
    (ref.eq (call $maybe (local.get 0)) (call $maybe (local.get 1))))
  (func (export "eq_i31") (param i32 i32) (result i32)
    (ref.eq (ref.i31 (local.get 0)) (ref.i31 (local.get 1))))
  (func (export "eq_mixed") (param i32 i32) (result i32)
    (ref.eq (ref.i31 (local.get 0)) (call $maybe (local.get 1))))
  (func (export "i31") (param i32) (result i32 i32 i32)
    (i31.get_s (ref.i31 (local.get 0))) (i31.get_u (ref.i31 (local.get 0)))
    (ref.test (ref i31) (any.convert_extern (extern.convert_any (ref.i31 (local.get 0))))))
  (func (export "round_trip") (param i32) (result i32) (local $x (ref null $s)) (local $e externref)
    (local.set $x (call $maybe (local.get 0)))
    (local.set $e (extern.convert_any (local.get $x)))
    (ref.eq (local.get $x) (ref.cast eqref (any.convert_extern (local.get $e)))))
  (func (export "call_ref") (param i32 i32) (result i32)
    (call_ref $f (local.get 0) (if (result (ref null $f)) (i32.eqz (local.get 1))
      (then (ref.func $double)) (else (if (result (ref null $f)) (i32.eq (local.get 1) (i32.const 1))
        (then (ref.func $negate)) (else (ref.null $f)))))))
)"""


@pytest.mark.parametrize(
    "export",
    [
        "br_on_null",
        "br_on_non_null",
        "as_non_null",
        "br_on_null_loop",
        "br_on_null_function_label",
        "is_null",
        "eq_self",
        "round_trip",
    ],
)
def test_null(export: str) -> None:
    for value in (0, 1, 5):
        both(REFERENCES).call(export, value)
    both(REFERENCES).verify(0)


@settings(deadline=None)
@given(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(-(1 << 31), (1 << 31) - 1))
def test_i31s_wrap_and_compare_by_value(a: int, b: int) -> None:
    program = both(REFERENCES)
    signed, unsigned, is_i31 = program.call("i31", a)
    assert (signed - a) % (1 << 31) == 0
    assert unsigned == a % (1 << 31)
    assert is_i31 == 1
    assert program.call("eq_i31", a, b) == (int((a - b) % (1 << 31) == 0),)
    assert program.call("eq_i31", a, a ^ (1 << 31) if a >= 0 else a + (1 << 31)) == (1,)


def test_equality_of_objects() -> None:
    for a, b in itertools.product((0, 1, 2), repeat=2):
        assert both(REFERENCES).call("eq_other", a, b) == (int(a == b == 0),)
        assert both(REFERENCES).call("eq_mixed", a, b) == (0,)


def test_call_ref() -> None:
    for which in (0, 1, 2):
        both(REFERENCES).call("call_ref", 21, which)


# --- Packed fields and structs ---------------------------------------------------------------------------------------

PACKED = """(module
  (type $p (struct (field (mut i8)) (field (mut i16)) (field (mut i8)) (field (mut i32)) (field (mut i16))
                   (field (mut i64)) (field (mut f32)) (field (mut f64)) (field (mut i8))))
  (type $a8 (array (mut i8))) (type $a16 (array (mut i16)))
  (global $p (ref $p) (struct.new_default $p))
  (global $a8 (ref $a8) (array.new_default $a8 (i32.const 5)))
  (global $a16 (ref $a16) (array.new_default $a16 (i32.const 5)))
  (func (export "new") (param i32) (result i32 i32 i32 i32 i32 i32 i64 f32 f64 i32) (local (ref $p))
    (local.set 1 (struct.new $p (local.get 0) (local.get 0) (i32.xor (local.get 0) (i32.const -1)) (local.get 0)
      (i32.mul (local.get 0) (i32.const 3)) (i64.extend_i32_s (local.get 0)) (f32.convert_i32_s (local.get 0))
      (f64.convert_i32_s (local.get 0)) (local.get 0)))
    (struct.get_s $p 0 (local.get 1)) (struct.get_u $p 0 (local.get 1)) (struct.get_s $p 1 (local.get 1))
    (struct.get_u $p 1 (local.get 1)) (struct.get_s $p 2 (local.get 1)) (struct.get_u $p 4 (local.get 1))
    (struct.get $p 5 (local.get 1)) (struct.get $p 6 (local.get 1)) (struct.get $p 7 (local.get 1))
    (struct.get $p 3 (local.get 1)))
  (func (export "set") (param i32)
    (struct.set $p 0 (global.get $p) (local.get 0))
    (struct.set $p 1 (global.get $p) (i32.add (local.get 0) (i32.const 1)))
    (struct.set $p 8 (global.get $p) (i32.add (local.get 0) (i32.const 2))))
  (func (export "get") (result i32 i32 i32 i32 i32 i32 i32 i32)
    (struct.get_s $p 0 (global.get $p)) (struct.get_u $p 0 (global.get $p))
    (struct.get_s $p 1 (global.get $p)) (struct.get_u $p 1 (global.get $p))
    (struct.get_s $p 8 (global.get $p)) (struct.get_u $p 8 (global.get $p))
    (struct.get_u $p 2 (global.get $p)) (struct.get $p 3 (global.get $p)))
  (func (export "set8") (param i32 i32) (array.set $a8 (global.get $a8) (local.get 0) (local.get 1)))
  (func (export "set16") (param i32 i32) (array.set $a16 (global.get $a16) (local.get 0) (local.get 1)))
  (func (export "get8") (param i32) (result i32 i32)
    (array.get_s $a8 (global.get $a8) (local.get 0)) (array.get_u $a8 (global.get $a8) (local.get 0)))
  (func (export "get16") (param i32) (result i32 i32)
    (array.get_s $a16 (global.get $a16) (local.get 0)) (array.get_u $a16 (global.get $a16) (local.get 0)))
  (func (export "fixed") (param i32) (result i32 i32 i32)
    (array.get_s $a8 (array.new_fixed $a8 3 (i32.const 1) (local.get 0) (i32.const 2)) (i32.const 1))
    (array.get_u $a16 (array.new $a16 (local.get 0) (i32.const 3)) (i32.const 2))
    (array.len (array.new_fixed $a8 0)))
)"""


@pytest.mark.parametrize("value", [0, 1, -1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, -128, -129, 0x12345678])
def test_packed_storage(value: int) -> None:
    program = both(PACKED)
    program.call("new", value)
    program.call("fixed", value)
    program.call("set", value)
    program.call("get")
    for index in (0, 1, 4, 5, -1):
        for width in (8, 16):
            program.call(f"set{width}", index, value)
            program.call(f"get{width}", index)
            program.call(f"get{width}", min(max(0, index - 1), 4))


# --- Arrays: fill and copy of every element type ---------------------------------------------------------------------

LENGTH = 8
# The type, a value made of the i32 `$v`, and an i32 made of a value.
ELEMENTS = {
    "i8": ("i8", "(local.get $v)", "(array.get_u $i8 {} {})"),
    "i16": ("i16", "(local.get $v)", "(array.get_u $i16 {} {})"),
    "i32": ("i32", "(local.get $v)", "(array.get $i32 {} {})"),
    "i64": ("i64", "(i64.extend_i32_u (local.get $v))", "(i32.wrap_i64 (array.get $i64 {} {}))"),
    "f32": ("f32", "(f32.convert_i32_u (local.get $v))", "(i32.trunc_f32_u (array.get $f32 {} {}))"),
    "f64": ("f64", "(f64.convert_i32_u (local.get $v))", "(i32.trunc_f64_u (array.get $f64 {} {}))"),
    "i31": ("i31ref", "(ref.i31 (local.get $v))", "(i31.get_u (array.get $i31 {} {}))"),
    "struct": ("(ref null $box)", "(struct.new $box (local.get $v))", "(struct.get $box 0 (array.get $struct {} {}))"),
    "any": (
        "anyref",
        """(if (result anyref) (i32.and (local.get $v) (i32.const 1))
          (then (ref.i31 (local.get $v))) (else (struct.new $box (local.get $v))))""",
        "(call $any_number (array.get $any {} {}))",
    ),
    "extern": (
        "externref",
        "(extern.convert_any (struct.new $box (local.get $v)))",
        "(struct.get $box 0 (ref.cast (ref $box) (any.convert_extern (array.get $extern {} {}))))",
    ),
    "func": (
        "funcref",
        "(if (result funcref) (local.get $v) (then (ref.func $one)) (else (ref.func $zero)))",
        "(call_ref $f (ref.cast (ref $f) (array.get $func {} {})))",
    ),
}


def array_functions(name: str) -> str:
    _, make, read = ELEMENTS[name]
    return f"""
  (global $g_{name} (mut (ref null ${name})) (ref.null ${name}))
  (func (export "reset_{name}") (local $i i32) (local $v i32)
    (global.set $g_{name} (array.new ${name} {make} (i32.const {LENGTH})))
    (loop $more
      (local.set $v (local.get $i))
      (array.set ${name} (global.get $g_{name}) (local.get $i) {make})
      (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {LENGTH})))))
  (func (export "fill_{name}") (param $at i32) (param $v i32) (param $count i32)
    (array.fill ${name} (global.get $g_{name}) (local.get $at) {make} (local.get $count)))
  (func (export "copy_{name}") (param $to i32) (param $from i32) (param $count i32)
    (array.copy ${name} ${name} (global.get $g_{name}) (local.get $to)
      (global.get $g_{name}) (local.get $from) (local.get $count)))
  (func (export "copy_in_{name}") (param $to i32) (param $from i32) (param $count i32) (local $v i32)
    (local.set $v (i32.const 1))
    (array.copy ${name} ${name} (global.get $g_{name}) (local.get $to)
      (array.new ${name} {make} (i32.const 5)) (local.get $from) (local.get $count)))
  (func (export "get_{name}") (param $i i32) (result i32)
    {read.format(f"(global.get $g_{name})", "(local.get $i)")})
  (func (export "length_{name}") (result i32) (array.len (global.get $g_{name})))
  (func (export "clear_{name}") (global.set $g_{name} (ref.null ${name})))"""


ARRAYS = (
    """(module (type $box (struct (field i32))) (type $f (func (result i32)))
  (func $zero (type $f) (i32.const 0)) (func $one (type $f) (i32.const 1)) (elem declare func $zero $one)
  (func $any_number (param anyref) (result i32)
    (if (result i32) (ref.test (ref i31) (local.get 0))
      (then (i31.get_u (ref.cast (ref i31) (local.get 0))))
      (else (struct.get $box 0 (ref.cast (ref $box) (local.get 0))))))"""
    + "".join(f"(type ${name} (array (mut {type})))" for name, (type, _, _) in ELEMENTS.items())
    + "".join(array_functions(name) for name in ELEMENTS)
    + ")"
)

indices = st.one_of(st.integers(0, LENGTH + 1), st.sampled_from([-1, 1 << 31, (1 << 32) - 3, (1 << 30)]))
operations = st.one_of(
    st.tuples(st.just("fill"), indices, st.integers(0, 1), indices),
    st.tuples(st.sampled_from(["copy", "copy", "copy_in"]), indices, indices, indices),
)


@pytest.mark.parametrize("name", ELEMENTS)
@settings(max_examples=25, deadline=None)
@given(script=st.lists(operations, min_size=1, max_size=6))
def test_fill_and_copy(name: str, script: list[tuple[str, int, int, int]]) -> None:
    program = both(ARRAYS)
    program.call(f"reset_{name}")
    model = [min(number, 1) if name == "func" else number for number in range(LENGTH)]
    for operation, a, b, count in script:
        outcome = program.call(f"{operation}_{name}", a, b, count)
        unsigned_a, unsigned_b, unsigned_count = (value % (1 << 32) for value in (a, b, count))
        fits = unsigned_a + unsigned_count <= LENGTH
        if operation == "fill":
            if fits:
                model[a : a + count] = [b] * count
        else:
            fits = fits and unsigned_b + unsigned_count <= (LENGTH if operation == "copy" else 5)
            if fits:
                model[a : a + count] = model[b : b + count] if operation == "copy" else [1] * count
        assert outcome == (() if fits else "out of bounds array access")
    assert [program.call(f"get_{name}", index)[0] for index in range(LENGTH)] == model
    assert program.call(f"get_{name}", LENGTH) == "out of bounds array access"
    program.verify()


@pytest.mark.parametrize("name", ELEMENTS)
def test_every_overlap_of_copy(name: str) -> None:
    program = both(ARRAYS)
    for to, source, count in itertools.product(range(0, LENGTH + 1, 2), range(1, LENGTH + 1, 2), (0, 1, 3, LENGTH)):
        program.call(f"reset_{name}")
        program.call(f"copy_{name}", to, source, count)
        for index in range(LENGTH):
            program.call(f"get_{name}", index)
    program.call(f"length_{name}")
    program.call(f"clear_{name}")
    program.verify()


def test_arrays_leave_nothing() -> None:
    program = both(ARRAYS)
    for name in ELEMENTS:
        program.call(f"clear_{name}")
    program.verify(0)


COPIES_BETWEEN_TYPES = """(module
  (type $s (struct (field i32)))
  (type $narrow (array (mut (ref null $s)))) (type $wide (array (mut anyref)))
  (type $const (array (ref null $s))) (type $funcs (array (mut funcref))) (type $f (func))
  (type $some (array (mut (ref null $f))))
  (func $noop (type $f)) (elem declare func $noop)
  (func (export "to_wider") (result i32) (local (ref $wide))
    (local.set 0 (array.new_default $wide (i32.const 4)))
    (array.copy $wide $narrow (local.get 0) (i32.const 1)
      (array.new $narrow (struct.new $s (i32.const 6)) (i32.const 2)) (i32.const 0) (i32.const 2))
    (array.copy $wide $const (local.get 0) (i32.const 3)
      (array.new_fixed $const 1 (struct.new $s (i32.const 7))) (i32.const 0) (i32.const 1))
    (i32.add (struct.get $s 0 (ref.cast (ref $s) (array.get $wide (local.get 0) (i32.const 2))))
      (struct.get $s 0 (ref.cast (ref $s) (array.get $wide (local.get 0) (i32.const 3))))))
  (func (export "funcs") (result i32) (local (ref $funcs))
    (local.set 0 (array.new_default $funcs (i32.const 3)))
    (array.copy $funcs $some (local.get 0) (i32.const 1)
      (array.new $some (ref.func $noop) (i32.const 2)) (i32.const 0) (i32.const 1))
    (i32.add (ref.is_null (array.get $funcs (local.get 0) (i32.const 1)))
      (i32.mul (i32.const 2) (ref.is_null (array.get $funcs (local.get 0) (i32.const 2))))))
  (func (export "many") (param i32) (result i32) (local (ref $narrow) (ref null $s)) (local $sum i32)
    (local.set 1 (array.new $narrow (struct.new $s (i32.const 3)) (local.get 0)))
    (array.fill $narrow (local.get 1) (i32.const 0) (ref.null $s) (i32.shr_u (local.get 0) (i32.const 1)))
    (loop $next
      (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
      (local.set 2 (array.get $narrow (local.get 1) (local.get 0)))
      (if (i32.eqz (ref.is_null (local.get 2)))
        (then (local.set $sum (i32.add (local.get $sum) (struct.get $s 0 (local.get 2))))))
      (br_if $next (local.get 0)))
    (local.get $sum))
)"""


def test_copies_between_types() -> None:
    program = both(COPIES_BETWEEN_TYPES)
    assert program.call("to_wider") == (13,)
    assert program.call("funcs") == (2,)
    assert program.call("many", 1001) == (501 * 3,)
    program.verify(0)


# --- Globals, start, constant expressions ----------------------------------------------------------------------------

GLOBALS = """(module
  (type $s (struct (field i32) (field (mut (ref null $s)))))
  (type $a (array (mut i16)))
  (type $f (func (result i32)))
  (import "host" "log" (func $log (param i32)))
  (func $seven (type $f) (i32.const 7))
  (global $i32 (export "i32") (mut i32) (i32.const -1))
  (global $i64 (export "i64") (mut i64) (i64.const 0x7fffffffffffffff))
  (global $f32 (export "f32") (mut f32) (f32.const -0))
  (global $f64 (export "f64") (mut f64) (f64.const 0x1p-1074))
  (global $extern (export "extern") (mut externref) (ref.null extern))
  (global $func (export "func") (mut funcref) (ref.func $seven))
  (global $struct (mut (ref null $s)) (ref.null $s))
  (global $any (mut anyref) (ref.null none))
  (global $i31 (mut (ref i31)) (ref.i31 (i32.const 12)))
  (global $five i32 (i32.const 5))
  (global $sum (export "sum") i32
    (i32.sub (i32.mul (global.get $five) (i32.add (i32.const 3) (global.get $five))) (i32.const 1)))
  (global $long (export "long") i64 (i64.mul (i64.add (i64.const 1) (i64.const 0x100000000)) (i64.const 3)))
  (global $made (ref $s) (struct.new $s (global.get $five) (struct.new_default $s)))
  (global $array (ref $a) (array.new $a (i32.const -2) (global.get $five)))
  (global $fixed (ref $a) (array.new_fixed $a 3 (i32.const 1) (global.get $sum) (i32.const 3)))
  (global $default (ref $a) (array.new_default $a (i32.const 2)))
  (global $converted externref (extern.convert_any (global.get $made)))
  (global $back anyref (any.convert_extern (global.get $converted)))
  (global $again (ref $s) (struct.new $s (i32.const 8) (global.get $made)))
  (func $start
    (call $log (global.get $sum))
    (global.set $i32 (i32.add (global.get $i32) (i32.const 100)))
    (global.set $struct (struct.new $s (i32.const 33) (global.get $made))))
  (start $start)
  (func (export "describe") (result i32 i32 i32 i32 i32 i32 i32 i32 i32)
    (struct.get $s 0 (global.get $made))
    (struct.get $s 0 (struct.get $s 1 (global.get $made)))
    (array.get_s $a (global.get $array) (i32.const 4))
    (array.get_u $a (global.get $fixed) (i32.const 1))
    (array.len (global.get $default))
    (ref.eq (ref.cast eqref (global.get $back)) (global.get $made))
    (ref.eq (struct.get $s 1 (global.get $again)) (global.get $made))
    (struct.get $s 0 (global.get $struct))
    (i31.get_s (global.get $i31)))
  (func (export "set") (param i32 i64 f32 f64)
    (global.set $i32 (local.get 0)) (global.set $i64 (local.get 1))
    (global.set $f32 (local.get 2)) (global.set $f64 (local.get 3))
    (global.set $any (struct.new $s (local.get 0) (global.get $struct)))
    (global.set $i31 (ref.i31 (local.get 0))))
  (func (export "get") (result i32 i64 f32 f64 i32 i32)
    (global.get $i32) (global.get $i64) (global.get $f32) (global.get $f64)
    (struct.get $s 0 (ref.cast (ref $s) (global.get $any))) (i31.get_u (global.get $i31)))
  (func (export "set_extern") (param externref) (global.set $extern (local.get 0)))
  (func (export "set_func") (param funcref) (global.set $func (local.get 0)))
  (func (export "call_func") (result i32) (call_ref $f (ref.cast (ref $f) (global.get $func))))
)"""


def test_globals_of_every_type() -> None:
    logged: list[int] = []
    program = Both(GLOBALS, {"host.log": (["i32"], [], logged.append)})
    assert logged == [39] * 3, "the start function ran once in each engine"
    for name in ("i32", "i64", "f32", "f64", "sum", "long"):
        expected = program.peer.global_value(name)
        for instance in program.instances.values():
            assert same(instance.exports[name].value, expected), name
    assert program.call("describe") == (5, 0, -2, 39, 2, 1, 1, 33, 12)
    for values in ((-1, 1, 0.25, -1e-300), (1 << 30, -(1 << 63), float("inf"), 0.0)):
        program.call("set", *values)
        assert program.call("get")[:4] == values
        for instance in program.instances.values():
            assert [instance.exports[name].value for name in ("i32", "i64", "f32", "f64")] == list(values)
            instance.exports["i32"].value = 17
            assert instance.exports["get"]()[0] == 17
    program.call("call_func")
    for instance in program.instances.values():
        exports = instance.exports
        exports["set_extern"]("thing")
        assert exports["extern"].value.value == "thing"
        exports["extern"].value = None
        assert exports["func"].value() == 7
        exports["func"].value = exports["call_func"]
        exports["set_func"](exports["func"].value)
        assert exports["func"].value == exports["call_func"]
    program.verify()


IMPORTED_GLOBALS = """(module
  (import "host" "i32" (global $i32 i32))
  (import "host" "any" (global $any anyref))
  (import "host" "counter" (global $counter (mut i64)))
  (type $s (struct (field anyref) (field i32)))
  (global $copy anyref (global.get $any))
  (global $sum (export "sum") i32 (i32.add (global.get $i32) (i32.const 1)))
  (global $s (ref $s) (struct.new $s (global.get $any) (global.get $sum)))
  (export "any" (global $copy)) (export "again" (global $any)) (export "struct" (global $s))
  (func (export "count") (result i64)
    (global.set $counter (i64.add (global.get $counter) (i64.const 1))) (global.get $counter))
)"""


@pytest.mark.parametrize("configuration", ALL)
def test_imported_globals_in_constant_expressions(configuration: str) -> None:
    from lowheap.types import I64

    with lh.Store(engine(configuration), collect_every=1) as store:
        counter = lh.Global(store, I64, 10, mutable=True)
        thing = lh.Array(store, lh.ArrayType(lh.FieldType(I64, True)), [1, 2])
        imports = {"host": {"i32": 41, "any": thing, "counter": counter}}
        exports = lh.Instance(store, module(configuration, IMPORTED_GLOBALS), imports).exports
        assert exports["sum"].value == 42
        assert exports["any"].value == exports["again"].value == exports["struct"].value[0] == thing
        assert exports["struct"].value[1] == 42
        assert [exports["count"](), exports["count"](), counter.value] == [11, 12, 12]
        counter.value = -5
        assert exports["count"]() == -4
        store.verify()


@pytest.mark.parametrize("configuration", ALL)
def test_a_start_function_may_be_imported(configuration: str) -> None:
    source = '(module (import "host" "go" (func $go)) (start $go))'
    calls: list[int] = []
    with lh.Store(engine(configuration)) as store:
        for _ in range(2):
            lh.Instance(store, module(configuration, source), {"host": {"go": lambda: calls.append(1)}})
    assert calls == [1, 1]


def test_the_empty_module() -> None:
    for configuration in ALL:
        with lh.Store(engine(configuration)) as store:
            instance = lh.Instance(store, module(configuration, "(module)"))
            assert len(instance.exports) == 0
            assert (instance.module.imports, instance.module.exports) == ([], [])


# --- Calls -----------------------------------------------------------------------------------------------------------

CALLS = """(module
  (type $s (struct (field i32)))
  (func $many (param i32 i64 f32 f64 i32 i64 f32 f64 i32 i64 f32 f64) (result f64 f32 i64 i32 f64 f32 i64 i32)
    (f64.add (local.get 3) (local.get 7)) (f32.add (local.get 2) (local.get 10)) (i64.sub (local.get 1) (local.get 9))
    (i32.sub (local.get 0) (local.get 8)) (local.get 11) (local.get 6) (local.get 5) (local.get 4))
  (func (export "many") (param i32 i64 f32 f64) (result f64 f32 i64 i32 f64 f32 i64 i32)
    (call $many (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 5) (i64.const 6) (f32.const 7)
      (f64.const 8) (i32.const 9) (i64.const 10) (f32.const 11) (f64.const 12)))
  (func $pair (param i32) (result (ref $s) (ref null $s) i32)
    (struct.new $s (local.get 0)) (ref.null $s) (i32.const 4))
  (func (export "references") (param i32) (result i32)
    (call $pair (local.get 0))
    (i32.mul (ref.is_null (call $swap (i32.const 2))) (i32.const 10))
    (i32.add) (drop) (drop) (struct.get $s 0))
  (func $swap (param i32) (result (ref null $s)) (call $pair (local.get 0)) (drop) (drop))
  (func $is_even (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1))
      (else (call $is_odd (i32.sub (local.get 0) (i32.const 1))))))
  (func $is_odd (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0))
      (else (call $is_even (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "is_even") (param i32) (result i32) (call $is_even (local.get 0)))
  (func $divide (export "divide") (param i32 i32) (result i32 i32)
    (i32.div_s (local.get 0) (local.get 1)) (i32.rem_s (local.get 0) (local.get 1)))
  (func (export "chain") (param i32 i32) (result i32 i32 i32)
    (call $divide (local.get 0) (local.get 1)) (call $divide (i32.const 3)))
  (func (export "order") (param i32) (result i32)
    (i32.sub (call $note (i32.const 1) (local.get 0)) (call $note (i32.const 2) (local.get 0))))
  (global $notes (mut i32) (i32.const 0))
  (func $note (param i32 i32) (result i32)
    (global.set $notes (i32.add (i32.mul (global.get $notes) (i32.const 10)) (local.get 0)))
    (i32.add (global.get $notes) (local.get 1)))
)"""


def test_calls() -> None:
    program = Both(CALLS)
    program.call("many", -1, 1 << 40, 0.5, -2.5)
    program.call("is_even", 301)
    for a, b in ((7, 2), (-7, 2), (7, 0), (-(1 << 31), -1)):
        program.call("divide", a, b)
        program.call("chain", a, b)
    program.call("order", 5)
    program.call("order", 6)


@pytest.mark.parametrize("configuration", ALL)
def test_several_references_as_results(configuration: str) -> None:
    source = CALLS.replace("(func $pair (param", '(func $pair (export "pair") (param')
    with lh.Store(engine(configuration), collect_every=1) as store:
        first, second, third = lh.Instance(store, module(configuration, source)).exports["pair"](9)
        assert (first[0], second, third) == (9, None, 4)
        store.verify()


VALUES_BY_TYPE = {
    "i31": ["(ref.i31 (i32.const -1))", "(ref.i31 (i32.const 5))"],
    "eq": ["(ref.i31 (i32.const -1))", "(struct.new_default $s)", "(array.new_default $a (i32.const 2))"],
    "any": ["(ref.i31 (i32.const -1))", "(struct.new_default $s)", "(any.convert_extern (call $box))"],
    "struct": ["(struct.new_default $s)", "(struct.new_default $below)"],
    "array": ["(array.new_default $a (i32.const 2))"],
    "$s": ["(struct.new_default $s)", "(struct.new_default $below)"],
    "none": [],
}
"""Values of each static type, besides null."""


def test_every_test_of_every_static_type() -> None:
    """Also where the static type excludes what is asked for: an i31 is no object, whatever its bits."""
    functions, names = [], []
    for number, (source, values) in enumerate(VALUES_BY_TYPE.items()):
        for which, value in enumerate(["(ref.null none)", *values]):
            for wanted in ("i31", "eq", "any", "struct", "array", "$s", "$below", "$a", "none"):
                for null in ("", "null "):
                    names.append(name := f"t{number}-{which}-{wanted}-{null}")
                    functions.append(
                        f'(func (export "{name}") (result i32) (local $v (ref null {source}))'
                        f" (local.set $v {value}) (ref.test (ref {null}{wanted}) (local.get $v)))"
                    )
    both = Both(
        f"""(module
          (type $s (sub (struct (field i32)))) (type $below (sub final $s (struct (field i32) (field i32))))
          (type $a (array (mut i32)))
          (import "host" "box" (func $box (result externref)))
          {" ".join(functions)})""",
        {"host.box": ([], ["externref"], lambda: "box")},
    )
    for name in names:
        both.call(name)
