"""Random heaps of rc-immix for native functions: any moment between two steps of a program, work pending or not.

They are small, and often full: blocks are few, lines partly free, what is large takes two of three blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

import lowheap as lh
from lowheap.collectors.rc_immix import RcImmix
from lowheap.collectors.rc_immix.space import has_survived
from lowheap.collectors.rc_immix.state import DEAD, DECREMENTS, GIVING_BACK, OLD_VALUES, Epochs
from lowheap.collectors.shared import tracing
from lowheap.errors import HeapExhaustedError
from lowheap.layout import EXTERNREF_TYPE_INDEX, VMDrcHeader, block_length
from lowheap.types import ANYREF, EXTERNREF, I8, I32

ANY = lh.FieldType(ANYREF, True)
CELL = lh.StructType((ANY, ANY))
WIDE = lh.StructType((ANY,) * 40)
WIDEST = lh.StructType((ANY,) * 70)
HOLDER = lh.StructType((lh.FieldType(EXTERNREF, True), lh.FieldType(I32, True), ANY))
LIST = lh.ArrayType(ANY)
BYTES = lh.ArrayType(lh.FieldType(I8, True))
KINDS = (CELL, CELL, WIDE, WIDEST, HOLDER)

LENGTHS = [0, 1, 3, 40, 60, 70, 200, 600, 1500, 5000]
"""Of arrays of references: within a line, medium, beyond what dies at once, and large."""

LARGE_LENGTH = 5000

MAKE = ["struct", "struct", "list", "list", "bytes", "externref", "crowd"]
CHANGE = ["link", "link", "link", "i31", "unlink", "ring", "drop", "drop", "drop some", "crowd in the middle"]
COLLECT = ["end", "end", "collect", "trace", "portions", "portions", "count down"]
STEPS = st.lists(
    st.tuples(st.sampled_from([*MAKE, *CHANGE, *COLLECT]), st.integers(0, 40), st.integers(0, 40), st.integers(0, 11)),
    min_size=5,
    max_size=25,
)

SIZES = [(1 << 15, 3 << 15), (1 << 14, 3 << 15), (1 << 15, (1 << 16) + 0x1230), (1 << 15, 5 << 15)]
"""What heaps begin with, and may grow to: blocks, the last of which may be cut off anywhere."""


@functools.cache
def engine(collector: RcImmix) -> lh.Engine:
    """One that has all types from the beginning, so that their indices do not depend on what was made before."""
    made = lh.Engine(collector=collector)
    for each in (*dict.fromkeys(KINDS), LIST, BYTES):
        made.types.register([lh.SubType(each)])
    return made


class Lined:
    """A heap that steps have made, in the middle of an epoch; what it says of it is for arguments."""

    def __init__(self, collector: RcImmix, size: tuple[int, int], steps: list[tuple[str, int, int, int]]) -> None:
        self.store = lh.Store(engine(collector), initial_heap_size=size[0], maximum_heap_size=size[1])
        self.heap = self.store.heap
        self.held: list[tuple[Any, Any]] = []  # handles, and what they are of
        for step in steps:
            self.step(*step)

    def close(self) -> None:
        self.held.clear()
        self.store.close()

    # ------------------------------------------------------------------------------------------------------------------
    # Steps

    def step(self, what: str, a: int = 0, b: int = 0, number: int = 0) -> None:
        """Do one thing; what does not fit any more is not made."""
        self.__dict__.pop("objects", None)
        with contextlib.suppress(HeapExhaustedError):
            if what in MAKE:
                self._make(what, a, b, number)
            elif what in COLLECT:
                self._collect(what, a, number)
            elif self.held:
                self._change(what, a, b, number)

    def _make(self, what: str, a: int, b: int, number: int) -> None:
        kind: Any = None
        length = LENGTHS[number % len(LENGTHS)]
        match what:
            case "struct":
                kind = KINDS[number % len(KINDS)]
                new: Any = lh.Struct(self.store, kind, [0 if each.storage is I32 else None for each in kind.fields])
            case "list":
                kind, new = LIST, lh.Array(self.store, LIST, [None] * length)
            case "bytes":
                kind, new = BYTES, lh.Array(self.store, BYTES, bytes(length * 4))
            case "externref":
                new = lh.ExternRef(self.store, number)
            case _:
                self._crowd(a, b, number)
                return
        self.held.append((new, kind))

    def _crowd(self, a: int, b: int, number: int) -> None:
        """As much as there is room for; some of it stays, anywhere between the others, which it may lead to."""
        lengths = [(60, 12, 40), (3, 100), (12,), (70, 300), (20, 1, 40, 100)][a % 5]
        made: list[Any] = []
        try:
            for each in range(600):
                made.append(lh.Array(self.store, LIST, [None] * lengths[each % len(lengths)]))
                if b % 2 and each:
                    made[-1][0] = made[-2]
        finally:
            step = 2 + number
            self.held += [(each, LIST) for each in made[::step]]
            for place, each in enumerate(made):
                if place % step:
                    each.release()

    def _change(self, what: str, a: int, b: int, number: int) -> None:
        holder, target = self.held[a % len(self.held)], self.held[b % len(self.held)]
        match what:
            case "link" | "i31" | "unlink" | "ring":
                self._store(holder, number, {"i31": (lh.I31(number), None), "unlink": (None, None)}.get(what, target))
                if what == "ring":
                    self._store(target, 0, holder)
            case "drop":
                self.held.remove(holder)
                holder[0].release()
            case "drop some":
                for each in self.held[number % 3 :: 2 + number % 4]:
                    each[0].release()
                del self.held[number % 3 :: 2 + number % 4]
            case "crowd in the middle":
                with self.heap.no_gc_scope():
                    self._crowd(a, b, number)

    @staticmethod
    def _store(holder: tuple[Any, Any], number: int, target: tuple[Any, Any]) -> None:
        """Store to a slot, the first, the last or one in the middle, if there is one that may hold it."""
        handle, kind = holder
        if kind is HOLDER and isinstance(target[0], lh.ExternRef):
            handle[0] = target[0]
        elif not isinstance(target[0], lh.ExternRef) and kind not in (None, BYTES):
            first = 2 if kind is HOLDER else 0
            count = len(handle) if kind is LIST else len(kind.fields)
            if count:
                handle[max(first, (0, count - 1, count // 2)[number % 3])] = target[0]

    def _collect(self, what: str, a: int, number: int) -> None:
        match what:
            case "end":
                self.end_epoch()
            case "collect":
                self.store.collect()
            case "trace":
                self.store.collect(cycles=True)
            case "portions":
                collection = self.store.collection(cycles=True)
                for _ in range(1 + number):
                    collection.collect_increment(1 + a % 9)
                collection.close()
            case "count down":
                self.heap.free_pending(1 + number)

    def end_epoch(self) -> None:
        """End the epoch, and leave what is to be counted down, or traced, pending."""
        self.heap.trace(())
        self.heap.sweep_pending()
        self.heap.finish_sweep()

    # ------------------------------------------------------------------------------------------------------------------
    # What there is

    @property
    def epochs(self) -> Any:
        return self.heap.native.state(Epochs)

    @functools.cached_property
    def objects(self) -> list[int]:
        """All of them: what lives, what has died unnoticed as yet, and what waits."""
        return [each.index for each in self.heap.objects()]

    def of(self, is_wanted: Callable[[int], bool], make: Callable[[], None]) -> list[int]:
        """The objects for which something holds; where there is none, one is made, for which it does then."""
        for _ in range(2):
            found = [each for each in self.objects if is_wanted(each)]
            if found:
                return found
            make()
            self.__dict__.pop("objects", None)
        raise AssertionError("what was to be made is not there")

    def header(self, reference: int) -> VMDrcHeader:
        return self.heap.memory.view(VMDrcHeader, reference)

    def has_survived(self, reference: int) -> bool:
        return bool(has_survived(self.heap.native, reference))

    def is_dead(self, reference: int) -> bool:
        """Whether it has survived, and waits to be freed."""
        return self.has_survived(reference) and self.header(reference).ref_count == 0

    def length(self, reference: int) -> int:
        return block_length(self.header(reference).object_size)

    def slots(self, reference: int) -> list[int]:
        """The offsets of an object's traced slots."""
        type_index = self.header(reference).type_index
        if type_index == EXTERNREF_TYPE_INDEX:
            return []
        start = self.heap.control.heap_base + reference
        slots = tracing.traced_slots(self.heap.native, reference, type_index)
        return [ctypes.addressof(each) - start for each in slots]

    # ------------------------------------------------------------------------------------------------------------------
    # States in which something holds

    def make_room(self) -> None:
        """Let go of all, so that whatever is wanted can be made."""
        self.__dict__.pop("objects", None)
        for handle, _ in self.held:
            handle.release()
        self.held.clear()
        for _ in range(2):
            self.store.collect(cycles=True)
            self.store.tidy()

    def hold_old(self, kind: Any = CELL, length: int = 0) -> int:
        """Make an object that survives, and return its reference."""
        self.make_room()
        values = length if isinstance(kind, lh.ArrayType) else len(kind.fields)
        new: Any = (lh.Array if isinstance(kind, lh.ArrayType) else lh.Struct)(self.store, kind, [None] * values)
        self.held.append((new, kind))
        self.store.collect()
        reference: int = new.reference
        return reference

    def log_stores(self) -> None:
        """Have stored over slots of old objects of all kinds, in this epoch."""
        if not self.heap.native.length(OLD_VALUES).value:
            self.hold_old(LIST, 70)
            for number in range(len(KINDS)):
                self.step("struct", number=number)
            for number in range(len(self.held)):
                self.step("link", number, number + 1, 1)
                self.step("link", number, number + 2, 0)
            self.step("end")
            for number in range(len(self.held)):
                self.step("unlink", number, 0, number % 2)

    def find_dead(self) -> None:
        """Have an object on the stack of the dead, and no array that is dying."""
        if not self.heap.native.length(DEAD).value or self.epochs.dying:
            self.hold_old()
            self.held.pop()[0].release()
            self.end_epoch()
            while self.heap.native.length(DECREMENTS).value:
                self.heap.free_pending(1)

    def begin_dying(self) -> None:
        """Have a long array die, of which some elements still count."""
        if not self.epochs.dying:
            self.hold_old(LIST, LARGE_LENGTH)
            self.held.pop()[0].release()
            self.end_epoch()
            while not self.epochs.dying:
                self.heap.free_pending(1)

    def come_to(self, phase: int, kind: Any = CELL, length: int = 0) -> None:
        """Have a trace by portions come to a phase; there is garbage, a ring of two, for what is behind marking.

        `kind` and `length` are of the first of the two.
        """
        if self.epochs.marking != phase:
            self.hold_old(kind, length)
            for _ in range(3):
                self.step("struct")
            (one, _), (other, _), *_ = self.held
            one[0], other[0] = other, one
            self.store.collect()
            for _ in range(2):
                self.held.pop(0)[0].release()
            for _ in range(2):  # counted down, but for the ring
                self.store.collect()
            collection = self.store.collection(cycles=True)
            for _ in range(100):
                collection.collect_increment(1)
                if self.epochs.marking == phase:
                    break
            collection.close()
        self.__dict__.pop("objects", None)
        assert self.epochs.marking == phase

    def give_elements_back(self) -> None:
        """Have a trace that has come to an array among the garbage, of which it has some elements yet to look at."""
        if not self.epochs.sweep_left:
            self.make_room()
            self.come_to(GIVING_BACK, LIST, 1500)
            while not self.epochs.sweep_left:
                self.heap.free_pending(1)
