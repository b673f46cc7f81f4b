"""v128: as a type of values everywhere they are carried, and what its instructions compute."""

from __future__ import annotations

import functools
import itertools
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

import lowheap as lh
from lowheap.jit import engine as jit_engine
from lowheap.jit import stackmaps
from lowheap.jit.emit import PTR, Emitter
from lowheap.types import V128
from lowheap.wasm import vectors
from lowheap.wasm.opcodes import OPCODES

CONFIGURATIONS = {"native-O2": ("native", 2), "python-O0": ("python", 0)}

A, B = 0x0102030405060708090A0B0C0D0E0F10, (1 << 128) - 2


@functools.cache
def engine(configuration: str) -> lh.Engine:
    runtime, opt_level = CONFIGURATIONS[configuration]
    return lh.Engine(runtime=runtime, opt_level=opt_level)


# ----------------------------------------------------------------------------------------------------------------------
# Where vectors are carried


CARRYING = """(module
  (type $s (struct (field $a i8) (field $v (mut v128)) (field $w v128)))
  (type $a (array (mut v128)))
  (type $f (func (param v128 i32 v128 f32) (result f32 v128 i32 v128 anyref)))
  (import "host" "f" (func $f (param i32 v128 v128 i64 anyref) (result v128 i32 anyref v128)))
  (import "host" "one" (func $one (param v128) (result v128)))
  (import "host" "g" (global $given v128))
  (global $g (export "g") (mut v128) (global.get $given))
  (elem declare func $turned)

  (func (export "same") (param v128) (result v128) (local.get 0))
  (func $turned (export "turned") (type $f)
    (local.get 3) (local.get 2) (local.get 1) (local.get 0) (ref.i31 (i32.const 7)))
  (func (export "through") (type $f)
    (call_ref $f (local.get 0) (local.get 1) (local.get 2) (local.get 3) (ref.func $turned)))
  (func (export "host") (param v128 v128 anyref) (result v128 i32 anyref v128)
    (call $f (i32.const 5) (local.get 0) (local.get 1) (i64.const 7) (local.get 2)))
  (func (export "one") (param v128) (result v128) (call $one (local.get 0)))
  (func (export "swap") (param v128) (result v128) (global.get $g) (global.set $g (local.get 0)))

  (func (export "struct") (param v128) (result (ref $s)) (struct.new $s (i32.const 1) (local.get 0) (local.get 0)))
  (func (export "struct_default") (result (ref $s)) (struct.new_default $s))
  (func (export "field") (param (ref $s)) (result v128) (struct.get $s $v (local.get 0)))
  (func (export "set_field") (param (ref $s) v128) (struct.set $s $v (local.get 0) (local.get 1)))
  (func (export "array") (param v128 i32) (result (ref $a)) (array.new $a (local.get 0) (local.get 1)))
  (func (export "fixed") (param v128) (result (ref $a))
    (local v128) (array.new_fixed $a 2 (local.get 0) (local.get 1)))
  (func (export "fill_and_copy") (param (ref $a) v128)
    (array.fill $a (local.get 0) (i32.const 1) (local.get 1) (i32.const 1))
    (array.copy $a $a (local.get 0) (i32.const 2) (local.get 0) (i32.const 0) (i32.const 2)))
  (func (export "element") (param (ref $a) i32) (result v128) (array.get $a (local.get 0) (local.get 1)))

  (func (export "chosen") (param v128 v128 i32) (result v128)
    (select (result v128) (local.get 0) (local.get 1) (local.get 2)))
  (func (export "branched") (param v128 v128 i32) (result v128)
    (block (result v128) (br_if 0 (local.get 0) (local.get 2)) (drop) (local.get 1)))
  (func (export "turns") (param $v v128) (param $w v128) (param $n i32) (result v128)
    (local $held v128) (local $object (ref null $s))
    (loop $again
      (local.set $held (local.get $v))
      (local.set $object (struct.new $s (i32.const 0) (local.get $w) (local.get $held)))
      (local.set $v (struct.get $s $v (local.get $object)))
      (local.set $w (struct.get $s $w (local.get $object)))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $v)))"""


class Carrying:
    """The module above on a store of its own, and what its host functions were given."""

    def __init__(self, configuration: str, **options: Any) -> None:
        self.store = lh.Store(engine(configuration), **options)
        self.given: list[tuple[Any, ...]] = []
        imports = {"f": self.turn, "one": lambda value: value.to_bytes(16, "little"), "g": A}
        self.exports = lh.Instance(self.store, module(configuration), {"host": imports}).exports

    def turn(self, *values: Any) -> Any:
        self.given.append(values)
        return values[2], -1, values[4], values[1]


@functools.cache
def module(configuration: str) -> lh.Module:
    return lh.Module(engine(configuration), CARRYING)


@pytest.fixture(params=CONFIGURATIONS)
def carrying(request: pytest.FixtureRequest) -> Carrying:
    return Carrying(request.param)


def test_vectors_in_calls(carrying: Carrying) -> None:
    exports = carrying.exports
    assert [exports["same"](value) for value in (0, A, -1, B.to_bytes(16, "little"))] == [0, A, (1 << 128) - 1, B]
    for name in ("turned", "through"):
        assert exports[name](A, 5, B, 1.5) == (1.5, B, 5, A, lh.I31(7))
    with pytest.raises(TypeError, match=r"turned, value 2: 1\.0 was given where v128 is wanted"):
        exports["turned"](A, 5, 1.0, 1.5)


def test_vectors_in_host_functions(carrying: Carrying) -> None:
    held = carrying.exports["struct"](1)
    assert carrying.exports["host"](A, B, held) == (B, -1, held, A)
    assert carrying.given == [(5, A, B, 7, held)]
    assert carrying.exports["one"](B) == B
    function = lh.Func(carrying.store, lh.FuncType((V128,), (V128,)), lambda value: value ^ 1)
    assert function(A) == A ^ 1
    with pytest.raises(TypeError, match=r"the results of host function .* None was given where v128 is wanted"):
        lh.Func(carrying.store, lh.FuncType((), (V128,)), lambda: None)()


def test_vectors_in_globals(carrying: Carrying) -> None:
    its_own = carrying.exports["g"]
    assert its_own.value == A
    assert carrying.exports["swap"](B) == A
    assert its_own.value == B
    its_own.value = -1
    assert carrying.exports["swap"](0) == (1 << 128) - 1
    made = lh.Global(carrying.store, V128, bytes(range(16)), mutable=True)
    assert made.value == int.from_bytes(range(16), "little")
    with pytest.raises(TypeError, match="'x' was given where v128 is wanted"):
        made.value = "x"


def test_vectors_in_objects(carrying: Carrying) -> None:
    exports = carrying.exports
    made = exports["struct"](A)
    assert (made["a"], made["v"], made["w"], exports["field"](made)) == (1, A, A, A)
    exports["set_field"](made, B)
    assert (made["v"], made["w"]) == (B, A)
    assert exports["struct_default"]()["w"] == 0
    assert exports["fixed"](A)[:] == [A, 0]
    elements = exports["array"](A, 4)
    exports["fill_and_copy"](elements, B)
    assert elements[:] == [A, B, A, B]
    assert exports["element"](elements, 3) == B
    carrying.store.verify()


def test_vectors_where_control_joins(carrying: Carrying) -> None:
    exports = carrying.exports
    assert [exports["chosen"](A, B, condition) for condition in (1, 0)] == [A, B]
    assert [exports["branched"](A, B, condition) for condition in (1, 0)] == [A, B]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_vectors_live_across_collections(configuration: str) -> None:
    carrying = Carrying(configuration, collect_every=1)
    assert [carrying.exports["turns"](A, B, times) for times in (9, 10)] == [B, A]


# ----------------------------------------------------------------------------------------------------------------------
# What instructions compute, against wasmtime. Its relaxed ones are told to be deterministic, as ours are.
#
# A function for each works on a record in memory: three vectors, and the result. A number is in a vector's first bytes.

RECORD, RESULT = 64, 48
SHAPES = {"i8x16": ("i32", 16), "i16x8": ("i32", 8), "i32x4": ("i32", 4), "i64x2": ("i64", 2)}
SHAPES |= {"f32x4": ("f32", 4), "f64x2": ("f64", 2)}
FORMATS = {"f32x4": ("<4I", 32, 23), "f64x2": ("<2Q", 64, 52)}


def operands(types: Sequence[str]) -> str:
    return " ".join(f"({type}.load offset={16 * number} (local.get 0))" for number, type in enumerate(types))


def on_a_record(label: str, result: str, expression: str) -> str:
    return f'(func (export "{label}") (param i32) ({result}.store offset={RESULT} (local.get 0) {expression}))'


def computing() -> Iterator[tuple[str, str]]:
    """Each instruction that computes, with the function for it; of an instruction on a lane, one for each lane."""
    for name, (types, result, _) in vectors.INSTRUCTIONS.items():
        yield name, on_a_record(name, result.value, f"({name} {operands([each.value for each in types])})")
    for shape, (scalar, count) in SHAPES.items():
        for lane in range(count):
            for sign in ("_s", "_u") if count > 4 else ("",):
                name = f"{shape}.extract_lane{sign}"
                label = f"{name} {lane}"
                yield label, on_a_record(label, scalar, f"({label} {operands(['v128'])})")
            label = f"{shape}.replace_lane {lane}"
            yield label, on_a_record(label, "v128", f"({label} {operands(['v128', scalar])})")
    generator = random.Random(1)
    shuffles = [range(16), range(31, 15, -1), *([generator.randrange(32) for _ in range(16)] for _ in range(3))]
    for number, lanes in enumerate(shuffles):
        expression = f"(i8x16.shuffle {' '.join(map(str, lanes))} {operands(['v128', 'v128'])})"
        yield f"i8x16.shuffle {number}", on_a_record(f"i8x16.shuffle {number}", "v128", expression)


COMPUTING = dict(computing())


def memory_accesses() -> Iterator[tuple[str, str]]:
    """Each instruction that accesses memory: an address, and the vector's halves; and what it makes."""
    for opcode in OPCODES.values():
        name = opcode.name
        if not name.startswith(("v128.load", "v128.store")):
            continue
        lanes: list[Any] = [""]
        if name.endswith("_lane"):
            lanes = [0, 128 // int(name.removesuffix("_lane")[len("v128.load") :].lstrip("e")) - 1]
        for lane, offset in itertools.product(lanes, (0, 5, 65535)):
            label = f"{name} {lane} {offset}"
            vector = "(i64x2.replace_lane 1 (i64x2.splat (local.get 1)) (local.get 2))"
            pushed = f"(local.get 0) {vector if name.endswith('_lane') or name == 'v128.store' else ''}"
            accessed = f"({name} offset={offset} align=1 {lane} {pushed})"
            if "store" in name:
                yield label, f'(func (export "{label}") (param i32 i64 i64) {accessed})'
            else:
                yield (
                    label,
                    f"""(func (export "{label}") (param i32 i64 i64) (result i64 i64) (local $v v128)
                          (local.set $v {accessed})
                          (i64x2.extract_lane 0 (local.get $v)) (i64x2.extract_lane 1 (local.get $v)))""",
                )


ACCESSING = dict(memory_accesses())
SOURCE = f"""(module (memory (export "memory") 1)
  {" ".join(COMPUTING.values())}
  {" ".join(ACCESSING.values())})"""


class Peer:
    """A module in wasmtime, which has deterministic relaxed SIMD."""

    def __init__(self, source: str) -> None:
        config = wasmtime.Config()
        config.wasm_relaxed_simd_deterministic = True
        self.store = wasmtime.Store(wasmtime.Engine(config))
        module = wasmtime.Module(self.store.engine, source)
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)

    def call(self, name: str, *args: int) -> Any:
        try:
            return self.exports[name](self.store, *args)  # type: ignore[operator]
        except wasmtime.Trap:
            return "trap"

    def write(self, data: bytes, start: int = 0) -> None:
        self.exports["memory"].write(self.store, data, start)  # type: ignore[union-attr]

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self.exports["memory"].read(self.store, start, stop))  # type: ignore[union-attr]


class Own:
    """The same in lowheap."""

    def __init__(self, source: str, configuration: str) -> None:
        store = lh.Store(engine(configuration), initial_heap_size=8192)
        self.exports = lh.Instance(store, lh.Module(store.engine, source)).exports

    def call(self, name: str, *args: int) -> Any:
        try:
            returned = self.exports[name](*args)
        except lh.Trap:
            return "trap"
        return list(returned) if isinstance(returned, tuple) else returned

    def write(self, data: bytes, start: int = 0) -> None:
        self.exports["memory"].write(data, start)

    def read(self, start: int, stop: int) -> bytes:
        return bytes(self.exports["memory"].read(start, stop))


@functools.cache
def sides(source: str) -> tuple[Peer, dict[str, Own]]:
    return Peer(source), {configuration: Own(source, configuration) for configuration in CONFIGURATIONS}


def results(side: Peer | Own, name: str, records: Sequence[bytes]) -> list[bytes]:
    """What an instruction makes of operands, three vectors in a row each."""
    side.write(b"".join(each + bytes(16) for each in records))
    for number in range(len(records)):
        assert side.call(name, RECORD * number) is None
    data = side.read(0, RECORD * len(records))
    return [data[place + RESULT : place + RECORD] for place in range(0, len(data), RECORD)]


EXACT = ("abs", "neg", "pmin", "pmax", "splat", "replace_lane", "extract_lane")


def agree(name: str, expected: bytes, actual: bytes) -> bool:
    """Whether two results are the same, but for which quiet NaN a float is that was computed."""
    shape, _, operation = name.partition(".")
    if expected == actual or shape not in FORMATS or operation.startswith(EXACT):
        return expected == actual
    format, width, fraction = FORMATS[shape]
    quiet = (1 << (width - 1)) - (1 << (fraction - 1))  # the exponent, and the first bit of the fraction
    pairs = zip(struct.unpack(format, expected), struct.unpack(format, actual), strict=True)
    return all(wanted == got or wanted & quiet == quiet == got & quiet for wanted, got in pairs)


def check(source: str, name: str, records: Sequence[bytes]) -> None:
    peer, own = sides(source)
    expected = results(peer, name, records)
    for configuration, side in own.items():
        for record, wanted, got in zip(records, expected, results(side, name, records), strict=True):
            assert agree(name, wanted, got), (
                f"{configuration} {name} of {record[:16].hex()} {record[16:32].hex()} {record[32:].hex()}: "
                f"{got.hex()}, not {wanted.hex()}"
            )


def lanes(values: Sequence[float], code: str) -> list[bytes]:
    return [struct.pack(f"<{code}", each) for each in values]


EDGES = [
    *(lanes([0, 1, -1, 2, 15, 16, 0x70, 127, -128, -127], "b")),
    *(lanes([0x7FFF, -0x8000, 0x4000, 0x0100, 255, -256], "h")),
    *(lanes([0x7FFFFFFF, -0x80000000, 0x3F800000, 33], "i")),
    *(lanes([0x7FFFFFFFFFFFFFFF, -0x8000000000000000, 1 << 32, 65], "q")),
    *(lanes([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -1.5, 3e9, -3e9, 5e9, 1e38, 1e-45, float("inf"), -float("inf")], "f")),
    *(lanes([0.0, -0.0, 1.0, 0.5, 2.5, -3.5, 2147483647.5, 4294967296.0, -1e300, 1e-310, float("inf")], "d")),
    *(struct.pack("<I", bits) for bits in (0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFA12345, 0x7FC12345)),
    *(struct.pack("<Q", bits) for bits in (0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001)),
    *(struct.pack("<Q", bits) for bits in (0xFFF4000000000005, 0x7FF8000000000005)),
]


def vector_of(parts: Sequence[bytes]) -> bytes:
    """A vector of these lanes, again and again."""
    return (b"".join(parts) * 16)[:16]


def edge_records() -> list[bytes]:
    """Each edge in all lanes, against each neighbour in the list and against others."""
    generator = random.Random(2)
    found = [vector_of([edge]) + vector_of([other]) + vector_of([edge]) for edge, other in itertools.pairwise(EDGES)]
    for size in (1, 2, 4, 8):
        sized = [edge for edge in EDGES if len(edge) == size]
        found += [b"".join(vector_of(generator.choices(sized, k=16 // size)) for _ in range(3)) for _ in range(8)]
        found += [vector_of([edge]) * 3 for edge in sized]
    return found


def test_every_instruction_on_vectors_is_tried() -> None:
    named = {opcode.name for code, opcode in OPCODES.items() if code[0] == 0xFD}
    tried = {label.split()[0] for label in (*COMPUTING, *ACCESSING)}
    assert named - tried == {"v128.const"}
    assert len(named) == 236 + 20


def test_edge_values_agree_with_wasmtime() -> None:
    records = edge_records()
    for name in COMPUTING:
        check(SOURCE, name, records)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.binary(min_size=48, max_size=48), min_size=6, max_size=6))
def test_drawn_values_agree_with_wasmtime(records: list[bytes]) -> None:
    for name in COMPUTING:
        check(SOURCE, name, records)


def test_accesses_to_memory_agree_with_wasmtime() -> None:
    peer, own = sides(SOURCE)
    content = random.Random(3).randbytes(1 << 16)
    halves = [int.from_bytes(content[place : place + 8], "little", signed=True) for place in (100, 200)]
    for label in ACCESSING:
        addresses = (0, 1, 65536 - 16, 65536 - 16 - 5, 65536 - 15, 65536 - 8, 65536 - 4, 65535, 65536, (1 << 32) - 1)
        for side in (peer, *own.values()):
            side.write(content)
        for address in addresses:
            signed = address - (1 << 32) if address >> 31 else address
            expected = peer.call(label, signed, *halves)
            for configuration, side in own.items():
                assert side.call(label, signed, *halves) == expected, f"{configuration} {label} at {address}"
        memories = [side.read(0, 1 << 16) for side in (peer, *own.values())]
        assert memories[1:] == memories[:-1], label


# Arithmetic that LLVM would leave out: on constants, as they are written and as integers that turn out to be some.

IDENTITIES = {
    "f32x4": (0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0x7F800001),
    "f64x2": (0, 1 << 63, 0x3FF << 52, 0xBFF << 52, 0x7FF << 52, 0x7FF << 52 | 1),
}
BINARY = ("add", "sub", "mul", "div", "min", "max")


def folding() -> Iterator[tuple[str, str]]:
    loaded = "(v128.load (local.get 0))"
    for shape, operation in itertools.product(IDENTITIES, BINARY):
        integer, type = ("i32x4", "i32") if shape == "f32x4" else ("i64x2", "i64")
        for bits in IDENTITIES[shape]:
            written = f"(v128.const {integer} {' '.join([str(bits)] * SHAPES[integer][1])})"
            splat = f"({integer}.splat (call ${type} ({type}.const {bits})))"
            for number, constant in enumerate((written, splat)):
                for side, pair in enumerate((f"{loaded} {constant}", f"{constant} {loaded}")):
                    label = f"{shape}.{operation} {bits:#x} {number} {side}"
                    yield label, on_a_record(label, "v128", f"({shape}.{operation} {pair})")
    through = f"(f64x2.promote_low_f32x4 {loaded})"
    yield "f32x4.demoted", on_a_record("f32x4.demoted", "v128", f"(f32x4.demote_f64x2_zero {through})")
    for number, (b, c) in enumerate(((0x3F800000, 0x80000000), (0xBF800000, 0x80000000), (0x3F800000, 0))):
        constants = " ".join(f"(v128.const i32x4 {bits} {bits} {bits} {bits})" for bits in (b, c))
        label = f"f32x4.relaxed_madd {number}"
        yield label, on_a_record(label, "v128", f"(f32x4.relaxed_madd {loaded} {constants})")
    stored = "(v128.store (i32.const 65520) (v128.const i32x4 0x3f800000 0x3f800000 0x3f800000 0x3f800000))"
    product = f"(f32x4.mul {loaded} (v128.load (i32.const 65520)))"
    yield (
        "f32x4.mul stored",
        f'(func (export "f32x4.mul stored") (param i32) {stored} (v128.store offset=48 (local.get 0) {product}))',
    )


FOLDING = dict(folding())
FOLDED = f"""(module (memory (export "memory") 1)
  (func $i32 (param i32) (result i32) (local.get 0)) (func $i64 (param i64) (result i64) (local.get 0))
  {" ".join(FOLDING.values())})"""


def test_arithmetic_on_constants_makes_quiet_nans() -> None:
    records = [vector_of([edge]) * 3 for edge in EDGES if len(edge) >= 4]
    for name in FOLDING:
        check(FOLDED, name, records)


def test_a_machine_without_an_instruction_for_swizzles() -> None:
    """What is emitted there is compiled here, in the place of the machine's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "_byte_shuffle", lambda: None)
        peer, _ = sides(SOURCE)
        store = lh.Store(lh.Engine(cache=None), initial_heap_size=8192)
        source = f'(module (memory (export "memory") 1) {COMPUTING["i8x16.swizzle"]})'
        side = Own.__new__(Own)
        side.exports = lh.Instance(store, lh.Module(store.engine, source)).exports
    records = edge_records()
    assert results(side, "i8x16.swizzle", records) == results(peer, "i8x16.swizzle", records)


def test_swizzles_are_one_instruction_on_aarch64() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "host_architecture", lambda: stackmaps.AARCH64_LINUX)
        vectors._byte_shuffle.cache_clear()
        module = ir.Module("swizzle")
        type = ir.FunctionType(vectors.VECTOR, [PTR, vectors.VECTOR, vectors.VECTOR])
        emitter = Emitter(ir.Function(module, type, "swizzle"))
        _, a, numbers = emitter.function.args
        emitter.builder.ret(vectors.lower(emitter, "i8x16.swizzle", [a, numbers]))
        target = jit_engine.Target("aarch64-unknown-linux-gnu")
        optimised, machine = jit_engine.optimise(module, opt_level=2, target=target)
        assert machine.emit_assembly(optimised).count("\ttbl\t") == 1
    vectors._byte_shuffle.cache_clear()
