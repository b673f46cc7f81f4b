"""Native functions as objects, and as Python runs them: ranges, lines, debuggers, classes' bodies, names, copies."""

from __future__ import annotations

import bdb
import copy
import ctypes
import inspect
import pickle
import re
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from llvmlite import ir
from support.native_sides import Compiled

import lowheap.native as subset
from lowheap.errors import CompilerError, HeapCorruptionError, HeapError, LowheapError, Status
from lowheap.jit.emit import Emitter
from lowheap.jit.engine import Target
from lowheap.jit.translate import declare, show
from lowheap.layout import HEADER_SIZE, FreeBlock, VMDrcHeader, VMHeapControl
from lowheap.memory import Memory
from lowheap.native import (
    Heap,
    Native,
    NativeError,
    OutOfRange,
    Ref,
    Slot,
    address_of,
    at,
    cell,
    ctz,
    i32,
    i64,
    inline,
    linked,
    native,
    note,
    place,
    record,
    require,
    sound,
    u8,
    u16,
    u32,
    u64,
    wrapping_add,
)
from lowheap.native.check import _HEAP_METHODS, HEAP_ATTRIBUTES
from lowheap.native.words import WORDS

# ----------------------------------------------------------------------------------------------------------------------
# Ranges


@native
def adds(a: u32, b: u32) -> u32:
    return a + b  # line of adds


@native
def subtracts(a: u64, b: u64) -> u64:
    return a - b  # line of subtracts


@native
def multiplies(a: u8, b: u8) -> u8:
    return a * b  # line of multiplies


@native
def shifts_left(a: u16, n: u16) -> u16:
    return a << n  # line of shifts_left


@native
def shifts_right(a: u32, n: u32) -> u32:
    return a >> n  # line of shifts_right


@native
def shifts_right_in_place(a: u32, n: u32) -> u32:
    a >>= n  # line of shifts_right_in_place
    return a


@native
def shifts_left_in_place(a: u32, n: u32) -> u32:
    a <<= n  # line of shifts_left_in_place
    return a


@native
def negates(a: i32) -> i32:
    return -a  # line of negates


@native
def adds_signed(a: i64, b: i64) -> i64:
    return a + b  # line of adds_signed


@native
def adds_in_place(a: u32, b: u32) -> u32:
    a += 1
    a += b  # line of adds_in_place
    return a


@native
def narrows(a: u64, _b: u64) -> u8:
    return u8(a)  # line of narrows


@native
def makes_unsigned(a: i64) -> u64:
    return u64(a)  # line of makes_unsigned


@native
def divides(a: u32, b: u32) -> u32:
    return a // b  # line of divides


@native
def takes_the_rest(a: u32, b: u32) -> u32:
    return a % b  # line of takes_the_rest


@native
def counts_zeros(a: u32) -> u32:
    return ctz(a)  # line of counts_zeros


@native
def at_null(a: u64) -> u32:
    return at(FreeBlock, a).length  # line of at_null


@native
def cell_at(a: u64) -> u64:
    return cell(u64, a).value  # line of cell_at


@native
def calls_adds(a: u32) -> u32:
    return adds(a, 1)


BYTES = (ctypes.c_uint64 * 2)()


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (adds, (0xFFFF_FFFF, 1), "the result of an operation is 4294967296, which is no u32"),
        (subtracts, (0, 1), "the result of an operation is -1, which is no u64"),
        (multiplies, (16, 16), "the result of an operation is 256, which is no u8"),
        (shifts_left, (1, 16), "a number of 16 bits is shifted by 16"),
        (shifts_left, (3, 15), "the result of an operation is 98304, which is no u16"),
        (shifts_right, (1, 32), "a number of 32 bits is shifted by 32"),
        (shifts_right_in_place, (0, 32), "a number of 32 bits is shifted by 32"),
        (shifts_left_in_place, (0, 40), "a number of 32 bits is shifted by 40"),
        (negates, (-(1 << 31),), "the result of an operation is 2147483648, which is no i32"),
        (adds_signed, ((1 << 63) - 1, 1), "the result of an operation is 9223372036854775808, which is no i64"),
        (adds_signed, (-(1 << 63), -1), "which is no i64"),
        (adds_in_place, (0xFFFF_FFFE, 1), "the result of an operation is 4294967296, which is no u32"),
        (narrows, (256, 0), "256 is no u8; these are from 0 to 255"),
        (makes_unsigned, (-1,), "-1 is no u64; these are from 0 to"),
        (divides, (1, 0), "by zero"),
        (takes_the_rest, (1, 0), "by zero"),
        (counts_zeros, (0,), "ctz(0): there is no lowest 1"),
        (at_null, (0,), "no FreeBlock is at address 0x0: it is null, or not aligned"),
        (at_null, (ctypes.addressof(BYTES) + 2,), "it is null, or not aligned"),
        (cell_at, (0,), "is at address 0x0: it is null, or not aligned"),
        (cell_at, (ctypes.addressof(BYTES) + 4,), "it is null, or not aligned"),
    ],
    ids=lambda each: each.name if isinstance(each, Native) else "",
)
def test_a_number_out_of_range_names_the_line(function: Native[..., Any], args: tuple[int, ...], message: str) -> None:
    with pytest.raises((OutOfRange, ZeroDivisionError), match=re.escape(message)) as caught:
        function(*args)
    frames = traceback.extract_tb(caught.value.__traceback__)
    (found,) = [frame for frame in frames if frame.name == function.__name__]
    assert found.filename == __file__
    assert found.line is not None
    assert found.line.endswith(f"# line of {function.__name__}")


@pytest.mark.parametrize("wrong", [-1, 1 << 32, 1.5, 1.0, None, "1", 1 << 70])
def test_a_parameter_out_of_range_names_the_function(wrong: Any) -> None:
    with pytest.raises(OutOfRange, match=r"a is .*, which is no u32") as caught:
        calls_adds(wrong)
    (found,) = [each for each in traceback.extract_tb(caught.value.__traceback__) if each.name == "calls_adds"]
    assert (found.filename, found.line) == (__file__, "def calls_adds(a: u32) -> u32:")


@native
def chooses(flag: bool, a: i32) -> i32:
    return a if flag else -a


@pytest.mark.parametrize("wrong", [0, 1, 5, None, "x"])
def test_a_parameter_that_is_no_bool_is_refused(wrong: Any) -> None:
    with pytest.raises(OutOfRange, match=r"flag is .*, which is no bool"):
        chooses(wrong, 5)
    assert chooses(False, 5) == -5


def test_numbers_at_the_ends_are_in_range() -> None:
    assert adds(0xFFFF_FFFE, 1) == 0xFFFF_FFFF
    assert subtracts(1, 1) == 0
    assert negates((1 << 31) - 1) == -(1 << 31) + 1
    assert shifts_left(1, 15) == 1 << 15
    assert u8(255) == 255
    with pytest.raises(TypeError):
        u8(1.0)  # type: ignore[operator]
    assert repr(u8) == "u8"


def test_words_know_their_width_only_in_a_function() -> None:
    with pytest.raises(LowheapError, match="wrapping_add was called outside of a function of the subset"):
        wrapping_add(1, 2)


@native
def must_hold(a: u32) -> None:
    note("asked about %#x", a)
    sound(a != 7, "it is {:#x}, {}", a, a)


def test_what_must_be_sound_and_notes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(5, "lowheap.heap"):
        must_hold(6)
    assert "asked about 0x6" in caplog.text
    with pytest.raises(HeapCorruptionError, match="it is 0x7, 7"):
        must_hold(7)


@native
def reads(heap: Heap, reference: Ref, offset: u32) -> u32:
    return heap.slot(reference, offset).value + u32(heap.cell(u8, reference, offset).value)


def test_the_heap_looks_where_it_is_told_to() -> None:
    memory = Memory(1 << 16)
    heap = Heap(memory, VMHeapControl())
    memory.write(32, b"\x05\0\0\0")
    assert reads(heap, 16, 16) == 10
    with pytest.raises(HeapError, match="is not within a mapping"):
        reads(heap, 0xFFFF_FFF0, 16)  # the sum does not wrap
    with pytest.raises(HeapError, match="no store context"):
        _ = heap.store_context
    with pytest.raises(HeapError, match="there is no size class 1000"):
        heap.size_class_head(1000)
    assert heap.release_externrefs() == 0


# ----------------------------------------------------------------------------------------------------------------------
# Lines


class Pair(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint32), ("high", ctypes.c_uint32))
    low: int
    high: int


@native
def steps(pair: Pair, a: u32) -> u32:
    """What a debugger steps through."""
    total: u32 = 0
    for i in range(a):
        if i == 1:
            continue
        total += i
    pair.low += total
    place(pair, "high").value += 1
    return adds(
        pair.low,
        pair.high,
    )


def traced(call: Callable[[], Any]) -> list[tuple[str, int]]:
    """The lines of this file that are run, function by function."""
    found: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and frame.f_code.co_filename == __file__:
            found.append((frame.f_code.co_name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return [each for each in found if each[0] in ("steps", "adds")]


def test_a_debugger_steps_through_the_source() -> None:
    """The lines are those that the function as it stands would run, but for the checks of its parameters."""
    assert steps(Pair(1, 2), 3) == 6
    native_lines = traced(lambda: steps(Pair(1, 2), 3))
    plain = steps.function
    assert plain.__globals__["adds"] is adds
    plain_lines = traced(lambda: plain(Pair(1, 2), 3))  # type: ignore[arg-type]
    definitions = {each.checked.tree.lineno for each in (steps, adds)}
    assert [line for line in native_lines if line[1] not in definitions] == [
        line for line in plain_lines if line[1] not in definitions
    ]


class Stepper(bdb.Bdb):
    """A debugger that stops at a breakpoint, and looks at a variable."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, dict[str, Any]]] = []

    def user_line(self, frame: FrameType) -> None:
        if self.break_here(frame):
            self.seen.append((frame.f_lineno, dict(frame.f_locals)))
        self.set_continue()


def test_a_breakpoint_in_the_file_stops_in_the_function() -> None:
    lines, first = inspect.getsourcelines(steps)
    line = first + next(number for number, line in enumerate(lines) if "total += i" in line)
    debugger = Stepper()
    assert debugger.set_break(__file__, line) is None
    before = sys.gettrace()
    try:
        debugger.runcall(steps, Pair(1, 2), 3)
    finally:
        sys.settrace(before)
    assert [(where, local["i"], local["total"]) for where, local in debugger.seen] == [(line, 0, 0), (line, 2, 0)]


# ----------------------------------------------------------------------------------------------------------------------
# As objects

MODULE = '''
"""A module of a user's own."""

from collections.abc import Iterator

from lowheap.layout import NULL
from lowheap.native import Heap, Ref, cold, inline, native, record, u8, u32, u64, wrapping_add

STEP = 3


@record
class Count:
    objects: u64 = 2
    any: bool = False
    small: u8 = 255


class Counted:
    """Barriers as methods that belong to no instance."""

    STEP = 5

    @native
    def read(a: u32) -> u32:
        """Read.
Its docstring is not indented."""
        count = Count()
        for each in Counted.steps(a, count):
            count.objects += u64(each)
        return u32(count.objects) + Counted.add(a, STEP) + u32(count.small) + u32(count.any)

    @inline
    def steps(a: u32, count: Count) -> Iterator[u32]:
        yield a
        count.any = True
        yield Counted.STEP

    @cold
    def add(a: u32, b: u32) -> u32:
        return (a +
                b)
'''


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "barriers_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import barriers_of_a_user  # type: ignore[import-not-found]

    yield barriers_of_a_user
    del sys.modules["barriers_of_a_user"]


def test_a_module_of_ones_own_with_methods(user: Any, tmp_path: Path) -> None:
    counted = user.Counted
    assert counted.read(10) == 2 + 10 + 5 + 13 + 255 + 1
    assert counted().read(10) == counted.read(10)  # bound to nothing
    code = Compiled([counted.read])
    assert code.call(counted.read, 10) == counted.read(10)
    assert counted.read.symbol == "lh.barriers_of_a_user.Counted.read"
    assert "barriers_of_a_user.Counted.add" in code.text
    assert counted.read.sources() == [tmp_path / "barriers_of_a_user.py"]
    assert [each.name for each in counted.read.callees()] == ["Counted.read", "Counted.add", "Counted.steps"]
    with pytest.raises(OutOfRange) as caught:
        counted.add(0xFFFF_FFFF, 1)
    frame = traceback.extract_tb(caught.value.__traceback__)[-2]
    assert frame.line == "return (a +"
    assert inspect.getsource(counted.add) == textwrap.indent(
        "@cold\ndef add(a: u32, b: u32) -> u32:\n    return (a +\n            b)\n", "    "
    )
    assert str(inspect.signature(counted.add)) == "(a: u32, b: u32) -> u32"


def test_an_error_in_a_method_names_its_line(tmp_path: Path) -> None:
    text = (
        "from lowheap.native import native, u32\n\nclass A:\n    @native\n    def f(a: u32) -> u32:\n"
        '        """Text\nthat is not indented."""\n        return a / 2\n'
    )
    path = tmp_path / "x.py"
    path.write_text(text)
    namespace: dict[str, Any] = {"__name__": "x"}
    exec(compile(text, str(path), "exec"), namespace)
    with pytest.raises(NativeError, match=r"x\.py:8: the subset has no operator Div"):
        namespace["A"].f(1)


def test_it_is_pickled_by_name_and_not_copied(user: Any) -> None:
    for each in (adds, user.Counted.read):
        assert pickle.loads(pickle.dumps(each)) is each
        assert copy.copy(each) is each
        assert copy.deepcopy(each) is each
    made = make_adder(5)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(made)


def test_what_it_looks_like() -> None:
    assert repr(adds) == f"<native {__name__}.adds>"
    assert steps.__doc__ == "What a debugger steps through."
    assert (adds.__name__, adds.__qualname__, adds.__module__) == ("adds", "adds", __name__)
    assert adds.sources() == [Path(__file__)]
    with pytest.raises(TypeError, match="adds takes its arguments by position"):
        adds(a=1, b=2)
    with pytest.raises(TypeError, match="positional argument"):
        adds(1)  # type: ignore[call-arg]


def test_first_uses_on_many_threads() -> None:
    """What is being checked on one thread is no recursion on another."""
    problems: list[BaseException] = []
    for _ in range(20):
        functions = [Native(each.function) for each in (steps, calls_adds, adds)]
        barrier = threading.Barrier(4)

        def use(functions: list[Native[..., Any]] = functions, barrier: threading.Barrier = barrier) -> None:
            try:
                barrier.wait()
                for each in functions:
                    _ = each.checked
                assert functions[1](4) == 5
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems


# ----------------------------------------------------------------------------------------------------------------------
# Names mean one thing


def make_adder(amount: int) -> Native[[int], int]:
    @native
    def add(a: u32) -> u32:
        return a + amount

    return add


@native
def uses_both(a: u32) -> u32:
    return ADD_FIVE(a) * 100 + ADD_SEVEN(a)


ADD_FIVE, ADD_SEVEN = make_adder(5), make_adder(7)


def test_functions_of_one_name_stay_apart() -> None:
    assert uses_both(1) == 608
    code = Compiled([uses_both, ADD_SEVEN, ADD_FIVE])
    assert code.call(uses_both, 1) == 608
    assert code.call(ADD_FIVE, 1) == 6
    module = ir.Module("twice")
    first = declare(module, ADD_FIVE, Emitter, name="add")
    assert declare(module, ADD_FIVE, Emitter, name="add") is first
    with pytest.raises(CompilerError, match=r"cannot be add: make_adder\.<locals>\.add is"):
        declare(module, ADD_SEVEN, Emitter, name="add")


CHANGING = 5
MEMBERS = [1, 2]


@native
def uses_globals(a: u32) -> u32:
    if a in MEMBERS:
        return 0
    return a * CHANGING


def test_a_global_that_changes_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python and machine code go by what was found when the function was checked."""
    function = Native(uses_globals.function)
    _ = function.checked
    monkeypatch.setattr(sys.modules[__name__], "CHANGING", 6)
    MEMBERS.append(3)
    try:
        assert function(3) == 15
        assert Compiled([function]).call(function, 3) == 15
    finally:
        MEMBERS.pop()


def test_words_are_all_exported() -> None:
    assert set(subset.__all__) <= set(dir(subset))
    assert {name for name in vars(subset.words) if name in subset.words.WORDS} <= set(subset.__all__)


# ----------------------------------------------------------------------------------------------------------------------
# Records, statics


def test_what_is_no_record() -> None:
    with pytest.raises(TypeError, match="Has is no record: it has method"):

        @record
        class Has:
            a: u32 = 0

            def method(self) -> None: ...

    with pytest.raises(TypeError, match="Child is no record: it has bases"):

        @record
        class Child(Has if False else Pair):  # type: ignore[misc]
            a: u32 = 0


@dataclass(frozen=True)
class Rules:
    is_native_static = True
    number: u8 = 0
    flag: bool = False
    key = "rules"


@native
def by_rules(rules: Rules, a: u32) -> u32:
    if rules.flag:
        return a
    return a + u32(rules.number)


@pytest.mark.parametrize(
    ("statics", "message"),
    [
        ({"rules": Rules(256)}, r"number of Rules\(.*\) is 256, which is no u8"),
        ({"rules": Rules(-1)}, "is -1, which is no u8"),
        ({"rules": Rules(1.5)}, "is 1.5, which is no u8"),  # type: ignore[arg-type]
        ({"rules": Rules(True)}, "is True, which is no u8"),
        ({"rules": Rules(1, 1)}, "is 1, which is no bool"),  # type: ignore[arg-type]
        ({}, "by_rules is compiled for a Rules as its rules"),
        ({"rules": 5}, "by_rules is compiled for a Rules as its rules"),
    ],
)
def test_statics_are_what_they_say(statics: dict[str, Any], message: str) -> None:
    with pytest.raises(CompilerError, match=message):
        declare(ir.Module("statics"), by_rules, Emitter, statics=statics)


def test_statics_of_one_key_stay_apart() -> None:
    module = ir.Module("statics")
    functions = [declare(module, by_rules, Emitter, statics={"rules": Rules(number)}) for number in (1, 2, 1)]
    assert functions[0] is functions[2]
    assert functions[0] is not functions[1]


# ----------------------------------------------------------------------------------------------------------------------
# What LLVM is told


@native
def moving_place(heap: Heap, reference: Ref, n: u32) -> None:
    link = place(heap.control, "dead_list")
    header = heap.header(reference)
    while n != 0:
        link.value = n
        link = place(header, "next_over_approximated_stack_root")
        n -= 1


@native
def fixed_places(heap: Heap, reference: Ref) -> None:
    dead = place(heap.control, "dead_list")
    following = place(heap.header(reference), "next_over_approximated_stack_root")
    dead.value = following.value
    heap.block(reference).next = 5
    heap.slot(reference, HEADER_SIZE).value = 6


@native
def block_fields(heap: Heap, reference: Ref, a: u32) -> None:
    block = heap.block(reference)
    block.kind_and_reserved = 0
    block.length = a


@native
def pair_fields(pair: Pair, a: u32) -> None:
    pair.low = 0
    pair.high = a


@inline
def either(heap: Heap, reference: Ref, flag: bool) -> Slot:
    if flag:
        return place(heap.control, "dead_list")
    return place(heap.header(reference), "object_size")


@native
def through_either(heap: Heap, reference: Ref, flag: bool) -> u32:
    slot = either(heap, reference, flag)
    slot.value = 7
    return heap.control.dead_list + heap.header(reference).object_size


@native
def two_layouts(heap: Heap, reference: Ref, value: u64) -> u32:
    header = heap.header(reference)
    header.kind_and_reserved = 5
    cell(u64, address_of(header)).value = value
    return header.type_index


def test_another_layout_of_named_memory_has_no_name() -> None:
    """The store is to two fields at once: under the first one's name, it would leave the second as it was."""
    text = show(two_layouts).ir
    assert alias_names(text, "store i64") == [None]
    assert alias_names(text, "load i32") == [f"header+{VMDrcHeader.type_index.offset}"]


def alias_names(text: str, instruction: str) -> list[str | None]:
    """What alias analysis calls the accesses of the heap by an instruction, in order; None for any."""
    tables = dict(re.findall(r"^(!\d+) = !\{ (.*) \}", text, re.MULTILINE))
    found = []
    for line in text.splitlines():
        if re.search(rf"\b{instruction}\b", line) and "align" in line and "invariant" not in line:
            tag = re.search(r"!tbaa (!\d+)", line)
            if tag is None:
                found.append(None)
                continue
            name = re.search(r'!"(.*?)"', tables[tables[tag[1]].split(",")[0]])
            assert name is not None
            found.append(name[1])
    return found


def test_a_place_that_moves_has_no_name() -> None:
    """A wrong name would let LLVM take a store for one to somewhere else."""
    assert alias_names(show(moving_place).ir, "store i32 .*align") == [None]
    assert alias_names(show(through_either).ir, "store i32 7.*align") == [None]
    text = show(fixed_places).ir
    assert alias_names(text, "store") == [f"control+{VMHeapControl.dead_list.offset}", None, None]
    assert alias_names(text, "load") == [f"header+{VMDrcHeader.next_over_approximated_stack_root.offset}"]


def test_two_stores_are_one_where_they_are_aligned() -> None:
    assert "store i64" in show(block_fields).ir
    assert "store i64" not in show(pair_fields).ir  # it is aligned to 4 bytes only


@native
def near_slot(heap: Heap, reference: Ref, mask: u64) -> u32:
    return heap.slot(reference, ctz(mask) * 4 + HEADER_SIZE).value


@native
def far_slot(heap: Heap, reference: Ref, number: u32) -> u32:
    return heap.slot(reference, number * 4 + HEADER_SIZE).value


@native
def scaled_too_far(heap: Heap, reference: Ref, mask: u64) -> u32:
    return heap.slot(reference, ctz(mask) * (1 << 24)).value


def test_an_offset_that_stays_in_the_guard_needs_no_arithmetic_that_wraps() -> None:
    """Such arithmetic must be done for all others, or a corrupt number leads out of the reservation."""
    wraps = 'add i32 %".2"'  # the second parameter is the reference
    assert wraps not in show(near_slot).ir
    for function in (far_slot, scaled_too_far):
        assert wraps in show(function).ir


def test_what_is_invariant_is_loaded_so() -> None:
    text = show(invariant_loads).ir
    assert len(re.findall(r"load i\d+, .*invariant", text)) == 3
    assert len(re.findall(r"load i32, .*tbaa", text)) == 1


@native
def invariant_loads(heap: Heap, n: u32) -> u64:
    info = heap.type_info(n)
    total = u64(info.kind) + heap.control.type_table + u64(heap.type_data(n))
    return total + u64(heap.control.dead_list)


def test_show() -> None:
    shown = show(adds)
    assert shown.symbol == "lh.test_native_functions.adds"
    assert 'define i32 @"lh.test_native_functions.adds"(ptr' in shown.ir
    assert "add i32" in shown.optimised
    assert "\nlh.test_native_functions.adds:" in shown.assembly
    assert "ret" in show(adds, target=Target("aarch64-unknown-linux-gnu")).assembly
    assert "add" in show(by_rules, statics={"rules": Rules(7)}, opt_level=0).optimised
    with pytest.raises(CompilerError, match="is a generator, and stands in a loop only"):
        show(generator)
    with pytest.raises(CompilerError, match="takes a record, and stands where it is called only"):
        show(with_record)


@native
def generator(n: u32) -> Iterator[u32]:
    yield n


@record
class Sums:
    total: u32 = 0


@inline
def with_record(sums: Sums) -> None:
    sums.total += 1


def test_every_word_has_an_example() -> None:
    page = (Path(__file__).parent.parent / "docs" / "native.md").read_text(encoding="utf-8")
    text, code = "".join(page.split("```")[::2]), "".join(page.split("```")[1::2])
    words = {*WORDS, *subset.__all__} - {"Native", "tables"}  # which are for others than those who write functions
    in_modules = {"event", "linked"}  # these change nothing of what a function does
    assert not [word for word in in_modules if f"`@{word}" not in text]
    assert not [word for word in words - in_modules if not re.search(rf"\b{word}\b", code)]
    of_heap = {*_HEAP_METHODS, *HEAP_ATTRIBUTES}
    assert not [word for word in of_heap if not re.search(rf"heap\.{word}\b", code)]
    assert not [word for word in of_heap if not re.search(rf"`(heap\.)?{word}\b", text)]


def test_what_only_functions_of_c_do() -> None:
    @native
    def fails(heap: Heap) -> None:
        heap.require_no_problem()

    with pytest.raises(CompilerError, match="require_no_problem stands in functions of C"):
        show(fails)


@linked("test.same")
def first_of_a_name(a: u32) -> u32:
    return a + 1


@linked("test.same")
def second_of_a_name(a: u32) -> u32:
    return a + 2


@native
def calls_both(a: u32) -> u32:
    return first_of_a_name(a) + second_of_a_name(a)


def test_two_functions_linked_by_one_name() -> None:
    with pytest.raises(CompilerError, match=r"second_of_a_name and first_of_a_name are both linked by .* test\.same"):
        show(calls_both)


@native
def fails_in_what_returns_nothing(a: u32) -> None:
    require(a != 0, Status.BAD_ARGUMENT, "it is 0")


def test_a_status_that_nobody_returns() -> None:
    with pytest.raises(CompilerError, match=r"fails_in_what_returns_nothing may fail .* does not return"):
        show(fails_in_what_returns_nothing)


@pytest.mark.parametrize(("word", "offset"), [(u16, 1), (u32, 2), (u64, 4)])
def test_a_number_that_is_not_aligned(word: Any, offset: int) -> None:
    heap = Heap(Memory(1 << 16), VMHeapControl())
    assert heap.cell(word, 16, 0).value == 0
    with pytest.raises(HeapError, match=rf"{16 + offset:#x} is not a multiple of {2 * offset}, the number's size"):
        heap.cell(word, 16, offset)
    with pytest.raises(HeapError, match="is not a multiple of 4"):
        heap.slot(16, 2)
