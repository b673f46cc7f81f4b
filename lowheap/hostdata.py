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

from lowheap.collectors.shared import host_data
from lowheap.copying import NotCopied
from lowheap.critical import whole
from lowheap.declarations import quick
from lowheap.errors import HeapError
from lowheap.layout import HOST_DATA_LIMIT, VMHeapControl, VMHostData, VMHostDataOwner
from lowheap.native import tables

Finalizer = Callable[[Any], object]

_ENTRY_SIZE = ctypes.sizeof(VMHostData)
_CData = quick.CData
_POINTER_KINDS = ("pointer", "array", "function")
_Value = tuple[Any, Finalizer | None, int | None, int]
"""A value, its finalizer, and, once it is set aside, the id to be freed afterwards and the generation that it is of."""

_NOTHING: _Value = (None, None, None, 0)
"""What an id has whose value was never put there: an exception came first."""

_NOTHING_TO_DO = (None, None)
"""The finalizer and the id of a value that is merely let go of."""


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
        self._values: dict[int, _Value] = {}
        self._set_aside: deque[_Value] = deque()
        self._dying: set[int] = set()  # C's ids whose finalizer has yet to run
        self._generation = 0  # counts the times that all ids went out of use
        self._is_releasing = False

    # ------------------------------------------------------------------------------------------------------------------
    # The heap

    @whole
    def bind(self, control: VMHeapControl) -> None:
        """Keep ids in the table of this control block from now on. HeapError when the table is bound already."""
        if self._control is not None:
            raise HeapError("the side table already serves a heap; detach that one first")
        self._control = control
        self.binding = object()

    @whole
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

    @whole
    def alloc(self, value: Any) -> int:
        """Store `value` under an id that is not in use, and return the id. HeapError when none is left."""
        control = self._bound()
        if not control.free_host_data and control.host_data_count >= HOST_DATA_LIMIT:
            raise HeapError(f"no host-data id is left: all {HOST_DATA_LIMIT} are in use")
        host_data_id = host_data.take_id(tables(control), int(VMHostDataOwner.PYTHON), self.address_of(value), 0)
        self.put(host_data_id, value, None)
        return host_data_id

    def put(self, host_data_id: int, value: Any, finalizer: Finalizer | None) -> None:
        """Store the value of an id that was just taken for Python. Until then, it is None."""
        self._values[host_data_id] = (value, finalizer, None, 0)

    @staticmethod
    def address_of(value: Any) -> int:
        """Return the address that a pointer of cffi's holds, which C is told of; 0 for any other value."""
        if isinstance(value, _CData) and quick.typeof(value).kind in _POINTER_KINDS:
            return int(quick.cast("uintptr_t", value))
        return 0

    @whole
    def set_finalizer(self, host_data_id: int, finalizer: Finalizer) -> None:
        """Have `finalizer(value)` called when the id's externref dies. HeapError when it is no id of Python's."""
        self._check_in_use(host_data_id)
        if not self._is_of_python(host_data_id):
            raise HeapError(f"host-data id {host_data_id} is C's, and so is its finalizer")
        self.put(host_data_id, self._values.get(host_data_id, _NOTHING)[0], finalizer)

    def get(self, host_data_id: int) -> Any:
        """Return the value of an id; C's is a `void *` of cffi's. HeapError when the id is not in use."""
        found = self._values.get(host_data_id)
        if found is not None:
            return found[0]
        self._check_in_use(host_data_id)
        if self._is_of_python(host_data_id):
            return None
        return quick.cast("void *", self._entry(host_data_id).data)

    @whole
    def dealloc(self, host_data_id: int) -> None:
        """Take an id out of use, and set its value aside for `release`. HeapError when the id is not in use.

        C's id stays in use until its finalizer has run.
        """
        self._check_in_use(host_data_id)
        if self._is_of_python(host_data_id):
            self.set_value_aside(host_data_id)
            self._free(host_data_id)
        elif host_data_id in self._dying:
            raise HeapError(f"host-data id {host_data_id} is not in use: its externref has died")
        else:
            self._dying.add(host_data_id)
            self._set_aside.append((*_value_of_c(self._entry(host_data_id)), host_data_id, self._generation))

    def set_value_aside(self, host_data_id: int) -> bool:
        """Set an id's value aside for `release`, in one step; False, and nothing is done, when the id is C's.

        Nothing is done, too, if that was done already: an exception may have come before the id was freed.
        """
        if host_data_id in self._values:
            self._set_aside.extend(map(self._values.pop, (host_data_id,)))
            return True
        return self._is_of_python(host_data_id)

    def _check_in_use(self, host_data_id: int) -> None:
        if host_data_id not in self:
            raise HeapError(f"host-data id {host_data_id} is not in use")

    def _is_of_python(self, host_data_id: int) -> bool:
        return self._entry(host_data_id).owner == VMHostDataOwner.PYTHON

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
                if self._set_aside[0][1:3] == _NOTHING_TO_DO:
                    self._set_aside.popleft()
                else:
                    self._finalize_next()
        finally:
            self._is_releasing = False

    @whole
    def _finalize_next(self) -> None:
        """Let go of the first. A finalizer runs to its end, whatever signals come, and exactly once."""
        value, finalizer, host_data_id, generation = self._set_aside.popleft()
        if finalizer is not None:
            _finalize(value, finalizer)
        if host_data_id is not None and generation == self._generation:
            self._dying.discard(host_data_id)
            self._free(host_data_id)

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
                self.set_value_aside(host_data_id)
                continue
            entry = self._entry(host_data_id)
            if entry.owner == VMHostDataOwner.C and host_data_id not in self._dying:
                self._set_aside.append((*_value_of_c(entry), None, 0))
        ctypes.memset(control.host_data, 0, control.host_data_count * _ENTRY_SIZE)
        control.host_data_count = control.free_host_data = 0
        self._dying.clear()
        self._generation += 1


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


def _value_of_c(entry: VMHostData) -> tuple[Any, Finalizer | None]:
    """A C entry's data and finalizer, as what can be called when the entry is no more."""
    finalizer = quick.cast("void(*)(void *)", entry.finalizer) if entry.finalizer else None
    return quick.cast("void *", entry.data), finalizer
