"""`WasiConfig`, `Store.set_wasi`, `Linker.define_wasi`, `ExitTrap`: what a user says and gets."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from support.wasi_worlds import DATA_AT, RESULT_AT, Own

import lowheap as lh
from lowheap.hosts.wasi.layout import Errno, Fdstat, Filetype


def world(**attributes: Any) -> Own:
    """A world whose config has these attributes."""

    def configure(config: lh.WasiConfig) -> None:
        for name, value in attributes.items():
            setattr(config, name, value)

    return Own(configure)


# ----------------------------------------------------------------------------------------------------------------------
# Streams


def test_output_goes_where_it_is_to_go(tmp_path: Path) -> None:
    buffer, file, pieces = bytearray(b"> "), io.BytesIO(), []
    path = tmp_path / "output"
    path.write_text("what was there before")
    unbuffered = (tmp_path / "raw").open("wb", buffering=0)
    for sink, found in (
        (buffer, lambda: bytes(buffer)),
        (file, file.getvalue),
        (pieces.append, lambda: b"".join(pieces)),
        (unbuffered, lambda: (tmp_path / "raw").read_bytes()),
    ):
        for name, descriptor in (("stdout", 1), ("stderr", 2), ("stdout_custom", 1), ("stderr_custom", 2)):
            made = world(**{name: sink})
            assert [made.put(descriptor, each) for each in (b"a", b"", b"bc")] == [1, 0, 2]
            assert found().endswith(b"abc")
            made.close()
    unbuffered.close()
    assert bytes(buffer) == b"> " + b"abc" * 4
    assert pieces[:2] == [b"a", b"bc"]
    for name, descriptor in (("stdout_file", 1), ("stderr_file", 2)):
        for given in (path, str(path), os.fsencode(path)):
            made = world(**{name: given})
            assert made.put(descriptor, b"abc") == 3
            made.close()
            assert path.read_bytes() == b"abc"


def test_a_sink_may_take_less(tmp_path: Path) -> None:
    made = world(stdout=lambda data: 2)
    assert made.put(1, b"abc") == 2
    made.close()


def test_what_a_sink_raises_comes_out() -> None:
    def fail(data: bytes) -> None:
        raise ZeroDivisionError(data)

    def refuse(data: bytes) -> None:
        raise BrokenPipeError(32, "nobody reads")

    made = world(stdout=fail, stderr=refuse)
    with pytest.raises(ZeroDivisionError, match="abc"):
        made.put(1, b"abc")
    assert made.put(2, b"abc") == -Errno.PIPE
    made.close()


def test_input_comes_from_where_it_is_to_come(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"line 1\nline 2\n")
    with path.open("rb") as buffered, path.open("rb", buffering=0) as raw:
        for given in (path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes()), buffered, raw):
            made = world(stdin=given)
            assert [made.take(0, 4), made.take(0, 100), made.take(0, 100)] == [b"line", b" 1\nline 2\n", b""]
            made.close()
    made = world(stdin_file=path)
    assert made.call("fd_read", 0, *made.iovecs((DATA_AT, 4), (DATA_AT + 4, 0), (DATA_AT + 8, 5)), RESULT_AT) == 0
    assert (made.result(), made.read(DATA_AT, 4), made.read(DATA_AT + 8, 5)) == (9, b"line", b" 1\nli")
    made.close()
    made = world()
    assert made.take(0) == b""
    assert made.put(1, b"abc") == 3
    made.close()


def test_a_config_serves_several_stores(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"abc")
    config = lh.WasiConfig()
    config.stdin_file = tmp_path / "input"
    config.argv = ["first"]
    config.preopen_dir(tmp_path, "/")
    worlds = []
    for _ in range(2):
        made = world()
        made.store.set_wasi(config)
        config.argv = ["second", "time"]
        worlds.append(made)
    assert [each.take(0) for each in worlds] == [b"abc", b"abc"]
    counts = []
    for each in worlds:
        each.call("args_sizes_get", RESULT_AT, RESULT_AT + 4)
        counts.append(each.result())
        each.close()
    assert counts == [1, 2]


def test_a_terminal_is_a_character_device() -> None:
    master, terminal = os.openpty()
    path = os.ttyname(terminal)
    made = world(stdin_file=path)
    for descriptor, expected in ((0, Filetype.CHARACTER_DEVICE), (1, Filetype.UNKNOWN)):
        assert made.call("fd_fdstat_get", descriptor, RESULT_AT) == 0
        assert made.record(Fdstat).fs_filetype == expected
    os.write(master, b"typed\n")
    assert made.take(0) == b"typed\n"
    made.close()
    os.close(master), os.close(terminal)


def test_this_processs_own_streams(tmp_path: Path) -> None:
    source = """if True:
        import sys
        sys.path[:0] = [sys.argv[1], sys.argv[2]]
        from support.wasi_worlds import Own, RESULT_AT
        def configure(config):
            config.inherit_stdin(); config.inherit_stdout(); config.inherit_stderr()
            config.inherit_argv(); config.inherit_env()
            assert config.argv == sys.argv and config.env["NAME"] == "value"
        made = Own(configure)
        print("from Python,", end=" ")
        assert made.put(1, b"from the program\\n") == 17
        made.put(2, b"and " + made.take(0))
    """
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", source, str(tests), str(tests.parent)],
        input=b"input",
        capture_output=True,
        timeout=60,
        env={**os.environ, "NAME": "value"},
    )
    assert (done.stdout, done.stderr) == (b"from Python, from the program\n", b"and input")


# ----------------------------------------------------------------------------------------------------------------------
# What is no config


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("argv", "text", "argv is 'text'; it must be a list of strings"),
        ("argv", [3], "an argument is 3; it must be a str"),
        ("argv", ["a\0"], "it must not hold a NUL"),
        ("env", {"": "x"}, "it must have characters, and none of them ="),
        ("env", [("a=b", "x")], "it must have characters, and none of them ="),
        ("env", {"a": 3}, "the value of 'a' is 3"),
        ("stdin", "text", "stdin is 'text'; it must be bytes, or a binary file"),
        ("stdin", io.StringIO("text"), "that one is text, and may have a `buffer`"),
        ("stdout", io.StringIO(), "that one is text, and may have a `buffer`"),
        ("stdout", b"bytes", "it must be a bytearray, a binary file"),
        ("stderr", None, "stderr is None"),
        ("stdin_file", 3, "stdin_file is 3; it must be a path"),
        ("stdout_file", "a\0b", "it must not hold a NUL"),
    ],
)
def test_what_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        setattr(lh.WasiConfig(), name, value)
    assert message in str(caught.value)


def test_folders_and_files_that_are_not_there(tmp_path: Path) -> None:
    config = lh.WasiConfig()
    with pytest.raises(TypeError, match="path is 3"):
        config.preopen_dir(3, "/")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="guest_path is None"):
        config.preopen_dir(tmp_path, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fs_mutable is 1"):
        config.preopen_dir(tmp_path, "/", 1)  # type: ignore[arg-type]
    config.stdin_file = tmp_path / "nothing"
    with lh.Store() as store:
        with pytest.raises(lh.LowheapError, match=r"stdin_file: cannot open '.*nothing': No such file"):
            store.set_wasi(config)
        with pytest.raises(TypeError, match="config is 3; it must be a WasiConfig"):
            store.set_wasi(3)
    with pytest.raises(lh.HeapError, match="the store is closed"):
        store.set_wasi(lh.WasiConfig())


def test_a_config_says_what_it_has(tmp_path: Path) -> None:
    config = lh.WasiConfig()
    assert (config.argv, config.env) == ([], {})
    config.argv, config.env = ["a", b"\xff"], {"NAME": "value"}
    config.preopen_dir(tmp_path, "/here")
    assert (config.argv, config.env) == (["a", "\udcff"], {"NAME": "value"})
    assert f"{tmp_path}::/here" in repr(config)


# ----------------------------------------------------------------------------------------------------------------------
# Linkers, stores, and the end of a program


def test_names_are_defined_once() -> None:
    linker = lh.Linker(lh.Engine())
    linker.define_wasi()
    with pytest.raises(lh.LinkError, match=r"wasi_snapshot_preview1\.\w+ is defined already"):
        linker.define_wasi()
    linker.allow_shadowing = True
    linker.define_wasi()


def test_what_is_missing_is_told_without_all_that_is_there() -> None:
    engine = lh.Engine()
    linker = lh.Linker(engine)
    linker.define_wasi()
    linker.define_func("env", "g", lh.FuncType([], []), print)
    source = """(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
      (import "env" "f" (func (param i64))) (import "env" "m" (memory 1 3)))"""
    module = lh.Module(engine, source)
    assert [str(each) for each in linker.missing(module)] == ["env.f (func (param i64))", "env.m (memory 1 3)"]
    known = "env.g, 46 names of wasi_snapshot_preview1"
    with lh.Store(engine) as store, pytest.raises(lh.LinkError) as caught:
        linker.instantiate(store, module)
    listed = "env.f (func (param i64)), env.m (memory 1 3)"
    assert str(caught.value) == f"imports {listed} are missing; these were given: {known}"
    with pytest.raises(lh.LinkError) as caught:
        linker.instantiate_pre(module)
    assert str(caught.value) == f"{listed}: not defined; these are: {known}"


CATCHES = """(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (block $caught (try_table (catch_all $caught) (call $exit (i32.const 9))))))"""


def test_no_program_catches_its_end() -> None:
    engine = lh.Engine()
    linker = lh.Linker(engine)
    linker.define_wasi()
    with lh.Store(engine) as store:
        store.set_wasi(lh.WasiConfig())
        instance = linker.instantiate(store, lh.Module(engine, CATCHES))
        for _ in range(2):
            with pytest.raises(lh.ExitTrap, match="the program has exited with status 9") as caught:
                instance.exports._start()
            assert caught.value.code == 9
        assert isinstance(caught.value, lh.LowheapError)
        assert not isinstance(caught.value, lh.Trap)
        store.verify()


def test_a_store_goes_with_its_world(tmp_path: Path) -> None:
    made = Own(lambda config: config.preopen_dir(tmp_path, "/"))
    made.open("nothing", 1)
    gone = weakref.ref(made.store)
    before = len(os.listdir("/proc/self/fd"))
    del made
    gc.collect()
    assert gone() is None
    assert len(os.listdir("/proc/self/fd")) == before - 2
