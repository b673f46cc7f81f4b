"""The Python face of GC objects: handles that root what they name, and the conversion of values both ways.

A handle owns one count of its object, as any other host root does. It gives it back when Python lets go of it (at the
store's next operation), or at once by `release`. Handles compare by reference: two handles of one object are equal, and
have one hash; they have no order. What is in objects is compared by whoever reads it. `copy.copy` of a handle is a
second one, with its own count; deeper copies, and pickles, are refused.

Python values and WebAssembly values correspond like this:

- i32, i64: an int, signed when read; written, anything from the least signed to the greatest unsigned value;
- i8, i16 (fields and elements only): an int, unsigned when read; written as above;
- f32, f64: a float;
- a reference: None for null, `Struct`, `Array`, `I31`, `ExternRef`, `Func`. Where an externref is wanted, any other
  Python value is wrapped in a new `ExternRef`; where an i31ref is wanted, an int will do.

What has `__index__` will do for an int, and what has `__float__` for a float, as numpy's numbers have; a bool will not.

Each type of a store's objects has a class of its own, a subclass of `Struct` or `Array` that is made when it is first
asked for (`_Face`): it knows where fields are, so that reading one is a look-up and one step. `type.bind(store)`
returns that class: `Cell = cell_type.bind(store)`, `Cell(left, right)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, NoReturn, cast

from lowheap.collectors import host
from lowheap.copying import NotCopied
from lowheap.critical import whole
from lowheap.errors import ForeignReferenceError, HeapError, StaleReferenceError
from lowheap.hostdata import Finalizer
from lowheap.layout import (
    EXTERNREF_TYPE_INDEX,
    HANDLE_LIMIT,
    HEADER_SIZE,
    KIND_MASK,
    NULL,
    U32_MAX,
    VMDrcArrayHeader,
    VMDrcExternRef,
    VMGcHeader,
    VMGcKind,
    i31_get_s,
    is_i31,
    is_object,
)
from lowheap.native import Heap
from lowheap.operations import exclusive, view_of
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
from lowheap.values import (
    FLOAT_TYPES,
    FORMATS,
    I31,
    NOTHING_KEPT,
    RANGES,
    REFERENCE_FORMAT,
    Lowering,
    as_index,
    lift_scalar,
    lower_scalar,
    scalar_lowering,
)

_new = object.__new__


_exclusive = exclusive("_face.store.lock")
_alone = exclusive("store.lock")


class GcObject(NotCopied):
    """A handle of an object in a store's heap. Only the subclasses have instances.

    `copy.copy` makes a second handle of the same object, with a count of its own. The object is not copied.
    """

    NOT_COPIED_BECAUSE = "it names one object in one heap; `copy.copy` makes a second handle of that"

    __slots__ = ("__weakref__", "_cell", "_reference")
    _face: ClassVar[_Face]
    _cell: Any
    _reference: int

    @_exclusive
    def __copy__(self) -> Any:
        """Return a second handle of the object. StaleReferenceError when this one is not valid."""
        operations = self._face.store.operations
        cell = operations.cell()
        operations.share(operations.vmctx, self.reference, cell)
        return lift(self._face.store, self._reference, cell)

    @_exclusive
    def release(self) -> None:
        """Give the object back now; the handle is stale from then on. Nothing when it is already."""
        if self.is_valid:
            operations = self._face.store.operations
            operations.release(operations.vmctx, self._cell)
            self._face.store.tidy_in_use()

    @property
    def is_valid(self) -> bool:
        """Whether the handle still names its object."""
        return bool(self._cell.number) and self._face.is_current()

    @property
    def store(self) -> Store:
        """The store whose heap the object is in."""
        return self._face.store

    @property
    def reference(self) -> int:
        """The raw reference, borrowed from the handle. StaleReferenceError when the handle is not valid."""
        if not self.is_valid:
            raise self._staleness()
        return self._reference

    def _staleness(self) -> StaleReferenceError:
        """What to raise when the handle is not valid."""
        if not self._cell.number:
            why = "it was released"
        elif self._face.store.is_closed:
            why = "its store is closed"
        else:
            why = "its heap was detached"
        return StaleReferenceError(f"this {self._kind} handle is stale: {why}")

    def _check_usable(self) -> Heap:
        """Return the heap that the object is in; raise why it cannot be reached."""
        if not self.is_valid:
            raise self._staleness()
        return self._face.store.heap.native

    _kind: ClassVar[str] = "object"

    @property
    @_exclusive
    def ref_count(self) -> int:
        """The object's count: one for each handle, field, element and global, and one if it is listed."""
        return self._face.store.heap.header(self.reference).ref_count

    def __eq__(self, other: object) -> bool:
        """Whether both name the same object. A stale handle equals only itself."""
        if not isinstance(other, GcObject):
            return NotImplemented
        if self is other:
            return True
        same = self._face.store is other._face.store and self._reference == other._reference
        return same and self.is_valid and other.is_valid

    def __hash__(self) -> int:
        """Hash by reference: objects do not move."""
        return hash((id(self._face.store), self._reference))

    def __repr__(self) -> str:
        """Show the type, where the object is, and what is in it; of an object in there, its type and place."""
        if not self.is_valid:
            return f"<{self._kind}, stale>"
        owner = self._face.store.lock.owner
        if owner is not None and owner != get_ident():
            return f"<{self._kind}, in use by another thread>"
        return self._description()

    def _description(self) -> str:
        raise NotImplementedError

    def _brief(self) -> str:
        """How the object is shown within another."""
        return f"<{self._face.label()} at {self._reference:#x}>"


_MOST_SHOWN = 16
"""So many fields or elements are shown."""


def _shown(value: Any) -> str:
    return value._brief() if isinstance(value, _TypedObject) else repr(value)


class _TypedObject(GcObject):
    """What structs and arrays share: a type in the engine's registry."""

    __slots__ = ()

    @property
    def type_index(self) -> int:
        """The engine's index of the object's type."""
        return self._face.type_index

    @property
    def type(self) -> SubType:
        """The object's type."""
        return self._face.type

    @_exclusive
    def _refuse_to_write(self, place: str) -> NoReturn:
        self._check_usable()
        raise HeapError(f"cannot write {place} of {self._face.label()}: it is immutable")


class Struct(_TypedObject):
    """A handle of a struct: `node["left"]`, `node[0]`, `node["left"] = other`, `len(node)`, iteration over values.

    Fields that have names are attributes, too, `node.left`, as far as the class has no other of that name.
    """

    __slots__ = ()
    _kind = "Struct"

    def __new__(cls, store: Store, type: int | StructType | SubType, fields: Sequence[Any] | None = None) -> Struct:
        """Allocate a struct of `type` (an engine's type index, or a type to register) with these field values.

        Without `fields`, each field is 0 or null. TypeError when a value does not fit its field.
        """
        face = _face_for(store, type, StructType)
        return cast(Struct, face.new_struct(fields))

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(self._face.fields)

    def __getitem__(self, key: str | int) -> Any:
        """Read a field, by name or by number."""
        kind = type(key)
        if kind is str or kind is int:
            try:
                read, offset = self._face.reads[key]
            except KeyError:
                read, offset = self._face.reads[self._face.number(key)]
        else:
            read, offset = self._face.reads[self._face.number(key)]
        return read(self, offset)

    def __setitem__(self, key: str | int, value: Any) -> None:
        """Write a field, by name or by number; HeapError when it is immutable, TypeError for a wrong value."""
        kind = type(key)
        if kind is str or kind is int:
            try:
                write, offset = self._face.writes[key]
            except KeyError:
                write, offset = self._face.writes[self._face.number(key)]
        else:
            write, offset = self._face.writes[self._face.number(key)]
        if write is None:
            self._refuse_to_write(f"field {key!r}")
        else:
            write(self, offset, value)

    def __getattr__(self, name: str) -> Any:
        """Read a field whose name became known after the first object of its type had come to Python."""
        if not name.startswith("_"):
            try:
                return self[name]
            except KeyError:
                pass
        raise AttributeError(f"{self._face.label()} has no field {name!r}, and {self._kind} no such attribute")

    def __iter__(self) -> Iterator[Any]:
        """Yield the values of the fields, in order."""
        return (self[number] for number in range(len(self)))

    def keys(self) -> list[str | int]:
        """Return each field's name, or its number where it has no name."""
        names = self._face.store.engine.types.field_names(self._face.type_index)
        return [names.get(number, number) for number in range(len(self))]

    def _description(self) -> str:
        names = self.keys()
        shown = [f"{name}={_shown(self[number])}" for number, name in enumerate(names[:_MOST_SHOWN])]
        shown += ["…"] * (len(names) > _MOST_SHOWN)
        return f"<Struct {self._face.label()} at {self._reference:#x}: {', '.join(shown)}>"


class Array(_TypedObject):
    """A handle of an array: `arr[i]`, `arr[i] = value`, `len(arr)`, iteration, slices read as lists.

    Arrays of numbers are buffers besides: `view`, `tobytes`, `from_buffer`, and slices that are written from buffers;
    those of i8 and i16 are text: `from_text`, `text`.
    """

    __slots__ = ("_length",)
    _kind = "Array"
    _length: int

    def __new__(cls, store: Store, type: int | ArrayType | SubType, values: Sequence[Any] | int) -> Array:
        """Allocate an array of `type` holding these values, or of that many zeros or nulls.

        TypeError when a value does not fit, AllocationTooLargeError when the size does not fit u32.
        """
        return cast(Array, _face_for(store, type, ArrayType).new_array(values))

    @staticmethod
    def from_buffer(store: Store, type: int | ArrayType | SubType, buffer: Any) -> Array:
        """Allocate an array of numbers and fill it from a buffer: bytes, an `array.array`, a numpy array…

        The buffer is contiguous, and of numbers of the elements' size, integers of either sign for integers and floats
        for floats; or of bytes, which are the elements' own then. TypeError or ValueError otherwise.
        """
        face = _face_for(store, type, ArrayType)
        with face.raw_bytes(buffer) as data:
            return cast(Array, face.new_array_of(len(data) // face.element_size, bytes(data)))

    @staticmethod
    def from_text(store: Store, type: int | ArrayType | SubType, text: str) -> Array:
        """Allocate an array of the text's UTF-8 bytes (i8), or of its UTF-16 code units (i16), lone surrogates too."""
        face = _face_for(store, type, ArrayType)
        if not isinstance(text, str):
            raise TypeError(f"text is {text!r}; it must be a str")
        data = text.encode(*face.encoding())
        return cast(Array, face.new_array_of(len(data) // face.element_size, data))

    def text(self) -> str:
        """Return the elements as text: UTF-8 of i8, UTF-16 of i16. UnicodeDecodeError for what is no UTF-8."""
        return self.tobytes().decode(*self._face.encoding())

    def view(self) -> ArrayView:
        """Return the elements' own memory, to be used in a `with` block: `with array.view() as numbers:`.

        `numbers` is a memoryview, read-only where elements are immutable; numpy takes it: `numpy.asarray(numbers)`.
        Meanwhile the array is held, and the store cannot be closed. TypeError for an array of references.
        """
        return ArrayView(self)

    def tobytes(self) -> bytes:
        """Return a copy of the elements' bytes, little-endian. TypeError for an array of references."""
        return self._bytes(0, self._length)

    def _range(self, first: int, end: int) -> tuple[int, int]:
        """Where the bytes of elements are in the heap."""
        self._face.require_numbers()
        self._check_usable()
        start = self._reference + self._face.elements_offset
        return start + first * self._face.element_size, start + end * self._face.element_size

    def _index(self, index: Any) -> int:
        number = as_index(index)
        if number is None:
            raise TypeError(f"an element is named by an int, not by {index!r}")
        if not -self._length <= number < self._length:
            raise IndexError(f"index {number} is out of bounds of an array of {self._length} elements")
        return number % self._length

    def __len__(self) -> int:
        """Return the number of elements."""
        return self._length

    def __getitem__(self, index: int | slice) -> Any:
        """Read an element, or a slice as a list."""
        face = self._face
        if type(index) is int and 0 <= index < self._length:
            return face.read(self, face.elements_offset + index * face.element_size)
        if isinstance(index, slice):
            return self._slice(index)
        return self[self._index(index)]

    def _slice(self, wanted: slice) -> list[Any]:
        positions = range(*wanted.indices(self._length))
        format = FORMATS.get(self._face.element.storage)
        if format is None or abs(positions.step) != 1 or not positions:
            return [self[position] for position in positions]
        first, last = sorted((positions[0], positions[-1]))
        elements: Any = memoryview(self._bytes(first, last + 1))
        values: list[Any] = elements.cast(format).tolist()
        return values if positions.step == 1 else values[::-1]

    @_exclusive
    def _bytes(self, first: int, end: int) -> bytes:
        start, stop = self._range(first, end)
        return bytes(self._face.memory()[start:stop])

    def __setitem__(self, index: int | slice, value: Any) -> None:
        """Write an element, or a slice from a buffer or a sequence of as many values.

        HeapError when elements are immutable, TypeError for a wrong value, ValueError for another number of them.
        """
        face = self._face
        if isinstance(index, slice):
            self._write_slice(index, value)
            return
        position = index if type(index) is int and 0 <= index < self._length else self._index(index)
        if face.write is None:
            self._refuse_to_write(f"element {index}")
        else:
            face.write(self, face.elements_offset + position * face.element_size, value)

    def _write_slice(self, wanted: slice, values: Any) -> None:
        positions = range(*wanted.indices(self._length))
        if not self._face.element.mutable:
            self._refuse_to_write(f"elements {positions.start} to {positions.stop}")
        if self._face.element.storage in FORMATS:
            with self._face.raw_bytes(values) as data:
                size = self._face.element_size
                _check_count(len(data) // size, len(positions))
                if positions.step == 1:
                    self._write_bytes(positions.start, data)
                else:
                    for number, position in enumerate(positions):
                        self._write_bytes(position, data[number * size : (number + 1) * size])
        else:
            given = list(values)
            _check_count(len(given), len(positions))
            for position, value in zip(positions, given, strict=True):
                self[position] = value

    @_exclusive
    def _write_bytes(self, first: int, data: memoryview) -> None:
        start, _ = self._range(first, first)
        self._face.memory()[start : start + len(data)] = data

    def __iter__(self) -> Iterator[Any]:
        """Yield the elements, in order."""
        return (self[index] for index in range(self._length))

    def _description(self) -> str:
        shown = [_shown(self[index]) for index in range(min(self._length, _MOST_SHOWN))]
        shown += ["…"] * (self._length > _MOST_SHOWN)
        return f"<Array {self._face.label()} of {self._length} at {self._reference:#x}: [{', '.join(shown)}]>"


def _check_count(given: int, wanted: int) -> None:
    if given != wanted:
        raise ValueError(f"{given} values were given where {wanted} are wanted; an array does not change its length")


class ArrayView(NotCopied):
    """The memory of an array of numbers, for a `with` block; see `Array.view`."""

    NOT_COPIED_BECAUSE = "it stands for memory that is given back once; `array.view()` makes another"

    def __init__(self, array: Array) -> None:
        """Take the array; the `with` statement does the rest."""
        array._face.require_numbers()
        self._array = array
        self._memory: memoryview | None = None
        self._exporter: weakref.ref[Any] | None = None
        self._is_entered = False

    @exclusive("_array._face.store.lock")
    def __enter__(self) -> memoryview:
        """Return the elements. HeapError when this view is out already."""
        array = self._array
        if self._memory is not None:
            raise HeapError("this view of an array is out already; array.view() makes another")
        face = array._face
        start, end = array._range(0, array._length)
        exporter = (_bytes_type(end - start)).from_buffer(face.memory(), start) if end > start else bytearray()
        as_bytes: Any = memoryview(exporter).cast("B")
        made = as_bytes.cast(FORMATS[face.element.storage])
        face.store.heap.pins.add(self)
        self._exporter = weakref.ref(exporter) if end > start else None
        self._memory = made if face.element.mutable else made.toreadonly()
        self._is_entered = True
        return self._memory

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the memory back. HeapError while something made of it, a numpy array for one, is still there."""
        self._is_entered = False
        if not self.let_go():
            self._array._face.store.heap.lasting_pins.add(self)
            raise HeapError(
                f"the view of {self._array!r} is still used: by a slice or a numpy array that was made of it; "
                f"until that is gone, the array is held, and the store cannot be closed"
            )

    def let_go(self) -> bool:
        """Give the memory back if nobody uses it any more; whether that is so."""
        if self._is_entered:
            return False
        if self._memory is not None:
            with contextlib.suppress(BufferError):
                self._memory.release()
                self._memory = None
        if self._memory is None and (self._exporter is None or self._exporter() is None):
            self._array._face.store.heap.pins.discard(self)
            self._array._face.store.heap.lasting_pins.discard(self)
            return True
        return False


@functools.cache
def _bytes_type(size: int) -> Any:
    """A ctypes array of bytes that can be watched by a weak reference."""
    return type("Elements", (ctypes.c_uint8 * size,), {})


class ExternRef(GcObject):
    """A handle of an externref, and so of a host value that WebAssembly can hold: `ref.value` is that value."""

    __slots__ = ()
    _kind = "ExternRef"

    def __new__(cls, store: Store, value: Any, finalizer: Finalizer | None = None) -> ExternRef:
        """Allocate an externref for any Python value.

        `finalizer(value)` is called once, when the externref has died: when control next comes back to Python, be it
        from an export or into a host function, or when the store next does something; at the latest, when the store is
        closed. It may use the store. An exception in it goes to `sys.unraisablehook`.
        """
        _check_store(store)
        if finalizer is not None and not callable(finalizer):
            raise TypeError(f"finalizer is {finalizer!r}; it must be callable, with the value, or None")
        return cast(ExternRef, _face_of(store, EXTERNREF_TYPE_INDEX).new_externref(value, finalizer))

    @property
    @_exclusive
    def value(self) -> Any:
        """The host value; one that C code made is a `void *` of cffi's."""
        self._check_usable()
        return self._face.store.host_data.get(self._face.read_id(self._face.memory(), self._reference)[0])

    def _description(self) -> str:
        return f"ExternRef({self.value!r})"


class Func(NotCopied):
    """A function of a store, WebAssembly's or the host's: call it with Python values.

    One result comes as itself, several as a tuple, none as None. TypeError for wrong arguments, `Trap` when the program
    traps; an exception that a host function raised comes out as itself.

    `Func(store, type, callable)` makes one of a Python callable, to be imported, or passed where a reference to a
    function is wanted. `access_caller`: the callable takes a `Caller` first.
    """

    NOT_COPIED_BECAUSE = "it is a place in one store's function table; hand it on as it is"

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
    host_data, faces = store.host_data, store.faces
    accepted: set[type] = set()  # classes whose objects were found to match: each is of one type, in this memory

    def lower(value: Any, kept: list[Any]) -> int:
        if value is None and is_nullable:
            return NULL
        if type(value) in accepted and value._cell.number and value._face.binding is host_data.binding:
            return cast(int, value._reference)
        if is_extern and value is not None and not isinstance(value, _REFERENCE_CLASSES):
            face = faces.get(EXTERNREF_TYPE_INDEX)
            if face is None or face.binding is not host_data.binding:
                face = _face_of(store, EXTERNREF_TYPE_INDEX)
            made: Any = face.new_externref(value, None)
            kept.append(made)
            return cast(int, made._reference)
        raw = lower_reference(store, wanted, value, kept)
        if isinstance(value, GcObject):
            accepted.add(type(value))
        return raw

    return lower


_REFERENCE_CLASSES = (GcObject, I31)


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
    elif isinstance(value, GcObject):
        if value.store is not store:
            raise ForeignReferenceError(f"{value!r} belongs to another store")
        reference = value.reference
        if wanted.heap_type is AbstractHeapType.EXTERN or types.is_subtype(_dynamic_type(value), wanted.heap_type):
            return reference
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
        raise HeapError(f"no handle is left: all {HANDLE_LIMIT} are in use")
    native = store.heap.attached or store.heap.native
    face = store.faces.get(_TYPE_INDEX(native.buffer, raw)[0])
    if face is None or face.binding is not store.host_data.binding:
        face = _face_of_object(store, native, raw)
    made: Any = _new(face.cls)
    made._cell, made._reference = cell, raw
    if face.is_array:
        made._length = _LENGTH(native.buffer, raw)[0]
    return made


def _face_of_object(store: Store, native: Heap, raw: int) -> _Face:
    """Return the face of an object's type. TypeError when Python has no such objects; their types have no faces."""
    header = VMGcHeader.from_buffer(native.buffer, raw)
    kind = header.kind_and_reserved & KIND_MASK
    if kind not in _LIFTED_KINDS:
        raise TypeError(f"the object at {raw:#x} is of kind {VMGcKind(kind).name}, which cannot be given to Python")
    return _face_of(store, header.type_index)


_TYPE_INDEX = struct.Struct(f"<{VMGcHeader.type_index.offset}xI").unpack_from
_LENGTH = struct.Struct(f"<{VMDrcArrayHeader.length.offset}xI").unpack_from
_LIFTED_KINDS = frozenset({int(VMGcKind.STRUCT_REF), int(VMGcKind.ARRAY_REF), int(VMGcKind.EXTERN_REF)})


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
        if isinstance(storage, VectorType):
            raise TypeError(f"{what} cannot be made from Python: part {number} is {storage}")


# ----------------------------------------------------------------------------------------------------------------------
# Faces


def _face_of(store: Store, type_index: int) -> _Face:
    """Return the face of a type in a store's memory, made when there is none."""
    face: _Face | None = store.faces.get(type_index)
    if face is None or not face.is_current():
        face = store.faces[type_index] = _Face(store, type_index)
    return face


def _face_for(store: Store, type: Any, wanted: type[StructType] | type[ArrayType]) -> _Face:
    """Return the face of a type that was given as an index or a definition, and must be of a sort."""
    known = store.resolved.get(id(type)) if isinstance(store, Store) else None
    face: _Face | None = known[1] if known is not None and known[0] is type and known[1].is_current() else None
    index = _resolve_type(store, type) if face is None else face.type_index
    composite = store.engine.types[index].composite
    if not isinstance(composite, wanted):
        sort = "a struct" if wanted is StructType else "an array"
        raise HeapError(f"type {index} is {composite}, not {sort} type")
    if face is None:
        face = _face_of(store, index)
        if not isinstance(type, int):
            if len(store.resolved) >= _MOST_RESOLVED:
                store.resolved.clear()
            store.resolved[id(type)] = (type, face)
    return face


_MOST_RESOLVED = 1 << 10
"""Definitions whose type is remembered."""


class _Face:
    """A type of objects as one store's memory has it: how they are made, and how their parts are read and written.

    It is current as long as the memory is that: `binding` is the host data's then. `cls` is the class of the handles.
    """

    is_array = False

    def __init__(self, store: Store, type_index: int) -> None:
        self.store, self.type_index = store, type_index
        self._host_data = store.host_data
        self.binding = store.host_data.binding
        self._operations, self._lock, self._forget = store.operations, store.lock, store.unreachable_cells.append
        self.cls: type[GcObject]
        members: dict[str, Any] = {"__slots__": (), "_face": self}
        if type_index == EXTERNREF_TYPE_INDEX:
            offset = VMDrcExternRef.host_data_id.offset
            self.read_id = struct.Struct(f"<{offset}xI").unpack_from
            self.cls = type("ExternRef", (ExternRef,), members)
            return
        store.check_open()
        self.type = store.engine.types[type_index]
        store.heap.register_type(type_index)
        composite = self.type.composite
        if isinstance(composite, StructType):
            self._describe_struct(composite, members)
        elif isinstance(composite, ArrayType):
            self._describe_array(composite, members)
        else:
            raise HeapError(f"type {type_index} is {composite}, of which Python has no objects")

    def is_current(self) -> bool:
        """Whether the store's heap has still the memory that this is about."""
        return self._host_data.binding is self.binding and self.binding is not None

    def label(self) -> str:
        """Return how messages call the type."""
        if self.type_index == EXTERNREF_TYPE_INDEX:
            return "externref"
        name = self.store.engine.types.type_name(self.type_index)
        return f"${name}" if name else f"type {self.type_index}"

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
        self._lowerings = [self._lowering(field.storage) for field in self.fields]
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
            code = FORMATS.get(field.storage, REFERENCE_FORMAT if isinstance(field.storage, RefType) else "16s")
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
            return self._handle(cell)
        finally:
            lock.owner = outer

    def _handle(self, cell: Any) -> Any:
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
            raise HeapError(f"no handle is left: all {HANDLE_LIMIT} are in use")

    # Arrays

    def _describe_array(self, composite: ArrayType, members: dict[str, Any]) -> None:
        layout = self.store.heap.array_layout(self.type_index)
        self.is_array = True
        self.element = composite.element
        self.element_size = storage_size(composite.element.storage)
        self.elements_offset = layout.element_offset(0)
        self.read, self.write = self._access(self.element)
        self._lowerings = [self._lowering(self.element.storage)]
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
        if isinstance(storage, VectorType):
            raise TypeError(f"values of type {storage} cannot be given from Python")
        (lower,) = self._lowerings
        code = FORMATS.get(storage, REFERENCE_FORMAT)
        raws = [lower(value, kept) for value in values]
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
        made: Any = self._handle(cell)
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
            return self._handle(cell)
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
            raise HeapError(f"no handle is left: all {HANDLE_LIMIT} are in use")

    # Parts

    def _lowering(self, storage: StorageType) -> Lowering:
        if isinstance(storage, VectorType):
            return lambda value, _: lower_scalar(storage, value)  # which refuses it
        return lowering(self.store, storage)

    def _access(self, field: FieldType) -> tuple[_Read, _Write | None]:
        """Return what reads and what writes a field or an element, given the handle and an offset into the object."""
        storage, store = field.storage, self.store
        if isinstance(storage, VectorType):
            read: _Read = _refuse_to_lift(storage)
            write: _Write = _refuse_to_lower(storage)
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
    unpack = struct.Struct(f"<{FORMATS[storage]}").unpack_from
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
            if native is None or not handle._cell.number or handle._face.binding is not host_data.binding:
                native = handle._check_usable()
            return unpack(native.buffer, handle._reference + offset)[0]
        finally:
            lock.owner = outer

    return read


def _scalar_writer(store: Store, storage: StorageType) -> _Write:
    pack = struct.Struct(f"<{FORMATS[storage]}").pack_into
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
            if native is None or not handle._cell.number or handle._face.binding is not host_data.binding:
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
            if native is None or not handle._cell.number or handle._face.binding is not host_data.binding:
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
            if not handle._cell.number or handle._face.binding is not host_data.binding:
                handle._check_usable()
            store.tidy_in_use()
            kept: list[Any] = []
            raw = lower(value, kept)  # which may allocate, and so run finalizers: they may release this very handle
            native = heap.attached
            if native is None or not handle._cell.number or handle._face.binding is not host_data.binding:
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


def _refuse_to_lift(storage: StorageType) -> _Read:
    def read(handle: Any, _offset: int) -> Any:
        handle._check_usable()
        return lift_scalar(storage, b"")

    return read


def _refuse_to_lower(storage: StorageType) -> _Write:
    def write(handle: Any, _offset: int, value: Any) -> None:
        handle._check_usable()
        lower_scalar(storage, value)

    return write


def _attribute(name: str) -> property:
    """The attribute of a field that has a name."""

    def get(handle: Struct) -> Any:
        return handle[name]

    def set(handle: Struct, value: Any) -> None:
        handle[name] = value

    return property(get, set, doc=f"Field {name}.")


def bind(store: Store, type: Any) -> type[GcObject]:
    """What `Store.bind` does."""
    index = _resolve_type(store, type)
    return _face_of(store, index).cls
