"""What programs have open: standard streams, files and folders, and the table of their numbers.

A descriptor of a program's is none of the system's: it has an object here, which has one. Each asks for what it can do;
what it cannot is EBADF, or what the method says.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import stat
from collections.abc import Sequence

from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.layout import (
    ALL_RIGHTS,
    DIRECTORY_RIGHTS,
    PREOPENED_INHERITING,
    PREOPENED_RIGHTS,
    Errno,
    Fdflags,
    Fdstat,
    Filestat,
    Filetype,
    Rights,
)
from lowheap.hosts.wasi.streams import Sink, Source

MOST_OFFSET = (1 << 63) - 1
"""The largest offset that files have."""

SYSTEM_FLAGS = {
    Fdflags.APPEND: os.O_APPEND,
    Fdflags.DSYNC: os.O_DSYNC,
    Fdflags.NONBLOCK: os.O_NONBLOCK,
    Fdflags.RSYNC: getattr(os, "O_RSYNC", os.O_SYNC),
    Fdflags.SYNC: os.O_SYNC,
}
"""WASI's flags of descriptors, as `open` has them."""


class Descriptor:
    """What a number stands for. All have the first two."""

    def fdstat(self) -> Fdstat:
        """Return type, flags and rights."""
        raise WasiError(Errno.BADF)

    def filestat(self) -> Filestat:
        """Return what it is, how large, and its times."""
        raise WasiError(Errno.BADF)

    def read(self, buffers: Sequence[memoryview]) -> int:
        """Fill buffers, from where it is; return how many bytes that were."""
        raise WasiError(Errno.BADF)

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Write bytes where it is; return how many."""
        raise WasiError(Errno.BADF)

    def read_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill buffers from an offset."""
        raise WasiError(Errno.BADF)

    def write_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Write bytes to an offset."""
        raise WasiError(Errno.BADF)

    def seek(self, offset: int, whence: int) -> int:
        """Go to an offset, and return it from the beginning."""
        raise WasiError(Errno.BADF)

    def close(self) -> None:
        """Give up what the system has open for it."""


class _Stream(Descriptor):
    """One of descriptors 0 to 2."""

    _RIGHTS: Rights

    def __init__(self, stream: Source | Sink) -> None:
        self.stream = stream

    def fdstat(self) -> Fdstat:
        return Fdstat(self.stream.filetype(), 0, self._RIGHTS, self._RIGHTS)

    def filestat(self) -> Filestat:
        return Filestat(filetype=self.stream.filetype())

    def seek(self, offset: int, whence: int) -> int:
        raise WasiError(Errno.SPIPE)

    def close(self) -> None:
        self.stream.close()


class Input(_Stream):
    """Standard input."""

    _RIGHTS = Rights.FD_READ

    def __init__(self, source: Source) -> None:
        """Read from a source."""
        super().__init__(source)
        self.read = source.read  # type: ignore[method-assign]  # nothing in between

    def read_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        """ESPIPE."""
        raise WasiError(Errno.SPIPE)


class Output(_Stream):
    """Standard output, or standard error."""

    _RIGHTS = Rights.FD_WRITE

    def __init__(self, sink: Sink) -> None:
        """Write to a sink."""
        super().__init__(sink)
        self.write = sink.write  # type: ignore[method-assign]  # nothing in between

    def write_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        """ESPIPE."""
        raise WasiError(Errno.SPIPE)


class Opened(Descriptor):
    """A file or a folder, which the system has open under `number`. It is closed with this object at the latest."""

    def __init__(self, number: int, *, is_mutable: bool) -> None:
        """Own a descriptor of the system's. Without `is_mutable`, nothing in the folder that it is in is changed."""
        self._number: int | None = number
        self.is_mutable = is_mutable

    @property
    def number(self) -> int:
        """The system's descriptor. EBADF when it was closed."""
        if self._number is None:
            raise WasiError(Errno.BADF)
        return self._number

    def check_mutable(self) -> None:
        """EPERM where nothing may be changed."""
        if not self.is_mutable:
            raise WasiError(Errno.PERM)

    def filestat(self) -> Filestat:
        """Ask the system."""
        return filestat_of(os.fstat(self.number))

    def close(self) -> None:
        """Close the system's descriptor."""
        number, self._number = self._number, None
        if number is not None:
            os.close(number)

    def __del__(self) -> None:
        """Close what nobody has closed."""
        self.close()


class File(Opened):
    """A file that is no folder."""

    def fdstat(self) -> Fdstat:
        """Return its type, flags and rights: what it was opened for is what the system says."""
        status = fcntl.fcntl(self.number, fcntl.F_GETFL)
        access, rights = status & os.O_ACCMODE, ALL_RIGHTS
        if access == os.O_WRONLY:
            rights &= ~(Rights.FD_READ | Rights.FD_READDIR)
        if access == os.O_RDONLY:
            rights &= ~Rights.FD_WRITE
        flags = 0
        for flag, system in SYSTEM_FLAGS.items():
            if status & system == system:
                flags |= flag
        return Fdstat(filetype_of(os.fstat(self.number).st_mode), flags, rights, rights)

    def set_flags(self, flags: int) -> None:
        """Set whether it appends, and whether it waits. EINVAL for what cannot be set of an open file."""
        if flags & ~int(Fdflags.APPEND | Fdflags.NONBLOCK):
            raise WasiError(Errno.INVAL)
        status = fcntl.fcntl(self.number, fcntl.F_GETFL) & ~(os.O_APPEND | os.O_NONBLOCK)
        for flag in (Fdflags.APPEND, Fdflags.NONBLOCK):
            if flags & flag:
                status |= SYSTEM_FLAGS[flag]
        fcntl.fcntl(self.number, fcntl.F_SETFL, status)

    def read(self, buffers: Sequence[memoryview]) -> int:
        """Read from where it is."""
        return os.readv(self.number, buffers)

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Write where it is."""
        return os.writev(self.number, buffers)

    def read_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Read from an offset, and stay where it is."""
        return os.preadv(self.number, buffers, checked_offset(offset))

    def write_at(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Write to an offset, or to the end if it appends, and stay where it is."""
        return os.pwritev(self.number, buffers, checked_offset(offset))

    def seek(self, offset: int, whence: int) -> int:
        """Go to an offset."""
        return os.lseek(self.number, offset, whence)


class Directory(Opened):
    """A folder. `preopened_as` is the path that a program knows it by, if it begins with it."""

    def __init__(self, number: int, *, is_mutable: bool, preopened_as: bytes | None = None) -> None:
        """Own a descriptor of the system's."""
        super().__init__(number, is_mutable=is_mutable)
        self.preopened_as = preopened_as
        self._entries: list[tuple[int, int, bytes]] | None = None

    def fdstat(self) -> Fdstat:
        """Return what C libraries want to see of the folders that they begin with; of others all that makes sense."""
        if self.preopened_as is not None:
            return Fdstat(Filetype.DIRECTORY, 0, PREOPENED_RIGHTS, PREOPENED_INHERITING)
        rights = DIRECTORY_RIGHTS & ~Rights.FD_WRITE
        return Fdstat(Filetype.DIRECTORY, 0, rights, rights)

    def entries(self, *, anew: bool) -> list[tuple[int, int, bytes]]:
        """Return type, inode and name of all that is in here, `.` and `..` first, the rest by name.

        The same as the last time, unless `anew`: who deletes what he lists misses nothing.
        """
        if self._entries is None or anew:
            own = os.fstat(self.number).st_ino
            self._entries = [(Filetype.DIRECTORY, own, b"."), (Filetype.DIRECTORY, own, b".."), *self._scan()]
        return self._entries

    def _scan(self) -> list[tuple[int, int, bytes]]:
        reading = os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.number)
        try:
            found = []
            with os.scandir(reading) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # gone since
                        found.append((_type_of_entry(entry), entry.inode(), os.fsencode(entry.name)))
        finally:
            os.close(reading)
        return sorted(found, key=lambda each: each[2])


def _type_of_entry(entry: os.DirEntry[str]) -> int:
    if entry.is_symlink():
        return Filetype.SYMBOLIC_LINK
    if entry.is_dir(follow_symlinks=False):
        return Filetype.DIRECTORY
    if entry.is_file(follow_symlinks=False):
        return Filetype.REGULAR_FILE
    return filetype_of(entry.stat(follow_symlinks=False).st_mode)


_FILETYPES = {
    stat.S_IFBLK: Filetype.BLOCK_DEVICE,
    stat.S_IFCHR: Filetype.CHARACTER_DEVICE,
    stat.S_IFDIR: Filetype.DIRECTORY,
    stat.S_IFREG: Filetype.REGULAR_FILE,
    stat.S_IFSOCK: Filetype.SOCKET_STREAM,
    stat.S_IFLNK: Filetype.SYMBOLIC_LINK,
}


def filetype_of(mode: int) -> Filetype:
    """Return WASI's type of a file by its mode. There is none for a pipe."""
    return _FILETYPES.get(stat.S_IFMT(mode), Filetype.UNKNOWN)


def filestat_of(found: os.stat_result) -> Filestat:
    """Return what the system says of a file. Times before 1970 are that."""
    return Filestat(
        found.st_dev,
        found.st_ino,
        filetype_of(found.st_mode),
        found.st_nlink,
        found.st_size,
        max(0, found.st_atime_ns),
        max(0, found.st_mtime_ns),
        max(0, found.st_ctime_ns),
    )


def checked_offset(offset: int) -> int:
    """Return an offset. EINVAL for one that is more than files have."""
    if offset > MOST_OFFSET:
        raise WasiError(Errno.INVAL)
    return offset


class Table:
    """Descriptors by number. A new one has the lowest number that is free."""

    def __init__(self) -> None:
        """Begin without any."""
        self._used: dict[int, Descriptor] = {}
        self._free: list[int] = []

    def add(self, descriptor: Descriptor) -> int:
        """Give a descriptor a number."""
        number = heapq.heappop(self._free) if self._free else len(self._used)
        self._used[number] = descriptor
        return number

    def get(self, number: int) -> Descriptor:
        """Return a descriptor. EBADF where there is none."""
        try:
            return self._used[number]
        except KeyError:
            raise WasiError(Errno.BADF) from None

    def remove(self, number: int) -> None:
        """Close a descriptor; its number is free."""
        descriptor = self.get(number)
        del self._used[number]
        heapq.heappush(self._free, number)
        descriptor.close()

    def move(self, number: int, to: int) -> None:
        """Close a descriptor, and have another one take its number. EBADF where one of them is none."""
        moved, replaced = self.get(number), self.get(to)
        if number != to:
            self._used[to] = moved
            del self._used[number]
            heapq.heappush(self._free, number)
            replaced.close()

    def close(self) -> None:
        """Close all."""
        while self._used:
            _, descriptor = self._used.popitem()
            descriptor.close()
        self._free.clear()
