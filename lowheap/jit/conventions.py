"""Where a compiled function finds its arguments: in registers, and what these do not hold, behind the store context.

A function takes its vmctx, then its parameters. One result is returned; if there are more, none is, and the caller
passes one more pointer, to a buffer of 8-byte slots for all of them.

C puts on the stack what is beyond the registers, in the caller's frame. A tail call has no such frame: it ends before
the callee begins. (LLVM 22.1 compiles tail calls with arguments on the stack all the same, and does not store them.) So
what goes beyond `INTEGER_REGISTERS` and `FLOAT_REGISTERS` is stored behind the store context just before the call, and
the callee loads it first of all, before anything else can run. Whether it does follows from the signature alone, so
that all modules, trampolines and stubs agree. Only where none of them can come is a function `PRIVATE`.

A tail call, to LLVM, is one between functions of one type. So the functions that have one, or are the callee of one,
are wide: they have parameters for whole registers, as many as any of them needs, and leave undefined what they do not
use. Each argument is in the register where C puts it in the type as written, too, the upper half of an i32's register
zero: who calls a function by its address need not know whether it is wide.

Promises: no tail call has an argument on the stack; what is stored behind the store context is loaded before any other
call, a poll's too, so that no reference there is a root.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llvmlite import ir

from lowheap.jit.emit import F32, I32, I64, PTR, REFERENCE, VOID, Emitter, alignment_of, llvm_type
from lowheap.jit.signatures import COUNTED, LETTERS, UNCOUNTED, Signature
from lowheap.layout import ARGUMENTS_OFFSET, FUNCTION_TABLE_OFFSET, VALUE_SLOT_SIZE

INTEGER_REGISTERS = 5
"""So many integers, references and addresses are in registers, beside the vmctx."""

FLOAT_REGISTERS = 8
"""So many floats are, and vectors."""

LLVM_OF_LETTER: dict[str, ir.Type] = {
    **{letter: llvm_type(type) for type, letter in LETTERS.items()},
    COUNTED: REFERENCE,
    UNCOUNTED: REFERENCE,
}

_FLOAT_REGISTER = ir.VectorType(F32, 4)


class _Poison(ir.Constant):  # type: ignore[misc]  # llvmlite ships no type information
    """A value that nobody looks at, of any type; llvmlite knows none of a vector's."""

    def __init__(self, type: ir.Type) -> None:
        """Make one of a type."""
        super().__init__(type, None)

    def _get_reference(self) -> str:
        return "poison"


@dataclass(frozen=True, slots=True)
class _Argument:
    """An argument: its type, and the number of its register, or its offset behind `ARGUMENTS_OFFSET`."""

    type: ir.Type
    kind: Literal["integer", "float", "memory"]
    number: int

    @property
    def alignment(self) -> int:
        """How it is aligned in memory: as the area is, at most."""
        return min(VALUE_SLOT_SIZE, alignment_of(self.type))

    def address(self, emitter: Emitter) -> ir.Value:
        """Return where it is in memory."""
        address = emitter.at(emitter.store_context, ARGUMENTS_OFFSET + self.number)
        return emitter.named(address, f"argument+{self.number}")


@dataclass(frozen=True, slots=True)
class Convention:
    """How the arguments of a function are passed.

    `is_private`: by C's rules alone, for a function that only plain calls of its own module reach. `width`: how many
    integer and float registers a wide function has as parameters.
    """

    is_private: bool = False
    width: tuple[int, int] | None = None

    def function_type(self, signature: Signature) -> ir.FunctionType:
        """Return the LLVM type of a compiled function of this signature."""
        returned = LLVM_OF_LETTER[signature.results] if len(signature.results) == 1 else VOID
        if self.width is not None:
            return ir.FunctionType(returned, [PTR, *self._registers])
        in_registers = (each.type for each in _arguments(self, signature) if each.kind != "memory")
        return ir.FunctionType(returned, [PTR, *in_registers])

    def arguments(
        self, emitter: Emitter, signature: Signature, vmctx: ir.Value, values: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Return what to call a function with, and store the rest. The call must be what comes next.

        `values` are the arguments, and the address of the buffer for several results.
        """
        if self.is_private:
            return [vmctx, *values]
        registers = list(map(_Poison, self._registers))
        plain: list[ir.Value] = []
        for value, argument in zip(values, _arguments(self, signature), strict=True):
            if argument.kind == "memory":
                emitter.store_typed(value, argument.address(emitter), alignment=argument.alignment)
            elif self.width is None:
                plain.append(value)
            elif argument.kind == "integer":
                registers[argument.number] = _to_integer_register(emitter.builder, value)
            else:
                registers[self.width[0] + argument.number] = _to_float_register(emitter.builder, value)
        return [vmctx, *registers, *plain]

    def parameters(self, emitter: Emitter, signature: Signature) -> list[ir.Value]:
        """Return the values of a function's parameters, and the address of the buffer for several results.

        It comes first in the function: what runs before may be called with other arguments in between.
        """
        registers = emitter.function.args[1:]
        plain = iter(registers)
        values = []
        for argument in _arguments(self, signature):
            type = argument.type
            if argument.kind == "memory":
                value = emitter.load_typed(argument.address(emitter), type, alignment=argument.alignment)
            elif self.width is None:
                value = next(plain)
            elif argument.kind == "integer":
                value = _from_integer_register(emitter.builder, registers[argument.number], type)
            else:
                value = _from_float_register(emitter.builder, registers[self.width[0] + argument.number], type)
            values.append(value)
        return values

    @property
    def _registers(self) -> list[ir.Type]:
        """The types of a wide function's parameters behind the vmctx."""
        integers, floats = self.width or (0, 0)
        return [*[I64] * integers, *[_FLOAT_REGISTER] * floats]


PRIVATE = Convention(is_private=True)
"""For functions that only plain calls of their own module reach."""

SHARED = Convention()
"""For functions that others may call, by their addresses."""


def wide(signatures: Iterable[Signature]) -> Convention:
    """Return the convention of functions that call one another by tail calls, or are called so."""
    integers = floats = 0
    for signature in signatures:
        types = _argument_types(signature)
        count = sum(map(_is_float, types))
        floats = max(floats, min(count, FLOAT_REGISTERS))
        integers = max(integers, min(len(types) - count, INTEGER_REGISTERS))
    return Convention(width=(integers, floats))


def _argument_types(signature: Signature) -> list[ir.Type]:
    return [*(LLVM_OF_LETTER[letter] for letter in signature.params), *[PTR] * (len(signature.results) > 1)]


@functools.lru_cache(maxsize=1024)
def _arguments(convention: Convention, signature: Signature) -> tuple[_Argument, ...]:
    found = []
    integers = floats = size = 0
    for type in _argument_types(signature):
        if _is_float(type):
            if convention.is_private or floats < FLOAT_REGISTERS:
                found.append(_Argument(type, "float", floats))
                floats += 1
                continue
        elif convention.is_private or integers < INTEGER_REGISTERS:
            found.append(_Argument(type, "integer", integers))
            integers += 1
            continue
        found.append(_Argument(type, "memory", size))
        size += max(VALUE_SLOT_SIZE, alignment_of(type))
    assert size <= FUNCTION_TABLE_OFFSET - ARGUMENTS_OFFSET, "no type has so many parameters"
    return tuple(found)


def _is_float(type: ir.Type) -> bool:
    return not isinstance(type, ir.IntType | ir.PointerType)


def _to_integer_register(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    if isinstance(value.type, ir.PointerType):
        return builder.ptrtoint(value, I64)
    return builder.zext(value, I64)


def _from_integer_register(builder: ir.IRBuilder, register: ir.Value, type: ir.Type) -> ir.Value:
    if isinstance(type, ir.PointerType):
        return builder.inttoptr(register, type)
    return builder.trunc(register, type)


def _to_float_register(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    if isinstance(value.type, ir.VectorType):
        return builder.bitcast(value, _FLOAT_REGISTER)
    lanes = ir.VectorType(value.type, 16 // alignment_of(value.type))
    return builder.bitcast(builder.insert_element(_Poison(lanes), value, I32(0)), _FLOAT_REGISTER)


def _from_float_register(builder: ir.IRBuilder, register: ir.Value, type: ir.Type) -> ir.Value:
    if isinstance(type, ir.VectorType):
        return builder.bitcast(register, type)
    lanes = ir.VectorType(type, 16 // alignment_of(type))
    return builder.extract_element(builder.bitcast(register, lanes), I32(0))
