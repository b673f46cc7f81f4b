"""What the indices of one module mean: its types, and how objects of them are laid out.

Everything that emits code for a module asks here. A type index of the module's and the engine's index of the same type
are two numbers: `canonical` turns one into the other.
"""

from __future__ import annotations

from lowheap.collectors.interface import ELEMENT, NO_FIELD, NO_TYPE, Shape
from lowheap.jit.barriers import Barriers
from lowheap.layout import GcArrayLayout, GcStructLayout, GcTypeLayouts
from lowheap.types import (
    ArrayType,
    FieldType,
    RefType,
    StorageType,
    StructType,
    storage_size,
)
from lowheap.wasm.outline import ModuleOutline


class ModuleContext(ModuleOutline):
    """The types of one module, and what its code is compiled with.

    `inline_allocation`: blocks are taken off the size classes' lists without a call of the runtime, where there is one.
    """

    def __init__(self, outline: ModuleOutline, barriers: Barriers, *, inline_allocation: bool) -> None:
        """Keep what all functions of the module need to know; what the outline has found is shared with it."""
        vars(self).update(vars(outline))
        self.barriers = barriers
        self.inline_allocation = inline_allocation
        self._layouts = GcTypeLayouts()
        self._layout_cache: dict[int, GcStructLayout | GcArrayLayout] = {}

    def fields(self, type_index: int) -> tuple[FieldType, ...]:
        """Return the fields of a struct type at one of the module's type indices."""
        composite = self.types[self.type_indices[type_index]].composite
        assert isinstance(composite, StructType), "validated: struct instructions have struct types"
        return composite.fields

    def element(self, type_index: int) -> FieldType:
        """Return the element of an array type at one of the module's type indices."""
        composite = self.types[self.type_indices[type_index]].composite
        assert isinstance(composite, ArrayType), "validated: array instructions have array types"
        return composite.element

    def part(self, type_index: int, number: int) -> FieldType:
        """Return a field of a struct type, or, if its number is `ELEMENT`, the element of an array type."""
        return self.element(type_index) if number == ELEMENT else self.fields(type_index)[number]

    def shape(self, type: RefType, *, is_mutable: bool, type_index: int = NO_TYPE, number: int = NO_FIELD) -> Shape:
        """Return what barriers are told of a reference, and of the slot that it is in."""
        is_traced = self.types.is_traced(type)
        return Shape.of(type, is_traced=is_traced, type_index=type_index, field=number, is_mutable=is_mutable)

    def shape_of_table(self, table: int) -> Shape:
        """Return that of the elements of a table."""
        return self.shape(self.table_types[table].element, is_mutable=True)

    def shape_of_segment(self, segment: int) -> Shape:
        """Return that of the elements of an element segment, which become null when it is dropped."""
        heap_type = self.canonical(self.decoded.elements[segment].type).heap_type
        return self.shape(RefType(True, heap_type), is_mutable=True)

    def shape_of_part(self, type_index: int, number: int) -> Shape | None:
        """Return that of a field, or an element; None for one that is no reference."""
        part = self.part(type_index, number)
        if not isinstance(part.storage, RefType):
            return None
        return self.shape(part.storage, is_mutable=part.mutable, type_index=type_index, number=number)

    def origin_of_field(self, type_index: int, number: int) -> int:
        """Return the engine's index of the topmost supertype of a struct type that has field `number`."""
        for index in self.types.supertypes(self.type_indices[type_index]):
            composite = self.types[index].composite
            if isinstance(composite, StructType) and number < len(composite.fields):
                return index
        raise AssertionError("validated: a struct type has the fields that instructions name")

    def field_name(self, type_index: int, number: int) -> str:
        """Return what alias analysis calls a field, which is one with that of the supertypes that have it."""
        return f"struct {self.origin_of_field(type_index, number)}+{number}"

    def element_name(self, type_index: int) -> str:
        """Return what alias analysis calls the elements of an array type, and of its subtypes."""
        return f"array {self.types.supertypes(self.type_indices[type_index])[0]}"

    def struct_layout(self, type_index: int) -> GcStructLayout:
        """Return the layout of a struct type at one of the module's type indices."""
        layout = self._layout_cache.get(type_index)
        if layout is None:
            layout = self._layouts.struct_layout(
                [self._slot(f.storage) for f in self.fields(type_index)], is_hidden=self._is_hidden(type_index)
            )
            self._layout_cache[type_index] = layout
        assert isinstance(layout, GcStructLayout), "validated: struct instructions have struct types"
        return layout

    def exception_layout(self, type_index: int) -> GcStructLayout:
        """Return the layout of exceptions whose tag has this function type, by the module's type index."""
        layout = self._layout_cache.get(type_index)
        if layout is None:
            layout = self._layouts.exception_layout([self._slot(p) for p in self.function_type(type_index).params])
            self._layout_cache[type_index] = layout
        assert isinstance(layout, GcStructLayout), "validated: a tag has a function type"
        return layout

    def array_layout(self, type_index: int) -> GcArrayLayout:
        """Return the layout of an array type at one of the module's type indices."""
        layout = self._layout_cache.get(type_index)
        if layout is None:
            layout = self._layouts.array_layout(
                self._slot(self.element(type_index).storage), is_hidden=self._is_hidden(type_index)
            )
            self._layout_cache[type_index] = layout
        assert isinstance(layout, GcArrayLayout), "validated: array instructions have array types"
        return layout

    def _is_hidden(self, type_index: int) -> bool:
        return self.types[self.type_indices[type_index]].hidden

    def _slot(self, storage: StorageType) -> tuple[int, bool]:
        return storage_size(storage), self.types.is_traced(storage)
