"""Types of objects as one store has them, and the conversion of values both ways.

Python values and WebAssembly values correspond like this:

- i32, i64: an int, signed when read; written, anything from the least signed to the greatest unsigned value;
- i8, i16 (fields and elements only): an int, unsigned when read; written as above;
- f32, f64: a float;
- v128: an int, unsigned when read; written, as above, or 16 bytes;
- a reference: None for null, `Struct`, `Array`, `I31`, `ExternRef`, `Func`. Where an externref is wanted, any other
  Python value is wrapped in a new `ExternRef`; where an i31ref is wanted, an int will do. In a store that has strings
  (`Store.use_strings`), a str is none of these: it becomes a string on the heap, and strings are read as str.

What has `__index__` will do for an int, and what has `__float__` for a float, as numpy's numbers have; a bool will not.

Each type of a store's objects has a class of its own, a subclass of `Struct` or `Array` that is made when it is first
asked for (`BoundType`): it knows where fields are, so that reading one is a look-up and one step. `type.bind(store)`
returns that class: `Cell = cell_type.bind(store)`, `Cell(left, right)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from typing import Any, cast

from lowheap import strings
from lowheap.collectors import host
from lowheap.critical import whole
from lowheap.errors import ForeignReferenceError, HeapError
from lowheap.hostdata import Finalizer
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    HEADER_SIZE,
    KIND_MASK,
    NULL,
    OBJECT_KINDS,
    U32_MAX,
    VMDrcArrayHeader,
    VMDrcExnHeader,
    VMDrcExternRef,
    VMGcHeader,
    VMGcKind,
    i31_get_s,
    is_i31,
    is_object,
)
from lowheap.native import Heap
from lowheap.objects import Array, ExnRef, ExternRef, Func, GcObject, Struct, TypedObject, no_handle_left
from lowheap.operations import exclusive, view_of
from lowheap.representation import printable
from lowheap.store import Store, check_store
from lowheap.types import (
    AbstractHeapType,
    ArrayType,
    FieldType,
    FuncType,
    HeapType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    StructType,
    SubType,
    VectorType,
    storage_size,
)
from lowheap.values import (
    FLOAT_TYPES,
    FORMATS,
    I31,
    NOTHING_KEPT,
    RANGES,
    REFERENCE_FORMAT,
    Lowering,
    as_index,
    lift_vector,
    number_format,
    scalar_lowering,
)

_new = object.__new__  # looked up once: handles are made often
_alone = exclusive("store.lock")

# ----------------------------------------------------------------------------------------------------------------------
# Values


def lowering(store: Store, wanted: StorageType) -> Lowering:
    """Return what lowers values of a type for a store, a reference as one that is borrowed of a handle."""
    if not isinstance(wanted, RefType):
        return scalar_lowering(wanted)
    made: Lowering | None = store.lowerings.get(wanted)
    if made is None:
        made = store.lowerings[wanted] = _reference_lowering(store, wanted)
    return made


def _reference_lowering(store: Store, wanted: RefType) -> Lowering:
    is_nullable, is_extern = wanted.nullable, wanted.heap_type is AbstractHeapType.EXTERN
    takes_strings = is_extern or wanted.heap_type is AbstractHeapType.ANY
    host_data, bound_types = store.host_data, store.bound_types
    accepted: set[type] = set()  # classes whose objects were found to match: each is of one type, in this memory

    def lower(value: Any, kept: list[Any]) -> int:
        if value is None and is_nullable:
            return NULL
        if type(value) in accepted and value._cell.number and value._bound_type.binding is host_data.binding:
            return cast(int, value._reference)
        if takes_strings and isinstance(value, str) and store.strings is not None:
            kept.append(string := new_string(store, value))
            return string.reference
        if is_extern and value is not None and not isinstance(value, _REFERENCE_CLASSES):
            bound_type = bound_types.get(EXTERNREF_TYPE_INDEX)
            if bound_type is None or bound_type.binding is not host_data.binding:
                bound_type = _bound_type_of(store, EXTERNREF_TYPE_INDEX)
            made: Any = bound_type.new_externref(value, None)
            kept.append(made)
            return cast(int, made._reference)
        raw = lower_reference(store, wanted, value, kept)
        if isinstance(value, GcObject):
            accepted.add(type(value))
        return raw

    return lower


_REFERENCE_CLASSES = (GcObject, I31)
_OF_STRINGS = (AbstractHeapType.EXTERN, AbstractHeapType.ANY)


def lower_reference(store: Store, wanted: RefType, value: Any, kept: list[Any]) -> int:
    """Return a Python value as a raw reference of type `wanted`, borrowed of a handle: the value, or one in `kept`.

    TypeError when the value does not match the type, ForeignReferenceError for an object of another store,
    StaleReferenceError for a stale handle.
    """
    types = store.engine.types
    if value is None:
        if not wanted.nullable:
            raise TypeError(f"None was given where {wanted} is wanted, which is not nullable")
        return NULL
    top = types.top(wanted.heap_type)
    if top is AbstractHeapType.FUNC:
        if isinstance(value, Func) and value.store is not store:
            raise ForeignReferenceError(f"{value!r} belongs to another store")
        if isinstance(value, Func) and types.is_subtype(value.type_index, wanted.heap_type):
            return value.funcref
    elif isinstance(value, I31):
        if wanted.heap_type is AbstractHeapType.EXTERN or types.is_subtype(AbstractHeapType.I31, wanted.heap_type):
            return value.raw
    elif isinstance(value, ExnRef):
        if value.store is not store:
            raise ForeignReferenceError(f"{value!r} belongs to another store")
        reference = value.reference
        if wanted.heap_type is AbstractHeapType.EXN:
            return reference
    elif isinstance(value, GcObject):
        if value.store is not store:
            raise ForeignReferenceError(f"{value!r} belongs to another store")
        reference = value.reference
        if wanted.heap_type is AbstractHeapType.EXTERN or types.is_subtype(_dynamic_type(value), wanted.heap_type):
            return reference
    elif isinstance(value, str) and store.strings is not None and wanted.heap_type in _OF_STRINGS:
        kept.append(string := new_string(store, value))
        return string.reference
    elif wanted.heap_type is AbstractHeapType.EXTERN:
        kept.append(made := ExternRef(store, value))
        return made.reference
    elif wanted.heap_type is AbstractHeapType.I31 and (number := as_index(value)) is not None:
        return I31(number).raw
    raise TypeError(f"{value!r} was given where {_describe(store, wanted)} is wanted")


def lift_reference(store: Store, declared: RefType, raw: int) -> Any:
    """Return a raw reference as a Python value; it takes over the caller's count. `declared` is its static type."""
    if store.engine.types.top(declared.heap_type) is AbstractHeapType.FUNC:
        return None if raw == NULL else store.runtime.function(raw)
    operations = store.operations
    cell = operations.cell()
    if is_object(raw):
        store.heap.header(raw)  # raises when it names no object
        operations.adopt(operations.vmctx, raw, cell)
    return lift(store, raw, cell)


def lift(store: Store, raw: int, cell: Any) -> Any:
    """Return a raw reference, not of a function's, as a Python value; of an object, `cell` is a handle."""
    if not cell.number:
        if not is_object(raw):
            return I31(i31_get_s(raw)) if is_i31(raw) else None
        raise no_handle_left()
    native = store.heap.attached or store.heap.native
    bound_type = store.bound_types.get(_TYPE_INDEX(native.buffer, raw)[0])
    if bound_type is None or bound_type.binding is not store.host_data.binding:
        bound_type = _bound_type_of_object(store, native, raw)
    if bound_type.is_hidden:
        return _text_of(store, native, raw)
    made: Any = _new(bound_type.cls)
    made._cell, made._reference = cell, raw
    if bound_type.is_array:
        made._length = _LENGTH(native.buffer, raw)[0]
    return made


def new_string(store: Store, value: str) -> GcObject:
    """Make a string on the heap of a store that has them, and return a handle of it, for the store's own use."""
    assert store.strings is not None, "asked before"
    data = strings.encoded(value)
    return _bound_type_of(store, store.strings.text).new_array_of(len(data) // _UNIT_SIZE, data)


def _text_of(store: Store, native: Heap, raw: int) -> str:
    """Return a string of the heap as a str."""
    types = strings.string_types(store.engine.types)
    units = store.heap.array_layout(types.text).elements_offset
    fields = store.heap.struct_layout(types.rope).fields
    left, right = (fields[number].offset for number in strings.ROPE_PARTS)
    buffer = native.buffer

    def parts(reference: int) -> bytes | tuple[int, int]:
        if _TYPE_INDEX(buffer, reference)[0] == types.rope:
            return _REFERENCE(buffer, reference + left)[0], _REFERENCE(buffer, reference + right)[0]
        start = reference + units
        return bytes(buffer[start : start + _LENGTH(buffer, reference)[0] * _UNIT_SIZE])

    return strings.decoded(strings.units_of(raw, parts))


def _bound_type_of_object(store: Store, native: Heap, raw: int) -> BoundType:
    """Return an object's type, bound. TypeError when Python has no such objects."""
    header = VMGcHeader.from_buffer(native.buffer, raw)
    kind = header.kind_and_reserved & KIND_MASK
    if kind not in _LIFTED_KINDS:
        raise TypeError(f"the object at {raw:#x} is of kind {VMGcKind(kind).name}, which cannot be given to Python")
    return _bound_type_of(store, header.type_index)


_TAG = struct.Struct("<II")  # behind an exception's header
assert (VMDrcExnHeader.tag_instance.offset, ctypes.sizeof(VMDrcExnHeader)) == (HEADER_SIZE, HEADER_SIZE + _TAG.size)
_TYPE_INDEX = struct.Struct(f"<{VMGcHeader.type_index.offset}xI").unpack_from
_REFERENCE = struct.Struct(f"<{REFERENCE_FORMAT}").unpack_from
_UNIT_SIZE = storage_size(PackedType.I16)
_LENGTH = struct.Struct(f"<{VMDrcArrayHeader.length.offset}xI").unpack_from
_LIFTED_KINDS = frozenset(map(int, OBJECT_KINDS))


def _dynamic_type(value: GcObject) -> HeapType:
    """The most precise heap type of an object; an externref, seen from the any hierarchy, is just that."""
    return value.type_index if isinstance(value, TypedObject) else AbstractHeapType.ANY


def _describe(store: Store, wanted: RefType) -> str:
    if isinstance(wanted.heap_type, int):
        return f"{wanted}, {store.engine.types.describe(wanted.heap_type)},"
    return str(wanted)


def _resolve_type(store: Store, type: Any) -> int:
    """Return the engine's index of a type that was given as an index or as a definition to register."""
    check_store(store)
    store.check_open()
    if isinstance(type, int) and not isinstance(type, bool):
        store.engine.types[type]  # raises when there is none
        return type
    definition = SubType(type) if isinstance(type, StructType | ArrayType | FuncType) else type
    if not isinstance(definition, SubType):
        raise TypeError(f"type is {type!r}; it must be a type index or a type definition")
    types = store.engine.types
    (index,) = types.register([definition], outer=tuple(types))
    if isinstance(definition.composite, StructType) and definition.composite.names:
        names = enumerate(definition.composite.names)
        types.name_fields(index, {number: name for number, name in names if name is not None})
    return index


def _check_defaultable(storages: Sequence[StorageType], what: str) -> None:
    for number, storage in enumerate(storages):
        if isinstance(storage, RefType) and not storage.nullable:
            raise TypeError(f"{what} needs values: part {number} is {storage}, which has no default")


# ----------------------------------------------------------------------------------------------------------------------
# Types


def _bound_type_of(store: Store, type_index: int) -> BoundType:
    """Return a type as a store's memory has it, made when there is none."""
    bound_type: BoundType | None = store.bound_types.get(type_index)
    if bound_type is None or not bound_type.is_current():
        bound_type = store.bound_types[type_index] = BoundType(store, type_index)
    return bound_type


def bound_type_for(store: Store, type: Any, wanted: type[StructType] | type[ArrayType]) -> BoundType:
    """Return a type, given as an index or a definition, as a store has it. HeapError when it is of another sort."""
    known: Any = store.resolved.get(id(type)) if isinstance(store, Store) else None
    is_known = known is not None and known[0] is type and known[1].is_current()
    bound_type: BoundType | None = known[1] if is_known else None
    index = _resolve_type(store, type) if bound_type is None else bound_type.type_index
    composite = store.engine.types[index].composite
    if not isinstance(composite, wanted):
        sort = "a struct" if wanted is StructType else "an array"
        raise HeapError(f"type {index} is {composite}, not {sort} type")
    if bound_type is None:
        bound_type = _bound_type_of(store, index)
        if not isinstance(type, int):
            if len(store.resolved) >= _MOST_RESOLVED:
                store.resolved.clear()
            store.resolved[id(type)] = (type, bound_type)
    return bound_type


_MOST_RESOLVED = 1 << 10
"""Definitions whose type is remembered."""


class BoundType:
    """A type of objects as one store's memory has it: how they are made, and how their parts are read and written.

    It is current as long as the memory is that: `binding` is the host data's then. `cls` is the class of the handles.
    """

    is_array = False
    is_hidden = False

    def __init__(self, store: Store, type_index: int) -> None:
        """Bind a type to a store, as its memory is now. HeapError when it is closed.

        Of a function type, Python has the exceptions whose tag has it.
        """
        self.store, self.type_index = store, type_index
        self._host_data = store.host_data
        self.binding = store.host_data.binding
        self._operations, self._lock, self._forget = store.operations, store.lock, store.unreachable_cells.append
        self.cls: type[GcObject]
        members: dict[str, Any] = {"__slots__": (), "_bound_type": self}
        if type_index == EXTERNREF_TYPE_INDEX:
            offset = VMDrcExternRef.host_data_id.offset
            self.read_id = struct.Struct(f"<{offset}xI").unpack_from
            self.cls = type("ExternRef", (ExternRef,), members)
            return
        store.check_open()
        self.type = store.engine.types[type_index]
        self.is_hidden = self.type.hidden
        store.heap.register_type(type_index)
        composite = self.type.composite
        if isinstance(composite, StructType):
            self._describe_struct(composite, members)
        elif isinstance(composite, ArrayType):
            self._describe_array(composite, members)
        else:
            self._describe_exception(composite, members)

    def is_current(self) -> bool:
        """Whether the store's heap has still the memory that this is about."""
        return self._host_data.binding is self.binding and self.binding is not None

    def label(self) -> str:
        """Return how messages call the type."""
        if self.type_index == EXTERNREF_TYPE_INDEX:
            return "externref"
        name = self.store.engine.types.type_name(self.type_index)
        return f"${printable(name)}" if name else f"type {self.type_index}"

    def memory(self) -> Any:
        """Return the heap's bytes. HeapError when it has none."""
        return self.store.heap.native.buffer

    # Structs

    def _describe_struct(self, composite: StructType, members: dict[str, Any]) -> None:
        layout = self.store.heap.struct_layout(self.type_index)
        self.fields = composite.fields
        self.reads: dict[str | int, tuple[_Read, int]] = {}
        self.writes: dict[str | int, tuple[_Write | None, int]] = {}
        self._zeros = bytes(layout.size - HEADER_SIZE)
        count = len(self.fields)
        for number, (field, place) in enumerate(zip(self.fields, layout.fields, strict=True)):
            read, write = self._access(field)
            for key in (number, number - count):
                self.reads[key], self.writes[key] = (read, place.offset), (write, place.offset)
        self._lowerings = [lowering(self.store, field.storage) for field in self.fields]
        self._image = self._image_format([place.offset for place in layout.fields], layout.size)
        members["__new__"] = lambda cls, *values, **named: self.new_struct(self._in_order(values, named))
        self.cls = type("Struct", (Struct,), members)
        for number, name in self.store.engine.types.field_names(self.type_index).items():
            self.reads[name], self.writes[name] = self.reads[number], self.writes[number]
            if not hasattr(Struct, name):
                setattr(self.cls, name, _attribute(name))

    def _image_format(self, offsets: Sequence[int], size: int) -> Callable[..., bytes]:
        """Return what makes the bytes of all fields, behind the header, of their raw values."""
        at, format = HEADER_SIZE, "<"
        for field, offset in zip(self.fields, offsets, strict=True):
            code = REFERENCE_FORMAT if isinstance(field.storage, RefType) else number_format(field.storage)
            format += f"{offset - at}x{code}"
            at = offset + storage_size(field.storage)
        return struct.Struct(f"{format}{size - at}x").pack

    def number(self, key: Any) -> int:
        """Return a field's number. KeyError, IndexError or TypeError when there is none such."""
        count = len(self.fields)
        if isinstance(key, str):
            number = self.store.engine.types.field_index(self.type_index, key)
            self.reads[key], self.writes[key] = self.reads[number], self.writes[number]
            return number
        position = as_index(key)
        if position is None:
            raise TypeError(f"a field is named by a str or an int, not by {key!r}")
        if not -count <= position < count:
            raise IndexError(f"{self.label()} has no field {position}; it has {count}")
        return position % count

    def _in_order(self, values: tuple[Any, ...], named: dict[str, Any]) -> list[Any] | None:
        """Return the values of all fields, given by position or by name; None when none is given."""
        if not values and not named:
            return None
        given: dict[int, Any] = dict(enumerate(values))
        if len(given) > len(self.fields):
            raise TypeError(f"{self.label()} has {len(self.fields)} fields; {len(values)} values were given")
        for name, value in named.items():
            number = self.number(name)
            if number in given:
                raise TypeError(f"field {name!r} of {self.label()} was given twice")
            given[number] = value
        missing = [number for number in range(len(self.fields)) if number not in given]
        if missing:
            names = self.store.engine.types.field_names(self.type_index)
            what = ", ".join(str(names.get(number, number)) for number in missing)
            raise TypeError(f"{self.label()} needs values of all fields, or of none; missing: {what}")
        return [given[number] for number in range(len(self.fields))]

    def new_struct(self, values: Sequence[Any] | None) -> Any:
        """Make a struct, zero without values, and return a handle of it."""
        if values is None:
            _check_defaultable([field.storage for field in self.fields], f"type {self.type_index}")
        elif len(values) != len(self.fields):
            raise TypeError(f"type {self.type_index} has {len(self.fields)} fields; {len(values)} values were given")
        store, operations, lock = self.store, self._operations, self._lock
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            store.tidy_in_use()
            kept: list[Any] = []
            if values is None:
                image = self._zeros
            else:
                image = self._image(*[lower(value, kept) for lower, value in zip(self._lowerings, values, strict=True)])
            cell: Any = operations.mind(operations.new_cell(operations.cell_type), self._forget)
            if operations.is_compiled:
                operations.new_struct(operations.vmctx, self.type_index, image, cell)
            if not cell.number:
                self._make_slowly(lambda: store.alloc_struct(self.type_index), image, HEADER_SIZE, cell)
            return self.handle(cell)
        finally:
            lock.owner = outer

    def handle(self, cell: Any) -> Any:
        """Return a handle whose cell is filled in; of an array, without its length."""
        made: Any = _new(self.cls)
        made._cell, made._reference = cell, cell.reference
        return made

    @whole
    def _make_slowly(self, allocate: Callable[[], int], image: bytes | None, start: int, cell: Any) -> None:
        """Make an object as Python does; raises when there is no room for it, or no handle."""
        self.store.operations.note_use()
        self.store.raise_pending()
        reference = allocate()
        kept = None if image is None else ctypes.create_string_buffer(image, len(image))
        address = NULL if kept is None else ctypes.addressof(kept)
        host.dress(self.store.heap.native, reference, address, start, view_of(cell))
        if not cell.number:
            raise no_handle_left()

    # Exceptions

    def _describe_exception(self, composite: FuncType, members: dict[str, Any]) -> None:
        layout = self.store.heap.exception_layout(self.type_index)
        self.fields = tuple(FieldType(param, mutable=False) for param in composite.params)
        self.field_reads = [
            (self._access(field)[0], place.offset) for field, place in zip(self.fields, layout.fields, strict=True)
        ]
        self._lowerings = [lowering(self.store, field.storage) for field in self.fields]
        self._image = self._image_format([place.offset for place in layout.fields], layout.size)
        self.read_words = struct.Struct(f"<{HEADER_SIZE}xII").unpack_from
        self.cls = type("ExnRef", (ExnRef,), members)

    def new_exception(self, words: tuple[int, int], values: Sequence[Any]) -> ExnRef:
        """Make an exception of the tag that these words tell, and return a handle of it."""
        if len(values) != len(self.fields):
            raise TypeError(f"the tag has {len(self.fields)} fields; {len(values)} values were given")
        self.store.tidy_in_use()
        kept: list[Any] = []
        raws = [lower(value, kept) for lower, value in zip(self._lowerings, values, strict=True)]
        image = _TAG.pack(*words) + self._image(*raws)[_TAG.size :]
        cell = self.store.operations.cell()
        self._make_slowly(lambda: self.store.alloc_exn(self.type_index), image, HEADER_SIZE, cell)
        made: ExnRef = self.handle(cell)
        return made

    # Arrays

    def _describe_array(self, composite: ArrayType, members: dict[str, Any]) -> None:
        layout = self.store.heap.array_layout(self.type_index)
        self.is_array = True
        self.element = composite.element
        self.element_size = storage_size(composite.element.storage)
        self.elements_offset = layout.element_offset(0)
        self.read, self.write = self._access(self.element)
        self._lowerings = [lowering(self.store, self.element.storage)]
        members["__new__"] = lambda cls, values: self.new_array(values)
        self.cls = type("Array", (Array,), members)

    def require_numbers(self) -> None:
        """TypeError unless the elements are numbers."""
        if self.element.storage not in FORMATS:
            raise TypeError(
                f"the elements of {self.label()} are {self.element.storage}, not numbers: they are no buffer"
            )

    def encoding(self) -> tuple[str, str]:
        """Return how text is encoded in such an array, and what is done about errors. TypeError for others."""
        if self.element.storage is PackedType.I8:
            return "utf-8", "strict"
        if self.element.storage is PackedType.I16:
            return "utf-16-le", "surrogatepass"
        raise TypeError(f"text is in arrays of i8 or i16; the elements of {self.label()} are {self.element.storage}")

    @contextlib.contextmanager
    def raw_bytes(self, values: Any) -> Iterator[memoryview]:
        """Yield the bytes that values come to as elements: a buffer's own, or those of a sequence of numbers."""
        self.require_numbers()
        try:
            buffer = memoryview(values)
        except TypeError:
            if not isinstance(values, Sequence) or isinstance(values, str):
                raise TypeError(
                    f"{type(values).__name__} was given where a buffer or a sequence of numbers is wanted"
                ) from None
            yield memoryview(self._lowered(values, []))
            return
        with buffer:
            if not buffer.c_contiguous:
                raise ValueError("the buffer is not contiguous")
            format = buffer.format.lstrip("@=<")
            is_raw = format in ("B", "b", "c") and self.element_size != 1
            wanted_kind = "f" if self.element.storage in FLOAT_TYPES else "i"
            kind = "f" if format in ("f", "d") else "i" if format in tuple("bBhHiIlLqQnN") else None
            if not is_raw and (kind != wanted_kind or buffer.itemsize != self.element_size):
                raise TypeError(
                    f"a buffer of format {buffer.format!r}, {buffer.itemsize} bytes each, was given "
                    f"where the elements are {self.element.storage}"
                )
            if buffer.nbytes % self.element_size:
                raise ValueError(f"{buffer.nbytes} bytes are no whole number of elements of {self.element_size} bytes")
            with buffer.cast("B") as data:
                yield data

    def _lowered(self, values: Sequence[Any], kept: list[Any]) -> bytes:
        """Return the bytes of elements of these values; references are borrowed, of the values or of `kept`."""
        storage = self.element.storage
        (lower,) = self._lowerings
        raws = [lower(value, kept) for value in values]
        if isinstance(storage, VectorType):
            return b"".join(raws)
        code = FORMATS.get(storage, REFERENCE_FORMAT)
        return struct.pack(f"<{len(raws)}{code}", *raws)

    def new_array(self, values: Any) -> GcObject:
        """Make an array of these values, or of so many zeros or nulls, and return a handle of it."""
        if isinstance(values, bool):
            raise TypeError(f"values is {values!r}; it must be a sequence of values, or a number of elements")
        if not isinstance(values, int) and not hasattr(values, "__len__") and as_index(values) is not None:
            values = as_index(values)
        if isinstance(values, int):
            _check_defaultable([self.element.storage], f"type {self.type_index}")
            return self.new_array_of(values, None)
        return self._new_array_of_values(values)

    @_alone
    def _new_array_of_values(self, values: Sequence[Any]) -> GcObject:
        kept: list[Any] = []
        length = len(values)
        return self.new_array_of(length, self._lowered(values, kept))

    @_alone
    def new_array_of(self, length: int, image: bytes | None) -> GcObject:
        """Make an array of the bytes of its elements, or of so many zeros."""
        store = self.store
        store.tidy_in_use()
        operations = self._operations
        cell = operations.cell()
        if operations.is_compiled and 0 <= length <= U32_MAX:
            given = operations.no_image if image is None else image
            operations.new_array(operations.vmctx, self.type_index, length, given, self.elements_offset, cell)
        if not cell.number:
            self._make_slowly(lambda: store.alloc_array(self.type_index, length), image, self.elements_offset, cell)
        made: Any = self.handle(cell)
        made._length = length
        return cast(GcObject, made)

    # Externrefs

    def new_externref(self, value: Any, finalizer: Finalizer | None) -> Any:
        """Make an externref of a value, and return a handle of it."""
        store, operations, lock = self.store, self._operations, self._lock
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            store.tidy_in_use()
            cell: Any = operations.mind(operations.new_cell(operations.cell_type), self._forget)
            number = 0
            if operations.is_compiled:
                number = operations.new_externref(operations.vmctx, self._host_data.address_of(value), cell)
            if number:
                self._host_data.put(number - 1, value, finalizer)
            else:
                self._make_externref_slowly(value, finalizer, cell)
            return self.handle(cell)
        finally:
            lock.owner = outer

    @whole
    def _make_externref_slowly(self, value: Any, finalizer: Finalizer | None, cell: Any) -> None:
        self.store.operations.note_use()
        self.store.raise_pending()
        reference = self.store.alloc_externref(value, finalizer)
        host.adopt(self.store.heap.native, reference, view_of(cell))
        if not cell.number:
            self.store.tidy_in_use()
            raise no_handle_left()

    # Parts

    def _access(self, field: FieldType) -> tuple[_Read, _Write | None]:
        """Return what reads and what writes a field or an element, given the handle and an offset into the object."""
        storage, store = field.storage, self.store
        read: _Read
        write: _Write
        if isinstance(storage, VectorType):
            read, write = _vector_reader(store, storage), _scalar_writer(store, storage)
        elif not isinstance(storage, RefType):
            read, write = _scalar_reader(store, storage), _scalar_writer(store, storage)
        elif store.engine.types.is_traced(storage):
            read, write = _reference_reader(store), _reference_writer(store, storage)
        else:
            read, write = _untraced_reader(store, storage), _untraced_writer(store, storage)
        return read, write if field.mutable else None


# What reads and writes parts of objects. What each does first and last is what `exclusive` does, without a call.

_Read = Callable[[Any, int], Any]
_Write = Callable[[Any, int, Any], None]


def _scalar_reader(store: Store, storage: StorageType) -> _Read:
    unpack = struct.Struct(f"<{number_format(storage)}").unpack_from
    lock, heap, unreachable, host_data = store.lock, store.heap, store.unreachable_cells, store.host_data

    def read(handle: Any, offset: int) -> Any:
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            if unreachable:
                store.tidy_in_use()
            native = heap.attached
            if native is None or not handle._cell.number or handle._bound_type.binding is not host_data.binding:
                native = handle._check_usable()
            return unpack(native.buffer, handle._reference + offset)[0]
        finally:
            lock.owner = outer

    return read


def _scalar_writer(store: Store, storage: StorageType) -> _Write:
    pack = struct.Struct(f"<{number_format(storage)}").pack_into
    lower = scalar_lowering(storage)
    kind = int if storage in RANGES else float if storage is NumType.F64 else None  # what needs no lowering
    is_integer = storage in RANGES  # a number that is not in range must not come to `pack`: it clears the bytes first
    least, most = RANGES.get(storage, (0, 0))
    lock, heap, host_data = store.lock, store.heap, store.host_data

    def write(handle: Any, offset: int, value: Any) -> None:
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            native = heap.attached
            if native is None or not handle._cell.number or handle._bound_type.binding is not host_data.binding:
                native = handle._check_usable()
            if type(value) is not kind or (is_integer and not least <= value <= most):
                value = lower(value, NOTHING_KEPT)  # which calls the value's methods: they may close the store
                native = handle._check_usable()
            pack(native.buffer, handle._reference + offset, value)
        finally:
            lock.owner = outer

    return write


def _reference_reader(store: Store) -> _Read:
    lock, heap, unreachable, operations = store.lock, store.heap, store.unreachable_cells, store.operations
    host_data = store.host_data
    mind, new_cell, cell_type, forget = operations.mind, operations.new_cell, operations.cell_type, unreachable.append

    def read(handle: Any, offset: int) -> Any:
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            if unreachable:
                store.tidy_in_use()
            native = heap.attached
            if native is None or not handle._cell.number or handle._bound_type.binding is not host_data.binding:
                native = handle._check_usable()
            cell = mind(new_cell(cell_type), forget)
            raw = operations.read(operations.vmctx, native.base + handle._reference + offset, cell)
            return lift(store, raw, cell)
        finally:
            lock.owner = outer

    return read


def _reference_writer(store: Store, storage: RefType) -> _Write:
    lock, heap, operations, lower = store.lock, store.heap, store.operations, lowering(store, storage)
    host_data = store.host_data

    def write(handle: Any, offset: int, value: Any) -> None:
        me, outer = get_ident(), lock.owner
        if outer is not None and outer != me:
            raise lock.refusal()
        try:
            lock.owner = me
            if not handle._cell.number or handle._bound_type.binding is not host_data.binding:
                handle._check_usable()
            store.tidy_in_use()
            kept: list[Any] = []
            raw = lower(value, kept)  # which may allocate, and so run finalizers: they may release this very handle
            native = heap.attached
            if native is None or not handle._cell.number or handle._bound_type.binding is not host_data.binding:
                native = handle._check_usable()
            reference = handle._reference
            operations.write(operations.vmctx, reference, native.base + reference + offset, raw)
            store.tidy_in_use()
        finally:
            lock.owner = outer

    return write


def _untraced_reader(store: Store, storage: RefType) -> _Read:
    read_raw = _scalar_reader(store, NumType.I32)

    def read(handle: Any, offset: int) -> Any:
        return lift_reference(store, storage, read_raw(handle, offset) & U32_MAX)

    return read


def _untraced_writer(store: Store, storage: RefType) -> _Write:
    write_raw, lower = _scalar_writer(store, NumType.I32), lowering(store, storage)

    def write(handle: Any, offset: int, value: Any) -> None:
        write_raw(handle, offset, lower(value, []))

    return write


def _vector_reader(store: Store, storage: VectorType) -> _Read:
    read_bytes = _scalar_reader(store, storage)

    def read(handle: Any, offset: int) -> Any:
        return lift_vector(read_bytes(handle, offset))

    return read


def _attribute(name: str) -> property:
    """The attribute of a field that has a name."""

    def get(handle: Struct) -> Any:
        return handle[name]

    def set(handle: Struct, value: Any) -> None:
        handle[name] = value

    return property(get, set, doc=f"Field {name}.")


def new_externref(store: Store, value: Any, finalizer: Finalizer | None) -> Any:
    """What `ExternRef(store, value, finalizer)` does."""
    check_store(store)
    store.check_open()
    if finalizer is not None and not callable(finalizer):
        raise TypeError(f"finalizer is {finalizer!r}; it must be callable, with the value, or None")
    return _bound_type_of(store, EXTERNREF_TYPE_INDEX).new_externref(value, finalizer)


def new_exception(store: Store, type_index: int, words: tuple[int, int], fields: Sequence[Any]) -> ExnRef:
    """Return a new exception, whose tag has a function type and these words. TypeError for values of other types."""
    check_store(store)
    store.check_open()
    return _new_exception(store, type_index, words, fields)


@exclusive("lock")
def _new_exception(store: Store, type_index: int, words: tuple[int, int], fields: Sequence[Any]) -> ExnRef:
    return _bound_type_of(store, type_index).new_exception(words, fields)


def bind(store: Store, type: Any) -> type[GcObject]:
    """What `Store.bind` does."""
    index = _resolve_type(store, type)
    return _bound_type_of(store, index).cls
