"""Objects as Python has them: handles, which root what they name; and functions.

A handle owns one count of its object, as any other host root does. It gives it back when Python lets go of it (at the
store's next operation), or at once by `release`. Handles compare by reference: two handles of one object are equal, and
have one hash; they have no order. What is in objects is compared by whoever reads it. `copy.copy` of a handle is a
second one, with its own count; deeper copies, and pickles, are refused.

Each handle's class is that of one type of its store's objects, and knows their layout: `bound_types.py` makes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any, ClassVar, NoReturn, cast

from lowheap.copying import NotCopied
from lowheap.errors import HeapError, StaleReferenceError
from lowheap.hostdata import Finalizer
from lowheap.later import later
from lowheap.layout import (
    HANDLE_LIMIT,
)
from lowheap.native import Heap
from lowheap.operations import exclusive
from lowheap.store import Store
from lowheap.types import (
    ArrayType,
    FuncType,
    StructType,
    SubType,
)
from lowheap.values import (
    FORMATS,
    as_index,
)

_exclusive = exclusive("_bound_type.store.lock")


def no_handle_left() -> HeapError:
    """What to raise when a store has as many handles as it can have."""
    return HeapError(f"no handle is left: all {HANDLE_LIMIT} are in use")


class GcObject(NotCopied):
    """A handle of an object in a store's heap. Only the subclasses have instances.

    `copy.copy` makes a second handle of the same object, with a count of its own. The object is not copied.
    """

    NOT_COPIED_BECAUSE = "it names one object in one heap; `copy.copy` makes a second handle of that"

    __slots__ = ("__weakref__", "_cell", "_reference")
    _bound_type: ClassVar[Any]
    """The `BoundType` of the object's type."""
    _cell: Any
    _reference: int

    @_exclusive
    def __copy__(self) -> Any:
        """Return a second handle of the object. StaleReferenceError when this one is not valid."""
        operations = self._bound_type.store.operations
        cell = operations.cell()
        operations.share(operations.vmctx, self.reference, cell)
        if not cell.number:
            raise no_handle_left()
        return self._bound_type.handle(cell)

    @_exclusive
    def release(self) -> None:
        """Give the object back now; the handle is stale from then on. Nothing when it is already."""
        if self.is_valid:
            operations = self._bound_type.store.operations
            operations.release(operations.vmctx, self._cell)
            self._bound_type.store.tidy_in_use()

    @property
    def is_valid(self) -> bool:
        """Whether the handle still names its object."""
        return bool(self._cell.number) and self._bound_type.is_current()

    @property
    def store(self) -> Store:
        """The store whose heap the object is in."""
        return cast(Store, self._bound_type.store)

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
        elif self._bound_type.store.is_closed:
            why = "its store is closed"
        else:
            why = "its heap was detached"
        return StaleReferenceError(f"this {self._kind} handle is stale: {why}")

    def _check_usable(self) -> Heap:
        """Return the heap that the object is in; raise why it cannot be reached."""
        if not self.is_valid:
            raise self._staleness()
        return cast(Heap, self._bound_type.store.heap.native)

    _kind: ClassVar[str] = "object"

    @property
    @_exclusive
    def ref_count(self) -> int:
        """The object's count: one for each handle, field, element and global, and one if it is listed."""
        return cast(int, self._bound_type.store.heap.header(self.reference).ref_count)

    def __eq__(self, other: object) -> bool:
        """Whether both name the same object. A stale handle equals only itself."""
        if not isinstance(other, GcObject):
            return NotImplemented
        if self is other:
            return True
        same = self._bound_type.store is other._bound_type.store and self._reference == other._reference
        return same and self.is_valid and other.is_valid

    def __hash__(self) -> int:
        """Hash by reference: objects do not move."""
        return hash((id(self._bound_type.store), self._reference))

    def __repr__(self) -> str:
        """Show the type, where the object is, and what is in it; of an object in there, its type and place."""
        if not self.is_valid:
            return f"<{self._kind}, stale>"
        owner = self._bound_type.store.lock.owner
        if owner is not None and owner != get_ident():
            return f"<{self._kind}, in use by another thread>"
        return self._description()

    def _description(self) -> str:
        raise NotImplementedError

    def _brief(self) -> str:
        """How the object is shown within another."""
        return f"<{self._bound_type.label()} at {self._reference:#x}>"


_MOST_SHOWN = 16
"""So many fields or elements are shown."""


def _shown(value: Any) -> str:
    return value._brief() if isinstance(value, TypedObject) else repr(value)


class TypedObject(GcObject):
    """What structs and arrays share: a type in the engine's registry."""

    __slots__ = ()

    @property
    def type_index(self) -> int:
        """The engine's index of the object's type."""
        return cast(int, self._bound_type.type_index)

    @property
    def type(self) -> SubType:
        """The object's type."""
        return cast(SubType, self._bound_type.type)

    @_exclusive
    def _refuse_to_write(self, place: str) -> NoReturn:
        self._check_usable()
        raise HeapError(f"cannot write {place} of {self._bound_type.label()}: it is immutable")


class Struct(TypedObject):
    """A handle of a struct: `node["left"]`, `node[0]`, `node["left"] = other`, `len(node)`, iteration over values.

    Fields that have names are attributes, too, `node.left`, as far as the class has no other of that name.
    """

    __slots__ = ()
    _kind = "Struct"

    def __new__(cls, store: Store, type: int | StructType | SubType, fields: Sequence[Any] | None = None) -> Struct:
        """Allocate a struct of `type` (an engine's type index, or a type to register) with these field values.

        Without `fields`, each field is 0 or null. TypeError when a value does not fit its field.
        """
        bound_type = later("bound_type_for")(store, type, StructType)
        return cast(Struct, bound_type.new_struct(fields))

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(self._bound_type.fields)

    def __getitem__(self, key: str | int) -> Any:
        """Read a field, by name or by number."""
        kind = type(key)
        if kind is str or kind is int:
            try:
                read, offset = self._bound_type.reads[key]
            except KeyError:
                read, offset = self._bound_type.reads[self._bound_type.number(key)]
        else:
            read, offset = self._bound_type.reads[self._bound_type.number(key)]
        return read(self, offset)

    def __setitem__(self, key: str | int, value: Any) -> None:
        """Write a field, by name or by number; HeapError when it is immutable, TypeError for a wrong value."""
        kind = type(key)
        if kind is str or kind is int:
            try:
                write, offset = self._bound_type.writes[key]
            except KeyError:
                write, offset = self._bound_type.writes[self._bound_type.number(key)]
        else:
            write, offset = self._bound_type.writes[self._bound_type.number(key)]
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
        raise AttributeError(f"{self._bound_type.label()} has no field {name!r}, and {self._kind} no such attribute")

    def __iter__(self) -> Iterator[Any]:
        """Yield the values of the fields, in order."""
        return (self[number] for number in range(len(self)))

    def keys(self) -> list[str | int]:
        """Return each field's name, or its number where it has no name."""
        names = self._bound_type.store.engine.types.field_names(self._bound_type.type_index)
        return [names.get(number, number) for number in range(len(self))]

    def _description(self) -> str:
        names = self.keys()
        shown = [f"{name}={_shown(self[number])}" for number, name in enumerate(names[:_MOST_SHOWN])]
        shown += ["…"] * (len(names) > _MOST_SHOWN)
        return f"<Struct {self._bound_type.label()} at {self._reference:#x}: {', '.join(shown)}>"


class Array(TypedObject):
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
        return cast(Array, later("bound_type_for")(store, type, ArrayType).new_array(values))

    @staticmethod
    def from_buffer(store: Store, type: int | ArrayType | SubType, buffer: Any) -> Array:
        """Allocate an array of numbers and fill it from a buffer: bytes, an `array.array`, a numpy array…

        The buffer is contiguous, and of numbers of the elements' size, integers of either sign for integers and floats
        for floats; or of bytes, which are the elements' own then. TypeError or ValueError otherwise.
        """
        bound_type = later("bound_type_for")(store, type, ArrayType)
        with bound_type.raw_bytes(buffer) as data:
            return cast(Array, bound_type.new_array_of(len(data) // bound_type.element_size, bytes(data)))

    @staticmethod
    def from_text(store: Store, type: int | ArrayType | SubType, text: str) -> Array:
        """Allocate an array of the text's UTF-8 bytes (i8), or of its UTF-16 code units (i16), lone surrogates too."""
        bound_type = later("bound_type_for")(store, type, ArrayType)
        if not isinstance(text, str):
            raise TypeError(f"text is {text!r}; it must be a str")
        data = text.encode(*bound_type.encoding())
        return cast(Array, bound_type.new_array_of(len(data) // bound_type.element_size, data))

    def __copy__(self) -> Any:
        """Return a second handle of the array. StaleReferenceError when this one is not valid."""
        made = super().__copy__()
        made._length = self._length
        return made

    def text(self) -> str:
        """Return the elements as text: UTF-8 of i8, UTF-16 of i16. UnicodeDecodeError for what is no UTF-8."""
        return self.tobytes().decode(*self._bound_type.encoding())

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
        self._bound_type.require_numbers()
        self._check_usable()
        start = self._reference + self._bound_type.elements_offset
        return start + first * self._bound_type.element_size, start + end * self._bound_type.element_size

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
        bound_type = self._bound_type
        if type(index) is int and 0 <= index < self._length:
            return bound_type.read(self, bound_type.elements_offset + index * bound_type.element_size)
        if isinstance(index, slice):
            return self._slice(index)
        return self[self._index(index)]

    def _slice(self, wanted: slice) -> list[Any]:
        positions = range(*wanted.indices(self._length))
        format = FORMATS.get(self._bound_type.element.storage)
        if format is None or abs(positions.step) != 1 or not positions:
            return [self[position] for position in positions]
        first, last = sorted((positions[0], positions[-1]))
        elements: Any = memoryview(self._bytes(first, last + 1))
        values: list[Any] = elements.cast(format).tolist()
        return values if positions.step == 1 else values[::-1]

    @_exclusive
    def _bytes(self, first: int, end: int) -> bytes:
        start, stop = self._range(first, end)
        return bytes(self._bound_type.memory()[start:stop])

    def __setitem__(self, index: int | slice, value: Any) -> None:
        """Write an element, or a slice from a buffer or a sequence of as many values.

        HeapError when elements are immutable, TypeError for a wrong value, ValueError for another number of them.
        """
        bound_type = self._bound_type
        if isinstance(index, slice):
            self._write_slice(index, value)
            return
        position = index if type(index) is int and 0 <= index < self._length else self._index(index)
        if bound_type.write is None:
            self._refuse_to_write(f"element {index}")
        else:
            bound_type.write(self, bound_type.elements_offset + position * bound_type.element_size, value)

    def _write_slice(self, wanted: slice, values: Any) -> None:
        positions = range(*wanted.indices(self._length))
        if not self._bound_type.element.mutable:
            self._refuse_to_write(f"elements {positions.start} to {positions.stop}")
        if self._bound_type.element.storage in FORMATS:
            with self._bound_type.raw_bytes(values) as data:
                size = self._bound_type.element_size
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
        self._bound_type.memory()[start : start + len(data)] = data

    def __iter__(self) -> Iterator[Any]:
        """Yield the elements, in order."""
        return (self[index] for index in range(self._length))

    def _description(self) -> str:
        shown = [_shown(self[index]) for index in range(min(self._length, _MOST_SHOWN))]
        shown += ["…"] * (self._length > _MOST_SHOWN)
        return f"<Array {self._bound_type.label()} of {self._length} at {self._reference:#x}: [{', '.join(shown)}]>"


def _check_count(given: int, wanted: int) -> None:
    if given != wanted:
        raise ValueError(f"{given} values were given where {wanted} are wanted; an array does not change its length")


class ArrayView(NotCopied):
    """The memory of an array of numbers, for a `with` block; see `Array.view`."""

    NOT_COPIED_BECAUSE = "it stands for memory that is given back once; `array.view()` makes another"

    def __init__(self, array: Array) -> None:
        """Take the array; the `with` statement does the rest."""
        array._bound_type.require_numbers()
        self._array = array
        self._memory: memoryview | None = None
        self._exporter: weakref.ref[Any] | None = None
        self._is_entered = False

    @exclusive("_array._bound_type.store.lock")
    def __enter__(self) -> memoryview:
        """Return the elements. HeapError when this view is out already."""
        array = self._array
        if self._memory is not None:
            raise HeapError("this view of an array is out already; array.view() makes another")
        bound_type = array._bound_type
        start, end = array._range(0, array._length)
        exporter = (_bytes_type(end - start)).from_buffer(bound_type.memory(), start) if end > start else bytearray()
        as_bytes: Any = memoryview(exporter).cast("B")
        made = as_bytes.cast(FORMATS[bound_type.element.storage])
        bound_type.store.heap.pins.add(self)
        self._exporter = weakref.ref(exporter) if end > start else None
        self._memory = made if bound_type.element.mutable else made.toreadonly()
        self._is_entered = True
        return self._memory

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the memory back. HeapError while something made of it, a numpy array for one, is still there."""
        self._is_entered = False
        if not self.let_go():
            self._array._bound_type.store.heap.lasting_pins.add(self)
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
            self._array._bound_type.store.heap.pins.discard(self)
            self._array._bound_type.store.heap.lasting_pins.discard(self)
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
        return cast(ExternRef, later("new_externref")(store, value, finalizer))

    @property
    @_exclusive
    def value(self) -> Any:
        """The host value; one that C code made is a `void *` of cffi's."""
        self._check_usable()
        bound = self._bound_type
        return bound.store.host_data.get(bound.read_id(bound.memory(), self._reference)[0])

    def _description(self) -> str:
        return f"ExternRef({self.value!r})"


class ExnRef(GcObject):
    """A handle of an exception that compiled code has thrown, or may throw: what an `exnref` is.

    `exception()` is what Python can raise of it.
    """

    __slots__ = ()
    _kind = "ExnRef"

    @property
    @_exclusive
    def words(self) -> tuple[int, int]:
        """The two words that tell the exception's tag from all others of the store."""
        self._check_usable()
        found: tuple[int, int] = self._bound_type.read_words(self._bound_type.memory(), self._reference)
        return found

    @property
    def tag(self) -> Any:
        """The exception's `Tag`; None for one of Python's, unless somebody has got the tag for those."""
        return later("tag_of")(self)

    @property
    def fields(self) -> tuple[Any, ...]:
        """The values that the exception carries."""
        return tuple(read(self, offset) for read, offset in self._bound_type.field_reads)

    def exception(self) -> Exception:
        """Return what Python can raise: a `WasmException`, or the exception of Python's that this carries."""
        return cast(Exception, later("raised")(self))

    def _description(self) -> str:
        return f"<ExnRef {self.tag!r} at {self._reference:#x}>"


class Func(NotCopied):
    """A function of a store, WebAssembly's or the host's: call it with Python values.

    One result comes as itself, several as a tuple, none as None. TypeError for wrong arguments, `Trap` when the program
    traps; an exception that a host function raised comes out as itself.

    `Func(store, type, callable)` makes one of a Python callable, to be imported, or passed where a reference to a
    function is wanted. `access_caller`: the callable takes a `Caller` first.
    """

    NOT_COPIED_BECAUSE = "it is a place in one store's function table; hand it on as it is"

    __slots__ = ("_call", "_call_bits", "_target", "_with_caller", "funcref", "name", "store", "type", "type_index")

    def __init__(self, store: Store, type: FuncType, callable: Callable[..., Any], access_caller: bool = False) -> None:
        """Make a host function. TypeError when an argument is none of what it must be."""
        later("make_host_function")(self, store, type, callable, access_caller)

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
        self._target: Any = None
        """How a compiled function is called: the runtime's."""
        self._call_bits: Callable[[Sequence[Any]], Any] | None = None
        """Calls it with floats as their bits; made when that is first done."""

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        try:
            return self._call(args)
        finally:
            del args  # tracebacks reach this frame, and what they belong to may be in the heap: that would be a cycle

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
