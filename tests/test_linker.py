"""Linkers, and what instances say of imports that are missing or do not match."""

from __future__ import annotations

import gc
import re
import weakref

import pytest

import lowheap as lh
from lowheap.types import I32, I64

NULLARY = lh.FuncType((), ())
UNARY = lh.FuncType((I32,), (I32,))

SOURCE = """(module
  (import "host" "double" (func $double (param i32) (result i32)))
  (import "host" "step" (global $step i32))
  (func (export "run") (param i32) (result i32)
    (i32.add (call $double (local.get 0)) (global.get $step))))"""


@pytest.fixture(scope="module")
def engine() -> lh.Engine:
    return lh.Engine()


@pytest.fixture(scope="module")
def module(engine: lh.Engine) -> lh.Module:
    return lh.Module(engine, SOURCE)


def test_what_is_defined_is_imported_in_every_store(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    linker.define_func("host", "double", UNARY, lambda value: 2 * value)
    for step in (1, 2):
        with lh.Store(engine) as store:
            linker.allow_shadowing = True
            linker.define(store, "host", "step", lh.Global(store, I32, step))
            assert linker.instantiate(store, module).exports.run(20) == 40 + step
            assert linker.instantiate(store, module).exports.run(1) == 2 + step


def test_a_function_is_made_once_for_each_store(engine: lh.Engine) -> None:
    linker = lh.Linker(engine)
    linker.define_func("host", "double", UNARY, lambda value: 2 * value)
    with lh.Store(engine) as store, lh.Store(engine) as other:
        found = linker.get(store, "host", "double")
        assert found(4) == 8
        assert linker.get(store, "host", "double") is found
        assert linker.get(other, "host", "double") != found


def test_a_linker_keeps_no_store(engine: lh.Engine) -> None:
    linker = lh.Linker(engine)
    linker.define_func("host", "double", UNARY, lambda value: 2 * value)
    store = lh.Store(engine)
    linker.get(store, "host", "double")
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


def test_all_that_is_missing_or_does_not_match_is_named_at_once(engine: lh.Engine) -> None:
    source = """(module
      (import "a" "x" (func)) (import "a" "y" (func (param i32))) (import "b" "z" (global i32))
      (import "b" "f" (func)) (import "b" "g" (global (mut i64))) (import "b" "h" (global i32)))"""
    wrong = lh.Module(engine, source)
    with lh.Store(engine) as store:
        given = {"b": {"f": 3, "g": 4, "h": "five", "unused": 0}}
        expected = (
            r"imports a\.x \(func\), a\.y \(func \(param i32\)\), b\.z \(global i32\) are missing; "
            r"these were given: b\.f, b\.g, b\.h, b\.unused; "
            r"import b\.f is a function, \(func\); 3 was given; "
            r"import b\.g is a mutable global of type i64; not a Global: 4; "
            r"import b\.h is a global: 'five' was given .*"
        )
        with pytest.raises(lh.LinkError) as caught:
            lh.Instance(store, wrong, given)
        assert re.fullmatch(expected, str(caught.value))
        linker = lh.Linker(engine)
        for name, value in given["b"].items():
            linker.define(store, "b", name, value)
        with pytest.raises(lh.LinkError) as again:
            linker.instantiate(store, wrong)
        assert str(again.value) == str(caught.value)


def test_what_does_not_match_leaves_no_function_behind(engine: lh.Engine, module: lh.Module) -> None:
    with lh.Store(engine) as store:
        lh.Instance(store, module, {"host": {"double": abs, "step": 1}})
        before = len(store.runtime._functions)
        with pytest.raises(lh.LinkError):
            lh.Instance(store, module, {"host": {"double": abs, "step": 1.5}})
        assert len(store.runtime._functions) == before


def test_a_host_functions_type_must_match(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    linker.define_func("host", "double", NULLARY, print)
    with lh.Store(engine) as store:
        linker.define(store, "host", "step", 1)
        with pytest.raises(lh.LinkError, match=r"import host\.double is \(func \(param i32\) \(result i32\)\); <Func"):
            linker.instantiate(store, module)


def test_an_instances_exports_are_defined_under_its_name(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    library = lh.Module(
        engine,
        '(module (global (export "step") i32 (i32.const 5)) '
        '(func (export "double") (param i32) (result i32) (i32.shl (local.get 0) (i32.const 1))))',
    )
    with lh.Store(engine) as store:
        linker.define_instance(store, "host", linker.instantiate(store, library))
        assert linker.instantiate(store, module).exports.run(3) == 11
        assert linker.get(store, "host", "step").value == 5
        with lh.Store(engine) as other:
            with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
                linker.get(other, "host", "step")
            with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
                linker.instantiate(other, module)
            with pytest.raises(lh.ForeignReferenceError, match="belongs to another store"):
                linker.define_instance(other, "there", lh.Instance(store, library))


def test_a_name_is_defined_once_unless_shadowing_is_allowed(engine: lh.Engine) -> None:
    linker = lh.Linker(engine)
    with lh.Store(engine) as store:
        linker.define(store, "m", "n", 1)
        with pytest.raises(lh.LinkError, match=r"m\.n is defined already"):
            linker.define(store, "m", "n", 2)
        with pytest.raises(lh.LinkError, match=r"m\.n is defined already"):
            linker.define_func("m", "n", NULLARY, print)
        assert linker.get(store, "m", "n") == 1
        linker.allow_shadowing = True
        linker.define(store, "m", "n", 2)
        assert linker.get(store, "m", "n") == 2
        with pytest.raises(lh.LinkError, match=r"m\.other is not defined; these are: m\.n"):
            linker.get(store, "m", "other")


def test_a_module_is_defined_by_an_instance_that_it_makes(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    library = lh.Module(
        engine,
        """(module (global (export "step") (mut i32) (i32.const 5))
          (func (export "_initialize") (global.set 0 (i32.add (global.get 0) (i32.const 1))))
          (func (export "") (result i32) (global.get 0)))""",
    )
    command = lh.Module(engine, '(module (func (export "_start")))')
    with lh.Store(engine) as store:
        linker.define_module(store, "library", library)
        assert linker.get(store, "library", "step").value == 6
        assert linker.get_default(store, "library")() == 6
        assert linker.get_default(store, "nobody")() is None
        with pytest.raises(lh.LinkError, match=r"library\.step is defined already"):
            linker.define_module(store, "library", library)
        with pytest.raises(lh.UnsupportedError, match="command is a command, for it exports _start"):
            linker.define_module(store, "command", command)
        linker.define_instance(store, "command", lh.Instance(store, command))
        assert linker.get_default(store, "command") == linker.get(store, "command", "_start")
        linker.define(store, "number", "", 3)
        with pytest.raises(lh.LinkError, match=r"number\. is 3; it must be a Func to be the default"):
            linker.get_default(store, "number")


UNKNOWN = """(module
  (type $open (sub (func (param i32) (result i64 f64 anyref v128))))
  (import "a" "known" (func $known (result i32)))
  (import "a" "several" (func $several (type $open)))
  (import "a" "none" (func $none))
  (import "a" "global" (global $global (mut i64)))
  (import "a" "reference" (global $reference externref))
  (import "a" "memory" (memory 2))
  (func (export "run") (result i64 f64 anyref v128)
    (call $none) (drop (call $known)) (call $several (i32.const 1)))
  (func (export "known") (result i32) (i32.add (call $known) (memory.size))))"""


def test_what_is_unknown_has_default_values(engine: lh.Engine) -> None:
    linker = lh.Linker(engine)
    linker.define_func("a", "known", lh.FuncType((), (I32,)), lambda: 40)
    unknown = lh.Module(engine, UNKNOWN)
    with lh.Store(engine) as store:
        linker.define_unknown_imports_as_default_values(store, unknown)
        exports = linker.instantiate(store, unknown).exports
        assert exports.run() == (0, 0.0, None, 0)
        assert exports.known() == 42
        assert linker.get(store, "a", "global").value == 0
        assert linker.get(store, "a", "reference").value is None
        wanting = lh.Module(engine, '(module (import "b" "x" (func)) (import "b" "y" (func (result (ref any)))))')
        with pytest.raises(lh.LinkError, match=r"import b\.y has no default value: \(ref any\) cannot be null"):
            linker.define_unknown_imports_as_default_values(store, wanting)
        with pytest.raises(lh.LinkError, match=r"b\.x is not defined"):
            linker.get(store, "b", "x")


def test_unknown_functions_fail_when_they_are_called(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    linker.define_unknown_imports_as_traps(module)
    with lh.Store(engine) as store:
        with pytest.raises(lh.LinkError, match=r"import host\.step \(global i32\) is missing"):
            linker.instantiate(store, module)
        linker.define(store, "host", "step", 1)
        run = linker.instantiate(store, module).exports.run
        with pytest.raises(lh.LinkError, match=r"^unknown import: host\.double has not been defined$"):
            run(1)


def test_what_is_found_beforehand_stays_as_it_was(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    with pytest.raises(
        lh.LinkError, match=r"^host\.double \(func .*\), host\.step \(global i32\): not defined; these are: none$"
    ):
        linker.instantiate_pre(module)
    linker.define_func("host", "double", UNARY, lambda value: 2 * value)
    with lh.Store(engine) as store:
        linker.define(store, "host", "step", 1)
        prepared = linker.instantiate_pre(module)
        assert prepared.module is module
        linker.allow_shadowing = True
        linker.define(store, "host", "step", 100)
        assert [prepared.instantiate(store).exports.run(3) for _ in range(2)] == [7, 7]
        assert linker.instantiate(store, module).exports.run(3) == 106
        with lh.Store() as other, pytest.raises(lh.LinkError, match="the store has another engine"):
            prepared.instantiate(other)


def test_wrong_arguments_are_refused(engine: lh.Engine, module: lh.Module) -> None:
    linker = lh.Linker(engine)
    with pytest.raises(TypeError, match="it must be an Engine"):
        lh.Linker(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be a FuncType"):
        linker.define_func("m", "f", I64, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be callable"):
        linker.define_func("m", "f", NULLARY, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be a bool"):
        linker.allow_shadowing = 1  # type: ignore[assignment]
    with lh.Store() as foreign, pytest.raises(lh.LinkError, match="another engine"):
        linker.instantiate(foreign, module)
    with lh.Store(engine) as store:
        with pytest.raises(TypeError, match="it takes two strings"):
            linker.define(store, "m", 1, 2)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="linker is 5; it must be a Linker"):
            lh.InstancePre(5, module)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="module is None; it must be a Module"):
            lh.InstancePre(linker, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="it must be a Module"):
            linker.instantiate(store, "(module)")  # type: ignore[arg-type]
