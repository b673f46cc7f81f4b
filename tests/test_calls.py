"""Calls of exports from Python: the short way of scalar signatures does what the general way does."""

from __future__ import annotations

import functools
import gc
import math
import struct
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap.memory import Memory

RUNTIMES = ("native", "python")
LETTERS = {"i": "i32", "l": "i64", "f": "f32", "d": "f64"}
SIGNATURES = ("i", "l", "f", "d", "id", "li", "fd", "ldi", "dfli", "iiiiii", "lfdilfdi")


@functools.cache
def exports() -> tuple[lh.Store, Any]:
    """For each signature and each of its parameters, an export that returns that one; and a few more."""
    functions = [
        f'(func (export "{signature}{number}") (param {" ".join(LETTERS[each] for each in signature)}) '
        f"(result {LETTERS[signature[number]]}) (local.get {number}))"
        for signature in SIGNATURES
        for number in range(len(signature))
    ]
    store = lh.Store()
    return store, lh.Instance(store, lh.Module(store.engine, f"(module {' '.join(functions)})")).exports


ADD = """(module
  (import "host" "call" (func $call (param i32) (result i32)))
  (func (export "nothing"))
  (func (export "four") (result i32) (i32.const 4))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "call") (param i32) (result i32) (call $call (local.get 0)))
  (func (export "same") (param externref) (result externref) (local.get 0))
  (func (export "swap") (param externref i32) (result i32 externref) (local.get 1) (local.get 0))
  (func (export "divide") (param i64 i64) (result i64) (i64.div_s (local.get 0) (local.get 1))))"""


def instance(runtime: str, call: Callable[[int], int] = lambda number: number) -> tuple[lh.Store, Any]:
    store = lh.Store(lh.Engine(runtime=runtime))
    return store, lh.Instance(store, lh.Module(store.engine, ADD), {"host": {"call": call}}).exports


def general(function: Any, *args: Any) -> Any:
    """Call by the general way."""
    return function._call(args)


VALUES = st.one_of(
    st.integers(-(1 << 65), 1 << 65),
    st.integers(-3, 3),
    st.sampled_from([1 << 31, (1 << 31) - 1, -(1 << 31), (1 << 32) - 1, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1]),
    st.floats(),
    st.floats(width=32),
    st.booleans(),
    st.none(),
    st.just("3"),
    st.sampled_from([10**400, -(10**400)]),
)


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    try:
        result = call(*args)
    except (TypeError, ValueError) as error:
        return type(error), str(error)
    return type(result), struct.pack("<d", result) if isinstance(result, float) else result


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_both_ways_agree(data: st.DataObject) -> None:
    _, all_exports = exports()
    signature = data.draw(st.sampled_from(SIGNATURES))
    number = data.draw(st.integers(0, len(signature) - 1))
    count = len(signature) + data.draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
    likely = {"i": st.integers(-(1 << 31), (1 << 32) - 1), "l": st.integers(-(1 << 63), (1 << 64) - 1)}
    args = [
        data.draw(
            VALUES if data.draw(st.integers(0, 7)) == 0 else likely.get(signature[at % len(signature)], st.floats())
        )
        for at in range(count)
    ]
    function = all_exports[f"{signature}{number}"]
    assert outcome(function, *args) == outcome(functools.partial(general, function), *args)
    result = outcome(function, *args)
    if result[0] is int:
        bits = 32 if signature[number] == "i" else 64
        assert result[1] == (args[number] + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
    elif result[0] is float and signature[number] == "d" and isinstance(args[number], float):
        assert result[1] == struct.pack("<d", args[number]) or math.isnan(args[number])


def frames(call: Callable[[], Any]) -> list[str]:
    """The Python functions that run in a call."""
    seen: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.append(frame.f_code.co_qualname)

    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen[1:]  # the lambda's own is the first


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_scalar_call_is_one_frame_of_python(runtime: str) -> None:
    store, all_exports = instance(runtime)
    add, nothing, four = (all_exports[name] for name in ("add", "nothing", "four"))
    ways: list[Callable[[], Any]] = [
        lambda: add(1, 2),
        lambda: all_exports["add"](1, 2),
        lambda: nothing(),
        lambda: four(),
    ]
    for call in ways:
        call()
        assert frames(call) == ["_CompiledFunc.__call__"]
    assert (add(1, 2), nothing(), four()) == (3, None, 4)
    store.close()


def test_a_result_is_not_another_call_s() -> None:
    """Python code may run at any point of a call: finalizers, handlers of signals. Here it does so at every line."""
    store, all_exports = instance("native")
    add = all_exports["add"]
    inner: list[int] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_qualname != "_CompiledFunc.__call__":
            return None
        if event == "line":
            inner.append(add(len(inner), 1000))
        return trace

    for _ in range(3):
        inner.clear()
        sys.settrace(trace)
        try:
            result = add(1, 2)
        finally:
            sys.settrace(None)
        assert result == 3
        assert len(inner) > 5
        assert inner == [number + 1000 for number in range(len(inner))]
    store.close()


def test_a_reference_is_not_another_call_s() -> None:
    """The same on the general way: what a call keeps for the next one is nobody else's meanwhile."""
    store, all_exports = instance("native")
    same, swap = all_exports["same"], all_exports["swap"]
    inner: list[Any] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_qualname != "StoreRuntime._caller.<locals>.call":
            return None
        if event == "line":
            number = len(inner)
            inner.append(None)
            inner[number] = (same(number).value, swap(number, -number)[1].value)
        return trace

    for function, args, wanted in ((same, ("outer",), "outer"), (swap, ("outer", 1), (1, "outer"))):
        inner.clear()
        sys.settrace(trace)
        try:
            result = function(*args)
        finally:
            sys.settrace(None)
        found = result.value if function is same else (result[0], result[1].value)
        assert found == wanted
        assert len(inner) > 10
        assert inner == [(number, number) for number in range(len(inner))]
    store.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_recursion_through_the_host(runtime: str) -> None:
    def call(number: int) -> int:
        return 0 if number == 0 else number + int(all_exports["call"](number - 1))

    store, all_exports = instance(runtime, call)
    assert all_exports["call"](20) == 210
    store.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_traps_and_exceptions_on_the_short_way(runtime: str) -> None:
    def call(number: int) -> int:
        raise LookupError(number)

    store, all_exports = instance(runtime, call)
    for _ in range(3):
        with pytest.raises(lh.Trap, match="integer divide by zero") as caught:
            all_exports["divide"](1, 0)
        assert caught.value.__context__ is None
        with pytest.raises(LookupError) as raised:
            all_exports["call"](7)
        assert (raised.value.args, raised.value.__context__) == ((7,), None)
        with pytest.raises(lh.Trap) as general_way:
            all_exports["divide"]((1 << 64) - 1, 0)
        assert general_way.value.__context__ is None
        assert all_exports["divide"](9, 2) == 4
    store.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_trap_leaves_no_cycle(runtime: str) -> None:
    def call(number: int) -> int:
        raise LookupError(number)

    store, all_exports = instance(runtime, call)
    gc.collect()
    gc.disable()
    try:
        for export, args in (("call", (1,)), ("divide", (1, 0)), ("divide", ((1 << 64) - 1, 0))):
            with pytest.raises((LookupError, lh.Trap)) as caught:
                all_exports[export](*args)
            del caught
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [found for found in gc.garbage if isinstance(found, LookupError | lh.Trap)] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    store.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_heap_must_be_as_compiled_code_knows_it(runtime: str) -> None:
    store, all_exports = instance(runtime)
    add = all_exports["add"]
    assert add(1, 2) == 3
    with store.collection() as collection:
        collection.collect_increment()
        with pytest.raises(lh.HeapError, match="cannot call compiled code in the middle of a collection"):
            add(1, 2)
    assert add(1, 2) == 3
    memory = store.heap.take_memory()
    with pytest.raises(lh.HeapError, match="no memory"):
        add(1, 2)
    store.heap.replace_memory(memory, 0)
    assert add(1, 2) == 3
    store.heap.detach()
    with pytest.raises(lh.HeapError, match="no memory"):
        add(1, 2)
    store.heap.attach(memory, store.host_data)  # the same memory, at the same place
    with pytest.raises(lh.HeapError, match="detached or moved since the store's first instance was made"):
        add(1, 2)
    store.heap.detach()
    store.heap.attach(Memory(), store.host_data)
    with pytest.raises(lh.HeapError, match="detached or moved"):
        add(1, 2)
    store.close()
    with pytest.raises(lh.HeapError, match="the store is closed"):
        add(1, 2)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_was_forgotten_before_a_call_is_gone_after_it(runtime: str) -> None:
    store, all_exports = instance(runtime)
    lh.Struct(store, lh.StructType(()))
    assert all_exports["add"](1, 2) == 3
    assert store.heap.stats().live_objects == 0
    store.close()


def test_exports_are_a_mapping_that_nobody_changes() -> None:
    store, all_exports = instance("native")
    assert list(all_exports) == ["nothing", "four", "add", "call", "same", "swap", "divide"]
    assert (len(all_exports), "add" in all_exports, "sub" in all_exports) == (7, True, False)
    assert all_exports.get("sub") is None
    with pytest.raises(KeyError, match="there is no export 'sub'; there are: add, call, divide, four, nothing"):
        all_exports["sub"]
    with pytest.raises(TypeError):
        all_exports["sub"] = 1
    with pytest.raises(TypeError):
        all_exports["add"](1, b=2)
    store.close()
