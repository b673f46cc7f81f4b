"""Heaps to take images of: a handful of types behind a shift of type indices, and programs of random steps on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

import lowheap as lh
from lowheap.layout import GcTypeLayouts
from lowheap.types import ANYREF, EXTERNREF, F64, FUNCREF, I8, I32, I64, V128

MUTABLE_ANY = lh.FieldType(ANYREF, True)
TYPES = (
    lh.StructType((MUTABLE_ANY, lh.FieldType(I8, True), lh.FieldType(I64, True), MUTABLE_ANY)),  # node
    lh.StructType((lh.FieldType(EXTERNREF, True), lh.FieldType(F64, True), lh.FieldType(FUNCREF, True))),
    lh.ArrayType(MUTABLE_ANY),
    lh.ArrayType(lh.FieldType(I8, True)),
    lh.ArrayType(lh.FieldType(V128, True)),
)
NODE, MIXED, REFERENCES, BYTES, VECTORS = range(len(TYPES))
NODE_LAYOUT = GcTypeLayouts().struct_layout([(4, True), (1, False), (8, False), (4, True)])
NODE_SIZE = NODE_LAYOUT.size
NODE_NAMES = {0: "left", 1: "tag", 2: "value", 3: "right"}


@dataclass
class World:
    """A store whose types are registered behind `shift` others, so that equal types have other indices.

    In a heap of few bytes, few blocks are carved at once, so that what is in it lies close together, and little else.
    """

    shift: int = 0
    initial_heap_size: int = 1 << 14
    collector: Any = None
    store: lh.Store = field(init=False)
    types: list[int] = field(init=False)
    handles: dict[int, int] = field(init=False, default_factory=dict)  # by name: the number of the handle

    def __post_init__(self) -> None:
        engine = lh.Engine(collector=self.collector)
        for number in range(self.shift):
            fields = (lh.FieldType(I32, False),) * (number + 3)
            engine.types.register([lh.SubType(lh.StructType(fields))])
        self.types = [engine.types.register([lh.SubType(composite)])[0] for composite in TYPES]
        engine.types.name_type(self.types[NODE], "node")
        engine.types.name_fields(self.types[NODE], NODE_NAMES)
        self.store = lh.Store(engine, initial_heap_size=self.initial_heap_size)

    def allocate(self, kind: int, length: int = 0) -> int:
        """Allocate an object; the count is the caller's."""
        if kind == len(TYPES):
            return self.store.alloc_externref("a host value")
        if kind in (NODE, MIXED):
            return self.store.alloc_struct(self.types[kind])
        return self.store.alloc_array(self.types[kind], length)

    def hold(self, kind: int, length: int = 0) -> int:
        """Allocate an object that a handle holds, and return its reference."""
        reference = self.allocate(kind, length)
        self.handles[len(self.handles)] = self.store.roots.create_handle(reference)
        return reference

    def slot(self, reference: int, offset: int) -> Any:
        return self.store.heap.slot(reference, offset)

    def link(self, holder: int, which: int, target: int) -> None:
        """Store `target` in one of the traced slots of an object that can hold it; nothing where there is none."""
        heap = self.store.heap
        header = heap.header(holder)
        is_extern = heap.kind(target).name == "EXTERN_REF"
        if header.type_index == self.types[NODE] and not is_extern:
            offsets = heap.struct_layout(self.types[NODE]).traced_offsets
            heap.write_gc_ref(heap.slot(holder, offsets[which % 2]), target, holder)
        elif header.type_index == self.types[MIXED] and is_extern:
            offset = heap.struct_layout(self.types[MIXED]).traced_offsets[0]
            heap.write_gc_ref(heap.slot(holder, offset), target, holder)
        elif header.type_index == self.types[REFERENCES] and not is_extern and (length := heap.array_len(holder)):
            offset = heap.array_layout(self.types[REFERENCES]).element_offset(which % length)
            heap.write_gc_ref(heap.slot(holder, offset), target, holder)

    def expose(self, reference: int) -> None:
        heap = self.store.heap
        heap.expose_gc_ref_to_wasm(heap.clone_gc_ref(reference))

    def release(self, name: int) -> None:
        self.store.heap.drop_gc_ref(self.store.roots.release_handle(self.handles.pop(name)))

    def fill(self, reference: int, value: int) -> None:
        """Write numbers to whatever in the object is a number."""
        memory, heap = self.store.heap.memory, self.store.heap
        type_index = heap.header(reference).type_index
        if type_index == self.types[NODE]:
            tag, number = (heap.struct_layout(type_index).fields[each].offset for each in (1, 2))
            memory.write(reference + tag, bytes([value % 256]))
            memory.write(reference + number, value.to_bytes(8, "little"))
        elif type_index in (self.types[BYTES], self.types[VECTORS]):
            size = heap.object_size(reference) - heap.array_layout(type_index).elements_offset
            start = reference + heap.array_layout(type_index).elements_offset
            memory.write(start, (value.to_bytes(8, "little") * (size // 8 + 1))[:size])

    def run(self, steps: list[tuple[str, int, int, int]], most: int = 19) -> None:
        """Do the steps; each names its object by a number that is taken modulo what there is. Arrays are no longer than
        `most`.
        """
        for what, a, b, c in steps:
            names = sorted(self.handles)
            references = [self.store.roots.handle(self.handles[name]) for name in names]
            match what:
                case "allocate":
                    reference = self.allocate(a % (len(TYPES) + 1), b % (most + 1))
                    self.fill(reference, c)
                    self.handles[max(names, default=-1) + 1] = self.store.roots.create_handle(reference)
                case "collect":
                    self.store.collect()
                case _ if not names:
                    continue
                case "link":
                    self.link(references[a % len(names)], b, references[c % len(names)])
                case "expose":
                    self.expose(references[a % len(names)])
                case "release":
                    self.release(names[a % len(names)])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "allocate", "allocate", "link", "link", "expose", "release", "collect"]),
        st.integers(0, 40),
        st.integers(0, 40),
        st.integers(0, 2**40),
    ),
    max_size=40,
)
