"""Throwing in machine code: that a handler finds its own registers, from any depth, and what stops an exception.

The programs are LLVM's instructions by hand, each function `i32(vmctx, i32)`; what is thrown is an i31.
"""

from __future__ import annotations

import ctypes
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir
from support.combinations import examples

import lowheap as lh
from lowheap.errors import CompilerError, TrapCode
from lowheap.jit import safepoints, transitions, unwinder, unwinding
from lowheap.jit.call_frames import CallFrames
from lowheap.jit.emit import I32, PTR, Emitter, NativeFunction, begin_handler, let_throw
from lowheap.jit.engine import LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.signatures import EXCEPTIONS, Signature
from lowheap.jit.stackmaps import host_architecture
from lowheap.layout import NULL, VMStoreContext
from lowheap.runtime.store_runtime import StoreRuntime, runtime_of
from lowheap.types import FuncType, NumType

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(not unwinder.is_available(), reason="no unwinder is written for this machine"),
]

TYPE = FuncType((NumType.I32,), (NumType.I32,))
SIGNATURE = Signature("i", "i")
MASK = 0xFFFF_FFFF

Body = Callable[["Writer", ir.Value], ir.Value | None]


class Writer(Emitter):
    """Writes a function that may throw; `attempt` calls another, with a handler."""

    def __init__(self, program: Program, name: str) -> None:
        function = NativeFunction(program.module, ir.FunctionType(I32, [PTR, I32]), name, "noinline")
        let_throw(function)
        super().__init__(function)
        self.program = program
        program.functions[name] = function

    def throw(self, value: ir.Value) -> None:
        """Throw a number of up to 31 bits, as an i31."""
        tagged = self.builder.or_(self.builder.shl(value, I32(1)), I32(1))
        self.store(tagged, self.store_context, VMStoreContext.exception)
        transitions.throw(self)

    def call(self, name: str, value: ir.Value) -> ir.Value:
        return safepoints.call(self.builder, self.program.functions[name], [self.vmctx, value])

    def attempt(self, name: str, value: ir.Value) -> tuple[ir.Value, ir.Block]:
        """Call a function; also return the block in which its exceptions are handled."""
        pad = self.function.append_basic_block("pad")
        result = safepoints.invoke(self.builder, self.program.functions[name], [self.vmctx, value], pad)
        begin_handler(self.function, pad)
        return result, pad

    def caught(self) -> ir.Value:
        """Take what was thrown, at the beginning of a handler."""
        found = self.load(self.store_context, VMStoreContext.exception)
        self.store(NULL, self.store_context, VMStoreContext.exception)
        return self.builder.lshr(found, I32(1))

    def values(self, seed: ir.Value, count: int) -> list[ir.Value]:
        """Numbers that LLVM must keep: it does not know what they are made from."""
        slot = self.builder.alloca(I32)
        self.builder.store(seed, slot)
        found = []
        for number in range(count):
            load = self.builder.load(slot)
            found.append(self.builder.mul(self.builder.xor(load, I32(number)), I32(2 * number + 3)))
        return found

    def mixed(self, values: list[ir.Value]) -> ir.Value:
        total: ir.Value = I32(7)
        for value in values:
            total = self.builder.add(self.builder.mul(total, I32(31)), value)
        return total


def values_of(seed: int, count: int) -> list[int]:
    return [(seed ^ number) * (2 * number + 3) & MASK for number in range(count)]


def mixed_of(values: list[int]) -> int:
    total = 7
    for value in values:
        total = (total * 31 + value) & MASK
    return total


class Program:
    """Functions in one module, linked into a store of their own or another's."""

    def __init__(self, store: lh.Store | None = None, opt_level: int = 2) -> None:
        self.module = ir.Module("program")
        self.functions: dict[str, ir.Function] = {}
        self.store = store or lh.Store(lh.Engine())
        self.runtime: StoreRuntime = runtime_of(self.store)
        self.opt_level = opt_level

    def define(self, name: str, body: Body) -> None:
        writer = Writer(self, name)
        result = body(writer, writer.function.args[1])
        if result is not None:
            writer.builder.ret(result)
        safepoints.fill_safepoints(writer.function, [])

    def link(self, *exported: str) -> dict[str, Callable[[int], int]]:
        """Return the functions of these names, as Python calls them."""
        for name, function in self.functions.items():
            if name not in exported:
                function.linkage = "internal"
        transitions.define(self.module, lambda *_: None)
        transitions.define_entry(self.module, SIGNATURE)
        mark = ir.GlobalVariable(self.module, ir.IntType(8), EXCEPTIONS)
        mark.initializer = ir.IntType(8)(0)
        code = compile_ir(self.module, (*exported, SIGNATURE.entry, EXCEPTIONS), opt_level=self.opt_level)
        self.code = LoadedCode(code)
        self.runtime.keep(self.code)
        self.runtime.add_stack_map(self.code)
        entry = self.code.address(SIGNATURE.entry)

        def caller(name: str) -> Callable[[int], int]:
            call = self.runtime.caller(entry, self.runtime.vmctx_address, self.code.address(name), TYPE, name)
            return lambda value: call([value]) & MASK

        return {name: caller(name) for name in exported}

    def address_of_import(self, name: str) -> int:
        return self.code.address(name)


def throwing(writer: Writer, value: ir.Value) -> ir.Value:
    """Throw an odd number; return an even one."""
    is_odd = writer.builder.trunc(value, ir.IntType(1))
    with writer.builder.if_then(is_odd):
        writer.throw(value)
    return value


def passing(count: int, callee: str) -> Body:
    """Keep `count` values over a call of another function."""

    def body(writer: Writer, value: ir.Value) -> ir.Value:
        kept = writer.values(value, count)
        result = writer.call(callee, value)
        return writer.builder.add(writer.mixed(kept), result)

    return body


def catching(count: int, callee: str) -> Body:
    """Keep `count` values over the call of a function that throws, and mix them with what it has thrown."""

    def body(writer: Writer, value: ir.Value) -> None:
        kept = writer.values(value, count)
        result, pad = writer.attempt(callee, value)
        writer.builder.ret(result)
        writer.builder.position_at_end(pad)
        writer.builder.ret(writer.mixed([*kept, writer.caught()]))

    return body


COUNTS = (5, 0, 3, 9, 1, 2, 0, 6, 4, 7)
"""How many values the frames in between keep: some take all registers, and spill, some take none."""


def nested(depth: int, kept: int = 5, opt_level: int = 2) -> Program:
    program = Program(opt_level=opt_level)
    program.define("throwing", throwing)
    callee = "throwing"
    for number in range(depth):
        program.define(f"f{number}", passing(COUNTS[number % len(COUNTS)], callee))
        callee = f"f{number}"
    program.define("top", catching(kept, callee))
    return program


@pytest.mark.parametrize("opt_level", [2, 0])
@pytest.mark.parametrize("kept", [0, 2, 5, 8])
@pytest.mark.parametrize("depth", [0, 1, 10])
def test_a_handler_finds_what_its_function_kept(depth: int, kept: int, opt_level: int) -> None:
    top = nested(depth, kept, opt_level).link("top")["top"]
    for value in (1, 12345, 0x3FFF_FFFF):
        assert top(value) == mixed_of([*values_of(value, kept), value])
    expected = 4
    for number in range(depth):
        expected = (mixed_of(values_of(4, COUNTS[number])) + expected) & MASK
    assert top(4) == expected


def test_callers_registers_are_right_behind_a_handler_too() -> None:
    """Also those that the handler's function keeps for who calls it."""
    program = nested(10)
    program.define("outer", passing(8, "top"))
    outer = program.link("outer")["outer"]
    assert outer(3) == (mixed_of(values_of(3, 8)) + mixed_of([*values_of(3, 5), 3])) & MASK


def test_twenty_thousand_throws_leave_nothing_behind() -> None:
    program = nested(10)

    def body(writer: Writer, value: ir.Value) -> None:
        builder = writer.builder
        loop, done = (writer.function.append_basic_block(each) for each in ("loop", "done"))
        start = builder.block
        builder.branch(loop)
        builder.position_at_end(loop)
        number, total = builder.phi(I32), builder.phi(I32)
        result = writer.call("top", builder.or_(number, I32(1)))
        following = builder.add(number, I32(1))
        summed = builder.add(total, result)
        builder.cbranch(builder.icmp_unsigned("<", following, value), loop, done)
        for phi, next in ((number, following), (total, summed)):
            phi.add_incoming(I32(0), start)
            phi.add_incoming(next, loop)
        builder.position_at_end(done)
        builder.ret(summed)

    program.define("repeat", body)
    repeat = program.link("repeat")["repeat"]
    expected = sum(mixed_of([*values_of(number | 1, 5), number | 1]) for number in range(20_000)) & MASK
    assert repeat(20_000) == expected


def test_a_handler_that_throws_again_and_one_that_is_inlined() -> None:
    """The inner handler's function is put into the outer's, so a call has two handlers, one behind the other."""
    program = Program()
    program.define("throwing", throwing)

    def again(writer: Writer, value: ir.Value) -> None:
        result, pad = writer.attempt("throwing", value)
        writer.builder.ret(result)
        writer.builder.position_at_end(pad)
        writer.throw(writer.builder.add(writer.caught(), I32(100)))

    program.define("again", again)
    program.functions["again"].attributes.discard("noinline")
    program.functions["again"].attributes.add("alwaysinline")
    program.define("top", catching(5, "again"))
    top = program.link("top")["top"]
    assert "again" not in program.code._code.symbols
    assert top(8) == 8
    assert top(9) == mixed_of([*values_of(9, 5), 109])


def test_an_exception_without_a_handler_comes_to_the_trampoline() -> None:
    program = Program()
    exception = lh.WasmException(lh.Tag(program.store, FuncType((), ())))

    def throw(writer: Writer, value: ir.Value) -> None:
        writer.store(I32(exception.exnref.reference), writer.store_context, VMStoreContext.exception)
        transitions.throw(writer)

    program.define("throwing", throw)
    program.define("middle", passing(5, "throwing"))
    program.define("bare", passing(3, "middle"))
    bare = program.link("bare")["bare"]
    context = program.runtime.context
    for _ in range(3):
        with pytest.raises(lh.WasmException) as caught:
            bare(11)
        assert caught.value.exnref == exception.exnref
        assert (context.activation, context.exception) == (0, NULL)


def test_traps_pass_all_handlers() -> None:
    program = Program()

    def trapping(writer: Writer, value: ir.Value) -> ir.Value:
        writer.trap_if(writer.builder.trunc(value, ir.IntType(1)), TrapCode.UNREACHABLE)
        return value

    program.define("throwing", trapping)
    program.define("top", catching(5, "throwing"))
    top = program.link("top")["top"]
    assert top(2) == 2
    with pytest.raises(lh.Trap):
        top(3)
    assert top(2) == 2


def test_references_that_a_handler_uses_are_in_the_list_and_the_frame() -> None:
    """Also where the function has a root frame from the start."""
    for most in (safepoints.MOST_LISTED, 0):
        program = Program()
        program.define("throwing", throwing)
        writer = Writer(program, "top")
        builder, (_, argument) = writer.builder, writer.function.args
        made = writer.call("throwing", argument)  # a reference
        result, pad = writer.attempt("throwing", made)
        normal = builder.block
        builder.ret(builder.sub(builder.add(writer.call("throwing", I32(6)), result), I32(6)))
        builder.position_at_end(pad)
        builder.ret(builder.add(made, writer.caught()))
        references = [argument, made, result]
        original, safepoints.MOST_LISTED = safepoints.MOST_LISTED, most
        try:
            safepoints.fill_safepoints(writer.function, references)
        finally:
            safepoints.MOST_LISTED = original
        invoke = pad.parent.blocks[0].terminator
        assert isinstance(invoke, safepoints.SafepointInvoke)
        if most:
            assert invoke.live == (made,)
        else:
            assert invoke.slots is not None
            assert invoke.slots[1].bit_count() == 1
            assert any(isinstance(each, ir.StoreInstr) and each.operands[0] is result for each in normal.instructions)
        top = program.link("top")["top"]
        assert top(4) == 4
        counts = {len(slots) for slots in program.code.stack_map.by_return_address.values()}
        assert counts == {0, 1}


def test_a_call_that_is_not_in_the_table_is_told() -> None:
    """As an exception that comes to code of which nothing is known."""
    program = nested(1)
    top = program.link("top")["top"]
    assert top(5) == mixed_of([*values_of(5, 5), 5])
    context = program.runtime.context
    entries, _ = program.runtime._unwind_table
    for entry in entries:
        if entry.return_address and not entry.landing_pad:
            entry.return_address += 1
    with pytest.raises(CompilerError, match="may throw"):
        top(5)
    assert context.exception == NULL
    context.unwind_entries = 0  # it is made again
    assert top(5) == mixed_of([*values_of(5, 5), 5])


def test_what_fails_while_the_table_is_made_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    program = nested(1)
    top = program.link("top")["top"]

    def fail(self: CallFrames, number: int) -> bool:
        raise CompilerError("no rules today")

    with monkeypatch.context() as patch:
        patch.setattr(CallFrames, "has_rules", fail)
        with pytest.raises(CompilerError, match="no rules today"):
            top(5)
    assert program.runtime.context.exception == NULL
    assert program.runtime._store.heap.control.no_gc_count == 0
    assert top(5) == mixed_of([*values_of(5, 5), 5])


def test_functions_that_throw_nothing_are_not_in_the_table() -> None:
    program = Program()
    program.define("throwing", throwing)
    program.define("top", catching(2, "throwing"))
    quiet = Writer(program, "quiet")
    quiet.function.attributes.add("nounwind")
    quiet.builder.ret(quiet.call("throwing", I32(2)))
    safepoints.fill_safepoints(quiet.function, [])
    program.link("top", "quiet")
    known = set(program.code.stack_map.by_return_address)
    assert set(program.code.unwind_entries) < known
    sites = map(program.code.call_sites.find, known - set(program.code.unwind_entries))
    assert {site.function for site in sites if site} == {"quiet"}


@functools.cache
def a_module() -> tuple[Program, dict[str, tuple[int, int]]]:
    """A linked module with handlers, and where the sections are in its object file that the unwinder goes by."""
    program = nested(3)
    program.link("top")
    sections = {each.name: each for each in ELFFile(io.BytesIO(program.code._code.object)).iter_sections()}
    names = (".eh_frame", ".rela.eh_frame", ".gcc_except_table", ".rela.llvm_stackmaps", ".symtab")
    return program, {name: (sections[name]["sh_offset"], sections[name]["sh_size"]) for name in names}


@settings(max_examples=examples(60, 600), deadline=None)
@given(st.data())
def test_damaged_tables_are_refused_or_read(data: st.DataObject) -> None:
    program, sections = a_module()
    start, size = sections[data.draw(st.sampled_from(sorted(sections)))]
    image = bytearray(program.code._code.object)
    for _ in range(data.draw(st.integers(1, 3))):
        image[start + data.draw(st.integers(0, size - 1))] = data.draw(st.integers(0, 255))
    code = program.code._code
    try:
        found = unwinding.read(bytes(image), code.statepoints, code.stack_map, program.code._functions)
    except CompilerError:
        return
    assert set(found) <= set(program.code.stack_map.by_return_address)


def test_landing_pads_and_registers_are_of_their_functions() -> None:
    program = nested(2)
    program.link("top")
    entries: dict[int, Any] = program.code.unwind_entries
    pads = [entry.landing_pad for entry in entries.values() if entry.landing_pad]
    assert len(pads) == 1
    site = program.code.call_sites.find(pads[0])
    assert site is not None
    assert site.function == "top"
    kept = host_architecture().kept_registers
    assert all(register in kept and offset < 0 for entry in entries.values() for register, offset in entry.registers)
    assert {len(entry.registers) for entry in entries.values()} >= {0, 5}
    assert ctypes.sizeof(ctypes.c_uint64) * len(kept) == -min(unwinder.places().values())
