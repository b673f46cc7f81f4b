"""Fuel: compiled code counts the instructions that it runs, by wasmtime's rule, and traps when there is none left.

An instruction takes one unit; what only opens, closes or leaves a construct, `nop` and `drop` take none (`FREE`). The
call of a function takes one more. What works on ranges takes a unit for each element, byte or page besides (`BULK`),
when it has done its work: a range that is out of bounds traps for that, and what did not grow takes none.

What a straight stretch of code takes is known when it is compiled, and is taken off `VMStoreContext.fuel` at once,
where the stretch ends: before control goes elsewhere. Whether any is left is looked up where a function begins, in each
round of a loop, and behind work on a range that is not known to be short. So where a program stops depends on nothing
but the program, its input and the fuel.

Promises: when a function of the host's is called, and when an export returns, the fuel is what wasmtime's would be.
Behind a trap it is less by what wasmtime does not write back then: see `docs/webassembly.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llvmlite import ir

from lowheap.jit import transitions
from lowheap.jit.emit import I32, I64, VOID, Emitter
from lowheap.layout import MOST_FUEL, VMStoreContext
from lowheap.types import ValType
from lowheap.wasm.decode import Instruction

FREE = frozenset(("nop", "drop", "block", "loop", "unreachable", "return", "else", "end", "global.init"))
"""The instructions that take no fuel; the last is no instruction of WebAssembly's."""

BULK = frozenset(
    (
        *(f"memory.{each}" for each in ("copy", "fill", "init", "grow")),
        *(f"table.{each}" for each in ("copy", "fill", "init", "grow")),
        *(f"array.{each}" for each in ("copy", "fill", "init_data", "init_elem")),
        *(f"array.{each}" for each in ("new", "new_default", "new_data", "new_elem")),
    )
)
"""The instructions that take a unit more for each element, byte or page. Of each, how many is on top of the stack."""

_SHORT = 128
"""Work on a range takes no longer than other instructions, if it is known to take so many units at most."""

_ENDING = ("br", "call", "return", "throw", "rethrow", "try", "catch", "delegate")
_ENDS = frozenset(("loop", "if", "else", "end", "unreachable"))


def _ends_stretch(name: str) -> bool:
    """Whether control may go elsewhere at an instruction, or come from elsewhere."""
    return name in _ENDS or name.startswith(_ENDING)


def number_of(init: Sequence[Instruction]) -> int | None:
    """Return the number that is all that an initialiser is, the bits of a float; None where it is something else.

    What has such a one takes no fuel.
    """
    if len(init) != 2 or not init[0].name.endswith(".const"):
        return None
    (number,) = init[0].operands
    assert isinstance(number, int), "decoded: a constant"
    width = 64 if init[0].name.startswith(("i64", "f64")) else 32
    return number & ((1 << width) - 1)


@dataclass(frozen=True, slots=True)
class Exempt:
    """Those instructions of an initialiser, by their numbers, that take nothing; those that take no flat unit; and how
    long the range is that some work on, where that is known.

    `is_entered`: the initialiser goes on where another ended, and its call takes nothing.
    """

    is_entered: bool = False
    wholly: set[int] = field(default_factory=set)
    but_range: set[int] = field(default_factory=set)
    lengths: dict[int, int] = field(default_factory=dict)


class FuelMeter:
    """Has one function count: `emitter`'s.

    With `exempt`, it is an initialiser's: where all is exempt, its call takes nothing either.
    """

    def __init__(self, emitter: Emitter, exempt: Exempt | None) -> None:
        """Start at a function's beginning, behind its prologue."""
        self._emitter, self._exempt = emitter, exempt
        self._untaken = 0
        """What the stretch so far takes."""
        self._range: ir.Value | None = None
        """How long the range is that the instruction works on, where that is to be counted."""
        self._is_entered = exempt is not None and exempt.is_entered
        if exempt is None:
            self._enter()

    def before(self, number: int, instruction: Instruction, stack: Sequence[tuple[ir.Value, ValType]]) -> None:
        """Count an instruction that is about to be compiled, and can be reached; `stack` has its operands on top."""
        exempt, name = self._exempt, instruction.name
        if exempt is not None and number in exempt.wholly:
            if _ends_stretch(name):
                self._take()
            return
        if not self._is_entered:
            self._enter()
        if name not in FREE and (exempt is None or number not in exempt.but_range):
            self._untaken += 1
        if exempt is not None and number in exempt.lengths:
            self._range = I64(exempt.lengths[number])
        elif name in BULK:
            self._range = stack[-1][0]
        elif _ends_stretch(name):
            self._take()

    def after(self, name: str, stack: Sequence[tuple[ir.Value, ValType]]) -> None:
        """Count the range that an instruction has worked on; `stack` has its results on top."""
        length, self._range = self._range, None
        if length is not None:
            self._count_range(length, stack[-1][0] if name.endswith(".grow") else None)

    def check(self) -> None:
        """Trap when no fuel is left."""
        emitter = self._emitter
        builder = emitter.builder
        with emitter.event("fuel"):
            fuel = emitter.load(emitter.store_context, VMStoreContext.fuel)
            with builder.if_then(builder.icmp_signed("<=", fuel, I64(0)), likely=False):
                function = emitter.declare(transitions.FUEL_FUNCTION, VOID, [emitter.vmctx.type, I32])
                args = [emitter.vmctx, emitter.offset_value()]
                builder.call(function, args, cconv=transitions.POLL_CONVENTION)

    def _enter(self) -> None:
        self._is_entered = True
        self._untaken += 1
        self._take()
        self.check()

    def _take(self) -> None:
        """Take what the stretch has come to."""
        if self._untaken:
            self._take_off(I64(self._untaken))
            self._untaken = 0

    def _take_off(self, units: ir.Value) -> None:
        emitter = self._emitter
        with emitter.event("fuel"):
            fuel = emitter.load(emitter.store_context, VMStoreContext.fuel)
            emitter.store(emitter.builder.sub(fuel, units), emitter.store_context, VMStoreContext.fuel)

    def _count_range(self, length: ir.Value, grown: ir.Value | None) -> None:
        """Count a range, unless it is what something should have grown by, and `grown` says that it did not."""
        builder = self._emitter.builder
        width = length.type.width
        if isinstance(length, ir.Constant):
            length = I64(min(length.constant & ((1 << width) - 1), MOST_FUEL))
            if length.constant <= _SHORT:
                self._untaken += length.constant
                return
        with self._emitter.event("fuel"):
            if length.type.width < I64.width:
                length = builder.zext(length, I64)
            elif not isinstance(length, ir.Constant):
                is_less = builder.icmp_unsigned("<", length, I64(MOST_FUEL))
                length = builder.select(is_less, length, I64(MOST_FUEL))
            if grown is not None:
                has_failed = builder.icmp_unsigned("==", grown, ir.Constant(grown.type, -1))
                length = builder.select(has_failed, I64(0), length)
        self._take()
        self._take_off(length)
        self.check()
