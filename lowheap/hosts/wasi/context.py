"""What a store has of WASI: arguments, environment, descriptors, and the memory of who calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from lowheap.copying import NotCopied
from lowheap.errors import LowheapError
from lowheap.hosts.wasi.descriptors import Descriptor, Directory, File, Opened, Table
from lowheap.hosts.wasi.errors import WasiError
from lowheap.hosts.wasi.guest import GuestMemory
from lowheap.hosts.wasi.layout import Errno
from lowheap.runtime.host_functions import Caller
from lowheap.wasm.memories import Memory

_Kind = TypeVar("_Kind", bound=Descriptor)

MEMORY = "memory"
"""The name that the memory is exported by which addresses are of."""


class Context(NotCopied):
    """The state of a program's world. `WasiConfig` says what it begins as; `close` closes all descriptors."""

    NOT_COPIED_BECAUSE = "it has files of the system's open; Store.set_wasi makes another one"

    def __init__(self, arguments: Sequence[bytes], environment: Sequence[bytes], descriptors: Table) -> None:
        """Begin. Each variable of the environment is `NAME=value`."""
        self.arguments = arguments
        self.environment = environment
        self.descriptors = descriptors
        self._guest: GuestMemory | None = None

    def guest(self, caller: Caller, name: str) -> GuestMemory:
        """Return the memory of who calls. LowheapError, naming the function, without one."""
        memory = caller.get(MEMORY)
        guest = self._guest
        if guest is not None and guest.memory is memory:
            guest.look()
            return guest
        if not isinstance(memory, Memory):
            what = "nothing" if memory is None else repr(memory)
            raise LowheapError(
                f"{name} is called by an instance that exports {what} as {MEMORY!r}; "
                "a program of WASI's must export its memory by that name"
            )
        self._guest = guest = GuestMemory(memory)
        return guest

    def opened(self, number: int) -> Opened:
        """Return a file or a folder. EBADF for what is neither."""
        return _checked(self.descriptors.get(number), Opened)

    def file(self, number: int) -> File:
        """Return a file. EBADF for what is none."""
        return _checked(self.descriptors.get(number), File)

    def directory(self, number: int, otherwise: Errno = Errno.BADF) -> Directory:
        """Return a folder. EBADF where there is nothing, or a stream; `otherwise` for a file."""
        found = self.descriptors.get(number)
        if isinstance(found, File):
            raise WasiError(otherwise)
        return _checked(found, Directory)

    def close(self) -> None:
        """Close all descriptors; the memory is let go of."""
        self._guest = None
        self.descriptors.close()


def _checked(found: Descriptor, kind: type[_Kind]) -> _Kind:
    if not isinstance(found, kind):
        raise WasiError(Errno.BADF)
    return found
