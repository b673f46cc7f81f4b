"""Programs compiled, each once: a binary's name has in it what it was made of, so that a change makes another.

A binary is made under another name and then renamed, so that one that is there is complete; a lock on the folder makes
those who want programs wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolchains import node, packages
from toolchains.errors import ToolchainError
from toolchains.examples import KOTLIN, Example

_HERE = Path(__file__).resolve().parent
_MOONBIT_SCRIPT = _HERE / "moonbit.mjs"
_LOCATION_VARIABLE = "LOWHEAP_PROGRAMS"
_TIMEOUT = 600.0

# A compiler lives for seconds: what makes it start quickly is worth more than what makes it fast.
_JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xss8m")
_KOTLIN_OPTIONS = ("-Xwasm-target=wasm-wasi", "-opt-in", "kotlin.wasm.ExperimentalWasmInterop")
_WASM_OPT_OPTIONS = (
    # What the compiler makes use of, and tail calls; not all that wasm-opt knows, which is more than engines do.
    *("--enable-gc", "--enable-reference-types", "--enable-exception-handling", "--enable-bulk-memory"),
    *("--enable-nontrapping-float-to-int", "--enable-sign-ext", "--enable-multivalue", "--enable-mutable-globals"),
    *("--enable-tail-call", "--closed-world", "-O3", "--gufa", "-O3"),
)


def location() -> Path:
    """Return the folder of compilers and programs: `$LOWHEAP_PROGRAMS`, or `.programs` beside the sources."""
    if chosen := os.environ.get(_LOCATION_VARIABLE):
        return Path(chosen).absolute()
    return _HERE.parent / ".programs"


def binary(example: Example) -> Path:
    """Return where a program's binary is, or would be."""
    made_of = [example.source.read_bytes(), repr(sorted(packages.PACKAGES.items())).encode()]
    if example.language == KOTLIN:
        made_of.append(repr((_KOTLIN_OPTIONS, _WASM_OPT_OPTIONS if example.is_optimised else ())).encode())
    else:
        made_of.append(_MOONBIT_SCRIPT.read_bytes())
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(each).digest() for each in made_of)).hexdigest()
    return location() / f"{example.title}.{digest[:12]}.wasm"


def ensure(examples: Sequence[Example]) -> dict[str, Path]:
    """Return the binaries of programs by their titles; those that are not there are made. ToolchainError if one cannot.

    What an older source has left is removed.
    """
    if any(not binary(each).is_file() for each in examples):
        location().mkdir(parents=True, exist_ok=True)
        with (location() / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = [each for each in examples if not binary(each).is_file()]  # nobody else has, while we waited
            if missing:
                _build(missing)
    return {each.title: binary(each) for each in examples}


def _build(examples: Sequence[Example]) -> None:
    node.npm()  # its absence is told before that of what it brings
    kotlin = [each for each in examples if each.language == KOTLIN]
    java = packages.java() if kotlin else ""
    javascript = str(node.provide())
    modules = packages.ensure(location())
    with tempfile.TemporaryDirectory(prefix=".build.", dir=location()) as temporary:
        made = Path(temporary)
        with ThreadPoolExecutor(max_workers=max(1, os.cpu_count() or 1)) as pool:
            jobs = []
            if moonbit := [each for each in examples if each.language != KOTLIN]:
                jobs.append(pool.submit(_moonbit, moonbit, made, javascript, modules))
            for name in dict.fromkeys(each.name for each in kotlin):
                wanted = [each for each in kotlin if each.name == name]
                jobs.append(pool.submit(_kotlin, wanted, made, javascript, java, modules))
            for job in jobs:
                job.result()
        for each in examples:
            for old in location().glob(f"{each.title}.*.wasm"):
                old.unlink()
            (made / f"{each.title}.wasm").rename(binary(each))


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{what} was not compiled in {_TIMEOUT:g} s") from None
    if done.returncode != 0:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-20:])
        raise ToolchainError(f"{what} cannot be compiled: {said or f'exit status {done.returncode}'}")


def _kotlin(examples: Sequence[Example], made: Path, javascript: str, java: str, modules: Path) -> None:
    """One source, as the compiler leaves it and, where that is wanted, optimised."""
    source = examples[0].source
    library = modules / "kotlin-compiler" / "lib"
    classes = (str(library / "kotlin-preloader.jar"), "org.jetbrains.kotlin.preloading.Preloader", "-cp")
    compiler = [java, *_JAVA_OPTIONS, "-cp", *classes, str(library / "kotlin-compiler.jar")]
    compiler += ["org.jetbrains.kotlin.cli.js.KotlinWasmCompiler", *_KOTLIN_OPTIONS]
    compiler += ["-libraries", str(library / "kotlin-stdlib-wasm-wasi.klib")]
    folder = made / f"kotlin {source.stem}"
    compiler += ["-ir-output-dir", str(folder), "-ir-output-name", "program"]
    _run([*compiler, "-nopack", str(source)], source.name)
    _run([*compiler, "-Xir-produce-js", "-Xir-dce", f"-Xinclude={folder}"], source.name)
    plain = folder / "program.wasm"
    for each in examples:
        target = made / f"{each.title}.wasm"
        if each.is_optimised:
            wasm_opt = [javascript, str(modules / "binaryen" / "bin" / "wasm-opt"), *_WASM_OPT_OPTIONS]
            _run([*wasm_opt, str(plain), "-o", str(target)], f"{source.name}, optimised,")
        else:
            target.write_bytes(plain.read_bytes())


def _moonbit(examples: Sequence[Example], made: Path, javascript: str, modules: Path) -> None:
    """All sources at once, because the standard library is compiled first."""
    folder = modules / "@moonbit"
    job = {
        "editor": str(folder / "moonpad-monaco" / "dist" / "moonpad-monaco.js"),
        "worker": str(folder / "moonc-worker" / "moonc-worker.js"),
        "programs": [
            {"source": str(each.source), "binary": str(made / f"{each.title}.wasm"), "exports": ["bench"]}
            for each in examples
        ],
    }
    _run([javascript, str(_MOONBIT_SCRIPT), json.dumps(job)], "MoonBit")
