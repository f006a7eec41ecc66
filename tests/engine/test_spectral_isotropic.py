"""Iso-C and Iso-CTS against their formulas, written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.spectral import iso_c, iso_cts
from tests.engine.test_spectral_shapes import matrix, polar_factor, source


def total_of(arrays: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return sum(
        (w * a for w, a in zip(weights, arrays, strict=True)), start=np.zeros_like(arrays[0])
    )


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 10),
    columns=st.integers(2, 10),
    weights=st.lists(st.sampled_from([1.0, 0.5, -1.0, 2.0]), min_size=1, max_size=4),
)
def test_iso_c_is_the_polar_factor_times_the_mean(
    seed: int, rows: int, columns: int, weights: list[float]
) -> None:
    arrays = [matrix(seed + k, (rows, columns)) for k in range(len(weights))]
    total = total_of(arrays, weights)
    mean = np.linalg.norm(total, "nuc") / min(rows, columns)
    found = iso_c(source(arrays), weights)
    np.testing.assert_allclose(found, mean * polar_factor(total), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (8, 8)])
@pytest.mark.parametrize("rank", [None, 3])
def test_iso_c_has_a_flat_spectrum(shape: tuple[int, int], rank: int | None) -> None:
    arrays = [matrix(1, shape, rank)]
    spectrum = np.linalg.svd(iso_c(source(arrays), [1.0]), compute_uv=False)
    before = np.linalg.svd(arrays[0], compute_uv=False)
    size = rank or min(shape)
    np.testing.assert_allclose(spectrum[:size], before[:size].mean())
    np.testing.assert_allclose(spectrum[size:], 0, atol=1e-12)


@pytest.mark.parametrize("ranks", [(2, 3), (20, 20)], ids=["thin", "thick"])
def test_iso_c_of_factors(ranks: tuple[int, int]) -> None:
    parts = [(matrix(r, (15, r)), matrix(r + 1, (r, 18)), 0.25) for r in ranks]
    arrays = [scale * left @ right for left, right, scale in parts]
    found = iso_c(source(arrays), [1.0, -2.0], factors=lambda k: parts[k])
    np.testing.assert_allclose(found, iso_c(source(arrays), [1.0, -2.0]), atol=1e-10)


def cts_reference(
    arrays: list[np.ndarray], weights: list[float], common_share: float
) -> np.ndarray:
    size, count = min(arrays[0].shape), len(arrays)
    each = round((size - int(size * common_share)) / count)
    common = size - each * count
    U, s, Vt = np.linalg.svd(total_of(arrays, weights), full_matrices=False)
    left = np.zeros((arrays[0].shape[0], size))
    right = np.zeros((size, arrays[0].shape[1]))
    values = np.zeros(size)
    left[:, :common], values[:common], right[:common] = U[:, :common], s[:common], Vt[:common]
    outside = np.eye(len(U)) - U[:, :common] @ U[:, :common].T
    for k, (array, weight) in enumerate(zip(arrays, weights, strict=True)):
        U_own, s_own, Vt_own = np.linalg.svd(outside @ (weight * array), full_matrices=False)
        here = slice(common + k * each, common + (k + 1) * each)
        left[:, here], values[here], right[here] = U_own[:, :each], s_own[:each], Vt_own[:each]
    return values.mean() * polar_factor(left) @ polar_factor(right)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (15, 15)])
@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_iso_cts_is_the_formula(shape: tuple[int, int], share: float, count: int) -> None:
    arrays = [matrix(k, shape) for k in range(count)]
    weights = [1.0, -0.5, 2.0][:count]
    found = iso_cts(source(arrays), weights, common_share=share)
    np.testing.assert_allclose(found, cts_reference(arrays, weights, share), atol=1e-7)


def test_iso_cts_without_room_for_the_tasks_is_iso_c() -> None:
    arrays = [matrix(k, (4, 9)) for k in range(6)]
    found = iso_cts(source(arrays), [1.0] * 6)
    np.testing.assert_allclose(found, iso_c(source(arrays), [1.0] * 6), atol=1e-10)


def test_iso_cts_of_low_rank_stays_in_the_span_of_the_terms() -> None:
    arrays = [matrix(k, (20, 16), rank=2) for k in range(3)]
    found = iso_cts(source(arrays), [1.0] * 3, common_share=0.25)
    span = np.hstack(arrays)
    np.testing.assert_allclose(span @ np.linalg.pinv(span, rcond=1e-9) @ found, found, atol=1e-10)
    assert np.linalg.matrix_rank(found) == 6
