"""Linear: the weighted average of models, Σ wᵢ θᵢ / Σ wᵢ.

Wortsman et al., "Model soups", ICML 2022 (arXiv 2203.05482); mergekit's ``linear``. Every term
stands for a whole model, θ plus its vector. Without ``normalize`` the weighted sum is not divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from merging.engine.block import Block
from merging.engine.kernels import add_scaled

from .base import Method, Parameter, Value, normalized


def combine(block: Block, weights: Sequence[float], values: Mapping[str, Value]) -> np.ndarray:
    """Merged numbers of one block: the weighted sum of models, in order, then the division."""
    total = block.scratch("sum")
    total.fill(0)
    for term, weight in block.all_terms(weights):
        add_scaled(total, weight, block.model(term))
    if values["normalize"]:
        total /= total.dtype.type(sum(weights))
    return total


LINEAR = Method(
    name="linear",
    title="Weighted average",
    formula="Σ wᵢ θᵢ / Σ wᵢ",
    help="Averages whole models. Good for several fine-tunes of the same task.",
    source="arXiv 2203.05482",
    operates_on="models",
    parameters=(Parameter("normalize", bool, True, "Divide by the sum of the weights."),),
    combine=combine,
    weights=normalized,
    minimum_terms=1,
)
