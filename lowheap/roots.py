"""Roots: host handles, registered slots outside the heap, and whatever compiled code holds.

Handles and slots are counted owners, and live in the control mapping, where `verify()` and compiled code can see them.
What compiled code holds is not counted, and only known by walking its frames: whoever runs compiled code registers a
walker that yields those references.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lowheap.collectors.shared import roots
from lowheap.copying import NotCopied
from lowheap.critical import whole, whole_unless_unheard
from lowheap.errors import HeapError
from lowheap.heap import DrcHeap
from lowheap.layout import ROOT_SLOT_LIMIT, is_object
from lowheap.native import tables


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


class RootSet(NotCopied):
    """The roots of one heap. Iterating yields each, handles first."""

    NOT_COPIED_BECAUSE = "it is the roots of one heap; `list` returns them as values"

    def __init__(self, heap: DrcHeap) -> None:
        """Keep the roots of `heap`, in its control mapping."""
        self._heap = heap
        self._stack_walkers: list[Callable[[], Iterable[int]]] = []
        self._first_free = 0  # of the table of slots: what is before it was taken when it was looked at last

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

    # Handles, slots and ranges of slots: `collectors/shared/roots.py` says what their tables have in them.

    @whole_unless_unheard(lambda self, number: self.release_handle(number))
    def create_handle(self, reference: int) -> int:
        """Return the number of a new handle, which takes over the caller's count of `reference`."""
        self._heap.header(reference)
        return roots.take_handle(tables(self._heap.control), reference)

    def handle(self, number: int) -> int:
        """Return the reference that a handle holds, borrowed. HeapError when the handle is not in use."""
        control = self._heap.control
        if 0 <= operator.index(number) < control.handle_count:
            held = roots.handle(tables(control), number).value
            if is_object(held):
                return held
        raise HeapError(f"handle {number} is not in use")

    @whole_unless_unheard(lambda self, reference: self.create_handle(reference))
    def release_handle(self, number: int) -> int:
        """Free a handle, and return its reference; its count is the caller's again."""
        self.handle(number)
        return roots.free_handle(tables(self._heap.control), number)

    @whole
    def add_slot(self, address: int) -> None:
        """Register a slot (a u32 in memory outside the heap) that counts what it holds. It must outlive its entry."""
        self._heap.check_attached()
        self._check_address(address)
        heap = tables(self._heap.control)
        number = roots.free_slot(heap, min(self._first_free, self._heap.control.root_slot_count))
        if number >= ROOT_SLOT_LIMIT:
            number = roots.free_slot(heap, 0)  # compiled code may have given some back
        roots.enter_slot(heap, number, address)
        self._first_free = number + 1

    @whole
    def add_slots(self, addresses: Sequence[int]) -> None:
        """Register several slots; none, where there is no room for all of them."""
        self._heap.check_attached()
        heap, start = tables(self._heap.control), 0
        entered = []
        try:
            for address in addresses:
                self._check_address(address)
                start = roots.free_slot(heap, start)
                roots.enter_slot(heap, start, address)
                entered.append(address)
        except BaseException:
            for address in entered:
                roots.unregister_slot(heap, address)
            raise

    @whole
    def remove_slot(self, address: int) -> None:
        """Forget a slot; whoever owns it has dropped what it held. HeapError when it was not registered."""
        self._check_address(address)
        roots.unregister_slot(tables(self._heap.control), address)
        self._first_free = 0

    @whole
    def add_range(self, address: int) -> None:
        """Register slots that stand in a row, by the address of a `VMTable`, which says where and how many they are.

        Each counts what it holds. Both must outlive their entry.
        """
        self._heap.check_attached()
        self._check_address(address, "root range")
        roots.register_range(tables(self._heap.control), address)

    @whole
    def remove_range(self, address: int) -> None:
        """Forget such slots; whoever owns them has dropped what they held. HeapError when they were not registered."""
        self._check_address(address, "root range")
        roots.unregister_range(tables(self._heap.control), address)

    @staticmethod
    def _check_address(address: int, what: str = "root slot") -> None:
        if not isinstance(address, int) or isinstance(address, bool):
            raise TypeError(f"a {what}'s address is {address!r}; it must be an int")
        if not 0 < address < 1 << 64:
            raise HeapError(f"{address:#x} is not the address of a {what}")
