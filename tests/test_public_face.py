"""The flat public face: names as in wasmtime's package where the thing is the same, each loaded when it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lowheap as lh
from lowheap import types

ROOT = Path(__file__).resolve().parent.parent


# ----------------------------------------------------------------------------------------------------------------------
# What is loaded when


def loaded(source: str, *arguments: str) -> set[str]:
    """The modules that a process has loaded when it has run some Python."""
    text = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{source}\nprint(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    found = loaded("import lowheap")
    assert {each for each in found if each.partition(".")[0] in ("lowheap", "llvmlite", "cffi", "wasmtime")} == {
        "lowheap",
        "lowheap.interpreter",
        "lowheap.later",
    }
    assert not (found - loaded("")) & {"dataclasses", "logging", "importlib.metadata"}


def test_help_loads_no_command() -> None:
    found = loaded("from lowheap.cli import execute\nassert execute(['--help']) == 0")
    assert {each for each in found if each.startswith("lowheap")} <= {
        "lowheap",
        "lowheap.cli",
        "lowheap.cli.entry",
        "lowheap.cli.interrupts",
        "lowheap.interpreter",
        "lowheap.later",
        "lowheap.cli.output",
        "lowheap.errors",
        "lowheap.representation",
    }
    assert not {each.partition(".")[0] for each in found} & {"llvmlite", "cffi", "wasmtime", "rich", "elftools"}


def test_a_program_from_the_cache_loads_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = ROOT / "examples" / "binary_trees.wat"
    source = (
        f"from lowheap.cli import execute\nassert execute(['run', {str(program)!r}, '--invoke', 'run', '3', '2']) == 0"
    )
    compiling = {"wasmtime", "lowheap.jit.translate", "lowheap.jit.safepoints", "lowheap.wasm.compile"}
    assert compiling <= loaded(source)
    others = {
        "rich",
        "elftools",
        "lowheap.snapshot",
        "lowheap.jit.emit",
        "lowheap.jit.root_frames",
        "importlib.metadata",
    }
    assert not (loaded(source) - loaded("")) & (compiling | others)


def test_an_exception_loads_no_compiler() -> None:
    found = loaded("import lowheap as lh\nlh.Trap, lh.LinkError, lh.FuncType, lh.ValType.i32()")
    assert not {each.partition(".")[0] for each in found} & {"llvmlite", "cffi", "wasmtime"}


# ----------------------------------------------------------------------------------------------------------------------
# Names


def test_every_public_name_is_there_and_type_checkers_know_it() -> None:
    tree = ast.parse(Path(lh.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {}
    for node in checked.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            declared[alias.asname or alias.name] = (node.module, alias.name)
    assert sorted(declared) == lh.__all__
    for name, (module, its_name) in declared.items():
        assert getattr(lh, name) is getattr(sys.modules[str(module)], its_name), name
    assert set(lh.__all__) <= set(dir(lh))


def test_what_is_not_there_is_an_attribute_error() -> None:
    for name in ("Nothing", "__nothing__", "_nothing"):
        with pytest.raises(AttributeError, match=f"module 'lowheap' has no attribute '{name}'"):
            getattr(lh, name)
    assert loaded("import lowheap\nlowheap.types.I8\nassert not hasattr(lowheap, 'nothing')")


def test_value_types_by_wasmtimes_names() -> None:
    for name in ("i32", "i64", "f32", "f64", "v128"):
        found = getattr(lh.ValType, name)()
        assert str(found) == name
        assert isinstance(found, lh.ValType)
    for name in ("externref", "funcref", "anyref", "eqref", "i31ref", "structref", "arrayref", "nullref"):
        assert getattr(lh.ValType, name)() is getattr(types, name.upper())
    assert not isinstance(types.I8, lh.ValType)
    with pytest.raises(TypeError, match=r"ValType\.i32\(\) for one"):
        lh.ValType()


def test_types_of_imports_and_exports() -> None:
    module = lh.Module(
        lh.Engine(),
        """(module
          (import "m" "f" (func (param i32 f64) (result i64)))
          (import "m" "g" (global (mut externref)))
          (func (export "run") (result i32 i32) (i32.const 1) (i32.const 2))
          (global (export "c") f32 (f32.const 1)))""",
    )
    v = lh.ValType
    assert module.imports == [
        lh.ImportType("m", "f", lh.FuncType([v.i32(), v.f64()], [v.i64()])),
        lh.ImportType("m", "g", lh.GlobalType(v.externref(), True)),
    ]
    run, constant = module.exports
    assert (run.name, run.type) == ("run", lh.FuncType([], [v.i32(), v.i32()]))
    assert isinstance(constant.type, lh.GlobalType)
    assert (constant.type.content, constant.type.mutable, str(constant.type)) == (v.f32(), False, "f32")
    assert hash(lh.FuncType([v.i32()], [])) == hash(lh.FuncType((v.i32(),), ()))


def test_a_global_takes_a_global_type() -> None:
    with lh.Store() as store:
        for mutable in (False, True):
            made = lh.Global(store, lh.GlobalType(lh.ValType.i32(), mutable), 3)
            assert (made.value, made.type) == (3, lh.GlobalType(types.I32, mutable))
        with pytest.raises(TypeError, match="which says itself whether the global is mutable"):
            lh.Global(store, lh.GlobalType(types.I32, True), 3, mutable=True)


def test_modules_from_files_and_text(tmp_path: Path) -> None:
    text = '(module (func (export "one") (result i32) (i32.const 1)))'
    binary = lh.wat2wasm(text)
    assert binary.startswith(b"\0asm")
    assert lh.wat2wasm(text.encode()) == binary
    engine = lh.Engine()
    for content in (text.encode(), binary):
        path = tmp_path / "module"
        path.write_bytes(content)
        assert lh.Instance(lh.Store(engine), lh.Module.from_file(engine, path)).exports.one() == 1
    with pytest.raises(FileNotFoundError):
        lh.Module.from_file(engine, tmp_path / "none")
    with pytest.raises(lh.MalformedModuleError, match="not a WebAssembly text module"):
        lh.wat2wasm("(module")


def test_validating_says_what_is_wrong() -> None:
    engine = lh.Engine()
    binary = lh.wat2wasm("(module (memory 1))")
    for each in (binary, bytearray(binary), memoryview(binary)):
        lh.Module.validate(engine, each)
    with pytest.raises(lh.MalformedModuleError, match="not a valid WebAssembly module"):
        lh.Module.validate(engine, binary[:-1])
    with pytest.raises(TypeError, match="is bytes, not str"):
        lh.Module.validate(engine, "(module)")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be an Engine"):
        lh.Module.validate(None, binary)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------------
# Exports


def test_exports_are_attributes_and_items() -> None:
    names = ("run", "get", "items", "not a name", "_under", "__dunder__")
    functions = " ".join(f'(func (export "{name}") (result i32) (i32.const {k}))' for k, name in enumerate(names))
    with lh.Store() as store:
        exports = lh.Instance(store, lh.Module(store.engine, f"(module {functions})")).exports
        assert list(exports) == list(names)
        assert [exports[name]() for name in names] == list(range(len(names)))
        assert exports.run() == 0
        assert exports._under() == 4
        assert getattr(exports, "not a name")() == 3
        assert exports.get("run") == exports["run"], "a mapping's method stays one"
        assert dict(exports.items()) == exports
        assert "run" in exports
        assert "go" not in exports
        assert {"run", "get", "keys"} <= set(dir(exports))
        for missing in ("go", "__dunder__"):
            with pytest.raises(AttributeError, match=f"there is no export '{missing}'"):
                getattr(exports, missing)
        with pytest.raises(KeyError, match="there is no export 'go'; there are: __dunder__, _under, get, items"):
            exports["go"]


def test_exports_do_not_change() -> None:
    with lh.Store() as store:
        exports = lh.Instance(store, lh.Module(store.engine, '(module (func (export "run")))')).exports
        changes = {
            "set": lambda: exports.__setitem__("run", 1),
            "delete": lambda: exports.__delitem__("run"),
            "attribute": lambda: setattr(exports, "run", 1),
            "delete attribute": lambda: delattr(exports, "run"),
            "update": lambda: exports.update(run=1),
            "merge": lambda: exports.__ior__({"run": 1}),
            "clear": exports.clear,
            "pop": lambda: exports.pop("run"),
            "popitem": exports.popitem,
            "setdefault": lambda: exports.setdefault("go", 1),
        }
        for name, change in changes.items():
            with pytest.raises(TypeError, match="exports cannot be changed"):
                change()
            assert list(exports) == ["run"], name


# ----------------------------------------------------------------------------------------------------------------------
# Limits


def allocate(store: lh.Store, count: int) -> list[lh.Array]:
    return [lh.Array(store, lh.ArrayType(lh.FieldType(types.I8, True)), 1 << 16) for _ in range(count)]


def test_the_heap_grows_to_its_limit() -> None:
    with lh.Store(initial_heap_size=1 << 17) as store:
        store.set_limits(memory_size=1 << 18)
        with pytest.raises(lh.HeapExhaustedError):
            allocate(store, 4)
        store.set_limits(memory_size=1 << 20)
        held = allocate(store, 8)
        store.set_limits()
        store.set_limits(memory_size=1 << 17)
        assert store.heap.control.maximum == store.heap.control.capacity, "what it has it keeps"
        with pytest.raises(lh.HeapExhaustedError):
            held += allocate(store, 16)
        store.verify()
        with pytest.raises(ValueError, match="cannot grow to 4294967297 bytes"):
            store.set_limits(memory_size=(1 << 32) + 1)


def test_limits_that_there_are_not_are_named() -> None:
    with lh.Store() as store:
        for name in ("table_elements", "instances", "tables", "memories"):
            with pytest.raises(lh.UnsupportedError, match=f"no limit {name}; it has memory_size"):
                store.set_limits(**{name: 0})
            store.set_limits(**{name: -1})
            with pytest.raises(TypeError, match=f"{name} is 'x'"):
                store.set_limits(**{name: "x"})
