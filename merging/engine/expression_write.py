"""Recipes written as an expression, such that reading it gives the same recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .cursor import FILTER, NAME
from .dtype_names import NAMES
from .errors import RecipeError, _
from .expression import DEFAULT_METHOD, LONE_NUMBER
from .mergekit import base_is_input
from .methods import get_method
from .recipe import Recipe, Term, coefficient_text


def write_expression(recipe: Recipe, name_of: Callable[[str], str]) -> str:
    """``recipe`` in one line; ``name_of`` gives the names of its references.

    Raises RecipeError for a recipe of slices, which has no such notation.
    """
    if recipe.slices:
        raise RecipeError(_("A recipe of slices cannot be written in one line: use YAML."))
    method = get_method(recipe.method)
    inputs = base_is_input(method)
    target = _name(name_of(recipe.target))
    words = [f"{key}={_value(value)}" for key, value in sorted(recipe.parameters.items())]
    first = recipe.terms[0].ref if recipe.terms else None
    if recipe.target != recipe.foundation and (inputs or recipe.method == DEFAULT_METHOD):
        words.append(f"on={target}")
    if recipe.foundation != (first if inputs else recipe.target):
        words.append(f"base={_name(name_of(recipe.foundation))}")
    if recipe.seed:
        words.append(f"seed={recipe.seed}")
    if recipe.out_dtype is not None:
        words.append(f"out_dtype={NAMES[recipe.out_dtype]}")
    for rule in recipe.rules:
        text = rule.resolved(name_of).text
        words.append(f"rule={json.dumps(text, ensure_ascii=False)}")
    terms = "".join(_term(term, name_of) for term in recipe.terms)
    if recipe.method == DEFAULT_METHOD:
        return ", ".join([target + terms, *words])
    inside = ", ".join([terms.removeprefix(" + ").strip(), *words] if terms else words)
    call = f"{recipe.method}({inside})"
    return call if inputs else f"{target} + {call}"


def _term(term: Term, name_of: Callable[[str], str]) -> str:
    """`` + 0.5*name[density=0.3]``"""
    sign = "-" if term.coefficient < 0 else "+"
    size = coefficient_text(abs(term.coefficient))
    factor = "" if size == "1" else f"{size}*"
    own = ", ".join(f"{key}={_value(value)}" for key, value in sorted(term.parameters.items()))
    return f" {sign} {factor}{_name(name_of(term.ref))}" + (f"[{own}]" if own else "")


def _name(name: str) -> str:
    plain = NAME.fullmatch(name) and not LONE_NUMBER.match(name)
    return name if plain else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, list) and isinstance(value[0], Mapping):
        return "{" + ", ".join(_condition(item) for item in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(int(value)) if value == int(value) else repr(value)


def _condition(item: Mapping[str, Any]) -> str:
    pattern = item.get("filter", "*")
    plain = FILTER.fullmatch(pattern)
    return f"{pattern if plain else json.dumps(pattern)}: {_value(item['value'])}"
