"""Verifying as Python does it: all problems of a heap, live or of an image, by the functions that C has, too.

`problems_of` runs `collectors/shared/verify.py`, and what the heap's collector adds. Whatever is in the heap's bytes
and tables, it ends, and raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from lowheap.collectors.shared.verify import forget_notes, verify
from lowheap.native import Heap


def problems_of(heap: Heap, held: Iterable[tuple[int, int]] = (), *, has_lists: bool = True) -> list[str]:
    """Return every invariant that does not hold, one sentence each; none when the heap is sound.

    `held` are references that frames hold without counting them, each with the address of its slot, or 0. `has_lists`:
    free blocks are on free lists, as segregated fit has them.
    """
    notes = verify(heap, has_lists)
    try:
        if notes and not heap.problems:
            for place, reference in held:
                heap.collector.verify_held(heap, notes, place, reference)
    finally:
        forget_notes(heap, notes)
    return heap.problems
