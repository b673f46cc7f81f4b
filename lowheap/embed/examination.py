"""The C interface's part that looks at a heap, written once: a walk, a dump, and the check of every invariant.

What walks and verifies is what all collectors share (`collectors/shared/walking.py`, `verify.py`), with what the heap's
own adds; here is how C comes to it, and what a dump is made of: `snapshot/dump.py` reads that. The first problem that
is found is the message of the function that found it, `VMHeap.problems` counts them all.

Nothing here trusts the heap's bytes: see there. What a control block points to is looked at before it is followed.
"""

from __future__ import annotations

from typing import Any

from lowheap.collectors.shared.parts import content_at, length_of_part, size_of_content
from lowheap.collectors.shared.roots import Root, every_root
from lowheap.collectors.shared.verify import forget_notes, size_of_notes, verify, verify_frames, verify_places
from lowheap.collectors.shared.walking import walk
from lowheap.declarations import layout_hash
from lowheap.errors import Status
from lowheap.layout import (
    DUMP_MAGIC,
    NULL,
    REFERENCE_SIZE,
    VMCollectorPart,
    VMDump,
    VMDumpPart,
    VMDumpRoot,
    VMHeapControl,
    VMHostData,
    VMTypeInfo,
)
from lowheap.native import Heap, Native, address_of, at, inline, local_array, require, sizeof, u64

_LAYOUTS = layout_hash()
_WORD = 4
_DUMP_WORDS = sizeof(VMDump) // 8
_PART_WORDS = sizeof(VMDumpPart) // 8
_ROOTS_AT_ONCE = 64
_ROOTS_SIZE = _ROOTS_AT_ONCE * sizeof(VMDumpRoot)
"""So many bytes of roots a dump writes at a time."""


@inline
def lh_walk(heap: Heap, visitor: u64, argument: u64) -> None:
    """See the table."""
    heap.forget_problems()
    returned, reference = walk(heap, visitor, argument)
    heap.require_no_problem()
    require(returned == 0, Status.CALLBACK, "the visitor returned {} at object {:#x}", returned, reference)


@inline
def lh_verify(heap: Heap) -> None:
    """See the table."""
    heap.forget_problems()
    notes = verify(heap, True)
    if notes != 0:
        if heap.problem_count() == 0:
            verify_frames(heap, notes)
        forget_notes(heap, notes)
    heap.require_no_problem()
    size = size_of_notes(heap)
    require(notes != 0, Status.SYSTEM, "the system refused {} bytes to take notes in", size)


# ----------------------------------------------------------------------------------------------------------------------
# Dumping


@inline
def lh_dump(heap: Heap, writer: u64, argument: u64) -> None:
    """See the table."""
    heap.forget_problems()
    verify_places(heap)
    heap.require_no_problem()
    control = heap.control
    words = local_array(u64, _DUMP_WORDS)
    header = at(VMDump, address_of(words))
    header.magic = DUMP_MAGIC
    header.abi = _LAYOUTS
    header.control_size = sizeof(VMHeapControl)
    header.type_count = u64(control.type_count)
    header.type_data_length = u64(control.type_data_length)
    header.handle_count = u64(control.handle_count)
    header.host_data_count = u64(control.host_data_count)
    header.root_count = count_roots(heap)
    header.part_count = u64(heap.part_count())
    header.parts_size = size_of_parts(heap)
    header.heap_size = u64(control.bump)
    write(heap, writer, argument, address_of(words), sizeof(VMDump))
    write(heap, writer, argument, address_of(control), sizeof(VMHeapControl))
    write(heap, writer, argument, control.type_table, header.type_count * sizeof(VMTypeInfo))
    write(heap, writer, argument, control.type_data, header.type_data_length * _WORD)
    write(heap, writer, argument, control.handles, header.handle_count * REFERENCE_SIZE)
    write(heap, writer, argument, control.host_data, header.host_data_count * sizeof(VMHostData))
    write_roots(heap, writer, argument)
    write_parts(heap, writer, argument)
    write(heap, writer, argument, address_of(heap.block(NULL)), header.heap_size)


@inline
def write(heap: Heap, writer: u64, argument: u64, data: u64, size: u64) -> None:
    """Have bytes written, if there are any. Fails when the writer does."""
    if size != 0:
        returned = heap.write(writer, argument, data, size)
        require(returned == 0, Status.CALLBACK, "the writer returned {}", returned)


@inline
def count_roots(heap: Heap) -> u64:
    """How many roots a dump has."""
    count: u64 = 0
    root = Root()
    for _reference in every_root(heap, root):
        count += 1
    return count


@inline
def write_roots(heap: Heap, writer: u64, argument: u64) -> None:
    """Write all roots, a bufferful at a time."""
    buffer = local_array(u64, _ROOTS_SIZE // 8)
    used: u64 = 0
    root = Root()
    for reference in every_root(heap, root):
        record = at(VMDumpRoot, address_of(buffer) + used)
        record.place = root.place
        record.kind = root.kind
        record.reference = reference
        used += sizeof(VMDumpRoot)
        if used == _ROOTS_SIZE:
            write(heap, writer, argument, address_of(buffer), used)
            used = 0
    write(heap, writer, argument, address_of(buffer), used)


@inline
def size_of_parts(heap: Heap) -> u64:
    """How many bytes a dump has of what the collector keeps."""
    size: u64 = 0
    for number in range(heap.part_count()):
        size += sizeof(VMDumpPart) + size_of_content(heap, heap.part(number))
    return size


@inline
def write_parts(heap: Heap, writer: u64, argument: u64) -> None:
    """Write what the collector keeps, each part behind what it is."""
    words = local_array(u64, _PART_WORDS)
    record = at(VMDumpPart, address_of(words))
    for number in range(heap.part_count()):
        part = heap.part(number)
        record.length = length_of_part(heap, part)
        record.size = size_of_content(heap, part)
        write(heap, writer, argument, address_of(part), sizeof(VMCollectorPart))
        write(
            heap,
            writer,
            argument,
            address_of(words) + sizeof(VMCollectorPart),
            sizeof(VMDumpPart) - sizeof(VMCollectorPart),
        )
        write(heap, writer, argument, content_at(heap, part), record.size)


FUNCTIONS: dict[str, Native[..., Any]] = {"lh_walk": lh_walk, "lh_verify": lh_verify, "lh_dump": lh_dump}
"""The functions here, by name."""
