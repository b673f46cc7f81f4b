"""Backtraces of traps: which functions were being run, in which modules, and at which instructions."""

from __future__ import annotations

import functools
import gc
import pickle
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import wasmtime

import lowheap as lh
from lowheap.cli.entry import execute
from lowheap.jit import debug_locations
from lowheap.layout import MOST_TRAP_FRAMES
from lowheap.wasm.decode import custom_sections, decode
from lowheap.wasm.validate import wat2wasm

SOURCE = """(module $chain
  (type $unary (func (param i32) (result i32)))
  (type $box (struct (field i32)))
  (import "host" "pass" (func $pass (param i32) (result i32)))
  (elem declare func $by_reference)
  (func $divide (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
  (func $collecting (param i32) (result i32)
    (drop (call $pass (i32.const 1)))
    (call $divide (local.get 0)))
  (func $by_reference (type $unary) (i32.add (i32.const 1) (call $collecting (local.get 0))))
  (func $middle (param i32) (result i32)
    (i32.sub (call_ref $unary (local.get 0) (ref.func $by_reference)) (i32.const 1)))
  (func (export "run") (param i32) (result i32) (i32.mul (call $middle (local.get 0)) (i32.const 3)))
  (func $calls_host (export "calls_host") (param i32) (result i32) (call $pass (local.get 0)))
  (func $deep (export "deep") (param i32) (result i32)
    (i32.add (call $pass (i32.const 1)) (call $deep (local.get 0))))
  (func $fill (export "fill") (param i32) (result i32)
    (local $all (ref null $list))
    (loop $again (result i32)
      (local.set $all (struct.new $list (local.get $all)))
      (br $again)))
  (type $list (struct (field (ref null $list))))
  (func $cast (export "cast") (param i32) (result i32)
    (struct.get $box 0 (ref.cast (ref $box) (ref.i31 (local.get 0)))))
  (func $starts_cast (export "starts_cast") (param i32) (result i32)
    (drop (call $pass (i32.const 1)))
    (i32.add (call $cast (local.get 0)) (i32.const 1))))"""

INSTRUCTIONS = {index: body.instructions for index, body in enumerate(decode(wat2wasm(SOURCE)).bodies, 1)}
BODIES = {index: body.offset for index, body in enumerate(decode(wat2wasm(SOURCE)).bodies, 1)}


@functools.cache
def compiled(opt_level: int, runtime: str = "native") -> lh.Module:
    return lh.Module(lh.Engine(opt_level=opt_level, runtime=runtime), SOURCE)


def trap(module: lh.Module, export: str, value: int, passing: Any = lambda value: value, **store: Any) -> lh.Trap:
    with lh.Store(module.engine, **store) as made:
        exports = lh.Instance(made, module, {"host": {"pass": passing}}).exports
        with pytest.raises(lh.Trap) as caught:
            exports[export](value)
        made.verify()
    return caught.value


def check(frames: list[lh.Frame]) -> None:
    """Each frame's offset is that of an instruction of its function that calls, or traps."""
    for frame in frames:
        assert frame.module_name == "chain"
        if frame.module_offset is None:
            assert frame.func_offset is None
            continue
        assert frame.func_offset == frame.module_offset - BODIES[frame.func_index]
        names = [each.name for each in INSTRUCTIONS[frame.func_index] if each.offset == frame.module_offset]
        assert names or frame.func_offset == 0, "a prologue, or an instruction"
        if frame is not frames[0]:
            assert names[0] in ("call", "call_ref")


def places(frames: Any) -> list[tuple[int, int | None, int | None]]:
    return [(each.func_index, each.module_offset, each.func_offset) for each in frames]


@functools.cache
def wasmtime_places(source: str, export: str, *args: int) -> list[tuple[int, int | None, int | None]]:
    """What wasmtime says of a trap; all functions that it gives a module return what they get."""
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    module = wasmtime.Module(engine, source)
    given = [wasmtime.Func(store, each.type, lambda value: value) for each in module.imports]
    exports: Any = wasmtime.Instance(store, module, given).exports(store)
    with pytest.raises(wasmtime.Trap) as caught:
        exports[export](store, *args)
    return places(caught.value.frames)


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
def test_all_frames_are_there_and_where_wasmtime_says(opt_level: int, runtime: str) -> None:
    found = trap(compiled(opt_level, runtime), "run", 0)
    assert [each.func_name for each in found.frames] == [
        "divide",
        "collecting",
        "by_reference",
        "middle",
        None,
    ]
    check(found.frames)
    assert places(found.frames) == wasmtime_places(SOURCE, "run", 0)
    assert (found.frames[0].module_offset, f"${found.frames[0].func_name}") == (found.offset, found.function)


# Calls that cannot collect, some of which LLVM inlines, and would join: of one function, with one argument, and of none
# that comes back.
PLAIN = """(module $plain
  (type $unary (func (param i32) (result i32)))
  (table 3 3 funcref)
  (elem (i32.const 0) $middle $other $stop)
  (func $divide (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
  (func $other (param i32) (result i32) (i32.mul (i32.const 7) (call $divide (local.get 0))))
  (func $middle (param i32) (result i32)
    (if (result i32) (i32.and (local.get 0) (i32.const 4))
      (then (call $other (i32.sub (local.get 0) (i32.const 4))))
      (else (call $divide (local.get 0)))))
  (func $replaced (param i32) (result i32) (return_call $divide (local.get 0)))
  (func $panic (param i32) (drop (i32.div_u (i32.const 5) (i32.const 0))) (unreachable))
  (func $stop (param i32) (result i32)
    (if (i32.gt_u (local.get 0) (i32.const 70)) (then (call $panic (i32.const 1)) (unreachable)))
    (if (i32.gt_u (local.get 0) (i32.const 68)) (then (call $panic (i32.const 1)) (unreachable)))
    (call $replaced (i32.const 0)))
  (func $recursive (export "recursive") (param i32 i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $recursive (i32.sub (local.get 0) (i32.const 1)) (local.get 1)) (i32.const 1)))
      (else (call_indirect (type $unary) (local.get 1) (i32.shr_u (local.get 1) (i32.const 5))))))
  (func (export "run") (param i32) (result i32)
    (i32.mul (call $recursive (i32.const 2) (local.get 0)) (i32.const 3))))"""


@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
@pytest.mark.parametrize("value", [0, 4, 64, 69, 71, 96])
def test_frames_of_calls_that_cannot_collect_are_where_wasmtime_says(opt_level: int, value: int) -> None:
    module = lh.Module(lh.Engine(opt_level=opt_level), PLAIN)
    with lh.Store(module.engine) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, module).exports.run(value)
    assert places(caught.value.frames) == wasmtime_places(PLAIN, "run", value)


TAILS = """(module
  (import "host" "pass" (func $pass (param i32) (result i32)))
  (func $divide (param i32) (result i32) (drop (call $pass (i32.const 1))) (i32.div_s (i32.const 1) (local.get 0)))
  (func $gone (param i32) (result i32) (drop (call $pass (i32.const 1))) (return_call $divide (local.get 0)))
  (func (export "run") (param i32) (result i32) (i32.add (call $gone (local.get 0)) (i32.const 1))))"""


@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
def test_what_a_tail_call_has_left_is_no_frame(opt_level: int) -> None:
    module = lh.Module(lh.Engine(opt_level=opt_level), TAILS)
    with lh.Store(module.engine) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, module, {"host": {"pass": lambda value: value}}).exports.run(0)
    assert places(caught.value.frames) == wasmtime_places(TAILS, "run", 0)
    assert [each.func_index for each in caught.value.frames] == [1, 3]


def test_frames_are_there_where_a_large_one_is() -> None:
    each = range(3000)
    source = f"""(module
      (import "host" "many" (func $many (result {"f64 " * 1000})))
      (func $divide (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
      (func (export "run") (param i32) (result f64) {"(local f64)" * len(each)}
        {("(call $many)" + "".join(f"(local.set {n + 1})" for n in each[:1000]))}
        {("(call $many)" + "".join(f"(local.set {n + 1})" for n in each[1000:2000]))}
        {("(call $many)" + "".join(f"(local.set {n + 1})" for n in each[2000:]))}
        (drop (call $divide (local.get 0)))
        (call $many) {"(drop)" * 999}
        {" ".join(f"(f64.add (local.get {n + 1}))" for n in each)}))"""
    module = lh.Module(lh.Engine(opt_level=1), source)
    assert "lowheap.check:" in module.compiled.llvm_ir
    with lh.Store(module.engine) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, module, {"host": {"many": lambda: [0.5] * 1000}}).exports.run(0)
    calls = [each.offset for each in module.decoded.bodies[1].instructions if each.name == "call"]
    assert [(each.func_index, each.module_offset) for each in caught.value.frames[1:]] == [(2, calls[3])]


def test_where_code_is_another_when_it_is_compiled_again_only_functions_are_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = lh.Module(lh.Engine(opt_level=0), PLAIN)
    codes = iter((b"this", b"that"))
    monkeypatch.setattr(debug_locations, "code_of", lambda object: next(codes))
    with lh.Store(module.engine) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, module).exports.recursive(0, 0)
    first, *others = places(caught.value.frames)
    assert first == wasmtime_places(PLAIN, "recursive", 0, 0)[0]
    assert others == [(2, None, None), (6, 199, 25)]
    assert "module plain: its code was another, compiled again" in caplog.text


@pytest.mark.parametrize("opt_level", [0, 2])
def test_frames_go_on_behind_the_host(opt_level: int) -> None:
    module = compiled(opt_level)
    with lh.Store(module.engine) as store:
        inner = lh.Instance(store, module, {"host": {"pass": lambda value: value}}).exports
        for export, expected in (("cast", ["cast", "calls_host"]), ("deep", ["deep"] * MOST_TRAP_FRAMES)):
            outer = lh.Instance(store, module, {"host": {"pass": inner[export]}}).exports
            through_python = lh.Instance(store, module, {"host": {"pass": lambda value: inner[export](value)}}).exports  # noqa: B023
            for exports in (outer, through_python):
                with pytest.raises(lh.Trap) as caught:
                    exports.calls_host(3)
                names = [each.func_name for each in caught.value.frames]
                assert names[: len(expected)] == expected
                check(caught.value.frames)


@pytest.mark.parametrize("opt_level", [0, 2])
def test_of_a_deep_stack_the_innermost_frames_are_there(opt_level: int) -> None:
    found = trap(compiled(opt_level), "deep", 1)
    assert found.code is lh.TrapCode.STACK_OVERFLOW
    check(found.frames)
    assert MOST_TRAP_FRAMES // 2 <= len(found.frames) <= 4 * MOST_TRAP_FRAMES
    assert {each.func_name for each in found.frames} == {"deep"}
    assert len({each.module_offset for each in found.frames[1:]}) == 1


def test_frames_are_there_where_the_stack_map_tells_the_sizes_of_frames() -> None:
    """A function without a safepoint that may have a large frame has a record in the stack map that is no call's."""
    moves = "(local.set 1 (i32.add (local.get 2) (local.get 0))) (local.set 2 (i32.add (local.get 1) (local.get 0)))"
    source = f"""(module
      (func $long (param i32) (result i32) (local i32 i32) {moves * 150} (i32.div_s (i32.const 1) (local.get 0)))
      (func $run (export "run") (param i32) (result i32) (i32.add (call $long (local.get 0)) (i32.const 1))))"""
    module = lh.Module(lh.Engine(opt_level=0), source)
    assert module.compiled.statepoints.measured, "one was told"
    with lh.Store(module.engine) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, module).exports.run(0)
    assert [each.func_name for each in caught.value.frames] == ["long", "run"]


@pytest.mark.parametrize("runtime", ["native", "python"])
@pytest.mark.parametrize("opt_level", [0, 2])
def test_an_allocation_that_fails_is_in_the_function_that_allocates(opt_level: int, runtime: str) -> None:
    found = trap(compiled(opt_level, runtime), "fill", 0, initial_heap_size=1 << 16, maximum_heap_size=1 << 16)
    assert found.code is lh.TrapCode.HEAP_EXHAUSTED
    assert [(each.func_name, each.module_offset) for each in found.frames] == [("fill", found.offset)]
    check(found.frames)


@pytest.mark.parametrize("opt_level", [0, 2])
@pytest.mark.parametrize("inline", ["always", "never"])
def test_what_an_event_calls_is_no_frame(opt_level: int, inline: str) -> None:
    module = lh.Module(lh.Engine(opt_level=opt_level, inline=inline), SOURCE)
    found = trap(module, "starts_cast", 1)
    names = [each.func_name for each in found.frames]
    assert names == ["cast", "starts_cast"]
    check(found.frames)


@pytest.mark.parametrize("opt_level", [0, 1, 2, 3])
def test_frames_of_a_start_function(opt_level: int) -> None:
    source = "(module (func $f unreachable) (func $start (call $f)) (start $start))"
    with lh.Store(lh.Engine(opt_level=opt_level)) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, lh.Module(store.engine, source))
    assert [each.func_name for each in caught.value.frames] == ["f", "start"]
    assert caught.value.frames[1].func_offset is not None


@pytest.mark.parametrize("opt_level", [0, 2])
def test_start_functions_that_are_inlined_are_frames(opt_level: int) -> None:
    engine = lh.Engine(opt_level=opt_level)
    inner = lh.Module(engine, '(module $inner (func $stop (export "stop") unreachable))')
    source = """(module $outer (import "m" "stop" (func $stop))
      (func $called (call $stop)) (func $start (call $called)) (start $start))"""
    with lh.Store(engine) as store, pytest.raises(lh.Trap) as caught:
        lh.Instance(store, lh.Module(engine, source), {"m": {"stop": lh.Instance(store, inner).exports.stop}})
    found = caught.value.frames
    assert [each.func_name for each in found] == ["stop", "called", "start"]
    assert [each.func_offset for each in found] == [1, 1, 1]


def test_frames_of_several_modules() -> None:
    engine = lh.Engine(opt_level=0)
    inner = lh.Module(engine, '(module $inner (func $stop (export "stop") unreachable))')
    outer = lh.Module(engine, '(module $outer (import "m" "stop" (func $s)) (func $go (export "go") (call $s)))')
    with lh.Store(engine) as store:
        stop = lh.Instance(store, inner).exports.stop
        go = lh.Instance(store, outer, {"m": {"stop": stop}}).exports.go
        with pytest.raises(lh.Trap) as caught:
            go()
    assert [(each.module_name, each.func_name) for each in caught.value.frames] == [("inner", "stop"), ("outer", "go")]
    assert [each.func_index for each in caught.value.frames] == [0, 1]


def test_frames_are_looked_up_when_asked_and_by_code_from_a_cache(tmp_path: Any) -> None:
    for _ in range(2):
        module = lh.Module(lh.Engine(opt_level=0, cache=tmp_path), SOURCE)
        found = trap(module, "run", 0)
        assert not isinstance(found._frames, list)
        assert len(found.frames) == 5
        assert found.frames is found.frames
        check(found.frames)


def test_a_trap_keeps_no_store() -> None:
    module = compiled(0)
    store = lh.Store(module.engine)
    gone = weakref.ref(store)
    exports = lh.Instance(store, module, {"host": {"pass": lambda value: value}}).exports
    try:
        exports.run(0)
    except lh.Trap as error:
        found = error.with_traceback(None)
    del store, exports
    gc.collect()
    assert gone() is None
    assert len(found.frames) == 5


def test_a_trap_is_made_of_a_code() -> None:
    with pytest.raises(TypeError, match="code is 'refused'; it must be a TrapCode"):
        lh.Trap("refused")  # type: ignore[arg-type]


def test_a_trap_made_by_hand_has_no_frames() -> None:
    assert lh.Trap(lh.TrapCode.UNREACHABLE).frames == []


# ----------------------------------------------------------------------------------------------------------------------
# Lines of source


def leb(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def debug_sections(rows: list[tuple[int, int, int]], version: int) -> dict[str, bytes]:
    """The sections of a unit, `src/shop.c` in `/home/smith`: (address, line, column) in order, an end behind the last.

    Before it there is a sequence of a function that a linker has left out, and so put to address 0.
    """
    abbreviations = b"\1\x11\0\x10\x17\x1b\x08\0\0\0"  # a unit without children: stmt_list, comp_dir
    kind = bytes(4) + b"\4" if version < 5 else b"\1\4" + bytes(4)  # unit type, address size, where abbreviations are
    unit = version.to_bytes(2, "little") + kind + b"\1" + bytes(4) + b"/home/smith\0"
    operands = bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])
    if version < 5:
        files = b"src\0\0shop.c\0\1\0\0\0"
    else:
        files = b"\1\1\x08\2/home/smith\0src\0" + b"\2\1\x08\2\x0b\2other.c\0\0shop.c\0\1"
    header = bytes([1, 1, *([1] if version >= 4 else []), 0xFB, 14, 13]) + operands + files
    program = b""
    for sequence in ([(0, 99, 1), (4096, 99, 1)], rows):
        for number, (address, line, column) in enumerate(sequence):
            program += b"\0\5\2" + address.to_bytes(4, "little")
            if number == len(sequence) - 1:
                program += b"\0\1\1"
                break
            previous = sequence[number - 1][1] if number else 1
            program += b"\3" + signed_leb(line - previous) + b"\5" + leb(column) + b"\4\1\1"
    sizes = b"\4\0" if version >= 5 else b""
    lines = sized(version.to_bytes(2, "little") + sizes + sized(header) + program)
    return {".debug_info": sized(unit), ".debug_abbrev": abbreviations, ".debug_line": lines}


def signed_leb(number: int) -> bytes:
    return bytes([number & 0x7F]) if -64 <= number < 64 else bytes([number & 0x7F | 0x80, number >> 7 & 0x7F])


def with_sections(binary: bytes, sections: dict[str, bytes]) -> bytes:
    for name, data in sections.items():
        contents = leb(len(name)) + name.encode() + data
        binary += b"\0" + leb(len(contents)) + contents
    return binary


SHOP = """(module $shop
  (import "host" "pause" (func $pause))
  (func $price (param i32) (result i32) (call $pause) (i32.div_s (i32.const 100) (local.get 0)))
  (func $buy (export "buy") (param i32) (result i32) (i32.add (call $price (local.get 0)) (i32.const 1)))
  (func $unknown (export "unknown") unreachable))"""


def shop(version: int, damage: Any = lambda sections: sections) -> tuple[lh.Trap, lh.Trap]:
    """The traps of both exports, of code with lines for the first two functions."""
    binary = wat2wasm(SHOP)
    decoded = decode(binary)
    _, code = custom_sections(binary)
    divides = next(each for each in decoded.bodies[0].instructions if each.name == "i32.div_s").offset
    price, buy, unknown = (body.offset for body in decoded.bodies)
    rows = [(price, 10, 1), (divides, 12, 5), (divides + 1, 13, 0), (buy, 300, 7), (unknown, 0, 0)]
    sections = debug_sections([(offset - code, line, column) for offset, line, column in rows], version)
    engine = lh.Engine(opt_level=0)
    found = []
    with lh.Store(engine) as store:
        module = lh.Module(engine, with_sections(binary, damage(sections)))
        exports = lh.Instance(store, module, {"host": {"pause": lambda: None}}).exports
        for use in (lambda: exports.buy(0), exports.unknown):
            with pytest.raises(lh.Trap) as caught:
                use()
            found.append(caught.value)
    return found[0], found[1]


@pytest.mark.parametrize("version", [3, 4, 5])
def test_frames_have_the_lines_that_debugging_information_tells(version: int) -> None:
    found, unknown = shop(version)
    path = "/home/smith/src/shop.c"
    assert [(each.file, each.line, each.column) for each in found.frames] == [(path, 12, 5), (path, 300, 7)]
    assert str(found.frames[0]).endswith(f", at offset {found.offset:#x}, {path}:12:5")
    assert [(each.file, each.line, each.column) for each in unknown.frames] == [(None, None, None)]
    again = pickle.loads(pickle.dumps(found))
    assert again.frames == found.frames
    assert again.message == found.message


DAMAGES: dict[str, Any] = {
    "nothing but the lines": lambda all: {".debug_line": all[".debug_line"]},
    "cut off": lambda all: {name: data[: len(data) // 2] for name, data in all.items()},
    "of no file": lambda all: {**all, ".debug_line": all[".debug_line"].replace(b"\4\1\1", b"\4\x20\1")},
    "something else": lambda all: dict.fromkeys(all, b"\xff" * 50),
    "empty": lambda all: dict.fromkeys(all, b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_makes_no_sense_there_tells_nothing(damage: str) -> None:
    found, _ = shop(5, DAMAGES[damage])
    assert [(each.func_name, each.file) for each in found.frames] == [("price", None), ("buy", None)]


def test_the_command_tells_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = wat2wasm('(module (func $fail unreachable) (func (export "go") (call $fail)))')
    _, code = custom_sections(binary)
    fail, go = (body.offset - code for body in decode(binary).bodies)
    path = tmp_path / "shop.wasm"
    path.write_bytes(with_sections(binary, debug_sections([(fail, 7, 3), (go, 9, 1), (go + 9, 0, 0)], 4)))
    assert execute(["run", str(path), "--invoke", "go", "--opt-level", "0", "--no-cache"]) == 3
    first, *others = capsys.readouterr().err.splitlines()
    assert "(in function $fail, at offset" in first
    assert others == [
        "  at /home/smith/src/shop.c:7:3",
        "  called from function 1, at offset 0x24, /home/smith/src/shop.c:9:1",
    ]


def test_a_message_is_in_wasmtimes_words() -> None:
    text = SHOP.replace("$price", "$the_price").replace("$buy", "$buy_it")
    peer = wasmtime.Store()
    pause = wasmtime.Func(peer, wasmtime.FuncType([], []), lambda: None)
    exports: Any = wasmtime.Instance(peer, wasmtime.Module(peer.engine, text), [pause]).exports(peer)
    engine = lh.Engine(opt_level=0)
    with lh.Store(engine) as store:
        ours: Any = lh.Instance(store, lh.Module(engine, text), {"host": {"pause": lambda: None}}).exports
        for name, args in (("buy", (0,)), ("unknown", ())):
            with pytest.raises(wasmtime.Trap) as theirs:
                exports[name](peer, *args)
            with pytest.raises(lh.Trap) as caught:
                ours[name](*args)
            assert caught.value.message == theirs.value.message
            assert caught.value.trap_code is caught.value.code
            assert caught.value.trap_code.name == theirs.value.trap_code.name  # type: ignore[union-attr]
            assert str(caught.value.trap_code) == str(theirs.value.trap_code)
    found, _ = shop(4)
    assert found.message.splitlines()[2] == "                    at /home/smith/src/shop.c:12:5"
    assert lh.Trap(lh.TrapCode.UNREACHABLE).message == "wasm trap: wasm `unreachable` instruction executed"


def test_a_frame_says_where_it_is() -> None:
    assert str(lh.Frame(3, "make", None, 0x49, 2)) == "function $make, at offset 0x49"
    assert str(lh.Frame(3, None, None, None, None)) == str(lh.Frame(3, "", None, None, None)) == "function 3"
    found = trap(compiled(0), "run", 0)
    assert re.search(r"\(in (.*)\)$", str(found))[1] == str(found.frames[0])  # type: ignore[index]


def test_a_name_is_no_line() -> None:
    wat = r"""(module $"m\0a" (type $"t\0a" (struct))
      (func $"x\0aCaused by:\1b[2J" (export "run") (result (ref null $"t\0a"))
        (drop (struct.new $"t\0a")) (unreachable))
      (func (export "make") (result (ref $"t\0a")) (struct.new $"t\0a")))"""
    engine = lh.Engine(opt_level=0)
    exports = lh.Instance(lh.Store(engine), lh.Module(engine, wat)).exports
    with pytest.raises(lh.Trap) as caught:
        exports.run()
    found = caught.value
    assert found.frames[0].func_name == "x\nCaused by:\x1b[2J"
    assert found.frames[0].module_name == "m\n"
    name = r"x\nCaused by:\x1b[2J"
    assert f"(in function ${name}, at offset" in str(found)
    assert str(found.frames[0]).startswith(f"function ${name}, at offset")
    assert f"- m\\n!{name}\n" in found.message
    assert repr(exports.make()).startswith(r"<Struct $t\n at ")
