"""v128: as a type of values everywhere they are carried, and what its instructions compute."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import lowheap as lh
from lowheap.types import V128

CONFIGURATIONS = {"native-O2": ("native", 2), "python-O0": ("python", 0)}

A, B = 0x0102030405060708090A0B0C0D0E0F10, (1 << 128) - 2


@functools.cache
def engine(configuration: str) -> lh.Engine:
    runtime, opt_level = CONFIGURATIONS[configuration]
    return lh.Engine(runtime=runtime, opt_level=opt_level)


# ----------------------------------------------------------------------------------------------------------------------
# Where vectors are carried


CARRYING = """(module
  (type $s (struct (field $a i8) (field $v (mut v128)) (field $w v128)))
  (type $a (array (mut v128)))
  (type $f (func (param v128 i32 v128 f32) (result f32 v128 i32 v128 anyref)))
  (import "host" "f" (func $f (param i32 v128 v128 i64 anyref) (result v128 i32 anyref v128)))
  (import "host" "one" (func $one (param v128) (result v128)))
  (import "host" "g" (global $given v128))
  (global $g (export "g") (mut v128) (global.get $given))
  (elem declare func $turned)

  (func (export "same") (param v128) (result v128) (local.get 0))
  (func $turned (export "turned") (type $f)
    (local.get 3) (local.get 2) (local.get 1) (local.get 0) (ref.i31 (i32.const 7)))
  (func (export "through") (type $f)
    (call_ref $f (local.get 0) (local.get 1) (local.get 2) (local.get 3) (ref.func $turned)))
  (func (export "host") (param v128 v128 anyref) (result v128 i32 anyref v128)
    (call $f (i32.const 5) (local.get 0) (local.get 1) (i64.const 7) (local.get 2)))
  (func (export "one") (param v128) (result v128) (call $one (local.get 0)))
  (func (export "swap") (param v128) (result v128) (global.get $g) (global.set $g (local.get 0)))

  (func (export "struct") (param v128) (result (ref $s)) (struct.new $s (i32.const 1) (local.get 0) (local.get 0)))
  (func (export "struct_default") (result (ref $s)) (struct.new_default $s))
  (func (export "field") (param (ref $s)) (result v128) (struct.get $s $v (local.get 0)))
  (func (export "set_field") (param (ref $s) v128) (struct.set $s $v (local.get 0) (local.get 1)))
  (func (export "array") (param v128 i32) (result (ref $a)) (array.new $a (local.get 0) (local.get 1)))
  (func (export "fixed") (param v128) (result (ref $a))
    (local v128) (array.new_fixed $a 2 (local.get 0) (local.get 1)))
  (func (export "fill_and_copy") (param (ref $a) v128)
    (array.fill $a (local.get 0) (i32.const 1) (local.get 1) (i32.const 1))
    (array.copy $a $a (local.get 0) (i32.const 2) (local.get 0) (i32.const 0) (i32.const 2)))
  (func (export "element") (param (ref $a) i32) (result v128) (array.get $a (local.get 0) (local.get 1)))

  (func (export "chosen") (param v128 v128 i32) (result v128)
    (select (result v128) (local.get 0) (local.get 1) (local.get 2)))
  (func (export "branched") (param v128 v128 i32) (result v128)
    (block (result v128) (br_if 0 (local.get 0) (local.get 2)) (drop) (local.get 1)))
  (func (export "turns") (param $v v128) (param $w v128) (param $n i32) (result v128)
    (local $held v128) (local $object (ref null $s))
    (loop $again
      (local.set $held (local.get $v))
      (local.set $object (struct.new $s (i32.const 0) (local.get $w) (local.get $held)))
      (local.set $v (struct.get $s $v (local.get $object)))
      (local.set $w (struct.get $s $w (local.get $object)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $v)))"""


class Carrying:
    """The module above on a store of its own, and what its host functions were given."""

    def __init__(self, configuration: str, **options: Any) -> None:
        self.store = lh.Store(engine(configuration), **options)
        self.given: list[tuple[Any, ...]] = []
        imports = {"f": self.turn, "one": lambda value: value.to_bytes(16, "little"), "g": A}
        self.exports = lh.Instance(self.store, module(configuration), {"host": imports}).exports

    def turn(self, *values: Any) -> Any:
        self.given.append(values)
        return values[2], -1, values[4], values[1]


@functools.cache
def module(configuration: str) -> lh.Module:
    return lh.Module(engine(configuration), CARRYING)


@pytest.fixture(params=CONFIGURATIONS)
def carrying(request: pytest.FixtureRequest) -> Carrying:
    return Carrying(request.param)


def test_vectors_in_calls(carrying: Carrying) -> None:
    exports = carrying.exports
    assert [exports["same"](value) for value in (0, A, -1, B.to_bytes(16, "little"))] == [0, A, (1 << 128) - 1, B]
    for name in ("turned", "through"):
        assert exports[name](A, 5, B, 1.5) == (1.5, B, 5, A, lh.I31(7))
    with pytest.raises(TypeError, match=r"turned, value 2: 1\.0 was given where v128 is wanted"):
        exports["turned"](A, 5, 1.0, 1.5)


def test_vectors_in_host_functions(carrying: Carrying) -> None:
    held = carrying.exports["struct"](1)
    assert carrying.exports["host"](A, B, held) == (B, -1, held, A)
    assert carrying.given == [(5, A, B, 7, held)]
    assert carrying.exports["one"](B) == B
    function = lh.Func(carrying.store, lh.FuncType((V128,), (V128,)), lambda value: value ^ 1)
    assert function(A) == A ^ 1
    with pytest.raises(TypeError, match=r"the results of host function .* None was given where v128 is wanted"):
        lh.Func(carrying.store, lh.FuncType((), (V128,)), lambda: None)()


def test_vectors_in_globals(carrying: Carrying) -> None:
    its_own = carrying.exports["g"]
    assert its_own.value == A
    assert carrying.exports["swap"](B) == A
    assert its_own.value == B
    its_own.value = -1
    assert carrying.exports["swap"](0) == (1 << 128) - 1
    made = lh.Global(carrying.store, V128, bytes(range(16)), mutable=True)
    assert made.value == int.from_bytes(range(16), "little")
    with pytest.raises(TypeError, match="'x' was given where v128 is wanted"):
        made.value = "x"


def test_vectors_in_objects(carrying: Carrying) -> None:
    exports = carrying.exports
    made = exports["struct"](A)
    assert (made["a"], made["v"], made["w"], exports["field"](made)) == (1, A, A, A)
    exports["set_field"](made, B)
    assert (made["v"], made["w"]) == (B, A)
    assert exports["struct_default"]()["w"] == 0
    assert exports["fixed"](A)[:] == [A, 0]
    elements = exports["array"](A, 4)
    exports["fill_and_copy"](elements, B)
    assert elements[:] == [A, B, A, B]
    assert exports["element"](elements, 3) == B
    carrying.store.verify()


def test_vectors_where_control_joins(carrying: Carrying) -> None:
    exports = carrying.exports
    assert [exports["chosen"](A, B, condition) for condition in (1, 0)] == [A, B]
    assert [exports["branched"](A, B, condition) for condition in (1, 0)] == [A, B]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_vectors_live_across_collections(configuration: str) -> None:
    carrying = Carrying(configuration, collect_every=1)
    assert [carrying.exports["turns"](A, B, times) for times in (9, 10)] == [B, A]
