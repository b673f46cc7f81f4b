"""From LLVM IR to callable code: optimise, lower the safepoints, emit an object, link it, look up its symbols.

The pipeline, and the one order that works: LLVM's optimiser runs on calls with "deopt" bundles, which its inliner
understands; only then are these rewritten into statepoints, and live references stored in root frames; then the object
is emitted, and its stack map parsed. `compile` does all of that and depends on nothing outside of its arguments; `load`
links the result into this process.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llvmlite import binding, ir

from lowheap.copying import NotCopied
from lowheap.errors import CompilerError
from lowheap.jit import large_frames, stackmaps
from lowheap.jit.call_sites import CallSites
from lowheap.jit.signatures import EXCEPTIONS, IMPORTED_SYMBOLS, WIDE_DIVISIONS
from lowheap.jit.statepoints import FUNCTIONS_GLOBAL, StatepointModule
from lowheap.representation import short_repr

if TYPE_CHECKING:
    from lowheap.jit.unwinding import UnwindEntry

_log = logging.getLogger("lowheap.jit")
_lock = threading.RLock()  # one thread at a time uses LLVM
if hasattr(os, "register_at_fork"):  # a child must not find another thread's half of LLVM's work, and nobody to end it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_library_numbers = itertools.count()

LARGE_MODULE = 10_000
"""A module of more instructions than these, before optimisation, is large."""

INLINING = 250
"""In a module that is not large, LLVM inlines a function of about 50 instructions, or fewer: of five more than where it
is left alone, for so many are the stack check with which each begins, and which is no work of the function's.
"""

LARGE_MODULE_INLINING = 50
"""In a large module, LLVM inlines a function of about ten instructions, or fewer.

The other threshold is about speed alone: where every function is small enough, it makes several times as much code of a
module, and takes that much longer. What is marked to be inlined always is inlined in any module.
"""

OFTEN_INLINED = 500
"""What is always inlined, at so many sites of one function or more, is simplified before that.

Not what is inlined less often: LLVM makes slightly better code of the whole.
"""

LIBRARIES_PER_JIT = 16
"""So many pieces of linked code share one of LLVM's JITs, which is let go of when the last of them is.

A JIT keeps some 10 KB of each piece until then. One for each piece would take 130 KB more, and 0.4 ms.
"""

_CODE_GENERATION = (0, 1, 1, 3)
"""LLVM's level for generating code here, by that for optimising.

What 2 has over 1 is one more round of scheduling, which makes no difference that could be measured, and takes a
twentieth of the time.
"""


def is_in_use_here() -> bool:
    """Whether this thread is using LLVM: then what asks is a signal's handler, or a finalizer, that came in between."""
    return bool(_lock._is_owned())  # type: ignore[attr-defined]  # as `threading.Condition` asks


def stop() -> None:
    """Wait for another thread that is using LLVM, and let none begin: the process ends, and LLVM takes itself apart."""
    _lock.acquire()


@contextmanager
def without_gc() -> Iterator[None]:
    """Let Python's garbage collector wait for the end of the body, which makes many objects that all stay.

    It would look through all of them time and again: half of the time that it takes to emit a large module.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@functools.cache
def _initialise() -> None:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()  # or inline assembly ends the process


@functools.cache
def _initialise_all() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


@dataclass(frozen=True, slots=True)
class Target:
    """What to compile for ahead of time, in LLVM's words; an empty CPU is the one that all of the triple's can stand
    in for, and an empty ABI the triple's first.
    """

    triple: str
    cpu: str = ""
    features: str = ""
    abi: str = ""


def target_machine(opt_level: int = 2, target: Target | None = None) -> binding.TargetMachine:
    """Return a target machine for this computer's own CPU, or for another target, for code that a linker places.

    CompilerError when LLVM knows no such triple.
    """
    if target is not None:
        _initialise_all()
        try:
            found = binding.Target.from_triple(target.triple)
        except RuntimeError as error:
            raise CompilerError(f"LLVM does not know the target {target.triple!r}: {error}") from error
        return found.create_target_machine(
            cpu=target.cpu,
            features=target.features,
            opt=opt_level,
            reloc="pic",
            codemodel="default",
            abiname=target.abi,
        )
    return _own_machine(opt_level)


@functools.cache
def _own_machine(opt_level: int) -> binding.TargetMachine:
    """The target machine for this computer, made once in a process."""
    _initialise()
    return binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=",".join(filter(None, (binding.get_host_cpu_features().flatten(), stackmaps.host_features()))),
        opt=_CODE_GENERATION[opt_level],
        reloc="pic",
        codemodel="small",  # JITLink puts a module's sections together, so that calls within it are direct
    )


@functools.lru_cache(maxsize=1)
def _lljit(number: int) -> binding.LLJIT:
    """The JIT of so many; those before it are kept by what is linked by them."""
    return binding.create_lljit_compiler(target_machine(), use_jit_link=True)


@functools.cache
def _wide_divisions() -> LoadedCode:
    """Compile 128-bit division, once in this process."""
    from lowheap.jit import wide_division  # here, because hardly any code from a cache needs it

    module = ir.Module("lowheap.wide_division")
    wide_division.emit(module)
    return LoadedCode(compile(module, WIDE_DIVISIONS))


@functools.cache
def _libc_address(name: str) -> int:
    address = ctypes.cast(getattr(ctypes.CDLL(None), name), ctypes.c_void_p).value
    if address is None:
        raise CompilerError(f"the C library has no function {name}, which compiled code needs")
    return address


@short_repr
@dataclass(frozen=True, slots=True)
class CompiledCode:
    """A module as an object file, and what is needed to link it: its exported symbols, and its stack map.

    `imports` are the symbols of other code that it refers to, beside libc's. `call_targets` are the guesses that it was
    compiled with: the index of a function, the number of a call through a reference there, and what that comes to,
    once for each guess.
    `llvm_ir` is the module's text after optimisation and lowering; `seconds` is how long compiling took.
    """

    object: bytes
    symbols: tuple[str, ...]
    statepoints: StatepointModule
    stack_map: tuple[stackmaps.FunctionRecord, ...]
    seconds: float
    imports: tuple[str, ...] = ()
    call_targets: tuple[tuple[int, int, int], ...] = ()

    @property
    def llvm_ir(self) -> str:
        """The module's text after optimisation and lowering."""
        return self.statepoints.text


def compile(
    module: ir.Module,
    symbols: tuple[str, ...],
    *,
    opt_level: int = 2,
    stack_checks: Mapping[str, int] | None = None,
) -> CompiledCode:
    """Compile a module whose functions' safepoints are filled. `symbols` are the globals to look up after linking.

    `stack_checks` are the functions that check the stack limit, each with the offset at which it traps there.

    Raises CompilerError when LLVM refuses the module, which is a bug in what emitted it.
    """
    started = time.perf_counter()
    with _lock:
        optimised, machine = optimise(module, opt_level=opt_level)
        text = str(optimised)
        lowered = _lower_text(text, measure_frames=bool(stack_checks))
        # Where nothing was lowered, what is optimised is there already, and need not be read again.
        image: bytes = machine.emit_object(optimised if lowered.text == text else parse(lowered.text))
        records = stackmaps.read(image)
        if stack_checks and (large := _large_frames(lowered, records)):
            lowered = _lower_text(large_frames.with_checks(text, large, stack_checks))
            image = machine.emit_object(parse(lowered.text))
            records = stackmaps.read(image)
    seconds = time.perf_counter() - started
    _log.debug("compiled %d bytes of object code in %.3f s", len(image), seconds)
    return CompiledCode(image, symbols, lowered, records, seconds, _imports(module))


def _imports(module: ir.Module) -> tuple[str, ...]:
    known = {*IMPORTED_SYMBOLS, *WIDE_DIVISIONS}
    declared = (each.name for each in module.functions if each.is_declaration)
    return tuple(each for each in declared if not each.startswith("llvm.") and each not in known)


def lower(module: ir.Module, *, opt_level: int) -> tuple[StatepointModule, binding.TargetMachine]:
    """Optimise a module and lower its safepoints; return what to emit code of, and the machine to emit it for.

    Large frames are as LLVM makes them, without what `compile` puts in front of their functions.
    """
    with _lock:
        optimised, machine = optimise(module, opt_level=opt_level)
        return _lower_text(str(optimised), measure_frames=True), machine


def _lower_text(text: str, *, measure_frames: bool = False) -> StatepointModule:
    from lowheap.jit import safepoints  # here, because code from a cache needs none of it

    return safepoints.lower_statepoints(
        text, with_call_frames=stackmaps.host_needs_call_frames(), measure_frames=measure_frames
    )


def _large_frames(module: StatepointModule, records: tuple[stackmaps.FunctionRecord, ...]) -> dict[str, int]:
    """Return the functions that have large frames, and the sizes of these."""
    found = {}
    for function in records:
        if function.stack_size > large_frames.LARGE_FRAME:
            number = function.records[0].id
            if number >= large_frames.FIRST_MEASURE:
                found[module.measured[number - large_frames.FIRST_MEASURE]] = function.stack_size
            else:
                found[module.statepoints[number].function] = function.stack_size
    return found


def optimise(
    module: ir.Module, *, opt_level: int, target: Target | None = None, named: bool = False
) -> tuple[binding.ModuleRef, binding.TargetMachine]:
    """Return a module optimised, and the machine that is for: this computer, or `target`.

    `named`: values keep their names, for a reader, which takes LLVM more time.
    """
    from lowheap.jit.text import print_module  # here, because code from a cache needs none of it

    with _lock:
        machine = target_machine(opt_level, target)
        module.triple = machine.triple
        module.data_layout = str(machine.target_data)
        optimised = parse(str(module) if named else print_module(module))
        tuning = binding.create_pipeline_tuning_options(speed_level=opt_level)
        instructions = sum(len(block.instructions) for function in module.functions for block in function.blocks)
        tuning.inlining_threshold = LARGE_MODULE_INLINING if instructions > LARGE_MODULE else INLINING
        builder = binding.create_pass_builder(machine, tuning)
        if opt_level:
            _simplify_what_is_inlined(module, optimised, builder)
        with _closing(builder.getModulePassManager()) as passes:
            passes.run(optimised, builder)
        return optimised, machine


@contextmanager
def _closing(passes: binding.NewPassManager) -> Iterator[binding.NewPassManager]:
    """Free a pass manager afterwards: llvmlite's `close` finds another class's `_dispose` first, which does nothing."""
    try:
        yield passes
    finally:
        binding.newpassmanagers.NewPassManager._dispose(passes)
        passes.detach()


def _simplify_what_is_inlined(module: ir.Module, optimised: binding.ModuleRef, builder: binding.PassBuilder) -> None:
    """Optimise a module's functions that are inlined often, before they are: once, and not at each of their sites."""
    often: dict[str, None] = {}
    for function in module.functions:
        if sum(len(block.instructions) for block in function.blocks) < OFTEN_INLINED:
            continue
        sites = Counter(
            instruction.callee.name
            for block in function.blocks
            for instruction in block.instructions
            if isinstance(instruction, ir.CallInstr) and "alwaysinline" in instruction.attributes
        )
        often.update((name, None) for name, count in sites.items() if count >= OFTEN_INLINED)
    if often:
        with _closing(builder.getFunctionPassManager()) as passes:
            for name in often:
                passes.run(optimised.get_function(name), builder)


def parse(text: str) -> binding.ModuleRef:
    """Return LLVM's own form of a module's text, verified. CompilerError when LLVM does not accept it."""
    try:
        module = binding.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise CompilerError(f"LLVM does not accept the module: {error}") from error
    return module


class LoadedCode(NotCopied):
    """Linked code. It stays in memory as long as this object."""

    NOT_COPIED_BECAUSE = "it is linked into this process; link the CompiledCode again"

    def __init__(
        self, code: CompiledCode, *, imports: tuple[str, ...] = (), known: Mapping[str, int] | None = None
    ) -> None:
        """Link `code` into this process; `imports` are libc's functions that it calls, besides those all code may.

        `known` are the addresses of symbols of other code: CompilerError when one is missing that it refers to.
        """
        has_statepoints = bool(code.statepoints.functions)
        others = {} if known is None else {name: known.get(name) for name in code.imports}
        missing = [name for name, address in others.items() if address is None]
        if missing:
            raise CompilerError(f"the code refers to {', '.join(missing)}, which nobody has")
        builder = binding.JITLibraryBuilder().add_object_img(code.object).add_current_process()
        for name in (*IMPORTED_SYMBOLS, *imports):
            builder.import_symbol(name, _libc_address(name))
        for name, address in others.items():
            builder.import_symbol(name, address)
        for name in WIDE_DIVISIONS:
            if name.encode() in code.object and name not in code.symbols:
                builder.import_symbol(name, _wide_divisions().address(name))
        for name in (*code.symbols, *((FUNCTIONS_GLOBAL,) if has_statepoints else ())):
            builder.export_symbol(name)
        with _lock:
            number = next(_library_numbers)
            jit = _lljit(number // LIBRARIES_PER_JIT)
            self._tracker = builder.link(jit, f"lowheap.{number}")
        self._tracker.jit = jit  # on the tracker, whose finalizer needs it
        self._addresses = {name: int(self._tracker[name]) for name in code.symbols}
        functions: list[int] = []
        if has_statepoints:
            table = ctypes.c_uint64 * len(code.statepoints.functions)
            functions = list(table.from_address(self._tracker[FUNCTIONS_GLOBAL]))
        self.stack_map = stackmaps.StackMap(code.statepoints, code.stack_map, functions)
        self._code, self._functions = code, functions
        self.call_sites = CallSites(code.object, code.statepoints, code.stack_map, functions, self._addresses)

    @property
    def object(self) -> bytes:
        """The object file that was linked."""
        return self._code.object

    @property
    def imports(self) -> tuple[str, ...]:
        """The symbols of other code that it refers to."""
        return self._code.imports

    @property
    def call_targets(self) -> tuple[tuple[int, int, int], ...]:
        """The guesses that it was compiled with, see `CompiledCode`."""
        return self._code.call_targets

    @property
    def has_exceptions(self) -> bool:
        """Whether the code may throw of itself, or catch."""
        return EXCEPTIONS in self._addresses

    @functools.cached_property
    def unwind_entries(self) -> dict[int, UnwindEntry]:
        """The calls that may throw, by return address; read at the first request."""
        from lowheap.jit import unwinding  # here, because most code never throws

        code = self._code
        return unwinding.read(code.object, code.statepoints, code.stack_map, self._functions)

    def address(self, symbol: str) -> int:
        """Return the address of one of the compiled code's symbols. CompilerError when it is not one."""
        try:
            return self._addresses[symbol]
        except KeyError:
            raise CompilerError(f"the compiled module does not export {symbol!r}") from None
