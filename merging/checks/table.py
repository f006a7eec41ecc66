"""From scores to words: what an equipped model learned, kept and forgot.

The rule, for each ability, comparing the equipped model with its target on the same items by
McNemar's exact test at 1 % (of a hundred abilities that did not change, one is called changed):

- **learned**: significantly better than the target;
- **kept**: no significant difference, which is no proof that there is none: the row says how far
  apart the two may be;
- **forgotten**: significantly worse;
- **reversed**: significantly worse, and worse than guessing (the whole 95 % interval lies below
  chance): the ability is not gone, its answers are turned round.

``kept_share`` is the part of a vector's own gain that is left in company: (equipped − target) /
(alone − target), where the vector alone is significantly better than the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from merging.engine.recipe import coefficient_text
from vectors.probes import Probe

from .significance import Share, change_of, share_of

ALPHA = 0.01

LEARNED, KEPT, FORGOTTEN, REVERSED = "learned", "kept", "forgotten", "reversed"
TERM, TARGET, CONTROL, ASKED = "term", "target", "control", "asked"

Scores = Mapping[tuple[str, str], Sequence[int]]  # (ability's key, model's key) → scores of items


@dataclass(frozen=True)
class Ability:
    """A probe, whose it is, and what the recipe does with it.

    ``role``: of a vector in the recipe, of the target, a control that nothing should move, or
    asked for beside them. ``alone`` names the model that has the vector alone.
    """

    probe: Probe
    role: str
    of: str
    coefficient: Decimal | None = None
    alone: str = ""

    @property
    def key(self) -> str:
        return self.probe.key


def rows_of(abilities: Sequence[Ability], models: Sequence[str], scores: Scores) -> list[Any]:
    """A row per ability; a score that is missing leaves its place empty."""
    return [_row(ability, models, scores) for ability in abilities]


def _row(ability: Ability, models: Sequence[str], scores: Scores) -> dict[str, Any]:
    probe = ability.probe
    weights = probe.weights
    own = {m: scores[ability.key, m] for m in models if (ability.key, m) in scores}
    row: dict[str, Any] = {
        "key": ability.key,
        "name": probe.name,
        "kind": probe.kind,
        "metric": probe.metric,
        "role": ability.role,
        "of": ability.of,
        "coefficient": _text(ability.coefficient),
        "n": len(probe.items),
        "chance": probe.chance,
        "scores": {m: as_data(share_of(found, weights)) for m, found in own.items()},
    }
    if "target" in own and "equipped" in own:
        row |= compared(own["target"], own["equipped"], weights, probe.chance)
        added = ability.coefficient is not None and ability.coefficient > 0
        alone = own.get(ability.alone) if added else None
        row["kept_share"] = kept_share(own["target"], alone, own["equipped"], weights)
    return row


def _text(coefficient: Decimal | None) -> str | None:
    return None if coefficient is None else coefficient_text(coefficient)


def as_data(share: Share) -> dict[str, Any]:
    """A share as JSON."""
    return {
        "share": round(share.share, 4),
        "low": round(share.low, 4),
        "high": round(share.high, 4),
        "correct": share.correct,
        "of": share.of,
    }


def compared(
    target: Sequence[int], equipped: Sequence[int], weights: Sequence[int], chance: float | None
) -> dict[str, Any]:
    """The change from target to equipped model and the word for it."""
    change = change_of(target, equipped, weights)
    return {
        "change": round(change.change, 4),
        "change_low": round(change.low, 4),
        "change_high": round(change.high, 4),
        "p": change.p,
        "verdict": verdict(target, equipped, weights, chance),
    }


def verdict(
    target: Sequence[int], equipped: Sequence[int], weights: Sequence[int], chance: float | None
) -> str:
    """One of LEARNED, KEPT, FORGOTTEN, REVERSED by the rule above."""
    change = change_of(target, equipped, weights)
    if change.p >= ALPHA:
        return KEPT
    if change.change > 0:
        return LEARNED
    below = chance is not None and share_of(equipped, weights).high < chance
    return REVERSED if below else FORGOTTEN


def kept_share(
    target: Sequence[int],
    alone: Sequence[int] | None,
    equipped: Sequence[int],
    weights: Sequence[int],
) -> float | None:
    """The part of the vector's own gain that is left; None where it has none to speak of."""
    if alone is None or verdict(target, alone, weights, None) != LEARNED:
        return None
    return round((sum(equipped) - sum(target)) / (sum(alone) - sum(target)), 4)


def shape_of(coefficients: Sequence[Decimal]) -> str:
    """Which of the lecture's operations the signs are."""
    added = sum(c > 0 for c in coefficients)
    taken = len(coefficients) - added
    if not taken:
        return "addition" if added > 1 else "one vector"
    if not added:
        return "subtraction"
    return "analogy" if (added, taken) == (2, 1) else "sum"
