"""Mapped memory: bounds, the guard, growing in place, views, and unmapping."""

from __future__ import annotations

import ctypes
import mmap
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowheap.errors import HeapError
from lowheap.layout import HEAP_GUARD, HEAP_RESERVATION, MAXIMUM_CAPACITY, FreeBlock
from lowheap.memory import Mapping, Memory

SIZE = 1 << 16


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which it may bring down."""
    root = Path(__file__).parent.parent
    program = f"import sys\nsys.path.insert(0, {str(root)!r})\n{program}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def resident_bytes() -> int:
    """How much memory this process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


# ----------------------------------------------------------------------------------------------------------------------
# Mapping


def test_a_mapping_is_zero_and_page_aligned() -> None:
    mapping = Mapping(SIZE)
    assert mapping.base % mmap.PAGESIZE == 0
    assert mapping.read(0, SIZE) == bytes(SIZE)
    assert mapping.size == SIZE


def test_views_are_live_both_ways() -> None:
    mapping = Mapping(SIZE)
    block = mapping.view(FreeBlock, 32)
    block.length = 0x11223344
    assert mapping.read(36, 4) == bytes.fromhex("44332211")
    mapping.write(40, b"\x05\0\0\0")
    assert block.next == 5
    assert ctypes.addressof(block) == mapping.base + 32


@given(st.integers(0, SIZE), st.binary(max_size=64))
def test_what_was_written_is_read(offset: int, data: bytes) -> None:
    mapping = Mapping(SIZE)
    if offset + len(data) > SIZE:
        with pytest.raises(HeapError, match=f"{offset:#x} to {offset + len(data):#x} are not within .* {SIZE:#x}"):
            mapping.write(offset, data)
        return
    mapping.write(offset, data)
    assert mapping.read(offset, len(data)) == data
    assert ctypes.string_at(mapping.base + offset, len(data)) == data
    mapping.zero(offset, len(data))
    assert mapping.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 1), (0, SIZE + 1), (SIZE, 1), (SIZE - 3, 4), (8, -1), (1 << 70, 1)]
)
def test_bytes_outside_are_refused(offset: int, length: int) -> None:
    mapping = Mapping(SIZE)
    for operation in (mapping.read, mapping.zero):
        with pytest.raises(HeapError, match=f"not within a mapping of {SIZE:#x}"):
            operation(offset, length)


@pytest.mark.parametrize("offset", [-1, SIZE - 15, SIZE, 1 << 40])
def test_views_outside_are_refused(offset: int) -> None:
    with pytest.raises(HeapError, match=f"FreeBlock at {offset:#x} is not within"):
        Mapping(SIZE).view(FreeBlock, offset)


def test_the_last_bytes_can_be_seen() -> None:
    mapping = Mapping(SIZE)
    mapping.view(FreeBlock, SIZE - 16).flags = 7
    assert mapping.read(SIZE - 4, 4) == b"\x07\0\0\0"


def test_discard_makes_zero_and_keeps_the_base() -> None:
    mapping = Mapping(SIZE)
    base = mapping.base
    mapping.write(100, b"text")
    mapping.discard()
    assert mapping.read(0, SIZE) == bytes(SIZE)
    assert mapping.base == base
    mapping.write(0, b"again")
    assert ctypes.string_at(base, 5) == b"again"


def test_close_refuses_while_a_view_exists() -> None:
    mapping = Mapping(SIZE)
    block = mapping.view(FreeBlock, 0)
    with pytest.raises(HeapError, match="while views of it exist"):
        mapping.close()
    assert not mapping.is_closed
    block.length = 3  # still mapped
    del block
    mapping.close()
    assert mapping.is_closed


def test_abandon_unmaps_at_once_or_with_the_last_view() -> None:
    mapping = Mapping(SIZE)
    mapping.abandon()
    assert mapping.is_closed
    mapping = Mapping(SIZE)
    block = mapping.view(FreeBlock, 0)
    mapping.abandon()
    block.length = 3
    assert block.length == 3
    base = mapping.base
    del block, mapping
    addresses = [int(line.split("-")[0], 16) for line in Path("/proc/self/maps").read_text().splitlines()]
    assert base not in addresses


@pytest.mark.parametrize("operation", ["view", "read", "write", "zero", "discard"])
def test_a_closed_mapping_refuses_everything(operation: str) -> None:
    mapping = Mapping(SIZE)
    mapping.close()
    mapping.close()  # once more is nothing
    arguments: dict[str, tuple[Any, ...]] = {
        "view": (FreeBlock, 16),
        "read": (16, 4),
        "write": (16, b"data"),
        "zero": (16, 4),
        "discard": (),
    }
    with pytest.raises(HeapError, match="the memory is unmapped"):
        getattr(mapping, operation)(*arguments[operation])


def test_too_little_address_space_is_a_memory_error() -> None:
    result = run_python(
        "import resource\n"
        "from lowheap.memory import Memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "try:\n    Memory()\nexcept MemoryError as error:\n    print(error)\n"
    )
    assert f"cannot reserve {HEAP_RESERVATION + HEAP_GUARD} bytes" in result.stdout, result.stderr


# ----------------------------------------------------------------------------------------------------------------------
# Memory


def test_the_whole_reservation_is_there_and_costs_nothing() -> None:
    before = resident_bytes()
    memories = [Memory() for _ in range(4)]
    for memory in memories:
        assert memory.size == HEAP_RESERVATION == 1 << 32
        memory.view(ctypes.c_uint32, HEAP_RESERVATION - 4).value = 1  # far beyond the capacity
        assert memory.read(HEAP_RESERVATION - 4, 4) == b"\x01\0\0\0"
    assert resident_bytes() - before < 1 << 24
    for memory in memories:
        memory.close()


@pytest.mark.parametrize("distance", [0, 4096, HEAP_GUARD - 4])
def test_the_guard_faults(distance: int) -> None:
    program = f"""
import ctypes
from lowheap.memory import Memory
memory = Memory()
last = ctypes.c_uint32.from_address(memory.base + {HEAP_RESERVATION - 4})
print("reservation", last.value, flush=True)
print("guard", ctypes.c_uint32.from_address(memory.base + {HEAP_RESERVATION + distance}).value, flush=True)
"""
    result = run_python(program)
    assert result.stdout.split() == ["reservation", "0"]
    assert result.returncode == -signal.SIGSEGV


def test_growing_is_in_place() -> None:
    memory = Memory(SIZE, 4 * SIZE)
    memory.write(SIZE - 4, b"kept")
    base = memory.base
    assert memory.grow(SIZE)
    assert (memory.capacity, memory.base) == (2 * SIZE, base)
    assert memory.read(SIZE - 4, 4) == b"kept"
    assert memory.grow(0)
    assert memory.capacity == 2 * SIZE


def test_growing_stops_at_the_maximum() -> None:
    memory = Memory(SIZE, 4 * SIZE)
    assert not memory.grow(3 * SIZE + 1)
    assert memory.capacity == SIZE, "a growth that fails changes nothing"
    assert memory.grow(3 * SIZE)
    assert not memory.grow(1)
    assert (memory.capacity, memory.maximum) == (4 * SIZE, 4 * SIZE)


def test_growing_by_less_than_nothing_is_refused() -> None:
    memory = Memory(SIZE)
    with pytest.raises(ValueError, match="by -16 bytes"):
        memory.grow(-16)
    for delta in ("16", None, 16.0, True):
        with pytest.raises(TypeError, match=repr(delta)):
            memory.grow(delta)  # type: ignore[arg-type]
    assert memory.capacity == SIZE


def test_default_sizes() -> None:
    memory = Memory()
    assert (memory.capacity, memory.maximum) == (1 << 16, MAXIMUM_CAPACITY)
    assert MAXIMUM_CAPACITY == (1 << 32) - 16


@pytest.mark.parametrize(
    ("initial", "maximum"), [(0, 0), (0, 1), (16, 16), (5, 77), (MAXIMUM_CAPACITY, MAXIMUM_CAPACITY)]
)
def test_sizes_at_the_edges(initial: int, maximum: int) -> None:
    memory = Memory(initial, maximum)
    assert (memory.capacity, memory.maximum) == (initial, maximum)
    memory.close()


@pytest.mark.parametrize(
    ("initial", "maximum"), [(-1, SIZE), (SIZE, SIZE - 1), (0, MAXIMUM_CAPACITY + 1), (1 << 32, 1 << 32), (1, -1)]
)
def test_sizes_out_of_range(initial: int, maximum: int) -> None:
    with pytest.raises(ValueError, match=f"{MAXIMUM_CAPACITY}; got initial {initial}, maximum {maximum}"):
        Memory(initial, maximum)


@pytest.mark.parametrize("value", ["64", None, 64.0, True])
def test_sizes_of_the_wrong_type(value: Any) -> None:
    if value is not None:
        with pytest.raises(TypeError, match=f"initial heap size is {value!r}"):
            Memory(value)
    for initial in (0, None):
        with pytest.raises(TypeError, match=f"maximum heap size is {value!r}"):
            Memory(initial, value)


@pytest.mark.parametrize("maximum", [0, 1, 5000, (1 << 16) + 1, 5 << 20])
def test_a_reservation_for_the_maximum_alone(maximum: int) -> None:
    memory = Memory(maximum=maximum, reserve="maximum")
    assert (memory.capacity, memory.maximum) == (min(maximum, 1 << 16), maximum)
    assert maximum <= memory.size < maximum + (1 << 17)
    memory.view(ctypes.c_uint32, memory.size - 4).value = 1
    with pytest.raises(HeapError, match="not within a mapping"):
        memory.view(ctypes.c_uint32, memory.size)
    memory.close()
    with pytest.raises(ValueError, match="reserve is 'half'; it must be one of 'full', 'maximum'"):
        Memory(reserve="half")


def test_a_small_reservation_has_its_guard() -> None:
    result = run_python(
        "import ctypes\n"
        "from lowheap.memory import Memory\n"
        "memory = Memory(maximum=100, reserve='maximum')\n"
        "print(ctypes.c_uint32.from_address(memory.base + memory.size - 4).value, flush=True)\n"
        "print(ctypes.c_uint32.from_address(memory.base + memory.size).value, flush=True)\n"
    )
    assert (result.stdout, result.returncode) == ("0\n", -signal.SIGSEGV)
