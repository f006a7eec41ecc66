"""RAM and RAM+: for vectors of reinforcement learning, which change few and different weights.

Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models" (arXiv 2601.13572); the
formulas are mergekit's `ram` and `ramplus_tl`. Entry by entry, with c the number of terms that
moved it (|τ_k| > ε):

    c = 1:  ΔW = λ_k · w_k τ_k   of the one that did (RAM: λ_k = 1)
    c > 1:  ΔW = Σ w_k τ_k / c   over those that did
    RAM+:   λ_k = 1 + r · clip(ρ_k, 0, α),  ρ_k = entries k shares / entries k has alone

Averaging the shared entries dilutes a vector, the more of them it has; RAM+ makes up for it in the
entries of its own. Whether an entry was moved is a fact of the vector: w_k does not enter there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .guide import Guide
from .plain import present

GUIDE = Guide(
    paper="Behavior Knowledge Merge in Reinforced Agentic Models (arXiv 2601.13572)",
    code="https://github.com/arcee-ai/mergekit",
    default_lambda=1.0,
    lambda_range=(0.5, 1.5),
    vectors="same",
    vocabulary="same",
)

Terms = np.ndarray | Sequence[np.ndarray]


def ram_merge(terms: Terms, weights: Sequence[float], *, epsilon: float = 1e-5) -> np.ndarray:
    """ΔW (n,) of RAM, of ``terms`` (K, n): any block of the τ_k."""
    return _merged(terms, weights, epsilon, np.ones(len(weights)))


def ram_counts(
    terms: Terms, weights: Sequence[float], *, epsilon: float = 1e-5
) -> tuple[np.ndarray, np.ndarray]:
    """How many entries of each term are shared and how many its own: two arrays (K,) of int64.

    Counts of blocks add up to the counts of the tensor.
    """
    shared = np.zeros(len(weights), np.int64)
    own = np.zeros(len(weights), np.int64)
    movers = _movers(terms, weights, epsilon)
    for k, _weight in present(weights):
        moved = _moved(terms[k], epsilon)
        shared[k] = np.count_nonzero(moved & (movers > 1))
        own[k] = np.count_nonzero(moved & (movers == 1))
    return shared, own


def ram_plus_merge(
    terms: Terms,
    weights: Sequence[float],
    *,
    r: float = 0.1,
    alpha: float = 0.2,
    epsilon: float = 1e-5,
    counts: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """ΔW (n,) of RAM+, of ``terms`` (K, n).

    ``counts`` are the `ram_counts` of the whole tensor; without them ``terms`` are taken to be it.
    A term with no entry of its own divides by ``epsilon``, as mergekit does, and so reaches α.
    """
    shared, own = ram_counts(terms, weights, epsilon=epsilon) if counts is None else counts
    boosts = 1 + r * np.clip(shared / np.maximum(own, epsilon), 0, alpha)
    return _merged(terms, weights, epsilon, boosts)


def _moved(term: np.ndarray, epsilon: float) -> np.ndarray:
    # What is no number counts as moved, so that it reaches the result.
    return ~(np.abs(term) <= epsilon)


def _movers(terms: Terms, weights: Sequence[float], epsilon: float) -> np.ndarray:
    movers = np.zeros(terms[0].shape, np.int32)
    for k, _weight in present(weights):
        movers += _moved(terms[k], epsilon)
    return movers


def _merged(
    terms: Terms, weights: Sequence[float], epsilon: float, boosts: np.ndarray
) -> np.ndarray:
    total = np.zeros_like(terms[0])
    number = total.dtype.type
    movers = _movers(terms, weights, epsilon)
    divisor = np.maximum(movers, 1).astype(total.dtype)
    for k, weight in present(weights):
        moved = np.where(_moved(terms[k], epsilon), number(weight) * terms[k], number(0))
        total += np.where(movers == 1, number(boosts[k]) * moved, moved / divisor)
    return total
