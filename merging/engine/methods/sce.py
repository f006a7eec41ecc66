"""SCE: select by variance, calculate weights from energy, erase the minority's sign.

Wan et al., "FuseChat: Knowledge Fusion of Chat Models" (arXiv 2408.07990); mergekit's ``sce``. Of
each tensor the ``select_topk`` share of the entries on which the vectors differ at all stays,
those with the greatest variance over the vectors; a vector's weight is its share of the mean
squares of what stays; entry by entry only what has the sign of the plain sum is averaged:

    w = mean(τ²) / Σ mean(τ²),  γ = sgn(Σ τ),  θ + λ · Σ_{sgn τ = γ} w τ / Σ_{sgn τ = γ} w

Where the mean squares sum to less than 10⁻⁶ (small changes do) all weights are equal; so does
mergekit. Entries whose variance equals that of the last one kept are kept as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from merging.engine.block import Block
from merging.engine.gram import gram
from merging.engine.selection import Question, thresholds
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .shared import INT8_MASK, LAMBDA

SELECT_TOPK = Parameter(
    "select_topk", float, 1.0, "Share of the differing entries that stays, by variance.",
    minimum=0, maximum=1,
)  # fmt: skip
FAINT = 1e-6  # mean squares that sum to less say nothing; nor do weights


@dataclass(frozen=True)
class Selection:
    """The least variance that is kept (NaN: nothing is), and the weight of each term."""

    variance: float
    weights: np.ndarray


def _variances(rows: np.ndarray) -> np.ndarray:
    """Population variance over the terms (T, n), as one row (1, n): two passes, in order."""
    mean = np.zeros_like(rows[0])
    for row in rows:
        mean += row
    mean /= rows.dtype.type(len(rows))
    total = np.zeros_like(mean)
    for row in rows:
        apart = row - mean
        total += apart * apart
    total /= rows.dtype.type(len(rows))
    return total[None]


def _kept(block: Block, variance: float) -> np.ndarray:
    """τ of every term, (T, n), zero where the variance is too small."""
    rows = block.all_deltas()
    if np.isnan(variance):
        rows[:] = 0
    elif variance > 0:
        small = _variances(rows)[0] < variance
        # What is broken stays, so that the merge fails instead of hiding it.
        rows[:, small] = 0
    return rows


def _least_variance(whole: Whole, share: float) -> float:
    if share >= 1:
        return 0.0
    differing = sum(
        int(np.count_nonzero(_variances(block.all_deltas()))) for block in whole.blocks()
    )
    kept = int(differing * share)
    if kept == 0:
        return float("nan")
    question = Question(0, kept)
    found = thresholds(whole, [question], lambda block: _variances(block.all_deltas()))
    return found[0].value


def prepare(whole: Whole, arguments: Arguments) -> Selection:
    """The threshold of the variance, then the mean squares of what is above it."""
    variance = _least_variance(whole, arguments.values["select_topk"])
    products = gram(whole, lambda block: _kept(block, variance))[0]
    squares = products.diagonal() / whole.count
    total = squares.sum()
    if abs(total) < FAINT:
        return Selection(variance, np.full(len(squares), 1 / len(squares)))
    return Selection(variance, squares / total)


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """The elected, weighted average of one block (n,)."""
    selection: Selection = arguments.state
    rows = _kept(block, selection.variance)
    number = rows.dtype.type
    zero = number(0)
    signs = np.zeros_like(rows[0])
    for row in rows:
        signs += row
    up = signs >= 0
    total = np.zeros_like(signs)
    share = np.zeros_like(signs)
    for row, weight in zip(rows, selection.weights.astype(rows.dtype), strict=True):
        along = np.where(up, row, -row)
        # NaN agrees, whatever was elected: it must reach the result.
        agrees = np.where(along <= zero, zero, weight)
        total += np.where(agrees != 0, row * agrees, zero)
        share += agrees
    return total / np.maximum(share, number(FAINT))


SCE = Method(
    name="sce",
    title="SCE",
    formula="θ + λ · elect(w · top(τ, variance))",
    help="Keeps what the vectors differ in and weights each by its size. Finds the weights itself.",
    source="arXiv 2408.07990",
    operates_on="deltas",
    parameters=(LAMBDA, SELECT_TOPK, INT8_MASK),
    combine=combine,
    prepare=prepare,
    weighted=False,
    suggested=(0.5, 1.0, 1.5),
)
