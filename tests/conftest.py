"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lowheap.collectors.interface import Collector
from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode

pytest.register_assert_rewrite("support")  # assertions there tell as much as those of the tests themselves
from support import combinations  # noqa: E402  # only now, for that


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full`, which `make test-full` gives."""
    parser.addoption("--full", action="store_true", help="run every combination, and more random examples")


def pytest_configure(config: pytest.Config) -> None:
    """Tell those who draw examples, before they are read; and let Ctrl-C be what it is for people."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts so what it does not wait for
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("full"):
        combinations.run_all()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only a full run runs, unless it was asked for."""
    if not config.getoption("full"):
        left_out = {item for item in items if item.get_closest_marker("full")}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def shared_code(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CompiledCode]:
    """What compiles once for all workers what has no cache of its own: runtimes, modules that several tests have."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared code"
    compiled = cache.compiled

    def compiled_once(
        directory: Path | None,
        parts: Mapping[str, str | int | bool],
        compile: Callable[[], CompiledCode],
        collector: Collector | None = None,
    ) -> CompiledCode:
        return compiled(shared if directory is None else directory, parts, compile, collector)

    return compiled_once


@pytest.fixture(autouse=True)
def compiled_code(request: pytest.FixtureRequest, shared_code: Callable[..., CompiledCode]) -> Iterator[None]:
    """Share compiled code, except with tests of the compiler."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("compiler") is None:
            patch.setattr(cache, "compiled", shared_code)
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the command caches, in this process and in those that tests start, out of the user's own directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_finish() -> None:
    """Let Python's garbage collector not look again at what the tests themselves are: a hundred megabytes of them."""
    _freeze()


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Nor at what a file has left, which are caches: else each `gc.collect()` of a test takes most of a second."""
    if nextitem is not None and nextitem.path not in _begun:
        _freeze()
        _begun.add(nextitem.path)


_begun: set[Path] = set()


def _freeze() -> None:
    gc.collect()
    gc.freeze()
