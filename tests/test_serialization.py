"""Serialised modules: what comes back runs without being compiled, and what does not fit is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import lowheap as lh
from lowheap.jit import cache
from lowheap.wasm import module as module_file
from lowheap.wasm import serialization, validate

pytestmark = pytest.mark.compiler

SOURCE = """(module $lists
  (type $cell (struct (field $next (ref null $cell)) (field $value i32)))
  (import "host" "seen" (func $seen (param (ref null $cell))))
  (func $list (param i32) (result (ref null $cell))
    (if (result (ref null $cell)) (local.get 0)
      (then (struct.new $cell (call $list (i32.sub (local.get 0) (i32.const 1))) (local.get 0)))
      (else (ref.null $cell))))
  (func $run (export "run") (param i32)
    (call $seen (call $list (local.get 0)))))"""


@pytest.fixture(scope="module", autouse=True)
def sources_are_older_than_this_process() -> Any:
    """A source that somebody has just changed cannot be relied on; here it can, as nothing is compiled anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_package_digest", lambda: "as it is")
        yield


@pytest.fixture(scope="module")
def encoded() -> bytes:
    return lh.Module(lh.Engine(), SOURCE).serialize()


def run(module: lh.Module) -> list[Any]:
    with lh.Store(module.engine) as store:
        seen: list[Any] = []
        lh.Instance(store, module, {"host": {"seen": lambda cell: seen.append(cell["value"])}}).exports.run(3)
        store.verify()
    return seen


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("this was not to be done")

    monkeypatch.setattr(module_file, "compile_ir", forbidden)
    monkeypatch.setattr(validate, "validate", forbidden)
    monkeypatch.setattr(validate, "to_binary", forbidden)


def test_what_comes_back_is_the_same_and_not_compiled(
    encoded: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lh.Module(lh.Engine(), SOURCE)
    forbid(monkeypatch)
    path = tmp_path / "lists.lowheap"
    path.write_bytes(encoded)
    for back in (
        lh.Module.deserialize(lh.Engine(), encoded),
        lh.Module.deserialize(lh.Engine(), bytearray(encoded)),
        lh.Module.deserialize_file(lh.Engine(), path),
        lh.Module.deserialize_file(lh.Engine(), str(path)),
    ):
        assert back.compiled.object == made.compiled.object
        assert back.name == "lists"
        assert (back.imports, back.exports) == (made.imports, made.exports)
        assert back.serialize() == encoded
        assert run(back) == [3]


def test_types_of_another_engine_come_behind_its_own(encoded: bytes) -> None:
    engine = lh.Engine()
    lh.Module(engine, "(module (type (struct)) (type (array i8)))")
    assert run(lh.Module.deserialize(engine, encoded)) == [3]


def test_every_byte_that_is_not_as_it_was_is_found(encoded: bytes) -> None:
    engine = lh.Engine()
    step = max(1, len(encoded) // 97)
    for position in (*range(0, len(encoded), step), len(encoded) - 1):
        damaged = bytearray(encoded)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(lh.MalformedModuleError, match=r"damaged|not a serialised module"):
            lh.Module.deserialize(engine, damaged)
        with pytest.raises(lh.MalformedModuleError, match=r"damaged|not a serialised module"):
            lh.Module.deserialize(engine, encoded[:position])
    with pytest.raises(lh.MalformedModuleError, match="damaged"):
        lh.Module.deserialize(engine, encoded + b"\0")


def test_what_is_no_serialised_module_is_refused() -> None:
    for other in (b"", b"\0asm\1\0\0\0", SOURCE.encode(), cache.MAGIC + bytes(100)):
        with pytest.raises(lh.MalformedModuleError, match="not a serialised module"):
            lh.Module.deserialize(lh.Engine(), other)
    with pytest.raises(TypeError, match="is bytes, not str"):
        lh.Module.deserialize(lh.Engine(), SOURCE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="it must be an Engine"):
        lh.Module.deserialize(None, b"")  # type: ignore[arg-type]


def resealed(description: bytes, rest: bytes = b"") -> bytes:
    body = len(description).to_bytes(4, "little") + description + rest
    return serialization.MAGIC + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "description", [b"", b"[]", b"{}", b"\xff", b'{"facts": 3, "binary_size": 1}', b'{"facts": {}, "binary_size": "x"}']
)
def test_a_description_that_makes_no_sense_is_malformed(description: bytes) -> None:
    with pytest.raises(lh.MalformedModuleError, match="makes no sense"):
        lh.Module.deserialize(lh.Engine(), resealed(description))


@pytest.mark.parametrize(
    ("engine", "differing"),
    [
        ({"opt_level": 0}, "opt_level"),
        ({"runtime": "python"}, "runtime"),
        ({"inline": "never"}, "inline"),
        ({"cranelift_nan_canonicalization": True}, "cranelift_nan_canonicalization"),
        ({"collector": "null"}, "the collector"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_an_engine_with_other_options_is_refused(encoded: bytes, engine: dict[str, Any], differing: str) -> None:
    with pytest.raises(lh.ModuleError, match=f"differs here: .*{differing}"):
        lh.Module.deserialize(lh.Engine(**engine), encoded)


@pytest.mark.parametrize(
    ("what", "named"), [("cpu", "the CPU"), ("llvm", "LLVM's version"), ("llvmlite", "llvmlite's version")]
)
def test_another_machine_or_version_is_refused(
    encoded: bytes, monkeypatch: pytest.MonkeyPatch, what: str, named: str
) -> None:
    machine = cache._machine()
    monkeypatch.setattr(cache, "_machine", lambda: {**machine, what: "another"})
    with pytest.raises(lh.ModuleError, match=rf"differs here: {named}$"):
        lh.Module.deserialize(lh.Engine(), encoded)


def test_other_sources_are_refused(encoded: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_package_digest", lambda: "another")
    with pytest.raises(lh.ModuleError, match=r"differs here: lowheap's sources$"):
        lh.Module.deserialize(lh.Engine(), encoded)
    monkeypatch.setattr(cache, "_package_digest", lambda: None)
    with pytest.raises(lh.ModuleError, match="cannot be used: not all sources"):
        lh.Module.deserialize(lh.Engine(), encoded)
    with pytest.raises(lh.ModuleError, match="cannot be serialised: not all sources"):
        lh.Module(lh.Engine(), "(module)").serialize()


def test_the_code_must_be_of_the_module_beside_it(encoded: bytes) -> None:
    description = encoded[len(serialization.MAGIC) + 32 :]
    length = int.from_bytes(description[:4], "little")
    said = json.loads(description[4 : 4 + length])
    binary = validate.wat2wasm('(module (func (export "run") (param i32)))')
    said["binary_size"], entry = len(binary), description[4 + length + said["binary_size"] :]
    with pytest.raises(lh.ModuleError, match="differs here: module"):
        lh.Module.deserialize(lh.Engine(), resealed(json.dumps(said).encode(), binary + entry))
