"""The functions of the C interface that work on a heap, written once: what each does is in `api.FUNCTIONS`.

A function's parameters are those of the table, without the heap: addresses are u64 or what is at them, and numbers of
floating point are their bits. Null pointers are refused before, where they are no arguments. What returns nothing
returns LH_OK to C; `require` and `check` make it return another status.
"""

from __future__ import annotations

from typing import Any

from lowheap.collectors.interface import ANY
from lowheap.collectors.shared import host_data, roots
from lowheap.collectors.shared.access import (
    ARRAY,
    EXCEPTION,
    EXTERNREF,
    FRAME_SLOT,
    OBJECT,
    REFERENCE,
    SLOT_VALUE,
    VALUE,
    Storages,
    check_kind,
    check_object,
    check_reference,
    check_value,
    element_place,
    exception_place,
    field_place,
    load_signed,
    load_unsigned,
    store_integer,
)
from lowheap.collectors.shared.allocation import allocate_array, allocate_at_once, allocate_externref, allocate_struct
from lowheap.collectors.shared.casts import is_subtype, matches
from lowheap.collectors.shared.collection import finish_sweep, trace, unsound_slot
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.references import block_length, is_object
from lowheap.collectors.shared.sizing import live_bytes, statistics
from lowheap.collectors.shared.types import (
    array_size,
    check_struct,
    check_type,
    define_type,
    field_info,
    require_type_of,
)
from lowheap.errors import Status, TrapCode
from lowheap.layout import (
    ARRAY_HEADER_END,
    BLOCK_ALIGN,
    FIRST_INDEX,
    HEADER_SIZE,
    HOST_DATA_LIMIT,
    MAXIMUM_CAPACITY,
    MINIMUM_OBJECT_BLOCK,
    NULL,
    REFERENCE_SIZE,
    SMALL_BLOCK_LIMIT,
    VMDrcExternRef,
    VMGcKind,
    VMHeapStatistics,
    VMHostDataOwner,
    VMRootFrame,
    VMStorage,
    VMTag,
    VMVector,
)
from lowheap.native import (
    Heap,
    Native,
    Ref,
    Slot,
    Text,
    address_of,
    cell,
    check,
    cold,
    inline,
    likely,
    native,
    require,
    sizeof,
    u32,
    u64,
    unlikely,
    wrapping_sub,
    zero_memory,
)

INTEGERS = Storages(VMStorage.I32, VMStorage.I8, VMStorage.I16)
WIDE, FLOATS, DOUBLES = Storages(VMStorage.I64), Storages(VMStorage.F32), Storages(VMStorage.F64)
VECTORS, REFERENCES = Storages(VMStorage.V128), Storages(VMStorage.REFERENCE)

GIVE_BACK, HAND_OVER = Text("give back"), Text("hand over")

FUNCTIONS: dict[str, Native[..., Any]] = {}
"""The functions here, by name."""


def _exported(function: Native[..., Any]) -> Native[..., Any]:
    FUNCTIONS[function.__name__] = function
    return function


@_exported
@inline
def lh_heap_statistics(heap: Heap, result: VMHeapStatistics) -> None:
    """See the table."""
    heap.collector.settle_figures(heap)
    statistics(heap, result)
    heap.collector.tell_figures(heap, result)


# ----------------------------------------------------------------------------------------------------------------------
# Types


@_exported
@inline
def lh_define_struct(heap: Heap, fields: u64, count: u32, supertype: u32, flags: u32, result: Slot) -> None:
    """See the table."""
    check_struct(fields, count)
    require_own_types(heap)
    result.value = define_type(heap, VMGcKind.STRUCT_REF, fields, count, supertype, flags)


@_exported
@inline
def lh_define_array(heap: Heap, element: u64, supertype: u32, flags: u32, result: Slot) -> None:
    """See the table."""
    require(element != 0, Status.BAD_ARGUMENT, "the argument element is a null pointer")
    require_own_types(heap)
    result.value = define_type(heap, VMGcKind.ARRAY_REF, element, 1, supertype, flags)


@inline
def require_own_types(heap: Heap) -> None:
    """Fail on a heap of Python's, whose types it defines itself."""
    is_own = heap.interface.is_foreign == 0
    require(is_own, Status.UNSUPPORTED, "Python made this heap, and defines its types")


@_exported
@inline
def lh_is_subtype(heap: Heap, type_index: u32, supertype: u32, result: Slot) -> None:
    """See the table."""
    check_type(heap, type_index)
    check_type(heap, supertype)
    result.value = u32(is_subtype(heap, type_index, supertype))


@_exported
@inline
def lh_field_offset(heap: Heap, type_index: u32, field: u32, result: Slot) -> None:
    """See the table."""
    check_type(heap, type_index)
    info = heap.type_info(type_index)
    check(
        field < info.field_count,
        Status.OUT_OF_BOUNDS,
        "field {} is out of bounds: type {} has {}",
        field,
        type_index,
        info.field_count,
    )
    result.value = field_info(heap, info, field).offset


# ----------------------------------------------------------------------------------------------------------------------
# Allocating. The checked build has no fast path: it may be time to collect.


@_exported
@inline
def lh_alloc_struct(heap: Heap, rules: FrameRules, type_index: u32, result: Slot) -> u32:
    """See the table."""
    if not heap.is_checked:
        size = heap.type_info(type_index).size_or_elements_offset
        reference = allocate_at_once(heap, VMGcKind.STRUCT_REF, type_index, size, block_length(size))
        if likely(reference != NULL):
            heap.collector.allocated(heap, reference)
            zero_block(heap, reference, block_length(size))
            result.value = reference
            return Status.OK
    return allocate_struct_slowly(heap, rules, type_index, result)


@cold
def allocate_struct_slowly(heap: Heap, rules: FrameRules, type_index: u32, result: Slot) -> u32:
    """Allocate a struct by the collector's policy."""
    if heap.is_checked:
        require_type_of(heap, type_index, VMGcKind.STRUCT_REF)
        collect_if_it_is_time(heap, rules)
    size = heap.type_info(type_index).size_or_elements_offset
    reference = allocate_struct(heap, rules, type_index)
    if unlikely(reference == NULL) and may_retry(heap, u64(size)):
        reference = allocate_struct(heap, rules, type_index)
    require_allocated(heap, reference, u64(size))
    zero_behind(heap, reference, HEADER_SIZE, size)
    hand_out(heap, reference, result)
    return Status.OK


@_exported
@inline
def lh_alloc_array(heap: Heap, rules: FrameRules, type_index: u32, length: u32, result: Slot) -> u32:
    """See the table."""
    if not heap.is_checked:
        needed = array_size(heap, type_index, length)
        if likely(needed < SMALL_BLOCK_LIMIT - BLOCK_ALIGN):
            size = u32(needed)
            reference = allocate_at_once(heap, VMGcKind.ARRAY_REF, type_index, size, block_length(size))
            if likely(reference != NULL):
                heap.collector.allocated(heap, reference)
                zero_block(heap, reference, block_length(size))
                heap.array(reference).length = length
                result.value = reference
                return Status.OK
    return allocate_array_slowly(heap, rules, type_index, length, result)


@cold
def allocate_array_slowly(heap: Heap, rules: FrameRules, type_index: u32, length: u32, result: Slot) -> u32:
    """Allocate an array by the collector's policy."""
    if heap.is_checked:
        require_type_of(heap, type_index, VMGcKind.ARRAY_REF)
        collect_if_it_is_time(heap, rules)
    needed = array_size(heap, type_index, length)
    reference = allocate_array(heap, rules, type_index, length)
    if unlikely(reference == NULL) and may_retry(heap, needed):
        reference = allocate_array(heap, rules, type_index, length)
    require_allocated(heap, reference, needed)
    zero_behind(heap, reference, ARRAY_HEADER_END, u32(needed))
    hand_out(heap, reference, result)
    return Status.OK


@_exported
@inline
def lh_alloc_externref(heap: Heap, rules: FrameRules, data: u64, finalizer: u64, result: Slot) -> None:
    """See the table. The room is found first, so that a failure leaves the side table as it was."""
    if unlikely(not host_data.has_free_id(heap)):
        if heap.control.no_gc_count == 0:
            collect_or_fail(heap, rules)
            release_dead(heap)
        require(host_data.has_free_id(heap), Status.LIMIT, f"all {HOST_DATA_LIMIT} host-data ids are in use")
    collect_if_it_is_time(heap, rules)
    size = u64(sizeof(VMDrcExternRef))
    reference = allocate_externref(heap, rules)
    if unlikely(reference == NULL) and may_retry(heap, size):
        reference = allocate_externref(heap, rules)
    require_allocated(heap, reference, size)
    # Whatever was called back meanwhile may have taken ids, the last one, too.
    if unlikely(not host_data.has_free_id(heap)):
        heap.collector.free_leaf(heap, reference)
        require(False, Status.LIMIT, f"all {HOST_DATA_LIMIT} host-data ids are in use")
    zero_behind(heap, reference, HEADER_SIZE, sizeof(VMDrcExternRef))
    heap.externref(reference).host_data_id = host_data.take_id(heap, VMHostDataOwner.C, data, finalizer)
    hand_out(heap, reference, result)


@inline
def zero_block(heap: Heap, reference: Ref, length: u32) -> None:
    """Set a block to zero behind the header.

    Small ones above all, for which a call of memset takes longer; the function has an attribute that keeps LLVM from
    making it one.
    """
    start = address_of(heap.block(reference))
    place: u64 = HEADER_SIZE
    while place < MINIMUM_OBJECT_BLOCK:  # none or one, as the header's size is
        cell(u64, start + place).value = 0
        place += 8
    while place < u64(length):
        cell(u64, start + place).value = 0
        cell(u64, start + place + 8).value = 0
        place += BLOCK_ALIGN


@inline
def zero_behind(heap: Heap, reference: Ref, start: u32, end: u32) -> None:
    """Set an object's bytes from `start` to `end` to zero."""
    zero_memory(address_of(heap.block(reference)) + u64(start), u64(end - start))


@inline
def hand_out(heap: Heap, reference: Ref, result: Slot) -> None:
    """Give a new object, whose one count becomes the list's, to the caller."""
    heap.collector.allocated(heap, reference)
    result.value = reference
    release_dead(heap)


@inline
def may_retry(heap: Heap, needed: u64) -> bool:
    """Whether an allocation that failed for want of room is to be tried again: the host let go of something."""
    require_sound_slots(heap)
    if heap.store_context.trap_code == TrapCode.HEAP_EXHAUSTED:
        return heap.ask_for_room(needed)
    return False


@inline
def require_allocated(heap: Heap, reference: Ref, needed: u64) -> None:
    """Fail when there is no object, and say why not."""
    if unlikely(reference == NULL):
        context = heap.store_context
        code = context.trap_code
        context.trap_code = 0
        require(
            code != TrapCode.ALLOCATION_TOO_LARGE,
            Status.TOO_LARGE,
            f"an object of {{}} bytes; the largest heap there can be has room for {MAXIMUM_CAPACITY - FIRST_INDEX}",
            needed,
        )
        require_traceable(heap)
        require(
            False,
            Status.OUT_OF_MEMORY,
            "no room for {} bytes: {} of {} are live; the heap may have {}",
            needed,
            live_bytes(heap),
            heap.control.capacity,
            heap.control.maximum,
        )


@inline
def collect_if_it_is_time(heap: Heap, rules: FrameRules) -> None:
    """In the checked build, a heap with `collect_every` collects at every so many allocations.

    That proves that frames hold enough.
    """
    if heap.is_checked:
        interface = heap.interface
        every = interface.collect_every
        if unlikely(every != 0):
            interface.allocations += 1
            if (interface.allocations % u64(every) == 0) and (heap.control.no_gc_count == 0):
                collect_or_fail(heap, rules)


# ----------------------------------------------------------------------------------------------------------------------
# Collecting, and what cannot be collected


@_exported
@inline
def lh_collect(heap: Heap, rules: FrameRules) -> None:
    """See the table."""
    roots.require_no_scope(heap)
    collect_or_fail(heap, rules)
    release_dead(heap)


@_exported
@inline
def lh_collect_cycles(heap: Heap, rules: FrameRules) -> None:
    """See the table."""
    roots.require_no_scope(heap)
    if not heap.collector.searches_for_cycles:
        require(False, Status.UNSUPPORTED, "the heap's collector cannot search for cycles")
    if unlikely(not heap.collector.collect_cycles(heap, rules, False)):
        require_traceable(heap)
    release_dead(heap)


@_exported
@inline
def lh_collect_increment(heap: Heap, rules: FrameRules, budget: u64, result: Slot) -> None:
    """See the table."""
    check(budget != 0, Status.BAD_ARGUMENT, "the budget is 0; it must be at least 1")
    if not heap.collector.has_pending(heap):
        roots.require_no_scope(heap)
        if unlikely(not trace(heap, rules)):
            heap.collector.forget_held(heap)
            require_traceable(heap)
        heap.collector.sweep_pending(heap)
        finish_sweep(heap)
    result.value = u32(heap.collector.free_pending(heap, budget))
    release_dead(heap)


@inline
def collect_or_fail(heap: Heap, rules: FrameRules) -> None:
    """Collect. Fails when a frame is wrong."""
    if unlikely(not heap.collector.collect(heap, rules)):
        require_traceable(heap)


@inline
def require_traceable(heap: Heap) -> None:
    """Fail if a trace has found a frame to be wrong."""
    require_sound_slots(heap)
    context = heap.store_context
    address = context.unknown_return_address
    if unlikely(address != 0):
        context.unknown_return_address = 0
        require(False, Status.CORRUPT, "a frame of compiled code that returns to {:#x} has no stack map", address)
    reference = context.unsound_root
    if unlikely(reference != NULL):
        context.unsound_root = NULL
        require(
            False,
            Status.BAD_REFERENCE,
            "a frame holds {:#x}, which is stale, or was never a deferred reference",
            reference,
        )


@inline
def require_sound_slots(heap: Heap) -> None:
    """Fail, in the checked build, if a frame holds what no collection could mark."""
    if heap.is_checked:
        address = unsound_slot(heap)
        if unlikely(address != 0):
            require(
                False,
                Status.BAD_REFERENCE,
                "slot {:#x} of a frame holds {:#x}, which is stale, or was never a deferred reference",
                address,
                cell(u32, address).value,
            )


@_exported
@inline
def lh_no_gc_enter(heap: Heap) -> None:
    """See the table."""
    roots.enter_no_gc_scope(heap)


@_exported
@inline
def lh_no_gc_exit(heap: Heap) -> None:
    """See the table."""
    roots.exit_no_gc_scope(heap)


# ----------------------------------------------------------------------------------------------------------------------
# Externrefs: the host lets go of their data when the heap is whole again


@inline
def release_dead(heap: Heap) -> None:
    """Have the host's data of dead externrefs let go of, if any died. Everything the call does must be done."""
    if unlikely(heap.control.dead_externrefs != NULL):
        release(heap)


@cold
def release(heap: Heap) -> None:
    """Call the host."""
    heap.release_externrefs()


@native
def release_all_dead(heap: Heap) -> None:
    """What the host is for a heap that C made: free the externrefs that wait for it, each before its finalizer runs,
    which may use the heap.
    """
    control = heap.control
    while control.dead_externrefs != NULL:
        reference = control.dead_externrefs
        control.dead_externrefs = heap.header(reference).next_over_approximated_stack_root
        number = heap.externref(reference).host_data_id
        heap.collector.free_leaf(heap, reference)
        entry = host_data.entry_of(heap, number)
        data = entry.data
        finalizer = entry.finalizer
        host_data.free_id(heap, number)
        if finalizer != 0:
            if heap.is_checked:
                was_busy = heap.interface.is_busy
                heap.interface.is_busy = 0
                heap.finalize(finalizer, data)
                heap.interface.is_busy = was_busy
            else:
                heap.finalize(finalizer, data)


@native
def finalize_all(heap: Heap) -> None:
    """Call the finalizers of all externrefs, for a heap that is about to go. They must not use it."""
    for number in range(heap.control.host_data_count):
        entry = host_data.entry_of(heap, number)
        if entry.owner != VMHostDataOwner.NOBODY:
            entry.owner = VMHostDataOwner.NOBODY
            if entry.finalizer != 0:
                heap.finalize(entry.finalizer, entry.data)


# ----------------------------------------------------------------------------------------------------------------------
# Objects


@_exported
@inline
def lh_type_of(heap: Heap, reference: Ref, result: Slot) -> None:
    """See the table."""
    check_object(heap, reference, OBJECT)
    result.value = heap.header(reference).type_index


@_exported
@inline
def lh_is_instance(heap: Heap, reference: Ref, type_index: u32, result: Slot) -> None:
    """See the table."""
    check_reference(heap, reference, REFERENCE)
    check_type(heap, type_index)
    answer = False
    if is_object(reference):
        answer = matches(heap, reference, type_index)
    result.value = u32(answer)


@_exported
@inline
def lh_array_length(heap: Heap, reference: Ref, result: Slot) -> None:
    """See the table."""
    check_kind(heap, reference, VMGcKind.ARRAY_REF, ARRAY)
    result.value = heap.array(reference).length


@_exported
@inline
def lh_array_data(heap: Heap, reference: Ref, result: u64) -> None:
    """See the table."""
    check_kind(heap, reference, VMGcKind.ARRAY_REF, ARRAY)
    info = heap.type_info(heap.header(reference).type_index)
    check(
        field_info(heap, info, 0).storage != VMStorage.REFERENCE,
        Status.WRONG_TYPE,
        "the array at {:#x} has references as elements",
        reference,
    )
    cell(u64, result).value = address_of(heap.slot(reference, info.size_or_elements_offset))


@_exported
@inline
def lh_externref_data(heap: Heap, reference: Ref, result: u64) -> None:
    """See the table."""
    check_kind(heap, reference, VMGcKind.EXTERN_REF, EXTERNREF)
    cell(u64, result).value = host_data.entry_of(heap, heap.externref(reference).host_data_id).data


@_exported
@inline
def lh_exception_tag(heap: Heap, reference: Ref, result: VMTag) -> None:
    """See the table."""
    check_kind(heap, reference, VMGcKind.EXN_REF, EXCEPTION)
    header = heap.exception(reference)
    result.tag_instance = header.tag_instance
    result.tag_defined = header.tag_defined


# ----------------------------------------------------------------------------------------------------------------------
# Fields and elements: the same functions, but for how the place is found. Exceptions are only read.


def _signed_reader(find: Any) -> Native[..., Any]:
    @inline
    def read(heap: Heap, reference: Ref, number: u32, result: Slot) -> None:
        offset, entry = find(heap, reference, number, INTEGERS)
        result.value = load_signed(heap, reference, offset, u32(entry.storage))

    return read


def _unsigned_reader(find: Any) -> Native[..., Any]:
    @inline
    def read(heap: Heap, reference: Ref, number: u32, result: Slot) -> None:
        offset, entry = find(heap, reference, number, INTEGERS)
        result.value = load_unsigned(heap, reference, offset, u32(entry.storage))

    return read


def _reader(find: Any, word: Any, storages: Storages) -> Native[..., Any]:
    @inline
    def read(heap: Heap, reference: Ref, number: u32, result: u64) -> None:
        offset, _entry = find(heap, reference, number, storages)
        cell(word, result).value = heap.cell(word, reference, offset).value

    return read


def _vector_reader(find: Any) -> Native[..., Any]:
    @inline
    def read(heap: Heap, reference: Ref, number: u32, result: VMVector) -> None:
        offset, _entry = find(heap, reference, number, VECTORS)
        result.low = heap.cell(u64, reference, offset + VMVector.low.offset).value
        result.high = heap.cell(u64, reference, offset + VMVector.high.offset).value

    return read


def _reference_reader(find: Any) -> Native[..., Any]:
    @inline
    def read(heap: Heap, reference: Ref, number: u32, result: Slot) -> None:
        offset, _entry = find(heap, reference, number, REFERENCES)
        result.value = heap.collector.read(heap, reference, heap.slot(reference, offset), ANY)

    return read


def _integer_writer(find: Any) -> Native[..., Any]:
    @inline
    def write(heap: Heap, reference: Ref, number: u32, value: u32) -> None:
        offset, entry = find(heap, reference, number, INTEGERS)
        store_integer(heap, reference, offset, u32(entry.storage), value)

    return write


def _narrow_writer(find: Any) -> Native[..., Any]:
    @inline
    def write(heap: Heap, reference: Ref, number: u32, value: u32) -> None:
        offset, _entry = find(heap, reference, number, FLOATS)
        heap.cell(u32, reference, offset).value = value

    return write


def _wide_writer(find: Any, storages: Storages) -> Native[..., Any]:
    @inline
    def write(heap: Heap, reference: Ref, number: u32, value: u64) -> None:
        offset, _entry = find(heap, reference, number, storages)
        heap.cell(u64, reference, offset).value = value

    return write


def _vector_writer(find: Any) -> Native[..., Any]:
    @inline
    def write(heap: Heap, reference: Ref, number: u32, value: VMVector) -> None:
        offset, _entry = find(heap, reference, number, VECTORS)
        heap.cell(u64, reference, offset + VMVector.low.offset).value = value.low
        heap.cell(u64, reference, offset + VMVector.high.offset).value = value.high

    return write


def _reference_writer(find: Any) -> Native[..., Any]:
    @inline
    def write(heap: Heap, reference: Ref, number: u32, value: Ref) -> None:
        offset, entry = find(heap, reference, number, REFERENCES)
        check_reference(heap, value, VALUE)
        check_value(heap, entry, value)
        heap.collector.write(heap, reference, heap.slot(reference, offset), value, ANY)
        release_dead(heap)

    return write


for _kind, _find in (("struct", field_place), ("array", element_place), ("exception", exception_place)):
    FUNCTIONS |= {
        f"lh_{_kind}_get_i32": _signed_reader(_find),
        f"lh_{_kind}_get_u32": _unsigned_reader(_find),
        f"lh_{_kind}_get_i64": _reader(_find, u64, WIDE),
        f"lh_{_kind}_get_f32": _reader(_find, u32, FLOATS),
        f"lh_{_kind}_get_f64": _reader(_find, u64, DOUBLES),
        f"lh_{_kind}_get_v128": _vector_reader(_find),
        f"lh_{_kind}_get_ref": _reference_reader(_find),
    }
for _kind, _find in (("struct", field_place), ("array", element_place)):
    FUNCTIONS |= {
        f"lh_{_kind}_set_i32": _integer_writer(_find),
        f"lh_{_kind}_set_i64": _wide_writer(_find, WIDE),
        f"lh_{_kind}_set_f32": _narrow_writer(_find),
        f"lh_{_kind}_set_f64": _wide_writer(_find, DOUBLES),
        f"lh_{_kind}_set_v128": _vector_writer(_find),
        f"lh_{_kind}_set_ref": _reference_writer(_find),
    }


# ----------------------------------------------------------------------------------------------------------------------
# Barriers


@_exported
@inline
def lh_inc_ref(heap: Heap, reference: Ref) -> None:
    """See the table."""
    check_reference(heap, reference, REFERENCE)
    heap.collector.inc_ref(heap, reference, ANY)


@_exported
@inline
def lh_dec_ref(heap: Heap, reference: Ref) -> None:
    """See the table."""
    check_reference(heap, reference, REFERENCE)
    check_own_count(heap, reference, GIVE_BACK)
    heap.collector.dec_ref(heap, reference, ANY)
    release_dead(heap)


@_exported
@inline
def lh_expose(heap: Heap, reference: Ref) -> None:
    """See the table."""
    check_reference(heap, reference, REFERENCE)
    check_own_count(heap, reference, HAND_OVER)
    heap.collector.expose(heap, reference, ANY)


@_exported
@inline
def lh_defer(heap: Heap, reference: Ref) -> None:
    """See the table."""
    check_reference(heap, reference, REFERENCE)
    heap.collector.inc_ref(heap, reference, ANY)
    heap.collector.expose(heap, reference, ANY)


@inline
def check_own_count(heap: Heap, reference: Ref, what: Text) -> None:
    """Fail when the only count of an object is the list's: it is nobody's to give."""
    if heap.is_checked and is_object(reference):
        is_owned = heap.collector.is_owned(heap, reference)
        require(
            is_owned,
            Status.BAD_REFERENCE,
            f"cannot {what} a count of the object at {{:#x}}: its only one is the list's",
            reference,
        )


@_exported
@inline
def lh_read(heap: Heap, slot: Slot, result: Slot) -> None:
    """See the table."""
    check_slot(heap, slot)
    result.value = heap.collector.read(heap, NULL, slot, ANY)


@_exported
@inline
def lh_write(heap: Heap, slot: Slot, value: Ref) -> None:
    """See the table."""
    check_slot(heap, slot)
    require_known_owner(heap, slot)
    check_reference(heap, value, VALUE)
    heap.collector.write(heap, NULL, slot, value, ANY)
    release_dead(heap)


@_exported
@inline
def lh_init(heap: Heap, slot: Slot, value: Ref) -> None:
    """See the table."""
    check_slot(heap, slot)
    require_known_owner(heap, slot)
    check_reference(heap, value, VALUE)
    check(
        not is_object(slot.value),
        Status.BAD_SLOT,
        "slot {:#x} holds the object at {:#x} already, which lh_write would let go of",
        address_of(slot),
        slot.value,
    )
    heap.collector.init(heap, NULL, slot, value, ANY)


@_exported
@inline
def lh_store(heap: Heap, reference: Ref, offset: u32, value: Ref) -> None:
    """See the table."""
    check_object(heap, reference, OBJECT)
    if heap.is_checked:
        size = heap.header(reference).object_size
        require(
            (offset >= HEADER_SIZE) & (u64(offset) + REFERENCE_SIZE <= u64(size)),
            Status.OUT_OF_BOUNDS,
            "offset {} is out of bounds: the fields of the object at {:#x} are from {} to {}",
            offset,
            reference,
            HEADER_SIZE,
            size,
        )
    slot = heap.slot(reference, offset)
    check_slot(heap, slot)
    check_reference(heap, value, VALUE)
    heap.collector.write(heap, reference, slot, value, ANY)
    release_dead(heap)


@inline
def require_known_owner(heap: Heap, slot: Slot) -> None:
    """Fail where a slot is in an object, and the collector must know which."""
    if heap.collector.needs_owner:
        address = address_of(slot)
        require(
            wrapping_sub(address, heap.control.heap_base) >= heap.control.capacity,
            Status.UNSUPPORTED,
            "slot {:#x} is in an object, and the heap's collector must know in which: set its field or element",
            address,
        )


@inline
def check_slot(heap: Heap, slot: Slot) -> None:
    """Fail, in the checked build, unless a slot is registered or in the heap, aligned, and holds what it can."""
    if heap.is_checked:
        address = address_of(slot)
        require(
            address & (REFERENCE_SIZE - 1) == 0,
            Status.BAD_SLOT,
            f"slot {{:#x}} is not a multiple of {REFERENCE_SIZE}",
            address,
        )
        if wrapping_sub(address, heap.control.heap_base) >= u64(heap.control.bump):
            is_known = roots.is_registered(heap, address)
            require(is_known, Status.BAD_SLOT, "slot {:#x} is neither in the heap nor registered", address)
        check_reference(heap, slot.value, SLOT_VALUE)


# ----------------------------------------------------------------------------------------------------------------------
# Roots


@_exported
@inline
def lh_frame_push(heap: Heap, frame: VMRootFrame, slots: u64, count: u32) -> None:
    """See the table."""
    if heap.is_checked:
        require((slots != 0) | (count == 0), Status.BAD_ARGUMENT, "the argument slots is a null pointer")
        address = address_of(frame)
        is_new = address != heap.store_context.root_frames
        require(is_new, Status.BAD_FRAME, "the frame at {:#x} is pushed already", address)
        for number in range(count):
            check_reference(heap, roots.slot_of(slots, number).value, FRAME_SLOT)
    roots.push_frame(heap, frame, slots, count)


@_exported
@inline
def lh_frame_pop(heap: Heap, frame: VMRootFrame) -> None:
    """See the table."""
    check(
        address_of(frame) == heap.store_context.root_frames,
        Status.BAD_FRAME,
        "the frame at {:#x} is not the one that was pushed last on this heap, at {:#x}",
        address_of(frame),
        heap.store_context.root_frames,
    )
    roots.pop_frame(heap, frame)


@_exported
@inline
def lh_slot_register(heap: Heap, slot: Slot) -> None:
    """See the table."""
    address = address_of(slot)
    check(not roots.is_registered(heap, address), Status.BAD_SLOT, "slot {:#x} is registered already", address)
    roots.register_slot(heap, address)
    slot.value = NULL


@_exported
@inline
def lh_slot_unregister(heap: Heap, slot: Slot) -> None:
    """See the table."""
    if heap.is_checked and roots.is_registered(heap, address_of(slot)):
        check_reference(heap, slot.value, SLOT_VALUE)
    roots.unregister_slot(heap, address_of(slot))
    heap.collector.write(heap, NULL, slot, NULL, ANY)
    release_dead(heap)
