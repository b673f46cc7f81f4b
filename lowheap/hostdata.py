"""The side table behind externrefs: host values by id, so that no host pointer ever enters the heap.

The ids, and what C code needs to know of them, are `VMHostData` entries in the heap's control mapping, so Python and C
can make externrefs on one heap. Values of Python are here, by id; an entry of C's holds all that there is of its value.
An entry of Python's has the address in `data` when its value is a pointer of cffi's, such as `ffi.new_handle` makes,
else 0.

When an externref dies, its value is only set aside: letting go of it may run a finalizer, which may use the heap, and
the heap is in the middle of an operation. `release` does it afterwards.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import cffi

from lowheap.collectors.shared import host_data
from lowheap.copying import NotCopied
from lowheap.errors import HeapError
from lowheap.layout import HOST_DATA_LIMIT, VMHeapControl, VMHostData, VMHostDataOwner
from lowheap.native import tables

Finalizer = Callable[[Any], object]

_ffi = cffi.FFI()
_ENTRY_SIZE = ctypes.sizeof(VMHostData)
_POINTER_KINDS = ("pointer", "array", "function")


class ExternRefHostDataTable(NotCopied):
    """Host values by 32-bit id, for the heap that the table is bound to: `DrcHeap.attach` binds it, `detach` unbinds.

    Finalizers, and `__del__` of values, run one after the other, never one within another: what dies while one runs
    has its turn after it. An exception in one goes to `sys.unraisablehook`.
    """

    NOT_COPIED_BECAUSE = "it serves one heap, whose externrefs would let go of each value twice"

    def __init__(self) -> None:
        """Make an empty table, bound to no heap."""
        self.binding: object | None = None
        """A new object for each time that the table is bound, None while it is not."""
        self._control: VMHeapControl | None = None
        self._values: dict[int, tuple[Any, Finalizer | None]] = {}
        self._set_aside: deque[_Dead] = deque()
        self._dying: set[int] = set()  # C's ids whose finalizer has yet to run
        self._generation = 0  # counts the times that all ids went out of use
        self._is_releasing = False

    # ------------------------------------------------------------------------------------------------------------------
    # The heap

    def bind(self, control: VMHeapControl) -> None:
        """Keep ids in the table of this control block from now on. HeapError when the table is bound already."""
        if self._control is not None:
            raise HeapError("the side table already serves a heap; detach that one first")
        self._control = control
        self.binding = object()

    def unbind(self) -> None:
        """Set everything aside for `release`, and let go of the heap; nothing when the table is not bound."""
        if self._control is not None:
            self._set_all_aside()
            self._control = self.binding = None

    def _bound(self) -> VMHeapControl:
        if self._control is None:
            raise HeapError("the side table serves no heap; DrcHeap.attach gives it to one")
        return self._control

    def _entry(self, host_data_id: int) -> VMHostData:
        return host_data.entry_of(tables(self._bound()), host_data_id)

    # ------------------------------------------------------------------------------------------------------------------
    # Ids

    def __len__(self) -> int:
        """Return how many ids are in use, C's too. It looks at every id that ever was."""
        used = 0 if self._control is None else self._control.host_data_count
        return sum(self._entry(host_data_id).owner != VMHostDataOwner.NOBODY for host_data_id in range(used))

    def __contains__(self, host_data_id: object) -> bool:
        """Whether the id is in use."""
        if self._control is None or not isinstance(host_data_id, int) or isinstance(host_data_id, bool):
            return False
        if not 0 <= host_data_id < self._control.host_data_count:
            return False
        return self._entry(host_data_id).owner != VMHostDataOwner.NOBODY

    def alloc(self, value: Any) -> int:
        """Store `value` under an id that is not in use, and return the id. HeapError when none is left."""
        control = self._bound()
        if not control.free_host_data and control.host_data_count >= HOST_DATA_LIMIT:
            raise HeapError(f"no host-data id is left: all {HOST_DATA_LIMIT} are in use")
        host_data_id = host_data.take_id(tables(control), int(VMHostDataOwner.PYTHON), _address(value), 0)
        self._values[host_data_id] = (value, None)
        return host_data_id

    def set_finalizer(self, host_data_id: int, finalizer: Finalizer) -> None:
        """Have `finalizer(value)` called when the id's externref dies. HeapError when it is no id of Python's."""
        self._check_in_use(host_data_id)
        if host_data_id not in self._values:
            raise HeapError(f"host-data id {host_data_id} is C's, and so is its finalizer")
        self._values[host_data_id] = (self._values[host_data_id][0], finalizer)

    def get(self, host_data_id: int) -> Any:
        """Return the value of an id; C's is a `void *` of cffi's. HeapError when the id is not in use."""
        self._check_in_use(host_data_id)
        if host_data_id in self._values:
            return self._values[host_data_id][0]
        return _ffi.cast("void *", self._entry(host_data_id).data)

    def dealloc(self, host_data_id: int) -> None:
        """Take an id out of use, and set its value aside for `release`. HeapError when the id is not in use.

        C's id stays in use until its finalizer has run.
        """
        self._check_in_use(host_data_id)
        if host_data_id in self._values:
            self._set_aside.append(_Dead(*self._values.pop(host_data_id)))
            self._free(host_data_id)
        elif host_data_id in self._dying:
            raise HeapError(f"host-data id {host_data_id} is not in use: its externref has died")
        else:
            self._dying.add(host_data_id)
            self._set_aside.append(_Dead(*_value_of_c(self._entry(host_data_id)), host_data_id, self._generation))

    def _check_in_use(self, host_data_id: int) -> None:
        if host_data_id not in self:
            raise HeapError(f"host-data id {host_data_id} is not in use")

    def _free(self, host_data_id: int) -> None:
        host_data.free_id(tables(self._bound()), host_data_id)

    # ------------------------------------------------------------------------------------------------------------------
    # Letting go

    def release(self) -> None:
        """Let go of the values that were set aside; their finalizers run, and may use the heap.

        Nothing when called by such a finalizer: whoever runs that one goes on with the others.
        """
        if self._is_releasing:
            return
        self._is_releasing = True
        try:
            while self._set_aside:
                dead = self._set_aside.popleft()
                if dead.finalizer is not None:
                    _finalize(dead.value, dead.finalizer)
                if dead.host_data_id is not None and dead.generation == self._generation:
                    self._dying.discard(dead.host_data_id)
                    self._free(dead.host_data_id)
                del dead  # and with it the value
        finally:
            self._is_releasing = False

    @property
    def set_aside(self) -> deque[Any]:
        """What `release` has to let go of; always the same deque."""
        return self._set_aside

    def clear(self) -> None:
        """Take every id out of use, and let go of all values."""
        if self._control is not None:
            self._set_all_aside()
        self.release()

    def _set_all_aside(self) -> None:
        control = self._bound()
        for host_data_id in range(control.host_data_count):
            if host_data_id in self._values:
                self._set_aside.append(_Dead(*self._values.pop(host_data_id)))
                continue
            entry = self._entry(host_data_id)
            if entry.owner == VMHostDataOwner.C and host_data_id not in self._dying:
                self._set_aside.append(_Dead(*_value_of_c(entry)))
        ctypes.memset(control.host_data, 0, control.host_data_count * _ENTRY_SIZE)
        control.host_data_count = control.free_host_data = 0
        self._dying.clear()
        self._generation += 1


class _Dead:
    """A value that was set aside, with its finalizer, and its id if that is to be freed afterwards."""

    __slots__ = ("finalizer", "generation", "host_data_id", "value")

    def __init__(
        self, value: Any, finalizer: Finalizer | None, host_data_id: int | None = None, generation: int = 0
    ) -> None:
        self.value, self.finalizer, self.host_data_id, self.generation = value, finalizer, host_data_id, generation


class _Finalization:
    """A call of a finalizer, and the name that `sys.unraisablehook` gets to know it by."""

    def __init__(self, value: Any, finalizer: Finalizer) -> None:
        self._value, self._finalizer = value, finalizer

    def __call__(self, _: object) -> None:
        self._finalizer(self._value)

    def __repr__(self) -> str:
        return f"<finalizer {self._finalizer!r} of the externref of {self._value!r}>"


def _finalize(value: Any, finalizer: Finalizer) -> None:
    """Call a finalizer as Python calls its own: an exception is not raised, but given to `sys.unraisablehook`.

    Python code cannot call that hook as the interpreter does; a weak reference's callback makes the interpreter do it.
    """
    mortal = _Mortal()
    watch = weakref.ref(mortal, _Finalization(value, finalizer))
    del mortal
    del watch


class _Mortal:
    """Something that a weak reference can watch."""

    __slots__ = ("__weakref__",)


def _address(value: Any) -> int:
    """The address that a pointer of cffi's holds; 0 for any other value."""
    if isinstance(value, _ffi.CData) and _ffi.typeof(value).kind in _POINTER_KINDS:
        return int(_ffi.cast("uintptr_t", value))
    return 0


def _value_of_c(entry: VMHostData) -> tuple[Any, Finalizer | None]:
    """A C entry's data and finalizer, as what can be called when the entry is no more."""
    finalizer = _ffi.cast("void(*)(void *)", entry.finalizer) if entry.finalizer else None
    return _ffi.cast("void *", entry.data), finalizer
