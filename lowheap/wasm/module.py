"""A compiled module: validated, decoded, its types registered, its code linked; ready to be instantiated."""

from __future__ import annotations

import bisect
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from lowheap.engine import Engine
from lowheap.jit import cache
from lowheap.jit.barriers import Barriers
from lowheap.jit.engine import CompiledCode, LoadedCode, without_gc
from lowheap.jit.engine import compile as compile_ir
from lowheap.types import FuncType, RefType, StructType, ValType
from lowheap.wasm import validate
from lowheap.wasm.compile import ModuleCompiler, vmctx_layout
from lowheap.wasm.decode import DecodedModule, FunctionImport, GlobalType, decode


@dataclass(frozen=True, slots=True)
class ImportType:
    """One import: its two names, and what must be given for it."""

    module: str
    name: str
    type: FuncType | GlobalType


@dataclass(frozen=True, slots=True)
class ExportType:
    """One export: its name, and what it is."""

    name: str
    type: FuncType | GlobalType


class Module:
    """A module for the stores of one engine. `source` is wat text, or the bytes of a binary.

    Raises MalformedModuleError when it is not valid, UnsupportedError when it uses what lowheap does not have, and
    CompilerError when LLVM refuses what was made of it. Nothing is compiled that wasmtime does not validate.

    `progress(done, total)` is called before the first function and after each, when code is compiled and not taken from
    a cache. LLVM's part comes after the last.
    """

    def __init__(
        self,
        engine: Engine,
        source: str | bytes | bytearray | memoryview,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compile the module."""
        if not isinstance(engine, Engine):
            raise TypeError(f"engine is {engine!r}; it must be an Engine")
        started = time.perf_counter()
        self.engine = engine
        self.barriers = Barriers(engine.collector)
        binary = validate.to_binary(source)
        validate.validate(binary)
        self._digest = hashlib.sha256(binary).hexdigest()
        with without_gc():
            self.decoded: DecodedModule = decode(binary)
            self.type_indices = self._register_types()
            compiler = self._compiler(inline_allocation=engine.runtime == "native")
            self.function_types = compiler.function_types
            self.global_types = compiler.global_types
            self.escaping_functions = compiler.escaping_functions
            self.vmctx_layout = vmctx_layout(self.decoded)
            self.compiled = self._compile(compiler, progress)
        self._loaded = {compiler.inline_allocation: LoadedCode(self.compiled)}
        self.compile_seconds = time.perf_counter() - started
        self._body_offsets = [body.offset for body in self.decoded.bodies]

    @property
    def name(self) -> str | None:
        """The module's name, where it has one."""
        return self.decoded.names.module

    @property
    def imports(self) -> list[ImportType]:
        """What an instance must be given, in order. Type indices in the types are the engine's."""
        functions, globals = iter(self.function_types), iter(self.global_types)
        return [
            ImportType(i.module, i.name, next(functions) if isinstance(i.desc, FunctionImport) else next(globals))
            for i in self.decoded.imports
        ]

    @property
    def exports(self) -> list[ExportType]:
        """What an instance offers, in order. Type indices in the types are the engine's."""
        return [
            ExportType(e.name, self.function_types[e.index] if e.kind == "function" else self.global_types[e.index])
            for e in self.decoded.exports
        ]

    def loaded(self, *, inline_allocation: bool) -> LoadedCode:
        """Return the linked code for a store that allocates inline, or for one that must be asked each time."""
        if inline_allocation not in self._loaded:
            compiler = self._compiler(inline_allocation=inline_allocation)
            self._loaded[inline_allocation] = LoadedCode(self._compile(compiler))
        return self._loaded[inline_allocation]

    def _compiler(self, *, inline_allocation: bool) -> ModuleCompiler:
        return ModuleCompiler(
            self.decoded,
            self.engine.types,
            self.type_indices,
            self.barriers,
            inline_allocation=inline_allocation,
            inline=self.engine.inline,
            interruptible=self.engine.interruptible,
        )

    def _compile(self, compiler: ModuleCompiler, progress: Callable[[int, int], None] | None = None) -> CompiledCode:
        def compile_now() -> CompiledCode:
            with without_gc():
                module, symbols = compiler.compile(progress)
                return compile_ir(module, symbols, opt_level=self.engine.opt_level, stack_checks=compiler.stack_checks)

        parts: dict[str, str | int | bool] = {  # no type index of the engine's: code loads those from its vmctx
            "module": self._digest,
            "runtime": self.engine.runtime,
            "opt_level": self.engine.opt_level,
            "inline": self.engine.inline,
            "interruptible": self.engine.interruptible,
            "inline_allocation": compiler.inline_allocation,
        }
        return cache.compiled(self.engine.cache, parts, compile_now, self.engine.collector)

    def function_name(self, index: int) -> str:
        """Return a function's name as `$name`, or its index where it has none."""
        name = self.decoded.names.functions.get(index)
        return f"${name}" if name else str(index)

    def locate(self, offset: int) -> str:
        """Return the name of the function whose code is at a byte offset of the module."""
        number = bisect.bisect_right(self._body_offsets, offset) - 1
        if number < 0 or offset >= self.decoded.bodies[number].end_offset:
            return "the module's initialiser"
        imported = len(self.function_types) - len(self.decoded.bodies)
        return self.function_name(imported + number)

    def canonical(self, type: ValType) -> ValType:
        """Return a value type of the module with the engine's type index in place of the module's."""
        if isinstance(type, RefType) and isinstance(type.heap_type, int):
            return RefType(type.nullable, self.type_indices[type.heap_type])
        return type

    def _register_types(self) -> list[int]:
        types, names = self.engine.types, self.decoded.names
        indices: list[int] = []
        for group in self.decoded.rec_groups:
            indices += types.register(group, outer=indices)
        for number, index in enumerate(indices):
            if number in names.types:
                types.name_type(index, names.types[number])
            composite = types[index].composite
            if isinstance(composite, StructType):
                fields = names.fields.get(number, {})  # a name section may say anything
                types.name_fields(index, {k: name for k, name in fields.items() if k < len(composite.fields)})
        return indices
