"""Settings: a parameter's value for every tensor, as mergekit's YAML writes it.

A setting is one value, a gradient (a list, interpolated over the layers of the model), or a list
of ``{filter, value}`` of which the first whose filter is part of the tensor's name counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from .errors import RecipeError, _

Value = float | bool
MAX_POINTS = 256  # values of a gradient, entries of a list of filters
_FIRST_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")


def read_setting(
    raw: Any, check: Callable[[Any], Value], name: str, default: Value | None = None
) -> Any:
    """``raw`` as plain data whose values passed ``check``. Raises RecipeError naming ``name``.

    A gradient of equal values and a lone ``{value}`` are the value itself, so that equal settings
    are equal data. ``default`` is what tensors get that match no filter.
    """
    if isinstance(raw, dict):
        raw = [raw]
    if not isinstance(raw, list | tuple):
        return check(raw)
    if not 0 < len(raw) <= MAX_POINTS:
        raise RecipeError(
            _("`%(name)s` is a list of %(count)d values: use 1 to %(limit)d."),
            name=name,
            count=len(raw),
            limit=MAX_POINTS,
        )
    if not any(isinstance(item, dict) for item in raw):
        values = [check(item) for item in raw]
        return values[0] if all(value == values[0] for value in values) else values
    conditions = [_condition(item, check, name) for item in raw]
    if "filter" in conditions[-1] and default is not None:
        conditions.append({"value": default})
    if "filter" in conditions[-1]:
        raise RecipeError(
            _(
                "`%(name)s` says nothing about tensors that match no filter: end the list with a "
                "`value` without a filter."
            ),
            name=name,
        )
    open_end = next(at for at, item in enumerate(conditions) if "filter" not in item)
    if open_end < len(conditions) - 1:
        raise RecipeError(
            _("`%(name)s`: nothing after the `value` without a filter can ever count."), name=name
        )
    return conditions[0]["value"] if len(conditions) == 1 else conditions


def _condition(item: Any, check: Callable[[Any], Value], name: str) -> dict[str, Any]:
    if not isinstance(item, dict) or "value" not in item or set(item) - {"filter", "value"}:
        raise RecipeError(
            _("Each entry of `%(name)s` has a `value` and, all but the last, a `filter`."),
            name=name,
        )
    value = item["value"]
    if isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(each, dict) for each in value)
    ):
        raise RecipeError(_("`%(name)s` has filters inside filters."), name=name)
    pattern = item.get("filter")
    if pattern in (None, "*"):
        return {"value": read_setting(value, check, name)}
    if not isinstance(pattern, str) or not pattern or len(pattern) > 200:
        raise RecipeError(
            _("A `filter` of `%(name)s` is a part of a tensor's name, such as mlp."), name=name
        )
    return {"filter": pattern, "value": read_setting(value, check, name)}


def is_constant(setting: Any) -> bool:
    """Whether the setting is the same for every tensor."""
    return not isinstance(setting, list)


def scaled(setting: Any, factor: float) -> Any:
    """The setting with every number multiplied by ``factor``."""
    if isinstance(setting, dict):
        return {**setting, "value": scaled(setting["value"], factor)}
    if isinstance(setting, list):
        return [scaled(item, factor) for item in setting]
    return setting * factor


def filters(setting: Any) -> list[str]:
    """The filters a setting asks for."""
    return [item["filter"] for item in setting if "filter" in item] if _conditional(setting) else []


def evaluate(setting: Any, tensor: str, position: float) -> Any:
    """The value for ``tensor`` at ``position`` (0: first layer, 1: last layer)."""
    if _conditional(setting):
        chosen = next(item for item in setting if item.get("filter", "") in tensor)
        return evaluate(chosen["value"], tensor, position)
    if not isinstance(setting, list):
        return setting
    scaled = position * (len(setting) - 1)
    low = int(scaled)
    if isinstance(setting[0], bool):
        return setting[low]
    high = min(len(setting) - 1, low + 1)
    share = scaled - low
    return (1 - share) * setting[low] + share * setting[high]


def _conditional(setting: Any) -> bool:
    return isinstance(setting, list) and isinstance(setting[0], dict)


def positions(names: Iterable[str]) -> dict[str, float]:
    """Where each tensor stands among the layers of its own stack: 0 first, 1 last.

    The stack is what comes before the first number of the name, so encoder and decoder have
    their own. Tensors outside any stack (embeddings, heads) are at 0, as in mergekit.
    """
    found: dict[str, tuple[str, int]] = {}
    last: dict[str, int] = {}
    for name in names:
        place = stack_of(name)
        if place is not None:
            found[name] = place
            last[place[0]] = max(last.get(place[0], 0), place[1])
    return {
        name: (layer / last[stack] if last[stack] else 1.0)
        for name, (stack, layer) in found.items()
    }


def stack_of(name: str) -> tuple[str, int] | None:
    """The stack of layers a tensor is in (what stands before its first number), and its layer."""
    number = _FIRST_NUMBER.search(name)
    return (name[: number.start(1)], int(number[1])) if number else None
