"""What stores and modules share: the type registry, and how code is compiled."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import platformdirs

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.copying import NotCopied
from lowheap.errors import CompilerError
from lowheap.types import TypeRegistry

RUNTIMES = ("native", "python")
OPT_LEVELS = (0, 1, 2, 3)
INLINE = ("auto", "always", "never")

_log = logging.getLogger("lowheap.engine")


class Engine(NotCopied):
    """The type registry, and the options that modules are compiled with.

    `collector` says what frees objects, and what code surrounds every access to a reference: "drc", "null", the name of
    an entry point in the group `lowheap.collectors`, "module:Class", "file.py:Class", a `Collector` class or an
    instance of one. `barriers`, in the same words, is a variation of its barriers, "outlined" for one, and stands for
    the collector when that is not given. `runtime` says who allocates, drops and collects for compiled code: "native"
    is compiled too, and inline where it is hot; "python" is the heap of `heap.py`, called back. `opt_level` is LLVM's,
    0 to 3. `inline` is about allocation, barriers and casts: "always" inlines all of them; "never" calls functions for
    them but for the tiny ones, which is slower and compiles several times faster; "auto", the default, does either
    where it is worth it, see `wasm/events.py`.

    `interruptible` code looks up where a loop goes round, and where functions may call without end, so that Python runs
    signal handlers while it runs, and Ctrl-C stops it: see `docs/webassembly.md`. False leaves that out.

    `cache` is where compiled modules are kept for the next time: a directory, or True for lowheap's in the user's cache
    directory; None or False, the default, for nowhere. An entry is used only when everything that its code depends on
    is the same, see `jit/cache.py`. The code in that directory is run: it must be one that only its user writes.
    """

    NOT_COPIED_BECAUSE = "stores and modules tell engines apart; make another one with the same options"

    def __init__(
        self,
        *,
        collector: str | type[Collector] | Collector | None = None,
        barriers: str | type[Collector] | Collector | None = None,
        runtime: str = "native",
        opt_level: int = 2,
        inline: str = "auto",
        interruptible: bool = True,
        cache: bool | str | os.PathLike[str] | None = None,
    ) -> None:
        """Make an engine with an empty type registry. ValueError for an option that does not exist."""
        chosen = _collector(collector, barriers)
        if runtime not in RUNTIMES:
            raise ValueError(f"there is no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
        if opt_level not in OPT_LEVELS:
            raise ValueError(f"there is no optimisation level {opt_level!r}; there are 0 to {OPT_LEVELS[-1]}")
        if inline not in INLINE:
            raise ValueError(f"there is no inline {inline!r}; there are {', '.join(INLINE)}")
        if not isinstance(interruptible, bool):
            raise TypeError(f"interruptible is {interruptible!r}; it must be a bool")
        self.types = TypeRegistry()
        self.collector = chosen
        self.runtime = runtime
        self.opt_level = opt_level
        self.inline = inline
        self.interruptible = interruptible
        self.cache = _cache_directory(cache)


def _collector(collector: Any, barriers: Any) -> Collector:
    for what, given in (("collector", collector), ("barriers", barriers)):
        is_class = isinstance(given, type) and issubclass(given, Collector)
        if given is not None and not is_class and (not isinstance(given, str | Collector) or not given):
            raise TypeError(f"{what} is {given!r}; it must be a collector's name, a Collector class or an instance")
    found = registry.find("drc" if collector is None else collector)
    if barriers is None:
        return found
    varied = registry.find(barriers)
    if collector is not None and not isinstance(varied, type(found)):
        raise CompilerError(f"the barriers {varied.name} are no variation of those of the collector {found.name}")
    return varied


def _cache_directory(cache: bool | str | os.PathLike[str] | None) -> Path | None:
    if cache is None or cache is False:
        return None
    if cache is True:
        directory = platformdirs.user_cache_path("lowheap")
        if directory.is_absolute():
            return directory
        _log.warning("compiled code is not cached: this user has no home directory")
        return None
    if not isinstance(cache, str | os.PathLike) or not os.fspath(cache):
        raise TypeError(f"cache is {cache!r}; it must be a directory's path, True for the user's cache, or None")
    return Path(os.path.abspath(cache))
