"""Core space: LoRA merged in the small space that all of them span, without loss.

Panariello et al., "Accurate and Efficient Low-Rank Model Merging in Core Space", NeurIPS 2025
(arXiv 2509.17786). With τ_k = B_k A_k:

    U = left singular vectors of [B_1 … B_K],  V = right singular vectors of [A_1; …; A_K]
    M_k = Uᵀ B_k A_k V      (Σ ranks × Σ ranks)
    ΔW = U · merge(M_1, …, M_K) · Vᵀ

Any merge of matrices can be used in the middle. U and V are orthonormal, so a method that looks at
singular values and vectors finds there what it finds in the whole matrix, far more cheaply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from .guide import Guide
from .isotropic import iso_c
from .knots import ties
from .linalg import Array, concat, host, matmul, one_thread, put, rank_of, svd
from .plain import Deltas, Factors, checked, load, nothing, present, weighted_sum
from .tsv import tsv_merge

GUIDE = Guide(
    paper="Accurate and Efficient Low-Rank Model Merging in Core Space (arXiv 2509.17786)",
    code="https://github.com/apanariello4/core-space-merging",
    default_lambda=1.0,
    lambda_range=(0.5, 2.0),
    vectors="average",
    vocabulary="average",
)

Inner = Literal["tsv", "iso_c", "ties", "sum"]


@one_thread
def core_merge(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    inner: Inner = "tsv",
    isotropic: bool = False,
    density: float = 0.1,
    factors: Factors | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns): the terms merged by ``inner`` in their core space.

    ``isotropic`` flattens the spectrum of the result, as the authors offer; ``density`` belongs to
    ``ties``. A term without ``factors`` is split by its own SVD, exact up to rounding, so that
    LoRA and low-rank full vectors mix.
    """
    terms = present(weights)
    if not terms:
        return nothing(deltas)
    lefts, rights = [], []
    dtype = np.dtype(np.float32)
    for k, _weight in terms:
        left, right, dtype = _split(deltas, factors, k, device)
        lefts.append(left)
        rights.append(right)
    U, s_left, _unused = svd(concat(lefts, 1))
    _unused, s_right, Vt = svd(concat(rights, 0))
    U = U[:, : rank_of(s_left, U.shape, dtype)]
    Vt = Vt[: rank_of(s_right, Vt.shape, dtype)]
    if not U.shape[1] or not Vt.shape[0]:
        return np.zeros((U.shape[0], Vt.shape[1]), dtype)
    cores = [
        host(matmul(matmul(U.T, left), matmul(right, Vt.T)))
        for left, right in zip(lefts, rights, strict=True)
    ]
    merged = _merge(cores, [weight for _k, weight in terms], inner, density, dtype)
    if isotropic:
        merged = iso_c(lambda _k: merged.copy(), [1.0])
    return host(matmul(matmul(U, put(merged, device, np.float64)), Vt), dtype)


def _split(
    deltas: Deltas, factors: Factors | None, k: int, device: str
) -> tuple[Array, Array, np.dtype]:
    """(B_k, A_k) in float64, and the dtype of the term."""
    factor = factors(k) if factors else None
    if factor is not None:
        left, right, scale = factor
        return (
            put(checked(left, k), device, np.float64) * float(scale),
            put(checked(right, k), device, np.float64),
            left.dtype,
        )
    delta = load(deltas, k)
    U, s, Vt = svd(put(delta, device, np.float64))
    rank = rank_of(s, delta.shape, delta.dtype)
    root = s[:rank] ** 0.5
    return U[:, :rank] * root, root[:, None] * Vt[:rank], delta.dtype


def _merge(
    cores: list[np.ndarray], weights: list[float], inner: Inner, density: float, dtype: np.dtype
) -> np.ndarray:
    def core(k: int) -> np.ndarray:
        return cores[k].astype(dtype)

    if inner == "tsv":
        return tsv_merge(core, weights)
    if inner == "iso_c":
        return iso_c(core, weights)
    if inner == "ties":
        stacked = np.stack([own * weight for own, weight in zip(cores, weights, strict=True)])
        return ties(stacked.astype(dtype), density)
    return weighted_sum(core, weights)
