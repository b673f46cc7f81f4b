from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lowheap as lh
from lowheap import peers
from lowheap.layout import (
    BLOCK_ALIGN,
    EXTERNREF_TYPE_INDEX,
    FIRST_INDEX,
    HEADER_IN_OVER_APPROX_LIST_BIT,
    HEADER_SIZE,
    VMDrcHeader,
    VMGcKind,
)
from lowheap.peers import (
    PROBE_WAT,
    VERSIONS,
    AmbiguousListError,
    HeapImage,
    HeapNotFoundError,
    Peer,
    PeerCrashedError,
    PeerError,
    PeerInstallError,
    PeerTimeoutError,
    PeerTrap,
    UnsupportedPeerError,
    driver,
    run_probe,
    signatures,
)
from lowheap.snapshot import Image
from lowheap.wasm.decode import decode

EXAMPLES = Path(__file__).parents[1] / "examples"

# The first index behind the probe's two objects, of 48 bytes each.
AFTER_PROBE = 112

STRUCT = VMGcKind.STRUCT_REF | HEADER_IN_OVER_APPROX_LIST_BIT
ARRAY = VMGcKind.ARRAY_REF | HEADER_IN_OVER_APPROX_LIST_BIT
EXTERN = VMGcKind.EXTERN_REF | HEADER_IN_OVER_APPROX_LIST_BIT

PAIR = """
(module
  (type $pair (struct (field i64) (field (mut (ref null $pair)))))
  (type $list (array (mut anyref)))
  (type $numbers (array (mut i32)))
  (global $first (mut (ref null $pair)) (ref.null $pair))
  (global $second (mut (ref null $pair)) (ref.null $pair))
  (global $list (mut (ref null $list)) (ref.null $list))
  (global $numbers (mut (ref null $numbers)) (ref.null $numbers))
  (global $extern (mut externref) (ref.null extern))
  (func (export "two") (param i64 i64)
    (global.set $first (struct.new $pair (local.get 0) (ref.null $pair)))
    (global.set $second (struct.new $pair (local.get 1) (global.get $first))))
  (func (export "garbage") (param $count i32)
    (loop $again
      (drop (struct.new $pair (i64.const 7) (ref.null $pair)))
      (br_if $again (local.tee $count (i32.sub (local.get $count) (i32.const 1))))))
  (func (export "drop_second") (global.set $second (ref.null $pair)))
  (func (export "list") (param i32) (param i32)
    (global.set $list (array.new $list (ref.i31 (local.get 0)) (local.get 1))))
  (func (export "hold") (param i32)
    (array.set $list (global.get $list) (local.get 0) (global.get $first)))
  (func (export "numbers") (param $count i32) (local $at i32)
    (global.set $numbers (array.new_default $numbers (local.get $count)))
    (loop $again
      (array.set $numbers (global.get $numbers) (local.get $at) (i32.mul (local.get $at) (i32.const 2654435761)))
      (br_if $again
        (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $count)))))
  (func (export "extern") (param externref) (global.set $extern (local.get 0)))
  (func (export "get_extern") (result externref) (global.get $extern))
  (func (export "null") (result i64) (struct.get $pair 0 (ref.null $pair)))
  (func (export "beyond") (drop (array.get $list (global.get $list) (i32.const 1000000))))
  (func (export "cast") (drop (ref.cast (ref $list) (ref.i31 (i32.const 1)))))
  (func (export "unreachable") unreachable)
  (func (export "exhaust") (loop $again (call 4 (i32.const 1) (i32.const 100000000)) (br $again)))
  (func (export "spin") (loop $again (br $again)))
  (func (export "any") (param anyref) (result i32) (ref.test (ref i31) (local.get 0)))
  (func (export "values") (param i32 i64 f32 f64 externref) (result externref f64 f32 i64 i32)
    (local.get 4) (local.get 3) (local.get 2) (local.get 1) (local.get 0)))
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, Peer]]:
    """One process for each version, for all the tests that leave theirs intact."""
    opened: dict[str, Peer] = {}
    yield opened
    for peer in opened.values():
        peer.close()


def loaded(processes: dict[str, Peer], version: str, source: peers.peer.Source, **more: Any) -> Peer:
    if version not in processes:
        processes[version] = Peer(version, "(module)")
    processes[version].load(source, **more)
    return processes[version]


@pytest.fixture(params=VERSIONS)
def peer(request: pytest.FixtureRequest, processes: dict[str, Peer]) -> Peer:
    """A peer with `PAIR` in it."""
    return loaded(processes, request.param, PAIR)


def words(image: HeapImage, index: int) -> tuple[int, int, int, int]:
    """What a header says that does not depend on the type index: kind word, count, next, size."""
    header = image.header(index)
    return (
        header.kind_and_reserved,
        header.ref_count,
        header.next_over_approximated_stack_root,
        header.object_size,
    )


# What is in the heap


def test_two_objects(peer: Peer) -> None:
    assert peer.call("two", 0x0123456789ABCDEF, -2) == ()
    image = peer.image()
    first, second = AFTER_PROBE, AFTER_PROBE + 48
    # The read of the first for the second's field found it listed; so three hold it: list, global, field.
    assert words(image, first) == (0xB0000002, 3, 0, 40)
    assert words(image, second) == (0xB0000002, 2, first, 40)
    assert image.data[first + 24 : first + 36] == struct.pack("<QI", 0x0123456789ABCDEF, 0)
    assert image.data[second + 24 : second + 36] == struct.pack("<qI", -2, first)
    assert image.header(first).type_index == image.header(second).type_index
    assert image.list_head == second
    assert image.list_order() == image.derived_list_order() == (second, first)
    assert image.source == f"wasmtime {peer.version}"
    assert image.version == peer.version
    assert image.first_index == FIRST_INDEX
    assert len(image.data) == 1 << 16
    assert image.base_address % 4096 == 0


def test_arrays_externrefs_and_i31(peer: Peer) -> None:
    marker = object()
    peer.call("two", 1, 2)
    peer.call("list", -3, 5)
    peer.call("hold", 4)
    image = peer.image()
    array = image.list_order()[0]
    assert words(image, array) == (ARRAY, 2, AFTER_PROBE + 48, 28 + 5 * 4)
    i31 = (-3 << 1 | 1) & 0xFFFFFFFF
    assert struct.unpack_from("<6I", image.data, array + 24) == (5, i31, i31, i31, i31, AFTER_PROBE)
    assert image.header(AFTER_PROBE).ref_count == 4  # the array too
    peer.call("extern", marker)
    image = peer.image()
    external = image.list_order()[0]
    header = image.header(external)
    assert (header.kind_and_reserved, header.type_index) == (EXTERN, EXTERNREF_TYPE_INDEX)
    assert header.object_size == 32
    assert image.list_order() == image.derived_list_order() == (external, array, AFTER_PROBE + 48, AFTER_PROBE)
    assert peer.call("get_extern") == (marker,)


def test_collection(peer: Peer) -> None:
    peer.call("two", 1, 2)
    peer.call("garbage", 3)
    before = peer.image()
    assert len(before.list_order()) == 5
    peer.collect()
    after = peer.image()
    assert after.list_head == 0
    assert after.list_order() == after.derived_list_order() == ()
    assert words(after, AFTER_PROBE)[:2] == (VMGcKind.STRUCT_REF, 2)
    assert words(after, AFTER_PROBE + 48)[:2] == (VMGcKind.STRUCT_REF, 1)
    peer.call("drop_second")
    image = peer.image()
    assert words(image, AFTER_PROBE)[:2] == (VMGcKind.STRUCT_REF, 1)
    # What was freed is used again, and at the lowest address by first fit.
    peer.call("garbage", 1)
    image = peer.image()
    assert image.list_order() == image.derived_list_order()
    (again,) = image.list_order()
    assert again in range(AFTER_PROBE + 48, AFTER_PROBE + 48 * 5, 48)
    if peer.version != "45.0.0":
        assert again == AFTER_PROBE + 48


def test_an_image_after_growth_is_complete(peer: Peer) -> None:
    count = 300_000
    peer.call("two", 5, 6)
    small = peer.image()
    peer.call("numbers", count)
    image = peer.image()
    assert len(image.data) > len(small.data)
    assert len(image.data) >= 4 * count
    assert image.base_address == small.base_address
    index = image.list_order()[0]
    assert words(image, index)[:2] == (ARRAY, 2)
    length, *elements = struct.unpack_from(f"<I{count}I", image.data, index + 24)
    assert length == count
    assert elements == [at * 2654435761 & 0xFFFFFFFF for at in range(count)]
    # And what was there before still is.
    assert image.data[AFTER_PROBE + 24 : AFTER_PROBE + 32] == small.data[AFTER_PROBE + 24 : AFTER_PROBE + 32]


def test_many_objects_are_one_list(peer: Peer) -> None:
    count = 3000
    peer.call("garbage", count)
    image = peer.image()
    assert image.list_order() == image.derived_list_order()
    if peer.version == "45.0.0":  # collects before it grows the heap
        assert len(image.data) == 1 << 16
        assert len(image.list_order()) < count
    else:
        assert len(image.data) == 1 << 18
        assert len(image.list_order()) == count
    assert Image.from_wasmtime(image.data, list_head=image.list_head).over_approximated_list() == [*image.list_order()]


@pytest.mark.parametrize("version", ["43.0.0", "45.0.0"])
def test_exceptions(processes: dict[str, Peer], version: str) -> None:
    thrower = """
      (module
        (tag $tag (param i64 i32))
        (global $held (mut exnref) (ref.null exn))
        (func (export "throw") (param i64)
          (block $caught (result i64 i32 exnref)
            (try_table (result i64 i32 exnref) (catch_ref $tag $caught)
              (throw $tag (local.get 0) (i32.const 7))))
          (global.set $held) (drop) (drop)))"""
    peer = loaded(processes, version, thrower)
    peer.call("throw", -9)
    image = peer.image()
    (index,) = image.list_order()
    # The list and the global hold it; the third count these releases never give back, once an exception is caught.
    assert words(image, index)[:2] == (VMGcKind.EXN_REF | HEADER_IN_OVER_APPROX_LIST_BIT, 3)
    assert image.data[index + 32 : index + 44] == struct.pack("<qi", -9, 7)


# The probe


def test_the_probe_leaves_what_is_said(peer: Peer) -> None:
    image = peer.image()
    assert image.probe == (FIRST_INDEX, FIRST_INDEX + 48)
    first, second = image.probe
    assert words(image, first)[0::3] == words(image, second)[0::3] == (VMGcKind.STRUCT_REF, 40)
    assert [image.header(index).ref_count for index in image.probe] == [2, 1]
    assert image.data[first + 24 : first + 36] == struct.pack("<QI", peer.marks[0], 0)
    assert image.data[second + 24 : second + 36] == struct.pack("<QI", peer.marks[1], first)
    assert image.list_order() == ()
    assert not any(image.data[AFTER_PROBE:])


def test_marks_are_new_with_every_program(peer: Peer) -> None:
    seen = {peer.marks}
    for _ in range(3):
        peer.load(PAIR)
        assert peer.marks[0] != peer.marks[1]
        assert all(0 < mark < 1 << 64 for mark in peer.marks)
        seen.add(peer.marks)
    assert len({mark for marks in seen for mark in marks}) == 8


def test_the_same_probe_in_lowheap(peer: Peer) -> None:
    store = lh.Store(allocator="first-fit")
    probe = lh.Instance(store, lh.Module(store.engine, PROBE_WAT), imports={})
    run_probe(lambda export, *arguments: probe.exports[export](*arguments), store.collect, peer.marks)
    data = store.snapshot().data
    assert len(data) == AFTER_PROBE
    assert data == peer.image().data[:AFTER_PROBE]


def test_the_driver_agrees_with_the_layout() -> None:
    packed = driver.HEADER.pack(VMGcKind.STRUCT_REF | 2, 3, 4, 5, 6)
    header = VMDrcHeader.from_buffer_copy(packed)
    assert (header.kind_and_reserved, header.type_index, header.ref_count) == (VMGcKind.STRUCT_REF | 2, 3, 4)
    assert (header.next_over_approximated_stack_root, header.object_size) == (5, 6)
    assert driver.HEADER.size == HEADER_SIZE
    assert (driver.BLOCK_ALIGN, driver.FIRST_INDEX) == (BLOCK_ALIGN, FIRST_INDEX)
    assert driver.STRUCT_KIND_WORD == VMGcKind.STRUCT_REF


def test_the_driver_needs_nothing_of_lowheap() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import driver; print('lowheap' in sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program, str(Path(driver.__file__).parent)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


# Finding the heap


def planted(marks: tuple[int, int], at: tuple[int, int] = (16, 64), size: int = 4096) -> bytearray:
    """The bytes of a heap with the probe's objects, which say that they are at 16 and 64."""
    data = bytearray(size)
    word = VMGcKind.STRUCT_REF
    driver.MARK.pack_into(data, at[0], word, 3, 2, 0, 40, marks[0], 0)
    driver.MARK.pack_into(data, at[1], word, 3, 1, 0, 40, marks[1], 16)
    return data


MARKS = (0x1122334455667788, 0x99AABBCCDDEEFF00)


def test_a_heap_is_found_among_copies_of_its_marks() -> None:
    strays = bytearray(4096)
    struct.pack_into("<QQ", strays, 40, *MARKS)
    struct.pack_into("<QQ", strays, 88, *MARKS)
    mappings = [(0x1000, bytes(strays)), (0x7000, bytes(planted(MARKS))), (0x9000, b"")]
    assert driver.find_heap(mappings, MARKS) == (0x7000, (16, 64))


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [
        (16, VMGcKind.ARRAY_REF, "kind word"),
        (16, VMGcKind.STRUCT_REF | 2, "kind word"),
        (68, 4, "type indices differ"),
        (24, 5, "count of object 0"),
        (36, 48, "size"),
        (64 + 32, 32, "reference of object 1"),
        (40, 1, "no mapping has both marks"),
        (64 + 24, 1, "no mapping has both marks"),
    ],
)
def test_what_is_no_heap_is_refused(offset: int, value: int, said: str) -> None:
    data = planted(MARKS)
    struct.pack_into("<I", data, offset, value)
    with pytest.raises(driver.HeapNotFound, match=said):
        driver.find_heap([(0x7000, bytes(data))], MARKS)


def test_a_mapping_that_does_not_start_at_index_0_is_refused() -> None:
    shifted = planted(MARKS, at=(32, 80))
    with pytest.raises(driver.HeapNotFound, match="reference of object 1"):
        driver.find_heap([(0x7000, bytes(shifted))], MARKS)
    with pytest.raises(driver.HeapNotFound, match="no mapping"):  # not aligned
        driver.find_heap([(0x7000, bytes(planted(MARKS))[8:])], MARKS)


def test_two_heaps_are_refused() -> None:
    data = bytes(planted(MARKS))
    with pytest.raises(driver.HeapNotFound, match="2 places"):
        driver.find_heap([(0x7000, data), (0x9000, data)], MARKS)


def test_private_mappings() -> None:
    maps = """\
55d0-55d8 rw-p 00000000 00:00 0                          [heap]
7000-7100 rw-p 00000000 00:00 0
7100-7300 rw-p 00000000 00:00 0
7300-7400 ---p 00000000 00:00 0
7400-7500 rw-p 00000000 08:01 1234                       /some file
7500-7600 rw-s 00000000 00:01 77                         /dev/zero (deleted)
7600-7700 rw-p 00000000 00:00 0
8000-8100 rw-p 00000000 00:00 0                          [stack]
"""
    expected = [(0x55D0, 0x55D8, "[heap]"), (0x7000, 0x7300, ""), (0x7600, 0x7700, ""), (0x8000, 0x8100, "[stack]")]
    assert driver.private_mappings(maps) == expected


@pytest.mark.parametrize("offset", [16, 24, 36, 40, 64 + 24, 64 + 32], ids=hex)
def test_a_spoiled_mark_is_noticed(processes: dict[str, Peer], offset: int) -> None:
    peer = loaded(processes, "43.0.0", PAIR)
    address = peer.image().base_address + offset
    memory = os.open(f"/proc/{peer.process_id}/mem", os.O_RDWR)
    try:
        (byte,) = os.pread(memory, 1, address)
        os.pwrite(memory, bytes([byte ^ 4]), address)
        with pytest.raises(HeapNotFoundError, match=r"wasmtime 43\.0\.0: .* is not the GC heap any more"):
            peer.image()
        os.pwrite(memory, bytes([byte]), address)
    finally:
        os.close(memory)
    peer.image()


# The list


def image_of(data: bytes | bytearray, list_head: int | None = None) -> HeapImage:
    return HeapImage(bytes(data), FIRST_INDEX, "a test", "43.0.0", 0x1000, (16, 64), list_head)


def listed(links: dict[int, int], object_size: int = 32) -> bytearray:
    data = bytearray(4096)
    for index, next_ in links.items():
        driver.HEADER.pack_into(data, index, STRUCT, 0, 1, next_, object_size)
    return data


@given(st.lists(st.integers(1, 120), unique=True))
def test_a_list_is_derived_from_its_links(places: list[int]) -> None:
    order = [place * 32 for place in places]
    data = listed(dict(itertools.pairwise([*order, 0])))
    assert image_of(data).list_order() == tuple(order)
    assert image_of(data, order[0] if order else 0).list_order() == tuple(order)


@pytest.mark.parametrize(
    "links",
    [
        {32: 0, 64: 0},  # two lists
        {32: 96, 64: 96, 96: 0},  # two that lead to one
        {32: 64, 64: 32},  # a ring
        {32: 64, 64: 32, 96: 0},  # a ring and a list
    ],
    ids=str,
)
def test_an_ambiguous_list_is_refused(links: dict[int, int]) -> None:
    with pytest.raises(AmbiguousListError):
        image_of(listed(links)).list_order()


def test_a_listed_object_within_another_is_refused() -> None:
    assert image_of(listed({32: 96, 96: 0}, object_size=64)).list_order() == (32, 96)
    with pytest.raises(AmbiguousListError, match="0x50 is inside of another block"):
        image_of(listed({32: 80, 80: 0}, object_size=64)).list_order()


def test_what_only_looks_listed_is_left_out() -> None:
    data = listed({32: 64, 64: 0, 128: 200 * 16, 192: 128})  # the last two lead nowhere
    driver.HEADER.pack_into(data, 256, STRUCT, 0, 0, 0, 32)  # no count
    driver.HEADER.pack_into(data, 288, STRUCT, 0, 1, 0, 5000)  # beyond the end
    driver.HEADER.pack_into(data, 328, STRUCT, 0, 1, 0, 32)  # not aligned
    assert image_of(data).list_order() == (32, 64)


@pytest.mark.parametrize(
    ("links", "head", "said"),
    [({32: 64, 64: 32}, 32, "comes back to 0x20"), ({32: 96}, 32, "leads to 0x60"), ({}, 24, "leads to 0x18")],
)
def test_a_broken_list_is_refused(links: dict[int, int], head: int, said: str) -> None:
    with pytest.raises(AmbiguousListError, match=said):
        image_of(listed(links), head).list_order()


def test_a_header_is_where_a_block_can_be() -> None:
    image = image_of(bytes(4096))
    for index in (0, 8, 24, 4096 - 16, -16):
        with pytest.raises(ValueError, match="is not the index of a block"):
            image.header(index)
    assert image.header(4096 - 32).object_size == 0


# Calls


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ("unreachable", "wasm `unreachable` instruction executed"),
        ("null", "null reference"),
        ("beyond", "out of bounds array access"),
        ("cast", "cast failure"),
    ],
)
def test_traps(peer: Peer, export: str, message: str) -> None:
    peer.call("two", 1, 2)
    peer.call("list", 1, 2)
    with pytest.raises(PeerTrap) as caught:
        peer.call(export)
    assert caught.value.message == message
    assert "wasm backtrace" in caught.value.text
    assert len(peer.image().list_order()) == 3


def test_an_exhausted_heap_is_a_trap(processes: dict[str, Peer]) -> None:
    peer = loaded(processes, "43.0.0", PAIR)
    with pytest.raises(PeerTrap, match=r"(?i)gc heap out of memory|allocation size too large"):
        peer.call("list", 1, 0x3FFFFFFF)
    peer.image()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-(2**31), 2**32 - 1), st.integers(-(2**63), 2**64 - 1), st.floats(width=32), st.floats(), st.booleans()
)
def test_values_come_back(
    shared_values: Peer, small: int, large: int, single: float, double: float, is_null: bool
) -> None:
    thing = None if is_null else object()
    returned = shared_values.call("values", small, large, single, double, thing)
    assert returned[0] is thing
    for found, expected in zip(returned[1:3], (double, single), strict=True):
        assert math.copysign(1, found) == math.copysign(1, expected)
        assert found == expected or (math.isnan(found) and math.isnan(expected))
    assert returned[3] == (large + 2**63) % 2**64 - 2**63
    assert returned[4] == (small + 2**31) % 2**32 - 2**31


@pytest.fixture(scope="module")
def shared_values(processes: dict[str, Peer]) -> Iterator[Peer]:
    with Peer("43.0.0", PAIR) as peer:
        yield peer


def test_wrong_arguments(processes: dict[str, Peer]) -> None:
    peer = loaded(processes, "43.0.0", PAIR)
    with pytest.raises(TypeError, match="takes 2 values"):
        peer.call("two", 1)
    with pytest.raises(TypeError, match=r"an i64 is an int, not 1\.5"):
        peer.call("two", 1, 1.5)
    with pytest.raises(ValueError, match="4294967296 is not an i32"):
        peer.call("list", 1, 1 << 32)
    with pytest.raises(TypeError, match="an f64 is a float"):
        peer.call("values", 1, 1, 1.0, "1", None)
    with pytest.raises(PeerError, match="no exported function 'three'"):
        peer.call("three")
    with pytest.raises(PeerError, match=r"'any' takes or gives a \(ref null any\)"):
        peer.call("any", None)
    assert peer.call("two", 1, 2) == ()


@pytest.mark.parametrize("version", VERSIONS)
def test_refused_modules(processes: dict[str, Peer], version: str) -> None:
    peer = loaded(processes, version, PAIR)
    for source in ("(module (func (result i32)))", "(module", b"\0asm\1\0\0\0\xff", "(module (func (type 9)))"):
        with pytest.raises(PeerError, match=f"wasmtime {version}: "):
            peer.load(source)
        assert peer.exports == ()
    with pytest.raises(PeerTrap) as caught:
        peer.load("(module (func $start unreachable) (start $start))")
    assert "unreachable" in caught.value.message
    peer.load(PAIR)
    assert peer.call("two", 1, 2) == ()


def test_sources(tmp_path: Path, processes: dict[str, Peer]) -> None:
    text = '(module (func (export "five") (result i32) (i32.const 5)))'
    binary = bytes.fromhex(
        "0061736d010000000105016000017f030201000708010466697665000 00a0601040041050b".replace(" ", "")
    )
    (tmp_path / "a.wat").write_text(text)
    (tmp_path / "a.wasm").write_bytes(binary)
    for source in (text, text.encode(), binary, tmp_path / "a.wat", tmp_path / "a.wasm"):
        peer = loaded(processes, "43.0.0", source)
        assert peer.exports == ("five",)
        assert peer.call("five") == (5,)


# Host functions and companions

HOST = """
(module
  (import "host" "wait" (func $wait (param i32 externref) (result f64 i64)))
  (import "host" "note" (func $note))
  (import "wasm" "pair" (func $make (param i64) (result (ref struct))))
  (type $pair (struct (field i64)))
  (func (export "hold") (param i64) (param externref) (result f64 i64 i64) (local $held (ref null $pair))
    (local.set $held (struct.new $pair (local.get 0)))
    (call $wait (i32.const 11) (local.get 1))
    (call $note)
    (struct.get $pair 0 (local.get $held)))
  (func (export "made") (param i64) (result i64)
    (struct.get $pair 0 (ref.cast (ref $pair) (call $make (local.get 0)))))
  (func (export "nested") (param i32) (result f64 i64) (call $wait (local.get 0) (ref.null extern))))
"""
COMPANION = """
(module
  (type $pair (struct (field i64)))
  (func (export "pair") (param i64) (result (ref struct)) (struct.new $pair (local.get 0))))
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_host_functions_see_the_heap_with_frames_on_the_stack(processes: dict[str, Peer], version: str) -> None:
    marker = object()
    seen: list[Any] = []

    def wait(number: int, thing: object) -> tuple[float, int]:
        before = wasmtime.image()
        wasmtime.collect()
        after = wasmtime.image()
        seen.append((number, thing, before.list_order(), after.list_order(), after.derived_list_order()))
        return 2.5, -1

    wasmtime: Peer = loaded(
        processes,
        version,
        HOST,
        imports={"host.wait": wait, "host.note": lambda: seen.append(wasmtime.image().list_order())},
        companions={"wasm": COMPANION},
    )
    assert wasmtime.call("hold", 99, marker) == (2.5, -1, 99)
    (number, thing, before, after, derived), noted = seen
    assert (number, thing is marker) == (11, True)
    # The struct is only in a local: the collection left it, and it alone, since the externref is not used any more.
    struct_index = before[0]
    assert len(before) == 2
    assert after == derived == noted == (struct_index,)
    wasmtime.collect()
    assert wasmtime.image().list_order() == ()
    assert wasmtime.call("made", 7) == (7,)


def test_host_functions_nest(processes: dict[str, Peer]) -> None:
    def wait(number: int, _thing: object) -> tuple[float, int]:
        if number == 0:
            raise failure
        below = peer.call("nested", number - 1) if number > 1 else (0.0, 0)
        return below[0] + number, below[1] + 1

    failure = LookupError("no more")
    imports = {"host.wait": wait, "host.note": lambda: None}
    peer = loaded(processes, "43.0.0", HOST, imports=imports, companions={"wasm": COMPANION})
    assert peer.call("nested", 4) == (10.0, 4)
    with pytest.raises(LookupError) as caught:
        peer.call("nested", 0)
    assert caught.value is failure
    assert peer.call("nested", 2) == (3.0, 2)


def test_host_functions_that_give_the_wrong_thing(processes: dict[str, Peer]) -> None:
    returned: list[Any] = [(1.0,), 5, ("a", 1), (1.0, 1 << 70)]
    imports = {"host.wait": lambda *_: returned.pop(0), "host.note": lambda: None}
    peer = loaded(processes, "43.0.0", HOST, imports=imports, companions={"wasm": COMPANION})
    for error in (TypeError, TypeError, TypeError, ValueError):
        with pytest.raises(error, match=r"host function 'host\.wait', returning"):
            peer.call("nested", 1)


def test_imports_are_checked(processes: dict[str, Peer]) -> None:
    peer = loaded(processes, "43.0.0", PAIR)
    with pytest.raises(PeerError, match=r"import 'host\.note' is not given; given are \['host\.wait'\]"):
        peer.load(HOST, imports={"host.wait": lambda *_: None})
    everything = {"host.wait": lambda *_: None, "host.note": lambda: None, "wasm.pair": lambda *_: None}
    with pytest.raises(PeerError, match=r"'wasm\.pair' takes or gives a \(ref struct\)"):
        peer.load(HOST, imports=everything)
    with pytest.raises(PeerError, match="only a companion can supply it"):
        peer.load('(module (import "a" "b" (global i32)))', imports={"a.b": lambda: 1})


def test_a_waiting_program_is_not_replaced(processes: dict[str, Peer]) -> None:
    imports = {"host.wait": lambda *_: wasmtime.load(PAIR), "host.note": lambda: None}
    wasmtime: Peer = loaded(processes, "43.0.0", HOST, imports=imports, companions={"wasm": COMPANION})
    with pytest.raises(PeerError, match="cannot be replaced while it waits"):
        wasmtime.call("nested", 1)


# Processes that end


@pytest.mark.parametrize("version", VERSIONS)
def test_a_killed_process(version: str) -> None:
    with Peer(version, PAIR) as peer:
        os.kill(peer.process_id, signal.SIGKILL)
        with pytest.raises(PeerCrashedError, match=r"killed by SIGKILL.*wrote nothing"):
            peer.call("two", 1, 2)
        with pytest.raises(PeerError, match="cannot be used: its process ended"):
            peer.image()


def test_a_crash_comes_with_what_the_process_said() -> None:
    with Peer("43.0.0", PAIR) as peer:
        # Past the check in `call`: what the wheel does when it is asked for a type of the any hierarchy.
        with pytest.raises(
            PeerCrashedError,
            match=r"(?s)killed by SIGABRT.*standard error ends:\n.*non-externref and non-funcref references",
        ):
            peer._request("call", export="any", values=[("i32", 1)], results=["i32"])
        with pytest.raises(PeerError, match="cannot be used"):
            peer.collect()


def test_timeouts() -> None:
    with Peer("43.0.0", PAIR) as peer:
        peer.timeout = 0.2
        with pytest.raises(PeerTimeoutError, match=r"did not answer within 0\.2 s"):
            peer.call("spin")
        with pytest.raises(PeerError, match="cannot be used"):
            peer.call("two", 1, 2)
    for timeout in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="must be a positive number of seconds"):
            Peer("43.0.0", PAIR, timeout=timeout)


def test_closing() -> None:
    peer = Peer("43.0.0", PAIR)
    folder = Path(os.readlink(f"/proc/{peer.process_id}/cwd"))
    assert folder.is_dir()
    with peer:
        pass
    peer.close()
    assert not folder.exists()
    assert not Path(f"/proc/{peer.process_id}").exists()
    with pytest.raises(PeerError, match="it was closed"):
        peer.collect()


# Versions and wheels


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("46.0.0", "copying collector"),
        ("50.0.0", "copying collector"),
        ("36.0.2", "not known"),
        ("43", "not a release"),
    ],
)
def test_unsupported_versions(version: str, said: str) -> None:
    with pytest.raises(UnsupportedPeerError, match=said):
        Peer(version, PAIR)
    with pytest.raises(UnsupportedPeerError, match=said):
        peers.ensure(version)


def make_wheel(folder: Path, version: str) -> None:
    """Write a wheel that looks like wasmtime's, of a version that there is none of."""
    folder.mkdir()
    info = f"wasmtime-{version}.dist-info"
    with zipfile.ZipFile(folder / f"wasmtime-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("wasmtime/__init__.py", "raise ImportError('this is not wasmtime')\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: wasmtime\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def own_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Wheels come from a folder of the test's, and go to another; none is within reach otherwise."""
    make_wheel(tmp_path / "index", "43.9.9")
    monkeypatch.setenv("LOWHEAP_PEERS", str(tmp_path / "peers"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "peers"


def test_installations_do_not_clash(own_wheels: Path) -> None:
    assert peers.folder("43.9.9") == own_wheels / "43.9.9"
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(peers.ensure("43.9.9"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [own_wheels / "43.9.9"] * 3
    assert sorted(entry.name for entry in own_wheels.iterdir()) == [".43.9.9.lock", "43.9.9"]
    stamp = (own_wheels / "43.9.9").stat().st_mtime_ns
    assert peers.ensure("43.9.9").stat().st_mtime_ns == stamp  # not again


def test_a_wheel_that_does_not_work(own_wheels: Path) -> None:
    with pytest.raises(PeerCrashedError, match=r"(?s)exited with status 1.*this is not wasmtime"):
        Peer("43.9.9", PAIR)
    (own_wheels / "43.9.9").rename(own_wheels / "43.9.8")
    (own_wheels / "43.9.8" / "wasmtime" / "__init__.py").write_text("")
    with pytest.raises(PeerError, match=r"standard error|holds wasmtime 43\.9\.9, not 43\.9\.8"):
        Peer("43.9.8", PAIR)


def test_a_wheel_that_cannot_be_got(own_wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerInstallError, match=r"(?s)could not install wasmtime 44\.1\.2.*pip said:.*No matching"):
        peers.ensure("44.1.2")
    assert not peers.folder("44.1.2").exists()
    own_wheels.joinpath("file").write_text("")
    monkeypatch.setenv("LOWHEAP_PEERS", str(own_wheels / "file"))
    with pytest.raises(PeerInstallError, match="LOWHEAP_PEERS can name another place"):
        peers.ensure("43.9.9")


def test_the_command(own_wheels: Path) -> None:
    command = [sys.executable, "-m", "lowheap.peers"]
    done = subprocess.run([*command, "43.9.9"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{own_wheels / '43.9.9'}\n"
    failed = subprocess.run([*command, "46.0.0"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("lowheap.peers: wasmtime 46.0.0 has a copying collector")


# Signatures


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.wat")), ids=lambda path: path.stem)
def test_signatures_agree_with_the_decoder(processes: dict[str, Peer], path: Path) -> None:
    # No program: only its binary.
    binary = loaded(processes, "43.0.0", "(module)")._binary(path)
    found = signatures.read(binary)
    decoded = decode(binary)
    types = [sub.composite for group in decoded.rec_groups for sub in group]
    functions = [types[import_.desc.type_index] for import_ in decoded.imports if hasattr(import_.desc, "type_index")]
    functions += [types[index] for index in decoded.functions]

    def spelled(storage: Any) -> str:
        if not isinstance(storage, lh.RefType):
            return str(storage.value)
        heap_type = storage.heap_type if isinstance(storage.heap_type, int) else storage.heap_type.value
        return f"(ref {'null ' if storage.nullable else ''}{heap_type})"

    assert found.exports == tuple(export.name for export in decoded.exports)
    assert [(import_.module, import_.name) for import_ in found.imports] == [
        (i.module, i.name) for i in decoded.imports
    ]
    for export in decoded.exports:
        if export.kind == "function":
            expected = functions[export.index]
            assert isinstance(expected, lh.FuncType)
            assert found.functions[export.name] == signatures.Signature(
                tuple(map(spelled, expected.params)), tuple(map(spelled, expected.results))
            )


def test_signatures_behind_other_things(processes: dict[str, Peer]) -> None:
    source = """
      (module
        (rec (type $a (sub (struct (field i8) (field (mut (ref null $b)))))) (type $b (sub final (array (mut i16)))))
        (type $c (sub $a (struct (field i8) (field (mut (ref null $b))) (field v128))))
        (import "m" "table" (table 1 2 funcref))
        (import "m" "memory" (memory i64 1 3))
        (import "m" "global" (global (mut (ref null $c))))
        (import "m" "tag" (tag (param i32)))
        (import "m" "function" (func (param (ref $c) v128) (result (ref null nofunc))))
        (func (export "f") (param externref (ref extern) f32) (result i31ref exnref) unreachable)
        (table (export "t") 1 externref)
        (export "again" (func 0)))"""
    binary = loaded(processes, "43.0.0", "(module)")._binary(source)
    found = signatures.read(binary)
    imported = signatures.Signature(("(ref 2)", "v128"), ("(ref null nofunc)",))
    assert [import_.signature for import_ in found.imports] == [None, None, None, None, imported]
    parameters = ("(ref null extern)", "(ref extern)", "f32")
    assert found.functions == {
        "f": signatures.Signature(parameters, ("(ref null i31)", "(ref null exn)")),
        "again": imported,
    }
    assert found.exports == ("f", "t", "again")
    assert found.functions["f"].not_passable == "(ref extern)"
    for end in range(len(binary)):
        with contextlib.suppress(PeerError):  # and nothing else
            signatures.read(binary[:end])


def test_images_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        image_of(b"").data = b""  # type: ignore[misc]
