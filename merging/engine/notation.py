"""The three notations of a recipe (YAML, JSON, the expression) as one document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .document import Document, Entry, Layers
from .errors import RecipeError, _
from .expression import Expression, Summand, parse_expression
from .mergekit import base_is_input, read_yaml
from .methods import get_method
from .recipe import Recipe, Term, recipe_from_json

SUFFIXES = (".yaml", ".yml", ".json")


def read_recipe(text: str) -> tuple[Document, Path | None]:
    """The document that a file's name or an expression gives, and the file. Raises RecipeError."""
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES and not _is_file(path):
        return document_of_expression(parse_expression(text)), None
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            _("%(file)s cannot be read: %(reason)s."), file=text, reason=str(error)
        ) from error
    if path.suffix.lower() == ".json":
        return document_of_recipe(recipe_from_json(content)), path
    return read_yaml(content), path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # an expression longer than a file's name may be
        return False


def document_of_expression(expression: Expression) -> Document:
    """An expression over models: the first of a plain sum is what the others are put on."""
    method = get_method(expression.method)
    inputs = base_is_input(method)

    def is_foundation(summand: Summand) -> bool:
        return not expression.called and summand is expression.summands[0]

    if inputs:
        target, summands = expression.on, expression.summands
    else:
        target, summands = expression.split_target(is_foundation)
    base = expression.base or target
    if inputs and summands:
        base = expression.base or summands[0].name
    if base is None:
        raise RecipeError(
            _("Say what the vectors are put on: MODEL + %(method)s(…), or on=MODEL at the end."),
            method=method.name,
        )
    return Document(
        method=expression.method,
        foundation=base,
        target=target or base,
        entries=tuple(
            Entry(each.name, None, each.coefficient, each.parameters) for each in summands
        ),
        parameters=expression.parameters,
        out_dtype=expression.out_dtype,
        rules=expression.rules,
        seed=expression.seed,
        any_form=True,
    )


def document_of_recipe(recipe: Recipe) -> Document:
    """A recipe whose references are names."""

    def entry(term: Term, layers: Any = None) -> Entry:
        return Entry(term.ref, None, term.coefficient, term.parameters, layers)

    return Document(
        method=recipe.method,
        foundation=recipe.foundation,
        target=recipe.target,
        entries=tuple(entry(term) for term in recipe.terms),
        parameters=recipe.parameters,
        out_dtype=recipe.out_dtype,
        rules=recipe.rules,
        seed=recipe.seed,
        slices=tuple(
            Layers(
                Entry(part.recipe.foundation, layers=part.layers[part.recipe.foundation]),
                tuple(entry(term, part.layers[term.ref]) for term in part.recipe.terms),
                part.recipe.parameters,
            )
            for part in recipe.slices
        ),
        any_form=True,
    )
