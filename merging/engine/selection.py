"""The k-th largest magnitude of a tensor, exactly, in one pass and a few megabytes.

A sample of the tensor says where the threshold must lie: between ``low`` and ``high``, two
numbers of the sample. One pass over the tensor counts, for every question at once, what is above
and at these two, and collects the few numbers strictly between them; the threshold is one of the
two or one of the collected. Numbers that many entries share (differences of 16-bit numbers take
few values) cannot fill the collection: what is that frequent ends up as ``low`` or ``high``, which
are only counted. Where the sample misled, which hardly ever happens, two more passes find the
threshold digit by digit. The sample decides how fast the answer comes, never what it is.

Magnitudes are compared as bit patterns, which order like the numbers; NaN is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vectors.tensorfile.compiled import njit

from .block import Block
from .gather import Stored, read_run
from .kernels import RUN, _as_bits, _as_float
from .whole import SEGMENT, Whole

Rows = Callable[[Block], np.ndarray]

CHUNK = 1024  # elements that are sampled together
CHUNKS = 16  # at least
PER_CHUNK = 2**20  # elements of a large tensor that one chunk stands for
SPREADS = 4.0  # standard errors between the sample's quantile and the ends of the interval
MAX_COLLECTED = 2**22  # numbers a question may collect
DIGIT = 16  # bits that one pass over the tensor finds where the sample misled
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Question:
    """Which magnitude of the row ``row`` is the ``rank``-th largest (from 1)?"""

    row: int
    rank: int


@dataclass(frozen=True)
class Threshold:
    """The answer: a magnitude, how many entries are above it, and how many are equal to it."""

    value: float
    above: int
    equal: int


def deltas(block: Block) -> np.ndarray:
    """The rows that are asked about unless said otherwise: τ of the terms in ``block.terms``."""
    return block.deltas()


def thresholds(whole: Whole, questions: Sequence[Question], rows: Rows = deltas) -> list[Threshold]:
    """The answers in the order of ``questions``.

    ``rows(block)`` gives the numbers (R, n) of a block. Ranks are from 1 to ``whole.count``.
    """
    if not questions:
        return []
    if whole.count <= SEGMENT:
        found = _patterns(rows(whole.block(0, whole.count)))
        return [_threshold(*_kth(found[q.row], q.rank), whole.dtype) for q in questions]
    stored = whole.stored() if rows is deltas else None
    expected = _predict(whole, questions, rows, stored)
    tally = _Tally(questions, *expected)
    if stored is None or not tally.add_stored(stored, whole.count):
        tally = _Tally(questions, *expected)
        for block in whole.blocks(2 * SEGMENT):
            tally.add(block, rows)
    answers = [tally.answer(q) for q in range(len(questions))]
    missed = [q for q, answer in enumerate(answers) if answer is None]
    if missed:
        exact = _by_digits(whole, [questions[q] for q in missed], rows)
        for q, answer in zip(missed, exact, strict=True):
            answers[q] = answer
    return [_threshold(*answer, whole.dtype) for answer in answers if answer is not None]


def _threshold(pattern: Any, above: int, equal: int, dtype: Any) -> Threshold:
    value = np.array(pattern, _pattern_type(dtype)).view(dtype)
    return Threshold(float(value), int(above), int(equal))


def _pattern_type(dtype: Any) -> Any:
    return np.uint32 if np.dtype(dtype) == np.float32 else np.uint64


def _patterns(numbers: np.ndarray) -> np.ndarray:
    """The bit patterns of the magnitudes."""
    return np.abs(numbers).view(_pattern_type(numbers.dtype))


def _kth(patterns: np.ndarray, rank: int) -> tuple[Any, int, int]:
    """The ``rank``-th largest of ``patterns``, how many are above it, how many equal to it."""
    at = patterns.size - rank
    found = np.partition(patterns, at)[at]
    return found, int(np.sum(patterns > found)), int(np.sum(patterns == found))


def _predict(
    whole: Whole, questions: Sequence[Question], rows: Rows, stored: Stored | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Two patterns for each question, and how many entries to expect between them, at most."""
    chunks = max(CHUNKS, whole.count // PER_CHUNK)
    # Steps of the golden ratio: evenly spread, and in step with no length of rows.
    starts = [int(math.modf(c * _GOLDEN)[0] * (whole.count - CHUNK)) for c in range(chunks)]
    sample = _sample_of(stored, np.array(starts)) if stored is not None else None
    if sample is None:
        sample = np.stack([_patterns(rows(whole.block(at, at + CHUNK))) for at in starts], axis=1)
    ordered = np.sort(sample.reshape(len(sample), -1), axis=1)
    low, high = np.empty((2, len(questions)), sample.dtype)
    size = chunks * CHUNK
    widest = 0.0
    for q, question in enumerate(questions):
        share = question.rank / whole.count
        middle = min(max(round((1 - share) * size), 0), size - 1)
        guess = ordered[question.row, middle]
        above = np.count_nonzero(sample[question.row] > guess, axis=1) / CHUNK
        # Chunks differ more than chance alone would have it: rows have scales of their own.
        spread = max(float(np.std(above)), math.sqrt(share * (1 - share) / CHUNK))
        half = int((SPREADS * spread / math.sqrt(chunks)) * size) + 2
        ends = max(middle - half, 0), min(middle + half, size - 1)
        low[q], high[q] = ordered[question.row, list(ends)]
        widest = max(widest, (ends[1] - ends[0]) / size)
    expected = int(1.5 * widest * whole.count) + 4 * RUN
    return low, high, min(expected, MAX_COLLECTED)


def _sample_of(stored: Stored, starts: np.ndarray) -> np.ndarray | None:
    """The patterns (K, chunks, CHUNK) of chunks of every term; None where a file ends early."""
    sample = np.empty((len(stored.files) - 1, len(starts), CHUNK), np.uint32)
    return sample if _sample_stored(stored.source, starts, sample) else None


class _Tally:
    """Counts around an interval for each question, and the numbers inside it."""

    def __init__(
        self, questions: Sequence[Question], low: np.ndarray, high: np.ndarray, room: int
    ) -> None:
        self.ranks = [question.rank for question in questions]
        self.rows = np.array([question.row for question in questions])
        self.low, self.high = low, high
        self.first = low + low.dtype.type(1)
        self.width = np.where(high > low, high - low - low.dtype.type(1), low.dtype.type(0))
        self.counts = np.zeros((len(questions), 4), np.int64)
        self.inside = np.empty((len(questions), room), low.dtype)
        self.filled = np.zeros(len(questions), np.int64)

    @property
    def _goal(self) -> tuple[np.ndarray, ...]:
        return (self.rows, self.low, self.high, self.first, self.width,
                self.counts, self.inside, self.filled)  # fmt: skip

    def add(self, block: Block, rows: Rows) -> None:
        """Take in one block."""
        raw = block.raw_differences() if rows is deltas else None
        if raw is not None:
            _tally_bf16(raw[1], raw[2], *self._goal)
        else:
            _tally_rows(_patterns(rows(block)), *self._goal)

    def add_stored(self, stored: Stored, count: int) -> bool:
        """Take in the whole tensor in one call; False where a file ends early: then begin anew."""
        return bool(_tally_stored(stored.source, count, *self._goal))

    def answer(self, q: int) -> tuple[Any, int, int] | None:
        """The pattern asked for, how many are above and equal; None: the interval does not tell."""
        above_high, from_high, above_low, from_low = self.counts[q]
        rank, filled = self.ranks[q], self.filled[q]
        if above_high < rank <= from_high:
            return self.high[q], above_high, from_high - above_high
        if above_low < rank <= from_low:
            return self.low[q], above_low, from_low - above_low
        if from_high < rank <= above_low and filled == above_low - from_high:
            found, above, equal = _kth(self.inside[q, :filled], int(rank - from_high))
            return found, from_high + above, equal
        return None


def _by_digits(
    whole: Whole, questions: Sequence[Question], rows: Rows
) -> list[tuple[int, int, int]]:
    """The answers, 16 bits in each pass."""
    bits = np.dtype(_pattern_type(whole.dtype)).itemsize * 8
    prefixes = [0] * len(questions)
    above = [0] * len(questions)
    equal = [0] * len(questions)
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts = np.zeros((len(questions), 2**DIGIT), np.int64)
        for block in whole.blocks():
            leading = _patterns(rows(block)) >> shift
            for q, question in enumerate(questions):
                row = leading[question.row]
                meant = row[row >> DIGIT == prefixes[q]] & (2**DIGIT - 1)
                counts[q] += np.bincount(meant.astype(np.int64), minlength=2**DIGIT)
        for q, question in enumerate(questions):
            from_top = np.cumsum(counts[q][::-1])
            place = int(np.searchsorted(from_top, question.rank - above[q]))
            equal[q] = int(counts[q][2**DIGIT - 1 - place])
            above[q] += int(from_top[place]) - equal[q]
            prefixes[q] = prefixes[q] << DIGIT | (2**DIGIT - 1 - place)
    return list(zip(prefixes, above, equal, strict=True))


@njit(nogil=True, cache=True)
def _count_run(run, low, high, counts):
    # How many are above high, at least high, above low, at least low.
    a, b, c, d = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    for i in range(run.size):
        x = run[i]
        a = np.int32(a + np.int32(x > high))
        b = np.int32(b + np.int32(x >= high))
        c = np.int32(c + np.int32(x > low))
        d = np.int32(d + np.int32(x >= low))
    counts[0] += a
    counts[1] += b
    counts[2] += c
    counts[3] += d
    return c - b


@njit(nogil=True, cache=True)
def _collect_run(run, first, width, inside):
    # Writes every number and steps on only behind those inside: no branch to mispredict.
    filled = 0
    for i in range(run.size):
        x = run[i]
        inside[filled] = x
        filled += 1 if (x - first) < width else 0
    return filled


@njit(nogil=True, cache=True)
def _take_run(run, low, high, first, width, counts, inside, filled):
    if _count_run(run, low, high, counts) <= 0 or filled < 0:
        return filled
    if filled + run.size >= inside.size:
        return -1  # more than was expected: the answer will miss them
    return filled + _collect_run(run, first, width, inside[filled:])


@njit(nogil=True, cache=True)
def _tally_rows(patterns, rows, low, high, first, width, counts, inside, filled):
    for start in range(0, patterns.shape[1], RUN):
        stop = min(start + RUN, patterns.shape[1])
        for q in range(rows.size):
            run = patterns[rows[q], start:stop]
            filled[q] = _take_run(
                run, low[q], high[q], first[q], width[q], counts[q], inside[q], filled[q]
            )


@njit(nogil=True, cache=True)
def _magnitudes_bf16(tuned, base, out):
    for i in range(out.size):
        fine = _as_float(np.uint32(tuned[i]) << np.uint32(16))
        theta = _as_float(np.uint32(base[i]) << np.uint32(16))
        out[i] = _as_bits(np.float32(fine - theta)) & np.uint32(0x7FFFFFFF)


@njit(nogil=True, cache=True)
def _tally_bf16(base, tuned, rows, low, high, first, width, counts, inside, filled):
    buffer = np.empty(RUN, np.uint32)
    for start in range(0, base.size, RUN):
        stop = min(start + RUN, base.size)
        run = buffer[: stop - start]
        held = -1
        for q in range(rows.size):
            if rows[q] != held:
                held = rows[q]
                _magnitudes_bf16(tuned[held, start:stop], base[start:stop], run)
            filled[q] = _take_run(
                run, low[q], high[q], first[q], width[q], counts[q], inside[q], filled[q]
            )


@njit(nogil=True, cache=True)
def _tally_stored(source, count, rows, low, high, first, width, counts, inside, filled):
    # The foundation and the fine-tunes, run by run.
    stored = source[2]
    for lo in range(0, count, stored.shape[1]):
        n = min(stored.shape[1], count - lo)
        if not read_run(source, lo, n):
            return False
        _tally_bf16(
            stored[0, :n], stored[1:], rows, low, high, first, width, counts, inside, filled
        )
    return True


@njit(nogil=True, cache=True)
def _sample_stored(source, starts, sample):
    stored = source[2]
    for chunk in range(starts.size):
        if not read_run(source, starts[chunk], CHUNK):
            return False
        for k in range(sample.shape[0]):
            _magnitudes_bf16(stored[k + 1, :CHUNK], stored[0, :CHUNK], sample[k, chunk])
    return True
