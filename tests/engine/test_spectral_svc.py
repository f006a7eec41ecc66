"""SVC against its formula, one direction and one term at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.errors import RecipeError
from merging.engine.spectral import svc
from tests.engine.test_spectral_shapes import matrix, orthogonal, source


def reference(
    arrays: list[np.ndarray],
    weights: list[float],
    alpha: float,
    merged: np.ndarray | None = None,
) -> np.ndarray:
    terms = [w * a for w, a in zip(weights, arrays, strict=True)]
    if merged is None:
        merged = sum(terms, start=np.zeros_like(terms[0]))
    U, s, Vt = np.linalg.svd(merged, full_matrices=False)
    result = np.zeros_like(merged)
    for r in range(len(s)):
        response = U[:, r] @ merged
        shares = []
        for term in terms:
            own = U[:, r] @ term
            shares.append(max(alpha, (response @ own) / (own @ own)))
        result += s[r] * len(terms) / sum(shares) * np.outer(U[:, r], Vt[r])
    return result


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    weights=st.lists(st.sampled_from([1.0, 0.5, -1.0, 2.0]), min_size=1, max_size=4),
    alpha=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_the_formula(
    seed: int, rows: int, columns: int, weights: list[float], alpha: float
) -> None:
    arrays = [matrix(seed + k, (rows, columns)) for k in range(len(weights))]
    found = svc(source(arrays), weights, alpha=alpha)
    np.testing.assert_allclose(found, reference(arrays, weights, alpha), atol=1e-7)


def test_alpha_is_one_over_the_number_of_terms_unless_said() -> None:
    arrays = [matrix(k, (5, 7)) for k in range(4)]
    assert (svc(source(arrays), [1.0] * 4) == svc(source(arrays), [1.0] * 4, alpha=0.25)).all()


@pytest.mark.parametrize("weight", [1.0, 0.3, -2.0])
def test_one_vector_is_left_alone(weight: float) -> None:
    one = matrix(1, (5, 8))
    np.testing.assert_allclose(svc(source([one]), [weight]), weight * one, atol=1e-12)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_count_once(copies: int) -> None:
    one = matrix(1, (6, 9))
    np.testing.assert_allclose(svc(source([one] * copies), [1.0] * copies), one, atol=1e-12)


def test_vectors_in_orthogonal_directions_add() -> None:
    left, right = orthogonal(1, 9), orthogonal(2, 11)
    arrays = [
        left[:, 3 * k : 3 * k + 3] @ matrix(k, (3, 3)) @ right[3 * k : 3 * k + 3] for k in range(3)
    ]
    expected = arrays[0] - 0.5 * arrays[1] + 2 * arrays[2]
    np.testing.assert_allclose(svc(source(arrays), [1.0, -0.5, 2.0]), expected, atol=1e-10)


def test_any_other_merge_can_be_calibrated() -> None:
    arrays = [matrix(k, (6, 8)) for k in range(3)]
    merged = matrix(9, (6, 8))
    found = svc(source(arrays), [1.0, 1.0, -1.0], alpha=0.5, merged=merged)
    expected = reference(arrays, [1.0, 1.0, -1.0], 0.5, merged)
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_alpha_of_one_never_strengthens() -> None:
    arrays = [matrix(k, (8, 8)) for k in range(4)]
    before = np.linalg.svd(sum(arrays), compute_uv=False)
    after = np.linalg.svd(svc(source(arrays), [1.0] * 4, alpha=1.0), compute_uv=False)
    assert (after <= before + 1e-12).all()


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(RecipeError, match="above 0"):
        svc(source([matrix(1, (2, 2))]), [1.0], alpha=alpha)
