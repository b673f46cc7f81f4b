"""Roots: host handles, registered slots outside the heap, and whatever compiled code holds.

Handles and slots are counted owners, and live in the control mapping, where `verify()` and compiled code can see them.
What compiled code holds is not counted, and only known by walking its frames: whoever runs compiled code registers a
walker that yields those references.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lowheap.errors import HeapError
from lowheap.heap import DrcHeap
from lowheap.layout import (
    HANDLE_LIMIT,
    I31_SHIFT,
    I31_TAG,
    ROOT_SLOT_LIMIT,
    is_object,
)


class RootKind(enum.Enum):
    """Who holds a root."""

    HANDLE = "handle"
    SLOT = "slot"
    WASM_STACK = "wasm stack"


@dataclass(frozen=True, slots=True)
class Root:
    """One root: who holds it, where (a handle's number, a slot's address; 0 on the stack), and what it refers to."""

    kind: RootKind
    place: int
    reference: int

    @property
    def is_on_wasm_stack(self) -> bool:
        """Whether compiled code holds it, uncounted."""
        return self.kind is RootKind.WASM_STACK


class RootSet:
    """The roots of one heap. Iterating yields each, handles first."""

    def __init__(self, heap: DrcHeap) -> None:
        """Keep the roots of `heap`, in its control mapping."""
        self._heap = heap
        self._stack_walkers: list[Callable[[], Iterable[int]]] = []

    def __iter__(self) -> Iterator[Root]:
        """Yield every root that refers to an object."""
        for number, reference in self._heap.handles():
            yield Root(RootKind.HANDLE, number, reference)
        for address, reference in self._heap.root_slots():
            yield Root(RootKind.SLOT, address, reference)
        for reference in self.wasm_stack():
            yield Root(RootKind.WASM_STACK, 0, reference)

    def add_stack_walker(self, walker: Callable[[], Iterable[int]]) -> None:
        """Register what yields the references that compiled code holds."""
        self._stack_walkers.append(walker)

    def wasm_stack(self) -> Iterator[int]:
        """Yield the objects that compiled code holds; one may come more than once."""
        for walker in self._stack_walkers:
            yield from filter(is_object, walker())

    # Handles. A free entry holds the number of the next free one, tagged as an i31 so that it cannot pass for a
    # reference; `free_handle` in the control block is the first one's number plus 1.

    def create_handle(self, reference: int) -> int:
        """Return the number of a new handle, which takes over the caller's count of `reference`."""
        self._heap.header(reference)
        control = self._heap.control
        if control.free_handle:
            number = control.free_handle - 1
            control.free_handle = self._handle(number).value >> I31_SHIFT
        else:
            number = control.handle_count
            if number == HANDLE_LIMIT:
                raise HeapError(f"no handle is left: all {HANDLE_LIMIT} are in use")
            control.handle_count = number + 1
        self._handle(number).value = reference
        return number

    def handle(self, number: int) -> int:
        """Return the reference that a handle holds, borrowed. HeapError when the handle is not in use."""
        if 0 <= number < self._heap.control.handle_count and is_object(reference := self._handle(number).value):
            return reference
        raise HeapError(f"handle {number} is not in use")

    def release_handle(self, number: int) -> int:
        """Free a handle, and return its reference; its count is the caller's again."""
        reference = self.handle(number)
        control = self._heap.control
        self._handle(number).value = control.free_handle << I31_SHIFT | I31_TAG
        control.free_handle = number + 1
        return reference

    def _handle(self, number: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_address(self._heap.control.handles + number * ctypes.sizeof(ctypes.c_uint32))

    # Slots. An entry is the address of the slot; 0 in an entry that was removed, to be used again.

    def add_slot(self, address: int) -> None:
        """Register a slot (a u32 in memory outside the heap) that counts what it holds. It must outlive its entry."""
        self._heap.check_attached()
        self._check_address(address)
        control = self._heap.control
        count = control.root_slot_count
        for number in range(count):
            if self._slot(number).value == 0:
                self._slot(number).value = address
                return
        if count == ROOT_SLOT_LIMIT:
            raise HeapError(f"no root slot is left: all {ROOT_SLOT_LIMIT} are in use")
        self._slot(count).value = address
        control.root_slot_count = count + 1

    def remove_slot(self, address: int) -> None:
        """Forget a slot; whoever owns it has dropped what it held. HeapError when it was not registered."""
        self._check_address(address)
        for number in range(self._heap.control.root_slot_count):
            if self._slot(number).value == address:
                self._slot(number).value = 0
                return
        raise HeapError(f"{address:#x} is not a registered root slot")

    @staticmethod
    def _check_address(address: int) -> None:
        if not isinstance(address, int) or isinstance(address, bool):
            raise TypeError(f"a root slot's address is {address!r}; it must be an int")
        if not 0 < address < 1 << 64:
            raise HeapError(f"{address:#x} is not the address of a root slot")

    def _slot(self, number: int) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_address(self._heap.control.root_slots + number * ctypes.sizeof(ctypes.c_uint64))
