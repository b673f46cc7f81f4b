"""Every exception that lowheap raises on purpose, and the trap codes with wasmtime's wording.

`LowheapError` is the root. `HeapError` and its kin report misuse of the heap or exhaustion of it, `ModuleError` and its
kin a module that cannot be compiled or linked, and `Trap` a WebAssembly program that trapped. Each message names the
thing, its value, and what was allowed.

All of them survive pickling and copying, and so the way out of a worker process.
"""

from __future__ import annotations

import copyreg
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lowheap.representation import printable


class Portable(Exception):
    """An exception that pickling and copying keep whole, whatever its `__init__` takes: attributes and notes too.

    A cause that is none of lowheap's is kept as its text, for it may be one that cannot be pickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Have it made again without `__init__`, with the same `args` and attributes."""
        state = dict(vars(self))
        cause = self.__cause__
        if cause is not None:
            is_portable = isinstance(cause, Portable)
            state["__cause__"] = cause if is_portable else LowheapError(f"{type(cause).__name__}: {cause}")
        return copyreg.__newobj__, (type(self), *self.args), state  # type: ignore[attr-defined]  # typeshed has it not


class LowheapError(Portable):
    """Root of every exception that lowheap raises on purpose."""


class HeapError(LowheapError):
    """A heap operation was asked for something it cannot do; the heap is unchanged."""


class InvalidReferenceError(HeapError):
    """A raw reference does not name a live object of the right kind in this heap."""


class StaleReferenceError(HeapError):
    """A handle was used after it was released, or after its heap was detached or closed."""


class ForeignReferenceError(HeapError):
    """A handle of one store was given to another."""


class AllocationTooLargeError(HeapError):
    """An object's size does not fit the heap's 32-bit sizes."""


class HeapExhaustedError(HeapError):
    """No room for an allocation, after collecting and growing as far as the maximum allows.

    `bytes_needed` is the size of the allocation that failed, in bytes.
    """

    def __init__(self, message: str, bytes_needed: int) -> None:
        """Keep the message and the size that was asked for."""
        super().__init__(message)
        self.bytes_needed = bytes_needed


class NoGcScopeError(HeapError):
    """A collection was asked for inside a no-GC scope, or a scope was left that was not entered."""


class HeapCorruptionError(HeapError):
    """`verify()` found a broken invariant. `problems` lists each, naming the object and what is wrong with it."""

    def __init__(self, problems: list[str]) -> None:
        """Keep the problems, one sentence each."""
        super().__init__("; ".join(problems))
        self.problems = problems


class TypeDefinitionError(LowheapError):
    """A type definition is not well formed: a bad supertype, a reference to no type, a limit passed."""


class ModuleError(LowheapError):
    """A module cannot be decoded, validated, compiled, linked or instantiated."""


class MalformedModuleError(ModuleError):
    """The bytes (or the text) are not a valid module; the message says where."""


class UnsupportedError(ModuleError):
    """A valid module uses what lowheap does not have; the message names it, the function and the byte offset."""


class LinkError(ModuleError):
    """An import is missing, or what was given for it does not match its declared type."""


class CompilerError(LowheapError):
    """The native pipeline met something that it does not understand; a bug in lowheap or in a user's barrier set."""


class TrapCode(enum.IntEnum):
    """Why a program trapped: wasmtime's codes for the traps that lowheap's instructions can raise."""

    STACK_OVERFLOW = 1
    INTEGER_OVERFLOW = 2
    INTEGER_DIVISION_BY_ZERO = 3
    BAD_CONVERSION_TO_INTEGER = 4
    UNREACHABLE = 5
    NULL_REFERENCE = 6
    ARRAY_OUT_OF_BOUNDS = 7
    ALLOCATION_TOO_LARGE = 8
    CAST_FAILURE = 9
    HEAP_EXHAUSTED = 10
    MEMORY_OUT_OF_BOUNDS = 11
    TABLE_OUT_OF_BOUNDS = 12
    INDIRECT_CALL_TO_NULL = 13
    BAD_SIGNATURE = 14
    HEAP_MISALIGNED = 15
    ATOMIC_WAIT_NON_SHARED_MEMORY = 16
    OUT_OF_FUEL = 17
    INTERRUPT = 18

    def __str__(self) -> str:
        """`TrapCode.UNREACHABLE`, where an int's would be its digits."""
        return f"{type(self).__name__}.{self.name}"

    @property
    def message(self) -> str:
        """wasmtime's sentence for this code."""
        return _TRAP_MESSAGES[self]


_TRAP_MESSAGES = {
    TrapCode.STACK_OVERFLOW: "call stack exhausted",
    TrapCode.INTEGER_OVERFLOW: "integer overflow",
    TrapCode.INTEGER_DIVISION_BY_ZERO: "integer divide by zero",
    TrapCode.BAD_CONVERSION_TO_INTEGER: "invalid conversion to integer",
    TrapCode.UNREACHABLE: "wasm `unreachable` instruction executed",
    TrapCode.NULL_REFERENCE: "null reference",
    TrapCode.ARRAY_OUT_OF_BOUNDS: "out of bounds array access",
    TrapCode.ALLOCATION_TOO_LARGE: "allocation size too large",
    TrapCode.CAST_FAILURE: "cast failure",
    TrapCode.HEAP_EXHAUSTED: "GC heap out of memory",
    TrapCode.MEMORY_OUT_OF_BOUNDS: "out of bounds memory access",
    TrapCode.TABLE_OUT_OF_BOUNDS: "undefined element: out of bounds table access",
    TrapCode.INDIRECT_CALL_TO_NULL: "uninitialized element",
    TrapCode.BAD_SIGNATURE: "indirect call type mismatch",
    TrapCode.HEAP_MISALIGNED: "unaligned atomic",
    TrapCode.ATOMIC_WAIT_NON_SHARED_MEMORY: "atomic wait on non-shared memory",
    TrapCode.OUT_OF_FUEL: "all fuel consumed by WebAssembly",
    TrapCode.INTERRUPT: "interrupt",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One function of a module that was being run: its index and name there, and the name of the module.

    `module_offset` is the byte offset in the module of the instruction that it had come to, `func_offset` that from the
    beginning of the function's body. Both are None where that is not known, which a log's warning tells.

    `file`, `line` and `column` are that instruction's in the source, where the module's DWARF sections tell.
    """

    func_index: int
    func_name: str | None
    module_name: str | None
    module_offset: int | None
    func_offset: int | None
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        """Say where that is, as `Trap` does: `function $make, at offset 0x49, list.c:3:7`."""
        name = f"${printable(self.func_name)}" if self.func_name else str(self.func_index)
        where = "" if self.module_offset is None else f", at offset {self.module_offset:#x}"
        source = "" if self.source is None else f", {printable(self.source)}"
        return f"function {name}{where}{source}"

    @property
    def source(self) -> str | None:
        """The place in the source, `list.c:3:7`; None where it is not known."""
        if self.file is None:
            return None
        return ":".join(map(str, (self.file, *(each for each in (self.line, self.column) if each is not None))))


class Trap(LowheapError):
    """A WebAssembly program trapped.

    `code` is the `TrapCode`; `function` and `offset` say where (the function's name or index, and the byte offset of
    the instruction in the module), where that is known; `detail` adds figures, where there are any. `frames` are the
    functions that were being run, see there.
    """

    def __init__(
        self,
        code: TrapCode,
        *,
        function: str | None = None,
        offset: int | None = None,
        detail: str | None = None,
        frames: Callable[[], Sequence[Frame]] | None = None,
    ) -> None:
        """Compose wasmtime's wording with the place and the detail. TypeError for what is no `TrapCode`."""
        if not isinstance(code, TrapCode):
            raise TypeError(
                f"code is {code!r}; it must be a TrapCode. A host function that is to end a program raises "
                "an exception of any other kind"
            )
        text = f"wasm trap: {code.message}"
        if detail:
            text += f": {detail}"
        if function is not None:
            text += f" (in function {printable(function)}"
            text += f", at offset {offset:#x})" if offset is not None else ")"
        super().__init__(text)
        self.code = code
        self.function = function
        self.offset = offset
        self.detail = detail
        self._frames: Callable[[], Sequence[Frame]] | list[Frame] = [] if frames is None else frames

    @property
    def frames(self) -> list[Frame]:
        """The functions that were being run, the innermost first, from where the host has called: looked up when asked.

        Of a deep stack, the innermost are there. A function that was inlined into its caller has a frame where it
        trapped, and where it made a call that may collect.
        """
        if not isinstance(self._frames, list):
            self._frames = list(self._frames())
        return self._frames

    @property
    def trap_code(self) -> TrapCode:
        """The code, by wasmtime's name for it."""
        return self.code

    @property
    def message(self) -> str:
        """All that is known, in wasmtime's wording: the frames, and what trapped in the innermost one.

        The frames are looked up for it; `str(trap)` is one line without them.
        """
        what = f"wasm trap: {self.code.message}" + (f": {self.detail}" if self.detail else "")
        if not self.frames:
            return what
        lines = ["error while executing at wasm backtrace:"]
        for number, frame in enumerate(self.frames):
            offset = "" if frame.module_offset is None else f"{frame.module_offset:#8x} - "
            function = printable(frame.func_name or f"<wasm function {frame.func_index}>")
            lines.append(f"  {number:>3}: {offset}{printable(frame.module_name or '<unknown>')}!{function}")
            if frame.source is not None:
                lines.append(f"                    at {printable(frame.source)}")
        return "\n".join((*lines, "", "Caused by:", f"    {what}", ""))

    def __reduce__(self) -> Any:
        """Pickle the frames, not what would find them."""
        _ = self.frames
        return super().__reduce__()


class ExitTrap(LowheapError):
    """A program has ended itself, with `proc_exit` of WASI's. `code` is its exit status. No program catches this."""

    def __init__(self, code: int) -> None:
        """Keep the status."""
        super().__init__(f"the program has exited with status {code}")
        self.code = code


class Status(enum.IntEnum):
    """What a call of the C interface returns: 0, or why it failed. `lh_error_message` tells more."""

    OK = 0
    OUT_OF_MEMORY = 1
    TOO_LARGE = 2
    BAD_ARGUMENT = 3
    NULL_REFERENCE = 4
    BAD_REFERENCE = 5
    WRONG_TYPE = 6
    BAD_TYPE = 7
    OUT_OF_BOUNDS = 8
    BAD_FRAME = 9
    BAD_SLOT = 10
    BUSY = 11
    NO_GC = 12
    ABI = 13
    SYSTEM = 14
    LIMIT = 15
    CORRUPT = 16
    UNSUPPORTED = 17
    CALLBACK = 18
    DETACHED = 19


def status_error(status: int, message: str) -> LowheapError:
    """Return the exception that stands for a status in Python."""
    match status:
        case Status.OUT_OF_MEMORY:
            return HeapExhaustedError(message, 0)
        case Status.TOO_LARGE:
            return AllocationTooLargeError(message)
        case Status.BAD_REFERENCE | Status.NULL_REFERENCE | Status.WRONG_TYPE:
            return InvalidReferenceError(message)
        case Status.BAD_TYPE:
            return TypeDefinitionError(message)
        case Status.NO_GC:
            return NoGcScopeError(message)
        case Status.CORRUPT:
            return HeapCorruptionError([message])
        case Status.UNSUPPORTED:
            return UnsupportedError(message)
        case _:
            return HeapError(message)
