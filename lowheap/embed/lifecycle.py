"""The C interface's heaps without Python: making one, destroying it, and being the host of its externrefs.

A heap of C's is two mappings: one with the `VMHeap` and, behind it, the control mapping as Python's heaps have it; and
the heap's memory with its guard. Nothing else belongs to it, and nothing is shared between two heaps.
"""

from __future__ import annotations

import ctypes

from llvmlite import ir

from lowheap.collectors.shared import setup
from lowheap.collectors.shared.sizing import GROWTH_GRANULE
from lowheap.embed.api import FUNCTIONS, Status, abi_hash
from lowheap.embed.emitter import ApiEmitter, address_constant, function_type, string_constant
from lowheap.embed.functions import finalize_all, release_all_dead
from lowheap.embed.header import package_version
from lowheap.embed.system import advise_huge_pages, map_memory, protect_memory, unmap_memory
from lowheap.jit.emit import I32, I64, PTR, VOID, Emitter, NativeFunction
from lowheap.jit.translate import inline_call
from lowheap.layout import (
    BLOCK_ALIGN,
    CONTROL_BLOCK_OFFSET,
    CONTROL_MAPPING_SIZE,
    HEAP_GUARD,
    HEAP_RESERVATION,
    Field,
    VMHeap,
    VMHeapConfiguration,
    VMStoreContext,
)
from lowheap.memory import HUGE_PAGES_FROM
from lowheap.store import DEFAULT_INITIAL_HEAP_SIZE

CALL_HOST = "lh.call_host"
"""uint32_t(heap, what, values): what stands in the store context of a heap without Python. There is one thing to do."""

_CONTROL_OFFSET = 1 << 16
"""Where the control mapping begins behind the `VMHeap`."""

assert ctypes.sizeof(VMHeap) <= _CONTROL_OFFSET


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


class LifecycleEmitter(ApiEmitter):
    """See the module's docstring."""

    @classmethod
    def define_lifecycle(cls, module: ir.Module) -> None:
        """Give a module the functions that make a heap and that need none, and the host of its externrefs."""
        function = NativeFunction(module, ir.FunctionType(I32, [PTR, I32, PTR]), CALL_HOST)
        function.linkage = "internal"
        emitter = cls(function)
        emitter.inline_native(release_all_dead)
        emitter.builder.ret(I32(0))
        _define_create(module, is_checked=cls.is_checked, system=cls.system)
        _define_constants(module, is_checked=cls.is_checked)
        _define_status_name(module)

    def lh_heap_destroy(self) -> None:
        """See the table. Finalizers are called as if the heap were at work: they must not use it."""
        foreign = self.load(self.vmctx, VMHeap.is_foreign)
        text = "Python made this heap, and destroys it"
        self.require(self._compare("==", foreign, 0), Status.UNSUPPORTED, text)
        self.inline_native(finalize_all)
        memory, memory_size = self.load(self.vmctx, VMHeap.memory), self.load(self.vmctx, VMHeap.memory_size)
        mapping, mapping_size = self.load(self.vmctx, VMHeap.mapping), self.load(self.vmctx, VMHeap.mapping_size)
        unmap_memory(self, memory, memory_size)
        unmap_memory(self, mapping, mapping_size)


def _define_create(module: ir.Module, *, is_checked: bool, system: str) -> None:
    """`lh_heap_create`: look at the configuration, map, and set up."""
    emitter = UnboundEmitter(NativeFunction(module, function_type(FUNCTIONS["lh_heap_create"]), "lh_heap_create"))
    builder = emitter.builder
    configuration, result = emitter.function.args
    is_given = builder.icmp_unsigned("!=", builder.ptrtoint(configuration, I64), I64(0))
    with builder.if_then(builder.not_(is_given), likely=False):
        builder.ret(I32(Status.BAD_ARGUMENT))

    def option(field: Field) -> ir.Value:
        return emitter.load(configuration, field)

    def refuse_unless(condition: ir.Value, status: Status, text: str) -> None:
        with builder.if_then(builder.not_(condition), likely=False):
            if status != Status.ABI:  # of another layout, the callback may be anywhere
                callback = emitter.load_pointer(configuration, VMHeapConfiguration.on_error)
                has_callback = builder.icmp_unsigned("!=", builder.ptrtoint(callback, I64), I64(0))
                with builder.if_then(has_callback):
                    argument = emitter.load_pointer(configuration, VMHeapConfiguration.on_error_argument)
                    message = string_constant(module, f"lh_heap_create: {text}")
                    args = [argument, I32(int(status)), message]
                    emitter.call_pointer(callback, VOID, [PTR, I32, PTR], args)
            builder.ret(I32(int(status)))

    def or_default(value: ir.Value, default: ir.Value) -> ir.Value:
        return builder.select(builder.icmp_unsigned("==", value, value.type(0)), default, value)

    def minimum(a: ir.Value, b: ir.Value) -> ir.Value:
        return builder.select(builder.icmp_unsigned("<", a, b), a, b)

    has_result = builder.icmp_unsigned("!=", builder.ptrtoint(result, I64), I64(0))
    is_same_abi = builder.icmp_unsigned("==", option(VMHeapConfiguration.abi), I64(abi_hash()))
    refuse_unless(is_same_abi, Status.ABI, "")
    refuse_unless(has_result, Status.BAD_ARGUMENT, "the argument result is a null pointer")
    reserve = or_default(option(VMHeapConfiguration.reserve), I64(HEAP_RESERVATION))
    fits = builder.icmp_unsigned("<=", reserve, I64(HEAP_RESERVATION))
    refuse_unless(fits, Status.BAD_ARGUMENT, f"more is to be reserved than the {HEAP_RESERVATION} bytes there can be")
    reserve = builder.and_(builder.add(reserve, I64(GROWTH_GRANULE - 1)), I64(-GROWTH_GRANULE))
    largest = builder.sub(reserve, I64(BLOCK_ALIGN))
    maximum = or_default(option(VMHeapConfiguration.maximum), largest)
    fits = builder.icmp_unsigned("<=", maximum, largest)
    refuse_unless(fits, Status.BAD_ARGUMENT, f"the maximum is more than what is reserved, less {BLOCK_ALIGN} bytes")
    initial = or_default(option(VMHeapConfiguration.initial), minimum(I64(DEFAULT_INITIAL_HEAP_SIZE), maximum))
    fits = builder.icmp_unsigned("<=", initial, maximum)
    refuse_unless(fits, Status.BAD_ARGUMENT, "the initial size is more than the maximum")
    every = option(VMHeapConfiguration.collect_every)
    if not is_checked:
        none = builder.icmp_unsigned("==", every, I32(0))
        refuse_unless(none, Status.UNSUPPORTED, "collect_every is for the checked library")

    mapping_size = I64(_CONTROL_OFFSET + CONTROL_MAPPING_SIZE)
    mapping = map_memory(emitter, mapping_size, system)
    no_memory = "the system has no address space left, or its overcommit limit forbids the reservation"
    refuse_unless(builder.icmp_unsigned("!=", mapping, I64(0)), Status.SYSTEM, no_memory)
    memory_size = builder.add(reserve, I64(HEAP_GUARD))
    memory = map_memory(emitter, memory_size, system)
    is_mapped = builder.icmp_unsigned("!=", memory, I64(0))
    with builder.if_then(builder.not_(is_mapped), likely=False):
        unmap_memory(emitter, mapping, mapping_size)
    refuse_unless(is_mapped, Status.SYSTEM, no_memory)
    protect_memory(emitter, builder.add(memory, reserve), I64(HEAP_GUARD))
    is_large = builder.icmp_unsigned(">", reserve, I64(HUGE_PAGES_FROM))
    with builder.if_then(is_large):
        rest = builder.sub(reserve, I64(HUGE_PAGES_FROM))
        advise_huge_pages(emitter, builder.add(memory, I64(HUGE_PAGES_FROM)), rest, system)

    heap = builder.inttoptr(mapping, PTR)
    control_mapping = builder.add(mapping, I64(_CONTROL_OFFSET))
    control = builder.inttoptr(builder.add(control_mapping, I64(CONTROL_BLOCK_OFFSET)), PTR)
    store_context = emitter.at(heap, VMHeap.store_context.offset)
    for field, value in {
        VMHeap.heap_base: memory,
        VMHeap.control: builder.ptrtoint(control, I64),
        VMHeap.store: builder.ptrtoint(store_context, I64),
        VMHeap.abi: I64(abi_hash()),
        VMHeap.out_of_memory: option(VMHeapConfiguration.out_of_memory),
        VMHeap.out_of_memory_argument: option(VMHeapConfiguration.out_of_memory_argument),
        VMHeap.on_error: option(VMHeapConfiguration.on_error),
        VMHeap.on_error_argument: option(VMHeapConfiguration.on_error_argument),
        VMHeap.collect_every: every,
        VMHeap.mapping: mapping,
        VMHeap.mapping_size: mapping_size,
        VMHeap.memory: memory,
        VMHeap.memory_size: memory_size,
    }.items():
        emitter.store(value, heap, field)
    call_host = builder.ptrtoint(address_constant(module.globals[CALL_HOST]), I64)
    emitter.store(call_host, store_context, VMStoreContext.call_host)
    block = builder.ptrtoint(control, I64)
    inline_call(emitter, setup.set_up_tables, [block, control_mapping])
    inline_call(emitter, setup.set_up_memory, [block, memory, initial, maximum])
    inline_call(emitter, setup.set_up_bump, [block])
    emitter.store_typed(heap, result)
    builder.ret(I32(Status.OK))


def _define_constants(module: ir.Module, *, is_checked: bool) -> None:
    """The functions that tell what the library is."""
    values = {
        "lh_abi": I64(abi_hash()),
        "lh_version": string_constant(module, package_version()),
        "lh_is_checked": I32(int(is_checked)),
    }
    for name, value in values.items():
        emitter = UnboundEmitter(NativeFunction(module, function_type(FUNCTIONS[name]), name))
        emitter.builder.ret(value)


def _define_status_name(module: ir.Module) -> None:
    emitter = UnboundEmitter(NativeFunction(module, function_type(FUNCTIONS["lh_status_name"]), "lh_status_name"))
    builder = emitter.builder
    name: ir.Value = string_constant(module, "unknown status")
    for status in Status:
        is_it = builder.icmp_unsigned("==", emitter.function.args[0], I32(int(status)))
        name = builder.select(is_it, string_constant(module, f"LH_{status.name}"), name)
    builder.ret(name)
