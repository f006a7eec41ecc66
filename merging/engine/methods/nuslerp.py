"""NuSlerp: slerp by weights, of two vectors or of two whole models.

The share of the second is t = w₁ / (w₀ + w₁). On vectors the result is the target plus the slerp of
τ₀ and τ₁; ``nuslerp_models`` is the same of θ₀ and θ₁. mergekit's ``nuslerp`` is the first where
its YAML has a ``base_model`` and the second where it has none. The angle is that of the flattened
tensors; with ``nuslerp_flatten: false`` each row (``nuslerp_row_wise``: column) has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from merging.engine.gram import Along, Rows, gram
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .spherical import (
    Coefficients,
    arc,
    coefficients,
    ends,
    fused_deltas,
    fused_models,
    sum_of_deltas,
    sum_of_models,
)

SHORTEST = 1e-7  # what a norm is at least, so that it can divide
VANISHING = 1e-6  # weights whose sum is smaller count as equal


def share(weights: Sequence[float]) -> float:
    """Share of the second of two weights; a half where their sum vanishes."""
    total = sum(weights)
    return 0.5 if abs(total) < VANISHING else weights[1] / total


def prepare_deltas(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weights of both vectors, for the whole tensor or for each row or column."""
    return _prepare(whole, arguments, lambda block: block.all_deltas())


def prepare_models(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weights of both models, for the whole tensor or for each row or column."""
    return _prepare(whole, arguments, lambda block: block.models())


def _prepare(whole: Whole, arguments: Arguments, rows_of: Rows) -> Coefficients:
    if len(arguments.weights) == 1:
        return coefficients(np.ones((1, 1)), whole.shape)
    t = share(arguments.weights)
    weights = ends(t)
    if weights is not None:
        return coefficients(weights, whole.shape)
    along: Along = "all"
    if not arguments.values["nuslerp_flatten"]:
        columns = arguments.values["nuslerp_row_wise"] and len(whole.shape) > 1
        along = "columns" if columns else "rows"
    found = gram(whole, rows_of, along)
    norms = np.maximum(np.sqrt(np.diagonal(found, axis1=1, axis2=2)), SHORTEST)
    cosine = found[:, 0, 1] / (norms[:, 0] * norms[:, 1])
    # Closer to ±1 than float32 can tell: there the arc has no direction left to trust.
    linear = np.abs(cosine.astype(np.float32)) >= 1
    return coefficients(arc(cosine, t, linear), whole.shape, along)


def _linear_weights(
    weights: Sequence[Fraction], values: Mapping[str, Any]
) -> list[Fraction] | None:
    if len(weights) == 1:
        return [Fraction(1)]
    if abs(float(sum(weights))) < VANISHING or 0 not in weights:
        return None
    return [Fraction(weight != 0) for weight in weights]


_PARAMETERS = (
    Parameter("nuslerp_flatten", bool, True, "One angle for the whole tensor."),
    Parameter(
        "nuslerp_row_wise",
        bool,
        False,
        "Without nuslerp_flatten: an angle for each column of a matrix instead of each row.",
    ),
)

NUSLERP = Method(
    name="nuslerp",
    title="Slerp of two vectors",
    formula="θ + slerp(τ₀, τ₁; w₁ / (w₀ + w₁))",
    help="Turns one vector towards another and keeps its length, where a sum would shorten both.",
    source="mergekit",
    operates_on="deltas",
    parameters=_PARAMETERS,
    combine=sum_of_deltas,
    fused=fused_deltas,
    prepare=prepare_deltas,
    linear_weights=_linear_weights,
    without_base="nuslerp_models",
    minimum_terms=1,
    maximum_terms=2,
)

NUSLERP_MODELS = Method(
    name="nuslerp_models",
    title="Slerp of two models",
    formula="slerp(θ₀, θ₁; w₁ / (w₀ + w₁))",
    help="Goes from one model to another along the arc between them, by weights.",
    source="mergekit",
    operates_on="models",
    parameters=_PARAMETERS,
    combine=sum_of_models,
    fused=fused_models,
    prepare=prepare_models,
    linear_weights=_linear_weights,
    minimum_terms=1,
    maximum_terms=2,
)
