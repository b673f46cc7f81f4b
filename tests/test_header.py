"""`lowheap.h` and cffi's declarations: compilers take both as they are, and read in them what ctypes has in memory."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.embed_library import WARNINGS, built_library, compile_program, run

from lowheap import cli, layout
from lowheap.embed import api
from lowheap.embed.header import cdef, constants, header, package_version
from lowheap.layout import GcTypeLayouts
from lowheap.types import F32, F64, I8, I16, I32, I64, V128, storage_size

INLINE = {
    "lh_is_i31",
    "lh_is_object",
    "lh_i31",
    "lh_i31_value",
    "lh_i31_value_u",
    "lh_address",
    "lh_load_ref",
    "lh_init_ref",
    "lh_store_ref",
}

# All that is a macro or inline in the header, in one place where warnings would show.
USES = """
#include "lowheap.h"

static const lh_field fields[] = {
    LH_I8_FIELD, LH_I16_FIELD, LH_I32_FIELD, LH_I64_FIELD, LH_F32_FIELD, LH_F64_FIELD, LH_V128_FIELD,
    LH_REF_FIELD(LH_SELF), LH_CONST_REF_FIELD(LH_ANY), LH_FIELD(LH_REF, LH_MUTABLE, 3),
};

lh_status use(lh_heap **heap, int32_t number);

lh_status use(lh_heap **heap, int32_t number) {
    lh_config config = LH_CONFIG;
    lh_type type;
    uint32_t place;
    lh_status status = lh_heap_create(&config, heap);
    if (status == LH_OK) {
        status = lh_define_struct(*heap, fields, sizeof fields / sizeof *fields, LH_NO_SUPERTYPE, LH_FINAL, &type);
    }
    if (status == LH_OK) {
        status = lh_field_offset(*heap, type, 2, &place);
    }
    if (status == LH_OK) {
        LH_FRAME(*heap, outer, 2);
        LH_FRAME(*heap, inner, 1);
        status = lh_alloc_struct(*heap, type, &outer[0]);
        *(int32_t *)lh_address(*heap, outer[0], place) = lh_i31_value(lh_i31(number));
        const lh_v128 vector = {1, 2};
        lh_tag tag;
        lh_struct_set_v128(*heap, outer[0], 6, &vector);
        status = lh_exception_tag(*heap, outer[0], &tag);
        inner[0] = lh_is_object(outer[0]) ? LH_NULL : lh_i31(lh_is_i31(outer[1]));
        *(uint32_t *)lh_address(*heap, outer[0], place) = lh_i31_value_u(inner[0]);
    }
    return status;
}
"""


def compile_only(source: str, tmp_path: Path, *options: str, compiler: str = "cc") -> subprocess.CompletedProcess[str]:
    file = tmp_path / ("use.cpp" if compiler == "c++" else "use.c")
    file.write_text(source)
    (tmp_path / "lowheap.h").write_text(header())
    return subprocess.run(
        [compiler, *options, "-fsyntax-only", str(file)], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


# ----------------------------------------------------------------------------------------------------------------------
# Compilers take it


@pytest.mark.parametrize(
    ("compiler", "standard"),
    [("cc", "c11"), ("cc", "c17"), ("cc", "gnu11"), ("c++", "c++11"), ("c++", "c++17"), ("c++", "c++20")],
)
def test_compiles_without_a_warning(compiler: str, standard: str, tmp_path: Path) -> None:
    ran = compile_only(USES, tmp_path, f"-std={standard}", *WARNINGS, compiler=compiler)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_declares_every_function_with_its_type_and_no_other(tmp_path: Path) -> None:
    checks = "\n".join(
        f'_Static_assert(_Generic(&{name}, {function.pointer_cdecl}: 1, default: 0), "{name}");'
        for name, function in api.FUNCTIONS.items()
    )
    ran = compile_only(f'#include "lowheap.h"\n{checks}\n', tmp_path, "-std=c11", *WARNINGS)
    assert (ran.returncode, ran.stderr) == (0, "")
    code = re.sub(r"/\*.*?\*/", "", header(), flags=re.DOTALL)
    assert {name for name in re.findall(r"\b(lh_\w+)\(", code) if not name.endswith("_")} == {*api.FUNCTIONS, *INLINE}
    for function in api.FUNCTIONS.values():  # each with its summary
        assert " ".join(function.summary.split()) in re.sub(r"\s+(\* )?", " ", header())


def test_statuses_are_declared_with_their_meanings() -> None:
    for status, meaning in api.STATUS_MEANINGS.items():
        assert f"    LH_{status.name} = {int(status)}, /* {meaning} */\n" in header()
    assert set(api.STATUS_MEANINGS) == set(api.Status)


@pytest.mark.parametrize(
    ("option", "fields", "edited", "complaint"),
    [
        ("-fpack-struct", "", "", "the size of VM"),
        ("-fshort-enums", "", "", "enumerations are 32 bits wide"),
        (
            "",
            " lh_on_error on_error;",
            " lh_on_error on_error; void *more;",
            "the place of lh_config.on_error_argument",
        ),
        (
            "",
            " lh_heap *heap;\n    lh_ref *slots;",
            " lh_ref *slots;\n    lh_heap *heap;",
            "the place of lh_frame.heap",
        ),
    ],
)
def test_refuses_compilers_and_edits_that_move_bytes(
    option: str, fields: str, edited: str, complaint: str, tmp_path: Path
) -> None:
    text = header()
    if fields:
        assert text.count(fields) == 1
        text = text.replace(fields, edited)
    for compiler in ("cc", "c++"):
        ran = compile_only(text, tmp_path, *filter(None, [option]), compiler=compiler)
        assert ran.returncode != 0
        assert complaint in ran.stderr


# ----------------------------------------------------------------------------------------------------------------------
# What compilers read in it


@functools.cache
def declared() -> cffi.FFI:
    ffi = cffi.FFI()
    ffi.cdef(cdef())
    return ffi


def test_c_reads_the_numbers_that_cffi_and_python_have(tmp_path: Path) -> None:
    ffi = declared()
    library: Any = ffi.dlopen(str(built_library() / "lib" / "liblowheap.so"))
    names = [name for name in dir(library) if isinstance(getattr(library, name), int)]
    assert {*constants(), "LOWHEAP_ABI", "LOWHEAP_KIND_MASK", "LH_OK", "LH_CALLBACK"} <= set(names)
    structures = [each.__name__ for each in layout.STRUCTURES] + [view.name for view in api.VIEWS]
    fields = [f"{name}, {field}" for name in structures for field, _ in ffi.typeof(name).fields if field]
    lines = [f'printf("%llu\\n", (unsigned long long){name});' for name in names]
    lines += [f'printf("%zu\\n", sizeof({name}));' for name in structures]
    lines += [f'printf("%zu\\n", offsetof({field}));' for field in fields]
    source = '#include "lowheap.h"\n#include <stdio.h>\nint main(void) {\n' + "\n".join(lines) + "\nreturn 0;\n}\n"
    printed = [int(line) for line in run([compile_program(source, tmp_path)]).splitlines()]
    assert printed[: len(names)] == [getattr(library, name) for name in names]
    assert printed[len(names) : -len(fields)] == [ffi.sizeof(name) for name in structures]
    assert printed[-len(fields) :] == [ffi.offsetof(*field.split(", ")) for field in fields]
    for name, (_, value) in constants().items():
        assert getattr(library, name) == value
    assert library.LOWHEAP_ABI == library.lh_abi() == api.abi_hash()
    for status in api.Status:
        assert getattr(library, f"LH_{status.name}") == status


@pytest.mark.parametrize("view", api.VIEWS, ids=lambda view: view.name)
def test_cffi_has_the_sizes_of_ctypes(view: api.View) -> None:
    ffi = declared()
    assert ffi.sizeof(view.name) == ctypes.sizeof(view.structure)
    fields = dict(ffi.typeof(view.name).fields)
    assert list(fields) == [name for name, *_ in view.structure._fields_]
    for name, field in fields.items():
        assert (field.offset, ffi.sizeof(field.type)) == (
            getattr(view.structure, name).offset,
            getattr(view.structure, name).size,
        )
        assert (field.type.kind == "pointer" or field.type.kind == "function") == (name in view.pointers)


def test_short_names_are_all_different() -> None:
    statuses = {f"LH_{status.name}" for status in api.Status}
    assert not statuses & set(constants())
    defined = re.findall(r"^#define (\w+)", header(), re.MULTILINE)
    twice = {name for name in defined if defined.count(name) > 1}
    assert twice == {"LH_ASSERT_"}, "one for C, one for C++"


def test_says_which_version_and_which_hash() -> None:
    assert f'#define LOWHEAP_VERSION "{package_version()}"\n' in header()
    found = re.search(r"^#define LOWHEAP_ABI (0x[0-9a-f]{16})ull$", header(), re.MULTILINE)
    assert found
    assert int(found[1], 16) == api.abi_hash()


# ----------------------------------------------------------------------------------------------------------------------
# Macros and inline functions do what they say


INLINE_WRAPPERS = """
#include "lowheap.h"
int is_i31(lh_ref reference) { return lh_is_i31(reference); }
int is_object(lh_ref reference) { return lh_is_object(reference); }
lh_ref i31(int32_t value) { return lh_i31(value); }
int32_t i31_value(lh_ref reference) { return lh_i31_value(reference); }
uint32_t i31_value_u(lh_ref reference) { return lh_i31_value_u(reference); }
void *address(uint64_t base, lh_ref object, uint32_t offset) {
    static lh_heap heap;
    heap.heap_base = base;
    return lh_address(&heap, object, offset);
}
"""


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    directory = tmp_path_factory.mktemp("inline")
    (directory / "inline.c").write_text(INLINE_WRAPPERS)
    include = built_library() / "include"
    options = ["-std=c11", "-O2", "-shared", "-fPIC", "-fsanitize=undefined", "-fno-sanitize-recover=all"]
    output = directory / "inline.so"
    run(["cc", *options, f"-I{include}", directory / "inline.c", "-o", output])
    found = ctypes.CDLL(str(output))
    found.i31.restype = found.i31_value_u.restype = ctypes.c_uint32
    found.address.restype = ctypes.c_uint64
    found.address.argtypes = [ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32]
    return found


@given(reference=st.integers(0, (1 << 32) - 1), value=st.integers(-(1 << 31), (1 << 31) - 1))
def test_references_are_what_python_takes_them_for(inline: ctypes.CDLL, reference: int, value: int) -> None:
    assert inline.is_i31(reference) == layout.is_i31(reference)
    assert inline.is_object(reference) == layout.is_object(reference)
    assert inline.i31(value) == layout.i31_from_int(value)
    assert inline.i31_value(reference) == layout.i31_get_s(reference)
    assert inline.i31_value_u(reference) == layout.i31_get_u(reference)


@given(base=st.integers(1, 1 << 46), reference=st.integers(0, (1 << 32) - 1), offset=st.integers(0, (1 << 32) - 1))
def test_addresses_do_not_wrap_at_32_bits(inline: ctypes.CDLL, base: int, reference: int, offset: int) -> None:
    assert inline.address(base, reference, offset) == base + reference + offset


FIELD_OFFSETS = """
#include "lowheap.h"
#include <stdio.h>

static const lh_field fields[] = {
    LH_I8_FIELD, LH_V128_FIELD, LH_I16_FIELD, LH_F64_FIELD, LH_REF_FIELD(LH_ANY), LH_I64_FIELD, LH_F32_FIELD,
    LH_I32_FIELD, LH_CONST_REF_FIELD(LH_SELF), LH_FIELD(LH_REF, LH_NULLABLE, LH_EXTERN), LH_I8_FIELD,
};
static const lh_field elements[] = {LH_I8_FIELD, LH_F64_FIELD, LH_V128_FIELD, LH_REF_FIELD(LH_STRUCT)};

int main(void) {
    lh_heap *heap;
    lh_type type;
    uint32_t offset;
    const lh_config config = LH_CONFIG;
    if (lh_heap_create(&config, &heap) != LH_OK) return 1;
    if (lh_define_struct(heap, fields, sizeof fields / sizeof *fields, LH_NO_SUPERTYPE, 0, &type) != LH_OK) return 2;
    for (uint32_t field = 0; field < sizeof fields / sizeof *fields; field++) {
        if (lh_field_offset(heap, type, field, &offset) != LH_OK) return 3;
        printf("%u\\n", (unsigned)offset);
    }
    for (uint32_t kind = 0; kind < sizeof elements / sizeof *elements; kind++) {
        if (lh_define_array(heap, &elements[kind], LH_NO_SUPERTYPE, LH_FINAL, &type) != LH_OK) return 4;
        if (lh_field_offset(heap, type, 0, &offset) != LH_OK) return 5;
        printf("%u\\n", (unsigned)offset);
    }
    return lh_heap_destroy(heap) != LH_OK;
}
"""


def test_field_macros_make_the_fields_that_python_lays_out(tmp_path: Path) -> None:
    printed = [int(line) for line in run([compile_program(FIELD_OFFSETS, tmp_path)]).splitlines()]
    reference = (layout.REFERENCE_SIZE, True)
    scalars = {storage: (storage_size(storage), False) for storage in (I8, I16, I32, I64, F32, F64, V128)}
    storages = [
        *(scalars[each] for each in (I8, V128, I16, F64)),
        reference,
        *(scalars[each] for each in (I64, F32, I32)),
        reference,
        reference,
        scalars[I8],
    ]
    expected = [field.offset for field in GcTypeLayouts().struct_layout(storages).fields]
    for element in (scalars[I8], scalars[F64], scalars[V128], reference):
        expected.append(GcTypeLayouts().array_layout(element).elements_offset)
    assert printed == expected


FRAMES = """
#include "lowheap.h"
#include <stdio.h>

static lh_type cell;

static uint64_t live(lh_heap *heap) {
    lh_statistics figures;
    return lh_collect(heap) == LH_OK && lh_heap_statistics(heap, &figures) == LH_OK ? figures.live_objects : 99;
}

static void fill(lh_heap *heap, lh_ref *slots, int count) {
    for (int number = 0; number < count; number++) {
        if (lh_alloc_struct(heap, cell, &slots[number]) != LH_OK) printf("no object\\n");
    }
}

static unsigned long long leave_early(lh_heap *heap, int early) {
    LH_FRAME(heap, mine, 3);
    fill(heap, mine, 3);
    if (early) {
        return live(heap);
    }
    for (int round = 0; round < 2; round++) {
        LH_FRAME(heap, its, 2);
        if (its[0] != LH_NULL || its[1] != LH_NULL) printf("not zeroed\\n");
        fill(heap, its, 2);
        if (round == 0) continue;
        printf("%llu ", (unsigned long long)live(heap));
        break;
    }
    return live(heap);
}

int main(void) {
    static const lh_field fields[] = {LH_I32_FIELD};
    lh_heap *heap;
    const lh_config config = LH_CONFIG;
    if (lh_heap_create(&config, &heap) != LH_OK) return 1;
    if (lh_define_struct(heap, fields, 1, LH_NO_SUPERTYPE, LH_FINAL, &cell) != LH_OK) return 2;
    printf("%llu ", leave_early(heap, 1));
    printf("%llu ", (unsigned long long)live(heap));
    printf("%llu ", leave_early(heap, 0));
    printf("%llu ", (unsigned long long)live(heap));
    printf("%d\\n", heap->store_context.root_frames == 0);
    BODY
    return lh_heap_destroy(heap) != LH_OK;
}
"""

THROWS = """
    try {
        LH_FRAME(heap, thrown, 1);
        fill(heap, thrown, 1);
        throw 1;
    } catch (int) {
        printf("%llu\\n", (unsigned long long)live(heap));
    }
"""


@pytest.mark.parametrize(("language", "body", "printed"), [("c", "", ""), ("c++", THROWS, "0\n")])
def test_frames_end_with_their_scope(language: str, body: str, printed: str, tmp_path: Path) -> None:
    program = compile_program(FRAMES.replace("BODY", body), tmp_path, language=language)
    assert run([program]) == "3 0 5 3 0 1\n" + printed


NO_FRAME = """
#include "lowheap.h"
#include <stdio.h>
int main(void) {
    LH_FRAME(NULL, none, 1);
    printf("%d %d\\n", none_frame.heap == NULL, none[0] == LH_NULL);
    return 0;
}
"""


def test_a_frame_that_cannot_be_pushed_is_not_popped(tmp_path: Path) -> None:
    assert run([compile_program(NO_FRAME, tmp_path, checked=True)]) == "1 1\n"


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.parametrize(("option", "text"), [((), header), (("--cdef",), cdef)])
def test_the_command_prints_it(
    option: tuple[str, ...], text: Callable[[], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.execute(["header", *option]) == 0
    assert capsys.readouterr() == (text(), "")
    file = tmp_path / "header"
    assert cli.execute(["header", *option, "--out", str(file)]) == 0
    assert capsys.readouterr() == ("", "")
    assert file.read_text() == text()


def test_the_command_says_where_it_cannot_write(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "none" / "lowheap.h"
    assert cli.execute(["header", "--out", str(file)]) == 1
    assert capsys.readouterr() == ("", f"lowheap: error: cannot write {str(file)!r}: No such file or directory\n")


INLINE_BARRIERS = """
#include <stdio.h>
#include <lowheap.h>

static int finalized;
static void count(void *data) { (void)data; finalized++; }

int main(void) {
    const lh_config config = LH_CONFIG;
    const lh_field fields[] = {LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_EXTERN)};
    lh_heap *heap;
    lh_type pair;
    lh_ref value = lh_i31(7);
    uint32_t first, second;
    lh_statistics figures;
    if (lh_heap_create(&config, &heap) != LH_OK) return 1;
    if (lh_define_struct(heap, fields, 2, LH_NO_SUPERTYPE, LH_FINAL, &pair) != LH_OK) return 2;
    lh_field_offset(heap, pair, 0, &first);
    lh_field_offset(heap, pair, 1, &second);
    {
        LH_FRAME(heap, slot, 3);
        lh_alloc_struct(heap, pair, &slot[0]);
        lh_alloc_struct(heap, pair, &slot[1]);
        lh_alloc_externref(heap, NULL, count, &slot[2]);
        lh_init_ref(heap, slot[0], first, slot[1]);
        lh_store_ref(heap, slot[1], second, slot[2]);
        lh_store_ref(heap, slot[1], second, slot[2]); /* itself over itself */
        lh_store_ref(heap, slot[1], first, value);
        if (lh_load_ref(heap, slot[1], first) != value || lh_load_ref(heap, slot[0], second) != LH_NULL) return 3;
        slot[1] = slot[2] = LH_NULL;
        if (lh_collect(heap) != LH_OK || lh_verify(heap) != LH_OK || finalized != 0) return 4;
        slot[1] = lh_load_ref(heap, slot[0], first); /* off the list since the collection, and on it again */
        if (lh_verify(heap) != LH_OK) return 5;
        lh_store_ref(heap, slot[0], first, LH_NULL);
        if (lh_collect(heap) != LH_OK || lh_verify(heap) != LH_OK || finalized != 0) return 6;
        slot[2] = lh_load_ref(heap, slot[1], second);
        slot[2] = LH_NULL;
        if (lh_collect(heap) != LH_OK || finalized != 0) return 7;
        lh_store_ref(heap, slot[1], second, LH_NULL); /* the last count: the library drops it */
        if (finalized != 1 || lh_verify(heap) != LH_OK) return 8;
    }
    if (lh_collect(heap) != LH_OK || lh_verify(heap) != LH_OK) return 9;
    lh_heap_statistics(heap, &figures);
    printf("%d %d\\n", (int)figures.live_objects, finalized);
    return lh_heap_destroy(heap) != LH_OK;
}
"""


def test_barriers_in_line_do_what_the_library_does(tmp_path: Path) -> None:
    assert run([compile_program(INLINE_BARRIERS, tmp_path)]) == "0 1\n"
