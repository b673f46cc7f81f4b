"""Instances that were never made: what cannot be linked, or traps at its start, leaves nothing in the store."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lowheap as lh
from lowheap.errors import ForeignReferenceError
from lowheap.jit import engine as jit_engine

pytestmark = pytest.mark.compiler

TYPES = '(type $t (struct (field $f (mut (ref null $t))))) (import "h" "f" (func $f)) (import "h" "g" (global anyref))'
GOOD = f"""(module {TYPES} (func (export "f") (call $f)) (global (export "o") (mut (ref null $t)) (struct.new $t
  (ref.null $t))))"""
LINKED_TOO_LATE = f"""(module {TYPES} (import "h" "missing" (func (param i32))) (func (export "f"))
  (global (ref null $t) (struct.new $t (ref.null $t))))"""
TRAPS = f"""(module {TYPES}
  (global $o (mut (ref null $t)) (struct.new $t (ref.null $t)))
  (func $start (call $f) (global.set $o (struct.new $t (global.get $o))) (unreachable))
  (func (export "f") (call $f) (drop (struct.new $t (ref.null $t))))
  (start $start))"""
NAMES_ITSELF = """(module
  (import "h" "keep" (func $keep (param funcref)))
  (import "h" "fail" (func $fail))
  (global $n (mut i32) (i32.const 40))
  (func $own (export "own") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
  (func $start (call $keep (ref.func $own)) (call $keep (ref.func $fail)) (call $fail))
  (elem declare func $own $fail)
  (start $start))"""


@functools.cache
def engine(runtime: str) -> lh.Engine:
    return lh.Engine(runtime=runtime)


@pytest.fixture(params=["native", "python"])
def store(request: pytest.FixtureRequest) -> Iterator[lh.Store]:
    # A small heap has few blocks to verify.
    with lh.Store(engine(request.param), initial_heap_size=1 << 16) as store:
        yield store


def figures(store: lh.Store) -> dict[str, Any]:
    """What a store has of its instances, and how many of them there are in all."""
    gc.collect()
    store.collect()
    store.verify()
    kinds = (lh.Instance, lh.Global, lh.Func)
    return {
        "roots": sorted((root.kind.value, root.reference) for root in store.roots),
        "safepoints": len(store.runtime.stack_maps),
        "objects": store.stats().live_objects,
        "alive": [sum(type(each) is kind for each in gc.get_objects()) for kind in kinds],
    }


def given(store: lh.Store, **more: Any) -> dict[str, Any]:
    return {"h": {"f": lambda: None, "g": lh.I31(7), **more}}


def test_a_failure_leaves_nothing(store: lh.Store) -> None:
    good, late, traps = (lh.Module(store.engine, text) for text in (GOOD, LINKED_TOO_LATE, TRAPS))
    first = lh.Instance(store, good, given(store))
    number = lh.Instance(store, good, given(store)).exports["f"].funcref
    foreign = lh.Global(lh.Store(store.engine), lh.types.ANYREF, None)
    before = figures(store)

    def fail() -> None:
        raise ValueError("the host fails")

    attempts: list[tuple[type[Exception], Callable[[], object]]] = [
        (lh.LinkError, lambda: lh.Instance(store, late, given(store))),
        (lh.LinkError, lambda: lh.Instance(store, late, given(store, missing=5))),
        (lh.LinkError, lambda: lh.Instance(store, good, given(store, f=5))),
        (lh.LinkError, lambda: lh.Instance(store, good, given(store, g=lh.Global(store, lh.types.I32, 1)))),
        (ForeignReferenceError, lambda: lh.Instance(store, good, given(store, g=foreign))),
        (TypeError, lambda: lh.Instance(store, good, 5)),  # type: ignore[arg-type]
        (lh.Trap, lambda: lh.Instance(store, traps, given(store))),
        (ValueError, lambda: lh.Instance(store, traps, given(store, f=fail))),
    ]
    for _ in range(3):
        for expected, attempt in attempts:
            with pytest.raises(expected):
                attempt()
    assert figures(store) == before
    third = lh.Instance(store, good, given(store))
    assert third.exports["f"].funcref <= number + 4, "places in the table are given out again"
    first.exports["f"]()
    third.exports["f"]()
    assert third.exports["o"].value["f"] is None
    store.verify()


def test_the_instance_and_what_it_was_given_are_let_go(store: lh.Store) -> None:
    class Host:
        def __call__(self) -> None:
            pass

    traps = lh.Module(store.engine, TRAPS)
    host = Host()
    watch = weakref.ref(host)
    with pytest.raises(lh.Trap):
        lh.Instance(store, traps, given(store, f=host))
    del host
    gc.collect()
    assert watch() is None


def test_functions_that_have_got_out_are_kept(store: lh.Store) -> None:
    kept: list[Any] = []

    def fail() -> None:
        raise ValueError("the host fails")

    module = lh.Module(store.engine, NAMES_ITSELF)
    for _ in range(2):
        with pytest.raises(ValueError, match="the host fails"):
            lh.Instance(store, module, {"h": {"keep": kept.append, "fail": fail}})
    gc.collect()
    assert [each() for each in (kept[0], kept[0], kept[2])] == [41, 42, 41]
    with pytest.raises(ValueError, match="the host fails"):
        kept[1]()
    assert len({each.funcref for each in kept}) == 4
    good = lh.Instance(store, lh.Module(store.engine, GOOD), given(store))
    assert good.exports["f"].funcref not in {each.funcref for each in kept}


def test_a_module_that_names_functions_leaves_nothing_where_none_of_it_has_run(store: lh.Store) -> None:
    module = lh.Module(store.engine, NAMES_ITSELF)
    good = lh.Module(store.engine, GOOD)
    number = lh.Instance(store, good, given(store)).exports["f"].funcref
    for _ in range(5):
        with pytest.raises(lh.LinkError):
            lh.Instance(store, module, {"h": {"keep": lambda _: None, "fail": 5}})
    assert lh.Instance(store, good, given(store)).exports["f"].funcref == number + 2


def test_a_start_that_fails_within_a_call_leaves_nothing() -> None:
    """The one who instantiates is a host function, with compiled code on the stack, which goes on."""
    store = lh.Store()
    inner = lh.Module(store.engine, TRAPS)
    outer = lh.Module(
        store.engine,
        """(module (type $t (struct (field i32))) (import "h" "f" (func $f))
           (func (export "run") (result i32) (local $o (ref $t)) (local.set $o (struct.new $t (i32.const 5)))
             (call $f) (struct.get $t 0 (local.get $o))))""",
    )
    traps: list[lh.Trap] = []

    def host() -> None:
        try:
            lh.Instance(store, inner, given(store))
        except lh.Trap as trap:
            traps.append(trap)
        store.collect()
        store.verify()

    run = lh.Instance(store, outer, {"h": {"f": host}}).exports["run"]
    safepoints = len(store.runtime.stack_maps)
    assert [run(), run()] == [5, 5]
    assert [each.code for each in traps] == [lh.TrapCode.UNREACHABLE] * 2
    assert len(store.runtime.stack_maps) == safepoints


def test_a_finalizer_that_closes_the_store_ends_the_linking() -> None:
    store = lh.Store()
    module = lh.Module(store.engine, LINKED_TOO_LATE)
    lh.ExternRef(store, None, lambda _: store.close())
    with pytest.raises(lh.LowheapError):
        lh.Instance(store, module, given(store, missing=lambda _: None))
    assert store.is_closed


def test_a_global_that_cannot_be_made_leaves_nothing(store: lh.Store) -> None:
    lh.Global(store, lh.types.ANYREF, None)
    before = figures(store)
    for _ in range(3):
        with pytest.raises(TypeError):
            lh.Global(store, lh.types.ANYREF, "no reference")
    assert figures(store) == before


# ----------------------------------------------------------------------------------------------------------------------
# Modules


def test_llvms_jits_go_with_the_code_that_they_have_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lh.Engine(opt_level=0)
    code = lh.Module(engine, '(module (func (export "f") (result i32) (i32.const 7)))').compiled
    made: list[weakref.ref[Any]] = []
    create = jit_engine.binding.create_lljit_compiler

    def creating(*args: Any, **options: Any) -> Any:
        jit = create(*args, **options)
        made.append(weakref.ref(jit))
        return jit

    monkeypatch.setattr(jit_engine.binding, "create_lljit_compiler", creating)
    held = [jit_engine.LoadedCode(code) for _ in range(5 * jit_engine.LIBRARIES_PER_JIT)]
    assert 4 <= len(made) <= 6
    last = held.pop()
    held.clear()
    gc.collect()
    assert sum(each() is not None for each in made) == 1
    assert last.address(code.symbols[0])


def test_pass_managers_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = jit_engine.binding.newpassmanagers
    dispose = passes.NewPassManager._dispose
    freed: list[Any] = []
    monkeypatch.setattr(passes.NewPassManager, "_dispose", lambda manager: (dispose(manager), freed.append(manager)))
    monkeypatch.setattr(jit_engine, "OFTEN_INLINED", 5)
    sites = "(drop (struct.new $t (i32.const 1)))" * 6
    text = f'(module (type $t (struct (field i32))) (func (export "f") {sites}))'
    lh.Module(lh.Engine(inline="always"), text)
    assert {type(each) for each in freed} == {passes.FunctionPassManager, passes.ModulePassManager}
    assert all(each.closed for each in freed)
    assert len(freed) == 2


def test_an_exception_of_an_instance_that_failed_has_its_tag(store: lh.Store) -> None:
    text = """(module (type $s (struct)) (tag $t (param anyref))
      (import "h" "kept" (table $kept 1 exnref))
      (func $throw (throw $t (struct.new $s)))
      (func $start (table.set $kept (i32.const 0)
          (block $caught (result exnref) (try_table (catch_all_ref $caught) (call $throw)) (unreachable)))
        (call $throw))
      (start $start))"""
    kept = lh.Table(store, lh.TableType(lh.types.EXNREF, lh.Limits(1)))
    with pytest.raises(lh.WasmException) as failed:
        lh.Instance(store, lh.Module(store.engine, text), {"h": {"kept": kept}})
    assert failed.value.exnref is not None
    assert failed.value.exnref.tag is failed.value.tag is kept[0].tag
    del failed
    gc.collect()
    assert not store.tags  # nobody has it, but for what is in the table
    exception = kept[0].exception()
    assert str(exception.tag.type.functype) == "(func (param anyref))"
    catching = """(module (import "h" "t" (tag $t (param anyref)))
      (func (export "caught") (param exnref) (result anyref)
        (block $caught (result anyref) (try_table (catch $t $caught) (throw_ref (local.get 0))) (unreachable))))"""
    exports = lh.Instance(store, lh.Module(store.engine, catching), {"h": {"t": exception.tag}}).exports
    assert exports.caught(kept[0]) == exception.fields[0]
    kept[0] = None
    store.verify()
