"""What modules import of lowheap itself: JavaScript's strings, as functions of the module and as constants.

The functions of `wasm:js-string` are written in WebAssembly (`js_string.wat`). A module that imports some gets them
added to its own, behind these, with the types that they work on; what calls or names an imported one then means the
added one, and small ones stand in place of their calls. So they are compiled as the module's code is, for every
collector, and nothing is called that is not the module's. All indices of the module stay what they were: the imports
keep their places, which nothing refers to any more.

Two hidden types that no module can define keep strings apart from all other objects: `lowheap/strings.py`.

String constants are imported globals. Their names are the strings, in a namespace that whoever compiles the module
tells; or numbers in the namespace `string.const`, of a list in the custom section `string.consts`: so binaryen writes
them, all or those that UTF-8 cannot have.

Sources: the proposal "JS String Builtins" of WebAssembly; binaryen's pass StringLowering.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from lowheap.errors import LinkError, MalformedModuleError
from lowheap.representation import brief
from lowheap.types import (
    AbstractHeapType,
    FuncType,
    GlobalType,
    ImportType,
    RefType,
    SubType,
    TypeRegistry,
    ValType,
    map_indices,
    map_value,
)
from lowheap.wasm import validate
from lowheap.wasm.decode import (
    BlockType,
    DecodedModule,
    FunctionBody,
    FunctionImport,
    GlobalImport,
    Import,
    Instruction,
    Operand,
    decode,
)
from lowheap.wasm.inlining import as_block

BUILTINS = ("js-string",)
"""The sets of builtins that there are."""

_NAMESPACE = "wasm:"
_NUMBERED_CONSTANTS, _CONSTANTS_SECTION = "string.const", "string.consts"

_INLINED = ("test", "cast", "length", "whole", "charCodeAt")
"""What stands in place of its calls, those first that others call. Each sets its locals before it reads them."""

_TYPE_OPERANDS = {
    **dict.fromkeys(("struct.new", "struct.get", "struct.set"), 1),
    **dict.fromkeys(("array.new_default", "array.new_fixed", "array.get", "array.get_u", "array.set"), 1),
    "array.copy": 2,
    "string.write": 1,
    "string.unit": 1,
}
"""How many operands are type indices, of the instructions that the builtins use."""

_TESTS = ("br_on_cast_fail", "ref.test", "ref.cast", "ref.null")
"""The instructions of theirs with types among their operands."""

_ROPE = 1
"""The index of the ropes' type in the builtins' own module."""

_ENTERING = ("block", "loop", "if")


@dataclass(frozen=True, slots=True)
class Provided:
    """What lowheap gives a module: for imported functions, by their indices, those that were added, by theirs; for
    imports of constants, by their places among all imports, the strings.
    """

    functions: Mapping[int, int] = field(default_factory=dict)
    constants: Mapping[int, str] = field(default_factory=dict)


class _Callee(NamedTuple):
    """A function that stands in place of its calls."""

    type: FuncType
    body: FunctionBody


def with_builtins(
    decoded: DecodedModule, names: Sequence[str], types: TypeRegistry, end: int
) -> tuple[DecodedModule, dict[int, int]]:
    """Return a module with the builtins that it imports, and the added function that each imported one stands for.

    `names` are the sets of builtins to look at. Offsets from `end` on, behind the module's bytes, are those of the
    builtins' code. LinkError names all that are imported with another type than they have.
    """
    namespaces = {_NAMESPACE + name for name in names}
    if not any(each.module in namespaces for each in decoded.imports):
        return decoded, {}
    library = _library()
    imported = [each for each in decoded.imports if isinstance(each.desc, FunctionImport)]
    wanted = {
        index: library.exports[each.name]
        for index, each in enumerate(imported)
        if each.module in namespaces and each.name in library.exports
    }
    first_type = sum(map(len, decoded.rec_groups))
    first = len(imported) + len(decoded.functions)
    stands_for = {index: number for number, index in enumerate(wanted, first)}
    internal = library.called_by(wanted.values())
    helpers = {each: number for number, each in enumerate(internal, first + len(wanted))}
    move = _Move(first_type, helpers)

    added: list[FunctionBody] = []
    for each in (*wanted.values(), *internal):
        added.append(move.body(library.decoded.bodies[each], end))
        end = added[-1].end_offset
    type_indices = [_function_type_index(imported[index].desc) for index in wanted]
    _check_types(decoded, library, types, [(imported[index], number) for index, number in wanted.items()])
    own_types = _function_types(decoded)
    callees = {
        stands_for[index]: _Callee(own_types[type_index], body)
        for (index, number), type_index, body in zip(wanted.items(), type_indices, added, strict=False)
        if number in library.inlined
    }
    bodies = []
    for body, type_index in zip(decoded.bodies, decoded.functions, strict=True):
        renamed = replace(body, instructions=_renamed(body.instructions, stands_for))
        bodies.append(_with_inlined(renamed, len(own_types[type_index].params), callees))
    label = f"{_NAMESPACE}js-string"
    named = {
        **decoded.names.functions,
        **{number: f"{imported[index].module}.{imported[index].name}" for index, number in stands_for.items()},
        **{number: f"{label} {library.decoded.names.functions[each]}" for each, number in helpers.items()},
    }
    changed = replace(
        decoded,
        rec_groups=[*decoded.rec_groups, *([move.type(each) for each in group] for group in library.groups)],
        functions=[
            *decoded.functions,
            *type_indices,
            *(library.decoded.functions[each] + first_type for each in internal),
        ],
        bodies=[*bodies, *added],
        exports=[
            replace(each, index=stands_for.get(each.index, each.index)) if each.kind == "function" else each
            for each in decoded.exports
        ],
        elements=[
            replace(
                each,
                functions=tuple(stands_for.get(index, index) for index in each.functions),
                expressions=None
                if each.expressions is None
                else tuple(_renamed(expression, stands_for) for expression in each.expressions),
            )
            for each in decoded.elements
        ],
        globals=[replace(each, init=_renamed(each.init, stands_for)) for each in decoded.globals],
        tables=[
            each if each.init is None else replace(each, init=_renamed(each.init, stands_for))
            for each in decoded.tables
        ],
        names=replace(decoded.names, functions=named),
    )
    return changed, stands_for


def string_constants(
    decoded: DecodedModule, namespace: str | None, sections: Callable[[], Mapping[str, bytes]]
) -> dict[int, str]:
    """Return the strings that are constants of a module, by the places of their imports.

    `namespace` is the one whose imports' names are strings, if there is one; `sections` returns the custom sections.
    LinkError names all imports of it that are no such globals; MalformedModuleError for a list of strings that is none.
    """
    found: dict[int, str] = {}
    problems = []
    numbered = [each for each in decoded.imports if each.module == _NUMBERED_CONSTANTS]
    listed = _listed(sections()) if numbered else None
    for place, each in enumerate(decoded.imports):
        is_named = namespace is not None and each.module == namespace
        is_numbered = not is_named and listed is not None and each.module == _NUMBERED_CONSTANTS
        if not is_named and not is_numbered:
            continue
        desc = each.desc
        if not isinstance(desc, GlobalImport) or desc.type.mutable or not _is_externref(desc.type.storage):
            what = f"a global of type {desc.type}" if isinstance(desc, GlobalImport) else "no global"
            problems.append(f"import {each.module}.{brief(each.name)} is a string constant, and so an immutable global "
                            f"of type externref or (ref extern); here it is {what}")  # fmt: skip
        elif is_named:
            found[place] = each.name
        elif listed is not None and each.name.isdecimal() and int(each.name) < len(listed):
            found[place] = listed[int(each.name)]
    if problems:
        raise LinkError("; ".join(problems))
    return found


def string_namespaces(imports: Iterable[ImportType]) -> frozenset[str]:
    """Return the namespaces whose imports can be nothing but string constants: immutable globals of externrefs all."""
    every, others = set(), set()
    for each in imports:
        every.add(each.module)
        type = each.type
        if not isinstance(type, GlobalType) or type.mutable or not _is_externref(type.storage):
            others.add(each.module)
    return frozenset(every - others)


def _is_externref(type: object) -> bool:
    return isinstance(type, RefType) and type.heap_type is AbstractHeapType.EXTERN


def _listed(sections: Mapping[str, bytes]) -> list[str] | None:
    """The strings that the custom section lists; None without one."""
    if _CONSTANTS_SECTION not in sections:
        return None
    try:
        found = json.loads(sections[_CONSTANTS_SECTION].decode())
    except ValueError as error:
        raise MalformedModuleError(f"the custom section {_CONSTANTS_SECTION} is not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise MalformedModuleError(f"the custom section {_CONSTANTS_SECTION} is not a list of strings")
    return found


# ----------------------------------------------------------------------------------------------------------------------
# The library


@dataclass(frozen=True, slots=True)
class _Library:
    """The builtins' own module, in which small functions stand in place of their calls; what it exports, by name.

    `groups` are its types, those of strings hidden.
    """

    decoded: DecodedModule
    groups: Sequence[Sequence[SubType]]
    exports: Mapping[str, int]
    inlined: frozenset[int]

    def called_by(self, numbers: Iterable[int]) -> list[int]:
        """Return the functions that these call, and those that those call, in order."""
        reached: set[int] = set()
        pending = list(numbers)
        while pending:
            for each in self.decoded.bodies[pending.pop()].instructions:
                if each.name == "call" and _index(each) not in reached:
                    reached.add(_index(each))
                    pending.append(_index(each))
        return sorted(reached)


@functools.cache
def _library() -> _Library:
    """Read the builtins' module, once in a process."""
    text = (Path(__file__).parent / "js_string.wat").read_text(encoding="utf-8")
    decoded = _with_instructions(decode(validate.to_binary(text)))
    numbers = {name: number for number, name in decoded.names.functions.items()}
    types = _function_types(decoded)
    for name in _INLINED:
        number = numbers[name]
        callee = {number: _Callee(types[decoded.functions[number]], decoded.bodies[number])}
        bodies = [
            _with_inlined(body, len(types[type_index].params), callee)
            for body, type_index in zip(decoded.bodies, decoded.functions, strict=True)
        ]
        decoded = replace(decoded, bodies=bodies)
    strings, *others = decoded.rec_groups
    return _Library(
        decoded,
        [[replace(each, hidden=True) for each in strings], *others],
        {each.name: each.index for each in decoded.exports},
        frozenset(numbers[name] for name in _INLINED),
    )


def _with_instructions(decoded: DecodedModule) -> DecodedModule:
    """Return the module without its imports, which stand for instructions that WebAssembly has not."""
    count = len(decoded.imports)
    operands = {"string.write": (_ROPE,), "string.unit": (_ROPE,)}

    def told(each: Instruction) -> Instruction:
        if each.name not in ("call", "return_call"):
            return each
        index = _index(each)
        if index >= count:
            return each._replace(operands=(index - count,))
        name = decoded.imports[index].name
        return each._replace(name=name, operands=operands.get(name, ()))

    return replace(
        decoded,
        imports=[],
        bodies=[replace(body, instructions=tuple(map(told, body.instructions))) for body in decoded.bodies],
        exports=[replace(each, index=each.index - count) for each in decoded.exports],
        names=replace(
            decoded.names,
            functions={index - count: name for index, name in decoded.names.functions.items() if index >= count},
        ),
    )


def _check_types(
    decoded: DecodedModule, library: _Library, types: TypeRegistry, wanted: Iterable[tuple[Import, int]]
) -> None:
    """LinkError for imports whose types are not those of the library's functions of these numbers."""
    given, own = _registered(decoded.rec_groups, types), _registered(library.groups, types)
    problems = []
    for each, number in wanted:
        type_index = _function_type_index(each.desc)
        asked, has = types[given[type_index]].composite, types[own[library.decoded.functions[number]]].composite
        if asked != has:
            problems.append(
                f"import {each.module}.{each.name} is {_told(asked, types)}; the builtin is {_told(has, types)}"
            )
    if problems:
        raise LinkError("; ".join(problems))


def _registered(groups: Iterable[Sequence[SubType]], types: TypeRegistry) -> list[int]:
    """The engine's indices of a module's types."""
    indices: list[int] = []
    for group in groups:
        indices += types.register(group, outer=indices)
    return indices


def _told(type: object, types: TypeRegistry) -> str:
    """A function type in words, with the definitions of the types that it refers to."""
    assert isinstance(type, FuncType), "validated: a function's type is a function type"
    defined = [each.heap_type for each in (*type.params, *type.results) if isinstance(each, RefType)]
    told = [f"{each} is {types.describe(each)}" for each in dict.fromkeys(defined) if isinstance(each, int)]
    return f"{type}, where {', '.join(told)}" if told else str(type)


# ----------------------------------------------------------------------------------------------------------------------
# Code in other places


@dataclass(frozen=True, slots=True)
class _Move:
    """How the library's code becomes a module's: its types from an index on, and its functions' indices."""

    first_type: int
    functions: Mapping[int, int]

    def type(self, type: SubType) -> SubType:
        """Return a definition as it is there."""
        return map_indices(type, self._type_index)

    def body(self, body: FunctionBody, start: int) -> FunctionBody:
        """Return a function's body as it is there, from an offset on."""
        shift = start - body.offset
        return FunctionBody(
            tuple(map(self._value_type, body.locals)),
            tuple(
                each._replace(operands=self._operands(each), offset=each.offset + shift) for each in body.instructions
            ),
            body.offset + shift,
            body.entry_offset + shift,
            body.end_offset + shift,
            body.most_call_refs,
        )

    def _operands(self, instruction: Instruction) -> tuple[Operand, ...]:
        operands = instruction.operands
        if instruction.name == "call":
            return (self.functions[_index(instruction)],)
        if instruction.name in _ENTERING or instruction.name in _TESTS:
            return tuple(map(self._operand, operands))
        count = _TYPE_OPERANDS.get(instruction.name, 0)
        moved = [self._type_index(each) for each in operands[:count] if isinstance(each, int)]
        return (*moved, *operands[count:])

    def _operand(self, operand: Operand) -> Operand:
        if isinstance(operand, BlockType):
            return BlockType(
                tuple(map(self._value_type, operand.params)), tuple(map(self._value_type, operand.results))
            )
        return self._value_type(operand) if isinstance(operand, RefType) else operand

    def _value_type(self, type: ValType) -> ValType:
        return map_value(type, self._type_index)

    def _type_index(self, index: int) -> int:
        return self.first_type + index


def _renamed(instructions: Sequence[Instruction], functions: Mapping[int, int]) -> tuple[Instruction, ...]:
    """Return code that calls and names other functions in the place of some."""
    return tuple(
        each._replace(operands=(functions.get(_index(each), _index(each)),))
        if each.name in ("call", "return_call", "ref.func")
        else each
        for each in instructions
    )


def _with_inlined(body: FunctionBody, params: int, callees: Mapping[int, _Callee]) -> FunctionBody:
    """Return a function's body with some others in place of their calls; it has so many parameters itself.

    A block whose label is that of the function that is called takes its arguments in locals of its own, which all
    calls of that one share. What happens in it happens, for whoever asks, at the call.
    """
    if not any(each.name == "call" and _index(each) in callees for each in body.instructions):
        return body
    locals = list(body.locals)
    first_locals: dict[int, int] = {}
    code: list[Instruction] = []
    for each in body.instructions:
        callee = callees.get(_index(each)) if each.name == "call" else None
        if callee is None:
            code.append(each)
            continue
        first = first_locals.get(_index(each))
        if first is None:
            first = first_locals[_index(each)] = params + len(locals)
            locals += [*callee.type.params, *callee.body.locals]
        count = len(callee.type.params)
        code += [Instruction("local.set", (first + number,), each.offset) for number in reversed(range(count))]
        code.append(Instruction("block", (BlockType((), callee.type.results),), each.offset))
        code += [inside._replace(offset=each.offset) for inside in as_block(callee.body.instructions, first)]
    return replace(body, locals=tuple(locals), instructions=tuple(code))


def _function_types(decoded: DecodedModule) -> dict[int, FuncType]:
    """The function types of a module, by their indices."""
    members = [member.composite for group in decoded.rec_groups for member in group]
    return {index: each for index, each in enumerate(members) if isinstance(each, FuncType)}


def _function_type_index(desc: object) -> int:
    assert isinstance(desc, FunctionImport), "only functions are looked at"
    return desc.type_index


def _index(instruction: Instruction) -> int:
    index = instruction.operands[0]
    assert isinstance(index, int), "decoded: this operand is an index"
    return index
