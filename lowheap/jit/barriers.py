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

from lowheap.errors import CompilerError
from lowheap.jit.emit import I32, I64, PTR, REFERENCE, VOID, Emitter, ReferenceShape
from lowheap.layout import (
    HEADER_IN_OVER_APPROX_LIST_BIT,
    VMDrcHeader,
    VMHeapControl,
)

ENTRY_POINT_GROUP = "lowheap.barriers"

DROP_FUNCTION = "lowheap.drop"
"""void(vmctx, reference): takes the last count of an object and frees it; `transitions.define` gives it its body."""


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
    """Deferred reference counting, inline: the events of wasmtime 40, `gc/drc.rs` and its Cranelift counterpart."""

    name = "drc"

    def read(self, emitter: Emitter, address: ir.Value, shape: ReferenceShape) -> ir.Value:
        """Load; an object that is not listed gets the list's count and goes on the list."""
        reference = emitter.load_typed(address, REFERENCE)
        if shape.is_counted:
            with emitter.if_object(reference, shape):
                word = emitter.load_header(reference, VMDrcHeader.kind_and_reserved)
                with emitter.builder.if_then(_is_unlisted(emitter, word), likely=False):
                    self._add_to_count(emitter, reference, 1)
                    self._push(emitter, reference, word)
        return reference

    def write(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Count the new value, store it, then drop the old one: in this order, because they may be one object."""
        if not shape.is_counted:
            emitter.store_typed(value, address)
            return
        old = emitter.load_typed(address, REFERENCE)
        self.inc_ref(emitter, value, shape)
        emitter.store_typed(value, address)
        self.dec_ref(emitter, old, shape)

    def init(self, emitter: Emitter, address: ir.Value, value: ir.Value, shape: ReferenceShape) -> None:
        """Count the value and store it."""
        self.inc_ref(emitter, value, shape)
        emitter.store_typed(value, address)

    def allocate(self, emitter: Emitter, reference: ir.Value) -> None:
        """Push the object; its one count becomes the list's."""
        self._push(emitter, reference, emitter.load_header(reference, VMDrcHeader.kind_and_reserved))

    def inc_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Add one, unless it is null or an i31."""
        if shape.is_counted:
            with emitter.if_object(reference, shape):
                self._add_to_count(emitter, reference, 1)

    def dec_ref(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Subtract one, unless it is null or an i31; the last count is taken out of line, by the drop."""
        if not shape.is_counted:
            return
        builder = emitter.builder
        with emitter.if_object(reference, shape):
            count = emitter.load_header(reference, VMDrcHeader.ref_count)
            is_last = builder.icmp_unsigned("==", count, I64(1))
            with builder.if_else(is_last, likely=False) as (last, others):
                with last:
                    builder.call(emitter.declare(DROP_FUNCTION, VOID, [PTR, REFERENCE]), [emitter.vmctx, reference])
                with others:
                    emitter.store_header(builder.sub(count, I64(1)), reference, VMDrcHeader.ref_count)

    def expose(self, emitter: Emitter, reference: ir.Value, shape: ReferenceShape) -> None:
        """Push the object with the count handed over; if it is listed already, the list has one: take this one back."""
        if not shape.is_counted:
            return
        with emitter.if_object(reference, shape):
            word = emitter.load_header(reference, VMDrcHeader.kind_and_reserved)
            with emitter.builder.if_else(_is_unlisted(emitter, word)) as (unlisted, listed):
                with unlisted:
                    self._push(emitter, reference, word)
                with listed:
                    self._add_to_count(emitter, reference, -1)  # cannot reach 0: the list has one

    @staticmethod
    def _add_to_count(emitter: Emitter, reference: ir.Value, difference: int) -> None:
        count = emitter.load_header(reference, VMDrcHeader.ref_count)
        emitter.store_header(emitter.builder.add(count, I64(difference)), reference, VMDrcHeader.ref_count)

    @staticmethod
    def _push(emitter: Emitter, reference: ir.Value, word: ir.Value) -> None:
        """Put an unlisted object, the first word of whose header is `word`, at the head of the list."""
        builder, control = emitter.builder, emitter.control
        head = emitter.load(control, VMHeapControl.over_approximated_stack_roots)
        emitter.store_header(head, reference, VMDrcHeader.next_over_approximated_stack_root)
        listed = builder.or_(word, I32(HEADER_IN_OVER_APPROX_LIST_BIT))
        emitter.store_header(listed, reference, VMDrcHeader.kind_and_reserved)
        emitter.store(reference, control, VMHeapControl.over_approximated_stack_roots)
        length = emitter.load(control, VMHeapControl.current_len)
        emitter.store(builder.add(length, I32(1)), control, VMHeapControl.current_len)


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


def _is_unlisted(emitter: Emitter, word: ir.Value) -> ir.Value:
    """Whether the in-list bit is clear in the first word of a header."""
    bit = emitter.builder.and_(word, I32(HEADER_IN_OVER_APPROX_LIST_BIT))
    return emitter.builder.icmp_unsigned("==", bit, I32(0))
