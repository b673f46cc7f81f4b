"""The C library from Python without a C compiler: cffi in ABI mode, which opens the shared library as it is.

    python abi_mode.py [PREFIX]

PREFIX is where `lowheap build-library --out PREFIX` put the library; without it, one is built for the occasion. The
library knows nothing of Python: values on the heap are numbers, references, and externrefs, whose host data here is an
`ffi.new_handle` of a Python object. A finalizer in Python lets go of that when the externref has died.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cffi

from lowheap.embed import build, cdef

ffi: Any = cffi.FFI()
ffi.cdef(cdef())

LEFT, RIGHT, LABEL = range(3)
"""The fields of a node, by number."""


class Label:
    """A Python object that objects on the heap refer to."""

    def __init__(self, text: str) -> None:
        """Give it a text."""
        self.text = text


class Heap:
    """A heap of the library's, with the little that Python wants: errors as exceptions, frames as `with` blocks."""

    def __init__(self, prefix: Path) -> None:
        """Open the library that is below `prefix`, and make a heap."""
        self.library = ffi.dlopen(str(prefix / "lib" / "liblowheap-checked.so"))
        self.handles: dict[Any, Label] = {}  # cffi's handles are good as long as somebody holds them
        # The callback must live as long as the heap does; so must what C code keeps the address of, in general.
        self.finalizer = ffi.callback("lh_finalizer", self.finalize)
        config = ffi.new("lh_config *", {"abi": self.library.LOWHEAP_ABI})
        created = ffi.new("lh_heap **")
        status = self.library.lh_heap_create(config, created)
        if status != self.library.LH_OK:
            raise MemoryError(ffi.string(self.library.lh_status_name(status)).decode())
        self.heap = created[0]

    def call(self, name: str, *args: Any, result: str | None = None) -> Any:
        """Call a function, the heap first; return what it left in its result, of type `result`, if it has one."""
        pointer = [] if result is None else [ffi.new(f"{result} *")]
        status = getattr(self.library, name)(self.heap, *args, *pointer)
        if status != self.library.LH_OK:
            message = ffi.new("char[]", 256)
            self.library.lh_error_message(self.heap, message, 256)
            raise RuntimeError(ffi.string(message).decode())
        return pointer[0][0] if pointer else None

    @contextmanager
    def frame(self, count: int) -> Iterator[Any]:
        """Slots that keep what is put there, until the end of the block."""
        frame, slots = ffi.new("lh_frame *"), ffi.new("lh_ref[]", count)
        self.call("lh_frame_push", frame, slots, count)
        try:
            yield slots
        finally:
            self.call("lh_frame_pop", frame)

    def externref(self, label: Label) -> int:
        """A new externref of a Python object, which lives as long as the externref does."""
        handle = ffi.new_handle(label)
        self.handles[handle] = label
        reference: int = self.call("lh_alloc_externref", handle, self.finalizer, result="lh_ref")
        return reference

    def finalize(self, data: Any) -> None:
        """What the library calls when an externref has died."""
        label = self.handles.pop(data)
        print("finalized:", label.text)

    def destroy(self) -> None:
        """Unmap the heap; what is on it dies."""
        self.call("lh_heap_destroy")

    def live(self) -> int:
        """How many objects are live."""
        figures = ffi.new("lh_statistics *")
        self.call("lh_heap_statistics", figures)
        live: int = figures.live_objects
        return live


def define_node(heap: Heap) -> int:
    """A node: two nodes or null, and an externref or null."""
    lh = heap.library
    flags = lh.LH_MUTABLE | lh.LH_NULLABLE
    fields = [(lh.LH_REF, flags, heap_type) for heap_type in (lh.LH_SELF, lh.LH_SELF, lh.LH_EXTERN)]
    definition = ffi.new("lh_field[]", fields)
    node: int = heap.call("lh_define_struct", definition, 3, lh.LH_NO_SUPERTYPE, lh.LH_FINAL, result="lh_type")
    return node


def make_tree(heap: Heap, node: int, depth: int) -> int:
    """A tree of nodes. What is returned is in no frame any more: it is good until something is allocated."""
    with heap.frame(2) as slots:
        if depth:
            slots[0] = make_tree(heap, node, depth - 1)
            slots[1] = make_tree(heap, node, depth - 1)
        made: int = heap.call("lh_alloc_struct", node, result="lh_ref")
        heap.call("lh_struct_set_ref", made, LEFT, slots[0])
        heap.call("lh_struct_set_ref", made, RIGHT, slots[1])
        return made


def count_nodes(heap: Heap, tree: int) -> int:
    """The number of nodes; nothing is allocated, so nothing needs a frame."""
    if tree == 0:
        return 0
    parts = [heap.call("lh_struct_get_ref", tree, field, result="lh_ref") for field in (LEFT, RIGHT)]
    return 1 + sum(count_nodes(heap, part) for part in parts)


def main(prefix: Path) -> None:
    """Build a tree, label two nodes of it, and drop it piece by piece."""
    heap = Heap(prefix)
    node = define_node(heap)
    with heap.frame(2) as slots:
        slots[0] = make_tree(heap, node, 6)
        print("nodes:", count_nodes(heap, slots[0]))
        slots[1] = heap.call("lh_struct_get_ref", slots[0], LEFT, result="lh_ref")
        heap.call("lh_struct_set_ref", slots[0], LABEL, heap.externref(Label("the root")))
        heap.call("lh_struct_set_ref", slots[1], LABEL, heap.externref(Label("its left child")))
        handle = heap.call("lh_struct_get_ref", slots[0], LABEL, result="lh_ref")
        print("label:", ffi.from_handle(heap.call("lh_externref_data", handle, result="void *")).text)

        heap.call("lh_struct_set_ref", slots[0], LEFT, 0)
        heap.call("lh_collect")
        print("nodes live while a frame holds the left half:", heap.live() - 2)
        slots[1] = 0
        heap.call("lh_collect")
        print("nodes live afterwards:", heap.live() - 1)
        heap.call("lh_verify")
        try:
            heap.call("lh_struct_get_ref", slots[0], 7, result="lh_ref")
        except RuntimeError as error:
            print("error:", error)
    heap.destroy()
    print("handles left:", len(heap.handles))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(build(directory).prefix)
