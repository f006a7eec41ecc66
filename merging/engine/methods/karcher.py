"""Karcher mean: the point of the sphere that is nearest to all models, at their mean length.

The models' directions uᵢ = θᵢ / ‖θᵢ‖ are averaged on the sphere by Karcher's iteration (arXiv
2603.04972; mergekit's ``karcher``): at the mean so far, the tangents towards every uᵢ are averaged
and followed. All models count alike. Every step stays in the span of the uᵢ, so the iteration runs
on their inner products alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from merging.engine.gram import gram
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .spherical import Coefficients, coefficients, fused_models, sum_of_models


def prepare(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weight of every model."""
    if len(arguments.weights) == 1:
        return coefficients(np.ones((1, 1)), whole.shape)
    found = gram(whole, lambda block: block.models())[0]
    weights = mean(found, int(arguments.values["max_iter"]), arguments.values["tol"])
    return coefficients(weights[None], whole.shape)


def mean(found: np.ndarray, max_iter: int, tol: float) -> np.ndarray:
    """Coefficients (K,) of the vectors in their mean, from their inner products (K, K).

    A vector no longer than ``tol`` has no direction; one opposite to the mean gives no tangent,
    and whether it is exactly opposite is left to rounding.
    """
    norms = np.sqrt(np.diag(found))
    valid = norms > tol
    if not valid.any():
        return np.zeros_like(norms)
    inverse = np.where(valid, 1 / np.where(valid, norms, 1), 0)
    cosines = found * np.outer(inverse, inverse)
    share = valid / valid.sum()

    def length(vector: np.ndarray) -> float:
        return math.sqrt(max(0.0, float(vector @ cosines @ vector)))

    at = share / length(share) if length(share) >= tol else np.eye(len(norms))[np.argmax(valid)]
    for _step in range(max_iter):
        dots = np.clip(cosines @ at, -1, 1)
        theta = np.arccos(dots)
        moved = valid & (theta >= tol) & (theta <= math.pi - tol)
        pull = np.where(moved, share * theta / np.where(moved, np.sin(theta), 1), 0)
        tangent = pull - float(pull @ dots) * at
        step = length(tangent)
        if step < tol:
            break
        ahead = math.cos(step) * at + math.sin(step) / step * tangent
        size = length(ahead)
        if size < tol:
            break  # opposite up to rounding: no direction is the mean, and the one at hand stays
        at = ahead / size
    return norms.mean() * at * inverse


def _linear_weights(
    weights: Sequence[Fraction], values: Mapping[str, Any]
) -> list[Fraction] | None:
    return [Fraction(1)] if len(weights) == 1 else None


KARCHER = Method(
    name="karcher",
    title="Karcher mean",
    formula="mean(‖θᵢ‖) · argmin over unit u of Σ angle(u, θᵢ)²",
    help="The mean of whole models on the sphere; all count alike.",
    source="arXiv 2603.04972",
    operates_on="models",
    parameters=(
        Parameter("max_iter", int, 10, "Most steps of the iteration.", 1, 1000),
        Parameter("tol", float, 1e-5, "A step shorter than this ends it.", 0, 1),
    ),
    combine=sum_of_models,
    fused=fused_models,
    prepare=prepare,
    linear_weights=_linear_weights,
    weighted=False,
    minimum_terms=1,
)
