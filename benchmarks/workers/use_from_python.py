"""Does what people do from Python, on lowheap or on wasmtime's package, as often as it is asked. The job is JSON on the
command line: `contender`, "lowheap" or "wasmtime", and `binary`, the path of `programs/from_python.wat` as a binary.

The first answer is a line of JSON with the `version` and the names of the `rows` that there are. Each line of input is
the JSON of a row's name and how often to do it; the answer has `seconds`, the CPU time that took, and `result`, a text
by which one sees that it was done.

On a machine that others use, CPU time varies less than the time that passes.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import sys
import time
import timeit
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.workers.protocol import host_next

HOST_CALLS = 1000
"""So often compiled code calls the host each time that it is asked to."""

FLOATS = 1_000_000
"""So many elements go through buffers."""

_Rows = dict[str, tuple[str, str]]
"""By name, a statement to time, and an expression to evaluate afterwards; names in them are those of a namespace."""


def _lowheap(binary: bytes) -> tuple[_Rows, dict[str, Any]]:
    import lowheap as lh
    from lowheap.types import ANYREF, F64, I32

    store = lh.Store()
    module = lh.Module(store.engine, binary)
    exports = lh.Instance(store, module, {"host": {"next": host_next}}).exports
    cell_type = lh.StructType((lh.FieldType(I32, mutable=True), lh.FieldType(ANYREF, mutable=True)))
    numbers_type = lh.ArrayType(lh.FieldType(I32, mutable=True))
    floats_type = lh.ArrayType(lh.FieldType(F64, mutable=True))
    other = lh.Struct(store, cell_type, [7, None])
    given, received = array.array("d", range(FLOATS)), array.array("d", bytes(8 * FLOATS))
    names = {
        **{name: exports[name] for name in ("add", "same", "make", "call_host")},
        "lh": lh,
        "store": store,
        "cell_type": cell_type,
        "floats_type": floats_type,
        "other": other,
        "cell": lh.Struct(store, cell_type, [7, other]),
        "numbers": lh.Array(store, numbers_type, [7] * 10),
        "given": given,
        "received": memoryview(received),
        "floats": lh.Array.from_buffer(store, floats_type, given),
        "HOST_CALLS": HOST_CALLS,
    }
    rows = {
        "read_number": ("cell[0]", "cell[0]"),
        "write_number": ("cell[0] = 7", "cell[0]"),
        "read_reference": ("cell[1]", "cell[1] == other"),
        "write_reference": ("cell[1] = other", "cell[1] == other"),
        "make_struct": ("lh.Struct(store, cell_type, (7, other))", "lh.Struct(store, cell_type, (7, other))[0]"),
        "call_for_struct": ("make()", "make()[0]"),
        "call": ("add(3, 4)", "add(3, 4)"),
        "extern": ("same('there')", "same('there').value"),
        "host_call": ("call_host(HOST_CALLS)", "call_host(HOST_CALLS)"),
        "read_element": ("numbers[1]", "numbers[1]"),
        "write_element": ("numbers[1] = 7", "numbers[1]"),
        "floats_in": (
            "lh.Array.from_buffer(store, floats_type, given)",
            "lh.Array.from_buffer(store, floats_type, given)[-1]",
        ),
        "floats_out": ("floats.tobytes()", "floats.tobytes() == given.tobytes()"),
        "floats_view": (
            "with floats.view() as view: received[:] = view",
            "received == given",
        ),
    }
    return rows, names


def _wasmtime(binary: bytes) -> tuple[_Rows, dict[str, Any]]:
    from benchmarks.workers.run_wasmtime import new_engine

    wasmtime: Any = importlib.import_module("wasmtime")
    store = wasmtime.Store(new_engine())
    module = wasmtime.Module(store.engine, binary)
    i32 = wasmtime.ValType.i32
    host = wasmtime.Func(store, wasmtime.FuncType([i32()], [i32()]), host_next)
    exports = wasmtime.Instance(store, module, [host]).exports(store)
    functions = ("add", "same", "call_host", "number", "set_number", "element", "set_element")
    names = {"store": store, "HOST_CALLS": HOST_CALLS, **{name: exports[name] for name in functions}}
    rows = {
        "read_number": ("number(store)", "number(store)"),
        "write_number": ("set_number(store, 7)", "number(store)"),
        "call": ("add(store, 3, 4)", "add(store, 3, 4)"),
        "extern": ("same(store, 'there')", "same(store, 'there')"),
        "host_call": ("call_host(store, HOST_CALLS)", "call_host(store, HOST_CALLS)"),
        "read_element": ("element(store, 1)", "element(store, 1)"),
        "write_element": ("set_element(store, 1, 7)", "element(store, 1)"),
    }
    return rows, names


def main() -> None:
    """Do the job of the command line."""
    # Whatever else writes to the standard output must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    job = json.loads(sys.argv[1])
    rows, names = {"lowheap": _lowheap, "wasmtime": _wasmtime}[job["contender"]](Path(job["binary"]).read_bytes())
    try:
        found = version(job["contender"])
    except PackageNotFoundError:  # lowheap, run from a checkout
        found = ""
    answer({"version": found, "rows": list(rows)})
    for line in sys.stdin:
        name, times = json.loads(line)
        statement, result = rows[name]
        seconds = timeit.Timer(statement, timer=time.process_time, globals=names).timeit(times)
        answer({"seconds": seconds, "result": str(eval(result, names))})  # one from above


if __name__ == "__main__":
    main()
