"""What keeps compiling cheap changes nothing else: Python's garbage collector, large modules."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator

import pytest

import lowheap as lh
from lowheap.jit import engine
from lowheap.wasm.compile import INITIALISE


@pytest.fixture
def collector_on() -> Iterator[None]:
    """Python's garbage collector runs, whatever else does."""
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    if not was_enabled:
        gc.disable()


def calls_within(module: lh.Module, function: str) -> list[str]:
    """The module's own functions that one of them calls in the code that LLVM emits."""
    body = re.search(
        rf"^define [^\n]*@{re.escape(function)}\(.*?^}}", module.compiled.llvm_ir, re.MULTILINE | re.DOTALL
    )
    assert body is not None
    return re.findall(r"call [^\n]*@(wasm\.[\w.]+)\(", body[0])


def test_pythons_collector_waits_while_a_module_is_compiled(collector_on: None) -> None:
    seen: list[bool] = []
    lh.Module(lh.Engine(), "(module (func) (func))", progress=lambda done, total: seen.append(gc.isenabled()))
    assert seen == [False] * 3
    assert gc.isenabled()


def test_pythons_collector_goes_on_after_an_error(collector_on: None) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        lh.Module(lh.Engine(), "(module (func))", progress=fail)
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off(collector_on: None) -> None:
    gc.disable()
    with engine.without_gc():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_large_module_inlines_small_functions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = " ".join(f"(i32.mul (i32.const {3 + 2 * i})) (i32.xor (i32.const {77 * i + 5}))" for i in range(15))
    source = f"""
      (module
        (func $small (param i32) (result i32) (i32.mul (local.get 0) (local.get 0)))
        (func $medium (param i32) (result i32) local.get 0 {steps})
        (func (export "f") (param i32) (result i32)
          (i32.add (call $small (local.get 0)) (i32.add (call $medium (local.get 0)) (call $medium (i32.const 7)))))
        (func (export "g") (param i32) (result i32) (call $medium (local.get 0))))
    """
    usual = lh.Module(lh.Engine(), source)
    assert calls_within(usual, "wasm.2") == []
    monkeypatch.setattr(engine, "LARGE_MODULE", 20)
    large = lh.Module(lh.Engine(), source)
    assert set(calls_within(large, "wasm.2")) == {"wasm.1.medium"}
    results = []
    for module in (usual, large):
        exports = lh.Instance(lh.Store(module.engine), module).exports
        results.append([exports["f"](number) for number in (0, 3, -5)])
    assert results[0] == results[1]


def test_a_module_without_an_initialiser_has_no_trampoline_for_it() -> None:
    symbols = lh.Module(lh.Engine(), '(module (func (export "f") (param i32)))').compiled.symbols
    assert [symbol for symbol in symbols if symbol.startswith("lowheap.enter")] == ["lowheap.enter.i."]
    symbols = lh.Module(lh.Engine(), '(module (func $s) (start $s) (func (export "f") (param i32)))').compiled.symbols
    assert {"lowheap.enter..", "lowheap.enter.i.", INITIALISE} <= set(symbols)


@pytest.mark.parametrize("source", ["(module)", "(module (func))"])
def test_a_module_that_nothing_enters_links(source: str) -> None:
    """Without any code, JITLink would not link it."""
    lh.Instance(store := lh.Store(lh.Engine()), lh.Module(store.engine, source))
