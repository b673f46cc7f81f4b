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

`owner` is the object that the slot is in; null for a slot that is in none, a global's for one.

**State** of a collector's own is in the heap's bytes: structures that `@state` makes, named in `states`, which its
functions reach with `heap.state(…)`. Those of its u64 fields that `counters` names are among the heap's figures.

A **barrier set** is a variation of a collector: a subclass that has other events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lowheap.errors import CompilerError
from lowheap.layout import COLLECTOR_STATE_SIZE
from lowheap.native.check import HEAP, NOTHING, SLOT, U32, StaticType, Type
from lowheap.native.words import state_layout
from lowheap.types import AbstractHeapType, RefType


@dataclass(frozen=True, slots=True)
class Shape:
    """What the static type of a reference says about its values, known when code is compiled.

    `is_counted` is False for references that never name an object that a collector knows: i31 and functions.
    """

    is_native_static: ClassVar[bool] = True

    may_be_null: bool = True
    may_be_i31: bool = True
    may_be_object: bool = True
    is_counted: bool = True

    @staticmethod
    def of(type: RefType, *, is_traced: bool) -> Shape:
        """Return the shape of a reference type; `is_traced` is what the type registry says of it."""
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
        return Shape(type.nullable, may_be_i31, may_be_object, is_traced and may_be_object)

    @property
    def key(self) -> str:
        """What tells code for this shape from that for others."""
        letters = "n" * self.may_be_null + "i" * self.may_be_i31 + "o" * self.may_be_object + "c" * self.is_counted
        return f"shape-{letters}"


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
