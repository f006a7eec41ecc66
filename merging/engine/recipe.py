"""A recipe: target + terms + method + parameters, immutable, named by its hash.

Two recipes that say the same thing have the same canonical JSON, so they are one recipe: repeated
terms are summed (adding and subtracting the same vector cancels), zero terms vanish, parameters
at their default are left out. Terms keep their order, because a floating-point sum has one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from .errors import RecipeError, _
from .methods import Value, get_method

MAX_TERMS = 64
MAX_COEFFICIENT = Decimal(100)


@dataclass(frozen=True)
class Term:
    """One vector (by the reference of its version) and its coefficient."""

    ref: str
    coefficient: Decimal


@dataclass(frozen=True)
class Recipe:
    """What to compute. References are opaque names of immutable checkpoints and vectors."""

    foundation: str
    target: str
    terms: tuple[Term, ...]
    method: str = "task_arithmetic"
    parameters: Mapping[str, Value] = field(default_factory=dict)
    out_dtype: str | None = None

    def canonical(self) -> dict[str, Any]:
        """The recipe as plain data: equal recipes give equal data."""
        data: dict[str, Any] = {
            "armory_recipe": 1,
            "foundation": self.foundation,
            "target": self.target,
            "method": self.method,
            "terms": [
                {"vector": term.ref, "coefficient": coefficient_text(term.coefficient)}
                for term in self.terms
            ],
        }
        if self.parameters:
            data["parameters"] = dict(sorted(self.parameters.items()))
        if self.out_dtype:
            data["out_dtype"] = self.out_dtype
        return data

    def to_json(self) -> str:
        return json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: the recipe's name."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def make_recipe(
    *,
    foundation: str,
    target: str,
    terms: Sequence[tuple[str, Decimal | str | float]],
    method: str = "task_arithmetic",
    parameters: Mapping[str, Any] | None = None,
    out_dtype: str | None = None,
) -> Recipe:
    """Check and canonicalise a recipe. Raises RecipeError naming what is wrong."""
    declared = get_method(method)
    summed: dict[str, Decimal] = {}
    for ref, raw in terms:
        summed[ref] = summed.get(ref, Decimal(0)) + parse_coefficient(raw)
    kept = tuple(Term(ref, parse_coefficient(v)) for ref, v in summed.items() if v != 0)
    if len(kept) > MAX_TERMS:
        raise RecipeError(
            _("A recipe takes at most %(limit)d vectors; this one has %(count)d."),
            limit=MAX_TERMS,
            count=len(kept),
        )
    values = declared.check_parameters(parameters or {})
    declared.check_weights([Fraction(term.coefficient) for term in kept], values)
    defaults = {parameter.name: parameter.default for parameter in declared.parameters}
    return Recipe(
        foundation=foundation,
        target=target,
        terms=kept,
        method=method,
        parameters={k: v for k, v in values.items() if v != defaults[k]},
        out_dtype=out_dtype,
    )


def recipe_from_json(text: str) -> Recipe:
    """The inverse of ``Recipe.to_json``. Raises RecipeError."""
    try:
        data = json.loads(text)
        return make_recipe(
            foundation=data["foundation"],
            target=data["target"],
            terms=[(term["vector"], term["coefficient"]) for term in data["terms"]],
            method=data["method"],
            parameters=data.get("parameters"),
            out_dtype=data.get("out_dtype"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(_("This is not a recipe in JSON.")) from error


def parse_coefficient(raw: Decimal | str | float | int) -> Decimal:
    """A coefficient as an exact decimal number. Raises RecipeError on anything else."""
    try:
        value = raw if isinstance(raw, Decimal) else Decimal(str(raw).strip().replace("−", "-"))
    except InvalidOperation:
        raise RecipeError(
            _("%(text)s is not a number. A coefficient looks like 1, 0.5 or -0.5."),
            text=str(raw)[:40],
        ) from None
    if not value.is_finite() or abs(value) > MAX_COEFFICIENT:
        raise RecipeError(
            _("The coefficient %(text)s is out of range: use a number from -100 to 100."),
            text=str(raw)[:40],
        )
    if value.as_tuple().exponent < -9:  # type: ignore[operator]
        value = round(value, 9)
    return value


def coefficient_text(value: Decimal) -> str:
    """The shortest plain notation: ``1``, ``0.5``, ``-0.25``."""
    text = format(value.normalize(), "f")
    return "0" if text in ("-0", "") else text


def collapse(recipe: Recipe, full_terms: set[str]) -> str | None:
    """The one checkpoint that the recipe's sum *is*, by algebra, or None.

    ``full_terms`` are the references stored as whole checkpoints. With τᵢ = θᵢ − θ the sum
    target + Σ cᵢτᵢ is a formal sum of checkpoints; when all but one cancel and the last has
    coefficient 1, its bytes are the answer and nothing is computed or rounded.
    """
    method = get_method(recipe.method)
    if recipe.out_dtype or method.weights is None:
        return None
    weights = method.weights(
        [Fraction(term.coefficient) for term in recipe.terms],
        method.check_parameters(recipe.parameters),
    )
    total: dict[str, Fraction] = {}

    def add(key: str, amount: Fraction) -> None:
        total[key] = total.get(key, Fraction(0)) + amount

    if method.operates_on == "deltas" or not recipe.terms:
        add(recipe.target, Fraction(1))
    for term, weight in zip(recipe.terms, weights, strict=True):
        whole = term.ref in full_terms or term.ref in (recipe.target, recipe.foundation)
        add(term.ref if whole else f"delta {term.ref}", weight)
        if method.operates_on == "deltas" and whole:
            add(recipe.foundation, -weight)
        elif method.operates_on == "models" and not whole:
            add(recipe.foundation, weight)
    left = {key: amount for key, amount in total.items() if amount != 0}
    if len(left) == 1:
        ((key, amount),) = left.items()
        if amount == 1 and not key.startswith("delta "):
            return key
    return None
