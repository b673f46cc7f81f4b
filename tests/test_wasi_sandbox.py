"""No way out of the folders that a program was given: paths, links, races; and nothing that stays open.

The oracle of where a path leads is the system's own `openat2` with RESOLVE_BENEATH, which lowheap does not use.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples
from support.wasi_worlds import DATA_AT, FOLDER, OTHER_AT, RESULT_AT, Own, tree

import lowheap as lh
from lowheap.hosts.wasi import resolution
from lowheap.hosts.wasi.errors import WasiError, number_of
from lowheap.hosts.wasi.layout import Errno, Filestat, Oflags, Rights
from lowheap.hosts.wasi.resolution import Walk

BOTH = Rights.FD_READ | Rights.FD_WRITE
SECRET = "what no program may read"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder that a program is given, and the one beside it, which it is not."""
    given, beside = tmp_path / "given", tmp_path / "beside"
    for folder in (given, given / "sub", given / "sub" / "deep", beside, beside / "inner"):
        folder.mkdir()
    (given / "file").write_text("for programs")
    (beside / "secret").write_text(SECRET)
    for name, text in {
        "out": "../beside",
        "to_secret": "../beside/secret",
        "absolute": str(beside),
        "absolute_secret": str(beside / "secret"),
        "chain": "sub/chain",
        "sub/chain": "../chain2",
        "chain2": "sub/deep/../../../beside",
        "sub/deep/up": "../../../beside/secret",
        "root": "/",
        "up": "..",
        "itself": ".",
        "new": "../beside/made",
        "new_folder": "../beside/made_folder",
    }.items():
        (given / name).symlink_to(text)
    return given, beside


@pytest.fixture
def world(folders: tuple[Path, Path]) -> Iterator[Own]:
    made = Own(lambda config: config.preopen_dir(str(folders[0]), "/"))
    yield made
    made.close()


def leading_out(beside: Path) -> list[str]:
    """Paths that would lead to the secret, to the folder that it is in, or to a new name there."""
    folders = ["../beside", "out", "absolute", "chain", "chain2", "up/beside", "sub/../../beside", str(beside)]
    folders += ["itself/out", "sub/deep/../../out", "./out/.", "root" + str(beside), "out/inner/..", "out/../beside"]
    names = ["to_secret", "absolute_secret", "sub/deep/up", "itself/sub/deep/up", "new", "new_folder"]
    return names + [folder + end for folder in folders for end in ("", "/", "/secret", "/made", "/inner/../secret")]


def test_no_path_leads_out(world: Own, folders: tuple[Path, Path]) -> None:
    given, beside = folders
    for path in leading_out(beside):
        before = tree(beside)
        there, other = world.text(path), world.text("sub/fresh", OTHER_AT)
        calls: list[tuple[Any, ...]] = [
            ("path_filestat_get", FOLDER, 1, *there, RESULT_AT),
            ("path_filestat_set_times", FOLDER, 1, *there, 0, 0, 5),
            *[
                ("path_open", FOLDER, 1, *there, oflags, rights, 0, 0, RESULT_AT)
                for oflags in (0, Oflags.CREAT, Oflags.DIRECTORY, Oflags.TRUNC, Oflags.CREAT | Oflags.TRUNC)
                for rights in (Rights.FD_READ, BOTH)
            ],
        ]
        if not os.path.islink(os.path.join(given, path)):  # with a link itself programs may do what they like
            calls += [
                ("path_open", FOLDER, 0, *there, Oflags.CREAT | Oflags.EXCL, BOTH, 0, 0, RESULT_AT),
                ("path_create_directory", FOLDER, *there),
                ("path_unlink_file", FOLDER, *there),
                ("path_remove_directory", FOLDER, *there),
                ("path_readlink", FOLDER, *there, DATA_AT, 100, RESULT_AT),
                ("path_symlink", *other, FOLDER, *there),
                ("path_link", FOLDER, 0, *there, FOLDER, *other),
                ("path_link", FOLDER, 0, *world.text("file", DATA_AT), FOLDER, *there),
                ("path_rename", FOLDER, *there, FOLDER, *other),
                ("path_rename", FOLDER, *world.text("file", DATA_AT), FOLDER, *there),
            ]
        for call in calls:
            assert world.call(*call) not in (0, "trap"), (path, call)
        assert tree(beside) == before, path
    assert (given / "file").read_text() == "for programs"


def test_links_that_programs_make_lead_nowhere_else(world: Own, folders: tuple[Path, Path]) -> None:
    _, beside = folders
    for number, text in enumerate(["../beside/secret", "sub/../../beside/secret", "out/secret", "up/beside/secret"]):
        name = f"made{number}"
        assert world.call("path_symlink", *world.text(text), FOLDER, *world.text(name, OTHER_AT)) == 0
        assert world.open(name) == -Errno.PERM
        assert world.open(f"sub/../{name}") == -Errno.PERM
    for text in (str(beside / "secret"), "/"):
        error = world.call("path_symlink", *world.text(text), FOLDER, *world.text("absolute2", OTHER_AT))
        assert error == Errno.PERM
    # A link that is fine where it is made, and not where it is moved to.
    assert world.call("path_symlink", *world.text("../../beside"), FOLDER, *world.text("sub/x", OTHER_AT)) == 0
    assert world.call("path_rename", FOLDER, *world.text("sub/x"), FOLDER, *world.text("x", OTHER_AT)) == 0
    assert world.open("x/secret") == -Errno.PERM
    # A folder that was opened further down leads no higher than itself.
    sub = world.open("sub", Oflags.DIRECTORY)
    assert world.call("path_open", sub, 1, *world.text("../file"), 0, 2, 0, 0, RESULT_AT) == Errno.PERM


def test_too_many_links_and_too_long_paths(world: Own, folders: tuple[Path, Path]) -> None:
    given, _ = folders
    for number in range(1, 42):
        (given / f"link{number}").symlink_to(f"link{number - 1}" if number > 1 else "file")
    assert world.open("link40") >= 0
    assert world.open("link41") == -Errno.LOOP
    (given / "sub" / "loop").symlink_to("../sub/loop")
    assert world.open("sub/loop/x") == -Errno.LOOP
    assert world.open("./" * 2000 + "file") >= 0
    assert world.open("./" * 2046 + "file") == -Errno.NAMETOOLONG
    assert world.open("n" * 256) == -Errno.NAMETOOLONG
    assert world.open(b"\xff") == -Errno.ILSEQ
    assert world.open("fi\0le") == -Errno.INVAL
    assert world.open("") == -Errno.NOENT


# ----------------------------------------------------------------------------------------------------------------------
# Races


def test_a_file_that_becomes_a_link_is_not_followed(
    world: Own, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, beside = folders
    look = resolution._link

    def swapped(here: int, name: bytes) -> bytes | None:
        found = look(here, name)
        if name == b"victim":
            (given / "victim").unlink()
            (given / "victim").symlink_to(beside / "secret")
        return found

    monkeypatch.setattr(resolution, "_link", swapped)
    calls: list[Callable[[], Any]] = [
        lambda: world.open("victim"),
        lambda: world.open("victim", Oflags.CREAT | Oflags.TRUNC, BOTH),
        lambda: world.call("path_filestat_set_times", FOLDER, 1, *world.text("victim"), 1, 1, 5),
    ]
    before = (beside / "secret").stat()
    for call in calls:
        (given / "victim").unlink(missing_ok=True)
        (given / "victim").write_text("harmless")
        call()
        after = (beside / "secret").stat()
        assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    (given / "victim").unlink()
    (given / "victim").write_text("harmless")
    assert world.open("victim") == -Errno.LOOP
    (given / "victim").unlink()
    (given / "victim").write_text("harmless")
    assert world.call("path_filestat_get", FOLDER, 1, *world.text("victim"), RESULT_AT) == 0
    assert world.record(Filestat).size != len(SECRET)


def test_a_folder_that_becomes_a_link_is_not_entered(
    world: Own, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, beside = folders
    look = resolution._link
    (given / "victim").write_text("no folder, at first")

    def swapped(here: int, name: bytes) -> bytes | None:
        if name == b"victim" and not (given / "victim").is_symlink():
            (given / "victim").unlink()
            (given / "victim").symlink_to("../beside")
        return look(here, name)

    monkeypatch.setattr(resolution, "_link", swapped)
    assert world.open("victim/secret") == -Errno.PERM
    assert (given / "victim").is_symlink()
    assert (beside / "secret").read_text() == SECRET


def test_a_folder_that_is_moved_out_leads_back_in(
    world: Own, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, beside = folders
    enter = Walk._enter

    def moved(self: Walk, here: int, name: bytes) -> bytes | None:
        found = enter(self, here, name)
        if name == b"deep":
            (given / "sub" / "deep").rename(beside / "inner" / "deep")
        return found

    monkeypatch.setattr(Walk, "_enter", moved)
    assert world.open("sub/deep/../../../beside/secret") == -Errno.PERM
    assert (beside / "inner" / "deep").is_dir()
    (beside / "inner" / "deep").rename(given / "sub" / "deep")
    assert world.take(world.open("sub/deep/../../file")) == b"for programs"


# ----------------------------------------------------------------------------------------------------------------------
# Nothing that may not be changed is; nothing stays open


def test_a_folder_that_may_not_be_changed_is_not(folders: tuple[Path, Path]) -> None:
    given, _ = folders
    world = Own(lambda config: config.preopen_dir(str(given), "/", False))
    before = tree(given), (given / "file").stat().st_mtime_ns
    here, other = world.text("file"), world.text("sub/fresh", OTHER_AT)
    for call in (
        ("path_create_directory", FOLDER, *other),
        ("path_unlink_file", FOLDER, *here),
        ("path_remove_directory", FOLDER, *here),
        ("path_symlink", *here, FOLDER, *other),
        ("path_link", FOLDER, 0, *here, FOLDER, *other),
        ("path_rename", FOLDER, *here, FOLDER, *other),
        ("path_filestat_set_times", FOLDER, 0, *here, 1, 1, 5),
        ("fd_filestat_set_times", FOLDER, 1, 1, 5),
    ):
        assert world.call(*call) == Errno.PERM, call
    for oflags, rights in ((1, 2), (8, 2), (0, 64), (0, 66), (9, 66)):
        assert world.open("file", oflags, rights) == -Errno.PERM
    file = world.open("file")
    assert world.take(file) == b"for programs"
    for name, args in (("fd_filestat_set_size", (0,)), ("fd_allocate", (0, 99)), ("fd_filestat_set_times", (1, 1, 5))):
        assert world.call(name, file, *args) == Errno.PERM
    assert world.put(file, b"x") == -Errno.BADF
    below = world.open("sub", Oflags.DIRECTORY)
    assert world.call("path_create_directory", below, *world.text("x")) == Errno.PERM
    assert before == (tree(given), (given / "file").stat().st_mtime_ns)
    world.close()


def test_nothing_moves_between_a_folder_that_may_be_changed_and_one_that_may_not(tmp_path: Path) -> None:
    for name in ("changed", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)

    def configure(config: Any) -> None:
        config.preopen_dir(str(tmp_path / "changed"), "/changed")
        config.preopen_dir(str(tmp_path / "kept"), "/kept", False)

    world = Own(configure)
    for name, flags in (("path_rename", ()), ("path_link", (0,))):
        for source, target in ((3, 4), (4, 3)):
            call = (name, source, *flags, *world.text("file"), target, *world.text("fresh", OTHER_AT))
            assert world.call(*call) == Errno.PERM
    assert tree(tmp_path) == [("changed", None), ("changed/file", "changed"), ("kept", None), ("kept/file", "kept")]
    world.close()


def open_descriptors() -> set[str]:
    return {each for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")}


def test_nothing_stays_open(folders: tuple[Path, Path]) -> None:
    given, beside = folders
    Own(lambda config: None).close()  # what is opened once for all
    before = open_descriptors()
    world = Own(lambda config: config.preopen_dir(str(given), "/"))
    begun = open_descriptors()
    assert len(begun) == len(before) + 1
    for path in [*leading_out(beside), "sub/deep/../deep/nothing", "itself/itself/file/x", "sub/deep/../../sub"]:
        for oflags in (0, Oflags.CREAT, Oflags.DIRECTORY):
            descriptor = world.open(path, oflags)
            if descriptor >= 0:
                world.call("fd_readdir", descriptor, DATA_AT, 100, 0, RESULT_AT)
                assert world.call("fd_close", descriptor) == 0
        world.call("path_filestat_get", FOLDER, 1, *world.text(path), RESULT_AT)
        world.call("path_rename", FOLDER, *world.text(path), FOLDER, *world.text("sub/deep/x", OTHER_AT))
    assert open_descriptors() == begun
    kept = [world.open("file"), world.open("sub"), world.open("sub/deep")]
    assert world.call("fd_renumber", kept[0], kept[1]) == 0
    world.store.set_wasi(lh.WasiConfig())
    assert open_descriptors() == before
    world.close()
    world = Own(lambda config: config.preopen_dir(str(given), "/"))
    world.open("file")
    world.close()
    assert open_descriptors() == before
    config = lh.WasiConfig()
    config.stdout_file = given / "output"
    config.preopen_dir(given, "/")
    config.preopen_dir(given / "nothing", "/nothing")
    with lh.Store() as store:
        for _ in range(2):
            with pytest.raises(lh.LowheapError, match=r"preopen_dir: cannot open '.*nothing': No such file"):
                store.set_wasi(config)
        assert store.wasi is None
    assert open_descriptors() == before


# ----------------------------------------------------------------------------------------------------------------------
# Random trees


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_OPENAT2, _RESOLVE_BENEATH = 437, 8
_libc = ctypes.CDLL(None, use_errno=True)


def of_the_system(root: int, path: bytes, *, follow: bool) -> int | tuple[int, int]:
    """Where a path leads, as the system has it: WASI's number of an error, or device and inode."""
    how = _How(os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW), 0, _RESOLVE_BENEATH)
    found = _libc.syscall(_OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
    if found < 0:
        error = ctypes.get_errno()
        return Errno.PERM if error == errno.EXDEV else number_of(OSError(error, ""))
    try:
        status = os.fstat(found)
        return status.st_dev, status.st_ino
    finally:
        os.close(found)


def of_ours(root: int, path: bytes, *, follow: bool) -> int | tuple[int, int]:
    try:
        with Walk(root, path, follow=follow) as walk:
            status = os.stat(walk.name, dir_fd=walk.folder, follow_symlinks=False)
            if walk.must_be_folder and not stat.S_ISDIR(status.st_mode):
                return Errno.NOTDIR
            return status.st_dev, status.st_ino
    except WasiError as error:
        return error.number
    except OSError as error:
        return number_of(error)


def has_openat2() -> bool:
    root = os.open("/", os.O_PATH)
    try:
        return not isinstance(of_the_system(root, b".", follow=True), int)
    finally:
        os.close(root)


NAMES = st.sampled_from(["a", "b", "c", ".", ".."])
PATHS = st.builds(
    lambda begin, names, end: begin + "/".join(names) + end,
    st.sampled_from(["", "", "", "", "/"]),
    st.lists(NAMES, min_size=1, max_size=6),
    st.sampled_from(["", "", "/"]),
)
PLACES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
TREES = st.lists(st.tuples(PLACES, st.one_of(st.just("file"), st.just("folder"), st.tuples(PATHS))), max_size=10)


@pytest.mark.skipif(not has_openat2(), reason="the system has no openat2")
@settings(max_examples=examples(150, 5000), deadline=None)
@given(TREES, st.lists(PATHS, min_size=1, max_size=8))
def test_paths_lead_where_the_system_has_them_lead(trees: list[tuple[str, Any]], paths: list[str]) -> None:
    top = tempfile.mkdtemp()
    try:
        given = os.path.join(top, "a", "given")  # so that `..` has names that are also in there
        os.makedirs(given)
        for place, what in trees:
            path = os.path.join(given, place)
            if os.path.isdir(os.path.dirname(path)) and not os.path.islink(os.path.dirname(path)):
                _plant(path, what)
        root = os.open(given, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for each in paths:
                for follow in (False, True):
                    path = each.encode()
                    assert of_ours(root, path, follow=follow) == of_the_system(root, path, follow=follow), each
        finally:
            os.close(root)
    finally:
        shutil.rmtree(top)


def _plant(path: str, what: Any) -> None:
    if os.path.lexists(path):
        return
    if what == "file":
        Path(path).touch()
    elif what == "folder":
        os.mkdir(path)
    else:
        os.symlink(what[0], path)
