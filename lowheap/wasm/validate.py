"""Text to binary, and validation: the two things that the front end leaves to the `wasmtime` package.

This is the only module that imports `wasmtime` (the optional extra `wasm`), and it does so when first asked. Nothing is
compiled that `validate` has not accepted, so the decoder and the compiler may rely on what a validator guarantees.

Validation has more proposals switched on than lowheap supports. A valid module that uses one of those reaches the
decoder, which names the instruction or the section, instead of being called invalid here.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

from lowheap.errors import MalformedModuleError, ModuleError

if TYPE_CHECKING:
    import wasmtime

_BINARY_MAGIC = b"\0asm"

# What the front end compiles.
_CLAIMED_PROPOSALS = ("multi_value", "reference_types", "function_references", "gc", "tail_call")

# What it refuses by name.
_NAMED_PROPOSALS = (
    "bulk_memory",
    "simd",
    "relaxed_simd",
    "threads",
    "multi_memory",
    "memory64",
    "exceptions",
    "wide_arithmetic",
    "custom_page_sizes",
)


def _wasmtime() -> ModuleType:
    """The `wasmtime` package, or a ModuleError that says how to install it."""
    try:
        import wasmtime
    except ImportError as error:
        raise ModuleError(
            f"validating and assembling modules needs the wasmtime package ({error}): pip install 'lowheap[wasm]'"
        ) from error
    return wasmtime


@functools.cache
def _engine() -> wasmtime.Engine:
    """The engine that validates, made once.

    It never runs code, so it must not install wasmtime's handlers for SIGSEGV and the like in this process. It is let
    go before the interpreter shuts down: after that, wasmtime's finaliser would fail.
    """
    package = _wasmtime()
    config = package.Config()
    config.signals_based_traps = False
    for proposal in _CLAIMED_PROPOSALS + _NAMED_PROPOSALS:
        setattr(config, f"wasm_{proposal}", True)
    engine: wasmtime.Engine = package.Engine(config)
    atexit.register(_engine.cache_clear)
    return engine


def to_binary(source: str | bytes | bytearray | memoryview) -> bytes:
    r"""The module's binary form: `source` itself if it begins with `b"\0asm"`, else what its wat text assembles to.

    Bytes that do not begin so are taken as UTF-8 wat. A binary is returned as it is, unchecked.

    Raises MalformedModuleError with wasmtime's message for text that is not wat, ModuleError when text is given and the
    `wasmtime` package is not installed, and TypeError for a source of any other type.
    """
    text: str | bytes
    if isinstance(source, str):
        text = source
    elif isinstance(source, (bytes, bytearray, memoryview)):
        text = bytes(source)
        if text.startswith(_BINARY_MAGIC):
            return text
    else:
        raise TypeError(
            "a module's source is wat text (str) or a binary (bytes, bytearray, memoryview), "
            f"not {type(source).__name__}"
        )
    package = _wasmtime()
    try:
        return bytes(package.wat2wasm(text))
    except (package.WasmtimeError, UnicodeEncodeError) as error:
        raise MalformedModuleError(f"not a WebAssembly text module: {error}") from error


def validator() -> str:
    """Say which validator that is, without loading it: where its package is, and since when."""
    found = importlib.util.find_spec("wasmtime")
    if found is None or found.origin is None:
        return ""
    return f"{found.origin} {os.stat(found.origin).st_mtime_ns}"


def wat2wasm(text: str | bytes) -> bytes:
    """Return the binary that a wat text assembles to; a binary as it is.

    Raises MalformedModuleError, which says where, for what is not wat.
    """
    return to_binary(text)


def validate(binary: bytes) -> None:
    """Return if `binary` is a valid module, with every proposal on that lowheap compiles or can refuse by name.

    Raises MalformedModuleError with wasmtime's message if it is not valid, ModuleError when the `wasmtime` package is
    not installed, and TypeError for anything but bytes.
    """
    if not isinstance(binary, bytes):
        raise TypeError(f"a binary module is bytes, not {type(binary).__name__}")
    package = _wasmtime()
    try:
        package.Module.validate(_engine(), binary)
    except package.WasmtimeError as error:
        raise MalformedModuleError(f"not a valid WebAssembly module: {error}") from error
