"""Recipes in mergekit's YAML: read for the command, written into every equipped repository.

Supported is what one target, weighted models and a declared method can say. Any other key is an
error that names it: a key that is silently ignored is a wrong model with exit code 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

from .errors import RecipeError, _
from .methods import get_method
from .recipe import Recipe, coefficient_text, parse_coefficient

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
}
_TOP = {
    "merge_method",
    "base_model",
    "models",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "name",
    "armory",
}
_LATER = {"slices", "modules", "chat_template"}
_HOUSE = {"target", "dtype"}
# What PyYAML's constructors let through on values such as 2001-99-99 or ``!!int x``.
_YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys: the last one would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _value in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise RecipeError(_("The key `%(key)s` appears twice."), key=twice[:80])
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Entry:
    """One model of the YAML: its reference, the adapter put on it (or None), its weight."""

    model: str
    lora: str | None
    weight: Decimal


@dataclass(frozen=True)
class Document:
    """A YAML recipe as read: references are still the text of the file."""

    method: str
    foundation: str
    target: str
    entries: tuple[Entry, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    out_dtype: str | None = None


def read_yaml(text: str) -> Document:
    """Read a recipe in mergekit's YAML. Raises RecipeError naming a key not understood."""
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 (a safe loader)
    except RecipeError:
        raise
    except _YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        raise RecipeError(
            _("This is not YAML (line %(line)d)."), line=mark.line + 1 if mark else 1
        ) from None
    if not isinstance(data, dict):
        raise RecipeError(_("A recipe is a mapping of keys, such as merge_method and models."))
    for key in data:
        if key in _LATER:
            raise RecipeError(_("The key `%(key)s` is not supported here."), key=str(key))
        if key not in _TOP:
            raise RecipeError(
                _("Unknown key `%(key)s`. Known keys: %(known)s."),
                key=str(key),
                known=", ".join(sorted(_TOP)),
            )
    name = data.get("merge_method")
    if not isinstance(name, str):
        raise RecipeError(_("The key `merge_method` is missing."))
    method = get_method(name)
    base = _base(data)
    if base is None and method.operates_on == "deltas":
        raise RecipeError(
            _("The method %(method)s needs `base_model`: the foundation of the models."),
            method=name,
        )
    entries = _entries(data.get("models"), base, method.operates_on)
    target = base or entries[0].model
    house = _house(data)
    if "target" in house:
        target = house["target"]
        if method.operates_on == "deltas":
            entries = _without_target(entries, target)
    _check_tokenizer(data, base, target)
    return Document(
        method=name,
        foundation=base or entries[0].model,
        target=target,
        entries=tuple(entries),
        parameters=_parameters(data.get("parameters") or {}, "parameters"),
        out_dtype=None if "dtype" in house else _out_dtype(data),
    )


def write_yaml(
    recipe: Recipe,
    *,
    name_of: Callable[[str], str],
    form_of: Callable[[str], str],
    out_dtype: str,
) -> str:
    """``recipe`` in mergekit's syntax; ``name_of`` gives repository ids, ``form_of`` forms.

    A target other than the foundation is written as a model of weight 1, which is the same sum;
    the ``armory`` key, which mergekit skips, says so exactly. ``out_dtype`` is the nearest that
    mergekit can say where every tensor keeps the target's dtype.
    """
    foundation = name_of(recipe.foundation)
    models: list[dict[str, Any]] = []
    data: dict[str, Any] = {"merge_method": recipe.method, "base_model": foundation}
    house: dict[str, str] = {}
    if recipe.target != recipe.foundation:
        house["target"] = name_of(recipe.target)
        if get_method(recipe.method).operates_on == "deltas":
            models.append({"model": house["target"], "parameters": {"weight": 1.0}})
    for term in recipe.terms:
        model = name_of(term.ref)
        if form_of(term.ref) == "lora":
            model = f"{foundation}+{model}"
        weight = float(coefficient_text(term.coefficient))
        models.append({"model": model, "parameters": {"weight": weight}})
    data["models"] = models
    if recipe.parameters:
        data["parameters"] = dict(recipe.parameters)
    data["dtype"] = "float32"
    names = {code: name for name, code in DTYPES.items()}
    if (recipe.out_dtype or out_dtype) in names:
        data["out_dtype"] = names[recipe.out_dtype or out_dtype]
    if recipe.out_dtype is None:
        house["dtype"] = "target"
    if house:
        data["armory"] = house
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _reference(value: Any, key: str) -> tuple[str, str | None]:
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(_("`%(key)s` must be the name or folder of a model."), key=key)
    model, plus, lora = value.strip().partition("+")
    if plus and not lora:
        raise RecipeError(_("`%(text)s`: the name of the adapter after + is missing."), text=value)
    return model, lora or None


def _base(data: Mapping[str, Any]) -> str | None:
    if data.get("base_model") is None:
        return None
    base, lora = _reference(data["base_model"], "base_model")
    if lora is not None:
        raise RecipeError(
            _("`base_model: %(text)s` has an adapter: the foundation is a plain checkpoint."),
            text=str(data["base_model"])[:200],
        )
    return base


def _house(data: Mapping[str, Any]) -> dict[str, str]:
    """The ``armory`` key: ``target``, a name; ``dtype: target`` if every tensor keeps its own."""
    house = data.get("armory")
    if house is None:
        return {}
    if not isinstance(house, dict):
        raise RecipeError(_("The key `armory` must be a mapping."))
    for key in house:
        if key not in _HOUSE:
            raise RecipeError(_("Unknown key `armory: %(key)s`."), key=str(key)[:80])
    if "target" in house and (not isinstance(house["target"], str) or not house["target"]):
        raise RecipeError(_("`%(key)s` must be the name or folder of a model."), key="target")
    if house.get("dtype", "target") != "target":
        raise RecipeError(_("`armory: dtype` can only be `target`."))
    return house


def _entries(models: Any, base: str | None, operates_on: str) -> list[Entry]:
    if not isinstance(models, list) or not models:
        raise RecipeError(_("The key `models` must list at least one model."))
    entries = []
    for item in models:
        if not isinstance(item, dict) or "model" not in item:
            raise RecipeError(_("Each entry of `models` needs the key `model`."))
        for key in item:
            if key not in ("model", "parameters"):
                raise RecipeError(_("Unknown key `%(key)s` in an entry of `models`."), key=str(key))
        model, lora = _reference(item["model"], "model")
        parameters = _parameters(item.get("parameters") or {}, str(item["model"]))
        unknown = set(parameters) - {"weight"}
        if unknown:
            raise RecipeError(
                _("`%(key)s` is not a parameter of %(model)s in this method."),
                key=sorted(unknown)[0],
                model=str(item["model"]),
            )
        if model == base and lora is None and operates_on == "deltas":
            continue  # mergekit's examples list the base as a reminder; its vector is zero
        if "weight" not in parameters:
            raise RecipeError(_("%(model)s has no `weight`."), model=str(item["model"]))
        entries.append(Entry(model, lora, parse_coefficient(parameters["weight"])))
    if not entries:
        raise RecipeError(_("The key `models` lists no model besides the base."))
    return entries


def _parameters(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(_("The parameters of %(where)s must be a mapping."), where=where)
    for key, item in value.items():
        if isinstance(item, list | dict):
            raise RecipeError(
                _("`%(key)s` of %(where)s is a list; only single values are supported."),
                key=str(key),
                where=where,
            )
    return {str(key): item for key, item in value.items()}


def _without_target(entries: Sequence[Entry], target: str) -> list[Entry]:
    for index, entry in enumerate(entries):
        if entry.model == target and entry.lora is None and entry.weight == 1:
            return [*entries[:index], *entries[index + 1 :]]
    raise RecipeError(
        _("`armory: target` names %(target)s, which is not among the models with weight 1."),
        target=target,
    )


def _check_tokenizer(data: Mapping[str, Any], base: str | None, target: str) -> None:
    tokenizer = data.get("tokenizer")
    if tokenizer is not None and not isinstance(tokenizer, dict):
        raise RecipeError(_("The key `%(key)s` must be a mapping."), key="tokenizer")
    for key in tokenizer or {}:
        if key != "source":
            raise RecipeError(
                _("The key `tokenizer: %(key)s` is not supported here."), key=str(key)[:80]
            )
    for source in (data.get("tokenizer_source"), (tokenizer or {}).get("source")):
        if source not in (None, "base", base, target):
            raise RecipeError(
                _(
                    "`tokenizer_source: %(source)s` is not supported: the tokenizer comes from the "
                    "target (`base`)."
                ),
                source=_scalar(source),
            )


def _out_dtype(data: Mapping[str, Any]) -> str | None:
    for key in ("dtype", "out_dtype"):
        value = data.get(key)
        if value is not None and (not isinstance(value, str) or value not in DTYPES):
            raise RecipeError(
                _("`%(key)s: %(value)s` is not known. Known: %(known)s."),
                key=key,
                value=_scalar(value),
                known=", ".join(DTYPES),
            )
    chosen = data.get("out_dtype") or data.get("dtype")
    return DTYPES[chosen] if chosen else None


def _scalar(value: Any) -> str:
    # Never str() of a list: a few aliases of aliases spell gigabytes.
    return str(value)[:80] if isinstance(value, str | int | float) else type(value).__name__
