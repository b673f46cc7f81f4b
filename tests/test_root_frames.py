"""Root frames against a model: lowered functions are run by an interpreter of their text, along random paths.

`test_stackmaps.py` runs root frames as native code, and `test_precise_roots.py` checks those of whole programs.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import binding
from support.combinations import examples

from lowheap.errors import CompilerError
from lowheap.jit import masks, root_frames
from lowheap.jit.safepoints import lower_statepoints
from lowheap.jit.statepoints import StatepointModule

HEAD = """
declare i32 @collect(i32)
declare void @use(i32)
declare i1 @flag()
"""

WEIGHTS = """
!0 = !{!"branch_weights", i32 1, i32 99}
!1 = !{!"branch_weights", i32 99, i32 1}
!2 = !{!"branch_weights", !"expected", i32 2000, i32 1}
!3 = !{!"branch_weights", i32 1, i32 63}
!4 = !{!"branch_weights", i32 -1, i32 1}
!5 = !{!"branch_weights", i32 0, i32 0, i32 1}
"""


def lower(*functions: str) -> StatepointModule:
    """Lower functions as LLVM prints them; what comes out is valid."""
    module = binding.parse_assembly(HEAD + "\n".join(functions) + WEIGHTS)
    module.verify()
    lowered = lower_statepoints(str(module))
    binding.parse_assembly(lowered.text).verify()
    return lowered


def body(lowered: StatepointModule) -> list[str]:
    """The lines of a module's one function, without comments on predecessors."""
    text = re.search(r"^define .*?\{\n(.*?)^\}$", lowered.text, re.M | re.S)
    assert text
    return [line.split(" ;")[0].rstrip() for line in text[1].splitlines() if line]


STORE = re.compile(r"  store i32 (%\S+), ptr (%lowheap\S+), align 4")
PLACE = re.compile(r"  (%\S+) = getelementptr inbounds i8, ptr (%\S+), i64 (\d+)")
STATEPOINT = re.compile(r'  (%\S+) = call .*@llvm.experimental.gc.statepoint.* \[ "deopt"\((.*)\) \]')


def blocks_with_stores(lowered: StatepointModule) -> dict[str, list[str]]:
    """Which references each block stores, by its label."""
    found: dict[str, list[str]] = {}
    label = "entry"
    for line in body(lowered):
        if line[0] != " ":
            label = line.rstrip(":")
        elif store := STORE.match(line):
            found.setdefault(label, []).append(store[1])
    return found


def slots_of(lowered: StatepointModule) -> dict[str, set[tuple[str, int]]]:
    """In which slots each reference is stored."""
    places: dict[str, tuple[str, int]] = {}
    found: dict[str, set[tuple[str, int]]] = {}
    for line in body(lowered):
        if place := PLACE.match(line):
            places[place[1]] = (place[2], int(place[3]) // 4)
        elif store := STORE.match(line):
            found.setdefault(store[1], set()).add(places.get(store[2], (store[2], 0)))
    return found


def frame_sizes(lowered: StatepointModule) -> list[int]:
    return [int(size) for size in re.findall(r"%lowheap\S+ = alloca \[(\d+) x i32\]", lowered.text)]


# --- By hand ----------------------------------------------------------------------------------------------------------


def test_a_reference_is_stored_once_where_it_is_defined() -> None:
    lowered = lower(
        """define i32 @f(i32 %a, i32 %other) {
entry:
  %b = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  %c = add i32 %b, 16
  %d = call i32 @collect(i32 %c) [ "deopt"(i32 %a, i32 %b) ]
  call void @use(i32 %d)
  %e = call i32 @collect(i32 3) [ "deopt"(i32 %b, i32 %a) ]
  ret i32 %b
}"""
    )
    assert body(lowered)[:9] == [
        "entry:",
        "  %lowheap.statepoint.frame = alloca [2 x i32], align 4",
        "  store i32 %a, ptr %lowheap.statepoint.frame, align 4",
        "  %lowheap.statepoint.0 = call token (i64, i32, ptr, i32, i32, ...) @llvm.experimental.gc.statepoint.p0"
        "(i64 0, i32 0, ptr elementtype(i32 (i32)) @collect, i32 1, i32 0, i32 1, i32 0, i32 0) "
        '[ "deopt"(ptr %lowheap.statepoint.frame, i64 1) ]',
        "  %b = call i32 @llvm.experimental.gc.result.i32(token %lowheap.statepoint.0)",
        "  %lowheap.statepoint.slot.1 = getelementptr inbounds i8, ptr %lowheap.statepoint.frame, i64 4",
        "  store i32 %b, ptr %lowheap.statepoint.slot.1, align 4",
        "  %c = add i32 %b, 16",
        body(lowered)[8],
    ]
    assert [point.live_count for point in lowered.statepoints] == [1, 2, 2]
    assert [STATEPOINT.match(line)[2][-1] for line in body(lowered) if STATEPOINT.match(line)] == ["1", "3", "3"]  # type: ignore[index]


def test_references_that_are_never_alive_together_share_a_slot() -> None:
    steps = "\n".join(
        f'  %v{i} = add i32 %a, {i}\n  %r{i} = call i32 @collect(i32 0) [ "deopt"(i32 %v{i}) ]' for i in range(50)
    )
    lowered = lower(f"define void @f(i32 %a) {{\n{steps}\n  ret void\n}}")
    assert frame_sizes(lowered) == [1]
    assert {point.live_count for point in lowered.statepoints} == {1}


def test_a_life_ends_at_the_last_safepoint_that_lists_the_reference() -> None:
    """`a` is used to the end, but no later safepoint lists it: as far as roots are concerned, it is dead."""
    lowered = lower(
        """define i32 @f(i32 %a) {
  %r = call i32 @collect(i32 0) [ "deopt"(i32 %a) ]
  %s = call i32 @collect(i32 0) [ "deopt"(i32 %r) ]
  %t = add i32 %a, %r
  ret i32 %t
}"""
    )
    assert slots_of(lowered)["%a"] == slots_of(lowered)["%r"]


def test_what_no_safepoint_lists_is_not_stored_and_needs_no_frame() -> None:
    lowered = lower(
        """define i32 @f(i32 %a) {
  %r = call i32 @collect(i32 0) [ "deopt"() ]
  %s = call i32 @collect(i32 0) [ "deopt"(i32 0, i32 7, i32 -5, i32 undef, i32 poison) ]
  %t = add i32 %s, %r
  ret i32 %t
}"""
    )
    assert "alloca" not in lowered.text
    assert [point.live_count for point in lowered.statepoints] == [0, 0]
    assert lowered.text.count('[ "deopt"() ]') == 2


def test_constants_and_duplicates_take_no_slots() -> None:
    lowered = lower(
        """define i32 @f(i32 %a, i32 %b) {
  %r = call i32 @collect(i32 0) [ "deopt"(i32 %a, i32 undef, i32 %b, i32 %a, i32 0, i32 9, i32 poison, i32 %b) ]
  ret i32 %a
}"""
    )
    assert frame_sizes(lowered) == [2]
    assert lowered.statepoints[0].live_count == 2


def test_phis_are_stored_behind_the_last_phi() -> None:
    lowered = lower(
        """define i32 @f(i32 %a, i1 %t) {
entry:
  br i1 %t, label %left, label %join
left:
  br label %join
join:
  %p = phi i32 [ 1, %entry ], [ 3, %left ]
  %n = phi i64 [ 1, %entry ], [ 3, %left ]
  %q = phi i32 [ %a, %entry ], [ 5, %left ]
  br label %next
next:
  %r = call i32 @collect(i32 0) [ "deopt"(i32 %p, i32 %q) ]
  ret i32 %p
}"""
    )
    lines = body(lowered)
    start = lines.index("join:")
    assert [line.split()[0] for line in lines[start + 1 : start + 8]] == ["%p", "%n", "%q", "store", "%lowheap.statepoint.slot.1", "store", "br"]  # fmt: skip  # noqa: E501
    assert blocks_with_stores(lowered) == {"join": ["%p", "%q"]}


def test_a_loop_stores_each_time_round() -> None:
    """Both are alive at both safepoints, though `next` is defined behind the first."""
    lowered = lower(
        """define i32 @f(i32 %a, i1 %t) {
entry:
  br label %loop
loop:
  %p = phi i32 [ %a, %entry ], [ %next, %loop ]
  %next = call i32 @collect(i32 1) [ "deopt"(i32 %p, i32 %a) ]
  %s = call i32 @collect(i32 2) [ "deopt"(i32 %p, i32 %next, i32 %a) ]
  br i1 %t, label %loop, label %done
done:
  ret i32 %next
}"""
    )
    assert blocks_with_stores(lowered) == {"entry": ["%a"], "loop": ["%p", "%next"]}
    assert frame_sizes(lowered) == [3]
    assert [point.live_count for point in lowered.statepoints] == [2, 3]


@pytest.mark.parametrize(
    ("count", "whole", "last"),
    [
        (63, [2**63 - 1], [1 << 62]),
        (64, [-1, 0], [-(1 << 63)]),
        (65, [-1, 0, 1], [0, 1]),
        (130, [-1, 1, 3], [0, 0, 2]),
        (192, [-1, 2], [0, 0, -(1 << 63)]),
    ],
)
def test_masks_have_words_and_those_whose_slots_are_all_live_are_counted(
    count: int, whole: list[int], last: list[int]
) -> None:
    bundle = ", ".join(f"i32 %v{i}" for i in range(count))
    values = "\n".join(f"  %v{i} = add i32 %a, {i}" for i in range(count))
    lowered = lower(
        f"""define void @f(i32 %a) {{
{values}
  %r = call i32 @collect(i32 0) [ "deopt"({bundle}) ]
  %s = call i32 @collect(i32 0) [ "deopt"(i32 %v{count - 1}) ]
  ret void
}}"""
    )
    assert frame_sizes(lowered) == [count]
    statepoints = [found for line in body(lowered) if (found := STATEPOINT.match(line))]
    assert len(statepoints) == 2
    for statepoint, items in zip(statepoints, (whole, last), strict=True):
        assert statepoint[2] == ", ".join(("ptr %lowheap.statepoint.frame", *(f"i64 {item}" for item in items)))


def test_masks_are_printed_as_signed_numbers() -> None:
    assert root_frames.operands("%f", 0) == []
    assert root_frames.operands("%f", 1 << 63) == ["ptr %f", "i64 -9223372036854775808"]
    assert root_frames.operands("%f", 5 << 128 | 1) == ["ptr %f", "i64 1", "i64 0", "i64 5"]


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2**64 - 1, 2**63, 6]), st.integers(1, 4)), max_size=6))
def test_what_is_encoded_is_read_again(words: list[tuple[int, int]]) -> None:
    mask = 0
    for word in (word for word, count in words for _ in range(count)):
        mask = mask << 64 | word
    items = masks.encoded(mask)
    assert all(-(2**63) <= item < 2**63 for item in items)
    read = 0
    for number, word, count in masks.runs(items):
        for each in range(number, number + count):
            read |= word << 64 * each
    assert read == mask
    assert masks.live_count(items) == mask.bit_count()


@pytest.mark.parametrize("items", [[-1], [5, -1], [-1, -1], [-1, -2, 1], [2**64 - 1]])
def test_what_is_no_mask_is_refused(items: list[int]) -> None:
    with pytest.raises(ValueError, match="not followed by a number of words"):
        list(masks.runs(items))


def test_masks_of_references_that_stay_are_short() -> None:
    assert [len(masks.encoded((1 << count) - 1)) for count in (1, 63, 64, 100, 640, 4000)] == [1, 1, 2, 3, 2, 3]


def test_code_that_cannot_be_reached_has_no_roots() -> None:
    lowered = lower(
        """define i32 @f(i32 %a) {
entry:
  ret i32 %a
dead:
  %v = add i32 %w, 1
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %a, i32 %v, i32 %w) ]
  br label %loop
loop:
  %w = add i32 %r, 1
  br label %dead
}"""
    )
    assert [point.live_count for point in lowered.statepoints] == [0]
    assert frame_sizes(lowered) == []


def test_quoted_names_and_labels_that_look_like_branches() -> None:
    lowered = lower(
        """define i32 @f(i32 %"label %x", i1 %"a = phi ", i32 %"sw [") {
"entry ; br label %x":
  br i1 %"a = phi ", label %"label %y", label %x
"label %y":
  %"v = w" = add i32 %"label %x", 1
  switch i32 %"sw [", label %x [
    i32 -3, label %x
    i32 1, label %"] out"
  ]
"] out":
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %"label %x", i32 %"v = w") ]
  ret i32 %r
x:
  ret i32 0
}"""
    )
    assert lowered.statepoints[0].live_count == 2
    assert lowered.text.count('store i32 %"label %x"') == 1


# --- Stores on the way to what is unlikely ----------------------------------------------------------------------------

SLOW_PATH = """define i32 @f(i32 %a) {{
entry:
  br label %loop
loop:
  %p = phi i32 [ %a, %entry ], [ %next, %more ]
  %t = call i1 @flag()
  br i1 %t, label %first, label %second{weights}
{slow}:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %p, i32 %a) ]
  br label %more
{fast}:
  br label %more
more:
  %next = add i32 %p, 16
  %u = call i1 @flag()
  br i1 %u, label %loop, label %done
done:
  ret i32 %p
}}"""


@pytest.mark.parametrize(
    ("slow", "weights"),
    [("first", ", !prof !0"), ("second", ", !prof !1"), ("second", ", !prof !2"), ("second", ", !prof !4")],
)
def test_behind_an_unlikely_branch_references_are_stored_ahead_of_the_safepoint(slow: str, weights: str) -> None:
    lowered = lower(SLOW_PATH.format(slow=slow, fast="second" if slow == "first" else "first", weights=weights))
    assert blocks_with_stores(lowered) == {slow: ["%a", "%p"]}
    assert lowered.statepoints[0].live_count == 2


@pytest.mark.parametrize(
    ("slow", "weights"), [("first", ""), ("second", ", !prof !0"), ("first", ", !prof !3"), ("first", ", !prof !1")]
)
def test_without_lopsided_weights_they_are_stored_where_they_are_defined(slow: str, weights: str) -> None:
    lowered = lower(SLOW_PATH.format(slow=slow, fast="second" if slow == "first" else "first", weights=weights))
    assert blocks_with_stores(lowered) == {"entry": ["%a"], "loop": ["%p"]}


def test_a_block_that_likely_ways_lead_to_as_well_is_not_cold() -> None:
    lowered = lower(
        """define i32 @f(i32 %a, i1 %t) {
entry:
  br i1 %t, label %slow, label %join, !prof !0
slow:
  br label %join
join:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  ret i32 %a
}"""
    )
    assert blocks_with_stores(lowered) == {"entry": ["%a"]}
    lowered = lower(
        """define i32 @f(i32 %a, i1 %t) {
entry:
  br i1 %t, label %both, label %both, !prof !0
both:
  %v = add i32 %a, 1
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  ret i32 %v
}"""
    )
    assert blocks_with_stores(lowered) == {"entry": ["%a"]}


def test_all_that_only_unlikely_ways_lead_to_is_cold() -> None:
    """Loops there too; but a reference that is defined there is stored there."""
    lowered = lower(
        """define i32 @f(i32 %a, i1 %t, i1 %u) {
entry:
  br i1 %t, label %slow, label %fast, !prof !0
slow:
  br label %loop
loop:
  %p = phi i32 [ %a, %slow ], [ %r, %loop ]
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %p, i32 %a) ]
  br i1 %u, label %loop, label %fast
fast:
  %s = phi i32 [ 1, %entry ], [ %p, %loop ]
  ret i32 %s
}"""
    )
    assert blocks_with_stores(lowered) == {"loop": ["%a", "%p"]}


@pytest.mark.parametrize("sites", [1, 4, 5, 40])
def test_a_reference_with_many_cold_safepoints_is_stored_once(sites: int) -> None:
    blocks = "".join(
        f"""s{i}:
  %t{i} = call i1 @flag()
  br i1 %t{i}, label %slow{i}, label %s{i + 1}, !prof !0
slow{i}:
  %r{i} = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  br label %s{i + 1}
"""
        for i in range(sites)
    )
    lowered = lower(f"define void @f(i32 %a) {{\nentry:\n  br label %s0\n{blocks}s{sites}:\n  ret void\n}}")
    if sites <= 4:
        assert blocks_with_stores(lowered) == {f"slow{i}": ["%a"] for i in range(sites)}
    else:
        assert blocks_with_stores(lowered) == {"entry": ["%a"]}


def test_one_likely_safepoint_is_enough_to_be_stored_at_the_definition() -> None:
    lowered = lower(
        """define i32 @f(i32 %a, i1 %t) {
entry:
  br i1 %t, label %slow, label %fast, !prof !0
slow:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  br label %fast
fast:
  %s = call i32 @collect(i32 1) [ "deopt"(i32 %a) ]
  ret i32 %a
}"""
    )
    assert blocks_with_stores(lowered) == {"entry": ["%a"]}


def test_what_a_loop_finds_is_stored_behind_it() -> None:
    """A list is walked, and its last element lives across one safepoint behind the walk."""
    lowered = lower(
        """define i32 @f(i32 %a) {
entry:
  br label %loop
loop:
  %p = phi i32 [ %a, %entry ], [ %next, %loop ]
  %next = add i32 %p, 16
  %t = call i1 @flag()
  br i1 %t, label %loop, label %done
done:
  %r = call i32 @collect(i32 1) [ "deopt"(i32 %p) ]
  ret i32 %p
}"""
    )
    assert blocks_with_stores(lowered) == {"done": ["%p"]}


# --- Refusals ---------------------------------------------------------------------------------------------------------

REFUSED = {
    "  resume { ptr, i32 } %pair": "resume",
    "  indirectbr ptr %p, [label %entry]": "indirectbr",
    "  cleanupret from %token unwind to caller": "cleanupret",
    "  %c = catchswitch within none [label %h] unwind to caller": "catchswitch",
    "  catchret from %token to label %end": "catchret",
    "  somethingnew label %entry": "this ends a block",
    "  %x = add i32 %a, 1": "this ends a block",
    '  callbr void asm "", ""() to label %end []': "callbr",
    "  %x = invoke i32 @ext(i32 %a)\n          to label %end unwind label %end": "invoke",
    "not a line": "neither an instruction nor a label",
    "  br label %nowhere": "%nowhere, which is no block",
    "  switch i32 %a, label %end [\n    i32 1, label %end ]": "not a case of a switch",
    "  ret void\n  ret void": "behind the end of a block",
}


@pytest.mark.parametrize(("end", "message"), REFUSED.items())
def test_what_is_not_understood_is_refused_and_quoted(end: str, message: str) -> None:
    text = f"""declare void @nothing()
define void @f(i32 %a, ptr %p) {{
entry:
  call void @nothing() [ "deopt"(i32 %a) ]
{end}
end:
  ret void
}}
"""
    with pytest.raises(CompilerError, match=re.escape(message)) as caught:
        lower_statepoints(text)
    if "nowhere" not in message:
        assert any(str(caught.value).endswith(line) for line in end.splitlines())
    # The same in a function without a safepoint is none of the lowering's business.
    without = text.replace(' [ "deopt"(i32 %a) ]', "")
    assert lower_statepoints(without).text.startswith(without)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('define void @f() {\n  call void %p() [ "deopt"(i32 %a) ]\n  ret void\n}\n', "%a, which is not defined"),
        ('define void @f(i32 %a) {\n  call void %p() [ "deopt"(i32 %a) ]\n}\n', "this ends a block"),
        (
            'define void @f(i32 %a) {\nx:\n  br label %y\ny:\n  call void %p() [ "deopt"(i32 %a) ]\nz:\n}\n',
            "this ends a",
        ),
        (
            'define void @f() {\n  call void %p() [ "deopt"(i32 %v) ]\n  %v = add i32 1, 2\n  ret void\n}\n',
            "%v, which is not defined on every way",
        ),
    ],
)
def test_functions_that_are_not_whole_are_refused(text: str, message: str) -> None:
    with pytest.raises(CompilerError, match=message):
        lower_statepoints(text)


# --- Random graphs against a model ------------------------------------------------------------------------------------


@dataclass
class Step:
    """An instruction that defines `name`; a safepoint lists `listed`, and anything else has None."""

    name: str
    listed: list[str] | None = None


@dataclass
class Node:
    phis: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: str = ""
    ending: str = "ret void"


def reach(nodes: Sequence[Node], without: int | None = None) -> set[int]:
    """The nodes that can be reached from the first without passing through one."""
    if without == 0:
        return set()
    found, pending = {0}, [0]
    while pending:
        for target in nodes[pending.pop()].targets:
            if target not in found and target != without:
                found.add(target)
                pending.append(target)
    return found


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Functions of two arguments, `%a0` and `%a1`, in SSA form: whatever is listed dominates the safepoint."""
    count = draw(st.integers(1, 8))
    nodes = []
    for number in range(count):
        node = Node()
        node.phis = [f"%p{number}_{i}" for i in range(draw(st.integers(0, 2)))] if number else []
        node.steps = [
            Step(f"%v{number}_{i}", [] if is_safepoint else None)
            for i, is_safepoint in enumerate(draw(st.lists(st.booleans(), max_size=3)))
        ]
        if count > 1:
            node.targets = draw(st.lists(st.integers(1, count - 1), max_size=4))
        if len(node.targets) == 2:
            node.weights = draw(st.sampled_from(["", ", !prof !0", ", !prof !1", ", !prof !2", ", !prof !3"]))
        node.ending = draw(st.sampled_from(["ret void", "unreachable"]))
        nodes.append(node)
    reached = reach(nodes)
    for number, node in enumerate(nodes):
        dominators = [other for other in range(count) if number in reached and number not in reach(nodes, other)]
        known = ["%a0", "%a1"]
        for dominator in dominators:
            if dominator != number:
                known += nodes[dominator].phis + [step.name for step in nodes[dominator].steps]
        known += node.phis
        for step in node.steps:
            if step.listed is not None:
                step.listed = draw(st.lists(st.sampled_from(known), max_size=6))
            known.append(step.name)
    return nodes


def print_graph(nodes: Sequence[Node]) -> str:
    lines = ["define void @f(i32 %a0, i32 %a1) {"]
    for number, node in enumerate(nodes):
        lines.append(f"b{number}:")
        sources = [f"[ 0, %b{source}  ]" for source, other in enumerate(nodes) for t in other.targets if t == number]
        for name in node.phis:
            # Without predecessors there is no phi; a value of that name will do.
            lines.append(f"  {name} = phi i32 {', '.join(sources)}" if sources else f"  {name} = add i32 1, 2")
        for step in node.steps:
            if step.listed is None:
                lines.append(f"  {step.name} = add i32 %a0, 1")
            else:
                bundle = ", ".join(f"i32 {name}" for name in step.listed)
                lines.append(f'  {step.name} = call i32 @collect(i32 0) [ "deopt"({bundle}) ]')
        targets = [f"label %b{target}" for target in node.targets]
        if not targets:
            lines.append(f"  {node.ending}")
        elif len(targets) == 1:
            lines.append(f"  br {targets[0]}")
        elif len(targets) == 2:
            lines += [f"  %c{number} = call i1 @flag()", f"  br i1 %c{number}, {', '.join(targets)}{node.weights}"]
        else:
            cases = "\n".join(f"    i32 {i}, {target}" for i, target in enumerate(targets[1:]))
            lines.append(f"  switch i32 %a1, {targets[0]} [\n{cases}\n  ]")
    return "\n".join([*lines, "}"])


class Machine:
    """Runs the text of a lowered function along random paths; each definition gives a value that was never there."""

    def __init__(self, lowered: StatepointModule, nodes: Sequence[Node], seed: int) -> None:
        self.blocks: dict[str, list[str]] = {}
        for line in body(lowered):
            if line[0] != " ":
                block = self.blocks.setdefault(f"%{line.rstrip(':')}", [])
            else:
                block.append(line)
        self.lists = {step.name: set(step.listed) for node in nodes for step in node.steps if step.listed is not None}
        self.random = random.Random(seed)
        self.fresh = itertools.count(1)
        self.checked = 0

    def run(self, steps: int) -> None:
        self.values = {"%a0": next(self.fresh), "%a1": next(self.fresh)}
        self.memory: dict[tuple[str, int], int] = {}
        self.places: dict[str, tuple[str, int]] = {}
        block = "%b0"
        for _ in range(steps):
            for line in self.blocks[block]:
                self.step(line)
            targets = re.findall(r"label (%\w+)", " ".join(self.blocks[block]))
            if not targets:
                return
            block = self.random.choice(targets)

    def step(self, line: str) -> None:
        if frame := re.match(r"  (%lowheap\S+) = alloca \[(\d+) x i32\]", line):
            self.places[frame[1]] = (frame[1], 0)
            self.memory |= {(frame[1], slot): -1 for slot in range(int(frame[2]))}
        elif place := PLACE.match(line):
            assert int(place[3]) % 4 == 0
            self.places[place[1]] = (place[2], int(place[3]) // 4)
        elif store := STORE.match(line):
            assert self.places[store[2]] in self.memory, "inside the frame"
            self.memory[self.places[store[2]]] = self.values[store[1]]
        elif statepoint := STATEPOINT.match(line):
            self.seen = []
            for name, mask in re.findall(r"ptr (%[\w.]+)((?:, i64 -?\d+)+)", statepoint[2]):
                for number, word, count in masks.runs(map(int, re.findall(r"-?\d+(?=,|$)", mask))):
                    slots = range(64 * number, 64 * (number + count))
                    self.seen += [self.memory[name, slot] for slot in slots if word >> slot % 64 & 1]
        elif result := re.match(r"  (%\w+) = call i32 @llvm.experimental.gc.result", line):
            # A value that is listed twice has one slot.
            assert sorted(self.seen) == sorted(self.values[name] for name in self.lists[result[1]])
            self.values[result[1]] = next(self.fresh)
            self.checked += 1
        elif defined := re.match(r"  (%\w+) = (phi|add)", line):
            self.values[defined[1]] = next(self.fresh)


def most_alive(nodes: Sequence[Node]) -> int:
    """How many references are alive together at most, each by a search over paths."""

    def lives(name: str, number: int, position: int) -> bool:
        """Whether a path from behind a step comes to a safepoint that lists the name, before its definition."""
        pending, seen = [(number, position)], set()
        while pending:
            number, position = pending.pop()
            node = nodes[number]
            if any(step.listed is not None and name in step.listed for step in node.steps[position:]):
                return True  # what is listed is defined before: the definition is not in between
            for target in node.targets:
                if target not in seen and name not in nodes[target].phis:
                    seen.add(target)
                    if name not in [step.name for step in nodes[target].steps]:
                        pending.append((target, 0))
        return False

    names = ["%a0", "%a1", *(name for node in nodes for name in [*node.phis, *(step.name for step in node.steps)])]
    most = 0
    for number in reach(nodes):
        node = nodes[number]
        for position in range(len(node.steps) + 1):
            later = {step.name for step in node.steps[position:]}
            alive = [name for name in names if name not in later and lives(name, number, position)]
            most = max(most, len(alive))
    return most


@settings(max_examples=examples(150, 500), deadline=None)
@given(graphs(), st.integers(0, 1 << 30))
def test_random_graphs_hold_exactly_what_is_listed_in_the_fewest_slots(nodes: list[Node], seed: int) -> None:
    lowered = lower(print_graph(nodes))
    machine = Machine(lowered, nodes, seed)
    for _ in range(10):
        machine.run(20)
    assert sum(frame_sizes(lowered)) == most_alive(nodes)


def test_the_model_notices_what_is_wrong() -> None:
    """A store left out, and a mask with a bit too many or too few."""
    call = Step("%v0_1", ["%v0_0", "%a0"])
    nodes = [Node(steps=[Step("%v0_0"), call, Step("%v0_2", ["%a0", "%v0_1", "%a1"])])]
    lowered = lower(print_graph(nodes))
    machine = Machine(lowered, nodes, 0)
    machine.run(1)
    assert machine.checked == 2
    for before, after in ((r"  store i32 %v0_0, .*\n", ""), (r"i64 7\)", "i64 3)"), (r"i64 5\)", "i64 7)")):
        text = re.sub(before, after, lowered.text)
        assert text != lowered.text
        with pytest.raises((AssertionError, KeyError)):
            Machine(StatepointModule(text, lowered.functions, lowered.statepoints), nodes, 0).run(1)


# --- Time -------------------------------------------------------------------------------------------------------------


def test_thousands_of_references_and_blocks_are_lowered_in_linear_time() -> None:
    """Nested loops, cold safepoints, and references that live long: a square in any of them would take minutes."""
    count = 4000
    lines = ["entry:", "  br label %b0"]
    for i in range(count):
        back = f"b{max(0, i - 700)}"
        lines += [
            f"b{i}:",
            f"  %p{i} = phi i32 [ %a, %{'entry' if i == 0 else f'slow{i - 1}'} ]",
            f"  %v{i} = add i32 %a, 1",
            f"  br i1 %t, label %slow{i}, label %slow{i}",
            f"slow{i}:",
            f'  %r{i} = call i32 @collect(i32 %a) [ "deopt"(i32 %v{i}, i32 %v{i // 2}, i32 %a) ]',
            f"  br i1 %t, label %b{i + 1}, label %{back}, !prof !0",
        ]
    lines += [f"b{count}:", "  ret void"]
    text = "\n".join(["define void @f(i32 %a, i1 %t) {", *lines, "}", WEIGHTS])
    started = time.process_time()
    lowered = lower_statepoints(text)
    assert time.process_time() - started < 10
    assert len(lowered.statepoints) == count


def test_long_lists_are_read_fast() -> None:
    count = 1000
    values = "\n".join(f"  %v{i} = add i32 %a, {i}" for i in range(count))
    bundle = ", ".join(f"i32 %v{i}" for i in range(count))
    calls = "\n".join(f'  %r{i} = call i32 @collect(i32 1) [ "deopt"({bundle}) ]' for i in range(count))
    started = time.process_time()
    lowered = lower_statepoints(f"define void @f(i32 %a) {{\n{values}\n{calls}\n  ret void\n}}\n")
    assert time.process_time() - started < 10
    assert {point.live_count for point in lowered.statepoints} == {count}
    assert frame_sizes(lowered) == [count]
    assert len(lowered.text) < count * 600
