"""Votes for the functions that a call through a reference comes to. Written once, for compiled code and for Python.

By the algorithm of Misra and Gries, a site has some candidates. A call that comes to one of them is a vote for it; one
that comes to another function takes a free place, or, where there is none, a vote from each. So a function stays that
more than one in `CANDIDATES + 1` of the calls come to. As long as there are no more functions than places, votes are
just counts.
"""

from __future__ import annotations

from lowheap.layout import VMCallTarget
from lowheap.native import at, native, sizeof, u32, u64, wrapping_u32

CANDIDATES = 4
"""So many functions are candidates at each site."""


@native
def vote(site: u64, function: u32) -> None:
    """Note that a call came to a function. The site's candidates are at an address, in a row."""
    free: u64 = 0
    place = site
    end = site + CANDIDATES * sizeof(VMCallTarget)
    while place < end:
        candidate = at(VMCallTarget, place)
        if candidate.votes == 0:
            free = place
        elif candidate.function == function:
            candidate.votes = wrapping_u32(u64(candidate.votes) + 1)
            return
        place += sizeof(VMCallTarget)
    if free != 0:
        found = at(VMCallTarget, free)
        found.function = function
        found.votes = 1
        return
    place = site
    while place < end:
        at(VMCallTarget, place).votes -= 1
        place += sizeof(VMCallTarget)
