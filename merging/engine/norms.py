"""Norms before and after trimming, for the methods that scale up what is left.

The magnitudes of a run are added four at a time in the tensor's own precision, which is done for
whole vectors at once, and the sums of four in float64, in lanes that are added in order.
"""

from __future__ import annotations

import numpy as np

from vectors.tensorfile.compiled import njit

from .block import Block
from .kernels import _widen_bf16
from .randomness import CERTAIN, draw
from .sparsify import NO_MASKS, Masks, Trim, difference_bf16, place_of
from .whole import SEGMENT, Whole

SPAN = 1024  # elements of a run; part of the definition of a norm, as are these two:
LANES = SPAN // 4  # partial sums
STRETCH = 2 * SEGMENT  # elements that share the lanes


def l1_norms(whole: Whole, trim: Trim) -> np.ndarray:
    """Σ|τ| before and after ``trim``, (K, 2) of float64. Reads the tensor once."""
    sums = np.zeros((len(whole.terms), 2))
    for block in whole.blocks(STRETCH):
        add_l1_norms(sums, block, block.raw_differences(), trim)
    return sums


def add_l1_norms(
    sums: np.ndarray,
    block: Block,
    raw: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    trim: Trim,
    masks: Masks = NO_MASKS,
) -> None:
    """Add one block's to ``sums`` (K, 2); ``raw`` are its ``raw_differences``.

    Without masks the block begins at a multiple of ``SPAN``.
    """
    if raw is not None:
        _norms_bf16(raw[1], raw[2], block.lo, trim.rule, masks.kept, masks.at, sums)
    else:
        _norms_rows(block.deltas(), block.lo, trim.rule, masks.kept, masks.at, sums)


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
def _fold_by_mask(row, kept, before, after):
    zero = row.dtype.type(0)
    lanes = row.size // 4
    r0, r1, r2, r3 = row[:lanes], row[lanes:], row[2 * lanes :], row[3 * lanes :]
    k0, k1, k2, k3 = kept[:lanes], kept[lanes:], kept[2 * lanes :], kept[3 * lanes :]
    for i in range(lanes):
        a, b, c, d = abs(r0[i]), abs(r1[i]), abs(r2[i]), abs(r3[i])
        before[i] = (a + b) + (c + d)
        a = a if k0[i] != 0 else zero
        b = b if k1[i] != 0 else zero
        c = c if k2[i] != 0 else zero
        d = d if k3[i] != 0 else zero
        after[i] = (a + b) + (c + d)
    return lanes


@njit(nogil=True, cache=True)
def _add_to_lanes(lanes, sums):
    for i in range(sums.size):
        lanes[i] += np.float64(sums[i])


@njit(nogil=True, cache=True)
def _measure_run(row, at, k, rule, kept, mask_at, sums, lanes):
    # lanes (2, LANES) += Σ|row| before and after; sums (2, LANES) is scratch.
    low, high, keys, limits, _scales = rule
    before, after = sums[0], sums[1]
    rest = row[row.size // 4 * 4 :]
    if kept.shape[0] > 0:
        mask = kept[k, mask_at : mask_at + row.size]
        count = _fold_by_mask(row, mask, before, after)
        for i in range(rest.size):
            lanes[1, i] += np.float64(abs(rest[i])) if mask[4 * count + i] != 0 else 0.0
    elif limits[k] < np.uint64(CERTAIN):
        place, first, second = place_of(keys[k], at)
        limit = np.uint32(limits[k])
        count = _fold_by_draw(row, place, first, second, limit, before, after)
        for i in range(rest.size):
            stays = draw(np.uint32(place + np.uint32(4 * count + i)), first, second) < limit
            lanes[1, i] += np.float64(abs(rest[i])) if stays else 0.0
    else:
        count = _fold_by_size(row, low[k], high[k], before, after)
        for i in range(rest.size):
            size = abs(rest[i])
            goes = (size < low[k]) | ((size > high[k]) & (size < np.inf))
            lanes[1, i] += 0.0 if goes else np.float64(size)
    for i in range(rest.size):
        lanes[0, i] += np.float64(abs(rest[i]))
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
def _norms_rows(rows, lo, rule, kept, mask_at, sums):
    lanes = np.zeros((sums.shape[0], 2, LANES))
    scratch = np.empty((2, LANES), rows.dtype)
    for start in range(0, rows.shape[1], SPAN):
        stop = min(start + SPAN, rows.shape[1])
        for k in range(sums.shape[0]):
            row = rows[k, start:stop]
            _measure_run(row, lo + start, k, rule, kept, mask_at + start, scratch, lanes[k])
    _add_lanes(lanes, sums)


@njit(nogil=True, cache=True)
def _norms_bf16(base, tuned, lo, rule, kept, mask_at, sums):
    lanes = np.zeros((sums.shape[0], 2, LANES))
    scratch = np.empty((2, LANES), np.float32)
    theta = np.empty(SPAN, np.float32)
    buffer = np.empty(SPAN, np.float32)
    for start in range(0, base.size, SPAN):
        stop = min(start + SPAN, base.size)
        row = buffer[: stop - start]
        _widen_bf16(base[start:stop], theta[: row.size])
        for k in range(sums.shape[0]):
            difference_bf16(tuned[k, start:stop], theta[: row.size], row)
            _measure_run(row, lo + start, k, rule, kept, mask_at + start, scratch, lanes[k])
    _add_lanes(lanes, sums)
