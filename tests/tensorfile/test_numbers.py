"""Stored bytes ↔ numbers, compared bit for bit with torch over every pattern that there is."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vectors.tensorfile.numbers import compute_dtype, moments, narrow, widen

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
SHORT = ["F16", "BF16", "F8_E4M3", "F8_E5M2"]
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.fixture(autouse=True)
def _numpy_is_silent() -> None:
    """A warning about an overflow would reach the log for every merged infinity."""
    warnings.simplefilter("error")


def every_pattern(dtype: str) -> torch.Tensor:
    """All numbers of a type of one or two bytes."""
    size = TORCH[dtype].itemsize
    return torch.from_numpy(np.arange(256**size).astype(f"u{size}")).view(TORCH[dtype])


def raw_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy().reshape(-1)


def ours(values: np.ndarray, dtype: str) -> torch.Tensor:
    """``values`` narrowed by our code."""
    raw = np.empty(values.size * TORCH[dtype].itemsize, np.uint8)
    return torch.from_numpy(narrow(values, dtype, raw)).view(TORCH[dtype])


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal bits, but for the payload of a NaN."""
    assert found.dtype == wanted.dtype
    nan = wanted.double().isnan()
    assert found.double().isnan().equal(nan)
    bits = BITS[found.element_size()]
    assert found.view(bits)[~nan].equal(wanted.view(bits)[~nan])


@pytest.mark.parametrize("wide", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", SHORT)
def test_every_pattern_widens_as_in_torch_and_comes_back(dtype: str, wide: type) -> None:
    stored = every_pattern(dtype)
    numbers = widen(raw_of(stored), dtype, np.empty(stored.numel(), wide))
    assert_same(torch.from_numpy(numbers), stored.to(torch.from_numpy(numbers).dtype))
    assert_same(ours(numbers, dtype), stored)


@pytest.mark.parametrize("dtype", SHORT)
def test_ties_go_to_even_and_neighbours_to_the_nearer(dtype: str) -> None:
    """Each point between two neighbours, where rounding decides, and a hair on either side."""
    numbers = np.array(finite(dtype))
    middles = ((numbers[:-1] + numbers[1:]) / 2).astype(np.float32)
    infinity = np.float32(np.inf)
    for values in (middles, np.nextafter(middles, infinity), np.nextafter(middles, -infinity)):
        assert_same(ours(values, dtype), torch.from_numpy(values).to(TORCH[dtype]))


@pytest.mark.parametrize("dtype", SHORT)
def test_the_edges_round_as_in_torch(dtype: str) -> None:
    """Infinity, NaN, zeros, subnormals, overflow."""
    largest = torch.finfo(TORCH[dtype]).max
    values = np.array(
        [
            *(0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38),
            *(largest, -largest, min(largest * 1.001, 3.4e38), min(largest * 1.1, 3.4e38)),
            *(448.0, 464.0, 464.1, 480.0, 65519.0, 65520.0),
        ],
        np.float32,
    )
    assert_same(ours(values, dtype), torch.from_numpy(values).to(TORCH[dtype]))


@settings(max_examples=100, deadline=None)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@pytest.mark.parametrize("dtype", SHORT)
def test_any_float32_rounds_as_in_torch(dtype: str, bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    assert_same(ours(values, dtype), torch.from_numpy(values).to(TORCH[dtype]))


@cache
def finite(dtype: str) -> list[float]:
    """All finite numbers of a type, sorted."""
    table = every_pattern(dtype).double()
    return table[table.isfinite()].unique().tolist()


def nearest(value: float, dtype: str) -> float:
    """The number of ``dtype`` nearest to ``value``, exactly; of two the one whose last bit is 0."""
    table = finite(dtype)
    at = bisect_left(table, value)
    sides = table[max(at - 1, 0) : at + 1]
    distance = {side: abs(Fraction(side) - Fraction(value)) for side in sides}
    best = [side for side in sides if distance[side] == min(distance.values())]
    if len(best) == 1:
        return best[0]
    return next(b for b in best if not torch.tensor(b, dtype=TORCH[dtype]).view(torch.int16) & 1)


# 1 + 2⁻⁸ lies in the middle of two bfloat16; a double a hair above it must go up, while its float32
# is the middle itself and would go to even, down. The same in the other direction and below zero.
HAIR = 2.0**-40


@settings(max_examples=300, deadline=None)
@given(value=st.floats(-3e38, 3e38, allow_nan=False))
@example(1 + 2**-8 + HAIR)
@example(1 + 2**-8 - HAIR)
@example(1 + 3 * 2**-8 - HAIR)
@example(-(1 + 2**-8 + HAIR))
@example(-(1 + 3 * 2**-8 - HAIR))
@example((1 + 2**-8) * 2.0**-130 + 2.0**-175)
@example(2.0**-134 + 2.0**-190)
@example(5e-324)
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_a_double_is_rounded_once(dtype: str, value: float) -> None:
    if abs(value) <= finite(dtype)[-1]:
        (found,) = ours(np.array([value]), dtype).tolist()
        assert found == nearest(value, dtype)


def test_a_double_beyond_bfloat16_is_infinite() -> None:
    largest = 3.3895313892515355e38
    half_a_step = 2.0**119
    values = np.array(
        [largest + half_a_step * 0.999, largest + half_a_step, 1e300, -1e300, np.inf, np.nan]
    )
    found = ours(values, "BF16").float().tolist()
    assert found[:5] == [largest, np.inf, np.inf, -np.inf, np.inf]
    assert np.isnan(found[5])


@pytest.mark.parametrize("dtype", ["F32", "F64"])
def test_wide_types_are_carried_unchanged(dtype: str) -> None:
    values = torch.randn(100, dtype=TORCH[dtype], generator=torch.Generator().manual_seed(0))
    numbers = widen(raw_of(values), dtype, np.empty(100, np.float64))
    assert_same(ours(numbers, dtype), values)


def test_a_nan_stays_a_nan_whatever_its_payload() -> None:
    """A signalling NaN whose upper half looks like infinity must not become infinity."""
    values = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    assert ours(values, "BF16").isnan().all()
    assert ours(values, "F16").isnan().all()
    wide = np.array([0x7FF0000000000001, 0xFFF0000000000001], np.uint64).view(np.float64)
    assert ours(wide, "BF16").isnan().all()
    assert ours(wide, "F32").isnan().all()


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [
        (("BF16",), np.float32),
        (("F16", "F8_E4M3"), np.float32),
        (("BF16", "F32"), np.float64),
        (("F64", "BF16"), np.float64),
    ],
)
def test_the_type_to_compute_in(dtypes: tuple[str, ...], wanted: type) -> None:
    assert compute_dtype(*dtypes) is wanted


def test_moments_count_what_changed_and_what_is_broken() -> None:
    delta = np.array([3.0, 0.0, np.nan, 4.0, np.inf])
    base = np.array([1.0, 2.0, 10.0, 0.0, 10.0])
    assert moments(delta, base) == (25.0, 5.0, 2, 2)
