"""The C face of lowheap: a heap for programs that come through cffi, or that are written in C, with no Python in them.

- `attach(store)` gives the C interface on a heap that Python made; `ffi()` and `cdef()` are its declarations for cffi.
- `build(directory)` writes `lowheap.h` and the ahead-of-time library, as `lowheap build-library` does.

`api.py` is the table that all of it comes from.
"""

from lowheap.embed.api import Status, abi_hash
from lowheap.embed.attachment import NativeHeap, attach, ffi
from lowheap.embed.header import cdef
from lowheap.embed.library import BuiltLibrary, build

__all__ = ["BuiltLibrary", "NativeHeap", "Status", "abi_hash", "attach", "build", "cdef", "ffi"]
