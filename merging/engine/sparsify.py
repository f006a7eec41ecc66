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

from dataclasses import dataclass, replace

import numpy as np

from vectors.tensorfile.compiled import njit

from .kernels import _as_float, _divide, _finish_run_bf16, _widen_bf16
from .randomness import CERTAIN, WINDOW, draw, window_words

SPAN = 1024  # elements of a run here: several arrays of it fit the first-level cache
TINY = 1e-7  # a norm below it is not rescaled, as in mergekit


@dataclass(frozen=True)
class Trim:
    """What is kept of each term that touches a tensor, and by what it is multiplied: (K,) each.

    ``low`` and ``high`` bound the magnitudes (both belong to what is kept), ``limits`` the draws
    of ``keys``. ``scales`` make up for what was dropped.
    """

    low: np.ndarray
    high: np.ndarray
    keys: np.ndarray
    limits: np.ndarray
    scales: np.ndarray

    @property
    def rule(self) -> tuple[np.ndarray, ...]:
        """The same for compiled loops."""
        return self.low, self.high, self.keys, self.limits, self.scales

    @classmethod
    def nothing(cls, terms: int, dtype: type) -> Trim:
        """Keeps every entry of ``terms`` terms."""
        return cls(
            low=np.zeros(terms, dtype),
            high=np.full(terms, np.inf, dtype),
            keys=np.zeros(terms, np.uint64),
            limits=np.full(terms, CERTAIN, np.uint64),
            scales=np.ones(terms, dtype),
        )

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
def _weigh_by_size(row, low, high, scale, weight, total):
    zero = row.dtype.type(0)
    for i in range(row.size):
        x = row[i]
        size = abs(x)
        v = (zero if (size < low) | ((size > high) & (size < np.inf)) else x) * scale * weight
        row[i] = v
        total[i] = total[i] + v


@njit(nogil=True, cache=True)
def _weigh_by_draw(row, place, first, second, limit, scale, weight, total):
    zero = row.dtype.type(0)
    for i in range(row.size):
        x = row[i]
        v = (x if draw(np.uint32(i) + place, first, second) < limit else zero) * scale * weight
        row[i] = v
        total[i] = total[i] + v


@njit(nogil=True, cache=True)
def _weigh_by_mask(row, kept, scale, weight, total):
    zero = row.dtype.type(0)
    for i in range(row.size):
        v = (row[i] if kept[i] != 0 else zero) * scale * weight
        row[i] = v
        total[i] = total[i] + v


@njit(nogil=True, cache=True)
def place_of(key, at):
    """Where the element ``at`` stands among the draws: place in the window, the two words."""
    element = np.uint64(at)
    first, second = window_words(key, element // np.uint64(WINDOW))
    return np.uint32(element % np.uint64(WINDOW)), first, second


@njit(nogil=True, cache=True)
def _weigh_run(row, at, k, rule, kept, mask_at, weight, total):
    # One run within one window; ``at`` is the element of the tensor it begins with, ``mask_at``
    # its place in the masks.
    low, high, keys, limits, scales = rule
    if kept.shape[0] > 0:
        mask = kept[k, mask_at : mask_at + row.size]
        _weigh_by_mask(row, mask, scales[k], weight, total)
    elif limits[k] < np.uint64(CERTAIN):
        place, first, second = place_of(keys[k], at)
        limit = np.uint32(limits[k])
        _weigh_by_draw(row, place, first, second, limit, scales[k], weight, total)
    else:
        _weigh_by_size(row, low[k], high[k], scales[k], weight, total)


@njit(nogil=True, cache=True)
def _add_agreeing(total, share, signs, row, weight, zero):
    # NaN agrees, whatever was elected: it must reach the result.
    for i in range(total.size):
        v = row[i]
        along = v if signs[i] >= zero else -v
        agrees = not along <= zero
        total[i] = total[i] + (v if agrees else zero)
        share[i] = share[i] + (weight if agrees else zero)


@njit(nogil=True, cache=True, error_model="numpy")  # else a test for zero stops the vectors
def _divide_shares(total, share, zero, one):
    for i in range(total.size):
        total[i] = total[i] / (share[i] if share[i] != zero else one)


@njit(nogil=True, cache=True, error_model="numpy")
def _elect_two(out, signs, a, b, weight_a, weight_b, normalize):
    # The commonest number of terms in one loop: the same operations in the same order.
    zero = out.dtype.type(0)
    one = out.dtype.type(1)
    for i in range(out.size):
        u, v = a[i], b[i]
        up = signs[i] >= zero
        with_u = not (u if up else -u) <= zero
        with_v = not (v if up else -v) <= zero
        total = (u if with_u else zero) + (v if with_v else zero)
        share = (weight_a if with_u else zero) + (weight_b if with_v else zero)
        out[i] = total / (share if normalize & (share != zero) else one)


@njit(nogil=True, cache=True)
def _elect_run(rows, start, stop, weights, normalize, signs, share, out):
    # out = the elected sum of the weighted rows[:, start:stop], whose plain sum is ``signs``.
    zero = out.dtype.type(0)
    if weights.size == 2:
        _elect_two(
            out, signs, rows[0, start:stop], rows[1, start:stop], weights[0], weights[1], normalize
        )
        return
    out[:] = zero
    share[:] = zero
    for k in range(weights.size):
        _add_agreeing(out, share, signs, rows[k, start:stop], weights[k], zero)
    if normalize:
        _divide_shares(out, share, zero, out.dtype.type(1))


@njit(nogil=True, cache=True)
def _sum_rows(rows, lo, rule, kept, mask_at, weights, elect, normalize, out):
    signs = np.empty(SPAN, out.dtype)
    share = np.empty(SPAN, out.dtype)
    start = 0
    while start < out.size:
        stop = min(start + SPAN - (lo + start) % SPAN, out.size)
        count = stop - start
        total = signs[:count] if elect else out[start:stop]
        total[:] = out.dtype.type(0)
        for k in range(weights.size):
            _weigh_run(
                rows[k, start:stop], lo + start, k, rule, kept, mask_at + start, weights[k], total
            )
        if elect:
            _elect_run(rows, start, stop, weights, normalize, total, share[:count], out[start:stop])
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
    elected = np.empty(SPAN, np.float32)
    rows = np.empty((weights.size, SPAN), np.float32)
    start = 0
    while start < out.size:
        stop = min(start + SPAN - (lo + start) % SPAN, out.size)
        count = stop - start
        total = signs[:count]
        total[:] = np.float32(0)
        _widen_bf16(base[start:stop], theta[:count])
        for k in range(weights.size):
            difference_bf16(tuned[k, start:stop], theta[:count], rows[k, :count])
            _weigh_run(
                rows[k, :count], lo + start, k, rule, kept, mask_at + start, weights[k], total
            )
        if elect:
            update = elected[:count]
            _elect_run(rows, 0, count, weights, normalize, total, share[:count], update)
            total = update
        if divisor != 1:
            _divide(total, divisor)
        _finish_run_bf16(target[start:stop], factor, total, out[start:stop])
        start = stop
