"""Four-way layout conformance: ctypes, the C compiler, LLVM and a live wasmtime agree on where everything is.

`tests/test_layout.py` compares every structure and constant of lowheap's own in the first three; here the fourth is
added for those that are wasmtime's, and all four look at types drawn at random.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, seed, settings
from llvmlite import ir
from support import conformance_types as types
from support.c_layouts import members, print_numbers, run_c
from support.conformance_types import DrawnType, batches

from lowheap import layout
from lowheap.jit.emit import llvm_structure
from lowheap.jit.engine import target_machine
from lowheap.layout import (
    HEADER_IN_OVER_APPROX_LIST_BIT,
    GcTypeLayouts,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMDrcHeapData,
    VMGcHeader,
    VMGcKind,
)
from lowheap.peers import VERSIONS, HeapImage, Peer

SEED = 20260
LISTED = HEADER_IN_OVER_APPROX_LIST_BIT


# ----------------------------------------------------------------------------------------------------------------------
# Structures and constants

LIVE = """(module
  (type $cell (struct (field i64)))
  (type $list (array (mut i32)))
  (global $cell (mut (ref null $cell)) (ref.null $cell))
  (global $list (mut (ref null $list)) (ref.null $list))
  (global $small (mut (ref null $holder)) (ref.null $holder))
  (type $holder (struct (field i31ref)))
  (global $outside (mut externref) (ref.null extern))
  (func (export "cell") (global.set $cell (struct.new $cell (i64.const 0x1122334455667788))))
  (func (export "list") (global.set $list (array.new $list (i32.const 0x55667788) (i32.const 77))))
  (func (export "small") (global.set $small (struct.new $holder (ref.i31 (i32.const -5)))))
  (func (export "outside") (param externref) (global.set $outside (local.get 0))))"""

THROWER = """(module
  (tag $first (param i32)) (tag $second (param i32))
  (global $held (mut exnref) (ref.null exn))
  (func (export "throw")
    (block $caught (result i32 exnref)
      (try_table (catch_ref $second $caught) (throw $second (i32.const 0x55667788)))
      (unreachable))
    (global.set $held) (drop)))"""


def live_objects(peer: Peer) -> Iterator[tuple[str, type[ctypes.Structure], dict[str, int], HeapImage, int]]:
    """An object of each kind: the structure of its header, what each field must hold, and where it is."""
    peer.load(LIVE)
    previous = 0
    for export, data, kind, size, more in (
        ("cell", VMDrcHeader, VMGcKind.STRUCT_REF, 32, {}),
        ("list", VMDrcArrayHeader, VMGcKind.ARRAY_REF, 28 + 4 * 77, {"length": 77}),
        ("small", VMDrcHeader, VMGcKind.STRUCT_REF, 32, {}),
    ):
        peer.call(export)
        image = peer.image()
        (index, *_) = image.list_order()
        fields = {"kind_and_reserved": kind | LISTED, "ref_count": 2, "object_size": size, **more}
        yield export, data, {**fields, "next_over_approximated_stack_root": previous}, image, index
        previous = index
    ids = []
    for value in ("a value", "another"):
        peer.call("outside", value)
        peer.collect()
        peer.call("outside", None)
        peer.call("outside", value)
        image = peer.image()
        (index, *_) = image.list_order()
        fields = {
            "kind_and_reserved": VMGcKind.EXTERN_REF | LISTED,
            "type_index": layout.EXTERNREF_TYPE_INDEX,
            "ref_count": 3,  # the list's, the global's, and the host's handle
            "object_size": ctypes.sizeof(VMDrcExternRef),
        }
        ids.append(read(image, index, VMDrcExternRef, "host_data_id"))
        yield f"outside {value}", VMDrcExternRef, fields, image, index
    assert all(0 <= each < 8 for each in ids), "host data has small ids"
    if peer.version == "37.0.0":  # whose wheel cannot switch exceptions on
        return
    peer.load(THROWER)
    peer.call("throw")
    image = peer.image()
    (index,) = image.list_order()
    fields = {"kind_and_reserved": VMGcKind.EXN_REF | LISTED, "object_size": 40, "tag_defined": 1}
    yield "throw", VMDrcExnHeader, fields, image, index


def read(image: HeapImage, index: int, data: type[ctypes.Structure], name: str) -> int:
    field: Any = getattr(data, name)
    return int.from_bytes(image.data[index + field.offset : index + field.offset + field.size], "little")


@pytest.mark.parametrize("version", VERSIONS)
def test_headers_of_live_objects(peers: Callable[[str], Peer], version: str) -> None:
    seen = set()
    for what, data, fields, image, index in live_objects(peers(version)):
        found = {name: read(image, index, data, name) for name in fields}
        assert found == fields, f"{what} at {index:#x}"
        assert index % layout.BLOCK_ALIGN == 0
        assert index >= layout.FIRST_INDEX
        seen.add(data)
        if what == "cell":
            start = index + layout.HEADER_SIZE
            assert image.data[start : start + 8] == bytes.fromhex("8877665544332211")
        if what == "list":
            start = index + layout.ARRAY_HEADER_END
            assert image.data[start : start + 4 * 77] == bytes.fromhex("88776655") * 77
        if what == "small":
            word = int.from_bytes(image.data[index + layout.HEADER_SIZE :][:4], "little")
            assert word == layout.i31_from_int(-5)
        if what == "throw":
            start = index + layout.EXCEPTION_FIELDS_OFFSET
            assert image.data[start : start + 4] == bytes.fromhex("88776655")
    assert seen >= {VMDrcHeader, VMDrcArrayHeader, VMDrcExternRef}


@pytest.mark.parametrize("version", ["37.0.0", "43.0.0"])
def test_constants_of_a_live_heap(peers: Callable[[str], Peer], version: str) -> None:
    """Where the first block is, how blocks are aligned, the bits, and which object is the list's head."""
    peer = peers(version)
    peer.load(LIVE)
    assert peer.image().probe[0] == layout.FIRST_INDEX
    peer.call("cell")
    listed = peer.image()
    (index,) = listed.list_order()
    assert listed.list_head == index, "over_approximated_stack_roots"
    assert VMDrcHeapData.over_approximated_stack_roots.offset == 0
    word = read(listed, index, VMGcHeader, "kind_and_reserved")
    assert word & layout.KIND_MASK == VMGcKind.STRUCT_REF
    assert word & layout.RESERVED_MASK == layout.HEADER_IN_OVER_APPROX_LIST_BIT
    peer.collect()
    assert read(peer.image(), index, VMGcHeader, "kind_and_reserved") == VMGcKind.STRUCT_REF
    peer.call("list")
    following = peer.image().list_order()[0]
    assert following == index + layout.block_length(32), "blocks lie side by side"


def test_the_headers_are_the_same_in_c_and_llvm(tmp_path: Path) -> None:
    """Of each header that the tests above have found in wasmtime, by ctypes' offsets: every field, three ways."""
    expressions, expected, in_llvm = [], [], []
    target_data = target_machine().target_data
    for data in (VMGcHeader, VMDrcHeader, VMDrcArrayHeader, VMDrcExternRef, VMDrcExnHeader, VMDrcHeapData):
        kind = llvm_structure(data)
        for position, (path, offset, _) in enumerate(member for member in members(data) if len(member[0]) == 1):
            expressions.append(f"offsetof({data.__name__}, {path[0]})")
            expected.append(offset)
            assert isinstance(kind, ir.LiteralStructType)
            in_llvm.append(kind.get_element_offset(target_data, position))
        expressions += [f"sizeof({data.__name__})", f"_Alignof({data.__name__})"]
        expected += [ctypes.sizeof(data), ctypes.alignment(data)]
        in_llvm += [kind.get_abi_size(target_data), kind.get_abi_alignment(target_data)]
    assert list(map(int, run_c(print_numbers(expressions), tmp_path))) == expected == in_llvm


# ----------------------------------------------------------------------------------------------------------------------
# Types drawn at random


def problems_of(peer: Peer, batch: list[DrawnType], directory: Path) -> list[str]:
    """Whatever the sides do not agree on."""
    text = types.source(batch)
    layouts = types.lowheap_layouts(text, len(batch))
    ours = [types.figures(each) for each in layouts]
    problems = []
    for number, (drawn, mine) in enumerate(zip(batch, ours, strict=True)):
        in_ctypes = types.same_in_ctypes(drawn)
        if in_ctypes not in (None, mine):
            problems.append(f"type {number}: {mine} in lowheap, {in_ctypes} in ctypes")
        if (in_llvm := types.llvm_figures(drawn)) != mine:
            problems.append(f"type {number}: {mine} in lowheap, {in_llvm} in LLVM")
    declarations, expressions = types.c_program(batch)
    in_c = list(map(int, run_c(declarations + print_numbers(expressions), directory)))
    for expression, theirs, value in zip(expressions, in_c, types.flat(batch, ours), strict=True):
        if theirs != value:
            problems.append(f"{expression} is {value} in lowheap, {theirs} in C")
    return problems + types.live_problems(peer, batch, layouts, text)


@pytest.mark.long
@pytest.mark.parametrize(("version", "examples"), [("43.0.0", 6), ("37.0.0", 2), ("45.0.0", 2)])
def test_random_types(
    peers: Callable[[str], Peer], version: str, examples: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Batches of 24 types, compiled and made at once."""
    peer = peers(version)

    @seed(SEED)
    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=False, suppress_health_check=list(HealthCheck)
    )
    @given(batch=batches(24, has_exceptions=version != "37.0.0"))
    def run(batch: list[DrawnType]) -> None:
        note(f"seed {SEED}")
        assert problems_of(peer, batch, tmp_path_factory.mktemp("types")) == []

    run()


EVERY_STORAGE = [
    DrawnType("struct", []),
    DrawnType("array", ["i8"], values=[3]),
    DrawnType("struct", list(types.STORAGES), values=[10 + number for number in range(len(types.STORAGES))]),
    DrawnType("struct", ["i8", "i64", "i8", "v128", "i16", "anyref", "f64"], values=list(range(1, 8))),
    *(DrawnType("array", [storage], values=[40 + number]) for number, storage in enumerate(types.STORAGES)),
]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_storage_type(peers: Callable[[str], Peer], version: str, tmp_path: Path) -> None:
    assert problems_of(peers(version), EVERY_STORAGE, tmp_path) == []


# ----------------------------------------------------------------------------------------------------------------------
# The comparison can fail


def moved(offset: int) -> Any:
    original = GcTypeLayouts._fields_layout

    def layout_of(fields: Any, start: int, *, is_exception: bool = False, is_hidden: bool = False) -> Any:
        return original(fields, start + offset, is_exception=is_exception, is_hidden=is_hidden)

    return staticmethod(layout_of)


def untraced(fields: Any, start: int, *, is_exception: bool = False, is_hidden: bool = False) -> Any:
    return _ORIGINAL([(size, False) for size, _ in fields], start, is_exception=is_exception, is_hidden=is_hidden)


def all_words_traced(fields: Any, start: int, *, is_exception: bool = False, is_hidden: bool = False) -> Any:
    return _ORIGINAL([(size, size == 4) for size, _ in fields], start, is_exception=is_exception, is_hidden=is_hidden)


def four_byte_alignment(fields: Any, start: int, *, is_exception: bool = False, is_hidden: bool = False) -> Any:
    return _ORIGINAL(
        [(min(size, 4), traced) for size, traced in fields], start, is_exception=is_exception, is_hidden=is_hidden
    )


_ORIGINAL = GcTypeLayouts._fields_layout


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (moved(8), {"C", "LLVM", "wasmtime"}),
        (moved(4), {"C", "LLVM", "wasmtime"}),
        (staticmethod(untraced), {"wasmtime"}),
        (staticmethod(all_words_traced), {"wasmtime"}),
        (staticmethod(four_byte_alignment), {"C", "LLVM", "wasmtime"}),
    ],
    ids=["offset by 8", "offset by 4", "nothing traced", "too much traced", "alignment of 4"],
)
def test_a_wrong_layout_is_caught(
    peers: Callable[[str], Peer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, caught: set[str]
) -> None:
    monkeypatch.setattr(GcTypeLayouts, "_fields_layout", fault)
    problems = problems_of(peers("43.0.0"), EVERY_STORAGE[:4], tmp_path)
    for side in caught:
        assert any(f"in {side}" in problem for problem in problems), side
