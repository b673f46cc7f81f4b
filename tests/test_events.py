"""Functions for events: one for each key, inlined or called by the rule, with the same results and the same roots.

The rule is about sites in the finished module, so most tests read how the calls are marked in the IR before LLVM sees
it; what comes of it is read in the machine code's symbols, and by running it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

import lowheap as lh
from lowheap.cli.asm import _compile_marked
from lowheap.collectors import registry
from lowheap.collectors.drc import Drc, Outlined
from lowheap.collectors.interface import Collector, Shape
from lowheap.collectors.null import Null
from lowheap.errors import TrapCode
from lowheap.jit.barriers import Barriers
from lowheap.native import Heap, Ref, Slot, native, state, u64
from lowheap.wasm.compile import ModuleCompiler
from lowheap.wasm.events import MOST_INLINED, SMALL_BODY
from lowheap.wasm.inlining import SMALL

INLINE = ("always", "never")

TYPES = """
  (type $node (struct (field $next (mut (ref null $node))) (field $value (mut i32))))
  (type $base (sub (struct)))
  (type $derived (sub $base (struct (field i32))))
  (type $nodes (array (mut (ref null $node))))
  (type $bytes (array (mut i8)))
"""


def emitted(source: str, *, inline: str = "auto", barrier_set: str = "drc") -> str:
    """A module's IR before optimisation."""
    module = lh.Module(lh.Engine(barriers=barrier_set), source)
    compiler = ModuleCompiler(
        module.outline,
        module.call_graph,
        Barriers(registry.find(barrier_set)),
        inline_allocation=True,
        inline=inline,
    )
    return str(compiler.compile()[0])


def calls(text: str, function: str, event: str) -> Counter[str]:
    """How often a function's calls of an event are marked in which way."""
    body = re.search(rf'^define [^\n]*"{re.escape(function)}".*?^}}', text, re.MULTILINE | re.DOTALL)
    assert body is not None
    lines = re.findall(rf'call [^\n]*@"lowheap\.{event}\.[^"]*"\([^\n)]*\) ?(\w*)', body[0])
    return Counter(lines)


def defined(text: str) -> list[str]:
    """The names of the events' functions, in order."""
    names = re.findall(r'^define internal [^@\n]*@"lowheap\.([^"]+)"', text, re.MULTILINE)
    return [
        name for name in names if not name.startswith(("stack_check", "trap", "drop", "allocate_", "enter", "host"))
    ]


def news(count: int, *, loop: int = 0) -> str:
    """A module with a function of so many `struct.new`, `loop` of which are in a loop that runs once."""
    new = "(global.set $g (struct.new $node (global.get $g) (i32.const 1)))"
    return f"""(module {TYPES} (global $g (mut (ref null $node)) (ref.null $node))
      (func $f (export "f") (result i32)
        {new * count}
        (loop {new * loop})
        (struct.get $node $value (global.get $g))))"""


# ----------------------------------------------------------------------------------------------------------------------
# One function for each key


def test_a_function_is_made_once_for_each_key() -> None:
    text = emitted(f"""(module {TYPES}
      (func (param $a (ref null $node)) (param $b (ref $node)) (param $i i32)
        (drop (struct.get $node $next (local.get $a)))
        (drop (struct.get $node $next (local.get $a)))
        (drop (struct.get $node $next (local.get $b)))
        (drop (struct.get $node $value (local.get $b))))
      (func (param $a (ref null $node)) (drop (struct.get $node $next (local.get $a)))))""")
    assert defined(text) == ["struct_get.0.0.true.false", "struct_get.0.0.false.false", "struct_get.0.1.false.false"]


def test_packed_reads_depend_on_the_sign() -> None:
    text = emitted(f"""(module {TYPES} (func (param $a (ref $bytes))
        (drop (array.get_s $bytes (local.get $a) (i32.const 0)))
        (drop (array.get_u $bytes (local.get $a) (i32.const 0)))))""")
    assert [each.partition(".")[0] for each in defined(text)] == ["array_len", "array_get", "array_get"]


def test_globals_share_their_functions_but_imports_have_their_own() -> None:
    text = emitted(f"""(module {TYPES}
      (import "a" "g" (global $imported (mut (ref null $node))))
      (global $a (mut (ref null $node)) (ref.null $node)) (global $b (mut (ref null $node)) (ref.null $node))
      (func (global.set $a (global.get $b)) (global.set $b (global.get $imported))))""")
    gets = [name for name in defined(text) if name.startswith("global_get")]
    assert len(gets) == 2
    assert sum(name.endswith("imported_global") for name in gets) == 1
    assert sum(name.startswith("global_set") for name in defined(text)) == 1


def test_a_site_is_one_line() -> None:
    one, many = (len(emitted(news(count)).splitlines()) for count in (10, 110))
    assert many - one <= 100 * 8  # the global's two accesses and addresses, and the call


def test_no_function_is_left_where_all_is_inlined() -> None:
    compiled = lh.Module(lh.Engine(inline="always"), news(3)).compiled.llvm_ir
    assert "@lowheap.struct_new" not in compiled
    assert "@lowheap.struct_new.0" in lh.Module(lh.Engine(inline="never"), news(3)).compiled.llvm_ir


# ----------------------------------------------------------------------------------------------------------------------
# The rule


def test_a_function_with_few_sites_inlines_them() -> None:
    sites = MOST_INLINED // 3  # each of these has three
    assert calls(emitted(news(sites - 1)), "wasm.0.f", "struct_new") == {"alwaysinline": sites - 1}


def test_a_function_with_many_sites_calls() -> None:
    assert calls(emitted(news(MOST_INLINED)), "wasm.0.f", "struct_new") == {"noinline": MOST_INLINED}


def test_loops_of_a_function_with_many_sites_inline() -> None:
    text = emitted(news(MOST_INLINED, loop=7))
    assert calls(text, "wasm.0.f", "struct_new") == {"noinline": MOST_INLINED, "alwaysinline": 7}
    text = emitted(news(1, loop=MOST_INLINED))
    assert calls(text, "wasm.0.f", "struct_new") == {"noinline": MOST_INLINED + 1}


def test_one_function_does_not_decide_for_another() -> None:
    new = "(drop (struct.new $node (ref.null $node) (i32.const 1)))"
    text = emitted(f"(module {TYPES} (func $few {new}) (func $many {new * (MOST_INLINED + 1)}) (func $last {new}))")
    assert calls(text, "wasm.0.few", "struct_new") == {"alwaysinline": 1}
    assert calls(text, "wasm.1.many", "struct_new") == {"noinline": MOST_INLINED + 1}
    assert calls(text, "wasm.2.last", "struct_new") == {"alwaysinline": 1}


def test_the_initialiser_calls() -> None:
    text = emitted(f"(module {TYPES} (global (ref $node) (struct.new $node (ref.null $node) (i32.const 1))))")
    assert calls(text, "lowheap.initialise", "struct_new") == {"noinline": 1}


def test_what_is_tiny_is_inlined_whatever_is_said() -> None:
    source = f"""(module {TYPES} (func $f (param $n (ref null $node)) (result i32)
        {"(drop (struct.get $node $value (local.get $n)))" * (2 * MOST_INLINED)}
        (struct.get $node $value (local.get $n))))"""
    for inline in ("auto", *INLINE):
        assert calls(emitted(source, inline=inline), "wasm.0.f", "struct_get") == {"alwaysinline": 2 * MOST_INLINED + 1}
    assert SMALL_BODY < 40


@pytest.mark.parametrize(("inline", "mark"), [("always", "alwaysinline"), ("never", "noinline")])
def test_an_engine_may_be_told(inline: str, mark: str) -> None:
    for count in (1, MOST_INLINED + 1):
        assert calls(emitted(news(count), inline=inline), "wasm.0.f", "struct_new") == {mark: count}


def test_outlined_barriers_are_called_unless_the_engine_says_otherwise() -> None:
    assert calls(emitted(news(1), barrier_set="outlined"), "wasm.0.f", "struct_new") == {"noinline": 1}
    text = emitted(news(1), barrier_set="outlined", inline="always")
    assert calls(text, "wasm.0.f", "struct_new") == {"alwaysinline": 1}


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no inline 'sometimes'; there are auto, always, never"):
        lh.Engine(inline="sometimes")


# ----------------------------------------------------------------------------------------------------------------------
# What comes of it


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("opt_level", [0, 2])
@pytest.mark.parametrize("inline", INLINE)
def test_every_event_gives_the_same(inline: str, opt_level: int, runtime: str) -> None:
    source = f"""(module {TYPES}
      (global $g (mut (ref null $node)) (struct.new $node (ref.null $node) (i32.const 3)))
      (func (export "f") (param $x i32) (result i32)
        (local $n (ref null $node)) (local $a (ref null $nodes)) (local $b (ref null $bytes))
        (local $o (ref null $base))
        (local.set $n (struct.new $node (global.get $g) (local.get $x)))
        (global.set $g (struct.new_default $node))
        (struct.set $node $next (global.get $g) (local.get $n))
        (local.set $a (array.new $nodes (local.get $n) (i32.const 5)))
        (array.set $nodes (local.get $a) (i32.const 2) (struct.new $node (local.get $n) (i32.const 40)))
        (array.fill $nodes (local.get $a) (i32.const 3) (ref.null $node) (i32.const 2))
        (array.copy $nodes $nodes (local.get $a) (i32.const 1) (local.get $a) (i32.const 2) (i32.const 2))
        (local.set $b (array.new_fixed $bytes 3 (i32.const 1) (i32.const -2) (local.get $x)))
        (local.set $o (struct.new $derived (i32.const 7)))
        (if (ref.test (ref $derived) (local.get $o)) (then (local.set $x (i32.add (local.get $x) (i32.const 1000)))))
        (drop (ref.cast (ref $derived) (local.get $o)))
        (i32.add
          (i32.add
            (struct.get $node $value (array.get $nodes (local.get $a) (i32.const 1)))
            (struct.get $node $value (struct.get $node $next (struct.get $node $next (global.get $g)))))
          (i32.add
            (i32.mul (array.get_u $bytes (local.get $b) (i32.const 1)) (array.len (local.get $a)))
            (i32.add (local.get $x) (array.get_s $bytes (local.get $b) (i32.const 1)))))))"""
    with lh.Store(lh.Engine(inline=inline, opt_level=opt_level, runtime=runtime), collect_every=1) as store:
        exports = lh.Instance(store, lh.Module(store.engine, source)).exports
        assert exports["f"](5) == 40 + 3 + 254 * 5 + 1005 - 2
        store.verify()


def test_a_buffer_in_the_frame_is_reserved_once_for_all_rounds_of_a_loop() -> None:
    """The calls of events are inlined into the block that the frame is reserved in."""
    source = f"""(module (func $two (param i32) (result i32 i32) {"(nop)" * SMALL} (local.get 0) (local.get 0))
      (func (export "f") (param $n i32) (result i32)
        (loop $again
          (call $two (local.get $n)) (drop) (drop)
          (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (local.get $n)))"""
    text = emitted(source)
    body = re.search(r'"wasm\.1".*?^}', text, re.MULTILINE | re.DOTALL)
    assert body is not None
    assert body[0].index(" alloca ") < body[0].index(" call ")
    for opt_level in (0, 2):
        with lh.Store(lh.Engine(opt_level=opt_level)) as store:
            assert lh.Instance(store, lh.Module(store.engine, source)).exports["f"](1_000_000) == 0


TRAPS = {
    "struct.get": ("(drop (struct.get $node $next (ref.null $node)))", TrapCode.NULL_REFERENCE),
    "struct.set": ("(struct.set $node $next (ref.null $node) (ref.null $node))", TrapCode.NULL_REFERENCE),
    "array.get": (
        "(drop (array.get $nodes (array.new_default $nodes (i32.const 1)) (i32.const 1)))",
        TrapCode.ARRAY_OUT_OF_BOUNDS,
    ),
    "array.new": ("(drop (array.new_default $nodes (i32.const -1)))", TrapCode.ALLOCATION_TOO_LARGE),
    "cast": ("(drop (ref.cast (ref $derived) (struct.new $base)))", TrapCode.CAST_FAILURE),
}


@pytest.mark.parametrize("inline", INLINE)
@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_in_an_event_tells_the_instruction(case: str, inline: str) -> None:
    """The event's function is the same for both, so that where it is comes from the site."""
    text, code = TRAPS[case]
    source = f"""(module {TYPES}
      (func $first (export "first") {text}) (func $second (export "second") (nop) {text}))"""
    with lh.Store(lh.Engine(inline=inline)) as store:
        module = lh.Module(store.engine, source)
        exports = lh.Instance(store, module).exports
        offsets = []
        for name in ("first", "second"):
            with pytest.raises(lh.Trap) as caught:
                exports[name]()
            assert caught.value.code is code
            assert caught.value.offset is not None
            assert module.locate(caught.value.offset) == f"${name}"
            offsets.append(caught.value.offset)
        assert offsets[0] < offsets[1]


@pytest.mark.parametrize("inline", INLINE)
@pytest.mark.parametrize("runtime", ["native", "python"])
def test_the_values_of_new_objects_live_across_their_allocation(inline: str, runtime: str) -> None:
    """They have no other holder: nothing but the event's own list keeps them while it collects."""
    source = f"""(module {TYPES}
      (func $fresh (param i32) (result (ref $node)) (struct.new $node (ref.null $node) (local.get 0)))
      (func (export "struct") (result i32)
        (struct.get $node $value (struct.get $node $next (struct.new $node (call $fresh (i32.const 7)) (i32.const 1)))))
      (func (export "array") (result i32)
        (struct.get $node $value (array.get $nodes
          (array.new $nodes (call $fresh (i32.const 8)) (i32.const 3)) (i32.const 2))))
      (func (export "fixed") (result i32)
        (struct.get $node $value (array.get $nodes
          (array.new_fixed $nodes 2 (call $fresh (i32.const 8)) (call $fresh (i32.const 9))) (i32.const 1)))))"""
    with lh.Store(lh.Engine(inline=inline, runtime=runtime), collect_every=1) as store:
        exports = lh.Instance(store, lh.Module(store.engine, source)).exports
        assert [exports[name]() for name in ("struct", "array", "fixed")] == [7, 8, 9]
        store.verify()
        store.collect()
        assert store.heap.stats().objects_allocated == store.heap.stats().objects_freed


# ----------------------------------------------------------------------------------------------------------------------
# Barrier sets of one's own


@state
class Accesses:
    reads: u64
    writes: u64


class Recorded(Drc):
    """Notes how often references are read and written, and in what."""

    states = (Accesses,)
    counters = ("reads", "writes")

    @native
    def read(heap: Heap, owner: Ref, slot: Slot, shape: Shape) -> Ref:
        heap.state(Accesses).reads += u64(owner)
        return Drc.read(heap, owner, slot, shape)

    @native
    def write(heap: Heap, owner: Ref, slot: Slot, value: Ref, shape: Shape) -> None:
        heap.state(Accesses).writes += u64(owner)
        Drc.write(heap, owner, slot, value, shape)


@pytest.mark.parametrize("inline", INLINE)
@pytest.mark.parametrize("runtime", ["native", "python"])
def test_a_barrier_is_told_the_owner(inline: str, runtime: str) -> None:
    source = f"""(module {TYPES} (func $f (export "f") (param $n (ref null $node))
        (struct.set $node $next (local.get $n) (local.get $n))
        (struct.set $node $next (local.get $n) (ref.null $node))
        (drop (struct.get $node $next (local.get $n))))
      (func (export "new") (result (ref $node)) (struct.new_default $node)))"""
    with lh.Store(lh.Engine(collector=Recorded, inline=inline, runtime=runtime)) as store:
        module = lh.Module(store.engine, source)
        exports: Any = lh.Instance(store, module).exports
        node = exports["new"]()
        exports["f"](node)
        assert store.stats().counters == {"reads": node.reference, "writes": 2 * node.reference}
        node["next"] = node  # the host's stores go the same way
        assert store.stats().counters["writes"] == 3 * node.reference
        node["next"] = None
        store.verify()


def test_called_is_a_collectors_own_choice() -> None:
    assert [each.called for each in (Collector, Drc, Outlined, Null)] == [False, False, True, False]


# ----------------------------------------------------------------------------------------------------------------------
# Listings


@pytest.mark.parametrize("inline", INLINE)
def test_listings_mark_the_code_of_events_inlined_and_called(inline: str) -> None:
    source = f"""(module {TYPES}
      (func $read (export "read") (param (ref $node)) (result (ref null $node)) (struct.get $node $next (local.get 0)))
      (func $new (export "new") (result (ref $node)) (struct.new_default $node)))"""
    code, symbols = _compile_marked(lh.Module(lh.Engine(inline=inline, runtime="native"), source))
    read, new = symbols[0], symbols[1]
    if inline == "always":
        assert code.sizes(read)[("read",)].instructions > 5
        assert ("allocate", "safepoint") in code.sizes(new)
        assert not [symbol for symbol in code.functions if symbol.startswith("lowheap.struct_")]
        return
    texts = [line.text for line in code.assembly(read) if line.path == ("read",)]
    assert any("lowheap.struct_get.0.0.false.false" in text for text in texts)
    texts = [line.text for line in code.assembly(new) if line.path == ("allocate", "safepoint")]
    assert any("lowheap.struct_new_default.0" in text for text in texts)
    assert code.sizes("lowheap.struct_get.0.0.false.false")[("read",)].instructions > 5
    assert {("allocate",), ("allocate", "safepoint"), ("init",)} <= set(code.sizes("lowheap.struct_new_default.0"))
