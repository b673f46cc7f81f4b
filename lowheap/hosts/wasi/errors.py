"""Errors as programs are told them: WASI's numbers, and which of them the system's errors are."""

from __future__ import annotations

import errno

from lowheap.hosts.wasi.layout import Errno


class WasiError(Exception):
    """`WasiError(Errno.BADF)`: a function does nothing, and returns that number. No user gets to see it."""

    @property
    def number(self) -> int:
        """The number that it returns."""
        return int(self.args[0])


def _host_name(number: Errno) -> str:
    return "E2BIG" if number is Errno.TOOBIG else f"E{number.name}"


_BY_HOST = {getattr(errno, _host_name(each)): int(each) for each in Errno if hasattr(errno, _host_name(each))}
_BY_HOST[errno.EOPNOTSUPP] = _BY_HOST[errno.ENOTSUP] = int(Errno.NOTSUP)


def number_of(error: OSError) -> int:
    """Return WASI's number for what the system has refused; that of EIO where it has none."""
    return _BY_HOST.get(error.errno or 0, int(Errno.IO))
