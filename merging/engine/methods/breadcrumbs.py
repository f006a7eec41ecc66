"""Model Breadcrumbs: drop the smallest and the very largest entries.

Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
ECCV 2024 (arXiv 2312.06795); mergekit's ``breadcrumbs`` and ``breadcrumbs_ties``. Of the n entries
of a tensor, sorted by magnitude, the ``gamma``·n largest are dropped, the ``density``·n below them
stay, the rest is dropped. Where density and gamma together exceed 1, fewer of the largest go.

``breadcrumbs`` sums what stays, ``breadcrumbs_ties`` elects signs among it as TIES does. Of the
entries that have the magnitude of the first or the last one kept as many stay as are wanted, as in
TIES.
"""

from __future__ import annotations

from merging.engine.selection import Question, thresholds
from merging.engine.sparsify import Trim
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .shared import INT8_MASK, LAMBDA
from .sparsifying import DENSITY, combined, direct, fused, keys, normalize, own, rescale, rescaled

GAMMA = Parameter(
    "gamma", float, 0.01, "Share of the largest entries that is dropped.",
    minimum=0, maximum=1, scope="term",
)  # fmt: skip


def prepare(whole: Whole, arguments: Arguments) -> Trim:
    """The smallest and the largest magnitude that each term keeps of this tensor."""
    densities = own(arguments, whole.terms, "density")
    gammas = own(arguments, whole.terms, "gamma")
    trim = Trim.nothing(keys(arguments, whole.terms), whole.dtype)
    count = whole.count
    least: list[Question] = []
    most: list[Question] = []
    for k, (density, gamma) in enumerate(zip(densities, gammas, strict=True)):
        if density >= 1:
            continue
        kept = int(density * count)
        if kept == 0:
            trim.limits[k] = 0
            continue
        dropped = min(int(gamma * count), count - kept)  # of the largest
        if dropped + kept < count:
            least.append(Question(k, dropped + kept))
        if dropped > 0:
            most.append(Question(k, dropped + 1))
    found = thresholds(whole, [*least, *most])
    for question, threshold in zip(least, found, strict=False):
        trim.keep_from(question.row, threshold, question.rank)
    for question, threshold in zip(most, found[len(least) :], strict=True):
        trim.keep_to(question.row, threshold, question.rank)
    return rescaled(whole, arguments, trim)


_PARAMETERS = (LAMBDA, DENSITY, GAMMA, normalize(False), rescale(False), INT8_MASK)

BREADCRUMBS = Method(
    name="breadcrumbs",
    title="Breadcrumbs",
    formula="θ + λ · Σ w · middle(τ, density, gamma)",
    help="Drops the smallest changes and the outliers. For long sums of vectors.",
    source="arXiv 2312.06795",
    operates_on="deltas",
    parameters=_PARAMETERS,
    combine=combined(elect=False),
    fused=fused(elect=False),
    direct=direct(elect=False),
    prepare=prepare,
    suggested=(0.3, 0.5, 1.0),
)

BREADCRUMBS_TIES = Method(
    name="breadcrumbs_ties",
    title="Breadcrumbs with TIES",
    formula="θ + λ · elect(w · middle(τ, density, gamma))",
    help="Drops the smallest changes and the outliers, and lets the vectors vote on each sign.",
    source="arXiv 2312.06795",
    operates_on="deltas",
    parameters=_PARAMETERS,
    combine=combined(elect=True),
    fused=fused(elect=True),
    direct=direct(elect=True),
    prepare=prepare,
    suggested=(0.3, 0.5, 1.0),
)
