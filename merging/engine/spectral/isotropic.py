"""Iso-C and Iso-CTS: the spectrum of the sum made flat, so that no task's directions dominate.

Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific
Subspaces", ICML 2025 (arXiv 2502.04959). With Σ w_k τ_k = U diag(s) Vᵀ:

    Iso-C:    ΔW = mean(s) · U Vᵀ
    Iso-CTS:  U_c, V_c = the first directions of the sum (the common ones, 80 % of them);
              U_k, V_k = the first directions of w_k τ_k − U_c U_cᵀ w_k τ_k, an equal number for
              each term, in the place of the sum's last ones;
              ΔW = mean(all their singular values) · polar([U_1 … U_K U_c]) · polar([V_1 … V_c])ᵀ
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .guide import Guide
from .linalg import concat, host, matmul, noise, one_thread, polar, put, rank_of, svd
from .plain import Deltas, Factors, load, nothing, present, svd_of_sum, weighted_sum

GUIDE = Guide(
    paper=(
        "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces "
        "(arXiv 2502.04959)"
    ),
    code="https://github.com/danielm1405/iso-merging",
    default_lambda=2.0,
    lambda_range=(1.0, 3.5),
    vectors="average",
    vocabulary="average",
)


@one_thread
def iso_c(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    factors: Factors | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns) of Iso-C: every singular value of the weighted sum becomes their mean.

    The mean is over the directions above rounding. A sum without full rank (few LoRA) would
    otherwise be given arbitrary directions of its null space, as strong as the learned ones.
    """
    if not present(weights):
        return nothing(deltas)
    U, s, Vt, dtype = svd_of_sum(deltas, weights, factors, device)
    shape = (U.shape[0], Vt.shape[1])
    rank = rank_of(s, shape, dtype)
    if rank == 0:
        return np.zeros(shape, dtype)
    return host(matmul(U[:, :rank] * s[:rank].mean(), Vt[:rank]), dtype)


@one_thread
def iso_cts(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    common_share: float = 0.8,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns) of Iso-CTS.

    ``common_share`` (0 … 1] is the share of min(rows, columns) that the sum's own directions
    take; the rest is divided among the terms, rounded so that each gets as many.
    """
    terms = present(weights)
    if not terms:
        return nothing(deltas)
    total = weighted_sum(lambda k: load(deltas, k), weights)
    U, s, Vt = svd(put(total, device))
    size = min(total.shape)
    each = round((size - int(size * common_share)) / len(terms))
    common = min(size - each * len(terms), rank_of(s, total.shape, total.dtype))
    U_common = U[:, :common]
    lefts, values, rights = [], [], []
    if each:
        for k, weight in terms:
            delta = put(load(deltas, k), device) * weight
            own = delta - matmul(U_common, matmul(U_common.T, delta))
            U_own, s_own, Vt_own = svd(own)
            # Measured against τ_k: what the common directions leave of it may be rounding alone.
            floor = noise(total.shape, total.dtype) * float((delta**2).sum()) ** 0.5
            keep = min(each, int(np.count_nonzero(host(s_own) > floor)))
            lefts.append(U_own[:, :keep])
            values.append(s_own[:keep])
            rights.append(Vt_own[:keep])
    lefts.append(U_common)
    values.append(s[:common])
    rights.append(Vt[:common])
    flat = concat(values, 0)
    if not len(flat):
        return np.zeros_like(total)
    left = polar(concat(lefts, 1), total.dtype)
    right = polar(concat(rights, 0), total.dtype)
    return host(matmul(left * flat.mean(), right), total.dtype)
