"""The stubs that all compiled modules of a process share: see `transitions.py`, which emits them.

They depend on no module and no collector, so they are compiled once, at the first use, and linked to by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llvmlite import ir

from lowheap.jit import cache, transitions
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir

_loaded: list[LoadedCode] = []  # at most one, which stays as long as the process


def addresses(cache_directory: Path | None = None) -> Mapping[str, int]:
    """Return the address of each stub by its symbol; compiled at first, or taken from the cache that is named then."""
    if not _loaded:
        _loaded.append(LoadedCode(cache.compiled(cache_directory, {"stubs": True}, _compile)))
    return {name: _loaded[0].address(name) for name in transitions.SHARED}


def _compile() -> CompiledCode:
    module = ir.Module("lowheap.stubs")
    transitions.define_shared(module)
    return compile_ir(module, transitions.SHARED)
