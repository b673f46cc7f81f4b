"""The clocks, and how long they take from one number to the next."""

from __future__ import annotations

import time

from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.functions import preview1
from lowheap.hosts.wasi.guest import GuestMemory
from lowheap.hosts.wasi.layout import Clock, Errno

_SYSTEM_CLOCKS = {
    Clock.REALTIME: time.CLOCK_REALTIME,
    Clock.MONOTONIC: time.CLOCK_MONOTONIC,
    Clock.PROCESS_CPUTIME: time.CLOCK_PROCESS_CPUTIME_ID,
    Clock.THREAD_CPUTIME: time.CLOCK_THREAD_CPUTIME_ID,
}


def now(clock: int) -> int:
    """Return a clock's time, in nanoseconds. EINVAL where there is no such clock."""
    return time.clock_gettime_ns(_system_clock(clock))


def _system_clock(clock: int) -> int:
    found = _SYSTEM_CLOCKS.get(clock)  # type: ignore[call-overload]  # an int is looked up as its enum would be
    if found is None:
        raise WasiError(Errno.INVAL)
    return int(found)


@preview1("ii")
def clock_res_get(context: Context, guest: GuestMemory, clock: int, result: int) -> None:
    """Write how fine a clock is, in nanoseconds."""
    guest.write_u64(result, max(1, round(time.clock_getres(_system_clock(clock)) * 1e9)))


@preview1("iIi")
def clock_time_get(context: Context, guest: GuestMemory, clock: int, precision: int, result: int) -> None:
    """Write a clock's time, as exact as the system has it."""
    guest.write_u64(result, now(clock))
