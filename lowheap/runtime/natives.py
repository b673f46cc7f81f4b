"""One barrier set's code as C functions on a live heap: to try out, test and measure barriers one by one.

For programs there is the C interface, `lowheap.embed`, which always counts as `drc` does.

Each function takes the address of a vmctx first. References are u32; `slot` is the address of a reference's slot, in an
object or in any memory outside of the heap:

    void lh_inc_ref(void *vmctx, uint32_t reference)      one count more; null and i31 take no part, here and below
    void lh_dec_ref(void *vmctx, uint32_t reference)      one count less; the last drops the object
    void lh_expose(void *vmctx, uint32_t reference)       hand an owned reference over to compiled code
    uint32_t lh_read(void *vmctx, uint32_t *slot)         read into compiled code's hands
    void lh_write(void *vmctx, uint32_t *slot, uint32_t reference)   store over a value that the slot owns
    void lh_init(void *vmctx, uint32_t *slot, uint32_t reference)    store to a slot that holds nothing yet

They are what a barrier set emits inline, and work on the same list head and the same headers as the Python heap.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import cffi
from llvmlite import ir

from lowheap import declarations
from lowheap.collectors import registry
from lowheap.collectors.interface import ANY, Collector
from lowheap.copying import NotCopied
from lowheap.errors import HeapError
from lowheap.heap import names_object
from lowheap.jit import transitions
from lowheap.jit.barriers import Barriers
from lowheap.jit.emit import PTR, REFERENCE, VOID, Emitter, NativeFunction
from lowheap.jit.engine import LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.layout import VMContext
from lowheap.runtime.store_runtime import runtime_of
from lowheap.store import Store

CDECLS = {
    "lh_inc_ref": "void(*)(void *, uint32_t)",
    "lh_dec_ref": "void(*)(void *, uint32_t)",
    "lh_expose": "void(*)(void *, uint32_t)",
    "lh_read": "uint32_t(*)(void *, uint32_t *)",
    "lh_write": "void(*)(void *, uint32_t *, uint32_t)",
    "lh_init": "void(*)(void *, uint32_t *, uint32_t)",
}
"""Each function's type in C."""

_ffi = cffi.FFI()


def emit(module: ir.Module, barrier_set: Barriers) -> None:
    """Give a module the functions of this one, made by a barrier set."""
    shape = ANY

    def define(name: str, result: ir.Type, params: list[ir.Type], body: Callable[..., ir.Value | None]) -> None:
        emitter = Emitter(NativeFunction(module, ir.FunctionType(result, [PTR, *params]), name))
        value = body(emitter, *emitter.function.args[1:])
        if value is None:
            emitter.builder.ret_void()
        else:
            emitter.builder.ret(value)

    define("lh_inc_ref", VOID, [REFERENCE], lambda e, reference: barrier_set.inc_ref(e, reference, shape))
    define("lh_dec_ref", VOID, [REFERENCE], lambda e, reference: barrier_set.dec_ref(e, reference, shape))
    define("lh_expose", VOID, [REFERENCE], lambda e, reference: barrier_set.expose(e, reference, shape))
    define("lh_read", REFERENCE, [PTR], lambda e, slot: barrier_set.read(e, slot, shape))
    define("lh_write", VOID, [PTR, REFERENCE], lambda e, slot, value: barrier_set.write(e, slot, value, shape))
    define("lh_init", VOID, [PTR, REFERENCE], lambda e, slot, value: barrier_set.init(e, slot, value, shape))
    transitions.define(module, barrier_set.allocate)


@functools.cache
def _load(collector: Collector) -> LoadedCode:
    """Compile the functions of a collector, once in this process: they depend on no store."""
    module = ir.Module("lowheap.natives")
    emit(module, Barriers(collector))
    return LoadedCode(compile_ir(module, tuple(CDECLS)))


class NativeBarriers(NotCopied):
    """The functions, compiled for one store.

    `functions["lh_read"]` and its kin are cffi function pointers, and `vmctx` is what they take first: they check
    nothing. The methods check what they are given, and raise what went wrong on the Python side of a drop.
    """

    NOT_COPIED_BECAUSE = "they work on one store; make them for another"

    def __init__(self, store: Store, barrier_set: str = "drc") -> None:
        """Compile the functions with the barrier set of that name. CompilerError when there is none such."""
        runtime = runtime_of(store)
        chosen = registry.find(barrier_set)
        if not chosen.counts and store.heap.is_counted:
            raise HeapError(f"the barrier set {chosen.name} does not count references, but this heap does")
        if chosen.needs_owner:
            raise HeapError(f"the barriers of {chosen.name} must know the object that a slot is in; these do not tell")
        self._store = store
        code = _load(chosen)
        runtime.keep(code)
        control = store.heap.control
        vmctx = VMContext(control.heap_base, ctypes.addressof(control), runtime.context_address)
        self.vmctx = declarations.pointer(_ffi, "void *", vmctx, runtime, store.heap.mapped())
        self.functions: dict[str, Any] = {name: _ffi.cast(cdecl, code.address(name)) for name, cdecl in CDECLS.items()}

    def inc_ref(self, reference: int) -> None:
        """Count `reference` once more. InvalidReferenceError when it is not one."""
        self._call("lh_inc_ref", self._checked(reference))

    def dec_ref(self, reference: int) -> None:
        """Take one count of `reference`; the last drops the object."""
        self._call("lh_dec_ref", self._checked(reference))

    def expose(self, reference: int) -> None:
        """Hand the caller's count of `reference` over to compiled code."""
        self._store.heap.check_idle("expose a reference")
        self._call("lh_expose", self._checked(reference))

    def read(self, reference: int, offset: int) -> int:
        """Read the slot at `offset` bytes into an object, into compiled code's hands: what is read gets listed."""
        self._store.heap.check_idle("read a reference into compiled code")
        return int(self._call("lh_read", self._slot(reference, offset)))

    def write(self, reference: int, offset: int, value: int) -> None:
        """Store `value` over the slot at `offset` bytes into an object, which owns what is in it."""
        self._call("lh_write", self._slot(reference, offset), self._checked(value))

    def init(self, reference: int, offset: int, value: int) -> None:
        """Store `value` to the slot at `offset` bytes into an object, which holds nothing yet."""
        self._call("lh_init", self._slot(reference, offset), self._checked(value))

    def _checked(self, reference: int) -> int:
        if names_object(reference):
            self._store.heap.header(reference)  # raises when it names none
        return reference

    def _slot(self, reference: int, offset: int) -> Any:
        slot = self._store.heap.slot(reference, offset)
        self._checked(slot.value)
        return _ffi.cast("uint32_t *", ctypes.addressof(slot))

    def _call(self, name: str, *args: Any) -> Any:
        self._store.check_open()
        return runtime_of(self._store).call_native(self.functions[name], self.vmctx, *args)
