"""Compiles one module, once, as lowheap or as wasmtime, and prints what that took. The job is on the command line.

It is JSON: `contender`, "lowheap" or "wasmtime", and lowheap's `collector`; `binary`, the path of a wasm module;
`limit`, the CPU seconds that compiling may take; `export` and `arguments`, the function to call afterwards;
`looks_at_code`. The answer is a line of JSON: `seconds`, the CPU time of compiling, that of all threads; `result`, what
the function returned, as text; `peak`, the largest resident memory in bytes; `version`; and `code`, the bytes of the
module's machine code when it is compiled whole, which lowheap tells if `looks_at_code`.

What is compiled once in a process, lowheap's runtime, is compiled before. A process that exceeds the limit is ended by
SIGXCPU.
"""

from __future__ import annotations

import importlib
import io
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


def _lowheap(collector: str) -> _Compile:
    import lowheap as lh

    engine = lh.Engine(collector=collector, cache=False)
    store = lh.Store(engine)

    def compile(binary: bytes) -> Callable[[], _Call]:
        module = lh.Module(engine, binary)

        def instantiate() -> _Call:
            exports = lh.Instance(store, module).exports
            return lambda export, arguments: exports[export](*arguments)

        return instantiate

    return compile


def _size_of_code(collector: str, binary: bytes) -> int:
    """The bytes of the sections with instructions, of a module that is compiled whole."""
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile

    import lowheap as lh

    module = lh.Module(lh.Engine(collector=collector, compilation="whole", cache=False), binary)
    sections = ELFFile(io.BytesIO(module.compiled.object)).iter_sections()
    return sum(each["sh_size"] for each in sections if each["sh_flags"] & SH_FLAGS.SHF_EXECINSTR)


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
    is_lowheap = job["contender"] == "lowheap"
    compile = _lowheap(job["collector"]) if is_lowheap else _wasmtime()
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
    code = None
    if is_lowheap and job["looks_at_code"]:
        limits = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (limits[1], limits[1]))  # this time is not measured
        code = _size_of_code(job["collector"], binary)
    json.dump({"seconds": seconds, "result": str(result), "peak": peak, "version": found, "code": code}, answers)
    answers.flush()


if __name__ == "__main__":
    main()
