"""The cache of compiled code: what is found again, what must not be, and what damage does to it: nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.wrong_barriers import without

import lowheap as lh
from lowheap.cli.output import compile_progress
from lowheap.collectors.drc import Drc
from lowheap.jit import cache, runtime
from lowheap.jit import engine as jit_engine
from lowheap.jit.cache import CodeCache, code_key
from lowheap.wasm import compile as wasm_compile
from lowheap.wasm import module as wasm_module

pytestmark = pytest.mark.compiler

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """
(module $cached
  (type $list (struct (field $head i32) (field $tail (mut (ref null $list)))))
  (type $numbers (array (mut i64)))
  (global $kept (mut (ref null $list)) (ref.null $list))
  (func $build (param $n i32) (result (ref null $list))
    (if (result (ref null $list)) (i32.eqz (local.get $n))
      (then (ref.null $list))
      (else (struct.new $list (local.get $n) (call $build (i32.sub (local.get $n) (i32.const 1)))))))
  (func (export "sum") (param $n i32) (result i64) (local $sum i64) (local $at (ref null $list))
    (local $array (ref $numbers))
    (local.set $at (call $build (local.get $n)))
    (global.set $kept (local.get $at))
    (block $done
      (loop $next
        (br_if $done (ref.is_null (local.get $at)))
        (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_s (struct.get $list $head (local.get $at)))))
        (local.set $at (struct.get $list $tail (local.get $at)))
        (br $next)))
    (local.set $array (array.new $numbers (local.get $sum) (i32.const 3)))
    (array.get $numbers (local.get $array) (i32.const 2)))
  (func (export "is_list") (param anyref) (result i32) (ref.test (ref $list) (local.get 0)))
  (func (export "new") (result anyref) (struct.new $list (i32.const 1) (ref.null $list))))
"""
OTHER_TYPES = """
(module
  (type (struct (field i64) (field i64)))
  (rec (type $a (sub (struct (field (ref null $b))))) (type $b (sub $a (struct (field (ref null $b)) (field f32)))))
  (type (array i8)))
"""


@pytest.fixture(autouse=True)
def trusted_sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take lowheap's sources for what this process runs, though someone may have saved one a second ago."""
    monkeypatch.setattr(cache, "_LOADED_AT", time.time() + 1e6)
    cache._package_digest.cache_clear()
    yield
    cache._package_digest.cache_clear()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been compiled since the test began, for want of an entry: a module's name each."""
    names: list[str] = []

    def compile(module: Any, symbols: tuple[str, ...], **options: Any) -> jit_engine.CompiledCode:
        names.append(module.name)
        return jit_engine.compile(module, symbols, **options)

    monkeypatch.setattr(wasm_module, "compile_ir", compile)
    monkeypatch.setattr(runtime, "compile_ir", compile)
    return names


def run(engine: lh.Engine, source: str = SOURCE) -> tuple[int, lh.Module]:
    module = lh.Module(engine, source)
    with lh.Store(engine) as store:
        exports = lh.Instance(store, module).exports
        result = exports["sum"](100)
        assert exports["is_list"](exports["new"]()) == 1
        assert exports["is_list"](lh.I31(3)) == 0
        store.collect()
        store.verify()
    return result, module


def entries(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{cache.SUFFIX}"))


def test_a_module_is_compiled_once_and_is_the_same_again(tmp_path: Path, compiled: list[str]) -> None:
    first, module = run(lh.Engine(cache=tmp_path))
    assert compiled[0] == "cached"
    del compiled[:]
    second, again = run(lh.Engine(cache=tmp_path))
    assert first == second == 5050
    assert compiled == []
    assert again.compiled == module.compiled  # object, symbols, statepoints, stack map, IR, time
    assert again.compiled.statepoints.statepoints
    assert again.compiled.stack_map


def test_without_a_cache_nothing_is_written(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for engine in (lh.Engine(), lh.Engine(cache=None), lh.Engine(cache=False)):
        assert engine.cache is None
        assert run(engine)[0] == 5050
    assert compiled.count("cached") == 3
    assert list(tmp_path.iterdir()) == []


def test_true_is_the_users_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = lh.Engine(cache=True)
    assert engine.cache == tmp_path / "lowheap"
    run(engine)
    assert entries(tmp_path / "lowheap")
    assert (tmp_path / "lowheap").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("value", ["", 3, b"x", object()])
def test_what_is_no_directory_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"cache is .*directory"):
        lh.Engine(cache=value)


@pytest.mark.parametrize(
    "options",
    [
        {"opt_level": 1},
        {"barriers": "outlined"},
        {"inline": "never"},
        {"interruptible": False},
        {"cranelift_nan_canonicalization": True},
        {"runtime": "native" if lh.Engine().runtime == "python" else "python"},
    ],
)
def test_every_option_has_an_entry_of_its_own(tmp_path: Path, compiled: list[str], options: dict[str, Any]) -> None:
    run(lh.Engine(cache=tmp_path))
    del compiled[:]
    assert run(lh.Engine(cache=tmp_path, **options))[0] == 5050
    assert "cached" in compiled
    del compiled[:]
    run(lh.Engine(cache=tmp_path, **options))
    assert compiled == []


def test_a_store_that_counts_safepoints_gets_code_that_calls_for_each_object(
    tmp_path: Path, compiled: list[str]
) -> None:
    engine = lh.Engine(runtime="native", cache=tmp_path)
    for _ in range(2):
        module = lh.Module(engine, SOURCE)
        with lh.Store(engine, collect_every=1) as store:
            assert lh.Instance(store, module).exports["sum"](50) == 1275
            assert store.heap.stats().collections >= 50
    assert compiled.count("cached") == 2  # inline and not, each once


def test_another_module_is_another_entry(tmp_path: Path, compiled: list[str]) -> None:
    run(lh.Engine(cache=tmp_path))
    del compiled[:]
    changed = SOURCE.replace("(i32.const 1)))))", "(i32.const 2)))))")
    assert changed != SOURCE
    assert run(lh.Engine(cache=tmp_path), changed)[0] == sum(range(0, 101, 2))
    assert compiled == ["cached"]


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("cpu", "another"),
        ("features", "-avx"),
        ("llvm", "23.0.0"),
        ("llvmlite", "1.0"),
        ("triple", "x"),
    ],
)
def test_another_machine_or_version_is_another_key(monkeypatch: pytest.MonkeyPatch, what: str, value: str) -> None:
    before, machine = code_key({"module": "m"}), cache._machine()
    assert before is not None
    assert before == code_key({"module": "m"})
    monkeypatch.setattr(cache, "_machine", lambda: {**machine, what: value})
    assert machine[what] != value
    assert code_key({"module": "m"}) not in (None, before)


def test_a_source_of_lowheaps_that_changes_changes_all_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "jit").mkdir(parents=True)
    source = package / "jit" / "emit.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(cache, "_PACKAGE", package)
    keys = []
    for text in ("x = 1\n", "x = 2\n"):
        source.write_text(text)
        cache._package_digest.cache_clear()
        keys.append(code_key({}))
    assert None not in keys
    assert keys[0] != keys[1]


def test_a_source_that_may_not_be_what_runs_prevents_caching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LOADED_AT", 0.0)  # every source is younger than that
    assert run(lh.Engine(cache=tmp_path))[0] == 5050
    assert entries(tmp_path) == []


# ----------------------------------------------------------------------------------------------------------------------
# Type indices


@pytest.mark.parametrize("kind", ["native", "python"])
def test_the_engines_type_indices_are_not_in_the_code(kind: str, tmp_path: Path, compiled: list[str]) -> None:
    """Two engines number the module's types differently; their code is the same, and runs right on both."""
    plain = lh.Engine(runtime=kind)
    shifted = lh.Engine(runtime=kind)
    lh.Module(shifted, OTHER_TYPES)
    one, other = lh.Module(plain, SOURCE), lh.Module(shifted, SOURCE)
    assert one.type_indices != other.type_indices
    assert one.compiled.object == other.compiled.object  # compiled twice, without a cache

    del compiled[:]
    first = lh.Engine(runtime=kind, cache=tmp_path)
    assert run(first)[0] == 5050
    second = lh.Engine(runtime=kind, cache=tmp_path)
    lh.Module(second, OTHER_TYPES)
    del compiled[:]
    assert run(second)[0] == 5050
    assert compiled == []


# ----------------------------------------------------------------------------------------------------------------------
# Barrier sets

OWN_BARRIERS = """
from own_helper import STEP
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Shape
from lowheap.native import Heap, Ref, Slot, native

class Own(Drc):
    pass

def closing_over(step):
    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        heap.control.coalescings += step
        return Drc.read(heap, owner, slot, shape)
    return read

class Closed(Drc):
    read = closing_over(7)
"""


@pytest.fixture
def own_barriers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "own"
    directory.mkdir()
    (directory / "own_barriers.py").write_text(OWN_BARRIERS)
    (directory / "own_helper.py").write_text("STEP = 1\n")
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield directory
    for name in ("own_barriers", "own_helper"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("file", ["own_barriers.py", "own_helper.py"])
def test_a_barrier_sets_source_is_part_of_the_key(
    own_barriers: Path, file: str, tmp_path: Path, compiled: list[str]
) -> None:
    directory = tmp_path / "cache"
    for _ in range(2):
        assert run(lh.Engine(barriers="own_barriers:Own", cache=directory))[0] == 5050
    assert compiled.count("cached") == 1
    with (own_barriers / file).open("a") as source:
        source.write("\n# changed\n")
    run(lh.Engine(barriers="own_barriers:Own", cache=directory))
    assert compiled.count("cached") == 2


@pytest.mark.parametrize("reason", ["closes over a value", "no source", "younger than the process"])
def test_a_barrier_set_whose_code_is_not_known_is_not_cached(
    own_barriers: Path, reason: str, tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "own_barriers:Closed" if reason == "closes over a value" else "own_barriers:Own"
    lh.Module(lh.Engine(barriers=name), SOURCE)
    if reason == "no source":
        (own_barriers / "own_helper.py").unlink()
    if reason == "younger than the process":
        assert code_key({}) is not None  # lowheap's own are known by now
        monkeypatch.setattr(cache, "_LOADED_AT", time.time() - 60)
    del compiled[:]
    for _ in range(2):
        run(lh.Engine(barriers=name, cache=tmp_path / "cache"))
    assert compiled.count("cached") == 2


def test_a_class_without_a_file_is_not_cached() -> None:
    built = type("Built", (Drc,), {"__module__": "no.such.module"})
    nowhere = type(sys)("lowheap_test_nowhere")
    sys.modules["lowheap_test_nowhere"] = nowhere
    try:
        built.__module__ = "lowheap_test_nowhere"
        assert code_key({}, built()) is None
    finally:
        del sys.modules["lowheap_test_nowhere"]
    assert code_key({}, Drc()) is not None


# ----------------------------------------------------------------------------------------------------------------------
# Damage


def one_entry(directory: Path) -> Path:
    lh.Module(lh.Engine(cache=directory), SOURCE)
    (entry,) = entries(directory)
    return entry


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """An entry: its key, and its bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_LOADED_AT", time.time() + 1e6)
        cache._package_digest.cache_clear()
        entry = one_entry(tmp_path_factory.mktemp("sound"))
    return entry.name.removesuffix(cache.SUFFIX), entry.read_bytes()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_damage_is_taken_for_code(sound: tuple[str, bytes], data: st.DataObject) -> None:
    key, good = sound
    kind = data.draw(st.sampled_from(["flip", "cut", "longer", "noise"]))
    if kind == "flip":
        place = data.draw(st.integers(0, len(good) - 1))
        bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    elif kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
    elif kind == "longer":
        bad = good + data.draw(st.binary(min_size=1, max_size=10))
    else:
        bad = data.draw(st.binary(max_size=200))
    with pytest.raises(ValueError, match=r"^its? "):
        cache.decode(key, bad)
    assert cache.decode(key, good).symbols


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
@settings(max_examples=100, deadline=None)
def test_a_description_that_makes_no_sense_is_no_entry(description: Any) -> None:
    import hashlib
    import json

    text = json.dumps(description).encode()
    body = len(text).to_bytes(4, "little") + text
    with pytest.raises(ValueError, match=r"^its? "):
        cache.decode("key", cache.MAGIC + hashlib.sha256(body).digest() + body)


def _garble(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(bytes(data))


def _make_foreign(entry: Path) -> None:
    code = CodeCache(entry.parent).get(entry.name.removesuffix(cache.SUFFIX))
    assert code is not None
    entry.write_bytes(cache.encode("another key", code))


def _make_fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def _make_link(entry: Path) -> None:
    entry.rename(entry.with_suffix(".elsewhere"))
    entry.symlink_to(entry.with_suffix(".elsewhere"))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "garbled": _garble,
    "cut off": lambda entry: os.truncate(entry, entry.stat().st_size // 2),
    "empty": lambda entry: os.truncate(entry, 0),
    "foreign": _make_foreign,
    "writable by others": lambda entry: entry.chmod(0o666),
    "a pipe": _make_fifo,
    "a link": _make_link,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_entry_is_compiled_again_and_replaced(damage: str, tmp_path: Path, compiled: list[str]) -> None:
    entry = one_entry(tmp_path)
    good = entry.read_bytes()
    DAMAGE[damage](entry)
    del compiled[:]
    for _ in range(2):  # the second time, it is sound again
        assert run(lh.Engine(cache=tmp_path))[0] == 5050
    assert compiled.count("cached") == 1
    assert not entry.is_symlink()
    assert entry.stat().st_mode & 0o077 == 0
    key = entry.name.removesuffix(cache.SUFFIX)
    assert cache.decode(key, entry.read_bytes()).object == cache.decode(key, good).object


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The binaries that were validated since the test began, for want of one in the cache."""
    binaries: list[bytes] = []
    validate = wasm_module.validate.validate

    def counted(binary: bytes, off: frozenset[str]) -> None:
        binaries.append(binary)
        validate(binary, off)

    monkeypatch.setattr(wasm_module.validate, "validate", counted)
    return binaries


def test_a_source_is_validated_once(tmp_path: Path, validated: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    binary = lh.wat2wasm(SOURCE)
    for source in (SOURCE, SOURCE.encode(), bytearray(SOURCE.encode()), binary, memoryview(binary)):
        assert lh.Module(lh.Engine(cache=tmp_path), source)._binary == binary  # type: ignore[arg-type]
    assert validated == [binary] * 2, "as text, and as a binary"
    monkeypatch.setattr(wasm_module.validate, "validator", lambda off: "another")
    lh.Module(lh.Engine(cache=tmp_path), SOURCE)
    assert len(validated) == 3
    for _ in range(2):
        with pytest.raises(lh.MalformedModuleError):
            lh.Module(lh.Engine(cache=tmp_path), binary[:-1])
    assert len(validated) == 5, "what is not valid is not kept"


@pytest.mark.parametrize("damage", [each for each in DAMAGE if each != "foreign"])
def test_a_bad_binary_is_made_again_and_replaced(damage: str, tmp_path: Path, validated: list[bytes]) -> None:
    lh.Module(lh.Engine(cache=tmp_path), SOURCE)
    (entry,) = tmp_path.glob(f"*{cache.BINARY_SUFFIX}")
    good = entry.read_bytes()
    DAMAGE[damage](entry)
    del validated[:]
    for _ in range(2):
        lh.Module(lh.Engine(cache=tmp_path), SOURCE)
    assert len(validated) == 1
    assert not entry.is_symlink()
    assert entry.read_bytes() == good


def test_a_binary_under_anothers_key_is_not_taken(tmp_path: Path) -> None:
    directory = CodeCache(tmp_path)
    directory.put_binary("one", b"its binary", True)
    assert directory.get_binary("one") == (b"its binary", True)
    (tmp_path / f"one{cache.BINARY_SUFFIX}").rename(tmp_path / f"two{cache.BINARY_SUFFIX}")
    assert directory.get_binary("two") is None


def test_an_entry_of_another_user_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = one_entry(tmp_path)
    key = entry.name.removesuffix(cache.SUFFIX)
    assert CodeCache(tmp_path).get(key) is not None
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert CodeCache(tmp_path).get(key) is None


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One, whatever is to be written."""
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / "cache"  # not even root can make this one
    with caplog.at_level(logging.WARNING, logger="lowheap"):
        assert run(lh.Engine(cache=directory))[0] == 5050
    assert [record.message for record in caplog.records] == [
        f"cannot cache compiled code in {directory}: Not a directory"
    ]


def test_an_entry_that_cannot_be_replaced_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = one_entry(tmp_path)
    entry.unlink()
    entry.mkdir()
    with caplog.at_level(logging.WARNING, logger="lowheap"):
        assert run(lh.Engine(cache=tmp_path))[0] == 5050
    assert any("cannot cache compiled code" in record.message for record in caplog.records)
    assert not list(tmp_path.glob("*.tmp"))


# ----------------------------------------------------------------------------------------------------------------------
# Size, and several at once


def test_what_has_not_been_used_for_longest_goes_first(tmp_path: Path, sound: tuple[str, bytes]) -> None:
    key, data = sound
    code = cache.decode(key, data)
    size = len(cache.encode("k0", code))
    store = CodeCache(tmp_path, limit=3 * size + size // 2)
    for number in range(3):
        store.put(f"k{number}", code)
        os.utime(store.path(f"k{number}"), (number + 1, number + 1))
    assert store.get("k0") == code  # so that k1 is the oldest now
    stale, fresh, other = tmp_path / "a.tmp", tmp_path / "b.tmp", tmp_path / "other"
    for path in (stale, fresh, other):
        path.write_bytes(b"x")
    for path in (stale, other):
        os.utime(path, (1, 1))
    store.put("k3", code)
    assert {path.stem for path in entries(tmp_path)} == {"k0", "k2", "k3"}
    assert not stale.exists()
    assert fresh.exists()
    assert other.exists()


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path, sound: tuple[str, bytes]) -> None:
    key, data = sound
    CodeCache(tmp_path, limit=len(data) - 1).put(key, cache.decode(key, data))
    assert list(tmp_path.iterdir()) == []


def test_writers_and_readers_at_once_see_whole_entries(tmp_path: Path, sound: tuple[str, bytes]) -> None:
    key, data = sound
    code = cache.decode(key, data)
    store = CodeCache(tmp_path, limit=2 * len(data))
    wrong: list[Any] = []

    def work(seed: int) -> None:
        for number in range(30):
            name = f"k{(seed + number) % 4}"
            store.put(name, code)
            found = store.get(name)
            if found not in (None, code):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not list(tmp_path.glob("*.tmp"))


# ----------------------------------------------------------------------------------------------------------------------
# The runtime, the command, progress


PROBE = """
import sys, time
from pathlib import Path
import lowheap as lh
from lowheap.cli.output import compile_progress
from lowheap.jit import cache, runtime
cache._LOADED_AT = time.time() + 1e6
def refuse(*args, **options):
    raise SystemExit("compiled")
if sys.argv[2] == "again":
    runtime.compile_ir = refuse
engine = lh.Engine(runtime="native", cache=sys.argv[1])
module = lh.Module(engine, Path(sys.argv[3]).read_text())
with lh.Store(engine) as store:
    print(lh.Instance(store, module).exports["run"](6, 2))
"""


def test_the_native_runtime_is_cached_for_the_next_process(tmp_path: Path) -> None:
    def probe(when: str) -> subprocess.CompletedProcess[str]:
        program = str(ROOT / "examples" / "binary_trees.wat")
        arguments = [sys.executable, "-c", PROBE, str(tmp_path / "cache"), when, program]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)

    refused = probe("again")
    assert "compiled" in refused.stderr  # so that the probe can fail
    first, second = probe("first"), probe("again")
    assert first.stdout == second.stdout != ""
    assert (first.returncode, second.returncode) == (0, 0), second.stderr


@pytest.mark.parametrize("uncached", [False, True])
def test_the_command_caches_unless_told_not_to(
    uncached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lowheap import cli

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = tmp_path / "program.wat"
    program.write_text(SOURCE)
    arguments = ["run", str(program), "--invoke", "sum", "10", *(["--no-cache"] if uncached else [])]
    for _ in range(2):
        assert cli.execute(arguments) == 0
        assert capsys.readouterr().out == "55\n"
    assert bool(entries(tmp_path / "lowheap")) is not uncached


def test_progress_tells_each_function_and_nothing_when_there_is_an_entry(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    engine = lh.Engine(cache=tmp_path)
    lh.Module(engine, SOURCE, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 4) for done in range(5)]
    lh.Module(engine, SOURCE, progress=lambda done, total: steps.append((done, total)))
    assert len(steps) == 5


def test_a_large_module_says_in_the_log_how_far_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wasm_compile, "_PROGRESS_SECONDS", 0)
    with caplog.at_level(logging.INFO, logger="lowheap"):
        lh.Module(lh.Engine(), SOURCE)
    assert [record.message for record in caplog.records if "functions" in record.message] == [
        f"compiled {done} of 4 functions" for done in range(1, 5)
    ]


def test_a_bar_is_shown_on_a_terminal_when_compiling_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*, terminal: bool, delay: float) -> str:
        monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")  # how rich is told that it is one
        with compile_progress(delay, what="[b]") as progress:
            for done in range(3):
                progress(done, 2)
                time.sleep(0.15)
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        out, err = capsys.readouterr()
        assert out == ""
        return str(err)

    monkeypatch.setenv("TERM", "xterm")
    slow = shown(terminal=True, delay=0.01)
    assert "compiling [b]: 1 of 2 functions" in slow
    assert "optimising [b]: 2 functions" in slow
    assert slow.rindex("\x1b[?25h") > slow.find("\x1b[?25l")  # the cursor is there at the end
    assert shown(terminal=True, delay=60) == ""
    assert shown(terminal=False, delay=0.01) == ""


def test_collectors_of_one_name_with_other_functions_have_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the sources tells them apart: classes that are made by a call, as `without` makes them."""
    monkeypatch.setattr(cache, "_LOADED_AT", time.time() + 1e6)
    one, other = (without(Drc, missing) for missing in ("count up", "drop"))
    assert one.__qualname__ == other.__qualname__
    keys = [code_key({}, each()) for each in (one, other, without(Drc, "count up"))]
    assert None not in keys
    assert (keys[0] == keys[2], keys[0] == keys[1]) == (True, False)
