"""`drc`, without the list for what is let go of at once.

A program that walks a list or a tree reads many references only to read on from them. `drc` puts each on the list of
what compiled code may hold, and a collection takes it off again. But no collection comes in between, and no store that
could take away the object's last owner: the slot that it was read from keeps it alive. Here such a read is a load.

lowheap run examples/linked_list.wat --invoke run 3 2 \
    --collector examples/collectors/short_lived_reads.py:ShortLivedReads
"""

from __future__ import annotations

from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Shape
from lowheap.native import Heap, Ref, Slot, event


class ShortLivedReads(Drc):
    """`drc` with a read barrier for what is held across a safepoint or a write only."""

    @event
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        """Load, and list what is held for long."""
        if shape.outlives_safepoint or shape.outlives_write:
            return Drc.read(heap, owner, slot, shape)
        return slot.value
