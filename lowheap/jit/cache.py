"""Compiled code on disk, so that a module is compiled once for each thing that its code depends on.

A cache is a directory with one file for each entry, named by its key: a hash of everything that went into the code.
That is what the caller says (the module's bytes, options), the collector's name and sources, lowheap's sources,
llvmlite's and LLVM's version, and the CPU. Where a source cannot be read, or has changed since this process
started, so that it may not be what is running, nothing is cached.

An entry is a container with a checksum:

    8 bytes    MAGIC
    32 bytes   SHA-256 of all that follows
    4 bytes    length of the description, little-endian
    ...        the description: JSON, of what `_describe` says
    ...        the object file
    ...        the LLVM IR, compressed by zlib

The code of a module that is compiled by need is in a file of pieces: one record after the other, each with its length
and its functions, and then an entry as above. Another is put behind the last when it is compiled.

Beside them are the valid binaries that modules' sources have come to, so that the validator need not be loaded, and
functions be decoded that are not compiled. After the key, a byte says whether these can be decoded one at a time.

Whatever is wrong with an entry (it is damaged, cut off, another's, cannot be read), it counts as not there, and is
replaced. It is code that will run, so only a file that is the user's own, and that nobody else may write, is read.
Files are written under another name first, so that no process ever sees half of one. When the entries together pass
the limit, those go that have not been used for longest. Nothing here raises: a cache that cannot be written is a
warning.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import stat
import struct
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
from llvmlite import binding

from lowheap.collectors.interface import Collector
from lowheap.errors import CompilerError
from lowheap.jit import stackmaps
from lowheap.jit.engine import CompiledCode, target_machine
from lowheap.jit.statepoints import Statepoint, StatepointModule

MAGIC = b"lowheap\x02"
SUFFIX = ".lowheap"
BINARY_SUFFIX = ".lowheap-wasm"
PIECES_SUFFIX = ".lowheap-pieces"
DEFAULT_LIMIT = 256 << 20
"""How many bytes the entries of a cache may take together."""

_TEMPORARY_SUFFIX = ".tmp"
_ABANDONED_SECONDS = 3600  # a temporary file this old is of a process that did not get to rename it
_ATTEMPTS, _PAUSE = 20, 0.005  # to have a file alone, and seconds between
_LENGTH_SIZE = 4
_RECORD = struct.Struct("<QII")
"""What a record of a file of pieces begins with: how long its entry is, how many functions come before that, and at
which level they are optimised.
"""
_INDEX = struct.Struct("<I")
_CHECKSUM_SIZE = hashlib.sha256().digest_size
_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCES = ("*.py", "*.wat")

# A source that is younger may not be what this process runs: loading lowheap takes a moment, hence the allowance.
_LOADED_AT = time.time() - 1

_log = logging.getLogger("lowheap.cache")
_told: set[tuple[Path, str]] = set()  # what was said of directories

_Entry = TypeVar("_Entry")


def compiled(
    directory: Path | None,
    parts: Mapping[str, str | int | bool],
    compile: Callable[[], CompiledCode],
    collector: Collector | None = None,
) -> CompiledCode:
    """Return the code that `compile` makes, from the cache in `directory` if it is there; else it is put there.

    `parts` is what the code depends on beside the collector, lowheap, LLVM and the CPU. No directory: no cache.
    """
    if directory is None:
        return compile()
    key = code_key(parts, collector)
    if key is None:
        return compile()
    cache = CodeCache(directory)
    found = cache.get(key)
    if found is None:
        found = compile()
        cache.put(key, found)
    return found


def is_cached(
    directory: Path | None, parts: Mapping[str, str | int | bool], collector: Collector | None = None
) -> bool:
    """Whether the cache has an entry for that, sound or not."""
    key = None if directory is None else code_key(parts, collector)
    return directory is not None and key is not None and CodeCache(directory).path(key).is_file()


def valid_binary(
    directory: Path | None, source: bytes, validator: str, make: Callable[[], tuple[bytes, bool]]
) -> tuple[bytes, bool]:
    """Return the binary that `make` makes of a module's source, and has found valid, from the cache if it is there.

    `validator` says which one that is. So the validator is not loaded where code comes from the cache. Beside the
    binary is something else that `make` has found out about it.
    """
    package = None if directory is None else _package_digest()
    if directory is None or package is None:
        return make()
    key = key_of({"validator": validator, "package": package, "source": hashlib.sha256(source).hexdigest()})
    cache = CodeCache(directory)
    found = cache.get_binary(key)
    if found is None:
        found = make()
        cache.put_binary(key, *found)
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Keys


def code_key(parts: Mapping[str, str | int | bool], collector: Collector | None = None) -> str | None:
    """Return the key of code that depends on `parts` and a collector, or None when it must not be cached."""
    facts = code_facts(parts, collector)
    return None if facts is None else key_of(facts)


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the key of code that depends on these facts, which are what JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def code_facts(parts: Mapping[str, str | int | bool], collector: Collector | None = None) -> dict[str, Any] | None:
    """Return all that code which depends on `parts` and a collector depends on; None when it must not be kept."""
    package = _package_digest()
    if package is None:
        return None
    everything: dict[str, Any] = {"parts": dict(parts), "package": package, **_machine()}
    if collector is not None:
        sources = collector_sources(collector)
        if sources is None:
            _log.debug("code for the collector %s is not cached: not all of its sources are known", collector.name)
            return None
        kind = type(collector)
        everything["collector"] = [f"{kind.__module__}:{kind.__qualname__}", collector.name, vars(collector), sources]
        # A class that is made by a call may have the name of another, and other functions.
        everything["functions"] = {name: getattr(collector, name) for name in collector.all_functions()}
    facts: dict[str, Any] = json.loads(json.dumps(everything, default=repr))
    return facts


@functools.cache
def _machine() -> dict[str, str]:
    machine = target_machine()
    return {
        "llvmlite": llvmlite.__version__,
        "llvm": ".".join(map(str, binding.llvm_version_info)),
        "triple": str(machine.triple),
        "data layout": str(machine.target_data),
        "cpu": str(binding.get_host_cpu_name()),
        "features": str(binding.get_host_cpu_features().flatten()),
    }


@functools.cache
def _package_digest() -> str | None:
    """A hash of lowheap's sources; None when they are not there, or not what this process runs."""
    digest = hashlib.sha256()
    paths = sorted(path for pattern in _SOURCES for path in _PACKAGE.rglob(pattern))
    for path in paths:
        source = _source_digest(path)
        if source is None:
            _log.debug("nothing is cached: cannot rely on %s", path)
            return None
        digest.update(f"{path.relative_to(_PACKAGE)} {source}\n".encode())
    return digest.hexdigest() if paths else None


def _source_digest(path: Path) -> str | None:
    """A hash of a source file; None when it cannot be read, or changed since this process loaded it."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            source = file.read()
    except OSError:
        return None
    if max(status.st_mtime, status.st_ctime) >= _LOADED_AT:
        return None
    return hashlib.sha256(source).hexdigest()


def collector_sources(collector: Collector) -> list[str] | None:
    """Return hashes of the modules that a collector's classes and functions are in, and of those that these import.

    lowheap's own, llvmlite's and Python's are left out: they count by themselves. None when a source cannot be had, or
    a function closes over what no source tells.
    """
    if is_known(collector):
        return []  # what they call is lowheap's, too
    kinds = type(collector).__mro__
    functions = [callee for name in collector.all_functions() for callee in getattr(collector, name).callees()]
    if any(each.function.__closure__ and each.__module__.partition(".")[0] not in KNOWN_PACKAGES for each in functions):
        return None
    pending = {kind.__module__ for kind in kinds} | {each.__module__ for each in functions}
    seen: set[str] = set()
    found: list[str] = []
    while pending:
        name = pending.pop()
        seen.add(name)
        if name.partition(".")[0] in KNOWN_PACKAGES or name not in sys.modules:
            continue
        file = getattr(sys.modules[name], "__file__", None)
        if file is None and hasattr(sys.modules[name], "__path__"):
            continue  # a namespace: a directory without code
        digest = None if file is None or not file.endswith(".py") else _source_digest(Path(file))
        if file is None or digest is None:
            return None
        found.append(f"{name} {digest}")
        package = name if hasattr(sys.modules[name], "__path__") else name.rpartition(".")[0]
        try:
            pending |= set(_imports(ast.parse(Path(file).read_bytes()), package)) - seen
        except (OSError, SyntaxError, ValueError):
            return None
    return sorted(found)


def is_known(collector: Collector) -> bool:
    """Whether a collector is lowheap's own, that other processes have as well."""
    return all(kind.__module__.partition(".")[0] in KNOWN_PACKAGES for kind in type(collector).__mro__)


KNOWN_PACKAGES = frozenset({"lowheap", "llvmlite", *sys.stdlib_module_names})


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """The names of all modules that a module may import, packages and what may be a module in one included."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = above[: len(above) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


# ----------------------------------------------------------------------------------------------------------------------
# Entries


def encode(key: str, code: CompiledCode) -> bytes:
    """Return code as the bytes of an entry."""
    text = zlib.compress(code.llvm_ir.encode(), 1)
    description = json.dumps(_describe(key, code, len(text)), separators=(",", ":")).encode()
    body = b"".join((len(description).to_bytes(_LENGTH_SIZE, "little"), description, code.object, text))
    return MAGIC + hashlib.sha256(body).digest() + body


def _describe(key: str, code: CompiledCode, text_size: int) -> dict[str, Any]:
    """What an entry says beside the object and the IR.

    A statepoint is its function's number, its callee, its live count and its places.
    """
    numbers = {name: number for number, name in enumerate(code.statepoints.functions)}
    return {
        "key": key,
        "symbols": code.symbols,
        "imports": code.imports,
        "functions": code.statepoints.functions,
        "measured": code.statepoints.measured,
        "statepoints": [[numbers[s.function], s.callee, s.live_count, *s.places] for s in code.statepoints.statepoints],
        "call_targets": code.call_targets,
        "seconds": code.seconds,
        "object_size": len(code.object),
        "text_size": text_size,
    }


def decode(key: str, data: bytes | memoryview) -> CompiledCode:
    """Return the code in an entry. ValueError, which says what is wrong, when it is not a sound one for that key."""
    start = len(MAGIC) + _CHECKSUM_SIZE
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no entry of this version")
    body = memoryview(data)[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise ValueError("its checksum is wrong")
    length = int.from_bytes(body[:_LENGTH_SIZE], "little")
    content = body[_LENGTH_SIZE + length :]
    try:
        said = json.loads(bytes(body[_LENGTH_SIZE : _LENGTH_SIZE + length]))
        if said["key"] != key:
            raise ValueError("it is another's")
        object_size, text_size = int(said["object_size"]), int(said["text_size"])
        if object_size + text_size != len(content):
            raise ValueError("its parts are not of the lengths that it says")
        image = bytes(content[:object_size])
        functions = tuple(map(str, said["functions"]))
        statepoints = tuple(
            Statepoint(number, functions[function], str(callee), int(live_count), tuple(map(int, places)))
            for number, (function, callee, live_count, *places) in enumerate(said["statepoints"])
        )
        text = zlib.decompress(content[object_size:]).decode()
        module = StatepointModule(text, functions, statepoints, tuple(map(str, said["measured"])))
        symbols = tuple(map(str, said["symbols"]))
        imports = tuple(map(str, said["imports"]))
        targets = tuple((int(function), int(number), int(target)) for function, number, target in said["call_targets"])
        return CompiledCode(image, symbols, module, stackmaps.read(image), float(said["seconds"]), imports, targets)
    except (KeyError, TypeError, IndexError, OverflowError, RecursionError, zlib.error, CompilerError) as error:
        raise ValueError(f"it does not make sense: {error!r}") from error


def _decode_binary(key: str, data: bytes) -> tuple[bytes, bool]:
    """Return the binary in a file, and what was found out. ValueError when it is not a sound one for that key."""
    start = len(MAGIC) + _CHECKSUM_SIZE
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no binary of this version")
    body = data[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start] or not body.startswith(key.encode()):
        raise ValueError("its checksum is wrong, or it is another's")
    start = len(key) + 1
    return body[start:], body[len(key) : start] == b"\1"


class CodeCache:
    """The cache in a directory, which is made when the first entry is put there; `limit` is its size in bytes."""

    def __init__(self, directory: Path, limit: int = DEFAULT_LIMIT) -> None:
        """Name the directory; nothing is read yet."""
        self.directory = directory
        self.limit = limit

    def path(self, key: str) -> Path:
        """Return the path of a key's entry."""
        return self.directory / f"{key}{SUFFIX}"

    def get(self, key: str) -> CompiledCode | None:
        """Return the code of a key, or None when there is no sound entry for it."""
        return self._get(self.path(key), functools.partial(decode, key))

    def put(self, key: str, code: CompiledCode) -> None:
        """Write an entry, and remove old ones if there are too many. What cannot be written is left out."""
        self._put(self.path(key), encode(key, code))

    def get_binary(self, key: str) -> tuple[bytes, bool] | None:
        """Return the binary of a key, and what was found out about it, or None when there is no sound one."""
        return self._get(self.directory / f"{key}{BINARY_SUFFIX}", functools.partial(_decode_binary, key))

    def put_binary(self, key: str, binary: bytes, found: bool) -> None:
        """Write a binary down, and what was found out about it, as `put` does code."""
        body = key.encode() + bytes([found]) + binary
        self._put(self.directory / f"{key}{BINARY_SUFFIX}", MAGIC + hashlib.sha256(body).digest() + body)

    def _get(self, path: Path, read: Callable[[bytes], _Entry]) -> _Entry | None:
        try:
            entry = read(_read_own(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.info("compiling again: cannot use %s: %s", path, error)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of its last use
        _log.debug("compiled code from %s", path)
        return entry

    def _put(self, path: Path, data: bytes) -> None:
        if len(data) > self.limit:
            _log.info("not cached: %d bytes are more than the cache may have, %d", len(data), self.limit)
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(path, data)
            self._remove_old(keep=path)
        except OSError as error:
            self.warn(error)

    def warn(self, error: OSError) -> None:
        """Say that something cannot be written; the same of a directory once in a process, and not for each entry."""
        reason = error.strerror or str(error)
        level = logging.DEBUG if (self.directory, reason) in _told else logging.WARNING
        _told.add((self.directory, reason))
        _log.log(level, "cannot cache compiled code in %s: %s", self.directory, reason)

    def _remove_old(self, keep: Path) -> None:
        now = time.time()
        entries: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir():
            if path.suffix not in (SUFFIX, BINARY_SUFFIX, PIECES_SUFFIX, _TEMPORARY_SUFFIX):
                continue
            with contextlib.suppress(FileNotFoundError):  # another process removes old ones, too
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                if path.suffix != _TEMPORARY_SUFFIX:
                    entries.append((status.st_mtime, status.st_size, path))
                elif now - status.st_mtime > _ABANDONED_SECONDS:
                    path.unlink()
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            if path != keep:
                path.unlink(missing_ok=True)
                total -= size


PieceKey = tuple[int, tuple[int, ...]]
"""A piece: its level of optimisation, and the indices of its functions."""


class PieceFile:
    """The pieces of one module in a cache, by the level of their code and the indices of their functions; the base has
    none.
    """

    def __init__(self, directory: Path, key: str) -> None:
        """Read what is there. What is damaged counts as not there; if it cannot be told where, nothing is."""
        self._cache, self._key = CodeCache(directory), key
        self._path = directory / f"{key}{PIECES_SUFFIX}"
        self._is_trimmed = False
        self._sound = 0  # bytes of the file, at its beginning, that are known to be whole records
        self.read()

    def read(self) -> None:
        """Read again what is there: others put pieces there, too."""
        self._entries: dict[PieceKey, list[memoryview]] = {}
        for piece, entry, _ in self._cache._get(self._path, lambda data: list(_records(data))) or ():
            self._entries[piece] = [*self._entries.pop(piece, ()), entry]

    def pieces(self) -> list[PieceKey]:
        """Return the level and the functions of each piece, in the order in which they came last."""
        return list(self._entries)

    def get(self, piece: PieceKey, known: Collection[str]) -> CompiledCode | None:
        """Return the code of a piece, that refers to nothing but what is known; or None when there is no sound one.

        There may be several: programs call functions in different orders.
        """
        for data in self._entries.get(piece, ()):
            try:
                code = decode(self._key_of(piece), data)
            except ValueError as error:
                _log.info("compiling again: cannot use a piece in %s: %s", self._path, error)
                continue
            if all(each in known for each in code.imports):
                return code
        return None

    def put(self, piece: PieceKey, code: CompiledCode) -> None:
        """Add a piece to the file. What cannot be written is left out."""
        level, functions = piece
        entry = encode(self._key_of(piece), code)
        record = b"".join((_RECORD.pack(len(entry), len(functions), level), *map(_INDEX.pack, functions), entry))
        try:
            self._cache.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(self._path, flags, 0o600), "r+b", buffering=0) as file:
                self._append(file, record)
            if not self._is_trimmed:
                self._is_trimmed = True
                self._cache._remove_old(keep=self._path)
        except OSError as error:
            self._cache.warn(error)

    def _append(self, file: RawIOBase, record: bytes) -> None:
        """Put a record behind the last whole one: what is after that, somebody has not got to write down.

        Else nobody would find what comes later.
        """
        _lock(file)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no file")
        size = file.seek(0, os.SEEK_END)
        file.seek(self._sound if self._sound <= size else 0)
        start = file.tell()
        self._sound = start + max((end for _, _, end in _records(file.read() or b"")), default=0)
        if self._sound + len(record) > self._cache.limit:
            return
        if self._sound < size:
            file.truncate(self._sound)
        if file.write(record) != len(record):
            file.truncate(self._sound)
            raise OSError("there is no room")
        self._sound += len(record)

    def _key_of(self, piece: PieceKey) -> str:
        level, functions = piece
        return f"{self._key} {level} {','.join(map(str, functions))}"


def _records(data: bytes) -> Iterator[tuple[PieceKey, memoryview, int]]:
    """Read a file of pieces: yield these, their entries, and where each record ends.

    What is behind a record that does not fit is left out: somebody was cut off, writing.
    """
    view, position = memoryview(data), 0
    while position + _RECORD.size <= len(data):
        length, count, level = _RECORD.unpack_from(data, position)
        start = position + _RECORD.size + count * _INDEX.size
        if start + length > len(data):
            break
        functions = tuple(index for (index,) in _INDEX.iter_unpack(view[position + _RECORD.size : start]))
        position = start + length
        yield (level, functions), view[start:position], position


def _lock(file: RawIOBase) -> None:
    """Have a file alone. OSError when another process has it for longer than that takes: it may be a stopped one."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_PAUSE)
    raise OSError("another process has it")


def _read_own(path: Path) -> bytes:
    """Read a file that is this user's, and that nobody else may write. ValueError when it is none such."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("others may write it")
        return file.read()


def _replace(path: Path, data: bytes) -> None:
    """Write a file under another name, then give it its own."""
    import tempfile  # here, because it takes long to load, and reading needs none of it

    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=_TEMPORARY_SUFFIX)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
