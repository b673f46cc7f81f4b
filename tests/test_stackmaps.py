"""Stack maps and frame walks, proven on native code: what the maps report is compared with what a program's source
says.

The runtime of these tests is two native functions: `enter` calls a compiled function and notes its own frame, `collect`
notes its own frame and calls back into Python, which walks the frames between the two and reads every reported slot.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import random
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llvmlite import binding, ir
from support.combinations import examples

from lowheap.errors import CompilerError
from lowheap.jit import safepoints, stackmaps
from lowheap.jit.call_frames import CallFrames
from lowheap.jit.stackmaps import Architecture, FunctionRecord, SafepointRecord, Slots, StackMap, StackMapRegistry

pytestmark = pytest.mark.compiler

binding.initialize_native_target()
binding.initialize_native_asmprinter()

RUNTIME = """
@callback = global ptr null
@exit_frame = global i64 0
@entry_frame = global i64 0
declare ptr @llvm.frameaddress.p0(i32)

define i32 @collect(i32 %tag) #0 {
  %frame = call ptr @llvm.frameaddress.p0(i32 0)
  %address = ptrtoint ptr %frame to i64
  store i64 %address, ptr @exit_frame
  %callback = load ptr, ptr @callback
  %result = notail call i32 %callback(i32 %tag)
  ret i32 %result
}

define i32 @enter(ptr %target, i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %previous = load i64, ptr @entry_frame
  %frame = call ptr @llvm.frameaddress.p0(i32 0)
  %address = ptrtoint ptr %frame to i64
  store i64 %address, ptr @entry_frame
  %result = notail call i32 %target(i32 %a, i32 %b, i32 %c, i32 %d)
  store i64 %previous, ptr @entry_frame
  ret i32 %result
}

attributes #0 = { noinline "frame-pointer"="all" }
"""

HEAD = """
declare i32 @collect(i32)
attributes #0 = { nounwind "frame-pointer"="all" }
attributes #1 = { nounwind noinline "frame-pointer"="all" }
attributes #2 = { nounwind noinline minsize optsize "frame-pointer"="all" }
"""


def target_machine(codemodel: str = "small") -> binding.TargetMachine:
    return binding.Target.from_default_triple().create_target_machine(opt=2, reloc="pic", codemodel=codemodel)


def optimise(text: str, machine: binding.TargetMachine) -> str:
    module = binding.parse_assembly(text)
    module.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    builder = binding.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return str(module)


def emit(text: str, machine: binding.TargetMachine) -> bytes:
    module = binding.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


HOST = stackmaps.host_architecture()
UNTOLD = dataclasses.replace(HOST, name="untold", caller_stack_pointer_offset=None)
"""The host, as if its frame records were anywhere in their frames, as they are on AArch64 Linux."""


def named(architecture: Architecture) -> str:
    return architecture.name


RUNTIME_OBJECT = emit(RUNTIME, target_machine())
_library_numbers = itertools.count()


class Library:
    """A linked program of one or more modules, with the runtime; `run` records what every collection sees."""

    def __init__(
        self,
        *texts: str,
        optimised: bool = True,
        codemodel: str = "small",
        architecture: Architecture = HOST,
    ) -> None:
        self.architecture = architecture
        machine = target_machine(codemodel)
        self.jit = binding.create_lljit_compiler(target_machine(codemodel), use_jit_link=True)
        self.registry = StackMapRegistry()
        self.modules: list[safepoints.StatepointModule] = []
        self.maps: list[StackMap] = []
        self.optimised: list[str] = []
        self.trackers: list[binding.ResourceTracker] = []
        runtime_name = f"runtime{next(_library_numbers)}"
        runtime = binding.JITLibraryBuilder().add_object_img(RUNTIME_OBJECT)
        symbols = ("enter", "collect", "callback", "exit_frame", "entry_frame")
        for symbol in symbols:
            runtime.export_symbol(symbol)
        self.runtime = runtime.link(self.jit, runtime_name)
        libraries = [runtime_name]
        for text in texts:
            self.optimised.append(optimise(text, machine) if optimised else text)
            module = safepoints.lower_statepoints(self.optimised[-1], with_call_frames=architecture.needs_call_frames)
            image = emit(module.text, machine)
            linker = binding.JITLibraryBuilder().add_object_img(image)
            if module.functions:
                linker.export_symbol(safepoints.FUNCTIONS_GLOBAL)
            for library in libraries:
                linker.add_jit_library(library)
            library = f"library{next(_library_numbers)}"
            tracker = linker.link(self.jit, library)
            libraries.append(library)
            self.trackers.append(tracker)
            addresses: list[int] = []
            if module.functions:
                table = ctypes.c_uint64 * len(module.functions)
                addresses = list(table.from_address(tracker[safepoints.FUNCTIONS_GLOBAL]))
            stack_map = StackMap(module, stackmaps.read(image, architecture), addresses)
            self.registry.add(stack_map)
            self.modules.append(module)
            self.maps.append(stack_map)
        self.library = libraries[-1]
        self.collections: list[tuple[int, list[list[int]]]] = []
        self.on_collect: Callable[[int], int] = lambda tag: 16 * tag
        self.error: BaseException | None = None
        self._callback = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32)(self._collect)
        address = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert address
        ctypes.c_uint64.from_address(self.runtime["callback"]).value = address
        self._enter = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint64, *[ctypes.c_uint32] * 4)(self.runtime["enter"])

    def frame_pointers(self) -> tuple[int, int]:
        return (
            ctypes.c_uint64.from_address(self.runtime["exit_frame"]).value,
            ctypes.c_uint64.from_address(self.runtime["entry_frame"]).value,
        )

    def _collect(self, tag: int) -> int:
        try:
            exit_frame, entry_frame = self.frame_pointers()
            values = []
            addresses = []
            for frame in stackmaps.walk_frames(exit_frame, entry_frame, architecture=self.architecture):
                frame_values = []
                for slots in self.registry.lookup(frame.return_address):
                    is_stack_relative = slots.register == self.architecture.stack_pointer_register
                    base = frame.stack_pointer if is_stack_relative else frame.frame_pointer
                    assert base is not None
                    for number in range(64):
                        if slots.mask >> number & 1:
                            addresses.append(base + slots.offset + 4 * number)
                            frame_values.append(ctypes.c_uint32.from_address(addresses[-1]).value)
                values.append(sorted(frame_values))
            found = stackmaps.stack_slots(self.registry, exit_frame, entry_frame, architecture=self.architecture)
            assert list(found) == addresses
            self.collections.append((tag, values))
            return self.on_collect(tag)
        except BaseException as error:
            self.error = error
            return 0

    def address(self, name: str) -> int:
        tracker = self.jit.lookup(self.library, name)
        self.trackers.append(tracker)
        return int(tracker[name])

    def call(self, address: int, *args: int) -> int:
        return int(self._enter(address, *args, *[0] * (4 - len(args))))

    def run(self, *args: int, function: str = "main") -> int:
        result = self.call(self.address(function), *args)
        if self.error:
            raise self.error
        return result


A, B, C, D = 0x1000, 0x2010, 0x3020, 0x4030


# --- Native code: what each collection sees ---------------------------------------------------------------------------


@pytest.mark.parametrize("codemodel", ["small", "large"])
def test_direct_call_reports_what_is_listed_and_keeps_values_intact(codemodel: str) -> None:
    program = Library(
        HEAD
        + """
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %a, i32 %b) ]
  %s = call i32 @collect(i32 2) [ "deopt"(i32 %b, i32 %r) ]
  %t = call i32 @collect(i32 %d) [ "deopt"() ]
  %x = xor i32 %b, %r
  %y = mul i32 %x, %c
  %z = add i32 %y, %s
  %w = add i32 %z, %t
  ret i32 %w
}
""",
        codemodel=codemodel,
    )
    assert program.run(A, B, C, D) == (((B ^ 16) * C) + 32 + 16 * D) & 0xFFFFFFFF
    assert program.collections == [(1, [sorted([A, B])]), (2, [sorted([B, 16])]), (D, [[]])]


def test_each_frame_of_a_recursion_reports_its_own() -> None:
    program = Library(
        HEAD
        + """
define internal i32 @down(i32 %n, i32 %ref) #1 {
  %done = icmp eq i32 %n, 0
  br i1 %done, label %bottom, label %more
bottom:
  %r = call i32 @collect(i32 7) [ "deopt"() ]
  ret i32 %r
more:
  %m = sub i32 %n, 1
  %next = add i32 %ref, 16
  %below = call i32 @down(i32 %m, i32 %next) [ "deopt"(i32 %ref) ]
  %sum = add i32 %below, %ref
  ret i32 %sum
}
define i32 @main(i32 %n, i32 %ref, i32 %c, i32 %d) #0 {
  %r = call i32 @down(i32 %n, i32 %ref) [ "deopt"(i32 %c) ]
  %s = xor i32 %r, %c
  ret i32 %s
}
"""
    )
    expected = 7 * 16 + sum(B + 16 * i for i in range(5))
    assert program.run(5, B, C) == expected ^ C
    assert program.collections == [(7, [[], *([B + 16 * i] for i in reversed(range(5))), [C]])]
    assert program.modules[0].functions == ("down", "main")

    program.collections.clear()
    depth = 10_000
    assert program.run(depth, B, C) == (7 * 16 + sum(B + 16 * i for i in range(depth))) ^ C
    assert program.collections == [(7, [[], *([B + 16 * i] for i in reversed(range(depth))), [C]])]


def test_indirect_callee() -> None:
    program = Library(
        HEAD
        + """
@table = global [2 x ptr] [ptr @first, ptr @second]
define internal i32 @first(i32 %x) #1 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  %s = add i32 %r, %x
  ret i32 %s
}
define internal i32 @second(i32 %x) #1 {
  %r = call i32 @collect(i32 2) [ "deopt"() ]
  ret i32 %r
}
define i32 @main(i32 %which, i32 %b, i32 %c, i32 %d) #0 {
  %wide = zext i32 %which to i64
  %at = getelementptr ptr, ptr @table, i64 %wide
  %function = load volatile ptr, ptr %at
  %r = call i32 %function(i32 %b) [ "deopt"(i32 %c) ]
  %s = xor i32 %r, %c
  ret i32 %s
}
"""
    )
    assert program.run(0, B, C) == (B + 16) ^ C
    assert program.run(1, B, C) == 32 ^ C
    assert program.collections == [(1, [[B], [C]]), (2, [[], [C]])]
    assert [point.callee for point in program.modules[0].statepoints] == ["collect", "collect", "%function"]


def test_inlining_merges_the_lists_of_caller_and_callee() -> None:
    program = Library(
        HEAD
        + """
define internal i32 @inner(i32 %x, i32 %y) #0 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %y) ]
  %s = add i32 %r, %y
  ret i32 %s
}
define internal i32 @middle(i32 %x, i32 %y, i32 %z) #0 {
  %r = call i32 @inner(i32 %x, i32 %y) [ "deopt"(i32 %z) ]
  %s = xor i32 %r, %z
  ret i32 %s
}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @middle(i32 %a, i32 %b, i32 %c) [ "deopt"(i32 %d) ]
  %s = add i32 %r, %d
  ret i32 %s
}
"""
    )
    assert "@inner" not in program.optimised[0]
    assert program.modules[0].functions == ("main",)
    assert program.run(A, B, C, D) == ((16 + B) ^ C) + D
    assert program.collections == [(1, [sorted([B, C, D])])]


@pytest.mark.parametrize("architecture", [HOST, UNTOLD], ids=named)
@pytest.mark.parametrize("group", ["#1", "#2"])
@pytest.mark.parametrize("convention", ["", "fastcc ", "coldcc "])
def test_calling_conventions_and_stack_arguments(convention: str, group: str, architecture: Architecture) -> None:
    """Twelve arguments: some travel on the stack, pushed or stored, which must not shift the slots."""
    if convention == "coldcc " and HOST is not stackmaps.X86_64:
        pytest.skip("LLVM has no coldcc for AArch64; nothing here makes one of a function")
    parameters = ", ".join(f"i32 %p{i}" for i in range(12))
    arguments = ", ".join(f"i32 %v{i}" for i in range(12))
    values = "\n".join(f"  %v{i} = add i32 %a, {i * 16}" for i in range(12))
    total = "\n".join(f"  %t{i + 1} = add i32 %t{i}, %v{i}" for i in range(12))
    inner = "\n".join(f"  %q{i + 1} = add i32 %q{i}, %p{i}" for i in range(12))
    visibility = "internal " if convention == "fastcc " else ""
    program = Library(
        HEAD
        + f"""
define {visibility}{convention}i32 @many({parameters}) {group} {{
  %q0 = call i32 @collect(i32 3) [ "deopt"(i32 %p0, i32 %p6, i32 %p11) ]
{inner}
  ret i32 %q12
}}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) {group} {{
{values}
  %t0 = call {convention}i32 @many({arguments}) [ "deopt"(i32 %v0, i32 %v11, i32 %b) ]
{total}
  %u = xor i32 %t12, %b
  ret i32 %u
}}
""",
        architecture=architecture,
    )
    if convention:
        assert f"call {convention}token" in program.modules[0].text
    total_of_values = sum(A + 16 * i for i in range(12))
    assert program.run(A, B) == (48 + 2 * total_of_values) ^ B
    assert program.collections == [(3, [[A, A + 6 * 16, A + 11 * 16], sorted([A, A + 11 * 16, B])])]


def test_global_optimiser_makes_an_internal_function_fastcc() -> None:
    """Nobody wrote fastcc here: LLVM did, and the statepoint follows."""
    program = Library(
        HEAD
        + """
define internal i32 @callee(i32 %x, i32 %unused, i32 %y) #1 {
  %r = call i32 @collect(i32 %x) [ "deopt"(i32 %y) ]
  %s = add i32 %r, %y
  ret i32 %s
}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @callee(i32 5, i32 %b, i32 %c) [ "deopt"(i32 %d) ]
  %s = xor i32 %r, %d
  ret i32 %s
}
"""
    )
    assert re.search(r"call fastcc token .* @callee, i32 [12],", program.modules[0].text)
    assert program.run(A, B, C, D) == (80 + C) ^ D
    assert program.collections == [(5, [[C], [D]])]


OVER_ALIGNED = (
    HEAD
    + """
define internal i32 @aligned(i32 %x, i32 %y) #1 {
  %space = alloca [16 x i32], align 64
  store volatile i32 %x, ptr %space, align 64
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x, i32 %y) ]
  %back = load volatile i32, ptr %space, align 64
  %s = add i32 %r, %back
  %t = add i32 %s, %y
  ret i32 %t
}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @aligned(i32 %a, i32 %b) [ "deopt"(i32 %c) ]
  %s = xor i32 %r, %c
  ret i32 %s
}
"""
)


def test_over_aligned_frame() -> None:
    """A frame that realigns its stack addresses its slots from the stack pointer, on x86-64."""
    program = Library(OVER_ALIGNED)
    registers = {slot.register for slots in program.maps[0].by_return_address.values() for slot in slots}
    assert HOST is not stackmaps.X86_64 or HOST.stack_pointer_register in registers
    assert program.run(A, B, C) == (16 + A + B) ^ C
    assert program.collections == [(1, [[A, B], [C]])]


@pytest.mark.skipif(HOST is not stackmaps.X86_64, reason="LLVM makes the slots relative to the frame pointer")
def test_an_over_aligned_frame_is_refused_where_the_stack_pointer_is_not_told() -> None:
    with pytest.raises(CompilerError, match=r"relative to the stack pointer, in a frame of no fixed size"):
        Library(OVER_ALIGNED, architecture=UNTOLD)


def test_a_frame_with_a_base_pointer_is_refused() -> None:
    """Realigned and of variable size: neither the stack nor the frame pointer leads to its slots."""
    text = (
        HEAD
        + """
declare void @use(ptr)
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %space = alloca i32, i32 %b, align 64
  call void @use(ptr %space)
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %c) ]
  %s = add i32 %r, %c
  ret i32 %s
}
"""
    )
    machine = target_machine()
    found = stackmaps.find_section(emit(safepoints.lower_statepoints(optimise(text, machine)).text, machine))
    assert found
    with pytest.raises(CompilerError, match="relative to register"):
        stackmaps.parse(found)


def test_references_live_across_one_branch_only() -> None:
    program = Library(
        HEAD
        + """
define i32 @main(i32 %which, i32 %b, i32 %c, i32 %d) #0 {
  %test = icmp eq i32 %which, 0
  br i1 %test, label %left, label %right
left:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %b) ]
  %x = add i32 %r, %b
  br label %join
right:
  %s = call i32 @collect(i32 2) [ "deopt"(i32 %c) ]
  %y = xor i32 %s, %c
  br label %join
join:
  %z = phi i32 [ %x, %left ], [ %y, %right ]
  ret i32 %z
}
"""
    )
    assert program.run(0, B, C, D) == 16 + B
    assert program.run(1, B, C, D) == 32 ^ C
    assert program.collections == [(1, [[B]]), (2, [[C]])]


def test_loop_carried_references() -> None:
    program = Library(
        HEAD
        + """
define i32 @main(i32 %count, i32 %b, i32 %c, i32 %d) #0 {
entry:
  br label %loop
loop:
  %i = phi i32 [ 0, %entry ], [ %next, %loop ]
  %current = phi i32 [ %b, %entry ], [ %fresh, %loop ]
  %previous = phi i32 [ %c, %entry ], [ %current, %loop ]
  %tag = add i32 %i, 1
  %fresh = call i32 @collect(i32 %tag) [ "deopt"(i32 %current, i32 %d) ]
  %next = add i32 %i, 1
  %again = icmp ult i32 %next, %count
  br i1 %again, label %loop, label %done
done:
  %x = add i32 %current, %fresh
  %y = xor i32 %x, %d
  ret i32 %y
}
"""
    )
    assert program.run(4, B, C, D) == (48 + 64) ^ D
    assert program.collections == [(i, [sorted([B if i == 1 else 16 * (i - 1), D])]) for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 40, 63, 64, 65, 128, 129, 200])
def test_many_live_references(count: int) -> None:
    """One mask holds 64, and LLVM writes down a mask in three ways, by its size."""
    values = "\n".join(f"  %v{i} = add i32 %a, {16 * i}" for i in range(count))
    bundle = ", ".join(f"i32 %v{i}" for i in range(count))
    some = ", ".join(f"i32 %v{i}" for i in range(0, count, 3))
    sums = "\n".join(f"  %k{i} = mul i32 %s{i}, 3\n  %s{i + 1} = add i32 %k{i}, %v{i}" for i in range(count))
    program = Library(
        HEAD
        + f"""
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {{
{values}
  %r = call i32 @collect(i32 2) [ "deopt"({some}) ]
  %s0 = call i32 @collect(i32 1) [ "deopt"({bundle}) ]
{sums}
  ret i32 %s{count}
}}
"""
    )
    expected = 16
    for i in range(count):
        expected = expected * 3 + A + 16 * i
    assert program.run(A) == expected & 0xFFFFFFFF
    assert program.collections == [
        (2, [[A + 16 * i for i in range(0, count, 3)]]),
        (1, [[A + 16 * i for i in range(count)]]),
    ]
    last = max(program.maps[0].by_return_address.values(), key=lambda slots: sum(s.mask.bit_count() for s in slots))
    assert len(last) == (count + 63) // 64
    assert [point.live_count for point in program.modules[0].statepoints] == [(count + 2) // 3, count]


def test_constants_are_no_roots() -> None:
    program = Library(
        HEAD
        + """
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 0, i32 %a, i32 7, i32 -1, i32 2147483647, i32 undef, i32 poison, i32 %a) ]
  %s = add i32 %r, %a
  ret i32 %s
}
"""
    )
    assert program.run(A) == 16 + A
    assert program.collections == [(1, [[A]])]
    assert program.modules[0].statepoints[0].live_count == 1


RESULT_TYPES = {
    "i1": ("i1 true", "zext i1 %r to i32", 1),
    "i8": ("i8 77", "zext i8 %r to i32", 77),
    "i16": ("i16 777", "zext i16 %r to i32", 777),
    "i32": ("i32 77777", "add i32 %r, 0", 77777),
    "i64": ("i64 30064771072", "trunc i64 %h to i32", 7),
    "float": ("float 12.0", "fptoui float %r to i32", 12),
    "double": ("double 13.0", "fptoui double %r to i32", 13),
    "ptr": ("ptr inttoptr (i64 4096 to ptr)", "ptrtoint ptr %r to i32", 4096),
    "<4 x i32>": ("<4 x i32> <i32 5, i32 6, i32 7, i32 8>", "extractelement <4 x i32> %r, i32 2", 7),
    "<2 x i64>": ("<2 x i64> <i64 5, i64 6>", "ptrtoint ptr %p to i32", 6),
    "<16 x i8>": ("<16 x i8> splat (i8 9)", "bitcast <4 x i8> %q to i32", 0x09090909),
    "<4 x float>": ("<4 x float> splat (float 3.0)", "fptoui float %q to i32", 3),
    "<2 x double>": ("<2 x double> <double 1.0, double 2.0>", "fptoui double %q to i32", 2),
}

BETWEEN = {
    "i64": "%h = lshr i64 %r, 32",
    "<2 x i64>": "%q = extractelement <2 x i64> %r, i32 1\n  %p = inttoptr i64 %q to ptr",
    "<16 x i8>": "%q = shufflevector <16 x i8> %r, <16 x i8> poison, <4 x i32> <i32 0, i32 5, i32 10, i32 15>",
    "<4 x float>": "%q = extractelement <4 x float> %r, i32 3",
    "<2 x double>": "%q = extractelement <2 x double> %r, i32 1",
}


@pytest.mark.parametrize("kind", RESULT_TYPES)
def test_every_result_and_argument_type_passes_through_a_statepoint(kind: str) -> None:
    """The value goes in as an argument and comes back as the result; it must survive both ways."""
    constant, convert, expected = RESULT_TYPES[kind]
    program = Library(
        HEAD
        + f"""
define {kind} @identity({kind} %value, i32 %x, double %f) #1 {{
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  store volatile i32 %x, ptr @sink
  ret {kind} %value
}}
@sink = global i32 0
@source = global {constant}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {{
  %value = load volatile {kind}, ptr @source
  %r = call {kind} @identity({kind} %value, i32 %a, double 1.0) [ "deopt"(i32 %b) ]
  {BETWEEN.get(kind, "")}
  %converted = {convert}
  %sum = add i32 %converted, %b
  ret i32 %sum
}}
"""
    )
    assert program.run(A, B) == expected + B
    assert program.collections == [(1, [[A], [B]])]


def test_void_call() -> None:
    program = Library(
        HEAD
        + """
define void @callee(i32 %x) #1 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  store volatile i32 %x, ptr @sink
  ret void
}
@sink = global i32 0
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  call void @callee(i32 %a) [ "deopt"(i32 %b) ]
  %kept = load i32, ptr @sink
  %sum = add i32 %kept, %b
  ret i32 %sum
}
"""
    )
    assert program.run(A, B) == A + B
    assert program.collections == [(1, [[A], [B]])]


def test_callee_at_a_constant_address() -> None:
    """A call through a baked-in address is an operand with brackets of its own."""
    program = Library(
        HEAD
        + """
define i32 @target(i32 %x) #1 {
  %r = call i32 @collect(i32 %x) [ "deopt"(i32 %x) ]
  %s = add i32 %r, %x
  ret i32 %s
}
"""
    )
    caller = Library(
        HEAD
        + f"""
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {{
  %r = call i32 inttoptr (i64 {program.address("target")} to ptr)(i32 %a) [ "deopt"(i32 %b) ]
  %s = xor i32 %r, %b
  ret i32 %s
}}
"""
    )
    # The callee is another program's, and its `collect` that one's: let it call back here.
    caller.registry.add(program.maps[0])
    address = ctypes.cast(caller._callback, ctypes.c_void_p).value
    assert address
    ctypes.c_uint64.from_address(program.runtime["callback"]).value = address

    def frame_pointers() -> tuple[int, int]:
        return (
            ctypes.c_uint64.from_address(program.runtime["exit_frame"]).value,
            ctypes.c_uint64.from_address(caller.runtime["entry_frame"]).value,
        )

    caller.frame_pointers = frame_pointers  # type: ignore[method-assign]
    assert caller.run(A, B) == ((16 * A + A) ^ B)
    assert caller.collections == [(A, [[A], [B]])]


def test_modules_that_call_each_other_share_a_registry() -> None:
    program = Library(
        HEAD
        + """
define i32 @lower(i32 %x, i32 %y) #1 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %y) ]
  %s = add i32 %r, %y
  ret i32 %s
}
""",
        HEAD
        + """
declare i32 @lower(i32, i32)
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @lower(i32 %a, i32 %b) [ "deopt"(i32 %c) ]
  %s = xor i32 %r, %c
  ret i32 %s
}
""",
    )
    assert program.run(A, B, C) == (16 + B) ^ C
    assert program.collections == [(1, [[B], [C]])]
    assert len(program.registry) == 2

    program.registry.remove(program.maps[0])
    with pytest.raises(CompilerError, match="is in no stack map"):
        program.run(A, B, C)
    program.error = None
    program.registry.add(program.maps[0])
    assert program.run(A, B, C) == (16 + B) ^ C


def test_nested_activations_are_walked_one_by_one() -> None:
    program = Library(
        HEAD
        + """
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @collect(i32 %a) [ "deopt"(i32 %b) ]
  %s = add i32 %r, %b
  ret i32 %s
}
"""
    )
    address = program.address("main")

    def on_collect(tag: int) -> int:
        if tag == 1:
            return program.call(address, 2, C)
        return 16

    program.on_collect = on_collect
    assert program.run(1, B) == 16 + C + B
    assert program.collections == [(1, [[B]]), (2, [[C]])]


def test_a_frame_without_a_statepoint_is_an_error() -> None:
    program = Library(
        HEAD
        + """
define i32 @forgotten(i32 %x) #1 {
  %r = call i32 @collect(i32 1)
  %s = add i32 %r, %x
  ret i32 %s
}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @forgotten(i32 %a) [ "deopt"(i32 %b) ]
  %s = add i32 %r, %b
  ret i32 %s
}
"""
    )
    with pytest.raises(CompilerError, match=r"return address 0x[0-9a-f]+ is in no stack map"):
        program.run(A, B)


def test_a_function_whose_statepoints_are_all_in_dead_code_has_no_records() -> None:
    text = (
        HEAD
        + """
define i32 @early(i32 %x) #0 {
  ret i32 %x
dead:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  ret i32 %r
}
define i32 @main(i32 %a, i32 %b, i32 %c, i32 %d) #0 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %b) ]
  %s = add i32 %r, %b
  ret i32 %s
}
"""
    )
    program = Library(text, optimised=False)
    assert program.modules[0].functions == ("early", "main")
    assert program.run(A, B) == 16 + B
    assert program.collections == [(1, [[B]])]


# --- Native code: random programs against an interpreter --------------------------------------------------------------
#
# A program is a list of functions over reference variables. The interpreter runs it in Python and knows at each
# collection which variables of each active function are live, by liveness over the syntax tree, where there are neither
# phis nor blocks. The compiler below turns it into SSA form with a phi for every variable at every join, most of them
# dead.

VARIABLES = ("p", "q", "r", "s", "t")
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Copy:
    to: str
    source: str


@dataclass(frozen=True)
class Mix:
    to: str
    left: str
    right: str


@dataclass(frozen=True)
class Call:
    to: str
    callee: int | None  # None: collect
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class If:
    bit: int
    then: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]


@dataclass(frozen=True)
class Loop:
    times: int
    body: tuple[Statement, ...]


Statement = Copy | Mix | Call | If | Loop


@dataclass(frozen=True)
class Function:
    body: tuple[Statement, ...]
    result: str
    attributes: str


def draw_body(draw: st.DrawFn, callees: int, depth: int) -> tuple[Statement, ...]:
    def variable() -> str:
        return draw(st.sampled_from(VARIABLES))

    kinds = ["copy", "mix", "call", "call"] + ["if", "loop"] * (depth > 0)
    body: list[Statement] = []
    for _ in range(draw(st.integers(1, 4))):
        match draw(st.sampled_from(kinds)):
            case "copy":
                body.append(Copy(variable(), variable()))
            case "mix":
                body.append(Mix(variable(), variable(), variable()))
            case "call":
                callee = draw(st.integers(-1, callees - 1))
                body.append(Call(variable(), None if callee < 0 else callee, (variable(), variable())))
            case "if":
                then = draw_body(draw, callees, depth - 1)
                body.append(If(draw(st.integers(0, 7)), then, draw_body(draw, callees, depth - 1)))
            case "loop":
                body.append(Loop(draw(st.integers(1, 3)), draw_body(draw, callees, depth - 1)))
    return tuple(body)


@st.composite
def programs(draw: st.DrawFn) -> list[Function]:
    return [
        Function(
            draw_body(draw, callees, depth=2),
            draw(st.sampled_from(VARIABLES)),
            draw(st.sampled_from(["", "noinline", "alwaysinline"])),
        )
        for callees in range(draw(st.integers(1, 3)))
    ]


def mix(left: int, right: int) -> int:
    return ((left * 31 + right) ^ (left >> 7)) * 2 + 16 & MASK


def live_before(body: Sequence[Statement], after: frozenset[str], lists: dict[int, frozenset[str]]) -> frozenset[str]:
    """Liveness over the syntax tree; `lists` gets, by the identity of a call, the variables live across it."""
    live = after
    for statement in reversed(body):
        match statement:
            case Copy(to, source):
                if to in live:
                    live = live - {to} | {source}
            case Mix(to, left, right):
                live = live - {to} | {left, right}
            case Call(to, callee, arguments):
                live -= {to}
                lists[id(statement)] = lists.get(id(statement), frozenset()) | live
                live |= set(arguments[: 1 if callee is None else 2])  # collect takes only one
            case If(_, then, otherwise):
                live = live_before(then, live, lists) | live_before(otherwise, live, lists)
            case Loop(_, inner):
                head = live
                while True:
                    again = head | live_before(inner, head, lists)
                    if again == head:
                        break
                    head = again
                live = head  # the loop's test may fail at once
    return live


class Interpreter:
    def __init__(self, functions: Sequence[Function], flags: int, limit: int) -> None:
        self.functions = functions
        self.flags = flags
        self.limit = limit
        self.stack: list[set[int]] = []
        self.collections: list[set[int]] = []
        self.lists: dict[int, frozenset[str]] = {}
        for function in functions:
            live_before(function.body, frozenset({function.result}), self.lists)

    def call(self, index: int, arguments: Sequence[int]) -> int:
        env = dict(zip(VARIABLES, [*arguments, *(mix(arguments[0], 16 * i) for i in range(3))], strict=True))
        self.run(self.functions[index].body, env)
        return env[self.functions[index].result]

    def run(self, body: Sequence[Statement], env: dict[str, int]) -> None:
        for statement in body:
            match statement:
                case Copy(to, source):
                    env[to] = env[source]
                case Mix(to, left, right):
                    env[to] = mix(env[left], env[right])
                case Call(to, callee, arguments):
                    self.stack.append({env[name] for name in self.lists[id(statement)]})
                    values = [env[name] for name in arguments]
                    if callee is None:
                        self.collections.append(set().union(*self.stack))
                        if len(self.collections) > self.limit:
                            raise OverflowError
                        env[to] = fresh(len(self.collections))
                    else:
                        env[to] = self.call(callee, values)
                    self.stack.pop()
                case If(bit, then, otherwise):
                    self.run(then if self.flags >> bit & 1 else otherwise, env)
                case Loop(times, inner):
                    for _ in range(times):
                        self.run(inner, env)


def fresh(number: int) -> int:
    """What the number-th collection returns: a reference unlike any other."""
    return random.Random(number).randrange(16, 1 << 32, 16)


I32 = ir.IntType(32)


class Compiler:
    """SSA construction that takes no care: a phi for every variable wherever paths meet."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self.module = ir.Module()
        self.flags = ir.GlobalVariable(self.module, I32, "flags")
        self.flags.initializer = ir.Constant(I32, 0)
        self.collect = ir.Function(self.module, ir.FunctionType(I32, [I32]), "collect")
        self.compiled: list[ir.Function] = []
        for index, function in enumerate(functions):
            last = index == len(functions) - 1
            self.compile(f"f{index}", function, internal=not last)
        main = ir.Function(self.module, ir.FunctionType(I32, [I32] * 4), "main")
        builder = ir.IRBuilder(main.append_basic_block())
        builder.store(main.args[2], self.flags)
        result = safepoints.call(builder, self.compiled[-1], main.args[:2])
        builder.ret(result)
        safepoints.fill_safepoints(main, list(main.args))

    def text(self) -> str:
        return re.sub(r"^(define .*)$", r'\1 "frame-pointer"="all"', str(self.module), flags=re.MULTILINE)

    def compile(self, name: str, source: Function, internal: bool) -> None:
        function = ir.Function(self.module, ir.FunctionType(I32, [I32, I32]), name)
        if internal:
            function.linkage = "internal"
        if source.attributes:
            function.attributes.add(source.attributes)
        self.references: list[ir.Value] = list(function.args)
        self.builder = ir.IRBuilder(function.append_basic_block())
        env: dict[str, ir.Value] = dict(zip(VARIABLES, function.args, strict=False))
        for number, variable in enumerate(VARIABLES[2:]):
            env[variable] = self.mix(function.args[0], ir.Constant(I32, 16 * number))
        env = self.body(source.body, env)
        self.builder.ret(env[source.result])
        safepoints.fill_safepoints(function, self.references)
        self.compiled.append(function)

    def reference(self, value: ir.Value) -> ir.Value:
        self.references.append(value)
        return value

    def mix(self, left: ir.Value, right: ir.Value) -> ir.Value:
        b = self.builder
        scaled = b.add(b.mul(left, ir.Constant(I32, 31)), right)
        mixed = b.xor(scaled, b.lshr(left, ir.Constant(I32, 7)))
        return self.reference(b.add(b.mul(mixed, ir.Constant(I32, 2)), ir.Constant(I32, 16)))

    def body(self, body: Sequence[Statement], env: dict[str, ir.Value]) -> dict[str, ir.Value]:
        env = dict(env)
        for statement in body:
            match statement:
                case Copy(to, source):
                    env[to] = env[source]
                case Mix(to, left, right):
                    env[to] = self.mix(env[left], env[right])
                case Call(to, callee, arguments):
                    values = [env[name] for name in arguments]
                    if callee is None:
                        result = safepoints.call(self.builder, self.collect, values[:1])
                    else:
                        result = safepoints.call(self.builder, self.compiled[callee], values)
                    env[to] = self.reference(result)
                case If():
                    env = self.branch(statement, env)
                case Loop():
                    env = self.loop(statement, env)
        return env

    def branch(self, statement: If, env: dict[str, ir.Value]) -> dict[str, ir.Value]:
        then, otherwise, join = (self.builder.append_basic_block() for _ in range(3))
        shifted = self.builder.lshr(self.builder.load(self.flags), ir.Constant(I32, statement.bit))
        self.builder.cbranch(self.builder.trunc(shifted, ir.IntType(1)), then, otherwise)
        ends = []
        for block, body in ((then, statement.then), (otherwise, statement.otherwise)):
            self.builder.position_at_end(block)
            ends.append((self.body(body, env), self.builder.block))
            self.builder.branch(join)
        self.builder.position_at_end(join)
        merged = {}
        for variable in VARIABLES:
            merged[variable] = self.reference(self.builder.phi(I32))
            for values, block in ends:
                merged[variable].add_incoming(values[variable], block)
        return merged

    def loop(self, statement: Loop, env: dict[str, ir.Value]) -> dict[str, ir.Value]:
        before = self.builder.block
        head, body, after = (self.builder.append_basic_block() for _ in range(3))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        counter = self.builder.phi(I32)
        counter.add_incoming(ir.Constant(I32, 0), before)
        carried = {variable: self.reference(self.builder.phi(I32)) for variable in VARIABLES}
        for variable, phi in carried.items():
            phi.add_incoming(env[variable], before)
        more = self.builder.icmp_unsigned("<", counter, ir.Constant(I32, statement.times))
        self.builder.cbranch(more, body, after)
        self.builder.position_at_end(body)
        values = self.body(statement.body, carried)
        counter.add_incoming(self.builder.add(counter, ir.Constant(I32, 1)), self.builder.block)
        for variable, phi in carried.items():
            phi.add_incoming(values[variable], self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(after)
        return carried


@settings(max_examples=examples(60, 120), deadline=None)
@given(programs(), st.integers(0, 255), st.integers(16, 1 << 31), st.integers(16, 1 << 31))
def test_random_programs_report_exactly_the_live_references(
    functions: list[Function], flags: int, first: int, second: int
) -> None:
    report_exactly_the_live_references(functions, flags, first, second)


@settings(max_examples=examples(30, 80), deadline=None)
@given(programs(), st.integers(0, 255), st.integers(16, 1 << 31), st.integers(16, 1 << 31))
def test_so_they_do_where_frames_do_not_tell_the_stack_pointer(
    functions: list[Function], flags: int, first: int, second: int
) -> None:
    report_exactly_the_live_references(functions, flags, first, second, UNTOLD)


@pytest.mark.parametrize("most", [0, 3])
def test_so_do_functions_with_root_frames_from_the_start(most: int) -> None:
    """All of them, or those with more than a few references, into which the others are inlined."""

    argument_lives_on = Function((Call("p", 0, ("p", "p")),), "q", "")

    @settings(max_examples=examples(30, 80), deadline=None)
    @given(programs(), st.integers(0, 255), st.integers(16, 1 << 31), st.integers(16, 1 << 31))
    @example([Function((Copy("p", "p"),), "p", ""), argument_lives_on], 0, 16, 32)
    def check(functions: list[Function], flags: int, first: int, second: int) -> None:
        with mock.patch.object(safepoints, "MOST_LISTED", most):
            report_exactly_the_live_references(functions, flags, first, second)

    check()


def report_exactly_the_live_references(
    functions: list[Function], flags: int, first: int, second: int, architecture: Architecture = HOST
) -> None:
    interpreter = Interpreter(functions, flags, limit=300)
    try:
        expected = interpreter.call(len(functions) - 1, [first, second])
    except OverflowError:
        return  # thousands of collections prove no more than a few
    program = Library(Compiler(functions).text(), architecture=architecture)
    numbers = itertools.count(1)
    program.on_collect = lambda tag: fresh(next(numbers))
    assert program.run(first, second, flags) == expected
    # Inlining moves references between frames, never out of the stack; a null is as good as none.
    seen = [{value for frame in frames for value in frame} - {0} for _, frames in program.collections]
    assert seen == [values - {0} for values in interpreter.collections]


# --- The parser on hand-packed sections -------------------------------------------------------------------------------

DIRECT, INDIRECT, CONSTANT, CONSTANT_INDEX = 2, 3, 4, 5


def location(kind: int, value: int, *, size: int = 8, register: int = 0) -> bytes:
    return struct.pack("<BBHHHi", kind, 0, size, register, 0, value)


def record(
    identifier: int,
    offset: int,
    operands: Sequence[bytes],
    *,
    announced: int | None = None,
    prefix: int = 3,
    live_outs: int = 0,
) -> bytes:
    count = len(operands) if announced is None else announced
    locations = [location(CONSTANT, 0), location(CONSTANT, 0), location(CONSTANT, count)][:prefix] + list(operands)
    body = struct.pack("<QIHH", identifier, offset, 0, len(locations)) + b"".join(locations)
    body += bytes(-len(body) % 8)
    body += struct.pack("<HH", 0, live_outs) + bytes(4 * live_outs)
    return body + bytes(-len(body) % 8)


def section(
    functions: Sequence[tuple[int, int, Sequence[bytes]]], constants: Sequence[int] = (), version: int = 3
) -> bytes:
    records = [each for _, _, group in functions for each in group]
    data = struct.pack("<BBHIII", version, 0, 0, len(functions), len(constants), len(records))
    data += b"".join(struct.pack("<QQQ", address, size, len(group)) for address, size, group in functions)
    return data + struct.pack(f"<{len(constants)}Q", *constants) + b"".join(records)


def frame(offset: int, register: int = 7) -> bytes:
    return location(DIRECT, offset, register=register)


def mask(bits: int) -> bytes:
    return location(CONSTANT, bits)


GOOD = section(
    [
        (0x1000, 24, [record(0, 11, [frame(8), mask(1)]), record(1, 30, [])]),
        (0x2000, 2**64 - 1, [record(2, 7, [frame(-20, 6), mask(0b101), frame(4), mask(-1), mask(0)], live_outs=3)]),
        (
            0x3000,
            8,
            [
                record(3, 9, [frame(0), location(CONSTANT_INDEX, 1)]),
                record(4, 12, [frame(0), location(CONSTANT_INDEX, 0), frame(256), mask(0), mask(-(2**31))]),
                record(5, 20, [frame(8), mask(1), mask(-1), mask(1), location(CONSTANT_INDEX, 1)]),
            ],
        ),
    ],
    constants=[0xFEFEFEFE, 2**63 + 5],
)


def parse(data: bytes) -> list[FunctionRecord]:
    return stackmaps.parse(data, stackmaps.X86_64)


def test_parse_reads_what_was_packed() -> None:
    """A mask has words of 64 bits, but where one is small the location has it, as a signed number of 32."""
    upper = (1 << 64) - (1 << 31)
    records = [
        [SafepointRecord(0, 11, (Slots(7, 8, 1),)), SafepointRecord(1, 30, ())],
        [SafepointRecord(2, 7, (Slots(6, -20, 0b101), Slots(7, 4, 2**64 - 1)))],
        [
            SafepointRecord(3, 9, (Slots(7, 0, 2**63 + 5),)),
            SafepointRecord(4, 12, (Slots(7, 0, 0xFEFEFEFE), Slots(7, 512, upper))),
            SafepointRecord(
                5,
                20,
                (Slots(7, 8, 1), Slots(7, 264, 2**64 - 1), Slots(7, 520, 2**64 - 1), Slots(7, 776, 2**63 + 5)),
            ),
        ],
    ]
    assert parse(GOOD) == [
        FunctionRecord(0x1000, 24, tuple(records[0])),
        FunctionRecord(0x2000, 2**64 - 1, tuple(records[1])),
        FunctionRecord(0x3000, 8, tuple(records[2])),
    ]
    assert [each.live_count for group in records for each in group] == [1, 0, 66, 3, 28 + 33, 1 + 128 + 3]
    assert parse(section([])) == []


def one(*operands: bytes, **options: int) -> bytes:
    return section([(0, 8, [record(0, 5, operands, **options)])])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: header"),
        (section([], version=2), "version 2"),
        (GOOD + bytes(8), "ends at byte"),
        (one(location(1, 0, register=3), mask(1)), "a root frame of kind REGISTER; it must be DIRECT"),
        (one(location(INDIRECT, 8, register=7), mask(1)), "a root frame of kind INDIRECT"),
        (one(mask(1), mask(1)), "a root frame of kind CONSTANT"),
        (one(location(9, 0), mask(1)), r"kind unknown \(9\)"),
        (one(frame(8, register=3), mask(1)), "relative to register 3"),
        (one(location(DIRECT, 8, size=4, register=7), mask(1)), "a root frame of 4 bytes"),
        (one(frame(8), frame(8)), "an empty mask"),
        (one(frame(8), mask(1), location(INDIRECT, 8, register=7)), "a root frame of kind INDIRECT"),
        (one(frame(8), mask(1), location(1, 0)), "a root frame of kind REGISTER"),
        (one(frame(8), mask(-1)), "a mask that cannot be read: a word whose slots are all live is not followed by"),
        (one(frame(8), mask(-1), mask(-1)), "a mask that cannot be read"),
        (one(frame(8), mask(-1), mask(2**31 - 1)), "a mask of 2147483648 words; at most 32768 are expected"),
        (one(frame(8), location(CONSTANT, 1, size=4)), "a mask of 4 bytes"),
        (one(frame(8), mask(0)), "an empty mask"),
        (one(frame(8), location(CONSTANT_INDEX, 0)), "constant 0 of 0"),
        (one(frame(8), location(CONSTANT_INDEX, -1)), "constant -1 of 0"),
        (section([(0, 8, [record(0, 5, [frame(8), location(CONSTANT_INDEX, 0)])])], constants=[0]), "an empty mask"),
        (one(frame(8)), "an empty mask"),
        (one(frame(8), mask(1), frame(8)), "an empty mask"),
        (one(frame(8), mask(1), announced=3), "announces 3 operands and has locations for 2"),
        (one(frame(8), mask(1), announced=0), "announces 0 operands"),
        (one(frame(8), mask(1), announced=-1), "announces -1 operands"),
        (one(prefix=2), "not a statepoint's"),
        (one(frame(0), mask(1), prefix=1), "not a statepoint's"),
        (
            section([(0, 8, [])]).replace(struct.pack("<III", 1, 0, 0), struct.pack("<III", 1, 0, 2)),
            "announces 2 records",
        ),
    ],
)
def test_parse_refuses(data: bytes, message: str) -> None:
    with pytest.raises(CompilerError, match=message):
        parse(data)


def test_parse_refuses_every_truncation() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(CompilerError):
            parse(GOOD[:length])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_parse_of_damaged_sections_raises_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CompilerError):
        parse(bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_parse_of_noise_raises_nothing_else(noise: bytes) -> None:
    with contextlib.suppress(CompilerError):
        parse(noise)


# --- Object files -----------------------------------------------------------------------------------------------------

SMALL = (
    HEAD
    + """
define i32 @small(i32 %x) #0 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  %s = add i32 %r, %x
  ret i32 %s
}
"""
)


@pytest.mark.parametrize(
    ("triple", "architecture", "register"),
    [
        ("x86_64-unknown-linux-gnu", stackmaps.X86_64, (6, 7)),
        ("x86_64-apple-macosx", stackmaps.X86_64, (6, 7)),
        ("arm64-apple-macosx", stackmaps.AARCH64_DARWIN, (29, 31)),
        ("aarch64-unknown-linux-gnu", stackmaps.AARCH64_LINUX, (29, 31)),
    ],
)
def test_find_section_in_elf_and_mach_o(
    triple: str, architecture: stackmaps.Architecture, register: tuple[int, int]
) -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(opt=2)
    lowered = safepoints.lower_statepoints(SMALL)
    found = stackmaps.find_section(emit(lowered.text, machine))
    assert found is not None
    ((only,),) = ((each.records) for each in stackmaps.parse(found, architecture))
    assert only.live_count == 1
    (slots,) = only.slots
    assert slots.register in register
    assert slots.mask == 1


def test_find_section_of_an_object_without_statepoints() -> None:
    assert stackmaps.find_section(RUNTIME_OBJECT) is None


@pytest.mark.parametrize("length", [0, 3, 20, 64, 200, -1])
def test_find_section_refuses_damaged_objects(length: int) -> None:
    with pytest.raises(CompilerError, match="object file"):
        stackmaps.find_section(RUNTIME_OBJECT[:length])


def test_find_section_refuses_other_files() -> None:
    with pytest.raises(CompilerError, match="not a 64-bit ELF or Mach-O object file"):
        stackmaps.find_section(b"MZ" + bytes(200))


# --- Object files: frames of AArch64 Linux, which do not tell the stack pointer ---------------------------------------


def aarch64(text: str, opt: int = 2, *, with_call_frames: bool = True) -> tuple[bytes, str]:
    """An object file, and the same as assembly."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(opt=opt)
    lowered = safepoints.lower_statepoints(text, with_call_frames=with_call_frames).text
    return emit(lowered, machine), machine.emit_assembly(binding.parse_assembly(lowered))


def frame_pointer_above_stack_pointer(assembly: str, function: str) -> int:
    """By the instructions of a function's prologue, how far its frame pointer is above its stack pointer behind it."""
    stack_pointer, frame_pointer = 0, None
    body = assembly.split(f"\n{function}:\n")[1].split("\n")
    for line in itertools.takewhile(lambda line: not line.startswith("\tbl\t"), body):
        if found := re.match(r"\tsub\tsp, sp, #(\d+)(?:, lsl #(\d+))?$", line):
            stack_pointer -= int(found[1]) << int(found[2] or 0)
        elif found := re.match(r"\tst[rp]\t.*\[sp, #-(\d+)\]!", line):
            stack_pointer -= int(found[1])
        elif found := re.match(r"\tadd\tx29, sp, #(\d+)", line):
            frame_pointer = stack_pointer + int(found[1])
        elif line == "\tmov\tx29, sp":
            frame_pointer = stack_pointer
        else:
            assert not re.match(r"\t\w+\tsp, |\t(?!st)\w+\tx29, |.*\](?:!|, #)", line), f"not understood: {line}"
    assert frame_pointer is not None
    return frame_pointer - stack_pointer


def busy(name: str, live: int, held: int, passed: int) -> str:
    """A function with references that are live across a call, and other values in registers that it has to save."""
    lines = [f"define i32 @{name}(i32 %x) #0 {{"]
    lines += [f"  %v{number} = add i32 %x, {number}" for number in range(live)]
    lines += [f"  %h{number} = mul i32 %x, {number + 3}" for number in range(held)]
    listed = ", ".join(f"i32 %v{number}" for number in range(live))
    arguments = ", ".join(f"i32 {number}" for number in range(passed))
    lines += [f'  %r = call i32 @callee{passed}({arguments}) [ "deopt"({listed}) ]']
    lines += ["  %s0 = add i32 %r, %x"]
    lines += [f"  %s{number + 1} = xor i32 %s{number}, %h{number}" for number in range(held)]
    return "\n".join([*lines, f"  ret i32 %s{held}", "}"])


@pytest.mark.parametrize("opt", [0, 2])
def test_aarch64_slots_are_relative_to_the_frame_pointer(opt: int) -> None:
    cases = [
        (f"f{live}.{held}.{passed}", live, held, passed)
        for live, held, passed in itertools.product((1, 5, 64, 200), (0, 1, 6, 40), (0, 20))
    ]
    declarations = "\n".join(f"declare i32 @callee{count}({', '.join(['i32'] * count)})" for count in (0, 20))
    text = HEAD + declarations + "\n" + "\n".join(busy(*case) for case in cases)
    object, assembly = aarch64(text, opt)
    section = stackmaps.find_section(object)
    assert section
    raw = stackmaps.parse(section, stackmaps.AARCH64_LINUX)
    found = stackmaps.read(object, stackmaps.AARCH64_LINUX)
    assert len(found) == len(raw) == len(cases)
    distances, from_end = set(), set()
    for (name, live, *_), before, after in zip(cases, raw, found, strict=True):
        distance = frame_pointer_above_stack_pointer(assembly, name)
        distances.add(distance)
        from_end.add(before.stack_size - distance)
        ((old,), (new,)) = (before.records, after.records)
        assert [slots.register for slots in old.slots] == [31] * len(old.slots)
        assert new.slots == tuple(Slots(29, slots.offset - distance, slots.mask) for slots in old.slots)
        assert new.live_count == live
    assert len(distances) > 10
    if opt:
        assert len(from_end) > 2, "the frame record is anywhere"


def test_aarch64_frame_pointers_are_multiples_of_eight() -> None:
    """A register for floating-point numbers, saved below the record, moves it by eight bytes."""
    text = """
define double @held(i32 %x, double %y) #0 {
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  %u = sitofp i32 %x to double
  %z = fadd double %u, %y
  ret double %z
}
"""
    object, assembly = aarch64(HEAD + text)
    (function,) = stackmaps.read(object, stackmaps.AARCH64_LINUX)
    below_end = function.stack_size - frame_pointer_above_stack_pointer(assembly, "held")
    assert below_end % 16 == stackmaps.AARCH64_LINUX.frame_pointer_alignment == 8


def test_aarch64_slots_that_llvm_makes_relative_to_the_frame_pointer_stay() -> None:
    """A frame of variable size."""
    text = (
        HEAD
        + """
declare void @use(ptr)
define i32 @main(i32 %a, i32 %b) #0 {
  %space = alloca i32, i32 %b
  call void @use(ptr %space)
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  %s = add i32 %r, %a
  ret i32 %s
}
"""
    )
    object, _ = aarch64(text)
    section = stackmaps.find_section(object)
    assert section
    ((only,),) = (function.records for function in stackmaps.parse(section, stackmaps.AARCH64_LINUX))
    assert [slots.register for slots in only.slots] == [29]
    assert stackmaps.read(object, stackmaps.AARCH64_LINUX)[0].records == (only,)


def test_aarch64_frames_that_are_not_described_are_refused() -> None:
    object, _ = aarch64(SMALL, with_call_frames=False)
    with pytest.raises(CompilerError, match="function 0 of the stack map has no call frame information"):
        stackmaps.read(object, stackmaps.AARCH64_LINUX)
    without = SMALL.replace('"frame-pointer"="all"', "")
    object, _ = aarch64(without)
    with pytest.raises(CompilerError, match="has no rules for its frame by the stack pointer at its start, and"):
        stackmaps.read(object, stackmaps.AARCH64_LINUX)
    other = SMALL + "define void @other() uwtable {\n  ret void\n}\n"
    object, _ = aarch64(other, with_call_frames=False)
    with pytest.raises(CompilerError, match="function 0 of the stack map has no call frame information"):
        stackmaps.read(object, stackmaps.AARCH64_LINUX)


HANDLER = """
declare i32 @personality()
declare i32 @callee(ptr, i32)
define i32 @caught(ptr %vm, i32 %x, i32 %y, double %d) "frame-pointer"="all" personality ptr @personality {
  %r = invoke i32 @callee(ptr %vm, i32 %x) [ "deopt"(i32 %y) ]
          to label %ok unwind label %pad
ok:
  %q = call i32 @callee(ptr %vm, i32 %r) [ "deopt"(i32 %y) ]
  %z = add i32 %q, %y
  ret i32 %z
pad:
  %l = landingpad token
          catch ptr null
  %i = fptosi double %d to i32
  %k = add i32 %y, %i
  ret i32 %k
}
"""


def test_aarch64_objects_tell_handlers_and_what_frames_keep() -> None:
    """All that an unwinder would have to know there, which is not written: a register of each kind lives at the pad."""
    object, _ = aarch64(HANDLER)
    ((thrown, other),) = (function.records for function in stackmaps.read(object, stackmaps.AARCH64_LINUX))
    frames = CallFrames(object, stack_pointer_register=31, frame_pointer_register=29)
    handler = frames.handler(0, thrown.instruction_offset)
    assert handler > other.instruction_offset
    assert frames.handler(0, other.instruction_offset) == 0
    kept = frames.kept_registers(0, thrown.instruction_offset)
    assert {29: 0, 30: 8}.items() <= kept.items()  # the frame record
    x, d = range(19, 29), range(72, 80)
    assert any(register in x for register in kept)
    assert any(register in d for register in kept)


LOOP = """
define i32 @loop(i32 %x, ptr %p, i64 %n) #0 {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %q = getelementptr i32, ptr %p, i64 %i
  %v = load i32, ptr %q
  %w = mul i32 %v, %x
  store i32 %w, ptr %q
  %j = add i64 %i, 1
  %more = icmp ult i64 %j, %n
  br i1 %more, label %loop, label %out
out:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %x) ]
  %s = add i32 %r, %x
  ret i32 %s
}
"""


def test_aarch64_code_has_no_scalable_vectors() -> None:
    """With one in a frame, a slot below it would be taken for another place: by its size, which only the CPU knows."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    texts = [
        optimise(HEAD + LOOP, target.create_target_machine(cpu="neoverse-v1", features=features, opt=2))
        for features in ("", stackmaps.AARCH64_LINUX.features)
    ]
    assert ["<vscale x" in text for text in texts] == [True, False]
    assert "<4 x i32>" in texts[1], "other vectors are welcome"
    safepoints.lower_statepoints(texts[1], with_call_frames=True)
    safepoints.lower_statepoints(texts[0])
    with pytest.raises(CompilerError, match="a scalable vector, whose place in a frame no call frame"):
        safepoints.lower_statepoints(texts[0], with_call_frames=True)


def test_call_frame_information_costs_no_instruction() -> None:
    """At most their order changes. Nor is there any unless it is asked for."""
    texts = []
    for wanted in (False, True):
        object, assembly = aarch64(SMALL, with_call_frames=wanted)
        assert (b".eh_frame" in object) == wanted
        texts.append(sorted(line for line in assembly.split("\n") if not line.startswith("\t.cfi_")))
    assert texts[0] == texts[1]


# --- StackMap and the registry ----------------------------------------------------------------------------------------


def lowered_module(*functions: tuple[str, Sequence[int]]) -> safepoints.StatepointModule:
    """A module whose functions have statepoints with lists of the given lengths."""
    points = [(name, live) for name, lives in functions for live in lives]
    return safepoints.StatepointModule(
        "",
        tuple(name for name, _ in functions),
        tuple(safepoints.Statepoint(number, name, "callee", live) for number, (name, live) in enumerate(points)),
    )


TWO = lowered_module(("f", [1, 0]), ("g", [2]))
F0 = SafepointRecord(0, 10, (Slots(7, 0, 1),))
F1 = SafepointRecord(1, 20, ())
G2 = SafepointRecord(2, 30, (Slots(7, 0, 0b1000), Slots(7, 256, 1)))
RECORDS = [FunctionRecord(0, 8, (F0, F1)), FunctionRecord(0, 8, (G2,))]


def test_stack_map_joins_records_and_addresses() -> None:
    stack_map = StackMap(TWO, RECORDS, [0x1000, 0x2000])
    assert stack_map.lookup(0x1000 + 10) == F0.slots
    assert stack_map.lookup(0x1000 + 20) == ()
    assert stack_map.lookup(0x2000 + 30) == G2.slots
    with pytest.raises(CompilerError, match="0x100b is in no stack map"):
        stack_map.lookup(0x100B)
    assert StackMap(TWO, RECORDS[1:], [0x1000, 0x2000]).by_return_address == {0x2000 + 30: G2.slots}


@pytest.mark.parametrize(
    ("records", "addresses", "message"),
    [
        (RECORDS, [0x1000], "1 function addresses for 2 functions"),
        (RECORDS, [0x1000, 0x2000, 0x3000], "3 function addresses for 2 functions"),
        (RECORDS[::-1], [0x1000, 0x2000], "records of 'f' follow those of 'g'"),
        ([RECORDS[0], RECORDS[0]], [0x1000, 0x2000], "records of 'f' follow those of 'f'"),
        ([FunctionRecord(0, 8, (F0, G2))], [0x1000, 0x2000], r"records of \['f', 'g'\]"),
        ([FunctionRecord(0, 8, ())], [0x1000, 0x2000], "one function's are expected"),
        (RECORDS, [0, 0x2000], "'f' has no address"),
        (RECORDS, [0x1000, 0x1000 - 20], "two stack map records for return address 0x100a"),
        ([FunctionRecord(0, 8, (SafepointRecord(9, 1, ()),))], [1, 2], "none of the module's 3"),
        ([FunctionRecord(0, 8, (SafepointRecord(0, 1, (Slots(7, 0, 0b111),)),))], [1, 2], "record 0 has 3 references"),
    ],
)
def test_stack_map_refuses_a_mismatch(records: list[FunctionRecord], addresses: list[int], message: str) -> None:
    with pytest.raises(CompilerError, match=message):
        StackMap(TWO, records, addresses)


def test_registry_merges_and_forgets() -> None:
    registry = StackMapRegistry()
    first = StackMap(TWO, RECORDS, [0x1000, 0x2000])
    second = StackMap(TWO, RECORDS, [0x3000, 0x4000])
    registry.add(first)
    registry.add(second)
    assert len(registry) == 6
    assert registry.lookup(0x4000 + 30) == G2.slots
    with pytest.raises(CompilerError, match="belongs to another loaded module"):
        registry.add(first)
    registry.remove(first)
    with pytest.raises(CompilerError, match="is in no stack map"):
        registry.lookup(0x2000 + 30)
    with pytest.raises(CompilerError, match="is not registered"):
        registry.remove(first)
    assert registry.lookup(0x3000 + 10) == F0.slots


# --- The frame walker on hand-made stacks -----------------------------------------------------------------------------


class FakeStack:
    """Frame records in a buffer: `links[i]` is the word index that frame i's saved frame pointer points to."""

    def __init__(self, words: int = 64) -> None:
        self.buffer = (ctypes.c_uint64 * (words + 1))()
        self.base = ctypes.addressof(self.buffer)
        self.shift = (-self.base % 16) // 8

    def address(self, word: int) -> int:
        return self.base + 8 * (self.shift + word)

    def frame(self, word: int, caller: int, return_address: int) -> None:
        self.buffer[self.shift + word] = caller
        self.buffer[self.shift + word + 1] = return_address


def chain(*words: int) -> FakeStack:
    fake = FakeStack()
    for number, (word, caller) in enumerate(itertools.pairwise(words)):
        fake.frame(word, fake.address(caller), 100 + number)
    return fake


def walk(fake: FakeStack, exit_word: int, entry_word: int, **options: int) -> Iterator[stackmaps.Frame]:
    return stackmaps.walk_frames(
        fake.address(exit_word), fake.address(entry_word), architecture=stackmaps.X86_64, **options
    )


def test_walk_yields_the_frames_between_exit_and_entry() -> None:
    fake = chain(0, 4, 12, 40)
    assert list(walk(fake, 0, 40)) == [
        stackmaps.Frame(100, fake.address(2), fake.address(4)),
        stackmaps.Frame(101, fake.address(6), fake.address(12)),
    ]
    assert list(walk(fake, 12, 40)) == []
    assert len(list(walk(fake, 0, 40, maximum_frames=2))) == 2
    with pytest.raises(CompilerError, match="more than 1 frames"):
        list(walk(fake, 0, 40, maximum_frames=1))


@pytest.mark.parametrize("bad", ["misaligned", "same", "below", "above", "null"])
def test_walk_refuses_a_broken_chain(bad: str) -> None:
    fake = chain(0, 4, 12, 40)
    caller = {
        "misaligned": fake.address(12) + 8,
        "same": fake.address(4),
        "below": fake.address(0),
        "above": fake.address(42),
        "null": 0,
    }[bad]
    fake.frame(4, caller, 101)
    walked = walk(fake, 0, 40)
    next(walked)
    with pytest.raises(CompilerError, match="broken frame chain"):
        next(walked)


def test_walk_refuses_bad_ends() -> None:
    fake = chain(0, 4)
    for exit_pointer, entry_pointer, message in (
        (0, fake.address(4), "exit frame pointer 0x0"),
        (fake.address(0) + 4, fake.address(4), "exit frame pointer"),
        (fake.address(0), fake.address(4) + 8, "entry frame pointer"),
        (fake.address(4), fake.address(0), "is not below"),
        (fake.address(0), fake.address(0), "is not below"),
    ):
        with pytest.raises(CompilerError, match=message):
            list(stackmaps.walk_frames(exit_pointer, entry_pointer, architecture=stackmaps.X86_64))


class FixedSlots:
    def __init__(self, *slots: Slots) -> None:
        self.slots = slots

    def lookup(self, return_address: int) -> tuple[Slots, ...]:
        return self.slots


def test_stack_slots_are_relative_to_the_right_register_and_inside_the_stack() -> None:
    fake = chain(0, 4, 40)
    ends = (fake.address(0), fake.address(40))

    def slots(*found: Slots) -> list[int]:
        return list(stackmaps.stack_slots(FixedSlots(*found), *ends, architecture=stackmaps.X86_64))

    assert slots(Slots(7, 4, 1), Slots(6, -12, 1)) == [fake.address(2) + 4, fake.address(4) - 12]
    assert slots(Slots(7, -8, 0b10110)) == [fake.address(2) + distance for distance in (-4, 0, 8)]
    assert slots(Slots(7, 0, 1 << 63)) == [fake.address(2) + 252]
    for outside in (
        Slots(7, -64, 1),
        Slots(6, 8 * 36 - 3, 1),
        Slots(6, 1 << 20, 1),
        Slots(7, -16, 0b11),
        Slots(6, 8 * 36 - 4, 0b11),
        Slots(6, 8 * 36 - 4 * 63, 3 << 62),
    ):
        with pytest.raises(CompilerError, match="is outside the stack"):
            slots(outside)


def test_stack_slots_refuses_one_relative_to_a_stack_pointer_that_is_not_told() -> None:
    fake = chain(0, 4, 40)

    def slots(found: Slots) -> list[int]:
        ends = (fake.address(0), fake.address(40))
        return list(stackmaps.stack_slots(FixedSlots(found), *ends, architecture=stackmaps.AARCH64_LINUX))

    assert slots(Slots(29, -12, 1)) == [fake.address(4) - 12]
    with pytest.raises(CompilerError, match="relative to the stack pointer, which frames of aarch64 do not tell"):
        slots(Slots(31, 4, 1))


def test_unknown_hosts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(CompilerError, match="frames of Linux riscv64 cannot be walked"):
        stackmaps.host_architecture()
    assert not stackmaps.host_needs_call_frames()
    assert stackmaps.host_features() == ""


@pytest.mark.parametrize(
    ("system", "machine", "needs_call_frames", "features"),
    [
        ("Linux", "x86_64", False, "-avxvnni,-avx512vnni"),
        ("Linux", "aarch64", True, "-sve"),
        ("Darwin", "arm64", False, ""),
    ],
)
def test_known_hosts(
    system: str, machine: str, needs_call_frames: bool, features: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.system", lambda: system)
    assert stackmaps.host_architecture() is stackmaps.architecture_of(system, machine)
    assert stackmaps.host_needs_call_frames() == needs_call_frames
    assert stackmaps.host_features() == features
