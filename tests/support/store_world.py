"""A heap that is a store's, on which Python and compiled code take turns, and a stack that compiled code could have."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import cffi

import lowheap as lh
from lowheap.collectors import registry
from lowheap.jit import runtime
from lowheap.layout import VMActivation, VMStackMapEntry, VMStackSlot
from lowheap.runtime.store_runtime import StoreRuntime, runtime_of
from support.heap_world import World


class StoreWorld(World):
    """A world whose heap is a store's, so that compiled code can be let loose on it."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        types = self.types
        engine = lh.Engine(runtime="native")
        engine.types = types
        self.store = lh.Store(engine, initial_heap_size=capacity)
        self.heap, self.host_data, self.roots = self.store.heap, self.store.host_data, self.store.roots
        self.memory = self.heap.memory
        for index in types:
            self.heap.register_type(index)
        self.runtime: StoreRuntime = runtime_of(self.store)
        self.vmctx = int(cffi.FFI().cast("uintptr_t", self.runtime.vmctx))
        self.compiled = dict(self.heap.replacements)

    def choose_collector(self, *, native: bool) -> None:
        """Have what compiled code can do of collections, and of drops, done by it, or by Python."""
        for each in self.heap.collector.all_compiled():
            self.heap.replacements.pop(each, None)
        if native:
            self.heap.replacements.update(self.compiled)


@functools.cache
def allocators() -> dict[str, ctypes._FuncPointer]:
    code = runtime.load(registry.find("drc"))
    struct = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
    array = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
    return {
        "struct": struct(code.address(runtime.ALLOCATE_STRUCT)),
        "array": array(code.address(runtime.ALLOCATE_ARRAY)),
    }


RETURN_ADDRESS = 0x1000


class FakeStack:
    """One activation with one frame that holds references, where the compiled frame walk will find them."""

    def __init__(self, world: StoreWorld, references: Sequence[int]) -> None:
        self.context = world.runtime.context
        record = 16  # the caller's frame pointer, and the return address
        size = record + 4 * len(references)
        self.memory = (ctypes.c_uint64 * (size // 8 + 8))()
        exit_frame = (ctypes.addressof(self.memory) + 15) & -16
        frame = exit_frame + (size + 15) // 16 * 16
        entry_frame = frame + record
        ctypes.c_uint64.from_address(exit_frame).value = frame
        ctypes.c_uint64.from_address(exit_frame + 8).value = RETURN_ADDRESS
        ctypes.c_uint64.from_address(frame).value = entry_frame
        for number, reference in enumerate(references):
            ctypes.c_uint32.from_address(exit_frame + record + 4 * number).value = reference
        self.activation = VMActivation(entry_frame_pointer=entry_frame, exit_frame_pointer=exit_frame)
        self.entries = (VMStackMapEntry * 1)(VMStackMapEntry(RETURN_ADDRESS, 0, len(references)))
        self.slots = (VMStackSlot * max(1, len(references)))(
            *(VMStackSlot(4 * number, 0, 1) for number in range(len(references)))
        )

    def __enter__(self) -> None:
        self.context.activation = ctypes.addressof(self.activation)
        self.context.stack_map_entries = ctypes.addressof(self.entries)
        self.context.stack_map_mask = 0
        self.context.stack_map_slots = ctypes.addressof(self.slots)

    def __exit__(self, *_: object) -> None:
        self.context.activation = 0
