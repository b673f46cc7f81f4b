"""`layout.py` as C: declarations of every byte that lowheap shares, for C compilers and for cffi.

Nothing in the output is typed by hand. Structures come from walking the `_fields_` of `layout.STRUCTURES`, constants
from the integers and enumerations that `layout.py` defines in capitals; so a change of the layout is a change of the
header. The text is plain C11 that a compiler takes after `#include <stdint.h>`, and cffi's `cdef` as it is.

Where ctypes promotes the fields of a part (`_anonymous_`), so does the C: the part stands in a union with its own
fields, and `header->drc.ref_count` and `header->ref_count` are the same bytes.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import _cffi_backend
import cffi

from lowheap import layout

quick: Any = _cffi_backend.FFI()
"""An FFI for types that need no declaration. It is written in C: so it is fast, and loads no parser of C as
`cffi.FFI` does, which takes longer than anything else when a program of ours starts."""

_PREFIX = "LOWHEAP"
_INDENT = "    "
_C_TYPES: dict[Any, str] = {
    ctypes.c_uint8: "uint8_t",
    ctypes.c_uint16: "uint16_t",
    ctypes.c_uint32: "uint32_t",
    ctypes.c_uint64: "uint64_t",
    ctypes.c_int8: "int8_t",
    ctypes.c_int16: "int16_t",
    ctypes.c_int32: "int32_t",
    ctypes.c_int64: "int64_t",
}
# Where a name's words begin: `VMGcKind` is VM, Gc and Kind.
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def c_declarations() -> str:
    """Return the constants and structures of `layout.py` as C11 declarations, without `#include` or include guard.

    Constants are macros: `LOWHEAP_BLOCK_ALIGN`, and for an enumeration's members `LOWHEAP_VM_GC_KIND_STRUCT_REF`.
    Structures are typedefs under their own names. TypeError when a structure has a field that C cannot declare.
    """
    macros = [f"#define {name} {_literal(value)}" for name, value in _constants()]
    return "\n".join(macros) + "\n\n" + "\n".join(map(_structure, layout.STRUCTURES))


@functools.cache
def layout_hash() -> int:
    """Return a hash, 64 bits, of these declarations: by it one can tell whether bytes were written by the same ones."""
    return int.from_bytes(hashlib.sha256(c_declarations().encode()).digest()[:8], "little")


@functools.cache
def ffi() -> cffi.FFI:
    """Return an FFI that knows these declarations, one for the process; others may `include` it."""
    declared = cffi.FFI()
    declared.cdef(c_declarations())
    return declared


def pointer_type(data: type[ctypes.Structure]) -> Any:
    """Return cffi's type of a pointer to a structure of numbers, for `quick`: the same bytes, by the same names."""
    backend: Any = _cffi_backend
    made = backend.new_struct_type(f"struct {data.__name__}")
    fields: Sequence[tuple[Any, ...]] = data._fields_
    members = [
        (name, backend.new_primitive_type(_C_TYPES[kind]), -1, getattr(data, name).offset) for name, kind in fields
    ]
    backend.complete_struct_or_union(made, members, None, ctypes.sizeof(data), ctypes.alignment(data))
    return backend.new_pointer_type(made)


def pointer(of: cffi.FFI, cdecl: str, structure: ctypes.Structure, *kept: object) -> Any:
    """Return a C pointer at a structure, which keeps it, and whatever else is given, for as long as there is a copy."""
    address = of.cast(cdecl, ctypes.addressof(structure))
    return of.gc(address, functools.partial(_let_go, (structure, kept)))


def _let_go(_kept: object, _pointer: object) -> None:
    """Let go of what a pointer has kept, which whoever calls this does afterwards."""


def _constants() -> Iterator[tuple[str, int]]:
    """Yield the C name and the value of each constant, in the order of `layout.py`."""
    for name, value in vars(layout).items():
        if name.startswith("_"):
            continue
        if name.isupper() and type(value) is int:
            yield f"{_PREFIX}_{name}", value
        elif isinstance(value, type) and issubclass(value, enum.IntEnum) and value.__module__ == layout.__name__:
            for member in value:
                yield f"{_PREFIX}_{_WORD.sub('_', name).upper()}_{member.name}", int(member)


def _literal(value: int) -> str:
    """A constant as C should read it; unsigned, since everything it is compared with is."""
    suffix = "u" if value <= layout.U32_MAX else "ull"
    return f"{value}{suffix}" if value < 1 << 16 else f"{value:#x}{suffix}"


def _structure(data: type[ctypes.Structure]) -> str:
    summary = (data.__doc__ or "").partition("\n")[0].replace("*/", "* /")
    body = "\n".join(_members(data, _INDENT))
    return f"/* {summary} */\ntypedef struct {data.__name__} {{\n{body}\n}} {data.__name__};\n"


def _members(data: type[ctypes.Structure], indent: str, *, named: bool = True) -> Iterator[str]:
    """Yield the lines that declare a structure's members; parts that are promoted bring theirs along, however deep.

    Of a promoted part's own promoted parts only the fields come along (`named` is false), as in ctypes.
    """
    promoted = getattr(data, "_anonymous_", ())
    fields: Sequence[tuple[Any, ...]] = data._fields_
    for name, kind, *width in fields:
        if width:
            raise TypeError(f"{data.__name__}.{name} is a bit field; where C puts those is the compiler's choice")
        declaration = f"{_declarator(data, name, kind)};"
        if name not in promoted:
            yield f"{indent}{declaration}"
        elif named:
            yield f"{indent}union {{"
            yield f"{indent}{_INDENT}{declaration}"
            yield from _anonymous(kind, indent + _INDENT)
            yield f"{indent}}};"
        else:
            yield from _anonymous(kind, indent)


def _anonymous(part: type[ctypes.Structure], indent: str) -> Iterator[str]:
    yield f"{indent}struct {{"
    yield from _members(part, indent + _INDENT, named=False)
    yield f"{indent}}};"


def _declarator(data: type[ctypes.Structure], name: str, kind: Any) -> str:
    """A member's type and name, with its dimension behind it when it is an array."""
    if issubclass(kind, ctypes.Array):
        return f"{_declarator(data, name, kind._type_)}[{kind._length_}]"
    if kind in _C_TYPES:
        return f"{_C_TYPES[kind]} {name}"
    if kind in layout.STRUCTURES:
        return f"{kind.__name__} {name}"
    raise TypeError(f"{data.__name__}.{name} is {kind!r}; it must be a sized integer or a structure of layout.py")
