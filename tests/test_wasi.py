"""WASI's functions, one by one, beside those of the `wasmtime` package; and where lowheap has more, what that does."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.wasi_worlds import DATA_AT, FOLDER, RESULT_AT, Own, Peer, World, tree

import lowheap as lh
from lowheap.hosts.wasi import layout
from lowheap.hosts.wasi.errors import number_of
from lowheap.hosts.wasi.functions import FUNCTIONS
from lowheap.hosts.wasi.layout import Errno, Event, Fdstat, Filestat, Filetype, Oflags, Rights, Subscription

CREATE = Oflags.CREAT
BOTH = Rights.FD_READ | Rights.FD_WRITE


def plant(folder: Path) -> Path:
    """Make a folder with files, folders, and links of all kinds."""
    folder.mkdir()
    (folder / "file").write_text("hello world")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "other").write_text("x")
    (folder / "empty").mkdir()
    for name, text in {
        "link": "file",
        "chain": "link",
        "folder_link": "sub",
        "absolute": "/etc",
        "outside": "../../etc",
        "dangling": "nothing",
        "loop": "loop",
        "sub/up": "../file",
        "sneaky": "sub/../../x",
    }.items():
        (folder / name).symlink_to(text)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    """A world with one folder."""
    plant(tmp_path / "own")
    world = Own(lambda config: config.preopen_dir(str(tmp_path / "own"), "/"))
    yield world
    world.close()


Steps = Callable[[World], list[Any]]


def both(tmp_path: Path, steps: Steps, *, mutable: bool = True) -> tuple[list[Any], list[Any]]:
    """What steps come to on lowheap and on wasmtime, and what is in the folder then."""
    found = []
    for kind in (Own, Peer):
        folder = plant(tmp_path / kind.__name__)

        def configure(config: Any, folder: Path = folder) -> None:
            config.argv = ["program", "an argument", "ü"]
            config.env = [("NAME", "value"), ("EMPTY", "")]
            config.preopen_dir(str(folder), "/guest", mutable)

        world = kind(configure)
        found.append([*steps(world), tree(folder)])
        world.close()
    return found[0], found[1]


def test_there_are_all_46_functions() -> None:
    assert len(FUNCTIONS) == 46
    assert [str(each.type) for name, each in FUNCTIONS.items() if name == "proc_exit"] == ["(func (param i32))"]


@pytest.mark.parametrize(
    ("structure", "size", "alignment", "offsets"),
    [
        (layout.Iovec, 8, 4, [0, 4]),
        (layout.Fdstat, 24, 8, [0, 2, 8, 16]),
        (layout.Filestat, 64, 8, [0, 8, 16, 24, 32, 40, 48, 56]),
        (layout.Dirent, 24, 8, [0, 8, 16, 20]),
        (layout.Prestat, 8, 4, [0, 4]),
        (layout.Subscription, 48, 8, [0, 8, 16]),
        (layout.SubscriptionClock, 32, 8, [0, 8, 16, 24]),
        (layout.Event, 32, 8, [0, 8, 10, 16]),
    ],
)
def test_the_structures_of_the_abi(structure: Any, size: int, alignment: int, offsets: list[int]) -> None:
    assert (ctypes.sizeof(structure), ctypes.alignment(structure)) == (size, alignment)
    assert [getattr(structure, field[0]).offset for field in structure._fields_] == offsets


def test_errors_of_the_system_have_numbers() -> None:
    assert number_of(FileNotFoundError(2, "")) == 44
    assert number_of(OSError("without a number")) == Errno.IO
    assert [int(Errno[each]) for each in ("TOOBIG", "FAULT", "NOSYS", "NOTCAPABLE")] == [1, 21, 52, 76]


# ----------------------------------------------------------------------------------------------------------------------
# Beside wasmtime


def arguments_and_environment(world: World) -> list[Any]:
    found: list[Any] = []
    for kind in ("args", "environ"):
        found += [world.call(f"{kind}_sizes_get", RESULT_AT, RESULT_AT + 4), world.read(RESULT_AT, 8)]
        found += [world.call(f"{kind}_get", RESULT_AT, DATA_AT), world.read(RESULT_AT, 12), world.read(DATA_AT, 40)]
    return found


def answer(world: World, kind: type[Any], name: str, *args: int) -> Any:
    """What a call has written; all its fields are the number of the error where there is one."""
    error = world.call(name, *args)
    return world.record(kind) if error == 0 else SimpleNamespace(**{each[0]: -error for each in kind._fields_})


def what_descriptors_are(world: World) -> list[Any]:
    found: list[Any] = []
    world.open("file", rights=BOTH), world.open("sub"), world.open("file", rights=Rights.FD_WRITE), world.open("file")
    for descriptor in (*range(8), 99, -1):
        stat = answer(world, Fdstat, "fd_fdstat_get", descriptor, RESULT_AT)
        found.append((stat.fs_filetype, stat.fs_flags, stat.fs_rights_base, stat.fs_rights_inheriting))
        status = answer(world, Filestat, "fd_filestat_get", descriptor, RESULT_AT)
        found += [status.filetype, status.size if status.filetype == Filetype.REGULAR_FILE else 0]
        prestat = answer(world, layout.Prestat, "fd_prestat_get", descriptor, RESULT_AT)
        found += [prestat.tag, prestat.pr_name_len]
        for length in (3, 6):
            found += [world.call("fd_prestat_dir_name", descriptor, DATA_AT, length), world.read(DATA_AT, 8)]
        found += [world.call("fd_fdstat_set_rights", descriptor, 0, 0)]
        found += [world.call("fd_fdstat_set_flags", descriptor, each) for each in (2, 4, 1, 0)]
        found += [world.call("fd_advise", descriptor, 0, 0, each) for each in range(6)]
    return found


def reading_and_writing(world: World) -> list[Any]:
    found: list[Any] = [world.open("file", rights=BOTH), world.open("new", CREATE, Rights.FD_WRITE)]
    found += [world.open("file"), world.open("log", CREATE, BOTH, fdflags=1), world.open("sub")]
    for descriptor in (*range(9), 99):
        found += [world.put(descriptor, b"some bytes"), world.take(descriptor, 4)]
        for offset, whence in ((0, 0), (3, 1), (-1, 0), (-2, 2), (-100, 2), (1, 1)):
            found += [world.call("fd_seek", descriptor, offset, whence, RESULT_AT), world.read(RESULT_AT, 8)]
        found += [world.call("fd_tell", descriptor, RESULT_AT), world.read(RESULT_AT, 8)]
        found += [world.take(descriptor, 3)]
        for offset in (2, 100, -1):
            places = world.iovecs((DATA_AT, 3))
            found += [world.call("fd_pread", descriptor, *places, offset, RESULT_AT), world.read(RESULT_AT, 4)]
            if offset == 2:
                found += [world.call("fd_pwrite", descriptor, *places, offset, RESULT_AT), world.read(RESULT_AT, 4)]
        found += [world.call("fd_filestat_set_size", descriptor, each) for each in (7, -1)]
        found += [world.call("fd_filestat_set_times", descriptor, 5, 6, each) for each in (0, 5, 10, 3, 12)]
    return found


def closing_and_renumbering(world: World) -> list[Any]:
    found: list[Any] = [world.open("file"), world.open("sub/other")]
    calls = (("fd_renumber", 4, 99), ("fd_renumber", 99, 4), ("fd_renumber", 4, 4), ("fd_renumber", 4, 5))
    found += [world.call(*each) for each in calls]
    found += [world.take(5), world.take(4), world.call("fd_close", 4), world.call("fd_close", 5)]
    found += [world.call("fd_renumber", FOLDER, 1), world.put(1, b"x"), world.call("fd_close", 0), world.take(0)]
    return [*found, world.call("fd_close", FOLDER), world.open("file")]


def bad_addresses(world: World) -> list[Any]:
    found: list[Any] = []
    for address in (-1, 65536, 65535, 65529, 2):
        found += [
            world.call("args_get", address, DATA_AT),
            world.call("args_sizes_get", RESULT_AT, address),
            world.call("environ_get", RESULT_AT, 65535),
            world.call("clock_time_get", 0, 0, address),
            world.call("random_get", address, 70000),
            world.call("random_get", address, 0),
            world.call("fd_fdstat_get", 1, address),
            world.call("fd_filestat_get", FOLDER, address),
            world.call("fd_write", 1, address, 1, RESULT_AT),
            world.call("fd_write", 1, address, 0, RESULT_AT),
            world.call("fd_write", 1, *world.iovecs((address & 0xFFFFFFFF, 100000)), RESULT_AT),
            world.call("fd_write", 1, *world.iovecs((address & 0xFFFFFFFF, 0)), RESULT_AT),
            world.call("fd_prestat_dir_name", FOLDER, address, 65535),
            world.call("path_open", FOLDER, 0, address, 70000, 0, 0, 0, 0, RESULT_AT),
            world.call("path_open", FOLDER, 0, *world.text("file"), 0, 0, 0, 0, address),
            world.call("poll_oneoff", address, RESULT_AT, 1, RESULT_AT),
        ]
    return found


def ends(world: World) -> list[Any]:
    return [world.call("sched_yield"), *(world.call("proc_exit", code) for code in (0, 1, 125))]


@pytest.mark.parametrize("mutable", [True, False], ids=["mutable", "read-only"])
@pytest.mark.parametrize(
    "steps",
    [
        arguments_and_environment,
        what_descriptors_are,
        reading_and_writing,
        closing_and_renumbering,
        bad_addresses,
        ends,
    ],
)
def test_the_same_as_wasmtime(tmp_path: Path, steps: Steps, mutable: bool) -> None:
    ours, theirs = both(tmp_path, steps, mutable=mutable)
    assert ours == theirs


# ----------------------------------------------------------------------------------------------------------------------
# What wasmtime does not do, or does otherwise


def test_times_of_files(own: Own, tmp_path: Path) -> None:
    file = tmp_path / "own" / "file"
    assert own.call("path_filestat_set_times", FOLDER, 0, *own.text("file"), 5, 7_000_000_001, 5) == 0
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (5, 7_000_000_001)
    assert own.call("path_filestat_set_times", FOLDER, 0, *own.text("file"), 9, 9, 1) == 0
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (9, 7_000_000_001)
    before = time.time_ns()
    assert own.call("path_filestat_set_times", FOLDER, 0, *own.text("file"), 1, 1, 2 | 8) == 0
    assert before <= file.stat().st_atime_ns == file.stat().st_mtime_ns <= time.time_ns()
    assert own.call("path_filestat_set_times", FOLDER, 0, *own.text("link"), 3, 3, 5) == 0
    assert (tmp_path / "own" / "link").lstat().st_mtime_ns == 3
    assert file.stat().st_mtime_ns >= before
    for flags in (3, 12, 16):
        assert own.call("path_filestat_set_times", FOLDER, 0, *own.text("file"), 1, 1, flags) == Errno.INVAL


def test_one_call_writes_and_reads_several_buffers(own: Own, tmp_path: Path) -> None:
    descriptor = own.open("several", CREATE, BOTH)
    own.write(b"abcdefgh", DATA_AT)
    places = own.iovecs((DATA_AT + 4, 2), (DATA_AT, 0), (DATA_AT, 3))
    assert own.call("fd_write", descriptor, *places, RESULT_AT) == 0
    assert (own.result(), (tmp_path / "own" / "several").read_text()) == (5, "efabc")
    assert own.call("fd_pread", descriptor, *own.iovecs((DATA_AT, 1), (DATA_AT + 10, 9)), 1, RESULT_AT) == 0
    assert (own.result(), own.read(DATA_AT, 1), own.read(DATA_AT + 10, 3)) == (4, b"f", b"abc")
    many = own.iovecs(*[(DATA_AT, 1)] * 1500)
    assert own.call("fd_write", descriptor, *many, RESULT_AT) == 0
    assert own.result() == 1024  # as many as the system takes at once
    pieces: list[bytes] = []
    world = Own(lambda config: setattr(config, "stdout", pieces.append))
    assert world.call("fd_write", 1, *world.iovecs(*[(0, 65536)] * 4000), RESULT_AT) == 0
    assert world.result() == sum(map(len, pieces)) == 1024 * 65536
    world.close()


def test_what_a_call_takes_has_a_limit() -> None:
    engine = lh.Engine()
    linker = lh.Linker(engine)
    linker.define_wasi()
    source = """(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $p (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 4096)
      (func (export "write") (result i32)
        (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 0xfffffff))
        (i32.store (i32.const 8) (i32.const 0)) (i32.store (i32.const 12) (i32.const 0xfffffff))
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 16)))
        (i32.load (i32.const 16)))
      (func (export "poll") (result i32) (call $p (i32.const 0) (i32.const 0) (i32.const 65537) (i32.const 0))))"""
    with lh.Store(engine) as store:
        store.set_wasi(lh.WasiConfig())
        exports = linker.instantiate(store, lh.Module(engine, source)).exports
        assert exports.write() == 1 << 27
        assert exports.poll() == Errno.NOMEM


def test_room_is_allocated(own: Own, tmp_path: Path) -> None:
    descriptor = own.open("room", CREATE, BOTH)
    assert own.call("fd_allocate", descriptor, 10, 90) == 0
    assert (tmp_path / "own" / "room").stat().st_size == 100
    assert own.call("fd_allocate", descriptor, 0, 0) == Errno.INVAL
    assert own.call("fd_allocate", descriptor, -1, 1) == Errno.INVAL
    assert own.call("fd_allocate", FOLDER, 0, 1) == Errno.BADF
    assert [own.call(name, each) for name in ("fd_sync", "fd_datasync") for each in (descriptor, FOLDER)] == [0] * 4


def test_flags_of_files_come_back(own: Own) -> None:
    for flags in (0, 1, 4, 1 | 4):
        own.call("fd_fdstat_get", own.open("file", rights=BOTH, fdflags=flags), RESULT_AT)
        assert own.record(Fdstat).fs_flags == flags
    own.call("fd_fdstat_get", own.open("file", rights=BOTH, fdflags=16), RESULT_AT)
    assert own.record(Fdstat).fs_flags & 16
    for flags, error in ((1, 0), (4, 0), (2, 28), (8, 28), (16, 28), (32, 28)):
        assert own.call("fd_fdstat_set_flags", own.open("file"), flags) == error
    assert own.open("file", fdflags=32) == own.open("file", 16) == own.open("file", follow=2) == -Errno.INVAL


def test_a_folder_is_listed_in_pieces(own: Own, tmp_path: Path) -> None:
    def listed(size: int, *, removing: bool = False) -> list[str]:
        names, cookie = [], 0
        while True:
            assert own.call("fd_readdir", folder, DATA_AT, size, cookie, RESULT_AT) == 0
            used, at = own.result(), DATA_AT
            while at + 24 <= DATA_AT + used:
                entry = layout.Dirent.from_buffer_copy(own.read(at, 24))
                if at + 24 + entry.d_namlen > DATA_AT + used:
                    break
                name = own.read(at + 24, entry.d_namlen).decode()
                names.append(name)
                if removing and entry.d_type == Filetype.REGULAR_FILE:
                    assert own.call("path_unlink_file", folder, *own.text(name)) == 0
                if name not in (".", "..") and not removing:
                    assert entry.d_ino == (tmp_path / "own" / "many" / name).lstat().st_ino
                cookie, at = entry.d_next, at + 24 + entry.d_namlen
            if used < size:
                return names

    (tmp_path / "own" / "many").mkdir()
    expected = [f"file {number:02}" for number in range(30)]
    for name in expected:
        (tmp_path / "own" / "many" / name).touch()
    folder = own.open("many", Oflags.DIRECTORY)
    assert listed(4000) == listed(100) == [".", "..", *expected]
    (tmp_path / "own" / "many" / "later").touch()
    assert "later" in listed(4000)
    assert listed(100, removing=True) == [".", "..", *expected, "later"]
    assert listed(100) == [".", ".."]
    assert own.call("fd_readdir", folder, DATA_AT, 0, 0, RESULT_AT) == 0
    assert own.result() == 0
    assert own.call("fd_readdir", folder, DATA_AT, 100, -1, RESULT_AT) == 0
    assert own.result() == 0
    assert own.call("fd_readdir", 1, DATA_AT, 100, 0, RESULT_AT) == Errno.BADF


def test_types_of_what_a_folder_has(own: Own, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "own" / "pipe")
    assert own.call("fd_readdir", FOLDER, DATA_AT, 4000, 0, RESULT_AT) == 0
    found, at = {}, DATA_AT
    while at < DATA_AT + own.result():
        entry = layout.Dirent.from_buffer_copy(own.read(at, 24))
        found[own.read(at + 24, entry.d_namlen).decode()] = entry.d_type
        at += 24 + entry.d_namlen
    assert found["."] == found[".."] == found["sub"] == Filetype.DIRECTORY
    assert (found["file"], found["loop"], found["pipe"]) == (
        Filetype.REGULAR_FILE,
        Filetype.SYMBOLIC_LINK,
        Filetype.UNKNOWN,
    )


def test_clocks(own: Own) -> None:
    for clock in range(4):
        assert own.call("clock_res_get", clock, RESULT_AT) == 0
        assert 0 < own.result() < 1_000_000_000
        times = []
        for _ in range(2):
            assert own.call("clock_time_get", clock, 0, RESULT_AT) == 0
            times.append(int.from_bytes(own.read(RESULT_AT, 8), "little"))
        assert times[0] <= times[1]
    assert own.call("clock_time_get", 0, 0, RESULT_AT) == 0
    assert abs(int.from_bytes(own.read(RESULT_AT, 8), "little") - time.time_ns()) < 60_000_000_000
    for clock in (4, -1):
        assert own.call("clock_res_get", clock, RESULT_AT) == own.call("clock_time_get", clock, 0, RESULT_AT) == 28


def test_random_numbers(own: Own) -> None:
    assert own.call("random_get", DATA_AT, 64) == own.call("random_get", DATA_AT + 64, 64) == 0
    assert len({own.read(DATA_AT, 64), own.read(DATA_AT + 64, 64), bytes(64)}) == 3


def test_what_there_is_not(own: Own) -> None:
    names = [name for name in FUNCTIONS if name.startswith("sock_") or name == "proc_raise"]
    assert len(names) == 5
    assert {own.call(name, *([0] * len(FUNCTIONS[name].type.params))) for name in names} == {Errno.NOSYS}


def test_exit_codes_are_as_given(own: Own) -> None:
    assert [own.call("proc_exit", code) for code in (126, 255, -1)] == ["exit 126", "exit 255", "exit 4294967295"]


# ----------------------------------------------------------------------------------------------------------------------
# Waiting


def clock(clock: int, nanoseconds: int, flags: int = 0, mark: int = 1) -> Subscription:
    subscription = Subscription(mark, 0)
    subscription.u.clock = layout.SubscriptionClock(clock, nanoseconds, 0, flags)
    return subscription


def ready(tag: int, descriptor: int, mark: int = 2) -> Subscription:
    subscription = Subscription(mark, tag)
    subscription.u.file_descriptor = descriptor
    return subscription


def poll(world: World, *subscriptions: Subscription) -> list[tuple[int, ...]]:
    """Each event as its mark, error, type, number of bytes and flags."""
    world.write(b"".join(map(bytes, subscriptions)), DATA_AT)
    assert world.call("poll_oneoff", DATA_AT, RESULT_AT + 8, len(subscriptions), RESULT_AT) == 0
    data, size = world.read(RESULT_AT + 8, 32 * world.result()), ctypes.sizeof(Event)
    events = [Event.from_buffer_copy(data, at) for at in range(0, len(data), size)]
    return [(e.userdata, e.error, e.type, e.fd_readwrite.nbytes, e.fd_readwrite.flags) for e in events]


def test_waiting_for_times(own: Own) -> None:
    started = time.monotonic_ns()
    assert poll(own, clock(1, 10**15, mark=7), clock(1, 20_000_000, mark=8)) == [(8, 0, 0, 0, 0)]
    assert time.monotonic_ns() - started >= 20_000_000
    for which, now in ((0, time.time_ns), (1, time.monotonic_ns)):
        at = now() + 5_000_000
        assert poll(own, clock(which, at, 1)) == [(1, 0, 0, 0, 0)]
        assert now() >= at
    assert poll(own, clock(0, 0, 1), clock(1, 2**64 - 1)) == [(1, 0, 0, 0, 0)]
    assert poll(own, clock(2, 0)) == [(1, Errno.NOTSUP, 0, 0, 0)]
    assert poll(own, clock(9, 0)) == poll(own, clock(0, 0, 2)) == [(1, Errno.INVAL, 0, 0, 0)]
    assert own.call("poll_oneoff", DATA_AT, RESULT_AT, 0, RESULT_AT) == Errno.INVAL


def test_waiting_for_descriptors(own: Own) -> None:
    file = own.open("file")
    assert poll(own, ready(1, file), clock(1, 10**15)) == [(2, 0, 1, 11, 0)]
    own.take(file)
    assert poll(own, ready(1, file), ready(2, file, mark=3)) == [(2, 0, 1, 0, 1), (3, 0, 2, 1, 0)]
    assert poll(own, ready(2, 1), ready(1, 0, mark=3)) == [(2, 0, 2, 1, 0), (3, 0, 1, 1, 0)]
    for tag, descriptor in ((1, 1), (2, 0), (1, FOLDER), (2, 99)):
        assert poll(own, ready(tag, descriptor), clock(1, 10**15)) == [(2, Errno.BADF, tag, 0, 0)]
    assert poll(own, ready(5, 1)) == [(2, Errno.INVAL, 5, 0, 0)]


def test_waiting_for_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = os.open(pipe, os.O_RDWR)
    world = Own(lambda config: setattr(config, "stdin_file", pipe))
    assert poll(world, ready(1, 0), clock(1, 5_000_000)) == [(1, 0, 0, 0, 0)]
    os.write(writing, b"abc")
    assert poll(world, ready(1, 0), clock(1, 10**15)) == [(2, 0, 1, 3, 0)]
    assert world.take(0) == b"abc"
    os.close(writing)
    assert poll(world, ready(1, 0), clock(1, 10**15)) == [(2, 0, 1, 0, 1)]
    assert world.take(0) == b""
    world.close()


def test_a_program_has_one_memory_that_it_exports() -> None:
    engine = lh.Engine()
    linker = lh.Linker(engine)
    linker.define_wasi()
    source = """(module (import "wasi_snapshot_preview1" "sched_yield" (func $f (result i32)))
      (memory (export "another name") 1) (func (export "f") (result i32) (call $f)))"""
    with lh.Store(engine) as store:
        instance = linker.instantiate(store, lh.Module(engine, source))
        with pytest.raises(lh.LowheapError, match=r"sched_yield: the store has no WASI; Store\.set_wasi"):
            instance.exports.f()
        store.set_wasi(lh.WasiConfig())
        with pytest.raises(lh.LowheapError, match="sched_yield is called by an instance that exports nothing as 'mem"):
            instance.exports.f()


def test_a_memory_that_grows_is_seen_as_it_is() -> None:
    engine = lh.Engine()
    linker = lh.Linker(engine)
    linker.define_wasi()
    source = """(module (import "wasi_snapshot_preview1" "random_get" (func $f (param i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "f") (param i32) (result i32) (call $f (local.get 0) (i32.const 8)))
      (func (export "grow") (drop (memory.grow (i32.const 1)))))"""
    with lh.Store(engine) as store:
        store.set_wasi(lh.WasiConfig())
        exports = linker.instantiate(store, lh.Module(engine, source)).exports
        other = linker.instantiate(store, lh.Module(engine, source)).exports
        with pytest.raises(lh.Trap, match="out of bounds memory access: 8 bytes at 0x10000 of a memory of 65536 bytes"):
            exports.f(65536)
        exports.grow()
        assert exports.f(65536) == 0
        with pytest.raises(lh.Trap, match="65536 bytes"):
            other.f(65536)
        assert any(exports.memory.read(65536, 65544))
        assert not any(other.memory.read())
