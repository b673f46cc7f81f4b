"""Structures by ctypes, member by member, and what the C compiler says of them."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowheap.declarations import c_declarations

Structure = type[ctypes.Structure]


def run_c(source: str, directory: Path) -> list[str]:
    """Compile one C11 program, without a warning, and return the lines that it prints."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    text, program = directory / "program.c", directory / "program"
    includes = "#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n"
    text.write_text(f"{includes}{c_declarations()}\n{source}")
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", str(text), "-o", str(program)]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    return subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.splitlines()


def print_numbers(expressions: list[str]) -> str:
    """A `main` that prints the value of each C expression on a line of its own."""
    lines = "\n".join(f'    printf("%llu\\n", (unsigned long long)({expression}));' for expression in expressions)
    return f"int main(void) {{\n{lines}\n    return 0;\n}}\n"


def fields_of(data: Structure) -> list[tuple[str, Any]]:
    """Names and ctypes types of a structure's own fields, in order."""
    return [(name, kind) for name, kind, *_ in data._fields_]


def members(data: Structure, path: tuple[str, ...] = (), start: int = 0) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Every member of a structure and of its parts: the path of names to it, its offset and its size, by ctypes."""
    for name, kind in fields_of(data):
        field: Any = getattr(data, name)
        yield (*path, name), start + field.offset, field.size
        if isinstance(kind, type) and issubclass(kind, ctypes.Structure):
            yield from members(kind, (*path, name), start + field.offset)


def promoted(data: Structure) -> Iterator[str]:
    """The names that `data` has from its anonymous parts."""
    for part in getattr(data, "_anonymous_", ()):
        kind = dict(fields_of(data))[part]
        yield from (name for name, _ in fields_of(kind) if name not in getattr(kind, "_anonymous_", ()))
        yield from promoted(kind)
