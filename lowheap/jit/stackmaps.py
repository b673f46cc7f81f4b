"""Stack maps: where the live references of every suspended compiled function are, found from LLVM's own tables.

The object file that LLVM emits for a module with statepoints (see `lowheap.jit.safepoints`) holds a stack map: for each
call that may collect, where the function's root frame is, with a mask of the slots in it that hold references live
after the call. `parse` reads that section, `StackMap` turns its records into return addresses of the linked code, and
`StackMapRegistry` merges the maps of all loaded modules. `walk_frames` follows the chain of frame pointers from the
exit into the runtime to the entry trampoline, and `stack_slots` puts both together: the addresses of all u32 slots that
hold live references.

What the tables say is relative to the stack pointer as often as to the frame pointer. How the walk knows a frame's
stack pointer is the architecture's (`Architecture`), or else it does not, and `read` makes everything relative to the
frame pointer (`lowheap.jit.call_frames`).

Promises: every location is either understood or refused with `CompilerError`; a damaged section raises `CompilerError`
and nothing else; a frame walk reads no memory outside the stack between its two ends.

Format: "Stack maps and patch points in LLVM", stack map format version 3, and "Garbage Collection Safepoints in LLVM"
for the meaning of a statepoint's locations. All figures are little-endian.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import functools
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llvmlite import binding

from lowheap.errors import CompilerError
from lowheap.jit import large_frames, masks
from lowheap.jit.call_frames import CallFrames
from lowheap.jit.masks import SLOT_SIZE, SLOTS_PER_WORD
from lowheap.jit.statepoints import StatepointModule
from lowheap.representation import short_repr

# --- What depends on the processor ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Architecture:
    """The facts about frames and registers that reading a stack needs.

    A frame pointer points to a frame record: the caller's frame pointer, then the return address. Offsets and sizes are
    in bytes; registers are DWARF numbers.
    """

    name: str
    stack_pointer_register: int
    frame_pointer_register: int
    caller_frame_pointer_offset: int
    """From the frame pointer to the saved frame pointer of the caller."""
    return_address_offset: int
    """From the frame pointer to the address in the caller that the frame returns to."""
    caller_stack_pointer_offset: int | None
    """From the frame pointer to what the caller's stack pointer was at its call instruction; None where that differs by
    function, as the record may be anywhere in the frame."""
    frame_pointer_alignment: int
    features: str = ""
    """What code must do without, of what the CPU has: as LLVM writes features that are taken away."""
    kept_registers: tuple[int, ...] = ()
    """What a function leaves to its caller as it found it, beside these two: `jit/unwinder.py` has them in this order,
    upwards, right below its frame record. None where no unwinder is written."""

    @property
    def needs_call_frames(self) -> bool:
        """Whether the object file has to say where each function's frame record is; see `lower_statepoints`."""
        return self.caller_stack_pointer_offset is None


X86_64 = Architecture(
    name="x86_64",
    stack_pointer_register=7,
    frame_pointer_register=6,
    caller_frame_pointer_offset=0,
    return_address_offset=8,
    caller_stack_pointer_offset=16,
    frame_pointer_alignment=16,
    kept_registers=(15, 14, 13, 12, 3),  # r15, r14, r13, r12, rbx
    features="-avxvnni,-avx512vnni",
)
"""x86-64 with the System V convention. Of a dot product's `pmaddwd` and `paddd` LLVM makes one instruction of VNNI's
where the processor has it: then each sum waits five cycles for the last, where it would wait one."""

AARCH64_DARWIN = Architecture(
    name="arm64",
    stack_pointer_register=31,
    frame_pointer_register=29,
    caller_frame_pointer_offset=0,
    return_address_offset=8,
    caller_stack_pointer_offset=16,
    frame_pointer_alignment=16,
)
"""AArch64 as LLVM compiles for Darwin, where the frame record lies at the top of the frame."""

AARCH64_LINUX = Architecture(
    name="aarch64",
    stack_pointer_register=31,
    frame_pointer_register=29,
    caller_frame_pointer_offset=0,
    return_address_offset=8,
    caller_stack_pointer_offset=None,
    frame_pointer_alignment=8,  # a floating-point register may be saved below the record
    features="-sve",
)
"""AArch64 as LLVM compiles for all other systems: the frame record is below the registers that the function saves,
however many these are. A frame with vectors of SVE has a part whose size is known when it runs, between the frame
pointer and the stack pointer: there is no rule for the slots below."""

_ARCHITECTURES = {
    ("Linux", "x86_64"): X86_64,
    ("Linux", "aarch64"): AARCH64_LINUX,
    ("Darwin", "x86_64"): X86_64,
    ("Darwin", "arm64"): AARCH64_DARWIN,
    ("Darwin", "aarch64"): AARCH64_DARWIN,
}


def host_architecture() -> Architecture:
    """The facts for the machine that this runs on; `CompilerError` where no rule is known to be right."""
    system, machine = platform.system(), platform.machine()
    architecture = architecture_of(system, machine)
    if architecture is None:
        known = ", ".join(" ".join(pair) for pair in _ARCHITECTURES)
        raise CompilerError(f"frames of {system} {machine} cannot be walked; known are {known}")
    return architecture


def architecture_of(system: str, machine: str) -> Architecture | None:
    """The facts for a machine in the words of `platform`, or None where no rule is known to be right."""
    return _ARCHITECTURES.get((system, machine))


def host_needs_call_frames() -> bool:
    """Whether functions with safepoints need call frame information on this machine."""
    architecture = architecture_of(platform.system(), platform.machine())
    return architecture is not None and architecture.needs_call_frames


def host_features() -> str:
    """Which features of its CPU code must do without on this machine, as LLVM writes that."""
    architecture = architecture_of(platform.system(), platform.machine())
    return "" if architecture is None else architecture.features


# --- Parsing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slots:
    """Up to 64 places in a frame, of a reference's size each.

    That of bit i of `mask` is 4 * i bytes behind `offset` from the value that DWARF register `register` has there.
    """

    register: int
    offset: int
    mask: int

    def offsets(self) -> Iterator[int]:
        """Where each place is from that register's value, ascending."""
        mask = self.mask
        while mask:
            lowest = mask & -mask
            mask ^= lowest
            yield self.offset + SLOT_SIZE * (lowest.bit_length() - 1)


@short_repr
@dataclass(frozen=True, slots=True)
class SafepointRecord:
    """One statepoint, or what tells a frame's size, whose `id` is from `large_frames.FIRST_MEASURE` on.

    `id` is the number that `lower_statepoints` gave it, `instruction_offset` the bytes from the function's start to the
    return address of the call, and `slots` where the references are that live across it.
    """

    id: int
    instruction_offset: int
    slots: tuple[Slots, ...]

    @property
    def live_count(self) -> int:
        """The number of slots that are live."""
        return sum(slots.mask.bit_count() for slots in self.slots)


@short_repr
@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """One function with statepoints: its address as the section has it (0 in an object file), its frame's size in
    bytes."""

    address: int
    stack_size: int
    records: tuple[SafepointRecord, ...]


class _LocationKind(enum.IntEnum):
    """How a location says where its value is."""

    REGISTER = 1
    DIRECT = 2  # the value is the address register + offset
    INDIRECT = 3  # the value is in memory at register + offset
    CONSTANT = 4
    CONSTANT_INDEX = 5  # the offset is an index into the section's constants


_CONSTANT_KINDS = (_LocationKind.CONSTANT, _LocationKind.CONSTANT_INDEX)

_VERSION = 3
_HEADER = struct.Struct("<BBHIII")  # version, reserved, reserved, functions, constants, records
_FUNCTION = struct.Struct("<QQQ")  # address, stack size, record count
_CONSTANT = struct.Struct("<Q")
_RECORD_HEAD = struct.Struct("<QIHH")  # id, instruction offset, flags, location count
_LOCATION = struct.Struct("<BBHHHi")  # kind, reserved, size, register, reserved, offset or constant
_LIVE_OUTS_HEAD = struct.Struct("<HH")  # padding, live-out count
_LIVE_OUT_SIZE = 4
_RECORD_ALIGNMENT = 8

_NO_STACK_SIZE = (1 << 64) - 1
"""As a frame's size: it is of variable size, or aligned when the function is called."""

_OPERAND_SIZE = 8  # of a root frame's address, and of an item of a mask
_WORD_SIZE = SLOT_SIZE * SLOTS_PER_WORD  # bytes of the slots that a word of a mask describes
_MOST_WORDS = 1 << 15  # of a root frame's mask: more than fit a thread's stack, 8 MiB, are taken for damage

# A statepoint's locations start with three constants: calling convention, flags, and the number of deopt operands.
_STATEPOINT_PREFIX = 3
_DEOPT_COUNT_INDEX = 2


class _Reader:
    """A position in the section; every step is checked."""

    def __init__(self, section: bytes) -> None:
        """Start at the beginning."""
        self.section = section
        self.position = 0

    def take(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        """Unpack the next `layout`."""
        end = self.position + layout.size
        if end > len(self.section):
            raise CompilerError(
                f"stack map is truncated: {what} at byte {self.position} needs {layout.size} bytes, "
                f"{len(self.section) - self.position} are left"
            )
        fields: tuple[int, ...] = layout.unpack_from(self.section, self.position)
        self.position = end
        return fields

    def skip(self, size: int, what: str) -> None:
        """Pass over `size` bytes."""
        if self.position + size > len(self.section):
            raise CompilerError(
                f"stack map is truncated: {what} at byte {self.position} needs {size} bytes, "
                f"{len(self.section) - self.position} are left"
            )
        self.position += size

    def align(self) -> None:
        """Pass over padding up to the alignment of records."""
        self.skip(-self.position % _RECORD_ALIGNMENT, "padding")


def parse(section: bytes, architecture: Architecture | None = None) -> list[FunctionRecord]:
    """Read the stack map of one module.

    `architecture` is the one that the code was compiled for (default: the host's). Raises `CompilerError` for a section
    that is not a complete version 3 stack map of statepoints, for a statepoint whose operands are not root frames, each
    with a mask that is constant and not empty, and for a root frame relative to a register other than the stack and the
    frame pointer.
    """
    architecture = architecture or host_architecture()
    reader = _Reader(section)
    version, _, _, function_count, constant_count, record_count = reader.take(_HEADER, "header")
    if version != _VERSION:
        raise CompilerError(f"stack map has version {version}; {_VERSION} is understood")
    heads = [reader.take(_FUNCTION, "function") for _ in range(function_count)]
    constants = [reader.take(_CONSTANT, "constant")[0] for _ in range(constant_count)]
    if sum(count for _, _, count in heads) != record_count:
        raise CompilerError(
            f"stack map announces {record_count} records, its functions {sum(count for _, _, count in heads)}"
        )
    known: dict[bytes, tuple[Slots, ...]] = {}
    functions = [
        FunctionRecord(
            address, stack_size, tuple(_parse_record(reader, constants, architecture, known) for _ in range(count))
        )
        for address, stack_size, count in heads
    ]
    if reader.position != len(section):
        raise CompilerError(
            f"stack map ends at byte {reader.position}, its section at {len(section)}; one module's map is expected"
        )
    return functions


def _parse_record(
    reader: _Reader, constants: Sequence[int], architecture: Architecture, known: dict[bytes, tuple[Slots, ...]]
) -> SafepointRecord:
    """Read one record with its padding. `known` are the slots of locations that were read in this section before."""
    identifier, instruction_offset, _, location_count = reader.take(_RECORD_HEAD, "record")
    start = reader.position
    reader.skip(location_count * _LOCATION.size, "locations")
    encoded = reader.section[start : reader.position]
    reader.align()
    _, live_out_count = reader.take(_LIVE_OUTS_HEAD, "live-outs")
    reader.skip(live_out_count * _LIVE_OUT_SIZE, "live-outs")
    reader.align()

    if identifier >= large_frames.FIRST_MEASURE and location_count == 0:
        return SafepointRecord(identifier, instruction_offset, ())
    slots = known.get(encoded)
    if slots is None:
        where = f"stack map record {identifier}"
        locations = list(_LOCATION.iter_unpack(encoded))
        slots = known[encoded] = _slots_of(where, locations, constants, architecture)
    return SafepointRecord(identifier, instruction_offset, slots)


def _slots_of(
    where: str, locations: Sequence[tuple[int, ...]], constants: Sequence[int], architecture: Architecture
) -> tuple[Slots, ...]:
    """The live slots of a statepoint, by its locations."""
    if len(locations) < _STATEPOINT_PREFIX or any(
        kind != _LocationKind.CONSTANT for kind, *_ in locations[:_STATEPOINT_PREFIX]
    ):
        raise CompilerError(f"{where} is not a statepoint's: it does not start with {_STATEPOINT_PREFIX} constants")
    operands = locations[_STATEPOINT_PREFIX:]
    announced = locations[_DEOPT_COUNT_INDEX][-1]
    if announced != len(operands):
        raise CompilerError(f"{where} announces {announced} operands and has locations for {len(operands)}")
    slots: list[Slots] = []
    position = 0
    while position < len(operands):
        register, offset = _frame(where, operands[position], architecture)
        end = position + 1
        while end < len(operands) and operands[end][0] in _CONSTANT_KINDS:
            end += 1
        slots += _slots(
            where, register, offset, [_constant(where, each, constants) for each in operands[position + 1 : end]]
        )
        position = end
    return tuple(slots)


def _slots(where: str, register: int, offset: int, items: Sequence[int]) -> Iterator[Slots]:
    """The live slots of a root frame by words, from the mask as `masks.encoded` writes it."""
    if not any(items):
        raise CompilerError(f"{where} has an empty mask; such root frames are left out")
    try:
        for number, word, count in masks.runs(items):
            if number + count > _MOST_WORDS:
                raise CompilerError(f"{where} has a mask of {number + count} words; at most {_MOST_WORDS} are expected")
            for each in range(number, number + count):
                yield _word(register, offset + _WORD_SIZE * each, word)
    except ValueError as error:
        raise CompilerError(f"{where} has a mask that cannot be read: {error}") from None


@functools.lru_cache(maxsize=1 << 12)
def _word(register: int, offset: int, mask: int) -> Slots:
    """Slots, which are the same at many statepoints where they are all live."""
    return Slots(register, offset, mask)


def _frame(where: str, location: tuple[int, ...], architecture: Architecture) -> tuple[int, int]:
    """The register and the offset of a root frame, if the frame walker can find it."""
    kind, _, size, register, _, offset = location
    _check_operand(where, "a root frame", kind, size, (_LocationKind.DIRECT,))
    known = (architecture.stack_pointer_register, architecture.frame_pointer_register)
    if register not in known:
        raise CompilerError(f"{where} has a root frame relative to register {register}; frames give {known}")
    return register, offset


def _constant(where: str, location: tuple[int, ...], constants: Sequence[int]) -> int:
    """An item of a mask. A small one is in the location, signed and of 32 bits."""
    kind, _, size, _, _, value = location
    _check_operand(where, "a mask", kind, size, _CONSTANT_KINDS)
    if kind == _LocationKind.CONSTANT_INDEX:
        if not 0 <= value < len(constants):
            raise CompilerError(f"{where} refers to constant {value} of {len(constants)}")
        value = constants[value]
    return value


def _check_operand(where: str, what: str, kind: int, size: int, allowed: Sequence[_LocationKind]) -> None:
    if kind not in allowed:
        name = _LocationKind(kind).name if kind in _LocationKind.__members__.values() else f"unknown ({kind})"
        raise CompilerError(
            f"{where} has {what} of kind {name}; it must be {' or '.join(each.name for each in allowed)}"
        )
    if size != _OPERAND_SIZE:
        raise CompilerError(f"{where} has {what} of {size} bytes; it has {_OPERAND_SIZE}")


def read(object: bytes, architecture: Architecture | None = None) -> tuple[FunctionRecord, ...]:
    """Read the stack map of a module's object file; nothing if it has none, as a module without statepoints.

    Where the walk cannot know a frame's stack pointer, all slots are relative to the frame pointer. `architecture` is
    as for `parse`. Raises `CompilerError` as `find_section` and `parse` do, and for a frame without a rule or of no
    fixed size, if it has slots relative to the stack pointer.
    """
    section = find_section(object)
    if section is None:
        return ()
    architecture = architecture or host_architecture()
    functions = parse(section, architecture)
    if architecture.needs_call_frames:
        frames = CallFrames(
            object,
            stack_pointer_register=architecture.stack_pointer_register,
            frame_pointer_register=architecture.frame_pointer_register,
        )
        functions = [
            dataclasses.replace(
                function,
                records=tuple(
                    _from_frame_pointer(frames, number, function, each, architecture) for each in function.records
                ),
            )
            for number, function in enumerate(functions)
        ]
    return tuple(functions)


def _from_frame_pointer(
    frames: CallFrames, number: int, function: FunctionRecord, record: SafepointRecord, architecture: Architecture
) -> SafepointRecord:
    """A record with all slots relative to the frame pointer.

    A function moves the stack pointer down by its frame's size, and no further.
    """
    if all(slots.register == architecture.frame_pointer_register for slots in record.slots):
        return record
    if function.stack_size == _NO_STACK_SIZE:
        raise CompilerError(
            f"stack map record {record.id} has a root frame relative to the stack pointer, in a frame of no fixed size"
        )
    difference = frames.initial_stack_pointer(number, record.instruction_offset) - function.stack_size
    return dataclasses.replace(
        record,
        slots=tuple(
            slots
            if slots.register == architecture.frame_pointer_register
            else Slots(architecture.frame_pointer_register, slots.offset + difference, slots.mask)
            for slots in record.slots
        ),
    )


_ELF_MAGIC = b"\x7fELF"
_ELF64_HEADER_SIZE = 64
_ELF64_SECTION_TABLE = struct.Struct("<40xQ10xHHH")  # of the header: where it is, entry size, count, that of the names
_ELF64_SECTION = struct.Struct("<I20xQQ")  # of an entry: the name's place among the names, where the section is, size
_ELF_SECTION = b".llvm_stackmaps"
_MACH_O_64_MAGIC = b"\xcf\xfa\xed\xfe"
_MACH_O_SECTION = b"__llvm_stackmaps"


def find_section(object: bytes) -> bytes | None:
    """The stack map section of a 64-bit ELF or Mach-O object file; None if it has none, as a module without
    statepoints.

    Raises `CompilerError` for other bytes and for an ELF file that ends before its section table.
    """
    if object.startswith(_ELF_MAGIC) and len(object) >= _ELF64_HEADER_SIZE:
        found = _elf_sections(object)
    elif object.startswith(_MACH_O_64_MAGIC):
        # The name fills its fixed-width field, leaving no room for a terminator: llvmlite reads on behind it.
        found = [
            section.data()
            for section in binding.ObjectFileRef.from_data(object).sections()
            if (section.name() or b"").startswith(_MACH_O_SECTION)
        ]
    else:
        raise CompilerError(f"not a 64-bit ELF or Mach-O object file: it starts with {object[:4]!r}")
    if len(found) > 1:
        raise CompilerError(f"object file has {len(found)} stack map sections; one is expected")
    return found[0] if found else None


def _elf_sections(object: bytes) -> list[bytes]:
    """The contents of an ELF file's stack map sections.

    Not by LLVM's reader, which takes longer for this than all else that linking takes in Python.
    """
    offset, entry_size, count, names_number = _ELF64_SECTION_TABLE.unpack_from(object)
    if offset + entry_size * count > len(object) or entry_size < _ELF64_SECTION.size:
        raise CompilerError(f"object file is truncated: its section table ends behind byte {len(object)}")
    entries = [_ELF64_SECTION.unpack_from(object, offset + entry_size * number) for number in range(count)]
    if names_number >= count:
        return []
    _, names, _ = entries[names_number]
    wanted = _ELF_SECTION + b"\0"
    return [object[start : start + size] for name, start, size in entries if object.startswith(wanted, names + name)]


# --- From return addresses to slots -----------------------------------------------------------------------------------


class SlotLookup(Protocol):
    """What the frame walker asks: `StackMap` and `StackMapRegistry` answer."""

    def lookup(self, return_address: int) -> tuple[Slots, ...]:
        """The slots of the call that returns to `return_address`; `CompilerError` if there is no such call."""


class StackMap:
    """The slots of one linked module by return address. Immutable."""

    def __init__(
        self, module: StatepointModule, records: Sequence[FunctionRecord], function_addresses: Sequence[int]
    ) -> None:
        """Join the parsed section of `module` with the addresses of its functions after linking.

        `function_addresses` are those of `module.functions`, in that order (what the global `FUNCTIONS_GLOBAL` holds).
        Records must be in that order too; a function whose statepoints were all in dead code has none. Raises
        `CompilerError` when counts, order, ids or numbers of slots do not agree.
        """
        if len(function_addresses) != len(module.functions):
            raise CompilerError(
                f"{len(function_addresses)} function addresses for {len(module.functions)} functions with statepoints"
            )
        index_of = {name: index for index, name in enumerate(module.functions)}
        slots: dict[int, tuple[Slots, ...]] = {}
        previous = -1
        for function in records:
            if any(record.id >= large_frames.FIRST_MEASURE for record in function.records):
                continue  # of a function without statepoints
            indices = {index_of[self._statepoint_function(module, record)] for record in function.records}
            if len(indices) != 1:
                raise CompilerError(
                    f"a stack map function has records of {sorted(module.functions[index] for index in indices)}; "
                    "one function's are expected"
                )
            (index,) = indices
            if index <= previous:
                raise CompilerError(
                    f"stack map records of {module.functions[index]!r} follow those of {module.functions[previous]!r}; "
                    f"the module has them the other way round"
                )
            previous = index
            start = function_addresses[index]
            if not start:
                raise CompilerError(f"function {module.functions[index]!r} has no address")
            for record in function.records:
                return_address = start + record.instruction_offset
                if return_address in slots:
                    raise CompilerError(f"two stack map records for return address {return_address:#x}")
                slots[return_address] = record.slots
        self._slots = slots

    @staticmethod
    def _statepoint_function(module: StatepointModule, record: SafepointRecord) -> str:
        """The function that a record's id says it is in, the number of live slots being right."""
        if record.id >= len(module.statepoints):
            raise CompilerError(
                f"stack map record {record.id} is none of the module's {len(module.statepoints)} statepoints"
            )
        statepoint = module.statepoints[record.id]
        if statepoint.live_count != record.live_count:
            raise CompilerError(
                f"stack map record {record.id} has {record.live_count} references, its statepoint in "
                f"{statepoint.function!r} {statepoint.live_count}"
            )
        return statepoint.function

    @property
    def by_return_address(self) -> dict[int, tuple[Slots, ...]]:
        """A copy of the whole map."""
        return dict(self._slots)

    def has(self, return_address: int) -> bool:
        """Whether a call that may collect returns there."""
        return return_address in self._slots

    def lookup(self, return_address: int) -> tuple[Slots, ...]:
        """The slots of the call that returns to `return_address`; `CompilerError` if the module has none such."""
        try:
            return self._slots[return_address]
        except KeyError:
            raise _unknown(return_address, len(self._slots)) from None


class StackMapRegistry:
    """The stack maps of all loaded modules; one dictionary lookup finds a return address in any of them."""

    def __init__(self) -> None:
        """Start without modules."""
        self._slots: dict[int, tuple[Slots, ...]] = {}

    def __len__(self) -> int:
        """The number of return addresses known."""
        return len(self._slots)

    @property
    def by_return_address(self) -> dict[int, tuple[Slots, ...]]:
        """A copy of the whole registry."""
        return dict(self._slots)

    def add(self, stack_map: StackMap) -> None:
        """Take in a module's map; `CompilerError` if one of its return addresses is known already."""
        added = stack_map.by_return_address
        if clash := added.keys() & self._slots.keys():
            raise CompilerError(f"return address {min(clash):#x} belongs to another loaded module already")
        self._slots.update(added)

    def remove(self, stack_map: StackMap) -> None:
        """Forget a module's map, which must have been added; to be done before its code is unloaded."""
        removed = stack_map.by_return_address
        if missing := removed.keys() - self._slots.keys():
            raise CompilerError(f"return address {min(missing):#x} is not registered; was the module added?")
        for return_address in removed:
            del self._slots[return_address]

    def lookup(self, return_address: int) -> tuple[Slots, ...]:
        """The slots of the call that returns to `return_address`; `CompilerError` if no module has it."""
        try:
            return self._slots[return_address]
        except KeyError:
            raise _unknown(return_address, len(self._slots)) from None


def _unknown(return_address: int, known: int) -> CompilerError:
    """The error for a frame that no stack map covers."""
    return CompilerError(
        f"return address {return_address:#x} is in no stack map ({known} are known): a call that may collect was not "
        "emitted as a safepoint, or a frame of other code lies between the entry and the exit"
    )


# --- Walking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """A suspended compiled function: the address it will go on at, and its stack and frame pointer at the call.

    The stack pointer is None where the architecture does not tell it.
    """

    return_address: int
    stack_pointer: int | None
    frame_pointer: int


MAXIMUM_FRAMES = 1 << 24
"""More frames than this between an exit and its entry are taken for corruption."""


def walk_frames(
    exit_frame_pointer: int,
    entry_frame_pointer: int,
    *,
    architecture: Architecture | None = None,
    maximum_frames: int = MAXIMUM_FRAMES,
) -> Iterator[Frame]:
    """The frames between an exit into the runtime and the entry trampoline, innermost first.

    `exit_frame_pointer` is the frame pointer of the native function that left compiled code (it is not yielded itself:
    its frame record describes its caller, the first frame). `entry_frame_pointer` is that of the trampoline through
    which compiled code was entered (not yielded either). Both must be frames of the calling thread's live stack, and
    every function between them must keep a frame pointer. Raises `CompilerError` when the chain is broken: a frame
    pointer that is misaligned, does not grow, passes the entry, or a chain of more than `maximum_frames`. Memory
    outside the stack between the two is never read.
    """
    architecture = architecture or host_architecture()
    alignment = architecture.frame_pointer_alignment
    for name, pointer in (("exit", exit_frame_pointer), ("entry", entry_frame_pointer)):
        if pointer <= 0 or pointer % alignment:
            raise CompilerError(f"{name} frame pointer {pointer:#x} is not a multiple of {alignment} above 0")
    if exit_frame_pointer >= entry_frame_pointer:
        raise CompilerError(
            f"exit frame pointer {exit_frame_pointer:#x} is not below the entry's, {entry_frame_pointer:#x}"
        )
    read = ctypes.c_uint64.from_address
    to_stack_pointer = architecture.caller_stack_pointer_offset
    callee = exit_frame_pointer
    for _ in range(maximum_frames + 1):
        # callee < entry, both aligned: its frame record ends at the entry's at the latest.
        caller = read(callee + architecture.caller_frame_pointer_offset).value
        if caller == entry_frame_pointer:
            return
        if caller % alignment or not callee < caller < entry_frame_pointer:
            raise CompilerError(
                f"broken frame chain: frame {callee:#x} has caller {caller:#x}; a multiple of {alignment} above it and "
                f"up to the entry's frame {entry_frame_pointer:#x} was expected"
            )
        yield Frame(
            return_address=read(callee + architecture.return_address_offset).value,
            stack_pointer=None if to_stack_pointer is None else callee + to_stack_pointer,
            frame_pointer=caller,
        )
        callee = caller
    raise CompilerError(f"more than {maximum_frames} frames between exit and entry")


def stack_slots(
    stack_map: SlotLookup,
    exit_frame_pointer: int,
    entry_frame_pointer: int,
    *,
    architecture: Architecture | None = None,
) -> Iterator[int]:
    """The addresses of the u32 slots that hold the references live in the frames between an exit and its entry.

    A slot may hold null or an i31 at run time. Raises `CompilerError` as `walk_frames` does, for a return address that
    `stack_map` does not know, for a slot outside the stack between exit and entry, and for one relative to a stack
    pointer that the architecture does not tell.
    """
    architecture = architecture or host_architecture()
    for frame in walk_frames(exit_frame_pointer, entry_frame_pointer, architecture=architecture):
        for slots in stack_map.lookup(frame.return_address):
            base = frame.stack_pointer if slots.register == architecture.stack_pointer_register else frame.frame_pointer
            if base is None:
                raise CompilerError(
                    f"a slot of the call that returns to {frame.return_address:#x} is relative to the stack pointer, "
                    f"which frames of {architecture.name} do not tell"
                )
            for offset in slots.offsets():
                address = base + offset
                if not exit_frame_pointer < address <= entry_frame_pointer - SLOT_SIZE:
                    raise CompilerError(
                        f"slot {address:#x} of the call that returns to {frame.return_address:#x} is outside the stack "
                        f"from {exit_frame_pointer:#x} to {entry_frame_pointer:#x}"
                    )
                yield address
