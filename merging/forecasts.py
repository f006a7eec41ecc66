"""The forecast of a recipe-to-be, from rows: who may ask, and plain data for a page or the API."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext

from merging.engine.advice import Advice, Note, advise, notes
from merging.engine.errors import RecipeError, _
from merging.engine.forecast import Base, Forecast, Item, Pair, forecast
from merging.naming import check_fits
from vectors.access import may_see
from vectors.models import Foundation, Sketch, Version
from vectors.sketches import read_sketches
from vectors.tensorfile import sketch_format
from vectors.tensorfile.likeness import NAMES

DIGITS = 4


def forecast_recipe(
    *,
    foundation: Foundation,
    terms: Sequence[tuple[Version, Decimal]],
    target: Version | None = None,
    user: Any,
) -> dict[str, Any]:
    """What can be said of ``terms`` on ``foundation``, or on ``target``, before equipping.

    A forecast needs only what may be seen, so that it can be had before a vector is bought. Load
    the versions with their vectors: then it is one query. Raises RecipeError when a vector is not
    the user's to see, or of another foundation.
    """
    for version in [each for each, _c in terms] + ([target] if target else []):
        _check(version, foundation, user)
    items, onto = _items(terms, target)
    found = forecast(items, _base(foundation), onto)
    return _as_data(found, advise(found), notes(found))


def _check(version: Version, foundation: Foundation, user: Any) -> None:
    if version.vector is None or not may_see(user, version):
        raise RecipeError(_("There is no such vector here."))
    check_fits(version, foundation)


def _items(
    terms: Sequence[tuple[Version, Decimal]], target: Version | None
) -> tuple[list[Item], Item | None]:
    versions = {version.pk for version, _c in terms} | ({target.pk} if target else set())
    blobs = dict(
        Sketch.objects.filter(version__in=versions, format=sketch_format.VERSION).values_list(
            "version", "blob"
        )
    )
    sketches = read_sketches(blobs.values())

    def item(version: Version, coefficient: float = 1.0) -> Item:
        sketch = sketches.get(blobs.get(version.pk, ""))
        return Item(str(version.vector), version.form, sketch, coefficient)

    items = [item(version, float(coefficient)) for version, coefficient in terms]
    return items, item(target) if target else None


def _base(foundation: Foundation) -> Base:
    squares = {name: square for name, (_dtype, _shape, square) in foundation.manifest.items()}
    return Base(squares, foundation.parameters)


def _as_data(found: Forecast, advice: Advice | None, said: Sequence[Note]) -> dict[str, Any]:
    """Numbers, lists and sentences in the reader's language.

    ``ratio`` of other coefficients c is √(cᵀ·gram·c) / base_norm.
    """
    return {
        "base_norm": found.base.norm,
        "gram": found.gram.tolist(),
        "ratio": found.ratio,
        "layers": list(found.layers),
        "sum": list(found.strip),
        "terms": [_term(found, number) for number in range(len(found.items))],
        "pairs": [_pair(pair) for pair in found.pairs],
        "advice": _advice(advice) if advice else None,
        "notes": [_note(note) for note in said],
    }


def _term(found: Forecast, number: int) -> dict[str, Any]:
    item = found.items[number]
    norm, sketch = found.norm(number), item.sketch
    return {
        "label": item.label,
        "form": item.form,
        "coefficient": item.coefficient,
        "known": sketch is not None,
        "norm": norm,
        "ratio": norm / found.base.norm if found.base.norm else 0.0,
        "changed": sketch.entries_changed / max(1, sketch.entries) if sketch else None,
        "strip": list(found.strips[number]),
    }


def _pair(pair: Pair) -> dict[str, Any]:
    """One cell of the matrix; ``a`` is -1 for the target."""
    likeness = pair.likeness
    template, params = likeness.sentence
    return {
        "a": pair.a,
        "b": pair.b,
        "cosine": round(likeness.cosine, DIGITS),
        "conflict": _rounded(likeness.conflict),
        "large_conflict": _rounded(likeness.large_conflict),
        "overlap": round(likeness.overlap, DIGITS),
        "shared": round(likeness.shared, DIGITS),
        "verdict": likeness.verdict.value,
        "name": gettext(NAMES[likeness.verdict]),
        "text": gettext(template) % params,
        "layers": list(pair.layers),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _advice(advice: Advice) -> dict[str, Any]:
    return {
        "method": advice.method,
        "parameters": {} if advice.lambda_ is None else {"lambda": advice.lambda_},
        "coefficients": list(advice.coefficients),
        "range": list(advice.range),
        "reasons": [_note(note) for note in advice.reasons],
    }


def _note(note: Note) -> dict[str, Any]:
    return {
        "code": note.code,
        "text": gettext(note.template) % note.params,
        "terms": list(note.terms),
        "warning": note.warning,
    }
