"""lowheap as a contender. The job also has `collector` and `runtime`, and `budget` if the collector is given one.

With `pointer`, a function is called through a bare function pointer, with its vmctx: of numbers only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import cffi

import lowheap as lh
from benchmarks.workers import protocol
from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.collectors.null.collector import Null
from lowheap.hosts.wasi.config import WasiConfig

_PEAK = "peak_committed"
"""The counter of a collector that gives memory back: the most that it had. Others' heaps only grow."""

_CALM = 3
"""Code is settled when so many repetitions have had nothing more optimised."""


class NoBudgetError(Exception):
    """The collector has no parameter for how long its pauses may be."""


def _collector(job: dict[str, Any]) -> Collector | str:
    """The collector of a job: by its name, or one whose pauses are to keep to a budget, in microseconds."""
    name: str = job["collector"]
    budget = job.get("budget")
    if budget is None:
        return name
    kind: Any = type(registry.find(name))
    try:
        made: Collector = kind(pause_microseconds=budget)
    except TypeError as error:
        raise NoBudgetError(f"the collector {name} takes no budget for its pauses: {error}") from error
    return made


class LowheapProgram:
    """A module on a store, which is a new one for each repetition where the collector frees nothing."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Compile and instantiate."""
        engine = lh.Engine(collector=_collector(job), runtime=job["runtime"])
        self._module = lh.Module(engine, Path(job["binary"]).read_bytes())
        self._is_pointer = job.get("pointer", False)
        self._frees = not isinstance(engine.collector, Null)
        self.store, self._exports = self._instantiate()
        self._allocated = 0
        try:
            self.version = version("lowheap")
        except PackageNotFoundError:  # run from a checkout
            self.version = ""

    def _instantiate(self) -> tuple[lh.Store, Any]:
        store = lh.Store(self._module.engine)
        linker = lh.Linker(self._module.engine)
        i32 = lh.types.I32
        linker.define_func("host", "next", lh.FuncType((i32,), (i32,)), protocol.host_next)
        # Programs in other languages print when they start, which nobody reads.
        store.set_wasi(WasiConfig())
        linker.define_wasi()
        linker.define_func("spectest", "print_char", lh.FuncType((i32,), ()), lambda code: None)
        return store, linker.instantiate(store, self._module).exports

    def settle(self, repeat: Callable[[], object]) -> bool:
        """Repeat the program until no code of it is about to be replaced by better code; then take a new store."""
        if not self._module.is_compiled_by_need:
            return False
        calm = 0
        while calm < _CALM:
            before = self._module.compiled_by_need()
            repeat()
            after = self._module.compiled_by_need()
            assert before is not None, "the module is compiled by need"
            assert after is not None, "the module is compiled by need"
            calm = calm + 1 if after.optimised == before.optimised and not after.awaited else 0
        self.start_anew()
        return True

    def renew(self) -> bool:
        """Take a new store if the old one has only been filled."""
        if not self._frees:
            self.start_anew()
        return not self._frees

    def start_anew(self) -> None:
        """Take a new store."""
        self.store.close()
        self.store, self._exports = self._instantiate()
        self._allocated = 0

    def call(self, export: str, arguments: Sequence[int]) -> object:
        """Call an exported function."""
        return self._exports[export](*arguments)

    def function(self, export: str) -> Callable[..., object]:
        """Return an exported function, or what calls its code and nothing more."""
        function = self._exports[export]
        if not self._is_pointer:
            return cast(Callable[..., object], function)
        ffi, types = cffi.FFI(), {lh.types.I32: "int32_t", lh.types.I64: "int64_t", lh.types.F64: "double"}
        params = ", ".join(types[each] for each in function.type.params)
        (result,) = function.type.results
        entry = self.store.runtime.entry(function)
        code = ffi.cast(f"{types[result]}(*)(void *, {params})", entry.code)
        return functools.partial(code, ffi.cast("void *", entry.vmctx))

    def collect(self) -> None:
        """Collect garbage."""
        self.store.collect()

    def heap_facts(self) -> dict[str, int]:
        """The heap's peak, that of what was live and waited to be freed, and what this repetition allocated."""
        stats = self.store.heap.stats()
        allocated, self._allocated = stats.bytes_allocated - self._allocated, stats.bytes_allocated
        return {
            "heap": stats.counters.get(_PEAK, stats.capacity),
            "peak_live": stats.peak_live_bytes,
            "allocated": allocated,
            "objects_freed": stats.objects_freed,
            "collections": stats.collections,
        }


if __name__ == "__main__":
    protocol.serve(LowheapProgram)
