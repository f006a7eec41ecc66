"""Model Breadcrumbs: drop the smallest and the very largest entries.

Davari and Belilovsky, "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
ECCV 2024 (arXiv 2312.06795); mergekit's ``breadcrumbs`` and ``breadcrumbs_ties``. Of the n entries
of a tensor, sorted by magnitude, the ``gamma``·n largest are dropped, the ``density``·n below them
stay, the rest is dropped. Where density and gamma together exceed 1, fewer of the largest go.

``breadcrumbs`` sums what stays, ``breadcrumbs_ties`` elects signs among it as TIES does. Entries
whose magnitude equals that of the first or the last one kept are kept as well.
"""

from __future__ import annotations

from merging.engine.selection import Question, thresholds
from merging.engine.sparsify import Trim
from merging.engine.whole import Whole

from .base import Arguments, Method, Parameter
from .shared import INT8_MASK, LAMBDA
from .sparsifying import DENSITY, combined, fused, normalize, own, rescale, rescaled

GAMMA = Parameter(
    "gamma", float, 0.01, "Share of the largest entries that is dropped.",
    minimum=0, maximum=1, scope="term",
)  # fmt: skip


def prepare(whole: Whole, arguments: Arguments) -> Trim:
    """The smallest and the largest magnitude that each term keeps of this tensor."""
    densities = own(arguments, whole.terms, "density")
    gammas = own(arguments, whole.terms, "gamma")
    trim = Trim.nothing(len(densities), whole.dtype)
    count = whole.count
    questions: list[Question] = []
    bounds: list[tuple[int, str]] = []
    for k, (density, gamma) in enumerate(zip(densities, gammas, strict=True)):
        if density >= 1:
            continue
        kept = int(density * count)
        if kept == 0:
            trim.limits[k] = 0
            continue
        smallest = max(0, count - kept - int(gamma * count))  # place in ascending order
        largest = smallest + kept - 1
        if smallest > 0:
            questions.append(Question(k, count - smallest))
            bounds.append((k, "low"))
        if largest < count - 1:
            questions.append(Question(k, count - largest))
            bounds.append((k, "high"))
    for (k, bound), found in zip(bounds, thresholds(whole, questions), strict=True):
        getattr(trim, bound)[k] = found
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
    prepare=prepare,
    suggested=(0.3, 0.5, 1.0),
)
