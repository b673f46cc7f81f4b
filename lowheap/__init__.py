"""lowheap: wasmtime's deferred reference-counting heap for WebAssembly GC, in Python, with LLVM-compiled barriers."""

from lowheap.engine import Engine
from lowheap.errors import (
    AllocationTooLargeError,
    CompilerError,
    ForeignReferenceError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    InvalidReferenceError,
    LinkError,
    LowheapError,
    MalformedModuleError,
    ModuleError,
    NoGcScopeError,
    StaleReferenceError,
    Trap,
    TrapCode,
    TypeDefinitionError,
    UnsupportedError,
)
from lowheap.heap import DrcHeap
from lowheap.interpreter import check_interpreter
from lowheap.objects import I31, Array, ExternRef, Func, Struct
from lowheap.store import Store
from lowheap.types import (
    ArrayType,
    FieldType,
    FuncType,
    RefType,
    StructType,
    SubType,
)
from lowheap.wasm.instance import Global, Instance
from lowheap.wasm.module import Module

__all__ = [
    "I31",
    "AllocationTooLargeError",
    "Array",
    "ArrayType",
    "CompilerError",
    "DrcHeap",
    "Engine",
    "ExternRef",
    "FieldType",
    "ForeignReferenceError",
    "Func",
    "FuncType",
    "Global",
    "HeapCorruptionError",
    "HeapError",
    "HeapExhaustedError",
    "Instance",
    "InvalidReferenceError",
    "LinkError",
    "LowheapError",
    "MalformedModuleError",
    "Module",
    "ModuleError",
    "NoGcScopeError",
    "RefType",
    "StaleReferenceError",
    "Store",
    "Struct",
    "StructType",
    "SubType",
    "Trap",
    "TrapCode",
    "TypeDefinitionError",
    "UnsupportedError",
]

check_interpreter()
