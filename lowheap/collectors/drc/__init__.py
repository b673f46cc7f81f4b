"""Deferred reference counting, as wasmtime 37 to 43 has it: counts, the list, trace, sweep."""
