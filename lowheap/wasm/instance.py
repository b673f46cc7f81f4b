"""Instances: a module's code put to work on a store, with its imports filled in and its globals made."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from lowheap.copying import NotCopied
from lowheap.critical import whole
from lowheap.errors import ForeignReferenceError, LinkError, UnsupportedError
from lowheap.jit import by_need
from lowheap.jit.engine import LoadedCode
from lowheap.jit.signatures import Signature, initialiser
from lowheap.layout import NULL, VMCallTarget, VMContext, VMDataSegment, VMFunctionImport, VMMemory, VMTable, VMTag
from lowheap.memory import Mapping as MemoryMapping
from lowheap.objects import Func
from lowheap.operations import exclusive
from lowheap.runtime import host_functions
from lowheap.runtime.exceptions import Tag
from lowheap.runtime.store_runtime import StoreRuntime, runtime_of
from lowheap.store import Store, check_store
from lowheap.types import FuncType, GlobalType, ImportType, MemoryType, RefType, TableType, TagType
from lowheap.values import lower_scalar
from lowheap.wasm.call_targets import SeenTargets
from lowheap.wasm.decode import (
    ElementSegment,
    ExternalKind,
    FunctionImport,
    GlobalImport,
    Import,
    MemoryImport,
    TableImport,
    TagImport,
)
from lowheap.wasm.globals import Global
from lowheap.wasm.memories import Memory
from lowheap.wasm.module import Module
from lowheap.wasm.outline import EXTERNAL_KINDS, FUNCTION_TABLE, function_of
from lowheap.wasm.pieces import BASELINE, OFTEN, PiecewiseCode
from lowheap.wasm.tables import Table, let_go

_PAGE = 1 << 12

_exclusive = exclusive("store.lock")


class Exports(dict[str, Any]):
    """An instance's exports: functions, globals, memories, tables and tags, as `exports["run"]`, or `exports.run`.

    It is a read-only mapping.

    A name that a mapping has for itself (`get`, `items`, `keys`, `values`, `copy`, ...), or that begins with two
    underscores, is reached by subscript alone.
    """

    __slots__ = ()

    def __missing__(self, name: str) -> NoReturn:
        """KeyError that names those that there are."""
        raise KeyError(self._no_export(name))

    def __getattr__(self, name: str) -> Any:
        """Return an export. AttributeError that names those that there are."""
        if name in self and not name.startswith("__"):
            return self[name]
        raise AttributeError(self._no_export(name), name=name, obj=self)

    def _no_export(self, name: object) -> str:
        known = ", ".join(sorted(self)) or "none"
        return f"there is no export {name!r}; there are: {known}"

    def __dir__(self) -> list[str]:
        """Name the exports, too."""
        return sorted({*super().__dir__(), *self})

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("exports cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how a copy is made: it is of the same exports."""
        return type(self), (dict(self),)

    __setitem__ = __delitem__ = __setattr__ = __delattr__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


_MOST_NAMES = 12
"""So many names of one module are listed where all are that there are."""


def listed_names(names: Iterable[tuple[str, str]]) -> str:
    """Return the names of imports, to be read; of a module with very many only how many there are."""
    by_module: dict[str, list[str]] = {}
    for module, name in sorted(names):
        by_module.setdefault(module, []).append(f"{module}.{name}")
    parts = (
        each if len(each) <= _MOST_NAMES else [f"{len(each)} names of {module}"] for module, each in by_module.items()
    )
    return ", ".join(name for part in parts for name in part) or "none"


@dataclass(frozen=True, slots=True)
class ByType:
    """What is given for a name that a module imports under several types: `find` returns it for one of these."""

    find: Callable[[ImportType], Any]


class Instance(NotCopied):
    """An instance of `module` on `store`.

    `imports` gives what the module imports: `{"module": {"name": value}}`, or `{("module", "name"): value}`. For a
    function, a Python callable or a `Func`; for a global, a `Global`, or a plain value where it is immutable; for a
    memory, a `Memory`; for a table, a `Table`; for a tag, a `Tag`. A callable gets and returns Python values, may call
    exports, and may raise: the exception comes out of the outermost call. `exports` is a mapping from names to what
    there is, with attributes: see `Exports`.

    Raises a LinkError that names all imports that are missing or do not match, and whatever the start function raises.
    """

    NOT_COPIED_BECAUSE = "it belongs to one store; instantiate the module again"

    def __init__(self, store: Store, module: Module, imports: Mapping[Any, Any] | None = None) -> None:
        """Link, make the globals, and run the start function."""
        check_store(store)
        if not isinstance(module, Module):
            raise TypeError(f"module is {module!r}; it must be a Module")
        if module.engine is not store.engine:
            raise LinkError("the module was compiled for another engine; use Module(store.engine, ...)")
        self.store = store
        self.module = module
        self._make(imports)

    def __repr__(self) -> str:
        """Show the module."""
        return f"<Instance of {self.module!r}>"

    @_exclusive
    def _make(self, imports: Mapping[Any, Any] | None) -> None:
        store, module = self.store, self.module
        self._runtime: StoreRuntime = runtime_of(store, optimised=not module.is_compiled_by_need)
        self._functions: dict[int, Func] = {}
        self._globals: list[Global] = []
        self._memories: list[Memory] = []
        self._tags: list[Tag] = []
        self._tables: list[Table] = []
        self._segments: list[Any] = []  # what has the element segments' references
        self._counted_segments: list[int] = []  # the addresses of the `VMTable`s of those that are root ranges
        self._made_functions: list[Func] = []
        self._made_globals: list[Global] = []
        self._made_contexts: list[int] = []
        self._is_entered = False
        self._taken_up = 0  # so many pieces of the module's
        self._levels: dict[int, int] = {}  # of the code of functions that has an address, by their numbers
        self.linked: list[LoadedCode] = []
        """The module's code, as far as it is linked for the instance."""
        self._runtime.keep(self)
        try:
            self._instantiate(imports)
        except BaseException:
            if not (self._is_entered and (module.names_functions or self._made_contexts)):
                self._give_back()
            raise

    @whole
    def _give_back(self) -> None:
        """Give the store back what the instance has of it. Nobody has got hold of a function or a global of it.

        They are for whoever has the exports, such as a host function that gets its caller, and for code of the module
        that names functions, if some has run.
        """
        runtime = self._runtime
        if runtime.owns_memory and not self.store.heap.is_attached:
            return  # a finalizer has taken the memory, and the globals are among its roots
        for function in self._made_functions:
            runtime.remove_function(function)
        for context in self._made_contexts:
            runtime.remove_host_context(context)
        for made in self._made_globals:
            made._unmake()
        for own in self._globals[self.module.vmctx_layout.imported_globals :]:
            own._forget()
        for table in self._tables[self.module.vmctx_layout.imported_tables :]:
            table._forget()
        for address in self._counted_segments:
            let_go(self.store, address, is_counted=True)
        if self._is_entered:
            runtime.remove_place(self._vmctx.base)
            for code in self.linked:
                runtime.remove_stack_map(code)
        runtime.let_go(self)

    def _instantiate(self, imports: Mapping[Any, Any] | None) -> None:
        module = self.module
        if module.provided.functions or module.provided.constants:
            self.store.use_strings()
        values = self._find_all(_flatten(imports))
        self._pieces = module.pieces(inline_allocation=self._runtime.allocates_inline)
        self.code = module.loaded(inline_allocation=self._runtime.allocates_inline)
        self.linked.append(self.code)
        self._lay_out(values)
        type = FuncType((), ())
        for name in itertools.takewhile(set(module.compiled.symbols).__contains__, map(initialiser, itertools.count())):
            self._runtime.caller(self._trampoline(type), self._vmctx.base, self.code.address(name), type, name)(())

    @whole
    def _lay_out(self, values: list[Any]) -> None:
        """Make all that the instance has, whole: what is a root of the heap is known to `_give_back`, too."""
        store, module = self.store, self.module
        for index in module.type_indices:
            store.heap.register_type(index)

        layout = module.vmctx_layout
        self._vmctx = MemoryMapping((layout.size + _PAGE - 1) & -_PAGE)
        self._type_ids = (ctypes.c_uint32 * max(1, len(module.type_indices)))(*module.type_indices)
        context = self._vmctx.view(VMContext, 0)
        context.heap_base = store.heap.control.heap_base
        context.control = ctypes.addressof(store.heap.control)
        context.store = self._runtime.context_address
        context.type_ids = ctypes.addressof(self._type_ids)
        if self._pieces is not None:
            count = len(module.decoded.functions)
            first_stubs, self._lasting_stubs = by_need.stubs(count, store.engine.cache)
            self._codes = (ctypes.c_uint64 * count)(*first_stubs)
            self._counters = (ctypes.c_uint32 * count)(*[OFTEN] * count)
            self._call_targets = (VMCallTarget * module.outline.call_site_count)()
            context.codes, context.counters = ctypes.addressof(self._codes), ctypes.addressof(self._counters)
            context.call_targets = ctypes.addressof(self._call_targets)

        self._link(values)
        self._make_functions()
        self._make_globals()
        self._make_memories()
        self._make_tables()
        self._make_element_segments()
        self._make_data_segments()
        self._make_tags()
        externals: Mapping[ExternalKind, Any] = {
            "function": self._functions,
            "global": self._globals,
            "memory": self._memories,
            "tag": self._tags,
            "table": self._tables,
        }
        self.exports = Exports({each.name: externals[each.kind][each.index] for each in module.decoded.exports})
        self._is_entered = True
        self._runtime.add_place(self._vmctx.base, self)
        self._runtime.add_stack_map(self.code)
        if self._pieces is not None:
            self._take_up_linked(self._pieces)

    @whole
    def compile_function(self, number: int) -> int:
        """Return the address of one of the module's own functions, compiled now if need be.

        Raises what the compiler does; nothing has changed then. Signals wait: their handlers may call what is being
        compiled.
        """
        assert self._pieces is not None, "code that is whole asks for nothing"
        self._pieces.piece_of(self.module.vmctx_layout.imported_functions + number)
        self.take_up_ready()
        return self._codes[number]

    @whole
    def optimise_function(self, number: int) -> None:
        """One of the module's own functions runs often: have it optimised in the background."""
        assert self._pieces is not None, "code that is whole counts nothing"
        self._pieces.want_optimised(self.module.vmctx_layout.imported_functions + number, self._seen_targets)
        if self._runtime.to_optimise is not None:
            from lowheap.wasm import optimiser  # here, because short runs need none

            optimiser.optimise_runtime(self._runtime.to_optimise, self.store.engine.cache)
            self._runtime.take_up_optimised()
        self.take_up_ready()
        if self._levels.get(number, BASELINE) < self._pieces.level:
            self._counters[number] = OFTEN  # to look then whether it is ready

    def _seen_targets(self) -> SeenTargets:
        """What calls through references have come to in this instance."""
        return SeenTargets(bytes(self._call_targets), self._own_functions)

    @functools.cached_property
    def _own_functions(self) -> dict[int, int]:
        """Which of the module's own functions each reference is to."""
        layout = self.module.vmctx_layout
        imported = layout.imported_functions
        escaping = [index for index in self.module.escaping_functions if index >= imported]
        return {self._vmctx.view(ctypes.c_uint32, layout.funcref(index - imported)).value: index for index in escaping}

    def take_up_ready(self) -> None:
        """Take up what was compiled in the meantime, for this instance or for another of the module's."""
        if self._pieces is None:
            return
        if self._pieces.has_ready or len(self._pieces.linked) > self._taken_up:
            self._take_up_linked(self._pieces)

    @whole
    def _take_up_linked(self, pieces: PiecewiseCode) -> None:
        """Have the instance's functions run from where their best code is."""
        pieces.link_ready()
        imported = self.module.vmctx_layout.imported_functions
        linked = pieces.linked
        while self._taken_up < len(linked):
            piece = linked[self._taken_up]
            self._taken_up += 1
            self._runtime.add_stack_map(piece.code)
            self.linked.append(piece.code)
            for index, address in zip(piece.functions, piece.addresses, strict=True):
                number = index - imported
                level = self._levels.get(number)
                if level is None or level < piece.level:
                    self._levels[number] = piece.level
                    self._codes[number] = address
                    function = self._functions.get(index)
                    if function is not None:
                        self._runtime.entry(function).code = address

    # Imports

    def _find_all(self, given: dict[tuple[str, str], Any]) -> list[Any]:
        """Return the values of all that must be given, in order; a LinkError names all that are missing or wrong."""
        missing, problems, found = [], [], []
        for declared, each in self.module.wanted:
            if (each.module, each.name) not in given:
                missing.append(str(each))
                continue
            value = given[each.module, each.name]
            found.append(value.find(each) if isinstance(value, ByType) else value)
            if (problem := self._mismatch(each, declared, found[-1])) is not None:
                problems.append(problem)
        if missing:
            are = f"import {missing[0]} is" if len(missing) == 1 else f"imports {', '.join(missing)} are"
            problems.insert(0, f"{are} missing; these were given: {listed_names(given)}")
        if problems:
            raise LinkError("; ".join(problems))
        return found

    def _mismatch(self, wanted: ImportType, declared: Import, value: Any) -> str | None:
        """Say why what is given for an import is not what it must be; None where it is, as far as can be told yet."""
        what, types = f"import {wanted.module}.{wanted.name}", self.store.engine.types
        if isinstance(value, Func | Global | Memory | Table | Tag) and value.store is not self.store:
            raise ForeignReferenceError(f"{what}: {value!r} belongs to another store")
        type = wanted.type
        match type:
            case FuncType():
                assert isinstance(declared.desc, FunctionImport), "a function import has a function type"
                type_index = self.module.type_indices[declared.desc.type_index]
                if isinstance(value, Func):
                    if not types.is_subtype(value.type_index, type_index):
                        return f"{what} is {types.describe(type_index)}; {value!r} was given"
                elif not callable(value):
                    return f"{what} is a function, {types.describe(type_index)}; {value!r} was given"
                return None
            case GlobalType():
                return self._mismatch_of_global(what, type, value)
            case MemoryType():
                if not isinstance(value, Memory) or value._mismatch(type):
                    return f"{what} is a memory of type {type}; {value!r} was given"
                return None
            case TagType():
                assert isinstance(declared.desc, TagImport), "a tag import has a tag type"
                type_index = self.module.type_indices[declared.desc.type_index]
                if not isinstance(value, Tag) or value.type_index != type_index:
                    return f"{what} is a tag of type {types.describe(type_index)}; {value!r} was given"
                return None
            case TableType():
                if not isinstance(value, Table) or value._mismatch(type):
                    return f"{what} is a table of type {type}; {value!r} was given"
                return None
        raise UnsupportedError(f"unsupported {EXTERNAL_KINDS[declared.desc.__class__]} {what}")

    def _mismatch_of_global(self, what: str, type: GlobalType, value: Any) -> str | None:
        types = self.store.engine.types
        if isinstance(value, Global):
            matches = (
                value.type == type
                if type.mutable
                else not value.type.mutable and types.matches(value.type.storage, type.storage)
            )
            if not matches:
                mutable = "mutable " if type.mutable else ""
                return f"{what} is a {mutable}global of type {type.storage}; {value!r} was given"
        elif type.mutable:
            return f"{what} is a mutable global of type {type.storage}; not a Global: {value!r}"
        elif not isinstance(type.storage, RefType):
            try:
                lower_scalar(type.storage, value)
            except (TypeError, ValueError) as error:
                return f"{what} is a global: {error}"
        return None

    def _link(self, values: list[Any]) -> None:
        functions, provided, given = 0, self.module.provided, iter(values)
        for place, declared in enumerate(self.module.decoded.imports):
            what = f"import {declared.module}.{declared.name}"
            if isinstance(declared.desc, FunctionImport) and functions in provided.functions:
                functions += 1  # nothing refers to it
                continue
            value: Any = provided.constants[place] if place in provided.constants else next(given)
            match declared.desc:
                case FunctionImport(type_index):
                    index = self.module.type_indices[type_index]
                    self._link_function(functions, self._resolve_function(what, index, value))
                    functions += 1
                case GlobalImport():
                    imported = self._resolve_global(what, self.module.global_types[len(self._globals)], value)
                    if imported is not value:
                        self._made_globals.append(imported)
                    self._import(self.module.vmctx_layout.global_import(len(self._globals)), imported.address)
                    self._globals.append(imported)
                case MemoryImport():
                    self._import(self.module.vmctx_layout.memory_import(len(self._memories)), value.address)
                    self._memories.append(value)
                case TagImport():
                    self._add_tag(value)
                case TableImport():
                    self._import(self.module.vmctx_layout.table_import(len(self._tables)), value.address)
                    self._tables.append(value)

    def _import(self, place: int, address: int) -> None:
        """Note the address of something imported in the vmctx."""
        self._vmctx.view(ctypes.c_uint64, place).value = address

    def _resolve_function(self, what: str, type_index: int, value: Any) -> Func:
        if isinstance(value, Func):
            return value
        type = self.store.engine.types[type_index].composite
        assert isinstance(type, FuncType), "a function import has a function type"
        stub = self.code.address(Signature.of(type, self.store.engine.types).host_stub)
        function = self._runtime.add_host_function(value, type_index, what.removeprefix("import "), stub)
        self._made_functions.append(function)
        return function

    def _link_function(self, number: int, function: Func) -> None:
        place = self._vmctx.view(VMFunctionImport, self.module.vmctx_layout.function_import(number))
        entry = self._runtime.entry(function)
        place.code, place.vmctx, place.funcref = entry.code, entry.vmctx, function.funcref
        own = host_functions.vmctx_for(self, function)
        if own is not None:
            place.vmctx = own
            self._made_contexts.append(own)
        self._functions[number] = function

    def _resolve_global(self, what: str, wanted: GlobalType, value: Any) -> Global:
        if isinstance(value, Global):
            return value
        try:
            return Global(self.store, wanted.storage, value)
        except (TypeError, ValueError) as error:
            raise LinkError(f"{what} is a global: {error}") from None

    # The module's own

    def _make_functions(self) -> None:
        module = self.module
        imported = module.vmctx_layout.imported_functions
        own = [index for index in module.escaping_functions if index >= imported]
        if self._pieces is None:
            addresses = list((ctypes.c_uint64 * len(own)).from_address(self.code.address(FUNCTION_TABLE)))
        else:
            addresses = [self._lasting_stubs[index - imported] for index in own]
        names = {export.index: export.name for export in module.decoded.exports if export.kind == "function"}
        type_indices = module.decoded.functions
        for index, code in zip(own, addresses, strict=True):
            type, name = module.function_types[index], names.get(index) or module.function_name(index)
            type_index = module.type_indices[type_indices[index - imported]]
            function = self._runtime.add_compiled_function(
                self._trampoline(type), self._vmctx.base, code, type_index, name
            )
            self._made_functions.append(function)
            self._functions[index] = function
            place = module.vmctx_layout.funcref(index - imported)
            self._vmctx.view(ctypes.c_uint32, place).value = function.funcref

    def _trampoline(self, type: FuncType) -> int:
        return self.code.address(Signature.of(type, self.store.engine.types).entry)

    def _make_globals(self) -> None:
        layout, types = self.module.vmctx_layout, self.store.engine.types
        own = [
            (type, self._vmctx.base + layout.global_cell(number))
            for number, type in enumerate(self.module.global_types[layout.imported_globals :])
        ]
        self.store.roots.add_slots([address for type, address in own if types.is_traced(type.storage)])
        self._globals += (Global._at(self.store, type, address) for type, address in own)

    def _make_memories(self) -> None:
        imported = self.module.vmctx_layout.imported_memories
        for number, type in enumerate(self.module.outline.memory_types[imported:]):
            definition = self._vmctx.view(VMMemory, self.module.vmctx_layout.memory(number))
            self._memories.append(Memory._at(self.store, type, definition))

    def _make_tags(self) -> None:
        outline = self.module.outline
        number = next(self.store.tag_numbers)
        for index, type_index in enumerate(outline.tags[outline.imported_tag_count :]):
            self._add_tag(Tag._of(self.store, self.module.type_indices[type_index], (number, index)))

    def _add_tag(self, tag: Tag) -> None:
        place = self._vmctx.view(VMTag, self.module.vmctx_layout.tag(len(self._tags)))
        place.tag_instance, place.tag_defined = tag.words
        self._tags.append(tag)

    def _make_tables(self) -> None:
        imported = self.module.vmctx_layout.imported_tables
        for number, type in enumerate(self.module.outline.table_types[imported:]):
            definition = self._vmctx.view(VMTable, self.module.vmctx_layout.table(number))
            self._tables.append(Table._at(self.store, type, definition))

    def _make_element_segments(self) -> None:
        """Make room for the element segments' references, and fill in those that are functions."""
        types = self.store.engine.types
        for number, segment in enumerate(self.module.decoded.elements):
            if segment.mode == "declarative":
                continue
            references = self._references_of(segment)
            self._segments.append(references)
            place = self._vmctx.view(VMTable, self.module.vmctx_layout.element_segment(number))
            place.base, place.length = ctypes.addressof(references), len(references)
            if types.is_traced(self.module.canonical(segment.type)) and references:
                address = ctypes.addressof(place)
                self.store.roots.add_range(address)
                self._counted_segments.append(address)

    def _references_of(self, segment: ElementSegment) -> ctypes.Array[ctypes.c_uint32]:
        if segment.expressions is None:
            found: list[int | None] = list(segment.functions)
        else:
            found = [function_of(each) for each in segment.expressions]
        functions = self._functions
        values = (NULL if each is None else functions[each].funcref for each in found)
        return (ctypes.c_uint32 * len(found))(*values)

    def _make_data_segments(self) -> None:
        """Say where the data segments' bytes are: those of the module, which the instance keeps."""
        for number, segment in enumerate(self.module.decoded.data):
            place = self._vmctx.view(VMDataSegment, self.module.vmctx_layout.data_segment(number))
            place.base = ctypes.cast(ctypes.c_char_p(segment.data), ctypes.c_void_p).value or 0
            place.length = len(segment.data)


def _flatten(imports: Mapping[Any, Any] | None) -> dict[tuple[str, str], Any]:
    """Return imports by module and name, from either form. TypeError for anything else."""
    flat: dict[tuple[str, str], Any] = {}
    if imports is None:
        return flat
    if not isinstance(imports, Mapping):
        raise TypeError(f"imports is {imports!r}; it must be a mapping, {{module: {{name: value}}}}")
    for key, value in imports.items():
        if isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, str) for part in key):
            flat[key] = value
        elif isinstance(key, str) and isinstance(value, Mapping):
            for name, each in value.items():
                flat[key, name] = each
        else:
            raise TypeError(
                f"imports has {key!r}: {value!r}; it must have {{module: {{name: value}}}} or {{(module, name): value}}"
            )
    return flat
