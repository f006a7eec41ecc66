"""TSV-Merge against its formula, written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.spectral import tsv_merge
from tests.engine.test_spectral_shapes import matrix, orthogonal, polar_factor, source


def reference(arrays: list[np.ndarray], weights: list[float], keep: int) -> np.ndarray:
    """Full SVDs, top ``keep`` of each, Procrustes by the polar factor."""
    lefts, middles, rights = [], [], []
    for array, weight in zip(arrays, weights, strict=True):
        U, s, Vt = np.linalg.svd(array)
        lefts.append(U[:, :keep])
        middles.append(weight * s[:keep])
        rights.append(Vt[:keep])
    left, right = np.hstack(lefts), np.vstack(rights)
    return polar_factor(left) @ np.diag(np.concatenate(middles)) @ polar_factor(right)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(4, 12),
    columns=st.integers(4, 12),
    weights=st.lists(st.sampled_from([1.0, 0.5, -1.0, 2.0]), min_size=2, max_size=4),
)
def test_the_formula(seed: int, rows: int, columns: int, weights: list[float]) -> None:
    arrays = [matrix(seed + k, (rows, columns)) for k in range(len(weights))]
    keep = min(rows, columns) // len(weights)
    found = tsv_merge(source(arrays), weights)
    np.testing.assert_allclose(found, reference(arrays, weights, keep), atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3])
def test_the_share_of_directions(share: float) -> None:
    arrays = [matrix(k, (10, 14)) for k in range(3)]
    found = tsv_merge(source(arrays), [1.0] * 3, rank_share=share)
    np.testing.assert_allclose(found, reference(arrays, [1.0] * 3, int(10 * share)), atol=1e-8)


def test_one_vector_comes_back() -> None:
    one = matrix(1, (5, 8), dtype=np.float32)
    assert (tsv_merge(source([one]), [1.0]) == one).all()
    assert (tsv_merge(source([one]), [-0.5]) == one * np.float32(-0.5)).all()


@pytest.mark.parametrize("count", [2, 3])
def test_vectors_in_orthogonal_directions_add(count: int) -> None:
    # Each lives in directions of its own, on both sides, and fits in its share: nothing is lost.
    left, right = orthogonal(1, 12), orthogonal(2, 15)
    arrays = [
        left[:, 4 * k : 4 * k + 3] @ np.diag([5.0, 3.0, 2.0]) @ right[4 * k : 4 * k + 3]
        for k in range(count)
    ]
    weights = [1.0, -0.5, 2.0][:count]
    expected = sum(w * a for w, a in zip(weights, arrays, strict=True))
    np.testing.assert_allclose(tsv_merge(source(arrays), weights), expected, atol=1e-12)


def test_a_vector_and_its_copy_count_once() -> None:
    one = matrix(1, (9, 9), rank=3)
    np.testing.assert_allclose(tsv_merge(source([one, one]), [1.0, 1.0]), one, atol=1e-12)


def test_rotations_and_transposes_go_through() -> None:
    arrays = [matrix(k, (8, 11)) for k in range(3)]
    left, right = orthogonal(1, 8), orthogonal(2, 11)
    plain = tsv_merge(source(arrays), [1.0, 0.5, 2.0])
    turned = tsv_merge(source([left @ a @ right for a in arrays]), [1.0, 0.5, 2.0])
    np.testing.assert_allclose(turned, left @ plain @ right, atol=1e-10)
    across = tsv_merge(source([a.T for a in arrays]), [1.0, 0.5, 2.0])
    np.testing.assert_allclose(across, plain.T, atol=1e-10)


@pytest.mark.parametrize("shape", [(30, 40), (40, 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factors_give_what_the_whole_matrix_gives(shape: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(5)
    parts = [
        (
            rng.standard_normal((shape[0], rank)).astype(dtype),
            rng.standard_normal((rank, shape[1])).astype(dtype),
            0.5,
        )
        for rank in (3, 5)
    ]
    arrays = [(scale * left @ right).astype(dtype) for left, right, scale in parts]

    def unwanted(k: int) -> np.ndarray:
        raise AssertionError(f"delta {k} was written out")

    found = tsv_merge(unwanted, [1.0, -0.7], factors=lambda k: parts[k])
    assert found.dtype == dtype
    expected = tsv_merge(source(arrays), [1.0, -0.7])
    np.testing.assert_allclose(found, expected, atol=1e-10 if dtype == np.float64 else 1e-3)


def test_factors_and_whole_matrices_mix() -> None:
    left, right = matrix(1, (20, 2)), matrix(2, (2, 16))
    arrays = [left @ right, matrix(3, (20, 16))]
    found = tsv_merge(
        source(arrays), [1.0, 1.0], factors=lambda k: (left, right, 1.0) if k == 0 else None
    )
    np.testing.assert_allclose(found, tsv_merge(source(arrays), [1.0, 1.0]), atol=1e-10)


def test_directions_of_rounding_do_not_count() -> None:
    # Rank 2 stored in float32: its share of 5 would take in three directions of rounding.
    exact = [matrix(k, (10, 10), rank=2) for k in range(2)]
    rounded = tsv_merge(source([a.astype(np.float32) for a in exact]), [1.0, 1.0])
    np.testing.assert_allclose(rounded, reference(exact, [1.0, 1.0], 2), atol=1e-4)
