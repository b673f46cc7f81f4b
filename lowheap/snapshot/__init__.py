"""Images of a heap: its bytes with what they mean, frozen; to look at, to keep in a file, and to compare.

`DrcHeap.snapshot` and `Store.snapshot` take one of lowheap's heap, `read_dump` reads what C code dumped of one, and
`Image.from_wasmtime` makes one of the raw bytes of a wasmtime heap. `diff` compares two up to a renaming of type
indices. Nothing here needs a heap: an image is bytes, the facts of the control block, and a type table.
"""

from lowheap.snapshot.contents import ImageControl, ImageField, ImageFormatError, ImageRoot, ImageType
from lowheap.snapshot.difference import Difference, diff, render_side_by_side, type_renaming, with_types_of
from lowheap.snapshot.image import Image, ImageObject, ImageValue, read_dump
from lowheap.snapshot.parts import ImagePart

__all__ = [
    "Difference",
    "Image",
    "ImageControl",
    "ImageField",
    "ImageFormatError",
    "ImageObject",
    "ImagePart",
    "ImageRoot",
    "ImageType",
    "ImageValue",
    "diff",
    "read_dump",
    "render_side_by_side",
    "type_renaming",
    "with_types_of",
]
