"""An image: the bytes of a heap at one moment, and what is needed to read them without the heap.

There are two sorts of image, which differ in how objects are found.

**Of a lowheap heap** (`Image.take`): the bytes from index 0 to the bump pointer, every block of which tells its length.
Objects are found by a walk, and all that is found is certain.

**Of a wasmtime heap** (`Image.from_wasmtime`): a copy of the whole mapping. wasmtime's free list is outside of the
heap, and the memory of a freed object keeps its stale header, so nothing in the bytes says where a block ends. Where
the free blocks are known, the rest can be walked. Else objects are found by following: first those that are known to be
there, then, going up through the gaps between them, whatever looks like a header with a count above 0. A freed object
is not mistaken for a live one that way, because its count reached 0 when it was freed; but old field data may by chance
look like a header. So an object that was found is *confirmed* only when it is known, on the list, or referred to by
another.

Whatever the bytes hold, reading an image ends in a result or in HeapCorruptionError.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from lowheap import strings
from lowheap.collectors.interface import Collector
from lowheap.collectors.shared import walking
from lowheap.collectors.shared.allocator import Block, walk, walk_as_collected
from lowheap.errors import HeapCorruptionError, UnsupportedError
from lowheap.layout import (
    ARRAY_HEADER_END,
    ARRAY_LENGTH_OFFSET,
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    KIND_ARRAY_BIT,
    KIND_MASK,
    MAXIMUM_CAPACITY,
    MINIMUM_OBJECT_BLOCK,
    NULL,
    REFERENCE_SIZE,
    RESERVED_MASK,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMGcKind,
    VMHeapControl,
    block_length,
    is_object,
)
from lowheap.native import Heap
from lowheap.representation import short_repr
from lowheap.snapshot import dump, file
from lowheap.snapshot.contents import (
    EXTERNREF_TYPE,
    KIND_WORDS,
    Contents,
    ImageControl,
    ImageField,
    ImageFormatError,
    ImageRoot,
    ImageType,
    image_types,
)
from lowheap.snapshot.parts import ImagePart
from lowheap.snapshot.reopened import ImageMemory, collector_of, reopen
from lowheap.snapshot.tables import ImageTables
from lowheap.types import TypeRegistry

_Data = TypeVar("_Data", bound=ctypes.Structure)


@short_repr
@dataclass(frozen=True, slots=True)
class ImageValue:
    """One decoded field or element: what to call it, its value (see `ImageField.decode`), and its bytes."""

    label: str
    value: int | float | bytes
    field: ImageField
    data: bytes

    def __str__(self) -> str:
        """Return the value as text."""
        return self.field.format(self.data)


@dataclass(frozen=True, slots=True)
class ImageObject:
    """One object of an image. `size` is in bytes, unrounded; `length` is an array's number of elements, else None.

    `is_confirmed` is False only for an object of a wasmtime image that merely looks like one.
    """

    index: int
    kind_and_reserved: int
    type_index: int
    ref_count: int
    next: int
    size: int
    length: int | None
    is_confirmed: bool = field(default=True, compare=False)
    image: Image | None = field(default=None, repr=False, compare=False)

    @property
    def kind(self) -> VMGcKind:
        """The kind of object."""
        return VMGcKind(self.kind_and_reserved & KIND_MASK)

    @property
    def is_listed(self) -> bool:
        """Whether it says that it is on the over-approximated list."""
        return bool(self.kind_and_reserved & HEADER_IN_OVER_APPROX_LIST_BIT)

    @property
    def is_marked(self) -> bool:
        """Whether a collection has marked it."""
        return bool(self.kind_and_reserved & HEADER_MARK_BIT)

    @property
    def block_length(self) -> int:
        """Bytes of its block."""
        return block_length(self.size)

    @property
    def type(self) -> ImageType | None:
        """Its type, or None where the image does not know it."""
        return self._image.type_of(self)

    @property
    def label(self) -> str:
        """What to call its type: `$node`, `type 3`, `externref`."""
        known = self.type
        return f"type {self.type_index}" if known is None else known.label

    @property
    def data(self) -> bytes:
        """Its bytes, header included."""
        return self._image.data[self.index : self.index + self.size]

    def fields(self) -> list[ImageValue]:
        """Return its decoded fields; none for an array, or where they are not known."""
        known = self.type
        if known is None or known.is_array:
            return []
        return [self._value(label, each, each.offset) for label, each in known.labelled_fields()]

    def elements(self) -> Iterator[ImageValue]:
        """Yield its decoded elements; none when it is not an array, or where its type is not known."""
        known = self.type
        if known is None or not known.is_array:
            return
        element = known.element
        for number in range(self.length or 0):
            yield self._value(str(number), element, element.offset + number * element.size)

    @property
    def text(self) -> str | None:
        """The text of a JavaScript string; None for what is none, not sound, or of more parts than there are bytes."""
        if self.kind not in (VMGcKind.HIDDEN_ARRAY_REF, VMGcKind.HIDDEN_STRUCT_REF):
            return None
        left = len(self._image.data)  # of a sound heap, more objects than these many are not on the way

        def parts(reference: int) -> bytes | tuple[int, int]:
            nonlocal left
            left -= 1
            found = self._image.object_at(reference)
            if found.kind is VMGcKind.HIDDEN_ARRAY_REF and found.type is not None:
                return found.data[found.type.element.offset :]
            if found.kind is not VMGcKind.HIDDEN_STRUCT_REF or left < 0:
                raise HeapCorruptionError([f"the object at {reference:#x} is no part of a string"])
            one, other = self._image.traced_slots(found)
            return one, other

        try:
            return strings.decoded(strings.units_of(self.index, parts))
        except (HeapCorruptionError, ValueError):
            return None

    def references(self) -> list[int]:
        """Return the references that it holds to other objects, in the order of its slots.

        Where its type is not known these are all words that could be one, null and i31 left out.
        """
        return [value for value in self._image.traced_slots(self) if is_object(value)]

    def _value(self, label: str, place: ImageField, offset: int) -> ImageValue:
        data = self._image.slice(self.index + offset, place.size)
        return ImageValue(label, place.decode(data), place, data)

    @property
    def _image(self) -> Image:
        assert self.image is not None, "an object that an image made knows its image"
        return self.image


# ----------------------------------------------------------------------------------------------------------------------
# The image


@short_repr
@dataclass(frozen=True)
class Image(Contents):
    """A heap at one moment, to be looked at. `contents.Contents` has its attributes.

    `rules` is the collector by whose rules it is looked at, where whoever looks has said; no file has it.
    """

    rules: Collector | None = field(default=None, compare=False, repr=False)

    @classmethod
    def take(
        cls,
        control: VMHeapControl,
        read: Callable[[int, int], bytes],
        types: TypeRegistry,
        *,
        allocator: str,
        collector: str,
        roots: Iterable[ImageRoot],
        knows_host_data: Callable[[int], bool],
        parts: Iterable[ImagePart] = (),
        source: str = "lowheap",
    ) -> Image:
        """Copy a heap: `read(offset, length)` gives its bytes, `control` says how many and points to the type table.

        `parts` are what its collector keeps.
        """
        image = cls(
            data=read(0, control.bump),
            source=source,
            types=image_types(control, types),
            control=ImageControl.of(control, allocator),
            roots=tuple(roots),
            list_head=control.over_approximated_stack_roots,
            tables=ImageTables.take(control),
            collector=collector,
            parts=tuple(parts),
        )
        return dataclasses.replace(image, host_data_ids=frozenset(filter(knows_host_data, image._host_data_ids_held())))

    @classmethod
    def from_wasmtime(
        cls,
        data: bytes,
        *,
        source: str = "wasmtime",
        types: Mapping[int, ImageType] | None = None,
        free_blocks: Iterable[tuple[int, int]] | None = None,
        known: Iterable[int] = (),
        list_head: int | None = None,
    ) -> Image:
        """Make an image of the bytes of a wasmtime heap's mapping, releases 37 to 45.

        `types` are by wasmtime's type indices; where they are not known, `with_types_of` takes them from an image of
        the same program in lowheap. `free_blocks`, as (index, length), and `known`, indices of objects, say what the
        bytes cannot. ValueError for data that cannot be a heap, and for an index that cannot be an object's.
        """
        if len(data) > MAXIMUM_CAPACITY + BLOCK_ALIGN:
            raise ValueError(f"a heap has at most {MAXIMUM_CAPACITY + BLOCK_ALIGN} bytes; these are {len(data)}")
        known = tuple(known)
        for index in known:
            if index % BLOCK_ALIGN or not FIRST_INDEX <= index <= len(data) - HEADER_SIZE:
                raise ValueError(f"{index:#x} is not an index in a heap of {len(data):#x} bytes, or not one of a block")
        free = None if free_blocks is None else tuple(Block(*block, is_free=True) for block in sorted(free_blocks))
        return cls(bytes(data), source, dict(types or {}), known=known, free=free, list_head=list_head)

    # Files

    @classmethod
    def of(cls, contents: Contents) -> Image:
        """Make contents an image."""
        return cls(**{each.name: getattr(contents, each.name) for each in dataclasses.fields(contents)})

    def to_bytes(self) -> bytes:
        """Return the image in its file format (`snapshot/file.py`)."""
        return file.pack(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Image:
        """Read the file format, or a dump that C code wrote (`lh_dump`).

        ImageFormatError, which says why, for anything that is neither.
        """
        return read_dump(data) if dump.is_dump(data) else cls.of(file.unpack(data))

    def save(self, path: str | Path) -> None:
        """Write the image to a file."""
        Path(path).write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Image:
        """Read a file, as `from_bytes` does. ImageFormatError, which names it, for any other; OSError as usual."""
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except ImageFormatError as error:
            raise ImageFormatError(f"{path}: {error}") from None

    # Reading bytes

    def slice(self, index: int, length: int) -> bytes:
        """Return `length` bytes at `index`. HeapCorruptionError when they are not all in the image."""
        found = self.data[index : index + length]
        if index < 0 or len(found) != length:
            raise HeapCorruptionError([f"{length} bytes at {index:#x} are beyond the heap's end, {len(self.data):#x}"])
        return found

    def _view(self, data: type[_Data], index: int) -> _Data:
        """A copy of the structure at an index."""
        return data.from_buffer_copy(self.slice(index, ctypes.sizeof(data)))

    # Objects

    @property
    def is_walkable(self) -> bool:
        """Whether every block can be told, free or live, so that all that is found is certain."""
        return self.control is not None or self.free is not None

    @property
    def end(self) -> int:
        """Where the blocks end: the bump pointer, or the capacity of a wasmtime heap, rounded down to a block."""
        return len(self.data) & -BLOCK_ALIGN

    def blocks(self) -> Iterator[Block]:
        """Yield every block in address order; of an image that cannot be walked, those of the objects that are found.

        HeapCorruptionError where a block does not lead to the next.
        """
        if not self.is_walkable:
            for found in self._followed.values():
                yield Block(found.index, found.block_length, is_free=False)
            return
        if self._has_lines:
            yield from self._collected
            return
        if self.free is None:
            yield from walk(VMHeapControl(bump=self.end), ImageMemory(self.data))
            return
        given = {block.index: block.length for block in self.free}
        index = FIRST_INDEX
        while index < self.end:
            is_free, length = index in given, given.get(index, 0)
            least = BLOCK_ALIGN
            if not is_free:
                length, least = block_length(self._object_size(index)), MINIMUM_OBJECT_BLOCK
            if length < least or length % BLOCK_ALIGN or index + length > self.end:
                what = "free block" if is_free else "object"
                raise HeapCorruptionError(
                    [f"{what} at {index:#x} claims {length} bytes; the blocks end at {self.end:#x}"]
                )
            yield Block(index, length, is_free)
            index += length

    @property
    def _has_lines(self) -> bool:
        """Whether the heap's collector finds objects in its own way, as rc-immix does."""
        is_whole = self.control is not None and self.tables is not None
        return is_whole and type(self.collector_in_force).blocks is not walking.blocks

    @property
    def collector_in_force(self) -> Collector:
        """The collector by whose rules a lowheap heap is looked at: the one that was said, or `collector_of`."""
        return collector_of(self) if self.rules is None else self.rules

    def _reopened(self) -> Heap:
        """Return the heap for its collector's functions. HeapCorruptionError when that cannot be."""
        try:
            return reopen(self, self.collector_in_force)
        except UnsupportedError as error:
            raise HeapCorruptionError([str(error)]) from None

    @cached_property
    def _collected(self) -> list[Block]:
        """The blocks as such a collector finds them."""
        return list(walk_as_collected(self._reopened()))

    def _object_size(self, index: int) -> int:
        return self._view(VMDrcHeader, index).object_size

    def free_blocks(self) -> list[Block]:
        """Return the free blocks in address order; none where they are not known. Raises as `blocks`."""
        return [block for block in self.blocks() if block.is_free]

    def objects(self) -> Iterator[ImageObject]:
        """Yield every object in address order: the live ones, and those that died and wait to be freed.

        The latter have count 0; so has what lives, and no owner of it counts, if the collector has such.
        HeapCorruptionError where a walk cannot go on.
        """
        if self.is_walkable:
            for block in self.blocks():
                if not block.is_free:
                    yield self.object_at(block.index)
        else:
            yield from self._followed.values()

    def object_at(self, index: int) -> ImageObject:
        """Return the object at an index. HeapCorruptionError when there is no header of any kind."""
        found = self._header_at(index)
        if found is None:
            raise HeapCorruptionError([f"{index:#x} does not name an object of this image: no header is there"])
        return found

    def type_of(self, found: ImageObject) -> ImageType | None:
        """Return an object's type, or None where the image does not know it."""
        if found.type_index == EXTERNREF_TYPE_INDEX:
            return EXTERNREF_TYPE if found.kind is VMGcKind.EXTERN_REF else None
        known = self.types.get(found.type_index)
        return known if known is not None and known.kind is found.kind else None

    def traced_slots(self, found: ImageObject) -> Sequence[int]:
        """Return the values of an object's traced slots, null and i31 among them.

        Where the type is not known: all words behind the header that could be a reference to an object that was found.
        """
        known = self.type_of(found)
        if known is None:
            return [word for word in self._words_in(found) if word != found.index and self._could_be_object(word)]
        if not known.is_array:
            return [self._words(found.index + offset, 1)[0] for offset in known.traced_offsets]
        if not known.elements_are_traced:
            return ()
        return self._words(found.index + known.size_or_elements_offset, found.length or 0)

    def over_approximated_list(self) -> list[int]:
        """Return the references on the over-approximated list, the latest first.

        In a wasmtime image whose list head is not known, it is the listed object to which no other listed one leads.
        HeapCorruptionError when the list is cyclic, leads to what is no object, or cannot be told.
        """
        head = self._derived_list_head() if self.list_head is None else self.list_head
        return self._chain(head, "over-approximated list")

    def pending_dead(self) -> list[int]:
        """Return the objects that died in a sweep and wait to be freed, the next first; none of a wasmtime heap.

        HeapCorruptionError when their list is cyclic, or leads to what is no object.
        """
        if self._has_lines:
            heap = self._reopened()
            return list(heap.collector.pending(heap))
        head = NULL if self.control is None else self.control.pending_dead
        return self._chain(head, "list of pending dead objects")

    def dead_externrefs(self) -> list[int]:
        """Return the externrefs that died and wait for their host to free them, the next first. Raises likewise."""
        head = NULL if self.control is None else self.control.dead_externrefs
        return self._chain(head, "list of dead externrefs")

    def _chain(self, head: int, what: str) -> list[int]:
        """The objects from `head` on, each linked to the next by its header."""
        chain: dict[int, None] = {}
        while head != NULL:
            if head in chain:
                raise HeapCorruptionError([f"the {what} comes back to {head:#x}"])
            found = self._header_at(head)
            if found is None:
                raise HeapCorruptionError([f"the {what} leads to {head:#x}, where no object starts"])
            chain[head] = None
            head = found.next
        return list(chain)

    # What `objects` of an image rests on that cannot be walked

    @cached_property
    def _followed(self) -> dict[int, ImageObject]:
        """The objects of an image that cannot be walked, in address order; see the module's docstring."""
        found = {index: header for index in self.known if (header := self._header_at(index)) is not None}
        gaps, start = [], FIRST_INDEX
        for index in sorted(found):
            gaps.append((start, index))
            length = found[index].block_length if self._is_sound(found[index]) else MINIMUM_OBJECT_BLOCK
            start = max(start, index + length)
        gaps.append((start, self.end))
        for start, end in gaps:
            found.update(self._scan(start, end))
        confirmed = {*self.known, *self._confirmed_by_list(found)}
        for holder in filter(self._is_sound, found.values()):
            slots = self._words_in(holder) if holder.type is None else self.traced_slots(holder)
            confirmed.update(slot for slot in slots if slot != holder.index)
        return {index: dataclasses.replace(found[index], is_confirmed=index in confirmed) for index in sorted(found)}

    def _scan(self, start: int, end: int) -> Iterator[tuple[int, ImageObject]]:
        """Yield what looks like a live object between two indices, from below, looking behind each for the next."""
        words = memoryview(self.data)[: self.end].cast("I")
        index = start
        while index + MINIMUM_OBJECT_BLOCK <= end:
            if words[index // 4] & KIND_MASK in KIND_WORDS:
                found = self._header_at(index)
                if found is not None and index + found.block_length <= end and self._is_sound(found):
                    yield index, found
                    index += found.block_length
                    continue
            index += BLOCK_ALIGN

    def _is_sound(self, found: ImageObject) -> bool:
        """Whether a header can be a live object's: it agrees with itself, and with its type where that is known."""
        if found.ref_count == 0 or found.index + found.block_length > self.end:
            return False
        if found.kind_and_reserved & RESERVED_MASK & ~(HEADER_MARK_BIT | HEADER_IN_OVER_APPROX_LIST_BIT):
            return False
        if found.ref_count >> 32 or found.next % BLOCK_ALIGN or found.next >= len(self.data):
            return False
        if (found.type_index == EXTERNREF_TYPE_INDEX) != (found.kind is VMGcKind.EXTERN_REF):
            return False
        known = self.types.get(found.type_index)
        if found.kind is VMGcKind.EXTERN_REF:
            return found.size == EXTERNREF_TYPE.size_or_elements_offset
        if known is not None:
            return known.kind is found.kind and found.size == known.object_size(found.length)
        least = {
            VMGcKind.ARRAY_REF: ARRAY_HEADER_END,
            VMGcKind.HIDDEN_ARRAY_REF: ARRAY_HEADER_END,
            VMGcKind.EXN_REF: ctypes.sizeof(VMDrcExnHeader),
        }
        return found.size >= least.get(found.kind, HEADER_SIZE)

    def _confirmed_by_list(self, found: Mapping[int, ImageObject]) -> list[int]:
        """The objects on the list, if it can be told."""
        try:
            head = self.list_head if self.list_head is not None else _head_of_chain(found.values())
        except HeapCorruptionError:
            return []
        chain: list[int] = []
        while head in found and len(chain) < len(found):
            chain.append(head)
            head = found[head].next
        return chain

    def _derived_list_head(self) -> int:
        return _head_of_chain(self.objects())

    def _could_be_object(self, word: int) -> bool:
        if self.is_walkable:
            return word in self._object_indices
        return word in self._followed

    @cached_property
    def _object_indices(self) -> frozenset[int]:
        return frozenset(block.index for block in self.blocks() if not block.is_free)

    # Pieces

    def _header_at(self, index: int) -> ImageObject | None:
        """The header at an index, read as it is; None where there can be none."""
        if index % BLOCK_ALIGN or not FIRST_INDEX <= index <= len(self.data) - HEADER_SIZE:
            return None
        header = self._view(VMDrcHeader, index)
        kind = header.kind_and_reserved & KIND_MASK
        if kind not in KIND_WORDS:
            return None
        length = None
        if kind & KIND_ARRAY_BIT:
            if index + ARRAY_HEADER_END > len(self.data):
                return None
            length = self._words(index + ARRAY_LENGTH_OFFSET, 1)[0]
        return ImageObject(
            index,
            header.kind_and_reserved,
            header.type_index,
            header.ref_count,
            header.next_over_approximated_stack_root,
            header.object_size,
            length,
            image=self,
        )

    def _words(self, index: int, count: int) -> Sequence[int]:
        return memoryview(self.slice(index, max(0, count) * REFERENCE_SIZE)).cast("I")

    def _words_in(self, found: ImageObject) -> Sequence[int]:
        return self._words(found.index + HEADER_SIZE, (found.size - HEADER_SIZE) // REFERENCE_SIZE)

    def _host_data_ids_held(self) -> Iterator[int]:
        """The host-data ids in the image's externrefs, as far as a walk goes."""
        if self.control is not None and self.control.host_data_count == 0:
            return  # none was ever given, and a walk takes long
        try:
            for found in self.objects():
                if found.kind is VMGcKind.EXTERN_REF:
                    yield self._view(VMDrcExternRef, found.index).host_data_id
        except HeapCorruptionError:
            return  # an image of a broken heap is an image all the same; inspecting it tells


def read_dump(data: bytes) -> Image:
    """Return what a dump has as an image. ImageFormatError, which says why, for anything that is not a whole dump."""
    return Image.of(dump.read(data))


def _head_of_chain(objects: Iterable[ImageObject]) -> int:
    """Return the listed object to which no other listed one leads. HeapCorruptionError when that is not one chain."""
    listed = {found.index: found.next for found in objects if found.is_listed}
    heads = listed.keys() - set(listed.values())
    if not listed:
        return NULL
    if len(heads) != 1:
        shown = ", ".join(f"{index:#x}" for index in sorted(heads)[:8]) or "none"
        raise HeapCorruptionError(
            [f"the order of the list cannot be told: of {len(listed)} listed objects these could be the first: {shown}"]
        )
    head = next(iter(heads))
    length, index = 0, head
    while index in listed and length < len(listed):
        index, length = listed[index], length + 1
    if length != len(listed) or index != NULL:
        raise HeapCorruptionError(
            [f"the order of the list cannot be told: from {head:#x} it leads to {length} of {len(listed)} objects"]
        )
    return head


assert ctypes.sizeof(VMDrcArrayHeader) >= ARRAY_HEADER_END
