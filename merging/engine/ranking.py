"""Entries kept by rank: the larger an entry is within its row, the likelier it stays.

An entry with ``less`` smaller ones in its row of n, and ``equal`` of its own magnitude (itself
counted), has the rank less + (equal − 1)/2, from 0 to n − 1: equal entries share the mean of their
ranks, so that no order among them has to be invented. It stays with probability

    density − ε + 2ε · rank / (n − 1)      (a row of one entry: density)

Read backwards: the draw of an entry says which rank it needs, so with the magnitudes of the row
sorted, two of them decide. Among equals that the needed rank divides, the draw's fraction is a
fair coin, which makes the probability that of the mean rank, exactly.
"""

from __future__ import annotations

import numpy as np

from vectors.tensorfile.compiled import njit

from .kernels import _as_bits, _as_float
from .randomness import WINDOW, draw, limit_of, window_words


def band(density: float, epsilon: float, columns: int) -> tuple[int, int, float]:
    """Below which draw every entry of a row stays, from which on none, and ranks a draw between."""
    below = (density - epsilon, density + epsilon) if columns > 1 else (density, density)
    surely, never = map(limit_of, below)
    return surely, never, (columns - 1) / max(never - surely, 1)


def keep_by_rank(
    patterns: np.ndarray, columns: int, lo: int, key: int, density: float, epsilon: float,
    kept: np.ndarray,
) -> None:  # fmt: skip
    """Say in ``kept`` (n,) of uint8 which entries stay.

    ``patterns`` (n,) are the magnitudes of whole rows of ``columns`` entries as bit patterns
    (unsigned), from element ``lo`` of the tensor on.
    """
    ordered = np.sort(patterns.reshape(-1, columns), axis=1).reshape(-1)
    surely, never, per_draw = band(density, epsilon, columns)
    _keep_rows(patterns, ordered, columns, lo, np.uint64(key), np.uint64(surely),
               np.uint64(never), per_draw, kept)  # fmt: skip


def magnitudes_bf16(tuned: np.ndarray, base: np.ndarray, out: np.ndarray) -> None:
    """out = the bit patterns (uint32) of |tuned − base|, both BF16 stored as uint16."""
    _magnitudes_bf16(tuned, base, out)


@njit(nogil=True, cache=True)
def _magnitudes_bf16(tuned, base, out):
    for i in range(out.size):
        fine = _as_float(np.uint32(tuned[i]) << np.uint32(16))
        theta = _as_float(np.uint32(base[i]) << np.uint32(16))
        out[i] = _as_bits(np.float32(fine - theta)) & np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def _fill_draws(at, key, out):
    start = 0
    while start < out.size:
        element = np.uint64(at + start)
        stop = min(start + WINDOW - (at + start) % WINDOW, out.size)
        first, second = window_words(key, element // np.uint64(WINDOW))
        place = np.uint32(element % np.uint64(WINDOW))
        piece = out[start:stop]
        for i in range(piece.size):
            piece[i] = draw(np.uint32(i) + place, first, second)
        start = stop


@njit(nogil=True, cache=True)
def _point(draws, surely, per_draw, places, coins):
    # Which two neighbours of the sorted row a draw lies between, and in which half.
    end = np.float64(places.size - 2)
    first = np.float64(surely)
    for i in range(places.size):
        needed = (np.float64(draws[i]) - first) * per_draw
        needed = needed if needed > 0.0 else 0.0
        place = np.int32(needed if needed < end else end)
        places[i] = np.uint32(place)
        coins[i] = np.uint8(needed - np.float64(place) < 0.5)


@njit(nogil=True, cache=True)
def _look_up(ordered, places, found):
    for i in range(places.size):
        found[i] = ordered[places[i]]


@njit(nogil=True, cache=True)
def _decide(patterns, below, above, coins, draws, surely, never, kept):
    for i in range(kept.size):
        x = patterns[i]
        enough = (x > below[i]) | ((x >= above[i]) & (coins[i] != 0))
        kept[i] = np.uint8((draws[i] < surely) | (enough & (draws[i] < never)))


@njit(nogil=True, cache=True)
def _keep_rows(patterns, ordered, columns, lo, key, surely, never, per_draw, kept):
    draws = np.empty(columns, np.uint32)
    places = np.empty(columns, np.uint32)
    coins = np.empty(columns, np.uint8)
    below = np.empty(columns, patterns.dtype)
    above = np.empty(columns, patterns.dtype)
    for start in range(0, patterns.size, columns):
        stop = start + columns
        _fill_draws(lo + start, key, draws)
        if columns == 1:
            kept[start] = draws[0] < surely
            continue
        _point(draws, surely, per_draw, places, coins)
        _look_up(ordered[start:stop], places, below)
        _look_up(ordered[start + 1 : stop], places, above)
        _decide(
            patterns[start:stop], below, above, coins, draws, np.uint32(surely), np.uint32(never),
            kept[start:stop],
        )  # fmt: skip
