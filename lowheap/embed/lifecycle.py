"""The C interface's heaps without Python: making one, destroying it, and being the host of its externrefs.

A heap of C's is two mappings: one with the `VMHeap` and, behind it, the control mapping as Python's heaps have it; and
the heap's memory with its guard. Nothing else belongs to it, and nothing is shared between two heaps.

What is decided, and what a new heap has, is written once (`settle`, `set_up`, `finish`). Emitted by hand is what the
system is asked for, and what is no function on a heap.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from llvmlite import ir

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.collectors.shared import setup
from lowheap.collectors.shared.sizing import GROWTH_GRANULE
from lowheap.embed.api import FUNCTIONS, Function, Status, abi_hash, collector_number
from lowheap.embed.emitter import (
    MESSAGE_SIZE,
    WITHOUT_SHELL,
    ApiEmitter,
    ApiFunction,
    address_constant,
    function_type,
    print_into,
    string_constant,
)
from lowheap.embed.functions import finalize_all, release_all_dead
from lowheap.embed.header import package_version
from lowheap.embed.system import advise_huge_pages, map_memory, protect_memory, unmap_memory
from lowheap.jit.emit import I32, I64, PTR, VOID, Emitter, NativeFunction
from lowheap.jit.translate import View, inline_call
from lowheap.layout import (
    BLOCK_ALIGN,
    COLLECTOR_AREA_OFFSET,
    CONTROL_BLOCK_OFFSET,
    HEAP_GUARD,
    HEAP_RESERVATION,
    VMHeap,
    VMHeapConfiguration,
    VMStoreContext,
)
from lowheap.memory import HUGE_PAGES_FROM
from lowheap.native import Heap, at, cell, inline, require, u8, u32, u64
from lowheap.store import DEFAULT_INITIAL_HEAP_SIZE

MAKE = "lh.make"
"""lh_status(configuration, result): what makes a heap of a certain collector's."""

CALL_HOST = "lh.call_host"
"""uint32_t(heap, what, values): what stands in the store context of a heap without Python. There is one thing to do."""

_ABI = abi_hash()  # a heap's own: headers that are for other collectors are told apart when it is created
_CONTROL_OFFSET = 1 << 16
"""Where the control mapping begins behind the `VMHeap`."""

assert ctypes.sizeof(VMHeap) <= _CONTROL_OFFSET


# ----------------------------------------------------------------------------------------------------------------------
# What is decided, and what a new heap has, written once


@inline
def require_hash(configuration: VMHeapConfiguration, abi: u64) -> None:
    """Fail where the configuration is another header's, so that what else is in it may be anywhere."""
    require(configuration.abi == abi, Status.ABI, "")


@inline
def is_same_text(text: u64, other: u64) -> bool:
    """Whether two texts are the same, which end with a 0, by their addresses."""
    place: u64 = 0
    while cell(u8, text + place).value == cell(u8, other + place).value:
        if cell(u8, text + place).value == 0:
            return True
        place += 1
    return False


@inline
def settle(configuration: VMHeapConfiguration, result: u64, is_checked: bool, abi: u64) -> tuple[u64, u64, u64]:
    """How many bytes to reserve, to begin with, and to have at most; fails where that cannot be.

    `result` is the address of where the heap is to be left, `is_checked` whether the library is the checked one, `abi`
    its hash.
    """
    require_hash(configuration, abi)
    require(result != 0, Status.BAD_ARGUMENT, "the argument result is a null pointer")
    reserve = configuration.reserve
    if reserve == 0:
        reserve = HEAP_RESERVATION
    require(
        reserve <= HEAP_RESERVATION,
        Status.BAD_ARGUMENT,
        f"more is to be reserved than the {HEAP_RESERVATION} bytes there can be",
    )
    reserve = (reserve + (GROWTH_GRANULE - 1)) & ~(GROWTH_GRANULE - 1)
    largest = reserve - BLOCK_ALIGN
    maximum = configuration.maximum
    if maximum == 0:
        maximum = largest
    require(
        maximum <= largest,
        Status.BAD_ARGUMENT,
        f"the maximum is more than what is reserved, less {BLOCK_ALIGN} bytes",
    )
    initial = configuration.initial
    if initial == 0:
        initial = min(DEFAULT_INITIAL_HEAP_SIZE, maximum)
    require(initial <= maximum, Status.BAD_ARGUMENT, "the initial size is more than the maximum")
    require(
        is_checked or (configuration.collect_every == 0),
        Status.UNSUPPORTED,
        "collect_every is for the checked library",
    )
    return reserve, initial, maximum


@inline
def set_up(
    mapping: u64,
    mapping_size: u64,
    configuration: VMHeapConfiguration,
    memory: u64,
    memory_size: u64,
    initial: u64,
    maximum: u64,
    call_host: u64,
    collector: u32,
    flags: u32,
) -> None:
    """Make two mappings, all zero, a heap: one with the `VMHeap` and its control mapping, one with its memory.

    `call_host` is the address of what lets go of externrefs; `collector` is the collector's number, and `flags` are
    what the control block says of it.
    """
    heap = at(VMHeap, mapping)
    control_mapping = mapping + _CONTROL_OFFSET
    control = control_mapping + CONTROL_BLOCK_OFFSET
    store_context = mapping + VMHeap.store_context.offset
    heap.heap_base = memory
    heap.control = control
    heap.store = store_context
    heap.abi = _ABI
    heap.collector = collector
    heap.out_of_memory = configuration.out_of_memory
    heap.out_of_memory_argument = configuration.out_of_memory_argument
    heap.on_error = configuration.on_error
    heap.on_error_argument = configuration.on_error_argument
    heap.collect_every = configuration.collect_every
    heap.mapping = mapping
    heap.mapping_size = mapping_size
    heap.memory = memory
    heap.memory_size = memory_size
    at(VMStoreContext, store_context).call_host = call_host
    setup.set_up_tables(control, control_mapping)
    setup.set_up_memory(control, memory, initial, maximum)
    at(setup.NewHeapControl, control).flags |= flags
    setup.set_up_bump(control)


@inline
def finish(heap: Heap) -> None:
    """What comes before a heap is unmapped. Finalizers are called as if it were at work: they must not use it."""
    require(heap.interface.is_foreign == 0, Status.UNSUPPORTED, "Python made this heap, and destroys it")
    finalize_all(heap)


# ----------------------------------------------------------------------------------------------------------------------
# The functions


class UnboundEmitter(Emitter):
    """Emits a function whose first argument is no heap, or none that could be used yet."""

    def __init__(self, function: ir.Function) -> None:
        """Start the function's entry block, without the loads from a vmctx."""
        self.function = function
        self.module = function.module
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._marks = None
        self._names = {}
        self.vmctx = self.heap_base = self.control = self.store_context = None


class CreationEmitter(UnboundEmitter):
    """Emits a function whose first argument is a configuration, which says who is told of failures."""

    def require(self, condition: ir.Value, status: Status, text: str) -> None:
        """Fail unless a condition holds."""
        with self.builder.if_then(self.builder.not_(condition), likely=False):
            self.refuse(status, string_constant(self.module, f"lh_heap_create: {text}"))

    def refuse(self, status: Status, text: ir.Value, *values: ir.Value) -> None:
        """Fail. With `values`, the text is a format of printf's."""
        builder, configuration = self.builder, self.function.args[0]
        if status != Status.ABI:  # of another layout, the callback may be anywhere
            callback = self.load_pointer(configuration, VMHeapConfiguration.on_error)
            has_callback = builder.icmp_unsigned("!=", builder.ptrtoint(callback, I64), I64(0))
            with builder.if_then(has_callback):
                message = text
                if values:
                    message = self.stack_buffer(MESSAGE_SIZE, 1)
                    print_into(self, message, I64(MESSAGE_SIZE), text, values)
                argument = self.load_pointer(configuration, VMHeapConfiguration.on_error_argument)
                self.call_pointer(callback, VOID, [PTR, I32, PTR], [argument, I32(int(status)), message])
        builder.ret(I32(int(status)))


class LifecycleEmitter(ApiEmitter):
    """See the module's docstring."""

    @classmethod
    def define_lifecycle(cls, module: ir.Module, abi: int, *, is_local: bool) -> None:
        """Give a module what makes heaps of the collector's, and the host of their externrefs.

        `abi` is the hash that configurations must have; `is_local`: only this module makes such heaps.
        """
        function = NativeFunction(module, ir.FunctionType(I32, [PTR, I32, PTR]), CALL_HOST)
        function.linkage = "internal"
        emitter = cls(function)
        emitter.inline_native(release_all_dead)
        emitter.builder.ret(I32(0))
        _define_make(module, cls, abi, is_local=is_local)

    def lh_heap_destroy(self) -> None:
        """See the table."""
        self.inline_native(finish)
        for address, size in ((VMHeap.memory, VMHeap.memory_size), (VMHeap.mapping, VMHeap.mapping_size)):
            unmap_memory(self, self.load(self.vmctx, address), self.load(self.vmctx, size))


def _declare_make(module: ir.Module, suffix: str) -> ir.Function:
    """What makes a heap of one collector's: `lh_heap_create` without the choice."""
    return NativeFunction(module, function_type(FUNCTIONS["lh_heap_create"]), MAKE + suffix)


def _define_make(module: ir.Module, kind: type[LifecycleEmitter], abi: int, *, is_local: bool) -> None:
    """What the system is asked for, between settling and setting up."""
    collector: Collector = kind.collector
    function = _declare_make(module, kind.suffix)
    if is_local:
        function.linkage = "internal"
    emitter = CreationEmitter(function)
    builder = emitter.builder
    configuration, result = emitter.function.args
    options = View(configuration, VMHeapConfiguration)
    place = builder.ptrtoint(result, I64)
    reserve, initial, maximum = inline_call(emitter, settle, [options, place, kind.is_checked, I64(abi)])

    no_memory = "the system has no address space left, or its overcommit limit forbids the reservation"
    mapping_size = I64(_CONTROL_OFFSET + COLLECTOR_AREA_OFFSET + collector.area().size)
    mapping = map_memory(emitter, mapping_size, kind.system)
    emitter.require(builder.icmp_unsigned("!=", mapping, I64(0)), Status.SYSTEM, no_memory)
    memory_size = builder.add(reserve, I64(HEAP_GUARD))
    memory = map_memory(emitter, memory_size, kind.system)
    is_mapped = builder.icmp_unsigned("!=", memory, I64(0))
    with builder.if_then(builder.not_(is_mapped), likely=False):
        unmap_memory(emitter, mapping, mapping_size)
    emitter.require(is_mapped, Status.SYSTEM, no_memory)
    is_guarded = protect_memory(emitter, builder.add(memory, reserve), I64(HEAP_GUARD))
    with builder.if_then(builder.not_(is_guarded), likely=False):
        unmap_memory(emitter, memory, memory_size)
        unmap_memory(emitter, mapping, mapping_size)
    emitter.require(is_guarded, Status.SYSTEM, "the system does not protect the guard behind the heap")
    is_large = builder.icmp_unsigned(">", reserve, I64(HUGE_PAGES_FROM))
    with builder.if_then(is_large):
        rest = builder.sub(reserve, I64(HUGE_PAGES_FROM))
        advise_huge_pages(emitter, builder.add(memory, I64(HUGE_PAGES_FROM)), rest, kind.system)

    call_host = builder.ptrtoint(address_constant(module.globals[CALL_HOST]), I64)
    number, flags = I32(collector_number(kind.collector_name())), I32(registry.control_flags(collector))
    arguments = [mapping, mapping_size, options, memory, memory_size, initial, maximum, call_host, number, flags]
    inline_call(emitter, set_up, arguments)
    emitter.store_typed(mapping, result)
    builder.ret(I32(Status.OK))


# ----------------------------------------------------------------------------------------------------------------------
# What a library has once, whatever collectors it is for


def define_library(module: ir.Module, kinds: Sequence[type[LifecycleEmitter]], abi: int) -> None:
    """Give a module the functions that need no heap, of a library that has these kinds of functions on heaps."""
    _define_create(module, kinds, abi)
    values = {
        "lh_abi": I64(abi),
        "lh_version": string_constant(module, package_version()),
        "lh_is_checked": I32(int(kinds[0].is_checked)),
    }
    for name, value in values.items():
        emitter = UnboundEmitter(NativeFunction(module, function_type(FUNCTIONS[name]), name))
        emitter.builder.ret(value)
    _define_status_name(module)


def _define_create(module: ir.Module, kinds: Sequence[type[LifecycleEmitter]], abi: int) -> None:
    """`lh_heap_create`: which collector is wanted."""
    emitter = CreationEmitter(NativeFunction(module, function_type(FUNCTIONS["lh_heap_create"]), "lh_heap_create"))
    builder = emitter.builder
    configuration, _ = emitter.function.args
    is_given = builder.icmp_unsigned("!=", builder.ptrtoint(configuration, I64), I64(0))
    with builder.if_then(builder.not_(is_given), likely=False):
        builder.ret(I32(Status.BAD_ARGUMENT))
    inline_call(emitter, require_hash, [View(configuration, VMHeapConfiguration), I64(abi)])
    wanted = emitter.load(configuration, VMHeapConfiguration.collector)
    makers = [module.globals.get(MAKE + kind.suffix) or _declare_make(module, kind.suffix) for kind in kinds]
    with builder.if_then(builder.icmp_unsigned("==", wanted, I64(0))):
        builder.ret(builder.call(makers[0], emitter.function.args))
    for kind, make in zip(kinds, makers, strict=True):
        name = builder.ptrtoint(string_constant(module, kind.collector_name()), I64)
        with builder.if_then(inline_call(emitter, is_same_text, [wanted, name])):
            builder.ret(builder.call(make, emitter.function.args))
    names = ", ".join(kind.collector_name() for kind in kinds).replace("%", "%%")
    text = f'lh_heap_create: there is no collector "%.80s"; the library has {names}'
    emitter.refuse(Status.BAD_ARGUMENT, string_constant(module, text), builder.inttoptr(wanted, PTR))


def define_choice(module: ir.Module, function: Function, kinds: Sequence[type[LifecycleEmitter]]) -> None:
    """Give a module a function that calls the one for the heap's collector; for the first one, if it is none of these.

    That one's checks say what is wrong with such a heap.
    """
    emitter = UnboundEmitter(ApiFunction(module, function_type(function), function.name))
    builder, args = emitter.builder, emitter.function.args
    chosen = [ApiFunction(module, function_type(function), kind.symbol(function)) for kind in kinds]
    if kinds[0].is_checked or function.name in WITHOUT_SHELL:
        is_null = builder.icmp_unsigned("==", builder.ptrtoint(args[0], I64), I64(0))
        with builder.if_then(is_null, likely=False):
            builder.ret(builder.call(chosen[0], args, tail=True))
    number = emitter.load(args[0], VMHeap.collector)
    for kind, other in zip(kinds[1:], chosen[1:], strict=True):
        is_it = builder.icmp_unsigned("==", number, I32(collector_number(kind.collector_name())))
        with builder.if_then(is_it):
            builder.ret(builder.call(other, args, tail=True))
    builder.ret(builder.call(chosen[0], args, tail=True))


def _define_status_name(module: ir.Module) -> None:
    emitter = UnboundEmitter(NativeFunction(module, function_type(FUNCTIONS["lh_status_name"]), "lh_status_name"))
    builder = emitter.builder
    name: ir.Value = string_constant(module, "unknown status")
    for status in Status:
        is_it = builder.icmp_unsigned("==", emitter.function.args[0], I32(int(status)))
        name = builder.select(is_it, string_constant(module, f"LH_{status.name}"), name)
    builder.ret(name)
