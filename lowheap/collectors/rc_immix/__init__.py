"""Counting by epochs, in blocks and lines: the fast collector.

It counts as `drc` does, and frees what nobody refers to; but what dies young is never counted, listed or looked at.

- **Allocation** moves a pointer through free lines of 256 bytes (`space.py`). A new object has count 0, and nobody
  knows of it.
- **The write barrier** (`barriers.py`) logs, at the first store to a slot in an epoch, the slot and what it referred
  to. There is none for reading, for what is young, nor for roots.
- **At an epoch's end** what roots hold and logged slots refer to is counted up, transitively for what survives, and
  what was let go of is counted down (`counting.py`). A line in which nothing has survived is free.
- **Or it is traced**: that costs what lives, and finds cycles (`cycles.py`).
- How long an epoch is, and which it is, is `policy.py`'s; `collection.py` puts it together. `state.py` has what the
  collector keeps, `walking.py` and `verify.py` what looks at it.

It is coalescing reference counting after Levanoni and Petrank (2001), in the heap of Immix (Blackburn and McKinley,
2008), put together as RC Immix was (Shahriyar, Blackburn, Yang and McKinley, 2013), without moving objects.
"""

from lowheap.collectors.rc_immix.collector import RcImmix

__all__ = ["RcImmix"]
