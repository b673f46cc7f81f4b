"""Random heaps for native functions, copies of them at other addresses, and the frames that a function may find."""

from __future__ import annotations

import ctypes
import functools
import importlib
import pkgutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

import lowheap as lh
from lowheap import collectors
from lowheap.collector import DrcCollection
from lowheap.collectors.drc import Drc
from lowheap.collectors.shared import free_lists, tracing
from lowheap.jit.runtime import frame_rules
from lowheap.jit.stackmaps import host_architecture
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    NULL,
    STACK_MAP_HASH_MULTIPLIER,
    STACK_MAP_HASH_SHIFT,
    FreeBlock,
    VMContext,
    VMDrcHeader,
    VMHeapControl,
    VMRootFrame,
    VMSavedRegister,
    VMStackMapEntry,
    VMStoreContext,
    VMUnwindEntry,
    block_length,
)
from lowheap.memory import Memory
from lowheap.native import Heap, Native
from support.heap_world import World, fields
from support.store_world import RETURN_ADDRESS, FakeStack

MAKE = ["cell", "cell", "array", "array", "wide", "externref", "bytes", "exception"]
CHANGE = ["link", "link", "unlink", "i31", "expose", "expose", "drop", "drop", "read", "read", "sweep", "coalesce"]
OPERATIONS = [*MAKE, *CHANGE]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(OPERATIONS),
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(0, 6),
    ),
    min_size=3,
    max_size=35,
)


class Made:
    """A heap that steps have made; what it says of it is for arguments."""

    def __init__(self, steps: list[tuple[str, int, int, int]]) -> None:
        self.world = world = World(1 << 14)
        self.heap = world.heap
        wide = tuple(lh.FieldType(lh.RefType(True, world.cell), True) for _ in range(70))
        (self.wide,) = world.types.register([lh.SubType(lh.StructType(wide))], outer=tuple(world.types))
        (self.pair,) = world.types.register([lh.SubType(fields(lh.types.ANYREF, lh.types.EXTERNREF))])
        carried = lh.FuncType((lh.types.I32, lh.types.ANYREF, lh.types.FUNCREF), ())
        (self.tag,) = world.types.register([lh.SubType(carried)])
        for index in (self.wide, self.pair, self.tag):
            self.heap.register_type(index)
        self.handles: list[int] = []
        for step in steps:
            self.step(*step)

    def step(self, what: str, a: int, b: int, number: int) -> None:
        """Do one thing to the heap, or nothing where nothing is held."""
        for known in ("objects", "listed"):
            self.__dict__.pop(known, None)
        world, heap = self.world, self.heap
        match what:
            case "cell":
                new = world.new_cell()
            case "array":
                new = world.new_refs(*[NULL] * number)
            case "wide":
                new = heap.alloc_uninit_struct(self.wide)
                for slot in self.slots(new):
                    slot.value = NULL
            case "exception":
                new = heap.alloc_uninit_exn(self.tag)
                for slot in self.slots(new):
                    slot.value = NULL
            case "externref":
                new = world.new_externref(number)
            case "bytes":
                new = heap.alloc_uninit_array(world.bytes, number * 200)
            case _:
                if self.handles:
                    self._change(what, a, b, number)
                return
        self.handles.append(world.roots.create_handle(new))

    def _change(self, what: str, a: int, b: int, number: int) -> None:
        world, heap = self.world, self.heap
        handle = self.handles[a % len(self.handles)]
        holder, target = world.roots.handle(handle), world.roots.handle(self.handles[b % len(self.handles)])
        slots = self.slots(holder)
        match what:
            case "link" | "unlink" | "i31" if slots:
                value = {"link": target, "unlink": NULL, "i31": 2 * number + 1}[what]
                heap.write_gc_ref(slots[number % len(slots)], value)
            case "expose":
                self.handles.remove(handle)
                heap.expose_gc_ref_to_wasm(world.roots.release_handle(handle))
            case "drop":
                self.handles.remove(handle)
                heap.drop_gc_ref(world.roots.release_handle(handle))
            case "read":
                heap.expose_gc_ref_to_wasm(heap.clone_gc_ref(holder))
            case "sweep":
                found = DrcCollection(heap, world.roots)
                for _ in range(2):  # trace and sweep; what died is pending
                    found.collect_increment(number + 1)
            case "coalesce":
                heap.coalesce()

    def slots(self, reference: int) -> list[ctypes.c_uint32]:
        """The traced slots of an object."""
        type_index = self.heap.header(reference).type_index
        if type_index == EXTERNREF_TYPE_INDEX:
            return []
        return list(tracing.traced_slots(self.heap.native, reference, type_index))

    @functools.cached_property
    def objects(self) -> list[int]:
        pending = set(self.heap.pending_dead())
        return [each.index for each in self.heap.objects() if each.index not in pending]

    @functools.cached_property
    def listed(self) -> list[int]:
        return list(self.heap.over_approximated_stack_roots())

    def kill(self, count: int) -> int:
        """Make a chain of dead objects, of what only handles hold, and return its first."""
        dead = NULL
        for handle in self.handles:
            reference = self.world.roots.handle(handle)
            header = self.heap.header(reference)
            is_listed = header.kind_and_reserved & HEADER_IN_OVER_APPROX_LIST_BIT
            if count and header.ref_count == 1 and not is_listed:
                header.ref_count = 0
                header.next_over_approximated_stack_root = dead
                dead = reference
                count -= 1
        return dead


class Copy:
    """A copy of a heap at addresses of its own: what Python's functions take, and what machine code's do."""

    def __init__(self, made: Made, context: VMStoreContext) -> None:
        control = made.heap.control
        self.memory = Memory(control.capacity, control.maximum)
        self.memory.write(0, made.world.memory.read(0, control.capacity))
        self.control = VMHeapControl.from_buffer_copy(control)
        self.control.heap_base = self.memory.base
        self.context = VMStoreContext.from_buffer_copy(context)
        self.heap = Heap(self.memory, self.control, store_context=self.context, host=self.release, collector=Drc())
        prototype = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
        self._call_host = prototype(lambda *_: self.release())
        self.context.call_host = ctypes.cast(self._call_host, ctypes.c_void_p).value or 0
        self.vmctx = VMContext(self.memory.base, ctypes.addressof(self.control), ctypes.addressof(self.context), 0)

    def release(self) -> int:
        """Free the externrefs that died, as the host does."""
        reference = self.control.dead_externrefs
        while reference != NULL:
            header = self.heap.header(reference)
            following = header.next_over_approximated_stack_root
            length = block_length(header.object_size)
            free_lists.push_free(self.heap, reference, length, 0)
            self.control.objects_freed += 1
            self.control.bytes_freed += length
            reference = following
        self.control.dead_externrefs = NULL
        return 0

    def state(self) -> tuple[bytes, bytes, bytes]:
        """All bytes, but for the addresses that must differ, and what is in free blocks behind their header.

        What stood there is nobody's any more: Python keeps a dying object's header whole, in case something raises.
        """
        control, context = (type(each).from_buffer_copy(each) for each in (self.control, self.context))
        control.heap_base = context.call_host = 0
        whole = bytearray(self.memory.read(0, max(control.bump, FIRST_INDEX)))
        index = FIRST_INDEX
        while index < control.bump and index + ctypes.sizeof(VMDrcHeader) <= len(whole):
            block = FreeBlock.from_buffer(whole, index)
            if block.kind_and_reserved:
                length = block_length(VMDrcHeader.from_buffer(whole, index).object_size)
            else:
                length = block.length
                rest = range(index + ctypes.sizeof(FreeBlock), min(index + length, len(whole)))
                whole[rest.start : rest.stop] = bytes(len(rest))
            if length < BLOCK_ALIGN or index + length > len(whole):
                break  # the function was given what made no whole heap
            index += length
        return bytes(whole), bytes(control), bytes(context)


class Frames:
    """What a store's context has: the frames of compiled code and of hosts, and what they hold."""

    def __init__(self, held: list[int], hosts: list[int], *, is_known: bool, catches: bool = False) -> None:
        self.context = VMStoreContext()
        self.stack = FakeStack(SimpleNamespace(runtime=SimpleNamespace(context=self.context)), held)  # type: ignore[arg-type]
        # A table always has an empty entry, where a search for what it does not have ends.
        address = RETURN_ADDRESS if is_known else RETURN_ADDRESS + 1
        known = VMStackMapEntry(address, 0, len(held))
        place = (address * STACK_MAP_HASH_MULTIPLIER & (1 << 64) - 1) >> STACK_MAP_HASH_SHIFT & 1
        self.stack.entries = (VMStackMapEntry * 2)()
        self.stack.entries[place] = known
        self.stack.__enter__()
        self.context.stack_map_mask = 1
        self.calls = (VMUnwindEntry * 2)()
        self.calls[place] = VMUnwindEntry(address, 0xCA7C4 if catches else 0, -48, 1, 2)
        self.registers = (VMSavedRegister * 3)((0, 0), (-40, -8), (-8, 0))
        self.context.unwind_entries, self.context.unwind_mask = ctypes.addressof(self.calls), 1
        self.context.saved_registers = ctypes.addressof(self.registers)
        self.context.exception = held[0] if held else NULL
        middle = len(hosts) // 2
        self.parts: list[Any] = []
        for part in (hosts[:middle], hosts[middle:]):
            slots = (ctypes.c_uint32 * max(1, len(part)))(*part)
            frame = VMRootFrame(self.context.root_frames, 0, ctypes.addressof(slots), len(part))
            self.context.root_frames = ctypes.addressof(frame)
            self.parts += [slots, frame]


ANY_U32 = st.integers(0, 0xFFFF_FFFF) | st.sampled_from([0, 1, 2, 16, 32, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
ANY_U64 = st.integers(0, (1 << 64) - 1) | st.integers(0, 20)

ON_TABLES = {
    "drc.barriers",
    "drc.verify",
    "host",
    "null.collector",
    "shared.access",
    "shared.casts",
    "shared.host_data",
    "shared.parts",
    "shared.ranges",
    "shared.roots",
    "shared.setup",
    "shared.types",
    "shared.verify",
    "shared.walking",
    "table_ranges",
}
"""The modules whose functions take more than a heap's bytes, as tables behind the control block, notes, texts."""

RULES = [
    frame_rules(architecture, checks_hosts=checks)
    for architecture in {host_architecture(), None}
    for checks in (False, True)
]


OF_EPOCHS = "rc_immix."
"""What the modules begin with whose functions work on heaps of another kind."""


def natives(*, on_tables: bool) -> list[Native[..., Any]]:
    """All native functions of the collectors' modules that are in `ON_TABLES`, or of all the others."""
    return _natives_of(lambda name: not name.startswith(OF_EPOCHS) and (name in ON_TABLES) == on_tables)


def natives_of_epochs() -> list[Native[..., Any]]:
    """All native functions of rc-immix."""
    return _natives_of(lambda name: name.startswith(OF_EPOCHS))


def _natives_of(is_wanted: Callable[[str], bool]) -> list[Native[..., Any]]:
    """Those of the collectors' modules with such names."""
    found: dict[int, Native[..., Any]] = {}
    prefix = f"{collectors.__name__}."
    for module in pkgutil.walk_packages(collectors.__path__, prefix):
        for each in vars(importlib.import_module(module.name)).values():
            if isinstance(each, Native) and is_wanted(each.__module__.removeprefix(prefix)):
                found[id(each)] = each
    return sorted(found.values(), key=lambda each: each.symbol)
