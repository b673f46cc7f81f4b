"""Finalizers of externrefs: when they run, how often, and what they may do."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cffi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap import declarations
from lowheap.bound_types import lift_reference
from lowheap.collector import GcProgress
from lowheap.layout import VMHostDataOwner
from lowheap.types import EXTERNREF

RUNTIMES = ("native", "python")
ENGINES = {runtime: lh.Engine(runtime=runtime) for runtime in RUNTIMES}
ffi = cffi.FFI()

SOURCE = """(module
  (type $s (struct (field $n (mut i32)) (field $next (mut (ref null $s)))))
  (import "host" "look" (func $look (param i32) (result i32)))
  (global $held (export "held") (mut externref) (ref.null extern))
  (global $other (export "other") (mut externref) (ref.null extern))
  (func $lose (global.set $held (ref.null extern)))
  (func (export "lose") (call $lose))
  (func (export "lose_number") (param i32) (result i32) (call $lose) (i32.add (local.get 0) (i32.const 1)))
  (func (export "lose_several") (param i32) (result i32 f64) (call $lose) (local.get 0) (f64.const 0.5))
  (func (export "lose_and_make") (param i32) (result (ref $s))
    (call $lose) (struct.new $s (local.get 0) (ref.null $s)))
  (func (export "lose_and_look") (result i32) (call $lose) (call $look (i32.const 7)))
  (func $lose_and_trap (export "lose_and_trap") (call $lose) (unreachable))
  (func (export "lose_both") (call $lose) (global.set $other (ref.null extern)))
  (func (export "look") (param i32) (result i32) (call $look (local.get 0)))
  (func (export "count") (param $n i32) (result i32) (local $list (ref null $s)) (local $sum i32)
    (loop $more
      (local.set $list (struct.new $s (local.get $n) (local.get $list)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $more (i32.gt_s (local.get $n) (i32.const 0))))
    (loop $again
      (local.set $sum (i32.add (local.get $sum) (struct.get $s $n (local.get $list))))
      (local.set $list (struct.get $s $next (local.get $list)))
      (br_if $again (i32.eqz (ref.is_null (local.get $list)))))
    (local.get $sum)))"""
MODULES = {runtime: lh.Module(each, SOURCE) for runtime, each in ENGINES.items()}


class Stage:
    """A store with an instance of the program; `look` is what its host function does."""

    def __init__(self, runtime: str, **options: Any) -> None:
        self.store = lh.Store(ENGINES[runtime], **options)
        self.look: Callable[[int], int] = lambda number: number
        imports = {"host": {"look": lambda number: self.look(number)}}
        self.exports = lh.Instance(self.store, MODULES[runtime], imports).exports
        self.log: list[Any] = []

    def hold(self, value: Any, finalizer: Callable[[Any], object] | None = None, where: str = "held") -> None:
        """Put an externref into a global, which is then the only one to hold it."""
        self.exports[where].value = lh.ExternRef(self.store, value, finalizer or self.log.append)
        self.store.tidy()
        assert self.log == []


@pytest.fixture(params=RUNTIMES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    yield stage
    if not stage.store.is_closed:
        stage.store.collect()
        stage.store.verify()
        stage.store.close()


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[tuple[BaseException, str]]:
    """What `sys.unraisablehook` was told of: the exception, and the text of what it happened in."""
    told: list[tuple[BaseException, str]] = []

    def hook(args: Any) -> None:
        told.append((args.exc_value, f"{args.err_msg} {args.object!r}"))

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return told


# --- When ------------------------------------------------------------------------------------------------------------

RETURNS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "lose": ((), None),
    "lose_number": ((4,), 5),
    "lose_several": ((4,), (4, 0.5)),
    "lose_both": ((), None),
}


@pytest.mark.parametrize("export", RETURNS)
def test_it_has_run_when_an_export_returns(stage: Stage, export: str) -> None:
    stage.hold("value")
    args, expected = RETURNS[export]
    assert stage.exports[export](*args) == expected
    assert stage.log == ["value"]
    assert (len(stage.store.host_data), stage.store.heap.stats().live_objects) == (0, 0)
    stage.store.close()
    assert stage.log == ["value"], "once"


def test_the_general_way_too(stage: Stage) -> None:
    stage.hold("value")
    assert stage.exports["lose_number"](0xFFFFFFFE) == -1, "an unsigned argument does not go the short way"
    assert stage.log == ["value"]


def test_results_outlive_what_it_collects(stage: Stage) -> None:
    stage.hold("value", lambda _: stage.store.collect())
    made = stage.exports["lose_and_make"](6)
    assert made["n"] == 6
    stage.store.verify()
    stage.store.collect()
    assert (made["n"], made.ref_count) == (6, 1)


def test_it_has_run_when_a_host_function_is_entered(stage: Stage) -> None:
    stage.hold("value")

    def look(number: int) -> int:
        assert stage.log == ["value"]
        return number + 1

    stage.look = look
    assert stage.exports["lose_and_look"]() == 8
    assert stage.log == ["value"]


def test_it_has_run_when_an_export_traps_or_raises(stage: Stage) -> None:
    stage.hold("first")
    with pytest.raises(lh.Trap, match="unreachable") as caught:
        stage.exports["lose_and_trap"]()
    assert (stage.log, caught.value.code) == (["first"], lh.TrapCode.UNREACHABLE)

    def look(number: int) -> int:
        handles.clear()
        raise LookupError(number)

    stage.log.clear()
    handles = [lh.ExternRef(stage.store, "second", stage.log.append)]
    stage.look = look
    with pytest.raises(LookupError):
        stage.exports["look"](1)
    assert stage.log == ["second"]


def test_a_finalizer_that_traps_does_not_change_the_trap_that_it_follows(stage: Stage, unraisable: list[Any]) -> None:
    def boom(_: Any) -> None:
        stage.look = lambda number: 1 // 0
        stage.exports["look"](1)

    stage.hold("value", boom)
    with pytest.raises(lh.Trap, match=r"unreachable.*lose_and_trap") as caught:
        stage.exports["lose_and_trap"]()
    assert caught.value.__context__ is None
    ((error, where),) = unraisable
    assert isinstance(error, ZeroDivisionError)
    assert "'value'" in where


def test_an_export_called_by_a_host_function_lets_finalizers_run_too(stage: Stage) -> None:
    stage.hold("value")

    def look(number: int) -> int:
        assert stage.exports["lose_number"](number) == number + 1
        assert stage.log == ["value"]
        return number

    stage.look = look
    assert stage.exports["look"](3) == 3


def test_a_handle_is_let_go_of_in_a_host_function(stage: Stage) -> None:
    held = [lh.ExternRef(stage.store, "value", stage.log.append)]
    stage.look = lambda number: held.clear() or number  # type: ignore[func-returns-value]
    assert stage.exports["look"](3) == 3
    assert stage.log == ["value"]


@pytest.mark.parametrize(
    "how", ["release", "forgotten", "overwritten", "collected", "increments", "closed", "detached"]
)
def test_it_runs_without_compiled_code(stage: Stage, how: str) -> None:
    store, log = stage.store, stage.log
    handle = lh.ExternRef(store, "value", log.append)
    if how == "release":
        handle.release()
    elif how == "forgotten":
        del handle
        assert log == [], "not in the middle of something"
        store.tidy()
    elif how == "overwritten":
        holder = lh.Struct(store, lh.StructType((lh.FieldType(lh.types.EXTERNREF, True),)), [handle])
        handle.release()
        assert log == []
        holder[0] = None
    elif how in ("collected", "increments"):
        store.heap.expose_gc_ref_to_wasm(store.heap.clone_gc_ref(handle.reference))
        handle.release()
        assert log == []
        if how == "collected":
            store.collect()
        else:
            with store.collection() as collection:
                while collection.collect_increment() is not GcProgress.COMPLETE:
                    assert log == []
    elif how == "closed":
        store.close()
        store.close()
    else:
        store.heap.detach()
        assert log == []
        store.tidy()
    assert log == ["value"]
    if not store.is_closed:
        store.close()
    assert log == ["value"]


def test_values_without_one_are_let_go_of_as_before(stage: Stage) -> None:
    handle = lh.ExternRef(stage.store, "value", None)
    assert handle.value == "value"
    handle.release()
    assert len(stage.store.host_data) == 0


@pytest.mark.parametrize("wrong", [3, "finalizer", [], lh])
def test_finalizers_that_are_none(stage: Stage, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"finalizer is .*; it must be callable"):
        lh.ExternRef(stage.store, 1, wrong)
    assert len(stage.store.host_data) == 0


def test_an_externref_that_could_not_be_made_has_no_finalizer(stage: Stage) -> None:
    store = lh.Store(stage.store.engine, initial_heap_size=1 << 12, maximum_heap_size=1 << 12)
    made: list[lh.ExternRef] = []

    def make() -> None:
        while True:
            made.append(lh.ExternRef(store, len(made), stage.log.append))

    with pytest.raises(lh.HeapExhaustedError):
        make()
    assert stage.log == []
    count = len(made)
    store.close()
    assert stage.log == list(range(count))


# --- What ------------------------------------------------------------------------------------------------------------


def test_it_may_use_the_store(stage: Stage) -> None:
    store, exports = stage.store, stage.exports

    def finalizer(value: str) -> None:
        assert exports["count"](100) == 5050
        pair = lh.Struct(store, lh.StructType((lh.FieldType(lh.types.I64, True),)), [5])
        store.collect()
        store.verify()
        stage.log.append((value, pair[0], exports["look"](9)))
        exports["held"].value = lh.ExternRef(store, "new", stage.log.append)

    stage.hold("value", finalizer)
    assert exports["lose_number"](1) == 2
    assert stage.log == [("value", 5, 9)]
    exports["lose"]()
    assert stage.log == [("value", 5, 9), "new"]


def test_they_run_one_after_the_other(stage: Stage) -> None:
    """Each calls an export, which would run the next; a thousand are no thousand frames deep."""
    depth, deepest = 0, 0

    def finalizer(_: int) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        assert stage.exports["lose_number"](1) == 2
        depth -= 1
        stage.log.append(1)

    handles = [lh.ExternRef(stage.store, number, finalizer) for number in range(1500)]
    handles.clear()
    stage.exports["lose"]()
    assert (len(stage.log), deepest) == (1500, 1)


def test_chains(stage: Stage) -> None:
    """Each makes the next one and drops it."""

    def finalizer(number: int) -> None:
        stage.log.append(number)
        if number:
            lh.ExternRef(stage.store, number - 1, finalizer)
            stage.exports["lose"]()

    stage.hold(500, finalizer)
    stage.exports["lose"]()
    stage.store.tidy()
    assert stage.log == list(range(500, -1, -1))


def test_it_may_drop_others(stage: Stage) -> None:
    others = [lh.ExternRef(stage.store, number, stage.log.append) for number in range(20)]
    stage.hold("second", where="other")

    def finalizer(_: Any) -> None:
        others.pop().release()
        others.clear()
        stage.exports["other"].value = None
        assert stage.log == [], "one after the other"

    stage.hold("first", finalizer)
    stage.exports["lose"]()
    stage.store.tidy()
    assert len(stage.log) == 21
    assert set(stage.log) == {*range(20), "second"}


def test_exceptions_are_reported_and_the_others_run(stage: Stage, unraisable: list[tuple[BaseException, str]]) -> None:
    def bad(value: str) -> None:
        raise ValueError(value)

    stage.hold("bad value", bad)
    stage.hold("good value", where="other")
    stage.exports["lose_both"]()
    assert stage.log == ["good value"]
    ((error, where),) = unraisable
    assert isinstance(error, ValueError)
    assert "finalizer" in where
    assert "'bad value'" in where


def test_python_s_own_hook_can_print_it(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """It only takes what the interpreter itself has made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
        stage.hold("bad value", lambda value: 1 // 0)
        stage.exports["lose"]()
    printed = capsys.readouterr().err
    assert "the externref of 'bad value'" in printed
    assert "ZeroDivisionError" in printed


def lose_and_collect(stage: Stage) -> None:
    handle = stage.exports["held"].value
    stage.exports["held"].value = None
    stage.store.heap.expose_gc_ref_to_wasm(stage.store.heap.clone_gc_ref(handle.reference))
    handle.release()  # the list is the last that counts it
    stage.store.collect()


CLOSING: dict[str, Callable[[Stage], object]] = {
    "from an export": lambda stage: stage.exports["lose"](),
    "from an export with a result": lambda stage: stage.exports["lose_number"](1),
    "from an export with results": lambda stage: stage.exports["lose_several"](1),
    "from a trap": lambda stage: stage.exports["lose_and_trap"](),
    "from a write": lambda stage: setattr(stage.exports["held"], "value", None),
    "from a collection": lambda stage: lose_and_collect(stage),
}


@pytest.mark.parametrize("way", CLOSING)
def test_it_may_close_the_store(stage: Stage, way: str) -> None:
    """What is under way then ends, in an error or not; the other finalizers run."""

    def close(value: str) -> None:
        stage.store.close()
        stage.log.append(value)

    stage.hold("held", close)
    stage.hold("other", where="other")
    try:
        CLOSING[way](stage)
    except (lh.HeapError, lh.Trap) as error:
        stage.log.append(type(error))
    assert stage.store.is_closed
    assert stage.log[:2] == ["held", "other"]
    with pytest.raises(lh.HeapError, match="the store is closed"):
        stage.exports["lose"]()
    with pytest.raises(lh.HeapError, match="the store is closed"):
        stage.exports["lose_number"](1)


def test_it_may_not_close_the_store_under_compiled_code(stage: Stage, unraisable: list[tuple[Any, str]]) -> None:
    stage.hold("value", lambda _: stage.store.close())
    assert stage.exports["lose_and_look"]() == 7
    assert not stage.store.is_closed
    assert "cannot close a store while its compiled code is on the stack" in str(unraisable[0][0])


def test_what_the_store_closes_on_cannot_use_it(stage: Stage, unraisable: list[tuple[Any, str]]) -> None:
    stage.hold("value", lambda _: stage.exports["lose"]())
    stage.store.close()
    assert "the store is closed" in str(unraisable[0][0])


# --- C code's externrefs ---------------------------------------------------------------------------------------------


def test_externrefs_of_c_code(stage: Stage) -> None:
    """Made as C code makes them, on the bytes; Python reads the address, and calls the finalizer, but not at once."""
    store, log = stage.store, stage.log
    control: Any = store.heap.cdata
    called: Any = ffi.callback("void(void *)", lambda data: log.append(int(ffi.cast("uintptr_t", data))))
    entries: Any = declarations.ffi().cast("VMHostData *", control.host_data)
    for number in (0x5000, 0x6000):
        entry = entries[control.host_data_count]
        entry.data, entry.finalizer = number, int(ffi.cast("uintptr_t", called))
        entry.owner = int(VMHostDataOwner.C)
        control.host_data_count += 1
    handles = [lift_reference(store, EXTERNREF, store.heap.alloc_externref(number)) for number in range(2)]
    assert [int(ffi.cast("uintptr_t", handle.value)) for handle in handles] == [0x5000, 0x6000]
    assert stage.exports["held"].value is None
    stage.exports["held"].value = handles[0]
    store.verify()
    handles[0].release()
    assert log == []
    with store.heap.no_gc_scope():
        stage.exports["lose"]()
    assert log == [0x5000]
    assert (0 in store.host_data, 1 in store.host_data) == (False, True)
    mine = lh.ExternRef(store, "Python's")
    assert store.heap.externref_host_data(mine.reference) == 0, "the id is used again"
    store.verify()
    store.close()
    assert log == [0x5000, 0x6000]


# --- At random -------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.sampled_from(["held", "other"])),
        st.tuples(st.just("call"), st.sampled_from(sorted(RETURNS))),
        st.tuples(st.just("handle"), st.integers(0, 3)),
        st.tuples(st.just("collect"), st.just("")),
        st.tuples(st.just("look"), st.sampled_from(sorted(RETURNS))),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, runtime=st.sampled_from(RUNTIMES), every=st.sampled_from([0, 1]))
def test_each_runs_once_and_not_before_its_externref_dies(
    steps: list[tuple[str, Any]], runtime: str, every: int
) -> None:
    stage = Stage(runtime, collect_every=every)
    places: dict[Any, int] = {}
    made = 0

    def check() -> None:
        assert len(stage.log) == len(set(stage.log)), "once"
        assert not set(stage.log) & set(places.values()), "not while it lives"

    def lose(export: str) -> None:
        args, expected = RETURNS[export]
        assert stage.exports[export](*args) == expected
        places.pop("held", None)
        if export == "lose_both":
            places.pop("other", None)

    def lose_and_check(export: str, number: int) -> int:
        lose(export)
        check()
        return number

    handles: dict[int, lh.ExternRef] = {}
    for step, what in steps:
        if step == "hold":
            stage.exports[what].value = lh.ExternRef(stage.store, made, stage.log.append)
            places[what], made = made, made + 1
        elif step == "handle":
            handles[what] = lh.ExternRef(stage.store, made, stage.log.append)
            places[what], made = made, made + 1
        elif step == "call":
            lose(what)
        elif step == "look":
            stage.look = functools.partial(lose_and_check, what)
            assert stage.exports["look"](3) == 3
        else:
            stage.store.collect()
        stage.store.tidy()
        check()
        assert len(stage.log) == made - len(places), "and as soon as it is dead"
    stage.store.verify()
    handles.clear()
    stage.store.close()
    assert sorted(stage.log) == list(range(made))
