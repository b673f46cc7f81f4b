"""Every example program, under every barrier set and collection frequency, against its model and against wasmtime."""

from __future__ import annotations

import dataclasses
import functools
import platform
from typing import Any
from unittest import mock

import pytest
from support import wasmtime_peer
from support.combinations import examples, pairwise, sample
from support.example_programs import EXAMPLES, LAST_SMALL, Example
from support.example_runs import SHORT_LIVED_READS, SMALL_ROWS, host_callable, results

import lowheap as lh
from lowheap.collectors import registry
from lowheap.jit import stackmaps

RUNTIMES = ("native", "python")
BARRIERS = ("drc", "outlined", "null")
COLLECTORS = {type(registry.find(name)): name for name in BARRIERS}
EVERY = (0, 1, 7)


@functools.cache
def engine(runtime: str, barriers: str, inline: str = "auto") -> lh.Engine:
    return lh.Engine(runtime=runtime, barriers=barriers, inline=inline)


@functools.cache
def module(on: lh.Engine, source: str) -> lh.Module:
    return lh.Module(on, source)


def instantiate(example: Example, store: lh.Store) -> lh.Instance:
    instance: lh.Instance

    def export(name: str) -> Any:
        return instance.exports[name]

    imports: dict[tuple[str, str], Any] = {}
    if example.imports is not None:
        for name, function in example.imports(export).items():
            module_name, _, field = name.partition(".")
            imports[module_name, field] = host_callable(function.call)
    instance = lh.Instance(store, module(store.engine, example.source), imports)
    return instance


def run(example: Example, runtime: str, barriers: str, every: int, inline: str = "auto") -> None:
    with lh.Store(engine(runtime, barriers, inline), collect_every=every) as store:
        instance = instantiate(example, store)
        assert results(instance.exports[example.export](*example.args)) == example.expected
        store.verify()
        if barriers == "null":
            store.collect()
            assert store.heap.stats().objects_freed == 0, "the null barriers free nothing"
            return
        if example.reset is not None:
            instance.exports[example.reset]()
        store.collect()
        store.verify()
        assert store.heap.stats().live_objects == example.survivors
        assert store.heap.stats().listed == 0
        assert len(store.host_data) == 0


SMALL = [example for example in EXAMPLES if not example.large]


@pytest.mark.parametrize(
    ("example", "runtime", "barriers", "every"), pairwise(SMALL, RUNTIMES, BARRIERS, EVERY), ids=str
)
def test_the_program_gives_its_result_and_leaves_nothing_behind(
    example: Example, runtime: str, barriers: str, every: int
) -> None:
    run(example, runtime, barriers, every)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.compiler
def test_frames_that_do_not_tell_the_stack_pointer(runtime: str) -> None:
    """As on AArch64 Linux: this machine's, walked by that rule, with collections at every safepoint."""
    host = stackmaps.host_architecture()
    untold = dataclasses.replace(host, caller_stack_pointer_offset=None)
    known = {(platform.system(), platform.machine()): untold}
    architectures = mock.patch.dict("lowheap.jit.stackmaps._ARCHITECTURES", known)
    compiled_runtime = mock.patch.dict("lowheap.jit.runtime._loaded", clear=True)
    slots = []
    with architectures, compiled_runtime:
        engine.cache_clear()
        module.cache_clear()
        for example in LAST_SMALL[:: examples(2, 1)]:
            run(example, runtime, "drc", 1)
            functions = module(engine(runtime, "drc"), example.source).compiled.stack_map
            slots += [slots for function in functions for each in function.records for slots in each.slots]
    engine.cache_clear()
    module.cache_clear()
    assert slots
    assert {each.register for each in slots} == {host.frame_pointer_register}


@pytest.mark.parametrize(
    ("example", "runtime", "inline"),
    pairwise(SMALL_ROWS, [pytest.param("native", "auto"), pytest.param("python", "never")]),
    ids=str,
)
def test_what_is_held_for_short_needs_no_list(example: Example, runtime: str, inline: str) -> None:
    run(example, runtime, SHORT_LIVED_READS, 1, inline)


@pytest.mark.long
@pytest.mark.parametrize("barriers", ["drc"])
@pytest.mark.parametrize("example", sample([example for example in EXAMPLES if example.large], 4), ids=str)
def test_large_sizes_too(example: Example, barriers: str) -> None:
    run(example, "native", barriers, 0)


@pytest.mark.parametrize("example", [example for example in SMALL if example.name != "callbacks_refs"], ids=str)
def test_wasmtime_gives_the_same_result(example: Example) -> None:
    expected = wasmtime_peer.run(example.path, example.export, example.args, imports=example.imports)
    with lh.Store(engine("native", "drc")) as store:
        instance = instantiate(example, store)
        assert results(instance.exports[example.export](*example.args)) == expected


@pytest.mark.parametrize("example", [example for example in SMALL if example.imports is None], ids=str)
def test_a_row_can_be_repeated_on_one_instance(example: Example) -> None:
    with lh.Store(engine("native", "drc"), collect_every=3) as store:
        instance = instantiate(example, store)
        for _ in range(3):
            assert results(instance.exports[example.export](*example.args)) == example.expected
            store.verify()
