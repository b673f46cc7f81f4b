"""`lowheap run PROGRAM --invoke EXPORT [ARGS]...`: call an export, and say what became of the program's objects.

Standard output holds the results and nothing else, one a line, and what the program writes there itself. A command, a
program that exports `_start`, is called by that; its exit status is the command's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lowheap.cli.interrupts import stopping_the_program
from lowheap.cli.options import (
    code_arguments,
    code_options,
    collect_every_option,
    naming,
    read_program,
)
from lowheap.cli.output import EXIT_STATUSES, abandon_output, compile_progress, printable_on, say
from lowheap.cli.values import format_value, parse_value
from lowheap.collectors.shared.allocator import SegregatedFit
from lowheap.collectors.shared.first_fit import FirstFit
from lowheap.engine import Engine
from lowheap.errors import ExitTrap, LowheapError, Trap
from lowheap.heap import HeapStatistics
from lowheap.hosts import registry as hosts
from lowheap.hosts.wasi import MODULE as WASI
from lowheap.layout import MAXIMUM_CAPACITY, is_object
from lowheap.memory import RESERVATIONS
from lowheap.native.words import TRACE
from lowheap.objects import Func
from lowheap.store import ALLOCATORS, DEFAULT_INITIAL_HEAP_SIZE, GROWTH_POLICIES, Store
from lowheap.types import (
    ExternType,
    FuncType,
    GlobalType,
    MemoryType,
    TableType,
    TagType,
    TypeRegistry,
    ValType,
    describe_external,
)
from lowheap.wasm.instance import Instance
from lowheap.wasm.linker import Linker
from lowheap.wasm.module import Module

_LOG_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


# ----------------------------------------------------------------------------------------------------------------------
# The command line


_SIZE_FORM = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,16})(?:([KMG])(?:iB)?)?", re.IGNORECASE)


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return a number of bytes, written as it is or with K, M or G (or KiB, MiB, GiB) for powers of 1024."""
    if value is None:
        return None
    found = _SIZE_FORM.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size; write a number of bytes, or 64K, 16M, 1G", ctx, param)
    digits, unit = found.groups()
    size = int(digits, 16 if digits[:2] in ("0x", "0X") else 10)
    size <<= 10 * " KMG".index(unit.upper()) if unit else 0
    if size > MAXIMUM_CAPACITY:
        raise click.BadParameter(f"{value} is more than a heap can have, {MAXIMUM_CAPACITY} bytes", ctx, param)
    return size


def _folders(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return folders of the host's, each with the path that the program knows it by."""
    found = []
    for value in values:
        host, separator, guest = value.partition("::")
        if not host or (separator and not guest):
            raise click.BadParameter(f"{value!r} is not HOST::GUEST, or HOST", ctx, param)
        if not os.path.isdir(host):
            raise click.BadParameter(f"there is no folder {host!r}", ctx, param)
        found.append((host, guest or host))
    return found


def _variables(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return variables of the environment: as given, or as this process has them."""
    found = []
    for value in values:
        name, separator, text = value.partition("=")
        if not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE, or NAME", ctx, param)
        if not separator and name not in os.environ:
            raise click.BadParameter(f"the environment has no variable {name!r}", ctx, param)
        found.append((name, text if separator else os.environ[name]))
    return found


def _hosts(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, hosts.Host]:
    """Return hosts by name. A file of one's own is looked for in the current directory."""
    try:
        return {value: hosts.find(value) for value in values}
    except LowheapError as error:
        raise click.BadParameter(str(error), ctx, param) from error


class _RunCommand(click.Command):
    """A command whose positional arguments may be negative numbers, before options and behind them."""

    _NEGATIVE = re.compile(r"-(?:[0-9.]|inf|nan)", re.IGNORECASE)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and refuse the unknown options that click was told to pass on."""
        literal = args[args.index("--") + 1 :] if "--" in args else []
        rest = super().parse_args(ctx, args)
        given = [ctx.params.get("program") or "", *ctx.params.get("arguments", ())]
        for argument in given[: len(given) - len(literal)]:
            if argument.startswith("-") and argument != "-" and not self._NEGATIVE.match(argument):
                name = argument.partition("=")[0]
                known = [option for parameter in self.params for option in parameter.opts]
                import difflib  # here, because a right command line needs none of it

                near = difflib.get_close_matches(name, known)
                raise click.NoSuchOption(name, possibilities=near, ctx=ctx)
        return rest


_RUN_EPILOG = (
    """\b
Examples: lowheap run prog.wat --invoke run 10 100 --stats
          lowheap run prog.wasm --dir . -- --verbose input.txt
Arguments may be negative numbers. Options may stand anywhere; behind --
everything is an argument.
"""
    + EXIT_STATUSES
)


@click.command(
    "run",
    cls=_RunCommand,
    epilog=_RUN_EPILOG,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("program")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1)
@click.option(
    "--invoke", "export", metavar="EXPORT", help="The exported function to call, with ARGS.  [default: _start]"
)
@click.option(
    "--dir",
    "folders",
    callback=_folders,
    multiple=True,
    metavar="HOST[::GUEST]",
    help="A folder that the program may use, by the path GUEST, or the same path.",
)
@click.option(
    "--env",
    "variables",
    callback=_variables,
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable of the program's environment; without VALUE, as it is here.",
)
@click.option(
    "--host",
    "hosts",
    callback=_hosts,
    multiple=True,
    metavar="WHAT",
    help=f"Who provides what the program imports: {', '.join(hosts.BUILT_IN)}, or `file.py:name`, a callable "
    "name(linker, store). wasi goes without saying where the program imports it.",
)
@click.option(
    "--js-glue",
    "glue",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The JavaScript that the program's compiler wrote beside it, for --host js.  [default: PROGRAM's name "
    "with .import-object.mjs, .mjs or .js, where there is such a file]",
)
@code_options
@click.option(
    "--allocator",
    type=click.Choice(list(ALLOCATORS)),
    default=SegregatedFit.name,
    show_default=True,
    help="Where objects go; first-fit puts them where wasmtime 37 to 43 does, and has the runtime python only.",
)
@click.option(
    "--growth",
    type=click.Choice(GROWTH_POLICIES),
    help="What to try first when there is no room.  [default: grow-first with first-fit, else collect-first]",
)
@click.option(
    "--checked",
    is_flag=True,
    help="Look for corruption in every operation of the heap in Python, and poison what is freed; slow.",
)
@collect_every_option()
@click.option(
    "--initial-heap",
    callback=_size,
    metavar="SIZE",
    help="Heap to begin with, in bytes, or with K, M, G.  "
    f"[default: {DEFAULT_INITIAL_HEAP_SIZE >> 10}K; 0 for grow-first]",
)
@click.option(
    "--max-heap",
    callback=_size,
    metavar="SIZE",
    default=str(MAXIMUM_CAPACITY),
    help="Heap to grow to at most.  [default: 4G less 16 bytes]",
)
@click.option(
    "--reserve",
    type=click.Choice(RESERVATIONS),
    default=RESERVATIONS[0],
    show_default=True,
    help="Address space to reserve: 4G, which no reference leads out of, or what --max-heap needs.",
)
@click.option(
    "--no-cycle-search",
    is_flag=True,
    help="Never search for what only reference cycles keep: neither before the heap grows nor for --stats.",
)
@click.option("--no-cache", is_flag=True, help="Compile anew, and keep no compiled code in the user's cache directory.")
@click.option("--stats", is_flag=True, help="Print figures of the heap, on standard error.")
@click.option("--verify", is_flag=True, help="Check every invariant of the heap, after the call and at the end.")
@click.option(
    "--log-level",
    type=click.Choice(list(_LOG_LEVELS), case_sensitive=False),
    default="warning",
    show_default=True,
    help="What to log, on standard error.",
)
@click.pass_context
def run_command(
    ctx: click.Context, /, program: str, arguments: tuple[str, ...], export: str | None, **options: Any
) -> None:
    """Compile PROGRAM, call one of its exports with ARGS, and print the results, one a line.

    PROGRAM is WebAssembly, as text or binary; - is standard input. ARGS are read by the types of the parameters:
    integers in decimal or 0x form, floats, null for a nullable reference, an integer for an i31ref, text for an
    externref of a program with JavaScript's strings.

    Without --invoke, a program that exports _start is run as a command: ARGS are its own arguments, and its exit status
    is that of this one. Of another program, _initialize is called first, if there is one. With --host js, a program
    that exports $invokeMain, as Dart's do, gets ARGS as a list; one that exports _initialize, as OCaml's do, is run by
    that; and both are over when no timer is left.
    """
    ctx.obj.enter_context(_logging(_LOG_LEVELS[options["log_level"]]))
    initial_heap, max_heap = options["initial_heap"], options["max_heap"]
    allocator, growth, runtime = options["allocator"], options["growth"], options["runtime"]
    if growth is None:
        growth = "grow-first" if allocator == FirstFit.name else "collect-first"
    if (allocator, growth) != (SegregatedFit.name, "collect-first") and runtime == "native":
        if ctx.get_parameter_source("runtime") is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--runtime native has no --allocator {allocator} with --growth {growth}", ctx)
        runtime = "python"
    if initial_heap is not None and initial_heap > max_heap:
        raise click.UsageError(f"--initial-heap {initial_heap} is more than --max-heap {max_heap}", ctx)
    arguments_of_code = {**code_arguments(ctx, options), "runtime": runtime}
    engine = Engine(**arguments_of_code, cache=not options["no_cache"])
    source = read_program(program)
    program = "<stdin>" if program == "-" else program
    with naming(program), compile_progress() as progress:
        module = Module(engine, source, progress=progress)
    needs_wasi = "wasi" in options["hosts"] or any(each.module == WASI for each in module.imports)
    if export is None and _is_nullary(module, "_start"):
        export = "_start"
    is_dart = export is None and options["hosts"] and any(each.name == _DART_MAIN for each in module.exports)
    if is_dart:
        export = _DART_MAIN
    elif export is None and options["hosts"] and _is_nullary(module, "_initialize"):
        export = "_initialize"
    is_command = export == "_start" and needs_wasi
    function_type = _find_export(module, program, export, ctx)
    assert export is not None, "without one there is nothing to find"
    own = () if is_command else arguments
    values = [list(arguments)]
    if not is_dart:
        values = _parse_arguments(module, export, function_type, own, ctx)
    glue = _find_glue(program, options["glue"])
    for option, given in (("--dir", options["folders"]), ("--env", options["variables"])):
        if given and not needs_wasi:
            raise click.UsageError(f"{option} is for programs that import {WASI}; {program} does not", ctx)
    with Store(
        engine,
        allocator=allocator,
        growth=growth,
        initial_heap_size=initial_heap,
        maximum_heap_size=max_heap,
        reserve=options["reserve"],
        collect_every=options["collect_every"],
        checked=options["checked"],
        search_cycles=not options["no_cycle_search"],
    ) as store:
        if needs_wasi:
            argv = (os.path.basename(program), *arguments)
            _give_wasi(store, argv, options["folders"], options["variables"])
        linker, worlds = _link(store, module, program, options["hosts"], glue, needs_wasi=needs_wasi)

        def instantiate() -> Instance:
            instance = linker.instantiate(store, module)
            for world in worlds:
                world.start(instance)
            if export not in ("_start", "_initialize") and _is_nullary(module, "_initialize"):
                instance.exports["_initialize"]()
            return instance

        call = _Call(store, module, instantiate, export, function_type, values, worlds)
        status = _call(call, stats=options["stats"], verify=options["verify"])
    ctx.exit(status)


def _give_wasi(
    store: Store, argv: Sequence[str], folders: Sequence[tuple[str, str]], variables: Sequence[tuple[str, str]]
) -> None:
    """Give a store what the command line says that the program gets, and this process's streams."""
    from lowheap.hosts.wasi.config import WasiConfig  # here, because other programs need none of it

    config = WasiConfig()
    config.argv = argv
    config.env = variables
    config.inherit_stdin()
    config.inherit_stdout()
    config.inherit_stderr()
    for host, guest in folders:
        config.preopen_dir(host, guest)
    store.set_wasi(config)


_DART_MAIN = "$invokeMain"


def _find_glue(program: str, given: str | None) -> str | None:
    """Return the path of the JavaScript beside a program, if there is some."""
    beside = [os.path.splitext(program)[0] + ending for ending in (".import-object.mjs", ".mjs", ".js")]
    return given or next((each for each in beside if os.path.isfile(each)), None)


def _use_glue(world: hosts.World, path: str) -> None:
    """Give a world the JavaScript in a file, if it takes any."""
    if not isinstance(world, hosts.WorldWithGlue):
        return
    try:
        source = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LowheapError(f"cannot read {path}: {error}") from error
    try:
        world.use_glue(source)
    except LowheapError as error:
        raise LowheapError(f"{path}: {error}") from error


def _link(
    store: Store,
    module: Module,
    program: str,
    given: dict[str, hosts.Host],
    glue: str | None,
    *,
    needs_wasi: bool,
) -> tuple[Linker, list[hosts.World]]:
    """Return a linker that has all that a program imports, and the worlds around it.

    What is defined last holds: WASI, where nobody asked for it, comes first. LowheapError names all that nobody
    provides; string constants of a program with JavaScript's strings are nobody's to provide.
    """
    linker = Linker(module.engine)
    linker.allow_shadowing = True
    if needs_wasi and "wasi" not in given:
        hosts.wasi(linker, store)
    worlds: list[hosts.World] = []
    for host in given.values():
        world = host(linker, store)
        if isinstance(world, hosts.World):
            if glue is not None:
                _use_glue(world, glue)
            world.define(linker, store, module)
            worlds.append(world)
    if module.provided.functions:
        store.use_strings()
        for each in linker.missing(module):
            if each.module in module.string_namespaces:
                linker.define(store, each.module, each.name, each.name)
    missing = linker.missing(module)
    if missing:
        types = module.engine.types
        listed = [f"  {each.module}.{each.name}: {_describe_external(types, each.type)}" for each in missing]
        problem = f"{program} imports what nobody provides; --host file.py:name would define"
        raise LowheapError("\n".join([f"{problem}:", *listed]))
    return linker, worlds


def _is_nullary(module: Module, name: str) -> bool:
    """Whether a module exports a function that takes and returns nothing."""
    return any(each.name == name and each.type == FuncType((), ()) for each in module.exports)


@contextlib.contextmanager
def _logging(level: int) -> Iterator[None]:
    """Log to standard error what lowheap's loggers say from this level on."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("lowheap")
    previous = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(previous)


def _find_export(module: Module, program: str, name: str | None, ctx: click.Context) -> FuncType:
    """Return the type of the function that is exported under a name; a usage error that lists what there is."""
    types = module.engine.types
    for export in module.exports:
        if export.name == name:
            if isinstance(export.type, FuncType):
                return export.type
            kind = _KINDS[type(export.type)]
            text = _describe(types, export.type.storage if isinstance(export.type, GlobalType) else export.type)
            what = f"{kind} of type {text}"
            raise click.UsageError(f"{program} exports {name!r} as a {what}, not as a function", ctx)
    problem = "--invoke is missing: it names the export to call" if name is None else f"there is no export {name!r}"
    listed = [f"  {export.name!r}: {_describe_external(types, export.type)}" for export in module.exports]
    if not listed:
        raise click.UsageError(f"{problem}; {program} exports nothing", ctx)
    raise click.UsageError("\n".join([f"{problem}; {program} exports:", *listed]), ctx)


_KINDS: dict[type, str] = {MemoryType: "memory", TableType: "table", GlobalType: "global", TagType: "tag"}


def _describe_external(types: TypeRegistry, type: ExternType) -> str:
    return _with_names(types, describe_external(type))


def _describe(types: TypeRegistry, type: ValType | FuncType | Any) -> str:
    """Return a type's text format, with the names that the program gives to types."""
    return _with_names(types, str(type))


def _with_names(types: TypeRegistry, text: str) -> str:
    def name(found: re.Match[str]) -> str:
        known = types.type_name(int(found[2]))
        return f"{found[1]}${known}" if known else found[0]

    return re.sub(r"(\(ref (?:null )?)([0-9]+)", name, text)


def _parse_arguments(
    module: Module, export: str, type: FuncType, arguments: Sequence[str], ctx: click.Context
) -> list[Any]:
    """Return the arguments as the export's parameters want them; a usage error where one does not fit."""
    types = module.engine.types
    if len(arguments) != len(type.params):
        raise click.UsageError(
            f"{export!r} takes {len(type.params)} arguments, {_describe(types, type)}; not {len(arguments)}", ctx
        )
    values = []
    for number, (wanted, text) in enumerate(zip(type.params, arguments, strict=True), 1):
        try:
            values.append(parse_value(wanted, text, has_strings=bool(module.provided.functions)))
        except ValueError as error:
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            raise click.UsageError(
                f"argument {number} of {export!r} is {_describe(types, wanted)}, and {shown!r} is not: {error}", ctx
            ) from None
    return values


# ----------------------------------------------------------------------------------------------------------------------
# The call, and its figures


@dataclass(slots=True)
class _Times:
    """How long things took, in seconds."""

    compiling: float
    instantiating: float = 0.0
    running: float = 0.0


@dataclass(frozen=True, slots=True)
class _Call:
    """What is to be called, with which values."""

    store: Store
    module: Module
    instantiate: Callable[[], Instance]
    export: str
    type: FuncType
    values: list[Any]
    worlds: list[hosts.World]


def _call(call: _Call, *, stats: bool, verify: bool) -> int:
    """Instantiate and call; print results, then figures. A trap, or an interrupt, comes out behind that.

    Return the program's exit status; 0 if it has not said one.
    """
    store, module, type = call.store, call.module, call.type
    times = _Times(compiling=module.compile_seconds)
    trapped: Trap | None = None
    interrupted = False
    status = 0
    try:
        with stopping_the_program() if module.engine.interruptible else contextlib.nullcontext():
            started = time.perf_counter()
            instance = call.instantiate()
            times.instantiating = time.perf_counter() - started
            function: Func = instance.exports[call.export]
            started = time.perf_counter()
            try:
                returned = function(*call.values)
                for world in call.worlds:
                    world.run()
            finally:
                times.running = time.perf_counter() - started
        results = returned if len(type.results) > 1 else (returned,) if type.results else ()
        _print_results([format_value(each, value) for each, value in zip(type.results, results, strict=True)])
        del returned, results  # handles, which hold objects
    except ExitTrap as error:
        status = exit_status(error.code)
    except Trap as error:
        trapped = error
    except KeyboardInterrupt:
        interrupted = True
    if verify:
        store.verify()
    if stats:
        before = store.heap.stats()
        store.collect(cycles=store.heap.searches_cycles)
        if verify:
            store.verify()
        _print_statistics(store, module, times, before, verified=verify)
    if trapped is not None:
        raise trapped
    if interrupted:
        raise click.Abort
    return status


def exit_status(code: int) -> int:
    """Return a program's exit status as a process has it: a byte, and 0 for 0 alone."""
    return code & 0xFF or min(code, 1)


def _print_results(lines: list[str]) -> None:
    if lines and sys.stdout is None:
        raise LowheapError("cannot write the results: standard output is closed")
    try:
        for line in lines:
            click.echo(printable_on(line.replace("\n", "\\n").replace("\t", "\\t"), sys.stdout))
    except OSError as error:
        abandon_output()
        if error.errno == errno.EPIPE:
            raise
        raise LowheapError(f"cannot write the results: {error.strerror or error}") from error


def _print_statistics(store: Store, module: Module, times: _Times, before: HeapStatistics, *, verified: bool) -> None:
    """Print the figures after a last collection; `before` are those before it."""
    from rich.console import Console  # here, because they take long to load, and most calls print no table
    from rich.table import Table
    from rich.text import Text

    figures = store.heap.stats()
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right", overflow="fold")
    rows = {
        "collector": module.engine.collector.name,
        "runtime": module.engine.runtime,
        "allocator": store.heap.allocator_name,
        "optimisation level": str(module.engine.opt_level),
        "compile time": _milliseconds(times.compiling),
        **_compiled_by_need(module),
        "instantiation time": _milliseconds(times.instantiating),
        "run time": _milliseconds(times.running),
        "objects allocated": f"{figures.objects_allocated:,}",
        "objects freed": f"{figures.objects_freed:,}",
        "objects live after a last collection": f"{figures.live_objects:,}",
        "collections before the last": f"{before.collections:,}",
        "list length before and after the last": f"{before.listed:,} and {figures.listed:,}",
        "peak live bytes": f"{figures.peak_live_bytes:,}",
        "heap capacity in bytes": f"{figures.capacity:,}",
        "heap growths": f"{figures.growths:,}",
        "coalescing passes": f"{figures.coalescings:,}",
        "searches for cycles before the last": f"{before.cycle_searches:,}",
        "objects that only cycles kept": f"{figures.cyclic_objects:,}",
    }
    rows |= {name.replace("_", " "): f"{count:,}" for name, count in figures.counters.items()}
    if verified:
        rows["heap verified"] = "yes"
    for name, value in rows.items():
        table.add_row(Text(name), Text(printable_on(value, sys.stderr)))
    Console(stderr=True, highlight=False).print(table)
    if figures.live_objects:
        say(_why_live(store, figures.live_objects))


def _compiled_by_need(module: Module) -> dict[str, str]:
    """Return the figures of functions that were compiled when they were called, if there are such."""
    found = module.compiled_by_need()
    if found is None:
        return {}
    return {
        "functions compiled by need": f"{len(found.compiled):,} of {len(found.functions):,}",
        "functions optimised": f"{len(found.optimised):,}",
        "pieces of code": f"{found.pieces:,}",
        "compile time by need": _milliseconds(found.seconds),
    }


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def _why_live(store: Store, live: int) -> str:
    """Say who holds the objects that a last collection left."""
    objects = f"{live:,} objects are" if live > 1 else "1 object is"
    text = f"lowheap: {objects} live after a last collection: "
    if not store.heap.is_counted:
        return text + f"the collector {store.engine.collector.name} counts no references, so nothing is ever freed"
    reached: set[int] = set()
    pending = [reference for _, reference in store.heap.root_slots()]
    while pending:
        reference = pending.pop()
        if reference not in reached:
            reached.add(reference)
            pending += filter(is_object, store.heap.references(reference))
    parts = []
    if reached:
        holders = "globals or tables" if store.heap.control.root_range_count else "globals"
        parts.append(f"{len(reached):,} reachable from {holders}")
    if live > len(reached):
        parts.append(
            f"{live - len(reached):,} from no root, which only reference cycles keep: no search was made for them"
        )
    return text + ", ".join(parts)
