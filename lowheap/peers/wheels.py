"""The wasmtime wheels: where they are, and getting them.

A wheel is installed with pip into a folder of its own, which nothing else uses. An installation first goes to a
temporary folder beside it and is then renamed, so that a folder that is there is complete; a file lock makes
installations of one version wait for each other.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lowheap.peers.errors import PeerInstallError, UnsupportedPeerError

VERSIONS = ("37.0.0", "43.0.0", "45.0.0")
"""What `make peers` installs: two releases with first fit, and the last that has this collector by default."""

FIRST_MAJOR, LAST_MAJOR = 37, 45

_LOCATION_VARIABLE = "LOWHEAP_PEERS"
_INSTALL_TIMEOUT = 600.0


def check_version(version: str) -> None:
    """UnsupportedPeerError for a release whose heap is not read here, and for what is not a release's number."""
    found = re.fullmatch(r"(\d+)\.\d+\.\d+", version)
    if found is None:
        raise UnsupportedPeerError(f"{version!r} is not a release of wasmtime; one looks like {VERSIONS[0]!r}")
    if int(found[1]) > LAST_MAJOR:
        raise UnsupportedPeerError(
            f"wasmtime {version} has a copying collector, with other headers; "
            f"the heap of releases {FIRST_MAJOR} to {LAST_MAJOR} can be read"
        )
    if int(found[1]) < FIRST_MAJOR:
        raise UnsupportedPeerError(
            f"the heap of wasmtime {version} is not known; that of releases {FIRST_MAJOR} to {LAST_MAJOR} can be read"
        )


def location() -> Path:
    """Return the folder of all wheels' folders: `$LOWHEAP_PEERS`, or `.peers` in a checkout, or in the user's cache."""
    if chosen := os.environ.get(_LOCATION_VARIABLE):
        return Path(chosen).absolute()
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return root / ".peers"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lowheap" / "peers"


def folder(version: str) -> Path:
    """Return where a version's wheel is, or would be, installed."""
    check_version(version)
    return location() / version


def is_installed(version: str) -> bool:
    """Whether the wheel is there."""
    return (folder(version) / "wasmtime").is_dir()


def ensure(version: str) -> Path:
    """Install a version's wheel unless it is there, and return its folder. PeerInstallError if pip cannot."""
    target = folder(version)
    if is_installed(version):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{version}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_installed(version):  # nobody else has, while we waited
                _install(version, target)
    except OSError as error:
        raise PeerInstallError(
            f"wasmtime {version} cannot be installed into {target}: {error}; "
            f"{_LOCATION_VARIABLE} can name another place"
        ) from error
    return target


def _install(version: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{version}.", dir=target.parent) as temporary:
        made = Path(temporary) / version
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        # The package imports none of its dependencies.
        command += ["--no-deps", "--only-binary", ":all:", "--target", str(made), f"wasmtime=={version}"]
        try:
            pip = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise PeerInstallError(f"pip did not install wasmtime {version} in {_INSTALL_TIMEOUT:g} s") from None
        if pip.returncode != 0 or not (made / "wasmtime").is_dir():
            said = "\n".join((pip.stdout + pip.stderr).strip().splitlines()[-10:])
            raise PeerInstallError(
                f"pip could not install wasmtime {version} (it needs pip, and a package index or a folder of wheels "
                f"within reach; {_LOCATION_VARIABLE} can name a folder that has {version}/ in it). pip said:\n{said}"
            )
        made.rename(target)
