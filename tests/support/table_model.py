"""A module of tables whose references count, all of whose instructions the host can call, and sequences of calls.

What an element is, the host sees as a number: -1 for null, an i31's value, a struct's field. Every export takes i32s
and returns one, so that the same calls can be made of any engine.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TABLES = {"a": ("i32", "anyref"), "b": ("i32", "(ref null $s)"), "c": ("i64", "eqref")}
"""The type of each table's indices, and of its elements."""

ITEMS = 5
"""How many elements the passive segment has."""


def _index(type: str, number: int) -> str:
    return f"(i64.extend_i32_u (local.get {number}))" if type == "i64" else f"(local.get {number})"


def _size(type: str, value: str) -> str:
    return f"(i32.wrap_i64 {value})" if type == "i64" else value


def _functions() -> str:
    found = []

    def export(name: str, count: int, body: str, *, results: bool = False) -> None:
        parameters = " ".join(["i32"] * count)
        result = body if results else f"{body} (i32.const 0)"
        found.append(f'(func (export "{name}") (param {parameters}) (result i32) {result})')

    for name, (index, _) in TABLES.items():
        table, first = f"${name}", _index(index, 0)
        value = "(call $struct (local.get 1))" if name == "b" else "(call $value (local.get 1))"
        export(f"get {name}", 1, f"(call $seen (table.get {table} {first}))", results=True)
        export(f"set {name}", 2, f"(table.set {table} {first} {value})")
        export(f"size {name}", 0, _size(index, f"(table.size {table})"), results=True)
        export(f"grow {name}", 2, _size(index, f"(table.grow {table} {value} {first})"), results=True)
        export(f"fill {name}", 3, f"(table.fill {table} {first} {value} {_index(index, 2)})")
    for target, source in ("aa", "ab", "ac", "bb", "cc"):
        indices = TABLES[target][0], TABLES[source][0]
        counts = "i64" if indices == ("i64", "i64") else "i32"
        places = f"{_index(indices[0], 0)} {_index(indices[1], 1)} {_index(counts, 2)}"
        export(f"copy {target}{source}", 3, f"(table.copy ${target} ${source} {places})")
    for name in "ab":
        export(f"init {name}", 3, f"(table.init ${name} $items (local.get 0) (local.get 1) (local.get 2))")
    export("drop", 0, "(elem.drop $items)")
    made = "(array.new_elem $array $items (local.get 0) (local.get 1))"
    export("make array", 2, f"(global.set $kept {made}) (call $sum)", results=True)
    places = "(global.get $kept) (local.get 0) (local.get 1) (local.get 2)"
    export("init array", 3, f"(array.init_elem $array $items {places}) (call $sum)", results=True)
    return "\n".join(found)


SOURCE = f"""(module
  (type $s (struct (field i32)))
  (type $array (array (mut (ref null $s))))
  (global $first (ref $s) (struct.new $s (i32.const 100)))
  (global $kept (mut (ref null $array)) (ref.null $array))
  (table $a (export "a") 5 9 anyref)
  (table $b (export "b") 4 8 (ref null $s) (struct.new $s (i32.const 50)))
  (table $c (export "c") i64 3 7 eqref (ref.i31 (i32.const 5)))
  (table $d (export "d") 2 2 (ref $s) (struct.new $s (i32.const 6)))
  (elem $items (ref null $s) (struct.new $s (i32.const 1)) (ref.null $s) (struct.new $s (i32.const 2))
    (global.get $first) (struct.new $s (i32.const 3)))
  (elem (table $b) (offset (i32.add (i32.const 2) (i32.const 1))) (ref null $s) (struct.new $s (i32.const 9)))
  (func $seen (param anyref) (result i32)
    (if (ref.test (ref i31) (local.get 0))
      (then (return (i31.get_s (ref.cast (ref i31) (local.get 0))))))
    (if (ref.is_null (local.get 0)) (then (return (i32.const -1))))
    (struct.get $s 0 (ref.cast (ref $s) (local.get 0))))
  (func $struct (param i32) (result (ref null $s))
    (if (result (ref null $s)) (i32.eqz (local.get 0))
      (then (ref.null $s)) (else (struct.new $s (local.get 0)))))
  (func $value (param i32) (result eqref)
    (if (result eqref) (i32.and (local.get 0) (i32.const 1))
      (then (ref.i31 (local.get 0))) (else (call $struct (local.get 0)))))
  (func $sum (result i32) (local $i i32) (local $sum i32)
    (loop $again
      (if (i32.lt_u (local.get $i) (array.len (global.get $kept)))
        (then
          (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 7))
            (call $seen (array.get $array (global.get $kept) (local.get $i)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $again))))
    (local.get $sum))
  (func (export "take") (param i32) (result i32) (local $held anyref)
    (local.set $held (table.get $a (local.get 0)))
    (table.set $a (local.get 0) (ref.null any))
    (drop (struct.new $s (i32.const 7)))
    (call $seen (local.get $held)))
  {_functions()}
)"""

_PARAMETERS = {
    "get": 1,
    "set": 2,
    "size": 0,
    "grow": 2,
    "fill": 3,
    "copy": 3,
    "init": 3,
    "drop": 0,
    "make": 2,
    "take": 1,
}
_NAMES = [
    *(f"{verb} {name}" for name in TABLES for verb in ("get", "set", "size", "grow", "fill", "fill")),
    *(f"copy {each}" for each in ("aa", "aa", "ab", "ac", "bb", "bb", "cc")),
    *("init a", "init b", "make array", "init array", "drop", "take"),
]

Call = tuple[str, tuple[int, ...]]


def _call(name: str, numbers: tuple[int, int, int]) -> Call:
    return name, numbers[: _PARAMETERS[name.split()[0]]]


_SMALL = st.integers(0, 5)
_NUMBERS = _SMALL | _SMALL | st.sampled_from([-1, 8, 9, 1 << 30])

CALLS: st.SearchStrategy[list[Call]] = st.lists(
    st.builds(_call, st.sampled_from(_NAMES), st.tuples(_NUMBERS, _NUMBERS, _SMALL)), min_size=1, max_size=20
)
"""Sequences of calls: mostly within bounds."""


def content(exports: Any) -> list[Any]:
    """What is in all tables, as `$seen` has it, given how to call an export."""
    return [[exports(f"get {name}", number) for number in range(exports(f"size {name}"))] for name in TABLES]
