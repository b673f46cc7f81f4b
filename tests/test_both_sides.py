"""Python and compiled code take turns on one heap, operation by operation and collection by collection.

The machine of support/heap_model.py has more sides here: the barriers of each counting barrier set as native functions,
and the compiled runtime for allocation and collections, whole ones and those with a budget. What compiled code holds at
a collection is laid out as frames on a stack that the test makes, with a stack map to match.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Sequence

import cffi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from support.heap_model import PAYLOAD, HeapMachine, Model, PythonSide, Side, Thing
from support.heap_world import LONG_CELL, NEXT, REFS, World
from support.store_world import RETURN_ADDRESS, FakeStack, StoreWorld, allocators

import lowheap as lh
from lowheap.collector import DrcCollection, GcProgress
from lowheap.collectors.shared import tracing
from lowheap.collectors.shared.allocator import Block, walk
from lowheap.layout import HEADER_SIZE, NULL, VMStackMapEntry
from lowheap.roots import RootSet
from lowheap.runtime.natives import NativeBarriers


class BothSidesMachine(HeapMachine):
    """Each operation is done by Python or by one of two sets of native barriers."""

    world: StoreWorld

    def make_sides(self, world: World) -> Sequence[Side]:
        assert isinstance(world, StoreWorld)
        return [PythonSide(world), NativeBarriers(world.store, "drc"), NativeBarriers(world.store, "outlined")]

    @initialize()
    def start(self) -> None:
        self.world = StoreWorld(1 << 14)
        self.sides = self.make_sides(self.world)
        self.model = Model()
        self.stack: list[int] = []
        self.world.roots = RootSet(self.world.heap)  # without the walker of the runtime, which has no frames to walk
        self.world.roots.add_stack_walker(lambda: self.stack)
        self.world.choose_collector(native=True)

    def choose_collector(self, side: int) -> None:
        self.world.choose_collector(native=bool(side % 2))

    def trace_and_sweep(self, side: int, held: Sequence[int], budget: int | None) -> DrcCollection:
        if not side % 2:
            return super().trace_and_sweep(side, held, budget)
        self.stack = list(held)
        with FakeStack(self.world, held):
            collection = DrcCollection(self.world.heap, self.world.roots, trace=self.world.runtime.trace)
            assert collection.collect_increment(budget) is GcProgress.CONTINUE
        self.world.heap.verify(self.stack)
        self.choose_collector(side // 2)  # whoever has traced, the other may sweep
        self.increment(collection, budget, lambda: self.model.sweep(held))
        self.stack = []
        return collection

    def notice_an_allocation(self) -> None:
        """An allocation that found no room has freed all that was pending, for less than a portion was."""
        if self.world.heap.control.pending_dead == NULL:
            self.model.free_pending(None)

    @rule(payload=st.integers(0, (1 << 64) - 1), expose=st.booleans(), side=st.integers(0, 7))
    def allocate_struct_natively(self, payload: int, expose: bool, side: int) -> None:
        with self.world.heap.no_gc_scope():  # a collection of its own would find no frames
            reference = allocators()["struct"](self.world.vmctx, self.world.long_cell)
        assert reference != NULL
        self.notice_an_allocation()
        assert reference not in self.model.things
        for offset in LONG_CELL.traced_offsets:
            self.world.heap.slot(reference, offset).value = NULL
        self.world.memory.view(ctypes.c_uint64, reference + PAYLOAD).value = payload
        self.model.things[reference] = Thing("struct", dict.fromkeys(LONG_CELL.traced_offsets, NULL), payload)
        self.hand_over(side, reference, expose=expose)

    @rule(length=st.integers(0, 400), expose=st.booleans(), side=st.integers(0, 7))
    def allocate_array_natively(self, length: int, expose: bool, side: int) -> None:
        with self.world.heap.no_gc_scope():
            reference = allocators()["array"](self.world.vmctx, self.world.refs, length)
        assert reference != NULL
        self.notice_an_allocation()
        assert reference not in self.model.things
        slots = {REFS.element_offset(index): NULL for index in range(length)}
        for offset in slots:
            self.world.heap.slot(reference, offset).value = NULL
        self.model.things[reference] = Thing("array", slots, length)
        self.hand_over(side, reference, expose=expose)

    @rule(data=st.data())
    def collect_natively(self, data: st.DataObject) -> None:
        held = data.draw(st.sets(st.sampled_from(self.model.listed))) if self.model.listed else set()
        extra = data.draw(st.lists(st.sampled_from([NULL, 1, 0xFFFF_FFFF]), max_size=3))  # null and i31 may be there
        collections = self.world.heap.control.collections
        with FakeStack(self.world, [*extra, *sorted(held), *extra]):
            assert self.world.runtime.collect()
        assert self.world.heap.control.collections == collections + 1
        self.model.listed = [reference for reference in self.model.listed if reference in held]
        self.model.settle()
        self.model.free_pending(None)
        self.world.store.tidy()

    # What died in compiled code and has host data is freed when the host next does something.

    @invariant()
    def contents_are_the_models(self) -> None:
        self.world.store.tidy()
        super().contents_are_the_models()

    @invariant()
    def objects_counts_and_bits_are_the_models(self) -> None:
        self.world.store.tidy()
        super().objects_counts_and_bits_are_the_models()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.runtime.context.activation = 0


TestBothSides = BothSidesMachine.TestCase
TestBothSides.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["cell", "array", "link", "unlink", "release", "collect", "collect", "free", "free all"]),
        st.integers(0, 7),
        st.integers(0, 7),
        st.integers(1, 6),
    ),
    min_size=4,
    max_size=40,
)


class Program:
    """Does steps to a heap in Python, and its collections with a budget on either side."""

    def __init__(self) -> None:
        self.world = StoreWorld(1 << 14)
        self.handles: list[int] = []
        self.collection: DrcCollection | None = None

    def choose(self, *, native: bool) -> None:
        self.world.choose_collector(native=native)

    def step(self, what: str, a: int, b: int, number: int) -> None:
        world, heap = self.world, self.world.heap
        if what in ("cell", "array") or not self.handles:
            new = world.new_cell() if what == "cell" else world.new_refs(*[NULL] * number)
            self.handles.append(world.roots.create_handle(new))
            return
        holder = world.roots.handle(self.handles[a % len(self.handles)])
        target = world.roots.handle(self.handles[b % len(self.handles)])
        type_index = heap.header(holder).type_index
        slots = [
            ctypes.addressof(slot) - heap.memory.base - holder
            for slot in tracing.traced_slots(heap.native, holder, type_index)
        ]
        match what:
            case "link" | "unlink":
                slot = heap.slot(holder, slots[number % len(slots)])
                heap.write_gc_ref(slot, target if what == "link" else NULL)
            case "release":  # what a handle held is compiled code's from here on
                heap.expose_gc_ref_to_wasm(world.roots.release_handle(self.handles.pop(a % len(self.handles))))
            case "collect":
                self.collection = DrcCollection(heap, world.roots)
                for _ in range(2):
                    self.collection.collect_increment(number)
            case "free" | "free all":
                if self.collection is not None:
                    self.collection.collect_increment(number if what == "free" else None)

    def bytes(self) -> tuple[bytes, dict[str, int]]:
        """The whole heap, and what of the control block is no address."""
        control = self.world.heap.control
        addresses = {"heap_base", "type_table", "type_data", "handles", "root_slots", "root_ranges", "host_data"}
        names = {field[0] for field in control._fields_} - {*addresses, "drc", "reserved", "size_class_heads"}
        values = {name: getattr(control, name) for name in names}
        values |= {f"class {number}": head for number, head in enumerate(control.size_class_heads)}
        values |= {"list": control.over_approximated_stack_roots, "length": control.current_len}
        return self.world.memory.read(0, control.bump), values


@settings(max_examples=120, deadline=None)
@given(STEPS, st.lists(st.booleans(), min_size=1, max_size=8))
def test_collections_with_a_budget_leave_the_same_bytes(steps: list[Step], natives: list[bool]) -> None:
    """Python alone on one heap; on the other, each increment and each drop by either."""
    python, mixed = Program(), Program()
    python.choose(native=False)
    for number, step in enumerate(steps):
        mixed.choose(native=natives[number % len(natives)])
        python.step(*step)
        mixed.step(*step)
        assert python.bytes() == mixed.bytes()
    mixed.world.heap.verify()


def test_an_unknown_return_address_is_an_error_and_changes_nothing() -> None:
    world = StoreWorld(1 << 14)
    barriers = NativeBarriers(world.store)
    cell = world.new_cell()
    barriers.expose(cell)
    fake = FakeStack(world, [cell])
    fake.entries[0].return_address = RETURN_ADDRESS + 1  # so the address that is on the stack is in no map
    fake.entries = (VMStackMapEntry * 2)(fake.entries[0], VMStackMapEntry())
    with fake:
        world.runtime.context.stack_map_mask = 1
        with pytest.raises(lh.CompilerError, match="0x1000 is in no stack map"):
            world.runtime.collect()
    world.heap.verify()
    assert world.live() == [cell]


def test_a_corrupt_type_index_leads_to_no_crash() -> None:
    world = StoreWorld(1 << 14)
    cell = world.new_cell()
    world.memory.write(cell + 4, b"\xff\xff\xff\x7f")
    with pytest.raises(lh.HeapCorruptionError, match="type index 2147483647"):
        world.heap.verify()
    NativeBarriers(world.store).dec_ref(cell)  # of a type that there is not: it has no children
    assert world.live() == []


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_a_barrier_after_the_store_s_end_finds_zeros(runtime: str) -> None:
    """They check nothing, and were a crash: what they come to is mapped as long as their vmctx is there."""
    store = lh.Store(lh.Engine(runtime=runtime))
    cell = lh.Struct(store, lh.StructType((lh.FieldType(lh.types.ANYREF, True),)))
    reference = cell.reference
    barriers = NativeBarriers(store)
    functions, vmctx = barriers.functions, barriers.vmctx
    slot = cffi.FFI().from_buffer("uint32_t *", store.heap.slot(reference, HEADER_SIZE))
    store.close()
    del barriers, cell, store
    gc.collect()
    for name in ("lh_inc_ref", "lh_dec_ref", "lh_expose"):
        functions[name](vmctx, reference)
    functions["lh_write"](vmctx, slot, reference)
    assert slot[0] == reference
    functions["lh_init"](vmctx, slot, reference)
    assert functions["lh_read"](vmctx, slot) == reference


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_a_struct_with_references_beyond_the_traced_mask_drops_them_all(length: int) -> None:
    """The mask covers the first 64 slots behind the header; the type data cover any."""
    world = StoreWorld(1 << 20)
    fields = tuple(lh.FieldType(lh.RefType(True, world.cell), True) for _ in range(length))
    (wide,) = world.types.register([lh.SubType(lh.StructType(fields))], outer=tuple(world.types))
    world.heap.register_type(wide)
    holder = world.heap.alloc_uninit_struct(wide)
    for place in world.heap.struct_layout(wide).fields:
        world.heap.slot(holder, place.offset).value = world.new_cell()
    assert len(world.live()) == length + 1
    NativeBarriers(world.store).dec_ref(holder)
    world.heap.verify()
    assert world.live() == []


def test_a_long_chain_and_a_large_array_drop_natively_in_constant_space() -> None:
    world = StoreWorld(1 << 16)
    chain = NULL
    for _ in range(30_000):
        chain = world.store.alloc_struct(world.cell) if chain == NULL else link(world, chain)
    array = world.store.alloc_array(world.refs, 30_000)
    for number in range(30_000):
        world.heap.slot(array, REFS.element_offset(number)).value = world.store.alloc_struct(world.cell)
    capacity = world.heap.control.capacity
    barriers = NativeBarriers(world.store)
    barriers.dec_ref(chain)
    barriers.dec_ref(array)
    world.heap.verify()
    assert world.live() == []
    assert world.heap.control.capacity == capacity


def link(world: StoreWorld, following: int) -> int:
    cell = world.store.alloc_struct(world.cell)
    world.heap.slot(cell, NEXT).value = following
    return cell


def test_the_compiled_runtime_coalesces_as_python_does() -> None:
    """Both merge the same neighbours, and give the same tail back to the bump region."""
    images = []
    for natively in (False, True):
        world = StoreWorld(1 << 16)
        cells = [world.heap.alloc_uninit_struct(world.cell) for _ in range(300)]
        for number, cell in enumerate(cells):
            if number % 7 and (number < 250 or number > 280):
                world.heap.drop_gc_ref(cell)
            else:
                world.roots.create_handle(cell)
        if natively:
            # Nothing fits but a merged block, so the slow path must coalesce; then give the array back.
            world.heap.control.bump_end = world.heap.control.bump
            array = allocators()["array"](world.vmctx, world.bytes, 200)
            assert array != NULL
            handle = world.roots.create_handle(array)
            world.heap.verify()
            assert world.heap.control.coalescings == 1
            world.heap.drop_gc_ref(world.roots.release_handle(handle))
            world.heap.coalesce()
        else:
            world.heap.coalesce()
        world.heap.verify()
        images.append([(b.index, b.length, b.is_free) for b in _blocks(world)])
    assert images[0] == images[1]


def _blocks(world: StoreWorld) -> list[Block]:
    return list(walk(world.heap.control, world.memory))
