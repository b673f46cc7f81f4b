"""How many instructions barriers and allocation take, in lowheap and in the C yardstick.

Two counts, by two instruments. From the assembly: the instructions of a function as laid out, from its entry to its
first return, and all of them. Compilers put behind the first return what they take for unlikely, but a path may also
jump past it: so this is the fast path's length only roughly. And, where valgrind is there, callgrind's count of what
one call executes, less a call of a function that does nothing. The first is of the code that runs here, the second of
code for a CPU that valgrind can follow.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llvmlite import binding, ir

import lowheap as lh
from benchmarks import programs
from benchmarks.contenders import ContenderError, c_compiler
from lowheap.collectors import registry
from lowheap.declarations import c_declarations
from lowheap.jit.barriers import Barriers
from lowheap.jit.engine import compile as compile_ir
from lowheap.jit.engine import target_machine
from lowheap.runtime import natives

_HERE = Path(__file__).resolve().parent
_VALGRIND_CPU = "x86-64-v2"
_CALLS = (1000, 3000)

FUNCTIONS = ("lh_read", "lh_write", "lh_init", "lh_inc_ref", "lh_dec_ref", "lh_make")
"""The functions whose assembly is looked at. References may be null or an i31; `lh_make` allocates a struct of 32
bytes and fills it."""

EVENTS = ("read", "read null", "write", "write null over null", "init", "inc_ref", "dec_ref")
"""The events of events.c."""

_OF_THREE = ("write", "write null over null", "init")  # functions of three arguments; the others have two

_MAKE = """
(module
  (type $box (struct (field $label i32)))
  (func (export "make") (param $label i32) (result (ref $box)) (struct.new $box (local.get $label))))
"""


class CountError(Exception):
    """Assembly that cannot be counted."""


@dataclass(frozen=True, slots=True)
class Count:
    """A function's instructions: to its first return, and in all."""

    fast: int
    all: int


@dataclass(frozen=True, slots=True)
class Instructions:
    """Both counts, by contender and function or event; `notes` say what could not be counted, and why."""

    static: dict[str, dict[str, Count]]
    executed: dict[str, dict[str, float]]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return asdict(self)


def count(assembly: str, function: str) -> Count:
    """Count a function's instructions in assembly text, with those of the functions in it that the fast path enters.

    CountError when it is not there, or never returns.
    """
    found = re.search(rf"^{re.escape(function)}:.*?^\s*\.size\s+{re.escape(function)},", assembly, re.M | re.S)
    if found is None:
        raise CountError(f"the assembly has no function {function}")
    lines = [line.split() for line in found[0].splitlines() if re.match(r"\s+[a-z]", line)]
    fast, entered = 0, Count(0, 0)
    for name, *operands in lines:
        fast += 1
        if name.startswith("ret"):
            break
        target = operands[0] if operands else ""
        leaves = name == "jmp" and not target.startswith((".", "*"))
        if leaves or name.startswith("call"):
            if target == function or not re.search(rf"^{re.escape(target)}:", assembly, re.M):
                raise CountError(f"the fast path of {function} enters {target}, whose instructions are not known")
            inner = count(assembly, target)
            entered = Count(entered.fast + inner.fast, entered.all + inner.all)
        if leaves:
            break
    else:
        raise CountError(f"{function} has no return")
    return Count(fast + entered.fast, len(lines) + entered.all)


def measure(folder: Path) -> Instructions:
    """Count everything that can be counted here; files go to `folder`."""
    static: dict[str, dict[str, Count]] = {}
    executed: dict[str, dict[str, float]] = {}
    notes: list[str] = []
    compiler, valgrind = c_compiler(), shutil.which("valgrind")
    if compiler is None:
        notes.append(f"{programs.YARDSTICK}: there is no C compiler; nothing was executed for counting either")
    elif valgrind is None:
        notes.append("there is no valgrind: no executed instructions were counted")
    for name, barrier_set in ((programs.NATIVE, "drc"), (programs.OUTLINED, "outlined"), (programs.NULL, "null")):
        text = _natives(barrier_set)
        assembly = target_machine().emit_assembly(binding.parse_assembly(text))
        static[name] = _count_all(name, assembly, {f: f for f in FUNCTIONS if f in natives.CDECLS}, notes)
        made, makes = _allocation(barrier_set)
        static[name] |= _count_all(name, made, {"lh_make": makes}, notes)
        if compiler is not None and valgrind is not None:
            try:
                executed[name] = _execute(_link_natives(compiler, folder, name, text), valgrind)
            except ContenderError as error:
                notes.append(f"{name}: {error}")
    if compiler is not None:
        yardstick = str(_HERE / "yardstick.c")
        try:
            assembly = _run([compiler, "-O2", "-march=native", "-DEVENTS", "-S", yardstick, "-o", "-"])
            static[programs.YARDSTICK] = _count_all(programs.YARDSTICK, assembly, {f: f for f in FUNCTIONS}, notes)
            if valgrind is not None:
                built = folder / "yardstick-events"
                _run([compiler, "-O2", "-DEVENTS", yardstick, str(_HERE / "events.c"), "-o", str(built)])
                executed[programs.YARDSTICK] = _execute(built, valgrind)
        except ContenderError as error:
            notes.append(f"{programs.YARDSTICK}: {error}")
    return Instructions(static, executed, tuple(notes))


def _count_all(name: str, assembly: str, symbols: dict[str, str], notes: list[str]) -> dict[str, Count]:
    """Count functions, given as what they do and their symbol; notes get those that cannot be counted."""
    counts = {}
    for function, symbol in symbols.items():
        try:
            counts[function] = count(assembly, symbol)
        except CountError as error:
            notes.append(f"{name}: {error}")
    return counts


def _natives(barrier_set: str) -> str:
    """The barrier functions of a set, as optimised LLVM IR."""
    module = ir.Module("benchmarks.events")
    natives.emit(module, Barriers(registry.find(barrier_set)))
    return compile_ir(module, tuple(natives.CDECLS)).llvm_ir


def _allocation(barrier_set: str) -> tuple[str, str]:
    """The assembly of a module with one function, that allocates, and that function's symbol."""
    engine = lh.Engine(barriers=barrier_set, runtime="native")
    text = lh.Module(engine, _MAKE).compiled.llvm_ir
    names = re.findall(r'^define [^@\n]*@"?(wasm\.[^"(\s]*)"?\(', text, re.M)
    if len(names) != 1:
        raise AssertionError(f"the function that allocates cannot be told from others: {names}")
    return target_machine().emit_assembly(binding.parse_assembly(text)), names[0]


def _link_natives(compiler: str, folder: Path, name: str, text: str) -> Path:
    """Link the driver with a set's functions."""
    machine = binding.Target.from_default_triple().create_target_machine(cpu=_VALGRIND_CPU, opt=2, reloc="pic")
    stem = name.replace(" ", "-")
    made, built = folder / f"{stem}.o", folder / f"{stem}-events"
    made.write_bytes(machine.emit_object(binding.parse_assembly(text)))
    (folder / "lowheap.h").write_text(f"#include <stddef.h>\n#include <stdint.h>\n{c_declarations()}\n")
    _run(
        [
            *(compiler, "-O2", "-DLOWHEAP", f"-I{folder}"),
            *(str(_HERE / "events.c"), str(made), "-z", "noexecstack", "-o", str(built)),
        ]
    )
    return built


def _execute(program: Path, valgrind: str) -> dict[str, float]:
    """The instructions that one call of each event executes."""

    def per_call(event: str) -> float:
        few, many = (_collected(valgrind, program, event, calls) for calls in _CALLS)
        return (many - few) / (_CALLS[1] - _CALLS[0])

    # An empty function is a return; so the caller's part is all the rest.
    caller = {arguments: per_call(f"none of {arguments}") - 1 for arguments in (2, 3)}
    return {event: per_call(event) - caller[3 if event in _OF_THREE else 2] for event in EVENTS}


def _collected(valgrind: str, program: Path, event: str, calls: int) -> int:
    command = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), event, str(calls)]
    said = _run(command)
    found = re.search(r"Collected\s*:\s*(\d+)", said)
    if found is None:
        raise ContenderError(f"valgrind did not say what it counted: {said.strip()[-200:]}")
    return int(found[1])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()
        raise ContenderError(f"{Path(command[0]).name} failed: {last[-1] if last else done.returncode}")
    return done.stdout + done.stderr
