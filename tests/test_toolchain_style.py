"""Modules like those that compilers of Kotlin and MoonBit make, small and always here: the same as on wasmtime and V8.

They are in `tests/programs`: tables of virtual functions and of interfaces' functions, classes in globals, passive data
in arrays, strings that grow, chains of casts, boxes, closures, exceptions through frames that have something to do.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest
import wasmtime
from support.combinations import pairwise
from support.toolchain_runs import unless_absent

import lowheap as lh
from benchmarks.workers.run_wasmtime import new_engine
from fuzz.sides import WAYS
from toolchains import node
from toolchains.errors import ToolchainError

_PROGRAMS = Path(__file__).parent / "programs"
_ON_V8 = Path(__file__).parent / "support" / "on_v8.mjs"

MODULES = ("kotlin_style", "moonbit_style")
SIZES = (0, 1, 2, 5, 40)
KINDS = list(dict.fromkeys((way.collector, way.barriers) for way in WAYS))

Calls = list[tuple[str, int]]


@cache
def binary(name: str) -> bytes:
    return bytes(wasmtime.wat2wasm((_PROGRAMS / f"{name}.wat").read_text("utf-8")))


@cache
def on_wasmtime(name: str) -> dict[tuple[str, int], int]:
    """What each function of a module returns for each size."""
    engine = new_engine()
    store = wasmtime.Store(engine)
    module = wasmtime.Module(engine, binary(name))
    exports = wasmtime.Instance(store, module, []).exports(store)
    functions = [each.name for each in module.exports if isinstance(each.type, wasmtime.FuncType)]
    return {(each, size): exports[each](store, size) for each in functions for size in SIZES}


@pytest.mark.parametrize("name", MODULES)
def test_v8_does_as_wasmtime(name: str, tmp_path: Path) -> None:
    try:
        found = node.provide()
    except ToolchainError as error:
        unless_absent(error, "V8")
        raise
    expected = on_wasmtime(name)
    path = tmp_path / "module.wasm"
    path.write_bytes(binary(name))
    command = [str(found), str(_ON_V8), str(path), json.dumps([(each, [size]) for each, size in expected])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == list(expected.values())


@pytest.mark.parametrize(
    ("name", "kind", "runtime", "inline", "collect_every"),
    pairwise(MODULES, KINDS, ("native", "python"), ("auto", "always", "never"), (0, 1, 5)),
)
def test_lowheap_does_as_wasmtime(
    name: str, kind: tuple[str | None, str | None], runtime: str, inline: str, collect_every: int
) -> None:
    collector, barriers = kind
    engine = lh.Engine(collector=collector, barriers=barriers, runtime=runtime, inline=inline)
    module = lh.Module(engine, binary(name))
    with lh.Store(engine, collect_every=collect_every) as store:
        exports = lh.Instance(store, module).exports
        for (function, size), expected in on_wasmtime(name).items():
            assert exports[function](size) == expected, f"{function}({size})"
            store.verify()
        store.collect()
        store.verify()
        collector_counts = engine.collector.counts
        assert not collector_counts or store.stats().live_objects < 400


def test_every_function_does_something() -> None:
    """Each size has its own result, so that what is left out shows."""
    for name in MODULES:
        results = on_wasmtime(name)
        for function in {each for each, _ in results}:
            assert len({results[function, size] for size in SIZES[2:]}) == len(SIZES[2:]), function
