"""The forecast and the licence of a loadout, as its page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext

from merging.engine.expression import parse_expression
from merging.engine.methods import get_method
from merging.engine.recipe import MAX_TERMS
from merging.forecasts import forecast_recipe
from merging.licences import Mix, licence_of_mix, licences_of
from merging.loadout import Loadout
from merging.naming import find_version, is_foundation
from vectors.access import owns
from vectors.errors import explain
from vectors.models import Foundation, Version
from vectors.tensorfile.errors import Problem

# From which cosine on a cell of the heatmap is darker: four steps to each side.
STEPS = (0.05, 0.15, 0.3, 0.5)
PLAIN = ("task_arithmetic", "linear")  # methods that are a sum, with one factor on all of it
RANK = ("contradiction", "duplicate", "related", "independent")

Found = Mapping[str, Version | Problem]
Terms = Sequence[tuple[Version, Decimal]]


def find_all(state: Loadout, user: Any) -> Found:
    """Each name of the loadout with the version it means, or the problem that says why none."""
    found: dict[str, Version | Problem] = {}
    for name in [*(slot.name for slot in state.slots), *(name for name, _c in named(state))]:
        if name not in found:
            try:
                found[name] = find_version(name, user)
            except Problem as problem:
                found[name] = problem
    return found


def versions_of(state: Loadout, foundation: Foundation | None, found: Found) -> Terms:
    """The versions that the loadout adds, with their coefficients; what means nothing or does not
    fit is left out, because its slot says so."""
    return [
        (version, coefficient)
        for name, coefficient in named(state)
        if isinstance(version := found[name], Version)
        and (foundation is None or version.foundation_id == foundation.pk)
    ]


def named(state: Loadout) -> list[tuple[str, Decimal]]:
    """What the loadout adds, by name, typed or in slots, as much of each as the sum has in the
    end."""
    if not state.typed:
        return _scaled(state.terms(), state.method, state.parameters)
    try:
        parsed = parse_expression(state.typed)
    except Problem:
        return []
    if len(parsed.summands) > MAX_TERMS:
        return []  # each name asks the database, each pair is compared; no recipe has so many
    terms = [
        (each.name, each.coefficient)
        for each in parsed.summands
        if each.coefficient and not is_foundation(each.name)
    ]
    return _scaled(terms, parsed.method, parsed.parameters)


def _scaled(
    terms: list[tuple[str, Decimal]], method: str, parameters: Mapping[str, Any]
) -> list[tuple[str, Decimal]]:
    """``terms`` with what a plain sum is multiplied with as a whole. Of other methods the forecast
    is about the plain sum with the terms' own coefficients."""
    if method not in PLAIN:
        return terms
    said = {each.name: each.default for each in get_method(method).parameters} | dict(parameters)
    factor, total = said.get("lambda", 1), sum(coefficient for _name, coefficient in terms)
    if not isinstance(factor, int | float):
        return terms  # another one for each layer
    by = total if said["normalize"] is True and total else Decimal(1)
    return [(name, coefficient * Decimal(str(factor)) / by) for name, coefficient in terms]


def forecast_context(
    foundation: Foundation | None, target: Version | None, terms: Terms, user: Any
) -> dict[str, Any]:
    """What ``merging/_forecast.html`` shows; nothing where there is nothing to say."""
    if foundation is None or not terms:
        return {"forecast": None}
    try:
        found = forecast_recipe(foundation=foundation, terms=terms, target=target, user=user)
    except Problem as problem:
        return {"forecast": None, "forecast_problem": explain(problem)}
    labels = [_label(version) for version, _coefficient in terms]
    everyone = [(-1, _label(target)), *enumerate(labels)] if target else list(enumerate(labels))
    return {
        "forecast": found,
        "worst": _worst(found["pairs"]),
        "matrix": _matrix(found["pairs"], everyone),
        "pairs": [
            {**pair, "first": dict(everyone)[pair["a"]], "second": dict(everyone)[pair["b"]]}
            for pair in sorted(found["pairs"], key=lambda pair: RANK.index(pair["verdict"]))
        ],
        "strips": [
            {"label": label, "bars": _bars(term["strip"]), "term": term}
            for label, term in zip(labels, found["terms"], strict=True)
        ],
        "sum_strip": _sum_strip(found),
    }


def mix_of(
    foundation: Foundation | None, target: Version | None, terms: Terms, user: Any
) -> Mix | None:
    """The licence of the mix; None while there is none. Refused is what equipping it refuses: what
    is one's own, one may mix as one likes."""
    if foundation is None or not terms:
        return None
    versions = [*([target] if target else []), *(version for version, _coefficient in terms)]
    mix = licence_of_mix(licences_of(foundation, versions))
    if mix.status == "refused":
        others = [version for version in versions if not owns(user, version)]
        if licence_of_mix(licences_of(foundation, others)).status != "refused":
            return replace(mix, status="labelled")
    return mix


def _label(version: Version | None) -> str:
    return version.vector.label if version and version.vector else ""


def _worst(pairs: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The pair to look at first."""
    return min(pairs, key=lambda pair: RANK.index(pair["verdict"]), default=None)


def _matrix(
    pairs: Sequence[dict[str, Any]], everyone: Sequence[tuple[int, str]]
) -> list[dict[str, Any]]:
    """Rows of the table: each pair once on either side of the diagonal."""
    cells = {(pair["a"], pair["b"]): pair for pair in pairs}
    rows = []
    for a, label in everyone:
        row = []
        for b, _other in everyone:
            pair = cells.get((a, b)) or cells.get((b, a))
            row.append({"same": a == b, "pair": pair, "shade": _shade(pair) if pair else ""})
        rows.append({"label": label, "cells": row})
    return rows if len(rows) > 1 else []


def _shade(pair: dict[str, Any]) -> str:
    steps = sum(abs(pair["cosine"]) >= step for step in STEPS)
    return f"h-{'n' if pair['cosine'] < 0 else 'p'}{steps}" if steps else "h-0"


def _sum_strip(found: dict[str, Any]) -> dict[str, Any] | None:
    """Where the whole sum acts, and in words where most; None where nothing is known of it.

    Its scale is the strongest layer of the vectors at 1, so that the bars grow and shrink with the
    coefficients; where the sum is stronger, its own strongest layer.
    """
    strip = found["sum"]
    if not strip:
        return None
    alone = [layer["ratio"] for term in found["terms"] for layer in term["strip"]]
    most = max(strip, key=lambda layer: layer["ratio"])
    place = most["label"]
    if place.isdigit():
        place = gettext("layer %(number)s") % {"number": place}
    bars = _bars(strip, at_least=max(alone, default=0.0))
    return {"bars": bars, "place": place, "ratio": most["ratio"]}


def _bars(strip: Sequence[dict[str, Any]], *, at_least: float = 0.0) -> list[dict[str, Any]]:
    """Bars for ``partials/layer_strip.html``, as long as the layer's change is strong: of the
    strongest, or of ``at_least``."""
    most = max([at_least, *(layer["ratio"] for layer in strip)]) or 1.0
    return [
        {
            "share": round(100 * layer["ratio"] / most),
            "label": f"{layer['label']}: {layer['ratio']:.2%}",
        }
        for layer in strip
    ]
