"""Entries dropped, signs elected: the loops of the sparsifying methods.

A `Trim` says for each term which entries stay: those whose magnitude lies between two thresholds,
or those whose random draw is below a limit. What stays is scaled and weighted, then summed: all
of it, or only what agrees with the elected sign (Yadav et al., arXiv 2306.01708):

    vᵢ = wᵢ · sᵢ · kept(τᵢ),   γ = +1 where Σ vᵢ ≥ 0, else −1
    elected = Σ vᵢ / Σ wᵢ over the terms with sgn(vᵢ) = γ   (nothing agrees: 0)

Numbers that are not finite are never dropped by their size: the merge must fail, not hide them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from .block import Block
from .kernels import _as_float, _divide, _finish_run_bf16, _widen_bf16
from .randomness import CERTAIN, WINDOW, draw, window_words
from .whole import SEGMENT, Whole

SPAN = 1024  # elements of a run here: several arrays of it fit the first-level cache
LANES = SPAN // 4  # partial sums of a norm; part of its definition
NORM_SEGMENT = 2 * SEGMENT
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


def l1_norms(whole: Whole, trim: Trim) -> np.ndarray:
    """Σ|τ| before and after ``trim``, (K, 2) of float64."""
    sums = np.zeros((len(whole.terms), 2))
    rule = trim.low, trim.high, trim.keys, trim.limits
    for block in whole.blocks(NORM_SEGMENT):
        raw = block.raw_differences()
        if raw is not None:
            _norms_bf16(raw[1], raw[2], block.lo, *rule, sums)
        else:
            _norms_rows(block.deltas(), block.lo, *rule, sums)
    return sums


def trimmed_sum(
    rows: np.ndarray,
    lo: int,
    trim: Trim,
    weights: np.ndarray,
    *,
    elect: bool,
    normalize: bool,
    out: np.ndarray,
) -> np.ndarray:
    """The merged update (n,) of ``rows`` (K, n), the deltas from element ``lo`` on; spoils them.

    ``normalize`` divides what was elected by the weights that agree; a plain sum is never divided.
    """
    _sum_rows(rows, lo, trim.low, trim.high, trim.keys, trim.limits, trim.scales, weights,
              elect, normalize, out)  # fmt: skip
    return out


def trimmed_sum_bf16(
    block: Block,
    trim: Trim,
    weights: np.ndarray,
    *,
    elect: bool,
    normalize: bool,
    divisor: float,
    factor: float,
    out: np.ndarray,
) -> bool:
    """The same for plain BF16, divided, times ``factor``, on the target, rounded to ``out``."""
    raw = block.raw_differences()
    if raw is None:
        return False
    _sum_bf16(*raw, block.lo, trim.low, trim.high, trim.keys, trim.limits, trim.scales, weights,
              elect, normalize, np.float32(divisor), np.float32(factor), out)  # fmt: skip
    return True


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
def _place(key, at):
    # Where the element ``at`` stands among the draws: its place in the window, the two words.
    element = np.uint64(at)
    first, second = window_words(key, element // np.uint64(WINDOW))
    return np.uint32(element % np.uint64(WINDOW)), first, second


@njit(nogil=True, cache=True)
def _weigh_run(row, at, low, high, key, limit, scale, weight, total):
    # One run within one window; ``at`` is the element of the tensor it begins with.
    if limit < np.uint64(CERTAIN):
        place, first, second = _place(key, at)
        _weigh_by_draw(row, place, first, second, np.uint32(limit), scale, weight, total)
    else:
        _weigh_by_size(row, low, high, scale, weight, total)


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
def _sum_rows(rows, lo, low, high, keys, limits, scales, weights, elect, normalize, out):
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
                rows[k, start:stop], lo + start, low[k], high[k], keys[k], limits[k],
                scales[k], weights[k], total,
            )  # fmt: skip
        if elect:
            _elect_run(rows, start, stop, weights, normalize, total, share[:count], out[start:stop])
        start = stop


@njit(nogil=True, cache=True)
def _difference_bf16(tuned, theta, out):
    for i in range(out.size):
        out[i] = _as_float(np.uint32(tuned[i]) << np.uint32(16)) - theta[i]


@njit(nogil=True, cache=True)
def _sum_bf16(
    target, base, tuned, lo, low, high, keys, limits, scales, weights, elect, normalize, divisor,
    factor, out,
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
            _difference_bf16(tuned[k, start:stop], theta[:count], rows[k, :count])
            _weigh_run(
                rows[k, :count], lo + start, low[k], high[k], keys[k], limits[k],
                scales[k], weights[k], total,
            )  # fmt: skip
        if elect:
            update = elected[:count]
            _elect_run(rows, 0, count, weights, normalize, total, share[:count], update)
            total = update
        if divisor != 1:
            _divide(total, divisor)
        _finish_run_bf16(target[start:stop], factor, total, out[start:stop])
        start = stop


# Norms: the magnitudes of a run are added four at a time in the tensor's own precision, which is
# done for whole vectors at once, and the sums of four in float64, in lanes.


@njit(nogil=True, cache=True)
def _fold_by_size(row, low, high, before, after):
    zero = row.dtype.type(0)
    lanes = row.size // 4
    r0, r1, r2, r3 = row[:lanes], row[lanes:], row[2 * lanes :], row[3 * lanes :]
    for i in range(lanes):
        a, b, c, d = abs(r0[i]), abs(r1[i]), abs(r2[i]), abs(r3[i])
        before[i] = (a + b) + (c + d)
        a = zero if (a < low) | ((a > high) & (a < np.inf)) else a
        b = zero if (b < low) | ((b > high) & (b < np.inf)) else b
        c = zero if (c < low) | ((c > high) & (c < np.inf)) else c
        d = zero if (d < low) | ((d > high) & (d < np.inf)) else d
        after[i] = (a + b) + (c + d)
    return lanes


@njit(nogil=True, cache=True)
def _fold_by_draw(row, place, first, second, limit, before, after):
    zero = row.dtype.type(0)
    lanes = row.size // 4
    r0, r1, r2, r3 = row[:lanes], row[lanes:], row[2 * lanes :], row[3 * lanes :]
    p1 = np.uint32(place + np.uint32(lanes))
    p2 = np.uint32(place + np.uint32(2 * lanes))
    p3 = np.uint32(place + np.uint32(3 * lanes))
    for i in range(lanes):
        a, b, c, d = abs(r0[i]), abs(r1[i]), abs(r2[i]), abs(r3[i])
        before[i] = (a + b) + (c + d)
        a = a if draw(np.uint32(i) + place, first, second) < limit else zero
        b = b if draw(np.uint32(i) + p1, first, second) < limit else zero
        c = c if draw(np.uint32(i) + p2, first, second) < limit else zero
        d = d if draw(np.uint32(i) + p3, first, second) < limit else zero
        after[i] = (a + b) + (c + d)
    return lanes


@njit(nogil=True, cache=True)
def _add_to_lanes(lanes, sums):
    for i in range(sums.size):
        lanes[i] += np.float64(sums[i])


@njit(nogil=True, cache=True)
def _measure_run(row, at, low, high, key, limit, sums, lanes):
    # lanes (2, LANES) += Σ|row| before and after; sums (2, LANES) is scratch.
    before, after = sums[0], sums[1]
    if limit < np.uint64(CERTAIN):
        place, first, second = _place(key, at)
        limit32 = np.uint32(limit)
        count = _fold_by_draw(row, place, first, second, limit32, before, after)
        for i in range(4 * count, row.size):
            kept = draw(np.uint32(place + np.uint32(i)), first, second) < limit32
            lanes[0, 0] += np.float64(abs(row[i]))
            lanes[1, 0] += np.float64(abs(row[i])) if kept else 0.0
    else:
        count = _fold_by_size(row, low, high, before, after)
        for i in range(4 * count, row.size):
            size = abs(row[i])
            kept = not ((size < low) | ((size > high) & (size < np.inf)))
            lanes[0, 0] += np.float64(size)
            lanes[1, 0] += np.float64(size) if kept else 0.0
    _add_to_lanes(lanes[0], before[:count])
    _add_to_lanes(lanes[1], after[:count])


@njit(nogil=True, cache=True)
def _add_lanes(lanes, sums):
    # lanes (K, 2, LANES), sums (K, 2): in order.
    for k in range(sums.shape[0]):
        for side in range(2):
            for i in range(LANES):
                sums[k, side] += lanes[k, side, i]


@njit(nogil=True, cache=True)
def _norms_rows(rows, lo, low, high, keys, limits, sums):
    lanes = np.zeros((sums.shape[0], 2, LANES))
    scratch = np.empty((2, LANES), rows.dtype)
    for start in range(0, rows.shape[1], SPAN):
        stop = min(start + SPAN, rows.shape[1])
        for k in range(sums.shape[0]):
            row = rows[k, start:stop]
            _measure_run(row, lo + start, low[k], high[k], keys[k], limits[k], scratch, lanes[k])
    _add_lanes(lanes, sums)


@njit(nogil=True, cache=True)
def _norms_bf16(base, tuned, lo, low, high, keys, limits, sums):
    lanes = np.zeros((sums.shape[0], 2, LANES))
    scratch = np.empty((2, LANES), np.float32)
    theta = np.empty(SPAN, np.float32)
    buffer = np.empty(SPAN, np.float32)
    for start in range(0, base.size, SPAN):
        stop = min(start + SPAN, base.size)
        row = buffer[: stop - start]
        _widen_bf16(base[start:stop], theta[: row.size])
        for k in range(sums.shape[0]):
            _difference_bf16(tuned[k, start:stop], theta[: row.size], row)
            _measure_run(row, lo + start, low[k], high[k], keys[k], limits[k], scratch, lanes[k])
    _add_lanes(lanes, sums)
