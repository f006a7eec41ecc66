"""Curves of a coefficient sweep, and the setting it recommends.

The rule: of the settings at which no control (and nothing the target could do) lost more than three
points, the one whose weakest ability keeps most. What an ability keeps is the share of its vector's
own gain that is left (``table.kept_share``); for a vector that is taken away, the share of the way
from the target down to chance, and as much less as it went beyond: there answers are turned round.
Of equals the one with the smaller coefficients wins. Where every
setting costs more than those three points, the one that costs least is named, and the result says
so.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from .significance import share_of
from .table import CONTROL, TARGET, TERM, Ability, Scores, as_data, kept_share

CONTROL_LOSS = 0.03

Setting = Sequence[Decimal]


def curves_of(abilities: Sequence[Ability], settings: Sequence[str], scores: Scores) -> list[Any]:
    """For each ability its scores along ``settings`` (keys of models), with target and alone."""
    curves = []
    for ability in abilities:
        weights = ability.probe.weights

        def score(model: str, key: str = ability.key, weights: list[int] = weights) -> Any:
            found = scores.get((key, model))
            return as_data(share_of(found, weights)) if found is not None else None

        curves.append(
            {
                "key": ability.key,
                "name": ability.probe.name,
                "metric": ability.probe.metric,
                "role": ability.role,
                "of": ability.of,
                "n": len(ability.probe.items),
                "chance": ability.probe.chance,
                "target": score("target"),
                "alone": score(ability.alone) if ability.alone else None,
                "points": [score(model) for model in settings],
                "kept": [_kept(ability, model, scores) for model in settings],
            }
        )
    return curves


def best_of(
    abilities: Sequence[Ability], settings: Sequence[Setting], keys: Sequence[str], scores: Scores
) -> dict[str, Any] | None:
    """Index of the recommended setting and why; None where nothing can be compared."""
    candidates = []
    for index, key in enumerate(keys):
        kept = [_kept(each, key, scores) for each in abilities if each.role == TERM]
        shares = [share for share in kept if share is not None]
        if shares:
            loss = max((_loss(each, key, scores) for each in abilities), default=0.0)
            candidates.append((index, min(shares), loss))
    if not candidates:
        return None
    allowed = [each for each in candidates if each[2] <= CONTROL_LOSS + 1e-9]

    def size(index: int) -> Decimal:
        return sum((abs(c) for c in settings[index]), Decimal(0))

    if allowed:
        index, weakest, loss = min(allowed, key=lambda each: (-each[1], size(each[0])))
    else:
        index, weakest, loss = min(candidates, key=lambda each: (each[2], -each[1], size(each[0])))
    return {
        "index": index,
        "weakest": round(weakest, 4),
        "control_loss": round(loss, 4),
        "within": bool(allowed),
    }


def _kept(ability: Ability, model: str, scores: Scores) -> float | None:
    """How far this setting went the way the recipe wants this ability to go; at most 1."""
    target = scores.get((ability.key, "target"))
    now = scores.get((ability.key, model))
    if ability.role != TERM or target is None or now is None or ability.coefficient is None:
        return None
    weights = ability.probe.weights
    if ability.coefficient > 0:
        found = kept_share(target, scores.get((ability.key, ability.alone)), now, weights)
        return None if found is None else min(1.0, found)
    floor = (ability.probe.chance or 0.0) * sum(weights)
    if sum(target) <= floor:
        return None
    way = (sum(target) - sum(now)) / (sum(target) - floor)
    return round(1 - abs(1 - way), 4)


def _loss(ability: Ability, model: str, scores: Scores) -> float:
    """What a control, or what the target itself could do, lost; 0 for every other ability."""
    target, now = scores.get((ability.key, "target")), scores.get((ability.key, model))
    if ability.role not in (CONTROL, TARGET) or target is None or now is None:
        return 0.0
    return (sum(target) - sum(now)) / sum(ability.probe.weights)
