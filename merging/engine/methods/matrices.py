"""What the whole-tensor methods share: their call, and what becomes of other tensors.

The arithmetic is in ``merging.engine.spectral``, a pure package that is imported with the first of
these methods. Biases, norms and vocabulary matrices have no singular directions worth the name:
each method says whether they are summed or averaged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from merging.engine.block import Block
from merging.engine.kernels import add_scaled
from merging.engine.spectral.guide import Guide
from merging.engine.whole import Whole

from .base import Arguments, Parameter

Merge = Callable[..., np.ndarray]


def scale_of(guide: Guide) -> Parameter:
    """The parameter λ with the method's own default."""
    low, high = guide.lambda_range
    return Parameter(
        "lambda",
        float,
        guide.default_lambda,
        f"One factor on the merged update; worth trying from {low:g} to {high:g}.",
        minimum=-10,
        maximum=10,
    )


def suggested(guide: Guide) -> tuple[float, float, float]:
    """Lowest, default and highest sensible λ."""
    return guide.lambda_range[0], guide.default_lambda, guide.lambda_range[1]


def total(block: Block, arguments: Arguments) -> np.ndarray:
    """Σ wᵢ τᵢ of one block (n,)."""
    out = block.scratch("sum")
    out.fill(0)
    for term in block.terms:
        add_scaled(out, arguments.weights[term], block.delta(term))
    return out


def average(block: Block, arguments: Arguments) -> np.ndarray:
    """Σ wᵢ τᵢ / K of one block (n,), over the K terms whose weight is not zero."""
    out = total(block, arguments)
    out /= out.dtype.type(max(sum(weight != 0 for weight in arguments.weights), 1))
    return out


def rest(guide: Guide) -> Callable[[Block, Arguments], np.ndarray]:
    """The ``combine`` of a method for tensors that it does not treat as matrices."""
    return total if guide.vectors == "sum" else average


def matrix(merge: Merge, *names: str, factors: bool = True) -> Callable[..., np.ndarray]:
    """The ``whole`` of a method: ``merge`` on the terms that change the tensor.

    ``names`` are the parameters it is given; ``factors`` says whether it knows low-rank terms.
    """

    def whole(tensor: Whole, arguments: Arguments) -> np.ndarray:
        terms = tensor.terms
        values: dict[str, Any] = {name: arguments.values[name] for name in names}
        if factors:
            values["factors"] = lambda k: tensor.factors(terms[k])
        return merge(
            lambda k: tensor.delta(terms[k]),
            [arguments.weights[term] for term in terms],
            device=arguments.device,
            **values,
        )

    return whole
