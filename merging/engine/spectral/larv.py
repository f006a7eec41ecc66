"""LARV: a scale for each layer of a vector, before any merge.

Wang et al., "LARV: Data-Free Layer-wise Adaptive Rescaling Veneer for Model Merging"
(arXiv 2602.09413). Of layer l with foundation weights W and update Δ:

    richness:   e = erank(W) / erank(Δ),  erank(A) = exp(entropy of σ_j² / Σ σ²)
    conflict:   c = (‖W Δᵀ − Δ Wᵀ‖ + ‖Wᵀ Δ − Δᵀ W‖) / (2 ‖W‖ ‖Δ‖)
    score:      g = e^η · ((l + 1) / L)^ρ / (softplus(standardised c) + 1)
    scale:      tiers: the lowest third of the scores, the middle one, the highest one
                continuous: 1 + span · tanh(γ (g − 1))

A concentrated update (small erank) in a deep layer that commutes with the foundation's weights is
amplified; a diffuse, conflicting one in a shallow layer is weakened.

The paper's own text was not at hand: e and the definition of the parts were read in reviews of it,
c, g, η, ρ, γ and the thirds in independent code that cites its equation 8. The paper says that
tiers with fixed values are the most robust, but the values here are ours: 1 ∓ span.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .guide import Guide
from .linalg import matmul, one_thread, singular_values

GUIDE = Guide(
    paper="LARV: Data-Free Layer-wise Adaptive Rescaling Veneer for Model Merging "
    "(arXiv 2602.09413)",
    code="",
    default_lambda=1.0,  # multiplies the λ of the method that follows
    lambda_range=(0.7, 1.3),
    vectors="same",
    vocabulary="same",
)


@dataclass(frozen=True)
class LayerSummary:
    """What LARV knows of one layer of one vector: ``richness`` e ≥ 0 and ``conflict`` c ≥ 0."""

    richness: float
    conflict: float


@one_thread
def layer_summary(matrices: Iterable[tuple[np.ndarray, np.ndarray]]) -> LayerSummary:
    """The summary of a layer from its (foundation, update) pairs of matrices, averaged over them.

    Pairs whose update is zero are left out; a layer without any other has richness 0 and conflict
    0. Computed in float64.
    """
    richness, conflict = [], []
    for weight, delta in matrices:
        A = np.asarray(weight, np.float64)
        D = np.asarray(delta, np.float64)
        size = float(np.linalg.norm(A) * np.linalg.norm(D))
        if size == 0:
            continue
        richness.append(effective_rank(A) / effective_rank(D))
        conflict.append((_commutator(A, D) + _commutator(A.T, D.T)) / (2 * size))
    if not richness:
        return LayerSummary(0.0, 0.0)
    return LayerSummary(float(np.mean(richness)), float(np.mean(conflict)))


def effective_rank(matrix: np.ndarray) -> float:
    """exp of the entropy of the normalised squared singular values: 1 … min(rows, columns)."""
    energy = singular_values(matrix) ** 2
    shares = energy[energy > 0] / energy.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _commutator(A: np.ndarray, D: np.ndarray) -> float:
    """‖A Dᵀ − D Aᵀ‖, through the smaller side: a vocabulary squared would not fit in memory."""
    rows, columns = A.shape
    if rows <= columns:
        product = matmul(A, D.T)
        return float(np.linalg.norm(product - product.T))
    # ‖P − Pᵀ‖² = 2 ‖P‖² − 2 tr(P²) with P = A Dᵀ, turned around under the trace.
    cross = matmul(A.T, D)
    square = 2 * (matmul(A.T, A) * matmul(D.T, D)).sum() - 2 * (cross * cross.T).sum()
    return float(np.sqrt(max(square, 0.0)))


def larv_scores(
    layers: Sequence[LayerSummary], *, eta: float = 1.0, rho: float = 0.5
) -> np.ndarray:
    """g (L,) of the layers of one vector, in order of depth."""
    richness = np.array([layer.richness for layer in layers])
    conflict = np.array([layer.conflict for layer in layers])
    spread = conflict.std()
    standard = (conflict - conflict.mean()) / (spread if spread > 1e-8 else 1.0)
    depth = np.arange(1, len(layers) + 1) / max(len(layers), 1)
    return richness**eta * depth**rho / (np.logaddexp(0, standard) + 1)


def larv_scales(
    layers: Sequence[LayerSummary],
    *,
    gate: Literal["tiers", "continuous"] = "tiers",
    span: float = 0.5,
    eta: float = 1.0,
    rho: float = 0.5,
    gamma: float = 3.0,
) -> np.ndarray:
    """A scale (L,) for each layer of one vector, in order of depth, from 1 − span to 1 + span.

    ``layers`` are all layers of the vector: conflict is standardised over them and tiers are
    thirds of them. Multiply τ of layer l by scale l before the merge.
    """
    if not layers:
        return np.zeros(0)
    scores = larv_scores(layers, eta=eta, rho=rho)
    if gate == "continuous":
        return 1 + span * np.tanh(gamma * (scores - 1))
    low, high = np.quantile(scores, [1 / 3, 2 / 3])
    if low == high:  # all alike: nothing to tell apart
        return np.ones(len(layers))
    return np.where(scores <= low, 1 - span, np.where(scores <= high, 1.0, 1 + span))
