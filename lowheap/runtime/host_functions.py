"""Host functions that Python code makes itself, `Func(store, type, callable)`, and what they are told of their callers.

A host function is called through a stub of its signature. A module has those of its imports; for a function that may be
called from anywhere, one is compiled, once in a process for each signature.

**Who calls?** Nobody passes that, since it would cost every call. A function that asks gets a vmctx of its own for each
instance that imports it, so a call through an import tells. A call through a reference has come from the code that it
returns to, which tells as long as no other instance of the same module is in the store.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lowheap.copying import NotCopied
from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.signatures import Signature
from lowheap.jit.stackmaps import host_architecture
from lowheap.layout import VMActivation
from lowheap.objects import Func
from lowheap.operations import exclusive
from lowheap.runtime.backtrace import Place
from lowheap.runtime.store_runtime import StoreRuntime, runtime_of
from lowheap.store import Store, check_store
from lowheap.types import FuncType, SubType


class Caller(NotCopied):
    """Who called a host function: `caller["name"]` is an export of that instance, `caller.store` its store.

    Without exports where the host itself called, or where nothing tells the instance: `get` returns None, and a
    subscript is a KeyError. It is of use until the host function returns, and tells nothing afterwards.
    """

    NOT_COPIED_BECAUSE = "it is of use until the host function returns, and no longer"

    __slots__ = ("_place", "_store")

    def __init__(self, store: Store, place: Place | None) -> None:
        """Say who it is; the runtime makes these."""
        self._store: Store | None = store
        self._place = place

    @property
    def store(self) -> Store:
        """The store. ValueError when the host function has returned."""
        if self._store is None:
            raise ValueError("this caller is no longer valid: the host function that it called has returned")
        return self._store

    def get(self, name: str, default: Any = None) -> Any:
        """Return an export of the calling instance, of any kind; `default` when there is none."""
        exports: Mapping[str, Any] = {} if self._place is None else self._place.exports
        return exports.get(name, default)

    def __getitem__(self, name: str) -> Any:
        """Return an export of the calling instance. KeyError when there is none."""
        if self._place is None:
            raise KeyError(f"there is no export {name!r}: {'the host called' if self._store else 'the call is over'}")
        return self._place.exports[name]

    def __contains__(self, name: object) -> bool:
        """Whether the calling instance has such an export."""
        return self._place is not None and name in self._place.exports

    def __repr__(self) -> str:
        """Show whether it is of use."""
        return f"<Caller{'' if self._store else ', no longer valid'}>"

    def _end(self) -> None:
        self._store = self._place = None


def call_with(store: Store, place: Place | None, callable: Callable[..., Any], *args: Any) -> Any:
    """Call a callable with a `Caller` that is of use until it returns, and these arguments."""
    caller = Caller(store, place)
    try:
        return callable(caller, *args)
    finally:
        caller._end()


def add(
    store: Store, type: FuncType, callable: Callable[..., Any], access_caller: bool, *, function: Func | None = None
) -> Func:
    """Make a Python callable a function of a store, and of `function`, if given. TypeError for a wrong argument."""
    check_store(store)
    check(type, callable, access_caller)
    return _add(store, type, callable, access_caller, function)


@exclusive("lock")
def _add(
    store: Store, type: FuncType, callable: Callable[..., Any], access_caller: bool, function: Func | None
) -> Func:
    runtime = runtime_of(store)
    types = store.engine.types
    (type_index,) = types.register([SubType(type)], outer=tuple(types))
    signature = Signature.of(type, types)
    code = stub(signature, store.engine.cache)
    runtime.keep_stub(code)
    name = getattr(callable, "__qualname__", None) or repr(callable)
    address = code.address(signature.host_stub)
    if not access_caller:
        return runtime.add_host_function(callable, type_index, name, address, function=function)

    def called(*args: Any) -> Any:
        return call_with(store, _innermost(runtime), callable, *args)

    directly = functools.partial(call_with, store, None, callable)
    function = runtime.add_host_function(called, type_index, name, address, directly=directly, function=function)
    function._with_caller = callable
    return function


def check(type: FuncType, callable: Callable[..., Any], access_caller: bool) -> None:
    """TypeError for an argument that is none of what makes a host function."""
    if not isinstance(type, FuncType):
        raise TypeError(f"type is {type!r}; it must be a FuncType")
    if not _is_callable(callable):
        raise TypeError(f"{callable!r} cannot be a host function; it must be callable")
    if not isinstance(access_caller, bool):
        raise TypeError(f"access_caller is {access_caller!r}; it must be a bool")


_is_callable = callable  # the name is an argument's


def vmctx_for(place: Place, function: Func) -> int | None:
    """Return the vmctx with which an instance calls an import; None for the function's own."""
    if function._with_caller is None:
        return None
    runtime = runtime_of(function.store)
    called = functools.partial(call_with, function.store, place, function._with_caller)
    return runtime.add_host_context(called, function.type_index, function.name)


def _innermost(runtime: StoreRuntime) -> Place | None:
    """Return the instance whose code called the host; None when several have the same code."""
    record = VMActivation.from_address(runtime.context.activation)
    link = record.exit_frame_pointer + host_architecture().return_address_offset
    address = ctypes.c_uint64.from_address(link).value
    found = [place for place in runtime.places.values() if any(each.stack_map.has(address) for each in place.linked)]
    return found[0] if len(found) == 1 else None


@functools.cache
def stub(signature: Signature, directory: Path | None) -> LoadedCode:
    """Return the host stub of a signature, linked; it is kept in the cache that is named."""

    def compile_now() -> CompiledCode:
        from llvmlite import ir  # here, because code from a cache needs none of it

        from lowheap.jit import transitions

        module = ir.Module("host stub")
        transitions.define_host_stub(module, signature)
        return compile_ir(module, (signature.host_stub,))

    return LoadedCode(cache.compiled(directory, {"host stub": signature.host_stub}, compile_now))


def make_host_function(
    function: Func, store: Store, type: FuncType, callable: Callable[..., Any], access_caller: bool
) -> None:
    """Make `function` a new host function of a store; what `Func(…)` does."""
    add(store, type, callable, access_caller, function=function)
