"""`lowheap layout MODULE|TYPE`: where every byte of the objects of each type is, header and padding included."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lowheap.cli.options import naming, read_program
from lowheap.cli.output import report_console
from lowheap.layout import (
    HEADER_SIZE,
    Field,
    GcArrayLayout,
    GcLayout,
    GcTypeLayouts,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcHeader,
    VMGcKind,
    block_length,
)
from lowheap.representation import printable, short_repr
from lowheap.types import ArrayType, CompositeType, StorageType, StructType, SubType, TypeRegistry, storage_size
from lowheap.wasm import validate
from lowheap.wasm.decode import Names, decode

_KINDS = {VMGcKind.STRUCT_REF: "struct", VMGcKind.ARRAY_REF: "array", VMGcKind.EXN_REF: "function"}


# ----------------------------------------------------------------------------------------------------------------------
# Layouts


@dataclass(frozen=True, slots=True)
class Slot:
    """A run of bytes of an object: `part` is header, length, tag, field, element or padding; places are in bytes.

    Fields are numbered from 0. `storage` is a field's or element's type in the text format, in the module's indices;
    `mutable` is None for what no program can name.
    """

    part: str
    offset: int
    width: int
    number: int | None = None
    name: str | None = None
    storage: str | None = None
    mutable: bool | None = None
    traced: bool = False


@short_repr
@dataclass(frozen=True, slots=True)
class TypeLayout:
    """One type's layout. `size` is that of an object, or of an array without elements; `block` is `size` rounded up.

    `kind` is struct, array or function: the objects of a function type are the exceptions whose tag has that type, and
    their layout is given. `index` and `supertype` are the module's type indices. An array's element `n` is
    `n * element_size` behind the element slot.
    """

    index: int
    name: str | None
    definition: str
    supertype: int | None
    final: bool
    kind: str
    size: int
    align: int
    block: int
    element_size: int | None
    slots: tuple[Slot, ...]


def type_layouts(binary: bytes) -> list[TypeLayout]:
    """Return the layouts of all types of a module, in its order.

    MalformedModuleError when it is not valid, UnsupportedError when it uses what lowheap does not have.
    """
    validate.validate(binary)
    decoded = decode(binary)
    registry = TypeRegistry()
    indices: list[int] = []
    for group in decoded.rec_groups:
        indices += registry.register(group, outer=indices)
    definitions = [definition for group in decoded.rec_groups for definition in group]
    return [
        _type_layout(number, definition, _layout(registry, registry[index].composite), decoded.names)
        for number, (definition, index) in enumerate(zip(definitions, indices, strict=True))
    ]


def _layout(registry: TypeRegistry, composite: CompositeType) -> GcLayout:
    """The layout of a registered type: what is traced can only be told in the registry's indices."""
    slots = [(storage_size(storage), registry.is_traced(storage)) for storage, _ in _storages(composite)]
    if isinstance(composite, ArrayType):
        return GcTypeLayouts().array_layout(slots[0])
    if isinstance(composite, StructType):
        return GcTypeLayouts().struct_layout(slots)
    return GcTypeLayouts().exception_layout(slots)


def _storages(composite: CompositeType) -> list[tuple[StorageType, bool | None]]:
    """The storage type of each slot behind the header, and whether it is mutable: an exception's is neither."""
    if isinstance(composite, ArrayType):
        return [(composite.element.storage, composite.element.mutable)]
    if isinstance(composite, StructType):
        return [(field.storage, field.mutable) for field in composite.fields]
    return [(param, None) for param in composite.params]


def _words(part: str, structure: type[ctypes.Structure], start: int = 0) -> Iterator[Slot]:
    """The fields of a structure of `layout`, and in place of those that are structures, theirs."""
    fields: Sequence[tuple[Any, ...]] = structure._fields_
    for name, kind, *_ in fields:
        place: Field = getattr(structure, name)
        if issubclass(kind, ctypes.Structure):
            yield from _words(part, kind, start + place.offset)
        else:
            yield Slot(part, start + place.offset, place.size, name=name)


def _type_layout(number: int, definition: SubType, layout: GcLayout, names: Names) -> TypeLayout:
    slots = list(_words("header", VMDrcHeader))
    element_size = None
    if isinstance(layout, GcArrayLayout):
        slots.append(Slot("length", VMDrcArrayHeader.length.offset, VMDrcArrayHeader.length.size))
        size, element_size = layout.elements_offset, layout.element_size
        places = [(layout.elements_offset, layout.element_size, layout.elements_are_traced)]
    else:
        if layout.is_exception:
            slots += (slot for slot in _words("tag", VMDrcExnHeader) if slot.offset >= HEADER_SIZE)
        size = layout.size
        places = [(field.offset, field.size, field.is_traced) for field in layout.fields]
    field_names = names.fields.get(number, {})
    for position, ((storage, mutable), (offset, width, traced)) in enumerate(
        zip(_storages(definition.composite), places, strict=True)
    ):
        part, field_number = ("field", position) if element_size is None else ("element", None)
        slots.append(Slot(part, offset, width, field_number, field_names.get(position), str(storage), mutable, traced))
    return TypeLayout(
        index=number,
        name=names.types.get(number),
        definition=str(definition),
        supertype=definition.supertype,
        final=definition.final,
        kind=_KINDS[layout.kind],
        size=size,
        align=layout.align,
        block=block_length(size),
        element_size=element_size,
        slots=tuple(_with_padding(slots, size)),
    )


def _with_padding(slots: Sequence[Slot], size: int) -> Iterator[Slot]:
    """Yield the slots, and what is between them and behind the last up to `size`, as padding."""
    end = 0
    for slot in slots:
        if slot.offset > end:
            yield Slot("padding", end, slot.offset - end)
        yield slot
        end = slot.offset + slot.width
    if end < size:
        yield Slot("padding", end, size - end)


# ----------------------------------------------------------------------------------------------------------------------
# The command


@click.command("layout")
@click.argument("source", metavar="MODULE|TYPE")
@click.option("--json", "as_json", is_flag=True, help="Print the layouts as JSON.")
def layout_command(source: str, as_json: bool) -> None:
    """Print the layout of every type of a MODULE, or of one TYPE.

    MODULE is a file with WebAssembly text or binary, or - for standard input. What begins with a parenthesis is a type
    in the text format, such as '(struct (field i8) (field (ref null any)))', or several as '(type ...) (type ...)'.
    """
    text = source.lstrip()
    if text.startswith("("):
        if not _WHOLE.match(text):
            text = f"(module {text})" if _DEFINITIONS.match(text) else f"(module (type {text}))"
        layouts = type_layouts(validate.to_binary(text))
    else:
        data = read_program(source)
        with naming(source):
            layouts = type_layouts(validate.to_binary(data))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in layouts], indent=2))
    else:
        report_console().print(render(layouts))


_WHOLE = re.compile(r"\(\s*module\b")
_DEFINITIONS = re.compile(r"\(\s*(?:type|rec)\b")


def render(layouts: Sequence[TypeLayout]) -> Group:
    """Return the layouts as rich tables, one for each type."""
    if not layouts:
        return Group(Text("no types"))
    names = {each.index: None if each.name is None else printable(each.name) for each in layouts}
    return Group(*(_table(each, names) for each in layouts))


def _table(layout: TypeLayout, names: dict[int, str | None]) -> Table:
    name = names[layout.index]
    label = f"type {layout.index}" + (f" ${name}" if name is not None else "")
    size = f"{layout.size} bytes" if layout.element_size is None else f"{layout.size} + n × {layout.element_size} bytes"
    above = "" if layout.supertype is None else f", extends {_named(f'(ref {layout.supertype})', names)[5:-1]}"
    kind = f"{layout.kind}, and the exceptions whose tag has it" if layout.kind == "function" else layout.kind
    table = Table(title=Text(f"{label}: {kind}{above}"), title_justify="left", caption_justify="left")
    table.caption = Text(
        f"{size}, aligned to {layout.align}"
        + (f"; {layout.block - layout.size} more to the end of its block" if layout.element_size is None else "")
    )
    for column in ("offset", "width"):
        table.add_column(column, justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("type", overflow="fold")
    for column in ("mutable", "traced"):
        table.add_column(column)
    for slot in layout.slots:
        style = {"header": "dim", "length": "dim", "tag": "dim", "padding": "dim italic"}.get(slot.part, "")
        what = slot.part
        if slot.part in ("header", "tag"):
            what = slot.name or slot.part
        elif slot.number is not None:
            what = f"field {slot.number}" + (f" ${slot.name}" if slot.name is not None else "")
        flags = ["" if slot.mutable is None else _yes(slot.mutable), "" if slot.storage is None else _yes(slot.traced)]
        texts = [f"{slot.offset}", f"{slot.width}", printable(what), _named(slot.storage or "", names), *flags]
        table.add_row(*(Text(text, style) for text in texts))
    return table


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _named(storage: str, names: dict[int, str | None]) -> str:
    """A storage type with the names that the module gives to types."""

    def name(found: re.Match[str]) -> str:
        known = names.get(int(found[2]))
        return f"{found[1]}${known}" if known is not None else found[0]

    return re.sub(r"(\(ref (?:null )?)([0-9]+)", name, storage)
