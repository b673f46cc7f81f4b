"""Each barrier of `drc` is taken away in turn, and somebody must say so: the trace, `verify`, or a trap.

The program runs on a checked heap, where freed blocks are poisoned, with a collection at every safepoint.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.wrong_barriers import MISSING, PROGRAM, run, without

import lowheap as lh
from lowheap.collectors.drc import Drc


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("runtime", ["native", "python"])
def test_the_program_is_right(runtime: str, every: int) -> None:
    run(Drc, runtime, every)


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("missing", MISSING)
def test_a_barrier_that_is_missing_is_found_out(missing: str, runtime: str) -> None:
    with pytest.raises(lh.HeapCorruptionError):
        run(without(Drc, missing), runtime, 1)


def test_what_compiled_code_frees_is_poisoned_on_a_checked_heap() -> None:
    for checked, expected in ((False, 4), (True, 0xDEAD_DEAC)):
        with lh.Store(checked=checked) as store:
            exports: Any = lh.Instance(store, lh.Module(store.engine, PROGRAM)).exports
            node = exports["make"]()
            value = store.heap.struct_layout(store.heap.header(node.reference).type_index).fields[1]
            place = node.reference + value.offset
            del node
            store.tidy()
            store.collect()
            assert int.from_bytes(store.heap.memory.read(place, 4), "little") == expected
