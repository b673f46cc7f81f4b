"""Limits of memories and tables: whether they make sense, what fits what, and address space for as much as may come."""

from __future__ import annotations

from lowheap.errors import HeapError
from lowheap.memory import Mapping
from lowheap.types import Limits
from lowheap.values import as_index

_GRANULE = 1 << 16
"""A reservation is a multiple of so many bytes, as every system's pages are."""

_MOST_32 = (1 << 32) - 2
"""Pages or elements, at most, where addresses have 32 bits: one more is what growing returns when it fails."""


def fits(own: Limits, wanted: Limits) -> bool:
    """Whether what has limits may be imported under others."""
    return own.min >= wanted.min and (wanted.max is None or (own.max is not None and own.max <= wanted.max))


def sizes(limits: Limits, is_64: bool, most: int, what: str) -> tuple[int, int]:
    """Return how many pages or elements there are at first, and may be at most: `most`, unless there are more at first.

    HeapError where there would be so many that `memory.grow` or `table.grow` could not say how many there were.
    """
    most = max(limits.min, most if limits.max is None else min(limits.max, most))
    if is_64:
        return limits.min, most
    if limits.min > _MOST_32:
        raise HeapError(f"a {what} may have a size of {_MOST_32} at most; one of {limits.min} is wanted")
    return limits.min, min(most, _MOST_32)


def reserve(least: int, most: int, what: str) -> Mapping:
    """Return so many bytes of address space for something, or, where these are not to be had, fewer.

    HeapError where there is no room for the least.
    """
    size = most
    while True:
        try:
            return Mapping(max(_GRANULE, (size + _GRANULE - 1) & -_GRANULE))
        except (MemoryError, OverflowError) as error:
            if size <= least:
                why = f": {error}" if isinstance(error, MemoryError) else ""  # else it is more than any system has
                raise HeapError(f"no address space is left for a {what} of {least} bytes{why}") from error
            size = max(least, size // 2)


def check_flags(**flags: object) -> None:
    """TypeError for what a type says of itself and is no bool."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; it must be a bool")


def growth(delta: object, what: str, unit: str) -> int:
    """Return by how much something is to grow. TypeError or ValueError for what does not say that."""
    count = as_index(delta)
    if count is None:
        raise TypeError(f"a {what} grows by an int, a number of {unit}, not by {delta!r}")
    if count < 0:
        raise ValueError(f"cannot grow a {what} by {count} {unit}")
    return count


def check_limits(limits: object, most: int, unit: str, range: str) -> None:
    """TypeError or ValueError for what are no limits. `most` is the largest that there is, `range` how to say that."""
    if not isinstance(limits, Limits):
        raise TypeError(f"the limits are {limits!r}; they must be Limits")
    for name, value in (("min", limits.min), ("max", limits.max)):
        if value is None and name == "max":
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"the limits' {name} is {value!r}; it must be an int, a number of {unit}")
        if not 0 <= value <= most:
            raise ValueError(f"the limits' {name} is {value}; it must be {range}")
    if limits.max is not None and limits.max < limits.min:
        raise ValueError(f"the limits are {limits.min} to {limits.max}; the first may not be the larger one")
