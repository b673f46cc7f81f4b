"""The C interface on a heap that Python made: `attach(store)` gives every function of it, on the store's own heap.

The functions are compiled into this process and called through cffi. They work on the same bytes as the store: objects
that one side makes are seen, written and collected by the other. The `lh_heap *` may be handed to C code that was built
against `lowheap.h`, as long as somebody has it in Python. When the store has been closed, or its heap has lost its
memory in another way, each function that is called here returns `LH_DETACHED`, the fast ones too, but for those that
only look, which find an empty heap, or what is wrong with it; what C code reads by itself is zeros.

The functions here are for the collector that the store has, whichever it is. C code that gets the `lh_heap *` must be
built with a header and a library that have this collector, too (`build-library --collector`): the checked library
returns `LH_ABI` for a heap whose collector it has not.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import cffi

from lowheap import declarations
from lowheap.bound_types import lift_reference
from lowheap.collectors import registry
from lowheap.collectors.shared.allocator import SegregatedFit
from lowheap.copying import NotCopied
from lowheap.embed import native
from lowheap.embed.api import FUNCTIONS, STATUS_MEANINGS, Function, Status, abi_hash, collector_number
from lowheap.embed.header import cdef
from lowheap.errors import HeapError, LowheapError, UnsupportedError, status_error
from lowheap.layout import VMContext, VMHeap
from lowheap.operations import exclusive
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store
from lowheap.types import ANYREF

_MESSAGE_SIZE = 1024


@functools.cache
def ffi() -> cffi.FFI:
    """Return an FFI with every declaration of `lowheap.h`, one for the process; others may `include` it."""
    declared = cffi.FFI()
    declared.include(declarations.ffi())
    declared.cdef(cdef(with_layout=False))
    return declared


def error(status: Status, message: str) -> LowheapError:
    """Return the exception that stands for a status in Python."""
    return status_error(status, f"{message or STATUS_MEANINGS[status]} ({status.name})")


class NativeHeap(NotCopied):
    """A store's heap, as the C interface has it.

    `heap` is the `lh_heap *`, `cdata` the control block. Each function of the interface is an attribute of its name: a
    cffi function pointer, typed, which takes all of its C arguments, and checks nothing but what the library that it is
    from does. `call` is for Python: it raises what went wrong, and returns the result.
    """

    NOT_COPIED_BECAUSE = "it works on one store's heap; `attach` again"

    def __init__(self, store: Store, *, checked: bool = True) -> None:
        """Compile the interface, at its first use in this process. UnsupportedError when the store cannot have it."""
        store.check_open()
        if store.heap.allocator_policy is not SegregatedFit or store.growth != "collect-first":
            raise UnsupportedError(
                f"the C interface works on heaps with the allocator {SegregatedFit.name!r} and the growth policy "
                f"'collect-first'; this one has {store.heap.allocator_policy.name!r} and {store.growth!r}"
            )
        if store.collect_every and not checked:
            raise UnsupportedError("collect_every is for the checked interface")
        self._store = store
        self._epoch = store.heap.control.epoch
        self._code = native.load(store.heap.collector, checked=checked)
        runtime = runtime_of(store)
        self._data = VMHeap(
            context=VMContext(
                heap_base=store.heap.control.heap_base,
                control=ctypes.addressof(store.heap.control),
                store=runtime.context_address,
            ),
            abi=abi_hash(),
            collector=collector_number(registry.name_of(store.heap.collector)),
            is_foreign=1,
            collect_every=store.collect_every,
        )
        runtime.keep(self._code, self._data)
        self.heap = declarations.pointer(ffi(), "lh_heap *", self._data, runtime, store.heap.mapped())
        self.cdata = store.heap.cdata
        self.functions: dict[str, Any] = {
            name: ffi().cast(function.pointer_cdecl, self._code.address(name)) for name, function in FUNCTIONS.items()
        }

    @property
    def collector(self) -> str:
        """The name of the heap's collector, as `lh_heap_collector` has it."""
        return registry.name_of(self._store.heap.collector)

    def __getattr__(self, name: str) -> Any:
        """Return a function of the interface."""
        try:
            return self.__dict__["functions"][name]
        except KeyError:
            raise AttributeError(f"the C interface has no function {name!r}") from None

    @exclusive("_store.lock")
    def call(self, name: str, *args: Any) -> Any:
        """Call a function of the interface on this heap, as `call("lh_alloc_struct", type)`.

        What the C function has as `result` is returned, and an `lh_status` other than LH_OK is raised: as the exception
        that Python's heap has for the same, with the message of `lh_error_message`. HeapError when the store is in use
        by another thread, or its memory is not what it was.
        """
        function = FUNCTIONS.get(name)
        if function is None:
            raise HeapError(f"the C interface has no function {name!r}")
        self._store.check_open()
        control = self._store.heap.control
        is_the_same = control.epoch == self._epoch and control.heap_base == self._data.heap_base
        if not is_the_same or not self._store.heap.is_attached:
            raise HeapError("the heap's memory was detached or moved since the C interface was attached to it")
        return self._call(function, self.functions[name], args)

    def _call(self, function: Function, pointer: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        has_result = bool(function.parameters) and function.parameters[-1].name == "result"
        result: Any = ffi().new(function.parameters[-1].type) if has_result else None
        heap = [self.heap] if function.takes_heap else []
        wanted = len(function.parameters) - len(heap) - has_result
        if len(args) != wanted:
            raise TypeError(f"{function.name}: {len(args)} values were given where {wanted} are wanted")
        try:
            returned = pointer(*heap, *args, *([result] if has_result else []))
        finally:
            self._store.tidy()
        if function.result != "lh_status":
            return returned
        if returned != Status.OK:
            raise error(Status(returned), self._message())
        return result[0] if has_result else None

    def _message(self) -> str:
        buffer = ffi().new("char[]", _MESSAGE_SIZE)
        self.functions["lh_error_message"](self.heap, buffer, _MESSAGE_SIZE)
        return bytes(ffi().buffer(buffer)).partition(b"\0")[0].decode()

    @exclusive("_store.lock")
    def adopt(self, reference: int) -> Any:
        """Return a handle of the object that a C function returned, which counts it; null is None, an i31 an `I31`.

        InvalidReferenceError when the reference names no object.
        """
        self._store.heap.clone_gc_ref(reference)
        return lift_reference(self._store, ANYREF, reference)


def attach(store: Store, *, checked: bool = True) -> NativeHeap:
    """Return the C interface on a store's heap: the checked form, or the fast one."""
    return NativeHeap(store, checked=checked)
