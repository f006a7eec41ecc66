"""Entries dropped, signs elected: the loops of the sparsifying methods.

A `Trim` says for each term which entries stay: those whose magnitude lies between two thresholds,
or those whose random draw is below a limit; or a mask says so entry by entry. What stays is scaled
and weighted, then summed: all of it, or only what agrees with the elected sign (Yadav et al.,
arXiv 2306.01708):

    vᵢ = wᵢ · sᵢ · kept(τᵢ),   γ = +1 where Σ vᵢ ≥ 0, else −1
    elected = Σ vᵢ / Σ wᵢ over the terms with sgn(vᵢ) = γ   (nothing agrees: 0)

Numbers that are not finite are never dropped by their size: the merge must fail, not hide them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vectors.tensorfile.compiled import njit

from .kernels import _as_float, _divide, _finish_plain_run_bf16, _widen_bf16
from .randomness import CERTAIN, WINDOW, draw, limit_of, window_words
from .selection import Threshold

SPAN = 2048  # elements of a run here: several arrays of it fit the first-level cache
TINY = 1e-7  # a norm below it is not rescaled, as in mergekit


@dataclass(frozen=True)
class Trim:
    """What is kept of each term that touches a tensor, and by what it is multiplied: (K,) each.

    ``low`` and ``high`` bound the magnitudes. Many entries may have exactly one of these two, more
    than belong to what is kept: of those at ``low`` the draw is at most ``low_last``, of those at
    ``high`` at least ``high_first``. ``limits`` bound the draws of all entries. Draws are those
    of ``keys``; ``scales`` make up for what was dropped.
    """

    low: np.ndarray
    high: np.ndarray
    low_last: np.ndarray
    high_first: np.ndarray
    keys: np.ndarray
    limits: np.ndarray
    scales: np.ndarray

    @property
    def rule(self) -> tuple[np.ndarray, ...]:
        """The same for compiled loops."""
        return (self.low, self.high, self.low_last, self.high_first,
                self.keys, self.limits, self.scales)  # fmt: skip

    @classmethod
    def nothing(cls, keys: Sequence[int], dtype: Any) -> Trim:
        """Keeps every entry of the terms, whose draws are those of ``keys``."""
        terms = len(keys)
        return cls(
            low=np.zeros(terms, dtype),
            high=np.full(terms, np.inf, dtype),
            low_last=np.full(terms, CERTAIN - 1, np.uint32),
            high_first=np.zeros(terms, np.uint32),
            keys=np.array(keys, np.uint64),
            limits=np.full(terms, CERTAIN, np.uint64),
            scales=np.ones(terms, dtype),
        )

    def keep_from(self, k: int, least: Threshold, rank: int) -> None:
        """Of term ``k`` keep ``rank`` entries; ``least`` is the ``rank``-th largest magnitude.

        At 0 nothing is chosen: what is nothing may stay.
        """
        self.low[k] = least.value
        if least.value > 0:
            self.low_last[k] = max(limit_of((rank - least.above) / least.equal) - 1, 0)

    def keep_to(self, k: int, most: Threshold, rank: int) -> None:
        """Of term ``k`` drop ``rank`` − 1 entries; ``most`` is the ``rank``-th largest."""
        self.high[k] = most.value
        self.high_first[k] = min(limit_of((rank - 1 - most.above) / most.equal), CERTAIN - 1)

    def rescaled(self, sums: np.ndarray) -> Trim:
        """With the scales that give each term its L1 norm back: ``sums`` (K, 2) before, after."""
        before, after = sums[:, 0], sums[:, 1]
        tiny = (before < TINY) | (after < TINY)
        scales = np.where(tiny, 1.0, before / np.where(tiny, 1.0, after))
        return replace(self, scales=scales.astype(self.scales.dtype))


@dataclass(frozen=True)
class Masks:
    """Which entries of each term stay: ``kept`` (K, m) of uint8, 1 or 0.

    The block's first element is the one numbered ``at``. No masks are masks of no terms.
    """

    kept: np.ndarray
    at: int = 0


NO_MASKS = Masks(np.empty((0, 0), np.uint8))


def trimmed_sum(
    rows: np.ndarray,
    lo: int,
    trim: Trim,
    weights: np.ndarray,
    *,
    elect: bool,
    normalize: bool,
    out: np.ndarray,
    masks: Masks = NO_MASKS,
) -> np.ndarray:
    """The merged update (n,) of ``rows`` (K, n), the deltas from element ``lo`` on; spoils them.

    ``normalize`` divides what was elected by the weights that agree; a plain sum is never divided.
    """
    _sum_rows(rows, lo, trim.rule, masks.kept, masks.at, weights, elect, normalize, out)
    return out


def trimmed_sum_bf16(
    raw: tuple[np.ndarray, np.ndarray, np.ndarray],
    lo: int,
    trim: Trim,
    weights: np.ndarray,
    *,
    elect: bool,
    normalize: bool,
    divisor: float,
    factor: float,
    out: np.ndarray,
    masks: Masks = NO_MASKS,
) -> None:
    """The same for the ``raw_differences`` of a block, divided, times ``factor``, on the target.

    ``out`` (n,) of uint16 is the rounded result.
    """
    _sum_bf16(*raw, lo, trim.rule, masks.kept, masks.at, weights, elect, normalize,
              np.float32(divisor), np.float32(factor), out)  # fmt: skip


@njit(nogil=True, cache=True)
def _keep_by_size(row, low, high):
    zero = row.dtype.type(0)
    for i in range(row.size):
        size = abs(row[i])
        row[i] = zero if (size < low) | ((size > high) & (size < np.inf)) else row[i]


@njit(nogil=True, cache=True)
def _keep_by_size_and_draw(row, low, high, low_last, high_first, place, first, second):
    zero = row.dtype.type(0)
    for i in range(row.size):
        size = abs(row[i])
        chance = draw(np.uint32(i) + place, first, second)
        small = (size < low) | ((size == low) & (chance > low_last))
        large = ((size > high) & (size < np.inf)) | ((size == high) & (chance < high_first))
        row[i] = zero if small | large else row[i]


@njit(nogil=True, cache=True)
def _keep_by_draw(row, place, first, second, limit):
    zero = row.dtype.type(0)
    for i in range(row.size):
        row[i] = row[i] if draw(np.uint32(i) + place, first, second) < limit else zero


@njit(nogil=True, cache=True)
def _keep_by_mask(row, mask):
    zero = row.dtype.type(0)
    for i in range(row.size):
        row[i] = row[i] if mask[i] != 0 else zero


@njit(nogil=True, cache=True)
def keep_run(row, at, k, rule, kept, mask_at):
    """Drop from ``row`` what term ``k`` does not keep. The run lies within one window of draws.

    ``at`` is the element of the tensor it begins with, ``mask_at`` its place in the masks.
    """
    low, high, low_last, high_first, keys, limits, _scales = rule
    if kept.shape[0] > 0:
        _keep_by_mask(row, kept[k, mask_at : mask_at + row.size])
        return
    element = np.uint64(at)
    first, second = window_words(keys[k], element // np.uint64(WINDOW))
    place = np.uint32(element % np.uint64(WINDOW))
    if limits[k] < np.uint64(CERTAIN):
        _keep_by_draw(row, place, first, second, np.uint32(limits[k]))
    elif low_last[k] < np.uint32(CERTAIN - 1) or high_first[k] > 0:
        _keep_by_size_and_draw(
            row, low[k], high[k], low_last[k], high_first[k], place, first, second
        )
    elif low[k] > 0 or high[k] < np.inf:
        _keep_by_size(row, low[k], high[k])


@njit(nogil=True, cache=True)
def _weigh(row, scale, weight, total):
    for i in range(row.size):
        v = row[i] * scale * weight
        row[i] = v
        total[i] = total[i] + v


@njit(nogil=True, cache=True)
def _add_agreeing(total, share, signs, row, weight):
    # NaN agrees, whatever was elected: it must reach the result.
    zero = total.dtype.type(0)
    for i in range(total.size):
        v = row[i]
        along = v if signs[i] >= zero else -v
        total[i] = total[i] + (zero if along <= zero else v)
        share[i] = share[i] + (zero if along <= zero else weight)


@njit(nogil=True, cache=True, error_model="numpy")  # else a test for zero stops the vectors
def _divide_shares(total, share):
    zero, one = total.dtype.type(0), total.dtype.type(1)
    for i in range(total.size):
        total[i] = total[i] / (share[i] if share[i] != zero else one)


@njit(nogil=True, cache=True, error_model="numpy")
def _elect_two(a, b, scale_a, scale_b, weight_a, weight_b, normalize, out):
    # The commonest number of terms in one loop: the same operations in the same order.
    zero, one = out.dtype.type(0), out.dtype.type(1)
    for i in range(out.size):
        u = a[i] * scale_a * weight_a
        v = b[i] * scale_b * weight_b
        sign = u + v
        along_u = u if sign >= zero else -u
        along_v = v if sign >= zero else -v
        total = (zero if along_u <= zero else u) + (zero if along_v <= zero else v)
        share = (zero if along_u <= zero else weight_a) + (zero if along_v <= zero else weight_b)
        out[i] = total / (share if normalize & (share != zero) else one)


@njit(nogil=True, cache=True)
def _sum_run(rows, start, stop, scales, weights, elect, normalize, signs, share, out):
    # out = the sum of what is kept, rows[:, start:stop]; signs and share are scratch.
    zero = out.dtype.type(0)
    if elect and weights.size == 2:
        a, b = rows[0, start:stop], rows[1, start:stop]
        _elect_two(a, b, scales[0], scales[1], weights[0], weights[1], normalize, out)
        return
    total = signs if elect else out
    total[:] = zero
    for k in range(weights.size):
        _weigh(rows[k, start:stop], scales[k], weights[k], total)
    if elect:
        out[:] = zero
        share[:] = zero
        for k in range(weights.size):
            _add_agreeing(out, share, signs, rows[k, start:stop], weights[k])
        if normalize:
            _divide_shares(out, share)


@njit(nogil=True, cache=True)
def _sum_rows(rows, lo, rule, kept, mask_at, weights, elect, normalize, out):
    signs = np.empty(SPAN, out.dtype)
    share = np.empty(SPAN, out.dtype)
    start = 0
    while start < out.size:
        stop = min(start + SPAN - (lo + start) % SPAN, out.size)
        count = stop - start
        for k in range(weights.size):
            keep_run(rows[k, start:stop], lo + start, k, rule, kept, mask_at + start)
        _sum_run(
            rows, start, stop, rule[6], weights, elect, normalize, signs[:count], share[:count],
            out[start:stop],
        )  # fmt: skip
        start = stop


@njit(nogil=True, cache=True)
def difference_bf16(tuned, theta, out):
    """out = tuned (BF16, as uint16) − theta (float32)."""
    for i in range(out.size):
        out[i] = _as_float(np.uint32(tuned[i]) << np.uint32(16)) - theta[i]


@njit(nogil=True, cache=True)
def _sum_bf16(
    target, base, tuned, lo, rule, kept, mask_at, weights, elect, normalize, divisor, factor, out
):  # fmt: skip
    theta = np.empty(SPAN, np.float32)
    signs = np.empty(SPAN, np.float32)
    share = np.empty(SPAN, np.float32)
    update = np.empty(SPAN, np.float32)
    rows = np.empty((weights.size, SPAN), np.float32)
    start = 0
    while start < out.size:
        stop = min(start + SPAN - (lo + start) % SPAN, out.size)
        count = stop - start
        _widen_bf16(base[start:stop], theta[:count])
        for k in range(weights.size):
            difference_bf16(tuned[k, start:stop], theta[:count], rows[k, :count])
            keep_run(rows[k, :count], lo + start, k, rule, kept, mask_at + start)
        _sum_run(
            rows, 0, count, rule[6], weights, elect, normalize, signs[:count], share[:count],
            update[:count],
        )  # fmt: skip
        if divisor != 1:
            _divide(update[:count], divisor)
        _finish_plain_run_bf16(target[start:stop], factor, update[:count], out[start:stop])
        start = stop
