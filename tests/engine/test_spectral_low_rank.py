"""KnOTS and core space against their formulas; factors give what whole matrices give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.spectral import core_merge, iso_c, knots_merge, tsv_merge
from merging.engine.spectral.knots import ties
from tests.engine.test_spectral_shapes import matrix, source

Part = tuple[np.ndarray, np.ndarray, float]


def ties_reference(terms: list[np.ndarray], density: float) -> np.ndarray:
    """TIES, entry by entry, on the flattened terms."""
    rows = [term.ravel().tolist() for term in terms]
    keep = max(1, int(len(rows[0]) * density))
    trimmed = []
    for row in rows:
        smallest = sorted(map(abs, row), reverse=True)[keep - 1]
        trimmed.append([x if abs(x) >= smallest else 0.0 for x in row])
    sums = [sum(column) for column in zip(*trimmed, strict=True)]
    signs = [(x > 0) - (x < 0) for x in sums]
    most = sum(signs)
    merged = []
    for column, own_sign in zip(zip(*trimmed, strict=True), signs, strict=True):
        sign = own_sign or most
        agreeing = [x for x in column if (x > 0 if sign > 0 else x < 0)]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return np.array(merged).reshape(terms[0].shape)


@given(
    numbers=st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0, 0.5]), min_size=12, max_size=12),
    density=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
)
def test_ties_is_the_formula(numbers: list[float], density: float) -> None:
    terms = np.array(numbers).reshape(3, 2, 2)
    expected = ties_reference(list(terms.copy()), density)
    np.testing.assert_allclose(ties(terms.copy(), density), expected)


def knots_reference(arrays: list[np.ndarray], weights: list[float], density: float) -> np.ndarray:
    """One SVD of the terms side by side, as the paper has it."""
    U, s, Vt = np.linalg.svd(np.hstack(arrays), full_matrices=False)
    U, s, Vt = U[:, s > 1e-9], s[s > 1e-9], Vt[s > 1e-9]
    columns = arrays[0].shape[1]
    coordinates = [
        weight * s[:, None] * Vt[:, k * columns : (k + 1) * columns]
        for k, weight in enumerate(weights)
    ]
    return U @ ties_reference(coordinates, density)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (12, 3), (2, 7)])
@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("density", [0.2, 0.6, 1.0])
def test_knots_is_the_formula(shape: tuple[int, int], rank: int | None, density: float) -> None:
    arrays = [matrix(k, shape, rank) for k in range(3)]
    weights = [1.0, 0.5, -2.0]
    found = knots_merge(source(arrays), weights, density=density)
    np.testing.assert_allclose(found, knots_reference(arrays, weights, density), atol=1e-6)


def test_knots_of_one_vector_untrimmed_is_the_vector() -> None:
    one = matrix(1, (5, 8))
    np.testing.assert_allclose(knots_merge(source([one]), [1.0], density=1.0), one, atol=1e-12)


def parts_of(shape: tuple[int, int], ranks: tuple[int, ...], dtype: type) -> list[Part]:
    return [
        (
            matrix(10 * k + 1, (shape[0], rank), dtype=dtype),
            matrix(10 * k + 2, (rank, shape[1]), dtype=dtype),
            [2.0, 0.5, -1.0][k],
        )
        for k, rank in enumerate(ranks)
    ]


def unwanted(k: int) -> np.ndarray:
    raise AssertionError(f"delta {k} was written out")


MERGES: dict[str, Callable[..., np.ndarray]] = {
    "knots": knots_merge,
    "core_tsv": core_merge,
    "core_iso_c": lambda *a, **kw: core_merge(*a, inner="iso_c", **kw),
    "core_sum": lambda *a, **kw: core_merge(*a, inner="sum", **kw),
}


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES.keys())
@pytest.mark.parametrize("shape", [(30, 40), (40, 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factors_give_what_the_whole_matrices_give(
    merge: Callable[..., np.ndarray], shape: tuple[int, int], dtype: type
) -> None:
    parts = parts_of(shape, (2, 4, 3), dtype)
    arrays = [(scale * left @ right).astype(dtype) for left, right, scale in parts]
    weights = [1.0, -0.7, 0.4]
    found = merge(unwanted, weights, factors=lambda k: parts[k])
    assert found.dtype == dtype
    tolerance = 1e-9 if dtype == np.float64 else 2e-3
    np.testing.assert_allclose(found, merge(source(arrays), weights), atol=tolerance)


@pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES.keys())
def test_thick_factors_and_missing_ones(merge: Callable[..., np.ndarray]) -> None:
    parts = parts_of((10, 12), (9, 8), np.float64)
    arrays = [scale * left @ right for left, right, scale in parts]
    whole = merge(source(arrays), [1.0, 0.5])
    thick = merge(source(arrays), [1.0, 0.5], factors=lambda k: parts[k])
    np.testing.assert_allclose(thick, whole, atol=1e-9)
    mixed = merge(source(arrays), [1.0, 0.5], factors=lambda k: parts[k] if k else None)
    np.testing.assert_allclose(mixed, whole, atol=1e-9)


def core_reference(
    parts: list[Part], weights: list[float], merge: Callable[[list[np.ndarray]], np.ndarray]
) -> np.ndarray:
    lefts = [scale * left for left, _right, scale in parts]
    rights = [right for _left, right, _scale in parts]
    U = np.linalg.svd(np.hstack(lefts), full_matrices=False)[0]
    Vt = np.linalg.svd(np.vstack(rights), full_matrices=False)[2]
    cores = [
        weight * U.T @ left @ right @ Vt.T
        for left, right, weight in zip(lefts, rights, weights, strict=True)
    ]
    return U @ merge(cores) @ Vt


def test_core_space_with_ties_is_the_formula() -> None:
    parts = parts_of((15, 20), (2, 4, 3), np.float64)
    weights = [1.0, 0.5, -2.0]
    found = core_merge(unwanted, weights, inner="ties", density=0.3, factors=lambda k: parts[k])
    expected = core_reference(parts, weights, lambda cores: ties_reference(cores, 0.3))
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_core_space_loses_nothing() -> None:
    parts = parts_of((15, 20), (2, 4, 3), np.float64)
    arrays = [scale * left @ right for left, right, scale in parts]
    found = core_merge(
        unwanted, [1.0, -0.5, 2.0], inner="sum", isotropic=False, factors=lambda k: parts[k]
    )
    np.testing.assert_allclose(found, arrays[0] - 0.5 * arrays[1] + 2 * arrays[2], atol=1e-9)


def test_spectral_methods_find_in_core_space_what_they_find_in_the_whole() -> None:
    # Ranks equal, so that a K-th of the core is as much as each term has.
    parts = parts_of((24, 32), (3, 3, 3), np.float64)
    arrays = [scale * left @ right for left, right, scale in parts]
    weights = [1.0, 0.5, -2.0]
    tsv = core_merge(unwanted, weights, factors=lambda k: parts[k])
    np.testing.assert_allclose(tsv, tsv_merge(source(arrays), weights), atol=1e-9)
    iso = core_merge(unwanted, weights, inner="iso_c", factors=lambda k: parts[k])
    np.testing.assert_allclose(iso, iso_c(source(arrays), weights), atol=1e-9)


def test_core_space_can_be_made_isotropic() -> None:
    parts = parts_of((15, 20), (2, 4, 3), np.float64)
    found = core_merge(unwanted, [1.0] * 3, isotropic=True, factors=lambda k: parts[k])
    spectrum = np.linalg.svd(found, compute_uv=False)
    kept = spectrum[spectrum > 1e-9]
    np.testing.assert_allclose(kept, kept[0])
