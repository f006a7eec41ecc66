"""What the engine should know of a method besides its function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["average", "sum", "same"]


@dataclass(frozen=True)
class Guide:
    """Source, sensible λ and the rule for the tensors a method is not made for.

    ``lambda_range`` is the span worth trying: outside it the published and measured results fall
    off. ``vectors`` is the rule for tensors of one dimension (biases, norms), ``vocabulary`` for
    embeddings and output heads, whose rows are tokens and not directions:

    - ``"sum"``: Σ w_k τ_k, task arithmetic (`plain.weighted_sum`);
    - ``"average"``: Σ w_k τ_k / K over the K terms of weight ≠ 0 (`plain.weighted_average`). It
      goes with the methods whose best λ is large: λ was tuned for their matrices, and λ times a
      plain sum would overshoot;
    - ``"same"``: the method is elementwise and treats every tensor alike.
    """

    paper: str
    code: str
    default_lambda: float
    lambda_range: tuple[float, float]
    vectors: Rule
    vocabulary: Rule
