"""128-bit arithmetic, two i64 a number, against Python's integers."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowheap as lh

LEVELS = (0, 2)
SOURCE = """(module
  (func (export "i64.add128") (param i64 i64 i64 i64) (result i64 i64)
    (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "i64.sub128") (param i64 i64 i64 i64) (result i64 i64)
    (i64.sub128 (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
  (func (export "i64.mul_wide_s") (param i64 i64) (result i64 i64) (i64.mul_wide_s (local.get 0) (local.get 1)))
  (func (export "i64.mul_wide_u") (param i64 i64) (result i64 i64) (i64.mul_wide_u (local.get 0) (local.get 1))))"""


@functools.cache
def exports(level: int) -> lh.Exports:
    store = lh.Store(lh.Engine(opt_level=level), initial_heap_size=8192)
    return lh.Instance(store, lh.Module(store.engine, SOURCE)).exports


def halves(number: int) -> tuple[int, int]:
    """A number of 128 bits as results are: low and high, each signed."""
    data = (number % (1 << 128)).to_bytes(16, "little")
    return tuple(int.from_bytes(data[start : start + 8], "little", signed=True) for start in (0, 8))  # type: ignore[return-value]


wide = st.integers(-(1 << 127), (1 << 127) - 1) | st.sampled_from([0, 1, -1, 1 << 64, (1 << 64) - 1, -(1 << 127)])
narrow = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, 1, -1, -(1 << 63), (1 << 63) - 1])


@pytest.mark.parametrize("level", LEVELS)
@given(a=wide, b=wide)
def test_sums_and_differences(level: int, a: int, b: int) -> None:
    assert exports(level)["i64.add128"](*halves(a), *halves(b)) == halves(a + b)
    assert exports(level)["i64.sub128"](*halves(a), *halves(b)) == halves(a - b)


@pytest.mark.parametrize("level", LEVELS)
@given(a=narrow, b=narrow)
def test_products(level: int, a: int, b: int) -> None:
    assert exports(level)["i64.mul_wide_s"](a, b) == halves(a * b)
    assert exports(level)["i64.mul_wide_u"](a, b) == halves(a % (1 << 64) * (b % (1 << 64)))
