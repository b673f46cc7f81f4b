"""A heap that Python made, and C code that works on it: one heap, two languages, the same objects.

    python python_host.py [PREFIX]

The C code, `host.c`, is compiled against `lowheap.h` and linked with the library. It gets the `lh_heap *` of the
store's heap: header, library and Python have the same layouts, whose hash each call of the checked library compares.
What C returns is a number; `adopt` makes a handle of it, which keeps it alive.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cffi

import lowheap as lh
from lowheap.embed import attach, build
from lowheap.embed import ffi as lowheap_ffi

CELL = lh.StructType((lh.FieldType(lh.types.I32, True), lh.FieldType(lh.types.ANYREF, True)))


def compile_host(prefix: Path, directory: Path) -> Path:
    """Compile `host.c` into a shared library."""
    library = directory / "libhost.so"
    subprocess.run(
        [
            *(os.environ.get("CC") or "cc").split(),
            *("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-shared", "-fPIC"),
            f"-I{prefix / 'include'}",
            *("-o", str(library), str(Path(__file__).with_name("host.c"))),
            *(f"-L{prefix / 'lib'}", "-llowheap-checked", f"-Wl,-rpath,{prefix / 'lib'}"),
        ],
        check=True,
    )
    return library


def values(cell: Any) -> list[int]:
    """The numbers of a list, through Python's handles."""
    found = []
    while cell is not None:
        found.append(cell[0])
        cell = cell[1]
    return found


class Resource:
    """Something of Python's that an object on the heap stands for."""

    def __init__(self, name: str) -> None:
        """Give it a name."""
        self.name = name

    def __del__(self) -> None:
        """Say that nobody has it any more."""
        print("freed:", self.name)


def main(prefix: Path, directory: Path) -> None:
    """Make a list in Python, reverse it in C, drop it; then give C an object of Python's to keep."""
    ffi: Any = cffi.FFI()
    ffi.include(lowheap_ffi())  # so that `lh_heap *` is the same type here and there
    ffi.cdef("lh_status host_reverse(lh_heap *heap, lh_ref list, lh_ref *result);")
    ffi.cdef("lh_status host_increment(lh_heap *heap, lh_ref list);")
    host = ffi.dlopen(str(compile_host(prefix, directory)))

    with lh.Store(collect_every=1) as store:  # to show that C holds all that it needs
        native = attach(store)

        numbers = None
        for value in (3, 2, 1):
            numbers = lh.Struct(store, CELL, [value, numbers])
        assert numbers is not None
        result = ffi.new("lh_ref *")
        assert host.host_increment(native.heap, numbers.reference) == 0
        assert host.host_reverse(native.heap, numbers.reference, result) == 0
        backwards = native.adopt(result[0])  # at once: nothing else holds it
        print(values(numbers), values(backwards))
        backwards[1] = None  # Python's write barrier, on objects that C made
        store.collect()
        print("live:", store.heap.stats().live_objects)

        # An externref of a handle of cffi's. Here the finalizer is what holds the Python object.
        held: dict[Any, Any] = {}

        def release(data: Any) -> None:
            held.pop(data)

        finalizer = ffi.callback("lh_finalizer", release)  # to be held as long as C code may call it

        for name in ("first", "second"):
            handle = ffi.new_handle(Resource(name))
            held[handle] = handle
            reference = native.call("lh_alloc_externref", handle, finalizer)
            numbers[1] = native.adopt(reference)  # the second takes the place of the first
        del handle
        print("held:", ffi.from_handle(numbers[1].value).name)
        store.collect()
        print("one is left:", len(held))
        store.verify()
        del numbers, backwards
        gc.collect()
        store.collect()
        print("none is left:", len(held), "and", store.heap.stats().live_objects, "objects")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else build(name).prefix, Path(name))
