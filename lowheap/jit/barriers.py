"""Barrier sets: the code that is emitted around every access to a reference.

A barrier set is a class with a name and a method for each event in the life of a reference. Each is given an `Emitter`
(where to emit to), the static shape of the reference, and an address or a value; it emits code, and returns the value
that the event yields. To try out one's own: subclass `BarrierSet`, and name it `package.module:Class`, or register it
under the entry-point group `lowheap.barriers`.

Compiled modules have a function for each kind of event, inlined or called: that is what this code is emitted into.

- `drc` is wasmtime's: deferred reference counting.
- `outlined` is the same, called everywhere.
- `null` counts nothing, so nothing can be freed; it shows what barriers cost.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from importlib import metadata

from llvmlite import ir

from lowheap.collectors.drc import barriers as drc
from lowheap.collectors.drc.counting import DROP_FUNCTION
from lowheap.errors import CompilerError
from lowheap.jit.emit import PTR, REFERENCE, VOID, Emitter, ReferenceShape
from lowheap.jit.translate import HEAP, Place, inline_call
from lowheap.layout import NULL
from lowheap.native.check import U32

ENTRY_POINT_GROUP = "lowheap.barriers"


class BarrierSet(ABC):
    """What is emitted around references. One instance serves one module; it must not keep state between functions."""

    name: str

    counts: bool = True
    """Whether ref counts are kept. A store whose code does not count never frees, and its collections do nothing."""

    cacheable: bool = True
    """Whether the code depends on nothing but the sources of the set's module and of what that imports. A set that
    emits an address of this process, say, or reads a file, sets this to False: then no cache keeps its code."""

    called: bool = False
    """Whether the events of compiled modules are called rather than inlined, where an engine does not say. See
    `wasm/events.py`."""

    @abstractmethod
    def read(self, emitter: Emitter, address: ir.Value, shape: ReferenceShape) -> ir.Value:
        """Emit a load from a field, an element or a global into compiled code's hands, and return the reference."""

    @abstractmethod
    def write(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Emit a store over a value that the slot owns."""

    @abstractmethod
    def init(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Emit a store to a slot that holds nothing yet."""

    @abstractmethod
    def allocate(self, emitter: Emitter, reference: ir.Value) -> None:
        """Emit the hand-over of a new object, with one count and not listed, to compiled code.

        Its header is complete, its fields are not. Where allocation is inline this is emitted twice for one
        instruction: on the way where a free block was at hand, and on the way where it was not; one of them is taken.
        """

    @abstractmethod
    def inc_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Emit one more count."""

    @abstractmethod
    def dec_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Emit one count less, and the drop of an object that has none left."""

    @abstractmethod
    def expose(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Emit the hand-over of an owned reference to compiled code, as the host does it before a call."""


class Drc(BarrierSet):
    """Deferred reference counting, inline: the events of `collectors/drc/barriers.py`.

    None of them asks what object a slot is in, so none is told.
    """

    name = "drc"

    def read(self, emitter: Emitter, address: ir.Value, shape: ReferenceShape) -> ir.Value:
        """Load; an object that is not listed gets the list's count and goes on the list."""
        reference: ir.Value = inline_call(emitter, drc.read, [HEAP, NULL, Place(address, U32), shape])
        return reference

    def write(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Count the new value, store it, then drop the old one."""
        _declare_drop(emitter)
        inline_call(emitter, drc.write, [HEAP, NULL, Place(address, U32), value, shape])

    def init(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Count the value and store it."""
        inline_call(emitter, drc.init, [HEAP, NULL, Place(address, U32), value, shape])

    def allocate(self, emitter: Emitter, reference: ir.Value) -> None:
        """Push the object; its one count becomes the list's."""
        inline_call(emitter, drc.allocated, [HEAP, reference])

    def inc_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Add one, unless it is null or an i31."""
        inline_call(emitter, drc.inc_ref, [HEAP, reference, shape])

    def dec_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Subtract one, unless it is null or an i31; the last count is taken out of line, by the drop."""
        _declare_drop(emitter)
        inline_call(emitter, drc.dec_ref, [HEAP, reference, shape])

    def expose(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Push the object with the count handed over; if it is listed already, take this one back."""
        inline_call(emitter, drc.expose, [HEAP, reference, shape])


def _declare_drop(emitter: Emitter) -> None:
    """Declare what frees an object: it goes to the collector, which is not in the module."""
    emitter.declare(DROP_FUNCTION, VOID, [PTR, REFERENCE])


class Outlined(Drc):
    """What `drc` does, in functions that are called: small code, and a call for each event."""

    name = "outlined"
    called = True


class Null(BarrierSet):
    """No barriers: plain loads and stores. Nothing is counted, so nothing can be freed."""

    name = "null"
    counts = False

    def read(self, emitter: Emitter, address: ir.Value, shape: ReferenceShape) -> ir.Value:
        """Load."""
        return emitter.load_typed(address, REFERENCE)

    def write(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Store."""
        emitter.store_typed(value, address)

    def init(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Store."""
        emitter.store_typed(value, address)

    def allocate(self, emitter: Emitter, reference: ir.Value) -> None:
        """Nothing."""

    def inc_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Nothing."""

    def dec_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Nothing."""

    def expose(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Nothing."""


BUILT_IN: dict[str, type[BarrierSet]] = {barriers.name: barriers for barriers in (Drc, Outlined, Null)}


def find(name: str) -> BarrierSet:
    """Return a new instance of the barrier set `name`: a built-in's, an entry point's, or `module:Class`.

    Raises CompilerError when there is none such, naming those that there are.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    if name in points.names:
        found = points[name].load()
    elif ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise CompilerError(f"cannot load the barrier set {name!r}: {error}") from error
    else:
        known = ", ".join(sorted({*BUILT_IN, *points.names}))
        raise CompilerError(f"there is no barrier set {name!r}; there are {known}, and any `module:Class`")
    if not (isinstance(found, type) and issubclass(found, BarrierSet)):
        raise CompilerError(f"the barrier set {name!r} is {found!r}; it must be a subclass of BarrierSet")
    return found()
