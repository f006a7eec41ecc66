"""Slerp: from the target to another model along the arc between them.

(sin((1 − t) Ω) θ₀ + sin(t Ω) θ₁) / sin Ω, with Ω the angle between the flattened tensors: Shoemake,
"Animating rotation with quaternion curves", SIGGRAPH 1985; mergekit's ``slerp``. Tensors whose
|cos Ω| is above 0.9995 are interpolated on the straight line instead. The target is mergekit's
``base_model``, the one term is the other model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from merging.engine.block import Block
from merging.engine.gram import gram
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .spherical import Coefficients, arc, coefficients, ends, sum_of_parts, sum_stored

STRAIGHT = 0.9995  # from this |cos Ω| on the arc is a line
SMALL = 1e-8  # a shorter tensor has no direction


def prepare(whole: Whole, arguments: Arguments) -> Coefficients:
    """Weights of the target and of the model, from their norms and their angle."""
    t = arguments.values["t"]
    weights = ends(t)
    if weights is None:
        found = gram(whole, _both)[0]
        norms = np.sqrt(np.diag(found))
        norms = np.where(norms > SMALL, norms, 1)
        cosine = found[:1, 1] / (norms[0] * norms[1])
        weights = arc(cosine, t, np.abs(cosine) > STRAIGHT)
    return coefficients(weights, whole.shape)


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """Merged numbers of one block (n,)."""
    return sum_of_parts(block, arguments.state, [block.target, partial(block.model, 0)])


def fused(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
    """The same for plain BF16 tensors, in one loop, rounded."""
    target, models = block.raw_target(), block.raw_models()
    if target is None or models is None:
        return False
    both = block.work.matrix("both stored", 2, block.size, np.uint16)
    both[0], both[1] = target, models[0]
    return sum_stored(both, arguments.state, out)


def _both(block: Block) -> np.ndarray:
    both = block.work.matrix("both", 2, block.size, block.dtype)
    both[0], both[1] = block.target(), block.model(0)
    return both


def _linear_weights(
    weights: Sequence[Fraction], values: Mapping[str, Any]
) -> list[Fraction] | None:
    return [Fraction(1)] if values["t"] == 1 else None


SLERP = Method(
    name="slerp",
    title="Slerp",
    formula="(sin((1 − t) Ω) θ₀ + sin(t Ω) θ₁) / sin Ω",
    help="Goes from the target to one other model along the arc between them.",
    source="mergekit",
    operates_on="models",
    parameters=(
        Parameter("t", float, None, "0 is the target, 1 the other model.", minimum=-10, maximum=10),
    ),
    combine=combine,
    fused=fused,
    prepare=prepare,
    linear_weights=_linear_weights,
    weighted=False,
    minimum_terms=1,
    maximum_terms=1,
)
