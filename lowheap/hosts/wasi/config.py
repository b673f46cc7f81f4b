"""What a program gets of the world, as a user says it: `WasiConfig`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lowheap.errors import LowheapError
from lowheap.hosts.wasi import streams
from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.descriptors import Directory, Input, Output, Table
from lowheap.hosts.wasi.streams import Sink, Source

Text = str | bytes
Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class WasiConfig:
    """What a program of WASI's gets: arguments, environment, standard streams, folders. At first, nothing.

    By wasmtime's names: `argv`, `env`, `stdin_file`, `stdout_file`, `stderr_file`, `stdout_custom`, `stderr_custom`,
    `preopen_dir`, and `inherit_…`, which takes this process's own. And, of Python's: `stdin` is bytes or a binary file,
    `stdout` and `stderr` a bytearray, which grows, a binary file, or a function of bytes. What is assigned last holds.

    `Store.set_wasi` takes what it says at that time, and opens what it names: files are made or emptied then. So one
    config may be given to several stores.
    """

    def __init__(self) -> None:
        """Begin with no arguments, no variables and no folders, an empty input, and outputs that lead nowhere."""
        self._argv: list[bytes] = []
        self._env: list[tuple[bytes, bytes]] = []
        self._stdin: Callable[[], Source] = _no_input
        self._outputs: dict[str, Callable[[], Sink]] = {"stdout": streams.NullSink, "stderr": streams.NullSink}
        self._folders: list[tuple[Path, bytes, bool]] = []

    def __repr__(self) -> str:
        """Show arguments and folders."""
        folders = ", ".join(
            f"{os.fsdecode(host)}::{guest.decode(errors='replace')}" for host, guest, _ in self._folders
        )
        return f"<WasiConfig: argv {self.argv!r}, folders {folders or 'none'}>"

    # ------------------------------------------------------------------------------------------------------------------
    # Arguments and environment

    @property
    def argv(self) -> list[str]:
        """The arguments; the first is what the program is called."""
        return [each.decode(errors="surrogateescape") for each in self._argv]

    @argv.setter
    def argv(self, argv: Iterable[Text]) -> None:
        if isinstance(argv, str | bytes):
            raise TypeError(f"argv is {argv!r}; it must be a list of strings")
        self._argv = [_text("an argument", each) for each in argv]

    def inherit_argv(self) -> None:
        """Have the arguments be this process's own, `sys.argv`."""
        self.argv = sys.argv

    @property
    def env(self) -> dict[str, str]:
        """The variables of the environment."""
        return {
            name.decode(errors="surrogateescape"): value.decode(errors="surrogateescape") for name, value in self._env
        }

    @env.setter
    def env(self, pairs: Mapping[Any, Text] | Iterable[tuple[Text, Text]]) -> None:
        items: Iterable[tuple[Text, Text]] = pairs.items() if isinstance(pairs, Mapping) else pairs
        self._env = [_variable(name, value) for name, value in items]

    def inherit_env(self) -> None:
        """Have the environment be this process's own."""
        self.env = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}

    # ------------------------------------------------------------------------------------------------------------------
    # Standard streams

    def _set_stdin(self, given: Any) -> None:
        streams.source_of(given)  # a TypeError now, not later
        self._stdin = lambda: streams.source_of(given)

    def _set_stdin_file(self, path: Path) -> None:
        _check_path("stdin_file", path)
        self._stdin = lambda: _opened("stdin_file", path, os.O_RDONLY)

    stdin = property(None, _set_stdin, doc="Bytes, or a binary file of Python's, that standard input reads.")
    stdin_file = property(None, _set_stdin_file, doc="The path of a file that standard input reads.")

    def inherit_stdin(self) -> None:
        """Have standard input be this process's own."""
        self._stdin = lambda: streams.inherited(0)

    def _set_output(self, name: str, given: Any) -> None:
        sink = streams.sink_of(name, given)
        self._outputs[name] = lambda: sink

    def _set_output_file(self, name: str, path: Path) -> None:
        _check_path(f"{name}_file", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._outputs[name] = lambda: _opened(f"{name}_file", path, flags)

    def _set_stdout(self, given: Any) -> None:
        self._set_output("stdout", given)

    def _set_stderr(self, given: Any) -> None:
        self._set_output("stderr", given)

    def _set_stdout_file(self, path: Path) -> None:
        self._set_output_file("stdout", path)

    def _set_stderr_file(self, path: Path) -> None:
        self._set_output_file("stderr", path)

    _TAKES = "a bytearray, a binary file of Python's or a function of bytes, which gets what is written to it."
    stdout = property(None, _set_stdout, doc=f"Standard output: {_TAKES}")
    stderr = property(None, _set_stderr, doc=f"Standard error: {_TAKES}")
    stdout_custom = property(None, _set_stdout, doc="The same as `stdout`, by wasmtime's name.")
    stderr_custom = property(None, _set_stderr, doc="The same as `stderr`, by wasmtime's name.")
    stdout_file = property(None, _set_stdout_file, doc="The path of a file that gets standard output alone.")
    stderr_file = property(None, _set_stderr_file, doc="The path of a file that gets standard error alone.")

    def inherit_stdout(self) -> None:
        """Have standard output be this process's own."""
        self._outputs["stdout"] = lambda: streams.inherited(1)

    def inherit_stderr(self) -> None:
        """Have standard error be this process's own."""
        self._outputs["stderr"] = lambda: streams.inherited(2)

    # ------------------------------------------------------------------------------------------------------------------
    # Folders

    def preopen_dir(self, path: Path, guest_path: Text, fs_mutable: bool = True) -> None:
        """Give the program a folder of the host's, which it knows by another path.

        Without `fs_mutable`, it changes nothing in there: EPERM.
        """
        _check_path("path", path)
        if not isinstance(fs_mutable, bool):
            raise TypeError(f"fs_mutable is {fs_mutable!r}; it must be a bool")
        self._folders.append((path, _text("guest_path", guest_path), fs_mutable))

    # ------------------------------------------------------------------------------------------------------------------

    def make_context(self) -> Context:
        """Open what this names. LowheapError, naming it, for what cannot be opened; then nothing is left open."""
        table = Table()
        try:
            table.add(Input(self._stdin()))
            for make in self._outputs.values():
                table.add(Output(make()))
            for path, guest_path, is_mutable in self._folders:
                number = _system_open("preopen_dir", path, os.O_RDONLY | os.O_DIRECTORY)
                table.add(Directory(number, is_mutable=is_mutable, preopened_as=guest_path))
        except BaseException:
            table.close()
            raise
        environment = [b"=".join(pair) for pair in self._env]
        return Context(list(self._argv), environment, table)


def _no_input() -> Source:
    return streams.source_of(b"")


def _text(what: str, given: Any) -> bytes:
    """Return text as bytes. TypeError for what is none, ValueError for what holds a NUL."""
    if not isinstance(given, str | bytes):
        raise TypeError(f"{what} is {given!r}; it must be a str, or bytes")
    text = os.fsencode(given)
    if 0 in text:
        raise ValueError(f"{what} is {given!r}; it must not hold a NUL")
    return text


def _variable(name: Any, value: Any) -> tuple[bytes, bytes]:
    text = _text("the name of a variable", name)
    if not text or b"=" in text:
        raise ValueError(f"the name of a variable is {name!r}; it must have characters, and none of them =")
    return text, _text(f"the value of {name!r}", value)


def _check_path(what: str, path: Any) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"{what} is {path!r}; it must be a path")
    if "\0" in os.fsdecode(path):
        raise ValueError(f"{what} is {path!r}; it must not hold a NUL")


def _system_open(what: str, path: Path, flags: int) -> int:
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise LowheapError(f"{what}: cannot open {os.fsdecode(path)!r}: {error.strerror or error}") from error


def _opened(what: str, path: Path, flags: int) -> streams.SystemStream:
    return streams.SystemStream(_system_open(what, path, flags), is_owned=True)
