"""What is measured: each program with its sizes, the steps that are timed, and who can run it.

A repetition of a program takes the steps `before`, which are not timed, and the steps `timed`. The next one goes on
with the same heap and whatever garbage is in it, so that each pays for its predecessor's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowheap.layout import REFERENCE_SIZE, GcTypeLayouts, block_length
from toolchains.examples import EXAMPLES, KOTLIN, Example

_HERE = Path(__file__).resolve().parent
_PROGRAMS = _HERE / "programs"
_EXAMPLES = _HERE.parent / "examples"

NATIVE = "lowheap"
RC_IMMIX = "lowheap rc-immix"
OUTLINED = "lowheap outlined"
NULL = "lowheap null"
PYTHON = "lowheap python"
POINTER = "cffi pointer"
YARDSTICK = "C yardstick"
FROM_C = "lowheap from C"
RC_IMMIX_FROM_C = "lowheap rc-immix from C"
BOEHM = "Boehm from C"
COUNTED = "malloc from C"
V8 = "V8"
WASMTIME_43 = "wasmtime 43.0.0"
WASMTIME_45 = "wasmtime 45.0.0"
WASMTIME_NEWEST = "wasmtime newest"

DRC_WASMTIMES = (WASMTIME_43, WASMTIME_45)
WASMTIMES = (*DRC_WASMTIMES, WASMTIME_NEWEST)
REFERENCE_COUNTERS = (NATIVE, OUTLINED, *DRC_WASMTIMES, YARDSTICK)
WITH_REFERENCE_EVENTS = (NATIVE, RC_IMMIX, OUTLINED, NULL, *WASMTIMES, YARDSTICK)
LIBRARIES = (FROM_C, RC_IMMIX_FROM_C)
"""lowheap's C library, with the collectors that it can have."""
MEMORY_MANAGERS = (*LIBRARIES, BOEHM, COUNTED)
"""Who manages the memory of embed.c: lowheap's C library, Boehm's collector, or malloc with counts by hand."""
EMBEDDING = (NATIVE, RC_IMMIX, *MEMORY_MANAGERS, YARDSTICK)
FAST = (NATIVE, RC_IMMIX, OUTLINED, NULL, *WASMTIMES, V8, YARDSTICK)
THAT_FREE = (NATIVE, RC_IMMIX, OUTLINED, *WASMTIMES, V8, YARDSTICK)
"""All fast ones but that which frees nothing: for programs whose garbage would fill gigabytes."""
COLLECTORS = (NATIVE, RC_IMMIX, WASMTIME_NEWEST, V8)
"""Both of lowheap's collectors and others' newest: for programs about collectors alone."""
COMPILERS = (NATIVE, WASMTIME_NEWEST, V8)
"""For what is not about the heap: what is made of an instruction."""
WITH_JS_STRINGS = (NATIVE, RC_IMMIX, V8)
"""For JavaScript's strings."""

TOOLCHAINS = (NATIVE, RC_IMMIX, OUTLINED, NULL, WASMTIME_NEWEST, V8)
"""For what compilers of other languages made: the older wasmtimes have not all that it takes."""

_FILLS_THE_HEAP = ("kotlin-interpreter-optimised",)
"""Of these, the programs whose garbage is more than a heap can have."""

Step = tuple[str, tuple[int, ...]] | None
"""An export to call and its arguments; None is a collection."""

COLLECT: Step = None

SCALES = ("full", "quick", "tiny")


@dataclass(frozen=True, slots=True)
class Program:
    """One program at one size.

    `events` is how many of `event` a repetition has, and `yardstick` what the C program is called there. `generations`
    is how many times over a repetition builds what is then garbage: by lowheap's own count of bytes allocated, divided
    by that, the largest live size is known; None where it cannot be had so. `live` is that size where arithmetic tells
    it, in bytes of lowheap's blocks. `times` is how often the timed step, then a single call, is done; only contenders
    in Python know of it. `most_rounds` is how many repetitions are enough, for a program that takes very long.
    """

    name: str
    source: Path
    yardstick: str
    arguments: tuple[int, ...]
    timed: tuple[Step, ...]
    events: int
    event: str
    before: tuple[Step, ...] = ()
    once: tuple[Step, ...] = ()
    contenders: tuple[str, ...] = FAST
    generations: int | None = None
    live: int | None = None
    is_micro: bool = False
    times: int = 1
    most_rounds: int | None = None
    example: Example | None = None

    @property
    def title(self) -> str:
        """The name and the arguments."""
        return f"{self.name} ({', '.join(f'{argument:,}' for argument in self.arguments)})"

    def rounds(self, wanted: int) -> int:
        """How many repetitions count, of so many that are wanted."""
        return wanted if self.most_rounds is None else min(wanted, self.most_rounds)


def suite(scale: str) -> list[Program]:
    """Return all programs at the sizes of a scale: "full", "quick" (a second or so each), or, for tests, "tiny"."""
    if scale not in SCALES:
        raise ValueError(f"there is no scale {scale!r}; there are {', '.join(SCALES)}")
    number = SCALES.index(scale)

    def at(*sizes: tuple[int, ...]) -> tuple[int, ...]:
        return sizes[number]

    programs = [
        trees(*at((10, 2000), (10, 100), (4, 3))),
        trees(*at((16, 20), (14, 4), (5, 2))),
        trees(*at((20, 2), (16, 2), (6, 1))),
        long_lived_trees(*at((16,), (12,), (6,))),
        long_lived_trees(*at((18,), (14,), (7,)), contenders=(NATIVE, RC_IMMIX, WASMTIME_43, V8, YARDSTICK)),
        long_lived_trees(*at((21,), (15,), (8,)), contenders=(NATIVE, RC_IMMIX, V8), most_rounds=3),
        quads(*at((11, 8230), (8, 200), (3, 5))),
        churn(*at((10, 5000), (5, 2000), (3, 40))),
        rings(*at((1000, 3000), (1000, 100), (20, 3))),
        rings(*at((100_000, 30), (20_000, 3), (200, 2))),
        trees_with_parents(*at((10, 2000), (10, 100), (4, 3))),
        trees_with_parents(*at((16, 20), (14, 4), (5, 2))),
        lists(*at((1000, 3000), (1000, 100), (20, 3))),
        lists(*at((1_000_000, 3), (50_000, 2), (100, 2))),
        linked_list(*at((1000, 1000), (1000, 30), (20, 3))),
        shuffle(*at((100_000, 1_000_000), (5000, 20_000), (50, 40))),
        swaps(*at((1000, 3_000_000), (1000, 100_000), (20, 40))),
        swaps(*at((1_000_000, 3_000_000), (50_000, 100_000), (50, 40))),
        hash_table(*at((200_000,), (5000,), (40,))),
        replaced_values(*at((20_000, 2_000_000), (2000, 50_000), (20, 200))),
        reference_arrays(*at((30, 4, 3), (10, 4, 3), (3, 3, 2))),
        tree_of_arrays(*at((10, 6), (6, 5), (3, 3))),
        deep_drop("list", *at((1_000_000,), (30_000,), (300,))),
        deep_drop("array", *at((1_000_000,), (30_000,), (300,))),
        host_call(*at((20_000,), (2000,), (10,))),
        scalar_call(*at((20_000,), (2000,), (10,))),
        sweep(*at((1_000_000,), (30_000,), (300,))),
        # What embed.c has, too.
        trees(*at((10, 2000), (10, 100), (4, 3)), contenders=EMBEDDING),
        trees(*at((16, 20), (14, 4), (5, 2)), contenders=EMBEDDING),
        trees(*at((20, 2), (16, 2), (6, 1)), contenders=EMBEDDING),
        lists(*at((1000, 3000), (1000, 100), (20, 3)), contenders=EMBEDDING),
        lists(*at((1_000_000, 3), (50_000, 2), (100, 2)), contenders=EMBEDDING),
        linked_list(*at((1000, 1000), (1000, 30), (20, 3)), contenders=EMBEDDING),
        quads(*at((11, 8230), (8, 200), (3, 5)), contenders=tuple(each for each in EMBEDDING if each != YARDSTICK)),
        # The heap in Python, at sizes that it can bear, and the native one beside it.
        trees(*at((6, 20), (5, 4), (3, 2)), contenders=(NATIVE, PYTHON)),
        lists(*at((1000, 3), (100, 3), (20, 2)), contenders=(NATIVE, PYTHON)),
        hash_table(*at((500,), (50,), (20,)), contenders=(NATIVE, PYTHON)),
        *(micro(export, *at((5_000_000,), (200_000,), (500,))) for export in MICRO_LOOPS),
        first_read(*at((1_000_000,), (30_000,), (300,))),
        # What is not about the heap.
        *(
            language(name, export, event, *at(*((size,) for size in sizes)))
            for (name, export), (event, *sizes) in LANGUAGE.items()
        ),
        # What compilers of other languages made, of Kotlin as it is released.
        *(
            toolchain(each, *at((each.rounds,), (max(1, each.rounds // 20),), (1,)))
            for each in EXAMPLES
            if each.is_optimised or each.language != KOTLIN
        ),
    ]
    if scale != "tiny":
        return programs
    # One export of each file says enough of those about instructions, one program of each of the other languages.
    different = {
        (program.example.language if program.example else program.name.partition(".")[0], program.contenders): program
        for program in reversed(programs)
    }
    return list(reversed(different.values()))  # one size of each says all that a test wants to know


LANGUAGE: dict[tuple[str, str], tuple[str, int, int, int]] = {
    ("memory", "stores"): ("store", 20_000_000, 500_000, 500),
    ("memory", "loads"): ("load", 20_000_000, 500_000, 500),
    ("memory", "sieve"): ("number", 1_000_000, 100_000, 500),
    ("memory", "chase"): ("load", 10_000_000, 500_000, 500),
    ("indirect_calls", "run"): ("call", 20_000_000, 500_000, 500),
    ("exceptions", "caught_near"): ("exception", 1_000_000, 20_000, 50),
    ("exceptions", "caught_far"): ("exception", 300_000, 20_000, 50),
    ("exceptions", "entered"): ("call", 10_000_000, 200_000, 500),
    ("exceptions", "not_entered"): ("call", 10_000_000, 200_000, 500),
    ("tail_calls", "direct"): ("call", 20_000_000, 500_000, 500),
    ("tail_calls", "referred"): ("call", 20_000_000, 500_000, 500),
    ("dot_product", "integers"): ("vector", 20_000, 500, 5),
    ("dot_product", "floats"): ("vector", 20_000, 500, 5),
    ("strings", "builds"): ("character", 1_000_000, 20_000, 500),
    ("strings", "walks"): ("character", 20_000_000, 500_000, 500),
    ("strings", "compares"): ("character", 20_000_000, 500_000, 500),
}
"""Programs about instructions, by the file and the export: what is counted, and how many at each scale."""

MICRO_LOOPS = ("numbers", "read", "write", "allocate", "init")


def _run(
    name: str,
    folder: Path,
    arguments: tuple[int, ...],
    events: int,
    event: str,
    contenders: tuple[str, ...] = FAST,
    generations: int | None = None,
    *,
    live: int | None = None,
    most_rounds: int | None = None,
) -> Program:
    """A program whose export `run` is all that there is to it."""
    return Program(
        name,
        folder / f"{name}.wat",
        name,
        arguments,
        timed=(("run", arguments),),
        events=events,
        event=event,
        contenders=contenders,
        generations=generations,
        live=live,
        most_rounds=most_rounds,
    )


_LAYOUTS = GcTypeLayouts()


def _struct(*sizes: int) -> int:
    """The bytes of a block with a struct of fields of these sizes."""
    return block_length(_LAYOUTS.struct_layout([(size, False) for size in sizes]).size)


def _array(length: int) -> int:
    """The bytes of a block with an array of so many references."""
    return block_length(_LAYOUTS.array_layout((REFERENCE_SIZE, True)).size(length))


_NODE = _struct(REFERENCE_SIZE, REFERENCE_SIZE)


def trees(depth: int, iterations: int, *, contenders: tuple[str, ...] = FAST) -> Program:
    """Binary trees: built, counted, dropped."""
    nodes = iterations * (2 ** (depth + 1) - 1)
    return _run("binary_trees", _EXAMPLES, (depth, iterations), nodes, "node", contenders, iterations)


def long_lived_trees(depth: int, *, contenders: tuple[str, ...] = THAT_FREE, most_rounds: int | None = None) -> Program:
    """The benchmarks game's trees: a long-lived one beside many short-lived ones, made by stores."""
    short = sum((16 << (depth - each)) * (2 ** (each + 1) - 1) for each in range(4, depth + 1, 2))
    nodes = 2 ** (depth + 2) - 1 + 2 ** (depth + 1) - 1 + short
    live = _NODE * (
        2 ** (depth + 2) - 1
    )  # of the first tree; beside the one that is kept, the others have one node less
    return _run("long_lived_trees", _PROGRAMS, (depth,), nodes, "node", contenders, live=live, most_rounds=most_rounds)


def quads(depth: int, garbage: int, *, contenders: tuple[str, ...] = COLLECTORS) -> Program:
    """Trees of four: a large one that stays, and rounds of small ones that die at once."""
    kept, small = ((4**each - 1) // 3 for each in (depth, 4))
    live = (kept + small) * _struct(*(4 * [REFERENCE_SIZE]))
    return _run("quads", _PROGRAMS, (depth, garbage), kept + 20 * garbage * small, "node", contenders, live=live)


def churn(depth: int, replacements: int) -> Program:
    """Trees in a table, replaced at random, and in the end all dropped at once."""
    nodes = 2 ** (depth + 1) - 1
    trees = 1024 + replacements + 200
    live = _array(1024) + (1024 + 1) * nodes * _NODE
    return _run("churn", _PROGRAMS, (depth, replacements), trees * nodes, "node", COLLECTORS, live=live)


def rings(length: int, iterations: int) -> Program:
    """Doubly linked rings: cyclic garbage."""
    return _run("rings", _PROGRAMS, (length, iterations), length * iterations, "cell", COLLECTORS, iterations)


def trees_with_parents(depth: int, iterations: int) -> Program:
    """Trees whose nodes know their parents: cyclic garbage, of many small cycles."""
    nodes = iterations * (2 ** (depth + 1) - 1)
    return _run("trees_with_parents", _PROGRAMS, (depth, iterations), nodes, "node", COLLECTORS, iterations)


def lists(length: int, iterations: int, *, contenders: tuple[str, ...] = FAST) -> Program:
    """Lists: built, summed, dropped."""
    return _run("lists", _PROGRAMS, (length, iterations), length * iterations, "cell", contenders, iterations)


def linked_list(length: int, iterations: int, *, contenders: tuple[str, ...] = FAST) -> Program:
    """Lists: built, summed twice more, and reversed."""
    return _run("linked_list", _EXAMPLES, (length, iterations), length * iterations, "cell", contenders, iterations)


def shuffle(size: int, swaps: int) -> Program:
    """References moved about in arrays. All objects live to the end."""
    return _run("shuffle", _EXAMPLES, (size, swaps), swaps, "swap", FAST, 1)


def swaps(size: int, swaps: int) -> Program:
    """References exchanged in one large array. All objects live to the end, and die in no order."""
    return _run("swaps", _PROGRAMS, (size, swaps), swaps, "swap", FAST, 1)


def hash_table(keys: int, *, contenders: tuple[str, ...] = FAST) -> Program:
    """Entries linked into buckets, found, and taken out."""
    buckets = max(4, 1 << (keys - 1).bit_length())  # they are doubled when there are as many entries
    live = _struct(REFERENCE_SIZE, 4) + _array(buckets) + keys * _struct(8, 8, REFERENCE_SIZE)
    return _run("hash_table", _EXAMPLES, (keys,), 13 * keys // 3, "operation", contenders, live=live)


def replaced_values(keys: int, operations: int) -> Program:
    """A hash table that stays as large as it is, whose values are replaced; every other one, roughly, is an object."""
    live = _array(4096) + keys * _struct(4, REFERENCE_SIZE, REFERENCE_SIZE) + keys // 2 * _struct(4)
    return _run("replaced_values", _PROGRAMS, (keys, operations), operations, "operation", COLLECTORS, live=live)


def reference_arrays(width: int, depth: int, iterations: int) -> Program:
    """Trees of arrays with a great fan-out."""
    arguments, leaves = (width, depth, iterations), iterations * width**depth
    return _run("reference_arrays", _PROGRAMS, arguments, leaves, "leaf", COLLECTORS, iterations)


def tree_of_arrays(depth: int, width: int) -> Program:
    """Many types, told apart by casts. All objects live to the end."""
    return _run("tree_of_arrays", _EXAMPLES, (depth, width), 1, "repetition", FAST, 1)


def host_call(calls: int) -> Program:
    """Calls of a host function: in Python, in JavaScript, in C."""
    return _run("host_call", _PROGRAMS, (calls,), calls, "call")


def scalar_call(calls: int) -> Program:
    """Calls of an export from Python, through lowheap, through wasmtime's package, and with nothing in between."""
    return Program(
        "scalar_call",
        _PROGRAMS / "scalar_call.wat",
        "",
        (calls,),
        timed=(("add", (20, 22)),),
        events=calls,
        event="call",
        contenders=(NATIVE, *WASMTIMES, POINTER),
        times=calls,
    )


def deep_drop(what: str, length: int) -> Program:
    """The last owner of many objects goes. A tracing collector does not notice, so none takes part."""
    return Program(
        f"deep_drop_{what}",
        _PROGRAMS / "deep_drop.wat",
        f"deep_drop_{what}",
        (length,),
        before=((f"prepare_{what}", (length,)), COLLECT),
        timed=(("run", ()),),
        events=length,
        event="object",
        contenders=REFERENCE_COUNTERS,
        generations=1,
    )


def sweep(length: int) -> Program:
    """A collection that finds a long list, and nothing dead."""
    return Program(
        "sweep",
        _PROGRAMS / "sweep.wat",
        "sweep",
        (length,),
        once=(("prepare", (length,)),),
        before=(COLLECT, ("touch", ())),
        timed=(COLLECT,),
        events=length,
        event="entry",
        contenders=REFERENCE_COUNTERS,
    )


def first_read(length: int) -> Program:
    """The slow path of the read barrier: no object is listed yet."""
    return Program(
        "first_read",
        _PROGRAMS / "sweep.wat",
        "first_read",
        (length,),
        once=(("prepare", (length,)),),
        before=(COLLECT,),
        timed=(("touch", ()),),
        events=length,
        event="read",
        contenders=REFERENCE_COUNTERS,
        is_micro=True,
    )


def micro(export: str, rounds: int) -> Program:
    """One of the loops of events.wat."""
    return Program(
        export,
        _PROGRAMS / "events.wat",
        export,
        (rounds,),
        once=(("setup", ()),),
        timed=((export, (rounds,)),),
        events=rounds,
        event="round",
        contenders=WITH_REFERENCE_EVENTS,
        is_micro=True,
    )


def language(name: str, export: str, event: str, rounds: int) -> Program:
    """One of `LANGUAGE`."""
    return Program(
        f"{name}.{export}",
        _PROGRAMS / f"{name}.wat",
        "",
        (rounds,),
        once=(("prepare", ()),) if name == "dot_product" else (),
        timed=((export, (rounds,)),),
        events=rounds,
        event=event,
        contenders=WITH_JS_STRINGS if name == "strings" else COMPILERS,
    )


def toolchain(example: Example, rounds: int) -> Program:
    """One of the programs in another language."""
    return Program(
        example.title,
        example.source,
        "",
        (rounds,),
        once=(("_start", ()),),
        timed=(("bench", (rounds,)),),
        events=rounds,
        event="round",
        contenders=tuple(each for each in TOOLCHAINS if each != NULL or example.title not in _FILLS_THE_HEAP),
        example=example,
    )
