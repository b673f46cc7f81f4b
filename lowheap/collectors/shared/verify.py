"""What every heap must satisfy, whatever collects it: the control block, the type table, blocks, free lists, tables.

The checks trust no byte but what they have checked, in this order:

1. `verify_control`: where the tables are, that no count is beyond its table, and where the blocks end. Whatever comes
   next relies on that.
2. `verify_types`: each type's words agree with one another, so that what an object's type says is within the object.
3. `verify_blocks`: blocks tile the heap, and each object's header agrees with its type. It takes *notes*, a word for
   each block's start, for the lists' sake: `note_of`.
4. `verify_free_lists`, handles, host data, and the collector's own structures.
5. Owners are noted with each object, and the collector looks at each with what was noted.

`verify` is all that; `verify_frames` and the collector's `verify_held` look at what frames hold.

The addresses of registered root slots and ranges, and of what frames hold, are trusted: they are not the heap's.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowheap.collectors.shared.frames import host_slots
from lowheap.collectors.shared.free_lists import size_class
from lowheap.collectors.shared.parts import verify_parts
from lowheap.collectors.shared.references import is_object
from lowheap.collectors.shared.roots import Root, counted_roots, handle
from lowheap.collectors.shared.tracing import references_of
from lowheap.collectors.shared.types import field_info, size_of_storage
from lowheap.collectors.shared.walking import is_free, length_of_block, verify_bounds
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    CONTROL_ATTACHED,
    CONTROL_BLOCK_OFFSET,
    CONTROL_OTHER_COLLECTOR,
    CONTROL_UNCOUNTED,
    EXCEPTION_FIELDS_OFFSET,
    EXTERNREF_TYPE_INDEX,
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    FIELD_TRACED,
    FIRST_INDEX,
    FREE_BLOCK_COALESCED,
    HANDLE_LIMIT,
    HANDLES_OFFSET,
    HEADER_ALIGN,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    HOST_DATA_LIMIT,
    HOST_DATA_OFFSET,
    I31_SHIFT,
    I31_TAG,
    KIND_ARRAY_BIT,
    KIND_MASK,
    MAXIMUM_CAPACITY,
    NULL,
    OBJECT_KINDS,
    REFERENCE_SIZE,
    RESERVED_MASK,
    ROOT_RANGE_LIMIT,
    ROOT_RANGES_OFFSET,
    ROOT_SLOT_LIMIT,
    ROOT_SLOTS_OFFSET,
    SIZE_CLASS_COUNT,
    TRACED_MASK_BITS,
    TYPE_DATA_LIMIT,
    TYPE_DATA_OFFSET,
    TYPE_LIMIT,
    TYPE_TABLE_OFFSET,
    TYPED_KINDS,
    CollectionPhase,
    VMDrcExternRef,
    VMFieldInfo,
    VMGcKind,
    VMHeapType,
    VMHostData,
    VMHostDataOwner,
    VMRootKind,
    VMStorage,
)
from lowheap.native import (
    Heap,
    Native,
    Ref,
    address_of,
    at,
    cell,
    inline,
    native,
    problem,
    sizeof,
    u32,
    u64,
    wrapping_sub,
)
from lowheap.types import MAX_STRUCT_FIELDS, MAX_SUBTYPING_DEPTH

# In the note of a block's start: what starts there, and which lists have led to it; below, how many owners it has.
OBJECT = 1 << 63
FREE = 1 << 62
LISTED = 1 << 61
DEAD = 1 << 60
OWN = 1 << 59
OWNERS = OWN - 1

BYTES_PER_NOTE_SHIFT = 1
"""An index >> this is how far behind the first note its own is: 8 bytes for each 16 of the heap."""

_KNOWN_FLAGS = CONTROL_ATTACHED | CONTROL_UNCOUNTED | CONTROL_OTHER_COLLECTOR
_FIELD_FLAGS = FIELD_MUTABLE | FIELD_NULLABLE | FIELD_TRACED
_WORD = 4
_FIELD_WORDS = sizeof(VMFieldInfo) // _WORD
_LAST_STORAGE = max(VMStorage)
_UNTRACED_HEAP_TYPES = (VMHeapType.I31, VMHeapType.FUNC, VMHeapType.NOFUNC)
_FIRST_HEAP_TYPE, _LAST_HEAP_TYPE = min(VMHeapType), max(VMHeapType)


# ----------------------------------------------------------------------------------------------------------------------
# Notes


@inline
def note_of(heap: Heap, notes: u64, reference: Ref) -> u64:
    """The note of whatever a reference may be: 0 where no block can start."""
    if (reference & (BLOCK_ALIGN - 1) != 0) or (reference >= heap.control.bump):
        return 0
    place = cell(u64, notes + (u64(reference) >> BYTES_PER_NOTE_SHIFT))
    return u64(place.value)


@inline
def add_note(notes: u64, reference: Ref, amount: u64) -> None:
    """Add to the note of a block: a flag that it does not have, or an owner."""
    place = cell(u64, notes + (u64(reference) >> BYTES_PER_NOTE_SHIFT))
    place.value += amount


@inline
def size_of_notes(heap: Heap) -> u64:
    """How many bytes the notes take."""
    return u64(heap.control.bump) >> BYTES_PER_NOTE_SHIFT


# ----------------------------------------------------------------------------------------------------------------------
# The control block


def _place_of(what: str) -> Native[[Heap, int, int], None]:
    text = what + " is said to be at {:#x}; it is at {:#x}"

    @inline
    def check(heap: Heap, said: u64, place: u64) -> None:
        if said != place:
            problem(heap, text, said, place)

    return check


def _count_of(what: str, limit: int) -> Native[[Heap, int], None]:
    text = f"the control block counts {{}} {what}; there is room for {limit}"

    @inline
    def check(heap: Heap, count: u32) -> None:
        if count > limit:
            problem(heap, text, count)

    return check


_heap_is_at = _place_of("the heap")
_type_table_is_at = _place_of("the type table")
_type_data_is_at = _place_of("the type data")
_handles_are_at = _place_of("the table of handles")
_root_slots_are_at = _place_of("the table of root slots")
_root_ranges_are_at = _place_of("the table of root ranges")
_host_data_is_at = _place_of("the side table")
_types_fit = _count_of("types", TYPE_LIMIT)
_type_data_fits = _count_of("words of type data", TYPE_DATA_LIMIT)
_handles_fit = _count_of("handles", HANDLE_LIMIT)
_root_slots_fit = _count_of("root slots", ROOT_SLOT_LIMIT)
_root_ranges_fit = _count_of("root ranges", ROOT_RANGE_LIMIT)
_host_data_fits = _count_of("host-data ids", HOST_DATA_LIMIT)


@inline
def verify_addresses(heap: Heap) -> None:
    """Check that all that the control block points to is where it has to be."""
    control = heap.control
    start = address_of(control) - CONTROL_BLOCK_OFFSET
    _heap_is_at(heap, control.heap_base, address_of(heap.block(NULL)))
    _type_table_is_at(heap, control.type_table, start + TYPE_TABLE_OFFSET)
    _type_data_is_at(heap, control.type_data, start + TYPE_DATA_OFFSET)
    _handles_are_at(heap, control.handles, start + HANDLES_OFFSET)
    _root_slots_are_at(heap, control.root_slots, start + ROOT_SLOTS_OFFSET)
    _root_ranges_are_at(heap, control.root_ranges, start + ROOT_RANGES_OFFSET)
    _host_data_is_at(heap, control.host_data, start + HOST_DATA_OFFSET)


@inline  # in C, a problem is told in the name of the function that looked for it: two do
def verify_places(heap: Heap) -> None:
    """Check what it takes to read a heap: where the tables are, that the counts are within them, and bounds."""
    verify_addresses(heap)
    control = heap.control
    _types_fit(heap, control.type_count)
    _type_data_fits(heap, control.type_data_length)
    _handles_fit(heap, control.handle_count)
    _root_slots_fit(heap, control.root_slot_count)
    _root_ranges_fit(heap, control.root_range_count)
    _host_data_fits(heap, control.host_data_count)
    verify_bounds(heap)
    if (control.capacity > control.maximum) or (control.maximum > MAXIMUM_CAPACITY):
        problem(
            heap,
            "the capacity is {}, the maximum {}, and the largest of all {}",
            control.capacity,
            control.maximum,
            MAXIMUM_CAPACITY,
        )


@native
def verify_control(heap: Heap) -> None:
    """Check the control block's other words, as far as they can be wrong by themselves."""
    control = heap.control
    if control.flags & ~_KNOWN_FLAGS != 0:
        problem(heap, "the control block has unknown flags in {:#x}", control.flags)
    if control.flags & CONTROL_ATTACHED == 0:
        problem(heap, "the control block's flags {:#x} say that the heap has no memory", control.flags)
    if control.phase > CollectionPhase.DONE:
        problem(heap, "the phase of the collection is {}; phases are 0 to {}", control.phase, CollectionPhase.DONE)
    if control.bytes_freed_at_last_coalescing > control.bytes_freed:
        problem(
            heap,
            "{} bytes were freed, and {} when free blocks were merged",
            control.bytes_freed,
            control.bytes_freed_at_last_coalescing,
        )


# ----------------------------------------------------------------------------------------------------------------------
# Types


@native
def verify_types(heap: Heap) -> None:
    """Check each type's entry."""
    control = heap.control
    count = control.type_count
    if (count != 0) and (heap.type_info(count - 1).kind == 0):
        problem(heap, "the last of {} types is not in the type table", count)
        return
    words: u64 = 0
    for index in range(count):
        if heap.type_info(index).kind != 0:
            words += words_of_type(heap, index)
            if words > u64(control.type_data_length):  # and what is behind would be checked for ever
                problem(
                    heap,
                    "the types up to {} have {} words of type data; there are {}",
                    index,
                    words,
                    control.type_data_length,
                )
                return
            verify_type(heap, index)


@native
def words_of_type(heap: Heap, index: u32) -> u64:
    """How many words of type data are a type's own."""
    info = heap.type_info(index)
    traced = u64(0) if info.kind & KIND_ARRAY_BIT != 0 else u64(info.traced_count)
    return traced + u64(info.depth) + 1 + u64(info.field_count) * _FIELD_WORDS


@inline
def lies_beyond(heap: Heap, start: u32, count: u64) -> bool:
    """Whether some of these words of type data do not exist."""
    return u64(start) + count > u64(heap.control.type_data_length)


@native
def verify_type(heap: Heap, index: u32) -> None:
    """Check one type's entry in the type table, whose words of type data are not too many."""
    info = heap.type_info(index)
    kind = info.kind
    if kind not in TYPED_KINDS:
        problem(heap, "type {} has kind word {:#x}, which is no kind", index, kind)
        return
    is_array = kind & KIND_ARRAY_BIT != 0
    length = heap.control.type_data_length
    if not is_array and lies_beyond(heap, info.traced_offsets_start, u64(info.traced_count)):
        problem(
            heap,
            "type {} has {} traced offsets from word {} on, of {} words of type data",
            index,
            info.traced_count,
            info.traced_offsets_start,
            length,
        )
        return
    if lies_beyond(heap, info.supertypes_start, u64(info.depth) + 1) or (info.depth > MAX_SUBTYPING_DEPTH):
        problem(
            heap,
            "type {} has {} supertypes from word {} on, of {} words of type data",
            index,
            info.depth,
            info.supertypes_start,
            length,
        )
        return
    if lies_beyond(heap, info.fields_start, u64(info.field_count) * _FIELD_WORDS):
        problem(
            heap,
            "type {} has {} fields from word {} on, of {} words of type data",
            index,
            info.field_count,
            info.fields_start,
            length,
        )
        return
    if info.is_final > 1:
        problem(heap, "type {} is final or not, and says {}", index, info.is_final)
    verify_display(heap, index)
    if is_array:
        verify_array_type(heap, index)
    else:
        verify_struct_type(heap, index)


@native
def verify_display(heap: Heap, index: u32) -> None:
    """Check a type's chain of supertypes, which ends with the type itself."""
    info = heap.type_info(index)
    start = info.supertypes_start
    depth = info.depth
    itself = heap.type_data(start + depth)
    if itself != index:
        problem(heap, "the supertypes of type {} lead to type {}, not to itself", index, itself)
        return
    for position in range(depth):
        above = heap.type_data(start + position)
        if above >= heap.type_data(start + position + 1):
            problem(heap, "type {} has supertype {} at depth {}, above a lower number", index, above, position)
            return
        known = heap.type_info(above)
        if (above < heap.control.type_count) and (known.kind != 0):
            if (known.kind != info.kind) or (known.depth != position) or (known.is_final != 0):
                problem(heap, "type {} has supertype {} at depth {}, which cannot be", index, above, position)
                return
            if position > 0 and not lies_beyond(heap, known.supertypes_start, u64(position)):
                further = heap.type_data(start + position - 1)
                if heap.type_data(known.supertypes_start + position - 1) != further:
                    problem(
                        heap, "type {} has supertypes {} and {}, which is none of the former's", index, above, further
                    )
                    return


@native
def verify_field(heap: Heap, index: u32, number: u32) -> u64:
    """Check what a type says of a field alone; return the field's size, or 0 if something is wrong."""
    info = heap.type_info(index)
    field = field_info(heap, info, number)
    storage = u32(field.storage)
    flags = u32(field.flags)
    target = field.heap_type
    if storage > _LAST_STORAGE:
        problem(heap, "field {} of type {} has storage {}; storages are 0 to {}", number, index, storage, _LAST_STORAGE)
        return 0
    size = u64(size_of_storage(storage))
    if flags & ~_FIELD_FLAGS != 0:
        problem(heap, "field {} of type {} has unknown flags in {:#x}", number, index, flags)
        return 0
    if storage != VMStorage.REFERENCE:
        if (flags & ~FIELD_MUTABLE != 0) or (target != 0):
            problem(heap, "field {} of type {} is no reference, but has flags {:#x} of one", number, index, flags)
            return 0
        return size
    if (target >= TYPE_LIMIT) and ((target < _FIRST_HEAP_TYPE) or (target > _LAST_HEAP_TYPE)):
        problem(
            heap, "field {} of type {} refers to {:#x}, which is neither a type nor a heap type", number, index, target
        )
        return 0
    is_traced = flags & FIELD_TRACED != 0
    is_known = True
    is_followed = target not in _UNTRACED_HEAP_TYPES
    if target < TYPE_LIMIT:
        known = heap.type_info(target).kind  # a function's type, which is an exception's, or one of objects
        is_known = (target < heap.control.type_count) and (known != 0)
        is_followed = known != VMGcKind.EXN_REF
    if is_known and (is_traced != is_followed):
        problem(heap, "field {} of type {} refers to {:#x}, and has flags {:#x}", number, index, target, flags)
        return 0
    return size


@native
def verify_array_type(heap: Heap, index: u32) -> None:
    """Check an array type's words against its element."""
    info = heap.type_info(index)
    if info.field_count != 1:
        problem(heap, "array type {} has {} elements' descriptions, not 1", index, info.field_count)
        return
    size = verify_field(heap, index, 0)
    if size == 0:
        return
    element = field_info(heap, info, 0)
    start = (ARRAY_HEADER_END + (size - 1)) & ~(size - 1)
    if (u64(element.offset) != start) or (info.size_or_elements_offset != element.offset):
        problem(
            heap,
            "array type {} has elements from {} on; its element is at {}, and has to be at {}",
            index,
            info.size_or_elements_offset,
            element.offset,
            start,
        )
    traced = u32(u32(element.flags) & FIELD_TRACED != 0)
    if (u64(info.element_size) != size) or (info.traced_count != traced):
        problem(
            heap,
            "array type {} has elements of {} bytes, not {}, and traces {} of 1",
            index,
            info.element_size,
            size,
            info.traced_count,
        )
    verify_mask(heap, index, 0, traced)


@native
def verify_struct_type(heap: Heap, index: u32) -> None:
    """Check a struct's or exception's words against its fields, one after the other."""
    info = heap.type_info(index)
    if info.field_count > MAX_STRUCT_FIELDS:
        problem(heap, "type {} has {} fields; at most {} are allowed", index, info.field_count, MAX_STRUCT_FIELDS)
        return
    if info.element_size != 0:
        problem(heap, "type {} has no elements, but says that they have {} bytes", index, info.element_size)
    offset: u64 = HEADER_SIZE
    if info.kind == VMGcKind.EXN_REF:
        offset = EXCEPTION_FIELDS_OFFSET
    align: u64 = HEADER_ALIGN
    traced: u32 = 0
    mask: u64 = 0
    is_beyond: u32 = 0
    for number in range(info.field_count):
        field = field_info(heap, info, number)
        size = verify_field(heap, index, number)
        if size == 0:
            return
        offset = (offset + (size - 1)) & ~(size - 1)
        if u64(field.offset) != offset:
            problem(heap, "field {} of type {} is at {}; it has to be at {}", number, index, field.offset, offset)
            return
        if u32(field.flags) & FIELD_TRACED != 0:
            if traced < info.traced_count:
                said = heap.type_data(info.traced_offsets_start + traced)
                if said != field.offset:
                    problem(
                        heap,
                        "type {} has a traced field at {}; traced offset {} is {}",
                        index,
                        field.offset,
                        traced,
                        said,
                    )
                    return
            slot = (offset - HEADER_SIZE) // REFERENCE_SIZE
            if slot < TRACED_MASK_BITS:
                mask |= u64(1) << slot
            else:
                is_beyond = 1
            traced += 1
        offset += size
        align = max(align, size)
    if traced != info.traced_count:
        problem(heap, "type {} has {} traced fields; the type table says {}", index, traced, info.traced_count)
    whole = (offset + (align - 1)) & ~(align - 1)
    if u64(info.size_or_elements_offset) != whole:
        problem(heap, "type {} has {} bytes; its fields make it {}", index, info.size_or_elements_offset, whole)
    if is_beyond != 0:
        mask = 0
    verify_mask(heap, index, mask, is_beyond)


@native
def verify_mask(heap: Heap, index: u32, mask: u64, is_beyond: u32) -> None:
    """Check what freeing and tracing go by."""
    info = heap.type_info(index)
    if info.traced_mask != mask:
        problem(heap, "type {} has the traced mask {:#x}; its fields make it {:#x}", index, info.traced_mask, mask)
    if info.is_beyond_mask != is_beyond:
        problem(
            heap,
            "type {} has {} for whether references are beyond its mask, not {}",
            index,
            info.is_beyond_mask,
            is_beyond,
        )


# ----------------------------------------------------------------------------------------------------------------------
# Blocks and objects


@native
def verify_object(heap: Heap, reference: Ref) -> None:
    """Check what the header of an object says by itself, and against its type."""
    control = heap.control
    header = heap.header_at(reference)
    word = header.kind_and_reserved
    kind = word & KIND_MASK
    type_index = header.type_index
    size = header.object_size
    if kind not in OBJECT_KINDS:
        problem(heap, "object {:#x} has kind word {:#x}, which is no kind", reference, word)
        return
    known: u32 = heap.collector.known_bits
    if word & RESERVED_MASK & ~known != 0:
        problem(heap, "object {:#x} has unknown reserved bits in {:#x}", reference, word)
    if kind == VMGcKind.EXTERN_REF:
        if type_index != EXTERNREF_TYPE_INDEX:
            problem(heap, "externref {:#x} has type index {}", reference, type_index)
        if size != sizeof(VMDrcExternRef):
            problem(heap, "externref {:#x} has size {}", reference, size)
        verify_host_data_of(heap, reference)
        return
    info = heap.type_info(type_index)
    if (type_index >= control.type_count) or (type_index >= TYPE_LIMIT) or (info.kind == 0):
        problem(heap, "object {:#x} has type index {}, which is not in the type table", reference, type_index)
        return
    if info.kind != kind:
        problem(
            heap,
            "object {:#x} of type {} has kind {:#x}; the type's objects have {:#x}",
            reference,
            type_index,
            kind,
            info.kind,
        )
        return
    wanted = u64(info.size_or_elements_offset)
    if kind & KIND_ARRAY_BIT != 0:
        wanted += u64(heap.array(reference).length) * u64(info.element_size)
    if u64(size) != wanted:
        problem(heap, "object {:#x} has size {}; its type and length make it {}", reference, size, wanted)


@native
def verify_host_data_of(heap: Heap, reference: Ref) -> None:
    """Check that the side table knows an externref's host data."""
    control = heap.control
    number = heap.externref(reference).host_data_id
    if (number < control.host_data_count) and (number < HOST_DATA_LIMIT):
        entry = at(VMHostData, control.host_data + u64(number) * sizeof(VMHostData))
        if entry.owner != VMHostDataOwner.NOBODY:
            return
    problem(heap, "externref {:#x} has host data {}, which the side table does not know", reference, number)


@native
def verify_blocks(heap: Heap, notes: u64, has_lists: bool) -> tuple[bool, u64, u64]:
    """Check that blocks tile the heap, and the header of each object.

    Returns whether the blocks led to the bump pointer, how many objects there are, and how many bytes of them. Without
    free lists, no two neighbours may be free; with them, no two that a merging pass has seen.
    """
    objects: u64 = 0
    size: u64 = 0
    merged_end: u64 = 0
    end: u64 = FIRST_INDEX
    for index in heap.collector.blocks(heap):
        length = length_of_block(heap, index)
        end = u64(index) + length
        if is_free(heap, index):
            add_note(notes, index, FREE)
            is_merged = not has_lists or (heap.block(index).flags & FREE_BLOCK_COALESCED != 0)
            if is_merged and (merged_end == u64(index)):
                problem(heap, "free block at {:#x} was not merged with the one before it", index)
            merged_end = 0
            if is_merged:
                merged_end = end
        else:
            add_note(notes, index, OBJECT)
            verify_object(heap, index)
            objects += 1
            size += length
    if not has_lists and (merged_end == u64(heap.control.bump)):
        problem(heap, "the last free block, which ends at {:#x}, was not merged with the bump region", merged_end)
    return end == u64(heap.control.bump), objects, size


@native
def verify_figures(heap: Heap, objects: u64, size: u64) -> None:
    """Check the counters of objects and bytes against what a walk has found."""
    control = heap.control
    said = wrapping_sub(control.objects_allocated, control.objects_freed)
    said_bytes = wrapping_sub(control.bytes_allocated, control.bytes_freed)
    if (said != objects) or (said_bytes != size):
        problem(
            heap,
            "the counters say {} live objects of {} bytes; the heap holds {} of {}",
            said,
            said_bytes,
            objects,
            size,
        )


# ----------------------------------------------------------------------------------------------------------------------
# Free lists


@native
def verify_free_list(heap: Heap, notes: u64, number: u32, is_walked: bool) -> None:
    """Check that a list holds nothing but free blocks, each once and in its class; as far as the first that is none."""
    bump = heap.control.bump
    index = heap.size_class_head(number).value
    while index != NULL:
        is_place = (index & (BLOCK_ALIGN - 1) == 0) and (index >= FIRST_INDEX) and (index < bump)
        if not is_place or not is_free(heap, index) or (is_walked and (note_of(heap, notes, index) & FREE == 0)):
            problem(heap, "free list {} holds {:#x}, where no free block starts", number, index)
            return
        if note_of(heap, notes, index) & LISTED != 0:
            problem(heap, "free block at {:#x} is on a free list twice", index)
            return
        add_note(notes, index, LISTED)
        block = heap.block(index)
        if size_class(block.length) != number:
            problem(heap, "free block at {:#x} of {} bytes is on free list {}", index, block.length, number)
        index = block.next


@native
def verify_free_lists(heap: Heap, notes: u64, is_walked: bool) -> None:
    """Check every list, against the notes of a walk if there was one, else against the blocks alone."""
    for number in range(SIZE_CLASS_COUNT):
        verify_free_list(heap, notes, number, is_walked)


@inline
def verify_free_blocks(heap: Heap, notes: u64) -> None:
    """Check that free blocks are where allocation looks for them, against the notes of a walk."""
    verify_free_lists(heap, notes, True)


@native
def verify_free_lists_alone(heap: Heap) -> None:
    """Check the lists without a walk."""
    verify_bounds(heap)
    if heap.problem_count() == 0:
        size = size_of_notes(heap)
        notes = heap.map_notes(size)
        if notes != 0:
            verify_free_lists(heap, notes, False)
            heap.unmap_notes(notes, size)


# ----------------------------------------------------------------------------------------------------------------------
# Handles and host data


@native
def verify_handles(heap: Heap) -> None:
    """Check that each handle holds something or is on the list of free handles, once."""
    control = heap.control
    count = control.handle_count
    free: u64 = 0
    for number in range(count):
        value = handle(heap, number).value
        if value == NULL:
            problem(heap, "handle {} of {} holds null, and is not free", number, count)
            return
        free += u64(value & I31_TAG)
    listed: u64 = 0
    following = control.free_handle  # a number plus 1
    while following != 0:
        if (following > count) or (listed == free):
            problem(heap, "the list of free handles leads to handle {}, which is not free", following - 1)
            return
        value = handle(heap, following - 1).value
        if value & I31_TAG == 0:
            problem(heap, "the list of free handles leads to handle {}, which is not free", following - 1)
            return
        listed += 1
        following = value >> I31_SHIFT
    if listed != free:
        problem(heap, "{} handles are free, and {} are on the list of free handles", free, listed)


@native
def verify_host_data(heap: Heap) -> None:
    """Check that each host-data id is somebody's or is on the list of free ids, once."""
    control = heap.control
    count = control.host_data_count
    free: u64 = 0
    lasts: u32 = 0
    for number in range(count):
        entry = at(VMHostData, control.host_data + u64(number) * sizeof(VMHostData))
        if entry.owner > VMHostDataOwner.C:
            problem(heap, "host-data id {} has owner {}", number, entry.owner)
            return
        if entry.owner == VMHostDataOwner.NOBODY:
            free += 1
            lasts += u32(entry.next_free == 0)
            if lasts > 1:  # so a count that is far too high is found out at once
                problem(heap, "host-data id {} of {} is nobody's, and not on the list of free ids", number, count)
                return
    listed: u64 = 0
    following = control.free_host_data  # an id plus 1
    while following != 0:
        if (following > count) or (listed == free):
            problem(heap, "the list of free host-data ids leads to {}, which is not free", following - 1)
            return
        entry = at(VMHostData, control.host_data + u64(following - 1) * sizeof(VMHostData))
        if entry.owner != VMHostDataOwner.NOBODY:
            problem(heap, "the list of free host-data ids leads to {}, which is not free", following - 1)
            return
        listed += 1
        following = entry.next_free
    if listed != free:
        problem(heap, "{} host-data ids are nobody's, and {} are on the list of free ids", free, listed)


# ----------------------------------------------------------------------------------------------------------------------
# Lists of objects


def entries_of(what: str) -> Native[[Heap, int, int, int], Iterator[int]]:
    """Return what yields the objects of a list, flagged in their notes; what leads nowhere, or back, is its end."""
    leads_nowhere = f"{what} leads to {{:#x}}, where no object starts"
    comes_back = f"{what} comes back to {{:#x}}"

    @inline
    def entries(heap: Heap, notes: u64, first: Ref, flag: u64) -> Iterator[Ref]:
        reference = first
        while reference != NULL:
            note = note_of(heap, notes, reference)
            if note & OBJECT == 0:
                problem(heap, leads_nowhere, reference)
                return
            if note & flag != 0:
                problem(heap, comes_back, reference)
                return
            add_note(notes, reference, flag)
            yield reference
            reference = heap.header_at(reference).next_over_approximated_stack_root

    return entries


def dead_on(what: str) -> Native[[Heap, int], None]:
    """Return what checks an object that is dead, and waits on a list to be freed."""
    has_count = f"object {{:#x}} has count {{}}, but is on {what}"
    is_listed = f"object {{:#x}} has its in-list bit set, but is on {what}"
    is_marked = f"object {{:#x}} is marked, but is on {what}"

    @inline
    def check(heap: Heap, reference: Ref) -> None:
        header = heap.header_at(reference)
        word = header.kind_and_reserved
        if header.ref_count != 0:
            problem(heap, has_count, reference, header.ref_count)
        if word & HEADER_IN_OVER_APPROX_LIST_BIT != 0:
            problem(heap, is_listed, reference)
        if word & HEADER_MARK_BIT != 0:
            problem(heap, is_marked, reference)

    return check


_EXTERNREFS = "the list of dead externrefs"
_dead_externrefs = entries_of(_EXTERNREFS)
_verify_dead_externref = dead_on(_EXTERNREFS)


@native
def verify_dead_externrefs(heap: Heap, notes: u64) -> None:
    """Check that what waits for the host are externrefs, and dead."""
    for dead in _dead_externrefs(heap, notes, heap.control.dead_externrefs, DEAD):
        _verify_dead_externref(heap, dead)
        kind = heap.header_at(dead).kind_and_reserved & KIND_MASK
        if kind != VMGcKind.EXTERN_REF:
            problem(heap, "object {:#x} is on the list of dead externrefs, but its kind is {:#x}", dead, kind)


# ----------------------------------------------------------------------------------------------------------------------
# Owners


def _owner(what: str) -> Native[[Heap, int, int, int, int], None]:
    holds_nothing = f"{what} holds {{:#x}}, where no live object starts"

    @inline
    def own(heap: Heap, notes: u64, place: u64, reference: Ref, amount: u64) -> None:
        if note_of(heap, notes, reference) & OBJECT != 0:
            add_note(notes, reference, amount)
        else:
            problem(heap, holds_nothing, place, reference)

    return own


_owned_by_object = _owner("object {:#x}")
_owned_by_handle = _owner("handle {}")
_owned_by_slot = _owner("root slot {:#x}")


@inline
def count_owner(heap: Heap, notes: u64, owner: u64, reference: Ref) -> None:
    """Note an object as an owner of another."""
    _owned_by_object(heap, notes, owner, reference, 1)


@inline
def count_owned(heap: Heap, notes: u64, reference: Ref) -> None:
    """Note an owner with each object that this one refers to."""
    for child in references_of(heap, reference):
        if is_object(child):
            count_owner(heap, notes, u64(reference), child)


@native
def count_owners(heap: Heap, notes: u64) -> None:
    """Note an owner with each object for each traced slot, handle and root slot (of ranges, too) that refers to it."""
    for index in heap.collector.blocks(heap):
        if not is_free(heap, index):
            heap.collector.count_owned(heap, notes, index)
    root = Root()
    amount: u64 = 1 if heap.collector.counts_roots else 0
    for reference in counted_roots(heap, root):
        if root.kind == VMRootKind.HANDLE:
            _owned_by_handle(heap, notes, root.place, reference, amount)
        else:
            _owned_by_slot(heap, notes, root.place, reference, amount)


@native
def verify_notes(heap: Heap, notes: u64, has_lists: bool) -> None:
    """Check each block against what lists and owners have noted with it."""
    for index in heap.collector.blocks(heap):
        note = note_of(heap, notes, index)
        if not is_free(heap, index):
            heap.collector.verify_noted(heap, index, note)
        elif has_lists and (note & LISTED == 0):
            problem(heap, "free block at {:#x} is on no free list", index)


# ----------------------------------------------------------------------------------------------------------------------
# The whole


@native
def verify(heap: Heap, has_lists: bool) -> u64:
    """Check all but what frames hold. Returns the address of the notes that this has taken, for `verify_held`.

    `has_lists`: the free blocks are on the free lists. The result is 0 when there is no use in going on, or no memory
    for notes: problems tell which, or that there are none. Whoever calls unmaps the notes.
    """
    verify_places(heap)
    verify_parts(heap)
    if heap.problem_count() != 0:
        return 0
    verify_control(heap)
    verify_types(heap)
    size = size_of_notes(heap)
    notes = heap.map_notes(size)
    if notes != 0:
        verify_with_notes(heap, notes, has_lists)
    return notes


@native
def forget_notes(heap: Heap, notes: u64) -> None:
    """Give the notes' memory back, if there is any."""
    if notes != 0:
        heap.unmap_notes(notes, size_of_notes(heap))


@native
def verify_with_notes(heap: Heap, notes: u64, has_lists: bool) -> None:
    """Check blocks, lists, and, if those are sound, counts."""
    is_whole, objects, size = heap.collector.verify_blocks(heap, notes, has_lists)
    verify_handles(heap)
    verify_host_data(heap)
    if is_whole:
        if has_lists:
            heap.collector.verify_free_blocks(heap, notes)
        verify_dead_externrefs(heap, notes)
        heap.collector.verify_lists(heap, notes)
    if heap.problem_count() == 0:
        count_owners(heap, notes)
        verify_notes(heap, notes, has_lists)
        verify_figures(heap, objects, size)


@native
def verify_frames(heap: Heap, notes: u64) -> None:
    """Check what the frames hold that hosts have pushed."""
    for slot in host_slots(heap):
        heap.collector.verify_held(heap, notes, address_of(slot), slot.value)
