"""WASI's functions called one by one: on lowheap, and on the `wasmtime` package, by the same words.

A world has a module that imports all 46 functions and exports each as itself, so that a test is the program.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

import lowheap as lh
from lowheap.hosts.wasi import MODULE, linking
from lowheap.hosts.wasi.functions import FUNCTIONS

assert linking.FUNCTIONS is FUNCTIONS, "importing it has made the list whole"

PATHS_AT, OTHER_AT, DATA_AT, IOVECS_AT, RESULT_AT = 1024, 6144, 12288, 32768, 40960
"""Where a world puts things in its memory of one page."""

FOLDER = 3
"""The descriptor of the first folder that a program begins with."""

Configure = Callable[[Any], None]


def _source() -> str:
    lines = ["(module"]
    for name, each in FUNCTIONS.items():
        params = " ".join(map(str, each.type.params))
        result = "(result i32)" if each.type.results else ""
        lines.append(f'(import "{MODULE}" "{name}" (func ${name} (param {params}) {result}))')
    lines.append('(memory (export "memory") 1)')
    for name, each in FUNCTIONS.items():
        params = " ".join(map(str, each.type.params))
        result = "(result i32)" if each.type.results else ""
        passed = " ".join(f"(local.get {number})" for number in range(len(each.type.params)))
        lines.append(f'(func (export "{name}") (param {params}) {result} (call ${name} {passed}))')
    return "\n".join([*lines, ")"])


@functools.cache
def wasm() -> bytes:
    return lh.wat2wasm(_source())


@functools.cache
def _own() -> tuple[lh.Linker, lh.Module]:
    engine = lh.Engine()
    linker = lh.Linker(engine)
    linker.define_wasi()
    return linker, lh.Module(engine, wasm())


@functools.cache
def _theirs() -> tuple[wasmtime.Linker, wasmtime.Module]:
    engine = wasmtime.Engine()
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    return linker, wasmtime.Module(engine, wasm())


class World:
    """A program of WASI's that does what it is told. `call` returns the number, or "trap", or "exit N"."""

    def call(self, name: str, *args: int) -> Any:
        """Call a function; where it says, results are at `RESULT_AT`."""
        raise NotImplementedError

    def write(self, data: bytes, at: int) -> None:
        """Write to the memory."""
        raise NotImplementedError

    def read(self, at: int, length: int) -> bytes:
        """Read the memory."""
        raise NotImplementedError

    def text(self, path: str | bytes, at: int = PATHS_AT) -> tuple[int, int]:
        """Put a path into the memory, and return where it is, and how long."""
        data = path if isinstance(path, bytes) else path.encode()
        if data:
            self.write(data, at)
        return at, len(data)

    def result(self, at: int = RESULT_AT) -> int:
        """Return a number of four bytes."""
        return int.from_bytes(self.read(at, 4), "little")

    def record(self, kind: type[Any]) -> Any:
        """Return a structure that a function has written."""
        return kind.from_buffer_copy(self.read(RESULT_AT, ctypes.sizeof(kind)))

    def open(self, path: str | bytes, oflags: int = 0, rights: int = 2, *, follow: int = 1, fdflags: int = 0) -> Any:
        """Open below the first folder; return the descriptor, or, negative, why not."""
        error = self.call("path_open", FOLDER, follow, *self.text(path), oflags, rights, rights, fdflags, RESULT_AT)
        return self.result() if error == 0 else -error

    def iovecs(self, *parts: tuple[int, int]) -> tuple[int, int]:
        """Put buffers' places into the memory, and return where they are, and how many."""
        data = b"".join(number.to_bytes(4, "little") for part in parts for number in part)
        if data:
            self.write(data, IOVECS_AT)
        return IOVECS_AT, len(parts)

    def put(self, descriptor: int, data: bytes) -> Any:
        """Write to a descriptor; return how many bytes it took, or, negative, why it took none."""
        self.write(data, DATA_AT)
        error = self.call("fd_write", descriptor, *self.iovecs((DATA_AT, len(data))), RESULT_AT)
        return self.result() if error == 0 else -error

    def take(self, descriptor: int, size: int = 1000) -> Any:
        """Read from a descriptor; return bytes, or, negative, why there are none."""
        error = self.call("fd_read", descriptor, *self.iovecs((DATA_AT, size)), RESULT_AT)
        return self.read(DATA_AT, self.result()) if error == 0 else -error

    def close(self) -> None:
        """Give up all."""


class Own(World):
    """lowheap."""

    def __init__(self, configure: Configure) -> None:
        linker, module = _own()
        self.store = lh.Store(linker.engine)
        config = lh.WasiConfig()
        configure(config)
        self.store.set_wasi(config)
        self.instance = linker.instantiate(self.store, module)
        self.memory = self.instance.exports["memory"]

    def call(self, name: str, *args: int) -> Any:
        try:
            return self.instance.exports[name](*args)
        except lh.ExitTrap as error:
            return f"exit {error.code}"
        except lh.Trap:
            return "trap"

    def write(self, data: bytes, at: int) -> None:
        self.memory.write(data, at)

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.memory.read(at, at + length))

    def close(self) -> None:
        self.store.close()


class Peer(World):
    """wasmtime."""

    def __init__(self, configure: Configure) -> None:
        linker, module = _theirs()
        self.store = wasmtime.Store(linker.engine)
        config = wasmtime.WasiConfig()
        configure(config)
        self.store.set_wasi(config)
        self.exports = linker.instantiate(self.store, module).exports(self.store)
        self.memory = self.exports["memory"]

    def call(self, name: str, *args: int) -> Any:
        try:
            return self.exports[name](self.store, *args)
        except wasmtime.ExitTrap as error:
            return f"exit {error.code}"
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            return "trap"

    def write(self, data: bytes, at: int) -> None:
        self.memory.write(self.store, data, at)

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.memory.read(self.store, at, at + length))


def tree(folder: Path) -> list[tuple[str, str | None]]:
    """What is in a folder: each path with its text, `-> text` for a link, None for a folder."""
    return sorted(
        (str(path.relative_to(folder)), _shown(path)) for path in folder.rglob("*") if not _is_beyond(folder, path)
    )


def _shown(path: Path) -> str | None:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    return None if path.is_dir() else path.read_text()


def _is_beyond(folder: Path, path: Path) -> bool:
    """Whether a path goes through a link, which `rglob` of early Pythons follows."""
    return any(parent.is_symlink() for parent in path.parents if parent != folder and folder in parent.parents)
