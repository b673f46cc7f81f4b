"""How compiled code and the host call each other, in words: signatures, types in C, what a trampoline returns.

`jit/transitions.py` emits the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowheap.types import FuncType, NumType, RefType, ValType

SETJMP = "_setjmp"
LONGJMP = "_longjmp"
"""The two that leave the signal mask alone: on macOS, `longjmp` would restore what `_setjmp` has not saved."""
IMPORTED_SYMBOLS = (SETJMP, LONGJMP)
"""libc's functions that every module may call."""

# The C functions that the store context points to, as cffi reads them. A status is 0, or 1 for failure; a reference is
# null for failure; what failed is in the runtime's hands.
ALLOCATE_STRUCT_CDECL = "uint32_t(void *vmctx, uint32_t type_index)"
ALLOCATE_ARRAY_CDECL = "uint32_t(void *vmctx, uint32_t type_index, uint32_t length)"
DROP_CDECL = "void(void *vmctx, uint32_t reference)"
CALL_HOST_CDECL = "uint32_t(void *vmctx, uint32_t function, void *values)"

TRAPPED = 1 << 0
"""Bit of a trampoline's status: the code trapped, or a call out of it failed."""

HAS_DEAD_EXTERNREFS = 1 << 1
"""Bit of a trampoline's status: externrefs have died, and the host has yet to free them."""

REFUSED = 1 << 2
"""A trampoline's status: nothing was called, for a collection is running, or the heap's memory was taken away."""

LETTERS: dict[ValType, str] = {NumType.I32: "i", NumType.I64: "l", NumType.F32: "f", NumType.F64: "d"}
_C_TYPES = {"i": "int32_t", "l": "int64_t", "f": "float", "d": "double", "r": "uint32_t"}


@dataclass(frozen=True, slots=True)
class Signature:
    """A function type as far as calls are concerned: every reference is the same u32, written `r`."""

    params: str
    results: str

    @staticmethod
    def of(type: FuncType) -> Signature:
        """Return the signature of a function type. KeyError for v128, which compiled code does not have."""
        return Signature(_letters(type.params), _letters(type.results))

    @property
    def is_scalar(self) -> bool:
        """Whether it is of numbers alone, with one result at most."""
        return "r" not in self.params + self.results and len(self.results) <= 1

    @property
    def python_types(self) -> tuple[type, ...]:
        """The Python type of each parameter of a scalar signature."""
        return tuple(int if letter in "il" else float for letter in self.params)

    @property
    def result_cdecl(self) -> str:
        """The C type of a pointer to the result of a scalar signature; without one, to anything."""
        return f"{_C_TYPES[self.results]} *" if self.results else "uint64_t *"

    @property
    def entry(self) -> str:
        """The name of the signature's trampoline."""
        return f"lowheap.enter.{self.params}.{self.results}"

    @property
    def host_stub(self) -> str:
        """The name of the signature's stub for host functions."""
        return f"lowheap.host.{self.params}.{self.results}"

    @property
    def entry_cdecl(self) -> str:
        """The trampoline's type in C: (vmctx, code, results, parameters...) -> status."""
        params = "".join(f", {_C_TYPES[letter]}" for letter in self.params)
        return f"uint32_t(*)(void *, void *, void *{params})"


def _letters(types: Sequence[ValType]) -> str:
    return "".join("r" if isinstance(type, RefType) else LETTERS[type] for type in types)
