"""Heaps that the C interface makes, in this process, for tests to work on."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lowheap.collectors import registry
from lowheap.embed import Status, abi_hash, ffi, native
from lowheap.embed.api import FUNCTIONS
from lowheap.layout import (
    FIELD_MUTABLE,
    FIELD_NULLABLE,
    NO_SUPERTYPE,
    SELF_TYPE,
    VMHeapControl,
    VMHeapType,
    VMStorage,
)
from support.embed_reports import message_of

Field = tuple[int, int, int]
"""A field's storage, flags and heap type, as in an `lh_field`."""

I32_FIELD: Field = (VMStorage.I32, FIELD_MUTABLE, 0)
SELF_FIELD: Field = (VMStorage.REFERENCE, FIELD_MUTABLE | FIELD_NULLABLE, SELF_TYPE)
ANY_FIELD: Field = (VMStorage.REFERENCE, FIELD_MUTABLE | FIELD_NULLABLE, VMHeapType.ANY)
EXTERN_FIELD: Field = (VMStorage.REFERENCE, FIELD_MUTABLE | FIELD_NULLABLE, VMHeapType.EXTERN)


class FailureError(Exception):
    """A call that returned another status than LH_OK."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status, self.message = status, message


@functools.cache
def functions(checked: bool) -> dict[str, Any]:
    """Every function of the interface, as a typed pointer."""
    code = native.load(registry.find("drc"), checked=checked)
    return {name: ffi().cast(function.pointer_cdecl, code.address(name)) for name, function in FUNCTIONS.items()}


class CHeap:
    """A heap of C's. `options` are those of `lh_config`; callbacks are kept alive."""

    def __init__(self, *, checked: bool = True, **options: Any) -> None:
        self.functions = functions(checked)
        self.kept = options
        self.config = ffi().new("lh_config *", {"abi": abi_hash(), **options})
        place = ffi().new("lh_heap **")
        self.is_open = False
        status = self.functions["lh_heap_create"](self.config, place)
        if status:
            raise FailureError(Status(status), "")
        self.heap = place[0]
        self.is_open = True
        self.control = VMHeapControl.from_address(self.heap.control)

    def call(self, name: str, *args: Any) -> Any:
        """Call a function, and return its result; FailureError when it fails."""
        function = FUNCTIONS[name]
        has_result = bool(function.parameters) and function.parameters[-1].name == "result"
        result = [ffi().new(function.parameters[-1].type)] if has_result else []
        returned = self.functions[name](*([self.heap] if function.takes_heap else []), *args, *result)
        if function.result != "lh_status":
            return returned
        if returned != Status.OK:
            raise FailureError(Status(returned), self.message())
        return result[0][0] if has_result else None

    def message(self) -> str:
        """What the last call that failed said."""
        return message_of(self)

    def define_struct(self, *fields: Field, supertype: int = NO_SUPERTYPE, flags: int = 0) -> int:
        """Define a struct type, and return its index."""
        given = ffi().new("lh_field[]", list(fields)) if fields else ffi().NULL
        return int(self.call("lh_define_struct", given, len(fields), supertype, flags))

    def define_array(self, element: Field, supertype: int = NO_SUPERTYPE, flags: int = 0) -> int:
        """Define an array type, and return its index."""
        return int(self.call("lh_define_array", ffi().new("lh_field *", element), supertype, flags))

    @contextmanager
    def frame(self, references: Sequence[int]) -> Iterator[Any]:
        """Hold references in a frame; the body gets its slots."""
        slots, frame = ffi().new("lh_ref[]", list(references) or 1), ffi().new("lh_frame *")
        self.call("lh_frame_push", frame, slots, len(references))
        yield slots
        self.call("lh_frame_pop", frame)

    def objects(self) -> list[dict[str, int]]:
        """What a walk meets."""
        found: list[dict[str, int]] = []

        @ffi().callback("lh_visitor")
        def visit(_: Any, info: Any) -> int:
            found.append({name: int(getattr(info, name)) for name in dir(info)})
            return 0

        self.call("lh_walk", visit, ffi().NULL)
        return found

    def statistics(self) -> dict[str, int]:
        """The heap's figures."""
        result = ffi().new("lh_statistics *")
        assert self.functions["lh_heap_statistics"](self.heap, result) == Status.OK
        return {name: int(getattr(result, name)) for name in dir(result)}

    def read(self, reference: int, offset: int) -> int:
        """The u32 that stands in the heap, whatever it is."""
        return int(ctypes.c_uint32.from_address(self.heap.heap_base + reference + offset).value)

    def destroy(self) -> None:
        """Unmap it."""
        self.call("lh_heap_destroy")
        self.is_open = False

    def __enter__(self) -> CHeap:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_open:
            self.destroy()
