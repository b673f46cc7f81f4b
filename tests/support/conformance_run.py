"""One program in a live wasmtime and in lowheap: the same steps, an image after each, and what differs.

A program is a module and a list of steps, `Call` or `COLLECT`. `record` runs it in a peer and keeps every image;
`replay` runs it in lowheap (allocator "first-fit", runtime "python"); `first_difference` compares the two, moment by
moment. A moment is also each call of the host function `host.pause`, which the program may import: it collects, when
its argument is not 0, and an image is taken with the program's frames on the stack.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lowheap as lh
from lowheap.peers import PROBE_WAT, HeapImage, Peer, PeerTrap, run_probe
from lowheap.snapshot import Difference, Image, diff
from support.example_runs import host_callable, results

HostFactory = Callable[[Callable[[str], Callable[..., Any]], Callable[[int], None]], Mapping[str, Callable[..., Any]]]
"""Makes host functions by "module.name" for one side, given what finds its exports, and its `host.pause`."""


@dataclass(frozen=True)
class Call:
    """Call an export. `fresh`, if not None, becomes an externref, which is the first argument."""

    export: str
    arguments: tuple[int, ...] = ()
    fresh: str | None = None

    def __repr__(self) -> str:
        """Python that makes it."""
        fresh = "" if self.fresh is None else f", fresh={self.fresh!r}"
        return f"Call({self.export!r}, {self.arguments!r}{fresh})"


COLLECT = "collect"
Step = Call | str


@dataclass(frozen=True)
class Program:
    """A module's text, what to do with it, and what it imports."""

    source: str
    steps: tuple[Step, ...]
    hosts: HostFactory | None = None
    companions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """What there was after a step: the image, and what the step returned (None for a collection, "trap")."""

    label: str
    image: Any
    returned: object


@dataclass(frozen=True)
class Recording:
    """What a peer did with a program, and the marks of its probe, without which nothing is at the same place."""

    version: str
    program: Program
    marks: tuple[int, int]
    moments: tuple[Moment, ...]


class Mismatch(AssertionError):
    """The two heaps are not the same, or a step did not do the same."""


def pauses(take: Callable[[str, object], None], collect: Callable[[], None]) -> Callable[[int], None]:
    """The host function `host.pause`."""

    def pause(collects: int) -> None:
        if collects:
            collect()
        take("host.pause", None)

    return pause


class InWasmtime:
    """A module in a peer, and steps of it."""

    def __init__(self, peer: Peer, program: Program) -> None:
        """Load the module."""
        self._peer = peer
        self._moments: list[Moment] = []

        def export(name: str) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                returned = peer.call(name, *arguments)
                return returned[0] if len(returned) == 1 else returned

            return call

        pause = pauses(self._take, peer.collect)
        imports: dict[str, Callable[..., Any]] = {"host.pause": pause}
        if program.hosts is not None:
            imports.update(program.hosts(export, pause))
        peer.load(program.source, imports=imports, companions=program.companions)
        self._take("instantiation", None)

    def _take(self, label: str, returned: object) -> None:
        self._moments.append(Moment(label, self._peer.image(), returned))

    def run(self, steps: Sequence[Step]) -> tuple[Moment, ...]:
        """Do the steps, and return the moments since the last time."""
        for step in steps:
            returned: object = None
            if isinstance(step, Call):
                first = () if step.fresh is None else (step.fresh,)
                try:
                    returned = self._peer.call(step.export, *first, *step.arguments)
                except PeerTrap:
                    returned = "trap"
            else:
                self._peer.collect()
            self._take(repr(step), returned)
        moments, self._moments = tuple(self._moments), []
        return moments


def record(peer: Peer, program: Program) -> Recording:
    """Run a program in a peer."""
    moments = InWasmtime(peer, program).run(program.steps)
    return Recording(peer.version, program, peer.marks, moments)


# Compiled code holds no type indices and no addresses of lowheap's, so that a fault which is put into lowheap's Python
# is put into what runs here all the same.
@functools.cache
def engine() -> lh.Engine:
    """The engine of all replays."""
    return lh.Engine(runtime="python")


@functools.cache
def module(source: str) -> lh.Module:
    """A module, compiled once."""
    return lh.Module(engine(), source)


class InLowheap:
    """The same in lowheap, with the allocator "first-fit" unless `store_options` say otherwise."""

    def __init__(
        self, program: Program, marks: tuple[int, int], *, verifies: bool = True, **store_options: Any
    ) -> None:
        """Run the probe with these marks, then instantiate the module. `verifies`: the heap, behind the steps."""
        self.verifies = verifies
        self.store = lh.Store(engine(), **{"allocator": "first-fit", **store_options})
        self._moments: list[Moment] = []
        # wasmtime's host lets go of an externref that it was done with at the next collection, and not before.
        self._held: list[lh.ExternRef] = []
        try:
            self._start(program, marks)
        except BaseException:
            self.store.close()
            raise

    def _start(self, program: Program, marks: tuple[int, int]) -> None:
        def export(name: str) -> Callable[..., Any]:
            found: Callable[..., Any] = self._instance.exports[name]
            return found

        probe = lh.Instance(self.store, module(PROBE_WAT))
        run_probe(lambda name, *arguments: probe.exports[name](*arguments), self.store.collect, marks)
        pause = pauses(self._take, self._collect)
        imports: dict[str, dict[str, Any]] = {"host": {"pause": pause}}
        if program.hosts is not None:
            for name, function in program.hosts(export, pause).items():
                imports[name.partition(".")[0]][name.partition(".")[2]] = self._holding(function)
        for name, companion in program.companions.items():
            imports[name] = dict(lh.Instance(self.store, module(companion)).exports)
        self._instance = lh.Instance(self.store, module(program.source), imports)
        self._take("instantiation", None)

    def _holding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A host function on host values as one on handles, each of which is held as wasmtime holds it."""

        def call(*arguments: Any) -> Any:
            handles = [each for each in arguments if isinstance(each, lh.ExternRef)]
            self._held.extend(handles)
            returned = host_callable(function)(*arguments)
            if returned is None or isinstance(returned, int | float):
                return returned
            self._held.append(lh.ExternRef(self.store, returned))
            return self._held[-1]

        return call

    def _take(self, label: str, returned: object) -> None:
        self._moments.append(Moment(label, self.store.snapshot(), returned))

    def _collect(self) -> None:
        self._held.clear()
        self.store.collect()

    def run(self, steps: Sequence[Step]) -> tuple[Moment, ...]:
        """Do the steps, and return the moments since the last time."""
        for step in steps:
            returned: object = None
            if isinstance(step, Call):
                first = () if step.fresh is None else (lh.ExternRef(self.store, step.fresh),)
                self._held.extend(first)
                try:
                    value = self._instance.exports[step.export](*first, *step.arguments)
                except lh.Trap:
                    returned = "trap"
                else:
                    returned = () if value is None else results(value)
                del first
            else:
                self._collect()
            self._take(repr(step), returned)
        if self.verifies:
            self.store.verify()
        moments, self._moments = tuple(self._moments), []
        return moments


def replay(recording: Recording, **options: Any) -> tuple[Moment, ...]:
    """Run in lowheap what a peer has recorded; `options` are those of `InLowheap`."""
    side = InLowheap(recording.program, recording.marks, **options)
    with side.store:
        return side.run(recording.program.steps)


def wasmtime_image(image: HeapImage) -> Image:
    """A peer's image in the form that ours have."""
    return Image.from_wasmtime(image.data, source=image.source, known=image.probe, list_head=image.list_head)


def same_bytes(ours: Image, theirs: HeapImage) -> list[Difference]:
    """All differences of live objects, header words, counts, list order, sizes, contents, and the heap's capacity."""
    found = diff(ours, wasmtime_image(theirs), include_unconfirmed=True)
    assert ours.control is not None, "an image of lowheap's has a control block"
    if ours.control.capacity != len(theirs.data):
        found.append(Difference(None, "the capacity", ours.control.capacity, len(theirs.data)))
    return found


def first_difference(
    recording: Recording,
    replayed: Sequence[Moment],
    compare: Callable[[Image, HeapImage], Sequence[object]] = same_bytes,
) -> str | None:
    """What differs at the first moment at which something does; None if nothing ever does."""
    for number, (theirs, ours) in enumerate(zip(recording.moments, replayed, strict=False)):
        where = f"moment {number}, after {theirs.label}"
        if (theirs.label, theirs.returned) != (ours.label, ours.returned):
            return f"{where}: {theirs.returned!r} in wasmtime; after {ours.label}: {ours.returned!r} in lowheap"
        if found := compare(ours.image, theirs.image):
            return "\n".join([f"{where} (left: lowheap, right: wasmtime):", *map(str, found)])
    if len(replayed) != len(recording.moments):
        return f"{len(recording.moments)} moments in wasmtime {recording.version}, {len(replayed)} in lowheap"
    return None


def check(
    recording: Recording,
    compare: Callable[[Image, HeapImage], Sequence[object]] = same_bytes,
    **options: Any,
) -> None:
    """Replay, compare, and raise Mismatch at the first difference."""
    found = first_difference(recording, replay(recording, **options), compare)
    if found is not None:
        raise Mismatch(f"wasmtime {recording.version}: {found}")


class Session:
    """One module on both sides for many programs, since loading one takes longer than running a program does.

    Each program begins with a heap in which nothing is live but the probe: `reset` is run in between, and where a
    cycle has leaked all the same, both sides are loaded anew.
    """

    def __init__(
        self,
        peer: Peer,
        program: Program,
        reset: Sequence[Step],
        compare: Callable[[Image, HeapImage], Sequence[object]] = same_bytes,
        **store_options: Any,
    ) -> None:
        """Take the module from `program`, whose steps are not run."""
        self.peer = peer
        self.moments = 0
        self.traps = 0
        self._program = program
        self._reset = tuple(reset)
        self._compare = compare
        self._store_options = store_options
        self._sides: tuple[InWasmtime, InLowheap] | None = None
        self._history: list[tuple[Step, ...]] = []

    def check(self, steps: Sequence[Step]) -> None:
        """Run a program on both sides. Mismatch at the first difference; it names what was run before on this heap."""
        sides = self._sides or self._load()
        self._history.append(tuple(steps))
        self._sides = None  # until all has gone well
        self._run(sides, steps)
        self._run(sides, (*self._reset, COLLECT))
        if sides[1].store.heap.stats().live_objects == len(sides[1].store.snapshot().roots) == 2:
            self._sides = sides
        else:
            sides[1].store.close()

    def _load(self) -> tuple[InWasmtime, InLowheap]:
        self._history.clear()
        wasmtime = InWasmtime(self.peer, self._program)
        return wasmtime, InLowheap(self._program, self.peer.marks, **self._store_options)

    def _run(self, sides: tuple[InWasmtime, InLowheap], steps: Sequence[Step]) -> None:
        wasmtime, lowheap = sides
        moments = wasmtime.run(steps)
        self.moments += len(moments)
        self.traps += sum(moment.returned == "trap" for moment in moments)
        recording = Recording(self.peer.version, self._program, self.peer.marks, moments)
        found = first_difference(recording, lowheap.run(steps), self._compare)
        if found is not None:
            before = "".join(f"\n  {each!r}" for each in self._history[:-1])
            raise Mismatch(
                f"wasmtime {self.peer.version}: {found}\nsteps: {list(steps)!r}"
                + (
                    f"\nbefore that, on the same heap, each followed by {list(self._reset)!r}:{before}"
                    if before
                    else ""
                )
            )

    def close(self) -> None:
        """Close lowheap's side."""
        if self._sides is not None:
            self._sides[1].store.close()
            self._sides = None
