"""Externrefs that died: the host lets go of their data before their blocks are freed.

So they wait in a list, `dead_externrefs`, threaded through the link in their headers, which nobody else needs any more.
"""

from __future__ import annotations

from lowheap.layout import NULL, VMGcKind
from lowheap.native import Heap, Ref, inline, native, unlikely


@inline
def bury_externref(heap: Heap, reference: Ref) -> None:
    """Put an externref that died in front of those that wait for the host."""
    header = heap.header(reference)
    header.ref_count = 0
    header.kind_and_reserved = VMGcKind.EXTERN_REF
    header.next_over_approximated_stack_root = heap.control.dead_externrefs
    heap.control.dead_externrefs = reference


@inline
def release_dead_externrefs(heap: Heap) -> bool:
    """Have the host free the externrefs that died, if any did: their blocks may be the room that is wanted."""
    if unlikely(heap.control.dead_externrefs != NULL):
        return heap.release_externrefs() == 0
    return True


@native
def free_dead_externref(heap: Heap) -> None:
    """Free the first of the dead externrefs, whose host data the host has let go of."""
    reference = heap.control.dead_externrefs
    heap.control.dead_externrefs = heap.header_at(reference).next_over_approximated_stack_root
    heap.collector.free_leaf(heap, reference)
