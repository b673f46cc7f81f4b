"""Hosts by name: those that lowheap has, and one's own.

A host is a callable, `host(linker, store)`: it defines for the linker what programs import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lowheap.by_name import is_a_place, load
from lowheap.errors import LowheapError
from lowheap.store import Store
from lowheap.wasm.linker import Linker

Host = Callable[[Linker, Store], object]


def wasi(linker: Linker, store: Store) -> None:
    """Define WASI preview 1. The store says what programs get of it; one that says nothing gives them this process's
    standard streams."""
    linker.define_wasi()
    if store.wasi is None:
        from lowheap.hosts.wasi.config import WasiConfig  # here, because most programs import other things

        config = WasiConfig()
        config.inherit_stdin()
        config.inherit_stdout()
        config.inherit_stderr()
        store.set_wasi(config)


BUILT_IN: dict[str, Host] = {"wasi": wasi}


def find(name: str) -> Host:
    """Return a host: a built-in's name, `module:name` or `file.py:name`. LowheapError when there is none such."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if not is_a_place(name):
        raise LowheapError(f"there is no host {name!r}; there are {', '.join(BUILT_IN)}, and any `file.py:name`")
    found: Any = load(name, "host", LowheapError)
    if not callable(found):
        raise LowheapError(f"the host {name!r} is {found!r}; it must be callable, with a linker and a store")
    host: Host = found
    return host
