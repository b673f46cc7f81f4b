"""Epochs: code stops at a store's deadline, wherever it is, and the store is sound behind it.

No test depends on when something happens: code runs until it is stopped.
"""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import wasmtime

import lowheap as lh
from lowheap.epochs import Deadline, Epoch
from lowheap.errors import LowheapError, TrapCode
from lowheap.runtime.store_runtime import runtime_of

PROGRAM = """
(module
  (type $cell (struct (field $next (mut (ref null $cell))) (field $value (mut i32))))
  (import "host" "pause" (func $pause))
  (global $list (mut (ref null $cell)) (ref.null $cell))
  (func (export "one") (result i32) (i32.const 1))
  (func (export "paused") (call $pause))
  (func (export "endless") (call $pause) (loop $again (br $again)))
  (func (export "catches_all") (result i32)
    (block $caught
      (try_table (catch_all $caught) (call $pause) (loop $again (br $again))))
    (i32.const 7))
  (func (export "counts") (call $pause) (call $up_to (i32.const -1)))
  (func $up_to (param i32) (local $at i32)
    (loop $again (br_if $again (i32.le_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get 0)))))
  (func (export "allocates") (local $at i32)
    (call $pause)
    (loop $again
      (global.set $list (struct.new $cell (ref.null $cell) (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $again)))
  (func (export "recurses") (call $pause) (drop (call $twice (i64.const 100))))
  (func $twice (param i64) (result i64)
    (if (i64.eqz (local.get 0)) (then (return (i64.const 1))))
    (i64.add (call $twice (i64.sub (local.get 0) (i64.const 1))) (call $twice (i64.sub (local.get 0) (i64.const 1))))))
"""

LONG = ("endless", "counts", "allocates", "recurses")


class World:
    """A store with the program; `pause` is what the host does when it is called."""

    def __init__(self, runtime: str) -> None:
        self.engine = lh.Engine(epoch_interruption=True, runtime=runtime)
        self.store = lh.Store(self.engine)
        self.pause: Any = lambda: None
        module = lh.Module(self.engine, PROGRAM)
        self.store.set_epoch_deadline(1)
        self.exports = lh.Instance(self.store, module, {"host": {"pause": lambda: self.pause()}}).exports

    def stops(self, name: str) -> lh.Trap:
        """Call what does not end, have it stopped, and look whether the store is sound."""
        with pytest.raises(lh.Trap) as caught:
            self.exports[name]()
        assert caught.value.code is TrapCode.INTERRUPT
        self.store.verify()
        return caught.value


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {runtime: World(runtime) for runtime in ("native", "python")}


@pytest.fixture(params=("native", "python"))
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> Iterator[World]:
    found = worlds[request.param]
    found.pause = lambda: None
    found.store.set_epoch_deadline(1)
    yield found
    found.store.verify()


@pytest.mark.parametrize("name", LONG)
def test_another_thread_stops_what_runs(world: World, name: str) -> None:
    threads = []

    def pause() -> None:
        threads.append(threading.Thread(target=world.engine.increment_epoch))
        threads[0].start()

    world.pause = pause
    trap = world.stops(name)
    threads[0].join()
    if trap.frames:  # it may have been stopped where it was entered
        assert str(trap).startswith("wasm trap: interrupt (in function ")
    world.store.set_epoch_deadline(1)
    assert world.exports.one() == 1
    world.store.collect()


def test_a_signals_handler_stops_what_runs(world: World) -> None:
    def pause() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    before = signal.signal(signal.SIGALRM, lambda *_: world.engine.increment_epoch())
    try:
        world.pause = pause
        world.stops("endless")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_host_function_stops_the_code_that_called_it(world: World) -> None:
    world.pause = world.engine.increment_epoch
    trap = world.stops("endless")
    assert [each.func_index for each in trap.frames] == [3]
    assert trap.function == "3"


def test_nothing_is_entered_past_the_deadline(world: World) -> None:
    for _ in range(3):
        assert world.exports.one() == 1
    world.engine.increment_epoch()
    for name in ("one", "paused"):
        assert not world.stops(name).frames
    world.store.set_epoch_deadline(2)
    world.engine.increment_epoch()
    assert world.exports.one() == 1
    world.engine.increment_epoch()
    world.stops("one")
    world.store.set_epoch_deadline(0)
    world.stops("one")


def test_a_call_inside_a_call_is_stopped_likewise(world: World) -> None:
    heard = []

    def pause() -> None:
        world.engine.increment_epoch()
        try:
            world.exports.one()
        except lh.Trap as trap:
            heard.append(trap.code)
        world.store.set_epoch_deadline(1)
        heard.append(world.exports.one())

    world.pause = pause
    world.exports.paused()
    assert heard == [TrapCode.INTERRUPT, 1]


def test_what_catches_everything_does_not_catch_it(world: World) -> None:
    world.pause = world.engine.increment_epoch
    world.stops("catches_all")
    world.store.set_epoch_deadline(1)

    def inside() -> None:
        world.engine.increment_epoch()
        world.exports.one()

    world.pause = inside
    world.stops("catches_all")

    def fails() -> None:
        raise ValueError

    world.store.set_epoch_deadline(1)
    world.pause = fails
    assert world.exports.catches_all() == 7


def test_a_host_function_may_put_the_deadline_off(world: World) -> None:
    def pause() -> None:
        world.engine.increment_epoch()
        world.store.set_epoch_deadline(5)

    world.pause = pause
    world.exports.paused()


def test_each_store_has_its_own(world: World) -> None:
    with lh.Store(world.engine) as other:
        exports = lh.Instance(other, lh.Module(world.engine, '(module (func (export "f") (loop)))')).exports
        with pytest.raises(lh.Trap):
            exports.f()
        other.set_epoch_deadline(3)
        exports.f()
        world.engine.increment_epoch()
        exports.f()
        world.stops("one")


def test_as_wasmtime_has_it() -> None:
    config = wasmtime.Config()
    config.epoch_interruption = True
    text = '(module (func (export "f")))'
    peer_engine, engine = wasmtime.Engine(config), lh.Engine(epoch_interruption=True)
    peer, store = wasmtime.Store(peer_engine), lh.Store(engine)
    peer_function: Any = wasmtime.Instance(peer, wasmtime.Module(peer_engine, text), []).exports(peer)["f"]
    function = lh.Instance(store, lh.Module(engine, text)).exports.f

    def ends() -> tuple[str, str]:
        found = []
        for call, kind in ((lambda: peer_function(peer), wasmtime.Trap), (function, lh.Trap)):
            try:
                call()
                found.append("done")
            except kind as trap:
                found.append(next(line for line in str(trap).splitlines() if "trap" in line).strip())
        return found[0], found[1]

    seen = [ends()]
    for ticks in (2, 0, 1, (1 << 64) - 1):
        peer.set_epoch_deadline(ticks)
        store.set_epoch_deadline(ticks)
        seen.append(ends())
        peer_engine.increment_epoch()
        engine.increment_epoch()
        seen.append(ends())
    assert all(left == right for left, right in seen)
    assert {left for left, _ in seen} == {"wasm trap: interrupt", "done"}


def test_threads_that_count_at_once_lose_nothing() -> None:
    engine = lh.Engine(epoch_interruption=True)

    def count() -> None:
        for _ in range(2000):
            engine.increment_epoch()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert engine.check_epoch().number == 8000


def test_what_changes_in_the_middle_of_a_look_is_seen() -> None:
    """As a signal's handler does that counts between the look and what is said of it."""
    store = lh.Store(lh.Engine(epoch_interruption=True))
    context = runtime_of(store).context

    class Interrupted(Epoch):
        looks = 0

        @property
        def number(self) -> int:  # type: ignore[override]
            self.looks += 1
            return 5 if self.looks == 1 else 6

        @number.setter
        def number(self, _: int) -> None:
            pass

    epoch = Interrupted()
    deadline = Deadline(epoch, context)
    deadline.number = 6
    epoch.looks = 0
    deadline.look()
    assert context.is_past_deadline


def test_nothing_is_kept_alive() -> None:
    engine = lh.Engine(epoch_interruption=True)
    store = lh.Store(engine)
    store.set_epoch_deadline(1)
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None
    assert engine.check_epoch()._deadlines == {}
    engine.increment_epoch()


def test_without_epochs_they_are_refused() -> None:
    with lh.Store() as store:
        for use in (lambda: store.set_epoch_deadline(1), store.engine.increment_epoch):
            with pytest.raises(LowheapError, match="epoch_interruption=True"):
                use()
    with pytest.raises(ValueError, match=r"interruptible is False, but epoch_interruption is True"):
        lh.Engine(epoch_interruption=True, interruptible=False)


def test_what_is_no_number_of_ticks() -> None:
    with lh.Store(lh.Engine(epoch_interruption=True)) as store:
        for wrong in (-1, 1 << 64):
            with pytest.raises(ValueError, match=rf"^ticks_beyond_current is {wrong}; it must be"):
                store.set_epoch_deadline(wrong)
        with pytest.raises(TypeError, match=r"^ticks_beyond_current is 1\.0; it must be an int"):
            store.set_epoch_deadline(1.0)  # type: ignore[arg-type]
