"""The `lowheap` command: run a WebAssembly program on the heap, and say what became of its objects.

Standard output holds the results of the program and nothing else, one a line. All the rest (messages, statistics, logs)
goes to standard error. Whatever goes wrong is one message there, and an exit status:

- 1: an error: a file that cannot be read, a module that cannot be compiled, no memory, ...
- 2: the command line is wrong, an export's name and arguments included;
- 3: the program trapped;
- 130: interrupted from the keyboard.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import errno
import functools
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import IO, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lowheap.allocator import SegregatedFit
from lowheap.cli_asm import asm_command
from lowheap.cli_embed import build_library_command, header_command
from lowheap.cli_inspect import inspect_command
from lowheap.cli_layout import layout_command
from lowheap.cli_output import barriers_option, compile_progress, opt_level_option, read_program
from lowheap.engine import RUNTIMES, Engine
from lowheap.errors import CompilerError, LowheapError, ModuleError, Trap
from lowheap.first_fit import FirstFit
from lowheap.heap import TRACE, HeapStatistics
from lowheap.jit import barriers as barrier_sets
from lowheap.layout import MAXIMUM_CAPACITY, is_object
from lowheap.objects import I31, Func
from lowheap.store import ALLOCATORS, DEFAULT_INITIAL_HEAP_SIZE, GROWTH_POLICIES, Store
from lowheap.types import AbstractHeapType, FuncType, NumType, RefType, TypeRegistry, ValType
from lowheap.wasm.instance import Instance
from lowheap.wasm.module import Module

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_TRAP = 3
EXIT_INTERRUPTED = 130

_log = logging.getLogger("lowheap.cli")

_LOG_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


# ----------------------------------------------------------------------------------------------------------------------
# Entry, and what becomes of errors


def main() -> int:
    """Run the command with the process's arguments, and return its exit status: the `lowheap` console script."""
    logging.raiseExceptions = False  # a log that nobody reads any more is no reason to fail
    _exit_on_interrupt()
    return execute(sys.argv[1:])


def execute(arguments: Sequence[str]) -> int:
    """Run the command with these arguments, and return its exit status. Every exception becomes a message."""
    with contextlib.ExitStack() as until_reported:
        try:
            status = command.main(args=list(arguments), prog_name="lowheap", standalone_mode=False, obj=until_reported)
            if sys.stdout is not None:
                sys.stdout.flush()
        except Exception as error:
            return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    """Print an exception as one message, and return the exit status that goes with it."""
    status, label, text = EXIT_ERROR, "error", str(error)
    match error:
        case OSError() if error.errno == errno.EPIPE:  # nobody reads the output any more: nothing to be said
            _abandon_output()
            return EXIT_ERROR
        case click.UsageError():
            status = EXIT_USAGE
            text = error.format_message()
            if error.ctx is not None:
                text += f"\nTry '{error.ctx.command_path} --help' for help."
        case click.ClickException():
            text = error.format_message()
        case Trap():
            status, label, text = EXIT_TRAP, "trap", text.removeprefix("wasm trap: ")
        case click.Abort():
            status, label, text = EXIT_INTERRUPTED, "interrupted", "Ctrl-C"
        case MemoryError():
            text = f"out of memory: {text}" if text else "out of memory"
        case LowheapError():
            pass
        case _:
            text = f"{type(error).__name__}: {text} (with --log-level debug: where)"
    _log.debug("where this comes from:", exc_info=error)
    _say(f"lowheap: {label}: {text}")
    return status


def _say(message: str) -> None:
    """Print a message on standard error, where there is one that takes it."""
    with contextlib.suppress(OSError):
        click.echo(_printable(message, sys.stderr), err=True)


def _printable(text: str, stream: IO[str] | None) -> str:
    """Escape what a terminal would obey, and what the stream cannot encode: names are the program's, not ours."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _abandon_output() -> None:
    """Let standard output lead nowhere, so that the interpreter does not fail to flush it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_on_interrupt() -> None:
    """Have a thread of its own wait for SIGINT, and end the process: Python's handler waits for compiled code."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # whoever started this process wants SIGINT ignored

    def wait() -> None:
        signal.sigwait({signal.SIGINT})
        with contextlib.suppress(OSError):
            os.write(2, b"lowheap: interrupted\n")
        os._exit(EXIT_INTERRUPTED)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=wait, name="lowheap.interrupt", daemon=True).start()


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
                near = difflib.get_close_matches(name, known)
                raise click.NoSuchOption(name, possibilities=near, ctx=ctx)
        return rest


_GROUP_EPILOG = """\b
Exit status: 0; 1 for an error; 2 for a wrong command line;
3 when the program traps; 130 when interrupted."""

_RUN_EPILOG = (
    """\b
Example: lowheap run prog.wat --invoke run 10 100 --stats
Arguments may be negative numbers. Options may stand anywhere; behind --
everything is an argument.
"""
    + _GROUP_EPILOG
)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        try:
            version = metadata.version("lowheap")
        except metadata.PackageNotFoundError:
            version = "(not installed, so of no version)"
        click.echo(f"lowheap {version}")
        ctx.exit()


@click.group(invoke_without_command=True, epilog=_GROUP_EPILOG)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """wasmtime's deferred reference-counting heap, with WebAssembly GC programs on it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


command.add_command(asm_command)
command.add_command(build_library_command)
command.add_command(header_command)
command.add_command(inspect_command)
command.add_command(layout_command)


@command.command(
    cls=_RunCommand,
    short_help="Call an export of a WebAssembly program.",
    epilog=_RUN_EPILOG,
    context_settings={"ignore_unknown_options": True},
)
@click.argument("program")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1)
@click.option("--invoke", "export", metavar="EXPORT", help="The exported function to call, with ARGS.")
@barriers_option
@click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default=Engine().runtime,
    show_default=True,
    help="Who allocates, drops and collects: compiled code, or the heap in Python.",
)
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
@click.option("--checked", is_flag=True, help="Look for corruption in every operation of the heap in Python; slow.")
@click.option(
    "--collect-every",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="Collect at every Nth safepoint; 0, the default, leaves it to the heap.",
)
@opt_level_option()
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
def run(ctx: click.Context, /, program: str, arguments: tuple[str, ...], export: str | None, **options: Any) -> None:
    """Compile PROGRAM, call one of its exports with ARGS, and print the results, one a line.

    PROGRAM is WebAssembly, as text or binary; - is standard input. ARGS are read by the types of the parameters:
    integers in decimal or 0x form, floats, null for a nullable reference, an integer for an i31ref.
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
    if initial_heap is None:
        if growth == "collect-first" and max_heap < DEFAULT_INITIAL_HEAP_SIZE:
            initial_heap = max_heap
    elif initial_heap > max_heap:
        raise click.UsageError(f"--initial-heap {initial_heap} is more than --max-heap {max_heap}", ctx)
    engine = Engine(
        barriers=_check_barriers(options["barriers"], ctx),
        runtime=runtime,
        opt_level=options["opt_level"],
        cache=not options["no_cache"],
    )
    source = read_program(program)
    program = "<stdin>" if program == "-" else program
    with _naming(program), compile_progress() as progress:
        module = Module(engine, source, progress=progress)
    function_type = _find_export(module, program, export, ctx)
    assert export is not None, "without one there is nothing to find"
    values = _parse_arguments(engine.types, export, function_type, arguments, ctx)
    if module.imports:
        wanted = ", ".join(f"{i.module}.{i.name}" for i in module.imports)
        raise LowheapError(f"{program} imports what this command cannot provide: {wanted}")
    with Store(
        engine,
        allocator=allocator,
        growth=growth,
        initial_heap_size=initial_heap,
        maximum_heap_size=max_heap,
        collect_every=options["collect_every"],
        checked=options["checked"],
    ) as store:
        _call(store, module, export, function_type, values, stats=options["stats"], verify=options["verify"])


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


def _check_barriers(name: str, ctx: click.Context) -> str:
    """Return the name of a barrier set that there is. One's own module is looked for in the current directory too."""
    if not name:
        raise click.BadParameter("an empty name", ctx, param_hint="'--barriers'")
    if ":" in name and "" not in sys.path:
        sys.path.insert(0, "")
    try:
        barrier_sets.find(name)
    except CompilerError as error:
        raise click.BadParameter(str(error), ctx, param_hint="'--barriers'") from error
    return name


@contextlib.contextmanager
def _naming(program: str) -> Iterator[None]:
    """Put the program's name before what is wrong with it."""
    try:
        yield
    except ModuleError as error:
        raise type(error)(f"{program}: {error}") from error


def _find_export(module: Module, program: str, name: str | None, ctx: click.Context) -> FuncType:
    """Return the type of the function that is exported under a name; a usage error that lists what there is."""
    types = module.engine.types
    for export in module.exports:
        if export.name == name:
            if isinstance(export.type, FuncType):
                return export.type
            what = _describe(types, export.type.storage)
            raise click.UsageError(f"{program} exports {name!r} as a global of type {what}, not as a function", ctx)
    problem = "--invoke is missing: it names the export to call" if name is None else f"there is no export {name!r}"
    listed = [
        f"  {export.name!r}: {_describe(types, export.type)}"
        if isinstance(export.type, FuncType)
        else f"  {export.name!r}: (global {'mut ' * export.type.mutable}{_describe(types, export.type.storage)})"
        for export in module.exports
    ]
    if not listed:
        raise click.UsageError(f"{problem}; {program} exports nothing", ctx)
    raise click.UsageError("\n".join([f"{problem}; {program} exports:", *listed]), ctx)


def _describe(types: TypeRegistry, type: ValType | FuncType | Any) -> str:
    """Return a type's text format, with the names that the program gives to types."""

    def name(found: re.Match[str]) -> str:
        known = types.type_name(int(found[2]))
        return f"{found[1]}${known}" if known else found[0]

    return re.sub(r"(\(ref (?:null )?)([0-9]+)", name, str(type))


# ----------------------------------------------------------------------------------------------------------------------
# Values


def _parse_arguments(
    types: TypeRegistry, export: str, type: FuncType, arguments: Sequence[str], ctx: click.Context
) -> list[Any]:
    """Return the arguments as the export's parameters want them; a usage error where one does not fit."""
    if len(arguments) != len(type.params):
        raise click.UsageError(
            f"{export!r} takes {len(type.params)} arguments, {_describe(types, type)}; not {len(arguments)}", ctx
        )
    values = []
    for number, (wanted, text) in enumerate(zip(type.params, arguments, strict=True), 1):
        try:
            values.append(parse_value(wanted, text))
        except ValueError as error:
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            raise click.UsageError(
                f"argument {number} of {export!r} is {_describe(types, wanted)}, and {shown!r} is not: {error}", ctx
            ) from None
    return values


_INTEGER_FORM = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+)")
_FLOAT_FORM = re.compile(
    r"""[+-]?(?: inf(?:inity)? | nan
               | 0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?
               | (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)""",
    re.VERBOSE | re.IGNORECASE,
)
_INTEGER_RANGES = {  # as either sign
    NumType.I32: (-(1 << 31), (1 << 32) - 1),
    NumType.I64: (-(1 << 63), (1 << 64) - 1),
}
_I31_RANGE = (-(1 << 30), (1 << 31) - 1)


def parse_value(type: ValType, text: str) -> Any:
    """Return the Python value that `text` stands for as a WebAssembly value of this type.

    Integers are decimal or 0x hexadecimal, signed or unsigned; floats decimal or hexadecimal, `inf` and `nan` among
    them, rounded once to the type. A reference can only be `null`, or an integer for an i31ref. ValueError, which says
    what was allowed, for anything else.
    """
    if type in (NumType.F32, NumType.F64):
        if not _FLOAT_FORM.fullmatch(text):
            raise ValueError("write a decimal or hexadecimal number, inf or nan")
        # C's functions round correctly, to the type that is wanted: by way of a double, an f32 would be rounded twice.
        return float(_c_parser("strtof" if type is NumType.F32 else "strtod")(text.encode(), None))
    if isinstance(type, NumType):
        return _parse_integer(text, *_INTEGER_RANGES[type])
    if not isinstance(type, RefType):
        raise ValueError("such values cannot be written here")
    if text == "null" and type.nullable:
        return None
    if type.heap_type is AbstractHeapType.I31:
        return I31(_parse_integer(text, *_I31_RANGE, also="null" if type.nullable else None))
    raise ValueError("only null can be written here" if type.nullable else "no such reference can be written here")


def _parse_integer(text: str, least: int, greatest: int, also: str | None = None) -> int:
    allowed = f"write a decimal or 0x integer from {least} to {greatest}" + (f", or {also}" if also else "")
    if not _INTEGER_FORM.fullmatch(text) or len(text) > 4000:  # Python refuses to read more digits than that
        raise ValueError(allowed)
    value = int(text, 16 if "x" in text.lower() else 10)
    if not least <= value <= greatest:
        raise ValueError(allowed)
    return value


@functools.cache
def _c_parser(name: str) -> Any:
    function = ctypes.CDLL(None)[name]
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    function.restype = ctypes.c_float if name == "strtof" else ctypes.c_double
    return function


def format_value(type: ValType, value: Any) -> str:
    """Return a WebAssembly value as one line of text: a float in its shortest form that reads back as itself."""
    if value is None:
        return "null"
    if type is NumType.F32:
        for digits in range(1, 10):
            shortest = float(f"{value:.{digits}g}")
            if ctypes.c_float(shortest).value == value:
                return repr(shortest)
    return repr(value)


# ----------------------------------------------------------------------------------------------------------------------
# The call, and its figures


@dataclass(slots=True)
class _Times:
    """How long things took, in seconds."""

    compiling: float
    instantiating: float = 0.0
    running: float = 0.0


def _call(
    store: Store, module: Module, export: str, type: FuncType, values: list[Any], *, stats: bool, verify: bool
) -> None:
    """Instantiate and call; print results, then figures. What trapped is raised again behind that."""
    times = _Times(compiling=module.compile_seconds)
    trapped: Trap | None = None
    try:
        started = time.perf_counter()
        instance = Instance(store, module)
        times.instantiating = time.perf_counter() - started
        function: Func = instance.exports[export]
        started = time.perf_counter()
        try:
            returned = function(*values)
        finally:
            times.running = time.perf_counter() - started
        results = returned if len(type.results) > 1 else (returned,) if type.results else ()
        _print_results([format_value(each, value) for each, value in zip(type.results, results, strict=True)])
        del returned, results  # handles, which hold objects
    except Trap as error:
        trapped = error
    if verify:
        store.verify()
    if stats:
        before = store.heap.stats()
        store.collect()
        if verify:
            store.verify()
        _print_statistics(store, module, times, before, verified=verify)
    if trapped is not None:
        raise trapped


def _print_results(lines: list[str]) -> None:
    if lines and sys.stdout is None:
        raise LowheapError("cannot write the results: standard output is closed")
    try:
        for line in lines:
            click.echo(_printable(line.replace("\n", "\\n").replace("\t", "\\t"), sys.stdout))
    except OSError as error:
        _abandon_output()
        if error.errno == errno.EPIPE:
            raise
        raise LowheapError(f"cannot write the results: {error.strerror or error}") from error


def _print_statistics(store: Store, module: Module, times: _Times, before: HeapStatistics, *, verified: bool) -> None:
    """Print the figures after a last collection; `before` are those before it."""
    figures = store.heap.stats()
    table = Table(show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right", overflow="fold")
    rows = {
        "barriers": module.engine.barriers,
        "runtime": module.engine.runtime,
        "allocator": store.heap.allocator_policy.name,
        "optimisation level": str(module.engine.opt_level),
        "compile time": _milliseconds(times.compiling),
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
    }
    if verified:
        rows["heap verified"] = "yes"
    for name, value in rows.items():
        table.add_row(Text(name), Text(_printable(value, sys.stderr)))
    Console(stderr=True, highlight=False).print(table)
    if figures.live_objects:
        _say(_why_live(store, figures.live_objects))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"


def _why_live(store: Store, live: int) -> str:
    """Say who holds the objects that a last collection left."""
    objects = f"{live:,} objects are" if live > 1 else "1 object is"
    text = f"lowheap: {objects} live after a last collection: "
    if not store.heap.is_counted:
        return text + "code with these barriers does not count references, so nothing is ever freed"
    reached: set[int] = set()
    pending = [reference for _, reference in store.heap.root_slots()]
    while pending:
        reference = pending.pop()
        if reference not in reached:
            reached.add(reference)
            pending += filter(is_object, store.heap.references(reference))
    parts = []
    if reached:
        parts.append(f"{len(reached):,} reachable from globals")
    if live > len(reached):
        parts.append(f"{live - len(reached):,} from no root, which only reference cycles keep; they are never freed")
    return text + ", ".join(parts)
