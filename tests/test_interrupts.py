"""A signal's handler that raises, as Ctrl-C's does, at the places of a host's operation: the store stays sound.

The places are all opcodes that Python runs of lowheap's while it is at it: more than those at which the interpreter
calls handlers. Where an operation has many, some are chosen, evenly. Afterwards nothing may be lost: no object, no host
value, no handle, and what was raised has come out.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import lowheap as lh
from lowheap.critical import whole
from lowheap.errors import HeapCorruptionError
from lowheap.types import ANYREF, I32

SOURCES = str(Path(lh.__file__).parent)
PLACES = 120

PROGRAM = """
(module
  (type $cell (struct (field $next (mut anyref))))
  (import "host" "wrap" (func $wrap (param anyref) (result anyref)))
  (global (export "global") (mut anyref) (ref.null any))
  (func (export "wrapped") (param anyref) (result anyref) (call $wrap (local.get 0)))
  (func (export "chain") (result (ref $cell)) (struct.new $cell (struct.new $cell (ref.null any))))
  (func (export "number") (param i32) (result i32) (local.get 0))
  (func (export "extern") (param externref) (result externref) (local.get 0)))
"""

CELL = lh.StructType((lh.FieldType(ANYREF, True),))
REFERENCES = lh.ArrayType(lh.FieldType(ANYREF, True))
NUMBERS = lh.ArrayType(lh.FieldType(I32, True))


class Interrupted(Exception):
    """What the handler raises."""


class Scene:
    """A store with a program, and an object that is held."""

    def __init__(self, runtime: str) -> None:
        # In a small heap few blocks are carved at once: `verify`, which comes after every place, reads them all.
        self.store = lh.Store(lh.Engine(runtime=runtime), initial_heap_size=8192)
        module = lh.Module(self.store.engine, PROGRAM)
        imports = {"host": {"wrap": lambda value: lh.Struct(self.store, CELL, [value])}}
        self.exports: Any = lh.Instance(self.store, module, imports).exports
        self.holder = lh.Struct(self.store, CELL)

    def figures(self) -> tuple[int, ...]:
        """What there is when all that was made is let go of."""
        self.holder[0] = None
        self.exports["global"].value = None
        self.store.collect()
        self.store.verify()
        handles = sum(1 for _ in self.store.heap.handles())
        return self.store.stats().live_objects, len(self.store.host_data), handles, self.store.heap.control.no_gc_count


def read_field(scene: Scene) -> None:
    scene.holder[0] = scene.holder
    assert scene.holder[0] == scene.holder
    scene.holder[0] = None


def collect(scene: Scene) -> None:
    scene.exports["chain"]()
    scene.store.collect()


def use_raw(scene: Scene) -> None:
    heap = scene.store.heap
    heap.drop_gc_ref(heap.clone_gc_ref(scene.holder.reference))
    heap.drop_gc_ref(heap.alloc_uninit_struct(scene.holder.type_index))


def fill_slice(scene: Scene) -> None:
    numbers = lh.Array(scene.store, NUMBERS, 4)
    numbers[1:3] = [1, 2]
    with numbers.view() as view:
        assert list(view) == [0, 1, 2, 0]


OPERATIONS: dict[str, Callable[[Scene], Any]] = {
    "make a struct": lambda scene: lh.Struct(scene.store, CELL, [None]),
    "store a struct": lambda scene: scene.holder.__setitem__(0, lh.Struct(scene.store, CELL)),
    "read a field": read_field,
    "make an array": lambda scene: lh.Array(scene.store, REFERENCES, [None, scene.holder, None]),
    "fill a slice": fill_slice,
    "make an externref": lambda scene: lh.ExternRef(scene.store, "value"),
    "set a global": lambda scene: setattr(scene.exports["global"], "value", lh.Struct(scene.store, CELL)),
    "call": lambda scene: scene.exports["chain"](),
    "call with a number": lambda scene: scene.exports["number"](3),
    "call with a value": lambda scene: scene.exports["extern"]("value"),
    "call the host": lambda scene: scene.exports["wrapped"](scene.holder),
    "collect": collect,
    "use the heap": use_raw,
}


class Interruption:
    """Runs an operation, with a signal at one of its opcodes."""

    def __init__(self) -> None:
        self.is_armed = False
        self.act: Callable[[], Any] = self.interrupt

    def interrupt(self) -> None:
        raise Interrupted

    def handle(self, *_: Any) -> None:
        if self.is_armed:
            self.is_armed = False
            self.act()

    def run(self, operation: Callable[[], Any], wanted: int) -> int:
        """Return how many opcodes were run."""
        count = 0

        def on_opcode(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal count
            if event == "opcode":
                count += 1
                if count == wanted:
                    self.is_armed = True
                    signal.raise_signal(signal.SIGUSR1)
            return on_opcode

        def on_call(frame: FrameType, event: str, _: Any) -> Any:
            path = frame.f_code.co_filename
            if not path.startswith(SOURCES) or path.endswith("critical.py"):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return on_opcode

        before = sys.gettrace()
        sys.settrace(on_call)
        try:
            operation()
        finally:
            sys.settrace(before)
            self.is_armed = False
        return count


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    made = Interruption()
    before = signal.signal(signal.SIGUSR1, made.handle)
    yield made
    assert signal.getsignal(signal.SIGUSR1) == made.handle
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_is_lost(interruption: Interruption, name: str, runtime: str) -> None:
    scene, operation = Scene(runtime), OPERATIONS[name]
    operation(scene)
    expected = scene.figures()
    interruption.run(lambda: operation(scene), 0)  # since Python 3.12, a code's opcodes are told from its second run on
    places = interruption.run(lambda: operation(scene), 0)
    assert places > 10
    raised = 0
    for wanted in range(1, places + 1, max(1, places // PLACES)):
        try:
            interruption.run(lambda: operation(scene), wanted)
        except Interrupted:
            raised += 1
        found = scene.figures()
        if found != expected:  # held by a cycle of a traceback's, then
            gc.collect()
            found = scene.figures()
        assert found == expected, f"at opcode {wanted} of {places}"
    assert raised


ROOTED = """(module (type $s (struct))
  (import "host" "global" (global anyref)) (import "host" "pass" (func))
  (global (export "g") (mut anyref) (ref.null any))
  (table (export "t") 2 anyref)
  (elem anyref (item (struct.new $s))))"""

MAKES: dict[str, Callable[[Scene, lh.Module], Any]] = {
    "a global": lambda scene, _: lh.Global(scene.store, ANYREF, scene.holder, mutable=True),
    "a table": lambda scene, _: lh.Table(scene.store, lh.TableType(ANYREF, lh.Limits(2)), scene.holder),
    "an instance": lambda scene, module: lh.Instance(
        scene.store, module, {"host": {"global": scene.holder, "pass": lambda: None}}
    ),
}


@pytest.mark.parametrize("name", MAKES)
def test_what_is_not_made_leaves_no_root(interruption: Interruption, name: str) -> None:
    """It would lie in memory that is gone."""
    scene = Scene("native")
    module = lh.Module(scene.store.engine, ROOTED)

    def operation() -> None:
        MAKES[name](scene, module)

    operation()
    places = interruption.run(operation, 0)
    expected = len(scene.store.snapshot().roots)
    for wanted in range(1, places + 1, max(1, places // PLACES)):
        with pytest.raises(Interrupted):
            interruption.run(operation, wanted)
        gc.collect()
        scene.store.verify()
        assert len(scene.store.snapshot().roots) == expected, f"at opcode {wanted} of {places}"


@pytest.mark.parametrize("runtime", ["native", "python"])
def test_a_handler_may_use_the_store(interruption: Interruption, runtime: str) -> None:
    """It may give back what the operation that it interrupts was about to give back."""
    scene = Scene(runtime)
    interruption.act = scene.store.tidy

    def operation() -> None:
        handles = [lh.Struct(scene.store, CELL) for _ in range(3)]
        handles.append(scene.exports["extern"]("value"))
        del handles
        scene.store.tidy()

    operation()
    expected = scene.figures()
    places = interruption.run(operation, 0)
    for wanted in range(1, places + 1, max(1, places // PLACES)):
        interruption.run(operation, wanted)
        assert scene.figures() == expected, f"at opcode {wanted} of {places}"


def test_what_is_whole_is_not_ended_half_way(interruption: Interruption) -> None:
    steps: list[str] = []

    @whole
    def inner() -> None:
        interruption.is_armed = True
        signal.raise_signal(signal.SIGUSR1)
        steps.append("inner")

    @whole
    def outer() -> None:
        inner()
        steps.append("outer")

    with pytest.raises(Interrupted):
        outer()
    assert steps == ["inner", "outer"]
    assert signal.getsignal(signal.SIGUSR1) == interruption.handle


def test_an_operation_that_fails_lets_the_handler_be_heard(interruption: Interruption) -> None:
    @whole
    def fail() -> None:
        interruption.is_armed = True
        signal.raise_signal(signal.SIGUSR1)
        raise HeapCorruptionError(["broken"])

    with pytest.raises(Interrupted) as caught:
        fail()
    assert isinstance(caught.value.__context__, HeapCorruptionError)


def test_every_handler_that_was_held_back_is_called() -> None:
    heard: list[int] = []
    numbers = (signal.SIGUSR1, signal.SIGUSR2)

    def handle(number: int, _: FrameType | None) -> None:
        heard.append(number)
        raise Interrupted(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:

        @whole
        def operation() -> str:
            for number in numbers:
                signal.raise_signal(number)
            return "done"

        with pytest.raises(Interrupted):
            operation()
        assert heard == list(numbers)
        assert [signal.getsignal(number) for number in numbers] == [handle, handle]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_what_nobody_gets_is_taken_back(interruption: Interruption) -> None:
    """A reference with a count, that a raising handler keeps from the caller, is dropped."""
    store = lh.Store()
    cell = lh.Struct(store, CELL)
    write_header = store.heap.collector.write_header

    def signal_on_the_way(*args: Any) -> Any:
        interruption.is_armed = True
        signal.raise_signal(signal.SIGUSR1)
        return write_header(*args)

    store.heap.collector.write_header = signal_on_the_way  # type: ignore[method-assign]
    try:
        with pytest.raises(Interrupted):
            store.heap.alloc_uninit_struct(cell.type_index)
    finally:
        del store.heap.collector.write_header
    assert store.stats().live_objects == 1
    store.verify()
