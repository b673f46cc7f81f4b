"""The deferred reference-counting heap: allocate, count, expose, write, drop, verify.

Counting is *deferred*: a reference in a WebAssembly local or on its operand stack is not counted. Instead, whenever a
reference may enter compiled code (`expose_gc_ref_to_wasm`), its object is put on a list, the over-approximated stack
roots, and the list counts as one owner. A collection (`collector.py`) finds out which of the listed objects compiled
code still holds, and takes the list's count from the others. Every other owner (a field, a global, a host handle)
counts at once, so an object whose count reaches 0 is garbage at that moment, and dropped with all that only it held.

What a caller owns: allocation and `clone_gc_ref` return a reference with one count that is the caller's, to hand on
(`expose_gc_ref_to_wasm`) or to give back (`drop_gc_ref`). Everything else borrows.

All state is in mapped memory: in the objects, or in the control block. A `DrcHeap` holds only views of it, and caches
what the type registry says. What only cycles keep is freed by a search (`collectors/drc/cycles.py`), which wasmtime's
collector does not have.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lowheap.collectors import registry
from lowheap.collectors.interface import ANY, Collector
from lowheap.collectors.shared import collection, cycles, externrefs, free_lists, setup, sizing, tracing
from lowheap.collectors.shared import roots as root_table
from lowheap.collectors.shared import types as type_table
from lowheap.collectors.shared.allocator import OF_THE_COLLECTOR, Allocator, SegregatedFit
from lowheap.collectors.shared.sizing import NO_SEARCH, UNLIMITED
from lowheap.collectors.shared.verify import verify_addresses, verify_object
from lowheap.collectors.shared.walking import is_free, verify_bounds
from lowheap.copying import NotCopied
from lowheap.critical import whole, whole_unless_unheard
from lowheap.errors import (
    AllocationTooLargeError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    InvalidReferenceError,
)
from lowheap.layout import (
    COLLECTOR_AREA_OFFSET,
    COLLECTOR_STATE_OFFSET,
    COLLECTOR_STATE_SIZE,
    CONTROL_ATTACHED,
    CONTROL_BLOCK_OFFSET,
    CONTROL_UNCOUNTED,
    EXTERNREF_TYPE_INDEX,
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    KIND_ARRAY_BIT,
    KIND_MASK,
    MAXIMUM_CAPACITY,
    NULL,
    OBJECT_KINDS,
    REFERENCE_SIZE,
    RESERVED_MASK,
    TYPE_FINAL,
    TYPE_LIMIT,
    TYPE_TABLE_OFFSET,
    U32_MAX,
    CollectionPhase,
    GcArrayLayout,
    GcLayout,
    GcStructLayout,
    GcTypeLayouts,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMFieldDefinition,
    VMGcKind,
    VMHeapControl,
    VMHeapStatistics,
    VMHeapType,
    VMStorage,
    VMTypeInfo,
    block_length,
    is_object,
)
from lowheap.memory import Mapping, Memory
from lowheap.native import Heap, Native, note, tables
from lowheap.native.function import Replacements
from lowheap.types import (
    ArrayType,
    CompositeType,
    FieldType,
    FuncType,
    RefType,
    StorageType,
    StructType,
    TypeRegistry,
    storage_size,
)
from lowheap.verification import problems_of

if TYPE_CHECKING:
    from lowheap.snapshot import Image

_KINDS = {
    (StructType, False): int(VMGcKind.STRUCT_REF),
    (StructType, True): int(VMGcKind.HIDDEN_STRUCT_REF),
    (ArrayType, False): int(VMGcKind.ARRAY_REF),
    (ArrayType, True): int(VMGcKind.HIDDEN_ARRAY_REF),
    (FuncType, False): int(VMGcKind.EXN_REF),
}
"""The kind of a type's objects, by its composite type's class, and whether it is hidden."""

Find = Callable[[int], int | None] | None
"""What returns a block for so many bytes, or None when there is no room; None: the free-list policy."""


@runtime_checkable
class HostData(Protocol):
    """What the heap asks of the side table behind externrefs (`hostdata.py`)."""

    def bind(self, control: VMHeapControl) -> None:
        """Keep ids in the table that the control block points to. HeapError when it serves a heap already."""

    def unbind(self) -> None:
        """Let go of all ids, and of the control block."""

    def dealloc(self, host_data_id: int) -> None:
        """Let go of an id whose externref died."""

    def __contains__(self, host_data_id: object) -> bool:
        """Whether the id is in use."""


class Pin(Protocol):
    """A view of the heap's memory that was given out."""

    def let_go(self) -> bool:
        """Give it back if nobody uses it any more; whether that is so."""


def names_object(reference: int) -> bool:
    """`is_object` for what comes from outside: TypeError or InvalidReferenceError for what is no u32 at all."""
    if not isinstance(reference, int) or isinstance(reference, bool):
        raise TypeError(f"a reference is {reference!r}; it must be an int, an index into the heap")
    if not 0 <= reference <= U32_MAX:
        raise InvalidReferenceError(f"{reference:#x} is not a reference; references are from 0 to {U32_MAX:#x}")
    return is_object(reference)


def unsound_root(reference: int) -> str:
    """Return what is wrong with what compiled code holds, when a trace has found it not to be listed."""
    return f"compiled code holds {reference:#x}, which is not among the over-approximated stack roots"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as `DrcHeap.objects` reports it. `size` is in bytes, unrounded.

    A count of 0 is that of an object that died and is yet to be freed; unless the collector has live ones of that count
    (`is_live`), as Deutsch-Bobrow has, whose table is of objects that only frames may hold.
    """

    index: int
    kind: VMGcKind
    type_index: int
    ref_count: int
    size: int
    is_listed: bool
    is_marked: bool


@dataclass(frozen=True, slots=True)
class HeapStatistics:
    """Figures of a heap. Sizes are in bytes of blocks, that is, rounded up to 16."""

    objects_allocated: int
    objects_freed: int
    bytes_allocated: int
    bytes_freed: int
    peak_live_bytes: int
    collections: int
    growths: int
    coalescings: int
    cycle_searches: int
    """How often garbage that only cycles keep was searched for,"""
    cyclic_objects: int
    """how many objects these searches have found,"""
    cyclic_bytes: int
    """and how many bytes of blocks."""
    capacity: int
    maximum: int
    listed: int
    peak_committed: int
    """How much of the system's memory the objects had at most, of a collector that gives memory back; of others the
    capacity."""
    pauses: int
    """How often a collection, or a portion of one, has kept the program waiting; 0 if the collector does not measure
    that, and so with the following:"""
    paused_nanoseconds: int
    """for how long together,"""
    longest_pause_nanoseconds: int
    """and at most."""
    counters: dict[str, int]
    """What the collector counts besides, by name."""

    @property
    def live_objects(self) -> int:
        """Objects that are allocated and not yet freed, those that died and wait to be freed among them."""
        return self.objects_allocated - self.objects_freed

    @property
    def live_bytes(self) -> int:
        """Bytes of the blocks of these objects."""
        return self.bytes_allocated - self.bytes_freed


class _NativeHeap(Heap):
    """A `DrcHeap` as functions written once know it; on a checked one, each header that they come to is looked at."""

    def __init__(self, heap: DrcHeap, memory: Memory) -> None:
        super().__init__(memory, heap.control, host=lambda: heap.host(), collector=heap.collector)
        self._heap = heap

    @property
    def is_checked(self) -> bool:
        """Whether to look for corruption on the way."""
        return self._heap.is_checked

    def header(self, reference: int) -> VMDrcHeader:
        """Return the header of an object. InvalidReferenceError where none is, HeapCorruptionError for a wrong one."""
        header = super().header(reference)
        if self._heap.is_checked:
            self._heap.check_header(reference, is_dead=header.ref_count == 0)
        return header


@whole
def _take_back(heap: DrcHeap, reference: int) -> None:
    heap.drop_gc_ref(reference)


_owned = whole_unless_unheard(_take_back)
"""For what returns a reference with a count that is the caller's."""


class DrcHeap(NotCopied):
    """One heap. It has no memory until `attach`; `types` says what the type indices in its objects mean.

    A `checked` heap is a slow one that looks for corruption all the time, not only in `verify`: after each operation
    that takes or frees a block, at the free-list policy's structures, and at the whole header of every object that an
    operation is given or comes to. It raises HeapCorruptionError. What compiled code does by itself goes unchecked.
    """

    NOT_COPIED_BECAUSE = "it stands for mapped memory; `snapshot` takes an image, which is a value"

    def __init__(
        self,
        types: TypeRegistry,
        *,
        collector: Collector | None = None,
        allocator: type[Allocator] = SegregatedFit,
        checked: bool = False,
        search_cycles: bool = True,
    ) -> None:
        """Make a heap without memory. `collector` is by default `Drc`, `allocator` its free-list policy.

        `search_cycles`: whether allocation may have cycles searched for.
        """
        if not isinstance(types, TypeRegistry):
            raise TypeError(f"types is {types!r}; it must be a TypeRegistry")
        self.types = types
        self.collector = registry.find("drc" if collector is None else collector)
        if self.collector.finds_room and allocator is not SegregatedFit:
            what = f"the collector {self.collector.name} finds room for objects itself"
            raise HeapError(f"{what}; it has no allocator {allocator.name!r}")
        self.allocator_policy = allocator
        self.searches_cycles = search_cycles and self.collector.searches_for_cycles
        """Whether what only cycles keep is searched for without being asked for."""
        self.is_checked = checked
        """Whether operations look for corruption; may be changed at any moment."""
        self._layouts = GcTypeLayouts()
        self._layout_cache: dict[int, GcLayout] = {}
        self._definitions: dict[FieldType, bytes] = {}
        self._control_mapping = Mapping(COLLECTOR_AREA_OFFSET + self.collector.area().size)
        self.control: VMHeapControl = self._control_mapping.view(VMHeapControl, CONTROL_BLOCK_OFFSET)
        setup.set_up_tables(ctypes.addressof(self.control), self._control_mapping.base)
        self._is_closed = False
        self._memory: Memory | None = None
        self.attached: _NativeHeap | None = None
        """`native`, or None while the heap has no memory."""
        self.pins: weakref.WeakSet[Pin] = weakref.WeakSet()
        """Views of the memory that are out: until they are given back, it stays."""
        self.lasting_pins: set[Pin] = set()
        """Those that were to be given back, and are still used."""
        self._mapped: ctypes.c_uint8 | None = None  # a view of the memory, so that nobody unmaps it
        self._allocator: Allocator | None = None
        self._host_data: HostData | None = None
        self.host: Callable[[], None] = self.release_dead_externrefs
        """What an allocation does about the externrefs that died, before it gives up; a store runs finalizers, too."""
        self.is_interrupted: Callable[[], bool] = bool
        """Whether code on the stack was interrupted where nothing is known of its frames; a store knows."""
        self.replacements = Replacements()
        """What stands in the place of the collector's functions on this heap; see `native.Heap.replacements`."""

    # ------------------------------------------------------------------------------------------------------------------
    # Memory: attach, detach, take, replace

    @property
    def is_attached(self) -> bool:
        """Whether the heap has its memory. False, too, between `take_memory` and `replace_memory`."""
        return self._memory is not None

    @property
    def cdata(self) -> Any:
        """The control block as cffi sees it, a `VMHeapControl *`. After `close` it is that of a heap without memory."""
        from lowheap import declarations  # here, because few ask for it

        return declarations.ffi().from_buffer("VMHeapControl *", self.control)  # which keeps it mapped

    def mapped(self) -> tuple[object, ...]:
        """Return what keeps mapped all that the heap's addresses lead to, for who has such addresses outside of Python.

        After `detach` or `close` the pages are empty, and the addresses lead to zeros.
        """
        return self.control, self.memory.view(ctypes.c_uint8, 0)

    @property
    def memory(self) -> Memory:
        """The attached memory. HeapError when there is none."""
        if self._memory is None:
            raise HeapError("the heap has no memory: it is detached, closed, or its memory is taken")
        return self._memory

    @property
    def native(self) -> Heap:
        """The heap as functions written once know it. HeapError when it has no memory."""
        if self.attached is None:
            _ = self.memory  # says why
            raise HeapError("the heap has no memory")
        return self.attached

    def check_unpinned(self, what: str) -> None:
        """HeapError, saying that one cannot do `what` now, while a view of the memory is out."""
        used = [each for each in {*self.pins, *self.lasting_pins} if not each.let_go()]
        if used:
            raise HeapError(f"cannot {what} while {len(used)} views of arrays are out; leave their `with` blocks first")

    def check_attached(self) -> None:
        """HeapError when the heap has no memory."""
        _ = self.memory

    @whole
    def attach(self, memory: Memory, host_data: HostData) -> None:
        """Take over `memory`, all of it free, and the side table of its externrefs."""
        if not isinstance(memory, Memory):
            raise TypeError(f"memory is {memory!r}; it must be a Memory")
        if not isinstance(host_data, HostData):
            raise TypeError(f"host_data is {host_data!r}; it must be a side table, an ExternRefHostDataTable")
        if self._is_closed:
            raise HeapError("the heap is closed, so it cannot have memory again")
        if self._memory is not None or self._host_data is not None:
            raise HeapError("the heap already has memory; detach it first")
        control = self.control
        host_data.bind(control)
        self._memory, self._host_data = memory, host_data
        setup.set_up_memory(ctypes.addressof(control), memory.base, memory.capacity, memory.maximum)
        control.flags |= registry.control_flags(self.collector)
        if not self.searches_cycles:
            control.cycle_limit = NO_SEARCH
        self._bind_memory(memory)
        self.policy.reset()

    def _bind_memory(self, memory: Memory) -> None:
        self.attached = _NativeHeap(self, memory)
        self._mapped = memory.view(ctypes.c_uint8, 0)
        self._allocator = self.allocator_policy(self.control, memory, self.attached)
        self.attached.replacements = self.replacements
        policy = self._allocator
        if not isinstance(policy, SegregatedFit):
            replaced: dict[Native[..., Any], Callable[..., Any]] = {  # lengths are rounded, and stay so
                free_lists.give_back: policy.free,
                free_lists.find_block: lambda length: policy.allocate(length) or NULL,
                free_lists.carve: lambda length: policy.allocate(length) or NULL,
                free_lists.coalesce: policy.coalesce,
            }
            self.replacements.update(replaced)

    @property
    def allocator_name(self) -> str:
        """What the free-list policy is called; `OF_THE_COLLECTOR` where there is none."""
        return OF_THE_COLLECTOR if self.collector.finds_room else self.allocator_policy.name

    @property
    def policy(self) -> Allocator:
        """The free-list policy at work. HeapError when the heap has no memory."""
        if self._allocator is None:
            _ = self.memory  # says why
            raise HeapError("the heap has no memory")
        return self._allocator

    def set_maximum(self, maximum: int) -> None:
        """Set what the heap may grow to, in bytes, but no less than it has. ValueError beyond what is reserved."""
        self.check_attached()
        most = min(self.memory.size, MAXIMUM_CAPACITY)
        if not 0 <= maximum <= most:
            raise ValueError(f"a heap cannot grow to {maximum} bytes; it has reserved {most}")
        self.memory.maximum = self.control.maximum = max(maximum, self.control.capacity)

    @whole
    def detach(self) -> Memory:
        """Give the memory back, and forget everything that was in it: objects, list, type table, roots, figures.

        HeapError when there is none, or in the middle of a collection.
        """
        memory = self.memory
        self.check_idle("detach")
        self.check_unpinned("detach")
        control = self.control
        memory.capacity = control.capacity
        if self._host_data is not None:
            self._host_data.unbind()
        self._clear_type_table()
        epoch = control.epoch + 1
        ctypes.memset(ctypes.addressof(control), 0, ctypes.sizeof(control))
        self._control_mapping.zero(COLLECTOR_STATE_OFFSET, COLLECTOR_STATE_SIZE)
        self._control_mapping.discard(COLLECTOR_AREA_OFFSET)
        setup.set_up_tables(ctypes.addressof(control), self._control_mapping.base)
        control.epoch = epoch
        self._memory = self.attached = self._mapped = self._allocator = self._host_data = None
        memory.discard()
        return memory

    @whole
    def take_memory(self) -> Memory:
        """Take the memory away to grow or move it. Until `replace_memory`, every other operation is a HeapError."""
        memory = self.memory
        self.check_unpinned("take the memory")
        memory.capacity = self.control.capacity  # compiled code may have grown it
        self._memory = self.attached = self._mapped = self._allocator = None
        self.control.flags &= ~CONTROL_ATTACHED
        return memory

    @whole
    def replace_memory(self, memory: Memory, delta_bytes_grown: int) -> None:
        """Put the memory back after `take_memory`, `delta_bytes_grown` larger and perhaps at another base.

        HeapError when no memory was taken, or when the capacity is not the former one plus the delta.
        """
        if self._memory is not None or self._host_data is None:
            raise HeapError("the heap's memory was not taken, so it cannot be replaced")
        if not isinstance(memory, Memory):
            raise TypeError(f"memory is {memory!r}; it must be a Memory")
        control = self.control
        if delta_bytes_grown < 0 or memory.capacity != control.capacity + delta_bytes_grown:
            raise HeapError(
                f"the memory has {memory.capacity} bytes; it was taken with {control.capacity} "
                f"and is said to have grown by {delta_bytes_grown}"
            )
        self._memory = memory
        self._bind_memory(memory)
        setup.set_up_memory(ctypes.addressof(control), memory.base, memory.capacity, memory.maximum)
        control.growths += bool(delta_bytes_grown)
        self.policy.capacity_changed()
        self._check_integrity()

    @whole
    def close(self) -> None:
        """Unmap the control mapping; the heap cannot be used any more. Detach the memory first."""
        if self._host_data is not None:
            raise HeapError("cannot close a heap that still has memory; detach it first")
        self._is_closed = True
        self._layout_cache.clear()
        self._definitions.clear()
        self.control = VMHeapControl()  # all zero: a heap without memory, types or roots
        self._control_mapping.abandon()

    # ------------------------------------------------------------------------------------------------------------------
    # No-GC scopes

    def enter_no_gc_scope(self) -> None:
        """Forbid collections until the matching `exit_no_gc_scope`. Scopes nest."""
        root_table.enter_no_gc_scope(tables(self.control))

    def exit_no_gc_scope(self) -> None:
        """Leave a scope. NoGcScopeError when none was entered."""
        root_table.exit_no_gc_scope(tables(self.control))

    @contextlib.contextmanager
    def no_gc_scope(self) -> Iterator[None]:
        """Forbid collections for the duration of a `with` block."""
        before = self.control.no_gc_count
        try:
            self.enter_no_gc_scope()
            yield
        finally:
            # No call, in which a signal's handler might raise; and one may have done so before it was entered.
            if self.control.no_gc_count > before:
                self.control.no_gc_count = before

    # ------------------------------------------------------------------------------------------------------------------
    # Types

    def layout(self, type_index: int) -> GcLayout:
        """Return the layout of a type's objects; for a function type, that of an exception whose tag has it."""
        layout = self._layout_cache.get(type_index)
        if layout is None:
            composite = self.types[type_index].composite
            if isinstance(composite, StructType):
                layout = self._layouts.struct_layout(
                    [self._slot(field.storage) for field in composite.fields], is_hidden=self.types[type_index].hidden
                )
            elif isinstance(composite, ArrayType):
                layout = self._layouts.array_layout(
                    self._slot(composite.element.storage), is_hidden=self.types[type_index].hidden
                )
            else:
                layout = self._layouts.exception_layout([self._slot(param) for param in composite.params])
            self._layout_cache[type_index] = layout
        return layout

    def struct_layout(self, type_index: int) -> GcStructLayout:
        """Return the layout of a struct type. HeapError when the type is not one."""
        layout = self.layout(type_index)
        if not isinstance(layout, GcStructLayout) or layout.is_exception:
            raise HeapError(f"type {type_index} is {self.types.describe(type_index)}, not a struct type")
        return layout

    def array_layout(self, type_index: int) -> GcArrayLayout:
        """Return the layout of an array type. HeapError when the type is not one."""
        layout = self.layout(type_index)
        if not isinstance(layout, GcArrayLayout):
            raise HeapError(f"type {type_index} is {self.types.describe(type_index)}, not an array type")
        return layout

    def exception_layout(self, type_index: int) -> GcStructLayout:
        """Return the layout of an exception whose tag has this function type. HeapError when the type is not one."""
        layout = self.layout(type_index)
        if not isinstance(self.types[type_index].composite, FuncType) or not isinstance(layout, GcStructLayout):
            raise HeapError(f"type {type_index} is {self.types.describe(type_index)}, not a function type")
        return layout

    @whole
    def register_type(self, type_index: int) -> None:
        """Make sure that the type table has this type and its supertypes' numbers; nothing when it has."""
        if not 0 <= type_index < TYPE_LIMIT:
            raise HeapError(f"type index {type_index} does not fit the type table of {TYPE_LIMIT} entries")
        table = self._tables()
        if self._type_info(type_index).kind != 0:
            return
        type = self.types[type_index]
        known = self._definitions
        definitions = [known.get(each) or self._definition(each) for each in self._fields(type.composite)]
        fields = (VMFieldDefinition * len(definitions)).from_buffer_copy(b"".join(definitions))
        *above, _ = self.types.supertypes(type_index)
        numbers = (ctypes.c_uint32 * len(above))(*above)
        entry = (
            type_index,
            _KINDS[type.composite.__class__, type.hidden],
            ctypes.addressof(fields),
            len(fields),
            ctypes.addressof(numbers),
            len(above),
            TYPE_FINAL * type.final,
        )
        if not type_table.enter_type(table, *entry):
            type_table.write_type(table, *entry)  # says why not

    @staticmethod
    def _fields(composite: CompositeType) -> tuple[FieldType, ...]:
        """Return the fields of a type's objects: an array's elements, an exception's parameters."""
        if isinstance(composite, ArrayType):
            return (composite.element,)
        if isinstance(composite, StructType):
            return composite.fields
        return tuple(FieldType(param, False) for param in composite.params)

    def _definition(self, field: FieldType) -> bytes:
        """Return a field's `VMFieldDefinition`; the same for all such fields, of which there are few."""
        storage, flags = field.storage, FIELD_MUTABLE * field.mutable
        if isinstance(storage, RefType):
            flags |= FIELD_NULLABLE * storage.nullable
            if not self.types.is_traced(storage):
                flags |= type_table.FIELD_UNTRACED
            heap_type = storage.heap_type if isinstance(storage.heap_type, int) else VMHeapType[storage.heap_type.name]
            definition = VMFieldDefinition(VMStorage.REFERENCE, flags, heap_type)
        else:
            definition = VMFieldDefinition(VMStorage[storage.name], flags)
        return self._definitions.setdefault(field, bytes(definition))

    def _slot(self, storage: StorageType) -> tuple[int, bool]:
        return storage_size(storage), self.types.is_traced(storage)

    def _type_info(self, type_index: int) -> VMTypeInfo:
        return self._control_mapping.view(VMTypeInfo, TYPE_TABLE_OFFSET + type_index * ctypes.sizeof(VMTypeInfo))

    def _clear_type_table(self) -> None:
        self._control_mapping.zero(TYPE_TABLE_OFFSET, self.control.type_count * ctypes.sizeof(VMTypeInfo))

    # ------------------------------------------------------------------------------------------------------------------
    # Headers

    def header(self, reference: int) -> VMDrcHeader:
        """Return the header of a live object, as a view. InvalidReferenceError when `reference` does not name one."""
        header = self._header_of_object(reference)
        is_asked = header.ref_count == 0 or not self.collector.counts_tell_life
        if is_asked and not self.collector.is_live(self.native, reference):
            raise InvalidReferenceError(f"the object at {reference:#x} has no owner left: its count is 0")
        return header

    def check_header(self, reference: int, *, is_dead: bool) -> None:
        """HeapCorruptionError when something is wrong with an object's header alone."""
        heap = self._examined()
        verify_object(heap, reference)
        if is_dead and not self.collector.is_live(heap, reference):
            self.collector.verify_pending(heap, reference)
        heap.require_no_problem()

    def _examined(self) -> Heap:
        """Return the heap for functions that look for problems, and trust nothing."""
        return Heap(self.memory, self.control, collector=self.collector)

    def _header_of_object(self, reference: int) -> VMDrcHeader:
        return self.native.header(reference)

    def kind(self, reference: int) -> VMGcKind:
        """Return the kind of a live object."""
        return VMGcKind(self.header(reference).kind_and_reserved & KIND_MASK)

    def object_size(self, reference: int) -> int:
        """Return the size of a live object in bytes, not rounded up to its block."""
        return self.header(reference).object_size

    def array_len(self, reference: int) -> int:
        """Return the number of elements of an array. InvalidReferenceError when the object is not one."""
        kind = self.kind(reference)
        if not kind & KIND_ARRAY_BIT:
            raise InvalidReferenceError(
                f"the object at {reference:#x} is of kind {kind.name}, not {VMGcKind.ARRAY_REF.name}"
            )
        return self.memory.view(VMDrcArrayHeader, reference).length

    def externref_host_data(self, reference: int) -> int:
        """Return the host-data id of an externref. InvalidReferenceError when the object is not one."""
        self._check_kind(reference, VMGcKind.EXTERN_REF)
        return self.memory.view(VMDrcExternRef, reference).host_data_id

    def slot(self, reference: int, offset: int) -> ctypes.c_uint32:
        """Return the reference-sized slot at `offset` bytes into a live object, as a view."""
        header = self.header(reference)
        if not HEADER_SIZE <= offset <= header.object_size - REFERENCE_SIZE:
            raise HeapError(
                f"offset {offset} is not a slot of the object at {reference:#x}, whose fields are from {HEADER_SIZE} "
                f"to {header.object_size} bytes"
            )
        return self.memory.view(ctypes.c_uint32, reference + offset)

    def _check_kind(self, reference: int, expected: VMGcKind) -> None:
        kind = self.kind(reference)
        if not kind.matches(expected):
            raise InvalidReferenceError(f"the object at {reference:#x} is of kind {kind.name}, not {expected.name}")

    # ------------------------------------------------------------------------------------------------------------------
    # Counting

    @property
    def is_counted(self) -> bool:
        """Whether references are counted here; not so with a collector that frees nothing."""
        return not self.control.flags & CONTROL_UNCOUNTED

    @_owned
    def clone_gc_ref(self, reference: int) -> int:
        """Return `reference`, with one more count that is the caller's. Null and i31 pass through."""
        if names_object(reference):
            self.header(reference)
            self.collector.inc_ref(self.native, reference, ANY)
        return reference

    @whole
    def write_gc_ref(self, destination: ctypes.c_uint32, source: int, owner: int = NULL) -> None:
        """Store `source` in a slot that owns its value, and drop what was there.

        `owner` is the object that the slot is in, if any. The caller keeps its own count of `source`.
        """
        if not isinstance(destination, ctypes.c_uint32):
            raise TypeError(f"destination is {destination!r}; it must be a slot, a c_uint32")
        for reference in (source, destination.value):
            if names_object(reference):
                self.header(reference)
        if self.collector.needs_owner and owner == NULL and self._is_within(destination):
            raise HeapError(f"the collector {self.collector.name} must know which object a slot of the heap is in")
        try:
            self.collector.write(self.native, owner, destination, source, ANY)
        finally:
            self._settle()

    def _is_within(self, slot: ctypes.c_uint32) -> bool:
        return 0 <= ctypes.addressof(slot) - self.control.heap_base < self.control.capacity

    @whole
    def drop_gc_ref(self, reference: int) -> None:
        """Give back one count; an object whose count reaches 0 is freed, with all that only it held."""
        if names_object(reference):
            self.header(reference)
            try:
                self.collector.dec_ref(self.native, reference, ANY)
            finally:
                self._settle()

    def _settle(self) -> None:
        """Let the host have the externrefs that died, and look at the free blocks of a checked heap."""
        self.release_dead_externrefs()
        self._check_integrity()

    @whole
    def expose_gc_ref_to_wasm(self, reference: int) -> None:
        """Hand the caller's count over to the over-approximated stack roots, so that compiled code may hold the object.

        An object that is listed already has the list's count; the caller's is given back then.
        """
        if names_object(reference):
            self.check_idle("expose a reference")
            self.header(reference)
            self.collector.expose(self.native, reference, ANY)

    @whole
    def free_pending(self, budget: int | None = None) -> bool:
        """Free so many of the pending dead objects, or all (None), from the front of their list; whether some are left.

        Those that thereby die are among them. Whenever this empties the list, what is left is what a collection has
        left alive. HeapCorruptionError when one is not dead; it stays where it is.
        """
        self.check_attached()
        died_before = self.control.dead_externrefs
        limit = UNLIMITED if budget is None else min(budget, UNLIMITED)
        try:
            is_left: bool = self.collector.free_pending(self.native, limit)
        finally:
            self.release_dead_externrefs(until=died_before)
            self._check_integrity()
        if not is_left:
            self.control.live_bytes_after_last_collection = self.control.bytes_allocated - self.control.bytes_freed
        return is_left

    @whole
    def release_dead_externrefs(self, until: int = NULL) -> None:
        """Free the externrefs that died, when the host has let go of their host data; those before `until`."""
        while self.control.dead_externrefs not in (NULL, until):
            assert self._host_data is not None, "a heap with memory has a side table"
            self._host_data.dealloc(self.memory.view(VMDrcExternRef, self.control.dead_externrefs).host_data_id)
            externrefs.free_dead_externref(self.native)

    # ------------------------------------------------------------------------------------------------------------------
    # Allocating and freeing

    @_owned
    def alloc_raw(self, kind: VMGcKind, type_index: int, size: int, *, find: Find = None) -> int:
        """Allocate an object of `size` bytes, header included, and write its header: one count, the caller's.

        What follows the header is not initialised. Raises HeapExhaustedError when there is no room, for the caller to
        collect or grow and try again, and AllocationTooLargeError when `size` cannot be an object's in any heap.
        `find` is what returns a block for so many bytes, in the place of the free-list policy: it may collect or grow.
        """
        self.check_attached()
        self.check_idle("allocate")
        if kind not in OBJECT_KINDS:
            raise HeapError(f"an object cannot be of kind {kind!r}; it must be one of {[k.name for k in OBJECT_KINDS]}")
        if (type_index == EXTERNREF_TYPE_INDEX) != (kind == VMGcKind.EXTERN_REF):
            raise HeapError(f"type index {type_index:#x} does not go with kind {VMGcKind(kind).name}")
        if size < HEADER_SIZE:
            raise HeapError(f"an object of {size} bytes is smaller than its header of {HEADER_SIZE}")
        if FIRST_INDEX + block_length(size) > self.control.maximum:
            raise AllocationTooLargeError(
                f"an object of {size} bytes does not fit the largest heap allowed, of {self.control.maximum}"
            )
        if kind != VMGcKind.EXTERN_REF:
            self.register_type(type_index)
            expected = self._type_info(type_index).kind
            if kind != expected:
                raise HeapError(f"objects of type {type_index} are of kind {VMGcKind(expected).name}, not {kind!r}")
        epoch = self.control.epoch
        reference = self.policy.allocate(size) if find is None else find(size)
        if not self.is_attached or self.control.epoch != epoch:
            raise HeapError("the heap's memory was taken away in the middle of an allocation")
        if reference is None:
            raise HeapExhaustedError(
                f"no room for an object of {size} bytes in a heap of {self.control.capacity} "
                f"of which {self.control.bytes_allocated - self.control.bytes_freed} are live",
                block_length(size),
            )
        self.collector.write_header(self.native, reference, int(kind), type_index, size)
        sizing.note_peak(self.native)
        note("new object %#x: kind %#x, %d bytes", reference, kind, size)
        self._check_integrity()
        return reference

    @_owned
    def alloc_uninit_struct(self, type_index: int, *, find: Find = None) -> int:
        """Allocate a struct; its fields are all zero bits until the caller sets them. Raises as `alloc_raw`."""
        layout = self.struct_layout(type_index)
        return self._zeroed(self.alloc_raw(layout.kind, type_index, layout.size, find=find), layout.size)

    @_owned
    def alloc_uninit_exn(self, type_index: int, *, find: Find = None) -> int:
        """Allocate an exception whose tag has this function type; tag and fields are zero. Raises as `alloc_raw`."""
        layout = self.exception_layout(type_index)
        return self._zeroed(self.alloc_raw(layout.kind, type_index, layout.size, find=find), layout.size)

    @_owned
    def alloc_uninit_array(self, type_index: int, length: int, *, find: Find = None) -> int:
        """Allocate an array of `length` elements, all zero bits. Raises as `alloc_raw`."""
        layout = self.array_layout(type_index)
        if length < 0:
            raise HeapError(f"an array cannot have {length} elements")
        try:
            size = layout.size(length)
        except OverflowError as error:
            raise AllocationTooLargeError(str(error)) from None
        reference = self._zeroed(self.alloc_raw(layout.kind, type_index, size, find=find), size)
        self.memory.view(VMDrcArrayHeader, reference).length = length
        return reference

    @_owned
    def alloc_externref(self, host_data_id: int, *, find: Find = None) -> int:
        """Allocate an externref for an id of the side table. Raises as `alloc_raw`, and HeapError for another id."""
        self.check_attached()
        if self._host_data is None or host_data_id not in self._host_data:
            raise HeapError(f"the side table does not know host data {host_data_id!r}")
        size = ctypes.sizeof(VMDrcExternRef)
        reference = self._zeroed(self.alloc_raw(VMGcKind.EXTERN_REF, EXTERNREF_TYPE_INDEX, size, find=find), size)
        self.memory.view(VMDrcExternRef, reference).host_data_id = host_data_id
        return reference

    @whole
    def dealloc_uninit_struct_or_exn(self, reference: int) -> None:
        """Free an object that was allocated and never initialised, without looking at its fields."""
        self._dealloc_uninit(reference, (VMGcKind.STRUCT_REF, VMGcKind.HIDDEN_STRUCT_REF, VMGcKind.EXN_REF))

    @whole
    def dealloc_uninit_array(self, reference: int) -> None:
        """Free an array that was allocated and never initialised, without looking at its elements."""
        self._dealloc_uninit(reference, (VMGcKind.ARRAY_REF, VMGcKind.HIDDEN_ARRAY_REF))

    @whole
    def coalesce(self) -> None:
        """Merge free neighbours now, in one pass over the heap: for an allocation that would fail otherwise."""
        self.check_attached()
        self.policy.coalesce()
        self._check_integrity()

    def _dealloc_uninit(self, reference: int, kinds: tuple[VMGcKind, ...]) -> None:
        header = self.header(reference)
        if self.kind(reference) not in kinds:
            raise InvalidReferenceError(f"the object at {reference:#x} is of kind {self.kind(reference).name}")
        if header.ref_count != 1 or header.kind_and_reserved & RESERVED_MASK:
            raise HeapError(f"the object at {reference:#x} is shared or exposed, so it may be initialised")
        self.collector.free_leaf(self.native, reference)
        self._check_integrity()

    def _check_integrity(self) -> None:
        if self.is_checked and self._allocator is not None and (problems := self._allocator.check_integrity()):
            raise HeapCorruptionError(problems)

    def _zeroed(self, reference: int, size: int) -> int:
        self.memory.zero(reference + HEADER_SIZE, size - HEADER_SIZE)
        return reference

    def check_idle(self, what: str) -> None:
        """HeapError, saying that one cannot do `what` now, in the middle of a collection."""
        if self.control.phase != CollectionPhase.IDLE:
            raise HeapError(f"cannot {what} in the middle of a collection; finish it or close it first")

    # ------------------------------------------------------------------------------------------------------------------
    # Collecting: the two halves that `collector.DrcCollection` puts together

    def over_approximated_stack_roots(self) -> Iterator[int]:
        """Yield the references on the list, the latest first. HeapCorruptionError when the list is cyclic."""
        return self.collector.deferred(self.native)

    @whole
    def trace(self, stack_roots: Iterable[int]) -> None:
        """Have each object held that compiled code holds, as its stack maps tell.

        HeapCorruptionError when it cannot hold one: it was never exposed, or is no reference at all.
        """
        for reference in stack_roots:
            try:
                if not names_object(reference):
                    continue
                self.header(reference)
            except InvalidReferenceError as error:
                raise HeapCorruptionError([f"compiled code holds {reference:#x}, but {error}"]) from None
            if not self.collector.hold(self.native, reference):
                raise HeapCorruptionError([unsound_root(reference)])

    @whole
    def sweep(self) -> None:
        """Let go of what compiled code may have held and does not hold, and free what dies.

        Afterwards what it may hold is precisely what it holds.
        """
        sizing.note_peak(self.native)
        try:
            self.collector.sweep(self.native)
        finally:
            self._settle()

    @whole
    def sweep_pending(self) -> None:
        """Sweep, and free nothing: what dies goes on the list of pending dead objects."""
        self.collector.sweep_pending(self.native)

    def is_search_due(self) -> bool:
        """Return whether so much lives that it is time to search for what only cycles keep, before the heap grows."""
        is_due: bool = self.collector.is_search_due(self.native, False)
        return is_due

    @whole
    def find_cycles(self) -> None:
        """Have what only cycles keep wait to be freed, directly behind a sweep.

        HeapCorruptionError, InvalidReferenceError or HeapError for a heap that is broken, and nothing is found then.
        """
        try:
            self.collector.find_cycles(self.native)
        except BaseException:
            cycles.forget_marks(self.native)
            raise

    @whole
    def finish_sweep(self) -> None:
        """Note what a sweep has left, and that it was a collection."""
        collection.finish_sweep(self.native)

    @whole
    def clear_marks(self) -> None:
        """Forget what `trace` found."""
        self.collector.forget_held(self.native)

    # ------------------------------------------------------------------------------------------------------------------
    # Looking at the heap

    def objects(self) -> Iterator[ObjectInfo]:
        """Yield every object in address order: the live ones, and those that died and wait to be freed.

        What the count says of which is which: see `ObjectInfo`.
        """
        heap = self._examined()
        for index in self.collector.blocks(heap):
            if not is_free(heap, index):
                header = self._header_of_object(index)
                word = header.kind_and_reserved
                yield ObjectInfo(
                    index,
                    VMGcKind(word & KIND_MASK),
                    header.type_index,
                    header.ref_count,
                    header.object_size,
                    bool(word & HEADER_IN_OVER_APPROX_LIST_BIT),
                    bool(word & HEADER_MARK_BIT),
                )
        heap.require_no_problem()

    def references(self, reference: int) -> list[int]:
        """Return the references that an object holds to other objects, in the order of its slots."""
        self.header(reference)
        return [value for value in tracing.references_of(self.native, reference) if is_object(value)]

    def pending_dead(self) -> Iterator[int]:
        """Yield the objects that died in a sweep and wait to be freed, the next first.

        HeapCorruptionError when their list is cyclic, or leads to what is no object.
        """
        return self.collector.pending(self.native)

    def handles(self) -> Iterator[tuple[int, int]]:
        """Yield the number of each host handle in use, and the reference that it holds."""
        root = root_table.Root()
        for reference in root_table.held_by_handles(self._tables(), root):
            yield root.place, reference

    def root_slots(self) -> Iterator[tuple[int, int]]:
        """Yield the address of each registered root slot, and the reference in it."""
        root = root_table.Root()
        for reference in root_table.held_by_slots(self._tables(), root):
            yield root.place, reference

    def _tables(self) -> Heap:
        if self._is_closed:
            raise HeapError("the heap is closed: its tables are unmapped")
        found = tables(self.control)
        found.replacements = self.replacements
        return found

    def stats(self) -> HeapStatistics:
        """Return the heap's figures."""
        figures = VMHeapStatistics()
        if self.attached is not None:
            self.collector.settle_figures(self.attached)
        sizing.statistics(tables(self.control), figures)
        if self.attached is not None:
            self.collector.tell_figures(self.attached, figures)
        given = {name: getattr(figures, name) for name in HeapStatistics.__dataclass_fields__ if name != "counters"}
        return HeapStatistics(**given, counters=self._counters())

    def _counters(self) -> dict[str, int]:
        states = [self.native.state(each) for each in self.collector.all_states()] if self.is_attached else []
        return {
            name: getattr(state, name)
            for name in self.collector.all_counters()
            for state in states
            if name in type(state).__annotations__
        }

    def snapshot(self, stack_roots: Iterable[int] = ()) -> Image:
        """Return an image of the heap as it is now: bytes, control block, type table, roots, what its collector keeps.

        `stack_roots` are what the stack maps report, when compiled code is on the stack. A broken heap has an image,
        too, as long as its control block tells where everything is, and where the blocks end: HeapCorruptionError
        otherwise, and HeapError when there is no memory. Of a table whose count is beyond it, there is nothing.
        """
        from lowheap.snapshot import Image, ImagePart, ImageRoot  # here, because few ask for one

        memory = self.memory
        self.collector.settle_figures(self.native)
        heap = self._examined()
        verify_addresses(heap)
        verify_bounds(heap)
        if heap.problems:
            raise HeapCorruptionError(heap.problems)
        assert self._host_data is not None, "a heap with memory has a side table"
        roots = [ImageRoot("handle", number, reference) for number, reference in self.handles()]
        roots += [ImageRoot("slot", address, reference) for address, reference in self.root_slots()]
        roots += [ImageRoot("wasm stack", 0, reference) for reference in stack_roots if is_object(reference)]
        return Image.take(
            self.control,
            memory.read,
            self.types,
            allocator=self.allocator_name,
            collector=registry.name_of(self.collector),
            roots=roots,
            knows_host_data=self._host_data.__contains__,
            parts=ImagePart.take(heap),
        )

    def verify(self, stack_roots: Iterable[int] = ()) -> None:
        """Check every invariant of the design; HeapCorruptionError lists what does not hold.

        `stack_roots` are what the stack maps report, when compiled code is on the stack.
        """
        self.check_attached()
        assert self._allocator is not None, "a heap with memory has an allocator"
        held = ((0, reference) for reference in stack_roots)
        has_lists = self.allocator_policy is SegregatedFit
        problems = problems_of(self._examined(), held, has_lists=has_lists) or self._allocator.verify()
        if problems:
            raise HeapCorruptionError(problems)
