"""SVC: a weighted sum whose over-counted directions are scaled down.

Li et al., "When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging", ICML 2026
(arXiv 2602.05536). With the merged update M = U diag(σ) Vᵀ and the terms X_k = w_k τ_k:

    response of M in direction r:      a_r = u_rᵀ M = σ_r v_rᵀ
    response of term k:                a_r^k = u_rᵀ X_k
    how often k's share is counted:    s_r^k = ⟨a_r, a_r^k⟩ / ‖a_r^k‖²
    calibrated:                        σ_r · K_r / Σ_k max(α, s_r^k)

K_r counts the terms with a response in direction r (for the others s is 0/0). Two copies of one
vector have s = 2 everywhere and come out as one copy; vectors whose directions are orthogonal, on
both sides, have s = 1 and simply add.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merging.engine.errors import RecipeError, _

from .guide import Guide
from .linalg import host, matmul, noise, one_thread, put, rank_of, svd
from .plain import Deltas, load, nothing, present, weighted_sum

GUIDE = Guide(
    paper="When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging "
    "(arXiv 2602.05536)",
    code="https://github.com/lyymuwu/SVC",
    default_lambda=1.0,
    lambda_range=(0.5, 1.5),
    vectors="sum",
    vocabulary="sum",
)


@one_thread
def svc(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    alpha: float | None = None,
    merged: np.ndarray | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns): Σ w_k τ_k calibrated, or ``merged``, an update by any other method.

    ``alpha`` > 0 bounds the correction from below, 1/K by default: from 1 on, directions are only
    ever weakened; below, a direction on which the terms disagree is strengthened, up to 1/α times.
    Raises RecipeError for α ≤ 0.
    """
    terms = present(weights)
    if not terms:
        return nothing(deltas)
    floor = 1 / len(terms) if alpha is None else alpha
    if not floor > 0:
        raise RecipeError(
            _("`%(name)s` is %(value)s; it must be above 0."), name="alpha", value=floor
        )
    if merged is None:
        merged = weighted_sum(lambda k: load(deltas, k), weights)
    U, s, Vt = svd(put(merged, device))
    rank = rank_of(s, merged.shape, merged.dtype)
    U, s, Vt = U[:, :rank], s[:rank], Vt[:rank]
    response = s[:, None] * Vt
    counted, acting = np.zeros(rank), np.zeros(rank)
    for k, weight in terms:
        own = matmul(U.T, put(load(deltas, k), device) * weight)
        dots = host((response * own).sum(1), np.float64)
        squares = host((own * own).sum(1), np.float64)
        # Where a term does nothing there is nothing to count: rounding over rounding is no ratio.
        tiny = noise(merged.shape, merged.dtype) ** 2 * squares.sum()
        acts = squares > tiny
        share = np.divide(dots, squares, out=np.zeros(rank), where=acts)
        counted += np.where(acts, np.maximum(share, floor), 0)
        acting += acts
    calibration = np.divide(acting, counted, out=np.ones(rank), where=acting > 0)
    return host(matmul(U * (s * put(calibration.astype(merged.dtype), device)), Vt), merged.dtype)
