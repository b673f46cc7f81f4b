"""What barriers are told of the slot and the reference: type, field, mutability, and how long compiled code holds it.

A collector writes down what each of its events is told, and programs are made so that the answer is known. How long a
reference is held is counted when it is read, so a case is one function, and what the reads in it should be told.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import pytest
from support.combinations import by_turns
from support.example_runs import SHORT_LIVED_READS

import lowheap as lh
from lowheap.collectors import registry
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import ANY, ELEMENT, NO_FIELD, NO_TYPE, Collector, Shape
from lowheap.collectors.null import Null
from lowheap.jit.barriers import Barriers
from lowheap.native import Heap, Ref, Slot, Text, inline, native, prefetch, require, state, u64
from lowheap.wasm import inlining
from lowheap.wasm.compile import ModuleCompiler

pytestmark = pytest.mark.compiler

INLINE = ("always", "never")

TYPES = """
  (type $node (sub (struct
    (field $value (mut i32)) (field $next (mut (ref null $node))) (field $first (ref null $node)))))
  (type $more (sub $node (struct
    (field (mut i32)) (field (mut (ref null $node))) (field (ref null $node)) (field i64))))
  (type $nodes (array (mut (ref null $node))))
  (type $fixed (array (ref null $node)))
"""


@state
class Seen:
    """What the last event of each kind was told, and of the reads how many were told that they live long."""

    reads: u64
    past_safepoints: u64
    past_writes: u64
    read_type: u64
    read_field: u64
    read_mutable: u64
    write_type: u64
    write_field: u64
    init_type: u64
    init_field: u64
    init_mutable: u64


class Told(Drc):
    """Writes down what it is told."""

    states = (Seen,)
    counters = tuple(Seen.__annotations__)

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        seen = heap.state(Seen)
        seen.reads += 1
        if shape.outlives_safepoint:
            seen.past_safepoints += 1
        if shape.outlives_write:
            seen.past_writes += 1
        seen.read_type = u64(shape.type_index)
        seen.read_field = u64(shape.field)
        seen.read_mutable = u64(shape.is_mutable)
        return Drc.read(heap, owner, slot, shape)

    @native
    def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        seen = heap.state(Seen)
        seen.write_type = u64(shape.type_index)
        seen.write_field = u64(shape.field)
        assert shape.outlives_safepoint
        assert shape.outlives_write
        Drc.write(heap, owner, slot, value, shape)

    @native
    def init(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        seen = heap.state(Seen)
        seen.init_type = u64(shape.type_index)
        seen.init_field = u64(shape.field)
        seen.init_mutable = u64(shape.is_mutable)
        Drc.init(heap, owner, slot, value, shape)


# ----------------------------------------------------------------------------------------------------------------------
# The slot


@pytest.mark.parametrize("inline_events", INLINE)
@pytest.mark.parametrize("runtime", ["native", "python"])
def test_a_barrier_is_told_the_type_and_the_field(runtime: str, inline_events: str) -> None:
    source = f"""(module {TYPES}
      (global $kept (mut (ref null $node)) (ref.null $node))
      (global $constant (ref null $node) (ref.null $node))
      (func (export "new") (result (ref $more))
        (struct.new $more (i32.const 1) (ref.null $node) (ref.null $node) (i64.const 2)))
      (func (export "array") (param (ref null $node)) (result (ref $nodes)) (array.new_fixed $nodes 1 (local.get 0)))
      (func (export "fixed") (result (ref $fixed)) (array.new_default $fixed (i32.const 1)))
      (func (export "next") (param (ref $node)) (drop (struct.get $node $next (local.get 0))))
      (func (export "first") (param (ref $more)) (drop (struct.get $more 2 (local.get 0))))
      (func (export "element") (param (ref $nodes)) (drop (array.get $nodes (local.get 0) (i32.const 0))))
      (func (export "kept") (drop (global.get $kept)))
      (func (export "constant") (drop (global.get $constant)))
      (func (export "set") (param (ref $node)) (struct.set $node $next (local.get 0) (local.get 0)))
      (func (export "fill") (param (ref $nodes))
        (array.fill $nodes (local.get 0) (i32.const 0) (ref.null $node) (i32.const 1)))
      (func (export "keep") (param (ref $node)) (global.set $kept (local.get 0))))"""
    with lh.Store(lh.Engine(collector=Told, runtime=runtime, inline=inline_events)) as store:
        exports: Any = lh.Instance(store, lh.Module(store.engine, source)).exports

        def told(event: str, *names: str) -> tuple[int, ...]:
            counters = store.stats().counters
            return tuple(counters[f"{event}_{name}"] for name in names)

        assert told("init", "type", "field", "mutable") == (NO_TYPE, NO_FIELD, 0)  # the second global
        node = exports["new"]()
        assert told("init", "type", "field", "mutable") == (1, 2, 0)
        array = exports["array"](node)
        assert told("init", "type", "field", "mutable") == (2, ELEMENT, 1)
        exports["fixed"]()
        assert told("init", "type", "field", "mutable") == (3, ELEMENT, 0)
        expected = {
            "next": ([node], (0, 1, 1)),
            "first": ([node], (1, 2, 0)),
            "element": ([array], (2, ELEMENT, 1)),
            "kept": ([], (NO_TYPE, NO_FIELD, 1)),
            "constant": ([], (NO_TYPE, NO_FIELD, 0)),
        }
        for name, (args, shape) in expected.items():
            exports[name](*args)
            assert told("read", "type", "field", "mutable") == shape, name
        for name, args, slot in (
            ("set", node, (0, 1)),
            ("fill", array, (2, ELEMENT)),
            ("keep", node, (NO_TYPE, NO_FIELD)),
        ):
            exports[name](args)
            assert told("write", "type", "field") == slot, name
        exports["set"](node)
        node[1] = None  # the host knows nothing of it
        assert told("write", "type", "field") == (NO_TYPE, NO_FIELD)
        store.verify()


# ----------------------------------------------------------------------------------------------------------------------
# How long it is held

NEW = "(drop (struct.new_default $node))"
WRITE = "(struct.set $node $next (local.get $n) (ref.null $node))"
NEXT = "(struct.get $node $next (local.get $n))"
USE = "(drop (struct.get $node $value (local.get $m)))"
USED = "(drop (struct.get $node $value (local.get $n)))"
LONG = "(nop)" * inlining.SMALL  # so that a function is not put in the place of its calls

HELD: dict[str, tuple[str, tuple[int, int, int]]] = {
    # What follows is reads, and how many of them outlive a safepoint, and a write.
    "used at once": (f"(drop (struct.get $node $value {NEXT}))", (1, 0, 0)),
    "dropped": (f"(drop {NEXT})", (1, 0, 0)),
    "a chain": (
        f"(drop (struct.get $node $next {NEXT}))",
        (2, 0, 0),
    ),
    "across an allocation": (f"(local.set $m {NEXT}) {NEW} {USE}", (1, 1, 0)),
    "before an allocation": (f"(local.set $m {NEXT}) {USE} {NEW}", (1, 0, 0)),
    "a value of a new object": (f"(drop (struct.new $node (i32.const 1) {NEXT} (ref.null $node)))", (1, 1, 0)),
    "the value of a new array": (f"(drop (array.new $nodes {NEXT} (i32.const 2)))", (1, 1, 0)),
    "an element of a new array": (f"(drop (array.new_fixed $nodes 1 {NEXT}))", (1, 1, 0)),
    "across a write": (f"(local.set $m {NEXT}) {WRITE} {USE}", (1, 0, 1)),
    "across a write of a number": (
        f"(local.set $m {NEXT}) (struct.set $node $value (local.get $n) (i32.const 1)) {USE}",
        (1, 0, 0),
    ),
    "across a write to a global": (f"(local.set $m {NEXT}) (global.set $g (ref.null $node)) {USE}", (1, 0, 1)),
    "across a write to an array": (
        f"(local.set $m {NEXT}) (array.set $nodes (local.get $a) (i32.const 0) (ref.null $node)) {USE}",
        (1, 0, 1),
    ),
    "written": (f"(struct.set $node $next (local.get $n) {NEXT})", (1, 0, 0)),
    "written to a global": (f"(global.set $g {NEXT})", (1, 0, 0)),
    "written to": (f"(struct.set $node $next {NEXT} (local.get $n))", (1, 0, 0)),
    "written, and used": (f"(struct.set $node $next (local.get $n) (local.tee $m {NEXT})) {USE}", (1, 0, 1)),
    "filled with": (f"(array.fill $nodes (local.get $a) (i32.const 0) {NEXT} (i32.const 2))", (1, 0, 1)),
    "copied from": (
        "(array.copy $nodes $nodes (local.get $a) (i32.const 0) (global.get $b) (i32.const 0) (i32.const 1))",
        (1, 0, 1),
    ),
    "returned": (f"(return {NEXT})", (1, 1, 1)),
    "the result": (f"{NEXT} (return)", (1, 1, 1)),
    "given to a small function": (f"(call $small {NEXT})", (1, 0, 0)),
    "given to a small function that makes one": (f"(call $makes {NEXT})", (1, 1, 0)),
    "given to a function": (f"(call $takes {NEXT})", (1, 1, 1)),
    "given to a function that makes nothing": (f"(call $leaf {NEXT})", (1, 1, 1)),
    "across a call": (f"(local.set $m {NEXT}) (call $takes (ref.null $node)) {USE}", (1, 1, 1)),
    "across a call of what makes nothing": (f"(local.set $m {NEXT}) (call $leaf (ref.null $node)) {USE}", (1, 0, 1)),
    "into a phi, and across": (
        f"(if (local.get $i) (then (local.set $m {NEXT})) (else (local.set $m (local.get $n)))) {NEW} {USE}",
        (1, 1, 0),
    ),
    "into a phi, and used": (
        f"(if (local.get $i) (then (local.set $m {NEXT})) (else (local.set $m (local.get $n)))) {USE}",
        (1, 0, 0),
    ),
    "into a phi, and returned": (
        f"(if (result (ref null $node)) (local.get $i) (then {NEXT}) (else (local.get $n))) (return)",
        (1, 1, 1),
    ),
    "into two phis": (
        f"""(if (local.get $i)
          (then (if (local.get $i) (then (local.set $m {NEXT})) (else (local.set $m (local.get $n)))))
          (else (local.set $m (local.get $n)))) {WRITE} {USE}""",
        (1, 0, 1),
    ),
    "selected, and across": (
        f"(local.set $m (select (result (ref null $node)) {NEXT} (local.get $n) (local.get $i))) {NEW} {USE}",
        (1, 1, 0),
    ),
    "selected, and used": (
        f"(local.set $m (select (result (ref null $node)) {NEXT} (local.get $n) (local.get $i))) {USE}",
        (1, 0, 0),
    ),
    "cast, and across": (
        f"(local.set $m (ref.cast (ref null $more) {NEXT})) {NEW} {USE}",
        (1, 1, 0),
    ),
    "compared": (f"(drop (ref.eq {NEXT} (local.get $n))) (drop (ref.is_null {NEXT}))", (2, 0, 0)),
    "across on one path": (f"(local.set $m {NEXT}) (if (local.get $i) (then {NEW})) {USE}", (1, 1, 0)),
    "across on a path that does not run": (
        f"(local.set $m {NEXT}) (if (i32.eqz (local.get $i)) (then {NEW})) {USE}",
        (1, 1, 0),
    ),
    "used on one path, an allocation on the other": (
        f"(local.set $m {NEXT}) (if (local.get $i) (then {USE}) (else {NEW}))",
        (1, 0, 0),
    ),
    "round a loop": (
        """(local.set $m (local.get $n))
        (loop $again
          (local.set $m (struct.get $node $next (local.get $m)))
          (br_if $again (i32.eqz (ref.is_null (local.get $m)))))""",
        (2, 0, 2),  # the loop polls, and a signal's handler may write
    ),
    "round a loop that allocates": (
        f"""(local.set $m (local.get $n))
        (loop $again
          (local.set $m (struct.get $node $next (local.get $m))) {NEW}
          (br_if $again (i32.eqz (ref.is_null (local.get $m)))))""",
        (2, 2, 2),
    ),
    "in a loop, used in the next round": (
        f"""(loop $again
          (if (i32.eqz (ref.is_null (local.get $m))) (then {USE}))
          (local.set $m {NEXT})
          {WRITE}
          (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))""",
        (1, 0, 1),
    ),
    "from an array": ("(drop (struct.get $node $value (array.get $nodes (local.get $a) (i32.const 0))))", (1, 0, 0)),
    "from an array, across": (
        f"(local.set $m (array.get $nodes (local.get $a) (i32.const 0))) {NEW} {USE}",
        (1, 1, 0),
    ),
    "from a global": ("(drop (array.len (global.get $b)))", (1, 0, 0)),
    "from a global, across": (
        f"(local.set $a (global.get $b)) {NEW} {WRITE} (drop (array.len (local.get $a)))",
        (1, 1, 1),
    ),
    "two at once": (f"(local.set $m {NEXT}) {NEW} {USE} (drop {NEXT})", (2, 1, 0)),
}


def program(bodies: Iterable[str]) -> str:
    """A function for each body, `f0` and so on, of a node, whose next is a node, of an array of nodes, and of a number.

    That node's next is null.
    """
    functions = "".join(
        f"""(func (export "f{number}") (param $n (ref null $node)) (param $a (ref null $nodes)) (param $i i32)
          (result (ref null $node))
        (local $m (ref null $node))
        {body}
        (ref.null $node))"""
        for number, body in enumerate(bodies)
    )
    return f"""(module {TYPES}
      (global $g (mut (ref null $node)) (ref.null $node))
      (global $b (mut (ref null $nodes)) (array.new $nodes (struct.new_default $node) (i32.const 4)))
      (func $small (param $n (ref null $node)) {USED})
      (func $makes (param $n (ref null $node)) {NEW} {USED})
      (func $takes (param (ref null $node)) {NEW} {LONG})
      (func $leaf (param $n (ref null $node))
        (if (i32.eqz (ref.is_null (local.get $n))) (then {WRITE})) {LONG})
      (func (export "make") (result (ref $node))
        (struct.new $node (i32.const 1)
          (struct.new $more (i32.const 2) (ref.null $node) (ref.null $node) (i64.const 3)) (ref.null $node)))
      (func (export "array") (result (ref $nodes)) (array.new $nodes (struct.new_default $node) (i32.const 4)))
      {functions})"""


@functools.cache
def instance(collector: str | type[Collector], inline_events: str = "auto", runtime: str = "native") -> lh.Instance:
    """All of the cases, in one module."""
    engine = lh.Engine(collector=collector, inline=inline_events, runtime=runtime)
    store = lh.Store(engine, collect_every=1)
    return lh.Instance(store, lh.Module(engine, program(body for body, _ in HELD.values())))


def call(made: lh.Instance, case: str, number: int) -> None:
    """Run a case."""
    exports: Any = made.exports
    exports[f"f{list(HELD).index(case)}"](exports["make"](), exports["array"](), number)


@pytest.mark.parametrize(("case", "inline_events"), by_turns(HELD, INLINE))
def test_a_read_is_told_how_long_the_reference_is_held(case: str, inline_events: str) -> None:
    made = instance(Told, inline_events)
    before = made.store.stats().counters
    call(made, case, 1)
    after = made.store.stats().counters
    names = ("reads", "past_safepoints", "past_writes")
    assert tuple(after[name] - before[name] for name in names) == HELD[case][1]
    made.store.verify()


@pytest.mark.parametrize(("case", "runtime"), by_turns(HELD, ["native", "python"]))
def test_a_load_is_enough_for_what_is_held_for_short(case: str, runtime: str) -> None:
    """Each of the programs, with a read barrier that relies on what it is told."""
    made = instance(SHORT_LIVED_READS, runtime=runtime)
    for number in (1, 2):
        call(made, case, number)
        made.store.verify()


def test_what_is_held_for_short_is_a_load() -> None:
    source = program([f"(drop (struct.get $node $value {NEXT}))"])
    lengths = [
        len(lh.Module(lh.Engine(collector=each), source).compiled.llvm_ir) for each in ("drc", SHORT_LIVED_READS)
    ]
    assert lengths[1] < lengths[0]
    text = emitted(source, registry.find(SHORT_LIVED_READS))
    assert '"lowheap.struct_get.0.1.true.false.no_safepoint.no_write"' in text
    assert ".no_safepoint" not in emitted(source, Drc())


# ----------------------------------------------------------------------------------------------------------------------
# What is not asked for costs nothing


def emitted(source: str, collector: Collector) -> str:
    """A module's IR before optimisation."""
    module = lh.Module(lh.Engine(), source)
    compiler = ModuleCompiler(module.outline, module.call_graph, Barriers(collector), inline_allocation=True)
    return str(compiler.compile()[0])


def functions(text: str, prefix: str) -> list[str]:
    """The names of the defined functions that begin so."""
    return [name for name in re.findall(r'^define [^@\n]*@"([^"]+)"', text, re.MULTILINE) if name.startswith(prefix)]


def test_what_events_look_at() -> None:
    assert Drc().reads("read") == {"is_counted", "may_be_null", "may_be_i31"}
    assert Drc().reads("write") == Drc().reads("dec_ref") == Drc().reads("read")
    assert Null().reads("read") == frozenset()
    asked = {"type_index", "field", "is_mutable", "outlives_safepoint", "outlives_write"}
    assert Told().reads("read") == {*asked, "is_counted", "may_be_null", "may_be_i31"}


@native
def shows(text: Text) -> None:
    require(False, 1, f"it is {text}")


@inline
def renames(shape: Shape) -> bool:
    other = shape
    return other.may_be_null


@native
def passes(shape: Shape) -> bool:
    return renames(shape) and shape.is_counted


def test_a_static_that_stands_elsewhere_may_be_read_whole() -> None:
    assert shows.checked.reads_of("text") is None
    assert renames.checked.reads_of("shape") is None
    assert passes.checked.reads_of("shape") is None


@native
def counts(heap: Heap, reference: Ref, shape: Shape) -> None:
    heap.collector.inc_ref(heap, reference, shape)


def test_what_the_collector_at_hand_looks_at_counts() -> None:
    assert counts.checked.reads_of("shape") is None
    assert counts.checked.reads_of("shape", Drc()) == Drc().reads("inc_ref") != frozenset()
    assert counts.checked.reads_of("shape", Null()) == frozenset()


def test_a_shape_without_what_is_not_read() -> None:
    shape = Shape(False, True, True, True, 3, 1, False, False, False)
    assert shape.only(None) is shape
    assert shape.only(()) == ANY
    assert shape.only(("field", "may_be_null")) == Shape(may_be_null=False, field=1)
    assert shape.key == "shape-ioc-type3-field1-immutable-no-safepoint-no-write"
    assert shape.only(("is_counted",)).key == ANY.key == "shape-nioc"


@native
def load(heap: Heap, slot: Slot, shape: Shape) -> Ref:
    if shape.may_be_null:
        prefetch(heap.header(heap.control.bump))
    return slot.value


@native
def load_from(heap: Heap, slot: Slot, shape: Shape) -> Ref:
    heap.state(Seen).read_field = u64(shape.field)
    return slot.value


class Loads(Null):
    """Reads through a function of the module's."""

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        return load(heap, slot, shape)


class LoadsFrom(Null):
    """The same, which looks at the field."""

    states = (Seen,)

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        return load_from(heap, slot, shape)


class Mutable(Null):
    """Looks at whether the slot is mutable."""

    states = (Seen,)

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        heap.state(Seen).read_mutable = u64(shape.is_mutable)
        return slot.value


def test_sites_share_the_code_of_what_they_differ_in_but_do_not_read() -> None:
    source = f"""(module {TYPES}
      (global $a (mut (ref null $node)) (ref.null $node))
      (global $b (ref null $node) (ref.null $node))
      (func (param $n (ref $node)) (param $o (ref $nodes))
        (drop (struct.get $node $next (local.get $n)))
        (drop (struct.get $node $first (local.get $n)))
        (drop (array.get $nodes (local.get $o) (i32.const 0)))
        (drop (global.get $a))
        (drop (global.get $b))))"""
    assert len(functions(emitted(source, Loads()), "lh.test_shapes.load")) == 1
    assert len(functions(emitted(source, LoadsFrom()), "lh.test_shapes.load_from")) == 4
    for collector, count in ((Drc(), 1), (Loads(), 1), (LoadsFrom(), 1), (Mutable(), 2)):
        assert len(functions(emitted(source, collector), "lowheap.global_get")) == count
