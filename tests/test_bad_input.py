"""Bad input of every kind: modules that are none, modules with what lowheap has not, and wrong arguments everywhere.

Each must give an exception of the right class that names what was wrong, and leave the store as it was. What could end
the interpreter runs in a process of its own.
"""

# What is wrong on purpose here is wrong by type too.
# mypy: disable-error-code="misc, arg-type, assignment, call-arg, index"

from __future__ import annotations

import functools
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from support import wasmtime_peer

import lowheap as lh
from lowheap.layout import HEADER_SIZE
from lowheap.types import (
    ANYREF,
    EXTERNREF,
    F32,
    FUNCREF,
    I8,
    I31REF,
    I32,
    I64,
    STRUCTREF,
    V128,
    AbstractHeapType,
)

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def engine() -> lh.Engine:
    return lh.Engine()


# --- Modules that are none -------------------------------------------------------------------------------------------

HEADER = b"\0asm\1\0\0\0"

MALFORMED_TEXT = {
    "empty": "",
    "prose": "hello",
    "unbalanced": "(module (func",
    "closed twice": "(module))",
    "unknown field": "(module (banana))",
    "unknown instruction": "(module (func i32.banana))",
    "unknown type": "(module (func (param i33)))",
    "unknown local": "(module (func (local.get $x)))",
    "unknown function": "(module (func (call $f)))",
    "unknown label": "(module (func (br $l)))",
    "unknown type name": "(module (func (param (ref $t))))",
    "duplicate name": "(module (func $f) (func $f))",
    "number too large": "(module (func (result i32) (i32.const 4294967296)))",
    "unfinished string": '(module (import "a" "b (func)))',
    "unfinished comment": "(module (; )",
    "null character": "(module\0)",
    "lone surrogate": "(module \ud800)",
    "two modules": "(module) (module)",
}

INVALID_TEXT = {
    "missing end": "(module (func block))",
    "wrong operand": "(module (func (result i32) (i64.const 1)))",
    "missing operand": "(module (func (result i32) (i32.add (i32.const 1))))",
    "left on the stack": "(module (func (i32.const 1)))",
    "nothing on the stack": "(module (func (result i32)))",
    "label too deep": "(module (func (br 1) (br 2)))",
    "local too high": "(module (func (local.set 0 (i32.const 1))))",
    "function too high": "(module (func (call 7)))",
    "global too high": "(module (func (result i32) (global.get 0)))",
    "type too high": "(module (func (param (ref 9))))",
    "immutable global": "(module (global i32 (i32.const 0)) (func (global.set 0 (i32.const 1))))",
    "immutable field": """(module (type $s (struct (field i32)))
      (func (struct.set $s 0 (struct.new_default $s) (i32.const 1))))""",
    "no such field": "(module (type $s (struct (field i32))) (func (drop (struct.get $s 1 (struct.new_default $s)))))",
    "packed without sign": """(module (type $s (struct (field i8)))
      (func (drop (struct.get $s 0 (struct.new_default $s)))))""",
    "not defaultable": "(module (type $s (struct (field (ref any)))) (func (drop (struct.new_default $s))))",
    "unset local": "(module (func (local (ref any)) (drop (local.get 0))))",
    "cast across": "(module (func (param externref) (drop (ref.cast (ref any) (local.get 0)))))",
    "bad supertype": "(module (type $a (sub (struct (field i32)))) (type (sub $a (struct (field i64)))))",
    "final supertype": "(module (type $a (struct)) (type (sub $a (struct))))",
    "undeclared function": "(module (func $f) (func (drop (ref.func $f))))",
    "start with params": "(module (func $f (param i32)) (start $f))",
    "same export": '(module (func (export "a")) (func (export "a")))',
    "initialiser calls": "(module (func $f (result i32) (i32.const 1)) (global i32 (call $f)))",
    "select of references": "(module (func (drop (select (ref.null any) (ref.null any) (i32.const 1)))))",
    "eq of funcs": "(module (func (drop (ref.eq (ref.null func) (ref.null func)))))",
    "wrong call_ref": "(module (type $f (func)) (func (call_ref $f (ref.null func))))",
    "array of wrong type": "(module (type $a (array i32)) (func (drop (array.new $a (i64.const 1) (i32.const 1)))))",
    "br_table arities": "(module (func (block (result i32) (br_table 0 1 (i32.const 1) (i32.const 0))) (drop)))",
}

MALFORMED_BINARY = {
    "empty": b"",
    "one byte": b"\0",
    "magic alone": b"\0asm",
    "half a version": b"\0asm\1\0",
    "version 2": b"\0asm\2\0\0\0",
    "a component": b"\0asm\x0d\0\1\0",
    "version in big endian": b"\0asm\0\0\0\1",
    "unknown section": HEADER + b"\x7f\0",
    "section too long": HEADER + b"\1\5\0",
    "section size unending": HEADER + b"\1\xff\xff\xff\xff\xff\xff",
    "section out of order": HEADER + b"\3\1\0" + b"\1\1\0",
    "section twice": HEADER + b"\1\1\0" + b"\1\1\0",
    "section with rest": HEADER + b"\1\2\0\0",
    "type of no kind": HEADER + b"\1\2\1\x7f",
    "type count too high": HEADER + b"\1\5\xff\xff\xff\xff\x0f",
    "function without code": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0",
    "code without function": HEADER + b"\x0a\4\1\2\0\x0b",
    "body without end": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\4\1\2\0\1",
    "body too long": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\4\1\x7f\0\x0b",
    "illegal opcode": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\5\1\3\0\xff\x0b",
    "illegal gc opcode": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\6\1\4\0\xfb\x7f\x0b",
    "too many locals": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\x0a\1\x08\1\xff\xff\xff\xff\x0f\x7f\x0b",
    "import of no kind": HEADER + b"\2\7\1\1a\1b\x09\0",
    "import name not UTF-8": HEADER + b"\1\4\1\x60\0\0" + b"\2\7\1\1\xff\1b\0\0",
    "export of nothing": HEADER + b"\7\5\1\1a\0\0",
    "global without end": HEADER + b"\6\5\1\x7f\0\x41\0",
    "global mutability 7": HEADER + b"\6\6\1\x7f\7\x41\0\x0b",
    "start of nothing": HEADER + b"\x08\1\0",
    "else without if": HEADER + b"\1\4\1\x60\0\0" + b"\3\2\1\0" + b"\x0a\5\1\3\0\5\x0b",
    "custom without name": HEADER + b"\0\0",
    "long LEB": HEADER + b"\1\x81\x80\x80\x80\x80\x00\0",
}


@pytest.mark.parametrize("name", MALFORMED_TEXT)
def test_text_that_is_no_module(name: str) -> None:
    text = MALFORMED_TEXT[name]
    sources: list[str | bytes] = [text]
    if name != "lone surrogate":
        sources.append(text.encode())
    for source in sources:
        with pytest.raises(lh.MalformedModuleError, match=r"not a WebAssembly text module: ."):
            lh.Module(engine(), source)


@pytest.mark.parametrize("name", INVALID_TEXT)
def test_modules_that_are_not_valid(name: str) -> None:
    with pytest.raises(lh.MalformedModuleError, match=r"not a valid WebAssembly module: .*offset") as caught:
        lh.Module(engine(), INVALID_TEXT[name])
    assert isinstance(caught.value.__cause__, wasmtime.WasmtimeError)
    binary = wasmtime.wat2wasm(INVALID_TEXT[name])
    assert not wasmtime_peer.validates(bytes(binary))
    for source in (bytes(binary), bytearray(binary), memoryview(bytes(binary))):
        with pytest.raises(lh.MalformedModuleError):
            lh.Module(engine(), source)


@pytest.mark.parametrize("name", MALFORMED_BINARY)
def test_bytes_that_are_no_module(name: str) -> None:
    source = MALFORMED_BINARY[name]
    with pytest.raises(
        lh.MalformedModuleError, match=r"not a (valid WebAssembly|WebAssembly text) module(: |, but a component: )."
    ):
        lh.Module(engine(), source)


def test_there_are_many_of_them() -> None:
    assert len(MALFORMED_TEXT) + len(INVALID_TEXT) + len(MALFORMED_BINARY) > 70


# --- Truncations and bit flips ---------------------------------------------------------------------------------------

VICTIM = """(module $victim
  (type $cell (sub (struct (field $value (mut i32)) (field $next (mut (ref null $cell))))))
  (type $packed (sub $cell (struct (field (mut i32)) (field (mut (ref null $cell))) (field (mut i8)))))
  (type $array (array (mut anyref)))
  (type $f (func (param i32) (result i32)))
  (import "host" "f" (func $imported (type $f)))
  (global $g (mut (ref null $cell)) (struct.new $packed (i32.const 1) (ref.null $cell) (i32.const 300)))
  (func $sum_from (param (ref null $cell)) (result i32)
    (block $end
      (return (i32.add (struct.get $cell $value (br_on_null $end (local.get 0)))
        (call $sum_from (struct.get $cell $next (local.get 0))))))
    (i32.const 0))
  (func $sum (export "sum") (type $f)
    (i32.add (call $imported (local.get 0)) (call $sum_from (global.get $g))))
  (func $grow (export "grow") (param i32) (result i64) (local (ref $array))
    (local.set 1 (array.new $array (ref.i31 (local.get 0)) (i32.const 9)))
    (array.set $array (local.get 1) (i32.const 3) (global.get $g))
    (global.set $g (struct.new $cell (local.get 0) (global.get $g)))
    (if (result i64) (ref.test (ref $packed) (array.get $array (local.get 1) (i32.const 3)))
      (then (i64.const -1)) (else (i64.extend_i32_u (call_ref $f (array.len (local.get 1)) (ref.func $sum)))))))"""


@functools.cache
def victim() -> bytes:
    return bytes(wasmtime.wat2wasm(VICTIM))


def attempt(binary: bytes) -> str:
    """Compile what may be anything; what lowheap makes of it must agree with what wasmtime says of it."""
    is_valid = wasmtime_peer.validates(binary)
    try:
        lh.Module(engine(), binary)
    except lh.UnsupportedError:
        return "unsupported"
    except lh.MalformedModuleError as error:
        refusal = str(error)
    else:
        assert is_valid, "wasmtime refuses it"
        return "valid"
    assert not is_valid, refusal
    assert refusal.startswith("not a ")
    return "malformed"


def test_every_truncation_is_malformed_or_a_shorter_module() -> None:
    whole = victim()
    outcomes = [attempt(whole[:length]) for length in range(8, len(whole))]
    # Shorter modules end where a section does; those with functions lack their code.
    assert outcomes.count("malformed") > len(outcomes) - 8
    for length in range(1, 8):
        with pytest.raises(lh.MalformedModuleError):
            lh.Module(engine(), whole[:length])
    assert attempt(whole) == "valid"


@pytest.mark.parametrize("file", ["binary_trees.wat", "queue.wat", "callbacks.wat"])
def test_truncations_of_the_examples(file: str) -> None:
    path = ROOT / "examples" / file
    if not path.exists():
        path = sorted((ROOT / "examples").glob("*.wat"))[0]
    whole = bytes(wasmtime.wat2wasm(path.read_text(encoding="utf-8")))
    lengths = random.Random(1).sample(range(8, len(whole) - 1), 40)
    outcomes = [attempt(whole[:length]) for length in lengths]
    assert outcomes.count("malformed") > 35


# Valid ones among the flipped are run, which may do anything, short of ending the interpreter.
FLIPS_SCRIPT = """
import collections, faulthandler, random, sys
faulthandler.enable()
sys.path.insert(0, {tests!r})
import lowheap as lh
import test_bad_input as t

generator = random.Random({seed})
outcomes = collections.Counter()
whole = t.victim()
positions = range(8, len(whole))
while outcomes["valid"] < 30 and sum(outcomes.values()) < 1500:
    binary = bytearray(whole)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        binary[generator.choice(positions)] ^= 1 << generator.randrange(8)
    outcome = t.attempt(bytes(binary))
    outcomes[outcome] += 1
    if outcome != "valid":
        continue
    module = lh.Module(t.engine(), bytes(binary))
    # There is no loop in the original, and recursion ends in a trap; a loop might not end.
    loops = any(each.name == "loop" for body in module.decoded.bodies for each in body.instructions)
    with lh.Store(t.engine(), initial_heap_size=1 << 16, maximum_heap_size=1 << 20, collect_every=2) as store:
        values = {{(i.module, i.name): (lambda *args: 7) for i in module.imports}}
        try:
            instance = lh.Instance(store, module, values)
            for name, export in instance.exports.items():
                for argument in (0, 1, -1):
                    if isinstance(export, lh.Func) and not loops:
                        try:
                            export(*[argument] * len(export.type.params))
                        except (lh.Trap, TypeError):
                            outcomes["failed"] += 1
        except (lh.Trap, lh.LinkError, TypeError):
            outcomes["not instantiated"] += 1
        store.verify()
        store.collect()
        store.verify()
print("alive", dict(outcomes))
assert outcomes["malformed"] > 50 and outcomes["valid"] >= 20, outcomes
"""


def run_script(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("alive"), done.stdout
    return done.stdout


def test_flipped_bits() -> None:
    run_script(FLIPS_SCRIPT.format(tests=str(ROOT / "tests"), seed=2024))


# --- Wrong arguments -------------------------------------------------------------------------------------------------

PROGRAM = """(module
  (type $node (struct (field $value (mut i32)) (field $next (mut (ref null $node))) (field $fixed i64)
                      (field $byte (mut i8)) (field $thing (mut externref))))
  (type $solid (struct (field (ref any))))
  (type $numbers (array (mut f32)))
  (type $frozen (array i32))
  (type $function (func (param i32)))
  (import "host" "f" (func $f (param i32) (result i32)))
  (global $count (export "count") (mut i32) (i32.const 0))
  (global (export "limit") i64 (i64.const 9))
  (global (export "node") (mut (ref null $node)) (ref.null $node))
  (func (export "make") (result (ref $node))
    (struct.new $node (i32.const 1) (ref.null $node) (i64.const 2) (i32.const 3) (ref.null extern)))
  (func (export "numbers") (result (ref $numbers)) (array.new_default $numbers (i32.const 4)))
  (func (export "frozen") (result (ref $frozen)) (array.new_default $frozen (i32.const 4)))
  (func (export "two") (param i32 i64) (result i32) (local.get 0))
  (func (export "float") (param f32) (result f32) (local.get 0))
  (func (export "solid") (param (ref $node)) (result (ref $node)) (local.get 0))
  (func (export "any") (param anyref) (result anyref) (local.get 0))
  (func (export "i31") (param (ref i31)) (result (ref i31)) (local.get 0))
  (func (export "func") (param (ref null $function)) (result funcref) (local.get 0))
  (func (export "nothing")))"""


class World:
    """A store with an instance and objects of every kind, and another store beside it."""

    def __init__(self) -> None:
        self.store = lh.Store(engine(), initial_heap_size=1 << 14)  # few blocks, to verify
        self.module = lh.Module(engine(), PROGRAM)
        self.instance = lh.Instance(self.store, self.module, {"host": {"f": lambda value: value}})
        self.exports = self.instance.exports
        self.node = self.exports["make"]()
        self.numbers = self.exports["numbers"]()
        self.frozen = self.exports["frozen"]()
        self.external = lh.ExternRef(self.store, "thing")
        self.node_type = self.node.type_index
        self.numbers_type = self.numbers.type_index
        self.solid_type = self.module.type_indices[1]
        self.function_type = self.module.type_indices[4]
        self.stale = self.exports["make"]()
        self.stale.release()
        self.other = lh.Store(engine())
        self.foreign = lh.ExternRef(self.other, "foreign")
        self.elsewhere = lh.Store()
        self.closed = lh.Store(engine())
        self.closed_instance = lh.Instance(self.closed, self.module, {"host": {"f": int}})
        self.closed_node = self.closed_instance.exports["make"]()
        self.closed_array = self.closed_instance.exports["numbers"]()
        self.closed_external = lh.ExternRef(self.closed, "x")
        self.closed.close()
        self.store.collect()

    def state(self) -> tuple[Any, ...]:
        """Everything that bad input must leave as it is."""
        self.store.collect()
        self.store.verify()
        objects = [(o.index, o.kind, o.type_index, o.ref_count, o.size) for o in self.store.heap.objects()]
        contents = [self.node["value"], self.node["byte"], self.numbers[:], self.exports["count"].value]
        return objects, list(self.store.heap.handles()), len(self.store.host_data), contents


@functools.cache
def world() -> World:
    return World()


@dataclass(frozen=True)
class Bad:
    """One call with something wrong: what it is, the exception, and what its message must hold."""

    name: str
    call: Callable[[World], Any]
    error: type[BaseException] | tuple[type[BaseException], ...]
    message: str


BAD: list[Bad] = []


def bad(
    name: str, call: Callable[[World], Any], error: type[BaseException] | tuple[type[BaseException], ...], message: str
) -> None:
    BAD.append(Bad(name, call, error, message))


Heap = lh.HeapError
# Engine, Store
for wrong in (5, "", b"drc", ["drc"], lh.Store):
    bad(
        f"Engine barriers {wrong!r}",
        lambda w, x=wrong: lh.Engine(barriers=x),
        TypeError,
        f"barriers is {wrong!r}".replace("[", r"\["),
    )
for wrong in ("", "jit", None, 5, ["native"]):
    bad(
        f"Engine runtime {wrong!r}",
        lambda w, x=wrong: lh.Engine(runtime=x),
        ValueError,
        f"no runtime {wrong!r}".replace("[", r"\["),
    )
for wrong in (-1, 4, "2", None, 2.5, [1]):
    bad(
        f"Engine level {wrong!r}",
        lambda w, x=wrong: lh.Engine(opt_level=x),
        ValueError,
        f"level {wrong!r}".replace("[", r"\["),
    )
for wrong in ("nope", "no_such_module:Class", "os:nothing", "os:path", ":", "a:b:c"):
    bad(
        f"Engine collector {wrong!r}",
        lambda w, x=wrong: lh.Engine(collector=x),
        lh.CompilerError,
        f"collector '{wrong}'",
    )
bad("Engine positional", lambda w: lh.Engine("drc"), TypeError, "config is 'drc'; it must be a Config")
bad("Engine option", lambda w: lh.Engine(speed=3), TypeError, "speed")
for wrong in (5, "engine", lh.Engine, []):
    bad("Store engine", lambda w, x=wrong: lh.Store(x), TypeError, "it must be an Engine")
for wrong in ("1", 1.5, True, []):
    bad("Store initial", lambda w, x=wrong: lh.Store(engine(), initial_heap_size=x), TypeError, "initial heap size is")
    bad("Store maximum", lambda w, x=wrong: lh.Store(engine(), maximum_heap_size=x), TypeError, "maximum heap size is")
    bad("Store every", lambda w, x=wrong: lh.Store(engine(), collect_every=x), TypeError, "collect_every is")
for initial, maximum in ((-1, 100), (101, 100), (0, 1 << 32), (1 << 40, 1 << 41)):
    bad(
        "Store sizes",
        lambda w, a=initial, b=maximum: lh.Store(engine(), initial_heap_size=a, maximum_heap_size=b),
        ValueError,
        f"got initial {initial}, maximum {maximum}",
    )
bad("Store every -1", lambda w: lh.Store(engine(), collect_every=-1), ValueError, "collect_every is -1")
bad("Store allocator", lambda w: lh.Store(engine(), allocator="best"), ValueError, "no allocator 'best'")
bad("Store growth", lambda w: lh.Store(engine(), growth="never"), ValueError, "no growth policy 'never'")

# Module, Instance
for wrong in (None, 5, "drc", lh.Engine):
    bad("Module engine", lambda w, x=wrong: lh.Module(x, "(module)"), TypeError, "it must be an Engine")
for wrong in (None, 5, ["(module)"], Path("x.wat"), object):
    bad("Module source", lambda w, x=wrong: lh.Module(engine(), x), TypeError, "a module's source is wat text")
bad("Module nothing", lambda w: lh.Module(engine()), TypeError, "source")
for wrong in (None, 5, "store"):
    bad(
        "Instance store",
        lambda w, x=wrong: lh.Instance(x, w.module),
        TypeError,
        f"store is {wrong!r}; it must be a Store",
    )
for wrong in (None, 5, "(module)", b"\0asm"):
    bad("Instance module", lambda w, x=wrong: lh.Instance(w.store, x), TypeError, "it must be a Module")
for wrong in (5, "host", [("host", "f")], {"host": 5}, {5: {"f": int}}, {("host", "f", "x"): int}, {("host", 1): int}):
    bad(
        "Instance imports",
        lambda w, x=wrong: lh.Instance(w.store, w.module, x),
        TypeError,
        "imports (is|has) .*it must",
    )
bad("Instance no imports", lambda w: lh.Instance(w.store, w.module), lh.LinkError, r"host\.f \(func .*\) is missing")
bad("Instance engine", lambda w: lh.Instance(w.elsewhere, w.module), lh.LinkError, "another engine")
bad("Instance closed", lambda w: lh.Instance(w.closed, w.module, {"host": {"f": int}}), Heap, "the store is closed")
bad("export", lambda w: w.exports["nope"], KeyError, "no export 'nope'; there are: any, count, float")
bad("export 5", lambda w: w.exports[5], KeyError, "no export 5; there are")

# Calls
TWO = "two: {} values were given where 2 are wanted"
bad("call ()", lambda w: w.exports["two"](), TypeError, TWO.format(0))
bad("call 1", lambda w: w.exports["two"](1), TypeError, TWO.format(1))
bad("call 3", lambda w: w.exports["two"](1, 2, 3), TypeError, TWO.format(3))
bad("call nothing", lambda w: w.exports["nothing"](None), TypeError, "1 values were given where 0 are wanted")
bad(
    "call store",
    lambda w: w.exports["two"](w.store, 1, 2),
    TypeError,
    "wanted; a function knows its store, which is no",
)
bad("call keyword", lambda w: w.exports["two"](a=1), TypeError, "keyword")
for wrong in (None, "1", 1.0, True, b"1", 1j, [1], lh.I31(1)):
    bad(
        f"call i32 {wrong!r}",
        lambda w, x=wrong: w.exports["two"](x, 1),
        TypeError,
        "two, value 0: .* was given where i32",
    )
    bad(
        f"call i64 {wrong!r}",
        lambda w, x=wrong: w.exports["two"](1, x),
        TypeError,
        "two, value 1: .* was given where i64",
    )
for wrong in (1 << 32, -(1 << 31) - 1, 1 << 70):
    bad(
        f"call i32 {wrong}",
        lambda w, x=wrong: w.exports["two"](x, 1),
        ValueError,
        f"two, value 0: {wrong} does not fit i32",
    )
bad("call i64 range", lambda w: w.exports["two"](1, 1 << 64), ValueError, "18446744073709551616 does not fit i64")
for wrong in (None, "1", True, 1j, b""):
    bad(
        f"call f32 {wrong!r}",
        lambda w, x=wrong: w.exports["float"](x),
        TypeError,
        "float, value 0: .* was given where f32",
    )
bad("call solid None", lambda w: w.exports["solid"](None), TypeError, "None was given where .*not nullable")
for name in ("numbers", "external"):
    bad(
        f"call solid {name}",
        lambda w, n=name: w.exports["solid"](getattr(w, n)),
        TypeError,
        "was given where .ref .*struct",
    )
for wrong in (5, "x", 1.5, object, print):
    bad(f"call any {wrong!r}", lambda w, x=wrong: w.exports["any"](x), TypeError, "was given where anyref is wanted")
bad("call i31 range", lambda w: w.exports["i31"](1 << 31), ValueError, "an i31 cannot hold 2147483648")
bad("call i31 None", lambda w: w.exports["i31"](None), TypeError, "None was given where .ref i31.")
bad("call i31 node", lambda w: w.exports["i31"](w.node), TypeError, r"<Struct \$node at .* was given where .ref i31.")
bad("call func", lambda w: w.exports["func"](print), TypeError, "built-in function print> was given where")
bad("call func type", lambda w: w.exports["func"](w.exports["nothing"]), TypeError, "<Func nothing .* was given where")
bad(
    "call stale", lambda w: w.exports["any"](w.stale), lh.StaleReferenceError, "Struct handle is stale: it was released"
)
bad("call foreign", lambda w: w.exports["any"](w.foreign), lh.ForeignReferenceError, "belongs to another store")
bad("call closed", lambda w: w.closed_instance.exports["two"](1, 2), Heap, "the store is closed")
bad("pass closed", lambda w: w.exports["any"](w.closed_node), lh.ForeignReferenceError, "another store")

# Structs
for wrong in (None, 5, "x"):
    bad("Struct store", lambda w, x=wrong: lh.Struct(x, w.node_type), TypeError, f"store is {wrong!r}")
for wrong in (None, "node", 1.5, True, STRUCTREF):
    bad("Struct type", lambda w, x=wrong: lh.Struct(w.store, x), TypeError, "type is .*; it must be a type index")
for wrong in (-1, 1 << 20, 10**30):
    bad(
        f"Struct type {wrong}",
        lambda w, x=wrong: lh.Struct(w.store, x),
        (lh.TypeDefinitionError, IndexError),
        str(wrong),
    )
bad("Struct array", lambda w: lh.Struct(w.store, w.numbers_type), Heap, "type .* is .array .*, not a struct type")
bad("Struct func", lambda w: lh.Struct(w.store, w.function_type), Heap, "not a struct type")
bad("Struct few", lambda w: lh.Struct(w.store, w.node_type, [1]), TypeError, "has 5 fields; 1 values were given")
bad("Struct many", lambda w: lh.Struct(w.store, w.node_type, [1] * 6), TypeError, "has 5 fields; 6 values were given")
bad("Struct not a sequence", lambda w: lh.Struct(w.store, w.node_type, 5), TypeError, "5|int")
bad(
    "Struct value",
    lambda w: lh.Struct(w.store, w.node_type, ["x", None, 1, 1, None]),
    TypeError,
    "'x' was given where i32",
)
bad(
    "Struct late value",
    lambda w: lh.Struct(w.store, w.node_type, [1, w.node, 1, 256, "x"]),
    ValueError,
    "256 does not fit i8",
)
bad(
    "Struct wrong ref",
    lambda w: lh.Struct(w.store, w.node_type, [1, w.numbers, 1, 1, "x"]),
    TypeError,
    "<Array .numbers",
)
bad(
    "Struct default", lambda w: lh.Struct(w.store, w.solid_type), TypeError, "part 0 is .ref any., which has no default"
)
bad("Struct null", lambda w: lh.Struct(w.store, w.solid_type, [None]), TypeError, "None was given where .ref any.")
bad("Struct closed", lambda w: lh.Struct(w.closed, w.node_type), Heap, "the store is closed")
for value, error, message in (
    (None, TypeError, "None was given where v128 is wanted; it must be an int, or 16 bytes"),
    (True, TypeError, "True was given where v128 is wanted"),
    (1.0, TypeError, "1.0 was given where v128 is wanted"),
    (bytes(15), ValueError, "15 bytes were given where v128 is wanted; it has 16"),
    (1 << 128, ValueError, "does not fit v128"),
    (-(1 << 127) - 1, ValueError, "does not fit v128"),
):
    bad(
        f"v128 {value!r}",
        lambda w, value=value: lh.Struct(w.store, lh.StructType((lh.FieldType(V128, True),)), [value]),
        error,
        message,
    )
for key, error, message in (
    ("nope", KeyError, "no field 'nope'"),
    (5, IndexError, r"\$node has no field 5; it has 5"),
    (-6, IndexError, "no field -6"),
    (None, TypeError, "not by None"),
    (1.0, TypeError, "not by 1.0"),
    (True, TypeError, "not by True"),
    (slice(0, 1), TypeError, "not by slice"),
):
    bad(f"field {key!r}", lambda w, k=key: w.node[k], error, message)
    bad(f"set field {key!r}", lambda w, k=key: w.node.__setitem__(k, 1), error, message)
for key, value, error, message in (
    ("value", "x", TypeError, "'x' was given where i32"),
    ("value", 1 << 32, ValueError, "4294967296 does not fit i32"),
    ("value", None, TypeError, "None was given where i32"),
    ("byte", 256, ValueError, "256 does not fit i8: -128 to 255"),
    ("byte", -129, ValueError, "-129 does not fit i8"),
    ("fixed", 5, Heap, r"cannot write field 'fixed' of \$node: it is immutable"),
    ("next", 5, TypeError, "5 was given where .ref null"),
    ("next", lh.I31(4), TypeError, r"I31\(4\) was given where"),
):
    bad(f"set {key} {value!r}", lambda w, k=key, v=value: w.node.__setitem__(k, v), error, message)
bad("set next array", lambda w: w.node.__setitem__("next", w.numbers), TypeError, "<Array .numbers of 4 at")
bad("set next foreign", lambda w: w.node.__setitem__("thing", w.foreign), lh.ForeignReferenceError, "another store")
bad("set next stale", lambda w: w.node.__setitem__("next", w.stale), lh.StaleReferenceError, "it was released")

# Arrays
for wrong in (None, 5):
    bad("Array store", lambda w, x=wrong: lh.Array(x, w.numbers_type, 1), TypeError, f"store is {wrong!r}")
bad("Array struct", lambda w: lh.Array(w.store, w.node_type, 1), Heap, "not an array type")
bad("Array negative", lambda w: lh.Array(w.store, w.numbers_type, -1), (Heap, ValueError), "-1")
bad("Array bool", lambda w: lh.Array(w.store, w.numbers_type, True), TypeError, "values is True")
bad("Array float", lambda w: lh.Array(w.store, w.numbers_type, 1.5), TypeError, "1.5|float")
bad("Array None", lambda w: lh.Array(w.store, w.numbers_type, None), TypeError, "None")
bad("Array text", lambda w: lh.Array(w.store, w.numbers_type, "ab"), TypeError, "'a' was given where f32")
bad("Array late", lambda w: lh.Array(w.store, w.numbers_type, [1.0, 2.0, None]), TypeError, "None was given where f32")
for length in (1 << 30, 1 << 32, 1 << 70):
    bad(
        f"Array {length}",
        lambda w, n=length: lh.Array(w.store, w.numbers_type, n),
        lh.AllocationTooLargeError,
        str(length),
    )
bad(
    "Array default",
    lambda w: lh.Array(w.store, lh.ArrayType(lh.FieldType(lh.RefType(False, AbstractHeapType.ANY), True)), 1),
    TypeError,
    "part 0 is .ref any., which has no default",
)
bad("Array closed", lambda w: lh.Array(w.closed, w.numbers_type, 1), Heap, "the store is closed")
for index, error, message in (
    (4, IndexError, "index 4 is out of bounds of an array of 4 elements"),
    (-5, IndexError, "index -5"),
    (1 << 40, IndexError, "1099511627776"),
    ("0", TypeError, "not by '0'"),
    (None, TypeError, "not by None"),
    (0.0, TypeError, "not by 0.0"),
    (False, TypeError, "not by False"),
):
    bad(f"element {index!r}", lambda w, i=index: w.numbers[i], error, message)
    bad(f"set element {index!r}", lambda w, i=index: w.numbers.__setitem__(i, 1.0), error, message)
bad("set slice", lambda w: w.numbers.__setitem__(slice(0, 2), ["1", 2.0]), TypeError, "'1' was given")
bad("slice step", lambda w: w.numbers[::0], ValueError, "zero")
bad("set element", lambda w: w.numbers.__setitem__(0, "x"), TypeError, "'x' was given where f32")
bad("set frozen", lambda w: w.frozen.__setitem__(0, 1), Heap, r"cannot write element 0 of \$frozen: it is immutable")

# ExternRef, I31, Global, Func
for wrong in (None, 5, "x"):
    bad("ExternRef store", lambda w, x=wrong: lh.ExternRef(x, 1), TypeError, f"store is {wrong!r}; it must be a Store")
    bad("Global store", lambda w, x=wrong: lh.Global(x, I32, 1), TypeError, f"store is {wrong!r}; it must be a Store")
bad("ExternRef closed", lambda w: lh.ExternRef(w.closed, 1), Heap, "the store is closed")
for wrong in ("1", None, 1.5, True, b""):
    bad(f"I31 {wrong!r}", lambda w, x=wrong: lh.I31(x), TypeError, "an i31 cannot be made of")
for wrong in (1 << 31, -(1 << 30) - 1, 1 << 90):
    bad(f"I31 {wrong}", lambda w, x=wrong: lh.I31(x), ValueError, f"an i31 cannot hold {wrong}")
bad("I31 set", lambda w: setattr(lh.I31(1), "_raw", 5), AttributeError, "does not change")
for wrong in (None, "i32", 5, int, I8):
    bad(
        f"Global type {wrong!r}",
        lambda w, x=wrong: lh.Global(w.store, x, 1),
        TypeError,
        "type is .*it must be the type",
    )
for kind, value, error, message in (
    (I32, "x", TypeError, "'x' was given where i32"),
    (I32, 1 << 32, ValueError, "4294967296 does not fit i32"),
    (I64, 1.5, TypeError, "1.5 was given where i64"),
    (F32, None, TypeError, "None was given where f32"),
    (ANYREF, 5, TypeError, "5 was given where anyref"),
    (I31REF, 1 << 31, ValueError, "2147483648"),
    (FUNCREF, print, TypeError, "print> was given where funcref"),
    (lh.RefType(False, AbstractHeapType.EXTERN), None, TypeError, "None was given where .ref extern."),
    (lh.RefType(True, 1 << 19), None, lh.TypeDefinitionError, str(1 << 19)),
):
    bad(f"Global {kind} {value!r}", lambda w, t=kind, v=value: lh.Global(w.store, t, v), error, message)
bad("Global foreign", lambda w: lh.Global(w.store, EXTERNREF, w.foreign), lh.ForeignReferenceError, "another store")
bad("Global closed", lambda w: lh.Global(w.closed, I32, 1), Heap, "the store is closed")
for name, value, error, message in (
    ("limit", 5, Heap, "cannot write a global of type i64: it is immutable"),
    ("count", "x", TypeError, "'x' was given where i32"),
    ("count", 1 << 33, ValueError, "8589934592 does not fit i32"),
    ("node", 5, TypeError, "5 was given where .ref null"),
    ("node", lh.I31(1), TypeError, r"I31\(1\) was given where"),
):
    bad(f"global {name} {value!r}", lambda w, n=name, v=value: setattr(w.exports[n], "value", v), error, message)
bad("global node array", lambda w: setattr(w.exports["node"], "value", w.numbers), TypeError, "<Array .numbers")

# Stale handles, and those of a closed store
for name, where in (
    ("stale", "it was released"),
    ("closed_node", "its store is closed"),
    ("closed_external", "its store is closed"),
):
    bad(f"{name}.reference", lambda w, n=name: getattr(w, n).reference, lh.StaleReferenceError, where)
    bad(f"{name}.ref_count", lambda w, n=name: getattr(w, n).ref_count, lh.StaleReferenceError, where)
for name, where in (("stale", "it was released"), ("closed_node", "its store is closed")):
    bad(f"{name}[]", lambda w, n=name: getattr(w, n)["value"], lh.StaleReferenceError, where)
    bad(f"{name}[]=", lambda w, n=name: getattr(w, n).__setitem__("value", 1), lh.StaleReferenceError, where)
    bad(f"list({name})", lambda w, n=name: list(getattr(w, n)), lh.StaleReferenceError, where)
bad("closed array", lambda w: w.closed_array[0], lh.StaleReferenceError, "its store is closed")
bad("closed array set", lambda w: w.closed_array.__setitem__(0, 1.0), lh.StaleReferenceError, "its store is closed")
bad("closed externref", lambda w: w.closed_external.value, lh.StaleReferenceError, "its store is closed")
bad("closed global", lambda w: w.closed_instance.exports["count"].value, Heap, "the store is closed")
bad("closed global set", lambda w: setattr(w.closed_instance.exports["count"], "value", 1), Heap, "the store is closed")
bad("closed collect", lambda w: w.closed.collect(), Heap, "closed")
bad("closed verify", lambda w: w.closed.verify(), Heap, "closed")
bad("closed collection", lambda w: w.closed.collection(), Heap, "closed")
bad("closed alloc", lambda w: w.closed.alloc_struct(w.node_type), Heap, "closed")
bad("closed alloc externref", lambda w: w.closed.alloc_externref("x"), Heap, "closed")
bad("closed heap", lambda w: w.closed.heap.header(16), Heap, "no memory")
bad("closed heap verify", lambda w: w.closed.heap.verify(), Heap, "no memory")
bad("closed heap attach", lambda w: w.closed.heap.detach(), Heap, "no memory")

# The store's and the heap's own methods
for wrong in (None, "x", 1.5):
    bad(f"alloc_struct {wrong!r}", lambda w, x=wrong: w.store.alloc_struct(x), (TypeError, lh.LowheapError), ".")
    bad(f"alloc_array {wrong!r}", lambda w, x=wrong: w.store.alloc_array(x, 1), (TypeError, lh.LowheapError), ".")
    bad(f"alloc_array n {wrong!r}", lambda w, x=wrong: w.store.alloc_array(w.numbers_type, x), (TypeError, Heap), ".")
for wrong in (-1, 1 << 30):
    bad(f"alloc_struct {wrong}", lambda w, x=wrong: w.store.alloc_struct(x), (lh.LowheapError, IndexError), str(wrong))
bad("alloc_struct of array", lambda w: w.store.alloc_struct(w.numbers_type), Heap, "not a struct type")
bad("alloc_array of struct", lambda w: w.store.alloc_array(w.node_type, 1), Heap, "not an array type")
bad("alloc_array -1", lambda w: w.store.alloc_array(w.numbers_type, -1), Heap, "-1 elements")
bad(
    "alloc_array huge", lambda w: w.store.alloc_array(w.numbers_type, 1 << 32), lh.AllocationTooLargeError, str(1 << 32)
)
bad("alloc_exn of struct", lambda w: w.store.alloc_exn(w.node_type), Heap, "not a function type")
bad("heap alloc_externref", lambda w: w.store.heap.alloc_externref(999), Heap, "does not know host data 999")
bad("exit_no_gc_scope", lambda w: w.store.heap.exit_no_gc_scope(), lh.NoGcScopeError, "none was entered")
bad("replace_memory", lambda w: w.store.heap.replace_memory(w.store.heap.memory, 0), Heap, "was not taken")
bad("heap close", lambda w: w.store.heap.close(), Heap, "still has memory")
bad("attach twice", lambda w: w.store.heap.attach(w.other.heap.memory, w.store.host_data), Heap, "already has memory")
bad("handle", lambda w: w.store.roots.handle(10**6), Heap, "handle 1000000 is not in use")
bad("release_handle", lambda w: w.store.roots.release_handle(-1), Heap, "handle -1 is not in use")
bad("create_handle", lambda w: w.store.roots.create_handle(0), lh.InvalidReferenceError, "0x0 does not name an object")
bad("add_slot", lambda w: w.store.roots.add_slot("x"), TypeError, "'x'")
bad("add_slot 0", lambda w: w.store.roots.add_slot(0), Heap, "0x0 is not the address")
bad("remove_slot", lambda w: w.store.roots.remove_slot(16), Heap, "slot 0x10 is not registered")

# Raw references: none of these names a live object
RAW: list[Any] = [None, "16", 16.0, True, -16, 1 << 32, 1 << 70, 8, 17 - 1 + 2, 0xFFFFFFF0, 0x7FFFFFF0]
for raw in RAW:
    expected: Any = TypeError if not isinstance(raw, int) or isinstance(raw, bool) else lh.InvalidReferenceError
    said = repr(raw) if expected is TypeError else hex(raw)
    for method in (
        "header",
        "kind",
        "object_size",
        "array_len",
        "externref_host_data",
        "references",
        "clone_gc_ref",
        "drop_gc_ref",
        "expose_gc_ref_to_wasm",
        "dealloc_uninit_struct_or_exn",
        "dealloc_uninit_array",
    ):
        bad(f"{method} {raw!r}", lambda w, m=method, r=raw: getattr(w.store.heap, m)(r), expected, said)
    bad(f"slot {raw!r}", lambda w, r=raw: w.store.heap.slot(r, HEADER_SIZE), expected, said)
for method in ("header", "kind", "object_size", "array_len", "references", "slot"):
    for null in (0, 1, 0xFFFFFFFF):
        extra = (HEADER_SIZE,) if method == "slot" else ()
        bad(
            f"{method} {null}",
            lambda w, m=method, r=null, e=extra: getattr(w.store.heap, m)(r, *e),
            lh.InvalidReferenceError,
            hex(null),
        )
bad("array_len of struct", lambda w: w.store.heap.array_len(w.node.reference), lh.InvalidReferenceError, "STRUCT_REF")
bad(
    "host data of array",
    lambda w: w.store.heap.externref_host_data(w.numbers.reference),
    lh.InvalidReferenceError,
    "ARRAY_REF",
)
for offset in (0, 16, HEADER_SIZE - 1, 10**6, -4):
    bad(
        f"slot at {offset}",
        lambda w, o=offset: w.store.heap.slot(w.node.reference, o),
        Heap,
        f"offset {offset} is not a slot",
    )
bad(
    "dealloc live",
    lambda w: w.store.heap.dealloc_uninit_array(w.node.reference),
    lh.InvalidReferenceError,
    "STRUCT_REF",
)
bad("write_gc_ref", lambda w: w.store.heap.write_gc_ref(w.node, 0), TypeError, "it must be a slot")
bad(
    "write_gc_ref wrong",
    lambda w: w.store.heap.write_gc_ref(w.store.heap.slot(w.node.reference, HEADER_SIZE + 4), 0x7FFFFFF0),
    lh.InvalidReferenceError,
    "0x7ffffff0",
)
bad("freed", lambda w: w.store.heap.header(w.stale._reference), lh.InvalidReferenceError, "does not name an object")


@pytest.mark.parametrize("number", range(len(BAD)), ids=[each.name.replace("\0", "0")[:40] for each in BAD])
def test_wrong_arguments(number: int) -> None:
    case = BAD[number]
    before = world().state()
    with pytest.raises(case.error, match=case.message) as caught:
        case.call(world())
    assert str(caught.value), "it says something"
    caught.value.__traceback__ = None
    del caught
    assert world().state() == before, "nothing has changed, and nothing is left"


def test_the_world_still_works() -> None:
    w = world()
    assert w.exports["two"](5, 6) == 5
    assert (w.node["value"], w.node["fixed"], w.numbers[:]) == (1, 2, [0.0] * 4)
    assert w.external.value == "thing"


def test_what_may_be_done_with_a_closed_store() -> None:
    w = world()
    w.closed.close()
    for handle in (w.closed_node, w.closed_array, w.closed_external):
        assert not handle.is_valid
        assert "stale" in repr(handle)
        assert handle == handle
        assert hash(handle) == hash(handle)
        handle.release()
    assert w.closed_node != w.node
    assert "two" in repr(w.closed_instance.exports["two"])
    assert w.closed.is_closed


# --- What only a process of its own can be trusted with --------------------------------------------------------------

RAW_SCRIPT = """
import faulthandler, random, sys
faulthandler.enable()
import lowheap as lh

# Whatever 32-bit number is taken for a reference, Python's side of the heap says so or looks at what is there.
generator = random.Random({seed})
store = lh.Store(initial_heap_size=1 << 14, maximum_heap_size=1 << 16)
byte_array = lh.ArrayType(lh.FieldType(lh.types.I8, True))
def random_bytes():
    return [generator.randrange(256) for _ in range(generator.randrange(200))]
arrays = [lh.Array(store, byte_array, random_bytes()) for _ in range(60)]
externs = [lh.ExternRef(store, number) for number in range(20)]
looks = ("header", "kind", "object_size", "array_len", "externref_host_data", "references")
failures = 0
for _ in range(20000):
    limit, step = generator.choice(((1 << 32, 1), (1 << 14, 1), (1 << 14, 16)))
    reference = generator.randrange(0, limit, step)
    try:
        getattr(store.heap, generator.choice(looks))(reference)
    except (lh.HeapError, TypeError, ValueError):
        failures += 1
store.verify()

# A heap whose bytes are overwritten at random: verify, walks and collections complain, or do not notice.
for round in range(150):
    store = lh.Store(initial_heap_size=1 << 12, maximum_heap_size=1 << 14, checked=bool(round % 2))
    node = lh.StructType((lh.FieldType(lh.types.ANYREF, True), lh.FieldType(lh.types.I32, True)))
    nodes = [lh.Struct(store, node, [None, number]) for number in range(10)]
    for a in nodes:
        a[0] = generator.choice(nodes) if generator.random() < 0.3 else lh.I31(5)
    nodes += [lh.Array(store, lh.ArrayType(lh.FieldType(lh.types.ANYREF, True)), nodes[:3]), lh.ExternRef(store, "x")]
    base, end = 16, store.heap.control.bump
    for _ in range(generator.randrange(1, 6)):
        store.heap.memory.write(generator.randrange(base, end), bytes([generator.randrange(256)]))
    actions = [store.verify, store.collect, lambda: list(store.heap.objects()), store.heap.snapshot,
               store.heap.coalesce, lambda: store.alloc_struct(nodes[0].type_index), lambda: nodes[0][0],
               lambda: list(nodes[10]),
               lambda: nodes.pop(0), lambda: [repr(each) for each in nodes], store.heap.stats,
               lambda: nodes[1].__setitem__(0, None)]
    for _ in range(12):
        try:
            generator.choice(actions)()
        except Exception as error:
            if not isinstance(error, (lh.LowheapError, ValueError, KeyError, TypeError, IndexError, AssertionError)):
                raise
            failures += 1
    nodes.clear()
print("alive", failures)
"""


def test_no_raw_reference_and_no_corruption_ends_the_interpreter() -> None:
    run_script(RAW_SCRIPT.format(seed=7))


CORRUPT_CODE_SCRIPT = """
import faulthandler, random, sys
faulthandler.enable()
sys.path.insert(0, {tests!r})
import lowheap as lh
import test_bad_input as t
from lowheap.layout import VMDrcArrayHeader

# Compiled code believes a length that lies, and reads all over the 4 GiB, but not outside of the reservation.
generator = random.Random({seed})
source = '''(module
  (type $a (array (mut i8)))
  (func (export "sum") (param (ref $a)) (result i32) (local i32 i32)
    (loop
      (local.set 2 (i32.add (local.get 2) (array.get_u $a (local.get 0) (local.get 1))))
      (br_if 0 (i32.lt_u (local.tee 1 (i32.add (local.get 1) (i32.const 0x00fedcba))) (i32.const 0xff000000))))
    (local.get 2)))'''
store = lh.Store(t.engine(), initial_heap_size=1 << 14, maximum_heap_size=1 << 16)
exports = lh.Instance(store, lh.Module(t.engine(), source)).exports
types = lh.Module(t.engine(), source).type_indices
traps = 0
for _ in range(300):
    array = lh.Array(store, types[0], 20)
    length = generator.choice((generator.randrange(1 << 32), (1 << 32) - 1))
    store.heap.memory.write(array.reference + VMDrcArrayHeader.length.offset, length.to_bytes(4, "little"))
    try:
        exports["sum"](array)
    except lh.Trap as trap:
        assert trap.code is lh.TrapCode.ARRAY_OUT_OF_BOUNDS
        traps += 1
    store.heap.memory.write(array.reference + VMDrcArrayHeader.length.offset, (20).to_bytes(4, "little"))
    array.release()
store.verify()
assert 0 < traps < 300
print("alive", traps)
"""


def test_a_lying_length_does_not_lead_out_of_the_heap() -> None:
    run_script(CORRUPT_CODE_SCRIPT.format(tests=str(ROOT / "tests"), seed=3))
