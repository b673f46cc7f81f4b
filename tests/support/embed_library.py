"""The C library as tests use it, built once a run, and how to make programs with it."""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from lowheap.embed import library
from lowheap.embed.api import DEFAULT_COLLECTORS

WARNINGS = (
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wcast-align",
    "-Werror",
)


@functools.cache
def built_library(*collectors: str) -> Path:
    """The prefix of the library for this machine: `include/lowheap.h`, `lib/liblowheap.a` and so on.

    Built by the first who asks, of all test processes of a run, and removed by the last one to end. `collectors` are
    those that it is for, if it is not the default.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"process-{os.getpid()}")
    which = "".join(f"-{re.sub(r'[^a-z0-9]+', '_', each)}" for each in collectors)
    directory = Path(tempfile.gettempdir()) / f"lowheap-library-{run}{which}"
    directory.mkdir(exist_ok=True)
    users = (directory / "users").open("a")
    fcntl.flock(users, fcntl.LOCK_SH)  # until this process ends
    atexit.register(_leave, directory, users)
    prefix = directory / "prefix"
    with (directory / "builder").open("a") as builder:
        fcntl.flock(builder, fcntl.LOCK_EX)
        if not prefix.exists():
            built = library.build(directory / "unfinished", collector=collectors or DEFAULT_COLLECTORS)
            assert built.missing is None, built.missing
            built.prefix.rename(prefix)
    return prefix


def _leave(directory: Path, users: IO[str]) -> None:
    with users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # another process uses it, and will remove it
        shutil.rmtree(directory)


def compile_program(
    source: str,
    directory: Path,
    *,
    checked: bool = True,
    options: Sequence[str] = (),
    language: str = "c",
    header: Path | None = None,
    prefix: Path | None = None,
) -> Path:
    """Compile a C (`language` "c") or C++ ("c++") program with the static library, and return where it is.

    `header` is a directory with another `lowheap.h` than the library's, `prefix` where another library is.
    """
    prefix = prefix or built_library()
    suffix, compiler, standard = {"c": (".c", "cc", "c11"), "c++": (".cpp", "c++", "c++17")}[language]
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"program{suffix}"
    file.write_text(source)
    program = directory / "program"
    command = [compiler, f"-std={standard}", *WARNINGS, "-O1", "-g", f"-I{header or prefix / 'include'}", *options]
    archive = prefix / library.library_files(checked=checked)["archive"]
    run([*command, str(file), str(archive), "-o", str(program)])
    return program


def run(command: Sequence[str | os.PathLike[str]], **environment: str) -> str:
    """Run a command that must succeed, and return what it prints."""
    ran = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, f"{command} failed with {ran.returncode}\n{ran.stdout}{ran.stderr}"
    return ran.stdout
