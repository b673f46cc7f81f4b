"""The programs in Kotlin and MoonBit, for tests: compiled where the compilers are to be had, and run on lowheap."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

import lowheap as lh
from lowheap.hosts.wasi.config import WasiConfig
from toolchains import build, v8
from toolchains.errors import ToolchainError
from toolchains.examples import EXAMPLES, Example

SIZES = (1, 2)
"""What `bench` is called with."""


def unless_absent(error: ToolchainError, what: str) -> None:
    """Skip a test that cannot run for want of a tool, unless this is CI, which insists on all."""
    if not error.is_absence or os.environ.get("CI"):
        raise error
    pytest.skip(f"{what} cannot run: {error}")


@cache
def _built(language: str) -> dict[str, Path] | ToolchainError:
    try:
        return build.ensure([each for each in EXAMPLES if each.language == language])
    except ToolchainError as error:
        return error


def binary(example: Example) -> Path:
    """A program's binary. The test is skipped where there is no compiler for it."""
    built = _built(example.language)
    if isinstance(built, ToolchainError):
        unless_absent(built, example.title)
        raise built
    return built[example.title]


@cache
def on_v8(example: Example) -> v8.Run:
    """What a program does on V8, with `bench` called with `SIZES`. The test is skipped where there is none."""
    try:
        return v8.run(binary(example), *SIZES)
    except ToolchainError as error:
        unless_absent(error, f"V8 with {example.title}")
        raise


def instantiate(store: lh.Store, module: lh.Module) -> tuple[lh.Instance, bytearray]:
    """Return an instance on a host that has all that the programs import, and what is printed there."""
    printed = bytearray()
    config = WasiConfig()
    config.stdout = printed
    store.set_wasi(config)
    linker = lh.Linker(store.engine)
    linker.define_wasi()
    print_char = lh.FuncType([lh.ValType.i32()], [])
    linker.define_func("spectest", "print_char", print_char, lambda code: printed.extend(chr(code).encode()))
    return linker.instantiate(store, module), printed
