"""Inspecting an image of a heap: is it sound, what is in it, what is garbage that counting will never free?

`inspect` looks at an image in three ways.

**Verify.** The image of a lowheap heap is made a heap again, and verified as every heap is: `verification.py`. Each
violation is one sentence. Of a wasmtime image, owners outside of the heap are not known, so a count may exceed the
owners found but not be less; and of what else is not known, nothing is said.

**Summarise.** Objects and bytes by type, counts, the list, fragmentation, what is dead and waits to be freed, what
the collector keeps of its own; and of a heap that is made of lines and blocks, how many of them are free.

**Trace from outside.** Reference counting never frees a cycle; a search for cycles does (`Store.collect(cycles=True)`),
and this tells what it would free. Whatever cannot be reached from a handle, a root slot, compiled code or the list is
garbage; it is reported as the cycles that keep it (strongly connected components), what hangs on them, and what no
cycle explains: objects whose count has no owner, a leak, which no search frees, nor what that refers to. In an image
without root information, an object whose count exceeds the owners within the heap is taken as held from outside. What
waits to be freed, and what dies with that, is no garbage in this sense; nor, where counts are brought up to date at
times only, what dies when they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.collectors.shared.allocator import OF_THE_COLLECTOR, SegregatedFit
from lowheap.collectors.shared.lines import LineMap, LineState
from lowheap.collectors.shared.types import field_info, size_of_storage
from lowheap.errors import HeapCorruptionError
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    FIELD_TRACED,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    RESERVED_MASK,
    VMGcKind,
    is_object,
)
from lowheap.native import Heap
from lowheap.representation import printable, short_repr
from lowheap.snapshot import Image, ImageObject
from lowheap.snapshot.contents import TAG_FIELDS, UNCOUNTED_ROOT_KINDS, ImageField, kind_label
from lowheap.snapshot.picture import draw
from lowheap.snapshot.reopened import reopen
from lowheap.verification import problems_of

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, slots=True)
class TypeSummary:
    """All objects of one type. `size` is the sum of their sizes, `block_bytes` that of their blocks, in bytes."""

    type_index: int
    label: str
    kind: str
    objects: int
    size: int
    block_bytes: int


@dataclass(frozen=True, slots=True)
class FreeSummary:
    """The free blocks below the bump pointer; sizes in bytes. `beyond` is free capacity that was never used.

    `largest` is the largest block as they are; `largest_merged` what it would be if neighbours were merged, as an
    allocation merges them that finds no room.
    """

    blocks: int
    size: int
    largest: int
    largest_merged: int
    beyond: int

    @property
    def fragmentation(self) -> float:
        """The part of the free bytes that is not in the largest block: 0 when all could be one object."""
        return 1 - self.largest / self.size if self.size else 0.0

    @property
    def fragmentation_merged(self) -> float:
        """The same, if neighbours were merged: what is left is between objects."""
        return 1 - self.largest_merged / self.size if self.size else 0.0


@short_repr
@dataclass(frozen=True, slots=True)
class Cycle:
    """Objects that keep each other alive, each reachable from each, and the bytes of their blocks."""

    objects: tuple[int, ...]
    block_bytes: int


@short_repr
@dataclass(frozen=True, slots=True)
class Garbage:
    """What cannot be reached from outside: cycles, what only they hold, and what has a count that nobody owns.

    `freed_by_search` are the objects that a search for cycles would free, and `bytes_freed_by_search` the bytes of
    their blocks: all but what is leaked, and what that refers to.
    """

    cycles: tuple[Cycle, ...] = ()
    held: tuple[int, ...] = ()
    leaked: tuple[int, ...] = ()
    freed_by_search: tuple[int, ...] = ()
    bytes_freed_by_search: int = 0

    def __len__(self) -> int:
        """Return the number of objects."""
        return sum(len(cycle.objects) for cycle in self.cycles) + len(self.held) + len(self.leaked)


@short_repr
@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found.

    `problems` are the invariants that do not hold; with any, the figures are those of what could be read. `counts` says
    how many objects have each reference count; `listed` is the over-approximated list in order. `pending` are the dead
    objects, of count 0, that a collection with a budget has yet to free, the next first. `unconfirmed` are the
    objects of an image that cannot be walked which only look like objects. `lines` is what is in each line of each
    block, None when the heap is not made of them, or not sound. `garbage` is None when the heap is too broken to be
    traced, or is not known to count references. `allocator` is the free-list policy's name; `OF_THE_COLLECTOR` where
    the collector finds room for objects itself, and None for a heap of wasmtime's.
    """

    image: Image
    problems: tuple[str, ...]
    types: tuple[TypeSummary, ...]
    free: FreeSummary
    listed: tuple[int, ...]
    pending: tuple[int, ...]
    counts: dict[int, int]
    unconfirmed: tuple[int, ...]
    lines: LineMap | None
    garbage: Garbage | None
    allocator: str | None

    @property
    def objects(self) -> int:
        """The number of objects that are not freed: the live ones, and the pending ones."""
        return sum(each.objects for each in self.types)

    @property
    def block_bytes(self) -> int:
        """Bytes of the blocks of these objects."""
        return sum(each.block_bytes for each in self.types)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values; references are integers."""
        control = self.image.control
        garbage = self.garbage
        return {
            "source": self.image.source,
            "end": self.image.end,
            "capacity": None if control is None else control.capacity,
            "maximum": None if control is None else control.maximum,
            "allocator": self.allocator,
            "collector": self.image.collector,
            "collections": None if control is None else control.collections,
            "walkable": self.image.is_walkable,
            "problems": list(self.problems),
            "objects": self.objects,
            "block_bytes": self.block_bytes,
            "types": [
                {
                    "type_index": None if each.type_index == EXTERNREF_TYPE_INDEX else each.type_index,
                    "label": each.label,
                    "kind": each.kind,
                    "objects": each.objects,
                    "size": each.size,
                    "block_bytes": each.block_bytes,
                }
                for each in self.types
            ],
            "free": {
                "known": self.image.is_walkable,
                "blocks": self.free.blocks,
                "size": self.free.size,
                "largest": self.free.largest,
                "largest_merged": self.free.largest_merged,
                "beyond": self.free.beyond,
                "fragmentation": self.free.fragmentation,
                "fragmentation_merged": self.free.fragmentation_merged,
            },
            "roots": dict(Counter(root.kind for root in self.image.roots)),
            "list": list(self.listed),
            "pending": list(self.pending),
            "counts": {str(count): objects for count, objects in sorted(self.counts.items())},
            "unconfirmed": list(self.unconfirmed),
            "lines": None if self.lines is None else _lines_to_json(self.lines),
            "kept": [
                {
                    "kind": each.kind_label,
                    "name": each.name,
                    "entries": each.entry_count(self.image.end),
                    "entry_size": each.entry_size,
                }
                for each in self.image.parts
            ],
            "garbage": None
            if garbage is None
            else {
                "objects": len(garbage),
                "cycles": [
                    {"objects": list(cycle.objects), "block_bytes": cycle.block_bytes} for cycle in garbage.cycles
                ],
                "held": list(garbage.held),
                "leaked": list(garbage.leaked),
                "freed_by_search": {
                    "objects": len(garbage.freed_by_search),
                    "block_bytes": garbage.bytes_freed_by_search,
                },
            },
        }

    def render(self) -> Group:
        """Return everything for people, as a rich renderable."""
        return _render(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the heap map, a PNG: blocks in address order, a colour for each type.

        Of a heap that is made of lines and blocks, those come first: what is in each.

        LowheapError when matplotlib is not installed; OSError when the file cannot be written.
        """
        draw(self.image, self.lines, path)


def inspect(image: Image, collector: str | type[Collector] | Collector | None = None) -> Inspection:
    """Verify and summarise an image; nothing in its bytes makes this raise. `collector` is as `verify` has it.

    UnsupportedError as there.
    """
    image = _by_rules_of(image, collector)
    problems = verify(image)
    objects, free, merged = _readable(image)
    by_type: dict[tuple[int, VMGcKind], list[ImageObject]] = {}
    for found in objects:
        by_type.setdefault((found.type_index, found.kind), []).append(found)
    types = [
        TypeSummary(
            type_index,
            members[0].label,
            kind_label(kind),
            len(members),
            sum(each.size for each in members),
            sum(each.block_length for each in members),
        )
        for (type_index, kind), members in by_type.items()
    ]
    listed: tuple[int, ...] = ()
    pending: tuple[int, ...] = ()
    with contextlib.suppress(HeapCorruptionError):  # `verify` says what is wrong with a list
        listed = tuple(image.over_approximated_list())
    with contextlib.suppress(HeapCorruptionError):
        pending = tuple(image.pending_dead())
    control = image.control
    return Inspection(
        image=image,
        problems=tuple(problems),
        types=tuple(sorted(types, key=lambda each: (-each.block_bytes, each.type_index))),
        free=FreeSummary(
            len(free),
            sum(free),
            max(free, default=0),
            merged,
            0 if control is None else max(0, control.bump_end - control.bump),
        ),
        listed=listed,
        pending=pending,
        counts=dict(sorted(Counter(each.ref_count for each in objects).items())),
        unconfirmed=tuple(each.index for each in objects if not each.is_confirmed),
        lines=None if problems else _line_map(image),
        garbage=None if problems or not _is_counted(image) else find_garbage(image),
        allocator=_allocator(image),
    )


def _by_rules_of(image: Image, given: str | type[Collector] | Collector | None) -> Image:
    """Have the image looked at by the rules of a collector, if one is given and it is of a heap of lowheap's."""
    if given is None or image.control is None:
        return image
    return dataclasses.replace(image, rules=registry.find(given))


def _allocator(image: Image) -> str | None:
    """What the policy is called. A dump does not name it, nor did images always tell that there was none."""
    if image.control is None:
        return None
    return OF_THE_COLLECTOR if image.collector_in_force.finds_room else image.control.allocator


def _line_map(image: Image) -> LineMap | None:
    if image.control is None or image.tables is None:
        return None
    collector = image.collector_in_force
    return collector.line_map(reopen(image, collector))


def _lines_to_json(lines: LineMap) -> dict[str, Any]:
    return {
        "line_size": lines.line_size,
        "block_size": lines.block_size,
        "blocks": {
            "all": len(lines.blocks),
            "empty": lines.empty,
            "partly_free": lines.partly_free,
            "full": lines.full,
            "large": lines.large,
        },
        "lines": {state.name.lower(): count for state, count in lines.lines.items()},
        "free_in_use": lines.free_in_use,
        "fragmentation": lines.fragmentation,
    }


def _is_counted(image: Image) -> bool:
    """Whether counts are known to say how many owners objects have."""
    return image.control is None or (image.control.is_counted and image.collector_in_force.counts)


def _readable(image: Image) -> tuple[list[ImageObject], list[int], int]:
    """The objects, the lengths of the free blocks, and of the longest run of them, as far as a walk comes."""
    objects: list[ImageObject] = []
    free: list[int] = []
    longest = run = 0
    with contextlib.suppress(HeapCorruptionError):  # `verify` says where the walk ends, and why
        if image.is_walkable:
            for block in image.blocks():
                if block.is_free:
                    free.append(block.length)
                    run += block.length
                    longest = max(longest, run)
                else:
                    objects.append(image.object_at(block.index))
                    run = 0
        else:
            objects += image.objects()
    return objects, free, longest


# ----------------------------------------------------------------------------------------------------------------------
# Verifying


def verify(image: Image, collector: str | type[Collector] | Collector | None = None) -> list[str]:
    """Return every invariant that does not hold in an image, one sentence each; none when it is sound.

    They are those of `collector`, of a lowheap heap; where none is given, of the one that the image names, if it is one
    of lowheap's own, else those that hold whatever collects the heap. UnsupportedError when the image has not the
    states, buffers and side tables that a given one keeps.
    """
    image = _by_rules_of(image, collector)
    control = image.control
    if control is not None and image.tables is not None:
        if control.bump != len(image.data):
            return [f"the image has {len(image.data)} bytes of heap, and its bump pointer is {control.bump:#x}"]
        if image.list_head != control.over_approximated_stack_roots:
            return ["the over-approximated list does not begin in the image where its control block says"]
        held = [(root.place, root.reference) for root in image.roots if root.kind in UNCOUNTED_ROOT_KINDS]
        heap = reopen(image, image.collector_in_force)
        has_lists = control.allocator in (SegregatedFit.name, OF_THE_COLLECTOR)
        problems = problems_of(heap, held, has_lists=has_lists)
        return problems or list(_verify_types(image, heap)) or list(_verify_given_blocks(image))
    problems = []
    try:
        objects = {found.index: found for found in image.objects()}
        for found in objects.values():
            problems += _verify_header(image, found)
        if not problems:
            problems += _verify_owners(image, objects)
    except HeapCorruptionError as error:
        problems += error.problems
    return problems


def _verify_given_blocks(image: Image) -> Iterator[str]:
    """Check that the free blocks that an image names are those that its bytes, which are sound, have."""
    if image.free is None:
        return
    found = [block for block in dataclasses.replace(image, free=None).blocks() if block.is_free]
    if sorted(image.free, key=lambda block: block.index) != found:
        yield f"the image names {len(image.free)} free blocks; they are not the {len(found)} that its bytes have"


def _verify_types(image: Image, heap: Heap) -> Iterator[str]:
    """Check that what an image says of types is what its type table says, which is sound."""
    for known in image.types.values():
        info = heap.type_info(known.index)
        shape = (known.kind, known.size_or_elements_offset, known.element_size)
        traced = range(info.traced_offsets_start, info.traced_offsets_start + info.traced_count)
        traced_offsets = () if known.is_array else tuple(map(heap.type_data, traced))
        expected = (info.kind, info.size_or_elements_offset, info.element_size)
        fields: Sequence[ImageField] = () if known.fields is None else known.fields
        if known.kind is VMGcKind.EXN_REF:
            fields = fields[len(TAG_FIELDS) :]
        places = [(each.offset, each.size, each.is_traced) for each in fields]
        entries = [
            field_info(heap, info, number) for number in range(info.field_count if known.fields is not None else 0)
        ]
        described = [(each.offset, size_of_storage(each.storage), bool(each.flags & FIELD_TRACED)) for each in entries]
        if (
            known.index >= heap.control.type_count
            or shape != expected
            or known.traced_offsets != traced_offsets
            or known.elements_are_traced != (known.is_array and bool(info.traced_count))
            or places != described
        ):
            yield f"{known.label} is not in the image as it is in the type table"


# Of a wasmtime heap, and of one without its tables, it is known what objects there are, and not all that hold them.


def _verify_header(image: Image, found: ImageObject) -> Iterator[str]:
    index = found.index
    if unknown := found.kind_and_reserved & RESERVED_MASK & ~(HEADER_MARK_BIT | HEADER_IN_OVER_APPROX_LIST_BIT):
        yield f"object {index:#x} has unknown reserved bits {unknown:#x}"
    if found.ref_count == 0 and image.control is None:
        yield f"object {index:#x} has count 0, but was not freed"
    if found.is_marked and image.control is None:
        yield f"object {index:#x} is marked, but no collection is running"
    if (found.kind is VMGcKind.EXTERN_REF) != (found.type_index == EXTERNREF_TYPE_INDEX):
        yield f"object {index:#x} of kind {kind_label(found.kind)} has type index {found.type_index}"
    elif found.type is not None:
        if found.size != (size := found.type.object_size(found.length)):
            yield f"object {index:#x} has size {found.size}; its type and length make it {size}"
    elif found.type_index in image.types:
        yield f"object {index:#x} of {image.types[found.type_index].label} has kind {kind_label(found.kind)}"


def _verify_owners(image: Image, objects: dict[int, ImageObject]) -> Iterator[str]:
    listed = image.over_approximated_list()
    owners = Counter(listed)
    for found in objects.values():
        if found.is_listed != (found.index in owners):
            yield f"object {found.index:#x} has its in-list bit {'set' if found.is_listed else 'clear'}, wrongly"
    held = [(f"object {each.index:#x}", reference) for each in objects.values() for reference in each.references()]
    counting = [root for root in image.roots if root.kind not in UNCOUNTED_ROOT_KINDS]
    held += [(f"{root.kind} {root.place:#x}", root.reference) for root in counting if is_object(root.reference)]
    owners.update(reference for _, reference in held)
    for holder, reference in (*held, *(("the over-approximated list", each) for each in listed)):
        if reference not in objects:
            yield f"{holder} holds {reference:#x}, where no live object starts"
    # References of objects without a type are guessed, so they cannot show that a count is too low.
    if all(each.type is not None for each in objects.values()):
        for found in objects.values():
            if found.ref_count < (known := owners[found.index]):
                yield f"object {found.index:#x} has count {found.ref_count}, but at least {known} owners"


# ----------------------------------------------------------------------------------------------------------------------
# Tracing from outside


def find_garbage(image: Image) -> Garbage:
    """Return what cannot be reached from outside. HeapCorruptionError for an image that cannot be read to the end."""
    objects = {found.index: found for found in image.objects()}
    graph = {index: [each for each in found.references() if each in objects] for index, found in objects.items()}
    listed = image.over_approximated_list()
    outside = [*listed, *(root.reference for root in image.roots)]
    is_deferred = image.control is not None and not image.collector_in_force.counts_tell_life
    if image.control is None:  # then who holds what from outside shows in the counts alone
        owners = Counter(listed)
        for references in graph.values():
            owners.update(references)
        outside += [index for index, found in objects.items() if found.ref_count > owners[index]]
    unreachable = objects.keys() - _reachable(graph, outside)
    if is_deferred:
        unreachable = _kept_by_counts(objects, graph, unreachable)
    else:
        unreachable -= _doomed(image, objects)
    graph = {index: [each for each in graph[index] if each in unreachable] for index in sorted(unreachable)}
    cycles = [
        Cycle(tuple(sorted(component)), sum(objects[index].block_length for index in component))
        for component in strongly_connected_components(graph)
        if len(component) > 1 or component[0] in graph[component[0]]
    ]
    in_cycles = {index for cycle in cycles for index in cycle.objects}
    held = _reachable(graph, in_cycles) - in_cycles
    # Where counts are brought up to date at times only, what is in no cycle dies then.
    leaked = set() if is_deferred else unreachable - in_cycles - held
    freed = (in_cycles | held) - _reachable(graph, leaked)
    return Garbage(
        tuple(sorted(cycles, key=lambda cycle: cycle.objects)),
        tuple(sorted(held)),
        tuple(sorted(leaked)),
        tuple(sorted(freed)),
        sum(objects[index].block_length for index in freed),
    )


def _doomed(image: Image, objects: dict[int, ImageObject]) -> set[int]:
    """Return the objects that will be freed without any collection: the pending ones, and what dies with them."""
    waiting = [index for index in (*image.pending_dead(), *image.dead_externrefs()) if index in objects]
    doomed: set[int] = set()
    counts = {index: found.ref_count for index, found in objects.items()}
    while waiting:
        index = waiting.pop()
        doomed.add(index)
        for reference in objects[index].references():
            if reference in counts:
                counts[reference] -= 1
                if counts[reference] == 0:
                    waiting.append(reference)
    return doomed


def _kept_by_counts(objects: dict[int, ImageObject], graph: dict[int, list[int]], unreachable: set[int]) -> set[int]:
    """Return what of the garbage lives on when all is counted, where counts are brought up to date at times only.

    What has no count yet lives on if something refers to it that has one, and does; and that, if something refers to
    it that lives on.
    """
    counted = {index for index in unreachable if objects[index].ref_count}
    kept = _reachable({index: graph[index] for index in unreachable}, counted)
    owners = Counter(child for index in kept for child in graph[index])
    dying = [index for index in kept if not owners[index]]
    while dying:
        index = dying.pop()
        kept.remove(index)
        for child in graph[index]:
            owners[child] -= 1
            if not owners[child] and child in kept:
                dying.append(child)
    return kept


def _reachable(graph: dict[int, list[int]], starts: Iterable[int]) -> set[int]:
    reached: set[int] = set()
    pending = list(starts)
    while pending:
        index = pending.pop()
        if index in graph and index not in reached:
            reached.add(index)
            pending += graph[index]
    return reached


def strongly_connected_components(graph: dict[int, list[int]]) -> list[list[int]]:
    """Return the strongly connected components of a graph, each node to its successors, all of which are nodes.

    Tarjan's algorithm, without recursion, so that a chain as long as the heap is no trouble.
    """
    number: dict[int, int] = {}  # in the order of discovery
    lowest: dict[int, int] = {}  # the first node that is known to be in the same component
    path: list[int] = []  # nodes whose component is not complete
    on_path: set[int] = set()
    pending: list[tuple[int, Iterator[int]]] = []  # what a recursive version has on its stack
    components = []

    def enter(node: int) -> None:
        number[node] = lowest[node] = len(number)
        path.append(node)
        on_path.add(node)
        pending.append((node, iter(graph[node])))

    for start in graph:
        if start not in number:
            enter(start)
        while pending:
            node, successors = pending[-1]
            for successor in successors:
                if successor not in number:
                    enter(successor)
                    break
                if successor in on_path:
                    lowest[node] = min(lowest[node], number[successor])
            else:
                pending.pop()
                if pending:
                    lowest[pending[-1][0]] = min(lowest[pending[-1][0]], lowest[node])
                if lowest[node] == number[node]:
                    component = []
                    while node in on_path:
                        component.append(path.pop())
                        on_path.remove(component[-1])
                    components.append(component)
    return components


# ----------------------------------------------------------------------------------------------------------------------
# Showing

_SHOWN = 12
_BAR_WIDTH = 32


def _render(inspection: Inspection) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for number, name in enumerate(columns):
            made.add_column(name, justify="left" if number == 0 else "right", overflow="fold")
        return made

    image, control, free = inspection.image, inspection.image.control, inspection.free
    parts: list[Table | Text] = []
    facts = Table(show_header=False, title="heap image", title_justify="left")
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows = {"taken from": printable(image.source), "bytes": f"{image.end:,}"}
    if control is not None:
        rows |= {
            "capacity": f"{control.capacity:,} of at most {control.maximum:,}",
            "allocator": printable(inspection.allocator or "not known"),
            "collector": printable(image.collector or "not known"),
            "collections": f"{control.collections:,}",
            "allocated and freed": f"{control.objects_allocated:,} and {control.objects_freed:,} objects",
        }
    rows["live"] = f"{inspection.objects:,} objects, {inspection.block_bytes:,} bytes of blocks"
    if image.is_walkable:
        rows["free"] = (
            f"{free.blocks:,} blocks, {free.size:,} bytes, the largest {free.largest:,}, if merged "
            f"{free.largest_merged:,}; fragmentation {free.fragmentation:.0%}, if merged "
            f"{free.fragmentation_merged:.0%}; {free.beyond:,} bytes never used"
        )
    else:
        rows["free"] = "not known: objects were found by following"
    if (lines := inspection.lines) is not None:
        rows["blocks"] = (
            f"{len(lines.blocks):,} of {lines.block_size >> 10} KiB: {lines.empty:,} empty, {lines.partly_free:,} "
            f"partly free, {lines.full:,} full, {lines.large:,} large ({lines.large_objects:,} objects)"
        )
        of = lines.lines
        rows["lines"] = (
            f"{of[LineState.FREE]:,} free, {lines.free_in_use:,} of them in blocks that are not empty (fragmentation "
            f"{lines.fragmentation:.0%}); {of[LineState.SURVIVORS]:,} with survivors, {of[LineState.BEHIND]:,} behind "
            f"these, {of[LineState.YOUNG]:,} young; each of {lines.line_size} bytes"
        )
    if inspection.unconfirmed:
        rows["unconfirmed"] = f"{len(inspection.unconfirmed):,} objects: {_indices(inspection.unconfirmed)}"
    roots = Counter(root.kind for root in image.roots)
    rows["roots"] = ", ".join(f"{count:,} {kind}{'s' * (count > 1)}" for kind, count in roots.items()) or "none known"
    rows["list"] = (
        f"{len(inspection.listed):,} objects: {_indices(inspection.listed)}" if inspection.listed else "empty"
    )
    if image.parts:
        rows["kept"] = ", ".join(
            f"{printable(each.label)} of {each.entry_count(image.end):,} × {each.entry_size} bytes"
            for each in image.parts
        )
    if inspection.pending:
        rows["dead"] = f"{len(inspection.pending):,} objects wait to be freed: {_indices(inspection.pending)}"
    rows["verified"] = f"{len(inspection.problems)} problems" if inspection.problems else "sound"
    for name, value in rows.items():
        facts.add_row(Text(name), Text(value, "bold red" if name == "verified" and inspection.problems else ""))
    parts.append(facts)
    parts += [Text(f"problem: {problem}", "red") for problem in inspection.problems]

    if inspection.types:
        objects = table("objects by type", "type", "kind", "objects", "bytes", "bytes of blocks")
        for each in inspection.types:
            figures = (each.objects, each.size, each.block_bytes)
            objects.add_row(Text(each.label), each.kind, *(f"{figure:,}" for figure in figures))
        parts.append(objects)
    if inspection.counts:
        counts = table("reference counts", "count", "objects")
        counts.add_column("")
        most = max(inspection.counts.values())
        for count, number in list(inspection.counts.items())[:_SHOWN]:
            counts.add_row(f"{count:,}", f"{number:,}", "█" * max(1, number * _BAR_WIDTH // most))
        if len(inspection.counts) > _SHOWN:
            counts.add_row("higher", f"{sum(list(inspection.counts.values())[_SHOWN:]):,}", "")
        parts.append(counts)
    garbage = inspection.garbage
    if garbage is not None and len(garbage):
        found = table("garbage that counting does not free", "what", "objects", "bytes of blocks")
        found.add_column("indices", overflow="fold")
        for cycle in garbage.cycles[:_SHOWN]:
            found.add_row("cycle", f"{len(cycle.objects):,}", f"{cycle.block_bytes:,}", _indices(cycle.objects))
        if len(garbage.cycles) > _SHOWN:
            others = garbage.cycles[_SHOWN:]
            size, number = sum(cycle.block_bytes for cycle in others), sum(len(cycle.objects) for cycle in others)
            found.add_row(f"{len(others):,} more cycles", f"{number:,}", f"{size:,}", "")
        for what, indices in (("held by cycles", garbage.held), ("count without owner", garbage.leaked)):
            if indices:
                size = sum(image.object_at(index).block_length for index in indices)
                found.add_row(what, f"{len(indices):,}", f"{size:,}", _indices(indices))
        parts.append(found)
        number, size = len(garbage.freed_by_search), garbage.bytes_freed_by_search
        parts.append(Text(f"a search for cycles would free {number:,} objects, {size:,} bytes of blocks"))
    elif garbage is not None:
        parts.append(Text("no garbage: every object can be reached from outside"))
    return Group(*parts)


def _indices(indices: Sequence[int]) -> str:
    shown = ", ".join(f"{index:#x}" for index in indices[:8])
    return shown if len(indices) <= 8 else f"{shown} and {len(indices) - 8:,} more"
