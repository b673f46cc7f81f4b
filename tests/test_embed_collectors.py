"""The C library for several collectors: heaps of each in one program, what they tell of themselves, what is refused.

Programs in C are compared with a model in the same program, which knows nothing of lowheap: arrays of numbers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cffi
import pytest
from support.embed_library import WARNINGS, built_library, compile_program, run

import lowheap as lh
from lowheap import cli
from lowheap.collectors import registry
from lowheap.embed import abi_hash, attach, cdef, ffi, library
from lowheap.embed.api import FUNCTIONS, Status, collector_number
from lowheap.embed.header import header
from lowheap.errors import CompilerError, HeapError

CHECKED = [False, True]
KINDS = ["fast", "checked"]
BOTH = pytest.mark.parametrize("checked", CHECKED, ids=KINDS)

COLLECTORS = ("rc-immix(pause_microseconds=200)", "drc")
"""What the library here is built for: neither the usual order, nor without parameters."""

NAMES = ("rc-immix", "drc")
EACH = pytest.mark.parametrize("name", NAMES)


def prefix() -> Path:
    return built_library(*COLLECTORS)


PRELUDE = """
#include "lowheap.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void complain(void *argument, lh_status status, const char *message) {
    (void)argument;
    printf("%s: %s\\n", lh_status_name(status), message);
}

static void check(lh_status status) {
    if (status != LH_OK) {
        puts(lh_status_name(status));
        exit(0);
    }
}

static lh_heap *create(const char *collector) {
    lh_config config = LH_CONFIG;
    lh_heap *heap;
    config.collector = collector;
    config.on_error = complain;
    check(lh_heap_create(&config, &heap));
    return heap;
}

static inline lh_statistics figures_of(lh_heap *heap) {
    lh_statistics figures;
    check(lh_heap_statistics(heap, &figures));
    return figures;
}
"""


def run_program(source: str, directory: Path, *arguments: str, checked: bool, prefix: Path) -> list[str]:
    """What a program prints, compiled with a library."""
    program = compile_program(PRELUDE + source, directory, checked=checked, prefix=prefix)
    return run([program, *arguments]).splitlines()


# ----------------------------------------------------------------------------------------------------------------------
# Choosing

CHOOSE = """
int main(int count, char **names) {
    for (int number = 0; number < count; number++) {
        const char *name;
        lh_heap *heap = create(number == 0 ? NULL : names[number]);
        check(lh_heap_collector(heap, &name));
        puts(name);
        check(lh_heap_destroy(heap));
    }
    return 0;
}
"""


@BOTH
def test_a_heap_has_the_collector_that_is_named(checked: bool, tmp_path: Path) -> None:
    """The first of the library's, where none is; parameters are no part of a name."""
    wrong = ["", "rc-immi", "rc-immixx", "drc(list_floor=1)", "x" * 300]
    for number, name in enumerate(wrong):
        arguments = ("drc", "rc-immix", name, "drc")
        printed = run_program(CHOOSE, tmp_path / str(number), *arguments, checked=checked, prefix=prefix())
        assert printed == [
            "rc-immix",
            "drc",
            "rc-immix",
            f'LH_BAD_ARGUMENT: lh_heap_create: there is no collector "{name[:80]}"; the library has rc-immix, drc',
            "LH_BAD_ARGUMENT",
        ]


@BOTH
def test_a_library_for_one_collector_knows_its_name_and_no_other(checked: bool, tmp_path: Path) -> None:
    printed = run_program(CHOOSE, tmp_path, "drc", "rc-immix", checked=checked, prefix=built_library())
    assert printed == [
        "drc",
        "drc",
        'LH_BAD_ARGUMENT: lh_heap_create: there is no collector "rc-immix"; the library has drc',
        "LH_BAD_ARGUMENT",
    ]


def test_headers_of_other_collectors_are_refused(tmp_path: Path) -> None:
    """Those of fewer, and of the same in another order: what is in line goes by them."""
    texts = [header(), header("rc-immix"), header("drc", "rc-immix"), header(*COLLECTORS)]
    assert len(set(texts)) == len(texts)
    assert (prefix() / "include" / "lowheap.h").read_text() == texts[-1] == header(*NAMES)
    for number, text in enumerate(texts):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "lowheap.h").write_text(text)
        for checked in CHECKED:
            program = compile_program(
                PRELUDE + CHOOSE, directory / KINDS[checked], checked=checked, prefix=prefix(), header=directory
            )
            assert run([program]).splitlines() == (["rc-immix"] if text == texts[-1] else ["LH_ABI"])


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles_without_a_warning(language: str, tmp_path: Path) -> None:
    source = '#include "lowheap.h"\nint main(void) { return lh_is_object(LH_NULL); }\n'
    compile_program(source, tmp_path, language=language, prefix=prefix())


def test_the_object_has_no_other_global_name() -> None:
    for checked in CHECKED:
        file = prefix() / library.library_files(checked=checked)["object"]
        printed = run(["nm", "--extern-only", "--defined-only", "--format=posix", file])
        assert {line.split()[0] for line in printed.splitlines()} == set(FUNCTIONS)


def test_names_are_given_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["header"], ["build-library", "--out", str(tmp_path / "never")]):
        for names, complaint in {
            ("drc", "rc-immix", "drc"): "the collector 'drc' is named twice; each is wanted once at most",
            ("rc-immix", "rc-immix(epoch_bytes=65536)"): "the collector 'rc-immix' is named twice",
            ("drc", "nothing"): "there is no collector 'nothing'; there are drc, ",
            ("drc", "rc-immix(nothing=1)"): "cannot make the collector 'rc-immix(nothing=1)' with nothing",
        }.items():
            assert cli.execute([*command, *(part for name in names for part in ("--collector", name))]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert complaint in err
    assert not (tmp_path / "never").exists()
    with pytest.raises(CompilerError, match="no collector is named"):
        library.build(tmp_path / "never", collector=[])
    assert cli.execute(["header", "--collector", COLLECTORS[0], "--collector", COLLECTORS[1]]) == 0
    assert capsys.readouterr().out == header(*COLLECTORS)


def test_pkg_config_tells_all() -> None:
    text = (prefix() / "lib" / "pkgconfig" / "lowheap.pc").read_text()
    assert "Description: A heap with the collector rc-immix or drc;" in text


def test_numbers_stand_for_names() -> None:
    names = [registry.name_of(registry.find(name)) for name in registry.BUILT_IN]
    assert len({collector_number(name) for name in names}) == len(names) > 3
    assert abi_hash() == abi_hash("drc")
    assert len({abi_hash(), abi_hash("rc-immix"), abi_hash(*NAMES), abi_hash(*reversed(NAMES))}) == 4


# ----------------------------------------------------------------------------------------------------------------------
# Heaps of several collectors at once, against a model

GRAPHS = """
enum { NODES = 3000, ROOTS = 40, FIELDS = 3, STEPS = 400000 };

typedef struct {
    lh_heap *heap;
    lh_type node, nodes;
    uint32_t offset[FIELDS], elements, value;
    lh_ref roots[ROOTS];
    lh_frame frame;
} world;

/* The model: what each root and each node's fields and children are, by numbers from 1 on. */
static int roots[ROOTS], fields[NODES + 1][FIELDS], children[NODES + 1], next = 1;

static unsigned random_below(unsigned limit) {
    static uint64_t state = SEED;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % limit;
}

static void make(world *w, const char *collector) {
    memset(w, 0, sizeof *w);
    w->heap = create(collector);
    const lh_field own[] = {LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_ANY), LH_I32_FIELD};
    const lh_field element = LH_REF_FIELD(LH_ANY);
    check(lh_define_struct(w->heap, own, 4, LH_NO_SUPERTYPE, LH_FINAL, &w->node));
    check(lh_define_array(w->heap, &element, LH_NO_SUPERTYPE, LH_FINAL, &w->nodes));
    for (uint32_t i = 0; i < FIELDS; i++) check(lh_field_offset(w->heap, w->node, i, &w->offset[i]));
    check(lh_field_offset(w->heap, w->node, FIELDS, &w->value));
    check(lh_field_offset(w->heap, w->nodes, 0, &w->elements));
    check(lh_frame_push(w->heap, &w->frame, w->roots, ROOTS));
}

/* A new node, numbered, whose third field has an array of one element, which refers to a root. */
static void add(world *w, unsigned root, unsigned child) {
    LH_FRAME(w->heap, made, 2);
    check(lh_alloc_struct(w->heap, w->node, &made[0]));
    check(lh_alloc_array(w->heap, w->nodes, 1, &made[1]));
    lh_init_ref(w->heap, made[1], w->elements, w->roots[child]);
    lh_init_ref(w->heap, made[0], w->offset[2], made[1]);
    *(int32_t *)lh_address(w->heap, made[0], w->value) = next;
    w->roots[root] = made[0];
}

static void visit(world *w, lh_ref node, int number, int *seen) {
    if (number == 0 || seen[number]) {
        if ((number == 0) != (node == LH_NULL)) { printf("%d is not where it was\\n", number); exit(0); }
        return;
    }
    seen[number] = 1;
    if (*(int32_t *)lh_address(w->heap, node, w->value) != number) { printf("%d is another\\n", number); exit(0); }
    for (int i = 0; i < 2; i++) {
        lh_ref there = i ? lh_load_ref(w->heap, node, w->offset[1]) : LH_NULL;
        if (i == 0) check(lh_struct_get_ref(w->heap, node, 0, &there));
        visit(w, there, fields[number][i], seen);
    }
    visit(w, lh_load_ref(w->heap, lh_load_ref(w->heap, node, w->offset[2]), w->elements), children[number], seen);
}

static int live_nodes(world *w) {
    int seen[NODES + 1] = {0}, live = 0;
    for (unsigned i = 0; i < ROOTS; i++) visit(w, w->roots[i], roots[i], seen);
    for (int i = 1; i <= NODES; i++) live += seen[i];
    return live;
}

int main(void) {
    static world worlds[2];
    make(&worlds[0], "drc");
    make(&worlds[1], "rc-immix");
    for (int step = 0; step < STEPS; step++) {
        const unsigned a = random_below(ROOTS), b = random_below(ROOTS), field = random_below(2);
        const unsigned what = random_below(1000);
        if (what < 10 && next <= NODES) {
            for (int i = 0; i < 2; i++) add(&worlds[i], a, b);
            fields[next][0] = fields[next][1] = 0;
            children[next] = roots[b];
            roots[a] = next++;
        } else if (what < 500 && roots[a] != 0) {
            for (int i = 0; i < 2; i++) {
                world *w = &worlds[i];
                if (step & 1) lh_store_ref(w->heap, w->roots[a], w->offset[field], w->roots[b]);
                else check(lh_struct_set_ref(w->heap, w->roots[a], field, w->roots[b]));
            }
            fields[roots[a]][field] = roots[b];
        } else if (what < 990 && roots[b] != 0) {
            for (int i = 0; i < 2; i++) {
                world *w = &worlds[i];
                w->roots[a] = lh_load_ref(w->heap, w->roots[b], w->offset[field]);
            }
            roots[a] = fields[roots[b]][field];
        } else if (what == 999) {
            for (int i = 0; i < 2; i++) {
                uint32_t is_more;
                if (step & 1) check(lh_collect_increment(worlds[i].heap, 1 + a, &is_more));
                else check(lh_collect(worlds[i].heap));
                check(lh_verify(worlds[i].heap));
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        world *w = &worlds[i];
        const int live = live_nodes(w);
        check(lh_collect_cycles(w->heap));
        check(lh_verify(w->heap));
        const lh_statistics figures = figures_of(w->heap);
        printf("%d made, %d live, %d more\\n", next - 1, live, 2 * live - (int)figures.live_objects);
        check(lh_frame_pop(w->heap, &w->frame));
        check(lh_heap_destroy(w->heap));
    }
    return 0;
}
"""


@BOTH
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_heaps_in_one_program_are_what_a_model_says(seed: int, checked: bool, tmp_path: Path) -> None:
    source = GRAPHS.replace("SEED", str(seed))
    printed = run_program(source, tmp_path, checked=checked, prefix=prefix())
    assert printed[0] == printed[1]
    found = re.fullmatch(r"(\d+) made, (\d+) live, 0 more", printed[0])
    assert found, printed
    assert int(found[1]) > 2 * int(found[2]) > 0


# ----------------------------------------------------------------------------------------------------------------------
# Figures

FIGURES = """
static long resident(void) {
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &ignored, &pages) != 2) exit(1);
    fclose(file);
    return pages;
}

int main(int count, char **arguments) {
    (void)count;
    lh_heap *heap = create(arguments[1]);
    const lh_field byte = LH_I8_FIELD, reference = LH_REF_FIELD(LH_ANY);
    lh_type bytes, references;
    void *data;
    lh_ref made;
    check(lh_define_array(heap, &byte, LH_NO_SUPERTYPE, LH_FINAL, &bytes));
    check(lh_define_array(heap, &reference, LH_NO_SUPERTYPE, LH_FINAL, &references));
    const long before = resident();
    {
        LH_FRAME(heap, kept, 1);
        check(lh_alloc_array(heap, references, 64, &kept[0]));
        for (uint32_t i = 0; i < 64; i++) {
            check(lh_alloc_array(heap, bytes, 1 << 20, &made));
            check(lh_array_data(heap, made, &data));
            memset(data, 1, 1 << 20);
            check(lh_array_set_ref(heap, kept[0], i, made));
        }
        printf("%ld %llu ", resident() - before, (unsigned long long)figures_of(heap).peak_committed);
    }
    for (int i = 0; i < 20; i++) check(lh_collect(heap));
    const lh_statistics end = figures_of(heap);
    printf("%llu %llu %llu\\n", (unsigned long long)end.peak_committed, (unsigned long long)end.capacity,
           (unsigned long long)end.live_bytes);
    check(lh_heap_destroy(heap));
    return 0;
}
"""


@BOTH
@EACH
def test_the_peak_of_committed_memory_is_what_the_process_had(name: str, checked: bool, tmp_path: Path) -> None:
    (line,) = run_program(FIGURES, tmp_path, name, checked=checked, prefix=prefix())
    pages, there, peak, capacity, live = map(int, line.split())
    taken = pages * 4096
    mebibyte = 1 << 20
    assert 64 * mebibyte < taken
    assert live == 0
    assert there == peak
    if name == "drc":
        assert taken - mebibyte <= peak == capacity
    else:
        assert taken - 4 * mebibyte <= peak <= taken + 4 * mebibyte
        assert peak < capacity


PAUSES = """
int main(int count, char **arguments) {
    (void)count;
    lh_heap *heap = create(arguments[1]);
    const lh_field fields[] = {LH_REF_FIELD(LH_SELF), LH_I64_FIELD};
    lh_type cell;
    check(lh_define_struct(heap, fields, 2, LH_NO_SUPERTYPE, LH_FINAL, &cell));
    {
        LH_FRAME(heap, list, 2);
        for (int round = 0; round < 8; round++) {
            list[0] = LH_NULL;
            for (int i = 0; i < 200000; i++) {
                check(lh_alloc_struct(heap, cell, &list[1]));
                check(lh_struct_set_ref(heap, list[1], 0, list[0]));
                list[0] = list[1];
            }
        }
    }
    check(lh_verify(heap));
    const lh_statistics end = figures_of(heap);
    printf("%llu %llu %llu %llu\\n", (unsigned long long)end.collections, (unsigned long long)end.pauses,
           (unsigned long long)end.paused_nanoseconds, (unsigned long long)end.longest_pause_nanoseconds);
    check(lh_heap_destroy(heap));
    return 0;
}
"""


def test_pauses_are_told_and_a_budget_makes_them_many(tmp_path: Path) -> None:
    """With a budget, what is left of a collection is done between allocations, in pauses of their own."""
    of_drc, budgeted = (
        list(map(int, run_program(PAUSES, tmp_path / name, name, checked=False, prefix=prefix())[0].split()))
        for name in ("drc", "rc-immix")
    )
    directory = library.build(tmp_path / "prefix", collector="rc-immix", opt_level=1).prefix
    (line,) = run_program(PAUSES, tmp_path / "unbudgeted", "rc-immix", checked=False, prefix=directory)
    unbudgeted = list(map(int, line.split()))
    assert of_drc[0] > 0
    assert of_drc[1:] == [0, 0, 0]
    for collections, pauses, nanoseconds, longest in (budgeted, unbudgeted):
        assert collections > 2
        assert pauses >= collections
        assert nanoseconds >= longest >= nanoseconds // pauses > 0
    assert unbudgeted[1] == unbudgeted[0]
    assert budgeted[1] > budgeted[0] + 10


# ----------------------------------------------------------------------------------------------------------------------
# Increments

RINGS = """
enum { RING = 100, RINGS = 2000 };

static int finalized;

static void finalize(void *data) {
    (void)data;
    finalized++;
}

int main(int count, char **arguments) {
    (void)count;
    lh_heap *heap = create(arguments[1]);
    const lh_field fields[] = {LH_REF_FIELD(LH_SELF), LH_REF_FIELD(LH_EXTERN), LH_REF_FIELD(LH_SELF)};
    lh_type cell;
    check(lh_define_struct(heap, fields, 3, LH_NO_SUPERTYPE, LH_FINAL, &cell));
    uint32_t is_more = 1;
    int calls = 0, most = 0;
    {
        LH_FRAME(heap, slot, 4); /* the last first cell of a ring; a ring's first and last; an externref */
        check(lh_no_gc_enter(heap)); /* so that what lives is found to have grown when increments look */
        for (int ring = 0; ring < RINGS; ring++) {
            check(lh_alloc_struct(heap, cell, &slot[1]));
            check(lh_struct_set_ref(heap, slot[1], 2, slot[0]));
            check(lh_alloc_externref(heap, NULL, finalize, &slot[3]));
            check(lh_struct_set_ref(heap, slot[1], 1, slot[3]));
            slot[0] = slot[2] = slot[1];
            for (int i = 1; i < RING; i++) {
                lh_ref made;
                check(lh_alloc_struct(heap, cell, &made));
                check(lh_struct_set_ref(heap, made, 0, slot[2]));
                slot[2] = made;
            }
            check(lh_struct_set_ref(heap, slot[1], 0, slot[2]));
        }
        check(lh_no_gc_exit(heap));
        while (is_more) check(lh_collect_increment(heap, 1000, &is_more));
        printf("%d, ", (int)figures_of(heap).live_objects);
    }
    for (int round = 0; round < 3; round++) {
        for (is_more = 1; is_more; calls++) {
            const int live = (int)figures_of(heap).live_objects;
            check(lh_collect_increment(heap, 1000, &is_more));
            const int freed = live - (int)figures_of(heap).live_objects;
            if (freed > most) most = freed;
            if (calls % 50 == 0) check(lh_verify(heap));
        }
    }
    const lh_statistics found = figures_of(heap);
    check(lh_verify(heap));
    printf("%d left, %d cyclic, %d finalized, %d calls, %d at once; ", (int)found.live_objects,
           (int)found.cyclic_objects, finalized, calls, most);
    check(lh_collect_cycles(heap));
    printf("%d\\n", (int)figures_of(heap).live_objects);
    check(lh_heap_destroy(heap));
    return 0;
}
"""


@BOTH
@EACH
def test_increments_finish_a_trace_that_is_due(name: str, checked: bool, tmp_path: Path) -> None:
    """Under rc-immix, by portions; under drc, they search for no cycles, as the header says."""
    (line,) = run_program(RINGS, tmp_path, name, checked=checked, prefix=prefix())
    found = re.fullmatch(r"(\d+), (\d+) left, (\d+) cyclic, (\d+) finalized, (\d+) calls, (\d+) at once; (\d+)", line)
    assert found, line
    before, left, cyclic, finalized, calls, at_once, end = map(int, found.groups())
    objects = 2000 * 101
    assert (before, end) == (objects, 0)
    if name == "drc":
        assert (left, cyclic, finalized, calls) == (objects, 0, 0, 3)
    else:
        assert (left, finalized) == (0, 2000)
        assert 2000 * 100 <= cyclic <= objects
        assert calls > 300, "marking 202,000, giving back their counts, and freeing them, by 1000"
        assert at_once <= 3100, "but for externrefs, as many as are looked at"


# ----------------------------------------------------------------------------------------------------------------------
# Heaps of Python's

HOST = """
#include "lowheap.h"

lh_status host_push(lh_heap *heap, lh_type cell, uint32_t next, lh_ref list, lh_ref *result);
lh_status host_push(lh_heap *heap, lh_type cell, uint32_t next, lh_ref list, lh_ref *result) {
    LH_FRAME(heap, slot, 2);
    slot[1] = list;
    lh_status status = lh_alloc_struct(heap, cell, &slot[0]);
    if (status == LH_OK) {
        lh_init_ref(heap, slot[0], next, slot[1]);
        if (lh_load_ref(heap, slot[0], next) != list) return LH_CORRUPT;
        lh_store_ref(heap, slot[0], next, LH_NULL);
        lh_store_ref(heap, slot[0], next, list);
        *result = slot[0];
    }
    return status;
}
"""


def host(directory: Path, prefix: Path, *, checked: bool) -> Any:
    """C code that works on a heap of Python's, linked with a library."""
    directory.mkdir()
    (directory / "host.c").write_text(HOST)
    made = directory / "libhost.so"
    archive = prefix / library.library_files(checked=checked)["archive"]  # of shared libraries, one would be for all
    include = f"-I{prefix / 'include'}"
    run(["cc", "-std=c11", *WARNINGS, "-O2", "-shared", "-fPIC", include, directory / "host.c", archive, "-o", made])
    declared: Any = cffi.FFI()
    declared.include(ffi())
    declared.cdef("lh_status host_push(lh_heap *heap, lh_type cell, uint32_t next, lh_ref list, lh_ref *result);")
    return declared.dlopen(str(made))


CELL = lh.StructType((lh.FieldType(lh.types.I32, True), lh.FieldType(lh.types.ANYREF, True)))


@BOTH
@EACH
def test_c_code_works_on_a_store_of_either_collector(name: str, checked: bool, tmp_path: Path) -> None:
    code = host(tmp_path / "host", prefix(), checked=checked)
    with lh.Store(lh.Engine(collector=name)) as store:
        native = attach(store, checked=checked)
        assert native.collector == name
        assert ffi().string(native.call("lh_heap_collector")).decode() == name
        first: Any = lh.Struct(store, CELL, [7, None])
        offset = native.call("lh_field_offset", first.type_index, 1)
        result = ffi().new("lh_ref *")
        newest = first
        for _ in range(1000):
            status = code.host_push(native.heap, first.type_index, offset, newest.reference, result)
            assert status == Status.OK
            newest = native.adopt(result[0])
        del first
        native.call("lh_collect")
        store.verify()
        native.call("lh_verify")
        length, last = 0, newest
        while last[1] is not None:
            length, last = length + 1, last[1]
        assert (length, last[0]) == (1000, 7)
        assert native.call("lh_heap_statistics").live_objects == store.stats().live_objects == 1001
        assert native.call("lh_heap_statistics").pauses == store.stats().pauses
        assert (store.stats().pauses > 0) == (name == "rc-immix")


def test_a_library_without_the_collector_refuses_the_heap(tmp_path: Path) -> None:
    """The inline functions would do another collector's barriers; the checked library lets it not come so far."""
    code = host(tmp_path / "host", built_library(), checked=True)
    several = host(tmp_path / "several", prefix(), checked=True)
    for name, expected in {"drc": Status.OK, "rc-immix": Status.ABI, "null": Status.ABI}.items():
        with lh.Store(lh.Engine(collector=name)) as store:
            native = attach(store)
            assert native.collector == name
            first: Any = lh.Struct(store, CELL, [7, None])
            offset = native.call("lh_field_offset", first.type_index, 1)
            result = ffi().new("lh_ref *")
            assert code.host_push(native.heap, first.type_index, offset, 0, result) == expected
            in_either = Status.ABI if name == "null" else Status.OK
            assert several.host_push(native.heap, first.type_index, offset, 0, result) == in_either
            store.verify()


def test_a_heap_beside_a_stores_has_its_collector() -> None:
    with lh.Store(lh.Engine(collector="rc-immix")) as store:
        native = attach(store)
        wanted = ffi().new("char[]", b"rc-immix")
        other = native.call("lh_heap_create", ffi().new("lh_config *", {"abi": abi_hash(), "collector": wanted}))
        found = ffi().new("char **")
        assert native.lh_heap_collector(other, found) == Status.OK
        assert ffi().string(found[0]) == b"rc-immix"
        assert native.lh_heap_destroy(other) == Status.OK
        with pytest.raises(HeapError):
            native.call(
                "lh_heap_create",
                ffi().new("lh_config *", {"abi": abi_hash(), "collector": ffi().new("char[]", b"drc")}),
            )


# ----------------------------------------------------------------------------------------------------------------------
# cffi, without a compiler


@EACH
def test_abi_mode(name: str) -> None:
    declared: Any = cffi.FFI()
    declared.cdef(cdef(*COLLECTORS))
    loaded = declared.dlopen(str(prefix() / "lib" / "liblowheap-checked.so"))
    assert loaded.LOWHEAP_ABI == loaded.lh_abi() == abi_hash(*NAMES) != abi_hash()
    wanted, made = declared.new("char[]", name.encode()), declared.new("lh_heap **")
    config = declared.new("lh_config *", {"abi": loaded.LOWHEAP_ABI, "collector": wanted})
    assert loaded.lh_heap_create(config, made) == loaded.LH_OK
    found = declared.new("char **")
    assert loaded.lh_heap_collector(made[0], found) == loaded.LH_OK
    assert declared.string(found[0]).decode() == name
    assert loaded.lh_heap_collector(declared.NULL, found) == loaded.LH_BAD_ARGUMENT
    assert loaded.lh_heap_collector(made[0], declared.NULL) == loaded.LH_BAD_ARGUMENT
    assert loaded.lh_error_message(declared.NULL, declared.NULL, 0) == 0
    made[0].collector += 1
    assert loaded.lh_collect(made[0]) == loaded.LH_ABI, "one that nobody has"
    made[0].collector -= 1
    assert loaded.lh_heap_destroy(made[0]) == loaded.LH_OK
