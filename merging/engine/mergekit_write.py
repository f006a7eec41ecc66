"""Recipes written in mergekit's YAML, for every equipped repository.

What mergekit has no word for stands under ``armory``, which it skips, and a comment at the top
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .dtype_names import NAMES
from .errors import RecipeError, _
from .mergekit import base_is_input, plain_sum
from .methods import METHODS, Method, get_method
from .recipe import Recipe, Term, coefficient_text

# Methods that mergekit has under the same name.
MERGEKIT = frozenset(
    "arcee_fusion breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear karcher "
    "linear model_stock multislerp nearswap nuslerp passthrough ram ramplus_tl sce slerp "
    "task_arithmetic ties".split()
)
NameOf = Callable[[str], str]


def write_yaml(
    recipe: Recipe,
    *,
    name_of: NameOf,
    form_of: Callable[[str], str],
    out_dtype: str,
) -> str:
    """``recipe`` in mergekit's syntax; ``name_of`` gives repository ids, ``form_of`` forms.

    A target other than the foundation is written as a model of weight 1 where that is the same
    sum. ``out_dtype`` is the nearest that mergekit can say where every tensor keeps the target's.
    """
    import yaml  # loads only where YAML is written

    method = get_method(recipe.method)
    data: dict[str, Any] = {"merge_method": _name(method)}
    if recipe.slices:
        from .slices import slices_data

        if not base_is_input(method):
            data["base_model"] = name_of(recipe.foundation)
        data["slices"] = slices_data(recipe, name_of, form_of)
    else:
        data |= _models(recipe, method, name_of, form_of)
    data["dtype"] = "float32"
    if (recipe.out_dtype or out_dtype) in NAMES:
        data["out_dtype"] = NAMES[recipe.out_dtype or out_dtype]
    house = _house(recipe, method, name_of)
    if house:
        data["armory"] = house
    notes = "".join(f"# {note}\n" for note in foreign_parts(recipe, form_of))
    return notes + yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True)


def foreign_parts(recipe: Recipe, form_of: Callable[[str], str]) -> list[str]:
    """What mergekit would miss in the file, a sentence each."""
    method = get_method(recipe.method)
    parts = []
    if _name(method) not in MERGEKIT:
        parts.append(f"mergekit has no method {recipe.method}.")
    if recipe.target != recipe.foundation and not plain_sum(method, recipe.parameters):
        parts.append("mergekit puts the sum on base_model only, not on `armory: target`.")
    if recipe.rules:
        parts.append("mergekit skips the rules under `armory`.")
    if "delta" in {form_of(term.ref) for term in all_terms(recipe)}:
        parts.append("Vectors stored as deltas (delta.safetensors) are read by Armory's engine.")
    if recipe.out_dtype and recipe.out_dtype.startswith("F8"):
        parts.append("mergekit has no float8.")
    if recipe.seed:
        parts.append(f"mergekit takes the seed on its command line: --random-seed {recipe.seed}.")
    return parts


def all_terms(recipe: Recipe) -> list[Term]:
    """The terms of ``recipe``, those of its slices among them."""
    return [*recipe.terms, *(term for part in recipe.slices for term in part.recipe.terms)]


def _name(method: Method) -> str:
    """mergekit's name: it has one for a formula with and without a base."""
    if method.name in MERGEKIT or method.operates_on == "deltas":
        return method.name
    both = (each.name for each in METHODS.values() if each.without_base == method.name)
    return next(both, method.name)


def _models(
    recipe: Recipe, method: Method, name_of: NameOf, form_of: Callable[[str], str]
) -> dict[str, Any]:
    data: dict[str, Any] = {}
    foundation = name_of(recipe.foundation)
    if not base_is_input(method):
        data["base_model"] = foundation
        if any(term.ref == recipe.foundation for term in recipe.terms):
            raise RecipeError(
                _("%(name)s cannot be put on itself: its vector is zero. Leave it out."),
                name=foundation,
            )
    models: list[dict[str, Any]] = []
    if recipe.target != recipe.foundation and plain_sum(method, recipe.parameters):
        models.append({"model": name_of(recipe.target), "parameters": {"weight": 1.0}})
    for term in recipe.terms:
        models.append(model_data(term, method, foundation, name_of, form_of))
    # An empty recipe is its target: the base listed alone says so.
    data["models"] = models or [{"model": foundation}]
    if recipe.parameters:
        data["parameters"] = plain(recipe.parameters)
    return data


def model_data(
    term: Term, method: Method, foundation: str, name_of: NameOf, form_of: Callable[[str], str]
) -> dict[str, Any]:
    """One entry of ``models``."""
    model = name_of(term.ref)
    if form_of(term.ref) == "lora":
        model = f"{foundation}+{model}"
    parameters = plain(term.parameters)
    if method.weighted:
        weight = parameters.pop("weight", float(coefficient_text(term.coefficient)))
        parameters = {"weight": weight, **parameters}
    return {"model": model, "parameters": parameters} if parameters else {"model": model}


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` copied: YAML would write a list used twice as an alias."""
    return {name: _copy(value) for name, value in settings.items()}


def _copy(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(item) for item in value]
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value


def _house(recipe: Recipe, method: Method, name_of: NameOf) -> dict[str, Any]:
    house: dict[str, Any] = {}
    if not recipe.slices:
        if base_is_input(method) and recipe.terms[0].ref != recipe.foundation:
            house["foundation"] = name_of(recipe.foundation)
        if recipe.target != recipe.foundation:
            house["target"] = name_of(recipe.target)
    if recipe.rules:
        house["rules"] = [rule.resolved(name_of).text for rule in recipe.rules]
    if recipe.seed:
        house["seed"] = recipe.seed
    if recipe.out_dtype is None:
        house["dtype"] = "target"
    return house


def _dumper() -> Any:
    """A dumper that writes lists of numbers in one line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def represent(dumper: Any, items: list[Any]) -> Any:
        flow = all(isinstance(item, int | float) for item in items)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)

    Dumper.add_representer(list, represent)
    return Dumper
