"""WASI for stores and linkers: what `Store.set_wasi` and `Linker.define_wasi` do."""

from __future__ import annotations

from typing import Any

# Each of these adds its functions to `FUNCTIONS`.
from lowheap.hosts.wasi import MODULE, clocks, files, paths, polling, process  # noqa: F401
from lowheap.hosts.wasi.config import WasiConfig
from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.functions import FUNCTIONS


def wasi_context(config: Any) -> Context:
    """Return what a config makes. TypeError for what is none."""
    if not isinstance(config, WasiConfig):
        raise TypeError(f"config is {config!r}; it must be a WasiConfig")
    return config.make_context()


def define_wasi(linker: Any) -> None:
    """Name all functions of WASI's for a linker; none of them, where one name is taken."""
    linker.define_funcs(MODULE, {each.name: (each.type, each.callable) for each in FUNCTIONS.values()})
