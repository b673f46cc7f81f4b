"""Modules with their compiled code as bytes, which `Module.serialize` makes and `Module.deserialize` reads.

The code is an entry of the cache (`jit/cache.py`), and depends on the same facts:

    8 bytes    MAGIC
    32 bytes   SHA-256 of all that follows
    4 bytes    length of the description, little-endian
    ...        the description: JSON, of the facts and the length of the binary
    ...        the binary module
    ...        the entry

Promises: nothing is taken from bytes whose checksum is wrong, and no code for facts that are not just those. A checksum
finds damage; against somebody who makes bytes on purpose nothing here helps.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lowheap.errors import MalformedModuleError, ModuleError
from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode

MAGIC = b"lowheapM"

_CHECKSUM_SIZE = hashlib.sha256().digest_size
_LENGTH_SIZE = 4

_WORDS = {
    "cpu": "the CPU",
    "features": "the CPU's features",
    "package": "lowheap's sources",
    "llvm": "LLVM's version",
    "llvmlite": "llvmlite's version",
    "collector": "the collector",
    "opt_level": "opt_level",
    "runtime": "runtime",
    "inline": "inline",
    "canonical_nans": "cranelift_nan_canonicalization",
    "builtins": "builtins",
    "string_constants": "imported_string_constants",
    "proposals_off": "the proposals that are switched off",
}
"""How messages call facts."""


@dataclass(frozen=True, slots=True)
class Serialized:
    """A module that was read: its binary, what its code was compiled for, and the code as an entry of the cache."""

    binary: bytes
    facts: Mapping[str, Any]
    entry: bytes

    def code(self, facts: Mapping[str, Any] | None) -> CompiledCode:
        """Return the code for an engine with these facts. ModuleError when it was compiled for others."""
        if facts is None:
            raise ModuleError(
                "a serialised module cannot be used: not all sources that code depends on here can be read, or they "
                "have changed since this process started"
            )
        if facts != self.facts:
            differing = ", ".join(_WORDS.get(each, each) for each in _differences(self.facts, facts))
            raise ModuleError(f"the serialised module does not fit; its code depends on what differs here: {differing}")
        try:
            return cache.decode(cache.key_of(facts), self.entry)
        except ValueError as error:
            raise MalformedModuleError(f"the serialised module is damaged: {error}") from error


def _differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """The names of the facts in which two differ; those of `parts` by their own."""
    found: list[str] = []
    for name in sorted(left.keys() | right.keys()):
        one, other = left.get(name), right.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other)
        elif one != other:
            found.append(name)
    return found


def encode(binary: bytes, facts: Mapping[str, Any], code: CompiledCode) -> bytes:
    """Return a module as bytes: its binary, and its code, which depends on `facts`."""
    description = json.dumps({"facts": facts, "binary_size": len(binary)}, separators=(",", ":")).encode()
    entry = cache.encode(cache.key_of(facts), code)
    body = b"".join((len(description).to_bytes(_LENGTH_SIZE, "little"), description, binary, entry))
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Serialized:
    """Return what `encode` has made bytes of. MalformedModuleError when they are not sound."""
    start = len(MAGIC) + _CHECKSUM_SIZE
    if data[: len(MAGIC)] != MAGIC:
        raise MalformedModuleError(f"not a serialised module of this version: it starts with {data[:8]!r}")
    body = memoryview(data)[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise MalformedModuleError("the serialised module is damaged or cut off: its checksum is wrong")
    length = int.from_bytes(body[:_LENGTH_SIZE], "little")
    content = body[_LENGTH_SIZE + length :]
    try:
        said = json.loads(bytes(body[_LENGTH_SIZE : _LENGTH_SIZE + length]))
        facts, binary_size = dict(said["facts"]), int(said["binary_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedModuleError(f"the serialised module makes no sense: {error!r}") from error
    return Serialized(bytes(content[:binary_size]), facts, bytes(content[binary_size:]))
