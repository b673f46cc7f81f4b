"""The C library from Python, with C code of one's own compiled in: cffi in API mode.

    python api_mode.py [PREFIX]

What is called often is in C, and calls the library directly: here, making and summing up a list. cffi makes an
extension module of it, which the C compiler checks against `lowheap.h`. `FFI.compile` would do all of it, but needs
setuptools; this example needs a C compiler and cffi only.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import cffi

from lowheap.embed import build, cdef

DECLARATIONS = """
lh_status define_cell(lh_heap *heap, lh_type *result);
lh_status make_list(lh_heap *heap, lh_type cell, uint32_t length, lh_ref *result);
lh_status sum_list(lh_heap *heap, lh_type cell, lh_ref list, int64_t *result);
"""

SOURCE = """
#include <lowheap.h>

enum { VALUE, NEXT };

static lh_status define_cell(lh_heap *heap, lh_type *result) {
    const lh_field fields[] = {LH_I64_FIELD, LH_REF_FIELD(LH_SELF)};
    return lh_define_struct(heap, fields, 2, LH_NO_SUPERTYPE, LH_FINAL, result);
}

/* The squares from (length - 1)^2 down to 0^2. */
static lh_status make_list(lh_heap *heap, lh_type cell, uint32_t length, lh_ref *result) {
    LH_FRAME(heap, list, 1);
    for (uint32_t number = 0; number < length; number++) {
        lh_ref made;
        lh_status status = lh_alloc_struct(heap, cell, &made);
        if (status != LH_OK) {
            return status;
        }
        lh_struct_set_i64(heap, made, VALUE, (int64_t)number * number);
        lh_struct_set_ref(heap, made, NEXT, list[0]);
        list[0] = made;
    }
    *result = list[0];
    return LH_OK;
}

/* Numbers are read where they are; references by the read barrier, which the function is. */
static lh_status sum_list(lh_heap *heap, lh_type cell, lh_ref list, int64_t *result) {
    uint32_t value;
    lh_status status = lh_field_offset(heap, cell, VALUE, &value);
    for (*result = 0; list != LH_NULL && status == LH_OK; status = lh_struct_get_ref(heap, list, NEXT, &list)) {
        *result += *(const int64_t *)lh_address(heap, list, value);
    }
    return status;
}
"""


def compile_module(prefix: Path, directory: Path) -> Any:
    """Have the extension module `_lists` written, compiled and imported."""
    ffi = cffi.FFI()
    ffi.cdef(cdef() + DECLARATIONS)
    ffi.set_source("_lists", SOURCE)
    source, binary = directory / "_lists.c", directory / f"_lists{sysconfig.get_config_var('EXT_SUFFIX')}"
    ffi.emit_c_code(str(source))
    includes = [prefix / "include", sysconfig.get_path("include")]
    subprocess.run(
        [
            *(os.environ.get("CC") or "cc").split(),
            *("-shared", "-fPIC", "-O2"),
            *(f"-I{path}" for path in includes),
            *("-o", str(binary), str(source)),
            str(prefix / "lib" / "liblowheap.a"),  # the fast library, within the module
        ],
        check=True,
    )
    spec = importlib.util.spec_from_file_location("_lists", binary)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(prefix: Path, directory: Path) -> None:
    """Make a long list in C, sum it up in C, and drop it."""
    module = compile_module(prefix, directory)
    ffi, lib = module.ffi, module.lib

    def check(status: int) -> None:
        if status != lib.LH_OK:
            raise RuntimeError(ffi.string(lib.lh_status_name(status)).decode())

    created, cell, total = ffi.new("lh_heap **"), ffi.new("lh_type *"), ffi.new("int64_t *")
    check(lib.lh_heap_create(ffi.new("lh_config *", {"abi": lib.LOWHEAP_ABI}), created))
    heap = created[0]
    check(lib.define_cell(heap, cell))

    head = ffi.new("lh_ref *")
    check(lib.lh_slot_register(heap, head))  # a root that outlives this and any other call
    made = ffi.new("lh_ref *")
    check(lib.make_list(heap, cell[0], 100_000, made))
    check(lib.lh_write(heap, head, made[0]))  # at once: until something is allocated, the list is in nobody's hands

    check(lib.sum_list(heap, cell[0], head[0], total))
    print("sum:", total[0])
    figures = ffi.new("lh_statistics *")
    check(lib.lh_heap_statistics(heap, figures))
    print("live:", figures.live_objects)
    check(lib.lh_slot_unregister(heap, head))
    check(lib.lh_collect(heap))
    check(lib.lh_heap_statistics(heap, figures))
    print("live after the drop:", figures.live_objects)
    check(lib.lh_heap_destroy(heap))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else build(name).prefix, Path(name))
