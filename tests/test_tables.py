"""Tables: access, growth, ranges, segments, indirect calls, against wasmtime; tables as citizens of the heap."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import gc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from support.combinations import by_turns, examples
from support.embed_reports import dump_of
from support.table_model import CALLS, SOURCE, Call, content
from support.wasmtime_peer import Peer, PeerTrap
from support.wrong_barriers import without

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.embed import attach, ffi
from lowheap.errors import ForeignReferenceError
from lowheap.layout import NULL
from lowheap.roots import RootKind
from lowheap.snapshot import Image, reopened
from lowheap.snapshot.image import read_dump
from lowheap.snapshot.inspection import verify
from lowheap.wasm.tables import MOST_ELEMENTS

pytestmark = pytest.mark.compiler

DIRECTORY = Path(__file__).resolve().parent.parent / "examples/collectors"
COLLECTORS = {
    "drc": "drc",
    "outlined": "outlined",
    "null": "null",
    "counted_reads": f"{DIRECTORY / 'counted_reads.py'}:CountedReads",
    "deutsch_bobrow": f"{DIRECTORY / 'deutsch_bobrow.py'}:DeutschBobrow",
    "levanoni_petrank": f"{DIRECTORY / 'levanoni_petrank.py'}:LevanoniPetrank",
    "short_lived_reads": f"{DIRECTORY / 'short_lived_reads.py'}:ShortLivedReads",
}
RUNTIMES = ("native", "python")


@functools.cache
def _engine(collector: str, runtime: str) -> lh.Engine:
    return lh.Engine(collector=COLLECTORS[collector], runtime=runtime)


def engine(collector: str = "drc", runtime: str = "native") -> lh.Engine:
    return _engine(collector, runtime)


@functools.cache
def module(made: lh.Engine) -> lh.Module:
    return lh.Module(made, SOURCE)


def instance(store: lh.Store, source: str, imports: Any = None) -> Any:
    return lh.Instance(store, lh.Module(store.engine, source), imports).exports


@pytest.fixture(params=RUNTIMES)
def store(request: pytest.FixtureRequest) -> Any:
    with lh.Store(engine(runtime=request.param), initial_heap_size=1 << 16) as made:
        yield made


# ----------------------------------------------------------------------------------------------------------------------
# References that count


def outcome(call: Any, name: str, *numbers: int) -> Any:
    """What a call returns, or wasmtime's sentence of a trap."""
    try:
        found = call(name, *numbers)
    except lh.Trap as trap:
        return trap.code.message
    except PeerTrap as trap:
        return trap.message
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(("collector", "runtime"), by_turns(COLLECTORS, RUNTIMES))
@settings(max_examples=examples(8, 60), deadline=None)
@given(calls=CALLS)
def test_wasmtime_does_the_same(collector: str, runtime: str, calls: list[Call]) -> None:
    peer = Peer(SOURCE)
    found = module(engine(collector, runtime))
    with lh.Store(found.engine, collect_every=1, checked=True, initial_heap_size=1 << 16) as store:
        exports = lh.Instance(store, found).exports

        def ours(name: str, *numbers: int) -> Any:
            return outcome(lambda name, *numbers: exports[name](*numbers), name, *numbers)

        def theirs(name: str, *numbers: int) -> Any:
            return outcome(peer.call, name, *numbers)

        store.verify()
        for name, numbers in calls:
            assert ours(name, *numbers) == theirs(name, *numbers), name
            store.verify()
        assert content(ours) == content(theirs)
        store.collect()
        store.verify()


def test_all_of_it_is_given_back(store: lh.Store) -> None:
    exports = lh.Instance(store, module(store.engine)).exports
    live = store.stats().live_objects
    assert live == 7, "that of a global, of table b, of d, another one of b's, three of the segment's"
    exports["init a"](0, 0, 5)
    exports["drop"]()
    store.collect()
    assert store.stats().live_objects == 7
    exports["fill a"](0, 0, 5)
    store.collect()
    assert store.stats().live_objects == 4
    exports["fill b"](0, 0, 4)
    exports["d"][0] = exports["d"][1] = lh.Struct(store, exports["d"][0].type, [4])
    gc.collect()
    store.collect()
    assert store.stats().live_objects == 2, "one that a global holds, one of table d"
    store.verify()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("missing", ["read", "init", "count up", "drop"])
def test_a_barrier_that_is_missing_is_found_out(missing: str, runtime: str) -> None:
    made = lh.Engine(collector=without(Drc, missing), runtime=runtime)
    found = lh.Module(made, SOURCE)

    def run() -> None:
        with lh.Store(made, collect_every=1, checked=True) as store:
            exports = lh.Instance(store, found).exports
            exports["set a"](0, 2)
            exports["fill a"](1, 4, 2)
            exports["fill a"](0, 6, 5)
            exports["copy ab"](0, 3, 1)
            store.collect()
            exports["take"](0)
            store.collect()
            store.verify()

    with pytest.raises(lh.HeapCorruptionError):
        run()


def test_an_element_that_is_lost_or_counted_too_much_is_found(store: lh.Store) -> None:
    exports = lh.Instance(store, module(store.engine)).exports
    elements = (ctypes.c_uint32 * 4).from_address(exports["b"]._fields.base)
    reference = elements[3]
    store.collect()
    store.verify()
    elements[3] = NULL
    with pytest.raises(lh.HeapCorruptionError, match=f"object {reference:#x} has count 1, but 0 owners"):
        store.verify()
    elements[3] = 0x7770
    place = ctypes.addressof(elements) + 12
    with pytest.raises(lh.HeapCorruptionError, match=f"root slot {place:#x} holds 0x7770, where no live object starts"):
        store.verify()
    elements[3] = reference
    store.verify()
    store.heap.header(reference).ref_count += 1
    with pytest.raises(lh.HeapCorruptionError, match=f"object {reference:#x} has count 2, but 1 owners"):
        store.verify()
    store.heap.header(reference).ref_count -= 1


# ----------------------------------------------------------------------------------------------------------------------
# Root ranges: images, C, many elements


def test_elements_are_roots(store: lh.Store) -> None:
    exports = lh.Instance(store, module(store.engine)).exports
    table = exports["b"]
    places = [table._fields.base + 4 * number for number in range(4)]
    found = {root.place: root.reference for root in store.roots if root.kind is RootKind.SLOT}
    assert [found[each] for each in places] == [each.reference for each in table]
    assert store.heap.control.root_range_count == 6, "four tables, two segments"


@pytest.mark.parametrize("limit", [1 << 20, 3])
def test_an_image_has_all_elements(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Also one that has more than there are root slots."""
    monkeypatch.setattr(reopened, "ROOT_SLOT_LIMIT", limit)
    with lh.Store(engine(), initial_heap_size=1 << 16) as store:
        exports = lh.Instance(store, module(store.engine)).exports
        exports["init a"](0, 0, 3)
        del exports
        image = Image.from_bytes(store.snapshot().to_bytes())
    assert verify(image) == []
    handles = [each for each in image.roots if each.kind == "handle"]
    slots = [each for each in image.roots if each.kind == "slot"]
    assert len(slots) == 13, "2 of table a, 4 of b, 2 of d, 4 of the passive segment, a global"
    for number in range(len(slots)):
        lost = dataclasses.replace(image, roots=(*handles, *slots[:number], *slots[number + 1 :]))
        (problem,) = verify(lost)
        assert "owners" in problem


@pytest.mark.parametrize("checked", [False, True])
def test_c_knows_the_elements(checked: bool) -> None:
    with lh.Store(engine(), initial_heap_size=1 << 16) as store:
        exports = lh.Instance(store, module(store.engine)).exports
        table = exports["b"]
        native = attach(store, checked=checked)
        native.call("lh_verify")
        image = read_dump(dump_of(native))
        assert verify(image) == []
        assert [each for each in image.roots if each.kind == "slot"] == [
            each for each in store.snapshot().roots if each.kind == "slot"
        ]
        held = table[1]
        slot = ffi().cast("lh_ref *", table._fields.base)
        native.call("lh_write", slot, held.reference)
        assert table[0].reference == held.reference
        native.call("lh_verify")
        store.verify()
        if checked:
            for number in (-1, 4):  # beyond its end, or another table's
                with pytest.raises(lh.HeapError, match="is neither in the heap nor registered"):
                    native.call("lh_write", slot + number, NULL)
        slot[2] = NULL
        with pytest.raises(lh.HeapCorruptionError):
            native.call("lh_verify")
        slot[2] = held.reference


def test_many_elements_are_registered_at_once(store: lh.Store) -> None:
    table = lh.Table(store, lh.TableType(lh.types.ANYREF, lh.Limits(1_000_000)))
    assert store.heap.control.root_range_count == 1
    assert table.grow(MOST_ELEMENTS - 1_000_000) == 1_000_000, "null costs nothing"
    with pytest.raises(lh.HeapError, match="cannot grow a table of 10000000 elements by 1: it may have 10000000"):
        table.grow(1)
    table[-1] = held = lh.Struct(store, lh.StructType(()))
    assert held.ref_count == 2


def test_no_size_is_what_growing_returns_when_it_fails(store: lh.Store) -> None:
    """As of memories: -1."""
    with pytest.raises(lh.HeapError, match=r"a table may have a size of 4294967294 at most; one of 4294967295 is"):
        lh.Table(store, lh.TableType(lh.types.ANYREF, lh.Limits((1 << 32) - 1)))
    assert store.heap.control.root_range_count == 0


# ----------------------------------------------------------------------------------------------------------------------
# Calls through a table

CALLEES = """(module
  (type $super (sub (func (param i32) (result i32))))
  (type $sub (sub $super (func (param i32) (result i32))))
  (type $other (func (param i32 i64) (result i32 i64)))
  (type $host (func (param i32) (result i32)))
  (import "h" "double" (func $double (type $host)))
  (import "h" "triple" (func $triple (type $host)))
  (table $t (export "t") 9 funcref)
  (table $typed i64 3 3 (ref null $super))
  (table $full 1 1 (ref $host) (ref.func $double))
  (elem (table $t) (i32.const 0) func $one $two $both $double $triple)
  (elem (table $typed) (i64.const 0) (ref null $super) (ref.func $one) (ref.func $two))
  (func $one (type $super) (i32.add (local.get 0) (i32.const 1)))
  (func $two (type $sub) (i32.add (local.get 0) (i32.const 2)))
  (func $both (type $other) (local.get 0) (local.get 1))
  (func (export "super") (param i32) (result i32) (call_indirect $t (type $super) (i32.const 40) (local.get 0)))
  (func (export "sub") (param i32) (result i32) (call_indirect $t (type $sub) (i32.const 40) (local.get 0)))
  (func (export "host") (param i32) (result i32) (call_indirect $t (type $host) (i32.const 40) (local.get 0)))
  (func (export "other") (param i32) (result i32)
    (call_indirect $t (type $other) (i32.const 40) (i64.const 2) (local.get 0)) (i32.wrap_i64) (i32.sub))
  (func (export "typed") (param i32) (result i32)
    (call_indirect $typed (type $super) (i32.const 40) (i64.extend_i32_s (local.get 0))))
  (func (export "typed sub") (param i32) (result i32)
    (call_indirect $typed (type $sub) (i32.const 40) (i64.extend_i32_s (local.get 0))))
  (func (export "full") (param i32) (result i32) (call_indirect $full (type $host) (i32.const 40) (local.get 0)))
)"""
HOST = (["i32"], ["i32"])


def test_indirect_calls(store: lh.Store) -> None:
    double, triple = lambda number: 2 * number, lambda number: 3 * number
    peer = Peer(CALLEES, {"h.double": (*HOST, double), "h.triple": (*HOST, triple)})
    exports = instance(store, CALLEES, {"h": {"double": double, "triple": triple}})
    for name in ("super", "sub", "host", "other", "typed", "typed sub", "full"):
        for number in (*range(10), -1):
            assert outcome(lambda name, number: exports[name](number), name, number) == outcome(peer.call, name, number)
    assert exports["super"](1) == 42, "of a subtype of what is asked for"
    assert exports["full"](0) == 80


def test_functions_of_other_instances(store: lh.Store) -> None:
    """Each with its own globals."""
    source = """(module
      (import "h" "t" (table $t 4 funcref))
      (global $count (mut i32) (i32.const 0))
      (func $count (result i32) (global.set $count (i32.add (global.get $count) (i32.const 1))) (global.get $count))
      (elem (table $t) (i32.const NUMBER) func $count)
      (func (export "call") (param i32) (result i32) (call_indirect $t (result i32) (local.get 0))))"""
    table = lh.Table(store, lh.TableType(lh.types.FUNCREF, lh.Limits(4)))
    first, second = (instance(store, source.replace("NUMBER", number), {"h": {"t": table}}) for number in "12")
    assert [first["call"](1), second["call"](1), first["call"](2), second["call"](1)] == [1, 2, 1, 3]
    assert table[1]() == 4
    table[3] = table[2]
    assert second["call"](3) == 2
    with pytest.raises(lh.Trap, match="uninitialized element"):
        second["call"](0)


def test_a_table_that_has_grown_is_seen_at_once() -> None:
    source = """(module (type $f (func (result i32))) (table $t 1 4 funcref)
      (func $seven (type $f) (i32.const 7)) (elem declare func $seven)
      (func $grow (result i32) (table.grow $t (ref.func $seven) (i32.const 1)))
      (func (export "run") (param i32) (result i32)
        (loop $again
          (if (i32.ge_u (local.get 0) (table.size $t)) (then (drop (call $grow)) (br $again))))
        (call_indirect $t (type $f) (local.get 0))))"""
    with lh.Store(engine()) as store:
        assert instance(store, source)["run"](3) == 7


# ----------------------------------------------------------------------------------------------------------------------
# Segments and initialisers


def test_the_order_of_initialisation(store: lh.Store) -> None:
    source = """(module
      (type $s (struct (field i32)))
      (import "h" "note" (func $note (param anyref)))
      (global $g (ref $s) (struct.new $s (i32.const 1)))
      (table $t 4 anyref (struct.new $s (i32.const 0)))
      (elem $late (table $t) (offset (i32.const 1)) anyref (item (ref.i31 (i32.const 2))) (item (global.get $g)))
      (elem $next (table $t) (offset (i32.const 2)) anyref (item (ref.i31 (i32.const 3))) (item (ref.null any)))
      (memory 1)
      (data (i32.const 0) "abc")
      (func $start
        (call $note (table.get $t (i32.const 0))) (call $note (table.get $t (i32.const 1)))
        (call $note (table.get $t (i32.const 2))) (call $note (table.get $t (i32.const 3)))
        (call $note (ref.i31 (i32.load8_u (i32.const 2)))))
      (func (export "again") (table.init $t $late (i32.const 0) (i32.const 0) (i32.const 1)))
      (start $start))"""
    noted: list[Any] = []
    exports = instance(store, source, {"h": {"note": noted.append}})
    first, *others = noted
    assert (first[0], others) == (0, [lh.I31(2), lh.I31(3), None, lh.I31(ord("c"))])
    with pytest.raises(lh.Trap, match="out of bounds table access"):
        exports["again"]()


def test_a_segment_of_many_functions_costs_no_code() -> None:
    def size(count: int) -> int:
        items = " ".join(["$f"] * count)
        references = " ".join(["(ref.func $f) (ref.null func)"] * count)
        source = f"""(module (func $f) (table 9000 funcref) (elem (i32.const 0) func {items})
          (elem (i32.const 0) funcref {references}))"""
        return len(lh.Module(engine(), source).compiled.object)

    assert size(4000) <= size(4) + 16


def test_functions_that_only_tables_name(store: lh.Store) -> None:
    source = """(module (type $f (func (result i32)))
      (func $a (type $f) (i32.const 1)) (func $b (type $f) (i32.const 2)) (func $c (type $f) (i32.const 3))
      (table $t 2 funcref (ref.func $a))
      (elem (table $t) (i32.const 1) func $b)
      (elem $passive funcref (ref.func $c))
      (table (export "t") 1 (ref null $f) (ref.func $c))
      (func (export "call") (param i32) (result i32) (call_indirect $t (type $f) (local.get 0)))
      (func (export "init") (table.init $t $passive (i32.const 0) (i32.const 0) (i32.const 1))))"""
    exports = instance(store, source)
    assert [exports["call"](0), exports["call"](1), exports["t"][0]()] == [1, 2, 3]
    exports["init"]()
    assert exports["call"](0) == 3


FAILS = """(module
  (type $s (struct (field i32)))
  (import "h" "t" (table $shared 2 anyref))
  (table $own 3 (ref $s) (struct.new $s (i32.const 1)))
  (elem $kept (ref $s) (struct.new $s (i32.const 2)))
  (elem (table $shared) (i32.const 0) (ref $s) (struct.new $s (i32.const 3)))
  (elem (table $shared) (i32.const 2) (ref $s) (struct.new $s (i32.const 4)))
  (elem (table $shared) (i32.const 1) (ref $s) (struct.new $s (i32.const 5))))"""


def test_an_instance_that_fails_leaves_what_it_has_written_and_no_more(store: lh.Store) -> None:
    table = lh.Table(store, lh.TableType(lh.types.ANYREF, lh.Limits(2)))
    for source in (FAILS, FAILS.replace('(import "h" "t"', '(import "h" "missing" (func)) (import "h" "t"')):
        for _ in range(2):
            with pytest.raises((lh.Trap, lh.LinkError)):
                instance(store, source, {"h": {"t": table}})
            store.collect()
            store.verify()
            assert ([each and each[0] for each in table], store.stats().live_objects) == ([3, None], 1)
            assert [root.place for root in store.roots if root.kind is RootKind.SLOT] == [table._fields.base]


# ----------------------------------------------------------------------------------------------------------------------
# The host's side


def test_the_hosts_tables(store: lh.Store) -> None:
    table = lh.Table(store, lh.TableType(lh.types.EXTERNREF, lh.Limits(2, 5)), "first")
    assert [each.value for each in table] == ["first", "first"]
    assert (len(table), table.size, table.grow(1, None), table.grow(1, 4.5)) == (2, 2, 2, 3)
    table[2] = [1]
    assert [table[number] and table[number].value for number in (-4, 1, 2, -1)] == ["first", "first", [1], 4.5]
    assert table.type == lh.TableType(lh.types.EXTERNREF, lh.Limits(2, 5))
    assert repr(table) == "<Table 2 5 externref: 4 elements>"
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"index {index} is out of bounds of a table of 4 elements"):
            table[index]
        with pytest.raises(IndexError):
            table[index] = None
    for wrong in ("0", True, None, slice(0, 1)):
        with pytest.raises(TypeError, match="an element is named by an int"):
            table[wrong]
    with pytest.raises(lh.HeapError, match="cannot grow a table of 4 elements by 2: it may have 5"):
        table.grow(2)
    with pytest.raises(lh.HeapError, match="it may have 5"):
        table.grow(1 << 64)
    with pytest.raises(ValueError, match="cannot grow a table by -1 elements"):
        table.grow(-1)
    with pytest.raises(TypeError):
        table.grow(1.0)
    assert table.size == 4
    store.verify()


def test_what_does_not_match_is_no_element(store: lh.Store) -> None:
    table = lh.Table(store, lh.TableType(lh.types.I31REF, lh.Limits(2)), 7)
    for value in ("x", 1.5, lh.Struct(store, lh.StructType(()))):
        with pytest.raises(TypeError):
            table[0] = value
        with pytest.raises(TypeError):
            table.grow(1, value)
    assert (list(table), len(table)) == ([lh.I31(7)] * 2, 2)
    table = lh.Table(store, lh.TableType(lh.types.ANYREF, lh.Limits(1)))
    with lh.Store(store.engine) as other, pytest.raises(ForeignReferenceError):
        table[0] = lh.Struct(other, lh.StructType(()))
    with pytest.raises(TypeError, match="not nullable"):
        lh.Table(store, lh.TableType(lh.RefType(False, lh.types.ANYREF.heap_type), lh.Limits(1)))
    store.verify()


@pytest.mark.parametrize(
    ("type", "error", "said"),
    [
        (lh.types.FUNCREF, TypeError, "it must be a TableType"),
        (lh.TableType(lh.types.I32, lh.Limits(1)), TypeError, "must be a RefType"),  # type: ignore[arg-type]
        (lh.TableType(lh.types.FUNCREF, (1, 2)), TypeError, "must be Limits"),  # type: ignore[arg-type]
        (lh.TableType(lh.types.FUNCREF, lh.Limits(1.0)), TypeError, "a number of elements"),  # type: ignore[arg-type]
        (lh.TableType(lh.types.FUNCREF, lh.Limits(-1)), ValueError, "it must be 0 to 4294967295"),
        (lh.TableType(lh.types.FUNCREF, lh.Limits(0, 1 << 32)), ValueError, "it must be 0 to 4294967295"),
        (lh.TableType(lh.types.FUNCREF, lh.Limits(2, 1)), ValueError, "the first may not be the larger one"),
        (lh.TableType(lh.types.FUNCREF, lh.Limits(1), is_64=1), TypeError, "is_64 is 1; it must be a bool"),  # type: ignore[arg-type]
        (lh.TableType(lh.types.FUNCREF, lh.Limits(1 << 50), is_64=True), lh.HeapError, "no address space is left"),
    ],
)
def test_what_is_no_type_of_a_table(type: Any, error: Any, said: str) -> None:
    with lh.Store(engine()) as store, pytest.raises(error, match=said):
        lh.Table(store, type)


@pytest.mark.parametrize("delta", [None, True, 1.0, "1"], ids=repr)
def test_what_is_no_number_of_elements(delta: Any) -> None:
    with lh.Store(engine()) as store:
        table = lh.Table(store, lh.TableType(lh.types.FUNCREF, lh.Limits(1)))
        with pytest.raises(TypeError, match="a table grows by an int, a number of elements, not by"):
            table.grow(delta)
        assert len(table) == 1


IMPORTS = '(module (type $f (func)) (import "h" "t" (table TYPE)) (export "t" (table 0)))'


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("2 funcref", True),
        ("3 funcref", True),  # which is what it has grown to
        ("0 5 funcref", True),
        ("0 9 funcref", True),
        ("4 funcref", False),
        ("0 4 funcref", False),
        ("2 externref", False),
        ("2 (ref null $f)", False),
        ("i64 2 funcref", False),
    ],
)
def test_what_may_be_imported(wanted: str, fits: bool) -> None:
    with lh.Store(engine()) as store:
        table = lh.Table(store, lh.TableType(lh.types.FUNCREF, lh.Limits(2, 5)))
        table.grow(1)
        source = IMPORTS.replace("TYPE", wanted)
        if fits:
            assert instance(store, source, {"h": {"t": table}})["t"] is table
            return
        with pytest.raises(lh.LinkError, match=r"h\.t is a table of type .*; <Table 2 5 funcref: 3 elements> was"):
            instance(store, source, {"h": {"t": table}})


def test_what_is_no_table_is_not_imported() -> None:
    source = IMPORTS.replace("TYPE", "2 funcref")
    with lh.Store(engine()) as store, lh.Store(engine()) as other:
        for wrong in (5, lambda: None, lh.Global(store, lh.types.FUNCREF, None)):
            with pytest.raises(lh.LinkError, match="is a table of type"):
                instance(store, source, {"h": {"t": wrong}})
        with pytest.raises(ForeignReferenceError):
            instance(store, source, {"h": {"t": lh.Table(other, lh.TableType(lh.types.FUNCREF, lh.Limits(2)))}})


def test_linkers_know_tables() -> None:
    with lh.Store(engine()) as store, lh.Store(engine()) as other:
        linker = lh.Linker(store.engine)
        table = lh.Table(store, lh.TableType(lh.types.FUNCREF, lh.Limits(2)))
        linker.define(store, "h", "t", table)
        found = lh.Module(store.engine, IMPORTS.replace("TYPE", "2 funcref"))
        assert linker.instantiate(store, found).exports["t"] is table
        assert linker.get(store, "h", "t") is table
        for attempt in (lambda: linker.get(other, "h", "t"), lambda: linker.define(other, "h", "u", table)):
            with pytest.raises(ForeignReferenceError):
                attempt()
