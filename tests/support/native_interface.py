"""Whole copies of heaps for native functions that take more than a heap's bytes, and such functions as machine code.

A side has all that a heap of the C interface has: a control mapping with its tables and what the collector keeps,
memory, an `lh_heap`. The machine code is that of the C interface, which keeps a message.
"""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from llvmlite import ir

from lowheap.collectors.interface import Collector
from lowheap.collectors.shared import setup
from lowheap.embed.emitter import ApiFunction
from lowheap.embed.lifecycle import LifecycleEmitter
from lowheap.embed.system import IMPORTED_SYMBOLS
from lowheap.jit.emit import I32, I64, PTR
from lowheap.jit.engine import LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.stackmaps import host_architecture
from lowheap.jit.translate import HEAP as WHOLE_HEAP
from lowheap.jit.translate import Place, View, inline_call, llvm_type
from lowheap.layout import (
    COLLECTOR_AREA_OFFSET,
    COLLECTOR_STATE_OFFSET,
    COLLECTOR_STATE_SIZE,
    CONTROL_BLOCK_OFFSET,
    FUNCTION_TABLE_OFFSET,
    HANDLES_OFFSET,
    HOST_DATA_OFFSET,
    ROOT_RANGES_OFFSET,
    ROOT_SLOTS_OFFSET,
    TYPE_DATA_OFFSET,
    TYPE_TABLE_OFFSET,
    VMFuncRef,
    VMHandle,
    VMHeap,
    VMHeapControl,
    VMHostData,
    VMObjectInfo,
    VMRootFrame,
    VMStoreContext,
    VMTable,
    VMTypeInfo,
)
from lowheap.memory import Mapping, Memory
from lowheap.native import Buffer, Heap, Native
from lowheap.native.check import HeapType, NoneType, PlaceType, StaticType, ViewType
from lowheap.native.storage import ENTRIES_OFFSET
from support.native_heaps import Copy
from support.native_sides import c_type

# ----------------------------------------------------------------------------------------------------------------------
# Sides

_MOST = 1 << 16
"""So many entries are compared of a table at most."""


class SideHeap(Heap):
    """A heap of Python's with an `lh_heap`, checked or not."""

    lh_heap: VMHeap
    has_checks = True

    @property
    def is_checked(self) -> bool:
        return self.has_checks

    @property
    def interface(self) -> VMHeap:
        return self.lh_heap


SLOTS = (ctypes.c_uint32 * 8)()
"""Root slots that all sides share: what is in them nobody changes."""

RANGE = VMTable(ctypes.addressof(SLOTS), 4, 6)
"""A root range of such: the first half."""

FUNCTION_TYPES = (0, 0, 5, 1, 6)
FUNCTIONS_OF_STORE = (VMFuncRef * len(FUNCTION_TYPES))(*(VMFuncRef(0, 0, each, 0) for each in FUNCTION_TYPES))
NOTES = 1 << 13
"""Bytes of notes: for as much of a heap as the steps fill."""

ENTRIES = 1 << 14
"""How many entries of a collector's buffers are compared, and copied: more than these small heaps fill."""


class Copied(Protocol):
    """What there is a side of: a heap, or another side."""

    @property
    def control(self) -> VMHeapControl: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def collector(self) -> Collector: ...


class Side:
    """A whole copy of a heap, at addresses of its own."""

    heap_class: type[SideHeap] = SideHeap
    is_checked = True

    def __init__(
        self,
        source: Copied,
        context: VMStoreContext,
        notes: bytes = b"",
        *,
        notes_size: int = NOTES,
        collector: Collector | None = None,
    ) -> None:
        """Copy a heap; `collector` is one of the same class, with other parameters, if it is not to be the heap's."""
        control, self.collector = source.control, collector or source.collector
        self.mapping = Mapping(COLLECTOR_AREA_OFFSET + self.collector.area().size)
        start_of_source = ctypes.addressof(control) - CONTROL_BLOCK_OFFSET
        for start, size in self.tables(control, self.collector):
            self.mapping.write(start, ctypes.string_at(start_of_source + start, size).rstrip(b"\0"))
        self.memory = Memory(control.capacity, control.maximum)
        self.memory.write(0, source.memory.read(0, control.capacity))
        self.control: VMHeapControl = self.mapping.view(VMHeapControl, CONTROL_BLOCK_OFFSET)
        setup.set_up_tables(ctypes.addressof(self.control), self.mapping.base)
        self.control.heap_base = self.memory.base
        whole = VMHeap.store_context.offset + FUNCTION_TABLE_OFFSET + ctypes.sizeof(FUNCTIONS_OF_STORE)
        self.lh_heap = VMHeap.from_buffer(ctypes.create_string_buffer(whole))
        self.lh_heap.heap_base, self.lh_heap.control = self.memory.base, ctypes.addressof(self.control)
        self.context: VMStoreContext = self.lh_heap.store_context
        ctypes.memmove(ctypes.addressof(self.context), ctypes.addressof(context), ctypes.sizeof(context))
        functions = ctypes.addressof(self.context) + FUNCTION_TABLE_OFFSET
        ctypes.memmove(functions, ctypes.addressof(FUNCTIONS_OF_STORE), ctypes.sizeof(FUNCTIONS_OF_STORE))
        self.lh_heap.store = ctypes.addressof(self.context)
        self.heap = self.heap_class(
            self.memory, self.control, store_context=self.context, host=self.release, collector=self.collector
        )
        self.heap.lh_heap, self.heap.has_checks = self.lh_heap, self.is_checked
        self.notes = ctypes.create_string_buffer(notes, notes_size)
        self.frame = VMRootFrame(self.context.root_frames, 0, 0, 0)
        self.handle = VMHandle()
        self.ranges = (VMTable * 2)()
        self.visited: list[bytes] = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)
        self.visitor = prototype(self._visit)
        host = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
        self.call_host = host(self._call_host)
        self.context.call_host = ctypes.cast(self.call_host, ctypes.c_void_p).value or 0
        self.stops_at = 0

    def _call_host(self, vmctx: int, what: int, argument: int) -> int:
        self.release()
        return 0

    def release(self) -> None:
        """Nothing is let go of."""

    def _visit(self, argument: int, info: int) -> int:
        self.visited.append(ctypes.string_at(info, ctypes.sizeof(VMObjectInfo)))
        return 9 if len(self.visited) == self.stops_at else 0

    @staticmethod
    def tables(control: VMHeapControl, collector: Collector) -> list[tuple[int, int]]:
        """Where something can be: offsets in the mapping, and sizes, with room for one entry more."""
        kept = [(COLLECTOR_STATE_OFFSET, COLLECTOR_STATE_SIZE)] if collector.states else []
        for part, start in collector.area().offsets.items():
            if isinstance(part, Buffer):
                kept.append((start, ctypes.sizeof(ctypes.c_uint64)))
                kept.append((start + ENTRIES_OFFSET, min(part.limit, ENTRIES) * ctypes.sizeof(ctypes.c_uint32)))
            else:
                kept.append((start, ((control.maximum >> part.shift) + 2) * part.entry_size))
        # A count may have been damaged; then it says nothing of how large a table is.
        handles, host_data = (min(each, _MOST) for each in (control.handle_count, control.host_data_count))
        return [
            (CONTROL_BLOCK_OFFSET, ctypes.sizeof(VMHeapControl)),
            (TYPE_TABLE_OFFSET, 40 * ctypes.sizeof(VMTypeInfo)),
            (TYPE_DATA_OFFSET, 1 << 13),
            (HANDLES_OFFSET, max(256, (handles + 2) * ctypes.sizeof(ctypes.c_uint32))),
            (ROOT_SLOTS_OFFSET, 256),
            (ROOT_RANGES_OFFSET, 64),
            (HOST_DATA_OFFSET, max(64, host_data + 2) * ctypes.sizeof(VMHostData)),
            *kept,
        ]

    def as_of_any(self, message: str) -> str:
        """A message, with what is being thrown, which is in a place of the side's own."""
        return message.replace(hex(ctypes.addressof(self.context) + VMStoreContext.exception.offset), "(thrown)")

    def state(self) -> list[bytes]:
        """All of its bytes; addresses are those within the side."""
        copied = VMHeapControl.from_buffer_copy(self.control)
        base = self.mapping.base
        for name in ("type_table", "type_data", "handles", "root_slots", "root_ranges", "host_data"):
            setattr(copied, name, (getattr(copied, name) - base) % (1 << 64))
        copied.heap_base = (copied.heap_base - self.memory.base) % (1 << 64)
        context = VMStoreContext.from_buffer_copy(self.context)
        context.call_host = 0
        frame = VMRootFrame.from_buffer_copy(self.frame)
        if context.root_frames == ctypes.addressof(self.frame):
            context.root_frames = 1
        if frame.heap == ctypes.addressof(self.lh_heap):
            frame.heap = 1
        tables = [self.mapping.read(start, size) for start, size in self.tables(self.control, self.collector)[1:]]
        return [
            self.bytes_in_use(),
            bytes(copied),
            bytes(context),
            bytes(frame),
            bytes(self.handle),
            *(bytes(VMTable(max(0, each.base - self.memory.base), each.length, each.maximum)) for each in self.ranges),
            self.notes.raw,
            *tables,
            *self.visited,
        ]

    def bytes_in_use(self) -> bytes:
        """The heap's bytes, as far as they are anybody's."""
        parts: Any = SimpleNamespace(control=self.control, context=self.context, memory=self.memory)
        return Copy.state(parts)[0]

    def close(self) -> None:
        self.heap = self.control = self.context = None  # type: ignore[assignment]
        self.mapping.abandon()
        self.memory.abandon()


# ----------------------------------------------------------------------------------------------------------------------
# Machine code


class Examiner(LifecycleEmitter):
    """What emits a function of the checked C interface by any name; a class of its own for each collector."""

    is_checked = True
    system = platform.system().lower()
    architecture = host_architecture()
    api = SimpleNamespace(name="test")  # type: ignore[assignment]


class Interface:
    """Functions as some that return a status, and what they returned at an address: the last argument."""

    def __init__(
        self, emitter: type[Examiner], functions: Sequence[Native[..., Any]], statics: dict[str, Any] | None = None
    ) -> None:
        module = ir.Module("test")
        emitter.define_helpers(module)
        self._names = {function: f"test.{number}" for number, function in enumerate(functions)}
        for function, name in self._names.items():
            _define(emitter, module, function, name, statics or {})
        self._code = LoadedCode(compile_ir(module, tuple(self._names.values())), imports=IMPORTED_SYMBOLS)

    def __getitem__(self, function: Native[..., Any]) -> Any:
        types = [c_type(each.type) for each in _passed(function)]
        prototype = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, *types, ctypes.c_void_p)
        return prototype(self._code.address(self._names[function]))


def _passed(function: Native[..., Any]) -> list[Any]:
    return [each for each in function.checked.parameters if not isinstance(each.type, HeapType | StaticType)]


def _define(
    kind: type[Examiner], module: ir.Module, function: Native[..., Any], name: str, statics: dict[str, Any]
) -> None:
    type = ir.FunctionType(I32, [PTR, *(llvm_type(each.type) for each in _passed(function)), PTR])
    emitter = kind(ApiFunction(module, type, name))
    given = iter(emitter.function.args[1:-1])
    arguments: list[Any] = []
    for each in function.checked.parameters:
        if isinstance(each.type, HeapType):
            arguments.append(WHOLE_HEAP)
        elif isinstance(each.type, StaticType):
            arguments.append(statics[each.name])
        else:
            value = next(given)
            if isinstance(each.type, ViewType):
                value = View(value, each.type.structure)
            elif isinstance(each.type, PlaceType):
                value = Place(value, each.type.word)
            arguments.append(value)
    value = inline_call(emitter, function, arguments, emitter._sibling)
    if not isinstance(function.checked.result, NoneType):
        wide = value if getattr(value.type, "width", 64) == 64 else emitter.builder.zext(value, I64)
        emitter.store_typed(wide, emitter.function.args[-1])
    emitter.builder.ret(I32(0))


def message_of(heap: VMHeap) -> str:
    """The message that machine code has kept."""
    text = ctypes.string_at(heap.error_format).decode().removeprefix("test: ").replace("%%", "%")
    values = iter(heap.error_values)
    return re.sub(r"0x%llx|%llu", lambda found: format(next(values), "#x" if found[0] == "0x%llx" else ""), text)
