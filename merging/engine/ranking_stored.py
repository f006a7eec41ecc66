"""Ranking of tensors that lie in files: read, ranked, summed and remembered in few calls.

The same entries stay as `ranking` says, by loops that hold no lock: of a block of whole rows one
call reads all terms and finds their magnitudes, numpy sorts them, and one call decides, adds up
the norms and keeps the masks, a bit an entry. One more call merges and writes a tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectors.tensorfile.checkpoint import TensorLike
from vectors.tensorfile.compiled import intrinsic, njit, types

from .direct import _broken, _write
from .gather import RUN, Stored, read_run, stored_in_files
from .kernels import _as_float
from .norms import LANES, SPAN, _add_lanes
from .ranking import _fill_draws, _magnitudes_bf16, band
from .sparsify import Trim, _sum_bf16
from .workspace import Workspace

FITS = sys.byteorder == "little"  # two neighbours are loaded as one number
_GATHER = np.uint64(0x0102040810204080)  # times eight bytes of 0 or 1: their bits, in the last byte


def _table() -> np.ndarray:
    """For every byte of a mask the eight bytes, 1 or 0, that it stands for."""
    each = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.uint8).view(np.uint64)[:, 0]
    table = np.empty(256, np.uint64)
    table[(each * _GATHER) >> np.uint64(56)] = each
    return table


_BYTES_OF = _table()


@dataclass(frozen=True, eq=False)
class HeldMasks:
    """Which entries of a tensor's terms stay, a bit an entry.

    ``bits`` (blocks, K, bytes) belong to blocks of ``stride`` elements.
    """

    bits: np.ndarray
    stride: int

    @staticmethod
    def nbytes(terms: int, count: int) -> int:
        """About how much memory they take."""
        return terms * count // 8

    @classmethod
    def empty(cls, terms: int, count: int, stride: int) -> HeldMasks:
        """Masks to be filled."""
        return cls(np.empty((-(-count // stride), terms, -(-stride // 8)), np.uint8), stride)

    def fill(self, number: int, kept: np.ndarray) -> None:
        """Take the masks (K, n) of uint8, 1 or 0, of one block."""
        wide = np.zeros((len(kept), 8 * self.bits.shape[2]), np.uint8)
        wide[:, : kept.shape[1]] = kept
        for k in range(len(kept)):
            _pack(wide[k], self.bits[number, k])

    def read(self, number: int, kept: np.ndarray) -> None:
        """Give the masks of one block to ``kept`` (K, n)."""
        wide = np.empty(8 * self.bits.shape[2], np.uint8)
        for k in range(len(kept)):
            _unpack(self.bits[number, k], _BYTES_OF, wide)
            kept[k] = wide[: kept.shape[1]]


def rank_stored(
    stored: Stored,
    count: int,
    columns: int,
    bands: Sequence[tuple[float, float]],
    keys: np.ndarray,
    masks: HeldMasks,
    work: Workspace,
) -> np.ndarray | None:
    """Fill ``masks`` and return Σ|τ| before and after, (K, 2); None where a file ends early.

    ``bands`` are density and epsilon of each term. A block's elements fit into a run.
    """
    terms, stride = len(bands), masks.stride
    patterns = work.matrix("patterns", terms, stride, np.uint32)
    ordered = work.matrix("ordered", terms, stride, np.uint32)
    kept = work.matrix("kept bytes", terms, 8 * masks.bits.shape[2], np.uint8)
    ranked = np.array([0 < density < 1 for density, _epsilon in bands])
    limits = np.zeros((terms, 2), np.uint64)
    per_draw = np.zeros(terms)
    for k, (density, epsilon) in enumerate(bands):
        limits[k, 0], limits[k, 1], per_draw[k] = band(density, epsilon, columns)
        kept[k] = density >= 1
    sums = np.zeros((terms, 2))
    for number, lo in enumerate(range(0, count, stride)):
        n = min(stride, count - lo)
        if not _read_magnitudes(stored.source, lo, n, patterns, ordered):
            return None
        for k in (k for k in range(terms) if ranked[k]):
            ordered[k, :n].reshape(-1, columns).sort(axis=1)
        _keep_block(
            (patterns, ordered), n, columns, lo, keys, ranked, limits, per_draw, kept, sums,
            masks.bits[number],
        )  # fmt: skip
    return sums


def write_ranked(
    target: TensorLike,
    base: TensorLike,
    tuned: Sequence[TensorLike],
    trim: Trim,
    masks: HeldMasks,
    weights: np.ndarray,
    *,
    elect: bool,
    normalize: bool,
    divisor: float,
    factor: float,
    span: tuple[int, int],
    goal: tuple[int, int],
    work: Workspace,
) -> bool:
    """`direct.write_trimmed`, of what ``masks`` keep."""
    own_target = target is not base
    stored = stored_in_files([base, *tuned, *([target] if own_target else [])], work)
    if stored is None:
        return False
    kept = work.matrix("kept bytes", len(tuned), 8 * masks.bits.shape[2], np.uint8)
    return bool(
        _ranked_to_file(
            stored.source,
            own_target,
            trim.rule,
            (masks.bits, masks.stride, _BYTES_OF, kept),
            weights,
            elect,
            normalize,
            np.float32(divisor),
            np.float32(factor),
            *span,
            work.array("words", RUN // 4, np.uint64),
            *goal,
        )
    )


@njit(nogil=True, cache=True)
def _read_magnitudes(source, lo, n, patterns, ordered):
    # The patterns (K, …) of n elements from lo on, twice: one of them is to be sorted.
    rows = source[2]
    if not read_run(source, lo, n):
        return False
    for k in range(patterns.shape[0]):
        _magnitudes_bf16(rows[k + 1, :n], rows[0, :n], patterns[k, :n])
        _copy(patterns[k, :n], ordered[k, :n])
    return True


@njit(nogil=True, cache=True)
def _copy(numbers, goal):
    # An assignment of slices would need Python, to say that they do not fit.
    for i in range(goal.size):
        goal[i] = numbers[i]


@intrinsic
def _pair_at(_context: Any, array: Any, at: Any) -> Any:
    """The elements ``at`` and ``at`` + 1 of an array of uint32, as one uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(data, [arguments[1]])
        pair = builder.load(
            builder.bitcast(place, context.get_value_type(types.uint64).as_pointer())
        )
        pair.align = 4
        return pair

    return types.uint64(array, at), generate


@njit(nogil=True, cache=True)
def _point(draws, surely, last, twice_per_draw, halves):
    # Twice the rank that a draw needs, rounded down: which neighbours of the sorted row it lies
    # between, and in which half. Draws that need no rank are taken for the first or the last.
    end = np.float64(2 * halves.size - 3)
    for i in range(halves.size):
        chance = draws[i]
        chance = chance if chance > surely else surely
        chance = chance if chance < last else last
        needed = np.float64(np.uint32(chance - surely)) * twice_per_draw
        halves[i] = np.uint32(np.int32(needed if needed < end else end))


@njit(nogil=True, cache=True)
def _look_up(ordered, halves, pairs):
    for i in range(halves.size):
        pairs[i] = _pair_at(ordered, halves[i] >> np.uint32(1))


@njit(nogil=True, cache=True)
def _decide(patterns, pairs, halves, draws, surely, never, kept):
    for i in range(kept.size):
        x = patterns[i]
        first_half = (halves[i] & np.uint32(1)) == 0
        enough = (x > pairs[2 * i]) | ((x >= pairs[2 * i + 1]) & first_half)
        kept[i] = np.uint8((draws[i] < surely) | (enough & (draws[i] < never)))


@njit(nogil=True, cache=True)
def _keep_ranked(patterns, ordered, columns, lo, key, surely, never, per_draw, kept):
    # As `_keep_rows` of `ranking`, which says what is meant.
    draws = np.empty(columns, np.uint32)
    halves = np.empty(columns, np.uint32)
    pairs = np.empty(columns, np.uint64)
    last = np.uint32(max(never, surely + np.uint64(1)) - np.uint64(1))
    for start in range(0, patterns.size, columns):
        stop = start + columns
        _fill_draws(lo + start, key, draws)
        if columns == 1:
            kept[start] = draws[0] < surely
            continue
        _point(draws, np.uint32(surely), last, 2 * per_draw, halves)
        _look_up(ordered[start:stop], halves, pairs)
        _decide(
            patterns[start:stop], pairs.view(np.uint32), halves, draws, np.uint32(surely),
            np.uint32(never), kept[start:stop],
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _fold_both(row, kept, before, after):
    # Sums of four magnitudes of a row, of all and of those kept; as `_fold` of `norms`.
    zero = np.uint32(0)
    lanes = row.size // 4
    r0, r1, r2, r3 = row[:lanes], row[lanes:], row[2 * lanes :], row[3 * lanes :]
    m0, m1, m2, m3 = kept[:lanes], kept[lanes:], kept[2 * lanes :], kept[3 * lanes :]
    for i in range(lanes):
        a, b, c, d = r0[i], r1[i], r2[i], r3[i]
        before[i] = (_as_float(a) + _as_float(b)) + (_as_float(c) + _as_float(d))
        a, b = a if m0[i] != 0 else zero, b if m1[i] != 0 else zero
        c, d = c if m2[i] != 0 else zero, d if m3[i] != 0 else zero
        after[i] = (_as_float(a) + _as_float(b)) + (_as_float(c) + _as_float(d))
    return lanes


@njit(nogil=True, cache=True)
def _add_both(patterns, kept, sums):
    # sums (2,) += Σ|τ| of all entries and of those kept; as `_norms_bf16` of `norms`.
    lanes = np.zeros((1, 2, LANES))
    before = np.empty(LANES, np.float32)
    after = np.empty(LANES, np.float32)
    for start in range(0, patterns.size, SPAN):
        stop = min(start + SPAN, patterns.size)
        row, mask = patterns[start:stop], kept[start:stop]
        count = _fold_both(row, mask, before, after)
        for i in range(count):
            lanes[0, 0, i] += np.float64(before[i])
            lanes[0, 1, i] += np.float64(after[i])
        for i in range(4 * count, row.size):
            size = np.float64(_as_float(row[i]))
            lanes[0, 0, i - 4 * count] += size
            lanes[0, 1, i - 4 * count] += size if mask[i] != 0 else 0.0
    _add_lanes(lanes, sums)


@njit(nogil=True, cache=True)
def _pack(kept, bits):
    words = kept.view(np.uint64)
    for i in range(words.size):
        bits[i] = np.uint8((words[i] * _GATHER) >> np.uint64(56))


@njit(nogil=True, cache=True)
def _unpack(bits, bytes_of, kept):
    words = kept.view(np.uint64)
    for i in range(words.size):
        words[i] = bytes_of[bits[i]]


@njit(nogil=True, cache=True)
def _keep_block(found, n, columns, lo, keys, ranked, limits, per_draw, kept, sums, bits):
    patterns, ordered = found
    for k in range(ranked.size):
        if ranked[k]:
            _keep_ranked(
                patterns[k, :n], ordered[k, :n], columns, lo, keys[k], limits[k, 0], limits[k, 1],
                per_draw[k], kept[k, :n],
            )  # fmt: skip
        kept[k, n:] = 0
        _add_both(patterns[k, :n], kept[k, :n], sums[k : k + 1])
        _pack(kept[k], bits[k])
        if not ranked[k]:
            kept[k, n:] = kept[k, 0]


@njit(nogil=True, cache=True)
def _ranked_to_file(
    source, own_target, rule, masks, weights, elect, normalize, divisor, factor, first, last,
    words, goal, at,
):  # fmt: skip
    numbers = words.view(np.uint16)
    rows = source[2]
    bits, stride, bytes_of, kept = masks
    lo = first
    while lo < last:
        number = lo // stride
        n = min((number + 1) * stride, last) - lo
        if not read_run(source, lo, n):
            return False
        for k in range(kept.shape[0]):
            _unpack(bits[number, k], bytes_of, kept[k])
        base = rows[0, :n]
        target = rows[rows.shape[0] - 1, :n] if own_target else base
        words[n // 4 :] = 0
        _sum_bf16(
            target, base, rows[1:], lo, rule, kept, lo - number * stride, weights, elect,
            normalize, divisor, factor, numbers[:n],
        )  # fmt: skip
        if _broken(words):
            return False
        if not _write(goal, at + 2 * (lo - first), words.ctypes.data, 2 * n):
            return False
        lo += n
    return True
