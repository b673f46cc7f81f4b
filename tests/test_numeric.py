"""Every numeric instruction, compiled natively, against the same instruction in wasmtime.

Both sides are driven the same way. An instruction becomes a function from two 64-bit patterns to one: an operand is the
pattern's low bits, of the width of its type (a one-operand instruction ignores the second pattern), and the result is
zero-extended. So floats travel as integers, and no NaN passes through a Python float. A loop on each side, in machine
code, runs a function over a whole array of pairs.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import llvmlite.binding as llvm
import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from lowheap.errors import CompilerError, TrapCode
from lowheap.types import F32, F64, I32, I64, NumType
from lowheap.wasm.numeric import SIGNATURES, lower

NAMES = sorted(SIGNATURES)

Pair = tuple[int, int]
Outcome = int | str
"""The bits of a result, or the name of a trap's code."""


# --- The instruction set, spelled out --------------------------------------------------------------------------------

COUNTS = ["clz", "ctz", "popcnt"]
ARITHMETIC = ["add", "sub", "mul", "div_s", "div_u", "rem_s", "rem_u"]
BITWISE = ["and", "or", "xor", "shl", "shr_s", "shr_u", "rotl", "rotr"]
COMPARISONS = ["eqz", "eq", "ne", *(f"{op}_{s}" for op in ("lt", "gt", "le", "ge") for s in "su")]
INTEGER = [*COUNTS, *ARITHMETIC, *BITWISE, *COMPARISONS, "extend8_s", "extend16_s"]
FLOAT_UNARY = ["abs", "neg", "ceil", "floor", "trunc", "nearest", "sqrt"]
FLOAT_BINARY = ["add", "sub", "mul", "div", "min", "max", "copysign", "eq", "ne", "lt", "gt", "le", "ge"]
FLOAT = [*FLOAT_UNARY, *FLOAT_BINARY]
TRUNCATIONS = [f"{op}_{f}_{s}" for op in ("trunc", "trunc_sat") for f in ("f32", "f64") for s in "su"]
CONVERSIONS = [f"convert_{i}_{s}" for i in ("i32", "i64") for s in "su"]
EXPECTED_NAMES = {
    "i32": [*INTEGER, *TRUNCATIONS, "wrap_i64", "reinterpret_f32"],
    "i64": [*INTEGER, *TRUNCATIONS, "extend_i32_s", "extend_i32_u", "extend32_s", "reinterpret_f64"],
    "f32": [*FLOAT, *CONVERSIONS, "demote_f64", "reinterpret_i32"],
    "f64": [*FLOAT, *CONVERSIONS, "promote_f32", "reinterpret_i64"],
}


def test_exactly_the_numeric_instructions_are_there() -> None:
    expected = [f"{type_}.{name}" for type_, names in EXPECTED_NAMES.items() for name in names]
    # In the binary format they are the opcodes 0x45 (i32.eqz) to 0xC4 (i64.extend32_s), and 0xFC 0 to 7 (trunc_sat).
    assert len(expected) == 0xC4 - 0x45 + 1 + 8
    assert sorted(SIGNATURES) == sorted(expected)


# --- wasmtime's side -------------------------------------------------------------------------------------------------

CAPACITY = 16384  # pairs in one run
_PAIR_BYTES, _RESULT_BYTES = 16, 8
_RESULTS_AT = CAPACITY * _PAIR_BYTES
_POSITION_AT = _RESULTS_AT + CAPACITY * _RESULT_BYTES

_FROM_BITS = {
    I32: "(i32.wrap_i64 {})",
    I64: "{}",
    F32: "(f32.reinterpret_i32 (i32.wrap_i64 {}))",
    F64: "(f64.reinterpret_i64 {})",
}
_TO_BITS = {
    I32: "(i64.extend_i32_u {})",
    I64: "{}",
    F32: "(i64.extend_i32_u (i32.reinterpret_f32 {}))",
    F64: "(i64.reinterpret_f64 {})",
}


def _wat() -> str:
    """All instructions in one table, and a loop that runs one of them, telling in memory how far it got."""
    functions = []
    for name in NAMES:
        operands, result = SIGNATURES[name]
        arguments = " ".join(_FROM_BITS[type_].format(f"(local.get {i})") for i, type_ in enumerate(operands))
        body = _TO_BITS[result].format(f"({name} {arguments})")
        functions.append(f'(func (export "{name}") (type $instruction) {body})')
    return f"""(module
        (type $instruction (func (param i64 i64) (result i64)))
        (memory (export "memory") {-(-(_POSITION_AT + 4) // 65536)})
        {" ".join(functions)}
        (table funcref (elem {" ".join(map(str, range(len(NAMES))))}))
        (func (export "run") (param $function i32) (param $index i32) (param $end i32)
            (local $operands i32)
            (block $done (loop $next
                (i32.store (i32.const {_POSITION_AT}) (local.get $index))
                (br_if $done (i32.ge_u (local.get $index) (local.get $end)))
                (local.set $operands (i32.mul (local.get $index) (i32.const {_PAIR_BYTES})))
                (i64.store offset={_RESULTS_AT} (i32.mul (local.get $index) (i32.const {_RESULT_BYTES}))
                    (call_indirect (type $instruction)
                        (i64.load (local.get $operands)) (i64.load offset=8 (local.get $operands))
                        (local.get $function)))
                (local.set $index (i32.add (local.get $index) (i32.const 1)))
                (br $next)))))"""


class Reference:
    """wasmtime, running one instruction over many operand pairs."""

    def __init__(self) -> None:
        engine = wasmtime.Engine()
        self._store = wasmtime.Store(engine)
        exports = wasmtime.Instance(self._store, wasmtime.Module(engine, _wat()), []).exports(self._store)
        memory, run = exports["memory"], exports["run"]
        assert isinstance(memory, wasmtime.Memory)
        assert isinstance(run, wasmtime.Func)
        self._memory, self._run = memory, run

    def __call__(self, name: str, pairs: Sequence[Pair]) -> list[Outcome]:
        assert len(pairs) <= CAPACITY
        self._memory.write(self._store, struct.pack(f"<{2 * len(pairs)}Q", *itertools.chain(*pairs)))
        traps: dict[int, str] = {}
        start = 0
        while start < len(pairs):
            try:
                self._run(self._store, NAMES.index(name), start, len(pairs))
                break
            except wasmtime.Trap as trap:
                position = self._memory.read(self._store, _POSITION_AT, _POSITION_AT + 4)
                at = int.from_bytes(position, "little")
                traps[at] = trap.trap_code.name if trap.trap_code else str(trap)
                start = at + 1
        raw = self._memory.read(self._store, _RESULTS_AT, _RESULTS_AT + len(pairs) * _RESULT_BYTES)
        return [traps.get(i, bits) for i, bits in enumerate(struct.unpack(f"<{len(pairs)}Q", raw))]


# --- The native side -------------------------------------------------------------------------------------------------

_I1, _I64 = ir.IntType(1), ir.IntType(64)
_LLVM_TYPES = {I32: ir.IntType(32), I64: _I64, F32: ir.FloatType(), F64: ir.DoubleType()}
_BITS_TYPES = {I32: ir.IntType(32), I64: _I64, F32: ir.IntType(32), F64: _I64}
_STATUS = ir.IntType(32)
_FROM_INTEGERS = {F32: "f32.reinterpret_i32", F64: "f64.reinterpret_i64"}
_INSTRUCTION = ir.FunctionType(_STATUS, [_I64, _I64, ir.PointerType()])


class FunctionEmitter:
    """A `NumericEmitter` for a function that gives 0 and stores its result, or gives a trap code."""

    def __init__(self, module: ir.Module, name: str) -> None:
        self.module = module
        self.function = ir.Function(module, _INSTRUCTION, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())

    def trap_if(self, condition: ir.Value, code: TrapCode) -> None:
        assert condition.type == _I1
        trap, go_on = self.function.append_basic_block("trap"), self.function.append_basic_block()
        self.builder.cbranch(condition, trap, go_on)
        ir.IRBuilder(trap).ret(ir.Constant(_STATUS, int(code)))
        self.builder.position_at_end(go_on)

    def intrinsic(self, name: str, return_type: ir.Type, argument_types: Sequence[ir.Type]) -> ir.Function:
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(return_type, argument_types), name)


def _emit(module: ir.Module, name: str) -> ir.Function:
    """The function of one instruction: `i32 status(i64 a, i64 b, ptr result)`."""
    emitter = FunctionEmitter(module, name)
    builder = emitter.builder
    *patterns, out = emitter.function.args

    def operand(pattern: ir.Value, type_: NumType) -> ir.Value:
        bits = builder.trunc(pattern, _BITS_TYPES[type_]) if _BITS_TYPES[type_] != _I64 else pattern
        # As a program would, so that no constant is a float that LLVM knows.
        return lower(emitter, _FROM_INTEGERS[type_], [bits]) if type_ in _FROM_INTEGERS else bits

    operand_types, result_type = SIGNATURES[name]
    result = lower(emitter, name, [operand(*pair) for pair in zip(patterns, operand_types, strict=False)])
    assert result.type == _LLVM_TYPES[result_type]
    bits = builder.bitcast(result, _BITS_TYPES[result_type])
    builder.store(builder.zext(bits, _I64) if bits.type != _I64 else bits, out)
    builder.ret(ir.Constant(_STATUS, 0))
    return emitter.function


_DRIVER = """
define void @run(ptr %function, i64 %count, ptr %operands, ptr %results, ptr %statuses) {
entry:
  %empty = icmp eq i64 %count, 0
  br i1 %empty, label %done, label %next
next:
  %i = phi i64 [ 0, %entry ], [ %successor, %next ]
  %a.address = getelementptr [2 x i64], ptr %operands, i64 %i
  %b.address = getelementptr i64, ptr %a.address, i64 1
  %a = load i64, ptr %a.address
  %b = load i64, ptr %b.address
  %result = getelementptr i64, ptr %results, i64 %i
  %status.address = getelementptr i32, ptr %statuses, i64 %i
  %status = call i32 %function(i64 %a, i64 %b, ptr %result)
  store i32 %status, ptr %status.address
  %successor = add i64 %i, 1
  %finished = icmp eq i64 %successor, %count
  br i1 %finished, label %done, label %next
done:
  ret void
}
"""


@functools.cache
def _module_text(linkage: str = "") -> str:
    module = ir.Module("numeric")
    for name in NAMES:
        function = _emit(module, name)
        if linkage:
            function.linkage = linkage
            function.attributes.add("alwaysinline")
    return str(module) + _DRIVER


class Native:
    """A module compiled at an optimisation level, for this very processor or for any of its kind."""

    def __init__(self, text: str, level: int, *, generic: bool = False) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        module = llvm.parse_assembly(text)
        module.verify()
        target = llvm.Target.from_default_triple()
        processor, features = ("generic", "")
        if not generic:
            processor, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        machine = target.create_target_machine(cpu=processor, features=features, opt=level)
        if level:
            builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=level))
            builder.getModulePassManager().run(module, builder)
        self.optimised = str(module)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        pointer = ctypes.c_void_p
        self._run = ctypes.CFUNCTYPE(None, pointer, ctypes.c_uint64, pointer, pointer, pointer)(self.address("run"))

    def address(self, function: str) -> int:
        address: int = self._engine.get_function_address(function)
        assert address, function
        return address

    def __call__(self, function: str, pairs: Sequence[Pair]) -> list[Outcome]:
        count = len(pairs)
        operands = (ctypes.c_uint64 * (2 * count))(*itertools.chain(*pairs))
        results, statuses = (ctypes.c_uint64 * count)(), (ctypes.c_uint32 * count)()
        self._run(self.address(function), count, operands, results, statuses)
        return _outcomes(results, statuses)


def _outcomes(results: Iterable[int], statuses: Iterable[int]) -> list[Outcome]:
    return [TrapCode(status).name if status else bits for bits, status in zip(results, statuses, strict=True)]


@functools.cache
def _reference() -> Reference:
    return Reference()


# On x86-64 a generic processor has no instruction for rounding: the C library's functions are called.
BUILDS = {"O2": (2, False), "O0": (0, False), "O2-generic": (2, True)}


@functools.cache
def _native(build: str) -> Native:
    level, generic = BUILDS[build]
    return Native(_module_text(), level, generic=generic)


# --- Comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """The bits of an IEEE 754 format."""

    width: int
    fraction_bits: int

    @property
    def quiet_bit(self) -> int:
        return 1 << (self.fraction_bits - 1)

    @property
    def infinity(self) -> int:
        return (1 << (self.width - 1)) - (1 << self.fraction_bits)

    @property
    def sign(self) -> int:
        return 1 << (self.width - 1)

    def magnitude(self, bits: int) -> int:
        return bits & (self.sign - 1)

    def is_nan(self, bits: int) -> bool:
        return self.magnitude(bits) > self.infinity

    def is_quiet_nan(self, bits: int) -> bool:
        return self.is_nan(bits) and bool(bits & self.quiet_bit)

    def is_canonical_nan(self, bits: int) -> bool:
        return self.magnitude(bits) == self.infinity | self.quiet_bit


FORMATS = {F32: Format(32, 23), F64: Format(64, 52)}
BIT_EXACT = {f"{f}.{op}" for f in ("f32", "f64") for op in ("neg", "abs", "copysign")} | {
    name for name in NAMES if ".reinterpret_" in name
}


def _agree(name: str, pair: Pair, expected: Outcome, actual: Outcome) -> bool:
    """Whether `actual` is a result that the specification allows, given wasmtime's.

    For a NaN that is any canonical NaN if each NaN operand is canonical, and any quiet one otherwise.
    """
    if isinstance(expected, str) or isinstance(actual, str):
        return expected == actual
    operand_types, result_type = SIGNATURES[name]
    format_ = FORMATS.get(result_type)
    if format_ is None or name in BIT_EXACT or not format_.is_nan(expected):
        return expected == actual
    for bits, type_ in zip(pair, operand_types, strict=False):
        operand_format = FORMATS[type_]
        low = bits & ((1 << operand_format.width) - 1)
        if operand_format.is_nan(low) and not operand_format.is_canonical_nan(low):
            return format_.is_quiet_nan(actual)
    return format_.is_canonical_nan(actual)


def _show(outcome: Outcome) -> str:
    return outcome if isinstance(outcome, str) else f"{outcome:#x}"


def _check(name: str, pairs: Sequence[Pair], expected: Sequence[Outcome], actual: Sequence[Outcome]) -> None:
    differences = [
        f"{name}({a:#x}, {b:#x}): wasmtime {_show(wanted)}, native {_show(got)}"
        for (a, b), wanted, got in zip(pairs, expected, actual, strict=True)
        if not _agree(name, (a, b), wanted, got)
    ]
    assert not differences, "\n".join([f"{len(differences)} of {len(pairs)} differ", *differences[:20]])


# --- Operands --------------------------------------------------------------------------------------------------------


def _integer_edges(width: int) -> list[int]:
    """0, powers of two and their neighbours, with either sign, and values near every shift count that matters."""
    powers = {1 << k for k in (0, 1, 7, 8, 15, 16, 24, 31, 32, 53, 62, 63) if k < width}
    near = {p + d for p in powers for d in (-1, 0, 1)} | {width - 1, width, width + 1, 0x0123456789ABCDEF}
    patterns = {v & ((1 << width) - 1) for n in near for v in (n, -n)}
    return sorted(patterns)


def _float_edges(type_: NumType) -> list[int]:
    """Zeros, subnormals, small numbers with and without a half, the largest, infinities and NaNs, of both signs."""
    format_ = FORMATS[type_]
    smallest_normal, infinity, quiet_bit = 1 << format_.fraction_bits, format_.infinity, format_.quiet_bit
    magnitudes = {0, 1, 2, smallest_normal - 1, smallest_normal, infinity - 1, infinity}
    magnitudes |= {infinity | quiet_bit, infinity | quiet_bit | 5, infinity | 1, infinity | (quiet_bit >> 1)}
    magnitudes |= {_bits(type_, value) for value in (0.1, 1.5, 2.0, 2.5, 3.5, 4.0, 2.0**31, 2.0**63)}
    for value in (0.5, 1.0):
        magnitudes |= {_bits(type_, value) + ulps for ulps in (-1, 0, 1)}
    return _both_signs(format_, magnitudes)


def _rounding_edges(type_: NumType) -> list[int]:
    """The floats around each bound of a truncation, around the last with a fraction, and halfway between others."""
    powers = [2.0**k for k in (22, 23, 24, 31, 32, 51, 52, 53, 63, 64)]
    fractions = [bound + d for bound in (2.0**31, 2.0**32) for d in (-1.0, -0.5, 0.5, 1.0)]
    # Between two values of f32: of normal ones, of subnormal ones, and of the greatest and what would follow it.
    halfway = [1 + 2.0**-24, 1 + 3 * 2.0**-24, 2.0**-150, 3 * 2.0**-150, 2.0**128 - 2.0**103]
    magnitudes = {_bits(type_, value) + ulps for value in powers + fractions + halfway for ulps in (-1, 0, 1)}
    return _both_signs(FORMATS[type_], {m for m in magnitudes if m >= 0})


def _both_signs(format_: Format, magnitudes: Iterable[int]) -> list[int]:
    return sorted({m | sign for m in magnitudes for sign in (0, format_.sign)})


def _bits(type_: NumType, value: float) -> int:
    if type_ is F64:
        return int.from_bytes(struct.pack("<d", value), "little")
    try:
        return int.from_bytes(struct.pack("<f", value), "little")
    except OverflowError:
        return FORMATS[F32].infinity


EDGES: dict[NumType, list[int]] = {
    I32: _integer_edges(32),
    I64: _integer_edges(64),
    F32: _float_edges(F32),
    F64: _float_edges(F64),
}
# More values for instructions with one operand. Converted to f32, these integers are wrong if rounded by way of f64.
MORE_EDGES: dict[NumType, list[int]] = {
    I32: [],
    I64: [0x7FFFFF4000000001, 0x8000008000000001, 0x0020000020000001, 0xFFFFFE8000000001, 0xFFFFFFFFFFFFFBFF],
    F32: _rounding_edges(F32),
    F64: _rounding_edges(F64),
}


def _grid(name: str, values: dict[NumType, list[int]]) -> list[Pair]:
    operand_types, _ = SIGNATURES[name]
    if len(operand_types) == 1:
        more = MORE_EDGES[operand_types[0]] if values is EDGES else []
        return [(a, 0) for a in values[operand_types[0]] + more]
    first, second = operand_types
    return list(itertools.product(values[first], values[second]))


@functools.cache
def _expected(name: str) -> list[Outcome]:
    return _reference()(name, _grid(name, EDGES))


# --- The tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", NAMES)
def test_edge_values_agree_with_wasmtime(name: str, build: str) -> None:
    pairs = _grid(name, EDGES)
    _check(name, pairs, _expected(name), _native(build)(name, pairs))


def test_the_grid_meets_every_trap() -> None:
    """The traps that the specification gives to each instruction, and no others, occur in the grid."""
    zero, overflow, conversion = "INTEGER_DIVISION_BY_ZERO", "INTEGER_OVERFLOW", "BAD_CONVERSION_TO_INTEGER"
    for name in NAMES:
        traps = {outcome for outcome in _native("O2")(name, _grid(name, EDGES)) if isinstance(outcome, str)}
        operation = name.split(".")[1]
        if operation == "div_s":
            assert traps == {zero, overflow}, name
        elif operation in ("div_u", "rem_s", "rem_u"):
            assert traps == {zero}, name
        elif operation.startswith("trunc_f"):
            assert traps == {conversion, overflow}, name
        else:
            assert not traps, name


def _patterns() -> st.SearchStrategy[int]:
    """64-bit patterns that mean something as operands of one type or another."""
    single = st.floats(width=32).map(functools.partial(_bits, F32))
    double = st.floats().map(functools.partial(_bits, F64))
    near_integers = st.floats(-(2.0**65), 2.0**65)
    mask = (1 << 64) - 1
    return st.one_of(
        st.integers(0, mask),
        st.integers(-(1 << 31), 1 << 31).map(lambda n: n & mask),
        st.integers(-70, 70).map(lambda n: n & mask),
        single,
        double,
        near_integers.map(functools.partial(_bits, F32)),
        near_integers.map(functools.partial(_bits, F64)),
        st.sampled_from(sorted(set().union(*EDGES.values(), *MORE_EDGES.values()))),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_patterns(), _patterns()), min_size=1, max_size=60))
def test_drawn_values_agree_with_wasmtime(pairs: list[Pair]) -> None:
    for name in NAMES:
        expected = _reference()(name, pairs)
        for build in BUILDS:
            _check(name, pairs, expected, _native(build)(name, pairs))


# What LLVM folds. Constants reach an instruction by inlining, as they do in a compiled program.

CONSTANTS: dict[NumType, list[int]] = {
    I32: [v & 0xFFFF_FFFF for v in (0, 1, 2, -1, 33, 1 << 31, (1 << 31) - 1)],
    I64: [v & 0xFFFF_FFFF_FFFF_FFFF for v in (0, 1, 2, -1, 65, 1 << 63, (1 << 63) - 1)],
    **{
        type_: [
            *(_bits(type_, v) for v in (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 2.0**31, -(2.0**63))),
            *(FORMATS[type_].infinity | bits for bits in (0, FORMATS[type_].sign, FORMATS[type_].quiet_bit, 1)),
            1,
        ]
        for type_ in FORMATS
    },
}

_BINARY_NAMES = [name for name in NAMES if len(SIGNATURES[name][0]) == 2]


def _folded_text() -> str:
    """For each instruction a function that runs it on constants, and for each constant two that fix one operand."""
    parts = [_module_text("internal")]
    for name in NAMES:
        calls = []
        for i, (a, b) in enumerate(_grid(name, CONSTANTS)):
            calls.append(
                f"  %result{i} = getelementptr i64, ptr %results, i64 {i}\n"
                f"  %status{i} = getelementptr i32, ptr %statuses, i64 {i}\n"
                f'  %s{i} = call i32 @"{name}"(i64 {a}, i64 {b}, ptr %result{i})\n'
                f"  store i32 %s{i}, ptr %status{i}\n"
            )
        parts.append(
            f'define void @"all of {name}"(ptr noalias %results, ptr noalias %statuses) {{\n'
            + "".join(calls)
            + "  ret void\n}\n"
        )
    for name in _BINARY_NAMES:
        for side, constant in itertools.product("ab", CONSTANTS[SIGNATURES[name][0][0]]):
            arguments = f"i64 {constant}, i64 %b" if side == "a" else f"i64 %a, i64 {constant}"
            parts.append(
                f'define i32 @"{name} {side}={constant}"(i64 %a, i64 %b, ptr %result) {{\n'
                f'  %s = call i32 @"{name}"({arguments}, ptr %result)\n'
                f"  ret i32 %s\n}}\n"
            )
    return "".join(parts)


@functools.cache
def _folded() -> Native:
    return Native(_folded_text(), 2)


def test_constant_operands_reach_the_instructions() -> None:
    """Nothing is called any more in the module of constants, so the tests below do see what LLVM made of them."""
    assert 'call i32 @"' not in _folded().optimised
    body = _folded().optimised.split('@"all of i32.div_s"')[1].split("\n}")[0]
    assert "div" not in body
    assert "store" in body


@pytest.mark.parametrize("name", NAMES)
def test_constant_folding_agrees_with_wasmtime(name: str) -> None:
    pairs = _grid(name, CONSTANTS)
    results, statuses = (ctypes.c_uint64 * len(pairs))(), (ctypes.c_uint32 * len(pairs))()
    fill: Callable[..., None] = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
        _folded().address(f"all of {name}")
    )
    fill(results, statuses)
    _check(name, pairs, _reference()(name, pairs), _outcomes(results, statuses))


@pytest.mark.parametrize("name", _BINARY_NAMES)
def test_one_constant_operand_agrees_with_wasmtime(name: str) -> None:
    type_ = SIGNATURES[name][0][0]
    expected = dict(zip(_grid(name, EDGES), _expected(name), strict=True))
    for constant in CONSTANTS[type_]:
        for side in "ab":
            pairs = [(constant, v) if side == "a" else (v, constant) for v in EDGES[type_]]
            actual = _folded()(f"{name} {side}={constant}", pairs)
            _check(name, pairs, [expected[pair] for pair in pairs], actual)


def test_wrong_use_is_refused() -> None:
    module = ir.Module("wrong")
    emitter = FunctionEmitter(module, "f")
    i32, f64 = ir.Constant(_LLVM_TYPES[I32], 1), ir.Constant(_LLVM_TYPES[F64], 1.0)
    with pytest.raises(CompilerError, match=r"'i32\.const' is not a numeric instruction"):
        lower(emitter, "i32.const", [])
    with pytest.raises(CompilerError, match=r"i32\.add was given operands of types \(i32\); it takes \(i32, i32\)"):
        lower(emitter, "i32.add", [i32])
    with pytest.raises(CompilerError, match=r"i64\.trunc_f64_s was given operands of types \(i32\)"):
        lower(emitter, "i64.trunc_f64_s", [i32])
    with pytest.raises(CompilerError, match=r"it takes \(float, float\)"):
        lower(emitter, "f32.min", [f64, f64])
