"""What a collector tells the heap, the compiler, the host and whoever looks on.

A collector is a class of functions written once (`docs/native.md`). Whoever works on a heap calls the same ones, as
`heap.collector.…`: compiled code, the store in Python with its handles and globals, and C.

**Events** in the life of a reference. Their `shape` says what it may be, and what it cannot be costs nothing:

    read(heap, owner, slot, shape)             load a reference into compiled code's hands, and return it
    write(heap, owner, slot, value, shape)     store over a value that the slot owns
    init(heap, owner, slot, value, shape)      store to a slot that holds nothing yet
    allocated(heap, reference)                 hand a new object, whose header is complete, to compiled code
    inc_ref(heap, reference, shape)            one owner more
    dec_ref(heap, reference, shape)            one owner less; what nobody owns any more dies
    expose(heap, reference, shape)             hand an owned reference over to compiled code
    log_range(heap, owner, slot, count)        so many slots of an array are to be stored over, without `write`: of a
                                               class that says `logs_ranges`

`owner` is the object that the slot is in; null for a slot that is in none, a global's for one. The shape is that of
`Shape`: the static type, which field of which type the slot is, and how long compiled code holds what it reads. An
event's code is made once for all shapes that agree in what the event's function looks at: what it does not ask for
costs nothing.

**Allocation.** A block is a multiple of `BLOCK_ALIGN` bytes; the free-list policy is the collector's choice.

    allocate_small(heap, length)               a block that is at hand, or null: what is inlined where objects are made
    allocate_block(heap, rules, length)        a block, by collecting or growing if need be; null when nothing helps
    write_header(heap, reference, kind, type, size)   make an object of a block, its one owner the caller
    free_leaf(heap, reference)                 free an object of which no owner and no child is left to see to
    settle_figures(heap)                       have the heap's figures say all that was made
    tell_figures(heap, figures)                write down those that the collector alone knows, of a `VMHeapStatistics`:
                                               memory that it took of the system, pauses
    blocks(heap)                               a walk: yield the index of each block, live or free, in address order

**Collection**: `trace` (`shared/collection.py`) has every reference that a frame holds held; the sweep lets go of what
nobody holds; what dies is freed at once, or waits, to be freed by increments with a budget.

    is_due(heap)                               whether it is time to collect before any room is looked for
    hold(heap, reference)                      a frame holds an object; False if the collector's rules exclude that
    forget_held(heap)                          forget all that was held: the collection is given up
    sweep(heap)                                let go of the rest, and free what dies
    sweep_pending(heap)                        the same, but leave what dies to wait
    has_pending(heap)                          whether something waits
    free_pending(heap, budget)                 free so many of what waits; whether some are left
    collect(heap, rules)                       all of it, at once; False, with nothing done, if a frame is wrong
    collect_cycles(heap, rules, only_if_due)   the same, and free what only cycles keep, unless that is not due; a
                                               collector that has no search just collects, as by default
    find_cycles(heap)                          the search: have what it finds wait; directly behind a sweep
    is_search_due(heap, at_last)               whether to search before the heap grows, or before an allocation fails
    drop(heap, reference)                      take an object's last count, and free it with what only it held: events
                                               may call this; a module has not its code, but calls it (`DROP_FUNCTION`)

**What holds**, for whoever checks:

    is_live(heap, reference)                   whether an object whose count is 0, or any (`counts_tell_life`), lives
    may_be_held(heap, reference)               whether a frame may hold an object
    is_owned(heap, reference)                  whether an object has a count that an owner can give back
    verify_blocks(heap, notes, has_lists)      check that blocks tile the heap, and the header of each object
    verify_free_blocks(heap, notes)            check that free blocks are where allocation looks for them
    verify_lists(heap, notes)                  check the collector's own structures, and note what they own
    verify_pending(heap, reference)            check an object that died and waits
    verify_noted(heap, reference, note)        check an object against what was noted with it
    verify_held(heap, notes, place, reference) check what a frame holds, at the address of a slot (0: not known)
    count_owned(heap, notes, reference)        note an owner with each object that this one refers to

A class of collectors may have more `functions` for the variations of it to change; `drc`'s has three.

**State** of a collector's own is in the heap's bytes: structures that `@state` makes, named in `states`, which its
functions reach with `heap.state(…)`. Those of its u64 fields that `counters` names are among the heap's figures.
`header_bits`, `buffers` and `side_tables` name what it keeps besides: see `native/storage.py`.

**Parameters** are what an instance is made with: attributes that `parameters` names, numbers and bools, which are
constants of its code, as `heap.collector.…`.

A **barrier set** is a variation of a collector: a subclass that has other events.
"""

from __future__ import annotations

import ast
import ctypes
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from lowheap.collectors.shared import allocation, collection, free_lists, ranges, sizing, verify, walking
from lowheap.collectors.shared.frames import FrameRules
from lowheap.collectors.shared.lines import LineMap
from lowheap.errors import CompilerError
from lowheap.layout import COLLECTOR_STATE_OFFSET, COLLECTOR_STATE_SIZE, VMCollectorPart, VMHeapStatistics, VMPartKind
from lowheap.native import Heap, Native
from lowheap.native.check import (
    BOOL,
    NOTHING,
    SLOT,
    U32,
    U64,
    ConstantType,
    NativeError,
    Signature,
    StaticType,
    TupleType,
    Type,
    ViewType,
    WordType,
    collector_function,
    collector_parameter,
)
from lowheap.native.storage import Area, Buffer, HeaderBit, SideTable, described
from lowheap.native.words import state_layout, u32
from lowheap.types import AbstractHeapType, RefType

_Found = TypeVar("_Found")

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
    next store over a reference, by this code or by a function that it calls; where interruptible code polls, a signal's
    handler may store, too. Being the owner, or the new value, of one
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


_SHAPE, _RULES = StaticType(Shape), StaticType(FrameRules)

DROP_FUNCTION = "lowheap.drop"
"""What modules call a collector's `drop` by. A `drop` that frees is `linked` by this name."""

EVENTS: dict[str, Signature] = {
    "read": Signature((U32, SLOT, _SHAPE), U32),
    "write": Signature((U32, SLOT, U32, _SHAPE), NOTHING),
    "init": Signature((U32, SLOT, U32, _SHAPE), NOTHING),
    "allocated": Signature((U32,), NOTHING),
    "inc_ref": Signature((U32, _SHAPE), NOTHING),
    "dec_ref": Signature((U32, _SHAPE), NOTHING),
    "expose": Signature((U32, _SHAPE), NOTHING),
}
"""The events: what each takes behind the heap, and returns."""

FUNCTIONS: dict[str, Signature] = {
    "log_range": Signature((U32, SLOT, U32), NOTHING),
    "allocate_small": Signature((U32,), U32),
    "allocate_block": Signature((_RULES, U32), U32),
    "write_header": Signature((U32, U32, U32, U32), NOTHING),
    "free_leaf": Signature((U32,), NOTHING),
    "settle_figures": Signature((), NOTHING),
    "tell_figures": Signature((ViewType(VMHeapStatistics),), NOTHING),
    "blocks": Signature((), NOTHING, U32),
    "is_due": Signature((), BOOL),
    "hold": Signature((U32,), BOOL),
    "forget_held": Signature((), NOTHING),
    "sweep": Signature((), NOTHING),
    "sweep_pending": Signature((), NOTHING),
    "has_pending": Signature((), BOOL),
    "free_pending": Signature((U64,), BOOL),
    "collect": Signature((_RULES,), BOOL),
    "collect_cycles": Signature((_RULES, BOOL), BOOL),
    "find_cycles": Signature((), NOTHING),
    "is_search_due": Signature((BOOL,), BOOL),
    "drop": Signature((U32,), NOTHING),
    "is_live": Signature((U32,), BOOL),
    "may_be_held": Signature((U32,), BOOL),
    "is_owned": Signature((U32,), BOOL),
    "verify_blocks": Signature((U64, BOOL), TupleType((BOOL, U64, U64))),
    "verify_free_blocks": Signature((U64,), NOTHING),
    "verify_lists": Signature((U64,), NOTHING),
    "verify_pending": Signature((U32,), NOTHING),
    "verify_noted": Signature((U32, U64), NOTHING),
    "verify_held": Signature((U64, U64, U32), NOTHING),
    "count_owned": Signature((U64, U32), NOTHING),
}
"""All other functions, likewise."""


class Collector:
    """What a collector is made of; see the module's docstring.

    An instance has no state, and neither it nor its class is changed once it has been looked at.
    """

    name: str = "Collector"
    """What it is called in messages and figures; a class that does not say has its own name."""

    counts: bool = True
    """Whether an object's count says how many owners it has."""

    needs_owner: bool = False
    """Whether an event must know the object that a slot of the heap is in: what knows a slot alone is refused then."""

    finds_room: bool = False
    """Whether it finds room for objects in a way of its own: then no free-list policy is chosen, nor one of growth."""

    searches_for_cycles: bool = True
    """Whether it may be asked to search for cycles. With False, none is ever due, and asking for one is an error."""

    called: bool = False
    """Whether compiled modules call the events rather than inline them, where an engine does not say."""

    c_references: str = ""
    """What C programs have in line: `lh_load_ref`, `lh_init_ref` and `lh_store_ref` as the C library's header has them.
    A class that has none, or says nothing, has these call the library."""

    functions: ClassVar[Mapping[str, Signature]] = EVENTS | FUNCTIONS
    """What it must have, besides the functions of the classes it is derived from."""

    counts_roots: bool = True
    """Whether what handles, globals and tables hold counts as soon as they do."""

    counts_tell_life: bool = True
    """Whether all objects live that have a count. Where not, `is_live` is asked of these, too."""

    logs_ranges: bool = False
    """Whether ranges of elements are stored over at once, behind `log_range`, rather than each by `write`."""

    parameters: ClassVar[Mapping[str, Type]] = {
        "known_bits": U32,
        "needs_owner": BOOL,
        "counts_roots": BOOL,
        "counts_tell_life": BOOL,
        "logs_ranges": BOOL,
        "searches_for_cycles": BOOL,
    }
    """What an instance is made with: attributes, and their types, words of `native.check` or `BOOL`."""

    compiled: tuple[Native[..., Any], ...] = ()
    """What is run compiled where there is compiled code, even when Python has come to it: what may take long."""

    states: tuple[type[Any], ...] = ()
    """The structures of its own that it keeps in the heap's bytes, besides those of the classes it is derived from."""

    header_bits: tuple[HeaderBit, ...] = ()
    """The bits of headers that are its own, besides those of the classes it is derived from."""

    buffers: tuple[Buffer, ...] = ()
    """The lists that it keeps, likewise."""

    side_tables: tuple[SideTable, ...] = ()
    """What it keeps for every so many bytes of the heap, likewise."""

    counters: tuple[str, ...] = ()
    """The u64 fields of its states that are figures of the heap's, besides those of the classes above."""

    read: Any
    write: Any
    init: Any
    allocated: Any
    inc_ref: Any
    dec_ref: Any
    expose: Any
    log_range: Any = ranges.log_nothing
    allocate_small: Any = free_lists.pop_small
    allocate_block: Any = allocation.allocate_block
    write_header: Any = allocation.write_header
    free_leaf: Any = allocation.free_leaf
    settle_figures: Any = sizing.figures_are_settled
    tell_figures: Any = sizing.tell_no_further_figures
    blocks: Any = walking.blocks
    is_due: Any
    hold: Any
    forget_held: Any
    sweep: Any
    sweep_pending: Any
    has_pending: Any
    free_pending: Any
    collect: Any = collection.collect
    collect_cycles: Any = collection.collect_cycles
    find_cycles: Any = collection.find_no_cycles
    is_search_due: Any = collection.is_no_search_due
    drop: Any
    is_live: Any
    may_be_held: Any
    is_owned: Any
    verify_blocks: Any = verify.verify_blocks
    verify_free_blocks: Any = verify.verify_free_blocks
    verify_lists: Any
    verify_pending: Any
    verify_noted: Any
    verify_held: Any
    count_owned: Any = verify.count_owned

    def __init_subclass__(cls) -> None:
        """Give a class that has no name its own, and make its functions known to the subset.

        What C programs have in line it must say itself: it may have other events than the class above.
        """
        super().__init_subclass__()
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if "c_references" not in cls.__dict__:
            cls.c_references = ""
        for name, signature in _declared(cls, "functions").items():
            if not isinstance(signature, Signature):
                raise TypeError(f"the function {name} of {cls.__qualname__} is {signature!r}; it must be a Signature")
            collector_function(name, signature.parameters, signature.result, signature.yields)
        for name, type_ in _declared(cls, "parameters").items():
            if not (isinstance(type_, WordType) or type_ == BOOL):
                what = f"the parameter {name} of {cls.__qualname__} is of type {type_!r}"
                raise TypeError(f"{what}; it must be of one of `lowheap.native.check`: a word, as U32, or BOOL")
            collector_parameter(name, type_)

    def check(self, *, class_is_sound: bool = False) -> None:
        """Look whether the class has what a collector needs, once for each class, and whether the parameters are right.

        `class_is_sound`: that of the class is known, which saves the time that it takes to check all of its functions.
        CompilerError, naming what is missing, unknown or of another kind; NativeError for a function that is not in the
        subset.
        """
        if not class_is_sound and type(self) not in _SOUND:
            self._check_class()
            _SOUND.add(type(self))
        self._check_parameters()

    def _check_class(self) -> None:
        """Look at all that does not depend on the instance."""
        self._check_attributes()
        for name, signature in self.all_functions().items():
            function = getattr(type(self), name, None)
            what = f"{type(self).__qualname__}.{name}"
            kind = _kind(name)
            if function is None:
                raise CompilerError(f"the collector {self.name} has no {kind} {name}: {what} must be a native function")
            if not getattr(function, "is_native", False):
                raise CompilerError(f"{what} is {function!r}; it must be a native function: see `lowheap.native`")
            with self._checking(name):
                checked = function.checked
            if Signature.of(checked) != signature:
                result = checked.result if checked.yields is None else f"a generator of {checked.yields}"
                given = f"({', '.join(str(each.type) for each in checked.parameters)}) -> {result}"
                raise CompilerError(f"{what} is of type {given}; the {kind} {name} is of type {signature}")
        self.area()
        self.state_offsets()
        self._check_names(self._check_calls())
        for name in self.all_counters():
            places = [each for each in self.all_states() if name in each.__annotations__]
            if not places:
                raise CompilerError(f"the collector {self.name} counts {name!r}, which is in none of its states")
            if len(places) > 1:
                names = " and ".join(each.__qualname__ for each in places)
                raise CompilerError(f"the collector {self.name} counts {name!r}, which is in {names}")
            field = dict(places[0]._fields_)[name]
            if field is not ctypes.c_uint64:
                what = f"the collector {self.name} counts {name!r}, which is no u64 of {places[0].__qualname__}"
                raise CompilerError(f"{what}, but {places[0].__annotations__[name]}")

    @contextmanager
    def _checking(self, name: str) -> Iterator[None]:
        """What is found wrong with a function, or with what it calls, names that and the collector."""
        try:
            yield
        except NativeError as error:
            reason = f"{error.reason} (in the {_kind(name)} {name} of the collector {self.name})"
            raise NativeError(error.path, error.line, reason) from error

    def _check_parameters(self) -> None:
        """Look whether each parameter has a value, and one of its type."""
        parameters = dict(self.all_parameters())
        for name in parameters:
            if name != "known_bits" and not hasattr(self, name):  # which is made of the others
                what = f"the collector {self.name} has no value of its parameter {name}"
                raise CompilerError(f"{what}: neither a class nor an `__init__` has set it")
        for name, wanted in parameters.items():
            value, is_right = getattr(self, name), False
            if isinstance(wanted, WordType):
                is_right = type(value) is int and wanted.word.least <= value <= wanted.word.most
            elif wanted == BOOL:
                is_right = isinstance(value, bool)
            if not is_right:
                raise CompilerError(f"the parameter {name} of the collector {self.name} is {value!r}, not {wanted}")

    def _check_attributes(self) -> None:
        """Look whether what the class says of itself is of the right types."""
        for kind in reversed(type(self).__mro__):
            for name, wanted in _ATTRIBUTES.items():
                value = kind.__dict__.get(name)
                if value is not None and not isinstance(value, wanted):
                    raise CompilerError(f"{kind.__qualname__}.{name} is {value!r}; it must be a {wanted.__name__}")
        for each in self.all_compiled():
            if not isinstance(each, Native):
                raise CompilerError(f"what the collector {self.name} has compiled: {each!r} is no native function")

    def _check_calls(self) -> set[Any]:
        """Look at what the subset's checker cannot see: whether a function comes to itself by way of `heap.collector`,
        and whether what it keeps in the heap is this collector's. Returns the functions that are called.
        """
        complete: set[Any] = set()
        kept = {*self.all_states(), *self._collected("header_bits")}
        kept |= {*self._collected("buffers"), *self._collected("side_tables")}

        def visit(function: Any, callers: tuple[Any, ...]) -> None:
            if function in callers:
                names = " calls ".join(each.name for each in (*callers[callers.index(function) :], function))
                raise CompilerError(f"the collector {self.name} has functions that call themselves: {names}")
            if function not in complete:
                for node, call in function.checked.calls.items():
                    for named in _named(function.checked, node):
                        if named not in kept:
                            what = f"state {named.__name__}" if isinstance(named, type) else repr(named)
                            reason = f"the collector has no {what}: its class does not name it"
                            raise NativeError(function.checked.path, node.lineno, reason)
                    if call.kind == "native":
                        visit(call.target, (*callers, function))
                    elif call.kind == "collector":
                        visit(getattr(type(self), call.target), (*callers, function))
                complete.add(function)

        for name in self.all_functions():
            with self._checking(name):
                visit(getattr(type(self), name), ())
        return complete

    def _check_names(self, called: set[Any]) -> None:
        """Look whether the class, or one above, has something that nobody would ask for, whose name is mistyped.

        `called` are the functions that are asked for, and all that these call. What else there is of Python's is the
        class's own affair, if its name is not next to one that means something.
        """
        functions, attributes = self.all_functions(), {*_ATTRIBUTES, *self.all_parameters(), "functions", "parameters"}
        for kind in type(self).__mro__:
            for name, value in kind.__dict__.items():
                function = getattr(value, "__func__", value)  # of a static method
                is_native = isinstance(function, Native)
                is_known = name.startswith("_") or name in functions or name in attributes or hasattr(Collector, name)
                if is_known or (is_native and (function in called or function in self.all_compiled())):
                    continue
                import difflib  # here, because it takes long to load, and few collectors are wrong

                near = difflib.get_close_matches(name.lower().removeprefix("on_"), functions, 1, _NEAR_FUNCTION)
                if not callable(function):
                    near = difflib.get_close_matches(name, attributes, 1, _NEAR_ATTRIBUTE)
                if near or (is_native and kind is type(self)):
                    hint = f"; is {near[0]} meant?" if near else ", and none of its functions calls it"
                    what = f"{kind.__qualname__}.{name} is no event, function or attribute of a collector"
                    raise CompilerError(f"{what}{hint} (in the collector {self.name})")

    def reads(self, event: str) -> frozenset[str] | None:
        """Return which attributes of its shape an event looks at; None: it may be all."""
        checked = getattr(self, event).checked
        (shape,) = (each.name for each in checked.parameters if each.type == _SHAPE)
        found: frozenset[str] | None = checked.reads_of(shape, self)
        return found

    def all_functions(self) -> Mapping[str, Signature]:
        """Return what the class must have, by name."""
        return self._merged("functions")

    def all_parameters(self) -> Mapping[str, Any]:
        """Return the parameters of the class and of those it is derived from, with their types."""
        return self._merged("parameters")

    @classmethod
    def _merged(cls, attribute: str) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for kind in reversed(cls.__mro__):
            found |= kind.__dict__.get(attribute, {})
        return found

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it, and its code, from others in this process."""
        names = (name for name in self.all_parameters() if name != "known_bits")
        return type(self), *((name, getattr(self, name)) for name in names)

    def __eq__(self, other: object) -> bool:
        """Whether another is of the same class, with the same parameters."""
        return isinstance(other, Collector) and self.key == other.key

    def __hash__(self) -> int:
        """Return what goes with `==`."""
        return hash(self.key)

    def all_compiled(self) -> tuple[Native[..., Any], ...]:
        """Return what the class, and those it is derived from, have run compiled."""
        return self._collected("compiled")

    # What Python shows of the collector's own structures: by default, that there are none.

    def deferred(self, heap: Heap) -> Iterator[int]:
        """Yield the objects that the collector has noted because frames may hold them, uncounted."""
        return iter(())

    def pending(self, heap: Heap) -> Iterator[int]:
        """Yield the objects that died and wait to be freed, the next first."""
        return iter(())

    def pause_times(self, heap: Heap) -> dict[int, int]:
        """Return how often the program was kept waiting for how long: see `Store.pause_times`."""
        return {}

    def line_map(self, heap: Heap) -> LineMap | None:
        """Return what is in each line of each block, of a heap that is sound; None for one that is not made of lines.

        It may be an image's: nothing is changed.
        """
        return None

    def all_states(self) -> tuple[type[Any], ...]:
        """Return the states of the class and of those it is derived from, these first."""
        return self._collected("states")

    def all_counters(self) -> tuple[str, ...]:
        """Return the counters of the class and of those it is derived from, these first."""
        return self._collected("counters")

    def area(self) -> Area:
        """Return where its header bits, buffers and side tables are. CompilerError when that cannot be."""
        return type(self)._kept("_area", _area)

    @property
    def known_bits(self) -> int:
        """The reserved bits of headers that mean something."""
        return self.area().known_bits

    @classmethod
    def _collected(cls, attribute: str) -> tuple[Any, ...]:
        found: dict[Any, None] = {}
        for kind in reversed(cls.__mro__):
            found |= dict.fromkeys(kind.__dict__.get(attribute, ()))
        return tuple(found)

    def state_offsets(self) -> Mapping[type[Any], int]:
        """Return where each state begins, in bytes from where a heap has those. CompilerError when there is no room."""
        return type(self)._kept("_state_offsets", _state_offsets)

    def parts(self) -> ctypes.Array[VMCollectorPart]:
        """Return what it keeps of its own besides header bits: states, buffers, side tables, as heaps have them."""
        return type(self)._kept("_parts", _parts)

    # What follows from the class alone is kept with it, once it is known, and not with instances: whatever is in these
    # is a parameter, which makes other code.

    @classmethod
    def _kept(cls, name: str, find: Callable[[type[Collector]], _Found]) -> _Found:
        """Return what `find` makes of the class; it is kept by a name that no class inherits."""
        found: _Found | None = cls.__dict__.get(name)
        if found is None:
            found = find(cls)
            setattr(cls, name, found)
        return found


_SOUND: weakref.WeakSet[type[Collector]] = weakref.WeakSet()
"""The classes that were looked at, and have what they need."""

_NEAR_FUNCTION, _NEAR_ATTRIBUTE = 0.75, 0.85
"""How like a name must be to one that is known, to be taken for that one mistyped (`difflib`'s measure)."""

_ATTRIBUTES: dict[str, type[Any]] = {
    "name": str,
    "counts": bool,
    "called": bool,
    "finds_room": bool,
    "c_references": str,
    "compiled": tuple,
    "states": tuple,
    "header_bits": tuple,
    "buffers": tuple,
    "side_tables": tuple,
    "counters": tuple,
}
"""What a class says of itself, and the types of that; its parameters have types of their own."""


def _kind(name: str) -> str:
    return "event" if name in EVENTS else "function"


def _named(checked: Any, node: ast.Call) -> Iterator[Any]:
    """Yield the states and the parts of storage that a call has as arguments."""
    for argument in node.args:
        given = checked.types.get(argument)
        value = given.value if isinstance(given, ConstantType) else None
        if isinstance(value, HeaderBit | Buffer | SideTable) or getattr(value, "is_native_state", False):
            yield value


def _declared(cls: type[Collector], attribute: str) -> Mapping[str, Any]:
    found: Any = cls.__dict__.get(attribute, {})
    if not isinstance(found, Mapping):
        raise TypeError(f"{cls.__qualname__}.{attribute} is {found!r}; it must be a mapping of names to types")
    return found


def _area(collector: type[Collector]) -> Area:
    parts = (*collector._collected("buffers"), *collector._collected("side_tables"))
    try:
        for attribute, kind in (("buffers", SideTable), ("side_tables", Buffer)):
            for each in collector._collected(attribute):
                if isinstance(each, kind):
                    raise TypeError(f"{each!r} is among its {attribute}")
        return Area.of(collector._collected("header_bits"), parts)
    except (TypeError, ValueError) as error:
        raise CompilerError(f"what the collector {collector.name} keeps: {error}") from error


def _state_offsets(collector: type[Collector]) -> Mapping[type[Any], int]:
    try:
        return state_layout(collector._collected("states"), COLLECTOR_STATE_SIZE)
    except (TypeError, ValueError) as error:
        raise CompilerError(f"the states of the collector {collector.name}: {error}") from error


def _parts(collector: type[Collector]) -> ctypes.Array[VMCollectorPart]:
    found = [
        described(VMPartKind.STATE, state.__name__, COLLECTOR_STATE_OFFSET + offset, ctypes.sizeof(state), 1)
        for state, offset in collector._kept("_state_offsets", _state_offsets).items()
    ]
    found += [part.described(offset) for part, offset in collector._kept("_area", _area).offsets.items()]
    return (VMCollectorPart * len(found))(*found)


for _name, _type in Collector.parameters.items():
    collector_parameter(_name, _type)
for _name, _signature in Collector.functions.items():
    collector_function(_name, _signature.parameters, _signature.result, _signature.yields)
