"""RAM and RAM+: for vectors of reinforcement learning, which change few and different weights.

Yuan et al., "Behavior Knowledge Merge in Reinforced Agentic Models" (arXiv 2601.13572); mergekit's
``ram`` and ``ramplus_tl``. The formulas are in `spectral.ram`: what one vector alone has moved
(|τ| > ``epsilon``) is taken whole, what several have moved is averaged over them. RAM+ enlarges
the entries of a vector's own by 1 + r · clip(shared / own, 0, alpha), counted tensor by tensor.
"""

from __future__ import annotations

import numpy as np

from merging.engine.block import Block
from merging.engine.spectral.ram import ram_counts, ram_merge, ram_plus_merge
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .shared import LAMBDA

EPSILON = Parameter(
    "epsilon", float, 1e-5, "An entry has been moved if it is larger than this.", minimum=0
)
R = Parameter("r", float, 0.1, "How much of the dilution is made up for.", minimum=0)
ALPHA = Parameter("alpha", float, 0.2, "Upper bound of shared / own entries.", minimum=0)


def _weights(terms: list[int], arguments: Arguments) -> list[float]:
    return [arguments.weights[term] for term in terms]


def _epsilon(arguments: Arguments) -> float:
    return float(arguments.values["epsilon"])


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """ΔW (n,) of one block by RAM."""
    weights = _weights(block.terms, arguments)
    return ram_merge(block.deltas(), weights, epsilon=_epsilon(arguments))


def prepare_plus(whole: Whole, arguments: Arguments) -> tuple[np.ndarray, np.ndarray]:
    """How many entries each term shares and how many are its own, (K,) each."""
    weights = _weights(whole.terms, arguments)
    shared = np.zeros(len(weights), np.int64)
    own = np.zeros(len(weights), np.int64)
    for block in whole.blocks():
        counts = ram_counts(block.deltas(), weights, epsilon=_epsilon(arguments))
        shared += counts[0]
        own += counts[1]
    return shared, own


def combine_plus(block: Block, arguments: Arguments) -> np.ndarray:
    """ΔW (n,) of one block by RAM+."""
    return ram_plus_merge(
        block.deltas(),
        _weights(block.terms, arguments),
        r=float(arguments.values["r"]),
        alpha=float(arguments.values["alpha"]),
        epsilon=_epsilon(arguments),
        counts=arguments.state,
    )


RAM = Method(
    name="ram",
    title="RAM",
    formula="θ + λ · (own entries whole, shared entries averaged)",
    help="Averages only what several vectors have moved. For vectors of reinforcement learning.",
    source="arXiv 2601.13572",
    operates_on="deltas",
    parameters=(LAMBDA, EPSILON),
    combine=combine,
    weighted=False,
    suggested=(0.5, 1.0, 1.5),
)

RAMPLUS_TL = Method(
    name="ramplus_tl",
    title="RAM+",
    formula="θ + λ · (own entries enlarged, shared entries averaged)",
    help="As RAM, and makes up for what averaging the shared entries dilutes.",
    source="arXiv 2601.13572",
    operates_on="deltas",
    parameters=(LAMBDA, EPSILON, R, ALPHA),
    combine=combine_plus,
    prepare=prepare_plus,
    weighted=False,
    suggested=(0.5, 1.0, 1.5),
)
