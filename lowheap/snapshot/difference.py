"""Comparing two images: what the live objects of one have that those of the other have not.

Two runs of a program are compared by where their objects are. Numbers that a table outside of the heap gave out may
differ, if only they differ by a renaming: type indices, the ids of functions, and the ids of host data. Each renaming
is a bijection, built on the way, object by object from below; a number that does not fit it is a difference.

Compared is, for each object: that both have it, kind and header bits, type, count, size, an array's length, fields and
elements; and for the whole heap the order of the over-approximated list, and the buffers and side tables that the
collectors of both keep, by name. Not compared are padding, the link of an object that is not listed, whatever is not
live, free blocks: where an object goes shows in where it is; and a collector's states, where its figures are.

In an image that cannot be walked (see `image.py`) objects are looked for where the other image has them. What else
looks like an object there is reported only if it is confirmed, unless the caller wants all. A header whose count is 0
is a freed object's, which wasmtime does not clear; it is never a difference that one is there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from lowheap.errors import HeapCorruptionError
from lowheap.layout import (
    ARRAY_HEADER_END,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_MARK_BIT,
    HEADER_SIZE,
    RESERVED_MASK,
    VMPartKind,
)
from lowheap.representation import brief, printable
from lowheap.snapshot.contents import ImageField, ImageType, kind_label
from lowheap.snapshot.image import Image, ImageObject
from lowheap.snapshot.parts import ImagePart

if TYPE_CHECKING:
    from rich.table import Table

_REST = "the rest"  # not what a difference is about, but the line of a table that stands for all other elements
_ELEMENT_LIMIT = 8  # differences reported one by one, of an array's elements or of bytes of unknown meaning


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference: at which index (None: of the heap as a whole), in what, and what either side has there."""

    index: int | None
    what: str
    left: int | str | None
    right: int | str | None

    def __str__(self) -> str:
        """Return one sentence: `0x40: count is 2 on the left, 3 on the right`."""
        place = "" if self.index is None else f"{self.index:#x}: "
        left, right = (f"{'nothing' if side is None else side}" for side in (self.left, self.right))
        return f"{place}{self.what} is {left} on the left, {right} on the right"


class _Renaming:
    """A bijection between the numbers of two sides, built pair by pair."""

    def __init__(self) -> None:
        self.there: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def pair(self, left: int, right: int) -> bool:
        """Whether the pair agrees with those before it; one of two new numbers is taken into the bijection."""
        if left not in self.there and right not in self.back:
            self.there[left], self.back[right] = right, left
        return self.there.get(left) == right and self.back.get(right) == left


@dataclass(slots=True)
class _Comparison:
    """Two images, their objects by index, and the renamings so far."""

    left: Image
    right: Image
    left_objects: dict[int, ImageObject] = field(default_factory=dict)
    right_objects: dict[int, ImageObject] = field(default_factory=dict)
    types: _Renaming = field(default_factory=_Renaming)
    functions: _Renaming = field(default_factory=_Renaming)
    host_data: _Renaming = field(default_factory=_Renaming)
    shapes_compared: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(cls, left: Image, right: Image) -> _Comparison:
        """Find the objects of both, those of an image that cannot be walked with the help of the other."""
        if left.is_walkable and not right.is_walkable:
            right = _helped(right, left)
        elif right.is_walkable and not left.is_walkable:
            left = _helped(left, right)
        return cls(
            left, right, {each.index: each for each in left.objects()}, {each.index: each for each in right.objects()}
        )

    def differences(self, *, include_unconfirmed: bool) -> Iterator[Difference]:
        """Yield every difference, by index, the list's last."""
        for index in sorted(self.left_objects.keys() | self.right_objects.keys()):
            left, right = self.left_objects.get(index), self.right_objects.get(index)
            if left is not None and right is not None:
                yield from self.compare(left, right)
            elif left is not None and (left.is_confirmed or include_unconfirmed):
                yield Difference(index, _extra(left), _summary(left), _absence(self.right, index))
            elif right is not None and (right.is_confirmed or include_unconfirmed):
                yield Difference(index, _extra(right), _absence(self.left, index), _summary(right))
        yield from self.compare_lists()
        yield from self.compare_parts()

    def compare(self, left: ImageObject, right: ImageObject) -> Iterator[Difference]:
        """Yield the differences of two objects at one index."""
        index = left.index
        if left.kind is not right.kind:
            yield Difference(index, "kind", kind_label(left.kind), kind_label(right.kind))
        if left.kind_and_reserved & RESERVED_MASK != right.kind_and_reserved & RESERVED_MASK:
            yield Difference(index, "header bits", _bits(left), _bits(right))
        types_agree = self.types.pair(left.type_index, right.type_index)
        if not types_agree:
            yield Difference(index, "type", self._type_text(left, right, True), self._type_text(left, right, False))
        elif (difference := self._compare_shapes(left, right)) is not None:
            yield difference
        if left.ref_count != right.ref_count:
            yield Difference(index, "count", left.ref_count, right.ref_count)
        if left.size != right.size:
            yield Difference(index, "size", left.size, right.size)
        if left.length != right.length:
            yield Difference(index, "length", left.length, right.length)
        if left.kind is right.kind and left.size == right.size and left.length == right.length:
            yield from self._compare_contents(left, right)

    def compare_lists(self) -> Iterator[Difference]:
        """Yield the first place at which the two lists differ."""
        orders: list[list[int] | str] = []
        for image, objects in ((self.left, self.left_objects), (self.right, self.right_objects)):
            try:
                orders.append(image.over_approximated_list())
            except HeapCorruptionError as error:
                orders.append(str(error))
            else:
                missing = [each for each in orders[-1] if each not in objects]
                if missing:
                    orders[-1] = f"the list leads to {missing[0]:#x}, where there is no live object"
        left, right = orders
        if isinstance(left, str) or isinstance(right, str):
            yield Difference(None, "the list", _list_text(left), _list_text(right))
            return
        for position in range(max(len(left), len(right))):
            if left[position : position + 1] != right[position : position + 1]:
                what = f"the list from position {position} on"
                yield Difference(None, what, _list_text(left[position:]), _list_text(right[position:]))
                return

    def compare_parts(self) -> Iterator[Difference]:
        """Yield the differences of the buffers and side tables that are on both sides."""
        right_parts = {(each.kind, each.name): each for each in self.right.parts}
        for left in self.left.parts:
            right = right_parts.get((left.kind, left.name))
            if right is not None and left.kind is not VMPartKind.STATE:
                yield from self._compare_part(left, right)

    def _compare_part(self, left: ImagePart, right: ImagePart) -> Iterator[Difference]:
        label = printable(left.label)
        shapes = [(each.entry_size, each.shift) for each in (left, right)]
        if shapes[0] != shapes[1]:
            texts = [f"{size} bytes an entry" + f", for 2^{shift} bytes" * bool(shift) for size, shift in shapes]
            yield Difference(None, f"the {label}", *texts)
            return
        if left.length != right.length:
            yield Difference(None, f"the length of the {label}", left.length, right.length)
        found = 0
        entries = (left.entries(), right.entries())
        for number, (one, other) in enumerate(zip_longest(*entries, fillvalue=0)):
            if one != other:
                found += 1
                if found <= _ELEMENT_LIMIT:
                    yield Difference(None, f"entry {number} of the {label}", f"{one:#x}", f"{other:#x}")
        if found > _ELEMENT_LIMIT:
            yield _more(None, found, label)

    # Types

    def _type_text(self, left: ImageObject, right: ImageObject, is_left: bool) -> str:
        own, other = (left, right) if is_left else (right, left)
        paired = (self.types.there if is_left else self.types.back).get(own.type_index)
        if paired is None or paired == other.type_index:
            return own.label
        known = (self.right if is_left else self.left).types.get(paired)
        return f"{own.label} (elsewhere {f'type {paired}' if known is None else known.label} on the other side)"

    def _compare_shapes(self, left: ImageObject, right: ImageObject) -> Difference | None:
        """The first time that two types meet: whether they say the same of where things are."""
        pair = (left.type_index, right.type_index)
        left_type, right_type = left.type, right.type
        if pair in self.shapes_compared or left_type is None or right_type is None:
            return None
        self.shapes_compared.add(pair)
        if _layout(left_type, right_type) == _layout(right_type, left_type):
            return None
        return Difference(left.index, "type layout", _layout_text(left_type), _layout_text(right_type))

    # Contents

    def _compare_contents(self, left: ImageObject, right: ImageObject) -> Iterator[Difference]:
        known = left.type or right.type
        if known is None or (not known.is_array and known.fields is None):
            yield from self._compare_unknown(left, right, known)
        elif known.is_array:
            yield from self._compare_elements(left, right, known)
        else:
            for label, each in known.labelled_fields():
                data = [_bytes(side, each.offset, each.size) for side in (left, right)]
                if not self._same_value(each, *data):
                    yield Difference(left.index, f"field {label}", each.format(data[0]), each.format(data[1]))

    def _compare_elements(self, left: ImageObject, right: ImageObject, known: ImageType) -> Iterator[Difference]:
        element, length = known.element, left.length or 0
        everything = [_bytes(side, element.offset, length * element.size) for side in (left, right)]
        if everything[0] == everything[1] and not element.is_opaque_id:
            return
        found = 0
        for number in range(length):
            start = number * element.size
            data = [side[start : start + element.size] for side in everything]
            if not self._same_value(element, *data):
                found += 1
                if found <= _ELEMENT_LIMIT:
                    yield Difference(left.index, f"element {number}", *(element.format(side) for side in data))
        if found > _ELEMENT_LIMIT:
            yield _more(left.index, found, "elements")

    def _compare_unknown(self, left: ImageObject, right: ImageObject, known: ImageType | None) -> Iterator[Difference]:
        """Compare all bytes behind the header: what is padding cannot be told."""
        start = HEADER_SIZE if left.length is None else ARRAY_HEADER_END
        data = [_bytes(side, start, side.size - start) for side in (left, right)]
        found = 0
        for offset in range(0, len(data[0]), 4):
            words = [side[offset : offset + 4] for side in data]
            if words[0] != words[1]:
                found += 1
                if found <= _ELEMENT_LIMIT:
                    yield Difference(left.index, f"bytes at +{start + offset}", words[0].hex(" "), words[1].hex(" "))
        if found > _ELEMENT_LIMIT:
            yield _more(left.index, found, "words")

    def _same_value(self, place: ImageField, left: bytes, right: bytes) -> bool:
        if place.is_opaque_id:
            renaming = self.functions if place.is_function else self.host_data
            return renaming.pair(int.from_bytes(left, "little"), int.from_bytes(right, "little"))
        return left == right


# ----------------------------------------------------------------------------------------------------------------------
# What callers use


def diff(left: Image, right: Image, *, include_unconfirmed: bool = False) -> list[Difference]:
    """Return the differences of two images, by index, and the list's last; see the module's docstring.

    `include_unconfirmed` reports also what merely looks like an object, in an image that cannot be walked, where the
    other image has none: an object that only a global or a handle holds cannot be told from chance there.

    HeapCorruptionError when one of the images cannot be read to the end.
    """
    return list(_Comparison.of(left, right).differences(include_unconfirmed=include_unconfirmed))


def type_renaming(left: Image, right: Image) -> dict[int, int]:
    """Return which type index on the right stands for each on the left, as the objects at equal indices tell."""
    comparison = _Comparison.of(left, right)
    list(comparison.differences(include_unconfirmed=False))
    return comparison.types.there


def with_types_of(image: Image, other: Image) -> Image:
    """Return `image` with the types of `other`, renamed as the objects at equal indices tell: for wasmtime's images.

    Types that `image` has already, and those of which it has no object where `other` has one, stay as they are.
    """
    return dataclasses.replace(image, types=_renamed_types(image, other))


def _renamed_types(image: Image, other: Image) -> dict[int, ImageType]:
    """The types of `other` by the indices that `image` has, from below, wherever both have an object of one kind."""
    renaming = _Renaming()
    types = dict(image.types)
    for known in other.objects():
        found = _live_header(image, known.index)
        if found is None or known.type is None or found.kind is not known.kind:
            continue
        if renaming.pair(known.type_index, found.type_index) and known.type_index in other.types:
            types.setdefault(found.type_index, dataclasses.replace(known.type, index=found.type_index))
    return types


def _helped(image: Image, other: Image) -> Image:
    """An image that cannot be walked, with what the other one tells: types, and where there should be objects."""
    known = {each.index for each in other.objects() if _live_header(image, each.index) is not None}
    return dataclasses.replace(image, types=_renamed_types(image, other), known=tuple(sorted(known.union(image.known))))


def _live_header(image: Image, index: int) -> ImageObject | None:
    try:
        found = image.object_at(index)
    except HeapCorruptionError:
        return None
    return found if found.ref_count else None


# ----------------------------------------------------------------------------------------------------------------------
# Texts


def _bits(found: ImageObject) -> str:
    known = {HEADER_IN_OVER_APPROX_LIST_BIT: "listed", HEADER_MARK_BIT: "marked"}
    bits = [name for bit, name in known.items() if found.kind_and_reserved & bit]
    if others := found.kind_and_reserved & RESERVED_MASK & ~sum(known):
        bits.append(f"{others:#x}")
    return " and ".join(bits) or "clear"


def _summary(found: ImageObject) -> str:
    text = f"{kind_label(found.kind)} {found.label} of {found.size} bytes with count {found.ref_count}"
    return text if not found.is_listed else f"{text}, listed"


def _extra(found: ImageObject) -> str:
    """What to call an object that one side has alone: it is there for certain only where a walk finds it."""
    return "object" if found.image is None or found.image.is_walkable else "possible extra object"


def _absence(image: Image, index: int) -> str | None:
    """What is where an object is not."""
    if image.is_walkable:
        return None
    try:
        found = image.object_at(index)
    except HeapCorruptionError:
        return None
    return "a freed object" if found.ref_count == 0 else None


def _list_text(order: list[int] | str) -> str:
    if isinstance(order, str):
        return order
    shown = [f"{index:#x}" for index in order[:6]]
    if len(order) > len(shown):
        shown.append(f"({len(order) - len(shown)} more)")
    return " → ".join([*shown, "end"])


def _more(index: int | None, found: int, what: str) -> Difference:
    text = f"{found - _ELEMENT_LIMIT} more that differ"
    return Difference(index, f"the rest of the {what}", text, text)


def _layout(own: ImageType, other: ImageType) -> tuple[object, ...]:
    """What a type says of the places in its objects, in as much detail as both know."""
    if own.fields is None or other.fields is None:
        return own.shape
    return (*own.shape, *((each.offset, each.size, each.is_traced, _scalar(each)) for each in own.fields))


def _scalar(place: ImageField) -> str | None:
    return "reference" if place.is_reference else place.storage


def _layout_text(image_type: ImageType) -> str:
    if image_type.is_array:
        traced = ", traced" if image_type.elements_are_traced else ""
        places = f"elements of {image_type.element_size} bytes from {image_type.size_or_elements_offset}{traced}"
    else:
        offsets = ", ".join(map(str, image_type.traced_offsets)) or "none"
        places = f"{image_type.size_or_elements_offset} bytes, traced offsets {offsets}"
        if image_type.fields is not None:
            places += f", fields at {', '.join(str(each.offset) for each in image_type.fields) or 'none'}"
    return f"{image_type.label}: {places}"


def _bytes(found: ImageObject, offset: int, length: int) -> bytes:
    assert found.image is not None, "an object that an image made knows its image"
    return found.image.slice(found.index + offset, max(0, length))


# ----------------------------------------------------------------------------------------------------------------------
# Side by side


def render_side_by_side(
    left: Image, right: Image, *, only_differences: bool = False, limit: int = 64, elements: int = 8
) -> Table:
    """Return a rich table of both images' objects, one line for a header or a value, `≠` where they differ.

    At most `limit` objects are shown (those that differ, with `only_differences`), and `elements` of an array. Raises
    as `diff`.
    """
    from rich.table import Table
    from rich.text import Text

    comparison = _Comparison.of(left, right)
    differences = list(comparison.differences(include_unconfirmed=False))
    by_index: dict[int | None, dict[str, Difference]] = {}
    for difference in differences:
        by_index.setdefault(difference.index, {})[difference.what] = difference
    table = Table(title=f"{len(differences)} differences" if differences else "no differences", title_justify="left")
    for title in ("index", printable(left.source), "", printable(right.source)):
        table.add_column(Text(title), overflow="fold")

    def row(place: str, texts: Sequence[str], differs: bool) -> None:
        style = "bold red" if differs else ""
        table.add_row(*(Text(text, style) for text in (place, texts[0], "≠" if differs else "", texts[1])))

    indices = sorted(comparison.left_objects.keys() | comparison.right_objects.keys())
    shown = 0
    for index in indices:
        sides = (comparison.left_objects.get(index), comparison.right_objects.get(index))
        found = by_index.get(index, {})
        if only_differences and not found:
            continue
        if not found and any(side is not None and not side.is_confirmed for side in sides):
            continue
        shown += 1
        if shown > limit:
            continue
        differs = any(not what.startswith(("field", "element", "bytes", "the rest")) for what in found)
        row(f"{index:#x}", [_header_text(side) for side in sides], differs)
        lines = [_value_lines(side, elements) for side in sides]
        for what, difference in found.items():
            if what.startswith(("field", "element", "bytes")):
                lines[0].setdefault(what, str(difference.left))
                lines[1].setdefault(what, str(difference.right))
        for what in dict.fromkeys([*lines[0], *lines[1]]):
            name = "" if what == _REST else f"{what.removeprefix('field ')} = "
            texts = [f"  {name}{side[what]}" if what in side else "" for side in lines]
            row("", texts, what in found)
    if shown > limit:
        row("", [f"({shown - limit} more objects)"] * 2, False)
    orders = [_order_text(comparison.left), _order_text(comparison.right)]
    row("list", orders, None in by_index)
    return table


def _order_text(image: Image) -> str:
    try:
        return _list_text(image.over_approximated_list())
    except HeapCorruptionError as error:
        return str(error)


def _header_text(found: ImageObject | None) -> str:
    if found is None:
        return "-"
    length = "" if found.length is None else f" [{found.length}]"
    listed = "" if found.kind_and_reserved & RESERVED_MASK == 0 else f", {_bits(found)}"
    kind = "" if found.label == kind_label(found.kind) else f"{kind_label(found.kind)} "
    text = "" if found.text is None else f" {brief(found.text)}"
    return f"{kind}{found.label}{length}{text}, count {found.ref_count}, {found.size} bytes{listed}"


def _value_lines(found: ImageObject | None, elements: int) -> dict[str, str]:
    if found is None:
        return {}
    lines = {f"field {value.label}": str(value) for value in found.fields()}
    for number, value in enumerate(found.elements()):
        if number == elements:
            lines[_REST] = f"… {(found.length or 0) - elements} more elements"
            break
        lines[f"element {value.label}"] = str(value)
    return lines
