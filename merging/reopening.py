"""From a recipe back to the loadout that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from django.urls import reverse

from merging.card import target_id
from merging.checks.plan import setting_of
from merging.engine.errors import RecipeError
from merging.engine.expression_write import write_expression
from merging.engine.methods import get_method
from merging.loadout import MAX_SLOTS, Loadout, Slot
from merging.models import EquippedModel
from merging.spelling import typed_name


def loadout_url(row: EquippedModel, coefficients: Sequence[Decimal] | None = None) -> str:
    """The loadout's screen with the recipe on it; empty where no loadout can say it.

    ``coefficients`` are taken in the place of the recipe's own, in the order of its terms.
    """
    recipe = row.recipe
    if coefficients is not None:
        recipe = setting_of(row, 0, coefficients).recipe
    names = {recipe.foundation: row.foundation.repo_id}
    if row.target is not None:
        names[recipe.target] = typed_name(row.target)
    for term in row.terms.all():
        names.setdefault(term.version.digest, typed_name(term.version))
    numbers = all(isinstance(value, int | float) for value in recipe.parameters.values())
    if (
        recipe.rules
        or recipe.seed
        or recipe.out_dtype
        or not numbers
        or any(term.parameters for term in recipe.terms)
        or len(recipe.terms) > MAX_SLOTS
    ):
        try:
            state = Loadout(on=target_id(row), typed=write_expression(recipe, names.__getitem__))
        except RecipeError:  # slices have no such notation
            return ""
    else:
        defaults = {each.name: each.default for each in get_method(recipe.method).parameters}
        state = Loadout(
            on=names[recipe.target],
            slots=tuple(Slot(names[term.ref], term.coefficient) for term in recipe.terms),
            method=recipe.method,
            parameters={k: v for k, v in recipe.parameters.items() if v != defaults.get(k)},
        )
    return f"{reverse('loadout')}?{state.query()}"
