"""The collector as machine code: what compiled modules call to allocate and to drop, and a store to collect.

They are written once, in `collectors/`. Compiled once in a process, and reached from compiled modules through the store
context, they are C functions:

    void     lh_drop(vmctx, reference)                      take the last count of an object, and free what dies of it
    uint32_t lh_allocate_struct(vmctx, type index)          a new object with one count; 0 with a trap code set: no room
    uint32_t lh_allocate_array(vmctx, type index, length)   likewise
    bool     lh_collect_all(vmctx)                          trace, sweep and free all; false: a frame is wrong
    void     lh_free_dead_from(vmctx, reference)            free a chain of dead objects, and what dies of it

and those that a collection with a budget is made of:

    bool     lh_trace(vmctx)                                mark what compiled code holds; false: a frame is wrong
    void     lh_sweep_pending(vmctx)                        sweep; what dies goes on the list of pending dead objects
    bool     lh_free_pending(vmctx, uint64_t budget)        free so many of these; whether some are left

Compiled modules emit the fast path of allocation inline (`emit_pop`), for structs and arrays whose blocks are small,
and come here when a size class is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llvmlite import ir

from lowheap.collectors.drc import allocation, collection, counting
from lowheap.collectors.shared.frames import FrameRules
from lowheap.jit import cache
from lowheap.jit.emit import I32, I64, REFERENCE, Emitter
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.stackmaps import Architecture, host_architecture
from lowheap.jit.translate import SIZE_CLASS_NAME, declare
from lowheap.layout import BLOCK_ALIGN, REFERENCE_SIZE, VMHeapControl
from lowheap.native import Native

ALLOCATE_STRUCT = "lh_allocate_struct"
ALLOCATE_ARRAY = "lh_allocate_array"
DROP = "lh_drop"
COLLECT = "lh_collect_all"
FREE_DEAD_FROM = "lh_free_dead_from"
TRACE = "lh_trace"
SWEEP_PENDING = "lh_sweep_pending"
FREE_PENDING = "lh_free_pending"

FUNCTIONS: dict[str, Native[..., Any]] = {
    ALLOCATE_STRUCT: allocation.allocate_struct,
    ALLOCATE_ARRAY: allocation.allocate_array,
    DROP: counting.drop_last,
    COLLECT: collection.collect_all,
    FREE_DEAD_FROM: counting.free_dead_from,
    TRACE: collection.trace,
    SWEEP_PENDING: collection.sweep_pending,
    FREE_PENDING: counting.free_pending,
}
"""The functions by their symbols."""

SYMBOLS = tuple(FUNCTIONS)

_loaded: dict[bool, LoadedCode] = {}


class CheckedEmitter(Emitter):
    """Emits functions of a checked heap, which fill the blocks that they free with what leads nowhere."""

    is_checked = True


def load(cache_directory: Path | None = None, *, checked: bool = False) -> LoadedCode:
    """Return the runtime, compiled at the first use in this process, or taken from the cache that is named then.

    `checked`: that of a checked heap.
    """
    if checked not in _loaded:
        emitter = CheckedEmitter if checked else Emitter
        parts: dict[str, str | int | bool] = {"runtime": "native", "checked": checked}
        _loaded[checked] = LoadedCode(cache.compiled(cache_directory, parts, lambda: _compile(emitter)))
    return _loaded[checked]


def _compile(emitter: Callable[[ir.Function], Emitter]) -> CompiledCode:
    module = ir.Module("lowheap.runtime")
    define_all(module, emitter, frame_rules(host_architecture()))
    return compile_ir(module, SYMBOLS)


def frame_rules(architecture: Architecture | None, *, checks_hosts: bool = False) -> FrameRules:
    """Return how frames are walked; None stands for where there can be none of compiled code."""
    if architecture is None:
        return FrameRules(False, checks_hosts)
    return FrameRules(
        True,
        checks_hosts,
        architecture.caller_frame_pointer_offset,
        architecture.return_address_offset,
        architecture.caller_stack_pointer_offset or 0,  # None: no slot is relative to the stack pointer
    )


def define_all(module: ir.Module, emitter: Callable[[ir.Function], Emitter], rules: FrameRules) -> None:
    """Give a module the whole runtime."""
    for symbol, function in FUNCTIONS.items():
        declare(module, function, emitter, name=symbol, statics=statics_of(function, rules))


def statics_of(function: Native[..., Any], rules: FrameRules) -> dict[str, Any]:
    """Return what a function's static parameters are compiled for."""
    return {each.name: rules for each in function.checked.parameters if each.name == "rules"}


def emit_pop(emitter: Emitter, length: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Emit a look at the list of blocks of exactly `length` bytes, an i32 and of a small class.

    Returns its head, and the address of where the list keeps it: the caller checks the head for null, and if it is not,
    stores the block's `next` there.
    """
    builder = emitter.builder
    number = builder.zext(builder.udiv(length, I32(BLOCK_ALIGN)), I64)
    heads = emitter.at(emitter.control, VMHeapControl.size_class_heads.offset)
    place = emitter.named(emitter.at(heads, builder.mul(number, I64(REFERENCE_SIZE))), SIZE_CLASS_NAME)
    return emitter.load_typed(place, REFERENCE), place
