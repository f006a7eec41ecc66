"""Model Stock: the average of fine-tunes, pulled back to the foundation by how much they agree.

Jang et al., "Model Stock: All we need is just a few fine-tuned models", ECCV 2024 (arXiv
2403.19522); mergekit's ``model_stock``. With c the mean cosine between the vectors of N models, the
result is θ + t · Σ τᵢ / N with t = N c / (1 + (N − 1) c): the point nearest to the unseen centre of
all fine-tunes. ``filter_wise`` finds a t for each row.
"""

from __future__ import annotations

import numpy as np

from merging.engine.gram import Along, gram
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .spherical import Coefficients, coefficients, fused_deltas, sum_of_deltas

SMALLEST = 1e-6  # a product of norms, or a denominator, that counts as zero


def prepare(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weight of every vector: t / N, for the whole tensor or for each row."""
    along: Along = "rows" if arguments.values["filter_wise"] else "all"
    found = gram(whole, lambda block: block.all_deltas(), along)
    count = found.shape[1]
    share = ratio(found) / count
    return coefficients(np.repeat(share[:, None], count, axis=1), whole.shape, along)


def ratio(found: np.ndarray) -> np.ndarray:
    """t (m,) from inner products (m, N, N); 0 where the denominator vanishes."""
    count = found.shape[1]
    norms = np.sqrt(np.diagonal(found, axis1=1, axis2=2))
    products = np.maximum(norms[:, :, None] * norms[:, None, :], SMALLEST)
    first, second = np.triu_indices(count, 1)
    cosine = np.clip(found / products, -1, 1)[:, first, second].mean(axis=1)
    below = 1 + (count - 1) * cosine
    singular = np.abs(below) < SMALLEST
    return np.where(singular, 0, count * cosine / np.where(singular, 1, below))


MODEL_STOCK = Method(
    name="model_stock",
    title="Model Stock",
    formula="θ + t · Σ τᵢ / N,  t = N c / (1 + (N − 1) c),  c = mean cos(τᵢ, τⱼ)",
    help="Averages fine-tunes of one task and goes back towards the foundation where they differ.",
    source="arXiv 2403.19522",
    operates_on="deltas",
    parameters=(Parameter("filter_wise", bool, False, "A ratio for each row of a matrix."),),
    combine=sum_of_deltas,
    fused=fused_deltas,
    prepare=prepare,
    weighted=False,
    minimum_terms=2,
)
