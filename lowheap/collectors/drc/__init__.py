"""Deferred reference counting, as wasmtime 37 to 43 has it: counts, the list, trace, sweep."""

from lowheap.collectors.drc.collector import Drc, Outlined

__all__ = ["Drc", "Outlined"]
