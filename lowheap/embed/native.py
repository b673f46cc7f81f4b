"""The whole C interface as LLVM modules, and what loads it for the heaps of Python's stores.

`emit` is all that the ahead-of-time library consists of (`library.py`). `load` compiles the same for this process;
`attach` calls it on a store's heap.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

from llvmlite import ir

from lowheap.collectors.interface import Collector
from lowheap.embed.api import FUNCTIONS, abi_hash, collector_number
from lowheap.embed.emitter import heap_functions
from lowheap.embed.lifecycle import LifecycleEmitter, define_choice, define_library
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
    collectors: Sequence[Collector], *, checked: bool, system: str, machine: str, attached: bool = False
) -> list[ir.Module]:
    """Return modules that together have all functions of the interface, for heaps of these collectors.

    The functions of the interface are in the first one. Of one collector's heaps, that is all; of several, there is a
    module for each besides, which is optimised by itself, so that it is the same code as if there were no other. What
    its functions are called is the first one's affair, and nobody else's.

    `system` is "linux" or "darwin", `machine` the processor, as `platform.machine()` names it: where lowheap cannot
    compile WebAssembly, there are no frames of it to look at. `attached`: for the heaps of stores, which can be closed.
    """
    if system not in SYSTEMS:
        raise UnsupportedError(f"the C interface is not for the system {system!r}; it is for {', '.join(SYSTEMS)}")
    members = {
        "system": system,
        "architecture": architecture_of(system.capitalize(), machine),
        "is_attached": attached,
    }
    base = _CheckedInterface if checked else _Interface
    is_alone = len(collectors) == 1
    kinds: list[type[_Interface]] = [
        type("Interface", (base,), {**members, "collector": each, "suffix": "" if is_alone else f".{number}"})
        for number, each in enumerate(collectors)
    ]
    names = [kind.collector_name() for kind in kinds]
    assert len({*map(collector_number, names)}) == len(names), "numbers of 32 bits tell few names apart"
    abi = abi_hash() if attached else abi_hash(*names)
    modules = []
    for kind in kinds:
        module = ir.Module(f"lowheap.embed{'.checked' if checked else ''}{kind.suffix}")
        kind.define_helpers(module)
        kind.define_lifecycle(module, abi, is_local=is_alone)
        for function in heap_functions():
            kind.define_function(module, function)
        modules.append(module)
    if not is_alone:
        front = ir.Module("lowheap.embed.choice")
        for function in heap_functions():
            define_choice(front, function, kinds)
        modules.insert(0, front)
    define_library(modules[0], kinds, abi)
    return modules


_loaded: dict[tuple[Collector, bool], LoadedCode] = {}


def load(collector: Collector, *, checked: bool) -> LoadedCode:
    """Compile the interface for this process, once for each collector."""
    key = collector, checked
    if key not in _loaded:
        system, machine = platform.system().lower(), platform.machine()
        (module,) = emit([collector], checked=checked, system=system, machine=machine, attached=True)
        _loaded[key] = LoadedCode(compile_ir(module, tuple(FUNCTIONS)), imports=IMPORTED_SYMBOLS)
    return _loaded[key]
