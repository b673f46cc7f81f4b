"""Every number and structure of the ABI: what a program and the host say to each other in its memory.

Numbers and names are those of `wasi_snapshot_preview1`'s witx, the structures' fields too.
"""

from __future__ import annotations

import ctypes
import enum
import struct


class Errno(enum.IntEnum):
    """What a function returns: 0, or why it did nothing."""

    SUCCESS = 0
    TOOBIG = 1
    ACCES = 2
    ADDRINUSE = 3
    ADDRNOTAVAIL = 4
    AFNOSUPPORT = 5
    AGAIN = 6
    ALREADY = 7
    BADF = 8
    BADMSG = 9
    BUSY = 10
    CANCELED = 11
    CHILD = 12
    CONNABORTED = 13
    CONNREFUSED = 14
    CONNRESET = 15
    DEADLK = 16
    DESTADDRREQ = 17
    DOM = 18
    DQUOT = 19
    EXIST = 20
    FAULT = 21
    FBIG = 22
    HOSTUNREACH = 23
    IDRM = 24
    ILSEQ = 25
    INPROGRESS = 26
    INTR = 27
    INVAL = 28
    IO = 29
    ISCONN = 30
    ISDIR = 31
    LOOP = 32
    MFILE = 33
    MLINK = 34
    MSGSIZE = 35
    MULTIHOP = 36
    NAMETOOLONG = 37
    NETDOWN = 38
    NETRESET = 39
    NETUNREACH = 40
    NFILE = 41
    NOBUFS = 42
    NODEV = 43
    NOENT = 44
    NOEXEC = 45
    NOLCK = 46
    NOLINK = 47
    NOMEM = 48
    NOMSG = 49
    NOPROTOOPT = 50
    NOSPC = 51
    NOSYS = 52
    NOTCONN = 53
    NOTDIR = 54
    NOTEMPTY = 55
    NOTRECOVERABLE = 56
    NOTSOCK = 57
    NOTSUP = 58
    NOTTY = 59
    NXIO = 60
    OVERFLOW = 61
    OWNERDEAD = 62
    PERM = 63
    PIPE = 64
    PROTO = 65
    PROTONOSUPPORT = 66
    PROTOTYPE = 67
    RANGE = 68
    ROFS = 69
    SPIPE = 70
    SRCH = 71
    STALE = 72
    TIMEDOUT = 73
    TXTBSY = 74
    XDEV = 75
    NOTCAPABLE = 76


class Clock(enum.IntEnum):
    """The clocks."""

    REALTIME = 0
    MONOTONIC = 1
    PROCESS_CPUTIME = 2
    THREAD_CPUTIME = 3


class Filetype(enum.IntEnum):
    """What a file is."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_DGRAM = 5
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


class Rights(enum.IntFlag):
    """What a descriptor may be used for. Programs ask; of these only reading and writing limit anything."""

    FD_DATASYNC = 1 << 0
    FD_READ = 1 << 1
    FD_SEEK = 1 << 2
    FD_FDSTAT_SET_FLAGS = 1 << 3
    FD_SYNC = 1 << 4
    FD_TELL = 1 << 5
    FD_WRITE = 1 << 6
    FD_ADVISE = 1 << 7
    FD_ALLOCATE = 1 << 8
    PATH_CREATE_DIRECTORY = 1 << 9
    PATH_CREATE_FILE = 1 << 10
    PATH_LINK_SOURCE = 1 << 11
    PATH_LINK_TARGET = 1 << 12
    PATH_OPEN = 1 << 13
    FD_READDIR = 1 << 14
    PATH_READLINK = 1 << 15
    PATH_RENAME_SOURCE = 1 << 16
    PATH_RENAME_TARGET = 1 << 17
    PATH_FILESTAT_GET = 1 << 18
    PATH_FILESTAT_SET_SIZE = 1 << 19
    PATH_FILESTAT_SET_TIMES = 1 << 20
    FD_FILESTAT_GET = 1 << 21
    FD_FILESTAT_SET_SIZE = 1 << 22
    FD_FILESTAT_SET_TIMES = 1 << 23
    PATH_SYMLINK = 1 << 24
    PATH_REMOVE_DIRECTORY = 1 << 25
    PATH_UNLINK_FILE = 1 << 26
    POLL_FD_READWRITE = 1 << 27
    SOCK_SHUTDOWN = 1 << 28
    SOCK_ACCEPT = 1 << 29


ALL_RIGHTS = (1 << 30) - 1
DIRECTORY_RIGHTS = ALL_RIGHTS & ~(Rights.FD_SEEK | Rights.FD_FILESTAT_SET_SIZE | Rights.PATH_FILESTAT_SET_SIZE)
"""Those that make sense of a folder, and of what is opened in it."""

PREOPENED_RIGHTS = int(
    Rights.PATH_CREATE_DIRECTORY
    | Rights.PATH_CREATE_FILE
    | Rights.PATH_LINK_SOURCE
    | Rights.PATH_LINK_TARGET
    | Rights.PATH_OPEN
    | Rights.FD_READDIR
    | Rights.PATH_READLINK
    | Rights.PATH_RENAME_SOURCE
    | Rights.PATH_RENAME_TARGET
    | Rights.PATH_SYMLINK
    | Rights.PATH_REMOVE_DIRECTORY
    | Rights.PATH_UNLINK_FILE
    | Rights.PATH_FILESTAT_GET
    | Rights.PATH_FILESTAT_SET_TIMES
    | Rights.FD_FILESTAT_GET
    | Rights.FD_FILESTAT_SET_TIMES
)
"""Those of a folder that a program begins with; C libraries compare with them."""

PREOPENED_INHERITING = PREOPENED_RIGHTS | int(
    Rights.FD_DATASYNC
    | Rights.FD_READ
    | Rights.FD_SEEK
    | Rights.FD_FDSTAT_SET_FLAGS
    | Rights.FD_SYNC
    | Rights.FD_TELL
    | Rights.FD_WRITE
    | Rights.FD_ADVISE
    | Rights.FD_ALLOCATE
    | Rights.FD_FILESTAT_SET_SIZE
    | Rights.POLL_FD_READWRITE
)
"""Those of what is opened in one."""


class Fdflags(enum.IntFlag):
    """How a descriptor works."""

    APPEND = 1 << 0
    DSYNC = 1 << 1
    NONBLOCK = 1 << 2
    RSYNC = 1 << 3
    SYNC = 1 << 4


class Oflags(enum.IntFlag):
    """How `path_open` opens."""

    CREAT = 1 << 0
    DIRECTORY = 1 << 1
    EXCL = 1 << 2
    TRUNC = 1 << 3


class Fstflags(enum.IntFlag):
    """Which times are set, and to what."""

    ATIM = 1 << 0
    ATIM_NOW = 1 << 1
    MTIM = 1 << 2
    MTIM_NOW = 1 << 3


class Lookupflags(enum.IntFlag):
    """How a path is looked up."""

    SYMLINK_FOLLOW = 1 << 0


class Whence(enum.IntEnum):
    """What `fd_seek` counts from."""

    SET = 0
    CUR = 1
    END = 2


class Advice(enum.IntEnum):
    """What is said of a file's use to come."""

    NORMAL = 0
    SEQUENTIAL = 1
    RANDOM = 2
    WILLNEED = 3
    DONTNEED = 4
    NOREUSE = 5


class Eventtype(enum.IntEnum):
    """What a subscription waits for."""

    CLOCK = 0
    FD_READ = 1
    FD_WRITE = 2


SUBSCRIPTION_CLOCK_ABSTIME = 1 << 0
FD_READWRITE_HANGUP = 1 << 0
PREOPENTYPE_DIR = 0

POINTER_SIZE = 4


class Iovec(ctypes.LittleEndianStructure):
    """Where bytes are, and how many."""

    _fields_ = (("buf", ctypes.c_uint32), ("buf_len", ctypes.c_uint32))


IOVEC = struct.Struct("<II")
"""The same, as `struct` reads many at once."""
assert IOVEC.size == ctypes.sizeof(Iovec)


class Fdstat(ctypes.LittleEndianStructure):
    """What a descriptor is."""

    _fields_ = (
        ("fs_filetype", ctypes.c_uint8),
        ("fs_flags", ctypes.c_uint16),
        ("fs_rights_base", ctypes.c_uint64),
        ("fs_rights_inheriting", ctypes.c_uint64),
    )


class Filestat(ctypes.LittleEndianStructure):
    """What a file is."""

    _fields_ = (
        ("dev", ctypes.c_uint64),
        ("ino", ctypes.c_uint64),
        ("filetype", ctypes.c_uint8),
        ("nlink", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("atim", ctypes.c_uint64),
        ("mtim", ctypes.c_uint64),
        ("ctim", ctypes.c_uint64),
    )


class Dirent(ctypes.LittleEndianStructure):
    """An entry of a folder; its name follows."""

    _fields_ = (
        ("d_next", ctypes.c_uint64),
        ("d_ino", ctypes.c_uint64),
        ("d_namlen", ctypes.c_uint32),
        ("d_type", ctypes.c_uint8),
    )


class Prestat(ctypes.LittleEndianStructure):
    """A folder that a program begins with."""

    _fields_ = (("tag", ctypes.c_uint8), ("pr_name_len", ctypes.c_uint32))


class SubscriptionClock(ctypes.LittleEndianStructure):
    """What waits for a time."""

    _fields_ = (
        ("id", ctypes.c_uint32),
        ("timeout", ctypes.c_uint64),
        ("precision", ctypes.c_uint64),
        ("flags", ctypes.c_uint16),
    )


class SubscriptionUnion(ctypes.LittleEndianUnion):
    """What a subscription waits for, by its tag: a time, or a descriptor."""

    _fields_ = (("clock", SubscriptionClock), ("file_descriptor", ctypes.c_uint32))


class Subscription(ctypes.LittleEndianStructure):
    """One thing that `poll_oneoff` waits for."""

    _fields_ = (("userdata", ctypes.c_uint64), ("tag", ctypes.c_uint8), ("u", SubscriptionUnion))


class EventFdReadwrite(ctypes.LittleEndianStructure):
    """What there is to be read or written."""

    _fields_ = (("nbytes", ctypes.c_uint64), ("flags", ctypes.c_uint16))


class Event(ctypes.LittleEndianStructure):
    """One thing that has come about."""

    _fields_ = (
        ("userdata", ctypes.c_uint64),
        ("error", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("fd_readwrite", EventFdReadwrite),
    )
