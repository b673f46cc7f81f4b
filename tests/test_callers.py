"""Host functions that Python code makes itself, and what those that ask are told of who calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import lowheap as lh
from lowheap.types import ANYREF, FUNCREF, I32

UNARY = lh.FuncType([I32], [I32])

SOURCE = """(module
  (type $unary (func (param i32) (result i32)))
  (import "host" "f" (func $f (type $unary)))
  (global (export "name") (mut i32) (i32.const 0))
  (elem declare func $f)
  (func (export "imported") (param i32) (result i32) (call $f (local.get 0)))
  (func (export "reference") (result (ref $unary)) (ref.func $f))
  (func (export "referred") (param (ref $unary) i32) (result i32) (call_ref $unary (local.get 1) (local.get 0))))"""


@pytest.fixture(scope="module")
def engine() -> lh.Engine:
    return lh.Engine()


@pytest.fixture(scope="module")
def module(engine: lh.Engine) -> lh.Module:
    return lh.Module(engine, SOURCE)


@pytest.fixture
def store(engine: lh.Engine) -> Iterator[lh.Store]:
    with lh.Store(engine) as store:
        yield store


def named(store: lh.Store, module: lh.Module, function: Any, name: int) -> Any:
    """The exports of an instance that imports `function`, with a global that tells it from others."""
    exports = lh.Instance(store, module, {"host": {"f": function}}).exports
    exports.name.value = name
    return exports


def whoever(caller: lh.Caller, value: int) -> int:
    found = caller.get("name")
    return -1 if found is None else int(found.value) + value


def test_a_function_of_ones_own_is_called_from_everywhere(store: lh.Store, module: lh.Module) -> None:
    double = lh.Func(store, UNARY, lambda value: 2 * value)
    assert double(4) == 8
    assert double.type == UNARY
    exports = named(store, module, double, 0)
    assert exports.imported(5) == 10
    assert exports.referred(double, 6) == 12
    assert exports.reference() == double


def test_references_pass_through_a_function_of_ones_own(store: lh.Store) -> None:
    text = """(module (import "host" "f" (func $f (param anyref funcref) (result funcref anyref)))
      (func (export "run") (param anyref funcref) (result funcref anyref) (call $f (local.get 0) (local.get 1))))"""
    swap = lh.Func(store, lh.FuncType([ANYREF, FUNCREF], [FUNCREF, ANYREF]), lambda left, right: (right, left))
    run = lh.Instance(store, lh.Module(store.engine, text), {"host": {"f": swap}}).exports.run
    assert run(lh.I31(3), swap) == (swap, lh.I31(3))
    store.verify()


def test_the_caller_is_the_instance_that_imports(store: lh.Store, module: lh.Module) -> None:
    function = lh.Func(store, UNARY, whoever, access_caller=True)
    first, second = named(store, module, function, 100), named(store, module, function, 200)
    assert [each.imported(1) for each in (first, second, first)] == [101, 201, 101]


def test_an_export_of_an_import_has_the_caller_that_calls_it(store: lh.Store, module: lh.Module) -> None:
    function = lh.Func(store, UNARY, whoever, access_caller=True)
    first = named(store, module, function, 100)
    second = named(store, module, first.reference(), 200)
    assert second.imported(1) == 201


def test_the_caller_through_a_reference_is_known_where_one_instance_has_its_code(
    store: lh.Store, module: lh.Module
) -> None:
    function = lh.Func(store, UNARY, whoever, access_caller=True)
    first = named(store, module, abs, 100)
    assert first.referred(function, 1) == 101
    other = named(store, lh.Module(store.engine, SOURCE), abs, 300)
    assert (first.referred(function, 1), other.referred(function, 1)) == (101, 301)
    named(store, module, abs, 200)
    assert first.referred(function, 1) == -1


def test_the_host_is_no_instance(store: lh.Store, module: lh.Module) -> None:
    function = lh.Func(store, UNARY, whoever, access_caller=True)
    assert function(1) == -1

    def through_the_host(caller: lh.Caller, value: int) -> int:
        return value if "imported" in caller else function(value)

    outer = lh.Func(store, UNARY, through_the_host, access_caller=True)
    assert named(store, module, outer, 100).imported(7) == 7
    assert named(store, module, lambda value: function(value), 100).imported(7) == -1


def test_a_caller_is_of_use_until_the_function_returns(store: lh.Store, module: lh.Module) -> None:
    kept: list[lh.Caller] = []

    def keep(caller: lh.Caller, value: int) -> int:
        kept.append(caller)
        assert caller.store is store
        assert caller["imported"].name == "imported"
        with pytest.raises(KeyError, match="there is no export 'other'"):
            caller["other"]
        if value == 0:
            raise LookupError("as it were")
        return value

    exports = named(store, module, lh.Func(store, UNARY, keep, access_caller=True), 0)
    exports.imported(1)
    with pytest.raises(LookupError):
        exports.imported(0)
    for caller in kept:
        assert caller.get("imported") is None
        assert "imported" not in caller
        with pytest.raises(KeyError, match="the call is over"):
            caller["imported"]
        with pytest.raises(ValueError, match="no longer valid"):
            _ = caller.store


def test_a_start_function_is_a_caller(store: lh.Store) -> None:
    text = """(module (import "host" "f" (func $f)) (global (export "name") i32 (i32.const 7))
      (func $start (call $f)) (start $start))"""
    seen: list[int] = []
    linker = lh.Linker(store.engine)
    linker.define_func(
        "host", "f", lh.FuncType((), ()), lambda caller: seen.append(caller["name"].value), access_caller=True
    )
    linker.instantiate(store, lh.Module(store.engine, text))
    assert seen == [7]


def test_wrong_arguments_are_refused(store: lh.Store) -> None:
    with pytest.raises(TypeError, match="it must be a Store"):
        lh.Func(None, UNARY, abs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be a FuncType"):
        lh.Func(store, [I32], abs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be callable"):
        lh.Func(store, UNARY, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be a bool"):
        lh.Func(store, UNARY, abs, access_caller=1)  # type: ignore[arg-type]
