"""WUDI: the update that disturbs each task least, on the inputs its own vector points to.

Cheng et al., "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via
Task Vectors", ICML 2025 (arXiv 2503.08099). The rows of τ_k span about the inputs task k has seen,
so with X_k = w_k τ_k, from Σ X_k and by Adam:

    minimise  Σ_k ‖(ΔW − X_k) X_kᵀ‖² / ‖X_k‖²

Its gradient is 2 (ΔW G − H) with G = Σ X_kᵀX_k / ‖X_k‖² and H = Σ X_k X_kᵀX_k / ‖X_k‖², both
computed once, so a step is one product whatever the number of terms. G has columns² numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .guide import Guide
from .linalg import Array, host, matmul, one_thread, put
from .plain import Deltas, load, nothing, present, weighted_sum

GUIDE = Guide(
    paper=(
        "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task "
        "Vectors (arXiv 2503.08099)"
    ),
    code="https://github.com/nathanielyvo/WUDI-Merging",
    default_lambda=1.0,
    lambda_range=(0.8, 1.2),
    vectors="average",
    vocabulary="average",
)


@one_thread
def wudi_merge(
    deltas: Deltas,
    weights: Sequence[float],
    *,
    steps: int = 300,
    learning_rate: float = 1e-5,
    device: str = "cpu",
) -> np.ndarray:
    """ΔW (rows, columns) after ``steps`` steps of Adam; ``deltas`` is asked twice for each term.

    The authors' steps and rate suit updates of about 1e-3 an entry (CLIP): Adam moves an entry by
    at most about steps × rate. The cost is steps × rows × columns² products: use a GPU.
    """
    terms = present(weights)
    if not terms:
        return nothing(deltas)
    start = weighted_sum(lambda k: load(deltas, k), weights)
    merged = put(start, device)
    gram: Array = 0.0
    pull: Array = 0.0
    for k, weight in terms:
        own = put(load(deltas, k), device) * weight
        square = float(host((own * own).sum(), np.float64))
        if square == 0:
            continue
        inner = matmul(own.T, own) / square
        gram = gram + inner
        pull = pull + matmul(own, inner)
    if isinstance(gram, float):
        return start
    mean = merged * 0
    variance = merged * 0
    for step in range(1, steps + 1):
        slope = 2 * (matmul(merged, gram) - pull)
        mean = 0.9 * mean + 0.1 * slope
        variance = 0.999 * variance + 0.001 * (slope * slope)
        scale = (variance / (1 - 0.999**step)) ** 0.5 + 1e-8
        merged = merged - (learning_rate / (1 - 0.9**step)) * mean / scale
    return host(merged, start.dtype)
