"""The Python face of GC objects: handles that root what they name, and the conversion of values both ways.

A handle owns one count of its object, as any other host root does. It gives it back when Python lets go of it (at the
store's next operation), or at once by `release`. Handles compare by reference: two handles of one object are equal.

Python values and WebAssembly values correspond like this:

- i32, i64: an int, signed when read; written, anything from the least signed to the greatest unsigned value;
- i8, i16 (fields and elements only): an int, unsigned when read; written as above;
- f32, f64: a float;
- a reference: None for null, `Struct`, `Array`, `I31`, `ExternRef`, `Func`. Where an externref is wanted, any other
  Python value is wrapped in a new `ExternRef`; where an i31ref is wanted, an int will do.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from lowheap.errors import ForeignReferenceError, HeapError, StaleReferenceError
from lowheap.layout import (
    NULL,
    VMGcKind,
    i31_from_int,
    i31_get_s,
    is_i31,
)
from lowheap.store import Store
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

_INTEGER_TYPES: dict[StorageType, tuple[int, type[ctypes._SimpleCData[int]]]] = {
    PackedType.I8: (8, ctypes.c_uint8),
    PackedType.I16: (16, ctypes.c_uint16),
    NumType.I32: (32, ctypes.c_int32),
    NumType.I64: (64, ctypes.c_int64),
}
_FLOAT_TYPES: dict[StorageType, type[ctypes._SimpleCData[float]]] = {
    NumType.F32: ctypes.c_float,
    NumType.F64: ctypes.c_double,
}


class I31:
    """An unboxed 31-bit integer reference. Compares by value; `int(i)` is the signed value, `i.unsigned` the other."""

    __slots__ = ("_raw",)
    _raw: int

    def __init__(self, value: int) -> None:
        """Take a value from -2^30 to 2^31 - 1; ValueError outside, TypeError when it is not an int."""
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"an i31 cannot be made of {value!r}; it takes an int")
        if not -(1 << 30) <= value < 1 << 31:
            raise ValueError(f"an i31 cannot hold {value}; it holds {-(1 << 30)} to {(1 << 31) - 1}")
        object.__setattr__(self, "_raw", i31_from_int(value))

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: an i31 is a value."""
        raise AttributeError(f"cannot set {name!r}: an I31 does not change")

    @property
    def raw(self) -> int:
        """The reference itself: the payload shifted left by one, and the tag."""
        return self._raw

    @property
    def unsigned(self) -> int:
        """The payload, zero-extended."""
        return self._raw >> 1

    def __int__(self) -> int:
        """Return the payload, sign-extended."""
        return i31_get_s(self._raw)

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        """Whether both are i31 of the same payload."""
        return self._raw == other._raw if isinstance(other, I31) else NotImplemented

    def __hash__(self) -> int:
        """Hash by payload."""
        return hash((I31, self._raw))

    def __repr__(self) -> str:
        """Show the signed payload."""
        return f"I31({int(self)})"


class GcObject:
    """A handle of an object in a store's heap. Only the subclasses have instances."""

    __slots__ = ("__weakref__", "_epoch", "_handle", "_reference", "_store")
    _store: Store
    _reference: int
    _epoch: int
    _handle: int | None

    @classmethod
    def _adopt(cls, store: Store, reference: int) -> Any:
        """Return a handle that takes over the caller's count of `reference`."""
        handle = object.__new__(cls)
        handle._root(store, reference)
        return handle

    def _root(self, store: Store, reference: int) -> None:
        self._handle = None
        self._store, self._reference, self._epoch = store, reference, store.heap.control.epoch
        try:
            self._handle = store.roots.create_handle(reference)
        except HeapError:  # no handle is left
            store.heap.drop_gc_ref(reference)
            raise

    def __del__(self) -> None:
        """Have the store release the handle when it next does something."""
        handle = getattr(self, "_handle", None)
        if handle is not None:
            self._store.forget_handle(handle, self._epoch)

    def release(self) -> None:
        """Give the object back now; the handle is stale from then on. Nothing when it is already."""
        with self._store.lock:
            if self._handle is not None and self.is_valid:
                handle, self._handle = self._handle, None
                self._store.heap.drop_gc_ref(self._store.roots.release_handle(handle))
                self._store.tidy_in_use()
            self._handle = None

    @property
    def is_valid(self) -> bool:
        """Whether the handle still names its object."""
        return self._handle is not None and not self._store.is_closed and self._epoch == self._store.heap.control.epoch

    @property
    def store(self) -> Store:
        """The store whose heap the object is in."""
        return self._store

    @property
    def reference(self) -> int:
        """The raw reference, borrowed from the handle. StaleReferenceError when the handle is not valid."""
        if not self.is_valid:
            if self._handle is None:
                why = "it was released"
            elif self._store.is_closed:
                why = "its store is closed"
            else:
                why = "its heap was detached"
            raise StaleReferenceError(f"this {type(self).__name__} handle is stale: {why}")
        return self._reference

    @property
    def ref_count(self) -> int:
        """The object's count: one for each handle, field, element and global, and one if it is listed."""
        with self._store.lock:
            return self._store.heap.header(self.reference).ref_count

    def __eq__(self, other: object) -> bool:
        """Whether both name the same object. A stale handle equals only itself."""
        if not isinstance(other, GcObject):
            return NotImplemented
        if self is other:
            return True
        same = self._store is other._store and self._reference == other._reference
        return same and self.is_valid and other.is_valid

    def __hash__(self) -> int:
        """Hash by reference: objects do not move."""
        return hash((id(self._store), self._reference))


class _TypedObject(GcObject):
    """What structs and arrays share: a type in the engine's registry."""

    __slots__ = ("_type_index",)
    _type_index: int

    def _root(self, store: Store, reference: int) -> None:
        super()._root(store, reference)
        self._type_index = store.heap.header(reference).type_index

    @property
    def type_index(self) -> int:
        """The engine's index of the object's type."""
        return self._type_index

    @property
    def type(self) -> SubType:
        """The object's type."""
        return self._store.engine.types[self._type_index]

    def _label(self) -> str:
        name = self._store.engine.types.type_name(self._type_index)
        return f"${name}" if name else f"type {self._type_index}"

    def _write(self, place: str, field: FieldType, offset: int, value: Any) -> None:
        """Check, convert and store one field or element; a reference through the write barrier."""
        with self._store.lock:
            _ = self.reference  # raises when the handle is stale
            if not field.mutable:
                raise HeapError(f"cannot write {place} of {self._label()}: it is immutable")
            self._store_value(field.storage, offset, value)

    def _store_value(self, storage: StorageType, offset: int, value: Any) -> None:
        heap = self._store.heap
        if not isinstance(storage, RefType):
            heap.memory.write(self.reference + offset, bytes(lower_scalar(storage, value)))
            return
        # Lowering may allocate, and so run finalizers of host data, which may release this very handle.
        new = lower_reference(self._store, storage, value)
        is_traced = heap.types.is_traced(storage)
        try:
            slot = heap.slot(self.reference, offset)
            if is_traced:
                heap.write_gc_ref(slot, new, self.reference)
            else:
                slot.value = new
        finally:
            if is_traced and heap.is_attached:
                heap.drop_gc_ref(new)
        self._store.tidy_in_use()

    def _read(self, storage: StorageType, offset: int) -> Any:
        heap = self._store.heap
        with self._store.lock:
            _ = self.reference  # raises when the handle is stale
            self._store.tidy_in_use()
            reference = self.reference  # a finalizer of host data may have released it
            if isinstance(storage, RefType):
                raw = heap.slot(reference, offset).value
                if heap.types.is_traced(storage):
                    heap.clone_gc_ref(raw)
                return lift_reference(self._store, storage, raw)
            return lift_scalar(storage, heap.memory.read(reference + offset, storage_size(storage)))


class Struct(_TypedObject):
    """A handle of a struct: `node["left"]`, `node[0]`, `node["left"] = other`, `len(node)`, iteration over values."""

    __slots__ = ()

    def __init__(self, store: Store, type: int | StructType | SubType, fields: Sequence[Any] | None = None) -> None:
        """Allocate a struct of `type` (an engine's type index, or a type to register) with these field values.

        Without `fields`, each field is 0 or null. TypeError when a value does not fit its field.
        """
        type_index = _resolve_type(store, type)
        struct_type = store.engine.types[type_index].composite
        if not isinstance(struct_type, StructType):
            raise HeapError(f"type {type_index} is {struct_type}, not a struct type")
        if fields is None:
            _check_defaultable([field.storage for field in struct_type.fields], f"type {type_index}")
        elif len(fields) != len(struct_type.fields):
            raise TypeError(f"type {type_index} has {len(struct_type.fields)} fields; {len(fields)} values were given")
        with store.lock:
            self._root(store, store.alloc_struct(type_index))
            if fields is not None:
                for number, value in enumerate(fields):
                    self._store_value(self._field(number).storage, self._offset(number), value)

    def _field(self, number: int) -> FieldType:
        composite = self.type.composite
        assert isinstance(composite, StructType), "a Struct's type is a struct type"
        return composite.fields[number]

    def _offset(self, number: int) -> int:
        return self._store.heap.struct_layout(self._type_index).fields[number].offset

    def _number(self, key: str | int) -> int:
        if isinstance(key, str):
            return self._store.engine.types.field_index(self._type_index, key)
        if not isinstance(key, int) or isinstance(key, bool):
            raise TypeError(f"a field is named by a str or an int, not by {key!r}")
        count = len(self)
        if not -count <= key < count:
            raise IndexError(f"{self._label()} has no field {key}; it has {count}")
        return key % count

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(self._store.heap.struct_layout(self._type_index).fields)

    def __getitem__(self, key: str | int) -> Any:
        """Read a field, by name or by number."""
        number = self._number(key)
        return self._read(self._field(number).storage, self._offset(number))

    def __setitem__(self, key: str | int, value: Any) -> None:
        """Write a field, by name or by number; HeapError when it is immutable, TypeError for a wrong value."""
        number = self._number(key)
        self._write(f"field {key!r}", self._field(number), self._offset(number), value)

    def __iter__(self) -> Iterator[Any]:
        """Yield the values of the fields, in order."""
        return (self[number] for number in range(len(self)))

    def keys(self) -> list[str | int]:
        """Return each field's name, or its number where it has no name."""
        names = self._store.engine.types.field_names(self._type_index)
        return [names.get(number, number) for number in range(len(self))]

    def __repr__(self) -> str:
        """Show the type, and where the object is."""
        return f"<Struct {self._label()} at {self._reference:#x}>" if self.is_valid else "<Struct, stale>"


class Array(_TypedObject):
    """A handle of an array: `arr[i]`, `arr[i] = value`, `len(arr)`, iteration, slices read as lists."""

    __slots__ = ("_length",)
    _length: int

    def __init__(self, store: Store, type: int | ArrayType | SubType, values: Sequence[Any] | int) -> None:
        """Allocate an array of `type` holding these values, or of that many zeros or nulls.

        TypeError when a value does not fit, AllocationTooLargeError when the size does not fit u32.
        """
        type_index = _resolve_type(store, type)
        array_type = store.engine.types[type_index].composite
        if not isinstance(array_type, ArrayType):
            raise HeapError(f"type {type_index} is {array_type}, not an array type")
        if isinstance(values, bool):
            raise TypeError(f"values is {values!r}; it must be a sequence of values, or a number of elements")
        if isinstance(values, int):
            _check_defaultable([array_type.element.storage], f"type {type_index}")
        with store.lock:
            self._root(store, store.alloc_array(type_index, values if isinstance(values, int) else len(values)))
            if not isinstance(values, int):
                for index, value in enumerate(values):
                    self._store_value(array_type.element.storage, self._offset(index), value)

    def _root(self, store: Store, reference: int) -> None:
        super()._root(store, reference)
        self._length = store.heap.array_len(reference)

    def _element(self) -> FieldType:
        composite = self.type.composite
        assert isinstance(composite, ArrayType), "an Array's type is an array type"
        return composite.element

    def _offset(self, index: int) -> int:
        return self._store.heap.array_layout(self._type_index).element_offset(index)

    def _index(self, index: Any) -> int:
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(f"an element is named by an int, not by {index!r}")
        if not -self._length <= index < self._length:
            raise IndexError(f"index {index} is out of bounds of an array of {self._length} elements")
        return index % self._length

    def __len__(self) -> int:
        """Return the number of elements."""
        return self._length

    def __getitem__(self, index: int | slice) -> Any:
        """Read an element, or a slice as a list."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._length))]
        return self._read(self._element().storage, self._offset(self._index(index)))

    def __setitem__(self, index: int, value: Any) -> None:
        """Write an element; HeapError when elements are immutable, TypeError for a wrong value."""
        position = self._index(index)
        self._write(f"element {index}", self._element(), self._offset(position), value)

    def __iter__(self) -> Iterator[Any]:
        """Yield the elements, in order."""
        return (self[index] for index in range(self._length))

    def __repr__(self) -> str:
        """Show the type, the length, and where the object is."""
        if not self.is_valid:
            return "<Array, stale>"
        return f"<Array {self._label()} of {self._length} at {self._reference:#x}>"


class ExternRef(GcObject):
    """A handle of an externref, and so of a host value that WebAssembly can hold: `ref.value` is that value."""

    __slots__ = ()

    def __init__(self, store: Store, value: Any, finalizer: Callable[[Any], object] | None = None) -> None:
        """Allocate an externref for any Python value.

        `finalizer(value)` is called once, when the externref has died: when control next comes back to Python, be it
        from an export or into a host function, or when the store next does something; at the latest, when the store is
        closed. It may use the store. An exception in it goes to `sys.unraisablehook`.
        """
        _check_store(store)
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer is {finalizer!r}; it must be callable, with the value, or None")
        with store.lock:
            self._root(store, store.alloc_externref(value, finalizer))

    @property
    def value(self) -> Any:
        """The host value; one that C code made is a `void *` of cffi's."""
        with self._store.lock:
            return self._store.host_data.get(self._store.heap.externref_host_data(self.reference))

    def __repr__(self) -> str:
        """Show the host value."""
        if not self.is_valid:
            return "<ExternRef, stale>"
        if not self._store.lock.acquire(False):
            return "<ExternRef, in use by another thread>"
        try:
            return f"ExternRef({self.value!r})"
        finally:
            self._store.lock.release()


class Func:
    """A function of a store, WebAssembly's or the host's: call it with Python values.

    One result comes as itself, several as a tuple, none as None. TypeError for wrong arguments, `Trap` when the program
    traps; an exception that a host function raised comes out as itself.

    `Func(store, type, callable)` makes one of a Python callable, to be imported, or passed where a reference to a
    function is wanted. `access_caller`: the callable takes a `Caller` first.
    """

    __slots__ = ("_call", "_with_caller", "funcref", "name", "store", "type", "type_index")

    _make: ClassVar[Callable[..., None]]
    """Makes a new one a host function of its store; `runtime/host_functions.py` says how."""

    def __init__(self, store: Store, type: FuncType, callable: Callable[..., Any], access_caller: bool = False) -> None:
        """Make a host function. TypeError when an argument is none of what it must be."""
        Func._make(self, store, type, callable, access_caller)

    @classmethod
    def _of(cls, store: Store, funcref: int, type_index: int, name: str, call: Callable[[Sequence[Any]], Any]) -> Func:
        """Wrap entry `funcref` of the store's function table; the runtime makes these."""
        function = object.__new__(cls)
        function._bind(store, funcref, type_index, name, call)
        return function

    def _bind(
        self, store: Store, funcref: int, type_index: int, name: str, call: Callable[[Sequence[Any]], Any]
    ) -> None:
        self.store = store
        self.funcref = funcref
        self.type_index = type_index
        self.type = store.engine.types[type_index].composite
        self.name = name
        self._call = call
        self._with_caller: Callable[..., Any] | None = None
        """The callable of a host function that takes its caller."""

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self._call(args)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same function of the same store."""
        if not isinstance(other, Func):
            return NotImplemented
        return self.store is other.store and self.funcref == other.funcref

    def __hash__(self) -> int:
        """Hash by place in the function table."""
        return hash((id(self.store), self.funcref))

    def __repr__(self) -> str:
        """Show name and type."""
        return f"<Func {self.name} {self.type}>"


# ----------------------------------------------------------------------------------------------------------------------
# Values


def lower_reference(store: Store, wanted: RefType, value: Any) -> int:
    """Return a Python value as a raw reference of type `wanted`, with a count that is the caller's.

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
    elif isinstance(value, GcObject):
        if value.store is not store:
            raise ForeignReferenceError(f"{value!r} belongs to another store")
        reference = value.reference
        if wanted.heap_type is AbstractHeapType.EXTERN or types.is_subtype(_dynamic_type(value), wanted.heap_type):
            return store.heap.clone_gc_ref(reference)
    elif wanted.heap_type is AbstractHeapType.EXTERN:
        return store.alloc_externref(value)
    elif wanted.heap_type is AbstractHeapType.I31 and isinstance(value, int):
        return I31(value).raw
    raise TypeError(f"{value!r} was given where {_describe(store, wanted)} is wanted")


def lift_reference(store: Store, declared: RefType, raw: int) -> Any:
    """Return a raw reference as a Python value; it takes over the caller's count. `declared` is its static type."""
    if store.engine.types.top(declared.heap_type) is AbstractHeapType.FUNC:
        return None if raw == NULL else store.runtime.function(raw)
    if raw == NULL:
        return None
    if is_i31(raw):
        return I31(i31_get_s(raw))
    kind = store.heap.kind(raw)
    if kind not in _HANDLES:
        store.heap.drop_gc_ref(raw)
        raise TypeError(f"the object at {raw:#x} is of kind {kind.name}, which cannot be given to Python")
    return _HANDLES[kind]._adopt(store, raw)


def lower_scalar(storage: StorageType, value: Any) -> ctypes._SimpleCData[Any]:
    """Return a Python number as the C value of a number or packed type; TypeError or ValueError if it does not fit."""
    if storage in _FLOAT_TYPES:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{value!r} was given where {storage} is wanted; it must be a float")
        try:
            return _FLOAT_TYPES[storage](value)
        except OverflowError:  # an int beyond any float
            return _FLOAT_TYPES[storage](math.inf if value > 0 else -math.inf)
    if storage in _INTEGER_TYPES:
        bits, data = _INTEGER_TYPES[storage]
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{value!r} was given where {storage} is wanted; it must be an int")
        if not -(1 << (bits - 1)) <= value < 1 << bits:
            raise ValueError(f"{value} does not fit {storage}: {-(1 << (bits - 1))} to {(1 << bits) - 1}")
        return data(value)
    raise TypeError(f"values of type {storage} cannot be given from Python")


def lift_scalar(storage: StorageType, data: bytes) -> int | float:
    """Return the bytes of a number or packed type as a Python number. TypeError for v128."""
    if storage in _FLOAT_TYPES:
        return _FLOAT_TYPES[storage].from_buffer_copy(data).value
    if storage in _INTEGER_TYPES:
        return _INTEGER_TYPES[storage][1].from_buffer_copy(data).value
    raise TypeError(f"values of type {storage} cannot be read from Python")


_HANDLES: dict[VMGcKind, type[GcObject]] = {
    VMGcKind.STRUCT_REF: Struct,
    VMGcKind.ARRAY_REF: Array,
    VMGcKind.EXTERN_REF: ExternRef,
}


def _dynamic_type(value: GcObject) -> HeapType:
    """The most precise heap type of an object; an externref, seen from the any hierarchy, is just that."""
    return value.type_index if isinstance(value, _TypedObject) else AbstractHeapType.ANY


def _describe(store: Store, wanted: RefType) -> str:
    if isinstance(wanted.heap_type, int):
        return f"{wanted}, {store.engine.types.describe(wanted.heap_type)},"
    return str(wanted)


def _check_store(store: Any) -> None:
    if not isinstance(store, Store):
        raise TypeError(f"store is {store!r}; it must be a Store")
    store.check_open()


def _resolve_type(store: Store, type: Any) -> int:
    """Return the engine's index of a type that was given as an index or as a definition to register."""
    _check_store(store)
    if isinstance(type, int) and not isinstance(type, bool):
        store.engine.types[type]  # raises when there is none
        return type
    if isinstance(type, StructType | ArrayType | FuncType):
        type = SubType(type)
    if not isinstance(type, SubType):
        raise TypeError(f"type is {type!r}; it must be a type index or a type definition")
    types = store.engine.types
    return types.register([type], outer=tuple(types))[0]


def _check_defaultable(storages: Sequence[StorageType], what: str) -> None:
    for number, storage in enumerate(storages):
        if isinstance(storage, RefType) and not storage.nullable:
            raise TypeError(f"{what} needs values: part {number} is {storage}, which has no default")
        if isinstance(storage, VectorType):
            raise TypeError(f"{what} cannot be made from Python: part {number} is {storage}")
