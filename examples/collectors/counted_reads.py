"""What `drc` does, and one figure more: how many references compiled code has read.

lowheap run examples/binary_trees.wat --invoke run 3 2 --collector examples/collectors/counted_reads.py:CountedReads
"""

from __future__ import annotations

from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Shape
from lowheap.native import Heap, Ref, Slot, native, state, u64


@state
class Reads:
    """What is kept in the heap's bytes, besides what `drc` keeps there."""

    reads: u64


class CountedReads(Drc):
    """`drc` with a read barrier that counts."""

    states = (Reads,)
    counters = ("reads",)

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        """Count, and do what `drc` does."""
        heap.state(Reads).reads += 1
        return Drc.read(heap, owner, slot, shape)
