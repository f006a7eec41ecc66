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

from .algebra import single_source
from .errors import RecipeError, _
from .methods import Method, get_method
from .methods.base import Parameter
from .rules import Rule, read_rules
from .settings import evaluate, is_constant, scaled

MAX_TERMS = 64
MAX_COEFFICIENT = Decimal(100)
MAX_SEED = 2**53
WEIGHT = Parameter("weight", float, 1.0, "Coefficient of a term.", minimum=-100, maximum=100)


@dataclass(frozen=True)
class Term:
    """One vector (by the reference of its version), its coefficient and its own parameters.

    A ``weight`` among the parameters is a schedule over layers or names, which multiplies the
    coefficient. `make_recipe` puts the whole factor into it, so that one factor has one spelling.
    """

    ref: str
    coefficient: Decimal
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """What to compute. References are opaque names of immutable checkpoints and vectors."""

    foundation: str
    target: str
    terms: tuple[Term, ...]
    method: str = "task_arithmetic"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    out_dtype: str | None = None
    rules: tuple[Rule, ...] = ()
    seed: int = 0
    slices: tuple[Slice, ...] = ()

    def canonical(self) -> dict[str, Any]:
        """The recipe as plain data: equal recipes give equal data."""
        data: dict[str, Any] = {
            "armory_recipe": 1,
            "foundation": self.foundation,
            "target": self.target,
            "method": self.method,
            "terms": [_term_data(term) for term in self.terms],
        }
        if self.parameters:
            data["parameters"] = dict(sorted(self.parameters.items()))
        if self.out_dtype:
            data["out_dtype"] = self.out_dtype
        if self.rules:
            data["rules"] = [rule.text for rule in self.rules]
        if self.seed:
            data["seed"] = self.seed
        if self.slices:
            data["slices"] = [part.canonical() for part in self.slices]
        return data

    def to_json(self) -> str:
        return json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: the recipe's name."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def extra_sources(self) -> list[str]:
        """Models that only a rule names, in order: neither target, foundation nor a term."""
        known = {self.target, self.foundation, *(term.ref for term in self.terms)}
        named = [rule.source for rule in self.rules if rule.source is not None]
        return [ref for ref in dict.fromkeys(named) if ref not in known]


@dataclass(frozen=True)
class Slice:
    """Layers of the result: ``recipe``, on the layers [first, last) of each model it names."""

    recipe: Recipe
    layers: Mapping[str, tuple[int, int]]

    def canonical(self) -> dict[str, Any]:
        """Plain data; the method and what is the same for all slices stands in the recipe."""
        whole = self.recipe.canonical()
        kept = ("foundation", "terms", "parameters")
        data: dict[str, Any] = {key: whole[key] for key in kept if key in whole}
        data["layers"] = {ref: list(self.layers[ref]) for ref in sorted(self.layers)}
        return data


def _term_data(term: Term) -> dict[str, Any]:
    data: dict[str, Any] = {
        "vector": term.ref,
        "coefficient": coefficient_text(term.coefficient),
    }
    if term.parameters:
        data["parameters"] = dict(sorted(term.parameters.items()))
    return data


TermInput = tuple[str, Decimal | str | float] | tuple[str, Decimal | str | float, Mapping[str, Any]]


def make_recipe(
    *,
    foundation: str,
    target: str,
    terms: Sequence[TermInput],
    method: str = "task_arithmetic",
    parameters: Mapping[str, Any] | None = None,
    out_dtype: str | None = None,
    rules: Sequence[Any] = (),
    seed: int = 0,
) -> Recipe:
    """Check and canonicalise a recipe. Raises RecipeError naming what is wrong.

    A term is ``(reference, coefficient)`` or ``(reference, coefficient, parameters)``.
    """
    declared = get_method(method)
    values = _without_defaults(declared, declared.check_parameters(parameters or {}))
    kept = _sum_terms(declared, [_read_term(declared, values, term) for term in terms])
    if len(kept) > MAX_TERMS:
        raise RecipeError(
            _("A recipe takes at most %(limit)d vectors; this one has %(count)d."),
            limit=MAX_TERMS,
            count=len(kept),
        )
    declared.check_required(values)
    declared.check_terms([Fraction(term.coefficient) for term in kept], values)
    if declared.check is not None:
        for term in kept:
            declared.check({**values, **term.parameters})
    if type(seed) is not int or not 0 <= seed < MAX_SEED:
        raise RecipeError(_("`seed` is a whole number from 0 to %(limit)d."), limit=MAX_SEED - 1)
    checked = read_rules(rules)
    # A vector at coefficient 0 is no part of the recipe, and neither is what a rule says of it.
    vanished = {term[0] for term in terms} - {term.ref for term in kept}
    checked = tuple(rule for rule in checked if rule.of not in vanished)
    refs = {term.ref for term in kept} | {foundation}
    for rule in checked:
        if rule.action == "merge" and not declared.weighted:
            raise RecipeError(
                _("The rule `%(rule)s`: the method %(method)s has no weights to multiply."),
                rule=rule.text,
                method=method,
            )
        if rule.of is not None and rule.of not in refs:
            raise RecipeError(
                _("The rule `%(rule)s` names %(ref)s, which is no part of the recipe."),
                rule=rule.text,
                ref=rule.of,
            )
    return Recipe(
        foundation=foundation,
        target=target,
        terms=kept,
        method=method,
        parameters=values,
        out_dtype=out_dtype,
        rules=checked,
        seed=seed if declared.random else 0,
    )


def _read_term(declared: Method, values: Mapping[str, Any], raw: TermInput) -> Term:
    ref, coefficient = raw[0], parse_coefficient(raw[1])
    given = dict(raw[2]) if len(raw) > 2 else {}
    if "weight" in given:
        weight = WEIGHT.read(given.pop("weight"))
        if not declared.weighted and not is_constant(weight):
            raise RecipeError(
                _("The method %(method)s finds the weights itself: leave them out."),
                method=declared.name,
            )
        if is_constant(weight):
            coefficient = parse_coefficient(coefficient * parse_coefficient(weight))
        else:
            given = {**given, "weight": weight}
    own = {name: raw for name, raw in given.items() if name != "weight"}
    checked = declared.check_parameters(own, "term")
    # What the recipe says for all is not said again by a term, nor is the default.
    for name, value in list(checked.items()):
        parameter = declared.parameter(name)
        if parameter is not None and value == values.get(name, parameter.default):
            del checked[name]
    if "weight" in given:
        checked["weight"] = given["weight"]
    return Term(ref, coefficient, checked)


def _sum_terms(declared: Method, terms: Sequence[Term]) -> tuple[Term, ...]:
    """Terms of the same vector with the same parameters are one; zero terms vanish."""
    if not declared.weighted:
        refs = [term.ref for term in terms]
        for ref in refs:
            if refs.count(ref) > 1:
                raise RecipeError(_("%(name)s is in the recipe twice."), name=ref)
        return tuple(terms)
    summed: dict[str, Term] = {}
    for term in terms:
        key = json.dumps([term.ref, term.parameters], sort_keys=True)
        before = summed[key].coefficient if key in summed else Decimal(0)
        summed[key] = Term(term.ref, before + term.coefficient, term.parameters)
    return tuple(_settled(term) for term in summed.values() if term.coefficient != 0)


def _settled(term: Term) -> Term:
    coefficient = parse_coefficient(term.coefficient)
    schedule = term.parameters.get(WEIGHT.name)
    if schedule is None or coefficient == 1:
        return Term(term.ref, coefficient, term.parameters)
    whole = WEIGHT.read(scaled(schedule, float(coefficient)))
    return Term(term.ref, Decimal(1), {**term.parameters, WEIGHT.name: whole})


def _without_defaults(declared: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {parameter.name: parameter.default for parameter in declared.parameters}
    return {name: value for name, value in values.items() if value != defaults[name]}


def recipe_from_json(text: str) -> Recipe:
    """The inverse of ``Recipe.to_json``. Raises RecipeError."""
    try:
        data = json.loads(text)
        if data.get("slices"):
            from .slices import stack_from_data

            return stack_from_data(data)
        return make_recipe(
            foundation=data["foundation"],
            target=data["target"],
            terms=[
                (term["vector"], term["coefficient"], term.get("parameters") or {})
                for term in data["terms"]
            ],
            method=data["method"],
            parameters=data.get("parameters"),
            out_dtype=data.get("out_dtype"),
            rules=data.get("rules") or (),
            seed=data.get("seed", 0),
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
    if not value.is_finite() or not -MAX_COEFFICIENT <= value <= MAX_COEFFICIENT:
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

    ``full_terms`` are the references stored as whole checkpoints.
    """
    method = get_method(recipe.method)
    scheduled = [*recipe.parameters.values()]
    if recipe.out_dtype or recipe.rules or recipe.slices:
        return None
    if not all(map(is_constant, scheduled)):
        return None
    if any(term.parameters for term in recipe.terms):
        return None
    return single_source(
        method,
        [Fraction(term.coefficient) for term in recipe.terms],
        full_values(method, recipe.parameters, "", 0.0),
        target=recipe.target,
        foundation=recipe.foundation,
        terms=[term.ref for term in recipe.terms],
        whole=full_terms | {recipe.target, recipe.foundation},
    )


def full_values(
    method: Method, settings: Mapping[str, Any], tensor: str, position: float
) -> dict[str, Any]:
    """Every parameter of ``method`` with its value for one tensor."""
    return {
        parameter.name: evaluate(settings.get(parameter.name, parameter.default), tensor, position)
        for parameter in method.parameters
    }
