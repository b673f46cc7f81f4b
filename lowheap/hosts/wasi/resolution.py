"""Paths that lead nowhere but below the folder that they start from.

A path is walked name by name. Each folder on the way is opened by its one name, in the folder before it, and never
through a symbolic link; a link is read, and its text walked instead. `..` leads to the folder that the walk has come
through, which it still has open, so no folder that is moved meanwhile leads out. What is beyond the first one is EPERM:
`..` there, absolute paths, absolute links.

The last name is left to the caller, with the folder that it is in. It has no slash and is not `..`, and callers never
have the system follow it. So whatever is put in its place meanwhile, what they do they do in that folder.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.layout import Errno

MOST_LINKS = 40
"""So many links a walk goes through; more are ELOOP."""

LONGEST_PATH = 4096
"""So many bytes a path has at most; more are ENAMETOOLONG."""

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)


class Walk:
    """A walk: within a `with`, `folder` is a descriptor of the system's, and `name` what the path names in there.

    `name` is `.` where a path ends with `.` or `..`. `must_be_folder` says whether there was a slash behind it. With
    `follow`, a last name that is a link is followed, as far as there is something. A slash behind a link has it
    followed too, unless `slash_follows` is False.
    """

    __slots__ = ("_follow", "_opened", "_path", "_slash_follows", "folder", "must_be_folder", "name")

    def __init__(self, root: int, path: bytes, *, follow: bool = False, slash_follows: bool = True) -> None:
        """Be ready to walk from a folder, a descriptor of the system's."""
        self.folder = root
        self.name = b"."
        self.must_be_folder = False
        self._path = path
        self._follow = follow
        self._slash_follows = slash_follows
        self._opened: list[int] = []

    def __enter__(self) -> Walk:
        """Walk. WasiError, or the system's OSError, where the path leads nowhere."""
        try:
            self._walk()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the folders on the way."""
        self._close()

    def _close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def _walk(self) -> None:
        root, opened = self.folder, self._opened
        pending = self._names(self._path)
        links = 0
        while pending:
            name = pending.pop()
            here = opened[-1] if opened else root
            if name == b".":
                continue
            if name == b"..":
                if not opened:
                    raise WasiError(Errno.PERM)
                os.close(opened.pop())
                continue
            if pending:
                text = self._enter(here, name)
            elif self._follow or (self.must_be_folder and self._slash_follows):
                text = _link(here, name)
                if text is None:
                    self.folder, self.name = here, name
                    return
            else:
                self.folder, self.name = here, name
                return
            if text is not None:
                links += 1
                if links > MOST_LINKS:
                    raise WasiError(Errno.LOOP)
                is_last = not pending
                had_slash = self.must_be_folder
                pending += self._names(text)
                self.must_be_folder = had_slash or (is_last and self.must_be_folder)
        self.folder = opened[-1] if opened else root
        self.must_be_folder = True

    def _names(self, path: bytes) -> list[bytes]:
        """Return the names of a path, the last one first, and note whether a slash is behind that."""
        if not path:
            raise WasiError(Errno.NOENT)
        if len(path) >= LONGEST_PATH:
            raise WasiError(Errno.NAMETOOLONG)
        if path.startswith(b"/"):
            raise WasiError(Errno.PERM)
        self.must_be_folder = path.endswith(b"/")
        return [each for each in reversed(path.split(b"/")) if each]

    def _enter(self, here: int, name: bytes) -> bytes | None:
        """Go into a folder; or return the text of a link that is in its place."""
        try:
            self._opened.append(os.open(name, _FOLDER, dir_fd=here))
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            text = _link(here, name)
            if text is None:
                raise
            return text
        return None


def _link(here: int, name: bytes) -> bytes | None:
    """Return the text of a link; None for what is none, or not there."""
    try:
        return os.readlink(name, dir_fd=here)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise
