"""A release of the `wasmtime` package as a contender: the one that Python finds. The job also has `tidy`.

With `tidy` garbage is collected before each repetition, and the time of that is not counted: for the releases that do
not collect by themselves before the heap has 4 GiB, whose repetitions would otherwise fill those.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workers import protocol

wasmtime: Any = importlib.import_module("wasmtime")


def new_engine() -> Any:
    """An engine with all that the programs use; the releases up to 45 have no property for GC, but the C function."""
    config = wasmtime.Config()
    if hasattr(type(config), "wasm_gc"):
        config.wasm_function_references = True
        config.wasm_gc = True
        config.wasm_exceptions = True
        config.wasm_tail_call = True
    else:
        ffi = importlib.import_module("wasmtime._ffi")
        ffi.wasmtime_config_wasm_function_references_set(config.ptr(), True)
        ffi.wasmtime_config_wasm_gc_set(config.ptr(), True)
    return wasmtime.Engine(config)


class WasmtimeProgram:
    """A module on a store."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Compile and instantiate."""
        engine = new_engine()
        self._tidy = job["tidy"]
        self._store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, Path(job["binary"]).read_bytes())
        i32 = wasmtime.ValType.i32
        linker = wasmtime.Linker(engine)
        linker.define_func("host", "next", wasmtime.FuncType([i32()], [i32()]), protocol.host_next)
        # Programs in other languages print when they start, which nobody reads.
        self._store.set_wasi(wasmtime.WasiConfig())
        linker.define_wasi()
        linker.define_func("spectest", "print_char", wasmtime.FuncType([i32()], []), lambda code: None)
        self._exports = linker.instantiate(self._store, module).exports(self._store)
        self.version = importlib.metadata.version("wasmtime")

    def settle(self, repeat: Callable[[], object]) -> bool:
        """Nothing: all code was compiled before."""
        return False

    def renew(self) -> bool:
        """Collect, if that is wanted."""
        if self._tidy:
            self.collect()
        return False

    def call(self, export: str, arguments: Sequence[int]) -> object:
        """Call an exported function."""
        return self._exports[export](self._store, *arguments)

    def function(self, export: str) -> Callable[..., object]:
        """Return what calls an exported function."""
        return functools.partial(self._exports[export], self._store)

    def collect(self) -> None:
        """Collect garbage."""
        if hasattr(self._store, "gc"):
            self._store.gc()
            return
        ffi = importlib.import_module("wasmtime._ffi")
        error = ffi.wasmtime_context_gc(self._store._context())
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)

    def heap_facts(self) -> dict[str, int]:
        """Nothing is known."""
        return {}


if __name__ == "__main__":
    protocol.serve(WasmtimeProgram)
