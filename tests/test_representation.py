"""What things look like: `repr` is a few lines at most, however much a thing holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

import lowheap as lh
from lowheap.representation import LONGEST, brief
from lowheap.snapshot import Image
from lowheap.snapshot.inspection import inspect

MANY = 300
MOST = 3000
"""So many characters are a few lines."""

CELL = lh.StructType((lh.FieldType(lh.types.ANYREF, True), lh.FieldType(lh.types.I32, True)))
FUNCTIONS = "\n".join(
    f'(func $function{number} (export "f{number}") (param (ref null $t)) (result (ref null $t))'
    f" (local i32 i64 f32) (drop (struct.new $t (local.get 0))) (local.get 0))"
    for number in range(20)
)
PROGRAM = f"(module (type $t (struct (field $f (mut (ref null $t))))) {FUNCTIONS})"


@pytest.fixture(scope="module")
def store() -> Iterator[lh.Store]:
    with lh.Store(initial_heap_size=1 << 20) as store:
        yield store


def parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a value, and what is in it, as deep as dataclasses go; of lists and tuples the first few items."""
    if id(value) in seen or isinstance(value, int | str | bytes | None):
        return
    seen.add(id(value))
    if dataclasses.is_dataclass(value):
        yield value
        for field in dataclasses.fields(value):
            yield from parts(getattr(value, field.name), seen)
    elif isinstance(value, list | tuple):
        for each in value[:3]:
            yield from parts(each, seen)
    elif isinstance(value, dict):
        for each in list(value.values())[:3]:
            yield from parts(each, seen)


def test_nothing_is_shown_at_length(store: lh.Store) -> None:
    module = lh.Module(store.engine, PROGRAM)
    instance = lh.Instance(store, module)
    held = [lh.Struct(store, CELL, [None, number]) for number in range(MANY)]
    for one, other in zip(held[::2], held[1::2], strict=True):
        one[0], other[0] = other, one
    array = lh.Array(store, lh.ArrayType(lh.FieldType(lh.types.I8, True)), 1 << 18)
    image = store.snapshot()
    inspection = inspect(image)
    assert inspection.garbage is not None
    values = [
        image,
        Image.from_wasmtime(image.data),
        inspection,
        inspection.garbage,
        list(image.objects())[-1],
        store.stats(),
        module.decoded,
        module.compiled,
        next(iter(image.parts), None),
        next(iter(store.roots)),
        store.heap.struct_layout(held[0].type_index),
        store.heap.struct_layout(store.engine.types.register([WIDE])[0]),
    ]
    seen: set[int] = set()
    looked_at = [part for value in values for part in parts(value, seen)]
    looked_at += [store, store.engine, store.engine.types, store.heap, store.heap.memory, store.heap.control, module]
    looked_at += [store.roots, store.host_data, store.runtime, store.collection(), instance, instance.exports["f1"]]
    looked_at += [array, held[0], lh.ExternRef(store, 5), lh.I31(4)]
    assert len({type(each) for each in looked_at}) > 30
    for each in looked_at:
        shown = repr(each)
        assert len(shown) < MOST, f"{type(each)}: {len(shown)} characters"
        assert "\n" not in shown, type(each)


WIDE = lh.SubType(lh.StructType((lh.FieldType(lh.types.I32, True),) * 500))


def test_an_image_says_what_it_has(store: lh.Store) -> None:
    lh.Struct(store, CELL)
    image = store.snapshot()
    shown = repr(image)
    assert shown.startswith(f"Image(data=<bytes, {len(image.data):,} bytes>, source='lowheap', ")
    assert repr(Image(b"")) == (
        "Image(data=b'', source='lowheap', types={}, control=None, roots=(), host_data_ids=None, list_head=None, "
        "known=(), free=None, tables=None, collector=None, parts=())"
    )


def test_a_module_and_its_instances_say_what_they_are(store: lh.Store) -> None:
    module = lh.Module(store.engine, '(module $m (import "a" "b" (func)) (func (export "f")) (memory (export "m") 1))')
    assert repr(module) == "<Module 'm': 1 imports, 2 exports>"
    assert repr(lh.Instance(store, module, {"a": {"b": lambda: None}})) == f"<Instance of {module!r}>"
    assert repr(lh.Module(store.engine, "(module)")) == "<Module: 0 imports, 0 exports>"
    assert repr(lh.Linker(store.engine).instantiate_pre(lh.Module(store.engine, "(module)"))) == (
        "<InstancePre of <Module: 0 imports, 0 exports>>"
    )


def test_what_is_short_is_shown_and_what_is_long_is_told() -> None:
    assert brief((1, 2)) == "(1, 2)"
    assert brief("text") == "'text'"
    assert brief("x" * 5000) == "<str, 5,000 characters>"
    assert brief(bytes(2000)) == "<bytes, 2,000 bytes>"
    assert brief(tuple(range(1000))) == "<tuple, 1,000 items>"
    assert brief(["y" * LONGEST]) == "<list, 1 items>"
    assert brief(range(10**9)) == "<range, 1,000,000,000 items>"
