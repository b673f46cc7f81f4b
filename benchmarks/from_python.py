"""What using the heap from Python costs, on lowheap and on the newest wasmtime's package; and what starting costs.

Each contender is a process, and they take turns, row by row: `workers/use_from_python.py` does a row so many times for
each line of its input. What counts is CPU seconds, of a repetition's median; the first does not count. A row of
starting is a process of its own, each time: its CPU seconds, from its first to its last.

Where wasmtime's package has no such thing, it has no figure. It hardly gives GC objects to Python: fields and elements
are read and written by exported functions, of one object that the module holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import programs
from benchmarks.contenders import ROOT, Contender, ContenderError, Conversation, Field
from benchmarks.timed import Timed
from benchmarks.workers.use_from_python import FLOATS, HOST_CALLS
from lowheap.wasm import validate

CONTENDERS = {programs.NATIVE: "lowheap", programs.WASMTIME_NEWEST: "wasmtime"}
"""Who takes part, and what the worker calls it."""

_TIMES = {"full": 5000, "quick": 1000, "tiny": 3}
_PROGRAM = ROOT / "benchmarks" / "programs" / "from_python.wat"
_RUN = ("run", str(ROOT / "examples" / "binary_trees.wat"), "--invoke", "run", "10", "1")


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that people do. `result` is what comes of it, as text.

    Done once, it does `events` of them; a repetition does it as often as the scale says, divided by `share`. A row of
    starting has the commands instead, by contender: what follows `python`.
    """

    name: str
    title: str
    result: str = ""
    events: int = 1
    share: int = 1
    commands: dict[str, tuple[str, ...]] | None = None


ROWS = (
    Row("read_number", "read an i32 field of a struct", "7"),
    Row("write_number", "write an i32 field of a struct", "7"),
    Row("read_reference", "read a reference field", "True"),
    Row("write_reference", "write a reference field", "True"),
    Row("make_struct", "`lh.Struct(store, type, values)`", "7"),
    Row("call_for_struct", "call that returns a new struct", "7"),
    Row("call", "call of `add(i32, i32)`", "7"),
    Row("extern", "externref there and back", "there"),
    Row(
        "host_call", "call of a host function from compiled code", str(HOST_CALLS), events=HOST_CALLS, share=HOST_CALLS
    ),
    Row("read_element", "read an i32 element of an array", "7"),
    Row("write_element", "write an i32 element of an array", "7"),
    Row("floats_in", f"{FLOATS:,} f64 from a buffer, `Array.from_buffer`", str(float(FLOATS - 1)), share=1000),
    Row("floats_out", f"{FLOATS:,} f64 to bytes, `tobytes`", "True", share=1000),
    Row("floats_view", f"{FLOATS:,} f64 to an `array.array`, `view`", "True", share=1000),
    Row(
        "import",
        "`import lowheap`",
        commands={programs.NATIVE: ("-c", "import lowheap"), programs.WASMTIME_NEWEST: ("-c", "import wasmtime")},
    ),
    Row("help", "`lowheap --help`", commands={programs.NATIVE: ("-m", "lowheap", "--help")}),
    Row("cached_run", "`lowheap run` of a cached module", commands={programs.NATIVE: ("-m", "lowheap", *_RUN)}),
)


@dataclass(slots=True)
class Taken(Timed):
    """A row with one contender: CPU seconds for each repetition's event; `failed` says why there are none."""

    row: Row
    contender: str
    seconds: list[float] = field(default_factory=list)
    failed: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "row": self.row.name,
            "contender": self.contender,
            "seconds": self.seconds,
            "median": self.median,
            "failed": self.failed,
        }


@dataclass(slots=True)
class FromPython:
    """All that was taken, by row, then contender."""

    taken: list[Taken]

    def find(self, row: str, contender: str) -> Taken | None:
        """What was taken of a row's name with a contender; None where it has no such thing, or was not there."""
        for each in self.taken:
            if (each.row.name, each.contender) == (row, contender):
                return each
        return None

    def ratio(self, row: str) -> float | None:
        """wasmtime's time as a multiple of lowheap's, where both are known."""
        ours, theirs = (None if (found := self.find(row, name)) is None else found.median for name in CONTENDERS)
        return None if ours is None or theirs is None else theirs / ours

    @property
    def failures(self) -> list[str]:
        """What went wrong."""
        return [f"from Python: {each.row.title}: {each.contender}: {each.failed}" for each in self.taken if each.failed]

    def as_json(self) -> list[dict[str, Any]]:
        """Return it as what JSON can hold."""
        return [each.as_json() for each in self.taken]


def measure(field_: Field, scale: str, rounds: int, say: Callable[[str], None]) -> FromPython:
    """Take all rows with each contender that is there."""
    binary = field_.folder / f"{_PROGRAM.stem}.wasm"
    binary.write_bytes(validate.to_binary(_PROGRAM.read_text("utf-8")))
    present = [field_.contenders[name] for name in CONTENDERS if name in field_.contenders]
    found: list[Taken] = []
    users = {contender.name: _User(contender, str(binary)) for contender in present}
    try:
        for row in ROWS:
            say(f"from Python: {row.title}")
            takers = [each for each in present if _takes_part(row, each.name, users[each.name])]
            taken = {each.name: Taken(row, each.name) for each in takers}
            for number in range(rounds + 1):
                for contender in takers:
                    seconds = _repeat(taken[contender.name], contender, users[contender.name], field_, scale)
                    if number > 0 and seconds is not None:
                        taken[contender.name].seconds.append(seconds)
            found += taken.values()
    finally:
        for user in users.values():
            user.close()
    return FromPython(found)


class _User:
    """A contender's process, and what rows it has. `failed` says why it is not there."""

    def __init__(self, contender: Contender, binary: str) -> None:
        job = {"contender": CONTENDERS[contender.name], "binary": binary}
        command = [sys.executable, "-m", "benchmarks.workers.use_from_python", json.dumps(job)]
        self.process = Conversation(command, contender.path)
        self.rows: list[str] = []
        self.failed: str | None = None
        try:
            self.rows = self.process.answer()["rows"]
        except ContenderError as error:
            self.failed = str(error)

    def close(self) -> None:
        self.process.close()


def _takes_part(row: Row, contender: str, user: _User) -> bool:
    if row.commands is not None:
        return contender in row.commands
    return user.failed is not None or row.name in user.rows


def _repeat(taken: Taken, contender: Contender, user: _User, field_: Field, scale: str) -> float | None:
    """Do one repetition, and return the CPU seconds of one event; None when it has failed, now or before."""
    if taken.failed is None:
        try:
            if taken.row.commands is not None:
                return _start(taken.row.commands[contender.name], contender, str(field_.folder))
            return _use(taken.row, user, scale)
        except ContenderError as error:
            taken.failed = str(error)
    return None


def _use(row: Row, user: _User, scale: str) -> float:
    if user.failed is not None:
        raise ContenderError(user.failed)
    times = max(1, _TIMES[scale] // row.share)
    try:
        answer = user.process.ask(json.dumps([row.name, times]))
    except ContenderError as error:
        user.failed = str(error)
        raise
    if answer["result"] != row.result:
        raise ContenderError(f"gave {answer['result']}, not {row.result}")
    return float(answer["seconds"]) / times / row.events


def _start(arguments: tuple[str, ...], contender: Contender, home: str) -> float:
    """Run Python, and return the CPU seconds that it took. What it caches, its bytecode too, is kept in `home`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": os.pathsep.join(contender.path), "PYTHONPYCACHEPREFIX": f"{home}/bytecode"}
    environment |= {"HOME": home, "XDG_CACHE_HOME": home}
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # as `Popen` would have noted
    if process.returncode != 0:
        raise ContenderError(f"ended (status {process.returncode})")
    return used.ru_utime + used.ru_stime
