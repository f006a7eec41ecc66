"""A recipe as somebody wrote it: its models are still the names of the text.

YAML, the expression and JSON are three notations of one document. Whoever knows what the names
mean (local folders, the catalogue) turns it into a recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .recipe import Recipe, TermInput, make_recipe
from .rules import Rule


@dataclass(frozen=True)
class Entry:
    """One model: its name, the adapter put on it (or None), its weight and its own parameters.

    A ``weight`` among the parameters is a schedule over layers or names. ``layers`` are the
    layers [first, last) that a slice takes of the model.
    """

    model: str
    lora: str | None = None
    weight: Decimal = Decimal(1)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Layers:
    """One slice: some layers of ``foundation`` (its ``layers``), and what is merged into them."""

    foundation: Entry
    entries: tuple[Entry, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """Where the files beside the weights come from; no part of the recipe's hash."""

    tokenizer_source: str | None = None
    pad_to_multiple_of: int | None = None
    chat_template: str | None = None
    configuration_from: str | None = None
    chat_template_from: str | None = None


@dataclass(frozen=True)
class Document:
    """A recipe as read: references are still the text of the file.

    ``any_form`` documents name adapters and models alike; in mergekit's YAML an adapter stands
    behind the model that it is put on.
    """

    method: str
    foundation: str
    target: str
    entries: tuple[Entry, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    out_dtype: str | None = None
    rules: tuple[Rule, ...] = ()
    seed: int = 0
    slices: tuple[Layers, ...] = ()
    files: Files = Files()
    any_form: bool = False


RefOf = Callable[[str, str | None], str]


def recipe_of(
    document: Document, ref_of: RefOf, rule_ref: Callable[[str], str] | None = None
) -> Recipe:
    """The recipe that ``document`` means where ``ref_of(model, lora)`` gives the references.

    ``rule_ref`` gives those of the names in rules. Raises RecipeError.
    """
    return make_recipe(
        foundation=ref_of(document.foundation, None),
        target=ref_of(document.target, None),
        terms=terms_of(document.entries, ref_of),
        method=document.method,
        parameters=document.parameters,
        out_dtype=document.out_dtype,
        rules=rules_of(document, ref_of, rule_ref),
        seed=document.seed,
    )


def terms_of(entries: Sequence[Entry], ref_of: RefOf) -> list[TermInput]:
    """``entries`` as the terms that `make_recipe` takes."""
    return [(ref_of(entry.model, entry.lora), entry.weight, entry.parameters) for entry in entries]


def rules_of(
    document: Document, ref_of: RefOf, rule_ref: Callable[[str], str] | None
) -> list[Rule]:
    """The document's rules, with references for names."""
    resolve = rule_ref or (lambda name: ref_of(name, None))
    return [rule.resolved(resolve) for rule in document.rules]
