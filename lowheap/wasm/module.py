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
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lowheap.copying import NotCopied
from lowheap.engine import Engine
from lowheap.errors import Frame, ModuleError, UnsupportedError
from lowheap.jit import by_need, cache
from lowheap.jit.engine import CompiledCode, LoadedCode, without_gc
from lowheap.jit.engine import compile as compile_ir
from lowheap.representation import brief
from lowheap.types import ExportType, FuncType, ImportType, RefType, StructType, ValType
from lowheap.wasm import builtins, validate
from lowheap.wasm.call_targets import CALL, CallTargets, SeenTargets
from lowheap.wasm.decode import DecodedModule, ExternalKind, Import, Instruction, custom_sections, decode
from lowheap.wasm.outline import EXTERNAL_KINDS, ModuleOutline
from lowheap.wasm.pieces import BASELINE, Compiled, PiecewiseCode, level_of, opt_level_of

if TYPE_CHECKING:
    from lowheap.jit.cache import PieceKey
    from lowheap.jit.debug_locations import DebugLocations
    from lowheap.wasm.call_graph import CallGraph
    from lowheap.wasm.debug_lines import DebugLines

_log = logging.getLogger("lowheap.wasm")

LARGE, MANY = 9_000, 50
"""A module of more bytes of code than these, in more functions, is compiled by need, unless it is told otherwise."""


class Module(NotCopied):
    """A module for the stores of one engine. `source` is wat text, or the bytes of a binary.

    Raises MalformedModuleError when it is not valid, UnsupportedError when it uses what lowheap does not have, and
    CompilerError when LLVM refuses what was made of it. Nothing is compiled that wasmtime does not validate.

    `progress(done, total)` is called before the first function and after each, when code is compiled and not taken from
    a cache. LLVM's part comes after the last. It is not called for a module whose functions are compiled by need, since
    none is compiled now; `compile_all` compiles them, and says how far it is.

    `builtins` are the sets of functions that lowheap itself provides, in the namespace `wasm:` and the set's name;
    there is one, "js-string", of JavaScript's strings. `imported_string_constants` is the namespace whose imported
    globals are strings, each its name. Neither are among `imports`. LinkError for imports of either with a wrong type.
    """

    NOT_COPIED_BECAUSE = "its code is linked into this process; compile the source again, with a cache for speed"

    def __init__(
        self,
        engine: Engine,
        source: str | bytes | bytearray | memoryview,
        *,
        progress: Callable[[int, int], None] | None = None,
        builtins: Iterable[str] = builtins.BUILTINS,
        imported_string_constants: str | None = None,
    ) -> None:
        """Compile the module."""
        _check_engine(engine)
        given = _Given.checked(builtins, imported_string_constants)
        started = time.perf_counter()

        decoded: DecodedModule | None = None

        def valid_binary() -> tuple[bytes, bool]:
            """Return the binary, decoded to the end, and whether its functions can be decoded one at a time."""
            nonlocal decoded
            binary = validate.to_binary(source)
            validate.validate(binary, engine.proposals_off)
            with without_gc():
                as_stated = decode(binary)
                decoded = _translated(as_stated)
            return binary, decoded is as_stated

        # What is no source, or is text that UTF-8 cannot have, `to_binary` refuses.
        text = source.encode(errors="surrogatepass") if isinstance(source, str) else source
        if engine.cache is not None and isinstance(text, bytes | bytearray | memoryview):
            validator = validate.validator(engine.proposals_off)
            binary, is_plain = cache.valid_binary(engine.cache, bytes(text), validator, valid_binary)
        else:
            binary, is_plain = valid_binary()
        if decoded is None and is_plain:
            with without_gc():
                decoded = decode(binary, is_known=True)
        self._make(engine, binary, given, decoded=decoded, progress=progress)
        self.compile_seconds = time.perf_counter() - started

    @classmethod
    def from_file(cls, engine: Engine, path: str | os.PathLike[str], **options: Any) -> Self:
        """Compile a file: wat text, or a binary. OSError when it cannot be read, else as the class itself."""
        _check_engine(engine)
        return cls(engine, Path(path).read_bytes(), **options)

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
        from lowheap.wasm import serialization  # here, because few modules are serialised

        facts = self._facts(self.engine.runtime == "native")
        if facts is None:
            raise ModuleError(
                "the module cannot be serialised: not all sources that its code depends on can be read, or they have "
                "changed since this process started"
            )
        compiled = self._compile(self.engine.runtime == "native") if self.is_compiled_by_need else self.compiled
        return serialization.encode(self._binary, facts, compiled)

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
        from lowheap.wasm import serialization  # here, because few modules are serialised

        started = time.perf_counter()
        self = object.__new__(cls)
        found = serialization.decode(bytes(encoded))
        self._make(engine, found.binary, _Given.told(found.facts), lambda inline: found.code(self._facts(inline)))
        self.compile_seconds = time.perf_counter() - started
        return self

    @classmethod
    def deserialize_file(cls, engine: Engine, path: str | os.PathLike[str]) -> Self:
        """Return the module in a file that has what `serialize` returned. The same goes for it as for `deserialize`."""
        _check_engine(engine)
        return cls.deserialize(engine, Path(path).read_bytes())

    def _make(
        self,
        engine: Engine,
        binary: bytes,
        given: _Given,
        compiled: Callable[[bool], CompiledCode] | None = None,
        *,
        decoded: DecodedModule | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Become the module of a valid binary, `decoded` or not.

        `compiled` returns its code, that allocates inline or asks each time, where that is there.
        """
        with without_gc():
            self._outline(engine, binary, given, decoded)
            inline_allocation = engine.runtime == "native"
            if compiled is None and self._is_large_enough():
                pieces = self._pieces[inline_allocation] = self._piecewise(inline_allocation)
                self.compiled, self._loaded[inline_allocation] = pieces.compiled, pieces.base
            else:
                self.compiled = (compiled or (lambda inline: self._compile(inline, progress)))(inline_allocation)
                self._loaded[inline_allocation] = LoadedCode(self.compiled)

    @classmethod
    def _outlined(cls, engine: Engine, binary: bytes, given: _Given) -> Self:
        """Return the module of a valid binary without any code, to compile pieces of it."""
        self = object.__new__(cls)
        self._outline(engine, binary, given)
        return self

    def _outline(self, engine: Engine, binary: bytes, given: _Given, decoded: DecodedModule | None = None) -> None:
        """Find out what is known of a module that is not compiled."""
        self.engine = engine
        self._binary = binary
        self._digest = hashlib.sha256(binary).hexdigest()
        if decoded is None:
            decoded = _translated(decode(binary))
        constants = builtins.string_constants(decoded, given.string_constants, lambda: custom_sections(binary)[0])
        self.decoded: DecodedModule
        self.decoded, functions = builtins.with_builtins(decoded, given.builtins, engine.types, len(binary))
        self.provided = builtins.Provided(functions, constants)
        self._given = given
        self.type_indices = self._register_types()
        outline = ModuleOutline(self.decoded, engine.types, self.type_indices)
        self.outline = outline
        self.function_types = outline.function_types
        self.global_types = outline.global_types
        self.escaping_functions = outline.escaping_functions
        self.vmctx_layout = outline.vmctx_layout
        self._body_offsets = [body.offset for body in self.decoded.bodies]
        self._pieces: dict[bool, PiecewiseCode] = {}
        self._loaded: dict[bool, LoadedCode] = {}
        self._locations: dict[LoadedCode, DebugLocations | None] = {}

    def __repr__(self) -> str:
        """Show the name, where there is one, and how many imports and exports there are."""
        name = "" if self.name is None else f" {brief(self.name)}"
        return f"<Module{name}: {len(self.imports)} imports, {len(self.decoded.exports)} exports>"

    @property
    def name(self) -> str | None:
        """The module's name, where it has one."""
        return self.decoded.names.module

    @functools.cached_property
    def call_graph(self) -> CallGraph:
        """Which of the module's functions call which; looked at when something is compiled."""
        from lowheap.wasm.call_graph import CallGraph  # here, because code from a cache needs none of it
        from lowheap.wasm.instructions import FACTS

        return CallGraph(self.outline, FACTS, interruptible=self.engine.interruptible)

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
        return [each for _, each in self.wanted]

    @functools.cached_property
    def wanted(self) -> list[tuple[Import, ImportType]]:
        """The imports that an instance must be given, as they are declared, and what they are."""
        counts: Counter[ExternalKind] = Counter()
        found = []
        for place, each in enumerate(self.decoded.imports):
            kind = EXTERNAL_KINDS[type(each.desc)]
            index = counts[kind]
            counts[kind] += 1
            is_builtin = kind == "function" and index in self.provided.functions
            if not is_builtin and place not in self.provided.constants:
                found.append((each, ImportType(each.module, each.name, self.outline.external_type(kind, index))))
        return found

    @functools.cached_property
    def string_namespaces(self) -> frozenset[str]:
        """The namespaces of which an instance must be given string constants, and can be given nothing else."""
        return builtins.string_namespaces(self.imports)

    @property
    def exports(self) -> list[ExportType]:
        """What an instance offers, in order. Type indices in the types are the engine's."""
        return [ExportType(e.name, self.outline.external_type(e.kind, e.index)) for e in self.decoded.exports]

    @property
    def is_compiled_by_need(self) -> bool:
        """Whether each function is compiled when it is called first, in whichever instance.

        By default, that is so for modules of more than `LARGE` bytes of code, in more than `MANY` functions.
        """
        return bool(self._pieces)

    def compile_all(self, progress: Callable[[int, int], None] | None = None, *, jobs: int | None = None) -> int:
        """Compile ahead what instances will need, optimised as the engine says; return how many functions that was.

        With a cache, it has all that then, and programs that use the same module, options and cache compile nothing.
        Without, this module has its functions. Those of a module that was compiled whole are there already. Stores that
        count their collections, by `collect_every`, need other code.

        `progress(done, total)` is called with numbers of functions, at first and whenever some are done. `jobs` are how
        many processes compile, each its pieces; as many as there are processors, if nobody says. Raises CompilerError,
        as the class does; what was compiled until then is kept.
        """
        if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool)):
            raise TypeError(f"jobs is {jobs!r}; it must be an int, or None")
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs is {jobs}; it must be 1 at least")
        inline_allocation = self.engine.runtime == "native"
        pieces = self.pieces(inline_allocation=inline_allocation)
        count = 0 if pieces is None else pieces.compile_all(progress, jobs)
        if self.engine.cache is not None:
            self._cache_what_is_shared()
        return count

    def _cache_what_is_shared(self) -> None:
        """Have that in the cache which is not of the module, but which runs of it need."""
        from lowheap.jit import runtime, unwinder  # here, because only instances need them
        from lowheap.jit.signatures import Signature
        from lowheap.runtime import host_functions

        engine = self.engine
        if engine.runtime == "native":
            runtime.load(engine.collector, engine.cache)
        if self.is_compiled_by_need:
            by_need.stubs(len(self.decoded.functions), engine.cache)
        if any(code.has_exceptions for code in self._loaded.values()):
            unwinder.load(engine.cache)
        for each in self.imports:
            if isinstance(each.type, FuncType):
                host_functions.stub(Signature.of(each.type, engine.types), engine.cache)

    @property
    def is_cached(self) -> bool:
        """Whether the engine's cache has all functions, optimised as the engine says."""
        inline_allocation = self.engine.runtime == "native"
        pieces = self.pieces(inline_allocation=inline_allocation)
        if pieces is not None:
            return pieces.is_all_cached()
        if self.engine.cache is None:
            return False
        key = cache.code_key(self._code_parts(inline_allocation), self.engine.collector)
        return key is not None and cache.CodeCache(self.engine.cache).get(key) is not None

    def compiled_by_need(self) -> Compiled | None:
        """Return what has become of functions that are compiled by need; None where all were compiled together."""
        told = [each.told() for each in self._pieces.values()]
        if not told:
            return None
        return Compiled(
            told[0].functions,
            frozenset[int]().union(*(each.compiled for each in told)),
            frozenset[int]().union(*(each.optimised for each in told)),
            frozenset[int]().union(*(each.awaited for each in told)),
            sum(each.pieces for each in told),
            sum(each.seconds for each in told),
        )

    def _is_large_enough(self) -> bool:
        if self.engine.compilation == "auto":
            bodies = self.decoded.bodies
            is_large = len(bodies) > MANY and sum(each.end_offset - each.offset for each in bodies) > LARGE
            return is_large and by_need.is_available()
        if self.engine.compilation == "by_need" and not by_need.is_available():
            raise UnsupportedError(
                "compilation is 'by_need', which is not written for this machine; 'auto' and 'whole' are there"
            )
        return self.engine.compilation == "by_need"

    def loaded(self, *, inline_allocation: bool) -> LoadedCode:
        """Return the linked code for a store that allocates inline, or for one that must be asked each time.

        That is all there is, or, where functions are compiled by need, what is of no function.
        """
        if inline_allocation not in self._loaded:
            pieces = self.pieces(inline_allocation=inline_allocation)
            self._loaded[inline_allocation] = (
                LoadedCode(self._compile(inline_allocation)) if pieces is None else pieces.base
            )
        return self._loaded[inline_allocation]

    def pieces(self, *, inline_allocation: bool) -> PiecewiseCode | None:
        """Return the code of functions that are compiled by need, likewise; None where all is compiled together."""
        if self._pieces and inline_allocation not in self._pieces:
            self._pieces.setdefault(inline_allocation, self._piecewise(inline_allocation))  # other threads ask, too
        return self._pieces.get(inline_allocation)

    def _piecewise(self, inline_allocation: bool) -> PiecewiseCode:
        cached = None
        if self.engine.cache is not None:
            key = cache.code_key(self._code_parts(inline_allocation), self.engine.collector)
            cached = None if key is None else cache.PieceFile(self.engine.cache, key)
        return PiecewiseCode(PieceCompiler(self, inline_allocation), cached)

    def locations_of(self, code: LoadedCode) -> DebugLocations | None:
        """Return which instructions its code is for; None where that cannot be said.

        The first time, this compiles that code again.
        """
        if code not in self._locations:
            self._locations[code] = self._locate(code)
        return self._locations[code]

    def _locate(self, code: LoadedCode) -> DebugLocations | None:
        from lowheap.jit.debug_locations import DebugLocations, code_of  # here, because few want to know

        inline_allocation, piece = self._origin_of(code)
        if piece is None:
            located = self._compile(inline_allocation, located=True).object
        else:
            guesses = CallTargets({(function, number): target for function, number, target in code.call_targets}.get)
            located = self._compile_now(
                inline_allocation, located=True, piece=piece, known=code.imports, call_targets=guesses
            ).object
        if code_of(located) != code_of(code.object):
            _log.warning("module %s: its code was another, compiled again: no calls can be located", self.name or "")
            return None
        return DebugLocations(located)

    def _origin_of(self, code: LoadedCode) -> tuple[bool, PieceKey | None]:
        """Return what code of the module was compiled for: which stores, and which piece, if not all."""
        for inline_allocation, pieces in self._pieces.items():
            for each in pieces.linked:
                if each.code is code:
                    return inline_allocation, (each.level, each.functions)
            if pieces.base is code:
                return inline_allocation, (BASELINE, ())
        return next(inline for inline, each in self._loaded.items() if each is code), None

    def _compile(
        self, inline_allocation: bool, progress: Callable[[int, int], None] | None = None, *, located: bool = False
    ) -> CompiledCode:
        """Return code of the whole module, from the cache if it is there."""
        parts = self._code_parts(inline_allocation)
        if located:
            parts["located"] = True

        def compile_now() -> CompiledCode:
            return self._compile_now(inline_allocation, progress, located=located)

        return cache.compiled(self.engine.cache, parts, compile_now, self.engine.collector)

    def _compile_now(
        self,
        inline_allocation: bool,
        progress: Callable[[int, int], None] | None = None,
        *,
        located: bool = False,
        piece: PieceKey | None = None,
        known: Collection[str] = (),
        call_targets: CallTargets | None = None,
    ) -> CompiledCode:
        """Compile the whole module, or a piece; `known` are the functions that other pieces have for it."""
        from lowheap.jit.barriers import Barriers  # here, because code from a cache needs none of it
        from lowheap.jit.emit import discard
        from lowheap.wasm.compile import ModuleCompiler
        from lowheap.wasm.events import SharedEvents

        engine = self.engine
        best = level_of(engine.opt_level)
        level, functions = (best, None) if piece is None else piece
        is_baseline = piece is not None and level == BASELINE
        with without_gc():
            compiler = ModuleCompiler(
                self.outline,
                self.call_graph,
                Barriers(engine.collector),
                inline_allocation=inline_allocation,
                inline=engine.inline,
                interruptible=engine.interruptible,
                consume_fuel=engine.consume_fuel,
                canonical_nans=engine.canonical_nans,
                is_optimised=level > BASELINE,
                located=located,
                piece=functions,
                shared=SharedEvents(known) if is_baseline else None,
                counts=level < best,
                call_targets=call_targets,
            )
            module, symbols = compiler.compile(progress)
            compiled = compile_ir(module, symbols, opt_level=opt_level_of(level), stack_checks=compiler.stack_checks)
            discard(module)
            guesses = {} if call_targets is None else call_targets.used
            return dataclasses.replace(compiled, call_targets=tuple((*site, guess) for site, guess in guesses.items()))

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
            **self._given.facts,
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
        from lowheap.wasm.debug_lines import DebugLines  # here, because few want to know

        return DebugLines(*custom_sections(self._binary))

    def frame_of(self, index: int) -> Frame:
        """Return a frame of a function of which no more than its index is known."""
        number = next((imported for imported, added in self.provided.functions.items() if added == index), index)
        return Frame(number, self.decoded.names.functions.get(index), self.name, None, None)

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


class PieceCompiler:
    """Compiles pieces of a module, for stores that allocate inline or for those that do not: for `pieces.py` and for
    `optimiser.py`, whose protocols say what is what.
    """

    def __init__(self, module: Module, inline_allocation: bool) -> None:
        """Take the module, which need not have any code."""
        self.module, self.inline_allocation = module, inline_allocation
        self.level = level_of(module.engine.opt_level)

    @property
    def graph(self) -> CallGraph:
        """Which functions call which."""
        return self.module.call_graph

    @functools.cached_property
    def functions(self) -> Sequence[int]:
        """The module's own functions: in the order in which calls lead to them from outside, and then the others."""
        decoded = self.module.decoded
        imported = self.module.vmctx_layout.imported_functions
        entered = [each.index for each in decoded.exports if each.kind == "function"]
        start = [] if decoded.start is None else [decoded.start]
        found: dict[int, None] = {}
        pending = [*range(len(self.module.function_types) - 1, imported - 1, -1), *reversed([*start, *entered])]
        while pending:
            index = pending.pop()
            if index >= imported and index not in found:
                found[index] = None
                pending += reversed(self.graph.called[index])
        return tuple(found)

    def size(self, index: int) -> int:
        """How many instructions a function has."""
        return len(self._instructions(index))

    def has_nested_loops(self, index: int) -> bool:
        """Whether a function has a loop within a loop."""
        from lowheap.wasm.inlining import OPENING  # here, because code from a cache needs none of it

        depths: list[int] = [0]  # the loops around, by open construct
        for each in self._instructions(index):
            if each.name in OPENING:
                depths.append(depths[-1] + (each.name == "loop"))
                if depths[-1] > 1:
                    return True
            elif each.name == "end" and len(depths) > 1:
                depths.pop()
        return False

    def has_guesses(self, index: int) -> bool:
        """Whether a function, or one that it calls, has calls through references."""
        imported = self.module.vmctx_layout.imported_functions
        own = (each for each in (index, *self.graph.called[index]) if each >= imported)
        return any(each.name == CALL for function in own for each in self._instructions(function))

    def _instructions(self, index: int) -> Sequence[Instruction]:
        return self.module.decoded.bodies[index - self.module.vmctx_layout.imported_functions].instructions

    def compile(self, functions: tuple[int, ...], level: int, known: Collection[str]) -> CompiledCode:
        """Compile a piece; `known` are the functions that other pieces have for it."""
        return self.module._compile_now(self.inline_allocation, piece=(level, functions), known=known)

    def optimise(
        self, functions: tuple[int, ...], seen: SeenTargets | None, done: Callable[[CompiledCode | None], None]
    ) -> None:
        """Compile a piece in the background, and call `done` in another thread."""
        from lowheap.wasm import optimiser  # here, because short runs need none

        optimiser.optimise(self, functions, done, seen)

    def compile_ahead(
        self, pieces: Sequence[tuple[int, ...]], jobs: int | None
    ) -> Generator[tuple[tuple[int, ...], CompiledCode], None, None]:
        """Compile pieces in processes."""
        from lowheap.wasm import optimiser  # here, because short runs need none

        return optimiser.compile_all(self, pieces, jobs)

    def compile_optimised(self, functions: tuple[int, ...], seen: SeenTargets | None = None) -> CompiledCode:
        """Compile a piece, optimised as the engine says, and as what was seen of its calls suggests."""
        guesses = None if seen is None else seen.guesses(self.module.outline.call_site)
        piece = self.level, functions
        return self.module._compile_now(self.inline_allocation, piece=piece, call_targets=guesses)

    @property
    def is_portable(self) -> bool:
        """Whether another process can compile alike: whether the collector is lowheap's."""
        return cache.is_known(self.module.engine.collector)

    def described(self) -> Any:
        """What `of` makes the same of, in another process."""
        engine = self.module.engine
        options = {
            "collector": engine.collector,
            "runtime": engine.runtime,
            "opt_level": engine.opt_level,
            "inline": engine.inline,
            "interruptible": engine.interruptible,
            "consume_fuel": engine.consume_fuel,
            "cranelift_nan_canonicalization": engine.canonical_nans,
        }
        return self.module._binary, self.module._given, self.inline_allocation, options

    @classmethod
    def of(cls, described: Any) -> Self:
        """Return what was described."""
        binary, given, inline_allocation, options = described
        return cls(Module._outlined(Engine(**options), binary, given), inline_allocation)


@dataclass(frozen=True, slots=True)
class _Given:
    """What a module is told to take from lowheap itself: sets of builtins, and a namespace of string constants."""

    builtins: tuple[str, ...]
    string_constants: str | None

    @classmethod
    def checked(cls, names: object, namespace: object) -> Self:
        """Return the options of a module. TypeError or ValueError for what is none."""
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise TypeError(f"builtins is {names!r}; it must be a sequence of names")
        found = tuple(names)
        if unknown := [each for each in found if each not in builtins.BUILTINS]:
            raise ValueError(f"builtins has {unknown[0]!r}; there are: {', '.join(builtins.BUILTINS)}")
        if namespace is not None and not isinstance(namespace, str):
            raise TypeError(f"imported_string_constants is {namespace!r}; it must be a str, or None")
        return cls(found, namespace)

    @property
    def facts(self) -> dict[str, str]:
        """What of it code, and a module that is read again, depends on."""
        found = {"builtins": ", ".join(sorted(set(self.builtins)))}
        return found if self.string_constants is None else {**found, "string_constants": self.string_constants}

    @classmethod
    def told(cls, facts: Mapping[str, Any]) -> Self:
        """Return the options that a serialised module was made with, of its facts."""
        parts = facts.get("parts", {})
        return cls(tuple(filter(None, str(parts.get("builtins", "")).split(", "))), parts.get("string_constants"))


def _translated(decoded: DecodedModule) -> DecodedModule:
    """Return the module without legacy instructions."""
    from lowheap.wasm import legacy_exceptions  # here, because what is in a cache has been translated, or has none

    return legacy_exceptions.translated(decoded)


def _check_engine(engine: object) -> None:
    if not isinstance(engine, Engine):
        raise TypeError(f"engine is {engine!r}; it must be an Engine")
