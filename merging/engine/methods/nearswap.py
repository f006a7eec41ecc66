"""NearSwap: the target takes another model's numbers where the two are near.

w = t / |θ₁ − θ₀|, at most 1, and the result is w θ₁ + (1 − w) θ₀: alchemonaut's
QuartetAnemoi-70B-t0.0001; mergekit's ``nearswap``. So a number nearer than ``t`` is swapped, and no
other moves by more than ``t``. The target is mergekit's ``base_model``, the one term the other
model.
"""

from __future__ import annotations

import numpy as np

from merging.engine.block import Block
from vectors.tensorfile.compiled import njit

from .base import Arguments, Method, Parameter

NEAREST = 1e-6  # a smaller distance divides like this one


@njit(nogil=True, cache=True, error_model="numpy")
def _near_swap(a, b, t, nearest, one):
    # a = w b + (1 − w) a. A weight of 0 or 1 is one of the two, with the sign of its zeros.
    for i in range(a.size):
        distance = abs(a[i] - b[i])
        weight = min(t / max(distance, nearest), one)
        mixed = weight * b[i] + (one - weight) * a[i]
        mixed = b[i] if weight == one else mixed
        a[i] = a[i] if weight == 0 else mixed


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """Merged numbers of one block (n,)."""
    merged, other = block.target(), block.model(0)
    kind = merged.dtype.type
    _near_swap(merged, other, kind(arguments.values["t"]), kind(NEAREST), kind(1))
    return merged


NEARSWAP = Method(
    name="nearswap",
    title="NearSwap",
    formula="w θ₁ + (1 − w) θ₀,  w = min(1, t / |θ₁ − θ₀|)",
    help="Takes from another model the numbers that are near to the target's.",
    source="mergekit",
    operates_on="models",
    parameters=(
        Parameter("t", float, None, "Distance within which numbers are swapped.", 0, 1000),
    ),
    combine=combine,
    weighted=False,
    minimum_terms=1,
    maximum_terms=1,
)
