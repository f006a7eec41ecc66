"""Sentences about a forecast: what to mind, and where to begin with method and coefficients.

Where the suggestions come from:

- *Addition.* Of the methods tried on checkpoints of language models as they are found, only the
  plain sum gained reliably (arXiv 2511.21437, 4 models × 12 checkpoints × 16 benchmarks). Pairs
  of MiniLM's fine-tunes lose 0.4 points on average at coefficient 1.
- *Four and more.* Of eight fine-tunes of MiniLM the plain sum keeps 64 % of the gain, at 0.4 each;
  TSV-Merge keeps 75 % at λ = 1, 81 % at 1.4 and 90 % at 1.8. That is a small model and full
  fine-tunes, so nothing else is suggested TSV-Merge.
- *Twice the same.* Vectors whose cosine is above 0.5 are averaged; for related ones of one skill,
  above 0.1, half each is where to begin.
- *Analogy*, C + λ(B − A): 0.5 was better than 1 in the small network (.547 against .415) and as
  good as 0.8 in the text family.
- *Forgetting.* At −1 a skill is gone in the text family; below, answers turn to their opposites:
  0.5 of two classes is forgotten, 0.385 is reversed.

Each is a place to begin, for ability checks to move.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vectors.tensorfile.likeness import Verdict

from .errors import _
from .forecast import Forecast, Pair

MANY = 4  # vectors, from which on a plain sum at 1 loses too much
SMALL_MODEL = 10**9  # parameters, up to which TSV-Merge was seen to be better than the sum
ADDITION_RANGE = (0.3, 1.0)
MANY_ADDED = 0.4
MANY_RANGE = (0.3, 0.5)
TSV_LAMBDA = 1.4
TSV_RANGE = (1.0, 2.0)
HALF = 0.5

DOMINANT = 5.0  # times as large as another: a plain sum is then mostly the one
LARGE_RATIO = 0.3  # ‖Δ‖/‖θ‖; fine-tunes lie between a thousandth and a fifth
FEW_CHANGED = 0.5  # a full checkpoint with fewer changed entries may have lost the small ones


@dataclass(frozen=True)
class Note:
    """One sentence: ``code`` says of what kind, ``terms`` of whom."""

    code: str
    template: str
    params: dict[str, Any] = field(default_factory=dict)
    terms: tuple[int, ...] = ()
    warning: bool = False


@dataclass(frozen=True)
class Advice:
    """Where to begin: a method and its λ (None: it has none), coefficients, a range to try."""

    method: str
    lambda_: float | None
    coefficients: tuple[float, ...]
    range: tuple[float, float]
    reasons: tuple[Note, ...]


def advise(forecast: Forecast) -> Advice | None:
    """Where to begin with the forecast's terms; None without any. Signs stay as they are."""
    items = forecast.items
    if not items:
        return None
    if len(items) == 1:
        return _alone(forecast)
    signs = [-1.0 if item.coefficient < 0 else 1.0 for item in items]
    reasons: list[Note] = []
    method, lambda_, size, span = _method(forecast, signs, reasons)
    sizes = [size] * len(items)
    for number, limit, note in _smaller(forecast, signs):
        if limit < sizes[number]:
            sizes[number] = limit
        if note not in reasons:
            reasons.append(note)
    coefficients = tuple(round(s * c, 2) for s, c in zip(signs, sizes, strict=True))
    return Advice(method, lambda_, coefficients, span, tuple(reasons))


def _alone(forecast: Forecast) -> Advice:
    if forecast.items[0].coefficient < 0:
        reason = Note(
            "forget",
            _(
                "At −1 a skill was forgotten in what we measured; below −1 answers turn to their "
                "opposites. Put a control beside it."
            ),
        )
        return Advice("task_arithmetic", 1.0, (-1.0,), ADDITION_RANGE, (reason,))
    reason = Note(
        "alone",
        _("One vector at 1 is what its maker trained. Less keeps more of the model it is put on."),
    )
    return Advice("task_arithmetic", 1.0, (1.0,), ADDITION_RANGE, (reason,))


def _method(
    forecast: Forecast, signs: Sequence[float], reasons: list[Note]
) -> tuple[str, float, float, tuple[float, float]]:
    """Method, λ, coefficient of each term, and the range to try (of λ for TSV-Merge)."""
    items = forecast.items
    if len(items) < MANY:
        reasons.append(
            Note(
                "few",
                _("Two or three vectors: the plain sum, 1 each. Try down to %(low).1f."),
                {"low": ADDITION_RANGE[0]},
            )
        )
        return "task_arithmetic", 1.0, 1.0, ADDITION_RANGE
    whole = all(item.form != "lora" for item in items) and min(signs) > 0
    if whole and forecast.base.parameters < SMALL_MODEL:
        reasons.append(
            Note(
                "many_small",
                _(
                    "%(count)d full fine-tunes of a model below a billion parameters: TSV-Merge "
                    "kept more of eight such vectors than their sum did. Try λ from %(low).1f to "
                    "%(high).1f."
                ),
                {"count": len(items), "low": TSV_RANGE[0], "high": TSV_RANGE[1]},
            )
        )
        return "tsv", TSV_LAMBDA, 1.0, TSV_RANGE
    reasons.append(
        Note(
            "many",
            _(
                "%(count)d vectors: the plain sum at about %(size).1f each. It is what gains most "
                "reliably on large models and adapters; try %(low).1f to %(high).1f."
            ),
            {
                "count": len(items),
                "size": MANY_ADDED,
                "low": MANY_RANGE[0],
                "high": MANY_RANGE[1],
            },
        )
    )
    return "task_arithmetic", 1.0, MANY_ADDED, MANY_RANGE


def _smaller(forecast: Forecast, signs: Sequence[float]) -> Iterator[tuple[int, float, Note]]:
    """Terms that should weigh less for what they have in common: number, at most, why."""
    added = [pair for pair in _term_pairs(forecast) if signs[pair.a] == signs[pair.b]]
    twice = Note("average", _("What is there twice is averaged, so that it counts once."))
    for group in _groups([p for p in added if p.likeness.verdict == Verdict.DUPLICATE]):
        for number in group:
            yield number, 1 / len(group), twice
    half = Note("related", _("Related vectors overlap: about a half each is where to begin."))
    for pair in added:
        if pair.likeness.verdict == Verdict.RELATED:
            yield pair.a, HALF, half
            yield pair.b, HALF, half
    analogy = Note(
        "analogy",
        _(
            "One vector minus a related one is a direction, as in C + λ(B − A): begin with a half "
            "of it, and look at C alone beside it."
        ),
    )
    if len(forecast.items) > 2 or forecast.target is not None:  # something to carry it over to
        for pair in _differences(forecast, signs):
            yield pair.a, HALF, analogy
            yield pair.b, HALF, analogy


def _differences(forecast: Forecast, signs: Sequence[float]) -> list[Pair]:
    """Of each subtracted term the pair with the added one that it is most like, if related."""
    best: dict[int, Pair] = {}
    for pair in _term_pairs(forecast):
        if signs[pair.a] != signs[pair.b] and pair.likeness.verdict == Verdict.RELATED:
            taken = pair.a if signs[pair.a] < 0 else pair.b
            if taken not in best or pair.likeness.cosine > best[taken].likeness.cosine:
                best[taken] = pair
    return list(best.values())


def _groups(pairs: Sequence[Pair]) -> list[set[int]]:
    """Terms joined by ``pairs``, directly or through others."""
    groups: list[set[int]] = []
    for pair in pairs:
        joined = {pair.a, pair.b}
        apart = []
        for group in groups:
            if group & joined:
                joined |= group
            else:
                apart.append(group)
        groups = [*apart, joined]
    return groups


def _term_pairs(forecast: Forecast) -> list[Pair]:
    return [pair for pair in forecast.pairs if pair.a >= 0]


def notes(forecast: Forecast) -> list[Note]:
    """What to mind, warnings first."""
    found = [
        *_about_pairs(forecast),
        *_about_sizes(forecast),
        *_about_terms(forecast),
    ]
    return sorted(found, key=lambda note: not note.warning)


def _about_pairs(forecast: Forecast) -> Iterator[Note]:
    for pair in forecast.pairs:
        one = forecast.target if pair.a < 0 else forecast.items[pair.a]
        other = forecast.items[pair.b]
        assert one is not None
        together = (1.0 if pair.a < 0 else one.coefficient) * other.coefficient
        found = _about_pair(pair.likeness.verdict, together)
        if found is not None:
            code, template, warning = found
            params = {"one": one.label, "other": other.label, "cosine": pair.likeness.cosine}
            yield Note(code, template, params, (pair.a, pair.b), warning)


def _about_pair(verdict: Verdict, together: float) -> tuple[str, str, bool] | None:
    """Code, sentence and whether it warns, of a pair whose coefficients have this product."""
    if together > 0 and verdict == Verdict.CONTRADICTION:
        return (
            "contradiction",
            _(
                "%(one)s and %(other)s pull against each other (cosine %(cosine).2f): their sum is "
                "likely to lose one of them. Look at the layers, or leave one out."
            ),
            True,
        )
    if together > 0 and verdict == Verdict.DUPLICATE:
        return (
            "duplicate",
            _(
                "%(one)s and %(other)s are mostly the same vector (cosine %(cosine).2f): together "
                "they count it twice. Give each about half."
            ),
            True,
        )
    if together < 0 and verdict == Verdict.CONTRADICTION:
        return (
            "reinforces",
            _(
                "%(one)s and %(other)s point against each other (cosine %(cosine).2f): to add the "
                "one and subtract the other goes twice in one direction."
            ),
            False,
        )
    if together < 0 and verdict in (Verdict.DUPLICATE, Verdict.RELATED):
        return (
            "takes_away",
            _(
                "%(one)s and %(other)s point partly the same way (cosine %(cosine).2f): to "
                "subtract one takes away part of the other."
            ),
            False,
        )
    return None


def _about_sizes(forecast: Forecast) -> Iterator[Note]:
    sizes = [
        (abs(item.coefficient) * forecast.norm(number), number)
        for number, item in enumerate(forecast.items)
        if item.sketch is not None and item.coefficient
    ]
    if len(sizes) > 1:
        (small, weak), *_others, (large, strong) = sorted(sizes)
        if large > DOMINANT * small:
            yield Note(
                "dominant",
                _(
                    "With these coefficients %(one)s changes the model %(times).0f times as much "
                    "as %(other)s, which may not be felt."
                ),
                {
                    "one": forecast.items[strong].label,
                    "other": forecast.items[weak].label,
                    "times": large / small,
                },
                (strong, weak),
            )
    if forecast.ratio > LARGE_RATIO:
        yield Note(
            "large",
            _(
                "The sum changes the weights by %(ratio).0f%% of their size; fine-tunes change "
                "them by 0.1 to 20%%. Smaller coefficients are safer."
            ),
            {"ratio": forecast.ratio * 100},
            (),
            True,
        )


def _about_terms(forecast: Forecast) -> Iterator[Note]:
    for number, item in enumerate(forecast.items):
        if item.sketch is None:
            yield Note(
                "unknown",
                _("%(one)s has no sketch yet, so nothing is said of it here."),
                {"one": item.label},
                (number,),
            )
            continue
        if item.coefficient < -1:
            yield Note(
                "reversed",
                _(
                    "%(one)s is subtracted by more than 1: that rather turns answers to their "
                    "opposites than forgets them. Check it beside a control."
                ),
                {"one": item.label},
                (number,),
                True,
            )
        changed = item.sketch.entries_changed / max(1, item.sketch.entries)
        if item.form == "full" and changed < FEW_CHANGED and item.coefficient != 1:
            yield Note(
                "few_changed",
                _(
                    "%(one)s changes %(changed).0f%% of the entries of its tensors. Where a "
                    "16-bit checkpoint lost the smaller changes, other coefficients than 1 carry "
                    "that error along."
                ),
                {"one": item.label, "changed": changed * 100},
                (number,),
            )
