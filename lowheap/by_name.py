"""What a user names in a word: `module:Name`, of a module that can be imported, or `file.py:Name`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

from lowheap.errors import LowheapError

_LOWHEAP = Path(__file__).parent


def is_a_place(name: str) -> bool:
    """Whether a word says where something is."""
    return ":" in name


def load(name: str, what: str, kind: type[LowheapError]) -> Any:
    """Return what is at a place. `kind` of an error, which calls it `what`, where it cannot be had."""
    module_name, _, its_name = name.rpartition(":")
    try:
        module = _from_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
        return getattr(module, its_name)
    except _NoFile as error:
        raise kind(str(error)) from None
    except (Exception, SystemExit) as error:  # a module of anybody's is run: anything
        raise kind(not_loaded(name, what, error)) from error


def not_loaded(name: str, what: str, error: BaseException) -> str:
    """Say why something was not loaded: the error, and the last line of the module's own, where it has come to one."""
    places = [each for each in traceback.extract_tb(error.__traceback__) if _is_of_others(each.filename)]
    where = f" ({places[-1].filename}:{places[-1].lineno})" if places else ""
    return f"cannot load the {what} {name!r}: {type(error).__name__}: {error}{where}"


def _is_of_others(file: str) -> bool:
    """Whether a file is neither lowheap's nor the import system's."""
    return not file.startswith("<") and importlib.__file__ != file and _LOWHEAP not in Path(file).parents


class _NoFile(Exception):
    pass


def _from_file(path: str) -> Any:
    """Import a file of one's own, once for each path."""
    file = Path(path).resolve()
    name = f"{file.stem}_{zlib.crc32(os.fsencode(file)):x}" if file.stem in sys.modules else file.stem
    for known in sys.modules.values():
        if getattr(known, "__file__", None) == str(file):
            return known
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise _NoFile(f"there is no file {path!r}")
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
