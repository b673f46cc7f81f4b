"""The Python side of compiled code: what it calls, how it is called, and what it holds.

A `StoreRuntime` belongs to one store. It owns the store context and the function table, answers the calls that compiled
code makes (allocate, drop, host functions), calls exported functions through their trampolines, and walks the frames of
compiled code for the collector.

An exception on the Python side of a call out of compiled code is kept, the call reports failure, compiled code jumps to
its trampoline, and the exception is raised again behind that, itself.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

from lowheap.bound_types import lift, lift_reference, lowering
from lowheap.collectors import host
from lowheap.collectors.shared.allocator import SegregatedFit
from lowheap.copying import NotCopied
from lowheap.critical import whole, whole_unless_unheard
from lowheap.declarations import quick
from lowheap.epochs import Deadline
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
from lowheap.jit import by_need, runtime, signatures, unwinder
from lowheap.jit.engine import LoadedCode
from lowheap.jit.stackmaps import Slots, StackMap, StackMapRegistry, host_architecture, stack_slots
from lowheap.jit.unwinding import UnwindEntry
from lowheap.layout import (
    FUNCTION_LIMIT,
    FUNCTION_TABLE_OFFSET,
    NO_FUNCTION_TYPE,
    NULL,
    RELEASE_DEAD_EXTERNREFS,
    STACK_MAP_HASH_MULTIPLIER,
    STACK_MAP_HASH_SHIFT,
    TRAP_ADDRESS_LIMIT,
    VALUE_SLOT_SIZE,
    CollectionPhase,
    VMActivation,
    VMContext,
    VMFuncRef,
    VMGcKind,
    VMHostFunction,
    VMRootFrame,
    VMSavedRegister,
    VMStackMapEntry,
    VMStackSlot,
    VMStoreContext,
    VMUnwindEntry,
)
from lowheap.memory import Mapping
from lowheap.native import Native
from lowheap.native.check import BOOL, NOTHING, U32, U64, HeapType, StaticType, Type, ViewType, declared
from lowheap.objects import Func
from lowheap.operations import exclusive
from lowheap.runtime import exceptions, polling
from lowheap.runtime.backtrace import Place, frames_of_trap, outer_addresses
from lowheap.store import Store
from lowheap.types import FuncType, NumType, RefType, ValType, VectorType
from lowheap.values import VECTOR_FORMAT, lift_vector

_HOST_STACK_RESERVE = 256 * 1024
"""Bytes at the end of a thread's stack that compiled code leaves to the host functions that it calls."""

_C_WORDS: dict[Type, str] = {BOOL: "bool", NOTHING: "void", U32: "uint32_t", U64: "uint64_t"}
"""The types in C of what functions of the compiled runtime take and return."""


_ENTRY = quick.typeof(signatures.ENTRY_CDECL)
_SLOTS = quick.typeof("uint64_t[]")
_ADDRESSES = quick.typeof("void **")
_RESULTS = {
    signatures.LETTERS[number]: quick.typeof(cdecl)
    for number, cdecl in {
        NumType.I32: "int32_t *",
        NumType.I64: "int64_t *",
        NumType.F32: "float *",
        NumType.F64: "double *",
    }.items()
}
"""By the letter of a number, how cffi reads it in a slot."""


class _Target:
    """A compiled function as the host calls it: through which trampoline, and how its values are in the slots."""

    def __init__(
        self, store: Store, trampoline: int, vmctx: int, code: int, type: FuncType, signature: signatures.Signature
    ) -> None:
        self.entry = quick.cast(_ENTRY, trampoline)
        self.vmctx, self.code = quick.cast("void *", vmctx), quick.cast("void *", code)
        self.signature = signature
        self.lowerings = [lowering(store, param) for param in type.params]
        self.pack = _slot_struct(type.params).pack_into
        self.unpack = _slot_struct(type.results).unpack_from
        self.counted = signature.counted_results
        self.lifted = [
            (number, _lift_of(store, result))
            for number, result in enumerate(type.results)
            if not isinstance(result, NumType) and number not in self.counted
        ]
        self.slot_count = signature.slot_count + len(self.counted)
        self._result = _RESULTS.get(signature.results, _ADDRESSES)
        self.spare: tuple[Any, Any, Any, Any] | None = None
        """Slots that no call is using."""

    def with_floats_as_bits(self, store: Store, type: FuncType) -> _Target:
        """Return the same function, called with integers that have the bits of its floats, and returning such."""
        found = copy.copy(self)
        params, results = (tuple(map(_bits_type, each)) for each in (type.params, type.results))
        found.lowerings = [lowering(store, param) for param in params]
        found.pack = _slot_struct(params).pack_into
        found.unpack = _slot_struct(results).unpack_from
        found.spare = None
        return found

    def slots(self) -> tuple[Any, Any, Any, Any]:
        """Return a buffer of slots, for one call: as cffi has it, as Python has it, as addresses, and as results.

        The last is for the result if there is just one, a number.
        """
        slots = quick.new(_SLOTS, self.slot_count)
        return slots, quick.buffer(slots), quick.cast(_ADDRESSES, slots), quick.cast(self._result, slots)


def _bits_type(type: ValType) -> ValType:
    """The integer type that has as many bits as a float; any other type as it is."""
    return {NumType.F32: NumType.I32, NumType.F64: NumType.I64}.get(type, type) if isinstance(type, NumType) else type


def _reread(type: ValType, wanted: ValType, value: Any) -> Any:
    """Return a value whose bytes are those of `value`; itself, where the types are the same."""
    return value if type is wanted else _slot_struct((wanted,)).unpack(_slot_struct((type,)).pack(value))[0]


class _CompiledFunc(Func):
    """A compiled function of numbers, with one result at most.

    A call goes a short way when there is nothing to see to first, and the arguments are of just the right Python types.
    Everything else goes the general way, which gives its errors too.
    """

    __slots__ = ("_parts", "_slots")

    def __init__(self, runtime: StoreRuntime, target: _Target, *described: Any) -> None:
        store = runtime._store
        self._bind(store, *described)
        signature = target.signature
        types = tuple(int if letter in "il" else float for letter in signature.params)
        pair = types if len(types) == 2 else (None, None)
        # In one tuple, since a call needs them all.
        self._parts = (
            types,
            *pair,
            store.lock,
            runtime,
            runtime.watched,
            runtime.binding,
            store.host_data,
            store.host_data.set_aside,
            store.unreachable_cells,
            target,
            target.entry,
            target.vmctx,
            target.code,
            target.pack,
            bool(signature.results),
        )
        self._slots: tuple[Any, Any, Any, Any] | None = None

    def __call__(self, *args: Any) -> Any:
        (
            types,
            first_type,
            second_type,
            lock,
            runtime,
            watched,
            binding,
            host_data,
            set_aside,
            forgotten,
            target,
            entry,
            vmctx,
            code,
            pack,
            has_result,
        ) = self._parts
        if is_pair := len(args) == 2:  # as below, and faster
            first, second = args
            if type(first) is not first_type or type(second) is not second_type:
                return self._call(args)
        elif tuple(map(type, args)) != types:
            return self._call(args)
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            if forgotten or set_aside or host_data.binding is not binding:
                return self._call(args)
            if watched.floor is not _thread_stack.floor:
                runtime.note_thread()
            # This call's own, should a finalizer or a signal's handler call this function before they are read.
            own, self._slots = self._slots, None
            if own is None:
                own = target.slots()
            slots, buffer, _, result = own
            try:
                if is_pair:
                    pack(buffer, 0, first, second)
                else:
                    pack(buffer, 0, *args)
            except (struct.error, OverflowError):  # a number that is not the parameter's as it stands
                types = _NOT_SHORT
            if types is _NOT_SHORT:
                return self._call(args)
            status = entry(vmctx, code, slots)
            value = result[0] if has_result else None
            self._slots = own
            if status or runtime.pending is not None or forgotten or set_aside:
                if status in (signatures.REFUSED, signatures.PAST_DEADLINE):
                    return self._call(args)
                runtime.settle(status)
            return value
        finally:
            lock.owner = outer


_NOT_SHORT: tuple[Any, ...] = (None,)
"""No call has arguments of these types."""


def hash_table(structure: type[ctypes.Structure], addresses: Sequence[int]) -> tuple[Any, int]:
    """Return a hash table of structures by return address, at most half full, as frame walks look in it; and its size.

    The rest of each structure is left to the caller.
    """
    size = 1 << (2 * len(addresses)).bit_length()
    entries = (structure * size)()
    for address in addresses:
        _new_entry(entries, address)
    return entries, size


def _new_entry(entries: Any, address: int) -> Any:
    """Return the entry of a return address that the hash table has not got yet, and has room for."""
    size = len(entries)
    place = (address * STACK_MAP_HASH_MULTIPLIER % (1 << 64)) >> STACK_MAP_HASH_SHIFT
    while entries[place % size].return_address:
        place += 1
    entry = entries[place % size]
    entry.return_address = address
    return entry


class _StackMapTable:
    """The stack maps of all code of a store as the compiled frame walk reads them: `entries` by return address, and the
    `slots` that they refer to. Both have room for as many again.
    """

    def __init__(self, known: StackMapRegistry) -> None:
        by_address = known.by_return_address
        self.entries: Any = (VMStackMapEntry * (1 << (4 * len(by_address)).bit_length()))()
        self.slots: Any = (VMStackSlot * 1)()
        self._count = self._slot_count = 0
        self._fill(by_address)

    def add(self, stack_map: StackMap) -> bool:
        """Take in more, and return True; False when there is no room."""
        added = stack_map.by_return_address
        if 2 * (self._count + len(added)) > len(self.entries):
            return False
        self._fill(added)
        return True

    def _fill(self, by_address: dict[int, tuple[Slots, ...]]) -> None:
        slots: list[Slots] = []
        entries = self.entries
        for address, its_slots in by_address.items():
            entry = _new_entry(entries, address)
            entry.first_slot, entry.slot_count = self._slot_count + len(slots), len(its_slots)
            slots += its_slots
        frame_pointer = host_architecture().frame_pointer_register
        encoded = {  # by id: many safepoints have the same slots
            id(each): bytes(VMStackSlot(each.offset, int(each.register == frame_pointer), each.mask))
            for each in {id(each): each for each in slots}.values()
        }
        content = b"".join(encoded[id(each)] for each in slots)
        total = self._slot_count + len(slots)
        if total > len(self.slots):
            larger = (VMStackSlot * (2 * total))()
            ctypes.memmove(larger, self.slots, self._slot_count * ctypes.sizeof(VMStackSlot))
            self.slots = larger
        place = ctypes.addressof(self.slots) + self._slot_count * ctypes.sizeof(VMStackSlot)
        ctypes.memmove(place, content, len(content))
        self._count += len(by_address)
        self._slot_count = total


def runtime_of(store: Store, *, optimised: bool = False) -> StoreRuntime:
    """Return the store's runtime, made at the first use.

    `optimised`: what of it is compiled is wanted optimised, and not just soon.
    """
    store.check_open()
    if store.runtime is None:
        store.runtime = StoreRuntime(store, optimised=optimised)
    runtime: StoreRuntime = store.runtime
    if optimised:
        runtime.optimise()
    return runtime


class StoreRuntime(NotCopied):
    """See the module's docstring. `context` is the store context that vmctxs point to."""

    NOT_COPIED_BECAUSE = "it belongs to one store"

    def __init__(self, store: Store, *, optimised: bool) -> None:
        """Make the store context, the function table with its null entry, and the functions that code calls back."""
        self._store = store
        self.binding = store.host_data.binding
        """Of the memory that the heap had when this was made; compiled code knows where it is."""
        self._mapping = Mapping(FUNCTION_TABLE_OFFSET + _FUNCTION_TABLE_SIZE)
        self.context: VMStoreContext = self._mapping.view(VMStoreContext, 0)
        self.context_address = self._mapping.base
        self.stack_maps = StackMapRegistry()
        self._functions: list[Func | None] = [None]
        self._free_functions: list[int] = []
        self._host_functions: dict[int, _HostFunction] = {}
        self._next_host_function = 0
        self._host_contexts: dict[int, VMHostFunction] = {}  # by their addresses, which are vmctxs
        self.defined: WeakKeyDictionary[Any, Func] = WeakKeyDictionary()
        """The functions made of what linkers define for every store."""
        self.places: dict[int, Place] = {}
        """The instances, by their vmctxs."""
        self._keep: dict[int, Any] = {}
        self._stack_map_table = _StackMapTable(self.stack_maps)
        self._mapped_code: Counter[LoadedCode] = Counter()
        self._stubs: dict[LoadedCode, None] = {}
        self.has_exceptions = False
        """Whether some code here may throw of itself, or catch."""
        self.pending: BaseException | None = None
        """What a call out of compiled code has raised, until that is raised again."""
        self._is_releasing = False  # which C code may be waiting for, in the middle of an allocation
        self.watched = polling.Watched(self.context)
        if store.engine.interruptible:
            polling.watch(self.watched)
        self._heap_base = store.heap.control.heap_base
        self._host_data, self._set_aside = store.host_data, store.host_data.set_aside
        self._trap_cause: Exception | None = None
        self._callbacks = {
            "allocate_struct": self._callback(signatures.ALLOCATE_STRUCT_CDECL, self._allocate_struct, NULL),
            "allocate_array": self._callback(signatures.ALLOCATE_ARRAY_CDECL, self._allocate_array, NULL),
            "drop": self._callback(signatures.DROP_CDECL, self._drop, None),
            "call_host": self._callback(signatures.CALL_HOST_CDECL, self._host_caller(), 1),
            "lend": self._callback(signatures.LEND_CDECL, self._lend, None),
            "share": self._callback(signatures.SHARE_CDECL, self._share, None),
            "poll": self._callback(signatures.POLL_CDECL, self._poll, 1),
            "compile_function": self._callback(signatures.COMPILE_FUNCTION_CDECL, self._compile_function, 0),
            "optimise_function": self._callback(signatures.OPTIMISE_FUNCTION_CDECL, self._optimise_function, 1),
            "prepare_unwinding": self._callback(signatures.PREPARE_UNWINDING_CDECL, self._prepare_unwinding, 1),
        }
        self._call_python()
        self._vmctx = VMContext(
            heap_base=store.heap.control.heap_base,
            control=ctypes.addressof(store.heap.control),
            store=self.context_address,
        )
        self.vmctx_address = ctypes.addressof(self._vmctx)
        self.vmctx = quick.cast("void *", self.vmctx_address)
        """A vmctx of the store itself, for native functions that belong to no instance."""
        self.is_native = store.engine.runtime == "native" and issubclass(store.heap.allocator_policy, SegregatedFit)
        """Whether compiled code drops and collects; Python's allocation is left where `collect_every` must count."""
        self.allocates_inline = self.is_native and not store.collect_every
        self.to_optimise: runtime.Compiler | None = None
        """What of this is compiled, if it is not optimised yet."""
        if self.is_native:
            heap, engine = store.heap, store.engine
            compiler = runtime.Compiler(heap.collector, heap.is_checked)
            begins_soon = engine.compilation != "whole" and engine.opt_level > 0 and by_need.is_available()
            if optimised or not begins_soon or not compiler.is_portable:
                code = compiler.load(engine.cache)
            else:
                code, is_optimised = compiler.load_soon(engine.cache)
                self.to_optimise = None if is_optimised else compiler
            self._use_native_runtime(code)
        self._mapping.view(VMFuncRef, FUNCTION_TABLE_OFFSET).type_index = NO_FUNCTION_TYPE
        self.context.stack_size = store.engine.max_wasm_stack
        self.deadline = None if store.engine.epoch is None else Deadline(store.engine.epoch, self.context)
        store.roots.add_stack_walker(self._walk)
        context = self.context
        store.heap.is_interrupted = lambda: bool(context.interrupted)

    def _call_python(self) -> None:
        """Have compiled code call Python for all that it asks of the store."""
        for name, callback in self._callbacks.items():
            setattr(self.context, name, int(quick.cast("uintptr_t", callback)))

    @whole
    def optimise(self) -> None:
        """Have what is compiled of this optimised now, if it is not."""
        if self.to_optimise is not None:
            self._use_native_runtime(self.to_optimise.load(self._store.engine.cache))
            self.to_optimise = None

    def take_up_optimised(self) -> None:
        """Use what was optimised in the background, once it is there."""
        if self.to_optimise is not None and self.to_optimise.is_optimised:
            self.optimise()

    def _use_native_runtime(self, code: LoadedCode) -> None:
        """Put the compiled runtime in the place of Python's, or of another, as far as this store allows.

        Code of the other may be on the stack: it stays in memory.
        """
        heap = self._store.heap
        self.context.drop = code.address(runtime.DROP)
        if self.allocates_inline:
            self.context.allocate_struct = code.address(runtime.ALLOCATE_STRUCT)
            self.context.allocate_array = code.address(runtime.ALLOCATE_ARRAY)
        self.context.lend = code.address(runtime.symbol_of(host.lend))
        self.context.share = code.address(runtime.symbol_of(host.share))
        if not heap.is_checked:
            self._store.operations.use(
                self.vmctx, {each.__name__: self._host_operation(code, each) for each in runtime.HOST_OPERATIONS}
            )
        self._collect = quick.cast("bool(*)(void *)", code.address(runtime.COLLECT))
        self._collect_cycles = quick.cast("bool(*)(void *, bool)", code.address(runtime.COLLECT_CYCLES))
        self._trace = quick.cast("bool(*)(void *)", code.address(runtime.TRACE))
        for native in runtime.replaced_by(heap.collector):
            heap.replacements[native] = self._compiled(native, code.address(runtime.symbol_of(native)))

    def _compiled(self, native: Native[..., Any], address: int) -> Callable[..., Any]:
        """Return what calls a function of the compiled runtime, which takes numbers, and returns one, or nothing."""
        (_, *others), result = declared(native)
        parameters = "".join(f", {_C_WORDS[each.type]}" for each in others)
        function = quick.cast(f"{_C_WORDS[result]}(*)(void *{parameters})", address)
        vmctx = self.vmctx
        return lambda *args: function(vmctx, *args)

    def _host_operation(self, code: LoadedCode, native: Native[..., Any]) -> Any:
        """Return one of the host's operations as a C function; bytes are passed as they are, handles as cells."""
        declared_parameters, result = declared(native)
        parameters = [
            "char *" if each.name == "image" else "void *" if isinstance(each.type, ViewType) else _C_WORDS[each.type]
            for each in declared_parameters
            if not isinstance(each.type, HeapType | StaticType)
        ]
        cdecl = f"{_C_WORDS[result]}(*)({', '.join(['void *', *parameters])})"
        return quick.cast(cdecl, code.address(runtime.symbol_of(native)))

    def collect(self, *, cycles: bool = False, only_if_due: bool = False) -> bool:
        """Collect in compiled code, if this store does; else return False. CompilerError for an unknown frame.

        `cycles`: search for what only cycles keep, too; `only_if_due`: if it is time to.
        """
        if not self.is_native:
            return False
        if not (self._collect_cycles(self.vmctx, only_if_due) if cycles else self._collect(self.vmctx)):
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
        """Refuse while compiled code is on the stack; afterwards the store may go.

        Native functions that somebody has kept find Python's functions in the place of the compiled ones, and these
        say that the store is closed.
        """
        if self.context.activation or self._is_releasing:
            raise HeapError("cannot close a store while its compiled code is on the stack")
        self._call_python()

    def keep(self, *owners: Any) -> None:
        """Keep linked code and vmctxs alive as long as the store; functions and globals point into them."""
        self._keep.update((id(each), each) for each in owners)

    def let_go(self, owner: Any) -> None:
        """Keep something no more: nobody has got hold of what points into it."""
        del self._keep[id(owner)]

    def add_stack_map(self, code: LoadedCode) -> None:
        """Make the safepoints of linked code known to the frame walk, until as many have taken it back."""
        self._mapped_code[code] += 1
        if self._mapped_code[code] == 1:
            self.stack_maps.add(code.stack_map)
            if not self._stack_map_table.add(code.stack_map):
                self._stack_map_table = _StackMapTable(self.stack_maps)
            self._tell_stack_map_table()
            if code.has_exceptions and not self.has_exceptions:
                self.context.throw_exception = unwinder.load(self._store.engine.cache).address(unwinder.THROW)
                self.has_exceptions = True

    def keep_stub(self, code: LoadedCode) -> None:
        """Keep the code of a stub as long as the store; exceptions of host functions begin in it."""
        if code not in self._stubs:
            self._stubs[code] = None
            self.context.unwind_entries = 0

    def _prepare_unwinding(self, _vmctx: Any) -> int:
        """Lay out for the unwinder what is known of all calls that may throw: see `VMStoreContext`."""
        known: dict[int, UnwindEntry] = {}
        for code in (*self._mapped_code, *self._stubs):
            known |= code.unwind_entries
        entries, size = hash_table(VMUnwindEntry, list(known))
        registers: dict[tuple[tuple[int, int], ...], int] = {}  # where what a frame keeps begins in the table
        saved: list[VMSavedRegister] = []
        places = unwinder.places()
        for entry in entries:
            if entry.return_address:
                found = known[entry.return_address]
                if found.registers not in registers:
                    registers[found.registers] = len(saved)
                    saved += (VMSavedRegister(places[register], offset) for register, offset in found.registers)
                entry.landing_pad, entry.stack_offset = found.landing_pad, found.stack_offset
                entry.first_register, entry.register_count = registers[found.registers], len(found.registers)
        table = (VMSavedRegister * max(1, len(saved)))(*saved)
        self._unwind_table = (entries, table)
        self.context.unwind_mask = size - 1
        self.context.saved_registers = ctypes.addressof(table)
        self.context.unwind_entries = ctypes.addressof(entries)
        return 0

    def remove_stack_map(self, code: LoadedCode) -> None:
        """Take back an `add_stack_map`: nothing of it will run for the one who added it."""
        self._mapped_code[code] -= 1
        if not self._mapped_code[code]:
            del self._mapped_code[code]
            self.stack_maps.remove(code.stack_map)
            self._stack_map_table = _StackMapTable(self.stack_maps)
            self._tell_stack_map_table()

    def _tell_stack_map_table(self) -> None:
        """Say where what the compiled frame walk goes by is: see `VMStoreContext`."""
        table = self._stack_map_table
        self.context.stack_map_entries = ctypes.addressof(table.entries)
        self.context.stack_map_mask = len(table.entries) - 1
        self.context.stack_map_slots = ctypes.addressof(table.slots)
        self.context.unwind_entries = 0  # that table is made when it is asked for

    def add_place(self, vmctx: int, place: Place) -> None:
        """Say whose vmctx this is, for the places of traps."""
        self.places[vmctx] = place

    def remove_place(self, vmctx: int) -> None:
        """Forget whose vmctx this was."""
        del self.places[vmctx]

    # ------------------------------------------------------------------------------------------------------------------
    # The function table

    def add_compiled_function(self, trampoline: int, vmctx: int, code: int, type_index: int, name: str) -> Func:
        """Make a compiled function one of the store. HeapError when the function table is full."""
        type = self._function_type(type_index)
        signature = signatures.Signature.of(type, self._store.engine.types)
        target = _Target(self._store, trampoline, vmctx, code, type, signature)
        number = self._enter_into_table(code, vmctx, type_index)
        described = (number, type_index, name, self._caller(target, name))
        if signature.is_numeric and len(signature.results) <= 1:
            function: Func = _CompiledFunc(self, target, *described)
        else:
            function = Func._of(self._store, *described)
        function._target = target
        self._functions[number] = function
        return function

    def call_bits(self, function: Func, args: Sequence[Any]) -> Any:
        """Call a function with signed integers that have the bits of its floats, and return such.

        A NaN of an f32 keeps its bits so, which it does not in a float of Python's. A host function, which has no other
        floats than those, is given those.
        """
        target, type = function._target, self._function_type(function.type_index)
        if isinstance(target, _Target):
            if function._call_bits is None:
                function._call_bits = self._caller(target.with_floats_as_bits(self._store, type), function.name)
            return function._call_bits(args)
        given = [_reread(_bits_type(each), each, arg) for each, arg in zip(type.params, args, strict=True)]
        returned = function(*given)
        if len(type.results) == 1:
            return _reread(type.results[0], _bits_type(type.results[0]), returned)
        pairs = zip(type.results, returned or (), strict=True)
        return tuple(_reread(each, _bits_type(each), value) for each, value in pairs) or None

    def _function_type(self, type_index: int) -> FuncType:
        type = self._store.engine.types[type_index].composite
        assert isinstance(type, FuncType), "a function has a function type"
        return type

    def _enter_into_table(self, code: int, vmctx: int, type_index: int) -> int:
        if self._free_functions:
            number = self._free_functions.pop()
        else:
            number = len(self._functions)
            if number == FUNCTION_LIMIT:
                raise HeapError(f"the function table is full: a store has at most {FUNCTION_LIMIT} functions")
            self._functions.append(None)
        entry = self._mapping.view(VMFuncRef, FUNCTION_TABLE_OFFSET + number * ctypes.sizeof(VMFuncRef))
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
        return self._mapping.view(VMFuncRef, FUNCTION_TABLE_OFFSET + function.funcref * ctypes.sizeof(VMFuncRef))

    def add_host_function(
        self,
        callable: Callable[..., Any],
        type_index: int,
        name: str,
        stub: int,
        *,
        directly: Callable[..., Any] | None = None,
        function: Func | None = None,
    ) -> Func:
        """Make a Python callable a function of the store; `stub` is the address of its signature's host stub.

        `directly` is what the host calls, where that is another callable. `function` becomes the function, if given.
        """
        vmctx = self.add_host_context(callable, type_index, name)
        type = self._function_type(type_index)
        call = functools.partial(self._call_host_directly, _HostFunction(self._store, directly or callable, type, name))
        number = self._enter_into_table(stub, vmctx, type_index)
        if function is None:
            function = object.__new__(Func)
        function._bind(self._store, number, type_index, name, call)
        self._functions[number] = function
        return function

    def add_host_context(self, callable: Callable[..., Any], type_index: int, name: str) -> int:
        """Return a vmctx with which a host stub calls a Python callable."""
        type = self._function_type(type_index)
        context = VMHostFunction()
        context.heap_base = self._store.heap.control.heap_base
        context.control = ctypes.addressof(self._store.heap.control)
        context.store = self.context_address
        self._host_contexts[address := ctypes.addressof(context)] = context
        context.function = number = self._next_host_function
        self._next_host_function += 1
        self._host_functions[number] = _HostFunction(self._store, callable, type, name)
        return address

    def remove_host_context(self, address: int) -> None:
        """Forget a vmctx that `add_host_context` returned: no code has it any more."""
        context = self._host_contexts.pop(address, None)
        if context is not None:
            self._host_functions.pop(context.function, None)

    def remove_function(self, function: Func) -> None:
        """Take a function off the table; its place is given out again. Nobody may have got hold of it."""
        number, entry = function.funcref, self.entry(function)
        self.remove_host_context(entry.vmctx)
        ctypes.memset(ctypes.addressof(entry), 0, ctypes.sizeof(VMFuncRef))
        self._functions[number] = None
        self._free_functions.append(number)

    # ------------------------------------------------------------------------------------------------------------------
    # Into compiled code

    def caller(
        self, trampoline: int, vmctx: int, code: int, type: FuncType, name: str
    ) -> Callable[[Sequence[Any]], Any]:
        """Return what calls a compiled function with Python values."""
        signature = signatures.Signature.of(type, self._store.engine.types)
        return self._caller(_Target(self._store, trampoline, vmctx, code, type, signature), name)

    def _caller(self, target: _Target, name: str) -> Callable[[Sequence[Any]], Any]:
        store = self._store
        lock, operations = store.lock, store.operations
        forgotten, set_aside = store.unreachable_cells, store.host_data.set_aside

        lowerings, pack, unpack = target.lowerings, target.pack, target.unpack
        places = [(number, place) for place, number in enumerate(target.counted, target.signature.slot_count)]
        mind, new_cell, cell_type, forget = operations.mind, operations.new_cell, operations.cell_type, forgotten.append
        is_single = len(target.signature.results) == 1
        is_reference, handle_place = is_single and bool(places), target.signature.slot_count
        host_data, binding, lifted = store.host_data, self.binding, target.lifted
        entry, vmctx, code = target.entry, target.vmctx, target.code
        heap, watched = store.heap, self.watched

        def call(args: Sequence[Any]) -> Any:
            me, outer = get_ident(), lock.owner
            if outer is not None and outer != me:
                raise lock.refusal()
            try:
                lock.owner = me
                if host_data.binding is not binding:
                    self._check_callable()
                if forgotten or set_aside or heap.control.dead_externrefs:
                    store.tidy_in_use()
                kept: Any = []
                raws = _lower_all(lowerings, args, name, kept) if lowerings or args else ()
                # This call's own; without `except`, in whose places CPython 3.11 keeps the exception for ever when a
                # handler raises another.
                own, target.spare = target.spare, None
                if own is None:
                    own = target.slots()
                slots, buffer, addresses, _ = own
                pack(buffer, 0, *raws)
                if is_reference:
                    addresses[handle_place] = cell = mind(new_cell(cell_type), forget)
                else:
                    cells: Any = [mind(new_cell(cell_type), forget) for _ in places] if places else []
                    for (_, place), each in zip(places, cells, strict=True):
                        addresses[place] = each
                if watched.floor is not _thread_stack.floor:
                    self.note_thread()
                if host_data.binding is not binding:  # a finalizer has closed the store; from here on, that is refused
                    self._check_callable()
                status = entry(vmctx, code, slots)
                if status or self.pending is not None:
                    self._look_into(status)
                if is_reference:
                    (raw,) = unpack(buffer)
                    target.spare = own
                    returned: Any = lift(store, raw, cell)
                    if status or forgotten or set_aside:
                        self.settle(status)
                    return returned
                results = unpack(buffer)
                target.spare = own
                if places or lifted:
                    values = list(results)
                    for (number, _), each in zip(places, cells, strict=True):
                        values[number] = lift(store, values[number], each)
                    for number, lift_raw in lifted:
                        values[number] = lift_raw(values[number])
                    results = tuple(values)
                if status or forgotten or set_aside:
                    self.settle(status)
                return results[0] if is_single else results or None
            finally:
                lock.owner = outer
                # The traceback of what a host function raises reaches this frame, and a program may have caught that
                # and return it: a handle that stayed here would be a cycle through the heap, which nobody collects.
                args = kept = returned = cell = cells = results = each = ()
                values = []

        return call

    @exclusive("_store.lock")
    def call_native(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a C function that may drop objects, and raise what a drop left behind."""
        result = function(*args)
        if self.pending is not None:
            self.settle()
        return result

    def _look_into(self, status: int) -> None:
        """Raise what came of a call of a trampoline: an exception from the host's side, or a trap."""
        if status == signatures.PAST_DEADLINE:
            raise Trap(TrapCode.INTERRUPT)
        if status == signatures.REFUSED:
            self._check_callable()
            raise LowheapError("compiled code was refused entry, and nothing is wrong with the heap")
        if status & signatures.TRAPPED or self.pending is not None:
            self.settle(status)

    def note_thread(self) -> None:
        """Have compiled code mind the end of this thread's stack, and be watched if it is interruptible."""
        if self._store.engine.interruptible:
            polling.wake()  # before the floor says that it was done: a signal's handler may raise
        self.watched.floor = self.context.stack_floor = _thread_stack.floor

    def settle(self, status: int = 0) -> None:
        """Compiled code has returned: let go of what died meanwhile, and raise what the call came to."""
        failure, self.pending = self.pending, None
        if failure is None and status & signatures.TRAPPED:
            failure = self._trap() if self.context.exception == NULL else self._uncaught()
        self.context.exception = NULL
        try:
            if self._store.heap.is_attached:  # without its memory, the heap can do nothing
                self._store.tidy_in_use()
        finally:
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure  # this frame is in its traceback: a cycle, which would keep the host's handles alive

    def _uncaught(self) -> Exception:
        """What compiled code has thrown has come to the trampoline."""
        address, self.context.unknown_return_address = self.context.unknown_return_address, 0
        if address:
            return CompilerError(
                f"an exception came to a call that is not known to be one that may throw: {address:#x}"
            )
        cell = self._store.operations.cell()
        return exceptions.raised(lift(self._store, self._take_thrown(cell), cell))

    @whole
    def _take_thrown(self, cell: Any) -> int:
        """Make a handle of what has been thrown."""
        operations, thrown = self._store.operations, self.context.exception
        operations.share(operations.vmctx, thrown, cell)
        self.context.exception = NULL
        return thrown

    def _fail(self, error: BaseException) -> int:
        """A host function has raised an exception: have it thrown where compiled code may catch it, or keep it.

        Return what compiled code is told.
        """
        if self.pending is None:
            if self.has_exceptions and exceptions.is_catchable(error):
                try:
                    thrown = exceptions.thrown(self._store, error)
                    operations = self._store.operations
                    operations.lend(operations.vmctx, thrown.reference)
                    self.context.exception = thrown.reference
                    return signatures.THROWN
                except HeapError as failure:
                    error.add_note(f"compiled code could not catch this: {failure}")
            self.pending = error
        return 1

    def _trap(self) -> Exception:
        if self.context.unknown_return_address or self.context.unsound_root:
            self._raise_unsound_frame()
        place = self.places.get(self.context.trap_vmctx)
        offset = self.context.trap_offset
        cause, self._trap_cause = self._trap_cause, None
        code, self.context.trap_code = self.context.trap_code, 0
        if code == 0:  # interrupted while an exception was being kept; cffi has printed both
            return LowheapError("a call out of compiled code failed, and its exception was lost")
        context = self.context
        source = None if place is None else place.module
        # No instance, which would keep the store.
        sources = {code: each.module for each in self.places.values() for code in each.linked}
        addresses = list(context.trap_frames[: context.trap_frame_count])
        addresses += outer_addresses(context.activation, TRAP_ADDRESS_LIMIT - len(addresses))
        trap = Trap(
            TrapCode(code),
            frames=functools.partial(frames_of_trap, sources, source, offset, addresses),
            function=None if source is None else source.locate(offset),
            offset=None if source is None else offset,
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
        if store.unreachable_cells or store.host_data.set_aside or control.dead_externrefs != NULL:
            store.tidy_in_use()
        self._check_memory()

    @property
    def owns_memory(self) -> bool:
        """Whether the heap has the memory that it had when the runtime was made, or will have it again."""
        return self._store.host_data.binding is self.binding

    def _is_memory_sound(self) -> bool:
        """Compiled code knows where the heap is, and relies on its type table."""
        heap = self._store.heap
        return heap.is_attached and self.owns_memory and heap.control.heap_base == self._heap_base

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
            return quick.callback(cdecl, function, onerror=keep)
        return quick.callback(cdecl, function, error=failure, onerror=keep)

    def _take_back(self, reference: int) -> None:
        self._store.heap.drop_gc_ref(reference)

    @whole_unless_unheard(_take_back)
    def _allocate_struct(self, _vmctx: Any, type_index: int) -> int:
        self._store.safepoint()
        store = self._store
        try:
            if store.heap.layout(type_index).kind is VMGcKind.EXN_REF:
                return store.alloc_exn(type_index)
            return store.alloc_struct(type_index)
        except (AllocationTooLargeError, HeapExhaustedError) as error:
            return self._fail_allocation(TrapCode.HEAP_EXHAUSTED, error)

    @whole_unless_unheard(_take_back)
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

    @whole
    def _drop(self, _vmctx: Any, reference: int) -> None:
        self._store.heap.drop_gc_ref(reference)

    def _lend(self, _vmctx: Any, reference: int) -> None:
        operations = self._store.operations
        operations.lend(operations.vmctx, reference)

    def _share(self, _vmctx: Any, reference: int, handle: Any) -> None:
        operations = self._store.operations
        operations.share(operations.vmctx, reference, quick.cast("void *", handle))

    def _host_caller(self) -> Callable[[Any, int, Any], int]:
        """Return what compiled code calls a host function by, and has it release what has died."""
        store, functions, buffer_of = self._store, self._host_functions, quick.buffer
        heap, forgotten, set_aside = store.heap, store.unreachable_cells, self._set_aside

        def call_host(_vmctx: Any, number: int, values: Any) -> int:
            if number == RELEASE_DEAD_EXTERNREFS:
                self._release_dead_externrefs()
                return 0
            try:
                function = functions[number]
                buffer = buffer_of(values, function.size)
                # Handles first: what is passed may be held by nobody else when the collector next looks.
                args = function.lift(buffer)
                # A safepoint, where there is something to do at one.
                if store.collect_every or forgotten or set_aside or heap.control.dead_externrefs:
                    store.safepoint()
                kept: list[Any] = []
                raws = self._call_and_lower(function, args, kept)
                del args
                if store.collect_every or forgotten or set_aside or heap.control.dead_externrefs:
                    store.safepoint()
                function.pack(buffer, 0, *raws)
                # What `kept` holds is only let go of when the store next does something: the stub has lent it by then.
                return 0
            except BaseException as error:
                return self._fail(error)

        return call_host

    def _release_dead_externrefs(self) -> None:
        was_releasing, self._is_releasing = self._is_releasing, True
        try:
            self._store.tidy_in_use()
        finally:
            self._is_releasing = was_releasing

    @exclusive("_store.lock")
    def _call_host_directly(self, function: _HostFunction, args: Sequence[Any]) -> Any:
        """Call a host function from the host: its values are checked and converted as if they passed through code."""
        self._check_callable()
        kept: list[Any] = []
        raws = _lower_all(function.param_lowerings, args, function.name, kept)
        lifted = [self._lift(param, raw) for param, raw in zip(function.type.params, raws, strict=True)]
        raws = self._call_and_lower(function, lifted, kept)
        values = [self._lift(result, raw) for result, raw in zip(function.type.results, raws, strict=True)]
        return values[0] if len(values) == 1 else tuple(values) if values else None

    def _poll(self, _vmctx: Any) -> int:
        """Compiled code has looked up. Python runs the handlers of signals that have come when it begins this function.

        They may have done to the store what they liked, but for what needs to know the frames.
        """
        self._check_after("a signal handler")
        for place in list(self.places.values()):
            place.take_up_ready()
        self.take_up_optimised()
        return signatures.PAST_DEADLINE if self.deadline is not None and self.deadline.is_past else 0

    def _compile_function(self, vmctx: Any, number: int) -> int:
        """Compiled code calls a function that it has no address of yet."""
        address = self.places[int(quick.cast("uintptr_t", vmctx))].compile_function(number)
        self._check_after("a signal handler")
        return address

    def _optimise_function(self, vmctx: Any, number: int) -> int:
        """A function of compiled code's has run often."""
        self.places[int(quick.cast("uintptr_t", vmctx))].optimise_function(number)
        self._check_after("a signal handler")
        return 0

    def _check_after(self, what: str) -> None:
        """Compiled code is to go on, behind what Python did in between."""
        if self._store.heap.control.phase != CollectionPhase.IDLE:
            raise HeapError(f"{what} returned in the middle of a collection; finish it or close it first")
        self._check_memory()

    def _call_and_lower(self, function: _HostFunction, args: Sequence[Any], kept: list[Any]) -> list[Any]:
        returned = function.callable(*args)
        kept.append(returned)
        type, name, control = function.type, function.name, self._store.heap.control
        if control.phase or self._host_data.binding is not self.binding or control.heap_base != self._heap_base:
            self._check_after(f"host function {name}")
        if len(function.result_lowerings) == 1:
            results: Sequence[Any] = (returned,)
        elif not type.results:
            results = ()
            if returned is not None:
                raise TypeError(f"host function {name} returned {returned!r}; its type has no result")
        elif isinstance(returned, tuple | list):
            results = returned
        else:
            raise TypeError(f"host function {name} returned {returned!r}; it must be a tuple of {len(type.results)}")
        return _lower_all(function.result_lowerings, results, function.what_it_returns, kept)

    def _lift(self, type: ValType, raw: Any) -> Any:
        """Return a value that the host holds already as Python has it."""
        if isinstance(type, NumType):
            return raw
        if not self._store.engine.types.is_traced(type):
            return _lift_of(self._store, type)(raw)
        operations = self._store.operations
        cell = operations.cell()
        operations.share(operations.vmctx, raw, cell)
        return lift(self._store, raw, cell)

    # ------------------------------------------------------------------------------------------------------------------
    # What compiled code holds

    def _walk(self) -> Iterator[int]:
        """Yield the references that stack maps report, in every activation on the stack, and those in root frames.

        Of each, the innermost first. What is being thrown is in between.
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
        yield self.context.exception
        address = self.context.root_frames
        while address:
            frame = VMRootFrame.from_address(address)
            if frame.slot_count:
                yield from (ctypes.c_uint32 * frame.slot_count).from_address(frame.slots)
            address = frame.previous


class _HostFunction:
    """A Python callable as compiled code calls it."""

    def __init__(self, store: Store, callable: Callable[..., Any], type: FuncType, name: str) -> None:
        self.callable, self.type, self.name = callable, type, name
        self.what_it_returns = f"the results of host function {name}"
        self.size = max(_slot_struct(type.params).size, _slot_struct(type.results).size)
        self.param_lowerings = [lowering(store, param) for param in type.params]
        self.result_lowerings = [lowering(store, result) for result in type.results]
        self.pack = _slot_struct(type.results).pack_into
        self.lift = _lifting(store, type.params)


def _lifting(store: Store, types: Sequence[ValType]) -> Callable[[Any], Sequence[Any]]:
    """Return what makes Python values of those that compiled code passes, in slots; each object gets a handle."""
    unpack = _slot_struct(types).unpack_from
    no_numbers = [(number, type) for number, type in enumerate(types) if not isinstance(type, NumType)]
    if not no_numbers:
        return unpack
    operations = store.operations
    traced = [number for number, type in no_numbers if store.engine.types.is_traced(type)]
    others = [(number, _lift_of(store, type)) for number, type in no_numbers if number not in traced]

    def lift_all(slots: Any) -> list[Any]:
        values = list(unpack(slots))
        cells = []
        for number in traced:  # all, before one of them is given to Python
            cells.append(cell := operations.cell())
            operations.share(operations.vmctx, values[number], cell)
        for number, cell in zip(traced, cells, strict=True):
            values[number] = lift(store, values[number], cell)
        for number, lift_raw in others:
            values[number] = lift_raw(values[number])
        return values

    return lift_all


def _lift_of(store: Store, type: ValType) -> Callable[[Any], Any]:
    """Return what makes a Python value of a raw v128, or of a raw reference that no collector knows of."""
    return functools.partial(lift_reference, store, type) if isinstance(type, RefType) else lift_vector


def _begins_with_store(values: Sequence[Any]) -> bool:
    """Whether somebody who comes from wasmtime's Python package has given the store, as calls have it there."""
    return bool(values) and isinstance(values[0], Store)


def _lower_all(lowerings: Sequence[Any], values: Sequence[Any], what: str, kept: list[Any]) -> list[Any]:
    """Return values as they are put into slots; references among them are borrowed, of `values` or of `kept`."""
    if len(values) != len(lowerings):
        hint = "; a function knows its store, which is no argument" if _begins_with_store(values) else ""
        raise TypeError(f"{what}: {len(values)} values were given where {len(lowerings)} are wanted{hint}")
    try:
        if len(values) == 1:
            return [lowerings[0](values[0], kept)]
        return [lower(value, kept) for lower, value in zip(lowerings, values, strict=True)]
    except (TypeError, ValueError):
        pass
    for number, (lower, value) in enumerate(zip(lowerings, values, strict=True)):  # which one is it?
        try:
            lower(value, kept)
        except (TypeError, ValueError) as error:
            raise error.__class__(f"{what}, value {number}: {error}") from None
    raise AssertionError("a value that could not be lowered can be")


@functools.cache
def _slot_struct_of(formats: str) -> struct.Struct:
    return struct.Struct("<" + formats)


def _slot_struct(types: Sequence[ValType]) -> struct.Struct:
    """How `struct` reads and writes values in slots."""
    return _slot_struct_of("".join(_SLOT_FORMATS[None if isinstance(each, RefType) else each] for each in types))


_SLOT_FORMATS: dict[ValType | None, str] = {
    NumType.I32: "i4x",
    NumType.I64: "q",
    NumType.F32: "f4x",
    NumType.F64: "d",
    VectorType.V128: VECTOR_FORMAT,
    None: "I4x",
}
"""How `struct` reads a value in its slot, or in its slots; None is a reference."""
assert all(struct.calcsize("<" + each) % VALUE_SLOT_SIZE == 0 for each in _SLOT_FORMATS.values())


def _round_to_page(size: int) -> int:
    return (size + (1 << 16) - 1) & -(1 << 16)


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
