"""The embedding examples run, and do what an independent model of them says; C code misuses the checked library.

The Lisp is compared with one on Python's objects (`lisp_model.py`), on its example programs and on programs drawn at
random, in the form that people would build, under the address and undefined-behaviour sanitizers, and under valgrind,
with a collection at every allocation and every invariant verified after each form. A reference that the C code does not
root shows then: the object is gone, and the checked library says so.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.embed_library import WARNINGS, built_library
from support.lisp_model import run as run_model

from lowheap.embed.api import Status

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "embed"
PROGRAMS = sorted(EXAMPLES.glob("*.lisp"))
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CAREFUL = ("--collect-every", "1", "--verify")


def need(*tools: str) -> None:
    """Skip a test for want of a tool, by its name."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}


def compile_c(source: Path, program: Path, *options: str, checked: bool = True) -> Path:
    """Compile a C program with the static library."""
    need("cc")
    prefix = built_library()
    archive = prefix / "lib" / f"liblowheap{'-checked' if checked else ''}.a"
    command: list[str | Path] = [
        "cc",
        "-std=c11",
        *WARNINGS,
        "-g",
        *options,
        f"-I{prefix / 'include'}",
        "-o",
        program,
        source,
        archive,
    ]
    ran = subprocess.run([*command, "-lpthread"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return program


def need_sanitizers(directory: Path) -> None:
    """Skip a test where programs cannot be linked with the sanitizers."""
    need("cc")
    source = directory / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    command = ["cc", *SANITIZERS, str(source), "-o", str(directory / "empty")]
    if subprocess.run(command, capture_output=True, timeout=120).returncode:
        pytest.skip("cc has no libasan and libubsan, which -fsanitize=address,undefined needs")


@pytest.fixture(scope="module")
def lisp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(EXAMPLES / "lisp.c", tmp_path_factory.mktemp("lisp") / "lisp", "-O2")


@pytest.fixture(scope="module")
def sanitized_lisp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sanitized")
    need_sanitizers(directory)
    return compile_c(EXAMPLES / "lisp.c", directory / "lisp", "-O1", *SANITIZERS)


def run_lisp(
    command: Sequence[str | Path], program: str, *, cwd: Path | None = None
) -> tuple[int, list[str], list[str]]:
    """The exit status of a run, and both outputs by lines."""
    ran = subprocess.run(command, input=program, capture_output=True, encoding="utf-8", cwd=cwd, timeout=100)
    return ran.returncode, ran.stdout.splitlines(), ran.stderr.splitlines()


@functools.cache
def expected_of(program: Path) -> tuple[list[str], list[str]]:
    return run_model(program.read_text())


# ----------------------------------------------------------------------------------------------------------------------
# The Lisp


def test_make_builds_and_tests_the_lisp(tmp_path: Path) -> None:
    need("make", "cc", "pkg-config")
    directory = tmp_path / "embed"
    shutil.copytree(EXAMPLES, directory)
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

    def make(*arguments: str) -> list[str]:
        ran = subprocess.run(
            ["make", *arguments], cwd=directory, env=outer, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    assert make("--dry-run")[0] == "lowheap build-library --out library"
    printed = make("--silent", "test", f"PREFIX={built_library()}")
    assert printed == [line for program in PROGRAMS for line in expected_of(program)[0]]
    loaded = subprocess.run(["ldd", directory / "lisp"], capture_output=True, text=True, check=True).stdout
    assert f"liblowheap-checked.so.1 => {built_library()}" in loaded


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_example_programs_print_what_the_model_does(lisp: Path, program: Path) -> None:
    printed, errors = expected_of(program)
    assert printed
    assert not errors
    for options in ((), CAREFUL):
        assert run_lisp([lisp, *options], program.read_text()) == (0, printed, []), options


def test_the_fast_library_does_the_same(tmp_path: Path) -> None:
    fast = compile_c(EXAMPLES / "lisp.c", tmp_path / "lisp", "-O2", checked=False)
    for program in PROGRAMS:
        assert run_lisp([fast, "--verify"], program.read_text()) == (0, expected_of(program)[0], [])
    status, printed, errors = run_lisp([fast, "--collect-every", "1"], "1")
    assert (status, printed) == (2, [])
    assert errors == ["lh_heap_create: collect_every is for the checked library (LH_UNSUPPORTED)"]


INTEGERS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(1 << 33), 1 << 33),
    st.sampled_from([(1 << 30) - 1, 1 << 30, -(1 << 30), -(1 << 30) - 1, (1 << 63) - 1, -(1 << 63)]),
)
STRINGS = st.text(alphabet='ab "\\\né', max_size=5)
MISTAKES = ["(car 5)", "(cdr '())", "(+ 1 'a)", "unknown", "(quotient 1 0)", "(string-length 3)", "((lambda (x) x))"]


def quote_string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@st.composite
def expressions(draw: st.DrawFn, kind: str, depth: int, names: tuple[str, ...] = ()) -> str:
    """An expression of a kind, "int", "bool", "list", "string"; rarely one that is wrong. `names` are integers."""
    if draw(st.integers(0, 60)) == 0:
        return draw(st.sampled_from(MISTAKES))

    def part(kind: str, more: tuple[str, ...] = ()) -> str:
        return draw(expressions(kind, depth - 1, names + more))

    space = draw(st.sampled_from([" ", "\n", " ; a comment\n  "]))
    choice = draw(st.integers(0, 9))
    if depth == 0 or choice == 0:
        match kind:
            case "int":
                return draw(st.sampled_from(names)) if names and choice else str(draw(INTEGERS))
            case "bool":
                return draw(st.sampled_from(["#t", "#f"]))
            case "string":
                return quote_string(draw(STRINGS))
            case _:
                return draw(st.sampled_from(["'()", "'(1 2 3)", "(list)", '\'(a (b . c) "d")'.replace(" . ", " ")]))
    if choice == 1:
        return f"(if {part('bool')}{space}{part(kind)} {part(kind)})"
    if choice == 2:
        name = draw(st.sampled_from("xyz"))
        return f"(let (({name} {part('int')})){space}{part(kind, (name,))})"
    if choice == 3:
        name = draw(st.sampled_from("xyz"))
        body = f"(set! {name} (+ {name} 1)) {part(kind, (name,))}"
        return f"((lambda ({name} other){space}{body}) {part('int')} {part('list')})"
    match kind:
        case "int":
            if choice == 4:
                return f"(car (cons {part('int')}{space}{part('list')}))"
            if choice == 5:
                return f"(string-length{space}{part('string')})"
            operation = draw(st.sampled_from(["+", "-", "*", "quotient", "remainder"]))
            return f"({operation} {part('int')}{space}{part('int')})"
        case "bool":
            if choice == 4:
                return f"(null? {part('list')})"
            if choice == 5:
                return f"(eq? {part(draw(st.sampled_from(['int', 'bool', 'list'])))} {part('int')})"
            return f"({draw(st.sampled_from(['=', '<', '>', '<=', '>=']))} {part('int')}{space}{part('int')})"
        case "string":
            return f"(string-append {part('string')}{space}{part('string')})"
        case _:
            if choice == 4:
                return f"(begin (gc){space}(map (lambda (x) (cons x {part('int', ('x',))})) {part('list')}))"
            if choice == 5:
                return f"(cdr (cons {part('int')} {part('list')}))"
            if choice == 6:
                return f"(list {part('int')} {part('string')}{space}{part('bool')} {part('list')})"
            return f"(cons {part('int')}{space}{part('list')})"


PRELUDE = "(define (map f l) (if (null? l) '() (cons (f (car l)) (map f (cdr l)))))\n"
FORMS = st.sampled_from(["int", "bool", "list", "string"]).flatmap(lambda kind: expressions(kind, 4))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(forms=st.lists(FORMS, min_size=5, max_size=40), data=st.data())
def test_random_programs_do_what_the_model_does(sanitized_lisp: Path, forms: list[str], data: st.DataObject) -> None:
    defined = [f"(define g{number} {form})\ng{number}" for number, form in enumerate(forms[::4])]
    program = PRELUDE + "\n".join(forms + defined)
    printed, errors = run_model(program)
    every = data.draw(st.sampled_from(["1", "2", "7"]))
    done = run_lisp([sanitized_lisp, "--verify", "--collect-every", every], program)
    assert done == (1 if errors else 0, printed, errors)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_sanitizers_find_nothing_in_the_examples(sanitized_lisp: Path, program: Path) -> None:
    assert run_lisp([sanitized_lisp, *CAREFUL], program.read_text()) == (0, expected_of(program)[0], [])


# Small enough for valgrind, and with something of everything.
SMALL = """
(define (range from to) (if (= from to) '() (cons from (range (+ from 1) to))))
(define (sum list) (if (null? list) 0 (+ (car list) (sum (cdr list)))))
(sum (range 0 40))
(define counter (let ((n 4000000000)) (lambda () (set! n (+ n 1)) n)))
(list (counter) (counter) (string-append "ab" "cd") 'x (eq? 'x 'y))
(car (gc))
(let ((a (list 1 2)) (b "s")) (define c (cons a b)) (cdr c))
undefined
"""


@pytest.mark.parametrize("reserve", [[], ["--reserve", "0x1000000"]], ids=["4 GiB", "16 MiB"])
def test_valgrind_finds_nothing(lisp: Path, reserve: list[str]) -> None:
    need("valgrind")
    valgrind = ["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", "--show-leak-kinds=all"]
    valgrind += ["--errors-for-leak-kinds=all", "--track-fds=no"]
    printed, errors = run_model(SMALL)
    assert len(errors) == 2
    assert run_lisp([*valgrind, lisp, *CAREFUL, *reserve], SMALL) == (1, printed, errors)


def test_a_dump_is_what_inspect_says(lisp: Path, tmp_path: Path) -> None:
    program = """
    (define long '())
    (define (fill n) (if (= n 0) 'done (begin (set! long (cons (list n "text") long)) (fill (- n 1)))))
    (fill 1000) (gc) (begin (dump "heap.dump") (heap-stats))
    """
    status, printed, errors = run_lisp([lisp], program, cwd=tmp_path)
    assert (status, errors) == (0, [])
    figures = re.fullmatch(
        r"live (\d+) objects, (\d+) bytes; allocated (\d+) objects; capacity (\d+) bytes", printed[-1]
    )
    assert figures is not None, printed
    command = [sys.executable, "-m", "lowheap", "inspect", "--json", str(tmp_path / "heap.dump")]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert not report["problems"]
    found = (report["objects"], report["block_bytes"], report["capacity"])
    assert found == (int(figures[1]), int(figures[2]), int(figures[4]))
    functions = len(re.findall(r'^    \{"', (EXAMPLES / "lisp.c").read_text(), re.MULTILINE))
    assert [of_type["objects"] for of_type in report["types"] if of_type["kind"] == "externref"] == [functions]
    assert report["objects"] > 3000  # three pairs for each of the thousand


def test_what_the_lisp_complains_of(lisp: Path) -> None:
    program = """(define (deep n) (+ 1 (deep n)))

    (deep 1)
    (if #t)
    (1 2)
    (print
      (car
        7))
    (define (spin l) (spin (cons 1 l)))
    (spin '())
    (+ 9223372036854775807 1)
    (dump "/nowhere/at/all")
    'fine
    99999999999999999999
    'never"""
    status, printed, errors = run_lisp([lisp, "--reserve", "0x100000", "--depth", "300", "--verify"], program)
    assert (status, printed) == (1, ["fine"])
    assert re.fullmatch(r"line 9: lh_alloc_struct: no room for .* \(LH_OUT_OF_MEMORY\)", errors.pop(4))
    assert errors == [
        "line 1: recursion is more than 300 deep",
        "line 4: if: something is missing",
        "line 5: what is called is not a function",
        "line 7: car: a pair is wanted",
        "line 11: +: the result does not fit in 64 bits",
        "line 12: dump: /nowhere/at/all: No such file or directory",
        "line 14: 99999999999999999999 does not fit in 64 bits",
    ]
    for unfinished, message in {
        "(a": "line 1: the program ends within a list",
        "\n)": "line 2: a closing parenthesis without an opening one",
        '"a': "line 1: a string has no end",
        "(" * 600: "line 1: lists are nested more than 500 deep",
        "12x": "line 1: `12x` is not a number",
    }.items():
        assert run_lisp([lisp], unfinished) == (1, [], [message])
    for wrong in ("--depth", "--depth x", "--collect-every -1", "--what", "--collect-every 4294967296"):
        status, printed, errors = run_lisp([lisp, *wrong.split()], "1")
        assert (status, printed, errors[0].partition(" ")[0]) == (2, [], "usage:"), wrong


# ----------------------------------------------------------------------------------------------------------------------
# The same, but wrong: what the checks above are worth


def unrooted(name: str, source: str) -> str:
    """`lisp.c` without the frame of one function: its slots are plain memory."""
    start = source.index(f"static bool {name}(")
    end = source.index("\n}\n", start)
    body = source[start:end]
    changed, count = re.subn(r"LH_FRAME\((?:lisp->)?heap, (\w+), (\w+)\)", r"lh_ref \1[\2] = {0}", body, count=1)
    assert count == 1
    return source[:start] + changed + source[end:]


FRAMED = [
    name
    for name in re.findall(
        r"^static bool (\w+)\([^;{]*\{(?:(?!^\}).)*?LH_FRAME",
        (EXAMPLES / "lisp.c").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    if name != "run_form"  # what it calls makes a frame before it allocates, so it would get away with it
]


@pytest.mark.parametrize("name", FRAMED)
def test_a_function_without_its_frame_is_found_out(name: str, tmp_path: Path) -> None:
    source = tmp_path / "lisp.c"
    source.write_text(unrooted(name, (EXAMPLES / "lisp.c").read_text()))
    mutant = compile_c(source, tmp_path / "lisp", "-O0", "-Wno-error")
    printed, errors = run_model(SMALL)
    # One may get lost in a list of which another object has become a part: a second is enough.
    limited: list[str | Path] = ["sh", "-c", 'ulimit -t 1 && exec "$0" "$@"', mutant]
    assert run_lisp([*limited, *CAREFUL], SMALL) != (1, printed, errors)


# ----------------------------------------------------------------------------------------------------------------------
# Misuse, and threads


@pytest.mark.parametrize("options", [("-O2",), ("-O1", *SANITIZERS)], ids=["plain", "sanitized"])
def test_misuse_in_c_is_reported(options: tuple[str, ...], tmp_path: Path) -> None:
    if len(options) > 1:
        need_sanitizers(tmp_path)
    program = compile_c(ROOT / "tests/support/embed_misuse.c", tmp_path / "misuse", *options)
    ran = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    count, _, names = ran.stdout.partition(" cases: ")
    assert int(count) > 70
    # LH_UNSUPPORTED is of the fast library and of Python's heaps, LH_DETACHED of these, and both are proved with these.
    others = ("OK", "UNSUPPORTED", "DETACHED")
    assert set(names.split()) == {f"LH_{status.name}" for status in Status if status.name not in others}
    ran = subprocess.run([program, "threads"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "4 cases: LH_BUSY\n"


# ----------------------------------------------------------------------------------------------------------------------
# Through cffi


def run_example(name: str) -> list[str]:
    need("cc")
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), str(built_library())]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout.splitlines()


def test_abi_mode() -> None:
    printed = run_example("abi_mode.py")
    nodes = 2**7 - 1
    assert printed[:6] == [
        f"nodes: {nodes}",
        "label: the root",
        f"nodes live while a frame holds the left half: {nodes}",
        "finalized: its left child",
        f"nodes live afterwards: {(nodes - 1) // 2 + 1}",
        printed[5],
    ]
    assert re.fullmatch(r"error: lh_struct_get_ref: field 7 is out of bounds: the struct at 0x\w+ has 3", printed[5])
    assert printed[6:] == ["finalized: the root", "handles left: 0"]


def test_api_mode() -> None:
    printed = run_example("api_mode.py")
    assert printed[-3:] == [f"sum: {sum(n * n for n in range(100_000))}", "live: 100000", "live after the drop: 0"]


def test_python_host() -> None:
    assert run_example("python_host.py") == [
        "[2, 3, 4] [4, 3, 2]",
        "live: 4",
        "freed: first",
        "held: second",
        "one is left: 1",
        "freed: second",
        "none is left: 0 and 0 objects",
    ]
