"""One table of faults: what can be wrong with a heap's bytes, how to make it so, and what verifying must say of it.

`Scene` is a sound heap that has something of everything. Each entry of `FAULTS` breaks one thing that must always hold,
`docs/design.md` tells which; whoever verifies heaps, on whatever side, is tried on all of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lowheap as lh
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    CONTROL_ATTACHED,
    FIELD_TRACED,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    MAXIMUM_CAPACITY,
    NULL,
    SIZE_CLASS_COUNT,
    TYPE_LIMIT,
    FreeBlock,
    GcTypeLayouts,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMFieldInfo,
    VMGcKind,
    VMHeapControl,
    VMHeapType,
    VMHostData,
    VMHostDataOwner,
    VMStorage,
    VMTypeInfo,
    block_length,
    i31_from_int,
)
from lowheap.types import ANYREF, EXTERNREF, F32, FUNCREF, I16, I31REF, I32, NULLREF, V128, StorageType
from support.image_heaps import BYTES, MIXED, NODE, NODE_LAYOUT, NODE_SIZE, REFERENCES, TYPES, VECTORS, World

EXTERN = len(TYPES)
WIDE_FIELDS = 70
"""So many references of a struct are not all within the mask of its type."""

HOLE, ARRAY_LENGTH, DATA_LENGTH = 40, 3, 5
"""How many elements there are in the array of bytes that is freed, in the array of references, and in the data."""

_layouts = GcTypeLayouts()
_references, _bytes, _vectors = (_layouts.array_layout(each) for each in ((4, True), (1, False), (16, False)))
TAG_SIZE = _layouts.exception_layout([(4, True), (4, False), (4, True)]).size
EXTERN_SIZE = ctypes.sizeof(VMDrcExternRef)
DATA_SIZE = _bytes.size(DATA_LENGTH)
ARRAY_SIZE, HUGE_SIZE = _references.size(ARRAY_LENGTH), _references.element_offset(0xFFFF_FFFF)
VECTORS_START = _vectors.elements_offset
LEFT, _, VALUE, RIGHT = (each.offset for each in NODE_LAYOUT.fields)
SPARE_LIST = block_length(_bytes.size(HOLE)) // BLOCK_ALIGN
"""The free list that the freed array's block is on."""

SLOT = ctypes.c_uint32()
"""A root slot."""


def populate(world: World) -> dict[str, int]:
    """Fill a heap with something of each sort; return where it is."""
    store, heap = world.store, world.store.heap
    places = {"first": world.hold(NODE), "hole": world.hold(BYTES, HOLE), "second": world.hold(NODE)}
    places |= {
        "array": world.hold(REFERENCES, ARRAY_LENGTH),
        "data": world.hold(BYTES, DATA_LENGTH),
        "mixed": world.hold(MIXED),
    }
    places["extern"] = world.hold(EXTERN)
    left, right = world.hold(BYTES, 8), world.hold(BYTES, 8)
    places |= {"left": left, "right": right, "listed only": world.hold(VECTORS, 1)}
    world.link(places["mixed"], 0, places["extern"])
    world.link(places["first"], 0, places["second"])
    world.link(places["first"], 1, places["array"])
    world.link(places["array"], 0, places["second"])
    heap.slot(places["array"], heap.array_layout(world.types[REFERENCES]).element_offset(1)).value = i31_from_int(5)
    for name in ("first", "second", "listed only"):
        world.expose(places[name])
    for handle in (1, 7, 8, 9):  # the hole, left and right, and one that only the list holds
        world.release(handle)
    SLOT.value = NULL
    store.roots.add_slot(ctypes.addressof(SLOT))
    heap.write_gc_ref(SLOT, places["data"])
    heap.coalesce()
    places["spare"] = world.hold(BYTES, HOLE)  # where the hole was
    world.release(max(world.handles))
    return places


@dataclass
class Scene:
    """A sound heap: what `populate` makes, dead objects that wait to be freed, types of all kinds, free table entries.

    `places` are references by name, `types` type indices.
    """

    world: World = field(default_factory=lambda: World(initial_heap_size=4096))
    places: dict[str, int] = field(init=False)
    types: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        world, store = self.world, self.world.store
        numbers = {"node": NODE, "mixed": MIXED, "references": REFERENCES, "bytes": BYTES, "vectors": VECTORS}
        self.types = {name: world.types[number] for name, number in numbers.items()} | self._register()
        self.places = populate(world)
        for name in ("base", "derived", "wide", "wide"):
            store.roots.create_handle(store.alloc_struct(self.types[name]))
        store.roots.create_handle(store.alloc_exn(self.types["tag"]))
        self._have_some_wait_to_be_freed()
        dead = [store.alloc_externref(None) for _ in range(3)]
        for reference in dead[:2]:  # two host-data ids that are free
            store.heap.drop_gc_ref(reference)
        store.tidy()
        store.roots.create_handle(dead[2])
        spare, number = self._hold(BYTES, HOLE)
        self._hold(NODE)
        self._release(number)  # a free block in the middle
        for _, number in [self._hold(BYTES, 1) for _ in range(3)][1:]:  # and handles that are free
            self._release(number)
        assert self.control.free_handle, "some are free"
        self.places["spare"] = spare
        self._have_an_externref_wait_for_its_host()

    def _hold(self, kind: int, length: int = 0) -> tuple[int, int]:
        """A new object, and the number of the handle that holds it."""
        reference = self.world.allocate(kind, length)
        return reference, self.world.store.roots.create_handle(reference)

    def _release(self, number: int) -> None:
        self.heap.drop_gc_ref(self.world.store.roots.release_handle(number))

    def _register(self) -> dict[str, int]:
        types, one = self.world.store.engine.types, lh.FieldType
        base_fields = (one(I32, False), one(ANYREF, True))
        (base,) = types.register([lh.SubType(lh.StructType(base_fields), final=False)])
        storages: tuple[StorageType, ...] = (I16, F32, V128, I31REF, FUNCREF, NULLREF)
        more = tuple(one(each, number % 2 == 0) for number, each in enumerate(storages))
        derived_type = lh.SubType(lh.StructType((*base_fields, *more)), supertype=base)
        (derived,) = types.register([derived_type], outer=tuple(range(base + 1)))
        (wide,) = types.register([lh.SubType(lh.StructType((one(ANYREF, True),) * WIDE_FIELDS))])
        (tag,) = types.register([lh.SubType(lh.FuncType((ANYREF, I32, EXTERNREF), ()))])
        return {"base": base, "derived": derived, "wide": wide, "tag": tag}

    def _have_some_wait_to_be_freed(self) -> None:
        """Three nodes; the list is left as it was."""
        world, heap = self.world, self.world.store.heap
        held = [heap.clone_gc_ref(each) for each in heap.over_approximated_stack_roots()]
        for _ in range(4):
            reference, number = self._hold(NODE)
            world.expose(reference)
            self._release(number)
        collection = world.store.collection()
        for _ in range(2):  # trace; sweep, and free one
            collection.collect_increment(budget=1)
        for reference in reversed(held):
            heap.expose_gc_ref_to_wasm(reference)
        self.places |= dict(zip(("dead 1", "dead 2", "dead 3"), heap.pending_dead(), strict=True))

    def _have_an_externref_wait_for_its_host(self) -> None:
        """As compiled code leaves it."""
        reference = self.world.store.alloc_externref("dead")
        header = self.header(reference)
        header.ref_count, header.next_over_approximated_stack_root = 0, self.control.dead_externrefs
        self.control.dead_externrefs = reference
        self.places["dead extern"] = reference

    # What faults are put into

    @property
    def heap(self) -> Any:
        return self.world.store.heap

    @property
    def control(self) -> VMHeapControl:
        control: VMHeapControl = self.heap.control
        return control

    def header(self, reference: int) -> Any:
        return self.heap.memory.view(VMDrcHeader, reference)

    def type_info(self, name: str) -> Any:
        return VMTypeInfo.from_address(self.control.type_table + self.types[name] * ctypes.sizeof(VMTypeInfo))

    def type_data(self, position: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(self.control.type_data + 4 * position)

    def field_info(self, name: str, number: int) -> Any:
        start = self.type_info(name).fields_start + number * ctypes.sizeof(VMFieldInfo) // 4
        return VMFieldInfo.from_address(self.control.type_data + 4 * start)

    def handle(self, number: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(self.control.handles + 4 * number)

    def handle_of(self, place: str) -> int:
        return next(number for number, reference in self.heap.handles() if reference == self.places[place])

    def host_data(self, number: int) -> Any:
        return VMHostData.from_address(self.control.host_data + number * ctypes.sizeof(VMHostData))


class Saved:
    """All of a heap's bytes, to put back after a fault."""

    def __init__(self, heap: Any) -> None:
        control = heap.control
        places = {
            ctypes.addressof(control): ctypes.sizeof(control),
            control.heap_base: control.bump + 64,
            control.type_table: (control.type_count + 1) * ctypes.sizeof(VMTypeInfo),
            control.type_data: 4 * (control.type_data_length + 1),
            control.handles: 4 * (control.handle_count + 1),
            control.host_data: ctypes.sizeof(VMHostData) * (control.host_data_count + 1),
            ctypes.addressof(SLOT): ctypes.sizeof(SLOT),
        }
        self._bytes = {address: ctypes.string_at(address, length) for address, length in places.items()}

    def restore(self) -> None:
        for address, data in self._bytes.items():
            ctypes.memmove(address, data, len(data))


Fault = Callable[[Scene], None]
Change = Callable[[int], int]


def _changed(thing: Any, name: str, change: Change) -> None:
    setattr(thing, name, change(getattr(thing, name)))


def in_header(place: str, name: str, change: Change) -> Fault:
    kinds: dict[str, Any] = {"host_data_id": VMDrcExternRef, "length": VMDrcArrayHeader}
    structure = kinds.get(name, VMDrcHeader)
    return lambda scene: _changed(scene.heap.memory.view(structure, scene.places[place]), name, change)


def in_control(name: str, change: Change) -> Fault:
    return lambda scene: _changed(scene.control, name, change)


def led_to(name: str, place: str) -> Fault:
    """A word of the control block leads to an object."""
    return lambda scene: setattr(scene.control, name, scene.places[place])


def linked(place: str, other: str, distance: int = 0) -> Fault:
    """An object's or a free block's link leads to another, or so many bytes behind its start."""

    def inject(scene: Scene) -> None:
        target = scene.places[other] + distance
        if place == "spare":
            scene.heap.memory.view(FreeBlock, scene.places[place]).next = target
        else:
            scene.header(scene.places[place]).next_over_approximated_stack_root = target

    return inject


def in_type(type: str, name: str, change: Change) -> Fault:
    return lambda scene: _changed(scene.type_info(type), name, change)


def in_type_data(type: str, start: str, number: int, change: Change) -> Fault:
    """A word of a type's data, so many behind what its entry says."""
    return lambda scene: _changed(scene.type_data(getattr(scene.type_info(type), start) + number), "value", change)


def in_field(type: str, number: int, name: str, change: Change) -> Fault:
    return lambda scene: _changed(scene.field_info(type, number), name, change)


def in_free_block(name: str, change: Change) -> Fault:
    return lambda scene: _changed(scene.heap.memory.view(FreeBlock, scene.places["spare"]), name, change)


def in_slot(value: Callable[[Scene], int]) -> Fault:
    """The first field of the first node."""

    def inject(scene: Scene) -> None:
        offset = scene.heap.struct_layout(scene.types["node"]).traced_offsets[0]
        scene.heap.memory.view(ctypes.c_uint32, scene.places["first"] + offset).value = value(scene)

    return inject


def in_handle(value: Callable[[Scene], int]) -> Fault:
    """The handle of the first node."""
    return lambda scene: setattr(scene.handle(scene.handle_of("first")), "value", value(scene))


def in_host_data(number: int, name: str, change: Change) -> Fault:
    return lambda scene: _changed(scene.host_data(number), name, change)


def in_root_slot(value: Callable[[Scene], int]) -> Fault:
    return lambda scene: setattr(SLOT, "value", value(scene))


def of_type(place: str, type: str) -> Fault:
    return lambda scene: setattr(scene.header(scene.places[place]), "type_index", scene.types[type])


def constant(value: int) -> Change:
    return lambda _: value


def plus(amount: int) -> Change:
    return lambda value: value + amount


def with_bits(bits: int) -> Change:
    return lambda value: value | bits


def ring(scene: Scene) -> None:
    """The last on the list leads to the first."""
    *_, last = scene.heap.over_approximated_stack_roots()
    scene.header(last).next_over_approximated_stack_root = scene.control.over_approximated_stack_roots


def list_the_free_block_in(number: int) -> Fault:
    return lambda scene: scene.control.size_class_heads.__setitem__(number, scene.places["spare"])


def clear_the_free_lists(scene: Scene) -> None:
    scene.control.size_class_heads[:] = [NULL] * SIZE_CLASS_COUNT


def move_to_another_class(scene: Scene) -> None:
    heads = scene.control.size_class_heads
    heads[list(heads).index(scene.places["spare"])] = NULL
    heads[SIZE_CLASS_COUNT - 1] = scene.places["spare"]


def split_without_merging(scene: Scene) -> None:
    """Make two free blocks of one, both of which a coalescing pass has seen."""
    memory, heads, spare = scene.heap.memory, scene.control.size_class_heads, scene.places["spare"]
    block, second = memory.view(FreeBlock, spare), memory.view(FreeBlock, spare + 32)
    assert heads[block.length // BLOCK_ALIGN] == spare
    heads[block.length // BLOCK_ALIGN] = block.next
    for index, part, length in ((spare + 32, second, block.length - 32), (spare, block, 32)):
        part.kind_and_reserved, part.length, part.flags = 0, length, FREE_BLOCK_COALESCED
        part.next, heads[length // BLOCK_ALIGN] = heads[length // BLOCK_ALIGN], index


def swap_traced_offsets(scene: Scene) -> None:
    start = scene.type_info("node").traced_offsets_start
    first, second = scene.type_data(start), scene.type_data(start + 1)
    first.value, second.value = second.value, first.value


def bump_in_a_header(scene: Scene) -> None:
    scene.control.bump = scene.places["mixed"] + 16


def move_to_the_dead_externrefs(scene: Scene) -> None:
    led_to("pending_dead", "dead 2")(scene)
    led_to("dead_externrefs", "dead 1")(scene)
    linked("dead 1", "dead extern")(scene)


STRUCT, ARRAY = int(VMGcKind.STRUCT_REF), int(VMGcKind.ARRAY_REF)
IN_LIST, MARK = HEADER_IN_OVER_APPROX_LIST_BIT, HEADER_MARK_BIT

FAULTS: dict[str, tuple[Fault, str]] = {
    # The four that three verifiers saw differently, when there were three
    "a traced offset of 4096": (
        in_type_data("node", "traced_offsets_start", 0, constant(4096)),
        f"type {{node}} has a traced field at {LEFT}; traced offset 0 is 4096",
    ),
    "traced_count 0": (in_type("node", "traced_count", constant(0)), "type {node} has 2 traced fields; .* says 0"),
    "traced_mask 0": (in_type("node", "traced_mask", constant(0)), "type {node} has the traced mask 0x0; its fields"),
    "handles beyond the table": (
        in_control("handle_count", constant(1 << 31)),
        "the control block counts 2147483648 handles; there is room for 16777216",
    ),
    # The control block
    "heap_base": (in_control("heap_base", plus(16)), "the heap is said to be at"),
    "type_table": (in_control("type_table", constant(0)), "the type table is said to be at 0x0; it is at"),
    "type_data": (in_control("type_data", constant(8)), "the type data is said to be at 0x8; it is at"),
    "handles": (in_control("handles", plus(4)), "the table of handles is said to be at"),
    "root_slots": (
        in_control("root_slots", constant((1 << 64) - 1)),
        "the table of root slots is said to be at 0xffff",
    ),
    "host_data": (in_control("host_data", plus(-24)), "the side table is said to be at"),
    "types beyond the table": (in_control("type_count", constant(TYPE_LIMIT + 1)), "counts 1048577 types; there is"),
    "type data beyond the table": (
        in_control("type_data_length", constant(1 << 31)),
        "counts 2147483648 words of type",
    ),
    "root slots beyond the table": (in_control("root_slot_count", constant(1 << 31)), "counts 2147483648 root slots"),
    "root ranges": (in_control("root_ranges", plus(8)), "the table of root ranges is said to be at"),
    "root ranges beyond the table": (in_control("root_range_count", constant(1 << 31)), "counts 2147483648 root range"),
    "host data beyond the table": (in_control("host_data_count", constant(1 << 31)), "counts 2147483648 host-data ids"),
    "bump 0": (in_control("bump", constant(0)), "bump pointer 0x0, its end 0x[0-9a-f]+ and the capacity"),
    "bump beyond its end": (
        lambda scene: _changed(scene.control, "bump", lambda _: scene.control.bump_end + 16),
        "are",
    ),
    "bump too high": (in_control("bump", plus(16)), "free block at 0x[0-9a-f]+ claims 0 bytes"),
    "bump too low": (in_control("bump", plus(-16)), "claims [0-9]+ bytes; the bump|no room for its header; the bump"),
    "odd bump": (in_control("bump", plus(1)), "bump pointer 0x[0-9a-f]+ is not a multiple of 16"),
    "bump in a header": (
        bump_in_a_header,
        "object at {mixed place} has no room for its header; the bump pointer is at",
    ),
    "bump_end": (in_control("bump_end", constant(0xFFFF_FFFF)), "its end 0xffffffff and the capacity .* out of order"),
    "capacity": (in_control("capacity", plus(1 << 40)), "the capacity is [0-9]+, the maximum [0-9]+"),
    "capacity 0": (in_control("capacity", constant(0)), "and the capacity 0x0 are out of order"),
    "maximum": (in_control("maximum", constant(1 << 40)), f"the maximum 1099511627776, and .* {MAXIMUM_CAPACITY}"),
    "flags": (in_control("flags", with_bits(1 << 7)), "the control block has unknown flags in 0x81"),
    "no memory": (in_control("flags", lambda flags: flags & ~CONTROL_ATTACHED), "flags 0x0 say that the heap has no"),
    "phase": (in_control("phase", constant(4)), "the phase of the collection is 4; phases are 0 to 3"),
    "merged bytes": (
        in_control("bytes_freed_at_last_coalescing", plus(1 << 20)),
        "[0-9]+ bytes were freed, and [0-9]+ when free blocks were merged",
    ),
    "objects allocated": (in_control("objects_allocated", plus(1)), "counters say [0-9]+ live objects of .* holds"),
    "objects freed": (in_control("objects_freed", plus(1)), "the counters say [0-9]+ live objects of [0-9]+ bytes;"),
    "bytes allocated": (
        in_control("bytes_allocated", plus(16)),
        "the counters say [0-9]+ live objects of [0-9]+ bytes;",
    ),
    "bytes freed": (in_control("bytes_freed", plus(16)), "the counters say [0-9]+ live objects of [0-9]+ bytes; the"),
    # Types
    "last type": (in_type("tag", "kind", constant(0)), "the last of [0-9]+ types is not in the type table"),
    "more types": (in_control("type_count", plus(1)), "the last of [0-9]+ types is not in the type table"),
    "type's kind": (
        in_type("node", "kind", constant(int(VMGcKind.EXTERN_REF))),
        "type {node} has kind word 0x40000000",
    ),
    "type's other kind": (in_type("vectors", "kind", constant(STRUCT)), "type {vectors} has no elements, but says"),
    "traced offsets beyond": (
        in_type("node", "traced_offsets_start", constant(0xFFFF_FFFF)),
        "type {node} has 2 traced offsets from word 4294967295 on, of [0-9]+ words of type data",
    ),
    "too many traced fields": (in_type("node", "traced_count", constant(0xFFFF_FFFF)), "the types up to {node} have"),
    "one traced field more": (in_type("node", "traced_count", plus(1)), "type {node} has 2 traced .* says 3"),
    "traced offset 0": (in_type_data("node", "traced_offsets_start", 1, constant(0)), "traced offset 1 is 0"),
    "odd traced offset": (in_type_data("node", "traced_offsets_start", 0, plus(2)), f"traced offset 0 is {LEFT + 2}"),
    "traced offsets descend": (
        swap_traced_offsets,
        f"type {{node}} has a traced field at {LEFT}; traced offset 0 is {RIGHT}",
    ),
    "traced mask": (in_type("node", "traced_mask", with_bits(2)), "type {node} has the traced mask 0x13; .* 0x11"),
    "mask of a wide type": (in_type("wide", "traced_mask", constant(1)), "type {wide} has the traced mask 0x1; .* 0x0"),
    "mask of an array": (
        in_type("references", "traced_mask", constant(1)),
        "type {references} has the traced mask 0x1",
    ),
    "beyond the mask": (in_type("node", "is_beyond_mask", constant(1)), "type {node} has 1 for whether .* mask, not 0"),
    "wide type's references": (in_type("wide", "is_beyond_mask", constant(0)), "type {wide} has 0 for .* not 1"),
    "array's references": (
        in_type("references", "is_beyond_mask", constant(0)),
        "type {references} has 0 for .* not 1",
    ),
    "array's traced count": (
        in_type("references", "traced_count", constant(2)),
        "array type {references} has elements of 4 bytes, not 4, and traces 2 of 1",
    ),
    "element size": (
        in_type("bytes", "element_size", constant(3)),
        "array type {bytes} has elements of 3 bytes, not 1",
    ),
    "elements' start": (
        in_type("bytes", "size_or_elements_offset", constant(0)),
        f"array type {{bytes}} has elements from 0 on; its element is at {ARRAY_HEADER_END}, and has to be at "
        f"{ARRAY_HEADER_END}",
    ),
    "element's place": (
        in_field("vectors", 0, "offset", constant(ARRAY_HEADER_END)),
        f"its element is at {ARRAY_HEADER_END}, and has to be at {VECTORS_START}",
    ),
    "no element": (in_type("bytes", "field_count", constant(0)), "array type {bytes} has 0 elements' descriptions"),
    "struct's size": (
        in_type("node", "size_or_elements_offset", constant(8)),
        f"type {{node}} has 8 bytes; .* make it {NODE_SIZE}",
    ),
    "struct's elements": (in_type("node", "element_size", constant(4)), "type {node} has no elements, but says that"),
    "exception's size": (
        in_type("tag", "size_or_elements_offset", plus(8)),
        f"type {{tag}} has {TAG_SIZE + 8} bytes; .* make it {TAG_SIZE}",
    ),
    "fields beyond": (in_type("node", "fields_start", constant(1 << 20)), "type {node} has 4 fields from word 1048576"),
    "too many fields": (in_type("node", "field_count", constant(1 << 30)), "the types up to {node} have"),
    "a field less": (
        in_type("node", "field_count", plus(-1)),
        "type {node} has 1 traced fields; the type table says 2",
    ),
    "a field's place": (
        in_field("node", 2, "offset", plus(8)),
        f"field 2 of type {{node}} is at {VALUE + 8}; it has to be at {VALUE}",
    ),
    "a field's storage": (
        in_field("node", 0, "storage", constant(8)),
        "field 0 of type {node} has storage 8; storages",
    ),
    "a field's other storage": (
        in_field("node", 1, "storage", constant(int(VMStorage.REFERENCE))),
        "field 1 of type {node} refers to 0x0, and has flags 0x1|field 2 of type {node}",
    ),
    "a field's flags": (in_field("node", 0, "flags", with_bits(8)), "field 0 of type {node} has unknown flags in 0xf"),
    "a number's flags": (
        in_field("node", 1, "flags", with_bits(FIELD_TRACED)),
        "field 1 of type {node} is no reference",
    ),
    "a number's type": (
        in_field("node", 1, "heap_type", constant(4)),
        "field 1 of type {node} is no reference, but has",
    ),
    "a field's type": (
        in_field("node", 0, "heap_type", constant(0xFFFF_FFF0)),
        "field 0 of type {node} refers to 0xfffffff0, which is neither a type nor a heap type",
    ),
    "an untraced reference": (
        in_field("node", 0, "flags", lambda flags: flags & ~FIELD_TRACED),
        "field 0 of type {node} refers to 0xffffff00, and has flags 0x3",
    ),
    "a traced i31": (
        in_field("node", 0, "heap_type", constant(int(VMHeapType.I31))),
        "field 0 of type {node} refers to 0xffffff02, and has flags 0x7",
    ),
    "a reference to a function's type": (
        lambda scene: setattr(scene.field_info("node", 0), "heap_type", scene.types["tag"]),
        "field 0 of type {node} refers to 0x[0-9a-f]+, and has flags 0x7",
    ),
    "display beyond": (in_type("node", "supertypes_start", constant(1 << 20)), "has 0 supertypes from word 1048576 on"),
    "depth": (in_type("node", "depth", constant(0xFFFF_FFFF)), "the types up to {node} have [0-9]+ words of type data"),
    "depth 64": (
        in_type("derived", "depth", constant(64)),
        "the types up to {derived} have|type {derived} has 64 super",
    ),
    "not itself": (in_type_data("node", "supertypes_start", 0, plus(1)), "the supertypes of type {node} lead to type"),
    "display descends": (in_type_data("derived", "supertypes_start", 0, constant(1 << 19)), "above a lower number"),
    "supertype of another kind": (
        in_type_data("derived", "supertypes_start", 0, constant(REFERENCES)),
        "type {derived} has supertype 2 at depth 0, which cannot be",
    ),
    "a final supertype": (
        in_type("base", "is_final", constant(1)),
        "type {derived} has supertype {base} at depth 0, w",
    ),
    "finality": (in_type("node", "is_final", constant(2)), "type {node} is final or not, and says 2"),
    # Headers
    "no kind": (
        in_header("data", "kind_and_reserved", constant(0x7C00_0000)),
        "{data} has kind word 0x7c000000, which",
    ),
    "abstract kind": (
        in_header("data", "kind_and_reserved", constant(VMGcKind.EQ_REF)),
        "{data} has kind word 0xa0000",
    ),
    "another kind": (
        in_header("data", "kind_and_reserved", constant(STRUCT)),
        f"object {{data}} of type {{bytes}} has kind {STRUCT:#x}; the type's objects have {ARRAY:#x}",
    ),
    "another type": (of_type("first", "bytes"), "object {first} of type {bytes} has kind"),
    "externref's kind": (
        in_header("extern", "kind_and_reserved", constant(STRUCT)),
        "object {extern} has type index 4294967295, which is not in the type table",
    ),
    "reserved bits": (
        in_header("data", "kind_and_reserved", with_bits(0x40)),
        "{data} has unknown reserved bits in 0x",
    ),
    "type index": (
        in_header("first", "type_index", constant(TYPE_LIMIT + 3)),
        f"has type index {TYPE_LIMIT + 3}, which",
    ),
    "type that is not there": (in_type("node", "kind", constant(0)), "has type index {node}, which is not in the type"),
    "size": (
        in_header("first", "object_size", plus(-4)),
        f"object {{first}} has size {NODE_SIZE - 4}; its type and length make it {NODE_SIZE}",
    ),
    "block's length": (
        in_header("first", "object_size", plus(16)),
        f"object {{first}} has size {NODE_SIZE + 16}; its type and length",
    ),
    "size 0": (
        in_header("first", "object_size", constant(0)),
        "object at {first} claims 0 bytes; the bump pointer is at",
    ),
    "size 16": (in_header("first", "object_size", constant(16)), "object at {first} claims 16 bytes; the bump pointer"),
    "huge size": (
        in_header("first", "object_size", constant(0xFFFF_FFFF)),
        "object at {first} claims 4294967296 bytes",
    ),
    "length": (
        in_header("data", "length", plus(1)),
        f"object {{data}} has size {DATA_SIZE}; its type and length make it {DATA_SIZE + 1}",
    ),
    "huge length": (
        in_header("array", "length", constant(0xFFFF_FFFF)),
        f"{{array}} has size {ARRAY_SIZE}; .* make it {HUGE_SIZE}",
    ),
    "externref's size": (
        in_header("extern", "object_size", plus(-4)),
        f"externref {{extern}} has size {EXTERN_SIZE - 4}",
    ),
    "externref's type": (in_header("extern", "type_index", constant(0)), "externref {extern} has type index 0"),
    "host data": (in_header("extern", "host_data_id", constant(1 << 20)), "{extern} has host data 1048576, which the"),
    "host data beyond": (
        in_header("extern", "host_data_id", constant((1 << 32) - 1)),
        "has host data 4294967295, which",
    ),
    "host data not in use": (
        in_host_data(0, "owner", constant(VMHostDataOwner.NOBODY)),
        "externref {extern} has host data 0, which the side table does not know",
    ),
    # Free blocks
    "free length": (in_free_block("length", plus(8)), "free block at {spare} claims [0-9]+ bytes; the bump pointer is"),
    "free length 0": (
        in_free_block("length", constant(0)),
        "free block at {spare} claims 0 bytes; the bump pointer is",
    ),
    "free length beyond": (in_free_block("length", constant(0xFFFF_FFF0)), "{spare} claims 4294967280 bytes; the bump"),
    "shorter free block": (in_free_block("length", plus(-16)), "."),
    "free link": (
        in_free_block("next", constant(0xFFFF_FFF0)),
        f"free list {SPARE_LIST} holds 0xfffffff0, where no free block st",
    ),
    "odd free link": (
        in_free_block("next", constant(3)),
        f"free list {SPARE_LIST} holds 0x3, where no free block starts",
    ),
    "an object on a free list": (
        linked("spare", "first"),
        f"free list {SPARE_LIST} holds {{first}}, where no free block starts",
    ),
    "in a free block": (
        linked("spare", "spare", 16),
        f"free list {SPARE_LIST} holds 0x[0-9a-f]+, where no free block starts",
    ),
    "cyclic free list": (linked("spare", "spare"), "free block at {spare} is on a free list twice"),
    "on two free lists": (
        list_the_free_block_in(SIZE_CLASS_COUNT - 1),
        "free block at {spare} is on a free list twice",
    ),
    "no free lists": (clear_the_free_lists, "free block at 0x[0-9a-f]+ is on no free list"),
    "another free list": (move_to_another_class, f"{{spare}} of [0-9]+ bytes is on free list {SIZE_CLASS_COUNT - 1}"),
    "unmerged": (split_without_merging, "free block at 0x[0-9a-f]+ was not merged with the one before it"),
    # The list of what compiled code may hold
    "in-list bit set": (
        in_header("data", "kind_and_reserved", with_bits(IN_LIST)),
        "object {data} has its in-list bit set, but is not on the over-approximated list",
    ),
    "in-list bit clear": (
        in_header("first", "kind_and_reserved", lambda word: word & ~IN_LIST),
        "object {first} has its in-list bit clear, but is on the over-approximated list",
    ),
    "list leads nowhere": (
        in_header("first", "next_over_approximated_stack_root", constant(0x30)),
        "the over-approximated list leads to 0x30, where no object starts",
    ),
    "list leads beyond": (
        in_header("first", "next_over_approximated_stack_root", constant(0xFFFF_FFF0)),
        "the over-approximated list leads to 0xfffffff0, where no object starts",
    ),
    "list leads to a free block": (
        linked("first", "spare"),
        "over-approximated list leads to {spare}, where no object",
    ),
    "list head": (
        in_control("over_approximated_stack_roots", constant(7)),
        "list leads to 0x7, where no object starts",
    ),
    "another list head": (led_to("over_approximated_stack_roots", "data"), "list has 1 entries, its counter says 3"),
    "ring": (ring, "the over-approximated list comes back to 0x"),
    "list cut": (in_control("over_approximated_stack_roots", constant(0)), "list has 0 entries, its counter says 3"),
    "list's length": (in_control("current_len", plus(1)), "over-approximated list has 3 entries, its counter says 4"),
    "mark": (in_header("data", "kind_and_reserved", with_bits(MARK)), "{data} is marked, but no collection is running"),
    # What waits to be freed
    "dead list": (led_to("dead_list", "data"), "the dead list is not empty: it begins with {data}"),
    "pending count": (
        in_header("dead 3", "ref_count", constant(9)),
        "{dead 3} has count 9, but is on the list of pend",
    ),
    "pending mark": (
        in_header("dead 2", "kind_and_reserved", with_bits(MARK)),
        "{dead 2} is marked, but is on the list",
    ),
    "pending and listed": (
        in_header("dead 2", "kind_and_reserved", with_bits(IN_LIST)),
        "object {dead 2} has its in-list bit set, but is on the list of pending dead objects",
    ),
    "pending ring": (linked("dead 3", "dead 1"), "the list of pending dead objects comes back to {dead 1}"),
    "pending itself": (linked("dead 2", "dead 2"), "the list of pending dead objects comes back to {dead 2}"),
    "pending in an object": (
        linked("dead 1", "dead 2", 16),
        "pending dead objects leads to .*, where no object starts",
    ),
    "pending beyond": (in_control("pending_dead", constant(0xFFFF_FFF0)), "pending dead objects leads to 0xfffffff0"),
    "pending unaligned": (
        in_control("pending_dead", constant(0x24)),
        "list of pending dead objects leads to 0x24, where",
    ),
    "a live one pending": (
        led_to("pending_dead", "data"),
        "{data} has count 2, but is on the list of pending dead obj",
    ),
    "pending missed": (linked("dead 1", "dead 3"), "object {dead 2} has count 0, but was not freed"),
    "all pending missed": (in_control("pending_dead", constant(0)), "{dead [123]} has count 0, but was not freed"),
    "pending with an owner": (
        in_slot(lambda scene: scene.places["dead 2"]),
        "object {dead 2} has count 0, but 1 owners, 0 of them the list|has count [0-9]+, but [0-9]+ owners",
    ),
    "pending on both lists": (
        linked("listed only", "dead 2"),
        "list has [0-9] entries, its counter|{dead 2} has|in-list bit",
    ),
    "dead externref's count": (
        in_header("dead extern", "ref_count", constant(1)),
        "object {dead extern} has count 1, but is on the list of dead externrefs",
    ),
    "dead externref of another kind": (
        move_to_the_dead_externrefs,
        "object {dead 1} is on the list of dead externrefs, but its kind is",
    ),
    "dead externref ring": (linked("dead extern", "dead extern"), "the list of dead externrefs comes back to"),
    "dead externref beyond": (
        in_control("dead_externrefs", constant(0xFFFF_FFF0)),
        "dead externrefs leads to 0xfffffff",
    ),
    # Owners
    "count too high": (in_header("data", "ref_count", plus(1)), "{data} has count 3, but 2 owners, 0 of them the list"),
    "count too low": (in_header("second", "ref_count", plus(-1)), "{second} has count 3, but 4 owners, 1 of them the"),
    "count beyond 32 bits": (
        in_header("data", "ref_count", plus(1 << 32)),
        "{data} has count 4294967298, but 2 owners",
    ),
    "count 0": (in_header("data", "ref_count", constant(0)), "object {data} has count 0, but was not freed"),
    "field": (in_slot(lambda _: 0x7FFF_FFF0), "object {first} holds 0x7ffffff0, where no live object starts"),
    "field in an object": (in_slot(lambda _: FIRST_INDEX + 16), "object {first} holds 0x20, where no live object st"),
    "field of a free block": (in_slot(lambda scene: scene.places["spare"]), "{first} holds {spare}, where no live obj"),
    "even field": (in_slot(lambda _: FIRST_INDEX + 2), "object {first} holds 0x12, where no live object starts"),
    "lost field": (in_slot(lambda _: NULL), "object {second} has count 4, but 3 owners, 1 of them the list"),
    "handle": (
        in_handle(lambda scene: scene.places["spare"]),
        "handle [0-9]+ holds {spare}, where no live object starts",
    ),
    "root slot": (in_root_slot(lambda scene: scene.places["data"] + 16), "root slot 0x[0-9a-f]+ holds 0x.*, where no"),
    "root slot of a dead one": (in_root_slot(lambda scene: scene.places["dead 1"]), "object .* has count .* owners"),
    # Tables
    "no handle": (in_handle(lambda _: NULL), "handle [0-9]+ of [0-9]+ holds null, and is not free"),
    "handle in use twice": (in_handle(lambda _: 1), "[0-9]+ handles are free, and [0-9]+ are on the list of free"),
    "free handle beyond": (
        in_control("free_handle", constant(1 << 20)),
        "free handles leads to handle 1048575, which is",
    ),
    "free handle in use": (
        lambda scene: setattr(scene.control, "free_handle", scene.handle_of("first") + 1),
        "the list of free handles leads to handle [0-9]+, which is not free",
    ),
    "free handles lost": (in_control("free_handle", constant(0)), "handles are free, and 0 are on the list of free"),
    "free handles' ring": (
        lambda scene: setattr(scene.handle(scene.control.free_handle - 1), "value", scene.control.free_handle << 1 | 1),
        "the list of free handles leads to handle [0-9]+, which is not free",
    ),
    "more handles": (in_control("handle_count", plus(1)), "handle [0-9]+ of [0-9]+ holds null, and is not free"),
    "host data's owner": (in_host_data(0, "owner", constant(3)), "host-data id 0 has owner 3"),
    "free host data lost": (
        in_control("free_host_data", constant(0)),
        "[0-9] host-data ids are nobody's, and 0 are on",
    ),
    "free host data in use": (in_control("free_host_data", constant(1)), "free host-data ids leads to 0, which is not"),
    "free host data beyond": (
        in_control("free_host_data", constant(77)),
        "free host-data ids leads to 76, which is not",
    ),
    "more host data": (in_control("host_data_count", plus(5)), "host-data id [0-9]+ of [0-9]+ is nobody's, and not on"),
}


def pattern(scene: Scene, message: str) -> str:
    """A message with the scene's places, in hexadecimal, and types put in."""
    for name, index in scene.types.items():
        message = message.replace(f"{{{name}}}", str(index))
    for name, place in scene.places.items():
        message = message.replace(f"{{{name}}}", f"{place:#x}").replace(f"{{{name} place}}", f"{place:#x}")
    dead = "|".join(f"{place:#x}" for name, place in scene.places.items() if name in ("dead 1", "dead 2", "dead 3"))
    return message.replace("{dead [123]}", f"({dead})")
