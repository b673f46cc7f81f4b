"""`HeapImage`: the bytes of a wasmtime GC heap at one moment, and what is certain about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_SIZE,
    KIND_MASK,
    NULL,
    RESERVED_MASK,
    WASMTIME_KINDS,
    VMDrcHeader,
    VMGcKind,
    block_length,
)
from lowheap.peers.errors import AmbiguousListError
from lowheap.representation import short_repr


@short_repr
@dataclass(frozen=True, slots=True)
class HeapImage:
    """A copy of a whole heap mapping: `data[i]` is the byte at heap index `i`.

    `data` reaches to the end of the memory that the heap has grown to; how much of it is in use, and where free blocks
    are, wasmtime keeps elsewhere. Freed memory is not cleared: stale headers stand in it.

    - `first_index`: where the first block starts
    - `source`: what it was taken from, in words; `version`: the wasmtime release
    - `base_address`: where index 0 was in the peer's memory
    - `probe`: the indices of the probe's two objects
    - `list_head`: the head of the over-approximated list, 0 for an empty list, None if it could not be found
    - `notes`: what else there is to say, a sentence each
    """

    data: bytes
    first_index: int
    source: str
    version: str
    base_address: int
    probe: tuple[int, int]
    list_head: int | None
    notes: tuple[str, ...] = ()

    def header(self, index: int) -> VMDrcHeader:
        """Return a copy of the header at an index. ValueError for an index where none can be."""
        if index % BLOCK_ALIGN or not FIRST_INDEX <= index <= len(self.data) - HEADER_SIZE:
            raise ValueError(f"{index:#x} is not the index of a block in a heap of {len(self.data):#x} bytes")
        return VMDrcHeader.from_buffer_copy(self.data, index)

    def list_order(self) -> tuple[int, ...]:
        """Return the indices on the over-approximated list, the latest first.

        From `list_head` where that is known, else from the headers alone (`derived_list_order`). AmbiguousListError if
        the list comes back to itself or leads to what is not a listed object.
        """
        if self.list_head is None:
            return self.derived_list_order()
        order: list[int] = []
        seen: set[int] = set()
        index = self.list_head
        while index != NULL:
            if index in seen:
                raise AmbiguousListError(f"{self.source}: the list comes back to {index:#x}")
            following = self._listed_next(index)
            if following is None:
                raise AmbiguousListError(f"{self.source}: the list leads to {index:#x}, where no listed object is")
            seen.add(index)
            order.append(index)
            index = following
        return tuple(order)

    def derived_list_order(self) -> tuple[int, ...]:
        """Return the same as `list_order`, from the headers alone: the list starts where no listed object leads.

        A sweep clears an object's in-list bit before it can be freed, so that stale headers do not count. Bytes inside
        an object can look like the header of a listed one: AmbiguousListError whenever what looks listed is not exactly
        one chain of blocks that do not overlap. What this cannot see is a single such imposter in a heap whose list is
        empty.
        """
        following = dict(self._listed())
        while stray := [index for index, next_ in following.items() if next_ != NULL and next_ not in following]:
            for index in stray:
                del following[index]
        end = FIRST_INDEX
        for index in sorted(following):
            if index < end:
                raise AmbiguousListError(f"{self.source}: something listed at {index:#x} is inside of another block")
            end = index + block_length(self.header(index).object_size)
        heads = following.keys() - following.values()
        order: list[int] = []
        index = min(heads, default=NULL)
        while index != NULL:
            order.append(index)
            index = following[index]
        if len(order) != len(following):  # several heads, two that lead to one, or a ring
            raise AmbiguousListError(
                f"{self.source}: {len(following)} objects look listed, but not as one chain; "
                f"nothing leads to {', '.join(f'{head:#x}' for head in sorted(heads)[:8]) or 'none of them'}"
            )
        return tuple(order)

    def _listed(self) -> Iterator[tuple[int, int]]:
        """Yield (index, next) for whatever looks like a listed object."""
        # The kind and bits are the header's first word; of a listed object it is one of four values, which the search
        # for bytes finds faster than a loop over all blocks would.
        for kind in WASMTIME_KINDS:
            word = (kind | HEADER_IN_OVER_APPROX_LIST_BIT).to_bytes(4, "little")
            index = self.data.find(word, FIRST_INDEX)
            while index >= 0:
                next_ = self._listed_next(index) if index % BLOCK_ALIGN == 0 else None
                if next_ is not None:
                    yield index, next_
                index = self.data.find(word, index + 1)

    def _listed_next(self, index: int) -> int | None:
        """The next link of the listed object at an index; None if there is none, or it is not sound."""
        if index % BLOCK_ALIGN or not FIRST_INDEX <= index <= len(self.data) - HEADER_SIZE:
            return None
        header = self.header(index)
        bits, kind = header.kind_and_reserved & RESERVED_MASK, header.kind_and_reserved & KIND_MASK
        if bits != HEADER_IN_OVER_APPROX_LIST_BIT or kind not in WASMTIME_KINDS or header.ref_count == 0:
            return None
        least = ARRAY_HEADER_END if kind in (VMGcKind.ARRAY_REF, VMGcKind.EXTERN_REF) else HEADER_SIZE
        if not least <= header.object_size <= len(self.data) - index:
            return None
        next_: int = header.next_over_approximated_stack_root
        if next_ == NULL or (next_ % BLOCK_ALIGN == 0 and FIRST_INDEX <= next_ < len(self.data) and next_ != index):
            return next_
        return None
