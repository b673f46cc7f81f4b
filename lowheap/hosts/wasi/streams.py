"""What descriptors 0 to 2 read and write: a file of the system's, or something of Python's."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lowheap.hosts.wasi.layout import Filetype


class Source(Protocol):
    """Where standard input comes from."""

    def read(self, buffers: Sequence[memoryview]) -> int:
        """Fill buffers as far as there is something, and return how many bytes that are; 0 at the end."""

    def waitable(self) -> int | None:
        """Return a descriptor of the system's that tells when there is something; None where there always is."""

    def filetype(self) -> Filetype:
        """Return what programs are told that this is."""

    def close(self) -> None:
        """Give up what was opened for it."""


class Sink(Protocol):
    """Where standard output or standard error go."""

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Write bytes, and return how many were."""

    def waitable(self) -> int | None:
        """Return a descriptor of the system's that tells when there is room; None where there always is."""

    def filetype(self) -> Filetype:
        """Return what programs are told that this is."""

    def close(self) -> None:
        """Give up what was opened for it."""


class SystemStream:
    """A file of the system's, by its descriptor, which is closed at the end if it was opened for this."""

    def __init__(self, descriptor: int, *, is_owned: bool, before: Callable[[], None] | None = None) -> None:
        """`before` is called before each use: what Python holds back goes first."""
        self._descriptor: int | None = descriptor
        self._is_owned = is_owned
        self._before = before

    def _open(self) -> int:
        descriptor = self._descriptor
        if descriptor is None:
            raise ValueError("the stream is closed")
        if self._before is not None:
            self._before()
        return descriptor

    def read(self, buffers: Sequence[memoryview]) -> int:
        """Wait until there is something, and fill buffers."""
        descriptor = self._open()
        while True:
            try:
                return os.readv(descriptor, buffers)
            except BlockingIOError:  # one that whoever started this process has made so
                _wait(descriptor, select.POLLIN)

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Write, once there is room."""
        descriptor = self._open()
        while True:
            try:
                return os.writev(descriptor, buffers)
            except BlockingIOError:
                _wait(descriptor, select.POLLOUT)

    def waitable(self) -> int | None:
        """Return the descriptor."""
        return self._descriptor

    def filetype(self) -> Filetype:
        """Say whether it is a terminal; what else it is, no program is told."""
        is_terminal = self._descriptor is not None and os.isatty(self._descriptor)
        return Filetype.CHARACTER_DEVICE if is_terminal else Filetype.UNKNOWN

    def close(self) -> None:
        """Close the descriptor, if it was opened for this."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and self._is_owned:
            os.close(descriptor)

    def __del__(self) -> None:
        """Close what nobody has closed."""
        self.close()


def _wait(descriptor: int, event: int) -> None:
    waiting = select.poll()
    waiting.register(descriptor, event)
    waiting.poll()


class _Python:
    """What streams of Python's have in common: there is always something, or room, and nothing to be closed."""

    def waitable(self) -> int | None:
        return None

    def filetype(self) -> Filetype:
        return Filetype.UNKNOWN

    def close(self) -> None:
        return None


class ObjectSource(_Python):
    """A binary file of Python's, or bytes."""

    def __init__(self, file: Any) -> None:
        """`file` has `read1`, or `read`."""
        self._read: Callable[[int], bytes | None] = getattr(file, "read1", None) or file.read

    def read(self, buffers: Sequence[memoryview]) -> int:
        """Read once, as much as the buffers take, and fill them."""
        data = self._read(sum(map(len, buffers))) or b""
        rest = memoryview(data)
        for buffer in buffers:
            part = rest[: len(buffer)]
            buffer[: len(part)] = part
            rest = rest[len(part) :]
        return len(data)


class CallableSink(_Python):
    """A function that is called with what is written, as bytes."""

    def __init__(self, function: Callable[[bytes], object]) -> None:
        """Call a function for each write."""
        self._function = function

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Call it, unless there is nothing. If it returns an int, it has taken so many bytes; else it has taken all."""
        if not buffers:
            return 0
        data = bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)
        taken = self._function(data)
        is_count = isinstance(taken, int) and not isinstance(taken, bool) and 0 <= taken <= len(data)
        return taken if is_count else len(data)  # type: ignore[return-value]  # an int, by `is_count`


class NullSink(_Python):
    """Nothing becomes of what is written."""

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Say that all was written."""
        return sum(map(len, buffers))


def source_of(given: Any) -> Source:
    """Return what reads from something of a user's. TypeError for what has no bytes."""
    if isinstance(given, bytes | bytearray | memoryview):
        return ObjectSource(io.BytesIO(given))
    is_text = isinstance(given, io.TextIOBase)
    if is_text or not (callable(getattr(given, "read1", None)) or callable(getattr(given, "read", None))):
        hint = "; that one is text, and may have a `buffer`" if is_text else ""
        raise TypeError(f"stdin is {given!r}; it must be bytes, or a binary file, which has `read`{hint}")
    return ObjectSource(given)


def sink_of(name: str, given: Any) -> Sink:
    """Return what writes to something of a user's. TypeError for what takes no bytes."""
    if isinstance(given, bytearray):
        return CallableSink(given.extend)
    is_text = isinstance(given, io.TextIOBase)
    write = getattr(given, "write", None)
    if not is_text and callable(write):
        return CallableSink(write)
    if not is_text and callable(given):
        return CallableSink(given)
    hint = "; that one is text, and may have a `buffer`" if is_text else ""
    raise TypeError(
        f"{name} is {given!r}; it must be a bytearray, a binary file, which has `write`, or a function of bytes{hint}"
    )


def inherited(number: int) -> SystemStream:
    """Return this process's own stream of a number: 0, 1 or 2."""
    if number == 0:
        return SystemStream(0, is_owned=False)

    def flush() -> None:
        stream = sys.stdout if number == 1 else sys.stderr
        if stream is not None and not stream.closed:
            stream.flush()

    return SystemStream(number, is_owned=False, before=flush)
