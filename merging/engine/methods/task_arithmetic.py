"""Task arithmetic: target + λ · Σ wᵢ τᵢ.

Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023 (arXiv 2212.04089). A positive
weight learns, a negative one forgets; τ_C + τ_B − τ_A is an analogy. With ``normalize`` the sum is
divided by Σ wᵢ, as mergekit does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from merging.engine.block import Block
from merging.engine.kernels import add_scaled

from .base import Method, Parameter, Value, normalized


def combine(block: Block, weights: Sequence[float], values: Mapping[str, Value]) -> np.ndarray:
    """Merged numbers of one block: the weighted sum of deltas, in order, added to the target."""
    total = block.scratch("sum")
    total.fill(0)
    for term, weight in block.terms(weights):
        add_scaled(total, weight, block.delta(term))
    if values["normalize"]:
        total /= total.dtype.type(sum(weights))
    merged = block.target()
    add_scaled(merged, float(values["lambda"]), total)
    return merged


def _weights(weights: Sequence[Fraction], values: Mapping[str, Value]) -> list[Fraction]:
    factor = Fraction(str(values["lambda"]))
    return [factor * weight for weight in normalized(weights, values)]


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    title="Task arithmetic",
    formula="θ + λ · Σ wᵢ τᵢ",
    help="Adds the vectors, each times its coefficient. The plain, dependable choice.",
    source="arXiv 2212.04089",
    operates_on="deltas",
    parameters=(
        Parameter(
            "lambda",
            float,
            1.0,
            "One factor on the whole sum of vectors.",
            minimum=-10,
            maximum=10,
        ),
        Parameter("normalize", bool, False, "Divide the sum by the sum of the coefficients."),
    ),
    combine=combine,
    weights=_weights,
)
