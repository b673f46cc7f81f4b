"""A heap of `drc` by itself: memory, a side table, roots, and types, without a store or compiled code."""

from __future__ import annotations

from typing import Any

from lowheap.collector import DrcCollection
from lowheap.heap import DrcHeap
from lowheap.hostdata import ExternRefHostDataTable
from lowheap.layout import MAXIMUM_CAPACITY, NULL, REFERENCE_SIZE, GcTypeLayouts
from lowheap.memory import Memory
from lowheap.roots import RootSet
from lowheap.types import (
    ANYREF,
    EXTERNREF,
    FUNCREF,
    I8,
    I31REF,
    I32,
    I64,
    ArrayType,
    FieldType,
    FuncType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TypeRegistry,
)

CAPACITY = 1 << 16

_layouts = GcTypeLayouts()
_TRACED, _UNTRACED, _LONG = (REFERENCE_SIZE, True), (REFERENCE_SIZE, False), (8, False)

# The layouts of a world's types, by their names there, and the offsets of a cell's reference and of a pair's second.
CELL = _layouts.struct_layout([_TRACED, _LONG])
LONG_CELL = _layouts.struct_layout([_TRACED, _LONG, _TRACED])
PAIR = _layouts.struct_layout([_TRACED, _TRACED, _UNTRACED, _UNTRACED, (1, False)])
REFS = _layouts.array_layout(_TRACED)
BYTES = _layouts.array_layout((1, False))
LONGS = _layouts.array_layout(_LONG)
TAG = _layouts.exception_layout([_TRACED, (4, False)])
NEXT, RIGHT = CELL.fields[0].offset, PAIR.fields[1].offset


def fields(*storages: StorageType) -> StructType:
    return StructType(tuple(FieldType(storage, True) for storage in storages))


class World:
    """A heap with memory, a side table and roots, and the types that the tests use."""

    def __init__(self, capacity: int = CAPACITY, maximum: int = MAXIMUM_CAPACITY, *, collector: Any = None) -> None:
        self.types = TypeRegistry()
        register = self.types.register
        (self.cell,) = register([SubType(fields(RefType(True, 0), I64), final=False)])
        (self.pair,) = register([SubType(fields(ANYREF, EXTERNREF, I31REF, FUNCREF, I8))])
        (self.refs,) = register([SubType(ArrayType(FieldType(ANYREF, True)))])
        (self.bytes,) = register([SubType(ArrayType(FieldType(I8, True)))])
        (self.longs,) = register([SubType(ArrayType(FieldType(I64, True)))])
        (self.tag,) = register([SubType(FuncType((ANYREF, I32), ()))])
        outer = tuple(self.types)
        longer = fields(RefType(True, self.cell), I64, ANYREF)
        (self.long_cell,) = register([SubType(longer, self.cell)], outer=outer)
        self.host_data = ExternRefHostDataTable()
        self.memory = Memory(capacity, maximum)
        self.heap = DrcHeap(self.types, collector=collector)
        self.heap.attach(self.memory, self.host_data)
        self.roots = RootSet(self.heap)
        for index in self.types:
            self.heap.register_type(index)

    def new_cell(self, following: int = NULL) -> int:
        """A new cell that takes over the caller's count of `following`."""
        cell = self.heap.alloc_uninit_struct(self.cell)
        self.heap.slot(cell, NEXT).value = following
        return cell

    def new_refs(self, *references: int) -> int:
        """A new array that takes over the caller's counts."""
        array = self.heap.alloc_uninit_array(self.refs, len(references))
        for number, reference in enumerate(references):
            self.heap.slot(array, REFS.element_offset(number)).value = reference
        return array

    def new_externref(self, value: object) -> int:
        return self.heap.alloc_externref(self.host_data.alloc(value))

    def count(self, reference: int) -> int:
        return self.heap.header(reference).ref_count

    def on_list(self) -> list[int]:
        return list(self.heap.over_approximated_stack_roots())

    def image(self) -> tuple[bytes, bytes]:
        """All of the heap's state: the control block, and the heap up to the bump pointer."""
        return bytes(self.heap.control), self.memory.read(0, self.heap.control.bump)

    def live(self) -> list[int]:
        return [found.index for found in self.heap.objects()]


class Collecting(World):
    """A heap, and compiled code that holds what is in `stack`."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[int] = []
        self.roots.add_stack_walker(lambda: list(self.stack))

    def exposed(self, count: int) -> list[int]:
        """Cells that only the list owns."""
        cells = [self.new_cell() for _ in range(count)]
        for cell in cells:
            self.heap.expose_gc_ref_to_wasm(cell)
        return cells

    def collection(self) -> DrcCollection:
        return DrcCollection(self.heap, self.roots)

    def marked(self) -> list[int]:
        return [found.index for found in self.heap.objects() if found.is_marked]
