"""TSV-Merge: the strongest singular directions of each vector, made orthogonal to the others'.

Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025
(arXiv 2412.00081). For a matrix, with K terms:

    τ_k = U_k Σ_k V_kᵀ, the first r = min(rows, columns) / K triplets kept
    Û = polar([U_1 … U_K]),  V̂ = polar([V_1 … V_K])       (orthogonal Procrustes)
    ΔW = Û · diag(w_1 Σ_1, …, w_K Σ_K) · V̂ᵀ

The weight of a term scales its singular values, so a negative one takes the vector away along its
own directions; which directions are kept does not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .guide import Guide
from .linalg import Array, concat, host, matmul, one_thread, polar, put, rank_of, svd
from .plain import Deltas, Factors, checked, load, low_rank_svd, nothing, present

GUIDE = Guide(
    paper="Task Singular Vectors: Reducing Task Interference in Model Merging (arXiv 2412.00081)",
    code="https://github.com/AntoAndGar/task_singular_vectors",
    default_lambda=1.4,
    lambda_range=(1.0, 2.0),
    vectors="average",
    vocabulary="average",
)


@one_thread
def tsv_merge(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    rank_share: float | None = None,
    factors: Factors | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns) of TSV-Merge; one term of weight w gives w · τ exactly.

    ``rank_share`` (0 … 1] is the share of min(rows, columns) each term keeps; 1/K by default, so
    that all of them fit. Terms with ``factors`` are decomposed from these, which is far cheaper.
    Only directions above rounding count, and a term keeps at least one.
    """
    terms = present(weights)
    if not terms:
        return nothing(deltas)
    if len(terms) == 1 and rank_share is None:
        k, weight = terms[0]
        delta = load(deltas, k)
        delta *= delta.dtype.type(weight)
        return delta
    lefts, values, rights = [], [], []
    shape: tuple[int, ...] = ()
    dtype: Any = None
    for k, weight in terms:
        U, s, Vt, shape, dtype = _term(deltas, factors, k, device)
        keep = _kept(min(shape), len(terms), rank_share)
        keep = min(keep, rank_of(s, shape, dtype))
        lefts.append(U[:, :keep])
        values.append(s[:keep] * weight)
        rights.append(Vt[:keep])
    if not any(len(part) for part in values):
        return np.zeros(shape, dtype)
    left = polar(concat(lefts, 1), dtype)
    right = polar(concat(rights, 0), dtype)
    return host(matmul(left * concat(values, 0), right), dtype)


def _term(
    deltas: Deltas, factors: Factors | None, k: int, device: str
) -> tuple[Array, Array, Array, tuple[int, ...], np.dtype]:
    """The SVD of τ_k, its shape and its dtype; through the factors where they are thin."""
    factor = factors(k) if factors else None
    if factor is not None:
        left, right, scale = factor
        shape = (left.shape[0], right.shape[1])
        if left.shape[1] < min(shape):
            parts = low_rank_svd(
                put(checked(left, k), device, np.float64) * float(scale),
                put(checked(right, k), device, np.float64),
            )
            U, s, Vt = (put(host(part, left.dtype), device) for part in parts)
            return U, s, Vt, shape, left.dtype
    delta = load(deltas, k)
    U, s, Vt = svd(put(delta, device))
    return U, s, Vt, delta.shape, delta.dtype


def _kept(size: int, count: int, rank_share: float | None) -> int:
    # Whole-number division: int(49 * (1 / 49)) is 0.
    share = size // count if rank_share is None else int(size * rank_share)
    return min(size, max(1, share))
