"""Programs in Kotlin and MoonBit print and compute the same as on V8, in every way that lowheap runs them.

What they print is in the repository, as V8 gave it; what `bench` computes is compared with V8 itself. A test whose
compiler is not to be had is skipped, unless this is CI.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.combinations import by_turns
from support.toolchain_runs import SIZES, binary, instantiate, on_v8

import lowheap as lh
from fuzz.sides import WAYS
from toolchains import build, node, packages
from toolchains.errors import ToolchainError
from toolchains.examples import EXAMPLES, MOONBIT, Example

KINDS = list(dict.fromkeys((way.collector, way.barriers) for way in WAYS))
DEFAULT, *OTHERS = [(kind, runtime) for kind in KINDS for runtime in ("native", "python")]
EVERY = {"native": 19, "python": 100}
"""At every so manieth safepoint there is a collection, where collections are frequent: the heap in Python is slow."""

Kind = tuple[str | None, str | None]


def name(value: object) -> str:
    if isinstance(value, Example):
        return value.title
    (collector, barriers), runtime = value  # type: ignore[misc]
    return f"{Path(barriers or collector).name.rpartition(':')[2]}-{runtime}"


SMALL = [each for each in EXAMPLES if each.is_optimised or each.language == MOONBIT]
"""Those that are soon compiled; the others do the same."""

EVERYWHERE = [
    pytest.param(*each.values, id=f"{name(each.values[0])}-{name(each.values[1])}", marks=each.marks)
    for each in by_turns(SMALL, OTHERS)
]


def check(example: Example, kind: Kind, runtime: str) -> None:
    """Run a program, once as it comes, once with frequent collections; on the heap in Python only so."""
    expected = example.expectation.read_text("utf-8")
    collector, barriers = kind
    engine = lh.Engine(collector=collector, barriers=barriers, runtime=runtime)
    module = lh.Module(engine, binary(example).read_bytes())
    for collect_every in (0, EVERY[runtime]) if runtime == "native" else (EVERY[runtime],):
        with lh.Store(engine, collect_every=collect_every) as store:
            instance, printed = instantiate(store, module)
            instance.exports["_start"]()
            assert printed.decode() == expected
            results = [instance.exports["bench"](size) for size in (SIZES if runtime == "native" else SIZES[:1])]
            assert results == on_v8(example).results[: len(results)]
            store.verify()
            store.collect()
            store.verify()


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_programs_do_as_on_v8(example: Example) -> None:
    check(example, *DEFAULT)


@pytest.mark.parametrize(("example", "way"), EVERYWHERE)
def test_programs_do_as_on_v8_in_every_way(example: Example, way: tuple[Kind, str]) -> None:
    check(example, *way)


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_v8_prints_what_is_expected(example: Example) -> None:
    assert on_v8(example).printed == example.expectation.read_text("utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_a_program_is_compiled_once(example: Example) -> None:
    path = binary(example)
    made = path.stat().st_mtime_ns
    assert build.ensure([example]) == {example.title: path}
    assert path.stat().st_mtime_ns == made


def test_another_source_or_compiler_makes_another_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, optimised = (each for each in EXAMPLES if each.title.startswith("kotlin-hello"))
    source = tmp_path / plain.source.name
    source.write_bytes(plain.source.read_bytes())
    monkeypatch.setattr(Example, "source", source)
    names = [build.binary(plain), build.binary(optimised)]
    source.write_text("// another\n", "utf-8")
    names += [build.binary(plain)]
    monkeypatch.setitem(packages.PACKAGES, "kotlin-compiler", "9.9.9")
    names += [build.binary(plain)]
    assert len({*names}) == len(names)


def test_what_a_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(each for each in EXAMPLES if each.title == "moonbit-hello")
    ready = binary(example).parent
    wrong = tmp_path / "hello.mbt"
    wrong.write_text('fn main {\n  println("a" + 1)\n}\n', "utf-8")
    monkeypatch.setattr(Example, "source", wrong)
    monkeypatch.setenv("LOWHEAP_PROGRAMS", str(tmp_path))
    (installed,) = (each for each in ready.iterdir() if each.name.startswith("packages-"))
    (tmp_path / installed.name).symlink_to(installed)
    with pytest.raises(ToolchainError, match=r"hello\.mbt:2:") as caught:
        build.ensure([example])
    assert not caught.value.is_absence
    assert [each.suffix for each in tmp_path.iterdir() if each.suffix == ".wasm"] == []


@pytest.mark.parametrize(
    ("said", "message"), [('openjdk version "11.0.2"', r"version .11\.0\.2., and .* takes 17"), ("", "exit status 0")]
)
def test_a_java_that_is_too_old_is_an_absence(
    said: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\necho '{said}' >&2\n" if said else "#!/bin/sh\n", "utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=message) as caught:
        packages.java()
    assert caught.value.is_absence


def test_without_tools_their_absence_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LOWHEAP_PROGRAMS", str(tmp_path))
    monkeypatch.setenv("LOWHEAP_NODE", str(tmp_path / "node"))
    for find in (packages.java, node.npm, node.find, lambda: build.ensure(EXAMPLES[:1])):
        with pytest.raises(ToolchainError, match="there is no") as caught:
            find()
        assert caught.value.is_absence
