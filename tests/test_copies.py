"""Copies and pickles: of a value an equal one, of a handle a second owner, of all else a refusal that says why."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lowheap as lh
from lowheap.collectors.drc import Drc
from lowheap.copying import NotCopied
from lowheap.embed import attach
from lowheap.memory import Memory
from lowheap.peers import Peer
from lowheap.runtime.natives import NativeBarriers
from lowheap.snapshot import Image
from lowheap.types import AbstractHeapType

CELL = lh.StructType((lh.FieldType(lh.types.ANYREF, True), lh.FieldType(lh.types.I32, True)))
NUMBERS = lh.ArrayType(lh.FieldType(lh.types.I32, True))
PROGRAM = """(module
  (import "h" "f" (func $f))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "call") (param anyref) (call $f))
  (global (export "g") (mut i32) (i32.const 1)))"""


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


WAYS: tuple[Callable[[Any], Any], ...] = (copy.copy, copy.deepcopy, pickled)


@pytest.fixture(scope="module")
def store() -> Iterator[lh.Store]:
    with lh.Store() as store:
        yield store


@pytest.fixture(scope="module")
def instance(store: lh.Store) -> lh.Instance:
    return lh.Instance(store, lh.Module(store.engine, PROGRAM), {"h": {"f": lambda: None}})


@pytest.fixture(scope="module")
def things(store: lh.Store, instance: lh.Instance) -> list[Any]:
    """Everything that there is one of."""
    host = lh.Func.__new__(lh.Func)  # the class itself: what calls of numbers alone have is derived from it
    native = store.heap.native
    return [
        store,
        store.engine,
        store.engine.types,
        store.lock,
        store.operations,
        lh.Caller(store, None),
        lh.Linker(store.engine),
        lh.Linker(store.engine).instantiate_pre(lh.Module(store.engine, "(module)")),
        lh.Tag(store, lh.FuncType((), ())),
        lh.Table(store, lh.TableType(lh.types.FUNCREF, lh.Limits(1, None)), None),
        lh.Memory(store, lh.MemoryType(lh.Limits(0, 1))),
        lh.Array(store, lh.ArrayType(lh.FieldType(lh.types.I32, True)), 1).view(),
        store.heap,
        store.heap.native,
        store.heap.policy,
        store.heap.memory,
        store.roots,
        store.host_data,
        store.runtime,
        store.collection(),
        lh.DrcHeap(lh.Engine().types),
        Memory(0),
        instance,
        instance.module,
        instance.module.loaded(inline_allocation=True),
        lh.Module(lh.Engine(compilation="by_need"), "(module (func))").pieces(inline_allocation=True),
        instance.exports["add"],
        instance.exports["call"],
        host,
        instance.exports["g"],
        lh.Global(store, lh.types.ANYREF, None),
        attach(store),
        lh.WasiConfig().make_context(),
        NativeBarriers(store),
        native,
        object.__new__(Peer),  # without the process
    ]


def test_what_there_is_one_of_is_not_copied(things: list[Any], store: lh.Store) -> None:
    for thing in things:
        assert isinstance(thing, NotCopied)
        for way in WAYS:
            with pytest.raises(TypeError, match=r"^this [A-Z]\w+ cannot be copied or pickled: \w"):
                way(thing)
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                way([thing]) if way is not copy.copy else way(thing)
    gc.collect()
    lh.Struct(store, CELL)
    store.collect()
    store.verify()


def test_the_refusal_names_the_class_that_users_know(instance: lh.Instance) -> None:
    for name, thing in (("Func", instance.exports["add"]), ("DrcCollection", instance.store.collection())):
        with pytest.raises(TypeError, match=rf"^this {name} cannot"):
            copy.copy(thing)


def test_each_kind_of_them_says_why_and_is_looked_at(things: list[Any]) -> None:
    handles = (lh.Struct, lh.Array, lh.ExternRef, lh.ExnRef)  # each type of a store's has a subclass
    seen = {kind for thing in things for kind in type(thing).__mro__}
    waiting = [NotCopied]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind is not NotCopied and kind.__module__.startswith("lowheap"):
            assert kind.NOT_COPIED_BECAUSE
            is_part = inspect.isabstract(kind) or kind.__name__.startswith("_") or kind.__subclasses__()
            assert is_part or kind in seen or issubclass(kind, handles) or kind.__name__ == "FirstFit", kind


def test_every_public_class_is_a_value_or_is_not_copied() -> None:
    for name in lh.__all__:
        kind = getattr(lh, name)
        if not inspect.isclass(kind) or issubclass(kind, Exception | NotCopied):
            continue
        is_value = (
            kind in (lh.I31, lh.ValType, lh.Config, lh.WasiConfig)
            or hasattr(kind, "__dataclass_fields__")
            or hasattr(kind, "__members__")
        )
        assert is_value, f"{name} has to be a value, or NotCopied"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_values_are_copied_as_values(way: Callable[[Any], Any], store: lh.Store, instance: lh.Instance) -> None:
    group = [lh.SubType(lh.StructType((lh.FieldType(lh.RefType(True, 0), True),)), final=False)]
    held = lh.Struct(store, CELL, [lh.I31(-7), 3])
    values = [
        lh.I31(-5),
        lh.I31((1 << 31) - 1),
        lh.types.I32,
        lh.types.ANYREF,
        AbstractHeapType.EQ,
        CELL,
        NUMBERS,
        lh.FuncType((lh.types.I32,), (lh.types.F64, lh.types.ANYREF)),
        group,
        lh.TrapCode.UNREACHABLE,
        store.stats(),
        list(store.heap.objects()),
        list(store.roots),
        instance.module.imports,
        instance.module.exports,
        instance.module.decoded,
        store.heap.struct_layout(held.type_index),
        store.snapshot(),
    ]
    for value in values:
        again = way(value)
        assert again == value
        assert type(again) is type(value)


def test_a_copy_of_exports_has_the_same(instance: lh.Instance) -> None:
    again = copy.copy(instance.exports)
    assert again == instance.exports
    assert type(again) is type(instance.exports)
    for way in WAYS:
        if way is not copy.copy:
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                way(instance.exports)


def test_a_copy_of_an_i31_is_one(store: lh.Store) -> None:
    for way in WAYS:
        again = way(lh.I31(-3))
        assert (int(again), again.unsigned, again.raw, hash(again)) == (
            -3,
            (1 << 31) - 3,
            0xFFFF_FFFB,
            hash(lh.I31(-3)),
        )
        assert lh.Struct(store, CELL, [again, 0])[0] == lh.I31(-3)


def test_a_copy_of_a_config_has_its_options() -> None:
    config = lh.Config(opt_level=1, inline="never")
    for way in WAYS:
        again = way(config)
        assert again is not config
        assert vars(again) == vars(config)


def test_a_copy_of_a_collector_is_as_good() -> None:
    for way in WAYS:
        with lh.Store(collector=way(Drc(list_floor=5))) as store:
            assert store.heap.collector.list_floor == 5
            lh.Struct(store, CELL)
            store.verify()


def made(store: lh.Store) -> list[Any]:
    return [lh.Struct(store, CELL, [None, 7]), lh.Array(store, NUMBERS, [1, 2]), lh.ExternRef(store, "value")]


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_a_copy_of_a_handle_is_a_second_owner(runtime: str) -> None:
    store = lh.Store(lh.Engine(runtime=runtime))
    handles = made(store)
    while handles:
        first = handles.pop()
        second = copy.copy(first)
        assert type(second) is type(first)
        assert second == first
        assert first.ref_count == 2
        first.release()
        assert not first.is_valid
        assert second.ref_count == 1
        again = copy.copy(second)
        del second
        store.collect()
        assert again.is_valid
        assert again.ref_count == 1
        store.verify()
        del again
        store.collect()
        assert store.stats().live_objects == len(handles)
    store.verify()


def test_a_copy_of_a_handle_reads_and_writes_the_same_object(store: lh.Store) -> None:
    struct, array, externref = made(store)
    copy.copy(struct)[1] = 8
    copy.copy(array)[0] = 9
    assert struct[1] == 8
    assert list(copy.copy(array)) == list(array) == [9, 2]
    assert copy.copy(externref).value is externref.value


def test_handles_are_neither_deeply_copied_nor_pickled(store: lh.Store) -> None:
    for handle in made(store):
        for way in (copy.deepcopy, pickled):
            with pytest.raises(TypeError, match=re.escape(f"this {type(handle).__name__} cannot be copied or pickled")):
                way(handle)
        assert handle.ref_count == 1


def test_a_stale_handle_has_no_copy() -> None:
    store = lh.Store()
    released, of_closed = lh.Struct(store, CELL), lh.Struct(store, CELL)
    released.release()
    store.close()
    for handle in (released, of_closed):
        with pytest.raises(lh.StaleReferenceError):
            copy.copy(handle)


def test_an_image_that_was_pickled_is_verified(store: lh.Store) -> None:
    again = pickled(store.snapshot())
    assert isinstance(again, Image)
    assert [each.index for each in again.objects()] == [each.index for each in store.heap.objects()]
