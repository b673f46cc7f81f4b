"""What is known of a decoded module without compiling it: its functions' and globals' types, and what reaches them.

An instance needs no more, where the code comes from a cache.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lowheap.layout import VMContextLayout
from lowheap.types import ExternType, FuncType, GlobalType, RefType, TagType, TypeRegistry
from lowheap.wasm.call_targets import CALL, Site
from lowheap.wasm.decode import (
    DecodedModule,
    ExternalKind,
    FunctionImport,
    GlobalImport,
    Instruction,
    MemoryImport,
    TableImport,
    TagImport,
)

FUNCTION_TABLE = "lowheap.wasm_functions"
"""The addresses of the module's functions that can be called from outside, in the order of `escaping_functions`."""

CALLS_BY_TYPE = ("call_ref", "call_indirect", "return_call_ref", "return_call_indirect")
"""The instructions that call a function of which only the type is known, by the type's index, which comes first."""


class ModuleOutline:
    """The outline of a module. `type_indices` are the engine's indices of the module's types."""

    def __init__(self, decoded: DecodedModule, types: TypeRegistry, type_indices: Sequence[int]) -> None:
        """Gather what is known of functions and globals."""
        self.decoded = decoded
        self.types = types
        self.type_indices = type_indices
        descs = [each.desc for each in decoded.imports]
        self.imported_functions = [each.type_index for each in descs if isinstance(each, FunctionImport)]
        self.function_types = [self.function_type(t) for t in (*self.imported_functions, *decoded.functions)]
        imported_globals = [each.type for each in descs if isinstance(each, GlobalImport)]
        self.imported_global_count = len(imported_globals)
        self.global_types = [
            GlobalType(self.canonical(t.storage), t.mutable)
            for t in (*imported_globals, *(definition.type for definition in decoded.globals))
        ]
        imported_memories = [each.type for each in descs if isinstance(each, MemoryImport)]
        self.imported_memory_count = len(imported_memories)
        self.memory_types = [*imported_memories, *(definition.type for definition in decoded.memories)]
        imported_tables = [each.type for each in descs if isinstance(each, TableImport)]
        self.imported_table_count = len(imported_tables)
        self.table_types = [
            replace(t, element=self.canonical(t.element))
            for t in (*imported_tables, *(definition.type for definition in decoded.tables))
        ]
        imported_tags = [each.type_index for each in descs if isinstance(each, TagImport)]
        self.imported_tag_count = len(imported_tags)
        self.tags = [*imported_tags, *decoded.tags]
        """The module's type indices of all tags."""
        self.vmctx_layout = vmctx_layout(decoded)
        self.escaping_functions = self._find_escaping_functions()
        self._call_refs: dict[int, dict[int, int]] = {}  # of functions that were asked for: which each instruction is

    @functools.cached_property
    def _first_call_sites(self) -> Sequence[int]:
        return (0, *itertools.accumulate(body.most_call_refs for body in self.decoded.bodies))

    @property
    def call_site_count(self) -> int:
        """How many numbers `call_site` returns at most; no function's instructions need be read for it."""
        return self._first_call_sites[-1]

    def call_site(self, site: Site) -> int:
        """Return the number of a `call_ref` among those of the module."""
        index, number = site
        own = index - len(self.imported_functions)
        if index not in self._call_refs:
            places = (place for place, each in enumerate(self.decoded.bodies[own].instructions) if each.name == CALL)
            self._call_refs[index] = {place: which for which, place in enumerate(places)}
            assert len(self._call_refs[index]) <= self.decoded.bodies[own].most_call_refs, (
                "each takes a byte of its own"
            )
        return self._first_call_sites[own] + self._call_refs[index][number]

    def external_type(self, kind: ExternalKind, index: int) -> ExternType:
        """Return the type of one of the things that a module may import and export, by its index."""
        if kind == "tag":
            return TagType(self.function_type(self.tags[index]))
        types: Mapping[ExternalKind, Sequence[ExternType]] = {
            "function": self.function_types,
            "global": self.global_types,
            "memory": self.memory_types,
            "table": self.table_types,
        }
        return types[kind][index]

    def canonical(self, type: Any) -> Any:
        """Return a storage type with the engine's type index in place of the module's."""
        if isinstance(type, RefType) and isinstance(type.heap_type, int):
            return RefType(type.nullable, self.type_indices[type.heap_type])
        return type

    def uncanonical(self, type: Any) -> Any:
        """Return a storage type with an index of the module's in place of the engine's: the first of that type."""
        if isinstance(type, RefType) and isinstance(type.heap_type, int):
            return RefType(type.nullable, self.type_indices.index(type.heap_type))
        return type

    def function_type(self, type_index: int) -> FuncType:
        """Return the function type at one of the module's type indices."""
        composite = self.types[self.type_indices[type_index]].composite
        assert isinstance(composite, FuncType), "validated: a function's type is a function type"
        return composite

    def called_type(self, instruction: Instruction) -> FuncType | None:
        """Return the type of what an instruction calls; None for one that calls nothing."""
        if instruction.name in ("call", "return_call"):
            return self.function_types[index_operand(instruction)]
        if instruction.name in CALLS_BY_TYPE:
            type_index = instruction.operands[0]
            assert isinstance(type_index, int), "decoded: a type index comes first"
            return self.function_type(type_index)
        return None

    def _find_escaping_functions(self) -> list[int]:
        """Functions that more than direct calls can reach: exported ones, and those that `ref.func` names."""
        escaping = {export.index for export in self.decoded.exports if export.kind == "function"}
        escaping.update(index for segment in self.decoded.elements for index in segment.functions)
        tables = (definition.init for definition in self.decoded.tables if definition.init is not None)
        for init in (*(definition.init for definition in self.decoded.globals), *tables):
            escaping.update(index_operand(i) for i in init if i.name == "ref.func")
        return sorted(escaping)


def function_of(expression: Sequence[Instruction]) -> int | None:
    """The index of the function that a constant expression refers to, if it is no more than that; else None."""
    first, *others = expression
    return index_operand(first) if first.name == "ref.func" and len(others) == 1 else None


def index_operand(instruction: Instruction) -> int:
    """The index that is an instruction's only operand."""
    (index,) = instruction.operands
    assert isinstance(index, int), "decoded: this operand is an index"
    return index


EXTERNAL_KINDS: Mapping[type, ExternalKind] = {
    FunctionImport: "function",
    TableImport: "table",
    MemoryImport: "memory",
    GlobalImport: "global",
    TagImport: "tag",
}
"""What kind of thing an import is of, by the class of its description."""


def vmctx_layout(decoded: DecodedModule) -> VMContextLayout:
    """Return how the vmctx of the module's instances is laid out."""
    imported = Counter(type(each.desc) for each in decoded.imports)
    return VMContextLayout(
        imported_functions=imported[FunctionImport],
        imported_globals=imported[GlobalImport],
        defined_functions=len(decoded.functions),
        defined_globals=len(decoded.globals),
        imported_memories=imported[MemoryImport],
        imported_tables=imported[TableImport],
        defined_memories=len(decoded.memories),
        defined_tables=len(decoded.tables),
        data_segments=len(decoded.data),
        element_segments=len(decoded.elements),
        tags=imported[TagImport] + len(decoded.tags),
    )
