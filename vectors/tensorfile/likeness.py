"""How two task vectors of one foundation lie to each other, from their sketches.

Inner products are estimated tensor by tensor, as the sample's cosine times the exact norms: a
vector is exactly like itself, and no tensor counts for more than it can. Counts are scaled up by
what a place of the tensor stands for.

The verdict is a word about conflict, not about quality. Of ordinary vectors of one pretrained
transformer neither the cosine nor the sign conflict says how well their sum works: over 78 pairs
of 13 fine-tunes of MiniLM the loss was 0.4 points on average, 3.8 at worst, and its correlation
with either below 0.3. Contradiction is another matter, and duplicates are:

- Over 120 pairs, 42 with a vector trained on wrong labels, ``cosine < -0.15`` finds 6 of the 7
  pairs whose sum loses more than 10 points, and so does ``large_conflict > 0.6``, neither with a
  false alarm. The seventh (labels of six classes rotated) is missed by both, at -0.02 and 0.54.
  All other pairs were between -0.03 and 0.03 and between 0.46 and 0.54, or related.
- Related skills (two moods: cosine 0.31; one topic in two languages: 0.28) add without a loss.
- Above 0.5 two vectors are mostly one, and their sum counts it twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from .compiled import njit
from .errors import _
from .sketch_format import Sketch

DUPLICATE_COSINE = 0.5
RELATED_COSINE = 0.1
CONTRADICTION_COSINE = -0.15
CONTRADICTION_CONFLICT = 0.6
# Signs of fewer common large places say too little: the conflict's standard error is 0.5 / √n.
FEWEST_LARGE = 400


class Verdict(Enum):
    """What a pair is called."""

    DUPLICATE = "duplicate"
    RELATED = "related"
    INDEPENDENT = "independent"
    CONTRADICTION = "contradiction"


NAMES = {
    Verdict.DUPLICATE: _("duplicate"),
    Verdict.RELATED: _("related"),
    Verdict.INDEPENDENT: _("independent"),
    Verdict.CONTRADICTION: _("contradiction"),
}
# What is said of a pair. None of it is a promise: a sum is only known by its ability checks.
SENTENCES = {
    Verdict.DUPLICATE: _(
        "They point mostly the same way (cosine %(cosine).2f), so their sum counts it twice. Give "
        "each about half, or take one of them."
    ),
    Verdict.RELATED: _(
        "They point partly the same way (cosine %(cosine).2f), as related abilities do. No "
        "conflict found."
    ),
    Verdict.INDEPENDENT: _(
        "No conflict found. Whether both abilities survive the sum, only an ability check can tell."
    ),
    Verdict.CONTRADICTION: _(
        "They pull against each other (cosine %(cosine).2f): where both change the model most, "
        "%(conflict).0f%% of the changes have opposite signs. Their sum is likely to lose one."
    ),
}


@dataclass(frozen=True)
class Likeness:
    """Two vectors side by side.

    ``conflict`` is the share of opposite signs among the entries both change, ``large_conflict``
    among those that are large in both (None where there are none), seen at ``large_places``
    places. ``overlap`` is the share of the large entries of the one that are large in the other;
    by chance it is a fifth, where both change the same tensors. ``shared`` is the share of the
    changed entries of the one that changes fewer which the other changes, too. ``products`` are
    the inner products of the tensors both change, by name.
    """

    cosine: float
    conflict: float | None
    large_conflict: float | None
    large_places: int
    overlap: float
    shared: float
    products: dict[str, float]

    @property
    def sentence(self) -> tuple[str, dict[str, float]]:
        """Template and parameters of what is said of the pair."""
        conflict = 0.0 if self.large_conflict is None else self.large_conflict * 100
        return SENTENCES[self.verdict], {"cosine": self.cosine, "conflict": conflict}

    @property
    def verdict(self) -> Verdict:
        """The word for the pair; see the module for what it is worth."""
        if self.cosine > DUPLICATE_COSINE:
            return Verdict.DUPLICATE
        if self.cosine > RELATED_COSINE:
            return Verdict.RELATED
        disagree = (
            self.large_conflict is not None
            and self.large_places >= FEWEST_LARGE
            and self.large_conflict > CONTRADICTION_CONFLICT
        )
        if self.cosine < CONTRADICTION_COSINE or disagree:
            return Verdict.CONTRADICTION
        return Verdict.INDEPENDENT


def compare(a: Sketch, b: Sketch) -> Likeness:
    """The likeness of two vectors of one foundation; ValueError when they are of two."""
    if a.foundation != b.foundation:
        raise ValueError("sketches of two foundations cannot be compared")
    ours, theirs = _common(a.names, b.names)
    kept = np.minimum(a.kept[ours], b.kept[theirs])
    sums = np.zeros((len(ours), 5))
    _products(a.values, a.value_at[ours], b.values, b.value_at[theirs], kept, sums)
    dots, squares_a, squares_b, both, opposite = sums.T
    lengths = np.sqrt(squares_a * squares_b)
    cosines = np.divide(dots, lengths, out=np.zeros(len(ours)), where=lengths > 0)
    products = np.clip(cosines, -1, 1) * np.sqrt(a.squares[ours] * b.squares[theirs])
    per_value = a.counts[ours] / kept
    marked = np.minimum(a.marked[ours], b.marked[theirs])
    counts = np.zeros((len(ours), 2), np.int64)
    _marks(
        (a.large, a.negative), a.mark_at[ours], (b.large, b.negative), b.mark_at[theirs],
        marked, counts,
    )  # fmt: skip
    large, large_opposite = (counts * (a.counts[ours] / marked)[:, None]).T
    norms = a.norm * b.norm
    fewer_large = min(a.entries_large(), b.entries_large())
    fewer_changed = min(a.entries_changed, b.entries_changed)
    return Likeness(
        cosine=min(max(float(products.sum()) / norms, -1.0), 1.0) if norms > 0 else 0.0,
        conflict=_share(opposite * per_value, both * per_value),
        large_conflict=_share(large_opposite, large),
        large_places=int(counts[:, 0].sum()),
        overlap=min(float(large.sum()) / fewer_large, 1.0) if fewer_large else 0.0,
        shared=min(float((both * per_value).sum()) / fewer_changed, 1.0) if fewer_changed else 0.0,
        products={a.names[i]: float(p) for i, p in zip(ours, products, strict=True)},
    )


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ``a`` and in ``b`` of the names in both."""
    where = {name: i for i, name in enumerate(b)}
    pairs = [(i, where[name]) for i, name in enumerate(a) if name in where]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    total = float(whole.sum())
    return float(part.sum()) / total if total > 0 else None


@njit(nogil=True, cache=True)
def _products(a, a_at, b, b_at, kept, sums):
    # sums (T, 5): Σab, Σa², Σb², how many are ≠ 0 in both, how many of these have opposite signs.
    for t in range(kept.size):
        dot = 0.0
        square_a = 0.0
        square_b = 0.0
        both = 0.0
        opposite = 0.0
        for i in range(kept[t]):
            x = np.float64(a[a_at[t] + i])
            y = np.float64(b[b_at[t] + i])
            dot += x * y
            square_a += x * x
            square_b += y * y
            if x != 0.0 and y != 0.0:
                both += 1.0
                opposite += np.float64((x < 0.0) != (y < 0.0))
        sums[t, 0], sums[t, 1], sums[t, 2] = dot, square_a, square_b
        sums[t, 3], sums[t, 4] = both, opposite


@njit(nogil=True, cache=True)
def _ones(x):
    # How many bits of x are set.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(nogil=True, cache=True)
def _marks(a, a_at, b, b_at, marked, counts):
    # counts (T, 2): places that are large in both, and those of them with opposite signs.
    (a_large, a_negative), (b_large, b_negative) = a, b
    for t in range(marked.size):
        left = marked[t]
        word = 0
        while left > 0:
            i, j = a_at[t] + word, b_at[t] + word
            large = a_large[i] & b_large[j]
            if left < 64:  # the longer of both goes on in this word
                large &= (np.uint64(1) << np.uint64(left)) - np.uint64(1)
            counts[t, 0] += _ones(large)
            counts[t, 1] += _ones(large & (a_negative[i] ^ b_negative[j]))
            left -= 64
            word += 1
