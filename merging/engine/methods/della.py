"""DELLA: drop entries at random, the small ones of each row more often, and rescale the rest.

Deep, Bhardwaj and Poria, "DELLA-Merging: Reducing Interference in Model Merging through
Magnitude-Based Sampling" (arXiv 2406.11617); mergekit's ``della`` and ``della_linear``. An entry
stays with a probability that rises with its rank within its row, from ``density`` − ``epsilon``
for the smallest to ``density`` + ``epsilon`` for the largest (see `ranking`); a vector is one row.
What stays is scaled so that the tensor has its L1 norm back.

``della`` elects signs as TIES does, ``della_linear`` sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from merging.engine.block import Block
from merging.engine.errors import RecipeError, _
from merging.engine.gather import RUN
from merging.engine.norms import add_l1_norms
from merging.engine.ranking import keep_by_rank, magnitudes_bf16
from merging.engine.ranking_stored import FITS, HeldMasks, rank_stored
from merging.engine.settings import is_constant
from merging.engine.sparsify import Masks, Trim
from merging.engine.whole import SEGMENT, Whole

from .base import Arguments, Method, Parameter
from .shared import INT8_MASK, LAMBDA
from .sparsifying import (
    DENSITY,
    keys,
    normalize,
    own,
    rescale,
    sum_terms,
    sum_terms_bf16,
    write_terms,
)

if TYPE_CHECKING:
    from merging.engine.align import PlannedTensor
    from merging.engine.workspace import Workspace

EPSILON = Parameter(
    "epsilon", float, 0.15, "How much likelier the largest entries of a row stay, and less likely "
    "the smallest.", minimum=0, maximum=1, scope="term",
)  # fmt: skip
HELD_BYTES = 16 * 2**20  # masks that a thread keeps from the statistics to the merge

Raw = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Ranked:
    """What is known of one tensor: the rule of each term, its scale, and how rows lie."""

    trim: Trim
    densities: list[float]
    epsilons: list[float]
    columns: int
    count: int

    @property
    def stride(self) -> int:
        """Elements of the whole rows that are ranked together."""
        return max(1, 2 * SEGMENT // self.columns) * self.columns

    def masks(self, block: Block, raw: Raw | None) -> np.ndarray:
        """Which entries of a block of whole rows stay, (K, n) of uint8."""
        kept = block.work.matrix("kept", len(self.densities), block.size, np.uint8)
        deltas = None if raw is not None else block.deltas()
        for k, (density, epsilon) in enumerate(zip(self.densities, self.epsilons, strict=True)):
            if density <= 0 or density >= 1:
                kept[k] = density >= 1
                continue
            if raw is not None:
                patterns = block.work.array("patterns", block.size, np.uint32)
                magnitudes_bf16(raw[2][k], raw[1], patterns)
            else:
                assert deltas is not None
                kind = np.uint32 if deltas.dtype == np.float32 else np.uint64
                patterns = np.abs(deltas[k]).view(kind)
            key = self.trim.keys[k]
            keep_by_rank(patterns, self.columns, block.lo, key, density, epsilon, kept[k])
        return kept


def prepare(whole: Whole, arguments: Arguments) -> Ranked:
    """The norms before and after; the masks stay with the thread if they are small."""
    terms = whole.terms
    densities, epsilons = own(arguments, terms, "density"), own(arguments, terms, "epsilon")
    for density, epsilon in zip(densities, epsilons, strict=True):
        _check_band(density, epsilon)
    trim = Trim.nothing(keys(arguments, terms), whole.dtype)
    ranked = Ranked(trim, densities, epsilons, whole.columns, whole.count)
    if not arguments.values["rescale"]:
        return ranked
    held = None
    if HeldMasks.nbytes(len(terms), whole.count) <= HELD_BYTES:
        held = HeldMasks.empty(len(terms), whole.count, ranked.stride)
    sums = _rank_from_files(whole, ranked, held) if held is not None else None
    if sums is None:
        sums = _rank(whole, ranked, held)
    if held is not None:
        whole.work.held = ranked, held
    scaled = trim.rescaled(sums)
    ranked.trim.scales[:] = np.where(np.array(densities) >= 1, 1, scaled.scales)
    return ranked


def _rank_from_files(whole: Whole, ranked: Ranked, held: HeldMasks) -> np.ndarray | None:
    """The norms before and after, and the masks; None where it takes `_rank`."""
    stored = whole.stored() if FITS and ranked.stride <= RUN else None
    if stored is None:
        return None
    bands = list(zip(ranked.densities, ranked.epsilons, strict=True))
    keys_ = ranked.trim.keys
    return rank_stored(stored, whole.count, ranked.columns, bands, keys_, held, whole.work)


def _rank(whole: Whole, ranked: Ranked, held: HeldMasks | None) -> np.ndarray:
    """The norms before and after, and the masks, of any tensor."""
    sums = np.zeros((len(whole.terms), 2))
    for number, block in enumerate(whole.blocks(ranked.stride)):
        raw = block.raw_differences()
        kept = ranked.masks(block, raw)
        add_l1_norms(sums, block, raw, ranked.trim, Masks(kept))
        if held is not None:
            held.fill(number, kept)
    return sums


def _masks(block: Block, arguments: Arguments) -> Masks:
    """The masks of the rows that a block has part in: held ones, or ranked again."""
    ranked: Ranked = arguments.state
    if block.work.held is None or block.work.held[0] is not ranked:
        columns = ranked.columns
        lo, hi = block.lo // columns * columns, -(-block.hi // columns) * columns
        wide = block.wider(lo, hi)
        return Masks(ranked.masks(wide, wide.raw_differences()), block.lo - lo)
    held: HeldMasks = block.work.held[1]
    stride = ranked.stride
    first, last = block.lo // stride, -(-block.hi // stride)
    lo, hi = first * stride, min(last * stride, ranked.count)
    kept = block.work.matrix("kept", len(ranked.densities), hi - lo, np.uint8)
    for number in range(first, last):
        held.read(number, kept[:, number * stride - lo : min((number + 1) * stride, hi) - lo])
    return Masks(kept, block.lo - lo)


def _check_band(density: float, epsilon: float) -> None:
    """Refuse a band of probabilities that leaves (0, 1)."""
    if 0 < density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
        raise RecipeError(
            _(
                "density %(density)s and epsilon %(epsilon)s do not fit: density − epsilon must be "
                "above 0, density + epsilon below 1. Choose an epsilon below %(limit)s."
            ),
            density=density,
            epsilon=epsilon,
            limit=round(min(density, 1 - density), 9),
        )


def check(values: Mapping[str, Any]) -> None:
    """Refuse such a band already in the recipe, where both are plain numbers."""
    density = values.get("density", DENSITY.default)
    epsilon = values.get("epsilon", EPSILON.default)
    if is_constant(density) and is_constant(epsilon):
        _check_band(density, epsilon)


def _method(name: str, title: str, formula: str, help_: str, elect: bool) -> Method:
    def combine(block: Block, arguments: Arguments) -> np.ndarray:
        masks = _masks(block, arguments)
        return sum_terms(block, arguments, arguments.state.trim, elect, masks)

    def fused(block: Block, arguments: Arguments, out: np.ndarray) -> bool:
        if not block.plain:
            return False
        masks = _masks(block, arguments)
        return sum_terms_bf16(block, arguments, arguments.state.trim, elect, out, masks)

    def direct(
        tensor: PlannedTensor,
        arguments: Arguments,
        span: tuple[int, int],
        goal: tuple[int, int],
        work: Workspace,
    ) -> bool:
        ranked: Ranked = arguments.state
        if work.held is None or work.held[0] is not ranked:
            return False
        return write_terms(tensor, arguments, ranked.trim, elect, span, goal, work, work.held[1])

    return Method(
        name=name,
        title=title,
        formula=formula,
        help=help_,
        source="arXiv 2406.11617",
        operates_on="deltas",
        parameters=(LAMBDA, DENSITY, EPSILON, normalize(elect), rescale(True), INT8_MASK),
        combine=combine,
        fused=fused,
        direct=direct,
        prepare=prepare,
        check=check,
        random=True,
        suggested=(0.5, 1.0, 1.5),
    )


DELLA = _method(
    "della",
    "DELLA",
    "θ + λ · elect(w · rescale(ranked(τ, density ± epsilon)))",
    "Drops changes at random, small ones more often, and lets the vectors vote on each sign.",
    elect=True,
)
DELLA_LINEAR = _method(
    "della_linear",
    "DELLA, summed",
    "θ + λ · Σ w · rescale(ranked(τ, density ± epsilon))",
    "Drops changes at random, small ones more often, and sums what is left.",
    elect=False,
)
