"""SVC: task arithmetic whose over-counted directions are scaled down.

Li et al., "When Shared Knowledge Hurts", ICML 2026 (arXiv 2602.05536). Formula:
``merging.engine.spectral.calibration``.
"""

from __future__ import annotations

from merging.engine.spectral.calibration import GUIDE, svc

from .base import Method, Parameter
from .matrices import matrix, rest, scale_of, suggested

_FLOOR = Parameter(
    "alpha",
    float,
    0.0,
    "Bound of the correction from below; 0 is one over the number of vectors.",
    minimum=0,
    maximum=10,
)


def _calibrated(deltas, weights, *, alpha, device):
    return svc(deltas, weights, alpha=alpha or None, device=device)


SVC = Method(
    name="svc",
    title="SVC-calibrated sum",
    formula="θ + λ · U diag(σᵣ Kᵣ / Σₖ max(α, sᵣᵏ)) Vᵀ of Σ wᵢ τᵢ",
    help="Task arithmetic that counts what several vectors share only once.",
    source="arXiv 2602.05536",
    operates_on="deltas",
    parameters=(scale_of(GUIDE), _FLOOR),
    combine=rest(GUIDE),
    whole=matrix(_calibrated, "alpha", factors=False),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
