"""The type model and its registry, with wasmtime's validator as the independent opinion on subtyping and equality."""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import wasmtime
from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.combinations import examples

from lowheap import types
from lowheap.errors import LowheapError, TypeDefinitionError
from lowheap.types import (
    ANYREF,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    V128,
    AbstractHeapType,
    ArrayType,
    CompositeType,
    FieldNameError,
    FieldType,
    FuncType,
    HeapType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TypeRegistry,
    UnknownTypeError,
    ValType,
    storage_size,
)

ABSTRACT = tuple(AbstractHeapType)
BY_NAME = {heap_type.value: heap_type for heap_type in ABSTRACT}
SCALARS: tuple[ValType, ...] = (I32, I64, F32, F64, V128)
PACKED = (I8, I16)

Group = tuple[SubType, ...]


def ref(heap_type: HeapType) -> RefType:
    return RefType(False, heap_type)


def ref_null(heap_type: HeapType) -> RefType:
    return RefType(True, heap_type)


def struct(*storages: StorageType, mutable: bool = False) -> StructType:
    return StructType(tuple(FieldType(storage, mutable) for storage in storages))


def open_type(composite: CompositeType, supertype: int | None = None) -> SubType:
    return SubType(composite, supertype, final=False)


# --- wasmtime's opinion ----------------------------------------------------------------------------------------------


def _validating_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    config.wasm_function_references = True
    config.wasm_gc = True
    config.wasm_exceptions = True
    return wasmtime.Engine(config)


ENGINE = _validating_engine()


def wasmtime_validates(groups: Sequence[Group], functions: str = "") -> bool:
    """Whether wasmtime finds a module of these groups and functions valid; bad text is a fault of the test."""
    recs = "".join(f"(rec {''.join(f'(type {member})' for member in group)})" for group in groups)
    binary = wasmtime.wat2wasm(f"(module {recs} {functions})")
    try:
        wasmtime.Module.validate(ENGINE, binary)
    except wasmtime.WasmtimeError:
        return False
    return True


def passing(value: ValType, wanted: ValType) -> str:
    """A function that is valid iff a `value` may stand where a `wanted` is wanted."""
    return f"(func (param {value}) (result {wanted}) local.get 0)"


def test_the_oracle_can_say_no() -> None:
    assert wasmtime_validates([], passing(I32, I32))
    assert not wasmtime_validates([], passing(I32, I64))
    assert wasmtime_validates([], passing(types.NULLEXNREF, types.EXNREF))


# --- Random modules --------------------------------------------------------------------------------------------------


def values(count: int) -> st.SearchStrategy[ValType]:
    """Value types in a module of `count` types; mostly references, which are what is hard."""
    heap_types: st.SearchStrategy[HeapType] = st.sampled_from(ABSTRACT)
    if count:
        heap_types = st.one_of(st.integers(0, count - 1), st.integers(0, count - 1), heap_types)
    references = st.builds(RefType, st.booleans(), heap_types)
    return st.one_of(references, references, st.sampled_from(SCALARS))


def fields(count: int) -> st.SearchStrategy[FieldType]:
    return st.builds(FieldType, st.one_of(values(count), values(count), st.sampled_from(PACKED)), st.booleans())


@st.composite
def composites(draw: st.DrawFn, count: int, extended: CompositeType | None) -> CompositeType:
    """A composite type; one that may or may not fit to extend another, if that is given."""

    def near_field(part: FieldType) -> FieldType:
        change = draw(st.integers(0, 7))
        if change == 0:
            return FieldType(part.storage, not part.mutable)
        return FieldType(draw(fields(count)).storage, part.mutable) if change < 3 else part

    def near_values(parts: Sequence[ValType]) -> tuple[ValType, ...]:
        return tuple(draw(values(count)) if draw(st.integers(0, 3)) == 0 else part for part in parts)

    match extended if draw(st.integers(0, 15)) else None:
        case StructType(inherited):
            kept = inherited if draw(st.integers(0, 7)) else inherited[:-1]
            return StructType((*map(near_field, kept), *draw(st.lists(fields(count), max_size=1))))
        case ArrayType(element):
            return ArrayType(near_field(element))
        case FuncType(params, results):
            return FuncType(near_values(params), near_values(results))
    structs = st.lists(fields(count), max_size=3).map(lambda drawn: StructType(tuple(drawn)))
    few = st.lists(values(count), max_size=2).map(tuple)
    return draw(st.one_of(structs, st.builds(ArrayType, fields(count)), st.builds(FuncType, few, few)))


@st.composite
def groups_after(draw: st.DrawFn, earlier: Sequence[Group]) -> Group:
    """A recursion group to follow others in a module; its declared supertypes may be wrong."""
    defined = [member for group in earlier for member in group]
    first = len(defined)
    size = draw(st.integers(1, 3))
    for number in range(first, first + size):
        supertype = draw(st.one_of(st.integers(0, number - 1), st.none())) if number else None
        extended = defined[supertype].composite if supertype is not None else None
        composite = draw(composites(first + size, extended))
        defined.append(SubType(composite, supertype, final=draw(st.integers(0, 5)) == 0))
    return tuple(defined[first:])


def map_indices(group: Group, index_of: Callable[[int], int]) -> Group:
    """The group with its type indices replaced; they are the only ints in it."""

    def mapped(part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(map(mapped, part))
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return dataclasses.replace(
                part, **{member.name: mapped(getattr(part, member.name)) for member in dataclasses.fields(part)}
            )
        return index_of(part) if type(part) is int else part

    return tuple(map(mapped, group))


@st.composite
def copies(draw: st.DrawFn, earlier: Sequence[Group], canonical: Sequence[int]) -> Group:
    """An earlier group again, or nearly: its references outwards may go to other types that are equal, or are not."""
    position = draw(st.integers(0, len(earlier) - 1))
    group = earlier[position]
    old_first = sum(map(len, earlier[:position]))
    new_first = len(canonical)
    loose = draw(st.integers(0, 3)) == 0

    def moved(index: int) -> int:
        if old_first <= index < old_first + len(group):
            return new_first + index - old_first
        twins = [other for other in range(new_first) if loose or canonical[other] == canonical[index]]
        return draw(st.sampled_from(twins))

    copy = map_indices(group, moved)
    match draw(st.integers(0, 7)):
        case 0:
            return (SubType(copy[0].composite, copy[0].supertype, not copy[0].final), *copy[1:])
        case 1:
            return (*copy, copy[0])
        case _:
            return copy


def without_supertypes(group: Group) -> Group:
    return tuple(SubType(member.composite, None, member.final) for member in group)


class Universe:
    """A valid module: its groups, and the engine's index of each of its types in a registry."""

    def __init__(self) -> None:
        self.registry = TypeRegistry()
        self.groups: list[Group] = []
        self.canonical: list[int] = []

    def add(self, group: Group) -> None:
        self.canonical += self.registry.register(group, outer=self.canonical)
        self.groups.append(group)

    def try_to_add(self, group: Group) -> str | None:
        """Add the group if it is well formed; otherwise tell what is wrong with it."""
        try:
            self.add(group)
        except TypeDefinitionError as error:
            return str(error)
        return None

    def heap_types(self) -> list[tuple[HeapType, HeapType]]:
        """Every heap type, as the module writes it and as the registry does."""
        return [*((heap_type, heap_type) for heap_type in ABSTRACT), *enumerate(self.canonical)]


@st.composite
def universes(draw: st.DrawFn) -> Universe:
    """A random valid module in which some groups come more than once."""
    universe = Universe()
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()) and universe.groups:
            group = draw(copies(universe.groups, universe.canonical))
        else:
            group = draw(groups_after(universe.groups))
        if universe.try_to_add(group) is not None:
            universe.add(without_supertypes(group))
    return universe


# --- Subtyping -------------------------------------------------------------------------------------------------------

# Written out in full, from the specification: each abstract heap type and all that it matches.
ABSTRACT_TABLE = {
    "any": "any",
    "eq": "eq any",
    "i31": "i31 eq any",
    "struct": "struct eq any",
    "array": "array eq any",
    "none": "none i31 struct array eq any",
    "extern": "extern",
    "noextern": "noextern extern",
    "func": "func",
    "nofunc": "nofunc func",
    "exn": "exn",
    "noexn": "noexn exn",
}
TOP_AND_BOTTOM = {
    **dict.fromkeys(["any", "eq", "i31", "struct", "array", "none"], ("any", "none")),
    **dict.fromkeys(["extern", "noextern"], ("extern", "noextern")),
    **dict.fromkeys(["func", "nofunc"], ("func", "nofunc")),
    **dict.fromkeys(["exn", "noexn"], ("exn", "noexn")),
}
DEFINED_KINDS: list[tuple[CompositeType, str]] = [
    (struct(), "struct"),
    (ArrayType(FieldType(I8, True)), "array"),
    (FuncType((), ()), "func"),
]


def test_abstract_heap_types() -> None:
    registry = TypeRegistry()
    assert set(ABSTRACT_TABLE) == set(TOP_AND_BOTTOM) == set(BY_NAME)
    for a, b in itertools.product(ABSTRACT, repeat=2):
        expected = b.value in ABSTRACT_TABLE[a.value].split()
        assert registry.is_subtype(a, b) == expected, (a, b)
        assert registry.matches(ref(a), ref_null(b)) == expected
        assert wasmtime_validates([], passing(ref(a), ref(b))) == expected, (a, b)
    for name, (top, bottom) in TOP_AND_BOTTOM.items():
        assert registry.top(BY_NAME[name]) is BY_NAME[top]
        assert registry.bottom(BY_NAME[name]) is BY_NAME[bottom]


@pytest.mark.parametrize(("composite", "kind"), DEFINED_KINDS)
def test_defined_types_among_the_abstract(composite: CompositeType, kind: str) -> None:
    registry = TypeRegistry()
    (index,) = registry.register([SubType(composite)])
    top, bottom = TOP_AND_BOTTOM[kind]
    for heap_type in ABSTRACT:
        assert registry.is_subtype(index, heap_type) == (heap_type.value in ABSTRACT_TABLE[kind].split())
        assert registry.is_subtype(heap_type, index) == (heap_type.value == bottom)
    assert registry.is_subtype(index, index)
    assert registry.top(index) is BY_NAME[top]
    assert registry.bottom(index) is BY_NAME[bottom]


def test_nullability() -> None:
    registry = TypeRegistry()
    (index,) = registry.register([SubType(struct())])
    for heap_type in (AbstractHeapType.ANY, index):
        assert registry.matches(ref(heap_type), ref_null(heap_type))
        assert not registry.matches(ref_null(heap_type), ref(heap_type))


def test_every_pair_of_storage_types_as_array_elements() -> None:
    """`matches` on all storage types, and the rule for elements with and without mutability, against wasmtime."""
    registry = TypeRegistry()
    base = (open_type(struct()),)
    extension = (open_type(struct(I32), 0),)
    function = (SubType(FuncType((), ())),)
    groups = [base, extension, function]
    outer: list[int] = []
    for group in groups:
        outer += registry.register(group, outer=outer)
    heap_types: list[HeapType] = [*ABSTRACT, *outer]
    references = [RefType(nullable, heap_type) for nullable in (False, True) for heap_type in heap_types]
    everything: list[StorageType] = [*SCALARS, *PACKED, *references]
    for a, b in itertools.product(everything, repeat=2):
        arrays = (open_type(ArrayType(FieldType(b, False))), open_type(ArrayType(FieldType(a, False)), 3))
        assert registry.matches(a, b) == wasmtime_validates([*groups, arrays]), (str(a), str(b))
    some: list[StorageType] = [I8, I32, ANYREF, types.EQREF, ref_null(0), ref_null(1)]
    for a, b in itertools.product(some, repeat=2):
        for mutable_a, mutable_b in itertools.product((False, True), repeat=2):
            arrays = (open_type(ArrayType(FieldType(b, mutable_b))), open_type(ArrayType(FieldType(a, mutable_a)), 3))
            assert registers(registry, arrays, outer) == wasmtime_validates([*groups, arrays])


@settings(deadline=None, max_examples=40)
@given(universes())
def test_subtyping_is_a_partial_order(universe: Universe) -> None:
    registry = universe.registry
    heap_types: list[HeapType] = [*ABSTRACT, *registry]
    below = {a: {b for b in heap_types if registry.is_subtype(a, b)} for a in heap_types}
    for a in heap_types:
        assert a in below[a]
        assert {registry.top(a)} <= below[a]
        assert a in below[registry.bottom(a)]
        for b in below[a]:
            assert below[b] <= below[a], "transitive"
            assert a == b or a not in below[b], "antisymmetric"
            assert registry.top(a) is registry.top(b), "no crossing of hierarchies"
    for index in registry:
        chain = registry.supertypes(index)
        assert chain[-1] == index
        assert [registry[member].supertype for member in chain] == [None, *chain[:-1]]
        assert {other for other in below[index] if isinstance(other, int)} == set(chain)


@settings(deadline=None, max_examples=examples(30, 60))
@given(universes())
def test_matching_agrees_with_wasmtime(universe: Universe) -> None:
    """All pairs of heap types of a module with repeated groups: so this tests equality of groups, too."""
    registry = universe.registry
    valid: list[str] = []
    for (written_a, a), (written_b, b) in itertools.product(universe.heap_types(), repeat=2):
        for nullable_a, nullable_b in itertools.product((False, True), repeat=2):
            matches = registry.matches(RefType(nullable_a, a), RefType(nullable_b, b))
            function = passing(RefType(nullable_a, written_a), RefType(nullable_b, written_b))
            if matches:
                valid.append(function)
            elif nullable_a == nullable_b == isinstance(a, int) or (nullable_a > nullable_b and a == b):
                assert not wasmtime_validates(universe.groups, function), function
    assert wasmtime_validates(universe.groups, "".join(valid))
    event(f"equal groups: {len(registry) < len(universe.canonical)}")


# --- Well-formedness -------------------------------------------------------------------------------------------------


def registers(registry: TypeRegistry, group: Group, outer: Sequence[int]) -> bool:
    try:
        registry.register(group, outer=outer)
    except TypeDefinitionError:
        return False
    return True


@st.composite
def candidates(draw: st.DrawFn) -> list[Group]:
    """Groups for one module, of which each may be ill formed; supertypes of later members are possible."""
    groups: list[Group] = []
    for _ in range(draw(st.integers(1, 4))):
        groups.append(draw(groups_after(groups)))
    return groups


@settings(deadline=None, max_examples=examples(60, 150))
@given(candidates())
def test_well_formed_iff_wasmtime_validates(groups: list[Group]) -> None:
    universe = Universe()
    for group in groups:
        before = contents(universe.registry)
        problem = universe.try_to_add(group)
        if problem is None:
            event("extends" if any(member.supertype is not None for member in group) else "no supertype")
            assert wasmtime_validates(universe.groups)
        else:
            event("refused")
            assert not wasmtime_validates([*universe.groups, group]), problem
            assert contents(universe.registry) == before
            universe.add(without_supertypes(group))


def contents(registry: TypeRegistry) -> tuple[object, ...]:
    """All that a registry holds, in a form that later changes leave alone."""
    return (
        [(index, registry[index], registry.supertypes(index), registry.type_name(index)) for index in registry],
        dict(registry._groups),
    )


OUTER = (open_type(struct(ANYREF)), open_type(FuncType((ANYREF,), (ANYREF,))), SubType(struct()))
ILL_FORMED: list[tuple[str, Group, str]] = [
    ("no such supertype", (SubType(struct(), 9),), "the group refers to type 9, which does not exist: there are 3"),
    ("negative index", (SubType(struct(ref(-1))),), "the group refers to type -1, which does not exist"),
    ("a reference past the group", (SubType(struct(ref(4))),), "type 4, which does not exist"),
    ("its own supertype", (open_type(struct(), 3),), "type 3: its supertype 3 is not defined before it"),
    ("a later supertype", (SubType(struct(), 4), open_type(struct())), "type 3: its supertype 4 is not defined before"),
    ("final supertype", (SubType(struct(), 2),), "type 3: its supertype 2 is final"),
    ("final supertype in the group", (SubType(struct()), SubType(struct(), 3)), "type 4: its supertype 3 is final"),
    ("another kind", (SubType(FuncType((), ()), 0),), "func types cannot extend struct types"),
    ("too narrow", (SubType(struct(), 0),), "does not match its supertype 0: it has 0 of 1 inherited fields"),
    (
        "too general a field",
        (SubType(struct(types.EXTERNREF), 0),),
        "field 0 is externref, which does not match anyref",
    ),
    ("mutability", (SubType(struct(ANYREF, mutable=True), 0),), "field 0 is (mut anyref), which does not match anyref"),
    (
        "a mutable field is invariant",
        (open_type(struct(ANYREF, mutable=True)), SubType(struct(ref_null(0), mutable=True), 3)),
        "type 4: it does not match its supertype 3: field 0 is (mut (ref null 0)), which does not match (mut anyref)",
    ),
    (
        "a member that extends nothing",
        (open_type(struct(ref(4))), open_type(struct()), SubType(struct(ref(2)), 3)),
        "type 5: it does not match its supertype 3: field 0 is (ref 2), which does not match (ref 4)",
    ),
    (
        "element",
        (open_type(ArrayType(FieldType(I8, False))), SubType(ArrayType(FieldType(I16, False)), 3)),
        "the element",
    ),
    ("param count", (SubType(FuncType((), (ANYREF,)), 1),), "it has 0 params and 1 results, not 1 and 1"),
    ("result count", (SubType(FuncType((ANYREF,), ()), 1),), "it has 1 params and 0 results, not 1 and 1"),
    ("a narrower param", (SubType(FuncType((ref(0),), (ANYREF,)), 1),), "inherited param 0 is anyref, which does not"),
    (
        "a wider result",
        (SubType(FuncType((ANYREF,), (types.FUNCREF,)), 1),),
        "result 0 is funcref, which does not match",
    ),
]


@pytest.mark.parametrize(("group", "message"), [row[1:] for row in ILL_FORMED], ids=[row[0] for row in ILL_FORMED])
def test_ill_formed_groups_are_refused_and_leave_no_trace(group: Group, message: str) -> None:
    registry = TypeRegistry()
    registry.register([SubType(ArrayType(FieldType(F64, True)))])  # so that engine and module number differently
    outer = [index for member in OUTER for index in registry.register([member])]
    before = contents(registry)
    with pytest.raises(TypeDefinitionError, match=re.escape(message)):
        registry.register(group, outer=outer)
    assert contents(registry) == before
    if "-1" not in message:
        assert not wasmtime_validates([(member,) for member in OUTER] + [group])
    assert registry.register([SubType(struct(F32))]) == (4,)


def test_an_outer_type_must_be_registered() -> None:
    registry = TypeRegistry()
    registry.register([open_type(struct())])
    for bad in (1, -1):
        with pytest.raises(
            UnknownTypeError, match=re.escape(f"{bad} is not a type index of this engine; allowed: 0 to 0")
        ):
            registry.register([SubType(struct(), 0)], outer=[bad])
    assert len(registry) == 1


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (struct(), "(struct) is not a SubType"),
        (SubType(I32), "i32 is not a struct, array or function type"),  # type: ignore[arg-type]
        (SubType(StructType((I32,))), "field 0 is i32, which is not a FieldType"),  # type: ignore[arg-type]
        (SubType(ArrayType(ANYREF)), "the element is anyref, which is not a FieldType"),  # type: ignore[arg-type]
        (SubType(struct("i32")), "field 0 is i32, which is not a value type"),  # type: ignore[arg-type]
        (SubType(FuncType((I8,), ())), "param 0 is i8, which is not a value type"),  # type: ignore[arg-type]
        (SubType(FuncType((), (I32, I16))), "result 1 is i16, which is not a value type"),  # type: ignore[arg-type]
        (SubType(struct(ref(True))), "field 0 refers to True, which is not a heap type"),
        (SubType(struct(ref("any"))), "field 0 refers to 'any', which is not a heap type"),  # type: ignore[arg-type]
        (SubType(struct(), "0"), "its supertype is '0', which is not a type index"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_type_is_refused(definition: SubType, message: str) -> None:
    registry = TypeRegistry()
    with pytest.raises(TypeDefinitionError, match=re.escape(message)):
        registry.register([definition])
    assert len(registry) == 0


LIMITS: list[tuple[Callable[[int], CompositeType], int, str]] = [
    (lambda count: struct(*[I32] * count), 10_000, "it has 10001 fields; at most 10000 are allowed"),
    (lambda count: FuncType((I32,) * count, ()), 1_000, "it has 1001 params; at most 1000 are allowed"),
    (lambda count: FuncType((), (I32,) * count), 1_000, "it has 1001 results; at most 1000 are allowed"),
]


@pytest.mark.parametrize(("make", "limit", "message"), LIMITS)
def test_size_limits_are_those_of_wasmtime(make: Callable[[int], CompositeType], limit: int, message: str) -> None:
    registry = TypeRegistry()
    largest, too_large = (SubType(make(limit)),), (SubType(make(limit + 1)),)
    assert registry.register(largest) == (0,)
    assert wasmtime_validates([largest])
    with pytest.raises(TypeDefinitionError, match=re.escape(message)):
        registry.register(too_large)
    assert not wasmtime_validates([too_large])


def test_depth_limit_is_that_of_wasmtime() -> None:
    chain = [(open_type(struct(), depth - 1 if depth else None),) for depth in range(65)]
    registry = TypeRegistry()
    for depth, group in enumerate(chain[:-1]):
        assert registry.register(group, outer=range(depth)) == (depth,)
    assert wasmtime_validates(chain[:-1])
    with pytest.raises(TypeDefinitionError, match="type 64: it has 64 supertypes above it; at most 63 are allowed"):
        registry.register(chain[-1], outer=range(64))
    assert not wasmtime_validates(chain)
    assert registry.supertypes(63) == tuple(range(64))
    # The same in one group.
    with pytest.raises(TypeDefinitionError, match="at most 63 are allowed"):
        TypeRegistry().register([member for group in chain for member in group])


def test_type_count_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert types.MAX_TYPES == 1_000_000
    monkeypatch.setattr(types, "MAX_TYPES", 3)
    registry = TypeRegistry()
    pair = (SubType(struct(I32)), SubType(struct(I64)))
    assert registry.register(pair) == (0, 1)
    with pytest.raises(TypeDefinitionError, match="no room for 2 more types: the engine has 2 of at most 3"):
        registry.register([SubType(struct()), SubType(struct())])
    assert registry.register([SubType(struct())]) == (2,)
    assert registry.register(pair) == (0, 1), "a known group needs no room"


# --- Equality of groups ----------------------------------------------------------------------------------------------


def same_in_wasmtime(first: Group, second: Group) -> bool:
    """Whether wasmtime takes the first members of two groups for one type."""
    there = passing(ref(0), ref(len(first)))
    back = passing(ref(len(first)), ref(0))
    shifted = map_indices(second, lambda index: index + len(first))
    return wasmtime_validates([first, shifted], there + back)


RECURSIVE = (SubType(struct(I32, ref_null(0))),)
MUTUAL = (SubType(struct(ref_null(1))), SubType(struct(ref_null(0), I32)))
NODE = (open_type(struct(ref_null(0))), SubType(struct(ref_null(0), ref(1)), 0))
GROUPS: list[Group] = [
    RECURSIVE,
    MUTUAL,
    NODE,
    (SubType(ArrayType(FieldType(ref_null(0), True))),),
    (SubType(FuncType((ref(0), I32), (ref_null(0),))),),
    (SubType(struct()), SubType(struct()), SubType(struct())),
]
DIFFERENT: list[tuple[str, Group, Group]] = [
    ("finality", (SubType(struct()),), (open_type(struct()),)),
    ("mutability", (SubType(struct(I32)),), (SubType(struct(I32, mutable=True)),)),
    ("nullability", RECURSIVE, (SubType(struct(I32, ref(0))),)),
    ("field order", (SubType(struct(I32, I64)),), (SubType(struct(I64, I32)),)),
    ("field count", (SubType(struct(I32)),), (SubType(struct(I32, I32)),)),
    ("packing", (SubType(struct(I8)),), (SubType(struct(I16)),)),
    ("params or results", (SubType(FuncType((I32,), ())),), (SubType(FuncType((), (I32,))),)),
    ("struct or array", (SubType(struct(I32)),), (SubType(ArrayType(FieldType(I32, False))),)),
    ("member order", (SubType(struct(I32)), SubType(struct())), (SubType(struct()), SubType(struct(I32)))),
    ("group size", (SubType(struct()),), (SubType(struct()), SubType(struct()))),
    ("abstract or defined", (SubType(struct(ref_null(0))),), (SubType(struct(types.STRUCTREF)),)),
    ("which member", MUTUAL, (SubType(struct(ref_null(0))), SubType(struct(ref_null(0), I32)))),
    # Equal only if one unrolls recursion without end, which is another (the equi-recursive) idea of equality.
    ("unrolling", (SubType(struct(ref(0))),), (SubType(struct(ref(1))), SubType(struct(ref(0))))),
]


@pytest.mark.parametrize("group", GROUPS)
def test_equal_groups_get_equal_indices(group: Group) -> None:
    registry = TypeRegistry()
    first = registry.register(group)
    assert first == tuple(range(len(group)))
    assert registry.register(list(group)) == first
    # In another module, behind other types: the indices in the group differ, the group does not.
    outer = registry.register([SubType(struct(V128)), SubType(struct(F32))])
    again = registry.register(map_indices(group, lambda index: index + len(outer)), outer=outer)
    assert again == first
    assert len(registry) == len(group) + len(outer)
    assert same_in_wasmtime(group, group)


@pytest.mark.parametrize(("first", "second"), [row[1:] for row in DIFFERENT], ids=[row[0] for row in DIFFERENT])
def test_different_groups_get_different_indices(first: Group, second: Group) -> None:
    registry = TypeRegistry()
    assert not set(registry.register(first)) & set(registry.register(second))
    assert not same_in_wasmtime(first, second)


def test_the_supertype_is_part_of_identity() -> None:
    registry = TypeRegistry()
    (root,) = registry.register([open_type(struct())])
    (other_root,) = registry.register([open_type(struct(I32))])
    alone = registry.register([SubType(struct(I32))])
    extends = registry.register([SubType(struct(I32), 0)], outer=[root])
    extends_other = registry.register([SubType(struct(I32), 0)], outer=[other_root])
    assert len({*alone, *extends, *extends_other}) == 3


def test_grouping_is_part_of_identity() -> None:
    registry = TypeRegistry()
    together = registry.register([SubType(struct(I32)), SubType(struct(ref(0)))])
    (first,) = registry.register([SubType(struct(I32))])
    (second,) = registry.register([SubType(struct(ref(0)))], outer=[first])
    assert len({*together, first, second}) == 4
    assert not registry.is_subtype(first, together[0])
    assert not registry.is_subtype(together[0], first)


def test_equal_members_of_one_group_are_different_types() -> None:
    registry = TypeRegistry()
    a, b = registry.register([SubType(struct()), SubType(struct())])
    assert a != b
    assert not registry.is_subtype(a, b)
    functions = passing(ref(0), ref(1))
    assert not wasmtime_validates([(SubType(struct()), SubType(struct()))], functions)


def test_references_outwards_compare_by_what_they_mean() -> None:
    registry = TypeRegistry()
    (small,) = registry.register([SubType(struct(I32))])
    (large,) = registry.register([SubType(struct(I64))])
    (to_small,) = registry.register([SubType(struct(ref(1)))], outer=[large, small])
    assert registry.register([SubType(struct(ref(0)))], outer=[small, large]) == (to_small,)
    assert registry.register([SubType(struct(ref(1)))], outer=[small, large]) != (to_small,)
    assert registry[to_small] == SubType(struct(ref(small)))


def test_an_empty_group_is_a_group() -> None:
    registry = TypeRegistry()
    assert registry.register([]) == ()
    assert len(registry) == 0
    assert wasmtime_validates([()])


def test_a_failed_group_can_be_registered_once_mended() -> None:
    registry = TypeRegistry()
    with pytest.raises(TypeDefinitionError):
        registry.register([SubType(struct(ref(1))), SubType(struct(), 0)])
    assert registry.register([open_type(struct(ref(1))), SubType(struct(ref(1)), 0)]) == (0, 1)
    assert registry.is_subtype(1, 0)


def test_registration_from_many_threads() -> None:
    """Every thread registers the same groups, in its own order; all must be told the same."""
    groups = [
        (SubType(struct(*[I32] * size, ref_null(0))), SubType(ArrayType(FieldType(ref(0), True)))) for size in range(60)
    ]
    registry = TypeRegistry()
    answers: list[dict[int, tuple[int, ...]]] = []
    barrier = threading.Barrier(8)

    def work(seed: int) -> None:
        barrier.wait()
        order = sorted(range(len(groups)), key=lambda number: (number * (2 * seed + 1)) % 61)
        answers.append({number: registry.register(groups[number]) for number in order})

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)
    assert sorted(index for indices in answers[0].values() for index in indices) == list(range(120))
    for number, indices in answers[0].items():
        assert registry[indices[1]] == SubType(ArrayType(FieldType(ref(indices[0]), True)))
        assert registry[indices[0]] == SubType(struct(*[I32] * number, ref_null(indices[0])))


# --- Look-up and text ------------------------------------------------------------------------------------------------


def test_the_registry_is_a_mapping() -> None:
    registry = TypeRegistry()
    assert list(registry) == []
    indices = registry.register([open_type(struct(ref_null(1))), SubType(struct(ref(1)), 0)])
    assert list(registry) == [0, 1] == list(indices)
    assert len(registry) == 2
    assert 1 in registry
    assert all(bad not in registry for bad in (2, -1, True, "0", None))
    assert registry[1] == SubType(struct(ref(1)), 0)
    assert registry.supertypes(1) == (0, 1)


def test_wrong_indices_are_named() -> None:
    registry = TypeRegistry()
    with pytest.raises(IndexError, match="0 is not a type index of this engine; allowed: none yet"):
        registry[0]
    registry.register([SubType(struct())])
    calls: list[Callable[[int], object]] = [
        registry.__getitem__,
        registry.supertypes,
        registry.top,
        registry.bottom,
        registry.describe,
        registry.type_name,
        registry.field_names,
        lambda index: registry.is_subtype(index, AbstractHeapType.ANY),
        lambda index: registry.is_subtype(AbstractHeapType.ANY, index),
        lambda index: registry.matches(ref(index), ref(0)),
        lambda index: registry.is_traced(ref(index)),
        lambda index: registry.field_index(index, "x"),
        lambda index: registry.name_type(index, "x"),
        lambda index: registry.name_fields(index, {}),
    ]
    for call, index in itertools.product(calls, (1, -1)):
        with pytest.raises(UnknownTypeError, match=f"^{index} is not a type index of this engine; allowed: 0 to 0"):
            call(index)
    assert issubclass(UnknownTypeError, TypeDefinitionError)


def test_text() -> None:
    registry = TypeRegistry()
    registry.register([open_type(struct(I32))])
    texts: list[tuple[HeapType | StorageType | FieldType | CompositeType | SubType, str]] = [
        (I32, "i32"),
        (V128, "v128"),
        (I16, "i16"),
        (AbstractHeapType.NOEXTERN, "noextern"),
        (ref_null(3), "(ref null 3)"),
        (ref(3), "(ref 3)"),
        (ref(AbstractHeapType.ANY), "(ref any)"),
        (FieldType(I32, True), "(mut i32)"),
        (
            StructType((FieldType(I32, True), FieldType(ref_null(3), False))),
            "(struct (field (mut i32)) (field (ref null 3)))",
        ),
        (struct(), "(struct)"),
        (ArrayType(FieldType(I8, True)), "(array (mut i8))"),
        (FuncType((I32, ANYREF), (F64,)), "(func (param i32 anyref) (result f64))"),
        (FuncType((), ()), "(func)"),
        (SubType(struct()), "(struct)"),
        (SubType(struct(), 2), "(sub final 2 (struct))"),
        (open_type(struct(), 2), "(sub 2 (struct))"),
        (0, "(sub (struct (field i32)))"),
    ]
    for given_type, text in texts:
        assert registry.describe(given_type) == text


def test_ready_made_references_have_the_keywords_of_the_text_format() -> None:
    keywords = {
        name.lower(): constant
        for name, constant in vars(types).items()
        if isinstance(constant, RefType) and name.isupper()
    }
    top_and_middle = {f"{name}ref" for name in ABSTRACT_TABLE if not name.startswith("no")}
    assert set(keywords) == top_and_middle | {"nullref", "nullexternref", "nullfuncref", "nullexnref"}
    for keyword, reference in keywords.items():
        assert str(reference) == keyword
        # wasmtime reads the keyword as what the constant says it is: neither more nor less.
        written = f"(ref null {reference.heap_type})"
        there = f"(func (param {keyword}) (result {written}) local.get 0)"
        back = f"(func (param {written}) (result {keyword}) local.get 0)"
        assert wasmtime_validates([], there + back)


# --- For the heap ----------------------------------------------------------------------------------------------------


def test_storage_sizes() -> None:
    sizes = {"i8": 1, "i16": 2, "i32": 4, "f32": 4, "i64": 8, "f64": 8, "v128": 16}
    assert {str(storage): storage_size(storage) for storage in (*SCALARS, *PACKED)} == sizes
    heap_types: list[HeapType] = [*ABSTRACT, 5]
    for nullable, heap_type in itertools.product((False, True), heap_types):
        assert storage_size(RefType(nullable, heap_type)) == 4


def test_which_fields_are_traced() -> None:
    registry = TypeRegistry()
    for composite, _ in DEFINED_KINDS:
        registry.register([SubType(composite)])
    h = AbstractHeapType
    traced: set[HeapType] = {h.ANY, h.EQ, h.STRUCT, h.ARRAY, h.NONE, h.EXTERN, h.NOEXTERN, h.EXN, h.NOEXN, 0, 1}
    untraced: set[HeapType] = {h.I31, h.FUNC, h.NOFUNC, 2}
    assert traced | untraced == {*ABSTRACT, *registry}
    for nullable, heap_type in itertools.product((False, True), traced | untraced):
        assert registry.is_traced(RefType(nullable, heap_type)) == (heap_type in traced), heap_type
    assert not any(registry.is_traced(storage) for storage in (*SCALARS, *PACKED))


def test_a_handler_may_register_while_its_thread_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As may a finalizer: its types, and those that were being registered, are right, whoever comes first."""
    registry = TypeRegistry()
    unroll, seen = registry._unroll, []

    def interrupted(*args: Any) -> Any:
        monkeypatch.setattr(registry, "_unroll", unroll)
        before = unroll(*args)
        assert registry._lock.acquire(blocking=False), "the thread itself is not kept out"
        registry._lock.release()
        seen.append(registry.register([SubType(struct(I64))]))
        seen.append(registry.register([SubType(struct(ref_null(0)), final=False), SubType(struct(I32))]))
        return before

    monkeypatch.setattr(registry, "_unroll", interrupted)
    group = [SubType(struct(ref_null(0)), final=False), SubType(struct(ref_null(0), I32), supertype=0)]
    parent, child = registry.register(group)
    assert registry[parent].composite == struct(ref_null(parent))
    assert registry[child].supertype == parent
    assert registry.is_subtype(child, parent)
    assert not registry.is_subtype(parent, child)
    assert registry.register(group) == (parent, child)
    ((other,), (first, second)) = seen
    assert registry[other].composite == struct(I64)
    assert registry[first].composite == struct(ref_null(first))
    assert registry[second].composite == struct(I32)


# --- Names -----------------------------------------------------------------------------------------------------------


def test_names() -> None:
    registry = TypeRegistry()
    (node,) = registry.register([SubType(struct(ref_null(0), ref_null(0), I32))])
    assert registry.type_name(node) is None
    assert registry.field_names(node) == {}
    registry.name_type(node, "node")
    registry.name_fields(node, {2: "value", 0: "left"})
    assert registry.type_name(node) == "node"
    assert registry.field_names(node) == {0: "left", 2: "value"}
    assert list(registry.field_names(node)) == [0, 2]
    assert registry.field_index(node, "value") == 2
    # Another module has the same type, and other names for it.
    assert registry.register([SubType(struct(ref_null(0), ref_null(0), I32))]) == (node,)
    registry.name_type(node, "tree")
    registry.name_fields(node, {0: "first", 1: "second", 2: "value"})
    assert registry.type_name(node) == "node"
    assert registry.field_names(node) == {0: "left", 1: "second", 2: "value"}
    assert [registry.field_index(node, name) for name in ("left", "first", "second", "value")] == [0, 0, 1, 2]
    with pytest.raises(KeyError) as caught:
        registry.field_index(node, "right")
    assert str(caught.value) == "type 0 ($node) has no field 'right'; its fields are 'first', 'left', 'second', 'value'"
    assert isinstance(caught.value, LowheapError)


def test_ambiguous_names() -> None:
    registry = TypeRegistry()
    (pair,) = registry.register([SubType(struct(I32, I32, I32))])
    registry.name_fields(pair, {0: "x", 1: "y"})
    registry.name_fields(pair, {0: "y", 1: "x", 2: "z"})
    with pytest.raises(
        FieldNameError, match=r"^field 'x' of type 0 is ambiguous: modules call fields 0, 1 by that name$"
    ):
        registry.field_index(pair, "x")
    assert registry.field_index(pair, "z") == 2


def test_a_subtype_has_only_its_own_names() -> None:
    registry = TypeRegistry()
    base, extension = registry.register([open_type(struct(I32)), SubType(struct(I32, I64), 0)])
    registry.name_fields(base, {0: "x"})
    with pytest.raises(FieldNameError, match="has no field 'x': no module named its fields; use a number below 2"):
        registry.field_index(extension, "x")
    registry.name_fields(extension, {1: "y"})
    with pytest.raises(FieldNameError, match="has no field 'x'; its fields are 'y'"):
        registry.field_index(extension, "x")


def test_only_fields_that_exist_can_be_named() -> None:
    registry = TypeRegistry()
    pair, array = registry.register([SubType(struct(I32)), SubType(ArrayType(FieldType(I8, True)))])
    for index, position, count in ((pair, 1, 1), (pair, -1, 1), (array, 0, 0)):
        message = f"'y' cannot name field {position} of type {index}, which has {count} fields"
        with pytest.raises(TypeDefinitionError, match=message):
            registry.name_fields(index, {0: "x", position: "y"} if index == pair else {position: "y"})
    assert registry.field_names(pair) == {}
    with pytest.raises(
        FieldNameError, match=re.escape("type 1 has no field 'y': it is (array (mut i8)), not a struct")
    ):
        registry.field_index(array, "y")


def test_names_are_no_part_of_identity() -> None:
    registry = TypeRegistry()
    before = registry.register(MUTUAL)
    registry.name_fields(before[0], {0: "next"})
    registry.name_type(before[0], "cell")
    assert registry.register(MUTUAL) == before
