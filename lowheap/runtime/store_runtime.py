"""The Python side of compiled code: what it calls, how it is called, and what it holds.

A `StoreRuntime` belongs to one store. It owns the store context and the function table, answers the calls that compiled
code makes (allocate, drop, host functions), calls exported functions through their trampolines, and walks the frames of
compiled code for the collector.

An exception on the Python side of a call out of compiled code is kept, the call reports failure, compiled code jumps to
its trampoline, and the exception is raised again behind that, itself.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import cffi

from lowheap.collectors.shared.allocator import SegregatedFit
from lowheap.errors import (
    AllocationTooLargeError,
    CompilerError,
    HeapCorruptionError,
    HeapError,
    HeapExhaustedError,
    LowheapError,
    Trap,
    TrapCode,
)
from lowheap.heap import unsound_root
from lowheap.jit import runtime, transitions
from lowheap.jit.engine import LoadedCode
from lowheap.jit.stackmaps import Slots, StackMapRegistry, host_architecture, stack_slots
from lowheap.layout import (
    FUNCTION_LIMIT,
    NULL,
    RELEASE_DEAD_EXTERNREFS,
    STACK_MAP_HASH_MULTIPLIER,
    STACK_MAP_HASH_SHIFT,
    VALUE_SLOT_SIZE,
    CollectionPhase,
    VMActivation,
    VMContext,
    VMFuncRef,
    VMHostFunction,
    VMRootFrame,
    VMStackMapEntry,
    VMStackSlot,
    VMStoreContext,
)
from lowheap.memory import Mapping
from lowheap.native import Native
from lowheap.native.check import BOOL, NOTHING, U32, U64, Type
from lowheap.objects import Func, lift_reference, lower_reference, lower_scalar
from lowheap.runtime import polling
from lowheap.store import Store
from lowheap.types import FuncType, NumType, RefType, ValType, VectorType

MAX_WASM_STACK = 512 * 1024
"""Bytes of native stack that compiled code may use from its outermost entry on (wasmtime's default)."""

_HOST_STACK_RESERVE = 256 * 1024
"""Bytes at the end of a thread's stack that compiled code leaves to the host functions that it calls."""

_ffi = cffi.FFI()

_C_WORDS: dict[Type, str] = {BOOL: "bool", NOTHING: "void", U32: "uint32_t", U64: "uint64_t"}
"""The types in C of what functions of the compiled runtime take and return."""


class Place(Protocol):
    """What can tell where in a module a trap happened: an instance."""

    def locate(self, offset: int) -> str:
        """Return the name of the function whose code is at a byte offset of the module."""


@functools.cache
def _c_type(cdecl: str) -> Any:
    return _ffi.typeof(cdecl)


def _target(trampoline: int, vmctx: int, code: int, signature: transitions.Signature) -> tuple[Any, Any, Any]:
    """A trampoline, and what it takes first, as cffi passes them fastest."""
    entry = _ffi.cast(_c_type(signature.entry_cdecl), trampoline)
    return entry, _ffi.cast("void *", vmctx), _ffi.cast("void *", code)


class _ScalarFunc(Func):
    """A compiled function of numbers alone, with one result at most.

    A call goes a short way when there is nothing to see to first, and the arguments are of just the right Python types.
    Everything else goes the general way, which gives its errors too.
    """

    __slots__ = ("_parts", "_result", "_result_type")

    def __init__(
        self, runtime: StoreRuntime, target: tuple[Any, Any, Any], signature: transitions.Signature, *described: Any
    ) -> None:
        store = runtime._store
        super().__init__(store, *described)
        # In one tuple, since a call needs them all.
        self._parts = (
            *target,
            signature.python_types,
            bool(signature.results),
            runtime,
            runtime.watched,
            runtime.binding,
            store.host_data,
            store.host_data.set_aside,
            store.unreachable_handles,
            store.lock.acquire,
            store.lock.release,
        )
        self._result_type = _c_type(signature.result_cdecl)
        self._result: Any = None

    def __call__(self, *args: Any) -> Any:
        (
            entry,
            vmctx,
            code,
            types,
            has_result,
            runtime,
            watched,
            binding,
            host_data,
            set_aside,
            forgotten,
            acquire,
            release,
        ) = self._parts
        if len(args) == 2 == len(types):  # as below, and faster
            if type(args[0]) is not types[0] or type(args[1]) is not types[1]:
                return self._call(args)
        elif tuple(map(type, args)) != types:
            return self._call(args)
        if not acquire(False):
            raise self.store.lock.refusal()
        try:
            if forgotten or set_aside or host_data.binding is not binding:
                return self._call(args)
            if watched.floor != _thread_stack.floor:
                runtime.note_thread()
            # This call's own, should a finalizer or a signal's handler call this function before it is read.
            result, self._result = self._result, None
            if result is None:
                result = _ffi.new(self._result_type)
            try:
                status = entry(vmctx, code, result, *args)
            except OverflowError:  # an int that is not the parameter's, as a signed one; nothing was called
                status = transitions.REFUSED
            value = result[0] if has_result else None
            self._result = result
            if status or runtime.pending is not None or forgotten or set_aside:
                if status == transitions.REFUSED:
                    return self._call(args)
                runtime.settle(status)
            return value
        finally:
            release()


def runtime_of(store: Store) -> StoreRuntime:
    """Return the store's runtime, made at the first use."""
    store.check_open()
    if store.runtime is None:
        store.runtime = StoreRuntime(store)
    runtime: StoreRuntime = store.runtime
    return runtime


class StoreRuntime:
    """See the module's docstring. `context` is the store context that vmctxs point to."""

    def __init__(self, store: Store) -> None:
        """Make the store context, the function table with its null entry, and the functions that code calls back."""
        self._store = store
        self.binding = store.host_data.binding
        """Of the memory that the heap had when this was made; compiled code knows where it is."""
        self._mapping = Mapping(_round_to_page(ctypes.sizeof(VMStoreContext)) + _FUNCTION_TABLE_SIZE)
        self.context: VMStoreContext = self._mapping.view(VMStoreContext, 0)
        self.context_address = self._mapping.base
        self.stack_maps = StackMapRegistry()
        self._functions: list[Func | None] = [None]
        self._host_functions: list[tuple[Callable[..., Any], FuncType, str, Callable[[Any], list[Any]]]] = []
        self._host_contexts: list[VMHostFunction] = []
        self._places: dict[int, Place] = {}
        self._keep: list[Any] = []
        self._mapped_code: set[LoadedCode] = set()
        self.pending: BaseException | None = None
        """What a call out of compiled code has raised, until that is raised again."""
        self.watched = polling.Watched(self.context)
        if store.engine.interruptible:
            polling.watch(self.watched)
        self._heap_base = store.heap.control.heap_base
        self._trap_cause: Exception | None = None
        self._callbacks = {
            "allocate_struct": self._callback(transitions.ALLOCATE_STRUCT_CDECL, self._allocate_struct, NULL),
            "allocate_array": self._callback(transitions.ALLOCATE_ARRAY_CDECL, self._allocate_array, NULL),
            "drop": self._callback(transitions.DROP_CDECL, self._drop, None),
            "call_host": self._callback(transitions.CALL_HOST_CDECL, self._call_host, 1),
            "poll": self._callback(transitions.POLL_CDECL, self._poll, 1),
        }
        for name, callback in self._callbacks.items():
            setattr(self.context, name, int(_ffi.cast("uintptr_t", callback)))
        self._vmctx = VMContext(
            heap_base=store.heap.control.heap_base,
            control=ctypes.addressof(store.heap.control),
            store=self.context_address,
        )
        self.vmctx_address = ctypes.addressof(self._vmctx)
        self.vmctx = _ffi.cast("void *", self.vmctx_address)
        """A vmctx of the store itself, for native functions that belong to no instance."""
        self.is_native = store.engine.runtime == "native" and issubclass(store.heap.allocator_policy, SegregatedFit)
        """Whether compiled code drops and collects; Python's allocation is left where `collect_every` must count."""
        self.allocates_inline = self.is_native and not store.collect_every
        if self.is_native:
            self._use_native_runtime()
        self.context.functions = self._mapping.base + _FUNCTION_TABLE_OFFSET
        self.context.stack_size = MAX_WASM_STACK
        store.roots.add_stack_walker(self._walk)
        context = self.context
        store.heap.is_interrupted = lambda: bool(context.interrupted)

    def _use_native_runtime(self) -> None:
        """Put the compiled runtime in the place of Python's, as far as this store allows."""
        heap = self._store.heap
        code = runtime.load(heap.collector, self._store.engine.cache, checked=heap.is_checked)
        self.context.drop = code.address(runtime.DROP)
        if self.allocates_inline:
            self.context.allocate_struct = code.address(runtime.ALLOCATE_STRUCT)
            self.context.allocate_array = code.address(runtime.ALLOCATE_ARRAY)
        self._collect = _ffi.cast("bool(*)(void *)", code.address(runtime.COLLECT))
        self._trace = _ffi.cast("bool(*)(void *)", code.address(runtime.TRACE))
        for native in heap.collector.all_compiled():
            heap.replacements[native] = self._compiled(native, code.address(runtime.symbol_of(native)))

    def _compiled(self, native: Native[..., Any], address: int) -> Callable[..., Any]:
        """Return what calls a function of the compiled runtime, which takes numbers, and returns one, or nothing."""
        checked = native.checked
        parameters = "".join(f", {_C_WORDS[each.type]}" for each in checked.parameters[1:])
        function = _ffi.cast(f"{_C_WORDS[checked.result]}(*)(void *{parameters})", address)
        vmctx = self.vmctx
        return lambda *args: function(vmctx, *args)

    def collect(self) -> bool:
        """Collect in compiled code, if this store does; else return False. CompilerError for an unknown frame."""
        if not self.is_native:
            return False
        if not self._collect(self.vmctx):
            self._raise_unsound_frame()
        return True

    def trace(self) -> None:
        """Mark in compiled code what compiled code and root frames hold. CompilerError for an unknown frame."""
        if not self._trace(self.vmctx):
            self._raise_unsound_frame()

    def _raise_unsound_frame(self) -> None:
        """Raise what a trace that failed has found: HeapCorruptionError or CompilerError."""
        reference, self.context.unsound_root = self.context.unsound_root, NULL
        if reference != NULL:
            raise HeapCorruptionError([unsound_root(reference)])
        address, self.context.unknown_return_address = self.context.unknown_return_address, 0
        self.stack_maps.lookup(address)
        raise CompilerError(f"return address {address:#x} is in no stack map of the compiled runtime")

    def close(self) -> None:
        """Refuse while compiled code is on the stack; afterwards the store may go."""
        if self.context.activation:
            raise HeapError("cannot close a store while its compiled code is on the stack")

    def keep(self, *owners: Any) -> None:
        """Keep linked code and vmctxs alive as long as the store; functions and globals point into them."""
        self._keep += owners

    def add_stack_map(self, code: LoadedCode) -> None:
        """Make the safepoints of linked code known to the frame walk; nothing when they are."""
        if code not in self._mapped_code:
            self._mapped_code.add(code)
            self.stack_maps.add(code.stack_map)
            self._write_stack_map_table()

    def _write_stack_map_table(self) -> None:
        """Lay out all stack maps for the compiled frame walk: see `VMStoreContext`."""
        by_address = self.stack_maps.by_return_address
        size = 1 << (2 * len(by_address)).bit_length()  # at most half full
        entries = (VMStackMapEntry * size)()
        slots: list[Slots] = []
        for address, its_slots in by_address.items():
            place = (address * STACK_MAP_HASH_MULTIPLIER % (1 << 64)) >> STACK_MAP_HASH_SHIFT
            while entries[place % size].return_address:
                place += 1
            entry = entries[place % size]
            entry.return_address, entry.first_slot, entry.slot_count = address, len(slots), len(its_slots)
            slots += its_slots
        frame_pointer = host_architecture().frame_pointer_register
        encoded = {  # by id: many safepoints have the same slots
            id(each): bytes(VMStackSlot(each.offset, int(each.register == frame_pointer), each.mask))
            for each in {id(each): each for each in slots}.values()
        }
        table = (VMStackSlot * max(1, len(slots)))()
        content = b"".join(encoded[id(each)] for each in slots)
        ctypes.memmove(table, content, len(content))
        self._stack_map_table = (entries, table)
        self.context.stack_map_entries = ctypes.addressof(entries)
        self.context.stack_map_mask = size - 1
        self.context.stack_map_slots = ctypes.addressof(table)

    def add_place(self, vmctx: int, place: Place) -> None:
        """Say whose vmctx this is, for the places of traps."""
        self._places[vmctx] = place

    # ------------------------------------------------------------------------------------------------------------------
    # The function table

    def add_compiled_function(self, trampoline: int, vmctx: int, code: int, type_index: int, name: str) -> Func:
        """Make a compiled function one of the store. HeapError when the function table is full."""
        type = self._function_type(type_index)
        signature = transitions.Signature.of(type)
        target = _target(trampoline, vmctx, code, signature)
        call = self._caller(target, type, name)
        number = self._enter_into_table(code, vmctx, type_index)
        if signature.is_scalar:
            function: Func = _ScalarFunc(self, target, signature, number, type_index, name, call)
        else:
            function = Func(self._store, number, type_index, name, call)
        self._functions.append(function)
        return function

    def _function_type(self, type_index: int) -> FuncType:
        type = self._store.engine.types[type_index].composite
        assert isinstance(type, FuncType), "a function has a function type"
        return type

    def _enter_into_table(self, code: int, vmctx: int, type_index: int) -> int:
        number = len(self._functions)
        if number == FUNCTION_LIMIT:
            raise HeapError(f"the function table is full: a store has at most {FUNCTION_LIMIT} functions")
        entry = self._mapping.view(VMFuncRef, _FUNCTION_TABLE_OFFSET + number * ctypes.sizeof(VMFuncRef))
        entry.code, entry.vmctx, entry.type_index = code, vmctx, type_index
        return number

    def function(self, funcref: int) -> Func:
        """Return the function at an entry of the table. HeapError when there is none."""
        function = self._functions[funcref] if 0 < funcref < len(self._functions) else None
        if function is None:
            raise HeapError(f"function table entry {funcref} is not in use; 1 to {len(self._functions) - 1} are")
        return function

    def entry(self, function: Func) -> VMFuncRef:
        """Return a function's entry in the table."""
        return self._mapping.view(VMFuncRef, _FUNCTION_TABLE_OFFSET + function.funcref * ctypes.sizeof(VMFuncRef))

    def add_host_function(self, callable: Callable[..., Any], type_index: int, name: str, stub: int) -> Func:
        """Make a Python callable a function of the store; `stub` is the address of its signature's host stub."""
        type = self._function_type(type_index)
        context = VMHostFunction()
        context.heap_base = self._store.heap.control.heap_base
        context.control = ctypes.addressof(self._store.heap.control)
        context.store = self.context_address
        context.function = len(self._host_functions)
        self._host_functions.append((callable, type, name, self._lifting(type.params)))
        self._host_contexts.append(context)
        call = functools.partial(self._call_host_directly, callable, type, name)
        number = self._enter_into_table(stub, ctypes.addressof(context), type_index)
        function = Func(self._store, number, type_index, name, call)
        self._functions.append(function)
        return function

    # ------------------------------------------------------------------------------------------------------------------
    # Into compiled code

    def caller(
        self, trampoline: int, vmctx: int, code: int, type: FuncType, name: str
    ) -> Callable[[Sequence[Any]], Any]:
        """Return what calls a compiled function with Python values."""
        return self._caller(_target(trampoline, vmctx, code, transitions.Signature.of(type)), type, name)

    def _caller(self, target: tuple[Any, Any, Any], type: FuncType, name: str) -> Callable[[Sequence[Any]], Any]:
        count = max(1, len(type.results))
        lift = self._lifting(type.results)
        store = self._store
        forgotten, set_aside = store.unreachable_handles, store.host_data.set_aside

        def call(args: Sequence[Any]) -> Any:
            with store.lock:
                self._check_callable()
                raw, owned = self._lower_all(type.params, args, name)
                self._expose_all(owned)
                results = _ffi.new("uint64_t[]", count)
                status = self._enter(*target, results, *raw)
                returned = _results(lift(_ffi.buffer(results)))
                if status or forgotten or set_aside:
                    self.settle(status)
                return returned

        return call

    def call_native(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a C function that may drop objects, and raise what a drop left behind."""
        with self._store.lock:
            result = function(*args)
            if self.pending is not None:
                self.settle()
            return result

    def _enter(self, entry: Callable[..., int], *args: Any) -> int:
        """Call a trampoline, and raise what came of it: an exception from the host's side, or a trap."""
        self.note_thread()
        self._store.check_open()  # a finalizer may have closed it; from here on, that is refused
        status = entry(*args)
        if status == transitions.REFUSED:
            self._check_callable()
            raise LowheapError("compiled code was refused entry, and nothing is wrong with the heap")
        if status & transitions.TRAPPED or self.pending is not None:
            self.settle(status)
        return status

    def note_thread(self) -> None:
        """Have compiled code mind the end of this thread's stack, and be watched if it is interruptible."""
        if self.watched.floor != _thread_stack.floor:
            if self._store.engine.interruptible:
                polling.wake()  # before the floor says that it was done: a signal's handler may raise
            self.watched.floor = self.context.stack_floor = _thread_stack.floor

    def settle(self, status: int = 0) -> None:
        """Compiled code has returned: let go of what died meanwhile, and raise what the call came to."""
        failure, self.pending = self.pending, None
        if failure is None and status & transitions.TRAPPED:
            failure = self._trap()
        try:
            if self._store.heap.is_attached:  # without its memory, the heap can do nothing
                self._store.tidy_in_use()
        finally:
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure  # this frame is in its traceback: a cycle, which would keep the host's handles alive

    def _trap(self) -> Exception:
        if self.context.unknown_return_address or self.context.unsound_root:
            self._raise_unsound_frame()
        place = self._places.get(self.context.trap_vmctx)
        offset = self.context.trap_offset
        cause, self._trap_cause = self._trap_cause, None
        code, self.context.trap_code = self.context.trap_code, 0
        if code == 0:  # interrupted while an exception was being kept; cffi has printed both
            return LowheapError("a call out of compiled code failed, and its exception was lost")
        trap = Trap(
            TrapCode(code),
            function=None if place is None else place.locate(offset),
            offset=None if place is None else offset,
            detail=None if cause is None else str(cause),
        )
        trap.__cause__ = cause
        return trap

    def _check_callable(self) -> None:
        store = self._store
        store.check_open()
        control = store.heap.control
        if control.phase != CollectionPhase.IDLE:
            raise HeapError("cannot call compiled code in the middle of a collection; finish it or close it first")
        if store.unreachable_handles or store.host_data.set_aside or control.dead_externrefs != NULL:
            store.tidy_in_use()
        self._check_memory()

    def _is_memory_sound(self) -> bool:
        """Compiled code knows where the heap is, and relies on its type table."""
        heap = self._store.heap
        is_the_same = self._store.host_data.binding is self.binding
        return heap.is_attached and is_the_same and heap.control.heap_base == self._heap_base

    def _check_memory(self) -> None:
        self._store.heap.check_attached()
        if not self._is_memory_sound():
            raise HeapError("the heap's memory was detached or moved since the store's first instance was made")

    # ------------------------------------------------------------------------------------------------------------------
    # Out of compiled code

    def _callback(self, cdecl: str, function: Callable[..., Any], failure: Any) -> Any:
        """Return a C function that runs `function`; an exception is kept, and the call returns `failure`."""

        def keep(kind: Any, value: Any, traceback: Any) -> None:
            if self.pending is None:
                self.pending = value.with_traceback(traceback)

        if failure is None:
            return _ffi.callback(cdecl, function, onerror=keep)
        return _ffi.callback(cdecl, function, error=failure, onerror=keep)

    def _allocate_struct(self, _vmctx: Any, type_index: int) -> int:
        self._store.safepoint()
        try:
            return self._store.alloc_struct(type_index)
        except (AllocationTooLargeError, HeapExhaustedError) as error:
            return self._fail_allocation(TrapCode.HEAP_EXHAUSTED, error)

    def _allocate_array(self, _vmctx: Any, type_index: int, length: int) -> int:
        self._store.safepoint()
        try:
            return self._store.alloc_array(type_index, length)
        except AllocationTooLargeError as error:
            # For a program, that is a size that fits no heap at all; this heap's maximum is a matter of room.
            try:
                self._store.heap.array_layout(type_index).size(length)
            except OverflowError:
                return self._fail_allocation(TrapCode.ALLOCATION_TOO_LARGE, error)
            return self._fail_allocation(TrapCode.HEAP_EXHAUSTED, error)
        except HeapExhaustedError as error:
            return self._fail_allocation(TrapCode.HEAP_EXHAUSTED, error)

    def _fail_allocation(self, code: TrapCode, cause: Exception) -> int:
        """Leave it to the stub to trap: it knows where."""
        self.context.trap_code = code
        self._trap_cause = cause.with_traceback(None)
        return NULL

    def _drop(self, _vmctx: Any, reference: int) -> None:
        self._store.heap.drop_gc_ref(reference)

    def _call_host(self, _vmctx: Any, number: int, values: Any) -> int:
        if number == RELEASE_DEAD_EXTERNREFS:
            self._store.tidy_in_use()
            return 0
        callable, type, name, lift = self._host_functions[number]
        count = max(len(type.params), len(type.results))
        buffer = _ffi.buffer(values, count * VALUE_SLOT_SIZE)
        # Handles first: what is passed may be held by nobody else when the collector next looks.
        args = lift(buffer)
        self._store.safepoint()
        raw, owned = self._call_and_lower(callable, type, name, args)
        del args
        self._store.safepoint()
        self._expose_all(owned)
        for index, (result, value) in enumerate(zip(type.results, raw, strict=True)):
            start = index * VALUE_SLOT_SIZE
            data = bytes(_scalar(result, value))
            buffer[start : start + len(data)] = data
        return 0

    def _call_host_directly(self, callable: Callable[..., Any], type: FuncType, name: str, args: Sequence[Any]) -> Any:
        """Call a host function from the host: its values are checked and converted as if they passed through code."""
        with self._store.lock:
            self._check_callable()
            raw, _ = self._lower_all(type.params, args, name)
            lifted = [self._lift(param, value) for param, value in zip(type.params, raw, strict=True)]
            raw, _ = self._call_and_lower(callable, type, name, lifted)
            return _results([self._lift(result, value) for result, value in zip(type.results, raw, strict=True)])

    def _poll(self, _vmctx: Any) -> int:
        """Compiled code has looked up. Python runs the handlers of signals that have come when it begins this function.

        They may have done to the store what they liked, but for what needs to know the frames.
        """
        self._check_after("a signal handler")
        return 0

    def _check_after(self, what: str) -> None:
        """Compiled code is to go on, behind what Python did in between."""
        if self._store.heap.control.phase != CollectionPhase.IDLE:
            raise HeapError(f"{what} returned in the middle of a collection; finish it or close it first")
        self._check_memory()

    def _call_and_lower(
        self, callable: Callable[..., Any], type: FuncType, name: str, args: Sequence[Any]
    ) -> tuple[list[Any], list[int]]:
        returned = callable(*args)
        self._check_after(f"host function {name}")
        if len(type.results) == 1:
            results: Sequence[Any] = (returned,)
        elif not type.results:
            results = ()
            if returned is not None:
                raise TypeError(f"host function {name} returned {returned!r}; its type has no result")
        elif isinstance(returned, tuple | list):
            results = returned
        else:
            raise TypeError(f"host function {name} returned {returned!r}; it must be a tuple of {len(type.results)}")
        return self._lower_all(type.results, results, f"the results of host function {name}")

    # ------------------------------------------------------------------------------------------------------------------
    # Values

    def _lower_all(self, types: Sequence[ValType], values: Sequence[Any], what: str) -> tuple[list[Any], list[int]]:
        """Return values as C numbers, and those of them that are references with a count of the caller's."""
        if len(values) != len(types):
            raise TypeError(f"{what}: {len(values)} values were given where {len(types)} are wanted")
        raw: list[Any] = []
        owned: list[int] = []
        try:
            for number, (type, value) in enumerate(zip(types, values, strict=True)):
                try:
                    if isinstance(type, RefType):
                        reference = lower_reference(self._store, type, value)
                        raw.append(reference)
                        if self._store.engine.types.is_traced(type):
                            owned.append(reference)
                    else:
                        raw.append(lower_scalar(type, value).value)
                except (TypeError, ValueError) as error:
                    raise error.__class__(f"{what}, value {number}: {error}") from None
        except BaseException:
            for reference in owned:
                self._store.heap.drop_gc_ref(reference)
            raise
        return raw, owned

    def _expose_all(self, owned: Sequence[int]) -> None:
        """Hand references over to compiled code. Nothing may collect from here until compiled code runs."""
        for reference in owned:
            self._store.heap.expose_gc_ref_to_wasm(reference)

    def _lifting(self, types: Sequence[ValType]) -> Callable[[Any], list[Any]]:
        """Return what makes Python values of those that compiled code handed out, in slots; references get a count."""
        store, heap = self._store, self._store.heap
        unpack = struct.Struct("<" + "".join(_SLOT_FORMATS[type] for type in map(_number_type, types))).unpack_from
        references = [(number, type) for number, type in enumerate(types) if isinstance(type, RefType)]
        traced = [number for number, type in references if store.engine.types.is_traced(type)]

        def lift(slots: Any) -> list[Any]:
            values = list(unpack(slots))
            for number in traced:  # all, before one of them is given to Python
                heap.clone_gc_ref(values[number])
            for number, type in references:
                values[number] = lift_reference(store, type, values[number])
            return values

        return lift

    def _lift(self, type: ValType, raw: Any) -> Any:
        return lift_reference(self._store, type, raw) if isinstance(type, RefType) else raw

    # ------------------------------------------------------------------------------------------------------------------
    # What compiled code holds

    def _walk(self) -> Iterator[int]:
        """Yield the references that stack maps report, in every activation on the stack, and those in root frames.

        Of each, the innermost first.
        """
        address = self.context.activation
        while address:
            activation = VMActivation.from_address(address)
            if activation.exit_frame_pointer == 0:
                if self.context.interrupted:
                    raise HeapError(
                        "what compiled code holds cannot be known in a signal handler that has interrupted it"
                    )
                raise LowheapError("compiled code is entered but has not left; nothing can be known of its frames")
            exit_frame, entry_frame = activation.exit_frame_pointer, activation.entry_frame_pointer
            for slot in stack_slots(self.stack_maps, exit_frame, entry_frame):
                yield ctypes.c_uint32.from_address(slot).value
            address = activation.previous
        address = self.context.root_frames
        while address:
            frame = VMRootFrame.from_address(address)
            if frame.slot_count:
                yield from (ctypes.c_uint32 * frame.slot_count).from_address(frame.slots)
            address = frame.previous


def _results(values: list[Any]) -> Any:
    """One result as itself, several as a tuple, none as None."""
    if len(values) == 1:
        return values[0]
    return tuple(values) if values else None


def _scalar(type: ValType, raw: Any) -> ctypes._SimpleCData[Any]:
    return ctypes.c_uint32(raw) if isinstance(type, RefType) else lower_scalar(type, raw)


_SLOT_FORMATS: dict[NumType | None, str] = {
    NumType.I32: "i4x",
    NumType.I64: "q",
    NumType.F32: "f4x",
    NumType.F64: "d",
    None: "I4x",
}
"""How `struct` reads a value in a slot of 8 bytes; None is a reference."""
assert all(struct.calcsize("<" + each) == VALUE_SLOT_SIZE for each in _SLOT_FORMATS.values())


def _number_type(type: ValType) -> NumType | None:
    assert not isinstance(type, VectorType), "compiled code has no v128"
    return None if isinstance(type, RefType) else type


def _round_to_page(size: int) -> int:
    return (size + (1 << 16) - 1) & -(1 << 16)


_FUNCTION_TABLE_OFFSET = _round_to_page(ctypes.sizeof(VMStoreContext))
_FUNCTION_TABLE_SIZE = _round_to_page(FUNCTION_LIMIT * ctypes.sizeof(VMFuncRef))


def _stack_floor() -> int:
    """Return the lowest stack address that compiled code may come to on this thread; 0 where that is not known."""
    libc = ctypes.CDLL(None)
    if sys.platform == "darwin":
        libc.pthread_self.restype = ctypes.c_void_p
        thread = ctypes.c_void_p(libc.pthread_self())
        libc.pthread_get_stackaddr_np.restype = ctypes.c_void_p
        libc.pthread_get_stacksize_np.restype = ctypes.c_size_t
        top = int(libc.pthread_get_stackaddr_np(thread))
        return top - int(libc.pthread_get_stacksize_np(thread)) + _HOST_STACK_RESERVE
    if not sys.platform.startswith("linux"):
        return 0
    attributes = ctypes.create_string_buffer(_PTHREAD_ATTR_SIZE)
    libc.pthread_self.restype = ctypes.c_ulong
    if libc.pthread_getattr_np(ctypes.c_ulong(libc.pthread_self()), attributes) != 0:
        return 0
    lowest, size = ctypes.c_void_p(), ctypes.c_size_t()
    status = libc.pthread_attr_getstack(attributes, ctypes.byref(lowest), ctypes.byref(size))
    libc.pthread_attr_destroy(attributes)
    return (lowest.value or 0) + _HOST_STACK_RESERVE if status == 0 else 0


_PTHREAD_ATTR_SIZE = 256  # at least sizeof(pthread_attr_t), which is 56 to 64 on the systems known


class _ThreadStack(threading.local):
    """What is known of the current thread's stack. Not kept by thread identifier: the system uses those again."""

    def __init__(self) -> None:
        self.floor = _stack_floor()


_thread_stack = _ThreadStack()
