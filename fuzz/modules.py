"""Random modules: of a seed, what `wasm-tools smith` makes of its bytes, with functions that anybody can call.

A function of smith's may take and return references and vectors, which cannot be handed to every engine. So a module is
given, for each function whose parameters can be made, one that takes numbers only: it makes the references, calls, and
returns numbers: of a reference, whether it is null; of a vector, its halves. Another one returns what is in the globals
and tables. All modules end: smith counts down as they run, and traps.

Some modules import. What they do comes from a second module, which is made for that: functions that return an argument
or a constant, or throw, and memories, tables, globals and tags of just the types that are wanted.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lowheap.types import (
    V128,
    AbstractHeapType,
    ArrayType,
    FuncType,
    GlobalType,
    MemoryType,
    NumType,
    RefType,
    StructType,
    TableType,
    ValType,
)
from lowheap.wasm.decode import (
    DecodedModule,
    FunctionImport,
    GlobalImport,
    MemoryImport,
    TableImport,
    TagImport,
    decode,
)
from lowheap.wasm.validate import to_binary
from lowheap.wasm.wasm_tools import run_wasm_tools

FEATURES = (
    "bulk-memory",
    "custom-page-sizes",
    "exceptions",
    "gc",
    "memory64",
    "multi-value",
    "reference-types",
    "saturating-float-to-int",
    "sign-extension-ops",
    "simd",
    "tail-call",
    "wide-arithmetic",
)
"""What smith may use."""

_LIMITS: dict[str, int | str] = {
    "min-funcs": 4,
    "max-funcs": 8,
    "max-instructions": 200,
    "max-types": 10,
    "max-memories": 3,
    "max-tables": 3,
    "max-table-elements": 60,
    "max-memory32-bytes": 200_000,
    "max-memory64-bytes": 200_000,
    "memory-max-size-required": "true",
    "table-max-size-required": "true",
    "canonicalize-nans": "true",  # which NaN an operation makes is left open, too
    "relaxed-simd-enabled": "false",  # and much of these
    "threads-enabled": "false",  # memories would be shared
    "shared-everything-threads-enabled": "false",
    "custom-descriptors-enabled": "false",
    "compact-imports-enabled": "false",
    "generate-custom-sections": "false",
}
_BYTES = (300, 6000)

CALL, STATE, MEMORY = "call ", "state", "memory "
"""How the exports are called that are added: a function's by its index, a memory's by its own."""

IMPORTED = "imported"
"""The module that is imported from; the names are numbers, in order."""

_WITH_IMPORTS = 4
"""One in so many modules imports."""


@dataclass(frozen=True)
class Module:
    """A module, and which functions and memories of it anybody can use."""

    binary: bytes
    functions: dict[int, tuple[NumType, ...]]
    """The types of numbers that each of the added functions takes, by the number in its name."""
    memories: tuple[int, ...]
    has_state: bool
    imported: bytes | None
    """The module whose exports it imports, `"0"` and so on; None where it imports nothing."""
    through_host: tuple[str, ...]
    """The names of functions among them that it gets as the host's, which calls them."""


def make(seed: int, without: tuple[str, ...] = ()) -> Module:
    """Return a module; `without` names features that it must not use. Every third has few instructions that trap."""
    source = random.Random(seed)
    flags = [f"--{name}-enabled={'false' if name in without else 'true'}" for name in FEATURES]
    flags += [f"--{name}={value}" for name, value in _LIMITS.items()]
    flags.append(f"--disallow-traps={str(seed % 3 == 0).lower()}")
    fewest, most = (2, 10) if seed % _WITH_IMPORTS == 1 else (0, 0)
    flags += [f"--min-imports={fewest}", f"--max-imports={most}"]
    while True:
        data = source.randbytes(source.randint(*_BYTES))
        given = ["smith", "--wat", "--ensure-termination", *flags]
        text = run_wasm_tools(given, given=data, what_for="fuzzing").decode()
        with contextlib.suppress(CannotProvideError):
            return _described(_with_calls(_numbered(text)))


def _numbered(text: str) -> str:
    """Return a module's text in which each import has another name."""
    numbers = itertools.count()
    return _IMPORT.sub(lambda _: f'(import "{IMPORTED}" "{next(numbers)}"', text)


_IMPORT = re.compile(r'\(import "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*"')


def callable_module(binary: bytes) -> Module:
    """Return a module that anybody can call; one that has been made so is not changed, though parts may be gone."""
    if not any(each.name == STATE or each.name.startswith(CALL) for each in decode(binary).exports):
        text = run_wasm_tools(["print", "-"], given=binary, what_for="fuzzing").decode()
        binary = _with_calls(text)
    return _described(binary)


def _with_calls(text: str) -> bytes:
    """Return the binary of a module's text, with the functions that are added."""
    end = text.rindex(")")
    return to_binary("\n".join((text[:end], *_added(decode(to_binary(text))), ")")))


def _described(binary: bytes) -> Module:
    found = decode(binary)
    functions = {
        int(each.name.removeprefix(CALL)): _numbers(_function_type(found, each.index))
        for each in found.exports
        if each.name.startswith(CALL)
    }
    memories = tuple(int(each.name.removeprefix(MEMORY)) for each in found.exports if each.name.startswith(MEMORY))
    has_state = any(each.name == STATE for each in found.exports)
    imported = _imported_by(binary) if found.imports else None
    return Module(binary, functions, memories, has_state, imported, tuple(_through_host(found)))


def read(path: Path) -> Module:
    """Return the module in a file."""
    return callable_module(path.read_bytes())


# ----------------------------------------------------------------------------------------------------------------------
# What is added


def _function_type(module: DecodedModule, index: int) -> FuncType:
    imported = [each.desc.type_index for each in module.imports if isinstance(each.desc, FunctionImport)]
    return _signature(module, (imported + module.functions)[index])


def _signature(module: DecodedModule, type_index: int) -> FuncType:
    type = _composite(module, type_index)
    assert isinstance(type, FuncType), "a function has a function type"
    return type


def _composite(module: DecodedModule, type_index: int) -> StructType | ArrayType | FuncType:
    return [member for group in module.rec_groups for member in group][type_index].composite


def _numbers(type: FuncType) -> tuple[NumType, ...]:
    """The numbers of which a function's arguments are made."""
    return tuple(number for each in type.params for number in _made_of(each))


def _made_of(type: ValType) -> tuple[NumType, ...]:
    if isinstance(type, NumType):
        return (type,)
    return (NumType.I64, NumType.I64) if type is V128 else ()


def _added(module: DecodedModule) -> Iterator[str]:
    """Yield the fields that a module is given."""
    count = sum(isinstance(each.desc, FunctionImport) for each in module.imports) + len(module.functions)
    for index in range(count):
        type = _function_type(module, index)
        arguments = _arguments(type)
        if arguments is not None:
            params = "".join(f" (param {each})" for each in _numbers(type))
            yield _returning(f"{CALL}{index}", params, [*arguments, f"(call {index})"], list(type.results))
    values: list[ValType] = []
    code = []
    descs = [each.desc for each in module.imports]
    globals = [each.type for each in descs if isinstance(each, GlobalImport)]
    globals += [each.type for each in module.globals]
    for number, each in enumerate(globals):
        code.append(f"(global.get {number})")
        values.append(each.storage)
    tables = [each.type for each in descs if isinstance(each, TableImport)]
    tables += [each.type for each in module.tables]
    for number, table in enumerate(tables):
        address = "i64" if table.is_64 else "i32"
        for place in range(4):
            code.append(
                f"(if (result i32) ({address}.gt_u (table.size {number}) ({address}.const {place})) "
                f"(then (ref.is_null (table.get {number} ({address}.const {place})))) (else (i32.const 2)))"
            )
        code.append(f"(table.size {number})")
        values += [NumType.I32] * 4 + [NumType.I64 if address == "i64" else NumType.I32]
    yield _returning(STATE, "", code, values)
    for number in range(sum(isinstance(each, MemoryImport) for each in descs) + len(module.memories)):
        yield f'(export "{MEMORY}{number}" (memory {number}))'


def _arguments(type: FuncType) -> list[str] | None:
    """The instructions that push a function's arguments; None when one cannot be made."""
    code, taken = [], 0
    for each in type.params:
        made = _made_of(each)
        if each is V128:
            code.append(
                f"(i64x2.replace_lane 1 (i64x2.splat (local.get {taken})) (local.get {taken + 1}))",
            )
        elif made:
            code.append(f"(local.get {taken})")
        elif isinstance(each, RefType) and each.nullable:
            code.append(f"(ref.null {each.heap_type})")
        elif isinstance(each, RefType) and each.heap_type in _I31_IS_ONE:
            code.append("(ref.i31 (i32.const 5))")
        else:
            return None
        taken += len(made)
    return code


_I31_IS_ONE = (AbstractHeapType.ANY, AbstractHeapType.EQ, AbstractHeapType.I31)


def _returning(name: str, params: str, code: list[str], values: list[ValType]) -> str:
    """A function that pushes values, and returns numbers that tell them."""
    results: list[str] = []
    told: list[str] = []
    for number, each in enumerate(values):
        local = f"(local.get $v{number})"
        if isinstance(each, RefType):
            results.append("i32")
            told.append(f"(ref.is_null {local})")
        elif each is V128:
            results += ["i64", "i64"]
            told += [f"(i64x2.extract_lane {lane} {local})" for lane in (0, 1)]
        else:
            results.append(str(each))
            told.append(local)
    taken = [f"(local.set $v{number})" for number in reversed(range(len(values)))]
    locals = " ".join(f"(local $v{number} {each})" for number, each in enumerate(values))
    result = f"(result {' '.join(results)})" if results else ""
    return f'(func (export "{name}"){params} {result} {locals} {" ".join((*code, *taken, *told))})'


# ----------------------------------------------------------------------------------------------------------------------
# What is imported


class CannotProvideError(Exception):
    """A module imports a global or a table of a type of which nothing can be made beforehand."""


def _imported_by(binary: bytes) -> bytes:
    """Return the module that another one imports. Its types are the other's, so that they are the same."""
    module = decode(binary)
    text = run_wasm_tools(["print", "-"], given=binary, what_for="fuzzing").decode()
    other = _NO_TYPE.search(text)
    assert other is not None, "it imports something"
    tags = [number for number, each in enumerate(module.imports) if isinstance(each.desc, TagImport)]
    return to_binary("\n".join((text[: other.start()], *_provided(module, tags), ")")))


def _through_host(module: DecodedModule) -> Iterator[str]:
    """Yield names of imported functions of numbers that do not throw: wasmtime lets nobody catch what a host throws."""
    for number, each in enumerate(module.imports):
        if isinstance(each.desc, FunctionImport) and number % _THROWING and number % 2:
            type = _signature(module, each.desc.type_index)
            if all(isinstance(value, NumType) for value in (*type.params, *type.results)):
                yield each.name


_THROWING = 3
"""One in so many imported functions throws, if a tag is imported, too."""

_NO_TYPE = re.compile(r"^  \((?!type|rec)", re.MULTILINE)


def _provided(module: DecodedModule, tags: list[int]) -> Iterator[str]:
    yield "(func $nothing) (elem declare func $nothing)"
    for number, each in enumerate(module.imports):
        desc, name = each.desc, f'$x{number} (export "{number}")'
        match desc:
            case FunctionImport():
                type = _signature(module, desc.type_index)
                thrown = tags[number % len(tags)] if tags and number % _THROWING == 0 else None
                yield f"(func {name} (type {desc.type_index}) {' '.join(_body(module, type, thrown))})"
            case GlobalImport(type=GlobalType(storage, mutable)):
                yield f"(global {name} {f'(mut {storage})' if mutable else storage} {_constant(module, storage)})"
            case MemoryImport(MemoryType() as memory):
                yield f"(memory {name} {memory})"
            case TableImport(TableType() as table):
                yield f"(table {name} {table} {_constant(module, table.element)})"
            case TagImport():
                yield f"(tag {name} (type {desc.type_index}))"


def _body(module: DecodedModule, type: FuncType, thrown: int | None) -> Iterator[str]:
    """A function that throws an imported tag, or returns arguments where they are of the types, else constants."""
    values: list[ValType] = list(type.results)
    if thrown is not None:
        desc = module.imports[thrown].desc
        assert isinstance(desc, TagImport), "it is a tag"
        values = list(_signature(module, desc.type_index).params)
    try:
        for each in values:
            yield f"(local.get {type.params.index(each)})" if each in type.params else _constant(module, each)
    except CannotProvideError:
        yield "unreachable"
        return
    if thrown is not None:
        yield f"(throw $x{thrown})"


def _constant(module: DecodedModule, type: ValType) -> str:
    """A constant expression for a value of a type. CannotProvideError where there is none."""
    if isinstance(type, NumType):
        return f"({type}.const 7)"
    if type is V128:
        return "(v128.const i64x2 7 8)"
    assert isinstance(type, RefType), "no other types of values are left"
    if type.nullable:
        return f"(ref.null {type.heap_type})"
    if type.heap_type in _I31_IS_ONE:
        return "(ref.i31 (i32.const 5))"
    if type.heap_type is AbstractHeapType.EXTERN:
        return "(extern.convert_any (ref.i31 (i32.const 6)))"
    if type.heap_type is AbstractHeapType.FUNC:
        return "(ref.func $nothing)"
    if isinstance(type.heap_type, int):
        composite = _composite(module, type.heap_type)
        if isinstance(composite, ArrayType):
            return f"(array.new_fixed {type.heap_type} 0)"
        storages = [each.storage for each in composite.fields] if isinstance(composite, StructType) else [type]
        if all(not isinstance(each, RefType) or each.nullable for each in storages):
            return f"(struct.new_default {type.heap_type})"
    raise CannotProvideError(str(type))
