"""Consensus and RAM against their formulas, one entry at a time in plain Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.errors import MergeError
from merging.engine.spectral import consensus_merge, ram_counts, ram_merge, ram_plus_merge

EPSILON = 1e-5
# Values on both sides of RAM's ε, and zeros: sparse vectors, as reinforcement learning makes them.
NUMBERS = st.sampled_from([0.0, 0.0, 5e-6, -5e-6, 2e-5, -0.5, 0.25, 1.0, -1.5])
WEIGHTS = st.sampled_from([1.0, 0.5, -1.0, 0.0, 2.0])
MERGES: dict[str, Callable[..., np.ndarray]] = {
    "consensus": consensus_merge,
    "ram": ram_merge,
    "ram_plus": ram_plus_merge,
}

every_merge = pytest.mark.parametrize("merge", MERGES.values(), ids=MERGES.keys())


@st.composite
def sparse_terms(draw: st.DrawFn) -> tuple[np.ndarray, list[float]]:
    count, size = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    numbers = draw(st.lists(NUMBERS, min_size=count * size, max_size=count * size))
    weights = draw(st.lists(WEIGHTS, min_size=count, max_size=count))
    return np.array(numbers).reshape(count, size), weights


def consensus_reference(
    terms: np.ndarray, weights: list[float], scales: list[float], agreement: int
) -> list[float]:
    counted = [k for k, weight in enumerate(weights) if weight]
    merged = []
    for column in terms.T:
        together = 0.0
        for k in counted:
            together += weights[k] * column[k]
        votes = sum(
            abs(weights[k] * column[k]) > scales[k] * abs(together - weights[k] * column[k])
            for k in counted
        )
        merged.append(together if votes >= min(agreement, len(counted)) else 0.0)
    return merged


@given(
    given_terms=sparse_terms(),
    scale=st.sampled_from([0.2, 0.4, 0.6, 1.0]),
    agreement=st.integers(0, 3),
)
def test_consensus_is_the_formula(
    given_terms: tuple[np.ndarray, list[float]], scale: float, agreement: int
) -> None:
    terms, weights = given_terms
    found = consensus_merge(terms, weights, mask_scale=scale, agreement=agreement)
    assert found.tolist() == consensus_reference(terms, weights, [scale] * 5, agreement)


def test_consensus_with_a_scale_for_each_term() -> None:
    terms = np.random.default_rng(1).standard_normal((3, 200))
    scales = [0.2, 0.6, 1.5]
    found = consensus_merge(terms, [1.0, 1.0, 1.0], mask_scale=scales)
    assert found.tolist() == consensus_reference(terms, [1.0] * 3, scales, 2)
    assert (found != consensus_merge(terms, [1.0] * 3, mask_scale=0.2)).any()


def test_consensus_drops_what_one_task_alone_relies_on() -> None:
    terms = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert consensus_merge(terms, [1.0] * 3).tolist() == [2.0, 0.0, 0.0]
    assert consensus_merge(terms, [1.0] * 3, agreement=1).tolist() == [2.0, 1.0, 0.0]


def ram_reference(
    terms: np.ndarray, weights: list[float], r: float = 0.0, alpha: float = 0.0
) -> list[float]:
    moved = {
        k: [abs(x) > EPSILON for x in row]
        for k, (row, weight) in enumerate(zip(terms, weights, strict=True))
        if weight
    }
    size = terms.shape[1]
    movers = [sum(moved[k][i] for k in moved) for i in range(size)]
    boosts = {}
    for k, row in moved.items():
        shared = sum(row[i] and movers[i] > 1 for i in range(size))
        own = sum(row[i] and movers[i] == 1 for i in range(size))
        boosts[k] = 1 + r * min(max(shared / max(own, EPSILON), 0), alpha)
    merged = []
    for i in range(size):
        number = 0.0
        for k in moved:
            if moved[k][i]:
                own_part = weights[k] * terms[k][i]
                number += own_part * boosts[k] if movers[i] == 1 else own_part / movers[i]
        merged.append(number)
    return merged


@given(given_terms=sparse_terms())
def test_ram_is_the_formula(given_terms: tuple[np.ndarray, list[float]]) -> None:
    terms, weights = given_terms
    expected = ram_reference(terms, weights)
    np.testing.assert_allclose(ram_merge(terms, weights), expected, rtol=1e-14)


@given(
    given_terms=sparse_terms(),
    r=st.sampled_from([0.1, 0.5]),
    alpha=st.sampled_from([0.2, 1.0, 3.0]),
)
def test_ram_plus_is_the_formula(
    given_terms: tuple[np.ndarray, list[float]], r: float, alpha: float
) -> None:
    terms, weights = given_terms
    found = ram_plus_merge(terms, weights, r=r, alpha=alpha)
    np.testing.assert_allclose(found, ram_reference(terms, weights, r, alpha), rtol=1e-14)


def test_ram_plus_by_blocks_with_the_counts_of_the_whole() -> None:
    rng = np.random.default_rng(2)
    terms = rng.standard_normal((4, 90)) * (rng.random((4, 90)) < 0.4)
    weights = [1.0, -0.5, 0.0, 2.0]
    whole = ram_plus_merge(terms, weights, alpha=2.0)
    blocks = [terms[:, :40], terms[:, 40:]]
    pairs = [ram_counts(block, weights) for block in blocks]
    counts = (pairs[0][0] + pairs[1][0], pairs[0][1] + pairs[1][1])
    pieces = [ram_plus_merge(block, weights, alpha=2.0, counts=counts) for block in blocks]
    assert (np.concatenate(pieces) == whole).all()
    assert (ram_plus_merge(blocks[0], weights, alpha=2.0) != whole[:40]).any()


@every_merge
def test_one_vector_comes_back(merge: Callable[..., np.ndarray]) -> None:
    one = np.array([[0.5, 0.0, -2.0, 1e-3]], np.float32)
    assert (merge(one, [1.0]) == one[0]).all()


@every_merge
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_zeros_and_absent_terms(merge: Callable[..., np.ndarray], dtype: type) -> None:
    terms = np.random.default_rng(3).standard_normal((3, 50)).astype(dtype)
    before = terms.copy()
    found = merge(terms, [1.0, 0.0, -0.5])
    assert found.dtype == dtype
    assert (found == merge(terms[[0, 2]], [1.0, -0.5])).all()
    assert (terms == before).all()  # the block belongs to the caller
    assert not merge(terms, [0.0, 0.0, 0.0]).any()
    assert not merge(np.zeros_like(terms), [1.0, 1.0, 1.0]).any()
    with pytest.raises(MergeError, match="no vector"):
        merge([terms[0]], [])


@every_merge
@given(order=st.permutations(range(4)))
def test_the_order_of_terms_does_not_matter(
    merge: Callable[..., np.ndarray], order: list[int]
) -> None:
    terms = np.random.default_rng(4).standard_normal((4, 60))
    weights = [1.0, 0.5, -0.3, 2.0]
    mixed = merge(terms[order], [weights[k] for k in order])
    np.testing.assert_allclose(mixed, merge(terms, weights), atol=1e-13)
