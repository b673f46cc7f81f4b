"""The host's operations on a store's heap, as Python calls them: each whole, compiled where that pays.

They are written once, in `collectors/host.py`. On a store with the native runtime they run as machine code, from
the `COMPILE_AFTER`th on, or from the store's first instance: then each is one call, in which no signal's handler comes.
On others, and on checked heaps, Python runs them, in a critical section.

A handle is a `VMHandle` of cffi's, a cell, that an operation fills in. When Python lets go of the cell, its destructor
notes it among the store's unreachable cells; no code of Python's runs for that, so no exception can come between. What
it holds is given back at the store's next operation.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from itertools import repeat
from operator import attrgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lowheap.collectors import host
from lowheap.copying import NotCopied
from lowheap.critical import whole
from lowheap.declarations import pointer_type, quick
from lowheap.errors import HeapError
from lowheap.layout import VMHandle
from lowheap.native import Native

if TYPE_CHECKING:
    from lowheap.heap import DrcHeap

COMPILE_AFTER = 200
"""Compiling takes longer than so many operations do in Python, but not much longer."""


class StoreLock(NotCopied):
    """Says which thread is using a store: `with store.lock:`, nested as deep as one likes.

    Nobody waits for it. HeapError when another thread has it: that thread may be at it for as long as it likes. `owner`
    is that thread's identifier, or None. Whoever sets it, in lowheap, puts back what was there in a `finally`; between
    looking at it and setting it there is no step at which Python changes threads.
    """

    NOT_COPIED_BECAUSE = "it guards one store"

    __slots__ = ("_outer", "owner")

    def __init__(self) -> None:
        """Make a lock that no thread has."""
        self.owner: int | None = None
        self._outer: list[int | None] = []

    def __enter__(self) -> None:
        """Take the lock, or raise."""
        me, outer = get_ident(), self.owner
        if outer is not None and outer != me:
            raise self.refusal()
        self._outer.append(outer)
        self.owner = me

    def __exit__(self, *_: object) -> None:
        """Give it back."""
        self.owner = self._outer.pop()

    @staticmethod
    def refusal() -> HeapError:
        """Return what to raise when another thread has the lock."""
        return HeapError("the store is in use by another thread; a store is used by one thread at a time")


_CELL_TYPE = pointer_type(VMHandle)

_Method = TypeVar("_Method", bound=Callable[..., Any])


def exclusive(path: str) -> Callable[[_Method], _Method]:
    """Make a method use a store alone: HeapError when another thread does. `path` leads from `self` to the lock."""
    lock_of = attrgetter(path)

    def decorate(method: _Method) -> _Method:
        @functools.wraps(method)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            lock = lock_of(self)
            me, outer = get_ident(), lock.owner
            if outer is not None and outer != me:
                raise lock.refusal()
            try:
                lock.owner = me
                return method(self, *args, **kwargs)
            finally:
                lock.owner = outer

        return cast(_Method, run)

    return decorate


def view_of(cell: Any) -> VMHandle:
    """Return a cell as functions written once know it."""
    return VMHandle.from_address(int(quick.cast("uintptr_t", cell)))


class HostOperations(NotCopied):
    """The operations on one heap. Each takes `vmctx` first; a `cell` is where the handle goes.

    `share(vmctx, reference, cell)`, `adopt`, `release(vmctx, cell)`, `read(vmctx, address, cell)`,
    `write(vmctx, owner, address, value)`, `grow_table(vmctx, address, delta, value, is_counted)`,
    `drop_table(vmctx, address)`, `lend(vmctx, reference)`: see `collectors/host.py`. `new_struct`,
    `new_array` and `new_externref` are there when `is_compiled`.
    """

    NOT_COPIED_BECAUSE = "they are on one heap"

    def __init__(self, heap: DrcHeap, unreachable: deque[Any]) -> None:
        """Have Python run them. `unreachable` is where the cells go that Python lets go of."""
        self._heap = heap
        self._unreachable = unreachable
        self.give_back: Callable[[], Any] = self._give_all_back
        """Gives back what the first of the unreachable cells holds, or all. IndexError when there are none."""
        self._used = 0
        self.is_compiled = False
        self.compile: Callable[[], None] | None = None
        """What makes them compiled, once they are used often; None: nothing."""
        self.vmctx: Any = None
        self.cell_type = _CELL_TYPE
        self.new_cell = quick.new
        self.mind = quick.gc
        self.no_image = quick.NULL
        self.share = self._interpreted(host.share)
        self.adopt = self._interpreted(host.adopt)
        self.release = self._interpreted(host.release)
        self.read = self._interpreted(host.read)
        self.write = self._interpreted(host.write)
        self.grow_table = self._interpreted(host.grow_table)
        self.drop_table = self._interpreted(host.drop_table)
        self.lend = self._interpreted(host.lend)
        self.free_dead = self._interpreted(host.free_dead)
        self.new_struct: Callable[..., Any] = _not_compiled
        self.new_array: Callable[..., Any] = _not_compiled
        self.new_externref: Callable[..., Any] = _not_compiled

    def cell(self) -> Any:
        """Return a new cell, which holds nothing yet."""
        return self.mind(self.new_cell(self.cell_type), self._unreachable.append)

    def _interpreted(self, native: Native[..., Any]) -> Callable[..., Any]:
        @whole
        def run(_vmctx: Any, *args: Any) -> Any:
            self.note_use()
            return native(self._heap.native, *map(_as_known_to_natives, args))

        return run

    def note_use(self) -> None:
        """Count an operation that Python has run, and have them compiled when they are many."""
        self._used += 1
        if self._used == COMPILE_AFTER and self.compile is not None:
            self.compile()

    def use(self, vmctx: Any, functions: dict[str, Any]) -> None:
        """Have machine code run them from now on."""
        self.vmctx = vmctx  # first: Python's functions, which may be called meanwhile, ignore it
        for name, function in functions.items():
            setattr(self, name, function)
        # In one step of Python's: a cell that was taken out of the queue has nobody but us.
        self.give_back = map(self.release, repeat(vmctx), iter(self._unreachable.popleft, None)).__next__
        self.is_compiled = True

    @whole
    def _give_all_back(self) -> None:
        while self._unreachable:
            self.release(self.vmctx, self._unreachable.popleft())


def _not_compiled(*_: Any) -> Any:
    raise AssertionError("the operation is for machine code only")


def _as_known_to_natives(value: Any) -> Any:
    return view_of(value) if isinstance(value, quick.CData) else value
