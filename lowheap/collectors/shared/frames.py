"""What compiled code and hosts hold without counting it: frames of the native stack, and `VMRootFrame`s.

A frame of compiled code is found by its return address in a hash table that the store context points to; how frames
are linked is the architecture's, a `FrameRules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lowheap.layout import (
    REFERENCE_SIZE,
    STACK_MAP_HASH_MULTIPLIER,
    STACK_MAP_HASH_SHIFT,
    VMActivation,
    VMRootFrame,
    VMSavedRegister,
    VMStackMapEntry,
    VMStackSlot,
    VMStoreContext,
    VMUnwindEntry,
)
from lowheap.native import (
    Heap,
    Ref,
    Slot,
    address_of,
    at,
    cell,
    ctz,
    i64,
    inline,
    native,
    sizeof,
    u32,
    u64,
    unlikely,
    wrapping_add,
    wrapping_mul,
    wrapping_u64,
)


@dataclass(frozen=True)
class FrameRules:
    """What is known of frames when the collector is compiled.

    `has_code`: there may be frames of compiled code. How they are linked is the architecture's, in bytes from a
    callee's frame pointer; see `stackmaps.Architecture`. `checks_hosts`: what hosts hold is looked at first, and
    nothing is marked if one of their frames is wrong.
    """

    is_native_static = True

    has_code: bool
    checks_hosts: bool = False
    caller_frame_pointer_offset: u64 = 0
    return_address_offset: u64 = 0
    caller_stack_pointer_offset: u64 = 0

    @property
    def key(self) -> str:
        """What tells code for these rules from that for others."""
        links = (self.caller_frame_pointer_offset, self.return_address_offset, self.caller_stack_pointer_offset)
        return f"frames-{int(self.has_code)}{int(self.checks_hosts)}-{'-'.join(map(str, links))}"


@inline
def frames(innermost: u64, outermost: u64, rules: FrameRules) -> Iterator[u64]:
    """Yield the frame records of those called, from `innermost` on: each tells its caller's frame, and return address.

    It ends at what was called by the frame `outermost`.
    """
    frame = innermost
    while True:
        caller = cell(u64, frame + rules.caller_frame_pointer_offset).value
        if caller == outermost:
            break
        yield frame
        frame = caller


@inline
def entry_of(entries: u64, mask: u64, size: u64, return_address: u64) -> u64:
    """The address of a return address's entry in a hash table; 0 when it has none.

    The table has `mask` + 1 entries of so many bytes, which begin with a return address: 0 in those that are empty.
    """
    number = wrapping_mul(return_address, STACK_MAP_HASH_MULTIPLIER) >> STACK_MAP_HASH_SHIFT & mask
    while True:
        found = cell(u64, entries + number * size).value
        if found == return_address:
            break
        if unlikely(found == 0):
            return 0
        number = (number + 1) & mask
    return entries + number * size


@inline
def held_by_code(heap: Heap, rules: FrameRules) -> Iterator[Ref]:
    """Yield what the frames of compiled code hold, those of each activation, the innermost first.

    It ends early at a return address that is not in the table, and leaves that in the store context.
    """
    context = heap.store_context
    activation = context.activation
    while activation != 0:
        record = at(VMActivation, activation)
        for frame in frames(record.exit_frame_pointer, record.entry_frame_pointer, rules):
            caller = cell(u64, frame + rules.caller_frame_pointer_offset).value
            return_address = cell(u64, frame + rules.return_address_offset).value
            found = entry_of(context.stack_map_entries, context.stack_map_mask, sizeof(VMStackMapEntry), return_address)
            if unlikely(found == 0):
                context.unknown_return_address = return_address
                return
            safepoint = at(VMStackMapEntry, found)
            stack_pointer = frame + rules.caller_stack_pointer_offset
            first = safepoint.first_slot
            for number in range(safepoint.slot_count):
                slot = at(VMStackSlot, context.stack_map_slots + u64(first + number) * sizeof(VMStackSlot))
                base = caller if slot.is_frame_relative != 0 else stack_pointer
                places = wrapping_add(base, wrapping_u64(i64(slot.offset)))
                live = slot.mask
                while live != 0:
                    yield cell(u32, places + u64(ctz(live)) * REFERENCE_SIZE).value
                    live &= live - 1
        activation = record.previous


@native
def unwind(heap: Heap, rules: FrameRules, thrower: u64) -> u64:
    """Find the handler of what is thrown, and return what the stack pointer is there; 0 when there is none.

    `thrower` is the frame record of what throws, which gets the handler's frame pointer, and its address as what to
    return to; beside it are the registers that whoever is called keeps, which get what they were in the handler's
    function. None of this activation's frames has a handler: nothing is returned, and nothing of use is in the record.
    A return address that is not in the table ends the search, too, and is left in the store context.
    """
    context = heap.store_context
    outermost = at(VMActivation, context.activation).entry_frame_pointer
    for frame in frames(thrower, outermost, rules):
        caller = cell(u64, frame + rules.caller_frame_pointer_offset).value
        return_address = cell(u64, frame + rules.return_address_offset).value
        found = entry_of(context.unwind_entries, context.unwind_mask, sizeof(VMUnwindEntry), return_address)
        if unlikely(found == 0):
            context.unknown_return_address = return_address
            return 0
        entry = at(VMUnwindEntry, found)
        if entry.landing_pad != 0:
            cell(u64, thrower + rules.caller_frame_pointer_offset).value = caller
            cell(u64, thrower + rules.return_address_offset).value = entry.landing_pad
            return wrapping_add(caller, wrapping_u64(i64(entry.stack_offset)))
        first = entry.first_register
        for number in range(entry.register_count):
            saved = at(VMSavedRegister, context.saved_registers + u64(first + number) * sizeof(VMSavedRegister))
            place = wrapping_add(thrower, wrapping_u64(i64(saved.place)))
            cell(u64, place).value = cell(u64, wrapping_add(caller, wrapping_u64(i64(saved.offset)))).value
    return 0


@inline
def host_slots(heap: Heap) -> Iterator[Slot]:
    """Yield the slots of the frames that hosts have pushed, those of the innermost first; and what is being thrown."""
    thrown: Slot = cell(u32, address_of(heap.store_context) + VMStoreContext.exception.offset)
    yield thrown
    address = heap.store_context.root_frames
    while address != 0:
        frame = at(VMRootFrame, address)
        slots = frame.slots
        for number in range(frame.slot_count):
            yield cell(u32, slots + u64(number) * REFERENCE_SIZE)
        address = frame.previous


@inline
def held_by_hosts(heap: Heap) -> Iterator[Ref]:
    """Yield what the frames that hosts have pushed hold."""
    for slot in host_slots(heap):
        yield slot.value
