"""Collectors by name: those that lowheap has, those of other packages, and one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lowheap.by_name import is_a_place, load, not_loaded
from lowheap.collectors.drc.collector import Drc, Outlined
from lowheap.collectors.interface import Collector
from lowheap.collectors.null.collector import Null
from lowheap.collectors.rc_immix.collector import RcImmix
from lowheap.errors import CompilerError
from lowheap.layout import CONTROL_OTHER_COLLECTOR, CONTROL_UNCOUNTED

ENTRY_POINT_GROUPS = ("lowheap.collectors", "lowheap.barriers")
"""Where other packages register theirs: a collector, or a variation of one's barriers."""

BUILT_IN: dict[str, type[Collector]] = {kind.name: kind for kind in (Drc, Outlined, Null, RcImmix)}

UNNAMED: tuple[type[Collector], ...] = (Drc, Outlined, Null)
"""Those whose heaps are told apart by whether they count, where nothing has the collector's name, as in a dump."""


def is_built_in(collector: Collector) -> bool:
    """Whether a collector is one of lowheap's own, not of a class derived from one."""
    return BUILT_IN.get(collector.name) is type(collector)


def name_of(collector: Collector) -> str:
    """Return what tells a collector from others outside of this process: a built-in's name, or `module:Class`."""
    kind = type(collector)
    return collector.name if is_built_in(collector) else f"{kind.__module__}:{kind.__qualname__}"


def control_flags(collector: Collector) -> int:
    """Return the flags by which a heap's control block tells of its collector."""
    flags = 0 if collector.counts else CONTROL_UNCOUNTED
    return flags if type(collector) in UNNAMED else flags | CONTROL_OTHER_COLLECTOR


def find(wanted: str | type[Collector] | Collector) -> Collector:
    """Return the collector that is wanted: one, a class, or a name.

    A name is a built-in's, an entry point's, `module:Class` or `file.py:Class`; numbers, `True` and `False` for its
    parameters may follow: `rc-immix(pause_microseconds=1000)`. CompilerError when there is none such, naming those that
    there are, and when it lacks something, which lowheap's own do not.
    """
    name, given = _with_arguments(wanted) if isinstance(wanted, str) else (wanted, {})
    found: Any = _by_name(name) if isinstance(name, str) else name
    if isinstance(found, type) and issubclass(found, Collector):
        try:
            found = found(**given)
        except Exception as error:  # of its own `__init__`: anything
            how = f"with {', '.join(given)}" if given else "without arguments"
            what = f"cannot make the collector {wanted!r} {how}"
            raise CompilerError(f"{what}: {type(error).__name__}: {error}") from error
    elif given:
        raise CompilerError(f"the collector {name!r} is made already, so it cannot take {', '.join(given)}")
    if not isinstance(found, Collector):
        raise CompilerError(f"the collector {wanted!r} is {found!r}; it must be a subclass of Collector")
    found.check(class_is_sound=is_built_in(found))
    return found


def find_all(wanted: Sequence[str | type[Collector] | Collector]) -> tuple[Collector, ...]:
    """Return the collectors that are wanted, as `find` does. CompilerError when two have the same name, or none is."""
    found: dict[str, Collector] = {}
    for each in wanted:
        collector = find(each)
        if found.setdefault(name_of(collector), collector) is not collector:
            raise CompilerError(f"the collector {name_of(collector)!r} is named twice; each is wanted once at most")
    if not found:
        raise CompilerError("no collector is named; at least one is wanted")
    return tuple(found.values())


def _with_arguments(wanted: str) -> tuple[str, dict[str, int | bool]]:
    """Return a name and the parameters behind it. CompilerError for what cannot be read."""
    if not wanted.endswith(")"):
        return wanted, {}
    name, _, listed = wanted[:-1].partition("(")
    given: dict[str, int | bool] = {}
    for each in filter(None, listed.split(",")):
        key, _, text = (part.strip() for part in each.partition("="))
        if not key.isidentifier() or not (text in ("True", "False") or text.isdecimal()):
            raise CompilerError(
                f"the collector {wanted!r} has {each.strip()!r} among its parameters; each is as `epoch_bytes=65536`, "
                "a number, True or False"
            )
        given[key] = text == "True" if text in ("True", "False") else int(text)
    return name.strip(), given


def _by_name(name: str) -> Any:
    if name in BUILT_IN:
        return BUILT_IN[name]
    from importlib import metadata  # here, because it takes long to load

    points = {point.name: point for group in ENTRY_POINT_GROUPS for point in metadata.entry_points(group=group)}
    if name in points:
        try:
            return points[name].load()
        except Exception as error:
            raise CompilerError(not_loaded(name, "collector", error)) from error
    if not is_a_place(name):
        known = ", ".join(sorted({*BUILT_IN, *points}))
        raise CompilerError(
            f"there is no collector {name!r}; there are {known}, and any `module:Class` or `file.py:Class`"
        )
    return load(name, "collector", CompilerError)
