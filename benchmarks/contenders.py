"""Who takes part: for each, whether it is there, and its process.

A contender that is not there is skipped, with the reason. What it needs beyond that is got by `provide`: wasmtime's
wheels by pip (`lowheap.peers`), V8 by npm, the C programs by the system's compiler. Boehm's collector is the system's
to install.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import programs
from benchmarks.programs import Program
from lowheap import embed
from lowheap.collectors import registry
from lowheap.errors import CompilerError
from lowheap.peers import PeerError, wheels
from toolchains import build, examples, node
from toolchains.errors import ToolchainError

ROOT = Path(__file__).resolve().parent.parent
_HERE = Path(__file__).resolve().parent
_WORKERS = _HERE / "workers"

_ANSWER_TIMEOUT = 300.0


class ContenderError(Exception):
    """A contender could not be started, or failed."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One that takes part: its name, and how its process is started for a program.

    `command` is followed by the job; where there is none, in C, by the program's name and arguments. `job` is what the
    job has besides the program.
    """

    name: str
    description: str
    command: tuple[str, ...]
    job: dict[str, Any] | None
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """One that does not, and why."""

    name: str
    reason: str


def provide(say: Any) -> None:
    """Get what can be got, telling `say` what could not."""
    for name in programs.DRC_WASMTIMES:
        try:
            wheels.ensure(name.split()[1])
        except PeerError as error:
            say(f"{name}: {error}")
    try:
        node.provide()
    except ToolchainError as error:
        say(f"{programs.V8}: {error}")
    for language in examples.LANGUAGES:
        try:
            build.ensure([each for each in examples.EXAMPLES if each.language == language])
        except ToolchainError as error:
            say(f"programs in {language}: {error}")


def _checked_collector(name: str) -> str:
    """Return the name of one of lowheap's collectors. ContenderError when it has none of that name."""
    try:
        return registry.find(name).name
    except CompilerError as error:
        raise ContenderError(str(error)) from None


def c_compiler() -> str | None:
    """The system's C compiler."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


class Field:
    """All contenders that are there (`contenders`, by name), those that are not (`skipped`), and what was built.

    A context manager: at its end what was built is removed.
    """

    def __init__(self, names: tuple[str, ...] | None = None) -> None:
        """Look for the contenders of these names, by default for all."""
        self._temporary = tempfile.TemporaryDirectory(prefix="lowheap-benchmarks-")
        self.folder = Path(self._temporary.name)
        self.contenders: dict[str, Contender] = {}
        self.skipped: list[Skipped] = []
        known = (*programs.FAST, programs.PYTHON, programs.POINTER, *programs.MEMORY_MANAGERS)
        for name in known if names is None else names:
            try:
                self.contenders[name] = self._find(name)
            except ContenderError as error:
                self.skipped.append(Skipped(name, str(error)))

    def __enter__(self) -> Field:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove what was built."""
        self._temporary.cleanup()

    def _find(self, name: str) -> Contender:
        if name in programs.MEMORY_MANAGERS:
            return self._embedder(name)
        if name.startswith("lowheap"):
            return self._lowheap(name)
        if name == programs.POINTER:
            return self._pointer()
        if name in programs.WASMTIMES:
            return self._wasmtime(name)
        if name == programs.V8:
            try:
                found, version = node.find()
            except ToolchainError as error:
                raise ContenderError(str(error)) from None
            return Contender(
                name, f"V8 of node {version}", (str(found), "--expose-gc", str(_WORKERS / "run_v8.mjs")), {}
            )
        if name == programs.YARDSTICK:
            return self._yardstick()
        raise ContenderError(f"there is no contender {name!r}")

    @staticmethod
    def _lowheap(name: str) -> Contender:
        variant = name.removeprefix("lowheap").strip()
        runtime = "python" if name == programs.PYTHON else "native"
        collector = _checked_collector("drc" if name in (programs.NATIVE, programs.PYTHON) else variant)
        return Contender(
            name,
            f"runtime {runtime}, collector {collector}",
            (sys.executable, "-m", "benchmarks.workers.run_lowheap"),
            {"collector": collector, "runtime": runtime},
            (str(ROOT),),
        )

    @staticmethod
    def _pointer() -> Contender:
        return Contender(
            programs.POINTER,
            "lowheap's code, called through a function pointer of cffi's: no checks, and no traps",
            (sys.executable, "-m", "benchmarks.workers.run_lowheap"),
            {"collector": "drc", "runtime": "native", "pointer": True},
            (str(ROOT),),
        )

    @staticmethod
    def _wasmtime(name: str) -> Contender:
        command = (sys.executable, "-m", "benchmarks.workers.run_wasmtime")
        if name == programs.WASMTIME_NEWEST:
            try:
                found = metadata.version("wasmtime")
            except metadata.PackageNotFoundError:
                raise ContenderError("the package wasmtime is not installed") from None
            return Contender(name, f"wasmtime {found}, as installed", command, {"tidy": False}, (str(ROOT),))
        version = name.split()[1]
        if not wheels.is_installed(version):
            raise ContenderError(f"{wheels.folder(version)} does not have it; `make peers` installs it")
        never_collects = name == programs.WASMTIME_43
        path = (str(wheels.folder(version)), str(ROOT))
        return Contender(
            name, f"deferred reference counting, wasmtime {version}", command, {"tidy": never_collects}, path
        )

    def _yardstick(self) -> Contender:
        program, said = self._compiled("yardstick.c", "yardstick")
        return Contender(programs.YARDSTICK, f"yardstick.c, {said}", (str(program),), None)

    def _embedder(self, name: str) -> Contender:
        """embed.c with a memory manager."""
        if name in programs.LIBRARIES:
            collector = _checked_collector("drc" if name == programs.FROM_C else "rc-immix")
            library = embed.build(self.folder / f"library-{collector}", collector=collector, cpu="native")
            archive = str(library.lib / "liblowheap.a")
            options = "-DLOWHEAP", f"-I{library.include}", archive
            program, said = self._compiled("embed.c", f"embed-{collector}", *options)
            return Contender(name, f"embed.c on liblowheap.a, collector {collector}, {said}", (str(program),), None)
        if name == programs.COUNTED:
            program, said = self._compiled("embed.c", "embed-counted", "-DCOUNTED")
            return Contender(name, f"embed.c on malloc, with counts by hand, {said}", (str(program),), None)
        try:
            program, said = self._compiled("embed.c", "embed-boehm", "-DBOEHM", "-lgc")
        except ContenderError as error:
            advice = "it takes the library and headers of Boehm's collector (Debian: apt-get install libgc-dev)"
            raise ContenderError(f"{advice}: {error}") from None
        return Contender(name, f"embed.c on Boehm's collector, {said}", (str(program),), None)

    def _compiled(self, source: str, program: str, *options: str) -> tuple[Path, str]:
        """Compile one of the C programs here; return where it is, and how it was compiled."""
        compiler = c_compiler()
        if compiler is None:
            raise ContenderError("there is no C compiler")
        path = self.folder / program
        command = [compiler, "-O2", "-march=native", str(_HERE / source), *options, "-o", str(path)]
        built = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if built.returncode != 0:
            said = built.stderr.strip().replace(f"{_HERE}/", "")  # it goes into the report
            raise ContenderError(f"{Path(compiler).name} cannot compile {source}: {said}")
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=False)
        said = version.stdout.splitlines()[0] if version.stdout else compiler
        return path, f"-O2 -march=native, {said}"


class Conversation:
    """A process that answers each line of its input by a line of JSON. A context manager.

    Methods raise ContenderError when it fails.
    """

    def __init__(self, command: Sequence[str], path: Sequence[str]) -> None:
        """Start it, with what Python finds on `path`."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )
        self._unread = b""

    def ask(self, line: str) -> dict[str, Any]:
        """Write a line, and return the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure("has gone") from None
        return self.answer()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def answer(self) -> dict[str, Any]:
        """Return the next line that it writes."""
        stdout = self._process.stdout
        assert stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(_ANSWER_TIMEOUT):
                    raise self._failure(f"did not answer within {_ANSWER_TIMEOUT:g} s")
                part = os.read(stdout.fileno(), 1 << 16)
                if not part:
                    raise self._failure("ended")
                self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failure(self, what: str) -> ContenderError:
        """End the process and say what it said."""
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return ContenderError(f"{what} (status {status}): {said[-1] if said else 'it wrote no error'}")


class Process(Conversation):
    """A contender's process with a program in it."""

    def __init__(self, contender: Contender, program: Program, binary: Path) -> None:
        """Start it; `wait_until_ready` is next."""
        self.contender = contender
        if contender.job is None:
            arguments = [program.yardstick, *map(str, program.arguments)]
        else:
            steps = {"once": program.once, "before": program.before, "timed": program.timed, "times": program.times}
            arguments = [json.dumps({"binary": str(binary), **steps, **contender.job})]
        super().__init__([*contender.command, *arguments], contender.path)
        self.version = ""

    def wait_until_ready(self) -> None:
        """Wait until the program is compiled and ready; then `version` tells the contender's own version."""
        self.version = str(self.answer().get("version", ""))
        name, _, release = self.contender.name.partition(" ")
        if name == "wasmtime" and release != "newest" and self.version != release:
            raise ContenderError(f"is version {self.version!r}")

    def repeat(self) -> dict[str, Any]:
        """Ask for one repetition, and return its answer: see `workers/protocol.py`."""
        answer = self.ask("repeat")
        if self.contender.job is None:
            answer["resident"] = _resident_peak(self._process.pid)
        return answer


def _resident_peak(process: int) -> int:
    for line in Path(f"/proc/{process}/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0
