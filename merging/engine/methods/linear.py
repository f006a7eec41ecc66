"""Linear: the weighted average of models, Σ wᵢ θᵢ / Σ wᵢ.

Wortsman et al., "Model soups", ICML 2022 (arXiv 2203.05482); mergekit's ``linear``. Every term
stands for a whole model, θ plus its vector. Without ``normalize`` the weighted sum is not divided.
"""

from __future__ import annotations

import numpy as np

from merging.engine.block import Block
from merging.engine.kernels import add_scaled, sum_models_bf16

from .base import Arguments, Method, Parameter, normalized


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """Merged numbers of one block (n,): the weighted sum of models, in order, then the division."""
    total = block.scratch("sum")
    total.fill(0)
    for term, weight in enumerate(arguments.weights):
        add_scaled(total, weight, block.model(term))
    if arguments.values["normalize"]:
        total /= total.dtype.type(sum(arguments.weights))
    return total


def fused(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
    """The same for plain BF16 tensors, in one loop, rounded."""
    models = block.raw_models()
    if models is None:
        return False
    weights = np.array(arguments.weights, np.float32)
    by = sum(arguments.weights) if arguments.values["normalize"] else 1.0
    sum_models_bf16(models, weights, by, out.view(np.uint16))
    return True


LINEAR = Method(
    name="linear",
    title="Weighted average",
    formula="Σ wᵢ θᵢ / Σ wᵢ",
    help="Averages whole models. Good for several fine-tunes of the same task.",
    source="arXiv 2203.05482",
    operates_on="models",
    parameters=(Parameter("normalize", bool, True, "Divide by the sum of the weights."),),
    combine=combine,
    fused=fused,
    linear_weights=normalized,
    minimum_terms=1,
)
