"""Entering compiled code and leaving it: trampolines, stubs for the runtime's calls and for host functions, and traps.

**In.** The host calls a trampoline, one for each signature, with a vmctx, the function's address, and a buffer of
8-byte slots for the arguments, where the results come afterwards; a v128 takes two. It puts an activation on its frame
and on the store's chain, saves its registers in it (`_setjmp`), and calls. What it returns is 0 when there is nothing
to see to; else the bits below say what there is. When the heap is not as compiled code needs it, it calls nothing
(`REFUSED`), nor when the store's epoch deadline has passed (`PAST_DEADLINE`).

References among the arguments are borrowed: the trampoline lends them to compiled code. For each counted reference
among the results, a slot behind the values' has the address of a `VMHandle`, which it makes one of the object: so
nothing can come between the end of the call and that.

**Out.** Compiled code calls the runtime, or the host, through a stub with a frame of its own: the stub notes its frame
pointer in the activation, so that a frame walk can start there, and calls a C function whose address is in the store
context. When that reports a failure, the stub leaves the activation by `_longjmp`. So a jump passes over compiled
frames only: Python's are below the stub that jumps, or above the trampoline that it jumps to.

**By need**: a function that is not compiled yet is stood in for (`by_need.py`) by what calls the host for it, likewise
at no safepoint, and goes on there.

**Polls**: interruptible code compares its frame with a limit that another thread may raise (`poll_limit`), and calls
the runtime when it is below. Python runs signal handlers there. Such a call is no safepoint: no frame is noted, and
nobody may collect. It is a way out like the others, so that what a handler raises is raised behind the trampoline.

**Exceptions** are left in the store context, and the unwinder is called to find who catches them (`unwinder.py`): from
compiled code, or from a host function's stub when the host says that its function has thrown. It goes on in the
handler's function, in the same activation; or, if that has none, jumps to the trampoline, where the exception is found
in the store context. Calls of the unwinder are safepoints, for it finds its way by where they return to.

**Traps** store their code and place in the store context, and the return addresses of the frames that the jump passes
over, and jump likewise.

Parameters and results: `conventions.py`.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Collection, Sequence

from llvmlite import ir

from lowheap.collectors.interface import DROP_FUNCTION
from lowheap.errors import TrapCode
from lowheap.jit import safepoints
from lowheap.jit.conventions import LLVM_OF_LETTER, SHARED
from lowheap.jit.emit import (
    I1,
    I32,
    I64,
    NO_MERGE,
    PTR,
    REFERENCE,
    VOID,
    Emitter,
    NativeFunction,
    begin_internal,
    let_throw,
)
from lowheap.jit.signatures import (
    COUNTED,
    HAS_DEAD_EXTERNREFS,
    LONGJMP,
    PAST_DEADLINE,
    REFUSED,
    SETJMP,
    THROWN,
    TRAP_FUNCTION,
    TRAPPED,
    Signature,
)
from lowheap.jit.stackmaps import host_architecture
from lowheap.layout import (
    ACTIVATION_ALIGN,
    ARGUMENTS_OFFSET,
    CONTROL_ATTACHED,
    FUNCTION_TABLE_OFFSET,
    MOST_FUEL,
    NULL,
    TRAP_ADDRESS_LIMIT,
    VALUE_SLOT_SIZE,
    CollectionPhase,
    Field,
    VMActivation,
    VMContext,
    VMHeapControl,
    VMHostFunction,
    VMStoreContext,
)

ALLOCATE_STRUCT_FUNCTION = "lowheap.allocate_struct"
"""i32(vmctx, offset, type index): a new struct with one count, that is not listed. When there is no room, it does not
return; `offset` is for the trap."""

ALLOCATE_ARRAY_FUNCTION = "lowheap.allocate_array"
"""i32(vmctx, offset, type index, length): a new array, likewise."""

POLL_FUNCTION = "lowheap.interrupt"
"""void(vmctx, offset, frame): compiled code is below the poll limit. Below the stack limit it traps; else the host is
called, and where that fails, this does not return."""

FUEL_FUNCTION = "lowheap.refuel"
"""void(vmctx, offset): compiled code has no fuel left. It gets what is in reserve; where nothing is, this traps."""

OPTIMISE_FUNCTION = "lowheap.optimise"
"""void(vmctx, number): one of the module's own functions has run often. Where the host fails, this does not return."""

POLL_CONVENTION = "preserve_mostcc"
"""How these three are called: they leave nearly all registers as they are, so that a loop need not keep its values
elsewhere."""


def define(
    module: ir.Module, hand_over: Callable[[Emitter, ir.Value], None], known: Collection[str] = ()
) -> list[ir.Function]:
    """Give a module what is declared of the functions to trap, drop, poll, refuel and allocate: its code calls them.

    So it comes last: what is not needed costs nothing. `hand_over` emits what the collector does to a new object before
    compiled code has it. Those that are `known`, by their names, other modules have. Returns those that this has now.
    """
    emits: dict[str, Callable[[ir.Function], None]] = {
        name: functools.partial(_emit_allocation, call, hand_over) for name, call in _ALLOCATIONS.items()
    }
    defined = []
    # Those that come later may be called by those before.
    for name, emit in {**emits, **_OTHERS}.items():
        if name in module.globals and name not in known:
            emit(module.globals[name])
            defined.append(module.globals[name])
    return defined


def _emit_trap(function: ir.Function) -> None:
    """It is not internal: or LLVM may leave out a parameter that is the same in all calls (`large_frames.py`).

    And where it is, once linked, tells where the section is that LLVM puts functions in that always trap.

    Nothing is being thrown. If a signal's handler has ended the host's look into an earlier call, what that one threw
    is still noted.
    """
    emitter = begin_internal(function, "noinline", "cold", "noreturn", NO_MERGE)
    function.linkage = ""
    vmctx, code, offset = emitter.function.args
    emitter.store(code, emitter.store_context, VMStoreContext.trap_code)
    emitter.store(offset, emitter.store_context, VMStoreContext.trap_offset)
    emitter.store(vmctx, emitter.store_context, VMStoreContext.trap_vmctx)
    emitter.store(NULL, emitter.store_context, VMStoreContext.exception)
    _note_frames(emitter)
    _leave(emitter)


def _emit_drop(function: ir.Function) -> None:
    """No frame is noted: a drop does not collect, so nobody walks the stack during one.

    Nor may anybody else: where the drop is Python's, Python's garbage collector may run a finalizer in the middle of
    it, and that may ask for a collection, or call compiled code that does. It is in a no-GC scope.
    """
    emitter = begin_internal(function, "noinline", "cold")
    pointer = emitter.load_pointer(emitter.store_context, VMStoreContext.drop, invariant=True)
    _add_to_no_gc_count(emitter, 1)
    emitter.call_pointer(pointer, VOID, [PTR, REFERENCE], emitter.function.args)
    _add_to_no_gc_count(emitter, -1)
    emitter.builder.ret_void()


def _add_to_no_gc_count(emitter: Emitter, difference: int) -> None:
    _add(emitter, emitter.control, VMHeapControl.no_gc_count, difference)


def _add(emitter: Emitter, base: ir.Value, field: Field, difference: int) -> None:
    count = emitter.load(base, field)
    emitter.store(emitter.builder.add(count, count.type(difference)), base, field)


def _emit_poll(function: ir.Function) -> None:
    """The request is met before the host is called: one that comes meanwhile is for the next time."""
    emitter = begin_internal(function, "noinline", "cold")
    function.calling_convention = POLL_CONVENTION
    vmctx, emitter.offset, frame = function.args
    store = emitter.store_context
    limit = emitter.load(store, VMStoreContext.stack_limit)
    is_beyond = emitter.builder.icmp_unsigned("<", emitter.builder.ptrtoint(frame, I64), limit)
    emitter.trap_if(is_beyond, TrapCode.STACK_OVERFLOW)
    emitter.store(limit, store, VMStoreContext.poll_limit)
    status = _call_apart(emitter, VMStoreContext.poll, I32, [vmctx])
    emitter.trap_if(emitter.builder.icmp_unsigned("==", status, I32(PAST_DEADLINE)), TrapCode.INTERRUPT)
    with emitter.builder.if_then(emitter.builder.icmp_unsigned("!=", status, I32(0)), likely=False):
        _leave(emitter)
    emitter.builder.ret_void()


def _call_apart(emitter: Emitter, call: Field, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call the host in between, at no safepoint: nobody may ask for the frames meanwhile."""
    store = emitter.store_context
    activation = emitter.load_pointer(store, VMStoreContext.activation)
    emitter.store(PTR(None), activation, VMActivation.exit_frame_pointer)  # where code left before tells nothing now
    pointer = emitter.load_pointer(store, call, invariant=True)
    _add_to_no_gc_count(emitter, 1)
    _add(emitter, store, VMStoreContext.interrupted, 1)
    returned = emitter.call_pointer(pointer, result, [each.type for each in args], args)
    _add(emitter, store, VMStoreContext.interrupted, -1)
    _add_to_no_gc_count(emitter, -1)
    return returned


def _emit_optimise(function: ir.Function) -> None:
    emitter = begin_internal(function, "noinline", "cold")
    function.calling_convention = POLL_CONVENTION
    status = _call_apart(emitter, VMStoreContext.optimise_function, I32, function.args)
    with emitter.builder.if_then(emitter.builder.icmp_unsigned("!=", status, I32(0)), likely=False):
        _leave(emitter)
    emitter.builder.ret_void()


def emit_compile_by_need(function: ir.Function) -> None:
    """Emit how code asks for a function that is not compiled yet, u64(vmctx, number): it returns the address."""
    emitter = Emitter(function)
    # The callee's arguments that are in memory: a signal's handler may call code that passes others.
    size = FUNCTION_TABLE_OFFSET - ARGUMENTS_OFFSET
    arguments, kept = emitter.at(emitter.store_context, ARGUMENTS_OFFSET), emitter.stack_buffer(size, VALUE_SLOT_SIZE)
    move = emitter.intrinsic("llvm.memmove.p0.p0.i64", VOID, [PTR, PTR, I64, I1])
    emitter.builder.call(move, [kept, arguments, I64(size), I1(0)])
    address = _call_apart(emitter, VMStoreContext.compile_function, I64, function.args)
    emitter.builder.call(move, [arguments, kept, I64(size), I1(0)])
    with emitter.builder.if_then(emitter.builder.icmp_unsigned("==", address, I64(0)), likely=False):
        _leave(emitter)
    emitter.builder.ret(address)


def _emit_refuel(function: ir.Function) -> None:
    emitter = begin_internal(function, "noinline", "cold")
    function.calling_convention = POLL_CONVENTION
    _, emitter.offset = function.args
    builder, store = emitter.builder, emitter.store_context
    reserve = emitter.load(store, VMStoreContext.fuel_reserve)
    emitter.trap_if(builder.icmp_unsigned("==", reserve, I64(0)), TrapCode.OUT_OF_FUEL)
    is_less = builder.icmp_unsigned("<", reserve, I64(MOST_FUEL))
    some = builder.select(is_less, reserve, I64(MOST_FUEL))
    emitter.store(builder.sub(reserve, some), store, VMStoreContext.fuel_reserve)
    fuel = builder.add(emitter.load(store, VMStoreContext.fuel), some)
    emitter.store(fuel, store, VMStoreContext.fuel)
    builder.ret_void()


_OTHERS: dict[str, Callable[[ir.Function], None]] = {
    POLL_FUNCTION: _emit_poll,
    OPTIMISE_FUNCTION: _emit_optimise,
    FUEL_FUNCTION: _emit_refuel,
    DROP_FUNCTION: _emit_drop,
    TRAP_FUNCTION: _emit_trap,
}


def _emit_allocation(call: Field, hand_over: Callable[[Emitter, ir.Value], None], function: ir.Function) -> None:
    emitter = begin_internal(function, "noinline")
    _note_exit(emitter)
    vmctx, offset, *args = function.args
    pointer = emitter.load_pointer(emitter.store_context, call, invariant=True)
    reference = emitter.call_pointer(pointer, REFERENCE, [PTR, *(arg.type for arg in args)], [vmctx, *args])
    with emitter.builder.if_then(emitter.is_null(reference), likely=False):
        emitter.store(offset, emitter.store_context, VMStoreContext.trap_offset)
        emitter.store(vmctx, emitter.store_context, VMStoreContext.trap_vmctx)
        _note_frames(emitter)
        _leave(emitter)
    hand_over(emitter, reference)
    emitter.builder.ret(reference)


_ALLOCATIONS: dict[str, Field] = {
    ALLOCATE_STRUCT_FUNCTION: VMStoreContext.allocate_struct,
    ALLOCATE_ARRAY_FUNCTION: VMStoreContext.allocate_array,
}


def define_entry(module: ir.Module, signature: Signature) -> None:
    """Give a module the trampoline of a signature, once."""
    if signature.entry in module.globals:
        return
    function = NativeFunction(module, ir.FunctionType(I32, [PTR, PTR, PTR]), signature.entry, "noinline")
    emitter = Emitter(function)
    builder, store = emitter.builder, emitter.store_context
    vmctx, code, slots = function.args
    with builder.if_then(builder.not_(_is_ready(emitter)), likely=False):
        builder.ret(I32(REFUSED))
    is_past_deadline = builder.icmp_unsigned("!=", emitter.load(store, VMStoreContext.is_past_deadline), I32(0))
    with builder.if_then(is_past_deadline, likely=False):
        builder.ret(I32(PAST_DEADLINE))

    args = _load_slots(emitter, slots, signature.params, signature.param_slots)
    for letter, arg in zip(signature.params, args, strict=True):
        if letter == COUNTED:
            _lend(emitter, arg)
    activation = emitter.stack_buffer(ctypes.sizeof(VMActivation), ACTIVATION_ALIGN)
    frame = emitter.frame_address()
    previous = emitter.load_pointer(store, VMStoreContext.activation)
    emitter.store(previous, activation, VMActivation.previous)
    emitter.store(frame, activation, VMActivation.entry_frame_pointer)
    emitter.store(PTR(None), activation, VMActivation.exit_frame_pointer)
    with builder.if_then(builder.icmp_unsigned("==", builder.ptrtoint(previous, I64), I64(0))):
        _set_stack_limit(emitter, frame)
    emitter.store(activation, store, VMStoreContext.activation)

    setjmp = emitter.declare(SETJMP, I32, [PTR])
    setjmp.attributes.add("returns_twice")
    buffer = emitter.at(activation, VMActivation.jump_buffer.offset)
    trapped = builder.icmp_unsigned("!=", builder.call(setjmp, [buffer]), I32(0))
    with builder.if_else(trapped, likely=False) as (after_jump, at_first):
        with after_jump:
            pass
        with at_first:
            type = SHARED.function_type(signature)
            several = len(signature.results) > 1
            callee = emitter.function_pointer(code, type.return_type, type.args)
            values = [*args, *([slots] if several else [])]
            result = builder.call(callee, SHARED.arguments(emitter, signature, vmctx, values))
            if signature.results and not several:
                emitter.store_slot(result, slots, 0)
            if signature.counted_results:
                share = emitter.load_pointer(store, VMStoreContext.share, invariant=True)
            for place, number in enumerate(signature.counted_results, signature.slot_count):
                reference = emitter.load_slot(slots, signature.result_slots[number], REFERENCE)
                handle = emitter.load_slot(slots, place, PTR)
                emitter.call_pointer(share, VOID, [PTR, REFERENCE, PTR], [vmctx, reference, handle])
    emitter.store(previous, store, VMStoreContext.activation)
    dead = builder.icmp_unsigned("!=", emitter.load(emitter.control, VMHeapControl.dead_externrefs), REFERENCE(NULL))
    status = [builder.select(trapped, I32(TRAPPED), I32(0)), builder.select(dead, I32(HAS_DEAD_EXTERNREFS), I32(0))]
    builder.ret(builder.or_(*status))


def _load_slots(emitter: Emitter, slots: ir.Value, letters: str, numbers: Sequence[int]) -> list[ir.Value]:
    return [
        emitter.load_slot(slots, number, LLVM_OF_LETTER[letter])
        for letter, number in zip(letters, numbers, strict=True)
    ]


def _lend(emitter: Emitter, reference: ir.Value) -> None:
    """Let compiled code have a reference that the host holds."""
    pointer = emitter.load_pointer(emitter.store_context, VMStoreContext.lend, invariant=True)
    emitter.call_pointer(pointer, VOID, [PTR, REFERENCE], [emitter.vmctx, reference])


def _is_ready(emitter: Emitter) -> ir.Value:
    """Whether the heap has its memory, where this vmctx says, and no collection is running."""
    builder, control = emitter.builder, emitter.control
    flags = emitter.load(control, VMHeapControl.flags)
    phase = emitter.load(control, VMHeapControl.phase)
    base = emitter.load(control, VMHeapControl.heap_base)
    expected = emitter.load(emitter.vmctx, VMContext.heap_base, invariant=True)
    is_attached = builder.icmp_unsigned("!=", builder.and_(flags, I32(CONTROL_ATTACHED)), I32(0))
    is_idle = builder.icmp_unsigned("==", phase, I32(CollectionPhase.IDLE))
    is_in_place = builder.icmp_unsigned("==", base, expected)
    return builder.and_(builder.and_(is_attached, is_idle), is_in_place)


def _set_stack_limit(emitter: Emitter, frame: ir.Value) -> None:
    """At the outermost entry: the limit is `stack_size` below this frame, but not below the floor."""
    builder, store = emitter.builder, emitter.store_context
    subtract = emitter.intrinsic("llvm.usub.sat.i64", I64, [I64, I64])
    maximum = emitter.intrinsic("llvm.umax.i64", I64, [I64, I64])
    lowest = builder.call(subtract, [builder.ptrtoint(frame, I64), emitter.load(store, VMStoreContext.stack_size)])
    limit = builder.call(maximum, [lowest, emitter.load(store, VMStoreContext.stack_floor)])
    emitter.store(limit, store, VMStoreContext.stack_limit)
    emitter.store(limit, store, VMStoreContext.poll_limit)


def define_host_stub(module: ir.Module, signature: Signature) -> None:
    """Give a module the stub through which compiled code calls host functions of a signature, once.

    The stub's vmctx is a `VMHostFunction`. It passes the arguments in a buffer of 8-byte slots, from which it takes the
    results afterwards. References among those are borrowed, as the trampoline's arguments are.
    """
    if signature.host_stub in module.globals:
        return
    function = NativeFunction(module, SHARED.function_type(signature), signature.host_stub, "noinline")
    let_throw(function)
    emitter = Emitter(function)
    builder = emitter.builder
    params = SHARED.parameters(emitter, signature)
    buffer = params.pop() if len(signature.results) > 1 else None
    values = emitter.stack_buffer(signature.slot_count * VALUE_SLOT_SIZE, VALUE_SLOT_SIZE)
    for slot, param in zip(signature.param_slots, params, strict=True):
        emitter.store_slot(param, values, slot)
    _note_exit(emitter)
    pointer = emitter.load_pointer(emitter.store_context, VMStoreContext.call_host, invariant=True)
    number = emitter.load(emitter.vmctx, VMHostFunction.function, invariant=True)
    status = emitter.call_pointer(pointer, I32, [PTR, I32, PTR], [emitter.vmctx, number, values])
    with builder.if_then(builder.icmp_unsigned("!=", status, I32(0)), likely=False):
        with builder.if_then(builder.icmp_unsigned("==", status, I32(THROWN))):
            throw(emitter)
        _leave(emitter)
    results = _load_slots(emitter, values, signature.results, signature.result_slots)
    for letter, result in zip(signature.results, results, strict=True):
        if letter == COUNTED:
            _lend(emitter, result)
    if buffer is not None:
        for slot, result in zip(signature.result_slots, results, strict=True):
            emitter.store_slot(result, buffer, slot)
        builder.ret_void()
    elif results:
        builder.ret(results[0])
    else:
        builder.ret_void()


def throw(emitter: Emitter, unwind_to: ir.Block | None = None, *, places: tuple[int, ...] = ()) -> None:
    """Throw what is in the store context, to a handler of this function's or a caller's; ends the block.

    `places` are those of the instruction that it is for, as a `SafepointCall` has them.
    """
    builder = emitter.builder
    address = emitter.load_pointer(emitter.store_context, VMStoreContext.throw_exception, invariant=True)
    callee = emitter.function_pointer(address, VOID, [PTR])
    if unwind_to is None:
        safepoints.call(builder, callee, [emitter.vmctx], places=places)
    else:
        safepoints.invoke(builder, callee, [emitter.vmctx], unwind_to, places=places)
    builder.unreachable()


def emit_search(emitter: Emitter, search: ir.Function) -> None:
    """Emit the unwinder's way to a handler: `search` looks for one; if there is none, code leaves its activation.

    The host makes the tables in a no-GC scope: nobody may look at the frames meanwhile.
    """
    builder, store = emitter.builder, emitter.store_context
    vmctx, record = emitter.function.args
    entries = emitter.load_pointer(store, VMStoreContext.unwind_entries)
    with builder.if_then(builder.icmp_unsigned("==", entries, PTR(None)), likely=False):
        pointer = emitter.load_pointer(store, VMStoreContext.prepare_unwinding)
        _add_to_no_gc_count(emitter, 1)
        status = emitter.call_pointer(pointer, I32, [PTR], [vmctx])
        _add_to_no_gc_count(emitter, -1)
        with builder.if_then(builder.icmp_unsigned("!=", status, I32(0)), likely=False):
            _leave(emitter)
    stack_pointer = builder.call(search, [vmctx, record])
    with builder.if_then(builder.icmp_unsigned("==", stack_pointer, I64(0)), likely=False):
        _leave(emitter)
    builder.ret(stack_pointer)


def _note_exit(emitter: Emitter) -> None:
    """Note in the activation that code leaves through this frame."""
    activation = emitter.load_pointer(emitter.store_context, VMStoreContext.activation)
    emitter.store(emitter.frame_address(), activation, VMActivation.exit_frame_pointer)


def _note_frames(emitter: Emitter) -> None:
    """Leave the return addresses of the frames of this activation, as many as there is room for, for who asks later."""
    builder, store = emitter.builder, emitter.store_context
    architecture = host_architecture()
    activation = emitter.load_pointer(store, VMStoreContext.activation)
    entry = emitter.load(activation, VMActivation.entry_frame_pointer)
    addresses = emitter.at(store, VMStoreContext.trap_frames.offset)
    before = builder.block
    loop, note, done = (emitter.function.append_basic_block(each) for each in ("frames", "frame", "noted"))
    innermost = builder.ptrtoint(emitter.frame_address(), I64)
    builder.branch(loop)

    builder.position_at_end(loop)
    frame, count = builder.phi(I64), builder.phi(I64)
    record = builder.inttoptr(frame, PTR)
    caller = emitter.load_typed(emitter.at(record, architecture.caller_frame_pointer_offset), I64)
    is_last = builder.icmp_unsigned("==", caller, entry)
    is_full = builder.icmp_unsigned("==", count, I64(TRAP_ADDRESS_LIMIT))
    builder.cbranch(builder.or_(is_last, is_full), done, note)

    builder.position_at_end(note)
    address = emitter.load_typed(emitter.at(record, architecture.return_address_offset), I64)
    place = builder.gep(addresses, [count], source_etype=I64)
    emitter.store_typed(address, place)
    following = builder.add(count, I64(1))
    builder.branch(loop)
    for phi, first, next in ((frame, innermost, caller), (count, I64(0), following)):
        phi.add_incoming(first, before)
        phi.add_incoming(next, note)

    builder.position_at_end(done)
    emitter.store(builder.trunc(count, I32), store, VMStoreContext.trap_frame_count)


def _leave(emitter: Emitter) -> None:
    """Jump to the trampoline of the innermost activation; ends the block."""
    activation = emitter.load_pointer(emitter.store_context, VMStoreContext.activation)
    longjmp = emitter.declare(LONGJMP, VOID, [PTR, I32])
    longjmp.attributes.add("noreturn")
    emitter.builder.call(longjmp, [emitter.at(activation, VMActivation.jump_buffer.offset), I32(1)])
    emitter.builder.unreachable()
