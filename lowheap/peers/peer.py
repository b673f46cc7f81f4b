"""`Peer`: a program in a wasmtime release, in a process of its own, driven step by step."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import secrets
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from lowheap.copying import NotCopied
from lowheap.layout import FIRST_INDEX
from lowheap.peers import driver, signatures
from lowheap.peers.errors import (
    HeapNotFoundError,
    PeerCrashedError,
    PeerError,
    PeerTimeoutError,
    PeerTrap,
    UnsupportedPeerError,
)
from lowheap.peers.image import HeapImage
from lowheap.peers.wheels import check_version, ensure

Source = str | bytes | Path
"""A module: wat text, or the bytes of a wat or wasm file, or the path of one."""

_STDERR_TAIL: Final = 4000
_CLOSING_TIME: Final = 5.0


def run_probe(
    call: Callable[..., object], collect: Callable[[], object], marks: Sequence[int], *, prefix: str = ""
) -> None:
    """Do with an instance of `PROBE_WAT` what a peer does with its own.

    `call(export, *arguments)` calls an exported function, `collect()` collects; `marks` are two u64, as `Peer.marks`
    has them; the exports' names get the prefix.
    """
    arguments = dict(zip(("plant_first", "plant_second"), marks, strict=True))
    for step in driver.PROBE_STEPS:
        if step is None:
            collect()
        elif step in arguments:
            call(prefix + step, arguments[step] - (arguments[step] >> 63 << 64))
        else:
            call(prefix + step)


class Peer(NotCopied):
    """A wasmtime of the given release with a program in it. Not for several threads at once.

    `source` is the program; `imports` maps "module.name" to the host functions it needs, `companions` a module's name
    to a wasm module that is instantiated before the program and whose exports stand for that name. A host function gets
    Python values, and returns None, one value, or a tuple of several; it may itself use this peer. What it raises comes
    out of `call`, the same object. `timeout` is in seconds, for each answer.

    UnsupportedPeerError for a release before 37 or after 45, PeerInstallError if its wheel is not there and cannot be
    got, PeerError for a module that wasmtime refuses, PeerTrap for a start function that traps, HeapNotFoundError.
    """

    NOT_COPIED_BECAUSE = "it is a process; start another one"

    def __init__(
        self,
        version: str,
        source: Source,
        *,
        imports: Mapping[str, Callable[..., Any]] | None = None,
        companions: Mapping[str, Source] | None = None,
        timeout: float = 30.0,
    ) -> None:
        """Install the wheel if need be, start the process, and load the program."""
        check_version(version)
        if not sys.platform.startswith("linux"):
            raise UnsupportedPeerError(f"a peer's memory can be read on Linux only; this is {sys.platform}")
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"timeout is {timeout!r}; it must be a positive number of seconds")
        self.version = version
        self.timeout = timeout
        self.marks: tuple[int, int] = (0, 0)
        self._functions: dict[str, signatures.Signature] = {}
        self._exports: tuple[str, ...] = ()
        self._host: list[tuple[str, Callable[..., Any], signatures.Signature]] = []
        self._depth = 0
        self._objects: list[Any] = []
        self._raised: BaseException | None = None
        self._ended: str | None = None
        self._answers = bytearray()
        self._cleanup = contextlib.ExitStack()
        try:
            self._start(ensure(version))
            self.load(source, imports=imports, companions=companions)
        except BaseException:
            self.close()
            raise

    def _start(self, wheel: Path) -> None:
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="lowheap-peer-")))
        self._errors = self._cleanup.enter_context((self._folder / "stderr").open("w+b"))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RUST_", "WASMTIME_"))
        }
        environment["PYTHONPATH"] = str(wheel)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", driver.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            cwd=self._folder,
        )
        self._cleanup.callback(self._end_process)
        found = self._request("hello")
        if found != self.version:
            raise PeerError(f"{wheel} holds wasmtime {found}, not {self.version}")

    # The program

    def load(
        self,
        source: Source,
        *,
        imports: Mapping[str, Callable[..., Any]] | None = None,
        companions: Mapping[str, Source] | None = None,
    ) -> None:
        """Put another program in place of the one that is there: a new store, a new heap, new marks.

        That is much quicker than another `Peer`. Arguments and errors are those of `Peer`; after an error other than a
        trap no program is there.
        """
        if self._depth:
            raise PeerError("a program cannot be replaced while it waits for a host function")
        imports, companions = imports or {}, companions or {}
        self._functions, self._exports, self._host, self._objects = {}, (), [], []
        binary = self._binary(source)
        found = signatures.read(binary)
        wanted = [self._resolve(import_, imports, companions) for import_ in found.imports]
        first = secrets.randbits(64)
        # Distinct, and neither zero.
        self.marks = (first or 1, (first + 1 + secrets.randbelow((1 << 64) - 2)) % (1 << 64) or 2)
        # Known from now on: a start function may call a host function, which may call exports.
        self._functions, self._exports = found.functions, found.exports
        try:
            self._request(
                "load",
                marks=self.marks,
                companions=[(name, _base64(self._binary(other))) for name, other in companions.items()],
                binary=_base64(binary),
                imports=wanted,
            )
        except PeerError:
            self._functions, self._exports = {}, ()
            raise

    def _binary(self, source: Source) -> bytes:
        """A module's binary, which wasmtime has found valid."""
        if isinstance(source, Path):
            source = source.read_bytes()
        if isinstance(source, bytes):
            if source.startswith(b"\0asm"):
                return base64.b64decode(self._request("prepare", binary=_base64(source)))
            source = source.decode("utf-8")
        return base64.b64decode(self._request("prepare", text=source))

    def _resolve(
        self,
        import_: signatures.Import,
        imports: Mapping[str, Callable[..., Any]],
        companions: Mapping[str, Source],
    ) -> dict[str, Any]:
        """Say where an import comes from, in the driver's terms."""
        name = f"{import_.module}.{import_.name}"
        if name in imports:
            if import_.signature is None:
                raise PeerError(f"import {name!r} is no function; only a companion can supply it")
            if (other := import_.signature.not_passable) is not None:
                raise PeerError(
                    f"import {name!r} takes or gives a {other}, which wasmtime {self.version} cannot pass to or from "
                    "Python; a companion can supply it"
                )
            self._host.append((name, imports[name], import_.signature))
            return {
                "host": len(self._host) - 1,
                "params": [_short(type_) for type_ in import_.signature.params],
                "results": [_short(type_) for type_ in import_.signature.results],
            }
        if import_.module in companions:
            return {"module": import_.module, "name": import_.name}
        raise PeerError(f"import {name!r} is not given; given are {sorted([*imports, *companions])}")

    @property
    def exports(self) -> tuple[str, ...]:
        """The names of the program's exports, in its order."""
        return self._exports

    # Steps

    def call(self, export: str, *arguments: object) -> tuple[Any, ...]:
        """Call an exported function; return the tuple of its results, () for none.

        Numbers are ints and floats (an i32 or i64 may be given signed or unsigned, and is returned signed; the payload
        of an f32's NaN may not arrive). An externref is any Python object, a null one None; each that is passed becomes
        a new externref in the heap. PeerTrap if it traps; what a host function raised, as it was. PeerError for a name
        that is no exported function or one with a type that the wheel cannot pass; TypeError and ValueError for
        arguments.
        """
        if export not in self._functions:
            raise PeerError(f"no exported function {export!r}; there are {sorted(self._functions)}")
        signature = self._functions[export]
        if (other := signature.not_passable) is not None:
            raise PeerError(
                f"export {export!r} takes or gives a {other}, which wasmtime {self.version} cannot pass to or from "
                "Python"
            )
        values = self._encode(f"export {export!r}", signature.params, arguments)
        results = [_short(type_) for type_ in signature.results]
        return self._decode(self._request("call", export=export, values=values, results=results))

    def collect(self) -> None:
        """Make wasmtime collect garbage now. Within a host function, the frames of the waiting wasm are traced."""
        self._request("collect")

    def image(self) -> HeapImage:
        """Copy the heap as it is now. HeapNotFoundError if it is not certain any more where that is."""
        path = self._folder / "image"
        found = self._request("image", path=str(path))
        data = path.read_bytes()
        path.unlink()
        if len(data) != found["length"]:
            raise PeerError(f"an image of {found['length']} bytes was written, but {len(data)} could be read")
        first, second = found["indices"]
        notes = [f"the probe's marks are {self.marks[0]:#018x} and {self.marks[1]:#018x}"]
        if found["head"] is None:
            notes.append("the list's head was not found")
        return HeapImage(
            data=data,
            first_index=FIRST_INDEX,
            source=f"wasmtime {self.version}",
            version=self.version,
            base_address=found["base"],
            probe=(first, second),
            list_head=found["head"],
            notes=tuple(notes),
        )

    @property
    def process_id(self) -> int:
        """The process's id."""
        return self._process.pid

    def close(self) -> None:
        """End the process and remove its files. A closed peer can be closed again."""
        self._ended = self._ended or "it was closed"
        self._cleanup.close()

    def __enter__(self) -> Peer:
        """Return itself; `close` at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    # Values

    def _encode(self, what: str, types: Sequence[str], values: Sequence[object]) -> list[tuple[str, Any]]:
        if len(values) != len(types):
            raise TypeError(f"{what} takes {len(types)} values ({', '.join(types)}), and was given {len(values)}")
        return [
            (_short(type_), self._encode_one(what, type_, value)) for type_, value in zip(types, values, strict=True)
        ]

    def _encode_one(self, what: str, type_: str, value: object) -> int | str | None:
        if type_ in ("i32", "i64"):
            if not isinstance(value, int):
                raise TypeError(f"{what}: an {type_} is an int, not {value!r}")
            bits = int(type_[1:])
            if not -(1 << bits - 1) <= value < 1 << bits:
                raise ValueError(f"{what}: {value} is not an {type_}")
            value &= (1 << bits) - 1
            return value - (value >> bits - 1 << bits)
        if type_ in ("f32", "f64"):
            if not isinstance(value, (int, float)):
                raise TypeError(f"{what}: an {type_} is a float, not {value!r}")
            return struct.pack("<d", value).hex()
        if value is None:
            return None
        self._objects.append(value)
        return len(self._objects)

    def _decode(self, values: list[tuple[str, Any]]) -> tuple[Any, ...]:
        decoded: list[Any] = []
        for type_, value in values:
            if type_ in ("f32", "f64"):
                decoded.append(struct.unpack("<d", bytes.fromhex(value))[0])
            elif type_ == "externref":
                decoded.append(None if value is None else self._objects[value - 1])
            else:
                decoded.append(value)
        return tuple(decoded)

    # The conversation

    def _request(self, do: str, **details: Any) -> Any:
        """Send a request and wait for its answer, serving host functions meanwhile."""
        self._send({"do": do, **details})
        while "host" in (answer := self._receive()):
            self._serve_host(answer["host"], answer["values"])
        if "error" not in answer:
            return answer["ok"]
        kind, message = answer["error"], answer["message"]
        if kind == "host":
            raised, self._raised = self._raised, None
            if raised is None:
                raise PeerError("a host function's exception was lost")
            raise raised
        if kind == "trap":
            raise PeerTrap(_trap_sentence(message), message)
        if kind == "heap":
            raise HeapNotFoundError(f"wasmtime {self.version}: {message}")
        raise PeerError(f"wasmtime {self.version}: {message}")

    def _serve_host(self, number: int, values: list[tuple[str, Any]]) -> None:
        name, function, signature = self._host[number]
        self._depth += 1
        try:
            returned = function(*self._decode(values))
            count = len(signature.results)
            if count > 1:
                if not isinstance(returned, tuple | list):
                    raise TypeError(f"host function {name!r}, returning {returned!r}: it must give {count} values")
                results: Sequence[object] = returned
            else:
                results = () if count == 0 and returned is None else (returned,)
            encoded = self._encode(f"host function {name!r}, returning", signature.results, results)
        except BaseException as error:
            if self._ended is not None:
                raise
            self._raised = error
            self._send({"do": "raise"})
        else:
            self._send({"do": "return", "values": encoded})
        finally:
            self._depth -= 1

    def _send(self, message: dict[str, Any]) -> None:
        if self._ended is not None:
            raise PeerError(f"this peer (wasmtime {self.version}) cannot be used: {self._ended}")
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._crashed() from None

    def _receive(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + self.timeout
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(stdout, selectors.EVENT_READ)
                while b"\n" not in self._answers:
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise self._timed_out()
                    part = os.read(stdout.fileno(), 1 << 16)
                    if not part:
                        raise self._crashed()
                    self._answers += part
        except BaseException:  # a keyboard interrupt, say: the answer would be taken for the next request's
            self._ended = self._ended or "waiting for its answer was interrupted"
            raise
        line, _, rest = self._answers.partition(b"\n")
        self._answers = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _timed_out(self) -> PeerTimeoutError:
        """End the process."""
        self._ended = f"it did not answer within {self.timeout:g} s"
        self._process.kill()
        self._process.wait()
        return PeerTimeoutError(f"wasmtime {self.version}: {self._ended}, and was ended{self._said()}")

    def _crashed(self) -> PeerCrashedError:
        """Wait for the process, whose pipe is closed, and say how it ended."""
        try:
            status = self._process.wait(_CLOSING_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        self._ended = f"its process ended ({how})"
        return PeerCrashedError(f"wasmtime {self.version}: {self._ended}{self._said()}")

    def _said(self) -> str:
        """The end of the process's standard error, as part of a message."""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _STDERR_TAIL))
        said = self._errors.read().decode("utf-8", "replace").strip()
        return f"; its standard error ends:\n{said}" if said else "; it wrote nothing to its standard error"

    def _end_process(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            # Its input has ended, and so does it; unless it is in an endless loop, say.
            self._process.wait(_CLOSING_TIME if self._depth == 0 else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _short(type_: str) -> str:
    """A passable type as wasmtime's package names it."""
    return "externref" if type_ == "(ref null extern)" else type_


def _trap_sentence(text: str) -> str:
    """wasmtime's sentence out of all that it said."""
    lines = text.strip().splitlines()
    for line in lines:
        if "wasm trap: " in line:
            return line.split("wasm trap: ", 1)[1].strip()
    # Not a trap of the instruction set's: the first cause behind the backtrace.
    after = lines[lines.index("Caused by:") + 1 :] if "Caused by:" in lines else lines
    return after[0].strip().removeprefix("0: ") if after else "without a message"
