"""KnOTS: TIES in the directions that all vectors share.

Stoica et al., "Model Merging with SVD to Tie the KnOTS", ICLR 2025 (arXiv 2410.19735). Formula:
``merging.engine.spectral.knots``. LoRA are decomposed through their factors.
"""

from __future__ import annotations

from merging.engine.spectral.knots import GUIDE, knots_merge

from .base import Method, Parameter
from .matrices import matrix, rest, scale_of, suggested

KNOTS = Method(
    name="knots",
    title="KnOTS-TIES",
    formula="θ + λ · U Σ · TIES(V₁ᵀ…V_Kᵀ), [τ₁…τ_K] = U Σ [V₁ᵀ…V_Kᵀ]",
    help="For LoRA: their parts are compared in one common space.",
    source="arXiv 2410.19735",
    operates_on="deltas",
    parameters=(
        scale_of(GUIDE),
        Parameter(
            "density", float, 0.2, "Share of the numbers each vector keeps.", minimum=0, maximum=1
        ),
    ),
    combine=rest(GUIDE),
    whole=matrix(knots_merge, "density"),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
