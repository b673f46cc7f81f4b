"""Vectors: what computes is in `wasm/vectors.py`; here are constants, lanes, and what loads and stores."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from lowheap.jit.emit import I32
from lowheap.types import V128
from lowheap.wasm import vectors
from lowheap.wasm.function import FunctionCompiler, instruction
from lowheap.wasm.instructions.memories import access
from lowheap.wasm.vectors import I8X16, I16X8, I32X4, I64X2, SHAPES, Shape, lanes, vector


@instruction(*vectors.INSTRUCTIONS)
def _compute(compiler: FunctionCompiler) -> None:
    operands, result, _ = vectors.INSTRUCTIONS[compiler.name]
    values = compiler.pop_many(len(operands))
    compiler.push(
        vectors.lower(compiler, compiler.name, values, canonical_nans=compiler.context.canonical_nans), result
    )


@instruction("v128.const")
def _const(compiler: FunctionCompiler, bits: int) -> None:
    compiler.push(vectors.constant(bits), V128)


@instruction("i8x16.shuffle")
def _shuffle(compiler: FunctionCompiler, numbers: Sequence[int]) -> None:
    a, b = (lanes(compiler, each, I8X16) for each in compiler.pop_many(2))
    compiler.push(vector(compiler, vectors.shuffled(compiler, a, b, numbers)), V128)


# --- Lanes -----------------------------------------------------------------------------------------------------------

_PACKED = (I8X16, I16X8)
_EXTRACTIONS = [f"{each.name}.extract_lane{tail}" for each in _PACKED for tail in ("_s", "_u")]
_EXTRACTIONS += [f"{each.name}.extract_lane" for each in SHAPES.values() if each not in _PACKED]


@instruction(*_EXTRACTIONS)
def _extract_lane(compiler: FunctionCompiler, lane: int) -> None:
    shape = SHAPES[compiler.name.partition(".")[0]]
    value = vectors.extracted(compiler, compiler.pop(), shape, lane)
    if shape in _PACKED:
        extend = compiler.builder.sext if compiler.name.endswith("_s") else compiler.builder.zext
        value = extend(value, I32)
    compiler.push(value, shape.scalar)


@instruction(*(f"{each}.replace_lane" for each in SHAPES))
def _replace_lane(compiler: FunctionCompiler, lane: int) -> None:
    shape = SHAPES[compiler.name.partition(".")[0]]
    value, scalar = compiler.pop_many(2)
    compiler.push(vectors.replaced(compiler, value, shape, lane, vectors.to_lane(compiler, scalar, shape)), V128)


# --- Memory ----------------------------------------------------------------------------------------------------------

_BY_WIDTH = {"8": I8X16, "16": I16X8, "32": I32X4, "64": I64X2}


def _load(compiler: FunctionCompiler, memory: int, offset: int, type: ir.Type) -> ir.Value:
    """Pop an address, and load from there."""
    return compiler.load_typed(access(compiler, memory, offset, _size(type)), type, alignment=1)


def _size(type: ir.Type) -> int:
    return int(type.count * type.element.width if isinstance(type, ir.VectorType) else type.width) // 8


def _shape_of(name: str) -> Shape:
    """The lanes that an instruction loads, or stores: `v128.load16_splat` those of 16 bits."""
    width, _, _ = name.removeprefix("v128.load").removeprefix("v128.store").replace("x", "_").partition("_")
    return _BY_WIDTH[width]


@instruction("v128.load")
def _load_vector(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    compiler.push(_load(compiler, memory, offset, vectors.VECTOR), V128)


@instruction(*(f"v128.load{each}_{sign}" for each in ("8x8", "16x4", "32x2") for sign in "su"))
def _load_extended(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    shape = _shape_of(compiler.name)
    loaded = _load(compiler, memory, offset, ir.VectorType(shape.lane, shape.count // 2))
    compiler.push(vector(compiler, vectors.extended(compiler, loaded, compiler.name.endswith("_s"))), V128)


@instruction(*(f"v128.load{width}_splat" for width in _BY_WIDTH))
def _load_splat(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    shape = _shape_of(compiler.name)
    loaded = _load(compiler, memory, offset, shape.lane)
    compiler.push(vector(compiler, vectors.splat(compiler, loaded, shape)), V128)


@instruction("v128.load32_zero", "v128.load64_zero")
def _load_zero(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    shape = _shape_of(compiler.name)
    loaded = _load(compiler, memory, offset, shape.lane)
    compiler.push(vectors.replaced(compiler, vectors.constant(0), shape, 0, loaded), V128)


@instruction(*(f"v128.load{width}_lane" for width in _BY_WIDTH))
def _load_lane(compiler: FunctionCompiler, memory: int, _: int, offset: int, lane: int) -> None:
    shape, value = _shape_of(compiler.name), compiler.pop()
    loaded = _load(compiler, memory, offset, shape.lane)
    compiler.push(vectors.replaced(compiler, value, shape, lane, loaded), V128)


@instruction("v128.store")
def _store_vector(compiler: FunctionCompiler, memory: int, _: int, offset: int) -> None:
    value = compiler.pop()
    compiler.store_typed(value, access(compiler, memory, offset, _size(value.type)), alignment=1)


@instruction(*(f"v128.store{width}_lane" for width in _BY_WIDTH))
def _store_lane(compiler: FunctionCompiler, memory: int, _: int, offset: int, lane: int) -> None:
    shape = _shape_of(compiler.name)
    value = vectors.extracted(compiler, compiler.pop(), shape, lane)
    compiler.store_typed(value, access(compiler, memory, offset, _size(value.type)), alignment=1)
