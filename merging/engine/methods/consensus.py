"""Consensus: task arithmetic without the weights that only one task, or none, relies on.

Wang et al., "Localizing Task Information", ICML 2024 (arXiv 2405.07813), TALL masks. Formula:
``merging.engine.spectral.consensus``. Elementwise.
"""

from __future__ import annotations

import numpy as np

from merging.engine.block import Block
from merging.engine.spectral.consensus import GUIDE, consensus_merge

from .base import Arguments, Method, Parameter
from .matrices import scale_of, suggested


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """The consensus update of one block (n,); terms that leave the tensor alone do not vote."""
    return consensus_merge(
        block.all_deltas(),
        arguments.weights,
        mask_scale=[values["mask_scale"] for values in arguments.terms],
        agreement=int(arguments.values["agreement"]),
    )


CONSENSUS = Method(
    name="consensus",
    title="Consensus (TALL masks)",
    formula="θ + λ · Σ wᵢ τᵢ where at least k vectors rely on it",
    help="Removes what only one vector relies on, and what none does.",
    source="arXiv 2405.07813",
    operates_on="deltas",
    parameters=(
        scale_of(GUIDE),
        Parameter(
            "mask_scale",
            float,
            0.4,
            "How much larger than the others' sum a vector's own number must be to be its own.",
            minimum=0,
            maximum=10,
            scope="term",
        ),
        Parameter(
            "agreement", int, 2, "Vectors that must rely on a number.", minimum=1, maximum=64
        ),
    ),
    combine=combine,
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
