"""Liveness at safepoints against a naive search over paths, and the lowering of deopt bundles against LLVM's verifier.

`test_stackmaps.py` runs the result as native code.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding, ir
from support.combinations import examples

from lowheap.errors import CompilerError
from lowheap.jit import safepoints
from lowheap.jit.safepoints import SafepointCall, Statepoint, fill_safepoints, lower_statepoints

pytestmark = pytest.mark.compiler

I1 = ir.IntType(1)
I32 = ir.IntType(32)
VOID = ir.VoidType()

binding.initialize_native_target()
binding.initialize_native_asmprinter()


# --- Printing ---------------------------------------------------------------------------------------------------------


class Sketch:
    """A function under construction: named blocks, references, calls that may collect and plain uses."""

    def __init__(self, *arguments: str, blocks: Sequence[str] = ("entry",)) -> None:
        self.module = ir.Module()
        self.collect = ir.Function(self.module, ir.FunctionType(I32, [I32]), "collect")
        self.use_function = ir.Function(self.module, ir.FunctionType(VOID, [I32]), "use")
        self.flag = ir.GlobalVariable(self.module, I1, "flag")
        self.function = ir.Function(self.module, ir.FunctionType(VOID, [I32] * len(arguments)), "f")
        self.values: dict[str, ir.Value] = {}
        for name, argument in zip(arguments, self.function.args, strict=True):
            argument.name = name
            self.values[name] = argument
        self.blocks = {name: self.function.append_basic_block(name) for name in blocks}
        self.calls: dict[str, SafepointCall] = {}
        self.builder = ir.IRBuilder(self.blocks[blocks[0]])

    def at(self, block: str) -> Sketch:
        self.builder.position_at_end(self.blocks[block])
        return self

    def safepoint(self, name: str, argument: str | None = None) -> Sketch:
        value = self.values[argument] if argument else ir.Constant(I32, 0)
        self.calls[name] = safepoints.call(self.builder, self.collect, [value], name)
        self.values[name] = self.calls[name]
        return self

    def use(self, *names: str) -> Sketch:
        for name in names:
            self.builder.call(self.use_function, [self.values[name]])
        return self

    def make(self, name: str, *sources: str) -> Sketch:
        left = self.values[sources[0]]
        right = self.values[sources[1]] if len(sources) > 1 else ir.Constant(I32, 16)
        self.values[name] = self.builder.add(left, right, name)
        return self

    def phi(self, name: str) -> Sketch:
        self.values[name] = self.builder.phi(I32, name)
        return self

    def incoming(self, phi: str, **sources: str) -> Sketch:
        for block, value in sources.items():
            self.values[phi].add_incoming(self.values[value], self.blocks[block])
        return self

    def go(self, *targets: str) -> Sketch:
        blocks = [self.blocks[target] for target in targets]
        if not blocks:
            self.builder.ret_void()
        elif len(blocks) == 1:
            self.builder.branch(blocks[0])
        elif len(blocks) == 2:
            self.builder.cbranch(self.builder.load(self.flag), *blocks)
        else:
            switch = self.builder.switch(self.builder.load(self.flag), blocks[0])
            for number, block in enumerate(blocks[1:]):
                switch.add_case(ir.Constant(I1, number), block)
        return self

    def fill(self, *references: str) -> Sketch:
        chosen = [self.values[name] for name in references] if references else list(self.values.values())
        fill_safepoints(self.function, chosen)
        return self

    def live(self, name: str) -> list[str]:
        return [value.name for value in self.calls[name].live]

    def verify(self) -> None:
        """Complete the module and let LLVM check it, dominance of every bundle operand included."""
        self.flag.initializer = ir.Constant(I1, 0)
        binding.parse_assembly(str(self.module)).verify()


def test_a_call_prints_its_bundle_behind_attributes_and_before_metadata() -> None:
    sketch = Sketch("a", "b").safepoint("r", "a").use("b", "r").go()
    call = sketch.calls["r"]
    call.attributes.add("nounwind")
    call.set_metadata("note", sketch.module.add_metadata([ir.Constant(I32, 1)]))
    assert call.live == ()
    assert str(call).rstrip() == '%"r" = call i32 @"collect"(i32 %"a") nounwind [ "deopt"() ], !note !0'
    sketch.fill()
    assert '(i32 %"a") nounwind [ "deopt"(i32 %"b") ], !note !0' in str(call)
    sketch.verify()


def test_a_call_printed_early_prints_anew_after_filling() -> None:
    sketch = Sketch("a", "b").safepoint("r", "a").use("b").go()
    before = str(sketch.function)
    sketch.fill()
    assert before != str(sketch.function)
    assert '[ "deopt"(i32 %"b") ]' in str(sketch.function)


def test_replacing_a_value_reaches_the_bundle() -> None:
    sketch = Sketch("a", "b").make("c", "b").safepoint("r", "a").use("c").go().fill()
    replacement = ir.instructions.Instruction(sketch.builder.block, I32, "add", [sketch.values["a"]] * 2, "d")
    sketch.builder.block.replace(sketch.values["c"], replacement)
    assert sketch.live("r") == ["d"]
    assert '[ "deopt"(i32 %"d") ]' in str(sketch.calls["r"])


def test_indirect_callee() -> None:
    sketch = Sketch("a")
    signature = ir.FunctionType(ir.DoubleType(), [I32, ir.DoubleType()])
    slot = ir.GlobalVariable(sketch.module, signature.as_pointer(), "slot")
    pointer = sketch.builder.load(slot, "pointer")
    result = safepoints.call(sketch.builder, pointer, [sketch.values["a"], ir.Constant(ir.DoubleType(), 1.5)], "x")
    sketch.use("a").go().fill()
    assert result.type == ir.DoubleType()
    assert [value.name for value in result.live] == ["a"]
    sketch.verify()
    slot.initializer = None
    lowered = lower_statepoints(str(binding.parse_assembly(str(sketch.module))))
    binding.parse_assembly(lowered.text).verify()
    assert lowered.statepoints == (Statepoint(0, "f", "%pointer", 1),)


def test_calls_insert_at_the_builder_s_position() -> None:
    sketch = Sketch("a").use("a").go()
    sketch.builder.position_before(sketch.function.blocks[0].instructions[0])
    sketch.safepoint("r").fill()
    assert sketch.function.blocks[0].instructions[0] is sketch.calls["r"]
    assert sketch.live("r") == ["a"]


# --- Liveness on control-flow graphs made by hand ---------------------------------------------------------------------


def test_arguments_and_the_result_are_not_live_after_the_call() -> None:
    sketch = Sketch("a", "b").safepoint("r", "a").safepoint("s", "r").use("b", "r", "s").go().fill()
    assert sketch.live("r") == ["b"]
    assert sketch.live("s") == ["b", "r"]
    sketch.verify()


def test_order_is_that_of_definition_without_duplicates() -> None:
    sketch = Sketch("a", "b").make("c", "a").make("d", "b").safepoint("r").use("d", "c", "b", "a", "d").go()
    a, b, c, d = (sketch.values[name] for name in "abcd")
    fill_safepoints(sketch.function, [d, a, d, ir.Constant(I32, 0), c, b, a, ir.Constant(I32, 7)])
    assert sketch.live("r") == ["a", "b", "c", "d"]


def test_only_references_are_listed() -> None:
    sketch = Sketch("a", "b").safepoint("r").use("a", "b").go().fill("b")
    assert sketch.live("r") == ["b"]


def test_diamond() -> None:
    sketch = Sketch("a", "b", "c", blocks=["entry", "left", "right", "join"])
    sketch.safepoint("top").go("left", "right")
    sketch.at("left").safepoint("l").make("x", "a").go("join")
    sketch.at("right").safepoint("r").make("y", "b").go("join")
    sketch.at("join").phi("z").incoming("z", left="x", right="y").safepoint("bottom").use("z", "c").go()
    sketch.fill()
    assert sketch.live("top") == ["a", "b", "c"]
    assert sketch.live("l") == ["a", "c"]
    assert sketch.live("r") == ["b", "c"]
    assert sketch.live("bottom") == ["c", "z"]
    sketch.verify()


def test_phi_inputs_are_used_at_the_end_of_their_own_predecessor() -> None:
    sketch = Sketch("a", "b", blocks=["entry", "left", "right", "join"])
    sketch.go("left", "right")
    sketch.at("left").safepoint("l").go("join")
    sketch.at("right").safepoint("r").go("join")
    sketch.at("join").phi("z").incoming("z", left="a", right="b").use("z").go()
    sketch.fill()
    assert sketch.live("l") == ["a"]
    assert sketch.live("r") == ["b"]


def test_loop() -> None:
    sketch = Sketch("a", "b", "c", blocks=["entry", "loop", "done"])
    sketch.go("loop")
    sketch.at("loop").phi("p").safepoint("s", "p").make("next", "b").go("loop", "done")
    sketch.incoming("p", entry="a", loop="next")
    sketch.at("done").safepoint("e").use("c").go()
    sketch.fill()
    assert sketch.live("s") == ["b", "c"]
    assert sketch.live("e") == ["c"]
    sketch.verify()


def test_a_phi_swap_keeps_both_values() -> None:
    sketch = Sketch("a", "b", blocks=["entry", "loop", "done"])
    sketch.go("loop")
    sketch.at("loop").phi("p").phi("q").safepoint("s").go("loop", "done")
    sketch.incoming("p", entry="a", loop="q").incoming("q", entry="b", loop="p")
    sketch.at("done").use("p").go()
    sketch.fill()
    assert sketch.live("s") == ["p", "q"]
    sketch.verify()


def test_nested_loops() -> None:
    sketch = Sketch("a", "b", "c", blocks=["entry", "outer", "inner", "latch", "done"])
    sketch.go("outer")
    sketch.at("outer").phi("o").safepoint("s1").go("inner")
    sketch.at("inner").phi("i").safepoint("s2").make("j", "i", "o").go("inner", "latch")
    sketch.at("latch").safepoint("s3").make("n", "b").go("outer", "done")
    sketch.incoming("o", entry="a", latch="n").incoming("i", outer="c", inner="j")
    sketch.at("done").safepoint("s4").use("o").go()
    sketch.fill()
    assert sketch.live("s1") == ["b", "c", "o"]
    assert sketch.live("s2") == ["b", "c", "o", "i"]
    assert sketch.live("s3") == ["b", "c", "o"]
    assert sketch.live("s4") == ["o"]
    sketch.verify()


def test_irreducible_graph() -> None:
    sketch = Sketch("a", "b", "c", blocks=["entry", "one", "two", "done"])
    sketch.go("one", "two")
    sketch.at("one").safepoint("s1").use("a").go("two", "done")
    sketch.at("two").safepoint("s2").use("b").go("one")
    sketch.at("done").safepoint("s3").use("c").go()
    sketch.fill()
    assert sketch.live("s1") == ["a", "b", "c"]
    assert sketch.live("s2") == ["a", "b", "c"]
    assert sketch.live("s3") == ["c"]


def test_switch_and_unreachable() -> None:
    sketch = Sketch("a", "b", "c", blocks=["entry", "x", "y", "z"])
    sketch.safepoint("s").go("x", "y", "z")
    sketch.at("x").use("a").go()
    sketch.at("y").safepoint("t").use("b").go()
    sketch.at("z").safepoint("u")
    sketch.builder.unreachable()
    sketch.fill()
    assert sketch.live("s") == ["a", "b"]
    assert sketch.live("t") == ["b"]
    assert sketch.live("u") == []
    sketch.verify()


def dead_phi_loop() -> Sketch:
    """p and q feed each other and a phi behind the loop that nothing uses."""
    sketch = Sketch("a", "b", "c", blocks=["entry", "loop", "done"])
    sketch.go("loop")
    sketch.at("loop").phi("p").phi("q").safepoint("s").go("loop", "done")
    sketch.incoming("p", entry="a", loop="q").incoming("q", entry="b", loop="p")
    sketch.at("done").phi("r").incoming("r", loop="p").safepoint("t").use("c").go()
    return sketch


def test_dead_phi_cycles_are_removed_and_keep_nothing_alive() -> None:
    sketch = dead_phi_loop().fill()
    assert not [i for block in sketch.function.blocks for i in block.instructions if isinstance(i, ir.PhiInstr)]
    assert sketch.live("s") == ["c"]
    assert sketch.live("t") == ["c"]
    sketch.verify()


def test_a_single_use_keeps_the_whole_cycle() -> None:
    sketch = dead_phi_loop()
    sketch.builder.position_before(sketch.blocks["done"].instructions[1])
    sketch.use("r").fill()
    assert sketch.live("s") == ["c", "p", "q"]
    assert sketch.live("t") == ["c"]
    sketch.verify()


def test_phis_of_other_types_are_pruned_too() -> None:
    sketch = Sketch("a", blocks=["entry", "loop"])
    sketch.go("loop")
    sketch.at("loop")
    counter = sketch.builder.phi(ir.IntType(64))
    counter.add_incoming(ir.Constant(ir.IntType(64), 0), sketch.blocks["entry"])
    counter.add_incoming(counter, sketch.blocks["loop"])
    sketch.safepoint("s").go("loop")
    sketch.fill()
    assert counter not in sketch.blocks["loop"].instructions


def test_filling_twice_changes_nothing() -> None:
    """A bundle is no use: the lists of the first run must not keep values or phis alive in the second."""
    sketch = dead_phi_loop()
    references = list(sketch.values.values())
    fill_safepoints(sketch.function, references)
    first = str(sketch.function)
    remaining = [value for value in references if not isinstance(value, ir.PhiInstr)]
    fill_safepoints(sketch.function, remaining)
    assert str(sketch.function) == first


def test_unreachable_blocks_keep_nothing_alive() -> None:
    sketch = Sketch("a", "b", "c", blocks=["entry", "loop", "done", "island", "reef"])
    sketch.go("loop")
    sketch.at("loop").phi("p").safepoint("s").go("loop", "done")
    sketch.incoming("p", entry="a", loop="p")
    sketch.at("done").phi("z").incoming("z", loop="c", island="b").use("z").go()
    sketch.at("island").safepoint("t").use("p").go("done", "reef")
    sketch.at("reef").use("b").go("island")
    sketch.fill()
    assert sketch.values["p"] in sketch.blocks["loop"].instructions  # the island's use must stay valid text
    assert sketch.live("s") == ["c"]
    sketch.verify()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        ("no terminator", "block 'entry' of function 'f' has no terminator"),
        ("indirectbr", "ends in 'indirectbr'"),
        ("foreign", "neither an argument nor an instruction of function 'f'"),
        ("wide", "has type i64; references are i32"),
    ],
)
def test_refused(break_it: str, message: str) -> None:
    sketch = Sketch("a").safepoint("r")
    references = [sketch.values["a"]]
    match break_it:
        case "indirectbr":
            address = ir.Constant(ir.IntType(8).as_pointer(), None)
            sketch.builder.branch_indirect(address)
        case "foreign":
            sketch.go()
            references = [Sketch("x").values["x"]]
        case "wide":
            references = [sketch.builder.zext(sketch.values["a"], ir.IntType(64), "wide")]
            sketch.go()
    with pytest.raises(CompilerError, match=message):
        fill_safepoints(sketch.function, references)


# --- Liveness on random graphs ----------------------------------------------------------------------------------------


def naive_live_after(function: ir.Function, call: SafepointCall, value: ir.Value, needed: set[int]) -> bool:
    """Search all paths from behind `call` for a use of `value` before its definition, one instruction at a time.

    Positions are (block, index); phis use on the edge from their predecessor. `needed` holds the ids of the phis that
    instructions other than phis use in the end.
    """
    start = (call.parent, call.parent.instructions.index(call) + 1)
    pending = [start]
    seen = set()
    while pending:
        block, index = pending.pop()
        if (id(block), index) in seen:
            continue
        seen.add((id(block), index))
        instruction = block.instructions[index] if index < len(block.instructions) else None
        if instruction is None:
            continue
        if not isinstance(instruction, ir.PhiInstr) and any(operand is value for operand in instruction.operands):
            return True
        if instruction is value:
            continue
        if instruction is block.terminator:
            for successor in branch_targets(instruction):
                for phi in successor.instructions:
                    if isinstance(phi, ir.PhiInstr) and id(phi) in needed:
                        for incoming, source in phi.incomings:
                            if source is block and incoming is value:
                                return True
                pending.append((successor, 0))
        else:
            pending.append((block, index + 1))
    return False


def branch_targets(terminator: ir.Instruction) -> list[ir.Block]:
    if isinstance(terminator, ir.SwitchInstr):
        return [terminator.default, *(target for _, target in terminator.cases)]
    return [operand for operand in terminator.operands if isinstance(operand, ir.Block)]


def reached_blocks(function: ir.Function) -> set[int]:
    found: set[int] = set()

    def visit(block: ir.Block) -> None:
        if id(block) not in found:
            found.add(id(block))
            for target in branch_targets(block.terminator):
                visit(target)

    visit(function.blocks[0])
    return found


def naive_needed(function: ir.Function, reachable_only: bool) -> set[int]:
    """Phis needed: grow the set of used values from what is not a phi until nothing changes."""
    reached = reached_blocks(function)
    used: set[int] = set()
    for block in function.blocks:
        if id(block) in reached or not reachable_only:
            for instruction in block.instructions:
                if not isinstance(instruction, ir.PhiInstr):
                    used |= {id(operand) for operand in instruction.operands}
    phis = [i for block in function.blocks for i in block.instructions if isinstance(i, ir.PhiInstr)]
    while True:
        more = used | {id(value) for phi in phis if id(phi) in used for value, _ in phi.incomings}
        if more == used:
            return {id(phi) for phi in phis if id(phi) in used}
        used = more


@st.composite
def random_functions(draw: st.DrawFn) -> Sketch:
    """Any graph, any definitions, any uses: the data flow does not need definitions to dominate uses."""
    count = draw(st.integers(1, 7))
    names = [f"b{i}" for i in range(count)]
    sketch = Sketch("a", "b", blocks=names)
    plans = []
    for block in names:
        phis = draw(st.integers(0, 2)) if block != "b0" else 0
        steps = draw(st.lists(st.sampled_from(["make", "safepoint", "use"]), max_size=4))
        targets = draw(st.lists(st.sampled_from(names), max_size=3))
        plans.append((block, phis, steps, targets))
    # All values first, as places to be filled, so that any of them can be used anywhere.
    makers: list[tuple[Any, str]] = []
    for block, phis, steps, targets in plans:
        sketch.at(block)
        for number in range(phis):
            sketch.phi(f"{block}p{number}")
        for number, step in enumerate(steps):
            name = f"{block}v{number}"
            if step == "make":
                sketch.make(name, "a", "b")
                makers.append((sketch.values[name], "make"))
            elif step == "safepoint":
                sketch.safepoint(name, "a")
                makers.append((sketch.calls[name], "safepoint"))
            else:
                sketch.use("a")
                makers.append((sketch.builder.block.instructions[-1], "use"))
        sketch.go(*targets)
    values = list(sketch.values.values())
    pick = st.sampled_from(values)
    for instruction, kind in makers:
        if kind == "make":
            instruction.operands = [draw(pick), draw(pick)]
        else:
            instruction.operands = [instruction.operands[0], draw(pick)]
    for block, phis, _, _ in plans:
        predecessors = [source for source, _, _, targets in plans if block in targets]
        for number in range(phis):
            for source in predecessors:
                sketch.values[f"{block}p{number}"].add_incoming(draw(pick), sketch.blocks[source])
    return sketch


@settings(max_examples=examples(150, 400), deadline=None)
@given(random_functions(), st.data())
def test_random_graphs_against_path_search(sketch: Sketch, data: st.DataObject) -> None:
    references = [value for value in sketch.values.values() if data.draw(st.booleans())]
    needed = naive_needed(sketch.function, reachable_only=True)
    kept = naive_needed(sketch.function, reachable_only=False)
    order = {id(value): number for number, value in enumerate(sketch.function.args)}
    for block in sketch.function.blocks:
        for instruction in block.instructions:
            order[id(instruction)] = len(order)
    fill_safepoints(sketch.function, references)
    remaining = {id(i) for block in sketch.function.blocks for i in block.instructions if isinstance(i, ir.PhiInstr)}
    assert remaining == kept
    for call in sketch.calls.values():
        expected = [
            value
            for value in sorted(references, key=lambda value: order[id(value)])
            if value is not call and naive_live_after(sketch.function, call, value, needed)
        ]
        assert [value.name for value in call.live] == [value.name for value in expected]


@pytest.mark.parametrize("is_listed", [True, False])
def test_thousands_of_blocks_and_references(monkeypatch: pytest.MonkeyPatch, is_listed: bool) -> None:
    """A chain of loops, every reference live to the end: the worst shape for sets. Seconds would mean a square."""
    if is_listed:
        monkeypatch.setattr(safepoints, "MOST_LISTED", 1_000_000)
    count = 3000
    names = ["entry", *(f"b{i}" for i in range(count)), "done"]
    sketch = Sketch("a", blocks=names)
    sketch.go("b0")
    for i in range(count):
        sketch.at(f"b{i}").make(f"v{i}", "a")
        if i % 100 == 0:
            sketch.safepoint(f"s{i}")
        sketch.go(f"b{max(0, i - 50)}", f"b{i + 1}" if i + 1 < count else "done")
    sketch.at("done").use(*(f"v{i}" for i in range(count))).go()
    started = time.perf_counter()
    sketch.fill()
    assert time.perf_counter() - started < 5
    # v0 ... v100 are defined before s100, and the way back is from b150 at most, which defines nothing new before it.
    if is_listed:
        assert sketch.live("s100") == ["a", *(f"v{i}" for i in range(101))]
        assert len(sketch.live("s2900")) == 1 + 2901
        return
    for name, live in (("s100", 1 + 101), ("s2900", 1 + 2901)):
        assert sketch.live(name) == []
        slots = sketch.calls[name].slots
        assert slots is not None
        assert slots[1].bit_count() == live
    sketch.verify()


# --- Lowering ---------------------------------------------------------------------------------------------------------

PRELUDE = """
declare i32 @ext(i32)
declare void @nothing()
declare i32 @printf(ptr, ...)
declare ptr @pointer(ptr, i64)
declare i32 @extended(i8 signext)
declare zeroext i1 @flag()
declare void @memory(ptr byval(i64))
declare i32 @twice(i32) #7
declare { i32, i32 } @pair()
declare void @takes_pair({ i32, i32 })
declare i128 @wide()
declare i32 @"needs quotes"(i32)
declare i32 @personality(...)
attributes #3 = { nounwind willreturn memory(read) "probe"="x" }
attributes #7 = { returns_twice }
"""


def wrap(*lines: str) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"{PRELUDE}\ndefine void @f(i32 %a, i32 %b, ptr %p, i8 %c, i1 %t) {{\n{body}\n  ret void\n}}\n"


def lower(*lines: str) -> safepoints.StatepointModule:
    text = wrap(*lines)
    binding.parse_assembly(text).verify()
    lowered = lower_statepoints(text)
    binding.parse_assembly(lowered.text).verify()
    return lowered


def statepoint_lines(module: safepoints.StatepointModule) -> list[str]:
    return [line.strip() for line in module.text.splitlines() if re.search(r"= call .*@llvm.experimental.gc", line)]


def test_the_text_of_a_statepoint() -> None:
    module = lower(
        '%x = tail call noundef range(i32 0, 9) i32 @ext(i32 noundef %a) #3 [ "deopt"(i32 %b, i32 7, i32 undef) ]',
        'call void @nothing() [ "deopt"() ]',
    )
    assert statepoint_lines(module) == [
        "%lowheap.statepoint.0 = call token (i64, i32, ptr, i32, i32, ...) @llvm.experimental.gc.statepoint.p0"
        "(i64 0, i32 0, ptr elementtype(i32 (i32)) @ext, i32 1, i32 0, i32 %a, i32 0, i32 0) "
        '[ "deopt"(ptr %lowheap.statepoint.frame, i64 1) ]',
        "%x = call i32 @llvm.experimental.gc.result.i32(token %lowheap.statepoint.0)",
        "%lowheap.statepoint.1 = call token (i64, i32, ptr, i32, i32, ...) @llvm.experimental.gc.statepoint.p0"
        "(i64 1, i32 0, ptr elementtype(void ()) @nothing, i32 0, i32 0, i32 0, i32 0) "
        '[ "deopt"() ]',
    ]
    assert module.functions == ("f",)
    assert module.statepoints == (Statepoint(0, "f", "ext", 1), Statepoint(1, "f", "nothing", 0))
    assert "@lowheap.functions = constant [1 x ptr] [ptr @f]" in module.text
    assert 'define void @f(i32 %a, i32 %b, ptr %p, i8 %c, i1 %t) gc "statepoint-example" {' in module.text


def test_a_tail_call_stays_one() -> None:
    """It is no safepoint: only the function that has another one is collected."""
    head = "define i32 @f(i32 %a) {"
    call = "%x = musttail call i32 @ext(i32 %a)"
    text = f'{PRELUDE}\n{head}\n  {call} [ "deopt"() ]\n  ret i32 %x\n}}\n'
    lowered = lower_statepoints(text)
    binding.parse_assembly(lowered.text).verify()
    assert lowered.text == text.replace(' [ "deopt"() ]', "")
    assert not lowered.statepoints
    other = 'call void @nothing() [ "deopt"(i32 %a) ]'
    lowered = lower_statepoints(text.replace(head, f"{head}\n  {other}"))
    binding.parse_assembly(lowered.text).verify()
    assert f"  {call}\n  ret i32 %x" in lowered.text
    assert [each.callee for each in lowered.statepoints] == ["nothing"]


@pytest.mark.parametrize(
    ("before", "attributes"),
    [
        ("", ""),
        ("", " #3"),
        (" unnamed_addr", ""),
        (" local_unnamed_addr addrspace(0)", ' #3 section "probe" align 16'),
    ],
)
def test_functions_with_statepoints_are_described_on_request(before: str, attributes: str) -> None:
    text = wrap('call void @nothing() [ "deopt"() ]').replace(") {", f"){before}{attributes} {{")
    text += "define void @without() {\n  ret void\n}\n"
    lowered = lower_statepoints(text, with_call_frames=True).text
    binding.parse_assembly(lowered).verify()
    (line,) = (line for line in lowered.splitlines() if "uwtable" in line)
    assert line.startswith("define void @f(")
    assert f'%t){before} uwtable(sync){attributes} gc "statepoint-example" {{' in line
    assert "uwtable" not in lower_statepoints(text).text


UNDERSTOOD = [
    '%x = call i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    '%x = notail call i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    '%x = tail call fastcc noundef i32 @ext(i32 noundef %a) #3 [ "deopt"(i32 %b) ]',
    '%x = call coldcc i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    '%x = call i32 @ext(i32 range(i32 -5, 7) %a) nounwind memory(none) "probe"="(" [ "deopt"(i32 %b) ]',
    '%x = call i32 @"needs quotes"(i32 -7) [ "deopt"(i32 %b) ]',
    '%"a \\22quoted\\22 (" = call i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    '%1 = call i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    '%x = call i32 %p(i32 %a, double 1.5, float 0x7FF0000000000000, i64 -3) [ "deopt"(i32 %b) ]',
    'call void inttoptr (i64 4096 to ptr)(i32 %a) [ "deopt"(i32 %b) ]',
    'call void %p(ptr getelementptr (i8, ptr @ext, i64 8), i32 %a) [ "deopt"(i32 %b) ]',
    'call void %p(ptr getelementptr inbounds nuw (i8, ptr @"needs quotes", i64 8)) [ "deopt"(i32 %b) ]',
    'call void %p(i32 ptrtoint (ptr @ext to i32), i1 true, ptr null, i64 undef) [ "deopt"(i32 %b) ]',
    'call void %p(<4 x i32> <i32 1, i32 2, i32 3, i32 4>, <2 x i64> splat (i64 3)) [ "deopt"(i32 %b) ]',
    'call void %p(<4 x i32> zeroinitializer, <2 x ptr> poison) [ "deopt"(i32 %b) ]',
    'call void %p(i32 sub (i32 0, i32 ptrtoint (ptr @ext to i32))) [ "deopt"(i32 %b) ]',
    'call void %p(i32 %a) [ "deopt"(i32 0, i32 %b, i32 -1, i32 7, i32 undef, i32 poison, i32 %b) ]',
    "%x = call nonnull align 16 dereferenceable(8) ptr @pointer(ptr nonnull align 8 captures(none) %p, i64 1) "
    '[ "deopt"(i32 %b) ]',
    '%x = call nnan ninf double %p(double 0.0) [ "deopt"(i32 %b) ]',
    '%x = call <4 x float> %p() [ "deopt"(i32 %b) ]',
    '%x = call i8 %p(i8 %c, i1 %t) [ "deopt"(i32 %b) ]',
    'call void @nothing() [ "deopt"(i32 %a, i32 %b, i32 %a) ]',
]


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_understood_lines(line: str) -> None:
    """The result must verify, have a slot for each name in the bundle, and keep the result's name and type."""
    module = lower(line)
    (point,) = module.statepoints
    bundle = line[line.index('[ "deopt"') : line.rindex("]") + 1]
    listed = set(re.findall(r"i32 (%\w+)", bundle))
    lines = statepoint_lines(module)
    assert f'[ "deopt"(ptr %lowheap.statepoint.frame, i64 {2 ** len(listed) - 1}) ]' in lines[0]
    assert point.live_count == len(listed)
    assert set(re.findall(r"store i32 (%\w+), ptr %lowheap", module.text)) == listed
    if " = " in line:
        name, _, _ = line.partition(" = ")
        assert lines[1].startswith(f"{name} = call ")
    for convention in ("fastcc", "coldcc"):
        assert (convention in line) == (f"call {convention} token" in lines[0])
    assert "tail" not in lines[0]


REFUSED = {
    "musttail": 'musttail call void @nothing() [ "deopt"(i32 %b) ]',
    "invoke": '%x = invoke i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    "callbr": 'callbr void asm "", ""() [ "deopt"(i32 %b) ] to label %l []',
    "attribute 'signext'": 'call void %p(i8 signext %c) [ "deopt"(i32 %b) ]',
    "attribute 'zeroext'": '%x = call zeroext i1 %p() [ "deopt"(i32 %b) ]',
    "attribute 'byval'": 'call void %p(ptr byval(i64) %p) [ "deopt"(i32 %b) ]',
    "attribute 'sret'": 'call void %p(ptr sret(i64) %p) [ "deopt"(i32 %b) ]',
    "attribute 'inreg'": 'call void %p(i32 inreg %a) [ "deopt"(i32 %b) ]',
    "attribute 'swiftself'": 'call void %p(ptr swiftself %p) [ "deopt"(i32 %b) ]',
    "attribute 'nest'": 'call void %p(ptr nest %p) [ "deopt"(i32 %b) ]',
    "attribute 'inalloca'": 'call void %p(ptr inalloca(i64) %p) [ "deopt"(i32 %b) ]',
    "attribute 'noext'": 'call void %p(i8 noext %c) [ "deopt"(i32 %b) ]',
    "attribute 'somethingnew'": 'call void %p(i8 somethingnew %c) [ "deopt"(i32 %b) ]',
    "signature: attribute 'signext'": '%x = call i32 @extended(i8 %c) [ "deopt"(i32 %b) ]',
    "signature: attribute 'zeroext'": '%x = call i1 @flag() [ "deopt"(i32 %b) ]',
    "signature: attribute 'byval'": 'call void @memory(ptr %p) [ "deopt"(i32 %b) ]',
    "function attribute returns_twice": '%x = call i32 @twice(i32 %a) [ "deopt"(i32 %b) ]',
    "attribute returns_twice": '%x = call i32 @ext(i32 %a) #7 [ "deopt"(i32 %b) ]',
    "neither a scalar nor a vector type: '{": '%x = call { i32, i32 } @pair() [ "deopt"(i32 %b) ]',
    "neither a scalar nor a vector type: '{ i32": 'call void @takes_pair({ i32, i32 } undef) [ "deopt"(i32 %b) ]',
    "neither a scalar nor a vector type: '%": 'call void %p(%named undef) [ "deopt"(i32 %b) ]',
    "neither a scalar nor a vector type: 'ptr addrspace": 'call void %p(ptr addrspace(1) null) [ "deopt"(i32 %b) ]',
    "neither a scalar nor a vector type: '<vscale": 'call void %p(<vscale x 4 x i32> undef) [ "deopt"(i32 %b) ]',
    "neither a scalar nor a vector type: 'metadata": 'call void %p(metadata !0) [ "deopt"(i32 %b) ]',
    "i128 has 128 bits": '%x = call i128 @wide() [ "deopt"(i32 %b) ]',
    "<8 x i32> has 256 bits": 'call void %p(<8 x i32> undef) [ "deopt"(i32 %b) ]',
    "operand expected before '(ptr, ...)": '%x = call i32 (ptr, ...) @printf(ptr %p, i32 1) [ "deopt"(i32 %b) ]',
    "attribute 'tailcc'": '%x = call tailcc i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    "attribute 'cc'": '%x = call cc 10 i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    "attribute 'preserve_allcc'": '%x = call preserve_allcc i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    "attribute 'addrspace'": '%x = call addrspace(1) i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    "intrinsic": 'call void @llvm.trap() [ "deopt"(i32 %b) ]',
    "operand expected before 'asm": 'call void asm sideeffect "", ""() [ "deopt"(i32 %b) ]',
    "constant reference ptrtoint (ptr @ext to i32)": 'call void @nothing() [ "deopt"(i32 ptrtoint (ptr @ext to i32)) ]',
    "constant reference 4096": 'call void @nothing() [ "deopt"(i32 %b, i32 4096) ]',
    "constant reference -2": 'call void @nothing() [ "deopt"(i32 -2, i32 %b) ]',
    "expected 'i32 '": 'call void @nothing() [ "deopt"(i64 7) ]',
    "expected 'i32 ' before 'ptr": 'call void @nothing() [ "deopt"(ptr %p) ]',
    "operand expected before 'noundef": 'call void @nothing() [ "deopt"(i32 noundef %b) ]',
    "expected ']'": 'call void @nothing() [ "deopt"(i32 %b), "gc-live"(ptr %p) ]',
    "expected '\"deopt\"'": 'call void @nothing() [ "gc-live"(ptr %p), "deopt"(i32 %b) ]',
    "expected ',' before": 'call void @nothing() [ "deopt"(i32 %a i32 %b) ]',
    "metadata expected": 'call void @nothing() [ "deopt"(i32 %b) ], align 8',
    "unexpected": 'call void @nothing() [ "deopt"(i32 %b) ] ; a remark',
    "unbalanced": 'call void %p(i32 ptrtoint (ptr @ext to i32 [ "deopt"(i32 %b) ]',
    "exactly when its type is not void": 'call i32 @ext(i32 %a) [ "deopt"(i32 %b) ]',
    "result must be assigned": '%x = call void @nothing() [ "deopt"(i32 %b) ]',
    "only plain calls": '[ "deopt"(i32 %b) ]',
    "only plain calls can become statepoints, this is": '"deopt"(',
}


@pytest.mark.parametrize(("message", "line"), REFUSED.items())
def test_lines_that_are_not_understood_are_refused_and_quoted(message: str, line: str) -> None:
    with pytest.raises(CompilerError, match=re.escape(message)) as caught:
        lower_statepoints(wrap(line))
    assert str(caught.value).endswith(f"  {line}")
    assert "function 'f'" in str(caught.value)


def test_what_only_looks_like_a_bundle_is_left_alone() -> None:
    text = """; a remark: "deopt"(i32 1)
@deopt = constant [6 x i8] c"deopt\\22"
@"deopt" = external global i32
define void @f() "deopt"="yes" {
  call void @"deopt"()
  ret void
}
!x = !{!"deopt"}
"""
    lowered = lower_statepoints(text)
    assert lowered.text == text
    assert lowered.statepoints == ()
    assert lowered.functions == ()
    module = binding.parse_assembly(lower_statepoints('define void @f() "deopt"="yes" {\n  ret void\n}\n').text)
    module.verify()


@pytest.mark.parametrize(
    "line",
    [
        '@g = global ptr null [ "deopt"(i32 1) ]',
        'declare void @f() [ "deopt"(i32 1) ]',
        'define void @f() [ "deopt"(i32 1) ] {',
    ],
)
def test_a_bundle_outside_a_body_is_refused(line: str) -> None:
    with pytest.raises(CompilerError, match=re.escape(line)):
        lower_statepoints(line + "\n")


def test_ids_are_unique_across_functions_and_functions_stand_in_module_order() -> None:
    text = """
declare void @nothing()
define internal fastcc void @b() {
  call void @nothing() [ "deopt"() ]
  ret void
}
define void @no() {
  call void @nothing()
  ret void
}
define void @"a b"() {
  call fastcc void @b() [ "deopt"(i32 0) ]
  call void @nothing() [ "deopt"() ]
  ret void
}
"""
    lowered = lower_statepoints(text)
    binding.parse_assembly(lowered.text).verify()
    assert lowered.functions == ("b", "a b")
    assert '@lowheap.functions = constant [2 x ptr] [ptr @b, ptr @"a b"]' in lowered.text
    assert lowered.statepoints == (
        Statepoint(0, "b", "nothing", 0),
        Statepoint(1, "a b", "b", 0),
        Statepoint(2, "a b", "nothing", 0),
    )
    assert lowered.text.count('gc "statepoint-example"') == 2


def test_every_clause_of_a_function_head_keeps_its_place() -> None:
    text = """
$group = comdat any
@data = global i32 5
declare void @nothing()
declare i32 @personality(...)
define dso_local noundef <4 x i32> @f(<4 x i32> noundef %v, ptr nonnull captures(none) %"odd )name") \
local_unnamed_addr #0 section "sec {tion" partition "part" comdat($group) align 32 prefix i32 7 prologue i8 1 \
personality ptr @personality !note !0 {
  call void @nothing() [ "deopt"() ]
  ret <4 x i32> %v
}
attributes #0 = { nounwind }
!0 = !{}
"""
    binding.parse_assembly(text).verify()
    lowered = lower_statepoints(text)
    assert ' align 32 gc "statepoint-example" prefix i32 7' in lowered.text
    assert 'gc "statepoint-example"' in str(binding.parse_assembly(lowered.text))
    binding.parse_assembly(lowered.text).verify()


def test_debug_locations_are_kept_and_other_metadata_dropped() -> None:
    text = """
declare i32 @ext(i32)
define void @f() !dbg !3 {
  %x = call i32 @ext(i32 1) [ "deopt"() ], !prof !6, !dbg !5
  ret void
}
!llvm.dbg.cu = !{!0}
!llvm.module.flags = !{!2}
!0 = distinct !DICompileUnit(language: DW_LANG_C, file: !1, emissionKind: FullDebug)
!1 = !DIFile(filename: "f", directory: "d")
!2 = !{i32 2, !"Debug Info Version", i32 3}
!3 = distinct !DISubprogram(name: "f", file: !1, line: 1, type: !4, unit: !0, spFlags: DISPFlagDefinition)
!4 = !DISubroutineType(types: !7)
!5 = !DILocation(line: 1, scope: !3)
!6 = !{!"branch_weights", i32 5}
!7 = !{null}
"""
    binding.parse_assembly(text).verify()
    lowered = lower_statepoints(text)
    lines = statepoint_lines(lowered)
    assert all(line.endswith(", !dbg !5") for line in lines)
    assert "!prof" not in "".join(lines)
    binding.parse_assembly(lowered.text).verify()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('define void @f() gc "other" {\n  call void %p() [ "deopt"() ]\n}\n', "strategy already"),
        ('define weak void @f() {\n  call void %p() [ "deopt"() ]\n}\n', "linkage weak"),
        ('define linkonce_odr void @f() {\n  call void %p() [ "deopt"() ]\n}\n', "linkage linkonce_odr"),
        ('define available_externally void @f() {\n  call void %p() [ "deopt"() ]\n}\n', "available_externally"),
        ('define void @f()\n{\n  call void %p() [ "deopt"() ]\n}\n', "body must open at the end of the line"),
        ("define void nothing {\n}\n", "cannot read a function's head"),
        ("@lowheap.functions = constant i32 0\n", "lowheap.functions"),
        ("declare token @llvm.experimental.gc.statepoint.p0()\n", "lowered once"),
        ("define void @f() {\n  %lowheap.statepoint.9 = add i32 1, 2\n}\n", "lowered once"),
    ],
)
def test_modules_that_cannot_be_lowered(text: str, message: str) -> None:
    with pytest.raises(CompilerError, match=message):
        lower_statepoints(text)


def test_lowering_twice_is_refused() -> None:
    with pytest.raises(CompilerError, match="lowered once"):
        lower_statepoints(lower(UNDERSTOOD[0]).text)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@settings(max_examples=examples(40, 100), deadline=None)
@given(st.lists(NAMES, min_size=3, max_size=3, unique=True))
def test_any_name_survives(names: list[str]) -> None:
    """Whatever a front end calls its functions and values, in LLVM's own printing and back."""
    function, callee, value = names
    module = ir.Module()
    target = ir.Function(module, ir.FunctionType(I32, [I32]), f"x{callee}")
    compiled = ir.Function(module, ir.FunctionType(I32, [I32]), f"y{function}")
    compiled.args[0].name = value
    builder = ir.IRBuilder(compiled.append_basic_block())
    result = safepoints.call(builder, target, [compiled.args[0]], f"r{value}")
    builder.ret(builder.add(result, compiled.args[0]))
    fill_safepoints(compiled, [compiled.args[0], result])
    printed = str(binding.parse_assembly(str(module)))
    lowered = lower_statepoints(printed)
    parsed = binding.parse_assembly(lowered.text)
    parsed.verify()
    (point,) = lowered.statepoints
    assert {point.function, point.callee} <= {each.name for each in parsed.functions}
    assert point.live_count == 1


@settings(max_examples=examples(150, 300), deadline=None)
@given(st.sampled_from(UNDERSTOOD), st.data())
def test_damaged_lines_are_refused_or_verified(line: str, data: st.DataObject) -> None:
    """Cut and splice understood lines. What LLVM accepts must come out valid, with a statepoint for each bundle, or be
    refused; what LLVM rejects may come out as anything, since LLVM will reject it again.
    """
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 6)))
    splice = data.draw(st.sampled_from(["", " ", "(", ")", '"', "[", "]", ",", "i32 ", "%a", "c", "0", "\\"]))
    text = wrap(line[:start] + splice + line[end:])
    try:
        lowered = lower_statepoints(text)
    except CompilerError:
        return
    try:
        original = binding.parse_assembly(text)
        original.verify()
        printed = str(original)
    except (RuntimeError, UnicodeDecodeError):  # llvmlite cannot decode every message and module of LLVM
        return
    assert len(lowered.statepoints) == printed.count('[ "deopt"(')
    binding.parse_assembly(lowered.text).verify()


def test_a_large_module_is_lowered_in_linear_time() -> None:
    calls = "\n".join(f'  %v{i} = call i32 @ext(i32 %a) [ "deopt"(i32 %a) ]' for i in range(5000))
    text = f"declare i32 @ext(i32)\ndefine void @f(i32 %a) {{\n{calls}\n  ret void\n}}\n"
    started = time.perf_counter()
    lowered = lower_statepoints(text)
    assert time.perf_counter() - started < 3
    assert len(lowered.statepoints) == 5000


# --- Invokes ----------------------------------------------------------------------------------------------------------

INVOKES = """
declare i32 @ext(i32)
declare void @nothing()
declare i32 @personality(...)

define i32 @f(i32, i32 %b, i1 %flag) personality ptr @personality {
  br i1 %flag, label %second, label %first

first:
  %r = invoke i32 @ext(i32 %0) [ "deopt"(i33 9, i32 %b) ]
          to label %join unwind label %pad

second:
  invoke void @nothing() [ "deopt"(i32 %0, i32 %b) ]
          to label %join unwind label %pad

join:
  %v = phi i32 [ %r, %first ], [ %0, %second ]
  %w = phi i32 [ 1, %first ], [ %b, %second ]
  %again = invoke i32 @ext(i32 %w) [ "deopt"(i32 %v) ]
          to label %done unwind label %pad

done:
  call void @nothing() [ "deopt"(i32 %again) ]
  ret i32 %v

pad:
  %x = phi i32 [ %b, %first ], [ 3, %second ], [ %v, %join ]
  %l = landingpad token
          catch ptr null
  call void @nothing() [ "deopt"(i32 %x) ]
  ret i32 %x
}

define i32 @from_the_entry(i32 %a) personality ptr @personality {
  %1 = invoke i32 @ext(i32 %a) [ "deopt"(i32 %a) ]
          to label %join unwind label %pad

join:
  %v = phi i32 [ 7, %0 ], [ %v, %join ]
  br label %join

pad:
  %l = landingpad token
          cleanup
          catch ptr null
  ret i32 %a
}
"""


def test_invokes_become_statepoints_with_two_ways_on() -> None:
    printed = str(binding.parse_assembly(INVOKES))
    lowered = lower_statepoints(printed)
    parsed = binding.parse_assembly(lowered.text)
    parsed.verify()
    lines = [line.strip() for line in lowered.text.splitlines()]
    points = [line for line in lines if " token (i64, i32, ptr, i32, i32, ...) " in line]
    assert [" = invoke token " in line for line in points] == [True, True, True, False, False, True]
    assert lowered.statepoints[0].places == (9,)
    # Of what has a result, the result is had ahead of the normal way on, whose phis name that block.
    place = lines.index("lowheap.statepoint.0.normal:")
    assert lines[place + 1] == "%r = call i32 @llvm.experimental.gc.result.i32(token %lowheap.statepoint.0)"
    assert lines[place + 2] == "br label %join"
    assert "%v = phi i32 [ %r, %lowheap.statepoint.0.normal ], [ %0, %second ]" in lines
    assert "%w = phi i32 [ 1, %lowheap.statepoint.0.normal ], [ %b, %second ]" in lines
    assert "%x = phi i32 [ %b, %first ], [ 3, %second ], [ %v, %join ]" in lines  # thrown, there is none
    # A result that is a reference is stored there, too, and a handler's phi behind the landing pad.
    place = lines.index("lowheap.statepoint.2.normal:")
    assert lines[place + 2].startswith("store i32 %again, ptr ") or "getelementptr" in lines[place + 2]
    place = next(number for number, line in enumerate(lines) if line.startswith("%l = landingpad"))
    assert lines[place - 1].startswith("%x = phi")
    # An entry block without a name has a number all the same.
    assert "%v = phi i32 [ 7, %lowheap.statepoint.5.normal ], [ %v, %join ]" in lines
    assert {point.id: point.live_count for point in lowered.statepoints} == {0: 1, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
