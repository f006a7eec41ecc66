"""Iso-C and Iso-CTS: a merged update whose singular values are all alike.

Marczak et al., "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific
Subspaces", ICML 2025 (arXiv 2502.04959). Formulas: ``merging.engine.spectral.isotropic``.
"""

from __future__ import annotations

from merging.engine.spectral.isotropic import GUIDE, iso_c, iso_cts

from .base import Method, Parameter
from .matrices import matrix, rest, scale_of, suggested

_SHARE = Parameter(
    "common_share",
    float,
    0.8,
    "Share of the directions that are common to all vectors; the rest is each vector's own.",
    minimum=0,
    maximum=1,
)

ISO_C = Method(
    name="iso_c",
    title="Iso-C",
    formula="θ + λ · mean(σ) · U Vᵀ of Σ wᵢ τᵢ",
    help="Every direction of the sum counts alike. Wants a large λ.",
    source="arXiv 2502.04959",
    operates_on="deltas",
    parameters=(scale_of(GUIDE),),
    combine=rest(GUIDE),
    whole=matrix(iso_c),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)

ISO_CTS = Method(
    name="iso_cts",
    title="Iso-CTS",
    formula="θ + λ · mean(σ) · U* V*ᵀ, common and task-specific directions",
    help="Iso-C that keeps a share of the directions for each vector alone.",
    source="arXiv 2502.04959",
    operates_on="deltas",
    parameters=(scale_of(GUIDE), _SHARE),
    combine=rest(GUIDE),
    whole=matrix(iso_cts, "common_share", factors=False),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
