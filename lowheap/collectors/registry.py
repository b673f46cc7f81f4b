"""Collectors by name: those that lowheap has, those of other packages, and one's own."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

from lowheap.collectors.drc.collector import Drc, Outlined
from lowheap.collectors.interface import Collector
from lowheap.collectors.null.collector import Null
from lowheap.errors import CompilerError

ENTRY_POINT_GROUPS = ("lowheap.collectors", "lowheap.barriers")
"""Where other packages register theirs: a collector, or a variation of one's barriers."""

_LOWHEAP = Path(__file__).parent.parent

BUILT_IN: dict[str, type[Collector]] = {kind.name: kind for kind in (Drc, Outlined, Null)}

UNNAMED: tuple[type[Collector], ...] = (Drc, Outlined, Null)
"""Those whose heaps are told apart by whether they count, where nothing has the collector's name, as in a dump."""


def is_built_in(collector: Collector) -> bool:
    """Whether a collector is one of lowheap's own, not of a class derived from one."""
    return BUILT_IN.get(collector.name) is type(collector)


def name_of(collector: Collector) -> str:
    """Return what tells a collector from others outside of this process: a built-in's name, or `module:Class`."""
    kind = type(collector)
    return collector.name if is_built_in(collector) else f"{kind.__module__}:{kind.__qualname__}"


def find(wanted: str | type[Collector] | Collector) -> Collector:
    """Return the collector that is wanted: one, a class, or a name.

    A name is a built-in's, an entry point's, `module:Class` or `file.py:Class`. CompilerError when there is none such,
    naming those that there are, and when it lacks something, which lowheap's own do not.
    """
    found: Any = _by_name(wanted) if isinstance(wanted, str) else wanted
    if isinstance(found, type) and issubclass(found, Collector):
        try:
            found = found()
        except Exception as error:  # of its own `__init__`: anything
            what = f"cannot make the collector {wanted!r} without arguments"
            raise CompilerError(f"{what}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Collector):
        raise CompilerError(f"the collector {wanted!r} is {found!r}; it must be a subclass of Collector")
    found.check(class_is_sound=is_built_in(found))
    return found


def _by_name(name: str) -> Any:
    if name in BUILT_IN:
        return BUILT_IN[name]
    from importlib import metadata  # here, because it takes long to load

    points = {point.name: point for group in ENTRY_POINT_GROUPS for point in metadata.entry_points(group=group)}
    if name in points:
        try:
            return points[name].load()
        except Exception as error:
            raise _not_loaded(name, error) from error
    module_name, separator, class_name = name.rpartition(":")
    if not separator:
        known = ", ".join(sorted({*BUILT_IN, *points}))
        raise CompilerError(
            f"there is no collector {name!r}; there are {known}, and any `module:Class` or `file.py:Class`"
        )
    try:
        module = _from_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
        return getattr(module, class_name)
    except CompilerError:
        raise
    except (Exception, SystemExit) as error:  # a module of anybody's is run: anything
        raise _not_loaded(name, error) from error


def _not_loaded(name: str, error: BaseException) -> CompilerError:
    """What is told of a collector whose module cannot be run: the error, and the last line of the module's own."""
    places = [each for each in traceback.extract_tb(error.__traceback__) if _is_of_others(each.filename)]
    where = f" ({places[-1].filename}:{places[-1].lineno})" if places else ""
    return CompilerError(f"cannot load the collector {name!r}: {type(error).__name__}: {error}{where}")


def _is_of_others(file: str) -> bool:
    """Whether a file is neither lowheap's nor the import system's."""
    return not file.startswith("<") and importlib.__file__ != file and _LOWHEAP not in Path(file).parents


def _from_file(path: str) -> Any:
    """Import a file of one's own, once for each path."""
    file = Path(path).resolve()
    name = f"{file.stem}_{zlib.crc32(os.fsencode(file)):x}" if file.stem in sys.modules else file.stem
    for known in sys.modules.values():
        if getattr(known, "__file__", None) == str(file):
            return known
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise CompilerError(f"there is no file {path!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # as for a script: what it imports may be its neighbour
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
