"""What the loadout's screen shows: slots, inventory, forecast, licence, for one state of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from django.http import HttpRequest

from merging.engine.methods import METHODS, get_method
from merging.foreseeing import Found, find_all, forecast_context, mix_of, versions_of
from merging.formula import target_part, term_part
from merging.inventory import analogy_choices, inventory_of, unfit, words_of
from merging.loadout import HIGH, LOW, Loadout, Slot, fields_of, number
from merging.naming import find_target, find_version, is_foundation
from vectors.errors import explain
from vectors.models import Foundation, Vector, Version
from vectors.tensorfile.errors import Problem

TARGETS = 50


@dataclass(frozen=True)
class ShownSlot:
    """A slot with the version it means, or the sentence that says why there is none."""

    index: int
    slot: Slot
    version: Version | None
    problem: str = ""

    @property
    def vector(self) -> Vector | None:
        """The vector of the version."""
        return self.version.vector if self.version else None


def with_target(state: Loadout, user: Any) -> Loadout:
    """``state`` with a target: the one it names, a foundation that stands among its slots (as in
    a typed sum), or the foundation of its first vector."""
    for index, slot in enumerate(state.slots):
        if slot.coefficient == 1 and is_foundation(slot.name):
            state = replace(state.without(index), on=state.on or slot.name)
            break
    if state.on or state.typed:
        return state
    for slot in state.slots:
        try:
            version = find_version(slot.name, user)
        except Problem:
            continue
        if version.foundation is not None:
            return replace(state, on=version.foundation.repo_id)
    return state


def result_of(state: Loadout, user: Any) -> dict[str, Any]:
    """What changes with every slider: formula, forecast, licence, and whether all of it stands."""
    foundation, target, problem = _target(state, user)
    found = find_all(state, user)
    slots = [_shown(i, slot, foundation, found) for i, slot in enumerate(state.slots)]
    terms = versions_of(state, foundation, found)
    mix = mix_of(foundation, target, terms, user)
    forecast = forecast_context(foundation, target, terms, user)
    formula = state.formula()
    return {
        "state": state,
        "query": state.query(),
        "formula": formula,
        "foundation": foundation,
        "target_problem": problem,
        "slots": slots,
        "parts": _parts(state, foundation, target, found),
        "ready": bool(formula)
        and not problem
        and not any(each.problem for each in slots)
        and not (mix and mix.status == "refused"),
        "mix": mix,
        "mix_reasons": [explain(reason) for reason in mix.reasons] if mix else [],
        **forecast,
        "advised": _advised(forecast.get("forecast"), terms),
    }


def context_of(request: HttpRequest, state: Loadout) -> dict[str, Any]:
    """Everything the templates of the loadout need."""
    result = result_of(state, request.user)
    method = get_method(state.method)
    return {
        **result,
        **inventory_of(state, result["foundation"], request.user, words_of(request.GET)),
        "foundations": Foundation.objects.with_counts().defer("manifest", "card", "card_html"),
        "targets": _targets(result["foundation"], request.user),
        "method": method,
        "methods": [METHODS[name] for name in METHODS],
        "fields": fields_of(method, state.parameters),
        "low": LOW,
        "high": HIGH,
        "analogy_fields": [
            ("ac", "C", state.analogy.c),
            ("ab", "B", state.analogy.b),
            ("aa", "A", state.analogy.a),
        ],
        "analogy_choices": analogy_choices(state, result["foundation"], request.user),
    }


def inventory_context(state: Loadout, user: Any, words: str) -> dict[str, Any]:
    """What changes with every word that is searched for."""
    foundation, _version, _problem = _target(state, user)
    return inventory_of(state, foundation, user, words)


def _advised(
    forecast: dict[str, Any] | None, terms: Sequence[tuple[Version, Decimal]]
) -> dict[str, Any]:
    """The suggestion in words: the method's title, and a coefficient for each vector."""
    if not forecast or not forecast["advice"]:
        return {}
    advice = forecast["advice"]
    return {
        "title": get_method(advice["method"]).title,
        "parameters": {key: f"{value:g}" for key, value in advice["parameters"].items()},
        "coefficients": [
            {"text": f"{each:g}", "label": version.vector.label if version.vector else ""}
            for each, (version, _coefficient) in zip(advice["coefficients"], terms, strict=True)
        ],
    }


def _target(state: Loadout, user: Any) -> tuple[Foundation | None, Version | None, str]:
    if not state.on:
        return None, None, ""
    try:
        return *find_target(state.on, user), ""
    except Problem as problem:
        return None, None, explain(problem)


def _shown(index: int, slot: Slot, foundation: Foundation | None, found: Found) -> ShownSlot:
    version = found[slot.name]
    if isinstance(version, Problem):
        return ShownSlot(index, slot, None, explain(version))
    if foundation is not None and version.foundation_id != foundation.pk:
        return ShownSlot(index, slot, version, unfit(version.foundation, foundation))
    return ShownSlot(index, slot, version)


def _targets(foundation: Foundation | None, user: Any) -> list[Vector]:
    """Full fine-tunes of the foundation, onto which vectors can be put as well."""
    if foundation is None:
        return []
    full = Vector.objects.usable_by(user).filter(foundation=foundation, current__form="full")
    return list(full.first_cards("equipped", TARGETS))


def _parts(
    state: Loadout, foundation: Foundation | None, target: Version | None, found: Found
) -> list[dict[str, Any]]:
    """The formula as chips."""
    owner: Foundation | Vector | None = target.vector if target and target.vector else foundation
    return [
        *([target_part(owner)] if owner is not None else []),
        *(
            term_part(coefficient, version.vector, name=name, version=version)
            for name, coefficient in state.terms()
            if isinstance(version := found[name], Version)
        ),
    ]


def advised(state: Loadout, user: Any) -> Loadout:
    """``state`` with the method and the coefficients that its forecast suggests to begin with."""
    foundation, target, _problem = _target(state, user)
    terms = versions_of(state, foundation, find_all(state, user))
    found = forecast_context(foundation, target, terms, user)["forecast"]
    shown = [slot for slot in state.slots if slot.on and slot.coefficient]
    if not found or not found["advice"] or state.typed or len(shown) != len(terms):
        return state
    advice = found["advice"]
    numbers = iter(advice["coefficients"])
    slots = tuple(
        replace(slot, coefficient=number(f"{next(numbers):g}")) if slot in shown else slot
        for slot in state.slots
    )
    declared = {each.name: each.default for each in get_method(advice["method"]).parameters}
    parameters = {k: v for k, v in advice["parameters"].items() if v != declared[k]}
    return replace(state, slots=slots, method=advice["method"], parameters=parameters)
