"""TSV-Merge: the strongest singular directions of each vector, orthogonal to the others'.

Gargiulo et al., "Task Singular Vectors", CVPR 2025 (arXiv 2412.00081). Formula and weights:
``merging.engine.spectral.tsv``. The best data-free method for many similar vectors.
"""

from __future__ import annotations

from merging.engine.spectral.tsv import GUIDE, tsv_merge

from .base import Method
from .matrices import matrix, rest, scale_of, suggested

TSV = Method(
    name="tsv",
    title="TSV-Merge",
    formula="θ + λ · polar[U₁…U_K] · diag(w₁Σ₁…w_KΣ_K) · polar[V₁…V_K]ᵀ",
    help="For four and more vectors of the same kind of training.",
    source="arXiv 2412.00081",
    operates_on="deltas",
    parameters=(scale_of(GUIDE),),
    combine=rest(GUIDE),
    whole=matrix(tsv_merge),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
