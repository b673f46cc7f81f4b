"""A collector as machine code: what compiled modules call to allocate and to drop, and a store to collect.

They are written once, in `collectors/`. Compiled once in a process for each collector, and reached from compiled
modules through the store context, they are C functions:

    void     lh_drop(vmctx, reference)                      take the last count of an object, and free what dies of it
    uint32_t lh_allocate_struct(vmctx, type index)          a new object with one count; 0 with a trap code set: no room
    uint32_t lh_allocate_array(vmctx, type index, length)   likewise
    bool     lh_collect(vmctx)                              collect, all at once; false: a frame is wrong
    bool     lh_collect_cycles(vmctx, only if due)          the same, with a search for cycles
    bool     lh_trace(vmctx)                                have held what compiled code holds; false: a frame is wrong

and those that the collector wants compiled even where Python comes to them (`Collector.compiled`), likewise some of the
tables' (`TABLE_FUNCTIONS`), and the host's own operations on objects (`HOST_OPERATIONS`): `symbol_of`.

Compiled modules emit the fast path of allocation inline, for structs and arrays whose blocks are small, and come here
when no block is at hand.

Optimised, it takes LLVM ten times as long as not; so programs that begin with code that is not optimised, begin with a
runtime that is not. When code of theirs is worth optimising, so is that (`Compiler`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowheap.collectors import host
from lowheap.collectors.interface import Collector
from lowheap.collectors.shared import allocation, collection, types
from lowheap.collectors.shared.frames import FrameRules
from lowheap.jit import cache
from lowheap.jit.engine import CompiledCode, LoadedCode
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.stackmaps import Architecture, host_architecture
from lowheap.native import Native

if TYPE_CHECKING:  # what makes code is loaded when there is code to make: what is in the cache needs none of it
    from llvmlite import ir

    from lowheap.jit.emit import Emitter

ALLOCATE_STRUCT = "lh_allocate_struct"
ALLOCATE_ARRAY = "lh_allocate_array"
DROP = "lh_drop"
COLLECT = "lh_collect"
COLLECT_CYCLES = "lh_collect_cycles"
TRACE = "lh_trace"

HOST_OPERATIONS: tuple[Native[..., Any], ...] = (
    host.share,
    host.adopt,
    host.release,
    host.read,
    host.write,
    host.grow_table,
    host.drop_table,
    host.lend,
    host.free_dead,
    host.new_struct,
    host.new_array,
    host.new_externref,
)
"""What the host does with objects; see `operations.py`."""

BASELINE, OPTIMISED = 0, 2
"""The levels that LLVM compiles it at."""

TABLE_FUNCTIONS: tuple[Native[..., Any], ...] = (types.enter_type,)
"""What the host does with the heap's tables, and has compiled code do: there may be hundreds of types."""

_loaded: dict[tuple[Collector, bool, int], LoadedCode] = {}
_ready: dict[tuple[Collector, bool], CompiledCode] = {}  # what was optimised in the background, until it is linked


def functions_of(collector: Collector) -> dict[str, Native[..., Any]]:
    """Return the functions by their symbols."""
    functions: dict[str, Native[..., Any]] = {
        ALLOCATE_STRUCT: allocation.allocate_struct,
        ALLOCATE_ARRAY: allocation.allocate_array,
        DROP: collector.drop,
        COLLECT: collector.collect,
        COLLECT_CYCLES: collector.collect_cycles,
        TRACE: collection.trace,
    }
    return functions | {symbol_of(each): each for each in (*replaced_by(collector), *HOST_OPERATIONS)}


def replaced_by(collector: Collector) -> tuple[Native[..., Any], ...]:
    """Return the functions in whose place Python has those of the runtime, on a heap of a collector's."""
    return *collector.all_compiled(), *TABLE_FUNCTIONS


def symbol_of(native: Native[..., Any]) -> str:
    """Return the symbol of a function that the collector or the host wants compiled."""
    return f"lh_{'host_' * (native in HOST_OPERATIONS)}{native.__name__}"


def emitter_for(collector: Collector, *, checked: bool = False) -> Callable[[ir.Function], Emitter]:
    """Return what makes an emitter of functions of a collector's.

    Those of a checked heap fill the blocks that they free with what leads nowhere.
    """

    from lowheap.jit.emit import CheckedEmitter, Emitter

    def make(function: ir.Function) -> Emitter:
        emitter = CheckedEmitter(function) if checked else Emitter(function)
        emitter.collector = collector
        return emitter

    return make


def load(collector: Collector, cache_directory: Path | None = None, *, checked: bool = False) -> LoadedCode:
    """Return the optimised runtime, compiled at the first use in this process, or taken from the cache that is named
    then.

    `checked`: that of a checked heap.
    """
    return Compiler(collector, checked).load(cache_directory)


class Compiler:
    """Compiles the runtime: for who loads it, and for `wasm/optimiser.py`, whose protocol says what is what."""

    def __init__(self, collector: Collector, checked: bool) -> None:
        """Take the collector, and whether it is for a checked heap."""
        self.collector, self.checked = collector, checked

    def load(self, cache_directory: Path | None) -> LoadedCode:
        """Return the optimised runtime."""
        return self._load(OPTIMISED, cache_directory)

    def load_soon(self, cache_directory: Path | None) -> tuple[LoadedCode, bool]:
        """Return the runtime that is there soonest, and whether it is optimised: that, unless it has to be compiled."""
        level = BASELINE
        if self.is_optimised or cache.is_cached(cache_directory, self.parts(OPTIMISED), self.collector):
            level = OPTIMISED
        return self._load(level, cache_directory), level == OPTIMISED

    def _load(self, level: int, cache_directory: Path | None) -> LoadedCode:
        key = self.collector, self.checked, level
        if key not in _loaded:
            code = _ready.pop((self.collector, self.checked), None) if level == OPTIMISED else None
            if code is None:
                code = cache.compiled(cache_directory, self.parts(level), lambda: self.compile(level), self.collector)
            _loaded[key] = LoadedCode(code)
        return _loaded[key]

    @property
    def is_optimised(self) -> bool:
        """Whether the optimised runtime is in this process."""
        return (self.collector, self.checked, OPTIMISED) in _loaded or (self.collector, self.checked) in _ready

    def parts(self, level: int) -> dict[str, str | int | bool]:
        """What the code depends on beside the collector."""
        return {"runtime": "native", "checked": self.checked, "level": level}

    def compile(self, level: int) -> CompiledCode:
        """Compile it."""
        from llvmlite import ir

        from lowheap.jit.emit import discard

        collector = self.collector
        module = ir.Module("lowheap.runtime")
        define_all(module, collector, emitter_for(collector, checked=self.checked), frame_rules(host_architecture()))
        compiled = compile_ir(module, tuple(functions_of(collector)), opt_level=level)
        discard(module)
        return compiled

    def put(self, compiled: CompiledCode, cache_directory: Path | None) -> None:
        """Have `load` return what was optimised, and the cache have it, before anybody can see that it is there."""
        if cache_directory is not None:
            cache.compiled(cache_directory, self.parts(OPTIMISED), lambda: compiled, self.collector)
        _ready[self.collector, self.checked] = compiled

    @property
    def is_portable(self) -> bool:
        """Whether another process can compile alike."""
        return cache.is_known(self.collector)

    def described(self) -> tuple[Collector, bool]:
        """What `of` makes the same of, in another process."""
        return self.collector, self.checked

    @classmethod
    def of(cls, described: Any) -> Compiler:
        """Return what was described."""
        return cls(*described)

    def compile_optimised(self, functions: tuple[int, ...], seen: Any = None) -> CompiledCode:
        """Compile all of it: it has no functions with an index, nor calls through references."""
        assert not functions, "they are a module's"
        assert seen is None, "so are these"
        return self.compile(OPTIMISED)


def frame_rules(architecture: Architecture | None, *, checks_hosts: bool = False) -> FrameRules:
    """Return how frames are walked; None stands for where there can be none of compiled code."""
    if architecture is None:
        return FrameRules(False, checks_hosts)
    return FrameRules(
        True,
        checks_hosts,
        architecture.caller_frame_pointer_offset,
        architecture.return_address_offset,
        architecture.caller_stack_pointer_offset or 0,  # None: no slot is relative to the stack pointer
    )


def define_all(
    module: ir.Module, collector: Collector, emitter: Callable[[ir.Function], Emitter], rules: FrameRules
) -> None:
    """Give a module the whole runtime."""
    from lowheap.jit.translate import declare

    for symbol, function in functions_of(collector).items():
        declare(module, function, emitter, name=symbol, statics=statics_of(function, rules))


def statics_of(function: Native[..., Any], rules: FrameRules) -> dict[str, Any]:
    """Return what a function's static parameters are compiled for."""
    return {each.name: rules for each in function.checked.parameters if each.name == "rules"}
