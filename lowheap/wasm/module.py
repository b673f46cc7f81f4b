"""A compiled module: validated, decoded, its types registered, its code linked; ready to be instantiated."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lowheap.copying import NotCopied
from lowheap.engine import Engine
from lowheap.errors import Frame, ModuleError
from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode, LoadedCode, without_gc
from lowheap.jit.engine import compile as compile_ir
from lowheap.representation import brief
from lowheap.types import ExportType, ImportType, RefType, StructType, ValType
from lowheap.wasm import legacy_exceptions, serialization, validate
from lowheap.wasm.debug_lines import DebugLines
from lowheap.wasm.decode import DecodedModule, ExternalKind, custom_sections, decode
from lowheap.wasm.outline import EXTERNAL_KINDS, ModuleOutline

if TYPE_CHECKING:
    from lowheap.jit.debug_locations import DebugLocations

_log = logging.getLogger("lowheap.wasm")


class Module(NotCopied):
    """A module for the stores of one engine. `source` is wat text, or the bytes of a binary.

    Raises MalformedModuleError when it is not valid, UnsupportedError when it uses what lowheap does not have, and
    CompilerError when LLVM refuses what was made of it. Nothing is compiled that wasmtime does not validate.

    `progress(done, total)` is called before the first function and after each, when code is compiled and not taken from
    a cache. LLVM's part comes after the last.
    """

    NOT_COPIED_BECAUSE = "its code is linked into this process; compile the source again, with a cache for speed"

    def __init__(
        self,
        engine: Engine,
        source: str | bytes | bytearray | memoryview,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Compile the module."""
        _check_engine(engine)
        started = time.perf_counter()

        def valid_binary() -> bytes:
            binary = validate.to_binary(source)
            validate.validate(binary, engine.proposals_off)
            return binary

        # What is no source, or is text that UTF-8 cannot have, `to_binary` refuses.
        text = source.encode(errors="surrogatepass") if isinstance(source, str) else source
        if engine.cache is not None and isinstance(text, bytes | bytearray | memoryview):
            validator = validate.validator(engine.proposals_off)
            binary = cache.valid_binary(engine.cache, bytes(text), validator, valid_binary)
        else:
            binary = valid_binary()
        self._make(engine, binary, lambda inline: self._compile(inline, progress))
        self.compile_seconds = time.perf_counter() - started

    @classmethod
    def from_file(cls, engine: Engine, path: str | os.PathLike[str]) -> Self:
        """Compile a file: wat text, or a binary. OSError when it cannot be read, else as the class itself."""
        _check_engine(engine)
        return cls(engine, Path(path).read_bytes())

    @staticmethod
    def validate(engine: Engine, binary: bytes | bytearray | memoryview) -> None:
        """Return if these bytes are a valid binary, of proposals that are on; MalformedModuleError says why not.

        What is valid may yet use what lowheap does not have: compiling it tells.
        """
        _check_engine(engine)
        if not isinstance(binary, bytes | bytearray | memoryview):
            raise TypeError(f"a binary module is bytes, not {type(binary).__name__}")
        validate.validate(bytes(binary), engine.proposals_off)

    def serialize(self) -> bytes:
        """Return the module with its compiled code, for `deserialize`.

        ModuleError when it cannot be said what the code depends on: a source of the collector's, or of lowheap's,
        cannot be read, or has changed since this process started.
        """
        facts = self._facts(self.engine.runtime == "native")
        if facts is None:
            raise ModuleError(
                "the module cannot be serialised: not all sources that its code depends on can be read, or they have "
                "changed since this process started"
            )
        return serialization.encode(self._binary, facts, self.compiled)

    @classmethod
    def deserialize(cls, engine: Engine, encoded: bytes | bytearray | memoryview) -> Self:
        """Return a module that `serialize` has made bytes of, without validating or compiling it again.

        The bytes hold machine code, which is run: they must come from somebody who is trusted as much as the program
        that calls this. A checksum finds damage, not intent.

        ModuleError, which says what differs, when the code does not fit this engine's options, this version of lowheap
        or of LLVM, or this CPU; MalformedModuleError when the bytes are damaged, cut off, or something else.
        """
        _check_engine(engine)
        if not isinstance(encoded, bytes | bytearray | memoryview):
            raise TypeError(f"a serialised module is bytes, not {type(encoded).__name__}")
        started = time.perf_counter()
        self = object.__new__(cls)
        found = serialization.decode(bytes(encoded))
        self._make(engine, found.binary, lambda inline: found.code(self._facts(inline)))
        self.compile_seconds = time.perf_counter() - started
        return self

    @classmethod
    def deserialize_file(cls, engine: Engine, path: str | os.PathLike[str]) -> Self:
        """Return the module in a file that has what `serialize` returned. The same goes for it as for `deserialize`."""
        _check_engine(engine)
        return cls.deserialize(engine, Path(path).read_bytes())

    def _make(self, engine: Engine, binary: bytes, compiled: Callable[[bool], CompiledCode]) -> None:
        """Become the module of a valid binary; `compiled` returns its code, that allocates inline or asks each time."""
        self.engine = engine
        self._binary = binary
        self._digest = hashlib.sha256(binary).hexdigest()
        with without_gc():
            self.decoded: DecodedModule = legacy_exceptions.translated(decode(binary))
            self.type_indices = self._register_types()
            outline = ModuleOutline(self.decoded, engine.types, self.type_indices)
            self.outline = outline
            self.function_types = outline.function_types
            self.global_types = outline.global_types
            self.escaping_functions = outline.escaping_functions
            self.vmctx_layout = outline.vmctx_layout
            inline_allocation = engine.runtime == "native"
            self.compiled = compiled(inline_allocation)
        self._loaded = {inline_allocation: LoadedCode(self.compiled)}
        self._locations: dict[bool, DebugLocations | None] = {}
        self._body_offsets = [body.offset for body in self.decoded.bodies]

    def __repr__(self) -> str:
        """Show the name, where there is one, and how many imports and exports there are."""
        name = "" if self.name is None else f" {brief(self.name)}"
        return f"<Module{name}: {len(self.decoded.imports)} imports, {len(self.decoded.exports)} exports>"

    @property
    def name(self) -> str | None:
        """The module's name, where it has one."""
        return self.decoded.names.module

    @functools.cached_property
    def names_functions(self) -> bool:
        """Whether its code takes references of functions, its own or imported ones, which it may hand on."""
        bodies = (body.instructions for body in self.decoded.bodies)
        globals = (definition.init for definition in self.decoded.globals)
        tables = (definition.init or () for definition in self.decoded.tables)
        if any(each.functions for each in self.decoded.elements):
            return True
        return any(each.name == "ref.func" for instructions in (*bodies, *globals, *tables) for each in instructions)

    @property
    def imports(self) -> list[ImportType]:
        """What an instance must be given, in order. Type indices in the types are the engine's."""
        counts: Counter[ExternalKind] = Counter()
        found = []
        for each in self.decoded.imports:
            kind = EXTERNAL_KINDS[type(each.desc)]
            found.append(ImportType(each.module, each.name, self.outline.external_type(kind, counts[kind])))
            counts[kind] += 1
        return found

    @property
    def exports(self) -> list[ExportType]:
        """What an instance offers, in order. Type indices in the types are the engine's."""
        return [ExportType(e.name, self.outline.external_type(e.kind, e.index)) for e in self.decoded.exports]

    def loaded(self, *, inline_allocation: bool) -> LoadedCode:
        """Return the linked code for a store that allocates inline, or for one that must be asked each time."""
        if inline_allocation not in self._loaded:
            self._loaded[inline_allocation] = LoadedCode(self._compile(inline_allocation))
        return self._loaded[inline_allocation]

    def locations_of(self, code: LoadedCode) -> DebugLocations | None:
        """Return which instructions its code is for; None where that cannot be said.

        The first time, this compiles the module again.
        """
        inline_allocation = next(inline for inline, each in self._loaded.items() if each is code)
        if inline_allocation not in self._locations:
            self._locations[inline_allocation] = self._locate(inline_allocation)
        return self._locations[inline_allocation]

    def _locate(self, inline_allocation: bool) -> DebugLocations | None:
        from lowheap.jit.debug_locations import DebugLocations, code_of  # here, because few want to know

        located = self._compile(inline_allocation, located=True).object
        if code_of(located) != code_of(self._loaded[inline_allocation].object):
            _log.warning("module %s: its code was another, compiled again: no calls can be located", self.name or "")
            return None
        return DebugLocations(located)

    def _compile(
        self,
        inline_allocation: bool,
        progress: Callable[[int, int], None] | None = None,
        *,
        located: bool = False,
    ) -> CompiledCode:
        def compile_now() -> CompiledCode:
            from lowheap.jit.barriers import Barriers  # here, because code from a cache needs none of it
            from lowheap.wasm.compile import ModuleCompiler

            with without_gc():
                compiler = ModuleCompiler(
                    self.decoded,
                    self.engine.types,
                    self.type_indices,
                    Barriers(self.engine.collector),
                    inline_allocation=inline_allocation,
                    inline=self.engine.inline,
                    interruptible=self.engine.interruptible,
                    consume_fuel=self.engine.consume_fuel,
                    canonical_nans=self.engine.canonical_nans,
                    is_optimised=self.engine.opt_level > 0,
                    located=located,
                )
                module, symbols = compiler.compile(progress)
                return compile_ir(module, symbols, opt_level=self.engine.opt_level, stack_checks=compiler.stack_checks)

        parts = self._code_parts(inline_allocation)
        if located:
            parts["located"] = True
        return cache.compiled(self.engine.cache, parts, compile_now, self.engine.collector)

    def _code_parts(self, inline_allocation: bool) -> dict[str, str | int | bool]:
        """What code depends on that is the module's or the engine's.

        No type index of the engine's: code loads those from its vmctx.
        """
        return {
            "module": self._digest,
            "runtime": self.engine.runtime,
            "opt_level": self.engine.opt_level,
            "inline": self.engine.inline,
            "interruptible": self.engine.interruptible,
            "consume_fuel": self.engine.consume_fuel,
            "canonical_nans": self.engine.canonical_nans,
            "proposals_off": ", ".join(sorted(self.engine.proposals_off)),
            "inline_allocation": inline_allocation,
        }

    def _facts(self, inline_allocation: bool) -> dict[str, Any] | None:
        """All that code depends on; None when that cannot be said."""
        return cache.code_facts(self._code_parts(inline_allocation), self.engine.collector)

    def function_name(self, index: int) -> str:
        """Return a function's name as `$name`, or its index where it has none."""
        name = self.decoded.names.functions.get(index)
        return f"${name}" if name else str(index)

    def function_at(self, offset: int) -> int | None:
        """Return the index of the function whose code is at a byte offset of the module, if there is one."""
        number = bisect.bisect_right(self._body_offsets, offset) - 1
        if number < 0 or offset >= self.decoded.bodies[number].end_offset:
            return None
        return len(self.function_types) - len(self.decoded.bodies) + number

    def locate(self, offset: int) -> str:
        """Return the name of the function whose code is at a byte offset of the module."""
        index = self.function_at(offset)
        return "the module's initialiser" if index is None else self.function_name(index)

    def frame_at(self, offset: int) -> Frame | None:
        """Return the frame of the function whose code is at a byte offset of the module; None where none is."""
        index = self.function_at(offset)
        if index is None:
            return None
        start = self._body_offsets[index - (len(self.function_types) - len(self.decoded.bodies))]
        found = dataclasses.replace(self.frame_of(index), module_offset=offset, func_offset=offset - start)
        line = self._debug_lines.find(offset)
        if line is None:
            return found
        return dataclasses.replace(found, file=line.file, line=line.line, column=line.column)

    @functools.cached_property
    def _debug_lines(self) -> DebugLines:
        return DebugLines(*custom_sections(self._binary))

    def frame_of(self, index: int) -> Frame:
        """Return a frame of a function of which no more than its index is known."""
        return Frame(index, self.decoded.names.functions.get(index), self.name, None, None)

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


def _check_engine(engine: object) -> None:
    if not isinstance(engine, Engine):
        raise TypeError(f"engine is {engine!r}; it must be an Engine")
