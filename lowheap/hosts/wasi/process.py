"""Arguments, environment, random numbers, the end of a program, and what there is not: signals and sockets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lowheap.errors import ExitTrap
from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.functions import preview1
from lowheap.hosts.wasi.guest import GuestMemory
from lowheap.hosts.wasi.layout import POINTER_SIZE, Errno

_PIECE = 1 << 16
"""So many random bytes the system is asked for at once."""


def _write_sizes(guest: GuestMemory, strings: Sequence[bytes], count: int, size: int) -> None:
    guest.write_u32(count, len(strings))
    guest.write_u32(size, sum(len(each) + 1 for each in strings))


def _write_strings(guest: GuestMemory, strings: Sequence[bytes], pointers: int, text: int) -> None:
    for number, each in enumerate(strings):
        guest.write_u32(pointers + POINTER_SIZE * number, text)
        guest.write(text, each + b"\0")
        text += len(each) + 1


@preview1("ii")
def args_get(context: Context, guest: GuestMemory, argv: int, argv_buf: int) -> None:
    """Write the arguments, and where each is."""
    _write_strings(guest, context.arguments, argv, argv_buf)


@preview1("ii")
def args_sizes_get(context: Context, guest: GuestMemory, count: int, size: int) -> None:
    """Write how many arguments there are, and how many bytes."""
    _write_sizes(guest, context.arguments, count, size)


@preview1("ii")
def environ_get(context: Context, guest: GuestMemory, environ: int, environ_buf: int) -> None:
    """Write the environment, and where each variable is."""
    _write_strings(guest, context.environment, environ, environ_buf)


@preview1("ii")
def environ_sizes_get(context: Context, guest: GuestMemory, count: int, size: int) -> None:
    """Write how many variables there are, and how many bytes."""
    _write_sizes(guest, context.environment, count, size)


@preview1("ii")
def random_get(context: Context, guest: GuestMemory, buf: int, buf_len: int) -> None:
    """Fill bytes with the system's random numbers."""
    whole = guest.bytes_at(buf, buf_len)
    for start in range(0, buf_len, _PIECE):
        piece = whole[start : start + _PIECE]
        piece[:] = os.urandom(len(piece))


@preview1("i", has_result=False)
def proc_exit(context: Context, guest: GuestMemory, rval: int) -> None:
    """End the program."""
    raise ExitTrap(rval)


@preview1("")
def sched_yield(context: Context, guest: GuestMemory) -> None:
    """Let others run."""
    os.sched_yield()


def _missing(context: Context, guest: GuestMemory, *_: int) -> None:
    """ENOSYS: there is no such thing here."""
    raise WasiError(Errno.NOSYS)


for _name, _parameters in (
    ("proc_raise", "i"),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
):
    preview1(_parameters, name=_name)(_missing)
