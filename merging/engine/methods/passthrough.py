"""Passthrough: one model as it is, with single tensors scaled where ``scale`` says so.

mergekit's ``passthrough``. With filters (``scale: [{filter: down_proj, value: 0}, {value: 1}]``) it
silences parts of a model; layers of several models are stacked by the recipe's slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from merging.engine.block import Block

from .base import Arguments, Method, Parameter


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """scale · θ of one block (n,)."""
    numbers = block.model(0)
    scale = arguments.terms[0]["scale"]
    if scale != 1:
        numbers *= numbers.dtype.type(scale)
    return numbers


def _linear_weights(weights: Sequence[Fraction], values: Mapping[str, Any]) -> list[Fraction]:
    return [Fraction(str(values["scale"]))]


PASSTHROUGH = Method(
    name="passthrough",
    title="Passthrough",
    formula="scale · θ₁",
    help="One model as it is, or with some tensors scaled.",
    source="mergekit",
    operates_on="models",
    parameters=(Parameter("scale", float, 1.0, "Factor on the tensor.", -100, 100, scope="term"),),
    combine=combine,
    linear_weights=_linear_weights,
    weighted=False,
    minimum_terms=1,
    maximum_terms=1,
)
