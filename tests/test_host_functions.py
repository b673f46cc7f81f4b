"""Python callables as imports: values both ways, exceptions, re-entry, what they may do to the store, and linking."""

from __future__ import annotations

import functools
import gc
import math
import struct
import threading
import traceback
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples

import lowheap as lh
from lowheap.config import RUNTIMES
from lowheap.types import ANYREF, EXTERNREF, F32, F64, FUNCREF, I31REF, I32, I64

IDENTITY = """(module
  (type $pair (struct (field $a (mut i32)) (field $b (mut anyref))))
  (type $numbers (array (mut i32)))
  (type $callback (func (param i32) (result i32)))
  (import "host" "i32" (func $i32 (param i32) (result i32)))
  (import "host" "i64" (func $i64 (param i64) (result i64)))
  (import "host" "f32" (func $f32 (param f32) (result f32)))
  (import "host" "f64" (func $f64 (param f64) (result f64)))
  (import "host" "any" (func $any (param anyref) (result anyref)))
  (import "host" "eq" (func $eq (param eqref) (result eqref)))
  (import "host" "i31" (func $i31 (param i31ref) (result i31ref)))
  (import "host" "struct" (func $struct (param structref) (result structref)))
  (import "host" "array" (func $array (param arrayref) (result arrayref)))
  (import "host" "pair" (func $pair (param (ref null $pair)) (result (ref null $pair))))
  (import "host" "solid" (func $solid (param (ref $pair)) (result (ref $pair))))
  (import "host" "extern" (func $extern (param externref) (result externref)))
  (import "host" "func" (func $func (param funcref) (result funcref)))
  (import "host" "callback" (func $callback (param (ref null $callback)) (result (ref null $callback))))
  (import "host" "none" (func $none (param nullref) (result nullref)))
  (import "host" "many"
    (func $many (param i32 i64 f32 f64 anyref externref funcref) (result f64 anyref i32 externref f32 funcref i64)))
  (import "host" "nothing" (func $nothing))
  (func (export "i32") (param i32) (result i32) (call $i32 (local.get 0)))
  (func (export "i64") (param i64) (result i64) (call $i64 (local.get 0)))
  (func (export "f32") (param f32) (result f32) (call $f32 (local.get 0)))
  (func (export "f64") (param f64) (result f64) (call $f64 (local.get 0)))
  (func (export "f32_bits") (param i32) (result i32)
    (i32.reinterpret_f32 (call $f32 (f32.reinterpret_i32 (local.get 0)))))
  (func (export "f64_bits") (param i64) (result i64)
    (i64.reinterpret_f64 (call $f64 (f64.reinterpret_i64 (local.get 0)))))
  (func (export "any") (param anyref) (result anyref) (call $any (local.get 0)))
  (func (export "eq") (param eqref) (result eqref) (call $eq (local.get 0)))
  (func (export "i31") (param i31ref) (result i31ref) (call $i31 (local.get 0)))
  (func (export "struct") (param structref) (result structref) (call $struct (local.get 0)))
  (func (export "array") (param arrayref) (result arrayref) (call $array (local.get 0)))
  (func (export "pair") (param (ref null $pair)) (result (ref null $pair)) (call $pair (local.get 0)))
  (func (export "solid") (param (ref $pair)) (result (ref $pair)) (call $solid (local.get 0)))
  (func (export "extern") (param externref) (result externref) (call $extern (local.get 0)))
  (func (export "func") (param funcref) (result funcref) (call $func (local.get 0)))
  (func (export "callback") (param (ref null $callback)) (result (ref null $callback)) (call $callback (local.get 0)))
  (func (export "none") (param nullref) (result nullref) (call $none (local.get 0)))
  (func (export "many") (param i32 i64 f32 f64 anyref externref funcref)
    (result f64 anyref i32 externref f32 funcref i64)
    (call $many (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6)))
  (func (export "nothing") (call $nothing))
  (func (export "new_pair") (param i32) (result (ref $pair)) (struct.new $pair (local.get 0) (ref.null any)))
  (func (export "new_numbers") (param i32) (result (ref $numbers)) (array.new_default $numbers (local.get 0)))
  (func (export "double") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func (export "apply") (param (ref null $callback)) (param i32) (result i32)
    (call_ref $callback (local.get 1) (local.get 0)))
  (func (export "as_extern") (param anyref) (result externref) (extern.convert_any (local.get 0)))
  (func (export "as_any") (param externref) (result anyref) (any.convert_extern (local.get 0)))
  (func (export "imported_i32") (result funcref) (ref.func $i32))
  (elem declare func $i32)
)"""


@functools.cache
def engine(runtime: str) -> lh.Engine:
    return lh.Engine(runtime=runtime)


@functools.cache
def module(runtime: str, source: str) -> lh.Module:
    return lh.Module(engine(runtime), source)


class Switchboard:
    """An instance of `IDENTITY`, whose host functions do what `behaviour` says; by default, return what they get."""

    def __init__(self, runtime: str, **options: Any) -> None:
        self.store = lh.Store(engine(runtime), initial_heap_size=1 << 16, **options)  # few blocks, to verify
        self.behaviour: dict[str, Callable[..., Any]] = {}
        self.received: list[tuple[str, tuple[Any, ...]]] = []
        names = [entry.name for entry in module(runtime, IDENTITY).imports]
        self.instance = lh.Instance(
            self.store, module(runtime, IDENTITY), {"host": {name: self.host_function(name) for name in names}}
        )
        self.exports = self.instance.exports

    def host_function(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.received.append((name, args))
            if name in self.behaviour:
                return self.behaviour[name](*args)
            return args[0] if args else None

        return call

    def forget(self) -> None:
        self.received.clear()
        self.behaviour.clear()

    def check_nothing_left(self) -> None:
        self.forget()
        gc.collect()
        self.store.verify()
        self.store.collect()
        self.store.verify()
        assert self.store.heap.stats().live_objects == 0
        assert len(self.store.host_data) == 0
        assert list(self.store.heap.handles()) == []


@pytest.fixture(
    params=[(runtime, every) for runtime in RUNTIMES for every in (0, 1)], ids=lambda each: f"{each[0]}-{each[1]}"
)
def board(request: pytest.FixtureRequest) -> Iterator[Switchboard]:
    runtime, every = request.param
    board = Switchboard(runtime, collect_every=every)
    with board.store:
        yield board
        board.check_nothing_left()


@functools.cache
def shared() -> Switchboard:
    return Switchboard(RUNTIMES[0])


# --- Scalars ---------------------------------------------------------------------------------------------------------


def signed(value: int, bits: int) -> int:
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


@pytest.mark.parametrize("bits", [32, 64])
def test_integers_at_the_edges(board: Switchboard, bits: int) -> None:
    for value in (0, 1, -1, 1 << (bits - 1), (1 << (bits - 1)) - 1, -(1 << (bits - 1)), (1 << bits) - 1):
        assert board.exports[f"i{bits}"](value) == signed(value, bits)
        assert board.received.pop() == (f"i{bits}", (signed(value, bits),))
    board.behaviour[f"i{bits}"] = lambda value: (1 << bits) - 1
    assert board.exports[f"i{bits}"](0) == -1


@given(st.integers(-(1 << 31), (1 << 32) - 1), st.integers(-(1 << 63), (1 << 64) - 1))
def test_integers_pass_unchanged(small: int, large: int) -> None:
    assert shared().exports["i32"](small) == signed(small, 32)
    assert shared().exports["i64"](large) == signed(large, 64)


@given(st.floats(width=32), st.floats())
def test_floats_pass_unchanged(small: float, large: float) -> None:
    for name, value in (("f32", small), ("f64", large)):
        result = shared().exports[name](value)
        received = shared().received.pop()[1][0]
        assert struct.pack("<d", result) == struct.pack("<d", received)
        assert math.isnan(value) if math.isnan(result) else struct.pack("<d", result) == struct.pack("<d", value)


@given(st.floats())
def test_a_float_too_precise_for_f32_is_rounded(value: float) -> None:
    try:
        rounded = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        rounded = math.copysign(math.inf, value)
    result = shared().exports["f32"](value)
    assert result == rounded or (math.isnan(result) and math.isnan(value))


F32_NANS = [0x7FC00000, 0xFFC00000, 0x7FC00001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FE12345]
F64_NANS = [0x7FF8 << 48, 0xFFF8 << 48, (0x7FF8 << 48) + 1, (1 << 63) - 1, (1 << 64) - 1, 0x7FF0_0000_0000_0001]


@pytest.mark.parametrize("bits", F32_NANS, ids=hex)
def test_quiet_f32_nans_keep_sign_and_payload_through_python(bits: int) -> None:
    assert shared().exports["f32_bits"](bits) == signed(bits, 32)


@pytest.mark.parametrize("bits", F64_NANS, ids=hex)
def test_f64_nans_keep_all_bits_through_python(bits: int) -> None:
    assert shared().exports["f64_bits"](bits) == signed(bits, 64)
    value = shared().received.pop()[1][0]
    assert struct.unpack("<Q", struct.pack("<d", value))[0] == bits


def test_a_signalling_f32_nan_becomes_quiet_on_its_way_through_a_double() -> None:
    assert shared().exports["f32_bits"](0x7F800001) == 0x7FC00001


def test_an_int_does_for_a_float(board: Switchboard) -> None:
    assert board.exports["f32"](3) == 3.0
    assert board.exports["f64"](-(10**400)) == -math.inf
    board.behaviour["f64"] = lambda value: 7
    assert board.exports["f64"](0.5) == 7.0


# --- References ------------------------------------------------------------------------------------------------------


def test_structs_pass_as_handles_of_the_same_object(board: Switchboard) -> None:
    pair = board.exports["new_pair"](5)
    for name in ("any", "eq", "struct", "pair", "solid"):
        result = board.exports[name](pair)
        assert isinstance(result, lh.Struct)
        assert result == pair
        assert board.received.pop()[1][0] == pair
    assert pair["a"] == 5
    del result
    # Handles of one object each have a count; once they are gone, this one's and perhaps the list's are left.
    board.store.collect()
    assert pair.ref_count == 1


def test_arrays_pass(board: Switchboard) -> None:
    numbers = board.exports["new_numbers"](3)
    for name in ("any", "eq", "array"):
        result = board.exports[name](numbers)
        assert isinstance(result, lh.Array)
        assert result == numbers
    numbers[1] = -4
    assert result[:] == [0, -4, 0]


def test_i31s_pass_by_value(board: Switchboard) -> None:
    for value in (0, 1, -1, (1 << 30) - 1, -(1 << 30)):
        for name in ("any", "eq", "i31"):
            assert board.exports[name](lh.I31(value)) == lh.I31(value)
            assert board.received.pop()[1] == (lh.I31(value),)
    assert board.exports["i31"](17) == lh.I31(17), "where an i31 is wanted, an int will do"
    board.behaviour["i31"] = lambda value: 18
    assert board.exports["i31"](None) == lh.I31(18)


def test_null_is_none_in_every_hierarchy(board: Switchboard) -> None:
    for name in ("any", "eq", "i31", "struct", "array", "pair", "extern", "func", "callback", "none"):
        assert board.exports[name](None) is None
        assert board.received.pop() == (name, (None,))


def test_any_object_passes_as_an_externref(board: Switchboard) -> None:
    for value in (0, "text", 1.5, [1, 2], object(), Exception("x"), print, True):
        result = board.exports["extern"](value)
        assert isinstance(result, lh.ExternRef)
        assert result.value is value
        received = board.received.pop()[1][0]
        assert received == result, "one object in the heap, whatever it wraps"
        assert board.exports["extern"](result) == result
    board.behaviour["extern"] = lambda ref: "something else"
    assert board.exports["extern"](None).value == "something else"


def test_objects_of_the_heap_pass_as_externrefs_and_come_back(board: Switchboard) -> None:
    for value in (board.exports["new_pair"](1), board.exports["new_numbers"](2), lh.I31(-7)):
        assert board.exports["extern"](value) == value
        assert board.exports["as_extern"](value) == value
        assert board.exports["as_any"](value) == value
    wrapped = board.exports["as_any"]("a string")
    assert isinstance(wrapped, lh.ExternRef)
    assert board.exports["any"](wrapped).value == "a string"


def test_functions_pass_and_stay_themselves(board: Switchboard) -> None:
    double = board.exports["double"]
    for name in ("func", "callback"):
        result = board.exports[name](double)
        assert result is double
        assert board.received.pop()[1][0] is double
    assert board.exports["func"](board.exports["nothing"])() is None


def test_functions_of_the_host_are_functions_too(board: Switchboard) -> None:
    imported = board.exports["imported_i32"]()
    assert isinstance(imported, lh.Func)
    board.behaviour["i32"] = lambda value: value + 1
    assert imported(41) == 42
    assert board.exports["apply"](imported, 10) == 11
    assert board.exports["apply"](board.exports["double"], 10) == 20
    assert board.exports["callback"](imported) is imported
    with pytest.raises(TypeError, match="'x' was given where i32 is wanted"):
        imported("x")
    with pytest.raises(TypeError, match="2 values were given where 1 are wanted"):
        imported(1, 2)


def test_several_values_of_every_type(board: Switchboard) -> None:
    pair, function, thing = board.exports["new_pair"](3), board.exports["double"], object()
    board.behaviour["many"] = lambda a, b, c, d, e, f, g: (d, e, a, f, c, g, b)
    result = board.exports["many"](-1, 1 << 62, 0.5, 1e300, pair, thing, function)
    assert result[:3] == (1e300, pair, -1)
    assert result[3].value is thing
    assert result[4:] == (0.5, function, 1 << 62)
    board.behaviour["many"] = lambda *args: [0.0, None, 0, None, 0.0, None, 0]
    assert board.exports["many"](0, 0, 0, 0, None, None, None) == (0.0, None, 0, None, 0.0, None, 0)


def test_no_values(board: Switchboard) -> None:
    assert board.exports["nothing"]() is None


# --- Wrong values ----------------------------------------------------------------------------------------------------

WRONG_RESULTS = [
    ("i32", "7", TypeError, r"host\.i32, value 0: '7' was given where i32 is wanted"),
    ("i32", 1.0, TypeError, r"1\.0 was given where i32"),
    ("i32", True, TypeError, "True was given where i32"),
    ("i32", None, TypeError, "None was given where i32"),
    ("i32", 1 << 32, ValueError, r"host\.i32, value 0: 4294967296 does not fit i32"),
    ("i32", -(1 << 31) - 1, ValueError, "-2147483649 does not fit i32"),
    ("i32", (1, 2), TypeError, r"\(1, 2\) was given where i32"),
    ("i64", 1 << 64, ValueError, "18446744073709551616 does not fit i64"),
    ("i64", b"x", TypeError, "b'x' was given where i64"),
    ("f32", "1.5", TypeError, "'1.5' was given where f32"),
    ("f64", True, TypeError, "True was given where f64"),
    ("f64", 1j, TypeError, "1j was given where f64"),
    ("any", 5, TypeError, "5 was given where anyref"),
    ("any", "text", TypeError, "'text' was given where anyref"),
    ("eq", object, TypeError, "<class 'object'> was given where eqref"),
    ("i31", 1 << 31, ValueError, "an i31 cannot hold 2147483648"),
    ("i31", True, TypeError, "True"),
    ("struct", lh.I31(1), TypeError, r"I31\(1\) was given where structref"),
    ("array", lh.I31(1), TypeError, r"I31\(1\) was given where arrayref"),
    ("pair", lh.I31(1), TypeError, r"I31\(1\) was given where \(ref null \d+\), .*struct"),
    (
        "solid",
        None,
        TypeError,
        r"host\.solid, value 0: None was given where \(ref \d+\) is wanted, which is not nullable",
    ),
    ("func", print, TypeError, "<built-in function print> was given where funcref"),
    ("callback", "f", TypeError, r"'f' was given where \(ref null \d+\), .*func"),
    ("none", lh.I31(1), TypeError, r"I31\(1\) was given where nullref"),
    ("many", None, TypeError, r"host\.many returned None; it must be a tuple of 7"),
    ("many", (1, 2), TypeError, r"host\.many: 2 values were given where 7 are wanted"),
    ("many", 3, TypeError, r"host\.many returned 3; it must be a tuple of 7"),
    ("many", (0.0, "a", 0, None, 0.0, None, 0), TypeError, r"host\.many, value 1: 'a' was given where anyref"),
    ("many", (0.0, None, 0, "kept", 0.0, None, 1 << 64), ValueError, r"host\.many, value 6: "),
    ("nothing", 0, TypeError, r"host\.nothing returned 0; its type has no result"),
]


def arguments(board: Switchboard, name: str) -> tuple[Any, ...]:
    if name == "solid":
        return (board.exports["new_pair"](0),)
    return {
        "i32": (0,),
        "i64": (0,),
        "f32": (0,),
        "f64": (0,),
        "many": (0, 0, 0, 0, None, None, None),
        "nothing": (),
    }.get(name, (None,))


@pytest.mark.parametrize(("name", "value", "error", "message"), WRONG_RESULTS, ids=lambda each: str(each)[:24])
def test_wrong_results_name_the_function_and_the_value(
    board: Switchboard, name: str, value: Any, error: type[Exception], message: str
) -> None:
    board.behaviour[name] = lambda *args: value
    args = arguments(board, name)
    with pytest.raises(error, match=message) as caught:
        board.exports[name](*args)
    assert f"host function host.{name}" in str(caught.value)
    del args
    board.behaviour.clear()
    assert board.exports["i32"](1) == 1


def test_objects_of_the_wrong_type_are_refused(board: Switchboard) -> None:
    numbers, pair = board.exports["new_numbers"](1), board.exports["new_pair"](1)
    board.behaviour["pair"] = lambda ref: numbers
    with pytest.raises(TypeError, match=r"host\.pair, value 0: <Array \$numbers of 1 at .* was given where"):
        board.exports["pair"](None)
    board.behaviour["array"] = lambda ref: pair
    with pytest.raises(TypeError, match=r"<Struct \$pair at .* was given where arrayref"):
        board.exports["array"](None)
    board.behaviour["callback"] = lambda ref: board.exports["nothing"]
    with pytest.raises(TypeError, match=r"<Func nothing .* was given where"):
        board.exports["callback"](None)
    board.behaviour["any"] = lambda ref: pair
    pair.release()
    with pytest.raises(lh.StaleReferenceError, match="Struct handle is stale: it was released"):
        board.exports["any"](None)


def test_values_of_another_store_are_refused(board: Switchboard) -> None:
    other = shared()
    for name, value in (
        ("any", other.exports["new_pair"](1)),
        ("extern", lh.ExternRef(other.store, "x")),
        ("func", other.exports["double"]),
    ):
        board.behaviour[name] = lambda ref, value=value: value
        with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
            board.exports[name](None)
        with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
            board.exports[name](value)


# --- Exceptions ------------------------------------------------------------------------------------------------------


class OwnBaseException(BaseException):
    """One that is no Exception."""


class Awkward(Exception):
    """One that cannot be made again from its arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


EXCEPTIONS: list[BaseException] = [
    ValueError("v"),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    StopIteration(5),
    StopAsyncIteration(),
    RecursionError("mine"),
    MemoryError(),
    OwnBaseException("own"),
    Awkward(1, 2),
    ExceptionGroup("group", [ValueError("a"), TypeError("b")]),
    BaseExceptionGroup("base group", [KeyboardInterrupt(), OwnBaseException()]),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "reason"),
    lh.HeapExhaustedError("mine", 5),
    lh.Trap(lh.TrapCode.UNREACHABLE, function="mine"),
    AssertionError("a"),
]

NEST = """(module
  (type $kept (struct (field (mut i32)) (field (ref null $kept))))
  (import "host" "down" (func $down (param i32) (result i32)))
  (func (export "nest") (param i32) (result i32) (local $kept (ref null $kept))
    (local.set $kept (struct.new $kept (local.get 0) (struct.new_default $kept)))
    (i32.add (call $down (local.get 0)) (struct.get $kept 0 (local.get $kept)))))"""


def nest(runtime: str, store: lh.Store, down: Callable[[int], int]) -> lh.Func:
    found: lh.Func = lh.Instance(store, module(runtime, NEST), {"host": {"down": down}}).exports["nest"]
    return found


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize("exception", EXCEPTIONS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exception_comes_out_as_itself(runtime: str, exception: BaseException, depth: int) -> None:
    with lh.Store(engine(runtime), initial_heap_size=1 << 16) as store:
        function: lh.Func

        def down(level: int) -> int:
            return int(function(level - 1)) if level else bottom()

        def bottom() -> int:
            raise exception

        function = nest(runtime, store, down)
        exception.__traceback__ = None
        with pytest.raises(type(exception)) as caught:
            function(depth)
        assert caught.value is exception
        frames = [frame.name for frame in traceback.extract_tb(exception.__traceback__)]
        assert frames[-1] == "bottom", "the traceback leads to where it was raised"
        assert frames.count("down") == depth + 1
        assert exception.__cause__ is None
        assert exception.__context__ is None
        exception.__traceback__ = None
        del caught
        gc.collect()
        store.verify()
        store.collect()
        assert store.heap.stats().live_objects == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_cause_and_context_and_notes_are_kept(runtime: str) -> None:
    with lh.Store(engine(runtime)) as store:

        def down(level: int) -> int:
            try:
                raise KeyError("first")
            except KeyError as error:
                new = ValueError("second")
                new.add_note("a note")
                raise new from error

        with pytest.raises(ValueError, match="second") as caught:
            nest(runtime, store, down)(0)
        assert isinstance(caught.value.__cause__, KeyError)
        assert caught.value.__notes__ == ["a note"]


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_host_function_in_between_can_catch_and_go_on(runtime: str, every: int) -> None:
    with lh.Store(engine(runtime), initial_heap_size=1 << 16, collect_every=every) as store:
        caught: list[BaseException] = []
        function: lh.Func

        def down(level: int) -> int:
            if level == 0:
                raise OwnBaseException("bottom")
            try:
                return int(function(level - 1))
            except OwnBaseException as error:
                store.verify()
                store.collect()
                if level % 2:
                    raise LookupError(level) from error
                return 100
            except LookupError as error:
                caught.append(error)
                return int(function(-5)) if level == 2 else 1000

        def down_or_leaf(level: int) -> int:
            return 7 if level < 0 else down(level)

        function = nest(runtime, store, down_or_leaf)
        # 0 raises; 1 turns it into a LookupError; 2 catches that and calls again, which gives 7 - 5.
        assert function(2) == 2 + 2
        assert [str(error) for error in caught] == ["1"]
        assert isinstance(caught[0].__cause__, OwnBaseException)
        assert function(5) == 2 + 2 + 3 + 4 + 5
        caught.clear()
        gc.collect()
        store.collect()
        store.verify()
        assert store.heap.stats().live_objects == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exception_makes_no_cycle_that_would_keep_handles(runtime: str) -> None:
    board = Switchboard(runtime)
    with board.store:

        def fail(ref: lh.Struct) -> lh.Struct:
            board.received.clear()
            raise ValueError(ref)

        board.behaviour["pair"] = fail
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                with pytest.raises(ValueError, match="Struct"):
                    board.exports["pair"](board.exports["new_pair"](1))
            board.store.collect()
            assert board.store.heap.stats().live_objects == 0
        finally:
            gc.enable()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_generators_and_contexts_of_the_caller_are_not_confused(runtime: str) -> None:
    """A host function that runs inside a generator, which is closed while wasm is on the stack."""
    with lh.Store(engine(runtime)) as store:
        log: list[str] = []
        function: lh.Func

        def generator() -> Generator[int, None, None]:
            try:
                yield 1
                yield 2
            finally:
                log.append(str(function(-1)))

        def down(level: int) -> int:
            if level == -1:
                return 40
            running = generator()
            next(running)
            running.close()
            return level

        function = nest(runtime, store, down)
        assert function(3) == 6
        assert log == ["39"]


# --- What host functions may do to the store -------------------------------------------------------------------------


def test_a_host_function_may_collect_verify_and_look(board: Switchboard) -> None:
    def look(ref: Any) -> Any:
        board.store.collect()
        board.store.verify()
        assert [each.index for each in board.store.heap.objects()] == [ref.reference]
        return ref

    board.behaviour["pair"] = look
    assert board.exports["pair"](board.exports["new_pair"](9))["a"] == 9


def test_a_host_function_may_allocate(board: Switchboard) -> None:
    def grow(ref: Any) -> Any:
        kept = [board.exports["new_pair"](number) for number in range(50)]
        kept += [lh.Struct(board.store, kept[0].type_index, [number, lh.I31(number)]) for number in range(50)]
        kept += [lh.Array(board.store, board.exports["new_numbers"](0).type_index, 100) for _ in range(10)]
        kept += [lh.ExternRef(board.store, number) for number in range(10)]
        board.store.verify()
        return lh.Struct(board.store, kept[0].type_index, [77, ref])

    board.behaviour["pair"] = grow
    result = board.exports["pair"](board.exports["new_pair"](9))
    assert (result["a"], result["b"]["a"]) == (77, 9)


def test_a_host_function_may_drop_and_release_what_it_was_given(board: Switchboard) -> None:
    def release(ref: Any) -> Any:
        board.received.clear()
        number = ref["a"]
        ref.release()
        ref.release()
        assert not ref.is_valid
        with pytest.raises(lh.StaleReferenceError, match="it was released"):
            ref["a"]
        board.store.collect()
        board.store.verify()
        return board.exports["new_pair"](number + 1)

    board.behaviour["pair"] = release
    result = board.exports["pair"](board.exports["new_pair"](9))
    assert result["a"] == 10


def test_a_result_may_be_released_by_nobody_else_than_the_caller(board: Switchboard) -> None:
    """The only handle of the result dies when the host function returns it."""
    board.behaviour["any"] = lambda ref: board.exports["new_numbers"](5)
    assert len(board.exports["any"](None)) == 5
    board.behaviour["extern"] = lambda ref: lh.ExternRef(board.store, "only here")
    assert board.exports["extern"](None).value == "only here"


def test_a_host_function_may_not_close_the_store(board: Switchboard) -> None:
    def close() -> None:
        with pytest.raises(lh.HeapError, match="cannot close a store while its compiled code is on the stack"):
            board.store.close()
        assert not board.store.is_closed

    board.behaviour["nothing"] = close
    board.exports["nothing"]()
    board.behaviour["nothing"] = board.store.close
    with pytest.raises(lh.HeapError, match="cannot close a store"):
        board.exports["nothing"]()
    assert board.exports["i32"](3) == 3


def test_a_host_function_may_not_leave_a_collection_unfinished(board: Switchboard) -> None:
    collection: Any = None

    def half() -> None:
        nonlocal collection
        collection = board.store.collection()
        collection.collect_increment()
        with pytest.raises(lh.HeapError, match="cannot call compiled code in the middle of a collection"):
            board.exports["i32"](1)

    board.behaviour["nothing"] = half
    with pytest.raises(lh.HeapError, match=r"host\.nothing returned in the middle of a collection"):
        board.exports["nothing"]()
    collection.close()
    board.store.verify()
    assert board.exports["i32"](3) == 3

    def whole() -> None:
        with board.store.collection() as inner:
            inner.collect_increment()

    board.behaviour["nothing"] = whole
    board.exports["nothing"]()
    board.store.verify()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_host_function_may_not_take_the_memory_away(runtime: str) -> None:
    board = Switchboard(runtime)
    board.behaviour["pair"] = lambda ref: [board.store.heap.detach(), None][1]
    with pytest.raises(lh.HeapError, match="no memory"):
        board.exports["pair"](board.exports["new_pair"](1))
    with pytest.raises(lh.HeapError, match="no memory"):
        board.exports["i32"](1)
    board.forget()
    board.store.heap.attach(type(lh.Store(engine(runtime)).heap.memory)(1 << 16, 1 << 16), board.store.host_data)
    with pytest.raises(lh.HeapError, match="detached or moved since the store's first instance was made"):
        board.exports["i32"](1)
    board.store.close()


def test_a_host_function_may_enter_a_no_gc_scope_and_leave_it_later(board: Switchboard) -> None:
    board.behaviour["nothing"] = board.store.heap.enter_no_gc_scope
    board.exports["nothing"]()
    pair = board.exports["new_pair"](1)
    with pytest.raises(lh.NoGcScopeError):
        board.store.collect()
    board.behaviour["nothing"] = board.store.heap.exit_no_gc_scope
    board.exports["nothing"]()
    board.store.collect()
    assert pair["a"] == 1


def test_a_host_function_may_instantiate(board: Switchboard) -> None:
    def instantiate(number: int) -> Any:
        inner = lh.Instance(
            board.store, module(board.store.engine.runtime, NEST), {"host": {"down": lambda level: level * 10}}
        )
        return inner.exports["nest"](number)

    board.behaviour["i32"] = instantiate
    assert board.exports["i32"](4) == 44


def test_another_thread_may_not_enter_meanwhile(board: Switchboard) -> None:
    outcomes: list[object] = []

    def elsewhere() -> None:
        try:
            outcomes.append(board.exports["i32"](5))
        except lh.HeapError as error:
            outcomes.append(str(error))

    def run_thread() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    board.behaviour["nothing"] = run_thread
    board.exports["nothing"]()
    assert outcomes == ["the store is in use by another thread; a store is used by one thread at a time"]
    run_thread()
    assert outcomes[1] == 5, "one after the other is fine"


# --- Finalizers of host data -----------------------------------------------------------------------------------------


class Finalized:
    """Host data that does something when it dies."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __del__(self) -> None:
        self.action()


def test_finalizers_may_use_the_heap(board: Switchboard) -> None:
    log: list[object] = []

    def action() -> None:
        pair = board.exports["new_pair"](3)
        board.store.verify()
        log.append(pair["a"])
        log.append(board.exports["i32"](4))
        lh.ExternRef(board.store, "new")
        board.store.collect()

    board.exports["extern"](Finalized(action))
    board.forget()
    board.store.collect()
    board.store.verify()
    assert log == [3, 4]


def test_chains_of_finalizers_end(board: Switchboard) -> None:
    log: list[int] = []

    def chain(number: int) -> None:
        log.append(number)
        if number:
            board.exports["extern"](Finalized(lambda: chain(number - 1)))
            board.forget()

    board.exports["extern"](Finalized(lambda: chain(30)))
    board.forget()
    for _ in range(40):
        board.store.collect()
    assert log == list(range(30, -1, -1))


def test_a_finalizer_that_closes_the_store_ends_the_call_in_an_error() -> None:
    source = """(module (type $s (struct (field i32))) (global (mut (ref null $s)) (struct.new $s (i32.const 5)))
      (func (export "f") (result i32) (struct.get $s 0 (global.get 0))))"""
    for runtime in RUNTIMES:
        store = lh.Store(engine(runtime))
        function = lh.Instance(store, module(runtime, source)).exports["f"]
        assert function() == 5
        handle = lh.ExternRef(store, Finalized(store.close))
        del handle
        with pytest.raises(lh.HeapError):
            function()
        assert store.is_closed
        with pytest.raises(lh.HeapError, match="the store is closed"):
            function()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_finalizer_that_releases_the_object_that_is_written_or_read(runtime: str) -> None:
    board = Switchboard(runtime)
    with board.store:

        def write(pair: Any) -> None:
            pair["b"] = board.exports["as_any"]("x")

        def read(pair: Any) -> None:
            pair["a"]

        uses: list[Callable[[Any], None]] = [write, read]
        for use in uses:
            pair = board.exports["new_pair"](1)
            board.store.collect()
            doomed = lh.ExternRef(board.store, Finalized(pair.release))
            del doomed
            with pytest.raises(lh.StaleReferenceError, match="it was released"):
                use(pair)
            board.store.verify()
        # An externref is made for the value: that runs the finalizer, and may take the block of the object released.
        holder_type = lh.StructType((lh.FieldType(EXTERNREF, True),))
        holder = lh.Struct(board.store, holder_type)
        board.store.collect()
        doomed = lh.ExternRef(board.store, Finalized(holder.release))
        del doomed
        with pytest.raises(lh.StaleReferenceError, match="it was released"):
            holder[0] = "new value"
        board.check_nothing_left()


# --- Lifetimes and sharing -------------------------------------------------------------------------------------------


def test_callables_live_as_long_as_the_store(board: Switchboard) -> None:
    class Callable_:
        def __call__(self, number: int) -> int:
            return number + 1

    target = Callable_()
    reference = weakref.ref(target)
    runtime = board.store.engine.runtime
    function = nest(runtime, board.store, target)
    del target
    gc.collect()
    assert reference() is not None
    assert function(1) == 3
    store = lh.Store(engine(runtime))
    other = Callable_()
    reference = weakref.ref(other)
    function = nest(runtime, store, other)
    store.close()
    del other, function, store
    gc.collect()
    assert reference() is None, "and not longer"


def test_an_instance_need_not_be_kept(board: Switchboard) -> None:
    function = nest(board.store.engine.runtime, board.store, lambda level: level)
    gc.collect()
    assert function(21) == 42


def test_bound_methods_partials_and_classes_are_callables(board: Switchboard) -> None:
    runtime = board.store.engine.runtime
    for target in ([1, 2, 1].count, functools.partial(max, 10), int):
        assert isinstance(nest(runtime, board.store, target)(1), int)


def test_one_callable_serves_several_instances(board: Switchboard) -> None:
    calls: list[int] = []

    def shared_function(level: int) -> int:
        calls.append(level)
        return level

    runtime = board.store.engine.runtime
    functions = [nest(runtime, board.store, shared_function) for _ in range(3)]
    assert [function(number) for number, function in enumerate(functions)] == [0, 2, 4]
    assert calls == [0, 1, 2]


# --- Linking ---------------------------------------------------------------------------------------------------------

EXPORTER = """(module
  (type $top (sub (func (param i32) (result anyref))))
  (type $low (sub $top (func (param i32) (result (ref i31)))))
  (type $s (sub (struct (field i32))))
  (type $t (sub $s (struct (field i32) (field i32))))
  (func $f (export "top") (type $top) (ref.null any))
  (func (export "low") (type $low) (ref.i31 (local.get 0)))
  (func (export "plain") (param i32) (result i32) (local.get 0))
  (global $count (export "count") (mut i32) (i32.const 5))
  (global $kept (export "kept") (mut (ref null $s)) (ref.null $s))
  (global (export "constant") i64 (i64.const -1))
  (global (export "t") (ref $t) (struct.new $t (i32.const 1) (i32.const 2)))
  (global (export "function") funcref (ref.func $f))
  (global (export "float") f32 (f32.const 1.5))
  (func (export "get_count") (result i32) (global.get $count))
  (func (export "get_kept") (result i32) (struct.get $s 0 (global.get $kept)))
)"""

IMPORTER = """(module
  (type $top (sub (func (param i32) (result anyref))))
  (type $low (sub $top (func (param i32) (result (ref i31)))))
  (type $s (sub (struct (field i32))))
  (import "a" "low" (func $f (type $top)))
  (import "a" "low" (func $g (type $low)))
  (import "a" "count" (global $count (mut i32)))
  (import "a" "kept" (global $kept (mut (ref null $s))))
  (import "a" "constant" (global $constant i64))
  (import "a" "t" (global $t (ref $s)))
  (import "a" "t" (global $any anyref))
  (import "a" "function" (global $function funcref))
  (global $copy (export "copy") (ref $s) (global.get $t))
  (export "count" (global $count))
  (export "low" (func $g))
  (func (export "run") (param i32) (result i32)
    (global.set $count (i32.add (global.get $count) (local.get 0)))
    (global.set $kept (struct.new $s (global.get $count)))
    (i31.get_s (ref.cast (ref i31) (call $f (local.get 0)))))
  (func (export "same") (result i32) (ref.eq (ref.cast eqref (global.get $any)) (global.get $t)))
  (func (export "constant") (result i64) (global.get $constant))
  (func (export "is_low") (result i32) (ref.test (ref $low) (ref.func $f)))
  (elem declare func $f)
)"""


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_exports_of_one_instance_are_imports_of_another(runtime: str, every: int) -> None:
    with lh.Store(engine(runtime), initial_heap_size=1 << 16, collect_every=every) as store:
        first = lh.Instance(store, module(runtime, EXPORTER))
        second = lh.Instance(store, module(runtime, IMPORTER), {"a": first.exports})
        assert second.exports["run"](7) == 7
        assert first.exports["count"].value == 12
        assert (first.exports["get_count"](), first.exports["get_kept"]()) == (12, 12)
        first.exports["count"].value = -3
        assert second.exports["count"].value == -3
        assert second.exports["run"](1) == 1
        assert first.exports["get_kept"]() == -2
        assert second.exports["same"]() == 1
        assert second.exports["constant"]() == -1
        assert second.exports["copy"].value == first.exports["t"].value
        assert second.exports["low"] is first.exports["low"], "an import exported again is the same function"
        assert second.exports["low"](9) == lh.I31(9)
        assert second.exports["is_low"]() == 1, "imported as a supertype, it stays what it is"
        third = lh.Instance(store, module(runtime, IMPORTER), {"a": first.exports})
        assert third.exports["run"](2) == 2
        assert second.exports["count"].value == first.exports["count"].value == 0
        store.verify()
        first.exports["kept"].value = None
        store.collect()
        assert store.heap.stats().live_objects == 1, "the immutable global's struct"


IMPORTS_OF = (
    '(module (type $s (sub (struct (field i32)))) (type $f (func (param i32) (result i32))) (import "a" "x" {}))'
)


def link_cases() -> list[tuple[str, Callable[[lh.Store, lh.Instance], Any], str]]:
    def export(name: str) -> Callable[[lh.Store, lh.Instance], Any]:
        return lambda store, first: first.exports[name]

    def value(given: Any) -> Callable[[lh.Store, lh.Instance], Any]:
        return lambda store, first: given

    def made(type: Any, value: Any, mutable: bool = False) -> Callable[[lh.Store, lh.Instance], Any]:
        return lambda store, first: lh.Global(store, type, value, mutable=mutable)

    return [
        ("(func (param i64))", export("plain"), r"import a\.x is .*; <Func plain .* was given"),
        ("(func (param i32) (result i64))", export("plain"), "<Func plain"),
        ("(func)", export("plain"), "<Func plain"),
        ("(func (param i32) (result (ref i31)))", export("top"), "<Func top"),
        ("(func (param i32) (result anyref))", export("low"), "<Func low"),
        ("(func)", value(5), r"import a\.x is a function, .*; 5 was given"),
        ("(func)", value(None), "None was given"),
        ("(func)", export("count"), "<Global mut i32> was given"),
        ("(global i32)", export("count"), r"global of type i32; <Global mut i32> was given"),
        ("(global (mut i64))", export("constant"), r"mutable global of type i64; <Global i64> was given"),
        ("(global (mut i64))", export("count"), "mutable global of type i64; <Global mut i32>"),
        ("(global i32)", export("constant"), "global of type i32; <Global i64>"),
        ("(global f64)", export("float"), "global of type f64; <Global f32>"),
        ("(global (mut anyref))", export("kept"), "mutable global of type anyref; <Global mut "),
        ("(global (ref $s))", export("kept"), "<Global mut "),
        ("(global (ref i31))", export("t"), "<Global .ref "),
        ("(global externref)", export("t"), "<Global .ref "),
        ("(global (ref func))", export("function"), "global of type .ref func.; <Global funcref>"),
        ("(global i32)", export("plain"), r"import a\.x is a global: <Func plain .* was given where i32"),
        ("(global i32)", value("x"), r"import a\.x is a global: 'x' was given where i32 is wanted"),
        ("(global i32)", value(1 << 40), "a global: 1099511627776 does not fit i32"),
        ("(global i64)", value(None), "a global: None was given where i64"),
        ("(global (ref extern))", value(None), "None was given where .ref extern. is wanted, which is not nullable"),
        ("(global anyref)", value(5), "5 was given where anyref"),
        ("(global (ref null $s))", value(lh.I31(5)), r"I31\(5\) was given where"),
        ("(global (mut i32))", value(5), r"a mutable global of type i32; not a Global: 5"),
        ("(global (mut externref))", value("x"), "not a Global: 'x'"),
        ("(global i32)", made(F64, 1.0), "<Global f64> was given"),
        ("(global (mut f64))", made(F64, 1.0), "<Global f64> was given"),
        ("(global f64)", made(F64, 1.0, True), "<Global mut f64> was given"),
    ]


@pytest.mark.parametrize("number", range(len(link_cases())))
def test_what_does_not_match_is_refused(number: int) -> None:
    runtime = RUNTIMES[0]
    described, make, message = link_cases()[number]
    with lh.Store(engine(runtime)) as store:
        first = lh.Instance(store, module(runtime, EXPORTER))
        alive, handles = store.heap.stats().live_objects, len(list(store.heap.handles()))
        importer = module(runtime, IMPORTS_OF.format(described))
        with pytest.raises(lh.LinkError, match=message) as caught:
            lh.Instance(store, importer, {"a": {"x": make(store, first)}})
        assert "import a.x" in str(caught.value)
        with pytest.raises(lh.LinkError, match=r"import a\.x \(.*\) is missing; these were given: none"):
            lh.Instance(store, importer)
        with pytest.raises(lh.LinkError, match=r"import a\.x \(.*\) is missing; these were given: a\.y, b\.x"):
            lh.Instance(store, importer, {("a", "y"): 1, "b": {"x": 2}})
        del caught
        store.collect()
        store.verify()
        assert (store.heap.stats().live_objects, len(list(store.heap.handles()))) == (alive, handles)


def test_a_failed_link_lets_go_of_the_globals_that_it_made() -> None:
    runtime = RUNTIMES[0]
    source = """(module (import "a" "object" (global externref)) (import "a" "wrong" (global i32)))"""
    with lh.Store(engine(runtime)) as store:
        for _ in range(3):
            with pytest.raises(lh.LinkError, match=r"import a\.wrong is a global: 'x'"):
                lh.Instance(store, module(runtime, source), {"a": {"object": object(), "wrong": "x"}})
            with pytest.raises(TypeError, match="5 was given where anyref"):
                lh.Global(store, ANYREF, 5)
        store.verify()
        assert store.heap.stats().live_objects == 0
        assert list(store.heap.root_slots()) == []


def test_what_belongs_elsewhere_is_refused() -> None:
    runtime = RUNTIMES[0]
    with lh.Store(engine(runtime)) as store, lh.Store(engine(runtime)) as other:
        foreign = lh.Instance(other, module(runtime, EXPORTER)).exports
        for described, name in (("(func (type $f))", "plain"), ("(global i64)", "constant")):
            with pytest.raises(lh.ForeignReferenceError, match=r"import a\.x: .* belongs to another store"):
                lh.Instance(store, module(runtime, IMPORTS_OF.format(described)), {"a": {"x": foreign[name]}})
        with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
            lh.Instance(store, module(runtime, IMPORTS_OF.format("(global anyref)")), {"a": {"x": foreign["t"].value}})
        stranger = lh.Module(lh.Engine(runtime=runtime), NEST)
        with pytest.raises(lh.LinkError, match="compiled for another engine"):
            lh.Instance(store, stranger, {"host": {"down": int}})


@pytest.mark.parametrize(
    ("type", "value", "read"),
    [
        (I32, 5, 5),
        (I32, (1 << 32) - 1, -1),
        (I64, -(1 << 63), -(1 << 63)),
        (F32, 0.1, struct.unpack("<f", struct.pack("<f", 0.1))[0]),
        (F64, 0.1, 0.1),
        (ANYREF, lh.I31(3), lh.I31(3)),
        (I31REF, 4, lh.I31(4)),
        (FUNCREF, None, None),
        (EXTERNREF, None, None),
    ],
    ids=str,
)
def test_globals_of_the_host(type: Any, value: Any, read: Any) -> None:
    runtime = RUNTIMES[0]
    source = """(module (import "a" "x" (global $x {})) (export "x" (global $x))
      (func (export "get") (result {}) (global.get $x)))"""
    with lh.Store(engine(runtime)) as store:
        for mutable in (False, True):
            importer = module(runtime, source.format(f"(mut {type})" if mutable else type, type))
            given = lh.Global(store, type, value, mutable=mutable)
            exports = lh.Instance(store, importer, {"a": {"x": given}}).exports
            assert exports["x"] is given
            assert exports["get"]() == given.value == read
            if mutable:
                given.value = value
                assert exports["get"]() == read
            else:
                with pytest.raises(lh.HeapError, match=f"cannot write a global of type {type}: it is immutable"):
                    given.value = value
                plain = lh.Instance(store, importer, {"a": {"x": value}}).exports
                assert plain["get"]() == read
        store.verify()


def test_a_global_owns_what_it_holds() -> None:
    with lh.Store(engine(RUNTIMES[0])) as store:
        cell = lh.Global(store, EXTERNREF, "first", mutable=True)
        store.collect()
        assert cell.value.value == "first"
        assert len(store.host_data) == 1
        cell.value = "second"
        store.verify()
        assert (cell.value.value, len(store.host_data)) == ("second", 1)
        cell.value = cell.value
        assert cell.value.value == "second"
        cell.value = None
        store.verify()
        assert (store.heap.stats().live_objects, len(store.host_data)) == (0, 0)


@settings(max_examples=examples(10, 30), deadline=None)
@given(st.lists(st.sampled_from(["struct", "array", "i31", "extern", "none"]), max_size=12), st.sampled_from(RUNTIMES))
def test_references_through_any_number_of_calls_and_collections(kinds: list[str], runtime: str) -> None:
    board = Switchboard(runtime, collect_every=2)
    with board.store:
        make: dict[str, Callable[[int], Any]] = {
            "struct": board.exports["new_pair"],
            "array": board.exports["new_numbers"],
            "i31": lh.I31,
            "extern": lambda number: board.exports["as_any"](f"value {number}"),
            "none": lambda number: None,
        }
        values = [make[kind](number) for number, kind in enumerate(kinds)]
        for _ in range(3):
            assert [board.exports["any"](value) for value in values] == values
            values = [board.exports["as_any"](board.exports["as_extern"](value)) for value in values]
            board.store.verify()
        for number, (kind, value) in enumerate(zip(kinds, values, strict=True)):
            if kind == "struct":
                assert value["a"] == number
            if kind == "array":
                assert len(value) == number
            if kind == "extern":
                assert value.value == f"value {number}"
        del values
        if kinds:
            del value
        board.check_nothing_left()
