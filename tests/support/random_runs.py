"""Runs of a generated program, in wasmtime and in lowheap: what they show, and what they leave behind."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lowheap as lh
from lowheap.collectors.shared.allocator import walk_as_collected
from lowheap.collectors.shared.free_lists import give_back, push_free
from lowheap.layout import HEADER_SIZE
from support import wasmtime_peer
from support.example_runs import host_callable
from support.program_generator import HOST_FUNCTIONS

ARGUMENTS = (0, 3, -1)
"""Each program runs with each of these in turn, on one instance."""


class Box:
    """A value of the host's."""

    def __init__(self, number: int) -> None:
        self.number = number


class Host:
    """The host functions, the same for all engines; what they keep is the run's own."""

    def __init__(self, again: Callable[[int], int], tick: Callable[[], None]) -> None:
        self.functions: dict[str, Callable[..., Any]] = {
            "tick": tick,
            "number": lambda n: (n * 7 + 3) % 1000,
            "again": again,
            "box": lambda n: None if n % 5 == 0 else Box(n),
            "unbox": lambda box: -1 if box is None else box.number,
            "pair": lambda n, box: (box, Box(n) if n % 3 else None),
        }
        assert self.functions.keys() == HOST_FUNCTIONS.keys()


Outcome = tuple[int | str, int]
"""Of one call of `run`: its result or the sentence of its trap; and the checksum then."""


def run_in_wasmtime(source: str) -> list[Outcome]:
    """Run a program in the `wasmtime` package."""

    exports: dict[str, Callable[..., Any]] = {}
    host = Host(lambda n: int(exports["again"](n)), lambda: None)
    functions = {f"host.{name}": (*HOST_FUNCTIONS[name], function) for name, function in host.functions.items()}
    peer = wasmtime_peer.Peer(source, functions)
    exports["again"] = peer.function("again")
    outcomes: list[Outcome] = []
    for argument in ARGUMENTS:
        try:
            shown: int | str = peer.call("run", argument)[0]
        except wasmtime_peer.PeerTrap as trap:
            shown = trap.message
        outcomes.append((shown, peer.call("hash")[0]))
    exports.clear()  # the package keeps host functions as long as the store, which must not be as long as they live
    return outcomes


@dataclass(frozen=True)
class Configuration:
    """A way to run a program in lowheap."""

    barriers: str
    opt_level: int
    runtime: str
    every: int
    searches: bool = False
    """Whether each collection searches for cycles."""

    def __str__(self) -> str:
        searching = ", searching for cycles" * self.searches
        return f"{self.barriers}, O{self.opt_level}, {self.runtime} runtime, collecting every {self.every}{searching}"


POISON = 0xFF
"""What freed memory is filled with: read as a number it is -1, as a reference an i31; never what was there before."""


class PoisoningStore(lh.Store):
    """A store whose freed objects cannot be mistaken for live ones.

    Python's heap frees one by one, and poisons each; what compiled code freed is poisoned after a collection from here.
    """

    def __init__(self, engine: lh.Engine, *, collect_every: int, searches: bool) -> None:
        self._searches = searches
        super().__init__(engine, collect_every=collect_every)
        self.heap.replacements[give_back] = self._poison_and_free

    def collect(self, *, cycles: bool = False) -> None:
        super().collect(cycles=cycles or self._searches)

    def _poison_and_free(self, index: int, length: int) -> None:
        self._poison(index, length)
        push_free(self.heap.native, index, length, 0)

    def poison(self) -> None:
        for block in walk_as_collected(self.heap.native):
            if block.is_free:
                self._poison(block.index, block.length)

    def _poison(self, index: int, size: int) -> None:
        if size > HEADER_SIZE:
            ctypes.memset(self.heap.memory.base + index + HEADER_SIZE, POISON, size - HEADER_SIZE)


class LowheapRun:
    """A run of a program in lowheap: what it shows, and what it leaves behind."""

    def __init__(self, module: lh.Module, configuration: Configuration, *, acyclic: bool) -> None:
        self.outcomes: list[Outcome] = []
        self.acyclic = acyclic or configuration.searches
        self.cyclic = 0
        """How many objects are live at the end although no root reaches them."""
        store = PoisoningStore(module.engine, collect_every=configuration.every, searches=configuration.searches)
        with store:
            self.store = store
            host = Host(lambda n: int(exports["again"](n)), self._tick)
            functions = {name: host_callable(function) for name, function in host.functions.items()}
            exports = lh.Instance(store, module, {"host": functions}).exports
            for argument in ARGUMENTS:
                try:
                    shown: int | str = exports["run"](argument)
                except lh.Trap as trap:
                    shown = trap.code.message
                self.outcomes.append((shown, exports["hash"]()))
            store.verify()  # takes longer than all the calls: what one of them breaks, the next does not mend
            exports["reset"]()
            store.collect()
            store.verify()
            self.objects_allocated = store.heap.stats().objects_allocated
            if module.engine.collector.counts:
                self._check_what_is_left()
            else:
                assert store.heap.stats().objects_freed == 0

    def _tick(self) -> None:
        self.store.collect()
        self.store.poison()
        self.store.verify()

    def _check_what_is_left(self) -> None:
        """Live is what the globals that cannot be cleared reach, and what cycles reach; the latter only if allowed."""
        heap = self.store.heap
        assert heap.stats().listed == 0
        assert list(heap.handles()) == []
        targets = {each.index: heap.references(each.index) for each in heap.objects()}
        rooted = closure(targets, (reference for _, reference in heap.root_slots()))
        unrooted = targets.keys() - rooted
        self.cyclic = len(unrooted)
        if self.acyclic:
            assert not unrooted, f"{len(unrooted)} objects are live, but nothing refers to them"
            return
        # What is in no cycle, nor behind one, can be taken away one after the other, each when nothing refers to it.
        owners = dict.fromkeys(unrooted, 0)
        for index in unrooted:
            for target in targets[index]:
                if target in owners:
                    owners[target] += 1
        free = [index for index, count in owners.items() if count == 0]
        assert not free, f"objects {free} are live, but nothing refers to them"


def closure(targets: dict[int, list[int]], start: Iterator[int]) -> set[int]:
    """Return all that can be reached."""
    reached: set[int] = set()
    pending = list(start)
    while pending:
        index = pending.pop()
        if index not in reached:
            reached.add(index)
            pending += targets[index]
    return reached
