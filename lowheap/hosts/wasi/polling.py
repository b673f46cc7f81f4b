"""`poll_oneoff`: waiting for times and for descriptors.

What cannot be waited for is an event with an error, not an error of the whole call, as the witx has it. A file always
has something, or room. Of standard streams, those that the system has are asked.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Iterator

from lowheap.hosts.wasi.clocks import now
from lowheap.hosts.wasi.context import Context
from lowheap.hosts.wasi.descriptors import Descriptor, File, Input, Output
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.functions import preview1
from lowheap.hosts.wasi.guest import GuestMemory
from lowheap.hosts.wasi.layout import (
    FD_READWRITE_HANGUP,
    SUBSCRIPTION_CLOCK_ABSTIME,
    Clock,
    Errno,
    Event,
    EventFdReadwrite,
    Eventtype,
    Subscription,
    SubscriptionClock,
)

_LONGEST_WAIT = 1 << 30
"""Milliseconds: so long the system waits at a time, at most."""

_LONGEST_SLEEP = 1 << 52
"""Nanoseconds: so long Python sleeps at a time, at most."""

_READY = {Eventtype.FD_READ: select.POLLIN, Eventtype.FD_WRITE: select.POLLOUT}


@preview1("iiii")
def poll_oneoff(context: Context, guest: GuestMemory, subs: int, events: int, count: int, result: int) -> None:
    """Wait until one thing has come about, or more, and write all that have."""
    if count == 0:
        raise WasiError(Errno.INVAL)
    found = _wait(context, guest.records(Subscription, subs, count))
    for number, event in enumerate(found):
        guest.write_record(events + number * ctypes.sizeof(Event), event)
    guest.write_u32(result, len(found))


def _wait(context: Context, subscriptions: list[Subscription]) -> list[Event]:
    """Return the events, one or more, in the order of what was waited for."""
    deadlines: dict[int, int] = {}  # by the subscription's place, in nanoseconds of the monotonic clock
    waited_for: dict[int, tuple[int, int]] = {}  # the system's descriptor, and what it is to be ready for
    at_once: dict[int, Event] = {}
    for place, each in enumerate(subscriptions):
        try:
            if each.tag == Eventtype.CLOCK:
                deadlines[place] = _deadline(each.u.clock)
            else:
                system = _waitable(context, each)
                if system is None:
                    at_once[place] = _ready(context, each, 0)
                else:
                    waited_for[place] = system, _READY[Eventtype(each.tag)]
        except WasiError as error:
            at_once[place] = Event(each.userdata, error.number, each.tag)
    while True:
        found = dict(at_once)
        moment = time.monotonic_ns()
        nearest = min(deadlines.values(), default=None)
        left = 0 if found else None if nearest is None else max(0, nearest - moment)
        if waited_for:
            for place, mask in _poll(waited_for, left):
                found[place] = _ready(context, subscriptions[place], mask)
        elif left:
            time.sleep(min(left, _LONGEST_SLEEP) / 1e9)
        moment = time.monotonic_ns()
        for place, deadline in deadlines.items():
            if deadline <= moment:
                found[place] = Event(subscriptions[place].userdata, Errno.SUCCESS, Eventtype.CLOCK)
        if found:
            return [found[place] for place in sorted(found)]


def _deadline(clock: SubscriptionClock) -> int:
    if clock.flags & ~SUBSCRIPTION_CLOCK_ABSTIME:
        raise WasiError(Errno.INVAL)
    if clock.id not in (Clock.REALTIME, Clock.MONOTONIC):
        raise WasiError(Errno.NOTSUP if clock.id in list(Clock) else Errno.INVAL)
    if clock.flags & SUBSCRIPTION_CLOCK_ABSTIME:
        return time.monotonic_ns() + int(clock.timeout) - now(clock.id)
    return time.monotonic_ns() + int(clock.timeout)


def _descriptor(context: Context, subscription: Subscription) -> Descriptor:
    """Return what is to be ready. EBADF where there is nothing that could be."""
    wanted = {Eventtype.FD_READ: Input, Eventtype.FD_WRITE: Output}.get(subscription.tag)
    if wanted is None:
        raise WasiError(Errno.INVAL)
    found = context.descriptors.get(subscription.u.file_descriptor)
    if not isinstance(found, wanted | File):
        raise WasiError(Errno.BADF)
    return found


def _waitable(context: Context, subscription: Subscription) -> int | None:
    """Return the system's descriptor to ask; None for what is always ready."""
    found = _descriptor(context, subscription)
    if isinstance(found, File):
        return found.number
    assert isinstance(found, Input | Output), "all else is EBADF"
    return found.stream.waitable()


def _poll(waited_for: dict[int, tuple[int, int]], left: int | None) -> Iterator[tuple[int, int]]:
    """Wait so many nanoseconds at most, and yield what is ready: its place, and what the system says of it."""
    masks: dict[int, int] = {}
    for system, mask in waited_for.values():
        masks[system] = masks.get(system, 0) | mask
    waiting = select.poll()
    for system, mask in masks.items():
        waiting.register(system, mask)
    found = dict(waiting.poll(None if left is None else min(_LONGEST_WAIT, -(-left // 1_000_000))))
    for place, (system, mask) in waited_for.items():
        ready = found.get(system, 0) & (mask | select.POLLERR | select.POLLHUP | select.POLLNVAL)
        if ready:
            yield place, ready


def _ready(context: Context, subscription: Subscription, mask: int) -> Event:
    """Return the event of a descriptor that is ready: how many bytes there are, or that there will be none any more."""
    event = Event(subscription.userdata, Errno.SUCCESS, subscription.tag)
    if mask & select.POLLNVAL:
        event.error = Errno.BADF
        return event
    if subscription.tag == Eventtype.FD_WRITE:
        event.fd_readwrite = EventFdReadwrite(1, FD_READWRITE_HANGUP if mask & select.POLLERR else 0)
        return event
    found = _descriptor(context, subscription)
    if isinstance(found, File):
        available = _rest_of(found)
        hangup = available == 0
        event.fd_readwrite = EventFdReadwrite(available, FD_READWRITE_HANGUP if hangup else 0)
        return event
    assert isinstance(found, Input), "only a file or standard input is read"
    system = found.stream.waitable()
    available = 1 if system is None else _available(system)
    hangup = available == 0 and bool(mask & select.POLLHUP)
    event.fd_readwrite = EventFdReadwrite(available, FD_READWRITE_HANGUP if hangup else 0)
    return event


def _rest_of(file: File) -> int:
    """Return how many bytes a file has from where it is on."""
    try:
        return max(0, os.fstat(file.number).st_size - file.seek(0, os.SEEK_CUR))
    except OSError as error:
        if error.errno != errno.ESPIPE:
            raise
        return _available(file.number)


def _available(system: int) -> int:
    """Return how many bytes can be read at once; 0 where nobody can say that."""
    answer = bytearray(struct.calcsize("i"))
    try:
        fcntl.ioctl(system, termios.FIONREAD, answer)
    except OSError:
        return 0
    return max(0, int(struct.unpack("i", answer)[0]))
