"""The `wasmtime` package as the oracle: run a WasmGC module there and return what it returns.

`run` makes one call on a fresh instance; `Peer` keeps an instance for several calls. Arguments and results are Python
ints (signed, as wasmtime gives them), floats, any object for an externref, None for a null one. Results always come as
a tuple. A trap is a `PeerTrap` that carries wasmtime's own sentence; an exception of a host function is raised as it
is.

The package cannot hand a reference of the any hierarchy to Python, as an argument, a result or a global. A call that
would need it is a `TypeError` that says so. A module that imports functions over such references can still run: give
another module that exports them as a companion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import _ffi

Function = Callable[..., Any]
# (parameter types, result types, implementation); the types in wat's spelling. The implementation returns None, one
# value, or a tuple of several.
HostFunction = tuple[Sequence[str], Sequence[str], Function]
ImportMap = Mapping[str, HostFunction]
# Makes the imports ("module.name" to function), given a function that finds an export of the instance they are for.
# That one may be called only once the instance is there, from a host function.
ImportFactory = Callable[[Callable[[str], Function]], ImportMap]
Imports = ImportMap | ImportFactory

_VALUE_TYPES: dict[str, Callable[[], wasmtime.ValType]] = {
    "i32": wasmtime.ValType.i32,
    "i64": wasmtime.ValType.i64,
    "f32": wasmtime.ValType.f32,
    "f64": wasmtime.ValType.f64,
    "externref": wasmtime.ValType.externref,
    "funcref": wasmtime.ValType.funcref,
}


class PeerTrap(Exception):
    """wasmtime trapped. `message` is its sentence ("cast failure"), `text` all it said, backtrace included."""

    def __init__(self, text: str) -> None:
        """Take the sentence out of wasmtime's text."""
        found = re.search(r"wasm trap: (.+)", text)
        self.message = found.group(1).strip() if found else text.strip()
        self.text = text
        super().__init__(f"wasm trap: {self.message}")


def _passable(type_: wasmtime.ValType) -> bool:
    # Asking a type of the any hierarchy for its kind, as the package does at every turn, aborts the process; comparing
    # is safe.
    return any(_ffi.wasmtime_wasm_valtype_equal(type_.ptr(), known().ptr()) for known in _VALUE_TYPES.values())


@cache
def engine() -> wasmtime.Engine:
    """The one engine of all peers, with the GC and function-references proposals on."""
    config = wasmtime.Config()
    config.wasm_function_references = True
    config.wasm_gc = True
    return wasmtime.Engine(config)


@lru_cache(maxsize=64)
def _compile(source: str | bytes) -> wasmtime.Module:
    return wasmtime.Module(engine(), source)


def compile_module(source: Path | str | bytes) -> wasmtime.Module:
    """A module from a file (a `Path`, or a string that ends in ".wat" or ".wasm"), wat text or binary.

    What wasmtime refuses is its own `wasmtime.WasmtimeError`. The latest modules are kept, so that one source is seldom
    compiled twice.
    """
    if isinstance(source, str) and source.endswith((".wat", ".wasm")):
        source = Path(source)
    if isinstance(source, Path):
        source = source.read_bytes() if source.suffix == ".wasm" else source.read_text(encoding="utf-8")
    return _compile(source)


class Peer:
    """One instance of a module in a store of its own."""

    def __init__(
        self,
        source: Path | str | bytes,
        imports: Imports | None = None,
        *,
        companions: Mapping[str, Path | str | bytes] | None = None,
    ) -> None:
        """Compile, link and instantiate.

        `companions` maps an import module's name to a wasm module, which is instantiated first and whose exports stand
        for that name. A missing import is a `KeyError`, a start function that traps a `PeerTrap`.
        """
        self.store = wasmtime.Store(engine())
        self._module = compile_module(source)
        host = imports(self.function) if callable(imports) else imports or {}
        others = {name: self._instantiate(compile_module(other), []) for name, other in (companions or {}).items()}
        externs: list[Any] = []
        for wanted in self._module.imports:
            name = f"{wanted.module}.{wanted.name}"
            if name in host:
                externs.append(self._host_function(name, host[name]))
            elif wanted.module in others:
                externs.append(others[wanted.module][wanted.name or ""])
            else:
                raise KeyError(f"import {name!r} is not given; given are {sorted([*host, *others])}")
        self._exports = self._instantiate(self._module, externs)

    def _instantiate(self, module: wasmtime.Module, externs: list[Any]) -> Mapping[str, Any]:
        instance = self._guarded(lambda: wasmtime.Instance(self.store, module, externs))
        exports: Mapping[str, Any] = instance.exports(self.store)
        return exports

    def _host_function(self, name: str, function: HostFunction) -> wasmtime.Func:
        parameters, results, implementation = function
        for spelled in (*parameters, *results):
            if spelled not in _VALUE_TYPES:
                raise TypeError(f"host function {name!r}: wasmtime's package cannot pass a {spelled} to or from Python")
        signature = wasmtime.FuncType(
            [_VALUE_TYPES[spelled]() for spelled in parameters], [_VALUE_TYPES[spelled]() for spelled in results]
        )
        return wasmtime.Func(self.store, signature, implementation)

    @staticmethod
    def _guarded(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except wasmtime.Trap as trap:
            raise PeerTrap(str(trap)) from None

    @property
    def exports(self) -> tuple[str, ...]:
        """The names of all exports, in the module's order."""
        return tuple(export.name for export in self._module.exports)

    def _export(self, name: str) -> Any:
        if name not in self._exports:
            raise KeyError(f"no export {name!r}; there are {list(self.exports)}")
        return self._exports[name]

    def call(self, export: str, *arguments: object) -> tuple[Any, ...]:
        """Call an exported function; the tuple of its results, () for none."""
        function = self._export(export)
        if not isinstance(function, wasmtime.Func):
            raise TypeError(f"export {export!r} is no function")
        signature = function.type(self.store)
        if not all(_passable(type_) for type_ in (*signature.params, *signature.results)):
            raise TypeError(f"export {export!r} takes or gives a value that wasmtime's package cannot pass")
        returned = self._guarded(lambda: function(self.store, *arguments))
        count = len(signature.results)
        return () if count == 0 else (returned,) if count == 1 else tuple(returned)

    def function(self, export: str) -> Function:
        """An exported function as a Python function: None, one value, or a tuple of several."""

        def call(*arguments: object) -> Any:
            results = self.call(export, *arguments)
            return None if not results else results[0] if len(results) == 1 else results

        return call

    def global_value(self, export: str) -> Any:
        """The value of an exported global."""
        exported = self._export(export)
        if not isinstance(exported, wasmtime.Global):
            raise TypeError(f"export {export!r} is no global")
        if not _passable(exported.type(self.store).content):
            raise TypeError(f"global {export!r} holds a value that wasmtime's package cannot pass")
        return exported.value(self.store)

    def collect(self) -> None:
        """Make wasmtime collect garbage now."""
        self.store.gc()


def run(
    source: Path | str | bytes,
    export: str,
    arguments: Sequence[object] = (),
    imports: Imports | None = None,
    *,
    companions: Mapping[str, Path | str | bytes] | None = None,
) -> tuple[Any, ...]:
    """One call on a fresh instance: its results as a tuple, or a `PeerTrap`."""
    return Peer(source, imports, companions=companions).call(export, *arguments)


def validates(source: Path | str | bytes) -> bool:
    """Whether wasmtime accepts the module."""
    try:
        compile_module(source)
    except wasmtime.WasmtimeError:
        return False
    return True
