"""The options of an engine: what each may be, and what it is when nobody says.

They are `Engine`'s arguments, and the attributes of a `Config`, with wasmtime's names where it has them. A value is
checked when it is given.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, Unpack

import platformdirs

from lowheap.collectors.interface import Collector

RUNTIMES = ("native", "python")
OPT_LEVELS = (0, 1, 2, 3)
INLINE = ("auto", "always", "never")
COMPILATION = ("auto", "whole", "by_need")

MAX_WASM_STACK = 512 * 1024
"""Bytes of native stack that compiled code may use from its outermost entry on (wasmtime's default)."""

CRANELIFT_OPT_LEVELS = {"none": 0, "speed": 2}
"""wasmtime's names of levels, and LLVM's levels that are meant."""

PROPOSALS = (
    "multi_value",
    "function_references",
    "gc",
    "bulk_memory",
    "simd",
    "relaxed_simd",
    "threads",
    "tail_call",
    "multi_memory",
    "memory64",
    "exceptions",
    "wide_arithmetic",
    "custom_page_sizes",
)
"""The proposals that can be switched off, by wasmtime's names less `wasm_`.

Reference types cannot: an engine of wasmtime's package without them ends the process.
"""

_NEEDED_BY = {"function_references": ("gc",), "simd": ("relaxed_simd",)}
"""What goes with a proposal that is switched off."""

_log = logging.getLogger("lowheap.engine")


class Options(TypedDict, total=False):
    """The options, as type checkers see them; `Config` says what they mean."""

    collector: str | type[Collector] | Collector | None
    barriers: str | type[Collector] | Collector | None
    runtime: str
    opt_level: int
    compilation: str
    cranelift_opt_level: str
    inline: str
    interruptible: bool
    consume_fuel: bool
    epoch_interruption: bool
    cranelift_nan_canonicalization: bool
    max_wasm_stack: int
    cache: bool | str | os.PathLike[str] | None
    wasm_multi_value: bool
    wasm_function_references: bool
    wasm_gc: bool
    wasm_bulk_memory: bool
    wasm_simd: bool
    wasm_relaxed_simd: bool
    wasm_threads: bool
    wasm_tail_call: bool
    wasm_multi_memory: bool
    wasm_memory64: bool
    wasm_exceptions: bool
    wasm_wide_arithmetic: bool
    wasm_custom_page_sizes: bool


class Config:
    """Options of engines: `Engine(config)`. Each is an attribute, and an argument of `Config` and of `Engine`.

    `collector` says what frees objects, and what code surrounds every access to a reference: "drc", "null", the name of
    an entry point in the group `lowheap.collectors`, "module:Class", "file.py:Class", a `Collector` class or an
    instance of one. `barriers`, in the same words, is a variation of its barriers, "outlined" for one, and stands for
    the collector when that is not given. `runtime` says who allocates, drops and collects for compiled code: "native"
    is compiled too, and inline where it is hot; "python" is the heap of `heap.py`, called back. `opt_level` is LLVM's,
    0 to 3; `cranelift_opt_level` is the same in wasmtime's words, "none" or "speed". `compilation` is when: "whole",
    when the module is made; "by_need", function by function, when one is called first; "auto", the default, by need
    where the module is large, see `Module.is_compiled_by_need`. `inline` is about allocation, barriers and casts:
    "always" inlines all of them; "never" calls functions for them but for the tiny ones, which is slower and compiles
    several times faster; "auto", the default, does either where it is worth it, see `wasm/events.py`.

    `interruptible` code looks up where a loop goes round, and where functions may call without end, so that Python runs
    signal handlers while it runs, and Ctrl-C stops it: see `docs/webassembly.md`. False leaves that out.
    `consume_fuel` has code count its instructions, and trap when there is none left of what `Store.set_fuel` gave it.
    `epoch_interruption` has code trap once `Engine.increment_epoch` was called as often as `Store.set_epoch_deadline`
    said; such code must be interruptible.
    `cranelift_nan_canonicalization` has code compute the same NaN on every machine, the canonical one, see
    `wasm/nans.py`; False leaves that to the machine.

    `max_wasm_stack` is how many bytes of native stack code may use from its outermost entry on.

    `cache` is where compiled modules are kept for the next time: a directory, or True for lowheap's in the user's cache
    directory; None or False, the default, for nowhere. An entry is used only when everything that its code depends on
    is the same, see `jit/cache.py`. The code in that directory is run: it must be one that only its user writes.

    `wasm_gc = False`, and likewise the other proposals of `PROPOSALS`, has modules refused that use it, or what needs
    it. All are on.
    """

    collector: str | type[Collector] | Collector | None
    barriers: str | type[Collector] | Collector | None
    runtime: str
    opt_level: int
    compilation: str
    cranelift_opt_level: str
    inline: str
    interruptible: bool
    consume_fuel: bool
    epoch_interruption: bool
    cranelift_nan_canonicalization: bool
    max_wasm_stack: int
    cache: bool | str | os.PathLike[str] | None
    wasm_multi_value: bool
    wasm_function_references: bool
    wasm_gc: bool
    wasm_bulk_memory: bool
    wasm_simd: bool
    wasm_relaxed_simd: bool
    wasm_threads: bool
    wasm_tail_call: bool
    wasm_multi_memory: bool
    wasm_memory64: bool
    wasm_exceptions: bool
    wasm_wide_arithmetic: bool
    wasm_custom_page_sizes: bool

    def __init__(self, **options: Unpack[Options]) -> None:
        """Begin with the defaults, and these options. TypeError for one that does not exist."""
        vars(self).update({name: default for name, (default, _) in _OPTIONS.items()})
        for name, value in options.items():
            if name not in _NAMES:
                raise TypeError(f"there is no option {name!r}; there are {', '.join(_NAMES)}")
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an option. AttributeError for one that does not exist, TypeError or ValueError for a wrong value."""
        if name == "cranelift_opt_level":
            if value not in list(CRANELIFT_OPT_LEVELS):
                raise ValueError(f"cranelift_opt_level is {value!r}; it must be {' or '.join(CRANELIFT_OPT_LEVELS)}")
            self.opt_level = CRANELIFT_OPT_LEVELS[value]
            return
        if name not in _OPTIONS:
            raise self._no_option(name)
        _, check = _OPTIONS[name]
        check(name, value)
        vars(self)[name] = value

    def __getattr__(self, name: str) -> Any:
        """Refuse what is no option. AttributeError that names those that there are."""
        if name == "cranelift_opt_level":
            for said, level in CRANELIFT_OPT_LEVELS.items():
                if level == self.opt_level:
                    return said
            raise AttributeError(f"wasmtime has no name for the opt_level {self.opt_level}", name=name, obj=self)
        raise self._no_option(name)

    def _no_option(self, name: str) -> AttributeError:
        return AttributeError(f"there is no option {name!r}; there are {', '.join(_NAMES)}", name=name, obj=self)

    def __repr__(self) -> str:
        """Show what is not as it is by default."""
        values = {name: (getattr(self, name), default) for name, (default, _) in _OPTIONS.items()}
        given = [f"{name}={value!r}" for name, (value, default) in values.items() if value != default]
        return f"Config({', '.join(given)})"

    @property
    def proposals_off(self) -> frozenset[str]:
        """The proposals that are switched off, and those that need one that is."""
        off = {each for each in PROPOSALS if not getattr(self, f"wasm_{each}")}
        return frozenset(off.union(*(_NEEDED_BY.get(each, ()) for each in off)))

    @property
    def cache_directory(self) -> Path | None:
        """The directory that `cache` means. None, with a warning in the log, where the user has none."""
        if self.cache is None or self.cache is False:
            return None
        if self.cache is True:
            directory = platformdirs.user_cache_path("lowheap")
            if directory.is_absolute():
                return directory
            _log.warning("compiled code is not cached: this user has no home directory")
            return None
        return Path(os.path.abspath(self.cache))


def _check_collector(name: str, given: Any) -> None:
    is_class = isinstance(given, type) and issubclass(given, Collector)
    if given is not None and not is_class and (not isinstance(given, str | Collector) or not given):
        raise TypeError(f"{name} is {given!r}; it must be a collector's name, a Collector class or an instance")


def _one_of(what: str, allowed: tuple[Any, ...], described: str) -> Callable[[str, Any], None]:
    def check(_: str, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"there is no {what} {value!r}; there are {described}")

    return check


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be a bool")


def _check_stack_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be an int")
    if not 0 < value < 1 << 63:
        raise ValueError(f"{name} is {value}; it must be positive, and less than 2^63")


def _check_cache(name: str, value: Any) -> None:
    if value is None or isinstance(value, bool):
        return
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(f"{name} is {value!r}; it must be a directory's path, True for the user's cache, or None")


_OPTIONS: dict[str, tuple[Any, Callable[[str, Any], None]]] = {
    "collector": (None, _check_collector),
    "barriers": (None, _check_collector),
    "runtime": ("native", _one_of("runtime", RUNTIMES, ", ".join(RUNTIMES))),
    "opt_level": (2, _one_of("optimisation level", OPT_LEVELS, f"0 to {OPT_LEVELS[-1]}")),
    "compilation": ("auto", _one_of("compilation", COMPILATION, ", ".join(COMPILATION))),
    "inline": ("auto", _one_of("inline", INLINE, ", ".join(INLINE))),
    "interruptible": (True, _check_bool),
    "consume_fuel": (False, _check_bool),
    "epoch_interruption": (False, _check_bool),
    "cranelift_nan_canonicalization": (False, _check_bool),
    "max_wasm_stack": (MAX_WASM_STACK, _check_stack_size),
    "cache": (None, _check_cache),
    **{f"wasm_{each}": (True, _check_bool) for each in PROPOSALS},
}
"""Each option's default, and what refuses a wrong value of it."""

_NAMES = (*_OPTIONS, "cranelift_opt_level")
