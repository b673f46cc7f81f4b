"""Text to binary, and validation: the two things that the front end leaves to the `wasmtime` package.

This is the only module that imports `wasmtime` (the optional extra `wasm`), and it does so when first asked. Nothing is
compiled that `validate` has not accepted, so the decoder and the compiler may rely on what a validator guarantees.

Validation has on what lowheap compiles, but for what an engine's options switch off. wasmtime validates no legacy
exceptions: modules that have some are shown to the program `wasm-tools`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING

from lowheap.config import PROPOSALS
from lowheap.errors import MalformedModuleError, ModuleError
from lowheap.wasm.wasm_tools import WasmToolsError, run_wasm_tools, wasm_tools

if TYPE_CHECKING:
    import wasmtime

_BINARY_MAGIC = b"\0asm"
_COMPONENT_LAYER = b"\1\0"
"""What a component of the component model has where a module has zeros, behind a version of two bytes."""


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
def _engine(off: frozenset[str]) -> wasmtime.Engine:
    """The engine that validates with all proposals on but some, made once.

    It never runs code, so it must not install wasmtime's handlers for SIGSEGV and the like in this process. It is let
    go before the interpreter shuts down: after that, wasmtime's finaliser would fail.
    """
    package = _wasmtime()
    config = package.Config()
    config.signals_based_traps = False
    config.wasm_reference_types = True
    for proposal in PROPOSALS:
        setattr(config, f"wasm_{proposal}", proposal not in off)
    engine: wasmtime.Engine = package.Engine(config)
    atexit.register(_engine.cache_clear)
    return engine


def to_binary(source: str | bytes | bytearray | memoryview) -> bytes:
    r"""The module's binary form: `source` itself if it begins with `b"\0asm"`, else what its wat text assembles to.

    Bytes that do not begin so are taken as UTF-8 wat. What the assembler refuses though it is right, `wat.py` rewrites.
    A binary is returned as it is, unchecked.

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
    from lowheap.wasm import wat  # here, because binaries need none of it

    package = _wasmtime()
    try:
        if isinstance(text, bytes):
            with contextlib.suppress(UnicodeDecodeError):  # the assembler says so in its words
                text = text.decode()
        return bytes(package.wat2wasm(wat.assemblable(text) if isinstance(text, str) else text))
    except (package.WasmtimeError, UnicodeEncodeError) as error:
        raise MalformedModuleError(f"not a WebAssembly text module: {error}") from error


def validator(off: frozenset[str] = frozenset()) -> str:
    """Say which validator that is, without loading it: where its package is, and since when, and what is off."""
    found = importlib.util.find_spec("wasmtime")
    if found is None or found.origin is None:
        return ""
    return " ".join((found.origin, str(os.stat(found.origin).st_mtime_ns), *sorted(off)))


def wat2wasm(text: str | bytes) -> bytes:
    """Return the binary that a wat text assembles to; a binary as it is.

    Raises MalformedModuleError, which says where, for what is not wat.
    """
    return to_binary(text)


def validate(binary: bytes, off: frozenset[str] = frozenset()) -> None:
    """Return if `binary` is a valid module, with every proposal on that lowheap compiles.

    But for those that are `off`, and what needs them, which must be among them. One with legacy exceptions is shown to
    the program `wasm-tools` instead.

    Raises MalformedModuleError with the validator's message if it is not valid, ModuleError when what validates it is
    not installed, and TypeError for anything but bytes.
    """
    if not isinstance(binary, bytes):
        raise TypeError(f"a binary module is bytes, not {type(binary).__name__}")
    if binary.startswith(_BINARY_MAGIC) and binary[6:8] == _COMPONENT_LAYER:
        raise MalformedModuleError(
            "not a valid WebAssembly module, but a component: only modules are run, such as "
            "`wasm-tools component unbundle --module-dir` takes out of it"
        )
    package = _wasmtime()
    try:
        package.Module.validate(_engine(off), binary)
    except package.WasmtimeError as error:
        if _LEGACY_EXCEPTIONS in str(error) and "exceptions" not in off:
            _validate_with_legacy_exceptions(binary, off)
            return
        raise MalformedModuleError(f"not a valid WebAssembly module: {error}") from error


_LEGACY_EXCEPTIONS = "legacy_exceptions feature required"
"""What wasmtime says of a module that has them; it does not validate any."""


def _validate_with_legacy_exceptions(binary: bytes, off: frozenset[str]) -> None:
    """Have `wasm-tools` validate a module: WasmToolsError, which says what to install, where it is not there."""
    features = [("-" if each in off else "") + each.replace("_", "-") for each in PROPOSALS]
    arguments = ["validate", "--features", ",".join(("legacy-exceptions", *features))]
    if wasm_tools() is None:
        run_wasm_tools(arguments, what_for="validating legacy exceptions")
    try:
        run_wasm_tools(arguments, given=binary, what_for="not a valid WebAssembly module")
    except WasmToolsError as error:
        raise MalformedModuleError(str(error)) from error
