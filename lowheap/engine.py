"""What stores and modules share: the type registry, and how code is compiled."""

from __future__ import annotations

from lowheap.types import TypeRegistry

RUNTIMES = ("native", "python")
OPT_LEVELS = (0, 1, 2, 3)


class Engine:
    """The type registry, and the options that modules are compiled with.

    `barriers` names the barrier set whose code surrounds every access to a reference: "drc", "null", "outlined", the
    name of an entry point in the group `lowheap.barriers`, or "module:Class". `runtime` says who allocates, drops and
    collects for compiled code: "native" is compiled too, and inline where it is hot; "python" is the heap of `heap.py`,
    called back. `opt_level` is LLVM's, 0 to 3.
    """

    def __init__(self, *, barriers: str = "drc", runtime: str = "python", opt_level: int = 2) -> None:
        """Make an engine with an empty type registry. ValueError for an option that does not exist."""
        if not isinstance(barriers, str) or not barriers:
            raise TypeError(f"barriers is {barriers!r}; it must be the name of a barrier set")
        if runtime not in RUNTIMES:
            raise ValueError(f"there is no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
        if opt_level not in OPT_LEVELS:
            raise ValueError(f"there is no optimisation level {opt_level!r}; there are 0 to {OPT_LEVELS[-1]}")
        self.types = TypeRegistry()
        self.barriers = barriers
        self.runtime = runtime
        self.opt_level = opt_level
