"""How compiled code and the host call each other, in words: signatures, types in C, what a trampoline returns.

`jit/transitions.py` emits the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowheap.layout import VALUE_SLOT_SIZE
from lowheap.types import FuncType, NumType, RefType, TypeRegistry, ValType, VectorType, storage_size

SETJMP = "_setjmp"
LONGJMP = "_longjmp"
"""The two that leave the signal mask alone: on macOS, `longjmp` would restore what `_setjmp` has not saved."""
NANOSLEEP = "nanosleep"
MADVISE = "madvise"
CLOCK_GETTIME = "clock_gettime"
IMPORTED_SYMBOLS = (SETJMP, LONGJMP, NANOSLEEP, MADVISE, CLOCK_GETTIME)
"""libc's functions that every module may call."""
CLOCK_MONOTONIC = {"linux": 1, "darwin": 6}
"""The clock that goes on at an even pace, by system."""
MADV_DONTNEED = 4
"""The advice that what is in some pages is not needed, on Linux and macOS."""
WIDE_DIVISIONS = ("__udivti3", "__umodti3")
"""LLVM's names for division of 128-bit integers, quotient and remainder: see `wide_division.py`."""

TRAP_FUNCTION = "lowheap.trap"
"""void(vmctx, code, offset), does not return; `transitions.define` gives it its body in every module."""

INITIALISE = "lowheap.initialise"
"""The function that evaluates the globals' initialisers and calls the start function; entered like any other.

Where that is much, it is the first of several, which are entered one after the other: see `initialiser`.
"""


def initialiser(number: int) -> str:
    """Return what the functions are called that initialise an instance, by their numbers from 0."""
    return f"{INITIALISE}.{number}" if number else INITIALISE


EXCEPTIONS = "lowheap.exceptions"
"""A global, of no use but to be among a module's symbols: its code may throw, or catch."""

# The C functions that the store context points to, as cffi reads them. A status is 0, or 1 for failure; a reference is
# null for failure; what failed is in the runtime's hands.
ALLOCATE_STRUCT_CDECL = "uint32_t(void *vmctx, uint32_t type_index)"
ALLOCATE_ARRAY_CDECL = "uint32_t(void *vmctx, uint32_t type_index, uint32_t length)"
DROP_CDECL = "void(void *vmctx, uint32_t reference)"
POLL_CDECL = "uint32_t(void *vmctx)"
COMPILE_FUNCTION_CDECL = "uintptr_t(void *vmctx, uint32_t number)"
OPTIMISE_FUNCTION_CDECL = "uint32_t(void *vmctx, uint32_t number)"
PREPARE_UNWINDING_CDECL = "uint32_t(void *vmctx)"
CALL_HOST_CDECL = "uint32_t(void *vmctx, uint32_t function, void *values)"
LEND_CDECL = "void(void *vmctx, uint32_t reference)"
SHARE_CDECL = "void(void *vmctx, uint32_t reference, void *handle)"
ENTRY_CDECL = "uint32_t(*)(void *vmctx, void *code, void *slots)"

TRAPPED = 1 << 0
"""Bit of a trampoline's status: the code trapped, or a call out of it failed."""

HAS_DEAD_EXTERNREFS = 1 << 1
"""Bit of a trampoline's status: externrefs have died, and the host has yet to free them."""

REFUSED = 1 << 2
"""A trampoline's status: nothing was called, for a collection is running, or the heap's memory was taken away."""

PAST_DEADLINE = 1 << 3
"""A trampoline's status: nothing was called, for the store's epoch deadline has passed. Also what the host answers to a
poll: so the code is to trap."""

THROWN = 2
"""What a call of the host returns in place of 1, for failure, when compiled code may catch what it has thrown."""

VECTOR = "v"
"""The letter of v128."""
LETTERS: dict[ValType, str] = {
    NumType.I32: "i",
    NumType.I64: "l",
    NumType.F32: "f",
    NumType.F64: "d",
    VectorType.V128: VECTOR,
}

COUNTED, UNCOUNTED = "r", "u"
"""The letters of references: those that collectors know of, and those of functions and i31s."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function type as far as calls are concerned: every reference is a u32, written `r` or `u`."""

    params: str
    results: str

    @staticmethod
    def of(type: FuncType, types: TypeRegistry) -> Signature:
        """Return the signature of a function type."""
        return Signature(_letters(type.params, types), _letters(type.results, types))

    @property
    def slot_count(self) -> int:
        """How many slots the values take."""
        return max(_slot_count(self.params), _slot_count(self.results), 1)

    @property
    def param_slots(self) -> tuple[int, ...]:
        """The number of each parameter's slot: of a v128, of its first."""
        return _slots(self.params)

    @property
    def result_slots(self) -> tuple[int, ...]:
        """The number of each result's slot, likewise."""
        return _slots(self.results)

    @property
    def counted_results(self) -> tuple[int, ...]:
        """The numbers of the results that come with a handle, whose addresses are in slots behind the values'."""
        return tuple(number for number, letter in enumerate(self.results) if letter == COUNTED)

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers, each in a slot: none is a reference or a v128."""
        return not {COUNTED, UNCOUNTED, VECTOR} & {*self.params, *self.results}

    @property
    def entry(self) -> str:
        """The name of the signature's trampoline."""
        return f"lowheap.enter.{self.params}.{self.results}"

    @property
    def host_stub(self) -> str:
        """The name of the signature's stub for host functions."""
        return f"lowheap.host.{self.params}.{self.results}"


_VECTOR_SLOTS = storage_size(VectorType.V128) // VALUE_SLOT_SIZE


def _slot_count(letters: str) -> int:
    return len(letters) + letters.count(VECTOR) * (_VECTOR_SLOTS - 1)


def _slots(letters: str) -> tuple[int, ...]:
    return tuple(_slot_count(letters[:number]) for number in range(len(letters)))


def _letters(values: Sequence[ValType], types: TypeRegistry) -> str:
    return "".join(
        (COUNTED if types.is_traced(each) else UNCOUNTED) if isinstance(each, RefType) else LETTERS[each]
        for each in values
    )
