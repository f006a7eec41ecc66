"""Recipes in mergekit's YAML, read.

Supported is what one foundation, weighted models and a declared method can say, by whole models or
by slices of their layers. Any other key is an error that names it: a key that is silently ignored
is a wrong model with exit code 0. What mergekit cannot say stands under ``armory``, which it
skips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from .document import Document, Entry, Files
from .dtype_names import DTYPES
from .errors import RecipeError, _
from .methods import Method, get_method
from .recipe import MAX_SEED
from .rules import Rule, read_rules
from .scopes import Scope, own_parameters, parameters_of, read_scope, weight_of

_TOP = {
    "merge_method",
    "base_model",
    "models",
    "slices",
    "modules",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
    "armory",
}
_HOUSE = {
    "foundation", "target", "configuration_from", "chat_template_from", "dtype", "rules", "seed",
}  # fmt: skip
_INPUTS = ("models", "slices")


@dataclass(frozen=True)
class House:
    """The ``armory`` key: what mergekit has no word for."""

    foundation: str | None = None
    target: str | None = None
    keep_dtype: bool = False
    rules: tuple[Rule, ...] = ()
    seed: int = 0
    configuration_from: str | None = None
    chat_template_from: str | None = None


def read_yaml(text: str) -> Document:
    """Read a recipe in mergekit's YAML. Raises RecipeError naming a key not understood."""
    from .yaml_text import load_mapping  # the YAML library loads only where YAML is read

    return read_data(load_mapping(text))


def read_data(data: Mapping[str, Any]) -> Document:
    """``read_yaml`` of a file's data."""
    _only(data, _TOP, "")
    name = data.get("merge_method")
    if not isinstance(name, str):
        raise RecipeError(_("The key `merge_method` is missing."))
    base = read_base(data, "base_model")
    method = get_method(name)
    if base is None and method.without_base is not None:
        method = get_method(method.without_base)
    inputs, module = _inputs(data)
    outer = [read_scope(data.get("parameters"), "parameters", method, "recipe")]
    if module is not None:
        outer.insert(0, read_scope(module[1], f"{module[0]}.parameters", method, "recipe"))
    house = _house(data.get("armory"))
    out_dtype = None if house.keep_dtype else _out_dtype(data)
    files = _files(data, house)
    if inputs.get("slices") is not None:
        from .slices import read_slices

        if house.target or house.foundation:
            raise RecipeError(_("`armory.target` and `armory.foundation` do not go with slices."))
        rest = Document(
            method.name, "", "", (), {}, out_dtype, house.rules, house.seed, files=files
        )
        return read_slices(inputs["slices"], method, base, outer, rest)
    if base is None and not base_is_input(method):
        raise RecipeError(
            _("The method %(method)s needs `base_model`: the model that the others belong to."),
            method=name,
        )
    entries = _entries(inputs.get("models"), base, method, outer)
    parameters = parameters_of(outer, method)
    foundation = house.foundation or base or entries[0].model
    target = house.target or foundation
    if target != foundation and plain_sum(method, parameters):
        entries = _without_target(entries, target)
    return Document(
        method=method.name,
        foundation=foundation,
        target=target,
        entries=tuple(entries),
        parameters=parameters,
        out_dtype=out_dtype,
        rules=house.rules,
        seed=house.seed,
        files=files,
    )


def base_is_input(method: Method) -> bool:
    """Whether ``base_model`` is one of the models that ``method`` merges, like any other.

    It is not where terms are vectors, nor where one other model is put on it.
    """
    own = method.weighted or any(parameter.scope == "term" for parameter in method.parameters)
    return method.operates_on == "models" and (own or method.maximum_terms != 1)


def plain_sum(method: Method, parameters: Mapping[str, Any]) -> bool:
    """Whether a model of weight 1 adds its vector and changes nothing else.

    Then another target than the foundation is one more model of the sum, for mergekit too.
    """
    if method.operates_on != "deltas" or method.linear_weights is None or parameters:
        return False
    defaults = {parameter.name: parameter.default for parameter in method.parameters}
    weights = [Fraction(1), Fraction(2)]
    return method.linear_weights(weights, defaults) == weights


def _only(data: Mapping[Any, Any], known: set[str], place: str) -> None:
    for key in data:
        if key not in known:
            raise RecipeError(
                _("Unknown key `%(key)s`. Known keys: %(known)s."),
                key=f"{place}{'.' if place else ''}{str(key)[:80]}",
                known=", ".join(sorted(known)),
            )


def _inputs(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, Any] | None]:
    """What holds ``models`` or ``slices``, and place and parameters of a module around them."""
    given = [key for key in (*_INPUTS, "modules") if data.get(key) is not None]
    if len(given) > 1:
        raise RecipeError(
            _("The recipe has both `%(first)s` and `%(second)s`: use one of them."),
            first=given[0],
            second=given[1],
        )
    if given != ["modules"]:
        return data, None
    modules = data["modules"]
    if not isinstance(modules, dict) or not modules:
        raise RecipeError(_("The key `%(key)s` must be a mapping."), key="modules")
    for name, module in modules.items():
        place = f"modules.{str(name)[:80]}"
        if not isinstance(module, dict):
            raise RecipeError(_("The key `%(key)s` must be a mapping."), key=place)
        _only(module, {*_INPUTS, "parameters"}, place)
        if len([key for key in _INPUTS if module.get(key)]) != 1:
            raise RecipeError(_("`%(place)s` needs either `models` or `slices`."), place=place)
    (first, module), *others = modules.items()
    for name, other in others:
        if other != module or "slices" in module:
            raise RecipeError(
                _(
                    "`modules.%(first)s` and `modules.%(second)s` differ: here all modules of a "
                    "model are merged alike. Write `models` once, and say what differs by filters "
                    "(a part of the tensors' names) or in `armory: rules:`."
                ),
                first=str(first)[:80],
                second=str(name)[:80],
            )
    return module, (f"modules.{first}", module.get("parameters"))


def read_reference(value: Any, key: str) -> tuple[str, str | None]:
    """Model and adapter of ``model+adapter``. Raises RecipeError naming ``key``."""
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(_("`%(key)s` must be the name or folder of a model."), key=key)
    model, plus, lora = value.strip().partition("+")
    if plus and not lora:
        raise RecipeError(_("`%(text)s`: the name of the adapter after + is missing."), text=value)
    return model, lora or None


def read_base(data: Mapping[str, Any], key: str) -> str | None:
    """The plain model that ``base_model`` of ``data`` names; ``key`` names the place."""
    raw = data.get("base_model")
    if raw is None:
        return None
    base, lora = read_reference(raw, key)
    if lora is not None:
        raise RecipeError(
            _("`%(key)s: %(text)s` has an adapter: the foundation is a plain checkpoint."),
            key=key,
            text=str(raw)[:200],
        )
    return base


def _house(house: Any) -> House:
    if house is None:
        return House()
    if not isinstance(house, dict):
        raise RecipeError(_("The key `armory` must be a mapping."))
    names = ("foundation", "target", "configuration_from", "chat_template_from")
    _only(house, _HOUSE, "armory")
    found: dict[str, Any] = {}
    for name in names:
        if name in house:
            found[name], lora = read_reference(house[name], f"armory.{name}")
            if lora is not None:
                raise RecipeError(
                    _("`%(key)s` must be the name or folder of a model."), key=f"armory.{name}"
                )
    if house.get("dtype", "target") != "target":
        raise RecipeError(_("`armory.dtype` can only be `target`."))
    seed = house.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < MAX_SEED:
        raise RecipeError(_("`seed` is a whole number from 0 to %(limit)d."), limit=MAX_SEED - 1)
    rules = read_rules(house.get("rules", []))
    return House(**found, keep_dtype="dtype" in house, rules=rules, seed=seed)


def _entries(models: Any, base: str | None, method: Method, outer: Sequence[Scope]) -> list[Entry]:
    if not isinstance(models, list) or not models:
        raise RecipeError(_("The key `models` must list at least one model."))
    entries = []
    listed = False
    for index, item in enumerate(models):
        entry, scope = read_entry(item, f"models[{index}]", method)
        if entry.model == base and entry.lora is None:
            listed = True
            if not base_is_input(method):
                continue  # mergekit's examples list the base as a reminder; its vector is zero
        entries.append(weighted(entry, [scope, *outer], method))
    if base is not None and not listed and base_is_input(method):
        entries.append(weighted(Entry(base), [Scope("base_model", {}), *outer], method))
    if not entries:
        raise RecipeError(_("The key `models` lists no model besides the base."))
    return entries


def read_entry(
    item: Any, place: str, method: Method, more: Sequence[str] = ()
) -> tuple[Entry, Scope]:
    """One model of a list, without its weight, and its own parameters."""
    if not isinstance(item, dict) or "model" not in item:
        raise RecipeError(_("`%(place)s` needs the key `model`."), place=place)
    _only(item, {"model", "parameters", *more}, place)
    model, lora = read_reference(item["model"], f"{place}.model")
    return Entry(model, lora), read_scope(
        item.get("parameters"), f"{place}.parameters", method, "term"
    )


def weighted(entry: Entry, scopes: Sequence[Scope], method: Method) -> Entry:
    """``entry`` with its weight and parameters out of ``scopes``, innermost first."""
    parameters = own_parameters(scopes, method)
    if not method.weighted:
        return replace(entry, parameters=parameters)
    label = f"{entry.model}+{entry.lora}" if entry.lora else entry.model
    weight, schedule = weight_of(scopes, label)
    return replace(entry, weight=weight, parameters={**parameters, **schedule})


def _without_target(entries: Sequence[Entry], target: str) -> list[Entry]:
    for index, entry in enumerate(entries):
        if entry == Entry(target):
            return [*entries[:index], *entries[index + 1 :]]
    raise RecipeError(
        _("`armory: target` names %(target)s, which is not among the models with weight 1."),
        target=target,
    )


def _files(data: Mapping[str, Any], house: House) -> Files:
    tokenizer = data.get("tokenizer")
    if tokenizer is not None and not isinstance(tokenizer, dict):
        raise RecipeError(_("The key `%(key)s` must be a mapping."), key="tokenizer")
    tokenizer = tokenizer or {}
    _only(tokenizer, {"source", "tokens", "pad_to_multiple_of"}, "tokenizer")
    if tokenizer.get("tokens"):
        raise RecipeError(
            _(
                "`tokenizer.tokens` is not supported here. Say it by a rule, such as "
                '`take *embed_tokens* from MODEL rows {"<|im_end|>": "<|im_end|>"}` in '
                "`armory: rules:`."
            )
        )
    if data.get("tokenizer_source") is not None and tokenizer:
        raise RecipeError(
            _("The recipe has both `%(first)s` and `%(second)s`: use one of them."),
            first="tokenizer_source",
            second="tokenizer",
        )
    # mergekit's `tokenizer` without a source means the union of all.
    source = tokenizer.get("source", "union") if tokenizer else data.get("tokenizer_source")
    if source is not None and (not isinstance(source, str) or not source.strip()):
        raise RecipeError(
            _("`%(key)s` must be `base`, `union` or a model of the recipe."),
            key="tokenizer_source",
        )
    pad = tokenizer.get("pad_to_multiple_of")
    if pad is not None and (type(pad) is not int or not 1 <= pad <= 65536):
        raise RecipeError(
            _("`%(key)s` is a whole number from 1 to 65536."), key="tokenizer.pad_to_multiple_of"
        )
    template = _chat_template(data)
    if template is not None and house.chat_template_from is not None:
        raise RecipeError(
            _("The recipe has both `%(first)s` and `%(second)s`: use one of them."),
            first="chat_template",
            second="armory.chat_template_from",
        )
    return Files(source, pad, template, house.configuration_from, house.chat_template_from)


def _chat_template(data: Mapping[str, Any]) -> str | None:
    template = data.get("chat_template")
    if template is None:
        return None
    if not isinstance(template, str) or len(template) > 100_000:
        raise RecipeError(_("`chat_template` must be a template in Jinja."))
    if "{" not in template:
        raise RecipeError(
            _(
                "`chat_template: %(name)s` is not supported: the template comes with the tokenizer "
                "(`tokenizer_source`), or is written here in Jinja."
            ),
            name=template[:80],
        )
    return template


def _out_dtype(data: Mapping[str, Any]) -> str | None:
    for key in ("dtype", "out_dtype"):
        value = data.get(key)
        known = [name for name in DTYPES if key == "out_dtype" or not name.startswith("float8")]
        if value is not None and (not isinstance(value, str) or value not in known):
            raise RecipeError(
                _("`%(key)s: %(value)s` is not known. Known: %(known)s."),
                key=key,
                value=_scalar(value),
                known=", ".join(known),
            )
    chosen = data.get("out_dtype") or data.get("dtype")
    return DTYPES[chosen] if chosen else None


def _scalar(value: Any) -> str:
    # Never str() of a list: a few aliases of aliases spell gigabytes.
    return str(value)[:80] if isinstance(value, str | int | float) else type(value).__name__
