"""Parameters that several methods share."""

from __future__ import annotations

from .base import Arguments, Parameter

LAMBDA = Parameter(
    "lambda", float, 1.0, "One factor on the whole sum of vectors.", minimum=-10, maximum=10
)
INT8_MASK = Parameter(
    "int8_mask",
    bool,
    False,
    "Accepted and without effect: masks take no memory here.",
    ignored=True,
)


def divisor(arguments: Arguments) -> float:
    """What the sum of the terms is divided by: Σ wᵢ with ``normalize``, else 1.

    A sum that vanishes divides by nothing, as in mergekit.
    """
    if not arguments.values["normalize"]:
        return 1.0
    total = float(sum(arguments.weights))
    return total if abs(total) >= 1e-8 else 1.0
