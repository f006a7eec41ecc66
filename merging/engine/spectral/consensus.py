"""Consensus merging: task arithmetic without the weights that only one task, or none, relies on.

Wang et al., "Localizing Task Information for Improved Model Merging and Compression", ICML 2024
(arXiv 2405.07813). With X_k = w_k τ_k and the multi-task vector τ_MTL = Σ X_k, entry by entry:

    TALL mask:   m_k = |X_k| > λ_k · |τ_MTL − X_k|
    consensus:   ΔW = τ_MTL where Σ_k m_k ≥ agreement, else 0

m_k says that the entry matters to task k: its own update is larger than what the others do to it.
An agreement of 2 removes "selfish" entries (one task) and "catastrophic" ones (no task).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .guide import Guide
from .plain import present

GUIDE = Guide(
    paper="Localizing Task Information for Improved Model Merging and Compression "
    "(arXiv 2405.07813)",
    code="https://github.com/nik-dim/tall_masks",
    default_lambda=0.5,
    lambda_range=(0.2, 1.0),
    vectors="same",
    vocabulary="same",
)


def consensus_merge(
    terms: np.ndarray | Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    mask_scale: float | Sequence[float] = 0.4,
    agreement: int = 2,
) -> np.ndarray:
    """ΔW (n,) of consensus task arithmetic, of ``terms`` (K, n): any block of the τ_k.

    ``mask_scale`` is λ_k, one for all or one a term; a larger one keeps less. The authors choose
    it for each task on validation data among .2 … .6. An ``agreement`` above the number of terms
    is taken as that number, so that a single vector comes back as it is; 0 or less keeps all.
    """
    chosen = present(weights)
    scales = np.broadcast_to(np.asarray(mask_scale, dtype=np.float64), (len(weights),))
    total = np.zeros_like(terms[0])
    weighted = {k: terms[k].dtype.type(weight) * terms[k] for k, weight in chosen}
    for own in weighted.values():
        total += own
    votes = np.zeros(total.shape, np.int32)
    for k, own in weighted.items():
        votes += np.abs(own) > total.dtype.type(scales[k]) * np.abs(total - own)
    # A number that is none is left in the sum: whoever stores it finds it there.
    total[(votes < min(agreement, len(chosen))) & np.isfinite(total)] = 0
    return total
