"""The functions of paths, `path_…`. Each walks to a folder, and does one thing to one name in it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.descriptors import SYSTEM_FLAGS, Directory, File, Opened, filestat_of
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.files import check_times, times_of
from lowheap.hosts.wasi.functions import preview1
from lowheap.hosts.wasi.guest import GuestMemory
from lowheap.hosts.wasi.layout import Errno, Lookupflags, Oflags, Rights
from lowheap.hosts.wasi.resolution import Walk

_FOLLOW = int(Lookupflags.SYMLINK_FOLLOW)  # an int, for of a flag's complement only what has names is left
_ALL_OFLAGS = int(Oflags.CREAT | Oflags.DIRECTORY | Oflags.EXCL | Oflags.TRUNC)
_ALL_FDFLAGS = int(sum(SYSTEM_FLAGS))


def _follows(flags: int) -> bool:
    """Whether a last name that is a link is followed. EINVAL for flags that there are not."""
    if flags & ~_FOLLOW:
        raise WasiError(Errno.INVAL)
    return bool(flags)


def _found(walk: Walk) -> os.stat_result:
    """Look at what a walk has come to. ENOTDIR if that must be a folder and is none."""
    found = os.stat(walk.name, dir_fd=walk.folder, follow_symlinks=False)
    if walk.must_be_folder and not stat.S_ISDIR(found.st_mode):
        raise WasiError(Errno.NOTDIR)
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Opening


@preview1("iiiiiIIii")
def path_open(
    context: Context,
    guest: GuestMemory,
    fd: int,
    dirflags: int,
    path: int,
    path_len: int,
    oflags: int,
    rights_base: int,
    rights_inheriting: int,
    fdflags: int,
    result: int,
) -> None:
    """Open a file or a folder, and write its descriptor."""
    follows = _follows(dirflags)
    if oflags & ~_ALL_OFLAGS or fdflags & ~_ALL_FDFLAGS:
        raise WasiError(Errno.INVAL)
    text = guest.path(path, path_len)
    directory = context.directory(fd, otherwise=Errno.NOTDIR)
    if oflags & Oflags.DIRECTORY and oflags != Oflags.DIRECTORY:
        raise WasiError(Errno.INVAL)
    writes = bool(rights_base & Rights.FD_WRITE or oflags & (Oflags.CREAT | Oflags.TRUNC))
    if writes:
        directory.check_mutable()
    opened = _open(directory, text, follows, _system_flags(oflags, rights_base, fdflags, writes=writes))
    guest.write_u32(result, context.descriptors.add(opened))


def _system_flags(oflags: int, rights: int, fdflags: int, *, writes: bool) -> int:
    """Return how the system is to open. What is to be opened for nothing is opened for reading."""
    reads = bool(rights & Rights.FD_READ) or not rights & Rights.FD_WRITE
    flags = os.O_RDWR if reads and writes else os.O_WRONLY if writes else os.O_RDONLY
    for oflag, system in (
        (Oflags.CREAT, os.O_CREAT),
        (Oflags.DIRECTORY, os.O_DIRECTORY),
        (Oflags.EXCL, os.O_EXCL),
        (Oflags.TRUNC, os.O_TRUNC),
    ):
        if oflags & oflag:
            flags |= system
    for fdflag, system in SYSTEM_FLAGS.items():
        if fdflags & fdflag:
            flags |= system
    return flags | os.O_NOFOLLOW | os.O_NOCTTY


def _open(directory: Directory, path: bytes, follows: bool, flags: int) -> Opened:
    # Who makes a file and wants none to be there yet wants no link either, wherever it leads.
    is_exclusive = bool(flags & os.O_CREAT and flags & os.O_EXCL)
    with Walk(directory.number, path, follow=follows and not is_exclusive) as walk:
        if walk.must_be_folder:
            if flags & os.O_CREAT:
                raise WasiError(Errno.EXIST if is_exclusive and walk.name == b"." else Errno.ISDIR)
            flags |= os.O_DIRECTORY
        number = os.open(walk.name, flags, 0o666, dir_fd=walk.folder)
    try:
        is_folder = stat.S_ISDIR(os.fstat(number).st_mode)
    except BaseException:
        os.close(number)
        raise
    kind = Directory if is_folder else File
    return kind(number, is_mutable=directory.is_mutable)


# ----------------------------------------------------------------------------------------------------------------------
# Looking


@preview1("iiiii")
def path_filestat_get(
    context: Context, guest: GuestMemory, fd: int, flags: int, path: int, path_len: int, result: int
) -> None:
    """Write what a file is, how large, and its times."""
    follows = _follows(flags)
    text = guest.path(path, path_len)
    with Walk(context.directory(fd).number, text, follow=follows) as walk:
        guest.write_record(result, filestat_of(_found(walk)))


@preview1("iiiiii")
def path_readlink(
    context: Context, guest: GuestMemory, fd: int, path: int, path_len: int, buf: int, buf_len: int, result: int
) -> None:
    """Write the text of a link, as much as fits. EPERM for one that leads out by its first byte."""
    text = guest.path(path, path_len)
    with Walk(context.directory(fd).number, text) as walk:
        if walk.must_be_folder:
            _found(walk)
        link = os.readlink(walk.name, dir_fd=walk.folder)
    if link.startswith(b"/"):
        raise WasiError(Errno.PERM)
    part = link[:buf_len]
    guest.write(buf, part)
    guest.write_u32(result, len(part))


@preview1("iiiiIIi")
def path_filestat_set_times(
    context: Context,
    guest: GuestMemory,
    fd: int,
    flags: int,
    path: int,
    path_len: int,
    atim: int,
    mtim: int,
    fst_flags: int,
) -> None:
    """Set a file's times."""
    follows = _follows(flags)
    check_times(fst_flags)
    text = guest.path(path, path_len)
    directory = context.directory(fd)
    directory.check_mutable()
    with Walk(directory.number, text, follow=follows) as walk:
        times = times_of(fst_flags, atim, mtim, _found(walk))
        os.utime(walk.name, ns=times, dir_fd=walk.folder, follow_symlinks=False)


# ----------------------------------------------------------------------------------------------------------------------
# Making, moving and removing


@contextmanager
def _to_change(context: Context, guest: GuestMemory, fd: int, path: int, path_len: int) -> Iterator[Walk]:
    """Walk to a name that is to be made or removed. EPERM where nothing may be changed."""
    text = guest.path(path, path_len)
    directory = context.directory(fd)
    directory.check_mutable()
    with Walk(directory.number, text, slash_follows=False) as walk:
        yield walk


@preview1("iii")
def path_create_directory(context: Context, guest: GuestMemory, fd: int, path: int, path_len: int) -> None:
    """Make a folder."""
    with _to_change(context, guest, fd, path, path_len) as walk:
        os.mkdir(walk.name, dir_fd=walk.folder)


@preview1("iii")
def path_remove_directory(context: Context, guest: GuestMemory, fd: int, path: int, path_len: int) -> None:
    """Remove an empty folder."""
    with _to_change(context, guest, fd, path, path_len) as walk:
        os.rmdir(walk.name, dir_fd=walk.folder)


@preview1("iii")
def path_unlink_file(context: Context, guest: GuestMemory, fd: int, path: int, path_len: int) -> None:
    """Remove what is no folder."""
    with _to_change(context, guest, fd, path, path_len) as walk:
        if walk.must_be_folder:
            _found(walk)
            raise WasiError(Errno.ISDIR)
        os.unlink(walk.name, dir_fd=walk.folder)


@preview1("iiiii")
def path_symlink(
    context: Context, guest: GuestMemory, old_path: int, old_path_len: int, fd: int, path: int, path_len: int
) -> None:
    """Make a symbolic link. EPERM for one with an absolute path."""
    target = guest.path(old_path, old_path_len)
    text = guest.path(path, path_len)
    directory = context.directory(fd)
    directory.check_mutable()
    if target.startswith(b"/"):
        raise WasiError(Errno.PERM)
    with Walk(directory.number, text, slash_follows=False) as walk:
        _check_no_slash(walk)
        os.symlink(target, walk.name, dir_fd=walk.folder)


@preview1("iiiiiii")
def path_link(
    context: Context,
    guest: GuestMemory,
    old_fd: int,
    old_flags: int,
    old_path: int,
    old_path_len: int,
    fd: int,
    path: int,
    path_len: int,
) -> None:
    """Make a hard link. EINVAL where a symbolic one is to be followed."""
    follows = _follows(old_flags)
    old_text = guest.path(old_path, old_path_len)
    text = guest.path(path, path_len)
    old, new = context.directory(old_fd), context.directory(fd)
    old.check_mutable()
    new.check_mutable()
    if follows:
        raise WasiError(Errno.INVAL)
    with Walk(old.number, old_text) as source, Walk(new.number, text, slash_follows=False) as target:
        _found(source)
        _check_no_slash(target)
        os.link(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder, follow_symlinks=False)


@preview1("iiiiii")
def path_rename(
    context: Context,
    guest: GuestMemory,
    fd: int,
    old_path: int,
    old_path_len: int,
    new_fd: int,
    path: int,
    path_len: int,
) -> None:
    """Move a file or a folder to another name."""
    old_text = guest.path(old_path, old_path_len)
    text = guest.path(path, path_len)
    old, new = context.directory(fd), context.directory(new_fd)
    old.check_mutable()
    new.check_mutable()
    with (
        Walk(old.number, old_text, slash_follows=False) as source,
        Walk(new.number, text, slash_follows=False) as target,
    ):
        if any(each.must_be_folder and each.name != b"." for each in (source, target)):
            source.must_be_folder = True
            _found(source)
        os.rename(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)


def _check_no_slash(walk: Walk) -> None:
    """What is to be made is no folder: with a slash behind its name, it is EEXIST, ENOTDIR or ENOENT."""
    if walk.must_be_folder:
        _found(walk)
        raise WasiError(Errno.EXIST)
