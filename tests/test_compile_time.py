"""What keeps compiling cheap changes nothing else: Python's garbage collector, large modules, long lists of roots."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator

import pytest

import lowheap as lh
from lowheap.jit import copies, engine, safepoints
from lowheap.jit.signatures import INITIALISE

pytestmark = pytest.mark.compiler

BOX = "(type $box (struct (field (mut i32))))"


@pytest.fixture
def collector_on() -> Iterator[None]:
    """Python's garbage collector runs, whatever else does."""
    was_enabled = gc.isenabled()
    gc.enable()
    yield
    if not was_enabled:
        gc.disable()


def calls_within(module: lh.Module, function: str) -> list[str]:
    """The module's own functions that one of them calls in the code that LLVM emits."""
    body = re.search(
        rf"^define [^\n]*@{re.escape(function)}\(.*?^}}", module.compiled.llvm_ir, re.MULTILINE | re.DOTALL
    )
    assert body is not None
    return re.findall(r"call [^\n]*@(wasm\.[\w.]+)\(", body[0])


def test_pythons_collector_waits_while_a_module_is_compiled(collector_on: None) -> None:
    seen: list[bool] = []
    lh.Module(lh.Engine(), "(module (func) (func))", progress=lambda done, total: seen.append(gc.isenabled()))
    assert seen == [False] * 3
    assert gc.isenabled()


def test_pythons_collector_goes_on_after_an_error(collector_on: None) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        lh.Module(lh.Engine(), "(module (func))", progress=fail)
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off(collector_on: None) -> None:
    gc.disable()
    with engine.without_gc():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_a_large_module_inlines_small_functions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = " ".join(f"(i32.mul (i32.const {3 + 2 * i})) (i32.xor (i32.const {77 * i + 5}))" for i in range(15))
    source = f"""
      (module
        (func $small (param i32) (result i32) (i32.mul (local.get 0) (local.get 0)))
        (func $medium (param i32) (result i32) local.get 0 {steps})
        (func (export "f") (param i32) (result i32)
          (i32.add (call $small (local.get 0)) (i32.add (call $medium (local.get 0)) (call $medium (i32.const 7)))))
        (func (export "g") (param i32) (result i32) (call $medium (local.get 0))))
    """
    usual = lh.Module(lh.Engine(), source)
    assert calls_within(usual, "wasm.2") == []
    monkeypatch.setattr(engine, "LARGE_MODULE", 20)
    large = lh.Module(lh.Engine(), source)
    assert set(calls_within(large, "wasm.2")) == {"wasm.1.medium"}
    results = []
    for module in (usual, large):
        exports = lh.Instance(lh.Store(module.engine), module).exports
        results.append([exports["f"](number) for number in (0, 3, -5)])
    assert results[0] == results[1]


def test_a_module_without_an_initialiser_has_no_trampoline_for_it() -> None:
    symbols = lh.Module(lh.Engine(), '(module (func (export "f") (param i32)))').compiled.symbols
    assert [symbol for symbol in symbols if symbol.startswith("lowheap.enter")] == ["lowheap.enter.i."]
    symbols = lh.Module(lh.Engine(), '(module (func $s) (start $s) (func (export "f") (param i32)))').compiled.symbols
    assert {"lowheap.enter..", "lowheap.enter.i.", INITIALISE} <= set(symbols)


def chained(count: int, last: str = "") -> str:
    """A list of cells, each a global that refers to the one before; a start function that knows how long it is."""
    cells = "".join(
        f"(global ${i} (ref $cell) "
        f"(struct.new $cell ({f'global.get ${i - 1}' if i else 'ref.null $cell'}) (i32.const {i})))"
        for i in range(count)
    )
    return f"""
      (module
        (type $cell (struct (field (ref null $cell)) (field i32)))
        (type $bytes (array i8))
        (global $free (mut i32) (i32.const 0))
        {cells} {last}
        (func $start (global.set $free (struct.get $cell 1 (global.get ${count - 1}))))
        (start $start)
        (export "last" (global ${count - 1}))
        (export "started" (global $free)))
    """


@pytest.mark.parametrize("compilation", ["whole", "by_need"])
def test_a_long_initialiser_is_several_functions(compilation: str) -> None:
    """LLVM's time grows faster than a function; and one large frame would be for all."""
    module = lh.Module(lh.Engine(compilation=compilation), chained(900))
    initialisers = {each for each in module.compiled.symbols if each.startswith(INITIALISE)}
    assert initialisers == {INITIALISE, *(f"{INITIALISE}.{number}" for number in (1, 2, 3))}
    store = lh.Store(module.engine, collect_every=1)
    exports = lh.Instance(store, module).exports
    cell, numbers = exports["last"].value, []
    while cell is not None:
        numbers.append(cell[1])
        cell = cell[0]
    assert numbers == [*reversed(range(900))]
    assert exports["started"].value == 899
    store.verify()


def test_a_trap_in_a_later_part_of_an_initialiser() -> None:
    source = chained(900, "(global (ref $bytes) (array.new $bytes (i32.const 1) (i32.const -1)))")
    store = lh.Store()
    with pytest.raises(lh.Trap, match="allocation"):
        lh.Instance(store, lh.Module(store.engine, source))
    store.collect()
    store.verify()
    assert store.heap.stats().live_objects == 0


@pytest.mark.parametrize("source", ["(module)", "(module (func))"])
def test_a_module_that_nothing_enters_links(source: str) -> None:
    """Without any code, JITLink would not link it."""
    lh.Instance(store := lh.Store(lh.Engine()), lh.Module(store.engine, source))


def many_live(count: int) -> str:
    """References that all live across the allocation of those behind, and then across a host function's call."""
    news = "\n".join(
        f"(local.set $p{i} (struct.new $box (i32.add (local.get $x) (i32.const {i}))))" for i in range(count)
    )
    total = "\n".join(f"(struct.get $box 0 (local.get $p{i})) i32.add" for i in range(count))
    locals = " ".join(f"(local $p{i} (ref null $box))" for i in range(count))
    return f"""(module {BOX} (import "" "look" (func $look))
      (func (export "f") (param $x i32) (result i32) {locals} {news} (call $look) i32.const 0 {total}))"""


@pytest.mark.parametrize("inline", ["always", "never"])
@pytest.mark.parametrize("opt_level", [0, 2])
@pytest.mark.parametrize("is_listed", [True, False])
def test_what_lives_is_found_in_a_root_frame_made_early(
    monkeypatch: pytest.MonkeyPatch, is_listed: bool, opt_level: int, inline: str
) -> None:
    count = 130  # three words of slots
    if not is_listed:
        monkeypatch.setattr(safepoints, "MOST_LISTED", 100)
    lh_engine = lh.Engine(opt_level=opt_level, inline=inline)
    module = lh.Module(lh_engine, many_live(count))
    assert ("lowheap.roots" in module.compiled.llvm_ir) is not is_listed
    store = lh.Store(lh_engine)
    found = []

    def look() -> None:
        store.collect()
        store.verify()
        found.append(len(list(store.heap.objects())))

    instance = lh.Instance(store, module, {"": {"look": look}})
    assert instance.exports["f"](5) == sum(5 + i for i in range(count))
    store.collect()
    assert found == [count]
    assert list(store.heap.objects()) == []


def test_lists_stay_where_they_are_short() -> None:
    """As in nearly all functions: a store would be needed less often than at each definition."""
    assert "lowheap.roots" not in lh.Module(lh.Engine(), many_live(190)).compiled.llvm_ir
    assert "lowheap.roots" in lh.Module(lh.Engine(), many_live(210)).compiled.llvm_ir


def added_to(count: int) -> str:
    """A function that adds a parameter to as many constants, each of which it needs afterwards."""
    sums = " ".join(f"(i32.add (local.get 0) (i32.const {3 * i + 1}))" for i in range(count))
    return f"""(module (type $numbers (array i32))
      (func (export "f") (param i32) (result (ref $numbers)) (array.new_fixed $numbers {count} {sums})))"""


@pytest.mark.parametrize("is_many", [False, True])
def test_a_value_that_is_added_to_very_often_gets_copies(is_many: bool) -> None:
    count = 3 * copies.RUN if is_many else copies.RUN // 2
    module = lh.Module(lh.Engine(), added_to(count))
    assert ("lowheap.copy" in module.compiled.llvm_ir) is is_many
    store = lh.Store(module.engine)
    array = lh.Instance(store, module).exports["f"](7)
    assert list(array) == [7 + 3 * i + 1 for i in range(count)]


def test_each_run_of_additions_adds_to_a_copy_of_the_value() -> None:
    lines = [f"  %{i} = add nsw i32 %x, {i}" for i in range(2 * copies.RUN)]
    spread = list(copies.spread_additions(["entry:", *lines, "next:", "  %y = add i32 %x, 1"]))
    made = [line for line in spread if " asm " in line]
    assert made == [f'  %lowheap.copy.{number} = call i32 asm "", "=r,0"(i32 %x)' for number in range(2)]
    operands = [re.findall(r"i32 (%\S+),", line)[0] for line in spread if " = add " in line]
    run = copies.RUN
    assert operands == ["%x"] * (run - 1) + ["%lowheap.copy.0"] * run + ["%lowheap.copy.1", "%x"]


def test_a_module_of_numbers_alone_has_no_functions_of_the_runtime() -> None:
    module = lh.Module(lh.Engine(opt_level=0), '(module (func (export "f") (result i32) (i32.const 1)))')
    assert set(re.findall(r"@(lowheap\.\w+)\(", module.compiled.llvm_ir)) == {"lowheap.trap", "lowheap.stack_check"}


@pytest.mark.parametrize("is_often", [False, True])
def test_what_is_inlined_often_is_simplified_before(is_often: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    simplified: list[str] = []
    passes = engine.binding.newpassmanagers.FunctionPassManager
    run = passes.run
    monkeypatch.setattr(
        passes, "run", lambda self, function, builder: (simplified.append(function.name), run(self, function, builder))
    )
    monkeypatch.setattr(engine, "OFTEN_INLINED", 20)
    sites = "(drop (struct.new $box (local.get 0)))" * (engine.OFTEN_INLINED - (not is_often))
    lh.Module(lh.Engine(inline="always"), f'(module {BOX} (func (export "f") (param i32) {sites}))')
    assert simplified == (["lowheap.struct_new.0"] if is_often else [])
