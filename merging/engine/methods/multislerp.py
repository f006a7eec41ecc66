"""Multi-Slerp: the weighted mean direction of several vectors or models, at their mean length.

With uᵢ = xᵢ / (‖xᵢ‖ + ε) and m = Σ wᵢ uᵢ the result is (Σ wᵢ ‖xᵢ‖) · m / ‖m‖ · cos ε: Goddard,
"Multi-SLERP", 2025; mergekit's ``multislerp``. There the weighted sum of the tangents at m / ‖m‖ is
added, which is zero whatever the inputs, as m / ‖m‖ is the direction of that same sum. On vectors
the target is added; ``multislerp_models`` is of whole models: mergekit's where its YAML has no
``base_model``. One input alone is returned as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from merging.engine.errors import MergeError, _
from merging.engine.gram import Rows, gram
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .spherical import (
    Coefficients,
    coefficients,
    fused_deltas,
    fused_models,
    sum_of_deltas,
    sum_of_models,
)

CANCELLED = 1e-6  # a shorter mean of unit vectors is rounding, not a direction


def prepare_deltas(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weights of the vectors. Raises MergeError where their mean has no direction."""
    return _prepare(whole, arguments, lambda block: block.all_deltas())


def prepare_models(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weights of the models. Raises MergeError where their mean has no direction."""
    return _prepare(whole, arguments, lambda block: block.models())


def _prepare(whole: Whole, arguments: Arguments, rows_of: Rows) -> Coefficients:
    if len(arguments.weights) == 1:
        return coefficients(np.ones((1, 1)), whole.shape)
    weights = np.array(arguments.weights)
    if arguments.values["normalize_weights"]:
        if weights.sum() == 0:
            raise MergeError(
                _(
                    "The weights for `%(tensor)s` sum to zero: change one, or set "
                    "normalize_weights to false."
                ),
                tensor=whole.name,
            )
        weights = weights / weights.sum()
    return coefficients(_weights(whole, weights, arguments, rows_of)[None], whole.shape)


def _weights(whole: Whole, weights: np.ndarray, arguments: Arguments, rows_of: Rows) -> np.ndarray:
    eps = arguments.values["eps"]
    found = gram(whole, rows_of)[0]
    norms = np.sqrt(np.diag(found))
    if not norms.any():
        return np.zeros_like(weights)
    unit = norms + eps
    mean = weights / unit
    length = math.sqrt(max(0.0, float(mean @ found @ mean)))
    if length >= max(eps, CANCELLED):
        return mean / length * float(weights @ norms) * math.cos(eps)
    if len(weights) == 2:
        return weights
    raise MergeError(
        _(
            "`%(tensor)s`: the models point in opposite directions and cancel each other, so there "
            "is no mean direction. Change a weight, leave one out, or use a rule "
            "`keep %(tensor)s`."
        ),
        tensor=whole.name,
    )


def _linear_weights(
    weights: Sequence[Fraction], values: Mapping[str, Any]
) -> list[Fraction] | None:
    return [Fraction(1)] if len(weights) == 1 else None


_PARAMETERS = (
    Parameter("normalize_weights", bool, True, "Divide the weights by their sum."),
    Parameter("eps", float, 1e-8, "Added to the lengths, against division by zero.", 0, 1),
)

MULTISLERP = Method(
    name="multislerp",
    title="Multi-Slerp of vectors",
    formula="θ + (Σ wᵢ ‖τᵢ‖) · m / ‖m‖,  m = Σ wᵢ τᵢ / ‖τᵢ‖",
    help="Several vectors in their mean direction, as long as they are on average.",
    source="mergekit",
    operates_on="deltas",
    parameters=_PARAMETERS,
    combine=sum_of_deltas,
    fused=fused_deltas,
    prepare=prepare_deltas,
    linear_weights=_linear_weights,
    without_base="multislerp_models",
    minimum_terms=1,
)

MULTISLERP_MODELS = Method(
    name="multislerp_models",
    title="Multi-Slerp of models",
    formula="(Σ wᵢ ‖θᵢ‖) · m / ‖m‖,  m = Σ wᵢ θᵢ / ‖θᵢ‖",
    help="Several models in their mean direction, as long as they are on average.",
    source="mergekit",
    operates_on="models",
    parameters=_PARAMETERS,
    combine=sum_of_models,
    fused=fused_models,
    prepare=prepare_models,
    linear_weights=_linear_weights,
    minimum_terms=1,
)
