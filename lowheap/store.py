"""A store: one heap with its memory, its host data and its roots, and the policy of when to collect or grow."""

from __future__ import annotations

import itertools
import struct
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from lowheap.collector import DrcCollection, GcProgress, check_allowed, trace_held
from lowheap.collectors.interface import Collector
from lowheap.collectors.shared import collection as shared_collection
from lowheap.collectors.shared.allocation import allocate_block_growing_first
from lowheap.collectors.shared.allocator import Allocator, SegregatedFit
from lowheap.collectors.shared.first_fit import FirstFit
from lowheap.collectors.shared.frames import FrameRules
from lowheap.copying import NotCopied
from lowheap.critical import whole
from lowheap.engine import Engine
from lowheap.errors import HeapError, LowheapError, UnsupportedError
from lowheap.heap import DrcHeap, Find, HeapStatistics
from lowheap.hostdata import ExternRefHostDataTable, Finalizer
from lowheap.later import later
from lowheap.layout import (
    MAXIMUM_CAPACITY,
    MOST_FUEL,
    NULL,
    CollectionPhase,
    VMDrcExternRef,
    VMStoreContext,
    block_length,
)
from lowheap.memory import RESERVATIONS, Memory, default_initial
from lowheap.operations import HostOperations, StoreLock, exclusive
from lowheap.roots import RootSet
from lowheap.strings import StringTypes, string_types

if TYPE_CHECKING:
    from lowheap.snapshot import Image

ALLOCATORS: dict[str, type[Allocator]] = {policy.name: policy for policy in (SegregatedFit, FirstFit)}
"""The free-list policies, by name."""

GROWTH_POLICIES = ("collect-first", "grow-first")

DEFAULT_INITIAL_HEAP_SIZE = 1 << 20


class Store(NotCopied):
    """Everything that a program's objects live in. `Store()` makes an engine of its own, with `collector`.

    `allocator` names the free-list policy: "segregated-fit", or "first-fit", which puts every object where wasmtime 37
    to 43 puts it. `initial_heap_size` and `maximum_heap_size` are in bytes. `collect_every=N` collects at every Nth
    safepoint that compiled code comes to (1: at each), which is slow, and proves stack maps; 0 leaves it to `growth`:

    - "collect-first": collect when the over-approximated list has doubled since the last collection, or is longer yet
      if that one was in vain (`collectors/drc/collection.py`); when there is no room, collect if less than half of the
      capacity was live after the last collection, else grow, doubling the capacity up to the maximum; at the maximum,
      collect.
    - "grow-first", the rule of wasmtime 37 to 43: when there is no room, grow, doubling the capacity up to the maximum,
      and in any case by what is needed; collect only when that would go beyond the maximum.

    Before it collects or grows for want of room, an allocation frees what a collection with a budget has left to free
    (`DrcCollection`), `PENDING_PORTION` objects at a time, and looks for room after each. So in all: collect if the
    list is that long; look for room; free pending objects until there is room or they are used up; then collect or
    grow, as `growth` says. Compiled code goes in the same order.

    Without `growth`, first fit goes by wasmtime's rule and segregated fit by the other. Without `initial_heap_size`, a
    heap starts with `DEFAULT_INITIAL_HEAP_SIZE`, or the maximum where that is less; by wasmtime's rule, as there, with
    nothing. The runtime "native" has the default policies only.

    With the default policies, what only cycles keep is searched for, too, and freed: before the heap grows, when as
    much lives as the collector says (`collectors/drc/cycles.py`: twice as much as the last search left, and 1 MiB), and
    at the maximum, before an allocation fails. `search_cycles=False` leaves that to `collect(cycles=True)`, as other
    policies do.

    A store reserves 4 GiB of address space, all that a reference can name, so that none leads out of it. Where the
    system allows a process less (`ulimit -v`), `reserve="maximum"` reserves what the maximum needs, and a guard behind
    it; then nothing but the heap being sound keeps compiled code in it.

    `checked` makes the heap look for corruption in every operation, as `DrcHeap` tells; whoever frees a block, compiled
    code too, fills it with what leads nowhere.

    A store is used by one thread at a time. Its operations, those of its handles and globals, and calls into its code,
    with all that they call, hold `lock`; on another thread they are a HeapError meanwhile. Afterwards any thread may go
    on. What is asked of `heap`, `roots` and `host_data` directly is the caller's to guard: `with store.lock:`.
    """

    NOT_COPIED_BECAUSE = "its heap is mapped memory; `snapshot` takes an image, which is a value"

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        collector: str | type[Collector] | Collector | None = None,
        allocator: str = SegregatedFit.name,
        growth: str | None = None,
        initial_heap_size: int | None = None,
        maximum_heap_size: int = MAXIMUM_CAPACITY,
        reserve: str = RESERVATIONS[0],
        collect_every: int = 0,
        checked: bool = False,
        search_cycles: bool = True,
    ) -> None:
        """Map the heap. TypeError or ValueError for an argument out of range, MemoryError without address space."""
        if engine is not None and not isinstance(engine, Engine):
            raise TypeError(f"engine is {engine!r}; it must be an Engine")
        if engine is not None and collector is not None:
            raise TypeError(f"collector is {collector!r}, but the engine has one: Engine(collector=…)")
        if not isinstance(collect_every, int) or isinstance(collect_every, bool):
            raise TypeError(f"collect_every is {collect_every!r}; it must be an int")
        if collect_every < 0:
            raise ValueError(f"collect_every is {collect_every}; it must be 0 (off) or positive")
        if not isinstance(checked, bool):
            raise TypeError(f"checked is {checked!r}; it must be a bool")
        if not isinstance(search_cycles, bool):
            raise TypeError(f"search_cycles is {search_cycles!r}; it must be a bool")
        if allocator not in list(ALLOCATORS):
            raise ValueError(f"there is no allocator {allocator!r}; there are {', '.join(ALLOCATORS)}")
        if growth is None:
            growth = "grow-first" if allocator == FirstFit.name else "collect-first"
        if growth not in GROWTH_POLICIES:
            raise ValueError(f"there is no growth policy {growth!r}; there are {', '.join(GROWTH_POLICIES)}")
        if initial_heap_size is None:
            standard = 0 if growth == "grow-first" else DEFAULT_INITIAL_HEAP_SIZE
            initial_heap_size = default_initial(standard, maximum_heap_size)
        has_default_policies = (allocator, growth) == (SegregatedFit.name, "collect-first")
        if engine is None:  # one whose runtime has the policies
            engine = Engine(collector=collector, runtime="native" if has_default_policies else "python")
        self.engine = engine
        self.lock = StoreLock()
        if engine.runtime == "native" and not has_default_policies:
            raise ValueError(
                f'the runtime "native" has no allocator {allocator!r} with growth policy {growth!r}; '
                f"it has {SegregatedFit.name!r} with 'collect-first'"
            )
        self.growth = growth
        memory = Memory(initial_heap_size, maximum_heap_size, reserve=reserve)  # first, for that is what may fail
        self.host_data = ExternRefHostDataTable()
        self._set_aside = self.host_data.set_aside
        self.heap = DrcHeap(
            self.engine.types,
            collector=engine.collector,
            allocator=ALLOCATORS[allocator],
            checked=checked,
            search_cycles=search_cycles and has_default_policies,
        )
        chosen = self.heap.collector
        if chosen.finds_room and not has_default_policies:
            raise ValueError(f"the collector {chosen.name} finds room for objects itself: it has no policy {growth!r}")
        self.heap.attach(memory, self.host_data)
        self._allocate_block = chosen.allocate_block if growth == "collect-first" else allocate_block_growing_first
        self.heap.host = self.tidy_in_use
        self.heap.replacements[chosen.collect] = self._collect_for_room
        self.heap.replacements[chosen.collect_cycles] = self._collect_cycles_for_room
        self.heap.replacements[shared_collection.trace] = self._trace_for_room
        self.roots = RootSet(self.heap)
        self.collect_every = collect_every
        self.runtime: Any = None
        """What runs compiled code on this store; `runtime/` sets it when the first module is instantiated."""
        self.wasi: Any = None
        """What programs have of WASI; `set_wasi` sets it, and `hosts/wasi/` uses it."""
        self.tags: WeakValueDictionary[tuple[int, int], Any] = WeakValueDictionary()
        """The tags that anybody has, by the two words in their exceptions' headers: `runtime/exceptions.py`."""
        self.tag_numbers = itertools.count(1)
        self._safepoints = 0
        self.unreachable_cells: deque[Any] = deque()
        """The cells of handles that Python let go of, for `tidy` to release; see `operations.py`."""
        self.operations = HostOperations(self.heap, self.unreachable_cells)
        if engine.runtime == "native" and not checked:
            self.operations.compile = self._make_runtime
        self.bound_types: dict[int, Any] = {}
        """What handles know of each type, by type index; `bound_types.py` fills this, and the next two."""
        self.resolved: dict[int, Any] = {}
        self.lowerings: dict[Any, Any] = {}
        self.strings: StringTypes | None = None
        """The types of strings, once `use_strings` was called."""
        self._is_closed = False

    def _make_runtime(self) -> None:
        later("runtime_of")(self, optimised=True)

    def bind(self, type: Any) -> Any:
        """Return the class of a type's objects in this store: `type.bind(store)`. HeapError for a function type."""
        return later("bind")(self, type)

    def use_strings(self) -> None:
        """Have a `str` that becomes an externref or an anyref be a JavaScript string on the heap from now on.

        Read by Python, such a string is a `str`, equal to the one that it was made of, and not the same object. Until
        then, a `str` is a host value as any other is. An instance of a module that has to do with strings calls this.
        """
        self.check_open()
        if self.strings is None:
            self.strings = string_types(self.engine.types)

    # ------------------------------------------------------------------------------------------------------------------
    # Life

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @exclusive("lock")
    def close(self) -> None:
        """Unmap the heap. Every handle becomes stale, and the finalizers of all host data run.

        HeapError, and nothing happens, while compiled code of this store is on the stack, or a collection is running.
        """
        if self._is_closed:
            return
        if self.heap.control.phase != CollectionPhase.IDLE:
            raise HeapError("cannot close a store in the middle of a collection; finish it or close it first")
        self.heap.check_unpinned("close")
        if self.runtime is not None:
            self.runtime.close()
        self._unmap()
        if self.wasi is not None:
            self.wasi.close()
        self.host_data.clear()

    @whole
    def _unmap(self) -> None:
        if self.heap.is_attached:
            self.heap.detach().abandon()
        self.heap.close()
        self._is_closed = True
        self.unreachable_cells.clear()

    def __enter__(self) -> Store:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def check_open(self) -> None:
        """HeapError when the store was closed."""
        if self._is_closed:
            raise HeapError("the store is closed")

    @exclusive("lock")
    def set_wasi(self, config: Any) -> None:
        """Give programs what a `WasiConfig` says: arguments, environment, streams, folders.

        What an earlier one has given is closed. LowheapError for a file or a folder that cannot be opened.
        """
        self.check_open()
        context, old = later("wasi_context")(config), self.wasi
        self.wasi = context
        if old is not None:
            old.close()

    # ------------------------------------------------------------------------------------------------------------------
    # Collecting

    @exclusive("lock")
    def collection(self, *, cycles: bool = False) -> DrcCollection:
        """Return a new collection, to be done by increments. On a native store, those with a budget are native too.

        `cycles`: what only cycles keep is garbage, too. UnsupportedError for a collector that cannot tell.
        """
        self.tidy_in_use()
        return _Collection(self, self._native_trace, cycles=cycles)

    @property
    def _native_trace(self) -> Callable[[], None] | None:
        """What marks what compiled code holds, if that is compiled, too."""
        return self.runtime.trace if self.runtime is not None and self.runtime.is_native else None

    @exclusive("lock")
    def collect(self, *, cycles: bool = False) -> None:
        """Collect, all at once, and free what earlier collections have left. NoGcScopeError inside a no-GC scope.

        `cycles`: search for what only cycles keep, and free that, too. A collector that has no search, as `null`, just
        collects; UnsupportedError for one that says that it cannot have one.
        """
        self._collect(cycles=cycles)

    def _collect(self, *, cycles: bool, only_if_due: bool = False) -> None:
        collection = self.collection(cycles=cycles)
        if self.runtime is None or not self.runtime.collect(cycles=cycles, only_if_due=only_if_due):
            collection.only_if_due = only_if_due
            collection.collect()
        self.tidy_in_use()

    @exclusive("lock")
    def safepoint(self) -> None:
        """Compiled code has come to a safepoint: tidy up, and collect if `collect_every` says so."""
        self.tidy_in_use()
        self._safepoints += 1
        may_collect = self.heap.control.no_gc_count == 0
        if self.collect_every and self._safepoints % self.collect_every == 0 and may_collect:
            self.collect()

    @exclusive("lock")
    def verify(self) -> None:
        """Check every invariant of the heap, those about compiled code's frames too. HeapCorruptionError if broken."""
        self.check_open()
        self.heap.verify(self.roots.wasm_stack())
        self.tidy_in_use()  # not before: that relies on what is verified

    @exclusive("lock")
    def stats(self) -> HeapStatistics:
        """Return the heap's figures, those that the collector counts among them."""
        self.tidy_in_use()
        return self.heap.stats()

    @exclusive("lock")
    def pause_times(self) -> dict[int, int]:
        """Return a histogram of how long the program was kept waiting by the collector.

        A time in nanoseconds is mapped to how many pauses took less, and not less than the time before; there are four
        such times from one power of two to the next. Nothing of a collector that does not look at the clock.
        """
        self.check_open()
        return self.heap.collector.pause_times(self.heap.native)

    @exclusive("lock")
    def snapshot(self) -> Image:
        """Return an image of the heap as it is now, with what compiled code holds among its roots."""
        self.tidy_in_use()
        return self.heap.snapshot(self.roots.wasm_stack())

    @exclusive("lock")
    def tidy(self) -> None:
        """Drop what handles that Python has forgotten still hold, and let go of the host data of dead externrefs.

        That runs finalizers; see `ExternRefHostDataTable`.
        """
        self.tidy_in_use()

    def tidy_in_use(self) -> None:
        """`tidy`, for who has the lock."""
        if self._is_closed:
            self.check_open()
        heap, unreachable = self.heap, self.unreachable_cells
        if unreachable and heap.attached is not None:
            give_back = self.operations.give_back
            while unreachable:
                try:
                    give_back()
                except IndexError:  # a signal's handler has used the store since we looked, so nothing is left
                    break
        if heap.control.dead_externrefs != NULL:
            self._release_dead_externrefs()
        if self._set_aside:
            self.host_data.release()

    def _release_dead_externrefs(self) -> None:
        control, native, operations = self.heap.control, self.heap.attached, self.operations
        if operations.is_compiled and native is not None:
            while (reference := control.dead_externrefs) != NULL:
                (host_data_id,) = _HOST_DATA_ID(native.buffer, reference)
                if not self.host_data.set_value_aside(host_data_id):
                    break  # C's, which the general way sees to
                operations.free_dead(operations.vmctx)
        if control.dead_externrefs != NULL:
            self.heap.release_dead_externrefs()

    def raise_pending(self) -> None:
        """Raise what a host function or a finalizer raised, if compiled code has ended since and nobody did."""
        if self.runtime is not None and self.runtime.pending is not None:
            self.runtime.settle()

    @exclusive("lock")
    def set_limits(
        self,
        memory_size: int = -1,
        table_elements: int = -1,
        instances: int = -1,
        tables: int = -1,
        memories: int = -1,
    ) -> None:
        """Set how large the heap may become, `memory_size` bytes; a negative number leaves it as it is.

        What the heap has already it keeps: a limit below that stops it from growing. ValueError for more than it has
        reserved. The other limits are those of wasmtime's that lowheap does not have: UnsupportedError names one that
        is given.
        """
        limits = {"table_elements": table_elements, "instances": instances, "tables": tables, "memories": memories}
        for name, limit in {"memory_size": memory_size, **limits}.items():
            if not isinstance(limit, int) or isinstance(limit, bool):
                raise TypeError(f"{name} is {limit!r}; it must be an int")
        given = [name for name, limit in limits.items() if limit >= 0]
        if given:
            raise UnsupportedError(f"a store has no limit {', '.join(given)}; it has memory_size")
        self.tidy_in_use()
        if memory_size >= 0:
            self.heap.set_maximum(memory_size)

    # ------------------------------------------------------------------------------------------------------------------
    # Stopping

    @exclusive("lock")
    def set_fuel(self, fuel: int) -> None:
        """Set how many instructions compiled code may run from now on, by wasmtime's count; 0 at first.

        A host function may call this. LowheapError without `Engine(consume_fuel=True)`.
        """
        _check_number("fuel", fuel)
        context = self._fuel_context()
        context.fuel = min(fuel, MOST_FUEL)
        context.fuel_reserve = fuel - context.fuel

    @exclusive("lock")
    def get_fuel(self) -> int:
        """Return what is left of the fuel. LowheapError without `Engine(consume_fuel=True)`."""
        context = self._fuel_context()
        return max(0, context.fuel) + context.fuel_reserve

    def _fuel_context(self) -> VMStoreContext:
        if not self.engine.consume_fuel:
            raise LowheapError("fuel is not counted in this store; make its engine with consume_fuel=True")
        context: VMStoreContext = later("runtime_of")(self).context
        return context

    @exclusive("lock")
    def set_epoch_deadline(self, ticks_beyond_current: int) -> None:
        """Have compiled code trap from so many calls of `Engine.increment_epoch` on; at once, until this is called.

        LowheapError without `Engine(epoch_interruption=True)`.
        """
        _check_number("ticks_beyond_current", ticks_beyond_current)
        self.engine.check_epoch()
        later("runtime_of")(self).deadline.set(ticks_beyond_current)

    # ------------------------------------------------------------------------------------------------------------------
    # Allocating: as the heap does, and collecting or growing when it must

    def alloc_struct(self, type_index: int) -> int:
        """Allocate a struct of zero bits; the one count is the caller's. HeapExhaustedError when nothing helps."""
        return self._allocate(lambda find: self.heap.alloc_uninit_struct(type_index, find=find))

    def alloc_array(self, type_index: int, length: int) -> int:
        """Allocate an array of zero bits; the one count is the caller's. HeapExhaustedError when nothing helps."""
        return self._allocate(lambda find: self.heap.alloc_uninit_array(type_index, length, find=find))

    def alloc_exn(self, type_index: int) -> int:
        """Allocate an exception of zero bits; the one count is the caller's. HeapExhaustedError when nothing helps."""
        return self._allocate(lambda find: self.heap.alloc_uninit_exn(type_index, find=find))

    @exclusive("lock")
    @whole
    def alloc_externref(self, value: Any, finalizer: Finalizer | None = None) -> int:
        """Allocate an externref for a host value; the one count is the caller's. HeapExhaustedError when full.

        `finalizer(value)` is called once, when the externref has died, or the store is closed; not if this raises.
        """
        self.check_open()
        binding = self.host_data.binding
        host_data_id = self.host_data.alloc(value)
        reference = NULL
        try:
            reference = self._allocate(lambda find: self.heap.alloc_externref(host_data_id, find=find))
            if finalizer is not None:
                self.host_data.set_finalizer(host_data_id, finalizer)
        finally:
            if reference == NULL and self.host_data.binding is binding:  # else it went with the heap's memory
                self.host_data.dealloc(host_data_id)
        return reference

    @exclusive("lock")
    def _allocate(self, allocate: Callable[[Find], int]) -> int:
        self.tidy_in_use()
        return allocate(self._find_block)

    def _find_block(self, size: int) -> int | None:
        """Return a block for an object of `size` bytes, by this store's policy, or None when nothing helps."""
        return self._allocate_block(self.heap.native, _NO_FRAMES, block_length(size)) or None

    def _collect_for_room(self, _rules: FrameRules) -> bool:
        """What the policy does when it has to collect."""
        self.collect()
        return True

    @exclusive("lock")
    def _collect_cycles_for_room(self, _rules: FrameRules, only_if_due: bool) -> bool:
        """What the policy does when it has to search for cycles."""
        self._collect(cycles=True, only_if_due=only_if_due)
        return True

    def _trace_for_room(self, _rules: FrameRules) -> bool:
        """What the policy does when it ends an epoch by itself: who holds what, the store knows."""
        check_allowed(self.heap)
        try:
            trace_held(self.heap, self.roots, self._native_trace)
        except BaseException:
            self.heap.clear_marks()
            raise
        return True


def _check_number(name: str, value: Any) -> None:
    """TypeError or ValueError for what is no u64."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be an int")
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{name} is {value}; it must be 0 to 2^64 - 1")


def check_store(store: Any) -> None:
    """TypeError for what is no store."""
    if not isinstance(store, Store):
        raise TypeError(f"store is {store!r}; it must be a Store")


_HOST_DATA_ID = struct.Struct(f"<{VMDrcExternRef.host_data_id.offset}xI").unpack_from

_NO_FRAMES = FrameRules(False)
"""What the policy, run by Python, is told of frames: nothing, for the store collects."""


class _Collection(DrcCollection):
    """A collection of a store, in which the thread that does an increment has the store to itself.

    Finalizers of what has died run after an increment, unless the next one is the sweep.
    """

    def __init__(self, store: Store, trace: Callable[[], None] | None, *, cycles: bool) -> None:
        super().__init__(store.heap, store.roots, trace=trace, cycles=cycles)
        self._store = store

    @exclusive("_store.lock")
    def collect_increment(self, budget: int | None = None) -> GcProgress:
        progress = super().collect_increment(budget)
        if self._heap.control.phase == CollectionPhase.IDLE:
            self._heap.release_dead_externrefs()
            self._store.host_data.release()
        return progress

    @exclusive("_store.lock")
    def collect(self) -> None:
        super().collect()

    @exclusive("_store.lock")
    def close(self) -> None:
        super().close()
