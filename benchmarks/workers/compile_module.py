"""Compiles one module, once, as lowheap or as wasmtime, and prints what that took. The job is on the command line.

It is JSON: `contender`, "lowheap" or "wasmtime"; `binary`, the path of a wasm module; `limit`, the CPU seconds that
compiling may take; `export` and `arguments`, the function to call afterwards. The answer is a line of JSON: `seconds`,
the CPU time of compiling, that of all threads; `result`, what the function returned, as text; `peak`, the largest
resident memory in bytes; and `version`.

What is compiled once in a process, lowheap's runtime, is compiled before. A process that exceeds the limit is ended by
SIGXCPU.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_NOTHING = bytes.fromhex("0061736d01000000 010401600000 03020100 0a040102000b")
"""A module with one function, which is empty."""

_Call = Callable[[str, Sequence[int]], object]
_Compile = Callable[[bytes], Callable[[], _Call]]
"""Compiles a module, and returns what instantiates it, which returns what calls an export."""


def _lowheap() -> _Compile:
    import lowheap as lh

    engine = lh.Engine(cache=False)
    store = lh.Store(engine)

    def compile(binary: bytes) -> Callable[[], _Call]:
        module = lh.Module(engine, binary)

        def instantiate() -> _Call:
            exports = lh.Instance(store, module).exports
            return lambda export, arguments: exports[export](*arguments)

        return instantiate

    return compile


def _wasmtime() -> _Compile:
    from benchmarks.workers.run_wasmtime import new_engine

    wasmtime: Any = importlib.import_module("wasmtime")
    engine = new_engine()
    store = wasmtime.Store(engine)

    def compile(binary: bytes) -> Callable[[], _Call]:
        module = wasmtime.Module(engine, binary)

        def instantiate() -> _Call:
            exports = wasmtime.Instance(store, module, []).exports(store)
            return lambda export, arguments: exports[export](store, *arguments)

        return instantiate

    return compile


def _limit(seconds: float) -> None:
    """Let the process have that much CPU time from now on, to the next second, and leave no core file behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def main() -> None:
    """Do the job of the command line."""
    # Whatever else writes to the standard output must not come before the answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.argv[1])
    compile = {"lowheap": _lowheap, "wasmtime": _wasmtime}[job["contender"]]()
    compile(_NOTHING)()
    binary = Path(job["binary"]).read_bytes()
    _limit(job["limit"])
    started = time.process_time()
    instantiate = compile(binary)
    seconds = time.process_time() - started
    result = instantiate()(job["export"], job["arguments"])
    try:
        found = version(job["contender"])
    except PackageNotFoundError:  # lowheap, run from a checkout
        found = ""
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    json.dump({"seconds": seconds, "result": str(result), "peak": peak, "version": found}, answers)
    answers.flush()


if __name__ == "__main__":
    main()
