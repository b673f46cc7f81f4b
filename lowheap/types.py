"""The WasmGC type model: value, storage and composite types, recursion groups, and an engine's registry of them.

The upper half of this module is plain data: frozen dataclasses whose `str()` is the text format. The lower half is
`TypeRegistry`, which gives every type of every module of an engine one number, such that equal types have equal numbers
and subtyping is a table look-up.

**When are two types equal?** WebAssembly's answer is iso-recursive. Types are defined in recursion groups; two groups
are equal if they agree member by member, and two types are equal if they stand at the same position of equal groups.
Comparing members would run in circles where a type refers to itself, so references are first rolled up: one that stays
inside the group becomes the position it points at, one that leaves the group becomes the identity of what it points at.
Nothing leaves a group but towards an earlier one, so that identity is known already: it is an engine index. A rolled-up
group is therefore a finite tuple without cycles, and serves as a dictionary key:

    (rec (type $list (struct (field (ref null $list)) (field (ref $node))))    ;; $node is engine type 7
         (type $pair (struct (field (ref $list)) (field (ref $pair)))))

    ((struct (field (ref null ~0)) (field (ref 7))),                           ;; ~k, a negative number, is member k
     (struct (field (ref ~0)) (field (ref ~1))))

A group whose key is known gets the indices of the first group that had it. A new one is unrolled (`~k` becomes the
index that member k is about to get), checked, and appended. So within the engine, equality of types is equality of
integers, and of whole type expressions `==`. The price is that grouping matters: `$a` of `(rec $a $b)` is not the `$a`
that stands alone.

**When is one type a subtype of another?** Between defined types: if the first declares the second as its supertype, in
however many steps. Each type keeps its *display*, the chain from the root down to itself, in which a type of depth d
stands at position d; so `a <: b` iff `display(a)[depth(b)] == b`, without a search.

The numbers are an engine's own: `int` heap types and supertypes count the module's types before registration, the
engine's after it. Names are for people: they help to find a field, and play no part in identity.
"""

from __future__ import annotations

import enum
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeAlias

from lowheap.copying import NotCopied
from lowheap.errors import LowheapError, TypeDefinitionError
from lowheap.representation import printable

# Implementation limits: those of wasmtime, so that what it validates can be registered.
MAX_STRUCT_FIELDS = 10_000
MAX_PARAMS = 1_000
MAX_RESULTS = 1_000
MAX_SUBTYPING_DEPTH = 63  # steps from a type to the root of its chain
MAX_TYPES = 1_000_000  # in one registry


class UnknownTypeError(TypeDefinitionError, IndexError):
    """A type index that the registry has not given out."""


class FieldNameError(LowheapError, KeyError):
    """A field name that a struct type does not have, or that does not say which field is meant."""

    def __str__(self) -> str:
        """Give the message as it is; `KeyError` would quote it."""
        return str(self.args[0])


# --- The types -------------------------------------------------------------------------------------------------------


class _Keyword(enum.Enum):
    """A type that is one keyword of the text format, which is its value."""

    __hash__ = object.__hash__  # of the identity, as they compare; Enum's own takes a call of Python's each time

    def __str__(self) -> str:
        return str(self.value)


class NumType(_Keyword):
    """A number type."""

    I32 = "i32"
    I64 = "i64"
    F32 = "f32"
    F64 = "f64"


class VectorType(_Keyword):
    """A vector type."""

    V128 = "v128"


class PackedType(_Keyword):
    """A type that only fields and elements can have; it is read as an i32."""

    I8 = "i8"
    I16 = "i16"


class AbstractHeapType(_Keyword):
    """A heap type that needs no definition. The four hierarchies share no value and no subtyping but through null."""

    ANY = "any"
    EQ = "eq"
    I31 = "i31"
    STRUCT = "struct"
    ARRAY = "array"
    NONE = "none"
    EXTERN = "extern"
    NOEXTERN = "noextern"
    FUNC = "func"
    NOFUNC = "nofunc"
    EXN = "exn"
    NOEXN = "noexn"


# An int is a type index: the module's before registration, the engine's after it.
HeapType: TypeAlias = AbstractHeapType | int


@dataclass(frozen=True, slots=True)
class RefType:
    """A reference to a value of a heap type, or, if nullable, to nothing."""

    nullable: bool
    heap_type: HeapType

    def __str__(self) -> str:
        """Text format, in the short form where there is one: `(ref null 3)`, `anyref`."""
        if self.nullable and isinstance(self.heap_type, AbstractHeapType):
            return _REFERENCE_KEYWORDS[self.heap_type]
        return f"(ref {'null ' if self.nullable else ''}{self.heap_type})"


ValType: TypeAlias = NumType | VectorType | RefType
StorageType: TypeAlias = ValType | PackedType


@dataclass(frozen=True, slots=True)
class FieldType:
    """A struct's field or an array's element."""

    storage: StorageType
    mutable: bool

    def __str__(self) -> str:
        """Text format: `i32`, `(mut i32)`."""
        return f"(mut {self.storage})" if self.mutable else str(self.storage)


@dataclass(frozen=True, slots=True)
class StructType:
    """A struct: fields known by their position. Any sequence of them will do, and is kept as a tuple.

    `names` are what Python calls the fields; two types that differ in nothing else are equal.
    """

    fields: tuple[FieldType, ...]
    names: tuple[str | None, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, **fields: FieldType | StorageType) -> StructType:
        """Return a struct type of named fields; one that is given by its storage type alone is mutable."""
        return cls(
            tuple(each if isinstance(each, FieldType) else FieldType(each, True) for each in fields.values()),
            tuple(fields),
        )

    def bind(self, store: Any) -> Any:
        """Return the class of this type's objects in a store: `Cell = cell.bind(store)`, `Cell(left, right)`."""
        return store.bind(self)

    def __post_init__(self) -> None:
        """Make a tuple of another sequence."""
        given: Any = self.fields
        if type(given) is not tuple:
            object.__setattr__(self, "fields", tuple(given))

    def __str__(self) -> str:
        """Text format: `(struct (field (mut i32)) (field (ref null 3)))`."""
        return f"({' '.join(['struct', *(f'(field {field_type})' for field_type in self.fields)])})"


@dataclass(frozen=True, slots=True)
class ArrayType:
    """An array: any number of elements of one type."""

    element: FieldType

    def bind(self, store: Any) -> Any:
        """Return the class of this type's objects in a store: `Numbers = numbers.bind(store)`, `Numbers([1, 2])`."""
        return store.bind(self)

    def __str__(self) -> str:
        """Text format: `(array (mut i8))`."""
        return f"(array {self.element})"


@dataclass(frozen=True, slots=True)
class FuncType:
    """A function: what it takes and what it returns. Any sequences of value types will do, and are kept as tuples."""

    params: tuple[ValType, ...]
    results: tuple[ValType, ...]

    def __post_init__(self) -> None:
        """Make tuples of other sequences."""
        for name in ("params", "results"):
            given: Any = getattr(self, name)
            if type(given) is not tuple:
                object.__setattr__(self, name, tuple(given))

    def __str__(self) -> str:
        """Text format: `(func (param i32 i64) (result f32))`."""
        params = f" (param {' '.join(map(str, self.params))})" if self.params else ""
        results = f" (result {' '.join(map(str, self.results))})" if self.results else ""
        return f"(func{params}{results})"


CompositeType: TypeAlias = StructType | ArrayType | FuncType


@dataclass(frozen=True, slots=True)
class GlobalType:
    """A global: the type of its value, and whether it may be written."""

    storage: ValType
    mutable: bool

    @property
    def content(self) -> ValType:
        """The type of its value, by the name that wasmtime's package has for it."""
        return self.storage

    def __str__(self) -> str:
        """Text format: `i32`, `(mut i32)`."""
        return f"(mut {self.storage})" if self.mutable else str(self.storage)


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a memory or a table is at first, and at most: pages or elements; `max` is None where nothing says."""

    min: int
    max: int | None = None

    def __str__(self) -> str:
        """Text format: `1`, `1 2`."""
        return str(self.min) if self.max is None else f"{self.min} {self.max}"


PAGE_SIZE_LOG2 = 16
"""A page of a memory has 2 to the power of this many bytes, where its type does not say otherwise."""


@dataclass(frozen=True, slots=True)
class MemoryType:
    """A linear memory: its limits, in pages; whether addresses are i64; whether it is shared; the size of its pages."""

    limits: Limits
    is_64: bool = False
    is_shared: bool = False
    page_size_log2: int = PAGE_SIZE_LOG2

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return 1 << self.page_size_log2

    @property
    def address(self) -> NumType:
        """The type of its addresses."""
        return NumType.I64 if self.is_64 else NumType.I32

    def __str__(self) -> str:
        """Text format: `i64 1 2 shared (pagesize 1)`."""
        wide, shared = "i64 " * self.is_64, " shared" * self.is_shared
        page = "" if self.page_size_log2 == PAGE_SIZE_LOG2 else f" (pagesize {self.page_size})"
        return f"{wide}{self.limits}{shared}{page}"


@dataclass(frozen=True, slots=True)
class TableType:
    """A table: the type of its elements, its limits, in elements, and whether indices are i64."""

    element: RefType
    limits: Limits
    is_64: bool = False

    @property
    def address(self) -> NumType:
        """The type of its indices."""
        return NumType.I64 if self.is_64 else NumType.I32

    def __str__(self) -> str:
        """Text format: `i64 1 2 funcref`."""
        return f"{'i64 ' * self.is_64}{self.limits} {self.element}"


@dataclass(frozen=True, slots=True)
class TagType:
    """A tag: the function type whose parameters are the fields of its exceptions."""

    functype: FuncType

    def __str__(self) -> str:
        """Text format, of the function type."""
        return str(self.functype)


ExternType: TypeAlias = FuncType | GlobalType | MemoryType | TableType | TagType


def describe_external(type: ExternType) -> str:
    """Return a type as the text format has it, with the kind of what it is the type of."""
    match type:
        case FuncType():
            return str(type)
        case GlobalType():
            return f"(global {'mut ' * type.mutable}{type.storage})"
        case MemoryType():
            return f"(memory {type})"
        case TableType():
            return f"(table {type})"
        case TagType():
            return f"(tag {type})"


@dataclass(frozen=True, slots=True)
class ImportType:
    """One import of a module: its two names, and what must be given for it."""

    module: str
    name: str
    type: ExternType

    def __str__(self) -> str:
        """`module.name` and the type."""
        return f"{self.module}.{self.name} {describe_external(self.type)}"


@dataclass(frozen=True, slots=True)
class ExportType:
    """One export of a module: its name, and what it is."""

    name: str
    type: ExternType


@dataclass(frozen=True, slots=True)
class SubType:
    """A member of a recursion group: a composite type, the type that it extends, and whether it may be extended.

    A `hidden` one is lowheap's own: no module can define it, and to programs its objects are of no type but `any`.
    """

    composite: CompositeType
    supertype: int | None = None
    final: bool = True
    hidden: bool = False

    def __str__(self) -> str:
        """Text format: `(sub final 2 (struct))`, or the composite type alone where that means the same."""
        if self.hidden:
            return f"(hidden {self.composite})"
        if self.final and self.supertype is None:
            return str(self.composite)
        final = " final" if self.final else ""
        supertype = "" if self.supertype is None else f" {self.supertype}"
        return f"(sub{final}{supertype} {self.composite})"


I32, I64, F32, F64 = NumType.I32, NumType.I64, NumType.F32, NumType.F64
V128 = VectorType.V128
I8, I16 = PackedType.I8, PackedType.I16
ANYREF = RefType(True, AbstractHeapType.ANY)
EQREF = RefType(True, AbstractHeapType.EQ)
I31REF = RefType(True, AbstractHeapType.I31)
STRUCTREF = RefType(True, AbstractHeapType.STRUCT)
ARRAYREF = RefType(True, AbstractHeapType.ARRAY)
NULLREF = RefType(True, AbstractHeapType.NONE)
EXTERNREF = RefType(True, AbstractHeapType.EXTERN)
NULLEXTERNREF = RefType(True, AbstractHeapType.NOEXTERN)
FUNCREF = RefType(True, AbstractHeapType.FUNC)
NULLFUNCREF = RefType(True, AbstractHeapType.NOFUNC)
EXNREF = RefType(True, AbstractHeapType.EXN)
NULLEXNREF = RefType(True, AbstractHeapType.NOEXN)


class _ValueTypes(type):
    """Has `isinstance(type, ValType)` mean what it says."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, NumType | VectorType | RefType)


class ValueTypes(metaclass=_ValueTypes):
    """The value types by wasmtime's names for them: `lowheap.ValType.i32()` is `lowheap.types.I32`.

    It has no instances of its own: what its functions return are `NumType`, `VectorType` and `RefType`.
    """

    def __new__(cls) -> NoReturn:
        """Refuse: TypeError."""
        raise TypeError("a value type is made by one of ValType's functions, ValType.i32() for one")

    @staticmethod
    def i32() -> ValType:
        """Return the type of 32-bit integers."""
        return I32

    @staticmethod
    def i64() -> ValType:
        """Return the type of 64-bit integers."""
        return I64

    @staticmethod
    def f32() -> ValType:
        """Return the type of floats of single precision."""
        return F32

    @staticmethod
    def f64() -> ValType:
        """Return the type of floats of double precision."""
        return F64

    @staticmethod
    def v128() -> ValType:
        """Return the type of vectors, which compiled code does not have."""
        return V128

    @staticmethod
    def externref() -> ValType:
        """Return the type of nullable references to host values."""
        return EXTERNREF

    @staticmethod
    def funcref() -> ValType:
        """Return the type of nullable references to functions."""
        return FUNCREF

    @staticmethod
    def anyref() -> ValType:
        """Return the type of nullable references to objects and i31."""
        return ANYREF

    @staticmethod
    def eqref() -> ValType:
        """Return the type of nullable references that can be compared."""
        return EQREF

    @staticmethod
    def i31ref() -> ValType:
        """Return the type of nullable references to i31."""
        return I31REF

    @staticmethod
    def structref() -> ValType:
        """Return the type of nullable references to structs."""
        return STRUCTREF

    @staticmethod
    def arrayref() -> ValType:
        """Return the type of nullable references to arrays."""
        return ARRAYREF

    @staticmethod
    def nullref() -> ValType:
        """Return the type of null alone, among references to objects."""
        return NULLREF


_BOTTOM_KEYWORDS = {
    AbstractHeapType.NONE: "nullref",
    AbstractHeapType.NOEXTERN: "nullexternref",
    AbstractHeapType.NOFUNC: "nullfuncref",
    AbstractHeapType.NOEXN: "nullexnref",
}
_REFERENCE_KEYWORDS = {
    heap_type: _BOTTOM_KEYWORDS.get(heap_type, f"{heap_type.value}ref") for heap_type in AbstractHeapType
}

_SCALAR_SIZES: dict[StorageType, int] = {I8: 1, I16: 2, I32: 4, F32: 4, I64: 8, F64: 8, V128: 16}
_REFERENCE_SIZE = 4


def storage_size(storage: StorageType) -> int:
    """Bytes that a value of this type takes in the GC heap, which is also its alignment; any reference takes 4."""
    return _REFERENCE_SIZE if isinstance(storage, RefType) else _SCALAR_SIZES[storage]


# --- Subtyping of the abstract heap types ----------------------------------------------------------------------------


def _abstract_supertypes() -> dict[AbstractHeapType, frozenset[AbstractHeapType]]:
    """Each abstract heap type's supertypes, itself included: the transitive closure of the specification's lattice."""
    h = AbstractHeapType
    direct: dict[AbstractHeapType, tuple[AbstractHeapType, ...]] = {
        h.EQ: (h.ANY,),
        h.I31: (h.EQ,),
        h.STRUCT: (h.EQ,),
        h.ARRAY: (h.EQ,),
        h.NONE: (h.I31, h.STRUCT, h.ARRAY),
        h.NOEXTERN: (h.EXTERN,),
        h.NOFUNC: (h.FUNC,),
        h.NOEXN: (h.EXN,),
    }

    def closure(heap_type: AbstractHeapType) -> frozenset[AbstractHeapType]:
        return frozenset({heap_type}).union(*(closure(above) for above in direct.get(heap_type, ())))

    return {heap_type: closure(heap_type) for heap_type in AbstractHeapType}


_SUPERTYPES = _abstract_supertypes()
_BOTTOMS = {
    AbstractHeapType.ANY: AbstractHeapType.NONE,
    AbstractHeapType.EXTERN: AbstractHeapType.NOEXTERN,
    AbstractHeapType.FUNC: AbstractHeapType.NOFUNC,
    AbstractHeapType.EXN: AbstractHeapType.NOEXN,
}
_TOPS = {heap_type: next(top for top in _BOTTOMS if top in _SUPERTYPES[heap_type]) for heap_type in AbstractHeapType}
_TRACED_TOPS = frozenset({AbstractHeapType.ANY, AbstractHeapType.EXTERN, AbstractHeapType.EXN})

# The abstract type that stands directly above all definitions of a kind, and the kind's name in messages.
_KINDS: dict[type[CompositeType], AbstractHeapType] = {
    StructType: AbstractHeapType.STRUCT,
    ArrayType: AbstractHeapType.ARRAY,
    FuncType: AbstractHeapType.FUNC,
}


# --- Rewriting and checking one definition ---------------------------------------------------------------------------


def map_value(value: ValType, index_of: Callable[[int], int]) -> ValType:
    """Return a value type with the type index in it, if there is one, replaced by `index_of(index)`."""
    if isinstance(value, RefType) and isinstance(value.heap_type, int):
        return RefType(value.nullable, index_of(value.heap_type))
    return value


def _map_field(field_type: FieldType, index_of: Callable[[int], int]) -> FieldType:
    if isinstance(field_type.storage, PackedType):
        return field_type
    return FieldType(map_value(field_type.storage, index_of), field_type.mutable)


def map_indices(definition: SubType, index_of: Callable[[int], int]) -> SubType:
    """Return the definition with every type index in it replaced by `index_of(index)`."""
    composite: CompositeType
    match definition.composite:
        case StructType(fields):
            composite = StructType(tuple(_map_field(field_type, index_of) for field_type in fields))
        case ArrayType(element):
            composite = ArrayType(_map_field(element, index_of))
        case FuncType(params, results):
            composite = FuncType(
                tuple(map_value(value, index_of) for value in params),
                tuple(map_value(value, index_of) for value in results),
            )
    supertype = None if definition.supertype is None else index_of(definition.supertype)
    return SubType(composite, supertype, definition.final, definition.hidden)


def _refusal(number: int, problem: str) -> TypeDefinitionError:
    return TypeDefinitionError(f"type {number}: {problem}")


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_value(value: object, number: int, place: str) -> None:
    if not isinstance(value, NumType | VectorType | RefType):
        raise _refusal(number, f"{place} is {value}, which is not a value type")
    if isinstance(value, RefType) and not (isinstance(value.heap_type, AbstractHeapType) or _is_index(value.heap_type)):
        raise _refusal(number, f"{place} refers to {value.heap_type!r}, which is not a heap type")


def _check_field(field_type: object, number: int, place: str) -> None:
    if not isinstance(field_type, FieldType):
        raise _refusal(number, f"{place} is {field_type}, which is not a FieldType")
    if not isinstance(field_type.storage, PackedType):
        _check_value(field_type.storage, number, place)


def _check_shape(definition: SubType, number: int) -> None:
    """Check what can be told of one definition alone: its parts are what the hints say, and not too many."""
    if not isinstance(definition, SubType):
        raise _refusal(number, f"{definition} is not a SubType")
    if definition.supertype is not None and not _is_index(definition.supertype):
        raise _refusal(number, f"its supertype is {definition.supertype!r}, which is not a type index")
    if definition.hidden and (isinstance(definition.composite, FuncType) or definition.supertype is not None):
        raise _refusal(number, "it is hidden; such a type is of structs or arrays, and extends none")
    match definition.composite:
        case StructType(fields):
            if len(fields) > MAX_STRUCT_FIELDS:
                raise _refusal(number, f"it has {len(fields)} fields; at most {MAX_STRUCT_FIELDS} are allowed")
            for position, field_type in enumerate(fields):
                _check_field(field_type, number, f"field {position}")
        case ArrayType(element):
            _check_field(element, number, "the element")
        case FuncType(params, results):
            for values, name, limit in ((params, "param", MAX_PARAMS), (results, "result", MAX_RESULTS)):
                if len(values) > limit:
                    raise _refusal(number, f"it has {len(values)} {name}s; at most {limit} are allowed")
                for position, value in enumerate(values):
                    _check_value(value, number, f"{name} {position}")
        case other:
            raise _refusal(number, f"{other} is not a struct, array or function type")


# --- The registry ----------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """One registered type."""

    definition: SubType
    display: tuple[int, ...]  # the chain of supertypes, from its root down to this type


class _Pending(list[_Entry]):
    """Entries that are to be registered, from index `base` on."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.base = base


@dataclass(slots=True)
class _Names:
    """What the modules call one type and its fields."""

    type_name: str | None = None
    fields: dict[int, str] = field(default_factory=dict)  # the first name that each field was given
    positions: dict[str, list[int]] = field(default_factory=dict)  # the fields that each name was given to


class TypeRegistry(NotCopied):
    """The types of one engine: a mapping from type index to definition.

    Indices count from 0 and are never taken back; definitions in the registry refer to each other by them. Every method
    that takes an index raises `UnknownTypeError` for one that was not given out. Any thread may register while others
    read.
    """

    NOT_COPIED_BECAUSE = "the indices that it gives out mean something in one registry; definitions can be copied"

    def __init__(self) -> None:
        """Start empty; the abstract heap types need no registration."""
        self._entries: list[_Entry] = []  # only ever appended to, so readers need no lock
        self._traced: dict[HeapType, bool] = {}  # what `is_traced` has found; definitions never change
        self._groups: dict[tuple[SubType, ...], tuple[int, ...]] = {}  # rolled-up group: its members' indices
        self._names: dict[int, _Names] = {}
        # Guards the groups and names, and appending an entry. A signal's handler, or a finalizer of Python's, may
        # interrupt the thread that has it, and register, or ask for names, too.
        self._lock = threading.RLock()

    def register(self, group: Sequence[SubType], *, outer: Sequence[int] = ()) -> tuple[int, ...]:
        """Register one recursion group, and return the engine's index of each member: the same for an equal group.

        Type indices in `group` are the module's: below `len(outer)` they stand for the registered type `outer[index]`,
        from there on for a member of the group itself. Raises `TypeDefinitionError` if the group is not well formed or
        passes an implementation limit, and leaves the registry as it was. Messages number types as `group` does.
        """
        first = len(outer)  # the module's index of the group's first member

        def roll_up(index: int) -> int:
            if 0 <= index < first:
                self._entry(outer[index])  # it must be registered; a negative number would pose as a member
                return outer[index]
            if first <= index < first + len(group):
                return ~(index - first)
            raise TypeDefinitionError(
                f"the group refers to type {index}, which does not exist:"
                f" there are {first} types outside the group and {len(group)} in it"
            )

        for number, definition in enumerate(group, first):
            _check_shape(definition, number)
        key = tuple(map_indices(definition, roll_up) for definition in group)
        with self._lock:
            known = self._groups.get(key)
            if known is not None:
                return known
            while True:
                base = len(self._entries)
                if base + len(group) > MAX_TYPES:
                    raise TypeDefinitionError(
                        f"no room for {len(group)} more types: the engine has {base} of at most {MAX_TYPES}"
                    )
                entries = self._unroll(key, outer, base)
                self._entries.extend(entries)
                # Else somebody has registered meanwhile, in this thread: nobody knows of what was appended, so again.
                if all(map(operator.is_, self._entries[base:], entries)):
                    return self._groups.setdefault(key, tuple(range(base, base + len(group))))

    def _unroll(self, key: tuple[SubType, ...], outer: Sequence[int], base: int) -> list[_Entry]:
        """Turn a rolled-up group into entries from `base` on, each checked against the supertype that it declares."""
        first = len(outer)

        def in_module(index: int) -> int:  # for messages; what the module does not know keeps the engine's number
            if index >= base:
                return first + index - base
            return outer.index(index) if index in outer else index

        pending = _Pending(base)
        for position, rolled_up in enumerate(key):
            definition = map_indices(rolled_up, lambda index: index if index >= 0 else base + ~index)
            above: tuple[int, ...] = ()
            if definition.supertype is not None:
                if definition.supertype >= base + position:
                    supertype = in_module(definition.supertype)
                    raise _refusal(first + position, f"its supertype {supertype} is not defined before it")
                above = self._entry(definition.supertype, pending).display
                if len(above) > MAX_SUBTYPING_DEPTH:
                    problem = f"it has {len(above)} supertypes above it; at most {MAX_SUBTYPING_DEPTH} are allowed"
                    raise _refusal(first + position, problem)
            pending.append(_Entry(definition, (*above, base + position)))
        # Only now, since any member may refer to any other, and matching must know them all.
        for number, (definition, _) in enumerate(pending, first):
            if definition.supertype is not None:
                extended = self._entry(definition.supertype, pending).definition
                if extended.final:
                    raise _refusal(number, f"its supertype {in_module(definition.supertype)} is final")
                mismatch = self._mismatch(definition.composite, extended.composite, pending, in_module)
                if mismatch is not None:
                    supertype = in_module(definition.supertype)
                    raise _refusal(number, f"it does not match its supertype {supertype}: {mismatch}")
        return pending

    def _mismatch(
        self,
        composite: CompositeType,
        extended: CompositeType,
        pending: _Pending,
        in_module: Callable[[int], int],
    ) -> str | None:
        """Why a type with this composite type may not extend one with the other; None if it may."""
        # Each pair of parts that has to match: where, the part on the subtype's side, the other. Fields are covariant,
        # and function results; parameters are contravariant, so there the sides change places.
        pairs: list[tuple[str, FieldType, FieldType]]
        match composite, extended:
            case StructType(fields), StructType(inherited):
                if len(fields) < len(inherited):
                    return f"it has {len(fields)} of {len(inherited)} inherited fields"
                pairs = [
                    (f"field {position}", own, above)
                    for position, (own, above) in enumerate(zip(fields, inherited, strict=False))
                ]
            case ArrayType(element), ArrayType(inherited_element):
                pairs = [("the element", element, inherited_element)]
            case FuncType(params, results), FuncType(inherited_params, inherited_results):
                if (len(params), len(results)) != (len(inherited_params), len(inherited_results)):
                    return (
                        f"it has {len(params)} params and {len(results)} results,"
                        f" not {len(inherited_params)} and {len(inherited_results)}"
                    )
                pairs = [
                    (f"inherited param {position}", FieldType(above, False), FieldType(own, False))
                    for position, (own, above) in enumerate(zip(params, inherited_params, strict=True))
                ]
                pairs += [
                    (f"result {position}", FieldType(own, False), FieldType(above, False))
                    for position, (own, above) in enumerate(zip(results, inherited_results, strict=True))
                ]
            case _:
                return f"{_KINDS[type(composite)]} types cannot extend {_KINDS[type(extended)]} types"
        for place, below, above in pairs:
            if below.mutable or above.mutable:
                fits = below == above  # what can be written is invariant; indices are canonical, so that is `==`
            else:
                fits = self._matches(below.storage, above.storage, pending)
            if not fits:
                return f"{place} is {_map_field(below, in_module)}, which does not match {_map_field(above, in_module)}"
        return None

    # Look-up

    def _entry(self, index: int, pending: _Pending | None = None) -> _Entry:
        """The entry of a type; `pending` ones are as if they were registered."""
        registered = len(self._entries) if pending is None else pending.base
        if _is_index(index) and 0 <= index < registered + len(pending or ()):
            return self._entries[index] if pending is None or index < registered else pending[index - registered]
        allowed = f"0 to {registered - 1}" if registered else "none yet"
        raise UnknownTypeError(f"{index!r} is not a type index of this engine; allowed: {allowed}")

    def __len__(self) -> int:
        """The number of registered types."""
        return len(self._entries)

    def __getitem__(self, index: int) -> SubType:
        """The definition of a type; the type indices in it are the engine's."""
        return self._entry(index).definition

    def __iter__(self) -> Iterator[int]:
        """The indices of the types registered so far, in order."""
        return iter(range(len(self._entries)))

    def __contains__(self, index: object) -> bool:
        """Whether this is the index of a registered type."""
        return isinstance(index, int) and _is_index(index) and 0 <= index < len(self._entries)

    def describe(self, type: HeapType | StorageType | FieldType | CompositeType | SubType) -> str:
        """The text format of any type, for messages. A type index gives the definition that it stands for."""
        return str(self[type] if isinstance(type, int) else type)

    # Subtyping

    def supertypes(self, index: int) -> tuple[int, ...]:
        """The type's display: its chain of declared supertypes, from the root down to and including the type itself."""
        return self._entry(index).display

    def is_subtype(self, a: HeapType, b: HeapType) -> bool:
        """Whether every reference to an `a` is one to a `b`: the specification's matching of heap types."""
        return self._is_subtype(a, b, None)

    def matches(self, a: StorageType, b: StorageType) -> bool:
        """Whether an `a` may stand where a `b` is wanted; number, vector and packed types match only themselves."""
        return self._matches(a, b, None)

    def _is_subtype(self, a: HeapType, b: HeapType, pending: _Pending | None) -> bool:
        if isinstance(b, int):
            display = self._entry(b, pending).display
            if isinstance(a, int):
                depth = len(display) - 1
                chain = self._entry(a, pending).display
                return depth < len(chain) and chain[depth] == b
            # Of the abstract types, only the bottom of its hierarchy stands below a defined one.
            return a is _BOTTOMS[_TOPS[self._kind(b, pending)]]
        return b in _SUPERTYPES[self._kind(a, pending)]

    def _matches(self, a: StorageType, b: StorageType, pending: _Pending | None) -> bool:
        if isinstance(a, RefType) and isinstance(b, RefType):
            return (b.nullable or not a.nullable) and self._is_subtype(a.heap_type, b.heap_type, pending)
        return a == b

    def _kind(self, heap_type: HeapType, pending: _Pending | None = None) -> AbstractHeapType:
        """The lowest abstract heap type that holds all of this one: itself, or struct, array or func."""
        if isinstance(heap_type, int):
            return _KINDS[type(self._entry(heap_type, pending).definition.composite)]
        return heap_type

    def top(self, heap_type: HeapType) -> AbstractHeapType:
        """The supertype of all of its hierarchy: any, extern, func or exn."""
        return _TOPS[self._kind(heap_type)]

    def bottom(self, heap_type: HeapType) -> AbstractHeapType:
        """The subtype of all of its hierarchy, which only null has: none, noextern, nofunc or noexn."""
        return _BOTTOMS[self.top(heap_type)]

    def is_traced(self, storage: StorageType) -> bool:
        """Whether a field of this type may hold what the collector counts.

        That is any reference but an i31, which is no object, or one to a function, which is none in the GC heap.
        Decided by the type alone, as in wasmtime: a field that can only be null, such as a `nullref`, is traced too.
        """
        if not isinstance(storage, RefType):
            return False
        found = self._traced.get(storage.heap_type)
        if found is None:
            heap_type = storage.heap_type
            found = heap_type is not AbstractHeapType.I31 and self.top(heap_type) in _TRACED_TOPS
            self._traced[heap_type] = found
        return found

    # Names

    def name_type(self, index: int, name: str) -> None:
        """Remember what a module calls a type. The first name stays."""
        self._entry(index)
        with self._lock:
            names = self._names.setdefault(index, _Names())
            if names.type_name is None:
                names.type_name = name

    def type_name(self, index: int) -> str | None:
        """The first name that a module gave to the type, or None."""
        self._entry(index)
        names = self._names.get(index)
        return None if names is None else names.type_name

    def name_fields(self, index: int, names: Mapping[int, str]) -> None:
        """Remember what a module calls the fields of a struct type: names by position.

        Modules may differ: a field can have several names. Raises `TypeDefinitionError`, and remembers none of them, if
        a position is not that of a field.
        """
        composite = self[index].composite
        count = len(composite.fields) if isinstance(composite, StructType) else 0
        for position, name in names.items():
            if not (_is_index(position) and 0 <= position < count):
                raise TypeDefinitionError(
                    f"{name!r} cannot name field {position!r} of {self._label(index)}, which has {count} fields"
                )
        with self._lock:
            known = self._names.setdefault(index, _Names())
            for position, name in names.items():
                known.fields.setdefault(position, name)
                # Replaced, not changed, so that a reader sees the list before or after, and never in between.
                known.positions[name] = sorted({*known.positions.get(name, ()), position})

    def field_names(self, index: int) -> dict[int, str]:
        """The first name that each field was given, by position; fields without a name are left out."""
        self._entry(index)
        with self._lock:
            names = self._names.get(index)
            return {} if names is None else dict(sorted(names.fields.items()))

    def field_index(self, index: int, name: str) -> int:
        """The position of the field that some module calls `name`; inherited fields need names of their own.

        Raises `FieldNameError`, which is a `KeyError`, if there is none, or if modules mean different fields by it.
        """
        composite = self[index].composite
        label = self._label(index)
        if not isinstance(composite, StructType):
            raise FieldNameError(f"{label} has no field {name!r}: it is {composite}, not a struct type")
        with self._lock:
            names = self._names.get(index)
            known = {} if names is None else dict(names.positions)
        positions = known.get(name, [])
        if len(positions) == 1:
            return positions[0]
        if positions:
            fields = ", ".join(map(str, positions))
            raise FieldNameError(f"field {name!r} of {label} is ambiguous: modules call fields {fields} by that name")
        if not known:
            raise FieldNameError(
                f"{label} has no field {name!r}: no module named its fields; use a number below {len(composite.fields)}"
            )
        listed = ", ".join(f"{known_name!r}" for known_name in sorted(known, key=lambda each: (known[each], each)))
        raise FieldNameError(f"{label} has no field {name!r}; its fields are {listed}")

    def _label(self, index: int) -> str:
        name = self.type_name(index)
        return f"type {index}" if name is None else f"type {index} (${printable(name)})"
