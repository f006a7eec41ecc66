"""Terms, read one at a time, and their plain weighted sum and average.

Every function of this package takes ``deltas`` and ``weights``: ``deltas(k)`` returns a fresh array
of τ_k, which may be changed, and may be asked for the same k more than once; ``weights[k]`` is the
recipe's coefficient w_k, of any sign. A term of weight 0 counts as absent: K is the number of the
others. Results have the dtype of the deltas and are not multiplied by λ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from merging.engine.errors import MergeError, _

from .linalg import Array, concat, matmul, put, qr, svd

Deltas = Callable[[int], np.ndarray]
Factor = tuple[np.ndarray, np.ndarray, float]
Factors = Callable[[int], Factor | None]
"""``factors(k)`` is (left (rows, r), right (r, columns), scale) with τ_k = scale · left · right,
or None where term k has no such form."""


def present(weights: Sequence[float]) -> list[tuple[int, float]]:
    """The terms that count: (k, w_k) for every w_k ≠ 0. Raises MergeError without any term."""
    if not len(weights):
        raise MergeError(_("There is nothing to merge: the recipe has no vector."))
    return [(k, float(weight)) for k, weight in enumerate(weights) if weight != 0]


def checked(array: np.ndarray, k: int) -> np.ndarray:
    """``array`` of term ``k`` if all its numbers are finite; otherwise MergeError."""
    if not np.isfinite(array).all():
        raise MergeError(
            _(
                "Vector %(number)d holds numbers that are not finite (NaN or infinity), so it has "
                "no singular values. Remove it, or merge with task_arithmetic."
            ),
            number=k + 1,
        )
    return array


def load(deltas: Deltas, k: int) -> np.ndarray:
    """τ_k, checked to be finite."""
    return checked(deltas(k), k)


def nothing(deltas: Deltas) -> np.ndarray:
    """The update of a merge in which no term counts: zeros."""
    return np.zeros_like(deltas(0))


def weighted_sum(deltas: Deltas, weights: Sequence[float]) -> np.ndarray:
    """Σ w_k τ_k in the order of the terms, for tensors of any shape.

    Ilharco et al., "Editing Models with Task Arithmetic" (arXiv 2212.04089).
    """
    total = None
    for k, weight in present(weights):
        delta = deltas(k)
        delta *= delta.dtype.type(weight)
        if total is None:
            total = delta
        else:
            total += delta
    return nothing(deltas) if total is None else total


def weighted_average(deltas: Deltas, weights: Sequence[float]) -> np.ndarray:
    """Σ w_k τ_k / K over the K terms of weight ≠ 0.

    With equal weights it is the mean that TSV-Merge and Iso-C take of everything but matrices.
    Dividing by K and not by Σ w_k keeps it defined, and small, when weights cancel.
    """
    total = weighted_sum(deltas, weights)
    count = len(present(weights))
    if count > 1:
        total /= total.dtype.type(count)
    return total


def factored(factors: Factors | None, ks: Sequence[int]) -> list[Factor] | None:
    """The factors of all terms ``ks`` (scales multiplied into the left ones), or None."""
    if factors is None:
        return None
    found = []
    for k in ks:
        factor = factors(k)
        if factor is None:
            return None
        left, right, scale = factor
        checked(left, k)
        checked(right, k)
        found.append((left * left.dtype.type(scale), right, 1.0))
    return found


def low_rank_svd(left: Array, right: Array) -> tuple[Array, Array, Array]:
    """The SVD of left (m, r) · right (r, n) through two thin QRs, for r below min(m, n)."""
    Q_left, R_left = qr(left)
    Q_right, R_right = qr(right.T)
    U, s, Vt = svd(matmul(R_left, R_right.T))
    return matmul(Q_left, U), s, matmul(Vt, Q_right.T)


def svd_of_sum(
    deltas: Deltas, weights: Sequence[float], factors: Factors | None, device: str
) -> tuple[Array, Array, Array, np.dtype]:
    """The SVD of Σ w_k τ_k, and the dtype of the deltas.

    Where every term has factors and their ranks add up to less than a side of the matrix, the sum
    is never written out: its factors are the terms' side by side. That is done in float64.
    """
    terms = present(weights)
    found = factored(factors, [k for k, _weight in terms])
    if found:
        rows, columns = found[0][0].shape[0], found[0][1].shape[1]
        if sum(right.shape[0] for _left, right, _scale in found) < min(rows, columns):
            lefts = [
                put(left, device, np.float64) * weight
                for (left, _right, _scale), (_k, weight) in zip(found, terms, strict=True)
            ]
            rights = [put(right, device, np.float64) for _left, right, _scale in found]
            return *low_rank_svd(concat(lefts, 1), concat(rights, 0)), found[0][0].dtype
    total = weighted_sum(lambda k: load(deltas, k), weights)
    return *svd(put(total, device)), total.dtype
