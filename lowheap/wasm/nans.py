"""Canonical NaNs: positive, and of the payload only the quiet bit.

WebAssembly lets the machine choose which NaN it computes, within bounds. With `cranelift_nan_canonicalization` it has
no choice: whatever an instruction computes that is a NaN is made the canonical one, in every lane. What passes a float
on, bit by bit, is left alone: `neg`, `abs`, `copysign`, `pmin`, `pmax`, `select`, loads and reinterpretations.
"""

from __future__ import annotations

from llvmlite import ir

from lowheap.wasm.opaque import OpaqueEmitter, canonical_nan

_TYPES = frozenset(("f32", "f64", "f32x4", "f64x2"))

_COMPUTING = frozenset(
    (
        *("add", "sub", "mul", "div", "sqrt"),
        *("min", "max", "relaxed_min", "relaxed_max", "relaxed_madd", "relaxed_nmadd"),
        *("ceil", "floor", "trunc", "nearest"),
        *("demote_f64", "promote_f32", "demote_f64x2_zero", "promote_low_f32x4"),
    )
)


def may_come_of(name: str) -> bool:
    """Whether an instruction may compute a NaN."""
    type, _, operation = name.partition(".")
    return type in _TYPES and operation in _COMPUTING


def canonical(emitter: OpaqueEmitter, value: ir.Value) -> ir.Value:
    """Return a float, or the lanes of a vector, with the canonical NaN in the place of any other."""
    is_nan = emitter.builder.fcmp_unordered("uno", value, value)
    return emitter.builder.select(is_nan, canonical_nan(emitter, value.type), value)
