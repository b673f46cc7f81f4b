"""`drc` without one of its barriers, and a program on a checked heap, a collection at every safepoint, that tells."""

from __future__ import annotations

from typing import Any

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Shape
from lowheap.native import Heap, Ref, Slot, native


@native
def load(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
    """What is read does not get on the list."""
    return slot.value


@native
def put(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """What a new object refers to is not counted."""
    slot.value = value


@native
def put_and_drop(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """What is stored is not counted; what was there is dropped."""
    old = slot.value
    slot.value = value
    heap.collector.dec_ref(heap, old, shape)


@native
def count_and_put(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
    """What was there before a store is not dropped."""
    heap.collector.inc_ref(heap, value, shape)
    slot.value = value


@native
def keep_to_oneself(heap: Heap, reference: Ref) -> None:
    """A new object does not get on the list."""


@native
def pass_as_it_is(heap: Heap, reference: Ref, shape: Shape) -> None:
    """What the host passes does not get on the list."""


MISSING = {
    "read": ("read", load),
    "init": ("init", put),
    "count up": ("write", put_and_drop),
    "drop": ("write", count_and_put),
    "hand over": ("allocated", keep_to_oneself),
    "expose": ("expose", pass_as_it_is),
}
"""What may be missing: the event, and what is left of it."""


def without(collector: type[Drc], missing: str) -> type[Drc]:
    """A collector without one of its barriers."""
    event, left = MISSING[missing]
    return type(f"{collector.__name__}Without{event.title()}", (collector,), {event: left})


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
