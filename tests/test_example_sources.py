"""The example programs themselves: well written, and returning in wasmtime what their Python models say."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from support.example_programs import (
    EXAMPLES,
    EXAMPLES_DIRECTORY,
    SWAP_IN_WASM,
    Example,
    ExportLookup,
    HostFunction,
    Imports,
    Token,
    binary_trees,
    callbacks_host,
    hash_table,
    linked_list,
    shuffle,
)
from support.wasmtime_peer import Peer, PeerTrap, compile_module, run, validates

FILES = sorted(EXAMPLES_DIRECTORY.glob("*.wat"))
PROGRAMS = {name: tuple(rows) for name, rows in itertools.groupby(EXAMPLES, key=lambda example: example.name)}


def _words(text: str) -> set[str]:
    return set(text.split())


# Words that may follow an opening parenthesis: the module's own structure, and the instructions that lowheap compiles.
STRUCTURE = _words(
    """
    module import export func param result local global type rec sub final struct field array mut ref elem then else
    """
)
NUMERIC = re.compile(r"[if](32|64)\.[a-z0-9_]+")
MEMORY_INSTRUCTION = re.compile(r"[if](32|64)\.(load|store)")
INSTRUCTIONS = _words(
    """
    block loop if br br_if br_table br_on_null br_on_non_null br_on_cast br_on_cast_fail return call call_ref
    unreachable drop select local.get local.set local.tee global.get global.set
    ref.null ref.is_null ref.func ref.eq ref.as_non_null ref.test ref.cast ref.i31 i31.get_s i31.get_u
    struct.new struct.new_default struct.get struct.get_s struct.get_u struct.set
    array.new array.new_default array.new_fixed array.get array.get_s array.get_u array.set array.len array.fill
    array.copy any.convert_extern extern.convert_any
    """
)


def peer(example: Example, source: str | None = None) -> Peer:
    """An instance of an example's program, or of a changed text of it, with its host."""
    text = example.source if source is None else source
    if example.name == "callbacks_refs":
        return Peer(text, companions={"host": SWAP_IN_WASM})
    return Peer(text, example.imports)


def without_comments(source: str) -> str:
    return re.sub(r";;.*", "", source)


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_wasmtime_agrees_with_the_model(example: Example) -> None:
    assert peer(example).call(example.export, *example.args) == example.expected


def test_every_program_is_in_the_table_with_small_and_large_sizes() -> None:
    assert [f"{name}.wat" for name in sorted(PROGRAMS)] == [path.name for path in FILES]
    for rows in PROGRAMS.values():
        assert {row.large for row in rows} == {False, True}


def test_models_against_figures_worked_out_by_hand() -> None:
    assert binary_trees(10, 100) == (204_700,)
    assert binary_trees(31, 1) == (-1,)
    # Values 1 and 2: sum 3, weight 1 + 4, reversed weight 2 + 2.
    assert linked_list(2, 1) == ((3 * 31 + 5) * 31 + 4,)
    # Count 1, count 1, deleted 1, count 0, and two keys that are absent.
    assert hash_table(1) == (31**5 + 31**4 + 31**3 - 31 - 1,)
    # Boxes 0, 1, 2 unmoved: cut to 1 2 0, rolled to 0 1 2; a quarter of three is none.
    assert shuffle(3, 0) == (31**4 + 2 * 31**3 + 31 + 2,)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_calls_repeat_on_one_instance_and_after_reset(name: str) -> None:
    rows = [row for row in PROGRAMS[name] if not row.large]
    if name == "callbacks":  # its host remembers what it was told
        rows = rows[-1:]
    instance = peer(rows[0])
    for row in rows:
        assert instance.call(row.export, *row.args) == row.expected
    instance.collect()
    if rows[0].reset is not None:
        assert instance.call(rows[0].reset) == ()
        instance.collect()
    if name != "callbacks":
        for row in reversed(rows):
            assert instance.call(row.export, *row.args) == row.expected


SIZES: dict[str, tuple[st.SearchStrategy[int], ...]] = {
    "binary_trees": (st.integers(-2, 8), st.integers(-2, 8)),
    "linked_list": (st.integers(-2, 60), st.integers(-2, 8)),
    "shuffle": (st.integers(-2, 60), st.integers(0, 80)),
    "hash_table": (st.integers(0, 200),),
    "i31": (st.integers(0, 200),),
    "tree_of_arrays": (st.integers(-2, 4), st.integers(0, 5)),
    "callbacks": (st.integers(-2, 40),),
    "callbacks_refs": (st.integers(-2, 80),),
    "globals_and_calls": (st.integers(-2, 300),),
}


@pytest.mark.parametrize("name", sorted(PROGRAMS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_wasmtime_agrees_with_the_model_at_any_size(name: str, data: st.DataObject) -> None:
    example = PROGRAMS[name][0]
    args = data.draw(st.tuples(*SIZES[name]))
    assert peer(example).call(example.export, *args) == example.model(*args)


# --- the small sizes reach everything --------------------------------------------------------------------------------


def spoiled_sources(source: str) -> Iterator[tuple[str, str]]:
    """The source with a trap put into one arm, or before one branch or return; with a note of where."""
    text = without_comments(source)
    for found in re.finditer(r"\((then|else|return|br|br_table)\b", text):
        arm = found.group(1) in ("then", "else")
        if arm and text[found.end() :].lstrip().startswith("(unreachable)"):
            continue  # an arm that a sound engine never reaches
        at = found.end() if arm else found.start()
        yield f"{found.group()} in line {text.count(chr(10), 0, at) + 1}", f"{text[:at]} (unreachable) {text[at:]}"


def reaches_unreachable(example: Example, source: str) -> bool:
    try:
        peer(example, source).call(example.export, *example.args)
    except PeerTrap as trap:
        return trap.message == "wasm `unreachable` instruction executed"
    return False


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_the_small_sizes_reach_every_arm_branch_and_return(name: str) -> None:
    rows = [row for row in PROGRAMS[name] if not row.large]
    untouched = []
    for place, spoiled in spoiled_sources(rows[0].source):
        if not any(reaches_unreachable(row, spoiled) for row in reversed(rows)):
            untouched.append(place)
    assert untouched == []


# --- the texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_sources_keep_to_the_supported_instructions(path: Path) -> None:
    text = without_comments(path.read_text(encoding="utf-8"))
    words = set(re.findall(r"\(([a-z][a-z0-9_.]*)", text))
    numeric = {word for word in words if NUMERIC.fullmatch(word) and not MEMORY_INSTRUCTION.match(word)}
    assert words - STRUCTURE - INSTRUCTIONS - numeric == set()
    # Element segments declare functions for ref.func and do nothing else.
    assert text.count("(elem ") == text.count("(elem declare func ")


def test_the_programs_together_use_every_reference_instruction() -> None:
    used = {word for row in EXAMPLES for word in re.findall(r"\(([a-z][a-z0-9_.]*)", without_comments(row.source))}
    assert {name for name in INSTRUCTIONS if not name.startswith("local.")} - used == set()


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_headers_say_how_to_run_the_program(name: str) -> None:
    example = PROGRAMS[name][0]
    header = example.source[: example.source.index("(module")]
    found = re.search(rf"lowheap run examples/{name}\.wat --invoke run((?: -?\d+)*)", header)
    assert found is not None
    assert len(found.group(1).split()) == len(example.args)
    assert "Exercises:" in header
    assert max(map(len, example.source.splitlines())) <= 120


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_programs_with_references_in_variables_export_reset(name: str) -> None:
    example = PROGRAMS[name][0]
    text = without_comments(example.source)
    held = re.findall(r"\(global (\$\w+) \(mut (?:\(ref|[a-z0-9]*ref\b)", text)
    assert bool(held) == (example.reset is not None)
    if held:
        reset = text[text.index('(func $reset (export "reset")') :].split("\n\n")[0]
        assert set(re.findall(r"\(global\.set (\$\w+) \(ref\.null", reset)) == set(held)


def test_binary_trees_exports_functions_over_nodes() -> None:
    trees = peer(PROGRAMS["binary_trees"][0])
    assert trees.exports == ("make", "check", "run")
    for name in ("make", "check"):  # they take or give nodes
        with pytest.raises(TypeError, match=name):
            trees.call(name, 3)


def test_latest_gives_back_the_host_object_itself() -> None:
    made: list[object] = []

    def host(export: ExportLookup) -> Imports:
        imports = callbacks_host(export)
        fetch = imports["host.fetch"]

        def remember(number: int) -> object:
            made.append(fetch.call(number))
            return made[-1]

        return {**imports, "host.fetch": HostFunction(fetch.params, fetch.results, remember)}

    instance = Peer(PROGRAMS["callbacks"][0].source, host)
    instance.call("run", 4)
    (latest,) = instance.call("latest")
    assert isinstance(latest, Token)
    assert latest is made[-1]
    instance.call("reset")
    assert instance.call("latest") == (None,)


# --- the peer --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(drop (ref.cast (ref $s) (ref.i31 (i32.const 1))))", "cast failure"),
        ("(drop (struct.get $s 0 (ref.null $s)))", "null reference"),
        ("(drop (array.get $a (array.new_default $a (i32.const 2)) (i32.const 2)))", "out of bounds array access"),
        ("(drop (array.new_default $a (i32.const -1)))", "allocation size too large"),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", "integer divide by zero"),
        ("(call $f)", "call stack exhausted"),
        ("(unreachable)", "wasm `unreachable` instruction executed"),
    ],
)
def test_peer_traps_carry_the_sentence(body: str, message: str) -> None:
    text = f'(module (type $s (struct (field i32))) (type $a (array (mut i64))) (func $f (export "f") {body} (return)))'
    with pytest.raises(PeerTrap) as caught:
        run(text, "f")
    assert caught.value.message == message
    assert "wasm trap: " + message in caught.value.text


def test_peer_passes_scalars_references_and_tuples() -> None:
    text = """(module
      (global (export "g") (mut i64) (i64.const -3))
      (func (export "none"))
      (func (export "all") (param i32 i64 f32 f64 externref) (result externref f64 f32 i64 i32)
        (local.get 4) (local.get 3) (local.get 2) (local.get 1) (local.get 0)))"""
    instance = Peer(text)
    thing = object()
    assert instance.call("none") == ()
    assert instance.call("all", -1, 2**40, 0.5, -2.25, thing) == (thing, -2.25, 0.5, 2**40, -1)
    assert instance.call("all", 0, 0, 0.0, 0.0, None)[0] is None
    assert instance.global_value("g") == -3
    assert instance.function("all")(1, 2, 3.0, 4.0, thing) == (thing, 4.0, 3.0, 2, 1)
    with pytest.raises(KeyError, match="no export 'h'"):
        instance.call("h")


def test_peer_raises_a_host_exception_as_it_is() -> None:
    text = '(module (import "host" "f" (func $f)) (func (export "run") (call $f)))'
    problem = ValueError("from the host")

    def fail() -> None:
        raise problem

    with pytest.raises(ValueError, match="from the host") as caught:
        run(text, "run", imports={"host.f": ((), (), fail)})
    assert caught.value is problem
    with pytest.raises(KeyError, match=r"host\.f"):
        Peer(text)


def test_peer_refuses_what_the_package_cannot_pass() -> None:
    text = """(module (type $s (struct)) (import "host" "f" (func (param (ref null $s))))
      (global (export "g") (ref $s) (struct.new $s)))"""
    with pytest.raises(TypeError, match=r"host\.f.*\(ref null \$s\)"):
        Peer(text, {"host.f": (("(ref null $s)",), (), lambda _: None)})
    with pytest.raises(TypeError, match="'g'"):
        Peer('(module (global (export "g") i31ref (ref.i31 (i32.const 1))))').global_value("g")


def test_peer_validates() -> None:
    assert all(validates(path) for path in FILES)
    assert not validates("(module (func (result i32)))")
    assert not validates(b"\0asm\1\0\0\0\xff")
    with pytest.raises(wasmtime.WasmtimeError):
        compile_module("(module (func (result i32)))")
