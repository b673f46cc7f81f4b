"""The side table: ids, and when values are let go of."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lowheap.errors import HeapError
from lowheap.heap import HostData
from lowheap.hostdata import ExternRefHostDataTable


class Value:
    """Something that a weak reference can watch."""


class TableMachine(RuleBasedStateMachine):
    """The table against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ExternRefHostDataTable()
        self.model: dict[int, Any] = {}
        self.most = 0

    @rule(value=st.none() | st.integers() | st.text())
    def alloc(self, value: Any) -> None:
        host_data_id = self.table.alloc(value)
        assert host_data_id not in self.model
        self.model[host_data_id] = value
        self.most = max(self.most, len(self.model))
        assert 0 <= host_data_id < self.most, "a free id is used before a new one"

    @rule(data=st.data())
    def dealloc(self, data: st.DataObject) -> None:
        if self.model:
            host_data_id = data.draw(st.sampled_from(sorted(self.model)))
            self.table.dealloc(host_data_id)
            del self.model[host_data_id]

    @rule(host_data_id=st.integers(-2, 40))
    def get(self, host_data_id: int) -> None:
        assert (host_data_id in self.table) == (host_data_id in self.model)
        if host_data_id in self.model:
            assert self.table.get(host_data_id) == self.model[host_data_id]
            return
        for operation in (self.table.get, self.table.dealloc):
            with pytest.raises(HeapError, match=f"host-data id {host_data_id} is not in use"):
                operation(host_data_id)

    @rule()
    def release(self) -> None:
        self.table.release()

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model.clear()
        self.most = 0

    @invariant()
    def length(self) -> None:
        assert len(self.table) == len(self.model)


TestTableMachine = TableMachine.TestCase
TestTableMachine.settings = settings(max_examples=50, deadline=None)


def test_the_heap_knows_it_as_a_side_table() -> None:
    assert isinstance(ExternRefHostDataTable(), HostData)


def test_values_are_kept_until_release() -> None:
    table, value = ExternRefHostDataTable(), Value()
    watched = weakref.ref(value)
    host_data_id = table.alloc(value)
    del value
    assert watched() is table.get(host_data_id)
    table.dealloc(host_data_id)
    assert watched() is not None, "dealloc only sets it aside"
    table.release()
    assert watched() is None


def test_clear_lets_go_of_everything() -> None:
    table = ExternRefHostDataTable()
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
    table = ExternRefHostDataTable()
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


@pytest.mark.parametrize("host_data_id", ["0", None, 0.5, (0,)])
def test_ids_of_the_wrong_type(host_data_id: Any) -> None:
    table = ExternRefHostDataTable()
    table.alloc("value")
    assert host_data_id not in table
    with pytest.raises(HeapError, match="is not in use"):
        table.dealloc(host_data_id)
    assert len(table) == 1
