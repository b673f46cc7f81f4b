"""Collectors that somebody got wrong: each is refused with an error that names the thing and what is allowed."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from lowheap.collectors import registry
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Collector
from lowheap.engine import Engine
from lowheap.errors import CompilerError
from lowheap.native import HeaderBit

HEAD = """from __future__ import annotations
from lowheap.collectors.drc import Drc
from lowheap.collectors.interface import Collector, Shape
from lowheap.native import Buffer, Heap, Ref, SideTable, Slot, native, state, u8, u32, u64
from lowheap.native.check import U32




@state
class S:
    a: u64
    narrow: u32


@state
class T:
    a: u64


"""

READ = "    @native\n    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:\n        "
WRITE = "    @native\n    def {0}(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:\n        "
IN_READ = r"\(in the event read of the collector X\)"
ROUND = "heap.collector.{1}(heap, owner, slot, value, shape)\n"


def write_round(name: str, other: str) -> str:
    return (WRITE + ROUND).format(name, other)


MISTAKES = {
    f"class X(Drc):\n{READ}return heap.collector.read(heap, owner, slot, shape)": "X.read calls X.read",
    f"class X(Drc):\n{write_round('write', 'init')}{write_round('init', 'write')}": "X.init calls X.write",
    f"class X(Drc):\n{READ}return slot.value if shape.foo else 0": "Shape has no foo",
    "class X(Drc):\n    states = S": "X.states is .*; it must be a tuple",
    "class X(Drc):\n    states, counters = (S,), ('a')": "X.counters is 'a'; it must be a tuple",
    "class X(Drc):\n    states, counters = (S,), ('narrow',)": "'narrow', which is no u64 of S, but u32",
    "class X(Drc):\n    states, counters = (S, T), ('a',)": "'a', which is in S and T",
    "class X(Drc):\n    compiled = ('read',)": "'read' is no native function",
    "class X(Drc):\n    name = 5": "X.name is 5; it must be a str",
    "class X(Drc):\n    called = 'yes'": "X.called is 'yes'; it must be a bool",
    "class X(Drc):\n    buffers = (SideTable('a', u8, granule=16),)": r"SideTable\('a'\) is among its buffers",
    "class X(Drc):\n    side_tables = (Buffer('a'),)": r"Buffer\('a'\) is among its side_tables",
    "class X(Drc):\n    parameters = {'mine': U32}": "no value of its parameter mine",
    "class X(Drc):\n    def __init__(self):\n        self.mine = 5": "no value of its parameter list_floor",
    "class X(Drc):\n    parameters = {'mine': u32}": "the parameter mine of X is of type u32; .* as U32, or BOOL",
    "class X(Drc):\n    parameters = ('mine',)": r"X.parameters is \('mine',\); it must be a mapping",
    "class X(Drc):\n    functions = {'mine': 3}": "the function mine of X is 3; it must be a Signature",
    "class X(Drc):\n    def __init__(self, mine):\n        pass": "without arguments: TypeError: .* 'mine'",
    f"class X(Drc):\n{READ}return None": f"read returns u32, and here nothing {IN_READ}",
    f"class X(Drc):\n{READ}if slot.value:\n            return 0": f"does not return u32 on every path {IN_READ}",
    f"class X(Drc):\n{READ}return slot.valve": f"a place of u32 has no valve {IN_READ}",
    f"class X(Drc):\n{READ}return valve": f"the name valve is not known {IN_READ}",
    f"@native\ndef f(heap: Heap) -> None:\n    heap.g()\nclass X(Drc):\n{READ}f(heap)\n": f"heap has no g {IN_READ}",
    f"class X(Drc):\n{READ.replace('-> Ref', '-> None')}return": "X.read is .* -> nothing; the event read is of type",
    f"class X(Drc):\n{READ.replace('Ref, slot', 'Reff, slot')}return 0": f"the name Reff is not known {IN_READ}",
    f"class X(Drc):\n{READ.replace('owner: Ref', 'owner')}return 0": f"the parameter owner is not annotated {IN_READ}",
    f"class X(Drc):\n{READ.replace(', shape: Shape', '')}return 0": "X.read is of type .*; the event read is of type",
    f"class X(Drc):\n{READ}heap.state(T).a += 1\n        return 0": f"the collector has no state T: .* {IN_READ}",
    f"B = Buffer('b')\nclass X(Drc):\n{READ}return u32(heap.length(B).value)": rf"has no Buffer\('b'\): .* {IN_READ}",
    f"class X(Drc):\n{READ.replace('read', 'raed')}return 0": "X.raed is no event.*; is read meant.* the collector X",
    f"class B(Drc):\n{READ.replace('read', 'raed')}return 0\nclass X(B): pass": "B.raed is no .*; is read meant",
    f"class X(Drc):\n{READ.replace('read', 'load')}return 0": "X.load is no event.*, and none of its functions calls",
    "class X(Drc):\n    def on_write(self, slot): pass": "X.on_write is no event, function .*; is write meant",
    "class X(Drc):\n    counter = ('a',)": "X.counter is no event, function or attribute .*; is counters meant",
    "X = Collector": "Collector has no event read",
    "class X(Drx): pass": r"NameError: name 'Drx' is not defined \(.*wrong_\d+.py:\d+\)",
    "class X(Drc:": "SyntaxError",
    "raise SystemExit(4)": "SystemExit: 4",
    "@state\nclass X:\n    a: u64 = 5": "X.a has a value: a state has fields only",
    "state(3)": "3 is no class",
}


def test_mistakes_are_told_when_the_engine_is_made(tmp_path: Path) -> None:
    file = tmp_path / "late.py"
    file.write_text(f"{HEAD}class X(Drc):\n{READ}return slot.valve\n")
    for options in ({"collector": f"{file}:X"}, {"barriers": f"{file}:X"}):
        with pytest.raises(CompilerError, match=r"late.py:\d+: .* valve \(in the event read of the collector X\)"):
            Engine(**options)


def test_what_is_a_class_s_own_affair_is_not_refused(tmp_path: Path) -> None:
    """Helpers that are called, of Python's and of the subset; a subclass that does not call its base's."""
    file = tmp_path / "own.py"
    helper = READ.replace("read", "reads")
    body = "return Drc.read(heap, owner, slot, shape)\n"
    python = "    limit = 5\n    def report(self): return 1\n    @property\n    def reader(self): return 2\n"
    file.write_text(
        f"{HEAD}class B(Drc):\n{python}{helper}{body}{READ}return B.reads(heap, owner, slot, shape)\n"
        f"class X(B):\n{READ}{body}"
    )
    for name in ("B", "X"):
        assert registry.find(f"{file}:{name}").name == name


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_are_named(tmp_path: Path, number: int) -> None:
    text, message = list(MISTAKES.items())[number]
    file = tmp_path / f"wrong_{number}.py"
    file.write_text(f"{HEAD}{text}\n")
    with pytest.raises(CompilerError, match=message):
        registry.find(f"{file}:X")


class Floored(Drc):
    """Made with any floor."""


class Wrong(Drc):
    """Its `read` is none."""

    read = 3


def test_a_class_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    original = Collector._check_class

    def look(self: Collector) -> None:
        looked.append(self.name)
        original(self)

    monkeypatch.setattr(Collector, "_check_class", look)
    for wanted in (Floored, Floored(), Floored(list_floor=7), Floored):
        assert type(registry.find(wanted)) is Floored
    assert looked == ["Floored"]


def test_parameters_are_looked_at_with_each_instance() -> None:
    registry.find(Floored)
    with pytest.raises(CompilerError, match="the parameter list_floor of the collector Floored is -1, not u32"):
        registry.find(Floored(list_floor=-1))


def test_a_class_that_is_wrong_is_so_each_time() -> None:
    for _ in range(2):
        with pytest.raises(CompilerError, match=r"Wrong.read is 3; it must be a native function"):
            registry.find(Wrong)


def test_no_class_is_kept_alive() -> None:
    kind = type("Passing", (Drc,), {"header_bits": (HeaderBit("passing"),)})
    found = registry.find(kind)
    found.area()
    gone = weakref.ref(kind)
    del kind, found
    gc.collect()
    assert gone() is None
