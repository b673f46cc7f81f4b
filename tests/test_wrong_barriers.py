"""Each barrier of `drc` is taken away in turn, and somebody must say so: the trace, `verify`, or a trap.

The program runs on a checked heap, where freed blocks are poisoned, with a collection at every safepoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Shape
from lowheap.native import Heap, Ref, Slot, native

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class NoRead(Drc):
    """What is read does not get on the list."""

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        return slot.value


class NoInit(Drc):
    """What a new object refers to is not counted."""

    @native
    def init(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        slot.value = value


class NoCountUp(Drc):
    """What is stored is not counted; what was there is dropped."""

    @native
    def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        old = slot.value
        slot.value = value
        Drc.dec_ref(heap, old, shape)


class NoDrop(Drc):
    """What was there before a store is not dropped."""

    @native
    def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        Drc.inc_ref(heap, value, shape)
        slot.value = value


class NoHandOver(Drc):
    """A new object does not get on the list."""

    @native
    def allocated(heap: Heap, reference: Ref) -> None:
        pass


class NoExpose(Drc):
    """What the host passes does not get on the list."""

    @native
    def expose(heap: Heap, reference: Ref, shape: Shape) -> None:
        pass


PROGRAM = """(module
  (type $node (struct (field $next (mut (ref null $node))) (field $value i32)))
  (global $head (mut (ref null $node)) (ref.null $node))
  (func $new (param i32) (result (ref $node))
    (struct.new $node (global.get $head) (local.get 0)))
  (func (export "run") (param $n i32) (result i32)
    (local $old (ref null $node))
    (global.set $head (call $new (i32.const 1)))
    (loop $again
      (local.set $old (global.get $head))
      (global.set $head (call $new (local.get $n)))
      (struct.set $node $next (global.get $head) (local.get $old))
      (global.set $head (struct.get $node $next (global.get $head)))
      (drop (call $new (i32.const 2)))
      (struct.set $node $next (global.get $head) (ref.null $node))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $again (i32.gt_s (local.get $n) (i32.const 0))))
    (struct.get $node $value (ref.as_non_null (local.get $old))))
  (func (export "pass") (param $node (ref $node)) (result i32)
    (drop (call $new (i32.const 3)))
    (struct.get $node $value (local.get $node)))
  (func (export "take") (result i32)
    (local $held (ref null $node))
    (local.set $held (global.get $head))
    (global.set $head (ref.null $node))
    (drop (call $new (i32.const 5)))
    (struct.get $node $value (ref.as_non_null (local.get $held))))
  (func (export "make") (result (ref $node)) (call $new (i32.const 4))))"""


def run(collector: Any, runtime: str, every: int) -> None:
    engine = lh.Engine(collector=collector, runtime=runtime)
    with lh.Store(engine, collect_every=every, checked=True) as store:
        exports: Any = lh.Instance(store, lh.Module(engine, PROGRAM)).exports
        assert exports["run"](5) == 1
        store.verify()
        node = exports["make"]()
        assert exports["pass"](node) == 4
        store.verify()
        store.collect()  # what the global holds is not on the list any more
        assert exports["take"]() == 1
        store.collect()
        store.verify()


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("runtime", ["native", "python"])
def test_the_program_is_right(runtime: str, every: int) -> None:
    run(Drc, runtime, every)


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("collector", [NoRead, NoInit, NoCountUp, NoDrop, NoHandOver, NoExpose])
def test_a_barrier_that_is_missing_is_found_out(collector: Any, runtime: str) -> None:
    with pytest.raises(lh.HeapCorruptionError):
        run(collector, runtime, 1)


def test_what_compiled_code_frees_is_poisoned_on_a_checked_heap() -> None:
    for checked, expected in ((False, 4), (True, 0xDEAD_DEAC)):
        with lh.Store(checked=checked) as store:
            exports: Any = lh.Instance(store, lh.Module(store.engine, PROGRAM)).exports
            node = exports["make"]()
            place = node.reference + 28  # its value
            del node
            store.tidy()
            store.collect()
            assert int.from_bytes(store.heap.memory.read(place, 4), "little") == expected
