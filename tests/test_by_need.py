"""Modules whose functions are compiled when one is called first, and again, optimised, when one runs often."""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import lowheap as lh
from lowheap.errors import CompilerError
from lowheap.jit import by_need, cache
from lowheap.jit import engine as jit_engine
from lowheap.jit import runtime as jit_runtime
from lowheap.runtime.store_runtime import runtime_of
from lowheap.wasm import optimiser, pieces
from lowheap.wasm.module import LARGE, MANY, Module, PieceCompiler

pytestmark = pytest.mark.compiler

PARAMS = 12
TYPES = " ".join(("i64", "f64", "i32") * (PARAMS // 3))
SOURCE = f"""(module
  (type $node (struct (field $next (ref null $node)) (field $value i32)))
  (type $binary (func (param i32) (result i32)))
  (import "host" "call" (func $host (param i32) (result i32)))
  (table $t 2 funcref)
  (elem (table $t) (i32.const 0) func $twice $deep)
  (func $never (export "never") (param i32) (result i32) (i32.add (local.get 0) (i32.const 5)))
  (func $twice (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
  (func $deep (param $n i32) (result i32)
    (if (i32.eqz (local.get $n)) (then (return (call $host (i32.const 7)))))
    (i32.add (i32.const 1) (call $deep (i32.sub (local.get $n) (i32.const 1)))))
  (func (export "deep") (param i32) (result i32) (call $deep (local.get 0)))
  (func (export "indirect") (param i32 i32) (result i32)
    (call_indirect $t (type $binary) (local.get 0) (local.get 1)))
  (func (export "reference") (param i32) (result i32) (call_ref $binary (local.get 0) (ref.func $twice)))
  (func $many (export "many") (param {TYPES}) (result f64)
    {
    "".join(
        f"(f64.add {each} "
        for each in (
            f"(f64.convert_i64_s (local.get {n}))"
            if n % 3 == 0
            else f"(local.get {n})"
            if n % 3 == 1
            else f"(f64.convert_i32_s (local.get {n}))"
            for n in range(PARAMS)
        )
    )
} (f64.const 0) {")" * PARAMS})
  (func $list (export "list") (param $n i32) (result (ref null $node))
    (local $head (ref null $node))
    (loop $more
      (if (local.get $n)
        (then
          (local.set $head (struct.new $node (local.get $head) (local.get $n)))
          (local.set $n (i32.sub (local.get $n) (i32.const 1)))
          (br $more))))
    (local.get $head))
  (func $sum (export "sum") (param $node (ref null $node)) (result i32)
    (local $sum i32)
    (block $done
      (loop $more
        (br_if $done (ref.is_null (local.get $node)))
        (local.set $sum (i32.add (local.get $sum) (struct.get $node $value (local.get $node))))
        (local.set $node (struct.get $node $next (local.get $node)))
        (br $more)))
    (local.get $sum))
  (func (export "nested") (param $n i32) (result i32)
    (local $i i32) (local $j i32) (local $sum i32)
    (loop $outer
      (local.set $j (i32.const 0))
      (loop $inner
        (local.set $sum (i32.add (local.get $sum) (local.get $j)))
        (br_if $inner (i32.lt_s (local.tee $j (i32.add (local.get $j) (i32.const 1))) (local.get $n))))
      (br_if $outer (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (local.get $sum))
  (func $trap (export "trap") (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
  (func (export "outer trap") (param i32) (result i32) (i32.add (i32.const 1) (call $trap (local.get 0)))))"""

VALUES = [1, 0.5, 2] * (PARAMS // 3)


def engine(**options: Any) -> lh.Engine:
    return lh.Engine(compilation="by_need", **options)


def instance(module: Module, call: Any = lambda value: value + 1, store: lh.Store | None = None) -> lh.Instance:
    return lh.Instance(store or lh.Store(module.engine), module, {"host": {"call": call}})


def compiled(module: Module) -> set[int]:
    """The functions that have code."""
    found = module.pieces(inline_allocation=module.engine.runtime == "native")
    assert found is not None
    return {index for piece in found.linked for index in piece.functions}


def levels(module: Module, function: int) -> list[int]:
    """LLVM's levels that a function was compiled at."""
    found = module.pieces(inline_allocation=True)
    assert found is not None
    return [pieces.opt_level_of(piece.level) for piece in found.linked if function in piece.functions]


def index_of(module: Module, name: str) -> int:
    return next(index for index, each in module.decoded.names.functions.items() if each == name)


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("opt_level", [0, 2])
def test_what_is_called_is_compiled(opt_level: int, runtime: str) -> None:
    module = Module(engine(opt_level=opt_level, runtime=runtime), SOURCE)
    assert module.is_compiled_by_need
    assert compiled(module) == set()
    exports = instance(module).exports
    assert exports.twice(21) == 42
    assert compiled(module) == {index_of(module, "twice")}
    assert exports.deep(10) == 18
    assert exports.indirect(4, 0) == 8
    assert exports.indirect(4, 1) == 12
    assert exports.reference(5) == 10
    assert exports.many(*VALUES) == PARAMS // 3 * 3.5
    assert exports.sum(exports.list(100)) == 5050
    assert exports.nested(10) == 450
    assert index_of(module, "never") not in compiled(module)


def test_large_modules_are_compiled_so_by_themselves() -> None:
    one = "(func (param i32) (result i32)" + "(i32.add (local.get 0)" * 30 + "(i32.const 1)" + ")" * 31
    count = LARGE // 94  # bytes, of which an instruction takes two, or one
    assert count > MANY
    small = f"(module {one * count})"
    large = f"(module {one * (count + 1)})"
    few = "(func (param i32) (result i32)" + "(i32.add (local.get 0)" * LARGE + "(i32.const 1)" + ")" * (LARGE + 1)
    assert not Module(lh.Engine(), small).is_compiled_by_need
    assert not Module(lh.Engine(opt_level=0), f"(module {few})").is_compiled_by_need
    assert Module(lh.Engine(), large).is_compiled_by_need
    assert not Module(lh.Engine(compilation="whole"), large).is_compiled_by_need


def test_no_machine_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_need, "is_available", lambda: False)
    with pytest.raises(lh.UnsupportedError, match="compilation is 'by_need', which is not written for this machine"):
        Module(engine(), SOURCE)
    monkeypatch.setattr("lowheap.wasm.module.LARGE", 1)
    monkeypatch.setattr("lowheap.wasm.module.MANY", 1)
    assert not Module(lh.Engine(), SOURCE).is_compiled_by_need


def test_what_is_awaited_is_told() -> None:
    module = Module(engine(), SOURCE)
    made = instance(module)
    index = index_of(module, "twice")
    seen = set()
    while 2 not in levels(module, index):
        made.exports.twice(1)
        told = module.compiled_by_need()
        assert told is not None
        seen.add((index in told.awaited, index in told.optimised))
    told = module.compiled_by_need()
    assert told is not None
    assert (index in told.awaited, index in told.optimised) == (False, True)
    assert seen >= {(False, False), (True, False)}


def wait_until_optimised(module: Module, function: int, run: Any) -> None:
    limit = time.monotonic() + 60
    while 2 not in levels(module, function):
        run()
        assert time.monotonic() < limit, "it was never optimised"


@pytest.mark.parametrize("where", ["process", "thread"])
def test_what_runs_often_is_optimised(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "thread":
        monkeypatch.setattr(PieceCompiler, "is_portable", False)
    module = Module(engine(), SOURCE)
    twice = index_of(module, "twice")
    one, other = instance(module), instance(module)
    assert [other.exports.twice(1), other.exports.reference(3)] == [2, 6]
    wait_until_optimised(module, twice, lambda: one.exports.twice(4))
    assert levels(module, twice)[0] == 0
    for each in (one, other):
        assert [each.exports.twice(4), each.exports.reference(3), each.exports.indirect(4, 0)] == [8, 6, 8]
    late = instance(module)
    assert late.exports.twice(4) == 8
    assert levels(module, twice).count(2) == 1, "once, whoever asked"


def test_the_process_forgets_modules_that_are_gone() -> None:
    """It would keep what each was decoded to."""
    process = optimiser._Process()
    try:
        for _ in range(2):
            module = Module(engine(), SOURCE)
            compiler = PieceCompiler(module, inline_allocation=True)
            answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
            process.optimise(compiler, (index_of(module, "twice"),), answers.put)
            assert answers.get(timeout=60) is not None
            del compiler, module
            gc.collect()
            assert not process._known
        assert not process.has_ended
    finally:
        process.close()


@pytest.fixture
def without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody in this process has asked for the runtime yet."""
    monkeypatch.setattr(jit_runtime, "_loaded", {})
    monkeypatch.setattr(jit_runtime, "_ready", {})
    monkeypatch.setattr(optimiser, "_runtimes", set())


def run_until_the_runtime_is_optimised(made: lh.Instance) -> None:
    limit = time.monotonic() + 60
    while runtime_of(made.store).to_optimise is not None:
        assert made.exports.sum(made.exports.list(50)) == 1275
        assert time.monotonic() < limit, "it was never optimised"


@pytest.mark.usefixtures("without_runtime")
def test_the_runtime_is_optimised_when_code_runs_often() -> None:
    """Until then it does the same, more slowly: compiled soon, as code is."""
    module = Module(engine(), SOURCE)
    made = instance(module)
    context = runtime_of(made.store).context
    assert runtime_of(made.store).to_optimise is not None
    soon = context.drop, context.allocate_struct
    assert made.exports.sum(made.exports.list(50)) == 1275
    made.store.collect()
    assert made.store.heap.stats().live_objects == 0
    run_until_the_runtime_is_optimised(made)
    assert not {context.drop, context.allocate_struct} & {*soon}
    assert made.exports.sum(made.exports.list(50)) == 1275
    made.store.collect()
    assert made.store.heap.stats().live_objects == 0
    assert runtime_of(lh.Store(module.engine)).to_optimise is None, "it is in the process"


@pytest.mark.usefixtures("without_runtime")
@pytest.mark.parametrize("options", [{"compilation": "whole"}, {"compilation": "by_need", "opt_level": 0}])
def test_the_runtime_is_optimised_at_once_where_nothing_else_would_be(options: dict[str, Any]) -> None:
    module = Module(lh.Engine(**options), SOURCE)
    assert runtime_of(instance(module).store).to_optimise is None


@pytest.mark.usefixtures("without_runtime")
def test_a_small_module_has_the_runtime_optimised() -> None:
    """Its code is, and counts nothing that would ask for it."""
    made_with = lh.Engine()
    store = lh.Store(made_with)
    made = lh.Func(store, lh.FuncType((), ()), lambda: None)
    assert runtime_of(store).to_optimise is not None
    lh.Instance(store, Module(made_with, '(module (import "" "" (func)))'), {"": {"": made}})
    assert runtime_of(store).to_optimise is None


@pytest.mark.usefixtures("without_runtime")
def test_an_optimised_runtime_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = instance(Module(engine(cache=tmp_path), SOURCE))
    run_until_the_runtime_is_optimised(made)
    monkeypatch.setattr(jit_runtime, "_loaded", {})
    monkeypatch.setattr(jit_runtime.Compiler, "compile", None)
    again = instance(Module(engine(cache=tmp_path), SOURCE))
    assert runtime_of(again.store).to_optimise is None
    assert again.exports.sum(again.exports.list(50)) == 1275


def test_the_process_has_the_lowheap_that_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, where commands look for collectors first, may have another."""
    (tmp_path / "lowheap").mkdir()
    (tmp_path / "lowheap" / "__init__.py").write_text("raise SystemExit('another')")
    monkeypatch.syspath_prepend(tmp_path)
    process = optimiser._Process()
    try:
        module = Module(engine(), SOURCE)
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        process.optimise(PieceCompiler(module, inline_allocation=True), (index_of(module, "twice"),), answers.put)
        assert answers.get(timeout=60) is not None
    finally:
        process.close()


def test_loops_count_too() -> None:
    module = Module(engine(), SOURCE)
    exports = instance(module).exports
    total = index_of(module, "sum")
    nodes = exports.list(300)
    wait_until_optimised(module, total, lambda: exports.sum(nodes))
    assert exports.sum(nodes) == 45150


def test_a_loop_within_a_loop_is_optimised_at_once() -> None:
    module = Module(engine(), SOURCE)
    exports = instance(module).exports
    assert exports.nested(100) == 495000
    (nested,) = compiled(module)
    assert levels(module, nested) == [2]


def test_level_0_stays_there() -> None:
    module = Module(engine(opt_level=0), SOURCE)
    exports = instance(module).exports
    for _ in range(2 * pieces.OFTEN):
        exports.twice(1)
    assert set(levels(module, index_of(module, "twice"))) == {0}


def test_what_is_optimised_is_taken_up_by_polls() -> None:
    """While one call runs."""
    source = """(module
      (global $stop (export "stop") (mut i32) (i32.const 0))
      (func $step (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
      (func (export "run") (result i32)
        (local $i i32)
        (loop $more
          (local.set $i (call $step (local.get $i)))
          (br_if $more (i32.eqz (global.get $stop))))
        (local.get $i)))"""
    module = Module(engine(), source)
    made = lh.Instance(lh.Store(module.engine), module)
    limit = time.monotonic() + 60

    def handle(*_: Any) -> None:
        if 2 in levels(module, 0) or time.monotonic() > limit:
            made.exports.stop.value = 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        made.exports.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 2 in levels(module, 0)


@pytest.mark.parametrize("level", [0, 2])
def test_frames_are_told(level: int) -> None:
    module = Module(engine(), SOURCE)
    made = instance(module)
    outer = next(each.index for each in module.decoded.exports if each.name == "outer trap")
    if level:  # the other is in it then
        wait_until_optimised(module, outer, lambda: made.exports["outer trap"](1))
    whole = instance(Module(lh.Engine(), SOURCE))
    frames = []
    for each in (made, whole):
        with pytest.raises(lh.Trap) as caught:
            each.exports["outer trap"](0)
        frames.append(caught.value.frames)
    assert frames[0] == frames[1]
    assert len(frames[0]) == 2


def test_frames_are_told_where_llvm_has_put_code_in_several_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """What always traps is in one of its own; that it is the piece's first function tells nothing of the other."""
    source = """(module
      (func $always (param i32) (result i32) (unreachable))
      (func (export "down") (param $n i32) (result i32)
        (if (i32.eqz (local.get $n)) (then (unreachable)))
        (i32.add (i32.const 1) (call 1 (i32.sub (local.get $n) (i32.const 1))))))"""
    monkeypatch.setattr(pieces.PiecewiseCode, "_choose", lambda *_: (1, (0, 1)))
    module = Module(engine(opt_level=1), source)
    made = lh.Instance(lh.Store(module.engine), module)
    with pytest.raises(lh.Trap) as caught:
        made.exports.down(3)
    assert [each.func_index for each in caught.value.frames] == [1] * 4
    assert all(each.module_offset for each in caught.value.frames)


def test_exceptions_pass_through_pieces() -> None:
    source = """(module
      (tag $e (param i32))
      (func $throw (param i32) (throw $e (local.get 0)))
      (func $between (param i32) (call $throw (local.get 0)))
      (func (export "run") (param i32) (result i32)
        (block $caught (result i32)
          (try_table (catch $e $caught) (call $between (local.get 0)))
          (i32.const -1))))"""
    module = Module(engine(), source)
    made = lh.Instance(lh.Store(module.engine), module)
    assert [made.exports.run(3), made.exports.run(4)] == [3, 4]
    wait_until_optimised(module, 0, lambda: made.exports.run(1))
    assert made.exports.run(5) == 5


def test_a_failure_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(engine(), SOURCE)
    made = instance(module)
    compile_now = Module._compile_now

    def fail(*_: Any, **__: Any) -> Any:
        raise CompilerError("no more")

    monkeypatch.setattr(Module, "_compile_now", fail)
    with pytest.raises(CompilerError, match="no more"):
        made.exports.deep(3)
    assert compiled(module) == set()
    monkeypatch.setattr(Module, "_compile_now", compile_now)
    assert made.exports.deep(3) == 11


def test_ctrl_c_while_a_function_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised when that is done, out of the call."""
    module = Module(engine(), SOURCE)
    made = instance(module)
    compile_now = Module._compile_now

    def slowly(self: Module, *args: Any, **options: Any) -> Any:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return compile_now(self, *args, **options)

    monkeypatch.setattr(Module, "_compile_now", slowly)
    with pytest.raises(KeyboardInterrupt):
        made.exports.twice(3)
    monkeypatch.setattr(Module, "_compile_now", compile_now)
    assert made.exports.twice(3) == 6


def test_a_handler_may_call_what_is_being_compiled() -> None:
    """Its arguments, which are in memory, are not those of the call that it interrupts."""
    module = Module(engine(), SOURCE)
    made = instance(module)
    seen: list[float] = []

    def handle(*_: Any) -> None:
        if len(seen) < 5:
            seen.append(made.exports.many(*[0] * PARAMS))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        assert made.exports.many(*VALUES) == PARAMS // 3 * 3.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert set(seen) <= {0.0}


def test_a_handler_that_comes_while_its_thread_uses_llvm_waits_for_nobody() -> None:
    """Or the thread that compiles would wait for this one, and this one for that."""
    module = Module(engine(), SOURCE)
    results: list[int] = []

    def run() -> None:
        with jit_engine._lock:
            results.append(instance(module).exports.twice(4))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert results == [8]


def test_code_may_run_often_while_something_is_chosen_to_be_optimised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer may run it then."""
    module = Module(engine(), SOURCE)
    optimise = PieceCompiler.optimise

    def run_often(*args: Any) -> None:
        another = instance(module).exports
        for _ in range(2 * pieces.OFTEN):
            another.never(1)
        optimise(*args)

    def run() -> None:
        exports = instance(module).exports
        for _ in range(2 * pieces.OFTEN):
            exports.twice(1)

    monkeypatch.setattr(PieceCompiler, "optimise", run_often)
    never = index_of(module, "never")
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    exports = instance(module).exports
    wait_until_optimised(module, never, lambda: exports.never(1))


def test_stores_of_two_threads_share_a_module() -> None:
    module = Module(engine(), SOURCE)
    results: list[list[int]] = []

    def run() -> None:
        exports = instance(module).exports
        results.append([exports.sum(exports.list(count)) for count in range(200)])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert results == [[n * (n + 1) // 2 for n in range(200)]] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_optimised_what_its_parent_was_about_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes no lock that a thread had which it has not got."""
    module = Module(engine(), SOURCE)
    exports = instance(module).exports
    twice = index_of(module, "twice")
    with monkeypatch.context() as patch:
        patch.setattr(PieceCompiler, "optimise", lambda *_: None)
        for _ in range(2 * pieces.OFTEN):
            exports.twice(1)
    found = module.pieces(inline_allocation=True)
    assert found is not None
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with found._lock, found._choosing:
            held.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(60)
        try:
            exports.deep(3)
            wait_until_optimised(module, twice, lambda: [exports.never(1), exports.twice(1)])
            os._exit(0)
        finally:
            os._exit(1)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


PROGRAM = f"""
import os, pathlib, signal, sys, time
import lowheap as lh
from lowheap.wasm import optimiser, pieces

sys.path += [pathlib.Path("/nowhere"), 5]
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
module = lh.Module(lh.Engine(compilation="by_need"), {SOURCE!r})
exports = lh.Instance(lh.Store(module.engine), module, {{"host": {{"call": int}}}}).exports

def run_until_optimised(name):
    (index,) = [index for index, each in module.decoded.names.functions.items() if each == name]
    while not any(piece.level and index in piece.functions for piece in module._pieces[True].linked):
        exports[name](1)

run_until_optimised("twice")
process = optimiser._process[0]._process.pid
os.kill(process, signal.SIGKILL)
while pathlib.Path(f"/proc/{{process}}").exists():
    time.sleep(0.01)
run_until_optimised("never")
assert optimiser._process[0]._process.pid != process and not optimiser._thread, "another has done it"
for _ in range(2 * pieces.OFTEN):
    exports.trap(1)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks the system of Linux which processes there are")
def test_that_the_process_is_killed_is_not_felt() -> None:
    """It leaves no zombie, and nothing is said at the program's end."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_process_forgets_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[Any, ...]] = []
    send = optimiser.send

    def listen(file: Any, message: Any) -> None:
        said.append(message[:2])
        send(file, message)

    monkeypatch.setattr(optimiser, "send", listen)
    module = Module(engine(), SOURCE)
    exports = instance(module).exports
    wait_until_optimised(module, index_of(module, "twice"), functools.partial(exports.twice, 1))
    del module, exports
    gc.collect()
    number, *_ = (number for kind, number in said if kind == optimiser.TAKE)  # the runtime comes later
    limit = time.monotonic() + 60
    while (optimiser.FORGET, number) not in said:
        assert time.monotonic() < limit
        time.sleep(0.01)


# --- The cache --------------------------------------------------------------------------------------------------------


def test_pieces_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[Module, list[Any]]:
        module = Module(engine(cache=tmp_path), SOURCE)
        exports = instance(module).exports
        return module, [exports.twice(4), exports.deep(3), exports.sum(exports.list(10)), exports.nested(5)]

    module, first = run()
    (path,) = tmp_path.glob(f"*{cache.PIECES_SUFFIX}")
    size = path.stat().st_size
    monkeypatch.setattr(Module, "_compile_now", None)
    again, second = run()
    assert second == first == [8, 11, 55, 50]
    assert compiled(again) == compiled(module)
    assert path.stat().st_size == size


def test_optimised_pieces_are_cached(tmp_path: Path) -> None:
    module = Module(engine(cache=tmp_path), SOURCE)
    exports = instance(module).exports
    twice = index_of(module, "twice")
    wait_until_optimised(module, twice, lambda: exports.twice(1))
    again = Module(engine(cache=tmp_path), SOURCE)
    assert instance(again).exports.twice(5) == 10
    assert levels(again, twice) == [2]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damaged_pieces_are_compiled_again(tmp_path: Path, damage: str) -> None:
    def run() -> list[Any]:
        exports = instance(Module(engine(cache=tmp_path), SOURCE)).exports
        return [exports.twice(4), exports.deep(3), exports.sum(exports.list(10))]

    first = run()
    (path,) = tmp_path.glob(f"*{cache.PIECES_SUFFIX}")
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: 2 * len(data) // 3]
    elif damage == "flip":
        for place in range(200, len(data), 1000):
            data[place] ^= 0xFF
    else:
        data = bytearray()
    path.write_bytes(data)
    assert run() == first
    assert run() == first


def call_each(tmp_path: Path, *names: str) -> None:
    exports = instance(Module(engine(cache=tmp_path), SOURCE)).exports
    for name in names:
        exports[name](*([2] if name != "sum" else [None]))


def test_what_was_cut_off_is_written_again_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_each(tmp_path, "twice", "deep", "list")
    (path,) = tmp_path.glob(f"*{cache.PIECES_SUFFIX}")
    os.truncate(path, path.stat().st_size - 100)
    call_each(tmp_path, "twice", "deep", "list")
    monkeypatch.setattr(Module, "_compile_now", None)
    call_each(tmp_path, "twice", "deep", "list")


def test_a_piece_under_another_name_is_not_used(tmp_path: Path) -> None:
    """What comes before an entry tells what to compile, too, and may be damaged."""
    call_each(tmp_path, "twice")
    (path,) = tmp_path.glob(f"*{cache.PIECES_SUFFIX}")
    data = bytearray(path.read_bytes())
    *_, (_, entry, end) = cache._records(bytes(data))
    start = end - len(entry) - 4
    for damaged in (data[: start - 4] + b"\x4d" + data[start - 3 :], data[:start] + b"\xff" + data[start + 1 :]):
        path.write_bytes(damaged)
        call_each(tmp_path, "twice")


def test_pieces_of_several_orders_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in (("list", "sum"), ("sum", "list")):
        call_each(tmp_path, *names)
    with monkeypatch.context() as patch:
        patch.setattr(Module, "_compile_now", None)
        for names in (("list", "sum"), ("sum", "list")):
            call_each(tmp_path, *names)


def test_nobody_waits_for_the_file_of_pieces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another process may be stopped that has it, or it may be a pipe."""
    call_each(tmp_path)
    (path,) = tmp_path.glob(f"*{cache.PIECES_SUFFIX}")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        call_each(tmp_path, "twice")
    assert "another process has it" in caplog.text
    path.unlink()
    os.mkfifo(path)
    call_each(tmp_path, "twice")
    assert "it is no file" in caplog.text


def test_a_piece_that_was_damaged_is_compiled_again_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_each(tmp_path, "twice")
    (path,) = tmp_path.glob(f"*{cache.PIECES_SUFFIX}")
    data = bytearray(path.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    call_each(tmp_path, "twice")
    monkeypatch.setattr(Module, "_compile_now", None)
    call_each(tmp_path, "twice")


def test_serialised_modules_are_whole() -> None:
    module = Module(engine(), SOURCE)
    again = Module.deserialize(engine(), module.serialize())
    assert not again.is_compiled_by_need
    assert instance(again).exports.twice(3) == 6


# --- Ahead ------------------------------------------------------------------------------------------------------------


def results(module: Module) -> list[Any]:
    """What becomes of a call of most functions."""
    exports = instance(module).exports
    values = [exports.twice(4), exports.deep(3), exports.sum(exports.list(10)), exports.nested(5), exports.never(1)]
    return [*values, exports.indirect(4, 1), exports.reference(3), exports.many(*VALUES)]


EXPECTED = [8, 11, 55, 50, 6, 12, 6, 14.0]


@pytest.mark.parametrize(("opt_level", "jobs"), [(0, 1), (2, 2)])
def test_what_is_compiled_ahead_is_taken_from_the_cache(
    opt_level: int, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "MOST_OPTIMISED", 40)
    options: dict[str, Any] = {"cache": tmp_path, "opt_level": opt_level}
    module = Module(engine(**options), SOURCE)
    count = len(module.decoded.bodies)
    assert not module.is_cached
    seen: list[tuple[int, int]] = []
    assert module.compile_all(lambda *step: seen.append(step), jobs=jobs) == count
    assert [seen[0], seen[-1]] == [(0, count), (count, count)]
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert module.is_cached
    monkeypatch.setattr(Module, "_compile_now", None)
    again = Module(engine(**options), SOURCE)
    assert [again.is_cached, again.compile_all(jobs=jobs)] == [True, 0]
    for each in (module, again):
        assert results(each) == EXPECTED
        told = each.compiled_by_need()
        assert told is not None
        assert told.optimised == (told.compiled if opt_level else set())
        assert told.functions >= told.compiled == compiled(each)


@pytest.mark.parametrize("opt_level", [0, 2])
def test_what_was_compiled_by_need_is_compiled_ahead(
    opt_level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again, where it needs what other pieces of its run have: runs call in orders of their own."""
    get = """(func (export "{}") (param $node (ref null $node)) (result (ref null $node))
      (struct.get $node $next (local.get $node)))"""
    source = f"""(module
      (type $node (struct (field $next (mut (ref null $node)))))
      (func (export "new") (result (ref null $node)) (struct.new_default $node))
      {get.format("one")} {get.format("other")})"""
    made_with = engine(cache=tmp_path, opt_level=opt_level)
    module = Module(made_with, source)
    made = lh.Instance(lh.Store(made_with), module)
    node = made.exports.new()
    assert [made.exports.one(node), made.exports.other(node)] == [None, None]
    found = module.pieces(inline_allocation=True)
    assert found is not None
    assert any(piece.code.imports for piece in found.linked), "the test needs such"
    assert not module.is_cached
    assert module.compile_all(jobs=1) == (3 if opt_level else 2)
    assert module.is_cached
    assert made.exports.new() is not None
    assert made.exports.other(node) is None
    monkeypatch.setattr(Module, "_compile_now", None)
    again = Module(made_with, source)
    other = lh.Instance(lh.Store(made_with), again)
    assert other.exports.other(other.exports.new()) is None
    assert levels(again, 2) == [opt_level]
    if opt_level:
        wait_until_optimised(module, 2, lambda: made.exports.other(node))
    assert made.exports.one(node) is None


def test_all_is_compiled_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(engine(), SOURCE)
    assert module.compile_all(jobs=1) == len(module.decoded.bodies)
    assert module.compile_all(jobs=1) == 0
    assert not module.is_cached
    monkeypatch.setattr(Module, "_compile_now", None)
    assert results(module) == EXPECTED
    assert levels(module, index_of(module, "twice")) == [2]


def test_a_whole_module_is_compiled_ahead(tmp_path: Path) -> None:
    module = Module(lh.Engine(), SOURCE)
    assert [module.compile_all(), module.is_cached, module.compiled_by_need()] == [0, False, None]
    assert Module(lh.Engine(cache=tmp_path), SOURCE).is_cached


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_cannot_be_compiled_ahead_is_raised(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_OPTIMISED", 1)
    module = Module(engine(), SOURCE)

    def fail(*_: Any, **__: Any) -> Any:
        raise CompilerError("no more")

    monkeypatch.setattr(Module, "_compile_now", fail)
    monkeypatch.setattr("lowheap.wasm.optimiser._SERVE", "")  # processes that end at once, with no answer
    with pytest.raises(CompilerError, match="no more"):
        module.compile_all(jobs=jobs)


def test_processes_that_end_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MOST_OPTIMISED", 1)
    monkeypatch.setattr("lowheap.wasm.optimiser._SERVE", "")
    module = Module(engine(), SOURCE)
    assert module.compile_all(jobs=2) == len(module.decoded.bodies)
    assert results(module) == EXPECTED


@pytest.mark.parametrize(("jobs", "error"), [(0, ValueError), (True, TypeError), ("2", TypeError)])
def test_jobs_are_a_number(jobs: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="jobs is"):
        Module(engine(), "(module)").compile_all(jobs=jobs)


def test_progress_is_for_functions_that_are_compiled_now() -> None:
    seen: list[tuple[int, int]] = []
    module = Module(engine(), SOURCE, progress=lambda *step: seen.append(step))
    assert instance(module).exports.twice(2) == 4
    assert seen == []
