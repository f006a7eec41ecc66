"""TIES: trim, elect sign, merge.

Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", NeurIPS 2023
(arXiv 2306.01708); mergekit's ``ties``. Of each tensor of each vector the ``density`` largest
entries stay; entry by entry the sign with the greater weighted sum is elected, and what has that
sign is averaged by its weights:

    v = w · top(τ, density),  γ = sgn(Σ v),  θ + λ · Σ_{sgn v = γ} v / Σ_{sgn v = γ} w

Many entries may have the magnitude of the last one kept (differences of 16-bit numbers take few
values); of these as many stay as are wanted, chosen by draws that are fixed for tensor and place.
"""

from __future__ import annotations

import numpy as np

from merging.engine.selection import Question, thresholds
from merging.engine.sparsify import Trim
from merging.engine.whole import Whole

from .base import Arguments, Method
from .shared import INT8_MASK, LAMBDA
from .sparsifying import DENSITY, combined, direct, fused, keys, normalize, own, rescale, rescaled


def prepare(whole: Whole, arguments: Arguments) -> Trim:
    """The smallest magnitude that each term keeps of this tensor."""
    densities = own(arguments, whole.terms, "density")
    trim = Trim.nothing(keys(arguments, whole.terms), whole.dtype)
    asked = [k for k, density in enumerate(densities) if 0 < density < 1]
    questions = [Question(k, max(1, int(densities[k] * whole.count))) for k in asked]
    for question, least in zip(questions, thresholds(whole, questions), strict=True):
        trim.keep_from(question.row, least, question.rank)
    trim.limits[np.array(densities) <= 0] = 0
    return rescaled(whole, arguments, trim)


TIES = Method(
    name="ties",
    title="TIES",
    formula="θ + λ · elect(w · top(τ, density))",
    help="Trims small changes and lets the vectors vote on each sign. For vectors that disagree.",
    source="arXiv 2306.01708",
    operates_on="deltas",
    parameters=(LAMBDA, DENSITY, normalize(True), rescale(False), INT8_MASK),
    combine=combined(elect=True),
    fused=fused(elect=True),
    direct=direct(elect=True),
    prepare=prepare,
    suggested=(1.0, 1.5, 2.0),
)
