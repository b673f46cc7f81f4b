"""Threads: stores run in parallel; one store at two threads at once is an error, and never a broken heap."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import getitem
from typing import Any

import pytest

import lowheap as lh

RUNTIMES = ("native", "python")
ENGINES = {runtime: lh.Engine(runtime=runtime) for runtime in RUNTIMES}
IN_USE = "the store is in use by another thread; a store is used by one thread at a time"
PATIENCE = 30.0

SOURCE = """(module
  (type $s (struct (field $n (mut i32)) (field $next (mut (ref null $s)))))
  (import "host" "pause" (func $pause))
  (global $cell (export "cell") (mut anyref) (ref.null any))
  (func (export "pause") (call $pause))
  (func (export "pause_number") (param i32) (result i32) (call $pause) (local.get 0))
  (func (export "pause_several") (param i32) (result i32 i64) (call $pause) (local.get 0) (i64.const 9))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "swap") (param i32 i64) (result i64 i32) (local.get 1) (local.get 0))
  (func (export "make") (param i32 (ref null $s)) (result (ref $s)) (struct.new $s (local.get 0) (local.get 1)))
  (func (export "spin") (param $n i64) (result i64) (local $sum i64)
    (loop $more
      (local.set $sum (i64.xor (i64.rotl (local.get $sum) (i64.const 5)) (i64.mul (local.get $n) (i64.const 77))))
      (local.set $n (i64.sub (local.get $n) (i64.const 1)))
      (br_if $more (i64.gt_s (local.get $n) (i64.const 0))))
    (local.get $sum))
  (func (export "churn") (param $n i32) (result i32) (local $list (ref null $s))
    (loop $more
      (local.set $list (struct.new $s (local.get $n) (local.get $list)))
      (if (i32.eqz (i32.rem_u (local.get $n) (i32.const 100))) (then (local.set $list (ref.null $s))))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $more (i32.gt_s (local.get $n) (i32.const 0))))
    (struct.get $s $n (local.get $list))))"""
MODULES = {runtime: lh.Module(each, SOURCE) for runtime, each in ENGINES.items()}


class Stage:
    """A store with an instance of the program; `pause` is what its host function does."""

    def __init__(self, runtime: str) -> None:
        self.store = lh.Store(ENGINES[runtime], initial_heap_size=1 << 16)
        self.pause: Callable[[], object] = lambda: None
        imports = {"host": {"pause": lambda: [self.pause(), None][1]}}
        self.instance = lh.Instance(self.store, MODULES[runtime], imports)
        self.exports = self.instance.exports


@pytest.fixture(params=RUNTIMES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    yield stage
    stage.store.collect()
    stage.store.verify()
    stage.store.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def outcome(action: Callable[..., Any], *args: Any) -> Any:
    """What an action returns, or the text of its HeapError."""
    try:
        return action(*args)
    except lh.HeapError as error:
        return str(error)


# --- Several stores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_two_stores_are_inside_compiled_code_at_the_same_moment(runtime: str, threads: ThreadPoolExecutor) -> None:
    stages = [Stage(runtime), Stage(runtime)]
    barrier = threading.Barrier(2, timeout=PATIENCE)
    for stage in stages:
        stage.pause = barrier.wait  # passes only when both have come
    running = [threads.submit(stage.exports["pause_number"], number) for number, stage in enumerate(stages)]
    assert [each.result(PATIENCE) for each in running] == [0, 1]
    for stage in stages:
        stage.store.verify()
        stage.store.close()


def test_compiled_code_does_not_hold_the_interpreter(threads: ThreadPoolExecutor) -> None:
    """While one thread spins in compiled code, this one counts. Holding the lock, it would come to a switch at most."""
    stage = Stage("native")
    spin, rounds = stage.exports["spin"], 1 << 20
    expected = spin(3)
    while True:  # as many rounds as take long enough on this machine
        start = time.perf_counter()
        spin(rounds)
        if time.perf_counter() - start > 0.1:
            break
        rounds *= 2
    interval = sys.getswitchinterval()
    sys.setswitchinterval(PATIENCE)  # a thread that holds the interpreter is not asked for it
    try:
        entered = threading.Event()

        def run() -> int:
            entered.set()
            return int(spin(rounds * 2))

        running = threads.submit(run)
        assert entered.wait(PATIENCE)
        turns = 0
        while not running.done():
            turns += 1
            time.sleep(0.001)
    finally:
        sys.setswitchinterval(interval)
    assert turns > 20
    assert spin(3) == expected
    stage.store.close()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_many_stores_on_many_threads(runtime: str, threads: ThreadPoolExecutor) -> None:
    rounds = 3000 if runtime == "native" else 150

    def work(number: int) -> int:
        with Stage(runtime).store as store:
            instance = lh.Instance(store, MODULES[runtime], {"host": {"pause": lambda: None}})
            total = 0
            for turn in range(20):
                total += instance.exports["churn"](rounds + 1)
                node = instance.exports["make"](turn, None)
                instance.exports["cell"].value = node
                total += node["n"] + instance.exports["add"](number, turn)
            store.collect()
            store.verify()
            return total

    expected = [sum(1 + 2 * turn + number for turn in range(20)) for number in range(8)]
    assert list(threads.map(work, range(8))) == expected


# --- One store -------------------------------------------------------------------------------------------------------

USES: dict[str, Callable[[Stage, Any, Any], Any]] = {
    "a scalar call": lambda stage, node, numbers: stage.exports["add"](1, 2),
    "a scalar call, the general way": lambda stage, node, numbers: stage.exports["add"](0xFFFFFFFF, 2),
    "a call with results": lambda stage, node, numbers: stage.exports["swap"](1, 2),
    "a call with references": lambda stage, node, numbers: stage.exports["make"](1, None),
    "a host function": lambda stage, node, numbers: stage.instance._functions[0](),
    "an instance": lambda stage, node, numbers: lh.Instance(
        stage.store, stage.instance.module, {"host": {"pause": lambda: None}}
    ),
    "a global read": lambda stage, node, numbers: stage.exports["cell"].value,
    "a global written": lambda stage, node, numbers: setattr(stage.exports["cell"], "value", None),
    "a global made": lambda stage, node, numbers: lh.Global(stage.store, lh.types.I32, 4),
    "a struct made": lambda stage, node, numbers: lh.Struct(stage.store, node.type_index),
    "an array made": lambda stage, node, numbers: lh.Array(stage.store, numbers.type_index, 4),
    "an externref made": lambda stage, node, numbers: lh.ExternRef(stage.store, 4),
    "a field read": lambda stage, node, numbers: node["n"],
    "a field written": lambda stage, node, numbers: node.__setitem__("n", 4),
    "a struct as a list": lambda stage, node, numbers: list(node),
    "an element read": lambda stage, node, numbers: numbers[0],
    "a slice read": lambda stage, node, numbers: numbers[:2],
    "an element written": lambda stage, node, numbers: numbers.__setitem__(0, 4),
    "a count": lambda stage, node, numbers: node.ref_count,
    "a handle released": lambda stage, node, numbers: node.release(),
    "collect": lambda stage, node, numbers: stage.store.collect(),
    "collection": lambda stage, node, numbers: stage.store.collection(),
    "safepoint": lambda stage, node, numbers: stage.store.safepoint(),
    "tidy": lambda stage, node, numbers: stage.store.tidy(),
    "verify": lambda stage, node, numbers: stage.store.verify(),
    "snapshot": lambda stage, node, numbers: stage.store.snapshot(),
    "close": lambda stage, node, numbers: stage.store.close(),
    "alloc_struct": lambda stage, node, numbers: stage.store.heap.drop_gc_ref(
        stage.store.alloc_struct(node.type_index)
    ),
    "alloc_array": lambda stage, node, numbers: stage.store.heap.drop_gc_ref(
        stage.store.alloc_array(numbers.type_index, 1)
    ),
    "alloc_externref": lambda stage, node, numbers: stage.store.heap.drop_gc_ref(stage.store.alloc_externref(1)),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("export", ["pause", "pause_number", "pause_several"])
def test_during_a_call_it_is_an_error_elsewhere(
    stage: Stage, use: str, export: str, threads: ThreadPoolExecutor
) -> None:
    node = stage.exports["make"](3, None)
    numbers = lh.Array(stage.store, lh.ArrayType(lh.FieldType(lh.types.I32, True)), [1, 2, 3])
    seen: list[Any] = []

    def pause() -> None:
        stage.pause = lambda: None
        before = bytes(stage.store.heap.control)
        seen.append(outcome(threads.submit(USES[use], stage, node, numbers).result))
        assert bytes(stage.store.heap.control) == before
        if use != "close":
            USES[use](stage, node, numbers)  # here it is allowed

    stage.pause = pause
    args = () if export == "pause" else (5,)
    assert stage.exports[export](*args) == {"pause": None, "pause_number": 5, "pause_several": (5, 9)}[export]
    assert seen == [IN_USE]
    if use not in ("close", "a handle released"):
        threads.submit(USES[use], stage, node, numbers).result()  # and afterwards anywhere


def test_an_increment_is_an_error_elsewhere(stage: Stage, threads: ThreadPoolExecutor) -> None:
    seen: list[Any] = []

    def pause() -> None:
        with stage.store.collection() as collection:
            for action in (collection.collect_increment, collection.collect, collection.close):
                seen.append(outcome(threads.submit(action).result))
            collection.collect_increment()
            seen.append(outcome(threads.submit(collection.collect_increment).result))

    stage.pause = pause
    stage.exports["pause"]()
    assert seen == [IN_USE] * 4


def test_what_does_not_look_at_the_heap_is_allowed_at_any_moment(stage: Stage, threads: ThreadPoolExecutor) -> None:
    node, other = stage.exports["make"](3, None), lh.ExternRef(stage.store, "value")

    def look() -> tuple[Any, ...]:
        return node.is_valid, node == node, hash(node), len(node), node.type, node.keys(), repr(node)[:20], repr(other)

    stage.pause = lambda: found.append(threads.submit(look).result())
    found: list[tuple[Any, ...]] = []
    stage.exports["pause"]()
    assert found == [(*look()[:-2], "<Struct, in use by another thread>"[:20], "<ExternRef, in use by another thread>")]
    assert repr(other) == "ExternRef('value')"


def test_handles_are_forgotten_on_any_thread_during_a_call(stage: Stage, threads: ThreadPoolExecutor) -> None:
    log: list[int] = []
    handles = [lh.ExternRef(stage.store, number, log.append) for number in range(100)]

    def pause() -> None:
        threads.submit(handles.clear).result()
        assert log == []

    stage.pause = pause
    stage.exports["pause"]()
    assert sorted(log) == list(range(100)), "the finalizers ran on the thread that uses the store"


def test_finalizers_run_where_the_store_is_used(stage: Stage, threads: ThreadPoolExecutor) -> None:
    seen: list[int] = []
    handle = lh.ExternRef(stage.store, 1, lambda _: seen.append(threading.get_ident()))
    threads.submit(stage.exports["add"], 1, 2).result()
    del handle
    used = threads.submit(lambda: (stage.exports["add"](1, 2), threading.get_ident())).result()
    assert (used[0], seen) == (3, [used[1]])


def test_a_call_that_fails_lets_go_of_the_store(stage: Stage, threads: ThreadPoolExecutor) -> None:
    def pause() -> None:
        raise LookupError("of the host")

    stage.pause = pause
    for export, args in (("pause", ()), ("pause_number", (1,)), ("pause_several", (1,))):
        with pytest.raises(LookupError):
            stage.exports[export](*args)
        with pytest.raises(TypeError):
            stage.exports[export]("a", "b")
        assert threads.submit(stage.exports["add"], 4, 5).result() == 9


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_hammering_one_store_gives_right_results_or_the_error(runtime: str) -> None:
    stage = Stage(runtime)
    stop = threading.Event()
    finalized: list[int] = []
    counts = {"right": 0, "refused": 0}
    wrong: list[Any] = []
    made = [0] * 4
    start = threading.Barrier(4, timeout=PATIENCE)

    def check(found: Any, expected: Any) -> None:
        if found == IN_USE:
            counts["refused"] += 1
        elif found == expected:
            counts["right"] += 1
        else:
            wrong.append((found, expected))

    def hammer(own: int) -> None:
        exports, store = stage.exports, stage.store
        kept = None
        start.wait()
        number = own
        while not stop.is_set():
            number += 4
            check(outcome(exports["add"], number, own), number + own)
            check(outcome(exports["swap"], number, number << 32), (number << 32, number))
            check(outcome(exports["churn"], 250), 1)
            node = outcome(exports["make"], number, kept)
            if isinstance(node, str):
                check(node, None)
            else:
                check(outcome(getitem, node, "n"), number)
                kept = node if number % 64 else None
            extern = outcome(lh.ExternRef, store, number, finalized.append)
            if isinstance(extern, str):
                check(extern, None)
            else:
                made[own] += 1
                check(outcome(getattr, extern, "value"), number)
            del node, extern
            if number % 100 < 4:
                check(outcome(store.collect), None)

    def guarded(own: int) -> None:
        try:
            hammer(own)
        except BaseException as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        running = [threading.Thread(target=guarded, args=(own,)) for own in range(4)]
        for thread in running:
            thread.start()
        time.sleep(1.0)
        stop.set()
        for thread in running:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert min(counts.values()) > 50, counts
    stage.store.collect()
    stage.store.verify()
    assert stage.store.heap.stats().live_objects == 0
    assert len(finalized) == sum(made)
    stage.store.close()


def test_waiting_is_the_caller_s_affair(stage: Stage, threads: ThreadPoolExecutor) -> None:
    """With a lock of one's own, several threads use one store."""
    lock = threading.Lock()

    def add(number: int) -> int:
        with lock:
            return int(stage.exports["add"](number, 1))

    running: list[Future[int]] = [threads.submit(add, number) for number in range(200)]
    assert [each.result() for each in running] == list(range(1, 201))


def test_the_lock_guards_what_the_store_does_not(stage: Stage, threads: ThreadPoolExecutor) -> None:
    with stage.store.lock, stage.store.lock:
        assert outcome(threads.submit(stage.exports["add"], 1, 2).result) == IN_USE
        assert stage.exports["add"](1, 2) == 3
    assert threads.submit(stage.exports["add"], 1, 2).result() == 3
