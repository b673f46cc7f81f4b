"""A collector's events as code: what is emitted around every access to a reference.

Compiled modules have a function for each kind of event, inlined or called: that is what this code is emitted into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from lowheap.collectors.interface import DROP_FUNCTION, Collector, Shape
from lowheap.collectors.null import collector as null
from lowheap.jit.emit import PTR, REFERENCE, VOID, Emitter
from lowheap.jit.translate import HEAP, Place, inline_call
from lowheap.layout import NULL
from lowheap.native import Native
from lowheap.native.check import U32

_MARKS = {"allocated": "allocate", "log_range": "write"}
"""What listings call an event, where that is another name than its function's."""


class Barriers:
    """The events of one collector. Each method emits where an emitter is, and returns what the event yields.

    An address is that of a reference's slot, `owner` the object that it is in; None where it is in none.
    """

    def __init__(self, collector: Collector) -> None:
        """Take the collector; `Collector.check` has looked at it."""
        self.collector = collector

    @property
    def has_read_barrier(self) -> bool:
        """Whether the collector does anything but load where a reference is read."""
        return self.collector.read is not null.read

    def read(self, emitter: Emitter, address: ir.Value, shape: Shape, owner: ir.Value | None = None) -> ir.Value:
        """Emit a load from a field, an element or a global into compiled code's hands, and return the reference."""
        return self._emit(emitter, "read", _owner(owner), Place(address, U32), shape)

    def write(
        self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: Shape, owner: ir.Value | None = None
    ) -> None:
        """Emit a store over a value that the slot owns."""
        self._emit(emitter, "write", _owner(owner), Place(address, U32), value, shape)

    def init(
        self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: Shape, owner: ir.Value | None = None
    ) -> None:
        """Emit a store to a slot that holds nothing yet."""
        self._emit(emitter, "init", _owner(owner), Place(address, U32), value, shape)

    def allocate(self, emitter: Emitter, reference: ir.Value) -> None:
        """Emit the hand-over of a new object to compiled code.

        Its header is complete, its fields are not. Where allocation is inline this is emitted for each instruction, for
        the way where a free block was at hand; and once in a module, for all others.
        """
        self._emit(emitter, "allocated", reference)

    def log_range(self, emitter: Emitter, address: ir.Value, owner: ir.Value, count: ir.Value) -> None:
        """Emit what comes before so many slots of an array are stored over at once."""
        self._emit(emitter, "log_range", owner, Place(address, U32), count)

    def inc_ref(self, emitter: Emitter, reference: ir.Value, shape: Shape) -> None:
        """Emit one more owner."""
        self._emit(emitter, "inc_ref", reference, shape)

    def dec_ref(self, emitter: Emitter, reference: ir.Value, shape: Shape) -> None:
        """Emit one owner less, and the drop of an object that has none left."""
        self._emit(emitter, "dec_ref", reference, shape)

    def expose(self, emitter: Emitter, reference: ir.Value, shape: Shape) -> None:
        """Emit the hand-over of an owned reference to compiled code, as the host does it before a call."""
        self._emit(emitter, "expose", reference, shape)

    def inline(self, emitter: Emitter, native: Native[..., Any], arguments: Sequence[Any]) -> Any:
        """Emit a function of the collector's, or one that calls the collector's, and return what it returns."""
        # What frees an object goes to the collector, which is not in the module.
        emitter.declare(DROP_FUNCTION, VOID, [PTR, REFERENCE])
        emitter.collector = self.collector
        return inline_call(emitter, native, arguments, self._emitter)

    def _emitter(self, function: ir.Function) -> Emitter:
        """Make an emitter of a function that the collector's call."""
        emitter = Emitter(function)
        emitter.collector = self.collector
        return emitter

    def _emit(self, emitter: Emitter, event: str, *args: Any) -> Any:
        with emitter.event(_MARKS.get(event, event)):
            return self.inline(emitter, getattr(self.collector, event), [HEAP, *args])


def _owner(owner: ir.Value | None) -> Any:
    return NULL if owner is None else owner
