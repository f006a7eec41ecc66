"""Norms before and after trimming, for the methods that scale up what is left.

The magnitudes of a run are added four at a time in the tensor's own precision, which is done for
whole vectors at once, and the sums of four in float64, in lanes that are added in order.
"""

from __future__ import annotations

import numpy as np

from vectors.tensorfile.compiled import njit

from .block import Block
from .gather import read_run
from .kernels import _widen_bf16
from .sparsify import NO_MASKS, Masks, Trim, difference_bf16, keep_run
from .whole import SEGMENT, Whole

SPAN = 1024  # elements of a run; part of the definition of a norm, as are these two:
LANES = SPAN // 4  # partial sums
STRETCH = 2 * SEGMENT  # elements that share the lanes


def l1_norms(whole: Whole, trim: Trim) -> np.ndarray:
    """Σ|τ| before and after ``trim``, (K, 2) of float64. Reads the tensor once."""
    sums = np.zeros((len(whole.terms), 2))
    stored = whole.stored()
    if stored is not None and _norms_stored(
        stored.source, whole.count, trim.rule, NO_MASKS.kept, sums
    ):
        return sums
    sums[:] = 0
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
def _fold(row, sums):
    lanes = row.size // 4
    r0, r1, r2, r3 = row[:lanes], row[lanes:], row[2 * lanes :], row[3 * lanes :]
    for i in range(lanes):
        sums[i] = (abs(r0[i]) + abs(r1[i])) + (abs(r2[i]) + abs(r3[i]))
    return lanes


@njit(nogil=True, cache=True)
def _add_to_lanes(row, sums, lanes):
    # lanes (LANES,) += Σ|row|; sums (LANES,) is scratch.
    count = _fold(row, sums)
    for i in range(count):
        lanes[i] += np.float64(sums[i])
    for i in range(4 * count, row.size):
        lanes[i - 4 * count] += np.float64(abs(row[i]))


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
    scratch = np.empty(LANES, rows.dtype)
    for start in range(0, rows.shape[1], SPAN):
        stop = min(start + SPAN, rows.shape[1])
        for k in range(sums.shape[0]):
            row = rows[k, start:stop]
            _add_to_lanes(row, scratch, lanes[k, 0])
            keep_run(row, lo + start, k, rule, kept, mask_at + start)
            _add_to_lanes(row, scratch, lanes[k, 1])
    _add_lanes(lanes, sums)


@njit(nogil=True, cache=True)
def _norms_bf16(base, tuned, lo, rule, kept, mask_at, sums):
    lanes = np.zeros((sums.shape[0], 2, LANES))
    scratch = np.empty(LANES, np.float32)
    theta = np.empty(SPAN, np.float32)
    buffer = np.empty(SPAN, np.float32)
    for start in range(0, base.size, SPAN):
        stop = min(start + SPAN, base.size)
        row = buffer[: stop - start]
        _widen_bf16(base[start:stop], theta[: row.size])
        for k in range(sums.shape[0]):
            difference_bf16(tuned[k, start:stop], theta[: row.size], row)
            _add_to_lanes(row, scratch, lanes[k, 0])
            keep_run(row, lo + start, k, rule, kept, mask_at + start)
            _add_to_lanes(row, scratch, lanes[k, 1])
    _add_lanes(lanes, sums)


@njit(nogil=True, cache=True)
def _norms_stored(source, count, rule, kept, sums):
    # The foundation and the fine-tunes, stretch by stretch.
    stored = source[2]
    for lo in range(0, count, STRETCH):
        n = min(STRETCH, count - lo)
        if not read_run(source, lo, n):
            return False
        _norms_bf16(stored[0, :n], stored[1:], lo, rule, kept, 0, sums)
    return True
