"""What a throw has to know of the calls of linked code: where the handler is, and what the frame keeps.

An exception goes up the frames of an activation until it finds a call with a handler. At each call on the way it has to
know which of its caller's registers the function keeps in its frame, so that the handler finds its own as they were.
Both are in the object file, in tables that LLVM writes for functions that may throw (`call_frames.py`); nothing of it
is an instruction. Every call that may throw is a safepoint, so the stack map has their return addresses.

The tables are read when something is thrown first, and never for code that nothing is thrown in. `jit/unwinder.py` has
what goes by them, `VMUnwindEntry` what it is given.

Promises: of a call in a function that may throw there is an entry, and of others none, so that an exception that comes
to one is told, not passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowheap.errors import CompilerError
from lowheap.jit import large_frames
from lowheap.jit.call_frames import CallFrames
from lowheap.jit.stackmaps import Architecture, FunctionRecord, host_architecture
from lowheap.jit.statepoints import StatepointModule

_NO_STACK_SIZE = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class UnwindEntry:
    """A call that may throw: the address of its handler, or 0; what the stack pointer is there; what the frame keeps.

    `stack_offset` is in bytes from the frame pointer; so are the places of the registers, by their DWARF numbers.
    """

    landing_pad: int
    stack_offset: int
    registers: tuple[tuple[int, int], ...]


def read(
    object: bytes,
    module: StatepointModule,
    records: Sequence[FunctionRecord],
    addresses: Sequence[int],
    architecture: Architecture | None = None,
) -> dict[int, UnwindEntry]:
    """Return the calls of linked code that may throw, by return address.

    `addresses` are those of `module.functions` after linking, `records` the object file's stack map. Calls that nothing
    leads to are left out. CompilerError for tables that are not understood, and for a handler in a frame of no fixed
    size.
    """
    architecture = architecture or host_architecture()
    if not records:
        return {}
    frames = CallFrames(
        object,
        stack_pointer_register=architecture.stack_pointer_register,
        frame_pointer_register=architecture.frame_pointer_register,
    )
    address_of = dict(zip(module.functions, addresses, strict=True))
    found: dict[int, UnwindEntry] = {}
    shared: dict[UnwindEntry, UnwindEntry] = {}
    for number, function in enumerate(records):
        if not frames.has_rules(number):
            continue
        for record in function.records:
            if record.id >= large_frames.FIRST_MEASURE or not frames.is_reached(number, record.instruction_offset):
                continue
            start = address_of[module.statepoints[record.id].function]
            entry = _entry(frames, number, function, record.instruction_offset, start, architecture)
            found[start + record.instruction_offset] = shared.setdefault(entry, entry)
    return found


def _entry(
    frames: CallFrames, number: int, function: FunctionRecord, offset: int, start: int, architecture: Architecture
) -> UnwindEntry:
    if function.stack_size == _NO_STACK_SIZE:
        raise CompilerError(f"function {number} of the stack map may throw, and has a frame of no fixed size")
    handler = frames.handler(number, offset)
    kept = frames.kept_registers(number, offset)
    return UnwindEntry(
        start + handler if handler else 0,
        frames.initial_stack_pointer(number, offset) - function.stack_size,
        tuple((register, kept[register]) for register in architecture.kept_registers if register in kept),
    )
