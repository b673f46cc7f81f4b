"""The C interface, as one table: every function with its parameters and what it promises, every status, every type.

The header, cffi's declarations, the code that is emitted and the documentation all come from here, so they cannot
differ. `abi_hash` is a hash of all that two sides must agree on; a header and a library of different hashes refuse to
work together.

Conventions. Every call that can fail returns an `lh_status`, and leaves what it was asked for in `*result`. In the
checked library each misuse that a docstring here names is reported; the fast library takes arguments at their word,
except where memory, limits and definitions are concerned, and misuse is undefined there.

A reference that a call leaves in `*result` is *deferred*: not counted for the caller, but on the over-approximated
list. It stays good until the next call that may collect (an allocation or a collection), and beyond that for as long
as it is in a slot of a frame, in a registered slot, or in an object that is.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass

from lowheap import layout
from lowheap.declarations import c_declarations
from lowheap.errors import Status as Status

VERSION = "1"
"""The interface's version; it names the symbol version of the shared library's functions."""

DEFAULT_COLLECTORS = ("drc",)
"""The collectors, by name, of a library of which nobody says anything else."""

HEAP = "lh_heap *"
"""The first parameter of every function that works on a heap."""


STATUS_MEANINGS: dict[Status, str] = {
    Status.OK: "the call did what it promises",
    Status.OUT_OF_MEMORY: "no room, even after a collection and in a heap of the maximum size",
    Status.TOO_LARGE: "no heap at all has room for such an object",
    Status.BAD_ARGUMENT: "an argument that cannot be, a null pointer for one",
    Status.NULL_REFERENCE: "null where an object is wanted",
    Status.BAD_REFERENCE: "a reference that names no live object of this heap: stale, or another heap's",
    Status.WRONG_TYPE: "an object, or a field, of another type than the call is for",
    Status.BAD_TYPE: "a type that is not defined, or a definition that is not well formed",
    Status.OUT_OF_BOUNDS: "a field or an element that the object does not have",
    Status.BAD_FRAME: "frames popped out of order, or on another heap",
    Status.BAD_SLOT: "an address that is neither a registered slot nor in the heap, or has no reference there",
    Status.BUSY: "another call is at work on this heap, or a collection of Python's between trace and sweep",
    Status.NO_GC: "a collection inside a no-GC scope, or a scope left that was not entered",
    Status.ABI: "header and library have different layouts, or the library has not the heap's collector",
    Status.SYSTEM: "the system refused memory",
    Status.LIMIT: "a table is full",
    Status.CORRUPT: "an invariant of the heap does not hold",
    Status.UNSUPPORTED: "not possible with this heap: Python made it",
    Status.CALLBACK: "a callback reported failure, which ended the call",
    Status.DETACHED: "the heap has no memory any more: Python has closed its store, or detached or moved it",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its C type, its name, and whether a null pointer is an argument, too."""

    type: str
    name: str
    may_be_null: bool = False

    def __str__(self) -> str:
        """As in a prototype."""
        return f"{self.type}{'' if self.type.endswith('*') else ' '}{self.name}"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the interface. `result` is its C type, and `summary` the comment that the header has."""

    name: str
    result: str
    parameters: tuple[Parameter, ...]
    summary: str

    @property
    def takes_heap(self) -> bool:
        """Whether it works on a heap, its first argument."""
        return bool(self.parameters) and self.parameters[0].type == HEAP

    @property
    def prototype(self) -> str:
        """The declaration, without semicolon."""
        return f"{_spaced(self.result)}{self.name}({_parameters(self.parameters)})"

    @property
    def pointer_cdecl(self) -> str:
        """The type of a pointer to it, as cffi reads it."""
        return f"{self.result}(*)({_parameters(self.parameters)})"


def _spaced(type: str) -> str:
    return type if type.endswith("*") else f"{type} "


def _parameters(parameters: tuple[Parameter, ...]) -> str:
    return ", ".join(map(str, parameters)) or "void"


def _function(name: str, parameters: str, summary: str, *, result: str = "lh_status") -> Function:
    """`parameters` as in C; one whose name ends in `?` may be a null pointer."""
    parsed = []
    for text in filter(None, map(str.strip, parameters.split(","))):
        cut = max(text.rfind(" "), text.rfind("*")) + 1
        name_part = text[cut:]
        parsed.append(Parameter(text[:cut].strip(), name_part.rstrip("?"), name_part.endswith("?")))
    return Function(name, result, tuple(parsed), summary)


_SCALARS = (
    ("i32", "int32_t", "an i32, or an i8 or i16 with its sign"),
    ("u32", "uint32_t", "an i32, or an i8 or i16 without sign"),
    ("i64", "int64_t", "an i64"),
    ("f32", "float", "an f32"),
    ("f64", "double", "an f64"),
)


def _readers(kind: str, what: str, number: str) -> tuple[Function, ...]:
    return (
        *(
            _function(
                f"lh_{kind}_get_{suffix}",
                f"lh_heap *heap, lh_ref object, uint32_t {number}, {type} *result",
                f"Read {what} that is {meaning}.",
            )
            for suffix, type, meaning in (*_SCALARS, ("v128", "lh_v128", "a v128"))
        ),
        _function(
            f"lh_{kind}_get_ref",
            f"lh_heap *heap, lh_ref object, uint32_t {number}, lh_ref *result",
            f"Read {what} that is a reference, but not to a function, which is no object: by the read barrier.",
        ),
    )


def _accessors(kind: str, what: str, number: str) -> tuple[Function, ...]:
    writes = [
        _function(
            f"lh_{kind}_set_{suffix}",
            f"lh_heap *heap, lh_ref object, uint32_t {number}, {type} value",
            f"Write {what} that is {meaning}; what does not fit is cut off.",
        )
        for suffix, type, meaning in _SCALARS
        if suffix != "u32"
    ]
    vectors_and_references = [
        _function(
            f"lh_{kind}_set_v128",
            f"lh_heap *heap, lh_ref object, uint32_t {number}, const lh_v128 *value",
            f"Write {what} that is a v128.",
        ),
        _function(
            f"lh_{kind}_set_ref",
            f"lh_heap *heap, lh_ref object, uint32_t {number}, lh_ref value",
            f"Write {what} that is a reference, but not to a function: by the write barrier. What the old value alone"
            " kept alive dies.",
        ),
    ]
    return (*_readers(kind, what, number), *writes, *vectors_and_references)


FUNCTION_GROUPS: dict[str, tuple[Function, ...]] = {
    "The library": (
        _function("lh_abi", "", "The hash of the layouts that the library was built with.", result="uint64_t"),
        _function("lh_version", "", "The version of lowheap that built the library.", result="const char *"),
        _function("lh_is_checked", "", "1 for the checked library, 0 for the fast one.", result="uint32_t"),
        _function(
            "lh_status_name",
            "uint32_t status",
            "A status in words, as `LH_OUT_OF_MEMORY`; never a null pointer.",
            result="const char *",
        ),
    ),
    "Heaps": (
        _function(
            "lh_heap_create",
            "const lh_config *config, lh_heap **result",
            "Make a heap. Where the configuration has 0, the default holds; LH_CONFIG has nothing else but the hash of"
            " the header, without which there is no heap. `collector` is the name of one that the library has; the"
            " default is the first of them. LH_BAD_ARGUMENT where it has none such.",
        ),
        _function(
            "lh_heap_destroy",
            "lh_heap *heap",
            "Unmap a heap, having run the finalizers of all its externrefs. Not from within a callback.",
        ),
        _function(
            "lh_heap_collector",
            "lh_heap *heap, const char **result",
            "The name of the heap's collector.",
        ),
        _function(
            "lh_error_message",
            "lh_heap *heap, char *buffer?, uint64_t size",
            "Write what the last call that failed said, cut off to `size` bytes with the 0; return its length.",
            result="uint64_t",
        ),
        _function("lh_heap_statistics", "lh_heap *heap, lh_statistics *result", "A heap's figures."),
        _function(
            "lh_verify",
            "lh_heap *heap",
            "Walk the heap and check every invariant; LH_CORRUPT, and the message tells the first that does not hold.",
        ),
        _function(
            "lh_walk",
            "lh_heap *heap, lh_visitor visitor, void *argument?",
            "Call `visitor` for each live object, in address order. It must not use the heap; LH_CALLBACK when it"
            " returns anything but 0, which ends the walk.",
        ),
        _function(
            "lh_dump",
            "lh_heap *heap, lh_writer writer, void *argument?",
            "Write a dump, which `lowheap inspect` reads, piece by piece. LH_CALLBACK when the writer returns anything"
            " but 0.",
        ),
    ),
    "Types": (
        _function(
            "lh_define_struct",
            "lh_heap *heap, const lh_field *fields?, uint32_t count, lh_type supertype, uint32_t flags,"
            " lh_type *result",
            "Define a struct type; each definition is a type of its own. Its first fields must be those of its"
            " supertype. Writes are not bound by mutability, which matters for subtyping alone.",
        ),
        _function(
            "lh_define_array",
            "lh_heap *heap, const lh_field *element, lh_type supertype, uint32_t flags, lh_type *result",
            "Define an array type.",
        ),
        _function(
            "lh_field_offset",
            "lh_heap *heap, lh_type type, uint32_t field, uint32_t *result",
            "Where a struct type has a field, in bytes from the object's start; of an array type, field 0 is where its"
            " elements start. Of a function type, where exceptions have theirs whose tag has that type.",
        ),
        _function(
            "lh_is_subtype",
            "lh_heap *heap, lh_type type, lh_type supertype, uint32_t *result",
            "Whether a type is another, or a subtype of it: 1 or 0.",
        ),
    ),
    "Objects": (
        _function(
            "lh_alloc_struct",
            "lh_heap *heap, lh_type type, lh_ref *result",
            "A new struct, all zero: its references are null. May collect.",
        ),
        _function(
            "lh_alloc_array",
            "lh_heap *heap, lh_type type, uint32_t length, lh_ref *result",
            "A new array, all zero. May collect.",
        ),
        _function(
            "lh_alloc_externref",
            "lh_heap *heap, void *data?, lh_finalizer finalizer?, lh_ref *result",
            "A new externref of the host's `data`; when it dies, and the heap is whole again, `finalizer` is called"
            " with that, once. May collect.",
        ),
        _function(
            "lh_type_of",
            "lh_heap *heap, lh_ref object, lh_type *result",
            "The type of a struct or an array; of an exception, that of its tag, a function type;"
            " LOWHEAP_EXTERNREF_TYPE_INDEX for an externref.",
        ),
        _function(
            "lh_is_instance",
            "lh_heap *heap, lh_ref reference, lh_type type, uint32_t *result",
            "Whether a reference is to an object of a type, as `lh_type_of` has it, or of a subtype: 1 or 0. Null and"
            " i31 are not.",
        ),
        _function("lh_array_length", "lh_heap *heap, lh_ref array, uint32_t *result", "An array's number of elements."),
        _function(
            "lh_array_data",
            "lh_heap *heap, lh_ref array, void **result",
            "The address of an array's elements, which are not references. It is good as long as the array lives.",
        ),
        _function(
            "lh_externref_data",
            "lh_heap *heap, lh_ref externref, void **result",
            "The host's data behind an externref. Of one that Python made: the address, if its value is a cffi pointer,"
            " else null.",
        ),
        _function(
            "lh_exception_tag",
            "lh_heap *heap, lh_ref exception, lh_tag *result",
            "The tag of an exception: two words that tell it from all others of the store.",
        ),
    ),
    "Fields": _accessors("struct", "a field", "field"),
    "Elements": _accessors("array", "an element", "index"),
    "Fields of exceptions, which are not written": _readers("exception", "a field", "field"),
    "Barriers": (
        _function(
            "lh_inc_ref",
            "lh_heap *heap, lh_ref reference",
            "One count more, which is the caller's to give back. Null and i31 take no part, here and below. `lh_verify`"
            " knows no owner of such a count: give it back, or hand it over, before. Of a collector that finds roots"
            " rather than count them, as rc-immix, this and the next three do nothing, and keep nothing.",
        ),
        _function(
            "lh_dec_ref",
            "lh_heap *heap, lh_ref reference",
            "Give back a count that is the caller's; with the last, the object dies, and all that only it held.",
        ),
        _function(
            "lh_expose",
            "lh_heap *heap, lh_ref reference",
            "Hand a count that is the caller's over to the list: the reference is a deferred one from here on.",
        ),
        _function(
            "lh_defer",
            "lh_heap *heap, lh_ref reference",
            "Make a reference that is counted elsewhere, by a handle of Python's for one, a deferred one, too: put its"
            " object on the list, if it is not there.",
        ),
        _function(
            "lh_read",
            "lh_heap *heap, const lh_ref *slot, lh_ref *result",
            "Read a slot, in an object or registered: the read barrier.",
        ),
        _function(
            "lh_write",
            "lh_heap *heap, lh_ref *slot, lh_ref value",
            "Write a slot, in an object or registered: the write barrier.",
        ),
        _function(
            "lh_init",
            "lh_heap *heap, lh_ref *slot, lh_ref value",
            "Write a slot that holds nothing yet, or null: the write barrier, without its second half.",
        ),
        _function(
            "lh_store",
            "lh_heap *heap, lh_ref object, uint32_t offset, lh_ref value",
            "Write a reference of an object, `offset` as `lh_field_offset` has it: the write barrier, told in which"
            " object the slot is, as some collectors must be. What the slot may hold is not looked at.",
        ),
    ),
    "Roots": (
        _function(
            "lh_frame_push",
            "lh_heap *heap, lh_frame *frame, lh_ref *slots?, uint32_t count",
            "Make `count` slots of the caller's, which must all be set, roots until the pop. They are plain memory: no"
            " barrier writes them. What they hold must be null, an i31, or deferred. LH_FRAME does this for a scope,"
            " which must end before the heap is destroyed.",
        ),
        _function("lh_frame_pop", "lh_heap *heap, lh_frame *frame", "Forget the frame that was pushed last."),
        _function(
            "lh_slot_register",
            "lh_heap *heap, lh_ref *slot",
            "Make a slot outside of the heap a root, which counts what is in it, and set it to null. `lh_write` and"
            " `lh_read` are how to get at it.",
        ),
        _function("lh_slot_unregister", "lh_heap *heap, lh_ref *slot", "Set a registered slot to null, and forget it."),
    ),
    "Collecting": (
        _function(
            "lh_collect",
            "lh_heap *heap",
            "Find out which listed objects no frame holds, and free those that nothing else holds either.",
        ),
        _function(
            "lh_collect_increment",
            "lh_heap *heap, uint64_t budget, uint32_t *result",
            "The same, but free at most `budget` objects; 1 in `*result` when some are left for further calls, which"
            " only free until none are. Of drc, no call searches for cycles, which is one piece of work however much"
            " lives: lh_collect_cycles does, and the heap by itself. Of rc-immix, about `budget` objects are looked at,"
            " and a trace that is due begins, goes on with each call, and is done when `*result` is 0: that finds"
            " cycles, too.",
        ),
        _function(
            "lh_collect_cycles",
            "lh_heap *heap",
            "Collect, all at once, and search for what only cycles keep, and free that, too. A heap does that by itself"
            " before it grows, if much more lives than the last search has left, and before an allocation fails.",
        ),
        _function("lh_no_gc_enter", "lh_heap *heap", "Forbid collections until the matching exit. Scopes nest."),
        _function("lh_no_gc_exit", "lh_heap *heap", "Leave a no-GC scope."),
    ),
}
"""Every function, by subject, in the order of the header."""

FUNCTIONS: dict[str, Function] = {function.name: function for group in FUNCTION_GROUPS.values() for function in group}


@dataclass(frozen=True, slots=True)
class View:
    """A structure of `layout.py` under the interface's name, with some of its fields as the pointers that they are."""

    name: str
    structure: type[ctypes.Structure]
    summary: str
    pointers: dict[str, str]


CALLBACKS: dict[str, str] = {
    "lh_finalizer": "void (*lh_finalizer)(void *data)",
    "lh_out_of_memory": "uint32_t (*lh_out_of_memory)(void *argument, uint64_t bytes_needed)",
    "lh_on_error": "void (*lh_on_error)(void *argument, lh_status status, const char *message)",
    "lh_visitor": "uint32_t (*lh_visitor)(void *argument, const lh_object *object)",
    "lh_writer": "uint32_t (*lh_writer)(void *argument, const void *data, uint64_t size)",
}
"""Callbacks' types, by name. `lh_out_of_memory` may let go of references, and returns 1 to have the allocation tried
once more. `lh_on_error` is told of every failure, and its message, which lives as long as the call."""

ALIASES: dict[str, str] = {"lh_heap": "VMHeap", "lh_ref": "uint32_t", "lh_type": "uint32_t"}
"""Further types' names, and what they are."""

VIEWS: tuple[View, ...] = (
    View(
        "lh_config",
        layout.VMHeapConfiguration,
        "What to ask of a new heap; LH_CONFIG is one with all defaults.",
        {
            "collector": "const char *",
            "out_of_memory": "lh_out_of_memory",
            "out_of_memory_argument": "void *",
            "on_error": "lh_on_error",
            "on_error_argument": "void *",
        },
    ),
    View("lh_field", layout.VMFieldDefinition, "A field of a type; the LH_FIELD macros make them.", {}),
    View(
        "lh_frame",
        layout.VMRootFrame,
        "A frame of roots.",
        {"previous": "struct lh_frame *", "heap": "lh_heap *", "slots": "lh_ref *"},
    ),
    View(
        "lh_statistics",
        layout.VMHeapStatistics,
        "A heap's figures, since it was made. `peak_committed` is how many bytes of the system's memory its objects had"
        " at most: of rc-immix, which gives memory back, so much was in use; of other collectors it is the capacity,"
        " which never falls, and of which the system gives what is touched. `pauses` is how often a collection, or a"
        " portion of one within an allocation, has kept the program waiting, `paused_nanoseconds` for how long together"
        " and `longest_pause_nanoseconds` at most: of rc-immix, and but for lh_collect_increment. Other collectors"
        " measure no pauses, and these are 0.",
        {},
    ),
    View("lh_object", layout.VMObjectInfo, "An object, as a walk meets it.", {}),
    View("lh_v128", layout.VMVector, "A v128: 16 bytes, those of lane 0 first; to be copied to and from.", {}),
    View("lh_tag", layout.VMTag, "What tells a tag from all others of a store.", {}),
)


def abi_hash(*collectors: str) -> int:
    """Return the hash, 64 bits, of all that header and library must agree on: structures, constants, prototypes.

    A library built ahead of time is for certain collectors, and so is its header, by which C programs do in line what
    the collectors' barriers do: `collectors` are their names, `drc` alone by default.
    """
    text = "\n".join(
        (
            *([] if collectors in ((), DEFAULT_COLLECTORS) else collectors),
            VERSION,
            c_declarations(),
            *(f"{status.name}={status.value}" for status in Status),
            *CALLBACKS.values(),
            *(f"{name}={meaning}" for name, meaning in ALIASES.items()),
            *(function.prototype for function in FUNCTIONS.values()),
        )
    )
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def collector_number(name: str) -> int:
    """Return the number, 32 bits, by which heaps tell of a collector of this name: the same in every library."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
