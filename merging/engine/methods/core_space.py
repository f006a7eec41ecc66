"""Core space: TSV-Merge of LoRA in the small space that all of them span, without loss.

Panariello et al., "Accurate and Efficient Low-Rank Model Merging in Core Space", NeurIPS 2025
(arXiv 2509.17786). Formula: ``merging.engine.spectral.core_space``.
"""

from __future__ import annotations

from merging.engine.spectral.core_space import GUIDE, core_merge

from .base import Method, Parameter
from .matrices import matrix, rest, scale_of, suggested

CORE_SPACE = Method(
    name="core_space",
    title="Core space",
    formula="θ + λ · U · TSV(Uᵀτ₁V…Uᵀτ_KV) · Vᵀ",
    help="For LoRA: merged where they live, at the cost of their ranks.",
    source="arXiv 2509.17786",
    operates_on="deltas",
    parameters=(
        scale_of(GUIDE),
        Parameter("isotropic", bool, False, "Make the singular values of the result alike."),
    ),
    combine=rest(GUIDE),
    whole=matrix(core_merge, "isotropic"),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
