"""Sums that are one of their parts: decided by exact algebra, not by luck of rounding.

With τᵢ = θᵢ − θ a recipe is a formal sum of checkpoints with exact fractions as coefficients. When
all but one cancel and the last has coefficient 1, its bytes are the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .methods import Method, get_method


def single_source(
    method: Method,
    coefficients: Sequence[Fraction],
    values: Mapping[str, Any],
    *,
    target: str,
    foundation: str,
    terms: Sequence[str],
    whole: Collection[str],
) -> str | None:
    """The one of ``target``, ``foundation`` and ``terms`` that the sum is, or None.

    ``whole`` are the names whose own numbers are stored (a LoRA or a delta is only a change).
    """
    if method.linear_weights is None:
        return None
    # Asked tensor by tensor, of which there are thousands, and nearly always the same.
    given = tuple(coefficients), tuple(values.items())
    return _single_source(method.name, *given, target, foundation, tuple(terms), frozenset(whole))


@lru_cache(maxsize=4096)
def _single_source(
    name: str,
    coefficients: tuple[Fraction, ...],
    values: tuple[tuple[str, Any], ...],
    target: str,
    foundation: str,
    terms: tuple[str, ...],
    whole: frozenset[str],
) -> str | None:
    method = get_method(name)
    assert method.linear_weights is not None
    weights = method.linear_weights(coefficients, dict(values))
    if weights is None:
        return None
    total: dict[str, Fraction] = {}

    def add(key: str, amount: Fraction) -> None:
        total[key] = total.get(key, Fraction(0)) + amount

    if method.operates_on == "deltas" or not terms:
        add(target, Fraction(1))
    for term, weight in zip(terms, weights, strict=True):
        stored = term in whole
        add(term if stored else f"delta {term}", weight)
        if method.operates_on == "deltas" and stored:
            add(foundation, -weight)
        elif method.operates_on == "models" and not stored:
            add(foundation, weight)
    left = {key: amount for key, amount in total.items() if amount != 0}
    if len(left) != 1:
        return None
    ((key, amount),) = left.items()
    return key if amount == 1 and key in whole else None
