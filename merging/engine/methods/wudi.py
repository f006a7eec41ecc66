"""WUDI: the update that disturbs each task least, found by Adam. Wants a GPU.

Cheng et al., "Whoever Started the Interference Should End It", ICML 2025 (arXiv 2503.08099).
Formula: ``merging.engine.spectral.wudi``.
"""

from __future__ import annotations

from merging.engine.spectral.wudi import GUIDE, wudi_merge

from .base import Method, Parameter
from .matrices import matrix, rest, scale_of, suggested


def _wudi(deltas, weights, *, steps, learning_rate, device):
    return wudi_merge(deltas, weights, steps=int(steps), learning_rate=learning_rate, device=device)


WUDI = Method(
    name="wudi",
    title="WUDI",
    formula="θ + λ · argmin Σ ‖(Δ − wᵢτᵢ)(wᵢτᵢ)ᵀ‖² / ‖wᵢτᵢ‖²",
    help="The strongest of the published data-free tables; slow without a GPU.",
    source="arXiv 2503.08099",
    operates_on="deltas",
    parameters=(
        scale_of(GUIDE),
        Parameter("steps", int, 300, "Steps of Adam.", minimum=1, maximum=5000),
        Parameter("learning_rate", float, 1e-5, "Step size of Adam.", minimum=0, maximum=1),
    ),
    combine=rest(GUIDE),
    whole=matrix(_wudi, "steps", "learning_rate", factors=False),
    minimum_terms=1,
    suggested=suggested(GUIDE),
)
