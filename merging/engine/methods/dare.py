"""DARE: drop entries at random, rescale the rest.

Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free
Lunch", ICML 2024 (arXiv 2311.03099); mergekit's ``dare_linear`` and ``dare_ties``. Each entry of
each vector stays with probability ``density``; what stays is scaled so that the tensor has its L1
norm back (the paper divides by the density: the same but for chance):

    v = w · (‖τ‖₁ / ‖b ∘ τ‖₁) · b ∘ τ,  b ~ Bernoulli(density)

``dare_linear`` sums the v, ``dare_ties`` elects signs among them as TIES does.
"""

from __future__ import annotations

from merging.engine.randomness import limit_of
from merging.engine.sparsify import Trim
from merging.engine.whole import Whole

from .base import Arguments, Method
from .shared import INT8_MASK, LAMBDA
from .sparsifying import DENSITY, combined, direct, fused, keys, normalize, own, rescale, rescaled


def prepare(whole: Whole, arguments: Arguments) -> Trim:
    """The keys and limits of the terms' draws, and the scales that make up for the loss."""
    trim = Trim.nothing(keys(arguments, whole.terms), whole.dtype)
    trim.limits[:] = [limit_of(density) for density in own(arguments, whole.terms, "density")]
    return rescaled(whole, arguments, trim)


_PARAMETERS = (LAMBDA, DENSITY, normalize(False), rescale(True), INT8_MASK)

DARE_LINEAR = Method(
    name="dare_linear",
    title="DARE",
    formula="θ + λ · Σ w · rescale(random(τ, density))",
    help="Drops most changes at random and scales up the rest. For many vectors at once.",
    source="arXiv 2311.03099",
    operates_on="deltas",
    parameters=_PARAMETERS,
    combine=combined(elect=False),
    fused=fused(elect=False),
    direct=direct(elect=False),
    prepare=prepare,
    random=True,
    suggested=(0.3, 1.0, 1.0),
)

DARE_TIES = Method(
    name="dare_ties",
    title="DARE with TIES",
    formula="θ + λ · elect(w · rescale(random(τ, density)))",
    help="Drops changes at random, scales up the rest, and lets the vectors vote on each sign.",
    source="arXiv 2311.03099",
    operates_on="deltas",
    parameters=_PARAMETERS,
    combine=combined(elect=True),
    fused=fused(elect=True),
    direct=direct(elect=True),
    prepare=prepare,
    random=True,
    suggested=(0.3, 1.0, 1.0),
)
