"""Compiled code that runs for long, or for ever, lets Python run signal handlers, and stops where one raises.

Signals are sent by timers, and by the programs themselves, from host functions: no test depends on when one comes.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import lowheap as lh
from lowheap.layout import POLL_REQUESTED, VMStoreContext
from lowheap.runtime import polling
from lowheap.runtime.store_runtime import runtime_of

RUNTIMES = ("native", "python")

SOURCE = """
(module
  (type $cell (struct (field $next (mut (ref null $cell))) (field $value (mut i32))))
  (type $numbers (array (mut i32)))
  (type $endless (func (result i32)))
  (import "host" "signal" (func $signal))
  (import "host" "call" (func $call (param i32)))
  (global $head (export "head") (mut (ref null $cell)) (ref.null $cell))
  (global $go (export "go") (mut i32) (i32.const 1))
  (elem declare func $around)

  (func (export "empty") (call $signal) (loop $again (br $again)))
  (func (export "while_go") (result i32)  ;; until a handler ends it
    (local $rounds i32)
    (call $signal)
    (loop $again
      (local.set $rounds (i32.add (local.get $rounds) (i32.const 1)))
      (br_if $again (global.get $go)))
    (local.get $rounds))
  (func (export "table") (param $which i32)
    (call $signal)
    (loop $outer (loop $inner (br_table $inner $outer (local.get $which)))))
  (func (export "up_to") (param $limit i32) (result i32)  ;; without end, where that is the largest number
    (local $at i32) (local $sum i32)
    (call $signal)
    (loop $again
      (local.set $sum (i32.xor (i32.mul (local.get $sum) (i32.const 31)) (local.get $at)))
      (br_if $again (i32.le_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $limit))))
    (local.get $sum))
  (func (export "all_pairs") (param $limit i32) (result i32)
    (local $at i32) (local $other i32) (local $sum i32)
    (call $signal)
    (loop $outer
      (local.set $other (i32.const 0))
      (loop $inner
        (local.set $sum (i32.xor (i32.mul (local.get $sum) (i32.const 31)) (local.get $other)))
        (br_if $inner (i32.lt_u (local.tee $other (i32.add (local.get $other) (i32.const 1))) (local.get $limit))))
      (br_if $outer (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $limit))))
    (local.get $sum))
  (func $fibonacci (export "fibonacci") (param i64) (result i64)
    (if (i64.lt_u (local.get 0) (i64.const 2)) (then (return (local.get 0))))
    (i64.add (call $fibonacci (i64.sub (local.get 0) (i64.const 1)))
             (call $fibonacci (i64.sub (local.get 0) (i64.const 2)))))
  (func $ping (param i64) (result i64)
    (if (i64.eqz (local.get 0)) (then (return (i64.const 1))))
    (i64.add (call $pong (i64.sub (local.get 0) (i64.const 1))) (call $pong (i64.sub (local.get 0) (i64.const 1)))))
  (func $pong (export "pong") (param i64) (result i64)
    (if (i64.eqz (local.get 0)) (then (return (i64.const 1))))
    (i64.add (call $ping (i64.sub (local.get 0) (i64.const 1))) (call $ping (i64.sub (local.get 0) (i64.const 1)))))
  (func $around (param i64) (result i64)  ;; comes back to itself by a reference
    (if (i64.eqz (local.get 0)) (then (return (i64.const 1))))
    (i64.add (call_ref $step (i64.sub (local.get 0) (i64.const 1)) (ref.func $around))
             (call_ref $step (i64.sub (local.get 0) (i64.const 1)) (ref.func $around))))
  (type $step (func (param i64) (result i64)))
  (func (export "by_reference") (param i64) (result i64) (call_ref $step (local.get 0) (ref.func $around)))
  (func (export "allocating")
    (call $signal)
    (loop $again
      (global.set $head (struct.new $cell (ref.null $cell) (i32.const 1)))
      (br $again)))
  (func (export "reading") (result i32)  ;; a list is made, and walked for ever
    (local $cell (ref null $cell)) (local $sum i32)
    (call $make)
    (call $signal)
    (loop $again
      (local.set $cell (global.get $head))
      (loop $walk
        (local.set $sum (i32.add (local.get $sum) (struct.get $cell $value (local.get $cell))))
        (br_if $walk (i32.eqz (ref.is_null (local.tee $cell (struct.get $cell $next (local.get $cell)))))))
      (br_if $again (global.get $go)))
    (local.get $sum))
  (func $make (local $count i32)
    (global.set $head (ref.null $cell))
    (local.set $count (i32.const 10))
    (loop $again
      (global.set $head (struct.new $cell (global.get $head) (i32.const 3)))
      (br_if $again (local.tee $count (i32.sub (local.get $count) (i32.const 1))))))
  (func (export "holding") (result i32)  ;; holds a cell that only it holds, by the time it goes on
    (local $held (ref null $cell))
    (call $make)
    (local.set $held (global.get $head))
    (call $signal)
    (loop $again (br_if $again (global.get $go)))
    (struct.get $cell $value (struct.get $cell $next (local.get $held))))
  (func (export "tail_calls") (call $signal) (return_call $ping_pong (i32.const 0)))
  (func $ping_pong (param i32) (return_call $pong_ping (i32.add (local.get 0) (i32.const 1))))
  (func $pong_ping (param i32) (return_call $ping_pong (i32.add (local.get 0) (i32.const 1))))
  (type $fall (func))
  (elem declare func $falls)
  (func $falls (return_call_ref $fall (ref.func $falls)))
  (func (export "tail_calls_by_reference") (call $signal) (call $falls))
  (tag $thrown (param i32))
  (func $throws (param i32) (throw $thrown (local.get 0)))
  (func (export "catching") (param i32)  ;; goes round by catching what is thrown
    (block $first (result i32)  ;; Python loads modules when something is thrown for the first time
      (try_table (catch $thrown $first) (call $throws (i32.const 1)))
      (i32.const 2))
    (drop)
    (call $signal)
    (local.get 0)
    (loop $again (param i32)
      (try_table (param i32) (catch $thrown $again) (call $throws))))
  (memory 2)
  (func (export "filling") (local $at i32)  ;; counts, but each round takes long
    (call $signal)
    (loop $again
      (memory.fill (i32.const 0) (local.get $at) (i32.const 0x10000))
      (memory.copy (i32.const 0x10000) (i32.const 0) (i32.const 0x10000))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $at) (i32.const 10000000)))))
  (func (export "nested") (call $call (i32.const 0)))
  (func (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func $deep (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "numbers") (param $length i32) (result i32)
    (local $numbers (ref $numbers)) (local $at i32) (local $sum i32)
    (local.set $numbers (array.new $numbers (i32.const 3) (local.get $length)))
    (block $end
      (loop $again
        (br_if $end (i32.ge_u (local.get $at) (array.len (local.get $numbers))))
        (local.set $sum (i32.add (local.get $sum) (array.get $numbers (local.get $numbers) (local.get $at))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $again)))
    (local.get $sum)))
"""


class Stop(Exception):
    """What a signal's handler raises."""


class World:
    """A store with the program's instance. `send` sends the signal that is handled by `handler`."""

    def __init__(self, runtime: str, **options: Any) -> None:
        self.store = lh.Store(engine(runtime), **options)
        self.on_call: Callable[[], None] = self.send
        imports = {"host": {"signal": self.send, "call": lambda _: self.on_call()}}
        self.instance = lh.Instance(self.store, module(runtime), imports)
        self.exports = self.instance.exports

    def send(self) -> None:
        """Have a timer send the signal, again and again, until it was handled."""
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)


@functools.cache
def engine(runtime: str) -> lh.Engine:
    return lh.Engine(runtime=runtime)


@functools.cache
def module(runtime: str) -> lh.Module:
    return lh.Module(engine(runtime), SOURCE)


@contextmanager
def handling(handler: Callable[[], None]) -> Iterator[None]:
    """Run a handler at the next SIGALRM, in a time that is long enough for everything."""

    def handle(_number: int, _frame: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        handler()

    previous = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def stop() -> None:
    raise Stop


@pytest.fixture(params=RUNTIMES)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(request.param)
    yield made
    made.store.verify()
    made.store.close()


# ----------------------------------------------------------------------------------------------------------------------
# A handler that raises


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("empty", ()),
        ("while_go", ()),
        ("table", (0,)),
        ("table", (1,)),
        ("up_to", (-1,)),
        ("all_pairs", (1 << 22,)),
        ("fibonacci", (90,)),
        ("pong", (62,)),
        ("by_reference", (62,)),
        ("reading", ()),
        ("tail_calls", ()),
        ("tail_calls_by_reference", ()),
        ("catching", (1,)),
        ("filling", ()),
    ],
    ids=str,
)
def test_what_a_handler_raises_comes_out_of_the_call(world: World, name: str, args: tuple[int, ...]) -> None:
    with handling(stop):
        world.send()
        with pytest.raises(Stop):
            world.exports[name](*args)
    world.store.verify()
    world.store.collect()
    assert world.exports["numbers"](4) == 12, "and the store goes on"


def test_it_is_raised_itself(world: World) -> None:
    raised = Stop("itself")

    def handler() -> None:
        raise raised

    with handling(handler), pytest.raises(Stop) as caught:
        world.exports["empty"]()
    assert caught.value is raised


def test_ctrl_c(world: World) -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        world.exports["fibonacci"](90)
    timer.join()


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_with_collections_at_safepoints(runtime: str, every: int) -> None:
    world = World(runtime, collect_every=every)
    with handling(stop), pytest.raises(Stop):
        world.exports["reading"]()
    world.store.verify()
    world.store.collect()
    world.store.verify()
    world.store.close()


def test_a_loop_that_allocates() -> None:
    world = World("native")
    for _ in range(2):
        with handling(stop), pytest.raises(Stop):
            world.exports["allocating"]()
        world.store.verify()
    world.store.close()


def test_a_start_function() -> None:
    source = "(module (func $endless (loop $again (br $again))) (start $endless))"
    store = lh.Store()
    started = lh.Module(store.engine, source)
    with handling(stop):
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)
        with pytest.raises(Stop):
            lh.Instance(store, started)
    store.verify()
    store.close()


def test_a_nested_call_is_left_for_its_host_function_which_may_go_on(world: World) -> None:
    caught = []

    def call() -> None:
        try:
            world.exports["empty"]()
        except Stop as error:
            caught.append(error)
            world.store.collect()  # a host function may

    world.on_call = call
    with handling(stop):
        assert world.exports["nested"]() is None
    assert len(caught) == 1


def test_a_nested_call_that_nobody_catches(world: World) -> None:
    world.on_call = lambda: world.exports["empty"]()
    with handling(stop), pytest.raises(Stop):
        world.exports["nested"]()


def test_what_another_thread_raises_in_one_that_runs_compiled_code(world: World) -> None:
    caught = []

    def run() -> None:
        try:
            world.exports["fibonacci"](90)
        except Stop as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not runtime_of(world.store).context.activation:
        time.sleep(0.01)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
    thread.join()
    assert len(caught) == 1


# ----------------------------------------------------------------------------------------------------------------------
# A handler that does not raise


def test_the_program_goes_on(world: World) -> None:
    with handling(lambda: None):
        world.send()
        assert world.exports["fibonacci"](27) == 196_418
    seen = []

    def handler() -> None:
        seen.append(world.exports["go"].value)
        world.exports["go"].value = 0  # which the loop reads

    with handling(handler):
        assert world.exports["while_go"]() > 0
    assert seen == [1]


def test_a_handler_uses_the_store(world: World) -> None:
    sums = []

    def handler() -> None:
        sums.append(world.exports["numbers"](100))  # compiled code, in the middle of compiled code
        head = world.exports["head"].value
        cell = lh.Struct(world.store, head.type_index, (head, 4))
        world.exports["head"].value = cell
        for _ in range(10_000):  # more than there is room for at once: the heap grows
            lh.Struct(world.store, head.type_index, (cell, 4))
        world.exports["go"].value = 0

    with handling(handler):
        total = world.exports["reading"]()
    assert sums == [300]
    assert total > 0
    assert world.exports["head"].value["value"] == 4


def test_what_compiled_code_holds_stays_though_a_handler_takes_its_owner_away(world: World) -> None:
    def handler() -> None:
        world.exports["head"].value = None
        for _ in range(100):
            world.exports["numbers"](2)  # blocks for which what was freed might serve
        world.exports["go"].value = 0

    with handling(handler):
        assert world.exports["holding"]() == 3


@pytest.mark.parametrize(
    "source", ["deutsch_bobrow.py:DeutschBobrow", "short_lived_reads.py:ShortLivedReads", "levanoni_petrank.py"]
)
def test_collectors_of_other_kinds(source: str) -> None:
    name = os.path.join(os.path.dirname(__file__), "..", "examples", "collectors", source)
    if ":" not in source:
        name += ":LevanoniPetrank"
    store = lh.Store(lh.Engine(collector=name))
    exports: Any = None

    def handler() -> None:
        exports["head"].value = None
        for _ in range(100):
            exports["numbers"](2)
        exports["go"].value = 0

    def send(*_: int) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)

    exports = lh.Instance(store, lh.Module(store.engine, SOURCE), {"host": {"signal": send, "call": send}}).exports
    with handling(handler):
        assert exports["holding"]() == 3
    store.verify()
    store.close()


def test_what_needs_to_know_the_frames_is_refused(world: World) -> None:
    collection = world.store.collection()
    refused = []

    def handler() -> None:
        for operation in (
            world.store.collect,
            world.store.collection,
            collection.collect_increment,
            world.store.verify,
            world.store.snapshot,
            lambda: list(world.store.roots),
            world.store.close,
        ):
            with pytest.raises(lh.HeapError) as caught:
                operation()
            refused.append(str(caught.value))
        world.exports["go"].value = 0

    with handling(handler):
        world.exports["while_go"]()
    cannot_collect = "cannot collect in a signal handler that has interrupted compiled code"
    unknown = "what compiled code holds cannot be known in a signal handler that has interrupted it"
    closing = "cannot close a store while its compiled code is on the stack"
    assert refused == [*[cannot_collect] * 3, *[unknown] * 3, closing]
    collection.collect()


def test_what_a_handler_leaves_behind_is_looked_at(world: World) -> None:
    memories = []

    leave = handling(lambda: memories.append(world.store.heap.detach()))
    with leave, pytest.raises(lh.HeapError, match="the heap has no memory"):
        world.exports["empty"]()
    world.store.heap.attach(*memories, world.store.host_data)


def test_a_handler_that_traps(world: World) -> None:
    def handler() -> None:
        world.exports["go"].value = 0
        with pytest.raises(lh.Trap, match="call stack exhausted"):
            world.exports["deep"](10_000_000)

    with handling(handler):
        assert world.exports["while_go"]() > 0


# ----------------------------------------------------------------------------------------------------------------------
# What is emitted


def test_recursion_traps_as_ever_when_it_was_asked_to_poll(world: World) -> None:
    context = runtime_of(world.store).context
    before = [world.exports["deep"](1000), context.stack_limit]

    def ask() -> None:
        context.poll_limit = POLL_REQUESTED

    world.on_call = ask
    world.exports["nested"]()
    with pytest.raises(lh.Trap, match="call stack exhausted"):
        world.exports["deep"](10_000_000)
    assert before[0] == 1000
    assert context.poll_limit == context.stack_limit


def test_code_that_is_not_interruptible_has_no_polls() -> None:
    made = lh.Module(lh.Engine(interruptible=False), SOURCE)
    assert "lowheap.interrupt" not in made.compiled.llvm_ir
    assert "lowheap.interrupt" in module("native").compiled.llvm_ir


def test_a_module_of_straight_code_has_none() -> None:
    source = """(module
      (func $f (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
      (func (export "g") (param i32) (result i32) (loop (result i32) (call $f (call $f (local.get 0))))))"""
    assert "lowheap.interrupt" not in lh.Module(lh.Engine(), source).compiled.llvm_ir


def test_calls_that_double_without_a_cycle() -> None:
    """2^62 calls, and no loop, and no function that comes back to itself."""
    functions = "".join(f"(func $f{n} (result i64) (i64.add (call $f{n + 1}) (call $f{n + 1})))" for n in range(62))
    source = f'(module {functions} (func $f62 (result i64) (i64.const 1)) (export "run" (func $f0)))'
    # LLVM would see what it comes to.
    store = lh.Store(lh.Engine(opt_level=0))
    run = lh.Instance(store, lh.Module(store.engine, source)).exports["run"]
    with handling(stop):
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)
        with pytest.raises(Stop):
            run()
    store.close()


def test_a_poll_is_no_safepoint() -> None:
    source = """(module
      (type $cell (struct (field (mut (ref null $cell))) (field i32)))
      (func (export "walk") (param (ref null $cell)) (result i32) (local i32)
        (loop $again
          (local.set 1 (i32.add (local.get 1) (struct.get $cell 1 (local.get 0))))
          (br_if $again (i32.eqz (ref.is_null (local.tee 0 (struct.get $cell 0 (local.get 0)))))))
        (local.get 1)))"""
    for interruptible in (False, True):
        compiled = lh.Module(lh.Engine(interruptible=interruptible), source).compiled
        assert compiled.statepoints.statepoints == ()


# ----------------------------------------------------------------------------------------------------------------------
# The watcher


def test_nothing_is_kept_alive() -> None:
    world = World("native")
    world.exports["numbers"](1)
    watched = weakref.ref(runtime_of(world.store).watched)
    store = weakref.ref(world.store)
    world.store.close()
    del world
    gc.collect()
    assert watched() is None
    assert store() is None


def test_stores_that_go_while_another_comes() -> None:
    """Python's garbage collector may find a store dead at any moment, in the midst of the watcher's own list too."""

    class Cycle:
        def __init__(self, watched: polling.Watched) -> None:
            self.watched, self.itself = watched, self

    watcher, context = polling._Watcher(), VMStoreContext()
    kept = [polling.Watched(context) for _ in range(50)]  # so many that the list of them is no small object
    for each in kept:
        watcher.add(each)
    before = gc.get_threshold()
    try:
        for threshold in range(1, 20):
            gc.set_threshold(threshold)
            for _ in range(20):
                watched = polling.Watched(context)
                watcher.add(watched)
                Cycle(watched)
    finally:
        gc.set_threshold(*before)
    del watched
    gc.collect()
    kept.append(polling.Watched(context))
    watcher.add(kept[-1])
    assert [each() for each in watcher._in_order] == kept


def test_the_watcher_is_woken_out_of_its_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call twice, with a sleep in between that the watcher falls into."""
    monkeypatch.setattr(polling, "PERIOD", 0.001)
    world = World("native")
    for _ in range(2):
        with handling(stop), pytest.raises(Stop):
            world.exports["empty"]()
        while world.store.runtime.watched.floor != polling._NOBODY or not polling._watcher._is_asleep:
            time.sleep(0.001)
        for _ in range(100):  # whatever it does from here on, it is to be woken
            time.sleep(0.001)


def test_pythons_garbage_collector_does_not_run_in_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "PERIOD", 0.001)
    world = World("native")
    world.exports["numbers"](1)
    threads: set[int] = set()
    threshold = gc.get_threshold()

    def note(_phase: str, _info: dict[str, int]) -> None:
        threads.add(threading.get_ident())

    gc.callbacks.append(note)
    gc.set_threshold(1)
    try:
        with handling(stop), pytest.raises(Stop):
            world.exports["empty"]()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(note)
    assert threads == {threading.get_ident()}


def run_alone(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120, check=False
    )


PROLOGUE = """
import os, signal, sys, threading, warnings
import lowheap as lh
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # of Python 3.12 and later
source = '''(module
  (import "host" "fork" (func $fork))
  (func (export "spin") (loop $again (br $again)))
  (func (export "fork_and_spin") (call $fork) (loop $again (br $again))))'''
class Stop(Exception): pass
def handle(*_):
    raise Stop
signal.signal(signal.SIGALRM, handle)
store = lh.Store()
def fork():
    global child
    child = os.fork()
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)
exports = lh.Instance(store, lh.Module(store.engine, source), {"host": {"fork": fork}}).exports
def spin(name):
    try:
        exports[name]()
    except Stop:
        signal.setitimer(signal.ITIMER_REAL, 0)
        store.verify()
        return 7
    return 1
"""


@pytest.mark.parametrize("name", ["fork_and_spin", "spin"])
def test_a_child_process(name: str) -> None:
    """One that is made while compiled code runs, and one that is made between two calls."""
    forks = "signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1); spin('spin'); fork()" if name == "spin" else ""
    done = run_alone(
        f"{PROLOGUE}\n{forks}\nstatus = spin({name!r})\nif child == 0: os._exit(status)\n"
        + textwrap.dedent("print(status, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))")
    )
    assert (done.stdout, done.stderr, done.returncode) == ("7 7\n", "", 0)


def test_the_end_of_the_interpreter() -> None:
    """The watcher is looking then, and a store is open."""
    done = run_alone(f"{PROLOGUE}\nsignal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)\nprint(spin('spin'))")
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_a_system_without_another_thread(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    watcher = polling._Watcher()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    watcher.wake()
    watcher.wake()
    assert [record.message for record in caplog.records] == [
        "compiled code cannot be interrupted: can't start new thread"
    ]
