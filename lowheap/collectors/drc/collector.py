"""Deferred reference counting as a collector."""

from __future__ import annotations

from lowheap.collectors.drc import barriers
from lowheap.collectors.interface import Collector


class Drc(Collector):
    """wasmtime's collector, 37 to 43: counts, a list of what compiled code may hold, trace and sweep."""

    name = "drc"

    read = barriers.read
    write = barriers.write
    init = barriers.init
    allocated = barriers.allocated
    inc_ref = barriers.inc_ref
    dec_ref = barriers.dec_ref
    expose = barriers.expose


class Outlined(Drc):
    """What `drc` does, in functions that are called: small code, and a call for each event."""

    name = "outlined"
    called = True
