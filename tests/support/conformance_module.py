"""The module of the random programs: every operation is an export, and all state is in globals.

Sixteen slots hold anything of the any hierarchy, four hold externrefs; the operations name slots by number. One module
serves all programs, so that it is compiled once. Operations on a slot that holds something else do nothing, so that
every sequence of calls is a program; indices and lengths that are out of bounds trap.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from support.conformance_run import COLLECT, Call, Step

SLOTS = 16
EXTERN_SLOTS = 4


def _switch(count: int, case: str) -> str:
    """Code that does `case`, with its number for {}, by the local $slot; case 0 for one that is too large."""
    labels = " ".join(f"$case{number}" for number in range(count))
    opened = "".join(f"(block $case{number} " for number in reversed(range(count)))
    cases = "".join(f") {case.format(number)} (return)\n" for number in range(count))
    return f"{opened}(br_table {labels} $case0 (local.get $slot)){cases} unreachable"


SOURCE = f"""\
(module
  (import "host" "pause" (func $pause (param i32)))
  (rec
    (type $base (sub (struct (field $link (mut anyref)) (field $number (mut i32)))))
    (type $derived (sub $base (struct
      (field $link (mut anyref)) (field $number (mut i32))
      (field $byte (mut i8)) (field $above (mut (ref null $base))) (field $long (mut i64)) (field $short (mut i16)))))
    (type $mixed (struct
      (field $byte (mut i8)) (field $outside (mut externref)) (field $short (mut i16)) (field $float (mut f64))
      (field $code (mut funcref)) (field $small (mut i31ref)) (field $own (ref $base)))))
  (type $empty (struct))
  (type $refs (array (mut anyref)))
  (type $bases (array (mut (ref null $base))))
  (type $bytes (array (mut i8)))
  (type $shorts (array (mut i16)))
  (type $longs (array (mut i64)))
  (type $outsides (array (mut externref)))
  (elem declare func $get)

  {"".join(f"(global $g{number} (mut anyref) (ref.null any))" for number in range(SLOTS))}
  {"".join(f"(global $e{number} (mut externref) (ref.null extern))" for number in range(EXTERN_SLOTS))}

  (func $get (param $slot i32) (result anyref)
    {_switch(SLOTS, "(global.get $g{})")})
  (func $set (param $slot i32) (param $value anyref)
    {_switch(SLOTS, "(global.set $g{} (local.get $value))")})
  (func $get_extern (param $slot i32) (result externref)
    {_switch(EXTERN_SLOTS, "(global.get $e{})")})
  (func $set_extern (param $slot i32) (param $value externref)
    {_switch(EXTERN_SLOTS, "(global.set $e{} (local.get $value))")})
  (func $get_base (param $slot i32) (result (ref null $base))
    (block $other (result anyref)
      (return (br_on_cast_fail $other anyref (ref null $base) (call $get (local.get $slot)))))
    drop (ref.null $base))
  (func $base_or_new (param $slot i32) (result (ref $base))
    (block $null (return (br_on_null $null (call $get_base (local.get $slot)))))
    (struct.new $base (ref.null any) (i32.const 77)))

  (func (export "clear") (param $to i32) (call $set (local.get $to) (ref.null any)))
  (func (export "move") (param $to i32) (param $from i32) (call $set (local.get $to) (call $get (local.get $from))))
  (func (export "look") (param $at i32) (drop (call $get (local.get $at))))
  (func (export "look_at_all") (local $n i32)
    (loop $next
      (drop (call $get (local.get $n)))
      (drop (call $get_extern (i32.and (local.get $n) (i32.const 3))))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {SLOTS})))))
  (func (export "reset") (local $n i32)
    (loop $next
      (call $set (local.get $n) (ref.null any))
      (call $set_extern (i32.and (local.get $n) (i32.const 3)) (ref.null extern))
      (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {SLOTS})))))
  (func (export "small") (param $to i32) (param $n i32) (call $set (local.get $to) (ref.i31 (local.get $n))))

  (func (export "new_empty") (param $to i32) (call $set (local.get $to) (struct.new $empty)))
  (func (export "new_base") (param $to i32) (param $link i32) (param $n i32)
    (call $set (local.get $to) (struct.new $base (call $get (local.get $link)) (local.get $n))))
  (func (export "new_derived") (param $to i32) (param $link i32) (param $above i32) (param $n i32)
    (call $set (local.get $to)
      (struct.new $derived (call $get (local.get $link)) (local.get $n) (local.get $n)
        (call $get_base (local.get $above)) (i64.mul (i64.extend_i32_s (local.get $n)) (i64.const 0x10001000100001))
        (local.get $n))))
  (func (export "new_mixed") (param $to i32) (param $outside i32) (param $own i32) (param $n i32)
    (call $set (local.get $to)
      (struct.new $mixed (local.get $n) (call $get_extern (local.get $outside)) (local.get $n)
        (f64.convert_i32_s (local.get $n))
        (select (result funcref) (ref.func $get) (ref.null func) (i32.and (local.get $n) (i32.const 1)))
        (ref.i31 (local.get $n)) (call $base_or_new (local.get $own)))))
  (func (export "new_default") (param $to i32) (call $set (local.get $to) (struct.new_default $derived)))
  (func (export "new_refs") (param $to i32) (param $fill i32) (param $length i32)
    (call $set (local.get $to) (array.new $refs (call $get (local.get $fill)) (local.get $length))))
  (func (export "new_refs_of") (param $to i32) (param $a i32) (param $b i32) (param $c i32)
    (call $set (local.get $to)
      (array.new_fixed $refs 3 (call $get (local.get $a)) (call $get (local.get $b)) (call $get (local.get $c)))))
  (func (export "new_bases") (param $to i32) (param $fill i32) (param $length i32)
    (call $set (local.get $to) (array.new $bases (call $get_base (local.get $fill)) (local.get $length))))
  (func (export "new_outsides") (param $to i32) (param $fill i32) (param $length i32)
    (call $set (local.get $to) (array.new $outsides (call $get_extern (local.get $fill)) (local.get $length))))
  (func (export "new_bytes") (param $to i32) (param $n i32) (param $length i32)
    (call $set (local.get $to) (array.new $bytes (local.get $n) (local.get $length))))
  (func (export "new_shorts") (param $to i32) (param $length i32)
    (call $set (local.get $to) (array.new_default $shorts (local.get $length))))
  (func (export "new_longs") (param $to i32) (param $n i32) (param $length i32)
    (call $set (local.get $to) (array.new $longs (i64.extend_i32_s (local.get $n)) (local.get $length))))
  (func (export "new_extern") (param $fresh externref) (param $to i32)
    (call $set_extern (local.get $to) (local.get $fresh)))
  (func (export "outward") (param $to i32) (param $from i32)
    (call $set_extern (local.get $to) (extern.convert_any (call $get (local.get $from)))))
  (func (export "inward") (param $to i32) (param $from i32)
    (call $set (local.get $to) (any.convert_extern (call $get_extern (local.get $from)))))
  (func (export "clear_extern") (param $to i32) (call $set_extern (local.get $to) (ref.null extern)))

  (func (export "write_link") (param $at i32) (param $from i32)
    (block $null
      (struct.set $base $link (br_on_null $null (call $get_base (local.get $at))) (call $get (local.get $from)))))
  (func (export "read_link") (param $to i32) (param $from i32)
    (block $null
      (call $set (local.get $to)
        (struct.get $base $link (br_on_null $null (call $get_base (local.get $from)))))))
  (func (export "write_above") (param $at i32) (param $from i32)
    (block $other (result anyref)
      (struct.set $derived $above
        (br_on_cast_fail $other anyref (ref $derived) (call $get (local.get $at)))
        (call $get_base (local.get $from)))
      (return))
    drop)
  (func (export "write_outside") (param $at i32) (param $from i32)
    (block $other (result anyref)
      (struct.set $mixed $outside
        (br_on_cast_fail $other anyref (ref $mixed) (call $get (local.get $at)))
        (call $get_extern (local.get $from)))
      (return))
    drop)
  (func (export "read_outside") (param $to i32) (param $from i32)
    (block $other (result anyref)
      (call $set_extern (local.get $to)
        (struct.get $mixed $outside (br_on_cast_fail $other anyref (ref $mixed) (call $get (local.get $from)))))
      (return))
    drop)
  (func (export "write_numbers") (param $at i32) (param $n i32) (local $it (ref null $derived))
    (block $other (result anyref)
      (local.set $it (br_on_cast_fail $other anyref (ref $derived) (call $get (local.get $at))))
      (struct.set $derived $number (local.get $it) (local.get $n))
      (struct.set $derived $byte (local.get $it) (i32.sub (local.get $n) (i32.const 1)))
      (struct.set $derived $short (local.get $it) (i32.add (local.get $n) (i32.const 1)))
      (struct.set $derived $long (local.get $it) (i64.sub (i64.const -1) (i64.extend_i32_s (local.get $n))))
      (return))
    drop)
  (func (export "read_numbers") (param $at i32) (result i32 i32 i32 i64) (local $it (ref null $derived))
    (block $other (result anyref)
      (local.set $it (br_on_cast_fail $other anyref (ref $derived) (call $get (local.get $at))))
      (struct.get $derived $number (local.get $it)) (struct.get_s $derived $byte (local.get $it))
      (struct.get_u $derived $short (local.get $it)) (struct.get $derived $long (local.get $it))
      (return))
    drop (i32.const -1) (i32.const -1) (i32.const -1) (i64.const -1))

  (func (export "array_write") (param $at i32) (param $index i32) (param $from i32)
    (block $other (result anyref)
      (array.set $refs (br_on_cast_fail $other anyref (ref $refs) (call $get (local.get $at)))
        (local.get $index) (call $get (local.get $from)))
      (return))
    drop)
  (func (export "array_read") (param $to i32) (param $from i32) (param $index i32)
    (block $other (result anyref)
      (call $set (local.get $to)
        (array.get $refs (br_on_cast_fail $other anyref (ref $refs) (call $get (local.get $from)))
          (local.get $index)))
      (return))
    drop)
  (func (export "bases_write") (param $at i32) (param $index i32) (param $from i32)
    (block $other (result anyref)
      (array.set $bases (br_on_cast_fail $other anyref (ref $bases) (call $get (local.get $at)))
        (local.get $index) (call $get_base (local.get $from)))
      (return))
    drop)
  (func (export "bytes_write") (param $at i32) (param $index i32) (param $n i32) (result i32)
    (local $it (ref null $bytes))
    (block $other (result anyref)
      (local.set $it (br_on_cast_fail $other anyref (ref $bytes) (call $get (local.get $at))))
      (array.set $bytes (local.get $it) (local.get $index) (local.get $n))
      (return (array.get_u $bytes (local.get $it) (local.get $index))))
    drop (i32.const -1))
  (func (export "fill") (param $at i32) (param $from i32) (param $start i32) (param $count i32)
    (block $other (result anyref)
      (array.fill $refs (br_on_cast_fail $other anyref (ref $refs) (call $get (local.get $at)))
        (local.get $start) (call $get (local.get $from)) (local.get $count))
      (return))
    drop)
  (func (export "copy") (param $to i32) (param $from i32) (param $there i32) (param $here i32) (param $count i32)
    (local $target (ref null $refs))
    (block $other (result anyref)
      (local.set $target (br_on_cast_fail $other anyref (ref $refs) (call $get (local.get $to))))
      (array.copy $refs $refs (local.get $target) (local.get $there)
        (br_on_cast_fail $other anyref (ref $refs) (call $get (local.get $from))) (local.get $here)
        (local.get $count))
      (return))
    drop)

  (func (export "chain") (param $to i32) (param $count i32)
    (loop $next
      (if (local.get $count) (then
        (call $set (local.get $to) (struct.new $base (call $get (local.get $to)) (local.get $count)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))))
  (func (export "churn") (param $count i32) (param $length i32)
    (loop $next
      (if (local.get $count) (then
        (drop (array.new $bytes (local.get $count) (local.get $length)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))))
  (func (export "hold") (param $a i32) (param $b i32) (param $collects i32)
    (local $held anyref) (local $fresh (ref null $base))
    (local.set $held (call $get (local.get $a)))
    (local.set $fresh (struct.new $base (call $get (local.get $b)) (i32.const 5)))
    (call $set (local.get $a) (ref.null any))
    (call $pause (local.get $collects))
    (call $set (local.get $b) (local.get $held))
    (struct.set $base $link (local.get $fresh) (local.get $held))
    (call $pause (local.get $collects))
    (call $set (local.get $a) (local.get $fresh))))
"""


@dataclass(frozen=True)
class Operation:
    """An export, and what its arguments are drawn from."""

    export: str
    arguments: tuple[st.SearchStrategy[int], ...]
    takes_externref: bool = False


SLOT = st.integers(0, SLOTS - 1)
EXTERN_SLOT = st.integers(0, EXTERN_SLOTS - 1)
NUMBER = st.integers(-(1 << 31), (1 << 31) - 1)
LENGTH = st.integers(0, 12)
INDEX = st.integers(0, 7)

OPERATIONS = (
    Operation("clear", (SLOT,)),
    Operation("clear", (SLOT,)),
    Operation("move", (SLOT, SLOT)),
    Operation("look", (SLOT,)),
    Operation("look_at_all", ()),
    Operation("small", (SLOT, NUMBER)),
    Operation("new_empty", (SLOT,)),
    Operation("new_base", (SLOT, SLOT, NUMBER)),
    Operation("new_derived", (SLOT, SLOT, SLOT, NUMBER)),
    Operation("new_derived", (SLOT, SLOT, SLOT, NUMBER)),
    Operation("new_mixed", (SLOT, EXTERN_SLOT, SLOT, NUMBER)),
    Operation("new_default", (SLOT,)),
    Operation("new_refs", (SLOT, SLOT, LENGTH)),
    Operation("new_refs_of", (SLOT, SLOT, SLOT, SLOT)),
    Operation("new_bases", (SLOT, SLOT, LENGTH)),
    Operation("new_outsides", (SLOT, EXTERN_SLOT, LENGTH)),
    Operation("new_bytes", (SLOT, NUMBER, st.integers(0, 100))),
    Operation("new_shorts", (SLOT, LENGTH)),
    Operation("new_longs", (SLOT, NUMBER, LENGTH)),
    Operation("new_extern", (EXTERN_SLOT,), takes_externref=True),
    Operation("outward", (EXTERN_SLOT, SLOT)),
    Operation("inward", (SLOT, EXTERN_SLOT)),
    Operation("clear_extern", (EXTERN_SLOT,)),
    Operation("write_link", (SLOT, SLOT)),
    Operation("write_link", (SLOT, SLOT)),
    Operation("read_link", (SLOT, SLOT)),
    Operation("write_above", (SLOT, SLOT)),
    Operation("write_outside", (SLOT, EXTERN_SLOT)),
    Operation("read_outside", (EXTERN_SLOT, SLOT)),
    Operation("write_numbers", (SLOT, NUMBER)),
    Operation("read_numbers", (SLOT,)),
    Operation("array_write", (SLOT, INDEX, SLOT)),
    Operation("array_write", (SLOT, INDEX, SLOT)),
    Operation("array_read", (SLOT, SLOT, INDEX)),
    Operation("bases_write", (SLOT, INDEX, SLOT)),
    Operation("bytes_write", (SLOT, INDEX, NUMBER)),
    Operation("fill", (SLOT, SLOT, INDEX, INDEX)),
    Operation("copy", (SLOT, SLOT, INDEX, INDEX, INDEX)),
    Operation("chain", (SLOT, st.integers(0, 20))),
    Operation("churn", (st.integers(0, 12), st.integers(0, 3000))),
    Operation("hold", (SLOT, SLOT, st.integers(0, 1))),
)


@st.composite
def steps(draw: st.DrawFn, least: int = 8, most: int = 24) -> tuple[Step, ...]:
    """Draw the steps of a program. Few slots are used, so that operations meet; one step in eight is a collection."""
    drawn: list[Step] = []
    width = draw(st.integers(2, 6))
    for choice in draw(st.lists(st.integers(0, len(OPERATIONS) + 5), min_size=least, max_size=most)):
        if choice >= len(OPERATIONS):
            drawn.append(COLLECT)
            continue
        operation = OPERATIONS[choice]
        values = tuple(
            draw(argument) % width if argument is SLOT else draw(argument) for argument in operation.arguments
        )
        fresh = f"value {len(drawn)}" if operation.takes_externref else None
        drawn.append(Call(operation.export, values, fresh))
    return tuple(drawn)
