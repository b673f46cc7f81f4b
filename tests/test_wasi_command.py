"""`lowheap run` of programs that import things: commands of WASI, reactors, hosts of one's own, what is missing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lowheap import cli
from lowheap.cli.run import exit_status

ROOT = Path(__file__).resolve().parent.parent

TELLS = """(module
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func $put (param $descriptor i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 8) (local.get $at))
    (i32.store (i32.const 12) (local.get $size))
    (drop (call $write (local.get $descriptor) (i32.const 8) (i32.const 1) (i32.const 16))))
  (func (export "_start")
    (drop (call $args_sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 64) (i32.const 1024)))
    (call $put (i32.const 1) (i32.const 1024) (i32.load (i32.const 4)))
    (drop (call $environ_sizes (i32.const 20) (i32.const 24)))
    (drop (call $environ (i32.const 64) (i32.const 2048)))
    (call $put (i32.const 2) (i32.const 2048) (i32.load (i32.const 24)))
    (call $exit (i32.load (i32.const 0))))
  (func (export "argc") (result i32)
    (drop (call $args_sizes (i32.const 0) (i32.const 4)))
    (i32.load (i32.const 0)))
  (func (export "traps") (call $put (i32.const 1) (i32.const 65535) (i32.const 9))))"""
"""A command that writes its arguments, and its environment on standard error; its status is how many arguments."""

WAITS = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "ready\\n")
  (data (i32.const 600) "file")
  (func $ready
    (i32.store (i32.const 0) (i32.const 512)) (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $copy (param $descriptor i32)
    (loop $again
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1000))
      (if (call $read (local.get $descriptor) (i32.const 0) (i32.const 1) (i32.const 4)) (then (unreachable)))
      (if (i32.load (i32.const 4)) (then
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $again)))))
  (func (export "_start") (call $ready) (call $copy (i32.const 0)))
  (func (export "file")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 600) (i32.const 4) (i32.const 0) (i64.const 2) (i64.const 2)
      (i32.const 0) (i32.const 8)) (then (unreachable)))
    (call $copy (i32.load (i32.const 8))))
  (func (export "sleep")
    (call $ready)
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 1000000000000))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 8)))))"""
"""A command that copies standard input, and other things that wait or read."""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a program in this process, in a folder of its own; return status, output, and errors."""
    monkeypatch.chdir(tmp_path)

    def run_program(text: str, *arguments: str) -> tuple[int, str, str]:
        Path("program.wat").write_text(text)
        capfd.readouterr()
        status = cli.execute(["run", "program.wat", *arguments])
        return status, *capfd.readouterr()

    return run_program


def test_a_command_has_arguments_and_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "as it is")
    arguments = ["--env", "A=B=C", "first", "--env", "GIVEN", "--", "--env", "-x"]
    status, out, err = run(TELLS, *arguments)
    assert (status, out) == (4, "program.wat\0first\0--env\0-x\0")
    assert err == "A=B=C\0GIVEN=as it is\0"
    status, out, err = run(TELLS, "--stats")
    assert (status, out) == (1, "program.wat\0")
    assert re.search(r"objects allocated +│ +0 │", err)


def test_an_export_of_a_program_of_wasis(run: Run) -> None:
    assert run(TELLS, "--invoke", "argc") == (0, "1\n", "")
    status, out, err = run(TELLS, "--invoke", "traps")
    assert (status, out) == (3, "")
    assert "trap: out of bounds memory access: 9 bytes at 0xffff of a memory of 65536 bytes" in err
    status, out, err = run(TELLS, "--invoke", "argc", "3")
    assert status == 2
    assert "'argc' takes 0 arguments" in err


def test_a_folder_is_given(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("what is in the file")
    for given in ("folder", "folder::/", "folder::other"):
        assert run(WAITS, "--dir", given, "--invoke", "file") == (0, "what is in the file", "")
    assert run(WAITS, "--invoke", "file")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dir", "nothing"], "there is no folder 'nothing'"),
        (["--dir", "::x"], "'::x' is not HOST::GUEST, or HOST"),
        (["--dir", ".::"], "'.::' is not HOST::GUEST, or HOST"),
        (["--env", "=x"], "'=x' is not NAME=VALUE, or NAME"),
        (["--env", "NOT_THERE_AT_ALL"], "the environment has no variable 'NOT_THERE_AT_ALL'"),
        (["--host", "nobody"], "there is no host 'nobody'; there are wasi"),
        (["--host", "nothing.py:host"], "there is no file 'nothing.py'"),
        (["--host", "os:sep"], "the host 'os:sep' is '/'; it must be callable"),
    ],
)
def test_a_wrong_command_line(run: Run, arguments: list[str], message: str) -> None:
    status, out, err = run(TELLS, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_options_for_programs_of_wasis_are_for_no_others(run: Run) -> None:
    text = '(module (func (export "_start")))'
    assert run(text) == (0, "", "")
    for option in (["--dir", "."], ["--env", "A=B"]):
        status, _, err = run(text, *option)
        assert status == 2
        assert f"{option[0]} is for programs that import wasi_snapshot_preview1; program.wat does not" in err
        assert run(text, *option, "--host", "wasi") == (0, "", "")
    status, _, err = run(text, "an argument")
    assert status == 2
    assert "'_start' takes 0 arguments" in err


def test_a_reactor_is_initialised_once_first(run: Run) -> None:
    text = """(module (global $count (mut i32) (i32.const 10))
      (func (export "_initialize") (global.set $count (i32.add (global.get $count) (i32.const 1))))
      (func (export "count") (result i32) (global.get $count)))"""
    assert run(text, "--invoke", "count") == (0, "11\n", "")
    assert run(text, "--invoke", "_initialize") == (0, "", "")
    status, _, err = run(text)
    assert status == 2
    assert "--invoke is missing" in err


HOSTS = """
import lowheap as lh

I32 = lh.ValType.i32()

def numbers(linker, store):
    linker.define_func("env", "seven", lh.FuncType([], [I32]), lambda: 7)

def others(linker, store):
    linker.define_func("env", "seven", lh.FuncType([], [I32]), lambda: 8)
    linker.define(store, "env", "one", lh.Global(store, I32, 1))

def random(linker, store):
    linker.define_func("wasi_snapshot_preview1", "random_get", lh.FuncType([I32, I32], [I32]), lambda *_: 99)
"""

SUM = """(module
  (import "env" "seven" (func $seven (result i32))) (import "env" "one" (global i32))
  (func (export "sum") (result i32) (i32.add (call $seven) (global.get 0))))"""


def test_hosts_of_ones_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "hosts_of_mine.py").write_text(HOSTS)
    arguments = ["--invoke", "sum", "--host", "hosts_of_mine.py:numbers"]
    status, out, err = run(SUM, *arguments)
    assert (status, out) == (1, "")
    message = "program.wat imports what nobody provides; --host file.py:name would define:\n  env.one: (global i32)\n"
    assert err.endswith(message)
    assert run(SUM, *arguments, "--host", "hosts_of_mine.py:others") == (0, "9\n", "")
    text = """(module (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32))) (memory (export "memory") 1)
      (func (export "f") (result i32 i32) (call $random (i32.const 0) (i32.const 0)) (call $yield)))"""
    assert run(text, "--invoke", "f") == (0, "0\n0\n", "")
    assert run(text, "--invoke", "f", "--host", "hosts_of_mine.py:random") == (0, "99\n0\n", "")


def test_all_that_nobody_provides_is_named_at_once(run: Run) -> None:
    text = """(module
      (import "env" "f" (func (param i32 f64) (result i64))) (import "env" "memory" (memory 1 2))
      (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
      (import "wasi_snapshot_preview1" "no_such_thing" (func))
      (import "env" "table" (table 3 funcref)) (import "other" "g" (global (mut externref)))
      (import "other" "tag" (tag (param i32))) (func (export "_start")))"""
    status, out, err = run(text)
    assert (status, out) == (1, "")
    assert err.splitlines()[1:] == [
        "  env.f: (func (param i32 f64) (result i64))",
        "  env.memory: (memory 1 2)",
        "  wasi_snapshot_preview1.no_such_thing: (func)",
        "  env.table: (table 3 funcref)",
        "  other.g: (global mut externref)",
        "  other.tag: (tag (func (param i32)))",
    ]


def test_exit_statuses_are_bytes() -> None:
    assert [exit_status(code) for code in (0, 1, 255, 256, 257, 2**32 - 1)] == [0, 1, 255, 1, 1, 255]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def test_a_command_copies_its_input(tmp_path: Path) -> None:
    (tmp_path / "waits.wat").write_text(WAITS)
    done = subprocess.run(
        [sys.executable, "-m", "lowheap", "run", "waits.wat"],
        cwd=tmp_path,
        env=environment(),
        input=b"a\nb" * 1000,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ready\n" + b"a\nb" * 1000, b"")


@pytest.mark.parametrize("arguments", [[], ["--invoke", "sleep"]], ids=["reading", "sleeping"])
def test_an_interrupt_of_a_program_that_waits(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "waits.wat").write_text(WAITS)
    with subprocess.Popen(
        [sys.executable, "-m", "lowheap", "run", "waits.wat", "--stats", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGINT)
            err = process.stderr.read().decode()
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert "objects allocated" in err
    assert err.splitlines()[-1] == "lowheap: interrupted"
