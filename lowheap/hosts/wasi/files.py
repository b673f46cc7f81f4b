"""The functions of descriptors, `fd_…`."""

from __future__ import annotations

import os
import time

from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.descriptors import Directory, checked_offset
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.functions import preview1
from lowheap.hosts.wasi.guest import GuestMemory
from lowheap.hosts.wasi.layout import PREOPENTYPE_DIR, Advice, Dirent, Errno, Fstflags, Prestat, Whence

_ADVICE = {
    Advice.NORMAL: os.POSIX_FADV_NORMAL,
    Advice.SEQUENTIAL: os.POSIX_FADV_SEQUENTIAL,
    Advice.RANDOM: os.POSIX_FADV_RANDOM,
    Advice.WILLNEED: os.POSIX_FADV_WILLNEED,
    Advice.DONTNEED: os.POSIX_FADV_DONTNEED,
    Advice.NOREUSE: os.POSIX_FADV_NOREUSE,
}
_WHENCE = {Whence.SET: os.SEEK_SET, Whence.CUR: os.SEEK_CUR, Whence.END: os.SEEK_END}
_SIGN = 1 << 63


# ----------------------------------------------------------------------------------------------------------------------
# Bytes


@preview1("iiii")
def fd_read(context: Context, guest: GuestMemory, fd: int, iovs: int, iovs_len: int, result: int) -> None:
    """Read from where a descriptor is."""
    buffers = guest.buffers(iovs, iovs_len)
    guest.write_u32(result, context.descriptors.get(fd).read(buffers))


@preview1("iiii")
def fd_write(context: Context, guest: GuestMemory, fd: int, iovs: int, iovs_len: int, result: int) -> None:
    """Write where a descriptor is."""
    buffers = guest.buffers(iovs, iovs_len)
    guest.write_u32(result, context.descriptors.get(fd).write(buffers))


@preview1("iiiIi")
def fd_pread(context: Context, guest: GuestMemory, fd: int, iovs: int, iovs_len: int, offset: int, result: int) -> None:
    """Read from an offset."""
    buffers = guest.buffers(iovs, iovs_len)
    guest.write_u32(result, context.descriptors.get(fd).read_at(buffers, offset))


@preview1("iiiIi")
def fd_pwrite(
    context: Context, guest: GuestMemory, fd: int, iovs: int, iovs_len: int, offset: int, result: int
) -> None:
    """Write to an offset."""
    buffers = guest.buffers(iovs, iovs_len)
    guest.write_u32(result, context.descriptors.get(fd).write_at(buffers, offset))


@preview1("iIii")
def fd_seek(context: Context, guest: GuestMemory, fd: int, offset: int, whence: int, result: int) -> None:
    """Go to an offset, which is counted from the beginning, from where it is, or from the end."""
    descriptor = context.descriptors.get(fd)
    system = _WHENCE.get(whence)  # type: ignore[call-overload]  # an int is looked up as its enum would be
    if system is None:
        raise WasiError(Errno.INVAL)
    guest.write_u64(result, descriptor.seek((offset ^ _SIGN) - _SIGN, system))


@preview1("ii")
def fd_tell(context: Context, guest: GuestMemory, fd: int, result: int) -> None:
    """Write at which offset a descriptor is."""
    guest.write_u64(result, context.descriptors.get(fd).seek(0, os.SEEK_CUR))


@preview1("iIIi")
def fd_advise(context: Context, guest: GuestMemory, fd: int, offset: int, length: int, advice: int) -> None:
    """Tell the system how a file will be used."""
    file = context.file(fd)
    system = _ADVICE.get(advice)  # type: ignore[call-overload]  # an int is looked up as its enum would be
    if system is None:
        raise WasiError(Errno.INVAL)
    os.posix_fadvise(file.number, checked_offset(offset), checked_offset(length), system)


@preview1("iII")
def fd_allocate(context: Context, guest: GuestMemory, fd: int, offset: int, length: int) -> None:
    """Have a file be so large, and its bytes have room on the disk."""
    file = context.file(fd)
    file.check_mutable()
    os.posix_fallocate(file.number, checked_offset(offset), checked_offset(length))


@preview1("i")
def fd_datasync(context: Context, guest: GuestMemory, fd: int) -> None:
    """Have a file's bytes be on the disk."""
    os.fdatasync(context.opened(fd).number)


@preview1("i")
def fd_sync(context: Context, guest: GuestMemory, fd: int) -> None:
    """Have a file's bytes, and what is known of it, be on the disk."""
    os.fsync(context.opened(fd).number)


# ----------------------------------------------------------------------------------------------------------------------
# What a descriptor is


@preview1("ii")
def fd_fdstat_get(context: Context, guest: GuestMemory, fd: int, result: int) -> None:
    """Write type, flags and rights."""
    guest.write_record(result, context.descriptors.get(fd).fdstat())


@preview1("ii")
def fd_fdstat_set_flags(context: Context, guest: GuestMemory, fd: int, flags: int) -> None:
    """Set whether a file appends, and whether it waits."""
    context.file(fd).set_flags(flags)


@preview1("iII")
def fd_fdstat_set_rights(context: Context, guest: GuestMemory, fd: int, base: int, inheriting: int) -> None:
    """ENOTSUP: rights are what a descriptor was opened with."""
    context.opened(fd)
    raise WasiError(Errno.NOTSUP)


@preview1("ii")
def fd_filestat_get(context: Context, guest: GuestMemory, fd: int, result: int) -> None:
    """Write what a file is, how large, and its times."""
    guest.write_record(result, context.descriptors.get(fd).filestat())


@preview1("iI")
def fd_filestat_set_size(context: Context, guest: GuestMemory, fd: int, size: int) -> None:
    """Cut a file, or fill it up with zeros."""
    file = context.file(fd)
    file.check_mutable()
    os.ftruncate(file.number, checked_offset(size))


@preview1("iIIi")
def fd_filestat_set_times(context: Context, guest: GuestMemory, fd: int, atim: int, mtim: int, flags: int) -> None:
    """Set a file's times."""
    check_times(flags)
    opened = context.opened(fd)
    opened.check_mutable()
    found = os.fstat(opened.number)
    os.utime(opened.number, ns=times_of(flags, atim, mtim, found))


def check_times(flags: int) -> None:
    """EINVAL for flags that there are not, or that say two things of one time."""
    if flags & ~0xF or flags & 3 == 3 or flags & 12 == 12:
        raise WasiError(Errno.INVAL)


def times_of(flags: int, atim: int, mtim: int, found: os.stat_result) -> tuple[int, int]:
    """Return when a file is to have been read and written last; `found` has the times that stay."""
    now = time.time_ns()
    return (
        atim if flags & Fstflags.ATIM else now if flags & Fstflags.ATIM_NOW else found.st_atime_ns,
        mtim if flags & Fstflags.MTIM else now if flags & Fstflags.MTIM_NOW else found.st_mtime_ns,
    )


# ----------------------------------------------------------------------------------------------------------------------
# Numbers


@preview1("i")
def fd_close(context: Context, guest: GuestMemory, fd: int) -> None:
    """Close a descriptor."""
    context.descriptors.remove(fd)


@preview1("ii")
def fd_renumber(context: Context, guest: GuestMemory, fd: int, to: int) -> None:
    """Have a descriptor take another one's number, which is closed."""
    context.descriptors.move(fd, to)


# ----------------------------------------------------------------------------------------------------------------------
# Folders


@preview1("ii")
def fd_prestat_get(context: Context, guest: GuestMemory, fd: int, result: int) -> None:
    """Write how long the path is that a program knows a folder by."""
    descriptor = context.descriptors.get(fd)
    if not isinstance(descriptor, Directory) or descriptor.preopened_as is None:
        raise WasiError(Errno.BADF)
    guest.write_record(result, Prestat(PREOPENTYPE_DIR, len(descriptor.preopened_as)))


@preview1("iii")
def fd_prestat_dir_name(context: Context, guest: GuestMemory, fd: int, path: int, path_len: int) -> None:
    """Write the path that a program knows a folder by."""
    descriptor = context.descriptors.get(fd)
    if not isinstance(descriptor, Directory) or descriptor.preopened_as is None:
        raise WasiError(Errno.NOTDIR)
    if len(descriptor.preopened_as) > path_len:
        raise WasiError(Errno.NAMETOOLONG)
    guest.write(path, descriptor.preopened_as)


@preview1("iiiIi")
def fd_readdir(context: Context, guest: GuestMemory, fd: int, buf: int, buf_len: int, cookie: int, result: int) -> None:
    """Write a folder's entries from one on, as many as fit; the last one may be cut."""
    directory = context.directory(fd)
    buffer = guest.bytes_at(buf, buf_len)
    used = 0
    for number, (filetype, inode, name) in enumerate(directory.entries(anew=cookie == 0)[cookie:], cookie + 1):
        entry = bytes(Dirent(number, inode, len(name), filetype)) + name
        part = entry[: buf_len - used]
        buffer[used : used + len(part)] = part
        used += len(part)
        if used == buf_len:
            break
    guest.write_u32(result, used)
