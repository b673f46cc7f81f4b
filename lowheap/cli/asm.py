"""`lowheap asm MODULE --function NAME`: a function's machine code, with what each instruction is there for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lowheap.cli.options import (
    check_collector,
    collector_options,
    interruptible_option,
    naming,
    opt_level_option,
    read_program,
    runtime_option,
)
from lowheap.cli.output import compile_progress, report_console
from lowheap.engine import Engine
from lowheap.errors import LowheapError
from lowheap.jit.barriers import Barriers
from lowheap.jit.listing import BARRIER_EVENTS, Line, MarkedCode, RegionSize
from lowheap.jit.marks import MOVED, PLAIN, MarkedModule, Path
from lowheap.representation import printable
from lowheap.wasm.compile import ModuleCompiler
from lowheap.wasm.module import Module

_STYLES = {
    **dict.fromkeys(BARRIER_EVENTS, "yellow"),
    "allocate": "green",
    "safepoint": "cyan",
    "trap": "red",
    "stack check": "magenta",
    "poll": "magenta",
}

# The ways into compiled code and out of it, which every module has: no part of the program's code.
_TRANSITION = re.compile(r"lowheap\.(enter|host|trap|drop|interrupt|allocate_struct|allocate_array)\b")


@click.command("asm")
@click.argument("module", metavar="MODULE")
@click.option("--function", "wanted", metavar="NAME", help="The function: its export's name, its own, or its index.")
@collector_options
@runtime_option("Compile for this runtime: with native, allocation is inline.")
@opt_level_option()
@interruptible_option()
@click.option("--llvm", "as_ir", is_flag=True, help="Print LLVM's IR, optimised, in place of machine code.")
@click.option("--sizes", "as_sizes", is_flag=True, help="Print bytes and instructions by region in place of code.")
@click.pass_context
def asm_command(
    ctx: click.Context,
    /,
    module: str,
    wanted: str | None,
    collector: str | None,
    barriers: str | None,
    runtime: str,
    opt_level: int,
    interruptible: bool,
    as_ir: bool,
    as_sizes: bool,
) -> None:
    """Print the machine code of a function of MODULE, and in front of each instruction what it is there for.

    MODULE is a file with WebAssembly text or binary, or - for standard input. An instruction belongs to a barrier
    (read, write, init, inc_ref, dec_ref), to allocation, a safepoint, a trap, the stack check or a poll, or, with
    nothing in front, to the program's own work. write/dec_ref is the decrement within a write barrier. (moved) is what
    LLVM merged from several places. Without --function, --sizes is of the whole module.
    """
    if as_ir and as_sizes:
        raise click.UsageError("--llvm and --sizes are two different outputs; give one of them", ctx)
    chosen = check_collector(ctx, collector, barriers)
    engine = Engine(**chosen, runtime=runtime, opt_level=opt_level, interruptible=interruptible)
    with compile_progress() as progress:
        with naming(module):
            compiled = Module(engine, read_program(module), progress=progress)
        code, symbols = _compile_marked(compiled, progress)
    console = report_console()
    options = f"{compiled.engine.collector.name} barriers, {runtime} runtime, optimisation level {opt_level}"
    if wanted is None:
        if not as_sizes:
            known = "\n".join(f"  {printable(compiled.function_name(index))}" for index in symbols)
            raise click.UsageError(f"--function is missing; {module} has these:\n{known}", ctx)
        present = [symbol for symbol in code.functions if not _TRANSITION.match(symbol)]
        _print_sizes(console, f"{module}: {options}", [code.sizes(symbol) for symbol in present])
        return
    symbol, label = _find(ctx, compiled, code, symbols, wanted)
    if as_sizes:
        _print_sizes(console, f"{label}: {options}", [code.sizes(symbol)])
        return
    size = len(code.machine_code(symbol))
    console.print(Text(f"{printable(label)}: {size} bytes, {options}", "bold"), soft_wrap=True)
    for line in _gutter(code.llvm_ir(symbol) if as_ir else code.assembly(symbol), is_code=not as_ir):
        console.print(line, soft_wrap=True)


def _compile_marked(
    module: Module, progress: Callable[[int, int], None] | None = None
) -> tuple[MarkedCode, dict[int, str]]:
    """Compile again, all of it, with marks; `progress` is a module's.

    Returns also the symbols of the module's own functions, by function index.
    """
    engine = module.engine
    compiler = ModuleCompiler(
        module.outline,
        module.call_graph,
        Barriers(module.engine.collector),
        inline_allocation=engine.runtime == "native",
        inline=engine.inline,
        interruptible=engine.interruptible,
        is_optimised=engine.opt_level > 0,
        marked=True,
    )
    emitted, _ = compiler.compile(progress)
    assert isinstance(emitted, MarkedModule), "the compiler was asked for marks"
    symbols = {index: str(function.name) for index, function in compiler.functions.items()}
    return MarkedCode(emitted, opt_level=engine.opt_level), symbols


def _find(
    ctx: click.Context, module: Module, code: MarkedCode, symbols: dict[int, str], wanted: str
) -> tuple[str, str]:
    """Return the symbol and the label of the function that is meant: by export, name, index or symbol."""
    exports = {each.name: each.index for each in module.decoded.exports if each.kind == "function"}
    names = {name: index for index, name in module.decoded.names.functions.items()}
    index = exports.get(wanted, names.get(wanted.removeprefix("$")))
    if index is None and wanted.isdecimal() and int(wanted) < len(module.function_types):
        index = int(wanted)
    if index is None:
        if wanted in code.functions:  # a barrier's or a trampoline's
            return wanted, wanted
        known = [*exports, *(f"${name}" for name in names)]
        near = difflib.get_close_matches(wanted, known) or known
        hint = f"; there are {', '.join(sorted(near))}" if near else ""
        raise click.UsageError(f"there is no function {wanted!r}{printable(hint)}", ctx)
    label = f"function {index}" + (f" ${name}" if (name := module.decoded.names.functions.get(index)) else "")
    if index not in symbols:
        raise LowheapError(f"{label} is imported: the module has no code of it")
    if symbols[index] not in code.functions:
        raise LowheapError(
            f"{label} has no machine code of its own: it is inlined wherever it is called, or never called"
        )
    return symbols[index], label


def _label(path: Path) -> str:
    return "/".join(path)


def _style(path: Path) -> str:
    if path == MOVED:
        return "dim"
    return next((_STYLES[kind] for kind in reversed(path) if kind in _STYLES), "")


def _gutter(lines: list[Line], *, is_code: bool) -> list[Text]:
    """The lines of a listing with a column in front that says what each is for."""
    width = max((len(_label(line.path)) for line in lines if line.path), default=0)
    found = []
    for line in lines:
        path = line.path or PLAIN
        text = Text().append(f"{_label(path):{width}} │ ", _style(path) or "dim")
        indent = "    " if is_code and line.path is not None else ""
        text.append(indent + line.text, _style(path))
        found.append(text)
    return found


def _print_sizes(console: Console, title: str, sizes: list[dict[Path, RegionSize]]) -> None:
    """Print a table of what functions consist of; an event's figures include those of the events inside it."""
    totals: dict[Path, tuple[int, int]] = {}
    for each in sizes:
        for path, size in each.items():
            for length in range(len(path) + 1) if path else (0,):
                inside = path[:length]
                known = totals.get(inside, (0, 0))
                totals[inside] = (known[0] + size.bytes, known[1] + size.instructions)
    whole = totals.pop(PLAIN, (0, 0))
    outer = [size for path, size in totals.items() if len(path) == 1]
    own = (whole[0] - sum(bytes for bytes, _ in outer), whole[1] - sum(count for _, count in outer))
    console.print(Text(printable(title), "bold"), soft_wrap=True)
    table = Table()
    table.add_column("region", overflow="fold")
    for column in ("bytes", "share", "instructions"):
        table.add_column(column, justify="right")

    def row(label: str, size: tuple[int, int], style: str = "") -> None:
        share = f"{size[0] / whole[0]:.1%}" if whole[0] else ""
        table.add_row(*(Text(text, style) for text in (label, f"{size[0]:,}", share, f"{size[1]:,}")))

    row("the program's own", own)
    for path in sorted(totals, key=lambda path: (path == MOVED, path)):
        row("  " * (len(path) - 1) + _label(path), totals[path], _style(path))
    row("total", whole, "bold")
    console.print(table)
