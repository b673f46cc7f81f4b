"""Types drawn at random, an object of each in a live wasmtime, and what the four sides say of where things are.

The sides: lowheap (`DrcHeap.layout`), a C compiler, LLVM, and wasmtime, whose objects are looked at. Each object is
made with field values that can be told from one another; what a traced slot refers to is an object that nothing else
holds, so that its count says whether the slot counts: 2 as long as the list has it too, 1 after a collection, and 0
once the holder is gone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st
from llvmlite import ir

from lowheap.heap import DrcHeap
from lowheap.jit.emit import llvm_structure
from lowheap.jit.engine import target_machine
from lowheap.layout import (
    ARRAY_HEADER_END,
    EXTERNREF_TYPE_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    GcArrayLayout,
    GcLayout,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcHeader,
    VMGcKind,
)
from lowheap.peers import HeapImage, Peer
from lowheap.types import TypeRegistry
from lowheap.wasm.decode import decode
from lowheap.wasm.validate import to_binary

WIDTHS = {"i8": 1, "i16": 2, "i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}
TRACED = ("anyref", "eqref", "structref", "arrayref", "externref", "(ref any)", "(ref struct)", "(ref extern)")
UNTRACED = ("i31ref", "(ref i31)", "funcref", "(ref func)", "nullfuncref")
NULL_ONLY = ("nullref", "nullexternref")
STORAGES = (*WIDTHS, *TRACED, *UNTRACED, *NULL_ONLY)
ARRAY_LENGTH = 5

# The storage types of a struct's own fields; "concrete" is a reference to a type that was defined before.
fields = st.lists(st.sampled_from([*STORAGES, *WIDTHS, "concrete"]), max_size=9)


@dataclass
class DrawnType:
    """A struct (with its supertype's fields first), an array (one field), or a tag's parameters."""

    kind: str  # "struct", "array", "exception"
    storages: list[str]
    supertype: int | None = None
    values: list[int] = field(default_factory=list)  # the low bits of the numbers that fields get


@st.composite
def batches(draw: st.DrawFn, size: int, *, has_exceptions: bool) -> list[DrawnType]:
    """Draw the types of one module. Type 0 is the empty struct, type 1 an array of bytes."""
    drawn = [DrawnType("struct", []), DrawnType("array", ["i8"])]
    while len(drawn) < size:
        kind = draw(st.sampled_from(["struct"] * 4 + ["array"] + ["exception"] * has_exceptions))
        own = draw(
            fields if kind != "array" else st.lists(st.sampled_from([*STORAGES, "concrete"]), min_size=1, max_size=1)
        )
        own = [f"(ref null {draw(st.integers(0, 1))})" if each == "concrete" else each for each in own]
        supertype = None
        if kind == "struct":
            above = [number for number, each in enumerate(drawn) if each.kind == "struct" and len(each.storages) < 12]
            supertype = draw(st.one_of(st.none(), st.sampled_from(above)))
            if supertype is not None:
                own = drawn[supertype].storages + own
        if kind == "exception":
            own = [each for each in own if each not in ("i8", "i16")]
        drawn.append(DrawnType(kind, own, supertype))
    for number, each in enumerate(drawn):
        each.values = [(31 * number + 11 * place) % 127 + 1 for place in range(len(each.storages))]
    return drawn


def pattern(storage: str, value: int) -> bytes:
    """The bytes of a field with a drawn value: no byte is 0, and all of a field's bytes differ."""
    width = WIDTHS[storage]
    return bytes((value + 7 * place) % 127 + 1 for place in range(width))


def constant(storage: str, value: int) -> str:
    """Code that makes a field's value; for a reference, an object that nothing else holds."""
    if storage in WIDTHS:
        number = int.from_bytes(pattern(storage, value), "little")
        if storage == "v128":
            data = pattern(storage, value)
            return f"(v128.const i8x16 {' '.join(map(str, data))})"
        if storage in ("f32", "f64"):
            integer = "i32" if storage == "f32" else "i64"
            return f"({storage}.reinterpret_{integer} ({integer}.const {number}))"
        return f"({'i64' if storage == 'i64' else 'i32'}.const {number})"
    match storage:
        case "i31ref" | "(ref i31)":
            return f"(ref.i31 (i32.const {value}))"
        case "funcref" | "(ref func)":
            return "(ref.func $some)"
        case "nullref":
            return "(ref.null none)"
        case "nullexternref":
            return "(ref.null noextern)"
        case "nullfuncref":
            return "(ref.null nofunc)"
        case "arrayref" | "(ref null 1)":
            return f"(array.new_default 1 (i32.const {value}))"
        case "externref" | "(ref extern)":
            return "(extern.convert_any (struct.new 0))"
    return "(struct.new 0)"


def is_traced(storage: str) -> bool:
    """Whether an object must be counted for such a slot, by what WebAssembly's type is; null ones are not looked at."""
    return storage in TRACED or storage.startswith("(ref null ")


def source(batch: Sequence[DrawnType]) -> str:
    """A module with the types, and for each an export that makes one object and holds it in a global."""
    types, rest = [], []
    for number, drawn in enumerate(batch):
        values = " ".join(constant(each, value) for each, value in zip(drawn.storages, drawn.values, strict=True))
        if drawn.kind == "struct":
            above = "" if drawn.supertype is None else f"{drawn.supertype} "
            body = " ".join(f"(field {each})" for each in drawn.storages)
            types.append(f"(type (sub {above}(struct {body})))")
            make = f"(struct.new {number} {values})"
        elif drawn.kind == "array":
            types.append(f"(type (array {drawn.storages[0]}))")
            make = f"(array.new_fixed {number} {ARRAY_LENGTH} {' '.join([values] * ARRAY_LENGTH)})"
        else:
            types.append(f"(type (func (param {' '.join(drawn.storages)})))")
            rest.append(f"(tag $tag{number} (type {number}))")
            results = f"(result {' '.join(drawn.storages)} exnref)"
            drops = "(drop)" * len(drawn.storages)
            rest.append(
                f'(func (export "make{number}") (block $caught {results} (try_table (catch_ref $tag{number} $caught)'
                f" (throw $tag{number} {values})) (unreachable)) (global.set $exception) {drops})"
            )
            continue
        rest.append(f'(func (export "make{number}") (global.set $held {make}))')
    if any(drawn.kind == "exception" for drawn in batch):
        rest.insert(0, "(global $exception (mut exnref) (ref.null exn))")
    return "\n".join(
        [
            "(module",
            *types,
            "(global $held (mut anyref) (ref.null any))",
            "(func $some)",
            "(elem declare func $some)",
            *rest,
            '(func (export "clear") (global.set $held (ref.null any))))',
        ]
    )


# ----------------------------------------------------------------------------------------------------------------------
# The sides

Figures = tuple[int | None, int, tuple[int, ...]]
"""Size (None for an array), alignment, and every field's offset; of an array, those of its elements."""


def lowheap_layouts(text: str, count: int) -> list[GcLayout]:
    """What lowheap's heap has for each type of a module."""
    registry = TypeRegistry()
    heap = DrcHeap(registry)
    indices: list[int] = []
    definitions = [line for line in text.splitlines() if line.startswith("(type ")]  # lowheap compiles no SIMD
    for group in decode(to_binary("\n".join(["(module", *definitions, ")"]))).rec_groups:
        indices += registry.register(group, outer=indices)
    layouts = [heap.layout(index) for index in indices[:count]]
    heap.close()
    return layouts


def figures(layout: GcLayout) -> Figures:
    """A layout as figures."""
    if isinstance(layout, GcArrayLayout):
        return None, layout.align, tuple(layout.element_offset(number) for number in range(ARRAY_LENGTH))
    return layout.size, layout.align, tuple(each.offset for each in layout.fields)


HEADERS = {"struct": VMDrcHeader, "array": VMDrcArrayHeader, "exception": VMDrcExnHeader}
C_TYPES = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t", 16: "vector_t"}


def c_program(batch: Sequence[DrawnType]) -> tuple[str, list[str]]:
    """Declarations of the types in C, and the expressions of their figures, an array's size left out."""
    text, expressions = "typedef struct { _Alignas(16) uint8_t bytes[16]; } vector_t;\n", []
    for number, drawn in enumerate(batch):
        names = [f"f{place}" for place in range(len(drawn.storages))]
        members = [C_TYPES[WIDTHS.get(each, 4)] for each in drawn.storages]
        if drawn.kind == "array":
            text += f"typedef struct {{ VMDrcHeader h; uint32_t length; {members[0]} e[]; }} type{number};\n"
            expressions.append(f"_Alignof(type{number})")
            expressions += [f"(uintptr_t)&((type{number} *)0)->e[{place}]" for place in range(ARRAY_LENGTH)]
            continue
        body = " ".join(f"{member} {name};" for member, name in zip(members, names, strict=True))
        text += f"typedef struct {{ {HEADERS[drawn.kind].__name__} h; {body} }} type{number};\n"
        expressions += [f"sizeof(type{number})", f"_Alignof(type{number})"]
        expressions += [f"offsetof(type{number}, {name})" for name in names]
    return text, expressions


def flat(batch: Sequence[DrawnType], all_figures: Sequence[Figures]) -> list[int]:
    """Figures in the order of `c_program`'s expressions."""
    values: list[int] = []
    for _, (size, align, offsets) in zip(batch, all_figures, strict=True):
        values += [*([] if size is None else [size]), align, *offsets]
    return values


def llvm_figures(drawn: DrawnType) -> Figures:
    """What LLVM makes of the same members."""
    numbers = {1: ir.IntType(8), 2: ir.IntType(16), 4: ir.IntType(32), 8: ir.IntType(64)}
    numbers[16] = ir.VectorType(ir.IntType(64), 2)
    members = [numbers[WIDTHS.get(each, 4)] for each in drawn.storages]
    target_data = target_machine().target_data
    if drawn.kind == "array":
        elements = ir.ArrayType(members[0], ARRAY_LENGTH)
        array = ir.LiteralStructType([llvm_structure(VMDrcHeader), numbers[4], elements])
        start, size = array.get_element_offset(target_data, 2), members[0].get_abi_size(target_data)
        offsets = tuple(start + size * place for place in range(ARRAY_LENGTH))
        return None, array.get_abi_alignment(target_data), offsets
    kind = ir.LiteralStructType([llvm_structure(HEADERS[drawn.kind]), *members])
    offsets = tuple(kind.get_element_offset(target_data, place + 1) for place in range(len(members)))
    return kind.get_abi_size(target_data), kind.get_abi_alignment(target_data), offsets


KINDS = {"struct": VMGcKind.STRUCT_REF, "array": VMGcKind.ARRAY_REF, "exception": VMGcKind.EXN_REF}


def live_problems(peer: Peer, batch: Sequence[DrawnType], layouts: Sequence[GcLayout], text: str) -> list[str]:
    """What is not where lowheap's layouts say, in an object of each type in the peer."""
    peer.load(text)
    problems: list[str] = []
    types: dict[int, int] = {}
    for number, (drawn, layout) in enumerate(zip(batch, layouts, strict=True)):
        peer.call(f"make{number}")
        made = peer.image()
        (index, *_) = made.list_order()
        peer.collect()
        held = peer.image()
        peer.call("clear")
        peer.collect()
        dropped = peer.image()
        what = f"type {number}, {drawn.kind} of {' '.join(drawn.storages)}"
        problems += [f"{what}: {problem}" for problem in object_problems(drawn, layout, index, made, held, dropped)]
        type_index = made.header(index).type_index
        if types.setdefault(type_index, number) != number and drawn.storages != batch[types[type_index]].storages:
            problems.append(f"{what}: has the type index of type {types[type_index]}")
        if type_index == EXTERNREF_TYPE_INDEX:
            problems.append(f"{what}: has no type")
    return problems


def object_problems(
    drawn: DrawnType, layout: GcLayout, index: int, made: HeapImage, held: HeapImage, dropped: HeapImage
) -> list[str]:
    """The same for one object: just made, then held by a global only, then gone."""
    problems: list[str] = []

    def expect(what: str, found: object, expected: object) -> None:
        if found != expected:
            problems.append(f"{what} is {found!r} in wasmtime, not {expected!r}")

    header = made.header(index)
    expect("kind word", header.kind_and_reserved, KINDS[drawn.kind] | HEADER_IN_OVER_APPROX_LIST_BIT)
    storages, values = drawn.storages, drawn.values
    if isinstance(layout, GcArrayLayout):
        expect("size", header.object_size, layout.size(ARRAY_LENGTH))
        length = made.data[index + ARRAY_HEADER_END - 4 : index + ARRAY_HEADER_END]
        expect("length", int.from_bytes(length, "little"), ARRAY_LENGTH)
        storages, values = storages * ARRAY_LENGTH, values * ARRAY_LENGTH
        traced = [layout.elements_are_traced] * ARRAY_LENGTH
    else:
        expect("size", header.object_size, layout.size)
        traced = [each.is_traced for each in layout.fields]
    offsets = figures(layout)[2]
    expect("number of slots", len(offsets), len(storages))
    for storage, value, offset, ours in zip(storages, values, offsets, traced, strict=False):
        place = f"{storage} at {offset}"
        if storage in WIDTHS:
            width = WIDTHS[storage]
            expect(place, made.data[index + offset : index + offset + width], pattern(storage, value))
            expect(f"traced, of {place},", False, ours)
            continue
        word = int.from_bytes(made.data[index + offset : index + offset + 4], "little")
        if storage in ("i31ref", "(ref i31)"):
            expect(place, word, value << 1 | 1)
            expect(f"traced, of {place},", False, ours)
        elif storage in ("funcref", "(ref func)", "nullfuncref"):  # an id, even for null
            expect(f"traced, of {place},", False, ours)
        elif storage in NULL_ONLY:
            expect(place, word, 0)
        elif word % 16 or not 16 <= word < len(made.data) - 24:
            problems.append(f"{place} is {word:#x} in wasmtime, no reference")
        else:
            counts = [image.header(word).ref_count for image in (made, held, dropped)]
            # An exception that was caught leaks (wasmtime #13037), and its parameters were on the operand stack.
            last = 1 if drawn.kind == "exception" else 0
            expect(f"counts of what {place} refers to", counts, [1 + ours, int(ours), last if ours else 0])
            expect(f"traced, of {place},", is_traced(storage), ours)
    return problems


def same_in_ctypes(drawn: DrawnType) -> Figures | None:
    """What ctypes makes of the same members; None with a v128 or in an array, which it cannot declare."""
    if drawn.kind == "array" or "v128" in drawn.storages:
        return None
    integers = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}
    members = [(f"f{place}", integers[WIDTHS.get(each, 4)]) for place, each in enumerate(drawn.storages)]
    made = type("Drawn", (ctypes.Structure,), {"_fields_": [("h", HEADERS[drawn.kind]), *members]})
    offsets = tuple(getattr(made, name).offset for name, _ in members)
    return ctypes.sizeof(made), ctypes.alignment(made), offsets
