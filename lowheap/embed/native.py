"""The whole C interface as one LLVM module, and what loads it for the heaps of Python's stores.

`emit` is all that the ahead-of-time library consists of (`library.py`). `load` compiles the same for this process;
`attach` calls it on a store's heap.
"""

from __future__ import annotations

import platform

from llvmlite import ir

from lowheap.collectors.interface import Collector
from lowheap.embed.api import FUNCTIONS
from lowheap.embed.emitter import heap_functions
from lowheap.embed.lifecycle import LifecycleEmitter
from lowheap.embed.system import IMPORTED_SYMBOLS, SYSTEMS
from lowheap.errors import UnsupportedError
from lowheap.jit.engine import LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.stackmaps import architecture_of


class _Interface(LifecycleEmitter):
    """All functions, for the fast library."""


class _CheckedInterface(_Interface):
    """All functions, for the checked library."""

    is_checked = True


def emit(
    module: ir.Module, *, collector: Collector, checked: bool, system: str, machine: str, attached: bool = False
) -> None:
    """Give a module all functions of the interface, for heaps of a collector's.

    `system` is "linux" or "darwin", `machine` the processor, as `platform.machine()` names it: where lowheap cannot
    compile WebAssembly, there are no frames of it to look at. `attached`: for the heaps of stores, which can be closed.
    """
    if system not in SYSTEMS:
        raise UnsupportedError(f"the C interface is not for the system {system!r}; it is for {', '.join(SYSTEMS)}")
    architecture = architecture_of(system.capitalize(), machine)
    members = {"system": system, "architecture": architecture, "collector": collector, "is_attached": attached}
    kind: type[_Interface] = type("Interface", (_CheckedInterface if checked else _Interface,), members)
    kind.define_helpers(module)
    kind.define_lifecycle(module)
    for function in heap_functions():
        kind.define_function(module, function)


_loaded: dict[tuple[Collector, bool], LoadedCode] = {}


def load(collector: Collector, *, checked: bool) -> LoadedCode:
    """Compile the interface for this process, once for each collector."""
    key = collector, checked
    if key not in _loaded:
        module = ir.Module("lowheap.embed.checked" if checked else "lowheap.embed")
        system, machine = platform.system().lower(), platform.machine()
        emit(module, collector=collector, checked=checked, system=system, machine=machine, attached=True)
        _loaded[key] = LoadedCode(compile_ir(module, tuple(FUNCTIONS)), imports=IMPORTED_SYMBOLS)
    return _loaded[key]
