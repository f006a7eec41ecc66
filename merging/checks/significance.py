"""Shares, their intervals, and whether two models differ on the same items.

Most probes score an item 0 or 1: Wilson's interval for a share, McNemar's exact test and the
interval of Agresti and Min for the difference of two. Where an item is worth several points (the
words of a transcript) the same questions are answered by drawing items again and by flipping signs,
with a fixed seed: the same scores always give the same numbers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from vectors.intervals import Z95, wilson

DRAWS = 2_000
SEED = 7


@dataclass(frozen=True)
class Share:
    """What a model got right: ``correct`` of ``of``, with a 95 % interval."""

    correct: int
    of: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.correct / self.of


@dataclass(frozen=True)
class Change:
    """The second model less the first, on the same items."""

    change: float
    low: float
    high: float
    p: float


def share_of(scores: Sequence[int], weights: Sequence[int]) -> Share:
    """The share of all points that ``scores`` are; item i is worth ``weights[i]``."""
    correct, of = sum(scores), sum(weights)
    if max(weights) == 1:
        low, high = wilson(correct / of, of)
    else:
        low, high = _middle(_draw(scores, weights))
    return Share(correct, of, low, high)


def change_of(before: Sequence[int], after: Sequence[int], weights: Sequence[int]) -> Change:
    """How ``after`` differs from ``before``, item by item."""
    gains = [b - a for a, b in zip(before, after, strict=True)]
    change = sum(gains) / sum(weights)
    if max(weights) == 1:
        won, lost = gains.count(1), gains.count(-1)
        low, high = _agresti_min(won, lost, len(gains))
        return Change(change, low, high, mcnemar(won, lost))
    low, high = _middle(_draw(gains, weights))
    return Change(change, low, high, _flipped(gains))


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p that so uneven a split of the ``won + lost`` changed items is chance."""
    n, term, total = won + lost, 1, 0
    for k in range(min(won, lost) + 1):
        total += term
        term = term * (n - k) // (k + 1)
    # Exact integers until here: 2**n of a long list is no float.
    return min(1.0, math.exp(math.log(2 * total) - n * math.log(2)))


def _agresti_min(won: int, lost: int, n: int) -> tuple[float, float]:
    won_, lost_, n_ = won + 0.5, lost + 0.5, n + 2
    middle = (won_ - lost_) / n_
    spread = Z95 * math.sqrt(won_ + lost_ - (won_ - lost_) ** 2 / n_) / n_
    return max(-1.0, middle - spread), min(1.0, middle + spread)


def _draw(scores: Sequence[int], weights: Sequence[int]) -> list[float]:
    draw = random.Random(SEED)
    places = range(len(scores))
    found = []
    for _ in range(DRAWS):
        chosen = draw.choices(places, k=len(scores))
        found.append(sum(scores[i] for i in chosen) / sum(weights[i] for i in chosen))
    return sorted(found)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of sorted values."""
    cut = len(values) // 40
    return values[cut], values[-cut - 1]


def _flipped(gains: Sequence[int]) -> float:
    draw = random.Random(SEED)
    moved = [gain for gain in gains if gain]
    seen = abs(sum(moved))
    as_far = sum(
        abs(sum(gain if draw.random() < 0.5 else -gain for gain in moved)) >= seen
        for _ in range(DRAWS)
    )
    return (as_far + 1) / (DRAWS + 1)
