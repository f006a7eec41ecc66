"""Arcee Fusion: the target takes another model's numbers only where the difference matters.

The importance of a number is |θ₁ − θ₀| times the Kullback-Leibler divergence of its row: both rows
as softmax distributions over the last axis. Numbers whose importance reaches median + 1.5 · (third
quartile − first quartile) are the other model's, the rest stays: mergekit's ``arcee_fusion``. The
quartiles are of the whole tensor, exactly; mergekit draws a million numbers at random from larger
ones. The target is mergekit's ``base_model``, the one term the other model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from merging.engine.block import Block
from merging.engine.errors import MergeError, _
from merging.engine.gram import LANES, row_length
from merging.engine.whole import SEGMENT, Whole
from vectors.tensorfile.compiled import njit

from .base import Arguments, Method

EPS = 1e-8  # added to every probability
_MAGIC = 6755399441055744.0  # 1.5 · 2⁵²: added, it leaves a whole number in the low bits
_MAGIC_BITS = np.uint64(0x4338000000000000)
_ONE = np.uint64(1023 << 52)  # the bits of 1.0
_TO_EXPONENT = np.uint64((1023 << 52) - 0x3FE6A09E667F3BCD)  # √½ gets the exponent of 1
_LN2 = 0.6931471805599453
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10


@dataclass(frozen=True)
class Importance:
    """The divergence of every row (float32) and the importance from which numbers are taken."""

    divergence: np.ndarray
    threshold: np.float32


# Exponential and logarithm are spelled out: a library's differ from one processor to the next in
# the last bit, and the divergence is what is left when nearly equal numbers cancel.


@njit(nogil=True, cache=True, error_model="numpy")
def _exp(x, power):
    # x = eˣ for x (n,) from −700 to 0; power (n,) is scratch. e^x = 2^k · e^r with |r| ≤ ln 2 / 2.
    bits = power.view(np.uint64)
    for i in range(x.size):
        value = x[i] if x[i] > -700.0 else -700.0
        power[i] = value * (1 / _LN2) + _MAGIC
        k = power[i] - _MAGIC
        r = value - k * _LN2_HIGH - k * _LN2_LOW
        s = 1 / 39916800 + r * (1 / 479001600 + r * (1 / 6227020800))
        s = 1 / 40320 + r * (1 / 362880 + r * (1 / 3628800 + r * s))
        s = 1 / 120 + r * (1 / 720 + r * (1 / 5040 + r * s))
        x[i] = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * s))))
    for i in range(x.size):
        bits[i] = (bits[i] + np.uint64(1023)) << np.uint64(52)
    for i in range(x.size):
        x[i] = x[i] * power[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _log(x, power):
    # x = ln x for positive x (n,); power (n,) is scratch. x = 2^e · m with m from √½ to √2.
    bits, whole = x.view(np.uint64), power.view(np.uint64)
    for i in range(x.size):
        e = (bits[i] + _TO_EXPONENT) >> np.uint64(52)
        bits[i] = bits[i] - (e << np.uint64(52)) + _ONE
        whole[i] = e + _MAGIC_BITS
    for i in range(x.size):
        s = (x[i] - 1) / (x[i] + 1)
        z = s * s
        t = 1 / 15 + z * (1 / 17 + z * (1 / 19 + z * (1 / 21 + z * (1 / 23))))
        t = 1 / 7 + z * (1 / 9 + z * (1 / 11 + z * (1 / 13 + z * t)))
        t = 1 + z * (1 / 3 + z * (1 / 5 + z * t))
        x[i] = (power[i] - _MAGIC - 1023) * _LN2 + 2 * s * t


@njit(nogil=True, cache=True, error_model="numpy")
def _total(x):
    # Σ x in lanes of a fixed number, so that no machine adds in another order.
    lanes = np.zeros(LANES, np.float64)
    even = x.size - x.size % LANES
    for start in range(0, even, LANES):
        for lane in range(LANES):
            lanes[lane] += x[start + lane]
    for lane in range(x.size - even):
        lanes[lane] += x[even + lane]
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _softmax(row, out, scratch):
    # out = softmax(row) + EPS, float64.
    highest = row[0]
    for i in range(row.size):
        highest = max(highest, row[i])
    for i in range(row.size):
        out[i] = np.float64(row[i]) - np.float64(highest)
    _exp(out, scratch)
    total = _total(out)
    for i in range(row.size):
        out[i] = out[i] / total + EPS


@njit(nogil=True, cache=True, error_model="numpy")
def _divergences(target, model, width, out):
    # out[row] = Σ p ln(p / q), p and q the softmax of the model's and of the target's row.
    p = np.empty(width, np.float64)
    q = np.empty(width, np.float64)
    scratch = np.empty(width, np.float64)
    for row in range(out.size):
        first = row * width
        _softmax(model[first : first + width], p, scratch)
        _softmax(target[first : first + width], q, scratch)
        for i in range(width):
            q[i] = p[i] / q[i]
        _log(q, scratch)
        for i in range(width):
            q[i] = p[i] * q[i]
        # Less than nothing is rounding: a divergence is not negative. A NaN stays one.
        total = _total(q)
        out[row] = 0.0 if total < 0 else total


@njit(nogil=True, cache=True, error_model="numpy")
def _importances(target, model, divergence, width, lo, out):
    # out[i] = |model − target| · divergence of the row, float32; lo is the first element's place.
    at = 0
    while at < out.size:
        row = (lo + at) // width
        last = min(out.size, (row + 1) * width - lo)
        factor = divergence[row]
        for i in range(at, last):
            out[i] = np.float32(abs(model[i] - target[i])) * factor
        at = last


def prepare(whole: Whole, arguments: Arguments) -> Importance:
    """Divergence of every row and the threshold. Raises MergeError where a number is broken."""
    width = row_length(whole.shape)
    step = max(1, SEGMENT // width) * width
    parts = []
    coarse = np.zeros(2**15, np.int64)
    for block in whole.blocks(step):
        target, model = block.target(), block.model(0)
        if not (np.isfinite(target).all() and np.isfinite(model).all()):
            # It would not reach the result, but spoil the choice among its neighbours.
            raise MergeError(_("`%(tensor)s` holds an infinity or a NaN."), tensor=whole.name)
        found = np.empty(block.size // width)
        _divergences(target, model, width, found)
        parts.append(found.astype(np.float32))
        coarse += np.bincount(_bits(block, parts[-1], width, block.lo) >> 16, minlength=2**15)
    divergence = np.concatenate(parts)
    bits = (_bits(block, divergence, width, 0) for block in whole.blocks(step))
    first, median, third = _quartiles(whole.count, coarse, bits)
    return Importance(divergence, np.float32(median + np.float32(1.5) * (third - first)))


def _quartiles(count: int, coarse: np.ndarray, bits: Iterable[np.ndarray]) -> np.ndarray:
    """The three quartiles (3,), float32, of ``count`` numbers given as ``bits``.

    ``coarse`` (2¹⁵,) says how many of them have the same upper half.
    """
    ranks = [(count - 1) * quarter // 4 for quarter in (1, 2, 3)]
    upper = [int(half) for half in np.searchsorted(np.cumsum(coarse), ranks, side="right")]
    fine = {half: np.zeros(2**16, np.int64) for half in upper}
    for run in bits:
        halves = run >> 16
        for half, counts in fine.items():
            counts += np.bincount(run[halves == half] & 0xFFFF, minlength=2**16)
    found = []
    for rank, half in zip(ranks, upper, strict=True):
        left = rank - int(coarse[:half].sum())
        lower = int(np.searchsorted(np.cumsum(fine[half]), left, side="right"))
        found.append((half << 16) | lower)
    return np.array(found, np.uint32).view(np.float32)


def _bits(block: Block, divergence: np.ndarray, width: int, start: int) -> np.ndarray:
    """Importance of a block as bits, which are in the order of the numbers, (n,) uint32.

    ``divergence`` is of the rows from element ``start`` of the tensor on.
    """
    found = block.work.array("importance", block.size, np.float32)
    _importances(block.target(), block.model(0), divergence, width, block.lo - start, found)
    return found.view(np.uint32)


def combine(block: Block, arguments: Arguments) -> np.ndarray:
    """Merged numbers of one block (n,): each is the target's or the other model's."""
    state: Importance = arguments.state
    width = row_length(arguments.shape)
    bits = _bits(block, state.divergence, width, 0)
    merged = block.target()
    np.copyto(merged, block.model(0), where=bits.view(np.float32) >= state.threshold)
    return merged


ARCEE_FUSION = Method(
    name="arcee_fusion",
    title="Arcee Fusion",
    formula="θ₁ where |θ₁ − θ₀| · KL(softmax θ₁, softmax θ₀) is outstanding, else θ₀",
    help="Takes from another model only the numbers whose change matters most.",
    source="mergekit",
    operates_on="models",
    parameters=(),
    combine=combine,
    prepare=prepare,
    weighted=False,
    minimum_terms=1,
    maximum_terms=1,
)
