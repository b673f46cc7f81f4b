"""Spec scripts (`.wast`): modules, actions on them, and assertions about what comes of it.

`run_script` runs the commands of one file, on one engine and one store, and says which failed. The program `wasm-tools`
makes JSON and binaries of the script's text, see `wasm_tools.py`; a `.json` that it has made already is taken as it is.

**Options** are in a script's first lines, as wasmtime's scripts have them: `;;! nan_canonicalization = true`, or the
name of a proposal that is to be off, or on. Others name what lowheap always has, or say how much memory a script takes.

**Floats** go in and come out as their bits: Python's floats cannot carry every NaN of an f32. **Traps** are compared by
what they say: the script's text must be in wasmtime's wording, or `_WORDINGS` must say that it means the same.

Whatever a command raises that it should not is a failure of that command, and the next one is run.
"""

from __future__ import annotations

import copy
import ctypes
import json
import os
import re
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowheap.config import PROPOSALS, Config
from lowheap.engine import Engine
from lowheap.errors import HeapError, LinkError, LowheapError, MalformedModuleError, Trap
from lowheap.objects import Array, ExternRef, Func, Struct
from lowheap.runtime.exceptions import WasmException
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store
from lowheap.types import F32, F64, I32, I64, FuncType, NumType, ValType
from lowheap.values import I31
from lowheap.wasm import wat
from lowheap.wasm.globals import Global
from lowheap.wasm.instance import Instance
from lowheap.wasm.module import Module
from lowheap.wasm.wasm_tools import WasmToolsError, run_wasm_tools


@dataclass(frozen=True, slots=True)
class Failure:
    """A command that failed: the line that it is in, what kind of command it is, and why."""

    line: int
    command: str
    reason: str


@dataclass(slots=True)
class ScriptResult:
    """What came of a script: how many commands there are, which failed, and which were not run, and why.

    A script that cannot be read counts as a command that failed, in line 0; so does a heap that is unsound at the end.
    """

    path: str
    commands: int = 0
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    """How many commands were skipped, by reason."""

    @property
    def skips(self) -> int:
        """How many commands were skipped."""
        return sum(self.skipped.values())

    @property
    def passed(self) -> int:
        """How many commands came to what they should."""
        return self.commands - self.skips - len(self.failures)


def run_script(path: str | os.PathLike[str], config: Config, *, collect_every: int = 0) -> ScriptResult:
    """Run a script, `.wast` or `.json`, with an engine and a store of its own, which is verified at the end.

    What options the script has goes before `config`, which stays as it is. Never raises for what is in the script.
    """
    result = ScriptResult(os.fspath(path))
    with tempfile.TemporaryDirectory(prefix="lowheap-script-") as folder:
        try:
            commands, place, options = _read(Path(path), Path(folder))
            config = copy.copy(config)
            for name, value in options.items():
                setattr(config, name, value)
        except (LowheapError, OSError, ValueError) as error:
            result.commands = 1
            result.failures.append(Failure(0, "script", str(error)))
            return result
        with Store(Engine(config), collect_every=collect_every) as store:
            script = _Script(store, place, result)
            for command in commands:
                script.run(command)
            try:
                store.verify()
            except LowheapError as error:
                result.commands += 1
                result.failures.append(Failure(0, "verify", str(error)))
    return result


_OPTIONS = {"nan_canonicalization": "cranelift_nan_canonicalization", **{each: f"wasm_{each}" for each in PROPOSALS}}
"""What scripts call options, and what `Config` does."""

_OPTION = re.compile(r"^;;! *(\w+) *= *(true|false) *$", re.MULTILINE)


def _read(path: Path, folder: Path) -> tuple[list[dict[str, Any]], Path, dict[str, bool]]:
    """Return a script's commands, where the modules are that they name, and its options. JSON has none of these."""
    options = {}
    if path.suffix == ".json":
        text, folder = path.read_bytes(), path.parent
    else:
        read = folder / path.name
        written = path.read_text(encoding="utf-8")
        options = {_OPTIONS[name]: value == "true" for name, value in _OPTION.findall(written) if name in _OPTIONS}
        script = wat.with_plain_nulls(wat.assemblable(written))
        read.write_text(script, encoding="utf-8")
        try:
            text = run_wasm_tools(["json-from-wast", read, "--wasm-dir", folder], what_for=f"reading {path}")
        except WasmToolsError as error:
            raise WasmToolsError(str(error).replace(str(read), str(path))) from None
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("commands"), list):
        raise ValueError(f"{path} has no commands: it is not what wasm-tools json-from-wast writes")
    return found["commands"], folder, options


# ----------------------------------------------------------------------------------------------------------------------
# Commands


class _CommandFailed(Exception):
    """What a command came to is not what it asserts."""


class _Skipped(Exception):
    """A command cannot be run, for a reason that is nobody's fault."""


class _Script:
    """One script being run: its instances, by name, and what is registered to be imported."""

    def __init__(self, store: Store, folder: Path, result: ScriptResult) -> None:
        self._store, self._folder, self._result = store, folder, result
        self._definitions: dict[str | None, Module] = {}
        self._instances: dict[str | None, Instance] = {}
        """By name; the last one as None too."""
        self._registered: dict[str, Mapping[str, Any]] = {}
        self._harness = _Harness(store)
        self._broken: int | None = None
        """In which line the last module is, if it could not be made an instance."""

    def run(self, command: dict[str, Any]) -> None:
        """Run a command, and note what it came to."""
        kind, result = command["type"], self._result
        result.commands += 1
        try:
            do = _COMMANDS.get(kind)
            if do is None:
                raise _CommandFailed(f"there is no command {kind!r}")
            do(self, command)
        except _Skipped as skipped:
            result.skipped[str(skipped)] = result.skipped.get(str(skipped), 0) + 1
        except _CommandFailed as failed:
            result.failures.append(Failure(command.get("line", 0), kind, str(failed)))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            result.failures.append(Failure(command.get("line", 0), kind, what))

    # Modules

    def _source(self, command: dict[str, Any]) -> bytes:
        """The module that a command names: a binary where there is one, else text."""
        name: str = command.get("binary_filename") or command["filename"]
        return (self._folder / name).read_bytes()

    def _instantiate(self, module: Module) -> Instance:
        found = {}
        for each in module.imports:
            key = each.module, each.name
            exports = self._exports_of(each.module)
            if exports is not None:
                if each.name in exports:
                    found[key] = exports[each.name]
            elif (item := self._harness.get(*key)) is not None:
                found[key] = item
        return Instance(self._store, module, found)

    def _exports_of(self, name: str) -> Mapping[str, Any] | None:
        """What is to be imported from a module: one that is registered, or, as in wasmtime's scripts, just named."""
        if name in self._registered:
            return self._registered[name]
        named = self._instances.get(name)
        return None if named is None else named.exports

    def _module(self, command: dict[str, Any]) -> None:
        name = command.get("name")
        self._instances.pop(None, None)
        self._instances.pop(name, None)
        try:
            module = Module(self._store.engine, self._source(command))
            self._definitions[None] = self._definitions[name] = module
            self._instances[None] = self._instances[name] = self._instantiate(module)
        except Exception:
            self._broken = command.get("line")
            raise

    def _define(self, command: dict[str, Any]) -> None:
        module = Module(self._store.engine, self._source(command))
        self._definitions[None] = self._definitions[command.get("name")] = module

    def _make_instance(self, command: dict[str, Any]) -> None:
        definition = self._definitions.get(command.get("module"))
        if definition is None:
            raise _CommandFailed(f"there is no module definition {command.get('module')!r}")
        self._instances.pop(None, None)
        instance = self._instantiate(definition)
        self._instances[None] = self._instances[command.get("instance")] = instance

    def _instance(self, name: str | None) -> Instance:
        found = self._instances.get(name)
        if found is None:
            why = "" if self._broken is None else f": the module in line {self._broken} has failed"
            raise _CommandFailed(f"there is no instance{'' if name is None else f' {name!r}'}{why}")
        return found

    def _register(self, command: dict[str, Any]) -> None:
        self._registered[command["as"]] = self._instance(command.get("name")).exports

    # Actions

    def _act(self, action: dict[str, Any]) -> list[Any]:
        """Do an action, and return its results: floats as their bits."""
        exports = self._instance(action.get("module")).exports
        item = exports[action["field"]]
        if action["type"] == "get":
            if not isinstance(item, Global):
                raise _CommandFailed(f"the export {action['field']!r} is no global: {item!r}")
            return [_global_bits(item)]
        if not isinstance(item, Func):
            raise _CommandFailed(f"the export {action['field']!r} is no function: {item!r}")
        args = [_argument(self._store, each) for each in action["args"]]
        return _call(self._store, item, args)

    def _action(self, command: dict[str, Any]) -> None:
        self._act(command["action"])

    # Assertions

    def _assert_return(self, command: dict[str, Any]) -> None:
        results, expected = self._act(command["action"]), command["expected"]
        instance = self._instance(command["action"].get("module"))
        if len(results) != len(expected):
            raise _CommandFailed(f"there are {len(results)} results, {results}; {len(expected)} are expected")
        for result, pattern in zip(results, expected, strict=True):
            if not _matches(instance, result, pattern):
                raise _CommandFailed(f"the result is {_shown(result, pattern)}; expected is {_described(pattern)}")

    def _assert_trap(self, command: dict[str, Any]) -> None:
        _expect_trap(lambda: self._act(command["action"]), command["text"])

    def _assert_exception(self, command: dict[str, Any]) -> None:
        try:
            results = self._act(command["action"])
        except WasmException:
            return
        raise _CommandFailed(f"an exception is expected; the call returned {results}")

    def _assert_uninstantiable(self, command: dict[str, Any]) -> None:
        module = Module(self._store.engine, self._source(command))
        try:
            _expect_trap(lambda: self._instantiate(module), command["text"])
        except HeapError as error:  # it is too large
            if "size" not in command["text"]:
                raise _CommandFailed(f"expected is the trap {command['text']!r}; it is {error}") from error

    def _assert_unlinkable(self, command: dict[str, Any]) -> None:
        module = Module(self._store.engine, self._source(command))
        try:
            self._instantiate(module)
        except Trap as trap:  # for older scripts, a module that traps while it is instantiated cannot be linked
            _expect(trap, command["text"])
            return
        except LinkError as error:
            is_missing = "missing" in str(error)
            if is_missing != (command["text"] == "unknown import"):
                raise _CommandFailed(f"expected is {command['text']!r}; it says {error}") from error
            return
        raise _CommandFailed(f"it is linked; expected is {command['text']!r}")

    def _assert_not_valid(self, command: dict[str, Any]) -> None:
        source = self._source(command)
        try:
            if source.startswith(b"\0asm"):
                Module.validate(self._store.engine, source)
            else:
                Module(self._store.engine, source)
        except MalformedModuleError:
            return
        raise _CommandFailed(f"it is accepted; expected is {command['text']!r}")

    # Refusals

    def _refuse_threads(self, command: dict[str, Any]) -> None:
        raise _Skipped("thread and wait: a store has one thread")

    def _refuse_suspension(self, command: dict[str, Any]) -> None:
        raise _Skipped("assert_suspension: stack switching is in no standard yet")

    def _refuse_custom(self, command: dict[str, Any]) -> None:
        raise _Skipped(f"{command['type']}: what is in custom sections makes no module invalid")


_COMMANDS: dict[str, Callable[[_Script, dict[str, Any]], None]] = {
    "module": _Script._module,
    "module_definition": _Script._define,
    "module_instance": _Script._make_instance,
    "register": _Script._register,
    "action": _Script._action,
    "assert_return": _Script._assert_return,
    "assert_trap": _Script._assert_trap,
    "assert_exhaustion": _Script._assert_trap,
    "assert_exception": _Script._assert_exception,
    "assert_uninstantiable": _Script._assert_uninstantiable,
    "assert_unlinkable": _Script._assert_unlinkable,
    "assert_invalid": _Script._assert_not_valid,
    "assert_malformed": _Script._assert_not_valid,
    "assert_invalid_custom": _Script._refuse_custom,
    "assert_malformed_custom": _Script._assert_not_valid,
    "assert_suspension": _Script._refuse_suspension,
    "thread": _Script._refuse_threads,
    "wait": _Script._refuse_threads,
}


# ----------------------------------------------------------------------------------------------------------------------
# Traps

_NULL = "null reference"
_WORDINGS = {
    "null function reference": _NULL,
    "null structure reference": _NULL,
    "null array reference": _NULL,
    "null i31 reference": _NULL,
    "null exception reference": _NULL,
}
"""What a script calls a trap, and what wasmtime does, where the one is not in the other."""


def _expect_trap(do: Callable[[], Any], text: str) -> None:
    try:
        outcome = do()
    except Trap as trap:
        _expect(trap, text)
        return
    raise _CommandFailed(f"expected is the trap {text!r}; it came to {outcome}")


def _expect(trap: Trap, text: str) -> None:
    said = trap.code.message
    # Some scripts end by the number of the element, which is not in the wording.
    if _WORDINGS.get(text, text.rstrip("0123456789").rstrip()) not in said:
        raise _CommandFailed(f"expected is the trap {text!r}; it is {said!r}") from trap


# ----------------------------------------------------------------------------------------------------------------------
# Values

_SIZES = {"i8": 8, "i16": 16, "i32": 32, "i64": 64, "f32": 32, "f64": 64}
_CANONICAL = {"f32": 0x7FC00000, "f64": 0x7FF8000000000000}
"""The bits of a canonical NaN, but for its sign; an arithmetic one has these set, and any others."""
_BITS = {F32: ctypes.c_uint32, F64: ctypes.c_uint64}
_FORMATS = {"f32": "<f", "f64": "<d"}


@dataclass(frozen=True, slots=True)
class HostReference:
    """The value in an externref of a script, which tells them apart by number."""

    number: int


def _argument(store: Store, given: dict[str, Any]) -> Any:
    """Return the Python value that a script gives: a float as its bits."""
    kind: str = given["type"]
    value: Any = given.get("value")
    if kind in _SIZES:
        return _signed(int(value), _SIZES[kind])
    if kind == "v128":
        return _vector(given["lane_type"], value)
    if value is None or value == "null":
        return None
    if kind in ("externref", "anyref"):
        return ExternRef(store, HostReference(int(value)))
    raise _CommandFailed(f"there is no value {given}")


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _vector(lane: str, values: Sequence[str]) -> int:
    size = _SIZES[lane]
    return sum((int(value) & ((1 << size) - 1)) << size * number for number, value in enumerate(values))


def _call(store: Store, function: Func, args: Sequence[Any]) -> list[Any]:
    """Call a function with its floats as bits, and return its results so."""
    returned = runtime_of(store).call_bits(function, args)
    assert isinstance(function.type, FuncType), "a function has a function type"
    return [returned] if len(function.type.results) == 1 else list(returned or ())


def _global_bits(item: Global) -> Any:
    storage = item.type.storage
    if isinstance(storage, NumType) and storage in _BITS:
        return _BITS[storage].from_address(item.address).value
    return item.value


def _matches(instance: Instance, result: Any, pattern: dict[str, Any]) -> bool:
    """Whether a result is what a script expects."""
    kind: str = pattern["type"]
    value: Any = pattern.get("value")
    if kind == "either":
        return any(_matches(instance, result, each) for each in pattern["values"])
    if kind in _SIZES:
        return isinstance(result, int) and _matches_bits(kind, result, value)
    if kind == "v128":
        lane = pattern["lane_type"]
        size = _SIZES[lane] // 8
        if not isinstance(result, int):
            return False
        data = result.to_bytes(16, "little")
        lanes = [int.from_bytes(data[place : place + size], "little") for place in range(0, 16, size)]
        return len(lanes) == len(value) and all(map(_matches_bits, [lane] * len(lanes), lanes, value))
    if value == "null" or kind in _NULLS:
        return result is None
    if isinstance(value, str):
        return isinstance(result, ExternRef) and result.value == HostReference(int(value))
    if kind == "funcref" and isinstance(value, dict):
        return isinstance(result, Func) and result.name in _names(instance, value["index"])
    accepted = _CLASSES.get(kind)
    return result is not None and accepted is not None and isinstance(result, accepted)


def _matches_bits(kind: str, bits: int, value: str) -> bool:
    size = _SIZES[kind]
    bits &= (1 << size) - 1
    if value == "nan:canonical":
        return bits & ((1 << (size - 1)) - 1) == _CANONICAL[kind]
    if value == "nan:arithmetic":
        return bits & _CANONICAL[kind] == _CANONICAL[kind]
    return bits == int(value) & ((1 << size) - 1)


_NULLS = ("refnull", "nullref", "nullfuncref", "nullexternref", "nullexnref")
_CLASSES: dict[str, Any] = {
    "funcref": Func,
    "structref": Struct,
    "arrayref": Array,
    "i31ref": I31,
    "eqref": (Struct, Array, I31),
    "anyref": (Struct, Array, I31, ExternRef),
    "externref": object,
    "exnref": object,
}
"""What a reference is in Python that a script knows no more of than its type."""


def _names(instance: Instance, index: int) -> set[str]:
    """The names that a module's function can have in Python."""
    module = instance.module
    exported = {each.name for each in module.decoded.exports if each.kind == "function" and each.index == index}
    return exported | {module.function_name(index)}


def _shown(result: Any, pattern: dict[str, Any]) -> str:
    kind = pattern["type"]
    if kind in ("f32", "f64") and isinstance(result, int):
        bits = (result & ((1 << _SIZES[kind]) - 1)).to_bytes(_SIZES[kind] // 8, "little")
        return f"{kind} {int.from_bytes(bits, 'little'):#x} ({struct.unpack(_FORMATS[kind], bits)[0]!r})"
    if kind == "v128" and isinstance(result, int):
        size = _SIZES[pattern["lane_type"]]
        return " ".join(f"{result >> shift & ((1 << size) - 1):#x}" for shift in range(0, 128, size))
    return repr(result)


def _described(pattern: dict[str, Any]) -> str:
    kind: str = pattern["type"]
    value: Any = pattern.get("value")
    if kind in ("f32", "f64") and not value.startswith("nan"):
        return _shown(int(value), pattern)
    if kind == "either":
        return " or ".join(map(_described, pattern["values"]))
    return f"{kind}{'' if value is None else f' {value}'}"


# ----------------------------------------------------------------------------------------------------------------------
# What every script may import


class _Harness:
    """The module `spectest`, and `wasmtime.gc`. Nothing of it is made before a script's module imports it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: dict[tuple[str, str], Any] = {}

    def get(self, module: str, name: str) -> Any:
        """Return a function, which does nothing, or what a module of that text exports; None when there is none."""
        key = module, name
        if key not in self._made:
            if key == ("wasmtime", "gc"):
                self._made[key] = Func(self._store, FuncType((), ()), self._store.collect)
            elif module != "spectest":
                return None
            elif name in _PRINTERS:
                self._made[key] = Func(self._store, FuncType(_PRINTERS[name], ()), lambda *_: None)
            elif name in _HARNESS:
                text = _HARNESS[name].format(f'(export "{name}")')
                compiled = Module(self._store.engine, f"(module ({text}))")
                self._made[key] = Instance(self._store, compiled).exports[name]
        return self._made.get(key)


_PRINTERS: dict[str, tuple[ValType, ...]] = {
    "print": (),
    "print_i32": (I32,),
    "print_i64": (I64,),
    "print_f32": (F32,),
    "print_f64": (F64,),
    "print_i32_f32": (I32, F32),
    "print_f64_f64": (F64, F64),
}

_HARNESS = {
    "global_i32": "global {} i32 (i32.const 666)",
    "global_i64": "global {} i64 (i64.const 666)",
    "global_f32": "global {} f32 (f32.const 666.6)",
    "global_f64": "global {} f64 (f64.const 666.6)",
    "table": "table {} 10 20 funcref",
    "table64": "table {} i64 10 20 funcref",
    "memory": "memory {} 1 2",
    "shared_memory": "memory {} 1 2 shared",
}
