"""What runs in a peer's process: one wasmtime wheel, told what to do by lines of JSON.

Run as a script, with the wheel's folder as PYTHONPATH: `python -P driver.py`. It imports the standard library and that
wheel only. As a module (lowheap imports it for the probe, tests for the search) it does nothing.

Requests are objects with `do` and what that needs; each gets one answer, `{"ok": ...}` or `{"error": kind, "message":
...}`. While an exported function runs, a host function's call is sent as `{"host": number, "values": [...]}` in place
of the answer; requests are then served until one of them is `return` or `raise`, which ends the host function's call.
Values are pairs of type and value, floats as hexadecimal digits of their bits (as an f64), externrefs as numbers that
the other side knows, or null.

The package's docstring says how the heap and the list's head are found.
"""

from __future__ import annotations

import base64
import bisect
import importlib
import importlib.metadata
import json
import mmap
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NoReturn

PROBE_WAT = """\
(module
  (type $mark (struct (field $value i64) (field $other (ref null $mark))))
  (global $first (mut (ref null $mark)) (ref.null $mark))
  (global $second (mut (ref null $mark)) (ref.null $mark))
  (func (export "plant_first") (param $value i64)
    (global.set $first (struct.new $mark (local.get $value) (ref.null $mark))))
  (func (export "plant_second") (param $value i64)
    (global.set $second (struct.new $mark (local.get $value) (global.get $first))))
  (func (export "read_first") (drop (global.get $first)))
  (func (export "read_second") (drop (global.get $second))))
"""
"""The probe: two marked structs, each held by a global, the second of which refers to the first."""

PROBE_STEPS: tuple[str | None, ...] = (
    "plant_first",
    "plant_second",
    None,
    "read_first",
    None,
    "read_second",
    None,
)
"""What is done with the probe: exports to call, the two that plant with their mark as a signed i64; None: collect."""

# Of `lowheap.layout`, which cannot be imported here; the tests compare them.
BLOCK_ALIGN = 16
FIRST_INDEX = 16
STRUCT_KIND_WORD = 0b101100 << 26
HEADER = struct.Struct("<IIQII")  # kind and bits, type index, count, next, size
MARK = struct.Struct("<IIQIIQI4x")  # the header, the mark, the reference, padding

# What the globals and the second object hold of the two objects.
_COUNTS = (2, 1)


class HeapNotFound(Exception):
    """It is not certain where the heap is."""


class HostRaised(Exception):
    """A host function on the other side raised; the trap that this becomes is of no interest."""


class Disconnected(Exception):
    """The other side has gone."""


# --- Finding the heap -------------------------------------------------------------------------------------------------


def private_mappings(maps: str) -> list[tuple[int, int, str]]:
    """Start, end and name of the private, anonymous, read-write mappings in the text of /proc/self/maps.

    Neighbours of one name are one mapping: the kernel splits them where their flags differ.
    """
    found: list[tuple[int, int, str]] = []
    for line in maps.splitlines():
        span, permissions, _offset, _device, inode, *name = line.split(maxsplit=5)
        if permissions != "rw-p" or inode != "0":
            continue
        start, end = (int(address, 16) for address in span.split("-"))
        named = name[0].strip() if name else ""
        if found and found[-1][1:] == (start, named):
            start = found.pop()[0]
        found.append((start, end, named))
    return found


def occurrences(data: bytes | memoryview, pattern: bytes) -> Iterator[int]:
    """The offsets at which a pattern occurs, other than within another occurrence."""
    # Several times as fast as bytes.find, where most bytes are zero.
    return (found.start() for found in re.finditer(re.escape(pattern), data))


def marks_problem(heap: bytes | memoryview, indices: Sequence[int], marks: Sequence[int]) -> str | None:
    """What is not as it must be about the two marked objects at these indices of a heap's bytes; None if all is.

    Neither object may be on the list.
    """
    types = []
    for number, index in enumerate(indices):
        data = heap[index : index + MARK.size]
        if len(data) != MARK.size:
            return f"object {number} at {index:#x} is not within the mapping"
        word, type_index, count, _next, size, mark, other = MARK.unpack(data)
        expected_other = 0 if number == 0 else indices[0]
        for what, found, expected in (
            ("mark", mark, marks[number]),
            ("kind word", word, STRUCT_KIND_WORD),
            ("count", count, _COUNTS[number]),
            ("size", size, MARK.size),
            ("reference", other, expected_other),
            ("alignment", index % BLOCK_ALIGN, 0),
        ):
            if found != expected:
                return f"the {what} of object {number} at {index:#x} is {found:#x}, not {expected:#x}"
        types.append(type_index)
    return None if types[0] == types[1] else f"the two objects' type indices differ: {types[0]} and {types[1]}"


def find_heap(mappings: Iterable[tuple[int, bytes | memoryview]], marks: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """Return the heap's address and the two objects' indices, given mappings as (address, bytes).

    Each mapping's bytes need to be valid only until the next one is asked for.
    HeapNotFound unless exactly one place is a heap with the two objects.
    """
    found = []
    problems = []
    for start, data in mappings:
        first, second = (
            [
                at - HEADER.size
                for at in occurrences(data, mark.to_bytes(8, "little"))
                if at >= FIRST_INDEX + HEADER.size and (at - HEADER.size) % BLOCK_ALIGN == 0
            ]
            for mark in marks
        )
        for indices in ((i, j) for i in first for j in second):
            problem = marks_problem(data, indices, marks)
            if problem is None:
                found.append((start, indices))
            else:
                problems.append(f"at {start:#x} {problem}")
    if len(found) != 1:
        places = f"{len(found)} places look like it" if found else "no mapping has both marks behind sound headers"
        raise HeapNotFound("; ".join([f"the GC heap cannot be told: {places}", *problems[:4]]))
    return found[0]


# --- The process ------------------------------------------------------------------------------------------------------


class ProcessMemory:
    """This process's own memory, read through the kernel, so that an address that is gone is an error and no crash.

    What is read goes to one buffer, in a shared mapping, which the searches do not look at: in private memory, copies
    of what is looked for would be found too, and copies of the list's head behave as the head does.
    """

    def __init__(self) -> None:
        """Open it."""
        self._file = os.open("/proc/self/mem", os.O_RDONLY)
        self._buffer = memoryview(mmap.mmap(-1, 1 << 24))

    def read(self, address: int, size: int) -> memoryview:
        """Bytes at an address, fewer than asked for if not all of them are mapped; valid until the next read."""
        if size > len(self._buffer):
            self._buffer = memoryview(mmap.mmap(-1, size))
        done = 0
        while done < size:
            try:
                count = os.preadv(self._file, [self._buffer[done:size]], address + done)
            except OSError:  # EIO: nothing is mapped there
                break
            if not count:
                break
            done += count
        return self._buffer[:done]

    @staticmethod
    def mappings() -> list[tuple[int, int, str]]:
        """The private mappings, now."""
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            return private_mappings(maps.read())

    def words(self, value: int, among: Sequence[int] | None = None) -> list[int]:
        """The addresses, in order, of the aligned u32 words that hold a value, other than on a stack.

        `among`, in order too, are those to look at; without it all are.
        """
        found: list[int] = []
        for start, end, name in self.mappings():
            if name.startswith("[stack"):
                continue
            if among is None:
                data = self.read(start, end - start)
                found += [start + at for at in occurrences(data, value.to_bytes(4, "little")) if at % 4 == 0]
            elif here := among[bisect.bisect_left(among, start) : bisect.bisect_left(among, end)]:
                first = here[0]
                data = self.read(first, here[-1] + 4 - first)
                words = data[: len(data) & ~3].cast("I")
                here = here[: bisect.bisect_left(here, first + 4 * len(words))]  # should some be gone
                found += [address for address in here if words[(address - first) // 4] == value]
        return found

    def word(self, address: int) -> int | None:
        """The u32 at an address, None if nothing is mapped there."""
        data = self.read(address, 4)
        return int.from_bytes(data, "little") if len(data) == 4 else None


def new_engine(wasmtime: Any) -> Any:
    """An engine with the GC proposal, and with exceptions where the wheel can switch them on (43 can, 37 cannot)."""
    config = wasmtime.Config()
    ffi = importlib.import_module("wasmtime._ffi")
    ffi.wasmtime_config_wasm_function_references_set(config.ptr(), True)
    ffi.wasmtime_config_wasm_gc_set(config.ptr(), True)
    ffi.wasmtime_config_parallel_compilation_set(config.ptr(), False)  # no pool of threads for small modules
    if hasattr(ffi, "wasmtime_config_wasm_exceptions_set"):
        ffi.wasmtime_config_wasm_exceptions_set(config.ptr(), True)
    return wasmtime.Engine(config)


class Program:
    """A store with the probe in it, which has run; then the companions and a program."""

    def __init__(
        self, wasmtime: Any, memory: ProcessMemory, host: Callable[[int, list[Any]], Any], marks: Sequence[int]
    ) -> None:
        """Make the store and run the probe."""
        self._wasmtime = wasmtime
        self._memory = memory
        self._host = host
        self._engine = new_engine(wasmtime)  # not the last program's, so that type indices start anew
        self._store = wasmtime.Store(self._engine)
        self._contexts: list[Any] = [self._store]
        self._exports: Any = {}
        self._head: int | None = None
        self._marks = marks
        self._base, self._indices = self._probe(marks)

    def load(self, binary: str, companions: list[tuple[str, str]], imports: list[dict[str, Any]]) -> None:
        """Instantiate the companions and the program, whose start function may call host functions."""
        others = {name: self._instantiate(self._module(companion), []) for name, companion in companions}
        externs = []
        for wanted in imports:
            if "host" in wanted:
                externs.append(self._host_function(**wanted))
            else:
                externs.append(others[wanted["module"]][wanted["name"]])
        self._exports = self._instantiate(self._module(binary), externs)

    def _module(self, binary: str) -> Any:
        return self._wasmtime.Module(self._engine, base64.b64decode(binary))

    def _instantiate(self, module: Any, externs: list[Any]) -> Any:
        return self._wasmtime.Instance(self._store, module, externs).exports(self._store)

    # The probe

    def _probe(self, marks: Sequence[int]) -> tuple[int, tuple[int, int]]:
        """Run the probe's steps; return where the heap is and the two objects' indices; find the list's head."""
        exports = self._instantiate(self._wasmtime.Module(self._engine, PROBE_WAT), [])
        arguments = {
            name: [mark - (mark >> 63 << 64)] for name, mark in zip(("plant_first", "plant_second"), marks, strict=True)
        }

        def run(steps: Sequence[str | None]) -> None:
            for step in steps:
                if step is None:
                    self.collect()
                else:
                    exports[step](self._store, *arguments.get(step, ()))

        planting, reading = PROBE_STEPS[:3], PROBE_STEPS[3:]
        run(planting)
        base, indices = find_heap(
            (
                (start, self._memory.read(start, end - start))
                for start, end, name in self._memory.mappings()
                if not name.startswith(("[heap", "[stack"))
            ),
            marks,
        )
        candidates: list[int] | None = None
        for step, expected in zip(reading, (indices[0], 0, indices[1], 0), strict=True):
            run([step])
            candidates = self._memory.words(expected, candidates)
        if candidates is not None and len(candidates) == 1:
            self._head = candidates[0]
        return base, indices

    # Requests

    def call(self, export: str, values: list[tuple[str, Any]], results: list[str]) -> list[Any]:
        """Call an exported function."""
        returned = self._exports[export](self._contexts[-1], *map(self._value, values))
        if len(results) == 1:
            returned = [returned]
        return [_encoded(type_, value) for type_, value in zip(results, returned or (), strict=True)]

    def collect(self) -> None:
        """Collect garbage, with whatever wasm frames are on the stack."""
        ffi = importlib.import_module("wasmtime._ffi")
        error = ffi.wasmtime_context_gc(self._contexts[-1]._context())
        if error:
            raise self._wasmtime.WasmtimeError._from_ptr(error)

    def image(self, path: str) -> dict[str, Any]:
        """Write the heap's bytes to a file, after checking that it is still the heap."""
        end = next((end for start, end, _name in self._memory.mappings() if start == self._base), None)
        if end is None:
            raise HeapNotFound(f"no mapping starts at {self._base:#x} any more, where the GC heap was")
        data = self._memory.read(self._base, end - self._base)
        if len(data) != end - self._base:
            raise HeapNotFound(f"of the GC heap's {end - self._base:#x} bytes only {len(data):#x} can be read")
        problem = marks_problem(data, self._indices, self._marks)
        if problem is not None:
            raise HeapNotFound(f"what is at {self._base:#x} is not the GC heap any more: {problem}")
        with open(path, "wb") as file:
            file.write(data)
        head = None if self._head is None else self._memory.word(self._head)
        return {"base": self._base, "length": len(data), "head": head, "indices": self._indices}

    def close(self) -> None:
        """Drop the store, so that its memory is free for the next one's."""
        self._exports = {}
        self._contexts.clear()
        self._store.close()

    # Values and host functions

    def _value(self, value: tuple[str, Any]) -> Any:
        type_, encoded = value
        if type_ in ("f32", "f64"):
            encoded = struct.unpack("<d", bytes.fromhex(encoded))[0]
        return getattr(self._wasmtime.Val, type_)(encoded)

    def _host_function(self, host: int, params: list[str], results: list[str]) -> Any:
        def types(names: list[str]) -> list[Any]:
            return [getattr(self._wasmtime.ValType, name)() for name in names]

        def call(caller: Any, *arguments: Any) -> Any:
            self._contexts.append(caller)
            try:
                values = [_encoded(type_, value) for type_, value in zip(params, arguments, strict=True)]
                returned = [self._value(value) for value in self._host(host, values)]
            finally:
                self._contexts.pop()
            return None if not results else returned[0] if len(results) == 1 else returned

        function_type = self._wasmtime.FuncType(types(params), types(results))
        return self._wasmtime.Func(self._store, function_type, call, access_caller=True)


def _encoded(type_: str, value: Any) -> tuple[str, Any]:
    if type_ in ("f32", "f64"):
        return type_, struct.pack("<d", value).hex()
    return type_, value


class Driver:
    """The conversation with the other side."""

    def __init__(self, wasmtime: Any, requests: BinaryIO, answers: BinaryIO) -> None:
        """Take the two ends of the conversation."""
        self._wasmtime = wasmtime
        self._engine = new_engine(wasmtime)
        self._requests = requests
        self._answers = answers
        self._memory = ProcessMemory()
        self._program: Program | None = None

    def _send(self, message: dict[str, Any]) -> None:
        self._answers.write(json.dumps(message).encode() + b"\n")
        self._answers.flush()

    def _host(self, number: int, values: list[Any]) -> Any:
        self._send({"host": number, "values": values})
        return self.serve()

    def serve(self) -> Any:
        """Serve requests until one ends the host function's call that this is within. Disconnected at the end."""
        while line := self._requests.readline():
            request = json.loads(line)
            if request["do"] == "return":
                return request["values"]
            if request["do"] == "raise":
                raise HostRaised
            self._send(self._answer(request))
        raise Disconnected

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": self._handle(**request)}
        except HostRaised:
            return {"error": "host", "message": ""}
        except HeapNotFound as error:
            return {"error": "heap", "message": str(error)}
        except self._wasmtime.Trap as error:
            return {"error": "trap", "message": str(error)}
        except self._wasmtime.WasmtimeError as error:
            # Not every trap is a `Trap`: an exhausted heap, say, is not. The backtrace tells.
            kind = "trap" if "wasm trap: " in str(error) or "wasm backtrace:" in str(error) else "wasmtime"
            return {"error": kind, "message": str(error)}

    def _handle(self, do: str, **details: Any) -> Any:
        if do == "hello":
            return importlib.metadata.version("wasmtime")
        if do == "prepare":
            text, binary = details.get("text"), base64.b64decode(details.get("binary", ""))
            if text is not None:
                binary = self._wasmtime.wat2wasm(text)
            self._wasmtime.Module.validate(self._engine, binary)
            return base64.b64encode(binary).decode()
        if do == "load":
            if self._program is not None:
                self._program.close()
                self._program = None
            self._program = Program(self._wasmtime, self._memory, self._host, details.pop("marks"))
            self._program.load(**details)
            return None
        if self._program is None:
            raise self._wasmtime.WasmtimeError("no program is loaded")
        return getattr(self._program, do)(**details)


def main() -> NoReturn:
    """Serve until the input ends."""
    # Whatever else writes to the standard output must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        Driver(importlib.import_module("wasmtime"), sys.stdin.buffer, answers).serve()
    except Disconnected:
        # Not sys.exit: the other side has gone, and a wasm frame may be on the stack.
        os._exit(0)
    raise RuntimeError("a host function's answer came outside of a call")


if __name__ == "__main__":
    main()
