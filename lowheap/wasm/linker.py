"""Linkers: names for what modules import, given once and used for as many instances as one likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lowheap.copying import NotCopied
from lowheap.engine import Engine
from lowheap.errors import ForeignReferenceError, LinkError, UnsupportedError
from lowheap.later import later
from lowheap.objects import Func
from lowheap.runtime import host_functions
from lowheap.runtime.exceptions import Tag
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store, check_store
from lowheap.types import FuncType, GlobalType, ImportType, MemoryType, RefType, TableType
from lowheap.wasm.globals import Global
from lowheap.wasm.instance import Instance, listed_names
from lowheap.wasm.memories import Memory
from lowheap.wasm.module import Module
from lowheap.wasm.tables import Table


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class _HostFunction:
    """What `define_func` was given: a function of any store, made when that store first needs it."""

    type: FuncType
    callable: Callable[..., Any]
    access_caller: bool

    def of(self, store: Store) -> Func:
        """Return the function of a store, which is the store's to keep."""
        made = runtime_of(store).defined
        found = made.get(self)
        if found is None:
            found = made[self] = host_functions.add(store, self.type, self.callable, self.access_caller)
        return found


class Linker(NotCopied):
    """Gives modules of one engine what they import, by name.

    `define` names a thing of a store, `define_func` a host function that is every store's, `define_instance` all that
    an instance exports, `define_module` the same of a new one. `instantiate` makes an instance out of these; a
    LinkError names all imports that are missing or do not match. A name that is defined already is a LinkError, unless
    `allow_shadowing` is True.
    """

    NOT_COPIED_BECAUSE = "it has things of stores; another linker can be given the same"

    def __init__(self, engine: Engine) -> None:
        """Begin without names."""
        if not isinstance(engine, Engine):
            raise TypeError(f"engine is {engine!r}; it must be an Engine")
        self.engine = engine
        self._items: dict[tuple[str, str], Any] = {}
        self._allow_shadowing = False

    @property
    def allow_shadowing(self) -> bool:
        """Whether a name may be defined again, and then means what it was given last. False at first."""
        return self._allow_shadowing

    @allow_shadowing.setter
    def allow_shadowing(self, allow: bool) -> None:
        if not isinstance(allow, bool):
            raise TypeError(f"allow_shadowing is {allow!r}; it must be a bool")
        self._allow_shadowing = allow

    def define(self, store: Store, module: str, name: str, item: Any) -> None:
        """Name a function, a global, a memory, a table or a tag of a store, or what else `Instance` takes."""
        self._check_store(store)
        if isinstance(item, Func | Global | Memory | Table | Tag) and item.store is not store:
            raise ForeignReferenceError(f"{module}.{name}: {item!r} belongs to another store")
        self._define({(module, name): item})

    def define_func(
        self, module: str, name: str, type: FuncType, callable: Callable[..., Any], access_caller: bool = False
    ) -> None:
        """Name a host function, of whichever store needs it. `access_caller`: it takes a `Caller` first."""
        host_functions.check(type, callable, access_caller)
        self._define({(module, name): _HostFunction(type, callable, access_caller)})

    def define_funcs(self, module: str, functions: Mapping[str, tuple[FuncType, Callable[..., Any]]]) -> None:
        """Name host functions that take a `Caller` first, under one module; none of them, where one name is taken."""
        for type, callable in functions.values():
            host_functions.check(type, callable, True)
        self._define({(module, name): _HostFunction(*each, access_caller=True) for name, each in functions.items()})

    def define_wasi(self) -> None:
        """Name all functions of WASI preview 1. What they do is up to the `WasiConfig` that a store has."""
        later("define_wasi")(self)

    def define_instance(self, store: Store, name: str, instance: Instance) -> None:
        """Name all that an instance exports, under `name` as the module's; none of it, where one name is taken."""
        self._check_store(store)
        if not isinstance(instance, Instance):
            raise TypeError(f"instance is {instance!r}; it must be an Instance")
        if instance.store is not store:
            raise ForeignReferenceError(f"{name}: {instance!r} belongs to another store")
        self._define({(name, export): item for export, item in instance.exports.items()})

    def define_module(self, store: Store, name: str, module: Module) -> None:
        """Make an instance of a module, call its export `_initialize` if it has one, and name all that it exports.

        UnsupportedError for a command, which exports `_start` and is to have a new instance for each call: instances
        live as long as their store.
        """
        exports = {each.name: each.type for each in _checked(module).exports}
        if "_start" in exports:
            raise UnsupportedError(
                f"{name} is a command, for it exports _start; define_instance takes an instance of it"
            )
        instance = self.instantiate(store, module)
        if isinstance(exports.get("_initialize"), FuncType):
            instance.exports["_initialize"]()
        self.define_instance(store, name, instance)

    def define_unknown_imports_as_traps(self, module: Module) -> None:
        """Name all functions that a module imports and that have no name yet: calling one is a LinkError."""
        self._define(
            {
                (each.module, each.name): _unknown(each)
                for each in self.missing(module)
                if isinstance(each.type, FuncType)
            }
        )

    def define_unknown_imports_as_default_values(self, store: Store, module: Module) -> None:
        """Name all that a module imports and that has no name yet: 0, null, functions that return these, and new
        memories, tables and tags.

        LinkError, and nothing is named, where there is no such value, for a reference that cannot be null.
        """
        self._check_store(store)
        self._define({(each.module, each.name): _default(store, each) for each in self.missing(module)})

    def instantiate(self, store: Store, module: Module) -> Instance:
        """Make an instance of a module. Raises as `Instance` does."""
        self._check_store(store)
        return _instantiate(store, _checked(module), self._items)

    def missing(self, module: Module) -> list[ImportType]:
        """Return what a module imports that has no name yet."""
        return [each for each in _checked(module).imports if (each.module, each.name) not in self._items]

    def instantiate_pre(self, module: Module) -> InstancePre:
        """Return what makes instances of a module, of the names as they are now. LinkError names those missing."""
        missing = self.missing(module)
        if missing:
            raise LinkError(f"{', '.join(map(str, missing))}: not defined; {self._known()}")
        return InstancePre(self, module)

    def get(self, store: Store, module: str, name: str) -> Any:
        """Return what a name means for a store. LinkError when it is not defined."""
        self._check_store(store)
        try:
            item = self._items[module, name]
        except KeyError:
            raise LinkError(f"{module}.{name} is not defined; {self._known()}") from None
        if isinstance(item, _HostFunction):
            return item.of(store)
        if isinstance(item, Func | Global | Memory | Table | Tag) and item.store is not store:
            raise ForeignReferenceError(f"{module}.{name}: {item!r} belongs to another store")
        return item

    def get_default(self, store: Store, name: str) -> Func:
        """Return what a module is called for: its function "", or `_start`; without both, one that does nothing.

        LinkError when that is no function.
        """
        for export in ("", "_start"):
            if (name, export) in self._items:
                found = self.get(store, name, export)
                if not isinstance(found, Func):
                    raise LinkError(f"{name}.{export} is {found!r}; it must be a Func to be the default")
                return found
        self._check_store(store)
        return _NOTHING.of(store)

    def _known(self) -> str:
        return f"these are: {listed_names(self._items)}"

    def _define(self, items: dict[tuple[str, str], Any]) -> None:
        for module, name in items:
            if not isinstance(module, str) or not isinstance(name, str):
                raise TypeError(f"{(module, name)!r} cannot name an import; it takes two strings")
            if (module, name) in self._items and not self._allow_shadowing:
                raise LinkError(f"{module}.{name} is defined already; allow_shadowing is False")
        self._items.update(items)

    def _check_store(self, store: Store) -> None:
        check_store(store)
        if store.engine is not self.engine:
            raise LinkError("the store has another engine than the linker; use Store(linker.engine)")


class InstancePre(NotCopied):
    """A module and what it imports, found once: `instantiate` makes an instance on a store, as often as one likes."""

    NOT_COPIED_BECAUSE = "it has things of stores; Linker.instantiate_pre makes another one"

    def __init__(self, linker: Linker, module: Module) -> None:
        """Keep the linker's names as they are now. What makes one is `Linker.instantiate_pre`."""
        if not isinstance(linker, Linker):
            raise TypeError(f"linker is {linker!r}; it must be a Linker")
        self.module = _checked(module)
        self._check_store = linker._check_store
        self._items = dict(linker._items)

    def __repr__(self) -> str:
        """Show the module."""
        return f"<InstancePre of {self.module!r}>"

    def instantiate(self, store: Store) -> Instance:
        """Make an instance of the module. Raises as `Instance` does."""
        self._check_store(store)
        return _instantiate(store, self.module, self._items)


_NOTHING = _HostFunction(FuncType((), ()), lambda: None, False)


def _checked(module: Module) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"module is {module!r}; it must be a Module")
    return module


def _instantiate(store: Store, module: Module, items: Mapping[tuple[str, str], Any]) -> Instance:
    wanted = {(each.module, each.name) for each in module.imports}
    runtime_of(store, optimised=not module.is_compiled_by_need)  # before a function of it asks for one
    return Instance(
        store,
        module,
        {
            key: item.of(store) if key in wanted and isinstance(item, _HostFunction) else item
            for key, item in items.items()
        },
    )


def _unknown(wanted: ImportType) -> Callable[..., Any]:
    def unknown(*_: Any) -> Any:
        raise LinkError(f"unknown import: {wanted.module}.{wanted.name} has not been defined")

    return unknown


def _default(store: Store, wanted: ImportType) -> Any:
    """What an import is by default. LinkError where there is no such thing."""
    type = wanted.type
    if isinstance(type, FuncType):
        results = tuple(_default_value(each, wanted) for each in type.results)
        return lambda *_: results if len(results) > 1 else results[0] if results else None
    if isinstance(type, GlobalType):
        return Global(store, type, _default_value(type.storage, wanted))
    if isinstance(type, MemoryType):
        return Memory(store, type)
    if isinstance(type, TableType):
        return Table(store, type, _default_value(type.element, wanted))
    return Tag(store, type)


def _default_value(type: Any, wanted: ImportType) -> Any:
    if not isinstance(type, RefType):
        return 0
    if not type.nullable:
        raise LinkError(f"import {wanted.module}.{wanted.name} has no default value: {type} cannot be null")
    return None
