"""What a collector tells the heap, the compiler, the host and whoever looks on.

A collector is a class of functions written once (`docs/native.md`). Whoever works on a heap calls the same ones:
compiled code, the store in Python with its handles and globals, and C.

**Events** in the life of a reference. Their `shape` says what it may be, and what it cannot be costs nothing:

    read(heap, owner, slot, shape)             load a reference into compiled code's hands, and return it
    write(heap, owner, slot, value, shape)     store over a value that the slot owns
    init(heap, owner, slot, value, shape)      store to a slot that holds nothing yet
    allocated(heap, reference)                 hand a new object, whose header is complete, to compiled code
    inc_ref(heap, reference, shape)            one owner more
    dec_ref(heap, reference, shape)            one owner less; what nobody owns any more dies
    expose(heap, reference, shape)             hand an owned reference over to compiled code

`owner` is the object that the slot is in; null for a slot that is in none, a global's for one. The shape is that of
`Shape`: the static type, which field of which type the slot is, and how long compiled code holds what it reads. An
event's code is made once for all shapes that agree in what the event's function looks at: what it does not ask for
costs nothing.

**State** of a collector's own is in the heap's bytes: structures that `@state` makes, named in `states`, which its
functions reach with `heap.state(…)`. Those of its u64 fields that `counters` names are among the heap's figures.

A **barrier set** is a variation of a collector: a subclass that has other events.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lowheap.errors import CompilerError
from lowheap.layout import COLLECTOR_STATE_SIZE
from lowheap.native.check import HEAP, NOTHING, SLOT, U32, StaticType, Type
from lowheap.native.words import state_layout, u32
from lowheap.types import AbstractHeapType, RefType

NO_TYPE = 0xFFFF_FFFF
"""The `type_index` of a slot that is in no object, or in one of which nothing is known."""

NO_FIELD, ELEMENT = 0xFFFF_FFFF, 0xFFFF_FFFE
"""The `field` of such a slot, and that of an array's elements."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a reference, and of the slot that it is in, when code is compiled. The defaults: nothing.

    Of its values, by its static type: `may_be_null`, `may_be_i31`, `may_be_object`. `is_counted` is False for
    references that never name an object that a collector knows: i31 and functions.

    Of the slot: `type_index` is the type that it is in, by the index in the compiled module; an object may be of a
    subtype. `field` is the field's number, `ELEMENT` in an array. `is_mutable` is False where nothing is ever stored
    over the first value.

    Of what is read: `outlives_safepoint` is False if compiled code has let go of it before the next safepoint, on every
    path, and hands it to no function; a collection never sees it. `outlives_write` is False if that is so before the
    next store over a reference, by this code or by a function that it calls. Being the owner, or the new value, of one
    store is no use behind it; being an array that a range is copied to or from is one. Both are True for all events but
    `read`, and for reads by the host and by C.
    """

    is_native_static: ClassVar[bool] = True

    may_be_null: bool = True
    may_be_i31: bool = True
    may_be_object: bool = True
    is_counted: bool = True
    type_index: u32 = NO_TYPE
    field: u32 = NO_FIELD
    is_mutable: bool = True
    outlives_safepoint: bool = True
    outlives_write: bool = True

    @staticmethod
    def of(
        type: RefType,
        *,
        is_traced: bool,
        type_index: int = NO_TYPE,
        field: int = NO_FIELD,
        is_mutable: bool = True,
    ) -> Shape:
        """Return the shape of a reference type, and of a slot; `is_traced` is what the type registry says of it."""
        heap_type = type.heap_type
        bottoms = (
            AbstractHeapType.NONE,
            AbstractHeapType.NOEXTERN,
            AbstractHeapType.NOFUNC,
            AbstractHeapType.NOEXN,
        )
        may_be_i31 = heap_type in (
            AbstractHeapType.ANY,
            AbstractHeapType.EQ,
            AbstractHeapType.I31,
            AbstractHeapType.EXTERN,
        )
        may_be_object = heap_type not in (*bottoms, AbstractHeapType.I31)
        return Shape(
            type.nullable, may_be_i31, may_be_object, is_traced and may_be_object, type_index, field, is_mutable
        )

    def only(self, attributes: Collection[str] | None) -> Shape:
        """Return a shape that says no more than these attributes; None: all of them."""
        if attributes is None:
            return self
        return Shape(**{name: getattr(self, name) for name in attributes})

    @property
    def key(self) -> str:
        """What tells code for this shape from that for others."""
        letters = "n" * self.may_be_null + "i" * self.may_be_i31 + "o" * self.may_be_object + "c" * self.is_counted
        parts = [f"shape-{letters}"]
        if self.type_index != NO_TYPE:
            parts.append(f"type{self.type_index}")
        if self.field != NO_FIELD:
            parts.append("element" if self.field == ELEMENT else f"field{self.field}")
        parts += ["immutable"] * (not self.is_mutable)
        parts += ["no-safepoint"] * (not self.outlives_safepoint) + ["no-write"] * (not self.outlives_write)
        return "-".join(parts)


ANY = Shape()
"""A reference of which nothing is known."""

OBJECT = Shape(may_be_null=False, may_be_i31=False)
"""A reference to an object."""


_SHAPE = StaticType(Shape)

EVENTS: dict[str, tuple[tuple[Type, ...], Type]] = {
    "read": ((HEAP, U32, SLOT, _SHAPE), U32),
    "write": ((HEAP, U32, SLOT, U32, _SHAPE), NOTHING),
    "init": ((HEAP, U32, SLOT, U32, _SHAPE), NOTHING),
    "allocated": ((HEAP, U32), NOTHING),
    "inc_ref": ((HEAP, U32, _SHAPE), NOTHING),
    "dec_ref": ((HEAP, U32, _SHAPE), NOTHING),
    "expose": ((HEAP, U32, _SHAPE), NOTHING),
}
"""The events: what each takes, and returns."""


class Collector:
    """What a collector is made of; see the module's docstring. An instance has no state, and is never changed."""

    name: str
    """What it is called in messages and figures; a class that does not say has its own name."""

    counts: bool = True
    """Whether references are counted. A heap that is not counted frees nothing, and its collections do nothing."""

    called: bool = False
    """Whether compiled modules call the events rather than inline them, where an engine does not say."""

    states: tuple[type[Any], ...] = ()
    """The structures of its own that it keeps in the heap's bytes, besides those of the classes it is derived from."""

    counters: tuple[str, ...] = ()
    """The u64 fields of its states that are figures of the heap's, besides those of the classes above."""

    read: Any
    write: Any
    init: Any
    allocated: Any
    inc_ref: Any
    dec_ref: Any
    expose: Any

    def __init_subclass__(cls) -> None:
        """Give a class that has no name its own."""
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def check(self) -> None:
        """Look whether the class has what a collector needs. CompilerError, naming what is missing or of another kind.

        NativeError for an event that is not in the subset.
        """
        for event, (parameters, result) in EVENTS.items():
            function = getattr(type(self), event, None)
            what = f"{type(self).__qualname__}.{event}"
            if function is None:
                raise CompilerError(f"the collector {self.name} has no event {event}: {what} must be a native function")
            if not getattr(function, "is_native", False):
                raise CompilerError(f"{what} is {function!r}; it must be a native function: see `lowheap.native`")
            checked = function.checked
            found = tuple(each.type for each in checked.parameters)
            if found != parameters or checked.result != result or checked.yields is not None:
                wanted = f"({', '.join(map(str, parameters))}) -> {result}"
                given = f"({', '.join(map(str, found))}) -> {checked.result}"
                raise CompilerError(f"{what} is of type {given}; the event {event} is of type {wanted}")
        self.state_offsets()
        known = {name for each in self.all_states() for name in each.__annotations__}
        for name in self.all_counters():
            if name not in known:
                raise CompilerError(f"the collector {self.name} counts {name!r}, which is in none of its states")

    def reads(self, event: str) -> frozenset[str] | None:
        """Return which attributes of its shape an event looks at; None: it may be all."""
        checked = getattr(self, event).checked
        (shape,) = (each.name for each in checked.parameters if each.type == _SHAPE)
        found: frozenset[str] | None = checked.reads_of(shape)
        return found

    def all_states(self) -> tuple[type[Any], ...]:
        """Return the states of the class and of those it is derived from, these first."""
        return self._collected("states")

    def all_counters(self) -> tuple[str, ...]:
        """Return the counters of the class and of those it is derived from, these first."""
        return self._collected("counters")

    def _collected(self, attribute: str) -> tuple[Any, ...]:
        found: dict[Any, None] = {}
        for kind in reversed(type(self).__mro__):
            found |= dict.fromkeys(kind.__dict__.get(attribute, ()))
        return tuple(found)

    def state_offsets(self) -> Mapping[type[Any], int]:
        """Return where each state begins, in bytes from where a heap has those. CompilerError when there is no room."""
        try:
            return state_layout(self.all_states(), COLLECTOR_STATE_SIZE)
        except (TypeError, ValueError) as error:
            raise CompilerError(f"the states of the collector {self.name}: {error}") from error
