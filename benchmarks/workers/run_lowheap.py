"""lowheap as a contender. The job also has `barriers` and `runtime`.

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
from lowheap.hosts.wasi.config import WasiConfig


class LowheapProgram:
    """A module on a store, which is a new one for each repetition where the barriers do not count: nothing is freed."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Compile and instantiate."""
        # Compiled at once, so that what is timed is not code that is about to be replaced.
        engine = lh.Engine(barriers=job["barriers"], runtime=job["runtime"], compilation="whole")
        self._module = lh.Module(engine, Path(job["binary"]).read_bytes())
        self._is_pointer = job.get("pointer", False)
        self._frees = engine.collector.counts
        self._store, self._exports = self._instantiate()
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

    def renew(self) -> bool:
        """Take a new store if the old one has only been filled."""
        if not self._frees:
            self._store.close()
            self._store, self._exports = self._instantiate()
            self._allocated = 0
        return not self._frees

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
        entry = self._store.runtime.entry(function)
        code = ffi.cast(f"{types[result]}(*)(void *, {params})", entry.code)
        return functools.partial(code, ffi.cast("void *", entry.vmctx))

    def collect(self) -> None:
        """Collect garbage."""
        self._store.collect()

    def heap_facts(self) -> dict[str, int]:
        """The heap's capacity, and what this repetition allocated."""
        stats = self._store.heap.stats()
        allocated, self._allocated = stats.bytes_allocated - self._allocated, stats.bytes_allocated
        facts = {"heap": stats.capacity, "allocated": allocated, "objects_freed": stats.objects_freed}
        return {**facts, "collections": stats.collections}


if __name__ == "__main__":
    protocol.serve(LowheapProgram)
