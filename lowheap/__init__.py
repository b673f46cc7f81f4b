"""lowheap: wasmtime's deferred reference-counting heap for WebAssembly GC, in Python, with LLVM-compiled barriers.

Names are looked up when they are first used: importing the package loads nothing else of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lowheap.interpreter import check_interpreter
from lowheap.later import place

if TYPE_CHECKING:
    from lowheap.config import Config as Config
    from lowheap.engine import Engine as Engine
    from lowheap.errors import AllocationTooLargeError as AllocationTooLargeError
    from lowheap.errors import CompilerError as CompilerError
    from lowheap.errors import ExitTrap as ExitTrap
    from lowheap.errors import ForeignReferenceError as ForeignReferenceError
    from lowheap.errors import Frame as Frame
    from lowheap.errors import HeapCorruptionError as HeapCorruptionError
    from lowheap.errors import HeapError as HeapError
    from lowheap.errors import HeapExhaustedError as HeapExhaustedError
    from lowheap.errors import InvalidReferenceError as InvalidReferenceError
    from lowheap.errors import LinkError as LinkError
    from lowheap.errors import LowheapError as LowheapError
    from lowheap.errors import MalformedModuleError as MalformedModuleError
    from lowheap.errors import ModuleError as ModuleError
    from lowheap.errors import NoGcScopeError as NoGcScopeError
    from lowheap.errors import StaleReferenceError as StaleReferenceError
    from lowheap.errors import Trap as Trap
    from lowheap.errors import TrapCode as TrapCode
    from lowheap.errors import TypeDefinitionError as TypeDefinitionError
    from lowheap.errors import UnsupportedError as UnsupportedError
    from lowheap.heap import DrcHeap as DrcHeap
    from lowheap.hosts.wasi.config import WasiConfig as WasiConfig
    from lowheap.objects import Array as Array
    from lowheap.objects import ExnRef as ExnRef
    from lowheap.objects import ExternRef as ExternRef
    from lowheap.objects import Func as Func
    from lowheap.objects import Struct as Struct
    from lowheap.runtime.exceptions import Tag as Tag
    from lowheap.runtime.exceptions import WasmException as WasmException
    from lowheap.runtime.host_functions import Caller as Caller
    from lowheap.store import Store as Store
    from lowheap.types import ArrayType as ArrayType
    from lowheap.types import ExportType as ExportType
    from lowheap.types import FieldType as FieldType
    from lowheap.types import FuncType as FuncType
    from lowheap.types import GlobalType as GlobalType
    from lowheap.types import ImportType as ImportType
    from lowheap.types import Limits as Limits
    from lowheap.types import MemoryType as MemoryType
    from lowheap.types import RefType as RefType
    from lowheap.types import StructType as StructType
    from lowheap.types import SubType as SubType
    from lowheap.types import TableType as TableType
    from lowheap.types import TagType as TagType
    from lowheap.types import ValueTypes as ValType  # noqa: F401  # exported, by another name than its own
    from lowheap.values import I31 as I31
    from lowheap.wasm.globals import Global as Global
    from lowheap.wasm.instance import Instance as Instance
    from lowheap.wasm.linker import InstancePre as InstancePre
    from lowheap.wasm.linker import Linker as Linker
    from lowheap.wasm.memories import Memory as Memory
    from lowheap.wasm.module import Module as Module
    from lowheap.wasm.tables import Table as Table
    from lowheap.wasm.validate import wat2wasm as wat2wasm

_NAMES = {
    "config": ("Config",),
    "engine": ("Engine",),
    "errors": (
        "AllocationTooLargeError",
        "CompilerError",
        "ExitTrap",
        "ForeignReferenceError",
        "Frame",
        "HeapCorruptionError",
        "HeapError",
        "HeapExhaustedError",
        "InvalidReferenceError",
        "LinkError",
        "LowheapError",
        "MalformedModuleError",
        "ModuleError",
        "NoGcScopeError",
        "StaleReferenceError",
        "Trap",
        "TrapCode",
        "TypeDefinitionError",
        "UnsupportedError",
    ),
    "heap": ("DrcHeap",),
    "hosts.wasi.config": ("WasiConfig",),
    "objects": ("Array", "ExnRef", "ExternRef", "Func", "Struct"),
    "runtime.exceptions": ("Tag", "WasmException"),
    "runtime.host_functions": ("Caller",),
    "store": ("Store",),
    "types": (
        "ArrayType",
        "ExportType",
        "FieldType",
        "FuncType",
        "GlobalType",
        "ImportType",
        "Limits",
        "MemoryType",
        "RefType",
        "StructType",
        "SubType",
        "TableType",
        "TagType",
    ),
    "values": ("I31",),
    "wasm.globals": ("Global",),
    "wasm.instance": ("Instance",),
    "wasm.linker": ("InstancePre", "Linker"),
    "wasm.memories": ("Memory",),
    "wasm.module": ("Module",),
    "wasm.tables": ("Table",),
    "wasm.validate": ("wat2wasm",),
}
"""The public names, by the modules that they come from."""

_PLACES = {name: (module, name) for module, names in _NAMES.items() for name in names}
_PLACES["ValType"] = ("types", "ValueTypes")

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    """Return a public name, or a module of the package, and remember it."""
    if name in _PLACES:
        module, its_name = _PLACES[name]
        found: Any = getattr(importlib.import_module(f"lowheap.{module}"), its_name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'lowheap' has no attribute {name!r}", name=name)
    else:
        whole = f"lowheap.{name}"
        try:
            found = importlib.import_module(whole)
        except ModuleNotFoundError as error:
            if error.name != whole:
                raise
            raise AttributeError(f"module 'lowheap' has no attribute {name!r}", name=name) from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Name what is public, whether it was used yet or not."""
    return sorted({*globals(), *__all__})


check_interpreter()
place("lowheap.bound_types", "bind", "bound_type_for", "new_externref")
place("lowheap.runtime.store_runtime", "runtime_of")
place("lowheap.runtime.exceptions", "raised", "tag_of")
place("lowheap.runtime.host_functions", "make_host_function")
place("lowheap.hosts.wasi.linking", "define_wasi", "wasi_context")
