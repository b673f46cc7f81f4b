"""The side table: ids, in the bytes that C shares, and when values are let go of."""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import Any

import cffi
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lowheap import declarations, hostdata
from lowheap.errors import HeapError
from lowheap.heap import HostData
from lowheap.hostdata import ExternRefHostDataTable
from lowheap.layout import VMHeapControl, VMHostData, VMHostDataOwner

ffi = cffi.FFI()
ROOM = 64


class Value:
    """Something that a weak reference can watch."""


class Bound(ExternRefHostDataTable):
    """A table that serves a control block of its own, without a heap."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = (VMHostData * ROOM)()
        self.control = VMHeapControl(host_data=ctypes.addressof(self.entries))
        self.bind(self.control)

    def alloc_as_c(self, data: int, finalizer: Any) -> int:
        """Take an id as C code does, through the structures as a C compiler reads them."""
        shared: Any = declarations.ffi()
        control = shared.cast("VMHeapControl *", ctypes.addressof(self.control))
        entries = shared.cast("VMHostData *", control.host_data)
        if control.free_host_data:
            found = control.free_host_data - 1
            control.free_host_data = entries[found].next_free
        else:
            found = control.host_data_count
            control.host_data_count += 1
        entries[found].data, entries[found].owner = data, int(VMHostDataOwner.C)
        entries[found].finalizer = int(ffi.cast("uintptr_t", finalizer)) if finalizer else 0
        return int(found)

    def free_ids(self) -> list[int]:
        """The chain of free ids."""
        found, link = [], self.control.free_host_data
        while link:
            found.append(link - 1)
            link = self.entries[link - 1].next_free
        return found


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `sys.unraisablehook` was told of: the exception, and the text of what it happened in."""
    told: list[Any] = []

    def hook(args: Any) -> None:
        told.append((args.exc_value, f"{args.err_msg} {args.object!r}"))

    monkeypatch.setattr(sys, "unraisablehook", hook)
    return told


class TableMachine(RuleBasedStateMachine):
    """The table against a dict: of what each id stands for, and of how often each finalizer ran."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Bound()
        self.model: dict[int, tuple[str, Any]] = {}
        self.dying: set[int] = set()
        self.most = 0
        self.numbers = iter(range(1, 1 << 20))
        self.expected: list[int] = []
        self.finalized: list[int] = []
        self.c_finalizer = ffi.callback("void(void *)", lambda data: self.finalized.append(int(ffi.cast("int", data))))

    def took(self, host_data_id: int, owner: str, value: Any) -> None:
        assert host_data_id not in self.model
        self.model[host_data_id] = (owner, value)
        self.most = max(self.most, len(self.model))
        assert 0 <= host_data_id < self.most, "a free id is used before a new one"

    @rule(value=st.none() | st.integers() | st.text())
    def alloc(self, value: Any) -> None:
        if len(self.model) < ROOM:
            self.took(self.table.alloc(value), "python", value)

    @rule()
    def alloc_with_finalizer(self) -> None:
        if len(self.model) < ROOM:
            number = next(self.numbers)
            host_data_id = self.table.alloc(number)
            self.table.set_finalizer(host_data_id, self.finalized.append)
            self.took(host_data_id, "finalized", number)

    @rule(has_finalizer=st.booleans())
    def alloc_as_c(self, has_finalizer: bool) -> None:
        if len(self.model) < ROOM:
            number = next(self.numbers)
            host_data_id = self.table.alloc_as_c(number, self.c_finalizer if has_finalizer else None)
            self.took(host_data_id, "c finalized" if has_finalizer else "c", number)

    @rule(data=st.data())
    def dealloc(self, data: st.DataObject) -> None:
        if alive := sorted(self.model.keys() - self.dying):
            host_data_id = data.draw(st.sampled_from(alive))
            self.table.dealloc(host_data_id)
            owner, value = self.model[host_data_id]
            if "finalized" in owner:
                self.expected.append(value)
            if owner.startswith("c"):
                self.dying.add(host_data_id)
                with pytest.raises(HeapError, match=f"{host_data_id} is not in use: its externref has died"):
                    self.table.dealloc(host_data_id)
            else:
                del self.model[host_data_id]

    @rule(host_data_id=st.integers(-2, 70))
    def get(self, host_data_id: int) -> None:
        assert (host_data_id in self.table) == (host_data_id in self.model)
        if host_data_id in self.model:
            owner, value = self.model[host_data_id]
            found = self.table.get(host_data_id)
            assert (int(ffi.cast("uintptr_t", found)) if owner.startswith("c") else found) == value
            return
        for operation in (self.table.get, self.table.dealloc):
            with pytest.raises(HeapError, match=f"host-data id {host_data_id} is not in use"):
                operation(host_data_id)

    @rule()
    def release(self) -> None:
        before = len(self.finalized)
        self.table.release()
        assert self.finalized == self.expected, f"{before} before: each once, in the order of their deaths"
        for host_data_id in self.dying:
            del self.model[host_data_id]
        self.dying.clear()

    @rule(how=st.sampled_from(["clear", "unbind"]))
    def clear(self, how: str) -> None:
        self.expected += [
            value
            for host_data_id, (owner, value) in sorted(self.model.items())
            if "finalized" in owner and host_data_id not in self.dying
        ]
        if how == "clear":
            self.table.clear()
        else:
            self.table.unbind()
            assert 0 not in self.table
            with pytest.raises(HeapError, match="serves no heap"):
                self.table.alloc(1)
            self.table.bind(self.table.control)
            self.table.release()
        assert self.finalized == self.expected
        assert bytes(self.table.entries) == bytes(ctypes.sizeof(self.table.entries))
        self.model.clear()
        self.dying.clear()
        self.most = 0

    @invariant()
    def bytes_agree(self) -> None:
        assert len(self.table) == len(self.model)
        count = self.table.control.host_data_count
        free = self.table.free_ids()
        assert sorted(free) == sorted(set(range(count)) - self.model.keys())
        for host_data_id, (owner, _) in self.model.items():
            expected = VMHostDataOwner.C if owner.startswith("c") else VMHostDataOwner.PYTHON
            assert self.table.entries[host_data_id].owner == expected


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=60, deadline=None)


def test_the_heap_knows_it_as_a_side_table() -> None:
    assert isinstance(ExternRefHostDataTable(), HostData)


def test_a_table_serves_one_heap_at_a_time() -> None:
    table = Bound()
    with pytest.raises(HeapError, match="already serves a heap"):
        table.bind(VMHeapControl())
    binding = table.binding
    table.unbind()
    table.unbind()
    assert (table.binding, len(table)) == (None, 0)
    table.bind(table.control)
    assert table.binding not in (None, binding)


def test_values_are_kept_until_release() -> None:
    table, value = Bound(), Value()
    watched = weakref.ref(value)
    host_data_id = table.alloc(value)
    del value
    assert watched() is table.get(host_data_id)
    table.dealloc(host_data_id)
    assert watched() is not None, "dealloc only sets it aside"
    table.release()
    assert watched() is None


def test_clear_lets_go_of_everything() -> None:
    table = Bound()
    values = [Value() for _ in range(3)]
    watched = [weakref.ref(value) for value in values]
    for value in values:
        table.alloc(value)
    table.dealloc(1)
    del values, value
    table.clear()
    assert [each() for each in watched] == [None, None, None]
    assert table.alloc("again") == 0


def test_finalizers_may_use_the_table() -> None:
    table = Bound()
    seen = []

    class Finalizer:
        def __init__(self, depth: int) -> None:
            self.depth = depth

        def __del__(self) -> None:
            seen.append(self.depth)
            if self.depth:
                table.dealloc(table.alloc(Finalizer(self.depth - 1)))
                table.release()

    table.dealloc(table.alloc(Finalizer(3)))
    table.release()
    assert seen == [3, 2, 1, 0]
    assert len(table) == 0


def test_finalizers_do_not_nest() -> None:
    """A thousand of them, each of which lets the next one die, are no thousand frames deep."""
    table, depth, deepest = Bound(), 0, 0

    def die(number: int) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        if number:
            host_data_id = table.alloc(number - 1)
            table.set_finalizer(host_data_id, die)
            table.dealloc(host_data_id)
            table.release()
        depth -= 1

    first = table.alloc(2000)
    table.set_finalizer(first, die)
    table.dealloc(first)
    table.release()
    assert (deepest, len(table), len(table.set_aside)) == (1, 0, 0)


@pytest.mark.parametrize("moment", ["dealloc", "clear", "unbind"])
def test_finalizers_that_clear_or_unbind_the_table(moment: str) -> None:
    """As one does that closes the store: the others still run, once each."""
    table = Bound()
    log: list[Any] = []
    calls_c = ffi.callback("void(void *)", lambda data: log.append(int(ffi.cast("int", data))))
    ids = [table.alloc(number) for number in range(3)]
    ids.append(table.alloc_as_c(3, calls_c))

    def finalizer(number: int) -> None:
        log.append(number)
        if number == 1:
            table.clear() if moment != "unbind" else table.unbind()

    for host_data_id in ids[:3]:
        table.set_finalizer(host_data_id, finalizer)
    if moment == "dealloc":
        for host_data_id in ids:
            table.dealloc(host_data_id)
        table.release()
    else:
        table.dealloc(1)
        table.dealloc(3)
        table.clear()
    assert sorted(log) == [0, 1, 2, 3]
    assert len(table) == 0
    table.clear()
    assert len(log) == 4


def test_a_failing_finalizer_is_reported_and_the_others_run(unraisable: list[Any]) -> None:
    table, log = Bound(), []

    def finalizer(value: str) -> None:
        log.append(value)
        if value == "bad":
            raise ZeroDivisionError("of the finalizer")

    for value in ("first", "bad", "last"):
        host_data_id = table.alloc(value)
        table.set_finalizer(host_data_id, finalizer)
    for host_data_id in range(3):
        table.dealloc(host_data_id)
    table.release()
    assert log == ["first", "bad", "last"]
    ((error, where),) = unraisable
    assert isinstance(error, ZeroDivisionError)
    assert "the externref of 'bad'" in where


def test_values_are_let_go_of_before_the_next_finalizer_runs() -> None:
    table, value, seen = Bound(), Value(), []
    watched = weakref.ref(value)
    table.dealloc(table.alloc(value))
    del value
    host_data_id = table.alloc("next")
    table.set_finalizer(host_data_id, lambda _: seen.append(watched()))
    table.dealloc(host_data_id)
    table.release()
    assert seen == [None]


def test_c_finds_the_addresses_that_cffi_holds() -> None:
    table = Bound()
    handle, array = ffi.new_handle(table), ffi.new("int[4]")
    function: Any = ffi.callback("int(int)", lambda number: number)
    plain = [0x1234, None, ffi.cast("int", 5), ffi.NULL, b"bytes"]
    for pointer in (handle, array, function):
        entry = table.entries[table.alloc(pointer)]
        assert entry.data == int(ffi.cast("uintptr_t", pointer))
        assert (entry.owner, entry.finalizer) == (VMHostDataOwner.PYTHON, 0)
    assert ffi.from_handle(ffi.cast("void *", table.entries[0].data)) is table
    assert [table.entries[table.alloc(value)].data for value in plain] == [0] * len(plain)
    table.dealloc(0)
    assert bytes(table.entries[0]) == bytes(VMHostData())
    assert table.entries[table.alloc(3)].data == 0


def test_ids_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostdata, "HOST_DATA_LIMIT", 2)
    table = Bound()
    assert [table.alloc("a"), table.alloc("b")] == [0, 1]
    with pytest.raises(HeapError, match="no host-data id is left: all 2 are in use"):
        table.alloc("c")
    table.dealloc(0)
    assert table.alloc("c") == 0


def test_only_values_of_python_get_a_finalizer_from_python() -> None:
    table = Bound()
    host_data_id = table.alloc_as_c(7, None)
    with pytest.raises(HeapError, match="host-data id 0 is C's"):
        table.set_finalizer(host_data_id, print)
    with pytest.raises(HeapError, match="host-data id 1 is not in use"):
        table.set_finalizer(1, print)


@pytest.mark.parametrize("host_data_id", ["0", None, 0.5, (0,), False])
def test_ids_of_the_wrong_type(host_data_id: Any) -> None:
    table = Bound()
    table.alloc("value")
    assert host_data_id not in table
    with pytest.raises(HeapError, match="is not in use"):
        table.dealloc(host_data_id)
    assert len(table) == 1
