"""The compilers, as npm has them, and which versions of them.

All go into one folder, named after the versions; it is made beside and then renamed, so that a folder that is there is
complete.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from toolchains import node
from toolchains.errors import ToolchainError

PACKAGES = {
    "kotlin-compiler": "2.4.20",
    "binaryen": "132.0.0",
    "@moonbit/moonc-worker": "0.1.202605123",
    "@moonbit/moonpad-monaco": "0.1.202602255",  # an editor; the standard library's sources are in it
}
FIRST_JAVA = 17


def ensure(location: Path) -> Path:
    """Return the folder of all packages, which are installed unless they are there.

    Call it under the lock of `location`. ToolchainError if they cannot be had.
    """
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    target = location / f"packages-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"
    if not target.is_dir():
        with tempfile.TemporaryDirectory(prefix=".packages.", dir=location) as temporary:
            made = Path(temporary) / "packages"
            node.install(made, *wanted)
            made.rename(target)
    return target / "node_modules"


def java() -> str:
    """Return where a Java is that runs the compiler of Kotlin. ToolchainError when there is none."""
    found = shutil.which("java")
    if found is None:
        raise ToolchainError(f"there is no Java, and the compiler of Kotlin takes {FIRST_JAVA}", is_absence=True)
    asked = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60, check=False)
    version = re.search(r'version "(\d+)', asked.stderr)
    if version is None or int(version[1]) < FIRST_JAVA:
        said = (asked.stderr or asked.stdout).strip().partition("\n")[0] or f"exit status {asked.returncode}"
        raise ToolchainError(f"{found} is {said}, and the compiler of Kotlin takes {FIRST_JAVA}", is_absence=True)
    return found
