"""Modules as the text that LLVM reads, printed for that alone: quickly, and with numbers in place of names.

llvmlite prints for readers as well: each instruction by itself, each value with a name of its own. LLVM keeps such
names, and makes new ones of them wherever it copies code. In what `print_module` prints, blocks have numbers, and so do
instructions that were not given a name; numbers take LLVM no time at all. Otherwise the two say the same.

Promises: a function that has an instruction of a class that is not known here is printed by llvmlite, names and all.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from llvmlite.ir import instructions

from lowheap.jit.emit import VolatileLoad
from lowheap.jit.safepoints import SafepointCall, SafepointInvoke


def print_module(module: ir.Module) -> str:
    """Return a module as text for LLVM."""
    lines = [f'target triple = "{module.triple}"', f'target datalayout = "{module.data_layout}"']
    lines += module._get_body_lines() if module.get_identified_types() else map(_print_global, module.globals.values())
    lines += module._get_metadata_lines()
    return "\n".join(lines)


def _print_global(value: ir.GlobalValue) -> str:
    if not isinstance(value, ir.Function) or value.is_declaration:
        return str(value)
    printer = _Printer(value)
    if not printer.is_known:
        return str(value)
    lines: list[str] = []
    value.descr_prototype(lines)
    lines.append("{\n")
    printer.print(lines)
    lines.append("}\n")
    return "".join(lines)


class _Printer:
    """Prints the body of one function."""

    def __init__(self, function: ir.Function) -> None:
        """Number blocks and instructions, in the order in which they are printed, as LLVM wants it."""
        self.blocks = function.blocks
        self.is_known = True  # whether there is a format for each instruction
        self.numbered: dict[int, str] = {}  # by id
        self.types: dict[int, str] = {}  # likewise
        number = 0
        for block in self.blocks:
            self.numbered[id(block)] = f"%{number}"
            number += 1
            for instruction in block.instructions:
                kind = type(instruction)
                if kind not in _FORMATS or (kind in _CALLS and instruction.arg_attributes):
                    self.is_known = False
                    return
                if kind in _WITHOUT_RESULT or isinstance(instruction.type, ir.VoidType):
                    continue
                if instruction.name[0] == ".":  # llvmlite's own, in place of none
                    self.numbered[id(instruction)] = f"%{number}"
                    number += 1
                else:
                    self.numbered[id(instruction)] = instruction.get_reference()

    def print(self, lines: list[str]) -> None:
        """Append the lines of the body."""
        numbered, formats = self.numbered, _FORMATS
        for block in self.blocks:
            lines.append(f"{numbered[id(block)][1:]}:\n")
            for instruction in block.instructions:
                text = formats[type(instruction)](self, instruction)
                if instruction.metadata:
                    text += instruction._stringify_metadata(leading_comma=True)
                name = numbered.get(id(instruction))
                lines.append(f"  {text}\n" if name is None else f"  {name} = {text}\n")

    def reference(self, value: ir.Value) -> str:
        """How a value is written where it is used."""
        return self.numbered.get(id(value)) or value.get_reference()

    def typed(self, value: ir.Value) -> str:
        """Likewise, with its type in front."""
        return f"{self.type(value.type)} {self.numbered.get(id(value)) or value.get_reference()}"

    def type(self, type: ir.Type) -> str:
        """How a type is written."""
        found = self.types.get(id(type))
        if found is None:
            found = self.types[id(type)] = str(type)
        return found


# --- One function for each class of instructions, which leaves the metadata out ---------------------------------------


def _plain(printer: _Printer, instruction: ir.Instruction) -> str:
    first, *others = instruction.operands
    opcode = " ".join((instruction.opname, *instruction.flags)) if instruction.flags else instruction.opname
    text = f"{opcode} {printer.typed(first)}"
    for other in others:
        text += f", {printer.reference(other)}"
    return text


def _unreachable(printer: _Printer, instruction: ir.Instruction) -> str:
    return "unreachable"


def _compare(printer: _Printer, instruction: ir.CompareInstr) -> str:
    left, right = instruction.operands
    opcode = " ".join((instruction.opname, *instruction.flags, instruction.op))
    return f"{opcode} {printer.typed(left)}, {printer.reference(right)}"


def _cast(printer: _Printer, instruction: ir.CastInstr) -> str:
    return f"{instruction.opname} {printer.typed(instruction.operands[0])} to {printer.type(instruction.type)}"


def _aligned(instruction: ir.Instruction) -> str:
    return "" if instruction.align is None else f", align {instruction.align}"


def _load(printer: _Printer, instruction: ir.LoadInstr) -> str:
    (address,) = instruction.operands
    return f"load {printer.type(instruction.type)}, ptr {printer.reference(address)}{_aligned(instruction)}"


def _volatile_load(printer: _Printer, instruction: VolatileLoad) -> str:
    return instruction.volatile(_load(printer, instruction))


def _store(printer: _Printer, instruction: ir.StoreInstr) -> str:
    value, address = instruction.operands
    return f"store {printer.typed(value)}, ptr {printer.reference(address)}{_aligned(instruction)}"


def _alloca(printer: _Printer, instruction: ir.AllocaInstr) -> str:
    count = "".join(f", {printer.typed(each)}" for each in instruction.operands)
    return f"alloca {printer.type(instruction.allocated_type)}{count}{_aligned(instruction)}"


def _element(printer: _Printer, instruction: ir.GEPInstr) -> str:
    inbounds = "inbounds " * bool(instruction.inbounds)
    indices = ", ".join(map(printer.typed, instruction.indices))
    of = printer.type(instruction.source_etype)
    return f"getelementptr {inbounds}{of}, ptr {printer.reference(instruction.pointer)}, {indices}"


def _phi(printer: _Printer, instruction: ir.PhiInstr) -> str:
    reference = printer.reference
    incoming = ", ".join(f"[{reference(value)}, {reference(block)}]" for value, block in instruction.incomings)
    return f"{' '.join(('phi', *instruction.flags))} {printer.type(instruction.type)} {incoming}"


def _select(printer: _Printer, instruction: ir.SelectInstr) -> str:
    operands = ", ".join(map(printer.typed, instruction.operands))
    return f"{' '.join(('select', *instruction.flags))} {operands}"


def _branch(printer: _Printer, instruction: ir.Instruction) -> str:
    return f"br {', '.join(map(printer.typed, instruction.operands))}"


def _switch(printer: _Printer, instruction: ir.SwitchInstr) -> str:
    cases = " ".join(f"{printer.typed(value)}, label {printer.reference(block)}" for value, block in instruction.cases)
    return f"switch {printer.typed(instruction.value)}, label {printer.reference(instruction.default)} [{cases}]"


def _return(printer: _Printer, instruction: ir.Ret) -> str:
    return "ret " + (printer.typed(instruction.operands[0]) if instruction.operands else "void")


def _call(printer: _Printer, instruction: ir.CallInstr) -> str:
    callee = instruction.callee
    type = callee.function_type
    start = " ".join(
        filter(None, (instruction.tail, instruction.opname, *sorted(instruction.fastmath), instruction.cconv))
    )
    called = printer.type(type if type.var_arg else type.return_type)
    arguments = ", ".join(map(printer.typed, instruction.args))
    attributes = "".join(f" {each}" for each in sorted(instruction.attributes))
    return f"{start} {called} {printer.reference(callee)}({arguments}){attributes}"


def _extract(printer: _Printer, instruction: instructions.ExtractElement) -> str:
    return f"extractelement {', '.join(map(printer.typed, instruction.operands))}"


def _insert(printer: _Printer, instruction: instructions.InsertElement) -> str:
    return f"insertelement {', '.join(map(printer.typed, instruction.operands))}"


def _safepoint(printer: _Printer, instruction: SafepointCall) -> str:
    return f"{_call(printer, instruction)} {instruction.bundle(printer.reference)}"


def _invoke(printer: _Printer, instruction: SafepointInvoke) -> str:
    return f"{_safepoint(printer, instruction)} {instruction.ways(printer.reference)}"


def _landing_pad(printer: _Printer, instruction: ir.LandingPadInstr) -> str:
    return " ".join((instruction.opname, str(instruction.type), *map(str, instruction.clauses)))


_FORMATS: dict[type, Callable[..., str]] = {
    ir.Instruction: _plain,
    instructions.Unreachable: _unreachable,
    ir.ICMPInstr: _compare,
    ir.FCMPInstr: _compare,
    ir.CastInstr: _cast,
    ir.LoadInstr: _load,
    VolatileLoad: _volatile_load,
    ir.StoreInstr: _store,
    ir.AllocaInstr: _alloca,
    ir.GEPInstr: _element,
    ir.PhiInstr: _phi,
    ir.SelectInstr: _select,
    ir.Branch: _branch,
    ir.ConditionalBranch: _branch,
    ir.SwitchInstr: _switch,
    ir.Ret: _return,
    instructions.ExtractElement: _extract,
    instructions.InsertElement: _insert,
    ir.CallInstr: _call,
    SafepointCall: _safepoint,
    SafepointInvoke: _invoke,
    ir.LandingPadInstr: _landing_pad,
}
_CALLS = (ir.CallInstr, SafepointCall, SafepointInvoke)
_WITHOUT_RESULT = (ir.Branch, ir.ConditionalBranch, ir.StoreInstr, ir.Ret)
"""Some of the classes whose instructions have none."""
