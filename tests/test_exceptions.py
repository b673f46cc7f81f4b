"""Exceptions in WebAssembly: what is thrown where, who catches it, and what Python has of it.

Programs drawn at random are run on wasmtime, too, which says what they should come to.
"""

from __future__ import annotations

import copy
import functools
import gc
import random
import traceback
from collections.abc import Callable
from typing import Any, cast

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples

import lowheap as lh
from lowheap.errors import HeapExhaustedError
from lowheap.jit import safepoints, unwinder
from lowheap.layout import KIND_MASK, NULL, VMGcKind
from lowheap.snapshot import inspection
from lowheap.types import EXNREF, EXTERNREF, I32, I64, FuncType
from lowheap.wasm import function as function_module

pytestmark = pytest.mark.skipif(not unwinder.is_available(), reason="no unwinder is written for this machine")

NUMBERS = FuncType((I32,), (I32,))

KINDS = """(module
  (type $box (struct (field (mut i32))))
  (tag $number (export "number") (param i32 i64))
  (tag $objects (export "objects") (param (ref null $box) externref f64))
  (tag $empty (export "empty"))
  (import "host" "call" (func $host (param i32) (result i32)))

  (func $throw (param $which i32) (result i32)
    (if (i32.eq (local.get $which) (i32.const 1)) (then (throw $number (i32.const 10) (i64.const 32))))
    (if (i32.eq (local.get $which) (i32.const 2))
      (then (throw $objects (struct.new $box (i32.const 20)) (ref.null extern) (f64.const 0.5))))
    (if (i32.eq (local.get $which) (i32.const 3)) (then (throw $empty)))
    (call $host (local.get $which)))

  (func (export "throw") (param i32) (result i32) (call $throw (local.get 0)))

  (func (export "kinds") (param $which i32) (result i32)
    (local $exception exnref)
    (block $any (result exnref)
      (block $all
        (block $empty_ref (result exnref)
          (block $objects (result (ref null $box) externref f64)
            (block $number (result i32 i64)
              (try_table (result i32)
                (catch $number $number) (catch $objects $objects) (catch_ref $empty $empty_ref) (catch_all_ref $any)
                (call $throw (local.get $which)))
              (return))
            (i32.wrap_i64) (i32.add) (return))
          (drop) (drop) (struct.get $box 0) (return))
        (drop) (return (i32.const 3)))
      (unreachable))
    (local.set $exception)
    (block $caught
      (try_table (catch_all $caught) (throw_ref (local.get $exception))))
    (throw_ref (local.get $exception)))
)"""


def variations() -> list[dict[str, Any]]:
    """A collector and barrier set each, on either runtime, with collections at each safepoint and without."""
    return [
        {"engine": {}, "store": {}},
        {"engine": {"opt_level": 0}, "store": {"collect_every": 1}},
        {"engine": {"runtime": "python"}, "store": {"collect_every": 1}},
        {"engine": {"collector": "outlined"}, "store": {"checked": True}},
        {"engine": {"collector": "null"}, "store": {}},
        {"engine": {"collector": "examples/collectors/deutsch_bobrow.py:DeutschBobrow"}, "store": {"collect_every": 1}},
        {"engine": {"interruptible": False, "inline": "never"}, "store": {"collect_every": 1}},
    ]


def made(wat: str, imports: Any = None, *, engine: Any = None, store: Any = None) -> tuple[lh.Store, Any]:
    engine = lh.Engine(**(engine or {}))
    place = lh.Store(engine, **(store or {}))
    return place, lh.Instance(place, lh.Module(engine, wat), imports).exports


@pytest.mark.parametrize("variation", variations(), ids=str)
def test_each_kind_of_clause_takes_what_is_its(variation: dict[str, Any]) -> None:
    def host(which: int) -> int:
        if which == 4:
            raise LookupError("four")
        return which * 100

    store, exports = made(KINDS, {"host": {"call": host}}, **variation)
    assert [exports.kinds(which) for which in (0, 1, 2, 3, 5)] == [0, 42, 20, 3, 500]
    with pytest.raises(LookupError, match="four"):
        exports.kinds(4)
    for _ in range(30):
        assert exports.kinds(2) == 20
    store.verify()
    assert store.runtime.context.exception == NULL


def test_what_nobody_catches_is_raised_with_its_tag_and_fields() -> None:
    store, exports = made(KINDS, {"host": {"call": lambda which: which}})
    with pytest.raises(lh.WasmException) as caught:
        exports.throw(1)
    assert (caught.value.tag, caught.value.fields) == (exports.number, (10, 32))
    with pytest.raises(lh.WasmException) as caught:
        exports.throw(2)
    box, nothing, half = caught.value.fields
    assert (caught.value.tag, box[0], nothing, half) == (exports.objects, 20, None, 0.5)
    assert isinstance(caught.value, lh.LowheapError)
    assert repr(exports.number) == "<Tag (func (param i32 i64))>"
    assert exports.number.type == lh.TagType(FuncType((I32, I64), ()))
    store.verify()


def test_exceptions_die_when_nobody_holds_them() -> None:
    store, exports = made(KINDS, {"host": {"call": lambda which: which}}, store={"collect_every": 1})
    for _ in range(50):
        exports.kinds(2)
        with pytest.raises(lh.WasmException):
            exports.throw(2)
    gc.collect()  # exceptions and their tracebacks
    store.collect()
    assert not {each.kind for each in store.snapshot().objects()} & {VMGcKind.EXN_REF, VMGcKind.STRUCT_REF}
    store.verify()


TAKEN = """(module
  (import "host" "call" (func $host))
  (func (export "taken") (result exnref)
    (block $caught (result exnref) (try_table (catch_all_ref $caught) (call $host)) (unreachable)))
  (func (export "two") (param externref) (result exnref externref)
    (block $caught (result exnref) (try_table (catch_all_ref $caught) (call $host)) (unreachable))
    (local.get 0))
  (func (export "through") (param exnref) (throw_ref (local.get 0))))"""


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_the_hosts_exceptions_die_too_whatever_frames_their_tracebacks_reach(runtime: str) -> None:
    def host() -> None:
        raise ZeroDivisionError("by design")

    store, exports = made(TAKEN, {"host": {"call": host}}, engine={"runtime": runtime})
    assert exports.taken().tag is None
    assert len(exports.two("a value")) == 2
    given = exports.taken()
    with pytest.raises(ZeroDivisionError) as raised:
        exports.through(given)
    del given, raised
    gc.collect()  # what tracebacks hold
    store.collect()
    assert (store.stats().live_objects, len(store.host_data)) == (0, 0)
    store.verify()


NESTED = """(module
  (type $cell (struct (field (mut i32)) (field (ref null $cell))))
  (tag $a (param i32)) (tag $b (param i32)) (tag $c (param (ref $cell)))
  (import "host" "call" (func $host (param i32) (result i32)))
  (global $trace (export "trace") (mut i32) (i32.const 0))
  (func $note (param i32) (global.set $trace (i32.add (i32.mul (global.get $trace) (i32.const 10)) (local.get 0))))

  ;; Locals keep, in a handler, what they had at the call that threw.
  (func (export "locals") (param $x i32) (result i32) (local $n i32) (local $cell (ref null $cell))
    (block $caught (result i32)
      (try_table (catch $a $caught)
        (local.set $n (i32.const 100))
        (local.set $cell (struct.new $cell (i32.const 5) (local.get $cell)))
        (drop (call $host (local.get $x)))
        (local.set $n (i32.const 200))
        (local.set $cell (struct.new $cell (i32.const 6) (local.get $cell)))
        (drop (call $host (i32.sub (local.get $x) (i32.const 1))))
        (local.set $n (i32.const 300))
        (local.set $cell (struct.new $cell (i32.const 7) (local.get $cell)))
        (call $throw_a (i32.const 3)))
      (i32.const 0))
    (i32.add (local.get $n))
    (i32.add (struct.get $cell 0 (local.get $cell))))
  (func $throw_a (param i32) (throw $a (local.get 0)))

  ;; A tag that the inner clauses do not name goes on to the outer ones, from a throw and from a call.
  (func (export "outer") (param $x i32) (result i32)
    (block $outer (result i32)
      (block $inner (result i32)
        (try_table (result i32) (catch $b $outer)
          (try_table (result i32) (catch $a $inner)
            (if (i32.eqz (local.get $x)) (then (throw $b (i32.const 1))))
            (if (i32.eq (local.get $x) (i32.const 1)) (then (throw $a (i32.const 2))))
            (call $deep (local.get $x)))))
      (i32.add (i32.const 100)))
    (i32.add (i32.const 1000)))
  (func $deep (param $x i32) (result i32)
    (if (i32.eq (local.get $x) (i32.const 2)) (then (throw $b (i32.const 3))))
    (if (i32.eq (local.get $x) (i32.const 3)) (then (throw $a (i32.const 4))))
    (local.get $x))

  ;; A handler is outside of what it handles, and may throw itself.
  (func (export "again") (param $x i32) (result i32)
    (block $second (result i32)
      (try_table (result i32) (catch $b $second)
        (block $first (result i32)
          (try_table (result i32) (catch $a $first)
            (call $throw_a (local.get $x)) (i32.const 0))
          (return))
        (call $note (i32.const 1))
        (throw $b))
      (return))
    (call $note (i32.const 2)))

  ;; A clause may lead to a loop, which goes round by it.
  (func (export "retry") (param $x i32) (result i32) (local $rounds i32)
    (loop $retry
      (local.set $rounds (i32.add (local.get $rounds) (i32.const 1)))
      (try_table (catch_all $retry)
        (if (i32.lt_u (local.get $rounds) (local.get $x)) (then (call $throw_a (local.get $rounds))))))
    (local.get $rounds))

  ;; References that only the handler uses live through collections at the call.
  (func $make (param $x i32) (result (ref $cell))
    (drop (call $host (i32.const 0)))
    (struct.new $cell (local.get $x) (struct.new $cell (i32.const 1) (ref.null $cell))))
  (func (export "held") (param $x i32) (result i32) (local $kept (ref null $cell)) (local $thrown (ref null $cell))
    (local.set $kept (call $make (i32.const 40)))
    (block $caught (result (ref $cell))
      (try_table (catch $c $caught)
        (throw $c (call $make (local.get $x))))
      (unreachable))
    (local.set $thrown)
    (drop (call $make (i32.const 9)))
    (i32.add
      (i32.add (struct.get $cell 0 (local.get $kept)) (struct.get $cell 0 (local.get $thrown)))
      (struct.get $cell 0 (ref.as_non_null (struct.get $cell 1 (local.get $thrown))))))

  (func (export "trap") (param i32) (result i32)
    (block $caught (try_table (catch_all $caught) (return (i32.div_u (i32.const 1) (local.get 0)))))
    (i32.const -1))
  (func $forever (param i32) (result i32) (i32.add (call $forever (local.get 0)) (i32.const 1)))
  (func (export "exhaust") (param i32) (result i32)
    (block $caught (try_table (catch_all $caught) (return (call $forever (local.get 0)))))
    (i32.const -1))
  (func (export "null") (param i32) (result i32)
    (block $caught (try_table (catch_all $caught) (throw_ref (ref.null exn))))
    (i32.const -1))
  (func (export "host") (param i32) (result i32)
    (block $caught (try_table (catch_all $caught) (return (call $host (local.get 0)))))
    (i32.const -1))
)"""


def nested(raises: Callable[[int], BaseException | None] = lambda _: None, **variation: Any) -> tuple[lh.Store, Any]:
    def host(number: int) -> int:
        error = raises(number)
        if error is not None:
            raise error
        return number

    return made(NESTED, {"host": {"call": host}}, **variation)


@pytest.mark.parametrize("variation", variations(), ids=str)
def test_handlers_within_handlers(variation: dict[str, Any]) -> None:
    store, exports = nested(**variation)
    assert exports.locals(9) == 3 + 300 + 7
    assert [exports.outer(number) for number in range(5)] == [1001, 1102, 1003, 1104, 1104]
    assert exports.again(7) == 7
    assert exports.trace.value == 12
    assert exports.retry(5) == 5
    assert exports.held(2) == 40 + 2 + 1
    store.verify()


def test_a_handler_has_the_locals_of_the_call_that_threw() -> None:
    tags: list[Any] = []
    store, exports = made(
        NESTED.replace("(tag $a (param i32))", '(tag $a (export "a") (param i32))'),
        {"host": {"call": lambda number: throw_at_zero(tags, number)}},
    )
    tags.append(exports.a)
    assert exports.locals(0) == 77 + 100 + 5
    assert exports.locals(1) == 77 + 200 + 6
    assert exports.locals(2) == 3 + 300 + 7
    store.verify()


def throw_at_zero(tags: list[Any], number: int) -> int:
    if number == 0:
        raise lh.WasmException(tags[0], (77,))
    return number


def test_traps_are_not_caught() -> None:
    _, exports = nested()
    assert exports.trap(1) == 1
    for name, code in (
        ("trap", lh.TrapCode.INTEGER_DIVISION_BY_ZERO),
        ("exhaust", lh.TrapCode.STACK_OVERFLOW),
        ("null", lh.TrapCode.NULL_REFERENCE),
    ):
        with pytest.raises(lh.Trap) as caught:
            exports[name](0)
        assert caught.value.code == code


def test_exceptions_of_host_functions_are_caught_and_what_ends_programs_is_not() -> None:
    errors: dict[int, BaseException] = {
        1: ValueError("one"),
        2: KeyboardInterrupt(),
        3: SystemExit(3),
        4: lh.Trap(lh.TrapCode.UNREACHABLE),
        5: HeapExhaustedError("none", 16),
    }
    store, exports = nested(errors.get)
    assert [exports.host(number) for number in (0, 1, 5)] == [0, -1, -1]
    for number in (2, 3, 4):
        with pytest.raises(type(errors[number])) as caught:
            exports.host(number)
        assert caught.value is errors[number]
    assert exports.host(6) == 6
    store.verify()


def test_an_exception_whose_exnref_was_released_is_still_one_of_its_tag() -> None:
    raised: list[Exception] = []

    def host() -> None:
        raise raised[0]

    store, exports = made(
        """(module (tag $t (export "t") (param i32 anyref)) (import "host" "call" (func $host))
          (func (export "run") (result i32)
            (block $all
              (block $caught (result i32 anyref)
                (try_table (catch $t $caught) (catch_all $all) (call $host)) (return (i32.const 0)))
              (drop) (return))
            (i32.const -1)))""",
        {"host": {"call": host}},
    )

    def outcome(error: Exception) -> int:
        raised[:] = [error]
        return cast(int, exports.run())

    error = lh.WasmException(exports.t, [7, lh.I31(1)])
    error.add_note("noted")
    copied = copy.copy(error)
    assert (copied.tag, copied.fields, copied.args) == (exports.t, error.fields, error.args)
    assert (copied.exnref, copied.__notes__) == (error.exnref, ["noted"])
    assert [outcome(error), outcome(copied)] == [7, 7]
    assert error.exnref is not None
    error.exnref.release()
    assert [outcome(error), outcome(copied), outcome(copy.deepcopy(error))] == [7, 7, -1]
    kept = lh.ExternRef(store, "internalized")
    of_stale = lh.WasmException(lh.Tag(store, FuncType([EXTERNREF], [])), [kept])
    assert of_stale.exnref is not None
    of_stale.exnref.release()
    for field in of_stale.fields:
        field.release()
    assert outcome(of_stale) == -1

    class Own(lh.WasmException):
        def __init__(self) -> None:
            pass

    assert (Own().tag, Own().exnref, Own().fields, outcome(Own())) == (None, None, (), -1)
    store.verify()


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_an_interrupt_while_the_host_looks_at_one_call_is_not_about_another(
    monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    store, exports = made(
        """(module (tag $t)
          (func (export "throw") (throw $t)) (func (export "ok")) (func (export "trap") (unreachable)))""",
        {},
        engine={"runtime": runtime},
    )

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    for first, looks, second, expected in (
        ("throw", "_uncaught", "trap", lh.Trap),
        ("trap", "_trap", "throw", lh.WasmException),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(store.runtime, looks, interrupted)
            with pytest.raises(KeyboardInterrupt):
                exports[first]()
        exports.ok()
        store.verify()
        with pytest.raises(expected):
            exports[second]()
        store.verify()


CARRIED = """(module
  (tag $t (export "t") (param i32))
  (import "host" "call" (func $host (param i32)))
  (import "host" "see" (func $see (param exnref) (result exnref)))
  (global $kept (mut exnref) (ref.null exn))
  (func (export "keep") (param i32)
    (block $caught (result exnref)
      (try_table (catch_all_ref $caught) (call $host (local.get 0)))
      (return))
    (global.set $kept))
  (func (export "kept") (result exnref) (global.get $kept))
  (func (export "rethrow") (throw_ref (global.get $kept)))
  (func (export "through") (param exnref)
    (throw_ref (call $see (local.get 0)))))"""


def test_exceptions_are_values() -> None:
    seen: list[Any] = []

    def host(number: int) -> None:
        if number:
            raise ZeroDivisionError("by design")
        raise lh.WasmException(exports.t, [5])

    def see(exception: Any) -> Any:
        seen.append(exception)
        return exception

    store, exports = made(CARRIED, {"host": {"call": host, "see": see}}, store={"collect_every": 1})
    assert exports.kept() is None
    exports.keep(0)
    kept = exports.kept()
    assert isinstance(kept, lh.ExnRef)
    assert (kept.tag, kept.fields) == (exports.t, (5,))
    for call in (exports.rethrow, functools.partial(exports.through, kept)):
        with pytest.raises(lh.WasmException) as caught:
            call()
        assert caught.value.exnref == kept
    assert seen == [kept]
    assert "ExnRef <Tag" in repr(kept)

    exports.keep(1)
    kept = exports.kept()
    assert kept.tag is None
    assert isinstance(kept.exception(), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError, match="by design") as raised:
        exports.rethrow()
    assert raised.value is kept.exception()
    assert any(frame.name == "host" for frame in traceback.extract_tb(raised.value.__traceback__))
    with pytest.raises(lh.Trap) as trapped:
        exports.through(None)
    assert trapped.value.code == lh.TrapCode.NULL_REFERENCE
    with pytest.raises(TypeError, match="exnref"):
        exports.through(3)
    store.verify()


def test_an_exception_passes_host_functions_and_instances() -> None:
    """From one instance through Python into another of other code, whose values lie in registers meanwhile."""
    engine = lh.Engine()
    store = lh.Store(engine)
    tag = lh.Tag(store, FuncType((I32,), ()))
    inner = lh.Instance(
        store,
        lh.Module(
            engine,
            """(module (import "t" "t" (tag $t (param i32)))
            (func (export "run") (param i32) (result i32)
              (if (i32.gt_s (local.get 0) (i32.const 0)) (then (throw $t (local.get 0)))) (i32.const 0)))""",
        ),
        {"t": {"t": tag}},
    )
    passed: list[Exception] = []

    def between(number: int) -> int:
        try:
            return int(inner.exports.run(number))
        except lh.WasmException as error:
            passed.append(error)
            raise

    plain = lh.Instance(  # this one knows nothing of exceptions
        store,
        lh.Module(
            engine,
            """(module (import "h" "f" (func $f (param i32) (result i32)))
            (func (export "run") (param i32) (result i32) (i32.add (local.get 0) (call $f (local.get 0)))))""",
        ),
        {"h": {"f": between}},
    )
    outer = lh.Instance(
        store,
        lh.Module(
            engine,
            """(module (import "t" "t" (tag $t (param i32))) (import "p" "run" (func $run (param i32) (result i32)))
            (func (export "run") (param $x i32) (result i32) (local $a i32) (local $b i32)
              (local.set $a (i32.mul (local.get $x) (i32.const 3)))
              (local.set $b (i32.xor (local.get $x) (i32.const 5)))
              (block $caught (result i32)
                (try_table (result i32) (catch $t $caught) (call $run (local.get $x)))
                (return))
              (i32.add (i32.mul (local.get $a) (local.get $b)))))""",
        ),
        {"t": {"t": tag}, "p": plain.exports},
    )
    assert [outer.exports.run(number) for number in (-4, 7, 8)] == [-4, 7 + 21 * 2, 8 + 24 * 13]
    assert [error.fields for error in passed if isinstance(error, lh.WasmException)] == [(7,), (8,)]


def test_a_host_function_that_is_given_as_a_reference_throws_as_well() -> None:
    engine = lh.Engine()
    store = lh.Store(engine)

    def fail(number: int) -> int:
        raise OSError(number)

    _, exports = (
        store,
        lh.Instance(
            store,
            lh.Module(
                engine,
                """(module (type $f (func (param i32) (result i32)))
            (func (export "run") (param (ref $f)) (result i32)
              (block $caught (try_table (catch_all $caught) (return (call_ref $f (i32.const 1) (local.get 0)))))
              (i32.const -1)))""",
            ),
        ).exports,
    )
    assert exports.run(lh.Func(store, NUMBERS, fail)) == -1
    assert exports.run(lh.Func(store, NUMBERS, lambda number: number)) == 1
    assert exports.run(lh.Func(store, NUMBERS, fail)) == -1


def test_tags_are_checked_where_they_are_imported() -> None:
    wat = """(module (import "t" "t" (tag $t (param i32))) (export "t" (tag $t)) (tag (export "own") (param i32)))"""
    engine = lh.Engine()
    store, module = lh.Store(engine), lh.Module(engine, wat)
    tag = lh.Tag(store, lh.TagType(FuncType((I32,), ())))
    exports = lh.Instance(store, module, {"t": {"t": tag}}).exports
    assert exports.t is tag
    assert exports.own is not tag
    assert [each.type for each in module.imports] == [tag.type]
    for wrong in (lh.Tag(store, FuncType((I64,), ())), lambda: None, 3):
        with pytest.raises(lh.LinkError, match="is a tag of type"):
            lh.Instance(store, module, {"t": {"t": wrong}})
    with pytest.raises(lh.ForeignReferenceError):
        lh.Instance(lh.Store(engine), module, {"t": {"t": tag}})
    linker = lh.Linker(engine)
    linker.define(store, "t", "t", tag)
    assert linker.instantiate(store, module).exports.t is tag
    linker = lh.Linker(engine)
    linker.define_unknown_imports_as_default_values(store, module)
    assert linker.instantiate(store, module).exports.t.type == tag.type
    with pytest.raises(TypeError, match="no results"):
        lh.Tag(store, NUMBERS)
    with pytest.raises(TypeError, match="TagType"):
        lh.Tag(store, I32)  # type: ignore[arg-type]


def test_what_an_exception_is_made_of_is_checked() -> None:
    store = lh.Store(lh.Engine())
    tag = lh.Tag(store, FuncType((I32, EXTERNREF), ()))
    error = lh.WasmException(tag, (7, "text"))
    assert error.fields[0] == 7
    assert error.fields[1].value == "text"
    with pytest.raises(TypeError, match="2 fields; 1 values"):
        lh.WasmException(tag, (7,))
    with pytest.raises(TypeError):
        lh.WasmException(tag, ("seven", None))
    for no_fields in (None, 7, iter((7, "text"))):
        with pytest.raises(TypeError, match=r"fields is .*; it must be a sequence of values"):
            lh.WasmException(tag, no_fields)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Tag"):
        lh.WasmException(3)  # type: ignore[arg-type]
    assert (
        lh.Instance(
            store,
            lh.Module(store.engine, '(module (func (export "same") (param exnref) (result exnref) (local.get 0)))'),
        ).exports.same(error.exnref)
        == error.exnref
    )
    with pytest.raises(TypeError, match="where structref is wanted"):
        lh.Instance(store, lh.Module(store.engine, '(module (func (export "f") (param structref)))')).exports.f(
            error.exnref
        )
    store.verify()


def test_images_and_inspection_know_exceptions() -> None:
    """Also what is being thrown, which is a root of its own."""
    store, exports = made(KINDS, {"host": {"call": lambda which: which}})
    with pytest.raises(lh.WasmException) as caught:
        exports.throw(2)
    reference = caught.value.exnref.reference
    image = store.snapshot()
    assert inspection.verify(image) == []
    assert [each.kind for each in image.objects()].count(VMGcKind.EXN_REF) == 1
    store.operations.lend(store.operations.vmctx, reference)
    store.runtime.context.exception = reference
    assert [root.reference for root in store.roots if root.is_on_wasm_stack] == [reference]
    caught.value.exnref.release()
    store.collect()
    store.verify()
    assert store.heap.header(reference).kind_and_reserved & KIND_MASK == VMGcKind.EXN_REF
    store.runtime.context.exception = NULL
    store.collect()
    store.verify()
    assert all(each.kind is not VMGcKind.EXN_REF for each in store.snapshot().objects())


def test_without_room_for_it_the_hosts_exception_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("one")
    _, exports = nested({1: error}.get)

    def no_room(*_: Any) -> Any:
        raise HeapExhaustedError("no room", 32)

    with monkeypatch.context() as patch:
        patch.setattr("lowheap.runtime.exceptions.new_exception", no_room)
        with pytest.raises(ValueError, match="one") as caught:
            exports.host(1)
    assert caught.value is error
    assert error.__notes__ == ["compiled code could not catch this: no room"]
    assert exports.host(1) == -1


def test_exnref_is_a_type_of_fields_elements_and_signatures() -> None:
    wat = """(module (tag $t (param i32))
      (type $s (struct (field (mut exnref)))) (type $a (array (mut exnref)))
      (func $catch (param i32) (result exnref)
        (block $c (result exnref) (try_table (catch_all_ref $c) (throw $t (local.get 0))) (unreachable)))
      (func (export "run") (param i32) (result i32) (local $s (ref null $s)) (local $a (ref null $a))
        (local.set $s (struct.new $s (call $catch (local.get 0))))
        (local.set $a (array.new $a (struct.get $s 0 (local.get $s)) (i32.const 3)))
        (struct.set $s 0 (local.get $s) (ref.null exn))
        (drop (call $catch (i32.const 1)))
        (block $c (result i32)
          (try_table (catch $t $c) (throw_ref (array.get $a (local.get $a) (i32.const 2))))
          (unreachable))))"""
    for variation in variations():
        store, exports = made(wat, **variation)
        assert [exports.run(number) for number in (4, 5)] == [4, 5]
        store.verify()
    assert exports.run.type == NUMBERS
    assert EXNREF.nullable


def test_many_calls_and_many_locals_take_linear_time() -> None:
    """Of so many, numbers are in the frame; what each is at the call that throws, the handler finds."""
    count, calls = 120, 400
    names = " ".join(f"(local $n{number} i32)" for number in range(count))
    body = "\n".join(f"(local.set $n{call % count} (call $host (i32.const {call})))" for call in range(calls))
    total = "(i32.const 0)"
    for number in range(count):
        total = f"(i32.add (i32.mul {total} (i32.const 3)) (local.get $n{number}))"
    wat = f"""(module (import "host" "call" (func $host (param i32) (result i32)))
      (func (export "run") (result i32) {names} (local $r (ref null struct))
        (block $caught (try_table (catch_all $caught) (local.set $r (ref.null struct)) {body}))
        {total}))"""
    stop = 0

    def host(number: int) -> int:
        if number == stop:
            raise ValueError(number)
        return number + 1

    store, exports = made(wat, {"host": {"call": host}})
    for stop in (0, 1, 130, 399, 1000):
        expected = 0
        for number in range(count):
            last = max((call for call in range(min(stop, calls)) if call % count == number), default=-1)
            expected = (expected * 3 + last + 1) & 0xFFFF_FFFF
        assert exports.run() & 0xFFFF_FFFF == expected
    store.verify()


# --- Programs at random, and wasmtime ---------------------------------------------------------------------------------

TAGS = ("$a", "$b", "$c")


class _Drawn:
    """A module of functions that call those before them, throw, and catch, noting in a global where they have been.

    So that it ends soon, functions throw when so many have been called.
    """

    def __init__(self, seed: int, functions: int = 5) -> None:
        self.random = random.Random(seed)
        self.count = functions
        self.labels = 0
        bodies = "\n".join(self._function(number) for number in range(functions))
        self.text = f"""(module
  (type $box (struct (field i32)))
  (tag $a (param i32)) (tag $b (param i32 (ref null $box))) (tag $c)
  (global $trace (mut i32) (i32.const 1))
  (global $calls (mut i32) (i32.const 300))
  (func $note (param i32)
    (global.set $trace (i32.add (i32.mul (global.get $trace) (i32.const 31)) (local.get 0))))
  {bodies}
  (func (export "run") (param $x i32) (result i32)
    (local $r i32)
    (block $out
      (try_table (catch_all $out) (local.set $r (call $f{functions - 1} (local.get $x)))))
    (i32.xor (global.get $trace) (local.get $r))))"""

    def _function(self, number: int) -> str:
        body = "\n".join(self._statement(number, 3) for _ in range(self.random.randint(1, 4)))
        rounds = " ".join(f"(local $rounds{depth} i32)" for depth in range(4))
        return f"""(func $f{number} (param $x i32) (result i32) (local $n i32) (local $box (ref null $box)) {rounds}
    (global.set $calls (i32.sub (global.get $calls) (i32.const 1)))
    (if (i32.lt_s (global.get $calls) (i32.const 0)) (then (throw $c)))
    (local.set $box (struct.new $box (i32.const {number})))
    {body}
    (i32.add (local.get $n) (struct.get $box 0 (local.get $box))))"""

    def _statement(self, number: int, depth: int) -> str:
        choices: list[Callable[[int, int], str]] = [self._set, self._throw]
        if number:
            choices += [self._call] * 3
        if depth:
            choices += [self._try] * 3 + [self._loop]
        return self.random.choice(choices)(number, depth)

    def _set(self, number: int, depth: int) -> str:
        value = self.random.randint(0, 99)
        return (
            f"(local.set $n (i32.add (i32.mul (local.get $n) (i32.const 7)) (i32.const {value})))"
            f"(local.set $box (struct.new $box (i32.const {value}))) (call $note (local.get $n))"
        )

    def _throw(self, number: int, depth: int) -> str:
        tag = self.random.choice(TAGS)
        values = {"$a": "(local.get $n)", "$b": "(local.get $n) (local.get $box)", "$c": ""}[tag]
        bit = 1 << self.random.randint(0, 4)
        return f"(if (i32.and (local.get $x) (i32.const {bit})) (then (throw {tag} {values})))"

    def _call(self, number: int, depth: int) -> str:
        callee, change = self.random.randrange(number), self.random.randint(0, 31)
        return (
            f"(local.set $n (i32.add (local.get $n) (call $f{callee} (i32.xor (local.get $x) (i32.const {change})))))"
        )

    def _loop(self, number: int, depth: int) -> str:
        self.labels += 1
        inside = "\n".join(self._statement(number, depth - 1) for _ in range(self.random.randint(1, 2)))
        rounds, count = f"$rounds{depth}", self.random.randint(1, 3)
        left = f"(local.tee {rounds} (i32.sub (local.get {rounds}) (i32.const 1)))"
        return (
            f"(local.set {rounds} (i32.const {count}))"
            f"(loop $loop{self.labels} {inside} (br_if $loop{self.labels} (i32.gt_s {left} (i32.const 0))))"
        )

    def _try(self, number: int, depth: int) -> str:
        self.labels += 1
        mark = self.labels
        inside = "\n".join(self._statement(number, depth - 1) for _ in range(self.random.randint(1, 3)))
        kind = self.random.choice(("$a", "$b", "$c", "all", "all_ref", "$a_ref"))
        out = f"(br $out{mark})"
        try_table = f"(try_table (catch{{}} $caught{mark}) {inside}) {out}"
        note = f"(call $note (i32.const {mark}))"
        if kind == "all":
            return f"(block $out{mark} (block $caught{mark} {try_table.format('_all')}) {note})"
        if kind == "all_ref":
            again = f"(if (i32.and (local.get $x) (i32.const {1 << self.random.randint(0, 4)})) (then (throw_ref)))"
            del again  # the exception is on the stack, so it is either dropped or thrown on
            end = self.random.choice(("(drop)", "(throw_ref)"))
            return (
                f"(block $out{mark} (block $caught{mark} (result exnref) {try_table.format('_all_ref')}) {note} {end})"
            )
        if kind == "$a_ref":
            end = self.random.choice(("(drop) (local.set $n)", "(throw_ref)"))
            results = "(result i32 exnref)"
            return f"(block $out{mark} (block $caught{mark} {results} {try_table.format('_ref $a')}) {note} {end})"
        results, end = {
            "$a": ("(result i32)", "(local.set $n)"),
            "$b": ("(result i32 (ref null $box))", "(local.set $box) (local.set $n)"),
            "$c": ("", ""),
        }[kind]
        return f"(block $out{mark} (block $caught{mark} {results} {try_table.format(f' {kind}')}) {end} {note})"


@functools.cache
def peer_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_gc = config.wasm_function_references = config.wasm_exceptions = True
    return wasmtime.Engine(config)


INPUTS = (0, 1, 2, 5, 8, 21, 31)


def on_wasmtime(wat: str) -> list[int]:
    results = []
    for number in INPUTS:
        store = wasmtime.Store(peer_engine())
        run = wasmtime.Instance(store, wasmtime.Module(peer_engine(), wat), []).exports(store)["run"]
        assert isinstance(run, wasmtime.Func)
        results.append(run(store, number))
    return results


@settings(max_examples=examples(8, 150), deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from(range(len(variations()))), st.booleans(), st.booleans())
def test_random_programs_do_what_they_do_on_wasmtime(
    seed: int, variation: int, are_locals_kept: bool, has_root_frames: bool
) -> None:
    """Also with what functions of many calls, locals and references get: these in the frame."""
    wat = _Drawn(seed).text
    chosen = variations()[variation]
    engine = lh.Engine(**chosen["engine"])
    with pytest.MonkeyPatch.context() as patch:
        if are_locals_kept:
            patch.setattr(function_module, "_MOST_BROUGHT", 0)
        if has_root_frames:
            patch.setattr(safepoints, "MOST_LISTED", 0)
        module = lh.Module(engine, wat)
    results = []
    for number in INPUTS:
        store = lh.Store(engine, **chosen["store"])
        results.append(lh.Instance(store, module).exports.run(number))
        store.verify()
        store.close()
    assert results == on_wasmtime(wat)


@pytest.mark.parametrize("opt_level", [0, 2])
def test_calls_in_code_that_nothing_leads_to(opt_level: int) -> None:
    """Without optimisation they are still there, and LLVM says nothing of their frames."""
    wat = """(module (tag $t)
      (func $throw (throw $t))
      (func (export "run") (result i32)
        (block $caught
          (try_table (catch $t $caught)
            (block $over (drop (br_on_null $over (ref.null any))) (call $throw) (call $throw))
            (call $throw)))
        (i32.const 7)))"""
    engine = lh.Engine(opt_level=opt_level)
    assert lh.Instance(lh.Store(engine), lh.Module(engine, wat)).exports.run() == 7
