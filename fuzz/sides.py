"""The two sides: what a module does on lowheap, in one of many ways, and what it does on wasmtime.

A `Run` is a list of what was seen, one entry for the instance and for each call: what came of it, and what the globals,
tables and memories hold then. Each function is called on an instance of its own. Of floats the bits are seen, but all
NaNs are one.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wasmtime

import lowheap as lh
from fuzz.modules import CALL, IMPORTED, MEMORY, STATE, Module
from lowheap.types import NumType

_COLLECTORS = Path(__file__).resolve().parent.parent / "examples" / "collectors"

CALLS = 2
"""How often each function is called."""

INCONCLUSIVE = ("call stack exhausted", "GC heap out of memory", "allocation size too large")
"""What either side may come to sooner than the other."""

_WASMTIME_FRAMES = 20
"""So many frames wasmtime tells of a trap."""

_MOVED = (lh.TrapCode.UNREACHABLE, lh.TrapCode.MEMORY_OUT_OF_BOUNDS)
"""Traps that wasmtime may have at another instruction: a branch that leads there, or what uses what is loaded."""

_MOST_HEAP = 1 << 26
"""How large a heap may become: a program that asks for more is told so at once."""

Entry = tuple[str, str, str]
"""What was done, what came of it, and what there was then."""
Run = list[Entry]


@dataclass(frozen=True)
class Way:
    """How lowheap runs a module."""

    collector: str | None
    barriers: str | None
    runtime: str
    opt_level: int
    inline: str
    collect_every: int

    def __str__(self) -> str:
        """Name what is not always so."""
        kind = Path(self.barriers or self.collector or "drc").name
        every = f", collect every {self.collect_every}" if self.collect_every else ""
        return f"{kind}, {self.runtime}, O{self.opt_level}, inline {self.inline}{every}"


_KINDS: tuple[tuple[str | None, str | None], ...] = (
    ("drc", None),
    ("null", None),
    ("rc-immix", None),
    ("rc-immix(epoch_bytes=65536)", None),
    ("drc", "outlined"),
    (f"{_COLLECTORS}/deutsch_bobrow.py:DeutschBobrow", None),
    (f"{_COLLECTORS}/levanoni_petrank.py:LevanoniPetrank", None),
    (f"{_COLLECTORS}/counted_reads.py:CountedReads", None),
    (f"{_COLLECTORS}/short_lived_reads.py:ShortLivedReads", None),
)

WAYS = [
    Way(*kind, runtime, opt_level, inline, collect_every)
    for kind, runtime, opt_level, inline, collect_every in itertools.product(
        _KINDS, ("native", "python"), (0, 1, 2, 3), ("auto", "always", "never"), (0, 1)
    )
]


def way_of(seed: int) -> Way:
    """Return the way that a seed's module is run."""
    return WAYS[random.Random(f"way {seed}").randrange(len(WAYS))]


def arguments(seed: int, function: int, call: int, types: Sequence[NumType]) -> list[int | float]:
    """Return what a function is called with."""
    source = random.Random(f"{seed} {function} {call}")
    return [_number(source, each) for each in types]


def _number(source: random.Random, type: NumType) -> int | float:
    if type in (NumType.F32, NumType.F64):
        chosen = source.choice([0.0, -0.0, 1.0, -1.5, float("inf"), float("nan"), 1e10, source.uniform(-1e3, 1e3)])
        return struct.unpack("<f", struct.pack("<f", chosen))[0] if type is NumType.F32 else chosen
    bits = 32 if type is NumType.I32 else 64
    wide = source.getrandbits(bits) - (1 << (bits - 1))
    return source.choice([0, 1, -1, (1 << (bits - 1)) - 1, -(1 << (bits - 1)), source.randrange(-100, 100), wide])


def _observe(
    module: Module, seed: int, instantiate: Callable[[], tuple[Callable[..., Any], Callable[[int], bytes]]]
) -> Run:
    """Return what is seen of a module, whose instances are called, and their memories read, by what comes of one."""
    run: Run = []

    def state(call: Callable[..., Any], memory: Callable[[int], bytes]) -> str:
        found = map(memory, module.memories)
        digests = [f"{len(each)} {hashlib.sha1(each).hexdigest()[:8]}" for each in found]
        return f"{_told(call(STATE)) if module.has_state else ''} {digests}"

    for function, types in [(None, ()), *module.functions.items()]:
        try:
            call, memory = instantiate()
        except Exception as error:
            run.append(("instance", _failure(error), ""))
            return run
        if function is None:
            run.append(("instance", "made", state(call, memory)))
            continue
        for number in range(CALLS):
            given = arguments(seed, function, number, types)
            try:
                outcome = _told(call(f"{CALL}{function}", *given))
            except Exception as error:
                outcome = _failure(error)
            run.append((f"{function}({', '.join(map(str, given))})", outcome, state(call, memory)))
            if outcome in INCONCLUSIVE:
                break
    return run


def _told(value: Any) -> str:
    """What a result is, in words: of a float its bits, but that each NaN is the same."""
    if isinstance(value, list | tuple):
        return " ".join(map(_told, value))
    if isinstance(value, float):
        return "nan" if value != value else f"0x{struct.pack('>d', value).hex()}"
    return repr(value)


def _failure(error: Exception) -> str:
    """What went wrong, in wasmtime's words where it is a trap, and where: the offset of each function's instruction."""
    text = str(error)
    for each in INCONCLUSIVE:
        if each in text:
            return each
    for code in lh.TrapCode:
        if f"wasm trap: {code.message}" in text:
            frames: Sequence[Any] = (
                error.frames[:_WASMTIME_FRAMES] if isinstance(error, lh.Trap | wasmtime.Trap) else []
            )
            places = [f"{each.func_index}@{each.module_offset}" for each in frames]
            if code in _MOVED and places:
                places[0] = str(frames[0].func_index)
            return " ".join((code.message, *places))
    if isinstance(error, lh.WasmException) or "thrown Wasm exception" in text or "uncaught exception" in text:
        return "exception"
    return f"{type(error).__name__}: {text}"


# ----------------------------------------------------------------------------------------------------------------------


@functools.cache
def _engine(way: Way) -> lh.Engine:
    return lh.Engine(
        collector=way.collector,
        barriers=way.barriers,
        runtime=way.runtime,
        opt_level=way.opt_level,
        inline=way.inline,
    )


def on_lowheap(module: Module, seed: int, way: Way) -> Run:
    """Run a module on lowheap, and verify the heap. Whatever is wrong with that is an entry, too."""
    try:
        compiled = lh.Module(_engine(way), module.binary)
        imported = None if module.imported is None else lh.Module(_engine(way), module.imported)
    except lh.LowheapError as error:
        return [("module", _failure(error), "")]
    with lh.Store(_engine(way), collect_every=way.collect_every, maximum_heap_size=_MOST_HEAP) as store:

        def instantiate() -> tuple[Callable[..., Any], Callable[[int], bytes]]:
            given = {} if imported is None else {IMPORTED: dict(lh.Instance(store, imported).exports)}
            for name in module.through_host:
                given[IMPORTED][name] = functools.partial(given[IMPORTED][name])
            exports = lh.Instance(store, compiled, given).exports
            return (lambda name, *args: exports[name](*args)), lambda number: bytes(exports[f"{MEMORY}{number}"].read())

        run = _observe(module, seed, instantiate)
        try:
            store.verify()
        except lh.HeapCorruptionError as error:
            run.append(("verify", str(error), ""))
    return run


@functools.cache
def _wasmtime_engine() -> wasmtime.Engine:
    config = wasmtime.Config()
    for proposal in ("gc", "function_references", "exceptions", "tail_call", "memory64", "multi_memory", "simd"):
        setattr(config, f"wasm_{proposal}", True)
    config.wasm_wide_arithmetic = config.wasm_custom_page_sizes = True
    config.memory_reservation = 1 << 20
    return wasmtime.Engine(config)


def on_wasmtime(module: Module, seed: int) -> Run:
    """Run a module on wasmtime."""
    engine = _wasmtime_engine()
    compiled = wasmtime.Module(engine, module.binary)
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=_MOST_HEAP)

    def instantiate() -> tuple[Callable[..., Any], Callable[[int], bytes]]:
        given: list[Any] = []
        if module.imported is not None:
            provider = wasmtime.Instance(store, wasmtime.Module(engine, module.imported), []).exports(store)
            for each in compiled.imports:
                given.append(provider[each.name or ""])
                if each.name in module.through_host:
                    given[-1] = wasmtime.Func(store, given[-1].type(store), functools.partial(given[-1], store))
        exports: Any = wasmtime.Instance(store, compiled, given).exports(store)
        return (
            lambda name, *args: exports[name](store, *args),
            lambda number: bytes(exports[f"{MEMORY}{number}"].read(store)),
        )

    return _observe(module, seed, instantiate)
