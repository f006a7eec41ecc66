"""What every whole-tensor method must do, whatever its formula; and small matrices for the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from merging.engine.errors import MergeError
from merging.engine.spectral import (
    GUIDES,
    core_merge,
    iso_c,
    iso_cts,
    knots_merge,
    svc,
    tsv_merge,
    weighted_average,
    weighted_sum,
    wudi_merge,
)
from merging.engine.spectral.linalg import _openblas, one_thread, polar, rank_of

Merge = Callable[..., np.ndarray]

METHODS: dict[str, Merge] = {
    "tsv": tsv_merge,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "svc": svc,
    "knots": knots_merge,
    "core_tsv": core_merge,
    "core_ties": lambda *args, **kw: core_merge(*args, inner="ties", **kw),
    "wudi": lambda *args, **kw: wudi_merge(*args, steps=20, **kw),
}
SHAPES = [(7, 12), (12, 7), (6, 6), (2, 9), (1, 5), (5, 1)]

every_method = pytest.mark.parametrize("merge", METHODS.values(), ids=METHODS.keys())
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def matrix(
    seed: int, shape: tuple[int, int], rank: int | None = None, dtype: type = np.float64
) -> np.ndarray:
    """A random matrix, of ``rank`` if given."""
    rng = np.random.default_rng(seed)
    if rank is None:
        return rng.standard_normal(shape).astype(dtype)
    left, right = rng.standard_normal((shape[0], rank)), rng.standard_normal((rank, shape[1]))
    return (left @ right).astype(dtype)


def source(arrays: Sequence[np.ndarray]) -> Callable[[int], np.ndarray]:
    """``deltas`` of these arrays: a fresh copy each time, as the engine promises."""
    return lambda k: arrays[k].copy()


def orthogonal(seed: int, size: int) -> np.ndarray:
    """A random rotation."""
    return np.linalg.qr(matrix(seed, (size, size)))[0]


def polar_factor(matrix: np.ndarray) -> np.ndarray:
    """The polar factor of a matrix of full rank, without any SVD: Newton-Schulz iteration.

    Each step takes every singular value σ of X to (3σ − σ³) / 2, and so to 1.
    """
    X = matrix / np.linalg.norm(matrix)
    for _step in range(150):
        X = 1.5 * X - 0.5 * X @ X.T @ X
    return X


@every_method
@every_shape
def test_zeros_merge_to_zeros(merge: Merge, shape: tuple[int, int]) -> None:
    found = merge(source([np.zeros(shape, np.float32)] * 3), [1.0, 0.5, -1.0])
    assert found.shape == shape
    assert found.dtype == np.float32
    assert not found.any()


@every_method
@every_shape
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype_are_the_deltas(merge: Merge, shape: tuple[int, int], dtype: type) -> None:
    arrays = [matrix(seed, shape, dtype=dtype) for seed in range(4)]
    found = merge(source(arrays), [1.0, 0.5, -1.0, 2.0])
    assert found.shape == shape
    assert found.dtype == dtype
    assert np.isfinite(found).all()
    assert found.any()


@every_method
def test_more_terms_than_a_side_has_directions(merge: Merge) -> None:
    arrays = [matrix(seed, (3, 10)) for seed in range(8)]
    found = merge(source(arrays), [1.0] * 8)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) > 0.1


@every_method
def test_single_precision_is_near_double(merge: Merge) -> None:
    arrays = [matrix(seed, (20, 14)) for seed in range(3)]
    double = merge(source(arrays), [1.0, 0.7, -0.4])
    single = merge(source([a.astype(np.float32) for a in arrays]), [1.0, 0.7, -0.4])
    np.testing.assert_allclose(single, double, atol=2e-4)


@every_method
@given(order=st.permutations(range(4)))
def test_the_order_of_terms_does_not_matter(merge: Merge, order: list[int]) -> None:
    arrays = [matrix(seed, (9, 13)) for seed in range(4)]
    weights = [1.0, 0.5, -0.3, 2.0]
    straight = merge(source(arrays), weights)
    mixed = merge(source([arrays[k] for k in order]), [weights[k] for k in order])
    np.testing.assert_allclose(mixed, straight, atol=1e-9)


@every_method
def test_a_term_of_weight_zero_is_absent(merge: Merge) -> None:
    arrays = [matrix(seed, (8, 6)) for seed in range(3)]
    with_it = merge(source(arrays), [1.0, 0.0, 0.5])
    without = merge(source([arrays[0], arrays[2]]), [1.0, 0.5])
    assert (with_it == without).all()


@every_method
def test_opposite_weights_give_the_opposite_update(merge: Merge) -> None:
    arrays = [matrix(seed, (8, 6)) for seed in range(3)]
    there = merge(source(arrays), [1.0, 0.5, -2.0])
    back = merge(source(arrays), [-1.0, -0.5, 2.0])
    np.testing.assert_allclose(back, -there, atol=1e-9)


@every_method
def test_no_weight_gives_zeros_and_no_term_is_refused(merge: Merge) -> None:
    arrays = [matrix(1, (4, 5))]
    assert not merge(source(arrays), [0.0]).any()
    with pytest.raises(MergeError, match="no vector"):
        merge(source(arrays), [])


@every_method
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(merge: Merge, bad: float) -> None:
    arrays = [matrix(seed, (4, 5)) for seed in range(2)]
    arrays[1][2, 3] = bad
    with pytest.raises(MergeError, match="Vector 2 holds numbers that are not finite"):
        merge(source(arrays), [1.0, 1.0])


@every_method
def test_the_same_bits_again(merge: Merge) -> None:
    arrays = [matrix(seed, (33, 65), dtype=np.float32) for seed in range(3)]
    first = merge(source(arrays), [1.0, 0.7, -0.4])
    assert (merge(source(arrays), [1.0, 0.7, -0.4]) == first).all()


@every_method
def test_torch_computes_the_same(merge: Merge) -> None:
    arrays = [matrix(seed, (9, 13)) for seed in range(3)]
    weights = [1.0, 0.7, -0.4]
    elsewhere = merge(source(arrays), weights, device="cpu:0")
    np.testing.assert_allclose(elsewhere, merge(source(arrays), weights), atol=1e-9)


@pytest.mark.parametrize("merge", [m for n, m in METHODS.items() if n != "wudi"])
def test_a_vector_and_its_copy_have_no_arbitrary_directions(merge: Merge) -> None:
    # The concatenated singular vectors have half the rank here; any completion would be noise.
    one = matrix(1, (10, 10), rank=4)
    found = merge(source([one, one]), [1.0, 1.0])
    assert np.linalg.norm(found) > 0.1
    outside = np.eye(10) - one @ np.linalg.pinv(one, rcond=1e-9)
    np.testing.assert_allclose(outside @ found, 0, atol=1e-8)


def test_sum_and_average_of_any_shape() -> None:
    arrays = [matrix(seed, (1, 5))[0] for seed in range(3)]
    weights = [1.0, 0.0, -0.5]
    expected = arrays[0] - 0.5 * arrays[2]
    np.testing.assert_allclose(weighted_sum(source(arrays), weights), expected)
    np.testing.assert_allclose(weighted_average(source(arrays), weights), expected / 2)
    assert (weighted_average(source(arrays), [1.0, 0.0, 0.0]) == arrays[0]).all()


def test_every_guide_is_in_its_own_range() -> None:
    for name, guide in GUIDES.items():
        low, high = guide.lambda_range
        assert 0 < low <= guide.default_lambda <= high, name
        assert "arXiv" in guide.paper


@given(seed=st.integers(0, 50), rows=st.integers(1, 8), columns=st.integers(1, 8))
def test_polar_is_the_nearest_orthonormal_matrix(seed: int, rows: int, columns: int) -> None:
    given_matrix = matrix(seed, (rows, columns))
    np.testing.assert_allclose(
        polar(given_matrix, np.float64), polar_factor(given_matrix), atol=1e-6
    )


def test_rounding_to_float32_is_no_rank() -> None:
    rounded = matrix(3, (60, 90), rank=5, dtype=np.float32)
    assert rank_of(np.linalg.svd(rounded, compute_uv=False), rounded.shape, np.float32) == 5


def test_one_blas_thread_while_anybody_is_inside() -> None:
    count = _openblas("get_num_threads")
    if count is None:
        pytest.skip("numpy without OpenBLAS")
    before = count()
    inside, leave = threading.Event(), threading.Event()

    @one_thread
    def wait() -> None:
        inside.set()
        leave.wait(30)

    other = threading.Thread(target=wait)
    other.start()
    assert inside.wait(30)
    assert one_thread(count)() == 1
    assert count() == 1  # ours ended, the other's did not
    leave.set()
    other.join(30)
    assert count() == before
