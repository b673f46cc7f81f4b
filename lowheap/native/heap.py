"""The heap as functions of the subset know it: a few ways to get at its bytes. These are Python's meanings of them.

    heap.control                the control block
    heap.store_context          what all code of a store shares
    heap.header(reference)      an object's header; `array`, `externref`, `exception` for what is behind it in these
    heap.block(index)           a free block
    heap.slot(reference, n)     the slot n bytes into an object: a place with a `value`
    heap.cell(u8, reference, n) likewise, of another width
    heap.type_info(n)           type n's entry in the type table; `type_data(n)` word n behind it
    heap.size_class_head(n)     where the list of free blocks of size class n begins: a slot
    heap.state(Mine)            a structure that the collector keeps in the heap's bytes
    heap.header_bit(MINE)       a bit of headers that is the collector's own, a `HeaderBit`: a mask
    heap.length(LOG)            how many entries a `Buffer` of the collector's has: a place, of u64
    heap.entry(LOG, n)          entry n of it: a slot, within the buffer whatever n is
    heap.side(MARKS, index)     what a `SideTable` of the collector's has for the byte at an index: a place
    heap.part_count()           how many states, buffers and side tables the collector has
    heap.part(n)                one of them, as a `VMCollectorPart`; however wrong the number, it is one
    heap.collector.read(heap, …)  a function of the heap's collector: what `collector_function` has declared
    heap.is_checked             whether to look for corruption on the way: known when code is compiled
    heap.may_raise              whether what stands in between may raise, so that everything is kept whole at each step:
                                so it is in Python, and in machine code it is not
    heap.header_at(index)       a header that is yet to be written, or that may be none
    heap.discard(index, n)      give n bytes (u64) of the heap, whole pages, back to the system: nothing is in them
    heap.nanoseconds()          what the clock says, which goes on at an even pace (u64)
    heap.release_externrefs()   have the host let go of the externrefs that died; 0, or another number: it failed
    heap.outside(address)       a slot that is not in the heap, by its address (u64): a root
    heap.problem_count()        how many problems were told of: see `words.problem`
    heap.forget_problems()      as if none had been
    heap.require_no_problem()   fail with the first, if there is one: `Status.CORRUPT`; Python raises what they all are
    heap.map_notes(size)        the address of `size` bytes (both u64) that are 0, for a while; 0: there is no memory
    heap.unmap_notes(a, size)   the way back
    heap.visit(v, argument, a)  call C's visitor at address v with its argument and the `VMObjectInfo` at address a
    heap.write(w, argument, a, n)  call C's writer at address w with its argument and n bytes at address a

and, for the functions of the C interface:

    heap.interface              the heap as C has it, which is its vmctx
    heap.ask_for_room(n)        have the host let go of what it can spare, for n bytes; whether to try once more
    heap.finalize(f, data)      call a finalizer of C's, a function at an address

What is reached is looked at: an index that leads outside of the memory, or the sum of an index and an offset that is no
u32, is a HeapError. Machine code does not look; what it reaches is within the reservation and its guard, whatever the
index.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from lowheap.copying import NotCopied
from lowheap.errors import HeapCorruptionError, HeapError, InvalidReferenceError
from lowheap.layout import (
    BLOCK_ALIGN,
    COLLECTOR_STATE_OFFSET,
    CONTROL_BLOCK_OFFSET,
    FIRST_INDEX,
    HEADER_SIZE,
    KIND_MASK,
    OBJECT_KINDS,
    SIZE_CLASS_COUNT,
    TYPE_DATA_LIMIT,
    TYPE_LIMIT,
    FreeBlock,
    VMCollectorPart,
    VMContext,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMDrcHeader,
    VMHeap,
    VMHeapControl,
    VMStoreContext,
    VMTypeInfo,
)
from lowheap.native.check import (
    BOOL,
    HEAP_ATTRIBUTES,
    INVARIANT_FIELDS,
    NOTHING,
    SLOT,
    U32,
    U64,
    PlaceType,
    ViewType,
    heap_method,
)
from lowheap.native.function import Replacements
from lowheap.native.storage import ENTRIES_OFFSET, Buffer, HeaderBit, SideTable
from lowheap.native.words import C_TYPES

_VISITOR = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p)
_WRITER = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)

_State = TypeVar("_State")
_Data = TypeVar("_Data", bound="ctypes._CData")

HEADERS: dict[str, type[ctypes.Structure]] = {
    "header": VMDrcHeader,
    "array": VMDrcArrayHeader,
    "externref": VMDrcExternRef,
    "exception": VMDrcExnHeader,
    "header_at": VMDrcHeader,
    "block": FreeBlock,
}
"""The methods that lay a structure over what is at an index."""


class HeapMemory(Protocol):
    """Bytes that a reference can name."""

    def view(self, data: type[_Data], offset: int) -> _Data:
        """Return a ctypes type laid over the bytes at an offset; HeapError when it would not lie within."""

    def discard(self, offset: int, length: int) -> None:
        """Give whole pages back to the system."""


class Heap(NotCopied):
    """See the module's docstring. `host` is what `release_externrefs` calls."""

    NOT_COPIED_BECAUSE = "it stands for memory that somebody else has"

    is_native_heap = True
    may_raise = True
    collector: Any = None
    """The heap's collector, a `Collector`; None for a heap that is only looked at by functions that ask for none."""

    @property
    def is_checked(self) -> bool:
        """Whether to look for corruption on the way."""
        return False

    def __init__(
        self,
        memory: HeapMemory,
        control: VMHeapControl,
        *,
        store_context: VMStoreContext | None = None,
        host: Callable[[], None] | None = None,
        collector: Any = None,
    ) -> None:
        """Take the parts; the tables are where the control block says."""
        self.collector = collector
        self.memory, self.control = memory, control
        self.buffer: Any = getattr(memory, "buffer", None)
        """The memory's bytes, where it is mapped here."""
        self.base: int = getattr(memory, "base", 0)
        self._store_context, self._host = store_context, host
        self.replacements = Replacements()
        """What Python calls in the place of a native function on this heap: code that was compiled of it, or what does
        something else. It is called without the heap."""
        self.problems: list[str] = []
        """What `problem` has been told."""
        self._notes: dict[int, ctypes.Array[ctypes.c_uint64]] = {}

    @property
    def store_context(self) -> VMStoreContext:
        """What all code of a store shares. HeapError for a heap that has no code."""
        if self._store_context is None:
            raise HeapError("the heap has no store context: no code of a store works on it")
        return self._store_context

    def header(self, reference: int) -> VMDrcHeader:
        """Return the header of an object. InvalidReferenceError where none is."""
        if isinstance(reference, int) and not isinstance(reference, bool):
            bump = self.control.bump
            if not reference % BLOCK_ALIGN and FIRST_INDEX <= reference <= bump - HEADER_SIZE:
                header = self.memory.view(VMDrcHeader, reference)
                if header.kind_and_reserved & KIND_MASK in OBJECT_KINDS:
                    return header
            raise InvalidReferenceError(
                f"{reference:#x} does not name an object; objects are at multiples of {BLOCK_ALIGN} "
                f"from {FIRST_INDEX:#x} to {bump:#x}"
            )
        raise TypeError(f"a reference is {reference!r}; it must be an int, an index into the heap")

    def header_at(self, index: int) -> VMDrcHeader:
        """Return what is at an index as a header, which it may not be."""
        return self.memory.view(VMDrcHeader, index)

    def array(self, reference: int) -> VMDrcArrayHeader:
        """Return the header at an array's index."""
        return self.memory.view(VMDrcArrayHeader, reference)

    def externref(self, reference: int) -> VMDrcExternRef:
        """Return what is at an externref's index."""
        return self.memory.view(VMDrcExternRef, reference)

    def exception(self, reference: int) -> VMDrcExnHeader:
        """Return the header at an exception's index."""
        return self.memory.view(VMDrcExnHeader, reference)

    def block(self, index: int) -> FreeBlock:
        """Return what is at a free block's index."""
        return self.memory.view(FreeBlock, index)

    def slot(self, reference: int, offset: int) -> ctypes.c_uint32:
        """Return the slot at `offset` bytes into an object. HeapError for one that is not aligned."""
        slot: ctypes.c_uint32 = self._aligned(ctypes.c_uint32, reference, offset)
        return slot

    def cell(self, word: Any, reference: int, offset: int) -> Any:
        """Return the number of a type at `offset` bytes into an object. HeapError for one that is not aligned."""
        return self._aligned(C_TYPES[word], reference, offset)

    def _aligned(self, data: Any, reference: int, offset: int) -> Any:
        """Machine code takes for granted that a number is at a multiple of its size."""
        if (reference + offset) % ctypes.sizeof(data):
            raise HeapError(f"{reference + offset:#x} is not a multiple of {ctypes.sizeof(data)}, the number's size")
        return self.memory.view(data, reference + offset)

    def type_info(self, type_index: int) -> VMTypeInfo:
        """Return a type's entry in the type table. However wrong, the index stays in the table."""
        offset = (type_index & TYPE_LIMIT - 1) * ctypes.sizeof(VMTypeInfo)
        return VMTypeInfo.from_address(self.control.type_table + offset)

    def type_data(self, position: int) -> int:
        """Return a word of the type data. However wrong, the position stays in there."""
        offset = (position & TYPE_DATA_LIMIT - 1) * ctypes.sizeof(ctypes.c_uint32)
        return ctypes.c_uint32.from_address(self.control.type_data + offset).value

    def size_class_head(self, number: int) -> ctypes.c_uint32:
        """Return where a list of free blocks begins. HeapError for a class that there is not."""
        if number >= SIZE_CLASS_COUNT:
            raise HeapError(f"there is no size class {number}; they are numbered below {SIZE_CLASS_COUNT}")
        start = ctypes.addressof(self.control) + VMHeapControl.size_class_heads.offset
        return ctypes.c_uint32.from_address(start + number * ctypes.sizeof(ctypes.c_uint32))

    def state(self, structure: type[_State]) -> _State:
        """Return a state of the collector's. HeapError for one that it does not have."""
        offset = None if self.collector is None else self.collector.state_offsets().get(structure)
        if offset is None:
            raise HeapError(f"the heap's collector has no state {structure.__name__}")
        start = ctypes.addressof(self.control) - CONTROL_BLOCK_OFFSET + COLLECTOR_STATE_OFFSET
        found: _State = cast(Any, structure).from_address(start + offset)
        return found

    def header_bit(self, bit: HeaderBit) -> int:
        """Return the mask of a bit of the collector's. HeapError for one that it does not have."""
        mask = None if self.collector is None else self.collector.area().bits.get(bit)
        if mask is None:
            raise HeapError(f"the heap's collector has no {bit!r}")
        return int(mask)

    def length(self, buffer: Buffer) -> ctypes.c_uint64:
        """Return where a buffer's length is. HeapError for one that the collector does not have."""
        return ctypes.c_uint64.from_address(self._address_of(buffer))

    def entry(self, buffer: Buffer, number: int) -> ctypes.c_uint32:
        """Return an entry of a buffer. However wrong, the number stays in it."""
        offset = (number & buffer.limit - 1) * ctypes.sizeof(ctypes.c_uint32)
        return ctypes.c_uint32.from_address(self._address_of(buffer) + ENTRIES_OFFSET + offset)

    def side(self, table: SideTable, index: int) -> Any:
        """Return what a side table has for the byte at an index."""
        return C_TYPES[table.word].from_address(self._address_of(table) + (index >> table.shift) * table.entry_size)

    def _address_of(self, part: Buffer | SideTable) -> int:
        """Where a part of the collector's storage begins. HeapError for one that it does not have."""
        offset = None if self.collector is None else self.collector.area().offsets.get(part)
        if offset is None:
            raise HeapError(f"the heap's collector has no {part!r}")
        return ctypes.addressof(self.control) - CONTROL_BLOCK_OFFSET + int(offset)

    def part_count(self) -> int:
        """Return how many parts of storage the collector has."""
        return 0 if self.collector is None else len(self.collector.parts())

    def part(self, number: int) -> VMCollectorPart:
        """Return one of them. HeapError when there is none of that number."""
        if not 0 <= number < self.part_count():
            raise HeapError(f"the heap's collector has no part {number}; it has {self.part_count()}")
        found: VMCollectorPart = self.collector.parts()[number]
        return found

    def discard(self, index: int, length: int) -> None:
        """Give whole pages back to the system."""
        self.memory.discard(index, length)

    def nanoseconds(self) -> int:
        """Return what the clock says."""
        return time.monotonic_ns()

    def release_externrefs(self) -> int:
        """Have the host let go of the externrefs that died, and free them."""
        if self._host is not None:
            self._host()
        return 0

    @property
    def interface(self) -> VMHeap:
        """The heap as C has it. HeapError: the functions of the C interface are not for Python to run."""
        raise HeapError("the heap is Python's: it has no C interface here")

    def outside(self, address: int) -> ctypes.c_uint32:
        """Return the slot at an address. It must be mapped."""
        return ctypes.c_uint32.from_address(address)

    def problem_count(self) -> int:
        """Return how many problems there are."""
        return len(self.problems)

    def forget_problems(self) -> None:
        """Begin anew."""
        self.problems.clear()

    def require_no_problem(self) -> None:
        """HeapCorruptionError when there are any, which are forgotten."""
        if self.problems:
            problems, self.problems = self.problems, []
            raise HeapCorruptionError(problems)

    def map_notes(self, size: int) -> int:
        """Return the address of new memory; `size` is a multiple of 8."""
        notes = (ctypes.c_uint64 * (size // ctypes.sizeof(ctypes.c_uint64)))()
        address = ctypes.addressof(notes)
        self._notes[address] = notes
        return address

    def unmap_notes(self, address: int, size: int) -> None:
        """Let go of it."""
        del self._notes[address]

    def visit(self, visitor: int, argument: int, info: int) -> int:
        """Call a visitor; what it returns ends the walk unless it is 0."""
        return int(_VISITOR(visitor)(argument, info))

    def write(self, writer: int, argument: int, data: int, size: int) -> int:
        """Call a writer; what it returns ends the dump unless it is 0."""
        return int(_WRITER(writer)(argument, data, size))

    def ask_for_room(self, needed: int) -> bool:
        """Nobody is asked."""
        return False

    def finalize(self, finalizer: int, data: int) -> None:
        """Call a C function."""
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(finalizer)(data)


class _NoMemory:
    """What stands for the memory of a heap of which only the tables are asked for."""

    def view(self, data: type[_Data], offset: int) -> _Data:
        """HeapError."""
        raise HeapError("only the heap's tables are at hand, not its memory")

    def discard(self, offset: int, length: int) -> None:
        """HeapError."""
        raise HeapError("only the heap's tables are at hand, not its memory")


def tables(control: VMHeapControl) -> Heap:
    """Return a heap of which only the control block and the tables that it points to are used."""
    return Heap(_NoMemory(), control)


HEAP_ATTRIBUTES["interface"] = ViewType(VMHeap)
INVARIANT_FIELDS[VMTypeInfo] = INVARIANT_FIELDS[VMCollectorPart] = None
INVARIANT_FIELDS[VMHeapControl] = frozenset(
    ("type_table", "type_data", "heap_base", "handles", "root_slots", "root_ranges", "host_data")
)
INVARIANT_FIELDS[VMContext] = frozenset(("heap_base", "control", "store"))
HEAP_ATTRIBUTES["control"] = ViewType(VMHeapControl)
HEAP_ATTRIBUTES["is_checked"] = HEAP_ATTRIBUTES["may_raise"] = BOOL
HEAP_ATTRIBUTES["store_context"] = ViewType(VMStoreContext)
for _name, _structure in HEADERS.items():
    heap_method(_name, [U32], ViewType(_structure))
heap_method("slot", [U32, U32], SLOT)
heap_method("state", [None], None)
heap_method("cell", [None, U32, U32], None)
heap_method("header_bit", [None], U32)
heap_method("length", [None], PlaceType(U64))
heap_method("entry", [None, U64], SLOT)
heap_method("side", [None, U32], None)
heap_method("part_count", [], U32)
heap_method("part", [U32], ViewType(VMCollectorPart))
heap_method("type_info", [U32], ViewType(VMTypeInfo))
heap_method("size_class_head", [U32], SLOT)
heap_method("type_data", [U32], U32)
heap_method("discard", [U32, U64], NOTHING)
heap_method("nanoseconds", [], U64)
heap_method("release_externrefs", [], U32)
heap_method("ask_for_room", [U64], BOOL)
heap_method("finalize", [U64, U64], NOTHING)
heap_method("outside", [U64], SLOT)
heap_method("problem_count", [], U64)
heap_method("forget_problems", [], NOTHING)
heap_method("require_no_problem", [], NOTHING)
heap_method("map_notes", [U64], U64)
heap_method("unmap_notes", [U64, U64], NOTHING)
heap_method("visit", [U64, U64, U64], U32)
heap_method("write", [U64, U64, U64, U64], U32)
