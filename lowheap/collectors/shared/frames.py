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
    VMStackMapEntry,
    VMStackSlot,
)
from lowheap.native import (
    Heap,
    Ref,
    Slot,
    at,
    cell,
    ctz,
    i64,
    inline,
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
def safepoint_of(heap: Heap, return_address: u64) -> u64:
    """The address of a return address's entry in the hash table of safepoints; 0 when it has none."""
    context = heap.store_context
    mask = context.stack_map_mask
    entries = context.stack_map_entries
    number = wrapping_mul(return_address, STACK_MAP_HASH_MULTIPLIER) >> STACK_MAP_HASH_SHIFT & mask
    while True:
        entry = at(VMStackMapEntry, entries + number * sizeof(VMStackMapEntry))
        found = entry.return_address
        if found == return_address:
            break
        if unlikely(found == 0):
            return 0
        number = (number + 1) & mask
    return entries + number * sizeof(VMStackMapEntry)


@inline
def held_by_code(heap: Heap, rules: FrameRules) -> Iterator[Ref]:
    """Yield what the frames of compiled code hold, those of each activation, the innermost first.

    It ends early at a return address that is not in the table, and leaves that in the store context.
    """
    context = heap.store_context
    activation = context.activation
    while activation != 0:
        record = at(VMActivation, activation)
        outermost = record.entry_frame_pointer
        frame = record.exit_frame_pointer
        while True:
            caller = cell(u64, frame + rules.caller_frame_pointer_offset).value
            if caller == outermost:
                break
            return_address = cell(u64, frame + rules.return_address_offset).value
            found = safepoint_of(heap, return_address)
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
            frame = caller
        activation = record.previous


@inline
def host_slots(heap: Heap) -> Iterator[Slot]:
    """Yield the slots of the frames that hosts have pushed, those of the innermost first."""
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
