"""The file format of an image: a fixed header, metadata as JSON, and the heap's bytes, compressed.

All integers are little-endian. The header is `FileHeader`:

| offset | width | what                                                             |
|--------|-------|------------------------------------------------------------------|
| 0      | 8     | magic, `\\x89lowheap`: not text, and no other program's           |
| 8      | 4     | version, 1                                                       |
| 12     | 4     | reserved, 0                                                      |
| 16     | 8     | length of the metadata in bytes                                  |
| 24     | 8     | length of the compressed heap in bytes                           |
| 32     | 8     | length of the heap in bytes                                      |
| 40     | 32    | SHA-256 of the 40 bytes before it and of everything behind it    |

The metadata follows, UTF-8, then the heap as a zlib stream, then nothing. The metadata is one object whose members are
those of `contents.Contents`, without `data`; each record in it is an object, each tuple an array, and bytes are a zlib
stream in base 64. What there was not from the beginning may be missing: `pending_dead` and the tables' counts of
`control` are 0 then, and there are no `tables`, and no `collector`. `parts` are there if the collector keeps something.

Reading trusts nothing: sizes are checked before memory is used, and each value against its type and range. Whatever is
not an image is an ImageFormatError that says what is wrong, and never another exception.
"""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from lowheap.collectors.shared.allocator import Block
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    HEAP_RESERVATION,
    KIND_ARRAY_BIT,
    OBJECT_KINDS,
    PART_NAME_SIZE,
    SIZE_CLASS_COUNT,
    U32_MAX,
    VMGcKind,
    VMHeapControl,
    VMPartKind,
)
from lowheap.snapshot.contents import (
    ROOT_KINDS,
    Contents,
    ImageControl,
    ImageField,
    ImageFormatError,
    ImageRoot,
    ImageType,
    control_integers,
)
from lowheap.snapshot.parts import ImagePart
from lowheap.snapshot.tables import TABLE_SIZES, ImageTables

MAGIC = b"\x89lowheap"
VERSION = 1
_U64_MAX = (1 << 64) - 1
_ADDED_TO_CONTROL = (
    "pending_dead",
    "type_count",
    "type_data_length",
    "handle_count",
    "free_handle",
    "root_slot_count",
    "host_data_count",
    "free_host_data",
    "list_limit",
    "root_range_count",
    "bytes_freed_at_last_coalescing",
    "cycle_limit",
    "cycle_searches",
    "cyclic_objects",
    "cyclic_bytes",
)

_T = TypeVar("_T")


class FileHeader(ctypes.LittleEndianStructure):
    """What a file begins with; see the module's docstring."""

    _fields_ = (
        ("magic", ctypes.c_char * len(MAGIC)),
        ("version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("metadata_length", ctypes.c_uint64),
        ("compressed_length", ctypes.c_uint64),
        ("heap_length", ctypes.c_uint64),
        ("checksum", ctypes.c_uint8 * hashlib.sha256().digest_size),
    )
    magic: bytes
    version: int
    reserved: int
    metadata_length: int
    compressed_length: int
    heap_length: int
    checksum: ctypes.Array[ctypes.c_uint8]


_HEADER_SIZE = ctypes.sizeof(FileHeader)
_CHECKSUM_START = FileHeader.checksum.offset  # type: ignore[attr-defined]  # ctypes puts a descriptor there


def pack(image: Contents) -> bytes:
    """Return an image in the file format."""
    return assemble(json.dumps(_metadata(image), separators=(",", ":")).encode(), image.data)


def assemble(metadata: bytes, heap: bytes) -> bytes:
    """Put header and checksum before the metadata and the heap, whatever they hold."""
    compressed = zlib.compress(heap)
    header = FileHeader(MAGIC, VERSION, 0, len(metadata), len(compressed), len(heap))
    start = bytes(header)[:_CHECKSUM_START]
    return start + _checksum(start, metadata + compressed) + metadata + compressed


def unpack(data: bytes) -> Contents:
    """Read the file format. ImageFormatError for anything that is not an image."""
    if not data.startswith(MAGIC):
        raise ImageFormatError(f"not a heap image: it does not begin with {MAGIC!r}")
    if len(data) < _HEADER_SIZE:
        raise ImageFormatError(f"a heap image cut short: it has {len(data)} bytes, its header alone {_HEADER_SIZE}")
    header = FileHeader.from_buffer_copy(data)
    if header.version != VERSION:
        raise ImageFormatError(f"a heap image of version {header.version}; this lowheap reads version {VERSION}")
    expected = _HEADER_SIZE + header.metadata_length + header.compressed_length
    if len(data) != expected:
        how = "cut short" if len(data) < expected else "with something behind it"
        raise ImageFormatError(f"a heap image {how}: it has {len(data)} bytes, its header says {expected}")
    payload = memoryview(data)[_HEADER_SIZE:]
    if _checksum(data[:_CHECKSUM_START], payload) != bytes(header.checksum):
        raise ImageFormatError("a damaged heap image: its SHA-256 is not what its header says")
    if header.heap_length > HEAP_RESERVATION:
        raise ImageFormatError(f"a heap of {header.heap_length} bytes; a heap has at most {HEAP_RESERVATION}")
    heap = _decompress(payload[header.metadata_length :], header.heap_length)
    try:
        metadata = json.loads(bytes(payload[: header.metadata_length]).decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ImageFormatError(f"the metadata of the heap image is not JSON: {error}") from None
    return _image(_Reader(metadata, "the metadata"), heap)


def _checksum(start: bytes, payload: bytes | memoryview) -> bytes:
    checksum = hashlib.sha256(start)
    checksum.update(payload)
    return checksum.digest()


def _decompress(compressed: memoryview, length: int) -> bytes:
    """Return the heap's bytes, and never make more of them than there should be."""
    decompressor = zlib.decompressobj()
    try:
        heap = decompressor.decompress(compressed, length + 1)
    except zlib.error as error:
        raise ImageFormatError(f"the heap in the image cannot be decompressed: {error}") from None
    if len(heap) != length or not decompressor.eof or decompressor.unused_data:
        raise ImageFormatError(f"the heap in the image does not decompress to the {length} bytes that it should have")
    return heap


# ----------------------------------------------------------------------------------------------------------------------
# Metadata, there


def _metadata(image: Contents) -> dict[str, Any]:
    kept = {"parts": [_part_record(each) for each in image.parts]} if image.parts else {}
    return kept | {
        "source": image.source,
        "types": [_type_record(each) for each in image.types.values()],
        "control": None if image.control is None else dataclasses.asdict(image.control),
        "roots": [dataclasses.asdict(root) for root in image.roots],
        "host_data_ids": None if image.host_data_ids is None else sorted(image.host_data_ids),
        "list_head": image.list_head,
        "known": list(image.known),
        "free": None if image.free is None else [[block.index, block.length] for block in image.free],
        "tables": None if image.tables is None else _tables_record(image.tables),
        "collector": image.collector,
    }


def _type_record(image_type: ImageType) -> dict[str, Any]:
    return dataclasses.asdict(image_type) | {"kind": image_type.kind.name}


def _part_record(part: ImagePart) -> dict[str, Any]:
    return dataclasses.asdict(part) | {"kind": part.kind.name, "data": _packed(part.data)}


def _tables_record(tables: ImageTables) -> dict[str, Any]:
    return {name: _packed(data) for name, data in dataclasses.asdict(tables).items()}


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


# ----------------------------------------------------------------------------------------------------------------------
# Metadata, and back


class _Reader:
    """A JSON value that is read as what it should be; ImageFormatError, which names the place, when it is not."""

    def __init__(self, value: Any, place: str) -> None:
        self.value = value
        self.place = place

    def refuse(self, expected: str) -> ImageFormatError:
        shown = repr(self.value)
        return ImageFormatError(f"{self.place} is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {expected}")

    def member(self, name: str) -> _Reader:
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        if name not in self.value:
            raise ImageFormatError(f"{self.place} has no {name!r}")
        return _Reader(self.value[name], f"{name} of {self.place}")

    def items(self) -> Iterator[_Reader]:
        if not isinstance(self.value, list):
            raise self.refuse("an array")
        for number, value in enumerate(self.value):
            yield _Reader(value, f"item {number} of {self.place}")

    def every(self, read: Callable[[_Reader], _T]) -> tuple[_T, ...]:
        return tuple(read(item) for item in self.items())

    def optional(self, read: Callable[[_Reader], _T]) -> _T | None:
        return None if self.value is None else read(self)

    def integer(self, limit: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 <= self.value <= limit:
            raise self.refuse(f"an integer from 0 to {limit}")
        return self.value

    def u32(self) -> int:
        return self.integer(U32_MAX)

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refuse("true or false")
        return self.value

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.refuse("a string")
        return self.value

    def bytes(self, limit: int) -> bytes:
        try:
            decompressor = zlib.decompressobj()
            data = decompressor.decompress(base64.b64decode(self.text(), validate=True), limit + 1)
        except (ValueError, zlib.error):
            raise self.refuse("a zlib stream in base 64") from None
        if len(data) > limit or not decompressor.eof or decompressor.unused_data:
            raise self.refuse(f"a whole zlib stream of at most {limit} bytes in base 64")
        return data

    def choice(self, names: tuple[str, ...]) -> str:
        if self.value not in names:  # a list or an object is in no tuple of strings, and needs no hash for that
            raise self.refuse(f"one of {', '.join(names)}")
        return self.text()


def _image(reader: _Reader, heap: bytes) -> Contents:
    types = reader.member("types").every(_type)
    control = reader.member("control").optional(_control)
    if control is not None and control.bump != len(heap):
        raise ImageFormatError(f"the image has {len(heap)} bytes of heap, and its bump pointer is {control.bump}")
    by_index = {each.index: each for each in types}
    if len(by_index) != len(types):
        raise ImageFormatError("two types of the metadata have the same index")
    host_data_ids = reader.member("host_data_ids").optional(lambda ids: frozenset(ids.every(_Reader.u32)))
    return Contents(
        data=heap,
        source=reader.member("source").text(),
        types=by_index,
        control=control,
        roots=reader.member("roots").every(_root),
        host_data_ids=host_data_ids,
        list_head=reader.member("list_head").optional(_Reader.u32),
        known=reader.member("known").every(_index),
        free=reader.member("free").optional(lambda blocks: blocks.every(_free_block)),
        tables=reader.member("tables").optional(_tables) if "tables" in reader.value else None,
        collector=reader.member("collector").optional(_Reader.text) if "collector" in reader.value else None,
        parts=_parts(reader.member("parts"), len(heap)) if "parts" in reader.value else (),
    )


def _parts(reader: _Reader, end: int) -> tuple[ImagePart, ...]:
    return reader.every(lambda part: _part(part, end))


def _part(reader: _Reader, end: int) -> ImagePart:
    kind = VMPartKind[reader.member("kind").choice(tuple(each.name for each in VMPartKind))]
    name = reader.member("name").text()
    if len(name.encode(errors="surrogatepass")) > PART_NAME_SIZE or any("\ud800" <= c <= "\udfff" for c in name):
        raise reader.member("name").refuse(f"a name of at most {PART_NAME_SIZE} bytes in UTF-8")
    empty = ImagePart(
        kind,
        name,
        reader.member("offset").integer(_U64_MAX),
        reader.member("limit").integer(_U64_MAX),
        reader.member("entry_size").u32(),
        reader.member("shift").u32(),
        reader.member("length").integer(_U64_MAX),
        b"",
    )
    fault = empty.fault()
    if fault is not None:
        raise ImageFormatError(f"{reader.place} {fault}")
    return dataclasses.replace(empty, data=reader.member("data").bytes(empty.size(end)))


def _tables(reader: _Reader) -> ImageTables:
    return ImageTables.of(**{name: reader.member(name).bytes(size) for name, size in TABLE_SIZES.items()})


def _index(reader: _Reader) -> int:
    index = reader.u32()
    if index % BLOCK_ALIGN:
        raise reader.refuse(f"a multiple of {BLOCK_ALIGN}")
    return index


def _free_block(reader: _Reader) -> Block:
    numbers = reader.every(_Reader.u32)
    if len(numbers) != 2:
        raise reader.refuse("an index and a length")
    return Block(*numbers, is_free=True)


def _root(reader: _Reader) -> ImageRoot:
    return ImageRoot(
        reader.member("kind").choice(ROOT_KINDS),
        reader.member("place").integer(_U64_MAX),
        reader.member("reference").u32(),
    )


def _control(reader: _Reader) -> ImageControl:
    if isinstance(reader.value, dict):
        reader = _Reader(dict.fromkeys(_ADDED_TO_CONTROL, 0) | reader.value, reader.place)
    integers = {
        name: reader.member(name).integer((1 << (8 * getattr(VMHeapControl, name).size)) - 1)
        for name in control_integers()
    }
    heads = reader.member("size_class_heads")
    numbers = heads.every(_Reader.u32)
    if len(numbers) != SIZE_CLASS_COUNT:
        raise heads.refuse(f"{SIZE_CLASS_COUNT} references")
    return ImageControl(**integers, size_class_heads=numbers, allocator=reader.member("allocator").text())


def _type(reader: _Reader) -> ImageType:
    index = reader.member("index").integer(EXTERNREF_TYPE_INDEX - 1)
    kind = VMGcKind[reader.member("kind").choice(tuple(each.name for each in OBJECT_KINDS))]
    fields = reader.member("fields").optional(lambda each: each.every(_field))
    if fields is not None and kind & KIND_ARRAY_BIT and len(fields) != 1:
        raise reader.member("fields").refuse("an array's element")
    return ImageType(
        index,
        kind,
        reader.member("size_or_elements_offset").u32(),
        reader.member("element_size").u32(),
        reader.member("elements_are_traced").boolean(),
        reader.member("traced_offsets").every(_Reader.u32),
        reader.member("supertypes").every(_Reader.u32),
        reader.member("name").optional(_Reader.text),
        reader.member("definition").optional(_Reader.text),
        fields,
    )


def _field(reader: _Reader) -> ImageField:
    size = reader.member("size")
    if size.integer(16) not in (1, 2, 4, 8, 16):
        raise size.refuse("1, 2, 4, 8 or 16")
    field = ImageField(
        reader.member("name").optional(_Reader.text),
        reader.member("storage").optional(_Reader.text),
        reader.member("mutable").boolean(),
        reader.member("offset").u32(),
        size.integer(16),
        reader.member("is_traced").boolean(),
    )
    if field.storage in ("f32", "f64") and field.size != int(field.storage[1:]) // 8:
        raise size.refuse(f"that of an {field.storage}")
    return field
