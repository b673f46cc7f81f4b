"""lowheap as a contender. The job also has `barriers` and `runtime`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lowheap as lh
from benchmarks.workers import protocol


class LowheapProgram:
    """A module on a store, which is a new one for each repetition where the barriers do not count: nothing is freed."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Compile and instantiate."""
        engine = lh.Engine(barriers=job["barriers"], runtime=job["runtime"])
        self._module = lh.Module(engine, Path(job["binary"]).read_bytes())
        self._frees = self._module.barriers.counts
        self._store, self._exports = self._instantiate()
        self._allocated = 0
        try:
            self.version = version("lowheap")
        except PackageNotFoundError:  # run from a checkout
            self.version = ""

    def _instantiate(self) -> tuple[lh.Store, Any]:
        store = lh.Store(self._module.engine)
        imports = {"host": {"next": protocol.host_next}} if self._module.imports else None
        return store, lh.Instance(store, self._module, imports).exports

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
