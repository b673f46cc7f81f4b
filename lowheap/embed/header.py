"""`lowheap.h`: the C interface as C and C++ compilers read it, and as cffi does.

Both texts come from `api` and from `declarations`, so neither can say anything else than the library. The header is
C11 and C++17 without warnings, and asserts while it is compiled that the compiler lays structures out as lowheap does.
What only a header can have, macros and inline functions, follows the functions; cffi gets the numbers among them.
"""

from __future__ import annotations

import ctypes
import functools
import re
import textwrap
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from lowheap import layout
from lowheap.collectors.interface import Collector
from lowheap.declarations import c_declarations
from lowheap.embed.api import (
    ALIASES,
    CALLBACKS,
    DEFAULT_COLLECTORS,
    FUNCTION_GROUPS,
    STATUS_MEANINGS,
    VIEWS,
    Status,
    View,
    abi_hash,
    collector_number,
)

HEADER_NAME = "lowheap.h"

_WIDTH = 118

_CONVENTIONS = """\
lowheap: a heap whose objects are freed when nobody refers to them any more. This header is for libraries whose heaps
{have}.

A reference (lh_ref) is 32 bits: null is 0, an odd number is an integer of 31 bits, and anything else is an object's
distance from the heap's base, in bytes. Objects never move.

What can fail returns an lh_status; if that is LH_OK, the result is where the last parameter points. lh_error_message
tells more than the status does. lowheap-checked finds the misuse that is described here, and reports it. lowheap itself
trusts its arguments: only where memory, limits and types' definitions are concerned does it find faults, and after
misuse anything may happen.

A reference that a function returns is not counted for the caller. It is good until the next call that may collect: one
that allocates, or collects. To keep it longer, put it in a slot of a frame (LH_FRAME), in a registered slot
(lh_slot_register), or in an object that is kept itself.

A heap is one thread's at a time, and so is all that is in it. Heaps share nothing: threads may each have their own.
Callbacks return: they are left neither by longjmp nor by an exception."""

_ALIAS_MEANINGS = {
    "lh_heap": "A heap. Its fields are not for writing.",
    "lh_ref": "A reference.",
    "lh_type": "A struct or array type, as a number that the heap gave it.",
}

_CALLBACK_MEANINGS = {
    "lh_finalizer": "Called with an externref's data when that has died.",
    "lh_out_of_memory": "Called when there is no room for so many bytes. It may let go of references; 1 has the"
    " allocation tried once more, 0 has it fail.",
    "lh_on_error": "Told of every call that fails. The message lives as long as the callback runs.",
    "lh_visitor": "Called for an object; 0 to go on.",
    "lh_writer": "Called with the next piece of what is written; 0 to go on.",
}


def package_version() -> str:
    """Return lowheap's version, `0` when it runs without being installed."""
    try:
        return metadata.version("lowheap")
    except metadata.PackageNotFoundError:
        return "0"


def constants() -> dict[str, tuple[str, int]]:
    """Return the numbers that have a short name: each with the name that `c_declarations` gives it, and its value."""
    found: dict[str, tuple[str, int]] = {"LH_NULL": ("LOWHEAP_NULL", layout.NULL)}
    for storage in layout.VMStorage:
        name = "REF" if storage is layout.VMStorage.REFERENCE else storage.name
        found[f"LH_{name}"] = (f"LOWHEAP_VM_STORAGE_{storage.name}", int(storage))
    for heap_type in layout.VMHeapType:
        # The heap type i31 is LH_I31, and no storage has that name.
        found[f"LH_{heap_type.name}"] = (f"LOWHEAP_VM_HEAP_TYPE_{heap_type.name}", int(heap_type))
    for kind in layout.OBJECT_KINDS:
        short = kind.name.removesuffix("_REF").replace("EXTERN", "EXTERNREF")
        found[f"LH_KIND_{short}"] = (f"LOWHEAP_VM_GC_KIND_{kind.name}", int(kind))
    found["LH_MUTABLE"] = ("LOWHEAP_FIELD_MUTABLE", layout.FIELD_MUTABLE)
    found["LH_NULLABLE"] = ("LOWHEAP_FIELD_NULLABLE", layout.FIELD_NULLABLE)
    found["LH_SELF"] = ("LOWHEAP_SELF_TYPE", layout.SELF_TYPE)
    found["LH_NO_SUPERTYPE"] = ("LOWHEAP_NO_SUPERTYPE", layout.NO_SUPERTYPE)
    found["LH_FINAL"] = ("LOWHEAP_TYPE_FINAL", layout.TYPE_FINAL)
    found["LH_EXTERNREF_TYPE"] = ("LOWHEAP_EXTERNREF_TYPE_INDEX", layout.EXTERNREF_TYPE_INDEX)
    return found


@functools.cache
def header(*collectors: Collector | str) -> str:
    """Return the text of `lowheap.h`, for libraries with these collectors: `drc` alone by default.

    CompilerError when there is none of such a name, or one is named twice.
    """
    from lowheap.collectors import registry  # here, because whoever wants declarations has no collector

    chosen = registry.find_all(collectors or DEFAULT_COLLECTORS)
    names = [registry.name_of(each) for each in chosen]
    abi = abi_hash(*names)
    have = f"have the collector {names[0]}"
    if len(names) > 1:
        have = f"have the collector that lh_config names, {' or '.join(names)}; by default the first of these"
    conventions = _comment(_CONVENTIONS.format(have=have))
    parts = (
        _OPENING.format(conventions=conventions, version=package_version(), abi=f"{abi:#018x}ull"),
        _section("Layouts"),
        _GUARD_PEDANTIC,
        c_declarations(),
        _UNGUARD_PEDANTIC,
        _section("Statuses, callbacks and structures"),
        *_types(),
        _ASSERT_MACRO,
        *_assertions(),
        "#undef LH_ASSERT_\n",
        *_functions(),
        _section("Numbers by their short names"),
        "\n".join(f"#define {name} {long}" for name, (long, _) in constants().items()) + "\n",
        _section("Configurations and fields"),
        _configuration(),
        _FIELDS,
        _section("References"),
        _REFERENCES,
        _FIELDS_IN_LINE,
        _references(dict(zip(names, chosen, strict=True))),
        _section("Frames"),
        _FRAMES,
        _CLOSING,
    )
    return "\n".join(parts)


@functools.cache
def cdef(*collectors: str, with_layout: bool = True) -> str:
    """Return the declarations for `cffi.FFI.cdef`, the same as the header's but for what cffi cannot read.

    LOWHEAP_ABI in them is that of libraries with these collectors, in an engine's words, as for `header`: all else is
    the same for every library, and for heaps of Python's stores. Without the layout's, they are for an FFI that
    includes `declarations.ffi()`. CompilerError as for `header`.
    """
    names: list[str] = []
    if collectors:
        from lowheap.collectors import registry  # here, because whoever wants declarations has no collector

        names = [registry.name_of(each) for each in registry.find_all(collectors)]
    parts = (
        f"#define LOWHEAP_ABI {abi_hash(*names):#018x}ull",
        *([c_declarations()] if with_layout else []),
        *_types(),
        *_functions(),
        "\n".join(f"#define {name} {value:#x}u" for name, (_, value) in constants().items()) + "\n",
    )
    return "\n".join(parts)


# ----------------------------------------------------------------------------------------------------------------------
# What header and cdef share


def _comment(text: str, indent: str = "") -> str:
    """A comment, on one line where there is room. The text's own line breaks end paragraphs only where they double."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.replace("*/", "* /").split("\n\n")]
    room = _WIDTH - len(indent) - 3
    lines = [line for paragraph in paragraphs for line in (*textwrap.wrap(paragraph, room), "")][:-1]
    if len(lines) == 1 and len(lines[0]) < room - 3:
        return f"{indent}/* {lines[0]} */"
    return "\n".join((f"{indent}/* {lines[0]}", *(f"{indent} * {line}".rstrip() for line in lines[1:]), f"{indent} */"))


def _section(title: str) -> str:
    return f"/* {f' {title} ':-^{_WIDTH - 6}} */\n"


def _types() -> Iterator[str]:
    """Yield the statuses, aliases, callbacks and views, each after what it mentions."""
    yield "typedef enum lh_status {"
    for status in Status:
        yield f"    LH_{status.name} = {status.value}, /* {STATUS_MEANINGS[status]} */"
    yield "} lh_status;\n"
    for name, meaning in ALIASES.items():
        yield _comment(_ALIAS_MEANINGS[name])
        yield f"typedef {meaning} {name};\n"
    for view in VIEWS:
        yield f"typedef struct {view.name} {view.name};"
    yield ""
    for name, declaration in CALLBACKS.items():
        yield _comment(_CALLBACK_MEANINGS[name])
        yield f"typedef {declaration};\n"
    for view in VIEWS:
        yield _comment(view.summary)
        yield f"struct {view.name} {{"
        fields: Sequence[tuple[str, Any]] = view.structure._fields_  # type: ignore[assignment]  # none is a bit field
        for name, kind in fields:
            type = view.pointers.get(name) or _c_type(kind)
            yield f"    {type}{'' if type.endswith('*') else ' '}{name};"
        yield "};\n"


def _c_type(kind: type[ctypes._SimpleCData[int]]) -> str:
    """The C type of a number in a structure."""
    return f"{'' if kind(-1).value < 0 else 'u'}int{8 * ctypes.sizeof(kind)}_t"


def _functions() -> Iterator[str]:
    for title, group in FUNCTION_GROUPS.items():
        yield _section(title)
        for function in group:
            yield _comment(function.summary)
            yield "\n    ".join(textwrap.wrap(f"{function.prototype};", _WIDTH - 4)) + "\n"


# ----------------------------------------------------------------------------------------------------------------------
# What only the header has


def _assertions() -> Iterator[str]:
    """Yield what must hold where the header is compiled, if the library is to be of use there."""
    yield 'LH_ASSERT_(sizeof(void *) == 8, "lowheap is for machines with 64-bit addresses");'
    yield 'LH_ASSERT_(sizeof(lh_status) == 4, "lowheap is for compilers whose enumerations are 32 bits wide");'
    for structure in layout.STRUCTURES:
        name = structure.__name__
        yield f'LH_ASSERT_(sizeof({name}) == {ctypes.sizeof(structure)}u, "the size of {name}");'
    for view in VIEWS:
        yield from _view_assertions(view)


def _view_assertions(view: View) -> Iterator[str]:
    layout_name = view.structure.__name__
    yield f'LH_ASSERT_(sizeof({view.name}) == sizeof({layout_name}), "the size of {view.name}");'
    for name, *_ in view.structure._fields_:
        place = f"offsetof({view.name}, {name}) == offsetof({layout_name}, {name})"
        yield f'LH_ASSERT_({place}, "the place of {view.name}.{name}");'


def _configuration() -> str:
    (view,) = (view for view in VIEWS if view.structure is layout.VMHeapConfiguration)
    names = [name for name, *_ in view.structure._fields_]
    values = ["LOWHEAP_ABI" if name == "abi" else "NULL" if name in view.pointers else "0" for name in names]
    comment = _comment(
        "A configuration with every default, to be changed before lh_heap_create gets it. It says which header it comes"
        " from: `lh_config config = LH_CONFIG;`"
    )
    return f"{comment}\n#define LH_CONFIG {{{', '.join(values)}}}\n"


_OPENING = """\
#ifndef LOWHEAP_H
#define LOWHEAP_H

{conventions}

#include <stddef.h>
#include <stdint.h>

/* The version of lowheap that wrote this header. */
#define LOWHEAP_VERSION "{version}"

/* The hash of all that header and library must agree on. LH_CONFIG takes it to lh_heap_create, which compares. */
#define LOWHEAP_ABI {abi}

#ifdef __cplusplus
extern "C" {{
#endif
"""

_CLOSING = """\
#ifdef __cplusplus
}
#endif

#endif
"""

_GUARD_PEDANTIC = """\
/* C++ has no anonymous structures, C11 does; every C++ compiler takes them. */
#if defined __cplusplus && defined __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
"""

_UNGUARD_PEDANTIC = """\
#if defined __cplusplus && defined __GNUC__
#pragma GCC diagnostic pop
#endif
"""

_IN_LINE = re.compile(r"\blh_(load|init|store)_ref\b")


def _references(collectors: dict[str, Collector]) -> str:
    """What goes to fields that are references: by the one collector, or by that of the heap at hand."""
    texts = [each.c_references or _CALLED for each in collectors.values()]
    if len(texts) == 1:
        return texts[0]
    parts = []
    for number, (name, text) in enumerate(zip(collectors, texts, strict=True)):
        parts += [_comment(name), _IN_LINE.sub(rf"lh_\1_ref_{number}_", text)]
    for result, name, parameters in _REFERENCE_FUNCTIONS:
        given = ", ".join(parameter.rpartition(" ")[2].lstrip("*") for parameter in parameters.split(", "))
        parts.append(f"static inline {result} {name}({parameters}) {{\n    switch (heap->collector) {{")
        for number, collector in enumerate(collectors):
            case = "default" if number == 0 else f"case {collector_number(collector):#010x}u"
            call = f"{name}_{number}_({given});"
            parts.append(
                f"    {case}:\n        " + (f"{call}\n        break;" if result == "void" else f"return {call}")
            )
        parts.append("    }\n}\n")
    return "\n".join(parts)


_ASSERT_MACRO = """\
#ifdef __cplusplus
#define LH_ASSERT_ static_assert
#else
#define LH_ASSERT_ _Static_assert
#endif
"""

_FIELDS = """\
/* Fields, for lh_define_struct, and elements, for lh_define_array; all may be written:
 * `const lh_field fields[] = {LH_I32_FIELD, LH_REF_FIELD(LH_SELF)};`
 */
#define LH_FIELD(storage, flags, heap_type) {(uint16_t)(storage), (uint16_t)(flags), (uint32_t)(heap_type)}
#define LH_I8_FIELD LH_FIELD(LH_I8, LH_MUTABLE, 0)
#define LH_I16_FIELD LH_FIELD(LH_I16, LH_MUTABLE, 0)
#define LH_I32_FIELD LH_FIELD(LH_I32, LH_MUTABLE, 0)
#define LH_I64_FIELD LH_FIELD(LH_I64, LH_MUTABLE, 0)
#define LH_F32_FIELD LH_FIELD(LH_F32, LH_MUTABLE, 0)
#define LH_F64_FIELD LH_FIELD(LH_F64, LH_MUTABLE, 0)
#define LH_V128_FIELD LH_FIELD(LH_V128, LH_MUTABLE, 0)

/* A reference, or null, to what `heap_type` says: a type of this heap, LH_SELF, or one of LH_ANY, LH_STRUCT, ...
 * LH_CONST_REF_FIELD is one whose type a subtype may narrow.
 */
#define LH_REF_FIELD(heap_type) LH_FIELD(LH_REF, LH_MUTABLE | LH_NULLABLE, heap_type)
#define LH_CONST_REF_FIELD(heap_type) LH_FIELD(LH_REF, LH_NULLABLE, heap_type)
"""

_REFERENCES = f"""\
/* Whether a reference is an integer of 31 bits: neither null nor an object. */
static inline int lh_is_i31(lh_ref reference) {{
    return (reference & LOWHEAP_I31_TAG) != 0;
}}

/* Whether a reference names an object: it is neither null nor an integer. */
static inline int lh_is_object(lh_ref reference) {{
    return reference != LH_NULL && !lh_is_i31(reference);
}}

/* The reference that is the low 31 bits of an integer. */
static inline lh_ref lh_i31(int32_t value) {{
    return ((uint32_t)value & LOWHEAP_I31_MASK) << LOWHEAP_I31_SHIFT | LOWHEAP_I31_TAG;
}}

/* The integer that a reference is, with its sign. */
static inline int32_t lh_i31_value(lh_ref reference) {{
    const int32_t half = (int32_t)(LOWHEAP_I31_MASK / 2 + 1);
    return (int32_t)(reference >> LOWHEAP_I31_SHIFT ^ (uint32_t)half) - half;
}}

/* The integer that a reference is, from 0 to {layout.I31_MASK:#x}. */
static inline uint32_t lh_i31_value_u(lh_ref reference) {{
    return reference >> LOWHEAP_I31_SHIFT;
}}

/* The address of a field of an object, `offset` as lh_field_offset has it: the fast way to all fields but references.
 * Good as long as the object lives. Nothing here or below is checked, in either library.
 */
static inline void *lh_address(const lh_heap *heap, lh_ref object, uint32_t offset) {{
    return (unsigned char *)(uintptr_t)heap->heap_base + object + offset;
}}

"""

_FIELDS_IN_LINE = """\
/* The fast way to fields that are references, but not to functions: what lh_read, lh_init and lh_write do, in line as
 * far as the heap's collector has it there, and calls for the rest. lh_load_ref reads a field, lh_init_ref writes one
 * that is null, lh_store_ref any.
 */
"""

_REFERENCE_FUNCTIONS = (
    ("lh_ref", "lh_load_ref", "lh_heap *heap, lh_ref object, uint32_t offset"),
    ("void", "lh_init_ref", "lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value"),
    ("void", "lh_store_ref", "lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value"),
)
"""What a collector has in line, as results, names and parameters."""

_CALLED = """\
static inline lh_ref lh_load_ref(lh_heap *heap, lh_ref object, uint32_t offset) {
    lh_ref found = LH_NULL;
    lh_read(heap, (lh_ref *)lh_address(heap, object, offset), &found);
    return found;
}

static inline void lh_init_ref(lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value) {
    lh_store(heap, object, offset, value);
}

static inline void lh_store_ref(lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value) {
    lh_store(heap, object, offset, value);
}
"""
"""The same where the collector has none of it in line; whatever it is, `lh_store` tells it the owner."""

_FRAMES = """\
/* LH_FRAME(heap, name, count); declares `lh_ref name[count]`, all null; what is put there lives as long as the scope
 * does, which must not be left by longjmp. `count` is a constant. A push that fails is misuse, of which on_error is
 * told; `name_frame.heap` is a null pointer then. Compilers without the cleanup attribute have
 * `lh_ref name[count] = {0}; lh_frame frame; lh_frame_push(heap, &frame, name, count);`, and
 * `lh_frame_pop(heap, &frame);` on every way out.
 */
#ifdef __GNUC__
static inline void lh_frame_enter_(lh_heap *heap, lh_frame *frame, lh_ref *slots, uint32_t count) {
    frame->heap = NULL;
    if (lh_frame_push(heap, frame, slots, count) != LH_OK) {
        frame->heap = NULL;
    }
}

static inline void lh_frame_leave_(lh_frame *frame) {
    if (frame->heap != NULL) {
        lh_frame_pop(frame->heap, frame);
    }
}

#define LH_FRAME(heap, name, count) \\
    lh_ref name[count] = {0}; \\
    __attribute__((cleanup(lh_frame_leave_))) lh_frame name##_frame; \\
    lh_frame_enter_((heap), &name##_frame, name, (count))
#endif
"""
