"""The sketch of a task vector: a small sample that says how two vectors lie to each other.

All vectors of one foundation are sampled at the same places. A tensor has up to ``MARKS``
candidate places, one in each of as many equal stretches, and an order of them; both follow from
the foundation's fingerprint and the tensor's name alone. A vector keeps a first part of each
order, so two of them share the shorter of both parts. How long it is depends on the vector: half
of ``VALUES`` is dealt out by the size of the tensors it changes, half by their share of ‖τ‖², and
each gets ``FLOOR``. A tensor it leaves alone costs nothing, and one that holds most of the change
is never left to a handful of places. What is counted at k places of a tensor of n entries stands
for n/k times as much (`vectors.tensorfile.likeness`).

At the first places of a tensor the values are kept, and at ``FINER`` times as many two marks:
negative, and *large* (among the fifth of the vector's changed entries that is largest). Signs of
large entries are rare, four or five in a hundred places where two vectors meet, and cheap.

The pass that inspects an upload fills a ``Sketcher``; ``Sketch.to_bytes`` is the stored form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .compiled import njit
from .numbers import product_square
from .sketch_format import FINER, Sketch, pack

VALUES = 65_536
MARKS = VALUES * FINER
FLOOR = 8
LARGE_SHARE = 0.2  # TIES keeps the same fifth; its sign conflict is what tells (arXiv 2306.01708)

# Magnitudes are counted in half octaves, [1, 1.5) and [1.5, 2) times a power of two; the first
# and the last bin hold what lies beyond.
BINS = 2 * 160
FIRST_EXPONENT = -140


@dataclass
class _Sampled:
    """One tensor: what was counted of it, and its values at its places, by the order's keys."""

    name: str
    count: int
    square: float
    changed: int
    order: np.ndarray
    values: np.ndarray

    def keep_first(self, many: int) -> None:
        """Let go of all places but the first ``many`` of the order."""
        if many < len(self.order):
            first = _first(self.order, many)
            self.order, self.values = self.order[first], self.values[first]


@dataclass
class _Totals:
    """Of the tensors seen so far: how many, their entries, their Σδ²."""

    tensors: int = 0
    count: int = 0
    square: float = 0.0


class TensorSampler:
    """Takes one tensor's delta, block by block or as two factors; made by ``Sketcher.begin``."""

    def __init__(self, seed: int, name: str, count: int, sketcher: Sketcher) -> None:
        self.name, self.count = name, count
        self.square, self.changed = 0.0, 0
        self.places, self.order = places_of(seed, count)
        self.values = np.zeros(len(self.places), np.float32)
        self._sketcher = sketcher

    def block(self, start: int, delta: np.ndarray) -> None:
        """The entries from ``start`` on, float64; entries beyond the foundation's do not count."""
        delta = delta[: max(0, self.count - start)]
        square, changed = _square(delta)
        self.square += square
        self.changed += changed
        first, stop = np.searchsorted(self.places, (start, start + delta.size))
        self.values[first:stop] = delta[self.places[first:stop] - start]

    def factors(self, left: np.ndarray, right: np.ndarray, scale: float) -> None:
        """δ = scale · left (rows, r) · right (r, columns), without forming it.

        Its norm is exact; it is taken to change every entry.
        """
        self.square = product_square(left, right) * scale**2
        if not self.square > 0:
            return
        self.changed = self.count
        many = self._sketcher.room(self.count, self.square)
        if many < len(self.order):  # the others would be let go of at the end
            first = _first(self.order, many)
            self.places, self.order = self.places[first], self.order[first]
        rows, columns = np.divmod(self.places, right.shape[1])
        numbers = np.empty(len(self.places))
        turned = np.ascontiguousarray(right.T)
        _at_places(np.ascontiguousarray(left), turned, rows, columns, scale, numbers)
        self.values = numbers.astype(np.float32)


class Sketcher:
    """Collects the sketch of one vector of ``foundation`` (a fingerprint), tensor by tensor."""

    def __init__(self, foundation: str) -> None:
        self._foundation = foundation
        self._tensors: list[_Sampled] = []
        self._totals = _Totals()
        self._held = 0

    def begin(self, name: str, count: int) -> TensorSampler:
        """A sampler for the foundation's tensor ``name`` of ``count`` entries."""
        return TensorSampler(tensor_seed(self._foundation, name), name, count, self)

    def end(self, sampler: TensorSampler) -> None:
        """Keep what ``sampler`` took; a tensor without change is forgotten."""
        if not 0 < sampler.square < np.inf:
            return
        self._totals.tensors += 1
        self._totals.count += sampler.count
        self._totals.square += sampler.square
        self._tensors.append(
            _Sampled(
                sampler.name,
                sampler.count,
                sampler.square,
                sampler.changed,
                sampler.order,
                sampler.values,
            )
        )
        self._held += len(sampler.values)
        if self._held > 4 * MARKS:
            self._trim()

    def room(self, count: int, square: float) -> int:
        """How many places a tensor that comes next can keep at most: shares only shrink."""
        seen = self._totals
        return _marks_of(
            _allotted(count, square, seen.tensors + 1, seen.count + count, seen.square + square),
            count,
        )

    def finish(self) -> Sketch:
        """The sketch of everything taken so far."""
        self._trim()
        tensors = sorted(self._tensors, key=lambda each: each.name)
        for each in tensors:
            ordered = np.argsort(each.order, kind="stable")
            each.order, each.values = each.order[ordered], each.values[ordered]
        return pack(
            foundation=self._foundation,
            names=[each.name for each in tensors],
            counts=[each.count for each in tensors],
            changed=[each.changed for each in tensors],
            squares=[each.square for each in tensors],
            kept=[self._kept(each) for each in tensors],
            sampled=[each.values for each in tensors],
            threshold=_threshold(tensors),
            histogram=_histogram(tensors),
        )

    def _kept(self, tensor: _Sampled) -> int:
        seen = self._totals
        return _allotted(tensor.count, tensor.square, seen.tensors, seen.count, seen.square)

    def _trim(self) -> None:
        for each in self._tensors:
            each.keep_first(_marks_of(self._kept(each), each.count))
        self._held = sum(len(each.values) for each in self._tensors)


def _allotted(
    count: int, square: float, tensors: int, total_count: int, total_square: float
) -> int:
    """How many values one of ``tensors`` changed tensors keeps; about ``VALUES`` in all.

    Half goes by size, half by ‖τ‖². For two vectors with shares s and s' of ‖τ‖² the variance of
    the cosine is then at most Σ max(s, s') · 2 / VALUES, however oddly the change is spread.
    """
    floor = FLOOR if 2 * FLOOR * tensors <= VALUES else 1
    share = count / total_count / 2 + square / total_square / 2
    return min(count, floor + int(max(0, VALUES - floor * tensors) * share))


def _marks_of(kept: int, count: int) -> int:
    return min(kept * FINER, count)


def _first(order: np.ndarray, many: int) -> np.ndarray:
    """Where the ``many`` smallest of ``order`` are, ascending."""
    first = np.argpartition(order, many - 1)[:many]
    first.sort()
    return first


def tensor_seed(foundation: str, name: str) -> int:
    """The key of a tensor's places."""
    digest = hashlib.sha256(f"armory sketch 1\0{foundation}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def places_of(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidate places of a tensor of ``count`` entries, ascending, and the order's key of each.

    The places with the smallest keys come first in the order.
    """
    many = min(count, MARKS)
    places, order = np.empty(many, np.int64), np.empty(many, np.uint64)
    _places(np.uint64(seed), count, places, order)
    return places, order


def _threshold(tensors: list[_Sampled]) -> float:
    """The magnitude that ``LARGE_SHARE`` of the changed entries reach, as the sample has it."""
    if not tensors:
        return 0.0
    sizes = np.concatenate([np.abs(each.values) for each in tensors])
    weights = np.concatenate(
        [np.full(len(each.values), each.count / len(each.values)) for each in tensors]
    )
    weights[sizes == 0] = 0
    ordered = np.argsort(-sizes, kind="stable")
    reached = np.cumsum(weights[ordered])
    if not reached[-1] > 0:
        return 0.0
    return float(sizes[ordered[np.searchsorted(reached, LARGE_SHARE * reached[-1])]])


def _histogram(tensors: list[_Sampled]) -> dict[str, Any]:
    """Changed entries by magnitude, as the sample has them: ``first`` is log₂ of the first bin."""
    bins = np.zeros(BINS)
    for each in tensors:
        mantissas, exponents = np.frexp(np.abs(each.values[each.values != 0]).astype(np.float64))
        # A mantissa is in [0.5, 1): the upper half octave begins at 0.75.
        at = 2 * (exponents - 1 - FIRST_EXPONENT) + (mantissas >= 0.75)
        found = np.bincount(np.clip(at, 0, BINS - 1), minlength=BINS)
        bins += found * (each.count / len(each.values))
    counts = np.rint(bins).astype(np.int64)
    used = np.flatnonzero(counts)
    first, stop = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return {"first": FIRST_EXPONENT + first / 2, "counts": counts[first:stop].tolist()}


@njit(nogil=True, cache=True)
def _mix(x):
    # The finaliser of SplitMix64: every bit of the result depends on every bit of x.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _places(seed, count, places, order):
    step = np.uint64(0x9E3779B97F4A7C15)
    many = places.size
    state = seed
    low = 0
    for j in range(many):
        high = (j + 1) * count // many
        state += step
        within = (_mix(state) >> np.uint64(32)) * np.uint64(high - low)
        places[j] = low + np.int64(within >> np.uint64(32))
        state += step
        order[j] = _mix(state)
        low = high


@njit(nogil=True, cache=True)
def _square(delta):
    # Σδ², and how many δ ≠ 0.
    square = 0.0
    changed = 0
    for i in range(delta.size):
        square += delta[i] * delta[i]
        changed += delta[i] != 0.0
    return square, changed


@njit(nogil=True, cache=True)
def _at_places(left, right, rows, columns, scale, out):
    for i in range(rows.size):
        a, b = left[rows[i]], right[columns[i]]
        total = 0.0
        for k in range(a.size):
            total += a[k] * b[k]
        out[i] = total * scale
