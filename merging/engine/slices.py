"""Slices: a model whose layers are those of others, stacked or merged, as mergekit's YAML says it.

Each slice is a recipe of its own on some layers of its models; the layers of the result are
counted anew, slice after slice. What stands before the layers comes from the first slice, what
stands after them from the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .document import Document, Entry, Layers, RefOf, rules_of, terms_of
from .errors import RecipeError, _
from .mergekit import base_is_input, read_base, read_entry, weighted
from .mergekit_write import NameOf, model_data, plain
from .methods import Method, get_method
from .recipe import MAX_SEED, Recipe, Slice, TermInput, make_recipe
from .rules import Rule, read_rules
from .scopes import Scope, parameters_of, read_scope

MAX_SLICES = 512
MAX_LAYERS = 10_000
RULES = ("skip", "keep", "drop", "merge")  # what can be said of stacked layers


@dataclass(frozen=True)
class Part:
    """What one slice is made of, by references; ``layers`` has a range for each of them."""

    foundation: str
    terms: Sequence[TermInput]
    parameters: Mapping[str, Any]
    layers: Mapping[str, tuple[int, int]]


def read_slices(
    raw: Any, method: Method, base: str | None, outer: Sequence[Scope], rest: Document
) -> Document:
    """``rest`` with the slices of a YAML file. Raises RecipeError naming the place."""
    if not isinstance(raw, list) or not raw or len(raw) > MAX_SLICES:
        raise RecipeError(_("The key `slices` lists from 1 to %(limit)d slices."), limit=MAX_SLICES)
    slices = tuple(
        _read_slice(item, f"slices[{index}]", method, base, outer) for index, item in enumerate(raw)
    )
    first = slices[0].foundation.model
    return replace(rest, foundation=first, target=first, slices=slices)


def _read_slice(
    item: Any, place: str, method: Method, base: str | None, outer: Sequence[Scope]
) -> Layers:
    if not isinstance(item, dict) or not isinstance(item.get("sources"), list):
        raise RecipeError(_("`%(place)s` needs the key `sources`, a list."), place=place)
    for key in item:
        if key not in ("sources", "parameters", "base_model"):
            raise RecipeError(
                _("Unknown key `%(key)s`. Known keys: %(known)s."),
                key=f"{place}.{str(key)[:80]}",
                known="base_model, parameters, sources",
            )
    base = read_base(item, f"{place}.base_model") or base
    scopes = [read_scope(item.get("parameters"), f"{place}.parameters", method, "recipe"), *outer]
    entries: list[Entry] = []
    foundation = None
    for number, source in enumerate(item["sources"]):
        where = f"{place}.sources[{number}]"
        entry, scope = read_entry(source, where, method, ["layer_range"])
        layers = _range(source.get("layer_range"), f"{where}.layer_range")
        entry = replace(entry, layers=layers)
        if entry.model == base and entry.lora is None and not base_is_input(method):
            foundation = entry
            continue
        entries.append(weighted(entry, [scope, *scopes], method))
    if not entries and foundation is None:
        raise RecipeError(_("`%(place)s` names no model."), place=f"{place}.sources")
    if foundation is None and not base_is_input(method):
        raise RecipeError(
            _(
                "`%(place)s`: the method %(method)s needs `base_model`, and its layers among the "
                "sources."
            ),
            place=place,
            method=method.name,
        )
    if foundation is None:
        foundation = Entry(entries[0].model, layers=entries[0].layers)
    return Layers(foundation, tuple(entries), parameters_of(scopes, method))


def _range(raw: Any, place: str) -> tuple[int, int]:
    if (
        not isinstance(raw, list | tuple)
        or len(raw) != 2
        or not all(type(each) is int for each in raw)
        or not 0 <= raw[0] < raw[1] <= MAX_LAYERS
    ):
        raise RecipeError(
            _(
                "`%(place)s` is a pair of whole numbers: the first layer, and the one after the "
                "last, such as [0, 24]."
            ),
            place=place,
        )
    return raw[0], raw[1]


def stack_of_document(
    document: Document, ref_of: RefOf, rule_ref: Callable[[str], str] | None = None
) -> Recipe:
    """The recipe that a document with slices means where ``ref_of`` gives the references."""
    parts = []
    for number, piece in enumerate(document.slices):
        foundation = ref_of(piece.foundation.model, None)
        layers: dict[str, tuple[int, int]] = {}
        for entry in (piece.foundation, *piece.entries):
            assert entry.layers is not None
            ref = ref_of(entry.model, entry.lora)
            if layers.setdefault(ref, entry.layers) != entry.layers:
                raise RecipeError(
                    _("`slices[%(number)d]` has %(model)s twice, with different layers."),
                    number=number,
                    model=entry.lora or entry.model,
                )
        parts.append(Part(foundation, terms_of(piece.entries, ref_of), piece.parameters, layers))
    return make_stack(
        parts,
        method=document.method,
        out_dtype=document.out_dtype,
        rules=rules_of(document, ref_of, rule_ref),
        seed=document.seed,
    )


def make_stack(
    parts: Sequence[Part],
    *,
    method: str,
    out_dtype: str | None = None,
    rules: Sequence[Any] = (),
    seed: int = 0,
) -> Recipe:
    """Check and canonicalise a recipe of slices. Raises RecipeError naming what is wrong."""
    declared = get_method(method)
    if not parts or len(parts) > MAX_SLICES:
        raise RecipeError(_("The key `slices` lists from 1 to %(limit)d slices."), limit=MAX_SLICES)
    slices = []
    for number, part in enumerate(parts):
        recipe = make_recipe(
            foundation=part.foundation,
            target=part.foundation,
            terms=part.terms,
            method=method,
            parameters=part.parameters,
            out_dtype=out_dtype,
            seed=seed,
        )
        kept = [part.foundation, *(term.ref for term in recipe.terms)]
        layers = {ref: part.layers[ref] for ref in dict.fromkeys(kept)}
        _check_lengths(layers, number)
        slices.append(Slice(recipe, layers))
    checked = read_rules(rules)
    for rule in checked:
        if rule.action not in RULES:
            raise RecipeError(
                _("The rule `%(rule)s` cannot be used with slices. Possible are %(known)s."),
                rule=rule.text,
                known=", ".join(RULES),
            )
    if type(seed) is not int or not 0 <= seed < MAX_SEED:
        raise RecipeError(_("`seed` is a whole number from 0 to %(limit)d."), limit=MAX_SEED - 1)
    return Recipe(
        foundation=parts[0].foundation,
        target=parts[0].foundation,
        terms=(),
        method=method,
        out_dtype=out_dtype,
        rules=checked,
        seed=seed if declared.random else 0,
        slices=tuple(slices),
    )


def _check_lengths(layers: Mapping[str, tuple[int, int]], number: int) -> None:
    (first, (start, stop)), *others = layers.items()
    for ref, (low, high) in others:
        if high - low != stop - start:
            raise RecipeError(
                _(
                    "`slices[%(number)d]` takes %(count)d layers of %(first)s and %(other_count)d "
                    "of %(other)s: a slice merges layer by layer, so the numbers must be equal."
                ),
                number=number,
                count=stop - start,
                first=first,
                other_count=high - low,
                other=ref,
            )


def stack_from_data(data: Mapping[str, Any]) -> Recipe:
    """The inverse of `Recipe.canonical` for recipes of slices. Raises RecipeError, KeyError."""
    return make_stack(
        [
            Part(
                part["foundation"],
                [
                    (term["vector"], term["coefficient"], term.get("parameters") or {})
                    for term in part["terms"]
                ],
                part.get("parameters") or {},
                {
                    ref: _range(pair, f"slices[{number}].layers")
                    for ref, pair in part["layers"].items()
                },
            )
            for number, part in enumerate(data["slices"])
        ],
        method=data["method"],
        out_dtype=data.get("out_dtype"),
        rules=data.get("rules") or (),
        seed=data.get("seed", 0),
    )


def unsliced(recipe: Recipe, count_of: Callable[[str], int]) -> Recipe:
    """``recipe``, or the same recipe on whole models where its one slice is all their layers."""
    if len(recipe.slices) != 1:
        return recipe
    (only,) = recipe.slices
    if any(layers != (0, count_of(ref)) for ref, layers in only.layers.items()):
        return recipe
    return replace(only.recipe, rules=recipe.rules)


def rules_for(recipe: Recipe, names: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of ``recipe`` that speak of any of the tensors ``names``."""
    return tuple(rule for rule in recipe.rules if any(map(rule.matches, names)))


def slices_data(
    recipe: Recipe, name_of: NameOf, form_of: Callable[[str], str]
) -> list[dict[str, Any]]:
    """The slices as mergekit's YAML has them."""
    method = get_method(recipe.method)
    found = []
    for part in recipe.slices:
        foundation = name_of(part.recipe.foundation)
        data: dict[str, Any] = {"sources": []}
        if not base_is_input(method):
            if part.recipe.foundation != recipe.foundation:
                data["base_model"] = foundation
            data["sources"].append(_source({"model": foundation}, part, part.recipe.foundation))
        for term in part.recipe.terms:
            written = model_data(term, method, foundation, name_of, form_of)
            data["sources"].append(_source(written, part, term.ref))
        if part.recipe.parameters:
            data["parameters"] = plain(part.recipe.parameters)
        found.append(data)
    return found


def _source(data: dict[str, Any], part: Slice, ref: str) -> dict[str, Any]:
    return {"model": data.pop("model"), "layer_range": list(part.layers[ref]), **data}
