"""Linkers: names for what modules import, given once and used for as many instances as one likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowheap.copying import NotCopied
from lowheap.engine import Engine
from lowheap.errors import ForeignReferenceError, LinkError
from lowheap.objects import Func
from lowheap.runtime import host_functions
from lowheap.runtime.exceptions import Tag
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store, check_store
from lowheap.types import FuncType
from lowheap.wasm.globals import Global
from lowheap.wasm.instance import Instance
from lowheap.wasm.memories import Memory
from lowheap.wasm.module import Module


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
    an instance exports. `instantiate` makes an instance out of these; a LinkError names all imports that are missing or
    do not match. A name that is defined already is a LinkError, unless `allow_shadowing` is True.
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
        """Name a `Func`, a `Global`, a `Memory` or a `Tag` of a store, or what else `Instance` takes for an import."""
        self._check_store(store)
        if isinstance(item, Func | Global | Memory | Tag) and item.store is not store:
            raise ForeignReferenceError(f"{module}.{name}: {item!r} belongs to another store")
        self._define({(module, name): item})

    def define_func(
        self, module: str, name: str, type: FuncType, callable: Callable[..., Any], access_caller: bool = False
    ) -> None:
        """Name a host function, of whichever store needs it. `access_caller`: it takes a `Caller` first."""
        host_functions.check(type, callable, access_caller)
        self._define({(module, name): _HostFunction(type, callable, access_caller)})

    def define_instance(self, store: Store, name: str, instance: Instance) -> None:
        """Name all that an instance exports, under `name` as the module's; none of it, where one name is taken."""
        self._check_store(store)
        if not isinstance(instance, Instance):
            raise TypeError(f"instance is {instance!r}; it must be an Instance")
        if instance.store is not store:
            raise ForeignReferenceError(f"{name}: {instance!r} belongs to another store")
        self._define({(name, export): item for export, item in instance.exports.items()})

    def instantiate(self, store: Store, module: Module) -> Instance:
        """Make an instance of a module. Raises as `Instance` does."""
        self._check_store(store)
        if not isinstance(module, Module):
            raise TypeError(f"module is {module!r}; it must be a Module")
        wanted = {(each.module, each.name) for each in module.imports}
        return Instance(
            store,
            module,
            {
                key: item.of(store) if key in wanted and isinstance(item, _HostFunction) else item
                for key, item in self._items.items()
            },
        )

    def get(self, store: Store, module: str, name: str) -> Any:
        """Return what a name means for a store. LinkError when it is not defined."""
        self._check_store(store)
        try:
            item = self._items[module, name]
        except KeyError:
            known = ", ".join(f"{m}.{n}" for m, n in sorted(self._items)) or "none"
            raise LinkError(f"{module}.{name} is not defined; these are: {known}") from None
        if isinstance(item, _HostFunction):
            return item.of(store)
        if isinstance(item, Func | Global | Memory | Tag) and item.store is not store:
            raise ForeignReferenceError(f"{module}.{name}: {item!r} belongs to another store")
        return item

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
