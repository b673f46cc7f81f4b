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

_CALM = 3
"""Code is settled when so many repetitions have had nothing more optimised."""


class LowheapProgram:
    """A module on a store, which is a new one for each repetition where the barriers do not count: nothing is freed."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Compile and instantiate."""
        engine = lh.Engine(barriers=job["barriers"], runtime=job["runtime"])
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
        self._start_anew()
        return True

    def renew(self) -> bool:
        """Take a new store if the old one has only been filled."""
        if not self._frees:
            self._start_anew()
        return not self._frees

    def _start_anew(self) -> None:
        self._store.close()
        self._store, self._exports = self._instantiate()
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
